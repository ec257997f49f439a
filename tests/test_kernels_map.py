"""Every elementwise operation of every instruction set against NumPy.

Exact operations are compared bit for bit, the others in units in the last place (ULP) over a sweep of the bit patterns.
"""

import functools
import math

import numpy as np
import pytest
from chains import NUMBERS, step_by_step

from backprop import _core

SETS = _core.isa_runnable()
FMA_SETS = [name for name in SETS if name != "scalar"]
DTYPES = [np.float32, np.float64]
ARITY = {
    **dict.fromkeys(["copy", "neg", "abs", "sign", "sqrt", "exp", "expm1", "log", "log1p", "tanh", "logistic", "erf"], 1),
    **dict.fromkeys(["add", "sub", "mul", "div", "pow", "max", "min", "lt", "le", "eq", "ne"], 2),
    **dict.fromkeys(["fma", "select"], 3),
}
each_set = pytest.mark.parametrize("isa", SETS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
each_op = pytest.mark.parametrize("op", ARITY)

INTEGER = {np.float32: np.uint32, np.float64: np.uint64}
MANTISSA = {np.float32: 23, np.float64: 52}


def run(isa, op, *operands, variant=0, n=None):
    """The operation over arrays; operands whose bit is set in `variant` have one element, n is then the length."""
    dst = np.empty(n if n is not None else operands[0].size, operands[0].dtype)
    _core.kernel_map(isa, op, dst, *operands, variant=variant)
    return dst


def bits(x):
    """The bits of each number; every NaN is the same."""
    return np.where(np.isnan(x), np.nan, x).astype(x.dtype).view(INTEGER[x.dtype.type])


def specials(dtype):
    """Zeros, ones, the edges of the range and of every function's branches, with both signs."""
    info = np.finfo(dtype)
    x = [0, 0.5, 1, 1.5, 2, 3, 4, 127, 1e-30, 1e30, info.tiny, info.smallest_subnormal, 3 * info.smallest_subnormal]
    x += [info.max, info.eps, np.inf, np.nan, math.sqrt(0.5), math.sqrt(2), math.log(2) / 2, 2**24 + 2]
    x += [87.3, 88.7, 88.8, 103.9, 104.1, 708.3, 709.7, 709.8, 745.1, 746.1]
    x = np.array(x, dtype)
    with np.errstate(over="ignore"):
        x = np.concatenate([x, np.nextafter(x, dtype(0)), np.nextafter(x, dtype(np.inf))])
    return np.concatenate([x, -x])


@functools.cache
def sweep(dtype, n=2**20):
    """Numbers spread over the bit patterns, so over all exponents and both signs; then the special ones."""
    step = 2 ** (8 * np.dtype(dtype).itemsize) // n
    patterns = np.arange(n, dtype=np.uint64) * np.uint64(step)
    low = np.random.default_rng(0).integers(0, step, n, dtype=np.uint64)
    return np.concatenate([(patterns + low).astype(INTEGER[dtype]).view(dtype), specials(dtype)])


def operands(dtype, arity, n=4099, seed=1):
    """Arrays of ordinary numbers, with special ones strewn in, that meet each other in many ways."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(arity):
        x = (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)).astype(dtype)
        strewn = rng.random(n) < 0.3
        x[strewn] = rng.choice(specials(dtype), strewn.sum())
        whole = rng.random(n) < 0.2
        x[whole] = rng.integers(-3, 4, whole.sum())
        out.append(x)
    return out


# ------------------------------------------------------------------ exact operations

EXACT = {
    "copy": lambda a: a,
    "neg": lambda a: -a,
    "abs": np.abs,
    "sign": lambda a: np.where(np.isnan(a), a, (a > 0).astype(a.dtype) - (a < 0).astype(a.dtype)),
    "sqrt": np.sqrt,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": lambda a, b: np.where((a > b) | np.isnan(a), a, b),
    "min": lambda a, b: np.where((a < b) | np.isnan(a), a, b),
    "lt": lambda a, b: (a < b).astype(a.dtype),
    "le": lambda a, b: (a <= b).astype(a.dtype),
    "eq": lambda a, b: (a == b).astype(a.dtype),
    "ne": lambda a, b: (a != b).astype(a.dtype),
    "select": lambda a, b, c: np.where(a != 0, b, c),
}


@each_set
@each_dtype
@pytest.mark.parametrize("op", EXACT)
def test_exact_operations(isa, dtype, op):
    x = operands(dtype, ARITY[op])
    with np.errstate(all="ignore"):
        expected = EXACT[op](*x)
    np.testing.assert_array_equal(bits(run(isa, op, *x)), bits(expected))


@each_set
@each_dtype
def test_fma_rounds_once_where_the_set_has_it(isa, dtype):
    a, b, c = operands(dtype, 3)
    with np.errstate(all="ignore"):
        twice = a * b + c
    # (1 + u)(1 - u) - 1 = -u^2 exactly; the product alone rounds to 1
    u = dtype(2.0 ** -(MANTISSA[dtype] // 2 + 2))
    exact = run(isa, "fma", np.array([1 + u]), np.array([1 - u]), np.array([-1], dtype))[0]
    if isa == "scalar":
        assert exact == 0
        np.testing.assert_array_equal(bits(run(isa, "fma", a, b, c)), bits(twice))
        return
    assert exact == -u * u
    if dtype == np.float32:  # the product is exact in double: one rounding there, one back
        with np.errstate(all="ignore"):
            wide = a.astype(np.float64) * b + c
            expected = wide.astype(np.float32)
        # Rounding twice differs from rounding once only where the first result lies half-way between two float32.
        same = bits(run(isa, "fma", a, b, c)) == bits(expected)
        assert np.all(same | (wide.view(np.uint64) & np.uint64(2**28 - 1) == 0) | (np.abs(wide) < 2.0**-126))
        assert same.mean() > 0.99


# ------------------------------------------------------------------ approximated functions

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
has_longdouble = np.finfo(np.longdouble).nmant > 60


def logistic(x):
    z = np.exp(-np.abs(x))
    return np.where(x < 0, z, 1) / (1 + z)


def erf(x):
    return np.array([math.erf(v) for v in x.astype(np.float64)])


FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "logistic": logistic,
    "erf": erf,
    "pow": np.power,
}


@functools.cache
def reference(dtype, op):
    x = pow_operands(dtype) if op == "pow" else (sweep(dtype),)
    with np.errstate(all="ignore"):
        return FUNCTIONS[op](*(v.astype(WIDER[dtype]) for v in x))


@functools.cache
def pow_operands(dtype, n=2**20):
    """Bases over all bit patterns and near 1, and exponents for which the power is in range or just leaves it."""
    x, rng = sweep(dtype, n).copy(), np.random.default_rng(2)
    x[::2] = np.abs(x[::2])
    x[::5] = rng.uniform(0.7, 1.45, x[::5].size)
    with np.errstate(all="ignore"):
        reach = math.log(float(np.finfo(dtype).max)) * 1.1 / (np.abs(np.log(np.abs(x.astype(np.float64)))) + 1e-9)
        y = (rng.uniform(-1, 1, x.size) * reach).astype(dtype)
    y[::3] = np.rint(y[::3])
    y[::7] = rng.choice(specials(dtype), y[::7].size)
    return x, y


def ulps(got, expected):
    """|got - expected| in units of the last place of `expected`; 0 for equal, infinity for NaN or a wrong sign of zero."""
    dtype = got.dtype.type
    info, wide = np.finfo(dtype), expected.dtype.type
    signs = np.signbit(got) != np.signbit(expected)
    with np.errstate(all="ignore"):
        limit = 2 * np.ldexp(wide(1), info.maxexp - 1)  # infinity stands one step beyond the largest number
        e = np.clip(np.frexp(expected)[1] - 1, info.minexp, info.maxexp - 1)
        e = np.where(expected == 0, info.minexp, np.where(np.isinf(expected), info.maxexp - 1, e))
        distance = np.abs(np.clip(got.astype(wide), -limit, limit) - np.clip(expected, -limit, limit))
        u = np.where(got == expected, 0, np.ldexp(distance, MANTISSA[dtype] - e)).astype(np.float64)
    u = np.where(np.isnan(got) != np.isnan(expected), np.inf, np.where(np.isnan(got) & np.isnan(expected), 0, u))
    return np.where(signs & (expected == 0) & ~np.isnan(got), np.inf, u)


@each_set
@each_dtype
@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_are_accurate(isa, dtype, op):
    x = pow_operands(dtype) if op == "pow" else (sweep(dtype),)
    u = ulps(run(isa, op, *x), reference(dtype, op))
    bound = 4 if dtype == np.float32 or has_longdouble else 5  # a double reference has errors of its own
    worst = np.argmax(u)
    assert u[worst] <= bound, f"{op}{tuple(v[worst] for v in x)}: {u[worst]} ULP"


@each_set
@each_dtype
@pytest.mark.parametrize("op", ["exp", "log", "tanh", "logistic", "erf", "expm1", "log1p"])
def test_functions_are_accurate_where_they_are_used(isa, dtype, op):
    """Most bit patterns are huge or tiny numbers; these are not."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-s, s, 2**15) for s in (1, 4, 20, 100, 750)]).astype(dtype)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[op](x.astype(WIDER[dtype]))
    assert ulps(run(isa, op, x), expected).max() <= (4 if dtype == np.float32 or has_longdouble else 5)


NAN, INF = np.nan, np.inf
SPECIAL_VALUES = [
    ("exp", [-INF, -0.0, 0.0, INF, NAN, 1e4, -1e4], [0.0, 1.0, 1.0, INF, NAN, INF, 0.0]),
    ("expm1", [-INF, -0.0, 0.0, INF, NAN, 1e4, -1e4], [-1.0, -0.0, 0.0, INF, NAN, INF, -1.0]),
    ("log", [-INF, -1.0, -0.0, 0.0, 1.0, INF, NAN], [NAN, NAN, -INF, -INF, 0.0, INF, NAN]),
    ("log1p", [-INF, -2.0, -1.0, -0.0, 0.0, INF, NAN], [NAN, NAN, -INF, -0.0, 0.0, INF, NAN]),
    ("tanh", [-INF, -50.0, -0.0, 0.0, 50.0, INF, NAN], [-1.0, -1.0, -0.0, 0.0, 1.0, 1.0, NAN]),
    ("logistic", [-INF, -1e4, -0.0, 0.0, 1e4, INF, NAN], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, NAN]),
    ("erf", [-INF, -7.0, -0.0, 0.0, 7.0, INF, NAN], [-1.0, -1.0, -0.0, 0.0, 1.0, 1.0, NAN]),
    ("sign", [-INF, -2.0, -0.0, 0.0, 2.0, INF, NAN], [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, NAN]),
    ("sqrt", [-INF, -1.0, -0.0, 0.0, 4.0, INF, NAN], [NAN, NAN, -0.0, 0.0, 2.0, INF, NAN]),
]


