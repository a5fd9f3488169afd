"""`export --to onnx`: every head of both families runs in other engines with PyTorch's answers, for any batch shape."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from conftest import save_tokenizer

from pruneonce.convert import to_onnx as onnx_export
from pruneonce.convert.to_onnx import export_onnx, sample_batches
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.scales_file import LinearQuantization, write_quantization

OUTPUTS = {
    "ForSequenceClassification": ["logits"],
    "ForQuestionAnswering": ["start_logits", "end_logits"],
    "ForTokenClassification": ["logits"],
    "ForMaskedLM": ["logits"],
    "ForPreTraining": ["logits"],
    "Model": ["last_hidden_state"],
}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
CASES = [("Bert", head) for head in OUTPUTS] + [("DistilBert", head) for head in OUTPUTS if head != "ForPreTraining"]


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """A folder with a random model of a family with a head."""

    def save(family="Bert", head="ForSequenceClassification"):
        folder = tmp_path_factory.mktemp("model")
        config = getattr(transformers, f"{family}Config")(
            vocab_size=save_tokenizer(folder),
            max_position_embeddings=64,
            num_labels=2 if head == "ForQuestionAnswering" else 3,
            **(BERT if family == "Bert" else DISTILBERT),
        )
        torch.manual_seed(0)
        getattr(transformers, family + head)(config).save_pretrained(folder)
        return folder

    return save


def reference(folder, head, feed):
    """What the model itself answers, by transformers' own way of masking."""
    loader = (
        "AutoModelForMaskedLM" if head == "ForPreTraining" else "Auto" + ("Model" + head).replace("ModelModel", "Model")
    )
    model = getattr(transformers, loader).from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(**{name: torch.from_numpy(array) for name, array in feed.items()})
    return [output[name].numpy() for name in OUTPUTS[head]]


def run_openvino(openvino, file, feed):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled(feed)
    return [result[output] for output in compiled.outputs]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_head_answers_as_pytorch_does_for_any_shape(save, tmp_path, family, head):
    folder, file = save(family, head), tmp_path / "m.onnx"
    written = export_onnx(folder, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == list(written.outputs) == OUTPUTS[head]
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if family == "Bert" else 2]
    assert [each.name for each in session.get_inputs()] == names
    assert all(each.shape == ["sequences", "tokens"] for each in session.get_inputs())
    assert all(each.shape[0] == "sequences" for each in session.get_outputs())
    shapes = set()
    for arrays in sample_batches(folder):
        feed = {name: arrays[name] for name in names}
        shapes.add(feed["input_ids"].shape)
        for found, expected in zip(session.run(None, feed), reference(folder, head, feed), strict=True):
            real = feed["attention_mask"].astype(bool) if found.shape[:2] == feed["input_ids"].shape else ...
            np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert len(shapes) > 3
    assert written.max_difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert written.bytes == file.stat().st_size


@pytest.mark.parametrize(("family", "head"), [("Bert", "ForQuestionAnswering"), ("DistilBert", "ForMaskedLM")])
def test_openvino_reads_the_file(save, tmp_path, family, head):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'pruneonce[bench]'")
    folder, file = save(family, head), tmp_path / "m.onnx"
    written = export_onnx(folder, file)
    for arrays in sample_batches(folder):
        feed = {name: arrays[name] for name in written.inputs}
        for found, expected in zip(run_openvino(openvino, file, feed), reference(folder, head, feed), strict=True):
            real = feed["attention_mask"].astype(bool)
            np.testing.assert_allclose(found[real], expected[real], atol=1e-4)


def test_a_tied_decoder_is_stored_once(save, tmp_path):
    folder = save("Bert", "ForMaskedLM")
    export_onnx(folder, tmp_path / "m.onnx")
    stored = onnx.load(tmp_path / "m.onnx").graph.initializer
    words = transformers.AutoConfig.from_pretrained(folder).vocab_size
    assert [sorted(each.dims) for each in stored if words in each.dims and len(each.dims) == 2] == [[32, words]]


def test_weights_beyond_a_protobuf_go_into_one_file_beside_it(save, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    written = export_onnx(save(), tmp_path / "m.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    assert written.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "logits"


def test_a_graph_that_answers_otherwise_is_not_left_behind(save, tmp_path, monkeypatch):
    """As a fault of the exporter would: the last bias of the graph is another one."""
    whole = onnx_export._divided

    def spoil(graph):
        model = onnx.load(graph)
        bias = next(each for each in model.graph.initializer if each.name.endswith("classifier.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        onnx.save(model, graph)
        return whole(graph)

    monkeypatch.setattr(onnx_export, "_divided", spoil)
    (tmp_path / "m.onnx").write_bytes(b"the last good one")
    with pytest.raises(PruneonceError, match=r"logits differ from PyTorch's by 1\.0e-02"):
        export_onnx(save(), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"the last good one"


def test_the_command_says_what_it_wrote_and_that_int8_became_float(save, tmp_path, pruneonce):
    folder, file = save(), tmp_path / "m.onnx"
    code, out, err = pruneonce("export", folder, "--to", "onnx", "--out", file, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["bytes"] == file.stat().st_size
    assert report["opset"] == onnx.load(file).opset_import[0].version == 20
    assert not report["dequantized"]
    one = np.array([1], np.float32)
    write_quantization(folder, {"classifier": LinearQuantization(np.ones(3, np.float32), one, np.array([0], np.uint8))})
    code, out, err = pruneonce("export", folder, "--to", "onnx", "--out", file)
    assert code == 0, err
    assert "largest difference from PyTorch" in out
    assert "de-quantised float weights" in out


def test_what_cannot_be_exported_is_refused_in_one_line(save, tmp_path, pruneonce, monkeypatch):
    folder = save()
    for arguments, message in [
        (["--to", "onnxx"], "expected packed or onnx"),
        (["--to", "onnx", "--values", "fp16"], "are for --to packed"),
    ]:
        code, _, err = pruneonce("export", folder, "--out", tmp_path / "m.onnx", *arguments)
        assert (code, "Traceback" in err) == (2, False)
        assert message in err.splitlines()[-1]
    with pytest.raises(UsageError, match="is a folder: the name of a file is expected"):
        export_onnx(folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForNextSentencePrediction"]}))
    with pytest.raises(UsageError, match=r"architectures is .*BertForNextSentencePrediction"):
        export_onnx(folder, tmp_path / "m.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="torch, which is not installed"):
        export_onnx(folder, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
