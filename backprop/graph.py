"""The computation graph: tensors are nodes, operations are rows of a table.

A `Tensor` says which operation made it, from which tensors, with which shape and dtype. It holds no array (only a *data*
source does). Shapes are inferred and every error is raised when a node is made.

Dimension 0 may be the symbolic batch, written `BATCH` (-1): the number of rows of a run. Node numbers grow with creation,
so sorting by number is a topological order, and a graph of any depth is walked without recursion.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable

import numpy as np

from .errors import ShapeError

BATCH = -1
FLOATS = ("float32", "float64")
REAL = "real"  # dtype of an input or parameter before a network makes it float32 or float64; it mixes with both
_numbers = itertools.count(1)

OPERATIONS: dict[str, "Operation"] = {}


@dataclass(eq=False)
class Operation:
    """One row of the table of operations.

    Attributes
    ----------
    name : str
        Public name, and the name in messages.
    kind : str
        How it is lowered: ``source``, ``map`` (an elementwise operation of the C core), ``composite`` (written in other
        operations), or an instruction of its own (``matmul``, ``reduce``, ``view``, ``strided``, ``concatenate`` ...).
    infer : callable
        ``infer(inputs, attrs) -> (shape, dtype)``; raises `ShapeError` or `TypeError`.
    gradient : callable or None
        ``gradient(node, g, needs) -> [tensor or None, ...]``, one for each input, of the input's shape: the downstream
        gradient = upstream gradient `g` x local gradient. None: the operation has no gradient, asking for it is an error.
    expand : callable or None
        ``expand(inputs, attrs, node_name) -> Tensor`` for a composite.
    by_mode : bool
        The operation differs between training and inference; `rebuild` replaces it.
    """

    name: str
    kind: str
    infer: Callable
    gradient: Callable | None = None
    expand: Callable | None = None
    code: str | None = None
    by_mode: bool = False


def register(operation: Operation) -> Operation:
    OPERATIONS[operation.name] = operation
    return operation


class Tensor:
    """A node of a computation graph.

    Attributes
    ----------
    shape : tuple of int
        ``-1`` in front stands for the batch.
    dtype : str or None
        ``"float32"``, ``"float64"``, ``"int32"``; None for a Python number, which takes the dtype of its neighbours; ``"real"`` for
        what rests on an input or a parameter that no network has made float32 or float64 yet.
    op : Operation
    inputs : tuple of Tensor
    attrs : dict
    """

    __slots__ = ("op", "inputs", "attrs", "shape", "dtype", "number", "name", "requires_grad", "grad", "_array",
                 "__weakref__")
    __array_priority__ = 1000  # NumPy arrays on the left defer to our operators
    __array_ufunc__ = None

    def __init__(self, op, inputs, attrs, shape, dtype, name=None):
        self.op, self.inputs, self.attrs = op, tuple(inputs), attrs
        self.shape, self.dtype, self.name = tuple(shape), dtype, name
        self.number = next(_numbers)
        self.requires_grad = False
        for t in self.inputs:  # a loop, for thousands of nodes are made while a program is lowered
            if t.requires_grad:
                self.requires_grad = True
        self.grad = None
        self._array = None

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        """Number of elements; negative for a tensor with a batch dimension (elements of one row, negated)."""
        return dim_size(self.shape)

    def __repr__(self):
        inputs = ", ".join(f"#{t.number}" for t in self.inputs)
        return f"<Tensor #{self.number} {self.op.name}({inputs}) {format_shape(self.shape)} {self.dtype}>"

    def __len__(self):
        if not self.shape or self.shape[0] == BATCH:
            raise TypeError(f"a tensor of shape {format_shape(self.shape)} has no len()")
        return self.shape[0]

    def __bool__(self):
        raise TypeError("a Tensor has no truth value: use bp.where(), or tensor.item()")

    # The arithmetic operators are attached by ops.py; .value, .backward() and friends by eager.py.


def dim_size(shape) -> int:
    """Product of a shape as a *dim*: d >= 0 fixed, d < 0 is -d times the number of rows."""
    return math.prod(shape)


def contiguous(shape) -> list[int]:
    """Element strides of a contiguous array. No stride depends on the batch, which is dimension 0."""
    strides, step = [], 1
    for d in reversed(shape):
        strides.append(step)
        step *= d
    return strides[::-1]


def format_shape(shape) -> str:
    inner = ", ".join("n" if d == BATCH else str(d) for d in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def shapes_of(tensors) -> str:
    return " and ".join(format_shape(t.shape) for t in tensors)


def apply(name: str, inputs, attrs: dict[str, Any] | None = None, label: str | None = None) -> Tensor:
    """Make the node `name(inputs, **attrs)`: infer its shape and dtype, or raise."""
    operation = OPERATIONS[name]
    attrs = attrs or {}
    shape, dtype = operation.infer(inputs, attrs)
    return Tensor(operation, inputs, attrs, shape, dtype, label)


# ---------------------------------------------------------------- sources

def _source_infer(inputs, attrs):
    return attrs["shape"], attrs["dtype"]


for _role in ("input", "parameter", "state", "data", "constant", "scalar"):
    # input: fed with each run; parameter, state, gradient: named storage; data: holds an array; constant: a number that
    # is known now; scalar: a number that is known when the program runs (rows of the batch, learning rate ...).
    register(Operation(_role, "source", _source_infer))


def source(role: str, shape, dtype, name=None, **attrs) -> Tensor:
    return apply(role, (), {"shape": tuple(shape), "dtype": dtype, **attrs}, name)


def constant(value: float) -> Tensor:
    """A number known when the graph is made. It takes the dtype of what it meets."""
    return source("constant", (), None, value=float(value))


def scalar(name: str) -> Tensor:
    """A number known when the program runs, by name; ``"rows"`` is the number of rows of the batch."""
    return source("scalar", (), None, name, key=name)


def data(array: np.ndarray, requires_grad=False, name=None) -> Tensor:
    """A source that holds an array (not copied here)."""
    t = source("data", array.shape, array.dtype.name, name)
    t._array = array
    t.requires_grad = requires_grad
    return t


# ---------------------------------------------------------------- shared inference

_REALS = {*FLOATS, REAL}


def common_dtype(name: str, inputs) -> str | None:
    """The one float dtype of `inputs`; Python numbers take part in any."""
    dtype = None
    for t in inputs:
        if t.dtype is None or t.dtype == dtype:
            continue
        if t.dtype not in _REALS:
            raise TypeError(f"{name}: expected floating-point tensors, got {t.dtype} of shape {format_shape(t.shape)}")
        if dtype is None or t.dtype == REAL:
            dtype = t.dtype
        elif dtype != REAL:
            raise TypeError(f"{name}: float32 and float64 tensors do not mix; convert one with bp.tensor(x, dtype=...)")
    return dtype


def broadcast(name: str, inputs):
    """NumPy's broadcasting rule; the symbolic batch equals itself or meets 1."""
    try:
        return _broadcast(tuple([t.shape for t in inputs]))
    except ShapeError as e:
        raise ShapeError(f"{name}: shapes {shapes_of(inputs)} {e}") from None


