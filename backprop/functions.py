"""Composite operations: written in primitive ones, with a gradient rule of their own where that is cheaper or more exact.

A composite is one node while the graph is built and differentiated; the lowering expands it. Its rule may use the node's
own output (`y`), as tanh' = 1 - y^2 does.
"""

from __future__ import annotations

import math

import numpy as np

from . import ops
from .errors import ShapeError
from .graph import BATCH, FLOATS, Operation, Tensor, apply, broadcast, common_dtype, format_shape, register, scalar
from .ops import (abs, add, as_tensor, eq, erf, exp, expm1, ge, gt, le, log, log1p, maximum, minimum, mul, random_like,
                  reshape, sigmoid, sub, where)


def _composite(name, expand, gradient, infer=None):
    """A row of kind `composite`: expand(*inputs, **attrs) and gradient(y, g, *inputs, **attrs) in other operations."""
    def rule(node, g, needs):
        raw = gradient(node, g, *node.inputs, **node.attrs)
        return [None if r is None or not need else ops._like(r, x) for r, x, need in zip(raw, node.inputs, needs)]

    def default_infer(inputs, attrs):
        return broadcast(name, inputs), common_dtype(name, inputs)
    register(Operation(name, "composite", infer or default_infer, rule, lambda inputs, attrs: expand(*inputs, **attrs)))


def _unary(name, expand, gradient, doc):
    _composite(name, expand, gradient)

    def function(x):
        return apply(name, [as_tensor(x)])
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


# ---------------------------------------------------------------- activations

relu = _unary("relu", lambda x: maximum(x, 0.0), lambda y, g, x: [where(gt(y, 0.0), g, 0.0)],
              "max(x, 0); relu'(0) = 0.")
hard_tanh = _unary("hard_tanh", lambda x: minimum(maximum(x, -1.0), 1.0),
                   lambda y, g, x: [where(le(abs(x), 1.0), g, 0.0)], "x cut to [-1, 1]; its slope is 1 on [-1, 1].")
softplus = _unary("softplus", lambda x: add(maximum(x, 0.0), log1p(exp(-abs(x)))), lambda y, g, x: [g * sigmoid(x)],
                  "log(1 + e^x), without overflow.")
silu = _unary("silu", lambda x: mul(x, sigmoid(x)),
              lambda y, g, x: [g * (sigmoid(x) * (x * (1.0 - sigmoid(x)) + 1.0))], "x sigmoid(x), also called swish.")
# Phi(x) = (1 + erf(x / sqrt 2)) / 2, phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
gelu = _unary("gelu", lambda x: x * (erf(x * math.sqrt(0.5)) * 0.5 + 0.5),
              lambda y, g, x: [g * (erf(x * math.sqrt(0.5)) * 0.5 + 0.5 + x * (exp(x * x * -0.5) * 0.3989422804014327))],
              "x Phi(x), the Gaussian error linear unit in its exact form.")
square = _unary("square", lambda x: x * x, lambda y, g, x: [g * (x * 2.0)], "x^2.")

_composite("leaky_relu", lambda x, slope: where(gt(x, 0.0), x, x * slope),
           lambda y, g, x, slope: [where(gt(x, 0.0), g, g * slope)])
_composite("elu", lambda x, alpha: where(gt(x, 0.0), x, expm1(minimum(x, 0.0)) * alpha),
           lambda y, g, x, alpha: [where(gt(x, 0.0), g, g * (exp(minimum(x, 0.0)) * alpha))])
_composite("prelu", lambda x, a: where(gt(x, 0.0), x, a * x),
           lambda y, g, x, a: [where(gt(x, 0.0), g, g * a), where(gt(x, 0.0), 0.0, g * x)])
_composite("clip", lambda x, low, high: minimum(maximum(x, low), high),
           lambda y, g, x, low, high: [where(le(x, high), where(ge(x, low), g, 0.0), 0.0)])


def leaky_relu(x, slope=0.01):
    """x where x > 0, else slope x."""
    return apply("leaky_relu", [as_tensor(x)], {"slope": float(slope)})


def elu(x, alpha=1.0):
    """x where x > 0, else alpha (e^x - 1)."""
    return apply("elu", [as_tensor(x)], {"alpha": float(alpha)})


