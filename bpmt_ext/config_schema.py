"""The sections of a config: every key with its type, its default and what it means; contradictions are refused here.

The defaults here hold for keys that `configs/default.yaml` does not name. Strict types: what YAML read is what counts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _plain_name(name: str) -> str:
    if not name.strip() or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"names a folder and should be a word without slashes, got {name!r}")
    return name


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, AfterValidator(_plain_name)]
Camera = Literal["type_prefix", "view", "view_prefix"]
Order = Literal[
    "fixed_ordered", "fixed_unordered", "fixed_allordered",
    "unfixed_ordered", "unfixed_unordered", "unfixed_allordered",
    "all_ordered", "all_unordered", "all_allordered",
]  # fmt: skip


def _said(default: Any, description: str) -> Any:
    return Field(default=default, description=description)


class Section(BaseModel):
    """A section: unknown keys are refused, YAML's types are taken as they are, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenSection(Section):
    """A section that also carries the arguments of the class it names; they are checked against that class."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @property
    def free(self) -> dict[str, Any]:
        """The keys that are the class's own arguments."""
        return dict(self.model_extra or {})


class DataConfig(Section):
    """Which sequences there are and how they are read."""

    dataset_name: Name = Field(description="Name of the data set; the first folder of the output path")
    dataset_root: str | None = _said(None, "Folder that holds <label>/<type>/<view>/*.pkl")
    dataset_partition: str = Field(description="JSON file with TRAIN_SET, TEST_SET, optional VAL_SET and PROBE_SET; "
                                               "or, of actions, lists of sequences: TRAIN, TEST, optional VAL, CLASSES")
    num_workers: Count = _said(1, "Processes that read data beside the training process; 0 reads inside it")
    cache: bool = _said(True, "Keep sequences in memory once read")
    packed: bool | str = _said(
        False, "Read sequences from one memory-mapped file, made of the pickles on first use and again when they "
        "change: true puts it into dataset_root, a text names another folder"
    )
    frame_threshold: Count = _said(0, "Leave out sequences with this many frames or fewer")
    test_dataset_name: str | None = _said(None, "Name the test protocol is told; dataset_name where left out")
    remove_no_gallery: bool = _said(False, "Accepted because the hosts' configs carry it; has no effect there or here")
    data_in_use: list[bool | int] | None = _said(None, "Which modalities of a sequence are used; all where left out")
    transform_on: Literal["worker", "device"] = _said(
        "worker", "Where transforms run: in the processes that read, or on the training device, a whole batch at once; "
        "the numbers are the same",
    )
    modality: Literal["pose", "silhouette"] = _said(
        "pose", "What the pickles hold: poses (t, v, c), or silhouettes (t, h, w) of grey levels 0 to 255"
    )
    joint_format: str = _said(
        "coco17", "Joint format of the poses, a name of the skeleton table; model_cfg.joint_format where left out"
    )
    skeleton: dict[str, Any] | None = _said(None, "A joint format of your own, in place of joint_format")
    validation: float = Field(default=0.0, ge=0, lt=1, description="Share of the training labels held out, 0 = none")
    validation_seed: Count = _said(0, "Chooses which labels are held out")
    min_cameras: Positive = _said(1, "Leave out training subjects seen by fewer cameras than this")
    train_labels: Count = _said(0, "Train on this many labels (for learning curves), fewer are among more; 0 = all")
    train_sequences: Count = _said(0, "Train on at most this many sequences of a label, chosen likewise; 0 = all")
    exchanged_bodies: Count = _said(
        0, "In 3D: so often each training sequence is also taken with the bone lengths of another training person, as "
        "a person of its own"
    )
    camera: Camera = _said("type_prefix", "Where a sequence's camera is read: type or view, whole or up to the first _")
    camera_split: bool = _said(False, "Train on three quarters of each subject's cameras, validate on the others")
    missing_labels: Literal["error", "warn"] = _said("error", "What to do about listed labels absent on disk")

    @model_validator(mode="after")
    def _agree(self) -> DataConfig:
        if self.camera_split and self.validation:
            raise ValueError(
                f"camera_split true and validation {self.validation} both choose the validation set; drop one of them"
            )
        if self.camera_split and (self.train_labels or self.train_sequences):
            raise ValueError("train_labels and train_sequences do not go with camera_split, which divides each label")
        return self


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


