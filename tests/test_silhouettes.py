"""Silhouettes: alignment against a program of single pixels, PNG folders good and bad, and the batched transforms."""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from figures import figure, walk, write_pngs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from bpmt_ext.data import silhouettes as S
from bpmt_ext.data.maps import OnMaps, RandomFlip, RandomPerspective, RandomRotate
from bpmt_ext.data.silhouette_transforms import BaseSilCuttingTransform, RandomErasing, RandomShiftScale
from bpmt_ext.data.silhouettes import align, read_folder, read_png
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError

ALIGNED = align(figure(phase=1)[None])[0].astype(float)


def aligned_by_hand(frame: np.ndarray) -> np.ndarray:
    """One frame (h, w) with a figure -> (64, 64) levels, not rounded: cell by cell, pixel by pixel."""
    h, w = frame.shape
    solid = [y for y in range(h) if max(frame[y]) >= 128]
    top, cell = solid[0], (solid[-1] + 1 - solid[0]) / 64
    body = [sum(int(frame[y, x]) for y in range(top, solid[-1] + 1)) for x in range(w)]
    passed, middle = 0.0, 0.0
    for x in range(w):
        if passed < sum(body) / 2 <= passed + body[x]:
            middle = x + (sum(body) / 2 - passed) / body[x]
        passed += body[x]
    out = np.zeros((64, 64))
    for i in range(64):
        y0, y1 = top + i * cell, top + (i + 1) * cell
        for j in range(64):
            x0, x1 = middle + (j - 32) * cell, middle + (j - 31) * cell
            for y in range(max(int(y0), 0), min(math.ceil(y1), h)):
                for x in range(max(math.floor(x0), 0), min(math.ceil(x1), w)):
                    share = (min(y1, y + 1) - max(y0, y)) * (min(x1, x + 1) - max(x0, x))
                    out[i, j] += frame[y, x] * share / cell**2
    return out


def test_alignment_pixel_by_pixel() -> None:
    places = (20, 9.3, 52.5), (55, 2, 66), (30, 5, 40)
    frames = np.stack([figure(*place, phase, (70, 60)) for phase, place in enumerate(places)])
    for mine, frame in zip(align(frames), frames, strict=True):
        assert np.abs(mine - aligned_by_hand(frame)).max() <= 0.5 + 1e-5
    assert (align(frames)[1, :, 40:] == 0).sum() > 0  # cut at the edge of the picture, black beyond


@given(st.floats(-25, 25), st.floats(-10, 10), st.floats(0.5, 1))
@settings(max_examples=30, deadline=None)
def test_place_and_size_of_the_figure_hardly_matter(dx: float, dy: float, factor: float) -> None:
    moved = align(figure(64 + dx, 14 + dy, 100 * factor, 1)[None])[0]
    assert np.abs(moved - ALIGNED).mean() < 7  # of 255, along the edges
    for other in (ALIGNED[::-1], ALIGNED[:, ::-1]):
        assert np.abs(moved - other).mean() > 15


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_every_frame_fills_the_height_about_its_median_and_stays_when_aligned_again(seed: int) -> None:
    out = align(walk(3, seed))
    assert out.shape == (3, 64, 64) and out.dtype == np.uint8
    assert (out[:, [0, -1]].max(2) >= 64).all()
    left = out[:, :, :32].sum((1, 2), dtype=float) / out.sum((1, 2), dtype=float)
    assert np.abs(left - 0.5).max() < 0.002
    assert (out[:, :10].sum((1, 2)) < out[:, 20:30].sum((1, 2))).all()  # the head is above
    again = align(out)
    assert np.abs(again.astype(int) - out).mean() < 1 and (np.abs(align(again).astype(int) - again).mean() < 1)
    assert np.array_equal(align(walk(3, seed)[1:2])[0], out[1])  # alone as among others
    assert np.array_equal(align(walk(3, seed), cut=10), out[:, :, 10:54])


def test_a_figure_of_the_right_height_in_the_middle_stays_as_it_is() -> None:
    box = np.zeros((1, 64, 64), np.uint8)
    box[:, :, 22:42] = 255
    assert np.array_equal(align(box), box)
    assert np.array_equal(align(np.pad(box, ((0, 0), (3, 5), (0, 17)))), box)
    assert np.array_equal(align(box.repeat(2, 1).repeat(2, 2)), box)
    assert np.array_equal(align(box[:, ::2, ::2]), box)  # smaller: pixels are doubled
    assert align(box * 0).shape == (0, 64, 64) and align(np.empty((0, 9, 9), np.uint8)).shape == (0, 64, 64)


