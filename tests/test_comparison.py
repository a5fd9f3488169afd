"""Predictions of runs and their paired comparison: known answers, determinism, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.comparison import compare, compare_main, mean_of_tasks
from pruneonce.evaluation.predictions import Split, make_split, read_predictions, write_predictions
from pruneonce.tasks import get_task
from pruneonce.tasks.classification import TextExample
from pruneonce.tasks.metrics import METRICS

LABELS = np.random.default_rng(0).integers(2, size=400)


def answers(right, seed, labels=LABELS):
    """Predictions of which a share of `right` are the labels."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < right, labels, 1 - labels).tolist()


def save(folder, predictions, *, task="mrpc", metrics=("f1", "accuracy"), examples="digest", labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"predictions": predictions, "labels": np.asarray(labels).tolist()}
    write_predictions(folder, task, {"": Split(examples, tuple(metrics), columns)})
    return folder


def test_interval_of_a_mean_agrees_with_the_paired_normal_approximation(tmp_path):
    good, poor = answers(0.9, 1), answers(0.8, 2)
    found = {each.metric: each for each in compare([save(tmp_path / "a", good)], [save(tmp_path / "b", poor)])}
    difference = (np.array(good) == LABELS).astype(float) - (np.array(poor) == LABELS)
    accuracy = found["accuracy"]
    assert accuracy.difference == pytest.approx(difference.mean())
    half = stats.norm.ppf(0.975) * difference.std(ddof=1) / len(LABELS) ** 0.5
    assert (accuracy.lower, accuracy.upper) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.006
    )
    p_value = 2 * stats.norm.sf(abs(difference.mean()) / (half / stats.norm.ppf(0.975)))
    assert accuracy.p_value == pytest.approx(p_value, rel=0.5, abs=1e-3)
    assert (accuracy.examples, accuracy.samples) == (400, 10_000)


def test_f1_is_computed_anew_on_every_sample_and_not_averaged(tmp_path):
    good, poor = answers(0.9, 1), answers(0.8, 2)
    a, b = save(tmp_path / "a", good), save(tmp_path / "b", poor)
    f1 = next(each for each in compare([a], [b], samples=500, seed=3) if each.metric == "f1")
    assert f1.a == METRICS["f1"](np.array(good), LABELS)
    rng = np.random.default_rng([3, len(LABELS)])
    rows = rng.integers(len(LABELS), size=(500, len(LABELS)))
    twin = [METRICS["f1"](np.array(good)[r], LABELS[r]) - METRICS["f1"](np.array(poor)[r], LABELS[r]) for r in rows]
    assert (f1.lower, f1.upper) == pytest.approx(tuple(np.quantile(twin, [0.025, 0.975])))


def test_a_mean_over_tasks_weighs_tasks_alike_and_varies_less_than_each(tmp_path):
    large = LABELS, np.random.default_rng(5).integers(2, size=4000)
    found = []
    for number, labels in enumerate(large):
        sides = [
            [save(tmp_path / f"{side}{number}", answers(right, seed, labels), metrics=("accuracy",), labels=labels)]
            for side, right, seed in (("a", 0.9, 1), ("b", 0.8 - 0.1 * number, 2))
        ]
        found.append(compare_main(*sides, samples=2000))
        assert found[-1].comparison == compare(*sides, samples=2000)[0]
    mean = mean_of_tasks(found)
    singles = [each.comparison for each in found]
    assert mean.difference == pytest.approx((singles[0].difference + singles[1].difference) / 2)
    # Independent samples: the standard errors add up like the sides of a right angle.
    width = np.hypot(*(each.upper - each.lower for each in singles)) / 2
    assert mean.upper - mean.lower == pytest.approx(width, rel=0.1)
    assert mean.examples == 4400


def test_the_answer_is_a_function_of_files_samples_and_seed(tmp_path):
    a, b = save(tmp_path / "a", answers(0.9, 1)), save(tmp_path / "b", answers(0.85, 2))
    assert compare([a], [b], samples=300) == compare([a], [b], samples=300)
    assert compare([a], [b], samples=300) != compare([a], [b], samples=300, seed=1)
    forth, back = compare([a], [b], samples=300)[1], compare([b], [a], samples=300)[1]
    assert (forth.difference, forth.lower) == pytest.approx((-back.difference, -back.upper))
    assert forth.p_value == back.p_value


