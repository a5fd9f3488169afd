"""Whether a model folder is one that the engine runs, said before any of its weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.files import check_safetensors_length, read_json
from pruneonce.formats.safetensors_file import open_container
from pruneonce.models import Family
from pruneonce.models.tokenizer import load_tokenizer


def require_runnable(folder: Path, family: Family) -> None:
    """UsageError, in one line, for a folder that the engine would not run."""
    if (obstacle := obstacle_of(folder, family)) is not None:
        raise UsageError(f"{folder}: {obstacle}")


def obstacle_of(folder: Path, family: Family) -> str | None:
    """Why the engine would not run the folder's model; None: it would. Of weights only the headers are read."""
    shapes = _shapes(folder, family)
    try:
        config = config_as_served(folder, family)
        family.encoder_plan(config)
        head = family.head_weight(family.task_of(config))
        tokenizer = load_tokenizer(folder)
    except (ValueError, UsageError) as error:
        return str(error)
    if head is not None and head not in shapes:
        return f"config.json promises {str(config['architectures'])[:60]}, its weights have no {head}"
    words = shapes.get(f"{family.embeddings.words}.weight")
    rows = words[0] if words else None
    if rows is None:
        return f"its weights have no {family.embeddings.words}.weight"
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        return f"its tokenizer has tokens up to {largest:,}, its table of words {rows:,} rows: they are of two models"
    return None


def config_as_served(folder: Path, family: Family) -> dict[str, Any]:
    """config.json; with the bare encoder's class where a folder of vectors names a head that its weights have not.

    Those of sentence-transformers often keep the class that they were pre-trained as. ValueError as of `task_of`.
    """
    config: dict[str, Any] = read_json(folder / "config.json")
    head = family.head_weight(family.task_of(config))
    if head is None or not (folder / "modules.json").is_file() or head in _shapes(folder, family):
        return config
    return config | {"architectures": [str(config["architectures"][0]).partition("For")[0] + "Model"]}


def _shapes(folder: Path, family: Family) -> dict[str, tuple[int, ...]]:
    """Shapes of the stored tensors, by their names within the encoder or its head."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        check_safetensors_length(file)
        for name, entry in open_container(file).entries.items():
            found |= {family.encoder_name(each): tuple(entry.shape) for each in family.names_of_stored(name)}
    return found
