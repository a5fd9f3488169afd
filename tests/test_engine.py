"""The engine against transformers' own forward pass, on every instruction set of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from pruneonce import _native
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.nonzero_codes import Positions
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.formats.stored_tensors import FLOAT_TYPES, SparseMatrix, dense
from pruneonce.run import weights, workspace
from pruneonce.run.model import Model, load_model

ISAS = _native.available_isas()
HEADS = ["ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification", "ForMaskedLM", "Model"]
VOCABULARY = 500
LENGTHS = (7, 31, 60, 1, 33, 64)


def config_of(family, **changes):
    if family == "Bert":
        sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 130}
    else:
        sizes = {"dim": 48, "n_layers": 3, "n_heads": 3, "hidden_dim": 130}
    general = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    return getattr(transformers, family + "Config")(**(general | sizes | changes))


def make_model(family, head, density=0.1, **changes):
    """A random model whose activations are as large as a trained one's."""
    torch.manual_seed(0)
    changes = {"num_labels": 2 if head == "ForQuestionAnswering" else 3} | changes
    model = getattr(transformers, family + head)(config_of(family, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and ".layer." in name:
                parameter.mul_((torch.rand_like(parameter) < density) * 5)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def tokenizer_file(tiny_bert):
    return tiny_bert / "tokenizer.json"


@pytest.fixture(scope="module")
def pack(tmp_path_factory, tokenizer_file):
    def pack(model):
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
        export_packed(folder, folder / "model.pruneonce", embeddings="fp32")
        return folder / "model.pruneonce"

    return pack


@pytest.fixture(scope="module")
def classifier_file(pack):
    return pack(make_model("Bert", "ForSequenceClassification"))


def random_batch(lengths=LENGTHS, seed=0):
    generator = np.random.default_rng(seed)
    ids = [generator.integers(0, VOCABULARY, length) for length in lengths]
    return ids, [generator.integers(0, 2, length) for length in lengths]


def torch_logits(model, ids, types):
    inputs = {"input_ids": torch.tensor(ids)[None]}
    if model.config.model_type == "bert":
        inputs["token_type_ids"] = torch.tensor(types)[None]
    with torch.no_grad():
        out = model(**inputs)
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
    return (out.logits if "logits" in out else out.last_hidden_state)[0].numpy()


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
@pytest.mark.parametrize("head", HEADS)
def test_logits_of_a_ragged_batch_are_those_of_transformers(family, head, pack):
    model = make_model(family, head)
    file = pack(model)
    ids, types = random_batch()
    for isa in ISAS:
        outputs = load_model(file, isa=isa)(ids, types)
        assert len(outputs) == len(ids)
        for sequence, segments, output in zip(ids, types, outputs, strict=True):
            np.testing.assert_allclose(output, torch_logits(model, sequence, segments), atol=2e-5)
            assert output.dtype == np.float32


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Bert", {"hidden_act": "relu"}),
        ("Bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
        ("Bert", {"num_hidden_layers": 1}),
        ("DistilBert", {"activation": "relu"}),
    ],
)
def test_unusual_configs(family, changes, pack):
    model = make_model(family, "ForMaskedLM", **changes)
    ids, types = random_batch((5, 40))
    for output, sequence, segments in zip(load_model(pack(model))(ids, types), ids, types, strict=True):
        np.testing.assert_allclose(output, torch_logits(model, sequence, segments), atol=3e-5)


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_layers_without_enough_zeros_run_dense_or_sparse_with_the_same_answer(density, pack):
    model = make_model("Bert", "ForQuestionAnswering", density)
    ids, types = random_batch((5, 40))
    for output, sequence, segments in zip(load_model(pack(model))(ids, types), ids, types, strict=True):
        np.testing.assert_allclose(output, torch_logits(model, sequence, segments), atol=1e-4)


@pytest.mark.parametrize("kernels", ["sparse", "dense"])
def test_with_pinned_kernels_two_starts_answer_with_the_same_bits_whatever_was_faster(kernels, pack, monkeypatch):
    file = pack(make_model("Bert", "ForQuestionAnswering", 0.5))
    ids, types = random_batch()
    pinned, measured = [], []
    for faster in (_native.PackedWeight, _native.DenseWeight):  # what timing finds in one start, and in the other
        monkeypatch.setattr(weights, "_chosen", {})
        monkeypatch.setattr(weights, "_seconds", lambda weight, faster=faster: 0.0 if type(weight) is faster else 1.0)
        pinned.append(np.concatenate(load_model(file, kernels=kernels)(ids, types)))
        measured.append(load_model(file))
    assert np.array_equal(*pinned)
    kinds = [type(model.encoder.layers[0].up.weight) for model in measured]
    assert kinds == [_native.PackedWeight, _native.DenseWeight]
    with pytest.raises(UsageError, match="kernels is 'fast': one of measured, sparse, dense is expected"):
        load_model(file, kernels="fast")


def test_a_batch_larger_than_one_pass_keeps_its_order(classifier_file):
    model = load_model(classifier_file)
    ids, types = random_batch([1 + i % 64 for i in range(60)])
    together = model(ids, types)
    alone = np.concatenate([model([a], [b]) for a, b in zip(ids, types, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_only_wanted_positions_of_a_masked_lm(pack):
    model = load_model(pack(make_model("Bert", "ForMaskedLM")))
    ids, _ = random_batch((5, 40, 9))
    everything = model(ids)
    wanted = [np.array([0, 4]), np.array([], int), np.array([8])]
    for output, all_positions, positions in zip(model(ids, positions=wanted), everything, wanted, strict=True):
        assert output.shape == (len(positions), VOCABULARY)
        np.testing.assert_allclose(output, all_positions[positions], atol=1e-5)
    nothing = model(ids, positions=[np.array([], int)] * 3)
    assert [output.shape for output in nothing] == [(0, VOCABULARY)] * 3


def test_hidden_states_whatever_the_head(pack):
    model = make_model("Bert", "ForSequenceClassification")
    ids, types = random_batch((5, 40))
    states = load_model(pack(model)).hidden_states(ids, types)
    for state, sequence, segments in zip(states, ids, types, strict=True):
        np.testing.assert_allclose(state, torch_logits(model.bert, sequence, segments), atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_answers_of_a_pass_are_not_written_over_by_the_next(head, pack):
    """Heads compute in space that the thread keeps."""
    model = load_model(pack(make_model("Bert", head)))
    ids, types = random_batch()
    first = model(ids, types)
    before = [np.array(each) for each in first]
    model(*random_batch((64,) * 7, seed=1))
    for kept, output in zip(before, first, strict=True):
        assert np.array_equal(kept, output)
    for again, output in zip(model(ids, types), first, strict=True):
        assert np.array_equal(again, output)


def test_an_empty_batch(classifier_file):
    assert load_model(classifier_file)([]).shape == (0, 3)


def test_answers_do_not_depend_on_threads_or_earlier_calls(classifier_file):
    model = load_model(classifier_file)
    ids, types = random_batch()
    expected, before = model(ids, types), _native.num_threads()
    try:
        for threads in 1, 2, 3:
            _native.set_num_threads(threads)
            model(*random_batch((64,) * 7))
            assert np.array_equal(model(ids, types), expected)
    finally:
        _native.set_num_threads(before)


def test_several_threads_may_call_one_model(classifier_file):
    model = load_model(classifier_file)
    wrong = []

    def work(seed):
        ids, types = random_batch((seed + 1, 64, 3), seed)
        expected = np.concatenate([model([a], [b]) for a, b in zip(ids, types, strict=True)])
        for _ in range(20):
            if not np.allclose(model(ids, types), expected, atol=1e-6):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_server_of_many_threads_keeps_as_many_workspaces_as_calls_at_once(classifier_file, monkeypatch):
    made = []

    class Counted(workspace.Workspace):
        def __init__(self, isa):
            made.append(self)
            super().__init__(isa)

    monkeypatch.setattr(workspace, "Workspace", Counted)
    model = load_model(classifier_file)
    for seed in range(5):
        thread = threading.Thread(target=model, args=random_batch((9, 4), seed))
        thread.start()
        thread.join()
    assert len(made) == 1
    with model._workspaces.borrowed() as first, model._workspaces.borrowed() as second:
        assert {id(first), id(second)} == {id(each) for each in made}
    with pytest.raises(ZeroDivisionError), model._workspaces.borrowed():
        _ = 1 / 0
    model(*random_batch((9, 4)))
    assert len(made) == 2


def test_threads_of_the_environment_that_mean_nothing_are_the_users_error(classifier_file):
    code = (
        "import sys; from pruneonce.run.model import load_model; from pruneonce.errors import UsageError\n"
        "try: load_model(sys.argv[1])\nexcept UsageError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(classifier_file)]
    run = subprocess.run(command, env=os.environ | {"PRUNEONCE_THREADS": "all"}, capture_output=True, text=True)
    assert run.stdout.strip() == "[num_threads] PRUNEONCE_THREADS='all', expected a number of 1 to 1024"


@pytest.mark.parametrize(
    ("ids", "types", "message"),
    [
        ([[]], None, "sequence 0 has 0 tokens"),
        ([[1], [2] * 65], None, "sequence 1 has 65 tokens, this model takes 1 to 64"),
        ([[1, VOCABULARY]], None, f"expected 0 to {VOCABULARY - 1}"),
        ([[-1]], None, "expected 0"),
        ([[0.5]], None, "whole numbers"),
        ([[[1]]], None, "one dimension"),
        ([[1, 2]], [[0, 2]], "token types of sequence 0 are 0 to 2"),
        ([[1, 2]], [[0]], "lengths of the token ids"),
        ([[1, 2]], [[0, 0], [0]], "lengths of the token ids"),
    ],
)
def test_impossible_input_is_refused_with_the_sequence(ids, types, message, classifier_file):
    with pytest.raises(UsageError, match=message):
        load_model(classifier_file)([np.array(each) for each in ids], types and [np.array(each) for each in types])


def test_positions_are_for_masked_lms_and_must_rise(classifier_file, pack):
    with pytest.raises(UsageError, match="positions are for fill-mask"):
        load_model(classifier_file)([np.array([1])], positions=[np.array([0])])
    model = load_model(pack(make_model("Bert", "ForMaskedLM")))
    with pytest.raises(UsageError, match="must rise"):
        model([np.array([1, 2])], positions=[np.array([1, 0])])
    with pytest.raises(UsageError, match="expected 0 to 1"):
        model([np.array([1, 2])], positions=[np.array([2])])
    with pytest.raises(UsageError, match="2 sequences"):
        model([np.array([1, 2])], positions=[np.array([0]), np.array([0])])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2'"),
        ({"model_type": None}, "model type"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice"),
        ({"architectures": []}, "architectures"),
        ({"architectures": ["BertForQuestionAnswering"]}, "tensor qa_outputs.weight is missing"),
        ({"architectures": ["BertForMaskedLM"]}, "tensor cls.predictions.transform.dense.weight is missing"),
        ({"hidden_size": 47}, "47"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"num_hidden_layers": 4}, "encoder.layer.3"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_act": "__import__"}, "hidden_act"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"position_embedding_type": "relative_key"}, "absolute"),
        ({"is_decoder": True}, "only encoders"),
    ],
)
def test_a_file_whose_config_lies_is_refused_with_its_name(config, message, classifier_file, tmp_path):
    packed = read_packed(classifier_file)
    file = tmp_path / "lie.pruneonce"
    write_packed(file, replace(packed, config=packed.config | config))
    with pytest.raises(PruneonceError, match=message) as caught:
        load_model(file)
    assert str(file) in str(caught.value)


def test_a_tensor_of_the_wrong_shape_is_refused_before_native_code_sees_it(classifier_file):
    packed = read_packed(classifier_file)
    for name in packed.tensors:
        other = "classifier.bias" if name != "classifier.bias" else "bert.embeddings.word_embeddings.weight"
        tensors = packed.tensors | {name: packed.tensors[other]}
        with pytest.raises(ValueError, match=r"tensor .* has shape|stored sparse"):
            Model(replace(packed, tensors=tensors))


@pytest.mark.parametrize("table", ["word", "position", "token_type"])
def test_an_empty_table_is_refused_when_the_file_is_loaded_not_at_every_call(table, classifier_file):
    packed = read_packed(classifier_file)
    name = f"bert.embeddings.{table}_embeddings.weight"
    empty = dense(np.zeros((0, packed.tensors[name].shape[1]), np.float32))
    with pytest.raises(ValueError, match="the embeddings are empty: words, positions and types need a row at least"):
        Model(replace(packed, tensors={**packed.tensors, name: empty}))


def test_dense_kernels_beyond_the_memory_of_the_machine_are_refused_in_a_line(classifier_file, monkeypatch):
    monkeypatch.setattr("pruneonce.run.tensors.memory_bytes", lambda: 100_000)
    load_model(classifier_file, kernels="sparse")
    with pytest.raises(PruneonceError, match=r"its weights take .* GB, this machine has 0.0: leave out kernels="):
        load_model(classifier_file, kernels="dense")


@pytest.mark.parametrize("part", ["word", "position", "token_type"])
def test_embeddings_that_few_bytes_make_huge_are_refused(part, classifier_file):
    packed = read_packed(classifier_file)
    empty = Positions("rice", np.zeros(0, np.uint8), 8)
    huge = SparseMatrix((2**24 // 48, 48), np.zeros(0, "<f4"), FLOAT_TYPES["fp32"], empty)
    huge.check()
    name = f"bert.embeddings.{part}_embeddings.weight"
    with pytest.raises(ValueError, match=f"{name} is stored sparse: embeddings are dense or int8"):
        Model(replace(packed, tensors=packed.tensors | {name: huge}))


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_labels_are_as_many_as_the_classifier_has_rows_and_numbered_where_they_have_no_names(head, pack):
    packed = read_packed(pack(make_model("Bert", head)))
    assert Model(packed).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert Model(replace(packed, config=packed.config | {"id2label": None})).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with pytest.raises(ValueError, match=r"id2label names 2 classes, classifier\.weight has 3 rows"):
        Model(replace(packed, config=packed.config | {"id2label": {"0": "no", "1": "yes"}}))


@pytest.mark.parametrize("isa", ISAS)
def test_layers_of_different_widths(isa, classifier_file):
    packed = read_packed(classifier_file)
    up, bias, down = (
        f"bert.encoder.layer.1.{part}"
        for part in ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight")
    )
    arrays = {name: packed.tensors[name].to_dense().copy() for name in (up, bias, down)}
    wide = {up: arrays[up], bias: arrays[bias], down: arrays[down]}
    wide[up][50:], wide[bias][50:] = 0, 0  # gelu(0) = 0: these units add nothing
    narrow = {up: arrays[up][:50], bias: arrays[bias][:50], down: arrays[down][:, :50]}
    batch = random_batch()
    answers = [
        Model(replace(packed, tensors=packed.tensors | {name: dense(array) for name, array in each.items()}), isa=isa)(
            *batch
        )
        for each in (wide, narrow)
    ]
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-5)


def test_a_folder_or_an_unknown_instruction_set(classifier_file):
    with pytest.raises(UsageError, match="pruneonce export"):
        load_model(classifier_file.parent)
    with pytest.raises(UsageError, match="'mmx' is unknown"):
        load_model(classifier_file, isa="mmx")


def test_the_engine_runs_without_torch(classifier_file):
    code = (
        "import sys, json, numpy as np\n"
        "from pruneonce.run.model import load_model\n"
        f"logits = load_model({str(classifier_file)!r})([np.arange(5)])\n"
        "print(json.dumps([logits.tolist(), sorted(sys.modules)]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    logits, modules = json.loads(run.stdout)
    assert np.shape(logits) == (1, 3)
    assert not {"torch", "transformers", "pyarrow", "typer"} & set(modules)
