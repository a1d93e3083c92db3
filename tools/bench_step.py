#!/usr/bin/env python3
"""Made-up batches in, how long training steps take (forward, loss, backward, optimiser) beside each other, out.

    FASTPOSEGAIT_HOME=PATH python tools/bench_step.py [--rows size,modules,host,shares,growth] [--json FILE]

size: BPMT, its default and its small config, beside GaitTR and GPGait, all 128 x 60 frames. modules: BPMT beside the
same network as separate modules, one a part (a pair, of ten pair encoders). host: GaitTR, GaitGraph2 and GPGait beside
the host's own networks with the same weights, at a batch that fits a small machine. shares: where BPMT's step spends
its time. growth: other batches, lengths, widths and numbers of parts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from bench_transforms import walks
from benching import OURS, Row, agree, apart, finish, host, in_turns, once, parser, peak_memory, start
from plain import SeparateBody, SeparatePairs
from torch import Tensor, nn

from bpmt_ext.config import configs_folder, load_settings
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.losses import CrossEntropyLoss, TripletLoss
from bpmt_ext.nets.grouped import GroupedEncoder
from bpmt_ext.registry import build_network
from bpmt_ext.skeletons import get_skeleton

COCO = get_skeleton("coco17")
DEFAULT = "bpmt/bpmt_gait3d.yaml"
CONFIGS = {"default": DEFAULT, "small": "bpmt/bpmt_g38.yaml"}
PEERS = {"GaitTR": ("gaittr/gaittr_Gait3D.yaml", 10), "GPGait": ("gpgait/gpgait_Gait3D.yaml", 5)}  # config, channels
HOSTS = {  # class -> our config, the host's, module, channels, sequences
    "GaitTR": ("gaittr/gaittr_Gait3D.yaml", "gaittr/gaittr_Gait3D.yaml", "gaittr", 10, 16),
    "GaitGraph2": ("gaitgraph2/gaitgraph2_Gait3D.yaml", "gaitgraph2/gaitgraph2_Gait3D.yaml", "gaitgraph2", 15, 32),
    "GPGait": ("gpgait/gpgait.yaml", "gpgait/gpgait.yaml", "gpgait", 6, 8),
}  # fmt: skip


def network(config: str, classes: int = 100, **changes: Any) -> nn.Module:
    """The network of one of our configs, in training."""
    settings = load_settings(configs_folder() / config, [], configs_folder())
    name, free = settings.model_cfg.model, settings.model_cfg.free
    known = {key: value for key, value in free.items() if key != "joint_format"}
    torch.manual_seed(0)
    return build_network(name, {**known, **changes}, skeleton=COCO, classes=classes).train()


def batch(n: int, t: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Pose (n, t, v, channels) and mask: numbers as large as standardised ones."""
    made = torch.randn(n, t, COCO.num_joints, channels, generator=torch.Generator().manual_seed(0))
    return made, torch.ones(n, t, dtype=torch.bool)


