"""FastPoseGait's command line in, a training or test run on the embedded engine out.

    python fastposegait/main.py --cfgs configs/bpmt/bpmt_gait3d.yaml --phase train
    torchrun --nproc_per_node 4 fastposegait/main.py --cfgs configs/bpmt/bpmt_gait3d.yaml --phase test
"""

import sys
from pathlib import Path

# Python puts this file's folder on the path, not the checkout it lies in; without installation that is needed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bpmt_ext.cli import host_main  # noqa: E402

if __name__ == "__main__":
    sys.exit(host_main(prog="fastposegait/main.py"))
