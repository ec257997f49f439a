"""Optimisers: the update of one parameter, written in the operations of the graph.

An optimiser is lowered with the rest of the step, and so runs as an elementwise program: alone, or in the epilogue of the
product that makes the gradient. Numbers that change from step to step (the learning rate, bias corrections) are scalars of
the program; they are computed here from products alone, so that they are the same on every machine.

Parameters may be treated differently by *groups*: patterns of their names, each with settings of its own. Every combination of
groups is an optimiser of its own (`Optimizer.assigned`), whose scalars have names of their own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from . import ops
from .graph import Tensor, scalar
from .schedules import Constant, Schedule, Settings, as_schedule


_POWERS: dict[float, list[float]] = {}


def _power(base: float, n):
    """base**n as a running product, 0 where it is too small to change 1 - base**n; `n` may be an array n, n + 1 ..."""
    powers = _POWERS.get(base) or [1.0]
    last = n if type(n) is int else int(n[-1])
    if last >= len(powers) and powers[-1] >= 1e-17:
        powers = powers.copy()  # never changed in place: another thread may read it, or keep one with the same numbers
        while len(powers) <= 2 * last and powers[-1] >= 1e-17:
            powers.append(powers[-1] * base)
        _POWERS[base] = powers
    if last is n:
        return powers[n] if n < len(powers) else 0.0
    some = powers[int(n[0]):last + 1]
    return np.array(some + [0.0] * (len(n) - len(some)))


def _sqrt(x):
    return math.sqrt(x) if type(x) is float else np.sqrt(x)


def _elementwise(numbers):
    """Marks a method `numbers` that takes arrays of updates and rates too. One that overrides it has no mark."""
    numbers.elementwise = True
    return numbers


def _check(name, value, low, high, open_low=False, open_high=True):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < low or (
            open_low and value == low) or (high is not None and (value > high or (open_high and value == high))):
        upper = "" if high is None else f" and {'below' if open_high else 'at most'} {high:g}"
        raise ValueError(f"{name} must be {'above' if open_low else 'at least'} {low:g}{upper}, got {value!r}")
    return float(value)


class Optimizer(Settings):
    """What every optimiser answers. One of your own defines `slots` and `update`, and `numbers` where it needs more than ``-lr``.

    Attributes
    ----------
    slots : tuple of str
        Names of the arrays, in the parameter's shape and zero at first, that it keeps for each parameter.
    schedule : Schedule
        Of the learning rate.
    groups : dict of str to dict
        Settings of their own for parameters whose name matches a pattern: see `assigned`.
    """

    slots: tuple[str, ...] = ()
    weight_decay: float = 0.0
    decoupled: bool = False
    lr_decay: float = 0.0
    groups: dict[str, dict] = {}
    _group = ""  # what tells the scalars of a variant from those of others
    # Settings that came later: `config` leaves them out at these values, so that older checkpoints still fit.
    _added: dict[str, float] = {"decoupled": False}

    def __init__(self, lr, weight_decay=0.0, decoupled=False, groups=None):
        self.lr = lr
        self.schedule = as_schedule(lr)
        self.weight_decay = _check("weight_decay", weight_decay, 0, None)
        self.decoupled = bool(decoupled)
        self.groups = {} if groups is None else groups
        if not isinstance(self.groups, Mapping) or not all(
                isinstance(k, str) and isinstance(v, Mapping) for k, v in self.groups.items()):
            raise TypeError(f'groups must be a dict such as {{"*.bias": {{"weight_decay": 0.0}}}}, got {groups!r}')

    @_elementwise
    def numbers(self, t: int, lr: float) -> dict[str, float]:
        """Scalars of update number `t` (1, 2, 3 ...) at learning rate `lr`."""
        return {"-lr": -lr}

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The new parameter and the new state, from the parameter, its gradient and its state; ``self.scalar(name)`` is one
        of `numbers`."""
        raise NotImplementedError

    def scalar(self, name: str) -> Tensor:
        """One of `numbers`, as a scalar of the program."""
        return scalar(name + self._group)

    def scalars(self, t: int, epoch: int) -> dict[str, float]:
        """`numbers` of update `t`, which belongs to `epoch`, and what weight decay needs, under their names in the program."""
        schedule = self.schedule
        return self._named(t, schedule.lr if type(schedule) is Constant else float(schedule.rate(t - 1, epoch)))

    @property
    def _plain(self) -> bool:
        """Whether `scalars` are those of this class and `numbers` takes arrays."""
        return type(self).scalars is Optimizer.scalars and getattr(self.numbers, "elementwise", False)

    @property
    def steady(self) -> bool:
        """Whether the update, the epoch and the attributes alone decide `scalars`, which then hold until `Settings.mark` has another."""
        return self._plain and self.schedule.steady

    def series(self, t: int, epoch: int, count: int) -> dict:
        """`scalars` of the updates t, t + 1 ..., `count` of them, as columns: the same bits without a call for each."""
        schedule = self.schedule
        if not self._plain:
            rows = [self.scalars(t + s, epoch) for s in range(count)]
            return {name: [row[name] for row in rows] for name in rows[0]}
        lr = (np.full(count, schedule.lr, "float64") if type(schedule) is Constant else
              np.array([schedule.rate(t - 1 + s, epoch) for s in range(count)], "float64"))
        return {name: np.broadcast_to(column, count) for name, column in self._named(np.arange(t, t + count), lr).items()}

    def _named(self, t, lr):
        if self.lr_decay:
            lr = lr / (1.0 + (t - 1) * self.lr_decay)
        numbers = self.numbers(t, lr)
        if self.decoupled:
            numbers["1-lr*wd"] = 1.0 - lr * self.weight_decay
        return {name + self._group: value for name, value in numbers.items()} if self._group else numbers

    def _decayed(self, p, g):
        """Parameter and gradient with weight decay: ``g + wd p``, or ``p (1 - lr wd)`` where it is decoupled."""
        if not self.weight_decay:
            return p, g
        return (p * self.scalar("1-lr*wd"), g) if self.decoupled else (p, ops.fma(p, self.weight_decay, g))

    # ---- groups

    def variant(self, **settings) -> Optimizer:
        """An optimiser like this one but for some settings, under the names that its constructor has for them."""
        known = list(inspect.signature(type(self)).parameters)
        for name in settings:
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(known)}")
        return type(self)(**{k: self.schedule if k == "lr" else getattr(self, k) for k in known} | settings)

    def _in_group(self, pattern, settings):
        if "groups" in settings:
            raise ValueError(f"groups[{pattern!r}]: a group has no groups")
        try:
            return self.variant(**{"groups": None, **settings} if self.groups else settings)
        except (TypeError, ValueError) as e:
            raise type(e)(f"groups[{pattern!r}]: {e}") from None

    def check_groups(self) -> None:
        """ValueError or TypeError, with its pattern, for a group that has unknown settings or bad values."""
        for pattern, settings in self.groups.items():
            self._in_group(pattern, settings)

    def assigned(self, names) -> dict[str, Optimizer]:
        """The optimiser of each parameter: this one, or a variant of it with the settings of its groups.

        A pattern is matched as file names are (`fnmatch`): ``"*.bias"``, ``"embedding*"``, ``"0.weight"``. The patterns are
        gone through in order; where several match, each setting is taken from the last that has it.

        Parameters
        ----------
        names : iterable of str
            Names of all parameters.

        Raises
        ------
        ValueError
            A pattern matches no name.
        """
        names = list(names)
        matches = {name: () for name in names}
        for pattern in self.groups:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                raise ValueError(f"groups: no parameter's name matches {pattern!r}; there are {', '.join(names)}")
            for name in matched:
                matches[name] += (pattern,)
        variants = {(): self}
        for patterns in matches.values():
            if patterns not in variants:
                settings = {k: v for pattern in patterns for k, v in self.groups[pattern].items()}
                variants[patterns] = variant = self._in_group(patterns[-1], settings)
                variant._group = f"@{len(variants) - 1}"
        return {name: variants[patterns] for name, patterns in matches.items()}

    @property
    def schedules(self) -> list:
        """Its schedule, and those that groups have of their own."""
        found = [self.schedule, *(s["lr"] for s in self.groups.values() if isinstance(s.get("lr"), Schedule))]
        return list({id(s): s for s in found}.values())

    # ---- what it is

    def config(self) -> dict:
        """What tells this optimiser from another, but for schedules and groups: checkpoints hold it."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, bool, str, tuple))}
        return {"class": type(self).__name__, **{k: v for k, v in plain.items() if k not in ("lr", "slots", "_group")
                                                 and not (k in self._added and v == self._added[k])}}

    def __repr__(self):
        shown = {"lr": self.lr, **{k: v for k, v in self.config().items() if k != "class"}}
        if self.groups:
            shown["groups"] = self.groups
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class SGD(Optimizer):
    """Stochastic gradient descent: ``v = momentum v + g;  p = p - lr v`` (Nesterov: ``p = p - lr (g + momentum v)``).

    Parameters
    ----------
    lr : float or schedule
    momentum : float in [0, 1)
    nesterov : bool
    weight_decay : float
        Adds ``weight_decay p`` to the gradient.
    decoupled : bool
        Weight decay is ``p = p (1 - lr weight_decay)`` before the step instead (SGDW, Loshchilov and Hutter 2019).
    groups : dict of str to dict, optional
        Settings for parameters by name: see `Optimizer.assigned`.

    References
    ----------
    Sutskever et al. 2013, in the form of ``torch.optim.SGD``.
    """

    def __init__(self, lr=0.01, momentum=0.0, nesterov=False, weight_decay=0.0, decoupled=False, groups=None):
        super().__init__(lr, weight_decay, decoupled, groups)
        self.momentum = _check("momentum", momentum, 0, 1)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0")
        self.slots = ("velocity",) if self.momentum else ()

    def update(self, p, g, state):
        p, g = self._decayed(p, g)
        if not self.momentum:
            return ops.fma(g, self.scalar("-lr"), p), {}
        v = ops.fma(state["velocity"], self.momentum, g)
        step = ops.fma(v, self.momentum, g) if self.nesterov else v
        return ops.fma(step, self.scalar("-lr"), p), {"velocity": v}


class Adam(Optimizer):
    """``m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p - lr mhat / (sqrt(vhat) + eps)``; mhat, vhat: bias-corrected.

    Parameters
    ----------
    lr : float or schedule
    betas : tuple of two floats in [0, 1)
    eps : float
    weight_decay : float
        Adds ``weight_decay p`` to the gradient (L2).
    decoupled : bool
        Weight decay is ``p = p (1 - lr weight_decay)`` before the step instead, as `AdamW` has it.
    groups : dict of str to dict, optional
        Settings for parameters by name: see `Optimizer.assigned`.

    References
    ----------
    Kingma and Ba 2015, algorithm 1.
    """

    slots = ("m", "v")

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False, groups=None):
        super().__init__(lr, weight_decay, decoupled, groups)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        self.betas = (_check("betas[0]", betas[0], 0, 1), _check("betas[1]", betas[1], 0, 1))
        self.eps = _check("eps", eps, 0, None)

    @_elementwise
    def numbers(self, t, lr):
        root = _sqrt(1.0 - _power(self.betas[1], t))
        return {"-lr*sqrt(c2)/c1": -lr * root / (1.0 - _power(self.betas[0], t)), "eps*sqrt(c2)": self.eps * root}

    def _moments(self, g, state):
        b1, b2 = self.betas
        return {"m": ops.fma(state["m"], b1, g * (1.0 - b1)), "v": ops.fma(state["v"], b2, (g * g) * (1.0 - b2))}

    def _second(self, new, state):
        """The second moment that the step is divided by; it may add to `new`."""
        return new["v"]

    def update(self, p, g, state):
        p, g = self._decayed(p, g)
        new = self._moments(g, state)
        denominator = ops.sqrt(self._second(new, state)) + self.scalar("eps*sqrt(c2)")  # both sides times sqrt(c2)
        return ops.fma(new["m"] / denominator, self.scalar("-lr*sqrt(c2)/c1"), p), new


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p = p (1 - lr weight_decay)`` before the step (Loshchilov and Hutter 2019)."""

    _added = {"decoupled": True}

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, groups=None):
        super().__init__(lr, betas, eps, weight_decay, True, groups)


