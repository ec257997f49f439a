"""Splitting, standardising and one-hot rows of backprop.data."""

import numpy as np
import pytest

from backprop import data


def test_split_is_a_partition_with_rows_kept_together():
    X, y = np.arange(40).reshape(20, 2), np.arange(20)
    X0, X1, y0, y1 = data.train_test_split(X, y, test_fraction=0.3, seed=4)
    assert len(y1) == 6 and sorted([*y0, *y1]) == list(range(20))
    assert np.array_equal(X0[:, 0], 2 * y0) and np.array_equal(X1[:, 0], 2 * y1)
    assert y0.tolist() != sorted(y0)  # in random order


def test_the_same_seed_gives_the_same_split_for_ever():
    def split(seed):
        return data.train_test_split(np.arange(10), test_fraction=0.3, seed=seed)[1].tolist()

    # splitmix64 in Python's whole numbers, keys sorted, gives the same
    assert [split(0), split(1), split(2**64 - 1)] == [[2, 4, 6], [7, 4, 8], [3, 5, 2]]
    assert len({tuple(split(seed)) for seed in range(50)}) > 40


def test_every_row_is_as_likely_in_the_test_part():
    counts = np.zeros(10)
    for seed in range(2000):
        counts[data.train_test_split(np.arange(10), test_fraction=0.3, seed=seed)[1]] += 1
    assert np.abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_stratified():
    labels = np.array(["a"] * 50 + ["b"] * 30 + ["c"] * 7)
    rows = np.arange(87)
    train, test, l0, l1 = data.train_test_split(rows, labels, test_fraction=0.2, seed=1, stratify=labels)
    assert len(test) == 17 and np.array_equal(labels[test], l1) and np.array_equal(labels[train], l0)
    for label, n in [("a", 50), ("b", 30), ("c", 7)]:
        assert abs((l1 == label).sum() - n * 17 / 87) < 1
    other = data.train_test_split(rows, test_fraction=0.2, seed=2, stratify=labels)[1]
    assert set(other) != set(test)
    assert len(set(l1[:6])) > 1  # labels are mixed, not one after the other


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2, np.nan, True, "0.2", 0.001, 0.999])
def test_fractions(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        data.train_test_split(np.arange(20), test_fraction=fraction)


def test_split_arguments():
    with pytest.raises(ValueError, match=r"arrays\[1\] has shape \(3,\), arrays\[0\] has shape \(4,\)"):
        data.train_test_split(np.arange(4), np.arange(3))
    with pytest.raises(ValueError, match="arrays"):
        data.train_test_split()
    with pytest.raises(ValueError, match="stratify"):
        data.train_test_split(np.arange(4), stratify=[1, 2])
    with pytest.raises(ValueError, match="seed"):
        data.train_test_split(np.arange(4), seed=-1)
    with pytest.raises(TypeError):
        data.train_test_split(np.arange(4), seed=0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_standardizer(dtype):
    X = (np.random.default_rng(0).normal(size=(200, 3)) * [1, 50, 900] + [0, 1000, -3]).astype(dtype)
    s = data.Standardizer.fit(X)
    Z = s.transform(X)
    assert Z.dtype == (np.float32 if dtype == np.float32 else np.float64)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-4 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(Z.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(s.inverse(Z), X, rtol=1e-3 if dtype == np.float32 else 1e-9, atol=1e-4)
    again = data.Standardizer(**s.arrays())
    assert np.array_equal(again.transform(X[:5]), Z[:5])
    assert s.transform(X[:0]).shape == (0, 3)


def test_constant_columns_have_scale_one():
    # 0.1 summed has a rounding error, from which a naive deviation of 1e-17 would make ones.
    X = np.column_stack([np.full(11, 0.1), np.arange(11.0), np.full(11, 1e300)])
    s = data.Standardizer.fit(X)
    assert s.scale[[0, 2]].tolist() == [1, 1] and s.mean[0] == 0.1
    assert not s.transform(X)[:, [0, 2]].any() and s.transform(X)[:, 1].any()


def test_standardizer_arguments():
    fit = data.Standardizer.fit
    with pytest.raises(ValueError, match=r"X\[1, 0\] is nan"):
        fit([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="X must have 2 dimensions"):
        fit([1.0, 2.0])
    with pytest.raises(ValueError, match="column 1 is beyond"):
        fit([[1, -1e300], [2, 1e300]])
    with pytest.raises(ValueError, match="2 columns"):
        fit([[1, 2], [3, 4]]).transform([[1.0]])
    cases = [([0, 0], [1], "scale"), ([0], [0], r"scale\[0\]"), ([0], [-1], "scale"), ([np.nan], [1], "mean")]
    for mean, scale, message in cases:
        with pytest.raises(ValueError, match=message):
            data.Standardizer(mean, scale)


def test_one_hot():
    assert data.one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert data.one_hot([1.0], 4, np.float64).dtype == np.float64
    cases = [([0, 3], r"labels\[1\] is 3, expected 0 to 2"), ([-1], "is -1"), ([0.5], "is 0.5"), ([], "empty")]
    for labels, message in cases:
        with pytest.raises(ValueError, match=message):
            data.one_hot(labels, 3)
