"""The words of a command line in, their meaning out, or usage and a fault in printable letters."""

from __future__ import annotations

import argparse
from typing import NoReturn

from bpmt_ext.errors import printable


class Parser(argparse.ArgumentParser):
    """A word may be the name of somebody's file, which a shell has put there: none may steer the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))
