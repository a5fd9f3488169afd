"""Progress where there is no terminal: few lines, each of which says how far, how fast and how long yet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pruneonce import progress
from pruneonce.recipe import parse_recipe
from pruneonce.stages import run_finetune
from pruneonce.stages.options import StageOptions


@pytest.fixture
def lines(monkeypatch):
    """What is printed of a job, in a narrow window too: (seconds, done, total, note) of each of its calls -> lines."""

    def lines(title, *calls):
        clock = iter([0.0, *(call[0] for call in calls)])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        out = io.StringIO()
        with progress.progress_bar(title, Console(file=out, width=40)) as advance:
            for _, *call in calls:
                advance(*call)
        return out.getvalue().splitlines()

    return lines


def test_a_pipe_gets_a_line_every_ten_seconds_and_a_last_one(lines):
    calls = [(second, second, 25, "files") for second in range(26)]
    assert lines("articles", *calls) == [
        "articles: 10 of 25 files, 1/s, 15 s left",
        "articles: 20 of 25 files, 1/s, 5 s left",
        "articles: 25 of 25 files, 1/s",
    ]


def test_nothing_is_said_before_something_is_done(lines):
    assert lines("articles", (0, 0, 1, "files"), (60, 0, 1, "files")) == []
    assert lines("articles", (0, 1, 1, "files")) == ["articles: 1 of 1 files"]


def test_a_job_that_goes_on_counts_its_pace_from_where_it_went_on(lines):
    assert lines("finetune", (0, 400, 500, ""), (20, 420, 500, "loss 0.31")) == [
        "finetune: 420 of 500, 1/s, 80 s left, loss 0.31"
    ]


def test_a_part_that_counts_something_else_has_a_pace_of_its_own(lines):
    """Scoring after five hundred steps begins at none of a thousand examples, not five hundred ahead."""
    calls = [(0, 400, 500, ""), (20, 500, 500, "loss 0.31"), (21, 8, 1000, "scored"), (41, 208, 1000, "scored")]
    assert lines("finetune", *calls) == [
        "finetune: 500 of 500, 5/s, loss 0.31",
        "finetune: 208 of 1000 scored, 10/s, 79 s left",
    ]


def test_a_stage_says_what_it_scores(sparse_tiny_bert, reviews, tmp_path):
    """SQuAD's dev set takes minutes: a bar that stands still at its last step looks like a hang."""
    told = []
    data = {"name": "classification", "train": str(reviews), "validation": str(reviews)}
    training = {"steps": 1, "batch_size": 4, "learning_rate": 1e-3}
    recipe = parse_recipe({"model": str(sparse_tiny_bert), "task": data, "training": training}, "finetune")
    run_finetune(recipe, StageOptions(tmp_path, on_progress=lambda *call: told.append(call)))
    done, total, unit = told[-1]
    assert (done == total, unit) == (True, "scored")
    assert total == len(reviews.read_text().splitlines())
