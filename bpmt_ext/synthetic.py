"""Identity numbers and a seed in, key points of made-up walkers (t, 17, 3) out, as pickles or raw Gait3D text.

A walker has limb lengths, a cadence and joint-angle curves of its own; a sequence is one walk of it, seen by one
camera and cropped to the person frame by frame, as in Gait3D. Nothing here was recorded from anybody.

Sources. Limb lengths: segment ratios of Drillis and Contini as given in Winter, "Biomechanics and Motor Control of
Human Movement" (4th ed., 2009, figure 4.1); hips and shoulders are narrower, as key-point estimators put them inside
the body. Joint angles: a coarse approximation, by eye and in round numbers, of the published mean curves of normal
level walking (Winter 2009; Perry and Burnfield, "Gait Analysis", 2nd ed., 2010). Spreads between people have the
published order of magnitude but are choices, not measurements: people overlap in every single trait, posture changes
from walk to walk more than motion does. Not a model for biomechanics.

Axes: x forward, y to the walker's left, z up, metres. Angles in degrees. Joints in the order of COCO-17.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bpmt_ext.data.pickles import write_bytes, write_pickle
from bpmt_ext.errors import UserError

FRAME_RATE = 25.0  # frames per second
FRAMES = (40, 120)  # shortest and longest sequence
HARMONICS = 5  # of the stride frequency, in every angle curve
_WIDE = 3 + 2 * HARMONICS  # numbers that move one curve
IDENTITIES = 10_000  # labels have four digits

Array = NDArray[np.float64]

# Length in body heights: (mean, coefficient of variation between people).
_LIMBS = {
    "trunk": (0.288, 0.030), "neck": (0.112, 0.040), "shoulder": (0.115, 0.040), "hip": (0.055, 0.050),
    "upper_arm": (0.186, 0.030), "forearm": (0.146, 0.030), "thigh": (0.245, 0.030), "shank": (0.246, 0.030),
    "ankle": (0.039, 0.05), "heel": (0.030, 0.05), "toe": (0.095, 0.05),
    "nose": (0.062, 0.06), "eye": (0.019, 0.06), "ear": (0.043, 0.06),
}  # fmt: skip

# The leg in the sagittal plane, every 5 % of the stride from the heel strike of the same side.
_LEG = {
    "hip": (30, 29, 26, 21, 16, 11, 6, 1, -4, -8, -10, -8, -2, 7, 16, 24, 30, 33, 33, 31),  # flexion of the thigh
    "knee": (5, 11, 17, 19, 17, 13, 9, 6, 5, 7, 13, 23, 37, 51, 60, 58, 47, 30, 13, 4),  # flexion
    "ankle": (0, -5, -5, -1, 2, 4, 6, 8, 9, 10, 8, 0, -12, -15, -9, -3, 0, 1, 1, 0),  # dorsiflexion
}
# The rest: mean, then cosine and sine of the stride, cosine and sine of its double.
_SIDED = {
    "hip_out": (-2.0, 0.0, -1.2, 0.0, 0.0),  # abduction of the thigh; the stance leg leans inwards
    "shoulder": (-5.0, -16.0, -2.0, 0.0, 0.0),  # flexion: backwards when the same side's heel strikes
    "elbow": (24.0, -10.0, -4.0, 1.5, 0.0),  # flexion
    "arm_out": (8.0, 1.0, 0.0, 0.0, 0.0),  # abduction of the arm
}
_AXIAL = {  # zero of the stride: heel strike on the left
    "pelvis_yaw": (0.0, -4.0, 1.0, 0.0, 0.0),  # to the left
    "pelvis_roll": (0.0, 0.0, 3.5, 0.0, 0.0),  # left side up
    "trunk_yaw": (0.0, 5.0, 0.0, 0.0, 0.0),  # against the pelvis
    "trunk_roll": (0.0, 0.0, -1.5, 0.0, 0.0),  # over the stance leg
    "trunk_pitch": (4.0, 0.0, 0.0, 1.0, 0.5),  # forwards
    "head_yaw": (0.0, 1.0, 0.0, 0.0, 0.0),
    "head_roll": (0.0, 0.0, -0.5, 0.0, 0.0),
    "head_pitch": (8.0, 0.0, 0.0, 1.5, 0.0),
    "sway": (0.0, 0.0, 2.0, 0.0, 0.0),  # of the whole body to the left, in centimetres
}
# Between people: mean (degrees), log amplitude, shift in the stride (radians), further harmonics (degrees / order).
_SPREAD = {
    "hip": (1.5, 0.12, 0.15, 1.8), "knee": (1.5, 0.12, 0.12, 2.5), "ankle": (2.0, 0.20, 0.12, 1.5),
    "hip_out": (0.6, 0.40, 0.40, 0.8), "shoulder": (2.5, 0.40, 0.40, 4.0), "elbow": (4.0, 0.45, 0.50, 5.0),
    "arm_out": (1.5, 0.50, 0.50, 2.0), "pelvis_yaw": (0.0, 0.40, 0.40, 1.5), "pelvis_roll": (0.0, 0.40, 0.40, 1.5),
    "trunk_yaw": (1.0, 0.50, 0.40, 2.0), "trunk_roll": (0.5, 0.50, 0.50, 1.5), "trunk_pitch": (1.5, 0.50, 0.50, 1.2),
    "head_yaw": (1.5, 0.50, 0.50, 1.5), "head_roll": (1.0, 0.50, 0.50, 1.2), "head_pitch": (2.0, 0.50, 0.50, 1.8),
    "sway": (0.0, 0.30, 0.30, 0.4),
}  # fmt: skip
_TWO = (*_LEG, *_SIDED)  # channels that exist on either side
_CHANNELS = tuple((name, 0) for name in _TWO) + tuple((name, 1) for name in _TWO) + tuple((name, 0) for name in _AXIAL)
_ASYMMETRY = 0.35  # share of a side's own deviation in that of the two-sided channels
_CADENCE = (0.93, 0.06)  # strides per second of a leg of mean length: mean and spread between people
_WALK_POSTURE, _WALK_MOTION = 0.4, 0.15  # between walks of one person, in shares of _SPREAD: means, the rest
_WALK_CADENCE = 0.025  # log spread of cadence between walks of one person
_NEVER = 1.0  # degrees: knees and elbows stay flexed by half of this at least


@dataclass(frozen=True)
class Walkers:
    """Parameters of n made-up people.

    identities: (n,) int64. limbs: (n, 14) metres, columns as `_LIMBS`. cadence: (n,) strides per second.
    curves: (n, 23, 6) complex, Fourier coefficients (harmonics 0..5) of the angles in degrees, rows as `_CHANNELS`.
    """

    identities: NDArray[np.int64]
    limbs: Array
    cadence: Array
    curves: NDArray[np.complex128]


@dataclass(frozen=True)
class Camera:
    """Azimuth from the walking direction (0 sees the face, 90 the left side), elevation: degrees. Distance: metres."""

    azimuth: float
    elevation: float
    distance: float


def _mean_curves() -> NDArray[np.complex128]:
    """(23, 6): value = real part of sum over k of c[k] * exp(i k phase)."""
    rows = []
    for name, right in _CHANNELS:
        row = np.zeros(HARMONICS + 1, complex)
        if name in _LEG:
            row[:] = np.fft.rfft(_LEG[name])[: HARMONICS + 1] / len(_LEG[name]) * np.r_[1, np.full(HARMONICS, 2)]
        else:
            mean, cos1, sin1, cos2, sin2 = (_SIDED | _AXIAL)[name]
            row[:3] = mean, complex(cos1, -sin1), complex(cos2, -sin2)
        # The right side does the same half a stride later.
        rows.append(row * (-1.0) ** (right * np.arange(HARMONICS + 1)))
    return np.stack(rows)


def _vary(curves: NDArray[np.complex128], normal: Array, posture: float, motion: float) -> NDArray[np.complex128]:
    """Curves (..., 23, 6) moved by standard normal numbers (..., 23, 13): means by the share `posture` of _SPREAD, all
    else by the share `motion`."""
    spread = np.array([_SPREAD[name] for name, _ in _CHANNELS]) * (posture, motion, motion, motion)  # (23, 4)
    two, order = len(_TWO), np.arange(1, HARMONICS + 1)
    left, right, own = normal[..., :two, :], normal[..., two : 2 * two, :], _ASYMMETRY
    # Half a stride turns the odd harmonics round: what both sides share must be the same curve, not the same numbers.
    turn = np.r_[1, 1, 1, np.tile((-1.0) ** order, 2)]
    right = (np.sqrt(1 - own**2) * left + own * right) * turn
    normal = np.concatenate((left, right, normal[..., 2 * two :, :]), axis=-2)
    mean, amplitude, shift = np.moveaxis(normal[..., :3] * spread[:, :3], -1, 0)[..., None]
    extra = normal[..., 3 : 3 + HARMONICS] + 1j * normal[..., 3 + HARMONICS :]
    moving = curves[..., 1:] * np.exp(amplitude + 1j * order * shift) + extra * spread[:, 3:] / order
    return np.concatenate((curves[..., :1] + mean, moving), axis=-1)


def make_walkers(identities: Sequence[int] | NDArray[np.int64], *, seed: int) -> Walkers:
    """People with these numbers (0..9999). Each depends on (seed, number) alone, not on who else is made.

    Raises UserError for a number that has no label of four digits.
    """
    numbers = np.asarray(identities, np.int64).reshape(-1)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < IDENTITIES:
        raise UserError(f"identity {numbers.min()}..{numbers.max()} asked for: use numbers from 0 to {IDENTITIES - 1}.")
    columns = 2 + len(_LIMBS)
    # Camera 0 does not exist: its stream belongs to the person.
    draws = [stream(seed, i).standard_normal(columns + len(_CHANNELS) * _WIDE) for i in numbers.tolist()]
    normal = np.array(draws).reshape(len(numbers), -1)
    ratio, spread = np.array(list(_LIMBS.values())).T
    height = 1.72 + 0.09 * np.clip(normal[:, :1], -2.5, 2.5)
    limbs = height * ratio * (1 + spread * np.clip(normal[:, 2:columns], -3, 3))
    bones = [list(_LIMBS).index(name) for name in ("thigh", "shank")]
    leg = limbs[:, bones].sum(1) / (1.72 * ratio[bones].sum())
    cadence = (_CADENCE[0] + _CADENCE[1] * normal[:, 1]) / np.sqrt(leg)  # a pendulum's
    curves = _vary(_mean_curves(), normal[:, columns:].reshape(len(numbers), len(_CHANNELS), _WIDE), 1.0, 1.0)
    return Walkers(numbers, limbs, cadence, curves)


def stream(seed: int, identity: int, camera: int = 0, sequence: int = 0) -> np.random.Generator:
    """The one source of chance: independent streams by number."""
    return np.random.default_rng([seed, identity, camera, sequence])


def _turn(degrees: Array, axis: str) -> Array:
    """Rotation matrices (t, 3, 3) about x (left side up), y (forwards) or z (to the left)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    turn = np.zeros((*cos.shape, 3, 3))
    turn[..., range(3), range(3)] = 1.0
    turn[..., first, first] = turn[..., second, second] = cos
    turn[..., second, first], turn[..., first, second] = sin, -sin
    return turn


