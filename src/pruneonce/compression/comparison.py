"""What a compressed model answers differently from its original, on text that neither was fitted to: no labels needed.

Both are packed files and read the same tokens; the figures are by what the model is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pruneonce.data.corpus import Corpus, Example
from pruneonce.data.windows import windows_for
from pruneonce.formats.stored_tensors import Array
from pruneonce.models.tokenizer import tokenizer_from_text
from pruneonce.progress import Advance, no_progress
from pruneonce.run.model import Model, load_model
from pruneonce.run.sentence import unit
from pruneonce.tasks.metrics import pearson, spearman

TEXTS = 384  # compared on
LONGEST = 128  # tokens of each
NEIGHBOURS = 10  # nearest texts, of which as many should be the same
BATCH = 32


def compare(
    original: str | Path,
    compressed: str | Path,
    corpus: str | Path,
    *,
    seed: int = 42,
    on_progress: Advance | None = None,
) -> dict[str, float]:
    """Figures on the corpus's validation split, each 1 (or an error of 0) where nothing has changed.

    state_error: of the last hidden states, as relative squares. Of any model that gives vectors: cosine (mean of a
    text's two vectors), similarity_spearman (over all pairs of texts, the likeness that either finds), neighbours
    (share of each text's nearest ten that stay). Of classifiers: agreement (the same label), logits_pearson. Of one
    logit: score_spearman. Of spans: agreement (the same place), span_overlap. Of classes or words per token: agreement.
    """
    advance = on_progress or no_progress
    models = [load_model(original), load_model(compressed)]
    pairs = models[0].task in ("question-answering",) or models[0].ranks
    examples = _examples(Path(corpus), models[0], 1.0 if pairs else 0.0, seed)
    done = [0]

    def asked(ask: Callable[[list[Array], list[Array]], Sequence[Array]]) -> list[Array]:
        answers: list[Array] = []
        for begin in range(0, len(examples), BATCH):
            some = examples[begin : begin + BATCH]
            answers += list(ask([each.input_ids for each in some], [_types(each) for each in some]))
            done[0] += len(some)
            advance(done[0], 2 * kinds * len(examples), "texts")
        return answers

    kinds = 2 if models[0].task != "feature-extraction" else 1
    states = [asked(model.hidden_states) for model in models]
    figures = {"state_error": _relative(*states)} | _of_vectors(models[0], *states)
    if models[0].task != "feature-extraction":
        figures |= _of_answers(models[0], *(asked(model) for model in models))
    return figures


def _examples(corpus: Path, model: Model, pairs: float, seed: int) -> list[Example]:
    tokenizer = tokenizer_from_text(model.tokenizer)
    windows = windows_for(Corpus(corpus, "validation"), tokenizer, pairs)
    longest = min(LONGEST, model.max_tokens)
    return [windows.draw(np.random.default_rng([seed, number]), longest) for number in range(TEXTS)]


def _types(example: Example) -> Array:
    types = np.zeros(len(example.input_ids), np.int64)
    types[example.segment_b_start :] = 1
    return types


def _relative(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """Summed squares of the differences over those of the first."""
    difference = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(ours, theirs, strict=True))
    return difference / sum(float(np.square(a.astype(np.float64)).sum()) for a in ours)


def _of_vectors(model: Model, ours: Sequence[Array], theirs: Sequence[Array]) -> dict[str, float]:
    pool = _first if "cls" in model.embedding.pooling else _mean
    first, second = (unit(np.stack([pool(each) for each in states])) for states in (ours, theirs))
    upper = np.triu_indices(len(first), 1)
    alike = [vectors @ vectors.T for vectors in (first, second)]
    return {
        "cosine": float((first * second).sum(axis=1).mean()),
        "similarity_spearman": spearman(alike[1][upper], alike[0][upper]),
        "neighbours": float(np.mean([_shared(*rows) for rows in zip(*map(_nearest, alike), strict=True)])),
    }


def _mean(states: Array) -> Array:
    pooled: Array = states.mean(axis=0)
    return pooled


def _first(states: Array) -> Array:
    pooled: Array = states[0]
    return pooled


def _nearest(alike: Array) -> Array:
    """Of each row, the most alike others: int64 [texts, NEIGHBOURS]."""
    others = alike.copy()
    np.fill_diagonal(others, -np.inf)
    nearest: Array = np.argsort(-others, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(alike) - 1)]
    return nearest


def _shared(ours: Array, theirs: Array) -> float:
    return len(set(ours.tolist()) & set(theirs.tolist())) / len(ours)


def _of_answers(model: Model, ours: Sequence[Array], theirs: Sequence[Array]) -> dict[str, float]:
    """ours, theirs: what the model's head says of each text."""
    if model.task == "text-classification":
        first, second = np.stack(ours), np.stack(theirs)
        if model.ranks:
            return {"score_spearman": spearman(second[:, 0], first[:, 0])}
        return {
            "agreement": float((first.argmax(1) == second.argmax(1)).mean()),
            "logits_pearson": pearson(second.ravel(), first.ravel()),
        }
    if model.task == "question-answering":
        spans = [[_span(logits) for logits in answers] for answers in (ours, theirs)]
        pairs = list(zip(*spans, strict=True))
        return {
            "agreement": float(np.mean([a == b for a, b in pairs])),
            "span_overlap": float(np.mean([_overlap(a, b) for a, b in pairs])),
        }
    same = [(a.argmax(1) == b.argmax(1)) for a, b in zip(ours, theirs, strict=True)]
    return {"agreement": float(np.concatenate(same).mean())}


def _span(logits: Array) -> tuple[int, int]:
    """The likeliest start and end, start before end: float32 [tokens, 2] -> places."""
    scores = np.triu(logits[:, :1] + logits[:, 1][None, :]) + np.tril(np.full((len(logits),) * 2, -np.inf), -1)
    start, end = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(start), int(end)


def _overlap(ours: tuple[int, int], theirs: tuple[int, int]) -> float:
    """F1 of the places that two spans cover."""
    shared = min(ours[1], theirs[1]) - max(ours[0], theirs[0]) + 1
    sizes = ours[1] - ours[0] + 1 + theirs[1] - theirs[0] + 1
    return 2 * max(0, shared) / sizes
