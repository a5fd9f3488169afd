"""The tasks embedding and ranking: what is read, what is scored, and what training learns, zeros locked."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from tiny_stages import run
from torch.nn import functional

from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.comparison import compare
from pruneonce.evaluation.packed import evaluate_task, score_packed
from pruneonce.evaluation.scoring import score_folder, score_packed_beside
from pruneonce.formats.record import read_provenance
from pruneonce.models.sentence import POOLINGS
from pruneonce.recipe import TaskData
from pruneonce.run.pipelines import pipeline
from pruneonce.run.sentence import pooled as pooled_by_engine
from pruneonce.tasks import get_task
from pruneonce.tasks.classification import TextFeature
from pruneonce.tasks.embedding import EmbeddingExample, EmbeddingFeature, EmbeddingTask
from pruneonce.tasks.ranking import MOST_TEXTS, RankingTask
from pruneonce.tasks.retrieval import retrieval_scores
from pruneonce.train.heads.embedding import SCALE, Embedding, pooled
from pruneonce.train.heads.ranking import Ranking

WORDS = "city river king war year people world music water house".split()


def write(file, rows):
    if file.suffix == ".csv":
        with open(file, "w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pairs(count=60):
    """Texts that belong together share their noun."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        word, other = rng.choice(WORDS, 2, replace=False)
        one, two = rng.choice(["the", "a", "was", "for"], 2)
        found.append({"text": f"{one} {word}", "text_pair": f"{word} {two} it", "negative": f"{other} {two} it"})
    return found


# ------------------------------------------------------------------------------------------------------------- scores


def test_a_text_that_stands_in_many_pairs_is_computed_once_and_each_pair_gets_its_own():
    texts = {name: TextFeature(np.array([n], np.int32), np.zeros(1, np.int32), 0) for n, name in enumerate("abxy")}
    examples = [EmbeddingExample(tuple(pair)) for pair in ("ax", "bx", "ay", "xa")]
    features = [EmbeddingFeature(tuple(texts[name] for name in example.text), None) for example in examples]
    asked, seen = [], []

    def predict(some):
        asked.extend(feature.input_ids.item() for feature in some)
        return [np.eye(4, dtype=np.float32)[feature.input_ids] for feature in some]

    class Task(EmbeddingTask):
        def outcomes(self, examples, features, logits):
            seen.extend(each.argmax(1).tolist() for each in logits)
            return super().outcomes(examples, features, logits)

    evaluate_task(Task(), examples, features, predict)
    assert sorted(asked) == [0, 1, 2, 3]
    assert seen == [[0, 2], [1, 2], [0, 3], [2, 0]]


def test_ndcg_is_that_of_scikit_learn_with_ties_and_grades():
    rng = np.random.default_rng(1)
    for candidates in (2, 5, 10, 30):
        for _ in range(20):
            relevance = rng.integers(0, 4, candidates) / 3
            scores = np.round(rng.normal(size=candidates), 1).astype(np.float32)  # rounded: some are equal
            if not relevance.any():
                continue
            expected = ndcg_score([relevance], [scores.astype(np.float64)], k=10)
            assert retrieval_scores(scores, relevance)[0] == pytest.approx(expected, abs=1e-12)


def test_a_model_that_tells_nothing_apart_gains_nothing_by_the_order_of_the_file():
    relevance = np.array([1.0, 0, 0, 0])
    ndcg, rank, first, recall = retrieval_scores(np.zeros(4, np.float32), relevance)
    assert (rank, first, recall) == (1 / 4, 0, 1)
    assert ndcg == pytest.approx(ndcg_score([relevance], [np.zeros(4)], k=10))
    assert retrieval_scores(np.arange(4.0), np.zeros(4)) == (0, 0, 0, 0)


def test_reciprocal_rank_counts_the_first_ten():
    relevance = np.zeros(12)
    relevance[3] = 1
    scores = -np.arange(12.0)
    assert retrieval_scores(scores, relevance)[1:] == (1 / 4, 0, 1)
    assert retrieval_scores(-scores, relevance)[:2] == (1 / np.log2(10), 1 / 9)
    relevance = np.zeros(12)
    relevance[11] = 1
    assert retrieval_scores(scores, relevance) == (0, 0, 0, 1)


