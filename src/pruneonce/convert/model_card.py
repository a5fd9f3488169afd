"""A folder's README.md in the form the Hugging Face Hub reads: metadata, and what a user should know of the model.

Made from records (`pruneonce.json`) alone. What comes from outside (names of models, files, tasks, labels) is escaped;
of paths only the last part is shown. Metadata: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError
from pruneonce.files import write_text
from pruneonce.formats.record import Provenance, read_provenance
from pruneonce.tasks import Task, class_of
from pruneonce.tasks.glue import GLUE
from pruneonce.tasks.question_answering import QUESTION_ANSWERING

FILE_NAME = "README.md"
MARK = "<!-- Made by pruneonce from pruneonce.json. Delete this line to keep your own text. -->"
LONGEST_NAME = 100  # characters shown of a name from outside
MOST_PARENTS = 20  # stages behind a folder; a chain has three
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
STAGES = {
    "teacher": "A dense language model, pre-trained further on one corpus: the teacher for pruning on it.",
    "prune": "A sparse language model, pruned once during pre-training, to be fine-tuned with its zeros locked.",
    "finetune": "A model fine-tuned for one task; zeros that it began with are still zeros.",
    "quantize": "A model for one task whose linear layers compute with 8-bit integers; its zeros are still zeros.",
}
CITATION = """```bibtex
@article{zafrir2021prune,
  title   = {Prune Once for All: Sparse Pre-Trained Language Models},
  author  = {Zafrir, Ofir and Larey, Ariel and Boudoukh, Guy and Shen, Haihao and Wasserblat, Moshe},
  journal = {arXiv preprint arXiv:2111.05754},
  year    = {2021}
}
```"""


def write_model_card(folder: Path, record: Provenance) -> None:
    """Write `folder`/README.md; one that is not ours stays as it is."""
    file = folder / FILE_NAME
    if file.exists() and not (file.is_file() and MARK in file.read_text(encoding="utf-8", errors="replace")):
        return
    write_text(file, model_card(folder.resolve().name, lineage(record)))


def lineage(record: Provenance) -> list[Provenance]:
    """`record`, and the records of the folders it came from as far as they are at hand, newest first."""
    records = [record]
    while len(records) < MOST_PARENTS:
        try:
            parent = read_provenance(str(records[-1].recipe.get("model", "")))
        except PruneonceError:
            break  # a parent that cannot be read was no hindrance to training from it
        if parent is None:
            break
        records.append(parent)
    return records


def model_card(name: str, records: Sequence[Provenance], repeats: Sequence[Provenance] = ()) -> str:
    """The card of a folder called `name`.

    records: the folder's, then those it came from, newest first. repeats: of runs that differ in the seed alone; the
    metrics are then their mean and standard deviation with the folder's own.
    """
    parts = [
        f"---\n{_yaml(metadata(name, records))}---",
        MARK,
        f"# {_text(name)}",
        STAGES.get(records[0].stage, ""),
        "## Method",
        *_method(records),
        "## Data",
        *_data(records),
        "## Sparsity",
        *_sparsity(records[0]),
        "## Results",
        *_results(records[0], repeats),
        "## Use",
        *_use(name, records[0]),
        "## Limits and risks",
        *_limits(records),
        "## Licence",
        _licence(records),
        "## Citation",
        CITATION,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def metadata(name: str, records: Sequence[Provenance]) -> dict[str, Any]:
    """What the Hub indexes: nothing that the records do not say."""
    record, base = records[0], _base(records)
    language, licence = KNOWN_BASES.get(base, ("", "unknown"))
    if _task_name(record) in (*GLUE, "squad", "squad_v2"):
        language = "en"
    datasets = sorted({data["type"] for data in map(_dataset, records) if data and "split" in data})
    results = _model_index(record)
    entries: dict[str, Any] = {
        "language": language,
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": _pipeline(record),
        "tags": _tags(records),
        "base_model": base,
        "datasets": datasets,
        "metrics": list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])),
        "model-index": [{"name": _clean(name), "results": results}] if results else [],
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
    dataset = _dataset(record)
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
        result = results.setdefault(split, {"task": {"type": _pipeline(record)}, "dataset": where, "metrics": []})
        result["metrics"].append({"type": HUB_METRICS[kind], "value": round(value, 4), "name": metric})
    return list(results.values())


def _metric(name: str) -> tuple[str, str]:
    """(metric, suffix of the split) of "accuracy_matched" and the like."""
    for split in ("matched", "mismatched"):
        if name.endswith(f"_{split}"):
            return name.removesuffix(f"_{split}"), split
    return name, ""


def _dataset(record: Provenance) -> dict[str, str] | None:
    """What the metrics were measured on, as the Hub describes data; None where the record does not say."""
    task = record.recipe.get("task")
    if not isinstance(task, Mapping):
        corpus = record.recipe.get("corpus")
        return {"type": "corpus", "name": f"{_last(corpus)}, documents held out"} if corpus else None
    name = _task_name(record)
    known: dict[str, Task] = {**GLUE, **QUESTION_ANSWERING}
    hub = known[name].hub if name in known else None
    source = str(task.get("validation") or "validation")
    if hub is not None and (source == "validation" or source.partition("[")[0] in hub.splits):
        config = {"config": hub.config} if hub.config else {}
        return {"type": hub.dataset, "name": name, **config, "split": source}
    return {"type": _clean(name), "name": f"{_clean(name)}, file {_last(source)}"}


def _pipeline(record: Provenance) -> str:
    if not isinstance(record.recipe.get("task"), Mapping):
        return "fill-mask"
    return class_of(_task_name(record)).pipeline


def _task_name(record: Provenance) -> str:
    task = record.recipe.get("task")
    return str(task.get("name", "")) if isinstance(task, Mapping) else ""


def _base(records: Sequence[Provenance]) -> str:
    """The Hub id that the chain began with; "" for a folder."""
    root = records[-1]
    base = str(root.recipe.get("model", ""))
    is_id = re.fullmatch(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?", base, re.ASCII)
    return base if is_id and root.inputs.get("model") == f"hub:{base}" else ""


# ------------------------------------------------------------------------------------------------------- the sections


def _method(records: Sequence[Provenance]) -> list[str]:
    """How each stage was made, the first of them first."""
    lines = [f"The chain began with {_base_name(records)}."]
    lines += [f"{number}. {_step(record)}" for number, record in enumerate(reversed(records), 1)]
    versions = ", ".join(f"{_text(name)} {_text(version)}" for name, version in records[0].versions.items())
    return [*["\n".join(lines[:1])], "\n".join(lines[1:]), f"Software: {versions}." if versions else ""]


def _step(record: Provenance) -> str:
    recipe, parts = record.recipe, []
    if training := _section(recipe, "training"):
        parts.append(f"{_count(record.steps)} steps of {_text(training.get('batch_size'))} examples")
        parts.append(f"peak learning rate {_text(training.get('learning_rate'))}")
    if pruning := _section(recipe, "pruning"):
        rewind = "without" if pruning.get("rewind") == "off" else "with"
        parts.append(
            f"gradual magnitude pruning to a sparsity of {_text(pruning.get('sparsity'))} in every pruned matrix"
        )
        parts.append(f"{rewind} learning rate rewinding")
    if recipe.get("lock") == "off":
        parts.append("zeros not locked")
    elif record.stage in ("finetune", "quantize") and record.masks:
        parts.append("zeros locked")
    if distillation := _section(recipe, "distillation"):
        teacher = _text(_last(distillation.get("teacher") or recipe.get("model", "")))
        temperature, hard, soft = (_text(distillation.get(key)) for key in ("temperature", "hard_weight", "kd_weight"))
        parts.append(
            f"distilled from {teacher} (temperature {temperature}, weights {hard} on the labels, {soft} on the teacher)"
        )
    if record.stage == "quantize":
        how = "in training" if recipe.get("method") == "qat" else "after training"
        parts.append(f"8-bit weights and inputs of linear layers, set {how}, preset {_text(recipe.get('preset', ''))}")
    return f"**{_text(record.stage)}**: {', '.join(parts) or 'no details recorded'}, seed {_text(record.seed)}."


def _data(records: Sequence[Provenance]) -> list[str]:
    lines = []
    for record in reversed(records):
        recipe = record.recipe
        if corpus := recipe.get("corpus"):
            lines.append(f"- {_text(record.stage)}: the corpus {_text(_last(corpus))}.")
        elif isinstance(task := recipe.get("task"), Mapping):
            train = _text(_last(task["train"])) if task.get("train") else "the training split on the Hub"
            count = f"{_count(task['train_examples'])} examples of " if task.get("train_examples") else ""
            lines.append(f"- {_text(record.stage)}: task {_text(_task_name(record))}, {count}{train}.")
    return ["\n".join(lines) or "Not recorded."]


def _sparsity(record: Provenance) -> list[str]:
    """Zeros of each kind of matrix; those of a kind have one shape, so that the mean is their share."""
    if not record.sparsity:
        return ["None: the model is dense."]
    groups: dict[str, list[float]] = {}
    for name, value in record.sparsity.items():
        groups.setdefault(re.sub(r"\.\d+\.", ".N.", name), []).append(value)
    rows = ["| matrices | how many | zeros | least | most |", "|---|---|---|---|---|"]
    rows += [
        f"| {_text(group)} | {len(values)} | {statistics.fmean(values):.2%} | {min(values):.2%} | {max(values):.2%} |"
        for group, values in groups.items()
    ]
    after = (
        "Embeddings, biases, layer norms and heads are dense. The mask of every matrix has a digest in pruneonce.json."
    )
    if record.rounded_to_zero:
        after += f" Rounding to 8 bits made {record.rounded_to_zero:,} more weights zeros."
    return ["\n".join(rows), after]


def _results(record: Provenance, repeats: Sequence[Provenance]) -> list[str]:
    if not record.metrics:
        return ["None recorded."]
    runs = [record, *repeats]
    dataset = _dataset(record)
    task = record.recipe.get("task")
    count = task.get("validation_examples") if isinstance(task, Mapping) else record.recipe.get("validation_examples")
    where = f"Measured on {_text(dataset['name'])}" if dataset else "Measured"
    where += f", at most {_count(count)} examples" if count else ", all examples"
    where += f"; n = {len(runs)}, seed {', '.join(str(run.seed) for run in runs)}."
    published = record.recipe.get("published") or {}
    rows = ["| metric | this model | mean ± std over seeds | published |", "|---|---|---|---|"]
    for name, value in record.metrics.items():
        values = [run.metrics[name] for run in runs if name in run.metrics]
        spread = f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        known = f"{float(published[name]):.4f}" if name in published else ""
        rows.append(f"| {_text(name)} | {value:.4f} | {spread} | {known} |")
    unit = "SQuAD's scores are percentages." if class_of(_task_name(record)).in_percent else ""
    return [where, "\n".join(rows), unit]


def _use(name: str, record: Provenance) -> list[str]:
    """Intended use, and the code that loads the folder."""
    folder, task = json.dumps(_clean(name)), _pipeline(record)
    intended = {
        "fill-mask": "To be fine-tuned for a task, its zeros locked if it has them; also to fill in masked words.",
        "text-classification": "To answer texts like those of its training data, in their language.",
        "question-answering": "To find the answer to a question in a given text, of the kind it was trained on.",
    }[task]
    load = f'from transformers import pipeline\n\nanswer = pipeline("{task}", model={folder})'
    if task == "question-answering":  # transformers 5 has no pipeline for it
        load = (
            "from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
            f"model = AutoModelForQuestionAnswering.from_pretrained({folder})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({folder})"
        )
    quantised = record.stage == "quantize"
    note = "transformers loads the de-quantised weights; only pruneonce computes with 8 bits." if quantised else ""
    ours = 'import pruneonce\n\nanswer = pruneonce.pipeline(model="model.pruneonce")'
    shell = f"pruneonce export {shlex.quote(_clean(name))} --to packed --out model.pruneonce"
    return [
        intended,
        f"```python\n{load}\n```",
        note,
        "With pruneonce, as one file and without torch:",
        f"```\n{shell}\n```",
        f"```python\n{ours}\n```",
    ]


def _limits(records: Sequence[Provenance]) -> list[str]:
    lines = [
        "- Biases of the base model and of the data are those of this model. Pruning can make them larger for what is "
        "rare in the data; averages do not show that. Measure it on your own before relying on it.",
        "- Texts unlike those above (language, domain, length) were not tried.",
    ]
    if records[0].sparsity:
        lines.append(
            "- Zeros make the model smaller and faster only where they are used, as in the packed file; PyTorch "
            "computes with them as with any number."
        )
    if len(records[0].metrics) and records[0].stage in ("finetune", "quantize"):
        lines.append("- The scores are of validation data, which may have served to choose settings.")
    return ["\n".join(lines)]


def _licence(records: Sequence[Provenance]) -> str:
    base = _base(records)
    if base in KNOWN_BASES:
        return f"{KNOWN_BASES[base][1]}, as {_text(base)}. The data have licences of their own."
    return (
        f"That of {_base_name(records)}, and of the data, which pruneonce does not know: set `license` above before "
        "you publish this folder."
    )


def _base_name(records: Sequence[Provenance]) -> str:
    name = _base(records) or _last(records[-1].recipe.get("model", ""))
    return _text(name) if name else "a model that is not recorded"


# --------------------------------------------------------------------------------------------------- text from outside


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a recipe; empty where there is none."""
    section = recipe.get(name)
    return section if isinstance(section, Mapping) else {}


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _last(path: Any) -> str:
    """The last part of a path: the rest is the machine's business."""
    parts = [part for part in re.split(r"[/\\]", str(path)) if part not in ("", ".", "..", "~")]
    return _clean(parts[-1]) if parts else ""


def _clean(value: Any) -> str:
    """On one line, valid Unicode, not too long."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def _text(value: Any) -> str:
    """Such that Markdown and HTML take it for plain text."""
    return re.sub(r"([\\`*_\[\]<>|#&~$!])", r"\\\1", _clean(value))


def _yaml(value: Any, indent: str = "") -> str:
    """Mappings and lists as YAML blocks; every leaf is JSON on one line, which YAML reads as the same."""
    lines = []
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        mark = f"{key}:" if isinstance(value, Mapping) else "-"
        if isinstance(item, Mapping | list):
            block = _yaml(item, indent + "  ")
            # a list's item begins on the line of its dash
            lines.append(f"{indent}- {block.lstrip()}" if mark == "-" else f"{indent}{mark}\n{block}")
        else:
            leaf = json.dumps(_clean(item) if isinstance(item, str) else item, ensure_ascii=False)
            lines.append(f"{indent}{mark} {leaf}\n")
    return "".join(lines)
