"""ModernBERT and NomicBERT beside transformers: rotary positions, windows, gates, norms before, no biases."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pruneonce import _native
from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError
from pruneonce.formats.model_folder import read_matrices
from pruneonce.formats.packed_file import read_packed
from pruneonce.models import family_of
from pruneonce.models.modernbert import MODERNBERT
from pruneonce.models.nomic_bert import NOMIC_BERT
from pruneonce.run.model import load_model
from pruneonce.run.rotary import Rotary

ISAS = _native.available_isas()
VOCABULARY = 500
WINDOW = 6  # tokens on either side that a local layer of the tiny model sees
LENGTHS = (7, 31, 60, 1, 33, 150, 64, 13, 12, 14)
HEADS = {
    "ModernBert": [
        "ForSequenceClassification",
        "ForQuestionAnswering",
        "ForTokenClassification",
        "ForMaskedLM",
        "Model",
    ],
    "NomicBert": ["ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "Model"],
}
CASES = [(family, head) for family, heads in HEADS.items() for head in heads]


def config_of(family, **changes):
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 70,
        "max_position_embeddings": 256,
    }
    if family == "ModernBert":
        special = {"pad": 0, "bos": 1, "cls": 1, "eos": 2, "sep": 2}
        values |= {"local_attention": 2 * WINDOW} | {f"{name}_token_id": number for name, number in special.items()}
    return getattr(transformers, family + "Config")(**(values | changes))


def make_model(family, head, density=0.1, **changes):
    """A random model whose activations are as large as a trained one's."""
    torch.manual_seed(0)
    changes = {"num_labels": 2 if head == "ForQuestionAnswering" else 3} | changes
    model = getattr(transformers, family + head)(config_of(family, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "layers." in name:
                parameter.mul_((torch.rand_like(parameter) < density) * 5)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def pack(tmp_path_factory, tiny_bert):
    def pack(model):
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
        export_packed(folder, folder / "model.pruneonce", embeddings="fp32")
        return folder / "model.pruneonce"

    return pack


def random_batch(lengths=LENGTHS, seed=0):
    generator = np.random.default_rng(seed)
    ids = [generator.integers(0, VOCABULARY, length) for length in lengths]
    return ids, [generator.integers(0, 2, length) for length in lengths]


def torch_logits(model, ids, types):
    inputs = {"input_ids": torch.tensor(ids)[None]}
    if family_of(model.config.model_type).token_types:
        inputs["token_type_ids"] = torch.tensor(types)[None]
    with torch.no_grad():
        out = model(**inputs)
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
    return (out.logits if "logits" in out else out.last_hidden_state)[0].numpy()


# ------------------------------------------------------------------------------------------------ beside transformers


@pytest.mark.parametrize(("family", "head"), CASES)
def test_logits_of_a_ragged_batch_are_those_of_transformers(family, head, pack):
    model = make_model(family, head)
    file = pack(model)
    ids, types = random_batch()
    for isa in ISAS:
        outputs = load_model(file, isa=isa)(ids, types)
        assert len(outputs) == len(ids)
        for sequence, segments, output in zip(ids, types, outputs, strict=True):
            np.testing.assert_allclose(output, torch_logits(model, sequence, segments), atol=1e-4)


CHOICES = {
    "a mean instead of a first token": ("ForSequenceClassification", {"classifier_pooling": "mean"}),
    "biases everywhere": (
        "ForMaskedLM",
        {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
    ),
    "biases of attention alone": ("Model", {"attention_bias": True}),
    "no bias of words": ("ForMaskedLM", {"decoder_bias": False}),
    "another nonlinearity in head and gate": (
        "ForTokenClassification",
        {"classifier_activation": "relu", "hidden_activation": "silu"},
    ),
    "windows in other layers": (
        "Model",
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]},
    ),
    "no windows": ("Model", {"layer_types": ["full_attention"] * 4}),
    "other thetas": (
        "Model",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
            }
        },
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_a_config_of_modernbert_may_choose_is_computed(choice, pack):
    head, changes = CHOICES[choice]
    model = make_model("ModernBert", head, **changes)
    ids, types = random_batch()
    for sequence, output in zip(ids, load_model(pack(model))(ids, types), strict=True):
        np.testing.assert_allclose(output, torch_logits(model, sequence, None), atol=1e-4)


def test_a_config_as_transformers_4_wrote_it_is_the_same_model(pack, tmp_path):
    """That on the Hub: thetas and the pattern of windows as single numbers."""
    model = make_model("ModernBert", "Model", rope_parameters=None)
    file = pack(model)
    new = json.loads((file.parent / "config.json").read_text())
    old = {key: value for key, value in new.items() if key not in ("layer_types", "rope_parameters")}
    old |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    assert MODERNBERT.encoder_plan(old) == MODERNBERT.encoder_plan(new)
    bare = {key: value for key, value in old.items() if "rope" not in key and "every" not in key}
    assert MODERNBERT.encoder_plan(bare) == MODERNBERT.encoder_plan(new)


TRUE_SHAPES = {
    "ModernBert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "local_attention": 128,
        "max_position_embeddings": 8192,
    },
    "NomicBert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 2048,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("family", TRUE_SHAPES)
def test_a_layer_of_each_kind_in_true_shape_on_texts_longer_than_the_window(family, pack):
    model = make_model(family, "Model", num_hidden_layers=2, **TRUE_SHAPES[family])
    file = pack(model)
    ids, types = random_batch((700, 129, 300))
    for isa in ISAS:
        for sequence, segments, output in zip(ids, types, load_model(file, isa=isa)(ids, types), strict=True):
            np.testing.assert_allclose(output, torch_logits(model, sequence, segments), atol=1e-4)


@pytest.mark.slow
def test_a_text_of_8192_tokens_is_that_of_transformers(pack):
    model = make_model("ModernBert", "Model", max_position_embeddings=8192, local_attention=128)
    engine = load_model(pack(model))
    assert engine.max_tokens == 8192
    ids, types = random_batch((8192,))
    np.testing.assert_allclose(engine(ids)[0], torch_logits(model, ids[0], types[0]), atol=2e-4)


# ---------------------------------------------------------------------------------------------------- in any company


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("family", HEADS)
def test_a_text_has_the_same_bits_alone_and_in_any_company(family, isa, pack, two_threads):
    engine = load_model(pack(make_model(family, "Model")), isa=isa, kernels="sparse")
    ids, _ = random_batch()
    alone = [engine([each])[0] for each in ids]
    for order in (range(len(ids)), reversed(range(len(ids)))):
        places = list(order)
        for place, states in zip(places, engine([ids[place] for place in places]), strict=True):
            assert np.array_equal(states, alone[place]), place


def test_means_of_texts_have_the_same_bits_alone_and_in_company(pack):
    engine = load_model(pack(make_model("ModernBert", "ForSequenceClassification", classifier_pooling="mean")))
    ids, _ = random_batch()
    together = engine(ids)
    assert together.shape == (len(ids), 3)
    for number, each in enumerate(ids):
        assert np.array_equal(engine([each])[0], together[number])
    assert engine([]).shape == (0, 3)


# ---------------------------------------------------------------------------------------------------------- kernels


def attention_in_windows(qkv, starts, heads, window):
    query, key, value = np.split(qkv.astype(float), 3)
    out, size = np.zeros_like(query), len(query) // heads
    for begin, end in itertools.pairwise(starts):
        for head in range(heads):
            part = np.s_[head * size : (head + 1) * size, begin:end]
            scores = key[part].T @ query[part] / np.sqrt(size)
            place = np.arange(end - begin)
            scores[np.abs(place[:, None] - place) > window] = -np.inf
            scores = np.exp(scores - scores.max(axis=0))
            out[part] = value[part] @ (scores / scores.sum(axis=0))
    return out


def activations(x, isa):
    made = _native.Activations(len(x), isa=isa)
    made.load(np.ascontiguousarray(x.T))
    return made


def array(made):
    rows = np.empty((made.tokens, made.features), np.float32)
    made.store(rows)
    return rows.T


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [1, 2, 5, 64, 1000, 2**63])
@pytest.mark.parametrize("lengths", [[1], [7, 31, 100], [1, 1, 1], [33, 1, 64, 2], [1300]])
def test_attention_sees_its_window_and_nothing_else(isa, window, lengths):
    generator = np.random.default_rng(4)
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = generator.standard_normal((3 * 2 * 7, starts[-1])).astype(np.float32)
    out = _native.Activations(14, isa=isa)
    _native.attention(activations(qkv, isa), starts=starts, heads=2, window=window, out=out)
    np.testing.assert_allclose(array(out), attention_in_windows(qkv, starts, 2, window), atol=5e-6)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), window=st.integers(1, 90), seed=st.integers(0, 99))
