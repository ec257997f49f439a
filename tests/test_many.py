"""Many models in one call: each has the bits of its own fit; what goes wrong names a model, and leaves no thread behind."""

import io
import signal
import threading
import time

import numpy as np
import pytest

import backprop as bp
from backprop import _core, lower
from backprop.callbacks import Progress
from backprop.plan import emit
from make_trajectories import hashed

N, INPUTS, CLASSES = 90, 5, 3
X = hashed((N, INPUTS), 91)
Y = (X @ hashed((INPUTS, CLASSES), 92)).argmax(1)
IDS = np.arange(N * 2).reshape(N, 2) % 7


@pytest.fixture(autouse=True)
def two_threads():
    """However few processors the machine has; and none of the threads is there afterwards."""
    before = threading.active_count()
    with bp.threads(2):
        yield
    assert no_thread_beyond(before) and _core.threads_limit(0) == 0


def no_thread_beyond(count):
    """Whether there are no more threads; one that a signal caught being started ends by itself at once."""
    for _ in range(200):
        if threading.active_count() <= count:
            return True
        time.sleep(0.005)
    return False


def dense(width=6, dtype="float32", **kwargs):
    return bp.Sequential([bp.Dense(width, "tanh"), bp.Dense(CLASSES)], dtype=dtype, **kwargs)


def bits(net):
    return net.flat_parameters.tobytes() + net.flat_buffers.tobytes()


def plain(history):
    """All but what the clock says."""
    return [{k: v for k, v in row.items() if k != "dur"} for row in history]


# ---------------------------------------------------------------- the bits of each one's own fit

MAKE = {
    "dense": dense,
    "wide": lambda: dense(130),
    "float64": lambda: dense(dtype="float64"),
    "built": lambda: bp.Sequential([bp.Input(INPUTS), bp.Dense(9, "relu"), bp.Dense(CLASSES)], seed=5),
    "dropout": lambda: bp.Sequential([bp.Dense(16, "relu"), bp.Dropout(0.4), bp.Dense(CLASSES)]),
    "batch norm": lambda: bp.Sequential([bp.Dense(16), bp.BatchNorm(), bp.Activation("relu"), bp.Dense(CLASSES)]),
    "residual": lambda: bp.Sequential([bp.Dense(8), bp.Residual([bp.LayerNorm(), bp.Dense(8, "gelu")]), bp.Dense(CLASSES)]),
}
TRAIN = {
    "dense": dict(optimizer=bp.SGD(0.1, momentum=0.9), epochs=4),
    "wide": dict(optimizer=bp.Adam(bp.schedules.Cosine(0.01, total=30)), batch_size=16, l2=1e-3, ema=0.9),
    "float64": dict(optimizer="rmsprop", clip_norm=0.5, shuffle=False),
    "built": dict(optimizer=bp.Adam(0.01, groups={"*.bias": {"lr": 0.1}}), loss="squared_error", batch_size=200),
    "dropout": dict(optimizer=bp.Adam(0.03), early_stopping=1, epochs=30, seed=3),
    "batch norm": dict(optimizer=bp.Adam(bp.schedules.ReduceOnPlateau(0.05, patience=0)), epochs=6, accumulate=2),
    "residual": dict(optimizer=bp.AdamW(0.01), precision="bfloat16", seed=9),
}
USUAL = dict(loss="cross_entropy", optimizer="adam", epochs=2, batch_size=20, seed=0, early_stopping=None, shuffle=True)
RULES = dict(l2=0.0, ema=None, clip_norm=None, precision=None, accumulate=1)


def options(name):
    """Values of all options for a model, and targets that suit its loss."""
    return {**USUAL, **RULES, **TRAIN[name]}


def alone(net, o, x, y, **data):
    o = dict(o)
    trainer = bp.Trainer(net, o.pop("loss"), o.pop("optimizer"), o.pop("seed"), **{k: o.pop(k) for k in RULES})
    trainer.fit(x, y, **o, **data, progress=False)
    return trainer


