"""A checkout and a config of it in; what the host makes of the test set, embeddings and figures, in an .npz file out.

    python tests/host_embeddings.py CHECKOUT CONFIG OUT        run by test_agreement.py, in a process of its own
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from host_agreement import enter  # noqa: E402


def main(checkout: str, config: str, out: str) -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    host = enter(Path(checkout))
    cfgs = host.module("utils").config_loader(config)
    model = getattr(host.module("modeling.models"), cfgs["model_cfg"]["model"])(cfgs, False)
    with torch.no_grad():
        embeddings = model.inference(0)["embeddings"]
    listed = model.test_loader.dataset
    names = ["-".join(row) for row in zip(listed.label_list, listed.types_list, listed.views_list, strict=True)]
    figures = type(model).run_test(model)
    scores = {f"score {name.rpartition('/')[2]}": float(value) for name, value in figures.items()}
    np.savez(out, embeddings=embeddings, names=np.array(names), **scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
