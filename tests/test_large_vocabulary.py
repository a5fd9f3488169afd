"""A vocabulary of 250,002 pieces, as XLM-R's embedders have: the last rows are found, and the table stays a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from family_models import make_model, save_family_model
from vocabularies import save_unigram

from pruneonce.convert.to_packed import export_packed
from pruneonce.models import FAMILIES
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline

ROWS, HIDDEN = 250_002, 192
IDS = [[0, 17, ROWS - 3, 2], [0, 65_535, 65_536, 131_072, 249_999, 2], [0, ROWS - 2, 2]]
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "int8": 5e-2}
OWN_MEMORY = """
import sys
from pathlib import Path
from pruneonce.run.model import load_model
def own():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])
def use(file):
    engine = load_model(file)
    engine.embed([[0, 100, 17, 2]] * 3)
    return engine
small = use(sys.argv[1])  # libraries, threads and measured kernels are there now
before = own()
large = use(sys.argv[2])
print(own() - before - sys.getsizeof(large.tokenizer))  # which is kept as text until a text comes
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xlm-roberta")
    rows = save_unigram(folder, rows=ROWS)
    assert rows == ROWS
    make_model(FAMILIES["xlm-roberta"], "Model", rows, hidden_size=HIDDEN).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packed(folder):
    """The packed file with embeddings of a kind, made once."""
    made = {}

    def packed(embeddings):
        if embeddings not in made:
            made[embeddings] = folder / f"{embeddings}.pruneonce"
            export_packed(folder, made[embeddings], embeddings=embeddings)
        return made[embeddings]

    return packed


@pytest.mark.parametrize("embeddings", TOLERANCE)
def test_the_last_of_250_002_rows_are_those_of_transformers(folder, packed, embeddings):
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    for vector, ids in zip(load_model(packed(embeddings)).embed(IDS), IDS, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, expected, rtol=0, atol=TOLERANCE[embeddings] * np.abs(expected).max())


def test_a_text_finds_its_pieces_among_250_002(folder, packed):
    text, file = "the film was good", packed("fp16")
    ids = load_tokenizer(folder).encode(text).ids
    assert np.array_equal(pipeline("embeddings", file)([text], normalize=False), load_model(file).embed([ids]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what of it is not a file")
@pytest.mark.parametrize(("embeddings", "row_bytes"), [("fp16", 2 * HIDDEN), ("int8", HIDDEN)])
def test_a_large_table_is_not_copied_to_memory(packed, embeddings, row_bytes, tmp_path):
    small, large = tmp_path / "small.pruneonce", packed(embeddings)
    save_family_model(FAMILIES["xlm-roberta"], "Model", tmp_path / "small", hidden_size=HIDDEN)
    export_packed(tmp_path / "small", small, embeddings=embeddings)
    table = ROWS * row_bytes
    assert large.stat().st_size > table
    command = [sys.executable, "-c", OWN_MEMORY, small, large]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < table / 2
