"""Errors a user can act on. The command line prints them on one line, without a traceback."""


class PruneonceError(Exception):
    """The thing asked for could not be done. Says who, what was expected, what came, what to do. Exit code 1."""


class UsageError(PruneonceError):
    """The request itself is wrong: an unknown recipe key, a missing file, a task the model cannot do. Exit code 2."""


class OtherInputsError(UsageError):
    """The output folder holds a run of another recipe or other inputs; nothing is overwritten."""


def in_one_line(error: BaseException, most: int = 400) -> str:
    """What an error of another library says, in at most so many characters.

    Of several lines the first; the last where the first only leads to it. The error's type where it says nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (lines[-1] if lines[0].endswith(":") else lines[0])[:most]
