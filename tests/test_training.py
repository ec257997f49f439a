"""Training: fit, step, own losses and own loops, validation, early stopping, callbacks."""

import numpy as np
import pytest

import backprop as bp
from make_trajectories import hashed

N, INPUTS, CLASSES = 60, 5, 3
X = hashed((N, INPUTS), 21)
Y = (X @ hashed((INPUTS, CLASSES), 22)).argmax(1)
TARGETS = X @ hashed((INPUTS, CLASSES), 23)


def make(loss="cross_entropy", optimizer=None, dtype="float64", seed=0, hidden="tanh", **kwargs):
    net = bp.Sequential([bp.Input(INPUTS), bp.Dense(8, hidden), bp.Dense(CLASSES)], dtype=dtype, seed=seed)
    return bp.Trainer(net, loss, optimizer or bp.Adam(0.01), seed=seed, **kwargs)


def snapshot(trainer):
    """All that a refused call must leave alone."""
    net = trainer.net
    return (net.built and net.flat_parameters.tobytes(), trainer.t, trainer.epoch, len(trainer.history), trainer.stop_training,
            net.built and trainer.state.tobytes())  # fmt: skip


class Recorder:
    """Every call of a callback, in order."""

    def __init__(self, batches=True):
        self.calls = []
        names = ["on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"]
        for name in names + ["on_batch_begin", "on_batch_end"] * batches:
            setattr(self, name, lambda trainer, name=name, **kwargs: self.calls.append((name[3:], kwargs)))

    def names(self):
        return [name for name, _ in self.calls]


# ---------------------------------------------------------------- it learns


def test_learns_xor():
    x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    net = bp.Sequential([bp.Dense(8, "tanh"), bp.Dense(1)])
    trainer = bp.Trainer(net, "binary_cross_entropy", bp.Adam(0.05), seed=1)
    history = trainer.fit(x, y, epochs=300, batch_size=4, progress=False)
    assert history["train_loss"][0] > 0.5 > 0.05 > history["train_loss"][-1]
    assert ((net.predict(x)[:, 0] > 0) == y).all()
    assert trainer.evaluate(x, y)["accuracy"] == 1.0


def test_learns_a_regression():
    x = hashed((200, 2), 31)
    y = x[:, 0] * x[:, 1] + 0.5 * x[:, 0] ** 2
    trainer = bp.Trainer(bp.Sequential([bp.Dense(32, "silu"), bp.Dense(1)]), "squared_error", bp.Adam(0.01), seed=1)
    trainer.fit(x, y, epochs=150, batch_size=20, progress=False)
    assert trainer.evaluate(x, y)["loss"] < 1e-3 < 0.05 < y.var()


def test_learns_digits():
    x, y = bp.data.digits()
    held = np.arange(len(x)) % 6 == 0
    trainer = bp.Trainer(bp.Sequential([bp.Dense(64, "relu"), bp.Dense(10)]), optimizer=bp.Adam(3e-3), seed=0)
    history = trainer.fit(x[~held], y[~held], epochs=12, batch_size=32, validation_data=(x[held], y[held]), progress=False)
    assert history[-1]["valid_accuracy"] > 0.95
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 3


# ---------------------------------------------------------------- one step, in all its forms


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("optimizer", [bp.SGD(0.1), bp.Adam(0.01)], ids=repr)
def test_forward_backward_apply_is_a_step(dtype, tolerance, optimizer):
    one, two = (make("squared_error", optimizer, dtype) for _ in range(2))
    for _ in range(5):
        loss = one.step(X, TARGETS)
        z = two.net.forward(X)
        assert loss == pytest.approx(np.mean((z - TARGETS) ** 2), rel=tolerance * 10)
        dx = two.net.backward(2 * (z - TARGETS) / z.size)
        assert dx.shape == X.shape
        two.apply()
        assert not two.net.flat_gradients.any()
        np.testing.assert_allclose(two.net.flat_parameters, one.net.flat_parameters, rtol=0, atol=tolerance)
    assert one.t == two.t == 5


def test_gradients_of_several_backwards_add_up():
    trainer = make("squared_error")
    net = trainer.net
    parts = (slice(0, 10), slice(10, 25), slice(25, 40))
    exact = []
    for p in parts:
        _, g = trainer.loss_and_gradients(X[p], TARGETS[p])
        exact.append(trainer.flat_gradients.copy())
    net.flat_gradients[...] = 0
    outputs = [net.forward(X[p]) for p in parts]  # three wait at once
    for i in (2, 1, 0):  # the last forward is the first whose backward is taken
        z = outputs[i]
        expected = 2 * (z - TARGETS[parts[i]]) / z.size
        z[...] = np.nan  # what the caller does to its copy is no matter
        net.backward(expected)
        np.testing.assert_allclose(net.flat_gradients, sum(exact[i:]), rtol=0, atol=1e-13)
    with pytest.raises(RuntimeError, match="needs a forward"):
        net.backward(outputs[0])


