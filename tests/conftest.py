"""Shared fixtures: a tiny tokenizer and tiny models of both families, on disk as ordinary model folders."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

# Before torch is imported anywhere: nothing in a test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny matrices: a second thread of OpenMP's only waits, and costs several times the arithmetic where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from pruneonce.data.assets import Assets, find_assets

# A deadline would measure the machine's other tenants.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

FORMAT_PAGE = Path(__file__).parents[1] / "docs" / "format.md"
WORDS = """the a of and in to is was for on as by with it that from at his he an are which this be or had not were film
good bad story city river king war year people world music water house small great old new first north south
history state part time called known made used one two three many most some such other been also has its their
but . , ; ? ! ' ( ) -""".split()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """`$PRUNEONCE_TEST_DATA`: a folder with the original files of GLUE and SQuAD as CONTRIBUTING.md lists them."""
    chosen = os.environ.get("PRUNEONCE_TEST_DATA")
    if not chosen:
        pytest.skip("set PRUNEONCE_TEST_DATA to a folder with the original files (CONTRIBUTING.md says which)")
    if not Path(chosen).is_dir():
        pytest.fail(f"PRUNEONCE_TEST_DATA: {chosen} is no folder")
    return Path(chosen)


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


def save_sparse(source: Path, head: str, folder: Path) -> Path:
    """The model of `source` with a fresh head, 90 % of every prunable matrix zeros, and no record."""
    import torch
    import transformers

    from pruneonce.models import family_of
    from pruneonce.sparsity.masks import magnitude_mask

    torch.manual_seed(1)
    model = getattr(transformers, head).from_pretrained(source)
    with torch.no_grad():
        for name in family_of(model.config.model_type).prunable_linears(dict(model.named_modules())):
            weight = model.get_submodule(name).weight
            weight.masked_fill_(magnitude_mask(weight, 0.9) == 0, 0.0)  # a product would leave -0.0
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def sparse_tiny_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with a classifier and 90 % zeros, of no stage of ours."""
    return save_sparse(tiny_bert, "AutoModelForSequenceClassification", tmp_path_factory.mktemp("sparse-tiny-bert"))


@pytest.fixture(scope="session")
def sparse_tiny_distilbert(tiny_distilbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny DistilBERT with spans and 90 % zeros, of no stage of ours."""
    return save_sparse(
        tiny_distilbert, "AutoModelForQuestionAnswering", tmp_path_factory.mktemp("sparse-tiny-distilbert")
    )


@pytest.fixture(scope="session")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred small documents whose words the tiny vocabulary knows, as `data text` leaves them."""
    from pruneonce.data import text

    rng = np.random.default_rng(0)
    words = "the city river king war year people world music water house small great old new north south".split()
    file = tmp_path_factory.mktemp("text") / "documents.jsonl"
    with open(file, "w") as stream:
        for number in range(100):
            sentences = [" ".join(rng.choice(words, rng.integers(3, 9))).capitalize() + "." for _ in range(8)]
            stream.write(json.dumps({"text": " ".join(sentences), "title": str(number)}) + "\n")
    folder = file.parent / "articles"
    text.collect([file], folder)
    return folder


@pytest.fixture(scope="session")
def pair_corpus(articles: Path, tiny_bert: Path) -> Path:
    """The articles in pairs of at most 32 tokens, for `tiny_bert`."""
    from pruneonce.data.build import build

    folder = articles.parent / "pairs"
    build(articles, folder, tokenizer=tiny_bert, layout="segment_pair_nsp", max_tokens=32)
    return folder


@pytest.fixture(scope="session")
def sentence_corpus(articles: Path, tiny_distilbert: Path) -> Path:
    """The articles in runs of sentences of at most 32 tokens, for `tiny_distilbert`."""
    from pruneonce.data.build import build

    folder = articles.parent / "sentences"
    build(articles, folder, tokenizer=tiny_distilbert, layout="document_sentences", max_tokens=32)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that a tiny model can learn: the label is whether the text says "good"."""
    rng = np.random.default_rng(1)
    file = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    with open(file, "w") as stream:
        for _ in range(200):
            words = [
                *rng.choice(["the", "film", "story", "was", "a"], rng.integers(2, 12)),
                rng.choice(["good", "bad"]),
            ]
            rng.shuffle(words)
            label = "yes" if "good" in words else "no"
            stream.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    return file


@pytest.fixture(scope="session")
def sparse_bert(tiny_bert: Path, pair_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT pruned to 90 % by `prune`, with its pre-training heads and its record."""
    from tiny_stages import prune_values, run

    out = tmp_path_factory.mktemp("sparse") / "out"
    run("prune", prune_values(tiny_bert, pair_corpus), out)
    return out


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


@pytest.fixture(scope="session")
def packed_files(tiny_bert, sparse_tiny_bert, tmp_path_factory):
    """A folder with packed files of vectors and of classes."""
    import transformers

    from pruneonce.convert.to_packed import export_packed

    folder = tmp_path_factory.mktemp("packed")
    transformers.AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, folder / name)
    export_packed(folder, folder / "vectors.pruneonce")
    export_packed(sparse_tiny_bert, folder / "classes.pruneonce")
    return folder


@pytest.fixture(scope="module")
def s3():
    """An S3 on this machine with one empty bucket, `texts`; found in the environment, as users find theirs."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()  # one that is kept knows another module's server
        system = s3fs.S3FileSystem(skip_instance_cache=True)
        system.mkdir("texts")
        yield system
        system.rm("texts", recursive=True)  # servers of one process share what they hold
    server.stop()
