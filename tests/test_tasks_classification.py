"""GLUE's files and the user's own -> examples, features, scores."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.tasks import TASK_NAMES, get_task
from pruneonce.tasks.classification import TextExample, discover_labels, label_id, label_text, truncating_copy
from pruneonce.tasks.glue import GLUE


def tiny_tokenizer():
    """A BERT tokenizer whose pieces are single ASCII letters, digits and marks."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *".,!?'-\""]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.add_special_tokens(pieces[:5])
    tokenizer.encode_special_tokens = True
    return tokenizer


TOKENIZER = tiny_tokenizer()

# The layout of each file as GLUE published it, with names or ids as labels, and what must be read from it.
ORIGINAL_FILES = {
    "cola": ('gj04\t1\t\tThey "go".\nks08\t0\t*\tThey gone.\n', [('They "go".', 1), ("They gone.", 0)]),
    "sst2": ("sentence\tlabel\na fine film \t1\ndull \t0\n", [("a fine film ", 1), ("dull ", 0)]),
    "mrpc": (
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said .\tHe spoke .\n0\t7\t9\tA "b .\tC .\n',
        [(("He said .", "He spoke ."), 1), (('A "b .', "C ."), 0)],
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000\n1\tn\tf\t2\t4\tn\tn\tA flute.\tA man.\t0.5\n",
        [(("A plane.", "An air plane."), 5.0), (("A flute.", "A man."), 0.5)],
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n4\t5\t6\ttorn\n7\t8\t9\tA?\tB?\t1\n",
        [(("Why?", "How?"), 0), (("A?", "B?"), 1)],
    ),
    "mnli": (
        "index\tpairID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\tp\t( a )\tA.\tB.\tneutral\tneutral\n1\tp\t( a )\tA.\tC.\tneutral\t-\n"
        "2\tp\t( a )\tD.\tE.\tentailment\tcontradiction\n",
        [(("A.", "B."), 1), (("D.", "E."), 2)],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 9.\tentailment\n1\tWho?\tNo.\tnot_entailment\n",
        [(("When?", "In 9."), 0), (("Who?", "No."), 1)],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n1\tC.\tD.\tentailment\n",
        [(("A.", "B."), 1), (("C.", "D."), 0)],
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel\n0\tI put a pin.\tA pin.\t1\n1\tC.\tD.\t0\n",
        [(("I put a pin.", "A pin."), 1), (("C.", "D."), 0)],
    ),
}


@pytest.mark.parametrize("name", GLUE)
def test_original_glue_layout_is_read(tmp_path, name):
    content, expected = ORIGINAL_FILES[name]
    path = tmp_path / "dev.tsv"
    path.write_text(content, encoding="utf-8")
    examples = GLUE[name].read(path, training=True)
    assert [(example.text, example.label) for example in examples] == expected


@pytest.mark.parametrize("name", GLUE)
def test_hub_columns_and_ids_are_read(tmp_path, name):
    task = GLUE[name]
    columns = task.schemas[-1]
    path = tmp_path / "validation.jsonl"
    rows = [{**dict.fromkeys(columns.texts, "x"), columns.label: label, "idx": label} for label in (0, 1)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [example.label for example in task.read(path)] == [0, 1]


def test_mnli_reports_matched_and_mismatched_separately():
    assert GLUE["mnli"].dev_splits == ("validation_matched", "validation_mismatched")
    assert all(set(task.dev_splits) <= set(task.hub.splits) for task in GLUE.values())


@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [
        ("sst2", "SST-2/train.tsv", 67_349),
        ("sst2", "SST-2/dev.tsv", 872),
        ("qnli", "QNLI/train.subset.tsv", 8_999),
        ("qnli", "QNLI/dev.tsv", 5_463),
        ("mnli", "MNLI/dev_matched.subset.tsv", 6_238),
        ("qqp", "QQP/dev_from_train.subset.tsv", 1_000),
    ],
)
def test_real_glue_files_lose_no_row(name, file, rows, real_data):
    task = GLUE[name]
    examples = task.read(real_data / "glue" / file, training=True)
    assert len(examples) == rows
    right = np.eye(len(task.labels), dtype=np.float32)[[example.label for example in examples]]
    features = task.features(examples[:50], TOKENIZER, 64)
    assert task.score(examples[:50], features, right[:50])[task.main_metric] == 1.0
    assert max(len(feature.input_ids) for feature in features) <= 64


