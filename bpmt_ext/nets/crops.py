"""Poses (n, t, v, c) with starts (n, w) in, windows of one width (n, w, f, v, c) out: for nets of a fixed clip length.

GaitMixer and GaitPT learn a vector per frame number, or average over a fixed number of frames, so that they read clips
of one length only. Shapes: n sequences, w windows of each, f frames of a window, t frames, v joints, c channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.layers import check_pose
from bpmt_ext.skeletons import Skeleton


def crop(pose: Tensor, mask: Tensor, start: Tensor, width: int) -> Tensor:
    """(n, t, v, c), mask (n, t) with the real frames first, start (n, w) -> (n, w, width, v, c).

    A window that runs past a sequence's last frame goes on at its first one: sequences shorter than the width are
    repeated, as the samplers do in training. Padding is never read.
    """
    length = mask.sum(1).clamp(min=1)[:, None, None]
    frame = (start[..., None] + torch.arange(width, device=pose.device)) % length  # (n, w, width)
    return pose[torch.arange(pose.shape[0], device=pose.device)[:, None, None], frame]


class FixedClips(nn.Module):
    """Base of a net that reads clips of `frames` frames; the subclass brings `encode` and `starts`.

    Training reads one window of each sequence: the whole clip, as the sampler cuts clips of that length; from a longer
    one its middle. Testing reads several and returns the mean of their unit vectors, not normalised again.
    """

    def __init__(self, *, skeleton: Skeleton, frames: int) -> None:
        super().__init__()
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise ValueError(f"frames must be a whole number of at least 1, not {frames!r}")
        self.skeleton, self.frames = skeleton, frames
        self.takes = (skeleton.num_joints, skeleton.dims)

    def encode(self, clip: Tensor) -> Tensor:
        """(m, frames, v, dims) -> (m, d), not yet of unit length."""
        raise NotImplementedError

    def windows(self, pose: Tensor, mask: Tensor) -> Tensor:
        """(n, t, v, dims), mask (n, t) -> the windows read in a test (n, w, frames, v, dims)."""
        raise NotImplementedError

    def middle(self, mask: Tensor) -> Tensor:
        """(n, 1): where the window in the middle of each sequence starts."""
        return ((mask.sum(1, keepdim=True) - self.frames) // 2).clamp(min=0)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        """pose (n, t, v, c >= dims), mask (n, t) -> feature and embedding (n, d, 1)."""
        check_pose(pose, mask, self.skeleton, self.skeleton.dims)
        pose = pose[..., : self.skeleton.dims]
        clips = crop(pose, mask, self.middle(mask), self.frames) if self.training else self.windows(pose, mask)
        unit = F.normalize(self.encode(clips.flatten(0, 1)), dim=1).unflatten(0, clips.shape[:2])  # (n, w, d)
        feature = unit.mean(1)[..., None]
        return {"feature": feature, "embedding": feature}
