"""`pruneonce bench-train`: a training step of ours beside a dense and a masked one, losses compared.

Order: case (what one training computes), subject (the training) and parts (where its time goes), worker (its process),
run (all three in turn), record (what is kept), results (tables).
"""
