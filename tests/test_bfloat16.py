"""Products of operands rounded to bfloat16: the rounding bit for bit, exact integers, one set of bits on one machine."""

import itertools
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import backprop as bp
from backprop import _core

SETS = _core.isa_runnable()
WAYS = [(isa, False) for isa in SETS] + [(isa, True) for isa in SETS if _core.kernel_tiles(isa)]  # with tiles or without
EDGES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257]
TRANSPOSITIONS = list(itertools.product([False, True], repeat=2))


def rounded(x):
    """x rounded to bfloat16, to nearest, ties to even, by its bits; denormals are zeros, a NaN is quiet."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    near = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    size = bits & 0x7FFFFFFF
    near = np.where(size > 0x7F800000, (bits | 0x00400000) & 0xFFFF0000, near)
    near = np.where(size < 0x00800000, bits & 0x80000000, near)
    return near.astype(np.uint32).view(np.float32).reshape(np.shape(x))


def product(way, a, b, trans_a=False, trans_b=False, threads=1, in_scratch=False):
    """op(a) op(b) into an array that held NaN."""
    isa, tiles = way
    out = np.full((a.shape[int(trans_a)], b.shape[int(not trans_b)]), np.nan, np.float32)
    _core.kernel_matmul(isa, a, b, out, trans_a=trans_a, trans_b=trans_b, threads=threads, bfloat16=True, tiles=tiles,
                        in_scratch=in_scratch)
    return out


def stored(x, transposed):
    return np.ascontiguousarray(x.T if transposed else x)


def same(a, b):
    return np.array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


@pytest.mark.parametrize("isa", SETS)
def test_rounding_of_every_upper_half(isa):
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper | lower).view(np.float32)
        got = np.empty_like(x)
        _core.kernel_round_bf16(isa, x, got)
        assert same(got, rounded(x)), hex(lower)
        for n in (1, 5, 33):  # tails
            part = np.empty(n, np.float32)
            _core.kernel_round_bf16(isa, x[16200:16200 + n], part)
            assert same(part, got[16200:16200 + n])


@pytest.mark.parametrize("way", WAYS)
def test_packing_rounds_alike(way):
    """Times one: every kind of number, through every way of packing."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0, 0x7FFF, 0x8000, 0x8001):
        x = (upper | lower).view(np.float32).reshape(-1, 64)
        finite = np.isfinite(rounded(x))
        x, one = np.where(finite, x, np.float32(1.5)), np.eye(64, dtype=np.float32)
        for trans_a, trans_b in TRANSPOSITIONS:
            assert np.array_equal(product(way, stored(x, trans_a), stored(one, trans_b), trans_a, trans_b), rounded(x))
            assert np.array_equal(product(way, stored(one, trans_a), stored(x.T, trans_b), trans_a, trans_b), rounded(x.T))


@pytest.mark.parametrize("way", WAYS)
def test_integers_are_exact(way):
    """Whole numbers up to 255 are bfloat16, and sums below 2^24 float32."""
    rng = np.random.default_rng(1)
    threads, in_scratch = itertools.cycle([1, 2, 3]), itertools.cycle([False, True])
    shapes = [(m, n, k) for m, n, k in itertools.product(EDGES, repeat=3) if len({m, n, k} & {1, 17, 32, 100, 257}) >= 2]
    for m, n, k in [*shapes, (3, 4, 0), (600, 70, 40), (40, 1100, 600), (65, 33, 1500), (300, 700, 50), (70, 8200, 3), (70, 8192, 5)]:
        most = min(255, int((2**24 / max(k, 1)) ** 0.5))
        a, b = rng.integers(-most, most + 1, (m, k)), rng.integers(-most, most + 1, (k, n))
        for trans_a, trans_b in TRANSPOSITIONS:
            x, y = stored(a.astype(np.float32), trans_a), stored(b.astype(np.float32), trans_b)
            assert np.array_equal(product(way, x, y, trans_a, trans_b, next(threads), next(in_scratch)), a @ b), (m, n, k, trans_a, trans_b)


