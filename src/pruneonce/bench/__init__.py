"""The engine beside its rivals: same model, same inputs, one process, calls interleaved, outputs compared."""
