"""A batch of silhouettes (n, t, h, w), grey levels 0 to 255, in; cut to 64 x 44 and scaled to [0, 1], or changed, out.

RandomFlip, RandomRotate and RandomPerspective of `maps.py` take silhouettes, too; turn and stretch before cutting, when
the picture still is square. Every draw is a sequence's: all its frames are changed alike, padding with them.
Letters: n sequences, m those of them that are changed, t frames, h rows, w columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bpmt_ext.data.maps import OnMaps, is_picture
from bpmt_ext.data.preprocessing import Transform, number
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError


class BaseSilCuttingTransform(Transform):
    """Silhouettes (n, t, h, w), uint8 or float -> float32 (n, t, h, w - 2 cut) divided by `divsor` (the host's name).

    cutting: columns taken away on each side; left out, 10 for each 64 of the width (the host's rule), so that 64 x 64
    becomes 64 x 44 and 64 x 44 stays whole.
    """

    def __init__(self, divsor: float = 255.0, cutting: int | None = None) -> None:
        self.divsor = number(self, "divsor", divsor, 1e-6)
        if cutting is not None and (number(self, "cutting", cutting, 0) != cutting or not isinstance(cutting, int)):
            raise UserError(f"transform BaseSilCuttingTransform: cutting is {cutting!r}; give a whole number")
        self.cutting = cutting

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        if pose.ndim != 4 or not is_picture(pose):
            raise UserError(f"transform BaseSilCuttingTransform cuts silhouettes (n, t, h, w), the batch is "
                            f"{tuple(pose.shape)}; set data_cfg.modality to silhouette or take it out")
        width = pose.shape[-1]
        cut = width // 64 * 10 if self.cutting is None else self.cutting
        if 2 * cut >= width:
            raise UserError(f"transform BaseSilCuttingTransform: cutting is {cut}, which leaves nothing of {width} "
                            "columns; give a smaller one")
        return pose[..., cut:width - cut].to(torch.float32) / self.divsor


class RandomErasing(OnMaps):
    """Blackens one rectangle, the same in all frames: of `low` to `high` of the picture, and between `aspect` and 1 /
    `aspect` times as high as it is wide; cut to the picture where it would be longer."""

    def __init__(self, probability: float = 0.2, low: float = 0.05, high: float = 0.2, aspect: float = 0.3) -> None:
        super().__init__(probability)
        self.low = number(self, "low", low, 0, 1)
        self.high = number(self, "high", high, self.low, 1)
        self.aspect = number(self, "aspect", aspect, 1e-3, 1)

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        h, w = maps.shape[2:]
        area = draws.split("area").uniform(low=self.low, high=self.high) * h * w
        aspect = draws.split("aspect").uniform(low=math.log(self.aspect), high=-math.log(self.aspect)).exp()
        place = draws.split("place").uniform(2)
        rows, columns = (self._inside(length, place[:, i], size).to(maps.device) for i, (length, size) in enumerate(
            (((area * aspect).sqrt(), h), ((area / aspect).sqrt(), w))))  # fmt: skip
        return maps.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)

    @staticmethod
    def _inside(length: Tensor, place: Tensor, size: int) -> Tensor:
        """Pixels (m,) and a place in [0, 1) -> (m, size): which of `size` lie in a stretch of that many."""
        length = length.round().clamp(max=size)
        start = (place * (size - length + 1)).floor()[:, None]
        pixel = torch.arange(size, device=place.device)
        return (pixel >= start) & (pixel < start + length[:, None])


class RandomShiftScale(OnMaps):
    """Moves by up to `shift` = [columns, rows], scales about the middle by a factor in [low, high); zero outside."""

    def __init__(self, probability: float = 0.2, shift: Sequence[float] = (3, 2), low: float = 0.9,
                 high: float = 1.1) -> None:  # fmt: skip
        super().__init__(probability)
        if isinstance(shift, str) or not isinstance(shift, Sequence) or len(shift) != 2:
            raise UserError(f"transform RandomShiftScale: shift is {shift!r}; give two numbers: [columns, rows]")
        self.shift: list[float] = [number(self, "shift", r, 0) for r in shift]
        self.low = number(self, "low", low, 0.1, 10)
        self.high = number(self, "high", high, self.low, 10)

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        from kornia.geometry.transform import warp_affine

        h, w = maps.shape[2:]
        scale = draws.split("scale").uniform(low=self.low, high=self.high).to(maps)
        moved = (2 * draws.split("shift").uniform(2) - 1).to(maps) * maps.new_tensor(self.shift)
        middle = maps.new_tensor([(w - 1) / 2, (h - 1) / 2])
        linear = scale[:, None, None] * torch.eye(2, dtype=maps.dtype, device=maps.device)
        offset = middle * (1 - scale[:, None]) + moved
        return warp_affine(maps, torch.cat([linear, offset[..., None]], 2), (h, w), align_corners=True)


SILHOUETTES = (BaseSilCuttingTransform, RandomErasing, RandomShiftScale)
