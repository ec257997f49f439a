"""Sample inputs for every operation of the table: one list drives the reference, gradient, second gradient and error tests.

A row is ``"operation": (function of tensors, NumPy reference or None, list of input tuples)``; a second row of one operation is called
``"operation: what"``. Inputs stay away from kinks by more than the step of a central difference. All rows of an operation together have
at least 8 samples, among them one of zero size, one of one element, one that is not contiguous, and for operations that broadcast
one with different shapes; `EXCEPT` says where that cannot be. To add an operation, add a row.
"""

import math

import numpy as np

import backprop as bp
from backprop import ops

_rng = np.random.default_rng(12345)


def reals(*shape, low=-2.0, high=2.0):
    return _rng.uniform(low, high, shape)


def away(*shape, kinks=(0.0,), gap=0.01, low=-2.0, high=2.0):
    """Reals that keep a distance from the kinks."""
    x = reals(*shape, low=low, high=high)
    for k in kinks:
        near = np.abs(x - k) < gap
        x = np.where(near, x + 3 * gap, x)
    return x


def strided(*shape):
    return reals(*(2 * d for d in shape))[tuple(slice(None, None, 2) for _ in shape)]


def apart(*shape):
    """Numbers of which no two are close."""
    n = int(np.prod(shape))
    return (_rng.permutation(n) * 0.37 - 0.18 * n).reshape(shape)


def unary(make=reals):
    return [(make(1),), (make(7),), (make(3, 5),), (make(2, 3, 4),), (make(17, 33),), (make(0, 3),), (np.asarray(make(1)).reshape(()),),
            (make(6, 8)[::2, ::-1],)]


def binary(make=reals, other=None):
    other = other or make
    return [(make(1), other(1)), (make(3, 5), other(3, 5)), (make(3, 5), other(5)), (make(3, 1), other(1, 5)),
            (make(2, 3, 4), other(3, 1)), (make(0, 3), other(3)), (make(4, 6)[:, ::2], other(4, 3)), (make(17, 9), other(17, 1)),
            (make(), other(2, 2))]


def pos(*shape):
    return reals(*shape, low=0.3, high=3.0)


_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lse(x, axis=-1):
    m = x.max(axis=axis, keepdims=True)
    return (np.log(np.exp(x - m).sum(axis=axis, keepdims=True)) + m)


def along():
    """For operations along the last axis, which is never empty."""
    return [(reals(1, 1),), (reals(3, 5),), (reals(7),), (reals(2, 3, 4),), (reals(0, 3),), (reals(4, 40),), (strided(3, 4),), (reals(3, 1),)]


def _matrices():
    return [(reals(3, 4), reals(4, 5)), (reals(1, 1), reals(1, 1)), (reals(7, 33), reals(33, 2)), (reals(2, 300), reals(300, 17)),
            (reals(4, 3).T, reals(4, 2)), (reals(3, 0), reals(0, 2)), (reals(0, 3), reals(3, 2)), (reals(5, 1), reals(1, 9))]


_LABELS = np.array([0, 2, 1, 2, 0])
_P5 = np.abs(_rng.normal(size=(5, 3)))
_P5 /= _P5.sum(1, keepdims=True)

_IDS = np.array([[2, 0, 2, 1], [1, 1, 1, 1]], dtype="int32")


def _taken(table, *weights):
    """Rows and means of rows, of which 1 is padding; with weights sums of rows, as many as there are weights."""
    if weights:
        return bp.bag(table, _IDS[:, :weights[0].shape[1]], weights[0])
    return bp.bag(table, _IDS, mean=True, padding=1) * 2.0 + bp.take(table, [1, 2], padding=1)


def _taken_reference(table, *weights):
    if weights:
        return np.einsum("ij,ij...->i...", weights[0], table[_IDS[:, :weights[0].shape[1]]])
    return np.stack([(2 * table[2] + table[0]) / 3 * 2, table[2]])


def _scattered(rows, *weights):
    ids = _IDS[:, :weights[0].shape[1]] if weights else _IDS
    attrs = {**ops.row_attrs(True, not weights, None if weights else 1), "rows": 4}
    return ops.apply("scatter_rows", [rows, ops._index_tensor("ids", ids), *weights], attrs)