class AMSGrad(Adam):
    """Adam whose second moment never falls: ``vmax = max(vmax, v)`` stands for v in the step (Reddi, Kale and Kumar 2018).

    In the form of ``torch.optim.Adam(amsgrad=True)``: the maximum is taken before the bias correction. Settings as of `Adam`.
    """

    slots = ("m", "v", "vmax")

    def _second(self, new, state):
        new["vmax"] = ops.maximum(state["vmax"], new["v"])
        return new["vmax"]


class SparseAdam(Adam):
    """Adam for tables of which each step touches a few rows: only their moments move, and only they (a "lazy" Adam).

    For a table whose gradient is sparse (an embedding) all optimisers work so here. What this class adds is the form of
    ``torch.optim.SparseAdam``, where eps is added before the bias correction: ``p = p - lr sqrt(c2) / c1 m / (sqrt(v) + eps)``.

    Parameters
    ----------
    lr : float or schedule
    betas : tuple of two floats in [0, 1)
    eps : float
    groups : dict of str to dict, optional
        Settings for parameters by name: see `Optimizer.assigned`.

    References
    ----------
    Kingma and Ba 2015, section 2 (the "more efficient" order, with epsilon hat).
    """

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, groups=None):
        super().__init__(lr, betas, eps, groups=groups)

    @_elementwise
    def numbers(self, t, lr):
        return super().numbers(t, lr) | {"eps*sqrt(c2)": self.eps}


