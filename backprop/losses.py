"""Losses: from raw scores and targets to one number for each row.

The mean over a batch is ``sum_i w_i loss_i / sum_i w_i``, with all ``w_i = 1`` where no weights are given. A loss of one's own is
a function ``f(outputs, targets) -> Tensor`` of shape ``(n,)`` (or ``(n, k)``, averaged over k), written in bp operations.
"""

from __future__ import annotations

import numpy as np

from . import _core
from . import functions as F
from . import ops
from .arrays import check_array
from .errors import ShapeError
from .graph import BATCH, Tensor, format_shape, source


class Loss:
    """One number for each row.

    Parameters
    ----------
    name : str
    rows : callable
        ``rows(outputs, targets) -> Tensor (n,)``.
    """

    def __init__(self, name, rows):
        self.name, self.rows = name, rows

    def __repr__(self):
        return f"<Loss {self.name}>"

    def target(self, output: Tensor, labels: bool) -> Tensor:
        """The source that the targets are fed to."""
        return source("input", output.shape, output.dtype, "y")

    def check(self, argument: str, y, output_shape, dtype) -> np.ndarray:
        """`y` as the array that `target` takes, or an error that names `argument`."""
        y = check_array(argument, y, dtype, finite=True)
        width = output_shape[1:]
        if y.ndim == 1 and int(np.prod(width)) == 1:
            y = y.reshape(-1, *width)
        if y.shape[1:] != tuple(width):
            raise ValueError(f"{argument} has shape {y.shape}; the network's output has rows of shape {tuple(width)}")
        return y


class _CrossEntropy(Loss):
    def target(self, output, labels):
        if output.ndim != 2:
            raise ShapeError(f"cross_entropy expects an output (n, classes), got {format_shape(output.shape)}")
        return source("input", (BATCH,), "int32", "y") if labels else source("input", output.shape, output.dtype, "y")

    def check(self, argument, y, output_shape, dtype):
        classes = output_shape[-1]
        if type(y) is np.ndarray and y.ndim == 1 and y.size and y.dtype in (np.int64, np.int32) and y.flags.aligned:
            labels = np.empty(y.shape, dtype="int32")
            if _core.narrow_labels(np.ascontiguousarray(y), labels, classes) < 0:
                return labels
        a = check_array(argument, y, "float64", finite=True, ndim=(1, 2))
        if a.ndim == 2 and a.shape[1] == 1 and classes > 1:
            a = a[:, 0]
        if a.ndim == 1:
            whole = np.rint(a)
            if not np.array_equal(whole, a):
                at = int(np.argmax(whole != a))
                raise ValueError(f"{argument}[{at}] is {a[at]:g}: class labels are whole numbers 0 .. {classes - 1}")
            if whole.min() < 0 or whole.max() >= classes:
                at = int(np.argmax((whole < 0) | (whole >= classes)))
                raise ValueError(f"{argument}[{at}] is {int(whole[at])}, out of range for {classes} classes (0 .. {classes - 1})")
            return np.ascontiguousarray(whole.astype("int32"))
        if a.shape[1] != classes:
            raise ValueError(f"{argument} has shape {a.shape}; rows of probabilities must have {classes} columns")
        if a.min() < 0:
            raise ValueError(f"{argument} holds a negative probability ({a.min():g})")
        return check_array(argument, y, dtype, finite=True)


class _Binary(Loss):
    def check(self, argument, y, output_shape, dtype):
        y = super().check(argument, y, output_shape, dtype)
        if y.min() < 0 or y.max() > 1:
            raise ValueError(f"{argument} must lie in [0, 1] for binary_cross_entropy, got {y.min():g} .. {y.max():g}")
        return y


def _row_mean(x):
    """(n, ...) to (n,): mean over all but the rows."""
    return F.mean(x, tuple(range(1, x.ndim))) if x.ndim > 1 else x


cross_entropy = _CrossEntropy("cross_entropy", F.softmax_cross_entropy)
squared_error = Loss("squared_error", lambda z, y: _row_mean(F.square(ops.sub(z, y))))
binary_cross_entropy = _Binary("binary_cross_entropy", lambda z, y: _row_mean(F.binary_cross_entropy(z, y)))

LOSSES = {"cross_entropy": cross_entropy, "softmax_cross_entropy": cross_entropy, "squared_error": squared_error,
          "mse": squared_error, "binary_cross_entropy": binary_cross_entropy, "bce": binary_cross_entropy}


def resolve(loss) -> Loss:
    """A loss by name, a `Loss`, or a function written in bp operations."""
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        def rows(z, y):
            value = loss(z, y)
            if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != BATCH:
                raise ShapeError("a loss function must return one number for each row, a Tensor of shape (n,); got "
                                 + (format_shape(value.shape) if isinstance(value, Tensor) else type(value).__name__))
            return _row_mean(value)
        return Loss(getattr(loss, "__name__", "custom"), rows)
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(sorted(LOSSES))}, or a function, got {loss!r}")
    return LOSSES[loss]


def weighted_mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    """``sum w_i rows_i / sum w_i``; 0 where all weights are 0."""
    if weights is None:
        return F.mean(rows)
    total = ops.sum(weights)
    return ops.sum(rows * weights) / ops.where(ops.eq(total, 0.0), 1.0, total)
