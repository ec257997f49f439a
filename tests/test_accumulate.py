"""Trainer(accumulate=k): one update from several micro-batches equals that of the large batch."""

import tracemalloc

import numpy as np
import pytest

import backprop as bp
from make_trajectories import hashed

N, INPUTS, CLASSES = 60, 5, 3
X = hashed((N, INPUTS), 91)
Y = (X @ hashed((INPUTS, CLASSES), 92)).argmax(1)
TARGETS = X @ hashed((INPUTS, CLASSES), 93)
W = hashed(N, 94) + 1.2
KS = (2, 3, 7)
BATCH = 17  # of 60 rows: the last batch has 9, which 2, 3 and 7 cut in pieces of 5, 3 and 2


def make(accumulate=1, loss="cross_entropy", optimizer=None, dtype="float64", layers=None, **kwargs):
    layers = layers or [bp.Dense(8, "tanh"), bp.Dropout(0.3), bp.Dense(6, "relu"), bp.Dropout(0.2), bp.Dense(CLASSES)]
    net = bp.Sequential([bp.Input(INPUTS), *layers], dtype=dtype, seed=0)
    return bp.Trainer(net, loss, optimizer or bp.Adam(0.01), seed=1, accumulate=accumulate, **kwargs)


def assert_equal(one, two, rtol=1e-12, losses=True):
    np.testing.assert_allclose(one.net.flat_parameters, two.net.flat_parameters, rtol=0, atol=rtol * np.abs(two.net.flat_parameters).max())
    for slot in range(len(two.slots)):
        a, b = (t.state.reshape(len(two.slots), -1)[slot] for t in (one, two))
        np.testing.assert_allclose(a, b, rtol=0, atol=10 * rtol * np.abs(b).max())
    assert one.t == two.t and one.epoch == two.epoch
    np.testing.assert_allclose(one.history["train_loss"], two.history["train_loss"], rtol=rtol)


def bits(trainer):
    net = trainer.net
    return net.flat_parameters.tobytes(), net.flat_buffers.tobytes(), trainer.state.tobytes(), trainer.t


# ---------------------------------------------------------------- equal to the large batch

RULES = {
    "plain": {},
    "sgd": {"optimizer": bp.SGD(0.1, momentum=0.9)},
    "clip_norm": {"clip_norm": 0.05},
    "clip_value": {"clip_value": 0.01},
    "penalties": {"l2": 0.01, "l1": 0.003, "penalize_biases": True},
    "everything": {"optimizer": bp.AdamW(0.01), "l2": 0.01, "l1": 0.003, "clip_norm": 0.05, "clip_value": 0.1, "max_norm": 1.0, "ema": 0.9},
    "unfused": {"l2": 0.01, "clip_norm": 0.05, "fuse": False},
}  # fmt: skip


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("rules", RULES)
def test_fit_equals_the_large_batch_within_rounding(rules, weighted, k):
    one, two = make(k, **RULES[rules]), make(**RULES[rules])
    for t in (one, two):
        t.fit(X, Y, epochs=3, batch_size=BATCH, sample_weight=W if weighted else None, progress=False)
    assert one.t == 12
    assert_equal(one, two)
    if weighted:
        plain = make(k, **RULES[rules])
        plain.fit(X, Y, epochs=3, batch_size=BATCH, progress=False)
        assert plain.net.flat_parameters.tobytes() != one.net.flat_parameters.tobytes()


LOSSES = [
    ("squared_error", TARGETS),
    ("binary_cross_entropy", (TARGETS > 0) * 1.0),
    ("huber", TARGETS),
    (bp.losses.CrossEntropy(label_smoothing=0.1), np.eye(CLASSES)[Y]),
    (bp.losses.CrossEntropy(class_weight=[0.5, 1.0, 4.0]), Y),
    (bp.losses.CrossEntropy(class_weight={0: 0.0, 2: 3.0}, label_smoothing=0.1), Y),
    (bp.losses.BinaryCrossEntropy(pos_weight=3.0), (TARGETS > 0) * 1.0),
    (lambda z, y: bp.square(z - y), TARGETS),
]


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("loss, y", LOSSES, ids=lambda v: str(v)[:40] if isinstance(v, (str, bp.losses.Loss)) else "")
def test_every_loss(loss, y, k):
    for w in (None, W):
        one, two = make(k, loss), make(1, loss)
        for _ in range(3):
            assert one.step(X[:31], y[:31], None if w is None else w[:31]) == pytest.approx(
                two.step(X[:31], y[:31], None if w is None else w[:31]), rel=1e-12)  # fmt: skip
        assert_equal(one, two)


