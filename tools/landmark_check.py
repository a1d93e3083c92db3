"""A trained LandmarkGait network of any step in; how well its landmarks follow the body, beside fresh weights, out.

    python tools/landmark_check.py --cfgs configs/landmarkgait/LandmarkGait_Silh_to_Landmark_usf.yaml --output output

On the test split, never trained on. Pixels are those of the 64 x 44 picture.

loss: of the reconstruction; beside it what the mean silhouette of each sequence and the unmoved source frame would get.
on figure: share of the landmarks that lie on the figure; beside it the figure's share of the picture.
shift: silhouettes moved by 4 pixels in four directions; slope (1: landmarks move along), and the distance they miss by.
step: distance a landmark moves from frame to frame; ratio: to that between two frames drawn from its sequence.
flow: correlation, over the frames of a sequence, of how far the landmarks move with how many pixels change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bpmt_ext.cli import guarded
from bpmt_ext.config import load_settings
from bpmt_ext.data.batches import inference_loader
from bpmt_ext.engine.distributed import world
from bpmt_ext.engine.landmarks import to_pixels, trained
from bpmt_ext.engine.logs import log_to, write_json
from bpmt_ext.engine.stages import build_run
from bpmt_ext.report.tables import text_table

SHIFT = 4  # pixels: one cell of a heatmap
Figures = dict[str, float]


def places(network: nn.Module, frames: Tensor, mask: Tensor) -> Tensor:
    """Silhouettes (n, t, 64, 44) -> landmarks (n, t, k, 2) in pixels, x and y."""
    return to_pixels(network.landmarks(frames, mask))


def moved(frames: Tensor, x: int, y: int) -> Tensor:
    """The pictures moved right by x and down by y pixels; what comes in is empty."""
    out, (h, w) = torch.zeros_like(frames), frames.shape[-2:]
    out[..., max(y, 0) : h + min(y, 0), max(x, 0) : w + min(x, 0)] = frames[
        ..., max(-y, 0) : h - max(y, 0), max(-x, 0) : w - max(x, 0)
    ]
    return out


def shift_answer(network: nn.Module, frames: Tensor, mask: Tensor) -> tuple[float, float]:
    """(slope, mean distance missed in pixels) of the landmarks when the pictures move."""
    here, slopes, missed = places(network, frames, mask), [], []
    for x, y in ((SHIFT, 0), (-SHIFT, 0), (0, SHIFT), (0, -SHIFT)):
        way = torch.tensor([x, y], dtype=here.dtype)
        step = (places(network, moved(frames, x, y), mask) - here)[mask]
        slopes.append((step @ way).mean() / SHIFT**2)
        missed.append((step - way).norm(dim=-1).mean())
    return float(torch.stack(slopes).mean()), float(torch.stack(missed).mean())


def correlation(a: Tensor, b: Tensor, real: Tensor) -> Tensor:
    """Of two series (n, t) where real, one number a sequence (n,); sequences in which one stands still are left out."""
    count = real.sum(1)
    a, b = ((x - (x * real).sum(1, keepdim=True) / count[:, None]) * real for x in (a, b))
    scale = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / scale)[(scale > 0) & (count > 2)]


def figures(network: nn.Module, frames: Tensor, mask: Tensor, generator: torch.Generator) -> Figures:
    """The figures of one batch of test clips."""
    n, t = mask.shape
    out = network(frames, mask)
    points = places(network, frames, mask)
    column, row = (points[..., i].round().long().clamp(0, size - 1) for i, size in enumerate((44, 64)))
    index = (torch.arange(n)[:, None, None], torch.arange(t)[:, None], row, column)
    pair = mask[:, 1:] & mask[:, :-1]
    step = (points[:, 1:] - points[:, :-1]).norm(dim=-1)  # (n, t - 1, k)
    length = mask.sum(1, keepdim=True)
    drawn = [(torch.rand(n, t, generator=generator) * length).long() for _ in range(2)]
    a, b = (points[torch.arange(n)[:, None], one] for one in drawn)
    apart = (a - b).norm(dim=-1)[drawn[0] != drawn[1]]
    changed = (frames[:, 1:] - frames[:, :-1]).abs().sum((2, 3))
    mean = (frames * mask[..., None, None]).sum(1, keepdim=True) / length[..., None, None]
    half = (length // 2).clamp(max=8)
    source = frames[torch.arange(n)[:, None], (torch.arange(t) - half) % length]
    slope, missed = shift_answer(network, frames, mask)
    return {
        "loss": float(out["losses"].get("reconstruction", out["losses"].get("landmark"))),
        "mean silhouette": float(10 * (frames - mean).square()[mask].mean()),
        "source frame": float(10 * (frames - source).square()[mask].mean()),
        "on figure %": float(100 * (frames[index][mask] > 0.5).float().mean()),
        "figure %": float(100 * (frames[mask] > 0.5).float().mean()),
        "shift slope": slope, "shift missed px": missed,
        "step px": float(step[pair].mean()), "step ratio": float(step[pair].mean() / apart.mean()),
        "flow r": float(correlation(step.mean(2), changed, pair).mean()),
    }  # fmt: skip


@torch.no_grad()
def measure(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Figures:
    """Mean over the batches."""
    network.eval()
    generator = torch.Generator().manual_seed(0)
    rows = [figures(network, frames, mask, generator) for frames, mask in batches]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfgs", required=True, type=Path, help="config of LandmarkNet or ParsingNet")
    parser.add_argument("--output", type=Path, default=Path("output"), help="where its training is (%(default)s)")
    parser.add_argument("--clips", type=int, default=128, help="test sequences to take, evenly spaced (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return guarded("landmark_check", _main, parser.parse_args(argv))


def _main(args: argparse.Namespace) -> int:
    settings = load_settings(args.cfgs, args.opts)
    log_to(None)
    with world() as here:
        run = trained(settings, here, args.output.absolute(), None, False)
        fresh = build_run(settings, run.splits, here, run.folder).network
        test = run.splits.test
        sampler = {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 16, "frames_all_limit": 60}
        every = max(1, len(test) // max(args.clips, 1))
        few = type(test)(test.records[::every][: args.clips], reader=test.reader)
        batches = [(batch.pose, batch.mask) for batch in inference_loader(few, sampler, run.test_transform)]
        found = {"trained": measure(run.network.cpu(), batches), "fresh": measure(fresh, batches)}
    rows = [[name, *(f"{found[which][name]:.3f}" for which in found)] for name in found["trained"]]
    print(f"{settings.model_cfg.model}, {len(few)} of {len(test)} test sequences of {settings.data_cfg.dataset_name}")
    print(text_table(["", *found], rows))
    if args.json:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
