"""A file of `bpmt export` and walks, one .npy (t, joints, numbers) each, in; how far every two are apart out.

    python use_onnx.py gait.onnx anna.npy bert.npy door.npy

It needs numpy and onnxruntime alone. The file says itself which joints, numbers and distance are its own.
"""

import json
import sys

import numpy as np
import onnxruntime

net = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = net.get_modelmeta().custom_metadata_map
print(about["model"], about.get("joint_format", ""), json.loads(about.get("coordinates", "[]")), about["distance"])
walks = []
for path in sys.argv[2:]:
    try:
        with open(path, "rb") as file:
            walks.append(np.lib.format.read_array(file))
    except (OSError, ValueError):  # of a pickle, too, which could run code: it is not opened here
        print(f"{path}: is no .npy file; docs/export.md makes one of a converted .pkl in a line", file=sys.stderr)
        sys.exit(2)
length = np.array([len(walk) for walk in walks])
kind = np.uint8 if net.get_inputs()[0].type == "tensor(uint8)" else np.float32
batch = np.zeros((len(walks), length.max(), *walks[0].shape[1:]), kind)  # what stands behind a walk is not read
for row, walk in zip(batch, walks, strict=True):
    row[: len(walk)] = walk
(x,) = net.run(["embedding"], {net.get_inputs()[0].name: batch, "length": length})  # (n, d, parts)
if about["distance"] == "cos":
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = 1 - np.einsum("idp,jdp->ij", unit, unit) / x.shape[2]
else:
    apart = np.linalg.norm(x[:, None] - x[None], axis=2).mean(2)
print(np.array2string(apart, precision=4, suppress_small=True))
