"""What is served: one MiniLM as packed files and as a folder of sentence-transformers, and texts of mixed lengths.

The zeros of the 90 % file are those of least magnitude, untrained: its vectors are worth nothing, its time is that of
any such file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

import pruneonce
from pruneonce.bench.inference.cases import SQUAD_LENGTHS
from pruneonce.bench.inference.subject import make_random
from pruneonce.files import write_json

DENSE, INT8, SPARSE_INT8 = "dense float32", "dense int8", "90 % zeros, int8"
LARGE = "BERT-large, 90 % zeros, int8"
FILES = {
    DENSE: "dense.pruneonce",
    INT8: "int8.pruneonce",
    SPARSE_INT8: "sparse-int8.pruneonce",
    LARGE: "large.pruneonce",
}
TEXTS = 512
MOST_TOKENS = 384
CALIBRATION_TEXTS = 32

SENTENCE_FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "sentence_bert_config.json": {"max_seq_length": MOST_TOKENS, "do_lower_case": False},
    "config_sentence_transformers.json": {"prompts": {}, "similarity_fn_name": "cosine"},
}


def make_all(model: Path, articles: Path, work: Path) -> None:
    """Everything that is not there yet, into `work`: `folder` for rivals, FILES for us, `texts.json`."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "folder"
    if not (folder / "modules.json").is_file():
        _make_folder(model, folder)
    if not (work / "texts.json").is_file():
        write_json(work / "texts.json", mixed_texts(articles, Tokenizer.from_file(str(folder / "tokenizer.json"))))
    texts = json.loads((work / "texts.json").read_text())[:CALIBRATION_TEXTS]
    if not (work / FILES[DENSE]).is_file():
        pruneonce.export_packed(folder, work / FILES[DENSE])
    if not (work / FILES[INT8]).is_file():
        _pack_int8(folder, work / FILES[INT8], texts, sparsity=None)
    if not (work / FILES[SPARSE_INT8]).is_file():
        _pack_int8(folder, work / FILES[SPARSE_INT8], texts, sparsity=0.9)
    if not (work / FILES[LARGE]).is_file():
        _make_large(work)


def mixed_texts(articles: Path, tokenizer: Tokenizer) -> list[str]:
    """Sixteen lengths like those of SQuAD's questions with their paragraphs, every sixteen texts one of each."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    random = np.random.default_rng(0)
    with open(articles, encoding="utf-8") as lines:
        leads = [json.loads(line)["text"] for line in lines]
    random.shuffle(leads)
    left = iter(leads)
    texts: list[str] = []
    while len(texts) < TEXTS:
        for length in random.permutation(SQUAD_LENGTHS):
            text = next(left)
            while len(offsets := tokenizer.encode(text, add_special_tokens=False).offsets) < length - 2:
                text += " " + next(left)
            texts.append(text[: offsets[length - 3][1]])
    return texts


def _make_folder(model: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    modes = {f"pooling_mode_{name}": name == "mean_tokens" for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **modes})
    for name in sorted(SENTENCE_FILES, reverse=True):  # modules.json says that it is whole
        write_json(folder / name, SENTENCE_FILES[name])


def _pack_int8(folder: Path, out: Path, texts: Sequence[str], sparsity: float | None) -> None:
    """Quantised after training, its ranges by some of the texts, and with the sentence files of the folder."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if sparsity is not None:
        pruneonce.prune_(model, sparsity).bake()
    rows = [tokenizer(text, truncation=True, max_length=MOST_TOKENS, return_tensors="pt") for text in texts]
    with torch.inference_mode(False):
        scales = pruneonce.quantize_(model, rows)
    made = out.with_suffix(".folder")
    shutil.rmtree(made, ignore_errors=True)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    _add_sentence_files(folder, made)
    from pruneonce.formats.scales_file import write_quantization

    write_quantization(made, dict(scales))
    pruneonce.export_packed(made, out, embeddings="int8")
    shutil.rmtree(made)


def _add_sentence_files(source: Path, folder: Path) -> None:
    shutil.copytree(source / "1_Pooling", folder / "1_Pooling")
    (folder / "2_Normalize").mkdir()
    for name in SENTENCE_FILES:
        shutil.copy(source / name, folder / name)


def _make_large(work: Path) -> None:
    made = work / "large"
    shutil.rmtree(made, ignore_errors=True)
    subject = make_random("bert-large", "sequence-classification", 0.9, made)
    model = AutoModel.from_pretrained(subject.folder, dtype=torch.float32, trust_remote_code=False).eval()
    random = np.random.default_rng(0)
    rows = [{"input_ids": torch.from_numpy(random.integers(1000, 30000, (1, 64)))} for _ in range(4)]
    scales = pruneonce.quantize_(model, rows)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(made / "tokenizer.json"))
    pruneonce.export(model, work / FILES[LARGE], tokenizer, scales, embeddings="int8")
    shutil.rmtree(made)
