"""Losses: from raw scores and targets to one number for each row.

The mean over a batch is ``sum_i w_i loss_i / sum_i w_i``, with all ``w_i = 1`` where no weights are given; class weights count
as weights too. A name stands for a loss with its usual settings, a class takes others: ``CrossEntropy(label_smoothing=0.1)``.
A loss of one's own is a function ``f(outputs, targets) -> Tensor`` of shape ``(n,)`` (or ``(n, k)``, averaged over k), written in
bp operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

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
    rows : callable, optional
        ``rows(outputs, targets) -> Tensor (n,)``; a class of its own defines it as a method.
    """

    def __init__(self, name, rows=None):
        self.name = name
        if rows is not None:
            self.rows = rows

    rows: Callable

    def weights(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """What a row counts in the mean, which is sum of rows / sum of weights; None: 1."""
        return None

    def mean(self, outputs: Tensor, targets: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The mean over the batch."""
        return weighted_mean(self.rows(outputs, targets), sample_weight, self.weights(outputs, targets))

    def options(self) -> dict:
        """The settings that are not the usual ones."""
        return {}

    def hits(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Which rows are predicted rightly, a bool for each; None where that means nothing."""
        return None

    def __str__(self):
        options = ", ".join(f"{k}={v!r}" for k, v in self.options().items())
        return f"{self.name}({options})" if options else self.name

    def __repr__(self):
        return f"<Loss {self}>"

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


class CrossEntropy(Loss):
    """Cross-entropy of softmax(scores): for a label c ``-log p_c``, for a row t of probabilities ``-sum_j t_j log p_j``.

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        Mixes the target with the uniform distribution: ``(1 - e) t + e / classes`` (Szegedy et al. 2016).
    class_weight : array_like (classes,) or dict of label to weight, optional
        Factor w_j of each class; 1 for labels that a dict lacks. For labels the mean is ``sum_i loss_i / sum_i w_(y_i)``, for
        probabilities ``sum_i loss_i / n``, as in PyTorch.
    """

    def __init__(self, label_smoothing=0.0, class_weight=None):
        super().__init__("cross_entropy")
        self.label_smoothing = _number("label_smoothing", label_smoothing, 0, 1)
        self.class_weight = class_weight
        if isinstance(class_weight, Mapping):
            for label in class_weight:
                if isinstance(label, bool) or not hasattr(label, "__index__") or label < 0:
                    raise ValueError(f"class_weight: labels are whole numbers 0, 1 ..., got {label!r}")
            self.class_weight = {int(k): float(v) for k, v in class_weight.items()}
            values = np.array(list(self.class_weight.values()))
        elif class_weight is not None:
            self.class_weight = values = np.array(check_array("class_weight", class_weight, "float64", ndim=1, finite=True))
        if class_weight is not None and not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("class_weight must be finite numbers, none negative")

    def options(self):
        weights = self.class_weight.tolist() if isinstance(self.class_weight, np.ndarray) else self.class_weight
        return {k: v for k, v in (("label_smoothing", self.label_smoothing), ("class_weight", weights)) if v}

    def _class_weights(self, classes):
        w = self.class_weight
        if isinstance(w, Mapping):
            if w and max(w) >= classes:
                raise ValueError(f"class_weight names the label {max(w)}, the network has {classes} classes (0 .. {classes - 1})")
            return np.array([w.get(j, 1.0) for j in range(classes)])
        if len(w) != classes:
            raise ValueError(f"class_weight has {len(w)} numbers, the network has {classes} classes")
        return w

    def rows(self, outputs, targets):
        e, classes = self.label_smoothing, outputs.shape[-1]
        w = None if self.class_weight is None else ops.as_tensor(self._class_weights(classes), outputs)
        if targets.dtype != "int32":
            t = targets * (1.0 - e) + e / classes if e else targets
            return F.softmax_cross_entropy(outputs, t if w is None else t * w)
        loss = F.softmax_cross_entropy(outputs, targets)
        if w is not None:
            loss = loss * ops.take(w, targets)
        if not e:
            return loss
        surprise = F.log_softmax(outputs) if w is None else F.log_softmax(outputs) * w
        return loss * (1.0 - e) - ops.sum(surprise, 1) * (e / classes)

    def weights(self, outputs, targets):
        if self.class_weight is None or targets.dtype != "int32":
            return None
        return ops.take(ops.as_tensor(self._class_weights(outputs.shape[-1]), outputs), targets)

    def hits(self, outputs, targets):
        return outputs.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))

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


