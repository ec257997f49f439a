"""Numeric gradient checks by central differences (LECTURE's habit: ``(f(x + h) - f(x - h)) / 2h``, h about 1e-4).

Of a function of tensors, of a network with its loss, and of a trainer's whole objective, penalties included. All in float64.
"""

from __future__ import annotations

import math

import numpy as np

from .eager import evaluate, grad, tensor
from .graph import FLOATS, Tensor, format_shape, rebuild, source
from .lower import Storage, lower
from .autodiff import gradients
from .network import Network
from .trainer import Trainer

_SMALLER = (1.0, 0.1, 0.01)  # of h, one after another, where a difference disagrees: a kink may lie between x - h and x + h
_KINK = 1e-3  # slopes to the left and to the right that differ by more, at the smallest h, are those of a kink at x itself


class GradientError(AssertionError):
    """An analytic gradient disagrees with the numeric one."""


class Report:
    """What a gradient check found.

    Attributes
    ----------
    worst : float
        Largest ``|numeric - analytic| / max(1, |numeric|, |analytic|)``.
    entries : list of (input, index, analytic, numeric, error)
        The worst ones, worst first; an input is its number, or the name of a parameter.
    checked : int
        Numbers that were compared.
    kinks : int
        How many of them lie on a kink or beside one. Where x itself is a kink any slope between those of its two sides is right.
    passed : bool
    """

    def __init__(self, entries, checked, kinks, tolerance):
        self.entries, self.checked, self.kinks, self.tolerance = entries, checked, kinks, tolerance
        self.worst = entries[0][4] if entries else 0.0

    @property
    def passed(self):
        return self.worst <= self.tolerance

    def __repr__(self):
        head = (f"gradient check {'passed' if self.passed else 'FAILED'}: {self.checked} numbers, worst error {self.worst:.3g}, "
                f"tolerance {self.tolerance:g}" + (f", {self.kinks} at kinks" if self.kinks else ""))
        lines = [f"  {f'input {i}' if isinstance(i, int) else i}{list(at)}: analytic {a:.10g}, numeric {n:.10g}, error {e:.3g}"
                 for i, at, a, n, e in self.entries]
        return "\n".join([head, *(lines if not self.passed else [])])


def _error(numeric, analytic):
    error = abs(numeric - analytic) / max(1.0, abs(numeric), abs(analytic))
    return error if error == error else math.inf


def _compare(f, a, at, own, h, tolerance):
    """(numeric slope of f() in a[at], error, whether there is a kink); a[at] is what it was after."""
    x = float(a[at])

    def value(to):
        a[at] = to
        try:
            return f()
        finally:
            a[at] = x
    best = None
    for i, factor in enumerate(_SMALLER):
        step = h * factor * max(1.0, abs(x))
        up, down = x + step, x - step
        high, low = value(up), value(down)
        numeric = (high - low) / (up - down)
        error = _error(numeric, own)
        if best is None or error < best[1]:
            best = numeric, error, i > 0
        if error <= tolerance:
            return best
    here = f()
    left, right = (here - low) / (x - down), (high - here) / (up - x)
    if abs(right - left) > _KINK * max(1.0, abs(left), abs(right)):  # in [left, right] up to what such differences are worth
        nearest = min(max(own, min(left, right)), max(left, right))
        return nearest, 0.0 if _error(nearest, own) <= _KINK / 2 else best[1], True
    return best[0], best[1], False


