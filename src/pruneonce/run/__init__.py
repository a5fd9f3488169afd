"""From a packed file to answers, by native kernels. No torch.

In comes what `formats.packed_file` has read; out come logits and answers. In order: tensors by a family's names
(`tensors`), packed for this processor (`weights`); the forward pass (`encoder`) in the space that it borrows
(`workspace`); what a task makes of it (`heads`); all of them as one `model`; text in, answers out (`pipelines`).
"""
