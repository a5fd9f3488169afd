"""The engine and our training beside their rivals: same model, same inputs, outputs or losses compared.

In: a model folder, or a shape to fill with random numbers. Out: a record as JSON, and its tables.
`inference/` and `training/` are the two benchmarks, `serving/` is load on a server. They use: speed_limits (the
machine), measure (timed calls and paired ratios), worker (a process of its own), isolation (processes that take turns),
json_fields (records read back and checked).
"""
