"""Transforms against test vectors, naive loops and the properties that every one of them must have."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from bpmt_ext.data import transforms as T
from bpmt_ext.data.batches import Batch, transformed
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
    "Affine": T.Affine, "AffineExact": T.AffineExact, "GaitTR_MultiInput": T.GaitTR_MultiInput,
    "GaitGraph_MultiInput": T.GaitGraph_MultiInput, "GaitGraphInput": T.GaitGraphInput,
    "HOD_MultiInput": T.HOD_MultiInput, "RandomSelectSequence": lambda: T.RandomSelectSequence(3),
    "SelectSequenceCenter": lambda: T.SelectSequenceCenter(5),
    "ScaleCoordinates": T.ScaleCoordinates, "ScaleByLowest": lambda: T.ScaleCoordinates("lowest"),
    "TwoView": lambda: T.TwoView([T.PointNoise(1.0), T.FlipSequence(), T.GaitTR_MultiInput()]),
}
DEEP_CASES: dict[str, Callable[[], T.Transform]] = {
    "HipHeading": T.HipHeading, "RandomYaw": T.RandomYaw,
    "MirrorSkeleton3": lambda: T.MirrorSkeleton(center="hip", joint_format="kinect20"),
    "FillMissing3": lambda: T.FillMissing("kinect20"), "RescaleCenter3": lambda: T.RescaleCenter("hip", 1, "kinect20"),
    "RandomMove3": lambda: T.RandomMove([1, 2, 3]), "NormalizeEmpty3": lambda: T.NormalizeEmpty("kinect20"),
    "GaitTR_MultiInput3": lambda: T.GaitTR_MultiInput("kinect20"), "HOD_MultiInput3": lambda: T.HOD_MultiInput("ucla"),
    "GaitGraph_MultiInput3": lambda: T.GaitGraph_MultiInput("kinect20"),
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
    # test_maps.py, test_augment_actions.py, test_silhouettes.py
    elsewhere = tuple(f"bpmt_ext.data.{name}" for name in ("maps", "actions", "silhouette_transforms"))
    others = {name for name, made in TRANSFORMS.items() if made.__module__ in elsewhere}
    assert {type(make()).__name__ for make in CASES.values()} == set(TRANSFORMS) - others


@pytest.mark.parametrize("name", CASES)
def test_pure_dtype_kept_finite_and_repeatable(name: str) -> None:
    transform, pose, mask, draws = sample(name, lost=0.2)
    pose[0, 2] = 0  # a frame without any joint
    for dtype in (torch.float64, torch.float32):
        given_, before, unmasked = pose.to(dtype), pose.to(dtype).clone(), mask.clone()
        out, real = transform.reframe(given_, mask, draws)
        assert out.dtype == dtype and real.dtype == torch.bool and torch.isfinite(out).all()
        assert out.shape[:3] == (*real.shape, pose.shape[2]) and (transform.reframes or torch.equal(real, mask))
        assert torch.equal(given_, before) and torch.equal(mask, unmasked)
        assert torch.equal(out, transform(given_, mask, Draws(draws.keys.clone())))


@pytest.mark.parametrize("name", CASES)
def test_alone_and_in_a_padded_batch_the_same(name: str) -> None:
    """Padding, batch mates and their number change no real frame, bit for bit."""
    for seed in range(4):  # random ones choose sometimes so, sometimes otherwise
        transform, pose, mask, draws = sample(name, seed=seed, lost=0.2)
        pose = torch.where(mask[..., None, None], pose, pose.flip(1) + seed).float()  # whatever the padding holds
        padded, real = transform.reframe(pose, mask, draws)
        for i, t in enumerate(mask.sum(1).tolist()):
            alone, all_of_it = transform.reframe(pose[i:i + 1, :t], mask[i:i + 1, :t], Draws(draws.keys[i:i + 1]))
            assert all_of_it.all() and torch.equal(alone[0], padded[i, real[i]])


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


def test_affine_against_the_published_vectors() -> None:
    mask, rows = torch.ones(1, 5, dtype=torch.bool), {"Affine": (22753.44009463, 1883.41280571)}
    rows["Affine RescaleCenter"] = (3036.59413409, 752.82360164)
    for names, (total, norm) in rows.items():
        out = build_transform([{"type": name} for name in names.split()])(vector(), mask)
        assert out.sum().item() == pytest.approx(total, rel=1e-9) and out.norm().item() == pytest.approx(norm, rel=1e-9)


@given(st.integers(0, 10_000), st.sampled_from(["coco17", "openpose18", "penn13"]))
@hypothesis_settings(max_examples=20, deadline=None)
def test_affine_exact_is_a_rotation_and_affine_is_not(seed: int, name: str) -> None:
    skeleton = get_skeleton(name)
    pose, mask, _ = batch(skeleton.num_joints, 3, [4, 2], seed)
    pose[0, 0, [*skeleton.neck, *skeleton.hip], 1] = 3.5  # a level spine is left as it is
    out, bent = T.AffineExact(name)(pose, mask), T.Affine(name)(pose, mask)
    neck, hip = (out[:, :, list(joints), :2].mean(2) for joints in (skeleton.neck, skeleton.hip))
    before = pose[:, :, list(skeleton.neck), :2].mean(2)
    torch.testing.assert_close(neck, before)
    upright = (neck - hip)[..., 0].abs()
    assert upright.flatten()[1:].max() < 1e-9
    torch.testing.assert_close(out[0, 0], pose[0, 0])
    apart = [torch.cdist(p[..., :2].flatten(0, 1), p[..., :2].flatten(0, 1)) for p in (pose, out, bent)]
    torch.testing.assert_close(apart[1], apart[0])
    assert (apart[2] - apart[0]).abs().max() > 1e-3
    torch.testing.assert_close(bent[..., 0], out[..., 0])  # the host's x is right, its y is not
    assert torch.equal(out[..., 2], pose[..., 2])


def test_the_head_is_the_middle_of_the_eyes_where_there_are_eyes() -> None:
    for name, head in (("coco17", [1, 2]), ("openpose18", [14, 15]), ("penn13", [0])):
        pose, mask, _ = batch(get_skeleton(name).num_joints, 3, [3])
        out = T.RescaleCenter("head", joint_format=name)(pose, mask)
        assert out[:, :, head, :2].mean(2).abs().max() < 1e-9
    assert T.RescaleCenter("None", joint_format=name)(pose, mask) is pose  # the host's way to switch it off


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.9]), st.booleans())
@hypothesis_settings(max_examples=20, deadline=None)
def test_normalize_empty_replaces_one_joint_after_the_other(seed: int, lost: float, deep: bool) -> None:
    name, d = ("kinect20", 3) if deep else ("coco17", 2)
    pose, mask, _ = batch(20 if deep else 17, d + 1, [5], seed)
    pose[..., 0][torch.rand(pose.shape[:3], generator=torch.Generator().manual_seed(seed)) < lost] = 0  # y stays
    expected = pose.clone()
    for t in range(5):
        for v in range(pose.shape[2]):
            if pose[0, t, v, 0] == 0:
                expected[0, t, v, :d] = expected[0, t, :, :d].mean(0)
                expected[0, t, v, d:] = 0
    torch.testing.assert_close(T.NormalizeEmpty(name)(pose, mask), expected, rtol=1e-12, atol=1e-12)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 99))
@hypothesis_settings(max_examples=40, deadline=None)
def test_windows_lie_where_they_should(lengths: list[int], size: int, seed: int) -> None:
    pose, mask, draws = batch(17, 3, lengths, seed)
    pose[..., 0] = torch.arange(pose.shape[1])[:, None]  # the number of the frame
    for transform in (T.RandomSelectSequence(size), T.SelectSequenceCenter(size)):
        out, real = transform.reframe(pose, mask, draws)
        assert real.all() and real.shape == (len(lengths), size)
        for frames, t in zip(out[:, :, 0, 0].long().tolist(), lengths, strict=True):
            assert frames == [(frames[0] + k) % t for k in range(size)]
            if t > size and transform.random:
                assert frames[0] < t - size
            if t >= size and not transform.random:
                assert frames[0] == (t - size) // 2
            if t == size:
                assert frames[0] == 0


def test_every_window_start_is_as_likely_but_the_last() -> None:
    pose = torch.arange(10.0).reshape(1, 10, 1, 1).expand(4000, -1, 17, 3)
    out = T.RandomSelectSequence(6)(pose, torch.ones(4000, 10, dtype=torch.bool), Draws.at(0, 0, range(4000)))
    share = torch.bincount(out[:, 0, 0, 0].long(), minlength=10) / 4000
    torch.testing.assert_close(share, torch.tensor([0.25] * 4 + [0.0] * 6), rtol=0, atol=0.03)


def test_two_views_are_the_chain_twice() -> None:
    pose, mask, draws = batch(17, 3, [8, 5])
    steps = [{"type": "FlipSequence"}, {"type": "PointNoise", "std": 1}, {"type": "SkeletonInput"}]
    out, real = build_transform([{"type": "TwoView", "trf_cfg": steps}]).reframe(pose, mask, draws)
    chain = build_transform(steps)
    for view, half in enumerate(out.chunk(2, 1)):
        assert torch.equal(half, chain(pose, mask, draws.split(0).split(view)))
    assert torch.equal(real, mask.repeat(1, 2)) and not torch.equal(*out.chunk(2, 1))
    cut = T.TwoView([{"type": "SelectSequenceCenter", "sequence_length": 6}])  # nothing random: no draws needed
    out, real = cut.reframe(pose, mask)
    assert out.shape[1] == 12 and real.all() and torch.equal(*out.chunk(2, 1))
    deep, deep_mask, deep_draws = batch(20, 3, [4])
    build_transform([{"type": "TwoView", "trf_cfg": [{"type": "JointNoise"}]}], KINECT)(deep, deep_mask, deep_draws)


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


class Drawn(T.Transform):
    """Something with more axes than a pose, and with rubbish where there is padding."""

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        return pose[..., None].expand(-1, -1, -1, -1, 4) + 100.0 * ~mask[..., None, None, None]


def test_a_loaders_padding_repeats_the_last_real_frame_of_each_view() -> None:
    pose, mask, draws = batch(17, 3, [8, 5, 1])
    names = ("a",) * 3
    given_ = Batch(pose, mask, torch.zeros(3), names, names, names, torch.arange(3), draws.keys)
    steps: list[T.Transform] = [T.PointNoise(1.0), Drawn()]
    for views, chain in ((1, T.Compose(steps)), (2, T.Compose([T.TwoView(steps)]))):
        out = transformed(given_, chain)
        assert out.pose.shape == (3, 8 * views, 17, 3, 4) and torch.equal(out.mask, mask.repeat(1, views))
        raw = chain(pose, mask, draws.split("transform"))
        for half, raw_half in zip(out.pose.chunk(views, 1), raw.chunk(views, 1), strict=True):
            for row, made, t in zip(half, raw_half, (8, 5, 1), strict=True):
                assert torch.equal(row[:t], made[:t]) and torch.equal(row[t:], made[t - 1:t].expand_as(row[t:]))
    window = transformed(given_, T.Compose([T.SelectSequenceCenter(6)]))
    assert window.pose.shape == (3, 6, 17, 3) and window.mask.shape == (3, 6) and window.mask.all()


# Each form of `transform:` in FastPoseGait's configs, with the joint format of the data.
NOISY = [{"type": "PointNoise", "std": 0.05}, {"type": "JointNoise", "std": 0.2}, {"type": "SkeletonInput"}]
SWAPPED = {"type": "InversePosesPre", "probability": 0.1, "joint_format": "alphapose"}
HOST_CHAINS: list[tuple[str, list[dict[str, Any]], tuple[int, int]]] = [
    ("coco", [{"type": "TwoView", "trf_cfg": [
        {"type": "RandomSelectSequence", "sequence_length": 9}, *NOISY]}], (18, 3)),
    ("alphapose", [{"type": "Compose", "trf_cfg": [
        {"type": "NormalizeEmpty"}, {"type": "FlipSequence", "probability": 0.5}, SWAPPED, *NOISY[:2],
        {"type": "RandomMove", "random_r": [3, 1]}, {"type": "GaitGraph_MultiInput", "joint_format": "alphapose"},
    ]}], (12, 15)),
    ("coco", [{"type": "GaitGraph_MultiInput"}], (12, 15)),
    ("alphapose", [{"type": "Compose", "trf_cfg": [
        SWAPPED, {"type": "GaitTR_MultiInput", "joint_format": "alphapose"}, {"type": "SkeletonInput"}]}], (12, 10)),
    ("coco", [{"type": "Compose", "trf_cfg": [
        {"type": "Affine"}, {"type": "RescaleCenter"}, {"type": "HOD_MultiInput"}, {"type": "SkeletonInput"},
    ]}], (12, 6)),
    ("coco", [{"type": "Compose", "trf_cfg": [
        {"type": "SelectSequenceCenter", "sequence_length": 17}, {"type": "SkeletonInput"}]}], (17, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("joint_format", "cfg", "expected"), HOST_CHAINS)
def test_chains_as_fastposegait_writes_them(joint_format: str, cfg: Any, expected: tuple[int, int]) -> None:
    skeleton = get_skeleton(joint_format)
    pose, mask, draws = batch(skeleton.num_joints, 3, [12, 7], lost=0.1)
    out, real = build_transform(cfg, skeleton).reframe(pose, mask, draws)
    assert out.shape == (2, expected[0], skeleton.num_joints, expected[1]) and real.shape == out.shape[:2]
    assert torch.isfinite(out).all()


def test_every_chain_of_a_fastposegait_checkout() -> None:
    """Only where there is a checkout: FASTPOSEGAIT_HOME."""
    paths = sorted(Path(os.environ.get("FASTPOSEGAIT_HOME", "nowhere")).glob("configs/**/*.yaml"))
    for path in (path for path in paths if "gaitheat" not in path.parts):
        cfg = yaml.safe_load(path.read_text())
        skeleton = get_skeleton(cfg.get("model_cfg", {}).get("joint_format", "coco"))
        for section in ("trainer_cfg", "evaluator_cfg"):
            pose, mask, draws = batch(skeleton.num_joints, 3, [70, 40], lost=0.05)
            out, real = build_transform(cfg[section]["transform"], skeleton).reframe(pose, mask, draws)
            assert out.shape[:2] == real.shape and torch.isfinite(out).all(), (path, section)


def test_parameters_that_the_hosts_drop_are_dropped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_transform([{"type": "Affine", "fi": 3}, {"type": "MirrorPoses", "joint_format": "coco"}])
    assert "transform Affine: fi: 3 has no effect" in caplog.text and "MirrorPoses: joint_format" in caplog.text


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
    ([{"type": "Affine", "joint_format": "kinect20"}], r"Affine turns poses in the picture plane.*3 coordinates.*Hip"),
    ([{"type": "AffineExact", "fi": 3}], r"AffineExact has no parameter 'fi'"),
    ([{"type": "SelectSequenceCenter", "sequence_length": 0}], r"SelectSequenceCenter: sequence_length is 0"),
    ([{"type": "RandomSelectSequence", "sequence_length": 2.5}], r"sequence_length is 2.5; give a whole number"),
    ([{"type": "TwoView", "trf_cfg": [{"type": "TwoView"}]}], r"TwoView holds another TwoView"),
    ([{"type": "TwoView", "trf_cfg": [{"type": "PointNoice"}]}], r"'PointNoice' is unknown.*'PointNoise'"),
    ([{"type": "TwoView"}, {"type": "SkeletonInput"}, {"type": "GaitTR_MultiInput"}],
     r"TwoView is followed by .*; put that under its trf_cfg"),
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
