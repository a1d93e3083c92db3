"""Poses (n, t, v, c) in pixels in, the same in shares of the picture out: for networks that read raw coordinates.

Letters: n sequences, t frames, v joints, c channels. GaitMixer and GaitPT neither centre nor rescale the figure: where
it stands in the picture and how tall it is stay visible (baselines_plus.md sections 4 and 5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bpmt_ext.data.preprocessing import OnSkeleton, number
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton

LOWEST = "lowest"


class ScaleCoordinates(OnSkeleton):
    """Coordinates divided by `divisor`; the other channels stay.

    divisor: a number (320 on CASIA-B, whose pictures are 320 pixels wide), or `lowest`: in each sequence the largest y
    of its real frames. GaitPT divides by the height of the picture on Gait3D and GREW; pose files do not hold that, and
    in a tight crop the lowest joint stands close to the lower edge. A sequence without a y above 0 stays as it is.
    """

    def __init__(self, divisor: float | str = 320.0, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        if isinstance(divisor, str) and divisor != LOWEST:
            raise UserError(f"transform ScaleCoordinates: divisor is {divisor!r}; give a number or {LOWEST}")
        self.divisor = divisor if divisor == LOWEST else number(self, "divisor", divisor, 1e-6)

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        divisor: Tensor | float = self.divisor  # type: ignore[assignment]
        if self.divisor == LOWEST:
            lowest = place[..., 1].amax(2).masked_fill(~mask, 0).amax(1)  # (n,)
            divisor = lowest.masked_fill(lowest <= 0, 1)[:, None, None, None]
        return torch.cat([place / divisor, rest], -1)
