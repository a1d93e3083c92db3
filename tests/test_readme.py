"""The README and the pages it points to in; their commands run or parse, the examples load, the pictures exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from bpmt_ext import cli
from bpmt_ext.synthetic import write_raw_gait3d

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
NAMES = ("export", "ideas", "people", "pictures", "silhouettes")
PAGES = [TEXT, *((ROOT / f"docs/{name}.md").read_text("utf-8") for name in NAMES)]
BLOCKS = [block for page in PAGES for block in re.findall(r"^[ ]*```\w*\n(.*?)^[ ]*```$", page, re.S | re.M)]
TINY = [
    "model_cfg.width=16", "model_cfg.layers=1", "model_cfg.heads=2", "trainer_cfg.total_iter=2",
    "trainer_cfg.val_iter=2", "data_cfg.num_workers=0", "trainer_cfg.sampler.batch_size=[2,2]",
    "data_cfg.validation=0.25",
]  # fmt: skip


def commands(start: str) -> list[list[str]]:
    """Every command of the README that begins so, as words, without line ends and comments."""
    lines = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def script(path: str, monkeypatch: pytest.MonkeyPatch):
    """The `main` of a script of the checkout."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_gait3d_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Convert, check, train three stages and test, by the commands as they stand; only the sizes are tiny."""
    monkeypatch.chdir(tmp_path)
    write_raw_gait3d(tmp_path / "raw", train=8, test=4, cameras=2, sequences=2, seed=0)
    shutil.move(tmp_path / "raw" / "2D_Poses", "2D_Poses")
    shutil.move(next(tmp_path.rglob("*.json")), "Gait3D.json")
    (convert,) = [words for words in commands("python datasets/gait3d.py") if "--partition" in words]
    assert script("datasets/gait3d.py", monkeypatch)([*convert[2:-1], "1"]) == 0
    (check,) = commands("bpmt check-data")
    assert cli.main(check[1:]) == 0
    assert "4 of 4 probes have a match" in capsys.readouterr().out
    train = commands("python fastposegait/main.py")[0]
    tiny = [*TINY, *(f"{stage}.{text}" for stage in ("t1", "t2") for text in TINY if not text.startswith("data_cfg"))]
    assert cli.host_main([*train[2:], "--opts", *tiny]) == 0
    test = [*train[2:], "--opts", *TINY]
    test[test.index("train")] = "test"
    assert cli.host_main(test) == 0
    assert "Rank-1" in capsys.readouterr().err
    assert (tmp_path / "output/Gait3D/BPMT/bpmt_gait3d/results.json").is_file()


def test_every_other_command_names_what_exists() -> None:
    for words in commands("python ") + commands("torchrun "):
        if words[1] == "-c":  # test_export.py runs it
            continue
        path = next(word for word in words if word.endswith(".py"))
        assert (ROOT / path).is_file(), words
        config = [words[i + 1] for i, word in enumerate(words) if word == "--cfgs"]
        assert all((ROOT / name).is_file() for name in config if not name.startswith("FastPoseGait/")), words
        source = (ROOT / path).read_text() + (ROOT / "bpmt_ext/cli.py").read_text()
        source += "".join((ROOT / f"bpmt_ext/data/{name}.py").read_text() for name in ("convert", "sequencelists"))
        options = {word for word in words if word.startswith("--")} - {"--nproc-per-node"}
        assert all(f'"{option}"' in source for option in options), words


def test_the_parser_takes_every_bpmt_command() -> None:
    found = commands("bpmt ")
    assert {words[1] for words in found} >= {"check-data", "compare", "train", "link", "doctor"}
    for words in found:
        args = cli._parser().parse_args(words[1:])
        files = getattr(args, "cfgs", None) or []
        for name in [files] if isinstance(files, str) else files:
            run = str(name).startswith("output/") and Path(name).name == "config.yaml"  # what a training writes
            assert run or (ROOT / str(name).partition("@")[0]).is_file(), words


def test_links_folders_and_counts() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", TEXT):
        assert (ROOT / link).exists(), link
    for folder in re.findall(r"^\| `([\w/.]+/)`", TEXT, re.M):
        assert (ROOT / folder).exists(), folder
    networks = TEXT.partition("| network | `configs/`")[2].partition("\n\n")[0]
    for folder in re.findall(r"`([\w+]+/)`", networks):
        assert (ROOT / "configs" / folder).is_dir(), folder
    sets = TEXT.partition("| data set | converter")[2].partition("\n\n")[0]
    for name in re.findall(r"`(datasets/\w+\.py|bpmt_\w+\.yaml)`", sets):
        assert (ROOT / name).is_file() or (ROOT / "configs/bpmt" / name).is_file(), name
