"""Primitive operations: one row in the table, one gradient rule each.

Each gradient rule is written with the same operations, so gradients of gradients come for free. `g` is the upstream
gradient, of the shape of the node; a rule returns one downstream gradient for each input. Where an input was broadcast,
its gradient is summed over the broadcast axes (`_like`), because gradients sum where a value is used more than once.

Conventions at kinks: ``maximum`` and ``minimum`` give a tie to their second argument, so ``relu'(0) = 0``; ``max`` over an
axis shares a tie equally; ``abs'(0) = 0``. Comparisons give 0 or 1 and have no gradient: asking for one is an error.
"""

from __future__ import annotations

import builtins
import operator

import numpy as np

from . import _core
from .errors import ShapeError
from .graph import (BATCH, FLOATS, Operation, Tensor, apply, broadcast, common_dtype, constant, contiguous, data, dim_size,
                    format_shape, register)


def as_tensor(x, like: Tensor | None = None) -> Tensor:
    """`x` as a tensor: a tensor as it is, a number as a constant, anything array-like as a copied source."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, (bool, int, float, np.bool_, np.integer, np.floating)) and not isinstance(x, np.ndarray):
        return constant(x)
    a = np.array(x)
    if a.dtype.kind not in "biuf":
        raise TypeError(f"expected real numbers, got an array of dtype {a.dtype}")
    if a.dtype.name not in FLOATS:
        a = a.astype("float64")
    if like is not None and like.dtype in FLOATS:
        a = a.astype(like.dtype, copy=False)
    return data(np.ascontiguousarray(a))


def _tensors(xs):
    """Operands of one operation; arrays take the dtype of the tensors beside them."""
    if all([isinstance(x, Tensor) for x in xs]):
        return list(xs)
    like = next((x for x in xs if isinstance(x, Tensor) and x.dtype in FLOATS), None)
    return [as_tensor(x, like) for x in xs]


def _like(g: Tensor, x: Tensor) -> Tensor:
    """`g` summed over the axes along which `x` was broadcast."""
    if g.shape == x.shape:
        return g
    extra = g.ndim - x.ndim
    axes = [i for i in range(g.ndim) if i < extra or (x.shape[i - extra] == 1 and g.shape[i] != 1)]
    if axes:
        g = sum(g, tuple(axes))
    return g if g.shape == x.shape else reshape(g, x.shape)


# ---------------------------------------------------------------- elementwise

def _map_infer(name):
    def infer(inputs, attrs):
        return broadcast(name, inputs), common_dtype(name, inputs)
    return infer


_ALGEBRA = {name: (arity, algebra) for name, arity, algebra in _core.MAP_OPS}
_ELEMENTWISE_DOC = """{}, elementwise.

    Parameters
    ----------
    {} : Tensor or array_like
        Of shapes that broadcast as in NumPy, and of one float dtype.

    Returns
    -------
    Tensor{}

    Raises
    ------
    ShapeError
        The shapes do not broadcast.
    TypeError
        An int32 tensor, or float32 beside float64.
    """


def _elementwise(name, code, gradient):
    """A row of kind `map`. gradient(node, g, *inputs) gives a gradient for each input, before `_like`."""
    def rule(node, g, needs):
        raw = gradient(node, g, *node.inputs)
        return [None if r is None or not need else _like(_full(r, node), x) for r, x, need in zip(raw, node.inputs, needs)]
    register(Operation(name, "map", _map_infer(name), None if gradient is None else rule, code=code))

    arity, algebra = _ALGEBRA[code]
    if arity == 1:
        def function(a):
            return apply(name, [as_tensor(a)])
    elif arity == 2:
        def function(a, b):
            return apply(name, _tensors((a, b)))
    else:
        def function(a, b, c):
            return apply(name, _tensors((a, b, c)))
    function.__name__ = function.__qualname__ = name
    function.__doc__ = _ELEMENTWISE_DOC.format(algebra, ", ".join("abc"[:arity]),
                                               "\n        It has no gradient." if gradient is None else "")
    return function


def _full(r, node):
    """A local product that came out smaller than the node (everything in it was broadcast) at the node's shape."""
    return r if r.shape == node.shape else broadcast_to(r, node.shape)


