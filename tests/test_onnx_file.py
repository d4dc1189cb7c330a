"""Networks from ONNX files: products, dependencies, what is left out, and each fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.dnn.gemms import Dnn
from sim.dnn.onnx_file import read_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra onnx)")
FLOAT, INT = 1, 7

Dims = list[Any]


def _weight(name: str, *shape: int) -> Any:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)


def _numbers(name: str, *values: int) -> Any:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


def _save(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, Dims],
    weights: list[Any] = (),
    output: str = "y",  # type: ignore[assignment]
) -> Path:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [info(name, FLOAT, dims) for name, dims in inputs.items()],
        [info(output, FLOAT, None)],
        list(weights),
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.example", 1)]
    path = folder / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def _facts(dnn: Dnn) -> list[tuple[object, ...]]:
    return [
        (each.name, each.m, each.n, each.k, each.kernel_area, each.after, each.raw_input)
        for each in dnn.layers
    ]


node = onnx.helper.make_node


def _convnet(folder: Path, image: Dims) -> Path:
    return _save(
        folder,
        [
            node("Conv", ["x", "w1"], ["a"], "conv1", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"], "relu"),
            node("Conv", ["b", "w2"], ["c"], "left", pads=[1, 1, 1, 1], group=2),
            node("Conv", ["b", "w3"], ["d"], "depth", pads=[1, 1, 1, 1], group=8),
            node("Add", ["c", "d"], ["e"], "add"),
            node("GlobalAveragePool", ["e"], ["f"], "pool"),
            node("Flatten", ["f"], ["g"], "flat"),
            node("Gemm", ["g", "w4"], ["y"], "head", transB=1),
        ],
        {"x": image},
        [
            _weight("w1", 8, 3, 3, 3),
            _weight("w2", 8, 4, 3, 3),
            _weight("w3", 8, 1, 3, 3),
            _weight("w4", 10, 8),
        ],
    )


def test_convolutions_groups_and_what_is_left_out(tmp_path: Path) -> None:
    dnn, notes = read_onnx(_convnet(tmp_path, ["batch", 3, 32, 32]), batch=2)
    left = [(f"left:{group}", 2 * 16 * 16, 36, 4, 9, ("conv1",), False) for group in range(2)]
    # the depthwise convolution takes no time, so that what it reads stands for it
    assert _facts(dnn) == [
        ("conv1", 2 * 16 * 16, 27, 8, 9, (), True),
        *left,
        ("head", 2, 8, 10, 1, ("left:0", "left:1", "conv1"), False),
    ]
    assert notes == (
        "1 depthwise convolutions (0.03686 M MACs) are no matrix products and take no time here",
    )


def test_attention_is_a_product_for_each_head_and_sequence(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        [
            node("MatMul", ["x", "wq"], ["q"], "q"),
            node("MatMul", ["x", "wk"], ["k"], "k"),
            # shapes computed from shapes are no work
            node("Shape", ["x"], ["s"], "shape"),
            node("Gather", ["s", "first"], ["n"], "n"),
            node("Concat", ["n", "heads"], ["target"], "concat", axis=0),
            node("Reshape", ["q", "target"], ["q2"], "reshape_q"),
            node("Reshape", ["k", "target"], ["k2"], "reshape_k"),
            node("Transpose", ["q2"], ["q3"], "tq", perm=[0, 2, 1, 3]),
            node("Transpose", ["k2"], ["k3"], "tk", perm=[0, 2, 3, 1]),
            node("MatMul", ["q3", "k3"], ["y"], "scores"),
        ],
        {"x": ["batch", "sequence", 64]},
        [
            _weight("wq", 64, 64),
            _weight("wk", 64, 64),
            _numbers("first", 0),
            _numbers("heads", -1, 4, 16),
        ],
    )
    dnn, notes = read_onnx(path, batch=2, sizes={"sequence": 10})
    assert _facts(dnn)[:2] == [("q", 20, 64, 64, 1, (), True), ("k", 20, 64, 64, 1, (), True)]
    scores = dnn.layers[2:]
    assert len(scores) == 8
    assert {(each.m, each.n, each.k, each.after) for each in scores} == {(10, 16, 10, ("q", "k"))}
    assert not notes


def test_what_is_computed_from_constants_is_no_work(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        [node("MatMul", ["a", "b"], ["w"], "folded"), node("MatMul", ["x", "w"], ["y"], "real")],
        {"x": [5, 4]},
        [_weight("a", 4, 6), _weight("b", 6, 3)],
    )
    dnn, notes = read_onnx(path)
    assert _facts(dnn) == [("real", 5, 4, 3, 1, (), True)]
    assert notes == ("the file fixes its batch: 5",)


def test_names_are_made_unlike(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("MatMul", ["a", "w"], ["b"], "/m"),
            node("MatMul", ["b", "w"], ["y"], "m"),
        ],
        {"x": [1, 4]},
        [_weight("w", 4, 4)],
    )
    assert [each.name for each in read_onnx(path)[0].layers] == ["MatMul_0", "m", "m#2"]


@pytest.mark.parametrize(
    ("nodes", "inputs", "weights", "given", "said"),
    [
        (
            [
                node("LSTM", ["x", "w", "w"], ["a"]),
                node("LSTM", ["x", "w", "w"], ["b"]),
                node("Einsum", ["a"], ["y"]),
            ],
            {"x": [1, 4]},
            [_weight("w", 4, 4)],
            {},
            r"not supported: Einsum \(1\), LSTM \(2\)",
        ),
        (
            [node("Fancy", ["x"], ["y"], domain="com.example")],
            {"x": [1, 4]},
            [],
            {},
            r"com\.example\.Fancy \(1\)",
        ),
        ([node("Relu", ["x"], ["y"])], {"x": [1, 4]}, [], {}, "no matrix product"),
        (
            [node("MatMul", ["x", "w"], ["y"])],
            {"x": [1, "length"]},
            [_weight("w", 4, 4)],
            {},
            "leaves the size of 'length' of input 'x' free; give it in `sizes`",
        ),
        (
            [node("MatMul", ["x", "w"], ["y"])],
            {"x": [1, None]},
            [_weight("w", 4, 4)],
            {},
            r"'x\[1\]' of input 'x'",
        ),
        (
            [node("MatMul", ["x", "w"], ["y"])],
            {"x": [1, "length"]},
            [_weight("w", 4, 4)],
            {"sizes": {"lenght": 4}},
            "no free dimension 'lenght'; nearest is 'length'",
        ),
        (
            [node("MatMul", ["x", "w"], ["y"])],
            {"x": [1, 4]},
            [_weight("w", 4, 4)],
            {"batch": 8},
            "fixes its batch as 1, so it cannot be 8",
        ),
        (
            [node("MatMul", ["x", "w"], ["y"], "odd")],
            {"x": [1, 4]},
            [_weight("w", 5, 4)],
            {},
            "MatMul 'odd' multiplies 1 x 4 by 5 x 4",
        ),
        (
            [node("MatMul", ["x", "w"], ["y"], "nil")],
            {"x": [3, 4]},
            [_weight("w", 4, 0)],
            {},
            "nil .* a size of zero",
        ),
        (
            [node("Reshape", ["x", "free"], ["a"]), node("MatMul", ["a", "w"], ["y"], "lost")],
            {"x": [2, 4], "free": [2]},
            [_weight("w", 4, 4)],
            {},
            "shape of 'a', at MatMul 'lost', cannot be found out",
        ),
    ],
)
def test_faults(
    tmp_path: Path,
    nodes: list[Any],
    inputs: dict[str, Dims],
    weights: list[Any],
    given: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ValueError, match=said):
        read_onnx(_save(tmp_path, nodes, inputs, weights), **given)


def test_what_is_no_model(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"not a model at all", b"\x08\x07" * 50)):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no ONNX model"):
            read_onnx(path)


def test_weights_outside_the_file_need_not_be_there(tmp_path: Path) -> None:
    path = _convnet(tmp_path, ["batch", 3, 32, 32])
    whole = read_onnx(path)[0]
    model = onnx.load(str(path))
    onnx.save(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").unlink()
    assert read_onnx(path)[0].layers == whole.layers
