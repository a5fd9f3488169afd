"""Texts to the corpus that is matched on, and what to be warned of about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pruneonce.data import text
from pruneonce.data.assets import fetch_assets
from pruneonce.data.build import build
from pruneonce.data.corpus import Corpus
from pruneonce.data.windows import DOCUMENT_TOKENS, LAYOUT
from pruneonce.errors import OtherInputsError, UsageError
from pruneonce.files import sha256_file
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids
from pruneonce.progress import Advance

HELD_OUT = 0.02  # of the documents: to compare on
FEWEST_HELD_OUT = 0.2  # of so few documents that two in a hundred would be none
FEWEST_DOCUMENTS = 500
# Warned of: fewer tokens are learnt by heart; more unknown ones than any text has that a vocabulary was made for.
FEW_TOKENS = 200_000
MANY_UNKNOWN = 0.02


def default_texts() -> Path:
    """The leads of 10,000 Wikipedia articles that the quickstart downloads, or has."""
    return fetch_assets().wikipedia


def build_corpus(
    texts: Sequence[Path],
    tokenizer_of: str | Path,
    out: Path,
    *,
    column: str = "text",
    documents: str = "line",
    seed: int = 42,
    on_progress: Advance | None = None,
) -> Path:
    """`out`/corpus, made of the texts with the model's tokenizer; what is there already stays.

    UsageError or PruneonceError for files that hold no text, or too little of it to hold something out.
    """
    try:
        articles = text.collect(
            texts, out / "articles", text_column=column, documents=documents, on_progress=on_progress
        ).manifest["articles"]
    except OtherInputsError as error:
        raise OtherInputsError(
            f"{out} holds a compression on other texts, or on other parts of them: choose another --out, or delete it"
        ) from error
    if articles < 2:
        raise UsageError(f"{texts[0]} holds {articles} document: at least two are needed, one of them to compare on")
    built = build(
        out / "articles",
        out / "corpus",
        tokenizer=tokenizer_of,
        layout=LAYOUT,
        max_tokens=DOCUMENT_TOKENS,
        short_sequence_probability=0.0,
        validation_fraction=HELD_OUT if articles >= FEWEST_DOCUMENTS else FEWEST_HELD_OUT,
        seed=seed,
        on_progress=on_progress,
    )
    if not built.manifest["splits"]["validation"]["examples"]:
        raise UsageError(f"{texts[0]} holds one document {articles} times: another is needed to compare on")
    return out / "corpus"


def warnings_about(
    corpus: Path, tokenizer_of: str | Path, texts: Sequence[Path], evaluation: Sequence[str | Path]
) -> list[str]:
    """One line each of what makes a compression on these texts worse than it looks.

    evaluation: files that the compressed model will be scored on.
    """
    train = Corpus(corpus, "train")
    tokens = int(train.lengths.sum())
    found = []
    if tokens < FEW_TOKENS:
        found.append(
            f"the texts hold {tokens:,} tokens only: the model will know them by heart; a few hundred thousand of the "
            "kind it will read are better, in any order and without labels"
        )
    unknown = special_token_ids(load_tokenizer(tokenizer_of))["unk"]
    share = float(train.token_counts[unknown]) / max(1, int(np.sum(train.token_counts)))
    if share > MANY_UNKNOWN:
        found.append(
            f"{share:.0%} of the tokens are unknown to the model's vocabulary: are the texts in a language it reads?"
        )
    read = {sha256_file(file): file for file in texts}
    for file in evaluation:
        if Path(file).is_file() and (same := read.get(sha256_file(Path(file)))) is not None:
            found.append(f"{same} is matched on and scored on: the score will say too much; hold it out")
    return found
