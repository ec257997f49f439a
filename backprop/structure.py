"""Of which layers a network is made: found in its graph, for pictures and tables.

A network keeps a graph of operations and its layers. Where a layer was called is found by making the layer's operations once
more on an input of the same shape and looking for the same operations, on the layer's own parameters, in the graph. So it
also works for a network that was read from a file. What belongs to no layer with parameters stays an operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from .graph import BATCH, REAL, Tensor, ancestors, dim_size, format_shape, source
from .layers import outermost, with_inner


@dataclass(eq=False)
class Block:
    """A layer's call, an operation outside of layers, or a source.

    Attributes
    ----------
    name, kind : str
        Of the layer and its class; an operation and a source have one of them only.
    layer : Layer or None
    node : Tensor or None
        What it puts out; None before the input size is known.
    inputs : list of Block
    shape : tuple of int or None
    sizes : dict
        Elements of each of its parameters, trainable or not: ``{parameter: size}``.
    shared : bool
        The layer stands in the list before.
    """

    name: str
    kind: str
    layer: object
    node: Tensor | None
    inputs: list
    shape: tuple | None
    sizes: dict
    shared: bool = False

    @property
    def count(self):
        return sum(self.sizes.values())

    @property
    def trainable(self):
        return sum(n for p, n in self.sizes.items() if p.layer.trainable)


def blocks(net):
    """The blocks of a network in topological order, and those that it puts out."""
    names = _names(net) if net.built else {}
    if net._sequential:
        return _chain(net, names)
    found = _calls(net)
    made, order = {}, []
    for t in ancestors(net._outputs):
        layer, inputs = found.get(t, (None, t.inputs))
        made[t] = layer, inputs
    needed, stack = set(), list(net._outputs)
    while stack:
        t = stack.pop()
        if t not in needed:
            needed.add(t)
            stack.extend(made[t][1])
    seen, of, sources = set(), {}, {s: p for p, s in net._sources.items()}
    for t in sorted({*needed, *net._inputs}, key=lambda t: t.number):
        layer, inputs = made.get(t, (None, t.inputs))
        if layer is not None:
            sizes = _sizes(layer)
            block = Block(names[layer], type(layer).__name__, layer, t, [of[x] for x in inputs], t.shape, sizes, layer in seen)
            seen.add(layer)
        else:
            own = {sources[t]: dim_size(t.shape)} if t in sources and not sources[t].buffer else {}
            name = (t.name or "") if t.op.kind == "source" else ""
            block = Block(name, "" if t in sources else operation_name(t), None, t, [of[x] for x in inputs], t.shape, own)
        of[t] = block
        order.append(block)
    for block in order:  # a parameter that is also used outside of its layer's calls is counted with the layer
        if block.layer is None:
            block.sizes = {p: n for p, n in block.sizes.items() if outermost(p.layer) not in seen}
    return order, [of[t] for t in net._outputs]


def _chain(net, names):
    x = net._inputs[0] if net.built else None
    order, seen = [], set()
    if x is not None:
        order.append(Block(x.name or "x", "input", None, x, [], x.shape, {}))
        x = source("input", x.shape, _drawn(x.dtype))
    for i, layer in enumerate(net.layers):
        y, sizes = None, {}
        if x is not None:
            y = layer.forward(x)
            sizes = _sizes(layer)
            x = source("input", y.shape, y.dtype)
        order.append(Block(names.get(layer) or layer.name or str(i), type(layer).__name__, layer, y, order[-1:],
                           None if y is None else y.shape, sizes, layer in seen))
        seen.add(layer)
    return order, order[-1:]


def _names(net):
    """{layer: its name in the network}, the outermost ones."""
    names = {}
    for p in [*net._parameters, *net._buffers]:
        layer, name = p.layer, net._names[p][:-len(p.name) - 1]
        while layer._holder is not None:
            holder = layer._holder
            name = name[:-len(layer.name or str(holder.layers.index(layer))) - 1]
            layer = holder
        names[layer] = name
    return names


def _sizes(layer):
    """Elements of each parameter of a layer and of those that it holds; buffers do not count."""
    return {p: dim_size(p.shape) for inner in with_inner({layer: ""}) for p in inner.parameters if not p.buffer}


def _drawn(dtype):
    """The dtype of an input that a layer is made on once more."""
    return "int32" if dtype == "int32" else REAL


def _key(t, parts):
    """What a node does to which nodes; draws are equal where the operation is."""
    attrs = tuple(sorted((k, repr(v)) for k, v in t.attrs.items() if k not in ("key", "dtype")))
    return (t.op.name, attrs, parts)


def _number(t):
    """A number that is known when the graph is made, or when it runs, in a form to compare; None for any other node."""
    return {"constant": ("constant", t.attrs.get("value")), "scalar": ("scalar", t.attrs.get("key"))}.get(t.op.name)


def _calls(net):
    """{output node: (layer, [input node])} for every call of a layer that has parameters."""
    nodes = ancestors(net._outputs)
    same, table = {}, {}  # a number is its value or its name, a node the first that does the same, but for draws
    for t in nodes:
        same[t] = _number(t) or t
        if t.op.kind != "source":
            first = table.setdefault(_key(t, tuple(same[i] for i in t.inputs)), t)
            same[t] = t if "key" in t.attrs else first
    found: dict = {}
    for layer in net.layers:
        templates: dict = {}
        for x in nodes:
            if x.op.name in ("parameter", "constant", "scalar") or x.shape[:1] != (BATCH,) or x.shape[1:] != layer._built_for:
                continue
            dtype = _drawn(x.dtype)
            if dtype not in templates:
                start = source("input", x.shape, dtype)
                templates[dtype] = start, layer.forward(start)
            start, end = templates[dtype]
            there = {start: same[x]}
            for t in ancestors([end]):
                if t is start:
                    continue
                if t.op.name == "parameter":
                    there[t] = net._sources.get(t.attrs["parameter"])
                elif t.op.kind == "source":
                    there[t] = _number(t) or t
                else:
                    there[t] = table.get(_key(t, tuple(there[i] for i in t.inputs)))
                if there[t] is None:
                    break
            if end is not start and isinstance(there.get(end), Tensor):
                found.setdefault(there[end], (layer, [x]))
    return {t: found[same[t]] for t in nodes if same[t] in found}


def operation_name(t) -> str:
    """What a node does, in a word; a user's operation has its own."""
    if "call" in t.attrs:
        return t.name
    return {"strided": t.attrs.get("what"), "reduce": t.attrs.get("kind")}.get(t.op.name, t.op.name)


