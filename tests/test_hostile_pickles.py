"""Pickles that a folder or a checkpoint brings along are never run, whatever they say: an error of one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny_stages import finetune_values, kill, run

from pruneonce.errors import PruneonceError
from pruneonce.models.hub import load_hub_model
from pruneonce.train.checkpoints import MARKER, latest_complete

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of the pickle's protocol


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_the_pickle_would_do_it(tmp_path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pickle", "zip of a pickle", "text", "nothing"])
def test_weights_of_a_folder(kind, tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    if kind == "zip of a pickle":
        torch.save(Touch(tmp_path / "run"), file)
    else:
        file.write_bytes({"pickle": pickle.dumps(Touch(tmp_path / "run")), "text": b"hello", "nothing": b""}[kind])
    with pytest.raises(
        PruneonceError, match=r"pytorch_model\.bin is no pickle of plain weights .*as safetensors$"
    ) as caught:
        load_hub_model("AutoModelForPreTraining", folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_pickled_weights_that_are_plain_still_load(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    wanted = load_hub_model("AutoModelForPreTraining", folder).state_dict()
    torch.save(wanted, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = load_hub_model("AutoModelForPreTraining", folder).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_what_a_checkpoint_holds(tiny_bert, reviews, tmp_path):
    values = finetune_values(tiny_bert, reviews, epochs=None, steps=12, checkpoint_steps=4)
    out = tmp_path / "out"
    kill("finetune", values, out, "step 7")
    checkpoint = latest_complete(out / "checkpoints")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"):
        file = checkpoint / name
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps(Touch(tmp_path / "run")))
        sizes = json.loads((checkpoint / MARKER).read_text())
        (checkpoint / MARKER).write_text(json.dumps({**sizes, name: file.stat().st_size}))
        with pytest.raises(PruneonceError, match=r"checkpoint-4.* cannot be read") as caught:
            run("finetune", values, out)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
        file.write_bytes(whole)
        (checkpoint / MARKER).write_text(json.dumps(sizes))
    run("finetune", values, out)
