"""Pose sequences [(t, v, c)] or silhouettes in, embeddings (n, d, 1) out: comparisons that have learned nothing.

A network that does not beat them clearly has learned nothing about walking (specs/protocols.md, section 9). Each
measures n sequences as a row of d numbers; `embed` standardises them on the training sequences. Letters: n sequences,
t frames, v joints, c channels, of which the first `skeleton.dims` are coordinates (x, y[, z], y vertical) and a
confidence may follow. Silhouettes have one of their own, (t, h, w) a sequence, which is not standardised.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from bpmt_ext.data.preprocessing import FillMissing
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton

Poses = Sequence[np.ndarray]  # n arrays (t, v, c); t differs

_ENDS = ("hand", "foot", "thumb")  # joints beyond wrist and ankle: a Kinect guesses them rather than sees them


def fill_lost(sequences: Iterable[np.ndarray], skeleton: Skeleton) -> list[np.ndarray]:
    """Every sequence (t, v, c) with its lost joints filled in, as a network gets them: a yardstick must be fair, and
    (0, 0) is no place."""
    fill, poses = FillMissing(skeleton), (torch.from_numpy(pose)[None] for pose in sequences)
    return [fill(pose, torch.ones(pose.shape[:2], dtype=torch.bool))[0].numpy() for pose in poses]


def bone_lengths(sequences: Poses, skeleton: Skeleton) -> np.ndarray:
    """Median over frames of each bone's length -> (n, bones), in the unit of the poses.

    Bones are the skeleton's edges without those to hands and feet: 15 of KinectGait-20.
    """
    ends = {i for i, joint in enumerate(skeleton.joints) if any(word in joint.lower() for word in _ENDS)}
    a, b = np.array([edge for edge in skeleton.edges if not ends & set(edge)]).T
    rows = []
    for pose in _coordinates(sequences, skeleton):
        rows.append(np.median(np.linalg.norm(pose[:, a] - pose[:, b], axis=-1), axis=0))
    return np.stack(rows)


def pose_statistics(sequences: Poses, skeleton: Skeleton) -> np.ndarray:
    """Mean, then standard deviation over frames of the rescaled, centred joints -> (n, 2 * v * dims)."""
    rows = []
    for pose in _coordinates(sequences, skeleton):
        flat = _rescale_centre(pose, skeleton).reshape(len(pose), -1)
        rows.append(np.concatenate([flat.mean(0), flat.std(0)]))
    return np.stack(rows)


def single_frame(sequences: Poses, skeleton: Skeleton) -> np.ndarray:
    """Rescaled, centred joints of frame t // 2 -> (n, v * dims)."""
    frames = [pose[len(pose) // 2] for pose in _coordinates(sequences, skeleton)]
    return _rescale_centre(np.stack(frames), skeleton).reshape(len(frames), -1)


def cadence(sequences: Poses, skeleton: Skeleton) -> np.ndarray:
    """How fast and how wide the limbs swing -> (n, 2 * pairs); pairs are the ankles, then the wrists, where known, else
    the ends of legs and arms.

    Of the distance between left and right, over time, in body heights: its dominant frequency (cycles per frame; a
    step each, for the distance peaks twice a stride) and its standard deviation. Both are 0 where nothing moves.
    """
    left, right = _limb_pairs(skeleton)
    rows = []
    for pose in _coordinates(sequences, skeleton):
        pose = _rescale_centre(pose, skeleton)
        apart = np.linalg.norm(pose[:, left] - pose[:, right], axis=-1)  # (t, pairs)
        rows.append(np.concatenate([dominant_frequency(apart), apart.std(0)]))
    return np.stack(rows)


YARDSTICKS: Mapping[str, Callable[[Poses, Skeleton], np.ndarray]] = MappingProxyType(
    {
        "bone_lengths": bone_lengths,
        "pose_statistics": pose_statistics,
        "single_frame": single_frame,
        "cadence": cadence,
    }
)


def gait_energy_image(sequences: Iterable[np.ndarray]) -> np.ndarray:
    """Mean of the silhouettes (t, h, w) over time (Han and Bhanu, PAMI 2006) -> (n, h * w, 1) float32.

    Raw pixels, compared by their Euclidean distance as is usual: standardised ones would let the pixels count most that
    hardly ever change.
    """
    return np.stack([np.asarray(clip, dtype=np.float64).mean(0).ravel() for clip in sequences])[..., None].astype("f4")


SILHOUETTE_YARDSTICKS: Mapping[str, Callable[[Iterable[np.ndarray]], np.ndarray]] = MappingProxyType(
    {"gait_energy_image": gait_energy_image}
)


def embed(name: str, sequences: Poses, training: Poses, skeleton: Skeleton) -> np.ndarray:
    """The yardstick `name` of n sequences, standardised on the training sequences -> (n, d, 1) float32.

    UserError for an unknown name, or poses that do not have the skeleton's joints and coordinates.
    """
    if name not in YARDSTICKS:
        near = difflib.get_close_matches(name, YARDSTICKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(YARDSTICKS)}."
        raise UserError(f"yardstick {name!r} is not known; {hint}")
    measure = YARDSTICKS[name]
    return standardise(measure(sequences, skeleton), measure(training, skeleton))


def standardise(rows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(n, d), (m, d) -> (n, d, 1) float32: less the training mean, over the training deviation.

    A column that is constant in training (the neck at the centre) carries no scale of its own and becomes 0.
    """
    deviation = training.std(0)
    # relative to the values: the deviation of a constant is rounding noise, not exactly 0
    useful = deviation > 1e-6 * np.abs(training).max(0)
    scaled = (rows - training.mean(0)) / np.where(useful, deviation, 1)
    return np.where(useful, scaled, 0).astype(np.float32)[:, :, None]


def dominant_frequency(signals: np.ndarray) -> np.ndarray:
    """(t, k) -> (k,) cycles per frame, at the highest peak of the spectrum; 0 for a constant or fewer than 4 frames."""
    t = len(signals)
    if t < 4:
        return np.zeros(signals.shape[1])
    window = np.hanning(t + 2)[1:-1, None]
    # the weighted mean, so that nothing is left at frequency 0 after windowing
    swing = (signals - (signals * window).sum(0) / window.sum()) * window
    size = 8 * 2 ** int(np.ceil(np.log2(max(t, 64))))  # zero padding: fine steps of frequency for short walks
    power = np.abs(np.fft.rfft(swing, size, axis=0)) ** 2
    power[: int(np.ceil(1.5 * size / t))] = 0  # below one and a half cycles it is drift, not a swing
    peak = power.argmax(0) / size
    return np.where(swing.std(0) > 1e-6 * np.abs(signals).max(0), peak, 0)


def _limb_pairs(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Joints of the two ankles and the two wrists -> left or right (pairs,), the other side (pairs,).

    Of a skeleton that names neither, the last joints of its legs and arms.
    """
    pairs = []
    for word in ("ankle", "wrist"):
        found = [i for i, joint in enumerate(skeleton.joints) if word in joint.lower()]
        pairs += [(i, skeleton.mirror[i]) for i in found[:1]]
    if not pairs:
        ends = (skeleton.parts[3][-1], skeleton.parts[1][-1])
        pairs = [(i, skeleton.mirror[i]) for i in ends]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def _coordinates(sequences: Poses, skeleton: Skeleton) -> list[np.ndarray]:
    """Each (t, v, c) -> (t, v, dims) float64."""
    if not len(sequences):
        raise ValueError("no sequences")
    for pose in sequences:
        if pose.ndim != 3 or pose.shape[0] < 1 or pose.shape[1] != skeleton.num_joints or pose.shape[2] < skeleton.dims:
            raise UserError(
                f"skeleton {skeleton.name} has {skeleton.num_joints} joints of {skeleton.dims} coordinates, but a "
                f"pose is {pose.shape}; name the joint format of these files."
            )
    return [pose[..., : skeleton.dims].astype(np.float64) for pose in sequences]


def _rescale_centre(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(t, v, dims) -> the same, every frame of height 1 (extent of y) with the neck at the origin."""
    height = np.ptp(pose[..., 1], axis=1)[:, None, None]
    neck = pose[:, list(skeleton.neck)].mean(1, keepdims=True)
    return (pose - neck) / np.where(height > 0, height, 1)