@lru_cache(4096)
def _broadcast(shapes):
    ndim = max(map(len, shapes), default=0)
    out = []
    for axis in range(-ndim, 0):
        d = 1
        for shape in shapes:
            e = shape[axis] if -axis <= len(shape) else 1
            if e != 1 and d != 1 and e != d:
                raise ShapeError("do not broadcast")
            if e != 1:
                d = e
        out.append(d)
    if BATCH in out[1:]:
        raise ShapeError("would put the batch behind dimension 0")
    return tuple(out)


# ---------------------------------------------------------------- walking and rebuilding

def ancestors(outputs) -> list[Tensor]:
    """All nodes that `outputs` rest on, themselves included, in topological order."""
    seen = set()
    stack = list(outputs)
    nodes = []
    while stack:
        t = stack.pop()
        if t not in seen:
            seen.add(t)
            nodes.append(t)
            stack.extend(t.inputs)
    nodes.sort(key=lambda t: t.number)
    return nodes


def rebuild(outputs, replace=None, training: bool | None = None, dtype: str | None = None):
    """The same graph made anew.

    Parameters
    ----------
    outputs : sequence of Tensor
    replace : dict of Tensor to Tensor
        Nodes to put in place of others.
    training : bool, optional
        Replace operations that differ by mode (dropout, batch normalisation) by their form for training or inference.
    dtype : str, optional
        Float dtype of the sources that are made anew.

    Returns
    -------
    list of Tensor, dict of Tensor to Tensor
        The new outputs, and what became of every node.
    """
    new: dict[Tensor, Tensor] = {}
    replace = replace or {}
    for t in ancestors(outputs):
        if t in replace:
            new[t] = replace[t]
            continue
        inputs = [new[i] for i in t.inputs]
        if t.op.kind == "source":
            if dtype is not None and t.dtype in FLOATS and t.dtype != dtype:
                r = source(t.op.name, t.shape, dtype, t.name, **{k: v for k, v in t.attrs.items() if k not in ("shape", "dtype")})
                r._array = None if t._array is None else t._array.astype(dtype)
                r.number = t.number  # the order of the nodes, which files hold, does not depend on the dtype
                new[t] = r
            else:
                new[t] = t
        elif t.op.by_mode and training is not None:
            new[t] = t.op.expand(inputs, t.attrs, training)
        elif all(a is b for a, b in zip(inputs, t.inputs)) and (inputs or dtype is None):
            new[t] = t
        else:
            attrs = t.attrs if dtype is None or t.attrs.get("dtype") not in (*FLOATS, REAL) else {**t.attrs, "dtype": dtype}
            new[t] = r = apply(t.op.name, inputs, attrs, t.name)
            if inputs and all(a.number == b.number for a, b in zip(inputs, t.inputs)):
                r.number = t.number  # of another dtype, no more
    return [new[t] for t in outputs], new
