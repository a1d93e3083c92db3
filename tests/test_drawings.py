"""Made-up walkers, silhouettes and untrained networks in; facts about the pictures and files of `bpmt draw` out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import base

from bpmt_ext.cli import main
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.engine import draw
from bpmt_ext.engine.attention import attention, attention_weights, recorded
from bpmt_ext.engine.checkpoint import save_checkpoint
from bpmt_ext.engine.draw import read_clip
from bpmt_ext.errors import UserError
from bpmt_ext.nets import grouped
from bpmt_ext.nets.bpmt import BPMT
from bpmt_ext.nets.bpmt_action import BPMTAction
from bpmt_ext.nets.grouped import GroupedAttention
from bpmt_ext.nets.landmarkgait import LandmarkNet
from bpmt_ext.nets.tlca import TLCA
from bpmt_ext.registry import get_method
from bpmt_ext.report import attention as looks
from bpmt_ext.report.clips import (
    captioned,
    fitting,
    gif_bytes,
    joined,
    strip,
    text_size,
    told_apart,
    write_clip,
    write_mp4,
)
from bpmt_ext.report.drawings import PART_COLOURS, clip_frames, legend, part_of_joint, project, ramp
from bpmt_ext.report.silhouettes import (
    GROUP_COLOURS,
    height_groups,
    landmark_frames,
    part_frames,
    reconstruction_frames,
    silhouette_frames,
)
from bpmt_ext.skeletons import SKELETONS, get_skeleton, of_bodies
from bpmt_ext.synthetic import make_walkers, walk_3d
from bpmt_ext.synthetic_silhouettes import make_silhouettes

COCO, NTU = get_skeleton("coco17"), get_skeleton("ntu25")
COCO3D = replace(COCO, name="coco17 in 3D", dims=3)
SMALL = {"width": 16, "heads": 2, "layers": 1, "feedforward": 32, "max_frames": 8}


def walker(frames: int = 60, speed: float = 0.0) -> np.ndarray:
    """A made-up walk (t, 17, 3): x forwards, y to the left, z upwards, metres."""
    pose = walk_3d(make_walkers([3], seed=1), 0, frames, np.random.default_rng(0))
    pose[..., 0] += speed * np.arange(frames)[:, None]
    return pose.astype(np.float32)


def flat(frames: int = 60, speed: float = 0.0) -> np.ndarray:
    """The same in the picture: x, y downwards, and confidence 1 (t, 17, 3)."""
    pose = walker(frames, speed)
    return np.stack([100 * pose[..., 0], -100 * pose[..., 2], np.ones(pose.shape[:2])], 2).astype(np.float32)


def where(picture: np.ndarray, colour: tuple[int, ...], tolerance: int = 0) -> np.ndarray:
    """(k, 2) row and column of the pixels of that colour."""
    return np.argwhere(np.abs(picture.astype(int) - colour).max(-1) <= tolerance)


def frames_of(data: bytes) -> np.ndarray:
    """What a viewer shows of a GIF (t, h, w, 3)."""
    picture, frames = Image.open(BytesIO(data)), []
    for k in range(picture.n_frames):
        picture.seek(k)
        frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


@pytest.mark.parametrize("name", [*SKELETONS, "two bodies"])
def test_every_part_has_its_colour_in_every_format(name: str) -> None:
    skeleton = of_bodies(NTU, 2) if name == "two bodies" else get_skeleton(name)
    rng = np.random.default_rng(1)
    clip = clip_frames(rng.normal(size=(3, skeleton.num_joints, skeleton.dims)), skeleton)
    assert clip.dtype == np.uint8 and clip.shape[:2] == (3, 200)
    for colour in PART_COLOURS:
        assert all(len(where(frame, colour)) > 3 for frame in clip), colour
    assert len({*PART_COLOURS}) == 5 and (clip[:, 0] == 255).all() and (clip[:, :, 0] == 255).all()


def test_up_is_up_and_what_goes_right_goes_right() -> None:
    clip = clip_frames(flat(speed=0.02), COCO, follow=False)
    head, leg = where(clip[0], PART_COLOURS[0]), where(clip[0], PART_COLOURS[3])
    assert head[:, 0].min() < leg[:, 0].min() and head[:, 0].max() < leg[:, 0].max()
    start, stop = (where(clip[k], PART_COLOURS[0])[:, 1].mean() for k in (0, -1))
    assert stop > start + 0.4 * clip.shape[2]
    still = clip_frames(flat(speed=0.02), COCO, follow=True)
    middles = [np.ptp(np.argwhere((frame != 255).any(-1)), axis=0).max() for frame in still]
    columns = [where(frame, PART_COLOURS[0])[:, 1].mean() for frame in still]
    assert np.ptp(columns) < 0.25 * still.shape[2] and max(middles) < 200  # in the middle, and whole
    far = clip_frames(flat(speed=0.5), COCO)  # as it goes far, it is followed
    assert far.shape[2] < 2.5 * 200 and np.ptp([where(f, PART_COLOURS[0])[:, 1].mean() for f in far]) < 60
    # one scale for both directions: a square stays one
    square = np.zeros((1, 17, 2), np.float32)
    square[0, [5, 6, 11, 12]] = (0, 0), (1, 0), (0, 1), (1, 1)
    drawn = np.argwhere((clip_frames(square, COCO)[0] < 250).any(-1))
    assert np.ptp(drawn[:, 0]) == pytest.approx(np.ptp(drawn[:, 1]), abs=2)


def test_confidence_is_how_dark_a_joint_is() -> None:
    pose = flat(2)
    pose[:, [7, 9], 2] = 0.2  # the left arm
    pose[:, [14, 16], 2] = 0.0  # the right leg
    clip = clip_frames(pose, COCO)
    assert not len(where(clip[0], PART_COLOURS[4], 40)) and not len(where(clip[0], PART_COLOURS[1], 40))
    pale = tuple(round(255 - 0.25 * (255 - level)) for level in PART_COLOURS[1])
    assert len(where(clip[0], pale, 4)) > 3 and len(where(clip[0], PART_COLOURS[3])) > 3
    for joint, part, full in ((15, 3, True), (16, 4, False)):  # joints of the right side are hollow
        pose[:, :, 2] = np.arange(17) == joint
        dot = where(clip_frames(pose, COCO)[0], PART_COLOURS[part])
        assert (dot == dot.mean(0).round()).all(1).any() == full
    pose[0, :, 2] = 0.0
    assert (clip_frames(pose, COCO)[0] == 255).all()  # nobody there
    empty = np.zeros((2, 50, 3), np.float32)
    empty[:, :25] = np.random.default_rng(0).normal(size=(2, 25, 3))
    one = clip_frames(empty[:, :25], NTU)
    assert np.array_equal(clip_frames(empty, of_bodies(NTU, 2)), one)  # the second body is missing


def test_a_pose_in_3d_is_seen_from_the_side_and_from_the_front() -> None:
    pose = walker(speed=0.05)
    place, depth = project(pose, COCO3D, "side")
    hip = place[:, [11, 12]].mean(1)
    assert hip[-1, 0] > hip[0, 0] + 2 and place[0, 0, 1] < place[0, 15, 1]  # to the right; the nose above the ankle
    assert (depth[:, 6] > depth[:, 5]).all()  # the right shoulder is the near one
    front, near = project(pose, COCO3D, "front")
    assert (front[:, 5, 0] > front[:, 6, 0]).all() and near[-1, 0] > near[0, 0]  # it comes; its left is at our right
    upright = pose[..., [1, 2, 0]]  # y upwards, as Kinect has it
    np.testing.assert_allclose(project(upright, COCO3D, "side")[0], place, atol=1e-5)
    mirrored = project(pose * (1, -1, 1), COCO3D, "side")[0]
    np.testing.assert_allclose(mirrored[..., 0], place[..., 0], atol=1e-5)
    turned = project(pose, COCO3D, "turn")[0]
    assert np.abs(turned[:, [11, 12]].mean(1)[:, 0]).max() < 1e-6  # about the figure
    assert not np.allclose(turned[:, 5, 0] - turned[:, 6, 0], place[:, 5, 0] - place[:, 6, 0], atol=0.05)
    angle = np.radians(15)
    tilt = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    lean = project(pose @ tilt, COCO3D, "side")[0]  # a camera that was not level
    line = lean[:, [5, 6]].mean(1) - lean[:, [15, 16]].mean(1)
    assert abs(np.median(line[:, 0] / line[:, 1])) < np.tan(np.radians(5))
    with pytest.raises(ValueError, match="view must be one of"):
        project(pose, COCO3D, "top")


def test_values_are_colours_and_trails_are_drawn() -> None:
    pose, value = flat(3), np.zeros((3, 17))
    value[1] = 1.0
    clip = clip_frames(pose, COCO, value=value)
    assert len(where(clip[1], tuple(ramp(np.array(1.0))))) > 50 and len(where(clip[0], tuple(ramp(np.array(0.0))))) > 50
    assert not any(len(where(clip[1], colour)) for colour in PART_COLOURS)
    assert (np.diff(ramp(np.linspace(0, 1, 9)).astype(float).mean(1)) < 0).all()  # darker all the way: read in grey too
    plain, trailed = (clip_frames(flat(30, 0.03), COCO, trail=trail) for trail in (0, 20))
    assert (trailed[0] == plain[0]).all() and (trailed[20] != 255).any(-1).sum() > (plain[20] != 255).any(-1).sum() + 30
    assert np.array_equal(clip_frames(pose, COCO, chosen=[1]), clip_frames(pose, COCO)[1:2])
    for wrong in (pose[:, :16], pose[0], pose[:0], pose[..., :1]):
        with pytest.raises(ValueError, match="pose must be"):
            clip_frames(wrong, COCO)
    with pytest.raises(ValueError, match="value must be"):
        clip_frames(pose, COCO, value=value[:2])
    assert len(where(legend(120), PART_COLOURS[4], 0)) > 10


def test_a_gif_is_small_and_shows_what_was_drawn() -> None:
    clip = clip_frames(flat(60), COCO)
    data = gif_bytes(clip, 25)
    assert len(data) < 300_000
    shown = frames_of(data)
    assert len(shown) == 60 and Image.open(BytesIO(data)).info["loop"] == 0
    assert np.abs(shown.astype(int) - clip).max() <= 24
    many = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    many[:, :20] = 255
    many[:, 0, :3] = PART_COLOURS[0]
    shown = frames_of(gif_bytes(many))
    assert (shown[:, 1:20] == 255).all() and np.abs(shown.astype(int) - many).mean() < 20
    moments = []
    picture = Image.open(BytesIO(gif_bytes(clip[:9], 30)))
    for k in range(picture.n_frames):
        picture.seek(k)
        moments.append(picture.info["duration"])
    assert sum(moments) == 300 and {*moments} == {30, 40}
    for frames, fps in ((clip[:0], 25), (clip, 0)):
        with pytest.raises(ValueError, match="fps above 0"):
            gif_bytes(frames, fps)


def test_clips_are_put_together_in_time_step() -> None:
    a, b = np.full((4, 10, 6, 3), 10, np.uint8), np.full((2, 20, 8, 3), 200, np.uint8)
    b[1] = 90
    beside = joined([a, b], gap=5)
    assert beside.shape == (4, 20, 19, 3)
    assert [int(frame[-1, -1, 0]) for frame in beside] == [200, 90, 90, 90]  # what has ended keeps its last frame
    assert (beside[:, :10, :6] == 255).all() and (beside[:, 10:, :6] == 10).all() and (beside[:, :, 6:11] == 255).all()
    below = joined([a, b], axis="below", gap=5)
    assert below.shape == (4, 35, 8, 3) and (below[:, :10, 1:7] == 10).all() and (below[:, :10, 0] == 255).all()
    row = strip(np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(30, 1).repeat(20, 2).repeat(3, 3), 3, gap=4)
    assert row.shape[1] == 3 * 20 + 2 * 4 and [row[5, x, 0] for x in (5, 29, 53)] == [0, 4, 8]
    titled = captioned(a, "a title that is far too long for it")
    assert titled.shape[1] > 10 and (titled[:, -10:] == a).all() and (titled[0] == titled[3]).all()
    with pytest.raises(ValueError, match="beside or below"):
        joined([], axis="below")


@pytest.mark.parametrize(("titles", "names", "words"), [
    (["d/p1/seq0/seq0.pkl", "d/p2/seq0/seq0.pkl"], ["p1", "p2"], ["...1", "...2"]),
    (["d/p1/a/s.pkl", "d/p1/b/s.pkl", "d/p2/a/s.pkl"], ["p1/a", "p1/b", "p2/a"], ["...1/a", "...1/b", "...2/a"]),
    (["anna_walk.pkl", "bert_walk.pkl"], ["anna_walk.pkl", "bert_walk.pkl"], ["anna...", "bert..."]),
    (["x/a.pkl", "a.pkl"], ["x/a.pkl", "a.pkl"], ["x/a...", "a..."]),
    (["d/s1.pkl", "d/s12.pkl"], ["s1.pkl", "s12.pkl"], ["...1...", "...12..."]),
])  # fmt: skip
def test_titles_keep_what_tells_the_files_apart(titles: list[str], names: list[str], words: list[str]) -> None:
    forms = told_apart(titles)
    assert forms == [titles, names, words]
    wide = [text_size(title, 12)[0] + 4 for title in titles]
    assert fitting(forms, wide) == titles and fitting(forms, [1] * len(titles)) == words
    widths = [text_size(name, 12)[0] + 4 for name in names]
    assert fitting(forms, widths) == names  # or the same
    assert told_apart(titles[:1] * 2) == [titles[:1] * 2] and told_apart(titles[:1]) == [titles[:1]]


@pytest.mark.parametrize("name", ["pair.png", "pair.gif", "below.png"])
def test_side_by_side_files_have_their_own_titles(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("bpmt_ext.report.clips.shortened", lambda text, width, size: written.append(text) or text)
    paths = []
    for person in ("0001", "0002"):
        paths.append(Path("a_folder_with_a_long_name_that_all_share", person, "one_more_folder_of_all/sequence.npz"))
        paths[-1].parent.mkdir(parents=True)
        shutil.copy("a.npz", paths[-1])
    beside = ["--side-by-side"] if "pair" in name else []
    assert main(["draw", *map(str, paths), "-o", name, "--count", "3", "--height", "60", *beside]) == 0
    assert written == (["0001 | 0002"] if name == "pair.png" else ["0001", "0002"])


def test_mp4_needs_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = np.full((3, 5, 7, 3), 9, np.uint8)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the program ffmpeg.*write a .gif"):
        write_clip(tmp_path / "a.mp4", clip)
    program = tmp_path / "ffmpeg"  # stands in for it: writes its arguments and the count of bytes it is given
    program.write_text(f"#!{sys.executable}\nimport sys\ndata = sys.stdin.buffer.read()\n"
                       "open(sys.argv[-1], 'w').write(' '.join(sys.argv[1:-1]) + f' {len(data)}')\n")  # fmt: skip
    program.chmod(0o755)
    write_clip(tmp_path / "a.mp4", clip, 12.5)
    said = (tmp_path / "a.mp4").read_text()
    assert "-s 8x6 -r 12.5" in said and said.endswith(str(3 * 6 * 8 * 3))  # even sides
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no such codec')\n")
    with pytest.raises(UserError, match="ffmpeg failed .no such codec."):
        write_mp4(tmp_path / "b.mp4", clip)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "ffmpeg"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here: apt-get install ffmpeg")
def test_mp4_shows_what_was_drawn(tmp_path: Path) -> None:
    clip = np.full((12, 61, 80, 3), 255, np.uint8)
    for t in range(12):
        clip[t, 20:40, 5 * t : 5 * t + 20] = (213, 94, 0)
    write_clip(tmp_path / "a.mp4", clip, 12.5)
    line = ["ffmpeg", "-loglevel", "error", "-i", "a.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = subprocess.run(line, cwd=tmp_path, capture_output=True, check=True).stdout
    found = np.frombuffer(shown, np.uint8).reshape(12, 62, 80, 3)  # even sides
    assert np.abs(found[:, :61].astype(int) - clip).mean() < 4 and (found[:, 61] > 240).all()


# the command


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with 2D poses (a.npz, b.npz), 3D poses (c.npz) and silhouettes (s.pkl)."""
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", pose=flat(30), joint_format="coco17")
    np.savez("b.npz", pose=flat(20)[:, ::1], joint_format="coco17")
    rng = np.random.default_rng(0)
    np.savez("c.npz", pose=rng.normal(size=(12, 25, 3)).astype(np.float32), joint_format="ntu25")
    write_pickle("s.pkl", make_silhouettes(make_walkers([1], seed=0), 0, 2, 0, seed=0, frames=(12, 12)))
    return tmp_path


