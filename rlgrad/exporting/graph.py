"""A policy as an ONNX graph, written out node by node: it is a small perceptron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.spaces.utils import flatdim
from onnx import TensorProto, helper, numpy_helper

from rlgrad.acting import Actor
from rlgrad.normalise import CLIP

OPSET, IR = 17, 8  # old enough for runtimes of 2022
INPUT, LOGITS, PROBABILITIES = "observation", "logits", "probabilities"
MASK = "action_mask"


class Graph:
    """Nodes and constants in the order of their making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A number or an array, by its name in the graph."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """An operation, by the name of its output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def takes(space: Space[Any]) -> tuple[int, list[int]]:
    """(ONNX type, shape without the batch) of the input for observations of a space.

    Box and Discrete observations go in as they are; others flattened, as Gymnasium flattens them.
    """
    if isinstance(space, Discrete):
        return TensorProto.INT64, []
    if isinstance(space, Box):
        whole = not np.issubdtype(space.dtype, np.floating)
        kind = helper.np_dtype_to_tensor_dtype(space.dtype) if whole else TensorProto.FLOAT
        return kind, list(space.shape)
    return TensorProto.FLOAT, [flatdim(space)]


def model_of(
    actor: Actor, space: Space[Any], discrete: bool, about: Mapping[str, str], masked: bool = False
) -> onnx.ModelProto:
    """The policy of one seed, with a batch axis of any length.

    Args:
        actor: of a learner of one seed.
        space: of observations.
        discrete: outputs ``[batch, A]``, else ``[batch, D, A]``.
        about: metadata.
        masked: whether there is a second input of the outputs' shape, false where a category is
            not allowed.
    """
    graph = Graph()
    y = _perceptron(graph, actor, _seen(graph, actor, _features(graph, space)))
    D, A = actor.shape
    shape = [A] if discrete else [D, A]
    conditions = [] if actor.allowed is None else [graph.constant(actor.allowed, np.bool_)]
    conditions += [MASK] if masked else []
    y = graph.node("Reshape", y, graph.constant([-1, *shape], np.int64))
    for condition in conditions:
        y = graph.node("Where", condition, y, graph.constant(-np.inf))
    graph.node("Identity", y, output=LOGITS)
    graph.node("Softmax", LOGITS, output=PROBABILITIES, axis=-1)
    inputs = {INPUT: takes(space)} | ({MASK: (TensorProto.BOOL, shape)} if masked else {})
    return _model(graph, inputs, shape, about)


def _features(graph: Graph, space: Space[Any]) -> str:
    """The flattened observation ``[batch, F]`` float32."""
    x = INPUT
    if isinstance(space, Discrete):
        x = graph.node("Sub", x, graph.constant(space.start, np.int64))
        count, values = graph.constant(space.n, np.int64), graph.constant([0.0, 1.0])
        return graph.node("OneHot", x, count, values)
    kind, shape = takes(space)
    if kind != TensorProto.FLOAT:
        x = graph.node("Cast", x, to=TensorProto.FLOAT)
    if len(shape) != 1:
        x = graph.node("Reshape", x, graph.constant([-1, int(np.prod(shape))], np.int64))
    return x


def _seen(graph: Graph, actor: Actor, x: str) -> str:
    """Features as the network sees them: scaled or normalised, by the run's own numbers."""
    if actor.factor is not None:
        return graph.node("Mul", x, graph.constant(actor.factor))
    x = graph.node("Sub", x, graph.constant(actor.mean[0, 0]))
    x = graph.node("Div", x, graph.constant(actor.deviation[0, 0]))
    return graph.node("Clip", x, graph.constant(-CLIP), graph.constant(CLIP))


def _perceptron(graph: Graph, actor: Actor, x: str) -> str:
    network, layers = actor.forward.network, actor.forward.layers
    activation = "Tanh" if network.tanh else "Relu"
    for i, (bias, weight) in enumerate(layers):
        last = i == len(layers) - 1
        columns = network.outputs if last else weight.shape[2]  # the last one may be padded
        w, b = weight[0, :, :columns], bias[0, 0, :columns]
        x = graph.node("Gemm", x, graph.constant(w), graph.constant(b))
        x = x if last else graph.node(activation, x)
    return x


def _model(
    graph: Graph,
    takes: Mapping[str, tuple[int, list[int]]],
    gives: Sequence[int],
    about: Mapping[str, str],
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, kind, ["batch", *shape])
        for name, (kind, shape) in takes.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *gives])
        for name in (LOGITS, PROBABILITIES)
    ]
    whole = helper.make_graph(graph.nodes, "policy", inputs, outputs, graph.constants)
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
        producer_name="rlgrad", producer_version=about["rlgrad"],
    )  # fmt: skip
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return model
