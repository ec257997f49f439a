"""Arrays of callers, the embedded digits, IDX and CSV files, splitting, scaling, one-hot rows."""

import array
import gzip
import hashlib
import random
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop import data
from backprop.arrays import check_array, check_weights
from backprop.errors import FileFormatError

# ----------------------------------------------------------------------------------------------------- check_array


class Offers:
    """An object with nothing but one protocol."""

    def __init__(self, a):
        self.a = a


class OffersArray(Offers):
    def __array__(self, dtype=None, copy=None):
        return self.a


class OffersDlpack(Offers):
    def __dlpack__(self, **kwargs):
        return self.a.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


def test_what_fits_is_not_copied(tmp_path):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert check_array("X", a, np.float32, ndim=2, finite=True) is a
    a.flags.writeable = False
    assert check_array("X", a, np.float32, finite=True) is a
    a.tofile(tmp_path / "m")
    mapped = np.memmap(tmp_path / "m", np.float32, "r", shape=(2, 3))
    for other in (mapped, OffersArray(a), OffersDlpack(a.copy()), memoryview(a)):
        got = check_array("X", other, np.float32, finite=True)
        assert type(got) is np.ndarray and np.array_equal(got, a)
        source = other if isinstance(other, (np.memmap, memoryview)) else other.a
        assert np.shares_memory(got, source)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("source", ["?", "i1", "u8", "f2", ">f4", "f4", ">f8", "g", ">i4"])
def test_conversions(dtype, source):
    values = np.array([[0, 1, 2], [3, 4, 5]]) if source != "?" else np.eye(2, 3)
    unaligned = np.frombuffer(b"x" + values.astype(source).tobytes(), np.uint8)[1:].view(source).reshape(values.shape)
    a = values.astype(source)
    for variant in (a, np.asfortranarray(a), np.repeat(a, 2, axis=0)[::2], a[::-1, ::-1][::-1, ::-1], unaligned):
        got = check_array("X", variant, dtype, ndim=(1, 2), finite=True)
        assert got.dtype == np.dtype(dtype) and got.dtype.isnative and got.flags.c_contiguous and got.flags.aligned
        assert np.array_equal(got, values)


def test_sequences_and_buffers():
    for a in ([[1, 2], [3, 4]], ((1.0, 2), (3, 4)), [np.array([1, 2]), [3, 4]]):
        assert check_array("X", a, np.float32).tolist() == [[1, 2], [3, 4]]
    assert check_array("y", array.array("d", [1.5, 2]), np.float64).tolist() == [1.5, 2]
    assert check_array("y", range(3), np.int64).tolist() == [0, 1, 2]
    assert check_array("y", 3, np.float64, ndim=0).shape == ()
    assert check_array("y", [], np.float64, empty=True).shape == (0,)
    assert check_array("y", np.ma.array([1.0, 2.0]), np.float64).tolist() == [1, 2]


class Explodes:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach() first")


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (None, TypeError, "X is None"),
        (np.array([None, 1]), TypeError, "X must hold real numbers, got dtype object"),
        ([1, "a"], TypeError, "X must hold real numbers"),
        ("text", TypeError, "X must hold"),
        (b"bytes", TypeError, "X must hold"),
        (np.array([1j]), TypeError, "complex128"),
        (np.array(["2020-01-01"], "M8[D]"), TypeError, "datetime64"),
        (np.zeros(2, [("a", "f4")]), TypeError, "X must hold"),
        ({"a": 1}, TypeError, "X must hold"),
        (Explodes(), TypeError, "X of type Explodes.*detach"),
        ([[1, 2], [3]], ValueError, "X is not a rectangular"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), ValueError, "X has masked"),
        ([1.0], ValueError, r"X must have 2 dimensions, got shape \(1,\)"),
        (np.zeros((0, 3)), ValueError, r"X is empty, shape \(0, 3\)"),
        ([[1, 2], [3, np.nan]], ValueError, r"X\[1, 1\] is nan"),
        ([[1, -np.inf]], ValueError, r"X\[0, 1\] is -inf, expected finite"),
        (np.array([[1.0], [1e39]]), ValueError, r"X\[1, 0\] is 1e\+39, too large for float32"),
    ],
)
def test_what_is_refused(a, error, message):
    with pytest.raises(error, match=message):
        check_array("X", a, np.float32, ndim=2, finite=True)


def test_the_first_of_many_is_named():
    a = np.zeros((3, 1 << 20), np.float32)
    a[2, 7] = a[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"X\[1, 5\]"):
        check_array("X", a, np.float32, finite=True)
    assert check_array("X", a, np.float32) is a


