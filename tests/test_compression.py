"""`compress` on tiny models of every kind: what it leaves, that it goes on where it was stopped, what it refuses."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_stages import kill, run

from pruneonce import compress
from pruneonce.cli.compress import minutes_of
from pruneonce.compression import comparison, plan, vectors
from pruneonce.compression import run as module
from pruneonce.compression.rounding import attention_of, round_to_int8
from pruneonce.compression.texts import build_corpus
from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.convert.to_packed import export_packed
from pruneonce.cost import estimate as costs
from pruneonce.data.corpus import Corpus
from pruneonce.data.windows import Windows
from pruneonce.errors import OtherInputsError, PruneonceError, UsageError
from pruneonce.formats.record import read_provenance
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import TaskData, parse_recipe
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline
from pruneonce.study.plan import _makes_zeros
from pruneonce.tasks.metrics import pearson, spearman

STEPS = 12
KINDS = ("bert", "distilbert", "classifier", "spans", "ranker", "sentences")
OF_VECTORS = {"state_error", "cosine", "similarity_spearman", "neighbours"}
OF_ANSWERS = {
    "classifier": {"agreement", "logits_pearson"},
    "spans": {"agreement", "span_overlap"},
    "ranker": {"score_spearman"},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small steps, in float32 whatever this processor is."""
    monkeypatch.setattr(plan, "TOKENS_PER_STEP", 256)
    monkeypatch.setattr(module, "fastest_precision", lambda: "fp32")
    monkeypatch.setattr(comparison, "TEXTS", 96)


@pytest.fixture(scope="session")
def texts(articles) -> Path:
    """A hundred documents whose words the tiny vocabulary knows."""
    return articles.parent / "documents.jsonl"


