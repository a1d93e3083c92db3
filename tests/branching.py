"""Files of the package in, every fault they can make out; and which of them were made while something ran."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from bpmt_ext import config, errors
from bpmt_ext.data import pickles, posejson

PACKAGE = Path(errors.__file__).parent
KINDS = (errors.UserError, posejson.MalformedError, pickles._RefusedError)
Site = tuple[str, int]
Act = Callable[[Path], object]  # what is refused in an empty folder


def sites(files: Iterable[str]) -> dict[Site, str]:
    """(file, line) of every fault that is made in these files, and how its message begins.

    In what checks a config a ValueError is one too: pydantic takes it, and it becomes a sentence.
    """
    found = {}
    for name in files:
        raised = {kind.__name__ for kind in KINDS} | ({"ValueError"} if name.startswith("config") else set())
        for node in ast.walk(ast.parse((PACKAGE / name).read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in raised:
                found[name, node.lineno] = " ".join(ast.unparse(node).split())[:110]
    return found


@contextmanager
def reaching() -> Iterator[set[Site]]:
    """The places from which faults come in here, as they come."""
    seen: set[Site] = set()

    def place(file: str, line: int) -> None:
        if Path(file).is_relative_to(PACKAGE):
            seen.add((Path(file).relative_to(PACKAGE).as_posix(), line))

    def watched(before: Callable[..., None]) -> Callable[..., None]:
        def made(self: Exception, *args: object) -> None:
            frame = sys._getframe(1)
            place(frame.f_code.co_filename, frame.f_lineno)
            before(self, *args)

        return made

    whole = config.sentences

    def sentences(error: config.ValidationError, *args: object) -> list[str]:
        for fault in error.errors(include_url=False):
            cause = fault.get("ctx", {}).get("error")
            trace = cause.__traceback__ if isinstance(cause, ValueError) else None
            while trace is not None:
                place(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
                trace = trace.tb_next
        return whole(error, *args)

    befores = {kind: kind.__init__ for kind in KINDS}
    with patch.object(config, "sentences", sentences):
        for kind, before in befores.items():
            kind.__init__ = watched(before)
        try:
            yield seen
        finally:
            for kind, before in befores.items():
                kind.__init__ = before


def unreached(files: Iterable[str], seen: set[Site]) -> str:
    """A line for each fault of these files that is not among those seen."""
    left = {site: text for site, text in sites(files).items() if site not in seen}
    return "\n".join(f"{name}:{line}: {text}" for (name, line), text in left.items())


def told(cases: dict[str, tuple[Act, str]], folder: Path) -> Iterator[str]:
    """The cases, each with a part of what is to be said, that are taken or told otherwise."""
    for number, (name, (act, said)) in enumerate(cases.items()):
        (folder / f"{number}").mkdir()
        try:
            act(folder / f"{number}")
        except errors.UserError as error:
            if said not in str(error):
                yield f"{name}: {error}"
        else:
            yield f"{name}: is taken"


def check(cases: dict[str, tuple[Act, str]], files: Iterable[str], folder: Path) -> None:
    """Every case is refused with its words, and every fault of these files is among them."""
    with reaching() as seen:
        wrong = [*told(cases, folder)]
    left = unreached(files, seen)
    assert not wrong and not left, "\n".join([*wrong, left])
