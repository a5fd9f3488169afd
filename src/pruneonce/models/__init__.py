"""What a model family is: names of its tensors, config keys, special tokens, heads; its tokenizer. No torch."""
