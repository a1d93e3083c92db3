"""Poses, masks and draws in; the transforms of recordings of actions do what they say, whatever is beside them."""

from __future__ import annotations

import pytest
import torch
from conftest import walking
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bpmt_ext.data.actions import (
    CenterCrop,
    CenterOn,
    DropJoints,
    PartMask,
    Rotate2D,
    Rotate3D,
    ScaleAxes,
    Shear,
    TemporalCrop,
    UnitBox,
)
from bpmt_ext.data.preprocessing import Transform
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton, of_bodies

NTU, PENN = get_skeleton("ntu25"), get_skeleton("penn13")
ALL: dict[str, Transform] = {
    "crop": TemporalCrop(16, 0.4, 0.9), "centre": CenterCrop(16, 0.8), "drop": DropJoints(0.7, "joint", 0.2, 0.5, NTU),
    "parts": DropJoints(0.7, "part", 0.4, 1.0, NTU), "part": PartMask(0.7, NTU), "turn": Rotate3D((0.3, 0.5, 0.1), NTU),
    "scale": ScaleAxes(0.5, 1.5, NTU), "shear": Shear(0.3, NTU), "first": CenterOn("spine_mid", "first", NTU),
    "each": CenterOn("hip", "each", NTU), "box": UnitBox(False, NTU), "even": UnitBox(True, NTU),
}  # fmt: skip
LENGTHS = torch.tensor([20, 7, 1, 13])


def batch(t: int = 20, joints: int = 25, channels: int = 4) -> tuple[Tensor, Tensor, Draws]:
    pose = walking(4, t, joints, channels).double()
    mask = torch.arange(t) < LENGTHS[:, None]
    return torch.where(mask[:, :, None, None], pose, pose[torch.arange(4), LENGTHS - 1][:, None]), mask, draws(4)


def draws(n: int, seed: int = 0) -> Draws:
    return Draws.at(seed, 5, range(n))


@pytest.mark.parametrize("name", ALL)
def test_a_sequence_alone_is_the_sequence_in_a_batch(name: str) -> None:
    """Neither padding nor batch mates change it; the input stays; the same draws give the same, others other."""
    step = ALL[name]
    pose, mask, own = batch()
    before = pose.clone()
    out, real = step.reframe(pose, mask, own if step.random else None)
    assert torch.equal(pose, before) and torch.isfinite(out).all() and out.dtype == pose.dtype
    assert torch.equal(out, step.reframe(pose, mask, own if step.random else None)[0])
    if step.random:
        assert not torch.equal(out, step.reframe(pose, mask, draws(4, seed=1))[0])
    for i, length in enumerate(LENGTHS.tolist()):
        alone, _ = step.reframe(pose[i : i + 1, :length], mask[i : i + 1, :length], Draws(own.keys[i : i + 1]))
        assert torch.allclose(alone[0], out[i][real[i]], atol=1e-12)


def test_resizing_is_linear_interpolation_of_the_run() -> None:
    """As torch resizes; a run of as many frames as are wanted stays; time runs on in the cut."""
    pose, mask, _ = batch()
    for i, length in enumerate(LENGTHS.tolist()):
        flat = pose[i, :length].flatten(1).T[None]
        expected = torch.nn.functional.interpolate(flat, size=9, mode="linear", align_corners=False)[0].T
        assert torch.allclose(CenterCrop(9, 1.0)(pose, mask)[i].flatten(1), expected, atol=1e-6)
    time = torch.arange(20.0).view(1, 20, 1, 1)
    everything = torch.ones(1, 20, dtype=torch.bool)
    assert CenterCrop(10, 0.5)(time, everything).flatten().tolist() == list(range(5, 15))
    assert torch.equal(CenterCrop(20, 1.0)(time, everything), time)


@given(st.integers(1, 40), st.integers(0, 100))
def test_a_random_crop_has_its_share_of_the_frames(length: int, seed: int) -> None:
    n, low, high, least = 64, 0.3, 0.8, 5
    time = torch.arange(length).double().view(1, length, 1, 1).expand(n, -1, -1, -1)
    step = TemporalCrop(200, low, high, least)  # so many that the ends of the run are met
    out = step(time, torch.ones(n, length, dtype=torch.bool), draws(n, seed)).flatten(1)
    span = out[:, -1] - out[:, 0] + 1
    allowed = min(length, max(least, round(low * length))), min(length, max(least, round(high * length)))
    assert allowed[0] <= span.min().item() and span.max().item() <= allowed[1]
    assert (out.diff(dim=1) >= 0).all() and out.min() >= 0 and out.max() <= length - 1


