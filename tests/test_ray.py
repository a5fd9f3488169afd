"""Work on a real Ray cluster of two nodes on this machine: the bytes of a local run, whatever is killed on the way.

`make test-ray` installs Ray into an environment of its own; elsewhere these are skipped.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="make test-ray installs Ray, in an environment of its own")

from pruneonce.data import wikipedia
from pruneonce.data.build import build
from pruneonce.errors import PruneonceError
from pruneonce.ray_cluster import Cluster, connected
from pruneonce.run import embed_file as embed_module
from pruneonce.run import predict_file as predict_module
from pruneonce.run.embed_file import embed_file
from pruneonce.run.pipelines import pipeline
from pruneonce.run.predict_file import predict_file

pytestmark = [
    pytest.mark.slow,
    # Of Ray's own: sockets and processes that it leaves to the end of the interpreter, and what it will change.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
TEXTS = 16  # of a chunk


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes with one CPU each, found as users find theirs, by $RAY_ADDRESS."""
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        started = Nodes(initialize_head=True, head_node_args=NODE | {"ray_client_server_port": free_port()})
        started.add_node(num_cpus=1, object_store_memory=80 << 20)
        patch.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def models(packed_files):
    """Pipelines of vectors and of classes. Kernels are pinned: what another process would measure may differ."""
    vectors = pipeline("embeddings", packed_files / "vectors.pruneonce", kernels="dense")
    return vectors, pipeline(None, packed_files / "classes.pruneonce", kernels="dense")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Rows in 24 chunks, some of which hold no text."""
    monkeypatch.setattr(embed_module, "TEXTS_AT_ONCE", TEXTS)
    monkeypatch.setattr(predict_module, "TEXTS_AT_ONCE", TEXTS)
    rows = [{"id": n, "text": f"{'the old city by the river ' * (n % 9)}{n}"} for n in range(24 * TEXTS - 3)]
    lines = [json.dumps(row) for row in rows]
    lines[5] = '{"text": 5}'
    lines[TEXTS : 2 * TEXTS] = ["not json"] * TEXTS  # a chunk without any text
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def bucket(s3, source, tmp_path, monkeypatch):
    """The rows of `source` in three files of an S3, which the nodes do not know: they were started without it."""
    lines = source.read_text().splitlines(keepends=True)
    third = len(lines) // 3 + 1
    for part in range(3):
        rows = "".join(lines[part * third : (part + 1) * third])
        s3.pipe_file(f"texts/in/part-{part}.jsonl", rows.encode())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield s3
    s3.rm(s3.ls("texts", detail=False), recursive=True)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def embedded(models, source, name, **options):
    """Bytes of the vectors and of the errors; nothing else is left beside them."""
    out, errors = source.parent / name, source.parent / f"{name}.errors"
    before = set(source.parent.iterdir())
    embed_file(models[0], source, out, errors=errors, keep=["id"] if name.endswith("parquet") else [], **options)
    assert set(source.parent.iterdir()) - before == {out, errors}
    return out.read_bytes(), errors.read_bytes()


def workers_of(node, title="ray::"):
    """Process ids of a node's workers with such a title: Ray's own, of a worker that computes, names the function."""
    from ray._private import ray_constants

    (raylet,) = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
    found = []
    for file in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((file / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet.process.pid and (file / "cmdline").read_text().startswith(title):
                found.append(int(file.name))
        except OSError:
            continue
    return found


@contextmanager
def killing_a_worker(nodes, wanted):
    """Kill a worker that computes, as soon as it is wanted; its process id."""
    killed, ended = [], threading.Event()

    def kill():
        while not ended.wait(0.001) and not killed:
            if not wanted():
                continue
            for worker in (each for node in nodes.list_all_nodes() for each in workers_of(node, "ray::_work")):
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        ended.set()
        killer.join()


@contextmanager
def counted(monkeypatch):
    """How often work was submitted."""
    calls, submit = [], Cluster.submit
    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "submit", lambda self, *what: calls.append(what[0]) or submit(self, *what))
        yield calls


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_vectors_are_those_of_a_local_run_byte_for_byte_and_so_are_the_rows_set_aside(nodes, models, source, name):
    here = embedded(models, source, f"here-{name}")
    assert here == embedded(models, source, name, on="ray")
    assert here == embedded(models, source, f"one-{name}", on="ray", workers=1)


def test_answers_are_those_of_a_local_run_by_the_command_line_and_the_client_port(
    nodes, models, source, tmp_path, pruneonce
):
    client = f"ray://127.0.0.1:{nodes.head_node._ray_params.ray_client_server_port}"
    outs = [tmp_path / f"{number}.jsonl" for number in range(3)]
    packed = models[1].text_model.model.file
    for out, on in zip(outs, ((), ("--on", "ray"), ("--on", client)), strict=True):
        arguments = ("--input", source, "--output", out, "--errors", tmp_path / "e.jsonl", *on)
        code, _, told = pruneonce("predict", packed, *arguments)
        assert code == 0, told
    assert outs[0].read_bytes() == outs[1].read_bytes() == outs[2].read_bytes()
    predict_file(models[1], source, tmp_path / "pinned.jsonl", errors=tmp_path / "e.jsonl")
    predict_file(models[1], source, tmp_path / "there.jsonl", errors=tmp_path / "e.jsonl", on="ray")
    assert (tmp_path / "pinned.jsonl").read_bytes() == (tmp_path / "there.jsonl").read_bytes()


def test_a_worker_that_is_killed_while_it_computes_loses_nothing_and_nothing_comes_twice(nodes, models, source):
    here = embedded(models, source, "here.npy")
    halfway = threading.Event()
    with killing_a_worker(nodes, halfway.is_set) as killed:
        there = embedded(models, source, "v.npy", on="ray", on_progress=lambda done, *_: done > 40 and halfway.set())
    assert killed, "no worker was seen at work: this shows nothing"
    assert there == here


def test_a_node_that_is_killed_in_the_middle_loses_nothing(nodes, models, source, monkeypatch):
    monkeypatch.setattr(embed_module, "TEXTS_AT_ONCE", 2048)  # vectors that Ray keeps on the node that computed them
    rows = [json.dumps({"id": n, "text": f"the old city {n}"}) for n in range(16 * 2048)]
    source.write_text("\n".join(rows) + "\n")
    here = embedded(models, source, "here.npy")
    third = nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    worked = []

    def kill(done, *_):
        if done == 4 * 2048:
            worked.extend(workers_of(third))
            nodes.remove_node(third, allow_graceful=False)

    assert embedded(models, source, "v.npy", on="ray", on_progress=kill) == here
    assert worked, "the node had no worker: this shows nothing"


def test_work_that_kills_every_worker_is_one_line_and_not_a_hang(nodes):
    with connected("ray") as cluster:
        begun = cluster.submit(os._exit, 9)
        with pytest.raises(PruneonceError, match=r"^ray: a piece of work was lost 4 times with its worker") as told:
            begun.result(timeout=600)
        assert "\n" not in str(told.value)
        assert cluster.submit(len, "abc").result(timeout=600) == 3, "the cluster lives on"


DRIVER = """
import os, signal, sys
from pruneonce.run import embed_file as module
from pruneonce.run.pipelines import pipeline

