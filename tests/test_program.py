"""The executor of programs: words are written by hand here, and every instruction is compared with NumPy."""

import signal
import struct
import time

import numpy as np
import pytest
from chains import NUMBERS, step_by_step

import backprop as bp
from backprop import _core

MAP = {name: i for i, (name, _, _) in enumerate(_core.MAP_OPS)}
REDUCE = {name: i for i, name in enumerate(_core.REDUCE_OPS)}
INSTR = {name: i for i, name in enumerate(_core.INSTRUCTIONS)}
FULL, ROW, COL, SCALAR = range(4)
NONE = [-1, 0, 0]
DTYPES = [np.float32, np.float64]
SHAPES = [(1, 1), (3, 5), (7, 1030), (1000, 3), (0, 4), (64, 96), (5, 200)]


class Words:
    """Collects the words of a program. Operands are (space, offset, ld) as backprop.h has them."""

    def __init__(self, dtype=np.float32, capacity=1, arena=0):
        self.dtype, self.capacity, self.arena = np.dtype(dtype), capacity, arena
        self.spaces, self.maps, self.instructions = [(0, 0, 1)], [], []

    def space(self, elements, writable=False, dtype=None):
        self.spaces.append((np.dtype(dtype or self.dtype).itemsize, elements, int(writable)))
        return len(self.spaces) - 1

    def map(self, loads, ops, stores):
        """loads: (space, offset, ld, kind); ops: (name, *slots) or ("random", node); stores: (slot, space, offset, ld, direct)."""
        words = [len(loads)]
        for load in loads:
            words += load
        words.append(len(ops))
        for name, *slots in ops:
            node = slots.pop() if name == "random" else 0
            words += [MAP[name], *slots, *[-1] * (3 - len(slots)), node]
        words.append(len(stores))
        for store in stores:
            words += store
        self.maps.append(words)
        return len(self.maps) - 1

    def add(self, name, *words):
        flat = []
        for w in words:
            flat += w if isinstance(w, (list, tuple)) else [w]
        self.instructions.append([1 + len(flat), INSTR[name], *flat])

    def array(self):
        words = [0x62703031, self.dtype.itemsize, self.capacity, self.arena, len(self.spaces)]
        words += [w for s in self.spaces for w in s]
        for part in (self.maps, self.instructions):
            words += [len(part), *[w for p in part for w in p]]
        return np.array(words, np.int64)

    def bind(self, *arrays):
        b = _core.Binding(_core.Program(self.array()))
        for i, a in enumerate(arrays):
            b.set(i + 1, a)
        return b

    def run(self, *arrays, rows=None, **kwargs):
        """The status tuple of a run whose spaces 1, 2 ... are these arrays; the arena holds rubbish."""
        b = self.bind(*arrays)
        b.arena()[:] = b"\xff" * self.arena
        return b.run(rows=self.capacity if rows is None else rows, **kwargs)


def numbers(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def bits(value):
    return struct.unpack("<q", struct.pack("<d", value))[0]


def strided(shape, pad, dtype, seed=0):
    """A matrix and the buffer [rows, cols + pad] that it lies in."""
    whole = numbers((shape[0], shape[1] + pad), dtype, seed)
    return whole, whole[:, : shape[1]]


# ------------------------------------------------------------------ elementwise programs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("pads", [(0, 0), (2, 0), (0, 3), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_map_operand_kinds(shape, pads, direct, dtype):
    rows, cols = shape
    a_all, a = strided(shape, pads[0], dtype)
    out_all, out = strided(shape, pads[1], dtype, 9)
    row, col, one = numbers(cols, dtype, 1), numbers(rows, dtype, 2), numbers(2, dtype, 3)
    rest = out_all[:, cols:].copy()
    w = Words(dtype)
    sa, sr, sc, s1, so = (w.space(x.size, x is out_all) for x in (a_all, row, col, one, out_all))
    m = w.map(
        [(sa, 0, cols + pads[0], FULL), (sr, 0, 0, ROW), (sc, 0, 1, COL), (s1, 0, 0, SCALAR), (s1, 1, 0, SCALAR)],
        [("mul", 3, 4), ("add", 0, 1), ("mul", 6, 2), ("sub", 7, 5), ("max", 8, 2), ("add", 2, 3), ("sub", 9, 10)],
        [(11, so, 0, cols + pads[1], direct)],
    )
    w.add("map", rows, cols, m)
    assert w.run(a_all, row, col, one, out_all)[0] == 0
    want = np.maximum((a + row) * col[:, None] - one[0] * one[1], col[:, None]) - (col[:, None] + one[0])
    assert want.dtype == dtype
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(out_all[:, cols:], rest)


def chain_operations(steps, inputs):
    """The steps of a chain as operations of a map whose first slots are the inputs."""
    return [(op, *(i if i >= 0 else inputs - 1 - i for i in operands)) for op, operands, _ in steps]


ADAM = chain_operations(_core.CHAINS[0][3], 10)  # g, m, v, p are slots 0 ... 3, six scalars 4 ... 9


def adam_steps(g, m, v, p, s):
    return step_by_step(_core.isa_current(), _core.CHAINS[0][3], [g, m, v, p], s)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chain", _core.CHAINS, ids=[row[0] for row in _core.CHAINS])
def test_a_chain_is_its_operations(chain, shape, pad, direct, dtype):
    _, vectors, numbers_, steps = chain
    rows, cols = shape
    kept = [i for i, step in enumerate(steps) if step[2]]
    wholes = [np.abs(strided(shape, pad, dtype, i)[0]) for i in range(vectors)]
    inner = [np.ascontiguousarray(a[:, :cols]).reshape(-1) for a in wholes]
    s = np.array(NUMBERS, dtype)[:numbers_]
    want = step_by_step(_core.isa_current(), steps, inner, s)
    w = Words(dtype)
    first = vectors - len(kept)  # results go to the places of the last vectors
    spaces = [w.space(a.size, i >= first) for i, a in enumerate(wholes)]
    scalars = w.space(max(numbers_, 1))
    loads = [(a, 0, cols + pad, FULL) for a in spaces] + [(scalars, i, 0, SCALAR) for i in range(numbers_)]
    stores = [(len(loads) + i, to, 0, cols + pad, direct) for i, to in zip(kept, spaces[first:])]
    w.add("map", rows, cols, w.map(loads, chain_operations(steps, len(loads)), stores))
    assert _core.Program(w.array()).chains == 1
    assert w.run(*wholes, s if numbers_ else np.zeros(1, dtype))[0] == 0
    for got, i in zip(wholes[first:], kept):
        np.testing.assert_array_equal(got[:, :cols].reshape(-1), want[i])


@pytest.mark.parametrize("rows, cols", [(3, 8), (40, 5), (3, 2000)])
def test_a_chain_with_a_row(rows, cols):
    """A bias is repeated for every row of a block, or a piece of a row has its piece."""
    x, bias, zero = numbers((rows, cols)), numbers(cols, seed=1), np.zeros(1, np.float32)
    out = np.empty_like(x)
    w = Words()
    sx, sb, s0, so = w.space(x.size), w.space(cols), w.space(1), w.space(x.size, True)
    loads = [(sx, 0, cols, FULL), (sb, 0, 0, ROW), (s0, 0, 0, SCALAR)]
    w.add("map", rows, cols, w.map(loads, [("add", 0, 1), ("max", 3, 2)], [(4, so, 0, cols, 1)]))
    assert _core.Program(w.array()).chains == 1
    w.run(x, bias, zero, out)
    np.testing.assert_array_equal(out, np.maximum(x + bias, 0))


@pytest.mark.parametrize("change", ["a step on the way is stored", "another vector", "a column", "another order"])
def test_what_is_not_quite_the_chain_of_adam(change):
    n, cols = 40, 5
    arrays = [np.abs(numbers(n, seed=i)) for i in range(4)]
    s = np.array(NUMBERS[:6], np.float32)
    more = np.zeros(n, np.float32)
    ops = list(ADAM)
    if change == "another vector":
        ops[2] = ("mul", 0, 1)
    if change == "another order":
        ops[1] = ("fma", 5, 1, 10)
    if change == "a column":
        arrays[1] = np.repeat(arrays[1][::cols], cols)
    column = np.ascontiguousarray(arrays[1][::cols])
    w = Words()
    spaces = [w.space(n) for _ in range(4)]
    numbers_, out, extra, col = w.space(6), w.space(n, True), w.space(n, True), w.space(n // cols)
    loads = [(a, 0, cols, FULL) for a in spaces] + [(numbers_, i, 0, SCALAR) for i in range(6)]
    if change == "a column":
        loads[1] = (col, 0, 1, COL)
    w.add("map", n // cols, cols, w.map(loads, ops, [(18, out, 0, cols, 1), (13, extra, 0, cols, 1)][:1 + (change[-6:] == "stored")]))
    assert _core.Program(w.array()).chains == 0
    result = np.zeros(n, np.float32)
    w.run(*arrays, s, result, more, column)
    steps = adam_steps(*arrays, s)
    if change == "another vector":
        t, v = arrays[0] * arrays[1] * s[2], np.empty(n, np.float32)
        _core.kernel_map(_core.isa_current(), "fma", v, arrays[2], s[3:4], t, variant=2)
        _core.kernel_map(_core.isa_current(), "fma", v, steps[1] / (np.sqrt(v) + s[4]), s[5:6], arrays[3], variant=2)
        steps[8] = v
    np.testing.assert_array_equal(result, steps[8])
    if "stored" in change:
        np.testing.assert_array_equal(more, steps[3])


@pytest.mark.parametrize("kind", [FULL, ROW, COL, SCALAR])
@pytest.mark.parametrize("shape", SHAPES)
def test_map_stores_a_load(shape, kind):
    rows, cols = shape
    size = {FULL: (rows, cols), ROW: (1, cols), COL: (rows, 1), SCALAR: (1, 1)}[kind]
    a, out = numbers(size), np.zeros(shape, np.float32)
    w = Words()
    m = w.map([(w.space(a.size), 0, cols if kind == FULL else 1, kind)], [], [(0, w.space(out.size, True), 0, cols, 1)])
    w.add("map", rows, cols, m)
    w.run(a, out)
    np.testing.assert_array_equal(out, np.broadcast_to(a, shape))


def test_map_swap_and_several_stores_of_a_slot():
    n = 3000
    a, b, c, d = (numbers(n, seed=i) for i in range(4))
    a0, b0 = a.copy(), b.copy()
    w = Words()
    s = [w.space(n, True) for _ in range(4)]
    w.add("map", 1, n, w.map([(s[0], 0, n, FULL), (s[1], 0, n, FULL)], [("add", 0, 1)],
                             [(0, s[1], 0, n, 0), (1, s[0], 0, n, 0), (2, s[2], 0, n, 1), (2, s[3], 0, n, 1)]))
    w.run(a, b, c, d)
    np.testing.assert_array_equal(a, b0)
    np.testing.assert_array_equal(b, a0)
    np.testing.assert_array_equal(c, a0 + b0)
    np.testing.assert_array_equal(d, c)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 300), (700, 10)])