class SamplerConfig(Section):
    """Which sequences make a batch and which of their frames are taken."""

    type: str = Field(
        description="Name of the sampler: TripletSampler, RandomTripletSampler, CommonSampler; tests: InferenceSampler"
    )
    batch_size: Annotated[Positive | list[Positive], BeforeValidator(_single)] = Field(
        description="Sequences in a batch over all processes, or [labels, sequences of each] for TripletSampler"
    )
    repeat: dict[str, Positive] | None = _said(
        None, "How often a training sequence is listed whose type begins so, as {bg: 3, cl: 3}; once where left out"
    )
    batch_shuffle: bool = _said(False, "Shuffle the sequences within a batch")
    sample_type: Order = Field(
        description="fixed: frames_num_fixed frames, unfixed: a random number, all: all of them; ordered: a "
        "window in order, unordered: random frames, allordered: random frames, sorted"
    )
    frames_num_fixed: Positive | None = _said(None, "Frames taken from a sequence (fixed_*)")
    frames_num_min: Count | None = _said(None, "Fewest frames taken (unfixed_*)")
    frames_num_max: Positive | None = _said(None, "Most frames taken (unfixed_*)")
    frames_skip_num: Count | None = _said(None, "Frames by which the window is longer than what is taken (*_ordered)")
    frames_all_limit: Positive | None = _said(None, "Longest sequence that is taken whole, cut beyond (all_*)")
    P_max: Positive | None = _said(None, "Most labels in a batch (RandomTripletSampler)")
    K_max: Positive | None = _said(None, "Most sequences of a label in a batch (RandomTripletSampler)")

    @model_validator(mode="after")
    def _agree(self) -> SamplerConfig:
        faults = []
        low, high, kind = self.frames_num_min, self.frames_num_max, self.sample_type.partition("_")[0]
        if low is not None and high is not None and low > high:
            faults.append(f"frames_num_min {low} is larger than frames_num_max {high}; swap or correct them")
        if kind == "unfixed" and (low is None or high is None):
            faults.append(f"sample_type {self.sample_type} needs frames_num_min and frames_num_max; write both")
        if kind == "fixed" and self.frames_num_fixed is None:
            faults.append(f"sample_type {self.sample_type} needs frames_num_fixed; write it")
        pair = isinstance(self.batch_size, list)
        if self.type == "TripletSampler" and not (pair and len(self.batch_size) == 2):
            faults.append(f"TripletSampler takes batch_size as [labels, sequences of each], got {self.batch_size}")
        if self.type in ("CommonSampler", "InferenceSampler", "RandomTripletSampler") and pair:
            faults.append(f"{self.type} takes batch_size as one number, got {self.batch_size}")
        if faults:
            raise ValueError("\n".join(faults))
        return self


