"""Folders in; what `bpmt link`, `unlink` and `doctor` put there, take away, say and refuse, out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from standin import commit, status, write_checkout

from bpmt_ext import __version__
from bpmt_ext.cli import main
from bpmt_ext.config import load_settings
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.errors import UserError
from bpmt_ext.hosts import doctor
from bpmt_ext.hosts import link as linking
from bpmt_ext.hosts.checkouts import HOSTS, Checkout, find_host, missing_imports
from bpmt_ext.hosts.link import MANIFEST, count_identities, link, unlink

DATA = "data_cfg.dataset_root=pickles"


@pytest.fixture(params=sorted(HOSTS))
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_checkout(tmp_path / "host", request.param)


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def folders(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_dir() and ".git" not in path.parts}


def config(root: Path, name: str = "bpmt_gait3d") -> dict:
    return yaml.safe_load((root / f"configs/bpmt/{name}.yaml").read_text())


def test_link_adds_its_files_and_unlink_takes_them_away(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    before, places = files(checkout), folders(checkout)
    assert main(["link", str(checkout), "--opts", DATA, "t1.trainer_cfg.total_iter=100", "model_cfg.width=32"]) == 0
    said = capsys.readouterr().out
    host = find_host(checkout).host
    added = {host.plugin.as_posix(), MANIFEST.as_posix()}
    added |= {f"configs/bpmt/bpmt_gait3d{stage}.yaml" for stage in ("", "_t1", "_t2")}
    now = files(checkout)
    assert set(now) == set(before) | added and {name: now[name] for name in before} == before
    assert {line[3:] for line in status(checkout)} == added and all(line.startswith("??") for line in status(checkout))
    assert host.name in said and "lacks absent_package: pip install absent_package" in said
    assert set(json.loads(now[MANIFEST.as_posix()])["files"]) == added - {MANIFEST.as_posix()}
    compile(now[host.plugin.as_posix()], "plugin", "exec")
    assert f"bpmt_ext.hosts.{host.package} import attach" in now[host.plugin.as_posix()].decode()

    whole, first = config(checkout), config(checkout, "bpmt_gait3d_t1")
    assert whole["model_cfg"]["num_class"] == 3 and whole["model_cfg"]["width"] == 32  # this config's own option
    assert whole["model_cfg"]["stages"]["t1"].endswith("bpmt_gait3d_t1-00100.pt")
    assert first["trainer_cfg"]["total_iter"] == 100 and first["model_cfg"]["width"] == 128
    for cfg in (whole, first):  # relative to where the host runs
        assert cfg["data_cfg"]["dataset_root"] == "pickles"
        assert cfg["data_cfg"]["dataset_partition"] == "datasets/Gait3D/Gait3D.json"
    assert str(checkout) not in json.dumps(whole)
    assert "partition.json is not there; took data_cfg.dataset_partition=datasets/Gait3D/Gait3D.json" in said

    compiled = checkout / host.plugin.parent / "__pycache__" / "bpmt_ext_plugin.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"")
    (compiled.parent / "other.pyc").write_bytes(b"")
    assert main(["unlink", str(checkout)]) == 0
    assert not compiled.exists() and (compiled.parent / "other.pyc").exists()
    assert set(files(checkout)) - {f"{host.plugin.parent.as_posix()}/__pycache__/other.pyc"} == set(before)
    assert status(checkout) == [] and folders(checkout) - {compiled.parent} == places
    assert main(["unlink", str(checkout)]) == 2 and "nothing of bpmt_ext is linked here" in capsys.readouterr().err


def test_linking_again_changes_nothing_or_what_is_asked(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(checkout, opts=[DATA])
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in checkout.rglob("*") if path.is_file()}
    link(checkout, opts=[DATA])
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    own = tmp_path / "mine.yaml"
    own.write_text("model_cfg: {model: BPMT_T1}\ntrainer_cfg: {save_name: mine, total_iter: 50}\n")
    link(checkout, [str(own)], gpus=2, opts=[DATA])
    assert config(checkout, "mine")["evaluator_cfg"]["sampler"]["batch_size"] == 2
    assert config(checkout)["evaluator_cfg"]["sampler"]["batch_size"] == 1  # as it was
    named = [f"configs/bpmt/bpmt_gait3d{stage}.yaml" for stage in ("", "_t1")]
    link(checkout, named, opts=[DATA, "model_cfg.width=32"])
    assert config(checkout, "bpmt_gait3d_t1")["model_cfg"]["width"] == 128  # a stage, listed or not: t1. is for it
    assert config(checkout)["model_cfg"]["width"] == 32 and (checkout / "configs/bpmt/mine.yaml").is_file()
    monkeypatch.chdir(checkout)
    link(Path("."), ["configs/bpmt/bpmt_gait3d.yaml"], opts=[DATA])  # ours, not the one linked before
    assert config(checkout)["model_cfg"]["width"] == 128
    lists = Path("data/Gait3D/pickles/partition.json")
    lists.parent.mkdir(parents=True)
    lists.write_text(Path("datasets/Gait3D/Gait3D.json").read_text())
    link(Path("."), opts=[DATA])  # now they are there
    assert config(checkout)["data_cfg"]["dataset_partition"] == lists.as_posix()
    unlink(Path("."))
    assert [line[3:] for line in status(checkout)] == [lists.as_posix()]


def test_what_was_changed_since_is_kept(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    link(checkout, opts=[DATA])
    edited, notes = checkout / "configs/bpmt/bpmt_gait3d.yaml", checkout / "configs/bpmt/notes.txt"
    edited.write_text("mine: 1\n")
    with pytest.raises(UserError, match="bpmt_gait3d.yaml: was changed since"):
        link(checkout, opts=[DATA])
    notes.write_text("mine too")
    (checkout / "configs/bpmt/bpmt_gait3d_t1.yaml").unlink()  # already gone
    assert main(["unlink", str(checkout)]) == 2
    assert "kept configs/bpmt/bpmt_gait3d.yaml" in capsys.readouterr().err
    left = {f"configs/bpmt/{name}" for name in (edited.name, notes.name, MANIFEST.name)}
    assert {line[3:] for line in status(checkout)} == left
    assert edited.read_text() == "mine: 1\n"
    assert main(["unlink", str(checkout), "--force"]) == 0
    assert [line[3:] for line in status(checkout)] == ["configs/bpmt/notes.txt"]


def test_another_version_must_unlink_first(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "__version__", "0.0.9")
    link(checkout, opts=[DATA])
    monkeypatch.undo()
    before = files(checkout)
    with pytest.raises(UserError, match=f"linked by bpmt_ext 0.0.9, this is {__version__}; first `bpmt unlink"):
        link(checkout, opts=[DATA])
    assert files(checkout) == before
    _, faults = doctor.checkout(checkout)
    assert any("linked by bpmt_ext 0.0.9" in fault for fault in faults)
    unlink(checkout)
    assert status(checkout) == []


def test_a_file_in_the_way_is_refused_and_nothing_written(checkout: Path) -> None:
    host = find_host(checkout).host
    (checkout / host.plugin).write_text("theirs")
    before = files(checkout)
    with pytest.raises(UserError, match="bpmt_ext_plugin.py: is there and not ours; move it away"):
        link(checkout, opts=[DATA])
    assert files(checkout) == before
    commit(checkout)
    (checkout / host.plugin).unlink()  # tracked, though not there
    with pytest.raises(UserError, match="bpmt_ext_plugin.py: is tracked"):
        link(checkout, opts=[DATA])
    assert not (checkout / "configs/bpmt").exists()


@pytest.mark.parametrize("failing", range(6))
def test_all_files_or_none(checkout: Path, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    link(checkout, opts=[DATA]) if failing == 5 else None  # then files are renewed
    before, places, written = files(checkout), folders(checkout), []

    def write(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > failing % 5:
            raise UserError(f"{path}: cannot be written (No space left on device).")
        path.write_bytes(data)

    monkeypatch.setattr(linking, "write_bytes", write)
    with pytest.raises(UserError, match="cannot be written"):
        link(checkout, opts=[DATA, "model_cfg.width=32"])
    assert written and files(checkout) == before and folders(checkout) == places


def test_an_unwritable_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"configs/bpmt: cannot be written \(Permission denied\)"):
        link(checkout, opts=[DATA])
    assert status(checkout) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root, host: (root / "configs/default.yaml").unlink(), "no configs/default.yaml"),
        (lambda root, host: (root / host / "data/transform.py").write_text("class Compose: ..."), "no SkeletonInput"),
        (lambda root, host: (root / host / "modeling/base_model.py").write_text("class BaseModel: ..."),
         "modeling/base_model.py has no BaseModel.build_network; this is no"),
        (lambda root, host: (root / host / "data/transform.py").write_text("def ("), "is no Python file"),
        (lambda root, host: (root / host / "modeling").rename(root / "elsewhere"), "no host stands here"),
        (lambda root, host: [(root / h / "modeling").mkdir(exist_ok=True, parents=True) for h in HOSTS], "both hosts"),
    ],
)  # fmt: skip
def test_what_is_no_known_host_is_refused(checkout: Path, spoil, message: str, capsys: pytest.CaptureFixture) -> None:
    spoil(checkout, find_host(checkout).host.package)
    before = files(checkout)
    for command in ("link", "doctor"):
        assert main([command, str(checkout)]) == 2
        assert message in capsys.readouterr().err
    assert files(checkout) == before


def test_other_bad_input_is_one_sentence(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def told(*words: str) -> str:
        assert main(list(words)) == 2 and status(checkout) == []
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("bpmt: ")
        return line

    here = str(checkout)
    assert "there is no such folder" in told("link", str(tmp_path / "none"))
    assert "nothing of bpmt_ext" in told("unlink", str(tmp_path / "none"))
    inside = next(path for path in checkout.iterdir() if path.name in HOSTS)
    assert f"did you mean {checkout}?" in told("link", str(inside))
    assert "no such file" in told("link", here, "--cfgs", "nix.yaml")
    assert "no stage t3; did you mean t" in told("link", here, "--opts", DATA, "t3.model_cfg.width=1")
    assert "did you mean width?" in told("link", here, "--opts", DATA, "model_cfg.widht=32")
    assert "128 sequences do not divide among 3 GPUs" in told("link", here, "--gpus", "3", "--opts", DATA)
    assert "nix.json does not exist" in told("link", here, "--opts", DATA, "data_cfg.dataset_partition=nix.json")
    other = checkout / "datasets/Gait3D/Gait3D.json"
    partition = tmp_path / "p.json"
    partition.write_text(other.read_text().replace("videoid1", "videoid2"))
    line = told("link", here, "--opts", DATA, f"data_cfg.dataset_partition={partition}")
    assert "its PROBE_SET is not that of" in line and "evaluator_cfg.eval_func=evaluate_retrieval" in line
    (checkout / MANIFEST).parent.mkdir()
    for text in ("no json", '{"bpmt_ext": "0.1.0"}', '{"bpmt_ext": "1", "files": {"configs/../x": "0"}, "folders": []}',
                 '{"bpmt_ext": "1", "files": {"README.md": "0"}, "folders": []}'):  # fmt: skip
        (checkout / MANIFEST).write_text(text)
        for command in ("link", "unlink"):
            assert main([command, here]) == 2
            assert re.search("bpmt_ext.json: (is damaged|names )", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["link", here, "--gpus", "0"])


def test_identities_are_counted_as_the_host_does(tmp_path: Path) -> None:
    lists = {"TRAIN_SET": ["0001", "0002", "0003", "0004", "0001"], "TEST_SET": ["0009"], "VAL_SET": ["0002"]}
    (tmp_path / "p.json").write_text(json.dumps(lists))
    opts = ["data_cfg.dataset_partition=p.json", "data_cfg.dataset_root=data", "data_cfg.frame_threshold=5"]
    settings = load_settings("configs/bpmt/bpmt_gait3d_t1.yaml", opts, tmp_path)
    fast, open_ = HOSTS.values()
    assert count_identities(settings, fast) == 4  # no data yet: as listed
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="no sequence of any identity"):
        count_identities(settings, fast)
    for label, frames in (("0001", 9), ("0002", 5), ("0003", 0), ("0009", 9)):
        folder = tmp_path / "data" / label / "a" / "b"
        folder.mkdir(parents=True)
        if frames:
            write_pickle(folder / "b.pkl", np.zeros((frames, 17, 3), np.float32))
    assert count_identities(settings, fast) == 1  # 0002 is too short
    assert count_identities(settings, open_) == 2  # and OpenGait does not look


def test_doctor_says_what_is_there(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (f"bpmt_ext     {__version__}", "torch ", "numpy ", "CPU cores", "python "))
    lines, faults = doctor.checkout(checkout)
    assert "nothing; bpmt link" in lines[-1] and "files differ from" in lines[0]
    link(checkout, opts=[DATA])
    (checkout / "configs/bpmt/bpmt_gait3d.yaml").write_text("")
    (checkout / "configs/bpmt/bpmt_gait3d_t1.yaml").unlink()
    assert main(["doctor", str(checkout)]) == 2
    said = capsys.readouterr()
    assert "bpmt_gait3d.yaml changed since" in said.out and "bpmt_gait3d_t1.yaml missing" in said.out
    package = find_host(checkout).host.package
    assert f"absent_package (imported by {package}/data/transform.py)" in said.out
    assert "cannot start in this Python, it lacks absent_package; pip install absent_package" in said.err


def test_only_imports_on_start_count(checkout: Path) -> None:
    found = find_host(checkout)
    file = checkout / found.host.package / "modeling/models/__init__.py"
    file.write_text("import cv2x, sklearn_x.y\nfrom . import a\nfrom modeling import z\ntry:\n    import optional_x\n"
                    "except ImportError:\n    pass\ndef f():\n    import late_x\n")  # fmt: skip
    assert set(missing_imports(found)) == {"absent_package", "cv2x", "sklearn_x"}


def test_a_folder_without_git_is_a_checkout_too(tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "inner", "opengait", repository=False)
    found = find_host(root)
    assert found.commit is None and "no git repository" in found.version
    before = files(root)
    link(root, opts=[DATA])
    unlink(root)
    assert files(root) == before
    known = Checkout(root, HOSTS["opengait"], "0123456789", True)
    assert known.version == "commit 0123456, files as at 0efafd4"