@each_set
@each_dtype
@pytest.mark.parametrize("op, x, expected", SPECIAL_VALUES, ids=[row[0] for row in SPECIAL_VALUES])
def test_special_values(isa, dtype, op, x, expected):
    got = run(isa, op, np.array(x, dtype))
    np.testing.assert_array_equal(bits(got), bits(np.array(expected, dtype)))


@each_set
@each_dtype
def test_odd_functions_are_odd_and_even_powers_even(isa, dtype):
    x = sweep(dtype, 2**14)
    for op in ("tanh", "erf"):
        np.testing.assert_array_equal(bits(run(isa, op, -x)), bits(-run(isa, op, x)))
    np.testing.assert_array_equal(bits(run(isa, "pow", -x, np.full_like(x, 4))), bits(run(isa, "pow", x, np.full_like(x, 4))))


@each_set
@each_dtype
def test_pow_special_cases(isa, dtype):
    """Every pair of special numbers: the kind of the result (NaN, infinity, zero, its sign) is IEEE 754's."""
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 1e-30, 1e30, np.finfo(dtype).max, INF, NAN], dtype)
    values = np.concatenate([values, -values])
    x, y = (v.ravel() for v in np.meshgrid(values, values, indexing="ij"))
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(WIDER[dtype]), y.astype(WIDER[dtype]))
    assert ulps(run(isa, "pow", x, y), expected).max() <= 4
    square = operands(dtype, 1)[0]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(bits(run(isa, "pow", square, np.full_like(square, 2))), bits(square * square))


