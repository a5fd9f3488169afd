"""The whole chain on tiny models: killed runs, two processes, distilled heads, broken input."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_stages import STEPS, finetune_values, forkserver, kill, prune_values, run
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.data.build import build
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.scoring import score_folder
from pruneonce.formats.record import read_provenance
from pruneonce.recipe import TaskData, parse_recipe
from pruneonce.sparsity import cpu_training
from pruneonce.sparsity.pruner import Pruner
from pruneonce.stages import lifecycle, plan_pruning
from pruneonce.train.trainer import _StepCallback

# ---------------------------------------------------------------------------------------------------- the chain


@pytest.mark.slow
def test_pruned_folder_is_exactly_as_sparse_as_asked_and_plain_to_transformers(sparse_bert):
    report = inspect_folder(sparse_bert)
    for matrix in report.matrices:
        if matrix.prunable:
            assert matrix.zeros == int(0.9 * matrix.size)
    assert {m.name for m in report.matrices if m.prunable} == {
        *(
            f"bert.encoder.layer.{n}.{part}.weight"
            for n in (0, 1)
            for part in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            )
        ),
        "bert.pooler.dense.weight",
    }
    assert report.lock_intact
    code = (
        "import sys, transformers; m = transformers.AutoModelForPreTraining.from_pretrained(sys.argv[1]); "
        "t = transformers.AutoTokenizer.from_pretrained(sys.argv[1]); "
        "m(**t('the film was good', 'a story', return_tensors='pt')); assert 'pruneonce' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(sparse_bert)], check=True)


def test_teacher_adds_the_missing_heads_with_the_decoder_tied(tiny_bert, pair_corpus, tmp_path):
    encoder = tmp_path / "encoder"
    AutoModel.from_pretrained(tiny_bert).save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (encoder / name).write_bytes((tiny_bert / name).read_bytes())
    record = run("teacher", prune_values(encoder, pair_corpus, head_learning_rate=1e-2), tmp_path / "out")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert set(record.metrics) == {"mlm_loss", "mlm_accuracy", "perplexity", "nsp_loss", "nsp_accuracy"}
    assert record.metrics["mlm_loss"] < np.log(model.config.vocab_size), "log frequencies alone do better than chance"
    with pytest.raises(UsageError, match=r"has no pre-training heads.*pruneonce teacher"):
        run("prune", prune_values(encoder, pair_corpus), tmp_path / "pruned")


def test_distilbert_is_pruned_without_its_tied_head(tiny_distilbert, sentence_corpus, tmp_path):
    values = prune_values(tiny_distilbert, sentence_corpus) | {"distillation": {"kd_tokens": 0.3}}
    record = run("prune", values, tmp_path / "out")
    assert "nsp_loss" not in record.metrics
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight
    assert (model.vocab_transform.weight == 0).sum() == 0
    assert set(record.sparsity) == {
        f"transformer.layer.{n}.{part}"
        for n in (0, 1)
        for part in (
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        )
    }


@pytest.mark.slow
def test_batches_prepared_by_another_process_are_the_same(tiny_bert, pair_corpus, tmp_path):
    for name, workers in (("alone", 0), ("helped", 1)):
        run("teacher", prune_values(tiny_bert, pair_corpus, dataloader_workers=workers), tmp_path / name)
    alone, helped = (tmp_path / name / "model.safetensors" for name in ("alone", "helped"))
    assert alone.read_bytes() == helped.read_bytes()


def test_wrong_corpus_for_the_family_is_one_line(tiny_distilbert, pair_corpus, tmp_path):
    with pytest.raises(UsageError, match="no next-sentence head"):
        run("teacher", prune_values(tiny_distilbert, pair_corpus), tmp_path / "out")


@pytest.mark.slow
def test_finetuning_keeps_every_zero_and_learns(sparse_bert, tiny_bert, reviews, tmp_path):
    dense = run("finetune", finetune_values(tiny_bert, reviews), tmp_path / "dense")
    values = finetune_values(sparse_bert, reviews) | {
        "lock": "require",
        "distillation": {"teacher": str(tmp_path / "dense")},
    }
    record = run("finetune", values, tmp_path / "sparse")
    assert dense.metrics["accuracy"] > 0.9
    assert record.metrics["accuracy"] > 0.75
    assert record.masks == read_provenance(sparse_bert).masks
    assert inspect_folder(tmp_path / "sparse").lock_intact
    before, after = (load_file(folder / "model.safetensors") for folder in (sparse_bert, tmp_path / "sparse"))
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(before[name] == 0, after[name] == 0)
    assert not torch.equal(before[name], after[name])
    assert not any("teacher" in tensor for tensor in after)


@pytest.mark.slow
def test_blocks_are_pruned_whole_and_locked_through_fine_tuning(tiny_bert, pair_corpus, reviews, tmp_path):
    values = prune_values(tiny_bert, pair_corpus) | {"pruning": {"pattern": "1x4", "sparsity": 0.8}}
    run("prune", values, tmp_path / "pruned")
    run("finetune", finetune_values(tmp_path / "pruned", reviews, epochs=1), tmp_path / "tuned")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("pruned", "tuned"))
    matrices = [matrix for matrix in inspect_folder(tmp_path / "tuned").matrices if matrix.prunable]
    assert len(matrices) == 13
    for matrix in matrices:
        blocks = (after[matrix.name] != 0).reshape(-1, 4)
        assert torch.equal(blocks.all(dim=1), blocks.any(dim=1))
        assert (~blocks[:, 0]).sum() == int(0.8 * len(blocks))
        assert torch.equal(before[matrix.name] != 0, after[matrix.name] != 0)


def test_a_matrix_that_cannot_be_cut_into_blocks_is_named_before_anything_is_trained(tiny_bert, pair_corpus, tmp_path):
    config = AutoConfig.from_pretrained(tiny_bert)
    config.intermediate_size = 62
    AutoModelForPreTraining.from_config(config).save_pretrained(tmp_path / "odd")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, tmp_path / "odd" / name)
    values = prune_values(tmp_path / "odd", pair_corpus) | {"pruning": {"pattern": "1x4"}}
    message = r"layer\.0\.output\.dense\.weight of 32 x 62 cannot be cut into blocks of 1 x 4.*\"unstructured\""
    with pytest.raises(UsageError, match=message):
        run("prune", values, tmp_path / "out")
    with pytest.raises(UsageError, match=message):
        plan_pruning(parse_recipe(values, "prune"))


def test_finished_stage_is_skipped_and_another_recipe_is_refused(sparse_bert, tiny_bert, pair_corpus):
    written = (sparse_bert / "model.safetensors").stat().st_mtime_ns
    run("prune", prune_values(tiny_bert, pair_corpus), sparse_bert)
    assert (sparse_bert / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(
        UsageError, match=r"holds a finished run of other inputs \(recipe.training.learning_rate is 0.001"
    ):
        run("prune", prune_values(tiny_bert, pair_corpus, learning_rate=2e-3), sparse_bert)


def test_moved_model_and_another_way_of_cutting_up_the_work_are_the_same_run(
    sparse_bert, tiny_bert, pair_corpus, tmp_path
):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_bert, moved)
    run("prune", prune_values(moved, pair_corpus, micro_batch_size=2, checkpoint_steps=3), sparse_bert)
    weights = load_file(moved / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"inputs\.model changed"):
        run("prune", prune_values(moved, pair_corpus), sparse_bert)


# ------------------------------------------------------------------------------------------------ killed and resumed


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", ["step 7", "second checkpoint without its marker", "model saved, record not"])
def test_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(kill_at, tiny_bert, pair_corpus, tmp_path):
    values = prune_values(tiny_bert, pair_corpus, micro_batch_size=4)  # dropout on, two accumulated parts
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run("prune", values, straight, keep_checkpoints=True)
    kill("prune", values, killed, kill_at)
    assert list((killed / "checkpoints").glob("*/complete.json"))
    record = run("prune", values, killed, keep_checkpoints=True)

    assert (killed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert record.masks == read_provenance(straight).masks
    last = f"checkpoints/checkpoint-{STEPS}"
    for file in ("model.safetensors", "pruner.safetensors"):
        assert (killed / last / file).read_bytes() == (straight / last / file).read_bytes()
    ours, theirs = (torch.load(folder / last / "optimizer.pt", weights_only=True) for folder in (killed, straight))
    for index, moments in theirs["state"].items():
        assert all(torch.equal(ours["state"][index][name], value) for name, value in moments.items())
    logs = [json.loads((folder / "training_log.json").read_text()) for folder in (killed, straight)]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]


@pytest.mark.slow
def test_resuming_with_another_recipe_is_refused(tiny_bert, pair_corpus, tmp_path):
    values = prune_values(tiny_bert, pair_corpus)
    kill("prune", values, tmp_path / "out", "step 7")
    values["training"]["steps"] = 20
    with pytest.raises(
        UsageError, match=r"unfinished run of other inputs \(recipe.training.steps is 12 there and 20 here\)"
    ):
        run("prune", values, tmp_path / "out")


def test_a_start_that_trained_nothing_is_not_in_the_way_of_a_corrected_one(tiny_bert, reviews, tmp_path):
    wrong, out = tmp_path / "wrong.jsonl", tmp_path / "out"
    wrong.write_text(json.dumps({"text": "a film"}) + "\n")
    values = finetune_values(tiny_bert, reviews, epochs=1)
    values["task"]["labels"] = ["no", "yes"]
    values["task"]["train"] = str(wrong)
    with pytest.raises(UsageError, match="label"):
        run("finetune", values, out)
    assert (out / "run.json").exists()
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "answers-of-another-run").write_text("")
    values["task"]["train"] = str(reviews)
    record = run("finetune", values, out, keep_checkpoints=True)
    assert record.inputs == read_provenance(out).inputs
    assert not (out / "checkpoints" / "answers-of-another-run").exists()
    values["training"]["epochs"] = 2
    with pytest.raises(UsageError, match="a finished run of other inputs"):
        run("finetune", values, out)


def test_what_a_killed_save_leaves_goes_with_the_next_start(tiny_bert, reviews, tmp_path):
    values, out = finetune_values(tiny_bert, reviews, epochs=1), tmp_path / "out"
    record = run("finetune", values, out, keep_checkpoints=True)
    finished = {file.name for file in out.iterdir()} - {"checkpoints"}

    def die_between_record_and_tidying():
        (out / "run.json").write_text(
            json.dumps({"stage": "finetune", "recipe": record.recipe, "inputs": record.inputs})
        )
        (out / ".saving-abcdefgh").mkdir()
        shutil.copy(out / "model.safetensors", out / ".saving-abcdefgh")
        (out / ".README.md.yakl4gke.tmp").write_text("of a process that died a moment ago")

    die_between_record_and_tidying()
    run("finetune", values, out, keep_checkpoints=True)
    assert {file.name for file in out.iterdir()} == finished | {"checkpoints"}
    die_between_record_and_tidying()
    run("finetune", values, out)
    assert {file.name for file in out.iterdir()} == finished


@pytest.mark.parametrize("stored", ["as begun", "another model's", "nonsense"])
def test_a_run_goes_on_with_the_kernels_that_it_began_with(stored, sparse_tiny_bert, reviews, tmp_path, monkeypatch):
    """What a measurement decides may be decided otherwise later, and then the last bits of the sums are others."""
    computed = []

    def compute_sparse(self, names, original=Pruner.compute_sparse):
        computed.append(list(names))
        original(self, computed[-1])

    def stop(self, arguments, state, control, original=_StepCallback.on_step_end, **given):
        original(self, arguments, state, control, **given)
        if state.global_step == 2 and len(computed) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Pruner, "compute_sparse", compute_sparse)
    monkeypatch.setattr(_StepCallback, "on_step_end", stop)
    monkeypatch.setattr(cpu_training, "layers_faster_sparse", lambda layers, *_: sorted(layers)[len(computed) :])
    values, out = finetune_values(sparse_tiny_bert, reviews, epochs=None, steps=4, checkpoint_steps=1), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run("finetune", values, out)
    if stored == "as begun":
        run("finetune", values, out)
        begun, went_on = computed[:2]  # then comes scoring
        assert went_on == begun != []
    else:
        file = out / "checkpoints" / "sparse_layers.json"
        file.write_text('["theirs"]' if stored == "another model's" else "7")
        with pytest.raises(PruneonceError, match=r"sparse_layers\.json is no list of this model's layers: delete it"):
            run("finetune", values, out)


def run_with_little_disk(values, out, queue):
    """In a worker: files may not grow beyond 200 kB, as if the disk were full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        run("teacher", values, out)
    except PruneonceError as error:
        queue.put(str(error))


