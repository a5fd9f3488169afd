"""From one kind of file to another, and what a folder or a file holds.

In: model folders, packed files, checkpoints of others. Out: files, and dataclasses that say what is in them.
Order: to_packed, to_onnx (by onnx_graph), from_sparse_bitmask; inspect_folder, inspect_packed; model_card with
hub_metadata, and outside_text for names that others gave. torch is imported by the ONNX export alone.
"""