neg = _elementwise("neg", "neg", lambda y, g, x: [-g])
abs = _elementwise("abs", "abs", lambda y, g, x: [g * sign(x)])
sqrt = _elementwise("sqrt", "sqrt", lambda y, g, x: [g * 0.5 / y])
exp = _elementwise("exp", "exp", lambda y, g, x: [g * y])
expm1 = _elementwise("expm1", "expm1", lambda y, g, x: [g * (y + 1.0)])
log = _elementwise("log", "log", lambda y, g, x: [g / x])
log1p = _elementwise("log1p", "log1p", lambda y, g, x: [g / (x + 1.0)])
tanh = _elementwise("tanh", "tanh", lambda y, g, x: [g * (1.0 - y * y)])
sigmoid = _elementwise("sigmoid", "logistic", lambda y, g, x: [g * (y * (1.0 - y))])
erf = _elementwise("erf", "erf", lambda y, g, x: [g * (exp(-(x * x)) * 1.1283791670955126)])  # 2/sqrt(pi)
add = _elementwise("add", "add", lambda y, g, a, b: [g, g])
sub = _elementwise("sub", "sub", lambda y, g, a, b: [g, -g])
mul = _elementwise("mul", "mul", lambda y, g, a, b: [g * b, g * a])
div = _elementwise("div", "div", lambda y, g, a, b: [g / b, -(g * y / b)])
maximum = _elementwise("maximum", "max", lambda y, g, a, b: [where(gt(a, b), g, 0.0), where(gt(a, b), 0.0, g)])
minimum = _elementwise("minimum", "min", lambda y, g, a, b: [where(lt(a, b), g, 0.0), where(lt(a, b), 0.0, g)])
fma = _elementwise("fma", "fma", lambda y, g, a, b, c: [g * b, g * a, g])
fma.__doc__ = "a b + c in one operation, rounded once where the instruction set has it."
pow = _elementwise("pow", "pow", lambda y, g, a, b: [g * where(eq(b, 0.0), 0.0, b * pow(a, b - 1.0)),
                                                  where(eq(a, 0.0), 0.0, g * (y * log(a)))])
where = _elementwise("where", "select", lambda y, g, c, a, b: [None, where(c, g, 0.0), where(c, 0.0, g)])
where.__doc__ = "a where the condition is not 0, else b. The condition gets no gradient."
lt = _elementwise("lt", "lt", None)
le = _elementwise("le", "le", None)
eq = _elementwise("eq", "eq", None)
ne = _elementwise("ne", "ne", None)
# The slope of |x| is piecewise constant: its own derivative is zero where it exists.
sign = _elementwise("sign", "sign", lambda y, g, x: [g * 0.0])


def gt(a, b):
    """a > b ? 1 : 0, elementwise: ``lt(b, a)``."""
    return lt(b, a)


def ge(a, b):
    """a >= b ? 1 : 0, elementwise: ``le(b, a)``."""
    return le(b, a)


register(Operation("random", "map", lambda inputs, attrs: (attrs["shape"], attrs["dtype"]), code="random"))


def random_like(x: Tensor, key) -> Tensor:
    """Uniform numbers in [0, 1) in the shape of `x`. `key` names the draw: nodes with one key are one draw."""
    return apply("random", (), {"shape": x.shape, "dtype": x.dtype, "key": key})


# ---------------------------------------------------------------- reductions

def _reduce_infer(inputs, attrs):
    (x,) = inputs
    common_dtype(attrs["kind"], inputs)
    start, stop = attrs["start"], attrs["stop"]
    if attrs["kind"] != "sum" and dim_size(x.shape[start:stop]) == 0:
        raise ShapeError(f"{attrs['kind']}: an axis of {format_shape(x.shape)} is empty, and has no largest or smallest element")
    return x.shape[:start] + x.shape[stop:], x.dtype


