"""Answers to all texts of a file, into a file of JSON lines, in as much memory as a few thousand texts take."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import check_writable, replacing
from pruneonce.progress import Advance, no_progress
from pruneonce.remote_files import delivered, is_url
from pruneonce.run.chunk_answers import answering
from pruneonce.run.source_rows import BadRows, chunks, rows_of
from pruneonce.run.text_rows import BadRow, TextRow

TEXTS_AT_ONCE = 1024  # read, answered in batches of similar length, and written
TASKS = ("text-classification", "token-classification", "fill-mask")  # a text has an answer of its own


class Answered(NamedTuple):
    """What a file of answers holds."""

    texts: int  # lines, those without an answer among them
    bad: int  # rows that held no text


def predict_file(
    pipeline: Any,
    source: str | Path,
    out: str | Path,
    *,
    column: str = "text",
    errors: str | Path | None = None,
    on: str = "",
    workers: int | None = None,
    worker_threads: int = 1,
    on_progress: Advance | None = None,
    **options: Any,
) -> Answered:
    """A pipeline's answers to a file's texts, in order, into `out`, which is whole or not there.

    pipeline: of a task in TASKS. source, errors, on, workers, worker_threads: as of `embed_file`. out: `.jsonl`, a line
    {"text", "answer"} per text; both are null for a row that held none. options: of the pipeline's call.
    """
    if pipeline.task not in TASKS:
        raise UsageError(f"files are answered for {', '.join(TASKS)}; this is {pipeline.task} (`embed` writes vectors)")
    if Path(out).suffix != ".jsonl":
        raise UsageError(f"{out}: answers are written as .jsonl")
    if not is_url(out):
        check_writable(Path(out))
    advance = on_progress or no_progress
    rows = rows_of(source, column)
    done = 0
    waiting: deque[list[TextRow | BadRow]] = deque()  # chunks that are being answered
    with (
        answering(pipeline, out, options, on=on, workers=workers, worker_threads=worker_threads) as answer_all,
        BadRows(errors) as bad,
        delivered(out) as place,
        replacing(place) as temporary,
        open(temporary, "w", encoding="utf-8") as stream,
    ):
        for found in answer_all(bad.texts_of(chunks(rows, TEXTS_AT_ONCE), waiting)):
            chunk, answers = waiting.popleft(), iter(found)
            for row in chunk:
                text, answer = (row.text, next(answers)) if isinstance(row, TextRow) else (None, None)
                stream.write(json.dumps({"text": text, "answer": answer}, ensure_ascii=False) + "\n")
            done += len(chunk)
            advance(done, None, "texts")
        if done == bad.count:
            raise PruneonceError(f"{source} holds no texts")
    return Answered(done, bad.count)
