"""Every family with every head: the engine's logits against transformers', on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from family_models import CASES, MAX_TOKENS, logits_of, save_family_model

from pruneonce import _native
from pruneonce.convert.to_packed import export_packed
from pruneonce.models import FAMILIES
from pruneonce.run.model import load_model

ISAS = _native.available_isas()
LENGTHS = (7, 31, 60, 1, 33, MAX_TOKENS)
FIRST_WORD = 5  # a padding token within a text would take no position in RoBERTa


def random_batch(vocabulary, lengths=LENGTHS, seed=0):
    generator = np.random.default_rng(seed)
    ids = [generator.integers(FIRST_WORD, vocabulary, length) for length in lengths]
    return ids, [generator.integers(0, 2, length) for length in lengths]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(transformers' model, packed file) of a family with a head."""

    def packed(family, head, **changes):
        folder = tmp_path_factory.mktemp(family.model_type)
        model = save_family_model(family, head, folder, **changes)
        export_packed(folder, folder / "model.pruneonce", embeddings="fp32")
        return model, folder / "model.pruneonce"

    return packed


@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda each: getattr(each, "model_type", each))
def test_logits_of_a_ragged_batch_are_those_of_transformers(family, head, packed):
    model, file = packed(family, head)
    ids, types = random_batch(model.config.vocab_size)
    expected = [logits_of(model, *each, family) for each in zip(ids, types, strict=True)]
    for isa in ISAS:
        engine = load_model(file, isa=isa)
        assert engine.max_tokens == MAX_TOKENS
        for output, logits in zip(engine(ids, types), expected, strict=True):
            np.testing.assert_allclose(output, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_an_answer_does_not_depend_on_its_company_or_on_threads(family, packed):
    model, file = packed(family, "ForSequenceClassification")
    engine, before = load_model(file, kernels="sparse"), _native.num_threads()
    ids, types = random_batch(model.config.vocab_size)
    expected = engine(ids, types)
    try:
        for threads in 1, 3:
            _native.set_num_threads(threads)
            alone = np.concatenate([engine([a], [b]) for a, b in zip(ids, types, strict=True)])
            assert np.array_equal(alone, expected)
    finally:
        _native.set_num_threads(before)
