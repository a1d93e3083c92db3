"""Skeleton maps against the vectors of the specification and a drawing program of single pixels; their augmentation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bpmt_ext.data import maps as M
from bpmt_ext.data.maps import CutMaps, RandomFlip, RandomPerspective, RandomRotate, SkeletonMaps, fill_lost
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton, joint_mapping

NEVER, ALWAYS = 0.0, 1.0


def published_pose() -> Tensor:
    """The pose of baselines.md section 8, (1, 5, 17, 3) float64."""
    i = torch.arange(255, dtype=torch.float64)
    pose = (100 + 50 * torch.sin(0.7 * i) + 2 * i / 255).view(1, 5, 17, 3)
    pose[..., 1] += 8 * torch.arange(17)
    pose[..., 2] = 0.9
    return pose


def everywhere(pose: Tensor) -> Tensor:
    return torch.ones(pose.shape[:2], dtype=torch.bool, device=pose.device)


def figures(n: int, t: int, seed: int = 0) -> Tensor:
    """Standing figures with some faint, over-confident and lost joints (n, t, 17, 3), float64."""
    g = torch.Generator().manual_seed(seed)
    pose = torch.rand(n, t, 17, 3, generator=g, dtype=torch.float64)
    pose[..., 0] = 100 + 40 * pose[..., 0]
    pose[..., 1] = 50 + 12 * torch.arange(17) + 20 * pose[..., 1]
    pose[..., 2] = 1.2 * pose[..., 2] * (pose[..., 2] > 0.1)
    pose[torch.rand(n, t, 17, generator=g) < 0.1] = 0
    return pose


def test_the_published_sums_and_rows() -> None:
    """baselines_plus.md section 8."""
    pose = published_pose()
    out = SkeletonMaps(cut=0)(pose, everywhere(pose)) * 255
    grey = out.round()
    torch.testing.assert_close(out, grey, atol=1e-9, rtol=0)
    sums = grey[0].sum((2, 3)).T.int().tolist()
    assert sums == [[283091, 242343, 352409, 267186, 223430], [223460, 186927, 255499, 201301, 167198]]
    assert grey.sum() == 2402844 and math.isclose(grey.norm(), 20283.136444, abs_tol=1e-6)
    limbs, joints = grey[0, 0].int()
    assert limbs[32, 20:41:4].tolist() == [69, 169, 229, 218, 229, 218]
    assert joints[32, 20:41:4].tolist() == [69, 157, 147, 117, 219, 167]
    assert joints[8, 28:37].tolist() == [170, 148, 121, 94, 69, 48, 32, 19, 11]


def test_single_precision_is_one_level_off_at_most() -> None:
    pose = torch.cat([published_pose(), figures(1, 5)])
    exact = SkeletonMaps()(pose, everywhere(pose)) * 255
    single = SkeletonMaps()(pose.float(), everywhere(pose)) * 255
    assert single.dtype == torch.float32 and single.shape == (2, 5, 2, 64, 44)
    gap = (single - exact).round().abs()
    assert gap.max() <= 1 and (gap > 0).float().mean() < 0.01


def canvas_by_hand(place: list[list[float]], confidence: list[float]) -> tuple[Tensor, Tensor]:
    """Limbs and joints as brightness on 128 x 128, pixel by pixel (section 3.1, steps 3 and 4)."""
    low, high = min(y for _, y in place), max(y for _, y in place)
    hip = [(place[11][i] + place[12][i]) / 2 for i in range(2)]
    place = [[(p[i] - hip[i]) * 85 / (high - low) + 64 for i in range(2)] for p in place]
    limbs, joints = torch.zeros(128, 128, dtype=torch.float64), torch.zeros(128, 128, dtype=torch.float64)

    def blob(image: Tensor, a: list[float], b: list[float], c: float) -> None:
        box = [(max(int(min(a[i], b[i]) - 24), 0), min(int(max(a[i], b[i]) + 24), 127)) for i in range(2)]
        long = sum((b[i] - a[i]) ** 2 for i in range(2))
        for y in range(box[1][0], box[1][1] + 1):
            for x in range(box[0][0], box[0][1] + 1):
                u = ((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / long if long else 0.0
                u = min(max(u, 0.0), 1.0)
                square = (x - a[0] - u * (b[0] - a[0])) ** 2 + (y - a[1] - u * (b[1] - a[1])) ** 2
                image[y, x] = max(image[y, x].item(), math.exp(-square / 128) * c)

    for p, c in zip(place, confidence, strict=True):
        if c >= 0.001:
            blob(joints, p, p, c)
    for a, b in M.LIMBS:
        c = min(confidence[a], confidence[b])
        if c >= 0.001:
            short = sum((place[a][i] - place[b][i]) ** 2 for i in range(2)) < 1
            blob(limbs, place[a], place[a] if short else place[b], confidence[a] if short else c)
    return limbs, joints


def map_by_hand(image: Tensor) -> Tensor:
    """Brightness (128, 128) -> grey levels (64, 64): steps 5 and 6, in whole numbers as far as they go."""
    step = (image.float() * 256).floor().clamp(max=255).int()
    grey = torch.tensor([[k - (k in M.LOWERED) for k in row] for row in step.tolist()], dtype=torch.float64)
    rows = grey.amax(1).nonzero()[:, 0].tolist()
    if not rows:
        return torch.zeros(64, 64, dtype=torch.float64)
    top, h = rows[0], rows[-1] - rows[0] + 1
    crop = grey[top : top + h, 64 - h // 2 : 64 + h // 2 + 1]
    out = torch.zeros(64, 64, dtype=torch.float64)
    for i in range(64):
        for j in range(64):
            total = 0.0
            low, high = [i * h / 64, j * crop.shape[1] / 64], [(i + 1) * h / 64, (j + 1) * crop.shape[1] / 64]
            for y in range(int(low[0]), min(math.ceil(high[0]), h)):
                for x in range(int(low[1]), min(math.ceil(high[1]), crop.shape[1])):
                    share = (min(high[0], y + 1) - max(low[0], y)) * (min(high[1], x + 1) - max(low[1], x))
                    total += share * crop[y, x].item()
            out[i, j] = total / ((high[0] - low[0]) * (high[1] - low[1]))
    return out


@pytest.mark.parametrize("kind", ["figure", "head", "short limb"])
def test_drawn_pixel_by_pixel(kind: str) -> None:
    pose = figures(1, 1, seed=3)
    if kind == "head":  # little of the canvas is lit: the crop is enlarged
        pose[..., 2] = 0
        pose[..., :3, 2] = 0.8
    if kind == "short limb":
        pose[0, 0, 9, :2] = pose[0, 0, 7, :2] + 0.2
        pose[0, 0, [7, 9], 2] = torch.tensor([0.9, 0.4], dtype=torch.float64)
    out = SkeletonMaps(cut=0, fill=False)(pose, everywhere(pose))[0, 0] * 255
    hand = canvas_by_hand(pose[0, 0, :, :2].tolist(), pose[0, 0, :, 2].tolist())
    for mine, image in zip(out, hand, strict=True):
        assert (mine.round() - map_by_hand(image).floor()).abs().max() <= 1
        assert (mine.round() != map_by_hand(image).floor()).float().mean() < 0.02
        assert mine.max() > 50


def filled_by_hand(x: Tensor) -> Tensor:
    """(t, c) with 0 for what is lost -> filled: step 2, entry by entry."""
    t, c = x.shape
    if bool((x == 0).all(0).any()):
        return x
    out = x.clone()
    for i in range(t):
        gaps = []
        for j in range(t):
            both = (x[i] != 0) & (x[j] != 0)
            gaps.append(math.sqrt(c / int(both.sum()) * float((x[i] - x[j])[both].square().sum())) if both.any()
                        else math.inf)
        for k in range(c):
            if x[i, k] != 0:
                continue
            donors = sorted((gaps[j], j) for j in range(t) if x[j, k] != 0)[:4]
            weights = [float(d == 0) if donors[0][0] == 0 else 1 / d for d, _ in donors]
            if donors[0][0] == math.inf:
                out[i, k] = x[:, k].sum() / (x[:, k] != 0).sum()
            else:
                out[i, k] = sum(w * x[j, k] for w, (_, j) in zip(weights, donors, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("budget", [1 << 22, 200])
def test_lost_joints_come_from_the_four_most_similar_frames(budget: int) -> None:
    g = torch.Generator().manual_seed(1)
    pose = torch.rand(4, 12, 5, 2, generator=g, dtype=torch.float64) + 1
    pose[torch.rand(4, 12, 5, 2, generator=g) < 0.2] = 0
    pose[0, 3] = 0  # a frame without any joint
    pose[1, 4] = pose[1, 7]  # the same frame twice, but for one entry
    pose[1, 7, 0, 0], pose[1, 4, 0, 0] = 1.5, 0
    pose[2, :, 1, 1] = 0  # never seen: nothing is filled
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[3, 9:] = False
    out = fill_lost(pose, mask, budget)
    for i, t in enumerate(mask.sum(1).tolist()):
        hand = filled_by_hand(pose[i, :t].flatten(1)).view(t, 5, 2)
        torch.testing.assert_close(out[i, :t], hand, atol=1e-12, rtol=0)
    assert torch.equal(out[2], pose[2]) and (out[[0, 1]] != 0).all() and out[1, 4, 0, 0] == 1.5


def test_a_filled_joint_counts_for_the_height_but_is_not_drawn() -> None:
    pose = figures(1, 6, seed=4)
    pose[..., 2] = 0.9
    pose[..., 16, 1] = 290.0 + torch.arange(6)  # the height ends at this ankle
    pose[0, 2, 16] = 0
    drawn = SkeletonMaps(cut=0)(pose, everywhere(pose))
    by_hand = pose.clone()
    by_hand[..., :2] = fill_lost(pose[..., :2], everywhere(pose))
    assert by_hand[0, 2, 16, 1] > 280 and by_hand[0, 2, 16, 2] == 0
    assert torch.equal(drawn, SkeletonMaps(cut=0, fill=False)(by_hand, everywhere(pose)))
    by_hand[0, 2, 16, 2] = 0.9
    assert (SkeletonMaps(cut=0, fill=False)(by_hand, everywhere(pose))[0, 2, 1] > drawn[0, 2, 1] + 0.3).any()
    assert not torch.equal(drawn[0, 2], SkeletonMaps(cut=0, fill=False)(pose, everywhere(pose))[0, 2])


def test_empty_and_flat_frames_stay_black_and_padding_changes_nothing() -> None:
    pose = figures(2, 6)
    pose[0, 1] = 0
    pose[0, 2, :, 1] = 7.0
    mask = everywhere(pose)
    mask[1, 4:] = False
    out = SkeletonMaps()(pose, mask)
    assert torch.isfinite(out).all() and (out >= 0).all() and (out <= 1).all()
    assert out[0, 2].abs().sum() == 0 and out[1, 4:].abs().sum() == 0 and (out[0, 3].amax((1, 2)) > 0.5).all()
    alone = SkeletonMaps()(pose[1:, :4], mask[1:, :4])
    assert torch.equal(out[1, :4], alone[0])
    empty = torch.zeros(1, 3, 17, 3)
    assert SkeletonMaps()(empty, everywhere(empty)).abs().sum() == 0


def test_openpose_gives_the_maps_of_the_coco_joints_it_holds() -> None:
    coco = figures(1, 3)
    source = joint_mapping(get_skeleton("coco17"), get_skeleton("openpose18"))
    pose = torch.stack([coco[:, :, list(joints)].mean(2) for joints in source], dim=2)  # type: ignore[arg-type]
    drawn = SkeletonMaps("openpose18")(pose, everywhere(pose))
    assert torch.equal(drawn, SkeletonMaps()(coco, everywhere(coco)))
    without = SkeletonMaps()(coco[..., :2], everywhere(coco))
    coco[..., 2] = 1
    assert torch.equal(without, SkeletonMaps()(coco, everywhere(coco)))


@pytest.mark.parametrize("name", ["kinect20", "ntu25", "penn13"])
def test_other_skeletons_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*SkeletonGait"):
        SkeletonMaps(name)


@pytest.mark.parametrize("cut", [-1, 32, 2.5, True])
def test_a_cut_that_is_none_is_refused(cut: object) -> None:
    for kind in (SkeletonMaps, CutMaps):
        with pytest.raises(UserError, match="cut"):
            kind(cut=cut)  # type: ignore[arg-type]


def test_cut_now_or_later_is_the_same() -> None:
    pose = figures(1, 2)
    later = CutMaps()(SkeletonMaps(cut=0)(pose, everywhere(pose)), everywhere(pose))
    assert later.shape == (1, 2, 2, 64, 44) and torch.equal(later, SkeletonMaps()(pose, everywhere(pose)))


def bilinear(image: Tensor, x: float, y: float) -> float:
    """The value of an image (h, w) between its pixels, 0 outside."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column].item()
    return total


