"""Initial weights. An initializer is anything that answers ``initializer(shape, dtype, rng) -> ndarray``.

For a weight of shape (n_in, n_out), so that activations (He, LeCun) or activations and gradients (Xavier) keep their
variance from layer to layer:

    Xavier   var = 2 / (n_in + n_out)   Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
                                        neural networks", eq. 12; for tanh and logistic
    He       var = 2 / n_in             He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", eq. 10; for ReLU
    LeCun    var = 1 / n_in             LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", eq. 16

A uniform distribution on [-r, r] has variance r^2 / 3, so r = sqrt(3 var); Xavier's r is sqrt(6 / (n_in + n_out)).
Hidden biases start at zero. All-zero weights would keep the units of a layer identical for ever.

Random numbers come from the C core's counter-based generator, and the only functions taken of them are the core's log and
the correctly rounded square root: the same seed gives the same bits wherever the core's do.
"""

import dataclasses
import math
import operator
from typing import Protocol

import numpy as np

from . import _core

__all__ = [
    "Constant", "Initializer", "Normal", "Scaled", "Stream", "Uniform", "constant", "he_normal", "he_uniform",
    "inverse_sigmoid", "lecun_normal", "lecun_uniform", "normal", "ones", "output_bias", "resolve", "uniform",
    "xavier_normal", "xavier_uniform", "zeros",
]  # fmt: skip


class Initializer(Protocol):
    """What a layer calls for each of its parameters."""

    def __call__(self, shape: tuple, dtype: np.dtype, rng: "Stream") -> np.ndarray:
        """A new array. `shape` is (n_in, n_out) for weights, (n_out,) for biases."""


class Stream:
    """Random float64 numbers: draw number i is stream i of `seed`, so a draw does not depend on the sizes of those before.

    Parameters
    ----------
    seed : int
        In [0, 2^64).
    position : int
        Number of the next draw. ``Stream(s.seed, s.position)`` goes on where s is.
    """

    def __init__(self, seed, position=0):
        self.seed, self.position = operator.index(seed), operator.index(position)
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed must be in [0, 2^64), got {seed}")
        if self.position < 0:
            raise ValueError(f"position must not be negative, got {position}")

    def uniform(self, n):
        """n numbers in [0, 1), multiples of 2^-53."""
        self.position += 1
        return np.asarray(_core.uniform(n, self.seed, self.position - 1))

    def normal(self, n):
        """n numbers of mean 0 and variance 1, by Marsaglia's polar method (Marsaglia and Bray 1964).

        For (u, v) uniform in the unit disc and s = u^2 + v^2, the pair u f, v f with f = sqrt(-2 ln s / s) is normal.
        """
        parts, have = [np.empty(0)], 0
        while have < n:
            # A pair hits the disc with probability pi/4; the surplus makes a second round rare.
            pairs = (n - have) * 2 // 3 + 64
            u, v = 2.0 * self.uniform(2 * pairs).reshape(2, pairs) - 1.0
            s = u * u + v * v
            inside = (s > 0.0) & (s < 1.0)
            u, v, s = u[inside], v[inside], s[inside]
            f = np.sqrt(-2.0 * _log(s) / s)
            parts += [u * f, v * f]
            have += 2 * len(s)
        return np.concatenate(parts)[:n]


def _log(a):
    """The core's ln of a float64 array."""
    out = np.empty_like(a)
    isa = _core.isa_current()
    _core.kernel_map(isa, "log", out, a)
    return out


def _check_spread(name, value):
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number, not negative, got {value!r}")


# ------------------------------------------------------------------------------------------------------ initializers


@dataclasses.dataclass
class Constant:
    """Every element is `value`."""

    value: float

    def __call__(self, shape, dtype, rng):
        return np.full(shape, self.value, dtype)


@dataclasses.dataclass
class Uniform:
    """Uniform on [-r, r]."""

    r: float

    def __post_init__(self):
        _check_spread("r", self.r)

    def __call__(self, shape, dtype, rng):
        # 2 u - 1 is exact, so each element is rounded once, and once more to dtype.
        return (self.r * (2.0 * rng.uniform(math.prod(shape)) - 1.0)).reshape(shape).astype(dtype)


@dataclasses.dataclass
class Normal:
    """Normal of mean 0 and standard deviation `std`."""

    std: float

    def __post_init__(self):
        _check_spread("std", self.std)

    def __call__(self, shape, dtype, rng):
        return (self.std * rng.normal(math.prod(shape))).reshape(shape).astype(dtype)


@dataclasses.dataclass
class Scaled:
    """Variance ``gain / n``, where n is n_in, or (n_in + n_out) / 2 if `fan` is "mean"."""

    gain: float
    fan: str
    distribution: str

    def __post_init__(self):
        _check_spread("gain", self.gain)
        if self.fan not in ("in", "mean"):
            raise ValueError(f"fan must be 'in' or 'mean', got {self.fan!r}")
        if self.distribution not in ("uniform", "normal"):
            raise ValueError(f"distribution must be 'uniform' or 'normal', got {self.distribution!r}")

    def variance(self, shape):
        """The variance for a weight of shape (n_in, n_out)."""
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape must be (n_in, n_out) to scale weights by it, got {tuple(shape)}")
        n_in, n_out = shape
        return self.gain / n_in if self.fan == "in" else 2.0 * self.gain / (n_in + n_out)

    def __call__(self, shape, dtype, rng):
        variance = self.variance(shape)
        if self.distribution == "uniform":
            return Uniform(float(np.sqrt(3.0 * variance)))(shape, dtype, rng)
        return Normal(float(np.sqrt(variance)))(shape, dtype, rng)