def _reduce_gradient(node, g, needs):
    (x,), kind = node.inputs, node.attrs["kind"]
    kept = x.shape[:node.attrs["start"]] + (1,) * (node.attrs["stop"] - node.attrs["start"]) + x.shape[node.attrs["stop"]:]
    g = reshape(g, kept)
    if kind == "sum":
        return [broadcast_to(g, x.shape)]
    hit = eq(x, reshape(node, kept))
    count = stop_gradient(sum(hit, tuple(range(node.attrs["start"], node.attrs["stop"])), keepdims=True))
    return [where(hit, g / count, 0.0)]


register(Operation("reduce", "reduce", _reduce_infer, _reduce_gradient))


def _axes(name, x, axis):
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else axis
    out = set()
    for a in axes:
        if not isinstance(a, (int, np.integer)) or not -x.ndim <= a < builtins.max(x.ndim, 1) or x.ndim == 0:
            raise ShapeError(f"{name}: axis {a!r} is out of range for shape {format_shape(x.shape)}")
        out.add(int(a) % x.ndim)
    return sorted(out)


def _reduce(name, x, axis, keepdims):
    x = as_tensor(x)
    axes = _axes(name, x, axis)
    y, i = x, len(axes)
    while i:  # runs of neighbouring axes, from the last
        stop = i
        while i > 1 and axes[i - 2] == axes[i - 1] - 1:
            i -= 1
        i -= 1
        y = apply("reduce", [y], {"kind": name, "start": axes[i], "stop": axes[stop - 1] + 1})
    if keepdims:
        y = reshape(y, tuple(1 if i in axes else d for i, d in enumerate(x.shape)))
    return y


def sum(x, axis=None, keepdims=False):
    """Sum over `axis` (an int, a tuple of ints, or None for all)."""
    return _reduce("sum", x, axis, keepdims)


def max(x, axis=None, keepdims=False):
    """Largest over `axis`; NaN where there is one. A tie shares its gradient equally."""
    return _reduce("max", x, axis, keepdims)


def min(x, axis=None, keepdims=False):
    """Smallest over `axis`; NaN where there is one. A tie shares its gradient equally."""
    return _reduce("min", x, axis, keepdims)


def _argmax_infer(inputs, attrs):
    (x,) = inputs
    common_dtype("argmax", inputs)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ShapeError(f"argmax: the last axis of {format_shape(x.shape)} is empty")
    return x.shape[:-1], "int32"


register(Operation("argmax", "argmax", _argmax_infer))


def argmax(x):
    """Position (int32) of the largest element along the last axis; the first of equals. Has no gradient."""
    return apply("argmax", [as_tensor(x)])


# ---------------------------------------------------------------- matrix product

def _matmul_infer(inputs, attrs):
    a, b = inputs
    dtype = common_dtype("matmul", inputs)
    ta, tb = attrs["ta"], attrs["tb"]
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"matmul: expected two matrices, got shapes {shapes(a, b)}")
    (m, k), (k2, n) = (a.shape[::-1] if ta else a.shape), (b.shape[::-1] if tb else b.shape)
    if k != k2:
        raise ShapeError(f"matmul: inner sizes differ: {shapes(a, b)}" + (f" (transposed: {ta}, {tb})" if ta or tb else ""))
    if n == BATCH:
        raise ShapeError(f"matmul: shapes {shapes(a, b)} would put the batch behind dimension 0")
    return (m, n), dtype


def shapes(*ts):
    return " and ".join(format_shape(t.shape) for t in ts)


def _matmul_gradient(node, g, needs):
    a, b = node.inputs
    ta, tb = node.attrs["ta"], node.attrs["tb"]
    # C = op(A) op(B), delta = dJ/dC:  dA = delta op(B)^T,  dB = op(A)^T delta, transposed where the operand was.
    # dA comes first, so that it reads B before an update of B may run.
    da = db = None
    if needs[0]:
        da = _matmul(b, g, tb, True) if ta else _matmul(g, b, False, not tb)
    if needs[1]:
        db = _matmul(g, a, True, ta) if tb else _matmul(a, g, not ta, False)
    return [da, db]


