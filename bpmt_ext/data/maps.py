"""Poses (n, t, v, 3) in pixels in, skeleton maps (n, t, 2, 64, 44) in [0, 1] out, and augmentation of such maps.

Channel 0 shows the limbs, channel 1 the joints, as grey blobs: what SkeletonGait reads. Drawn on the fly, all frames of
a batch together, on the device of the poses. Source: Fan et al., "SkeletonGait: gait recognition using skeleton maps",
AAAI 2024 (arXiv 2311.13444); the exact steps are those of baselines_plus.md section 3.1.
Letters: n sequences, t frames, f frames of all sequences, v joints, l limbs (both 17), h rows, w columns, k lost
entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bpmt_ext.data.preprocessing import OnSkeleton, Transform, number, pick
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton, get_skeleton, joint_mapping

SIDE, SIGMA, OUT = 128, 8.0, 64  # canvas, width of a blob on it, size of a map; all in pixels
HEIGHT = 85.0  # of the figure on the canvas: floor(SIDE / 1.5)
FAINT = 0.001  # joints of less confidence are not drawn
REACH = 3 * SIGMA  # a blob ends here
# The head hangs from the shoulders by two limbs from the nose; the shoulders are not joined.
LIMBS = tuple(zip((0, 0, 1, 2, 0, 5, 7, 0, 6, 8, 5, 11, 13, 6, 12, 14, 11),
                  (1, 2, 3, 4, 5, 7, 9, 6, 8, 10, 11, 13, 15, 12, 14, 16, 12), strict=True))  # fmt: skip
# Grey levels that the plotting library of the original rounds down by one.
LOWERED = (33, 37, 41, 45, 49, 53, 57, 61, 66, 74, 82, 90, 98, 106, 114, 122, 132, 148, 164, 180, 196, 212, 228, 244)
DONORS = 4  # frames that a lost entry is filled from


def fill_lost(place: Tensor, mask: Tensor, budget: int = 1 << 22) -> Tensor:
    """Coordinates (n, t, v, 2) with lost entries (exactly 0) filled from the frames most like theirs; mask (n, t).

    Of the frames that have the entry the four nearest give their mean, weighted by 1 / distance (by those at distance
    0 alone, if any). Distance: root mean square over the entries both frames have, times sqrt(2 v). Where no distance
    is defined, the entry's mean over time. A sequence in which some entry is lost in every frame stays as it is.
    budget: numbers held at once. (Troyanskaya et al., "Missing value estimation methods for DNA microarrays", 2001.)
    """
    x = place.flatten(2).double()  # (n, t, 2 v)
    seen = (x != 0) & mask[..., None]
    lost = ~seen & (mask & seen.any(1).all(-1)[:, None])[..., None]
    row, frame = lost.any(-1).nonzero(as_tuple=True)  # the frames to be completed
    if not len(row):
        return place
    mean = x.sum(1) / seen.sum(1).clamp(min=1)  # (n, 2 v), lost entries are 0
    filled = x.clone()
    size = max(1, budget // x[0].numel())
    for r, i in zip(row.split(size), frame.split(size), strict=True):
        both = seen[r, i][:, None] & seen[r]  # (q, t, 2 v)
        square = ((x[r, i][:, None] - x[r]) * both).square().sum(-1)
        shared = both.sum(-1)
        distance = torch.where(shared > 0, (square * x.shape[2] / shared.clamp(min=1)).sqrt(), torch.inf)  # (q, t)
        q, column = lost[r, i].nonzero(as_tuple=True)  # (k,) the lost entries of these frames
        apart = distance[q].masked_fill(~seen[r[q], :, column], torch.inf)  # (k, t)
        apart, donor = apart.topk(min(DONORS, apart.shape[1]), largest=False)
        same = apart == 0
        weight = torch.where(same.any(1, keepdim=True), same.double(), 1 / apart.clamp(min=torch.finfo(x.dtype).tiny))
        value = (weight * x[r[q, None], donor, column[:, None]]).sum(1) / weight.sum(1)
        filled[r[q], i[q], column] = torch.where(apart[:, 0].isfinite(), value, mean[r[q], column])
    return filled.to(place.dtype).view_as(place)


def on_canvas(place: Tensor) -> tuple[Tensor, Tensor]:
    """(f, 17, 2) -> the same with the hips at the canvas's centre and the figure 85 pixels high, and (f,) if it has
    a height at all."""
    low, high = place[..., 1].aminmax(dim=1)
    height = high - low
    upright = height > 0
    scale = HEIGHT / torch.where(upright, height, 1.0)
    hip = (place[:, 11] + place[:, 12]) / 2
    return (place - hip[:, None]) * scale[:, None, None] + SIDE / 2, upright


def _outside(low: Tensor, high: Tensor, pixel: Tensor) -> Tensor:
    """Ends of a blob's box (f, l) -> (f, l, 128) where a pixel is outside; whole pixels, cut towards zero."""
    low, high = (low - REACH).trunc().clamp(min=0), (high + REACH).trunc()
    return (pixel < low[..., None]) | (pixel > high[..., None])


