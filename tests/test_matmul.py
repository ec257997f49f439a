"""The matrix product: exact on integers, and the same bits on every path.

The contract (csrc/kernels.h): C[i,j] = (b0 + b1) + b2 ..., where bq is a chain of fma over k in [256 q, 256 (q+1)),
ascending, from 0. Tiles, packing, threads and (among sets with fma) the instruction set must not show in the bits.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from backprop import _core

SETS = _core.isa_runnable()
FMA_SETS = [isa for isa in SETS if isa != "scalar"]
DTYPES = [np.float32, np.float64]
TRANSPOSITIONS = list(itertools.product([False, True], repeat=2))
K_BLOCK = 256

# Rows and columns of the register tiles of all sets (4, 6, 8, 12, 14 rows; 4, 8, 16, 24, 32, 48 columns) with both neighbours.
EDGE_M = sorted({size + d for size in (4, 6, 8, 12, 14) for d in (-1, 0, 1)})
EDGE_N = sorted({size + d for size in (4, 8, 16, 24, 32, 48) for d in (-1, 0, 1)})
EDGE_K = [K_BLOCK - 1, K_BLOCK, K_BLOCK + 1, 2 * K_BLOCK, 2 * K_BLOCK + 1]

# Shapes that reach each way through the blocking: m, n, k.
LARGE = [
    (1, 300, 70),  # one row: wide tiles
    (2, 131, 300),
    (47, 200, 300),  # just too few rows to pack B, and enough
    (48, 200, 300),
    (300, 130, 40),  # A^T packed (a step of k is 1200 bytes apart), more rows than a block has
    (150, 520, 260),  # two blocks of columns, several strips of packed B
    (129, 1100, 20),  # whole rows, though wide, for B is small; packed and kept; a few rows of which are more than a block
    (200, 1100, 150),
    (5, 13000, 3),
    (384, 1506, 300),  # blocks of more columns than 512, which is no multiple of three registers of 16
    (500, 9, 33),  # narrow tiles
    (16, 4, 300),  # C^T of as many columns as a register has lanes, and of some more
    (41, 8, 300),
    (16, 300, 300),  # C^T of a whole register of rows and some more by a transposed B; of several blocks of columns
    (32, 523, 270),
    (96, 700, 600),
    (70, 1, 513),
    (31, 64, 1500),  # many blocks of k
    *((m, 1031, 530) for m in (1, 2, 3, 4, 5, 13)),  # a B that is taken to come from beyond L2, by few rows and by tiles,
    (3, 1300, 420),  # and whole where an update hangs on it; packed
    (201, 1100, 300),
]


def matmul(isa, a, b, trans_a=False, trans_b=False, threads=1, in_scratch=False, updates=False):
    """op(a) op(b) into an array that held NaN."""
    m = a.shape[1] if trans_a else a.shape[0]
    n = b.shape[0] if trans_b else b.shape[1]
    out = np.full((m, n), np.nan, a.dtype)
    _core.kernel_matmul(isa, a, b, out, trans_a=trans_a, trans_b=trans_b, threads=threads, in_scratch=in_scratch,
                        updates=updates)
    return out


def stored(x, transposed):
    """The C-contiguous array whose (transposed) value is x."""
    return np.ascontiguousarray(x.T if transposed else x)


def assert_same_bits(got, expected, what):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    word = f"u{got.dtype.itemsize}"
    different = np.ascontiguousarray(got).view(word) != np.ascontiguousarray(expected).view(word)
    assert not different.any(), f"{what}: {different.sum()} of {different.size} elements differ"


def integers(rng, m, n, k):
    """Integers in [-4, 4] whose product is at least half non-zero, and that product."""
    while True:
        a, b = rng.integers(-4, 5, (m, k)), rng.integers(-4, 5, (k, n))
        expected = a @ b
        if k == 0 or 2 * np.count_nonzero(expected) >= expected.size:
            return a, b, expected


def check_integers(shapes):
    rng = np.random.default_rng(1)
    ways = itertools.cycle(itertools.product([1, 2, 3], [False, True], [False, True]))  # threads, in_scratch, updates
    checked = 0
    for m, n, k in shapes:
        a, b, expected = integers(rng, m, n, k)
        for dtype, (trans_a, trans_b) in itertools.product(DTYPES, TRANSPOSITIONS):
            x, y = stored(a.astype(dtype), trans_a), stored(b.astype(dtype), trans_b)
            for isa in SETS:
                got = matmul(isa, x, y, trans_a, trans_b, *next(ways))
                assert np.array_equal(got, expected), (isa, dtype, m, n, k, trans_a, trans_b)
                checked += expected.size
    assert checked > 10_000


def test_integers_small():
    check_integers(itertools.product([0, 1, 2, 3, 7, 31, 64], repeat=3))


def test_integers_at_the_edges_of_tiles():
    check_integers(itertools.product(EDGE_M, EDGE_N, EDGE_K))


def test_integers_in_packed_panels():
    """Rows enough for B to be packed, and every way in which panels of one to three vectors end."""
    vectors = range(1, 8)
    columns = {lanes * v + d for lanes in (8, 16) for v in vectors for d in (-1, 0, 1)}
    check_integers(itertools.product([48, 57], sorted(columns), [32, 270]))


def test_integers_large(kind):
    check_integers(LARGE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_operand_that_is_taken_to_come_from_memory(kind, dtype):
    """Its rows lie so far apart that as a whole it would be larger than any cache: by rows of B, by tiles and packed, the products are
    exact on integers, and have the bits of those by an operand that lies together."""
    apart, k = (1 << 16) // np.dtype(dtype).itemsize, 530
    rng = np.random.default_rng(6)
    for n in (300, 2100):  # pieces of rows that end in the midst of a register; sums of more than one page
        y = np.empty((k, apart), dtype)[:, 3 : n + 3]
        for m in (1, 2, 4, 7, 13, 16, 17, 25, 48, 49, 130):
            a, b, expected = integers(rng, m, n, k)
            x, w = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
            for isa in SETS:
                for u, v, want in [(a.astype(dtype), b, expected), (x, w, matmul(isa if isa == "scalar" else FMA_SETS[0], x, w))]:
                    y[...] = v
                    for trans_a, threads in itertools.product([False, True], [1, 2]):
                        out = np.full((m, n), np.nan, dtype)
                        _core.kernel_matmul(isa, stored(u, trans_a), y, out, trans_a=trans_a, threads=threads, in_scratch=threads == 2)
                        assert_same_bits(out, want.astype(dtype), (isa, m, n, trans_a, threads))


def nearest(exact, dtype):
    """The number of the dtype nearest to a Fraction, ties to the even one."""
    guess = dtype(float(exact))
    candidates = [guess, np.nextafter(guess, dtype(np.inf)), np.nextafter(guess, dtype(-np.inf))]
    word = f"u{guess.itemsize}"
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(word)) & 1))


def reference(a, b):
    """The contract, one fma at a time in exact arithmetic."""
    dtype = a.dtype.type
    out = np.zeros((a.shape[0], b.shape[1]), dtype)
    for i, j in np.ndindex(out.shape):
        for start in range(0, a.shape[1], K_BLOCK):
            acc = dtype(0)
            for p in range(start, min(start + K_BLOCK, a.shape[1])):
                acc = nearest(Fraction(float(a[i, p])) * Fraction(float(b[p, j])) + Fraction(float(acc)), dtype)
            out[i, j] = acc if start == 0 else out[i, j] + acc
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", FMA_SETS)
def test_each_element_is_the_stated_chain(isa, dtype):
    rng = np.random.default_rng(2)
    for m, n, k in [(3, 5, 7), (1, 2, 300), (2, 1, 520), (5, 3, 40)]:
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        expected = reference(a, b)
        for trans_a, trans_b in TRANSPOSITIONS:
            got = matmul(isa, stored(a, trans_a), stored(b, trans_b), trans_a, trans_b)
            assert_same_bits(got, expected, (m, n, k, trans_a, trans_b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_way(dtype):
    """Transposition, packing, threads, the set, and which other rows and columns there are."""
    rng = np.random.default_rng(3)
    for m, n, k in LARGE + [(13, 33, 257), (64, 10, 128), (64, 2, 64)]:
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        for family in (FMA_SETS, ["scalar"]):
            first = None
            for isa, threads in itertools.product(family, [1, 2, 3]):
                for (trans_a, trans_b), in_scratch, updates in itertools.product(TRANSPOSITIONS, [False, True], [False, True]):
                    got = matmul(isa, stored(a, trans_a), stored(b, trans_b), trans_a, trans_b, threads, in_scratch, updates)
                    if first is None:
                        first = got
                        np.testing.assert_allclose(first, a.astype(np.float64) @ b.astype(np.float64), atol=1e-3, rtol=1e-3)
                    assert_same_bits(got, first, (isa, threads, m, n, k, trans_a, trans_b, in_scratch, updates))
                for i in {0, m // 2, m - 1}:
                    assert_same_bits(matmul(isa, a[i : i + 1], b, threads=threads), first[i : i + 1], (isa, "row", i))
                    w = stored(b, True)
                    assert_same_bits(matmul(isa, a[i : i + 1], w, trans_b=True), first[i : i + 1], (isa, "row, b^T", i))
                for j in {0, n // 2, n - 1}:
                    column = np.ascontiguousarray(b[:, j : j + 1])
                    assert_same_bits(matmul(isa, a, column, threads=threads), first[:, j : j + 1], (isa, "column", j))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_outside_the_extents(kind, dtype):
    """Operands and result are windows of larger arrays, full of NaN: none gets in, none is overwritten."""
    rng = np.random.default_rng(4)

    def window(x):
        frame = np.full((x.shape[0] + 2, x.shape[1] + 5), np.nan, x.dtype)
        frame[1:-1, 2:-3] = x
        return frame[1:-1, 2:-3]

    for m, n, k in [(1, 1, 1), (7, 5, 3), (13, 33, 9), (60, 130, 270), (130, 129, 70), (3, 40, 17), (30, 3, 65), (3, 1031, 530), (11, 1031, 530)]:
        a, b, expected = integers(rng, m, n, k)
        for isa, (trans_a, trans_b) in itertools.product(SETS, TRANSPOSITIONS):
            x, y = window(stored(a.astype(dtype), trans_a)), window(stored(b.astype(dtype), trans_b))
            out = window(np.zeros((m, n), dtype))
            _core.kernel_matmul(isa, x, y, out, trans_a=trans_a, trans_b=trans_b, threads=2)
            assert np.array_equal(out, expected)
            frame = out.base
            frame[1:-1, 2:-3] = np.nan
            assert np.isnan(frame).all()


@pytest.mark.parametrize("isa", SETS)
def test_special_values_stay_in_their_row_and_column(isa):
    rng = np.random.default_rng(5)
    for m, n, k in [(9, 21, 5), (100, 130, 300), (50, 3, 20)]:
        a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
        clean = matmul(isa, a, b)
        i, j = m // 2, n - 1
        a[i, 1], b[k - 1, j] = np.nan, np.inf
        got = matmul(isa, a, b)
        assert np.isnan(got[i]).all()
        others = np.delete(got, i, axis=0)
        assert not np.isfinite(others[:, j]).any()
        assert_same_bits(others[:, :j], np.delete(clean, i, axis=0)[:, :j], "the rest")


@pytest.mark.parametrize("isa", SETS)
def test_minus_zero(isa):
    """fma(a0, b0, 0) is +0 where the product is -0, as in every chain that starts from 0."""
    for m, n in [(1, 1), (7, 40), (60, 9)]:
        got = matmul(isa, np.full((m, 3), -0.0, np.float32), np.ones((3, n), np.float32))
        assert_same_bits(got, np.zeros((m, n), np.float32), (m, n))


def test_no_steps_give_zeros():
    for isa, dtype in itertools.product(SETS, DTYPES):
        got = matmul(isa, np.zeros((5, 0), dtype), np.zeros((0, 37), dtype), threads=2)
        assert_same_bits(got, np.zeros((5, 37), dtype), isa)