def drawn(path: str) -> np.ndarray:
    return frames_of(Path(path).read_bytes())


def test_draw_writes_pictures_and_clips(files: Path) -> None:
    assert main(["draw", "a.npz", "-o", "a.png", "--count", "5"]) == 0
    assert main(["draw", "a.npz", "-o", "few.png", "--count", "2"]) == 0
    a, few = drawn("a.png")[0], drawn("few.png")[0]
    assert a.shape[1] > 2 * few.shape[1] and all(len(where(a, colour)) for colour in PART_COLOURS)
    assert main(["draw", "a.npz", "-o", "a.gif", "--frames", "0:20:2", "--fps", "10"]) == 0
    assert len(drawn("a.gif")) == 10 and Image.open("a.gif").info["duration"] == 100
    assert main(["draw", "a.npz", "b.npz", "-o", "pair.gif", "--side-by-side"]) == 0
    assert main(["draw", "a.npz", "b.npz", "-o", "stack.gif", "--height", "100"]) == 0
    pair, stack = drawn("pair.gif"), drawn("stack.gif")
    assert len(pair) == len(stack) == 30 and pair.shape[1] < 300 < pair.shape[2] + 150
    one = clip_frames(flat(30), COCO).shape[2]
    assert all(len(where(side, PART_COLOURS[0], 10)) for side in (pair[0][:, :one], pair[0][:, one:]))
    same = (pair[-1] == pair[-2]).all(-1)
    assert same[:, one:].all() and not same[:, :one].all()  # the second has ended by then
    assert main(["draw", "a.npz", "b.npz", "-o", "pair.png", "--side-by-side", "--count", "3"]) == 0
    assert main(["draw", "c.npz", "-o", "both.png"]) == 0
    assert main(["draw", "c.npz", "-o", "front.png", "--view", "front"]) == 0
    assert drawn("both.png").shape[1] > 1.7 * drawn("front.png").shape[1]  # side and front, one below the other
    assert main(["draw", "s.pkl", "-o", "s.gif"]) == 0 and len(drawn("s.gif")) == 12
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["a.npz", "-o", "a.bmp"], "a.bmp: pictures are written as .png, .gif, .mp4"),
        (["a.npz", "-o", "nowhere/a.png"], "nowhere does not exist; make it first"),
        (["none.npz", "-o", "a.png"], "none.npz"),
        (["a.npz", "-o", "a.png", "--format", "ntu25"], "ntu25"),
        (["a.npz", "-o", "a.png", "--format", "coc17"], "did you mean coco17?"),
        (["two.npz", "-o", "a.png"], "name the one to read with --sequence"),
        (["twenty.npz", "-o", "a.png"], "which tells no joint format; name it with --joint-format: coco17, "),
        ([*["a.npz"] * 101, "-o", "a.png"], "name 100 at most, or give a smaller --height"),
        ([*["none.npz"] * 21, "-o", "a.gif", "--height", "1000"], "name 20 at most"),
        ([*["a.npz"] * 20, "-o", "a.gif", "--height", "1000"], "name fewer files, or give --frames or a smaller"),
        (["a.npz", "-o", "a.png", "--frames", "40:50"], "--frames leaves none of its 30 frames"),
        (["a.npz", "-o", "a.png", "--bodies", "2"], "--bodies needs --format"),
        (["a.npz", "-o", "a.png", "--show", "attention"], "--cfgs and --show belong together"),
        (["a.npz", "-o", "a.png", "--cfgs", "net.yaml"], "--cfgs and --show belong together"),
        (["a.npz", "-o", "a.png", "--iter", "3"], "belong to --cfgs"),
        (["a.npz", "-o", "a.png", "--cfgs", "net.yaml", "--show", "attention"], "net.yaml"),
    ],
)
def test_bad_input_is_one_sentence(files: Path, line: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    np.savez("two.npz", a=flat(3), b=flat(3))
    np.savez("twenty.npz", pose=np.ones((3, 20, 3)))
    before = sorted(os.listdir())
    assert main(["draw", *line]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert sentence in said and sorted(os.listdir()) == before


@pytest.mark.parametrize("wrong", [["--frames", "a:b"], ["--frames", "1:2:0"], ["--fps", "0"], ["--count", "0"],
                                   ["--view", "top"], ["--height", "9"]])  # fmt: skip
def test_wrong_words_are_refused(files: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["draw", "a.npz", "-o", "a.png", *wrong])
    assert caught.value.code == 2


def test_poses_are_drawn_without_torch_and_without_pyplot(files: Path) -> None:
    code = ("import sys; from bpmt_ext.cli import main; assert main(['draw', 'a.npz', '-o', 'a.png']) == 0; "
            "sys.exit(str({'torch', 'matplotlib.pyplot'} & set(sys.modules) or 0).strip('0') or 0)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# attention


def test_recomputed_attention_weighs_as_the_layer_does() -> None:
    layer = GroupedAttention(groups=3, width=8, heads=1).eval()
    query, context = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 7, 8)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    for keys in ({"context": context, "mask": mask}, {"context": context}, {}):
        weight = attention_weights(layer, query, **keys)
        value = grouped.grouped_linear(keys.get("context", query), layer.in_weight, layer.in_bias)[..., 16:]
        torch.testing.assert_close(layer.out(weight @ value), layer(query, **keys))
    assert (attention_weights(layer, query, context, mask)[:, 1, :, 4:] == 0).all()


@pytest.mark.parametrize("name", ["BPMT", "BPMTAction", "TLCA"])
def test_attention_of_a_clip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = 2 if name == "BPMTAction" else 1
    skeleton, keys = (NTU, {"bodies": 2}) if bodies == 2 else (COCO, {})
    net = {"BPMT": BPMT, "BPMTAction": BPMTAction, "TLCA": TLCA}[name](skeleton=skeleton, num_class=3, **SMALL, **keys)
    pose = torch.randn(1, 13, bodies * skeleton.num_joints, 3)  # two windows: 6 and 7 frames
    mask = torch.ones(1, 13, dtype=torch.bool)
    before = net.eval()(pose, mask)["embedding"]
    calls, own = [], grouped.F.scaled_dot_product_attention
    fused = len([m for m in net.modules() if isinstance(m, GroupedAttention)])

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        calls.append((q, k, given["attn_mask"]))
        return own(q, k, v, **given)

    monkeypatch.setattr(grouped.F, "scaled_dot_product_attention", spy)
    found = attention(net, pose, mask)
    monkeypatch.undo()
    assert len(calls) == fused and not net.fuse.attention._forward_hooks
    torch.testing.assert_close(net(pose, mask)["embedding"], before)
    assert found.frames.shape == (bodies, 13, 13)
    np.testing.assert_allclose(found.frames.sum(-1), 1, atol=1e-5)
    assert (found.frames[:, :6, 6:] == 0).all() and (found.frames[:, 6:, :6] == 0).all()
    q, k, allowed = calls[-1]  # the last call is the fusion's: (g m, h, w, e)
    score = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf).softmax(-1).mean(1)
    if name == "TLCA":
        assert found.parts is None
        np.testing.assert_allclose(found.frames[0, :6, :6], score[0, :6, :6].detach(), atol=1e-5)
        return
    np.testing.assert_allclose(found.parts.sum(-1), 1, atol=1e-5)
    score = score.unflatten(0, (5, -1)).detach()  # (p, m, w, 4 w)
    w = score.shape[2]
    for p in range(5):
        for number, q_ in enumerate(other for other in range(5) if other != p):
            told = score[p, 1, :7, number * w : (number + 1) * w].sum(-1)  # the second window, of the first body
            np.testing.assert_allclose(found.parts[0, 6:, p, q_], told, atol=1e-5)
        assert (found.parts[:, :, p, p] == 0).all()


def test_attention_of_a_body_encoder_is_spread_over_the_frames_of_a_token() -> None:
    net = BPMT(skeleton=COCO, num_class=3, **SMALL | {"max_frames": 8}, t2_encoder="body", patch=3).eval()
    pose, mask = torch.randn(1, 13, 17, 3), torch.ones(1, 13, dtype=torch.bool)  # two windows: 6 and 7 frames
    found = attention(net, pose, mask)
    last = net.t2.encoder.layers[-1]
    with recorded(last.between, last.attention) as weights:
        net(pose, mask)
    between, over = weights[0][0].unflatten(0, (2, 3)), weights[1].mean(0)  # (m, w, p, p), (m, w, w)
    np.testing.assert_allclose(found.parts[0, 3:6], between[0, 1].detach().expand(3, 5, 5), atol=1e-6)
    np.testing.assert_allclose(found.parts[0, 12], between[1, 2].detach(), atol=1e-6)
    np.testing.assert_allclose(found.frames[0, 4, :6], over[0, 1, :2].detach().repeat_interleave(3) / 3, atol=1e-6)
    np.testing.assert_allclose(found.frames.sum(-1), 1, atol=1e-5)
    assert (found.frames[:, :6, 6:] == 0).all() and (found.frames[:, 6:, :6] == 0).all()


def test_attention_is_of_networks_that_have_it() -> None:
    net = get_method("GaitGraph1").network()(skeleton=COCO)
    with pytest.raises(UserError, match="GaitGraph1 has no attention"):
        attention(net, torch.randn(1, 4, 17, 3), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="one clip without padding"):
        attention(BPMT(skeleton=COCO, **SMALL), torch.randn(2, 4, 17, 3), torch.ones(2, 4, dtype=torch.bool))
    layer = GroupedAttention(groups=1, width=4, heads=1)
    with pytest.raises(RuntimeError), recorded(layer):
        raise RuntimeError
    assert not layer._forward_hooks


def test_attention_is_drawn_onto_the_body() -> None:
    weights = np.zeros((6, 5, 5))
    weights[:, [0, 1, 2, 3], 4] = 1.0  # everybody asks the right leg, which asks the torso
    weights[:, 4, 0] = 1.0
    share = looks.received(weights)
    np.testing.assert_allclose(share[0], [0.2, 0, 0, 0, 0.8])
    value = looks.of_joints(share, COCO)
    assert value.shape == (6, 17) and value[0, 16] == 0.8 and value[0, 15] == 0 and value[0, 0] == 0.2
    assert part_of_joint(COCO)[16] == 4
    dark, light = tuple(ramp(np.array(1.0))), tuple(ramp(np.array(0.0)))
    matrix = looks.matrix_picture(weights[0])
    assert len(where(matrix, dark)) > 4 * 400 and len(where(matrix, light)) > 14 * 400
    still = looks.part_pictures(flat(6), weights, COCO, count=3)
    moving = looks.part_pictures(flat(6), weights, COCO, moving=True)
    assert len(still) == 1 and len(moving) == 6 and len(where(still[0], dark)) > 2000
    assert not (moving[0] == moving[5]).all()
    band = looks.band_picture(np.array([[0.0, 1.0]]), ["x"], width=200, top=1.0)
    assert where(band, light)[:, 1].max() < where(band, dark)[:, 1].min()


# with networks


def network_config(name: str, skeleton: str, transform: list[dict[str, str]], **model: object) -> list[str]:
    """Writes net.yaml and an untrained network's checkpoint; the arguments that name both."""
    config = base()
    config["data_cfg"] |= {"joint_format": skeleton}
    config["evaluator_cfg"]["transform"] = config["trainer_cfg"]["transform"] = transform
    config["model_cfg"] = {"model": name, **model}
    known = get_method(name).losses or {}
    config["loss_cfg"] = [loss for loss in config["loss_cfg"] if loss["type"] in known]
    if "Landmark" in name or name == "ParsingNet":
        config["data_cfg"] |= {"modality": "silhouette"}
        del config["data_cfg"]["joint_format"]
    Path("net.yaml").write_text(yaml.safe_dump(config))
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in model.items()}
    if get_method(name).classes:
        own["num_class"] = 3
    net = get_method(name).network()(skeleton=get_skeleton(skeleton), **own)
    save_checkpoint(Path("net.pt"), {"model": net.state_dict(), "iteration": 1})
    return ["--cfgs", "net.yaml", "--opts", "evaluator_cfg.restore_hint=net.pt"]


