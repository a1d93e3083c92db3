"""A trained BPMT_T1 config in; its masked error beside linear interpolation's, per part and mask, out.

    python tools/pretraining_check.py --cfgs configs/bpmt/bpmt_kinectgait_t1.yaml --frame-rate 15 --output output

On the test split, never trained on: mean squared error of the hidden standardised coordinates (1 = the error of always
saying the mean) for half the frames hidden in blocks of half a second, and for 15 % single frames (bpmt.md section 10).
Interpolation joins the nearest visible frames of the same joint by a straight line and holds the ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bpmt_ext.config import load_settings
from bpmt_ext.data.batches import inference_loader
from bpmt_ext.draws import Draws
from bpmt_ext.engine.checkpoint import checkpoint_path, load_checkpoint, load_weights
from bpmt_ext.engine.distributed import world
from bpmt_ext.engine.inference import clip_sampler
from bpmt_ext.engine.stages import build_run, load_data, run_folder
from bpmt_ext.errors import UserError
from bpmt_ext.nets.masked import BPMT_T1, part_losses
from bpmt_ext.nets.masking import draw_hidden
from bpmt_ext.report.tables import text_table
from bpmt_ext.skeletons import PART_NAMES


def interpolate(x: Tensor, hidden: Tensor) -> Tensor:
    """x (n, t, s, c), hidden (n, t, s): hidden frames on the line between the nearest visible ones, ends held."""
    n, t, s, c = x.shape
    time = torch.arange(t).view(1, t, 1).expand(n, t, s)
    before = torch.where(hidden, -1, time).cummax(1).values
    after = torch.where(hidden, t, time).flip(1).cummin(1).values.flip(1)
    left, right = torch.where(before < 0, after, before), torch.where(after >= t, before, after)
    share = torch.where(right > left, (time - left) / (right - left).clamp(min=1), 0.0)[..., None]
    a, b = (x.gather(1, i[..., None].expand(n, t, s, c).clamp(0, t - 1)) for i in (left, right))
    return a + share * (b - a)


@torch.no_grad()
def compare(net: BPMT_T1, pose: Tensor, mask: Tensor, key: Tensor, *, mode: str, ratio: float, block: int) -> Tensor:
    """Masked mean squared error of each part (2, p): the network's, then interpolation's."""
    slots, dims = net.t1.slots, net.t1.streams.dims
    streams = net.t1.streams(pose, mask)
    unit = torch.arange(1 if net.masking.drop else slots.parts)  # dropped frames are those of the whole body
    draws = Draws(key).split("check")
    hidden = draw_hidden(mask, unit, draws, mode=mode, ratio=ratio, block=block)
    hidden = hidden.expand(-1, -1, slots.count) if net.masking.drop else hidden[:, :, slots.part]
    guess = net.decoder(net.features(streams, hidden, mask), mask.shape[1])
    target, weight = streams[..., :dims], hidden.float()
    rows = [(g - target).square().mean(-1) for g in (guess, interpolate(target, hidden))]
    return torch.stack([part_losses(error, weight, slots.part, slots.parts) for error in rows])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare masked reconstruction with linear interpolation.")
    parser.add_argument("--cfgs", required=True, type=Path)
    parser.add_argument("--frame-rate", type=float, default=25, help="frames per second, for the half-second blocks")
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--opts", nargs="+", action="extend", default=[])
    args = parser.parse_args(argv)
    try:
        if not 0 < args.frame_rate < 1000:
            raise UserError(f"--frame-rate {args.frame_rate:g}: give the frames per second of the data")
        settings = load_settings(args.cfgs, args.opts)
        if settings.model_cfg.model != "BPMT_T1":
            raise UserError(f"--cfgs {args.cfgs}: trains {settings.model_cfg.model}; name a config of BPMT_T1")
        with world() as here:
            folder = run_folder(settings, args.output.absolute())
            splits = load_data(settings)
            run = build_run(settings, splits, here, folder)
            path = checkpoint_path(folder / "checkpoints", settings.trainer_cfg.save_name, "last")
            load_weights(run.network, load_checkpoint(path)["model"], path)
    except UserError as error:
        sys.stderr.write(f"pretraining_check: {error}\n")
        return 2
    run.network.eval()
    half = round(args.frame_rate / 2)
    masks = {f"half, blocks of {half}": ("block", 0.5, half), "15 %, single frames": ("frame", 0.15, 1)}
    rows, figures = [], {}
    for name, (mode, ratio, block) in masks.items():
        loader = inference_loader(splits.test, clip_sampler(settings), run.test_transform)
        total, count = torch.zeros(2, 5), 0
        for batch in loader:
            found = compare(run.network, batch.pose, batch.mask, batch.key, mode=mode, ratio=ratio, block=block)
            total, count = total + found * len(batch), count + len(batch)
        for who, row in zip(("T1", "interpolation"), total / count, strict=True):
            rows.append([f"{name}: {who}", *(f"{x:.3f}" for x in row.tolist()), f"{row.mean():.3f}"])
            figures[f"{name}: {who}"] = row.tolist()
    sys.stdout.write(text_table(["mean squared error", *PART_NAMES, "mean"], rows) + "\n" + json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