def test_rotation_turns_about_the_exchanged_centre() -> None:
    maps = torch.rand(3, 2, 2, 64, 44, dtype=torch.float64)
    draws = Draws.at(0, 5, range(3))
    out = RandomRotate(ALWAYS, degree=10)(maps, everywhere(maps), draws)
    angle = torch.deg2rad(draws.split("angle").uniform(low=-10, high=10).double())
    for i in range(3):
        cos, sin = math.cos(angle[i]), math.sin(angle[i])
        for y, x in ((0, 0), (22, 32), (40, 10), (63, 43)):
            dx, dy = x - 32, y - 22
            source = 32 + cos * dx - sin * dy, 22 + sin * dx + cos * dy
            assert math.isclose(out[i, 1, 0, y, x], bilinear(maps[i, 1, 0], *source), abs_tol=1e-5)
    assert not torch.equal(out[0], out[1])


def test_perspective_stretches_a_trapezium_to_the_square() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    maps = torch.stack([x, y]).double().expand(5, 2, 2, 64, 64).contiguous()  # the maps hold their own coordinates
    draws = Draws.at(0, 0, range(5))
    out = RandomPerspective(ALWAYS)(maps, everywhere(maps), draws)
    left = draws.split("left").integers(10, 2)
    right = 54 + draws.split("right").integers(10, 2)
    for i in range(5):
        (l0, l1), (r0, r1) = left[i].tolist(), right[i].tolist()
        # x = (a u + b v + l0) / (g u + h v + 1), y = (e u + f v) / (the same), through the four corners
        rows, values = [], []
        for u, v, sx, sy in ((0, 0, l0, 0), (64, 0, r0, 0), (64, 64, r1, 64), (0, 64, l1, 64)):
            rows += [[u, v, 1, 0, 0, 0, -u * sx, -v * sx], [0, 0, 0, u, v, 1, -u * sy, -v * sy]]
            values += [sx, sy]
        a = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))
        for u, v in ((0, 0), (10, 5), (40, 20), (50, 60)):
            w = a[6] * u + a[7] * v + 1
            source = (a[0] * u + a[1] * v + a[2]) / w, (a[3] * u + a[4] * v + a[5]) / w
            torch.testing.assert_close(out[i, 0, :, v, u], torch.stack(source), atol=1e-4, rtol=0)
    assert 0 <= left.min() and left.max() <= 9 and 54 <= right.min() and right.max() <= 63