def _scattered_reference(rows, *weights):
    w = weights[0] if weights else np.array([[1, 1, 1, 0], [0, 0, 0, 0]]) / 3
    out = np.zeros((4, *rows.shape[1:]))
    for i in range(2):
        for j in range(w.shape[1]):
            out[_IDS[i, j]] += w[i, j] * rows[i]
    return out


def _padded(x):
    out = np.zeros((4, 9))
    out[:x.shape[0], 1:1 + 2 * x.shape[1]:2] = x
    return out


@bp.operation(shape=lambda x, w, power: x[:-1])
class _user:
    def forward(x, w, power):
        return (x**power * w).sum(-1)

    def gradient(g, y, x, w, power):
        g = bp.reshape(g, (*g.shape, 1))
        return g * power * x ** (power - 1) * w, bp.sum(g * x**power, tuple(range(x.ndim - 1)))


def _user_with_gradient(x, w):
    return _user(x, w, power=2)


_USER = [(reals(3, 4), reals(4)), (reals(1), reals(1)), (reals(0, 2), reals(2)), (reals(2, 3, 4), reals(4)), (strided(3, 4), reals(4)),
         (reals(1, 1), reals(1)), (reals(5, 1), reals(1)), (reals(2, 7), reals(7))]

SAMPLES = {
    "neg": (bp.neg, np.negative, unary()),
    "abs": (bp.abs, np.abs, unary(away)),
    "sign": (bp.sign, np.sign, unary(away)),
    "sqrt": (bp.sqrt, np.sqrt, unary(pos)),
    "exp": (bp.exp, np.exp, unary()),
    "expm1": (bp.expm1, np.expm1, unary()),
    "log": (bp.log, np.log, unary(pos)),
    "log1p": (bp.log1p, np.log1p, unary(pos)),
    "tanh": (bp.tanh, np.tanh, unary()),
    "sigmoid": (bp.sigmoid, _sigmoid, unary()),
    "erf": (bp.erf, _erf, unary()),
    "add": (bp.add, np.add, binary()),
    "sub": (bp.sub, np.subtract, binary()),
    "mul": (bp.mul, np.multiply, binary()),
    "div": (bp.div, np.divide, binary(reals, pos)),
    "pow": (bp.pow, np.power, binary(pos, reals)),
    "maximum": (bp.maximum, np.maximum, binary(lambda *s: apart(*s) + 0.05, lambda *s: apart(*s))),
    "minimum": (bp.minimum, np.minimum, binary(lambda *s: apart(*s) + 0.05, lambda *s: apart(*s))),
    "fma": (bp.fma, lambda a, b, c: a * b + c, [
        (reals(3, 4), reals(3, 4), reals(3, 4)), (reals(3, 4), reals(4), reals(3, 1)), (reals(2), reals(), reals(2)),
        (reals(0, 2), reals(2), reals(2)), (reals(1), reals(1), reals(1)), (strided(3, 4), reals(3, 4), strided(3, 4)),
        (reals(2, 1, 3), reals(4, 1), reals(3)), (reals(17, 33), reals(33), reals(17, 1))]),
    "where": (lambda a, b: bp.where(bp.gt(a, 0.0), a * b, b), lambda a, b: np.where(a > 0, a * b, b), binary(away, reals)),
    "relu": (bp.relu, lambda x: np.maximum(x, 0), unary(away)),
    "hard_tanh": (bp.hard_tanh, lambda x: np.clip(x, -1, 1), unary(lambda *s: away(*s, kinks=(-1, 1)))),
    "softplus": (bp.softplus, lambda x: np.log1p(np.exp(x)), unary()),
    "silu": (bp.silu, lambda x: x * _sigmoid(x), unary()),
    "gelu": (bp.gelu, lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))), unary()),
    "square": (bp.square, np.square, unary()),
    "leaky_relu": (lambda x: bp.leaky_relu(x, 0.1), lambda x: np.where(x > 0, x, 0.1 * x), unary(away)),
    "elu": (lambda x: bp.elu(x, 0.7), lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)), unary(away)),
    "prelu": (bp.prelu, lambda x, a: np.where(x > 0, x, a * x), binary(away, reals)),
    "clip": (lambda x: bp.clip(x, -0.5, 1.0), lambda x: np.clip(x, -0.5, 1.0), unary(lambda *s: away(*s, kinks=(-0.5, 1.0)))),
    "reduce": (lambda x: bp.sum(x, 0) * bp.max(x) + bp.sum(x), lambda x: x.sum(0) * x.max() + x.sum(),
               [(apart(5),), (apart(3, 4),), (apart(2, 3, 4),), (apart(300, 3),), (apart(1, 1),), (apart(6, 6)[::2],)]),
    "reduce: sum": (lambda x: bp.sum(x, (0, 2), keepdims=True) * 2.0, lambda x: x.sum((0, 2), keepdims=True) * 2,
                    [(reals(2, 3, 4),), (reals(0, 3, 2),), (reals(2, 0, 3),), (reals(1, 1, 1),), (strided(2, 3, 3),), (reals(2, 3, 2, 2),)]),
    "reduce: min": (lambda x: bp.min(x, -1) - bp.max(x, 1, keepdims=True)[:, 0], lambda x: x.min(-1) - x.max(1),
                    [(apart(3, 4),), (apart(4, 1),), (apart(5, 40),), (apart(4, 6).T,)]),
    "softmax": (lambda x: bp.softmax(x), lambda x: np.exp(x - _lse(x)), along()),
    "log_softmax": (lambda x: bp.log_softmax(x, 0), lambda x: x - _lse(x, 0), [(x.T,) for (x,) in along()]),
    "logsumexp": (lambda x: bp.logsumexp(x), lambda x: _lse(x)[..., 0], along()),
    "standardize": (lambda x: bp.layer_norm(x, eps=0.01), lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01),
                    [(reals(1, 1),), (reals(3, 5),), (reals(7),), (reals(2, 3, 4),), (reals(0, 3),), (reals(4, 40),), (reals(3, 1),),
                     (strided(3, 4),)]),
    "standardize: gain": (lambda x, a: bp.layer_norm(x, a, eps=0.01),
                          lambda x, a: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01) * a,
                          [(reals(7), reals(7)), (reals(3, 5), reals(5)), (reals(2, 3, 4), reals(4)), (reals(3, 1), reals(1)), (reals(0, 3), reals(3))]),
    "standardize: columns": (lambda x, a: ops.apply("standardize", [x, a], {"axes": tuple(range(x.ndim - 1)), "eps": 0.01}),
                             lambda x, a: (x - x.mean(tuple(range(x.ndim - 1)))) / np.sqrt(x.var(tuple(range(x.ndim - 1))) + 0.01) * a,
                             [(reals(1, 1), reals(1)), (reals(5, 3), reals(3)), (reals(2, 3, 4), reals(4)), (reals(40, 4), reals(4)),
                              (reals(2, 0), reals(0)), (strided(3, 4), reals(4))]),
    "variance": (lambda x: bp.functions.variance(x, (0, -1)), lambda x: x.var(tuple({0, x.ndim - 1}), keepdims=True),
                 [(reals(1, 1),), (reals(3, 5),), (reals(7),), (reals(2, 3, 4),), (reals(40, 4),), (reals(1, 3),), (strided(3, 4),),
                  (reals(2, 1, 2, 3),)]),
    "matmul": (bp.matmul, np.matmul, _matrices()),
    "matmul: vectors and stacks": (bp.matmul, np.matmul, [
        (reals(4), reals(4)), (reals(3, 4), reals(4)), (reals(4), reals(4, 2)), (reals(2, 3, 4), reals(4, 2)), (reals(2, 2, 3), reals(2, 3, 2)),
        (reals(3), reals(2, 3, 2)), (reals(2, 3), reals(2, 1, 3, 2)), (strided(2, 2, 3), reals(2, 3, 1)), (reals(0, 2, 3), reals(0, 3, 2))]),
    "matmul: transposed": (lambda a, b: bp.matmul(a, b, True) + bp.matmul(b, a, True).T + bp.matmul(a.T, b.T, False, True),
                           lambda a, b: 3 * (a.T @ b), [(reals(3, 2), reals(3, 4)), (reals(1, 1), reals(1, 1)), (reals(0, 2), reals(0, 2))]),
    "reshape": (lambda x: bp.reshape(x, (-1,)) * 2.0, lambda x: x.reshape(-1) * 2, unary()),
    "stop_gradient": (lambda x: x * bp.stop_gradient(bp.reshape(x, x.shape) * 0.0 + 2.0), lambda x: x * 2, unary()),
    "strided": (lambda x: bp.transpose(x)[::2] * 3.0, lambda x: x.T[::2] * 3, [(reals(3, 4),), (reals(1, 1),), (reals(2, 3, 4),), (reals(33, 17),),
                                                                               (reals(0, 3),), (reals(5),), (strided(3, 4),), (reals(1),)]),
    "strided: index": (lambda x: x[::-1, None, 1:] * x[..., -1:0:-1][:, None] + x[1, 0], lambda x: x[::-1, None, 1:] * x[..., -1:0:-1][:, None] + x[1, 0],
                       [(reals(3, 4),), (reals(2, 1),), (strided(4, 5),)]),
    "strided: broadcast": (lambda x: bp.broadcast_to(x, (2, 3, 4)) * 2.0, lambda x: np.broadcast_to(x, (2, 3, 4)) * 2,
                           [(reals(),), (reals(4),), (reals(3, 1),), (reals(2, 1, 4),), (reals(1, 1, 1),)]),
    "take: arrays": (lambda x: x[np.array([0, -1]), [1, 1]] * x[x.shape[0] - 1, [0, 1]], lambda x: x[np.array([0, -1]), [1, 1]] * x[-1, [0, 1]],
                     [(reals(3, 4),), (reals(1, 2),), (strided(3, 3),)]),
    "take: mask": (lambda x: x[np.arange(x.size).reshape(x.shape) % 2 == 0], lambda x: x[np.arange(x.size).reshape(x.shape) % 2 == 0],
                   [(reals(3, 4),), (reals(1),), (reals(0, 2),)]),
    "pad": (lambda x: ops.apply("pad", [x], {"shape": (4, 9), "strides": (9, 2), "offset": 1}), _padded,
            [(reals(4, 4),), (reals(2, 3),), (reals(1, 1),), (reals(0, 2),), (reals(3, 0),), (strided(2, 2),), (reals(4, 1),), (reals(1, 4),)]),
    "concatenate": (lambda a, b: bp.concatenate([a, b, a], 1), lambda a, b: np.concatenate([a, b, a], 1),
                    [(reals(2, 3), reals(2, 1)), (reals(1, 1), reals(1, 4)), (reals(3, 0), reals(3, 2)), (reals(2, 2, 3), reals(2, 5, 3)),
                     (reals(0, 2), reals(0, 3)), (strided(2, 3), reals(2, 2)), (reals(1, 1), reals(1, 1)), (reals(17, 9), reals(17, 4))]),
    "concatenate: split": (lambda x: bp.concatenate(bp.split(x, [1, 3])[::-1]) - bp.concatenate(bp.split(x, 2)[::-1]),
                           lambda x: np.concatenate(np.split(x, [1, 3])[::-1]) - np.concatenate(np.split(x, 2)[::-1]), [(reals(4),), (reals(4, 3),)]),
    "call": (lambda x, w: _user(x, w, power=2), lambda x, w: (x**2 * w).sum(-1), _USER),
    "call_backward": (lambda x, w: bp.grad(bp.sum(_user_with_gradient(x, w)), x) * 2.0, lambda x, w: np.broadcast_to(4 * x * w, x.shape), _USER),
    "call_gradient": (lambda x, w: bp.sum(_user_with_gradient(x, w)) * 1.0, lambda x, w: (x**2 * w).sum(), _USER),
    "take": (_taken, _taken_reference, [(reals(3, 4),), (reals(5, 1),), (reals(3),), (reals(3, 2, 2),), (reals(4, 0),), (strided(3, 3),),
                                        (reals(3, 4), reals(2, 4)), (reals(3), reals(2, 1)), (reals(4, 2), reals(2, 0)),
                                        (reals(3, 2), strided(2, 3))]),
    "scatter_rows": (_scattered, _scattered_reference, [
        (reals(2, 4),), (reals(2, 1),), (reals(2),), (reals(2, 3, 2),), (reals(2, 0),), (strided(2, 3),), (reals(2, 4), reals(2, 4)),
        (reals(2), reals(2, 1)), (reals(2, 2), reals(2, 0)), (reals(2, 2), strided(2, 3))]),
    "softmax_cross_entropy": (lambda z: bp.softmax_cross_entropy(z, _LABELS[:z.shape[0]] % z.shape[1]),
                              lambda z: _lse(z)[:, 0] - z[np.arange(len(z)), _LABELS[:len(z)] % z.shape[1]],
                              [(reals(5, 3),), (reals(5, 4),), (reals(5, 33),), (strided(5, 3),), (reals(0, 3),), (reals(1, 1),), (reals(1, 3),), (reals(4, 2),)]),
    "softmax_cross_entropy: probabilities": (bp.softmax_cross_entropy, lambda z, t: (t * (_lse(z) - z)).sum(1),
                                             [(reals(5, 3), _P5), (reals(2, 3), pos(2, 3)), (strided(5, 3), _P5)]),
    "softmax_cross_entropy_gradient": (
        lambda z, t: bp.grad(bp.sum(bp.softmax_cross_entropy(z, t) * 2.0), z), lambda z, t: 2 * (np.exp(z - _lse(z)) * t.sum(1, keepdims=True) - t),
        [(reals(5, 3), _P5), (reals(2, 3), pos(2, 3)), (reals(1, 1), pos(1, 1)), (reals(0, 3), pos(0, 3)), (strided(5, 3), _P5),
         (reals(3, 4), pos(3, 4)), (reals(1, 5), pos(1, 5)), (reals(4, 1), pos(4, 1))]),
    "binary_cross_entropy": (bp.binary_cross_entropy, lambda z, y: np.log1p(np.exp(z)) - z * y, binary(away, lambda *s: pos(*s) / 3)),
}

