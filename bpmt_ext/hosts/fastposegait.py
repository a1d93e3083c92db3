"""FastPoseGait's BaseModel in, our networks as models of it out.

One file in its checkout, `fastposegait/modeling/models/bpmt_ext_plugin.py`, calls `attach`. FastPoseGait then finds our
networks among its models, `Bpmt<Name>` among its transforms and losses and our protocols among its evaluators; configs
for it come from `bpmt link`. Its transforms are built anew for every batch, its losses are no part of the model.
"""

from __future__ import annotations

from torch import nn

from bpmt_ext.hosts.adapter import Adapter
from bpmt_ext.hosts.checkouts import HOSTS
from bpmt_ext.hosts.components import attach_to


class FastPoseGaitAdapter(Adapter):
    """Poses come as (n, c, t, v, 1), or (1, c, sum t, v, 1) with lengths (1, n)."""

    order = (0, 2, 3, 1)


def attach(base: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Register what is ours in the running host; our models by name, for the plugin's own namespace."""
    return attach_to(HOSTS["fastposegait"], FastPoseGaitAdapter, base)
