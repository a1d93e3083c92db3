"""Pose, bones and angles (n, t, v, c) and mask (n, t) in, part features and embedding out: GPGait.

Fu et al., "GPGait: Generalized Pose-based Gait Recognition", ICCV 2023; specs/baselines.md section 5. The layers see a
sequence as a set of frames: attention between joints is computed once for the whole sequence. They work on
(n, v, t, c), where a joint's whole sequence lies in one piece: attention is one product over time and channels at once.
Shapes: n sequences, t frames, v joints, c channels, e squeezed channels, p parts, d width, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bpmt_ext.nets.partwise import ConvNorm, PartGraph, PartNet, Parts
from bpmt_ext.skeletons import Skeleton


class PartLayer(nn.Module):
    """x (n, v, t, c), mask (n, t) or None -> (n, v, t, c'): a part-aware graph convolution and a residual."""

    def __init__(self, *, graph: Tensor, parts: Parts, inputs: int, outputs: int) -> None:
        super().__init__()
        self.asg = PartGraph(graph=graph, parts=parts, inputs=inputs, outputs=outputs, squeezed=outputs // 4)
        self.residual_s = ConvNorm(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.asg(x, mask) + self.residual_s(x)


class GPGait(PartNet):
    """pose (n, t, v, 2 * dims + 1 or more), mask (n, t) -> {feature, embedding (n, d, p), logits (n, k, p)}.

    pose: what HOD_MultiInput gives. `feature` goes to the triplet loss, `embedding` (of length 1 in each of the 19
    parts) is compared at test. in_channels: widths of the layers, the first is not used; share_num: how many layers
    the streams of a branch share; num_class 0 leaves the classifier out. A sequence's output depends on its real
    frames alone, in any order. Initialisation: convolutions Xavier uniform with bias 0, PA 1e-6.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        in_channels: Sequence[int] = (2, 64, 64, 128, 256),
        num_class: int = 74,
        share_num: int = 3,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            layer=PartLayer,
            in_channels=in_channels,
            num_class=num_class,
            shared=share_num,
            time_axis=2,
        )