def test_every_model_has_the_bits_of_its_own_fit():
    """All of them at once: widths, rates, dtypes, stops, precisions; folds, validation and weights."""
    names = list(MAKE)
    y = np.eye(CLASSES)[Y]  # right for both losses
    w = np.arange(N) % 3 + 0.5
    rows = [np.flatnonzero(np.arange(N) % 7 != i) for i in range(len(names))]
    held = [np.flatnonzero(np.arange(N) % 7 == i) for i in range(len(names))]
    nets = [MAKE[name]() for name in names]
    os_ = [options(name) for name in names]
    histories, trainers = bp.fit_many(nets, X, y, rows=rows, validation_rows=held, sample_weight=w, return_trainers=True,
                                      **{k: [o[k] for o in os_] for k in os_[0]})
    for name, net, history, trainer, r, h in zip(names, nets, histories, trainers, rows, held):
        own = MAKE[name]()
        expected = alone(own, options(name), X[r], y[r], sample_weight=w[r], validation_data=(X[h], y[h], w[h]))
        assert type(history) is bp.History and history is trainer.history and trainer.net is net
        assert plain(history) == plain(expected.history), name
        assert bits(net) == bits(own), name
        assert trainer.state.tobytes() == expected.state.tobytes() and (trainer.t, trainer.epoch) == (expected.t, expected.epoch)
    assert len(histories[names.index("dropout")]) < 30  # it has stopped early
    assert len({tuple(h["lr"]) for h in histories}) > 3


def test_seeds_embeddings_and_one_value_for_all():
    def make():
        return bp.Sequential([bp.Embedding(7, 4), bp.Flatten(), bp.Dense(CLASSES)])

    nets = [make() for _ in range(5)]
    adam = bp.Adam(bp.schedules.ReduceOnPlateau(0.1, patience=0, factor=0.5))
    histories = bp.fit_many(nets, IDS, Y, optimizer=adam, seed=range(5), epochs=5, batch_size=16, validation_fraction=0.2)
    assert adam.schedule.lr == 0.1 and adam.schedule.best is None  # copies were trained with
    for seed, (net, history) in enumerate(zip(nets, histories)):
        own = make()
        trainer = bp.Trainer(own, optimizer=bp.Adam(bp.schedules.ReduceOnPlateau(0.1, patience=0, factor=0.5)), seed=seed)
        assert plain(trainer.fit(IDS, Y, epochs=5, batch_size=16, validation_fraction=0.2)) == plain(history)
        assert bits(own) == bits(net)
    assert len({bits(net) for net in nets}) == 5


def test_any_number_of_threads_and_one_model():
    found = set()
    for threads in (1, 2, 3, 8):
        nets = [dense(), dense(9), dense(70)]
        with bp.threads(threads):
            bp.fit_many(nets, X, Y, epochs=3, callbacks=(Threads(threads),))
            bp.fit_many(nets[2:], X, Y, epochs=2)
        found.add(b"".join(bits(net) for net in nets))
    assert len(found) == 1
    assert bp.fit_many([], X, Y) == []


class Threads:
    """What the core may use on the thread of a model: one thread, or all where that is one."""

    def __init__(self, n):
        self.n = n

    def on_epoch_end(self, trainer, epoch, logs):
        assert _core.threads_get() == 1
        trainer.net.predict(X)


def test_folds_masks_repetitions_and_held_out_rows():
    rng = np.random.default_rng(0)
    rows = [np.arange(N) % 2 == 0, rng.integers(0, N, 200), list(range(10)), None]
    nets = [dense() for _ in rows]
    histories = bp.fit_many(nets, X, Y, rows=rows, validation_fraction=[0.0, 0.25, 0.0, 0.5], epochs=3)
    for net, r, fraction, history in zip(nets, rows, (0, 0.25, 0, 0.5), histories):
        own, r = dense(), slice(None) if r is None else r
        assert plain(bp.Trainer(own).fit(X[r], Y[r], epochs=3, validation_fraction=fraction)) == plain(history)
        assert bits(own) == bits(net)
    same = [dense() for _ in range(2)]
    bp.fit_many(same, X, Y, rows=np.arange(40))  # an array is for all
    assert bits(same[0]) == bits(same[1])


