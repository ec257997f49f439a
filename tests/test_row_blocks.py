"""Row blocks: the same bits as layer by layer, wherever they may run, and words that are no row blocks are refused."""

import functools
import hashlib
import signal
import sys

import numpy as np
import pytest

import backprop as bp
from backprop import _core
from backprop.graph import BATCH, source
from backprop.lower import lower
from backprop.ops import take
from make_trajectories import hashed
from test_determinism import CURRENT, WITH_FMA, in_child, mixed_net
from test_program import FULL, NONE, REDUCE, SCALAR, Words

ROWS = (1, 255, 256, 257, 511, 1000)


@pytest.fixture
def schedule(monkeypatch):
    """A function that sets the schedule of all programs lowered from now on."""

    def choose(row_blocks):
        chosen = functools.partial(lower, row_blocks=row_blocks)
        for module in ("trainer", "network"):
            monkeypatch.setattr(sys.modules[f"backprop.{module}"], "lower", chosen)

    return choose


def narrow(dtype="float32"):
    return bp.Sequential([bp.Input(4), bp.Dense(32, "tanh"), bp.Dense(16, "relu"), bp.Dense(4)], dtype=dtype, seed=1)


def dropout(dtype="float32"):
    return bp.Sequential([bp.Input(4), bp.Dense(19, "relu"), bp.Dropout(0.3), bp.Dense(7, "gelu"), bp.Dropout(0.1), bp.Dense(4)],
                         dtype=dtype, seed=1)


def mixed(dtype="float32"):
    """Concatenation, a skip connection, a layer without bias, a slope that is learnt."""
    return mixed_net(dtype, units=13)


def normed(dtype="float32"):
    """What a normalisation sums is made where it is summed: along rows in a block, over the rows in parts of blocks."""
    return bp.Sequential([bp.Input(4), bp.Dense(19), bp.LayerNorm(), bp.Activation("relu"), bp.Dropout(0.1), bp.Dense(7),
                          bp.LayerNorm(), bp.Activation("tanh"), bp.Dense(4)], dtype=dtype, seed=1)


NETS = {"narrow": narrow, "dropout": dropout, "mixed": mixed, "normed": normed}


def data(net, n, loss="cross_entropy"):
    x = hashed((n, net._inputs[0].shape[1]), 3)
    t = x @ hashed((x.shape[1], 4), 4)
    return x, t.argmax(1) if loss == "cross_entropy" else t


def state(trainer):
    return hashlib.sha256(trainer.net.flat_parameters.tobytes() + trainer.state.tobytes()).hexdigest()


