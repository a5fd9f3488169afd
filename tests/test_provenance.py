"""`pruneonce.json` as anyone may have written it."""

import json
import shutil

import pytest

from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError
from pruneonce.formats.record import FILE_NAME, Provenance, read_provenance

SOUND = {"format_version": 1, "stage": "prune", "recipe": {}, "inputs": {}, "seed": 1, "steps": 1, "metrics": {"f1": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": ["x"]}, "'masks' must be an object"),
        ({"masks": {"encoder.layer.0.output.dense": 5}}, r"'masks\.encoder\.layer\.0\.output\.dense' must be .* str"),
        ({"masks": None}, "'masks' must be an object"),
        ({"inputs": {"model": []}}, r"'inputs\.model' must be of type str"),
        ({"recipe": []}, "'recipe' must be an object"),
        ({"metrics": {"f1": "high"}}, r"'metrics\.f1' must be of type float"),
        ({"metrics": {"f1": True}}, r"'metrics\.f1' must be of type float"),
        ({"metrics": {"f1": 10**400}}, r"'metrics\.f1' must be of type float"),
        ({"sparsity": {"x": None}}, r"'sparsity\.x' must be of type float"),
        ({"versions": {"torch": 2}}, r"'versions\.torch' must be of type str"),
        ({"timings": 3}, "'timings' must be an object"),
        ({"stage": ["prune"]}, "'stage' must be of type str"),
        ({"seed": 1.5}, "'seed' must be of type int"),
        ({"steps": "1"}, "'steps' must be of type int"),
        ({"other": 1}, "other"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_names_the_file_and_the_key(tmp_path, change, message):
    (tmp_path / FILE_NAME).write_text(json.dumps(SOUND | change))
    with pytest.raises(PruneonceError, match=rf"pruneonce\.json is not a record of pruneonce: .*{message}") as caught:
        read_provenance(tmp_path)
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_what_was_written_reads_back(tmp_path):
    written = Provenance("prune", {"a": [None]}, {"m": "x"}, 1, 2, {"f1": float("nan"), "n": 3}, {"x": 0.9}, {"x": "d"})
    written.write(tmp_path)
    assert str(read_provenance(tmp_path)) == str(written)  # as text: NaN is not equal to itself


@pytest.mark.parametrize("masks", [["x"], {"encoder.layer.0.output.dense": 5}], ids=str)
@pytest.mark.parametrize("command", [inspect_folder, lambda folder: export_packed(folder, folder / "m.pruneonce")])
def test_inspect_and_export_refuse_broken_masks(tiny_bert, tmp_path, masks, command):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / FILE_NAME).write_text(json.dumps(SOUND | {"masks": masks}))
    with pytest.raises(PruneonceError, match=r"pruneonce\.json is not a record"):
        command(folder)
