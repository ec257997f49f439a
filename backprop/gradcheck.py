"""Numeric gradient checks by central differences (LECTURE's habit: ``(f(x + h) - f(x - h)) / 2h``, h about 1e-4)."""

from __future__ import annotations

import numpy as np

from .eager import evaluate, grad, tensor
from .graph import Tensor, format_shape


class GradientError(AssertionError):
    """An analytic gradient disagrees with the numeric one."""


class Report:
    """What a gradient check found.

    Attributes
    ----------
    worst : float
        Largest ``|numeric - analytic| / max(1, |numeric|, |analytic|)``.
    entries : list of (input number, index, analytic, numeric, error)
        The worst ones, worst first.
    """

    def __init__(self, entries, checked, tolerance):
        self.entries, self.checked, self.tolerance = entries, checked, tolerance
        self.worst = entries[0][4] if entries else 0.0

    @property
    def passed(self):
        return self.worst <= self.tolerance

    def __repr__(self):
        head = (f"gradient check {'passed' if self.passed else 'FAILED'}: {self.checked} numbers, worst error {self.worst:.3g}, "
                f"tolerance {self.tolerance:g}")
        lines = [f"  input {i}{list(at)}: analytic {a:.10g}, numeric {n:.10g}, error {e:.3g}" for i, at, a, n, e in self.entries]
        return "\n".join([head, *(lines if not self.passed else [])])


def gradcheck(fn, inputs, h=1e-4, tolerance=1e-6, raise_exception=True, worst=10):
    """Compare the gradients of `fn` with central differences, in float64.

    Parameters
    ----------
    fn : callable
        Maps tensors to a tensor; where that has several elements, its sum is checked under fixed weights, so that errors
        in different elements do not cancel.
    inputs : sequence of array_like
    h : float
        Half the difference. The step is h * max(1, |x|).
    tolerance : float
        Largest error ``|numeric - analytic| / max(1, |numeric|, |analytic|)``.
    raise_exception : bool
    worst : int
        How many entries the report lists.

    Returns
    -------
    Report

    Raises
    ------
    GradientError
        Where the check fails, with the report as its message.
    """
    if not hasattr(inputs, "__iter__"):
        raise TypeError(f"inputs must be a list of arrays, got {type(inputs).__name__}")
    arrays = [np.array(x.value if isinstance(x, Tensor) else x, dtype="float64") for x in inputs]

    def scalar(tensors):
        y = fn(*tensors)
        if not isinstance(y, Tensor):
            raise TypeError(f"gradcheck needs a function that returns a Tensor, got {type(y).__name__}")
        if y.shape == ():
            return y
        weights = 0.5 + ((np.arange(max(y.size, 1)) * 0.6180339887498949) % 1.0)[:y.size].reshape(y.shape)
        return (y * weights).sum()

    tensors = [tensor(a) for a in arrays]
    y = scalar(tensors)
    if y.dtype not in (None, "float64"):
        raise TypeError(f"gradcheck works in float64, the function gave {y.dtype} {format_shape(y.shape)}")
    analytic = evaluate(grad(y, tensors))

    def value(i, array):
        return scalar([tensor(array) if j == i else t for j, t in enumerate(tensors)]).item()

    entries, checked = [], 0
    for i, a in enumerate(arrays):
        for at in np.ndindex(a.shape):
            step = h * max(1.0, abs(a[at]))
            up, down = a.copy(), a.copy()
            up[at] += step
            down[at] -= step
            numeric = (value(i, up) - value(i, down)) / (up[at] - down[at])
            own = float(analytic[i][at])
            error = abs(numeric - own) / max(1.0, abs(numeric), abs(own))
            entries.append((i, at, own, numeric, error if error == error else np.inf))
            checked += 1
    entries.sort(key=lambda e: -e[4])
    report = Report(entries[:worst], checked, tolerance)
    if raise_exception and not report.passed:
        raise GradientError(repr(report))
    return report