# ---------------------------------------------------------------- the table

class Summary(str):
    """A table of a network's layers; it is text, and Jupyter shows it as it is."""

    def __repr__(self):
        return str(self)


def summary(net) -> Summary:
    """The table of `Network.summary`."""
    order, outputs = blocks(net)
    rows = [b for b in order if b.layer is not None or not b.sizes and b.kind not in ("constant", "scalar", "data", "parameter")
            or b.sizes]
    label = {}
    for b in rows:
        label[b] = b.name or f"{b.kind}{sum(o.kind == b.kind and not o.name for o in label)}"
    chain = all(b.inputs in ([], [a]) for a, b in zip([None, *rows], rows))
    head = ["name", "type", "output", "parameters", "trainable"] + ([] if chain else ["from"])
    table = []
    for b in rows:
        shape = "?" if b.shape is None else format_shape(b.shape)
        if b.shape is None:
            count, train = "?", "?" if b.layer.trainable else "no"
        elif b.shared:
            count, train = "shared", ""
        else:
            count = f"{b.count:,}" if b.layer is not None or b.sizes else ""
            train = "" if not b.count else "yes" if b.trainable == b.count else "no" if not b.trainable else f"{b.trainable:,}"
        line = [label[b], b.kind or "Parameter", shape, count, train]
        table.append(line + ([] if chain else [", ".join(label[i] for i in b.inputs if i in label)]))
    widths = [max(len(r[i]) for r in [head, *table]) for i in range(len(head))]

    def line(row):
        return "  ".join(c.rjust(w) if i == 3 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
    rule = "-" * len("  ".join("x" * w for w in widths))
    if net.built:
        total = sum(v.size for v in net.parameters.values())
        train = sum(abs(dim_size(p.shape)) for p in net.trainable())
        size = total * int(net.dtype[5:]) // 8
        end = f"{total:,} parameters, {train:,} trainable, {total - train:,} not; {net.dtype}, {size:,} bytes"
    else:
        end = "The input size is not known yet, so neither are shapes and parameters: put bp.Input(size) first, or give it data."
    return Summary("\n".join([f"{type(net).__name__}", line(head), rule, *map(line, table), rule, end]))