packed, source, out, texts = sys.argv[1:]
module.TEXTS_AT_ONCE = int(texts)

def kill(done, *_):
    if done >= 6 * int(texts):
        os.kill(os.getpid(), signal.SIGKILL)

vectors = pipeline("embeddings", packed, kernels="dense")
module.embed_file(vectors, source, out, errors=out + ".errors", on="ray", on_progress=kill)
"""


def test_a_command_that_is_killed_goes_on_from_the_chunks_that_were_finished(nodes, models, source, monkeypatch):
    here = embedded(models, source, "here.npy")
    out = source.parent / "v.npy"
    arguments = [models[0].model.file, source, out, str(TEXTS)]
    ended = subprocess.run([sys.executable, "-c", DRIVER, *map(str, arguments)], timeout=600, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not out.exists()
    kept = source.parent / ".v.npy.chunks"
    assert kept.is_dir()
    for left in source.parent.glob(".v.npy*.tmp"):
        os.utime(left, (0, 0))  # as if it were old: what was only just made may be another command's
    with counted(monkeypatch) as calls:
        errors = source.parent / "v.npy.errors"
        embed_file(models[0], source, out, errors=errors, on="ray")
    assert (out.read_bytes(), errors.read_bytes()) == here
    # Six chunks were written, of which one holds no text and is nobody's work.
    assert 0 < len(calls) <= 23 - 5
    assert not kept.exists()
    with counted(monkeypatch) as calls:
        embed_file(models[0], source, out, errors=errors, on="ray")
    assert len(calls) == 23, "what is finished is not kept"


ROWS = "s3://texts/in/part-*.jsonl"


def test_what_is_read_from_s3_and_written_there_is_that_of_a_local_run_on_nodes_that_have_no_way_to_it(
    nodes, models, bucket, source, tmp_path, pruneonce
):
    with connected("ray") as cluster:
        assert cluster.submit(os.getenv, "AWS_ENDPOINT_URL").result(timeout=600) is None
    outs = {"embed": ("v.npy", "v.parquet"), "predict": ("a.jsonl",)}
    for command, names in outs.items():
        packed = models[command == "predict"].text_model.model.file
        for name in names:
            given = (
                command,
                packed,
                "--input",
                source,
                "--output",
                tmp_path / name,
                "--errors",
                tmp_path / "bad.jsonl",
            )
            code, _, told = pruneonce(*given, *(("--keep", "id") if name.endswith("parquet") else ()))
            assert code == 0, told
            there = (command, packed, "--input", ROWS, "--output", f"s3://texts/{name}")
            there += ("--errors", "s3://texts/bad.jsonl", "--on", "ray")
            code, _, told = pruneonce(*there, *(("--keep", "id") if name.endswith("parquet") else ()))
            assert code == 0, told
            assert bucket.cat_file(f"texts/{name}") == (tmp_path / name).read_bytes(), name
            here, sent = (tmp_path / "bad.jsonl").read_text(), bucket.cat_file("texts/bad.jsonl").decode()
            assert len(here.splitlines()) == len(sent.splitlines()) == TEXTS + 1
            assert "s3://texts/in/part-0.jsonl, line 6" in sent
    left = [file for folder in ("temporary", "cache") for file in (tmp_path / folder).rglob("*") if file.is_file()]
    assert not left


def test_a_command_with_urls_that_is_killed_goes_on_from_its_cache_and_leaves_nothing(
    nodes, models, bucket, source, tmp_path, monkeypatch
):
    here, _ = embedded(models, source, "here.npy")
    out = "s3://texts/v.npy"
    arguments = [models[0].model.file, ROWS, out, str(TEXTS)]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, arguments)], env=environment, timeout=600, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not bucket.exists("texts/v.npy")
    left = list((tmp_path / "temporary").iterdir())
    assert left
    for folder in left:
        os.utime(folder, (0, 0))  # as if it were old: what was only just made may be another command's
    with counted(monkeypatch) as calls:
        embed_file(models[0], ROWS, out, errors=f"{out}.errors", on="ray")
    assert bucket.cat_file("texts/v.npy") == here
    assert len(bucket.cat_file("texts/v.npy.errors").splitlines()) == TEXTS + 1
    assert 0 < len(calls) <= 23 - 5
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "cache" / "pruneonce").iterdir())


def test_a_store_that_goes_away_in_the_middle_is_one_line_and_what_was_computed_is_kept(
    nodes, models, bucket, monkeypatch
):
    bucket.mkdir("gone")

    def go(done, *_):
        if done == 4 * TEXTS:
            bucket.rm("gone", recursive=True)

    options = {"errors": "s3://gone/v.npy.errors", "on": "ray"}
    with pytest.raises(PruneonceError, match=r"^s3://gone/v\.npy does not exist, or not for you") as told:
        embed_file(models[0], ROWS, "s3://gone/v.npy", **options, on_progress=go)
    assert "\n" not in str(told.value)
    bucket.mkdir("gone")
    with counted(monkeypatch) as calls:
        embed_file(models[0], ROWS, "s3://gone/v.npy", **options)
    assert not calls, "all of it had been computed"
    assert bucket.exists("gone/v.npy")
    bucket.rm("gone", recursive=True)


def test_a_row_that_holds_no_text_is_an_error_without_a_file_for_it(nodes, models, source, tmp_path):
    with pytest.raises(PruneonceError, match=r"texts\.jsonl, line 6"):
        embed_file(models[0], source, tmp_path / "v.npy", on="ray")
    assert not (tmp_path / "v.npy").exists()


def test_an_error_of_the_work_itself_is_that_of_a_local_run(nodes, models, source, tmp_path):
    source.write_text(json.dumps({"text": "the old city " * 1000}) + "\n")
    told = []
    for on in ("", "ray"):
        with pytest.raises(PruneonceError) as error:
            embed_file(models[0], source, tmp_path / "v.npy", on=on, truncation=False)
        told.append((type(error.value), str(error.value)))
    assert told[0] == told[1]


def test_a_cluster_that_is_not_there_is_one_line(nodes, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(PruneonceError, match="cannot be reached") as told, connected("ray"):
        pass
    assert "\n" not in str(told.value)


ABSENT = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "pruneonce":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
"""


