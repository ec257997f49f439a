"""Data larger than memory: fit on memory maps, and on batches that an iterator yields."""

import io
import tracemalloc

import numpy as np
import pytest

import backprop as bp
from backprop.callbacks import Progress
from make_trajectories import hashed
from test_interruption import Terminal

N, INPUTS, CLASSES = 60, 5, 3
X = hashed((N, INPUTS), 81).astype("float32")
Y = (X @ hashed((INPUTS, CLASSES), 82)).argmax(1)
TARGETS = (X @ hashed((INPUTS, CLASSES), 83)).astype("float32")
W = (hashed(N, 84) + 1.5).astype("float32")


def make(loss="cross_entropy", optimizer=None, built=True, **kwargs):
    layers = [bp.Dense(8, "tanh"), bp.Dropout(0.2), bp.Dense(CLASSES)]
    net = bp.Sequential([bp.Input(INPUTS), *layers] if built else layers, seed=0)
    return bp.Trainer(net, loss, optimizer or bp.Adam(0.01), seed=3, **kwargs)


def slices(size=16, y=Y, w=None):
    for start in range(0, N, size):
        part = slice(start, start + size)
        yield (X[part], y[part]) if w is None else (X[part], y[part], w[part])


def bits(trainer):
    return trainer.net.flat_parameters.tobytes(), trainer.state.tobytes(), trainer.t, trainer.epoch


class Loader:
    """Like a data loader: iterated over anew for each epoch, and knows how many batches it has."""

    def __init__(self, batches):
        self.batches = list(batches)

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def without_time(history):
    return [{k: v for k, v in row.items() if k != "dur"} for row in history]


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("source", [slices, list(slices()), tuple(slices()), Loader(slices())],
                         ids=["function", "list", "tuple", "loader"])  # fmt: skip
def test_batches_train_as_the_same_slices_of_arrays(source):
    schedule = bp.schedules.Step(0.01, 1, 0.5, unit="epoch")
    one, two = (make(optimizer=bp.Adam(schedule)) for _ in range(2))
    valid = (X[:20], Y[:20])
    a = one.fit(X, Y, epochs=3, batch_size=16, shuffle=False, validation_data=valid, progress=False)
    b = two.fit(source, epochs=3, batch_size=None, validation_data=valid, progress=False)
    assert bits(one) == bits(two) and without_time(a) == without_time(b)
    assert b is two.history and b["steps"] == [4, 4, 4] and len(set(b["lr"])) == 3


@pytest.mark.parametrize("loss, y", [("squared_error", TARGETS), ("cross_entropy", np.eye(3)[Y]), ("cross_entropy", Y.astype("uint8"))],
                         ids=["targets", "probabilities", "bytes"])  # fmt: skip
@pytest.mark.parametrize("w", [None, W], ids=["plain", "weighted"])
def test_every_kind_of_targets_and_weights(loss, y, w):
    one, two, three = (make(loss) for _ in range(3))
    one.fit(X, y, epochs=2, batch_size=16, sample_weight=w, shuffle=False, progress=False)
    two.fit(lambda: slices(y=y, w=w), epochs=2, progress=False)
    three.fit(lambda: ([x.tolist(), *(a.tolist() for a in more)] for x, *more in slices(y=y, w=w)), epochs=2, progress=False)
    assert bits(one) == bits(two) == bits(three)
    assert without_time(one.history) == without_time(two.history)


def test_batches_of_many_sizes_are_steps_and_the_loss_is_weighted_by_rows():
    one, two = make(built=False), make()
    cuts = [0, 3, 4, 30, 37, 60]
    parts = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
    history = one.fit(((X[p], Y[p]) for p in parts), progress=False)
    losses = [two.step(X[p], Y[p]) for p in parts]
    assert bits(one)[:3] == bits(two)[:3] and history[0]["steps"] == 5
    assert history[0]["train_loss"] == pytest.approx(np.average(losses, weights=np.diff(cuts)), rel=1e-12)


def test_several_inputs_and_outputs():
    def network():
        a, b = bp.Input(2), bp.Input(3)
        h = bp.Dense(6, "tanh")(bp.concatenate([a, b], 1))
        return bp.Trainer(bp.Network([a, b], [bp.Dense(3)(h), bp.Dense(3)(h)], seed=1), ["cross_entropy", "squared_error"])

    one, two = network(), network()
    x, y = [X[:, :2].copy(), X[:, 2:].copy()], [Y, TARGETS]
    one.fit(x, y, epochs=2, batch_size=25, shuffle=False, progress=False)
    two.fit([([a[i:i + 25] for a in x], [a[i:i + 25] for a in y]) for i in (0, 25, 50)], epochs=2, progress=False)
    assert bits(one) == bits(two)