@pytest.mark.parametrize(("unit", "share", "span"), [("joint", 0.3, 0.5), ("part", 0.4, 1.0), ("joint", 0.01, 0.01)])
def test_exactly_the_stated_share_is_lost(unit: str, share: float, span: float) -> None:
    pose, mask, own = batch()
    out = DropJoints(1.0, unit, share, span, NTU)(pose + 9, mask, own)
    gone = (out == 0).all(-1) & mask[:, :, None]
    assert torch.equal((out != 0).all(-1) | (out == 0).all(-1), torch.ones_like(gone))  # a joint is lost as a whole
    units = NTU.parts if unit == "part" else tuple((j,) for j in range(25))
    for lost, length in zip(gone, LENGTHS.tolist(), strict=True):
        frames, joints = lost.any(1).nonzero().flatten(), lost.any(0)
        assert len(frames) == max(1, round(span * length)) and frames[-1] - frames[0] + 1 == len(frames)
        assert lost[frames].all(0).equal(joints)
        hit = [all(joints[list(unit_)]) for unit_ in units]
        assert sum(hit) == max(1, round(share * len(units))) and joints.sum() == sum(
            len(unit_) for unit_, one in zip(units, hit, strict=True) if one
        )
    assert torch.equal(DropJoints(0.0, unit, share, span, NTU)(pose, mask, own), pose)


def test_every_joint_is_lost_sometimes() -> None:
    pose, mask = torch.ones(400, 2, 13, 2), torch.ones(400, 2, dtype=torch.bool)
    lost = (DropJoints(0.5, "joint", 0.2, 1.0, PENN)(pose, mask, draws(400))[:, 0] == 0).all(-1)
    assert abs(lost.any(1).double().mean() - 0.5) < 0.1
    assert (abs(lost.double().mean(0) - 0.5 * 3 / 13) < 0.06).all()


def test_rotation_keeps_distances_and_turns_the_right_way() -> None:
    pose, mask, own = batch()
    out = ALL["turn"](pose, mask, own)
    assert torch.allclose(pose[..., :3].norm(dim=-1), out[..., :3].norm(dim=-1), atol=1e-5)
    assert torch.equal(out[..., 3], pose[..., 3])
    for axis in range(3):  # turned about one axis: that coordinate stays, and z turns towards the next axis
        angles = [0.0] * 3
        angles[axis] = 1.0
        one = Rotate3D(angles, NTU)(pose, mask, own)
        assert torch.allclose(one[..., axis], pose[..., axis], atol=1e-6)
        basis = torch.eye(3)[(axis + 1) % 3].expand(4, 1, 25, 3)
        turned = Rotate3D(angles, NTU)(basis, mask[:, :1], own)
        angle = torch.atan2(turned[:, 0, 0, (axis + 2) % 3], turned[:, 0, 0, (axis + 1) % 3])
        assert torch.allclose(angle, own.uniform(3, low=-1.0)[:, axis], atol=1e-5)
    step = pose
    for axis, limit in enumerate((0.3, 0.5, 0.1)):  # about x first, about z last: the same draws, one axis a time
        angles = [0.0] * 3
        angles[axis] = limit
        step = Rotate3D(angles, NTU)(step, mask, own)
    assert torch.allclose(out, step, atol=1e-5)
    flat = walking(4, 6, 13, 3)
    turned = Rotate2D(0.5, PENN)(flat, torch.ones(4, 6, dtype=torch.bool), own)
    assert torch.allclose(turned[..., :2].norm(dim=-1), flat[..., :2].norm(dim=-1), atol=1e-5)


def test_scale_and_shear_are_one_matrix_a_sequence() -> None:
    pose, mask, own = batch()
    factor = (ALL["scale"](pose, mask, own) / pose)[..., :3]
    assert torch.allclose(factor, factor[:, :1, :1].expand_as(factor), atol=1e-5)
    assert (factor >= 0.5).all() and (factor < 1.5).all() and len(factor[:, 0, 0].unique()) == 12
    corner = torch.eye(3).expand(4, 1, 3, 3)  # the basis: its images are the columns of the matrix
    tiny = of_skeleton_with(3)
    columns = Shear(0.3, tiny)(corner, torch.ones(4, 1, dtype=torch.bool), own)[:, 0].transpose(1, 2)
    assert torch.equal(columns.diagonal(dim1=1, dim2=2), torch.ones(4, 3))
    off = columns[:, ~torch.eye(3, dtype=torch.bool)]
    assert (off.abs() <= 0.3).all() and len(off.unique()) == 24


