"""The whole chain on a small real model, in minutes.

In: nothing; `data.assets` fetches the model and the texts. Out: a folder with every stage's result and `report.md`.
Order: run.
"""
