"""Settings in, a trained network and a results file out: what one config asks for, earlier stages included.

A finetuning config names the stages before it (`model_cfg.stages: {t1: <yaml or checkpoint>, t2: ...}`). Training it
first trains those whose last checkpoint is not there yet; asked again, it repeats nothing. Options reach the stages so:
`t1.section.key=value` goes to that stage alone, `data_cfg.*` and `trainer_cfg.seed` go to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bpmt_ext.config import Settings, load_settings, suggestion
from bpmt_ext.data.exchange import ExchangedBodies
from bpmt_ext.data.sequences import Splits, load_splits
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.engine.actions import action_counts, check_classes
from bpmt_ext.engine.batchnorm import gather_statistics
from bpmt_ext.engine.checkpoint import (
    check_writable,
    checkpoint_path,
    find_iterations,
    load_checkpoint,
    load_stage,
)
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.logs import log
from bpmt_ext.engine.loop import check_training, train
from bpmt_ext.engine.parts import (
    Objective,
    Run,
    changed_keys,
    classifies,
    refuse_other_data,
    seed_everything,
    warn_of_changes,
)
from bpmt_ext.engine.preparation import check_channels, check_input, check_modality, check_validation
from bpmt_ext.errors import UserError
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.classification import CLASSIFICATION
from bpmt_ext.metrics.protocols import PROTOCOLS, protocol_counts
from bpmt_ext.registry import Method, build_network, get_method
from bpmt_ext.skeletons import Skeleton, get_skeleton, of_bodies, skeleton_from_mapping


def run_folder(settings: Settings, output: Path, *, testing: bool = False) -> Path:
    """`<output>/<dataset_name>/<model>/<save_name>`."""
    engine = settings.evaluator_cfg if testing else settings.trainer_cfg
    return output / settings.data_cfg.dataset_name / settings.model_cfg.model / engine.save_name


def data_skeleton(settings: Settings) -> Skeleton:
    """The joint format of the data: a name of the table or the user's own."""
    own = settings.data_cfg.skeleton
    return skeleton_from_mapping(own) if own is not None else get_skeleton(settings.data_cfg.joint_format)


def pose_skeleton(settings: Settings) -> Skeleton:
    """The joints of a pose as one skeleton: of all bodies that model_cfg.bodies says it holds."""
    bodies = settings.model_cfg.free.get("bodies", 1)
    if isinstance(bodies, bool) or not isinstance(bodies, int) or bodies < 1:
        raise UserError(f"{settings.where('model_cfg.bodies')} is {bodies!r}; give a whole number of at least 1")
    return of_bodies(data_skeleton(settings), bodies)


def load_data(settings: Settings) -> Splits:
    """The sets the config names, with the people that data_cfg.exchanged_bodies makes of those to train on."""
    return with_exchanged_bodies(settings, load_recorded(settings))


def load_recorded(settings: Settings) -> Splits:
    """The sets the config names, as they were recorded."""
    splits = load_splits(settings.data_cfg, joints=pose_skeleton(settings).num_joints)
    for kind, count in splits.dropped.items():
        if count:
            log.info("left out: %d %s", count, kind.replace("_", " "))
    return splits


def with_exchanged_bodies(settings: Settings, splits: Splits) -> Splits:
    """The training set with the people that data_cfg.exchanged_bodies adds to it."""
    data = settings.data_cfg
    if not data.exchanged_bodies or not len(splits.train):  # a list for tests alone has nobody to train on
        return splits
    if classifies(settings):
        raise UserError("data_cfg.exchanged_bodies: the labels are classes, not people; set it to 0")
    train = ExchangedBodies(splits.train, pose_skeleton(settings), data.exchanged_bodies, settings.trainer_cfg.seed)
    return replace(splits, train=train)


def check_protocol(settings: Settings, splits: Splits) -> dict[str, Any]:
    """Counts of the test protocol; UserError if it has no valid probe, or nothing to recognise."""
    if classifies(settings):
        return action_counts(settings, splits)
    test, name = splits.test, settings.evaluator_cfg.eval_func
    labels = [record.label for record in test.records]
    counts = protocol_counts(name, labels, test.types, test.views, **protocol_rule(settings, splits))
    if counts["protocol"] != name:
        log.warning("%s: %s has no rule for %s; measured by %s", settings.where("evaluator_cfg.eval_func"), name,
                    settings.data_cfg.test_dataset_name, counts["protocol"])
    return counts


def protocol_rule(settings: Settings, splits: Splits) -> dict[str, Any]:
    """What the config says about who is compared with whom."""
    e = settings.evaluator_cfg
    return {
        "dataset": settings.data_cfg.test_dataset_name, "probes": splits.probes, "same_camera": e.same_camera,
        "camera": e.camera, "cross_view_gallery": e.cross_view_gallery,
    }


