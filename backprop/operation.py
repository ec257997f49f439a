"""Operations of a user's own, written in Python: nodes of the graph like any other, in eager use, compiled and in networks.

The program has a CALL instruction where such an operation stands. It runs on the thread that runs the program, with the GIL,
once for each run, on arrays of its own: copies, so that it may keep and change what it gets. What it raises ends the run before
anything stored is changed, and comes out of the call that ran the program.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import ShapeError
from .graph import BATCH, Operation, Tensor, apply, broadcast, common_dtype, format_shape, register
from .ops import _tensors

__all__ = ["UserOperation", "operation"]


class UserOperation:
    """What `operation` makes: called on tensors (or arrays), it adds a node to the graph.

    Attributes
    ----------
    name : str
        Stands in messages and in pictures of the graph.
    """

    def __init__(self, forward, backward=None, gradient=None, shape=None, name=None):
        self.name = self.__name__ = name or getattr(forward, "__name__", "operation")
        self.__doc__ = forward.__doc__
        self._forward, self._shape, self._backward, self._gradient = forward, shape, backward, gradient
        self._check()

    def _check(self):
        for what in ("forward", "backward", "gradient", "shape"):
            f = getattr(self, "_" + what)
            if f is not None and not callable(f):
                raise TypeError(f"{self.name}: {what} must be a function, got {f!r}")
        if self._backward is not None and self._gradient is not None:
            raise TypeError(f"{self.name}: declare backward (in NumPy) or gradient (in bp operations), not both")

    def backward(self, f: Callable) -> UserOperation:
        """Decorator of the operation's gradient in NumPy: ``f(g, y, *inputs, **arguments)``, arrays in and out."""
        self._backward = f
        self._check()
        return self

    def gradient(self, f: Callable) -> UserOperation:
        """Decorator of the operation's gradient in bp operations: ``f(g, y, *inputs, **arguments)``, tensors in and out."""
        self._gradient = f
        self._check()
        return self

    def __call__(self, *inputs, **arguments) -> Tensor:
        arguments = tuple(sorted(arguments.items()))
        try:
            hash(arguments)
        except TypeError:
            raise TypeError(f"{self.name}: keyword arguments are numbers, strings and tuples; arrays are inputs") from None
        return apply("call", _tensors(inputs), {"call": self, "arguments": arguments, "key": object()}, self.name)

    def __repr__(self):
        return f"<operation {self.name}>"

    # ---------------------------------------------------------------- at the graph

    def infer(self, inputs, arguments):
        if not inputs:
            raise TypeError(f"{self.name}: an operation has at least one input")
        dtype = common_dtype(self.name, [t for t in inputs if t.dtype != "int32"])
        if self._shape is None:
            return broadcast(self.name, inputs), dtype
        shape = self._shape(*(t.shape for t in inputs), **arguments)
        if not isinstance(shape, (tuple, list)) or not all(hasattr(d, "__index__") and d >= BATCH for d in shape):
            raise ShapeError(f"{self.name}: its shape function must return a tuple of sizes (-1 for the batch), got {shape!r}")
        if BATCH in shape[1:]:
            raise ShapeError(f"{self.name}: its shape function puts the batch (-1) behind dimension 0: {tuple(shape)}")
        return tuple(int(d) for d in shape), dtype

    def gradients(self, node, g, needs):
        attrs = {k: node.attrs[k] for k in ("call", "arguments")}
        if self._gradient is not None:
            given = self._one_each(self._gradient(g, node, *node.inputs, **dict(attrs["arguments"])), len(needs))
            for i, (x, need, d) in enumerate(zip(node.inputs, needs, given)):
                if not need:
                    continue
                if not isinstance(d, Tensor):
                    raise TypeError(f"{self.name}: its gradient for input {i} must be a Tensor, made by bp operations; got "
                                    f"{type(d).__name__}. A gradient in NumPy is declared by `backward`")
                if d.shape != x.shape:
                    raise ShapeError(self._wrong_shape(i, d.shape, x.shape))
            return [d if need else None for d, need in zip(given, needs)]
        if self._backward is None:
            raise TypeError(f"{self.name} has no gradient: declare one by `backward` or `gradient` "
                            "(bp.stop_gradient says that none is wanted)")
        run = apply("call_backward", [g, node, *node.inputs], {**attrs, "key": object()}, f"{self.name} backward")
        attrs = {"dtype": node.dtype, "name": self.name}
        return [apply("call_gradient", [run], {**attrs, "input": i, "shape": x.shape}) if need else None
                for i, (x, need) in enumerate(zip(node.inputs, needs))]

    def call(self, node, wanted, dtype):
        """What the CALL of a node does when the program runs; `wanted` are the inputs that a backward has gradients for."""
        return Call(node, None if node.op.name == "call" else wanted, dtype)

    def _wrong_shape(self, i, got, wanted):
        return f"{self.name}: its gradient for input {i} has shape {format_shape(got)}, the input {format_shape(wanted)}"

    def _one_each(self, given, n):
        """What a gradient function returned, as a list of one for each of `n` inputs."""
        if not isinstance(given, (tuple, list)):
            given = [given]
        if len(given) != n:
            raise TypeError(f"{self.name}: its gradient must be one for each of {n} inputs, got {len(given)}")
        return list(given)


