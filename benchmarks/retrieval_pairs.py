"""SQuAD's dev questions beside the paragraphs that answer them, for retrieval among all of its paragraphs.

    python benchmarks/retrieval_pairs.py dev-v1.1.json squad-dev.jsonl
    pruneonce evaluate MODEL --task embedding --data squad-dev.jsonl --set task.text=question …

The study recipes/studies/matching.toml reads it as retrieval/squad-dev.jsonl below its data folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pruneonce.files import write_text


def pairs(squad: dict) -> list[dict[str, str]]:
    """A row per different question, in the order of the file: question, context."""
    rows = {
        asked["question"]: {"question": asked["question"], "context": paragraph["context"]}
        for article in squad["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    }
    return list(rows.values())


if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:3])
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = pairs(json.loads(source.read_text(encoding="utf-8")))
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows)} questions, {len({row['context'] for row in rows})} paragraphs: {out}")