def walk_3d(walkers: Walkers, index: int, frames: int, rng: np.random.Generator) -> Array:
    """One walk of walkers[index], along x with its middle at x = 0: (frames, 17, 3) metres, the ground at z = 0."""
    return walk_with_feet(walkers, index, frames, rng)[:, :17]


def walk_with_feet(walkers: Walkers, index: int, frames: int, rng: np.random.Generator) -> Array:
    """The same with left heel and toe, right heel and toe behind the joints: (frames, 21, 3)."""
    normal = rng.standard_normal((len(_CHANNELS), _WIDE))
    curves = _vary(walkers.curves[index], normal, _WALK_POSTURE, _WALK_MOTION)
    cadence = walkers.cadence[index] * np.exp(_WALK_CADENCE * rng.standard_normal())
    # Strides differ a little in duration (about 2 %): the phase wanders, smoothly.
    wander = np.convolve(rng.standard_normal(frames + 8), np.full(9, 0.02 / 3), "valid").cumsum()
    phase = 2 * np.pi * (rng.uniform() + cadence * np.arange(frames) / FRAME_RATE) + wander
    angle = (np.exp(1j * phase[:, None] * np.arange(HARMONICS + 1)) @ curves.T).real.T  # (23, t)
    return _pose(angle, dict(zip(_LIMBS, walkers.limbs[index], strict=True)))


