"""Silhouettes (n, t, 64, 44) and mask (n, t) in, landmarks and body parts, found without labels, out: for LandmarkGait.

Two frames of a walk differ in where the body is. A network that may only move features from one frame to the other
through a few points has to put these points on the body: they are the landmarks. Sorted by height they are the head's,
the upper and the lower body's; each group moves its own part of the silhouette. Source: LandmarkGait, ACM Multimedia
2023 (doi 10.1145/3581783.3611840), as specified in landmarkgait.md sections 2 and 3; transport of features between two
frames after Kulkarni et al., "Unsupervised learning of object keypoints", NeurIPS 2019.
Shapes: n sequences, t frames, m real frames of all sequences together, k landmarks, c channels, q parts. A mask is True
where a frame is real. Per frame everything is done on the m real frames alone: padding is neither read nor computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.exporting import exporting, stable_order

SIZE = (64, 44)  # of a silhouette
CELLS = (16, 11)  # of a heatmap
PARTS = {20: (1, 8, 11), 25: (2, 10, 13), 30: (2, 14, 14), 35: (4, 14, 17)}  # landmarks of head, upper, lower body
PIECE = 128  # frames at once where nothing is learned: memory stays small however long the sequences are


class Clips:
    """mask (n, t), real frames first -> where the m real frames stand once they are put one after the other.

    length (n,): real frames; first (n,): where a sequence begins; owner, number (m,): each frame's sequence and place.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask, self.length = mask, mask.sum(1)
        self.first = self.length.cumsum(0) - self.length
        self.owner, self.number = mask.nonzero(as_tuple=True)

    def rolled(self, shift: Tensor | int) -> Tensor:
        """(m,): the frame `shift` (one number, or one per sequence) earlier, past the first one on from the end."""
        steps = shift[self.owner] if isinstance(shift, Tensor) else shift
        return self.first[self.owner] + (self.number - steps) % self.length[self.owner]

    def swapped(self, shift: int) -> Tensor:
        """(m,): the frame at the same place in the sequence `shift` before in the batch, repeated if that is short."""
        other = (self.owner - shift) % self.length.shape[0]
        return self.first[other] + self.number % self.length[other]

    def unpack(self, x: Tensor) -> Tensor:
        """(m, ...) -> (n, t, ...), zero in padded frames."""
        return x.new_zeros(*self.mask.shape, *x.shape[1:]).index_put((self.mask,), x)


class Under(nn.Module):
    """x -> layer(x): one layer under a name of its own, as the checkpoints have it."""

    def __init__(self, **layer: nn.Module) -> None:
        super().__init__()
        for name, module in layer.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride, (size - stride + 1) // 2, bias=False)
    return Under(conv=conv), nn.LeakyReLU(0.01, inplace=True)


def _block(*layers: nn.Module) -> Under:
    return Under(model=Under(forward_block=nn.Sequential(*layers)))


def encoder(channels: Sequence[int]) -> Under:
    """Layers from silhouettes (m, 1, 64, 44) to (m, c, 16, 11)."""
    a, b, c = channels
    return _block(*_conv(1, a, 7), *_conv(a, a, 5), *_conv(a, b, 4, 2), *_conv(b, b, 3), *_conv(b, c, 4, 2))


def refiner(channels: Sequence[int], *last: nn.Module) -> Under:
    """Layers from features (m, c, 16, 11) to pictures (m, 1, 64, 44)."""
    a, b, c = channels
    up = (nn.ConvTranspose2d(c, c, 4, 2, 1), nn.LeakyReLU(0.01, inplace=True))
    again = (nn.ConvTranspose2d(b, b, 4, 2, 1), nn.LeakyReLU(0.01, inplace=True))
    return _block(*up, *_conv(c, b, 3), *again, *_conv(b, a, 5), _conv(a, 1, 7)[0], *last)


class Grid(nn.Module):
    """Where the 176 cells of a heatmap are, pos_x and pos_y (176,), row by row, from -1 to 1 along each axis."""

    pos_x: Tensor
    pos_y: Tensor

    def __init__(self) -> None:
        super().__init__()
        axes = (torch.linspace(-1, 1, cells, dtype=torch.float64) for cells in CELLS)
        y, x = torch.meshgrid(*axes, indexing="ij")
        self.register_buffer("pos_x", x.flatten().float())
        self.register_buffer("pos_y", y.flatten().float())

    def forward(self, cells: Tensor) -> Tensor:
        """Shares of the cells (m, k, 176) -> expected x and y (m, k, 2)."""
        return torch.stack([(cells * self.pos_x).sum(-1), (cells * self.pos_y).sum(-1)], dim=-1)


