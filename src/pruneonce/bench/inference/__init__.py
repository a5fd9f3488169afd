"""`pruneonce bench`: one model in every engine, calls in turn, outputs compared with PyTorch's.

Order: subject (the model) and int8_subject, cases (batches), rivals (every engine; onnx_files, and deepsparse_worker
in a Python of its own), accuracy (their answers to a task), run (all of it), record (what is kept), results (tables).
resident_memory says what a process takes; training uses it too.
"""
