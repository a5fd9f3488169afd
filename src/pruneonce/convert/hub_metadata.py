"""What the Hub indexes of a model folder, from its records alone: https://huggingface.co/docs/hub/model-cards."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pruneonce.convert.outside_text import clean, last_part
from pruneonce.formats.record import Provenance
from pruneonce.tasks import Task, class_of
from pruneonce.tasks.glue import GLUE
from pruneonce.tasks.question_answering import QUESTION_ANSWERING

# Bases whose card says so: language, licence.
KNOWN_BASES = dict.fromkeys(
    (
        "bert-base-uncased",
        "bert-large-uncased",
        "distilbert-base-uncased",
        "google-bert/bert-base-uncased",
        "google-bert/bert-large-uncased",
        "distilbert/distilbert-base-uncased",
        "Intel/bert-base-uncased-sparse-85-unstructured-pruneofa",
        "Intel/bert-base-uncased-sparse-90-unstructured-pruneofa",
        "Intel/bert-large-uncased-sparse-90-unstructured-pruneofa",
        "Intel/distilbert-base-uncased-sparse-85-unstructured-pruneofa",
        "Intel/distilbert-base-uncased-sparse-90-unstructured-pruneofa",
    ),
    ("en", "apache-2.0"),
)
SENTENCE_PIPELINES = ("sentence-similarity", "text-ranking")

# Metric -> its id on the Hub; the others (losses) are in the text alone.
HUB_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "exact_match": "exact_match",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "perplexity": "perplexity",
    "mlm_accuracy": "accuracy",
    "nsp_accuracy": "accuracy",
}


def metadata(name: str, records: Sequence[Provenance]) -> dict[str, Any]:
    """What the Hub indexes: nothing that the records do not say."""
    record, base = records[0], base_model(records)
    language, licence = KNOWN_BASES.get(base, ("", "unknown"))
    if task_name(record) in (*GLUE, "squad", "squad_v2"):
        language = "en"
    datasets = sorted({data["type"] for data in map(dataset_of, records) if data and "split" in data})
    results = _model_index(record)
    entries: dict[str, Any] = {
        "language": language,
        "license": licence,
        "library_name": "transformers" if pipeline_of(record) not in SENTENCE_PIPELINES else "sentence-transformers",
        "pipeline_tag": pipeline_of(record),
        "tags": _tags(records),
        "base_model": base,
        "datasets": datasets,
        "metrics": list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])),
        "model-index": [{"name": clean(name), "results": results}] if results else [],
    }
    return {key: value for key, value in entries.items() if value}


def _tags(records: Sequence[Provenance]) -> list[str]:
    sparse = any(record.sparsity for record in records)
    tags = ["pruneonce", "arxiv:2111.05754", *(["sparse", "pruning", "prune-once-for-all"] if sparse else [])]
    if any(record.recipe.get("distillation") for record in records):
        tags.append("knowledge-distillation")
    return [*tags, *(["int8", "quantization"] if records[0].stage == "quantize" else [])]


def _model_index(record: Provenance) -> list[dict[str, Any]]:
    """One result per data set and split, in the Hub's form."""
    dataset = dataset_of(record)
    if dataset is None:
        return []
    results: dict[str, dict[str, Any]] = {}
    for metric, value in record.metrics.items():
        kind, split = _metric(metric)
        if kind not in HUB_METRICS or not math.isfinite(value):
            continue
        where = dict(dataset)
        if split and where.get("split") == "validation":
            where["split"] += f"_{split}"
        elif split:
            where["name"] += f", {split}"
        result = results.setdefault(split, {"task": {"type": pipeline_of(record)}, "dataset": where, "metrics": []})
        result["metrics"].append({"type": HUB_METRICS[kind], "value": round(value, 4), "name": metric})
    return list(results.values())


def _metric(name: str) -> tuple[str, str]:
    """(metric, suffix of the split) of "accuracy_matched" and the like."""
    for split in ("matched", "mismatched"):
        if name.endswith(f"_{split}"):
            return name.removesuffix(f"_{split}"), split
    return name, ""


def dataset_of(record: Provenance) -> dict[str, str] | None:
    """What the metrics were measured on, as the Hub describes data; None where the record does not say."""
    task = record.recipe.get("task")
    if not isinstance(task, Mapping):
        corpus = record.recipe.get("corpus")
        return {"type": "corpus", "name": f"{last_part(corpus)}, documents held out"} if corpus else None
    name = task_name(record)
    known: dict[str, Task] = {**GLUE, **QUESTION_ANSWERING}
    hub = known[name].hub if name in known else None
    source = str(task.get("validation") or "validation")
    if hub is not None and (source == "validation" or source.partition("[")[0] in hub.splits):
        config = {"config": hub.config} if hub.config else {}
        return {"type": hub.dataset, "name": name, **config, "split": source}
    return {"type": clean(name), "name": f"{clean(name)}, file {last_part(source)}"}


def pipeline_of(record: Provenance) -> str:
    """The Hub's name of what the model is for; "" for a compressed one, whose record tells of no head."""
    if record.stage == "compress":
        return ""
    if not isinstance(record.recipe.get("task"), Mapping):
        return "fill-mask"
    return class_of(task_name(record)).pipeline


def task_name(record: Provenance) -> str:
    task = record.recipe.get("task")
    return str(task.get("name", "")) if isinstance(task, Mapping) else ""


def base_model(records: Sequence[Provenance]) -> str:
    """The Hub id that the chain began with; "" for a folder."""
    root = records[-1]
    base = str(root.recipe.get("model", ""))
    is_id = re.fullmatch(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?", base, re.ASCII)
    return base if is_id and root.inputs.get("model") == f"hub:{base}" else ""


def yaml(value: Any, indent: str = "") -> str:
    """Mappings and lists as YAML blocks; every leaf is JSON on one line, which YAML reads as the same."""
    lines = []
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        mark = f"{key}:" if isinstance(value, Mapping) else "-"
        if isinstance(item, Mapping | list):
            block = yaml(item, indent + "  ")
            # a list's item begins on the line of its dash
            lines.append(f"{indent}- {block.lstrip()}" if mark == "-" else f"{indent}{mark}\n{block}")
        else:
            leaf = json.dumps(clean(item) if isinstance(item, str) else item, ensure_ascii=False)
            lines.append(f"{indent}{mark} {leaf}\n")
    return "".join(lines)
