"""Optimisers, groups of parameters, learning rates in a training, and the rate finder. Parity with PyTorch: `test_parity.py`."""

import numpy as np
import pytest

import backprop as bp
from backprop import schedules
from backprop.optim import OPTIMIZERS

RNG = np.random.default_rng(8)
X = RNG.normal(size=(60, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)


def make(optimizer, dtype="float64", seed=0, **rules):
    net = bp.Sequential([bp.Input(4), bp.Dense(6, "tanh"), bp.Dense(3)], dtype=dtype, seed=seed)
    return bp.Trainer(net, "cross_entropy", optimizer, **rules)


def one_weight(optimizer, start):
    """A trainer of one number w, the output for an input of 1."""
    trainer = bp.Trainer(bp.Sequential([bp.Input(1), bp.Dense(1, use_bias=False)], dtype="float64"), "squared_error", optimizer)
    trainer.net.parameters["0.weight"][...] = start
    return trainer


# ---------------------------------------------------------------- numbers of the lecture

@pytest.mark.parametrize("optimizer, after", [
    (bp.Adagrad(0.001), 0.99900000002), (bp.RMSprop(0.001, rho=0.9, eps=1e-8), 0.9968377225), (bp.Adam(0.001), 0.99900000002),
    (bp.AMSGrad(0.001), 0.99900000002), (bp.SGD(0.001), 0.9995), (bp.SGD(0.001, momentum=0.9), 0.9995),
    (bp.SGD(0.001, momentum=0.9, nesterov=True), 1 - 0.001 * 0.95),
], ids=repr)
def test_lecture_e10_first_step(optimizer, after):
    trainer = one_weight(optimizer, 1.0)
    trainer.net.forward([[1.0]])
    trainer.net.backward([[0.5]])
    assert trainer.net.gradients["0.weight"].item() == 0.5
    trainer.apply()
    tolerance = 2e-11 if isinstance(optimizer, (bp.Adam, bp.Adagrad)) else 5e-11
    assert trainer.net.parameters["0.weight"].item() == pytest.approx(after, abs=tolerance)


def test_lecture_e8_gradient_descent_on_a_square():
    trainer = one_weight(bp.SGD(0.01), 0.5)
    losses = [trainer.step([[1.0]], [[0.0]]) for _ in range(1000)]
    assert losses[0] == 0.25
    assert trainer.net.parameters["0.weight"].item() == pytest.approx(8.41e-10, rel=1e-3)
    assert trainer.net.parameters["0.weight"].item() == pytest.approx(0.5 * 0.98**1000, rel=1e-12)


@pytest.mark.parametrize("schedule, rates", [
    (schedules.Constant(0.001), [0.001] * 11),
    (schedules.Step(0.001, every=3), [0.001 / 2 ** (t // 3) for t in range(11)]),
    (schedules.Step(0.1, every=1, factor=0.1), [0.1**t / 10 for t in range(11)]),
    (schedules.Exponential(1e-3, 0.1), [*(1e-3 * np.exp(-0.1 * t) for t in range(10)), 3.678794e-4]),
    (schedules.InverseTime(1e-3, 0.5), [1e-3 / (1 + 0.5 * t) for t in range(11)]),
    (schedules.Cyclic(1e-3, 5e-3, 4, unit="epoch"), [1e-3 * k for k in (1, 2, 3, 4, 5, 4, 3, 2, 1, 2, 3)]),
], ids=lambda x: repr(x) if isinstance(x, schedules.Schedule) else "")
def test_lecture_d_learning_rates_in_a_fit(schedule, rates):
    trainer = make(bp.SGD(schedule))
    history = trainer.fit(X, Y, epochs=11, batch_size=30, progress=False)
    assert history["lr"] == pytest.approx(rates, rel=1e-6)


def test_lecture_d_sparse_adam_moves_moments_where_there_is_a_gradient():
    """Adam's moments decay everywhere; the lazy form is `SparseAdam` over the rows touched (see the tests of embeddings)."""
    trainer = one_weight(bp.SparseAdam(0.001), 1.0)
    trainer.net.forward([[1.0]])
    trainer.net.backward([[0.5]])
    trainer.apply()
    m, v = trainer.state[0], trainer.state[trainer.net.flat_parameters.size]
    assert m == pytest.approx(0.1 * 0.5) and v == pytest.approx(0.001 * 0.25)
    step = 0.001 * np.sqrt(0.001) / 0.1 * 0.05 / (np.sqrt(0.00025) + 1e-8)
    assert trainer.net.parameters["0.weight"].item() == pytest.approx(1 - step, rel=1e-14)


# ---------------------------------------------------------------- optimisers

EVERY = [
    bp.SGD(0.1), bp.SGD(0.1, 0.9, True, 0.01), bp.SGD(0.1, 0.9, weight_decay=0.1, decoupled=True), bp.Adam(0.01), bp.AdamW(0.01),
    bp.Adam(0.01, weight_decay=0.1, decoupled=True), bp.AMSGrad(0.01), bp.AMSGrad(0.01, weight_decay=0.1, decoupled=True),
    bp.SparseAdam(0.01), bp.Adagrad(0.1), bp.Adagrad(0.1, lr_decay=0.1, initial_accumulator_value=0.5, decoupled=True, weight_decay=0.1),
    bp.RMSprop(0.01), bp.RMSprop(0.01, momentum=0.9, centered=True), bp.RMSprop(0.01, weight_decay=0.1, decoupled=True),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", EVERY, ids=repr)
def test_fused_and_unfused_give_the_same_bits(optimizer, dtype):
    runs = []
    for fuse in (True, False):
        trainer = make(optimizer, dtype, fuse=fuse)
        for i in range(0, 60, 12):
            trainer.step(X[i : i + 12], Y[i : i + 12])
        runs.append(trainer.net.flat_parameters.tobytes() + trainer.state.tobytes())
    assert runs[0] == runs[1]
    assert np.isfinite(trainer.net.flat_parameters).all()


@pytest.mark.parametrize("optimizer", EVERY, ids=repr)
def test_training_lowers_the_loss(optimizer):
    trainer = make(optimizer)
    history = trainer.fit(X, Y, epochs=30, batch_size=10, progress=False)
    assert history["train_loss"][-1] < 0.8 * history["train_loss"][0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_by_name(name):
    assert type(make(name).optimizer) is OPTIMIZERS[name]


def test_decoupled_decay_is_adamws():
    a, b = make(bp.AdamW(0.01, weight_decay=0.1)), make(bp.Adam(0.01, weight_decay=0.1, decoupled=True))
    for t in (a, b):
        t.fit(X, Y, epochs=2, progress=False)
    assert a.net.flat_parameters.tobytes() == b.net.flat_parameters.tobytes()


def test_amsgrads_second_moment_never_falls():
    trainer = make(bp.AMSGrad(0.05, betas=(0.5, 0.5)))
    size, before = trainer.net.flat_parameters.size, 0.0
    fell = False
    for i in range(20):
        trainer.step(X[3 * i : 3 * i + 3], Y[3 * i : 3 * i + 3])
        v, vmax = (trainer.state[k * size : (k + 1) * size].copy() for k in (1, 2))
        assert (vmax >= before).all() and (vmax >= v).all()
        fell |= (v < vmax).any()
        before = vmax
    assert fell and trainer.slots == ("m", "v", "vmax")


def test_settings_that_came_later_do_not_part_old_checkpoints():
    assert bp.SGD(0.1, 0.9).config() == {"class": "SGD", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    assert bp.AdamW(0.1).config() == {"class": "AdamW", "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    assert bp.Adagrad().config() == {"class": "Adagrad", "eps": 1e-10, "weight_decay": 0.0}
    assert bp.RMSprop().config() == {"class": "RMSprop", "rho": 0.99, "eps": 1e-8, "weight_decay": 0.0}
    assert bp.RMSprop(momentum=0.5).config()["momentum"] == 0.5
    assert bp.SGD(decoupled=True).config()["decoupled"] is True


@pytest.mark.parametrize("build, words", [
    (lambda: bp.SGD(momentum=1.0), "momentum must be at least 0 and below 1"), (lambda: bp.SGD(nesterov=True), "nesterov"),
    (lambda: bp.SGD(weight_decay=-1), "weight_decay must be at least 0"), (lambda: bp.SGD(momentum=True), "momentum"),
    (lambda: bp.Adam(betas=0.9), "betas must be two numbers"), (lambda: bp.Adam(betas=(0.9, 1.0)), r"betas\[1\]"),
    (lambda: bp.AMSGrad(eps=-1.0), "eps"), (lambda: bp.SparseAdam(betas=(1.5, 0.9)), r"betas\[0\]"),
    (lambda: bp.Adagrad(lr_decay=-0.1), "lr_decay"), (lambda: bp.Adagrad(initial_accumulator_value=float("nan")), "initial_acc"),
    (lambda: bp.RMSprop(rho=1.0), "rho"), (lambda: bp.RMSprop(momentum=-0.1), "momentum"), (lambda: bp.Adam(lr=-1e-3), "lr"),
    (lambda: bp.Trainer(bp.Sequential([bp.Dense(1)]), optimizer="amsgard"), "optimizer must be one of .*amsgrad"),
])  # fmt: skip
def test_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# ---------------------------------------------------------------- groups

def test_a_group_is_a_training_with_its_settings():
    """Each parameter moves as it does where its settings are everyone's, as long as the gradients are the same: one step."""
    settings = {"0.weight": {"lr": 0.3}, "*.bias": {"momentum": 0.5, "weight_decay": 0.1}}
    grouped = make(bp.SGD(0.1, 0.9, groups=settings))
    grouped.step(X, Y)
    for pattern, own in [(None, {}), *settings.items()]:
        plain = make(bp.SGD(**{"lr": 0.1, "momentum": 0.9, **own}))
        plain.step(X, Y)
        names = {"0.weight": ["0.weight"], "*.bias": ["0.bias", "1.bias"], None: ["1.weight"]}[pattern]
        for name in names:
            assert grouped.net.parameters[name].tobytes() == plain.net.parameters[name].tobytes()
    assert grouped.slots == ("velocity",)


def test_the_last_pattern_that_has_a_setting_wins():
    optimizer = bp.SGD(0.1, groups={"*": {"lr": 0.5, "momentum": 0.9}, "0.*": {"lr": 0.25}, "*.bias": {"momentum": 0.0}})
    chosen = optimizer.assigned(["0.weight", "0.bias", "1.weight", "1.bias"])
    assert {n: (o.schedule.lr, o.momentum) for n, o in chosen.items()} == {
        "0.weight": (0.25, 0.9), "0.bias": (0.25, 0.0), "1.weight": (0.5, 0.9), "1.bias": (0.5, 0.0)}
    plain = bp.SGD(0.1)
    assert set(plain.assigned(["a", "b"]).values()) == {plain}


@pytest.mark.parametrize("optimizer", [bp.SGD, bp.Adam, bp.AdamW, bp.AMSGrad, bp.RMSprop, bp.Adagrad, bp.SparseAdam])
def test_a_rate_of_zero_freezes(optimizer):
    trainer = make(optimizer(0.1, groups={"0.*": {"lr": 0.0}}), "float32", l2=0.1, clip_norm=0.5)
    before = {n: v.tobytes() for n, v in trainer.net.parameters.items()}
    trainer.fit(X, Y, epochs=3, progress=False)
    after = {n: v.tobytes() for n, v in trainer.net.parameters.items()}
    assert [before[n] == after[n] for n in before] == [True, True, False, False]
    everyone = make(optimizer(0.0))
    kept = everyone.net.flat_parameters.tobytes()
    everyone.fit(X, Y, epochs=2, progress=False)
    assert everyone.net.flat_parameters.tobytes() == kept


def test_rates_of_groups_are_numbers_of_one_program():
    rates = []
    trainer = make(bp.SGD(0.1, groups={"0.*": {"lr": lambda t: rates.append(t) or 0.1 / (1 + t)}, "1.bias": {"lr": 0.2}}))
    for _ in range(3):
        trainer.step(X, Y)
    assert len(trainer._plans) == 1 and max(rates) == 2
    scalars = next(iter(trainer._plans.values()))[0].scalars
    assert sum(name.startswith("-lr") for name in scalars) == 3
    trainer.optimizer.schedule.lr = 0.0  # the others' rate; theirs are their own
    before = {n: v.copy() for n, v in trainer.net.parameters.items()}
    trainer.step(X, Y)
    moved = {n for n, v in trainer.net.parameters.items() if (v != before[n]).any()}
    assert moved == {"0.weight", "0.bias", "1.bias"} and len(trainer._plans) == 1


class Doubling(bp.SGD):
    """Numbers of its own, which nobody can know ahead."""

    factor = 1.0

    def numbers(self, t, lr):
        Doubling.factor *= 2.0
        return {"-lr": -lr * Doubling.factor * 1e-3}


RATE = [0.1]


def set_rate(trainer, k):
    RATE[0] = 0.1 / (k + 1)


def set_lr(trainer, k):
    trainer.optimizer.schedule.lr = 0.1 / (k + 1)


def set_schedule(trainer, k):
    trainer.optimizer.schedule = schedules.Exponential(0.1, 0.01 * k, unit="step")


def set_back(trainer, k):
    trainer.t = 3 * k


def set_epoch(trainer, k):
    trainer.epoch = k


def set_ema(trainer, k):
    trainer.rules.ema = 0.9 / (k + 1)


@pytest.mark.parametrize("make_optimizer, change, rules", [
    (lambda: bp.Adam(0.1), set_lr, {}),
    (lambda: bp.AdamW(0.1), set_schedule, {}),
    (lambda: bp.Adam(0.1), set_back, {}),
    (lambda: bp.Adam(0.1), set_ema, {"ema": 0.9}),
    (lambda: bp.SGD(schedules.Step(0.1, every=1)), set_epoch, {}),
    (lambda: bp.SGD(schedules.ReduceOnPlateau(0.1, patience=0)), lambda trainer, k: trainer.optimizer.schedule.update(1.0), {}),
    (lambda: bp.Adam(lambda t: RATE[0]), set_rate, {}),
    (lambda: Doubling(0.1), lambda trainer, k: None, {}),
    (lambda: bp.RMSprop(0.1, groups={"1.*": {"lr": schedules.Cosine(0.1, total=50)}}),
     lambda trainer, k: setattr(trainer._optimizers[1].schedule, "total", 60.0 + k), {}),
], ids=["lr", "schedule", "update", "ema", "epoch", "plateau", "function", "numbers", "group"])
def test_numbers_made_ahead_are_those_of_the_update_that_comes(make_optimizer, change, rules):
    trained = []
    for ahead in (True, False):
        RATE[0], Doubling.factor = 0.1, 1.0
        trainer = make(make_optimizer(), **rules)
        for k in range(50):
            if k in (1, 2, 20, 21, 30):
                change(trainer, k)
            if not ahead:
                trainer._fast.clear()
            trainer.step(X, Y)
        assert len(trainer._fast["step"].ahead[3]) == (16 if ahead and all(o.steady for o in trainer._optimizers) else 0)
        trained.append((trainer.t, trainer.net.flat_parameters.tobytes(), trainer.state.tobytes()))
    assert trained[0] == trained[1]


def test_a_function_is_asked_for_each_rate_when_its_update_comes():
    asked = []
    trainer = make(bp.Adam(lambda t: asked.append((t, trainer.t)) or 0.1))
    for _ in range(9):
        trainer.step(X, Y)
    assert asked == [(t, t) for t in range(9)]


def test_slots_are_those_of_all_groups():
    trainer = make(bp.SGD(0.1, groups={"1.*": {"momentum": 0.9}}))
    trainer.step(X, Y)
    assert trainer.slots == ("velocity",)
    velocity = trainer.net._views(trainer.state)
    assert not velocity["0.weight"].any() and velocity["1.weight"].all()


def test_every_schedule_of_a_group_sees_the_loss():
    shared = schedules.ReduceOnPlateau(0.1, patience=0, threshold=10.0)
    own = schedules.ReduceOnPlateau(0.2, patience=1, threshold=10.0)
    trainer = make(bp.SGD(shared, groups={"0.*": {"lr": own}, "1.bias": {"lr": shared}}))
    trainer.fit(X, Y, epochs=3, progress=False)
    assert shared.lr == pytest.approx(0.1 * 0.1**2) and own.lr == pytest.approx(0.2 * 0.1)


@pytest.mark.parametrize("groups, error, words", [
    ({"2.*": {"lr": 0.1}}, ValueError, r"no parameter's name matches '2\.\*'; there are 0.weight, 0.bias, 1.weight, 1.bias"),
    ({"*": {"rate": 0.1}}, ValueError, r"groups\['\*'\]: SGD has no setting 'rate'; it has lr, momentum"),
    ({"*": {"momentum": 2.0}}, ValueError, r"groups\['\*'\]: momentum must be"),
    ({"*": {"lr": "fast"}}, TypeError, r"groups\['\*'\]: lr must be a number"),
    ({"*": {"lr": -1.0}}, ValueError, r"groups\['\*'\]: lr must be finite and not negative"),
    ({"*": {"groups": {}}}, ValueError, "a group has no groups"),
    ({"*": 0.1}, TypeError, "groups must be a dict"), ([("*", {})], TypeError, "groups must be a dict"),
])  # fmt: skip
@pytest.mark.parametrize("built", [True, False])
def test_groups_that_are_refused(groups, error, words, built):
    layers = [bp.Dense(6), bp.Dense(3)]
    net = bp.Sequential([bp.Input(4), *layers] if built else layers, seed=1)
    before = net.flat_parameters.tobytes() if built else None
    with pytest.raises(error, match=words):
        bp.Trainer(net, optimizer=bp.SGD(0.1, groups=groups)).fit(X, Y, progress=False)
    assert net.built == built
    if built:
        assert net.flat_parameters.tobytes() == before


def test_an_optimiser_of_ones_own_has_groups():
    class SignDescent(bp.optim.Optimizer):
        def __init__(self, lr=0.1, power=1.0, groups=None):
            super().__init__(lr, groups=groups)
            self.power = power

        def update(self, p, g, state):
            return bp.fma(bp.sign(g) * self.power, self.scalar("-lr"), p), {}

    trainer = make(SignDescent(0.125, groups={"*.bias": {"power": 2.0, "lr": 0.25}}))
    before = {n: v.copy() for n, v in trainer.net.parameters.items()}
    trainer.step(X, Y)
    for name, v in trainer.net.parameters.items():
        np.testing.assert_allclose(np.abs(v - before[name]), 0.5 if name.endswith("bias") else 0.125, rtol=1e-12)


# ---------------------------------------------------------------- rate finder

def snapshot(net):
    return net.flat_parameters.tobytes(), net.flat_buffers.tobytes(), net.seed, net._draw


@pytest.mark.parametrize("high", [1.0, 1e30])
def test_the_rate_finder_leaves_no_trace(high):
    net = bp.Sequential([bp.Input(4), bp.Dense(6, "tanh"), bp.BatchNorm(), bp.Dropout(0.2), bp.Dense(3)], seed=1)
    trainer = bp.Trainer(net, optimizer=bp.Adam(0.01), ema=0.9)
    trainer.step(X, Y)
    before, state, lr = snapshot(net), trainer.state.tobytes(), trainer.optimizer.lr
    twin = bp.Trainer(net, optimizer=bp.SGD(0.1))
    found = bp.rate_finder(net, X, Y, optimizer=trainer.optimizer, high=high, steps=60, batch_size=20)
    assert (snapshot(net), trainer.state.tobytes(), trainer.optimizer.lr) == (before, state, lr)
    assert trainer.t == 1 and trainer.optimizer.schedule(5) == 0.01 and twin.t == 0
    again = bp.rate_finder(net, X, Y, optimizer=trainer.optimizer, high=high, steps=60, batch_size=20)
    assert again.losses.tobytes() == found.losses.tobytes() and again.suggestion == found.suggestion
    assert (len(found.lrs) < 60) == (high > 1)


def test_the_rate_finder_finds_a_rate():
    net = bp.Sequential([bp.Dense(16, "tanh"), bp.Dense(3)], seed=0)
    found = bp.rate_finder(net, X, Y, optimizer="sgd", low=1e-4, high=100.0, steps=80, batch_size=60)
    assert found.lrs[0] == pytest.approx(1e-4) and (np.diff(np.log(found.lrs)) > 0).all() and len(found.losses) == len(found.lrs)
    assert found.suggestion == pytest.approx(found.lrs[found.losses.argmin()] / 10) and not net.built  # no trace of the search
    slow, good, wild = (bp.Trainer(bp.Sequential([bp.Dense(16, "tanh"), bp.Dense(3)], seed=0), optimizer=bp.SGD(lr)).fit(
        X, Y, epochs=20, batch_size=60, progress=False)["train_loss"][-1] for lr in (1e-3, found.suggestion, 100.0))
    assert good < 0.5 * slow and good < 0.5 * wild


def test_the_rate_finder_takes_what_a_trainer_takes():
    a, b = bp.Input(2, name="left"), bp.Input(2)
    net = bp.Network([a, b], [bp.Dense(3)(bp.concatenate([a, b], 1)), bp.Dense(1)(a)], seed=1)
    found = bp.rate_finder(net, {"left": X[:, :2], "x1": X[:, 2:]}, [Y, X[:, 3]], ["cross_entropy", "squared_error"],
                           bp.SGD(groups={"*.bias": {"lr": 0.0, "momentum": 0.5}}), steps=12, batch_size=7,
                           sample_weight=np.ones(60), l2=1e-3, loss_weights=[1.0, 0.5])
    assert len(found.lrs) == 12
    up = bp.rate_finder(net, [X[:, :2], X[:, 2:]], [Y, X[:, 3]], ["cross_entropy", "squared_error"], "sgd", 1e-12, 1e-11, 5, 60)
    assert up.losses == pytest.approx(up.losses[0], rel=1e-6)


def test_the_plot_of_the_rate_finder(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    found = bp.rate_finder(bp.Sequential([bp.Dense(8, "tanh"), bp.Dense(3)]), X, Y, optimizer="sgd", high=100.0)
    figure = found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    (ax,) = figure.axes
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "learning rate" and f"{found.suggestion:.2g}" in str(
        [t.get_text() for t in ax.get_legend().get_texts()])
    mine = Figure().add_subplot()
    assert found.plot(mine) is mine.figure and len(mine.lines) == 3


@pytest.mark.parametrize("change, error, words", [
    ({"low": 0.0}, ValueError, "low must be a number above 0"), ({"high": float("inf")}, ValueError, "high"),
    ({"low": 2.0}, ValueError, "low must be below high"), ({"steps": 1}, ValueError, "steps must be a whole number of at least 2"),
    ({"batch_size": 0}, ValueError, "batch_size"), ({"l2": -1.0}, ValueError, "l2"), ({"net": "net"}, TypeError, "net must be"),
    ({"y": Y[:5]}, ValueError, "X has 60 rows, y has 5"), ({"X": X[:, :3] * np.nan}, bp.NonFiniteError, "before the first update"),
    ({"optimizer": bp.SGD(groups={"7.*": {}})}, ValueError, "no parameter's name matches"),
])  # fmt: skip
def test_what_the_rate_finder_refuses(change, error, words):
    net = bp.Sequential([bp.Dense(3)])
    with pytest.raises(error, match=words):
        bp.rate_finder(**{"net": net, "X": X, "y": Y, **change})
    assert not net.built and net.seed is None


class Halved(bp.Adam):
    """Its numbers take one update at a time."""

    def numbers(self, t, lr):
        return super().numbers(t, lr if t < 5 else lr / 2)


@pytest.mark.parametrize("make_optimizer", [bp.SGD, bp.Adam, bp.AMSGrad, bp.SparseAdam, bp.Adagrad, bp.RMSprop, Halved,
                                            lambda lr: bp.AdamW(lr, betas=(0.5, 0.9), weight_decay=0.1),
                                            lambda lr: bp.SGD(lr, weight_decay=0.01, decoupled=True),
                                            lambda lr: bp.Adagrad(lr, lr_decay=0.3)])
@pytest.mark.parametrize("lr", [3e-4, 1, schedules.Cosine(0.1, total=500), schedules.Step(0.1, every=1), schedules.ReduceOnPlateau(0.1)])
def test_numbers_of_many_updates_have_the_bits_of_each(make_optimizer, lr):
    optimizer = make_optimizer(lr)
    for t, count in ((1, 1), (1, 40), (17, 9), (360, 200), (3000, 50), (40000, 10)):
        columns = optimizer.series(t, 2, count)
        for s in range(count):
            assert {name: float(column[s]) for name, column in columns.items()} == optimizer.scalars(t + s, 2)


def test_a_fit_makes_the_updates_of_its_steps():
    """Segments of many updates, and a few at the end of an epoch, with all that changes from one to the next."""
    def trainer():
        groups = {"*.bias": {"lr": schedules.Cosine(0.1, total=30), "weight_decay": 0.0}}
        return make(bp.AdamW(0.01, groups=groups), ema=0.9, dtype="float32")

    whole, single = trainer(), trainer()
    whole.fit(X, Y, epochs=3, batch_size=3, shuffle=False)
    for epoch in range(3):
        single.epoch = epoch
        for at in range(0, 60, 3):
            single.step(X[at:at + 3], Y[at:at + 3])
    assert whole.net.flat_parameters.tobytes() == single.net.flat_parameters.tobytes()
    assert whole.state.tobytes() == single.state.tobytes()