class Call:
    """A CALL as the program runs it: ``call(inputs, outputs, rows)`` with the bytes of the arrays.

    Parameters
    ----------
    node : Tensor
        A "call" or "call_backward".
    wanted : list of int, or None
        Backward: the inputs that a gradient is wanted for, in the order of the outputs.
    dtype : str
        Of the program.
    """

    def __init__(self, node, wanted, dtype):
        self.operation, self.arguments = node.attrs["call"], dict(node.attrs["arguments"])
        self.inputs = [(t.shape, t.dtype or dtype) for t in node.inputs]
        self.shape, self.wanted, self.dtype = node.shape, wanted, dtype

    def __call__(self, inputs, outputs, rows):
        arrays = [_read(view, shape, dtype, rows) for view, (shape, dtype) in zip(inputs, self.inputs)]
        op, arguments = self.operation, self.arguments
        if self.wanted is None:
            _write(outputs[0], self._checked(op._forward(*arrays, **arguments), _now(self.shape, rows)))
            return
        shapes = [a.shape for a in arrays[2:]]
        given = op._one_each(op._backward(*arrays, **arguments), len(shapes))
        checked = [self._checked(given[i], shapes[i], i) for i in self.wanted]
        for view, a in zip(outputs, checked):
            _write(view, a)

    def _checked(self, result, shape, i=None):
        """A result of the operation, of the shape and dtype that it must have."""
        op = self.operation
        what = "its result" if i is None else f"its gradient for input {i}"
        if result is None or isinstance(result, Tensor):
            raise TypeError(f"{op.name}: {what} is {'None' if result is None else 'a Tensor'}, expected an array of shape {shape}"
                            + (" (zeros where it is zero)" if result is None and i is not None else ""))
        number = isinstance(result, (bool, int, float)) and not isinstance(result, np.generic)
        result = np.asarray(result, dtype=self.dtype) if number else np.asarray(result)
        if result.shape != shape:
            if i is not None:
                raise ShapeError(op._wrong_shape(i, result.shape, shape))
            raise ShapeError(f"{op.name}: its result has shape {format_shape(result.shape)}, expected {format_shape(shape)}, "
                             + ("which its shape function declares" if op._shape else
                                "that of its inputs broadcast; where it is another, declare it: operation(shape=...)"))
        if result.dtype != self.dtype:
            raise TypeError(f"{op.name}: {what} has dtype {result.dtype}, the inputs {self.dtype}: "
                            f"return it with .astype(x.dtype)")
        return result


def _now(shape, rows):
    return tuple(rows if d == BATCH else d for d in shape)


def _read(view, shape, dtype, rows):
    """A copy of what stands at `view`."""
    return np.frombuffer(view, dtype).reshape(_now(shape, rows)).copy() if view.nbytes else np.empty(_now(shape, rows), dtype)


def _write(view, array):
    if view.nbytes:
        np.frombuffer(view, array.dtype).reshape(array.shape)[...] = array


def _no_second(node, g, needs):
    raise TypeError(f"{node.attrs['name']} has no second gradient: its backward is written in NumPy; "
                    "declare its `gradient` in bp operations")


register(Operation("call", "call", lambda inputs, attrs: attrs["call"].infer(inputs, dict(attrs["arguments"])),
                   lambda node, g, needs: node.attrs["call"].gradients(node, g, needs)))
# One run of a backward, which makes several gradients: a node without a value, and one for each gradient beside it.
register(Operation("call_backward", "call", lambda inputs, attrs: ((), None)))
register(Operation("call_gradient", "part", lambda inputs, attrs: (attrs["shape"], attrs["dtype"]), _no_second))


def operation(target=None, *, shape=None, name=None):
    """Make an operation of one's own, from a class with static functions or from a function.

    Parameters
    ----------
    target : class or function
        A class has ``forward(*inputs, **arguments)`` and, for a gradient, either ``backward(g, y, *inputs, **arguments)`` in
        NumPy or ``gradient(g, y, *inputs, **arguments)`` in bp operations; and a ``shape`` where one is needed. A function is the
        forward; its gradient is declared by the decorators ``.backward`` or ``.gradient``.
    shape : callable, optional
        ``shape(*shapes, **arguments)``: the shape of the result from those of the inputs, tuples where -1 is the batch.
        Not given: that of the inputs broadcast.
    name : str, optional

    Returns
    -------
    UserOperation
        Called on tensors, and on keyword arguments that are passed on (numbers, strings, tuples).

    Notes
    -----
    `forward` gets arrays, copies that it may keep, and returns one array of their dtype. `g` is the gradient of the result `y`;
    `backward` returns one gradient for each input, of its shape and dtype. It may return None for an input that is not
    differentiated. Gradients of gradients need a `gradient` in bp operations; through a `backward` in NumPy they are an error.

    The operation runs once in a run of a program, on all of its rows (a prediction runs in chunks), on the calling thread.
    It may use backprop itself. Before anything stored changes, all operations of a step have run: where one raises, nothing is
    lost.

    Examples
    --------
    >>> @bp.operation
    ... class cube:
    ...     def forward(x):
    ...         return x ** 3
    ...     def backward(g, y, x):
    ...         return 3 * g * x ** 2
    >>> net = bp.Sequential([bp.Dense(8, cube), bp.Dense(1)])
    """
    if target is None:
        return lambda target: operation(target, shape=shape, name=name)
    if isinstance(target, type):
        if not hasattr(target, "forward"):
            raise TypeError(f"operation: the class {target.__name__} has no forward(*inputs)")
        op = UserOperation(target.forward, getattr(target, "backward", None), getattr(target, "gradient", None),
                           shape or getattr(target, "shape", None), name or target.__name__)
        op.__doc__ = target.__doc__
        return op
    if not callable(target):
        raise TypeError(f"operation decorates a class or a function, got {target!r}")
    return UserOperation(target, shape=shape, name=name)