def prelu(x, a):
    """x where x > 0, else a x, with a slope `a` that is learned: dJ/da = sum over x <= 0 of upstream * x."""
    return apply("prelu", ops._tensors((x, a)))


def clip(x, low, high):
    """x cut to [low, high]; its slope is 1 on [low, high]."""
    return apply("clip", [as_tensor(x)], {"low": float(low), "high": float(high)})


def identity(x):
    return as_tensor(x)


ACTIVATIONS = {f.__name__: f for f in (relu, hard_tanh, softplus, silu, gelu, leaky_relu, elu, sigmoid, ops.tanh)}
ACTIVATIONS.update(logistic=sigmoid, linear=identity, identity=identity, swish=silu)


# ---------------------------------------------------------------- along an axis

def mean(x, axis=None, keepdims=False):
    """Mean over `axis`; over the batch it divides by the rows of the run."""
    x = as_tensor(x)
    axes = ops._axes("mean", x, axis)
    if any(x.shape[a] == 0 for a in axes):
        raise ShapeError(f"mean: shape {format_shape(x.shape)} is empty along axis {axis}")
    return ops.sum(x, axis, keepdims) / mean_count(x, axes)


Tensor.mean = mean


def mean_count(x, axes):
    """Numbers that a mean over `axes` is taken of: a float, or a scalar of the run where the batch is among them."""
    fixed = math.prod(x.shape[a] for a in axes if x.shape[a] != BATCH)
    if any(x.shape[a] == BATCH for a in axes):
        return scalar("rows") if fixed == 1 else scalar("rows") * float(fixed)
    return float(fixed)


def _last_axis(name, x, axis):
    x = as_tensor(x)
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{name}: axis must be one axis, a whole number, got {axis!r}")
    (axis,) = ops._axes(name, x, axis)
    return x, axis


def _shifted(x, axis):
    """x minus its largest element along the axis (0 where that is infinite), and that element."""
    top = ops.stop_gradient(ops.max(x, axis, keepdims=True))
    top = where(eq(abs(top), math.inf), 0.0, top)
    return x - top, top


def _softmax(x, axis):
    e = exp(_shifted(x, axis)[0])
    return e / ops.sum(e, axis, keepdims=True)


def _logsumexp(x, axis):
    shifted, top = _shifted(x, axis)
    return log(ops.sum(exp(shifted), axis, keepdims=True)) + top


def _axis_infer(inputs, attrs):
    (x,) = inputs
    common_dtype("softmax", inputs)
    return x.shape, x.dtype


def _kept_infer(inputs, attrs):
    (x,) = inputs
    return tuple(1 if i == attrs["axis"] else d for i, d in enumerate(x.shape)), x.dtype


_composite("softmax", _softmax, lambda y, g, x, axis: [y * (g - ops.sum(g * y, axis, keepdims=True))], _axis_infer)
_composite("log_softmax", lambda x, axis: sub(x, _logsumexp(x, axis)),
           lambda y, g, x, axis: [g - exp(y) * ops.sum(g, axis, keepdims=True)], _axis_infer)
_composite("logsumexp", _logsumexp, lambda y, g, x, axis: [g * exp(sub(x, y))], _kept_infer)


def softmax(x, axis=-1):
    """e^x / sum e^x along an axis."""
    x, axis = _last_axis("softmax", x, axis)
    return apply("softmax", [x], {"axis": axis})


def log_softmax(x, axis=-1):
    """log(softmax(x)) without loss of accuracy."""
    x, axis = _last_axis("log_softmax", x, axis)
    return apply("log_softmax", [x], {"axis": axis})


def logsumexp(x, axis=-1, keepdims=False):
    """log(sum(e^x)) along an axis, without overflow."""
    x, axis = _last_axis("logsumexp", x, axis)
    y = apply("logsumexp", [x], {"axis": axis})
    return y if keepdims else reshape(y, x.shape[:axis] + x.shape[axis + 1:])


# ---------------------------------------------------------------- normalisation

def _axes_infer(inputs, attrs):
    (x,) = inputs
    common_dtype("variance", inputs)
    return tuple(1 if i in attrs["axes"] else d for i, d in enumerate(x.shape)), x.dtype


def _scale(x, axes, eps):
    return 1.0 / ops.sqrt(variance(x, axes) + eps)


def _standardize(x, *gain, axes, eps):
    y = (x - mean(x, axes, True)) * _scale(x, axes, eps)
    return y * gain[0] if gain else y