def test_a_window_has_the_same_bits_wherever_its_sequence_lies(data, window, seed):
    """Blocks of queries begin where panels do: what they see besides their windows must not change a sum."""
    lengths = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=4))
    isa = data.draw(st.sampled_from(ISAS))
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = np.random.default_rng(seed).standard_normal((3 * 10, starts[-1])).astype(np.float32)
    together, alone = _native.Activations(10, isa=isa), _native.Activations(10, isa=isa)
    _native.attention(activations(qkv, isa), starts=starts, heads=1, window=window, out=together)
    for begin, end in itertools.pairwise(starts):
        one = activations(qkv[:, begin:end], isa)
        _native.attention(one, starts=np.array([0, end - begin]), heads=1, window=window, out=alone)
        assert np.array_equal(array(together)[:, begin:end], array(alone))


@pytest.mark.parametrize("isa", ISAS)
def test_positions_turn_queries_and_keys_and_leave_values(isa):
    heads, size, tokens = 3, 10, 150
    generator = np.random.default_rng(0)
    qkv = generator.standard_normal((3 * heads * size, tokens)).astype(np.float32)
    positions = generator.integers(0, 300, tokens)
    cosines, sines = Rotary(100.0, size).tables(300)
    turned = activations(qkv, isa)
    _native.rotate(turned, positions=positions, heads=heads, cosines=cosines, sines=sines)
    expected = qkv.copy().reshape(3, heads, size, tokens)
    first, second = qkv.reshape(3, heads, 2, size // 2, tokens)[:2].transpose(2, 0, 1, 3, 4)
    angles = positions[None, :] * 100.0 ** -(np.arange(0, size, 2) / size)[:, None]
    expected[:2, :, : size // 2] = first * np.cos(angles) - second * np.sin(angles)
    expected[:2, :, size // 2 :] = second * np.cos(angles) + first * np.sin(angles)
    np.testing.assert_allclose(array(turned), expected.reshape(-1, tokens), atol=1e-4)
    assert np.array_equal(array(turned)[2 * heads * size :], qkv[2 * heads * size :])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("nonlinearity", ["none", "gelu", "gelu_tanh", "relu", "silu"])
def test_gates_are_the_first_half(isa, nonlinearity):
    generator = np.random.default_rng(0)
    for features, tokens in ((1, 1), (70, 150), (129, 17)):
        both = (5 * generator.standard_normal((2 * features, tokens))).astype(np.float32)
        out = _native.Activations(features, isa=isa)
        _native.gate(activations(both, isa), out=out, nonlinearity=nonlinearity)
        gates, up = (torch.from_numpy(each).double() for each in np.split(both, 2))
        functions = {
            "none": lambda x: x,
            "gelu": torch.nn.functional.gelu,
            "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
            "relu": torch.relu,
            "silu": torch.nn.functional.silu,
        }
        np.testing.assert_allclose(array(out), (functions[nonlinearity](gates) * up).numpy(), rtol=1e-5, atol=2e-5)


def test_a_silu_of_anything_is_finite_or_what_it_was_given():
    x = np.array([[-1e30, -200.0, -88.0, 0.0, 88.0, 1e30, np.inf, np.nan] * 2], np.float32)
    for isa in ISAS:
        out = _native.Activations(1, isa=isa)
        _native.gate(activations(np.concatenate([x, np.ones_like(x)]), isa), out=out, nonlinearity="silu")
        found = array(out)[0, :8]
        np.testing.assert_allclose(found[2:7], [-88 * np.exp(-88.0), 0, 88, 1e30, np.inf], atol=1e-6)
        assert (np.abs(found[:2]) < 1e-6).all()
        assert np.isnan(found[7])


@pytest.mark.parametrize("isa", ISAS)
def test_a_copy_has_the_same_bits(isa):
    x = np.random.default_rng(0).standard_normal((5, 77)).astype(np.float32)
    made, other = activations(x, isa), _native.Activations(5, isa=isa)
    _native.copy(made, to=other)
    assert np.array_equal(array(other), x)
    _native.copy(made, to=made)
    assert np.array_equal(array(made), x)


def test_angles_are_those_of_transformers_at_every_position():
    """In float32, where a rounding of 8,000 radians is more than a kernel's error."""
    from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

    config = config_of("ModernBert", hidden_size=192)
    theirs = ModernBertRotaryEmbedding(config)
    positions = torch.arange(8192)[None]
    for layer_type, base in (("full_attention", 160_000.0), ("sliding_attention", 10_000.0)):
        cosines, sines = theirs(torch.zeros(1), positions, layer_type)
        ours = Rotary(base, 64).tables(8192)
        for found, expected in zip(ours, (cosines, sines), strict=True):
            np.testing.assert_allclose(found, expected[0, :, :32].numpy(), atol=1e-6)


# ------------------------------------------------------------------------------------------------- NomicBERT's files


@pytest.fixture(scope="module")
def nomic_folder(pack):
    return pack(make_model("NomicBert", "ForSequenceClassification")).parent


def test_the_stacked_matrices_of_a_file_are_those_of_the_model(nomic_folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(nomic_folder)
    stored = load_file(nomic_folder / "model.safetensors")
    assert any("Wqkv" in name for name in stored), "transformers stacks them no more: this test proves nothing"
    packed = read_packed(nomic_folder / "model.pruneonce")
    parameters = dict(model.named_parameters())
    assert packed.tensors.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert np.array_equal(packed.tensors[name].to_dense(), parameter.detach().numpy()), name
    assert {matrix.name for matrix in read_matrices(nomic_folder)} == parameters.keys()
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    prunable = [matrix.name for matrix in inspect_folder(nomic_folder).matrices if matrix.prunable]
    assert sorted(prunable) == sorted(f"{name}.weight" for name in NOMIC_BERT.prunable_linears(linears))


def test_a_file_that_names_its_tensors_as_the_model_does_is_read_too(nomic_folder, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(nomic_folder)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((nomic_folder / name).read_bytes())
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    save_file(tensors, tmp_path / "model.safetensors")
    packed = export_packed(tmp_path, tmp_path / "m.pruneonce")
    assert packed.tensors.keys() == tensors.keys()


def test_rows_that_cannot_be_shared_out_are_refused(nomic_folder, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((nomic_folder / name).read_bytes())
    tensors = load_file(nomic_folder / "model.safetensors")
    name = next(name for name in tensors if "Wqkv" in name)
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])
    save_file(tensors, tmp_path / "model.safetensors")
    for read in (lambda: list(read_matrices(tmp_path)), lambda: export_packed(tmp_path, tmp_path / "m.pruneonce")):
        with pytest.raises(PruneonceError, match=r"Wqkv.weight of shape \[143, 48\] must be 3 matrices"):
            read()
    assert not (tmp_path / "m.pruneonce").exists()


# The config of nomic-embed-text-v1.5, as published, as far as a model depends on it.
PUBLISHED = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    "vocab_size": 30528,
}


def test_a_published_config_is_the_plan_of_transformers_defaults():
    plan = NOMIC_BERT.encoder_plan(PUBLISHED)
    defaults = NOMIC_BERT.encoder_plan(transformers.NomicBertConfig(max_position_embeddings=8192).to_dict())
    assert plan == defaults
    assert NOMIC_BERT.encoder_plan(PUBLISHED | {"rotary_scaling_factor": 2}).max_tokens == 2048


def test_a_published_folder_runs_as_it_is(pack, tmp_path):
    """Config and names of tensors as the models' own code wrote them."""
    model = make_model("NomicBert", "Model", rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    folder = pack(model).parent
    sizes = {"n_embd": 48, "n_head": 3, "n_inner": 70, "n_layer": 4, "n_positions": 256, "rotary_emb_base": 77}
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED | sizes | {"vocab_size": VOCABULARY}))
    export_packed(tmp_path, tmp_path / "m.pruneonce", embeddings="fp32")
    engine = load_model(tmp_path / "m.pruneonce")
    assert engine.max_tokens == 256
    ids, types = random_batch()
    for sequence, segments, output in zip(ids, types, engine(ids, types), strict=True):
        np.testing.assert_allclose(output, torch_logits(model, sequence, segments), atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prenorm": True}, "prenorm is 'True'"),
        ({"use_rms_norm": True}, "use_rms_norm"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction"),
        ({"rotary_emb_interleaved": True}, "rotary_emb_interleaved"),
        ({"qkv_proj_bias": True}, "qkv_proj_bias"),
        ({"num_experts": 8}, "mixtures of experts"),
        ({"activation_function": "geglu"}, "activation_function"),
        ({"n_head": 7}, "cannot be shared out"),
        ({"n_embd": 12}, "a head of 1 is odd"),
        ({"rotary_emb_base": "many"}, "theta 'many'"),
        ({"head_dim": 5}, "head_dim"),
    ],
)
def test_a_nomicbert_that_is_another_model_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        NOMIC_BERT.encoder_plan(PUBLISHED | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types must be 4 of"),
        ({"layer_types": ["full_attention", "chunked", 3, None]}, "layer_types must be 4 of"),
        ({"local_attention": 1}, "local_attention is 1"),
        ({"local_attention": -4}, "local_attention is '-4'"),
        ({"classifier_pooling": "max"}, "classifier_pooling is 'max'"),
        ({"classifier_pooling": ["cls"]}, "classifier_pooling"),
        ({"norm_bias": "no"}, "norm_bias"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}}, "of type 'yarn'"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": float("nan")}}}, "theta 'nan'"),
        ({"rope_parameters": ["default"]}, "rope_parameters must be an object"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers is '0'"),
        ({"hidden_activation": "laplace"}, "hidden_activation 'laplace'"),
    ],
)
def test_a_modernbert_that_is_another_model_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        MODERNBERT.encoder_plan(config_of("ModernBert").to_dict() | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "lacking"),
    [
        ("ModernBert", "model.layers.2.attn_norm.weight"),
        ("ModernBert", "model.final_norm.weight"),
        ("ModernBert", "head.norm.weight"),
        ("NomicBert", "nomic_bert.layers.1.mlp.gate_proj.weight"),
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(family, lacking, pack, tmp_path):
    from pruneonce.formats.packed_file import write_packed

    packed = read_packed(pack(make_model(family, "ForSequenceClassification")))
    del packed.tensors[lacking]
    write_packed(tmp_path / "m.pruneonce", packed)
    with pytest.raises(PruneonceError, match=f"tensor {lacking} is missing"):
        load_model(tmp_path / "m.pruneonce")


def test_gates_without_as_many_beside_them_are_refused(pack, tmp_path):
    from pruneonce.formats.packed_file import write_packed
    from pruneonce.formats.stored_tensors import dense

    packed = read_packed(pack(make_model("ModernBert", "Model")))
    name = "layers.1.mlp.Wi.weight"
    packed.tensors[name] = dense(np.ones((139, 48), np.float32))
    write_packed(tmp_path / "m.pruneonce", packed)
    with pytest.raises(PruneonceError, match="139 rows are not gates and as many"):
        load_model(tmp_path / "m.pruneonce")


# --------------------------------------------------------------------------------------------------------- long texts


def test_a_long_text_takes_memory_by_its_tokens_and_not_by_their_square(pack):
    """Scores of all pairs of 20,000 tokens would be 1.6 GB for each head."""
    tokens = 20_000
    sizes = {"hidden_size": 16, "num_attention_heads": 1, "intermediate_size": 16, "num_hidden_layers": 2}
    file = pack(make_model("ModernBert", "Model", max_position_embeddings=tokens, **sizes))
    code = (
        "import resource, sys, numpy as np; from pruneonce.run.model import load_model; m = load_model(sys.argv[1]); "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024; before = peak(); "
        "states, = m([np.zeros(int(sys.argv[2]), np.int64)]); assert np.isfinite(states).all(); print(peak() - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(file), str(tokens)], check=True, capture_output=True, text=True
    )
    assert float(result.stdout) < 200  # MB


def test_the_work_of_a_model_with_windows_is_counted_by_what_tokens_see(pack):
    from pruneonce.bench.inference.subject import read_subject

    subject = read_subject(pack(make_model("ModernBert", "ForSequenceClassification")).parent)
    for tokens in (1, 5, 7, 8, 12, 13, 14, 100):
        place = np.arange(tokens)
        seen = int((np.abs(place[:, None] - place) <= WINDOW).sum())
        pairs = 2 * tokens**2 + 2 * seen  # two layers of each kind
        weights = subject.nonzeros_per_token * tokens + subject.nonzeros_per_sequence
        assert subject.useful_flops([tokens]) == 2 * (weights + 2 * 48 * pairs)


def test_a_config_that_is_not_computed_is_refused_before_a_file_is_written(pack, tmp_path):
    folder = pack(make_model("ModernBert", "Model")).parent
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["full_attention"]["rope_type"] = "yarn"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PruneonceError, match=r"config.json: rotary positions of type 'yarn' are not computed"):
        export_packed(tmp_path, tmp_path / "new.pruneonce")
    assert not (tmp_path / "new.pruneonce").exists()
