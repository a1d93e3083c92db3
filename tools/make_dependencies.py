"""constraints.txt and setup.py in; docs/dependencies.md, every dependency with version, licence and purpose, out.

    python tools/make_dependencies.py            # after `make test` has installed what constraints.txt names
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs/dependencies.md"
# what the core is needed for; the rest comes with these or belongs to an extra
WHY = {
    "torch": "networks, training", "numpy": "arrays", "pydantic": "checking settings", "pyyaml": "reading configs",
    "tqdm": "progress", "tensorboard": "curves of a training", "matplotlib": "pictures", "pillow": "PNG and GIF",
    "pytorch-metric-learning": "losses of embeddings", "kornia": "warping pictures",
    "safetensors": "weights and galleries without code",
}  # fmt: skip
UNPINNED = {"faiss-cpu": "MIT", "rtmlib": "Apache-2.0"}  # of the extras gallery and video, installed on request alone
START = """# Dependencies

Written by `python tools/make_dependencies.py` from `constraints.txt`, `setup.py` and the packages' own metadata; a test
keeps it in step. Versions are those the tests run with; the licence is what a package says of itself.

| package | version | licence | needed for |
|---|---|---|---|
"""
END = """
The extras `gallery` (faiss-cpu, MIT) and `video` (rtmlib, Apache-2.0, which brings opencv-python, Apache-2.0) are not
pinned and not needed by anything else.

**Minimal**: `import bpmt_ext` and `bpmt --help` need the standard library alone. Each package of the core is used,
and nothing else from outside is imported; both are tested.

**Pinned**: `pip install -c constraints.txt -e .` takes the versions above. pip checks hashes only if every requirement
has one, which an editable checkout and a torch build of one's own choice cannot have; for a closed installation a lock
with hashes is made, for the platform at hand, by `pip-compile --generate-hashes -c constraints.txt setup.py` and
installed by `pip install --require-hashes -r requirements.txt`, then `pip install --no-deps .`. None lies here: the
wheels that the tests ran with came from a local index, and nothing shows that their hashes are those of the public one.

**Audit**: `pip-audit --no-deps --disable-pip -r constraints.txt`, by hand before a release. It was run here and proves
nothing: of 59 packages its first service knew none ("not found ... could not be audited"), its second (`-s osv`) could
not be reached. Run it where the public advisories are.
"""


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """name -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {normal(name): version.strip() for name, version in pairs}


def declared() -> dict[str, list[str]]:
    """"core" and every extra of setup.py -> the names it asks for."""
    call = next(node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8")))
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup")  # fmt: skip
    keys = {word.arg: word.value for word in call.keywords}
    asked = {"core": ast.literal_eval(keys["install_requires"]), **ast.literal_eval(keys["extras_require"])}
    return {extra: [normal(re.split(r"[<>=\[ ]", text)[0]) for text in texts] for extra, texts in asked.items()}


def licence(name: str) -> str:
    """What an installed package says. UserError if it is not installed, or says nothing."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        raise UserError(f"{name} is not installed; pip install -c constraints.txt -e '.[test,export]'") from None
    if found.get("License-Expression"):
        return found["License-Expression"]
    classes = [text.split(" :: ")[-1] for text in found.get_all("Classifier") or () if text.startswith("License ::")]
    words = next(iter((found.get("License") or "").splitlines()), "").strip()
    said = " and ".join(text for text in classes if text != "OSI Approved") or words
    if not said or said == "UNKNOWN":
        raise UserError(f"{name} says no licence; look it up, and name it in tools/make_dependencies.py")
    return said.removesuffix(" License").removeprefix("License :: ")


def table() -> str:
    """The page."""
    asked, rows = declared(), []
    for name, version in sorted(pinned().items()):
        extras = [extra for extra, names in asked.items() if name in names and extra != "core"]
        why = WHY.get(name) or (f"the extra {', '.join(extras)}" if extras else "one of these")
        rows.append((name not in asked["core"], not extras, f"| {name} | {version} | {licence(name)} | {why} |"))
    return START + "\n".join(row for *_, row in sorted(rows)) + "\n" + END


def main(argv: Sequence[str] | None = None) -> int:
    try:
        write_bytes(TARGET, table().encode())
    except UserError as error:
        sys.stderr.write(f"make_dependencies: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
