"""The source, setup.py and constraints.txt in: nothing is imported that is not declared, nothing declared in vain."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "tools/make_dependencies.py"))
MODULES = {"pyyaml": "yaml", "pillow": "PIL", "pytorch-metric-learning": "pytorch_metric_learning"}


def imported() -> set[str]:
    """What the package and the converters import from outside, by any statement: modules and the names they begin with.
    """
    found: set[str] = set()
    for path in [*(ROOT / "bpmt_ext").rglob("*.py"), *(ROOT / "datasets").glob("*.py")]:
        if path.parent.name == "hosts":  # these import a host's modules, inside it
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
    found |= {name.partition(".")[0] for name in found}
    own = {*sys.stdlib_module_names, "bpmt_ext"}
    return {name for name in found if name.partition(".")[0] not in own}


def test_the_core_is_what_is_imported() -> None:
    asked, names = TOOL["declared"](), imported()
    core = {MODULES.get(name, name) for name in asked["core"]}
    assert core <= names, f"declared, never imported: {core - names}"
    extras = {MODULES.get(name, name) for extra in asked.values() for name in extra}
    outside = {name for name in names if "." not in name} - core - extras
    assert not outside, f"imported, not declared: {outside}"


def test_every_dependency_is_pinned_and_its_licence_told() -> None:
    asked, versions = TOOL["declared"](), TOOL["pinned"]()
    wanted = {name for extra, names in asked.items() for name in names if extra in ("core", "test", "export")}
    assert wanted <= versions.keys(), wanted - versions.keys()
    page = (ROOT / "docs/dependencies.md").read_text("utf-8")
    for name in asked["core"]:
        assert f"| {name} | {versions[name]} | {TOOL['licence'](name)} |" in page
    assert page == TOOL["table"](), "run python tools/make_dependencies.py"
    for name, licence in TOOL["UNPINNED"].items():
        assert f"{name}, {licence}" in page