register(Operation("matmul", "matmul", _matmul_infer, _matmul_gradient))


def _matmul(a, b, ta=False, tb=False):
    return apply("matmul", [a, b], {"ta": ta, "tb": tb})


def matmul(a, b, transpose_a=False, transpose_b=False):
    """Matrix product ``op(a) @ op(b)``. A vector counts as a row on the left and a column on the right, as in NumPy; leading
    axes of `a` are rows too: ``(..., k) @ (k, n) -> (..., n)``. For a stack of matrices on the right, ``(s, m, k) @ (s, k, n)``,
    each is a product of its own; leading axes broadcast."""
    a, b = _tensors((a, b))
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul: expected matrices or vectors, got shapes {shapes(a, b)}")
    if b.ndim > 2:
        if transpose_a or transpose_b:
            raise ShapeError(f"matmul: only a matrix can be transposed, got shapes {shapes(a, b)}")
        return _stacked(a, b)
    lead = a.shape[:-1]
    if a.ndim != 2:
        if transpose_a:
            raise ShapeError(f"matmul: only a matrix can be transposed, got {format_shape(a.shape)}")
        a = reshape(a, (dim_size(lead), a.shape[-1]))
    b2 = reshape(b, (b.shape[0], 1)) if b.ndim == 1 else b
    c = _matmul(a, b2, transpose_a, transpose_b and b.ndim == 2)
    if transpose_a:
        lead = (c.shape[0],)
    shape = lead + (() if b.ndim == 1 else (c.shape[1],))
    return c if shape == c.shape else reshape(c, shape)


def _stacked(a, b):
    """A product for each matrix of a stack `b`."""
    rows = reshape(a, (1, a.shape[0])) if a.ndim == 1 else a
    if BATCH in (rows.shape[0], b.shape[0]):
        raise ShapeError(f"matmul: shapes {shapes(a, b)}: a product for each row of the batch is not supported")
    try:
        lead = np.broadcast_shapes(rows.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"matmul: the leading axes of shapes {shapes(a, b)} do not broadcast") from None
    m, n = rows.shape[-2], b.shape[-1]
    if rows.shape[-1] != b.shape[-2]:
        raise ShapeError(f"matmul: inner sizes differ: {shapes(a, b)}")
    rows, b2 = broadcast_to(rows, lead + rows.shape[-2:]), broadcast_to(b, lead + b.shape[-2:])
    products = [_matmul(rows[i], b2[i]) for i in np.ndindex(lead)]
    c = reshape(concatenate(products), lead + (m, n)) if products else broadcast_to(sum(rows, -1, keepdims=True), lead + (m, n))
    return reshape(c, lead + (n,)) if a.ndim == 1 else c


# ---------------------------------------------------------------- shapes

def _view_infer(inputs, attrs):
    (x,), shape = inputs, tuple(attrs["shape"])
    if dim_size(shape) != dim_size(x.shape) or BATCH in shape[1:]:
        raise ShapeError(f"reshape: {format_shape(x.shape)} has not the elements of {format_shape(shape)}")
    return shape, x.dtype


register(Operation("reshape", "view", _view_infer, lambda node, g, needs: [reshape(g, node.inputs[0].shape)]))
register(Operation("stop_gradient", "view", lambda inputs, attrs: (inputs[0].shape, inputs[0].dtype),
                   lambda node, g, needs: [None]))


