"""A folder's README.md in the form the Hugging Face Hub reads: metadata, and what a user should know of the model.

Made from records (`pruneonce.json`) alone. What comes from outside (names of models, files, tasks, labels) is escaped;
of paths only the last part is shown.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruneonce.convert.hub_metadata import KNOWN_BASES, base_model, dataset_of, metadata, pipeline_of, task_name, yaml
from pruneonce.convert.outside_text import clean, count_of, last_part, plain, section
from pruneonce.errors import PruneonceError
from pruneonce.files import write_text
from pruneonce.formats.record import Provenance, read_provenance
from pruneonce.tasks import class_of

FILE_NAME = "README.md"
MARK = "<!-- Made by pruneonce from pruneonce.json. Delete this line to keep your own text. -->"
MOST_PARENTS = 20  # stages behind a folder; a chain has three
STAGES = {
    "teacher": "A dense language model, pre-trained further on one corpus: the teacher for pruning on it.",
    "prune": "A sparse language model, pruned once during pre-training, to be fine-tuned with its zeros locked.",
    "compress": "A sparse model, pruned by matching its own dense original on plain text; zeros stay for fine-tuning.",
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
        f"---\n{yaml(metadata(name, records))}---",
        MARK,
        f"# {plain(name)}",
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


def _method(records: Sequence[Provenance]) -> list[str]:
    """How each stage was made, the first of them first."""
    lines = [f"The chain began with {_base_name(records)}."]
    lines += [f"{number}. {_step(record)}" for number, record in enumerate(reversed(records), 1)]
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in records[0].versions.items())
    return [*["\n".join(lines[:1])], "\n".join(lines[1:]), f"Software: {versions}." if versions else ""]


def _step(record: Provenance) -> str:
    recipe, parts = record.recipe, []
    if training := section(recipe, "training"):
        parts.append(f"{count_of(record.steps)} steps of {_batch(record)}")
        parts.append(f"peak learning rate {plain(training.get('learning_rate'))}")
    if pruning := section(recipe, "pruning"):
        rewind = "without" if pruning.get("rewind") == "off" else "with"
        where = "over all pruned matrices" if pruning.get("allocation") == "global" else "in every pruned matrix"
        criterion = plain(pruning.get("criterion") or "magnitude")
        parts.append(f"gradual {criterion} pruning to a sparsity of {plain(pruning.get('sparsity'))} {where}")
        parts.append(f"{rewind} learning rate rewinding")
    if record.stage == "compress":
        vectors = " and vectors of whole texts" if section(recipe, "matching").get("vectors_weight") else ""
        parts.append(f"hidden states{vectors} matched with those of the original")
    if recipe.get("lock") == "off":
        parts.append("zeros not locked")
    elif record.stage in ("finetune", "quantize") and record.masks:
        parts.append("zeros locked")
    if distillation := section(recipe, "distillation"):
        teacher = plain(last_part(distillation.get("teacher") or recipe.get("model", "")))
        temperature, hard, soft = (plain(distillation.get(key)) for key in ("temperature", "hard_weight", "kd_weight"))
        parts.append(
            f"distilled from {teacher} (temperature {temperature}, weights {hard} on the labels, {soft} on the teacher)"
        )
    if record.stage == "quantize":
        how = "in training" if recipe.get("method") == "qat" else "after training"
        parts.append(f"8-bit weights and inputs of linear layers, set {how}, preset {plain(recipe.get('preset', ''))}")
    return f"**{plain(record.stage)}**: {', '.join(parts) or 'no details recorded'}, seed {plain(record.seed)}."


def _batch(record: Provenance) -> str:
    size = section(record.recipe, "training").get("batch_size")
    lengths = section(record.recipe, "matching").get("lengths")
    if isinstance(size, int) and isinstance(lengths, list | tuple) and all(isinstance(each, int) for each in lengths):
        return f"{size * min(lengths, default=0):,} tokens"
    return f"{plain(size)} examples"


def _data(records: Sequence[Provenance]) -> list[str]:
    lines = []
    for record in reversed(records):
        recipe = record.recipe
        if corpus := recipe.get("corpus"):
            lines.append(f"- {plain(record.stage)}: the corpus {plain(last_part(corpus))}.")
        elif isinstance(task := recipe.get("task"), Mapping):
            train = plain(last_part(task["train"])) if task.get("train") else "the training split on the Hub"
            count = f"{count_of(task['train_examples'])} examples of " if task.get("train_examples") else ""
            lines.append(f"- {plain(record.stage)}: task {plain(task_name(record))}, {count}{train}.")
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
        f"| {plain(group)} | {len(values)} | {statistics.fmean(values):.2%} | {min(values):.2%} | {max(values):.2%} |"
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
    dataset = dataset_of(record)
    task = record.recipe.get("task")
    count = task.get("validation_examples") if isinstance(task, Mapping) else record.recipe.get("validation_examples")
    where = f"Measured on {plain(dataset['name'])}" if dataset else "Measured"
    where += f", at most {count_of(count)} examples" if count else ", all examples"
    where += f"; n = {len(runs)}, seed {', '.join(str(run.seed) for run in runs)}."
    published = record.recipe.get("published") or {}
    rows = ["| metric | this model | mean ± std over seeds | published |", "|---|---|---|---|"]
    for name, value in record.metrics.items():
        values = [run.metrics[name] for run in runs if name in run.metrics]
        spread = f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        known = f"{float(published[name]):.4f}" if name in published else ""
        rows.append(f"| {plain(name)} | {value:.4f} | {spread} | {known} |")
    unit = "SQuAD's scores are percentages." if class_of(task_name(record)).in_percent else ""
    return [where, "\n".join(rows), unit]


def _use(name: str, record: Provenance) -> list[str]:
    """Intended use, and the code that loads the folder."""
    folder, task = json.dumps(clean(name)), pipeline_of(record)
    intended = {
        "fill-mask": "To be fine-tuned for a task, its zeros locked if it has them; also to fill in masked words.",
        "text-classification": "To answer texts like those of its training data, in their language.",
        "question-answering": "To find the answer to a question in a given text, of the kind it was trained on.",
        "sentence-similarity": "To turn texts like those of its training data into vectors that can be compared.",
        "text-ranking": "To rank texts by how well they answer a query, of the kind it was trained on.",
        "": "For what its original is for; also to be fine-tuned, its zeros locked.",
    }[task]
    load = f'from transformers import pipeline\n\nanswer = pipeline("{task}", model={folder})'
    if task == "question-answering":  # transformers 5 has no pipeline for it
        load = (
            "from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
            f"model = AutoModelForQuestionAnswering.from_pretrained({folder})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({folder})"
        )
    if task in ("sentence-similarity", "text-ranking"):
        made = "SentenceTransformer" if task == "sentence-similarity" else "CrossEncoder"
        load = f"from sentence_transformers import {made}\n\nmodel = {made}({folder})"
    elif not task:
        load = ""  # which class is its config's to say
    quantised = record.stage == "quantize"
    note = "transformers loads the de-quantised weights; only pruneonce computes with 8 bits." if quantised else ""
    ours = 'import pruneonce\n\nanswer = pruneonce.pipeline(model="model.pruneonce")'
    shell = f"pruneonce export {shlex.quote(clean(name))} --to packed --out model.pruneonce"
    return [
        intended,
        f"```python\n{load}\n```" if load else "",
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
    base = base_model(records)
    if base in KNOWN_BASES:
        return f"{KNOWN_BASES[base][1]}, as {plain(base)}. The data have licences of their own."
    return (
        f"That of {_base_name(records)}, and of the data, which pruneonce does not know: set `license` above before "
        "you publish this folder."
    )


def _base_name(records: Sequence[Provenance]) -> str:
    name = base_model(records) or last_part(records[-1].recipe.get("model", ""))
    return plain(name) if name else "a model that is not recorded"