def _pose(angle: Array, limb: dict[str, float]) -> Array:
    """Angles (23, t), limb lengths -> joints, then heel and toe of either side (t, 21, 3)."""
    frames, two = angle.shape[1], len(_TWO)
    left, right = (dict(zip(_TWO, rows, strict=True)) for rows in (angle[:two], angle[two : 2 * two]))
    axial = dict(zip(_AXIAL, angle[2 * two :], strict=True))
    pelvis = _turn(axial["pelvis_yaw"], "z") @ _turn(axial["pelvis_roll"], "x")
    trunk = _turn(axial["trunk_yaw"], "z") @ _turn(axial["trunk_roll"], "x") @ _turn(axial["trunk_pitch"], "y")
    head = _turn(axial["head_yaw"], "z") @ _turn(axial["head_roll"], "x") @ _turn(axial["head_pitch"], "y")
    neck = trunk @ (0.0, 0.0, limb["trunk"])
    middle = neck + head @ (0.01, 0.0, limb["neck"])
    joints, contact = np.zeros((frames, 17, 3)), []
    joints[:, 0] = middle + head @ (limb["nose"], 0.0, -0.01)
    for side, sign, name in ((0, 1.0, left), (1, -1.0, right)):
        joints[:, 1 + side] = middle + head @ (0.85 * limb["nose"], sign * limb["eye"], 0.02)
        joints[:, 3 + side] = middle + head @ (0.0, sign * limb["ear"], 0.0)
        joints[:, 5 + side] = shoulder = neck + trunk @ (0.0, sign * limb["shoulder"], 0.0)
        arm = _turn(axial["trunk_yaw"], "z") @ _turn(sign * name["arm_out"], "x") @ _turn(-name["shoulder"], "y")
        joints[:, 7 + side] = elbow = shoulder + arm @ (0.0, 0.0, -limb["upper_arm"])
        joints[:, 9 + side] = elbow + arm @ _turn(-_flexed(name["elbow"]), "y") @ (0.0, 0.0, -limb["forearm"])
        joints[:, 11 + side] = hip = pelvis @ (0.0, sign * limb["hip"], 0.0)
        thigh = _turn(sign * name["hip_out"], "x") @ _turn(-name["hip"], "y")
        joints[:, 13 + side] = knee = hip + thigh @ (0.0, 0.0, -limb["thigh"])
        shank = thigh @ _turn(_flexed(name["knee"]), "y")
        joints[:, 15 + side] = ankle = knee + shank @ (0.0, 0.0, -limb["shank"])
        foot = shank @ _turn(-name["ankle"], "y")
        contact += [ankle + foot @ (reach, 0.0, -limb["ankle"]) for reach in (-limb["heel"], limb["toe"])]
    feet = np.stack(contact, 1)
    return np.concatenate((joints, feet), 1) + _carry(feet, axial["sway"] / 100)[:, None]


