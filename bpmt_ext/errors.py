"""Bad input in, one clear sentence and exit status 2 out."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: no room, or none for this user or this file


class UserError(Exception):
    """A fault the user can mend: the message names the file, key or number at fault and what to do.

    Entry points print the message to standard error and exit with status 2; anything else that
    escapes is a defect of ours and keeps its traceback.
    """


def printable(text: str) -> str:
    """The text as one line for a screen: what is not printable as `\\x1b`, so that no name in a file steers it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def survive_names(*streams: object) -> None:
    """Let these text streams write names of files that are no text of their encoding, escaped, rather than fail."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
