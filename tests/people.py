"""A folder in; a tiny network of gait trained a few steps on made-up walkers, and walks in every format, out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from tiny import base, run

from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.synthetic import make_sequence, make_walkers, write_dataset

SEED = 3
WALKERS = make_walkers(np.arange(40), seed=SEED)


def walk(person: int, camera: int = 1, sequence: int = 0) -> np.ndarray:
    """(t, 17, 3) float32: one walk of a made-up person, 40 to 120 frames."""
    return make_sequence(WALKERS, person, camera, sequence, seed=SEED)[0]


def trained(folder: Path, *opts: str) -> Path:
    """Train the network of <folder>/net.yaml, in that folder, which must be the working directory."""
    write_dataset(folder / "data", train=6, test=4, cameras=2, sequences=2, seed=SEED)
    values = base(total_iter=4)
    values["model_cfg"] = {**values["model_cfg"], "model": "BPMT", "embedding_width": 8, "max_frames": 64}
    values["evaluator_cfg"]["sampler"]["frames_all_limit"] = 60
    (folder / "net.yaml").write_text(yaml.safe_dump(values))
    assert run("net", "trainer_cfg.save_name=net", *opts) == 0
    values["trainer_cfg"]["save_name"] = "net"
    (folder / "net.yaml").write_text(yaml.safe_dump(values))
    return folder / "net.yaml"


def saved(path: Path, pose: np.ndarray) -> Path:
    """A pickle of a walk."""
    write_pickle(path, pose)
    return path


def instances(people: list[np.ndarray]) -> list[dict]:
    """The people of a frame as MMPose writes them."""
    return [{"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist()} for p in people]


def _text(folder: Path, pose: np.ndarray) -> Path:
    folder.mkdir()
    for number, frame in enumerate(pose, 95):
        (folder / f"human_crop_f{number}.txt").write_text(",".join(map(str, [64, 128, *frame.ravel().tolist()])))
    return folder


def _frames(folder: Path, pose: np.ndarray, entry: Callable[[list[float]], object]) -> Path:
    folder.mkdir()
    for number, frame in enumerate(pose):
        (folder / f"a_{number}_keypoints.json").write_text(json.dumps(entry(frame.ravel().tolist())))
    return folder


def _json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def _npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


FORMATS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "pickle": lambda p, x: saved(p / "a.pkl", x),
    "npz": lambda p, x: _npz(p / "a.npz", pose=x, joint_format=np.array("coco17")),
    "gait3d text": lambda p, x: _text(p / "texts", x),
    "openpose": lambda p, x: _frames(p / "openpose", x, lambda f: {"people": [{"pose_keypoints_2d": f}]}),
    "alphapose": lambda p, x: _frames(p / "alphapose", x, lambda f: {"bodies": [{"joints": f}]}),
    "mmpose": lambda p, x: _json(p / "a.json", {"instance_info": [{"frame_id": i, "instances": instances([f])}
                                                                  for i, f in enumerate(x)]}),
    "coco results": lambda p, x: _json(p / "c.json", [{"image_id": i, "keypoints": f.ravel().tolist()}
                                                      for i, f in enumerate(x)]),
}  # fmt: skip
