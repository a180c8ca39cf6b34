"""ONNX networks of others: what they want is found by trying, and what is no enlarging network is refused."""

import numpy as np
import pytest
import torch

from kdsr_arch.infer.open import open_network
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from tests.helpers.messages import refuses

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

node = helper.make_node
FREE = ["n", 3, "h", "w"]


def write(path, nodes, shape=FREE, kind=TensorProto.FLOAT, inputs=1, outputs=1, **constants):
    """An ONNX file of these nodes from 'x' to 'y', made without PyTorch and without this project."""
    given = [helper.make_tensor_value_info(f"x{i or ''}", kind, shape) for i in range(inputs)]
    made = [helper.make_tensor_value_info(f"y{i or ''}", kind, [None] * 4) for i in range(outputs)]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "foreign", given, made, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def repeat(source="x", target="y", scale=2):
    """Nodes that repeat every pixel."""
    factors = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32))
    constant = helper.make_node("Constant", [], ["factors"], value=factors)
    more = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [constant, helper.make_node("Resize", [source, "", "factors"], [target], **more)]


FORMS = {
    "free": ({}, repeat()),
    "x3": ({}, repeat(scale=3)),
    "one at a time": ({"shape": [1, 3, "h", "w"]}, repeat()),
    "gray": ({"shape": ["n", 1, "h", "w"]}, repeat()),
    "one size": ({"shape": ["n", 3, 32, 48]}, repeat()),
    "one height": ({"shape": ["n", 3, 32, "w"]}, repeat()),
    "half": ({"kind": TensorProto.FLOAT16}, repeat()),
    "0 to 255": ({"three": np.array(3, np.float32)}, [*repeat(target="z"), node("Add", ["z", "three"], ["y"])]),
    "sides of 4": ({}, [node("SpaceToDepth", ["x"], ["s"], blocksize=4),
                        node("DepthToSpace", ["s"], ["d"], blocksize=4), *repeat("d")]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_it_wants_is_found_by_trying(tmp_path, form):
    keywords, nodes = FORMS[form]
    scale = 3 if form == "x3" else 2
    opened = open_network(write(tmp_path / "a.onnx", nodes, **keywords))
    assert (opened.traits.scale, opened.traits.mode) == (scale, "image")
    assert opened.traits.color == ("y" if form == "gray" else "rgb")
    assert opened.traits.multiple == (4 if form == "sides of 4" else 1)
    lq = torch.rand(2, 1 if form == "gray" else 3, 13, 18)
    made = Restorer(Runner(opened.net, opened.traits), torch.device("cpu"), batch=2).frames(lq, [0, 1])
    exact = lq.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    exact = exact + 3 / 255 if form == "0 to 255" else exact
    torch.testing.assert_close(made, exact, atol=1e-3 if form == "half" else 1e-5, rtol=0)


REFUSED = {
    "two inputs": ({"inputs": 2}, repeat(), ["2 inputs"]),
    "two outputs": ({"outputs": 2}, [*repeat(), node("Identity", ["x"], ["y1"])], ["2 outputs"]),
    "channels last": ({"shape": ["n", "h", "w", 3]}, repeat(), ["'h', 'w', 3"]),
    "whole numbers": ({"kind": TensorProto.UINT8}, repeat(), ["uint8"]),
    "a classifier": ({}, [node("GlobalAveragePool", ["x"], ["y"])], ["(1, 3, 1, 1)"]),
    "another image": ({}, [*repeat(target="z"), node("Neg", ["z"], ["y"])], ["[0, 255]"]),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_does_not_enlarge_images_is_refused(tmp_path, form):
    keywords, nodes, words = REFUSED[form]
    with refuses(write(tmp_path / "a.onnx", nodes, **keywords), *words):
        open_network(tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [(32, 48), (20, 30), (33, 49), (100, 90), (31, 200)])
def test_pieces_of_one_size_see_beyond_where_they_meet(tmp_path, size):
    """A blur reaches two pixels far: no seam, wherever pieces meet."""
    kernel = np.zeros((3, 3, 5, 5), np.float32)
    kernel[range(3), range(3)] = 1 / 25
    blur = node("Conv", ["x", "kernel"], ["z"], pads=[2, 2, 2, 2])
    free = open_network(write(tmp_path / "free.onnx", [blur, *repeat("z")], kernel=kernel))
    fixed = {"shape": ["n", 3, 32, 48]}
    pieces = open_network(write(tmp_path / "fixed.onnx", [blur, *repeat("z")], **fixed, kernel=kernel))
    lq = torch.rand(2, 3, *size)
    inner = (..., slice(0, 2 * size[0] - 4), slice(0, 2 * size[1] - 4))  # a smaller image is padded
    torch.testing.assert_close(pieces.net(lq)[inner], free.net(lq)[inner], atol=1e-5, rtol=0)
