"""A video and two model files in, the people of every frame {frame: [(v, 3), ...]} out, through rtmlib.

rtmlib and the OpenCV and onnxruntime it brings (extra `video`) are imported only here. Both models are files that the
user names; nothing is ever downloaded: rtmlib is only handed files that exist.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bpmt_ext.data.posejson import MAX_PEOPLE, Frames
from bpmt_ext.data.posetexts import MAX_FRAMES
from bpmt_ext.errors import UserError

DETECTOR_SIZE, ESTIMATOR_SIZE = (640, 640), (256, 192)  # rows, columns, where a model file takes any


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"videos are read through rtmlib, which cannot be imported ({error}); install the extra: "
                        "pip install 'bpmt_ext[video]', or give files of poses") from error  # fmt: skip


def _model(path: Path, option: str) -> Path:
    if not path.is_file() or path.suffix.lower() != ".onnx":
        what = "is no .onnx file" if path.exists() else "does not exist"
        raise UserError(f"{option} {path}: {what}; name the model file on this disk, nothing is downloaded")
    return path


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _size(session: Any, default: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) that a model takes; the default where its file leaves them open."""
    shape = session.get_inputs()[0].shape
    rows, columns = shape[-2:] if len(shape) == 4 else (None, None)
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) and min(rows, columns) > 0 else default


class PeopleInVideo:
    """Calls with the path of a video give the people of its frames. UserError: no rtmlib, no such model or video."""

    def __init__(self, detector: Path, estimator: Path) -> None:
        detector, estimator = _model(detector, "--detector"), _model(estimator, "--estimator")
        rtmlib, runtime = _module("rtmlib"), _module("onnxruntime")
        self.cv2 = _module("cv2")
        try:
            sizes = [_size(runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), default)
                     for path, default in ((detector, DETECTOR_SIZE), (estimator, ESTIMATOR_SIZE))]  # fmt: skip
            keys = {"backend": "onnxruntime", "device": "cpu"}
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it loads, and standard output is ours
                self.detector = rtmlib.YOLOX(str(detector), model_input_size=sizes[0], **keys)
                self.estimator = rtmlib.RTMPose(str(estimator), model_input_size=sizes[1][::-1], **keys)
        except Exception as error:  # onnxruntime has types of its own for a file that is damaged or no model
            raise UserError(f"--detector {detector}, --estimator {estimator}: cannot be opened "
                            f"({_first(error)}); give a YOLOX and an RTMPose file") from error

    def __call__(self, path: Path) -> Frames:
        return {str(number): self._people(image, path) for number, image in enumerate(self._images(path))}

    def _images(self, path: Path) -> Iterator[np.ndarray]:
        if not path.is_file():
            raise UserError(f"{path}: there is no such video; check the path")
        capture = self.cv2.VideoCapture(str(path))
        number = 0
        try:
            while capture.isOpened():
                there, image = capture.read()
                if not there:
                    break
                number += 1
                if number > MAX_FRAMES:
                    raise UserError(f"{path}: has more than {MAX_FRAMES} frames; cut it")
                yield image
        finally:
            capture.release()
        if not number:
            raise UserError(f"{path}: no frame can be read from it; give a video that OpenCV reads")

    def _people(self, image: np.ndarray, path: Path) -> list[np.ndarray]:
        """(v, 3) of everybody in a picture: x, y in pixels and a confidence in 0..1."""
        try:
            boxes = np.asarray(self.detector(image), dtype=np.float64).reshape(-1, 4)[:MAX_PEOPLE]
            if not len(boxes):
                return []  # the estimator would take the whole picture for a person
            points, scores = (np.asarray(x, dtype=np.float64) for x in self.estimator(image, bboxes=boxes.tolist()))
        except Exception as error:  # a model of another kind fails anywhere, with any type
            raise UserError(f"{path}: the models do not work on its frames ({_first(error)}); give "
                            "a YOLOX detector and an RTMPose estimator") from error
        if points.ndim != 3 or points.shape[2] != 2 or scores.shape != points.shape[:2]:
            raise UserError(f"{path}: the estimator gives {points.shape} and {scores.shape}, not (people, joints, 2) "
                            "and (people, joints); give an RTMPose file")  # fmt: skip
        return list(np.concatenate([points, np.clip(scores, 0, 1)[..., None]], axis=2))