def reshape(x, shape):
    """The same elements in another shape. -1 stands for the batch where `x` has one, else for the size that is left."""
    x = as_tensor(x)
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(int(d) for d in shape)
    if BATCH not in x.shape and shape.count(-1) == 1:
        rest = -dim_size(shape)
        total = dim_size(x.shape)
        if rest == 0 or total % rest:
            raise ShapeError(f"reshape: {format_shape(x.shape)} does not divide into {shape}")
        shape = tuple(total // rest if d == -1 else d for d in shape)
    return x if shape == x.shape else apply("reshape", [x], {"shape": shape})


def stop_gradient(x):
    """`x`, through which no gradient passes."""
    return apply("stop_gradient", [as_tensor(x)])


def _strided_infer(inputs, attrs):
    if BATCH in attrs["shape"][1:]:
        raise ShapeError(f"{attrs['what']}: the batch must stay dimension 0 of {format_shape(inputs[0].shape)}")
    return attrs["shape"], inputs[0].dtype


def _strided_gradient(node, g, needs):
    x, a = node.inputs[0], node.attrs
    if a["what"] == "transpose":
        return [transpose(g, tuple(int(i) for i in np.argsort(a["axes"])))]
    if a["what"] == "broadcast_to":
        return [_like(g, x)]
    return [apply("pad", [g], {"shape": x.shape, "strides": a["strides"], "offset": a["offset"]})]


def _strided(what, x, shape, strides, offset=0, **extra):
    return apply("strided", [x], {"what": what, "shape": tuple(shape), "strides": tuple(strides), "offset": offset, **extra})


register(Operation("strided", "strided", _strided_infer, _strided_gradient))
register(Operation("pad", "pad", lambda inputs, attrs: (attrs["shape"], inputs[0].dtype), lambda node, g, needs: [
    _strided("slice", g, node.inputs[0].shape, node.attrs["strides"], node.attrs["offset"])]))


def transpose(x, axes=None):
    """Axes permuted (reversed where `axes` is None)."""
    x = as_tensor(x)
    axes = tuple(range(x.ndim))[::-1] if axes is None else tuple(int(a) % builtins.max(x.ndim, 1) for a in axes)
    if sorted(axes) != list(range(x.ndim)):
        raise ShapeError(f"transpose: axes {axes} do not permute those of {format_shape(x.shape)}")
    strides = contiguous(x.shape)
    return _strided("transpose", x, [x.shape[a] for a in axes], [strides[a] for a in axes], axes=axes)


def broadcast_to(x, shape):
    """`x` repeated along new axes and axes of size 1 to `shape`."""
    x = as_tensor(x)
    shape = tuple(shape)
    extra = len(shape) - x.ndim
    if extra < 0 or any(d != s and d != 1 for d, s in zip(x.shape, shape[extra:])):
        raise ShapeError(f"broadcast_to: {format_shape(x.shape)} does not broadcast to {format_shape(shape)}")
    strides = [0] * extra + [0 if d == 1 else s for d, s in zip(x.shape, contiguous(x.shape))]
    return x if shape == x.shape else _strided("broadcast_to", x, shape, strides)


def getitem(x, index):
    """Indexing as in NumPy: slices, integers, None, Ellipsis, arrays of integers and of bools. An int32 tensor, whose values may
    be known only when the program runs, picks rows."""
    x = as_tensor(x)
    if isinstance(index, Tensor):
        return take(x, index)
    index = index if isinstance(index, tuple) else (index,)
    for i in index:
        if isinstance(i, Tensor):
            raise TypeError("a tensor indexes the first axis alone: x[ids]; NumPy arrays may stand on every axis")
        known = i is None or i is Ellipsis or isinstance(i, (slice, list, np.ndarray)) or hasattr(i, "__index__")
        if not known or isinstance(i, (bool, np.bool_)):
            raise TypeError(f"a tensor is indexed by integers, slices, None, ... and arrays, not by {type(i).__name__}")
    if any(isinstance(i, (list, np.ndarray)) for i in index):
        return _pick(x, index)
    used = builtins.sum(i is not None and i is not Ellipsis for i in index)
    if used > x.ndim:
        raise IndexError(f"too many indices for shape {format_shape(x.shape)}")
    if Ellipsis not in index:
        index += (Ellipsis,)
    shape, strides, offset, axis, base = [], [], 0, 0, contiguous(x.shape)
    for i in index:
        if i is None:
            shape.append(1)
            strides.append(0)
            continue
        if i is Ellipsis:
            for _ in range(x.ndim - used):
                shape.append(x.shape[axis])
                strides.append(base[axis])
                axis += 1
            continue
        d = x.shape[axis]
        if d == BATCH and i != slice(None):
            raise ShapeError("the batch dimension cannot be sliced: its size is known only when the program runs")
        if isinstance(i, slice):
            if d == BATCH:
                start, stop, step, count = 0, 0, 1, BATCH
            else:
                start, stop, step = i.indices(d)
                count = len(range(start, stop, step))
            shape.append(count)
            strides.append(base[axis] * step)
            offset += base[axis] * start if count else 0
        else:
            i = operator.index(i)
            if not -d <= i < d:
                raise IndexError(f"index {i} is out of range for axis {axis} of shape {format_shape(x.shape)}")
            offset += base[axis] * (i % d)
        axis += 1
    return _strided("slice", x, shape, strides, offset)


def _pick(x, index):
    """Indexing with arrays: NumPy says which elements stand where."""
    if BATCH in x.shape:
        return _pick_columns(x, index)
    if len(index) == 1 and x.ndim and np.asarray(index[0]).dtype.kind in "iu":  # whole rows
        ids, rows = np.asarray(index[0]), x.shape[0]
        if ids.size and (ids.min() < -rows or ids.max() >= rows):
            raise IndexError(f"row {int(ids.min() if ids.min() < -rows else ids.max())} is out of range for {rows} rows")
        return take(x, np.where(ids < 0, ids + rows, ids))
    at = np.arange(x.size).reshape(x.shape)[index]
    return take(reshape(x, (x.size,)), at)


def _pick_columns(x, index):
    """The same of each row of the batch: runs of neighbouring elements, side by side."""
    every, rest = index[0], index[1:]
    if every is Ellipsis:
        every, rest = slice(None), index
    rows = x.shape[1:]
    whole = isinstance(every, slice) and every == slice(None)
    at = np.arange(dim_size(rows)).reshape(rows)[rest] if whole else None
    if not whole or np.broadcast_to(np.int8(0), (7, *rows))[index].shape != (7, *at.shape):  # 7 stands for the batch
        raise ShapeError(f"an index must leave the batch of {format_shape(x.shape)} whole, as dimension 0")
    flat, runs = reshape(x, (BATCH, dim_size(rows))), np.split(at.ravel(), np.flatnonzero(np.diff(at.ravel()) != 1) + 1)
    parts = [flat[:, int(run[0]):int(run[-1]) + 1] for run in runs if run.size]
    return reshape(concatenate(parts, 1) if parts else flat[:, :0], (BATCH, *at.shape))


def _concatenate_infer(inputs, attrs):
    axis = attrs["axis"]
    dtype = "int32" if all(t.dtype == "int32" for t in inputs) else common_dtype("concatenate", inputs)
    first = inputs[0].shape
    for t in inputs[1:]:
        if t.ndim != len(first) or any(i != axis and a != b for i, (a, b) in enumerate(zip(first, t.shape))):
            raise ShapeError(f"concatenate: shapes {shapes(*inputs)} differ beside axis {axis}")
    if axis == 0 and any(t.shape[0] == BATCH for t in inputs):
        raise ShapeError("concatenate: along axis 0 the batch of a network cannot be concatenated")
    return first[:axis] + (builtins.sum(t.shape[axis] for t in inputs),) + first[axis + 1:], dtype


def _concatenate_gradient(node, g, needs):
    out, at, axis = [], 0, node.attrs["axis"]
    for x in node.inputs:
        out.append(g[(slice(None),) * axis + (slice(at, at + x.shape[axis]),)])
        at += x.shape[axis]
    return out


register(Operation("concatenate", "concatenate", _concatenate_infer, _concatenate_gradient))


def concatenate(xs, axis=0):
    """Tensors joined along an axis."""
    xs = _tensors(list(xs))
    if not xs:
        raise ShapeError("concatenate: nothing to join")
    return apply("concatenate", xs, {"axis": _axes("concatenate", xs[0], axis)[0]})


def split(x, sections, axis=0):
    """Equal `sections` (an int), or pieces between the positions in a list, along an axis."""
    x = as_tensor(x)
    (axis,) = _axes("split", x, axis)
    size = x.shape[axis]
    if isinstance(sections, (int, np.integer)):
        if sections < 1 or size % sections:
            raise ShapeError(f"split: axis {axis} of {format_shape(x.shape)} does not divide into {sections}")
        cuts = list(range(0, size + 1, size // sections)) if size else [0] * (sections + 1)
    else:
        cuts = [0, *sections, size]
    return [x[(slice(None),) * axis + (slice(a, b),)] for a, b in zip(cuts, cuts[1:])]


# ---------------------------------------------------------------- rows

NO_PADDING = -2  # of the attribute `padding`: no row is skipped. -1 skips ids of -1, which name no row


def _index_tensor(name, ids, limit=None, low=0):
    if isinstance(ids, Tensor):
        if ids.dtype != "int32":
            raise TypeError(f"{name}: expected integers, got {ids.dtype}")
        return ids
    a = np.asarray(ids)
    if a.dtype.kind not in "iu" and a.size:
        raise TypeError(f"{name}: expected integers, got an array of dtype {a.dtype}")
    if limit is not None and a.size and (a.min() < low or a.max() >= limit):
        raise IndexError(f"{name}: row {int(a.min() if a.min() < low else a.max())} is out of range for {limit} rows")
    return data(np.array(a, dtype="int32", order="C"))


def row_attrs(bag=False, mean=False, padding=None) -> dict:
    """Attributes of the operations on rows. bag: the ids of the last axis share one row; mean: which is their mean."""
    return {"bag": bool(bag), "mean": bool(mean), "padding": NO_PADDING if padding is None else int(padding)}


def check_padding(name, padding, rows):
    """ValueError unless `padding` is None, a row of a table, or -1."""
    if padding is not None and (isinstance(padding, bool) or not hasattr(padding, "__index__") or not -1 <= padding < rows):
        raise ValueError(f"{name}: padding must be a row number below {rows}, or -1, got {padding!r}")


def _shared(ids, attrs):
    """Shape of the rows that ids share: one for each id, or one for each bag of the last axis."""
    return ids.shape[:-1] if attrs["bag"] else ids.shape


def _check_rows(name, ids, weights, attrs):
    if ids.dtype != "int32":
        raise TypeError(f"{name}: row numbers must be int32, got {ids.dtype}")
    if attrs["bag"] and ids.shape[-1:] in ((), (BATCH,)):
        raise ShapeError(f"{name}: expected bags of row numbers (..., words), got shape {format_shape(ids.shape)}")
    if weights and (not attrs["bag"] or attrs["mean"] or weights[0].shape != ids.shape):
        raise ShapeError(f"{name}: weights are one number for each row number of bags that are summed: shapes "
                         f"{shapes(ids, weights[0])}")


def _take_infer(inputs, attrs):
    table, ids, *weights = inputs
    if table.ndim < 1 or table.shape[0] == BATCH:
        raise ShapeError(f"take: expected a table of rows and int32 row numbers, got {shapes(table, ids)}")
    _check_rows("take", ids, weights, attrs)
    return _shared(ids, attrs) + table.shape[1:], common_dtype("take", [table, *weights])


def scatter_infer(inputs, attrs):
    src, ids, *weights = inputs
    _check_rows("scatter_rows", ids, weights, attrs)
    lead = _shared(ids, attrs)
    if src.shape[:len(lead)] != lead:
        raise ShapeError(f"scatter_rows: rows and their numbers have shapes {shapes(src, ids)}")
    return (attrs["rows"],) + src.shape[len(lead):], common_dtype("scatter_rows", [src, *weights])


def _weight_gradient(table, shared, ids, attrs):
    """What a weight multiplies: the row of `table` that it stands beside, times the row that its bag shares."""
    rows = apply("take", [table, ids], {**attrs, "bag": False})
    product = rows * reshape(shared, ids.shape[:-1] + (1,) + table.shape[1:])
    return sum(product, tuple(range(ids.ndim, product.ndim))) if product.ndim > ids.ndim else product


def _take_gradient(node, g, needs):
    table, ids, *weights = node.inputs
    attrs = node.attrs
    down = apply("scatter_rows", [g, ids, *weights], {**attrs, "rows": table.shape[0]}) if needs[0] else None
    return [down, None] + ([_weight_gradient(table, g, ids, attrs) if needs[2] else None] if weights else [])


def _scatter_gradient(node, g, needs):
    src, ids, *weights = node.inputs
    attrs = {k: v for k, v in node.attrs.items() if k != "rows"}
    down = apply("take", [g, ids, *weights], attrs) if needs[0] else None
    return [down, None] + ([_weight_gradient(g, src, ids, attrs) if needs[2] else None] if weights else [])


# Inputs: a table (rows, ...), ids, and for bags perhaps weights of the shape of ids; then the transposed map, from what ids share
# to a table.
register(Operation("take", "gather", _take_infer, _take_gradient))
register(Operation("scatter_rows", "scatter", scatter_infer, _scatter_gradient))


def take(table, ids, padding=None):
    """Rows of a table: ``out[i, ...] = table[ids[i], ...]``; rows that stand in `ids` twice get the sum of their gradients.

    Parameters
    ----------
    table : Tensor or array_like (rows, ...)
    ids : int32 Tensor, or array_like of integers
    padding : int, optional
        Where an id is this one the result is 0, and no gradient reaches the table. -1 is a padding that is no row.
    """
    table = as_tensor(table)
    rows = table.shape[0] if table.ndim else 0
    check_padding("take", padding, rows)
    return apply("take", [table, _index_tensor("take", ids, rows, 0 if padding != -1 else -1)], row_attrs(padding=padding))


def bag(table, ids, weights=None, mean=False, padding=None):
    """Sums of rows of a table, as of the words of a text: ``out[i, ...] = sum_j weights[i, j] table[ids[i, j], ...]``.

    Parameters
    ----------
    table : Tensor or array_like (rows, ...)
    ids : (..., words) int32 Tensor, or array_like of integers
    weights : (..., words), optional
        Ones where not given.
    mean : bool
        Divide by the number of ids that are no padding; 0 where there is none. Not with weights.
    padding : int, optional
        An id that adds nothing; -1 is one that is no row.

    Returns
    -------
    Tensor (..., *table.shape[1:])
    """
    table, *weights = _tensors([table] if weights is None else [table, weights])
    rows = table.shape[0] if table.ndim else 0
    check_padding("bag", padding, rows)
    if weights and mean:
        raise ValueError("bag: weights are for sums; divide them by their sum for a weighted mean")
    ids = _index_tensor("bag", ids, rows, 0 if padding != -1 else -1)
    return apply("take", [table, ids, *weights], row_attrs(True, mean, padding))


# ---------------------------------------------------------------- operators

def _power(x, p):
    if isinstance(p, (int, float)) and not isinstance(p, bool):
        if p == 0.5:
            return sqrt(x)
        if p == int(p) and 1 <= builtins.abs(p) <= 8:
            y = x
            for _ in range(int(builtins.abs(p)) - 1):
                y = y * x
            return y if p > 0 else 1.0 / y
    return pow(x, p)


for _name, _f in {
    "__add__": add, "__sub__": sub, "__mul__": mul, "__truediv__": div, "__matmul__": matmul, "__pow__": _power,
    "__radd__": lambda x, y: add(y, x), "__rsub__": lambda x, y: sub(y, x), "__rmul__": lambda x, y: mul(y, x),
    "__rtruediv__": lambda x, y: div(y, x), "__rmatmul__": lambda x, y: matmul(y, x), "__rpow__": lambda x, y: pow(y, x),
    "__neg__": neg, "__abs__": abs, "__lt__": lt, "__le__": le, "__gt__": gt, "__ge__": ge, "__getitem__": getitem,
    "reshape": lambda x, *shape: reshape(x, shape[0] if len(shape) == 1 else shape), "sum": sum, "max": max, "min": min,
    "transpose": transpose,
}.items():
    setattr(Tensor, _name, _f)
Tensor.T = property(transpose)