def test_real_tokenizer_knows_the_words_of_sst2(assets, real_data):
    from pruneonce.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(assets.model)
    features = GLUE["sst2"].features(GLUE["sst2"].read(real_data / "glue/SST-2/dev.tsv"), tokenizer, 128)
    ids = np.concatenate([feature.input_ids for feature in features])
    assert np.mean(ids == tokenizer.token_to_id("[UNK]")) < 0.001


def test_own_csv_labels_are_found_in_the_training_file_and_sorted_as_numbers(tmp_path):
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("review,stars\ngood,10\nbad,2\nso so,5\n")
    dev.write_text("review,stars\nfine,10\n")
    task = get_task("classification", text="review", label="stars", train_file=train)
    assert (task.kind, task.labels, task.main_metric) == ("classification", ("2", "5", "10"), "accuracy")
    assert task.read(dev) == [TextExample("fine", 2)]


def test_own_jsonl_pair_with_given_label_order(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": "x", "b": "y", "label": true}\n{"a": "z", "b": "", "label": false}\n')
    task = get_task("classification", text="a", text_pair="b", labels=["True", "False"])
    assert task.read(path) == [TextExample(("x", "y"), 0), TextExample(("z", ""), 1)]


def test_own_regression(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\ngood,4.5\nbad,-1\n")
    task = get_task("regression")
    examples = task.read(path, training=True)
    features = task.features(examples, TOKENIZER, 16)
    assert (task.kind, task.labels) == ("regression", None)
    assert [feature.label for feature in features] == [4.5, -1.0]
    scores = task.score(examples, features, np.array([[1.0], [0.0]], np.float32))
    assert scores == pytest.approx({"pearson": 1.0, "spearman": 1.0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\nx\tpositiv\n", r"line 2: unknown label 'positiv' \(did you mean 'positive'\?\).*negative"),
        ("sentence\tlabel\nx\t2\n", r"line 2: unknown label '2'; expected one of negative, positive"),
        ("sentence\tlabel\nx\t-1\n", r"line 2: unknown label '-1'"),
        ("sentence\tlabel\nx\t1\ny\t \n", r"line 3: the label is missing"),
        ("sentence\tlabel\nx\t1\ny\t1\n", r"every example has the same label"),
        ("text\tlabel\nx\t1\n", r"no column 'sentence'; expected sentence, label, found text, label"),
    ],
)
def test_unusable_training_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "train.tsv"
    path.write_text(content)
    with pytest.raises(PruneonceError, match=message) as caught:
        GLUE["sst2"].read(path, training=True)
    assert "\n" not in str(caught.value)


def test_single_class_is_no_error_where_nothing_is_learnt(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\nx\t1\n")
    assert GLUE["sst2"].read(path) == [TextExample("x", 1)]


def test_regression_label_that_is_no_number_names_the_line(tmp_path):
    path = tmp_path / "dev.csv"
    for value in ("much", "nan", "1e999"):
        path.write_text(f"text,label\nx,1\ny,{value}\n")
        with pytest.raises(PruneonceError, match=f"line 3: expected a number as label, found '{value}'"):
            get_task("regression").read(path)


def test_text_that_is_not_unicode_names_the_line(tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text('{"text": "x", "label": 1}\n{"text": "\\ud800", "label": 1}\n')
    with pytest.raises(PruneonceError, match=r"line 2: the text is not Unicode"):
        get_task("regression").read(path)


def test_a_tokenizer_that_fails_at_a_text_is_an_error_of_ours():
    tokenizer = Tokenizer(models.WordPiece({"a": 0}, unk_token="[NONE]"))
    with pytest.raises(UsageError, match=r"cannot be tokenised: .*\[UNK\]"):
        get_task("sst2").features([TextExample("b", 1)], tokenizer, 16)


def test_text_that_is_not_text_names_the_line(tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text('{"text": null, "label": 1}\n')
    with pytest.raises(PruneonceError, match=r"line 1: expected text, found NoneType"):
        get_task("regression").read(path)


def test_all_rows_without_agreement_is_an_error(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("sentence1\tsentence2\tgold_label\na\tb\t-\n")
    with pytest.raises(PruneonceError, match="no row has a label"):
        GLUE["mnli"].read(path)


def test_labels_are_discovered_as_text_when_one_is_no_number(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"label": "10"}\n{"label": "nan"}\n{"label": 2.0}\n{"label": null}\n')
    assert discover_labels(path, "label") == ("10", "2", "nan")
    path.write_text('{"label": "10"}\n')
    with pytest.raises(PruneonceError, match=r"two or more labels .* found 10"):
        discover_labels(path, "label")


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), (1.5, "1.5"), (" 1\r", "1"), (None, ""), (float("nan"), "")]
)
def test_label_is_the_same_whatever_the_format_made_of_it(value, text):
    assert label_text(value) == text


def test_digits_are_ids_only_where_no_label_is_a_number():
    assert label_id("1", ("no", "yes")) == 1
    assert label_id("1", ("1", "2")) == 0
    with pytest.raises(ValueError, match="unknown label '0'"):
        label_id("0", ("1", "2"))  # one star too few, not the id of "1"


words = st.text("ab ", max_size=30)


@settings(deadline=None)  # the tokenizer starts its threads on the first call
@given(texts=st.lists(st.tuples(words, words), min_size=1, max_size=5), max_tokens=st.integers(4, 24))
def test_pair_is_cut_longest_first_and_keeps_its_special_tokens(texts, max_tokens):
    examples = [TextExample(text, 0) for text in texts]
    for (first, second), feature in zip(texts, GLUE["rte"].features(examples, TOKENIZER, max_tokens), strict=True):
        length = [len(TOKENIZER.encode(text, add_special_tokens=False).ids) for text in (first, second)]
        kept = [int(np.sum(feature.token_type_ids == segment)) for segment in (0, 1)]
        kept = [kept[0] - 2, kept[1] - 1]
        assert len(feature.input_ids) == min(sum(length) + 3, max_tokens)
        assert feature.input_ids.dtype == feature.token_type_ids.dtype == np.int32
        for own, other in ((0, 1), (1, 0)):  # only the longer one is cut, down to about the length of the other
            assert kept[own] == length[own] or kept[own] >= kept[other] - 1


def test_features_leave_the_given_tokenizer_alone_and_text_cannot_forge_special_tokens():
    tokenizer = tiny_tokenizer()
    before = tokenizer.to_str()
    (feature,) = GLUE["sst2"].features([TextExample("[SEP] a", 1)], tokenizer, 16)
    assert tokenizer.to_str() == before
    assert np.sum(feature.input_ids == tokenizer.token_to_id("[SEP]")) == 1


def test_features_keep_the_order_of_examples_across_tokenizer_batches(monkeypatch):
    monkeypatch.setattr("pruneonce.tasks.classification.ENCODE_BATCH", 2)
    examples = [TextExample("a" * length, length) for length in range(1, 6)]
    features = GLUE["stsb"].features(examples, TOKENIZER, 32)
    assert [len(feature.input_ids) - 2 for feature in features] == [feature.label for feature in features]


def test_max_tokens_that_holds_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match="at least 4"):
        truncating_copy(TOKENIZER, 3)


def test_logits_of_another_head_are_refused():
    examples = [TextExample("a", 0), TextExample("b", 1)]
    features = GLUE["mnli"].features(examples, TOKENIZER, 8)
    with pytest.raises(PruneonceError, match=r"task mnli: expected logits of shape \(2, 3\), got \(2, 2\)"):
        GLUE["mnli"].score(examples, features, np.zeros((2, 2), np.float32))
    with pytest.raises(PruneonceError, match="NaN"):
        GLUE["mnli"].score(examples, features, np.full((2, 3), np.nan, np.float32))


def test_every_task_name_is_known_and_a_misspelt_one_is_named():
    for name in TASK_NAMES:
        assert get_task(name, labels=["a", "b"] if name == "classification" else ()).name == name
    with pytest.raises(UsageError, match=r"unknown task 'SST-2' \(did you mean 'sst2'\?\)"):
        get_task("SST-2")


def test_options_that_a_task_would_ignore_are_refused():
    with pytest.raises(UsageError, match="'sst2' has columns and labels of its own"):
        get_task("sst2", text="review")
    with pytest.raises(UsageError, match="takes no labels"):
        get_task("regression", labels=["a", "b"])
    with pytest.raises(UsageError, match="needs its labels"):
        get_task("classification")
    with pytest.raises(UsageError, match="two or more different labels, got a, a"):
        get_task("classification", labels=["a", "a"])


def test_importing_tasks_loads_no_training_library():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'scipy', 'sklearn'}"
    code = f"import sys, pruneonce.tasks; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_mrpc_is_read_from_the_files_as_they_were_published(tmp_path):
    file = tmp_path / "msr_paraphrase_test.txt"
    file.write_text('\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\ta "film\ta story\r\n')
    (example,) = get_task("mrpc").read(file)
    assert (example.text, example.label) == (('a "film', "a story"), 1)
    with pytest.raises(UsageError, match="cannot tell the format"):
        get_task("classification", labels=["a", "b"]).read(file)