class Adagrad(Optimizer):
    """``s = s + g^2;  p = p - lr g / (sqrt(s) + eps)``.

    Parameters
    ----------
    lr : float or schedule
    eps : float
    weight_decay : float
        Adds ``weight_decay p`` to the gradient.
    lr_decay : float
        Update t (1, 2, 3 ...) has the rate ``lr / (1 + (t - 1) lr_decay)``.
    initial_accumulator_value : float
        Where s starts. The array ``sum`` holds what has come to it since.
    decoupled : bool
        Weight decay is ``p = p (1 - lr weight_decay)`` before the step instead.
    groups : dict of str to dict, optional
        Settings for parameters by name: see `Optimizer.assigned`.

    References
    ----------
    Duchi, Hazan and Singer 2011, in the form of ``torch.optim.Adagrad``.
    """

    slots = ("sum",)
    _added = {"decoupled": False, "lr_decay": 0.0, "initial_accumulator_value": 0.0}

    def __init__(self, lr=0.01, eps=1e-10, weight_decay=0.0, lr_decay=0.0, initial_accumulator_value=0.0, decoupled=False,
                 groups=None):
        super().__init__(lr, weight_decay, decoupled, groups)
        self.eps = _check("eps", eps, 0, None)
        self.lr_decay = _check("lr_decay", lr_decay, 0, None)
        self.initial_accumulator_value = _check("initial_accumulator_value", initial_accumulator_value, 0, None)

    def update(self, p, g, state):
        p, g = self._decayed(p, g)
        s = ops.fma(g, g, state["sum"])
        whole = s + self.initial_accumulator_value if self.initial_accumulator_value else s
        return ops.fma(g / (ops.sqrt(whole) + self.eps), self.scalar("-lr"), p), {"sum": s}