def joint_levels(place: Tensor, light: Tensor) -> Tensor:
    """Joints (f, v, 2), log brightness (f, v), -inf where not drawn -> log of the brightest blob (f, 128, 128)."""
    pixel = torch.arange(SIDE, dtype=place.dtype, device=place.device)
    gap = -(pixel - place[..., None]).square() / (2 * SIGMA**2)  # (f, v, 2, 128)
    x, y = gap.masked_fill(_outside(place.flatten(1), place.flatten(1), pixel).view_as(gap), -torch.inf).unbind(2)
    return ((x + light[..., None])[:, :, None] + y[..., None]).amax(1)


def limb_levels(start: Tensor, end: Tensor, light: Tensor) -> Tensor:
    """Limbs from start to end (f, l, 2), log brightness (f, l) -> log of the brightest one (f, 128, 128).

    A pixel's position along and across a limb is a sum of one term of x and one of y. Along the limb it is counted
    from the middle in halves of the limb: what is left beyond -1 and 1 is the distance from its ends.
    """
    pixel = torch.arange(SIDE, dtype=start.dtype, device=start.device)
    bone = end - start
    length = bone.norm(dim=-1)  # (f, l)
    half = length.clamp(min=1e-6) / 2
    cos, sin = (bone / (2 * half)[..., None]).unbind(-1)
    cos = torch.where(length == 0, 1.0, cos)
    x, y = (pixel - ((start + end) / 2)[..., None]).unbind(2)  # (f, l, 128)
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    across_x, across_y = (
        (part * side[..., None]).masked_fill(_outside(low[..., i], high[..., i], pixel), torch.inf)
        for i, (part, side) in enumerate(((x, -sin), (y, cos)))
    )
    # from here on every step is over (f, l, 128, 128): in place, and none that could be done before
    along = (x * (cos / half)[..., None])[:, :, None] + (y * (sin / half)[..., None])[..., None]
    square = (across_x[:, :, None] + across_y[..., None]).square_()
    beyond = F.softshrink(along, 1.0).square_()
    square.addcmul_(beyond, half.square()[..., None, None])
    return -square.sub_((2 * SIGMA**2 * light)[..., None, None]).amin(1) / (2 * SIGMA**2)


def draw(place: Tensor, confidence: Tensor) -> Tensor:
    """Joints on the canvas (f, 17, 2), confidence (f, 17) -> grey levels 0..255, limbs and joints (f, 2, 128, 128)."""
    start, end = (pick(place[None], joints)[0] for joints in zip(*LIMBS, strict=True))
    first, second = (pick(confidence[None], joints)[0] for joints in zip(*LIMBS, strict=True))
    short = (end - start).square().sum(-1) < 1  # drawn as the start joint
    weaker = torch.minimum(first, second)
    drawn = weaker >= FAINT
    light = torch.where(drawn, torch.where(short, first, weaker), 0.0).log()
    levels = torch.stack([
        limb_levels(start, torch.where(short[..., None], start, end), light),
        joint_levels(place, torch.where(confidence >= FAINT, confidence, 0.0).log()),
    ], dim=1)  # fmt: skip
    step = (levels.exp().float() * 256).floor().clamp(max=255).long()
    table = torch.arange(256, dtype=place.dtype, device=place.device)
    table[list(LOWERED)] -= 1
    return table[step]


