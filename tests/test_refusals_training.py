"""Every refusal of a training, its parts and its processes in; for each what leads to it, and what is said, out. As
test_refusals.py."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tiny
import torch
import yaml
from branching import Act, check
from fuzz_commands import home, inside

from bpmt_ext.config import Settings, load_settings
from bpmt_ext.data.exchange import ExchangedBodies, bone_paths
from bpmt_ext.data.sequences import Reader, Record, SequenceSet, Splits
from bpmt_ext.engine import actions, distributed, stages
from bpmt_ext.engine import check as checking
from bpmt_ext.engine.compiling import compiling
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.preparation import check_validation
from bpmt_ext.engine.stages import train_config
from bpmt_ext.registry import get_method
from bpmt_ext.skeletons import get_skeleton

FILES = ("data/exchange.py", "engine/actions.py", "engine/check.py", "engine/compiling.py", "engine/distributed.py",
         "engine/loop.py", "engine/parts.py", "engine/preparation.py", "engine/progress.py", "engine/solvers.py",
         "engine/stages.py")  # fmt: skip
ALONE, PLACE = World(0, 1, torch.device("cpu")), Path("output/walkers/BPMT/net/checkpoints")
NOBODY = SequenceSet([])


def nothing(*_: object) -> None:
    """What is done to a folder that stays as it is."""


@contextmanager
def placed(folder: Path, before: Callable[[Path], object]) -> Iterator[None]:
    """In a folder with configs and data, after something was done to it."""
    tiny.write_configs(folder)
    for name in ("net.yaml", "act.yaml", "data", "data.json", "actions.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(home() / name)
    with inside(folder):
        before(folder)
        yield


def train(*opts: str, name: str = "net", before: Callable[[Path], object] = nothing) -> Act:
    def act(folder: Path) -> None:
        with placed(folder, before):
            train_config(load_settings(f"{name}.yaml", opts), ALONE, Path("output"), opts, folder)

    return act


def both(*opts: str) -> Act:
    """A training after two others."""
    return train("data_cfg.validation=0", "trainer_cfg.val_iter=0", "trainer_cfg.sampler.batch_size=[2, 1]", *opts,
                 name="both")  # fmt: skip


@functools.cache
def state() -> dict[str, Any]:
    """The checkpoint of a training of two iterations."""
    with tempfile.TemporaryDirectory() as folder:
        train("trainer_cfg.total_iter=2", "trainer_cfg.save_iter=2")(Path(folder))
        return torch.load(Path(folder, PLACE, "net-00002.pt"), weights_only=True)


def resumed(*opts: str, **changes: Any) -> Act:
    """The same training again, from its checkpoint with other entries."""

    def before(_: Path) -> None:
        PLACE.mkdir(parents=True)
        torch.save(state() | changes, PLACE / "net-00002.pt")

    return train("trainer_cfg.total_iter=2", *opts, before=before)


def parted(folder: Path) -> None:
    """Two processes, one of which has a checkpoint that the other does not see."""
    with patch.object(World, "gather_objects", lambda self, value: [value, "net at iteration 9"]):
        train()(folder)


def unfinished(folder: Path) -> None:
    """An earlier stage whose training leaves nothing."""
    with patch.object(stages, "train_config", nothing):
        both()(folder)


def without_confidence(folder: Path) -> None:
    for name in ("data", "data.json"):
        (folder / name).unlink()
    tiny.write_data(folder / "data", train=2, test=2, cameras=2, frames=(2, 3), channels=2)


def checked(folder: Path) -> None:
    """The report on data of which one file is damaged."""

    def before(folder: Path) -> None:
        (folder / "data").unlink()
        shutil.copytree(home() / "data", folder / "data")
        next((folder / "data").rglob("*.pkl")).write_bytes(b"x")

    with placed(folder, before):
        checking.run(load_settings("net.yaml"))


def records(*labels: str) -> SequenceSet:
    """One sequence of each, of two bodies."""
    places = [Path(f"{label}{k}") for k, label in enumerate(labels)]
    reader = Reader(arrays={place: np.ones((3, 25, 3), np.float32) for place in places}, cache=True)
    return SequenceSet([Record(label, "a", "v", (place,)) for label, place in zip(labels, places, strict=True)],
                       reader=reader)  # fmt: skip


def exchanged(joint_format: str) -> Act:
    return lambda _: ExchangedBodies(records("a", "b"), get_skeleton(joint_format), 2, 0)


def split(train: SequenceSet, val: SequenceSet = NOBODY, test: SequenceSet = NOBODY) -> Splits:
    return Splits(train, val, test, probes=None, dropped={})


def recognised(*opts: str, classes: int = 3, name: str = "act") -> Act:
    """Three actions told apart by a network of so many classes."""

    def act(folder: Path) -> None:
        with placed(folder, nothing):
            settings = load_settings(f"{name}.yaml", opts)
            run = stages.build_run(settings, split(NOBODY), ALONE, Path("x"), classes=classes)
        actions.predict(run, records("bow", "jump", "wave"), progress=False)

    return act


def sides(call: Callable[[Settings, Splits], object], made: Splits) -> Act:
    return lambda _: call(load_settings(home() / "act.yaml"), made)


def matchless(settings: Settings, made: Splits) -> None:
    check_validation(load_settings(home() / "net.yaml", ["trainer_cfg.val_iter=1"]), made, get_method("BPMT"))


def processes(environment: dict[str, str], error: Exception | None = None, *, gpus: int | None = None) -> Act:
    """What torchrun sets, on a machine with so many GPUs, and what happens to this process."""

    def act(_: Path) -> None:
        cuda = {"is_available": lambda: gpus is not None, "device_count": lambda: gpus}
        with patch.dict("os.environ", environment), patch.multiple(torch.cuda, **cuda), distributed.world():
            raise error or AssertionError("nothing was refused")

    return act


def compiled(_: Path) -> None:
    """What torch raises where there is no compiler; its module takes long to import."""
    kind = type("InvalidCxxCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    with compiling("default"):
        raise kind("No working C++ compiler found\nmore")


def graph(*opts: str) -> Act:
    """A training of GaitTR, which reads poses of ten numbers a joint and has no classifier."""

    def before(_: Path) -> None:
        values = tiny.base(total_iter=1) | {"model_cfg": {"model": "GaitTR", "in_channels": [10, 32], "num_class": 8}}
        Path("graph.yaml").write_text(yaml.safe_dump(values))

    return train("data_cfg.validation=0", "trainer_cfg.val_iter=0", "trainer_cfg.sampler.batch_size=[2, 1]", *opts,
                 name="graph", before=before)  # fmt: skip


RATES, EARLIER = "scheduler_cfg={max_lr: null, scheduler: %s}", "model_cfg.stages={%s}"
CASES: dict[str, tuple[Act, str]] = {
    # what is trained
    "half a body": (train("model_cfg.bodies=0"), "model_cfg.bodies is 0; give a whole number"),
    "no losses": (train("loss_cfg=[]"), "loss_cfg: is empty; BPMT needs a loss, one of TripletLoss"),
    "no loss": (train("loss_cfg.0.type=TripletLos"), "there is no loss 'TripletLos'; did you mean TripletLoss?"),
    "another network's loss": (graph(), "loss_cfg.1.type: GaitTR has no output for CrossEntropyLoss; leave it"),
    "a margin below 0": (train("loss_cfg.0.margin=-1"), "--opts: loss_cfg.0.margin: margin must be"),
    "a margin beyond all": (train(f"loss_cfg.0.margin=1{'0' * 400}"), "--opts: loss_cfg.0.margin: margin must be"),
    "one name": (train("loss_cfg.0.log_prefix=softmax"), "two losses are logged as 'softmax'; give each a log_prefix"),
    "no output": (train("model_cfg.num_class=0"), "the network has no logits for CrossEntropyLoss; leave this"),
    "no protocol": (train("evaluator_cfg.eval_func=evaluate_Gait3d"), "no protocol 'evaluate_Gait3d'; did you"),
    "one identity": (train("data_cfg.train_labels=1"), "data.json: 1 training identity; metric learning needs"),
    "bodies in a picture": (train("data_cfg.exchanged_bodies=1"), "exchanged_bodies: bones in a picture (coco17)"),
    "bodies of too few": (exchanged("kinectgait20"), "exchanged_bodies: 2, but a person has 1 others to train with"),
    "names of bodies": (lambda _: ExchangedBodies(records("a", "b", "a~b"), get_skeleton("ntu25"), 2, 0),
                        "exchanged_bodies: people are called a~b as those that it makes; rename them, or set it to 0"),
    "bones in a circle": (lambda _: bone_paths(get_skeleton("coco17")), "bones of coco17 run in a circle; set it to 0"),
    "bodies of classes": (train("data_cfg.exchanged_bodies=1", "evaluator_cfg.eval_func=evaluate_actions"),
                          "exchanged_bodies: the labels are classes, not people"),
    "pictures": (train("data_cfg.modality=silhouette"), "BPMT reads poses, the data are silhouettes"),
    "two channels": (train("model_cfg.streams=[joint, confidence]", before=without_confidence), "has 2 channels"),
    "another input": (graph("loss_cfg=[{type: TripletLoss, margin: 1}]"), "JointNoise makes (17, 3) of each"),
    "none to match": (sides(matchless, split(NOBODY, records("a", "b"))), "2 identities and none to match"),
    "not finite": (train("optimizer_cfg.lr=1e30", RATES % "ConstantLR", "trainer_cfg.total_iter=3",
                         "trainer_cfg.clip_grad=null"), "the loss is not finite at iteration "),
    # how
    "sparse": (train("optimizer_cfg={solver: SparseAdam, lr: 0.1}"), "takes sparse gradients only"),
    "a rate below 0": (train("optimizer_cfg.lr=-1"), "AdamW refuses its settings: Invalid learning rate"),
    "more than a step": (train(RATES % "ReduceLROnPlateau"), "it asks for metrics; choose another"),
    "a rise of no steps": (train("scheduler_cfg={scheduler: OneCycleLR, max_lr: 1, pct_start: 0.2, total_steps: 5}"),
                           "OneCycleLR would rise within pct_start * total_steps = 1 step; make total_steps 6"),
    "steps in words": (train(RATES % "StepLR, step_size: two"), "StepLR refuses its settings: "),
    "schedules in words": (train(RATES % "SequentialLR, schedulers: 3, milestones: [1]"),
                           "schedulers is 3; write a list of {scheduler: LinearLR, ...}"),
    "shares": (train("trainer_cfg.accumulate=3"), "accumulate 3 does not divide the 2 sequences that"),
    "no compiler": (compiled, "torch.compile failed (No working C++ compiler found); install a C++ compiler"),
    # what it goes on from
    "no such stage": (train(EARLIER % "t9: net.yaml"), "model_cfg.stages.t9: BPMT has no stage 't9'; did you mean t"),
    "no such config": (train(EARLIER % "t1: gone.yaml"), "gone.yaml: the config of stage t1 is missing; correct "),
    "no such checkpoint": (train(EARLIER % "t1: gone.pt"), "the checkpoint of stage t1 is missing; train it, or name"),
    "a stage without end": (unfinished, "t1.yaml: stage t1 has no finished checkpoint after training; see its log"),
    "another solver's state": (resumed(optimizer={"param_groups": []}), "(it has 0 groups of weights, this one"),
    "another schedule's state": (resumed(scheduler={}), "(it has no base_lrs, as OneCycleLR needs it); set"),
    "no step left": (resumed(f"trainer_cfg.restore_hint={PLACE}/net-00002.pt"), "its schedule has 0 of 2 iter"),
    "a longer training": (resumed("trainer_cfg.total_iter=1"), "belongs to a training of 2 iterations, trainer_cfg"),
    "figures in words": (resumed(engine={"tracker": 3}), "what it says of its training is damaged ("),
    "other people": (resumed("data_cfg.train_sequences=1"), "net-00002.pt: was trained or validated on other seq"),
    "other settings": (resumed("model_cfg.dropout=0.5"), "net-00002.pt: was trained with other settings (model_cfg"),
    "two places": (parted, "the processes see different checkpoints and would begin with net at iteration 0, net at"),
    # what is recognised
    "before it learned": (recognised(name="t1"), "reconstructs and names no class; test the stage after it"),
    "no classes": (recognised("model_cfg.num_class=0"), "model_cfg.num_class is 0: BPMTAction names"),
    "other classes": (recognised(classes=5), "the network tells 5 classes apart, the data has 3; test it with the"),
    "nobody to test": (sides(actions.action_counts, split(records("a", "b"))), "its test list has no sequence here"),
    "one class": (sides(actions.check_classes, split(records("a"))), "1 class has training sequences; recognition"),
    "classes of others": (sides(actions.check_classes, split(records("a", "b"), records("c"))), "classes of val are"),
    "a damaged file": (checked, "again); convert them again or take them out"),
    # several processes
    "a rank in words": (processes({"RANK": "x"}), "RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers ("),
    "no GPU": (processes({"LOCAL_RANK": "1"}, gpus=1), "local rank 1 has no GPU: this machine shows 1; give torchrun"),
    "nobody to meet": (processes({"WORLD_SIZE": "2", "MASTER_PORT": "x"}), "2 processes cannot meet ("),
    "no memory": (processes({}, MemoryError()), "this machine ran out of memory (MemoryError); in training raise"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