def _standardize_infer(inputs, attrs):
    x, *gain = inputs
    dtype, axes, last = common_dtype("standardize", inputs), attrs["axes"], x.ndim - 1
    if list(axes) != sorted({a for a in axes if 0 <= a <= last}):
        raise ShapeError(f"standardize: {axes} are not different axes, in order, of {format_shape(x.shape)}")
    if gain and (gain[0].shape != x.shape[-1:] or (last in axes and axes != (last,))):
        raise ShapeError(f"standardize: a gain of shape {format_shape(gain[0].shape)} is for rows of its length, standardised along "
                         f"them or along other axes, not for shape {format_shape(x.shape)} along axes {axes}")
    return x.shape, dtype


def _standardize_gradient(y, g, x, *gain, axes, eps):
    # u = (x - m) r, r = 1 / sqrt(var + eps), y = u gain: m and r depend on every x, and
    # dJ/dx = (h - mean(h) - u mean(h u)) r with h = g gain. Along axes in which the gain does not vary it is a factor of the sums, so
    # it comes last: then they are those that the gradients of shift and gain need, and are computed once.
    u, r = (apply("standardize", [x], y.attrs) if gain else y), _scale(x, axes, eps)
    h, last = (g * gain[0], r) if gain and x.ndim - 1 in axes else (g, r * gain[0] if gain else r)
    dx = (h - mean(h, axes, True) - u * mean(h * u, axes, True)) * last
    return [dx, ops.sum(g * u, tuple(range(x.ndim - 1)))] if gain else [dx]


# Inputs: x and perhaps a gain, a number for each place of the last axis, with axes that are the last one, or all others.
_composite("standardize", _standardize, _standardize_gradient, _standardize_infer)
# d var / dx = 2 (x - m) / n: what x adds through m sums to zero
_composite("variance", lambda x, axes: mean(square(x - mean(x, axes, True)), axes, True),
           lambda y, g, x, axes: [g * ((x - mean(x, axes, True)) * 2.0) / mean_count(x, axes)], _axes_infer)


def variance(x, axis=None):
    """Mean squared distance from the mean over `axis`, which stays as an axis of size 1 (the biased variance: divided by n)."""
    x = as_tensor(x)
    axes = tuple(ops._axes("variance", x, axis))
    if any(x.shape[a] == 0 for a in axes):
        raise ShapeError(f"variance: shape {format_shape(x.shape)} is empty along axis {axis}")
    return apply("variance", [x], {"axes": axes})


def layer_norm(x, gain=None, shift=None, eps=1e-5):
    """Each row of the last axis at mean 0 and variance 1, then scaled and shifted (Ba, Kiros and Hinton 2016).

    Parameters
    ----------
    x : (..., d)
    gain, shift : (d,), optional
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor (..., d)
        ``(x - mean) / sqrt(var + eps) * gain + shift``, with the biased variance, as in PyTorch.
    """
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number, not negative, got {eps!r}")
    tensors = iter(ops._tensors([v for v in (x, gain, shift) if v is not None]))
    x = next(tensors)
    if x.ndim == 0 or x.shape[-1] in (0, BATCH):
        raise ShapeError(f"layer_norm: expected rows (..., d), got shape {format_shape(x.shape)}")
    given = {name: next(tensors) for name, v in (("gain", gain), ("shift", shift)) if v is not None}
    for name, v in given.items():
        if v.shape != x.shape[-1:]:
            raise ShapeError(f"layer_norm: {name} has shape {format_shape(v.shape)}, "
                             f"the rows have shape {format_shape(x.shape[-1:])}")
    y = apply("standardize", [x] + ([given["gain"]] if "gain" in given else []), {"axes": (x.ndim - 1,), "eps": float(eps)})
    return y + given["shift"] if "shift" in given else y


# ---------------------------------------------------------------- training and inference

def _running_infer(inputs, attrs):
    now, buffer, new = inputs
    dtype = common_dtype("running", inputs)
    if not now.shape == buffer.shape == new.shape:
        raise ShapeError(f"running: the value, the buffer and its new value have shapes {ops.shapes(now, buffer, new)}")
    return now.shape, dtype


register(Operation("running", "composite", _running_infer, None,
                   lambda inputs, attrs, training: inputs[0] if training else inputs[1], by_mode=True))


