"""Tensors with values: the same way through the house, taken at once.

Reading a tensor's value lowers its graph and runs it. The program is kept under the graph's structure, so the second time
costs only the run: arrays and numbers are inputs of the program, not part of its key (the few numbers that change what a
program is, such as 0 and 1, are). A tensor that was read becomes a source. Denormal numbers are kept here.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict

import numpy as np

from .arrays import check_array
from .autodiff import gradients
from .graph import FLOATS, Tensor, ancestors, data, format_shape, rebuild, scalar, source
from .lower import lower
from .ops import as_tensor

_PROGRAMS: OrderedDict[tuple, "_Compiled"] = OrderedDict()
_LIMIT = 512
_lock = threading.Lock()
_STRUCTURAL = (0.0, 1.0, -1.0, 0.5, 2.0)  # constants by which a graph is simplified
_draws = itertools.count()
_seed = 0


def seed(value: int) -> None:
    """Seed the random numbers of tensors that are evaluated outside of a network."""
    global _seed, _draws
    _seed, _draws = int(value) & (2**64 - 1), itertools.count()


def tensor(value, requires_grad=False, dtype=None, name=None) -> Tensor:
    """A tensor that holds a copy of an array.

    Parameters
    ----------
    value : array_like of real numbers
    requires_grad : bool
        Whether ``backward()`` leaves a gradient here.
    dtype : {"float32", "float64", "int32"}, optional
        float32 and float64 arrays keep their dtype; anything else becomes float64, as in NumPy.
    name : str, optional

    Returns
    -------
    Tensor
    """
    if isinstance(value, Tensor):
        value = value.value
    if dtype is None:
        own = getattr(value, "dtype", None)
        dtype = own.name if own is not None and getattr(own, "name", None) in FLOATS else "float64"
    dtype = np.dtype(dtype).name
    if dtype not in (*FLOATS, "int32"):
        raise TypeError(f"dtype must be float32, float64 or int32, got {dtype}")
    if requires_grad and dtype == "int32":
        raise TypeError("integers have no gradient: requires_grad needs a float dtype")
    array = check_array("value", value, dtype, empty=True)
    return data(np.array(array, copy=True, order="C"), requires_grad, name)


class _Compiled:
    """A plan and the bindings that nobody is using."""

    def __init__(self, plan, sources, scalars):
        self.plan, self.sources, self.scalars = plan, sources, scalars
        self.free: list = []

    def run(self, arrays, numbers):
        """`arrays` in the order of `sources`, `numbers` by scalar name; returns the outputs."""
        plan = self.plan
        try:
            binding = self.free.pop()
        except IndexError:
            binding = plan.binding()
        dtype = plan.constants.dtype
        position = {id(s): i for i, s in enumerate(self.sources)}
        for i, s in enumerate(plan.inputs):
            binding.set(plan.spaces[f"input {i}"], arrays[position[id(s)]])
        if plan.scalars:
            binding.set(plan.spaces["scalars"], np.array([numbers[k] for k in plan.scalars], dtype=dtype))
        results = []
        for i, t in enumerate(plan.outputs):
            out = np.empty(t.shape, dtype=t.dtype or dtype)
            binding.set(plan.spaces[f"output {i}"], out)
            results.append(out)
        status, _, value, limit = binding.run(1, 0, -1, _seed, next(_draws), 0, False, 0)
        for i in range(len(plan.inputs)):
            binding.clear(plan.spaces[f"input {i}"])
        for i in range(len(results)):
            binding.clear(plan.spaces[f"output {i}"])
        self.free.append(binding)
        if status == 3:
            raise IndexError(f"row {value} is out of range for {limit} rows")
        return results


def _sources_first(outputs):
    """Ancestors of `outputs` down to the nodes that have a value already."""
    seen, stack, nodes = set(), list(outputs), []
    while stack:
        t = stack.pop()
        if t not in seen:
            seen.add(t)
            nodes.append(t)
            if t._array is None:
                stack.extend(t.inputs)
    nodes.sort(key=lambda t: t.number)
    return nodes


def _compile(outputs, dtype):
    """The program of a graph, from the cache where its structure was met before; and its inputs and numbers."""
    nodes = _sources_first(outputs)
    index, key, arrays, numbers, draws = {}, [dtype], [], {}, {}
    for i, t in enumerate(nodes):
        index[t] = i
        if t._array is not None:
            arrays.append(t)
            key.append((t.shape, t.dtype))
        elif t.op.name == "constant":
            value = t.attrs["value"]
            if value in _STRUCTURAL:
                key.append(str(value))
            else:
                numbers[f"c{i}"] = value
                key.append("c")
        elif t.op.kind == "source":
            raise ValueError(f"{t.name or t.op.name} of shape {format_shape(t.shape)} has no value: it is an input of a network")
        else:
            attrs = {k: v for k, v in t.attrs.items() if k != "key"}
            if "key" in t.attrs:
                attrs["draw"] = draws.setdefault(t.attrs["key"], len(draws))
            key.append((t.op.name, tuple(sorted(attrs.items())), tuple(index[x] for x in t.inputs)))
    key.append(tuple(index[t] for t in outputs))
    key = tuple(key)
    with _lock:
        compiled = _PROGRAMS.get(key)
        if compiled is not None:
            _PROGRAMS.move_to_end(key)
    if compiled is None:
        replace = {}
        for i, t in enumerate(nodes):
            if t._array is not None:
                replace[t] = source("input", t.shape, t.dtype, t.name)
            elif f"c{i}" in numbers:
                replace[t] = scalar(f"c{i}")
        new, _ = rebuild(outputs, replace)
        compiled = _Compiled(lower(new, dtype), [replace[t] for t in arrays], list(numbers))
        with _lock:
            _PROGRAMS[key] = compiled
            while len(_PROGRAMS) > _LIMIT:
                _PROGRAMS.popitem(last=False)
    return compiled, arrays, numbers


def evaluate(outputs) -> list[np.ndarray]:
    """Values of several tensors in one run. What was read becomes a source."""
    todo = [t for t in dict.fromkeys(outputs) if t._array is None]
    if todo:
        nodes = _sources_first(todo)
        # What draws, or runs a user's code, does so once: later evaluations see the same value.
        todo += [t for t in nodes if t.op.name in ("random", "call") and t._array is None and t not in outputs]
        kinds = {t.dtype for t in nodes if t.dtype in FLOATS}
        if len(kinds) > 1:
            raise TypeError("float32 and float64 tensors do not mix; convert one with bp.tensor(x, dtype=...)")
        compiled, arrays, numbers = _compile(todo, kinds.pop() if kinds else "float64")
        for t, value in zip(todo, compiled.run([s._array for s in arrays], numbers)):
            t._array = value
    return [t._array for t in outputs]


# ---------------------------------------------------------------- methods of Tensor

def _value(t):
    """The tensor's value, a read-only view of an array of its own."""
    view = evaluate([t])[0].view()
    view.flags.writeable = False
    return view