def test_gradient_of_the_input_against_central_differences():
    net = make("squared_error").net
    x, up = X[:3].copy(), hashed((3, CLASSES), 41)
    net.forward(x)
    exact = net.backward(up)
    for i in np.ndindex(x.shape):
        ends = []
        for d in (1e-5, -1e-5):
            moved = x.copy()
            moved[i] += d
            ends.append((net.predict(moved) * up).sum())
        assert exact[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_release_and_refused_backwards():
    net = make().net
    z = net.forward(X)
    with pytest.raises(bp.ShapeError, match="dout"):
        net.backward(z[:-1])
    with pytest.raises(TypeError, match="dout"):
        net.backward(None)
    net.backward(z)  # the forward still waited
    for _ in range(300):
        net.forward(X[:2])
        net.release()
    with pytest.raises(RuntimeError):
        net.backward(z)
    with pytest.raises(RuntimeError, match="release"):
        for _ in range(300):
            net.forward(X[:2])
    net.release()


def test_apply_refuses_gradients_that_are_not_finite():
    trainer = make()
    trainer.net.backward(np.ones_like(trainer.net.forward(X)))
    trainer.flat_gradients[3] = np.inf
    before = snapshot(trainer)
    with pytest.raises(bp.NonFiniteError):
        trainer.apply()
    assert snapshot(trainer) == before


def test_threads_do_not_matter(shared):
    weights = []
    for n in (1, 2):
        with bp.threads(n):
            trainer = make(dtype="float32")
            trainer.fit(X, Y, epochs=3, batch_size=16, progress=False)
            weights.append(trainer.net.flat_parameters.tobytes())
    assert weights[0] == weights[1]
    with pytest.raises(ValueError, match="threads"):
        with bp.threads(0):
            pass


# ---------------------------------------------------------------- losses


def test_a_loss_of_ones_own():
    def squares(z, y):
        return bp.square(z - y)

    one, two = make("squared_error"), make(squares)
    for t in (one, two):
        t.fit(X, TARGETS, epochs=2, batch_size=16, progress=False)
    assert one.net.flat_parameters.tobytes() == two.net.flat_parameters.tobytes()
    assert one.evaluate(X, TARGETS) == two.evaluate(X, TARGETS)
    huber = make(lambda z, y: bp.sum(bp.where(bp.abs(z - y) < 0.5, bp.square(z - y), bp.abs(z - y) - 0.25), 1), bp.SGD(0.05))
    losses = [huber.step(X, TARGETS) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    with pytest.raises(bp.ShapeError, match="one number for each row"):
        make(lambda z, y: bp.mean(z - y)).step(X, TARGETS)
    with pytest.raises(ValueError, match="loss must be one of"):
        make("squared")


def test_values_of_the_losses():
    trainer = make()
    z = trainer.net.predict(X)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    by_row = -log_p[np.arange(N), Y]
    w = hashed(N, 51) + 1
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(by_row.mean(), rel=1e-12)
    assert trainer.evaluate(X, Y)["accuracy"] == pytest.approx((z.argmax(1) == Y).mean())
    assert trainer.evaluate(X, Y, w, batch_size=7)["loss"] == pytest.approx(np.average(by_row, weights=w), rel=1e-12)
    assert trainer.loss_and_gradients(X, Y, w)[0] == pytest.approx(np.average(by_row, weights=w), rel=1e-12)
    assert trainer.loss_and_gradients(X, np.eye(3)[Y])[0] == pytest.approx(by_row.mean(), rel=1e-12)
    p = hashed((N, 3), 52) / 2 + 0.5
    assert make("squared_error").evaluate(X, p)["loss"] == pytest.approx(((z - p) ** 2).mean(), rel=1e-12)
    assert make("binary_cross_entropy").evaluate(X, p)["loss"] == pytest.approx((np.log1p(np.exp(z)) - z * p).mean(), rel=1e-12)


def test_a_weight_of_zero_takes_a_row_away():
    one, two = make(), make()
    w = np.where(np.arange(N) % 3 == 0, 0.0, 2.0)
    for _ in range(5):
        assert one.step(X, Y, w) == pytest.approx(two.step(X[w > 0], Y[w > 0]), rel=1e-12)
    np.testing.assert_allclose(one.net.flat_parameters, two.net.flat_parameters, rtol=0, atol=1e-12)
    before = one.net.flat_parameters.copy()
    sgd = make(optimizer=bp.SGD(0.1))
    before = snapshot(sgd)[0]
    assert sgd.step(X, Y, np.zeros(N)) == 0.0 and snapshot(sgd)[0] == before


def test_several_outputs_have_a_loss_each():
    x = bp.Input(INPUTS)
    h = bp.Dense(8, "tanh")(x)
    net = bp.Network(x, [bp.Dense(3)(h), bp.Dense(3)(h)], dtype="float64", seed=1)
    trainer = bp.Trainer(net, ["cross_entropy", "squared_error"])
    a, b = net.predict(X)
    expected = -(a - np.log(np.exp(a).sum(1, keepdims=True)))[np.arange(N), Y].mean() + ((b - TARGETS) ** 2).mean()
    assert trainer.evaluate(X, [Y, TARGETS])["loss"] == pytest.approx(expected, rel=1e-12)
    assert trainer.step(X, [Y, TARGETS]) == pytest.approx(expected, rel=1e-12)
    history = trainer.fit(X, [Y, TARGETS], epochs=20, batch_size=16, validation_data=(X, [Y, TARGETS]), progress=False)
    assert history[-1]["valid_loss"] < expected * 0.9
    with pytest.raises(ValueError, match="y must be a list of 2"):
        trainer.step(X, Y)
    with pytest.raises(ValueError, match=r"X has 60 rows, y\[1\] has 59|x has 60 rows, y\[1\] has 59"):
        trainer.step(X, [Y, TARGETS[:-1]])
    with pytest.raises(ValueError, match="2 outputs and the trainer 1 losses"):
        bp.Trainer(net, "squared_error").step(X, [TARGETS, TARGETS])


# ---------------------------------------------------------------- fit: validation, history, stopping


def test_history_and_validation_data():
    trainer = make()
    history = trainer.fit(X, Y, epochs=3, batch_size=16, validation_data=(X[:20], Y[:20]), progress=False)
    assert history is trainer.history and len(history) == trainer.epoch == 3
    assert history["epoch"] == [1, 2, 3] and history["steps"] == [4, 4, 4] and history["lr"] == [0.01] * 3
    assert all(d > 0 for d in history["dur"])
    expected = trainer.evaluate(X[:20], Y[:20])
    assert history[-1]["valid_loss"] == expected["loss"] and history[-1]["valid_accuracy"] == expected["accuracy"]
    weights = np.arange(20.0)
    trainer.fit(X, Y, validation_data=(X[:20], Y[:20], weights), progress=False)
    assert history[3]["valid_loss"] == trainer.evaluate(X[:20], Y[:20], weights)["loss"]
    assert len(trainer.fit(X, Y, epochs=0)) == 4


def test_validation_fraction_holds_rows_out():
    one, two = make(), make()
    history = one.fit(X, Y, epochs=2, batch_size=16, validation_fraction=0.25, progress=False)
    assert history["steps"] == [3, 3]  # 45 rows
    again = two.fit(X, Y, epochs=2, batch_size=16, validation_fraction=0.25, progress=False)
    assert history["valid_loss"] == again["valid_loss"]
    spoiled = make()  # other labels for the rows that are held out change the validation alone
    held = bp._core.permutation(N, 0, 2**63)[:15]
    labels = Y.copy()
    labels[held] = (labels[held] + 1) % 3
    other = spoiled.fit(X, labels, epochs=2, batch_size=16, validation_fraction=0.25, progress=False)
    assert other["train_loss"] == history["train_loss"] and other["valid_loss"] != history["valid_loss"]


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_restores_the_best(restore):
    trainer = make(optimizer=bp.SGD(0.0))
    kept = {}  # weights at the end of each epoch

    class Spoil:
        def on_epoch_begin(self, trainer, epoch):
            # nothing learns here; scores that favour one class grow smaller, then larger
            trainer.net.parameters["1.bias"][0] = 3.0 if epoch == 1 else epoch - 2.0
            kept[epoch] = trainer.net.flat_parameters.copy()

    trainer.net.parameters["1.weight"][...] = 0
    stopping = bp.EarlyStopping(patience=2, restore_best=restore)
    history = trainer.fit(X, Y, epochs=20, batch_size=60, validation_data=(X, Y), early_stopping=stopping, callbacks=[Spoil()],
                          progress=False)  # fmt: skip
    losses = history["valid_loss"]
    assert np.argmin(losses) == 1 and len(history) == 4
    assert (stopping.best_epoch, stopping.stopped_epoch, stopping.best) == (2, 4, losses[1])
    assert np.array_equal(trainer.net.flat_parameters, kept[2]) == restore
    assert (trainer.evaluate(X, Y)["loss"] == losses[1]) == restore


def test_early_stopping_by_patience_and_by_name():
    trainer = make(optimizer=bp.SGD(0.0))
    assert len(trainer.fit(X, Y, epochs=50, early_stopping=3, progress=False)) == 4
    with pytest.raises(ValueError, match="watches 'valid_loss'"):
        trainer.fit(X, Y, early_stopping=bp.EarlyStopping("valid_loss"), progress=False)
    for kwargs in ({"patience": 0}, {"patience": 1.5}, {"mode": "up"}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            bp.EarlyStopping(**kwargs)


def test_callbacks_are_called_in_order():
    trainer, r = make(), Recorder()
    plain = []
    trainer.fit(X, Y, epochs=2, batch_size=30, callbacks=[r, lambda trainer, logs: plain.append(logs["epoch"])], progress=False)
    batch = ["batch_begin", "batch_end"]
    epoch = ["epoch_begin", *batch, *batch, "epoch_end"]
    assert r.names() == ["train_begin", *epoch, *epoch, "train_end"]
    assert plain == [1, 2]
    calls = dict(r.calls)
    assert calls["train_begin"] == {"epochs": 2} and calls["epoch_begin"] == {"epoch": 2}
    assert calls["epoch_end"] == {"epoch": 2, "logs": trainer.history[-1]}
    losses = [kwargs["loss"] for name, kwargs in r.calls if name == "batch_end"]
    assert np.mean(losses[2:]) == pytest.approx(trainer.history[-1]["train_loss"])
    quiet = make()
    quiet.fit(X, Y, epochs=2, batch_size=30, callbacks=[Recorder(batches=False)], progress=False)
    assert quiet.net.flat_parameters.tobytes() == trainer.net.flat_parameters.tobytes()


@pytest.mark.parametrize("method, steps, epochs", [("on_batch_end", 1, 1), ("on_batch_begin", 1, 1), ("on_epoch_end", 4, 1)])
def test_stop_training(method, steps, epochs):
    class Stop:
        pass

    def stop(trainer, **kwargs):
        trainer.stop_training = True

    setattr(Stop, method, staticmethod(stop))
    trainer, recorder = make(), Recorder(batches=False)
    trainer.fit(X, Y, epochs=5, batch_size=16, callbacks=[Stop(), recorder], progress=False)
    assert (trainer.t, trainer.epoch) == (steps, epochs)
    assert recorder.names()[-2:] == ["epoch_end", "train_end"]
    assert np.isfinite(trainer.history[-1]["train_loss"])
    trainer.fit(X, Y, epochs=1, batch_size=16, progress=False)
    assert trainer.t == steps + 4  # a new fit starts afresh


def test_a_callback_may_use_the_network_and_train():
    other, plain = make(seed=3), make()
    seen = []

    class Busy:
        def on_batch_end(self, trainer, epoch, batch, loss):
            seen.append((trainer.net.predict(X).copy(), trainer.evaluate(X, Y)["loss"]))
            trainer.loss_and_gradients(X[:7], Y[:7])
            other.fit(X, Y, epochs=1, batch_size=20, progress=False)

    busy = make()
    busy.fit(X, Y, epochs=2, batch_size=16, callbacks=[Busy()], progress=False)
    for i in range(8):
        order = bp._core.permutation(N, 0, i // 4)[(i % 4) * 16:(i % 4 + 1) * 16]
        plain.step(X[order], Y[order])
        assert np.array_equal(seen[i][0], plain.net.predict(X)) and seen[i][1] == plain.evaluate(X, Y)["loss"]
    assert busy.net.flat_parameters.tobytes() == plain.net.flat_parameters.tobytes()
    alone = make(seed=3)
    alone.fit(X, Y, epochs=8, batch_size=20, progress=False)
    assert other.net.flat_parameters.tobytes() == alone.net.flat_parameters.tobytes()


@pytest.mark.parametrize("rows", [16, 60])
def test_a_callback_may_step_the_trainer_that_called_it(rows):
    class Twice:
        def on_batch_end(self, trainer, epoch, batch, loss):
            trainer.step(X[:rows], Y[:rows])

    one, two = make(), make()
    one.fit(X, Y, epochs=2, batch_size=16, callbacks=[Twice()], progress=False)
    for i in range(8):
        order = bp._core.permutation(N, 0, i // 4)[(i % 4) * 16:(i % 4 + 1) * 16]
        two.step(X[order], Y[order])
        two.step(X[:rows], Y[:rows])
    assert one.t == two.t == 16
    assert one.net.flat_parameters.tobytes() == two.net.flat_parameters.tobytes()
