"""The engine beside its rivals: same model, same inputs, calls interleaved, outputs compared."""
