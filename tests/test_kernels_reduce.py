"""Random numbers, reductions and softmax cross-entropy of every instruction set, against references in NumPy.

The references of `random`, `reduce_rows` and `reduce_cols` follow csrc/kernels.h to the bit, in the kernel's own precision.
"""

import numpy as np
import pytest

from backprop import _core

SETS = _core.isa_runnable()
FMA_SETS = [name for name in SETS if name != "scalar"]
DTYPES = [np.float32, np.float64]
each_set = pytest.mark.parametrize("isa", SETS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
each_kind = pytest.mark.parametrize("kind", ["sum", "max", "min"])


def same_bits(a, b):
    """Equal down to the sign of zero; any NaN equals any other."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and a.dtype == b.dtype
    same = ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
    return bool(same.all())


# ------------------------------------------------------------------ Philox


def philox(counter, key, rounds=10):
    """Philox4x32 of arrays of words, from the paper: counter (4, ...), key (2,) -> (4, ...) uint32."""
    low = np.uint64(0xFFFFFFFF)
    x = [np.asarray(c, np.uint64) for c in counter]
    k = [int(key[0]), int(key[1])]
    for _ in range(rounds):
        p0, p1 = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        x = [high1 ^ x[1] ^ np.uint64(k[0]), p1 & low, high0 ^ x[3] ^ np.uint64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return np.array(x).astype(np.uint32)


# kat_vectors of Random123: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def random_reference(dtype, rows, cols, seed, step, node, row0, col0):
    i, j = np.meshgrid(np.arange(row0, row0 + rows), np.arange(col0, col0 + cols), indexing="ij")
    words = philox((j // 4, i, np.full_like(i, node), np.full_like(i, step % 2**32)), (seed % 2**32, seed >> 32))
    word = np.take_along_axis(words, (j % 4)[None], 0)[0]
    if dtype == np.float32:
        return (word >> 8).astype(np.float32) * np.float32(2**-24)
    return word * 2.0**-32


@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_reference_gives_the_known_answers(counter, key, result):
    assert tuple(philox(counter, key)) == result


@each_set
@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_known_answers(isa, counter, key, result):
    args = (key[0] | key[1] << 32, counter[3], counter[2], counter[1], 4 * counter[0])
    f64, f32 = np.empty((1, 4)), np.empty((1, 4), np.float32)
    _core.kernel_random(isa, f64, *args)
    _core.kernel_random(isa, f32, *args)
    assert tuple((f64[0] * 2.0**32).astype(np.uint32)) == result
    assert tuple((f32[0] * 2.0**24).astype(np.uint32)) == tuple(word >> 8 for word in result)


@each_set
@each_dtype
@pytest.mark.parametrize(
    "rows, cols, row0, col0",
    [
        *[(1, 1, 0, 0), (1, 1, 5, 3), (7, 3, 1, 2), (33, 10, 0, 0)],
        *[(5, 257, 3, 1), (3, 64, 0, 128), (70, 1, 9, 6), (2, 1030, 4, 7)],
    ],
)
def test_random_is_a_function_of_its_name(isa, dtype, rows, cols, row0, col0):
    seed, step, node = 0x123456789ABCDEF0, 0x1_0000_0007, 3  # the step counts modulo 2^32
    got = np.full((rows, cols), -1, dtype)
    _core.kernel_random(isa, got, seed, step, node, row0, col0)
    assert same_bits(got, random_reference(dtype, rows, cols, seed, step, node, row0, col0))


@each_set
@each_dtype
def test_random_writes_its_tile_only(isa, dtype):
    for rows, cols, col0 in [(3, 5, 1), (1, 17, 3), (9, 2, 0), (0, 4, 0), (4, 0, 0)]:
        around = np.full(rows * cols + 8, 7, dtype)
        _core.kernel_random(isa, around[4 : 4 + rows * cols].reshape(rows, cols), 1, 2, 3, 0, col0)
        assert (around[:4] == 7).all() and (around[4 + rows * cols :] == 7).all()
        assert (around[4 : 4 + rows * cols] < 1).all()


@each_dtype
def test_random_is_uniform(dtype):
    x = np.empty((400, 500), dtype)
    _core.kernel_random(SETS[-1], x, 11, 0, 1, 0, 0)
    n = x.size
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean(dtype=np.float64) - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(x.var(dtype=np.float64) - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    counts = np.histogram(x, 64, (0, 1))[0]
    chi2 = ((counts - n / 64) ** 2 / (n / 64)).sum()  # 63 degrees of freedom: mean 63, standard deviation 11.2
    assert 25 < chi2 < 125
    y = x - x.mean()
    for other in (y[:, 1:], y[1:, :]):  # neighbours in a row and in a column
        mine = y[: other.shape[0], : other.shape[1]]
        assert abs((mine * other).mean(dtype=np.float64) * 12) < 5 / n**0.5


# ------------------------------------------------------------------ permutation and uniform


def test_permutation():
    for n in (0, 1, 2, 3, 17, 1000):
        assert sorted(_core.permutation(n, 5, 6)) == list(range(n))
    first = _core.permutation(1000, 5, 6)
    assert (first == _core.permutation(1000, 5, 6)).all()
    for seed, epoch in [(5, 7), (6, 6), (5, 6 + 2**32), (5 + 2**32, 6)]:
        assert (first != _core.permutation(1000, seed, epoch)).sum() > 950


def test_permutation_is_unbiased():
    n, draws = 5, 12000
    counts = {}
    for epoch in range(draws):
        order = tuple(_core.permutation(n, 3, epoch))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 120
    chi2 = sum((c - draws / 120) ** 2 / (draws / 120) for c in counts.values())
    assert 119 - 5 * 15.4 < chi2 < 119 + 5 * 15.4


def permutation_reference(n, seed, epoch):
    key = philox((epoch % 2**32, epoch >> 32, 2**32 - 1, 0), (seed % 2**32, seed >> 32))[:2]
    words = philox((np.arange(n + 8), np.zeros(n + 8, int), np.zeros(n + 8, int), np.zeros(n + 8, int)), key).T.ravel()
    at, out = 0, list(range(n))
    for i in range(n - 1, 0, -1):
        s = i + 1
        while True:  # Lemire's bounded integers
            m = int(words[at]) * s
            at += 1
            if m % 2**32 >= 2**32 % s:
                break
        j = m >> 32
        out[i], out[j] = out[j], out[i]
    return out


@pytest.mark.parametrize("n, seed, epoch", [(1, 0, 0), (10, 1, 2), (1000, 2**63 + 5, 2**40 + 1)])
def test_permutation_follows_its_definition(n, seed, epoch):
    assert list(_core.permutation(n, seed, epoch)) == permutation_reference(n, seed, epoch)


def test_uniform():
    x = _core.uniform(100_001, 9, 1)
    key = philox((1, 0, 2**32 - 2, 0), (9, 0))[:2]
    words = philox((np.arange(4), [0] * 4, [0] * 4, [0] * 4), key).T.ravel().astype(np.uint64)
    expected = (words[0::2] | words[1::2] << np.uint64(32)) >> np.uint64(11)
    assert (x[:8] == expected * 2.0**-53).all()
    assert (x[:77] == _core.uniform(77, 9, 1)).all()
    assert abs(x.mean() - 0.5) < 5 * (1 / 12 / x.size) ** 0.5
    assert x.min() >= 0 and x.max() < 1
    assert np.any(x * 2.0**33 % 1 != 0)  # more than the 32 bits of one word
    for seed, stream in [(9, 2), (10, 1), (9, 1 + 2**32), (9 + 2**32, 1)]:
        assert not np.any(_core.uniform(77, seed, stream) == x[:77])


# ------------------------------------------------------------------ reductions

NEUTRAL = {"sum": 0.0, "max": -np.inf, "min": np.inf}


def combine(kind, a, b):
    if kind == "sum":
        return a + b
    return np.where(((a > b) if kind == "max" else (a < b)) | np.isnan(a), a, b)


def rows_reference(kind, x):
    def chunk(part):
        lanes = np.full((x.shape[0], 32), NEUTRAL[kind], x.dtype)
        padded = np.full((x.shape[0], -(-part.shape[1] // 32) * 32), NEUTRAL[kind], x.dtype)
        padded[:, : part.shape[1]] = part
        for j in range(0, padded.shape[1], 32):
            lanes = combine(kind, lanes, padded[:, j : j + 32])
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = combine(kind, lanes[:, :half], lanes[:, half:])
        return lanes[:, 0]

    def pairwise(chunks):
        if len(chunks) == 1:
            return chunks[0]
        first = 1 << (len(chunks) - 1).bit_length() - 1
        return combine(kind, pairwise(chunks[:first]), pairwise(chunks[first:]))

    return pairwise([chunk(x[:, j : j + 4096]) for j in range(0, max(x.shape[1], 1), 4096)])


def cols_reference(kind, x):
    total = np.full(x.shape[1], NEUTRAL[kind], x.dtype)
    for start in range(0, x.shape[0], 256):
        lanes = np.full((4, x.shape[1]), NEUTRAL[kind], x.dtype)
        for i, row in enumerate(x[start : start + 256]):
            lanes[i % 4] = combine(kind, lanes[i % 4], row)
        block = combine(kind, combine(kind, lanes[0], lanes[1]), combine(kind, lanes[2], lanes[3]))
        total = block if start == 0 else combine(kind, total, block)
    return total


def numbers(rng, shape, dtype, special):
    x = (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape) * 4)).astype(dtype)
    if special:
        where = rng.random(shape)
        for bound, value in [(0.4, 0.0), (0.3, -0.0), (0.02, np.inf), (0.015, -np.inf), (0.01, np.nan)]:
            x[where < bound] = value
    return x


def framed(x):
    """x inside a larger array of NaN, so that ld > cols and any read beside x shows."""
    frame = np.full((x.shape[0], x.shape[1] + 5), np.nan, x.dtype)
    frame[:, 3 : 3 + x.shape[1]] = x
    return frame[:, 3 : 3 + x.shape[1]]


def reduced(kernel, isa, kind, x, n, *more):
    """The n results of a kernel, which writes nothing beside them."""
    got = np.full(n + 2, 7, x.dtype)
    kernel(isa, kind, x, got[1 : 1 + n], *more)
    assert got[0] == 7 and got[-1] == 7
    return got[1 : 1 + n]


@each_set
@each_dtype
@each_kind
@pytest.mark.parametrize("special", [False, True], ids=["plain", "special"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_reduce_rows(isa, dtype, kind, special):
    rng = np.random.default_rng(1)
    shapes = [(r, c) for r in (1, 2, 9, 33) for c in (*range(1, 20), 31, 32, 33, 47, 64, 100, 129)]
    for rows, cols in [*shapes, (0, 5), (2, 4095), (2, 4096), (1, 4097), (2, 7 * 4096 + 11), (1, 8 * 4096)]:
        x = framed(numbers(rng, (rows, cols), dtype, special))
        assert same_bits(reduced(_core.kernel_reduce_rows, isa, kind, x, rows), rows_reference(kind, x)), (rows, cols)


@each_set
@each_dtype
@each_kind
@pytest.mark.parametrize("special", [False, True], ids=["plain", "special"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_reduce_cols(isa, dtype, kind, special):
    rng = np.random.default_rng(2)
    shapes = [(r, c) for r in (1, 2, 3, 4, 5, 11) for c in (*range(1, 20), 31, 32, 33, 63, 64, 65, 100)]
    for rows, cols in [*shapes, (3, 0), (255, 3), (256, 5), (257, 9), (1030, 17), (515, 1050), (2079, 257)]:
        x = framed(numbers(rng, (rows, cols), dtype, special))
        assert same_bits(reduced(_core.kernel_reduce_cols, isa, kind, x, cols), cols_reference(kind, x)), (rows, cols)


@each_set
@each_dtype
@each_kind
@pytest.mark.parametrize("special", [False, True], ids=["plain", "special"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_reduce_cols_piece_by_piece(isa, dtype, kind, special):
    rng = np.random.default_rng(4)
    page = 4096 // np.dtype(dtype).itemsize
    for rows, cols in [(1, 1), (3, 2), (4, 17), (5, 16), (31, 33), (255, 3), (256, 8), (250, page), (30, page - 1)]:
        x = framed(numbers(rng, (rows, cols), dtype, special))
        for each in (4, 8, 20, 64, 256):
            assert same_bits(reduced(_core.kernel_reduce_pieces, isa, kind, x, cols, each), cols_reference(kind, x)), (rows, cols, each)


@each_set
@each_dtype
def test_spread(isa, dtype):
    for rows, cols in [(0, 16), (1, 16), (5, 17), (3, 31), (64, 32), (7, 95), (2, 100)]:
        x = np.arange(rows, dtype=dtype) - 2
        got = np.full((rows + 2, cols), 7, dtype)
        _core.kernel_spread(isa, x, got[:-1])
        assert same_bits(got[:rows], np.repeat(x, cols).reshape(rows, cols)), (rows, cols)
        assert (got[-1] == 7).all()


@each_set
@each_dtype
def test_sum_of_nothing_is_zero(isa, dtype):
    got = np.full(3, 7, dtype)
    _core.kernel_reduce_rows(isa, "sum", np.empty((3, 0), dtype), got)
    assert same_bits(got, np.zeros(3, dtype))
    got[:] = 7
    _core.kernel_reduce_cols(isa, "sum", np.empty((0, 3), dtype), got)
    assert same_bits(got, np.zeros(3, dtype))


@each_set
@each_dtype
def test_column_sums_may_be_taken_in_blocks_of_256_rows(isa, dtype):
    x = numbers(np.random.default_rng(3), (700, 11), dtype, False)
    whole, part = np.empty(11, dtype), np.empty(11, dtype)
    _core.kernel_reduce_cols(isa, "sum", x, whole)
    total = None
    for i in range(0, 700, 256):
        _core.kernel_reduce_cols(isa, "sum", x[i : i + 256], part)
        total = part.copy() if total is None else total + part
    assert same_bits(whole, total)


# ------------------------------------------------------------------ softmax cross-entropy

CLASSES = [1, 2, 3, 4, 7, 8, 9, 10, 16, 17, 31, 32, 33, 50, 64, 100, 1000]


def softmax_ce(isa, z, labels=None, probs=None, g=None, want_loss=True, want_dz=True):
    loss = np.full(z.shape[0], 7, z.dtype) if want_loss else None
    dz = np.full(z.shape, 7, z.dtype) if want_dz else None
    _core.kernel_softmax_ce(isa, z, labels, probs, g, loss, dz)
    return loss, dz


def softmax_reference(z, t, g):
    """In extended precision, by the formulas of backprop.h; 0 times infinity is 0."""
    z, t = z.astype(np.longdouble), t.astype(np.longdouble)
    d = z - z.max(1, keepdims=True)
    e = np.exp(d)
    s = e.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        terms = np.where(t == 0, 0, t * (np.log(s) - d))
    return terms.sum(1), g[:, None] * (e / s * t.sum(1, keepdims=True) - t)


def cases(classes, rng, dtype, rows=21):
    z = (rng.standard_normal((rows, classes)) * rng.choice([0.1, 3, 30], (rows, 1))).astype(dtype)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    t = rng.random((rows, classes)) * (rng.random((rows, classes)) < 0.6)
    return z, labels, t.astype(dtype), rng.standard_normal(rows).astype(dtype)


@each_set
@each_dtype
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("targets", ["labels", "probs"])
def test_softmax_ce(isa, dtype, classes, targets):
    z, labels, t, g = cases(classes, np.random.default_rng(classes), dtype)
    given = {"labels": labels} if targets == "labels" else {"probs": t}
    t = np.eye(classes, dtype=dtype)[labels] if targets == "labels" else t
    loss, dz = softmax_ce(isa, z, g=g, **given)
    expected_loss, expected_dz = softmax_reference(z, t, g)
    eps = np.finfo(dtype).eps
    weight = t.sum(1)
    assert (abs(loss - expected_loss) <= 8 * eps * (abs(expected_loss) + weight)).all()
    assert (abs(dz - expected_dz) <= 16 * eps * (abs(g) * weight)[:, None]).all()

    framed_z = framed(z)  # another ld, and the parts on their own: the same bits
    assert same_bits(softmax_ce(isa, framed_z, g=g, want_dz=False, **given)[0], loss)
    assert same_bits(softmax_ce(isa, framed_z, g=g, want_loss=False, **given)[1], dz)
    ones = softmax_ce(isa, z, g=np.ones(len(z), dtype), **given)[1]
    assert same_bits(softmax_ce(isa, z, g=np.ones(1, dtype), **given)[1], ones)
    assert same_bits(softmax_ce(isa, z, **given)[1], ones)
    for i in (0, 5, len(z) - 1):  # a row does not depend on its neighbours
        row = {name: value[i : i + 1] for name, value in given.items()}
        loss_i, dz_i = softmax_ce(isa, z[i : i + 1], g=g[i : i + 1], **row)
        assert same_bits(loss_i[0], loss[i]) and same_bits(dz_i[0], dz[i])
    in_place = z.copy()
    _core.kernel_softmax_ce(isa, in_place, given.get("labels"), given.get("probs"), g, None, in_place)
    assert same_bits(in_place, dz)


@each_set
@each_dtype
@pytest.mark.parametrize("classes", [2, 3, 10, 40, 1000])
def test_softmax_ce_of_extreme_scores(isa, dtype, classes):
    rng = np.random.default_rng(classes)
    for size in (1e4, 1e30):
        z = np.full((5, classes), -size, dtype)
        z[:, 1] = size
        loss, dz = softmax_ce(isa, z, labels=np.array([0, 1, 0, 1, 1], np.int32))
        assert same_bits(loss, np.array([2 * size, 0, 2 * size, 0, 0], dtype))
        assert (dz[0, :2] == [-1, 1]).all() and (dz[1] == 0).all() and (dz[0, 2:] == 0).all()
    z = np.full((2, classes), 1e4, dtype)  # large and equal: log of the number of classes
    loss, dz = softmax_ce(isa, z, labels=np.zeros(2, np.int32))
    np.testing.assert_allclose(loss, np.log(classes), rtol=1e-6)

    z, labels, t, g = cases(classes, rng, dtype)
    clean_loss, clean_dz = softmax_ce(isa, z, probs=t)
    z[3, 0] = np.nan
    z[7, -1] = np.inf
    z[8, :] = -np.inf
    loss, dz = softmax_ce(isa, z, probs=t)
    broken = np.isin(np.arange(len(z)), [3, 7, 8])
    assert np.isnan(loss[broken]).all() and np.isnan(dz[broken]).all()
    assert same_bits(loss[~broken], clean_loss[~broken]) and same_bits(dz[~broken], clean_dz[~broken])
    loss, dz = softmax_ce(isa, z, labels=labels)
    assert np.isnan(loss[broken]).all() and np.isnan(dz[broken]).all()
    assert np.isfinite(loss[~broken]).all()


@each_set
@each_dtype
@pytest.mark.parametrize("classes", [2, 3, 10, 33, 70])
def test_softmax_ce_with_impossible_classes(isa, dtype, classes):
    z, labels, t, g = cases(classes, np.random.default_rng(classes), dtype)
    z[:, 0], t[:, 0], labels[:] = -np.inf, 0, classes - 1
    loss, dz = softmax_ce(isa, z, probs=t, g=g)
    expected_loss, expected_dz = softmax_reference(z, t, g)
    np.testing.assert_allclose(loss, expected_loss.astype(dtype), rtol=3e-6, atol=1e-6)
    assert (dz[:, 0] == 0).all() and np.isfinite(dz).all()
    loss, dz = softmax_ce(isa, z, labels=labels)
    rest_loss, rest_dz = softmax_reference(z[:, 1:], np.eye(classes)[labels][:, 1:], np.ones(len(z)))
    np.testing.assert_allclose(loss, rest_loss.astype(dtype), rtol=3e-6, atol=1e-6)
    loss, _ = softmax_ce(isa, z, labels=np.zeros(len(z), np.int32))
    assert (loss == np.inf).all()


@pytest.mark.skipif(len(FMA_SETS) < 2, reason="one instruction set with fused multiply-add")
@each_dtype
def test_softmax_ce_is_the_same_on_every_set_with_fma(dtype):
    for classes in CLASSES:
        z, labels, t, g = cases(classes, np.random.default_rng(classes), dtype)
        for given in ({"labels": labels}, {"probs": t}):
            results = [softmax_ce(isa, z, g=g, **given) for isa in FMA_SETS]
            for loss, dz in results[1:]:
                assert same_bits(loss, results[0][0]) and same_bits(dz, results[0][1])
