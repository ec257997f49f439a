"""One update from several passes: a batch as micro-batches, for batches whose activations would not fit into memory.

A micro-batch's program ends in gradients, which it adds to sums that nobody else has; when the last one has run, another program
updates with them, once. What is minimised is that of the whole batch,

    J = sum over all its rows of w_i loss_i / W + penalties,    W = sum over all its rows of w_i

so W is worked out first and given to each micro-batch, and the penalties stand in the program of the update alone, as do clipping,
max-norm and the average of the weights. Row r of the batch draws the random numbers that it would draw in the large batch, because
a run is told at which row of the batch it starts. Buffers, such as running statistics, are written to a copy, which the update
takes over: until then nothing has changed that anyone sees, and a batch can be abandoned at any point.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from . import losses, ops
from .autodiff import gradients
from .graph import BATCH, ancestors, scalar, source
from .lower import Assign, Storage, lower
from .network import aligned_zeros
from .sparse import RowGradient


def check(accumulate, functions):
    """`accumulate` as an int; ValueError where it is none of at least 1, or where a loss has a mean of its own."""
    if isinstance(accumulate, bool) or not hasattr(accumulate, "__index__") or accumulate < 1:
        raise ValueError(f"accumulate must be a whole number of at least 1, got {accumulate!r}")
    own = [f for f in functions if type(f).mean is not losses.Loss.mean]
    if accumulate > 1 and own:
        raise ValueError(f"accumulate={accumulate} needs losses whose mean is the usual one, sum of rows / sum of weights; "
                         f"{own[0]} has a mean of its own")
    return int(accumulate)


# ---------------------------------------------------------------- programs

def objective(functions, outputs, targets, weights, factors):
    """The loss of a micro-batch: its part of the mean over the batch; the scalar ``"total i"`` is what the i-th is divided by."""
    parts = []
    for i, (f, o, y) in enumerate(zip(functions, outputs, targets)):
        rows = f.rows(o, y)
        parts.append(ops.sum(rows if weights is None else rows * weights) / scalar(f"total {i}"))
    return losses.weighted_sum(parts, factors)


def added(net, dense):
    """Assignments that add gradients to the sums."""
    olds = {p: _sum_of(net, p) for p in dense}
    return [Assign("sums", net._gradient_offsets[p], ops.add(olds[p], g), olds[p]) for p, g in dense.items()]


def update(net, rules, given):
    """The gradients that a batch's update is made with, what it assigns beside, and J (None where no penalty stands in it).

    Parameters
    ----------
    net : Network
    rules : Rules
    given : dict of Parameter to (gradient, ids)
        Of the tables whose gradients are sparse; each id once, -1 for none.
    """
    parameters = net.trainable()
    grads = {p: given[p][0] if p in given else _sum_of(net, p) for p in parameters}
    assigns = [Assign("buffers", at, source("state", p.shape, net.dtype, space="buffers meanwhile", offset=at))
               for p, at in net._buffer_offsets.items() if p.layer.trainable]
    taken = [ops.sum(ops.take(net._sources[p], ids, -1)) for p, (_, ids) in given.items()]
    penalty = rules.penalty(reduce(ops.add, taken) if taken else scalar("loss"), net, parameters)
    if penalty is None:
        return grads, assigns, None
    covered = [p for p in parameters if rules.penalizes(p)]
    for p, g in zip(covered, gradients([penalty], [net._sources[p] for p in covered])):
        grads[p] = ops.add(grads[p], g)
    return grads, assigns, scalar("loss") + penalty


def counts(functions, outputs, targets, dtype, capacity):
    """A program of what each row counts in the means, where that is not 1; it reads targets alone, and ``counted`` says of which.

    Raises
    ------
    ValueError
        What a row counts depends on the outputs: it is not known before all micro-batches have run.
    """
    weights = [f.weights(o, y) for f, o, y in zip(functions, outputs, targets)]
    for f, w in zip(functions, weights):
        if w is not None and any(t.op.name in ("input", "parameter") and t not in targets for t in ancestors([w])):
            raise ValueError(f"accumulate cannot be used with the loss {f}: what a row counts in its mean depends on the outputs")
    plan = lower([w for w in weights if w is not None], dtype, capacity=capacity)
    plan.counted = [i for i, w in enumerate(weights) if w is not None]
    return plan


def _sum_of(net, p):
    return source("state", p.shape, net.dtype, f"d{net._names[p]}", space="sums", offset=net._gradient_offsets[p])


# ---------------------------------------------------------------- arrays and runs

class Sums:
    """What a batch leaves behind until its update: the sums of its gradients, and buffers."""

    def __init__(self, net):
        self.gradients = aligned_zeros(net._gradient_size, net.dtype)
        self.buffers = aligned_zeros(net.flat_buffers.size, net.dtype)

    def storage(self):
        spaces = {"sums": self.gradients, "buffers meanwhile": self.buffers}
        return {name: Storage(a.size, a.dtype.name, True) for name, a in spaces.items() if a.size}

    def bind(self, plan, binding, micro):
        """Put the arrays in their places; a micro-batch has the copy of the buffers for the buffers."""
        for name, a in (("sums", self.gradients), ("buffers meanwhile", self.buffers), *([("buffers", self.buffers)] if micro else [])):
            if name in plan.spaces:
                binding.set(plan.spaces[name], a)


class _Part:
    """Rows of a batch, where the batch is some rows of larger arrays."""

    def __init__(self, rows, start, count):
        self.start, self.count = start, count
        first = (rows.start or 0) + start if isinstance(rows, slice) else 0
        self.rows = slice(first, first + count) if isinstance(rows, slice) else rows[start:start + count]

    def of(self, array):
        return array[self.rows]


def step(trainer, arrays, rows, n, labels, weighted):
    """A step on `n` rows of checked arrays, in micro-batches; the loss."""
    net, sums = trainer.net, trainer._sums
    size = -(-n // trainer.accumulate)
    parts = [_Part(rows, start, min(size, n - start)) for start in range(0, n, size)]
    totals = _totals(trainer, arrays, parts, size, n, labels, weighted)
    held = trainer._prepare("micro", size, labels, weighted)
    plan, binding = held[:2]
    sums.gradients[...] = 0
    sums.buffers[...] = net.flat_buffers
    loss, found = 0.0, {p: [] for p in plan.tables}
    for part in parts:
        for space, i in plan.feeds:
            binding.set(space, part.of(arrays[i]))
        results = [np.empty([part.count if d == BATCH else d for d in t.shape], t.dtype) for t in plan.outputs[1:]]
        for i, a in enumerate(results, 1):
            binding.set(plan.spaces[f"output {i}"], a)
        loss += trainer._run_held(held, trainer._values(plan, part.count, 0, totals), part.count, 0, part.start)
        for i, p in enumerate(plan.tables):
            found[p].append(RowGradient.picked(*results[3 * i:3 * i + 3], p.shape))
    loss = float(np.asarray(loss, net.dtype))
    trainer._check_loss(loss)
    kept = {p: RowGradient.summed(np.concatenate([g.ids for g in gs]), np.concatenate([g.rows for g in gs]), p.shape)
            for p, gs in found.items()}
    return trainer._update("update", kept, {"loss": loss}, loss)


def _totals(trainer, arrays, parts, size, n, labels, weighted):
    """What the sum of each loss over a batch is divided by, as scalars of a run."""
    binding = plan = None
    if any(type(f).weights is not losses.Loss.weights for f in trainer.losses):
        plan, binding = trainer._prepare("counts", size, labels)[:2]
    totals = [0.0] * len(trainer.losses)
    for part in parts:
        w = part.of(arrays[-1]).astype("float64") if weighted else np.ones(part.count)
        every = {}
        if plan is not None and plan.counted:
            for space, i in plan.feeds:
                binding.set(space, part.of(arrays[i]))
            every = {i: np.empty(part.count, trainer.net.dtype) for i in plan.counted}
            for k, a in enumerate(every.values()):
                binding.set(plan.spaces[f"output {k}"], a)
            status, _, value, limit = binding.run(part.count, 0, -1, trainer.seed, trainer.t, part.start, True, 0)
            if status:
                trainer._fail(status, value, limit, trainer.t + 1)
        for i in range(len(totals)):
            totals[i] += float((w * every[i]).sum() if i in every else w.sum())
    return {f"total {i}": t or 1.0 for i, t in enumerate(totals)}  # as in the mean: over nothing it is 0