def _item(t):
    """The value of a tensor with one element, as a Python number."""
    return t.value.item()


def _backward(t, gradient=None):
    """Add the gradient of this tensor to ``.grad`` of every source that asked for one (``requires_grad=True``).

    Parameters
    ----------
    gradient : array_like, optional
        Upstream gradient, of the tensor's shape. 1 where not given; then the tensor must have one element.
    """
    if gradient is None and t.size != 1:
        raise ValueError(f"backward() of a tensor of shape {format_shape(t.shape)} needs a gradient of that shape")
    leaves = [s for s in ancestors([t]) if s.requires_grad and s.op.kind == "source"]
    if not leaves:
        raise ValueError("nothing here asked for a gradient: make a source with requires_grad=True")
    up = None if gradient is None else [as_tensor(check_array("gradient", gradient, t.dtype or "float64", empty=True))]
    for leaf, g in zip(leaves, evaluate(gradients([t], leaves, up) if up else gradients([t], leaves))):
        leaf.grad = g.copy() if leaf.grad is None else leaf.grad + g


def _array(t, dtype=None, copy=None):
    return np.array(t.value, dtype=dtype, copy=True if copy else None)


Tensor.value = property(_value)
Tensor.item = _item
Tensor.backward = _backward
Tensor.__array__ = _array
Tensor.__float__ = lambda t: float(t.item())
Tensor.__array_ufunc__ = None


