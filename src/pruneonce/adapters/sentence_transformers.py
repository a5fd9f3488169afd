"""Modules for sentence-transformers, whose encode, predict, evaluators and whoever calls them then run on the engine.

They stand in the place of its Transformer module. What a packed file says of prompts, similarity and activation becomes
the model's, unless the model was given its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from pruneonce.run.pipelines import pipeline
from pruneonce.run.pipelines.embeddings import Embeddings
from pruneonce.run.pipelines.text_ranking import TextRanking
from pruneonce.run.weights import Kernels

FILE_NAME = "model.pruneonce"  # in a folder that sentence-transformers saves


class _EngineModule(InputModule):
    """What both modules share: a packed file in the engine, its tokenizer, and how both are saved."""

    task: str
    config_file_name = "pruneonce_module.json"
    config_keys = ["isa", "kernels"]  # noqa: RUF012 - sentence-transformers' own way to say it

    def __init__(self, model: str | Path, *, isa: str | None = None, kernels: Kernels = "measured") -> None:
        """Load a packed file. isa, kernels: as of `load_model`, whose errors these are."""
        super().__init__()
        self.path, self.isa, self.kernels = Path(model), isa, kernels
        self.engine: Any = cast(Any, pipeline(self.task, self.path, isa=isa, kernels=kernels))
        self.max_seq_length: int = self.engine.max_tokens

    def __reduce__(self) -> Any:
        """Copies, and other processes, open the file again: what the kernels have packed cannot be sent."""
        return _opened_again, (type(self), self.path, self._options(), self.max_seq_length)

    @property
    def tokenizer(self) -> Tokenizer:
        """The file's, without padding and truncation."""
        tokenizer: Tokenizer = self.engine.text_model.tokenizer
        return tokenizer

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Copy the packed file beside the settings; loading needs trust_remote_code=True, as the class is ours."""
        shutil.copyfile(self.path, Path(output_path) / FILE_NAME)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> _EngineModule:
        """From a folder that `save` wrote."""
        folder = Path(model_name_or_path) / subfolder
        return cls(folder / FILE_NAME, **cls.load_config(model_name_or_path, subfolder=subfolder))

    def on_model_ready(self, model: Any) -> None:
        """Give the model around this module the file's prompts, where it has no others."""
        plan = self.engine.plan
        for name, text in plan.prompts.items():
            model.prompts[name] = model.prompts.get(name) or text
        model.default_prompt_name = model.default_prompt_name or plan.default_prompt

    def _options(self) -> dict[str, Any]:
        return {"isa": self.isa, "kernels": self.kernels}

    def _features(self, encodings: Sequence[Encoding]) -> dict[str, Any]:
        """As tensors that sentence-transformers hands round: padded, which the engine undoes."""
        width = max((len(encoding.ids) for encoding in encodings), default=0)
        padded = np.zeros((3, len(encodings), width), np.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            padded[0, row, :length] = encoding.ids
            padded[1, row, :length] = encoding.type_ids
            padded[2, row, :length] = 1
        ids, types, mask = torch.from_numpy(padded)
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}

    @staticmethod
    def _rows(features: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(token ids, token types) of each text, unpadded: int64 [tokens]."""
        arrays = [features[name].cpu().numpy() for name in ("input_ids", "token_type_ids")]
        lengths = features["attention_mask"].sum(dim=1).tolist()
        return [(ids[:length], types[:length]) for ids, types, length in zip(*arrays, lengths, strict=True)]


class SentenceEncoder(_EngineModule):
    """`SentenceTransformer(modules=[SentenceEncoder("m.pruneonce")])`: pooling and length are those of the file.

    tokens: give the states of tokens as well, for modules of sentence-transformers' own that follow, such as Pooling.
    """

    task = "embeddings"
    config_keys = ["isa", "kernels", "tokens"]  # noqa: RUF012

    def __init__(
        self, model: str | Path, *, isa: str | None = None, kernels: Kernels = "measured", tokens: bool = False
    ) -> None:
        super().__init__(model, isa=isa, kernels=kernels)
        self.tokens = tokens

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        size: int = self.engine.size
        return size

    def on_model_ready(self, model: Any) -> None:
        super().on_model_ready(model)
        if getattr(model, "_similarity_fn_name", "") is None:
            model.similarity_fn_name = self.engine.plan.similarity

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """input_ids, token_type_ids, attention_mask: int64 [texts, tokens]."""
        engine: Embeddings = self.engine
        features = self._features(engine.encode(list(inputs), prompt=prompt or "", max_length=self.max_seq_length))
        skipped = engine.skipped_tokens(prompt or "")
        return features | ({"prompt_length": skipped} if skipped else {})

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds sentence_embedding, float32 [texts, size]; with `tokens` token_embeddings [texts, tokens, hidden]."""
        engine: Embeddings = self.engine
        rows = self._rows(features)
        device = features["input_ids"].device
        if self.tokens:
            states = engine.model.hidden_states([ids for ids, _ in rows], [types for _, types in rows])
            padded = np.zeros((*features["input_ids"].shape, engine.model.hidden_size), np.float32)
            for row, each in enumerate(states):
                padded[row, : len(each)] = each
            features["token_embeddings"] = torch.from_numpy(padded).to(device)
        skipped = features.get("prompt_length", 0)
        vectors = engine.vectors([ids for ids, _ in rows], skipped_tokens=int(skipped), batch_size=max(1, len(rows)))
        features["sentence_embedding"] = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)
        return features

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"tokens": self.tokens}


class CrossEncoder(_EngineModule):
    """`sentence_transformers.CrossEncoder(modules=[CrossEncoder("m.pruneonce")])`: a reranker of one logit."""

    task = "text-ranking"

    def on_model_ready(self, model: Any) -> None:
        super().on_model_ready(model)
        if model.activation_fn is None:
            raw = self.engine.plan.activation == "none"
            model.activation_fn = torch.nn.Identity() if raw else torch.nn.Sigmoid()

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """input_ids, token_type_ids, attention_mask: int64 [pairs, tokens]."""
        engine: TextRanking = self.engine
        return self._features(engine.encode(list(inputs), prompt=prompt or "", max_length=self.max_seq_length))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds scores, the logits: float32 [pairs, 1]."""
        rows = self._rows(features)
        logits = self.engine.model([ids for ids, _ in rows], [types for _, types in rows])
        scores: Tensor = torch.from_numpy(np.ascontiguousarray(logits))
        features["scores"] = scores.to(features["input_ids"].device)
        return features


def _opened_again(kind: type[_EngineModule], path: Path, options: dict[str, Any], max_seq_length: int) -> _EngineModule:
    module = kind(path, **options)
    module.max_seq_length = max_seq_length
    return module
