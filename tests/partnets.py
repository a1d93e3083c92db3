"""What GPGait and GPGait++ have in common to be tested: made-up inputs, the skeletons, the properties of both."""

from __future__ import annotations

import torch
from conftest import walking
from torch import Tensor, nn

from bpmt_ext.data.transforms import build_transform
from bpmt_ext.losses import CrossEntropyLoss, TripletLoss
from bpmt_ext.skeletons import Skeleton, get_skeleton, skeleton_from_mapping

COCO = get_skeleton("coco17")
GAIT3D = (2, 64, 64, 128, 128, 256)
DEEP = (2, 64, 128, 128, 128, 128, 256, 256)
SMALL = {"in_channels": (2, 16, 16, 16, 32), "num_class": 5}


def bare() -> Skeleton:
    """A format of eight joints without a head: two for each limb."""
    names = ["ls", "rs", "le", "re", "lh", "rh", "lk", "rk"]
    return skeleton_from_mapping(
        {
            "joints": names,
            "edges": [["ls", "rs"], ["lh", "rh"], ["ls", "lh"], ["rs", "rh"], ["ls", "le"], ["rs", "re"],
                      ["lh", "lk"], ["rh", "rk"]],
            "mirror": [["ls", "rs"], ["le", "re"], ["lh", "rh"], ["lk", "rk"]],
            "parts": {"torso": ["ls", "rs", "lh", "rh"], "left_arm": ["le"], "right_arm": ["re"],
                      "left_leg": ["lk"], "right_leg": ["rk"]},
            "head": ["ls", "rs"], "hips": ["lh", "rh"], "shoulders": ["ls", "rs"],
        }
    )  # fmt: skip


def described(n: int, t: int, skeleton: Skeleton = COCO, seed: int = 0) -> Tensor:
    """(n, t, v, 2 d + 2): made-up walkers as HOD_MultiInput describes them."""
    pose = walking(n, t, skeleton.num_joints, skeleton.dims, seed)
    return build_transform([{"type": "HOD_MultiInput"}], skeleton)(pose, everywhere(pose), None)


def everywhere(pose: Tensor) -> Tensor:
    return torch.ones(pose.shape[:2], dtype=torch.bool)


def meta_count(build: type[nn.Module], **options: object) -> tuple[int, int]:
    """Parameters and state-dict entries, without the memory for them."""
    with torch.device("meta"):
        net = build(skeleton=COCO, **options)
    return sum(p.numel() for p in net.parameters()), len(net.state_dict())


def check_padding(net: nn.Module, limit: float = 1e-10) -> None:
    """A sequence's output is the same alone, and padded with rubbish among longer ones."""
    net = net.double().eval()
    pose = described(3, 23).double()
    mask = everywhere(pose)
    mask[1, 9:] = mask[2, 1:] = False
    padded = torch.where(mask[:, :, None, None], pose, 1e3 * torch.randn_like(pose))
    with torch.no_grad():
        together = net(padded, mask)
        for i, frames in enumerate(mask.sum(1)):
            alone = net(pose[i : i + 1, :frames], mask[i : i + 1, :frames])
            for name, value in alone.items():
                scale = value.abs().max()
                assert (together[name][i] - value[0]).abs().max() / scale < limit, (i, name)


def check_gradients(net: nn.Module) -> None:
    """Every parameter takes part. The queries' biases only shift a softmax: their gradient is rounding."""
    pose = described(4, 11)
    out = net.train()(pose, everywhere(pose))
    sum((value * (i + 1)).square().sum() + value.sin().sum() for i, value in enumerate(out.values())).backward()
    assert all(p.grad is not None for p in net.parameters())
    dead = [n for n, p in net.named_parameters() if not p.grad.abs().sum() > 0]
    assert not [name for name in dead if "conv_a" not in name or "weight" in name]


def check_skeletons(build: type[nn.Module], skeleton: Skeleton) -> None:
    net = build(skeleton=skeleton, **SMALL).train()
    pose = described(3, 7, skeleton)
    out = net(pose, everywhere(pose))
    parts = 19 if skeleton.name != "custom" else 9
    assert net.takes == (skeleton.num_joints, 2 * skeleton.dims + 1)
    assert out["feature"].shape == out["embedding"].shape == (3, 32, parts) and out["logits"].shape == (3, 5, parts)
    assert all(torch.isfinite(value).all() for value in out.values())
    assert torch.allclose(out["embedding"].norm(dim=1), torch.ones(3, parts), atol=1e-5)


def check_learning(net: nn.Module, steps: int = 12) -> None:
    """The recipe's two losses fall on a batch of made-up walkers."""
    pose, label = described(8, 12), torch.arange(8) // 2
    losses = TripletLoss(margin=0.3, is_hard_loss=True), CrossEntropyLoss(scale=16, label_smooth=False)
    solver = torch.optim.Adam(net.train().parameters(), 0.003)
    seen = []
    for _ in range(steps):
        out = net(pose, everywhere(pose))
        total = losses[0](embeddings=out["feature"], labels=label)[0] + losses[1](logits=out["logits"], labels=label)[0]
        solver.zero_grad()
        total.backward()
        solver.step()
        seen.append(total.item())
    assert seen[-1] < 0.5 * seen[0], seen
