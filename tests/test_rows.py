"""Instructions that go by row numbers: gather, scatter_add, first and row_update, compared with NumPy."""

import hashlib
import itertools
import os

import numpy as np
import pytest

import test_program
from backprop import _core
from test_determinism import CURRENT, WITH_FMA, in_child
from test_program import COL, DTYPES, FULL, NONE, ROW, SCALAR, Words, numbers

COUNTS = (0, 1, 7, 31, 64, 1000)
WIDTHS = (1, 2, 7, 8, 31, 100)
PERS = (1, 3, 8)
LIMIT = 40
PADDING = 5


def integers(shape, seed=0, low=-9, high=10, dtype=np.float32):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def rounding(shape, seed, dtype):
    return numbers(shape, dtype, seed)


class Lookup:
    """Row numbers ids[rows, per] of a table [limit, width], and what the instructions should do with them."""

    def __init__(self, rows, width, per=1, padding=None, weighted=False, mean=False, dtype=np.float32, limit=LIMIT, ids=None,
                 make=integers):
        self.rows, self.width, self.per, self.padding, self.mean, self.limit = rows, width, per, padding, mean, limit
        self.dtype = np.dtype(dtype)
        self.ids = integers((rows, per), 1, 0, limit, np.int32) if ids is None else np.asarray(ids, np.int32).reshape(rows, per)
        if padding == -1 and ids is None:
            self.ids[self.ids == PADDING] = -1
        self.table = make((limit, width), 2, dtype=dtype)
        self.src = make((rows, width), 3, dtype=dtype)
        self.weights = make((rows, per), 4, dtype=dtype) if weighted else None
        self.counts = self.ids != padding if padding is not None else np.ones(self.ids.shape, bool)
        self.divisors = np.maximum(self.counts.sum(1), 1).astype(dtype) if mean else np.ones(rows, dtype)

    def coefficients(self):
        one = np.ones(self.ids.shape, self.dtype) if self.weights is None else self.weights
        return one / self.divisors[:, None]

    def gathered(self):
        out = np.zeros((self.rows, self.width), self.dtype)
        for j in range(self.per):
            term = self.table[np.where(self.counts[:, j], self.ids[:, j], 0)]
            out += np.where(self.counts[:, j, None], term if self.weights is None else term * self.weights[:, j, None], 0)
        return out / self.divisors[:, None]

    def scattered(self):
        out, c = np.zeros((self.limit, self.width), self.dtype), self.coefficients()
        i, j = np.nonzero(self.counts)
        np.add.at(out, self.ids[i, j], c[i, j, None] * self.src[i])
        return out

    def touched(self):
        return np.unique(self.ids[self.counts])

    def program(self, by_rows=False):
        """The program and its spaces: table, src, ids, weights (ld of the table: width + 1)."""
        w = Words(self.dtype, capacity=self.rows if by_rows else 1)
        n = -self.per if by_rows else self.rows * self.per
        self.at = {"table": w.space(self.limit * (self.width + 1), True), "src": w.space(self.rows * self.width),
                   "ids": w.space(self.ids.size, dtype=np.int32), "weights": w.space(self.ids.size)}
        self.sizes = [n, self.width, self.limit, self.per, int(self.mean), -2 if self.padding is None else self.padding]
        self.of_weights = NONE if self.weights is None else [self.at["weights"], 0, 1]
        return w

    def arrays(self):
        whole = np.full((self.limit, self.width + 1), np.nan, self.dtype)
        whole[:, :-1] = self.table
        weights = np.zeros(self.ids.shape, self.dtype) if self.weights is None else self.weights
        return [whole, self.src, self.ids, weights]

    def gather(self, threads=1, by_rows=False):
        w, out = self.program(by_rows), np.full((self.rows, self.width + 2), -7, self.dtype)
        s = w.space(out.size, True)
        w.add("gather", *self.sizes, [self.at["table"], 0, self.width + 1], [self.at["ids"], 0, 1], self.of_weights,
              [s, 0, self.width + 2])
        assert w.run(*self.arrays(), out, threads=threads)[0] == 0
        assert (out[:, self.width:] == -7).all()
        return out[:, :self.width].copy()

    def scatter(self, threads=1, by_rows=False):
        w, out = self.program(by_rows), np.full((self.limit, self.width + 1), np.nan, self.dtype)
        s = w.space(out.size, True)
        w.add("scatter_add", *self.sizes, [self.at["src"], 0, self.width], [self.at["ids"], 0, 1], self.of_weights,
              [s, 0, self.width + 1])
        assert w.run(*self.arrays(), out, threads=threads)[0] == 0
        assert np.isnan(out[:, self.width:]).all()
        return out[:, :self.width].copy()

    def update_words(self, tables, loads, ops, stores, block=4, by_rows=False, extra=()):
        """A row_update; tables: (space, reads, writes), all with ld width + 1; FULL loads and stores by the number of a table
        (-1: the gradient)."""
        w = self.program(by_rows)
        spaces = {name: w.space(size, writable) for name, size, writable in extra}
        own, size = len(w.spaces), block * self.width
        place = {-1: 0, **{t: (t + 1) * size for t in range(len(tables))}}
        index = w.map([(own, place[load], self.width, FULL) if isinstance(load, int) else (spaces[load[0]], load[1], 0, load[2])
                       for load in loads], ops, [(slot, own, place[t], self.width, 1) for slot, t in stores])
        words = []
        for t, (name, reads, writes) in enumerate(tables):
            words += [self.at.get(name, spaces.get(name)), 0, self.width + 1, place[t], reads, writes]
        w.add("row_update", *self.sizes, [self.at["src"], 0, self.width], [self.at["ids"], 0, 1], self.of_weights, block,
              (len(tables) + 1) * size * self.dtype.itemsize, 0, len(tables), *words, index)
        return w

    def sgd(self, threads=1, block=4, by_rows=False):
        """table -= 3 gradient, with rows of NaN where no id points."""
        w = self.update_words([("table", 1, 1)], [-1, 0, ("lr", 0, SCALAR)], [("mul", 0, 2), ("sub", 1, 3)], [(4, 0)], block,
                              by_rows, [("lr", 1, False)])
        arrays = self.arrays()
        arrays[0].view(np.uint8)[np.setdiff1d(np.arange(self.limit), self.touched())] = 0xFF  # NaN
        before = arrays[0].copy()
        assert w.run(*arrays, np.array([3], self.dtype), threads=threads)[0] == 0
        rest = np.setdiff1d(np.arange(self.limit), self.touched())
        assert arrays[0][rest].tobytes() == before[rest].tobytes()
        assert np.isnan(arrays[0][:, -1]).all()
        return arrays[0][self.touched(), :-1].copy()


