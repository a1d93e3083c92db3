"""Pooled parts (p, n, d) in, what is compared and what is classified (n, d', p) and (n, k, p) out: heads for people.

Shapes: n sequences, p parts, d width, d' embedding width, k classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.grouped import GroupedLinear


class PartHead(nn.Module):
    """Pooled parts (p, n, d) -> feature, embedding (n, d', p) and logits (n, k, p): an FC and a BNNeck per part.

    classifier: `cosine` (unit embedding times unit class vectors, to be scaled in the loss) or `linear` (Luo et al.,
    "Bag of tricks ... person re-identification", CVPRW 2019, for the BNNeck).
    """

    def __init__(self, *, parts: int, inputs: int, outputs: int, classes: int, classifier: str) -> None:
        super().__init__()
        if classifier not in ("cosine", "linear"):
            raise ValueError(f"classifier must be cosine or linear, not {classifier!r}")
        self.fc = GroupedLinear(groups=parts, inputs=inputs, outputs=outputs)
        self.bn = nn.BatchNorm1d(outputs * parts)
        weight = nn.init.xavier_uniform_(torch.empty(parts * classes, outputs)) if classes else None
        self.classes = nn.Parameter(weight.reshape(parts, classes, outputs)) if classes else None
        self.cosine = classifier == "cosine"

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        feature = self.fc(pooled).permute(1, 2, 0)  # (n, d', p)
        embedding = self.bn(feature.flatten(1)).view_as(feature)
        out = {"feature": feature, "embedding": embedding}
        if self.classes is not None:
            x, w = embedding.permute(2, 0, 1), self.classes
            if self.cosine:
                x, w = F.normalize(x, dim=-1), F.normalize(w, dim=-1)
            out["logits"] = torch.bmm(x, w.transpose(1, 2)).permute(1, 2, 0)  # (n, k, p)
        return out


class ConcatHead(nn.Module):
    """Pooled parts (p, n, d) -> embedding (n, 5 d, 1) and logits (n, k, 1): the thesis's layout, no neck."""

    def __init__(self, *, parts: int, inputs: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(parts * inputs, classes) if classes else None

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        joined = pooled.transpose(0, 1).flatten(1)  # (n, 5 d), in part order
        out = {"feature": joined[..., None], "embedding": joined[..., None]}
        if self.classifier is not None:
            out["logits"] = self.classifier(joined)[..., None]
        return out
