"""The learning-rate range test: which rate to train with.

Train for a few steps while the rate grows by the same factor each step, and look at the loss: it falls, the faster the larger the
rate is, until the rate is too large and it rises (Smith 2017, section 3.3; the growing exponential, the smoothed loss and the
suggestion, a tenth of the rate at its lowest point, are those of fastai's finder).
"""

from __future__ import annotations

import math
import os

import numpy as np

from . import _core, optim
from .errors import NonFiniteError
from .schedules import Custom
from .trainer import Trainer

_SMOOTHING = 0.9
_DIVERGED = 4.0  # times the lowest smoothed loss


class Rates:
    """What `rate_finder` found.

    Attributes
    ----------
    lrs : ndarray (k,)
        Rates that were tried, ascending; fewer than asked for where the training diverged.
    losses : ndarray (k,)
        The loss at each step before its update: an exponential mean of factor 0.9, corrected for its start.
    raw : ndarray (k,)
        The loss of each batch.
    suggestion : float or None
        A tenth of the rate at the lowest point of the smoothed loss. None where that never falls.
    """

    def __init__(self, lrs, raw):
        self.lrs, self.raw = np.asarray(lrs, dtype="float64"), np.asarray(raw, dtype="float64")
        mean, smooth = 0.0, []
        for i, loss in enumerate(self.raw):
            mean = _SMOOTHING * mean + (1.0 - _SMOOTHING) * loss
            smooth.append(mean / (1.0 - _SMOOTHING ** (i + 1)))
        self.losses = np.array(smooth)
        lowest = int(self.losses.argmin())
        self.suggestion = max(float(self.lrs[lowest]) / 10.0, float(self.lrs[0])) if lowest else None

    def plot(self, where=None):
        """Draw the loss over the rate, with the suggestion. Needs matplotlib.

        Parameters
        ----------
        where : path-like or matplotlib Axes, optional
            A file to write (its ending chooses the format), or axes to draw on.

        Returns
        -------
        matplotlib.figure.Figure
        """
        if where is None or isinstance(where, (str, os.PathLike)):
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
        else:
            ax = where
        ax.plot(self.lrs, self.raw, color="0.8", linewidth=1, label="each batch")
        ax.plot(self.lrs, self.losses, color="tab:blue", label="smoothed")
        if self.suggestion is not None:
            height = np.interp(np.log(self.suggestion), np.log(self.lrs), self.losses)
            ax.plot(self.suggestion, height, "o", color="tab:red", label=f"suggestion: {self.suggestion:.2g}")
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        low, high = self.raw.min(), self.raw[:self.losses.argmin() + 1].max()  # what is far above is cut: it diverged
        margin = 0.08 * (high - low) or 1.0
        ax.set_ylim(low - margin, high + margin)
        ax.legend(loc="lower left")
        if isinstance(where, (str, os.PathLike)):
            ax.figure.savefig(where, dpi=150)
        return ax.figure

    def __repr__(self):
        found = "no rate lowers the loss" if self.suggestion is None else f"suggestion {self.suggestion:.3g}"
        return f"<Rates {self.lrs[0]:.3g} .. {self.lrs[-1]:.3g}, {len(self.lrs)} steps, {found}>"


def rate_finder(net, X, y, loss="cross_entropy", optimizer="adam", low=1e-6, high=1.0, steps=100, batch_size=32,
                sample_weight=None, seed=0, **rules) -> Rates:
    """Try `steps` learning rates from `low` to `high`, a step of training each; the network is afterwards as it was, bit for bit.

    It ends where the smoothed loss is above four times its lowest, or is not finite.

    Parameters
    ----------
    net : Network
    X, y, sample_weight
        As for `Trainer.fit`; batches are drawn as it draws them.
    loss, optimizer, seed
        As for `Trainer`. The optimiser's own rate, and those of its groups, do not count.
    low, high : float
    steps : int
    batch_size : int
    **rules
        Other arguments of `Trainer`: ``l2``, ``clip_norm`` ...

    Returns
    -------
    Rates
        With ``lrs``, ``losses``, ``suggestion`` and ``plot()``.
    """
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number above 0, got {value!r}")
    if low >= high:
        raise ValueError(f"low must be below high {high!r}, got {low!r}")
    for name, value, least in (("steps", steps, 2), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    lrs = np.geomspace(low, high, int(steps))
    optimizer = optim.resolve(optimizer)
    groups = {pattern: {k: v for k, v in settings.items() if k != "lr"} for pattern, settings in optimizer.groups.items()}
    optimizer = optimizer.variant(lr=Custom(lambda t: float(lrs[t])), **({"groups": groups} if groups else {}))
    built, net_seed = getattr(net, "built", None), getattr(net, "seed", None)
    trainer = Trainer(net, loss, optimizer, seed, **rules)  # TypeError for what is no network
    try:
        arrays, _ = trainer._check(X, y, sample_weight)
        kept = [(a, a.copy()) for a in (net.flat_parameters, net.flat_buffers)]
        try:
            return Rates(*_run(trainer, arrays, lrs, int(batch_size), sample_weight is not None))
        finally:
            for a, copy in kept:
                a[...] = copy
    finally:
        if not built:
            net._unbuild()
            net.seed = net_seed


def _run(trainer, arrays, lrs, batch, weighted):
    """Rates tried, and the loss at each."""
    n, inputs = len(arrays[0]), len(trainer.net._inputs)
    targets = slice(inputs, inputs + len(trainer.losses))
    per_epoch, raw, best, mean = -(-n // batch), [], math.inf, 0.0
    for t in range(len(lrs)):
        epoch, at = divmod(t, per_epoch)
        if at == 0:
            order = _core.permutation(n, trainer.seed, epoch)
        part = [a[order[at * batch:(at + 1) * batch]] for a in arrays]
        x, y = part[:inputs], part[targets]
        try:
            raw.append(trainer.step(x if inputs > 1 else x[0], y if len(y) > 1 else y[0], part[-1] if weighted else None))
        except NonFiniteError:
            break
        mean = _SMOOTHING * mean + (1.0 - _SMOOTHING) * raw[-1]
        smooth = mean / (1.0 - _SMOOTHING ** (t + 1))
        if smooth > _DIVERGED * best:
            break
        best = min(best, smooth)
    if not raw:
        raise NonFiniteError("the loss is not finite before the first update: look for NaN in the data")
    return lrs[:len(raw)], raw