def told(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[np.ndarray, ...]]:
    """What engine/draw.py hands to the function of that name, call by call."""
    calls, own = [], getattr(draw, name)
    monkeypatch.setattr(draw, name, lambda *args, **keys: calls.append(args) or own(*args, **keys))
    return calls


def test_draw_attention_and_activation(
    files: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = [{"type": "RescaleCenter", "center": "neck", "scale": 1.0}]
    given = network_config("BPMT", "coco17", scale, **SMALL)
    assert main(["draw", "a.npz", "b.npz", "-o", "a.png", "--show", "attention", *given]) == 0
    assert main(["draw", "a.npz", "-o", "a.gif", "--frames", "10:20", "--show", "attention", *given]) == 0
    assert len(drawn("a.gif")) == 10
    for show, sentence in (("activation", "BPMT has none; GaitGraph2 has"), ("parts", "reads poses; to show there is")):
        assert main(["draw", "a.npz", "-o", "x.png", "--show", show, *given]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["draw", "c.npz", "-o", "x.png", "--show", "attention", *given]) == 2
    assert "3D" in capsys.readouterr().err and not Path("x.png").exists()
    given = network_config("TLCA", "coco17", scale, **SMALL)
    assert main(["draw", "a.npz", "-o", "t.png", "--show", "attention", *given]) == 0
    given = network_config("BPMTAction", "ntu25", [], bodies=2, **SMALL)
    assert main(["draw", "c.npz", "-o", "b.png", "--show", "attention", *given]) == 0
    graph = {"input_branch": [5, 8, 8], "main_stream": [8, 16, 16], "num_class": 8}
    chosen = [{"type": "SelectSequenceCenter", "sequence_length": 8}, {"type": "GaitGraph_MultiInput"}]
    given = network_config("GaitGraph2", "coco17", chosen, **graph)
    calls = told(monkeypatch, "value_pictures")
    assert main(["draw", "a.npz", "-o", "g.gif", "--frames", "1:9", "--show", "activation", *given]) == 0
    assert len(drawn("g.gif")) == 7  # of the eight that the network reads
    pose, value, _ = calls[0]
    (first,) = np.flatnonzero((flat(30) == pose[0]).all((1, 2)))
    np.testing.assert_array_equal(pose, flat(30)[first : first + 7])
    assert first > 5 and value.shape == (7, 17)


def test_a_network_that_reads_some_frames_is_drawn_on_these() -> None:
    from bpmt_ext.data.transforms import build_transform

    chain = build_transform([{"type": "SelectSequenceCenter", "sequence_length": 8}], COCO)
    pose = flat(30)
    x, mask, number = read_clip(chain, pose, torch.device("cpu"))
    assert x.shape == (1, 8, 17, 3) and mask.all()
    np.testing.assert_array_equal(x[0].numpy(), pose[number])
    assert (np.diff(number) == 1).all() and number[0] > 5


def test_draw_what_landmark_networks_find(
    files: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = [{"type": "BaseSilCuttingTransform"}]
    given = network_config("LandmarkNet", "coco17", cut, channels=[4, 4, 4])
    for show, more in (("landmarks", ["--trail", "3"]), ("reconstruction", ["--frames", "2:9"])):
        assert main(["draw", "s.pkl", "-o", f"{show}.png", "--show", show, *more, *given]) == 0
        assert main(["draw", "s.pkl", "-o", f"{show}.gif", "--show", show, *more, *given]) == 0
    assert len(drawn("landmarks.gif")) == 12 and len(drawn("reconstruction.gif")) == 7
    calls = told(monkeypatch, "landmark_frames")
    monkeypatch.setattr(LandmarkNet, "landmarks", lambda self, pose, mask: torch.zeros(1, len(mask[0]), 25, 2))
    assert main(["draw", "s.pkl", "-o", "middle.png", "--show", "landmarks", *given]) == 0
    np.testing.assert_allclose(calls[0][1], np.broadcast_to((21.5, 31.5), (12, 25, 2)))  # in pixels
    assert main(["draw", "s.pkl", "-o", "x.png", "--show", "parts", *given]) == 2
    assert "LandmarkNet has none; ParsingNet and LandmarkGait have" in capsys.readouterr().err
    assert main(["draw", "a.npz", "-o", "x.png", "--show", "landmarks", *given]) == 2
    given = network_config("ParsingNet", "coco17", cut, channels=[4, 4, 4])
    assert main(["draw", "s.pkl", "-o", "parts.png", "--show", "parts", *given]) == 0
    assert not Path("x.png").exists()


def test_landmarks_and_parts_are_where_they_belong() -> None:
    grey = np.zeros((2, 64, 44), np.float32)
    grey[:, 10:60, 15:30] = 1.0
    points = np.zeros((2, 3, 2))
    points[:, 0], points[:, 1], points[0, 2], points[1, 2] = (20, 12), (22, 30), (10, 50), (35, 50)
    group = height_groups(points, (1, 1, 1))
    assert group.tolist() == [0, 1, 2] and height_groups(points[:, ::-1], (1, 1, 1)).tolist() == [2, 1, 0]
    clip = landmark_frames(grey, points, group, scale=4)
    assert clip.shape == (2, 256, 176, 3)
    for k in range(2):
        for landmark, colour in enumerate(GROUP_COLOURS):
            middle = where(clip[k], colour).mean(0) / 4 - 0.5
            np.testing.assert_allclose(middle, points[k, landmark, ::-1], atol=0.3)
    assert (clip[:, 45 * 4, 20 * 4] == 190).all() and (clip[:, 5 * 4, 5 * 4] == 255).all()
    parts = np.stack([grey * (np.arange(64) < 20)[:, None], grey * (np.arange(64) >= 18)[:, None], 0 * grey], 1)
    drawn_parts = part_frames(parts, scale=1)
    assert tuple(drawn_parts[0, 12, 20]) == GROUP_COLOURS[0] and tuple(drawn_parts[0, 40, 20]) == GROUP_COLOURS[1]
    assert tuple(drawn_parts[0, 18, 20]) == (110, 110, 110) and (drawn_parts[0, 5, 5] == 255).all()  # in two of them
    both = reconstruction_frames(grey, 0 * grey, scale=2)
    assert (both[0, 60, 40] < 100).all() and (both[0, 60, 88 + 4 + 40] == 255).all()
    whole = (255 * grey).astype(np.uint8)
    assert np.array_equal(silhouette_frames(whole), silhouette_frames(grey))
    for wrong in (lambda: silhouette_frames(grey[0]), lambda: part_frames(parts[:, :2]),
                  lambda: landmark_frames(grey, points[:1], group), lambda: height_groups(points, (1, 1)),
                  lambda: reconstruction_frames(grey, grey[:1])):  # fmt: skip
        with pytest.raises(ValueError):
            wrong()