@pytest.mark.parametrize("k", KS)
def test_several_outputs_with_weights_of_the_losses(k):
    def network(k):
        x = bp.Input(INPUTS)
        h = bp.Dense(8, "tanh")(x)
        net = bp.Network(x, [bp.Dense(3)(h), bp.Dense(3)(h)], dtype="float64", seed=1)
        return bp.Trainer(net, [bp.losses.CrossEntropy(class_weight=[1, 2, 3]), "squared_error"], accumulate=k, loss_weights=[0.5, 2.0])

    one, two = network(k), network(1)
    for t in (one, two):
        t.fit(X, [Y, TARGETS], epochs=2, batch_size=BATCH, sample_weight=W, progress=False)
    assert_equal(one, two)


@pytest.mark.parametrize("layers", [
    [bp.Dropout(0.4), bp.Dense(12, "relu"), bp.Dropout(0.3), bp.Dense(CLASSES)],
    [bp.Dense(8, "tanh"), bp.LayerNorm(), bp.Dropout(0.3), bp.Dense(CLASSES)],
], ids=["input", "norm"])  # fmt: skip
def test_dropout_draws_the_masks_of_the_large_batch(layers):
    for k in KS:
        net = bp.Sequential([bp.Input(INPUTS), *layers], dtype="float64", seed=0)
        start, results = net.flat_parameters.copy(), []
        for accumulate in (k, 1):  # layers belong to one network
            net.flat_parameters[...] = start
            bp.Trainer(net, optimizer=bp.SGD(0.1), seed=1, accumulate=accumulate).fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
            results.append(net.flat_parameters.copy())
        np.testing.assert_allclose(*results, rtol=0, atol=1e-13)