@pytest.fixture(scope="session")
def models(tiny_bert, tiny_distilbert, tmp_path_factory):
    """kind -> a folder of a model whose answers differ from text to text."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = _make(kind, tiny_bert, tiny_distilbert, tmp_path_factory.mktemp("models") / kind)
        return made[kind]

    return make


def _make(kind, tiny_bert, tiny_distilbert, folder):
    source = tiny_distilbert if kind == "distilbert" else tiny_bert
    head, labels = {
        "classifier": ("AutoModelForSequenceClassification", {"num_labels": 3}),
        "ranker": ("AutoModelForSequenceClassification", {"num_labels": 1}),
        "spans": ("AutoModelForQuestionAnswering", {}),
    }.get(kind, ("AutoModel", {}))
    torch.manual_seed(1)
    model = getattr(transformers, head).from_pretrained(source, **labels)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    if kind != "sentences":
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, folder / name)
        return folder
    sentence_transformers = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    bare = folder.parent / "bare"
    model.save_pretrained(bare)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, bare / name)
    parts = [modules.Transformer(str(bare), max_seq_length=24), modules.Pooling(32, "cls"), modules.Normalize()]
    prompts = {"query": "the king of: "}
    sentence_transformers.SentenceTransformer(modules=parts, device="cpu", prompts=prompts).save(
        str(folder), create_model_card=False
    )
    return folder


def compressed(model, texts, out, **options):
    return compress(model, [texts], out=out, **{"steps": STEPS, "speed": False} | options)


@pytest.fixture(scope="session")
def finished(models, texts, tmp_path_factory):
    """kind -> (its report, its folder), with int8, and made once."""
    made = {}

    def make(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp("compressed") / kind
            made[kind] = compressed(models(kind), texts, out, int8=True), out
        return made[kind]

    return make


def recipe(model, corpus, **values):
    training = {"steps": STEPS, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, "checkpoint_steps": 4}
    return {
        "model": str(model),
        "corpus": str(corpus),
        "validation_examples": 20,
        "training": training,
        "pruning": {"criterion": "sensitivity", "allocation": "global", "pooler": False},
        "matching": {"lengths": [16, 32], "late_lengths": [64]},
    } | values


@pytest.fixture(scope="session")
def corpus(finished):
    return finished("classifier")[1] / "corpus"


# ----------------------------------------------------------------------------------------------------- what it leaves


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_pruned_packed_and_compared(kind, models, finished):
    report, out = finished(kind)
    assert {path.name for path in out.iterdir()} == {
        *("articles", "corpus", "plan.json", "report.json", "report.md"),
        *("model", "model-int8", "model.pruneonce", "model-int8.pruneonce"),
        *(("pruned", "vectors-train.jsonl", "vectors-held-out.jsonl") if kind == "sentences" else ()),
    }
    record = read_provenance(out / ("pruned" if kind == "sentences" else "model"))
    assert (record.stage, record.steps, report.steps) == ("compress", STEPS, STEPS)
    assert report.sparsity == pytest.approx(0.9, abs=1e-4)
    counted = inspect_folder(out / "model").prunable
    pooler = 0 if kind in ("distilbert", "spans", "sentences") else 32 * 32  # no vector of a text depends on it
    assert report.sparsity == pytest.approx(counted.zeros / (counted.parameters - pooler), abs=1e-6)
    assert len(set(record.sparsity.values())) > 1, "matrices get zeros by what they are worth"
    assert report.hidden_error == record.metrics["hidden_error"] > 0
    assert report.tokens == STEPS * 256
    names = {"sparse": "model.pruneonce", "sparse, int8": "model-int8.pruneonce"}
    assert report.file_bytes == {
        "original": (models(kind) / "model.safetensors").stat().st_size,
        **{name: (out / file).stat().st_size for name, file in names.items()},
    }
    assert set(report.figures) == set(names)
    for figures in report.figures.values():
        assert set(figures) == OF_VECTORS | OF_ANSWERS.get(kind, set())
        assert all(np.isfinite(value) for value in figures.values())
        assert 0 < figures["state_error"] < 2
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(asdict(report)))
    page = (out / "report.md").read_text()
    for name, value in report.figures["sparse"].items():
        other = report.figures["sparse, int8"][name]
        assert f"{value:.3f} | {other:.3f} |" in page
    assert "90.0% zeros" in page
    assert "tokens only" in page, "it says what it warns of"


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_to_be_pruned_or_trained_is_bit_for_bit_the_originals(kind, models, finished):
    """Heads and poolers take no part in hidden states: a rounding or a decay would change them unseen."""
    before, after = (load_file(folder / "model.safetensors") for folder in (models(kind), finished(kind)[1] / "model"))
    if kind == "sentences":  # whose vectors do not depend on a pooler
        before = {name: value for name, value in before.items() if "pooler" not in name}
    assert before.keys() == after.keys()
    heads = [name for name in before if any(part in name for part in ("classifier", "qa_outputs", "pooler"))]
    assert heads or kind in ("distilbert", "sentences")
    words = [name for name in before if name.endswith("word_embeddings.weight")]
    assert len(words) == 1
    for name in heads if kind == "sentences" else heads + words:
        assert torch.equal(before[name], after[name]), name
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("embeddings" in name for name in changed)


def test_the_table_of_words_is_trained_where_a_recipe_says_so(models, corpus, tmp_path):
    values = recipe(models("bert"), corpus)
    values["matching"] = values["matching"] | {"train_word_embeddings": True}
    run("compress", values, tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (models("bert"), tmp_path / "out"))
    name = next(name for name in before if name.endswith("word_embeddings.weight"))
    assert not torch.equal(before[name], after[name])


def windows_of(model, corpus, pairs):
    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    windows = Windows(Corpus(corpus, "validation"), special, pairs)
    return [windows.draw(np.random.default_rng([42, number]), 64) for number in range(comparison.TEXTS)]


def torch_logits(folder, head, examples):
    model = getattr(transformers, head).from_pretrained(folder).eval()
    answers = []
    for example in examples:
        ids = torch.from_numpy(example.input_ids)[None]
        types = (torch.arange(ids.shape[1]) >= example.segment_b_start).long()[None]
        with torch.no_grad():
            found = model(input_ids=ids, token_type_ids=types)
        answers.append(found.logits[0] if hasattr(found, "logits") else torch.stack(found[:2], -1)[0])
    return [each.numpy() for each in answers]


def test_figures_of_a_classifier_are_those_of_torch_on_the_same_texts(models, finished):
    report, out = finished("classifier")
    examples = windows_of(models("classifier"), out / "corpus", 0.0)
    head = "AutoModelForSequenceClassification"
    ours, theirs = (np.stack(torch_logits(each, head, examples)) for each in (models("classifier"), out / "model"))
    assert report.figures["sparse"]["agreement"] == pytest.approx((ours.argmax(1) == theirs.argmax(1)).mean())
    assert report.figures["sparse"]["logits_pearson"] == pytest.approx(pearson(theirs.ravel(), ours.ravel()), abs=1e-3)


def test_figures_of_a_ranker_are_those_of_torch_on_pairs(models, finished):
    report, out = finished("ranker")
    examples = windows_of(models("ranker"), out / "corpus", 1.0)
    assert any(each.segment_b_start < len(each.input_ids) for each in examples)
    head = "AutoModelForSequenceClassification"
    ours, theirs = (np.stack(torch_logits(each, head, examples))[:, 0] for each in (models("ranker"), out / "model"))
    assert report.figures["sparse"]["score_spearman"] == pytest.approx(spearman(theirs, ours), abs=0.01)


def test_figures_of_spans_are_those_of_torch_by_loops(models, finished):
    report, out = finished("spans")
    examples = windows_of(models("spans"), out / "corpus", 1.0)

    def best(logits):
        places = range(len(logits))
        return max(
            ((s, e) for s in places for e in places if s <= e), key=lambda se: logits[se[0], 0] + logits[se[1], 1]
        )

    spans = [
        [best(each) for each in torch_logits(folder, "AutoModelForQuestionAnswering", examples)]
        for folder in (models("spans"), out / "model")
    ]
    overlaps = []
    for ours, theirs in zip(*spans, strict=True):
        first, second = (set(range(start, end + 1)) for start, end in (ours, theirs))
        overlaps.append(2 * len(first & second) / (len(first) + len(second)))
    found = report.figures["sparse"]
    assert found["agreement"] == pytest.approx(np.mean([a == b for a, b in zip(*spans, strict=True)]), abs=0.025)
    assert found["span_overlap"] == pytest.approx(np.mean(overlaps), abs=0.025)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_beside_itself_has_changed_in_nothing(kind, models, finished, tmp_path):
    file = tmp_path / "original.pruneonce"
    export_packed(models(kind), file, embeddings="fp32")
    figures = comparison.compare(file, file, finished(kind)[1] / "corpus")
    assert figures.pop("state_error") == 0.0
    assert figures == pytest.approx(dict.fromkeys(figures, 1.0), abs=1e-6)


def test_a_worse_model_has_worse_figures(models, finished, tmp_path):
    """All of them, by weights drawn anew."""
    for kind in ("classifier", "spans", "ranker", "bert"):
        other, files = tmp_path / kind, [tmp_path / f"{kind}-{name}.pruneonce" for name in ("original", "other")]
        shutil.copytree(models(kind), other)
        tensors = load_file(other / "model.safetensors")
        generator = torch.Generator().manual_seed(0)
        drawn = {
            name: torch.randn(each.shape, generator=generator) * each.std()
            if "encoder" in name and each.dim() == 2
            else each
            for name, each in tensors.items()
        }
        save_file(drawn, other / "model.safetensors", metadata={"format": "pt"})
        for folder, file in zip((models(kind), other), files, strict=True):
            export_packed(folder, file, embeddings="fp32")
        found, ours = comparison.compare(*files, finished(kind)[1] / "corpus"), finished(kind)[0].figures["sparse"]
        assert found["state_error"] > 0.5
        assert found["similarity_spearman"] < 0.9
        assert found.keys() == ours.keys()


def test_a_sentence_folder_stays_one(models, finished):
    """With its pooling, prompts and longest text: the packed file and sentence-transformers say the same vectors."""
    _, out = finished("sentences")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    words = ["the old king of the river", "a city"]
    theirs = sentence_transformers.SentenceTransformer(str(out / "model"), device="cpu")
    export_packed(out / "model", out.parent / "exact.pruneonce", embeddings="fp32")
    ours = pipeline("embeddings", out.parent / "exact.pruneonce")
    assert ours.max_tokens == 24
    np.testing.assert_allclose(ours(words), theirs.encode(words), atol=1e-5)
    np.testing.assert_allclose(ours.queries(words), theirs.encode_query(words), atol=1e-5)
    packed = pipeline(None, out / "model.pruneonce")
    assert packed.task == "embeddings"
    assert pipeline(None, out / "model-int8.pruneonce").task == "embeddings"


def test_vectors_are_learnt_after_pruning_and_zeros_stay_where_they_were(models, texts, corpus, tmp_path):
    report = compressed(models("bert"), texts, tmp_path / "out", vectors=True, steps=80)
    pruned, taught = (read_provenance(tmp_path / "out" / name) for name in ("pruned", "model"))
    assert taught.masks == pruned.masks
    assert (pruned.steps, taught.steps, report.steps) == (80, 20, 80)
    export_packed(tmp_path / "out" / "pruned", tmp_path / "pruned.pruneonce", embeddings="fp32")
    export_packed(models("bert"), tmp_path / "original.pruneonce", embeddings="fp32")
    before = comparison.compare(tmp_path / "original.pruneonce", tmp_path / "pruned.pruneonce", corpus)
    assert report.figures["sparse"]["cosine"] > before["cosine"]


def test_vectors_are_learnt_of_no_document_that_is_held_out(models, corpus, finished):
    _, out = finished("sentences")
    train = [json.loads(line)["text"] for line in (out / "vectors-train.jsonl").read_text().splitlines()]
    assert len(train) == len(set(train)) > 50
    tokenizer = load_tokenizer(str(models("sentences")))
    shown = ["".join(tokenizer.decode(each.input_ids.tolist()).split()) for each in Corpus(corpus, "train")]
    assert all(any("".join(text.split()) in document for document in shown) for text in train)


def test_vectors_are_learnt_where_a_folder_gives_them_or_it_is_asked_for(models):
    wanted = {kind: vectors.are_wanted(str(models(kind)), None) for kind in KINDS}
    assert [kind for kind, learnt in wanted.items() if learnt] == ["sentences"]
    assert vectors.are_wanted(str(models("bert")), True)
    assert not vectors.are_wanted(str(models("sentences")), False)
    with pytest.raises(UsageError, match=r"BertForSequenceClassification, which answers by its head"):
        vectors.are_wanted(str(models("classifier")), True)


def test_masks_in_8_bits_are_those_of_its_weights(models, corpus, finished, tmp_path):
    """Rounding makes more zeros: a record of the masks before it would be refused by all that reads the folder."""
    _, out = finished("bert")
    folder = shutil.copytree(out / "model", tmp_path / "model")
    tensors, record = load_file(folder / "model.safetensors"), read_provenance(folder)
    name = next(iter(record.masks))
    weight = tensors[f"{name}.weight"]
    row = weight[(weight != 0).sum(1).argmax()]  # beside others, which set the scale
    row[row.nonzero()[0]] = 1e-9
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = {key: value for key, value in record.recipe.items() if key not in ("model", "corpus")}
    given = parse_recipe(values | {"model": str(folder), "corpus": str(corpus)}, "compress")
    round_to_int8(folder, given, tmp_path / "int8")
    after = read_provenance(tmp_path / "int8")
    assert [each for each in record.masks if after.masks[each] != record.masks[each]] == [name]
    assert after.sparsity[name] == pytest.approx(record.sparsity[name] + 1 / weight.numel())
    export_packed(tmp_path / "int8", tmp_path / "int8.pruneonce")  # which checks the masks
    record.write(tmp_path / "int8")
    with pytest.raises(PruneonceError, match="mask"):
        export_packed(tmp_path / "int8", tmp_path / "int8.pruneonce")


def test_the_card_says_how_it_was_made(finished):
    """And not that a classifier fills in masked words: the record knows of no head."""
    card = (finished("classifier")[1] / "model" / "README.md").read_text()
    assert (
        f"1. **compress**: {STEPS} steps of 256 tokens, peak learning rate 0.0015, gradual sensitivity pruning to a "
        "sparsity of 0.9 over all pruned matrices, without learning rate rewinding, hidden states matched with those "
        "of the original, seed 42."
    ) in card
    assert "For what its original is for" in card
    assert "fill-mask" not in card


def test_1x4_blocks_are_whole(models, texts, tmp_path):
    report = compressed(models("bert"), texts, tmp_path / "out", pattern="1x4")
    assert report.sparsity == pytest.approx(0.9, abs=0.01)
    assert report.pattern == "1x4"
    for name in read_provenance(tmp_path / "out" / "model").masks:
        zeros = (load_file(tmp_path / "out" / "model" / "model.safetensors")[f"{name}.weight"] == 0).view(-1, 4).sum(1)
        assert set(zeros.tolist()) <= {0, 4}, name


def test_the_model_given_is_only_read(models, texts, tmp_path):
    source = shutil.copytree(models("bert"), tmp_path / "source")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    compressed(source, texts, tmp_path / "out")
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


# ----------------------------------------------------------------------------------------------------- begun again


@pytest.mark.parametrize("kind", ["classifier", "sentences"])
def test_the_same_call_again_trains_nothing(kind, models, texts, finished, monkeypatch):
    report, out = finished(kind)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and not path.name.startswith("report")}
    monkeypatch.setattr("pruneonce.stages.lifecycle.train", lambda run: pytest.fail("trained"))
    monkeypatch.setattr(module, "round_to_int8", lambda *arguments: pytest.fail("rounded"))
    again = compressed(models(kind), texts, out, int8=True)
    changing = {"seconds", "machine"}
    assert {k: v for k, v in asdict(again).items() if k not in changing} == {
        k: v for k, v in asdict(report).items() if k not in changing
    }
    assert {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and not path.name.startswith("report")
    } == kept


def interrupting(monkeypatch, title, done):
    """Ctrl-C in the named step once so much of it is done."""

    @contextlib.contextmanager
    def bar(name):
        def advance(at, total, note=""):
            if name == title and at >= done:
                raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(module, "progress_bar", bar)


def same_models(first, second):
    for folder in ("model", "model-int8"):
        ours, theirs = (load_file(out / folder / "model.safetensors") for out in (first, second))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), folder
        assert read_provenance(first / folder).masks == read_provenance(second / folder).masks
    for file in ("model.pruneonce", "model-int8.pruneonce"):
        assert pipeline(None, first / file) is not None


@pytest.mark.parametrize(
    ("step", "done"), [("prune", 1), ("prune", 5), ("prune", 9), ("prune", 12), ("compare sparse", 1)]
)
def test_stopped_and_begun_again_gives_the_weights_of_a_run_without_a_stop(
    step, done, models, texts, finished, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        interrupting(patched, step, done)
        with pytest.raises(KeyboardInterrupt):
            compressed(models("classifier"), texts, tmp_path / "out", int8=True)
    report = compressed(models("classifier"), texts, tmp_path / "out", int8=True)
    same_models(tmp_path / "out", finished("classifier")[1])
    assert report.figures == finished("classifier")[0].figures
    assert report.training_seconds > 0
    assert not (tmp_path / "out" / "original.pruneonce").exists()


def test_attention_in_int8_is_asked_for_later_and_taken_back(models, texts, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished("classifier")[1], tmp_path / "out")
    monkeypatch.setattr("pruneonce.stages.lifecycle.train", lambda run: pytest.fail("trained"))
    compressed(models("classifier"), texts, out, int8=True, attention="int8")
    assert attention_of(out / "model-int8") == "int8"
    assert inspect_packed(out / "model-int8.pruneonce").attention == "int8"
    compressed(models("classifier"), texts, out, int8=True)
    assert inspect_packed(out / "model-int8.pruneonce").attention == "fp32"
    same_models(out, finished("classifier")[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "int8"}, "ask for int8 as well"),
        ({"attention": "bf16", "int8": True}, "attention is 'bf16': fp32 or int8 is expected"),
    ],
)
def test_attention_that_cannot_be_had_is_said_before_anything_is_written(models, texts, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        compressed(models("classifier"), texts, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_half_written_int8_folder_is_made_again(models, texts, finished, tmp_path, monkeypatch):
    shutil.copytree(finished("classifier")[1], tmp_path / "out")
    (tmp_path / "out" / "model-int8" / "pruneonce.json").unlink()  # written last
    (tmp_path / "out" / "model-int8" / "model.safetensors").write_bytes(b"half")
    compressed(models("classifier"), texts, tmp_path / "out", int8=True)
    same_models(tmp_path / "out", finished("classifier")[1])


@pytest.fixture(scope="module")
def uninterrupted(models, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("stage") / "out"
    run("compress", recipe(models("bert"), corpus), out)
    return out


@pytest.mark.parametrize("kill_at", ["step 7", "second checkpoint without its marker", "model saved, record not"])
def test_killed_and_begun_again_gives_the_weights_of_a_run_without_a_stop(
    kill_at, models, corpus, uninterrupted, tmp_path
):
    values = recipe(models("bert"), corpus)
    kill("compress", values, tmp_path / "out", kill_at)
    record = run("compress", values, tmp_path / "out")
    ours, theirs = (load_file(out / "model.safetensors") for out in (tmp_path / "out", uninterrupted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert record.masks == read_provenance(uninterrupted).masks
    assert record.metrics == read_provenance(uninterrupted).metrics


def test_two_micro_batches_end_with_the_masks_of_one(models, corpus, uninterrupted, tmp_path):
    values = recipe(models("bert"), corpus)
    values["training"] = values["training"] | {"micro_batch_size": 4}
    record = run("compress", values, tmp_path / "out")
    metrics = read_provenance(uninterrupted).metrics
    assert record.metrics["hidden_error"] == pytest.approx(metrics["hidden_error"], rel=0.05)


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"sparsity": 0.8}, r"another sparsity \(0\.9, here 0\.8\)"),
        ({"pattern": "1x4"}, r"another pattern \(unstructured, here 1x4\)"),
        ({"budget_minutes": 5.0}, r"another budget_minutes \(60\.0, here 5\.0\)"),
        ({"steps": 13}, r"another steps \(12, here 13\)"),
        ({"seed": 1}, r"another seed \(42, here 1\)"),
        ({"model": "ranker"}, "another model"),
        ({"texts": True}, "a compression on other texts"),
        ({"text_column": "title"}, "a compression on other texts, or on other parts of them"),
    ],
)
def test_other_wishes_in_the_same_folder_are_refused_by_name(wish, named, models, texts, finished, tmp_path):
    _, out = finished("classifier")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    other = tmp_path / "documents.jsonl"
    other.write_text(texts.read_text().replace("river", "king"))
    wish = dict(wish)
    model, some = models(wish.pop("model", "classifier")), other if wish.pop("texts", False) else texts
    with pytest.raises(OtherInputsError, match=named):
        compressed(model, some, out, int8=True, **wish)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path != out} == {
        path: when for path, when in before.items() if path != out
    }


def test_texts_and_model_may_move_between_two_starts(models, texts, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished("classifier")[1], tmp_path / "moved")
    model = shutil.copytree(models("classifier"), tmp_path / "elsewhere")
    elsewhere = shutil.copy(texts, tmp_path / texts.name)
    monkeypatch.setattr("pruneonce.stages.lifecycle.train", lambda run: pytest.fail("trained"))
    report = compressed(model, elsewhere, out, int8=True)
    assert report.figures == finished("classifier")[0].figures


# ------------------------------------------------------------------------------------------------------------- budgets


def test_steps_are_as_many_as_fit_the_budget(models, corpus, monkeypatch, tmp_path):
    wanted = plan.recipe_for(
        str(models("bert")), corpus, sparsity=0.9, pattern="unstructured", seed=1, precision="fp32", steps=1000
    )
    assert (wanted.matching.lengths, wanted.matching.late_lengths) == ((32, 64), (64,)), (
        "no longer than the model takes"
    )
    assert wanted.training.batch_size == 256 // 32
    seconds = {"32 dense": 1.0, "64 dense": 3.0, "32 sparse": 0.5, "64 sparse": 1.0}
    monkeypatch.setattr(plan, "measure", lambda recipe, out: seconds)
    dense, sparse = 0.67 * 2.0 + 0.33 * 3.0, 0.67 * 0.75 + 0.33 * 1.0
    late = costs.late_share(wanted.pruning, 1000)
    assert 0.5 < late < 0.9
    per_step = (1 - late) * dense + late * sparse
    found = plan.plan_for(wanted, 1000.0, tmp_path)
    assert found.recipe.training.steps == int(0.9 * 1000 / per_step)
    assert found.training_seconds == pytest.approx(found.recipe.training.steps * per_step)
    assert found.training_seconds <= 900
    assert found.tokens == found.recipe.training.steps * 256
    assert found.seconds_per_step is seconds
    with pytest.raises(
        UsageError, match=r"a budget of 60 s allows \d+ steps here.*at least 50 are needed: set --budget"
    ):
        plan.plan_for(wanted, 60.0, tmp_path)


def test_the_budget_that_is_asked_for_instead_is_enough(models, corpus, monkeypatch, tmp_path):
    wanted = plan.recipe_for(
        str(models("bert")), corpus, sparsity=0.9, pattern="unstructured", seed=1, precision="fp32", steps=1000
    )
    monkeypatch.setattr(
        plan, "measure", lambda *_: dict.fromkeys(["32 dense", "64 dense", "32 sparse", "64 sparse"], 0.7)
    )
    with pytest.raises(UsageError) as refused:
        plan.plan_for(wanted, 1.0, tmp_path)
    needed = float(str(refused.value).split("set --budget to ")[1].split(" s")[0])
    assert plan.plan_for(wanted, needed, tmp_path).recipe.training.steps >= plan.FEWEST_STEPS


def test_measuring_leaves_the_folder_and_the_random_numbers_of_the_run_alone(models, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "TIMED", 1)
    wanted = plan.recipe_for(
        str(models("bert")), corpus, sparsity=0.9, pattern="unstructured", seed=1, precision="bf16", steps=1000
    )
    found = plan.measure(wanted, tmp_path / "model")
    assert found.keys() == {"32 dense", "64 dense", "32 sparse", "64 sparse"}
    assert min(found.values()) > 0
    assert not (tmp_path / "model").exists()


def test_a_plan_is_made_once_and_kept_to(models, texts, tmp_path, monkeypatch):
    """Measured again it would be another number of steps, and the run of the first start another run."""
    monkeypatch.setattr(plan, "FEWEST_STEPS", 3)
    seconds = dict.fromkeys(["32 dense", "64 dense", "32 sparse", "64 sparse"], 10.0)
    monkeypatch.setattr(plan, "measure", lambda recipe, out: seconds)
    with monkeypatch.context() as patched:
        interrupting(patched, "prune", 2)
        with pytest.raises(KeyboardInterrupt):
            compressed(models("bert"), texts, tmp_path / "out", steps=None, budget_minutes=1.0)
    monkeypatch.setattr(plan, "measure", lambda recipe, out: pytest.fail("measured again"))
    assert compressed(models("bert"), texts, tmp_path / "out", steps=None, budget_minutes=1.0).steps == 5


# --------------------------------------------------------------------------------------------------------------- texts


def write_lines(file, lines):
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("lines", "message"),
    [([], "holds no text"), (["   ", ""], "holds no text"), (["the old king"], "holds 1 document")],
)
def test_texts_without_two_documents_are_refused(lines, message, models, tmp_path):
    file = write_lines(tmp_path / "texts.txt", lines)
    with pytest.raises(PruneonceError, match=message):
        compressed(models("bert"), file, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_one_of_two_documents_is_held_out_whatever_the_seed(models, tmp_path):
    file = write_lines(tmp_path / "texts.txt", ["the old king of the river", "a city in the north"])
    for seed in range(4):
        corpus = build_corpus([file], models("bert"), tmp_path / str(seed), seed=seed)
        assert len(Corpus(corpus, "validation")) == len(Corpus(corpus, "train")) == 1


def test_the_same_file_twice_leaves_nothing_to_compare_on(models, tmp_path):
    file = write_lines(tmp_path / "texts.txt", ["the old king of the river"])
    with pytest.raises(UsageError, match=r"holds one document 2 times: another is needed to compare on"):
        build_corpus([file, file], models("bert"), tmp_path / "out")


def test_texts_in_a_language_that_the_vocabulary_does_not_know_are_warned_of(models, tmp_path, caplog):
    lines = [f"город и река {number} большая старая" for number in range(40)]
    report = compressed(models("bert"), write_lines(tmp_path / "texts.txt", lines), tmp_path / "out")
    (warning,) = [each for each in report.warnings if "unknown" in each]
    assert int(warning.split("%")[0]) > 50
    assert "in a language it reads?" in warning
    assert warning in caplog.text
    assert warning in (tmp_path / "out" / "report.md").read_text()


def test_texts_that_the_model_knows_are_not_warned_of(finished, monkeypatch):
    from pruneonce.compression import texts as texts_module

    report, out = finished("classifier")
    assert not any("unknown" in each for each in report.warnings)
    assert "4,842 tokens only" in report.warnings[0]
    monkeypatch.setattr(texts_module, "FEW_TOKENS", 4842)
    assert texts_module.warnings_about(out / "corpus", read_provenance(out / "model").recipe["model"], [], []) == []


def test_being_scored_on_what_is_matched_is_warned_of(models, reviews, tmp_path):
    task = TaskData("classification", validation=str(reviews), labels=("yes", "no", "perhaps"))
    with pytest.raises(UsageError):
        compressed(models("bert"), reviews, tmp_path / "bare", task=task)
    assert not (tmp_path / "bare" / "plan.json").exists(), "known before the first step"
    model = shutil.copytree(models("classifier"), tmp_path / "classifier")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "yes", "1": "no", "2": "perhaps"}
    config["label2id"] = {"yes": 0, "no": 1, "perhaps": 2}
    (model / "config.json").write_text(json.dumps(config))
    report = compressed(model, reviews, tmp_path / "out", task=task)
    assert f"{reviews} is matched on and scored on: the score will say too much; hold it out" in report.warnings
    assert set(report.scores) == {"original", "sparse"}
    assert 0 <= report.scores["sparse"]["accuracy"] <= 1
    assert f"| original | {report.scores['original']['accuracy']:.4f}" in (tmp_path / "out" / "report.md").read_text()


# ---------------------------------------------------------------------------------------------------------- the refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "2x4"}, r"pattern.*unstructured.*1x4.*2x4"),
        ({"sparsity": 1.0}, r"pruning\.sparsity must be between 0 and 1"),
        ({"sparsity": float("nan")}, r"'pruning\.sparsity' must be a finite number"),
        ({"steps": 0}, r"steps must be above 0"),
        ({"seed": -1}, "'seed' must be at least 0"),
        ({"budget_minutes": 0.0}, "a budget of 0.0 minutes is none"),
        ({"budget_minutes": float("nan")}, "a budget of nan minutes is none"),
        ({"documents": "page"}, "documents must be one of"),
    ],
)
def test_wishes_that_cannot_be_are_refused_before_anything_is_read(options, message, models, texts, tmp_path):
    with pytest.raises(UsageError, match=message):
        compressed(models("bert"), texts, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "corpus").exists()


def test_a_file_in_the_place_of_the_folder_is_one_line(models, texts, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="out is a file: --out is the folder to write"):
        compressed(models("bert"), texts, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_with_weights_that_are_no_numbers_is_refused_by_the_weights_name(bad, models, texts, tmp_path):
    model = shutil.copytree(models("bert"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][3, 4] = bad
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    for options in ({}, {"steps": None, "budget_minutes": 1.0}):
        with pytest.raises(PruneonceError, match=r"encoder\.layer\.1\.output\.dense\.weight is not finite") as refused:
            compressed(model, texts, tmp_path / "out", **options)
        assert "\n" not in str(refused.value)
        shutil.rmtree(tmp_path / "out")


def test_training_that_diverges_is_one_line_and_leaves_no_model(models, corpus, tmp_path):
    values = recipe(models("bert"), corpus)
    values["training"] = values["training"] | {"learning_rate": 1e30, "max_grad_norm": 1e30}
    with pytest.raises(PruneonceError, match=r"(?i)learning.rate") as refused:
        run("compress", values, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matching": {"lengths": [16], "late_lengths": [65]}}, r"windows of 65 tokens, .* takes 64 at most"),
        (
            {"matching": {"lengths": [16], "late_lengths": [32], "logits_weight": 1.0}},
            "logits_weight .* has none: set it",
        ),
        (
            {"matching": {"hidden_layers": [1], "lengths": [16], "late_lengths": [32]}},
            r"end at the last layer, 2.*\[1\]",
        ),
        (
            {"matching": {"hidden_layers": [3], "lengths": [16], "late_lengths": [32]}},
            r"end at the last layer, 2.*\[3\]",
        ),
        ({"pruning": {"pooler": True}}, r"set pruning\.pooler = false"),
        ({"pruning": {}}, r"set pruning\.pooler = false"),
        ({"pruning": {"pooler": False, "targets": {"nose": 0.5}}}, "pruning.targets names 'nose'"),
    ],
)
def test_recipes_that_would_prune_without_a_loss_or_read_too_far_are_refused(
    changes, message, models, corpus, tmp_path
):
    with pytest.raises(UsageError, match=message):
        run("compress", recipe(models("bert"), corpus, **changes), tmp_path / "out")


def test_a_corpus_of_another_vocabulary_or_layout_is_refused(models, corpus, pair_corpus, tmp_path):
    with pytest.raises(UsageError, match="matching reads document_sentences"):
        run("compress", recipe(models("bert"), pair_corpus), tmp_path / "out")
    other = shutil.copytree(models("bert"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = len(tokenizer["model"]["vocab"])
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="build the corpus with this model's tokenizer"):
        run("compress", recipe(other, corpus), tmp_path / "out")


# --------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("given", "minutes"),
    [("90s", 1.5), ("60m", 60), ("2h", 120), ("1.5h", 90), ("20", 20), (" 5 m ", 5), (".5m", 0.5), ("0.25h", 15)],
)
def test_budgets_are_read_with_their_units(given, minutes):
    assert minutes_of(given) == pytest.approx(minutes)


@pytest.mark.parametrize("given", ["", "m", "0", "0h", "-5m", "5 days", "1h30m", "1e3s", "nan", "inf", "5mm", "٣m"])
def test_what_is_no_time_is_refused(given):
    with pytest.raises(UsageError, match="a time such as 90s, 60m or 2h is expected"):
        minutes_of(given)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(plan, "FEWEST_STEPS", 3)
    monkeypatch.setattr(
        plan, "measure", lambda *_: dict.fromkeys(["32 dense", "64 dense", "32 sparse", "64 sparse"], 10.0)
    )


def test_the_command_prints_its_report_and_goes_on_when_called_again(
    pruneonce, few_steps, models, texts, tmp_path, caplog
):
    out = tmp_path / "out"
    command = ("compress", models("classifier"), "--texts", texts, "--out", out, "--budget", "60s", "--no-speed")
    code, printed, _ = pruneonce(*command)
    assert code == 0
    assert (out / "report.md").read_text() in printed
    assert f"compress done: {out}" in printed
    assert (
        "5 steps of 256 tokens in fp32, in windows of 32 to 64: 0.0 million tokens in about 1 of 1 minutes"
        in caplog.text
    )
    code, printed, _ = pruneonce(*command, "--json")
    assert code == 0
    assert json.loads(printed) == json.loads((out / "report.json").read_text())
    code, _, told = pruneonce(*command, "--sparsity", "0.5")
    assert code == 2
    assert "holds a compression of another sparsity (0.9, here 0.5)" in told


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--budget", "soon"], 2, "--budget is 'soon'"),
        (["--budget", "1s", "--texts", "{texts}"], 2, "are needed: set --budget to"),
        (["--texts", "nowhere.txt"], 2, "nowhere.txt does not exist"),
        (["--texts", "{empty}"], 1, "holds no text"),
        (["--texts", "{texts}", "--pattern", "2x4"], 2, "2x4"),
        (["--texts", "{texts}", "--task", "sst3", "--data", "{texts}"], 2, "sst3"),
        (["--texts", "{texts}", "--task", "classification", "--data", "nowhere.csv"], 2, "nowhere.csv"),
    ],
)
def test_mistakes_end_in_one_line(arguments, code, message, pruneonce, few_steps, models, texts, tmp_path):
    empty = write_lines(tmp_path / "empty.txt", [])
    filled = [each.format(texts=texts, empty=empty) for each in arguments]
    found, _, told = pruneonce("compress", models("classifier"), "--out", tmp_path / "out", *filled)
    assert found == code
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in told


def test_a_folder_that_holds_no_model_is_one_line(pruneonce, texts, tmp_path):
    code, _, told = pruneonce("compress", tmp_path / "nothing", "--texts", texts, "--out", tmp_path / "out")
    assert code == 2
    assert told.startswith("error: ")
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------- speed


@pytest.mark.slow
def test_speed_is_measured_once_for_the_same_weights(models, texts, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished("classifier")[1], tmp_path / "out")
    report = compressed(models("classifier"), texts, out, int8=True, speed=True)
    assert {"torch", "pruneonce", "pruneonce-int8"} <= {each.engine for each in report.timings}
    assert report.timed_tokens == 64, "no more than the model takes"
    assert next(each for each in report.timings if each.engine == "torch").speedup == 1
    assert "One text of 64 tokens" in (out / "report.md").read_text()
    monkeypatch.setattr(module, "run_on_folder", lambda *_: pytest.fail("measured again"))
    assert compressed(models("classifier"), texts, out, int8=True, speed=True).timings == report.timings


def test_a_head_whose_speed_cannot_be_measured_costs_no_report(tiny_bert, texts, tmp_path):
    """Once the last step of an hour's run failed on a language model."""
    report = compressed(tiny_bert, texts, tmp_path / "out", speed=True)
    assert report.timings == []
    assert report.figures["sparse"].keys() == OF_VECTORS | {"agreement"}
    (warning,) = [each for each in report.warnings if "speed was not measured" in each]
    assert "BertForPreTraining" in warning
    assert load_model(tmp_path / "out" / "model.pruneonce").task == "fill-mask"


