"""The whole chain on a small real model, in minutes."""
