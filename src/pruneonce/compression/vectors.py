"""A pruned encoder's vectors of whole texts brought back to its original's: zeros locked, no labels.

While zeros grow, the states of tokens are the better thing to match: a step has thousands of them, and of texts some
dozens. What is then left of the error in texts' vectors goes by a few hundred steps on single texts (docs/compress.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pruneonce.data.corpus import Corpus
from pruneonce.data.windows import Windows, windows_for
from pruneonce.errors import UsageError
from pruneonce.files import write_text
from pruneonce.formats.sentence_folder import read_sentence_folder
from pruneonce.models.hub import load_config
from pruneonce.models.sentence import EmbeddingPlan
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import CompressRecipe, FinetuneRecipe, parse_recipe

SHARE = 0.15  # of the budget
TEXTS_PER_STEP = 32
FEWEST_STEPS, MOST_STEPS = 20, 1500
STEPS_BESIDE = 0.25  # of those of pruning, where their number is given and no budget
RATE = 0.2  # times the peak rate of pruning: 3e-4 for MiniLM, as in locked fine-tuning
TEXTS_SEED = 1 << 22  # of draws that no step of training makes
LONGEST = 256  # tokens of a text
MOST_TEXTS = 16_000
# A text is one sentence, or so many that follow one another.
SENTENCES = 2 / 3
PASSAGE_SENTENCES = (3, 8)
MOST_PAIRS = 500  # beginning and end of a document held out: whether one finds the other is the score


def are_wanted(model: str, asked: bool | None) -> bool:
    """Whether vectors are learnt. asked: None for what the model is, one of sentence-transformers that gives vectors.

    UsageError where they are asked of a model with a task's head.
    """
    if asked:
        architecture = str((load_config(model).architectures or [""])[0])
        if "For" in architecture:
            raise UsageError(
                f"{model} is a {architecture}, which answers by its head: vectors are learnt of encoders alone"
            )
    if asked is not None:
        return asked
    folder = read_sentence_folder(Path(model)) if Path(model).is_dir() else None
    return folder is not None and isinstance(folder.plan, EmbeddingPlan)


def steps_in(budget_seconds: float, seconds_per_step: float) -> int:
    """How many fit `SHARE` of the budget; a step takes about as long as one of matching with all zeros there."""
    fit = math.floor(SHARE * budget_seconds / seconds_per_step)
    return min(MOST_STEPS, max(FEWEST_STEPS, fit))


def steps_beside(steps: int) -> int:
    """How many follow so many of pruning."""
    return max(1, int(STEPS_BESIDE * steps))


def write_texts(corpus: Path, model: str, seed: int, train: Path, held_out: Path) -> None:
    """Single texts out of the corpus's training documents, and pairs out of those held out, as JSON lines."""
    tokenizer = load_tokenizer(model)
    taught, left = (windows_for(Corpus(corpus, split), tokenizer, pairs=0.0) for split in ("train", "validation"))
    texts = dict.fromkeys(_texts(taught, tokenizer, np.random.default_rng([seed, TEXTS_SEED])))
    _write(train, [{"text": text} for text in texts])
    _write(held_out, [{"text": first, "text_pair": second} for first, second in _pairs(left, tokenizer)])


def recipe_of(
    recipe: CompressRecipe, pruned: Path, steps: int, longest: int, train: Path, held_out: Path
) -> FinetuneRecipe:
    """The recipe of a fine-tuning by the original's vectors alone.

    recipe: of the pruning. longest: tokens that the model takes.
    """
    values = {
        "model": str(pruned),
        "seed": recipe.seed,
        "lock": "require",
        "task": {
            "name": "embedding",
            "train": str(train),
            "validation": str(held_out),
            "max_tokens": min(LONGEST, longest),
        },
        "distillation": {"teacher": recipe.model, "hard_weight": 0.0, "kd_weight": 1.0},
        "training": {
            "learning_rate": RATE * recipe.training.learning_rate,
            "steps": steps,
            "batch_size": TEXTS_PER_STEP,
            "warmup_ratio": 0.05,
            "dropout": 0.0,
            "precision": recipe.training.precision,
        },
    }
    return parse_recipe(values, "finetune", where="compress")


def _texts(windows: Windows, tokenizer: Tokenizer, rng: np.random.Generator) -> Iterator[str]:
    for _ in range(min(MOST_TEXTS, int(windows.corpus.lengths.sum()))):
        sentences = windows.sentences(windows.document(rng))
        count = 1 if rng.random() < SENTENCES else int(rng.integers(*PASSAGE_SENTENCES, endpoint=True))
        start = int(rng.integers(max(1, len(sentences) - count + 1)))
        text = tokenizer.decode(np.concatenate(sentences[start : start + count]).tolist())
        if text.strip():
            yield text


def _pairs(windows: Windows, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    for number in range(min(MOST_PAIRS, len(windows.corpus))):
        ids = np.concatenate(windows.sentences(windows.corpus[number].input_ids))[: 2 * LONGEST]
        middle = max(1, len(ids) // 2)
        first, second = (tokenizer.decode(half.tolist()) for half in (ids[:middle], ids[middle:]))
        if first.strip() and second.strip():
            yield first, second


def _write(file: Path, rows: Iterable[dict[str, str]]) -> None:
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
