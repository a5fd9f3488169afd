"""The GLUE tasks: their files as first published, and their form on the Hub (nyu-mll/glue).

Labels are in the order of the Hub's ids; files may give names or ids. Sources: Wang et al. 2018,
https://arxiv.org/abs/1804.07461 (tasks and metrics), https://huggingface.co/datasets/nyu-mll/glue (ids).
"""

from __future__ import annotations

from pruneonce.tasks.classification import ClassificationTask, Columns
from pruneonce.tasks.table import HubData

# The Hub's test splits carry no labels, so they are not among the splits.
_SPLITS = ("train", "validation")
_MNLI_DEV_SPLITS = ("validation_matched", "validation_mismatched")


def _hub(config: str, splits: tuple[str, ...] = _SPLITS) -> HubData:
    return HubData("nyu-mll/glue", config, splits)


_COLA = ClassificationTask(
    name="cola",
    labels=("unacceptable", "acceptable"),
    metrics=("matthews",),
    schemas=(Columns(text="sentence", label="label"),),
    hub=_hub("cola"),
    headerless=("source", "label", "original_mark", "sentence"),
)
_SST2 = ClassificationTask(
    name="sst2",
    labels=("negative", "positive"),
    metrics=("accuracy",),
    schemas=(Columns(text="sentence", label="label"),),
    hub=_hub("sst2"),
)
_MRPC = ClassificationTask(
    name="mrpc",
    labels=("not_equivalent", "equivalent"),
    metrics=("f1", "accuracy"),
    schemas=(
        Columns(text="#1 String", text_pair="#2 String", label="Quality"),
        Columns(text="sentence1", text_pair="sentence2", label="label"),
    ),
    hub=_hub("mrpc"),
)
_STSB = ClassificationTask(
    name="stsb",
    labels=None,  # similarity from 0 to 5
    metrics=("pearson", "spearman"),
    schemas=(
        Columns(text="sentence1", text_pair="sentence2", label="score"),
        Columns(text="sentence1", text_pair="sentence2", label="label"),
    ),
    hub=_hub("stsb"),
)
_QQP = ClassificationTask(
    name="qqp",
    labels=("not_duplicate", "duplicate"),
    metrics=("f1", "accuracy"),
    schemas=(
        Columns(text="question1", text_pair="question2", label="is_duplicate"),
        Columns(text="question1", text_pair="question2", label="label"),
    ),
    hub=_hub("qqp"),
    drop_broken=True,  # line breaks inside questions tear some rows of the published files; the Hub lacks them too
)
_MNLI = ClassificationTask(
    name="mnli",
    labels=("entailment", "neutral", "contradiction"),
    metrics=("accuracy",),
    schemas=(
        Columns(text="sentence1", text_pair="sentence2", label="gold_label"),
        Columns(text="premise", text_pair="hypothesis", label="label"),
    ),
    hub=_hub("mnli", ("train", *_MNLI_DEV_SPLITS)),
    dev_splits=_MNLI_DEV_SPLITS,
    skipped_labels=("-",),  # the annotators did not agree
)
_QNLI = ClassificationTask(
    name="qnli",
    labels=("entailment", "not_entailment"),
    metrics=("accuracy",),
    schemas=(Columns(text="question", text_pair="sentence", label="label"),),
    hub=_hub("qnli"),
)
_RTE = ClassificationTask(
    name="rte",
    labels=("entailment", "not_entailment"),
    metrics=("accuracy",),
    schemas=(Columns(text="sentence1", text_pair="sentence2", label="label"),),
    hub=_hub("rte"),
)
_WNLI = ClassificationTask(
    name="wnli",
    labels=("not_entailment", "entailment"),
    metrics=("accuracy",),
    schemas=(Columns(text="sentence1", text_pair="sentence2", label="label"),),
    hub=_hub("wnli"),
)

GLUE = {task.name: task for task in (_COLA, _SST2, _MRPC, _STSB, _QQP, _MNLI, _QNLI, _RTE, _WNLI)}