def of_skeleton_with(joints: int):
    from dataclasses import replace

    return replace(NTU, joints=NTU.joints[:joints], parts=((0, 1, 2),))


def test_centres() -> None:
    pose, mask, _ = batch()
    first, each = ALL["first"](pose, mask), ALL["each"](pose, mask)
    assert (first[:, 0, 1, :3] == 0).all() and torch.allclose(first.diff(dim=1), pose.diff(dim=1), atol=1e-9)
    assert torch.allclose(each[:, :, list(NTU.hip), :3].mean(2), torch.zeros(1, dtype=torch.float64), atol=1e-9)
    assert torch.equal(first[..., 3], pose[..., 3])
    with pytest.raises(UserError, match="center is 'spine'"):
        CenterOn("spine", "first", NTU)


def test_the_box_is_that_of_the_real_frames() -> None:
    pose, mask, _ = batch()
    wild = torch.tensor([1e6, -1e6, 1e6, 0], dtype=pose.dtype)  # padding may hold anything finite
    pose = torch.where(mask[:, :, None, None], pose, wild)
    for i in range(4):
        place = ALL["box"](pose, mask)[i][mask[i]][..., :3]
        assert torch.allclose(place.amin((0, 1)), -torch.ones(3).double())
        assert torch.allclose(place.amax((0, 1)), torch.ones(3).double())
        even = ALL["even"](pose, mask)[i][mask[i]][..., :3]
        assert even.abs().max() == pytest.approx(1) and (even.amin((0, 1)) + even.amax((0, 1))).abs().max() < 1e-9
    level = pose.clone()
    level[..., 1] = 3
    assert (ALL["box"](level, mask)[..., 1] == 0).all()


def test_two_bodies_move_together() -> None:
    """One skeleton of both: the same turn and scale, the first body's centre, a mirror within each body."""
    both = of_bodies(NTU, 2)
    assert both.num_joints == 50 and len(both.parts) == 10 and both.hip == NTU.hip and both.mirror[25] == 25
    pose = walking(2, 6, 50, 3)
    mask, own = torch.ones(2, 6, dtype=torch.bool), draws(2)
    chain = build_transform(
        [{"type": "CenterOn", "center": "spine_mid"}, {"type": "Rotate3D"}, {"type": "ScaleAxes"}, {"type": "Shear"}],
        both,
    )
    out = chain(pose, mask, own)
    assert (out[:, 0, 1] == 0).all()
    twice = torch.cat([pose[:, :, :25], pose[:, :, :25]], 2)
    copied = chain(twice, mask, own)
    assert torch.equal(copied[:, :, :25], copied[:, :, 25:])
    assert torch.allclose(out[:, :, :25], copied[:, :, :25], atol=1e-6)
    with pytest.raises(UserError, match="50 joints of 3|ntu25 of 2 bodies has 50"):
        chain(pose[:, :, :25], mask, own)
    mirrored = build_transform([{"type": "MirrorSkeleton", "probability": 1.0, "center": "hip"}], both)(pose, mask, own)
    assert torch.allclose(mirrored[:, :, 25 + 4, 1:], pose[:, :, 25 + 8, 1:])


@pytest.mark.parametrize(("step", "told"), [
    ({"type": "TemporalCrop", "frames": 0}, "frames is 0"),
    ({"type": "TemporalCrop", "low": 0.9, "high": 0.5}, "high is 0.5"),
    ({"type": "CenterCrop", "ratio": 1.5}, "ratio is 1.5"),
    ({"type": "DropJoints", "unit": "limb"}, "unit is 'limb'"),
    ({"type": "Rotate3D", "angles": 0.3}, "one for each axis"),
    ({"type": "Rotate2D"}, "Rotate3D is what turns 3D poses"),
    ({"type": "CenterOn", "frames": "last"}, "frames is 'last'"),
    ({"type": "UnitBox", "together": 1}, "together is 1"),
    ({"type": "TemporalCrop", "frames": 8.5}, "give a whole number"),
])  # fmt: skip
def test_a_wrong_setting_is_named(step: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_transform([step], NTU)
