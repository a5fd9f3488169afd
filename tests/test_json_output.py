"""What `--json` prints is JSON and nothing else; progress and sentences are on standard error."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers
import typer
from tiny_stages import finetune_values, run

from pruneonce.cli.app import app
from pruneonce.cli.show import print_json
from pruneonce.compression import plan
from pruneonce.convert.to_packed import export_packed

# Commands whose --json is the name of a file that they write.
FILES = {"bench", "bench-train", "loadtest"}


class TenSeconds(dict):
    """Of whatever is measured."""

    def __missing__(self, key):
        return 10.0


@pytest.fixture(scope="module")
def things(sparse_tiny_bert, tiny_bert, reviews, tmp_path_factory):
    """Names in COMMANDS -> what stands for them."""
    folder = tmp_path_factory.mktemp("json")
    reranker = transformers.AutoModelForSequenceClassification.from_pretrained(
        sparse_tiny_bert, num_labels=1, ignore_mismatched_sizes=True
    )
    reranker.save_pretrained(folder / "reranker")
    shutil.copy(sparse_tiny_bert / "tokenizer.json", folder / "reranker")
    for name, source in {"MODEL": sparse_tiny_bert, "RERANKER": folder / "reranker"}.items():
        export_packed(source, folder / f"{name.lower()}.pruneonce")
    run("finetune", finetune_values(sparse_tiny_bert, reviews, epochs=None, steps=2), folder / "run")
    (folder / "r.toml").write_text(
        f'stage = "finetune"\nmodel = "{sparse_tiny_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    (folder / "notes.txt").write_text("\n".join("the old city was great and the film was good" for _ in range(300)))
    return {
        "MODEL": sparse_tiny_bert,
        "RUN": folder / "run",
        "PACKED": folder / "model.pruneonce",
        "RERANKER": folder / "reranker.pruneonce",
        "REVIEWS": reviews,
        "RECIPE": folder / "r.toml",
        "NOTES": folder / "notes.txt",
    }


COMMANDS = {
    "inspect a folder": "inspect RUN",
    "inspect a file": "inspect PACKED",
    "export": "export MODEL --out OUT/m.pruneonce",
    "export to onnx": "export MODEL --to onnx --out OUT/m.onnx",
    "push": "push RUN --repo me/mine --dry-run",
    "evaluate a folder": "evaluate RUN --task classification --data REVIEWS",
    "predict": "predict PACKED one two",
    "predict an order": "predict RERANKER one two --query three",
    "predict a file": "predict PACKED --input REVIEWS --output OUT/a.jsonl",
    "embed": "embed PACKED --input REVIEWS --output OUT/v.npy",
    "doctor": "doctor",
    "doctor of a recipe": "doctor RECIPE",
    "report of two": "report --compare RUN RUN",
    "compress": "compress MODEL --texts NOTES --budget 60s --no-speed --out OUT/c",
}
# Where a test of their own looks at all of standard output.
ELSEWHERE = {
    "study": "test_study.py::test_json_of_a_study_is_all_that_standard_output_gets",
    "import": "test_importing.py::test_the_folder_is_an_ordinary_one",
}
SLOW = ("compress", "export to onnx", "doctor of a recipe")


def with_json(command, name=""):
    """Names of commands that have an option --json."""
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from with_json(each, name)
    elif any("--json" in parameter.opts for parameter in command.params):
        yield name


def test_every_command_with_json_is_tried():
    tried = {line.split()[0] for line in COMMANDS.values()} | set(ELSEWHERE)
    assert set(with_json(typer.main.get_command(app))) == tried | FILES


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COMMANDS]
)
@pytest.mark.filterwarnings("ignore")
def test_standard_output_is_json_and_nothing_else(name, things, pruneonce, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "FEWEST_STEPS", 3)  # which fit a second, whatever machine this is
    monkeypatch.setattr(plan, "measure", lambda *_: TenSeconds())
    words = [things.get(word, word.replace("OUT", str(tmp_path))) for word in COMMANDS[name].split()]
    code, out, err = pruneonce(*words, "--json")
    assert code == 0, err
    if name in ("predict", "predict an order"):  # a line for each text
        assert [type(json.loads(line)) for line in out.splitlines()] == [dict, dict]
    else:
        assert json.loads(out)


def test_what_a_terminal_would_obey_is_escaped_and_still_the_same_json(capsys):
    value = {"a\u202e\x1b[31m\x9b": ["\u2028\ud800\n", 1.5, None]}
    print_json(value)
    out = capsys.readouterr().out
    assert not set("\u202e\x1b\x9b\u2028\ud800") & set(out)
    assert json.loads(out) == value