def test_map_in_place_momentum(shape):
    """Three FULL operands that are one long vector, two of them updated in place."""
    rows, cols = shape
    p, v, g = (numbers(shape, seed=i) for i in range(3))
    lr, mu = np.float32(0.1), np.float32(0.9)
    v1 = v * mu + g
    p1 = p - v1 * lr
    w = Words()
    s = [w.space(rows * cols, True), w.space(rows * cols, True), w.space(rows * cols), w.space(2)]
    w.add("map", rows, cols, w.map(
        [(s[0], 0, cols, FULL), (s[1], 0, cols, FULL), (s[2], 0, cols, FULL), (s[3], 0, 0, SCALAR), (s[3], 1, 0, SCALAR)],
        [("mul", 1, 4), ("add", 5, 2), ("mul", 6, 3), ("sub", 0, 7)], [(6, s[1], 0, cols, 1), (8, s[0], 0, cols, 1)]))
    w.run(p, v, g, np.array([lr, mu]))
    np.testing.assert_array_equal(v, v1)
    np.testing.assert_array_equal(p, p1)


def test_map_scalars_alone_and_many_live_values():
    """A chain that keeps twenty values alive needs twenty registers; numbers are computed once."""
    shape = (9, 150)
    a, one, out = numbers(shape), np.array([2, 3], np.float32), np.zeros(shape, np.float32)
    total = np.zeros(2, np.float32)
    w = Words()
    s = [w.space(a.size), w.space(2), w.space(a.size, True), w.space(2, True)]
    ops = [("mul", 1, 2)] + [("add", 0 if i == 0 else 3 + i, 3) for i in range(20)]
    first = 4  # slots 4 ... 23 are a + 6, a + 12 ...
    ops += [("add", first + 19, first + 18)] + [("add", 24 + i, first + 17 - i) for i in range(18)]
    w.add("map", *shape, w.map([(s[0], 0, 150, FULL), (s[1], 0, 0, SCALAR), (s[1], 1, 0, SCALAR)], ops,
                               [(len(ops) + 2, s[2], 0, 150, 1)]))
    w.add("map", 1, 1, w.map([(s[1], 0, 0, SCALAR), (s[1], 1, 0, SCALAR)], [("mul", 0, 1)], [(2, s[3], 1, 1, 1)]))
    w.run(a, one, out, total)
    values, x = [], a
    for _ in range(20):
        x = x + np.float32(6)
        values.append(x)
    want = values[19] + values[18]
    for v in values[17::-1]:
        want = want + v
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(total, [0, 6])


def random_program(rows, cols, node):
    w = Words(capacity=rows)
    w.add("map", -1, cols, w.map([], [("random", node)], [(0, w.space(-cols, True), 0, cols, 1)]))
    return w


