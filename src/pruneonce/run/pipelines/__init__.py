"""Text in, answers out, without torch: the result dicts of `transformers.pipeline` from a packed file."""

from __future__ import annotations

import difflib
from pathlib import Path

from pruneonce import _native
from pruneonce.errors import UsageError
from pruneonce.run.model import Model, load_model
from pruneonce.run.pipelines.embeddings import Embeddings
from pruneonce.run.pipelines.feature_extraction import FeatureExtraction
from pruneonce.run.pipelines.fill_mask import FillMask
from pruneonce.run.pipelines.question_answering import QuestionAnswering
from pruneonce.run.pipelines.text_classification import TextClassification
from pruneonce.run.pipelines.text_model import TextModel, check_tokens
from pruneonce.run.pipelines.text_ranking import TextRanking
from pruneonce.run.pipelines.token_classification import TokenClassification
from pruneonce.run.weights import Kernels

Pipeline = (
    TextClassification
    | TokenClassification
    | QuestionAnswering
    | FillMask
    | FeatureExtraction
    | Embeddings
    | TextRanking
)

PIPELINES: dict[str, type[Pipeline]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "fill-mask": FillMask,
    "feature-extraction": FeatureExtraction,
    "embeddings": Embeddings,
    "text-ranking": TextRanking,
}
OTHER_NAMES = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "sentence-similarity": "embeddings",
}

__all__ = ["PIPELINES", "Pipeline", "pipeline"]


def pipeline(
    task: str | None = None,
    model: str | Path | Model = "",
    *,
    isa: str | None = None,
    kernels: Kernels = "measured",
    threads: int | None = None,
    max_length: int | None = None,
) -> Pipeline:
    """A function from text to answers; called like that of `transformers.pipeline`, with the same results.

    task: one of PIPELINES; None: what the model was made for. model: a packed file, or a loaded `Model`. isa,
    kernels: as of `load_model`, for a file. threads: of the whole process, from now on. max_length: tokens that texts
    are cut to where a call says nothing else; not for spans and masks. UsageError for an unknown task
    or a model without its head.
    """
    if task is not None:
        task = OTHER_NAMES.get(task, task)
        if task not in PIPELINES:
            near = difflib.get_close_matches(task, PIPELINES, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"unknown task '{task}': expected one of {', '.join(PIPELINES)}{hint}")
    if threads is not None:
        try:
            _native.set_num_threads(threads)
        except (ValueError, TypeError) as error:
            raise UsageError(f"threads is {threads!r}: a number from 1 to 1024 is expected") from error
    if not isinstance(model, Model):
        if not str(model):
            raise UsageError("pipeline: model is missing: the path of a packed file is expected")
        model = load_model(model, isa=isa, kernels=kernels)
    task = task or model.use
    if task not in (model.task, "feature-extraction", "embeddings", *(("text-ranking",) if model.ranks else ())):
        raise UsageError(f"this model is one for {model.use}; it has no head for {task}")
    if max_length is not None:
        check_tokens("max_length", max_length)
        if task in ("question-answering", "fill-mask"):
            raise UsageError(f"max_length is not for {task}, where nothing is cut")
    return PIPELINES[task](TextModel(model, max_length))
