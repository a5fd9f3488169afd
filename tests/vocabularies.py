"""Tiny vocabularies of every kind that encoders come with, saved as transformers' own tokenizer classes save them."""

from __future__ import annotations

from pathlib import Path

from conftest import WORDS, save_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def save_wordpiece(folder: Path) -> int:
    """BERT's, and ELECTRA's."""
    from transformers import BertTokenizer

    size = save_tokenizer(folder)
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)  # its class adds what puts pieces together again
    return size


def save_byte_level(folder: Path) -> int:
    """RoBERTa's: byte-level BPE, in which a space is part of the word that follows."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=400, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    made = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=64)
    made.save_pretrained(folder)
    return len(made)


def save_unigram(folder: Path, rows: int = 0) -> int:
    """XLM-R's and CamemBERT's: Unigram pieces with their scores, "▁" where a word begins; rows: at least so many."""
    from transformers import XLMRobertaTokenizer

    pieces = dict.fromkeys(["▁", *(f"▁{word}" for word in WORDS), *LETTERS, *"üäöé漢字,.;:?!'()-"])
    pieces |= dict.fromkeys(f"▁filler{number:06d}" for number in range(max(0, rows - len(pieces) - 5)))
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored = [(piece, -(3.123456789012345 + number / 100)) for number, piece in enumerate(pieces)]
    made = XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)], model_max_length=64)
    made.save_pretrained(folder)
    return len(made)


def save_mpnet(folder: Path) -> int:
    """MPNet's: BERT's pieces under RoBERTa's special tokens."""
    from transformers import MPNetTokenizer

    special = ["<s>", "<pad>", "</s>", "[UNK]"]
    tokens = dict.fromkeys([*special, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "<mask>"])
    made = MPNetTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=64)
    made.save_pretrained(folder)
    return len(made)


def save_modern(folder: Path) -> int:
    """ModernBERT's: byte-level BPE under BERT's special tokens, and one separator between texts."""
    from tokenizers import ByteLevelBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast

    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [" ".join(WORDS)] * 3, vocab_size=400, special_tokens=list(names.values()), show_progress=False
    )
    ids = {token: number for number, token in enumerate(names.values())}
    trained._tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokens = {f"{name}_token": token for name, token in names.items()}
    made = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, model_max_length=64, **tokens)
    made.save_pretrained(folder)
    return len(made)


# By transformers' name of a family; what is not here comes with BERT's.
VOCABULARIES = {
    "roberta": save_byte_level,
    "xlm-roberta": save_unigram,
    "camembert": save_unigram,
    "mpnet": save_mpnet,
    "modernbert": save_modern,
}


def save_vocabulary(model_type: str, folder: Path) -> int:
    """A vocabulary of a family's kind; returns its size."""
    return VOCABULARIES.get(model_type, save_wordpiece)(folder)
