"""Zeros in a torch model: when, which, how a layer computes with them, and how it rounds.

`schedules` say when and how much, `criteria` what a weight is worth, `patterns` and `masks` which stay. `layers` has
the linear layer that computes in one of four forms (`sparse_product`) and may round (`fake_quant`). Two stateful
classes set them: `pruner` and `quantizer`. `cpu_training` owns that a model computes by its non-zeros alone: which
layers gain (`training_kernel`), attention (`native_attention`) and threads (`torch_threads`).
"""
