"""The engine and our training beside their rivals: same model, same inputs, outputs or losses compared.

In: a model folder, or a shape to fill with random numbers. Out: a record as JSON, and its tables.
`inference/` and `training/` are the two benchmarks. Both use: speed_limits (the machine), measure (timing in turn and
paired ratios), worker (a process of its own), json_fields (records read back and checked).
"""
