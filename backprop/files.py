"""Tensors in a file: a strict reader and writer of the safetensors format, and atomic replacement of files.

A file is the length of its header (8 bytes, little-endian), the header (JSON, padded with spaces), and the bytes of the
tensors, little-endian, one after the other:

    {"__metadata__": {"key": "text"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

A file may come from anywhere, so the reader believes nothing: whatever is wrong raises FileFormatError, and no number in
the header leads to more memory than there are bytes in the file (twice that for BF16, which is read as float32).
"""

import contextlib
import json
import math
import os
import re
import stat
from typing import NamedTuple

import numpy as np

from .errors import FileFormatError

__all__ = ["TensorInfo", "atomic_write", "inspect", "read_tensors", "write_tensors"]

MAX_HEADER = 100_000_000  # the format's own limit
MAX_DIMS = 32  # NumPy takes 64; a longer shape is an attack on the reader, not a tensor

# name in the file -> dtype of the bytes. BF16 is the upper half of a float32.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1",
}  # fmt: skip
_NAMES = {np.dtype(code).newbyteorder("="): name for name, code in _DTYPES.items() if name not in ("BF16", "BOOL")}
_NAMES[np.dtype(bool)] = "BOOL"


class TensorInfo(NamedTuple):
    """What the header says of one tensor; `begin` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple
    begin: int
    end: int


# ---------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def atomic_write(path):
    """A binary file that takes the place of `path` when the block ends well, in one step and synced to the disk.

    Where the block, or the writing, fails, the old file is untouched and nothing new is left behind. A link is followed;
    an existing file keeps its permissions, a new one gets those of any new file.
    """
    path = os.path.realpath(os.fspath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is no ordinary file, it cannot be replaced")
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".{os.urandom(8).hex()}.tmp")  # a short name: `path` may be as long as names can be
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(temporary, flags, 0o666)  # the process's umask applies, as to any new file
    except OSError as e:
        e.filename = path  # a name that the caller knows
        raise
    try:
        with open(fd, "wb") as f:
            with contextlib.suppress(OSError):  # no old file, or its mode may not be given
                os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":  # the new name itself must reach the disk; Windows has no such call
        with contextlib.suppress(OSError):  # some network file systems have none either; the file is complete
            folder_fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(folder_fd)
            finally:
                os.close(folder_fd)


def write_tensors(path, tensors, metadata=None):
    """Write arrays to a safetensors file, replacing it atomically.

    Parameters
    ----------
    path : path-like
    tensors : mapping of str to ndarray
        float16 to float64, signed and unsigned integers, bool; any shape, strides and byte order.
    metadata : mapping of str to str, optional

    Raises
    ------
    TypeError, ValueError
        Before anything is written: names and metadata that are not text, dtypes that the format lacks.
    OSError
        Where writing fails; an older file at `path` is then unchanged.
    """
    header = {}
    if metadata is not None:
        for key, text in metadata.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise TypeError(f"metadata must map str to str, got {key!r}: {text!r}")
        header["__metadata__"] = dict(metadata)
    for name, a in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors: names must be str, got {name!r}")
        if name == "__metadata__":
            raise ValueError("tensors: the name '__metadata__' is taken by the format")
        if not isinstance(a, np.ndarray):
            raise TypeError(f"tensors[{name!r}] must be a NumPy array, got {type(a).__name__}")
        if (code := _NAMES.get(a.dtype.newbyteorder("="))) is None:
            raise TypeError(f"tensors[{name!r}]: safetensors has no dtype for {a.dtype}")
        if a.ndim > MAX_DIMS:
            raise ValueError(f"tensors[{name!r}] has {a.ndim} dimensions, more than {MAX_DIMS}")
        header[name] = {"dtype": code, "shape": list(a.shape), "data_offsets": None}

    # Wide elements first, so that every tensor is aligned in a file that somebody maps into memory.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    end = 0
    for name in order:
        header[name]["data_offsets"] = [end, end + tensors[name].nbytes]
        end += tensors[name].nbytes
    try:
        head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"names and metadata must be valid Unicode: {e}") from e
    head += b" " * (-len(head) % 8)
    if len(head) > MAX_HEADER:
        raise ValueError(f"names and metadata take {len(head)} bytes, the format allows {MAX_HEADER}")

    with atomic_write(path) as f:
        f.write(len(head).to_bytes(8, "little"))
        f.write(head)
        for name in order:
            a = tensors[name]
            if a.size:
                a = np.ascontiguousarray(a, a.dtype.newbyteorder("<"))
                f.write(memoryview(a.reshape(-1).view(np.uint8)))


# ---------------------------------------------------------------------------------------------------------- reading


def inspect(path):
    """The header of a safetensors file, checked as `read_tensors` checks it.

    Returns
    -------
    tensors : dict of str to TensorInfo
        In the order of the header.
    metadata : dict of str to str

    Raises
    ------
    FileFormatError
        Where the file is malformed.
    """
    with open(path, "rb") as f:
        infos, metadata, _ = _read_header(f, path)
    return infos, metadata


def read_tensors(path):
    """All tensors of a safetensors file.

    Returns
    -------
    tensors : dict of str to ndarray
        Writable arrays that own their memory, in the order of the header; BF16 becomes float32.
    metadata : dict of str to str

    Raises
    ------
    FileFormatError
        Where anything at all is malformed.
    """
    with open(path, "rb") as f:
        infos, metadata, start = _read_header(f, path)
        tensors = {name: _read_tensor(f, path, start, name, info) for name, info in infos.items()}
    return tensors, metadata


def _bad(path, what):
    return FileFormatError(f"{os.fspath(path)}: {what}")


def _read_tensor(f, path, start, name, info):
    a = np.empty(info.shape, _DTYPES[info.dtype])
    if a.size:
        f.seek(start + info.begin)
        if f.readinto(memoryview(a.reshape(-1).view(np.uint8))) != a.nbytes:
            raise _bad(path, f"tensor {name[:80]!r} was cut short while it was read")
    if info.dtype == "BF16":
        wide = np.empty(info.shape, np.float32)
        np.left_shift(a, 16, out=wide.view(np.uint32), dtype=np.uint32)
        return wide
    if info.dtype == "BOOL":
        if a.size and a.max() > 1:
            raise _bad(path, f"tensor {name[:80]!r} is BOOL but holds a byte that is neither 0 nor 1")
        return a.astype(bool)
    return a.astype(a.dtype.newbyteorder("="), copy=False)


def _read_header(f, path):
    """-> (infos, metadata, where the bytes begin). Everything in the header is checked against the file's size."""
    size = os.fstat(f.fileno()).st_size
    prefix = f.read(8)
    if len(prefix) < 8:
        raise _bad(path, f"{len(prefix)} bytes are too few for a safetensors file")
    n = int.from_bytes(prefix, "little")
    if n > MAX_HEADER:
        raise _bad(path, f"no safetensors file: the header is said to have {n} bytes, the format allows {MAX_HEADER}")
    if 8 + n > size:
        raise _bad(path, f"the header is said to have {n} bytes, the file has {size}")
    try:
        infos, metadata = _parse_header(f.read(n).decode())
    except RecursionError:
        raise _bad(path, "the header is nested too deeply") from None
    except ValueError as e:  # UnicodeDecodeError and JSONDecodeError too
        raise _bad(path, f"malformed header: {e}") from None

    end = 0
    for name, info in sorted(infos.items(), key=lambda item: item[1][2:]):
        if info.begin != end:
            raise _bad(path, f"tensor {name[:80]!r} begins at byte {info.begin} where {end} was expected: a hole or an overlap")
        end = info.end
    if end != size - 8 - n:
        raise _bad(path, f"the tensors take {end} bytes, the file has {size - 8 - n} for them")
    return infos, metadata, 8 + n