@pytest.mark.parametrize("way", WAYS)
def test_close_to_the_exact_product_of_rounded_operands(way):
    rng = np.random.default_rng(2)
    for m, n, k in [(5, 7, 3), (33, 65, 100), (257, 17, 1025), (600, 530, 70), (300, 530, 600)]:
        a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
        x, y = rounded(a).astype(np.float64), rounded(b).astype(np.float64)
        bound = (k + 1) * 2.0**-24 * (abs(x) @ abs(y))  # k roundings of sums, each of half a unit in the last place
        first = product(way, a, b)
        assert (abs(first - x @ y) <= bound).all()
        for threads, (trans_a, trans_b) in itertools.product([1, 2, 3], TRANSPOSITIONS):
            assert same(product(way, stored(a, trans_a), stored(b, trans_b), trans_a, trans_b, threads), first)
        wide_a, wide_b = np.zeros((m, 2 * k), np.float32), np.zeros((k, 3 * n), np.float32)
        wide_a[:, ::2], wide_b[:, ::3] = a, b
        assert same(product(way, wide_a[:, ::2], wide_b[:, ::3]), first)  # any strides


@pytest.mark.parametrize("way", WAYS)
def test_nan_and_infinity_stay_in_their_row_and_column(way):
    a, b = np.ones((40, 50), np.float32), np.ones((50, 60), np.float32)
    a[3, 4], b[5, 6], b[49, 59] = np.nan, np.inf, 3.4e38  # the last one rounds to infinity
    got = product(way, a, b)
    expected = a.astype(np.float64) @ rounded(b).astype(np.float64)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_what_is_no_product_of_a_layer_stays_in_float32():
    """A norm's gradients have no product of the user's, so they are float32's."""
    x, y = np.random.default_rng(8).standard_normal((2, 40, 70)).astype(np.float32)
    found = []
    for precision in (None, "bfloat16"):
        net = bp.Sequential([bp.Input(70), bp.PReLU(), bp.LayerNorm(), bp.BatchNorm()], seed=1)
        loss, gradients = bp.Trainer(net, "squared_error", precision=precision).loss_and_gradients(x, y)
        found.append([np.float32(loss), *(np.array(gradients[k]) for k in sorted(gradients))])
    assert len(found[0]) == 6 and all(np.any(g) for g in found[0])
    assert all(same(a, b) for a, b in zip(*found))


def train(precision, steps=30, fuse=True, rows=100, widths=(70, 33)):
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((300, 20)).astype(np.float32), rng.integers(0, 7, 300)
    x[np.arange(300), y] += 2
    net = bp.Sequential([*(bp.Dense(w, "tanh") for w in widths), bp.Dense(7)], seed=3)
    trainer = bp.Trainer(net, precision=precision, fuse=fuse)
    found = [trainer.step(x[i * 10 % 200:][:rows], y[i * 10 % 200:][:rows]) for i in range(steps)]
    return np.array(found), net.flat_parameters.copy()


@pytest.fixture
def threads():
    before = _core.threads_get()
    yield _core.threads_set
    _core.threads_set(before)


def test_training_follows_float32_and_is_another_thing():
    (a, p), (b, q) = train(None), train("bfloat16")
    assert a[-1] < 0.6 * a[0]
    np.testing.assert_allclose(b, a, rtol=0.02)
    assert not np.array_equal(p, q)