def _shares(low: Tensor, extent: Tensor) -> Tensor:
    """Stretch [low, low + extent) (m,) of the canvas -> (m, 64, 128): the share of each pixel in each of 64 cells.

    Single precision, as in the image library of the original.
    """
    edge = low[:, None] + extent[:, None] * torch.arange(OUT + 1, dtype=torch.float64, device=low.device) / OUT
    pixel = torch.arange(SIDE, dtype=torch.float64, device=low.device)
    left, right = edge[:, :-1, None], edge[:, 1:, None]
    overlap = (torch.minimum(right, pixel + 1) - torch.maximum(left, pixel)).clamp(min=0)
    return (overlap * OUT / extent[:, None, None]).float().double()


def shrink(grey: Tensor) -> Tensor:
    """Grey canvases (m, 128, 128) -> (m, 64, 64), whole grey levels.

    The rows from the first to the last that is not black, and as many columns about the middle, averaged by area.
    """
    lit = grey.amax(2) > 0  # (m, 128)
    row = torch.arange(SIDE, device=grey.device)
    top = torch.where(lit, row, SIDE).amin(1)
    height = torch.where(lit, row, -1).amax(1) - top + 1
    share = grey.double() / 255  # not whole numbers, in this order: then rounding is the original's, too
    out = F.avg_pool2d(share, 2)  # right where all rows count
    part = ((height < SIDE) & (height > 0)).nonzero()[:, 0]
    if len(part):
        top, height = top[part], height[part]
        half = torch.div(height, 2, rounding_mode="floor")
        rows = _shares(top, height)
        left, right = SIDE // 2 - half, (SIDE // 2 + half + 1).clamp(max=SIDE)
        columns = _shares(left, right - left)
        out = out.index_copy(0, part, rows @ share[part] @ columns.transpose(1, 2))
    return (out * 255).floor().to(grey.dtype)


class SkeletonMaps(OnSkeleton):
    """Poses (n, t, v, 3) in pixels -> maps (n, t, 2, 64, 64 - 2 cut) in [0, 1]; padded frames are black.

    cut: columns taken away on each side (10: SkeletonGait reads 64 x 44); 0 where RandomPerspective, which needs the
    whole map, comes before `CutMaps`. fill: lost joints (x or y exactly 0) are filled from similar frames of the clip;
    the original fills before it takes a clip out of the sequence. Filled joints count for the height of the figure, but
    with confidence 0 they are not drawn. Poses without confidence are drawn in full.
    Joints: COCO-17, or a format in two dimensions that holds them (OpenPose-18). A frame without height stays black.
    The arithmetic has the dtype of the poses: in float64 maps are the original's to the last grey level wherever the
    figure fills the canvas, elsewhere (the crop) within one level; in float32 some pixels are one level off.
    """

    def __init__(self, joint_format: str | Skeleton = "coco17", cut: int = 10, fill: bool = True) -> None:
        super().__init__(joint_format)
        found = joint_mapping(self.skeleton, get_skeleton("coco17"))
        if self.skeleton.dims != 2 or any(joints is None or len(joints) != 1 for joints in found):
            raise UserError(f"transform SkeletonMaps draws the 17 joints of COCO in two dimensions; joint_format "
                            f"{self.skeleton.name} has other joints or {self.skeleton.dims} dimensions: use another "
                            "network than SkeletonGait")
        self.joints = tuple(joints[0] for joints in found if joints)
        self.cut, self.fill = _columns(self, cut), fill

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = (pick(x, self.joints) for x in self.divide(pose))
        if self.fill:
            place = fill_lost(place, mask)
        confidence = rest[mask][..., 0] if rest.shape[-1] else torch.ones_like(place[mask][..., 0])
        place, upright = on_canvas(place[mask])  # (f, 17, 2)
        confidence = torch.where(upright[:, None], confidence, 0.0)
        # canvases of some 4 frames fit a CPU's cache; a GPU wants more at once, but 1 MB each
        size = 4 if pose.device.type == "cpu" else 512
        drawn = [shrink(draw(p, c).flatten(0, 1)).view(-1, 2, OUT, OUT)[..., self.cut:OUT - self.cut]
                 for p, c in zip(place.split(size), confidence.split(size), strict=True)]
        maps = pose.new_zeros(*mask.shape, 2, OUT, OUT - 2 * self.cut)
        maps[mask] = torch.cat(drawn) / 255
        return maps