def _flexed(degrees: Array) -> Array:
    """The angle itself where it is well above zero, a little above zero elsewhere: no joint bends the wrong way."""
    return _NEVER / 2 + (degrees + np.sqrt(degrees**2 + 16.0)) / 2


def _carry(contact: Array, sway: Array) -> Array:
    """Where the hips are (t, 3), from heel and toe of both feet relative to them (t, 4, 3): the lowest point is on the
    ground, and the foot that moves backwards stands still."""
    low = contact[..., 2].min(1, keepdims=True)
    weight = np.exp((low - contact[..., 2]) / 0.010)  # within a centimetre the weight is on both
    height = -(weight * contact[..., 2]).sum(1) / weight.sum(1)
    back = -np.diff(contact[..., 0].reshape(-1, 2, 2).mean(2), axis=0)  # (t - 1, 2) metres per frame
    stance = np.exp((back - back.max(1, keepdims=True)) / 0.010)
    forward = np.r_[0.0, ((stance * back).sum(1) / stance.sum(1)).cumsum()]
    return np.stack((forward - forward.mean(), sway, height), -1)


def make_camera(number: int, *, seed: int) -> Camera:
    """Camera `number` (from 1) of the scene: its place depends on (seed, number) alone."""
    rng = stream(seed, IDENTITIES, number)  # no person has this number
    # Steps of the golden angle: any number of cameras stands all round.
    azimuth = (stream(seed, IDENTITIES).uniform(0, 360) + 137.5 * number) % 360
    return Camera(azimuth, rng.uniform(3, 15), rng.uniform(8, 12))