def run(code, **environment):
    """The words that another process prints that has imported this module as `own`."""
    path = os.pathsep.join([str(pathlib.Path(bp.__file__).parents[1]), str(pathlib.Path(__file__).parent)])
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", "import test_bfloat16 as own\n" + textwrap.dedent(code)],
                          env=os.environ | {"PYTHONPATH": path} | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def losses_after_500_steps(precision):
    """Of five seeds: the labels are those of a network of its own, one in ten drawn anew, so that there is something to learn and
    something that cannot be. The loss is that on all data, by products of float32 for both: what was learned is compared, not
    how it is read, and the loss of one batch would scatter more than the two differ."""
    rng = np.random.default_rng(11)
    x, hidden, out = rng.standard_normal((2000, 32)).astype("float32"), rng.standard_normal((32, 24)), rng.standard_normal((24, 10))
    y = (np.tanh(0.4 * x @ hidden) @ out).argmax(1)
    y = np.where(rng.random(2000) < 0.1, rng.integers(0, 10, 2000), y)
    found = []
    for seed in range(5):
        net = bp.Sequential([bp.Dense(64, "relu"), bp.Dense(64, "relu"), bp.Dense(10)], seed=seed)
        trainer = bp.Trainer(net, optimizer=bp.Adam(0.002), seed=seed, precision=precision)
        for rows in np.random.default_rng(seed).integers(0, 2000, (500, 64)):
            trainer.step(x[rows], y[rows])
        found.append(trainer.evaluate(x, y)["loss"])
    return np.array(found)


def test_the_loss_after_500_steps_is_that_of_float32(isa):
    """Within 1%, in the mean; 20 times five seeds gave a scatter of 0.1%."""
    code = "print(*own.losses_after_500_steps(None), *own.losses_after_500_steps('bfloat16'))"
    wide, narrow = np.array(run(code, BACKPROP_ISA=isa), float).reshape(2, 5)
    assert 0.1 < wide.mean() < 1.0 and (wide != narrow).all()
    assert abs(narrow.mean() / wide.mean() - 1) < 0.01
    assert (abs(narrow / wide - 1) < 0.03).all()


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_micro_batches_make_the_update_of_the_large_batch(loss, k):
    """The operands of the products are the same, and so is their rounding, but for a few that a last place of float32 brings over
    an edge; what differs is the order of float32 sums. The update by products of float32 is far away."""
    rng = np.random.default_rng(7)
    x, teacher = rng.standard_normal((240, 20)).astype("float32"), rng.standard_normal((20, 7))
    y = (x @ teacher).argmax(1) if loss == "cross_entropy" else (x @ teacher).astype("float32")
    changes = []
    for accumulate, precision in ((1, "bfloat16"), (k, "bfloat16"), (1, None)):
        net = bp.Sequential([bp.Input(20), bp.Dense(70, "tanh"), bp.Dropout(0.3), bp.Dense(33, "relu"), bp.Dense(7)], seed=3)
        trainer = bp.Trainer(net, loss, bp.SGD(0.1), seed=1, precision=precision, accumulate=accumulate, clip_norm=1.0)
        start = net.flat_parameters.copy()
        trainer.fit(x, y, epochs=3, batch_size=80, progress=False)
        changes.append(net.flat_parameters - start)
    whole, parts, wide = changes
    assert np.linalg.norm(parts - whole) < 1e-4 * np.linalg.norm(whole)
    assert np.linalg.norm(wide - whole) > 3e-3 * np.linalg.norm(whole)


