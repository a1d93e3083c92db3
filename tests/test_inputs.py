"""Network inputs made from poses: against the published vectors, loops over frames and joints, and their properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bpmt_ext.data.inputs import GaitGraph_MultiInput, GaitGraphInput, GaitTR_MultiInput, HOD_MultiInput, angle_arms
from bpmt_ext.skeletons import SKELETONS, Skeleton, get_skeleton, skeleton_from_mapping

# The joints between which COCO's angles lie (baselines.md section 2).
COCO_ARMS = ("0:1,2 1:0,3 2:4,0 3:1 4:2 5:7,11 6:8,12 7:5,9 8:10,6 9:7 10:8 11:5,13 12:6,14 13:11,15 14:12,16 15:13 "
             "16:14")  # fmt: skip
ONES = torch.ones(1, 5, dtype=torch.bool)


def vector() -> Tensor:
    """Input of the transform rows in baselines.md section 8."""
    i = torch.arange(255, dtype=torch.float64)
    a = (100 + 50 * torch.sin(0.7 * i) + 2 * i / 255).reshape(1, 5, 17, 3)
    a[..., 1] += 8 * torch.arange(17, dtype=torch.float64)
    a[..., 2] = 0.9
    return a


def poses(skeleton: Skeleton, t: int, seed: int, confidence: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    place = 9 * torch.randn(1, t, skeleton.num_joints, skeleton.dims, generator=generator, dtype=torch.float64)
    return torch.cat([place, torch.rand(1, t, skeleton.num_joints, int(confidence), generator=generator)], -1)


@pytest.mark.parametrize(("made", "channels", "total", "norm"), [
    (HOD_MultiInput, 6, 24995.89473145, 2033.29232804), (GaitTR_MultiInput, 10, 31373.54397507, 2418.12274239),
    (GaitGraph_MultiInput, 15, 31638.25638183, 2373.90425693),
])  # fmt: skip
def test_the_published_vectors(made: type, channels: int, total: float, norm: float) -> None:
    out = made()(vector(), ONES)
    assert out.shape == (1, 5, 17, channels)
    assert out.sum().item() == pytest.approx(total, rel=1e-10) and out.norm().item() == pytest.approx(norm, rel=1e-10)


def loop(pose: Tensor, skeleton: Skeleton, root: int) -> dict[str, Tensor]:
    """The pieces (t, v, d) of one sequence (t, v, c), by definition."""
    place = pose[..., :skeleton.dims]
    made = {name: torch.zeros_like(place) for name in ("centred", "one", "two", "bone", "angle")}
    for t in range(len(pose)):
        for v in range(skeleton.num_joints):
            made["centred"][t, v] = place[t, v] - place[t, root]
            if t < len(pose) - 2:
                made["one"][t, v], made["two"][t, v] = place[t + 1, v] - place[t, v], place[t + 2, v] - place[t, v]
            bone = made["bone"][t, v] = place[t, v] - place[t, skeleton.parents[v]]
            for k in range(skeleton.dims):
                made["angle"][t, v, k] = math.acos(bone[k] / (math.hypot(*bone.tolist()) + 1e-4))
    return made


ROOTS = {"coco17": 0, "openpose18": 1, "penn13": 0, "ntu25": 20, "kinect20": 2, "kinectgait20": 11}


@pytest.mark.parametrize("name", ROOTS)
@pytest.mark.parametrize("t", [1, 2, 3, 6])
def test_gaittr_and_gaitgraph_against_a_loop(name: str, t: int) -> None:
    skeleton = get_skeleton(name)
    pose, mask, d = poses(skeleton, t, seed=t), torch.ones(1, t, dtype=torch.bool), skeleton.dims
    part = loop(pose[0], skeleton, ROOTS[name])
    place, sure = pose[0, ..., :d], pose[0, ..., d:]
    expected = torch.cat([place, *(part[key] for key in ("centred", "one", "two", "bone"))], -1)
    torch.testing.assert_close(GaitTR_MultiInput(name)(pose, mask)[0], expected)
    meant = torch.cat([place, sure, part["centred"], part["one"], sure, part["two"],
                       part["bone"], sure, part["angle"]], -1)  # fmt: skip
    torch.testing.assert_close(GaitGraphInput(name)(pose, mask)[0], meant)
    if d == 2:  # the host's: 0, then the confidence where dx of two frames, or the angle with x, should be
        none = torch.zeros_like(sure)
        meant = torch.cat([place, sure, part["centred"], part["one"], none, sure, part["two"][..., 1:],
                           part["bone"], none, sure, part["angle"][..., 1:]], -1)  # fmt: skip
    torch.testing.assert_close(GaitGraph_MultiInput(name)(pose, mask)[0], meant)


def test_a_pose_without_confidence_is_sure() -> None:
    for name in ("coco17", "kinect20"):
        skeleton = get_skeleton(name)
        pose, mask, d = poses(skeleton, 4, 0, confidence=False), torch.ones(1, 4, dtype=torch.bool), skeleton.dims
        sure = torch.cat([pose, torch.ones_like(pose[..., :1])], -1)
        for made in (GaitGraphInput, GaitGraph_MultiInput, GaitTR_MultiInput, HOD_MultiInput):
            assert torch.equal(made(name)(pose, mask), made(name)(sure, mask)), d


def test_the_arms_of_coco_are_the_published_ones() -> None:
    arms = [{int(v) for v in entry.split(":")[1].split(",")} for entry in COCO_ARMS.split()]
    assert [set(a) for a in angle_arms(get_skeleton("coco"))] == arms


@pytest.mark.parametrize("name", SKELETONS)
def test_arms_are_mirror_images_of_each_other(name: str) -> None:
    skeleton = get_skeleton(name)
    arms = angle_arms(skeleton)
    joined = {frozenset(edge) for edge in skeleton.edges}
    for joint, own in enumerate(arms):
        assert 1 <= len(own) <= 2 and all(frozenset((joint, k)) in joined for k in own)
        assert {skeleton.mirror[k] for k in own} == set(arms[skeleton.mirror[joint]])


def test_a_joint_without_edges_has_no_arm_but_itself() -> None:
    lone = skeleton_from_mapping({
        "joints": ["head", "ls", "rs", "la", "ra", "lh", "rh", "lf", "rf"], "edges": [["ls", "rs"], ["lh", "rh"]],
        "mirror": [["ls", "rs"], ["la", "ra"], ["lh", "rh"], ["lf", "rf"]], "parents": [0] * 9,
        "parts": {"torso": ["head", "ls", "rs", "lh", "rh"], "left_arm": ["la"], "right_arm": ["ra"],
                  "left_leg": ["lf"], "right_leg": ["rf"]},
        "head": ["head"], "hips": ["lh", "rh"], "shoulders": ["ls", "rs"],
    })  # fmt: skip
    assert angle_arms(lone)[:4] == ((0,), (2,), (1,), (3,))
    out = HOD_MultiInput(lone)(poses(lone, 2, 0), torch.ones(1, 2, dtype=torch.bool))
    assert (out[:, :, [0, 3], 4] == math.pi).all()


@given(st.integers(0, 10_000), st.sampled_from(sorted(SKELETONS)))
@settings(max_examples=25, deadline=None)
def test_hod_angles_against_arc_cosines_of_dot_products(seed: int, name: str) -> None:
    skeleton = get_skeleton(name)
    d, pose = skeleton.dims, poses(skeleton, 3, seed)
    pose[0, 2, 1] = pose[0, 2, 0]  # arms without length
    pose[0, 1, :, 1] = pose[0, 1, :1, 1]  # a level pose: the vertical arm has no length
    out = HOD_MultiInput(name)(pose, torch.ones(1, 3, dtype=torch.bool))
    assert out.shape[-1] == 2 * d + 2 and not out[..., -1].any()
    torch.testing.assert_close(out[..., :d], pose[..., :d])
    torch.testing.assert_close(out[..., d:2 * d], pose[..., :d] - pose[:, :, list(skeleton.parents), :d])
    for t in range(3):
        for joint, arms in enumerate(angle_arms(skeleton)):
            here, left = pose[0, t, joint, :d], pose[0, t, arms[0], :d]
            right = pose[0, t, arms[-1], :d]
            if len(arms) == 1:
                right = here.clone()
                right[1] = left[1]
            a, b = left - here, right - here
            size = a.norm() * b.norm()
            expected = math.pi if size == 0 else math.pi - math.acos(max(-1.0, min(1.0, float(a @ b / size))))
            assert out[0, t, joint, -2].item() == pytest.approx(expected, abs=1e-5)


def test_hod_makes_what_is_no_number_zero() -> None:
    pose = vector()
    pose[0, 2, 7, 0] = math.nan
    out = HOD_MultiInput()(pose, ONES)
    assert torch.isfinite(out).all() and out[0, 2, 7, 0] == 0 and out[0, 2, 9, 2] == 0


def test_angles_of_single_precision_are_those_of_double() -> None:
    pose = vector()
    pose[..., :2] = pose[..., :2].round()  # the same number in both; neighbours on a straight line
    pose[0, :, [5, 7, 9], 0], pose[0, :, 13:16, 1] = 60.0, 40.0
    for made in (HOD_MultiInput, GaitGraph_MultiInput):
        single, double = made()(pose.float(), ONES), made()(pose, ONES)
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5)


@pytest.mark.parametrize("made", [GaitTR_MultiInput, GaitGraphInput, GaitGraph_MultiInput])
def test_the_last_two_real_frames_stand_still(made: type) -> None:
    pose = poses(get_skeleton("coco"), 9, 1).expand(4, -1, -1, -1)
    mask = torch.arange(9) < torch.tensor([9, 6, 2, 1])[:, None]
    velocity = made()(pose, mask)[..., 4:8] if made is GaitTR_MultiInput else made()(pose, mask)[..., [5, 6, 9]]
    moving = velocity.any(-1).any(-1)
    assert moving.tolist() == [[t < length - 2 for t in range(9)] for length in (9, 6, 2, 1)]
