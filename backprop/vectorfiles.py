"""Files of word vectors: GloVe's text, word2vec's text and binary, gzip-compressed or not.

The C core parses a file chunk by chunk, with the GIL released. A file may come from anywhere: whatever is wrong raises
FileFormatError, with the number of the line, and memory grows only with what has been read.
"""

import codecs
import contextlib
import os
import sys
import zlib

from . import _core
from .errors import FileFormatError
from .files import atomic_write

__all__ = ["FORMATS", "read", "write"]

FORMATS = ("glove", "word2vec", "binary")
_CHUNK = 1 << 22  # bytes read at once
_LONGEST = 1 << 24  # bytes of one line or record: more means that this is no such file
_DEFLATE_RATIO = 1032  # no byte of a deflate stream can become more bytes than this


def write(path, table, matrix, format):
    """Write the words of a `_core.Words` with their rows of a float32 matrix. Nine digits give every float32 back."""
    numbers = " %.9g" * matrix.shape[1] + "\n"
    with atomic_write(path) as file, _packed(file, path) as f:
        if format != "glove":
            f.write(b"%d %d\n" % matrix.shape)
        for i, row in enumerate(matrix):
            if format == "binary":
                f.write(table.get(i) + b" " + row.astype("<f4").tobytes() + b"\n")
            else:
                f.write(table.get(i) + (numbers % tuple(row.tolist())).encode())


def read(path, wanted, format, codec, errors, max_bytes):
    """Read a file: `WordVectors.load` says what of it.

    Parameters
    ----------
    wanted : _core.Words or None
    format : one of FORMATS, or None
    codec : codecs.CodecInfo
    errors : str
    max_bytes : int

    Returns
    -------
    table, matrix, duplicates : _core.Words, float32 (n, d), int
    """
    plain = codec.name == "utf-8" and errors == "strict"  # then the core checks and selects the words itself
    with _opened(path, max_bytes) as (f, most):
        table, matrix, duplicates = _read(f, os.fspath(path), most, format, wanted if plain else None, plain)
    if plain:
        return table, matrix, duplicates
    table, matrix, again = _recoded(os.fspath(path), table, matrix, codec, errors, wanted)
    return table, matrix, duplicates + again


@contextlib.contextmanager
def _opened(path, max_bytes):
    """-> (file of the unpacked bytes, how many they may be at most)."""
    with open(path, "rb", buffering=0) as raw:
        size = os.fstat(raw.fileno()).st_size
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw, size or sys.maxsize  # some special files have no size
            return
        import gzip  # it costs an import more than most programs need

        try:
            with gzip.open(raw) as f:
                yield f, min(size * _DEFLATE_RATIO, max_bytes)
        except (gzip.BadGzipFile, zlib.error, EOFError) as e:
            raise FileFormatError(f"{os.fspath(path)}: damaged gzip data: {e}") from e


@contextlib.contextmanager
def _packed(f, path):
    """`f`, or a compressing file before it. No time and no name goes in: the same vectors give the same bytes."""
    if os.fspath(path).endswith(".gz"):
        import gzip

        with gzip.GzipFile("", "wb", fileobj=f, mtime=0) as g:
            yield g
    else:
        yield f


def _fill(f, view):
    """Read until `view` is full or the file has ended: how many bytes there are."""
    n = 0
    while n < len(view) and (k := f.readinto(view[n:])):
        n += k
    return n


def _read(f, path, most, format, wanted, utf8):
    """-> (table, matrix, duplicates). `most` is an upper bound of the bytes that f may give."""

    def bad(what):
        return FileFormatError(f"{path}: {what}")

    buffer = bytearray(_CHUNK)
    n = total = _fill(f, memoryview(buffer))
    format, announced, dim, at = _header(bytes(buffer[:n]), format, bad)
    if dim and announced > most // (2 * dim + 1):
        raise bad(f"line 1 announces {announced} vectors of {dim} numbers, more than the file can hold")
    binary, ended = format == "binary", False
    reader = _core.VectorReader(binary, dim, announced, int(dim > 0), wanted, utf8)
    while True:
        try:
            used = at + reader.feed(memoryview(buffer)[at:n])
        except ValueError as e:
            raise bad(e) from None
        if ended:
            break
        buffer[: n - used] = buffer[used:n]
        n, at = n - used, 0
        if n > _LONGEST:
            raise bad(f"after {total - n} bytes, no end of a line or vector within {n} bytes")
        if 2 * n > len(buffer):
            buffer.extend(bytes(len(buffer)))
        got = _fill(f, memoryview(buffer)[n:])
        total += got
        if total > most:
            raise bad(f"becomes more than {most} bytes when it is unpacked (max_bytes)")
        ended = not got
        n += got
        if ended and n and not binary:
            buffer[n : n + 1] = b"\n"  # the last line may lack it
            n += 1
    _, dim, seen, duplicates = reader.counts
    if announced >= 0 and seen < announced:
        rest = f", and {n - used} bytes of one that is cut short" if binary and n > used else ""
        raise bad(f"line 1 announces {announced} vectors, the file holds {seen}{rest}")
    if not seen:
        raise bad("holds no vectors")
    return *reader.take(), duplicates


def _header(head, format, bad):
    """-> (format, announced vectors or -1, numbers a vector or 0, where the vectors begin)."""
    start = 3 if head.startswith(codecs.BOM_UTF8) else 0
    end = head.find(b"\n") + 1 or len(head)
    fields = head[start:end].split()
    if len(fields) == 2 and all(x.isdigit() and len(x) < 19 for x in fields) and format != "glove":
        announced, dim = map(int, fields)
        if not 0 < 4 * dim < _LONGEST or not announced:
            raise bad(f"line 1 announces {announced} vectors of {dim} numbers")
        if format is None:
            format = "word2vec" if _looks_like_text(head[end:], dim) else "binary"
        return format, announced, dim, end
    if format in ("word2vec", "binary"):
        raise bad("line 1 must be the number of vectors and the numbers in each")
    return "glove", -1, 0, start


def _looks_like_text(row, dim):
    """Whether decimal numbers follow the first word of `row`, rather than `dim` float32: those are hardly all printable."""
    numbers = row.partition(b" ")[2][: 4 * dim]
    line, newline, _ = numbers.partition(b"\n")
    if newline and len(line) < 2 * dim - 1:  # too short for so many numbers and the blanks between them
        return False
    return all(32 <= c < 127 or c in b"\t\r" for c in line)


def _recoded(path, table, matrix, codec, errors, wanted):
    """The table in UTF-8, the rows that stay, and how many fell together."""
    new, rows, again = _core.Words(), [], 0
    for i in range(len(table)):
        try:
            word, _ = codec.decode(table.get(i), errors)
        except UnicodeError as e:
            raise FileFormatError(f"{path}: word {i + 1}: {e}") from None
        if not word or (wanted is not None and wanted.find(word) < 0):
            continue
        if new.add(word) == len(rows):
            rows.append(i)
        else:
            again += 1
    return new, matrix[rows], again
