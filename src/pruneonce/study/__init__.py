"""A study: methods x sparsities x tasks x seeds as chains of stages, each stage run once however many cells need it."""
