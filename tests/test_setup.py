"""The source tree in; a wheel with everything in it, and constraints that fit the dependencies, out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of what is shipped: building leaves nothing in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    for name in ("bpmt_ext", "configs", "datasets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--wheel-dir", str(target), str(source)]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("bpmt_ext-*.whl")
    return built


def test_the_wheel_holds_code_configs_and_converters(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"bpmt_ext/cli.py", "bpmt_ext/configs/default.yaml", "bpmt_ext/datasets/gait3d.py"} <= names
    shipped = {f"bpmt_ext/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    shipped |= {f"bpmt_ext/{p.relative_to(ROOT)}" for p in (ROOT / "datasets").glob("*.py")}
    shipped |= {str(p.relative_to(ROOT)) for p in (ROOT / "bpmt_ext").rglob("*.py")}
    assert shipped - names == set()
    assert [name for name in names if name.startswith(("tests/", "tools/", "configs/", "datasets/"))] == []


def test_an_unpacked_wheel_finds_its_configs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import bpmt_ext; from bpmt_ext.config import configs_folder, datasets_folder, load_settings\n"
        "assert bpmt_ext.__file__.startswith(sys.argv[1]), bpmt_ext.__file__\n"
        "assert str(configs_folder()).startswith(sys.argv[1]) and (datasets_folder() / 'gait3d.py').is_file()\n"
        "open('a.yaml', 'w').write('model_cfg: {model: BPMT}')\n"
        "assert load_settings('a.yaml').trainer_cfg.total_iter > 0\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_names_its_command_and_every_constraint_is_plain(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        needs = re.findall(r"^Requires-Dist: ([\w-]+)([^;\n]*)(.*)$", archive.read(info).decode(), re.M)
        commands = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert "bpmt = bpmt_ext.cli:main" in commands
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "no local versions, paths or addresses"
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = {name.lower() for name, _, marker in needs if not marker or "test" in marker}
    assert wanted - pinned == set(), "what the tests run with is pinned"
