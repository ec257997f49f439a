"""Learning rates as functions of time.

Time t is the number of the update, or of the epoch where the schedule's unit is "epoch", from 0. A schedule answers
``schedule(t)`` and, for a trainer that knows both, ``schedule.rate(step, epoch)``; ``to_config`` and ``from_config`` turn it
to and from a plain dict, state included, for checkpoints. A plain number is accepted wherever a schedule is.

Rates decide the bits of the weights, so they are made of basic operations only, which every machine rounds alike: powers
are products, and exp and cos are the polynomials at the end of this file.
"""

import dataclasses
import math
import numbers

__all__ = [
    "Constant", "Cosine", "Custom", "Cyclic", "Exponential", "InverseTime", "OneCycle", "ReduceOnPlateau", "Schedule",
    "Step", "as_schedule", "from_config",
]  # fmt: skip

_CLASSES = {}


class Settings:
    """What schedules, optimisers and rules have in common: numbers that follow from them may be made ahead, and hold until `mark` has
    another object.

    Attributes
    ----------
    mark : list of one object
        Of the class: in it is another one whenever an attribute of any of them has been set.
    """

    mark = [object()]  # a list, for to set an attribute of a class is to forget where those of all its subclasses are found

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)
        Settings.mark[0] = object()  # only now, so that who saw this one has seen the value


class Schedule(Settings):
    """Base of all schedules: subclasses are dataclasses with a `unit` and ``__call__(t)``.

    Attributes
    ----------
    steady : bool
        Of the class: time and the attributes alone decide the rate.
    """

    unit = "step"
    steady = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _CLASSES[cls.__name__] = cls
        cls.steady = False  # of a subclass of a steady one too, until it says otherwise

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "unit":
                if value not in ("step", "epoch"):
                    raise ValueError(f"unit must be 'step' or 'epoch', got {value!r}")
            else:
                _check(field.name, value, positive=field.metadata.get("positive", False))

    # Inherited: made anew for each class, as dataclasses do it, these would be most of the time that importing takes.
    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __eq__(self, other):
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __call__(self, t):
        raise NotImplementedError

    def rate(self, step, epoch=0):
        """The learning rate of update `step` (counted over the whole training), which belongs to `epoch`."""
        return self(epoch if self.unit == "epoch" else step)

    def to_config(self):
        """A dict of text and numbers."""
        return {"schedule": type(self).__name__, **dataclasses.asdict(self)}


def _schedule(cls):
    cls.steady = True
    return dataclasses.dataclass(eq=False, repr=False)(cls)


def _positive(**kwargs):
    return dataclasses.field(metadata={"positive": True}, **kwargs)


def _check(name, value, positive=False):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
        raise ValueError(f"{name} must be finite and {'positive' if positive else 'not negative'}, got {value!r}")


@_schedule
class Constant(Schedule):
    """Always `lr`."""

    lr: float

    def __call__(self, t):
        return float(self.lr)