def test_nodes_without_pruneonce_are_one_line_in_a_process_that_is_connected_already(nodes, tmp_path):
    import ray

    # Before any other finder: that of an editable install comes before $PYTHONPATH.
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    ray.init(nodes.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}})
    try:
        with connected("ray") as cluster:
            begun = cluster.submit(len, "abc")
            with pytest.raises(PruneonceError, match="its nodes have no pruneonce: install") as told:
                begun.result(timeout=600)
        assert "\n" not in str(told.value)
        assert ray.is_initialized(), "the connection is its maker's to end"
    finally:
        ray.shutdown()


def test_more_threads_than_a_node_has_are_one_line(nodes):
    with pytest.raises(PruneonceError, match="no node of the cluster has 64 CPUs"), connected("ray", cpus=64):
        pass


def test_articles_and_corpora_have_the_bytes_of_a_local_run(nodes, tiny_bert, tmp_path, monkeypatch):
    from test_wikipedia import page, write

    monkeypatch.setattr(wikipedia, "BATCH_CHARS", 200)
    sentences = "The city was old. The river was great. A king was there. "
    dump = write(tmp_path / "d.xml.bz2", *(page(f"Page {n}", sentences * (1 + n % 5)) for n in range(60)))
    monkeypatch.chdir(tmp_path)  # workers take relative paths from here
    for name, on in (("here", ""), ("there", "ray")):
        wikipedia.extract("d.xml.bz2", f"{name}-articles", workers=None, on=on, shard_bytes=2000)
        build(f"{name}-articles", name, tokenizer=tiny_bert, layout="segment_pair_nsp", max_tokens=32, workers=2, on=on)
    assert dump.exists()
    for suffix in ("-articles", ""):
        here, there = (
            {file.name: file.read_bytes() for file in Path(f"{n}{suffix}").iterdir()} for n in ("here", "there")
        )
        assert here == there
    assert len(list(Path("here-articles").iterdir())) > 3, "one shard is no test of order"
    assert not list(tmp_path.glob(".*")), "nothing of ours is left beside them"


def test_a_study_has_the_records_of_a_local_one_though_a_worker_is_killed_in_a_run(
    nodes, tiny_bert, tmp_path, monkeypatch
):
    import torch
    from test_study import STUDY, silent, write_data

    from pruneonce.study.plan import make_plan
    from pruneonce.study.recipe import load_study
    from pruneonce.study.run import run_study

    write_data(tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    settings = [f"model={tiny_bert}", "data=.", "sparsities=[0.8]", "seeds=[1]"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a worker gets: more of them round sums in another order
    results = []
    for name, on in (("here", ""), ("there", "ray")):
        plan = make_plan(load_study(Path("tiny.toml"), settings), Path(name))
        begun = partial(lambda there: bool(list(there.glob("*/run.json"))), Path.cwd() / "there")
        with killing_a_worker(nodes, begun) as killed:
            results.append(run_study(plan, silent, on=on))
    assert killed, "no run was seen at work: this shows nothing"
    torch.set_num_threads(threads)
    assert not results[1].failures
    assert len(results[0].records) > 3
    for field in ("metrics", "masks", "inputs"):
        here, there = ({n: getattr(r, field) for n, r in result.records.items()} for result in results)
        assert here == there, field
