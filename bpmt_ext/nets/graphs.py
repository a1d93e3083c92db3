"""A skeleton (or a list of edges) in, its normalised hop-distance graph (max_hop + 1, v, v) out.

Level k of the graph joins the joints that are exactly k edges apart. GaitGraph1, GaitGraph2 and GPGait convolve over
it. Source: ST-GCN's distance partition (Yan et al., AAAI 2018) as specified in baselines.md section 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bpmt_ext.skeletons import Skeleton, get_skeleton

Edges = tuple[tuple[int, int], ...]


def edges_between(skeleton: Skeleton, joints: Sequence[int]) -> Edges:
    """The skeleton's edges with both ends among `joints`, renumbered by the joints' place in that list."""
    place = {joint: i for i, joint in enumerate(joints)}
    if len(place) != len(joints):
        raise ValueError(f"joints {list(joints)} name a joint twice")
    if place and not (0 <= min(place) and max(place) < skeleton.num_joints):
        raise ValueError(f"joints {list(joints)} are not all among the {skeleton.num_joints} of {skeleton.name}")
    return tuple((place[a], place[b]) for a, b in skeleton.edges if a in place and b in place)


# COCO without its head: joints 5..16, so that 0 and 1 are the shoulders.
COCO12_EDGES: Edges = edges_between(get_skeleton("coco17"), range(5, 17))


def hop_distance(edges: Sequence[tuple[int, int]], joints: int, max_hop: int) -> Tensor:
    """(v, v) int64: edges on the shortest way between two joints; max_hop + 1 where that is more than max_hop."""
    if max_hop < 0 or joints < 1:
        raise ValueError(f"a graph needs max_hop of at least 0 and one joint or more, got {max_hop} and {joints}")
    step = torch.eye(joints)
    for a, b in edges:
        step[a, b] = step[b, a] = 1
    reach, distance = torch.eye(joints), torch.full((joints, joints), max_hop + 1)
    for hop in range(max_hop + 1):
        distance[(reach > 0) & (distance > max_hop)] = hop
        reach = ((reach @ step) > 0).float()
    return distance


def graph_of_edges(edges: Sequence[tuple[int, int]], joints: int, max_hop: int) -> Tensor:
    """(max_hop + 1, v, v) float32: level k holds 1 / (joints within max_hop of column j) where i and j are k apart.

    The columns of the sum over the levels add up to 1.
    """
    distance = hop_distance(edges, joints, max_hop)
    near = (distance <= max_hop).double()
    normalised = near / near.sum(0)
    levels = [torch.where(distance == hop, normalised, 0.0) for hop in range(max_hop + 1)]
    return torch.stack(levels).float()


def adjacency(skeleton: Skeleton, max_hop: int) -> Tensor:
    """(max_hop + 1, v, v) float32, the graph of a whole skeleton; see `graph_of_edges`."""
    return graph_of_edges(skeleton.edges, skeleton.num_joints, max_hop)
