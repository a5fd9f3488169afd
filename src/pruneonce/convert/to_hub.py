"""A finished run to a repository on the Hugging Face Hub: its folder, its card, and its packed file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pruneonce.convert.model_card import FILE_NAME as CARD
from pruneonce.convert.model_card import write_model_card
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.formats.model_folder import WEIGHTS_FILE, require_folder
from pruneonce.formats.record import read_provenance
from pruneonce.hub_files import DEFAULT_FILE, hub_error

# What resuming needs, and what training wrote for its own machine.
LEFT_OUT = ("checkpoint*", "*.tfevents*", "*.pt", "*.bin", "*.pkl", "*.lock", "*.log", "*.tmp")


@dataclass(frozen=True)
class Pushed:
    """What is on the Hub now."""

    repo: str
    files: dict[str, int]  # name there -> bytes
    commit: str  # "" if nothing was sent


def push(
    run: str | Path, repo: str, *, private: bool = False, revision: str | None = None, dry_run: bool = False
) -> Pushed:
    """Send a run's model folder to `repo` ("owner/name"), made if it is not there, in one commit.

    run: a model folder, or one that `compress` made. With it go the model card, and packed files: those that are there,
    else one that is packed for it, as "model.pruneonce", which `hf://owner/name` names. revision: a branch. dry_run:
    nothing is sent, and no network asked. The Hub's library knows who is asking (`hf auth login`, or HF_TOKEN).
    UsageError for what is no finished model, PruneonceError in one line for what the Hub refuses.
    """
    folder, packed = _parts(Path(run))
    if repo.count("/") != 1:
        raise UsageError(f"--repo is '{repo}': owner/name is expected")
    files = {name.as_posix(): folder / name for name in _to_send(folder)}
    with tempfile.TemporaryDirectory() as scratch:
        if CARD not in files and (record := read_provenance(folder)) is not None:
            write_model_card(folder, record)
            files[CARD] = folder / CARD
        if not packed:
            packed = [Path(scratch) / DEFAULT_FILE]
            export_packed(folder, packed[0])
        files |= {file.name: file for file in packed}
        sizes = {name: file.stat().st_size for name, file in sorted(files.items())}
        commit = "" if dry_run else _send(files, repo, private, revision)
    return Pushed(repo, sizes, commit)


def _parts(run: Path) -> tuple[Path, list[Path]]:
    """The model folder of a run, and the packed files that it has already."""
    folder = run / "model" if (run / "model" / WEIGHTS_FILE).is_file() else run
    require_folder(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise UsageError(f"{folder} has no {WEIGHTS_FILE}: push takes the folder of a finished run")
    return folder, sorted(run.glob("*.pruneonce"))


def _to_send(folder: Path) -> list[Path]:
    """Names of a model folder's files below it: none that is hidden, left out, or a link to elsewhere."""
    names = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
    return [
        name
        for name in names
        if not any(part.startswith(".") or any(Path(part).match(each) for each in LEFT_OUT) for part in name.parts)
    ]


def _send(files: dict[str, Path], repo: str, private: bool, revision: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()  # its tries one by one; what they came to is said here
    api = HfApi()
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        sent = api.create_commit(repo, added, commit_message="Add a sparse model", revision=revision)
    except Exception as error:
        raise hub_error(repo, error) from error
    return sent.oid
