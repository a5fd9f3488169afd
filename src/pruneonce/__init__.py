"""pruneonce: prune a BERT once, during pre-training; fine-tune it with its zeros locked; run it on a CPU."""

__version__ = "0.1.0"
