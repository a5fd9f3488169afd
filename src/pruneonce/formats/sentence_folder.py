"""What sentence-transformers keeps beside a model: `modules.json`, and a folder per module. Read, and written.

Any of it may be a stranger's: names lead to no other folder, no class is imported, and a module that we do not compute
is an error that names it, since leaving it out would give other vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json, write_bytes, write_json
from pruneonce.formats.safetensors_file import open_container
from pruneonce.formats.stored_tensors import FLOAT_TYPES, Array, decode_floats
from pruneonce.models.sentence import (
    POOLINGS,
    EmbeddingPlan,
    Pooling,
    RankingPlan,
    SentencePlan,
    is_projection_name,
    plan_of,
)

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
POOLING_FOLDER = "1_Pooling"
# Of the Transformer module; older releases named it after the family.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_distilbert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)
MODULE_FILES = ("config.json", "model.safetensors")
NOTHING_TO_COMPUTE = ("Dropout",)  # in training alone

# How its first releases said which pooling there is: a switch for each.
_SWITCHES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_NONLINEARITIES = {
    "torch.nn.modules.linear.Identity": "none",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
}
_ACTIVATIONS = {"torch.nn.modules.linear.Identity": "none", "torch.nn.modules.activation.Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class SentenceFolder:
    """What a model folder says of its vectors or scores."""

    plan: SentencePlan
    lower_case: bool  # texts are lower-cased before the tokenizer sees them


def read_sentence_folder(folder: Path) -> SentenceFolder | None:
    """The plan of a folder that sentence-transformers can load as such; None for any other model folder.

    UsageError for a module or a setting that we do not compute; PruneonceError for files that are not theirs.
    """
    config = _object(folder / "config.json")
    if not (folder / MODULES).is_file():
        return _plain_cross_encoder(folder, config)
    modules = _modules(folder / MODULES)
    settings = _object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    transformer = next((_object(folder / name) for name in TRANSFORMER_FILES if (folder / name).is_file()), {})
    common = {
        "max_tokens": transformer.get("max_seq_length") or _tokenizer_limit(folder),
        "prompts": settings.get("prompts") or {},
        "default_prompt": settings.get("default_prompt_name"),
    }
    if [kind for kind, _ in modules] == ["Transformer"]:
        if not _has_one_label(config):
            return None  # of several classes, which are no ranking
        plan = {"kind": "ranking", **common, "activation": _activation(folder, settings.get("activation_fn"))}
    else:
        plan = {"kind": "embeddings", **common, **_embedding(folder, modules, settings)}
    try:
        return SentenceFolder(plan_of(plan), transformer.get("do_lower_case") is True)
    except ValueError as error:
        raise PruneonceError(f"{folder}: its files of sentence-transformers: {error}") from error


def read_projections(folder: Path, plan: SentencePlan, hidden_size: int) -> dict[str, Array]:
    """The weights of a plan's projections, float32 by their names in a packed file; PruneonceError for other shapes."""
    found: dict[str, Array] = {}
    if isinstance(plan, RankingPlan):
        return found
    size = hidden_size * len(plan.pooling)
    for projection in plan.projections:
        file = folder / projection.name / "model.safetensors"
        if not file.is_file():
            raise UsageError(f"{file} does not exist: save the model with its weights as safetensors")
        container = open_container(file)
        floats = {kind.container: kind for kind in FLOAT_TYPES.values()}
        tensors = {}
        for name, entry in container.entries.items():
            if entry.dtype not in floats:
                raise PruneonceError(f"{file}: tensor {name} is {entry.dtype}; {', '.join(floats)} are expected")
            tensors[name] = decode_floats(container.array(name), floats[entry.dtype])
        out = len(tensors["linear.weight"]) if "linear.weight" in tensors else 0
        wanted = {"linear.weight": (out, size), "linear.bias": (out,), "residual.weight": (out, size)}
        needed = {"linear.weight"} | ({"residual.weight"} if projection.residual and out != size else set())
        wrong = {name for name, tensor in tensors.items() if tensor.shape != wanted.get(name)}
        if wrong or not out or needed - tensors.keys():
            amiss = min(wrong | (needed - tensors.keys()), default="linear.weight")
            raise PruneonceError(f"{file}: tensor {amiss} is missing, or not of a layer over {size} numbers")
        found |= {f"{projection.name}.{name}": tensor for name, tensor in tensors.items()}
        size = out
    return found


def write_sentence_folder(folder: Path, plan: EmbeddingPlan, hidden_size: int) -> None:
    """Beside the model in `folder`, what makes sentence-transformers load it with this plan; it has no projections."""
    if plan.projections:
        raise ValueError("projections have weights, which are not written here")
    package = "sentence_transformers.models"  # every release knows it
    kinds = [("", "Transformer"), (POOLING_FOLDER, "Pooling")]
    if plan.normalize:
        kinds.append(("2_Normalize", "Normalize"))
        (folder / "2_Normalize").mkdir(exist_ok=True)  # it has no settings
    (folder / POOLING_FOLDER).mkdir(exist_ok=True)
    switches = {switch: mode in plan.pooling for switch, mode in _SWITCHES.items()}
    write_json(
        folder / POOLING_FOLDER / "config.json",
        {"word_embedding_dimension": hidden_size, **switches, "include_prompt": plan.include_prompt},
    )
    write_json(folder / TRANSFORMER_FILES[0], {"max_seq_length": plan.max_tokens, "do_lower_case": False})
    write_json(
        folder / SETTINGS,
        {
            "model_type": "SentenceTransformer",
            "prompts": dict(plan.prompts),
            "default_prompt_name": plan.default_prompt,
            "similarity_fn_name": plan.similarity,
        },
    )
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{package}.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / MODULES, modules)  # last: without it the folder is a plain encoder