@pytest.mark.parametrize("cols", [1, 7, 64, 1500])
def test_map_random_depends_on_row_and_column_alone(cols, shared):
    rows = 60
    whole, again, other, part = (np.zeros((rows, cols), np.float32) for _ in range(4))
    w = random_program(rows, cols, 3)
    w.run(whole, seed=5, step=2)
    w.run(again, seed=5, step=2, threads=2)
    np.testing.assert_array_equal(whole, again)
    w.run(part, rows=25, seed=5, step=2)
    w.run(part[25:], rows=rows - 25, seed=5, step=2, row0=25)
    np.testing.assert_array_equal(whole, part)
    for program, kwargs in [(random_program(rows, cols, 4), {"seed": 5, "step": 2}), (w, {"seed": 6, "step": 2}),
                            (w, {"seed": 5, "step": 3})]:
        program.run(other, **kwargs)
        assert (other != whole).mean() > 0.9
    assert 0 <= whole.min() and whole.max() < 1


# ------------------------------------------------------------------ matrix products


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("m,n,k", [(1, 1, 1), (5, 7, 9), (64, 33, 300), (130, 520, 20), (4, 6, 0), (0, 6, 4)])
@pytest.mark.parametrize("place", ["kept", "arena", "output", "in place"])
def test_matmul_with_epilogue(m, n, k, trans, dtype, place):
    ta, tb = trans
    a, b = numbers((k, m) if ta else (m, k), dtype), numbers((n, k) if tb else (k, n), dtype, 1)
    bias, out, raw = numbers(n, dtype, 2), np.zeros((m, n), dtype), np.zeros((m, n), dtype)
    w = Words(dtype, arena=m * n * np.dtype(dtype).itemsize)
    s = [w.space(a.size), w.space(b.size), w.space(n), w.space(1), w.space(m * n, True), w.space(m * n, True)]
    to = 0 if place in ("arena", "in place") else s[4]
    # relu(z + bias) + z needs the product after its sum; "in place" does not, and may overwrite it
    ops = [("add", 0, 1), ("max", 3, 2)] + ([] if place == "in place" else [("add", 4, 0)])
    index = w.map([(-1, 0, 0, FULL), (s[2], 0, 0, ROW), (s[3], 0, 0, SCALAR)], ops, [(2 + len(ops), to, 0, n, 1)])
    w.add("matmul", m, n, k, ta, tb, 0, [s[0], 0, a.shape[1]], [s[1], 0, b.shape[1]],
          [s[5], 0, n] if place == "kept" else NONE, index)
    if to == 0:
        w.add("copy", 2, m, n, 0, 0, n, 1, s[4], 0, n, 1)
    w.run(a, b, bias, np.zeros(1, dtype), out, raw)
    z = (a.T if ta else a).astype(np.float64) @ (b.T if tb else b).astype(np.float64)
    want = np.maximum(z + bias, 0) + (0 if place == "in place" else z)
    scale = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, want, rtol=scale, atol=scale * 10)
    if place == "kept":
        np.testing.assert_allclose(raw, z, rtol=scale, atol=scale * 10)


def test_matmul_epilogue_reads_the_place_it_writes():
    """W -= lr X^T d, with W in the arena, where the raw product must not be made in W's place."""
    x, d, w0, out = numbers((20, 30)), numbers((20, 40), seed=1), numbers((30, 40), seed=2), np.zeros((30, 40), np.float32)
    w = Words(arena=4800)
    s = [w.space(600), w.space(800), w.space(1200), w.space(1200, True), w.space(1)]
    w.add("copy", 1, 1200, s[2], 0, 1, 0, 0, 1)
    w.add("matmul", 30, 40, 20, 1, 0, 0, [s[0], 0, 30], [s[1], 0, 40], NONE,
          w.map([(-1, 0, 0, FULL), (0, 0, 40, FULL), (s[4], 0, 0, SCALAR)], [("mul", 0, 2), ("sub", 1, 3)], [(4, 0, 0, 40, 1)]))
    w.add("copy", 1, 1200, 0, 0, 1, s[3], 0, 1)
    w.run(x, d, w0, out, np.array([0.5], np.float32))
    np.testing.assert_allclose(out, w0 - 0.5 * (x.T @ d), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ reductions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["sum", "max", "min"])
@pytest.mark.parametrize("epilogue", [False, True])
@pytest.mark.parametrize("outer,r,inner", [(1, 9, 1), (4, 300, 1), (1, 300, 40), (3, 7, 5), (1, 0, 4), (2, 0, 1), (3, 0, 2), (1, 5, 2000)])
def test_reduce(outer, r, inner, epilogue, kind, dtype):
    a = numbers((outer, r, inner), dtype)
    region = (1, outer) if inner == 1 else (outer, inner)
    out, raw, row = np.zeros(region, dtype), np.zeros(region, dtype), numbers(region[1], dtype, 1)
    w = Words(dtype)
    s = [w.space(a.size), w.space(row.size), w.space(out.size, True), w.space(out.size, True)]
    index = w.map([(-1, 0, 0, FULL), (s[1], 0, 0, ROW)], [("add", 0, 1)], [(2, s[2], 0, region[1], 1)])
    w.add("reduce", REDUCE[kind], outer, r, inner, [s[0], 0, 0], -1, NONE if epilogue else [s[3], 0, 0], index)
    w.run(a, row, out, raw)
    if r == 0:
        want = np.full((outer, inner), {"sum": 0, "max": -np.inf, "min": np.inf}[kind])
    else:
        want = getattr(a.astype(np.float64), kind)(axis=1)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, want.reshape(region) + row, rtol=tolerance, atol=tolerance * 10)
    if not epilogue:
        np.testing.assert_allclose(raw, want.reshape(region), rtol=tolerance, atol=tolerance * 10)


def test_reduce_over_rows_of_the_run():
    a, out = numbers((50, 6)), np.zeros(6, np.float32)
    w = Words(capacity=50)
    s, t = w.space(-6), w.space(6, True)
    w.add("reduce", REDUCE["sum"], 1, -1, 6, [s, 0, 6], -1, [t, 0, 6], -1)
    for rows in (50, 13, 1, 0):
        w.run(a, out, rows=rows)
        np.testing.assert_allclose(out, a[:rows].sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["sum", "max", "min"])
@pytest.mark.parametrize("shape,rows", [((9, 1), True), ((4, 300), True), ((70, 60), True), ((600, 33), True), ((3, 9000), True), ((1, 20481), True),
                                        ((9, 2), False), ((300, 40), False), ((5, 2000), False), ((64, 64), False), ((700, 1100), False),
                                        ((0, 4), False), ((2, 0), True)])