def count(trainer, what="row_blocks"):
    """Instructions of that name in the programs of a trainer."""
    return sum(plan.describe().count(f" {what} ") for plan, *_ in trainer._plans.values())


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("optimizer", [bp.Adam(1e-2), bp.SGD(0.05, momentum=0.9)], ids=["adam", "sgd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_steps_give_the_same_bits(schedule, name, dtype, optimizer, loss, shared):
    results = {}
    for row_blocks, threads in [(False, 1), (True, 1), (True, 2), (True, 3)]:
        schedule(row_blocks)
        trainer = bp.Trainer(NETS[name](dtype), loss, optimizer, seed=3)
        seen = []
        with bp.threads(threads):
            for n in ROWS:  # each lowers a program of that capacity
                x, y = data(trainer.net, n, loss)
                seen.append((trainer.step(x, y), state(trainer)))
            assert (count(trainer) > 0) == row_blocks
            for n in ROWS:  # one program for all
                x, y = data(trainer.net, n, loss)
                seen.append((trainer.step(x, y, hashed(n, 5) + 1.0), state(trainer)))
                value, grads = trainer.loss_and_gradients(x, y)
                seen.append((value, trainer.flat_gradients.tobytes()))
        assert (count(trainer, "sum_blocks") > 0) == row_blocks
        results[row_blocks, threads] = seen
    assert all(seen == results[False, 1] for seen in results.values())


@pytest.mark.parametrize("name", NETS)
def test_fit_gives_the_same_bits(schedule, name):
    results = set()
    for row_blocks, threads in [(False, 1), (True, 1), (True, 3)]:
        schedule(row_blocks)
        trainer = bp.Trainer(NETS[name](), seed=3)
        x, y = data(trainer.net, 1700)
        with bp.threads(threads):
            history = trainer.fit(x, y, epochs=2, batch_size=600, sample_weight=hashed(1700, 5) + 1.0, validation_data=(x, y), progress=False)
        assert (count(trainer) > 0) == row_blocks
        results.add((state(trainer), history[-1]["train_loss"], history[-1]["valid_loss"]))
    assert len(results) == 1


@pytest.mark.parametrize("how", ["unfused", "late updates"])
def test_other_ways_to_lower_give_the_same_bits(schedule, monkeypatch, how):
    results = set()
    for row_blocks in (False, True):
        schedule(row_blocks)
        trainer = bp.Trainer(dropout(), optimizer=bp.AdamW(0.01), seed=3, fuse=how != "unfused")
        if how == "late updates":  # as in steps that are long enough to be interrupted
            monkeypatch.setattr(sys.modules["backprop.trainer"], "_LONG_STEP", 0.0)
        for n in (700, 511):
            trainer.step(*data(trainer.net, n))
        assert (count(trainer) > 0) == row_blocks
        results.add(state(trainer))
    assert len(results) == 1


@pytest.mark.parametrize("name", NETS)
def test_predict_forward_and_backward_give_the_same_bits(schedule, name):
    results = set()
    for row_blocks in (False, True):
        schedule(row_blocks)
        net = NETS[name]()
        x = data(net, 700)[0].astype("float32")
        with bp.threads(2):
            p = net.predict(x, batch_size=600)
            z = net.forward(x)  # what backward needs is kept outside of the blocks
            net.backward(z * np.float32(0.1))
        results.add((p.tobytes(), z.tobytes(), net.flat_gradients.tobytes()))
    assert len(results) == 1


def test_rows_of_a_table_are_looked_up_in_blocks(shared):
    ids, table = source("input", (BATCH,), "int32", "ids"), source("input", (50, 6), "float32", "table")
    weight = source("input", (6, 3), "float32", "weight")
    y = bp.tanh(bp.matmul(take(table, ids), weight))
    results = []
    for row_blocks in (False, True):
        plan = lower([y, bp.sum(y, 0)], "float32", capacity=600, row_blocks=row_blocks)
        assert ("row_blocks" in plan.describe()) == row_blocks
        b, out, total = plan.binding(), np.zeros((600, 3), "float32"), np.zeros(3, "float32")
        chosen = np.arange(600, dtype="int32") * 7 % 50
        for t, a in zip((ids, table, weight), (chosen, hashed((50, 6), 1), hashed((6, 3), 2))):
            b.set(plan.spaces[f"input {plan.inputs.index(t)}"], np.ascontiguousarray(a, dtype=t.dtype))
        b.set(plan.spaces["output 0"], out)
        b.set(plan.spaces["output 1"], total)
        for n in (600, 300, 0):
            assert b.run(n, threads=2)[0] == 0
            results.append((n, out.tobytes(), total.tobytes()))
        chosen[520], out[:] = 50, 0
        status, _, value, limit = b.run(600)
        assert (status, value, limit) == (3, 50, 50)
        assert not row_blocks or not out.any()  # found before the first block
    assert len(results) == 6 and len(set(results)) == 3


@pytest.mark.parametrize("isa", _core.isa_runnable())
def test_every_instruction_set(isa):
    code = "import test_row_blocks as t; print(*t.digests())"
    a, b = in_child(code, BACKPROP_ISA=isa)
    assert a == b
    if isa in WITH_FMA and CURRENT in WITH_FMA:
        assert a == digests()[0]


def digests():
    made = []
    original = sys.modules["backprop.trainer"].lower
    for row_blocks in (False, True):
        sys.modules["backprop.trainer"].lower = functools.partial(lower, row_blocks=row_blocks)
        trainer = bp.Trainer(dropout(), seed=3)
        trainer.fit(*data(trainer.net, 900), epochs=3, batch_size=600, progress=False)
        made.append(state(trainer))
    sys.modules["backprop.trainer"].lower = original
    return made


# ---------------------------------------------------------------- the choice


@pytest.mark.parametrize("sizes,rows,chosen", [((4, 32, 16, 4), 10000, True), ((4, 32, 16, 4), 1000, True), ((4, 32, 16, 4), 500, False),
                                               ((32, 256, 128, 10), 10000, False), ((784, 256, 10), 128, False),
                                               ((784, 256, 10), 4096, False), ((64, 128, 10), 32, False), ((4, 64, 64, 2), 64, False)])
def test_narrow_networks_on_tall_batches_run_in_row_blocks(sizes, rows, chosen):
    net = bp.Sequential([bp.Input(sizes[0]), *[bp.Dense(s, "tanh") for s in sizes[1:-1]], bp.Dense(sizes[-1])])
    text = bp.Trainer(net).describe(rows)
    assert ("row_blocks" in text) == chosen
    if chosen:
        lines = [line.split()[1] for line in text.splitlines()]
        assert lines.index("check") < lines.index("sum_blocks")  # no update before the loss is known to be finite
        assert "the next 12, for 256 rows at a time" in text


def test_activations_of_a_block_are_all_that_is_kept():
    def bytes_of(row_blocks):
        x = source("input", (BATCH, 8), "float32", "x")
        y = x
        for i in range(4):
            y = bp.tanh(bp.matmul(y, source("input", (8, 8), "float32", f"w{i}")))
        return lower([bp.sum(y, 0)], "float32", capacity=25600, row_blocks=row_blocks).words[3]

    assert bytes_of(True) <= 100 * 8 * 4 + 64 < bytes_of(False)  # the parts of the sum


# ---------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_finite_changes_nothing(schedule):
    schedule(True)
    trainer = bp.Trainer(narrow(), seed=1)
    x, y = data(trainer.net, 1000)
    trainer.step(x, y)
    before = state(trainer)
    x[700, 2] = np.nan
    with pytest.raises(bp.NonFiniteError):
        trainer.step(x, y)
    assert count(trainer) == 1 and state(trainer) == before


def test_steps_allocate_nothing(schedule):
    schedule(True)
    trainer = bp.Trainer(dropout(), seed=1)
    x, y = data(trainer.net, 1000)
    with bp.threads(2):
        trainer.step(x, y)
        before = _core.allocations()
        for n in (1000, 300, 1, 777):
            trainer.step(x[:n], y[:n])
        trainer.fit(x, y, epochs=2, batch_size=700, progress=False)
    assert count(trainer) == 1 and _core.allocations() == before


def test_a_long_step_is_interrupted_between_blocks(schedule):
    schedule(True)
    trainer = bp.Trainer(narrow(), seed=1)
    x, y = data(trainer.net, 1_000_000)
    steps = 1
    trainer.step(x[:600_000], y[:600_000])

    def handler(*_):
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(20):  # some steps may just have been through when the signal came
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            try:
                trainer.step(x[:600_000], y[:600_000])
            except TimeoutError:
                break
            steps += 1
        else:
            pytest.fail("never interrupted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert trainer.t in (steps, steps + 1)  # the last one was abandoned, or had come to its end
    twin = bp.Trainer(narrow(), seed=1)
    for _ in range(trainer.t):
        twin.step(x[:600_000], y[:600_000])
    assert state(trainer) == state(twin)


# ---------------------------------------------------------------- words


def program(*instructions, count=None, private=256 * 8 * 4, capacity=600, arena=60000):
    """ROW_BLOCKS over instructions of space 1 (x, [n, 4]), 2 (weights, 40), 3 (out, [n, 4]), 4 (labels), 5 (sums, 40), and
    6, the rows of a block. A map is given by its loads, operations and stores."""
    w = Words(capacity=capacity, arena=arena)
    for elements, writable in [(-4, 0), (40, 0), (-4, 1), (-1, 0), (40, 1)]:
        w.space(elements, writable)
    w.add("row_blocks", len(instructions) if count is None else count, private)
    for name, *words in instructions:
        w.add(name, *[w.map(*f) if isinstance(f, tuple) else f for f in words])
    return w


FORWARD = ("matmul", -1, 4, 4, 0, 0, 0, [1, 0, 4], [2, 0, 4], [6, 0, 4], -1)
X, W, OUT, ROWS_OF_BLOCK = [1, 0, 4], [2, 0, 4], [3, 0, 4], [6, 0, 4]
COPY = ([(6, 0, 4, FULL)], [("tanh", 0)], [(1, 3, 0, 4, 1)])


def test_words_by_hand(shared):
    x, weight, out, labels, total = (a.astype("float32") for a in (
        hashed((600, 4), 1), hashed(40, 2), np.zeros((600, 4)), np.zeros(600), np.zeros(40)))
    w = program(FORWARD, ("map", -1, 4, COPY), ("matmul", 4, 4, -1, 1, 0, 0, X, OUT, [0, 0, 4], -1),
                ("reduce", REDUCE["sum"], 1, -1, 4, OUT, -1, [0, 48, 4], -1))
    w.add("sum_blocks", 4, 4, [0, 0, 0], [5, 0, 4], -1)
    w.add("sum_blocks", 1, 4, [0, 48, 0], NONE, w.map([(-1, 0, 4, FULL)], [("neg", 0)], [(1, 5, 16, 4, 1)]))
    for n in (600, 257, 20, 0):
        out[:] = 7
        assert w.run(x, weight, out, labels, total, rows=n, threads=2)[0] == 0
        want = np.tanh(x[:n] @ weight[:16].reshape(4, 4))
        np.testing.assert_allclose(out[:n], want, rtol=1e-5, atol=1e-6)
        assert (out[n:] == 7).all()
        np.testing.assert_allclose(total[:16].reshape(4, 4), x[:n].T @ want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(total[16:20], -want.sum(0), rtol=1e-4, atol=1e-4)


def test_instructions_of_a_block_do_not_run_alone():
    out = np.zeros((600, 4), "float32")
    w = program(FORWARD, ("map", -1, 4, COPY))
    b = w.bind(np.ones((600, 4), "float32"), np.ones(40, "float32"), out, np.zeros(600, "float32"), np.zeros(40, "float32"))
    assert b.run(600, first=1)[0] == 0 and not out.any()
    assert b.run(600, first=0, last=1)[0] == 0 and out.all()


@pytest.mark.parametrize("w,message", [
    (program(FORWARD, count=2), "count: 2 is not in 1 ... 1"),
    (program(FORWARD, count=0), "count: 0"),
    (program(FORWARD, private=-1), "bytes: -1"),
    (program(FORWARD, private=256 * 4 * 4 - 4), r"matmul\): C: elements 0 ... 1024 of the rows of a block, which has 1023"),
    (program(("matmul", -1, 4, 4, 0, 0, 0, X, W, [7, 0, 4], -1)), "C: 7 is not in -1 ... 6"),
    (program(("matmul", 4, 4, 4, 0, 0, 0, W, W, [5, 0, 4], -1)), "not row by row"),
    (program(("matmul", -1, 4, 4, 0, 0, 1, X, W, [6, 0, 4], -1)), "not row by row"),
    (program(("matmul", 4, -1, 4, 0, 1, 0, W, X, [0, 0, 600], -1)), "not row by row"),
    (program(("matmul", 4, 4, -1, 1, 0, 0, X, X, [6, 0, 4], -1)), "C: the parts of a sum must outlive"),
    (program(("matmul", 4, 4, -1, 1, 0, 0, X, X, [0, 0, 5], -1)), "not row by row"),
    (program(("matmul", 4, 4, -1, 1, 0, 0, X, X, [5, 0, 4], -1)), "C: elements 0 ... 48 of space 5, which has 40"),
    (program(("matmul", 2, 2, -2, 1, 0, 0, [1, 0, 2], [1, 0, 2], [0, 0, 2], -1)), "not row by row"),
    (program(("reduce", REDUCE["sum"], 1, -1, 1, X, -1, [0, 0, 1], -1)), "not row by row"),
    (program(("reduce", REDUCE["max"], 1, -1, 4, X, -1, [0, 0, 1], -1)), "not row by row"),
    (program(("map", 1, 4, ([(2, 0, 4, FULL)], [], [(0, 5, 0, 4, 1)]))), "not row by row"),
    (program(("map", 2, -2, ([(0, 0, 1200, FULL)], [], [(0, 0, 2400, 1200, 1)])), arena=4800 * 4), "not row by row"),
    (program(("map", -2, 2, ([], [("random", 1)], [(0, 3, 0, 2, 1)]))), "random numbers of a row block go by its rows"),
    (program(("softmax_ce", 4, 4, 0, [0, 0, 4], [0, 64, 1], NONE, SCALAR, NONE, [0, 128, 4]), arena=1024), "not row by row"),
    (program(("softmax_ce", -1, 4, 0, X, [6, 0, 1], NONE, SCALAR, NONE, OUT)), "row numbers are made in the block"),
    (program(("copy", 2, -1, -1, 1, 0, 4, 0, 0, 0, 600, 1), arena=600 * 600 * 4), "not row by row"),
    (program(("fill", 40, [5, 0, 1], 0)), "not row by row"),
    (program(("scatter_add", -1, 4, 10, 1, 0, -2, X, [4, 0, 1], NONE, [5, 0, 4])), "not row by row"),
    (program(("argmax", -1, 4, X, [0, 0, 1])), "not row by row"),
    (program(("check", W)), "not row by row"),
    (program(("row_blocks", 1, 0), FORWARD), "not row by row"),
])
def test_malformed_row_blocks(w, message):
    with pytest.raises(ValueError, match=message):
        _core.Program(w.array())


def test_the_rows_of_a_block_are_seen_nowhere_else():
    w = program(FORWARD)
    w.add("map", -1, 4, w.map(*COPY))
    with pytest.raises(ValueError, match="space 6 is for row blocks"):
        _core.Program(w.array())
    w = program(FORWARD)
    w.add("fill", -1, [6, 0, 1], 0)
    with pytest.raises(ValueError, match="dst: 6 is not in -1 ... 5"):
        _core.Program(w.array())
    w = program(FORWARD, ("map", -1, 4, COPY))
    w.add("map", -1, 4, 0)  # its operands would move on for both
    with pytest.raises(ValueError, match="map: 0 is another instruction's too"):
        _core.Program(w.array())
    w = program(FORWARD)
    w.add("sum_blocks", 2, 5, [5, 0, 0], [5, 0, 5], -1)  # three blocks have 30
    _core.Program(w.array())
    w.add("sum_blocks", 2, 7, [5, 0, 0], [5, 0, 7], -1)
    with pytest.raises(ValueError, match="src: elements 0 ... 42 of space 5, which has 40"):
        _core.Program(w.array())


def test_flipped_words_are_refused_or_stay_in_bounds(shared):
    """Runs whatever is accepted; the borders of every array must be untouched."""
    rng = np.random.default_rng(0)
    good = program(FORWARD, ("map", -1, 4, COPY), ("softmax_ce", -1, 4, 0, ROWS_OF_BLOCK, [4, 0, 1], NONE, SCALAR, [0, 200, 0], OUT),
                   ("copy", 2, -1, 4, 3, 0, 4, 1, 6, 1024, 4, 1), ("fill", -2, [0, 1000, 0], 0),
                   ("reduce", REDUCE["max"], -1, 4, 1, [6, 1024, 0], -1, [3, 0, 0], -1),
                   ("matmul", 4, 4, -1, 1, 0, 0, X, [6, 1024, 4], [0, 0, 4], -1), capacity=600)
    good.add("sum_blocks", 4, 4, [0, 0, 0], NONE, good.map([(-1, 0, 4, FULL)], [("neg", 0)], [(1, 5, 16, 4, 1)]))
    words, accepted = good.array(), 0
    for _ in range(1500):
        bad = words.copy()
        for i in rng.integers(20, len(bad), rng.integers(1, 3)):
            bad[i] = rng.choice([0, 1, 2, 3, 5, 6, 10, -1, -2, words[i] + 1, words[i] - 1, 2**31, 2**62, -(2**63)])
        try:
            p = _core.Program(bad)
        except ValueError:
            continue
        if any(abs(e) > 10**6 for _, e, _ in p.spaces):
            continue
        b, held = _core.Binding(p), []
        for i, (item, elements, writable) in enumerate(p.spaces[1:], 1):
            n = elements if elements >= 0 else -elements * p.capacity
            for dtype in (np.int32, np.float32 if item == 4 else np.float64):
                whole = np.ones(n + 32, dtype)
                try:
                    b.set(i, whole[16 : 16 + n])
                    held.append((whole, n))
                    break
                except TypeError:
                    continue
        accepted += 1
        b.run(rows=p.capacity, threads=int(rng.integers(1, 3)))
        for whole, n in held:
            assert (whole[:16] == 1).all() and (whole[16 + n :] == 1).all()
    assert accepted > 50
