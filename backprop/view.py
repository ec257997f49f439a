"""Pictures: computation graphs with every value and gradient, networks as boxes, learning curves, gradient norms.

>>> x, y, z = (bp.tensor(v, name=n) for v, n in ((1.0, "x"), (2.0, "y"), (0.0, "z")))
>>> bp.view.graph((x + y) * bp.maximum(y, z)).save("f.svg")

A graph is drawn as the lecture draws it: operations are circles, sources stand to the left of what reads them, the value stands
above each edge and the gradient that comes back along it below. The operands of operations for which their order matters arrive
from top to bottom.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter

import numpy as np

from .autodiff import gradients as _gradients
from .charts import Gradients, curves, gradients
from .drawing import FAINT, GRADIENT, INK, LINE, PAPER, VALUE, Path, Picture, Rect, Text, clean, text_width
from .eager import evaluate, tensor
from .graph import FLOATS, Tensor, ancestors, format_shape
from .layered import Cell, Edge, layout
from .network import Network
from .structure import blocks, operation_name

__all__ = ["Gradients", "Picture", "curves", "graph", "gradients"]

_SYMBOLS = {"add": "+", "sub": "\u2212", "mul": "*", "div": "/", "neg": "\u2212", "maximum": "max", "minimum": "min",
            "sigmoid": "\u03c3", "matmul": "@", "pow": "^", "square": "x\u00b2", "sqrt": "\u221a", "lt": "<", "le": "\u2264",
            "eq": "=", "ne": "\u2260"}
_COMMUTATIVE = {"add", "mul", "maximum", "minimum", "eq", "ne"}
_MARGIN = 16.0
_SIZE = 12.0


def graph(f, *args, gradients=True, digits=4, max_nodes=200, title=None) -> Picture:
    """A picture of a computation graph or of a network.

    Parameters
    ----------
    f : Tensor, Network, or callable
        A function is called with `args`, and its parameters' names stand at the sources.
    *args : array_like or Tensor
        Of a function.
    gradients : bool
        The gradient of `f` (of its sum, where it has several elements) below each edge: what comes back along it. Where a
        value is used more than once their sum stands below its node. Where tensors ask for gradients (``requires_grad=True``)
        only what lies on the way from them to `f` has one.
    digits : int
        Significant digits.
    max_nodes : int
        A larger graph is refused.
    title : str, optional

    Returns
    -------
    Picture
        Arrays of at most 4 elements as numbers, larger ones as shape and Euclidean norm; for a network (or a tensor that
        rests on ``bp.Input``) shapes. Of a name with more than 60 characters the middle is left out.

    Raises
    ------
    ValueError
        The graph is too large to be read, or a network's input size is not known yet and it has no layers.
    TypeError
        `f` is something else, or a gradient is asked for through an operation that has none.

    Notes
    -----
    The value of every node is read, as by ``.value``: they stay in memory as long as the graph, and random nodes have drawn.
    """
    for name, value in (("digits", digits), ("max_nodes", max_nodes)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if isinstance(f, Network):
        if args:
            raise TypeError("graph() of a network takes no further arguments")
        return _network(f, max_nodes, title)
    names: dict[Tensor, str] = {}
    if not isinstance(f, Tensor):
        if not callable(f):
            raise TypeError(f"f must be a Tensor, a Network or a function, got {type(f).__name__}")
        f = _trace(f, args, names)
    elif args:
        raise TypeError("further arguments are those of a function, and f is a Tensor")
    nodes = ancestors([f])
    _refuse_large(len(nodes), max_nodes)
    values, sums, arcs = _numbers(f, nodes, gradients)
    return _tensor_picture(f, nodes, names, values, sums, arcs, int(digits), title)


def _refuse_large(n, max_nodes):
    if n > max_nodes:
        raise ValueError(f"graph: {n:,} nodes are more than max_nodes={max_nodes} and could hardly be read. Draw a part of it "
                         "(the graph of a tensor nearer to the sources), a network as layers (bp.view.graph(net)), or raise "
                         "max_nodes")


def _trace(f, args, names):
    """f(*args) as a tensor, and the names of its arguments."""
    try:
        signature = inspect.signature(f)
    except ValueError:  # a builtin that does not tell
        pairs = [(f"x{i}", a) for i, a in enumerate(args)]
    else:
        try:
            bound = signature.bind(*args).arguments
        except TypeError as e:
            raise TypeError(f"graph: the function {getattr(f, '__name__', f)!r} cannot take these arguments: {e}") from None
        pairs = []
        for name, value in bound.items():
            several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            pairs += [(f"{name}{i}", v) for i, v in enumerate(value)] if several else [(name, value)]
    tensors = []
    for name, value in pairs:
        t = value if isinstance(value, Tensor) else tensor(value)
        names.setdefault(t, t.name or name)
        tensors.append(t)
    y = f(*tensors)
    if not isinstance(y, Tensor):
        raise TypeError(f"graph: the function must return a Tensor, got {type(y).__name__}")
    return y


# ---------------------------------------------------------------- values and gradients

def _numbers(f, nodes, want):
    """{node: value}, {node: gradient}, {(node, i): gradient of that arc}; all empty where a source has no value."""
    own = [t for t in nodes if t.op.name not in ("constant", "call_backward")]  # the latter has no value
    if any(t.op.kind == "source" and t._array is None for t in own):
        return {}, {}, {}
    arcs: dict = {}
    sums: dict = {}
    if want and f.dtype in FLOATS:
        leaves = [t for t in nodes if t.op.kind == "source" and t.dtype in FLOATS]
        asked = [t for t in leaves if t.requires_grad] or leaves
        _gradients([f], asked, arcs=arcs)
        found = {t.inputs[i] for t, i in arcs}
        between = [t for t in nodes if t in found]
        arcs = {}
        sums = dict(zip(between, _gradients([f], between, arcs=arcs)))
        sums.setdefault(f, _gradients([f], [f])[0])
    evaluate([*own, *sums.values(), *arcs.values()])
    values = {t: t._array for t in own}
    values.update({t: np.asarray(t.attrs["value"]) for t in nodes if t.op.name == "constant"})
    return values, {t: g._array for t, g in sums.items()}, {k: g._array for k, g in arcs.items()}


def _number(v, digits):
    if isinstance(v, (int, np.integer)):
        return str(v)
    v = float(v)
    return "0" if v == 0 else f"{v:.{digits}g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "\u2212")


def _nest(a, digits):
    return "[" + ", ".join(_nest(v, digits) for v in a) + "]" if isinstance(a, list) else _number(a, digits)


def _show(a, digits, shape=True):
    """An array in few characters: its numbers, or shape and norm. A gradient has the shape of its value: `shape` False."""
    if a.size <= 4:
        return _nest(a.tolist(), digits) if a.size else f"empty {format_shape(a.shape)}"
    if a.dtype.kind in "iu":
        return f"{format_shape(a.shape)} {a.dtype}"
    norm = _number(math.sqrt(float(np.square(a, dtype="float64").sum())), digits)
    return f"{format_shape(a.shape)} norm {norm}" if shape else f"norm {norm}"


def _label(t):
    """What stands in a node's circle."""
    if t.op.name == "matmul" and (t.attrs["ta"] or t.attrs["tb"]):
        return f"A{chr(0x1d40) * t.attrs['ta']} @ B{chr(0x1d40) * t.attrs['tb']}"
    name = operation_name(t)
    return clean(name) if "call" in t.attrs else _SYMBOLS.get(name, name.replace("_", " "))