class _Pointwise(Loss):
    """A loss of each number of the output and its target, averaged over the numbers of a row."""

    def points(self, outputs, targets) -> Tensor:
        raise NotImplementedError

    def rows(self, outputs, targets):
        return _row_mean(self.points(outputs, targets))


class SquaredError(_Pointwise):
    """``(z - y)^2``, averaged over the numbers of a row."""

    def __init__(self):
        super().__init__("squared_error")

    def points(self, outputs, targets):
        return F.square(ops.sub(outputs, targets))


class AbsoluteError(_Pointwise):
    """``|z - y|``, averaged over the numbers of a row; its slope is 0 at ``z = y``."""

    def __init__(self):
        super().__init__("absolute_error")

    def points(self, outputs, targets):
        return ops.abs(ops.sub(outputs, targets))


class Huber(_Pointwise):
    """``d^2 / 2`` where ``|d| <= delta``, else ``delta (|d| - delta / 2)``, with d = z - y; averaged over the numbers of a row.

    Parameters
    ----------
    delta : float
    """

    def __init__(self, delta=1.0):
        super().__init__("huber")
        self.delta = _number("delta", delta, 0, math.inf, open_low=True)

    def points(self, outputs, targets):
        return F.huber_loss(outputs, targets, self.delta)

    def options(self):
        return {"delta": self.delta} if self.delta != 1.0 else {}


class BinaryCrossEntropy(_Pointwise):
    """``-w y log p - (1 - y) log(1 - p)`` with ``p = sigmoid(score)``, averaged over the numbers of a row.

    Parameters
    ----------
    pos_weight : float or array_like (outputs,), optional
        The factor w of the positive part; above 1 it raises recall.
    """

    def __init__(self, pos_weight=None):
        super().__init__("binary_cross_entropy")
        self.pos_weight = pos_weight
        if pos_weight is not None:
            self.pos_weight = np.array(check_array("pos_weight", pos_weight, "float64", finite=True))
            if self.pos_weight.min() < 0:
                raise ValueError(f"pos_weight must not be negative, got {self.pos_weight.min():g}")

    def points(self, outputs, targets):
        if self.pos_weight is None:
            return F.binary_cross_entropy(outputs, targets)
        if self.pos_weight.ndim and self.pos_weight.shape != outputs.shape[1:]:
            raise ValueError(f"pos_weight has shape {self.pos_weight.shape}, the output has rows of shape {outputs.shape[1:]}")
        w = ops.as_tensor(self.pos_weight if self.pos_weight.ndim else float(self.pos_weight), outputs)
        # -log p = softplus(-z), -log(1 - p) = softplus(z)
        return targets * w * F.softplus(-outputs) + (1.0 - targets) * F.softplus(outputs)

    def options(self):
        return {} if self.pos_weight is None else {"pos_weight": self.pos_weight.tolist()}

    def hits(self, outputs, targets):
        return ((outputs > 0) == (targets > 0.5)).reshape(len(outputs), -1).all(1)

    def check(self, argument, y, output_shape, dtype):
        y = super().check(argument, y, output_shape, dtype)
        if y.min() < 0 or y.max() > 1:
            raise ValueError(f"{argument} must lie in [0, 1] for {self.name}, got {y.min():g} .. {y.max():g}")
        return y


