"""Any encoder in one command: pruned by matching itself on plain text, packed, and compared with what it was.

`run` goes through the steps in a folder, each of which is skipped once it is done: texts to a corpus (`texts`), a plan
that fits the budget (`plan`), the stage `compress`, int8 (`rounding`), packed files, and a report (`comparison`,
`report`).
"""

from pruneonce.compression.run import CompressOptions, compress

__all__ = ["CompressOptions", "compress"]
