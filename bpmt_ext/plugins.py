"""Python files of the user's own in, their networks and transforms in the tables of this package out.

`--plugin FILE` names such a file on the command line, never a config: a config from somewhere else runs no code. The
file calls `bpmt_ext.registry.add_method` and `bpmt_ext.data.transforms.add_transform`; docs/extending.md shows how.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from bpmt_ext.errors import UserError
from bpmt_ext.regular import at_home


def load_plugins(files: Sequence[Path | str]) -> None:
    """Run each file once, as the module of its name. UserError for one that is missing, fails or has a taken name."""
    for path in map(at_home, files):
        if not path.is_file() or path.suffix != ".py":
            raise UserError(f"--plugin {path}: is no Python file; name the .py file that registers your own parts")
        name, known = path.stem, sys.modules.get(path.stem)
        if known is not None:
            if getattr(known, "__file__", None) == str(path.resolve()):
                continue
            raise UserError(f"--plugin {path}: there is a module {name!r} already; give the file another name")
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except UserError as error:
            del sys.modules[name]
            raise UserError(f"--plugin {path}: {error}") from error
        except (Exception, SystemExit) as error:  # the file is the user's: any fault in it is told with its line
            del sys.modules[name]
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path.resolve())]
            line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else 0)
            where = f", line {line}" if line else ""
            raise UserError(f"--plugin {path}{where}: {type(error).__name__}: {error}") from error