def running(now, buffer, new):
    """In training `now`, in inference what a layer's buffer holds; and where training updates, it writes `new` to the buffer.

    This is how layers keep statistics, as `BatchNorm` does: `Layer.buffer` declares the array, its ``tensor`` is `buffer` here.
    A step writes it together with the parameters, behind the check of the loss.

    Parameters
    ----------
    now, buffer, new : Tensor, all of one shape
    """
    return apply("running", [as_tensor(now), buffer, as_tensor(new)])


def _batch_norm(inputs, attrs, training):
    x, mean_, var, *gain = inputs
    if mean_.op.kind != "source":  # what `running` makes of the statistics in training: x's own, so x counts in them
        return apply("standardize", [x, *gain], {"axes": tuple(range(x.ndim - 1)), **attrs})
    scale = 1.0 / ops.sqrt(var + attrs["eps"])
    return (x - mean_) * (scale * gain[0] if gain else scale)


def _batch_norm_infer(inputs, attrs):
    x, *others = inputs
    dtype = common_dtype("batch_norm", inputs)
    if any(t.shape != x.shape[-1:] for t in others) or x.ndim < 1:
        raise ShapeError(f"batch_norm: x, mean, var and gain have shapes {ops.shapes(*inputs)}; all but x are for one row of it")
    if not all(t.op.name == "running" or t.op.kind == "source" for t in others[:2]):
        raise ValueError("batch_norm: mean and var are what `running` makes of those of x, or buffers")
    return x.shape, dtype


def _batch_norm_gradient(node, g, needs):
    x, mean_, var, *gain = node.inputs
    if any(needs[:3]):
        raise TypeError(f"batch_norm has no gradient by its input before it is known whether the network trains, and that of "
                        f"{format_shape(node.shape)} was asked for through it (bp.stop_gradient says that none is wanted)")
    return [None, None, None, ops._like(g * apply("batch_norm", [x, mean_, var], node.attrs), gain[0])]


register(Operation("batch_norm", "composite", _batch_norm_infer, _batch_norm_gradient, _batch_norm, by_mode=True))


def batch_norm(x, mean, var, gain=None, eps=1e-5):
    """``(x - mean) / sqrt(var + eps) * gain``, where mean and var are what `running` makes of those of x over all axes but the last:
    in training those of the batch, in inference, and in a layer that is not trained, what its buffers hold.

    Parameters
    ----------
    x : (..., d)
    mean, var : (d,)
        ``running(m, buffer, new)`` with m the mean of x, its biased variance; training goes by x alone, and takes them to be that.
    gain : (d,), optional
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        If a shape is not (d,).
    ValueError
        If mean or var is neither made by `running` nor a buffer.
    """
    tensors = [as_tensor(v) for v in (x, mean, var, *(() if gain is None else (gain,)))]
    return apply("batch_norm", tensors, {"eps": float(eps)})


# ---------------------------------------------------------------- losses, one number for each row

def _ce_infer(inputs, attrs):
    z, t = inputs[0], inputs[1]
    common_dtype("softmax_cross_entropy", [z])
    want = z.shape[:1] if t.dtype == "int32" else z.shape
    if z.ndim != 2 or z.shape[1] == 0 or t.shape != want:
        raise ShapeError(f"softmax_cross_entropy: expected scores (n, classes) and labels (n,) or probabilities (n, classes), "
                         f"got {ops.shapes(z, t)}")
    return z.shape[:1], z.dtype


def _column(v):
    return reshape(v, v.shape + (1,))


def _ce_gradient(node, g, needs):
    z, t = node.inputs
    dz = apply("softmax_cross_entropy_gradient", [z, t, g]) if needs[0] else None
    return [dz, _column(g) * -log_softmax(z) if needs[1] else None]


def _ce_second(node, upstream, needs):
    # dz = g (S softmax(z) - t), S = sum of the targets of a row (1 for labels)
    z, t, g = node.inputs
    s = 1.0 if t.dtype == "int32" else ops.sum(t, 1, keepdims=True)
    p = softmax(z)
    out = [None, None, None]
    if needs[0]:
        out[0] = _column(g) * (s * (p * (upstream - ops.sum(upstream * p, 1, keepdims=True))))
    if needs[1]:
        out[1] = _column(g) * (ops.sum(upstream * p, 1, keepdims=True) - upstream)
    if needs[2]:
        unit = apply("softmax_cross_entropy_gradient", [z, t, g * 0.0 + 1.0])
        out[2] = ops.sum(upstream * unit, 1)
    return out