def test_several_outputs_and_losses():
    def make():
        a = bp.Input(INPUTS, name="a")
        h = bp.Dense(6, "relu")(a)
        return bp.Network([a], [bp.Dense(CLASSES)(h), bp.Dense(1)(h)], seed=2)

    def squares(outputs, targets):
        return bp.sum(bp.square(outputs - targets), axis=1)

    nets = [make(), make()]
    bp.fit_many(nets, {"a": X}, [Y, X[:, :1]], loss=("cross_entropy", squares), loss_weights=[(1.0, 0.5), (0.1, 2.0)])
    for net, weights in zip(nets, [(1.0, 0.5), (0.1, 2.0)]):
        own = make()
        bp.Trainer(own, ["cross_entropy", squares], loss_weights=weights).fit({"a": X}, [Y, X[:, :1]])
        assert bits(own) == bits(net)


def test_data_are_converted_once(monkeypatch):
    """Arrays of the network's dtype are read where they lie; others have one copy for all."""
    seen = []

    class Feeds:
        def on_batch_begin(self, trainer, epoch, batch):
            seen.append([a.__array_interface__["data"][0] for a in trainer.feed[0]])

    x, w = X.astype("float32"), np.ones(N, "float32")
    bp.fit_many([dense() for _ in range(4)], x, Y, sample_weight=w, callbacks=(Feeds(),), rows=np.arange(0, N, 2))
    assert {tuple(s) for s in seen} == {tuple(seen[0])} and len(seen) == 8
    assert seen[0][0] == x.__array_interface__["data"][0] and seen[0][2] == w.__array_interface__["data"][0]
    seen.clear()
    bp.fit_many([dense() for _ in range(3)] + [dense(dtype="float64")], X.tolist(), Y.tolist(), callbacks=(Feeds(),))
    assert len({s[0] for s in seen}) == 2


# ---------------------------------------------------------------- arguments


def test_wrong_arguments_are_refused_before_any_model_starts():
    nets = [dense() for _ in range(3)]
    bad = X.copy()

    def refused(error, match, *, models=None, x=X, y=Y, **kwargs):
        with pytest.raises(error, match=match):
            bp.fit_many(nets if models is None else models, x, y, **kwargs)
        assert not any(net.built for net in nets) and {net.seed for net in nets} == {None}

    refused(ValueError, r"epochs is a list of 2 for 3 models.*a single value", epochs=[1, 2])
    refused(ValueError, r"seed is a list of 4", seed=np.arange(4))
    refused(ValueError, r"sample_weight is a list of 90 for 3 models.*an array", sample_weight=[1.0] * N)
    refused(ValueError, r"callbacks is a list of 1 .*a tuple", callbacks=[Threads(1)])
    refused(TypeError, r"unexpected keyword argument 'batch'", batch=3)
    refused(ValueError, r"^model 1: batch_size must be a whole number", batch_size=[8, 0, 8])
    refused(ValueError, r"^model 2: seed must be in", seed=[1, 2, -3])
    refused(ValueError, r"^model 0: there is no loss|^model 0: .*loss", loss="no such loss")
    refused(ValueError, r"^model 2: groups: no parameter's name matches", optimizer=["adam", "sgd", bp.Adam(groups={"9.*": {"lr": 1.0}})])
    refused(TypeError, r"^model 1: callbacks must be a list", callbacks=[(), Threads(1), ()])
    refused(ValueError, r"^model 1: rows\[2\] is 90, out of range for 90 rows", rows=[None, [0, 1, N], None])
    refused(ValueError, r"^model 1: rows\[0\] is -1", rows=[None, [-1], None])
    refused(ValueError, r"^model 0: rows is a mask of shape \(3,\) for 90 rows", rows=np.ones(3, bool))
    refused(ValueError, r"^model 0: rows is empty", rows=np.zeros(N, bool))
    refused(ValueError, r"^model 0: rows must have 1 dimension", rows=np.zeros((3, 3), int))
    refused(ValueError, r"^model 2: validation_rows goes with neither", validation_rows=[None, None, [1]], validation_fraction=0.5)
    refused(ValueError, r"^model 0: validation_data must be a tuple", validation_data=(X,))
    refused(ValueError, r"^model 0: validation_data\[1\]\[0\] is 7, out of range", validation_data=(X, Y * 0 + 7))
    refused(ValueError, r"^model 0: y\[0\] is 5, out of range for 3", y=Y * 0 + 5)
    refused(ValueError, r"^model 0: X has 89 rows, y has 90", x=bad[1:])
    refused(TypeError, r"^y is None", y=None)
    refused(TypeError, r"^models must be a list", models=nets[0])
    refused(TypeError, r"^models\[1\] must be a bp.Network or bp.Sequential, got Trainer", models=[nets[0], bp.Trainer(dense())])
    narrow = bp.Sequential([bp.Input(4), bp.Dense(CLASSES)])
    refused(bp.ShapeError, r"^model 3: X has shape \(90, 5\)", models=[*nets, narrow])


