"""How much to prune, what, and when. Pure functions in masks and schedules; the one stateful class in pruner."""
