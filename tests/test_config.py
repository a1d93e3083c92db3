"""Config texts in; merged settings, and one sentence for every fault, out."""

from __future__ import annotations

import logging
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from bpmt_ext import config_schema
from bpmt_ext.config import Settings, component_arguments, configs_folder, datasets_folder, load_settings, settings_from
from bpmt_ext.config_checks import known_fields
from bpmt_ext.config_layers import parse_yaml
from bpmt_ext.engine.run import as_trained
from bpmt_ext.errors import UserError

MODEL = {"model_cfg": {"model": "BPMT"}}


def write(folder: Path, name: str, values: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def faults(values: dict, opts: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(UserError) as caught:
        settings_from(values, opts, root="/nowhere", source="mine.yaml")
    return str(caught.value).split("\n")


# merging


def test_mappings_merge_and_everything_else_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", MODEL | {"trainer_cfg": {"total_iter": 7, "sampler": {"batch_size": [2, 3]}}})
    write(tmp_path, "sub/mid.yaml", {"base": "../low.yaml", "trainer_cfg": {"total_iter": 8, "seed": 3}})
    top = write(tmp_path, "top.yaml", {"base": "sub/mid.yaml", "trainer_cfg": {"total_iter": 9}})
    settings = load_settings(top, root=tmp_path)
    trainer = settings.trainer_cfg
    assert (trainer.total_iter, trainer.seed, trainer.sampler.batch_size) == (9, 3, [2, 3])
    assert trainer.sampler.type == "TripletSampler" and trainer.sampler.frames_num_fixed == 30  # the defaults'
    assert {"trainer_cfg.seed", "trainer_cfg.sampler.batch_size", "model_cfg.model", "trainer_cfg"} <= settings.written
    assert "trainer_cfg.save_iter" not in settings.written and "base" not in settings.resolved()
    assert settings.where("trainer_cfg.seed").startswith(str(tmp_path / "sub"))


def test_a_loss_mapping_merges_over_the_default_one_and_a_list_replaces_it() -> None:
    (loss,) = settings_from(MODEL | {"loss_cfg": {"margin": 0.3}}).loss_cfg
    assert (loss.type, loss.log_prefix, loss.free) == ("TripletLoss", "triplet", {"margin": 0.3})
    (loss,) = settings_from(MODEL | {"loss_cfg": [{"type": "TripletLoss"}]}).loss_cfg
    assert (loss.log_prefix, loss.free) == (None, {})
    (loss,) = settings_from(MODEL | {"loss_cfg": {"type": "CrossEntropyLoss", "scale": 16}}).loss_cfg
    assert loss.free == {"scale": 16}  # margin belongs to the default's loss


def test_what_an_upper_file_replaces_counts_as_written_no_more(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", MODEL | {"loss_cfg": [{"type": "A"}, {"type": "B", "scale": 2}]})
    settings = load_settings(write(tmp_path, "top.yaml", {"base": "low.yaml", "loss_cfg": [{"type": "C"}]}))
    assert {path for path in settings.written if path.startswith("loss_cfg.")} == {"loss_cfg.0", "loss_cfg.0.type"}


def test_a_section_without_keys_says_nothing_and_the_defaults_as_base_are_not_the_users(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", f"base: {configs_folder()}/default.yaml\nmodel_cfg: {{model: B}}\ntrainer_cfg:")
    assert load_settings(path, root=tmp_path).written == {"model_cfg", "model_cfg.model"}


def test_a_circle_of_bases_and_a_missing_base_are_told(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b.yaml")
    path = write(tmp_path, "b.yaml", "base: a.yaml")
    with pytest.raises(UserError, match=r"circle \(b.yaml -> a.yaml -> b.yaml\)"):
        load_settings(path)
    with pytest.raises(UserError, match=r"c\.yaml: base names .*nix\.yaml, which does not exist"):
        load_settings(write(tmp_path, "c.yaml", "base: nix.yaml"))


def test_options_override_and_reach_into_lists() -> None:
    losses = [{"type": "TripletLoss", "margin": 1}, {"type": "CrossEntropyLoss"}]
    opts = ("loss_cfg.0.margin=2e-1", "trainer_cfg.sampler.batch_size=[4, 2]", "model_cfg.stages.t1=x.pt",
            "evaluator_cfg.transform.0.type=Compose", "loss_cfg.1.label_smooth=yes")  # fmt: skip
    settings = settings_from(MODEL | {"loss_cfg": losses}, opts, root="/r")
    assert settings.loss_cfg[0].free == {"margin": 0.2} and settings.loss_cfg[1].free == {"label_smooth": True}
    assert settings.trainer_cfg.sampler.batch_size == [4, 2] and settings.model_cfg.stages == {"t1": "/r/x.pt"}
    assert settings.evaluator_cfg.transform == [{"type": "Compose"}]
    assert "loss_cfg.0.margin" in settings.written and settings.where("loss_cfg.0.margin").startswith("--opts")
    assert {"evaluator_cfg", "trainer_cfg", "trainer_cfg.sampler"} <= settings.written
    for key in ("loss_cfg.margin=0.5", "loss_cfg.0.margin=0.5"):  # the default loss is a single one
        assert settings_from(MODEL, (key,)).loss_cfg[0].free == {"margin": 0.5}
    assert losses[0]["margin"] == 1, "the caller's values stay as they are"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("seed", "section.key=value"),
        (".=1", "section.key=value"),
        ("loss_cfg.2.margin=1", "a list of 1, so '2' should be an index from 0 to 0"),
        ("trainer_cfg.seed.x=1", "trainer_cfg.seed is 0 and has no keys"),
        ("trainer_cfg.seed=[1", "not readable as YAML"),
        ("trainer_cfg.sed=1", "did you mean seed?"),
    ],
)
def test_a_wrong_option_is_told(option: str, text: str) -> None:
    (line,) = faults(MODEL | {"loss_cfg": [{"type": "TripletLoss"}]}, (option,))
    assert line.startswith("--opts") and text in line


# faults


def test_all_faults_are_told_at_once_with_their_files(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", {"optimizer_cfg": {"weight_decy": 1e-4}, "data_cfg": {"cach": True}})
    path = write(
        tmp_path, "top.yaml",
        {"base": "low.yaml", "trainr_cfg": {"seed": 1}, "trainer_cfg": {"total_iter": "many", "seed": -1},
         "evaluator_cfg": {"sampler": {"sample_type": "fixed_orderd"}, "total_iter": 3},
         "scheduler_cfg": {"scheduler": "OneCicleLR"}},
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        load_settings(path, ["trainer_cfg.log_itr=3", "oops"], root=tmp_path)
    low, top = tmp_path / "low.yaml", tmp_path / "top.yaml"
    expected = {
        (f"{low}: optimizer_cfg.weight_decy", "did you mean weight_decay?"),
        (f"{low}: data_cfg.cach", "did you mean cache?"),
        (f"{top}: trainr_cfg", "did you mean trainer_cfg?"),
        (f"{top}: trainer_cfg.total_iter", "got 'many'"),
        (f"{top}: trainer_cfg.seed", "got -1"),
        (f"{top}: evaluator_cfg.sampler.sample_type", "did you mean fixed_ordered?"),
        (f"{top}: evaluator_cfg.total_iter", "did you mean trainer_cfg.total_iter?"),
        (f"{top}: scheduler_cfg.scheduler", "did you mean OneCycleLR?"),
        ("--opts: trainer_cfg.log_itr", "did you mean log_iter?"),
        ("--opts oops", "section.key=value"),
        ("model_cfg", "missing; write it"),
    }
    lines = str(caught.value).split("\n")
    assert len(lines) == len(expected)
    for start, end in expected:
        assert len([line for line in lines if line.startswith(start) and end in line]) == 1, (start, lines)


FREE = {
    "optimizer_cfg": ("solver", "lr", "momentum", "weight_decay", "nesterov", "dampening"),
    "scheduler_cfg": ("scheduler", "max_lr", "total_steps", "pct_start", "three_phase", "final_div_factor"),
    "model_cfg": ("model",),
}
CLOSED = {section: names for section, names in known_fields(Settings).items() if section not in FREE}
KEYS = [(section, key) for section, names in (CLOSED | FREE).items() for key in names]


def apart(a: str, b: str) -> bool:
    """Whether one insertion, deletion, change or swap of neighbours turns a into b."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])


@settings(deadline=None)  # the first example imports torch
@given(st.sampled_from(KEYS), st.sampled_from("drop double swap change".split()), st.data())
def test_a_misspelt_key_gives_one_sentence_with_the_right_one(at: tuple, how: str, data: st.DataObject) -> None:
    section, key = at
    i = data.draw(st.integers(0, len(key) - 1 - (how == "swap")))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    wrong = {
        "drop": key[:i] + key[i + 1 :],
        "double": key[:i] + key[i] + key[i:],
        "swap": key[:i] + key[i + 1 : i + 2] + key[i] + key[i + 2 :],
        "change": key[:i] + letter + key[i + 1 :],
    }[how]
    everywhere = {name for names in (CLOSED | FREE).values() for name in names} | {"base", "on"}
    assume(wrong not in everywhere and len(wrong) > 1)
    assume(len({name for name in everywhere if apart(wrong, name)}) == 1)  # else nobody could tell which was meant
    values: dict = {} if key in ("model", "model_cfg") else {"model_cfg": {"model": "BPMT"}}
    node = values
    for part in section.split(".") if section else ():
        node = node.setdefault(part, {})
    node[wrong] = {"model": "BPMT"} if key == "model_cfg" else "BPMT"
    (line,) = faults(values)
    path = f"{section}.{wrong}".lstrip(".")
    assert line.startswith(f"mine.yaml: {path}: ") and line.endswith(f"did you mean {key}?")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"trainer_cfg": {"sampler": {"sample_type": "unfixed_ordered", "frames_num_min": 60}}}, "larger than"),
        ({"trainer_cfg": {"total_iter": 0}}, "trainer_cfg.total_iter should be greater than or equal to 1, got 0"),
        ({"trainer_cfg": {"total_iter": 9}, "scheduler_cfg": {"total_steps": 8}}, "scheduler_cfg.total_steps 8 is"),
        ({"trainer_cfg": {"sampler": {"batch_size": 8}}}, "TripletSampler takes batch_size as [labels"),
        ({"trainer_cfg": {"sampler": {"type": "CommonSampler"}}}, "CommonSampler takes batch_size as one number"),
        ({"trainer_cfg": {"enable_float16": True, "precision": False}}, "contradict"),
        ({"trainer_cfg": {"save_name": "../x"}}, "without slashes"),
        ({"trainer_cfg": {"seed": "5"}}, "trainer_cfg.seed should be a valid integer, got '5'"),
        ({"data_cfg": {"camera": "veiw"}}, "data_cfg.camera should be 'type_prefix', 'view' or 'view_prefix' (did you"),
        ({"data_cfg": {"validation": 0.1, "camera_split": True}}, "drop one of them"),
        ({"data_cfg": {"validation": 1.0}}, "should be less than 1"),
        ({"evaluator_cfg": {"sampler": {"batch_size": [2, 2]}}}, "InferenceSampler takes batch_size as one number"),
        ({"loss_cfg": [{"tpe": "TripletLoss"}]}, "loss_cfg.0.tpe: nothing takes this key; did you mean type?"),
        ({"optimizer_cfg": {"solver": "Adan"}}, "did you mean Adam?"),
        ({"optimizer_cfg": {"lr": "0,1"}}, "optimizer_cfg.lr should be a number, got '0,1'"),
        ({"scheduler_cfg": {"scheduler": "MultiStepLR"}}, "scheduler_cfg.milestones is missing; MultiStepLR needs it"),
    ],
)
def test_contradictions_and_wrong_values_are_refused(values: dict, text: str) -> None:
    (line,) = faults(MODEL | values)
    assert line.startswith("mine.yaml: ") and text in line


def test_a_batch_size_may_be_a_list_of_one() -> None:
    sampler = {"type": "CommonSampler", "batch_size": [128]}
    assert settings_from(MODEL | {"trainer_cfg": {"sampler": sampler}}).trainer_cfg.sampler.batch_size == 128


def test_contradictions_are_refused_on_construction_too() -> None:
    values = settings_from(MODEL).resolved()
    values["trainer_cfg"]["sampler"] |= {"frames_num_min": 9, "frames_num_max": 8}
    with pytest.raises(ValidationError, match="larger than"):
        Settings(**values)


# what nothing takes


def test_inherited_keys_go_silently_and_the_hosts_leftovers_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    schedule = {"scheduler": "MultiStepLR", "milestones": [5], "gamma": 0.5}
    values = MODEL | {"optimizer_cfg": {"solver": "Adam", "lr": 1e-3}, "scheduler_cfg": schedule}
    with caplog.at_level(logging.WARNING):
        settings = settings_from(values)
    assert not caplog.records
    assert settings.solver()[1] == {"lr": 1e-3, "weight_decay": 5e-4}
    assert settings.scheduler()[1] == {"milestones": [5], "gamma": 0.5}
    assert settings.inherited("optimizer_cfg") == {"weight_decay"}

    losses = [{"type": "SupConLoss_Lp", "loss_term_weight": 0.1}, {"type": "SupConLoss_Re", "loss_term_weight": 1}]
    old = settings_from(values | {"loss_cfg": losses})
    caplog.clear()
    sampler = {"frames_skip_num": 2, "frames_num_min": 3, "P_max": 4}
    values["data_cfg"] = {"remove_no_gallery": True}
    values["optimizer_cfg"] = {"solver": "Adam", "lr": 1e-3, "momentum": 0.9}
    values["scheduler_cfg"] = schedule | {"max_lr": 1, "three_phase": True}
    values |= {"loss_cfg": losses, "trainer_cfg": {"sampler": sampler}, "evaluator_cfg": {"sampler": sampler}}
    with caplog.at_level(logging.WARNING):
        settings = settings_from(values, source="host.yaml")
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith("host.yaml: ") and "loss_cfg.1" not in told
    for path in ("data_cfg.remove_no_gallery", "optimizer_cfg.momentum (Adam has none)", "scheduler_cfg.max_lr",
                 "scheduler_cfg.three_phase (MultiStepLR has none)", "trainer_cfg.sampler.frames_skip_num",
                 "trainer_cfg.sampler.frames_num_min", "evaluator_cfg.sampler.P_max", "loss_cfg.0.loss_term_weight"):
        assert path in told  # fmt: skip
    assert settings.loss_cfg[0].loss_term_weight == 1.0
    assert settings.fingerprint == old.fingerprint, "what has no effect makes no other run"


def test_a_leftover_that_asks_for_nothing_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    values = {"data_cfg": {"remove_no_gallery": False}, "trainer_cfg": {"sampler": {"frames_skip_num": 0}}}
    settings_from(MODEL | values)
    skip = {"sample_type": "fixed_ordered", "frames_skip_num": 4}
    assert settings_from(MODEL | {"trainer_cfg": {"sampler": skip}}).trainer_cfg.sampler.frames_skip_num == 4
    assert not caplog.records


def test_component_arguments_checks_names_against_the_signature() -> None:
    class Thing:
        def __init__(self, network: object, width: int, depth: int = 2, *, rate: float = 0.1, **rest: int): ...

    def check(given: dict, inherited: tuple[str, ...] = ()) -> dict:
        where = "a.yaml: model_cfg"
        return component_arguments(Thing, given, set(inherited), where, supplied={"network"}, also={"name"})

    assert check({"width": 3, "rate": 1, "old": 5}, ("old",)) == {"width": 3, "rate": 1}
    with pytest.raises(UserError) as caught:
        check({"depht": 3, "rate": "fast", "network": 1, "nme": 2})
    lines = str(caught.value).split("\n")
    assert lines[0] == "a.yaml: model_cfg.depht: Thing takes no such key; did you mean depth?"
    assert lines[1] == "a.yaml: model_cfg.rate should be a number, got 'fast'"
    assert lines[2].startswith("a.yaml: model_cfg.network: Thing takes no such key")
    assert lines[3].endswith("did you mean name?")
    assert lines[4:] == ["a.yaml: model_cfg.width is missing; Thing needs it"]
    with pytest.raises(UserError, match="widht") as caught:
        check({"widht": 3})
    assert "missing" not in str(caught.value), "a misspelt key is one fault, not two"


def test_arguments_of_a_section_know_what_the_user_wrote() -> None:
    class Loss:
        def __init__(self, scale: float = 1.0) -> None: ...

    written = settings_from(MODEL | {"loss_cfg": {"margin": 0.3, "log_prefx": "x"}}, source="b.yaml")
    with pytest.raises(UserError) as caught:
        written.arguments(Loss, "loss_cfg.0")
    lines = str(caught.value).split("\n")
    assert len(lines) == 2 and lines[0].startswith("b.yaml: loss_cfg.margin")
    assert lines[1] == "b.yaml: loss_cfg.log_prefx: Loss takes no such key; did you mean log_prefix?"
    assert settings_from(MODEL).arguments(Loss, "loss_cfg.0") == {}, "the default's margin goes silently"
    listed = settings_from(MODEL | {"loss_cfg": [{"type": "Loss", "scale": 3}]})
    assert listed.arguments(Loss, "loss_cfg.0") == {"scale": 3}
    assert listed.inherited("loss_cfg.0") == {"loss_term_weight"}


# joint formats, samplers, leftovers of the hosts' configs


def test_the_data_follow_the_joint_format_of_the_network() -> None:
    named = {"model_cfg": {"model": "GaitTR", "joint_format": "alphapose"}}
    settings = settings_from(named)
    assert settings.data_cfg.joint_format == "alphapose" and "joint_format" not in settings.model_cfg.free
    assert settings_from(yaml.safe_load(yaml.safe_dump(settings.resolved()))).resolved() == settings.resolved()
    assert settings_from(MODEL).data_cfg.joint_format == "coco17"
    same = settings_from(named | {"data_cfg": {"joint_format": "openpose18"}})  # another name of the same format
    assert same.data_cfg.joint_format == "openpose18"
    (line,) = faults(named | {"data_cfg": {"joint_format": "coco17"}})
    assert line == ("mine.yaml: model_cfg.joint_format alphapose contradicts data_cfg.joint_format coco17; "
                    "drop one of them")
    (line,) = faults(named | {"data_cfg": {"skeleton": {"name": "own"}}})
    assert "contradicts data_cfg.skeleton" in line
    (line,) = faults({"model_cfg": {"model": "GaitTR", "joint_format": "alphapos"}})
    assert "model_cfg.joint_format is refused: unknown joint format 'alphapos'" in line and "alphapose?" in line


def test_keys_of_ours_for_the_data_path() -> None:
    settings = settings_from(MODEL | {"data_cfg": {"transform_on": "device"}, "trainer_cfg": {
        "accumulate": 4, "sampler": {"type": "CommonSampler", "batch_size": 8, "repeat": {"bg": 3, "cl": 3}}}})
    assert settings.trainer_cfg.sampler.repeat == {"bg": 3, "cl": 3} and settings.data_cfg.transform_on == "device"
    for values, text in (
        ({"data_cfg": {"transform_on": "gpu"}}, "data_cfg.transform_on should be 'worker' or 'device'"),
        ({"trainer_cfg": {"accumulate": 0}}, "trainer_cfg.accumulate should be greater than or equal to 1"),
        ({"trainer_cfg": {"sampler": {"repeat": {"bg": 0}}}}, "repeat.bg should be greater"),
    ):
        (line,) = faults(MODEL | values)
        assert text in line


def test_a_test_sampler_without_a_type_is_the_defaults() -> None:
    sampler = {"batch_size": 256, "sample_type": "fixed_ordered", "frames_num_fixed": 60, "frames_skip_num": 0}
    settings = settings_from(MODEL | {"evaluator_cfg": {"sampler": sampler, "restore_hint": 6000}})
    assert settings.evaluator_cfg.sampler.type == "InferenceSampler" and settings.evaluator_cfg.restore_hint == 6000


def test_a_test_after_training_is_of_what_was_trained() -> None:
    for hint, after in ((40000, "last"), ("other.pt", "last"), ("best", "best"), ("last", "last")):
        values = {"evaluator_cfg": {"restore_hint": hint, "save_name": "b"}, "trainer_cfg": {"save_name": "a"}}
        tested = as_trained(settings_from(MODEL | values, root="/r")).evaluator_cfg
        assert (tested.restore_hint, tested.save_name) == (after, "a")


# YAML, paths, output


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans())
def test_numbers_are_read_as_numbers(value: object) -> None:
    for text in {repr(value), repr(value).replace("e-0", "e-").replace("e+", "e")}:
        read = parse_yaml(text, "x")
        assert read == value and type(read) is type(value)


def test_words_stay_words_and_off_is_a_precision() -> None:
    assert parse_yaml("[e5, 1e, 0x1e4, v1e-4, 1e-4x, '1e-4']", "x") == ["e5", "1e", 0x1E4, "v1e-4", "1e-4x", "1e-4"]
    free = settings_from(MODEL, ("model_cfg.freeze_t1=yes", "model_cfg.freeze_t2=last_layer")).model_cfg.free
    assert free == {"freeze_t1": True, "freeze_t2": "last_layer"}
    assert settings_from(MODEL, ("trainer_cfg.precision=off",)).trainer_cfg.precision == "off"


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: 1\nb: {c: 1, c: 2}", "line 2: 'c' twice"), ("a: [1", "line"), ("- 1", "holds a list"), ("a: \x01", "YAML"),
     ("!!python/object:os.system {}", "YAML"), ("d: 2024-13-45", "YAML")],
)  # fmt: skip
def test_a_file_that_is_no_config_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(UserError) as caught:
        load_settings(path)
    assert "bad.yaml" in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="UTF-8"):
        load_settings(path)
    with pytest.raises(UserError, match="nix.yaml: cannot be read"):
        load_settings("nix.yaml", root=tmp_path)


def test_paths_start_from_the_root_and_stages_also_from_their_file(tmp_path: Path) -> None:
    write(tmp_path, "cfg/t1.yaml", MODEL)
    write(tmp_path, "both.yaml", MODEL)
    write(tmp_path, "cfg/both.yaml", MODEL)
    stages = {"t1": "t1.yaml", "t2": "both.yaml", "t3": "run/x.pt"}
    data = {"dataset_root": "data", "dataset_partition": "/abs/p.json"}
    values = {"model_cfg": {"model": "B", "stages": stages}, "data_cfg": data, "trainer_cfg": {"restore_hint": "w.pt"}}
    write(tmp_path, "cfg/low.yaml", values)
    top = write(tmp_path, "top/a.yaml", {"base": "../cfg/low.yaml"})
    settings = load_settings(top.relative_to(tmp_path), root=tmp_path)
    paths = {"t1": "cfg/t1.yaml", "t2": "both.yaml", "t3": "run/x.pt"}
    assert settings.model_cfg.stages == {key: str(tmp_path / path) for key, path in paths.items()}
    assert settings.data_cfg.dataset_root == str(tmp_path / "data")
    assert settings.data_cfg.dataset_partition == "/abs/p.json"
    assert settings.trainer_cfg.restore_hint == str(tmp_path / "w.pt")
    assert settings.evaluator_cfg.restore_hint == "last"
    assert settings_from(MODEL, ("trainer_cfg.restore_hint=auto",)).trainer_cfg.restore_hint == "auto"


def test_the_resolved_settings_load_again_as_the_same(caplog: pytest.LogCaptureFixture) -> None:
    values = {"model_cfg": {"model": "BPMT", "mask": None}, "data_cfg": {"camera": "view"}}
    values |= {"optimizer_cfg": {"solver": "AdamW"}, "trainer_cfg": {"save_name": "run", "total_iter": 5}}
    values |= {"loss_cfg": {"type": "SupConLoss_Lp", "loss_term_weight": 3.0}}
    settings = settings_from(values, root="/r")
    assert settings.scheduler()[1] == {"max_lr": 0.01, "total_steps": 5}
    assert settings.evaluator_cfg.camera == "view" and settings.evaluator_cfg.save_name == "run"
    caplog.clear()
    text = yaml.safe_dump(settings.resolved())
    again = settings_from(yaml.safe_load(text), root="/elsewhere")
    assert again.resolved() == settings.resolved() and again.fingerprint == settings.fingerprint
    assert again.model_cfg.free == {"mask": None} and not caplog.records
    assert settings_from(values, ("trainer_cfg.seed=1",), root="/r").fingerprint != settings.fingerprint


def test_the_shipped_folders_are_found_and_their_configs_load() -> None:
    assert (configs_folder() / "default.yaml").is_file() and datasets_folder().is_dir()
    for path in sorted(configs_folder().rglob("*.yaml")):
        if path.name != "default.yaml" and not path.name.startswith("_"):  # _*.yaml are bases of others
            load_settings(path)


def test_every_key_is_described() -> None:
    sections = [s for s in vars(config_schema).values() if isinstance(s, type) and issubclass(s, BaseModel)]
    for section in [*sections, Settings]:
        assert [name for name, field in section.model_fields.items() if not field.description] == []