def build_objective(settings: Settings, method: Method) -> Objective:
    """The losses of the config, each fed from the outputs the registry names."""
    if method.losses is None:
        return Objective([])
    if not settings.loss_cfg:
        raise UserError(f"{settings.where('loss_cfg')}: is empty; {settings.model_cfg.model} needs a loss, "
                        f"one of {', '.join(method.losses)}")
    rows = []
    for i, loss_cfg in enumerate(settings.loss_cfg):
        where = settings.where(f"loss_cfg.{i}.type")
        if loss_cfg.type not in LOSSES:
            raise UserError(f"{where}: there is no loss {loss_cfg.type!r}{suggestion(loss_cfg.type, LOSSES)}")
        if loss_cfg.type not in method.losses:
            raise UserError(f"{where}: {settings.model_cfg.model} has no output for {loss_cfg.type}; leave it out")
        loss_class = LOSSES[loss_cfg.type]
        arguments = settings.arguments(loss_class, f"loss_cfg.{i}", supplied=("loss_term_weight",))
        try:
            loss = loss_class(**arguments, loss_term_weight=loss_cfg.loss_term_weight)
        except (ValueError, TypeError) as error:  # most begin with the argument
            key = str(error).partition(" ")[0]
            place = settings.where(f"loss_cfg.{i}.{key if key in arguments else 'type'}")
            raise UserError(f"{place}: {error}") from error
        prefix = loss_cfg.log_prefix or loss_cfg.type
        if prefix in [row[0] for row in rows]:
            raise UserError(f"{where}: two losses are logged as {prefix!r}; give each a log_prefix of its own")
        rows.append((prefix, loss, method.losses[loss_cfg.type]))
    return Objective(rows)


def build_run(
    settings: Settings, splits: Splits, world: World, folder: Path, *, classes: int | None = None, trust: bool = False
) -> Run:
    """The network, its losses and transforms, with initial weights from trainer_cfg.seed.

    classes: how many the head tells apart, as many as there are training identities unless given. trust: of the
    checkpoints it will read, see `load_checkpoint`.
    """
    name = settings.model_cfg.model
    method, skeleton = get_method(name), data_skeleton(settings)
    supplied = ("skeleton",)
    arguments = settings.arguments(method.network(), "model_cfg", supplied=supplied)
    seed_everything(settings.trainer_cfg.seed, 0, 0)
    classes = len(splits.train.label_set) if classes is None else classes
    network = build_network(name, arguments, skeleton=skeleton, classes=classes, where=settings.where("model_cfg"))
    check_modality(settings, network)
    if settings.trainer_cfg.sync_BN and world.size > 1:
        network = gather_statistics(network, world.device)
    return Run(
        settings=settings,
        method=method,
        network=network,
        objective=build_objective(settings, method),
        splits=splits,
        train_transform=build_transform(settings.trainer_cfg.transform, pose_skeleton(settings)),
        test_transform=build_transform(settings.evaluator_cfg.transform, pose_skeleton(settings)),
        world=world,
        folder=folder,
        trust=trust,
    )


def stage_options(opts: Sequence[str], stage: str) -> list[str]:
    """Of the command line's options those that concern an earlier stage."""
    own = [text.removeprefix(f"{stage}.") for text in opts if text.startswith(f"{stage}.")]
    shared = [text for text in opts if text.startswith(("data_cfg.", "trainer_cfg.seed="))]
    inner = [text for text in opts if text.split(".", 1)[0] in ("t1", "t2") and not text.startswith(f"{stage}.")]
    return shared + own + inner


def finished_checkpoint(settings: Settings, output: Path) -> Path | None:
    """The checkpoint a finished training hands on: the best on validation, else the last; None if it is unfinished."""
    folder, name = run_folder(settings, output) / "checkpoints", settings.trainer_cfg.save_name
    if settings.trainer_cfg.total_iter not in find_iterations(folder, name):
        return None
    best = checkpoint_path(folder, name, "best")
    return best if best.is_file() else checkpoint_path(folder, name, settings.trainer_cfg.total_iter)


