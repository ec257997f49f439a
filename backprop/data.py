"""Data to train on: the embedded digits, IDX and CSV files, splitting, scaling and one-hot rows."""

import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import math
import numbers
import operator
import os
import sys
import zlib

import numpy as np

from .arrays import check_array
from .errors import FileFormatError

__all__ = ["Standardizer", "Table", "digits", "load_csv", "load_idx", "one_hot", "train_test_split"]


def digits():
    """The 1,797 handwritten digits of 8x8 pixels that come with the package.

    "Optical Recognition of Handwritten Digits" (test part), E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
    Repository, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0.

    Returns
    -------
    X : float32, shape (1797, 64)
        Rows of pixels, 0 (paper) to 1 (ink).
    y : int64, shape (1797,)
        The digit on each image.
    """
    with np.load(os.path.join(os.path.dirname(__file__), "digits.npz"), allow_pickle=False) as f:
        return f["X"].astype(np.float32) / np.float32(16), f["y"].astype(np.int64)


# -------------------------------------------------------------------------------------------------------------- IDX

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DEFLATE_RATIO = 1032  # no byte of a deflate stream can become more bytes than this


def load_idx(path):
    """An array from a file in MNIST's IDX format, gzip-compressed or not (its first bytes tell).

    The format: two zero bytes, a byte for the dtype (8 uint8, 9 int8, 11 int16, 12 int32, 13 float32, 14 float64), a byte
    for the number of dimensions, each dimension as 4 bytes, the elements; big-endian throughout.

    Returns
    -------
    ndarray
        In native byte order, writable.

    Raises
    ------
    FileFormatError
        Where magic, dimensions or length are wrong, or the compressed data are damaged. At most the bytes that the header
        announces are decompressed, and memory grows only as they arrive.
    """
    with open(path, "rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            with gzip.open(raw) if packed else raw as f:
                return _read_idx(f, path, size * _DEFLATE_RATIO if packed else size)
        except (gzip.BadGzipFile, zlib.error, EOFError) as e:
            raise FileFormatError(f"{os.fspath(path)}: damaged gzip data: {e}") from e


def _read_idx(f, path, most):
    """`most` is an upper bound of the bytes that f can give."""

    def bad(what):
        return FileFormatError(f"{os.fspath(path)}: {what}")

    magic = f.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES or not 1 <= magic[3] <= 32:
        raise bad(f"not an IDX file, it begins with {magic.hex(' ') or 'nothing'}")
    ndim = magic[3]
    dims = f.read(4 * ndim)
    if len(dims) < 4 * ndim:
        raise bad(f"cut short within its {ndim} dimensions")
    shape = tuple(int.from_bytes(dims[4 * i : 4 * i + 4], "big") for i in range(ndim))
    dtype = np.dtype(_IDX_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if 4 + 4 * ndim + expected > most or math.prod(d for d in shape if d) * dtype.itemsize > sys.maxsize:
        raise bad(f"shape {shape} of {dtype.name} takes {expected} bytes, more than the file can hold")
    data = bytearray()
    while chunk := f.read(min(1 << 20, expected + 1 - len(data))):
        data += chunk
    if len(data) != expected:
        found = f"only {len(data)} follow" if len(data) < expected else "more follow"
        raise bad(f"shape {shape} of {dtype.name} takes {expected} bytes, {found}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


# -------------------------------------------------------------------------------------------------------------- CSV


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length: float64 arrays where every cell is a number or missing (NaN), else lists of str.

    `lines` is where in the file each row begins, for messages.
    """

    names: tuple
    columns: tuple
    lines: tuple

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, name):
        return self.columns[self._index(name)]

    def is_numeric(self, name):
        """Whether a column is a float64 array."""
        return isinstance(self[name], np.ndarray)

    def without(self, *names):
        """The table that lacks these columns; at least one must remain."""
        gone = {self._index(name) for name in names}
        keep = [i for i in range(len(self.names)) if i not in gone]
        if not keep:
            raise ValueError("names would leave no column")
        return Table(tuple(self.names[i] for i in keep), tuple(self.columns[i] for i in keep), self.lines)

    def matrix(self, names=None):
        """Numeric columns side by side: float64, shape (rows, len(names)); by default all columns.

        Raises ValueError, naming line and column, where a cell is not a number.
        """
        names = self.names if names is None else names
        for name in names:
            if not self.is_numeric(name):
                line, cell = next((ln, c) for ln, c in zip(self.lines, self[name], strict=True) if c and not _is_number(c))
                raise ValueError(f"line {line}, column {name!r}: {cell!r} is not a number")
        return np.stack([self[name] for name in names], axis=1)

    def _index(self, name):
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(f"no column {name!r}; there are {', '.join(map(repr, self.names))}") from None


def load_csv(path, *, delimiter=None, header=None, missing="nan"):
    """A table from a text file of values separated by commas, semicolons or tabs.

    UTF-8 with or without byte-order mark; any line ends; cells may be quoted with ``"``. Blank lines are skipped. Numbers
    have a decimal point, whatever the locale; ``nan`` and ``inf`` are numbers. A column is numeric if each of its cells is
    a number or empty.

    Parameters
    ----------
    path : path-like
    delimiter : str, optional
        One character; by default a tab, semicolon or comma that splits the first lines into equally many cells, in this
        order, or else none (one column).
    header : bool, optional
        Whether the first line holds names. By default it does unless all its cells are numbers.
    missing : {"nan", "error"}
        An empty cell is NaN in a numeric column and "" in one of text; or an error that names line and column.

    Returns
    -------
    Table

    Raises
    ------
    FileFormatError
        Naming the line: ragged rows, an open quote, missing cells (if asked for), no rows, names that stand twice; or
        bytes that are not UTF-8 text.
    """
    if missing not in ("nan", "error"):
        raise ValueError(f"missing must be 'nan' or 'error', got {missing!r}")
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"'):
        raise ValueError(f"delimiter must be one character, got {delimiter!r}")

    def bad(what):
        return FileFormatError(f"{os.fspath(path)}: {what}")

    with open(path, "rb") as f:
        text = f.read()
    try:
        text = text.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise bad(f"not UTF-8 text at byte {e.start}") from e
    if "\0" in text:
        raise bad("not a text file, it holds zero bytes")
    if delimiter is None:
        delimiter = _sniff(text)
    rows, lines, line = [], [], 1
    reader = _csv_reader(text, delimiter)
    try:
        for row in reader:
            if row:
                if rows and len(row) != len(rows[0]):
                    raise bad(f"line {line} has {len(row)} cells, line {lines[0]} has {len(rows[0])}")
                rows.append([cell.strip() for cell in row])
                lines.append(line)
            line = reader.line_num + 1  # a quoted cell may span lines: an error names the row's first
    except csv.Error as e:
        raise bad(f"line {line}: {e}") from e

    if header is None:
        header = bool(rows) and not all(cell and _is_number(cell) for cell in rows[0])
    names = rows.pop(0) if header and rows else [""] * (len(rows[0]) if rows else 0)
    lines = lines[len(lines) - len(rows) :]
    if not rows:
        raise bad("no rows")
    names = tuple(name or f"column{i}" for i, name in enumerate(names, 1))
    if len(set(names)) != len(names):
        raise bad(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
    if missing == "error":
        for row, line in zip(rows, lines, strict=True):
            if "" in row:
                raise bad(f"line {line}, column {names[row.index('')]!r}: missing")
    columns = tuple(_column(list(cells)) for cells in zip(*rows, strict=True))
    return Table(names, columns, tuple(lines))


def _csv_reader(text, delimiter):
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)


def _sniff(text):
    """The delimiter that makes the first lines equally long; failing that, the one that cuts the first line most."""
    widths = {delimiter: [] for delimiter in "\t;,"}
    for delimiter, width in widths.items():
        with contextlib.suppress(csv.Error):  # quotes that make no sense, perhaps with this delimiter only
            for row in itertools.islice(filter(None, _csv_reader(text, delimiter)), 20):
                width.append(len(row))
    for delimiter, width in widths.items():
        if len(set(width)) == 1 and width[0] > 1:
            return delimiter
    return max(widths, key=lambda d: (widths[d][:1], d == ","))


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.isascii()  # float() also takes 1_000 and digits of other scripts


def _column(cells):
    """float64 array if each cell is a number or empty, else the cells."""
    joined = "".join(cells)
    if "_" in joined or not joined.isascii():
        return cells
    try:
        return np.array([float(cell or "nan") for cell in cells])
    except ValueError:
        return cells


# ------------------------------------------------------------------------------------------------------ preparation


def train_test_split(*arrays, test_fraction=0.25, seed=0, stratify=None):
    """Split rows at random into a part to train on and a part to test on.

    Parameters
    ----------
    *arrays : array_like
        Of equal length.
    test_fraction : float
        Between 0 and 1; each part gets at least one row.
    seed : int
        The same seed gives the same split, on every machine and with every version of NumPy.
    stratify : array_like, shape (n,), optional
        Labels of any kind; both parts then have every label in equal proportion, to within one row.

    Returns
    -------
    tuple of ndarray
        ``(a_train, a_test, b_train, b_test, ...)``, rows in random order.
    """
    if not arrays:
        raise ValueError("arrays: expected at least one")
    arrays = [np.asarray(a) for a in arrays]
    for i, a in enumerate(arrays):
        if a.ndim == 0 or len(a) != len(arrays[0]):
            raise ValueError(f"arrays[{i}] has shape {a.shape}, arrays[0] has shape {arrays[0].shape}: unequal rows")
    n = len(arrays[0])
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, numbers.Real) or not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction!r}")
    n_test = round(n * test_fraction)
    if not 0 < n_test < n:
        raise ValueError(f"test_fraction {test_fraction} of {n} rows leaves one part empty")
    order = _permutation(n, seed)
    is_test = np.zeros(n, bool)
    if stratify is None:
        is_test[order[:n_test]] = True
    else:
        stratify = np.asarray(stratify)
        if stratify.shape != (n,):
            raise ValueError(f"stratify must have shape ({n},), got {stratify.shape}")
        _, label, count = np.unique(stratify, return_inverse=True, return_counts=True)
        # Largest remainders: a label gets floor(count n_test / n) test rows, those nearest to one more get it.
        take, remainder = np.divmod(count * n_test, n)
        take[np.argsort(-remainder, kind="stable")[: n_test - take.sum()]] += 1
        by_label = order[np.argsort(label[order], kind="stable")]  # grouped by label, at random within each
        within = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
        is_test[by_label[within < np.repeat(take, count)]] = True
    parts = order[~is_test[order]], order[is_test[order]]
    return tuple(a[part] for a in arrays for part in parts)


def _permutation(n, seed):
    """Row numbers sorted by random 64-bit keys: splitmix64 (Steele, Lea and Flood 2014) of seed and row."""
    seed = operator.index(seed)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")

    def mix(z):  # uint64 arrays wrap around
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    start = mix(np.array([seed], np.uint64))  # mixed, so that neighbouring seeds do not share keys
    keys = mix(start + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.argsort(keys, kind="stable")


class Standardizer:
    """Columns to mean 0 and standard deviation 1; a constant column to 0.

    Attributes
    ----------
    mean, scale : float64, shape (columns,)
        ``transform`` gives ``(X - mean) / scale``. A constant column's scale is 1.
    """

    def __init__(self, mean, scale):
        mean = check_array("mean", mean, np.float64, ndim=1, finite=True)
        scale = check_array("scale", scale, np.float64, ndim=1, finite=True)
        if mean.shape != scale.shape:
            raise ValueError(f"scale has shape {scale.shape}, mean has {mean.shape}")
        if not (scale > 0).all():
            raise ValueError(f"scale[{int((scale > 0).argmin())}] is not positive")
        self.mean, self.scale = mean, scale

    @classmethod
    def fit(cls, X):
        """The standardizer of the columns of X, shape (rows, columns); NaN and infinity are errors."""
        X = check_array("X", X, np.float64, ndim=2, finite=True)
        low, high = X.min(axis=0), X.max(axis=0)
        constant = low == high  # exactly: the rounding errors of a computed deviation would be blown up to 1
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(constant, low, X.mean(axis=0))
            scale = np.where(constant, 1.0, np.sqrt(np.square(X - mean).mean(axis=0)))
        usable = np.isfinite(scale) & (scale > 0)
        if not usable.all():
            raise ValueError(f"X: the spread of column {int(usable.argmin())} is beyond float64")
        return cls(mean, scale)

    def transform(self, X):
        """``(X - mean) / scale``, computed in float64; float32 for float32 X, else float64."""
        X, dtype = self._columns(X)
        return ((X - self.mean) / self.scale).astype(dtype, copy=False)

    def inverse(self, X):
        """``X * scale + mean``, dtypes as in `transform`."""
        X, dtype = self._columns(X)
        return (X * self.scale + self.mean).astype(dtype, copy=False)

    def arrays(self):
        """Plain arrays to be saved; ``Standardizer(**arrays)`` has them back."""
        return {"mean": self.mean.copy(), "scale": self.scale.copy()}

    def _columns(self, X):
        dtype = np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64
        X = check_array("X", X, np.float64, ndim=2, empty=True)
        if X.shape[1] != len(self.mean):
            raise ValueError(f"X must have {len(self.mean)} columns, got shape {X.shape}")
        return X, dtype


def one_hot(labels, classes=None, dtype=np.float32):
    """Rows of zeros with a 1 at the label: shape (n,) -> (n, classes). By default classes is the largest label + 1."""
    labels = check_array("labels", labels, np.int64, ndim=1)
    classes = int(labels.max()) + 1 if classes is None else operator.index(classes)
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"labels[{i}] is {labels[i]}, expected 0 to {classes - 1}")
    rows = np.zeros((len(labels), classes), dtype)
    rows[np.arange(len(labels)), labels] = 1
    return rows