register(Operation("softmax_cross_entropy", "softmax_ce", _ce_infer, _ce_gradient))
register(Operation("softmax_cross_entropy_gradient", "softmax_ce", lambda inputs, attrs: (inputs[0].shape, inputs[0].dtype),
                   _ce_second))


def softmax_cross_entropy(scores, targets):
    """Cross-entropy of softmax(scores), from raw scores in one pass.

    Parameters
    ----------
    scores : (n, classes)
    targets : (n,) integers, or (n, classes) probabilities

    Returns
    -------
    Tensor (n,)
        ``logsumexp(scores_i) - scores_i[y_i]``; for probabilities ``sum_j t_ij (logsumexp(scores_i) - scores_ij)``.
    """
    scores = as_tensor(scores)
    if not isinstance(targets, Tensor):
        a = np.asarray(targets)
        targets = ops._index_tensor("softmax_cross_entropy", a, scores.shape[-1]) if a.dtype.kind in "iu" else as_tensor(
            a.astype(scores.dtype if scores.dtype in FLOATS else "float64"))
    return apply("softmax_cross_entropy", [scores, targets])


# log(1 + e^z) - z y = max(z, 0) - z y + log1p(e^-|z|); its slope in z is sigmoid(z) - y
_composite("binary_cross_entropy", lambda z, y: maximum(z, 0.0) - z * y + log1p(exp(-abs(z))),
           lambda out, g, z, y: [g * (sigmoid(z) - y), g * -z])


def binary_cross_entropy(scores, targets):
    """``-y log p - (1 - y) log(1 - p)`` with ``p = sigmoid(scores)``, from raw scores, elementwise."""
    return apply("binary_cross_entropy", ops._tensors((scores, targets)))


def margin_loss(s, s_corrupt, margin=1.0):
    """``max(0, margin - s + s_corrupt)``, elementwise: a true example's score is to be `margin` above a corrupted one's.

    Its slope is -1 in `s` and +1 in `s_corrupt` where it is above 0, and 0 elsewhere, at ``s - s_corrupt = margin`` too.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be a finite number, not negative, got {margin!r}")
    s, s_corrupt = ops._tensors((s, s_corrupt))
    return relu(sub(s_corrupt, s) + float(margin))


def huber_loss(outputs, targets, delta=1.0):
    """``d^2 / 2`` where ``|d| <= delta``, else ``delta (|d| - delta / 2)``, d = outputs - targets (Huber 1964), elementwise."""
    if not 0 < delta < math.inf:
        raise ValueError(f"delta must be a finite number above 0, got {delta!r}")
    d = abs(sub(*ops._tensors((outputs, targets))))
    inner = minimum(d, float(delta))  # inner (d - inner / 2) is both branches
    return inner * (d - inner * 0.5)


# ---------------------------------------------------------------- dropout

def dropout_mask(x, rate, key):
    """1 / (1 - rate) with probability 1 - rate, else 0, in the shape of `x`."""
    return mul(le(rate, random_like(x, key)), 1.0 / (1.0 - rate))


def _dropout(inputs, attrs, training):
    (x,) = inputs
    return mul(x, dropout_mask(x, attrs["rate"], attrs["key"])) if training and attrs["rate"] > 0 else x


# The gradient is a dropout of the same key, and so of the same mask: right in either mode, whenever that is chosen.
register(Operation("dropout", "composite", _axis_infer, lambda node, g, needs: [apply("dropout", [g], node.attrs)], _dropout,
                   by_mode=True))


def dropout(x, rate, training=None, key=None):
    """Inverted dropout (Srivastava et al. 2014): in training each element is 0 with probability `rate`, else x / (1 - rate).

    With ``training=None`` (inside a network) the mode is chosen when the network is lowered: training programs, gradients
    included, draw a mask; `predict`, and reading the value of a tensor outside of any network, do not.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    x = as_tensor(x)
    attrs = {"rate": float(rate), "key": object() if key is None else key}
    return apply("dropout", [x], attrs) if training is None else _dropout([x], attrs, training)
