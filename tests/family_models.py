"""Small random models of every family with every head, whose activations are as large as trained ones'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from vocabularies import save_vocabulary

from pruneonce.models import FAMILIES, Family
from pruneonce.models.hub import config_for, random_hub_model

HEADS = ["ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification", "ForMaskedLM", "Model"]
MAX_TOKENS = 64
# All that transformers has.
CASES = [
    (family, head)
    for family in FAMILIES.values()
    for head in HEADS
    if family.heads.spans is not None or head != "ForQuestionAnswering"
]
# What a family has besides the usual sizes, so small that tests use all of it.
OWN_SIZES: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 20},
    "modernbert": {"local_attention": 12, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    | {"pad_token_id": 0},
}


def make_model(family: Family, head: str, vocabulary: int = 500, **changes: Any) -> Any:
    """Three layers of 48 features; nine tenths of the encoder's weights are zeros."""
    keys = family.config
    values = {keys.hidden_size: 48, keys.layers: 3, keys.heads: 3, keys.intermediate_size: 130}
    values |= {"vocab_size": vocabulary, keys.max_positions: MAX_TOKENS, "num_labels": 2 if "Question" in head else 3}
    values |= OWN_SIZES.get(family.model_type, {}) | changes
    first = family.encoder_plan(config_for(family, values).to_dict()).first_position or 0
    config = config_for(family, values | {keys.max_positions: values[keys.max_positions] + first})
    torch.manual_seed(0)
    model = random_hub_model("AutoModel" + head.removeprefix("Model"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if family.is_prunable(name):
                parameter.mul_((torch.rand_like(parameter) < 0.1) * 5)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    return model


def save_family_model(family: Family, head: str, folder: Path, **changes: Any) -> Any:
    """A model with its kind of vocabulary, as a folder; the model is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(family, head, save_vocabulary(family.model_type, folder), **changes)
    model.save_pretrained(folder)
    return model


def logits_of(model: Any, ids: Any, types: Any, family: Family) -> Any:
    """What transformers answers to one sequence, as the engine's arrays are."""
    inputs = {"input_ids": torch.tensor(ids)[None]}
    if family.token_types:
        inputs["token_type_ids"] = torch.tensor(types)[None]
    with torch.no_grad():
        out = model(**inputs)
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
    return (out.logits if "logits" in out else out.last_hidden_state)[0].numpy()