# The header is taken apart one tensor at a time: the json module would first build the whole, and a hundred megabytes of
# "[],[],[]," or "1,1,1," become gigabytes of Python objects. So every value is refused before the next one is read.


def _unique(pairs):
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return out


def _constant(text):
    raise ValueError(f"{text} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
_space = re.compile(r"[ \t\n\r]*")


def _parse_header(text):
    """-> (infos, metadata). Every function below takes a position in the text, and gives a value and the position after it."""
    metadata = {}

    def member(name, i):
        if name == "__metadata__":
            found, i = _parse_object(text, i, lambda key, i: _parse_string(text, i))
            metadata.update(found)
            return None, i
        # The longest sensible entry, of 32 dimensions, has some 700 characters.
        try:
            entry, length = _decoder.raw_decode(text[i : i + 4096])
        except json.JSONDecodeError as e:  # its position is that within the slice
            raise ValueError(f"tensor {name[:80]!r}, after character {i}: {e.msg}") from None
        return _tensor_info(entry, name), i + length

    infos, end = _parse_object(text, 0, member)
    if text[end:].strip(" "):
        raise ValueError(f"something follows the header's object at character {end}")
    infos.pop("__metadata__", None)
    return infos, metadata


def _parse_object(text, i, member):
    """The JSON object at text[i], whose values ``member(key, position)`` reads."""

    def skip(i):
        return _space.match(text, i).end()

    def expect(options, i):
        c = text[i : i + 1]
        if not c or c not in options:
            raise ValueError(f"{' or '.join(options)} expected at character {i}")
        return c

    expect("{", i)
    out, i = {}, skip(i + 1)
    if text.startswith("}", i):
        return out, i + 1
    while True:
        key, i = _parse_string(text, i)
        if key in out:
            raise ValueError(f"{key[:80]!r} stands twice")
        i = skip(i)
        expect(":", i)
        out[key], i = member(key, skip(i + 1))
        i = skip(i)
        if expect(",}", i) == "}":
            return out, i + 1
        i = skip(i + 1)


def _parse_string(text, i):
    if not text.startswith('"', i):
        raise ValueError(f"text expected at character {i}")
    string, i = _decoder.raw_decode(text, i)
    string.encode()  # an escape may spell half a surrogate pair, which no later writer could take
    return string, i


def _tensor_info(entry, name):
    # Messages quote only what has been found to be plain: a repr of something nested may itself recurse too deeply.
    def whole(v):  # bool is a subclass of int in Python
        return type(v) is int and v >= 0

    label = f"tensor {name[:80]!r}"
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in _DTYPES:
        raise ValueError(f"{label} must have one of the dtypes {', '.join(_DTYPES)}")
    if type(shape) is not list or len(shape) > MAX_DIMS or not all(map(whole, shape)):
        raise ValueError(f"{label}: shape must be a list of up to {MAX_DIMS} whole numbers")
    if type(offsets) is not list or len(offsets) != 2 or not all(map(whole, offsets)):
        raise ValueError(f"{label}: data_offsets must be two whole numbers")
    begin, end = offsets
    itemsize = np.dtype(_DTYPES[dtype]).itemsize
    # An empty tensor takes no bytes whatever its other dimensions, but NumPy must still be able to address them.
    if math.prod(d for d in shape if d) * itemsize >= 1 << 63:
        raise ValueError(f"{label} has impossible shape {shape!r:.80}")
    if end - begin != math.prod(shape) * itemsize:
        raise ValueError(f"{label}: shape {shape!r:.80} of {dtype} does not take the bytes {begin} to {end}")
    return TensorInfo(dtype, tuple(shape), begin, end)
