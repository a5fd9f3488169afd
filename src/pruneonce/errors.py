"""Errors a user can act on. The command line prints them on one line, without a traceback."""


class PruneonceError(Exception):
    """The thing asked for could not be done. Says who, what was expected, what came, what to do. Exit code 1."""


class UsageError(PruneonceError):
    """The request itself is wrong: an unknown recipe key, a missing file, a task the model cannot do. Exit code 2."""


class OtherInputsError(UsageError):
    """The output folder holds a run of another recipe or other inputs; nothing is overwritten."""