def test_a_map_before_a_reduction_makes_what_is_reduced(shape, rows, kind, dtype, shared):
    """The same bits as the map, its result in memory, and then the reduction; whether that is in memory now or not."""
    a, row, col = numbers(shape, dtype), numbers(shape[1], dtype, 1), numbers(shape[0], dtype, 2)
    results = shape[0] if rows else shape[1]
    dims = (shape[0], shape[1], 1) if rows else (1, *shape)
    ends = []
    for how in ("apart", "in memory", "not in memory"):
        half, made, out, total = np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(results, dtype), np.zeros(results, dtype)
        w = Words(dtype)
        sa, sr, sc, sh, sm, so, st = (w.space(x.size, i > 2) for i, x in enumerate((a, row, col, half, made, out, total)))
        ld = shape[1]
        stores = [(3, sh, 0, ld, 1), (5, -1, 0, 0, 1) if how == "not in memory" else (5, sm, 0, ld, 1)]
        before = w.map([(sa, 0, ld, FULL), (sr, 0, 0, ROW), (sc, 0, 1, COL)], [("sub", 0, 2), ("mul", 3, 1), ("mul", 4, 4)], stores)
        after = w.map([(-1, 0, 0, FULL)], [("add", 0, 0)], [(1, so, 0, results, 1)])
        if how == "apart":
            w.add("map", *shape, before)
            before = -1
        w.add("reduce", REDUCE[kind], *dims, NONE if how == "not in memory" else [sm, 0, 0], before, [st, 0, 0], after)
        for threads in (1, 3):
            for x in (half, made, out, total):
                x[:] = np.nan
            assert w.run(a, row, col, half, made, out, total, threads=threads)[0] == 0
            assert how != "not in memory" or np.isnan(made).all()
            ends.append((half.tobytes(), out.tobytes(), total.tobytes()))
    assert len(set(ends)) == 1
    want = np.square((a - col[:, None]) * row)
    want = getattr(want, kind)(1 if rows else 0, **({} if kind == "sum" else {"initial": {"max": -np.inf, "min": np.inf}[kind]}))
    np.testing.assert_allclose(total, want, rtol=2e-4 if dtype == np.float32 else 1e-12)


# ------------------------------------------------------------------ the others


