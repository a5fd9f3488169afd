"""Whether a model folder is one that the engine runs, said before any of its weights are read."""

from __future__ import annotations

from pathlib import Path

from pruneonce.errors import UsageError
from pruneonce.files import read_json
from pruneonce.formats.safetensors_file import open_container
from pruneonce.models import Family
from pruneonce.models.tokenizer import load_tokenizer


def require_runnable(folder: Path, family: Family) -> None:
    """UsageError, in one line, for a folder that the engine would not run."""
    if (obstacle := obstacle_of(folder, family)) is not None:
        raise UsageError(f"{folder}: {obstacle}")


def obstacle_of(folder: Path, family: Family) -> str | None:
    """Why the engine would not run the folder's model; None: it would. Of weights only the headers are read."""
    config = read_json(folder / "config.json")
    try:
        family.encoder_plan(config)
        family.task_of(config)
        tokenizer = load_tokenizer(folder)
    except (ValueError, UsageError) as error:
        return str(error)
    rows = _rows_of_words(folder, family)
    if rows is None:
        return f"its weights have no {family.embeddings.words}.weight"
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        return f"its tokenizer has tokens up to {largest:,}, its table of words {rows:,} rows: they are of two models"
    return None


def _rows_of_words(folder: Path, family: Family) -> int | None:
    wanted = f"{family.embeddings.words}.weight"
    for file in sorted(folder.glob("model*.safetensors")):
        for name, entry in open_container(file).entries.items():
            if any(family.encoder_name(each) == wanted for each in family.names_of_stored(name)) and entry.shape:
                return entry.shape[0]
    return None