def test_recall_counts_those_that_come_before_the_hundredth_and_ties_against_it():
    relevance = np.zeros(300)
    relevance[[0, 99, 100, 250]] = 1
    assert retrieval_scores(-np.arange(300.0), relevance)[3] == 2 / 4
    tied = np.zeros(300)
    tied[0] = 1
    assert retrieval_scores(tied, relevance)[3] == 1 / 4
    few = np.zeros(100)
    few[3] = 1
    assert retrieval_scores(np.zeros(100), few)[3] == 1


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_pairs_triplets_grades_and_texts_alone_are_read(tmp_path, suffix):
    rows = [row | {"score": 2.5} for row in pairs(3)]
    file = write(tmp_path / f"a{suffix}", rows)
    triplets = get_task("embedding", negative="negative").read(file)
    assert [example.text for example in triplets] == [tuple(row.values())[:3] for row in rows]
    assert get_task("embedding").read(file)[0].text == tuple(rows[0].values())[:2]
    graded = get_task("embedding", label="score", label_max=5.0).read(file)
    assert [example.label for example in graded] == [0.5] * 3
    alone = write(tmp_path / f"b{suffix}", [{"text": "a"}, {"text": ""}])
    assert [each.text for each in get_task("embedding").read(alone, training=True)] == [("a",), ("",)]
    with pytest.raises(UsageError, match="has no column 'text_pair'"):
        get_task("embedding").read(alone)
    with pytest.raises(UsageError, match=r"set task.label_max to the largest there is"):
        get_task("embedding", label="score").read(file)


def test_texts_of_a_query_are_one_example_and_long_lists_are_cut_for_training(tmp_path):
    rows = [
        {"text": "q1" if n % 2 else "q2", "text_pair": f"t{n}", "label": n % 3 / 2} for n in range(2 * MOST_TEXTS + 2)
    ]
    task = get_task("ranking")
    whole = task.read(write(tmp_path / "r.jsonl", rows))
    assert [(example.text[0], len(example.label)) for example in whole] == [("q2", 17), ("q1", 17)]
    assert whole[1].text[1:3] == ("t1", "t3")
    assert whole[1].label[:2] == (0.5, 0)
    cut = task.read(tmp_path / "r.jsonl", training=True)
    assert [len(example.label) for example in cut] == [16, 1, 16, 1]
    for label in ("-1", "two", "", None, "nan"):
        file = write(tmp_path / "w.jsonl", [{"text": "q", "text_pair": "t", "label": label}])
        with pytest.raises(PruneonceError, match=r"w.jsonl, line 1: the label"):
            task.read(file)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("embedding", {"label": "l", "negative": "n"}, "choose one"),
        ("embedding", {"labels": ("a", "b")}, "no classes"),
        ("embedding", {"pooling": ("median",)}, "'median' is not one of cls"),
        ("embedding", {"label_max": 0.0}, "label_max must be above 0"),
        ("ranking", {"label_max": float("nan")}, "label_max must be above 0"),
        ("ranking", {"negative": "n"}, "neither negative nor pooling"),
        ("regression", {"negative": "n"}, "neither negative nor label_max nor pooling"),
        ("sst2", {"label_max": 5.0}, "columns and labels of its own"),
    ],
)
def test_settings_of_another_task_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        get_task(name, **options)


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("pooling", [*POOLINGS, ("mean", "cls")])
def test_training_pools_as_the_engine_does(pooling):
    modes = (pooling,) if isinstance(pooling, str) else pooling
    torch.manual_seed(0)
    states, lengths = torch.randn(3, 7, 5), [7, 4, 1]
    mask = torch.tensor([[1] * length + [0] * (7 - length) for length in lengths])
    found = pooled(states, mask, modes)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row], pooled_by_engine(states[row, :length].numpy(), modes), atol=1e-6)


def test_the_loss_of_pairs_is_the_cross_entropy_among_the_batch_and_spares_the_same_text():
    torch.manual_seed(0)
    vectors = torch.randn(3, 3, 4)
    ids = torch.arange(9)[:, None].repeat(1, 2)
    head = Embedding()
    unit = functional.normalize(vectors, dim=-1)
    candidates = torch.cat([unit[:, 1], unit[:, 2]])
    scores = SCALE * unit[:, 0] @ candidates.T
    expected = functional.cross_entropy(scores, torch.arange(3), reduction="sum")
    assert torch.allclose(head.hard_loss(vectors, {"input_ids": ids}), expected)
    ids[8] = ids[1]  # the third one's third text is the first one's second
    scores[0, 5] = -float("inf")
    expected = functional.cross_entropy(scores, torch.arange(3), reduction="sum")
    assert torch.allclose(head.hard_loss(vectors, {"input_ids": ids}), expected)


