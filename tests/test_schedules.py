"""Learning rates against their formulas, against PyTorch's where it is there, and through their configurations."""

import decimal
import json
import math
import random
from decimal import Decimal

import pytest

from backprop import schedules as s

D = decimal.Context(prec=50)
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")

EVERY = [
    s.Constant(0.1), s.Step(0.1, 3), s.Step(1.0, 2, 0.1, "step"), s.Exponential(1e-3, 0.1), s.InverseTime(0.1, 0.5),
    s.Cosine(0.1, 50, 5, 1e-3), s.Cyclic(1e-4, 1e-2, 7), s.OneCycle(0.1, 40), s.ReduceOnPlateau(0.1, patience=1),
]  # fmt: skip


def ulps(got, exact):
    return abs(Decimal(got) - exact) / Decimal(math.ulp(float(exact)))


def cos_pi_exact(t):
    x, term, total, i = PI * Decimal(t), Decimal(1), Decimal(0), 0
    while abs(term) > Decimal("1e-45"):
        total += term
        i += 2
        term = -term * x * x / (i * (i - 1))
    return total


def test_exp_within_2_ulp():
    rng = random.Random(0)
    xs = [rng.uniform(-700, 700) for _ in range(3000)] + [rng.uniform(-1, 1) for _ in range(3000)]
    xs += [0.0, -0.0, 1e-300, -5e-324, 0.3465, 0.3466, -0.3466, 709.78, -708.0, math.log(2)]
    with decimal.localcontext(D):
        worst = max(ulps(s._exp(x), Decimal(x).exp()) for x in xs)
    assert worst <= 2
    assert all(abs(s._exp(x) - math.exp(x)) <= 2 * math.ulp(math.exp(x)) for x in xs)
    assert s._exp(0.0) == 1.0 and s._exp(-1e9) == 0.0 and s._exp(1e9) == math.inf and math.isnan(s._exp(math.nan))
    assert s._exp(-740.0) == pytest.approx(math.exp(-740.0), abs=1e-323)  # a denormal


def test_cos_within_2_ulp():
    rng = random.Random(1)
    ts = [rng.random() for _ in range(4000)] + [0.25 + rng.uniform(-1e-9, 1e-9) for _ in range(50)]
    ts += [0.5 + rng.choice((-1, 1)) * 10.0 ** rng.uniform(-16, -1) for _ in range(500)]
    with decimal.localcontext(D):
        worst = max(ulps(s._cos_pi(t), cos_pi_exact(t)) for t in ts if t != 0.5)
    assert worst <= 2
    assert (s._cos_pi(0.0), s._cos_pi(0.5), s._cos_pi(1.0)) == (1.0, 0.0, -1.0)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 37])
def test_power(n):
    assert s._power(0.5, n) == 2.0**-n
    assert s._power(0.1, n) == pytest.approx(0.1**n, rel=1e-14)


def test_numbers_of_the_lecture():
    assert s.Exponential(1e-3, 0.1)(10) == pytest.approx(3.678794e-4, rel=2e-7)
    halving = s.Step(0.001, every=5)
    assert [halving(t) for t in (0, 4, 5, 9, 10)] == [0.001, 0.001, 0.0005, 0.0005, 0.00025]
    tens = s.Step(0.1, every=1, factor=0.1)
    assert [tens(t) for t in range(4)] == pytest.approx([1e-1, 1e-2, 1e-3, 1e-4])
    assert s.InverseTime(0.1, 0.5)(2) == 0.05


def test_cyclic():
    c = s.Cyclic(0.25, 1.25, half_cycle=4)
    assert [c(t) for t in range(10)] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.0, 0.75, 0.5, 0.25, 0.5]


