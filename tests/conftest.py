"""Shared fixtures: a tiny tokenizer and tiny models of both families, on disk as ordinary model folders."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# Before torch is imported anywhere: nothing in a test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

from pruneonce.quickstart.assets import Assets, find_assets

# A deadline would measure the machine's other tenants.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

FORMAT_PAGE = Path(__file__).parents[1] / "docs" / "format.md"
SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"
WORDS = """the a of and in to is was for on as by with it that from at his he an are which this be or had not were film
good bad story city river king war year people world music water house small great old new first north south
history state part time called known made used one two three many most some such other been also has its their
but . , ; ? ! ' ( ) -""".split()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def assets() -> Assets:
    """The real MiniLM and its data; skipped where they have not been fetched (`make test` fetches them)."""
    found = find_assets()
    if found is None:
        pytest.skip("assets not fetched: run `pruneonce quickstart --assets-only` once")
    return found


def save_tokenizer(folder: Path) -> int:
    """A WordPiece tokenizer over `WORDS`, letters and digits; returns the vocabulary size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = Tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64).save_pretrained(folder)
    return len(tokens)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense two-layer BERT with pre-training heads."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    folder = tmp_path_factory.mktemp("tiny-bert")
    config = BertConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertForPreTraining(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense two-layer DistilBERT with its masked-LM head."""
    import torch
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    folder = tmp_path_factory.mktemp("tiny-distilbert")
    config = DistilBertConfig(
        vocab_size=save_tokenizer(folder), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    )
    torch.manual_seed(0)
    DistilBertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def two_threads():
    """Kernels share their work out between two threads, on any machine."""
    from pruneonce import _native

    before = _native.num_threads()
    _native.set_num_threads(2)
    yield
    _native.set_num_threads(before)


@pytest.fixture
def pruneonce(monkeypatch, capsys):
    """Call the command line; returns (exit code, standard output, standard error)."""

    from pruneonce.cli import app as cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pruneonce", *map(str, arguments)])
        try:
            code = cli.main() or 0
        except SystemExit as exit_:
            code = exit_.code or 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture(scope="session")
def documented_reader():
    """`read` of the code block in docs/format.md."""
    code = re.search(r"```python\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert len(code.splitlines()) <= 60
    namespace = {}
    exec(code, namespace)
    return namespace["read"]
