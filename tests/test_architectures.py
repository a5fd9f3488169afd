import pytest
import torch
from accelerate import init_empty_weights
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
)

from pruneonce.errors import UsageError
from pruneonce.models.family import BERT, DISTILBERT, architecture_of, encoder_name, prunable_linears

LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def prunable_weights(kind, config, architecture, pooler=True):
    with init_empty_weights():
        model = kind(config)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = prunable_linears(linears, architecture, pooler=pooler)
    return sum(linears[name].weight.numel() for name in chosen), chosen


@pytest.mark.parametrize(
    ("kind", "config", "architecture", "pooler", "weights"),
    [
        (BertForPreTraining, BertConfig(), BERT, False, 84_934_656),
        (BertForPreTraining, BertConfig(), BERT, True, 84_934_656 + 589_824),
        (BertForPreTraining, LARGE, BERT, True, 301_989_888 + 1_048_576),
        (BertForQuestionAnswering, BertConfig(), BERT, True, 84_934_656),
        (BertModel, BertConfig(), BERT, True, 84_934_656 + 589_824),
        (DistilBertForMaskedLM, DistilBertConfig(), DISTILBERT, True, 42_467_328),
        (DistilBertForSequenceClassification, DistilBertConfig(), DISTILBERT, True, 42_467_328),
    ],
)
def test_prunable_weights_are_counted_as_published(kind, config, architecture, pooler, weights):
    assert prunable_weights(kind, config, architecture, pooler)[0] == weights


def test_same_matrix_has_one_name_in_every_head_model():
    with_head = prunable_weights(BertForPreTraining, BertConfig(), BERT)[1]
    bare = prunable_weights(BertModel, BertConfig(), BERT)[1]
    assert [encoder_name(name, BERT) for name in with_head] == bare


def test_heads_are_never_prunable_however_they_are_called():
    names = ["cls.predictions.decoder", "classifier", "pre_classifier", "vocab_transform", "qa_outputs", "bert.encoder"]
    assert prunable_linears(names, BERT) == prunable_linears(names, DISTILBERT) == []


def test_unknown_family_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'distilbert'"):
        architecture_of("distillbert")
