"""The models that campaigns start from, made once and kept in the scratch folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pruneonce.formats.scales_file import write_quantization

TEXTS = ("a good film", "the old city, and a bad story")
TINY = {  # packed file -> transformers class
    "classes": "BertForSequenceClassification",
    "spans": "BertForQuestionAnswering",
    "tokens": "BertForTokenClassification",
    "words": "BertForMaskedLM",
    "pretraining": "BertForPreTraining",
    "vectors": "BertModel",
    "distil": "DistilBertForSequenceClassification",
    "int8": "BertForSequenceClassification",
}


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` once, in a process of its own: workers are forked, and torch has threads."""
    if not (folder / "made").exists():
        module, name = make.__module__, make.__name__
        code = f"import sys; from pathlib import Path; from {module} import {name} as make; make(Path(sys.argv[1]))"
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment)
        (folder / "made").touch()
    return folder


def make_tiny(folder: Path) -> None:
    """`NAME.pruneonce` and the model folder `NAME` of each of TINY: a layer or two, 80 % zeros."""
    import conftest
    import torch
    import transformers

    import pruneonce

    for name, head in TINY.items():
        size = {"vocab_size": conftest.save_tokenizer(folder / name), "max_position_embeddings": 32}
        if head.startswith("Distil"):
            config = transformers.DistilBertConfig(**size, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
        else:
            layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
            config = transformers.BertConfig(**size, **layers)
        torch.manual_seed(0)
        model = getattr(transformers, head)(config).eval()
        pruneonce.prune_(model, 0.85).bake()  # plainly: at 0.8 kernels are measured, anew for every run
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / name)
        batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
        scales = pruneonce.quantize_(model, [batch]) if name == "int8" else None
        model.save_pretrained(folder / name)
        if scales is not None:
            write_quantization(folder / name, scales)
        embeddings = "int8" if name == "int8" else "fp32" if name == "spans" else "fp16"
        pruneonce.export(folder / name, folder / f"{name}.pruneonce", embeddings=embeddings)
