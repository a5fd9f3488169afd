"""Models, configs and tokenizers by way of transformers: the one place that calls its `from_pretrained`.

A folder or Hub id is untrusted. Its `model_type` is looked up here before transformers sees it, and code that it may
bring along is never run. transformers is imported by the call that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pruneonce.errors import PruneonceError, UsageError, in_one_line
from pruneonce.files import check_safetensors_length, read_json, require_plain_name, require_unicode_name
from pruneonce.models import Family, family_of

# Any will do: ours, WordPiece's, byte-level BPE's, Unigram's.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")


def load_config(path: str | Path) -> Any:
    """A checkpoint's config; UsageError for what holds none, or is of a family that we do not know."""
    _check_there(path)
    from transformers import AutoConfig, PretrainedConfig

    try:
        values, _ = PretrainedConfig.get_config_dict(path)
    except (OSError, ValueError) as error:
        raise _not_loadable(path, error) from error
    if "model_type" not in values:
        raise UsageError(f"'{path}' is not a model that can be loaded: its config.json has no model_type")
    family_of(values["model_type"])
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # a value of the wrong kind ends in any of transformers' and huggingface_hub's errors
        raise _not_loadable(path, error) from error


def load_hub_model(auto_class: str, path: str | Path, **options: Any) -> Any:
    """A checkpoint as one of transformers' classes loads it, an `AutoModel…` or a family's own.

    options: for its `from_pretrained`. UsageError as of `load_config`; PruneonceError for weights that are cut off,
    outside the folder or of other shapes than its config says.
    """
    import transformers

    _require_head(auto_class, family_of(load_config(path).model_type))
    _check_indices(Path(path))
    for file in sorted(Path(path).glob("model*.safetensors")):
        check_safetensors_length(file)
    try:
        return getattr(transformers, auto_class).from_pretrained(path, trust_remote_code=False, **options)
    except (PruneonceError, MemoryError):
        raise
    except Exception as error:
        pickled = sorted(Path(path).glob("pytorch_model*.bin"))
        if not pickled or any(Path(path).glob("model*.safetensors")):
            raise _not_loadable(path, error) from error
        # torch reads pickles without running what is in them, and refuses what it does not know with all kinds of
        # errors.
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise PruneonceError(
            f"{pickled[0]} is no pickle of plain weights ({reason}): nothing in it was run; ask for the model as "
            "safetensors"
        ) from error


def require_whole_encoder(path: str | Path, family: Family, loading_info: Mapping[str, Any]) -> None:
    """UsageError if transformers has made up a part of the encoder that the checkpoint lacks, or has in another shape.

    loading_info: what `from_pretrained` tells with `output_loading_info`. A pooler may lack, as a head may.
    """
    made_up = {*loading_info["missing_keys"], *(name for name, *_ in loading_info["mismatched_keys"])}
    for name in sorted(made_up):
        is_pooler = family.pooler is not None and family.encoder_name(name).startswith(family.pooler)
        if family.part_of(name) != "heads" and not is_pooler:
            raise UsageError(f"{path} has no {name} of the shape that its config.json says: its weights are not whole")


def random_hub_model(auto_class: str, config: Any) -> Any:
    """A model of a config with random weights, as one of transformers' `AutoModel…` classes makes it."""
    import transformers

    _require_head(auto_class, family_of(config.model_type))
    return getattr(transformers, auto_class).from_config(config, trust_remote_code=False)


def config_for(family: Family, values: Mapping[str, Any]) -> Any:
    """transformers' config of a family, with these values and its defaults for all others."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family.model_type, **values)


def load_hub_tokenizer(path: str | Path) -> Any:
    """transformers' tokenizer of a folder or Hub id; UsageError if it has none."""
    _require_tokenizer_files(Path(path))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # the libraries' of any kind, plain Exception among them
        raise UsageError(f"no tokenizer found for '{path}': {in_one_line(error)}") from error


def converted_tokenizer(path: str | Path) -> Tokenizer:
    """The fast tokenizer that transformers makes of an older folder's `vocab.txt`, or of a Hub id's files."""
    _require_tokenizer_files(Path(path))
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{path} holds no tokenizer.json; converting an older tokenizer needs `pip install pruneonce[train]`"
        ) from error
    tokenizer: Tokenizer = load_hub_tokenizer(str(path)).backend_tokenizer
    return tokenizer


def quiet_transformers() -> None:
    """For commands: no loading bars or reports of missing heads from transformers; we say ourselves what matters."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _require_head(auto_class: str, family: Family) -> None:
    """UsageError for a head that transformers does not have of a family."""
    if auto_class.endswith("ForQuestionAnswering") and family.heads.spans is None:
        raise UsageError(
            f"transformers has no head for question answering of {family.model_type}: choose another model"
        )


def _check_there(path: str | Path) -> None:
    """UsageError for a path that leads nowhere and that cannot be a Hub id, which has one slash at most."""
    require_unicode_name(path)
    name = str(path)
    looks_like_a_path = name.count("/") > 1 or name.startswith((".", "/", "~", "runs/"))
    if looks_like_a_path and not Path(name).exists():
        made = Path(name).name.partition("-")[0]
        command = f": make it with `pruneonce {made}`" if made in ("teacher", "prune", "finetune", "quantize") else ""
        raise UsageError(f"'{name}' does not exist{command}")


def _require_tokenizer_files(folder: Path) -> None:
    """UsageError for a folder without one: transformers would make a vocabulary of five, to which no word is known."""
    _check_there(folder)
    if folder.is_dir() and not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise UsageError(f"{folder} has no tokenizer files: copy {VOCABULARY_FILES[0]} there")


def _check_indices(folder: Path) -> None:
    """PruneonceError if an index of a folder's weights, which transformers follows, names files outside of it."""
    for file in folder.glob("*.index.json"):
        index = read_json(file)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise PruneonceError(f"{file} is not an index of weights: it has no weight_map")
        for name in weight_map.values():
            require_plain_name(file, name)


def _not_loadable(path: str | Path, error: Exception) -> UsageError:
    reason = in_one_line(error)
    if "ignore_mismatched_sizes" in reason:  # the report that it speaks of is not shown
        reason = "its weights have other shapes than its config.json says"
    return UsageError(f"'{path}' is not a model folder or Hub id that can be loaded: {reason}")