def _source_names(nodes, names, digits):
    """A name for every source: its own, or x1, x2 ..."""
    taken = {t.name for t in nodes} | set(names.values())
    out, i = {}, 0
    for t in nodes:
        if t.op.kind != "source":
            continue
        if t.op.name == "constant":
            out[t] = _number(t.attrs["value"], digits)
        elif names.get(t) or t.name:
            out[t] = clean(names.get(t) or t.name)
        else:
            i += 1
            while f"x{i}" in taken:
                i += 1
            out[t] = f"x{i}"
    return out


# ---------------------------------------------------------------- the lecture's picture

def _round(text, lines):
    """The cell of a circle, or of a longer shape with round ends, around `text`, with `lines` of text below it."""
    width = max(34.0, text_width(text, _SIZE + 1) + 18)
    return Cell(length=width, before=17.0, after=17.0 + 15 * lines)


def _edge_cell(above, below):
    width = max((text_width(s, _SIZE) for s in (above, below) if s), default=0.0)
    return Cell(length=width + 10 if width else 0.0, before=17.0 if above else 6.0, after=16.0 if below else 6.0)


def _tensor_picture(f, nodes, names, values, sums, arcs, digits, title):
    source_names = _source_names(nodes, names, digits)
    drawn, number, arguments = [], {}, {}  # a constant is drawn beside each of its uses, anything else once
    for t in nodes:
        if t.op.name == "constant" and t is not f:
            continue
        arguments[t] = []
        for x in t.inputs:
            if x.op.name == "constant":
                number[x] = len(drawn)
                drawn.append(x)
            arguments[t].append(number[x])
        number[t] = len(drawn)
        drawn.append(t)
    uses = Counter(x for t in nodes for x in t.inputs) + Counter([f])
    total = {t: f"\u03a3 {_show(sums[t], digits, shape=False)}" for t in nodes if uses[t] > 1 and t in sums}
    cells = []
    for t in drawn:
        if t in source_names:
            width = max(text_width(source_names[t], _SIZE + 1, True), text_width(total.get(t, ""), _SIZE))
            cells.append(Cell(length=width + 6, before=10.0, after=10.0 + 15 * (t in total), flush=True))
        else:
            cell = _round(_label(t), t in total)
            cell.length = max(cell.length, text_width(total.get(t, ""), _SIZE))
            cell.ordered = t.op.name not in _COMMUTATIVE
            cells.append(cell)
    end = clean(names.get(f) or (None if f.op.kind == "source" or "call" in f.attrs else f.name) or "f")
    cells.append(Cell(length=text_width(end, _SIZE + 1, True) + 4, before=10.0, after=10.0))

    def above(t):
        if t.op.name == "constant":
            return ""
        if values:
            return _show(values[t], digits) if t in values else ""
        return "" if t.dtype is None else format_shape(t.shape)
    edges, shown = [], []
    for t in arguments:
        for i, x in enumerate(t.inputs):
            shown.append((above(x), _show(arcs[t, i], digits, shape=False) if (t, i) in arcs else ""))
            edges.append(Edge(arguments[t][i], number[t], _edge_cell(*shown[-1])))
    shown.append((above(f), _show(sums[f], digits, shape=False) if f in sums else ""))
    edges.append(Edge(number[f], len(drawn), _edge_cell(*shown[-1])))
    width, height = layout(cells, edges)

    items: list = []
    radius = 17.0
    for e, (value, grad) in zip(edges, shown):
        a, b = cells[e.source], cells[e.target]
        start = a.along + (a.length / 2 if drawn[e.source] in source_names else _half(drawn[e.source], radius))
        if e.target == len(drawn):
            stop = b.along - b.length / 2
        else:
            half = _half(drawn[e.target], radius)
            stop = b.along - half + radius - math.sqrt(radius**2 - e.port**2)
        _route(items, (start, a.across), [*e.cells], (stop, b.across + e.port), a.end, b.start)
        middle = (e.label.start + e.label.end) / 2
        if value:
            items.append(Text(middle, e.label.across - 5, value, VALUE, _SIZE, tip=_exact(values.get(drawn[e.source]))))
        if grad:
            items.append(Text(middle, e.label.across + 13.5, grad, GRADIENT, _SIZE))
    for t, cell in zip(drawn, cells):
        if t in source_names:
            items.append(Text(cell.along + cell.length / 2 - 3, cell.across + 4.5, source_names[t], INK, _SIZE + 1, "end",
                              t.op.name != "constant"))
            if t in total:
                items.append(Text(cell.along + cell.length / 2 - 3, cell.across + 20, total[t], GRADIENT, _SIZE, "end"))
            continue
        half = _half(t, radius)
        items.append(Rect(cell.along - half, cell.across - radius, 2 * half, 2 * radius, radius))
        items.append(Text(cell.along, cell.across + 4.8, _label(t), INK, _SIZE + 1))
        if t in total:
            items.append(Text(cell.along, cell.across + radius + 12.5, total[t], GRADIENT, _SIZE))
    items.append(Text(cells[-1].along + cells[-1].length / 2, cells[-1].across + 4.5, end, INK, _SIZE + 1, "end", True))
    legend = [("value above the edge" if values else "shape above the edge", VALUE)] if any(v for v, _ in shown) else []
    legend += [("gradient below it", GRADIENT)] if sums else []
    legend += [("\u03a3 sum of the gradients of several edges", GRADIENT)] if total else []
    described = "; ".join(f"{source_names.get(t) or _label(t)}" + (f" = {_show(values[t], digits)}" if t in values else "") + (
        f", gradient {_show(sums[t], digits)}" if t in sums else "") for t in nodes if t.op.name != "constant")
    return _finish(items, width, height, title or f"computation graph of {end}", described, legend)