@pytest.mark.slow
def test_full_disk_while_saving_is_one_line_and_the_run_goes_on_later(tiny_bert, pair_corpus, tmp_path):
    values = prune_values(tiny_bert, pair_corpus)
    queue = forkserver.Queue()
    worker = forkserver.Process(target=run_with_little_disk, args=(values, tmp_path / "out", queue))
    worker.start()
    worker.join()
    message = queue.get(timeout=10)
    assert "could not be written" in message
    assert "run the same command again" in message
    assert "\n" not in message
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))
    run("teacher", values, tmp_path / "out")
    assert (tmp_path / "out" / "pruneonce.json").is_file()


# --------------------------------------------------------------------------------------------------- two processes

# The command line, and the threads that are left when Python's own end begins: what is registered first runs last.
COMMAND_AND_THREADS = """
import atexit, contextlib, os, sys
from pathlib import Path

from pruneonce.cli.app import main

def write_threads():
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append((task / "comm").read_text().strip())
    Path(f"{sys.argv[0]}.threads-{os.environ['RANK']}").write_text("\\n".join(names))

atexit.register(write_threads)
main()
"""


@pytest.fixture(scope="session")
def two_processes(tiny_bert, pair_corpus, tmp_path_factory):
    """A folder with a run `out` of two processes, the values of its recipe, and the threads each ended with."""
    folder = tmp_path_factory.mktemp("two-processes")
    values = prune_values(tiny_bert, pair_corpus, dropout=0.0, log_steps=1)
    training = "\n".join(f"{key} = {value}" for key, value in values["training"].items())
    (folder / "recipe.toml").write_text(
        f'model = "{tiny_bert}"\ncorpus = "{pair_corpus}"\nvalidation_examples = 20\n[training]\n{training}\n'
    )
    script = folder / "command.py"
    script.write_text(COMMAND_AND_THREADS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(script), "prune", str(folder / "recipe.toml"), "--out", str(folder / "out"), "--keep-checkpoints"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    threads = [(folder / f"command.py.threads-{rank}").read_text().splitlines() for rank in (0, 1)]
    return folder, values, threads


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_doubled_batch(two_processes, tmp_path):
    folder, values, _ = two_processes
    out, one = tmp_path / "one", run("prune", values, tmp_path / "one", keep_checkpoints=True)
    two = read_provenance(folder / "out")
    # Ranks compare their masks with each other and stop if any differs; here they are compared with one process.
    masks = [load_file(each / "model.safetensors") for each in (out, folder / "out")]
    weights = [torch.cat([tensors[f"bert.{layer}.weight"].flatten() for layer in one.masks]) for tensors in masks]
    assert ((weights[0] == 0) == (weights[1] == 0)).float().mean() > 0.999, "rounding may swap a few equal magnitudes"
    assert two.sparsity == one.sparsity
    losses = [
        [entry["loss"] for entry in json.loads((each / "training_log.json").read_text())]
        for each in (out, folder / "out")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert two.metrics["mlm_loss"] == pytest.approx(one.metrics["mlm_loss"], rel=1e-4)


@pytest.mark.slow
def test_no_thread_of_the_process_group_outlives_python(two_processes):
    # One that does aborts its process now and then, and torchrun takes the finished run for a failed one.
    _, _, threads = two_processes
    for names in threads:
        assert names
        assert not [name for name in names if "gloo" in name]


# ------------------------------------------------------------------------------------------------------ bad input


def test_dense_model_where_a_lock_is_required_is_one_line(tiny_bert, reviews, tmp_path):
    with pytest.raises(UsageError, match="has no zeros to lock"):
        run("finetune", finetune_values(tiny_bert, reviews) | {"lock": "require"}, tmp_path / "out")


def test_broken_lock_of_the_parent_names_the_matrix(sparse_bert, reviews, tmp_path):
    from transformers import BertForPreTraining

    broken = tmp_path / "broken"
    model = BertForPreTraining.from_pretrained(sparse_bert)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0] = 1.0
    model.save_pretrained(broken)
    for file in sparse_bert.iterdir():
        if file.is_file() and file.name not in ("model.safetensors", "config.json"):
            (broken / file.name).write_bytes(file.read_bytes())
    with pytest.raises(PruneonceError, match=r"zeros of encoder\.layer\.1\.output\.dense\.weight are not the recorded"):
        run("finetune", finetune_values(broken, reviews), tmp_path / "out")
    assert inspect_folder(broken).lock_intact is False


def test_matrix_that_has_lost_all_its_zeros_is_found_by_the_record(sparse_bert, reviews, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(sparse_bert, broken)
    tensors = load_file(broken / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name] = torch.where(tensors[name] == 0, 1e-3, tensors[name])
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PruneonceError, match=r"zeros of encoder\.layer\.1\.output\.dense\.weight are not the recorded"):
        run("finetune", finetune_values(broken, reviews), tmp_path / "out")


@pytest.mark.slow
def test_zeros_of_a_model_that_was_never_pruned_are_not_locked(tiny_bert, reviews, tmp_path):
    dense = tmp_path / "dense"
    run("finetune", finetune_values(tiny_bert, reviews, epochs=1), dense)
    tensors = load_file(dense / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("dense.weight"):
            tensor.view(-1)[::50] = 0.0  # as int8 rounding makes them
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"no zeros to lock \(it was never pruned\)"):
        run("finetune", finetune_values(dense, reviews) | {"lock": "require"}, tmp_path / "required")
    assert run("finetune", finetune_values(dense, reviews, epochs=1), tmp_path / "auto").masks == {}


@pytest.mark.slow
def test_wrong_validation_data_is_told_before_training(tiny_bert, reviews, articles, tmp_path, monkeypatch):
    def train(run):
        raise AssertionError("trained first")

    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text(reviews.read_text() + json.dumps({"text": "the film", "label": "maybe"}) + "\n")
    values = finetune_values(tiny_bert, reviews, epochs=1)
    unscored = tmp_path / "unscored"
    build(articles, unscored, tokenizer=tiny_bert, layout="segment_pair_nsp", max_tokens=32, validation_fraction=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "train", train)
        for validation, message in ((tmp_path / "nowhere.jsonl", "does not exist"), (unknown, "maybe")):
            values["task"]["validation"] = str(validation)
            for stage in ("finetune", "quantize"):
                with pytest.raises(UsageError if validation != unknown else PruneonceError, match=message):
                    run(stage, values, tmp_path / "out")
        with pytest.raises(UsageError, match="no validation examples"):
            run("teacher", prune_values(tiny_bert, unscored), tmp_path / "teacher")
    values["task"]["validation"] = str(reviews)
    run("finetune", values, tmp_path / "out")  # the folder was not taken by the wrong name


def test_model_that_is_no_run_is_never_overwritten(tiny_bert, reviews, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(tiny_bert, mine)
    before = {file.name: file.read_bytes() for file in mine.iterdir()}
    with pytest.raises(UsageError, match="holds a model that is no run of pruneonce"):
        run("finetune", finetune_values(mine, reviews), mine)
    assert {file.name: file.read_bytes() for file in mine.iterdir()} == before


@pytest.mark.slow
def test_labels_in_another_order_are_refused_when_their_head_is_trained_further(tiny_bert, reviews, tmp_path):
    run("finetune", finetune_values(tiny_bert, reviews, epochs=1), tmp_path / "no-yes")
    values = finetune_values(tmp_path / "no-yes", reviews, epochs=1)
    values["task"]["labels"] = ["yes", "no"]
    for stage in ("finetune", "quantize"):
        with pytest.raises(UsageError, match="labels in another order"):
            run(stage, values, tmp_path / stage)


def test_weights_that_are_not_finite_after_the_last_line_of_the_log_stop_the_run(tiny_bert, pair_corpus, tmp_path):
    values = prune_values(tiny_bert, pair_corpus, learning_rate=1e30, max_grad_norm=1e30, log_steps=1000)
    with pytest.raises(PruneonceError, match=r"not finite after the last step: lower training\.learning_rate"):
        run("teacher", values, tmp_path / "out")
    assert not (tmp_path / "out" / "pruneonce.json").exists()


def test_diverged_loss_stops_the_run(tiny_bert, pair_corpus, tmp_path):
    with pytest.raises(PruneonceError, match=r"lower training\.learning_rate|Lower the learning rate"):
        run("teacher", prune_values(tiny_bert, pair_corpus, learning_rate=1e30, max_grad_norm=1e30), tmp_path / "out")


def test_missing_model_and_missing_corpus_are_named(tiny_bert, pair_corpus, tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        run("teacher", prune_values(tmp_path / "nowhere", pair_corpus), tmp_path / "out")
    with pytest.raises(UsageError, match="no-corpus"):
        run("teacher", prune_values(tiny_bert, tmp_path / "no-corpus"), tmp_path / "out")


def test_unsupported_family_is_named(pair_corpus, tmp_path):
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, embedding_size=8
    )
    AlbertModel(config).save_pretrained(tmp_path / "albert")
    with pytest.raises(UsageError, match="model type 'albert' is not supported"):
        run("teacher", prune_values(tmp_path / "albert", pair_corpus), tmp_path / "out")


# --------------------------------------------------------------------------------------------- other kinds of task


@pytest.mark.slow
def test_regression_learns_and_reports_correlations(tiny_bert, tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "similar.tsv"
    rows = ["sentence1\tsentence2\tscore"]
    for _ in range(150):
        a, b = rng.integers(1, 5, 2)
        rows.append(f"{'good ' * a}film\t{'good ' * b}story\t{a}")
    file.write_text("\n".join(rows) + "\n")
    values = finetune_values(tiny_bert, file, epochs=8)
    values["task"] = {"name": "stsb", "train": str(file), "validation": str(file), "max_tokens": 32}
    record = run("finetune", values, tmp_path / "out")
    assert set(record.metrics) == {"pearson", "spearman"}
    assert record.metrics["pearson"] > 0.8


def similar_values(model, tmp_path):
    """STS-B over numbers that a model can only come near to: its correlation tells small differences of scores."""
    rng = np.random.default_rng(0)
    rows = ["sentence1\tsentence2\tscore"]
    for _ in range(100):
        a, b = rng.integers(1, 5, 2)
        rows.append(f"{'good ' * a}film\t{'good ' * b}story\t{a + rng.random():.2f}")
    file = tmp_path / "similar.tsv"
    file.write_text("\n".join(rows) + "\n")
    data = {"name": "stsb", "train": str(file), "validation": str(file), "max_tokens": 32}
    return finetune_values(model, file, epochs=3, precision="bf16") | {"task": data}


@pytest.mark.slow
def test_what_is_scored_after_bf16_training_is_what_is_saved(tiny_bert, sparse_bert, tmp_path):
    for model in (tiny_bert, sparse_bert):
        values = similar_values(model, tmp_path)
        out = tmp_path / model.parent.name
        record = run("finetune", values, out)
        folder = score_folder(out, TaskData(**values["task"]))
        assert record.metrics == pytest.approx(folder, abs=1e-6)


@pytest.mark.slow
def test_language_model_is_scored_in_float32_after_bf16_training(tiny_bert, pair_corpus, tmp_path):
    record = run("teacher", prune_values(tiny_bert, pair_corpus, precision="bf16"), tmp_path / "bf16")
    values = prune_values(tmp_path / "bf16", pair_corpus, steps=1, learning_rate=1e-30)
    again = run("teacher", values, tmp_path / "again")
    assert again.metrics["mlm_loss"] == pytest.approx(record.metrics["mlm_loss"], abs=1e-6)


@pytest.mark.slow
def test_float32_is_not_overruled_by_the_launcher(tiny_bert, reviews, tmp_path, monkeypatch):
    values = finetune_values(tiny_bert, reviews, epochs=1)
    run("finetune", values, tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run("finetune", values, tmp_path / "launched")
    plain, launched = (tmp_path / name / "model.safetensors" for name in ("plain", "launched"))
    assert plain.read_bytes() == launched.read_bytes()


@pytest.mark.slow
def test_question_answering_learns_across_windows(tiny_bert, tmp_path):
    """The answer is the word after "king"; contexts are longer than a window."""
    rng = np.random.default_rng(0)
    words = ["river", "city", "war", "music", "house"]
    questions = []
    for number in range(150):
        before, after = (" ".join(rng.choice(["the", "of", "a"], rng.integers(1, 20))) for _ in range(2))
        answer = str(rng.choice(words))
        context = f"{before} king {answer} {after}"
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        questions.append({"id": str(number), "question": "which king", "answers": answers, "context": context})
    paragraphs = [{"context": q.pop("context"), "qas": [q]} for q in questions]
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    values = finetune_values(tiny_bert, file, epochs=10)
    values["task"] = {
        "name": "squad",
        "train": str(file),
        "validation": str(file),
        "max_tokens": 24,
        "stride_tokens": 8,
    }
    record = run("finetune", values, tmp_path / "dense")
    assert record.metrics["f1"] > 80
    values |= {"distillation": {"teacher": str(tmp_path / "dense"), "hard_weight": 0.0, "kd_weight": 1.0}}
    again = run("finetune", values, tmp_path / "distilled")
    assert again.metrics["f1"] > 60


@pytest.mark.slow
def test_teacher_of_another_task_is_refused(tiny_bert, reviews, tmp_path):
    run("finetune", finetune_values(tiny_bert, reviews, epochs=1), tmp_path / "yes-no")
    file = tmp_path / "three.csv"
    file.write_text("text,label\n" + "a film,x\na story,y\na war,z\n" * 4)
    values = finetune_values(tiny_bert, file) | {"distillation": {"teacher": str(tmp_path / "yes-no")}}
    with pytest.raises(UsageError, match="has 2 labels, the task has 3"):
        run("finetune", values, tmp_path / "out")
