"""OpenGait's BaseModel in, our networks as models of it out.

One file in its checkout, `opengait/modeling/models/bpmt_ext_plugin.py`, calls `attach`; the rest is as in
`fastposegait.py`. What OpenGait does otherwise: the layout of poses; its losses are part of the model, so that their
weights would stand in a checkpoint; its triplet loss knows batch-all only (`configs.py` then names ours); transforms
are built once; a test batch holds as many sequences as there are GPUs.
"""

from __future__ import annotations

from torch import nn

from bpmt_ext.hosts.adapter import Adapter
from bpmt_ext.hosts.checkouts import HOSTS
from bpmt_ext.hosts.components import attach_to


class OpenGaitAdapter(Adapter):
    """Poses come as (n, t, c, v, 1), or (1, sum t, c, v, 1) with lengths (1, n)."""

    order = (0, 1, 3, 2)


def attach(base: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Register what is ours in the running host; our models by name, for the plugin's own namespace."""
    return attach_to(HOSTS["opengait"], OpenGaitAdapter, base)
