"""A DNN from an ONNX file, as the matrix products in it.  Needs the package onnx (extra `onnx`).

Only shapes are read: weights kept outside the file need not be there. Convolutions are products by
im2col, a product of stacks of matrices one for each; normalisation, activation, pooling and
whatever moves data take no time, their place being kept by the dependencies. What is computed from
constants and shapes alone is no work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from sim.dnn.gemms import Dnn, GemmLayer
from sim.text.outside import bounded, meeting, read_bytes
from sim.text.pick import closest

# Where the two operands of a product are among a node's inputs.
_CONVOLUTIONS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "ConvTranspose": (0, 1),
}
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1)}
_TAKE_NO_TIME = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant
ConstantOfShape Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu
Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu GlobalAveragePool
GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax LpNormalization LpPool LRN Max MaxPool Mean MeanVarianceNormalization Min
Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1
ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RMSNormalization RotaryEmbedding Round
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose
Trilu Unique Unsqueeze Upsample Where Xor
"""
_FREE = frozenset(_TAKE_NO_TIME.split())
_STANDARD = ("", "ai.onnx")


class _Product(NamedTuple):
    """So many products of one shape."""

    m: int
    n: int
    k: int
    area: int = 1
    copies: int = 1

    @property
    def depthwise(self) -> bool:
        """Of a convolution: each of several groups is one channel."""
        return self.n == self.area and self.copies > 1


def read_onnx(
    path: Path, *, batch: int = 1, sizes: Mapping[str, int] | None = None
) -> tuple[Dnn, tuple[str, ...]]:
    """The DNN in the file at `path`, and what its user should know.

    A first dimension that the file leaves free is `batch`; `sizes` gives the others by name
    ("sequence"), or where they have none by input and place ("input_ids[1]"). ValueError if the
    file is no DNN, an operation is none of those known here, or a shape cannot be found
    out.
    """
    model, fixed = _shaped(path, batch, dict(sizes or {}))
    graph = model.graph
    _require_known(graph.node)
    shapes = _shapes(graph)
    constant = {each.name for each in graph.initializer} | {""}
    sources: dict[str, tuple[str, ...]] = {}  # by tensor, the products whose results it holds
    taken: Counter[str] = Counter()
    layers: list[GemmLayer] = []
    depthwise: list[_Product] = []
    edges = 0
    for number, node in enumerate(graph.node):
        if node.op_type == "Shape" or all(name in constant for name in node.input):
            constant.update(node.output)
            continue
        held = tuple(dict.fromkeys(s for name in node.input for s in sources.get(name, ())))
        edges = bounded("dependencies", edges + len(held), _called(node, number))
        with meeting(_called(node, number)):
            product = _product(node, shapes)
        if product is not None and product.depthwise and node.op_type in _CONVOLUTIONS:
            depthwise.append(product)
        elif product is not None:
            name = (node.name or f"{node.op_type}_{number}").strip("/")
            taken[name] += 1
            own = name if taken[name] == 1 else f"{name}#{taken[name]}"
            bounded("matrix products", len(layers) + product.copies, _called(node, number))
            edges = bounded(
                "dependencies", edges + product.copies * len(held), _called(node, number)
            )
            layers += _layers(own, product, held)
            held = tuple(layer.name for layer in layers[len(layers) - product.copies :])
        sources |= dict.fromkeys(node.output, held)
    if not layers:
        raise ValueError("there is no matrix product in it, so nothing to do for a systolic array")
    notes = [f"the file fixes its batch: {fixed}"] if fixed and fixed != batch else []
    if depthwise:
        macs = sum(each.m * each.n * each.k * each.copies for each in depthwise)
        notes.append(
            f"{len(depthwise)} depthwise convolutions ({macs / 1e6:,.4g} M MACs) are no matrix "
            "products and take no time here"
        )
    return Dnn(path.stem, tuple(layers)), tuple(notes)


def _shaped(path: Path, batch: int, sizes: dict[str, int]) -> tuple[Any, int]:
    """The model with every shape that follows from the inputs', and the batch it fixes, or 0."""
    try:
        import onnx
        from onnx import inliner, shape_inference
    except ImportError:
        raise ValueError(
            "reading ONNX files needs the package onnx; install podscope[onnx]"
        ) from None
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(read_bytes(path, "network bytes"))
    except (DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"this is no ONNX model: {error}") from None
    if not model.graph.node:
        raise ValueError("this is no ONNX model, or one without operations")
    _no_larger(model)
    fixed = _fill_in(model.graph, batch, sizes)
    del model.graph.value_info[:]  # they may name dimensions that have a size now
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    errors = (shape_inference.InferenceError, ValueError, RuntimeError, DecodeError, MemoryError)
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        return shape_inference.infer_shapes(model, data_prop=True), fixed
    except errors as error:
        raise ValueError(f"its shapes cannot be found out: {str(error)[:500]}") from None


