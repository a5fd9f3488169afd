"""Run by a fresh install of a wheel: is all in it, and does it answer as PyTorch did? Argument: the sample's folder.

It says `ok` and ends with 0, or says what is wrong.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import pruneonce
from pruneonce.recipe import load_recipe, recipes_folder

TOLERANCE = 1e-5  # float32 sums in another order


def main(sample: Path) -> None:
    package = Path(pruneonce.__file__).parent
    if Path(sys.prefix) not in package.parents:
        sys.exit(f"{package} is not of this environment")
    if pruneonce.__version__ != importlib.metadata.version("pruneonce"):
        sys.exit("the version is not that of the installed wheel")
    if not (package / "py.typed").is_file():
        sys.exit("py.typed is missing: type checkers would not look at this package")
    if recipes_folder() != package / "recipes":
        sys.exit(f"recipes come from {recipes_folder()}, not from the wheel")
    load_recipe(recipes_folder() / "quickstart/compress.toml", "compress")
    if importlib.util.find_spec("torch") is not None:
        sys.exit("torch is here: this would not show that the engine runs without it")
    expected = json.loads((sample / "answers.json").read_text())
    classify = pruneonce.pipeline("text-classification", str(sample / "sample.pruneonce"))
    for text, wanted, answers in zip(
        expected["texts"], expected["answers"], classify(expected["texts"], top_k=None), strict=True
    ):
        for answer in answers:
            if abs(answer["score"] - wanted[answer["label"]]) > TOLERANCE:
                sys.exit(f"{text}: {answer} where PyTorch had {wanted}")
    print("ok")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
