"""One training loop, and what it needs: models with heads, losses, batches, checkpoints, processes."""
