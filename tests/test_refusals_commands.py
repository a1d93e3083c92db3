"""Every refusal of the converters' common part and of the command lines in; for each what leads to it, and what is
said, out. As test_refusals.py."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch
import yaml
from branching import Act, check
from fuzz_commands import GAIT, home, inside
from standin import write_checkout

from bpmt_ext import cli
from bpmt_ext.config import settings_from
from bpmt_ext.data import convert, rawtree
from bpmt_ext.data.convert import JOURNAL, Job, Raw
from bpmt_ext.engine.embed import make_model
from bpmt_ext.errors import UserError
from bpmt_ext.identify import model as own
from bpmt_ext.identify.gallery import Gallery

FILES = ("data/convert.py", "data/rawtree.py", "cli.py", "cli_people.py", "cli_pictures.py", "identify/model.py")
ONE, TWO = Job("a", "a/b/c/c.pkl"), Job("b", "b/b/c/c.pkl")


def command(words: str, host: bool = False) -> Act:
    """A command line in a folder with the files of `home`; what it says, as the fault that it was."""

    def act(folder: Path) -> None:
        for path in home().iterdir():
            (folder / path.name).symlink_to(path)
        said = io.StringIO()
        with inside(folder), contextlib.redirect_stderr(said):
            if host:
                write_checkout(Path("host"), "fastposegait", repository=False)
            status = cli.main(words.split())
        if status == 2:
            raise UserError(said.getvalue())

    return act


def read(job: Job) -> Raw:
    return Raw(np.ones((2, 17, 3)), refused="of no use" if job.target.startswith("b") else None)


def converting(*jobs: Job, before: Callable[[Path], object] = lambda out: None, workers: int = 1) -> Act:
    def act(folder: Path) -> None:
        (folder / "out").mkdir()
        before(folder / "out")
        convert.convert(read, jobs, folder / "out", converter="x", options={}, joints=17, workers=workers)

    return act


def options(*words: str) -> Act:
    def act(folder: Path) -> None:
        (folder / "in").mkdir()
        (folder / "file").touch()
        parser = argparse.ArgumentParser()
        convert.add_arguments(parser)
        args = parser.parse_args([word.format(folder) for word in words])
        convert.convert_and_report(read, [ONE], args, converter="x", options={}, joints=17)

    return act


def broken(folder: Path) -> None:
    with patch.object(convert, "ProcessPoolExecutor") as pool:
        pool.return_value.map.side_effect = BrokenProcessPool
        converting(ONE, TWO, workers=2)(folder)


def tree(*names: str) -> Act:
    def act(folder: Path) -> None:
        for name in names:
            (folder / name).mkdir()
        rawtree.entered(folder if names else folder / "none", "poses", "raw", first=re.compile(r"\d+"))

    return act


def lost(folder: Path) -> None:
    raise rawtree.nothing_found(folder, "<label>", [])


def network() -> Any:
    settings = settings_from(yaml.safe_load((home() / "net.yaml").read_text()), root=home())
    (file,) = (home() / GAIT).rglob("net-00001.pt")
    return make_model(settings, torch.load(file, weights_only=True)["model"], file, iteration=1)


def gallery(folder: Path, **files: bytes) -> Gallery:
    """One of `network`, but for these files and facts."""
    made = network()
    facts = own.kept_facts(made, (4, 2))
    named = {own.CONFIG: files.get("config"), own.WEIGHTS: files.get("weights")}
    return Gallery.create(folder / "g", facts, own.kept_files(made) | {k: v for k, v in named.items() if v is not None})


def other_facts(folder: Path) -> None:
    whole = gallery(folder)
    whole.facts["weights"] = "0"
    own.check_same(whole, network())


def other_weights(folder: Path) -> None:
    tensors = {key: value + 1 for key, value in network().weights.items()}
    own.open_model(gallery(folder, weights=safetensors.torch.save(tensors)))


def actions(_: Path) -> None:
    settings = settings_from(yaml.safe_load((home() / "act.yaml").read_text()), root=home())
    own.check_enrolling(SimpleNamespace(settings=settings))  # type: ignore[arg-type]


CASES: dict[str, tuple[Act, str]] = {
    # what all converters share
    "into itself": (options("--input", "{}/in", "--output", "{}/in"), "is the folder of the raw data"),
    "into a file": (options("--input", "{}/in", "--output", "{}/file"), "is a file; name a folder"),
    "inner of nothing": (options("--input", "{}/in", "--output", "{}/out", "--inner"), "--inner needs --folds"),
    "nothing to convert": (converting(), "no sequence to convert"),
    "a step up": (converting(Job("a", "../b/c/c.pkl")), "would become '../b/c/c.pkl'"),
    "two into one": (converting(ONE, ONE), "two raw sequences would both become"),
    "no worker": (converting(ONE, workers=0), "--workers 0 and --min-frames 1 must be"),
    "nothing of use": (converting(TWO), "none of 1 sequences could be converted; 1: of no use"),
    "a worker that died": (broken, "a worker process died"),
    "a link out": (converting(ONE, before=lambda out: (out / "a").symlink_to(out.parent)), "a link leads out of"),
    "somebody's pickles": (converting(ONE, before=lambda out: (out / "x.pkl").touch()), "holds pickles but no"),
    "another converter's": (converting(ONE, before=lambda out: (out / JOURNAL).write_text("x")), "was made with some"),
    "no folder": (tree(), "is no folder; give --input"), "two folders": (tree("poses", "raw"), "holds poses and raw"),
    "both levels": (tree("poses", "001"), "holds poses and, beside it, 001"), "nothing": (lost, "expected <label>"),
    # command lines
    "no such stage": (command("train --cfgs net.yaml --opts t1.trainer_cfg.seed=1"), "the config has no stage t1"),
    "nothing to compare": (command("compare --out x"), "no config is given"),
    "no share": (command("compare --cfgs net.yaml --out x --split t1=2"), "a share lies between 0 and 1"),
    "no checkout": (command("doctor data"), "data: "), "a host in want": (
        command("doctor host", host=True), "pip install"),
    "one of two": (command("embed --cfgs net.yaml -o x.npz --detector a.onnx anna.npz"), "belong together"),
    "options of nothing": (command("enroll --gallery g --name a --iter 1 anna.npz"), "--iter and --opts belong to"),
    "show of nothing": (command("draw anna.npz -o x.png --show attention"), "--cfgs and --show belong together"),
    "a checkpoint of nothing": (command("draw anna.npz -o x.png --iter 1"), "belong to --cfgs; name the config"),
    "bodies of a network": (command("draw anna.npz -o x.png --cfgs net.yaml --show attention --bodies 2"), "do not go"),
    # a gallery's network
    "actions": (actions, "names actions, not people"), "another network": (other_facts, "was made with other weights"),
    "a setting that stays": (lambda folder: own.open_model(gallery(folder), ["model_cfg.width=1"]), "stays as it is"),
    "no settings": (lambda folder: own.open_model(gallery(folder, config=b"")), "holds no settings"),
    "other weights": (other_weights, "are not the weights that"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