def earlier_stages(
    settings: Settings, world: World, output: Path, opts: Sequence[str], root: Path, trust: bool = False
) -> list[tuple[str, Path]]:
    """(name, checkpoint) of every earlier stage, in order, trained now where no finished checkpoint stands."""
    method, found = get_method(settings.model_cfg.model), []
    for name, path in _stage_files(settings, method):
        if path.suffix not in (".yaml", ".yml"):
            found.append((name, path))
            continue
        inner = stage_options(opts, name)
        stage = load_settings(path, [text for text in inner if not text.startswith(("t1.", "t2."))], root)
        checkpoint = finished_checkpoint(stage, output)
        if checkpoint is not None:
            state = load_checkpoint(checkpoint)
            try:
                splits = load_splits(stage.data_cfg, pose_skeleton(stage).num_joints)
            except UserError as error:  # a finished stage needs its data no more
                log.warning("%s: taken as it is, its data are not at hand (%s)", checkpoint, error)
            else:
                refuse_other_data(checkpoint, state, stage, splits)
            warn_of_changes(checkpoint, changed_keys(state, stage))
        else:
            _check_handover(settings, stage, name, path)
            train_config(stage, world, output, inner, root, trust)
            checkpoint = finished_checkpoint(stage, output)
        if checkpoint is None:
            raise UserError(f"{path}: stage {name} has no finished checkpoint after training; see its log")
        found.append((name, checkpoint))
    return found


def _check_handover(settings: Settings, stage: Settings, name: str, path: Path) -> None:
    """UserError, before a stage is trained, if its weights would not fit the network that is to take them."""
    networks = []
    for each in (settings, stage):
        network = get_method(each.model_cfg.model).network()
        arguments = each.arguments(network, "model_cfg", supplied=("skeleton",))
        networks.append(build_network(each.model_cfg.model, arguments, skeleton=data_skeleton(each), classes=2))
    method = get_method(settings.model_cfg.model)
    prefixes, optional = method.stages[name], method.optional
    load_stage(networks[0], networks[1].state_dict(), path, prefixes=prefixes, optional=optional)


def _stage_files(settings: Settings, method: Method) -> list[tuple[str, Path]]:
    """(name, config or checkpoint) of the earlier stages, in order. UserError for one the network has not, or that is
    not there: told before the first of them is trained."""
    found = []
    for name, value in sorted(settings.model_cfg.stages.items()):
        if name not in method.stages:
            raise UserError(
                f"{settings.where(f'model_cfg.stages.{name}')}: {settings.model_cfg.model} has no stage {name!r}"
                f"{suggestion(name, method.stages)}"
            )
        path = Path(value)
        if not path.is_file():
            kind, remedy = "config", f"correct {settings.where(f'model_cfg.stages.{name}')}"
            if path.suffix not in (".yaml", ".yml"):
                kind, remedy = "checkpoint", "train it, or name its YAML file"
            raise UserError(f"{path}: the {kind} of stage {name} is missing; {remedy}")
        found.append((name, path))
    return found


def train_config(
    settings: Settings, world: World, output: Path, opts: Sequence[str], root: Path, trust: bool = False
) -> Run:
    """Train what a config describes, earlier stages first. Continues an interrupted run of the same name."""
    splits = load_data(settings)
    method = get_method(settings.model_cfg.model)
    check_validation(settings, splits, method)
    if not method.pretraining:
        name = settings.evaluator_cfg.eval_func
        if name not in (*PROTOCOLS, *CLASSIFICATION):
            where, known = settings.where("evaluator_cfg.eval_func"), (*PROTOCOLS, *CLASSIFICATION)
            raise UserError(f"{where}: there is no protocol {name!r}{suggestion(name, known)}")
        if classifies(settings):
            check_classes(settings, splits)
        if settings.trainer_cfg.with_test:
            check_protocol(settings, splits)
        if len(splits.train.label_set) < 2:
            raise UserError(
                f"{settings.data_cfg.dataset_partition}: {len(splits.train.label_set)} training identity; "
                "metric learning needs at least 2"
            )
    run = build_run(settings, splits, world, run_folder(settings, output), trust=trust)  # its faults cost no stage
    check_training(run)
    check_channels(run, splits.train)
    for section in ("trainer_cfg", "evaluator_cfg"):  # a test that cannot run is told before the training
        check_input(run, splits.train, section)
    if world.main:  # as is a folder that takes no checkpoint
        check_writable(run.checkpoints)
    stages = earlier_stages(settings, world, output, opts, root, trust)
    for name, path in stages:
        weights = load_checkpoint(path, trust)["model"]
        load_stage(run.network, weights, path, prefixes=run.method.stages[name], optional=run.method.optional)
    if world.main:
        trained = sum(p.numel() for p in run.network.parameters() if p.requires_grad)
        log.info(
            "%s: %d training sequences of %d labels, %d for validation; %s parameters to train",
            settings.model_cfg.model, len(splits.train), len(splits.train.label_set), len(splits.val), f"{trained:,}",
        )
    best = train(run)
    if world.main:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in best.items() if "/" not in name)
        log.info("%s: trained to iteration %d; best on validation: %s",
                 settings.model_cfg.model, settings.trainer_cfg.total_iter, figures or "not measured")
    return run
