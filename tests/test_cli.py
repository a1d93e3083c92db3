"""Command lines in; exit statuses, sentences on standard error and calls of the engine out."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bpmt_ext.cli import host_main, main
from bpmt_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """Stand-ins for the engine that note what they are called with."""
    noted: list = []

    def stand_in(module: str, name: str) -> None:
        fake = ModuleType(module)
        setattr(fake, name, lambda *args, **keys: noted.append((module, args, keys)) or 0)
        monkeypatch.setitem(sys.modules, module, fake)

    stand_in("bpmt_ext.engine.run", "main")
    stand_in("bpmt_ext.engine.check", "run")
    stand_in("bpmt_ext.engine.demo", "run")
    return noted


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a.yaml").write_text("model_cfg: {model: BPMT, stages: {t1: t1.pt}}\ndata_cfg: {dataset_root: poses}")
    monkeypatch.chdir(tmp_path)
    return "a.yaml"


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys; from bpmt_ext.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )

    def once() -> float:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for command in ("demo", "train", "test", "check-data", "compare"):
            assert command in done.stdout
        return time.perf_counter() - start

    assert min(once() for _ in range(3)) < 0.5  # the quickest: other programs may hold the machine up


@pytest.mark.parametrize("spelling", ["--local-rank=1", "--local_rank=1"])
def test_the_hosts_command_line(calls: list, config: str, tmp_path: Path, spelling: str) -> None:
    line = [spelling, "--cfgs", config, "--phase", "test", "--iter", "40", "--log_to_file"]
    opts = ["trainer_cfg.seed=4", "t1.trainer_cfg.seed=6", "trainer_cfg.total_iter=5"]
    assert host_main([*line, "--opts", *opts]) == 0
    ((_, (settings,), keys),) = calls
    given = {"phase": "test", "iteration": 40, "log_to_file": True}
    assert keys == given | {"output": tmp_path / "output", "opts": opts, "root": tmp_path, "trust": False}
    assert (settings.trainer_cfg.seed, settings.trainer_cfg.total_iter) == (4, 5)
    assert settings.data_cfg.dataset_root == str(tmp_path / "poses")


def test_the_commands(calls: list, config: str, tmp_path: Path) -> None:
    assert main(["train", "--cfgs", config, "--opts", "trainer_cfg.seed=1", "--opts", "trainer_cfg.log_iter=2"]) == 0
    assert main(["check-data", "--cfgs", config]) == 0
    assert main(["demo", "--output", "out", "--seed", "3"]) == 0
    (_, (settings,), keys), (checked, _, _), (demo, arguments, _) = calls
    assert (keys["phase"], keys["iteration"], keys["log_to_file"]) == ("train", None, False)
    assert (settings.trainer_cfg.seed, settings.trainer_cfg.log_iter) == (1, 2)
    assert (checked, demo) == ("bpmt_ext.engine.check", "bpmt_ext.engine.demo")
    assert arguments == (tmp_path / "out", 3)


def test_bad_input_is_told_line_by_line_with_status_2(calls: list, config: str, capsys: pytest.CaptureFixture) -> None:
    assert host_main(["--cfgs", config, "--phase", "train", "--opts", "trainer_cfg.sed=1", "data_cfg.cach=1"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("bpmt: ") and second.startswith("bpmt: ") and "did you mean seed?" in first + second
    assert main(["train", "--cfgs", config, "--opts", "t2.trainer_cfg.seed=1"]) == 2
    assert "no stage t2; did you mean t1?" in capsys.readouterr().err
    assert not calls
    for wrong in (["train"], ["nix"], ["demo", "--seed", "-1"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2


def test_interruptions_and_defects(calls: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def failing(error: BaseException) -> None:
        def run(*_: object) -> int:
            raise error

        monkeypatch.setattr(sys.modules["bpmt_ext.engine.demo"], "run", run)

    failing(KeyboardInterrupt())
    assert main(["demo"]) == 130
    failing(UserError("one\ntwo"))
    assert main(["demo"]) == 2 and capsys.readouterr().err.endswith("bpmt: one\nbpmt: two\n")
    failing(RuntimeError("a defect keeps its traceback"))
    with pytest.raises(RuntimeError):
        main(["demo"])


def test_the_launcher_runs_without_installation(tmp_path: Path) -> None:
    """-S keeps site-packages, and so any installed bpmt_ext, away: what is found lies in the checkout."""
    launcher = ROOT / "fastposegait/main.py"
    done = subprocess.run(
        [sys.executable, "-S", str(launcher), "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "--local" not in done.stdout and "--log_to_file" in done.stdout
    command = [sys.executable, str(launcher), "--cfgs", "nix.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("bpmt: ") and "nix.yaml" in done.stderr


def test_help_lists_every_command_and_trust_is_handed_on(calls: list, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"    {name}" in said for name in ("demo", "train", "test", "check-data", "link", "unlink", "doctor"))
    config = str(ROOT / "configs/bpmt/bpmt_demo.yaml")
    for flags, trust in (([], False), (["--trust-checkpoint"], True)):
        assert main(["test", "--cfgs", config, *flags]) == 0
        assert calls[-1][-1]["trust"] is trust


def test_a_comparison_as_the_readme_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpmt_ext.engine import compare

    asked: list = []
    monkeypatch.setattr(compare, "run", lambda options: asked.append(options) or 0)
    monkeypatch.chdir(tmp_path)
    lines = [line.split() for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("bpmt compare")]
    assert lines and all(main(words[1:]) == 0 for words in lines)
    more = ["--minutes", "3", "--split", "t1=0.5", "--yardsticks", "--seeds", "0", "1", "0", "--fold-dir", "f"]
    of_two_sets = next(words for words in lines if {"--test", "--untrained"} <= set(words))
    assert main([*of_two_sets[1:], *more]) == 0
    last = asked[-1]
    assert (last.folds, last.untrained, last.seeds, last.minutes, last.split) == (5, True, (0, 1), 3.0, {"t1": 0.5})
    assert last.tests == {"K-full": tmp_path / "K15", "K-2s": tmp_path / "K2S"} and last.root == tmp_path / "K15"
    assert last.fold_dir == tmp_path / "f" and last.yardsticks == ("all",)
    assert asked[lines.index(of_two_sets)].yardsticks == ()
    assert main(["compare", "--out", "x"]) == 2
    for wrong in (["--minutes", "0"], ["--minutes", "1", "--iterations", "2"], ["--test", "K15"], ["--seeds", "-1"]):
        with pytest.raises(SystemExit):
            main(["compare", "--out", "x", "--cfgs", "a.yaml", *wrong])
