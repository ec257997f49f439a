"""First half of the lowering: the graph in primitive operations, with nothing in it twice.

`simplify` expands composites, folds constants, drops multiplications by one, reads through broadcasts that an elementwise
operation performs anyway, and gives equal nodes one representative. Random nodes are one only where their key is one. What it
does depends on the graph alone, so it never depends on what is fused later: every rounding stays where the graph has it.
"""

from __future__ import annotations

import math
import operator

from . import ops
from .graph import Tensor, apply, broadcast, constant, dim_size

_FOLD = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg,
         "div": lambda a, b: a / b if b else math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)}


def simplify(outputs) -> list[Tensor]:
    """The same outputs over primitive, shared nodes."""
    table: dict[tuple, Tensor] = {}
    done: dict[Tensor, Tensor] = {}
    _walk(outputs, done, table)
    return [done[t] for t in outputs]


def _walk(outputs, done, table):
    for t in _unseen(outputs, done):
        inputs = [done[i] for i in t.inputs]
        if t.op.expand is not None:
            key = _key(t, inputs)
            if key not in table:  # equal composites are expanded once
                inner = t.op.expand(inputs, t.attrs, False) if t.op.by_mode else t.op.expand(inputs, t.attrs)
                if inner not in done:
                    _walk([inner], done, table)
                table[key] = done[inner]
            done[t] = table[key]
            continue
        r = _reduced(t, inputs)
        if r is not None:
            if r not in done:
                _walk([r], done, table)
            done[t] = done[r]
            continue
        r = t if all(map(operator.is_, inputs, t.inputs)) else apply(t.op.name, inputs, t.attrs, t.name)
        key = _key(r, r.inputs)
        done[t] = r = table.setdefault(key, r)
        done[r] = r


def _unseen(outputs, done):
    """Ancestors of `outputs` that have no representative yet, in topological order."""
    seen, stack, nodes = set(), list(outputs), []
    while stack:
        t = stack.pop()
        if t in seen or t in done:
            continue
        seen.add(t)
        nodes.append(t)
        stack.extend(t.inputs)
    nodes.sort(key=lambda t: t.number)
    return nodes


def _key(t, inputs):
    if t.op.kind == "source":
        if t.op.name == "constant":
            value = t.attrs["value"]
            return ("constant", value, math.copysign(1.0, value)) if value == value else ("constant", "nan")
        return ("scalar", t.attrs["key"]) if t.op.name == "scalar" else t
    if not t.attrs:
        return t.op.name, tuple(inputs)
    return (t.op.name, tuple(inputs), tuple(sorted((k, v) for k, v in t.attrs.items() if k != "key")), t.attrs.get("key"))


def _is(t, value):
    return t.op.name == "constant" and t.attrs["value"] == value


def _repeats(t):
    return t.op.name == "strided" and t.attrs["what"] == "broadcast_to"


def _reduced(t, inputs):
    """A simpler node of the same value and shape, or None."""
    if t.op.kind == "view":
        x = inputs[0]
        if _repeats(x) and dim_size(x.inputs[0].shape) == 1:
            return ops.broadcast_to(ops.reshape(x.inputs[0], ()), t.shape)
        if x.op.kind == "view":
            x = x.inputs[0]
        if x.shape == t.shape:
            return x
        if x is not t.inputs[0]:
            return apply("reshape", [x], {"shape": t.shape})
        return None
    if _repeats(t) and _repeats(inputs[0]):
        return ops.broadcast_to(inputs[0].inputs[0], t.shape)
    if t.op.name == "softmax_cross_entropy_gradient" and _repeats(inputs[2]) and dim_size(inputs[2].inputs[0].shape) == 1:
        return apply(t.op.name, inputs[:2] + [inputs[2].inputs[0]])
    if t.op.kind != "map":
        return None
    # Operands that are repeated anyway need no copy that repeats them.
    for i, x in enumerate(inputs):
        if _repeats(x):
            trial = inputs[:i] + [x.inputs[0]] + inputs[i + 1:]
            if broadcast(t.op.name, trial) == t.shape:
                inputs[i] = x.inputs[0]
    # What is the same all over is computed once, and repeated after.
    if any([_repeats(x) for x in inputs]) and all(_repeats(x) or dim_size(x.shape) == 1 for x in inputs):
        small = [x.inputs[0] if _repeats(x) else x for x in inputs]
        if dim_size(broadcast(t.op.name, small)) == 1 and dim_size(t.shape) != 1:
            return ops.broadcast_to(apply(t.op.name, small, t.attrs), t.shape)
    name = t.op.name
    if name not in _FOLD:
        return None
    if all([x.op.name == "constant" for x in inputs]):
        return constant(_FOLD[name](*(x.attrs["value"] for x in inputs)))
    if name in ("mul", "div") and _is(inputs[1], 1.0) and inputs[0].shape == t.shape:
        return inputs[0]
    if name == "mul" and _is(inputs[0], 1.0) and inputs[1].shape == t.shape:
        return inputs[1]
    return None