def test_an_iterator_is_good_for_one_epoch():
    trainer = make()
    with pytest.raises(ValueError, match="gives its batches once, and epochs is 2: give a function"):
        trainer.fit(slices(), epochs=2)
    assert trainer.t == 0
    drawn = slices()
    assert trainer.fit(drawn, progress=False)["steps"] == [4]
    with pytest.raises(ValueError, match="no batches in epoch 2: an iterator gives them once"):
        trainer.fit(drawn, progress=False)
    with pytest.raises(ValueError, match="no batches in epoch 2$"):
        trainer.fit([], progress=False)
    with pytest.raises(ValueError, match="no batches in epoch 1"):
        make(built=False).fit(lambda: iter(()), progress=False)
    kept = iter(slices())
    with pytest.raises(ValueError, match="no batches in epoch 3"):  # a function that gives the same iterator again
        trainer.fit(lambda: kept, epochs=2, progress=False)
    assert trainer.t == 8 and trainer.epoch == 2
    assert len(trainer.fit(lambda: 1 / 0, epochs=0)) == 2  # nothing is drawn for no epoch


def test_arguments_that_do_not_go_with_batches():
    trainer = make()
    before = bits(trainer)
    for kwargs in ({"sample_weight": W}, {"validation_fraction": 0.2}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            trainer.fit(slices, **kwargs)
    for x in (X, None, "abc", {"x": X}, memoryview(X), 3, 3.5):
        with pytest.raises(TypeError, match="y is None"):
            trainer.fit(x)
    with pytest.raises(TypeError, match=r"X\(\) must be an iterable of batches \(x, y\), got int"):
        trainer.fit(lambda: 3, progress=False)
    with pytest.raises(ValueError, match="batch_size"):
        trainer.fit(X, Y, batch_size=None)
    with pytest.raises(ValueError, match="epochs"):
        trainer.fit(slices, epochs=-1)
    assert bits(trainer) == before


WRONG = [
    ((X[:6], Y[:5]), ValueError, "x has 6 rows, y has 5"),
    ((X[:6], Y[:6], W[:4]), ValueError, "x has 6 rows, sample_weight has 4"),
    ((X[:6], Y[:6], -W[:6]), ValueError, "sample_weight holds a negative weight"),
    ((X[:6, :4], Y[:6]), bp.ShapeError, "x has shape"),
    ((X[:0], Y[:0]), ValueError, "empty"),
    ((X[:6], Y[:6] + 2), ValueError, r"y\[\d\] is \d, out of range for 3 classes"),
    ((X[:6], ["a"] * 6), TypeError, "y must hold real numbers"),
    ((None, Y[:6]), TypeError, "x is None"),
    (X[:6], TypeError, r"must be a tuple \(x, y\) or \(x, y, sample_weight\), got ndarray"),
    ((X[:6],), TypeError, "got a tuple of 1"),
    ({"x": X[:6], "y": Y[:6]}, TypeError, "got dict"),
]


@pytest.mark.parametrize("batch, kind, match", WRONG, ids=[m[:20] for *_, m in WRONG])
def test_what_is_wrong_with_a_batch_is_named_and_nothing_is_lost(batch, kind, match):
    def broken():
        yield from list(slices(10))[:3]
        yield batch

    one, two = make(), make()
    with pytest.raises(kind, match=f"^batch 3.*{match}"):
        one.fit(broken, epochs=2, progress=False)
    for x, y in list(slices(10))[:3]:
        two.step(x, y)
    assert bits(one) == bits(two) and one.t == 3
    assert one.step(X, Y) == two.step(X, Y)
    fresh = make(built=False)
    with pytest.raises(kind, match="^batch 0"):
        fresh.fit(lambda: iter([batch] if match != "x has shape" else [(np.ones(3), Y[:3])]), progress=False)
    assert fresh.t == 0


def test_an_exception_of_the_iterator_passes():
    def broken():
        yield from list(slices(10))[:2]
        raise KeyError("mine")

    one, two, ended = make(), make(), []

    class End:
        def on_train_end(self, trainer):
            ended.append(trainer.t)

    with pytest.raises(KeyError, match="mine"):
        one.fit(broken, callbacks=[End()], progress=False)
    for x, y in list(slices(10))[:2]:
        two.step(x, y)
    assert bits(one) == bits(two) and ended == [2] and not one.history


def test_a_loss_that_is_not_finite_is_found_at_its_step():
    bad = X.copy()
    bad[37, 2] = np.nan
    one, two = make(), make()
    with pytest.raises(bp.NonFiniteError, match="update 4"):
        one.fit(((bad[i:i + 10], Y[i:i + 10]) for i in range(0, N, 10)), progress=False)
    for x, y in list(slices(10))[:3]:
        two.step(x, y)
    assert bits(one) == bits(two)


def test_callbacks_and_early_stopping_as_with_arrays():
    class Record:
        def __init__(self):
            self.calls = []

        def on_train_begin(self, trainer, epochs):
            self.calls.append(("train", epochs, trainer.net.built))

        def on_epoch_begin(self, trainer, epoch):
            self.calls.append(("epoch", epoch))

        def on_batch_begin(self, trainer, epoch, batch):
            arrays, rows = trainer.feed
            self.calls.append(("begin", epoch, batch, arrays[0][rows].tobytes(), arrays[1][rows].tobytes()))

        def on_batch_end(self, trainer, epoch, batch, loss):
            self.calls.append(("end", epoch, batch, loss))
            trainer.evaluate(X[:9], Y[:9])

        def on_segment(self, trainer, done, steps, loss):
            self.calls.append(("segment", done, steps, loss))

        def on_epoch_end(self, trainer, epoch, logs):
            self.calls.append(("logs", epoch, logs["train_loss"]))

    one, two, a, b = make(), make(built=False), Record(), Record()
    one.fit(X, Y, epochs=2, batch_size=16, shuffle=False, callbacks=[a], progress=False)
    two.fit(Loader(slices()), epochs=2, callbacks=[b], progress=False)
    assert a.calls == b.calls and bits(one) == bits(two) and two.feed is None
    one, two = (make(optimizer=bp.SGD(0.0)) for _ in range(2))
    valid = (X, Y)
    one.fit(X, Y, epochs=9, batch_size=16, shuffle=False, validation_data=valid, early_stopping=2, progress=False)
    two.fit(slices, epochs=9, validation_data=valid, early_stopping=2, progress=False)
    assert one.epoch == two.epoch == 3 and bits(one) == bits(two)


@pytest.mark.parametrize("method, drawn", [("on_epoch_begin", 0), ("on_batch_begin", 1), ("on_batch_end", 1), ("on_epoch_end", 4)])
def test_stop_training_draws_no_further_batch(method, drawn):
    class Stop:
        pass

    def stop(trainer, **kwargs):
        trainer.stop_training = True

    setattr(Stop, method, staticmethod(stop))
    seen = []
    trainer = make()
    trainer.fit(lambda: (seen.append(1) or b for b in slices()), epochs=5, callbacks=[Stop()], progress=False)
    assert len(seen) == trainer.t == drawn and trainer.epoch == 1


def test_a_batch_may_step_the_trainer_and_reuse_its_buffer():
    one, two = make(), make()
    x, y = np.empty((20, INPUTS), "float32"), np.empty(20, "int64")

    def refill():
        for i in (0, 20, 40):
            x[...], y[...] = X[i:i + 20], Y[i:i + 20]
            if i == 20:
                one.step(X[:7], Y[:7])
            yield x, y

    one.fit(refill, epochs=3, progress=False)
    for _ in range(3):
        two.step(X[:20], Y[:20])
        two.step(X[:7], Y[:7])
        two.step(X[20:40], Y[20:40])
        two.step(X[40:], Y[40:])
    assert bits(one)[:3] == bits(two)[:3]


def test_the_progress_line_without_a_known_end():
    progress = Progress(Terminal())

    class Slow:
        def on_batch_end(self, trainer, epoch, batch, loss):
            progress._drawn -= 1.0  # as if a second had passed

    make().fit(slices, epochs=2, callbacks=[Slow()], progress=progress)
    text = progress.stream.getvalue()
    assert "\repoch 1/2 3 batches loss " in text and text.count("\n") == 2
    progress.stream = Terminal()
    make().fit(Loader(slices()), epochs=2, callbacks=[Slow()], progress=progress)
    assert "] 3/4 loss " in progress.stream.getvalue()
    make().fit(slices, epochs=1, progress=Progress(io.StringIO()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may strike a callback of the garbage collector
def test_a_signal_at_any_moment_leaves_a_whole_step(interrupted):
    trainer, plain = make(), make()
    parts = list(slices(20))
    trainer.step(*parts[0]), plain.step(*parts[0])
    made = 0
    for delay in 1e-4 + 3e-3 * (hashed(40, 85) + 1) / 2:
        t = trainer.t
        interrupted(lambda: trainer.fit(lambda: slices(20), epochs=10**6, progress=False), delay)
        for s in range(trainer.t - t):
            plain.step(*parts[s % 3])
        assert bits(trainer)[:3] == bits(plain)[:3]
        made += trainer.t - t
    assert made > 200


# ---------------------------------------------------------------- memory maps


@pytest.fixture
def mapped(tmp_path):
    x = hashed((6000, 200), 86).astype("float32")
    x.tofile(tmp_path / "x")
    return x, np.memmap(tmp_path / "x", "float32", "r", shape=x.shape)


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"validation_fraction": 0.1}, {"validation_fraction": 0.1, "shuffle": False}],
                         ids=str)  # fmt: skip