def test_the_losses_on_grades_and_teachers():
    torch.manual_seed(0)
    vectors, taught = torch.randn(4, 2, 5), torch.randn(4, 2, 5)
    labels = torch.rand(4)
    cosine = functional.cosine_similarity(vectors[:, 0], vectors[:, 1])
    found = Embedding().hard_loss(vectors, {"labels": labels})
    assert torch.allclose(found, (cosine - labels).square().sum())
    expected = (2 - 2 * functional.cosine_similarity(vectors, taught, dim=-1)).mean(1).sum()
    assert torch.allclose(Embedding().soft_loss(vectors, taught, 2.0), expected, atol=1e-5)


def test_the_losses_of_lists_are_the_same_however_they_are_padded():
    head = Ranking()
    lists = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3])]
    taught = [torch.tensor([0.2, 0.1, -1.0]), torch.tensor([1.3])]
    labels = [torch.tensor([1.0, 0.0, 0.5]), torch.tensor([1.0])]

    def batch(rows):
        return head.collated([row.numpy() for row in rows], 0)

    features = [type("F", (), {"label": tuple(label.tolist())})() for label in labels]
    together = head.hard_loss(batch(lists), head.labels(features))
    apart = sum(
        functional.binary_cross_entropy_with_logits(row, label) for row, label in zip(lists, labels, strict=True)
    )
    assert torch.allclose(together, apart)
    soft = head.soft_loss(batch(lists), batch(taught), 2.0)
    ours, theirs = (functional.log_softmax(rows[0] / 2, 0) for rows in (lists, taught))
    divergence = 4 * functional.kl_div(ours, theirs, reduction="sum", log_target=True)
    expected = divergence + (lists[1] - taught[1]).square().sum()
    assert torch.allclose(soft, expected)


# ------------------------------------------------------------------------------------------------------------- stages


def recipe(model, task, **changes):
    return {
        "model": str(model),
        "lock": "require",
        "task": task,
        "training": {"steps": 30, "batch_size": 8, "learning_rate": 2e-3, "log_steps": 10},
        "seed": 1,
        **changes,
    }


def masks_kept(model, out):
    before, after = read_provenance(model).masks, read_provenance(out).masks
    return all(after[name] == digest for name, digest in before.items() if "pooler" not in name) and after


@pytest.mark.slow
def test_embedding_from_pairs_keeps_the_zeros_and_is_the_same_everywhere(sparse_bert, tmp_path):
    theirs = pytest.importorskip("sentence_transformers")
    train, dev = write(tmp_path / "t.jsonl", pairs()), write(tmp_path / "d.csv", pairs(30))
    task = {"name": "embedding", "train": str(train), "validation": str(dev), "negative": "negative", "max_tokens": 16}
    out = tmp_path / "out"
    record = run("finetune", recipe(sparse_bert, task), out)
    assert list(record.metrics) == ["ndcg@10", "mrr@10", "accuracy@1", "recall@100"]
    assert masks_kept(sparse_bert, out)
    data = TaskData("embedding", "", str(dev), negative="negative", max_tokens=16)
    assert score_folder(out, data) == pytest.approx(record.metrics, abs=0.02)
    file = tmp_path / "m.pruneonce"
    export_packed(out, file, embeddings="fp32")
    assert score_packed(file, data) == pytest.approx(record.metrics, abs=0.02)
    assert score_packed_beside(file, out, data)[1] < 1e-4
    texts = [row["text_pair"] for row in pairs(5)]
    model = theirs.SentenceTransformer(str(out), device="cpu")
    ours = pipeline(None, file)
    assert ours.max_tokens == model.max_seq_length == 16
    np.testing.assert_allclose(ours(texts), model.encode(texts), atol=1e-5)
    untrained = score_folder(sparse_bert, data)
    assert record.metrics["ndcg@10"] > untrained["ndcg@10"], "it has learnt which noun a text has"
    (found, *_) = compare([out], [out])
    assert (found.metric, found.difference) == ("ndcg@10", 0)