def _exact(a):
    return "" if a is None or a.size > 4 else str(a.tolist())


def _half(t, radius):
    return max(radius, text_width(_label(t), _SIZE + 1) / 2 + 9)


def _route(items, start, cells, stop, left, right, down=False):
    """A line from node to node through its cells: straight in the columns, curved in the gaps, with an arrowhead. `left` and
    `right` are where the columns of its ends begin and end. Points are (along, across)."""
    straight = [(start, (max(left, start[0]), start[1]))]
    straight += [((c.start, c.across), (c.end, c.across)) for c in cells if c.end > c.start]
    straight.append(((min(right, stop[0] - 8), stop[1]), (stop[0] - 5, stop[1])))
    points = [start]
    for k, (a, b) in enumerate(straight):
        if k:
            bend = (points[-1][0] + a[0]) / 2
            points += [(bend, points[-1][1]), (bend, a[1]), a]
        points += [a, b, b]
    x, y = stop
    head = [(x - 7, y - 3.5), (x, y), (x - 7, y + 3.5)]
    turn = (lambda p: (p[1], p[0])) if down else (lambda p: p)
    items.append(Path([turn(p) for p in points], LINE, curve=True))
    items.append(Path([turn(p) for p in head], None, LINE, width=0))


def _finish(items, width, height, title, description, legend=()):
    """Move everything off the border, and put the legend below."""
    entries, x = [], _MARGIN
    row = _MARGIN + height + 26
    wide = max([width] + [text_width(s, _SIZE - 1) for s, _ in legend])
    for text, color in legend:
        w = text_width(text, _SIZE - 1)
        if entries and x + w > _MARGIN + wide:
            x, row = _MARGIN, row + 17
        entries.append(Text(x, row, text, color, _SIZE - 1, "start"))
        x += w + 16
    for item in items:
        if isinstance(item, Path):
            item.points = [(x + _MARGIN, y + _MARGIN) for x, y in item.points]
        else:
            item.x, item.y = item.x + _MARGIN, item.y + _MARGIN
    bottom = row + 4 if entries else _MARGIN + height
    return Picture([*items, *entries], wide + 2 * _MARGIN, bottom + 12, title, description)


