"""Writes a tiny packed file, texts, and PyTorch's answers to them: what an install without torch must answer too.

`make dist` runs it where torch is; packaging/check_install.py reads what it wrote. The model has random weights with
nine tenths zeros.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
import transformers
from conftest import save_sparse, save_tokenizer

from pruneonce.convert.to_packed import export_packed

TEXTS = ["a good film", "bad water, and no city by the river", "king 1 of 20 ( not great )"]


def main(folder: Path) -> None:
    dense, sparse = folder / "dense", folder / "sparse"
    config = transformers.BertConfig(
        vocab_size=save_tokenizer(dense),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    transformers.BertForPreTraining(config).save_pretrained(dense)
    save_sparse(dense, "AutoModelForSequenceClassification", sparse)
    export_packed(sparse, folder / "sample.pruneonce", embeddings="fp32")
    classify = transformers.pipeline("text-classification", model=str(sparse), top_k=None)
    answers = [{each["label"]: each["score"] for each in scores} for scores in classify(TEXTS)]
    (folder / "answers.json").write_text(json.dumps({"texts": TEXTS, "answers": answers}, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