def _no_larger(model: Any) -> None:
    """ValueError if its functions run in a circle, or put into each other's places make too many
    operations."""
    functions = {(each.domain, each.name): each for each in model.functions}
    made: dict[tuple[str, str], int] = {}

    def count(nodes: Sequence[Any], within: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = node.domain, node.op_type
            if key in within:
                raise ValueError(f"the function {node.op_type!r} calls itself")
            if key in functions and key not in made:
                made[key] = count(functions[key].node, (*within, key))
            total = bounded("operations", total + made.get(key, 1), f"at {node.op_type!r}")
        return total

    with meeting("its functions"):
        count(model.graph.node, ())


def _called(node: Any, number: int) -> str:
    """A node by its kind and name, as messages have it."""
    return f"{node.op_type} {node.name!r} (node {number})"


def _fill_in(graph: Any, batch: int, sizes: dict[str, int]) -> int:
    """Gives the inputs' free dimensions their sizes; the batch that the file fixes, or 0."""
    weights = {each.name for each in graph.initializer}
    free: dict[str, None] = {}
    missing: dict[str, None] = {}
    fixed = 0
    for each in graph.input:
        if each.name in weights or not each.type.HasField("tensor_type"):
            continue
        for axis, dim in enumerate(each.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                fixed = fixed or (dim.dim_value if axis == 0 else 0)
                continue
            name = dim.dim_param or f"{each.name}[{axis}]"
            free[name] = None
            if name not in sizes and axis > 0:
                missing[f"{name!r} of input {each.name!r}"] = None
            dim.dim_value = sizes.get(name, batch)
    unknown = [name for name in sizes if name not in free]
    if unknown:
        there_are = f"; they are {', '.join(free)}" if free else "; it has none"
        raise ValueError(
            f"it has no free dimension {unknown[0]!r}{closest(unknown[0], free, there_are)}"
        )
    if missing:
        raise ValueError(
            f"the file leaves the size of {', '.join(missing)} free; give it in `sizes`"
        )
    if fixed and batch not in (1, fixed):
        raise ValueError(f"the file fixes its batch as {fixed}, so it cannot be {batch}")
    return fixed


def _require_known(nodes: Sequence[Any]) -> None:
    known = _FREE | _CONVOLUTIONS.keys() | _PRODUCTS.keys()
    unknown = Counter(
        f"{node.op_type}" if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"
        for node in nodes
        if node.domain not in _STANDARD or node.op_type not in known
    )
    if unknown:
        each = ", ".join(f"{op} ({count})" for op, count in sorted(unknown.items()))
        raise ValueError(f"operations that are not supported: {each}")


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """By tensor, where all of it is known."""
    found = {each.name: tuple(each.dims) for each in graph.initializer}
    bounded("operations", len(graph.node))
    for each in (*graph.input, *graph.value_info, *graph.output):
        tensor = each.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[each.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return found


def _product(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> _Product | None:
    """What a node multiplies; None if it is free."""
    if node.op_type in _FREE:
        return None

    def shape(tensor: str) -> tuple[int, ...]:
        if tensor not in shapes:
            raise ValueError(
                f"the shape of {tensor!r}, at {node.op_type} {node.name!r}, cannot be found out"
            )
        return shapes[tensor]

    places = (_CONVOLUTIONS | _PRODUCTS)[node.op_type]
    if len(node.input) <= max(places) or not node.output:
        raise ValueError(
            f"{node.op_type} {node.name!r} has {len(node.input)} inputs and {len(node.output)} "
            f"outputs; {max(places) + 1} and 1 are due"
        )
    x, w = (shape(node.input[place]) for place in places)
    if node.op_type in _CONVOLUTIONS:
        return _convolution(node, x, w, shape(node.output[0]))
    if node.op_type == "Gemm":
        x, w = (
            each[::-1] if _attribute(node, flag, 0) else each
            for each, flag in ((x, "transA"), (w, "transB"))
        )
    return _stacked(node, x, w)


def _convolution(node: Any, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> _Product:
    if min(len(x), len(w), len(y)) < 3:
        raise ValueError(
            f"{node.op_type} {node.name!r} has operands of {len(x)} and {len(w)} sides"
        )
    groups, area = _attribute(node, "group", 1), prod(w[2:])
    if groups < 1:
        raise ValueError(f"{node.op_type} {node.name!r} has {groups} groups")
    if node.op_type == "ConvTranspose":
        return _Product(x[0] * prod(x[2:]), w[0] // groups, w[1] * area, 1, groups)
    return _Product(y[0] * prod(y[2:]), w[1] * area, w[0] // groups, area, groups)


def _stacked(node: Any, x: tuple[int, ...], w: tuple[int, ...]) -> _Product:
    """Stacks of matrices, as numpy multiplies them; one matrix W for all of X is one product."""
    if not (x and w):
        raise ValueError(f"{node.op_type} {node.name!r} multiplies a single number")
    x, w = (1, *x) if len(x) == 1 else x, (*w, 1) if len(w) == 1 else w
    if x[-1] != w[-2]:
        raise ValueError(
            f"{node.op_type} {node.name!r} multiplies {_text(x)} by {_text(w)}, which do not fit"
        )
    if prod(w[:-2]) == 1:
        return _Product(prod(x[:-1]), x[-1], w[-1])
    long = max(len(x), len(w)) - 2
    stacks = [(1,) * (long - len(each) + 2) + each[:-2] for each in (x, w)]
    return _Product(
        x[-2], x[-1], w[-1], 1, prod(map(max, *stacks)) if 0 not in stacks[0] + stacks[1] else 0
    )


def _layers(name: str, product: _Product, after: tuple[str, ...]) -> Iterator[GemmLayer]:
    m, n, k, area, copies = product
    if not copies:
        raise ValueError(f"layer {name} has a size of zero")
    for copy in range(copies):
        own = name if copies == 1 else f"{name}:{copy}"
        yield GemmLayer(own, m, n, k, kernel_area=area, after=after, raw_input=not after)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((each.i for each in node.attribute if each.name == name), default)


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