def _columns(owner: object, cut: Any) -> int:
    if number(owner, "cut", cut, 0, OUT // 2 - 1) != cut or not isinstance(cut, int):
        raise UserError(f"transform {type(owner).__name__}: cut is {cut!r}; give a whole number of columns")
    return cut


def is_picture(batch: Tensor) -> bool:
    """Whether this is a batch of maps (n, t, 2, h, w) or silhouettes (n, t, h, w), not of poses (n, t, v, c)."""
    return batch.ndim == 5 or (batch.ndim == 4 and min(batch.shape[2:]) >= OUT // 2)


class OnMaps(Transform):
    """Base of the transforms of maps (n, t, 2, h, w) and silhouettes (n, t, h, w), each applied to a sequence with this
    probability. Whole grey levels (uint8) stay so, rounded."""

    random = True

    def __init__(self, probability: float = 0.2) -> None:
        self.probability = number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Any) -> Tensor:
        if not is_picture(pose):
            raise UserError(f"transform {type(self).__name__} changes maps (n, t, 2, h, w) or silhouettes (n, t, h, "
                            f"w), the batch is {tuple(pose.shape)}; put SkeletonMaps before it")
        chosen = (draws.uniform() < self.probability).nonzero()[:, 0]
        if not len(chosen):
            return pose
        whole = not pose.is_floating_point()
        maps = pose[chosen].flatten(1, pose.ndim - 3)
        changed = self.change(maps.float() if whole else maps, Draws(draws.keys[chosen]))
        changed = changed.round().clamp(0, 255) if whole else changed
        return pose.index_copy(0, chosen, changed.view(-1, *pose.shape[1:]).to(pose.dtype))

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        """(m, t 2, h, w), of silhouettes (m, t, h, w) -> same: the chosen sequences, frames and channels alike."""
        raise NotImplementedError


class RandomFlip(OnMaps):
    """Mirrors the columns."""

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        return maps.flip(-1)


class RandomPerspective(OnMaps):
    """Stretches a trapezium of the map to the whole map, zero outside; before CutMaps, on 64 columns.

    Its corners lie on the upper and lower edge, each up to 9 columns inside: (l, 0), (r, 0), (r', 64), (l', 64).
    """

    reach = 10

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        from kornia.geometry.transform import get_perspective_transform, warp_perspective

        m, _, h, w = maps.shape
        left = draws.split("left").integers(self.reach, 2)  # (m, 2): above, below
        right = w - self.reach + draws.split("right").integers(self.reach, 2)
        x = torch.stack([left[:, 0], right[:, 0], right[:, 1], left[:, 1]], dim=1).to(maps.dtype)
        y = x.new_tensor([0, 0, h, h]).expand(m, 4)
        square = torch.stack([x.new_tensor([0, w, w, 0]).expand(m, 4), y], dim=2)
        matrix = get_perspective_transform(torch.stack([x, y], dim=2), square)
        return warp_perspective(maps, matrix, (h, w), align_corners=True)


class RandomRotate(OnMaps):
    """Turns the map by an angle uniform in [-degree, degree), zero outside.

    The fixed point is (x, y) = (h / 2, w / 2) as in the original, which takes the sides the wrong way round.
    """

    def __init__(self, probability: float = 0.2, degree: float = 10.0) -> None:
        super().__init__(probability)
        self.degree = number(self, "degree", degree, 0, 180)

    def change(self, maps: Tensor, draws: Draws) -> Tensor:
        from kornia.geometry.transform import get_rotation_matrix2d, warp_affine

        m, _, h, w = maps.shape
        angle = draws.split("angle").uniform(low=-self.degree, high=self.degree).to(maps)
        matrix = get_rotation_matrix2d(maps.new_tensor([h / 2, w / 2]).expand(m, 2), angle, maps.new_ones(m, 2))
        return warp_affine(maps, matrix, (h, w), align_corners=True)


class CutMaps(Transform):
    """Takes `cut` columns away on each side of maps (n, t, 2, h, w) or silhouettes (n, t, h, w)."""

    def __init__(self, cut: int = 10) -> None:
        self.cut = _columns(self, cut)

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        return pose[..., self.cut:pose.shape[-1] - self.cut]