@pytest.mark.parametrize("kind", [RandomFlip, RandomPerspective, RandomRotate])
def test_augmentation_is_per_sequence_pure_and_repeatable(kind: type[M.OnMaps]) -> None:
    shape = (64, 64) if kind is RandomPerspective else (64, 44)
    maps = torch.rand(40, 3, 2, *shape)
    before, draws, mask = maps.clone(), Draws.at(1, 2, range(40)), everywhere(maps)
    out = kind(0.5)(maps, mask, draws)
    assert torch.equal(maps, before) and torch.equal(out, kind(0.5)(maps, mask, Draws(draws.keys.clone())))
    changed = (out != maps).flatten(1).any(1)
    assert 8 < changed.sum() < 32
    for i in range(0, 40, 7):  # alone as in the batch
        own = kind(0.5)(maps[i : i + 1, :2], mask[i : i + 1, :2], Draws(draws.keys[i : i + 1]))
        torch.testing.assert_close(own[0], out[i, :2], atol=1e-6, rtol=0)
    assert torch.equal(kind(NEVER)(maps, mask, draws), maps)
    with pytest.raises(ValueError, match="draws"):
        kind(0.5)(maps, mask, None)
    with pytest.raises(UserError, match="SkeletonMaps"):
        kind(0.5)(torch.rand(1, 3, 17, 3), mask[:1], Draws(draws.keys[:1]))


def test_flip_mirrors_the_columns() -> None:
    maps = torch.rand(2, 3, 2, 64, 44)
    out = RandomFlip(ALWAYS)(maps, everywhere(maps), Draws.at(0, 0, range(2)))
    assert torch.equal(out, maps.flip(-1))


def test_a_config_builds_the_chain() -> None:
    cfg = [{"type": "SkeletonMaps", "cut": 0}, {"type": "RandomPerspective", "probability": 0.2}, {"type": "CutMaps"},
           {"type": "RandomFlip", "probability": 0.2}, {"type": "RandomRotate", "probability": 0.2}]
    pose = figures(2, 2).float()
    out = build_transform(cfg, get_skeleton("coco17"))(pose, everywhere(pose), Draws.at(0, 0, range(2)))
    assert out.shape == (2, 2, 2, 64, 44) and out.dtype == torch.float32