# ------------------------------------------------------------------ sets, loops, memory


@each_dtype
@each_op
def test_sets_with_fma_agree_bit_for_bit(dtype, op):
    if len(FMA_SETS) < 2:
        pytest.skip("this processor runs fewer than two sets with fused multiply-add")
    x = operands(dtype, ARITY[op], n=2**15)
    first = bits(run(FMA_SETS[0], op, *x))
    for isa in FMA_SETS[1:]:
        np.testing.assert_array_equal(bits(run(isa, op, *x)), first)


@each_set
@each_dtype
@each_op
def test_lengths_and_offsets_give_the_bits_of_single_elements(isa, dtype, op):
    x = operands(dtype, ARITY[op], n=300)
    single = np.concatenate([run(isa, op, *(v[i : i + 1] for v in x)) for i in range(300)])
    guard = dtype(-77)
    for n in [*range(70), 127, 128, 129, 255, 256, 257]:
        for offset in range(n % 3, 16, 5):
            dst = np.full(300 + 16, guard)
            part = slice(offset, offset + n)
            _core.kernel_map(isa, op, dst[part], *(v[part] for v in x))
            np.testing.assert_array_equal(bits(dst[part]), bits(single[part]))
            assert (dst[:offset] == guard).all() and (dst[offset + n :] == guard).all()