@pytest.mark.parametrize(
    ("a", "dtype", "where"),
    [
        ([0.0, 1.5], np.int64, r"y\[1\] is 1.5"),
        ([0.0, np.nan], np.int32, r"y\[1\] is nan"),
        ([np.inf], np.int64, "is inf"),
        ([2.0**31], np.int32, r"y\[0\] is 2147483648.0, .*int32"),
        ([1, 2**31], np.int32, r"y\[1\] is 2147483648, "),
        ([-1.0], np.uint8, "is -1.0"),
        ([2.0**63], np.int64, "is 9.2"),
        (np.array([0, 2**64 - 1], np.uint64), np.int64, r"y\[1\] is 18446744073709551615"),
        (np.array([[3], [300]]), np.uint8, r"y\[1, 0\] is 300"),
        (np.array([np.inf], np.float16), np.int64, "is inf"),
    ],
)
def test_integers_are_whole_and_in_range(a, dtype, where):
    with pytest.raises(ValueError, match=where):
        check_array("y", a, dtype)


def test_integers_at_the_edges():
    assert check_array("y", [-(2.0**31), 2.0**31 - 1], np.int32).tolist() == [-(2**31), 2**31 - 1]
    assert check_array("y", [-(2.0**63)], np.int64).tolist() == [-(2**63)]
    assert check_array("y", np.array([2**63 - 1], np.uint64), np.int64).tolist() == [2**63 - 1]


def test_check_weights():
    assert check_weights("w", None, 3) is None
    assert check_weights("w", [0, 1, 2], 3).dtype == np.float64
    cases = [([1], "expected 3"), ([1, -1, 1], r"w\[1\] is neg"), ([0, 0, 0], "all zero"), ([1, 1, np.nan], "nan")]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            check_weights("w", bad, 3)


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits():
    X, y = data.digits()
    assert X.shape == (1797, 64) and X.dtype == np.float32 and y.shape == (1797,) and y.dtype == np.int64
    assert X.min() == 0 and X.max() == 1 and np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    raw = (X * 16).astype(np.uint8).tobytes() + y.astype(np.uint8).tobytes()
    assert hashlib.sha256(raw).hexdigest() == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    X[0] = 7
    assert data.digits()[0].max() == 1  # the caller's own copy


def test_digits_are_scikit_learns():
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    X, y = data.digits()
    assert np.array_equal(X * 16, theirs.data) and np.array_equal(y, theirs.target)


# ------------------------------------------------------------------------------------------------------------- IDX

CODES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}


def idx(a, code, *, dims=None, magic=b"\0\0"):
    dims = a.shape if dims is None else dims
    head = magic + bytes([code, len(dims)]) + b"".join(struct.pack(">I", d) for d in dims)
    return head + a.astype(">" + CODES.get(code, "u1")).tobytes()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 28, 28)])
def test_idx(tmp_path, code, pack, shape):
    a = (np.arange(np.prod(shape)) * 2 - 5).reshape(shape).astype(CODES[code])
    (tmp_path / "x").write_bytes(pack(idx(a, code)))
    got = data.load_idx(tmp_path / "x")
    assert got.dtype == np.dtype(CODES[code]) and got.dtype.isnative and got.flags.writeable
    assert np.array_equal(got, a)


A = np.arange(12, dtype="u1").reshape(3, 4)
BAD_IDX = {
    "empty": (b"", "not an IDX file"),
    "three bytes": (b"\0\0\x08", "not an IDX file"),
    "magic": (idx(A, 8, magic=b"\0\1"), "not an IDX file"),
    "dtype": (idx(A, 0x0A), "not an IDX file"),
    "no dimensions": (b"\0\0\x08\0", "not an IDX file"),
    "too many dimensions": (idx(A, 8, dims=(1,) * 33), "not an IDX file"),
    "within dimensions": (idx(A, 8)[:9], "cut short"),
    "one byte short": (idx(A, 8)[:-1], "12 bytes"),
    "one byte more": (idx(A, 8) + b"\0", "more follow"),
    "huge": (idx(A, 8, dims=(2**32 - 1,) * 4), "more than the file can hold"),
    "huge but empty": (idx(A[:0], 8, dims=(0,) + (2**32 - 1,) * 4), "more than the file can hold"),
}


@pytest.mark.parametrize("what", BAD_IDX)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_malformed_idx(tmp_path, what, pack):
    raw, message = BAD_IDX[what]
    (tmp_path / "bad.idx").write_bytes(pack(raw))
    with pytest.raises(FileFormatError, match=rf"bad\.idx: .*{message}"):
        data.load_idx(tmp_path / "bad.idx")


def test_damaged_gzip(tmp_path):
    good = gzip.compress(idx(np.arange(5000), 8))
    rng = random.Random(0)
    for i in range(300):
        bad = bytearray(good[: rng.randrange(len(good))] if i % 2 else good)
        if bad and i % 2 == 0:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (tmp_path / "x").write_bytes(bad)
        try:
            # Some bits of the gzip header mean nothing: then the array is whole.
            assert np.array_equal(data.load_idx(tmp_path / "x"), np.arange(5000).astype("u1"))
        except FileFormatError:
            continue
        assert i % 2 == 0


def test_a_gzip_bomb_is_cut_off(tmp_path):
    (tmp_path / "bomb").write_bytes(gzip.compress(idx(A, 8) + b"\0" * (64 << 20)))
    tracemalloc.start()
    try:
        started = time.perf_counter()
        with pytest.raises(FileFormatError, match="more follow"):
            data.load_idx(tmp_path / "bomb")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        assert time.perf_counter() - started < 1
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------------- CSV