def _transforms(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Transforms = Annotated[list[dict[str, Any]], BeforeValidator(_transforms)]


class EvaluatorConfig(Section):
    """How a trained network is tested."""

    enable_float16: bool = _said(False, "Test in half precision (fp16 on a GPU, bf16 on a CPU that knows it)")
    restore_ckpt_strict: bool = _said(True, "Refuse a checkpoint with missing or unexpected keys")
    restore_hint: Count | str = _said("last", "Checkpoint to test: an iteration, a file, last or best")
    save_name: Name = Field(description="Name of the run whose checkpoint is tested; the trainer's where left out")
    eval_func: str = Field(description="Name of the protocol; evaluate_actions names classes in place of ranking")
    sampler: SamplerConfig = Field(description="Sampler of the test")
    transform: Transforms = Field(description="Transforms of the test, one {type: ..., parameters} each")
    metric: Literal["euc", "cos"] = _said("euc", "Distance: mean Euclidean or one minus mean cosine over the parts")
    cross_view_gallery: bool = _said(False, "Gallery of all views without the probe's own (indoor sets)")
    same_camera: Literal["keep", "drop", "drop_all"] = _said(
        "keep", "Gallery entries from the probe's camera: keep, drop those of the same subject, drop_all of them"
    )
    camera: Camera | None = _said(None, "As data_cfg.camera, which holds where this is left out")


class LossConfig(OpenSection):
    """One loss; further keys are its own arguments."""

    type: str = Field(description="Name of the loss")
    log_prefix: str | None = _said(None, "Name in logs, and of the network output the loss is fed from")
    loss_term_weight: float = Field(default=1.0, ge=0, description="Weight of the loss in the sum")


def _without_nothing(value: Any) -> Any:
    return {name: path for name, path in value.items() if path is not None} if isinstance(value, dict) else value


class ModelConfig(OpenSection):
    """The network; further keys are its own arguments."""

    model: str = Field(description="Name of the network")
    joint_format: str | None = _said(None, "Joint format as the hosts' configs give it; data_cfg.joint_format is ours")
    stages: Annotated[dict[str, str], BeforeValidator(_without_nothing)] = _said(
        {}, "Earlier stages by name: their config or their checkpoint; null takes one out"
    )


class OptimizerConfig(OpenSection):
    """The solver; further keys (lr, weight_decay, ...) are its own arguments."""

    solver: str = Field(description="Name of a class of torch.optim")


class SchedulerConfig(OpenSection):
    """The learning-rate schedule, stepped every iteration; further keys are its own arguments."""

    scheduler: str = Field(description="Name of a class of torch.optim.lr_scheduler")


def _spelt_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


class TrainerConfig(Section):
    """How the network is trained."""

    enable_float16: bool = _said(False, "Train in half precision (fp16 on a GPU, bf16 on a CPU that knows it)")
    with_test: bool = _said(
        False, "Test at the end of the training (a host: at every checkpoint): the best checkpoint "
        "if evaluator_cfg.restore_hint is best, else the last"
    )
    fix_BN: bool = _said(False, "Freeze all BatchNorm layers")
    sync_BN: bool = _said(False, "BatchNorm statistics of all processes together")
    log_iter: Positive = _said(100, "Iterations between two lines of the log")
    save_iter: Positive = _said(2000, "Iterations between two checkpoints")
    save_name: Name = _said("tmp", "Name of the run; the last folder of the output path")
    total_iter: Positive = Field(description="Iterations to train")
    restore_hint: Count | str = _said(0, "Start from: 0 nothing, an iteration of this run, a file, auto the newest")
    restore_ckpt_strict: bool = _said(True, "Refuse a checkpoint with missing or unexpected keys")
    optimizer_reset: bool = _said(False, "Do not take the optimizer from the checkpoint")
    scheduler_reset: bool = _said(False, "Do not take the schedule from the checkpoint")
    sampler: SamplerConfig = Field(description="Sampler of the training")
    transform: Transforms = Field(description="Transforms of the training, one {type: ..., parameters} each")
    seed: Count = _said(0, "Seed of the initial weights and of every random draw")
    val_iter: Count = _said(0, "Iterations between two validations, 0 = never")
    precision: Annotated[Literal["off", "bf16", "fp16"] | None, BeforeValidator(_spelt_off)] = _said(
        None, "off, bf16 or fp16; where left out, enable_float16 decides"
    )
    compile: Annotated[Literal["off", "default", "reduce-overhead"], BeforeValidator(_spelt_off)] = _said(
        "off", "Compile the training's network with torch.compile, which takes a minute first and a C++ compiler (on a "
        "GPU Triton): default, or reduce-overhead, which on a GPU replays CUDA graphs; only rounding differs",
    )
    accumulate: Positive = _said(
        1, "Share a batch among this many passes, one after the other, for less memory: a step's gradient is the mean "
        "of theirs. Losses that compare sequences and BatchNorm see one share at a time; with TripletSampler and no "
        "batch_shuffle a share holds whole labels if their number is a multiple",
    )
    clip_grad: float | None = Field(default=None, gt=0, description="Largest norm of the gradient, not cut if left out")

    @model_validator(mode="after")
    def _agree(self) -> TrainerConfig:
        if self.enable_float16 and self.precision == "off":
            raise ValueError("enable_float16 true and precision off contradict each other; drop one of them")
        return self