@_schedule
class Step(Schedule):
    """``lr * factor^floor(t / every)``: by default halved every so many epochs."""

    lr: float
    every: float = _positive()
    factor: float = 0.5
    unit: str = "epoch"

    def __call__(self, t):
        return self.lr * _power(float(self.factor), int(t // self.every))


@_schedule
class Exponential(Schedule):
    """``lr * exp(-k t)``: PyTorch's ExponentialLR with ``gamma = exp(-k)``."""

    lr: float
    k: float
    unit: str = "epoch"

    def __call__(self, t):
        return self.lr * _exp(-self.k * t)


@_schedule
class InverseTime(Schedule):
    """``lr / (1 + k t)``, a rate whose sum diverges while that of its squares does not (Robbins and Monro 1951)."""

    lr: float
    k: float
    unit: str = "epoch"

    def __call__(self, t):
        return self.lr / (1.0 + self.k * t)


@_schedule
class Cosine(Schedule):
    """Half a cosine from `lr` to `final` at t = total and after, preceded by a linear warm-up.

    t < warmup:  lr (t + 1) / warmup        so that the very first update moves too
    else:        final + (lr - final) (1 + cos(pi p)) / 2,   p = (t - warmup) / (total - warmup)
    (Loshchilov and Hutter 2017, without restarts.)
    """

    lr: float
    total: float = _positive()
    warmup: float = 0
    final: float = 0.0
    unit: str = "step"

    def __post_init__(self):
        super().__post_init__()
        if self.warmup >= self.total:
            raise ValueError(f"warmup must be less than total {self.total!r}, got {self.warmup!r}")

    def __call__(self, t):
        if t < self.warmup:
            return self.lr * min(1.0, (t + 1.0) / self.warmup)
        return _half_cosine(self.lr, self.final, (t - self.warmup) / (self.total - self.warmup))


@_schedule
class Cyclic(Schedule):
    """Up from `low` to `high` in `half_cycle`, down again in as many, for ever (Smith 2017, "triangular")."""

    low: float
    high: float
    half_cycle: float = _positive()
    unit: str = "step"

    def __post_init__(self):
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low must not exceed high {self.high!r}, got {self.low!r}")

    def __call__(self, t):
        x = (t % (2 * self.half_cycle)) / self.half_cycle  # in [0, 2)
        return self.low + (self.high - self.low) * (x if x <= 1.0 else 2.0 - x)


@_schedule
class OneCycle(Schedule):
    """From ``lr / start`` up to `lr`, then down to ``lr / (start * end)``, both on half cosines (Smith and Topin 2019).

    The first update has the lowest rate, number ``rise * total - 1`` the highest, and the last, total - 1, the final one:
    the defaults and numbers of PyTorch's OneCycleLR.
    """

    lr: float
    total: float = _positive()
    rise: float = 0.3
    start: float = _positive(default=25.0)
    end: float = _positive(default=1e4)
    unit: str = "step"

    def __post_init__(self):
        super().__post_init__()
        if not self.rise < 1.0:
            raise ValueError(f"rise must be less than 1, got {self.rise!r}")

    def __call__(self, t):
        first, top = self.lr / self.start, self.rise * self.total - 1.0
        if t < top:
            return _half_cosine(first, self.lr, t / top)
        top = max(0.0, top)
        length = self.total - 1.0 - top
        return _half_cosine(self.lr, first / self.end, (t - top) / length if length > 0.0 else 1.0)


@_schedule
class ReduceOnPlateau(Schedule):
    """`lr`, multiplied by `factor` whenever a metric has not improved for more than `patience` updates of it.

    Better means beyond the best by more than the share `threshold` of it. `mode` is "min" for a loss, "max" for an accuracy.
    After a reduction, `cooldown` updates are not counted. `lr` never falls below `lowest`.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    lowest: float = 0.0
    mode: str = "min"
    best: float | None = None
    waited: int = 0
    resting: int = 0

    def __post_init__(self):
        for name in ("lr", "factor", "patience", "threshold", "cooldown", "lowest", "waited", "resting"):
            _check(name, getattr(self, name))
        if not self.factor < 1.0:
            raise ValueError(f"factor must be less than 1, got {self.factor!r}")
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {self.mode!r}")

    def __call__(self, t):
        return float(self.lr)

    def update(self, metric):
        """Look at a new value of the metric, once an epoch say. NaN is no improvement. Returns the learning rate."""
        metric = float(metric)
        margin = 0.0 if self.best is None else self.threshold * abs(self.best)
        if metric == metric and (
            self.best is None or (metric < self.best - margin if self.mode == "min" else metric > self.best + margin)
        ):
            self.best, self.waited = metric, 0
        else:
            self.waited += 1
        if self.resting > 0:
            self.resting, self.waited = self.resting - 1, 0
        if self.waited > self.patience:
            self.lr = max(self.lr * self.factor, self.lowest)
            self.waited, self.resting = 0, self.cooldown
        return float(self.lr)


class Custom(Schedule):
    """A function of the user's, ``function(t) -> rate``."""

    def __init__(self, function, unit="step"):
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}")
        if unit not in ("step", "epoch"):
            raise ValueError(f"unit must be 'step' or 'epoch', got {unit!r}")
        self.function, self.unit = function, unit

    def __call__(self, t):
        rate = self.function(t)
        _check("the learning rate of a user's schedule", rate)
        return float(rate)

    def to_config(self):
        raise ValueError("a schedule that is a user's function cannot be saved")


def as_schedule(value, name="lr"):
    """A schedule of a number, of a function of the step, or the schedule itself."""
    if isinstance(value, Schedule):
        return value
    if callable(value):
        return Custom(value)
    _check(name, value)
    return Constant(float(value))


def from_config(config):
    """The schedule that ``to_config`` described. ValueError for any other dict."""
    config = dict(config)
    kind = config.pop("schedule", None)
    cls = _CLASSES.get(kind) if isinstance(kind, str) else None
    if cls is None or not dataclasses.is_dataclass(cls):
        raise ValueError(f"config names no schedule: {kind!r}")
    try:
        return cls(**config)
    except TypeError as e:
        raise ValueError(f"config does not describe a {kind}: {e}") from e


# -------------------------------------------------------------------------------------- arithmetic that rounds alike


def _half_cosine(a, b, p):
    """From a at p = 0 to b at p = 1, flat at both ends; b beyond."""
    return a if p <= 0.0 else b if p >= 1.0 else b + (a - b) * (0.5 * (1.0 + _cos_pi(p)))


def _power(x, n):
    """x^n for whole n >= 0, by squaring."""
    out = 1.0
    while n:
        if n & 1:
            out *= x
        n >>= 1
        if n:
            x *= x
    return out


# ln 2 in two parts (fdlibm's): the upper has 21 trailing zero bits, so that k times it is exact for |k| < 2^21.
_LN2_HI, _LN2_LO = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")


def _exp(x):
    """e^x within 1 ulp: x = k ln 2 + r with |r| <= ln(2)/2, Taylor's series of e^r - 1, then 2^k exactly."""
    if x != x:
        return x
    if x > 710.0:
        return math.inf
    if x < -746.0:
        return 0.0
    k = round(x / (_LN2_HI + _LN2_LO))
    r = (x - k * _LN2_HI) - k * _LN2_LO
    p = 1.0
    for i in range(14, 1, -1):  # r^14 / 15! is 2^-61 of 1
        p = 1.0 + r * p / i
    return math.ldexp(1.0 + r * p, k)


def _cos_pi(t):
    """cos(pi t) for t in [0, 1], within 2 ulp; the reduction to [0, 1/4] is exact."""
    if t > 0.5:
        return -_cos_pi(1.0 - t)
    p = 1.0
    if t > 0.25:  # cos(pi t) = sin(pi (1/2 - t))
        x = math.pi * (0.5 - t)
        for i in range(18, 0, -2):  # (pi/4)^20 / 21! is far below 2^-53
            p = 1.0 - x * x * p / (i * (i + 1))
        return x * p
    x = math.pi * t
    for i in range(19, 0, -2):
        p = 1.0 - x * x * p / (i * (i + 1))
    return p
