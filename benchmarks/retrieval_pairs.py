"""What recipes/studies/matching.toml asks of vectors, made of SQuAD and QQP below its data folder:

    python benchmarks/retrieval_pairs.py FOLDER

- retrieval/squad-dev.jsonl: the dev set's questions beside the paragraphs that answer them, for a search among all of
  its paragraphs;
- retrieval/squad-train-texts.jsonl and retrieval/qqp-train-texts.jsonl: questions and paragraphs of training sets, one
  text a row and no label: what a teacher's vectors are learnt on.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruneonce.files import write_text

MOST_TEXTS = 16_000  # of a file of training texts


def pairs(squad: dict[str, Any]) -> list[dict[str, str]]:
    """A row per different question, in the order of the file: question, context."""
    rows = {
        asked["question"]: {"question": asked["question"], "context": paragraph["context"]}
        for article in squad["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    }
    return list(rows.values())


def texts_alone(column: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Different texts, in random order."""
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    random.Random(0).shuffle(different)
    return [{column: text} for text in different[:MOST_TEXTS]]


def _write(file: Path, rows: Sequence[dict[str, str]]) -> None:
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows)} rows: {file}")


def main() -> None:
    folder = Path(sys.argv[1])
    dev, train = (
        pairs(json.loads((folder / "squad" / f"{split}-v1.1.json").read_text(encoding="utf-8")))
        for split in ("dev", "train")
    )
    with open(folder / "glue" / "QQP" / "train.tsv", encoding="utf-8", newline="") as lines:
        asked = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    out = folder / "retrieval"
    out.mkdir(exist_ok=True)
    _write(out / "squad-dev.jsonl", dev)
    _write(out / "squad-train-texts.jsonl", texts_alone("question", [text for row in train for text in row.values()]))
    questions = [row[name] or "" for row in asked for name in ("question1", "question2")]
    _write(out / "qqp-train-texts.jsonl", texts_alone("question1", questions))


if __name__ == "__main__":
    main()