@pytest.mark.slow
def test_embedding_from_grades_and_from_a_teachers_vectors(sparse_bert, tiny_bert, tmp_path):
    rows = [{"a": row["text"], "b": row["text_pair"], "score": 5 * (n % 2)} for n, row in enumerate(pairs(40))]
    train = write(tmp_path / "t.parquet", rows)
    graded = {"name": "embedding", "train": str(train), "validation": str(train), "label_max": 5.0, "max_tokens": 16}
    graded |= {"text": "a", "text_pair": "b", "label": "score", "pooling": ["cls"]}
    record = run("finetune", recipe(sparse_bert, graded), tmp_path / "graded")
    assert list(record.metrics) == ["spearman", "pearson", "average_precision"]
    assert json.loads((tmp_path / "graded/1_Pooling/config.json").read_text())["pooling_mode_cls_token"] is True
    alone = write(tmp_path / "alone.jsonl", [{"text": row["text_pair"]} for row in pairs(40)])
    dev = write(tmp_path / "d.jsonl", pairs(20))
    task = {"name": "embedding", "train": str(alone), "validation": str(dev), "max_tokens": 16}
    teacher = {"teacher": str(tiny_bert), "hard_weight": 0.0, "kd_weight": 1.0, "hidden_weight": 0.5}
    out = tmp_path / "taught"
    record = run("finetune", recipe(sparse_bert, task, distillation=teacher), out)
    log = json.loads((out / "training_log.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    assert masks_kept(sparse_bert, out)
    stepwise = recipe(sparse_bert, task, distillation=teacher)
    stepwise["training"] = stepwise["training"] | {"micro_batch_size": 3}
    again = run("finetune", stepwise, tmp_path / "parts")
    assert again.metrics == pytest.approx(record.metrics, abs=0.05), "nothing depends on how a batch is cut up"
    with pytest.raises(UsageError, match="text alone says nothing of which texts belong together"):
        run("finetune", recipe(sparse_bert, task), tmp_path / "no")
    both = recipe(sparse_bert, task | {"train": str(dev)})
    both["training"] = both["training"] | {"micro_batch_size": 3}
    with pytest.raises(UsageError, match="which must be in one place"):
        run("finetune", both, tmp_path / "no2")


@pytest.mark.slow
def test_ranking_by_labels_and_by_a_teacher_is_the_same_everywhere(sparse_bert, tmp_path):
    theirs = pytest.importorskip("sentence_transformers")
    rows = [
        {"text": row["text"], "text_pair": row[key], "label": int(key == "text_pair")}
        for row in pairs(40)
        for key in ("text_pair", "negative")
    ]
    train = write(tmp_path / "t.csv", rows)
    task = {"name": "ranking", "train": str(train), "validation": str(train), "max_tokens": 24}
    out = tmp_path / "out"
    record = run("finetune", recipe(sparse_bert, task), out)
    assert list(record.metrics) == ["ndcg@10", "mrr@10", "accuracy@1"]
    assert masks_kept(sparse_bert, out)
    file, data = tmp_path / "m.pruneonce", TaskData("ranking", "", str(train), max_tokens=24)
    export_packed(out, file, embeddings="fp32")
    assert score_packed(file, data) == pytest.approx(record.metrics, abs=0.02)
    asked = [(row["text"], row["text_pair"]) for row in rows[:6]]
    ours = pipeline(None, file)
    assert ours.task == "text-ranking"
    np.testing.assert_allclose(ours(asked), theirs.CrossEncoder(str(out), device="cpu").predict(asked), atol=1e-5)
    taught = run("finetune", recipe(sparse_bert, task, distillation={"teacher": str(out)}), tmp_path / "taught")
    assert masks_kept(sparse_bert, tmp_path / "taught")
    assert taught.metrics["ndcg@10"] > 0


@pytest.mark.slow
def test_vectors_quantised_after_training_are_those_of_the_int8_engine(sparse_bert, tmp_path):
    train = write(tmp_path / "t.jsonl", pairs())
    task = {"name": "embedding", "train": str(train), "validation": str(train), "max_tokens": 16}
    out = tmp_path / "int8"
    values = {"model": str(sparse_bert), "method": "ptq", "task": task, "calibration_examples": 16, "seed": 1}
    record = run("quantize", values, out)
    assert masks_kept(sparse_bert, out)
    export_packed(out, tmp_path / "m.pruneonce", embeddings="fp32")
    data = TaskData("embedding", "", str(train), max_tokens=16)
    assert score_packed(tmp_path / "m.pruneonce", data) == pytest.approx(record.metrics, abs=0.05)


def test_the_tasks_are_public_by_their_names():
    assert isinstance(get_task("embedding"), EmbeddingTask)
    assert isinstance(get_task("ranking"), RankingTask)
