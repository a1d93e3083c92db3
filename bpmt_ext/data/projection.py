"""Walks of a Kinect (t, 20, 3) in metres in; key points COCO-17 as a camera sees them, or walks with limbs of given
lengths, out: the protocols K-2D and K-motion (specs/protocols.md, section 9).

Both are frozen: a change here makes another protocol and needs another name. Letters: t frames. Joint order of the
walks: kinectgait20. Axes, as the sensor records them: right-handed, y up, z away from the sensor; walkers face it, more
or less, so that their left is at -x.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpmt_ext.data.exchange import bone_paths
from bpmt_ext.skeletons import get_skeleton

VIEWS = ("000", "045", "090", "135")  # degrees of azimuth, before the draw; the place in this row is the view's number
DISTANCE = 4.0  # metres from the hip centre
HEIGHT = 200.0  # pixels, the median over the frames of a walk
CENTRE = 160.0  # x and y, in pixels, at which every picture shows the hip centre
EAR = 0.075  # metres beside the head's centre
# Nose, eyes, ears from the head's centre: metres forward, to the walker's left, up.
_FACE = np.array([(0.1, 0, -0.01), (0.085, 0.032, 0.03), (0.085, -0.032, 0.03), (0, EAR, 0), (0, -EAR, 0)])
_NEAR = 0.1  # metres before the camera: what is nearer, or behind it, is lost
_FLAT = 1e-6

_KINECT, _COCO = get_skeleton("kinectgait20"), get_skeleton("coco17")
_BODY = [_KINECT.joints.index(name) for name in _COCO.joints[5:]]
_NOISE = np.array([4.0 if name.endswith(("wrist", "ankle")) else 2.0 for name in _COCO.joints])  # pixels
_EARS = [_COCO.joints.index(name) for name in ("left_ear", "right_ear")]
_HEAD, _HIP = _KINECT.head[0], _KINECT.hip[0]
_PARENTS = np.array(_KINECT.parents)

Array = NDArray[np.float64]


def project(pose: Array, person: int, walk: int, view: int) -> Array:
    """What camera `view` (0 to 3) sees of a whole walk (t, 20, 3): x to the right and y down in pixels, confidence,
    (t, 17, 3). A lost joint is (0, 0, 0). t may be 0.

    The camera looks at the hip centre of every frame from `DISTANCE`, so that the way a walker goes is not seen. At
    azimuth 0 it stands on the sensor's side; larger ones go to the left of who faces the sensor, so that 90 sees the
    left side. It is turned with the axes of the recording, not with the walker. Focal length and scale are one number
    of a walk: the median over the frames of the extent of y over the 17 joints, before noise, is `HEIGHT`.
    An ear is hidden where it lies farther away than the head's centre by more than half of `EAR`.

    Drawn from default_rng([11, person, walk, view]), in this order: azimuth, elevation, noise (t, 17, 2), which joints
    are lost (t, 17), confidences (t, 17): normal, 0.85 +- 0.1, brought into 0.05..1.
    """
    rng = np.random.default_rng([11, person, walk, view])
    azimuth, elevation = 45 * view + rng.uniform(-10, 10), rng.uniform(5, 15)
    noise = rng.standard_normal((len(pose), len(_NOISE), 2)) * _NOISE[:, None]
    lost = rng.uniform(size=noise.shape[:2]) < 0.05
    confidence = np.clip(0.85 + 0.1 * rng.standard_normal(lost.shape), 0.05, 1.0)
    if not len(pose):
        return np.empty((0, len(_NOISE), 3))

    camera = camera_axes(azimuth, elevation)
    place = (coco_joints(pose) - pose[:, [_HIP]]) @ camera.T  # (t, 17, 3): to the right, up, away
    depth = DISTANCE + place[..., 2]
    image = place[..., :2] * (1, -1) / np.maximum(depth, _NEAR)[..., None]
    image *= HEIGHT / np.median(np.ptp(image[..., 1], axis=1))
    lost |= depth < _NEAR
    head = DISTANCE + (pose[:, [_HEAD]] - pose[:, [_HIP]]) @ camera[2]  # (t, 1)
    lost[:, _EARS] |= depth[:, _EARS] > head + EAR / 2
    seen = np.concatenate([CENTRE + image + noise, confidence[..., None]], axis=-1)
    return np.where(lost[..., None], 0.0, seen)


def camera_axes(azimuth: float, elevation: float) -> Array:
    """Degrees -> (3, 3): the camera's right, up and viewing direction, in the axes of the recording."""
    (sin_a, sin_e), (cos_a, cos_e) = (f(np.radians([azimuth, elevation])) for f in (np.sin, np.cos))
    away = np.array([sin_a * cos_e, -sin_e, cos_a * cos_e])
    right = np.array([-cos_a, 0.0, sin_a])
    return np.stack([right, np.cross(right, away), away])


def coco_joints(pose: Array) -> Array:
    """(t, 20, 3) -> (t, 17, 3) in the same axes. The face looks along the horizontal normal of the lines from the right
    to the left shoulder and hip, added up; towards the sensor where these have no horizontal extent."""
    (left_hip, right_hip), (left_shoulder, right_shoulder) = _KINECT.hips, _KINECT.shoulders
    left = pose[:, left_shoulder] - pose[:, right_shoulder] + pose[:, left_hip] - pose[:, right_hip]
    left = left * (1, 0, 1)
    length = np.linalg.norm(left, axis=1, keepdims=True)
    left = np.where(length > _FLAT, left / np.maximum(length, _FLAT), (-1.0, 0.0, 0.0))
    up = np.broadcast_to((0.0, 1.0, 0.0), left.shape)
    face = _FACE @ np.stack([np.cross(left, up), left, up], axis=1)  # (5, 3) @ (t, 3, 3)
    return np.concatenate([pose[:, [_HEAD]] + face, pose[:, _BODY]], axis=1)


def bone_lengths(pose: Array) -> Array:
    """(t, 20, 3), t > 0 -> (20,): the median length of each joint's bone, from its parent; 0 for the hip centre."""
    return np.median(np.linalg.norm(pose - pose[:, _PARENTS], axis=-1), axis=0)


def equal_limbs(pose: Array, lengths: Array) -> Array:
    """Every bone of (t, 20, 3) keeps its direction and takes its length of (20,), outward from the hip centre, which
    stays where it is. A bone of no length in the recording keeps none: it has no direction."""
    bones = pose - pose[:, _PARENTS]  # (t, 20, 3), from each joint's parent to it
    norm = np.linalg.norm(bones, axis=-1, keepdims=True)
    bones = np.where(norm > _FLAT, bones / np.maximum(norm, _FLAT) * lengths[:, None], 0.0)
    bones[:, _HIP] = pose[:, _HIP]
    return bone_paths(_KINECT) @ bones
