"""The pipelines against those of transformers, on random models of each head with the same tokenizer."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import pruneonce
from pruneonce import _native
from pruneonce.cli.app import main
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.formats.stored_tensors import dense
from pruneonce.run.model import Model, load_model
from pruneonce.run.pipelines import PIPELINES, pipeline, text_model

TEXTS = [
    "The old film was not good, but the music was great!",
    "history of the war (part two): zürich qx9",
    "a",
    "king's city - the king of the river and the king of the south?",
]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
HEADS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "fill-mask": "ForMaskedLM",
    "feature-extraction": "Model",
}


@pytest.fixture(scope="module")
def make(tiny_bert, tmp_path_factory):
    """(folder for transformers, packed file for us) of a random model."""

    def make(task, family="Bert", labels=None, **changes):
        folder = tmp_path_factory.mktemp(task)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        if family == "DistilBert":
            sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
        labels = labels or (LABELS if task == "token-classification" else ["bad", "good"])
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer),
            max_position_embeddings=64,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            **sizes,
            **changes,
        )
        torch.manual_seed(3)
        model = getattr(transformers, family + HEADS[task])(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(8)  # so that scores differ by more than rounding
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        export_packed(folder, folder / "model.pruneonce", embeddings="fp32")
        return folder, folder / "model.pruneonce"

    return make


@pytest.fixture(scope="module")
def pair(make):
    """(theirs, ours) for a task, made once."""
    made = {}

    def pair(task, **options):
        key = task, json.dumps(options)
        if key not in made:
            folder, file = make(task, **options)
            made[key] = transformers.pipeline(task, model=str(folder), device="cpu"), pipeline(task, file)
        return made[key]

    return pair


def assert_same(ours, theirs):
    """The same structure, keys in the same order, texts equal, numbers up to rounding."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, list | tuple)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, float | np.floating):
        assert type(ours) is float
        assert ours == pytest.approx(float(theirs), abs=1e-5)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": None},
        {"top_k": 2, "function_to_apply": "sigmoid"},
        {"function_to_apply": "none"},
        {"truncation": True},
    ],
)
@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_text_classification(pair, family, options):
    theirs, ours = pair("text-classification", family=family)
    for inputs in (TEXTS[0], TEXTS, [TEXTS[0]], {"text": TEXTS[0], "text_pair": TEXTS[1]}):
        if "truncation" not in options or not isinstance(inputs, dict):
            assert_same(ours(inputs, **options), theirs(inputs, **options))


@pytest.mark.parametrize(
    "config",
    [
        {"labels": ["score"]},
        {"problem_type": "regression", "labels": ["score"]},
        {"problem_type": "multi_label_classification"},
    ],
)
def test_text_classification_applies_what_the_config_asks_for(pair, config):
    theirs, ours = pair("text-classification", **config)
    assert_same(ours(TEXTS), theirs(TEXTS))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("ignore", [["O"], []])
def test_token_classification(pair, strategy, ignore):
    theirs, ours = pair("token-classification")
    options = {"aggregation_strategy": strategy, "ignore_labels": ignore}
    assert_same(ours(TEXTS[0], **options), theirs(TEXTS[0], **options))
    assert_same(ours(TEXTS, **options), theirs(TEXTS, **options))


@pytest.mark.parametrize("strategy", ["simple", "first"])
def test_token_classification_of_a_long_text_in_windows(pair, strategy):
    theirs, ours = pair("token-classification")
    text = " ".join(TEXTS * 4)
    # transformers pads the last window; the padding is masked, so that scores differ by rounding alone
    assert_same(
        ours(text, aggregation_strategy=strategy, stride=10), theirs(text, aggregation_strategy=strategy, stride=10)
    )


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"targets": ["king", "city", "qx"]}, {"targets": "war", "top_k": 3}]
)
def test_fill_mask(pair, options):
    theirs, ours = pair("fill-mask")
    several = "the [MASK] of the [MASK] was great."
    for inputs in ("the old [MASK] was not good", several, ["[MASK]", several], ["a [MASK]"]):
        assert_same(ours(inputs, **options), theirs(inputs, **options))