class Predictor(nn.Module):
    """Features (m, c, 16, 11) -> landmarks (m, k, 2), x and y, and how sharp each is (m, k): its heatmap's peak."""

    def __init__(self, inputs: int, landmarks: int) -> None:
        super().__init__()
        self.model_landmark = Under(forward_block=nn.Sequential(_conv(inputs, landmarks, 1)[0]))
        self.integrater = Grid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.model_landmark(x).flatten(2).softmax(-1)
        return self.integrater(cells), cells.amax(-1)


@dataclass
class Scene:
    """What is known of m frames: features F (m, c, 16, 11), landmarks (m, k, 2), background 1 - H (m, 1, 16, 11),
    and source (m,), the other frame of the same sequence from which each is rebuilt."""

    features: Tensor
    points: Tensor
    behind: Tensor
    source: Tensor


class Backbone(nn.Module):
    """The two encoders, the landmark predictor and the refiner R, as LandmarkNet trains them."""

    def __init__(self, *, landmarks: int, channels: Sequence[int], inv_std: float, clip_heatmaps: bool) -> None:
        super().__init__()
        self.inv_std, self.clip = inv_std, clip_heatmaps
        self.extract_feature, self.extract_landmark_1 = encoder(channels), encoder(channels)
        self.extract_landmark_2 = Predictor(channels[-1], landmarks)
        self.refine = refiner(channels)

    @torch.no_grad()
    def spread(self, deviation: float = 4.0) -> None:
        """Start the landmarks in different places, with heatmaps whose logits have about this deviation.

        With flat heatmaps all of them start in the middle of the picture, where k Gaussians add up to k and hide the
        features, and their gradients are too small to move them for many hundred steps (figures: docs/silhouettes.md).
        """
        encoder, last = self.extract_landmark_1, self.extract_landmark_2.model_landmark
        for conv in (module for module in encoder.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="leaky_relu")
        (conv,) = (module for module in last.modules() if isinstance(module, nn.Conv2d))
        # He's rule hands the silhouettes' own root mean square on, some 0.2 over the cells, mean taken off
        nn.init.normal_(conv.weight, std=deviation / (0.2 * conv.in_channels**0.5))

    def locate(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(m, 64, 44) -> landmarks (m, k, 2) and their peaks (m, k)."""
        return self.extract_landmark_2(self.extract_landmark_1(pictures(frames)))

    def heat(self, points: Tensor, member: Tensor | None = None) -> Tensor:
        """Landmarks (m, k, 2), member (m, q, k) -> sum of each part's Gaussians (m, q, 16, 11); of all with None.

        exp(-inv_std^2 |u - point|^2) is a column times a row, so that the sum over landmarks is one matrix product.
        """
        y, x = (torch.linspace(-1, 1, cells, dtype=points.dtype, device=points.device) for cells in CELLS)
        rows = (-self.inv_std**2 * (points[..., :1] - x).square()).exp()  # (m, k, 11)
        columns = (-self.inv_std**2 * (points[..., 1:] - y).square()).exp().transpose(1, 2)[:, None]  # (m, 1, 16, k)
        columns = columns if member is None else columns * member[:, :, None].to(columns.dtype)
        heat = columns @ rows[:, None]
        return heat.clamp(0, 1) if self.clip else heat

    def scene(self, frames: Tensor, source: Tensor) -> Scene:
        features, points = in_pieces(
            lambda at: (self.extract_feature(pictures(frames[at])), self.locate(frames[at])[0]), frames
        )
        return Scene(features, points, 1 - self.heat(points), source)

    @staticmethod
    def kept(scene: Scene, at: Tensor | slice) -> Tensor:
        """Frames `at` -> features of their sources where neither frame has a landmark (b, c, 16, 11)."""
        source = scene.source[at]
        return scene.features[source] * (scene.behind[source] * scene.behind[at])

    def mix(self, scene: Scene, at: Tensor | slice) -> Tensor:
        """Frames `at` -> sources with the features around their own landmarks put in (b, c, 16, 11)."""
        return self.kept(scene, at) + (1 - scene.behind[at]) * scene.features[at]

    def mix_parts(self, scene: Scene, member: Tensor, at: Tensor | slice) -> Tensor:
        """member (m, q, k) -> the same with the landmarks of one part each (b, q, c, 16, 11)."""
        heat = self.heat(scene.points[at], member[at])[:, :, None]
        return self.kept(scene, at)[:, None] + heat * scene.features[at][:, None]


def pictures(frames: Tensor) -> Tensor:
    """(m, 64, 44) -> (m, 1, 64, 44) in the layout channels-last, which the layers keep: a CPU has half the work."""
    return frames[..., None].permute(0, 3, 1, 2)


def in_pieces(make: Callable[[Tensor | slice], tuple[Tensor, ...]], frames: Tensor) -> tuple[Tensor, ...]:
    """make(which frames) for all m frames, in pieces where no gradient is asked for, the results joined."""
    if torch.is_grad_enabled() or exporting() or len(frames) <= PIECE:
        return make(slice(None))
    made = [make(at) for at in torch.arange(len(frames), device=frames.device).split(PIECE)]
    return tuple(torch.cat(pieces) for pieces in zip(*made, strict=True))


class Grouping(nn.Module):
    """Landmarks (m, k, 2) -> member (m, 3, k) bool: whether it is of the head, the upper or the lower body.

    The highest are the head's, the next the upper body's (y grows downwards); PARTS says how many.
    grouping: `mean` orders by the mean height over the training set, which `fit` stores (before that: over the
    sequence itself). `frame`, as published: by one frame, in training a drawn one of a drawn clip for the whole batch.
    The published test draws as well, from one clip at a time; here it takes each sequence's middle frame.
    """

    mean_x: Tensor
    mean_y: Tensor
    fitted: Tensor

    def __init__(self, landmarks: int, grouping: str) -> None:
        super().__init__()
        if grouping not in ("mean", "frame"):
            raise ValueError(f"grouping must be mean or frame, not {grouping!r}")
        self.grouping = grouping
        self.head, self.upper, _ = PARTS[landmarks]
        for name in ("mean_x", "mean_y"):
            self.register_buffer(name, torch.zeros(landmarks))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, points: Tensor) -> None:
        mean = points.double().mean(0)
        self.mean_x.copy_(mean[:, 0])
        self.mean_y.copy_(mean[:, 1])
        self.fitted.fill_(True)

    def order(self) -> tuple[list[int], list[int], list[int]]:
        order = self.mean_y.argsort(dim=-1, stable=True).tolist()
        return order[: self.head], order[self.head : self.head + self.upper], order[self.head + self.upper :]

    def heights(self, y: Tensor, clips: Clips, key: Tensor | None) -> Tensor:
        """y (m, k) -> what each sequence's landmarks are sorted by (n, k), or one row for all (1, k)."""
        if self.grouping == "mean":
            total = y.new_zeros(clips.length.shape[0], y.shape[1]).index_add(0, clips.owner, y)
            return torch.where(self.fitted, self.mean_y.to(y.dtype), total / clips.length.clamp(min=1)[:, None])
        if not self.training:
            return y[clips.first + clips.length // 2]
        if key is None:  # a host hands over no keys: its own random state seeds them
            key = torch.randint(2**62, clips.length.shape, device=y.device)
        draws = Draws(key).split("grouping")
        frame = clips.first + draws.split("frame").integers(clips.length)
        return y[frame[draws.split("clip").uniform().argmax()]][None]

    def forward(self, points: Tensor, clips: Clips, key: Tensor | None) -> Tensor:
        heights = self.heights(points[..., 1], clips, key)
        rank = stable_order(stable_order(heights))
        part = (rank >= self.head).long() + (rank >= self.head + self.upper)
        member = part[:, None] == torch.arange(3, device=part.device)[:, None]  # (n or 1, 3, k)
        return member.expand(len(points), -1, -1) if member.shape[0] == 1 else member[clips.owner]


def fine_parts(frames: Tensor, coarse: Tensor, scope: str) -> Tensor:
    """Silhouettes (m, 64, 44), coarse parts (m, 3, 64, 44) -> final parts (m, 3, 64, 44): what no other part claims.

    A part claims the pixels near its maximum and those next to them; the upper body goes before head and legs. scope:
    the maximum of `frame` or of `batch`. Pixels that no part claims are in all three.
    """
    top = coarse.amax((2, 3), keepdim=True)
    hot = coarse > 0.9 * (top.amax(0) if scope == "batch" else top)
    upper = hot[:, 1:2]
    own = torch.cat([hot[:, :1] & ~upper, upper, hot[:, 2:] & ~upper], dim=1)
    # a dilation by a 3 x 3 box of ones, as kornia.morphology.dilation: what lies outside the picture never wins
    free = F.max_pool2d(coarse * own, 3, stride=1, padding=1) <= 0.5
    return frames[:, None] * (free[:, [1, 0, 0]] & free[:, [2, 2, 1]])
