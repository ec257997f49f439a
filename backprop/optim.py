"""Optimisers: the update of one parameter, written in the operations of the graph.

An optimiser is lowered with the rest of the step, and so runs as an elementwise program: alone, or in the epilogue of the
product that makes the gradient. Numbers that change from step to step (the learning rate, bias corrections) are scalars of
the program; they are computed here from products alone, so that they are the same on every machine.
"""

from __future__ import annotations

import math

from . import ops
from .graph import Tensor, scalar
from .schedules import as_schedule


_POWERS: dict[float, list[float]] = {}


def _power(base: float, n: int) -> float:
    """base**n as a running product, kept; 0 where it is too small to change 1 - base**n."""
    table = _POWERS.setdefault(base, [1.0])
    while n >= len(table):
        if table[-1] < 1e-17:
            return 0.0
        table.append(table[-1] * base)
    return table[n]


def _check(name, value, low, high, open_low=False, open_high=True):
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < low or (open_low and value == low) or (
            high is not None and (value > high or (open_high and value == high))):
        upper = "" if high is None else f" and {'below' if open_high else 'at most'} {high:g}"
        raise ValueError(f"{name} must be {'above' if open_low else 'at least'} {low:g}{upper}, got {value!r}")
    return float(value)


class Optimizer:
    """What every optimiser answers.

    Attributes
    ----------
    slots : tuple of str
        Names of the arrays, in the parameter's shape and zero at first, that it keeps for each parameter.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, lr):
        self.lr = lr
        self.schedule = as_schedule(lr)

    def numbers(self, t: int, lr: float) -> dict[str, float]:
        """Scalars of update number `t` (1, 2, 3 ...) at learning rate `lr`."""
        return {"-lr": -lr}

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The new parameter and the new state, from the parameter, its gradient and its state."""
        raise NotImplementedError

    def config(self) -> dict:
        """What tells this optimiser from another: checkpoints hold it."""
        return {"class": type(self).__name__, **{k: v for k, v in vars(self).items() if isinstance(v, (int, float, bool, str, tuple))
                                                 and k != "lr"}}

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items() if k != 'schedule')})"


def _with_decay(g, p, weight_decay):
    return ops.fma(p, weight_decay, g) if weight_decay else g


class SGD(Optimizer):
    """Stochastic gradient descent: ``v = momentum v + g;  p = p - lr v`` (Nesterov: ``p = p - lr (g + momentum v)``).

    Parameters
    ----------
    lr : float or schedule
    momentum : float in [0, 1)
    nesterov : bool
    weight_decay : float
        Adds ``weight_decay p`` to the gradient.

    References
    ----------
    Sutskever et al. 2013, in the form of ``torch.optim.SGD``.
    """

    def __init__(self, lr=0.01, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(lr)
        self.momentum = _check("momentum", momentum, 0, 1)
        self.nesterov = bool(nesterov)
        self.weight_decay = _check("weight_decay", weight_decay, 0, None)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0")
        self.slots = ("velocity",) if self.momentum else ()

    def update(self, p, g, state):
        g = _with_decay(g, p, self.weight_decay)
        if not self.momentum:
            return ops.fma(g, scalar("-lr"), p), {}
        v = ops.fma(state["velocity"], self.momentum, g)
        step = ops.fma(v, self.momentum, g) if self.nesterov else v
        return ops.fma(step, scalar("-lr"), p), {"velocity": v}


class Adam(Optimizer):
    """``m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p - lr mhat / (sqrt(vhat) + eps)``, mhat and vhat with bias correction.

    Parameters
    ----------
    lr : float or schedule
    betas : tuple of two floats in [0, 1)
    eps : float
    weight_decay : float
        Adds ``weight_decay p`` to the gradient (L2); see `AdamW` for the decoupled form.

    References
    ----------
    Kingma and Ba 2015, algorithm 1.
    """

    slots = ("m", "v")
    _decoupled = False

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(lr)
        self.betas = (_check("betas[0]", betas[0], 0, 1), _check("betas[1]", betas[1], 0, 1))
        self.eps = _check("eps", eps, 0, None)
        self.weight_decay = _check("weight_decay", weight_decay, 0, None)

    def numbers(self, t, lr):
        b1, b2 = self.betas
        numbers = {"-lr/c1": -lr / (1.0 - _power(b1, t)), "1/sqrt(c2)": 1.0 / math.sqrt(1.0 - _power(b2, t))}
        if self._decoupled and self.weight_decay:
            numbers["1-lr*wd"] = 1.0 - lr * self.weight_decay
        return numbers

    def update(self, p, g, state):
        b1, b2 = self.betas
        if self.weight_decay:
            if self._decoupled:
                p = p * scalar("1-lr*wd")
            else:
                g = _with_decay(g, p, self.weight_decay)
        m = ops.fma(state["m"], b1, g * (1.0 - b1))
        v = ops.fma(state["v"], b2, (g * g) * (1.0 - b2))
        denominator = ops.fma(ops.sqrt(v), scalar("1/sqrt(c2)"), self.eps)
        return ops.fma(m / denominator, scalar("-lr/c1"), p), {"m": m, "v": v}


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p = p (1 - lr weight_decay)`` before the step (Loshchilov and Hutter 2019)."""

    _decoupled = True

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(lr, betas, eps, weight_decay)


class Adagrad(Optimizer):
    """``s = s + g^2;  p = p - lr g / (sqrt(s) + eps)`` (Duchi et al. 2011)."""

    slots = ("sum",)

    def __init__(self, lr=0.01, eps=1e-10, weight_decay=0.0):
        super().__init__(lr)
        self.eps = _check("eps", eps, 0, None)
        self.weight_decay = _check("weight_decay", weight_decay, 0, None)

    def update(self, p, g, state):
        g = _with_decay(g, p, self.weight_decay)
        s = ops.fma(g, g, state["sum"])
        return ops.fma(g / (ops.sqrt(s) + self.eps), scalar("-lr"), p), {"sum": s}


class RMSprop(Optimizer):
    """``v = rho v + (1 - rho) g^2;  p = p - lr g / (sqrt(v) + eps)`` (Tieleman and Hinton 2012).

    Parameters
    ----------
    lr : float or schedule
    rho : float in [0, 1)
        Called alpha in PyTorch.
    eps : float
    weight_decay : float
    """

    slots = ("v",)

    def __init__(self, lr=0.01, rho=0.99, eps=1e-8, weight_decay=0.0):
        super().__init__(lr)
        self.rho = _check("rho", rho, 0, 1)
        self.eps = _check("eps", eps, 0, None)
        self.weight_decay = _check("weight_decay", weight_decay, 0, None)

    def update(self, p, g, state):
        g = _with_decay(g, p, self.weight_decay)
        v = ops.fma(state["v"], self.rho, (g * g) * (1.0 - self.rho))
        return ops.fma(g / (ops.sqrt(v) + self.eps), scalar("-lr"), p), {"v": v}


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "adagrad": Adagrad, "rmsprop": RMSprop}


def resolve(optimizer) -> Optimizer:
    """An optimiser, or one by name with its default settings."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]()
    raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, or an Optimizer, got {optimizer!r}")
