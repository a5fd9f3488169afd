"""A training step beside dense ones."""
