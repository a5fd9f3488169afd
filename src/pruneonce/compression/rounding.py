"""A compressed model's matrices to int8, their ranges set by the text that it was matched on; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pruneonce.data.corpus import Corpus
from pruneonce.data.windows import windows_for
from pruneonce.formats.model_folder import save_model_folder
from pruneonce.formats.record import read_provenance
from pruneonce.formats.scales_file import read_quantization, write_quantization
from pruneonce.formats.sentence_folder import copy_sentence_files
from pruneonce.models import family_of
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import AttentionNumbers, CompressRecipe
from pruneonce.sparsity.in_place import lock_, quantize_
from pruneonce.train.encoder_model import load_encoder_model
from pruneonce.train.objectives import padded

CALIBRATION_WINDOWS, CALIBRATION_BATCH = 256, 16
CALIBRATION_SEED = 1 << 21  # of draws that no step of training makes


def attention_of(folder: Path) -> AttentionNumbers:
    """In which numbers a folder that `round_to_int8` has made computes attention."""
    layers = read_quantization(folder) or {}
    return "int8" if any(layer.attention_scale is not None for layer in layers.values()) else "fp32"


def round_to_int8(folder: Path, recipe: CompressRecipe, out: Path, attention: AttentionNumbers = "fp32") -> None:
    """The model of `folder`, with its record, rounded and saved as the folder `out` with its scales."""
    record = read_provenance(folder)
    assert record is not None
    model: Any = load_encoder_model(folder).model
    family = family_of(model.config.model_type)
    locked = lock_(model)
    layers = quantize_(model, _calibration(recipe, family.inputs), attention=attention)
    # Masks shrink by what was rounded to 0.
    masks = {family.encoder_name(name): digest for name, digest in locked.digests().items()}
    zeros = {family.encoder_name(name): 1 - layer.kept / layer.mask.numel() for name, layer in locked.layers.items()}
    locked.bake()
    write_quantization(out, layers)
    save_model_folder(model, folder, out)
    copy_sentence_files(folder, out)
    replace(record, masks=masks, sparsity=zeros).write(out)


def _calibration(recipe: CompressRecipe, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    windows = windows_for(Corpus(recipe.corpus, "train"), load_tokenizer(recipe.model), recipe.matching.pairs)
    longest = max(recipe.matching.lengths)
    for begin in range(0, CALIBRATION_WINDOWS, CALIBRATION_BATCH):
        draws = (
            np.random.default_rng([recipe.seed, CALIBRATION_SEED, begin + row]) for row in range(CALIBRATION_BATCH)
        )
        batch = padded([windows.draw(rng, longest) for rng in draws], windows.special_ids["pad"])
        yield {name: batch[name] for name in names}