# ---------------------------------------------------------------- networks

def _box_lines(block, built):
    """What stands in a layer's box: (text, colour, bold)."""
    layer = block.layer
    kind = block.kind
    detail = layer.config()
    for key in ("activation", "rate"):
        if isinstance(detail.get(key), (str, float)):
            kind += f", {detail[key]}" if key == "activation" else f" {detail[key]:g}"
    lines = [(clean(block.name), INK, True), (clean(kind), INK, False)]
    if not built:
        return [*lines, ("shape not known yet", FAINT, False)]
    lines.append((format_shape(block.shape), VALUE, False))
    if block.shared:
        lines.append(("shared: the same parameters", FAINT, False))
    elif block.count:
        fixed = block.count - block.trainable
        frozen = ", frozen" if fixed == block.count else f", {fixed:,} frozen" if fixed else ""
        lines.append((f"{block.count:,} parameters{frozen}", FAINT, False))
    return lines


def _network(net, max_nodes, title):
    """Layers as boxes from top to bottom, operations outside of layers as circles."""
    order, outputs = blocks(net)
    if not order:
        raise ValueError("graph: the network has no layers")
    _refuse_large(len(order), max_nodes)
    number = {b: i for i, b in enumerate(order)}
    texts, cells = [], []
    for b in order:
        if b.layer is not None:
            lines = _box_lines(b, net.built)
        elif b.kind == "constant":
            lines = [(_number(b.node.attrs["value"], 4), INK, False)]
        elif b.node.op.kind == "source":
            lines = [(clean(b.name or b.kind), INK, True)]
            lines += [(format_shape(b.shape), VALUE, False)] if b.node.dtype is not None else []
            lines += [(f"{b.count:,} parameters", FAINT, False)] if b.sizes else []
        else:
            lines = [(_label(b.node), INK, False)]
        texts.append(lines)
        wide = max(text_width(s, _SIZE, bold) for s, _, bold in lines)
        if b.node is None or b.layer is not None or b.node.op.kind == "source":
            cell = Cell(length=16.0 * len(lines) + 12, before=wide / 2 + 10, after=wide / 2 + 10, ports=24.0)
        else:
            half = max(17.0, wide / 2 + 9)
            beside = text_width(format_shape(b.shape), _SIZE) + 6
            cell = Cell(length=34.0, before=half, after=half + beside)
        cell.ordered = b.layer is None and b.kind not in _COMMUTATIVE
        cells.append(cell)
    edges = [Edge(number[x], number[b], Cell()) for b in order for x in b.inputs]
    many = len(outputs) > 1
    for i, b in enumerate(outputs):
        texts.append([(f"output {i}" if many else "output", INK, True)])
        wide = text_width(texts[-1][0][0], _SIZE, True) / 2 + 4
        cells.append(Cell(length=18.0, before=wide, after=wide))
        edges.append(Edge(number[b], len(cells) - 1, Cell()))
    length, across = layout(cells, edges, gap=13.0, space=18.0)

    items: list = []
    for e in edges:
        a, b = cells[e.source], cells[e.target]
        lift = 0.0
        if e.target < len(order) and _is_circle(order[e.target]) and b.before == 17.0:
            lift = 17.0 - math.sqrt(17.0**2 - e.port**2)
        stop = b.along - b.length / 2 + lift, b.across + e.port
        _route(items, (a.along + a.length / 2, a.across), e.cells, stop, a.end, b.start, down=True)
    for b, cell, lines in zip([*order, *[None] * len(outputs)], cells, texts):
        top = cell.along - cell.length / 2
        if b is not None and _is_circle(b):
            items.append(Rect(cell.across - cell.before, top, 2 * cell.before, 34.0, 17.0))
            items.append(Text(cell.across, cell.along + 4.5, lines[0][0], INK, _SIZE))
            items.append(Text(cell.across + cell.before + 5, cell.along + 4.5, format_shape(b.shape), VALUE, _SIZE, "start"))
            continue
        if b is not None and b.layer is not None:
            items.append(Rect(cell.across - cell.before, top, cell.before + cell.after, cell.length, 6.0, dash=b.shared))
        elif b is not None:
            items.append(Rect(cell.across - cell.before, top, cell.before + cell.after, cell.length, 6.0, fill=PAPER))
        for i, (s, color, bold) in enumerate(lines):
            items.append(Text(cell.across, top + 6 + 16 * i + 12, s, color, _SIZE, "middle", bold) if b is not None else
                         Text(cell.across, top + 13, s, color, _SIZE, "middle", bold))
    origin = [f" from {', '.join(x.name or x.kind for x in b.inputs)}" if b.inputs else "" for b in order]
    described = "; ".join(" ".join(s for s, _, _ in lines) + o for o, lines in zip(origin, texts))
    total = f", {sum(v.size for v in net.parameters.values()):,} parameters" if net.built else ""
    return _finish(items, across, length, title or f"{type(net).__name__} of {len(order)} blocks{total}", described)


def _is_circle(block):
    return block.layer is None and block.node.op.kind != "source"