def loss_of(out: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Batch-hard triplet and, where there are logits, cross-entropy, as the configs of BPMT have them."""
    total = TripletLoss(margin=0.3, is_hard_loss=True)(out["feature"], labels)[0]
    return total + 0.5 * CrossEntropyLoss(scale=16)(out["logits"], labels)[0] if "logits" in out else total


def step(net: nn.Module, pose: Tensor, mask: Tensor, fused: bool = True) -> Callable[[], None]:
    """One training step of a network that gives feature (n, d, p)."""
    solver = torch.optim.AdamW(net.parameters(), 1e-4, fused=fused)
    labels = torch.arange(len(pose)) // 4

    def update() -> None:
        solver.zero_grad(set_to_none=True)
        loss_of(net(pose, mask), labels).backward()
        solver.step()

    return update


def size(args: Any) -> list[Row]:
    """BPMT beside GaitTR and GPGait."""
    n, t = (8, 12) if args.tiny else (args.batch, 60)
    pose = batch(n, t)
    peers = {name: step(network(config), *batch(n, t, channels)) for name, (config, channels) in PEERS.items()}
    rows = []
    for what, config in CONFIGS.items():
        net = network(config)
        ways = {OURS: step(net, *pose), **peers}
        rows.append(in_turns(f"BPMT {what}, {n} x {t} frames", ways, turns=args.turns))
        rows[-1].figures = {"parameters": sum(p.numel() for p in net.parameters()), "peak MiB": peak_memory()}
    return rows


def modules(args: Any) -> list[Row]:
    """BPMT beside separate modules: the configs' networks, and one of ten pair encoders."""
    n, t = (8, 12) if args.tiny else (args.batch, 60)
    rows = []
    for what in ("default", "small", "ten pair encoders, width 64, 2 layers"):
        torch.manual_seed(0)
        if what in CONFIGS:
            net = network(CONFIGS[what], max_frames=60, tta=False)
        else:
            given = {"attention_dropout": 0.0, "pool": "mean_max"}
            net = build_network("BPMT", given, skeleton=COCO, classes=100).train()
        apart_net, (pose, mask) = (SeparateBody if what in CONFIGS else SeparatePairs)(net), batch(n, t)
        with torch.no_grad():
            one, other = (x.eval()(pose[:4], mask[:4]) for x in (net, apart_net))
        agree("modules", {name: apart(one[name], other[name]) for name in one}, 1e-4)
        ways = {OURS: step(net.train(), pose, mask), "modules": step(apart_net.train(), pose, mask)}
        rows.append(in_turns(f"BPMT {what}, {n} x {t} frames", ways, turns=args.turns))
    return rows


def hosts(args: Any) -> list[Row]:
    """Our networks beside the host's, with its weights."""
    theirs, rows = host(), []
    if theirs is None:
        return rows
    for name, (config, given, module, channels, n) in HOSTS.items():
        cfg = yaml.safe_load((theirs.home / "configs" / given).read_text())["model_cfg"]
        cls = getattr(theirs.module(f"modeling.models.{module}"), name if name != "GPGait" else "gpgait")
        other = cls.__new__(cls)
        nn.Module.__init__(other)
        torch.manual_seed(0)
        other.build_network(cfg)
        other.cuda() if name == "GPGait" else None  # its parameters share one memory until it is moved
        own = network(config, classes=cfg["num_class"])
        own.load_state_dict(other.state_dict())
        pose, mask = batch(4 if args.tiny else n, 12 if args.tiny else 60, channels)
        laid = pose.permute(0, 3, 1, 2)[..., None].contiguous()  # (n, c, t, v, 1)
        if name == "GaitGraph2":
            laid = pose.unflatten(3, (3, 5))
        solver, labels = torch.optim.AdamW(other.parameters(), 1e-4), torch.arange(len(pose)) // 4

        def features(other: nn.Module = other, laid: Tensor = laid, labels: Tensor = labels) -> dict[str, Tensor]:
            told = other(([laid.clone().requires_grad_(other.training)], labels, None, None, None))["training_feat"]
            given = {kind: next(x for key, x in each.items() if key != "labels") for kind, each in told.items()}
            feature = given.get("triplet", next(iter(given.values())))
            feature = feature[..., None] if feature.ndim == 2 else feature
            return {"feature": feature} | ({"logits": given["softmax"]} if "softmax" in given else {})

        def update(other: nn.Module = other, solver: Any = solver, labels: Tensor = labels) -> None:
            solver.zero_grad()
            loss_of(features(), labels).backward()
            solver.step()

        other.eval()
        own.eval()
        if name == "GaitGraph2":
            other.tta = own.tta = False
        with torch.no_grad():
            agree(name, {"host": apart(own(pose, mask)["feature"], features()["feature"])}, 1e-4)
        ways = {OURS: step(own.train(), pose, mask), "host": update}
        other.train()
        rows.append(in_turns(f"{name}, {len(pose)} x {pose.shape[1]} frames", ways, turns=args.turns))
    return rows


def shares(args: Any) -> list[Row]:
    """Where a step of BPMT spends its time: its transforms, forward, losses, backward, optimiser."""
    n, t = (8, 12) if args.tiny else (args.batch, 60)
    rows = []
    for what, config in CONFIGS.items():
        settings = load_settings(configs_folder() / config, [], configs_folder())
        chain, net = build_transform(settings.trainer_cfg.transform, COCO), network(config)
        raw, (_, mask) = torch.from_numpy(walks(n, t)).float(), batch(n, t)
        draws, labels = Draws.at(0, 0, range(n)), torch.arange(n) // 4
        solver = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
        kept: dict[str, Any] = {}

        def forward(net: nn.Module = net, kept: dict = kept, mask: Tensor = mask) -> None:
            kept["out"] = net(kept["pose"], mask)

        ways = {
            "transforms": lambda c=chain, r=raw, m=mask, d=draws, k=kept: k.update(pose=c(r, m, d)),
            "forward": forward,
            "losses": lambda k=kept, y=labels: k.update(loss=loss_of(k["out"], y)),
            "backward": lambda k=kept: k["loss"].backward(),
            "optimiser": lambda s=solver: (s.step(), s.zero_grad(set_to_none=True)),
        }
        seconds = {name: [] for name in ways}
        for turn in range(args.turns + 1):
            for name, way in ways.items():
                spent = once(way, 0.0)
                if turn:  # the first warms up
                    seconds[name].append(spent)
        total = sum(sorted(each)[len(each) // 2] for each in seconds.values())
        for name, each in seconds.items():
            row = Row(f"BPMT {what}, {n} x {t}: {name}", {OURS: each})
            row.figures = {"share": row.median(OURS) / total}
            rows.append(row)
    return rows


def growth(args: Any) -> list[Row]:
    """BPMT's default step at other sizes, and one encoder of several parts."""
    rows = []
    most, half = args.batch, args.batch // 2
    cases = [("batch", n, 60, 128) for n in (half // 2, half, most)] + [("frames", half, t, 128) for t in (15, 30, 60)]
    cases += [("width", half, 60, d) for d in (32, 64, 128)]
    if args.tiny:
        cases = [("batch", 4, 8, 32), ("width", 4, 8, 64)]
    for axis, n, t, d in cases:
        net = network(DEFAULT, width=d)
        rows.append(in_turns(f"{axis}: {n} x {t} frames, width {d}", {OURS: step(net, *batch(n, t))}, turns=args.turns))
    n, t = (4, 8) if args.tiny else (half, 60)
    for groups in (1, 2, 5, 10):
        encoder = GroupedEncoder(groups=groups, width=64, heads=4, layers=2, feedforward=256, dropout=0.1,
                                 attention_dropout=0.0)  # fmt: skip
        x, mask = torch.randn(groups, n, t, 64), torch.ones(n, t, dtype=torch.bool)
        way = {OURS: lambda e=encoder, x=x, m=mask: e(x, m).square().mean().backward()}
        rows.append(in_turns(f"parts: an encoder of {groups}, {n} x {t} frames", way, turns=args.turns))
    return rows


ROWS = {"size": size, "modules": modules, "host": hosts, "shares": shares, "growth": growth}


def main(words: list[str] | None = None) -> int:
    options = parser(__doc__, turns=3)
    options.add_argument("--rows", default=",".join(ROWS), help=f"which of {', '.join(ROWS)} (default all)")
    options.add_argument("--batch", type=int, default=128, help="most sequences of a row, but of host's (default 128)")
    args = options.parse_args(words)
    args.turns = 1 if args.tiny else args.turns
    args.json = args.json and Path(args.json).absolute()
    start()
    return finish([row for name in args.rows.split(",") for row in ROWS[name](args)], args.json, args.turns)


if __name__ == "__main__":
    sys.exit(main())