def test_dropout_of_words_draws_the_masks_of_the_large_batch():
    ids, y = np.abs(hashed((40, 6), 95) * 30).astype(int), np.arange(40) % 3
    results = []
    for k in (1, 2, 3, 7):
        net = bp.Sequential([bp.Embedding(30, 4), bp.Dropout(0.4), bp.Flatten(), bp.Dense(3)], dtype="float64", seed=0)
        trainer = bp.Trainer(net, optimizer=bp.SGD(0.5), seed=1, accumulate=k)
        trainer.fit(ids, y, epochs=3, batch_size=16, progress=False)
        results.append(net.flat_parameters.copy())
    for r in results[1:]:
        np.testing.assert_allclose(r, results[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("layer", ["embedding", "bag", "twice"])
@pytest.mark.parametrize("rules", [{}, {"optimizer": bp.SparseAdam(0.05)},
                                   {"optimizer": bp.Adagrad(0.1), "l2": 0.01, "l1": 0.002, "clip_norm": 0.05, "clip_value": 0.02, "ema": 0.9}],
                         ids=["adam", "sparse", "everything"])  # fmt: skip
def test_sparse_tables(layer, rules, k):
    ids, y = np.abs(hashed((N, 4), 96) * 25).astype(int), Y

    def network(k):
        x = bp.Input(4, dtype="int32") if layer == "twice" else None
        if layer == "twice":
            table = bp.Embedding(25, 6)
            h = bp.Flatten()(table(x[:, :2])) + bp.Flatten()(table(x[:, 2:]))
            net = bp.Network(x, bp.Dense(3)(h), dtype="float64", seed=0)
        elif layer == "bag":
            net = bp.Sequential([bp.EmbeddingBag(25, 6, padding=3), bp.Dense(3)], dtype="float64", seed=0)
        else:
            net = bp.Sequential([bp.Embedding(25, 6), bp.Flatten(), bp.Dense(3)], dtype="float64", seed=0)
        return bp.Trainer(net, seed=1, accumulate=k, **rules)

    one, two = network(k), network(1)
    for t in (one, two):
        t.fit(ids, y, epochs=3, batch_size=BATCH, progress=False)
    assert two.net._tables
    assert_equal(one, two)


def test_a_row_that_no_micro_batch_sees_keeps_its_bits():
    net = bp.Sequential([bp.Embedding(1000, 4), bp.Flatten(), bp.Dense(3)], seed=0)
    trainer = bp.Trainer(net, accumulate=3)
    ids = np.arange(N * 4).reshape(N, 4) % 200
    trainer.net.build(ids)
    before = net.parameters["0.weight"].copy()
    trainer.fit(ids, Y, epochs=2, batch_size=BATCH, progress=False)
    assert (net.parameters["0.weight"][200:] == before[200:]).all() and (net.parameters["0.weight"][:200] != before[:200]).any(1).all()


def test_layers_that_are_frozen_stay():
    layers = [bp.Dense(8, "tanh", trainable=False), bp.Dense(6, "relu"), bp.Dense(CLASSES)]
    trainer = make(3, layers=layers)
    kept = trainer.net.parameters["0.weight"].copy()
    trainer.fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
    assert np.array_equal(kept, trainer.net.parameters["0.weight"]) and trainer.t == 8


def test_one_micro_batch_is_the_step_itself_within_rounding_and_accumulate_1_bit_for_bit():
    one, two, three = make(), make(1), make(50)
    for t in (one, two, three):
        t.fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
    assert bits(one) == bits(two)
    assert_equal(three, one)
    assert make(9).step(X[:1], Y[:1]) == pytest.approx(make().step(X[:1], Y[:1]), rel=1e-12)


def test_a_weight_of_zero_in_all_of_a_micro_batch_or_of_a_batch():
    w = np.where(np.arange(N) < 30, 0.0, 2.0)
    one, two = make(2), make()
    for _ in range(3):
        assert one.step(X, Y, w) == pytest.approx(two.step(X, Y, w), rel=1e-12)
    assert_equal(one, two)
    none = make(3, optimizer=bp.SGD(0.1))
    before = bits(none)[0]
    assert none.step(X, Y, np.zeros(N)) == 0.0 and bits(none)[0] == before


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_threads_and_runs_and_by_step_fit_and_batches(dtype):
    results = []
    for threads in (1, 2, 1):
        with bp.threads(threads):
            trainer = make(3, dtype=dtype, l2=0.01, clip_norm=0.1, layers=[bp.Dense(96, "relu"), bp.Dropout(0.2), bp.Dense(CLASSES)])
            x = np.tile(X, (20, 1))
            trainer.fit(x, np.tile(Y, 20), epochs=2, batch_size=500, progress=False)
            results.append(bits(trainer))
    assert results[0] == results[1] == results[2]
    fit, steps, drawn = (make(3, dtype=dtype) for _ in range(3))
    fit.fit(X, Y, batch_size=BATCH, shuffle=False, progress=False)
    parts = [(X[i:i + BATCH], Y[i:i + BATCH]) for i in range(0, N, BATCH)]
    losses = [steps.step(*p) for p in parts]
    drawn.fit(parts, progress=False)
    assert bits(fit) == bits(steps) == bits(drawn)
    assert fit.history[0]["train_loss"] == drawn.history[0]["train_loss"] == pytest.approx(
        np.average(losses, weights=[len(p[0]) for p in parts]), rel=1e-6)


def test_fused_equals_unfused_and_float32_is_close():
    one, two = make(3, l2=0.01, ema=0.9), make(3, l2=0.01, ema=0.9, fuse=False)
    for t in (one, two):
        t.fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
    assert bits(one) == bits(two)
    one, two = make(7, dtype="float32", optimizer=bp.SGD(0.1)), make(dtype="float32", optimizer=bp.SGD(0.1))
    for t in (one, two):
        t.fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
    np.testing.assert_allclose(one.net.flat_parameters, two.net.flat_parameters, rtol=0, atol=1e-6)


def test_batch_norm_takes_the_statistics_of_each_micro_batch():
    layers = [bp.Dense(8), bp.BatchNorm(), bp.Dense(CLASSES)]
    one = make(2, layers=layers, optimizer=bp.SGD(0.0))
    start = one.net.flat_buffers.copy()
    one.step(X, Y)
    once = one.net.flat_buffers.copy()
    one.net.flat_buffers[...] = start
    plain = bp.Trainer(one.net, optimizer=bp.SGD(0.0))
    for part in (slice(0, 30), slice(30, 60)):
        plain.step(X[part], Y[part])
    assert np.array_equal(once, one.net.flat_buffers) and not np.array_equal(once, start)
    one.fit(X, Y, epochs=3, batch_size=20, progress=False)
    assert np.isfinite(one.history[-1]["train_loss"])


# ---------------------------------------------------------------- memory


def test_memory_is_that_of_a_micro_batch():
    rows, y = 2048, np.arange(2048) % CLASSES
    x = np.tile(X, (35, 1))[:rows].astype("float32")

    def programs(k, batch):
        net = bp.Sequential([bp.Input(INPUTS), *(bp.Dense(256, "tanh") for _ in range(3)), bp.Dense(CLASSES)], seed=0)
        trainer = bp.Trainer(net, accumulate=k)
        trainer.fit(x, y, batch_size=batch, progress=False)
        trainer.step(x[:batch], y[:batch])
        return max(plan.capacity for plan, *_ in trainer._plans.values()), sum(
            len(binding.arena()) for _, binding, *_ in trainer._plans.values())

    assert programs(1, rows)[0] == rows
    for k in (4, 16):
        capacity, arenas = programs(k, rows)
        assert capacity == rows // k
        assert arenas < programs(1, rows)[1] / k * 1.25 and arenas < programs(1, rows // k)[1] * 1.25


def test_what_is_gathered_has_the_size_of_a_micro_batch(tmp_path):
    x = hashed((4000, 200), 98).astype("float32")
    x.tofile(tmp_path / "x")
    held = np.memmap(tmp_path / "x", "float32", "r", shape=x.shape)
    trainer = bp.Trainer(bp.Sequential([bp.Dense(4, "relu"), bp.Dense(3)], seed=0), accumulate=20)
    tracemalloc.start()
    trainer.fit(held, np.arange(4000) % 3, batch_size=4000, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4, peak


# ---------------------------------------------------------------- nothing is changed by what fails


def buffered(k=3, **kwargs):
    return make(k, layers=[bp.Dense(8), bp.BatchNorm(), bp.Dropout(0.2), bp.Dense(CLASSES)], **kwargs)


@pytest.mark.parametrize("row", [0, 25, 59])
@pytest.mark.parametrize("k", KS)
def test_a_loss_that_is_not_finite_changes_nothing(k, row):
    trainer, plain = buffered(k), buffered(k)
    trainer.step(X, Y), plain.step(X, Y)
    bad, before = X.copy(), bits(trainer)
    bad[row, 1] = np.nan
    with pytest.raises(bp.NonFiniteError, match="update 2"):
        trainer.step(bad, Y)
    assert bits(trainer) == before
    with pytest.raises(bp.NonFiniteError):
        trainer.fit(bad, Y, batch_size=60, progress=False)
    assert bits(trainer) == before and not trainer.history
    assert trainer.step(X, Y) == plain.step(X, Y) and bits(trainer) == bits(plain)


def test_a_penalty_or_a_sum_that_is_not_finite_changes_nothing():
    trainer = make(2, layers=[bp.Dense(8, "tanh", weight_init=1e160), bp.Dense(CLASSES, weight_init=0.0)], l2=0.1, optimizer=bp.SGD(0.1))
    before = bits(trainer)
    with pytest.raises(bp.NonFiniteError):
        trainer.step(X, Y)  # the loss itself is finite
    assert bits(trainer) == before
    large = make(2, loss="squared_error", dtype="float32", layers=[bp.Dense(CLASSES, weight_init=0.0)])
    before = bits(large)
    with np.errstate(all="ignore"), pytest.raises(bp.NonFiniteError):
        large.step(X, np.full((N, CLASSES), 1.84e19))  # each half's part of the loss is finite, not so their sum
    assert bits(large) == before


def test_gradients_of_the_callers_own_are_left_alone():
    trainer = make(3)
    trainer.net.backward(np.ones_like(trainer.net.forward(X)))
    kept = trainer.net.flat_gradients.copy()
    assert kept.any()
    trainer.step(X, Y)
    trainer.fit(X, Y, batch_size=BATCH, progress=False)
    assert np.array_equal(trainer.net.flat_gradients, kept)
    whole = make()
    one, two = make(3).loss_and_gradients(X, Y), whole.loss_and_gradients(X, Y)
    assert one[0] == two[0]


def test_training_within_averaged_is_refused():
    trainer = make(2, ema=0.9)
    trainer.step(X, Y)
    before = bits(trainer)
    with pytest.raises(RuntimeError, match="averaged"), trainer.averaged():
        trainer.step(X, Y)
    assert bits(trainer) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may strike a callback of the garbage collector
def test_a_signal_at_any_moment_leaves_a_whole_step(interrupted):
    trainer, plain = buffered(), buffered()
    parts = [(X[i:i + 20], Y[i:i + 20]) for i in (0, 20, 40)]
    trainer.step(*parts[0]), plain.step(*parts[0])
    made = 0
    for delay in 1e-4 + 5e-3 * (hashed(40, 97) + 1) / 2:
        t = trainer.t
        interrupted(lambda: trainer.fit(X, Y, epochs=10**6, batch_size=20, shuffle=False, progress=False), delay)
        for s in range(trainer.t - t):
            plain.step(*parts[s % 3])
        assert bits(trainer) == bits(plain)
        made += trainer.t - t
    assert made > 100


# ---------------------------------------------------------------- arguments, callbacks, checkpoints


@pytest.mark.parametrize("value", [0, -1, True, 2.0, None, "2"])
def test_accumulate_is_a_whole_number_of_at_least_1(value):
    with pytest.raises(ValueError, match="accumulate must be a whole number of at least 1"):
        make(value)


def test_losses_that_it_cannot_do_are_refused():
    class Own(bp.losses.SquaredError):
        def mean(self, outputs, targets, sample_weight=None):
            return bp.sum(self.rows(outputs, targets))

    class ByOutputs(bp.losses.SquaredError):
        def weights(self, outputs, targets):
            return bp.sum(bp.abs(outputs), 1)

    make(1, Own())
    with pytest.raises(ValueError, match="a mean of its own"):
        make(2, Own())
    trainer = make(2, ByOutputs())
    before = bits(trainer)
    with pytest.raises(ValueError, match="depends on the outputs"):
        trainer.step(X, TARGETS)
    assert bits(trainer) == before


def test_callbacks_validation_and_history_as_without():
    class Record:
        def __init__(self):
            self.calls = []

        def on_batch_begin(self, trainer, epoch, batch):
            arrays, rows = trainer.feed
            self.calls.append((epoch, batch, arrays[0][rows].tobytes()))

        def on_batch_end(self, trainer, epoch, batch, loss):
            self.calls.append((epoch, batch, round(loss, 10)))

        def on_segment(self, trainer, done, steps, loss):
            self.calls.append((done, steps))

    one, two, a, b = make(3), make(), Record(), Record()
    for t, r in ((one, a), (two, b)):
        t.fit(X, Y, epochs=2, batch_size=BATCH, validation_fraction=0.2, callbacks=[r], early_stopping=5, progress=False)
    assert a.calls == b.calls
    assert_equal(one, two)
    np.testing.assert_allclose(one.history["valid_loss"], two.history["valid_loss"], rtol=1e-12)
    assert one.describe(32).count("\n") > two.describe(32).count("\n") and "update" not in two.describe(32)


def test_checkpoints(tmp_path):
    rules = {"l2": 0.01, "ema": 0.9, "clip_norm": 0.2}
    whole, first, second = (buffered(3, **rules) for _ in range(3))
    whole.fit(X, Y, epochs=4, batch_size=BATCH, progress=False)
    first.fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
    first.save_checkpoint(tmp_path / "c")
    second.load_checkpoint(tmp_path / "c")
    second.fit(X, Y, epochs=2, batch_size=BATCH, progress=False)
    assert bits(second) == bits(whole)
    assert second.history["train_loss"] == whole.history["train_loss"]
    for other in (buffered(1, **rules), buffered(2, **rules)):
        before = bits(other)
        with pytest.raises(ValueError, match="rules 'accumulate' is"):
            other.load_checkpoint(tmp_path / "c")
        assert bits(other) == before
