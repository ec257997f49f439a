"""Initial weights against the formulas of their papers and the numbers of the lecture."""

import numpy as np
import pytest

from backprop import init

EVERY = ["zeros", "ones", "xavier", "xavier_normal", "he", "he_normal", "lecun", "lecun_normal", 0.5]


def test_xavier_of_a_20_to_8_layer():
    assert init.xavier_uniform.variance((20, 8)) == pytest.approx(0.0714286, abs=5e-8)
    w = init.xavier_uniform((20, 8), np.float64, init.Stream(0))
    assert 0.42 < np.abs(w).max() <= 0.46291005 + 1e-8


@pytest.mark.parametrize(
    ("name", "variance", "bounded"),
    [
        ("xavier", 2 / 700, True), ("glorot_uniform", 2 / 700, True), ("xavier_normal", 2 / 700, False),
        ("he", 2 / 300, True), ("kaiming_normal", 2 / 300, False), ("he_normal", 2 / 300, False),
        ("lecun", 1 / 300, True), ("lecun_uniform", 1 / 300, True), ("lecun_normal", 1 / 300, False),
    ],
)  # fmt: skip
def test_moments(name, variance, bounded):
    w = init.resolve(name)((300, 400), np.float64, init.Stream(3))
    n = w.size
    assert abs(w.mean()) < 5 * np.sqrt(variance / n)
    kurtosis = 1.8 if bounded else 3.0  # of the uniform and of the normal distribution: tells them apart
    assert w.var() == pytest.approx(variance, rel=5 * np.sqrt((kurtosis - 1) / n))
    assert np.mean(w**4) / w.var() ** 2 == pytest.approx(kurtosis, rel=0.05)
    assert (np.abs(w).max() <= np.sqrt(3 * variance)) == bounded


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100_001])
def test_normal_numbers(n):
    z = init.Stream(11).normal(n)
    assert z.shape == (n,) and np.isfinite(z).all()
    if n > 1000:
        # The normal distribution function at a few points, and neighbours uncorrelated.
        for x, p in [(-2.0, 0.0227501), (-1.0, 0.1586553), (0.0, 0.5), (0.5, 0.6914625), (3.0, 0.9986501)]:
            assert (z < x).mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n))
        assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_shape_and_same_seed_same_bits(name, dtype):
    f = init.resolve(name)
    a, b = (f((31, 7), dtype, init.Stream(5)) for _ in range(2))
    assert a.dtype == dtype and a.shape == (31, 7) and a.flags.c_contiguous and a.flags.writeable
    assert a.tobytes() == b.tobytes()
    other = f((31, 7), dtype, init.Stream(6))
    assert (a.tobytes() == other.tobytes()) == (name in ("zeros", "ones", 0.5))


def test_float32_is_the_rounded_float64():
    a = init.he_normal((50, 3), np.float64, init.Stream(2))
    assert np.array_equal(init.he_normal((50, 3), np.float32, init.Stream(2)), a.astype(np.float32))


def test_a_draw_does_not_depend_on_the_sizes_before():
    a, b = init.Stream(9), init.Stream(9)
    a.uniform(5), b.uniform(500)
    assert np.array_equal(a.uniform(4), b.uniform(4))
    assert not np.array_equal(a.uniform(4), a.uniform(4))
    assert np.array_equal(init.Stream(9, a.position).uniform(4), a.uniform(4))


def test_streams_are_uniform():
    u = init.Stream(1).uniform(50_000)
    assert 0 <= u.min() and u.max() < 1
    counts = np.histogram(u, 20, (0, 1))[0]
    assert ((counts - 2500) ** 2 / 2500).sum() < 50  # chi-square, 19 degrees of freedom: p is 1e-4


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_seeds(bad):
    with pytest.raises(ValueError, match="seed"):
        init.Stream(bad)
    with pytest.raises(TypeError):
        init.Stream(0.5)


def test_constants_and_biases():
    assert (init.constant(0.25)((4,), np.float32, None) == 0.25).all()
    assert (init.uniform(0.1)((5,), np.float32, init.Stream(0)) != 0).all()
    assert np.std(init.normal(3.0)((4000,), np.float64, init.Stream(0))) == pytest.approx(3.0, rel=0.06)
    for shape in [(4,), (2, 3, 4), (0, 3)]:
        with pytest.raises(ValueError, match="shape"):
            init.he_uniform(shape, np.float32, init.Stream(0))


@pytest.mark.parametrize("make", [init.uniform, init.normal])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_spreads_must_make_sense(make, value):
    with pytest.raises(ValueError, match="finite"):
        make(value)


def test_resolve():
    assert init.resolve("glorot") is init.xavier_uniform
    assert init.resolve(0.5) == init.constant(0.5)
    assert init.resolve(init.he_normal) is init.he_normal
    with pytest.raises(ValueError, match="'xavir'.*xavier.*lecun_normal"):
        init.resolve("xavir")
    for bad in (None, True, [1]):
        with pytest.raises(TypeError, match="initializer"):
            init.resolve(bad)


def test_inverse_sigmoid():
    assert init.inverse_sigmoid(0.2) == pytest.approx(-1.3862944, abs=5e-8)
    assert init.inverse_sigmoid(0.5) == 0.0
    p = np.array([[1e-12, 0.3], [0.7, 1 - 1e-9]])
    z = init.inverse_sigmoid(p)
    assert z.shape == p.shape
    np.testing.assert_allclose(1 / (1 + np.exp(-z)), p, rtol=1e-14)
    for bad in (0.0, 1.0, -0.1, np.nan, [0.5, 2.0]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            init.inverse_sigmoid(bad)


def test_output_bias():
    y = np.array([1, 0, 0, 0, 0])
    np.testing.assert_allclose(init.output_bias(y), [0.2])
    np.testing.assert_allclose(init.output_bias(y, "sigmoid"), [-1.3862944], atol=5e-8)
    np.testing.assert_allclose(init.output_bias([[1.0, 5.0], [3.0, 7.0]]), [2.0, 6.0])
    with pytest.raises(ValueError, match="targets"):
        init.output_bias([])
    with pytest.raises(ValueError, match="activation"):
        init.output_bias(y, "relu")
