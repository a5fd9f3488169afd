"""One run on two nodes: torchrun started twice, each with one process, meeting at a port of this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_stages import prune_values, run

from pruneonce.errors import PruneonceError
from pruneonce.train import processes

PATIENCE = 600
# The command line, noting who ranks weights; with KILL_AT, the second node goes at that step as by a power cut. The
# first one is the rendezvous: without it torchrun ends the processes itself, before they can say anything.
COMMAND = """
import os, signal, sys

from pruneonce.cli.app import main
from pruneonce.sparsity.pruner import Pruner
from pruneonce.train.trainer import StageTrainer

kill_at, rank = int(os.environ.get("KILL_AT", -1)), os.environ["RANK"]
masks_at, training_step = Pruner._masks_at, StageTrainer.training_step

def noted(self, step):
    with open(f"{sys.argv[0]}.masks-{rank}", "a") as stream:
        stream.write(f"{step}\\n")
    return masks_at(self, step)

def fatal(self, *arguments, **options):
    if self.state.global_step == kill_at and os.environ["NODE"] == "1":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return training_step(self, *arguments, **options)

Pruner._masks_at, StageTrainer.training_step = noted, fatal
main()
"""


def on_two_nodes(folder, out, **environment):
    """(exit code, standard error) of both torchruns, for `prune` of the recipe in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1"]
    command += [str(folder / "command.py"), "prune", str(folder / "recipe.toml"), "--out", str(out)]
    command += ["--keep-checkpoints"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    nodes = [
        subprocess.Popen(
            [*command[:3], f"--rdzv-conf=is_host={node == 0}", *command[3:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**variables, "NODE": str(node)},
        )
        for node in (0, 1)
    ]
    try:
        told = [node.communicate(timeout=PATIENCE)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    return [(node.returncode, text) for node, text in zip(nodes, told, strict=True)]


def losses(out):
    return [entry["loss"] for entry in json.loads((out / "training_log.json").read_text())]


@pytest.fixture(scope="module")
def recipe(tiny_bert, pair_corpus, tmp_path_factory):
    """A folder with a recipe and the command; the recipe's values."""
    folder = tmp_path_factory.mktemp("two-nodes")
    values = prune_values(tiny_bert, pair_corpus, dropout=0.0, log_steps=1)
    training = "\n".join(f"{key} = {value}" for key, value in values["training"].items())
    (folder / "recipe.toml").write_text(
        f'model = "{tiny_bert}"\ncorpus = "{pair_corpus}"\nvalidation_examples = 20\n[training]\n{training}\n'
    )
    (folder / "command.py").write_text(COMMAND)
    return folder, values


@pytest.fixture(scope="module")
def whole(recipe):
    """The folder of a run that nothing befell, and which process ranked weights how often."""
    folder, _ = recipe
    ended = on_two_nodes(folder, folder / "whole")
    assert [code for code, _ in ended] == [0, 0], ended
    notes = [folder / f"command.py.masks-{rank}" for rank in (0, 1)]
    ranked = [len(note.read_text().splitlines()) if note.exists() else 0 for note in notes]
    return folder / "whole", ranked


@pytest.mark.slow
def test_two_nodes_train_like_one_process_and_masks_are_computed_once(recipe, whole, tmp_path):
    _, values = recipe
    out, ranked = whole
    one = run("prune", values, tmp_path / "one")
    np.testing.assert_allclose(losses(out), losses(tmp_path / "one"), rtol=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (out, tmp_path / "one")]
    for layer in one.masks:
        zeros = [tensors[f"bert.{layer}.weight"] == 0 for tensors in weights]
        assert (zeros[0] == zeros[1]).float().mean() > 0.99, "rounding may swap a few equal magnitudes"
    assert ranked[0] > 0
    assert ranked[1] == 0


@pytest.mark.slow
def test_a_node_that_dies_ends_the_run_with_a_line_and_the_same_command_goes_on_bit_for_bit(recipe, whole, tmp_path):
    folder, values = recipe
    out = tmp_path / "out"
    ended = on_two_nodes(folder, out, KILL_AT="7")
    assert all(code != 0 for code, _ in ended)
    told = [line for _, text in ended for line in text.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, "\n".join(text[-3000:] for _, text in ended)
    assert re.fullmatch(
        r"error: process [01] of 2 has lost another one: start the same command again on all nodes, or on fewer; it "
        r"goes on from the last checkpoint",
        told[0],
    )
    assert not (out / "pruneonce.json").exists()
    shutil.copytree(out, tmp_path / "alone")

    assert [code for code, _ in on_two_nodes(folder, out)] == [0, 0]
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()
    assert losses(out) == losses(whole[0])

    # On another number of processes it goes on too, equal up to rounding.
    run("prune", values, tmp_path / "alone")
    np.testing.assert_allclose(losses(tmp_path / "alone"), losses(out), rtol=1e-4)


def test_an_error_of_ours_is_not_taken_for_a_lost_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="shapes"), processes.losing_none():
        raise RuntimeError("shapes do not fit")
    with pytest.raises(PruneonceError, match="has lost another one"), processes.losing_none():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RuntimeError, match="Connection closed"), processes.losing_none():
        raise RuntimeError("Connection closed by peer")
