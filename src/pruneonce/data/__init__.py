"""Raw text to pre-training examples. Needs the `train` extra, but neither torch nor transformers.

In: a Wikipedia dump or text files. Out: `Corpus`, and its examples masked anew each time they are drawn.
Order: wikipedia and text fill an articles folder (articles); build cuts it by sentences and layouts into a corpus
folder (corpus); masking. building guards an unfinished folder, executor spreads the work over processes.
"""