def test_equal_runs_do_not_differ_and_no_p_value_is_zero(tmp_path):
    same = [save(tmp_path / name, answers(0.9, 1)) for name in ("a", "b")]
    assert {each.p_value for each in compare(same[:1], same[1:], samples=200)} == {1.0}
    wrong = save(tmp_path / "c", (1 - LABELS).tolist())
    assert compare(same[:1], [wrong], samples=200)[1].p_value == pytest.approx(2 / 201)


def test_seeds_of_a_side_are_averaged(tmp_path):
    runs = [save(tmp_path / f"seed-{seed}", answers(0.9, seed)) for seed in (1, 2)]
    other = save(tmp_path / "b", answers(0.8, 3))
    both = compare(runs, [other], samples=200)
    single = [compare([run], [other], samples=200) for run in runs]
    for number, each in enumerate(both):
        assert each.difference == pytest.approx((single[0][number].difference + single[1][number].difference) / 2)
        assert each.upper - each.lower < max(one[number].upper - one[number].lower for one in single)


def test_constant_predictions_have_a_correlation_of_zero_in_every_sample(tmp_path):
    a = save(tmp_path / "a", [0] * 400, task="cola", metrics=("matthews",))
    b = save(tmp_path / "b", [1] * 400, task="cola", metrics=("matthews",))
    (found,) = compare([a], [b], samples=50)
    assert (found.difference, found.lower, found.upper, found.p_value) == (0, 0, 0, 1)


def test_runs_on_other_examples_are_refused(tmp_path, pruneonce):
    a = save(tmp_path / "a", answers(0.9, 1))
    for name, changes in (("order", {"examples": "other"}), ("metric", {"metrics": ("accuracy",)})):
        with pytest.raises(UsageError, match="not scored on the same examples"):
            compare([a], [save(tmp_path / name, answers(0.9, 1), **changes)])


def test_the_digest_changes_with_text_label_and_order():
    task = get_task("sst2")
    examples = [TextExample("good", 1), TextExample("bad", 0)]
    outcomes = {"predictions": [1, 0], "labels": [1, 0]}
    digest = make_split(task, examples, outcomes).examples
    assert digest == make_split(task, list(examples), outcomes).examples
    for other in (
        examples[::-1],
        [TextExample("good", 1), TextExample("bad", 1)],
        [TextExample("goo", 1), examples[1]],
    ):
        assert make_split(task, other, outcomes).examples != digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format_version=9), "format version 9"),
        (lambda record: record["splits"][""].pop("labels"), "is damaged"),
        (lambda record: record["splits"][""]["predictions"].pop(), "not of one length"),
        (lambda record: record.update(splits=3), "is damaged"),
        (lambda record: record["splits"][""].update(metrics=["nonsense"]), "is damaged"),
    ],
)
def test_damaged_predictions_are_one_line(tmp_path, change, message):
    folder = save(tmp_path / "a", answers(0.9, 1))
    record = json.loads((folder / "predictions.json").read_text())
    change(record)
    (folder / "predictions.json").write_text(json.dumps(record))
    with pytest.raises(PruneonceError, match=message) as caught:
        read_predictions(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_predictions_is_named(tmp_path):
    with pytest.raises(PruneonceError, match=r"has no predictions\.json"):
        read_predictions(tmp_path)


def test_squad_outcomes_average_to_its_scores():
    task = get_task("squad")
    from pruneonce.tasks.metrics import question_scores, squad_scores

    predictions, gold = ["the cat", "", "a dog"], [("cat",), (), ("dog house", "dogs")]
    exact, f1 = question_scores(predictions, gold)
    columns = {"answers": predictions, "exact_match": exact, "f1": f1}
    split = Split("digest", task.metrics, columns)
    assert {name: split.metric(name) for name in task.metrics} == pytest.approx(squad_scores(predictions, gold))
