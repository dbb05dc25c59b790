"""A trained model runs in onnxruntime, where this package cannot be imported."""

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")
onnx = pytest.importorskip("onnx", reason="SKIPPED: onnx is not installed")
pytest.importorskip("onnxruntime", reason="SKIPPED: onnxruntime is not installed")

from test_torch_export import elsewhere, images, stored, swapped

ONNX = """
    import onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    y = torch.from_numpy(y)
"""


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_onnx_runs_it(dynamo, tmp_path):
    model, x = swapped(), images(3)
    stored(model, x, tmp_path)
    dynamic = {"dynamic_shapes": ({0: "batch"},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (images(2),), path, input_names=["x"], dynamo=dynamo, verbose=False, **dynamic)
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert [node.op_type for node in nodes].count("LeakyRelu") == 4
    assert elsewhere(ONNX, tmp_path) < 1e-5