@each_set
@each_dtype
@each_op
def test_variants_are_arrays_of_equal_numbers(isa, dtype, op):
    arity = ARITY[op]
    x = operands(dtype, arity, n=259, seed=4)
    for variant in range(1, 2**arity):
        for i in (0, 1, 2, 100, 200):  # several scalars, so that some of them are special
            one = [v[i : i + 1] if variant >> k & 1 else v for k, v in enumerate(x)]
            full = [np.repeat(v, 259) if v.size == 1 else v for v in one]
            got = run(isa, op, *one, variant=variant, n=259)
            np.testing.assert_array_equal(bits(got), bits(run(isa, op, *full)))


@each_set
@each_dtype
@each_op
def test_result_may_replace_an_operand(isa, dtype, op):
    arity = ARITY[op]
    for k in range(arity):
        for variant in range(2**arity):
            if variant >> k & 1:
                continue
            x = operands(dtype, arity, n=261, seed=5)
            x = [v[:1].copy() if variant >> i & 1 else v for i, v in enumerate(x)]
            expected = run(isa, op, *x, variant=variant, n=261)
            _core.kernel_map(isa, op, x[k], *x, variant=variant)
            np.testing.assert_array_equal(bits(x[k]), bits(expected))
    same = operands(dtype, 1, n=261, seed=6)[0]  # dst, a, b and c are one array
    expected = run(isa, op, *[same.copy() for _ in range(arity)])
    _core.kernel_map(isa, op, same, *[same] * arity)
    np.testing.assert_array_equal(bits(same), bits(expected))


def test_every_operation_is_tested():
    assert {name for name, arity, *_ in _core.MAP_OPS} == {"random", *ARITY}
    assert all(ARITY[name] == arity for name, arity, *_ in _core.MAP_OPS if name != "random")
    assert set(ARITY) == {*EXACT, *FUNCTIONS, "fma"}


@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 33, 1000])
@pytest.mark.parametrize("chain", _core.CHAINS, ids=[row[0] for row in _core.CHAINS])
@each_dtype
@each_set
def test_a_chain_in_one_pass_is_its_operations(isa, dtype, chain, n):
    """Bit for bit, special values and all, at every length, in place and not."""
    name, vectors, numbers, steps = chain
    rng = np.random.default_rng(n)
    drawn = [np.where(rng.random(n) < 0.3, rng.choice(specials(dtype), n), rng.standard_normal(n)).astype(dtype) for _ in range(vectors)]
    for s in (np.array(NUMBERS, dtype)[:numbers], np.zeros(numbers, dtype)):
        for root in (False, True):  # True: the third vector, Adam's second moment, has a root
            x = [np.abs(a) if root and i == 2 else a.copy() for i, a in enumerate(drawn)]
            want = [r for r, step in zip(step_by_step(isa, steps, x, s), steps) if step[2]]
            for out in ([np.empty(n, dtype) for _ in want], x[vectors - len(want):]):
                _core.kernel_chain(isa, name, x, s, out)
                for got, expected in zip(out, want):
                    np.testing.assert_array_equal(bits(got), bits(expected))


@pytest.mark.parametrize("chain", [row for row in _core.CHAINS if any(step[0] == "sqrt" for step in row[3])], ids=lambda row: row[0])
@each_set
def test_a_chain_with_a_root_on_every_kind_of_processor(kind, isa, chain):
    test_a_chain_in_one_pass_is_its_operations(isa, np.float32, chain, 1000)


@each_set
def test_roots_of_every_mantissa(kind, isa):
    """A root, made of fused multiply-adds or not, is the nearest number: two octaves, and where the ranges of its steps end."""
    x = np.arange(2**24, dtype=np.uint32) + np.uint32(0x3F800000)
    ends = (np.array([127 - 77, 127 - 76, 127 + 99, 127 + 100], np.uint32) << 23)[:, None] + np.arange(-64, 64)
    for values in (x.view(np.float32), ends.astype(np.uint32).reshape(-1).view(np.float32), -x[:64].view(np.float32)):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(bits(run(isa, "sqrt", values)), bits(np.sqrt(values)))