# --------------------------------------------------------------------------------------------------------------- costs


def test_the_doctor_says_what_a_recipe_would_cost(pruneonce, models, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("pruneonce.cost.doctor.PROBE_SECONDS", 0.001)
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'stage = "compress"\nmodel = "{models("bert")}"\ncorpus = "{corpus}"\n'
        "training = { steps = 100, batch_size = 8, learning_rate = 1e-3 }\n"
        "matching = { lengths = [16, 32], late_lengths = [64] }\n"
    )
    code, printed, _ = pruneonce("doctor", file, "--json")
    assert code == 0
    cost = json.loads(printed)["recipe"]
    assert (cost["steps"], cost["tokens_per_step"], cost["runs"]) == (100, 8 * 16, 1)
    assert cost["hours"] > 0
    assert pruneonce("doctor", file)[0] == 0


def test_a_study_may_compress_and_its_dry_run_says_what_it_costs(pruneonce, models, corpus, reviews, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        f"""
        model = "{models("bert")}"
        seeds = [1]
        sparsities = [0.8, 0.9]
        reference = "dense"
        corpus.folder = "{corpus}"
        [stages]
        finetune = {{ stage = "finetune", training = {{ steps = 4, batch_size = 4, learning_rate = 1e-3 }} }}
        [stages.compress]
        stage = "compress"
        training = {{ steps = 4, batch_size = 8, learning_rate = 1e-3 }}
        pruning = {{ criterion = "sensitivity", allocation = "global", pooler = false }}
        matching = {{ lengths = [16], late_lengths = [32] }}
        [tasks.reviews.task]
        name = "classification"
        train = "{reviews}"
        validation = "{reviews}"
        max_tokens = 32
        [methods.dense]
        stages = ["finetune"]
        [methods.matched]
        stages = ["compress", "finetune"]
        """
    )
    code, printed, told = pruneonce("study", file, "--dry-run", "--out", tmp_path / "out")
    assert code == 0, told
    assert "compress-80" in printed
    assert "compress-90" in printed
    assert not list((tmp_path / "out").glob("compress*"))


def test_a_stage_that_always_prunes_gets_the_studys_sparsities_without_saying_so():
    assert _makes_zeros({"stage": "compress"})
    assert not _makes_zeros({"stage": "finetune"})