def project(points: Array, camera: Camera, rng: np.random.Generator) -> tuple[Array, Array, float]:
    """Points (t, v, 3) metres as the camera, set up anew for every walk, sees them: x to the right and y down in pixels
    (t, v, 2), depth (t, v) metres, focal length in pixels."""
    azimuth, elevation = camera.azimuth + rng.normal(0, 6), camera.elevation + rng.normal(0, 1.5)
    # Camera axes: away from it (depth), to the right in the image, down in the image.
    turned = (points - (0.0, 0.0, 0.9)) @ _turn(np.float64(azimuth), "z") @ _turn(np.float64(elevation), "y").T
    depth = camera.distance * np.exp(rng.normal(0, 0.1)) - turned[..., 0]
    focal = rng.uniform(1200, 2000)
    return focal * np.stack((turned[..., 1], -turned[..., 2]), -1) / depth[..., None], depth, focal


# Noise of the estimator, joint by joint, in shares of the person's height in the image.
_NOISE = 0.007 * np.array([1, 0.9, 0.9, 1, 1, 1, 1, 1.2, 1.2, 1.7, 1.7, 1.1, 1.1, 1.2, 1.2, 1.6, 1.6])
_BIAS = 0.010  # what it gets wrong throughout a sequence (clothes, light), in the same measure
_PARTNER = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])


