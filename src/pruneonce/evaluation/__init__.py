"""What a trained model is worth: scores, predictions, differences between runs.

In: a model (torch, or packed) and a task's examples. Out: metrics, and `predictions.json`.
Order: packed (any `predict` function, and the engine's), scoring (a torch model), evaluate (pre-training), predictions
(what is kept of them), comparison (two runs), over_seeds (several).
"""
