"""A study: methods x sparsities x tasks x seeds as chains of stages, each stage run once however many cells need it.

In: a study's recipe. Out: a folder per run, and an index of which runs make which cell.
Order: recipe, plan (which runs), cost (what they would take), run, index; seeds is the small case, one recipe with
several seeds.
"""
