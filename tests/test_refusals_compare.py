"""Every refusal of a comparison of methods, and of a published recipe, in; for each what leads to it, and what is said,
out. As test_refusals.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny
from branching import Act, check
from fuzz_commands import home, inside

from bpmt_ext.engine import compare, recipes
from bpmt_ext.engine.compare import Options
from bpmt_ext.report.published import Published

FILES = ("engine/budget.py", "engine/comparability.py", "engine/compare.py", "engine/methods.py", "engine/recipes.py",
         "engine/yardstick.py")  # fmt: skip
NET = Options(Path("out"), ("net.yaml",))
STAGES = Options(Path("out"), ("both.yaml",), opts=("data_cfg.validation=0", "trainer_cfg.val_iter=0"))
DONE = Options(Path("out"), ("net.yaml@untrained",), yardsticks=("single_frame",))  # as in the folder `compared`


def nothing(*_: object) -> None:
    """What is done to a folder that stays as it is."""


def asked(options: Options, before: Callable[[Path], object] = nothing, **changes: Any) -> Act:
    """A comparison, up to its first job, in a folder with configs and data, after something was done to that."""

    def act(folder: Path) -> None:
        tiny.write_configs(folder)
        (folder / "net.yaml").unlink()
        for name in ("net.yaml", "data", "data.json"):
            (folder / name).symlink_to(home() / name)
        before(folder)
        with inside(folder), patch.object(compare, "run_job", side_effect=AssertionError("nothing was refused")):
            compare.run(replace(options, **changes))

    return act


def again(change: Callable[[Any], object] = nothing, **changes: Any) -> Act:
    """The comparison of `compared` once more, after a change to its comparison.json."""

    def before(folder: Path) -> None:
        shutil.copytree(home() / "compared", folder / "out")
        plan = json.loads((folder / "out/comparison.json").read_text())
        change(plan)
        (folder / "out/comparison.json").write_text(json.dumps(plan))

    return asked(DONE, before, **changes)


def written(name: str, text: str) -> Callable[[Path], object]:
    def before(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return before


def axes(text: str) -> Act:
    return asked(NET, written("axes.yaml", text), axes=Path("axes.yaml"))


def two(text: str, **changes: Any) -> Act:
    """net.yaml beside a config on top of it."""
    return asked(NET, written("other.yaml", f"base: net.yaml\n{text}"), cfgs=("net.yaml", "other.yaml"), **changes)


def swapped(folder: Path) -> None:
    """A config that is tested on those the other one trains on."""
    lists = json.loads((home() / "data.json").read_text())
    (folder / "p.json").write_text(json.dumps({"TRAIN_SET": lists["TEST_SET"], "TEST_SET": lists["TRAIN_SET"]}))
    (folder / "other.yaml").write_text("base: net.yaml\ndata_cfg: {dataset_partition: p.json}")


def damaged(folder: Path) -> None:
    shutil.copytree(home() / "compared", folder / "out")
    for path in folder.glob("out/cells/*/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": {"walkers": 1}}))


def printed(folder: Path) -> None:
    row = Published(id="a", dataset="walkers", model="BPMT", recipe="r", config="net.yaml", metrics={"Rank-1": 1.0},
                    source="s", tolerance=1.0, scanned=9)  # fmt: skip
    recipes.as_printed(row, [], home(), folder, 1.0)


CASES: dict[str, tuple[Act, str]] = {
    # which methods
    "an axis of a number": (axes("model_cfg.width: 8"), "axis model_cfg.width is 8; write section.key"),
    "an axis of nothing": (axes("wide: {model_cfg.width: []}"), "axis wide has no values; give at least one"),
    "no axis": (axes(""), "axes.yaml: holds no axis; write section.key"),
    "no variant": (asked(NET, cfgs=("net.yaml@scrach",)), "there is no variant 'scrach'; did you mean scratch?"),
    "no stages to leave out": (asked(NET, cfgs=("net.yaml@scratch",)), "net.yaml has no earlier stages to leave out"),
    "options of no stage": (asked(NET, opts=("t9.trainer_cfg.seed=1",)), "no config has a stage t9"),
    "twice": (asked(NET, cfgs=("net.yaml", "net.yaml")), "two methods are called net; name them: LABEL=net.yaml"),
    "a yardstick of pictures": (asked(NET, yardsticks=("gait_energy_image",)), "it measures silhouettes and these"),
    "a share of no stage": (asked(NET, split={"t1": 0.5}), "--split t1: no config has a stage t1"),
    # how long
    "a share of no length": (asked(STAGES, split={"t1": 0.5}), "shares out a length, and there is none; add --minutes"),
    "all of it": (asked(STAGES, split={"t1": 0.6, "t2": 0.6}, iterations=9), "t1=0.6, t2=0.6 leave nothing for the"),
    "two for three": (asked(STAGES, iterations=2), "--iterations 2: both has 3 stages; give each at least one"),
    "no budget": (asked(NET, written("b.json", '{"net": 1}'), minutes=1.0, budget_from=Path("b.json")),
                  "b.json: is no budget file of bpmt compare ("),
    # on which splits
    "a fold too far": (asked(NET, folds=2, fold=(2,)), "--fold 2: there are folds 0 to 1; correct it or --folds"),
    "two folders of folds": (two("data_cfg: {dataset_partition: x/data.json}", folds=2), "give --fold-dir"),
    "folds without end": (asked(NET, folds=10**20), "fold0.json: there is no such fold; give --fold-dir"),
    "no root": (asked(NET, root=Path("nodir"), folds=2), "--root nodir: there is no such folder"),
    "no root, absolute": (asked(NET, root=Path("/nodir")), "--root /nodir: there is no such folder"),
    "a root without folds": (asked(NET, root=Path("data"), folds=2), "--root data: has no folder folds; let the conv"),
    "no fold": (asked(NET, folds=2), "fold0.json: there is no such fold; give --fold-dir"),
    "two protocols": (two("evaluator_cfg: {same_camera: keep}"), "same_camera is 'drop' for net and 'keep' for other"),
    "two tests": (asked(NET, swapped, cfgs=("net.yaml", "other.yaml")), "other would be tested on other sequences"),
    # in which folder
    "a file": (asked(NET, written("out", "")), "--out out: is a file; name a folder"),
    "something else": (asked(NET, written("out/x", "")), "--out out: holds something else than a comparison"),
    "another budget": (again(iterations=1), "holds a comparison with another budget ("),
    "another test": (again(tests={"x": Path("data")}), "its test sets are walkers, those asked for x; give"),
    "other sequences": (again(lambda plan: plan["data"]["split"]["tests"].update(walkers="0")),
                        "split, test walkers was made with other sequences than there are now"),
    "other training": (again(lambda plan: plan["data"]["split"]["train"].update({"net@untrained": "0"})),
                       "net@untrained was trained on other sequences than there are now; restore the data, or"),
    "a plan in words": (again(lambda plan: plan.update(data=[])), "out/comparison.json: is damaged (AttributeError: "),
    "other settings": (again(opts=("model_cfg.width=16",)), "stands there with other settings (model_cfg.width: 8"),
    "a damaged result": (asked(DONE, damaged, report=True), "a result in it is damaged (TypeError: "),
    # as others have published
    "fewer people": (printed, "data.json: 2 training people, a takes 9; give the benchmark's whole list"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
