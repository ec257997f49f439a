"""Products of operands rounded to bfloat16: the rounding bit for bit, exact integers, one set of bits on one machine."""

import itertools

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


def product(way, a, b, trans_a=False, trans_b=False, threads=1):
    """op(a) op(b) into an array that held NaN."""
    isa, tiles = way
    out = np.full((a.shape[int(trans_a)], b.shape[int(not trans_b)]), np.nan, np.float32)
    _core.kernel_matmul(isa, a, b, out, trans_a=trans_a, trans_b=trans_b, threads=threads, bfloat16=True, tiles=tiles)
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
    threads = itertools.cycle([1, 2, 3])
    shapes = [(m, n, k) for m, n, k in itertools.product(EDGES, repeat=3) if len({m, n, k} & {1, 17, 32, 100, 257}) >= 2]
    for m, n, k in [*shapes, (3, 4, 0), (600, 70, 40), (40, 1100, 600), (65, 33, 1500)]:
        most = min(255, int((2**24 / max(k, 1)) ** 0.5))
        a, b = rng.integers(-most, most + 1, (m, k)), rng.integers(-most, most + 1, (k, n))
        for trans_a, trans_b in TRANSPOSITIONS:
            x, y = stored(a.astype(np.float32), trans_a), stored(b.astype(np.float32), trans_b)
            assert np.array_equal(product(way, x, y, trans_a, trans_b, next(threads)), a @ b), (m, n, k, trans_a, trans_b)


@pytest.mark.parametrize("way", WAYS)
def test_close_to_the_exact_product_of_rounded_operands(way):
    rng = np.random.default_rng(2)
    for m, n, k in [(5, 7, 3), (33, 65, 100), (257, 17, 1025), (600, 530, 70)]:
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
