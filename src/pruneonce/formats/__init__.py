"""Bytes on disk. numpy alone; a file is never trusted, and a PruneonceError says what is wrong with it.

In: paths. Out: arrays that native code may believe, and dataclasses. Order, each on those before it: safetensors_file,
nonzero_codes, stored_tensors (one tensor), packed_file (a model); scales_file, sparse_bitmask; record (what made a
folder) and model_folder.
"""
