"""From gradients to new weights: penalties, clipping, the optimiser of each parameter, max-norm, the average of the weights.

A step minimises ``J = mean loss + l2 sum theta^2 + l1 sum |theta|`` and then, in this order,

1. cuts each element of the gradient of J to ``[-clip_value, clip_value]``;
2. scales all gradients by ``min(1, clip_norm / (|g| + 1e-6))``, |g| over all of them together;
3. updates, each parameter by the optimiser of its group;
4. scales each column of a weight matrix, the incoming weights of a unit, to a norm of at most `max_norm`;
5. moves the average of the weights: ``ema = d ema + (1 - d) theta``, with d = 0 at the first update.

All of it is part of the graph of the step. What is elementwise (penalty, clip_value, update, average) hangs on the product that
makes the gradient; a norm is a sum over all of an array, so that what follows it is an instruction of its own.
"""

from __future__ import annotations

import math
from functools import reduce

from . import functions as F
from . import ops
from .graph import Tensor, scalar, source
from .lower import Assign
from .schedules import Settings
from .sparse import row_sum, stored, tables

_EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_


def _number(name, value, positive=False):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0 or (
            positive and value == 0):
        raise ValueError(f"{name} must be a finite number {'above 0' if positive else 'of at least 0'}, got {value!r}")
    return float(value)


def _total(numbers):
    return reduce(ops.add, numbers)


class Rules(Settings):
    """What a trainer does beside the optimiser; checked on the way in. None and 0 switch a rule off.

    Parameters
    ----------
    l2, l1 : float
        Factors of the sum of squares and of absolute values.
    penalize_biases : bool
        Penalties cover vectors too (biases, learned slopes).
    max_norm, clip_value, clip_norm : float, optional
    ema : float in (0, 1), optional
        Decay of the average of the weights.
    """

    def __init__(self, l2=0.0, l1=0.0, penalize_biases=False, max_norm=None, clip_value=None, clip_norm=None, ema=None):
        self.l2, self.l1, self.penalize_biases = _number("l2", l2), _number("l1", l1), bool(penalize_biases)
        self.max_norm = None if max_norm is None else _number("max_norm", max_norm, True)
        self.clip_value = None if clip_value is None else _number("clip_value", clip_value, True)
        self.clip_norm = None if clip_norm is None else _number("clip_norm", clip_norm, True)
        self.ema = None if ema is None else _number("ema", ema, True)
        if ema is not None and ema >= 1:
            raise ValueError(f"ema must be below 1, got {ema!r}")

    def config(self) -> dict:
        """The rules that are on."""
        return {k: v for k, v in vars(self).items() if v}  # none that is on is 0

    # ---------------------------------------------------------------- the loss

    def penalizes(self, parameter) -> bool:
        """Whether a penalty covers a parameter: matrices, and vectors where biases count."""
        return bool(self.l2 or self.l1) and (self.penalize_biases or len(parameter.shape) > 1)

    def penalty(self, loss, net, parameters) -> Tensor | None:
        """``l2 sum theta^2 + l1 sum |theta|``; None where nothing is penalised.

        Its gradient is ``2 l2 theta + l1 sign(theta)``, with sign(0) = 0. Of a table whose gradient is sparse it covers the rows
        that the step touches, each once.
        """
        weights = [net._sources[p] for p in parameters if self.penalizes(p)]
        taken = tables([loss], weights) if weights else {}
        weights = [taken[w].touched(w) if w in taken else w for w in weights]
        total = None
        for factor, size in ((self.l2, F.square), (self.l1, ops.abs)):
            if factor and weights:
                term = _total([ops.sum(size(w)) for w in weights]) * factor
                total = term if total is None else total + term
        return total

    # ---------------------------------------------------------------- gradients

    def cut(self, gradient) -> Tensor:
        """A gradient, its elements cut to `clip_value`."""
        return gradient if self.clip_value is None else F.clip(gradient, -self.clip_value, self.clip_value)

    def norm(self, gradients) -> Tensor | None:
        """The norm of all gradients, cut, together; None where nothing asks for it."""
        if self.clip_norm is None or not gradients:
            return None
        return ops.sqrt(_total([ops.sum(F.square(self.cut(g))) for g in gradients]))

    def clipped(self, gradient, norm) -> Tensor:
        """A gradient, cut and scaled."""
        g = self.cut(gradient)
        return g if norm is None else g * ops.minimum(self.clip_norm / (norm + _EPS), 1.0)

    # ---------------------------------------------------------------- weights

    def limited(self, weight) -> Tensor:
        """A new weight matrix, its columns scaled to a norm of at most `max_norm`; one that is shorter keeps its bits."""
        if self.max_norm is None or len(weight.shape) < 2:
            return weight
        norm = ops.sqrt(ops.sum(weight * weight, 0, keepdims=True))
        return weight * ops.where(ops.gt(norm, self.max_norm), self.max_norm / norm, 1.0)

    def averaged(self, value, average) -> Tensor:
        """The next average, from the new parameter and the average so far; the scalar ``"ema"`` is d."""
        return ops.fma(average - value, scalar("ema"), value)


def assignments(net, grads, optimizers, slots, rules) -> tuple[list[Assign], list[Tensor]]:
    """The update of every parameter that has a gradient.

    The gradient of a table that is sparse is not made whole: what is elementwise runs over the rows that the step touches, the
    average of the weights too, and max-norm, which is about units, leaves such a table alone.

    Parameters
    ----------
    net : Network
    grads : dict of Parameter to Tensor
    optimizers : dict of str to Optimizer
        By the parameter's name.
    slots : tuple of str
        Names of the arrays in the space ``"state"``, in order; each is laid out like ``net.flat_parameters``.
    rules : Rules

    Returns
    -------
    list of Assign, list of Tensor
        The second are numbers that must be finite before the first of the assignments.
    """
    assigns, size = [], net.flat_parameters.size
    sums = {p: row_sum(g) if p in net._tables else None for p, g in grads.items()}
    norm = rules.norm([g if sums[p] is None else sums[p].coalesced() for p, g in grads.items()])
    for p, g in grads.items():
        name, at, sparse = net._names[p], net._offsets[p], sums[p] is not None
        optimizer = optimizers[name]
        kept = [*optimizer.slots, *(["ema"] if rules.ema is not None else [])]
        places = {slot: slots.index(slot) * size + at for slot in kept}
        if sparse:
            g = sums[p].update()
            weight = stored(g, "parameters", at, name)
            state = {slot: stored(g, "state", o, f"{name}.{slot}") for slot, o in places.items()}
        else:
            weight = net._sources[p]
            state = {slot: source("state", p.shape, net.dtype, f"{name}.{slot}", space="state", offset=o)
                     for slot, o in places.items()}
        value, new = optimizer.update(weight, rules.clipped(g, norm), {slot: state[slot] for slot in optimizer.slots})
        if not sparse:
            value = rules.limited(value)
        if rules.ema is not None:
            new = {**new, "ema": rules.averaged(value, state["ema"])}
        assigns.append(Assign("parameters", at, value, weight))
        assigns += [Assign("state", places[slot], new[slot], state[slot]) for slot in new]
    return assigns, [] if norm is None else [norm]
