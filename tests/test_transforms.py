"""Transforms against test vectors, naive loops and the properties that every one of them must have."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from bpmt_ext.data import transforms as T
from bpmt_ext.data.transforms import TRANSFORMS, build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton

COCO, KINECT = get_skeleton("coco17"), get_skeleton("kinect20")
FLAT_CASES: dict[str, Callable[[], T.Transform]] = {
    "RescaleCenter": T.RescaleCenter, "NormalizeEmpty": T.NormalizeEmpty, "FillMissing": T.FillMissing,
    "SkeletonInput": T.SkeletonInput, "InversePosesPre": T.InversePosesPre, "MirrorPoses": T.MirrorPoses,
    "MirrorSkeleton": T.MirrorSkeleton, "FlipSequence": T.FlipSequence, "PointNoise": T.PointNoise,
    "JointNoise": T.JointNoise, "RandomMove": T.RandomMove, "RandomScale": T.RandomScale,
    "Compose": lambda: T.Compose([T.FillMissing(), T.PointNoise(), T.RescaleCenter(), T.FlipSequence()]),
}
DEEP_CASES: dict[str, Callable[[], T.Transform]] = {
    "HipHeading": T.HipHeading, "RandomYaw": T.RandomYaw,
    "MirrorSkeleton3": lambda: T.MirrorSkeleton(center="hip", joint_format="kinect20"),
    "FillMissing3": lambda: T.FillMissing("kinect20"), "RescaleCenter3": lambda: T.RescaleCenter("hip", 1, "kinect20"),
    "RandomMove3": lambda: T.RandomMove([1, 2, 3]),
}
CASES = {**FLAT_CASES, **DEEP_CASES}


def batch(v: int, c: int, lengths: list[int], seed: int = 0, lost: float = 0.0) -> tuple[Tensor, Tensor, Draws]:
    """Made-up poses, padded by their last frames; a share of the joints lost."""
    generator = torch.Generator().manual_seed(seed)
    pose = 5 * torch.randn(len(lengths), max(lengths), v, c, generator=generator, dtype=torch.float64) + 20
    pose[torch.rand(pose.shape[:3], generator=generator) < lost] = 0
    time = torch.arange(max(lengths))
    count = torch.tensor(lengths)[:, None]
    pose = pose[torch.arange(len(lengths))[:, None], torch.minimum(time, count - 1)]
    return pose, time < count, Draws.at(seed, 3, range(len(lengths)))


def sample(name: str, **options: object) -> tuple[T.Transform, Tensor, Tensor, Draws]:
    shape = (20, 3) if name in DEEP_CASES else (17, 3)
    return CASES[name](), *batch(*shape, [9, 4, 1], **options)  # type: ignore[arg-type]


def test_every_transform_is_among_the_cases() -> None:
    assert {type(make()).__name__ for make in CASES.values()} == set(TRANSFORMS)


@pytest.mark.parametrize("name", CASES)
def test_pure_dtype_kept_finite_and_repeatable(name: str) -> None:
    transform, pose, mask, draws = sample(name, lost=0.2)
    pose[0, 2] = 0  # a frame without any joint
    for dtype in (torch.float64, torch.float32):
        given_, before = pose.to(dtype), pose.to(dtype).clone()
        out = transform(given_, mask, draws)
        assert out.dtype == dtype and out.shape == pose.shape and torch.isfinite(out).all()
        assert torch.equal(given_, before)
        assert torch.equal(out, transform(given_, mask, Draws(draws.keys.clone())))


@pytest.mark.parametrize("name", CASES)
def test_alone_and_in_a_padded_batch_the_same(name: str) -> None:
    """Padding, batch mates and their number change no real frame, bit for bit."""
    for seed in range(4):  # random ones choose sometimes so, sometimes otherwise
        transform, pose, mask, draws = sample(name, seed=seed, lost=0.2)
        pose = torch.where(mask[..., None, None], pose, pose.flip(1) + seed).float()  # whatever the padding holds
        padded = transform(pose, mask, draws)
        for i, t in enumerate(mask.sum(1).tolist()):
            alone = transform(pose[i:i + 1, :t], mask[i:i + 1, :t], Draws(draws.keys[i:i + 1]))
            assert torch.equal(alone[0], padded[i, :t])


@pytest.mark.parametrize("name", [n for n, make in CASES.items() if make().random])
def test_random_ones_need_draws_and_use_them(name: str) -> None:
    transform, pose, mask, draws = sample(name)
    with pytest.raises(ValueError, match="needs draws"):
        transform(pose, mask, None)
    results = [transform(pose, mask, draws.split(k)) for k in range(12)]
    assert any(not torch.equal(results[0], r) for r in results)


def vector() -> Tensor:
    """Input of the transform rows in baselines.md section 8."""
    i = torch.arange(255, dtype=torch.float64)
    a = (100 + 50 * torch.sin(0.7 * i) + 2 * i / 255).reshape(1, 5, 17, 3)
    a[..., 1] += 8 * torch.arange(17, dtype=torch.float64)
    a[..., 2] = 0.9
    return a


def test_rescale_center_against_the_published_vector() -> None:
    pose = vector()
    assert pose.sum().item() == pytest.approx(22742.58321923, abs=1e-7)
    out = T.RescaleCenter(center="neck", scale=225)(pose, torch.ones(1, 5, dtype=torch.bool))
    assert out.sum().item() == pytest.approx(3025.06760423, abs=1e-7)
    assert out.norm().item() == pytest.approx(753.19989948, abs=1e-7)
    hip = T.RescaleCenter(center="hip", scale=1)(pose, torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(hip[:, :, [11, 12], :2].mean(2), torch.zeros(1, 5, 2, dtype=torch.float64))
    torch.testing.assert_close(hip[..., 1].amax(2) - hip[..., 1].amin(2), torch.ones(1, 5, dtype=torch.float64))


def test_frames_without_height_become_zero() -> None:
    pose = torch.zeros(1, 2, 17, 3)
    pose[0, 1, :, 0], pose[..., 2] = torch.arange(17.0), 0.5  # all joints in one row
    out = T.RescaleCenter()(pose, torch.ones(1, 2, dtype=torch.bool))
    assert not out[..., :2].any() and (out[..., 2] == 0.5).all()


def test_normalize_empty_takes_the_frame_as_it_came() -> None:
    pose, mask, _ = batch(17, 3, [3])
    pose[0, 0, 4, 0] = pose[0, 1, 2, 0] = pose[0, 1, 3, 0] = 0
    out = T.NormalizeEmpty()(pose, mask)
    for t, joints in ((0, [4]), (1, [2, 3])):
        mean = sum(pose[0, t, v, :2] for v in range(17)) / 17
        for v in range(17):
            expected = torch.cat([mean, mean.new_zeros(1)]) if v in joints else pose[0, t, v]
            torch.testing.assert_close(out[0, t, v], expected)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7, 0.95]), st.sampled_from([(17, 3), (17, 2), (20, 3)]))
@hypothesis_settings(max_examples=40, deadline=None)
def test_fill_missing_against_a_loop(seed: int, lost: float, shape: tuple[int, int]) -> None:
    pose, mask, _ = batch(*shape, [7, 2], seed, lost)
    d = 3 if shape[0] == 20 else 2
    if shape == (17, 3):
        pose[0, 1, 5, 2] = 0  # unsure only: coordinates are there, confidence is not
    out = T.FillMissing("kinect20" if d == 3 else "coco17")(pose, mask)
    for n, length in enumerate((7, 2)):
        gone = [[not pose[n, t, v, :d].any() or (shape[1] > d and pose[n, t, v, d] == 0) for v in range(shape[0])]
                for t in range(length)]
        expected = pose[n, :length].clone()
        seen_ever = []
        for v in range(shape[0]):
            seen = [t for t in range(length) if not gone[t][v]]
            if not seen:
                continue
            seen_ever.append(v)
            for t in range(length):
                a = max((s for s in seen if s <= t), default=seen[0])
                b = min((s for s in seen if s >= t), default=seen[-1])
                w = 0 if a == b else (t - a) / (b - a)
                expected[t, v, :d] = (1 - w) * pose[n, a, v, :d] + w * pose[n, b, v, :d]
        for t in range(length):
            for v in range(shape[0]):
                if v not in seen_ever and seen_ever:
                    expected[t, v, :d] = expected[t, seen_ever, :d].mean(0)
                if gone[t][v]:
                    expected[t, v, d:] = 0
        torch.testing.assert_close(out[n, :length], expected, rtol=0, atol=1e-9)


def walker(heading: Tensor) -> Tensor:
    """A rigid 3D figure (1, t, 20, 3) that faces `heading` (t,) radians from +z towards +x in every frame."""
    generator = torch.Generator().manual_seed(1)
    body = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    left, right = KINECT.hips
    for joint, x in ((left, 0.2), (right, -0.2)):
        body[joint] = torch.tensor([x, 0.0, 0.0])
    body = body - body[list(KINECT.hip)].mean(0)
    body[..., 2] -= body[[left, right], 2].mean()
    cos, sin = heading.cos()[:, None], heading.sin()[:, None]
    x, y, z = body.unbind(-1)
    place = torch.stack([x * cos + z * sin, y.expand(len(heading), -1), z * cos - x * sin], -1)
    return (place + torch.tensor([3.0, 1.0, -2.0]) * torch.arange(len(heading))[:, None, None])[None]


def test_hip_heading_brings_any_walker_to_plus_z() -> None:
    ones = torch.ones(1, 9, dtype=torch.bool)
    still = walker(torch.zeros(9, dtype=torch.float64))
    expected = T.HipHeading()(still, ones)
    left, right = KINECT.hips
    side = expected[0, :, left] - expected[0, :, right]
    assert (side[:, 0] > 0).all() and side[:, 2].abs().max() < 1e-9  # left hip at +x: the walker faces +z
    assert expected[0, :, list(KINECT.hip)].mean(1).abs().max() < 1e-9
    for angle in (0.3, 1.9, -2.8, math.pi):
        out = T.HipHeading()(walker(torch.full((9,), angle, dtype=torch.float64)), ones)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    exact = T.HipHeading(smooth=1)(walker(torch.linspace(0, 2, 9, dtype=torch.float64)), ones)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-9)


def test_hip_heading_smooths_over_the_window_without_padding() -> None:
    heading = torch.linspace(0, 2.5, 9, dtype=torch.float64)
    pose, mask = walker(heading), torch.arange(9)[None] < 7
    out = T.HipHeading(smooth=5)(pose, mask)
    left, right = KINECT.hips
    line = (pose[0, :, left] - pose[0, :, right])
    for t in range(7):
        window = line[max(0, t - 2):min(7, t + 3)].mean(0)
        turn = math.atan2(window[2], window[0])
        centred = pose[0, t] - pose[0, t, list(KINECT.hip)].mean(0)
        x = centred[:, 0] * math.cos(turn) + centred[:, 2] * math.sin(turn)
        z = centred[:, 2] * math.cos(turn) - centred[:, 0] * math.sin(turn)
        torch.testing.assert_close(out[0, t], torch.stack([x, centred[:, 1], z], -1), rtol=0, atol=1e-9)
    bones = [torch.cdist(p[0], p[0]) for p in (pose, out)]
    torch.testing.assert_close(*bones, rtol=0, atol=1e-9)


def always(name: str, **kwargs: object) -> T.Transform:
    transform = build_transform([{"type": name, "probability": 1, **kwargs}])
    return transform


def test_swaps_mirrors_and_reversal_by_definition() -> None:
    pose, mask, draws = batch(17, 3, [6, 3])
    swapped = pose[:, :, list(COCO.mirror)]
    assert torch.equal(always("InversePosesPre")(pose, mask, draws), swapped)
    mean = pose[..., :1].mean(2, keepdim=True)
    mirrored = torch.cat([2 * mean - pose[..., :1], pose[..., 1:]], -1)
    torch.testing.assert_close(always("MirrorPoses")(pose, mask, draws), mirrored)
    both = torch.cat([2 * mean - swapped[..., :1], swapped[..., 1:]], -1)
    torch.testing.assert_close(always("MirrorSkeleton")(pose, mask, draws), both)
    back = always("FlipSequence")(pose, mask, draws)
    assert torch.equal(back[0], pose[0].flip(0)) and torch.equal(back[1, :3], pose[1, :3].flip(0))
    assert torch.equal(back[1, 3:], back[1, 2:3].expand(3, -1, -1))  # padding: the new last frame
    for name in ("InversePosesPre", "MirrorPoses", "MirrorSkeleton", "FlipSequence"):
        twice = always(name)(always(name)(pose, mask, draws), mask, draws)
        torch.testing.assert_close(twice[mask], pose[mask])
        never = build_transform([{"type": name, "probability": 0}])
        assert torch.equal(never(pose, mask, draws), pose)
    centred = T.RescaleCenter("hip")(pose, mask)
    turned = always("MirrorSkeleton", center="hip")(centred, mask, draws)
    assert turned[:, :, [11, 12], :2].mean(2).abs().max() < 1e-9


def test_probability_is_per_frame_or_per_sequence() -> None:
    pose, _, _ = batch(17, 3, [40] * 100)
    mask, draws = torch.ones(100, 40, dtype=torch.bool), Draws.at(1, 1, range(100))
    changed = {}
    for name in ("InversePosesPre", "MirrorPoses", "MirrorSkeleton", "FlipSequence"):
        out = build_transform([{"type": name, "probability": 0.3}])(pose, mask, draws)
        changed[name] = (out != pose).any(-1).any(-1).double()  # (n, t)
        assert changed[name].mean().item() == pytest.approx(0.3, abs=0.12)
    for name, frames in changed.items():
        assert bool(((frames.mean(1) > 0) & (frames.mean(1) < 1)).any()) == (name == "InversePosesPre")


def test_noise_has_the_stated_size_and_place() -> None:
    pose, mask = torch.zeros(200, 30, 17, 3, dtype=torch.float64), torch.ones(200, 30, dtype=torch.bool)
    draws = Draws.at(0, 0, range(200))
    point = T.PointNoise(std=0.5)(pose, mask, draws)
    assert point.std().item() == pytest.approx(0.5, rel=0.01) and abs(point.mean().item()) < 0.005
    assert ((point / 0.5) ** 4).mean().item() == pytest.approx(3, rel=0.05)  # normal, not only of that spread
    flat = point.flatten(2)
    neighbours = (flat[..., :-1] * flat[..., 1:]).mean((0, 1))  # two numbers come from one word: still independent
    assert neighbours.abs().max().item() < 0.02
    joint = T.JointNoise(std=0.5)(pose, mask, draws)
    assert torch.equal(joint, joint[:, :1].expand_as(joint)) and not joint[..., 2].any()
    assert joint[:, 0, :, :2].std().item() == pytest.approx(0.5, rel=0.05)
    move = T.RandomMove([4, 1])(pose, mask, draws)
    assert torch.equal(move, move[:, :1, :1].expand_as(move)) and not move[..., 2].any()
    x, y = move[:, 0, 0, 0], move[:, 0, 0, 1]
    assert 3.5 < x.abs().max() <= 4 and 0.9 < y.abs().max() <= 1 and x.min() < -3 and x.max() > 3
    scale = T.RandomScale(0.8, 1.5)(pose + 1, mask, draws)
    assert torch.equal(scale[..., :2], scale[:, :1, :1, :1].expand_as(scale[..., :2])) and (scale[..., 2] == 1).all()
    assert 0.8 <= scale[..., 0].min() < 0.9 and 1.4 < scale[..., 0].max() < 1.5


def test_random_yaw_is_a_rotation_about_y_within_the_angle() -> None:
    pose, mask, draws = batch(20, 3, [3] * 50)
    out = T.RandomYaw(angle=0.4)(pose, mask, draws)
    assert torch.equal(out[..., 1], pose[..., 1])
    torch.testing.assert_close(torch.cdist(out[0], out[0]), torch.cdist(pose[0], pose[0]))
    angle = torch.atan2(pose[..., 2], pose[..., 0]) - torch.atan2(out[..., 2], out[..., 0])
    angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(angle, angle[:, :1, :1].expand_as(angle), rtol=0, atol=1e-6)
    assert 0.3 < angle.abs().max() <= 0.4 and angle.min() < 0 < angle.max()


def test_build_transform_reads_both_forms() -> None:
    pose, mask, draws = batch(17, 3, [5])
    steps = [{"type": "RescaleCenter", "scale": 100}, {"type": "PointNoise", "std": 0.1}, {"type": "FlipSequence"}]
    plain = build_transform(steps)
    host = build_transform([{"type": "Compose", "trf_cfg": steps}])
    per_modality = build_transform([{"type": "Compose", "trf_cfg": steps}, {"type": "Compose", "trf_cfg": []}])
    out = plain(pose, mask, draws)
    by_hand = pose
    for k, step in enumerate((T.RescaleCenter(scale=100), T.PointNoise(0.1), T.FlipSequence())):
        by_hand = step(by_hand, mask, draws.split(k))
    assert torch.equal(out, by_hand)
    assert torch.equal(out, host(pose, mask, draws)) and torch.equal(out, per_modality(pose, mask, draws))
    for empty in (None, [], [{"type": "SkeletonInput"}], {"type": "SkeletonInput"}):
        assert torch.equal(build_transform(empty)(pose, mask, None), pose)
    deep, deep_mask, _ = batch(20, 3, [4])
    build_transform([{"type": "FillMissing"}], KINECT)(deep, deep_mask, None)  # the data's skeleton, unless named


@pytest.mark.parametrize(("cfg", "message"), [
    ([{"type": "RescaleCentre"}], r"'RescaleCentre' is unknown.*'RescaleCenter'"),
    ([{"type": "RescaleCenter", "centre": "neck"}], r"RescaleCenter has no parameter 'centre'.*'center'"),
    ([{"type": "Compose", "trf": []}], r"Compose has no parameter 'trf'.*trf_cfg"),
    ([{"type": "SkeletonInput", "scale": 1}], r"SkeletonInput has no parameter 'scale'"),
    ([{"type": "RescaleCenter", "center": "nose"}], r"center is 'nose'; give one of neck, hip, head"),
    ([{"type": "FlipSequence", "probability": 1.5}], r"FlipSequence: probability is 1.5; give a number in \[0, 1\]"),
    ([{"type": "PointNoise", "std": "x"}], r"PointNoise: std is 'x'"),
    ([{"type": "RandomMove", "random_r": 4}], r"random_r is 4"),
    ([{"type": "RandomScale", "low": 2, "high": 1}], r"RandomScale: high is 1"),
    ([{"type": "HipHeading", "joint_format": "coco17"}], r"HipHeading needs three coordinates"),
    ([{"type": "HipHeading", "smooth": 4}], r"smooth is 4; give an odd number"),
    ([{"type": "RescaleCenter", "joint_format": "coco71"}], r"coco"),
    ([{"center": "neck"}], r"no entry of the form"),
    (["RescaleCenter"], r"no entry of the form"),
    ("RescaleCenter", r"is no list"),
])
def test_config_faults(cfg: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_transform(cfg)  # type: ignore[arg-type]


def test_poses_of_another_format_are_named() -> None:
    pose, mask, _ = batch(20, 3, [4])
    with pytest.raises(UserError, match=r"RescaleCenter: joint_format coco17 has 17 joints.* the poses have 20 joints"):
        T.RescaleCenter()(pose, mask)