def test_feature_extraction(pair):
    theirs, ours = pair("feature-extraction")
    assert_same(ours(TEXTS[0]), theirs(TEXTS[0]))
    assert_same(ours(TEXTS), theirs(TEXTS))
    tensor = ours(TEXTS[0], return_tensors=True)
    np.testing.assert_allclose(tensor, theirs(TEXTS[0], return_tensors=True).numpy(), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooled_vectors_are_means_or_first_tokens_of_length_one_if_asked(pair, pooling):
    _, ours = pair("feature-extraction")
    vectors = ours(TEXTS, pooling=pooling)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = ours(text, return_tensors=True)[0]
        np.testing.assert_allclose(vector, states.mean(0) if pooling == "mean" else states[0], atol=1e-6)
    unit = ours(TEXTS[0], pooling=pooling, normalize=True)
    np.testing.assert_allclose(unit, vectors[0] / np.linalg.norm(vectors[0]), atol=1e-6)
    assert ours([], pooling=pooling).shape == (0, 32)


def test_features_of_a_model_with_a_head(make):
    folder, file = make("text-classification")
    theirs = transformers.pipeline("feature-extraction", model=str(folder), device="cpu")
    assert_same(pipeline("feature-extraction", file)(TEXTS), theirs(TEXTS))


def brute_force_answers(folder, question, context, window, stride, longest, top_k):
    """Spans of every window by transformers 4's definition, best first, with torch and transformers' tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=window,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found, nothing = {}, 1.0
    inputs = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    for i in range(len(encoded["input_ids"])):
        with torch.no_grad():
            out = model(**{name: torch.tensor([encoded[name][i]]) for name in inputs})
        allowed = torch.tensor([part == 1 or place == 0 for place, part in enumerate(encoded.sequence_ids(i))])
        start, end = (
            logits[0].masked_fill(~allowed, -10000).softmax(-1).tolist()
            for logits in (out.start_logits, out.end_logits)
        )
        nothing = min(nothing, start[0] * end[0])
        places = [place for place, part in enumerate(encoded.sequence_ids(i)) if part == 1]
        spans = [(first, last) for first, last in itertools.product(places, places) if first <= last < first + longest]
        spans.sort(key=lambda span: -start[span[0]] * end[span[1]])
        for first, last in spans[: 2 * top_k + 10]:
            begin = encoded.word_to_chars(i, encoded.token_to_word(i, first), 1).start
            stop = encoded.word_to_chars(i, encoded.token_to_word(i, last), 1).end
            place, score = found.get(context[begin:stop].lower(), ((begin, stop), 0))
            found[context[begin:stop].lower()] = place, score + start[first] * end[last]
    return sorted(found.values(), key=lambda item: -item[1]), nothing


@pytest.mark.parametrize("longest", [1, 5])
def test_question_answering_against_every_span_of_every_window(make, longest):
    folder, file = make("question-answering")
    question, context = "who was the king ?", " ".join(TEXTS * 3)
    expected, nothing = brute_force_answers(folder, question, context, 40, 8, longest, 1)
    options = {"max_seq_len": 40, "doc_stride": 8, "max_answer_len": longest}
    ask = pipeline("question-answering", file)
    best = ask(question=question, context=context, **options)
    (start, end), score = expected[0]
    assert_same(best, {"score": score, "start": start, "end": end, "answer": context[start:end]})
    expected, _ = brute_force_answers(folder, question, context, 40, 8, longest, 3)
    assert_same(
        ask(question=question, context=context, top_k=3, **options),
        [
            {"score": score, "start": start, "end": end, "answer": context[start:end]}
            for (start, end), score in expected[:3]
        ],
    )
    everything = ask(question=question, context=context, top_k=10**6, handle_impossible_answer=True, **options)
    empty = next(each for each in everything if each["answer"] == "")
    assert empty["score"] == pytest.approx(nothing, abs=1e-6)
    together = ask([{"question": question, "context": context}, {"question": "a", "context": "b"}], **options)
    assert_same(together[0], best)
    assert together[1]["answer"] == "b"
    assert ask(question=[question], context=context, **options) == [best]


def test_what_a_text_says_is_no_special_token_but_for_masks(pair):
    _, ours = pair("text-classification")
    assert ours("good [SEP] film")[0]["score"] != ours({"text": "good", "text_pair": "film"})["score"]
    assert "[SEP]" not in ours.text_model.encode(["a [SEP] b"], truncation=False, remedy="")[0].tokens[1:-1]


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask", "feature-extraction"])
def test_unusable_texts_are_refused_with_their_number(pair, task):
    _, ours = pair(task)
    for text, message in [
        (7, "text 1 is int"),
        (None, "text 1 is NoneType"),
        ("good " * 200, "text 1 has 202 tokens, the model takes 64"),
    ]:
        with pytest.raises(UsageError, match=message):
            ours(["a [MASK]", text])
    with pytest.raises(UsageError, match="batch_size"):
        ours("a [MASK]", batch_size=0)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
def test_a_long_text_is_cut_when_asked(pair, task):
    _, ours = pair(task)
    assert ours("good " * 200, truncation=True)


def test_unusable_options_are_refused(pair):
    for task, inputs, options, message in [
        ("text-classification", "a", {"top_k": 0}, "top_k is 0"),
        ("text-classification", "a", {"function_to_apply": "tanh"}, "'tanh'"),
        ("text-classification", {"text": "a", "pair": "b"}, {}, "pair is amiss"),
        ("text-classification", {"text_pair": "b"}, {}, "text is amiss"),
        ("text-classification", "a", {"max_length": "x"}, "max_length is 'x'"),
        ("text-classification", "a", {"max_length": 3}, "max_length is 3"),
        ("text-classification", "a", {"truncation": "x"}, "truncation is 'x'"),
        ("token-classification", "a", {"aggregation_strategy": "mean"}, "'mean'"),
        ("token-classification", "a", {"stride": 3}, "aggregation_strategy"),
        ("token-classification", "a " * 99, {"stride": 62, "aggregation_strategy": "simple"}, "no room for 62"),
        ("fill-mask", "no mask", {}, r"no \[MASK\]"),
        ("fill-mask", "[MASK]", {"targets": []}, "targets is empty"),
        ("feature-extraction", "a", {"pooling": "max"}, "'max'"),
        ("feature-extraction", "a", {"normalize": True}, "pooling"),
    ]:
        with pytest.raises(UsageError, match=message):
            pair(task)[1](inputs, **options)


@pytest.mark.parametrize("text", ["", " \n", {"text": "a", "text_pair": ""}])
def test_an_empty_text_is_answered_as_transformers_does(pair, text):
    theirs, ours = pair("text-classification")
    wanted, (found,) = theirs([text])[0], ours([text])
    assert (found["label"], found["score"]) == (wanted["label"], pytest.approx(wanted["score"], abs=1e-5))
    _, embed = pair("feature-extraction")
    assert embed([""], pooling="cls").shape == (1, 32)


def test_a_length_cuts_as_in_transformers_whether_call_or_pipeline_says_it(pair, make):
    theirs, ours = pair("text-classification")
    text = "a good film of the old city and a bad story " * 20
    wanted = theirs(text, truncation=True, max_length=16)[0]["score"]
    for found in ours(text, truncation=True, max_length=16), ours(text, max_length=16):
        assert found[0]["score"] == pytest.approx(wanted, abs=1e-5)
    assert ours(text, truncation=True)[0]["score"] != pytest.approx(wanted, abs=1e-7)
    kept = pipeline(model=ours.text_model.model, max_length=16)
    assert kept(text) == ours(text, max_length=16)
    with pytest.raises(UsageError, match="max_length is not for fill-mask"):
        pipeline(model=make("fill-mask")[1], max_length=16)


def test_unusable_questions_are_refused(make):
    ask = pipeline("question-answering", make("question-answering")[1])
    for arguments, message in [
        ({}, "question= and context="),
        ({"question": "a"}, "question= and context="),
        ({"question": "", "context": "a"}, "question 0 is empty"),
        ({"question": "a", "context": "a", "max_seq_len": "x"}, "max_seq_len is 'x': a number of 4 or more"),
        ({"question": "a", "context": "a", "max_seq_len": -1}, "max_seq_len is -1"),
        ({"question": "a", "context": "a", "doc_stride": "x"}, "doc_stride is 'x': a number of 0 or more"),
        ({"question": "a", "context": " "}, "context 0 is empty"),
        ({"question": ["a", "b"], "context": ["a"]}, "2 questions, but 1 contexts"),
        ({"inputs": ["a"]}, '"question": ...'),
        ({"question": "good " * 70, "context": "a " * 70}, "shorten it"),
        ({"question": "a", "context": "b " * 70, "max_seq_len": 16, "doc_stride": 15}, "no room"),
        ({"question": "a", "context": "a", "max_answer_len": 0}, "max_answer_len"),
    ]:
        with pytest.raises(UsageError, match=message):
            ask(**arguments)


HALF = "a\ud800b"  # of a surrogate pair


@pytest.mark.parametrize("task", HEADS)
def test_text_that_is_not_unicode_is_refused_by_name(pair, make, task):
    if task == "question-answering":
        ask = pipeline(task, make(task)[1])
        for arguments, name in [
            ({"question": HALF, "context": "a"}, "question"),
            ({"question": "a", "context": HALF}, "context"),
        ]:
            with pytest.raises(UsageError, match=f"{name} is not Unicode"):
                ask(**arguments)
        return
    ours = pair(task)[1]
    calls = [{}] if task == "fill-mask" else [{}, {"truncation": True}]
    for options in calls:
        with pytest.raises(UsageError, match="text 1 is not Unicode"):
            ours(["a [MASK]", HALF], **options)


def test_unusable_targets_of_masks_are_refused(pair):
    for target, message in [(HALF, r"target 'a.ud800b' is not Unicode"), (5, "target 5 is int: a word is expected")]:
        with pytest.raises(UsageError, match=message):
            pair("fill-mask")[1]("a [MASK]", targets=[target])


def test_predict_of_an_argument_that_is_not_utf8_is_one_line(make, monkeypatch, capsys):
    code, _, err = run_predict(
        monkeypatch, capsys, make("text-classification")[1], b"caf\xe9".decode("utf-8", "surrogateescape")
    )
    assert code == 2
    assert "text 0 is not Unicode" in err
    assert len(err.splitlines()) == 1


def with_tokenizer(file, change):
    packed = read_packed(file)
    tokenizer = json.loads(packed.tokenizer)
    change(tokenizer)
    return Model(replace(packed, tokenizer=json.dumps(tokenizer)))


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.clear(),
        lambda tokenizer: tokenizer.update(
            normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
        ),  # a panic
    ],
)
def test_a_tokenizer_that_the_library_cannot_read_is_refused(make, change):
    model = with_tokenizer(make("text-classification")[1], change)
    with pytest.raises(UsageError, match="the tokenizer cannot be read"):
        pipeline(None, model)


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer["model"].update(unk_token="[NONE]"),  # plain Exception
        lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "FixedLength", "length": 0}),  # a panic
    ],
)
def test_a_tokenizer_that_fails_at_a_text_is_an_error_of_ours(make, change):
    text = "\u2713 \u2714"
    model = with_tokenizer(make("token-classification")[1], change)
    label = pipeline(None, model)
    for options in {}, {"truncation": True}:
        with pytest.raises(UsageError, match="the texts cannot be tokenised"):
            label(text, **options)
    with pytest.raises(UsageError, match="the texts cannot be tokenised"):  # not that there is no room for windows
        label.text_model.windows(text, max_tokens=16, stride=2, question=False)


def test_a_folder_with_a_broken_tokenizer_is_named(make, tmp_path):
    folder = make("text-classification")[0]
    for content, message in [(b"{}", "the tokenizer cannot be read"), (b"\xff", "utf-8")]:
        (folder / "tokenizer.json").write_bytes(content)
        with pytest.raises(UsageError, match=f"tokenizer.json: .*{message}"):
            export_packed(folder, tmp_path / "out.pruneonce")


def test_wrong_tasks_and_heads_are_refused(make):
    file = make("text-classification")[1]
    with pytest.raises(UsageError, match="did you mean 'fill-mask'"):
        pipeline("fill-masks", file)
    with pytest.raises(UsageError, match="one for text-classification; it has no head for question-answering"):
        pipeline("question-answering", file)
    with pytest.raises(UsageError, match="model is missing"):
        pipeline("fill-mask")
    with pytest.raises(UsageError, match="threads is 0"):
        pipeline(None, file, threads=0)
    assert pipeline("sentiment-analysis", file).task == pipeline(None, load_model(file)).task == "text-classification"
    assert pruneonce.pipeline is pipeline
    assert set(PIPELINES) == {*HEADS, "embeddings", "text-ranking"}, "these have no head of their own"


def test_weights_that_overflow_are_an_error_not_an_answer(make, tmp_path):
    packed = read_packed(make("text-classification")[1])
    huge = dense(np.full(packed.tensors["classifier.weight"].shape, 3e38, np.float32))
    write_packed(tmp_path / "huge.pruneonce", replace(packed, tensors=packed.tensors | {"classifier.weight": huge}))
    with pytest.raises(PruneonceError, match="answers text 0 with NaN or infinity"):
        pipeline(None, tmp_path / "huge.pruneonce")("good")


def test_pipelines_run_without_torch(make):
    file = make("text-classification")[1]
    code = (
        "import sys, json, pruneonce\n"
        f"answer = pruneonce.pipeline('text-classification', model={str(file)!r})('a good film')\n"
        "print(json.dumps([answer, sorted(sys.modules)]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, modules = json.loads(run.stdout)
    assert answer[0]["label"] in ("bad", "good")
    assert not {"torch", "transformers", "typer", "rich"} & set(modules)


def run_predict(monkeypatch, capsys, *arguments, stdin=""):
    capsys.readouterr()  # what making the model printed
    monkeypatch.setattr("sys.argv", ["pruneonce", "predict", *map(str, arguments)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with pytest.raises(SystemExit) as exit_code:
        main()
    return exit_code.value.code, *capsys.readouterr()


@pytest.mark.parametrize("task", HEADS)
def test_predict_prints_what_the_pipeline_answers(make, monkeypatch, capsys, task):
    file = make(task)[1]
    texts = ["the old [MASK] was not good", "a [MASK]"]
    more = ["--question", "who was the king ?"] if task == "question-answering" else []
    code, out, _ = run_predict(
        monkeypatch, capsys, file, texts[0], "--file", "-", "--json", *more, stdin=texts[1] + "\n\n"
    )
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["text"] for line in lines] == texts
    options = {"feature-extraction": {"pooling": "mean"}, "token-classification": {"aggregation_strategy": "simple"}}
    inputs = [{"question": more[1], "context": text} for text in texts] if more else texts
    expected = pipeline(task, file)(inputs, **options.get(task, {}))
    assert [line["answer"] for line in lines] == (expected if isinstance(expected, list) else expected.tolist())
    code, out, _ = run_predict(monkeypatch, capsys, file, texts[0], *more)
    assert code == 0
    assert out.startswith(texts[0] + "\n  ")


def test_predict_says_what_is_missing(make, monkeypatch, capsys, tmp_path):
    file, ask = make("text-classification")[1], make("question-answering")[1]
    for arguments, message in [
        ([file], "no text"),
        ([file, "a", "--question", "b"], "--question is for"),
        ([ask, "a"], "needs --question"),
        ([file, "--file", tmp_path / "absent"], "cannot be read"),
        ([file, "a", "--task", "fill-mask"], "no head for fill-mask"),
        ([tmp_path, "a"], "pruneonce export"),
    ]:
        code, _, err = run_predict(monkeypatch, capsys, *arguments)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1


def test_a_pipeline_parses_its_tokenizer_once_until_a_text_must_be_cut(make, monkeypatch):
    _, file = make("text-classification")
    parsed = []
    parse = text_model.tokenizer_from_text
    monkeypatch.setattr(text_model, "tokenizer_from_text", lambda text: parsed.append(text) or parse(text))
    classify = pipeline("text-classification", file)
    short = classify("a good film")
    assert len(parsed) == 1
    long = " ".join(["good"] * 100)
    with pytest.raises(UsageError, match="the model takes 64"):
        classify(long, truncation=False)
    classify(long, truncation=True)
    classify(long, truncation=True)
    assert len(parsed) == 2
    assert classify("a good film") == short


def test_a_pipeline_passes_the_choice_of_kernels_on(make):
    _, file = make("text-classification")
    layers = {
        kernels: pipeline(None, file, kernels=kernels).text_model.model.encoder.layers[0]
        for kernels in ("sparse", "dense")
    }
    assert type(layers["dense"].up.weight) is _native.DenseWeight
    with pytest.raises(UsageError, match="kernels is 'fast'"):
        pipeline(None, file, kernels="fast")


def test_predict_takes_pairs_tables_and_lengths_and_splits_lines_at_newlines_alone(make, pruneonce, tmp_path):
    file = make("text-classification")[1]
    ours = pipeline(model=file)

    def predicted(*arguments):
        code, out, err = pruneonce("predict", file, "--json", *arguments)
        assert code == 0, err
        return [json.loads(line) for line in out.split("\n")[:-1]]

    (answer,) = ours([("a film", "a story")])
    assert predicted("a film", "--text-pair", "a story") == [
        {"text": "a film", "text_pair": "a story", "answer": answer}
    ]
    (tmp_path / "t.csv").write_text('text,text_pair\na film,a story\n"",a story\n')
    answers = ours([("a film", "a story"), ("", "a story")])
    assert [row["answer"] for row in predicted("--file", tmp_path / "t.csv")] == answers
    (tmp_path / "t.jsonl").write_text('{"q": "a film", "d": "a story"}\n')
    assert predicted("--file", tmp_path / "t.jsonl", "--columns", "q,d")[0]["answer"] == answer
    (tmp_path / "t.tsv").write_text("text\na film\n")
    assert predicted("--file", tmp_path / "t.tsv")[0]["answer"] == ours("a film")[0]
    lines = ["a good\u2028film", "a bad\x0cfilm"]
    (tmp_path / "t.txt").write_text("\r\n".join([*lines, ""]), newline="")
    assert [row["text"] for row in predicted("--file", tmp_path / "t.txt")] == lines
    long = "a good film " * 40
    assert predicted(long, "--max-length", "16")[0]["answer"] == ours(long, max_length=16)[0]
    assert predicted(long, "--truncation")[0]["answer"] == ours(long, truncation=True)[0]
    (tmp_path / "t.txt").write_bytes(b"a film\na\xe2\x80\xa8b\n\xff\n")
    code, _, err = pruneonce("predict", file, "--file", tmp_path / "t.txt")
    assert (code, "line 3: not UTF-8" in err) == (2, True)
