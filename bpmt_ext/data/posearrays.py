"""Array files (npy, npz, pickle) in, a pose sequence (t, v, c) out; nothing in them is executed.

A header is compared with the bytes that are there before anything is allocated, object arrays are refused, and what
is doubtful about a sequence without being wrong is noted for the report.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from bpmt_ext.data.pickles import read_pickle
from bpmt_ext.data.posetexts import MAX_FRAMES, Raw
from bpmt_ext.errors import UserError
from bpmt_ext.regular import open_regular

ARRAY_BYTES = 1 << 30  # of one array
_HEADER_BYTES = 1 << 16
_MEMBERS = 100_000


def _read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, in Fortran's order, dtype) of a .npy stream."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format")
        return read(file)
    except Exception as error:  # a damaged header can fail in any step of the decoding, with any type
        raise UserError(f"{where}: is no whole .npy array ({str(error)[:100]}); write it again.") from None


def _read_npy(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """The array of a .npy stream of `size` bytes."""
    shape, fortran, dtype = _read_header(file, where)
    if dtype.hasobject or dtype.kind not in "biufU" or not dtype.itemsize:
        raise UserError(f"{where}: holds an array of dtype {str(dtype)[:40]}; only numbers are read.")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed > ARRAY_BYTES:
        raise UserError(f"{where}: claims {claimed >> 20} MiB, one array may have {ARRAY_BYTES >> 20}; split it.")
    if claimed != there or any(type(size) is not int or size < 0 for size in shape):
        raise UserError(f"{where}: claims an array of shape {shape}, {claimed} bytes, but {there} follow; it is "
                        "damaged.")  # fmt: skip
    data = file.read(claimed)
    if len(data) != claimed:
        raise UserError(f"{where}: ends after {len(data)} of {claimed} bytes; it is cut off.")
    try:
        return np.ndarray(shape, dtype, buffer=data, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:  # more axes than numpy has, or sizes whose product with 0 is 0
        raise UserError(f"{where}: claims an array of shape {str(shape)[:60]} ({error}); it is damaged.") from None


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file; UserError if it is missing, damaged, too large or holds objects."""
    try:
        with open_regular(path) as file:
            return _read_npy(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name; UserError as `read_npy`, and for members whose names point outside.

    Together they may hold ARRAY_BYTES, however small the file is.
    """
    arrays, total = {}, 0
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS:
                raise UserError(f"{path}: has {len(members)} members, more than {_MEMBERS}.")
            for member in members:
                where = f"{path}, member {member.filename[:60]!r}"
                parts = PurePosixPath(member.filename.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts or ":" in member.filename:
                    raise UserError(f"{where}: the name points outside the archive; it is refused.")
                if member.is_dir() or parts.suffix != ".npy":
                    raise UserError(f"{where}: is no array; a .npz holds .npy members only.")
                total += member.file_size
                if total > ARRAY_BYTES + _HEADER_BYTES:
                    raise UserError(f"{where}: the arrays take more than {ARRAY_BYTES >> 20} MiB; split the file.")
                with archive.open(member) as stream:
                    arrays[parts.as_posix().removesuffix(".npy")] = _read_npy(stream, member.file_size, where)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    except UserError:
        raise
    except Exception as error:  # as above, and the decompressors have types of their own
        raise UserError(f"{path}: is no whole .npz file ({str(error)[:100]}); write or download it again.") from None
    return arrays


def as_pose(value: Any, where: str, joints: int | None = None) -> np.ndarray:
    """(t, v, c) from what a file held: an array of that shape, rows of v*c numbers, or a list with a frame each.

    joints: the v it must have; needed for rows. Raises UserError, naming `where` and the shapes.
    """
    if isinstance(value, (list, tuple)) and value:
        frames = _plain(value)
        if any(frame is None or frame.dtype.kind not in "biuf" or frame.shape != frames[0].shape for frame in frames):
            raise UserError(f"{where}: is a list whose entries are not all frames of one shape.")
        value = np.stack(frames)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise UserError(f"{where}: holds {found}, not a sequence of poses (frames, joints, channels).")
    if value.ndim == 2 and joints and value.shape[1] in (2 * joints, 3 * joints):
        value = value.reshape(len(value), joints, -1)
    if value.ndim != 3 or value.shape[2] not in (2, 3, 4) or (joints and value.shape[1] != joints):
        raise UserError(f"{where}: has the shape {value.shape}, expected (frames, {joints or 'joints'}, 2 to 4).")
    if len(value) > MAX_FRAMES:
        raise UserError(f"{where}: has {len(value)} frames, more than the {MAX_FRAMES} of one sequence; split it.")
    return value


def _plain(value: Any) -> list[np.ndarray | None]:
    """The entries as arrays; None for those that are ragged."""
    entries: list[np.ndarray | None] = []
    for entry in value:
        try:
            entries.append(np.asarray(entry))
        except (ValueError, OverflowError):
            entries.append(None)
    return entries


def with_confidence(pose: np.ndarray, coordinates: int = 2) -> tuple[np.ndarray, dict[str, int]]:
    """(t, v, coordinates + 1) and how many frames got a confidence of 1 because the file has none."""
    if pose.shape[2] > coordinates:
        return pose, {}
    facts = {"no confidence in the file, set to 1": len(pose)}
    return np.concatenate([pose, np.ones_like(pose[..., :1])], axis=2), facts


def doubts(pose: np.ndarray) -> dict[str, int]:
    """What to look at in 2D poses (t, v, 3) in pixels: in how many frames each doubt arises."""
    if not len(pose):
        return {}
    with np.errstate(invalid="ignore"):
        places, confidence = np.nan_to_num(pose[..., :2], posinf=0, neginf=0), pose[..., 2]
        seen = np.where(confidence[..., None] > 0, places, np.nan)
        some = (confidence > 0).any(axis=1)
        near = some & (np.abs(places) <= 2).all(axis=(1, 2))
        extent = np.zeros((len(pose), 2))
        extent[some] = np.nanmax(seen[some], axis=1) - np.nanmin(seen[some], axis=1)
        return {
            "no joint has a confidence above 0": int((~some).sum()),
            "confidence outside 0 to 1": int(((confidence < 0) | (confidence > 1)).any(axis=1).sum()),
            "coordinates are not in pixels (all within -2 to 2)": int(near.sum()),
            "wider than high (x and y may be exchanged)": int((extent[:, 0] > extent[:, 1]).sum()),
        }


def read_pose_pickle(path: Path, joints: int) -> Raw:
    """A pickle of the hosts' kind as (t, joints, 3), with what is doubtful about it; refused with the reason if not."""
    empty = np.empty((0, joints, 3))
    try:
        pose = as_pose(read_pickle(path), str(path), joints)
    except UserError as error:
        return Raw(empty, faults=[str(error)], refused="not a pickle of poses")
    if pose.shape[2] > 3:
        faults = [f"{path}: has {pose.shape[2]} numbers per joint"]
        return Raw(empty, faults=faults, refused="more than x, y, confidence")
    pose, facts = with_confidence(pose)
    return Raw(pose, facts=facts | doubts(pose))