def test_cosine():
    c = s.Cosine(0.8, total=14, warmup=4, final=0.2)
    assert [c(t) for t in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [c(t) for t in (4, 9, 14, 100)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert all(c(t) >= c(t + 1) for t in range(4, 20))


@pytest.mark.parametrize(("total", "rise"), [(40, 0.3), (100, 0.5), (7, 0.3)])
def test_schedules_of_pytorch(total, rise):
    torch = pytest.importorskip("torch")
    from torch.optim import lr_scheduler

    def run(make, steps):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        scheduler, rates = make(optimizer), []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    for ours, theirs, steps in [
        (s.OneCycle(0.1, total, rise), lambda o: lr_scheduler.OneCycleLR(o, 0.1, total, pct_start=rise), total),
        (s.Cosine(0.1, total, final=0.01), lambda o: lr_scheduler.CosineAnnealingLR(o, total, 0.01), total),
        (s.Step(0.1, 3, 0.3), lambda o: lr_scheduler.StepLR(o, 3, 0.3), total),
        (s.Exponential(0.1, 0.25), lambda o: lr_scheduler.ExponentialLR(o, math.exp(-0.25)), total),
        (s.Cyclic(0.1, 0.4, 6), lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 6, cycle_momentum=False), total),
    ]:
        assert [ours(t) for t in range(steps)] == pytest.approx(run(theirs, steps), rel=1e-9, abs=1e-15), ours


def test_reduce_on_plateau_as_pytorch():
    torch = pytest.importorskip("torch")
    rng = random.Random(4)
    losses = [1 / (1 + t) + 0.05 * rng.random() for t in range(60)] + [math.nan] * 9
    for mode in ("min", "max"):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, 0.5, 2, 1e-3, cooldown=3, min_lr=1e-4)
        ours = s.ReduceOnPlateau(0.1, 0.5, 2, 1e-3, 3, 1e-4, mode)
        rates = set()
        for loss in losses:
            theirs.step(loss)
            assert ours.update(loss) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
            rates.add(ours(0))
        assert len(rates) > 3


def test_reduce_on_plateau_goes_on_after_saving():
    rng = random.Random(2)
    metrics = [rng.random() for _ in range(40)]
    a = s.ReduceOnPlateau(0.1, patience=1, cooldown=2, mode="max")
    for m in metrics[:17]:
        a.update(m)
    b = s.from_config(json.loads(json.dumps(a.to_config())))
    assert [a.update(m) for m in metrics[17:]] == [b.update(m) for m in metrics[17:]]
    assert a(0) < 0.1 and b == a


def test_step_or_epoch():
    assert s.Exponential(1.0, 1.0, unit="step").rate(2, 5) == s.Exponential(1.0, 1.0)(2)
    assert s.Exponential(1.0, 1.0, unit="epoch").rate(2, 5) == s.Exponential(1.0, 1.0)(5)
    assert s.Custom(float, "epoch").rate(2, 5) == 5.0
    with pytest.raises(ValueError, match="unit"):
        s.Step(0.1, 2, unit="day")


@pytest.mark.parametrize("schedule", EVERY, ids=lambda x: type(x).__name__)
def test_configurations(schedule):
    config = schedule.to_config()
    again = s.from_config(json.loads(json.dumps(config)))
    assert again == schedule and type(again) is type(schedule)
    assert config["schedule"] == type(schedule).__name__
    rates = [schedule(t) for t in range(60)]
    assert rates == [again(t) for t in range(60)]
    assert all(type(r) is float and math.isfinite(r) and r >= 0 for r in rates)
    assert max(rates) > 0


@pytest.mark.parametrize(
    "config",
    [{}, {"schedule": "Schedule"}, {"schedule": "Custom", "function": len}, {"schedule": "Nope"}, {"schedule": ["Step"]},
     {"schedule": "Step", "lr": 1}, {"schedule": "Constant", "lr": "1"}, {"schedule": "Constant", "lr": 1, "x": 2},
     {"schedule": "Constant", "lr": float("nan")}],
)  # fmt: skip
def test_bad_configurations(config):
    with pytest.raises(ValueError):
        s.from_config(config)


def test_as_schedule():
    assert s.as_schedule(0.01) == s.Constant(0.01)
    step = s.Step(0.1, 2)
    assert s.as_schedule(step) is step
    assert s.as_schedule(lambda t: 1 / (1 + t)).rate(3, 0) == 0.25
    for bad, error in [(-0.1, ValueError), (math.nan, ValueError), ("0.1", TypeError), (None, TypeError), (True, TypeError)]:
        with pytest.raises(error, match="lr"):
            s.as_schedule(bad)
    with pytest.raises(ValueError, match="user's schedule"):
        s.as_schedule(lambda t: -1.0).rate(0, 0)
    with pytest.raises(ValueError, match="saved"):
        s.as_schedule(lambda t: 1.0).to_config()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: s.Step(0.1, 0), "every"), (lambda: s.Step(0.1, 2, -1), "factor"), (lambda: s.Cosine(0.1, 5, 5), "warmup"),
        (lambda: s.Cyclic(2.0, 1.0, 5), "low"), (lambda: s.OneCycle(0.1, 10, 1.0), "rise"), (lambda: s.Constant(-1), "lr"),
        (lambda: s.OneCycle(0.1, 10, start=0), "start"), (lambda: s.ReduceOnPlateau(0.1, 1.0), "factor"),
        (lambda: s.ReduceOnPlateau(0.1, mode="up"), "mode"),
    ],
)  # fmt: skip
def test_arguments_are_named(make, what):
    with pytest.raises(ValueError, match=what):
        make()
