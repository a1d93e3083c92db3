"""The path of a JSON file that this package has written in, its mapping out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The mapping in a file, which must have these keys. UserError, naming the file, for anything else."""
    try:
        found = json.loads(read_regular(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        told = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as JSON ({told}); make it again, or delete it") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no mapping; make it again, or delete it")
    lacking = [key for key in keys if key not in found]
    if lacking:
        raise UserError(f"{path}: says nothing of {lacking[0]}; make it again, or delete it")
    return found