def softmax_reference(z, t):
    z = z.astype(np.float64)
    m = z.max(1, keepdims=True)
    lse = np.log(np.exp(z - m).sum(1, keepdims=True)) + m
    return (t * (lse - z)).sum(1), np.exp(z - lse) * t.sum(1, keepdims=True) - t


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("g_kind", [None, COL, SCALAR])
@pytest.mark.parametrize("n,classes", [(1, 1), (17, 10), (3, 1000)])
def test_softmax_ce(n, classes, g_kind, probabilities, dtype):
    z_all, z = strided((n, classes), 3, dtype)
    labels = np.random.default_rng(1).integers(0, classes, n).astype(np.int32)
    t = np.eye(classes)[labels]
    if probabilities:
        t = np.abs(numbers((n, classes), dtype, 2))
    targets = t.astype(dtype) if probabilities else labels
    g = numbers(n if g_kind == COL else 1, dtype, 4)
    loss, dz_all = np.zeros(n, dtype), np.zeros((n, classes + 1), dtype)
    w = Words(dtype, capacity=n)
    s = [w.space(z_all.size), w.space(targets.size, dtype=targets.dtype), w.space(g.size), w.space(-1, True),
         w.space(dz_all.size, True)]
    w.add("softmax_ce", -1, classes, int(probabilities), [s[0], 0, classes + 3], [s[1], 0, classes],
          NONE if g_kind is None else [s[2], 0, 1], SCALAR if g_kind is None else g_kind, [s[3], 0, 0], [s[4], 0, classes + 1])
    w.run(z_all, targets, g, loss, dz_all)
    want_loss, want_dz = softmax_reference(z, t)
    if g_kind is not None:
        want_dz = want_dz * (g[:, None] if g_kind == COL else g[0])
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(loss, want_loss, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dz_all[:, :classes], want_dz, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(dz_all[:, classes:], 0)


@pytest.mark.parametrize("bad", [-1, 4, 2**31 - 1])
def test_label_out_of_range(bad):
    z, labels, loss = numbers((5, 4)), np.array([0, 1, 2, bad, bad], np.int32), np.full(5, 7, np.float32)
    w = Words()
    s = [w.space(20), w.space(5, dtype=np.int32), w.space(5, True)]
    w.add("fill", 1, [s[2], 0, 1], bits(7.0))
    w.add("softmax_ce", 5, 4, 0, [s[0], 0, 4], [s[1], 0, 1], NONE, SCALAR, [s[2], 0, 1], NONE)
    w.add("fill", 5, [s[2], 0, 1], 0)
    assert w.run(z, labels, loss) == (3, 1, bad, 4)
    np.testing.assert_array_equal(loss, 7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit,width,n", [(1, 1, 4), (11, 7, 40), (50, 64, 9), (6, 300, 0)])
def test_gather_and_scatter_add(limit, width, n, dtype):
    table, src = numbers((limit, width + 2), dtype), numbers((n, width), dtype, 1)
    ids = np.random.default_rng(2).integers(0, limit, n).astype(np.int32)
    out, sums = np.zeros((n, width + 1), dtype), np.full((limit, width), np.nan, dtype)
    w = Words(dtype)
    s = [w.space(table.size), w.space(n, dtype=np.int32), w.space(out.size, True), w.space(src.size), w.space(sums.size, True)]
    w.add("gather", n, width, limit, 1, 0, -2, [s[0], 0, width + 2], [s[1], 0, 1], NONE, [s[2], 0, width + 1])
    w.add("scatter_add", n, width, limit, 1, 0, -2, [s[3], 0, width], [s[1], 0, 1], NONE, [s[4], 0, width])
    w.run(table, ids, out, src, sums)
    np.testing.assert_array_equal(out[:, :width], table[ids, :width])
    want = np.zeros((limit, width), dtype)
    np.add.at(want, ids, src)
    np.testing.assert_array_equal(sums, want)


@pytest.mark.parametrize("instruction", ["gather", "scatter_add"])
def test_row_number_out_of_range(instruction):
    rows, ids, table = numbers((3, 2)), np.array([0, 4, 1], np.int32), np.full((4, 2), 5, np.float32)
    w = Words()
    s = [w.space(6, True), w.space(3, dtype=np.int32), w.space(8, True)]
    first, last = (s[2], s[0]) if instruction == "gather" else (s[0], s[2])
    w.add(instruction, 3, 2, 4, 1, 0, -2, [first, 0, 2], [s[1], 0, 1], NONE, [last, 0, 2])
    assert w.run(rows, ids, table) == (3, 0, 4, 4)
    np.testing.assert_array_equal(table, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape,axes", [
    ((6,), (0,)), ((1, 1), (1, 0)), ((33, 70), (1, 0)), ((3, 40, 50), (0, 2, 1)), ((5, 6, 7), (2, 1, 0)), ((5, 6, 7), (1, 0, 2)),
    ((2, 3, 4, 5), (3, 1, 0, 2)), ((2, 2, 2, 2, 2, 2, 2, 2), (7, 5, 3, 1, 0, 2, 4, 6)), ((4, 0, 3), (2, 0, 1))])
def test_copy_permutes(shape, axes, dtype):
    a = numbers(shape, dtype)
    want = np.ascontiguousarray(a.transpose(axes))
    out = np.zeros_like(want)
    w = Words(dtype)
    s, t = w.space(a.size), w.space(a.size, True)
    strides = [a.strides[i] // a.itemsize for i in axes]
    w.add("copy", len(shape), want.shape, s, 0, strides, t, 0, [x // a.itemsize for x in want.strides])
    w.run(a, out)
    np.testing.assert_array_equal(out, want)


def test_copy_slices_broadcasts_and_reverses():
    a, out = numbers((6, 8)), np.zeros((3, 6, 10), np.float32)
    w = Words(capacity=6)
    s, t = w.space(-8), w.space(180, True)
    w.add("copy", 3, 3, -1, 4, s, 2, 0, 8, 1, t, 1, 60, 10, 2)  # repeated 3 times, columns 2-5 to odd ones
    w.run(a, out)
    want = np.zeros_like(out)
    want[:, :, 1:9:2] = a[:, 2:6]
    np.testing.assert_array_equal(out, want)
    w = Words()
    s, t = w.space(48), w.space(180, True)
    w.add("copy", 2, 6, 8, s, 47, -8, -1, t, 0, 8, 1)
    w.run(a, out)
    np.testing.assert_array_equal(out.ravel()[:48].reshape(6, 8), a[::-1, ::-1])
    w = Words()
    s = w.space(48), w.space(180, True)
    w.add("copy", 0, s[0], 5, s[1], 179)
    w.run(a, out)
    assert out[-1, -1, -1] == a.ravel()[5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_fill(count, dtype):
    out = np.zeros(count + 2, dtype)
    w = Words(dtype)
    w.add("fill", count, [w.space(count + 2, True), 1, 1], bits(-1.25))
    w.run(out)
    np.testing.assert_array_equal(out, [0, *[-1.25] * count, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_argmax(dtype):
    a_all, a = strided((200, 9), 2, dtype)
    a[:] = np.round(a)
    a[3, 4:6] = np.nan
    a[5, :] = -np.inf
    a[6, 2], a[6, 8] = np.inf, np.nan
    out = np.full(200, -1, np.int32)
    w = Words(dtype, capacity=200)
    w.add("argmax", -1, 9, [w.space(a_all.size), 0, 11], [w.space(-1, True, np.int32), 0, 1])
    w.run(a_all, out, rows=150)
    np.testing.assert_array_equal(out[:150], np.argmax(a[:150], axis=1))
    np.testing.assert_array_equal(out[150:], -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value,status", [(1.0, 0), (np.nan, 1), (np.inf, 1), (-np.inf, 1), (1e-310, 0)])
def test_check(value, status, dtype):
    out = np.zeros(1, dtype)
    w = Words(dtype)
    s, t = w.space(3), w.space(1, True)
    w.add("check", [s, 1, 1])
    w.add("fill", 1, [t, 0, 1], bits(2.0))
    assert w.run(np.array([np.nan, value, np.nan], dtype), out)[:2] == (status, 0 if status else 2)
    assert out[0] == (0 if status else 2)


# ------------------------------------------------------------------ whole steps


def training_program(dtype=np.float32, inputs=20, hidden=33, classes=10, capacity=64, momentum=True):
    """A network with one hidden layer, trained by momentum with the updates fused into the products.

    Spaces: 1 x, 2 labels, 3 parameters, 4 velocities, 5 loss of each step, 6 learning rate and minus momentum, 7 constants."""
    w = Words(dtype, capacity)
    x, y = w.space(-inputs), w.space(-1, dtype=np.int32)
    w0, b0 = 0, inputs * hidden
    w1 = b0 + hidden
    b1 = w1 + hidden * classes
    total = b1 + classes
    p, v, loss, lr, const = w.space(total, True), w.space(total, True), w.space(1, True), w.space(2), w.space(3)
    item = np.dtype(dtype).itemsize
    h, z, dz, dh, losses = (capacity * i for i in (0, hidden, hidden + classes, hidden + 2 * classes, 2 * hidden + 2 * classes))
    w.arena = (losses + capacity) * item

    def update(offset, cols):
        """v = mu v + g; p -= lr v, on the gradient in slot 0"""
        return w.map(
            [(-1, 0, 0, FULL), (p, offset, cols, FULL), (v, offset, cols, FULL), (lr, 0, 0, SCALAR), (lr, 1, 0, SCALAR)],
            [("mul", 2, 4), ("add", 5, 0), ("mul", 6, 3), ("sub", 1, 7)], [(6, v, offset, cols, 1), (8, p, offset, cols, 1)])

    relu = w.map([(-1, 0, 0, FULL), (p, b0, 0, ROW), (const, 0, 0, SCALAR)], [("add", 0, 1), ("max", 3, 2)], [(4, 0, h, hidden, 1)])
    bias = w.map([(-1, 0, 0, FULL), (p, b1, 0, ROW)], [("add", 0, 1)], [(2, 0, z, classes, 1)])
    mask = w.map([(-1, 0, 0, FULL), (0, h, hidden, FULL), (const, 0, 0, SCALAR)], [("lt", 2, 1), ("mul", 0, 3)],
                 [(4, 0, dh, hidden, 1)])
    mean = w.map([(-1, 0, 0, FULL), (const, 1, 0, SCALAR)], [("mul", 0, 1)], [(2, loss, 0, 1, 1)])
    w.add("matmul", -1, hidden, inputs, 0, 0, 0, [x, 0, inputs], [p, w0, hidden], NONE, relu)
    w.add("matmul", -1, classes, hidden, 0, 0, 0, [0, h, hidden], [p, w1, classes], NONE, bias)
    w.add("softmax_ce", -1, classes, 0, [0, z, classes], [y, 0, 1], [const, 1, 0], SCALAR, [0, losses, 1], [0, dz, classes])
    w.add("reduce", REDUCE["sum"], 1, -1, 1, [0, losses, 1], -1, NONE, mean)
    w.add("check", [loss, 0, 1])
    w.add("matmul", -1, hidden, classes, 0, 1, 0, [0, dz, classes], [p, w1, classes], NONE, mask)
    w.add("matmul", hidden, classes, -1, 1, 0, 0, [0, h, hidden], [0, dz, classes], NONE, update(w1, classes))
    w.add("reduce", REDUCE["sum"], 1, -1, classes, [0, dz, classes], -1, NONE, update(b1, classes))
    w.add("matmul", inputs, hidden, -1, 1, 0, 0, [x, 0, inputs], [0, dh, hidden], NONE, update(w0, hidden))
    w.add("reduce", REDUCE["sum"], 1, -1, hidden, [0, dh, hidden], -1, NONE, update(b0, hidden))
    return w, total


def training_arrays(total, dtype=np.float32, inputs=20, n=150, batch=64):
    x = numbers((n, inputs), dtype)
    y = np.random.default_rng(3).integers(0, 10, n).astype(np.int32)
    return x, y, numbers(total, dtype, 5) * dtype(0.2), np.zeros(total, dtype), np.array([0, 1 / batch, 0], dtype)


def train(steps, *, threads=1, fill=0, order=None, n=150, dtype=np.float32, hidden=33, inputs=20, copies=False):
    """Fits and returns parameters, velocities and losses."""
    w, total = training_program(dtype, hidden=hidden, inputs=inputs)
    x, y, p, v, const = training_arrays(total, dtype, inputs, n)
    losses = np.zeros(steps, dtype)
    rates = np.stack([np.linspace(0.3, 0.1, steps), np.full(steps, 0.9)], axis=1).astype(dtype)
    with bp.threads(threads):  # its context is made for so many, however few the machine has
        b = w.bind(x, y, p, v, losses, rates, const)
    b.arena()[:] = bytes([fill]) * w.arena
    if copies:  # rows that are not dense, so that they are brought together though their order is plain
        x = np.concatenate([x, x], axis=1)[:, :inputs]
    per_epoch = -(-n // 64)
    done = 0
    while done < steps:
        k = min(per_epoch, steps - done)
        b.set(5, losses[done:])
        b.set(6, rates[done:])
        before = _core.allocations()
        result = b.fit([(1, x), (2, y)], order, n, 64, 0, k, scalar_space=6, scalar_stride=2, loss_space=5, threads=threads, flush=True)
        assert _core.allocations() == before
        assert result[:2] == (0, k)
        done += k
    return p, v, losses


def train_reference(steps, order=None, n=150, inputs=20, hidden=33):
    w, total = training_program()
    x, y, p, v, _ = training_arrays(total, np.float64)
    order = np.arange(n) if order is None else order
    rates, losses, done = np.linspace(0.3, 0.1, steps), [], 0
    while done < steps:
        for s in range(min(-(-n // 64), steps - done)):
            rows = order[s * 64 : (s + 1) * 64]
            w0, b0, w1, b1 = np.split(p, np.cumsum([inputs * hidden, hidden, hidden * 10]))
            w0, w1 = w0.reshape(inputs, hidden), w1.reshape(hidden, 10)
            xb, t = x[rows], np.eye(10)[y[rows]]
            h = np.maximum(xb @ w0 + b0, 0)
            loss, dz = softmax_reference(h @ w1 + b1, t)
            dz /= 64
            losses.append(loss.sum() / 64)
            dh = (dz @ w1.T) * (h > 0)
            g = np.concatenate([(xb.T @ dh).ravel(), dh.sum(0), (h.T @ dz).ravel(), dz.sum(0)])
            v = 0.9 * v + g
            p = p - rates[done] * v
            done += 1
    return p, v, np.array(losses)


@pytest.mark.parametrize("shuffled", [False, True])
def test_fit_matches_numpy(shuffled):
    """Nine steps, three epochs whose last step is ragged."""
    order = np.random.default_rng(8).permutation(150) if shuffled else None
    got, want = train(9, order=order, dtype=np.float64), train_reference(9, order)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert got[2][-1] < got[2][0]


def test_same_bits_whatever_the_threads_the_arena_and_the_feeding(shared):
    shapes = {"hidden": 300, "inputs": 200}  # large enough for two threads
    base = train(5, **shapes)
    for kwargs in [{"threads": 2}, {"fill": 255}, {"threads": 2, "order": np.arange(150)}, {"copies": True}]:
        for a, b in zip(base, train(5, **shapes, **kwargs)):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def test_fit_equals_run_by_run():
    w, total = training_program()
    x, y, p, v, const = training_arrays(total)
    rate, loss = np.array([0.3, 0.9], np.float32), np.zeros(1, np.float32)
    b = w.bind(x, y, p, v, loss, rate, const)
    losses = []
    for start in range(0, 150, 64):
        rows = min(64, 150 - start)
        b.set(1, x[start:])
        b.set(2, y[start:])
        assert b.run(rows=rows, flush=True) == (0, 10, 0, 0)
        losses.append(loss[0])
    x, y, p2, v2, const = training_arrays(total)
    out = np.zeros(3, np.float32)
    b = w.bind(x, y, p2, v2, out, rate, const)
    assert b.fit([(1, x), (2, y)], None, 150, 64, 0, 3, loss_space=5, flush=True)[:2] == (0, 3)
    np.testing.assert_array_equal(p2, p)
    np.testing.assert_array_equal(out, losses)


def test_fit_stops_at_the_step_that_is_not_finite():
    w, total = training_program()
    x, y, p, v, const = training_arrays(total)
    x[140, 3] = np.nan  # row of the third step; max(NaN, 0) is NaN
    losses = np.zeros(3, np.float32)
    b = w.bind(x, y, p, v, losses, np.array([0.1, 0.9], np.float32), const)
    after = []
    for n_steps in (2, 3):
        p[:], v[:] = training_arrays(total)[2:4]
        result = b.fit([(1, x), (2, y)], None, 150, 64, 0, n_steps, loss_space=5)
        after.append(p.copy())
    assert result[:3] == (1, 2, 4)
    np.testing.assert_array_equal(*after)
    y[70] = 10
    assert b.fit([(1, x), (2, y)], None, 150, 64, 0, 3, loss_space=5) == (3, 1, 2, 10, 10)
    order = np.arange(150)
    order[3] = 150
    assert b.fit([(1, x), (2, y)], order, 150, 64, 0, 3, loss_space=5) == (3, 0, 0, 150, 150)


def test_fit_is_interrupted_between_whole_steps():
    """A signal handler that raises ends a fit of many seconds at once, with the parameters of the last whole step."""
    w, total = training_program()
    n = 64 * 10**6  # one row, over and over
    x, y = np.broadcast_to(numbers(20), (n, 20)), np.broadcast_to(np.int32(3), n)
    p, v, const = training_arrays(total)[2:]
    b = w.bind(x[:64].copy(), y[:64].copy(), p, v, np.zeros(1, np.float32), np.array([0.01, 0.9], np.float32), const)

    def handler(*_):
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    start = time.perf_counter()
    try:
        with pytest.raises(TimeoutError):
            b.fit([(1, x), (2, y)], None, n, 64, 0, 10**6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert time.perf_counter() - start < 5
    done, after = b.done, p.copy()
    assert 0 < done < 10**6
    p[:], v[:] = training_arrays(total)[2:4]
    assert b.fit([(1, x), (2, y)], None, n, 64, 0, done)[:2] == (0, done)
    np.testing.assert_array_equal(p, after)


def test_fit_stops_after_seconds():
    w, total = training_program()
    n = 64 * 10**6
    x, y = np.broadcast_to(numbers(20), (n, 20)), np.broadcast_to(np.int32(3), n)
    p, v, const = training_arrays(total)[2:]
    b = w.bind(x[:64].copy(), y[:64].copy(), p, v, np.zeros(1, np.float32), np.array([0.01, 0.9], np.float32), const)
    status, done, *_ = b.fit([(1, x), (2, y)], None, n, 64, 0, 10**6, seconds=0.03)
    assert status == 0 and 0 < done < 10**6
    assert b.fit([(1, x), (2, y)], None, n, 64, 0, 10**6, seconds=1e-9)[:2] == (0, 1)


def test_fit_random_numbers_go_by_step():
    w = Words(capacity=8)
    x, out = w.space(-1), w.space(8, True)
    w.add("map", -1, 1, w.map([(x, 0, 1, FULL)], [("random", 0), ("add", 0, 1)], [(2, out, 0, 1, 1)]))
    data, a, b = np.zeros((16, 1), np.float32), np.zeros(8, np.float32), np.zeros(8, np.float32)
    w.bind(data, a).fit([(1, data)], None, 16, 8, 0, 2, seed=1, step=40)
    w.bind(data, b).run(rows=8, seed=1, step=41)
    np.testing.assert_array_equal(a, b)


def test_first_and_last_instruction():
    out = np.zeros(3, np.float32)
    w = Words()
    s = w.space(3, True)
    for i in range(3):
        w.add("fill", 1, [s, i, 1], bits(1.0))
    b = w.bind(out)
    assert b.run(rows=1, first=1, last=2) == (0, 2, 0, 0)
    np.testing.assert_array_equal(out, [0, 1, 0])


# ------------------------------------------------------------------ malformed words


def refused(w, message):
    with pytest.raises(ValueError, match=message):
        _core.Program(w if isinstance(w, np.ndarray) else w.array())


def one(name, *words, elements=10, writable=True):
    """A program of one instruction over space 1 (reals), space 2 (int32), both with so many elements."""
    w = Words(np.float64, capacity=4, arena=64)
    w.space(elements, writable)
    w.space(elements, True, np.int32)
    w.add(name, *words)
    return w


@pytest.mark.parametrize("w,message", [
    (one("fill", 11, [1, 0, 1], 0), r"instruction 0 \(fill\): dst: elements 0 ... 11 of space 1, which has 10"),
    (one("fill", -3, [1, 0, 1], 0), r"fill.*dst: elements 0 ... 12"),
    (one("fill", 2, [1, 9, 1], 0), r"dst: elements 9 ... 11"),
    (one("fill", 2, [1, -1, 1], 0), r"dst: -1 is not in"),
    (one("fill", 2, [3, 0, 1], 0), r"dst: 3 is not in -1 ... 2"),
    (one("fill", 2, NONE, 0), r"dst: has no space"),
    (one("fill", 9, [0, 0, 1], 0), r"space 0, which has 8"),
    (one("fill", 1, [2, 0, 1], 0), r"space 2 has elements of 4 bytes, not 8"),
    (one("fill", 1, [1, 0, 1], 0, writable=False), r"space 1 is not writable"),
    (one("fill", 1, [1, 0, 1]), r"fill\): value: the words end here"),
    (one("fill", 1, [1, 0, 1], 0, 0), r"number of words: 1 more"),
    (one("fill", -(2**62), [1, 0, 1], 0), r"count: .* is not in"),
    (one("fill", -(2**39), [1, 0, 1], 0), r"count: .* too large"),
    (one("matmul", 2, 2, 2, 0, 0, 0, [1, 0, 2], [1, 4, 2], NONE, -1), r"matmul\): C: the result is neither kept nor used"),
    (one("matmul", 2, 2, 2, 0, 0, 0, [1, 0, 1], [1, 4, 2], [1, 0, 2], -1), r"A: ld 1 is less than 2 columns"),
    (one("matmul", 2, 2, 2, 0, 2, 0, [1, 0, 2], [1, 4, 2], [1, 0, 2], -1), r"trans_b: 2"),
    (one("matmul", 2, 2, 2, 0, 0, 2, [1, 0, 2], [1, 4, 2], [1, 0, 2], -1), r"products: 2"),
    (one("matmul", 2, 2, 2, 0, 0, 0, [1, 0, 7], [1, 4, 2], [1, 0, 2], 0), r"map: 0 is not in"),
    (one("matmul", 3, 2, 2, 1, 0, 0, [1, 6, 3], [1, 4, 2], [1, 0, 2], -1), r"A: elements 6 ... 12"),
    (one("matmul", 2**40, 2, 2**40, 0, 0, 0, [1, 0, 2], [1, 4, 2], [1, 0, 2], -1), r"m times k: .* too large"),
    (one("matmul", 2, 2, 2, 0, 0, 0, [1, 0, 2**46], [1, 4, 2], [1, 0, 2], -1), r"A: elements"),
    (one("reduce", 3, 1, 2, 2, [1, 0, 2], -1, [1, 0, 2], -1), r"kind: 3"),
    (one("reduce", 0, 2, 3, 2, [1, 0, 2], -1, [1, 0, 2], -1), r"src: elements 0 ... 12"),
    (one("reduce", 0, 1, 2, 2, [1, 0, 2], -1, NONE, -1), r"dst: the result is neither"),
    (one("reduce", 0, 1, 2, 2, NONE, -1, [1, 0, 2], -1), r"src: has no space"),
    (one("reduce", 0, 1, 2, 2, NONE, 0, [1, 0, 2], -1), r"map before: 0 is not in"),
    (one("softmax_ce", 2, 2, 1, [1, 0, 2], [1, 0, 3], NONE, 3, NONE, [1, 0, 2]), r"targets: ld 3 is not 2 classes"),
    (one("softmax_ce", 2, 2, 0, [1, 0, 2], [1, 0, 3], NONE, 3, NONE, [1, 0, 2]), r"targets: space 1 has elements of 8"),
    (one("softmax_ce", 2, 2, 0, [1, 0, 2], [2, 9, 1], NONE, 3, NONE, [1, 0, 2]), r"targets: elements 9 ... 11"),
    (one("gather", 2, 2, 6, 1, 0, -2, [1, 0, 2], [2, 0, 1], NONE, [1, 0, 2]), r"table: elements 0 ... 12"),
    (one("scatter_add", 2, 2, 6, 1, 0, -2, [1, 0, 2], [2, 0, 1], NONE, [1, 0, 2]), r"dst: elements 0 ... 12"),
    (one("copy", 9, *[1] * 9, 1, 0, *[1] * 9, 1, 0, *[1] * 9), r"ndim: 9"),
    (one("copy", 2, 2, 2, 1, 0, 2, 1, 1, 5, 0, 1), r"strides of dst: elements overlap"),
    (one("copy", 2, 2, 2, 1, 0, 2, 1, 1, 5, 1, 1), r"strides of dst: elements overlap"),
    (one("copy", 1, 3, 1, 1, -1, 1, 5, 1), r"src: elements -1 ... 2"),
    (one("copy", 1, 3, 1, 0, 5, 1, 5, 1), r"src: elements 0 ... 11"),
    (one("copy", 2, 2**30, 2**30, 1, 0, 0, 0, 1, 5, 1, 1), r"dims: .* too large"),
    (one("argmax", 2, 0, [1, 0, 2], [2, 0, 1]), r"cols: 0"),
    (one("argmax", 2, 3, [1, 0, 3], [1, 0, 1]), r"dst: space 1 has elements of 8"),
    (one("check", [1, 10, 1]), r"operand: elements 10 ... 11"),
])
def test_malformed_instruction(w, message):
    refused(w, message)


@pytest.mark.parametrize("loads,ops,stores,message", [
    ([(1, 0, 2, 4)], [], [(0, 1, 0, 2, 1)], "map 0: kind of load: 4"),
    ([(1, 0, 2, 0), (-1, 0, 2, 0)], [], [(0, 1, 0, 2, 1)], "load 1: only load 0"),
    ([(-1, 0, 2, 0)], [], [(0, 1, 0, 2, 1)], r"instruction 0 \(map\): map: load 0 is an anchor's block"),
    ([(1, 0, 2, 0)], [("add", 0, 1)], [(1, 1, 0, 2, 1)], "map 0: operand slot: 1 is not in 0 ... 0"),
    ([(1, 0, 2, 0)], [("neg", -1)], [(1, 1, 0, 2, 1)], "operand slot: -1"),
    ([(1, 0, 2, 0)], [], [(1, 1, 0, 2, 1)], "slot of store: 1"),
    ([(1, 0, 2, 0)], [], [], "number of stores: 0"),
    ([(1, 0, 2, 0)], [], [(0, 1, 0, 2, 2)], "direct: 2"),
    ([(1, 0, 2, 0)], [], [(0, 1, 0, 1, 1)], "store 0 of its map: ld 1 is less than 2"),
    ([(1, 8, 2, 0)], [], [(0, 1, 0, 2, 1)], "load 0 of its map: elements 8 ... 12"),
    ([(1, 8, 5, 2)], [], [(0, 1, 0, 2, 1)], "load 0 of its map: elements 8 ... 14"),
    ([(1, 8, 0, 2)], [], [(0, 1, 0, 2, 1)], "load 0 of its map: ld 0"),
    ([], [("random", -5)], [(0, 1, 0, 2, 1)], "imm: -5"),
    ([(1, 0, 2, 0)], [], [(0, -1, 0, 2, 1), (0, 1, 0, 2, 1)], "store 0: only the last store"),
    ([(1, 0, 2, 0)], [], [(0, 1, 0, 2, 1), (0, -1, 0, 2, 1)], "map: the last store is the block of an anchor before which"),
])
def test_malformed_map(loads, ops, stores, message):
    w = Words()
    w.space(10, True)
    w.add("map", 2, 2, w.map(loads, ops, stores))
    refused(w, message)


@pytest.mark.parametrize("dims,src,store,message", [
    ((2, 2, 1), NONE, (0, 1, 4, 2, 1), "map: the last store of a prologue must be the block"),
    ((2, 2, 1), [1, 4, 2], (0, -1, 0, 2, 1), "map: the last store is the block of an anchor before which"),
    ((2, 2, 1), [1, 8, 2], (0, 1, 4, 2, 1), "src: elements 8 ... 12 of space 1, which has 10"),
    ((2, 3, 1), NONE, (0, -1, 0, 2, 1), "load 0 of its map: ld 2 is less than 3"),
    ((2, 2, 2), NONE, (0, -1, 0, 2, 1), "map before: neither the rows nor the columns"),
])
def test_malformed_map_before_a_reduction(dims, src, store, message):
    w = Words()
    w.space(10, True)
    w.add("reduce", REDUCE["sum"], *dims, src, w.map([(1, 0, 2, FULL)], [], [store]), [1, 8, 0], -1)
    refused(w, message)


@pytest.mark.parametrize("load,store,message", [
    ((0, 4, FULL), (2, 0, 4), "load 0 of its map: elements 0 ... 8 of space 1, which has 4 in a run of 1 rows"),
    ((252, 0, ROW), (2, 0, 4), "load 0 of its map: elements 252 ... 256 of space 1, which has 4 in a run of 1 rows"),
    ((0, 0, SCALAR), (2, 0, 4), "load 0 of its map: elements 0 ... 1 of space 1, which has 0 in a run of 0 rows"),
])
def test_what_has_rows_is_touched_by_rows(load, store, message):
    """An access of fixed size to what has so many elements a row would leave it in a run of fewer rows."""
    w = Words(capacity=64)
    w.space(-4)
    w.space(256, True)
    (offset, ld, kind), (space, at, width) = load, store
    w.add("map", 2, 4, w.map([(1, offset, ld, kind)], [], [(0, space, at, width, 1)]))
    refused(w, message)


def test_malformed_header():
    good = one("fill", 1, [1, 0, 1], 0).array()
    _core.Program(good)
    for n in range(len(good)):
        with pytest.raises(ValueError):
            _core.Program(good[:n].copy())
    refused(np.append(good, 0), "1 words after the last instruction")
    for index, value, message in [(0, 1, "header: magic"), (1, 5, "real_bytes: 5"), (2, -1, "capacity"), (3, -1, "arena"),
                                  (3, 2**60, "arena"), (4, 0, "number of spaces"), (4, 2**20, "more entries"), (5, 4, "space 0"),
                                  (8, 2, "space 1: element_bytes: 2"), (10, 2, "space 1: writable"), (9, 2**62, "space 1: elements")]:
        bad = good.copy()
        bad[index] = value
        refused(bad, message)


def every_other_instruction():
    """Those that training_program() does not use."""
    w = Words(np.float64, capacity=6, arena=400)
    x, ids, table, out, numbered = w.space(-4), w.space(-1, dtype=np.int32), w.space(20, True), w.space(-8, True), w.space(-1, True, np.int32)
    w.add("gather", -1, 4, 5, 1, 0, -2, [table, 0, 4], [ids, 0, 1], NONE, [0, 0, 4])
    w.add("scatter_add", -1, 4, 5, 1, 0, -2, [x, 0, 4], [ids, 0, 1], NONE, [table, 0, 4])
    w.add("copy", 3, 2, -1, 4, x, 0, 0, 4, 1, out, 0, 4, 8, 1)
    w.add("copy", 2, 4, -1, x, 0, 1, 4, 0, 0, 6, 1)
    w.add("fill", -2, [out, 0, 1], bits(1.0))
    w.add("argmax", -1, 4, [x, 0, 4], [numbered, 0, 1])
    w.add("reduce", REDUCE["max"], -1, 2, 2, [x, 0, 2], -1, [0, 24, 2], -1)
    w.add("map", -1, 4, w.map([(x, 0, 4, FULL), (x, 0, 4, COL)], [("random", 1), ("fma", 0, 1, 2)], [(3, out, 4, 8, 1), (2, 0, 24, 4, 0)]))
    return w


@pytest.mark.parametrize("good", [training_program(inputs=5, hidden=6, capacity=7)[0], every_other_instruction()], ids=["step", "others"])
def test_flipped_words_are_refused_or_stay_in_bounds(good, shared):
    """Runs whatever is accepted, with any number of rows; the borders of every array must be untouched."""
    rng = np.random.default_rng(0)
    words, accepted = good.array(), 0
    assert _core.Program(words).n_instructions == len(good.instructions)
    for _ in range(1000):
        bad = words.copy()
        for i in rng.integers(5, len(bad), rng.integers(1, 3)):
            bad[i] = rng.choice([0, 1, 2, 3, 5, 6, 10, -1, -2, words[i] + 1, words[i] - 1, 2**31, 2**62, -(2**63)])
        try:
            p = _core.Program(bad)
        except ValueError:
            continue
        if any(abs(e) > 10**6 for _, e, _ in p.spaces) or p.capacity > 100:
            continue
        b, rows = _core.Binding(p), int(rng.choice([0, 1, p.capacity, rng.integers(0, p.capacity + 1)]))
        held = []
        for i, (item, elements, writable) in enumerate(p.spaces[1:], 1):
            n = elements if elements >= 0 else -elements * rows
            for dtype in (np.int32, np.float32 if item == 4 else np.float64):
                whole = np.ones(n + 32, dtype)
                try:
                    b.set(i, whole[16 : 16 + n])
                    held.append((whole, n))
                    break
                except TypeError:
                    continue
        accepted += 1
        b.run(rows=rows, threads=int(rng.integers(1, 3)))
        for whole, n in held:
            assert (whole[:16] == 1).all() and (whole[16 + n :] == 1).all()
    assert accepted > 50
