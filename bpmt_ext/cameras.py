"""A rule's name, a sequence's type and view in, the camera that saw it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

CAMERAS: Mapping[str, Callable[[str, str], str]] = MappingProxyType(
    {
        "type_prefix": lambda type_, view: type_.split("_", 1)[0],  # Gait3D: camid3_videoid2
        "view": lambda type_, view: view,
        "view_prefix": lambda type_, view: view.split("_", 1)[0],  # CCPG: camera, then more
    }
)
