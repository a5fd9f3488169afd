"""Raw text to pre-training examples. Needs the `train` extra, but neither torch nor transformers."""