class Hinge(BinaryCrossEntropy):
    """``max(0, margin - t z)`` with t = 1 for a target 1 and -1 for a target 0, averaged over the numbers of a row.

    Parameters
    ----------
    margin : float
    """

    def __init__(self, margin=1.0):
        super().__init__()
        self.name, self.margin = "hinge", _number("margin", margin, 0, math.inf)

    def points(self, outputs, targets):
        return F.relu((1.0 - targets * 2.0) * outputs + self.margin)

    def options(self):
        return {"margin": self.margin} if self.margin != 1.0 else {}


class Margin(Loss):
    """The max-margin loss ``max(0, margin - s + s_c)`` for an output (n, 2): the score s of an example, s_c of a corrupted one.

    Targets are not read: one number for each row, such as ``numpy.zeros(n)``. The accuracy is the part of the rows with s > s_c.

    Parameters
    ----------
    margin : float
    """

    def __init__(self, margin=1.0):
        super().__init__("margin")
        self.margin = _number("margin", margin, 0, math.inf)

    def rows(self, outputs, targets):
        return F.margin_loss(outputs[:, 0], outputs[:, 1], self.margin)

    def options(self):
        return {"margin": self.margin} if self.margin != 1.0 else {}

    def hits(self, outputs, targets):
        return outputs[:, 0] > outputs[:, 1]

    def target(self, output, labels):
        if output.shape[1:] != (2,):
            raise ShapeError(f"margin expects an output (n, 2), the scores of an example and of a corrupted one; "
                             f"got {format_shape(output.shape)}")
        return source("input", (BATCH,), output.dtype, "y")

    def check(self, argument, y, output_shape, dtype):
        return check_array(argument, y, dtype, ndim=1)


def _number(name, value, low, high, open_low=False):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high or (open_low and value == low):
        bounds = f"{'above' if open_low else 'at least'} {low}" + (f" and below {high}" if high < math.inf else ", finite")
        raise ValueError(f"{name} must be a number {bounds}, got {value!r}")
    return float(value)


def _row_mean(x):
    """(n, ...) to (n,): mean over all but the rows."""
    return F.mean(x, tuple(range(1, x.ndim))) if x.ndim > 1 else x


cross_entropy, squared_error, binary_cross_entropy = CrossEntropy(), SquaredError(), BinaryCrossEntropy()
absolute_error, huber, hinge, margin = AbsoluteError(), Huber(), Hinge(), Margin()

LOSSES: dict[str, Loss] = {f.name: f for f in (cross_entropy, squared_error, binary_cross_entropy, absolute_error, huber, hinge,
                                               margin)}
LOSSES.update(softmax_cross_entropy=cross_entropy, mse=squared_error, bce=binary_cross_entropy, mae=absolute_error)


def resolve(loss) -> Loss:
    """A loss by name, a `Loss`, or a function written in bp operations."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
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


def check_weights(weights, count) -> tuple[float, ...]:
    """A factor for each of `count` losses; ones where none are given."""
    if weights is None:
        return (1.0,) * count
    weights = tuple(weights) if hasattr(weights, "__iter__") else (weights,)
    if len(weights) != count:
        raise ValueError(f"loss_weights must have a number for each of the {count} losses, got {len(weights)}")
    for w in weights:
        if isinstance(w, bool) or not isinstance(w, (int, float)) or not 0 <= w < float("inf"):
            raise ValueError(f"loss_weights must be finite numbers of at least 0, got {w!r}")
    return tuple(float(w) for w in weights)


def weighted_sum(means, weights) -> Tensor:
    """``sum_k weights_k means_k``."""
    terms = [m if w == 1.0 else m * w for m, w in zip(means, weights)]
    total = terms[0]
    for t in terms[1:]:
        total = total + t
    return total


def weighted_mean(rows: Tensor, weights: Tensor | None, counts: Tensor | None = None) -> Tensor:
    """``sum w_i rows_i / sum w_i counts_i``, with ones for what is not given; 0 where the divisor is 0."""
    if weights is None and counts is None:
        return F.mean(rows)
    total = ops.sum(weights if counts is None else counts if weights is None else weights * counts)
    return ops.sum(rows if weights is None else rows * weights) / ops.where(ops.eq(total, 0.0), 1.0, total)