zeros, ones = Constant(0.0), Constant(1.0)
constant, uniform, normal = Constant, Uniform, Normal
xavier_uniform, xavier_normal = Scaled(1.0, "mean", "uniform"), Scaled(1.0, "mean", "normal")
he_uniform, he_normal = Scaled(2.0, "in", "uniform"), Scaled(2.0, "in", "normal")
lecun_uniform, lecun_normal = Scaled(1.0, "in", "uniform"), Scaled(1.0, "in", "normal")

_NAMES = {
    "zeros": zeros, "ones": ones,
    "xavier": xavier_uniform, "xavier_uniform": xavier_uniform, "xavier_normal": xavier_normal,
    "glorot": xavier_uniform, "glorot_uniform": xavier_uniform, "glorot_normal": xavier_normal,
    "he": he_uniform, "he_uniform": he_uniform, "he_normal": he_normal,
    "kaiming": he_uniform, "kaiming_uniform": he_uniform, "kaiming_normal": he_normal,
    "lecun": lecun_uniform, "lecun_uniform": lecun_uniform, "lecun_normal": lecun_normal,
}  # fmt: skip


def resolve(initializer):
    """The initializer of a name ("he" is "he_uniform", and so on), of a number (constant), or the callable itself."""
    if isinstance(initializer, str):
        if initializer not in _NAMES:
            raise ValueError(f"unknown initializer {initializer!r}; known: {', '.join(_NAMES)}")
        return _NAMES[initializer]
    if isinstance(initializer, (int, float)) and not isinstance(initializer, bool):
        return Constant(float(initializer))
    if not callable(initializer):
        raise TypeError(f"initializer must be a name, a number or a callable, got {initializer!r}")
    return initializer


# ------------------------------------------------------------------------------------------------------- output bias


def inverse_sigmoid(p):
    """``ln(p / (1 - p))``, the score whose logistic is p: float64, shaped like p; 0.2 gives -1.3862944.

    Raises ValueError unless every p is strictly between 0 and 1.
    """
    p = np.asarray(p, np.float64)
    if not ((p > 0.0) & (p < 1.0)).all():
        raise ValueError(f"p must be strictly between 0 and 1, got {p}")
    odds = np.ascontiguousarray(p / (1.0 - p))
    out = _log(odds.reshape(-1)).reshape(p.shape)
    return out if p.ndim else float(out)


def output_bias(targets, loss=None, classes=None):
    """An output bias with which an untrained network predicts the mean target, whatever its inputs.

    Parameters
    ----------
    targets : array_like, shape (n,) or (n, outputs)
        For a cross-entropy labels (n,), or rows of probabilities.
    loss : {None, "squared_error", "binary_cross_entropy", "cross_entropy"}
        What the scores go into: nothing and the squared error give the means; the binary cross-entropy their inverse sigmoids
        (also called "sigmoid" or "logistic"); the cross-entropy the logarithms of the classes' frequencies.
    classes : int, optional
        Number of classes, where targets are labels; else the largest label and one.

    Returns
    -------
    float64, shape (1,) or (outputs,)

    Raises
    ------
    ValueError
        A mean of 0 or 1 has no inverse sigmoid; a class that does not occur has no logarithm.
    """
    kinds = {None: "mean", "squared_error": "mean", "mse": "mean", "binary_cross_entropy": "logistic", "bce": "logistic",
             "sigmoid": "logistic", "logistic": "logistic", "cross_entropy": "softmax", "softmax_cross_entropy": "softmax"}
    if not (loss is None or isinstance(loss, str)) or loss not in kinds:
        raise ValueError(f"loss (or the activation behind the scores) must be one of {', '.join(map(str, kinds))}, got {loss!r}")
    targets = np.asarray(targets, np.float64)
    if targets.ndim not in (1, 2) or not targets.size:
        raise ValueError(f"targets must have shape (n,) or (n, outputs), got {targets.shape}")
    if not np.isfinite(targets).all():
        raise ValueError("targets must be finite")
    if kinds[loss] == "softmax":
        return _log_frequencies(targets, classes)
    mean = targets.reshape(len(targets), -1).mean(axis=0)
    return mean if kinds[loss] == "mean" else inverse_sigmoid(mean)


def _log_frequencies(targets, classes):
    if targets.ndim == 1:
        labels = targets.astype(np.int64)
        if (labels != targets).any() or labels.min() < 0:
            raise ValueError("targets: class labels are whole numbers 0, 1 ...")
        if classes is not None and labels.max() >= classes:
            raise ValueError(f"targets: label {labels.max()} is out of range for {classes} classes")
        frequencies = np.bincount(labels, minlength=classes or 0) / len(labels)
    else:
        frequencies = targets.mean(axis=0)
    if not (frequencies > 0).all():
        raise ValueError(f"targets: class {int(np.argmin(frequencies > 0))} does not occur, and the logarithm of 0 is no bias")
    return _log(np.ascontiguousarray(frequencies))
