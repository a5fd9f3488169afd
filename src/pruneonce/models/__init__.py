"""What a model family is, one file for each. In: a config's model type; out: a `Family`.

`bert`, `distilbert`, `roberta`, `electra`, `mpnet`, `modernbert`, `nomic_bert`: the families.
`plan`: what an encoder computes; `family`: the record; `tokenizer`: a folder's text rules; `hub`: transformers' models,
configs and tokenizers, loaded in one place. A new family is a file here and its name in FAMILIES.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.models.bert import BERT
from pruneonce.models.distilbert import DISTILBERT
from pruneonce.models.electra import ELECTRA
from pruneonce.models.family import Family, Shape
from pruneonce.models.modernbert import MODERNBERT
from pruneonce.models.mpnet import MPNET
from pruneonce.models.nomic_bert import NOMIC_BERT
from pruneonce.models.plan import EncoderPlan
from pruneonce.models.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from pruneonce.models.unsupported import NOT_COMPUTED

_ALL = (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, MPNET, MODERNBERT, NOMIC_BERT)
FAMILIES = {family.model_type: family for family in _ALL}

__all__ = ["FAMILIES", "Family", "encoder_plan_of", "family_of", "known_shape"]


def family_of(model_type: object) -> Family:
    """The family of a config's `model_type`; UsageError for one that we do not know: why not, or the nearest."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    if isinstance(model_type, str) and model_type in NOT_COMPUTED:
        nearest, why = NOT_COMPUTED[model_type]
        raise UsageError(f"model type '{model_type}' is not supported: {why}; the nearest that is: '{nearest}'")
    shown = str(model_type)[:40]
    near = difflib.get_close_matches(shown, FAMILIES, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"model type {shown!a} is not supported: expected one of {', '.join(sorted(FAMILIES))}.{hint}")


def encoder_plan_of(config: Mapping[str, Any], where: object) -> EncoderPlan:
    """What the encoder of a config computes; UsageError, which begins with `where`, for one that we do not know."""
    try:
        return family_of(config.get("model_type")).encoder_plan(config)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def known_shape(name: str) -> tuple[Family, Shape] | None:
    """The published model whose name is part of a Hub id or path: the longest one, as DistilBERT's has BERT's in it."""
    found = [(family, shape) for family in FAMILIES.values() for shape in family.shapes if shape.name in name]
    return max(found, key=lambda each: len(each[1].name), default=None)
