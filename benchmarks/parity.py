"""Whether the engine's pipeline answers as transformers' does, on as many real examples as you like.

    python benchmarks/parity.py FOLDER DATA [--task sst2] [--limit 500] [--json]

FOLDER is a fine-tuned model folder, DATA a file of its task (for question answering in SQuAD's JSON). The folder is
packed with float32 embeddings and both are asked the same. transformers 5 has no pipeline for question answering: its
place takes the definition of transformers 4's, below, with PyTorch; under transformers 4 the pipeline itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import pruneonce
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError
from pruneonce.formats.record import read_provenance
from pruneonce.models.hub import load_config
from pruneonce.tasks import Task, get_task

MAX_ANSWER_TOKENS, WINDOW_TOKENS, SHARED_TOKENS = 15, 384, 128  # transformers 4's defaults
OWN_TASKS = ("classification", "regression")
CANDIDATES = 12  # spans of a window, as transformers 4 takes for one answer


@dataclass(frozen=True)
class Parity:
    """What was found. A score is a probability."""

    task: str
    reference: str
    examples: int
    equal: int  # answers: the label; or the text and where it is
    largest_score_difference: float  # among the equal ones
    different: list[dict[str, Any]]  # the example's number, our answer, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", help="a GLUE task, squad, …; default what the folder's record says")
    parser.add_argument("--limit", type=int, help="examples, evenly spaced; default all")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        found = parity(arguments.folder, arguments.data, task=arguments.task, limit=arguments.limit)
    except PruneonceError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    print(f"{found.task}: {found.equal} of {found.examples} answers equal to those of {found.reference}")
    print(f"largest difference of their scores: {found.largest_score_difference:.1e}")
    for each in found.different[:10]:
        print(f"  {each['example']}: {each['ours']} / {each['theirs']}")


def parity(folder: Path, data: Path, *, task: str | None = None, limit: int | None = None) -> Parity:
    """Ask both pipelines about the examples in `data`."""
    record = read_provenance(folder)
    name = task or (record.recipe["task"]["name"] if record else "")
    examples = _task(name, folder, record).read(data)
    if limit is not None and limit < len(examples):
        examples = [examples[index] for index in np.linspace(0, len(examples) - 1, limit).astype(int)]
    with tempfile.TemporaryDirectory() as scratch:
        export_packed(folder, Path(scratch) / "m.pruneonce", embeddings="fp32")
        engine: Any = pruneonce.pipeline(model=Path(scratch) / "m.pruneonce")
    version = f"transformers {transformers.__version__}"
    if engine.task == "question-answering":
        questions = [{"question": each.question, "context": each.context} for each in examples]
        ours = engine(questions)
        if version < "transformers 5":
            theirs = transformers.pipeline(engine.task, model=str(folder), device="cpu")(questions)
        else:
            theirs, version = answers_by_definition(folder, questions), "transformers 4's definition in PyTorch"
    else:
        texts = [
            each.text if isinstance(each.text, str) else dict(zip(("text", "text_pair"), each.text, strict=True))
            for each in examples
        ]
        ours = engine(texts)
        theirs = transformers.pipeline(engine.task, model=str(folder), device="cpu")(texts)
    return compare(name, version, ours, theirs)


def _task(name: str, folder: Path, record: Any) -> Task:
    """The task, its columns those of the folder's record and its labels, where they are one's own, of its config."""
    said = record.recipe["task"] if record and record.recipe["task"]["name"] == name else {}
    own = {key: said.get(key, "") for key in ("text", "text_pair", "label")} if name in OWN_TASKS else {}
    if name == "classification":
        labels = load_config(folder).id2label
        own["labels"] = [labels[index] for index in sorted(labels)]
    return get_task(name, **own)


def compare(task: str, reference: str, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> Parity:
    keys = ("answer", "start", "end") if "answer" in ours[0] else ("label",)
    pairs = list(enumerate(zip(ours, theirs, strict=True)))
    equal = {number for number, (a, b) in pairs if all(a[key] == b[key] for key in keys)}
    return Parity(
        task=task,
        reference=reference,
        examples=len(pairs),
        equal=len(equal),
        largest_score_difference=max((abs(a["score"] - b["score"]) for n, (a, b) in pairs if n in equal), default=0.0),
        different=[{"example": n, "ours": a, "theirs": b} for n, (a, b) in pairs if n not in equal],
    )


@torch.no_grad()
def answers_by_definition(folder: Path, questions: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """The best answer of each question's windows.

    Softmax over [CLS] and the context, start times end; the scores of the `CANDIDATES` best spans of each window add up
    where they are the same text in whole words.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, trust_remote_code=False).eval()
    answers = []
    for asked in questions:
        windows = tokenizer(
            asked["question"],
            asked["context"],
            truncation="only_second",
            max_length=min(WINDOW_TOKENS, model.config.max_position_embeddings),
            stride=SHARED_TOKENS,
            return_overflowing_tokens=True,
            padding=True,
            return_tensors="pt",
        )
        windows.pop("overflow_to_sample_mapping")
        output = model(**windows)
        found: dict[str, dict[str, Any]] = {}
        for row in range(len(windows["input_ids"])):
            context = torch.tensor([part == 1 for part in windows.sequence_ids(row)])
            allowed = context.clone()
            allowed[0] = True  # [CLS]
            start, end = (
                logits[row].masked_fill(~allowed, -10000.0).softmax(-1)
                for logits in (output.start_logits, output.end_logits)
            )
            scores = (start[:, None] * end[None, :]).triu().tril(MAX_ANSWER_TOKENS - 1)
            scores[~context] = 0
            scores[:, ~context] = 0
            best = scores.flatten().topk(min(CANDIDATES, scores.numel()))
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                if score == 0:
                    continue  # of a span outside
                first, last = divmod(place, len(context))
                words = [windows.word_to_chars(row, windows.token_to_word(row, token), 1) for token in (first, last)]
                begin, stop = words[0].start, words[1].end
                answer = {"score": 0.0, "start": begin, "end": stop, "answer": asked["context"][begin:stop]}
                found.setdefault(answer["answer"].lower(), answer)["score"] += score
        answers.append(max(found.values(), key=lambda answer: answer["score"]))
    return answers


if __name__ == "__main__":
    main()
