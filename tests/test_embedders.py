"""The input streams of TLCA: joints, bones and the lines through them, against formulas written out."""

from __future__ import annotations

import pytest
import torch
from bodynets import COCO, lengths
from conftest import walking
from torch import Tensor

from bpmt_ext.nets.embedders import BodyStreams, line_of_bones


def test_streams_of_bones() -> None:
    pose, mask = walking(2, 6), lengths(6, 4, frames=6)

    def read(*streams: str) -> Tensor:
        return BodyStreams(skeleton=COCO, streams=streams, standardise="none")(pose, mask)

    joint = pose[..., :2]
    bone = joint - joint[:, :, list(COCO.parents)]
    torch.testing.assert_close(read("joint"), joint)
    torch.testing.assert_close(read("bone"), bone)
    torch.testing.assert_close(read("bone", "joint"), torch.cat([joint, bone], -1))
    line = read("line", "joint", "confidence")
    torch.testing.assert_close(line, torch.cat([joint, read("line"), pose[..., 2:]], -1))
    slope, intercept = read("line")[0, 2, 9]  # left forearm
    a, b = joint[0, 2, 9], joint[0, 2, 7]
    torch.testing.assert_close(a[1], slope * a[0] + intercept)
    torch.testing.assert_close(b[1], slope * b[0] + intercept)


@pytest.mark.parametrize(("end", "start", "slope", "intercept"), [
    ((2.0, 3.0), (1.0, 1.0), 2.0, -1.0),
    ((1.0, 1.0), (2.0, 3.0), 2.0, -1.0),  # the same line to the left: the original says -10 and 1000
    ((1.0, 1.0), (2.0, 3.5), 2.5, -1.5),
    ((3.0, 5.0), (3.0, 1.0), 10.0, -1000.0),
    ((3.0, 1.0), (3.0, 5.0), -10.0, 1000.0),
    ((3.0, 5.0), (3.0, 5.0), 0.0, 5.0),
])  # fmt: skip
def test_the_line_of_a_bone_keeps_its_direction(
    end: tuple[float, float], start: tuple[float, float], slope: float, intercept: float
) -> None:
    found = line_of_bones(torch.tensor(end), torch.tensor(start))
    torch.testing.assert_close(found, torch.tensor([slope, intercept]), atol=1e-4, rtol=1e-4)