def test_a_memory_map_trains_as_its_array_and_is_not_copied(mapped, options):
    x, held = mapped
    y = np.arange(len(x)) % 3
    results = []
    for data in (x, held):
        trainer = bp.Trainer(bp.Sequential([bp.Dense(8, "relu"), bp.Dense(3)], seed=0))
        tracemalloc.start()
        history = trainer.fit(data, y, epochs=2, batch_size=100, progress=False, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        results.append((bits(trainer), without_time(history)))
        assert peak < x.nbytes / 4, peak  # a tenth may be held out, and there are labels, an order, programs
    assert results[0] == results[1] and not held.flags.writeable


def test_targets_and_weights_may_be_memory_maps_too(mapped, tmp_path):
    x, held = mapped
    targets, w = x[:, :3].copy(), np.abs(x[:, 3])
    targets.tofile(tmp_path / "y")
    w.tofile(tmp_path / "w")
    results = []
    for data in ((x, targets, w), (held, *(np.memmap(tmp_path / n, "float32", "r", shape=a.shape) for n, a in (("y", targets), ("w", w))))):
        trainer = bp.Trainer(bp.Sequential([bp.Dense(3)], seed=0), "squared_error")
        trainer.fit(data[0], data[1], sample_weight=data[2], batch_size=100, progress=False)
        results.append(bits(trainer))
    assert results[0] == results[1]


def test_slices_of_a_memory_map_as_batches(mapped):
    x, held = mapped
    y = np.arange(len(x)) % 3
    one, two = (bp.Trainer(bp.Sequential([bp.Dense(8, "relu"), bp.Dense(3)], seed=0)) for _ in range(2))
    one.fit(x, y, epochs=2, batch_size=128, shuffle=False, progress=False)
    two.fit(lambda: ((held[i:i + 128], y[i:i + 128]) for i in range(0, len(x), 128)), epochs=2, progress=False)
    assert bits(one) == bits(two)


def test_an_order_may_leave_rows_out_and_names_none_beyond_the_data():
    trainer = make()
    trainer.step(X[:16], Y[:16])
    plan, binding, numbers, out = trainer._prepare("step", 16, (True,))
    feeds = [(space, (X, Y.astype("int32"))[i]) for space, i in plan.feeds]
    order = np.array([59, 0, 33, 2])
    binding.set(plan.spaces["scalars"], np.ones((4, len(plan.scalars)), "float32"))
    binding.set(plan.spaces["output 0"], np.zeros(4, "float32"))
    where = (plan.spaces["scalars"], len(plan.scalars), plan.spaces["output 0"], 0.0, 0, 0, False, 0)
    assert binding.fit(feeds, order, 4, 2, 0, 2, *where, 60)[:2] == (0, 2)
    status, done, _, value, limit = binding.fit(feeds, np.array([59, 0, 60, 2]), 4, 2, 0, 2, *where, 60)
    assert (status, done, value, limit) == (3, 1, 60, 60)
    with pytest.raises(ValueError, match="data_rows"):
        binding.fit(feeds, None, 4, 2, 0, 2, *where, 60)
    with pytest.raises(ValueError, match="expected 59 rows, got 60"):
        binding.fit(feeds, order, 4, 2, 0, 2, *where, 59)