# ---------------------------------------------------------------- nests of arrays

def _flatten(nest):
    """Leaves of nested lists, tuples and dicts, and a function that puts others in their place."""
    if isinstance(nest, dict):
        keys = list(nest)
        parts = [_flatten(nest[k]) for k in keys]
        make = dict
    elif isinstance(nest, (list, tuple)) and not hasattr(nest, "_fields") and any(
            isinstance(v, (list, tuple, dict, np.ndarray, Tensor)) for v in nest):
        keys, parts, make = None, [_flatten(v) for v in nest], type(nest)
    else:
        return [nest], lambda leaves: leaves[0]

    def unflatten(leaves):
        out, at = [], 0
        for own, build in parts:
            out.append(build(leaves[at:at + len(own)]))
            at += len(own)
        return make(zip(keys, out)) if make is dict else make(out)
    return [v for own, _ in parts for v in own], unflatten


def grad(f: Tensor, xs) -> list[Tensor]:
    """Gradients of the sum of `f` with respect to tensors, as tensors: they can be differentiated again.

    Parameters
    ----------
    f : Tensor
    xs : Tensor or sequence of Tensor

    Returns
    -------
    Tensor, or list of Tensor as `xs` is one
    """
    if not isinstance(f, Tensor):
        raise TypeError(f"f must be a Tensor, got {type(f).__name__}")
    single = isinstance(xs, Tensor)
    out = gradients([f], [xs] if single else list(xs))
    return out[0] if single else out


def value_and_grad(fn):
    """A function that returns ``(fn(*args), gradients)``, the gradients in the nest of the first argument.

    `fn` maps tensors to a tensor with one element; the first argument may be any nest (dict, list, tuple) of arrays.
    """
    def run(first, *rest):
        leaves, unflatten = _flatten(first)
        tensors = [tensor(v) for v in leaves]
        y = fn(unflatten(tensors), *rest)
        if not isinstance(y, Tensor) or y.size != 1:
            raise TypeError("value_and_grad needs a function that returns a tensor with one element, got "
                            + (format_shape(y.shape) if isinstance(y, Tensor) else type(y).__name__))
        value, *grads = evaluate([y, *gradients([y], tensors)])
        return value.item(), unflatten([np.asarray(g) for g in grads])
    return run


def compile(fn):
    """`fn` traced once for each combination of shapes and dtypes, then run as one program: arrays in, arrays out."""
    if not callable(fn):
        raise TypeError(f"fn must be a function, got {fn!r}")
    cache = {}

    def run(*args):
        leaves, unflatten = _flatten(args)
        arrays = [np.ascontiguousarray(a if getattr(a, "dtype", None) is not None and a.dtype.name in (*FLOATS, "int32")
                                       else np.asarray(a, dtype="float64")) for a in leaves]
        key = tuple((a.shape, a.dtype.name) for a in arrays)
        if key not in cache:
            inputs = [source("input", a.shape, a.dtype.name) for a in arrays]
            outputs, rebuild_outputs = _flatten(fn(*unflatten(inputs)))
            outputs = [as_tensor(t) for t in outputs]
            kinds = {a.dtype.name for a in arrays if a.dtype.name in FLOATS} or {"float64"}
            if len(kinds) > 1:
                raise TypeError("float32 and float64 arrays do not mix in one compiled function")
            held = [t for t in ancestors(outputs) if t._array is not None]
            cache[key] = (_Compiled(lower(outputs, kinds.pop()), [*inputs, *held], []), held, rebuild_outputs)
        compiled, held, rebuild_outputs = cache[key]
        return rebuild_outputs(compiled.run([*arrays, *(t._array for t in held)], {}))
    return run