def test_what_models_share_is_refused_by_position():
    shared = bp.Dense(6)
    nets = [dense(), bp.Sequential([shared, bp.Dense(CLASSES)]), dense(), bp.Sequential([bp.Residual([shared]), bp.Dense(CLASSES)])]
    with pytest.raises(ValueError, match=r"models\[1\] and models\[3\] share a layer, .*Dense"):
        bp.fit_many(nets, X, Y)
    with pytest.raises(ValueError, match=r"models\[0\] and models\[2\] are the same network"):
        bp.fit_many([nets[0], nets[2], nets[0]], X, Y)
    a, b = (bp.Sequential([bp.Input(INPUTS), bp.Dense(CLASSES)]) for _ in range(2))
    b.flat_parameters = a.flat_parameters[2:]
    with pytest.raises(ValueError, match=r"models\[0\] and models\[2\] have their parameters in the same memory"):
        bp.fit_many([a, nets[0], b], X, Y)
    twice = bp.Dense(INPUTS)
    bp.fit_many([bp.Sequential([twice, twice, bp.Dense(CLASSES)]), dense()], X, Y)  # in one network a layer may stand twice


# ---------------------------------------------------------------- callbacks, progress


def test_callbacks_come_one_at_a_time_and_on_the_thread_of_their_model():
    class Mine:
        inside, most, calls, threads, blocked = 0, 0, [], set(), set()

        def on_epoch_end(self, trainer, epoch, logs):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.001)  # others would come in here
            self.calls.append((id(trainer.net), epoch, trainer.epoch))
            self.threads.add(threading.get_ident())
            self.blocked |= signal.pthread_sigmask(signal.SIG_BLOCK, ())
            with trainer.averaged():  # needs the trainer to itself
                trainer.evaluate(X, Y)
            self.inside -= 1

    mine, nets, stops = Mine(), [dense() for _ in range(6)], []
    bp.fit_many(nets, X, Y, epochs=4, ema=0.9, callbacks=(mine, lambda trainer, logs: stops.append(logs["epoch"])))
    assert mine.most == 1 and len(mine.calls) == 24 and len(stops) == 24
    for net in nets:
        assert [c[1:] for c in mine.calls if c[0] == id(net)] == [(i, i) for i in (1, 2, 3, 4)]
    assert len(mine.threads) <= 2 and mine.blocked == signal.pthread_sigmask(signal.SIG_BLOCK, ())
    own = [dense() for _ in range(2)]
    bp.fit_many(own, X, Y, epochs=3, callbacks=[[Stop(1)], [Stop(2)]])
    assert bits(own[0]) != bits(own[1])


class Stop:
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, trainer, epoch, logs):
        trainer.stop_training = epoch == self.epoch


def test_early_stopping_is_copied():
    stopping = bp.EarlyStopping(patience=1)
    nets = [dense(), dense(40), dense(3)]
    histories = bp.fit_many(nets, X, Y, epochs=40, optimizer=bp.Adam(0.1), early_stopping=stopping, validation_fraction=0.3)
    again = bp.fit_many([dense(), dense(40), dense(3)], X, Y, epochs=40, optimizer=bp.Adam(0.1), callbacks=(stopping,),
                        validation_fraction=0.3)
    assert not hasattr(stopping, "best") and list(map(plain, histories)) == list(map(plain, again))
    assert len({len(h) for h in histories}) > 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_line_for_each_model(capsys):
    nets = [dense() for _ in range(5)]
    bp.fit_many(nets, X, Y, epochs=2, validation_fraction=0.1, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(" (")[0] for line in lines) == [f"model {i}" for i in range(5)]
    assert all(f"({i}/5)  2 epochs  train loss " in line and "valid accuracy" in line for i, line in enumerate(lines, 1))
    bp.fit_many(nets, X, Y)
    bp.fit_many(nets, X, Y, epochs=0, progress=False)
    assert capsys.readouterr().out == ""
    stream = Terminal()

    class Slow:
        def on_epoch_begin(self, trainer, epoch):
            time.sleep(0.15)

    bp.fit_many(nets[:2], X, Y, epochs=3, progress=Progress(stream), callbacks=(Slow(),))
    assert "\r\x1b[K0 of 2 models have ended; one has made " in stream.getvalue() and stream.getvalue().count("\n") == 2