def test_a_folder_in_natural_order_with_everything_that_can_be_wrong(tmp_path: Path) -> None:
    frames = walk(8)
    folder = write_pngs(tmp_path, frames, "001-nm-01-000-{}.png")
    whole = read_folder(folder)
    assert np.array_equal(whole.pose, align(frames)) and not whole.dropped
    assert whole.facts["misordered if sorted as text"] == 8 and whole.facts["gaps in the frame numbers"] == 0
    speck = np.zeros((128, 128), np.uint8)
    speck[3:9, 3:9] = 255
    flat = np.zeros((128, 128), np.uint8)
    flat[60:65] = 255
    for number, frame in ((16, speck), (17, flat), (18, speck * 0), (19, (frames[0] > 99).astype(np.uint8))):
        write_pngs(folder, [frame], "001-nm-01-000-{}.png", number)
    (folder / "Thumbs.db").write_bytes(b"x")
    raw = read_folder(folder, cut=10)
    assert np.array_equal(raw.pose, whole.pose[:, :, 10:54])
    assert dict(raw.dropped) == {
        "not named <frame>.png": 1, "hardly any foreground": 2, "figure of fewer than 10 rows": 1,
        "grey levels 0 and 1 only, not 0 and 255": 1}  # fmt: skip
    assert len(raw.faults) == 5 and any("000-17.png: figure of fewer" in fault for fault in raw.faults)
    exchanged = read_folder(write_pngs(tmp_path / "not", 255 - frames))
    assert [count for name, count in exchanged.facts.items() if "exchanged" in name] == [8]
    near = [np.pad(np.full((60, 110), 255, np.uint8), 4), *frames[:2]]
    assert [count for name, count in read_folder(write_pngs(tmp_path / "near", near), 10).facts.items()
            if "wider" in name] == [1]  # fmt: skip


@pytest.mark.parametrize("place", [(slice(10, 90), slice(40, 41)), (slice(0, 64), slice(0, 1))])
def test_a_figure_of_one_column_is_a_figure(tmp_path: Path, place: tuple[slice, slice]) -> None:
    line = np.zeros((100, 80), np.uint8)
    line[place] = 255
    raw = read_folder(write_pngs(tmp_path, [line]))
    assert np.array_equal(raw.pose, align(line[None])) and raw.pose.any() and not raw.dropped