def copy_sentence_files(source: str | Path, folder: Path) -> None:
    """What sentence-transformers keeps beside the model in `source`, into `folder`; nothing where there is none.

    Modules beside the Transformer come with their weights. UsageError and PruneonceError as of `read_sentence_folder`.
    """
    source = Path(source)
    if not (source / MODULES).is_file():
        return
    for _, path in _modules(source / MODULES):
        if path and (source / path).is_dir():
            (folder / path).mkdir(exist_ok=True)
            for name in MODULE_FILES:
                if (source / path / name).is_file():
                    write_bytes(folder / path / name, (source / path / name).read_bytes())
    for name in (SETTINGS, *TRANSFORMER_FILES, MODULES):  # the last: without it the folder is a plain encoder
        if (source / name).is_file():
            write_bytes(folder / name, (source / name).read_bytes())


def _embedding(folder: Path, modules: list[tuple[str, str]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an `EmbeddingPlan` that modules say: Transformer, Pooling, any Dense, and perhaps Normalize."""
    kinds = [kind for kind, _ in modules]
    middle = kinds[2:-1] if kinds[-1] == "Normalize" else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or any(kind != "Dense" for kind in middle):
        raise UsageError(
            f"{folder / MODULES} has the modules {', '.join(kinds)}; Transformer, Pooling, Dense, Normalize in this "
            "order are what we compute"
        )
    pooling = _object(folder / modules[1][1] / "config.json")
    return {
        "pooling": _poolings(folder, pooling),
        "include_prompt": pooling.get("include_prompt", True),
        "projections": [_projection(folder, path) for kind, path in modules if kind == "Dense"],
        "normalize": kinds[-1] == "Normalize",
        "similarity": settings.get("similarity_fn_name") or "cosine",
    }


def _poolings(folder: Path, settings: Mapping[str, Any]) -> list[Any]:
    chosen = settings.get("pooling_mode", [mode for key, mode in _SWITCHES.items() if settings.get(key)] or "mean")
    chosen = chosen if isinstance(chosen, list) else [chosen]
    for mode in chosen:
        if mode not in POOLINGS:
            raise UsageError(f"{folder}: pooling {ascii(mode)[:40]} is not one of {', '.join(POOLINGS)}")
    return chosen


def _projection(folder: Path, path: str) -> dict[str, Any]:
    settings = _object(folder / path / "config.json")
    if {settings.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")} != {
        "sentence_embedding"
    }:
        raise UsageError(f"{folder / path} is a layer over tokens, not over a text's vector: we do not compute it")
    named = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(named, str) or named not in _NONLINEARITIES:
        known = ", ".join(name.rpartition(".")[2] for name in _NONLINEARITIES)
        raise UsageError(f"{folder / path}: activation {ascii(named)[:60]} is not one that we compute ({known})")
    return {"name": path, "nonlinearity": _NONLINEARITIES[named], "residual": settings.get("use_residual", False)}


def _plain_cross_encoder(folder: Path, config: Mapping[str, Any]) -> SentenceFolder | None:
    """A classifier whose config has what sentence-transformers' CrossEncoder left there, as before its release 5."""
    kept = config.get("sentence_transformers")
    named = kept.get("activation_fn") if isinstance(kept, dict) else None
    named = named or config.get("sbert_ce_default_activation_function")
    if named is None or not _has_one_label(config):
        return None
    return SentenceFolder(RankingPlan(_activation(folder, named), _tokenizer_limit(folder)), False)


def _has_one_label(config: Mapping[str, Any]) -> bool:
    labels = config.get("id2label")
    return isinstance(labels, dict) and len(labels) == 1


def _activation(folder: Path, named: Any) -> Any:
    if named is None:
        return "sigmoid"
    if not isinstance(named, str) or named not in _ACTIVATIONS:
        known = ", ".join(name.rpartition(".")[2] for name in _ACTIVATIONS)
        raise UsageError(f"{folder}: activation {ascii(named)[:60]} is not one that we compute ({known})")
    return _ACTIVATIONS[named]


def _modules(file: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module, those without effect left out."""
    found = []
    listed = read_json(file)
    if not isinstance(listed, list) or not listed or not all(isinstance(module, dict) for module in listed):
        raise PruneonceError(f"{file} is no list of modules")
    for module in listed:
        named, path = module.get("type"), module.get("path")
        kind = named.rpartition(".")[2] if isinstance(named, str) else ""
        ours = isinstance(named, str) and named.startswith("sentence_transformers.")
        if not ours or kind not in ("Transformer", "Pooling", "Dense", "Normalize", *NOTHING_TO_COMPUTE):
            raise UsageError(
                f"{file} has the module {ascii(named)[:80]}, which we do not compute: without it the vectors would be "
                "others"
            )
        if kind == "Transformer" and path != "":
            raise UsageError(f"{file}: the Transformer is in {ascii(path)[:60]}: move its files beside {file.name}")
        if kind != "Transformer" and not is_projection_name(path):
            raise PruneonceError(f"{file} names the folder {ascii(path)[:60]}: a plain name is expected")
        if kind not in NOTHING_TO_COMPUTE:
            found.append((kind, str(path)))
    return found


def _tokenizer_limit(folder: Path) -> int | None:
    """Tokens that the folder's tokenizer cuts to; None where it says nothing, or the number that means "unlimited"."""
    file = folder / "tokenizer_config.json"
    limit = _object(file).get("model_max_length") if file.is_file() else None
    return limit if type(limit) is int and 0 < limit < 1 << 20 else None


def _object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise PruneonceError(f"{file} is not a JSON object")
    return value
