"""The one check that every array of a caller passes through.

It stands low in the house, because layers, trainers, metrics and data readers all take arrays from outside.
"""

import numpy as np

__all__ = ["Once", "check_array", "check_rows", "check_weights"]

_CHUNK = 1 << 20  # elements looked at in one go, so that a large memory map is not doubled by its own check


def check_array(name, a, dtype, *, ndim=None, finite=False, empty=False):
    """An array that the C core can take: `a` itself if it fits, else a converted copy.

    Parameters
    ----------
    name : str
        What the caller calls this argument; every message begins with it.
    a : array_like
        A real or boolean NumPy array (any dtype, byte order, strides; read-only and memory-mapped too), an object with
        ``__array__``, ``__dlpack__`` or the buffer protocol, or nested sequences of numbers.
    dtype : dtype
        A float or integer dtype. An integer dtype takes floats only where each is a whole number in its range.
    ndim : int or tuple of int, optional
        Number of dimensions allowed.
    finite : bool
        Whether NaN and infinity are errors. Numbers too large for `dtype` count as infinite.
    empty : bool
        Whether an array without elements is allowed.

    Returns
    -------
    ndarray
        C-contiguous, aligned, of dtype `dtype` in native byte order. It shares memory with `a` wherever that fits.

    Raises
    ------
    TypeError
        For what holds no real numbers: objects, complex numbers, strings, dates, None.
    ValueError
        For ragged sequences, masked elements, a wrong number of dimensions, no elements, numbers that `dtype` cannot hold.
    """
    if type(a) is np.ndarray and a.dtype == dtype and a.ndim == ndim and a.size and not finite:
        flags = a.flags  # the way of most training steps, which take microseconds
        if flags.c_contiguous and flags.aligned:
            return a
    dtype = np.dtype(dtype)
    a = _as_ndarray(name, a)
    if a.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {a.dtype}")
    if ndim is not None and a.ndim not in (ndim if isinstance(ndim, tuple) else (ndim,)):
        wanted = " or ".join(map(str, ndim)) if isinstance(ndim, tuple) else ndim
        raise ValueError(f"{name} must have {wanted} dimension{'s' * (wanted != 1)}, got shape {a.shape}")
    if a.size == 0 and not empty:
        raise ValueError(f"{name} is empty, shape {a.shape}")
    if dtype.kind in "iu" and a.dtype != dtype and a.dtype.kind != "b":
        _check_whole(name, a, dtype)
    source = a
    if a.dtype != dtype or not a.flags.c_contiguous or not a.flags.aligned:
        with np.errstate(over="ignore"):  # float64 to float32 may overflow: found below, with its position
            a = np.require(a, dtype, ["C", "A"])
    if finite and dtype.kind == "f":
        _check_finite(name, a, source)
    return a


def check_weights(name, weights, n):
    """Sample weights: float64, shape (n,), finite, none negative, not all zero. None gives None."""
    if weights is None:
        return None
    weights = check_array(name, weights, np.float64, ndim=1, finite=True)
    if len(weights) != n:
        raise ValueError(f"{name} must have one weight a sample: expected {n}, got {len(weights)}")
    negative = weights < 0
    if negative.any():
        i = int(negative.argmax())
        raise ValueError(f"{name}[{i}] is negative: {weights[i]}")
    if not weights.any():
        raise ValueError(f"{name} are all zero")
    return weights


def check_rows(name, rows, n):
    """Numbers of rows of arrays that have `n`: int64, shape (k,), at least one. A mask, n booleans, names the rows where it is True."""
    a = _as_ndarray(name, rows)
    if a.dtype == bool:
        if a.shape != (n,):
            raise ValueError(f"{name} is a mask of shape {a.shape} for {n} rows")
        a = np.flatnonzero(a)
    a = check_array(name, a, np.int64, ndim=1)
    if a.min() < 0 or a.max() >= n:
        i = int(((a < 0) | (a >= n)).argmax())
        raise ValueError(f"{name}[{i}] is {a[i]}, out of range for {n} rows (0 .. {n - 1})")
    return a


class Once:
    """Checks an array once, where many networks are given the same: ``once(f, name, a, ...)`` is ``f(name, a, ...)``, or what that was
    the last time."""

    def __init__(self):
        self._found = {}

    def __call__(self, f, name, a, *args, **options):
        key = (f, name, id(a), args, *options.items())
        if key not in self._found:
            self._found[key] = (f(name, a, *args, **options), a)  # `a` too: another object would have its id else
        return self._found[key][0]


def _as_ndarray(name, a):
    """`a` as a base-class ndarray, without a copy where NumPy can see its memory."""
    if type(a) is np.ndarray:
        return a
    if isinstance(a, np.ma.MaskedArray):
        if np.ma.is_masked(a):
            raise ValueError(f"{name} has masked elements")
        return np.asarray(a.data)
    if a is None:
        raise TypeError(f"{name} is None, expected an array")
    try:
        # Objects that offer DLPack alone would become an array of one object.
        if hasattr(a, "__dlpack__") and not hasattr(a, "__array__"):
            return np.from_dlpack(a)
        return np.asarray(a)
    except ValueError as e:
        raise ValueError(f"{name} is not a rectangular array: {e}") from e
    except Exception as e:  # a foreign __array__ may raise anything, as PyTorch does for tensors that require gradients
        raise TypeError(f"{name} of type {type(a).__name__} cannot be read as an array: {e}") from e


def _position(name, flat_index, shape):
    index = ", ".join(str(int(i)) for i in np.unravel_index(flat_index, shape))
    return f"{name}[{index}]" if shape else name


def _check_finite(name, a, source):
    """`a` is C-contiguous; `source` is what it was converted from, to tell overflow from infinity."""
    flat = a.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        good = np.isfinite(flat[start : start + _CHUNK])
        if np.count_nonzero(good) < good.size:  # many times faster than good.all()
            i = start + int(good.argmin())
            value = source[np.unravel_index(i, a.shape)]
            why = f"too large for {a.dtype}" if np.isfinite(value) else "expected finite numbers"
            raise ValueError(f"{_position(name, i, a.shape)} is {value}, {why}")


def _check_whole(name, a, dtype):
    """Every element of `a`, of another dtype, is a whole number that integer `dtype` can hold."""
    info = np.iinfo(dtype)
    if a.dtype.kind == "f":
        # max + 1 is a power of two and exact as a float64; max itself may not be. NaN fails every comparison.
        good = (a == np.floor(a)) & (a >= np.float64(info.min)) & (a < np.float64(info.max + 1))
    else:
        good = (a >= info.min) & (a <= info.max)
    if not good.all():
        i = int(good.argmin())
        value = a[np.unravel_index(i, a.shape)]
        raise ValueError(f"{_position(name, i, a.shape)} is {value}, expected whole numbers that fit {dtype}")