# Operations without a gradient, or whose result is no function of their inputs; each has a test of its own.
WITHOUT = {"lt", "le", "eq", "ne", "argmax", "random", "dropout", "running", "batch_norm", "copy", "first", "coalesce",
           "row_update", "stored_rows", "input", "parameter", "state", "data", "constant", "scalar"}

# Kinds of samples that an operation cannot have, and why.
EXCEPT = {
    ("variance", "zero size"): "there is no variance of nothing",
    ("matmul", "broadcast"): "its shapes differ anyway",
    ("concatenate", "broadcast"): "parts are not broadcast",
    ("softmax_cross_entropy_gradient", "broadcast"): "scores and targets have one shape",
    ("take", "broadcast"): "table and weights have shapes of their own",
    ("scatter_rows", "broadcast"): "rows and weights have shapes of their own",
    ("scatter_rows", "one element"): "the samples' ids name two rows",
    **{(name, "broadcast"): "its shapes differ anyway" for name in ("call", "call_backward", "call_gradient")},
}


def operation_of(row):
    return row.partition(":")[0]


def lacks(name):
    """What the samples of an operation lack: a list of words."""
    samples = [xs for row, (_, _, inputs) in SAMPLES.items() if operation_of(row) == name for xs in inputs]
    kinds = {
        "8 samples": len(samples) >= 8,
        "zero size": any(np.size(x) == 0 for xs in samples for x in xs),
        "one element": any(all(np.size(x) == 1 for x in xs) for xs in samples),
        "not contiguous": any(not x.flags.c_contiguous for xs in samples for x in xs),
        "broadcast": any(len(xs) == 1 or len({np.shape(x) for x in xs}) > 1 for xs in samples),
    }
    return [kind for kind, there in kinds.items() if not there and (name, kind) not in EXCEPT]
