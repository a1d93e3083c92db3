"""The source files in; a refusal of imports against the arrow of the design, and of files that say nothing, out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bpmt_ext"
FILES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))
OTHERS = [Path("fastposegait/main.py"), Path("setup.py")]
for top in ("tests", "tools", "datasets"):
    OTHERS += [path.relative_to(ROOT) for path in sorted((ROOT / top).rglob("*.py"))]
HOST_MODULES = {"modeling", "data", "utils", "evaluation"}


def imports(source: str, file: Path) -> set[str]:
    """Dotted names a file imports, anywhere in it; relative ones as absolute, `from a import b` as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = file.with_suffix("").parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def refused(name: str, file: Path) -> bool:
    """Whether the design forbids this file this import."""
    inside, top = file.parts[0] == "bpmt_ext", name.partition(".")[0]
    folder = file.parts[1] if inside else ""
    if folder == "nets":
        # the standard library is no dependency; a net's own package name is what `from bpmt_ext import x` names
        allowed = ("torch", "bpmt_ext.nets", "bpmt_ext.skeletons", "bpmt_ext.draws", "bpmt_ext.exporting",
                   *sys.stdlib_module_names)
        allowed += ("kornia",) if file.name == "landmarkgait.py" else ()
        if name != "bpmt_ext" and not under(name, *allowed):
            return True
    if folder in ("data", "metrics") and under(name, "bpmt_ext.nets", "bpmt_ext.engine", "bpmt_ext.hosts"):
        return True
    if under(name, "bpmt_ext.hosts") and folder not in ("hosts", "cli.py") and file.parts[0] not in (
        "fastposegait",
        "tests",
    ):
        return True
    return top in HOST_MODULES and folder != "hosts" and file.parts[0] not in ("tests",)


@pytest.mark.parametrize(
    ("file", "line", "forbidden"),
    [
        ("bpmt_ext/nets/a.py", "import numpy", True),
        ("bpmt_ext/nets/a.py", "from bpmt_ext.errors import UserError", True),
        ("bpmt_ext/nets/a.py", "from bpmt_ext import losses", True),
        ("bpmt_ext/nets/a.py", "from ..data import batches", True),
        ("bpmt_ext/nets/a.py", "import kornia", True),
        ("bpmt_ext/nets/landmarkgait.py", "import kornia.geometry", False),
        ("bpmt_ext/nets/a.py", "import math, torch.nn as nn", False),
        ("bpmt_ext/nets/a.py", "from bpmt_ext.draws import Draws", False),
        ("bpmt_ext/nets/a.py", "from .layers import B", False),
        ("bpmt_ext/data/a.py", "from bpmt_ext import nets", True),
        ("bpmt_ext/data/a.py", "def f():\n    import bpmt_ext.engine.loop", True),
        ("bpmt_ext/data/a.py", "from bpmt_ext.errors import UserError", False),
        ("bpmt_ext/metrics/a.py", "from bpmt_ext.hosts import opengait", True),
        ("bpmt_ext/engine/a.py", "from bpmt_ext.hosts import opengait", True),
        ("bpmt_ext/engine/a.py", "x = importlib.import_module('bpmt_ext.hosts')", True),
        ("bpmt_ext/cli.py", "from bpmt_ext.hosts import opengait", False),
        ("bpmt_ext/engine/a.py", "from data.transform import Compose", True),
        ("bpmt_ext/hosts/a.py", "from modeling.base_model import BaseModel", False),
    ],
)
def test_the_rule_itself(file: str, line: str, forbidden: bool) -> None:
    path = Path(file)
    assert any(refused(name, path) for name in imports(line, path)) == forbidden


@pytest.mark.parametrize("file", [*FILES, *OTHERS], ids=str)
def test_a_file_imports_what_it_may_and_says_what_it_is(file: Path) -> None:
    source = (ROOT / file).read_text("utf-8")
    assert sorted(name for name in imports(source, file) if refused(name, file)) == []
    assert (ast.get_docstring(ast.parse(source)) or "").strip(), "a file begins with what goes in and what comes out"


def test_every_package_folder_is_a_package() -> None:
    folders = {path.parent for path in FILES}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def test_importing_the_package_is_light() -> None:
    code = "import sys, bpmt_ext, bpmt_ext.skeletons; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_version_is_written_once() -> None:
    import bpmt_ext

    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == bpmt_ext.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", bpmt_ext.__version__)