OPTIONS = [(padding, weighted, mean) for padding in (None, PADDING, -1) for weighted in (False, True) for mean in (False, True)]


def check_sweep(dtype):
    """All sizes, each with two of the twelve choices: small integers, so that sums are exact in any order."""
    for k, (n, width, per) in enumerate(itertools.product(COUNTS, WIDTHS, PERS)):
        for padding, weighted, mean in (OPTIONS[(5 * k + 7 * i) % 12] for i in range(2)):
            x = Lookup(-(-n // per), width, per, padding, weighted, mean, dtype)
            by_rows = k % 2 == 1
            np.testing.assert_array_equal(x.gather(by_rows=by_rows), x.gathered())
            got, want = x.scatter(by_rows=by_rows), x.scattered()
            if mean and per > 1:  # a third of something is rounded
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
            else:
                np.testing.assert_array_equal(got, want)
            rows = x.touched()
            np.testing.assert_array_equal(x.sgd(block=1 + k % 5, by_rows=by_rows), x.table[rows] - 3 * got[rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size(dtype):
    check_sweep(dtype)


@pytest.mark.parametrize("isa", [isa for isa in _core.isa_runnable() if isa != CURRENT])
def test_every_other_instruction_set(isa):
    code = "import numpy as np, test_rows as t; t.check_sweep(np.float32); t.check_sweep(np.float64); print(t.digest())"
    (made,) = in_child(code, BACKPROP_ISA=isa)
    if isa in WITH_FMA and CURRENT in WITH_FMA:
        assert made == digest()


def digest(threads=1):
    """Numbers that round: every option, so many rows that threads share them."""
    made = hashlib.sha256()
    for dtype, (padding, weighted, mean), per in itertools.product(DTYPES, OPTIONS, (1, 5)):
        x = Lookup(1200 // per, 90, per, padding, weighted, mean, dtype, limit=300, make=rounding)
        scattered, updated = x.scatter(threads), x.sgd(threads, block=7)
        for part in (x.gather(threads), scattered, updated):
            made.update(part.tobytes())
        rows = x.touched()
        np.testing.assert_array_equal(updated, x.table[rows] - np.asarray(3, dtype) * scattered[rows])  # the same bits
    return made.hexdigest()


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(threads):
    assert digest(threads) == digest()


@pytest.mark.parametrize("ids", [np.zeros(600), np.arange(600), np.arange(600)[::-1] // 2, np.arange(600) % 7],
                         ids=["same", "all", "pairs", "seven"])
@pytest.mark.parametrize("threads", [1, 3])
def test_duplicates(ids, threads):
    for block in (1, 64, 1000):
        x = Lookup(600, 50, ids=ids, limit=600)
        np.testing.assert_array_equal(x.sgd(threads, block), x.table[x.touched()] - 3 * x.scattered()[x.touched()])


def test_gather_copies_bits():
    """Without padding, weights and bags a row is a copy, whatever it holds: -0 and the payload of a NaN too."""
    x = Lookup(64, 9)
    x.table.view(np.uint32)[::2] = 0xFFC12345
    x.table[1::2] = -0.0
    assert x.gather().tobytes() == x.table[x.ids[:, 0]].tobytes()


def test_padding_hides_what_is_not_a_number():
    x = Lookup(50, 12, 4, PADDING, weighted=True)
    x.table[PADDING] = np.nan
    x.weights[~x.counts] = np.inf
    assert not x.counts.all() and np.isfinite(x.gather()).all() and np.isfinite(x.scatter()).all() and np.isfinite(x.sgd()).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam(dtype):
    """Three tables, one number for all and one for each column; the second moment is read and written, as is the first."""
    x = Lookup(300, 33, 3, -1, dtype=dtype, make=rounding)
    k = np.array([0.9, 0.1, 0.99, 0.01, 1e-3, 1e-6], dtype)
    scale = np.abs(numbers(33, dtype, 7))
    # slots: 0 g, 1 p, 2 m, 3 v, 4 b1, 5 1-b1, 6 b2, 7 1-b2, 8 lr, 9 eps, 10 scale
    ops = [("mul", 2, 4), ("mul", 0, 5), ("add", 11, 12), ("mul", 0, 0), ("mul", 3, 6), ("mul", 14, 7), ("add", 15, 16),
           ("sqrt", 17), ("add", 18, 9), ("div", 13, 19), ("mul", 20, 8), ("mul", 21, 10), ("sub", 1, 22)]
    size = x.limit * 34
    w = x.update_words([("table", 1, 1), ("m", 1, 1), ("v", 1, 1)],
                       [-1, 0, 1, 2, *(("k", i, SCALAR) for i in range(6)), ("scale", 0, ROW)], ops,
                       [(13, 1), (17, 2), (23, 0)], 16,
                       extra=[("m", size, True), ("v", size, True), ("k", 6, False), ("scale", 33, False)])
    arrays = x.arrays()
    m, v = numbers((x.limit, 34), dtype, 8), np.abs(numbers((x.limit, 34), dtype, 9))
    g, rows = x.scatter(), x.touched()
    assert 0 < len(rows) < x.limit
    before = [a.copy() for a in (arrays[0], m, v)]
    assert w.run(*arrays, m, v, k, scale, threads=2)[0] == 0
    want = [a.copy() for a in before]
    p1, m1, v1, g = *(a[rows, :33] for a in before), g[rows]
    m1, v1 = m1 * k[0] + g * k[1], v1 * k[2] + g * g * k[3]
    for a, new in zip(want, [p1 - m1 / (np.sqrt(v1) + k[5]) * k[4] * scale, m1, v1]):
        a[rows, :33] = new
    for got, should in zip((arrays[0], m, v), want):
        np.testing.assert_array_equal(got, should)


def test_tables_that_are_only_read_or_only_written():
    x = Lookup(20, 6)
    w = x.update_words([("table", 1, 0), ("made", 0, 1)], [-1, 0], [("add", 0, 1)], [(2, 1)], extra=[("made", LIMIT * 7, True)])
    arrays, made = x.arrays(), np.full((LIMIT, 7), 8, np.float32)
    before = arrays[0].copy()
    assert w.run(*arrays, made)[0] == 0
    np.testing.assert_array_equal(arrays[0], before)
    want, rows = np.full((LIMIT, 7), 8, np.float32), x.touched()
    want[rows, :6] = x.table[rows] + x.scattered()[rows]
    np.testing.assert_array_equal(made, want)


@pytest.mark.parametrize("padding", [-2, -1, 3, 2**31 - 1])
@pytest.mark.parametrize("n", [0, 1, 2, 31, 1000])
def test_first(n, padding):
    full = np.random.default_rng(0).integers(-(2**31), 2**31, n)
    for ids in (full, full % 5, full % 50 - 25, np.arange(n) * 2**20, np.zeros(n), np.where(full % 2, 2**31 - 1, -(2**31)),
                -(np.arange(n) % 3)):
        ids, out = (ids % 2**32).astype(np.uint32).view(np.int32), np.full(n, 99, np.int32)
        w = Words(capacity=n, arena=4 * n)
        s = [w.space(-1, dtype=np.int32), w.space(-1, True, np.int32)]
        w.add("first", -1, padding, [s[0], 0, 1], [s[1], 0, 1])
        w.run(ids, out)
        seen = {}
        want = [-1 if i == padding != -2 else seen.setdefault(i, k) for k, i in enumerate(ids.tolist())]
        np.testing.assert_array_equal(out, np.array(want, np.int32))


def test_coalesced_rows():
    """Row numbers that a program makes: first, then sums at the first places, as many rows as ids."""
    n, width = 200, 10
    ids, src, out = integers(n, 1, -1, 30, np.int32), integers((n, width), 2), np.full((n, width), np.nan, np.float32)
    w = Words(arena=4 * n)
    s = [w.space(n, dtype=np.int32), w.space(src.size), w.space(out.size, True)]
    w.add("first", n, -1, [s[0], 0, 1], [0, 0, 1])
    w.add("scatter_add", n, width, n, 1, 0, -1, [s[1], 0, width], [0, 0, 1], NONE, [s[2], 0, width])
    assert w.run(ids, src, out)[0] == 0
    want, first = np.zeros((n, width), np.float32), {}
    for k, i in enumerate(ids.tolist()):
        if i != -1:
            want[first.setdefault(i, k)] += src[k]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("per", [1, 3])
def test_gather_in_row_blocks(per):
    rows, width = 700, 9
    x = Lookup(rows, width, per, PADDING, weighted=True, mean=True)
    made = []
    for blocks in (False, True):
        w, out = x.program(by_rows=True), np.zeros((rows, width), np.float32)
        s = w.space(out.size, True)
        if blocks:
            w.add("row_blocks", 2, 256 * width * 4)
        w.add("gather", *x.sizes, [1, 0, width + 1], [3, 0, 1], x.of_weights, [len(w.spaces) if blocks else s, 0, width])
        if blocks:
            w.add("map", -1, width, w.map([(len(w.spaces), 0, width, FULL)], [("copy", 0)], [(1, s, 0, width, 1)]))
        for n in (rows, 256, 300, 1):
            out[:] = 0
            assert w.run(*x.arrays(), out, rows=n, threads=2)[0] == 0
            made.append(out.copy())
            np.testing.assert_array_equal(out[:n], x.gathered()[:n])
    assert [a.tobytes() for a in made[:4]] == [a.tobytes() for a in made[4:]]


# ------------------------------------------------------------------ what must not happen


@pytest.mark.parametrize("bad,padding", [(-1, None), (-1, 3), (LIMIT, None), (-2, None), (-2, -1), (2**31 - 1, 2),
                                         (-(2**31), None)])
@pytest.mark.parametrize("instruction", ["gather", "scatter_add", "row_update"])
def test_out_of_range_leaves_everything_as_it_was(instruction, bad, padding):
    ids = integers(30, 1, 0, LIMIT, np.int32)
    ids[[17, 20]] = bad
    x = Lookup(10, 4, 3, padding, ids=ids)
    if instruction == "row_update":
        w = x.update_words([("table", 1, 1)], [-1, 0], [("sub", 1, 0)], [(2, 0)])
    else:
        w = x.program()
        first, last = [x.at["table"], 0, 5], [w.space(40, True), 0, 4]
        if instruction == "scatter_add":
            first, last = [x.at["src"], 0, 4], first
        w.add(instruction, *x.sizes, first, [x.at["ids"], 0, 1], NONE, last)
    arrays = [*x.arrays(), np.full((10, 4), 8, np.float32)][: len(w.spaces) - 1]
    before = [a.tobytes() for a in arrays]
    assert w.run(*arrays) == (3, 0, bad, LIMIT)
    assert [a.tobytes() for a in arrays] == before


def test_a_run_allocates_nothing():
    x = Lookup(900, 60, weighted=True)
    w = x.update_words([("table", 1, 1)], [-1, 0], [("sub", 1, 0)], [(2, 0)], by_rows=True)
    b = w.bind(*x.arrays())
    b.run(rows=900, threads=2)
    before = _core.allocations()
    for rows in (900, 1, 0, 300):
        assert b.run(rows=rows, threads=2)[0] == 0
    assert _core.allocations() == before


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts resident pages as Linux does")
def test_a_large_table_is_not_walked():
    """A gibibyte that nobody has written to: what a step touches becomes resident, and that is its rows alone."""
    limit, width = 2**26, 3
    x = Lookup(20, width, ids=np.random.default_rng(0).integers(0, limit, 20), limit=1)
    others = x.arrays()[1:]
    x.limit = limit
    w = x.update_words([("table", 1, 1)], [-1, 0], [("sub", 1, 0)], [(2, 0)])
    table = np.zeros((limit, width + 1), np.float32)
    b = w.bind(table, *others)

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    assert b.run(rows=1)[0] == 0
    assert resident() - before < 2**27  # twenty huge pages and the context
    rows = np.unique(x.ids)
    np.testing.assert_array_equal(table[rows, :width], -np.stack([x.src[x.ids[:, 0] == i].sum(0) for i in rows]))


def test_reals_are_no_row_numbers():
    w = update()
    with pytest.raises(TypeError):
        w.bind(np.zeros(12, np.float32), np.zeros(6, np.float32))


def update(**changes):
    """The words of a row_update over 10 rows of 4, in blocks of 2, that is right but for the changes."""
    f = {"n": 6, "width": 4, "limit": 10, "per": 2, "mean": 0, "padding": -2, "src": [1, 0, 4], "ids": [2, 0, 1],
         "weights": [3, 0, 1],
         "block_rows": 2, "bytes": 96, "gradient": 0, "tables": [[4, 0, 4, 8, 1, 1], [5, 0, 4, 16, 1, 1]], "loads": None,
         "ops": [("sub", 1, 0)], "stores": None, "writable": True, **changes}
    w = Words(np.float32, capacity=4, arena=64)
    w.space(12)
    w.space(6, dtype=np.int32)
    w.space(6)
    w.space(40, f["writable"])
    w.space(40, True)
    loads = f["loads"] or [(6, 0, 4, FULL), (6, 8, 4, FULL)]
    stores = f["stores"] or [(len(loads) + len(f["ops"]) - 1, 6, 8, 4, 1)]
    index = w.map(loads, f["ops"], stores)
    fields = ("n", "width", "limit", "per", "mean", "padding", "src", "ids", "weights", "block_rows", "bytes", "gradient")
    w.add("row_update", *(f[k] for k in fields), len(f["tables"]), *sum(f["tables"], []), index)
    return w


def test_the_words_that_the_malformed_ones_start_from_are_right():
    _core.Program(update().array())


P, G = (6, 8, 4, FULL), (6, 0, 4, FULL)


@pytest.mark.parametrize("changes,message", [
    ({"per": 4}, "n: 6 is not a multiple of per 4"),
    ({"n": -3}, "n: -3 is not a multiple of per 2"),
    ({"per": 0}, "per: 0"),
    ({"mean": 2}, "mean: 2"),
    ({"padding": -3}, "padding: -3"),
    ({"padding": 2**31}, "padding: 2147483648"),
    ({"n": 2**30}, "n: 1073741824 are too many|ids: elements"),
    ({"src": [1, 1, 4]}, "src: elements 1 ... 13 of space 1, which has 12"),
    ({"ids": [2, 1, 1]}, "ids: elements 1 ... 7"),
    ({"weights": [3, 1, 1]}, "weights: elements 1 ... 7"),
    ({"weights": [6, 0, 1]}, "weights: 6 is not in -1 ... 5"),
    ({"weights": NONE}, None),
    ({"block_rows": 0}, "block_rows: 0"),
    ({"block_rows": 3}, "gradient|offset of table"),
    ({"block_rows": 2**40}, "gradient: elements 0 ... 4398046511104 of 24"),
    ({"bytes": 95}, "offset of table: elements 16 ... 24 of 23"),
    ({"bytes": -1}, "bytes: -1"),
    ({"gradient": 17}, "gradient: elements 17 ... 25 of 24"),
    ({"gradient": 4}, "overlaps the gradient"),
    ({"tables": []}, "number of tables: 0"),
    ({"tables": [[4, 0, 4, 8, 1, 1], [5, 0, 4, 12, 1, 1]]}, "overlaps that of table 0"),
    ({"tables": [[4, 1, 4, 8, 1, 1]]}, "table: elements 1 ... 41"),
    ({"tables": [[4, 0, 3, 8, 1, 1]]}, "table: ld 3 is less than 4"),
    ({"tables": [[-1, 0, 4, 8, 1, 1]]}, "table: has no space"),
    ({"tables": [[4, 0, 4, 8, 2, 1]]}, "reads: 2"),
    ({"tables": [[4, 0, 4, 8, 1, -1]]}, "writes: -1"),
    ({"tables": [[4, 0, 4, 8, 1, 1], [4, 0, 4, 16, 1, 0]]}, "table: overlaps table 0"),
    ({"tables": [[4, 0, 4, 8, 1, 0], [4, 0, 4, 16, 1, 0]]}, None),
    ({"src": [4, 0, 4]}, "table: overlaps src or weights"),
    ({"weights": [4, 34, 1]}, "table: overlaps src or weights"),
    ({"writable": False}, "space 4 is not writable"),
    ({"loads": [G, (6, 16, 4, COL)]}, "load 1 of its map"),
    ({"loads": [G, (3, 0, 4, COL)]}, "load 1 of its map"),
    ({"loads": [G, (1, 0, 4, FULL)]}, "load 1 of its map: FULL ones lie in space 6"),
    ({"loads": [G, (6, 0, 4, ROW)]}, "load 1 of its map"),
    ({"loads": [G, (3, 0, 4, ROW)]}, None),
    ({"loads": [G, (6, 17, 4, FULL)]}, "load 1 of its map: elements 17 ... 25"),
    ({"loads": [G, P], "ops": [("random", 1)]}, "random numbers"),
    ({"stores": [(2, 5, 0, 4, 1)]}, "store 0 of its map"),
    ({"stores": [(2, 6, 20, 4, 1)]}, "store 0 of its map: elements 20 ... 28"),
])
def test_malformed_row_update(changes, message):
    if message is None:
        _core.Program(update(**{"tables": [[4, 0, 4, 8, 1, 1]], **changes}).array())
        return
    with pytest.raises(ValueError, match=message):
        _core.Program(update(**changes).array())


def every_row_instruction():
    w = Words(np.float64, capacity=6, arena=48)
    x, ids, weights, table, moment = w.space(-4), w.space(-2, dtype=np.int32), w.space(-2), w.space(20, True), w.space(20, True)
    out, places, one = w.space(-4, True), w.space(-2, True, np.int32), w.space(1)
    own = len(w.spaces)
    w.add("gather", -2, 4, 5, 2, 1, 3, [table, 0, 4], [ids, 0, 1], [weights, 0, 1], [out, 0, 4])
    w.add("scatter_add", -2, 4, 5, 2, 1, -1, [x, 0, 4], [ids, 0, 1], NONE, [moment, 0, 4])
    w.add("first", -2, -2, [ids, 0, 1], [places, 0, 1])
    w.add("row_update", -2, 4, 5, 2, 0, -2, [x, 0, 4], [ids, 0, 1], [weights, 0, 1], 2, 200, 0, 2, [table, 0, 4, 8, 1, 1],
          [moment, 0, 4, 16, 1, 1], w.map([(own, 0, 4, FULL), (own, 8, 4, FULL), (own, 16, 4, FULL), (one, 0, 0, SCALAR)],
                                          [("mul", 0, 3), ("add", 2, 4), ("sub", 1, 5)], [(5, own, 16, 4, 1), (6, own, 8, 4, 1)]))
    return w


def test_flipped_words(shared):
    test_program.test_flipped_words_are_refused_or_stay_in_bounds(every_row_instruction(), shared)


def test_row_update_is_not_for_row_blocks():
    w = every_row_instruction()
    w.instructions.insert(0, [3, test_program.INSTR["row_blocks"], 4, 400])
    with pytest.raises(ValueError, match="not row by row"):
        _core.Program(w.array())
