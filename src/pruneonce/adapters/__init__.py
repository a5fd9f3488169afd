"""The engine behind other libraries' interfaces: modules for sentence-transformers.

In: a packed file. Out: what the other library expects of its own. Each file needs that library, and nothing else here
imports it.
"""