def _check(names, arrays, analytic, f, h, tolerance, raise_exception, worst, most, seed):
    """The report on gradients `analytic` of f(), a function of what stands in `arrays`."""
    if not (isinstance(h, (int, float)) and 0 < h < math.inf):
        raise ValueError(f"h must be a positive number, got {h!r}")
    entries, checked, kinks = [], 0, 0
    draw = np.random.default_rng(seed)
    for name, a, g in zip(names, arrays, analytic):
        flat = np.arange(a.size)
        if most is not None and a.size > most:  # half of them where there is a gradient, if there is
            hit = np.flatnonzero(g)
            hit = draw.choice(hit, min(hit.size, most // 2), replace=False)
            rest = np.setdiff1d(flat, hit)
            flat = np.sort(np.concatenate([hit, draw.choice(rest, most - hit.size, replace=False)]))
        for i in flat:
            at = tuple(int(k) for k in np.unravel_index(i, a.shape))
            own = float(g[at])
            numeric, error, kink = _compare(f, a, at, own, h, tolerance)
            entries.append((name, at, own, numeric, error))
            checked, kinks = checked + 1, kinks + kink
    entries.sort(key=lambda e: -e[4])
    report = Report(entries[:worst], checked, kinks, tolerance)
    if raise_exception and not report.passed:
        raise GradientError(repr(report))
    return report


def gradcheck(fn, inputs, h=1e-4, tolerance=1e-6, raise_exception=True, worst=10, loss="cross_entropy", max_entries=200,
              seed=0):
    """Compare gradients with central differences, in float64.

    Parameters
    ----------
    fn : callable or Network
        A function maps tensors to a tensor; where that has several elements, its sum is checked under fixed weights, so that
        errors in different elements do not cancel. It must not draw at random.
        Of a network its parameters are checked, by the mean loss on some data.
    inputs : sequence of array_like
        For a network ``(X, y)`` or ``(X, y, sample_weight)``.
    h : float
        Half the difference. The step is h * max(1, |x|). Where the difference disagrees h / 10 and h / 100 are tried: a kink may
        lie between.
    tolerance : float
        Largest error ``|numeric - analytic| / max(1, |numeric|, |analytic|)``.
    raise_exception : bool
    worst : int
        How many entries the report lists.
    loss : str, Loss, callable, or a list of one for each output
        For a network, as in `Trainer`.
    max_entries : int or None
        For a network: numbers of one parameter that are checked. Of a larger one they are drawn by `seed`, half of
        them among those with a gradient. None: all.
    seed : int

    Returns
    -------
    Report

    Raises
    ------
    GradientError
        Where the check fails, with the report as its message: the worst entries with position, analytic and numeric value.

    Notes
    -----
    A network is checked as it trains: dropout draws one mask that stays, batch normalisation uses the statistics of the batch.
    Its dtype does not matter; the check computes in float64. Nothing of the network is changed.
    """
    if isinstance(fn, Network):
        if not isinstance(inputs, (tuple, list)) or len(inputs) not in (2, 3):
            raise ValueError("gradcheck of a network takes its data as (X, y) or (X, y, sample_weight)")
        return Trainer(fn, loss=loss).gradcheck(*inputs, h=h, tolerance=tolerance, raise_exception=raise_exception, worst=worst,
                                                max_entries=max_entries, seed=seed)
    if not hasattr(inputs, "__iter__"):
        raise TypeError(f"inputs must be a list of arrays, got {type(inputs).__name__}")
    arrays = [np.array(x.value if isinstance(x, Tensor) else x, dtype="float64", order="C") for x in inputs]

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
    return _check(range(len(arrays)), arrays, evaluate(grad(y, tensors)),
                  lambda: scalar([tensor(a) for a in arrays]).item(), h, tolerance, raise_exception, worst, None, 0)


def _of_trainer(trainer, x, y, sample_weight=None, h=1e-4, tolerance=1e-6, raise_exception=True, worst=10, max_entries=200,
                seed=0):
    """Compare the gradients that training uses with central differences of its objective, on some data: `backprop.gradcheck`.

    The objective is the mean loss, or the weighted sum of losses, plus the penalties. What comes between gradient and update,
    such as clipping and weight decay, is not part of it.

    Parameters
    ----------
    x, y, sample_weight
        As in `step`.
    h, tolerance, raise_exception, worst, max_entries, seed
        As in `backprop.gradcheck`.

    Returns
    -------
    Report
        Its entries name the parameters.
    """
    net = trainer.net
    arrays, labels = trainer._check(x, y, sample_weight, ("x", "y", "sample_weight"))
    arrays = [a.astype("float64") if a.dtype.name in FLOATS else a for a in arrays]
    total, feeds = trainer._objective(net.training_graph()[0], labels, sample_weight is not None)
    checked = net.trainable()
    replace = {s: source("input", s.shape, "float64" if s.dtype in FLOATS else s.dtype, s.name) for s in feeds}
    parameters = {p: source("parameter", p.shape, "float64", net._names[p], space="parameters", offset=net._offsets[p])
                  for p in checked}
    replace |= {net._sources[p]: s for p, s in parameters.items()}
    (total,), _ = rebuild([total], replace, dtype="float64")
    rows = arrays[0].shape[0]
    plan = lower([total, *gradients([total], list(parameters.values()))], "float64", capacity=rows, storage={
        name: Storage(s.elements, "float64", s.writable) for name, s in net.storage().items()})
    binding = plan.binding()
    values = net.flat_parameters.astype("float64")
    binding.set(plan.spaces["parameters"], values)
    if "buffers" in plan.spaces:
        binding.set(plan.spaces["buffers"], net.flat_buffers.astype("float64"))
    fed = {replace[s]: a for s, a in zip(feeds, arrays)}
    for i, s in enumerate(plan.inputs):
        if s in fed:
            binding.set(plan.spaces[f"input {i}"], fed[s])
    if plan.scalars:
        numbers = trainer._numbers(trainer.t + 1, trainer.epoch, rows)
        binding.set(plan.spaces["scalars"], np.array([numbers[k] for k in plan.scalars], dtype="float64"))
    results = [np.empty(t.shape) for t in plan.outputs]
    for i, r in enumerate(results):
        binding.set(plan.spaces[f"output {i}"], r)

    def loss():  # the same seed and step, so the same masks
        status, _, value, limit = binding.run(rows, 0, -1, trainer.seed, trainer.t, 0, False, 0)
        if status:
            trainer._fail(status, value, limit, trainer.t + 1)
        return float(results[0])
    loss()
    views = [values[net._offsets[p]:net._offsets[p] + math.prod(p.shape)].reshape(p.shape) for p in checked]
    return _check([net._names[p] for p in checked], views, [g.copy() for g in results[1:]], loss, h, tolerance, raise_exception,
                  worst, max_entries, seed)


Trainer.gradcheck = _of_trainer
