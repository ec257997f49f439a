"""Where the time of a training step goes, instruction by instruction.

A program is a list of instructions, and a run may take any stretch of it: so each instruction is timed by running the step one
instruction after the other, without a profiler. It runs on copies of the parameters and the optimiser's state; training is not
touched. What a call costs that runs nothing is taken off.
"""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import dataclass

import numpy as np

from .trainer import Trainer

_PHASES = ("forward", "backward", "update")


@dataclass(frozen=True)
class Row:
    """One instruction (or one that runs others, by blocks of rows, with them).

    Attributes
    ----------
    text : str
        As in ``trainer.describe()``.
    phase : str
        ``"forward"``: up to the check of the loss. ``"update"``: it writes to parameters or to the optimiser's state, beside
        the product or the sum that it may hang on. ``"backward"``: the others.
    seconds : float
        Median over the repeats.
    """

    text: str
    phase: str
    seconds: float


class Profile:
    """A step's time by instruction; ``print(profile)`` shows it as a table.

    Attributes
    ----------
    rows : list of Row
        In the order in which they run.
    seconds : float
        Of all of them.
    whole : float
        Of the step run in one go: less than `seconds` where instructions leave their results in cache for the next.
    """

    def __init__(self, rows, whole):
        self.rows, self.whole = rows, whole
        self.seconds = sum(r.seconds for r in rows)

    def phases(self) -> dict[str, float]:
        """Seconds of each phase."""
        return {p: sum(r.seconds for r in self.rows if r.phase == p) for p in _PHASES}

    def __str__(self):
        lines = [f"{'microseconds':>12} {'share':>6}  {'phase':8}  instruction"]
        total = self.seconds or 1.0
        lines += [f"{r.seconds * 1e6:12.1f} {r.seconds / total:6.1%}  {r.phase:8}  {r.text}" for r in self.rows]
        lines.append(f"{self.seconds * 1e6:12.1f} {1:6.0%}  " + ", ".join(
            f"{p} {s / total:.0%}" for p, s in self.phases().items()) + f"; in one go {self.whole * 1e6:.1f}")
        return "\n".join(lines)


def profile(trainer, x, y, sample_weight=None, repeats=20) -> Profile:
    """Time the instructions of ``trainer.step(x, y, sample_weight)`` without taking that step.

    Parameters
    ----------
    trainer : Trainer
    x, y, sample_weight
        As for `Trainer.step`.
    repeats : int
        Steps to run, each on from the last, on copies of parameters and state.

    Returns
    -------
    Profile

    Raises
    ------
    NonFiniteError
        The loss is NaN or infinite.

    Notes
    -----
    Times are those of this machine now, on ``bp.threads`` threads. The clock resolves some tens of nanoseconds.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"trainer must be a bp.Trainer, got {type(trainer).__name__}")
    if isinstance(repeats, bool) or not hasattr(repeats, "__index__") or repeats < 1:
        raise ValueError(f"repeats must be a whole number of at least 1, got {repeats!r}")
    arrays, labels = trainer._check(x, y, sample_weight, ("x", "y", "sample_weight"))
    n, net = arrays[0].shape[0], trainer.net
    plan = trainer._lower("step", n, labels, sample_weight is not None)
    binding = plan.binding()
    own = {"parameters": net.flat_parameters, "buffers": net.flat_buffers, "state": trainer.state}
    own = {name: np.array(a) for name, a in own.items() if name in plan.spaces}
    numbers = np.zeros(max(len(plan.scalars), 1), dtype=net.dtype)
    values = trainer._numbers(trainer.t + 1, trainer.epoch, n)
    numbers[:len(plan.scalars)] = [values[k] for k in plan.scalars]
    own |= {"scalars": numbers} if plan.scalars else {}
    own["output 0"] = np.zeros((), dtype=net.dtype)
    for name, a in own.items():
        binding.set(plan.spaces[name], a)
    for space, i in plan.feeds:
        binding.set(space, arrays[i])

    def run(first, last):
        started = time.perf_counter()
        status, _, value, limit = binding.run(n, first, last, trainer.seed, trainer.t, 0, True, 0)
        spent = time.perf_counter() - started
        if status:
            trainer._fail(status, value, limit, trainer.t + 1)
        return spent

    texts, parts = plan.describe().splitlines(), []
    while (at := parts[-1][1] if parts else 0) < len(texts):
        inner = re.search(r" row_blocks .*the next (\d+),", texts[at])
        parts.append((at, at + 1 + (int(inner[1]) if inner else 0)))
    run(0, -1)
    times, wholes, nothing = [[] for _ in parts], [], []
    for _ in range(repeats):
        for spent, (first, last) in zip(times, parts):
            nothing.append(run(first, first))
            spent.append(run(first, last))
        wholes.append(run(0, -1))
    spare = statistics.median(nothing)
    rows, phase = [], "forward"
    for spent, (first, last) in zip(times, parts):
        writes = any(re.search(r"@(parameters|state)\+", t) for t in texts[first:last])
        rows.append(Row(texts[first].strip(), "update" if writes else phase, max(statistics.median(spent) - spare, 0.0)))
        if re.match(r" *\d+ check ", texts[first]):
            phase = "backward"
    return Profile(rows, max(statistics.median(wholes) - spare, 0.0))
