"""A packed file on the Hugging Face Hub, by name: `hf://owner/name[@revision][/file]`.

The file is fetched once into the Hub's own cache, and found there afterwards without a network. Whoever may read a
private one is known to the Hub's library (`hf auth login`, or HF_TOKEN); no token is taken here.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from pruneonce.errors import PruneonceError, UsageError

DEFAULT_FILE = "model.pruneonce"  # as `pruneonce push` names what it packs
# One slash too: `Path` makes that of two, and the command line's arguments are paths.
_SCHEME = re.compile(r"hf:/{1,2}(?=[^/])")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REFERENCE = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^/@]+))?(?:/(?P<file>.+))?")


def on_hub(path: str | Path) -> bool:
    """Whether `path` names a file on the Hub, and none here."""
    return _SCHEME.match(str(path)) is not None


def local_path(path: str | Path) -> Path:
    """Where a file is on this machine; one on the Hub is fetched first.

    A revision is a branch, a tag or a commit; `refs%2Fpr%2F1` for one with slashes. UsageError for a name that cannot
    be one, PruneonceError, in one line, if there is no such file or no way to it.
    """
    if not on_hub(path):
        return Path(path)
    found = _REFERENCE.fullmatch(_SCHEME.sub("", str(path)))
    if found is None or ".." in str(path).split("/"):
        raise UsageError(f"'{path}' is not of the form hf://owner/name[@revision][/file]")
    repo, file = found["repo"], found["file"] or DEFAULT_FILE
    revision = unquote(found["revision"]) if found["revision"] else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its tries one by one; what they came to is said here
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:
        raise hub_error(f"hf://{repo}{f'@{revision}' if revision else ''}/{file}", error) from error


def hub_error(what: str, error: Exception) -> PruneonceError:
    """What the Hub's library raised, in one line that says what to do; other errors come back as they are."""
    from huggingface_hub import errors
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE and isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return PruneonceError(f"{what} is not in this machine's cache, and HF_HUB_OFFLINE is set: unset it once")
    if isinstance(error, errors.GatedRepoError):
        return PruneonceError(f"{what}: access must be asked for on the Hub's page of it first")
    if isinstance(error, errors.RepositoryNotFoundError):
        return PruneonceError(
            f"{what}: the Hub has none of that name, or not for you: `hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return PruneonceError(f"{what}: there is no such revision: name a branch, a tag or a commit")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return PruneonceError(f"{what}: there is no such file: name one as hf://owner/name/FILE")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        advice = ": `hf auth login`, or set HF_TOKEN" if status in (401, 403) else ""
        return PruneonceError(f"{what}: the Hub answered {status}{advice}")
    if isinstance(error, (errors.LocalEntryNotFoundError, OSError)) or type(error).__module__.startswith("httpx"):
        return PruneonceError(
            f"{what}: the Hub cannot be reached: is there a network? What is in the cache stays usable"
        )
    raise error