def csv(tmp_path, text, **kwargs):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return data.load_csv(path, **kwargs)


def test_csv(tmp_path):
    text = '\ufeffage, "the, name",score\r\n41,"O""Neil\nJr", 1e-3\r\n\r\n,Zoë,-.5\r\n  7 , ,+2.\r\n'
    t = csv(tmp_path, text)
    assert t.names == ("age", "the, name", "score") and len(t) == 3 and t.lines == (2, 5, 6)
    np.testing.assert_array_equal(t["age"], [41, np.nan, 7])
    assert t["the, name"] == ['O"Neil\nJr', "Zoë", ""]
    assert t["score"].dtype == np.float64 and t["score"].tolist() == [0.001, -0.5, 2.0]
    assert t.is_numeric("age") and not t.is_numeric("the, name")
    np.testing.assert_array_equal(t.matrix(["score", "age"]), [[0.001, 41], [-0.5, np.nan], [2, 7]])
    np.testing.assert_array_equal(t.without("the, name").matrix(), t.matrix(["age", "score"]))
    with pytest.raises(ValueError, match='line 2, column \'the, name\': .O"Neil'):
        t.matrix()
    with pytest.raises(KeyError, match="'nope'.*'age'"):
        t["nope"]
    with pytest.raises(ValueError, match="no column"):
        t.without(*t.names)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_line_ends(tmp_path, newline, delimiter):
    t = csv(tmp_path, newline.join(delimiter.join(row) for row in (["a", "b"], ["1", "x"], ["2", "y"])))
    assert t.names == ("a", "b") and t["a"].tolist() == [1, 2] and t["b"] == ["x", "y"]
    assert csv(tmp_path, f"a{delimiter}b\n3{delimiter}4\n", delimiter=delimiter).matrix().tolist() == [[3, 4]]


def test_headers(tmp_path):
    assert csv(tmp_path, "1,2\n3,4\n").names == ("column1", "column2")
    assert len(csv(tmp_path, "1,2\n3,4\n", header=True)) == 1
    assert csv(tmp_path, "a,b\n3,4\n", header=False)["column1"] == ["a", "3"]
    assert csv(tmp_path, ",b\n3,4\n").names == ("column1", "b")
    assert csv(tmp_path, "x\n1\n2").matrix().tolist() == [[1], [2]]


@pytest.mark.parametrize("cell", ["1_000", "٣", "0x10", "1,5", "1e", "--1", "1 2", "one"])
def test_what_is_no_number(tmp_path, cell):
    t = csv(tmp_path, f'a;b\n1;2\n"{cell}";3\n')
    assert t["a"] == ["1", cell] and t["b"].tolist() == [2, 3]
    with pytest.raises(ValueError, match="line 3, column 'a': .* is not a number"):
        t.matrix()


def test_numbers_do_not_depend_on_the_locale(tmp_path):
    import locale

    old = locale.setlocale(locale.LC_NUMERIC)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_NUMERIC, name)
        except locale.Error:
            continue
        try:
            assert csv(tmp_path, "a,b\n1.5,nan\n").matrix()[0, 0] == 1.5
        finally:
            locale.setlocale(locale.LC_NUMERIC, old)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, line 1 has 2"),
        ('a,b\n"x\ny",2\n3,4,5\n', "line 4 has 3 cells"),
        ("a,b;c\n1,2\n3,4\n5;6\n", "line [24] has"),
        ('a,b\n1,"2\n', "line 2: "),
        ('a,b\n1,"2"x\n', "line 2: "),
        ("", "no rows"),
        ("\n\n", "no rows"),
        ("a,b\n", "no rows"),
        ("a,b,a\n1,2,3\n", "the name 'a' stands twice"),
        (b"a,b\n\xff,2\n", "not UTF-8 text at byte 4"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8"),
        (b"a,b\n\0,2\n", "not a text file, it holds zero"),
        ("a,b\n" + "x" * 200_000 + ",1\n", "line 2: "),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    with pytest.raises(FileFormatError, match=rf"t\.csv: {message}"):
        csv(tmp_path, text)


def test_missing_cells_may_be_errors(tmp_path):
    with pytest.raises(FileFormatError, match="line 3, column 'b': missing"):
        csv(tmp_path, "a,b\n1,2\n3,\n", missing="error")
    assert csv(tmp_path, "a,b\n1,2\n", missing="error")["b"].tolist() == [2]
    for bad in ({"missing": "drop"}, {"delimiter": ",,"}, {"delimiter": '"'}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            csv(tmp_path, "a,b\n1,2\n", **bad)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='ab1.,;\t"\n\r \ufeffé-', max_size=60))
def test_any_text(tmp_path_factory, text):
    try:
        t = csv(tmp_path_factory.mktemp("csv"), text)
    except FileFormatError:
        return
    assert len(t) > 0 and all(len(column) == len(t) for column in t.columns)
    assert len(set(t.names)) == len(t.names) == len(t.columns)