def observe(joints: Array, camera: Camera, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What an estimator reports: joints (t, 17, 3) metres -> x, y, confidence (t, 17, 3) in pixels of the crop, and the
    width and height of each frame's crop (t, 2). A lost joint is (0, 0, 0)."""
    frames, count = len(joints), len(_NOISE)
    image, depth, _ = project(joints, camera, rng)
    low, high = image.min(1), image.max(1)
    height = (high - low)[:, 1:]  # (t, 1)

    far = 1 / (1 + np.exp((depth[:, _PARTNER] - depth) / 0.05))  # 1 where the other side is in front
    spread = _NOISE * (0.8 + 0.7 * far) * height
    noise = rng.standard_normal((frames + 4, count, 2))
    slow = sum(noise[k : k + frames] for k in range(5)) / np.sqrt(5)
    image += spread[..., None] * np.sqrt(0.5) * (noise[2 : 2 + frames] + slow)
    image += _BIAS * height[..., None] * rng.standard_normal((count, 2))

    # The detector's box: a margin about the person, its edges trembling, in whole pixels.
    edge = height * (0.14 + 0.015 * rng.standard_normal((frames, 4)))
    corner = np.floor(low - edge[:, :2])
    size = np.ceil(high + edge[:, 2:] - corner).astype(np.int64)
    confidence = np.clip(0.90 - 0.08 * far + 0.09 * rng.standard_normal(far.shape), 0.2, 0.99)
    pose = np.concatenate((image - corner[:, None], confidence[..., None]), -1)
    lost = rng.uniform(size=far.shape) < (0.01 + 0.03 * far) * _NOISE / _NOISE[0]
    pose[lost] = 0.0
    return pose.astype(np.float32), size


def make_sequence(
    walkers: Walkers, index: int, camera: int, sequence: int, *, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Walk `sequence` of walkers[index] before `camera` (from 1): key points (t, 17, 3), crops (t, 2), t = 40..120."""
    rng = stream(seed, int(walkers.identities[index]), camera, sequence)
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    return observe(walk_3d(walkers, index, frames, rng), make_camera(camera, seed=seed), rng)


def _sequences(
    train: int, test: int, cameras: int, sequences: int, seed: int
) -> Iterator[tuple[Path, int, NDArray[np.float32], NDArray[np.int64]]]:
    """Every sequence of a data set: its folder under the root, number of its first frame, key points, crops.

    Raises UserError for sizes that give no data set."""
    if min(train, test, cameras, sequences) < 1 or train + test > IDENTITIES:
        raise UserError(
            f"train {train}, test {test}, cameras {cameras}, sequences {sequences} asked for: "
            f"all must be at least 1, and train + test at most {IDENTITIES}."
        )
    walkers = make_walkers(np.arange(train + test), seed=seed)
    for index in range(train + test):
        for camera in range(1, cameras + 1):
            for sequence in range(sequences):
                pose, size = make_sequence(walkers, index, camera, sequence, seed=seed)
                # Recordings start anywhere; many pass a power of ten, where names sort otherwise than numbers.
                start = 60 + 37 * (index + camera + sequence) % 1000
                yield Path(f"{index:04d}", f"camid{camera}_videoid{sequence + 1}", "seq0"), start, pose, size


def _write_partition(
    path: Path, train: int, test: int, cameras: int, sequences: int, seed: int, with_probes: bool = True
) -> Path:
    """TRAIN_SET and TEST_SET: labels, the first `train` identities and the others. PROBE_SET: one label-type-view for
    each test identity, its camera and walk drawn by (seed, identity)."""
    labels, probes = [f"{index:04d}" for index in range(train + test)], []
    for index in range(train, train + test):
        rng = stream(seed, index, 0, 1)
        probes.append(f"{labels[index]}-camid{rng.integers(cameras) + 1}_videoid{rng.integers(sequences) + 1}-seq0")
    lists = {"TRAIN_SET": labels[:train], "TEST_SET": labels[train:]} | ({"PROBE_SET": probes} if with_probes else {})
    write_bytes(path, json.dumps(lists, indent=1).encode() + b"\n")
    return path


def write_dataset(
    root: Path, *, train: int, test: int, cameras: int, sequences: int, seed: int, with_probes: bool = True
) -> Path:
    """Writes <root>/<id>/camid<c>_videoid<v>/seq0/seq0.pkl, float32 (t, 17, 3); then, beside the folder, its partition.

    Identities 0..train-1 are for training, the next `test` for testing. `sequences` counts the walks of a person before
    one camera; each is a recording of its own (v = 1, 2, ...). Without probes every test sequence is one in turn.
    Returns the path of the partition, <root>.json. Raises UserError for sizes that give no data set."""
    root = Path(root)
    for folder, _, pose, _ in _sequences(train, test, cameras, sequences, seed):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_pickle(root / folder / "seq0.pkl", pose)
    return _write_partition(root.with_name(root.name + ".json"), train, test, cameras, sequences, seed, with_probes)


def write_raw_gait3d(root: Path, *, train: int, test: int, cameras: int, sequences: int, seed: int) -> Path:
    """The data set of `write_dataset` in the raw layout of Gait3D, for its converter; returns the same partition.

    One line `width,height` and 17 times `x,y,confidence` in each
    <root>/2D_Poses/<id>/camid<c>_videoid<v>/seq0/human_crop_f<frame>.txt; it reads back as the same float32."""
    root = Path(root)
    for folder, start, pose, size in _sequences(train, test, cameras, sequences, seed):
        (root / "2D_Poses" / folder).mkdir(parents=True, exist_ok=True)
        for frame, (points, crop) in enumerate(zip(pose.reshape(len(pose), -1), size.tolist(), strict=True), start):
            text = ",".join([*map(str, crop), *map(str, points)])  # str of a float32: the shortest that reads back
            write_bytes(root / "2D_Poses" / folder / f"human_crop_f{frame}.txt", text.encode())
    return _write_partition(root.with_name(root.name + ".json"), train, test, cameras, sequences, seed)
