"""What a trained model is worth: scores, predictions, differences between runs.

In: a model (torch, or packed) and a task's examples. Out: metrics, and `predictions.json`.
Order: evaluate (any `predict` function), scoring (a folder or a packed file), predictions (what is kept of them),
comparison (two runs), over_seeds (several).
"""