def test_steps_allocate_nothing(threads):
    threads(2)
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((700, 20)).astype(np.float32), rng.integers(0, 7, 700)
    trainers = [bp.Trainer(bp.Sequential([bp.Dense(70, "relu"), bp.Dropout(0.2), bp.Dense(7)], seed=1), precision="bfloat16", accumulate=k)
                for k in (1, 3)]

    def everything():
        for trainer in trainers:
            for n in (700, 300, 1):
                trainer.step(x[:n], y[:n])
                trainer.loss_and_gradients(x[:n], y[:n])
            trainer.fit(x, y, epochs=2, batch_size=300, progress=False)

    everything()
    before = _core.allocations()
    everything()
    assert _core.allocations() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_before_and_after_it_was_used():
    """The parent's first use asks the system for tiles, where there are such: a child asks itself or inherits them."""
    code = """
    import os
    import backprop as bp

    def bits():
        with bp.threads(2):
            return own.train("bfloat16", steps=5, rows=200, widths=(300, 200))[1].tobytes()

    def child(expected):
        pid = os.fork()
        if pid == 0:
            grandchild = os.fork()
            ok = bits() == expected
            os._exit(not (ok and (grandchild == 0 or os.waitpid(grandchild, 0)[1] == 0)))
        return os.waitpid(pid, 0)[1]

    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:  # uses it first
        os.write(w, bits()[-1000:])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    first = bits()
    assert os.read(r, 1000) == first[-1000:]
    print(*[child(first) for _ in range(3)], bits() == first)
    """
    assert run(code) == ["0", "0", "0", "True"]


def test_the_same_bits_for_any_threads_fused_or_not(threads):
    first = train("bfloat16")
    for n, fuse in itertools.product([1, 2, 3], [True, False]):
        threads(n)
        loss, parameters = train("bfloat16", fuse=fuse)
        assert same(parameters, first[1]) and np.array_equal(loss, first[0]), (n, fuse)


def test_the_same_bits_for_any_capacity():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((700, 12)).astype(np.float32), rng.integers(0, 5, 700)
    found = []
    for capacity in (50, 700):
        trainer = bp.Trainer(bp.Sequential([bp.Dense(40, "relu"), bp.Dense(5)], seed=1), precision="bfloat16")
        trainer.loss_and_gradients(x[:capacity], y[:capacity])
        found.append(trainer.loss_and_gradients(x[:50], y[:50]))
    assert found[0][0] == found[1][0]
    assert all(same(found[0][1][k], found[1][1][k]) for k in found[0][1])


def test_float32_after_it_is_as_before():
    """Neither the control state nor the tiles of the thread change."""
    first = train(None)[1]
    train("bfloat16", steps=3)
    assert np.float32(1e-40) * np.float32(1) != 0 and same(train(None)[1], first)


def test_only_products_of_training_are_in_bfloat16():
    net = bp.Sequential([bp.Input(12), bp.Dense(40, "relu"), bp.Dense(5)], seed=1)
    trainer = bp.Trainer(net, precision="bfloat16")
    lines = [line for line in trainer.describe(2000).splitlines() if " matmul" in line or "matmul " in line]
    assert len(lines) == 5 and all("in bfloat16" in line for line in lines)
    assert "row_blocks" not in trainer.describe(100_000)
    assert "bfloat16" not in bp.Trainer(net).describe(2000)


def test_float64_is_refused():
    with pytest.raises(ValueError, match="bfloat16.*float64"):
        bp.Trainer(bp.Sequential([bp.Input(3), bp.Dense(2)], dtype="float64"), precision="bfloat16")
    with pytest.raises(ValueError, match="float16"):
        bp.Trainer(bp.Sequential([bp.Input(3), bp.Dense(2)]), precision="float16")


def test_a_checkpoint_remembers_it(tmp_path):
    def trainer(precision):
        return bp.Trainer(bp.Sequential([bp.Input(3), bp.Dense(2)], seed=1), precision=precision)

    trainer("bfloat16").save_checkpoint(tmp_path / "x")
    trainer("bfloat16").load_checkpoint(tmp_path / "x")
    with pytest.raises(ValueError, match="products"):
        trainer(None).load_checkpoint(tmp_path / "x")


def test_the_most_that_tiles_can_do_is_measured_where_there_are_some():
    for isa in SETS:
        if _core.kernel_tiles(isa):
            assert _core.kernel_fma_peak(isa, 16, 20) == 2 * _core.kernel_fma_peak(isa, 16, 10) > 0
        else:
            with pytest.raises(ValueError, match="no tiles"):
                _core.kernel_fma_peak(isa, 16, 10)
