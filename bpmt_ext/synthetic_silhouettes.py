"""Identity numbers and a seed in, silhouettes of made-up walkers (t, 64, 64) uint8 out, as pickles.

The bodies of synthetic.py, seen by its cameras and filled: limbs as tapered capsules, trunk and coat by a width at each
height, the head as an ellipse. Every frame is aligned as public silhouettes are: the body fills the 64 rows, its median
column stands in the middle. Three conditions: nm (nothing special), bg (a bag) and cl (a coat). Nothing was recorded
from anybody; edges are clean, as no segmentation leaves them.

Widths are choices in round numbers of body heights, dressed (half the breadth of hips and chest 0.10; radius of a knee
0.038, of a wrist 0.020), not measurements. Letters: t frames, k points, w columns of the canvas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bpmt_ext.data.pickles import write_bytes, write_pickle
from bpmt_ext.errors import UserError
from bpmt_ext.synthetic import (
    FRAMES,
    IDENTITIES,
    Array,
    Walkers,
    make_camera,
    make_walkers,
    project,
    stream,
    walk_with_feet,
)

SIZE = 64  # rows and columns of a silhouette
CONDITIONS = ("nm", "bg", "cl")
CASIA_B = {"nm": 6, "bg": 2, "cl": 2}  # walks of each condition before one camera
MOST_WALKS, MOST_CAMERAS = 99, 99  # types have two digits, and further cameras would share a view's name
_CANVAS = 96  # columns drawn; of these 64 about the median are kept
_BUILD, _OWN = 0.12, 0.06  # log spread between people: of all widths together, of each piece

# Points beside the 21 of `walk_with_feet`, in this order.
_EXTRA = ("neck", "pelvis", "skull", "left_hand", "right_hand", "bag_top", "bag_end")
_NECK, _PELVIS, _SKULL, _HANDS, _BAG = 21, 22, 23, (24, 25), (26, 27)
_HEELS_TOES = (17, 18, 19, 20)
# Capsules: from, to, radius at either end in body heights; what a coat covers.
_LIMBS = (
    (_NECK, _SKULL, 0.036, 0.034, False),
    (5, 7, 0.033, 0.028, True), (7, 9, 0.028, 0.020, True), (9, 24, 0.020, 0.016, False),
    (6, 8, 0.033, 0.028, True), (8, 10, 0.028, 0.020, True), (10, 25, 0.020, 0.016, False),
    (11, 13, 0.060, 0.038, False), (13, 15, 0.038, 0.024, False),
    (12, 14, 0.060, 0.038, False), (14, 16, 0.038, 0.024, False),
    (15, 17, 0.023, 0.018, False), (15, 18, 0.023, 0.013, False), (17, 18, 0.018, 0.013, False),
    (16, 19, 0.023, 0.018, False), (16, 20, 0.023, 0.013, False), (19, 20, 0.018, 0.013, False),
)  # fmt: skip
_SHARED = (0, 1, 2, 3, 1, 2, 3, 4, 5, 4, 5, 6, 6, 6, 6, 6, 6)  # whose own width each has: both sides are alike
_HEAD = np.array([0.072, 0.048, 0.060])  # half axes: upwards, sideways, forwards
# The trunk: share of the way from the hips to the shoulders, half the breadth, half the depth.
_TRUNK = np.array([
    (-0.20, 0.075, 0.055), (-0.05, 0.103, 0.072), (0.15, 0.100, 0.070), (0.45, 0.090, 0.064), (0.75, 0.102, 0.074),
    (0.93, 0.122, 0.064), (1.05, 0.112, 0.052), (1.13, 0.072, 0.040), (1.22, 0.036, 0.034),
])  # fmt: skip
_HEM = np.array([0.118, 0.102])  # of a coat: half the breadth and half the depth at its lower end


@dataclass(frozen=True)
class Outfit:
    """What a person wears in one walk: how much a coat widens (1: none) and how far below the hips it ends (in trunk
    lengths); of a bag its two points relative to a joint or limb (metres) and its radius, or None."""

    coat: float = 1.0
    length: float = 0.0
    anchor: int = _PELVIS
    bag: Array | None = None  # (2, 3)
    radius: float = 0.0


def _stature(walkers: Walkers, index: int) -> float:
    """Body height in metres, from the trunk and the legs: columns 0, 6 and 7 of the limbs."""
    return float(walkers.limbs[index, [0, 6, 7]].sum() / (0.288 + 0.245 + 0.246))


def _outfit(condition: str, stature: float, rng: np.random.Generator) -> Outfit:
    """The coat or bag of a walk. A bag hangs on the back, from a shoulder or from a hand."""
    if condition == "cl":
        return Outfit(coat=rng.uniform(1.12, 1.35), length=rng.uniform(0.35, 0.95))
    if condition == "nm":
        return Outfit()
    kind, side, size = rng.integers(3), int(rng.integers(2)), rng.uniform(0.8, 1.2)
    out = 1.0 - 2.0 * side  # to the left for side 0
    anchor, points, radius = (
        (_NECK, ((-0.11, 0.0, -0.05), (-0.12, 0.0, -0.19)), 0.066),
        (_PELVIS, ((-0.02, 0.125 * out, 0.05), (-0.02, 0.135 * out, -0.06)), 0.056),
        (_HANDS[side], ((0.0, 0.0, -0.06), (0.0, 0.0, -0.13)), 0.058),
    )[kind]
    return Outfit(anchor=anchor, bag=stature * np.array(points), radius=stature * radius * size)


def _points(walk: Array, stature: float, lift: Array, outfit: Outfit) -> Array:
    """A walk (t, 21, 3) -> all points (t, 28, 3) metres. lift (4,): heels and toes above the sole."""
    walk = walk.copy()
    walk[:, _HEELS_TOES, 2] += lift
    neck, pelvis = walk[:, [5, 6]].mean(1), walk[:, [11, 12]].mean(1)
    ears = walk[:, [3, 4]].mean(1)
    skull = ears + 0.25 * (walk[:, 0] - ears)
    skull[:, 2] += 0.012 * stature
    fore = walk[:, [9, 10]] - walk[:, [7, 8]]
    hands = walk[:, [9, 10]] + 0.055 * stature * fore / np.linalg.norm(fore, axis=-1, keepdims=True)
    points = np.concatenate((walk, np.stack((neck, pelvis, skull), 1), hands), 1)
    bag = np.zeros((2, 3)) if outfit.bag is None else outfit.bag
    return np.concatenate((points, points[:, [outfit.anchor]] + bag), 1)


class _Canvas:
    """t pictures (t, 64, w) that shapes are drawn into, in their own pixels; coverage 0..1 with soft edges."""

    def __init__(self, frames: int) -> None:
        self.y = np.arange(SIZE, dtype=np.float32)[:, None]
        self.x = np.arange(_CANVAS, dtype=np.float32)
        self.picture = np.zeros((frames, SIZE, _CANVAS), np.float32)

    def _near(self, points: Array, reach: Array) -> tuple[Array, Array, Array]:
        """The rows and columns that a shape can touch in any frame, which is within reach (t, k) of points (t, k, 2):
        x and y of their pixels from the first point, (t, 1, w') and (t, h', 1), and that part of the pictures."""
        low = np.floor((points - reach[..., None]).min((0, 1))).astype(int).clip(0)
        high = np.ceil((points + reach[..., None]).max((0, 1))).astype(int).clip(-1) + 1
        rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
        x, y = points[:, 0].astype(np.float32).T[:, :, None, None]
        return self.x[columns] - x, self.y[rows] - y, self.picture[:, rows, columns]

    @staticmethod
    def _fill(picture: Array, outside: Array) -> None:
        """Add the shape whose border is this far (pixels, negative inside)."""
        np.maximum(picture, np.clip(0.5 - outside, 0, 1), out=picture)

    def capsule(self, ends: Array, radii: Array) -> None:
        """A limb between two points (t, 2, 2), radii (t, 2)."""
        x, y, picture = self._near(ends, radii + 1)
        bx, by = (ends[:, 1] - ends[:, 0]).astype(np.float32).T[:, :, None, None]
        along = np.clip((x * bx + y * by) / np.maximum(bx**2 + by**2, 1e-6), 0, 1)
        first, last = radii.astype(np.float32).T[:, :, None, None]
        self._fill(picture, np.hypot(x - along * bx, y - along * by) - first - along * (last - first))

    def ellipse(self, centre: Array, up: Array, half: Array) -> None:
        """An ellipse about a point (t, 2); up (t, 2) of length 1, half axes along it and across it (t, 2)."""
        x, y, picture = self._near(centre[:, None], half.max(1, keepdims=True) + 1)
        ux, uy = up.astype(np.float32).T[:, :, None, None]
        long, wide = half.astype(np.float32).T[:, :, None, None]
        reach = np.hypot((x * ux + y * uy) / long, (x * uy - y * ux) / wide)
        self._fill(picture, (reach - 1) * np.minimum(long, wide))

    def trunk(self, hips: Array, neck: Array, stations: Array, across: Array, size: Array) -> None:
        """The trunk between two points (t, 2). stations (s, 3): share of the way, half breadth, half depth (metres);
        across (t, 2): how much of the breadth is seen at hips and neck, 0..1; size (t,): pixels per metre."""
        bx, by = (neck - hips).astype(np.float32).T[:, :, None, None]
        length = np.hypot(bx, by)
        # no station is further from the hips than this, in trunk lengths or, sideways, in breadths
        reach = length[:, :, 0] * np.abs(stations[:, 0]).max() + size[:, None] * stations[:, 1:].max() + 1
        x, y, picture = self._near(hips[:, None], reach)
        along, aside = (x * bx + y * by) / length**2, np.abs(x * by - y * bx) / length
        breadth, depth = (np.interp(along, *stations[:, [0, column]].T) for column in (1, 2))
        low, high = across.astype(np.float32).T[:, :, None, None]
        seen = low + np.clip(along, 0, 1) * (high - low)
        half = size[:, None, None] * np.sqrt((breadth * seen) ** 2 + depth**2 * (1 - seen**2))
        beyond = np.maximum(stations[0, 0] - along, along - stations[-1, 0]) * length
        self._fill(picture, np.maximum(aside - half, beyond))


def draw(points: Array, image: Array, size: Array, radii: Array, stations: Array, head: Array) -> NDArray[np.uint8]:
    """The filled body, every frame 64 rows high and centred -> (t, 64, 64) uint8.

    points (t, 28, 3) metres, image (t, 28, 2) where they are seen (pixels), size (t, 28) pixels per metre there; radii
    (18, 2) of the capsules of `_LIMBS` and, last, of the bag (0: none); stations (s, 3) of the trunk; head (3,).
    """
    ends = np.array([limb[:2] for limb in _LIMBS] + [_BAG])
    thick = radii * size[:, ends]  # (t, 18, 2) pixels
    up = image[:, _SKULL] - image[:, _NECK]
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    breadth = points[:, [3, 5, 11]] - points[:, [4, 6, 12]]  # of head, shoulders, hips
    seen = (image[:, [3, 5, 11]] - image[:, [4, 6, 12]])[..., 0] / size[:, [3, 5, 11]]
    seen = np.clip(np.abs(seen) / np.linalg.norm(breadth, axis=-1), 0, 1)  # (t, 3)
    wide = np.sqrt((head[1] * seen[:, 0]) ** 2 + head[2] ** 2 * (1 - seen[:, 0] ** 2))
    half = np.stack((np.full(len(image), head[0]), wide), -1) * size[:, [_SKULL]]
    crown = image[:, _SKULL, 1] - np.hypot(half[:, 0] * up[:, 1], half[:, 1] * up[:, 0])
    drawn = radii[:, 0] > 0
    top = np.minimum(crown, (image[:, ends, 1] - thick)[:, drawn].min((1, 2)))
    step = ((image[:, ends, 1] + thick)[:, drawn].max((1, 2)) - top) / SIZE  # (t,) pixels of the camera in one of ours
    corner = np.stack((image[:, _PELVIS, 0] - step * (_CANVAS / 2), top), -1)
    image = (image - corner[:, None]) / step[:, None, None] - 0.5
    canvas = _Canvas(len(image))
    for number in np.flatnonzero(drawn):
        canvas.capsule(image[:, ends[number]], thick[:, number] / step[:, None])
    canvas.ellipse(image[:, _SKULL], up, half / step[:, None])
    canvas.trunk(image[:, _PELVIS], image[:, _NECK], stations, seen[:, [2, 1]], size[:, _PELVIS] / step)
    mass = canvas.picture.sum(1)  # (t, w)
    before, half_mass = mass.cumsum(1) - mass, mass.sum(1, keepdims=True) / 2
    middle = np.clip((half_mass - before) / np.maximum(mass, 1e-6), 0, 1).sum(1)  # the median, in columns from the left
    columns = np.rint(middle).astype(np.int64)[:, None] + np.arange(-SIZE // 2, SIZE // 2)
    columns = np.clip(columns, 0, _CANVAS - 1)
    kept = np.take_along_axis(canvas.picture, columns[:, None], 2)
    return np.rint(255 * kept).astype(np.uint8)


def make_silhouettes(
    walkers: Walkers, index: int, camera: int, sequence: int, *, seed: int, condition: str = "nm",
    frames: tuple[int, int] = FRAMES,
) -> NDArray[np.uint8]:
    """Walk `sequence` (from 0) of walkers[index] in a condition before `camera` (from 1): (t, 64, 64), 0..255.

    It depends on (seed, identity, camera, condition, sequence) alone; of nm, with the usual `frames` (shortest, longest
    clip), it is the walk whose key points `synthetic.make_sequence` gives. A person's build is the same in all walks,
    coat or bag the same before all cameras.
    """
    if condition not in CONDITIONS:
        raise UserError(f"condition {condition!r} asked for: use one of {', '.join(CONDITIONS)}.")
    identity, number = int(walkers.identities[index]), 100 * CONDITIONS.index(condition) + sequence
    stature = _stature(walkers, index)
    outfit = _outfit(condition, stature, stream(seed, identity, 0, 3 + number))  # 0 is the person, 1 the probe
    normal = np.clip(stream(seed, identity, 0, 2).standard_normal(11), -2.5, 2.5)
    own = stature * np.exp(_BUILD * normal[0] + _OWN * normal[1:])  # limbs, head, breadth and depth of the trunk
    limbs = np.array([limb[2:4] for limb in _LIMBS]) * own[list(_SHARED), None]
    limbs[[limb[4] for limb in _LIMBS]] *= outfit.coat
    head = _HEAD * np.sqrt(stature * own[7])  # heads differ less
    stations = _TRUNK * (1, *own[8:10] * outfit.coat)
    if outfit.length:
        stations = np.concatenate(([[-outfit.length, *_HEM * own[8:10] * outfit.coat]], stations[1:]))
    rng = stream(seed, identity, camera, number)
    walk = walk_with_feet(walkers, index, int(rng.integers(frames[0], frames[1] + 1)), rng)
    points = _points(walk, stature, limbs[[11, 12, 14, 15], 1], outfit)
    image, depth, focal = project(points, make_camera(camera, seed=seed), rng)
    radii = np.concatenate((limbs, [[outfit.radius, outfit.radius]]))
    return draw(points, image, focal / depth, radii, stations, head)


def view_name(camera: int, *, seed: int) -> str:
    """The azimuth of a camera in whole degrees, three digits: 000 sees the face, 090 the left side."""
    return f"{round(make_camera(camera, seed=seed).azimuth) % 360:03d}"


def write_silhouettes(
    root: Path, *, train: int, test: int, cameras: int, seed: int, sequences: Mapping[str, int] = CASIA_B,
    frames: tuple[int, int] = FRAMES,
) -> Path:
    """Writes <root>/<id>/<condition>-<nn>/<view>/<view>.pkl, uint8 (t, 64, 64), and then <root>/partition.json.

    Identities 0..train-1 are for training, the next `test` for testing. `sequences` counts a person's walks in each
    condition before one camera; with its default the types are CASIA-B's and its rule fits. Each walk is a recording of
    its own. Returns the path of the partition. Raises UserError for sizes that give no data set."""
    counts = {name: sequences.get(name, 0) for name in (*CONDITIONS, *sequences)}
    if (
        min(train, test, cameras, *frames) < 1 or train + test > IDENTITIES or cameras > MOST_CAMERAS
        or set(counts) != set(CONDITIONS) or not 0 <= min(counts.values()) <= max(counts.values()) <= MOST_WALKS
        or not any(counts.values()) or frames[0] > frames[1]
    ):  # fmt: skip
        raise UserError(
            f"train {train}, test {test}, cameras {cameras}, sequences {dict(sequences)}, frames {frames} asked for: "
            f"people, cameras and frames must be at least 1, train + test at most {IDENTITIES}, cameras at most "
            f"{MOST_CAMERAS}, and of {', '.join(CONDITIONS)} one at least must have walks, at most {MOST_WALKS}."
        )
    root = Path(root)
    walkers, views = make_walkers(np.arange(train + test), seed=seed), {}
    for camera in range(1, cameras + 1):
        views[camera] = view_name(camera, seed=seed)
    for index in range(train + test):
        for camera, view in views.items():
            for condition, sequence in ((name, k) for name, count in counts.items() for k in range(count)):
                folder = root / f"{index:04d}" / f"{condition}-{sequence + 1:02d}" / view
                folder.mkdir(parents=True, exist_ok=True)
                clip = make_silhouettes(
                    walkers, index, camera, sequence, seed=seed, condition=condition, frames=frames
                )
                write_pickle(folder / f"{view}.pkl", clip)
    labels = [f"{index:04d}" for index in range(train + test)]
    lists = {"TRAIN_SET": labels[:train], "TEST_SET": labels[train:]}
    write_bytes(root / "partition.json", json.dumps(lists, indent=1).encode() + b"\n")
    return root / "partition.json"