def test_frames_of_several_sizes_in_pieces_and_in_all_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [figure(40 + i, 5, 50 + 9 * i, i, (60 + 10 * i, 100 + 7 * i)) for i in range(5)]
    expected = np.concatenate([align(frame[None]) for frame in frames])
    folder = write_pngs(tmp_path / "sizes", frames)
    assert np.array_equal(read_folder(folder).pose, expected)
    monkeypatch.setattr(S, "_CHUNK", 9000)  # two frames at once, or one
    assert np.array_equal(read_folder(folder).pose, expected)
    grey = Image.fromarray(figure())
    for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "I;16"):
        wide = Image.fromarray(figure().astype(np.uint16) * 257)
        (wide if mode == "I;16" else grey.convert(mode)).save(tmp_path / "mode.png")
        levels = read_png(tmp_path / "mode.png")
        assert isinstance(levels, np.ndarray) and levels.dtype == np.uint8, mode
        off = np.abs(levels.astype(int) - figure())
        assert off.max() <= (0 if mode != "1" else 255) and (off > 0).mean() < 0.05, mode


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_pictures_that_are_none_are_one_reason_each(tmp_path: Path) -> None:
    good = write_pngs(tmp_path, [figure()]) / "8.png"
    data, start = good.read_bytes(), b"\x89PNG\r\n\x1a\n"
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))  # a second header
    bomb = start + huge + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20)))
    cases = {
        "more than": bomb, "no PNG": b"GIF89a" + data, "no PNG picture": data[:20], "damaged": data[: len(data) // 2],
        "damaged PNG picture": data[:33] + small + data[33:], "damaged ": data[:33] + text + data[33:],
        "no PNG ": b"", "damaged P": data[:60] + bytes(40) + data[100:],
    }  # fmt: skip
    for i, (words, content) in enumerate(cases.items()):
        (tmp_path / f"{i + 10}.png").write_bytes(content)
        found = read_png(tmp_path / f"{i + 10}.png")
        assert isinstance(found, str) and words.strip() in found, words
    (tmp_path / "30.png").mkdir()
    (tmp_path / "31.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "32.png")
    raw = read_folder(tmp_path)
    assert len(raw.pose) == 1 and sum(raw.dropped.values()) == len(cases) + 3 and raw.dropped["no file"] == 3
    empty = read_folder(write_pngs(tmp_path / "none", []))
    assert empty.pose.shape == (0, 64, 64) and empty.pose.dtype == np.uint8


def batch(n: int = 6, t: int = 4, width: int = 64) -> tuple[Tensor, Tensor, Draws]:
    """Walkers (n, t, 64, width) uint8, the last frames of every second one padding."""
    pose = torch.stack([torch.from_numpy(align(walk(t, seed))) for seed in range(n)])
    pose = pose[..., (64 - width) // 2:(64 + width) // 2]
    mask = torch.arange(t) < torch.where(torch.arange(n) % 2 == 0, t, t - 2)[:, None]
    pose[1::2, t - 2:] = pose[1::2, t - 3:t - 2]
    return pose, mask, Draws.at(1, 2, range(n))


def test_cutting_takes_ten_columns_of_64_and_none_of_44() -> None:
    pose, mask, _ = batch()
    out = BaseSilCuttingTransform()(pose, mask)
    assert out.dtype == torch.float32 and torch.equal(out, pose[..., 10:54] / torch.tensor(255.0))
    assert out.max() == 1 and out.min() == 0
    assert torch.equal(BaseSilCuttingTransform()(pose.double(), mask), out)
    assert torch.equal(BaseSilCuttingTransform()(pose[..., 10:54], mask), out)
    assert torch.equal(BaseSilCuttingTransform(cutting=10)(pose, mask), out)
    assert BaseSilCuttingTransform(divsor=1, cutting=0)(pose, mask).shape == (6, 4, 64, 64)
    assert BaseSilCuttingTransform()(pose.repeat(1, 1, 2, 2), mask).shape == (6, 4, 128, 88)
    for wrong in ({"cutting": 2.5}, {"cutting": -1}, {"cutting": True}, {"divsor": 0}, {"divsor": "a"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            BaseSilCuttingTransform(**wrong)
    with pytest.raises(UserError, match="nothing of 64"):
        BaseSilCuttingTransform(cutting=32)(pose, mask)
    with pytest.raises(UserError, match="modality"):
        BaseSilCuttingTransform()(torch.rand(2, 3, 17, 3), mask[:2, :3])


@pytest.mark.parametrize("kind", [RandomFlip, RandomPerspective, RandomRotate, RandomErasing, RandomShiftScale])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_changes_are_a_sequences_own(kind: type[OnMaps], dtype: torch.dtype) -> None:
    """Pure, repeatable, alike in all frames, the same without padding and without mates; drawn for some sequences."""
    pose, mask, draws = batch(24, 4)
    pose = pose.to(dtype)
    before = pose.clone()
    out = kind(0.5)(pose, mask, draws)
    assert torch.equal(pose, before) and out.dtype == dtype and out.shape == pose.shape
    assert torch.equal(out, kind(0.5)(pose, mask, Draws(draws.keys.clone())))
    assert 4 < (out != pose).flatten(1).any(1).sum() < 20
    for i in range(0, 24, 5):
        real = int(mask[i].sum())
        alone = kind(0.5)(pose[i:i + 1, :real], mask[i:i + 1, :real], Draws(draws.keys[i:i + 1]))
        assert (alone[0].float() - out[i, :real].float()).abs().max() <= (1 if dtype == torch.uint8 else 1e-2)
    frozen = pose[:, :1].expand_as(pose).contiguous()
    same = kind(1.0)(frozen, mask, draws).float()
    assert (same - same[:, :1]).abs().max() <= 1e-2
    assert torch.equal(kind(0.0)(pose, mask, draws), pose)
    maps = pose.float()[:, :, None].repeat(1, 1, 2, 1, 1)  # skeleton maps are changed as silhouettes are
    assert (kind(0.5)(maps, mask, draws)[:, :, 1] - kind(0.5)(pose.float(), mask, draws)).abs().max() < 1e-2
    with pytest.raises(UserError, match="silhouettes"):
        kind()(torch.rand(24, 4, 17, 3), mask, draws)


def test_whole_grey_levels_stay_so() -> None:
    pose, mask, draws = batch(8)
    for kind in (RandomRotate, RandomShiftScale):
        exact = kind(1.0)(pose.float(), mask, draws)
        assert (kind(1.0)(pose, mask, draws).float() - exact).abs().max() <= 0.501


def test_erasing_blackens_one_rectangle_of_the_wanted_size() -> None:
    pose = torch.full((200, 2, 64, 64), 255, dtype=torch.uint8)
    draws = Draws.at(3, 1, range(200))
    out = RandomErasing(1.0, low=0.1, high=0.2, aspect=0.5)(pose, torch.ones(200, 2, dtype=torch.bool), draws)
    corners, ends = set(), set()
    for frames in out:
        assert torch.equal(frames[0], frames[1])
        rows, columns = ((frames[0] == 0).any(axis).nonzero()[:, 0] for axis in (1, 0))
        black = (frames[0] == 0).sum().item()
        assert black == len(rows) * len(columns)  # all of the rectangle and nothing else
        assert len(rows) == rows[-1] - rows[0] + 1 and 0.09 < black / 64**2 < 0.215
        assert 0.45 < len(rows) / len(columns) < 2.2
        corners.add((rows[0].item(), columns[0].item()))
        ends |= {rows[-1].item(), columns[-1].item()}
    assert len(corners) > 150 and min(min(c) for c in corners) == 0 and max(ends) == 63
    for wrong in ({"low": 0.5, "high": 0.2}, {"aspect": 0}, {"probability": 2}):
        with pytest.raises(UserError, match="RandomErasing"):
            RandomErasing(**wrong)


def test_shift_and_scale_against_single_pixels() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(44.0), indexing="ij")
    pose = torch.stack([x, y]).double()[None].repeat(5, 1, 1, 1)  # the two frames hold their own coordinates
    draws = Draws.at(0, 0, range(5))
    out = RandomShiftScale(1.0, shift=[4, 3], low=0.8, high=1.2)(pose, torch.ones(5, 2, dtype=torch.bool), draws)
    scale = draws.split("scale").uniform(low=0.8, high=1.2).tolist()
    moved = (2 * draws.split("shift").uniform(2) - 1).tolist()
    for i in range(5):
        for v, u in ((32, 22), (20, 15), (45, 30)):
            source = (u - 21.5 - 4 * moved[i][0]) / scale[i] + 21.5, (v - 31.5 - 3 * moved[i][1]) / scale[i] + 31.5
            torch.testing.assert_close(out[i, :, v, u], torch.tensor(source).double(), atol=1e-4, rtol=0)
    pose, mask, draws = batch(3)
    flat = RandomShiftScale(1.0, shift=[0, 0], low=1, high=1)(pose.float(), mask, draws)
    torch.testing.assert_close(flat, pose.float(), atol=1e-2, rtol=0)
    for wrong in ({"shift": 3}, {"shift": "ab"}, {"shift": [1, 2, 3]}, {"shift": [-1, 2]}, {"low": 0}, {"high": 0.5}):
        with pytest.raises(UserError, match="RandomShiftScale"):
            RandomShiftScale(**wrong)


def test_a_config_builds_the_chain() -> None:
    cfg = [{"type": "Compose", "trf_cfg": [
        {"type": "RandomPerspective", "probability": 0.5}, {"type": "RandomRotate", "probability": 0.5},
        {"type": "RandomShiftScale", "probability": 0.5}, {"type": "RandomErasing", "probability": 0.5},
        {"type": "BaseSilCuttingTransform"}, {"type": "RandomFlip", "probability": 0.5}]}]  # fmt: skip
    pose, mask, draws = batch()
    out = build_transform(cfg)(pose, mask, draws)
    assert out.shape == (6, 4, 64, 44) and out.dtype == torch.float32 and 0 <= out.min() and out.max() <= 1
    plain = build_transform([{"type": "BaseSilCuttingTransform"}])(pose, mask, None)
    assert not torch.equal(out, plain)