class RMSprop(Optimizer):
    """``v = rho v + (1 - rho) g^2;  p = p - lr g / (sqrt(v) + eps)``.

    With momentum ``u = momentum u + g / (sqrt(v) + eps);  p = p - lr u``. Centered, the mean gradient's square is taken off v
    under the root: ``m = rho m + (1 - rho) g;  sqrt(v - m^2) + eps``.

    Parameters
    ----------
    lr : float or schedule
    rho : float in [0, 1)
        Called alpha in PyTorch.
    eps : float
    weight_decay : float
        Adds ``weight_decay p`` to the gradient.
    momentum : float in [0, 1)
    centered : bool
    decoupled : bool
        Weight decay is ``p = p (1 - lr weight_decay)`` before the step instead.
    groups : dict of str to dict, optional
        Settings for parameters by name: see `Optimizer.assigned`.

    References
    ----------
    Tieleman and Hinton 2012; centered as in Graves 2013; in the form of ``torch.optim.RMSprop``.
    """

    _added = {"decoupled": False, "momentum": 0.0, "centered": False}

    def __init__(self, lr=0.01, rho=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, decoupled=False,
                 groups=None):
        super().__init__(lr, weight_decay, decoupled, groups)
        self.rho = _check("rho", rho, 0, 1)
        self.eps = _check("eps", eps, 0, None)
        self.momentum = _check("momentum", momentum, 0, 1)
        self.centered = bool(centered)
        self.slots = ("v", *(("m",) if self.centered else ()), *(("velocity",) if self.momentum else ()))

    def update(self, p, g, state):
        p, g = self._decayed(p, g)
        v = ops.fma(state["v"], self.rho, (g * g) * (1.0 - self.rho))
        new, variance = {"v": v}, v
        if self.centered:
            new["m"] = ops.fma(state["m"], self.rho, g * (1.0 - self.rho))
            variance = ops.maximum(v - new["m"] * new["m"], 0.0)  # rounding may leave it below
        step = g / (ops.sqrt(variance) + self.eps)
        if self.momentum:
            new["velocity"] = step = ops.fma(state["velocity"], self.momentum, step)
        return ops.fma(step, self.scalar("-lr"), p), new


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "amsgrad": AMSGrad, "sparse_adam": SparseAdam, "adagrad": Adagrad,
              "rmsprop": RMSprop}


def resolve(optimizer) -> Optimizer:
    """An optimiser, or one by name with its default settings."""
    if isinstance(optimizer, Optimizer):
        optimizer.check_groups()
        return optimizer
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]()
    raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, or an Optimizer, got {optimizer!r}")
