"""Sample inputs for every operation of the table: one list drives the reference, gradient and second gradient tests.

A row is (function of tensors, NumPy reference or None, list of input tuples). Inputs stay away from kinks by more than the
step of a central difference.
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


def _matrices():
    return [(reals(3, 4), reals(4, 5)), (reals(1, 1), reals(1, 1)), (reals(7, 33), reals(33, 2)), (reals(2, 300), reals(300, 17)),
            (reals(4, 3).T, reals(4, 2)), (reals(3, 0), reals(0, 2)), (reals(0, 3), reals(3, 2)), (reals(5, 1), reals(1, 9))]


_LABELS = np.array([0, 2, 1, 2, 0])
_P5 = np.abs(_rng.normal(size=(5, 3)))
_P5 /= _P5.sum(1, keepdims=True)

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
    "fma": (bp.fma, lambda a, b, c: a * b + c, [(reals(3, 4), reals(3, 4), reals(3, 4)), (reals(3, 4), reals(4), reals(3, 1)),
                                                 (reals(2), reals(), reals(2)), (reals(0, 2), reals(2), reals(2))]),
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
    "softmax": (lambda x: bp.softmax(x), lambda x: np.exp(x - _lse(x)), [(reals(1, 1),), (reals(3, 5),), (reals(7),), (reals(2, 3, 4),),
                                                                         (reals(0, 3),), (reals(4, 40),)]),
    "log_softmax": (lambda x: bp.log_softmax(x, 0), lambda x: x - _lse(x, 0), [(reals(1, 1),), (reals(3, 5),), (reals(7),), (reals(2, 3, 4),),
                                                                              (reals(3, 0),), (reals(40, 4),)]),
    "logsumexp": (lambda x: bp.logsumexp(x), lambda x: _lse(x)[..., 0], [(reals(1, 1),), (reals(3, 5),), (reals(7),), (reals(2, 3, 4),),
                                                                         (reals(0, 3),), (reals(4, 40),)]),
    "matmul": (bp.matmul, np.matmul, _matrices()),
    "reshape": (lambda x: bp.reshape(x, (-1,)) * 2.0, lambda x: x.reshape(-1) * 2, [(reals(3, 4),), (reals(1),), (reals(2, 3, 4),), (reals(0, 3),)]),
    "stop_gradient": (lambda x: x * bp.stop_gradient(bp.reshape(x, x.shape) * 0.0 + 2.0), lambda x: x * 2, unary()),
    "strided": (lambda x: bp.transpose(x)[::2] * 3.0, lambda x: x.T[::2] * 3, [(reals(3, 4),), (reals(1, 1),), (reals(2, 3, 4),), (reals(33, 17),),
                                                                               (reals(0, 3),), (reals(5),)]),
    "pad": (lambda x: ops.apply("pad", [x], {"shape": (4, 9), "strides": (9, 2), "offset": 1}), None, [(reals(4, 4),), (reals(2, 3),)]),
    "concatenate": (lambda a, b: bp.concatenate([a, b, a], 1), lambda a, b: np.concatenate([a, b, a], 1),
                    [(reals(2, 3), reals(2, 1)), (reals(1, 1), reals(1, 4)), (reals(3, 0), reals(3, 2)), (reals(2, 2, 3), reals(2, 5, 3)),
                     (reals(0, 2), reals(0, 3))]),
    "take": (lambda t: bp.take(t, np.array([2, 0, 2, 1])), lambda t: t[[2, 0, 2, 1]], [(reals(3, 4),), (reals(5, 1),), (reals(3),), (reals(3, 2, 2),)]),
    "scatter_rows": (lambda t: ops.apply("scatter_rows", [t, ops._index_tensor("x", np.array([2, 0, 2]))], {"rows": 4}), None,
                     [(reals(3, 4),), (reals(3, 1),)]),
    "softmax_cross_entropy": (lambda z: bp.softmax_cross_entropy(z, _LABELS), lambda z: _lse(z)[:, 0] - z[np.arange(5), _LABELS],
                              [(reals(5, 3),), (reals(5, 4),), (reals(5, 33),), (strided(5, 3),)]),
    "softmax_cross_entropy_gradient": (lambda z: bp.grad(bp.sum(bp.softmax_cross_entropy(z, _P5)), z) * 2.0, None, [(reals(5, 3),)]),
    "binary_cross_entropy": (bp.binary_cross_entropy, lambda z, y: np.log1p(np.exp(z)) - z * y,
                             [(reals(3), pos(3) / 3), (reals(3, 2), pos(3, 2) / 3), (reals(1), pos(1) / 3), (reals(0, 2), pos(0, 2) / 3)]),
}

# Operations without a gradient, or whose result is no function of their inputs; each has a test of its own.
WITHOUT = {"lt", "le", "eq", "ne", "argmax", "random", "dropout", "copy", "input", "parameter", "state", "data", "constant", "scalar"}