# ---------------------------------------------------------------- failures


def test_the_first_failure_stops_the_others_and_names_its_model():
    x = X.astype("float32")
    x[70] = np.nan
    good = np.arange(60)
    nets = [dense() for _ in range(4)]
    with pytest.raises(bp.NonFiniteError, match="not finite at update") as caught:
        bp.fit_many(nets, x, Y, rows=[good, None, good, good], epochs=[10**6, 10**6, 10**6, 3], batch_size=20)
    assert caught.value.__notes__ == ["raised in the training of models[1] by fit_many"]
    assert all(np.isfinite(net.flat_parameters).all() for net in nets)
    fresh = dense(seed=0)
    fresh.build(x)
    assert bits(nets[2]) == bits(nets[3]) == bits(fresh)  # these had not begun
    bp.fit_many(nets, x, Y, rows=good)  # and all can go on


@pytest.mark.parametrize("method", ["on_train_begin", "on_batch_end", "on_epoch_end"])
def test_an_exception_of_a_callback_passes(method):
    """The other model ends after a whole step: it is as after so many steps of its own."""

    def fail(trainer, **kwargs):
        if other.t or method == "on_train_begin":
            raise KeyError("mine")

    class Counts:
        def on_train_begin(self, trainer, epochs):
            nonlocal other
            other = trainer

    class Fails:
        pass

    setattr(Fails, method, staticmethod(fail))
    ends = []

    class Ends:
        def on_train_end(self, trainer):
            ends.append(trainer.net)

    nets, other = [dense(), dense(8)], None
    with pytest.raises(KeyError, match="mine") as caught:
        bp.fit_many(nets, X, Y, epochs=10**6, batch_size=20, callbacks=[(Counts(), Ends()), (Fails(),)])
    assert caught.value.__notes__ == ["raised in the training of models[1] by fit_many"]
    if other is None:
        return  # the failure came before the other began
    assert ends == [nets[0]]
    own = bp.Trainer(dense(), seed=0)
    own.fit(X, Y, epochs=other.t // 5, batch_size=20)
    order = _core.permutation(N, 0, own.epoch)
    for s in range(other.t % 5):
        own.step(X[order[20 * s:20 * s + 20]], Y[order[20 * s:20 * s + 20]])
    assert own.t == other.t and bits(own.net) == bits(nets[0])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
@pytest.mark.parametrize("longest", ["on the caller", "elsewhere"])
def test_ctrl_c_stops_all_threads(longest):
    """Also where the caller has nothing to do any more, and where one call into C is long."""
    x, y = np.tile(X.astype("float32"), (1000, 1)), np.tile(Y, 1000)
    nets = [dense(64), dense(64)]
    caller = threading.get_ident()
    begun = []

    class Begin:
        def on_train_begin(self, trainer, epochs):
            begun.append(trainer)

        def on_epoch_begin(self, trainer, epoch):
            if longest == "elsewhere" and threading.get_ident() == caller and len(begun) == 2:
                trainer.stop_training = True

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            bp.fit_many(nets, x, y, epochs=10**6, batch_size=64, callbacks=(Begin(),))
        took = time.perf_counter() - start - 0.3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert took < 2.0  # a tenth of a second, on a machine that has nothing else to do
    assert len(begun) == 2 and all(np.isfinite(net.flat_parameters).all() for net in nets)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may strike a callback of the garbage collector
def test_a_signal_at_any_moment_leaves_whole_steps_and_no_thread(interrupted):
    made = 0
    nothing = threading.active_count()
    for delay in 1e-4 + 2e-2 * (hashed(20, 93) + 1) / 2:
        nets = [dense(), dense(8), dense(7)]
        trainers = []

        class Keep:
            def on_train_begin(self, trainer, epochs):
                trainers.append(trainer)

        interrupted(lambda: bp.fit_many(nets, X, Y, epochs=10**6, batch_size=30, callbacks=(Keep(),)), delay, 0.5)
        assert no_thread_beyond(nothing)
        for trainer in trainers:
            own = bp.Trainer(dense(trainer.net.layers[0].units), seed=0)
            own.fit(X, Y, epochs=trainer.t // 3, batch_size=30)
            order = _core.permutation(N, 0, own.epoch)
            for s in range(trainer.t % 3):
                own.step(X[order[30 * s:30 * s + 30]], Y[order[30 * s:30 * s + 30]])
            assert own.t == trainer.t and (not own.t or bits(own.net) == bits(trainer.net))
            made += own.t
    assert made > 100


# ---------------------------------------------------------------- the core


def test_a_threads_limit_and_look_are_its_own():
    seen = {}

    def other():
        seen["limit"], seen["poll"] = _core.threads_limit(0), _core.poll_with(None)
        seen["threads"] = _core.threads_get()

    def look():
        raise KeyError("stop")

    with bp.threads(3):
        assert _core.threads_limit(1) == 0 and _core.poll_with(look) is None
        try:
            assert _core.threads_get() == 1
            with bp.threads(5):  # what is set for all stays what it was
                assert _core.threads_get() == 1
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert seen == {"limit": 0, "poll": None, "threads": 3}
            x = np.tile(X.astype("float32"), (5000, 1))
            net = bp.Sequential([*(bp.Dense(64, "tanh") for _ in range(10)), bp.Dense(CLASSES)])
            with pytest.raises(KeyError, match="stop"):
                net.predict(x, batch_size=len(x))  # one run of 0.2 seconds or more: signals are looked at after 0.05
        finally:
            assert _core.threads_limit(0) == 1 and _core.poll_with(None) is look
        assert _core.threads_get() == 3
    with pytest.raises(ValueError, match="threads"):
        _core.threads_limit(-1)


SMOOTH = bp.losses.CrossEntropy(label_smoothing=0.1)


class Kind:
    """Makes networks that differ in one number, and so have programs that do."""

    def __init__(self, slope=0.1, rate=0.2, scale=1.0, units=6):
        self.slope, self.rate, self.scale, self.units = slope, rate, scale, units

    def __call__(self):
        return bp.Sequential([bp.Dense(self.units, lambda x: bp.leaky_relu(x, self.slope) * self.scale), bp.Dropout(self.rate),
                              bp.Dropout(0.1), bp.Dense(CLASSES)])


def test_models_of_a_kind_have_one_program(monkeypatch):
    """And those that differ in any number that is part of it have another: each of them has the bits of its own fit."""
    made = []
    monkeypatch.setattr(lower, "emit", lambda *args: made.append(1) or emit(*args))
    kinds = [(Kind(), {}), (Kind(0.2), {}), (Kind(scale=-0.0), {}), (Kind(scale=0.0), {}), (Kind(rate=0.3), {}), (Kind(units=7), {}),
             (Kind(), {"optimizer": bp.Adam(betas=(0.8, 0.999))}), (Kind(), {"l2": 1e-3}), (Kind(), {"batch_size": 16}),
             (Kind(), {"optimizer": bp.SGD(0.1)}), (Kind(), {"optimizer": bp.SGD(0.1, momentum=0.5)}), (Kind(), {"loss": SMOOTH}),
             (Kind(), {"ema": 0.9}), (Kind(), {"accumulate": 2}), (Kind(), {"precision": "bfloat16"})]
    same = [(Kind(), {"optimizer": bp.Adam(0.1), "seed": 4}), (Kind(), {"optimizer": bp.Adam(bp.schedules.Step(0.1, every=1))})]
    models = [*kinds, *same, *kinds]
    nets = [make() for make, _ in models]
    each = [{**USUAL, **RULES, **own} for _, own in models]
    bp.fit_many(nets, X, Y, **{k: [o[k] for o in each] for k in each[0]})
    assert len(made) == len(kinds) + 3  # accumulation has one for the update too, and counts rows by a small one of each model
    for net, (make, _), o in zip(nets, models, each):
        own = make()
        alone(own, o, X, Y)
        assert bits(net) == bits(own)
    made.clear()
    bp.fit_many([dense() for _ in range(6)], X, Y, optimizer=[bp.Adam(r) for r in hashed(6, 94) ** 2], validation_fraction=0.2)
    assert len(made) == 2
