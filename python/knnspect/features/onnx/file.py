"""ONNX files that others made: which tensors their graphs have, read without the package onnx.

A file is a message of Protocol Buffers. Only the fields that are needed here are looked at; what
the others hold, onnxruntime checks.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from knnspect.errors import ParameterError, StoreError

__all__ = ["Node", "OnnxFile", "read_onnx"]

#: Numbers of fields, from onnx.proto.
_GRAPH = 7
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12  # of a graph
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR = 1, 2, 4
_NAME = 1  # of an output
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2  # of an initializer

#: Kinds of values: a number of as many bytes as it needs, 8 bytes, any bytes, 4 bytes.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5

# fmt: off
#: Operators whose second axis has channels.
_CHANNELS_FIRST = {
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace",
    "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "LRN", "MaxPool",
    "QLinearConv", "SpaceToDepth",
}
#: Operators that leave axes where they are.
_KEEPING = {
    "Abs", "Add", "Cast", "Celu", "Clip", "Concat", "DequantizeLinear", "Div", "Dropout", "Elu",
    "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min",
    "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear", "Relu", "Resize", "Selu",
    "Sigmoid", "Slice", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Upsample",
}
# fmt: on


@dataclass(frozen=True)
class Node:
    """What gives a tensor.

    Parameters
    ----------
    operator : str
        Its operator.
    inputs : tuple of str
        The tensors that it needs.
    """

    operator: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file in memory.

    Parameters
    ----------
    path : str
        Where it is, or was.
    content : bytes
        The file.
    tensors : dict of str to Node
        What the nodes of its graph give, in the order of the nodes, constants left out.
    outputs : tuple of str
        What the graph gives.
    """

    path: str
    content: bytes
    tensors: dict[str, Node]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, path: str, content: bytes) -> OnnxFile:
        """Return what a file holds.

        Raises
        ------
        StoreError
            If it is no ONNX file, is damaged, or keeps its weights in other files.
        """
        try:
            tensors, outputs, outside = _of_graph(content)
        except ValueError as error:
            raise StoreError(
                f"{path}: expected an ONNX file; it is none, or it is damaged or cut off ({error})"
            ) from error
        if outside is not None:
            raise StoreError(
                f"{path}: keeps weights in another file, {outside!r}; expected one file with all "
                f"of them: onnx.save(onnx.load({path!r}), 'whole.onnx') writes it"
            )
        return cls(path, content, tensors, outputs)

    @property
    def name(self) -> str:
        """What messages call it."""
        return Path(self.path).name

    def names_of(self, levels: Sequence[int] | Sequence[str]) -> list[str]:
        """Return the names of levels that are given as names, or as numbers of outputs.

        Raises
        ------
        ParameterError
            If there is no such tensor, or no such output.
        """
        names = []
        for level in levels:
            if isinstance(level, str):
                if level not in self.tensors and level not in self.outputs:
                    raise ParameterError(
                        f"levels: {self.name} has no tensor {level!r}; {self._near(level)}",
                        parameter="levels",
                    )
                names.append(level)
            elif -len(self.outputs) <= level < len(self.outputs):
                names.append(self.outputs[level])
            else:
                raise ParameterError(
                    f"levels: {self.name} has the outputs 0 to {len(self.outputs) - 1}, got "
                    f"{level}; {self._instead(level)}",
                    parameter="levels",
                )
        return names

    def with_outputs(self, names: Sequence[str]) -> bytes:
        """Return a file whose graph also gives some of its inner tensors.

        A message that is written twice is merged, so that more outputs are added by a second
        message of a graph that has nothing else.
        """
        more = [name for name in dict.fromkeys(names) if name not in self.outputs]
        if not more:
            return self.content
        outputs = (_field(_OUTPUT, _field(_NAME, name.encode())) for name in more)
        return self.content + _field(_GRAPH, b"".join(outputs))

    def is_channels_first(self, name: str) -> bool:
        """Return whether the second axis of a tensor is known to have the channels.

        So it is with what convolutions give, and what is made of that without a change of axes.
        """
        seen: set[str] = set()
        open_ = [name]
        while open_:
            tensor = open_.pop()
            if tensor in seen or tensor not in self.tensors:
                continue
            seen.add(tensor)
            node = self.tensors[tensor]
            if node.operator in _CHANNELS_FIRST:
                return True
            if node.operator in _KEEPING:
                open_ += node.inputs
        return False

    def _near(self, level: str) -> str:
        near = difflib.get_close_matches(level, list(self.tensors), 3, 0.5)
        near = near or [name for name in self.tensors if level.lower() in name.lower()][:3]
        lists_them = f"`knnspect info {self.path}` lists them"
        return f"did you mean {' or '.join(map(repr, near))}? {lists_them}" if near else lists_them

    def _instead(self, level: int) -> str:
        if str(level) in self.tensors:
            return f"for the tensor that is called {level}, give its name in quotes"
        return f"other levels go by the names of tensors, which `knnspect info {self.path}` lists"


def read_onnx(path: str | os.PathLike[str]) -> OnnxFile:
    """Read an ONNX file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    StoreError
        If it cannot be read, is no ONNX file, is damaged, or keeps its weights in other files.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no such ONNX file", path=path) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}", path=path) from error
    try:
        return OnnxFile.of(str(path), content)
    except StoreError as error:
        error.path = path
        raise


def _of_graph(content: bytes) -> tuple[dict[str, Node], tuple[str, ...], str | None]:
    """Return the tensors of nodes, the outputs, and a file that has weights, if there is one."""
    graphs = [part for number, part in _fields(memoryview(content)) if number == _GRAPH]
    if not graphs:
        raise ValueError("there is no graph in it")
    tensors: dict[str, Node] = {}
    outputs: dict[str, None] = {}
    outside = None
    for graph in graphs:
        for number, part in _fields(graph):
            if number == _NODE:
                tensors.update(_of_node(part))
            elif number == _OUTPUT:
                outputs.update({_text(each): None for n, each in _fields(part) if n == _NAME})
            elif number == _INITIALIZER:
                outside = outside or _outside(part)
    return tensors, tuple(outputs), outside


def _of_node(message: memoryview) -> dict[str, Node]:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _OPERATOR: []}
    for number, part in _fields(message):
        if number in texts:
            texts[number].append(_text(part))
    operator = "".join(texts[_OPERATOR])
    if operator == "Constant":
        return {}
    node = Node(operator, tuple(texts[_NODE_INPUT]))
    return {name: node for name in texts[_NODE_OUTPUT] if name}


def _outside(tensor: memoryview) -> str | None:
    """Return the file that has the numbers of a tensor, None if the tensor has them itself."""
    for number, entry in _fields(tensor):
        if number == _EXTERNAL_DATA:
            pair = {key: _text(part) for key, part in _fields(entry)}
            if pair.get(_KEY) == "location":
                return pair.get(_VALUE, "")
    return None


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the numbers of the fields of a message, and their bytes; numbers have none.

    >>> [(number, bytes(part)) for number, part in _fields(memoryview(_field(3, b"ab")))]
    [(3, b'ab')]
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind, length = tag & 7, 0
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"byte {at} begins no field")
        if at + length > end:
            raise ValueError(f"a field of {length} bytes goes on beyond its end")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number that begins at a byte, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ValueError(f"byte {at} begins no number")


def _field(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    """Return a number as `_varint` reads it.

    >>> _as_varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _text(part: memoryview) -> str:
    return bytes(part).decode()
