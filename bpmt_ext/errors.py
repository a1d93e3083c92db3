"""Bad input in, one clear sentence and exit status 2 out."""


class UserError(Exception):
    """A fault the user can mend: the message names the file, key or number at fault and what to do.

    Entry points print the message to standard error and exit with status 2; anything else that
    escapes is a defect of ours and keeps its traceback.
    """
