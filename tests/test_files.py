"""Tensor files: round trips, agreement with the safetensors package, atomic replacement, and many malformed files."""

import json
import os
import random
import stat
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop import files
from backprop.errors import FileFormatError

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def some_tensors():
    rng = np.random.default_rng(0)
    tensors = {f"t.{d}": rng.integers(0, 2, (3, 5)).astype(d) for d in DTYPES}
    tensors |= {"scalar": np.array(2.5, "f4"), "none": np.empty((0, 4), "i4"), 'ünï "quoted"\n': np.arange(7, dtype="u1")}
    tensors["special"] = np.array([np.nan, -0.0, np.inf, 5e-324], "f8")
    return tensors


def craft(header, data=b"", length=None):
    """The bytes of a file with any header: an object, or raw bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets), **more}


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


# ------------------------------------------------------------------------------------------------------ round trips


def test_round_trip(tmp_path):
    path, tensors, metadata = tmp_path / "a.safetensors", some_tensors(), {"k": "v", "": "ü\n", "json": '{"a": [1]}'}
    files.write_tensors(path, tensors, metadata)
    read, meta = files.read_tensors(path)
    same(read, tensors)
    assert meta == metadata
    for a in read.values():
        assert a.base is None and a.flags.writeable and a.flags.aligned and a.flags.c_contiguous and a.dtype.isnative
    infos, meta = files.inspect(path)
    assert meta == metadata
    assert [(i.shape, i.end - i.begin) for i in infos.values()] == [(a.shape, a.nbytes) for a in tensors.values()]
    assert infos["t.?"].dtype == "BOOL" and infos["t.f2"].dtype == "F16"


def test_every_tensor_in_the_file_is_aligned(tmp_path):
    path = tmp_path / "a"
    files.write_tensors(path, {d: np.zeros(n, d) for n, d in [(3, "u1"), (2, "f8"), (1, "f2"), (5, "f4")]})
    infos, _ = files.inspect(path)
    start = path.stat().st_size - max(i.end for i in infos.values())
    assert start % 8 == 0
    assert all((start + i.begin) % {"U8": 1, "F64": 8, "F16": 2, "F32": 4}[i.dtype] == 0 for i in infos.values())


def test_layouts_are_written_by_value(tmp_path):
    a = np.arange(24, dtype="f4").reshape(4, 6)
    views = {"T": a.T, "step": a[::2, ::-1], "fortran": np.asfortranarray(a), "swapped": a.astype(">f4")}
    views["wide"] = a.astype(">i8")
    files.write_tensors(tmp_path / "a", views)
    read, metadata = files.read_tensors(tmp_path / "a")
    assert metadata == {}
    for name, view in views.items():
        assert np.array_equal(read[name], view) and read[name].dtype == view.dtype.newbyteorder("=")


def test_empty_file_of_tensors(tmp_path):
    files.write_tensors(tmp_path / "a", {})
    assert files.read_tensors(tmp_path / "a") == ({}, {})


def test_bfloat16_becomes_float32(tmp_path):
    words = np.array([0x3F80, 0xBFC0, 0x7F80, 0x0001], "<u2")  # 1, -1.5, infinity, the smallest denormal
    (tmp_path / "a").write_bytes(craft({"x": entry("BF16", (2, 2), (0, 8))}, words.tobytes()))
    x = files.read_tensors(tmp_path / "a")[0]["x"]
    assert x.dtype == np.float32 and x.tolist() == [[1.0, -1.5], [np.inf, 2.0**-133]]


def test_agrees_with_the_safetensors_package(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    tensors, path = some_tensors(), tmp_path / "a"
    files.write_tensors(path, tensors, {"k": "v"})
    read = theirs.load_file(path)
    same({k: read[k] for k in tensors}, tensors)
    theirs.save_file(tensors, path, {"who": "them"})
    read, metadata = files.read_tensors(path)
    same({k: read[k] for k in tensors}, tensors)
    assert metadata == {"who": "them"}


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=5
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
)
def test_any_names_shapes_and_metadata(tmp_path_factory, specs, metadata):
    path = tmp_path_factory.mktemp("any") / "a"
    tensors = {k: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(d) for k, (d, shape) in specs.items()}
    files.write_tensors(path, tensors, metadata)
    read, meta = files.read_tensors(path)
    same(read, tensors)
    assert meta == metadata


# --------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({"a": np.zeros(2, "c8")}, None, TypeError, "'a'.*complex64"),
        ({"a": np.array([None])}, None, TypeError, "'a'.*object"),
        ({"a": np.array(["x"])}, None, TypeError, "'a'"),
        ({"a": [1.0]}, None, TypeError, "'a'.*list"),
        ({1: np.zeros(2)}, None, TypeError, "names"),
        ({"__metadata__": np.zeros(2)}, None, ValueError, "taken"),
        ({"\ud800": np.zeros(2)}, None, ValueError, "Unicode"),
        ({}, {"a": 1}, TypeError, "metadata"),
        ({}, {"a": "\udfff"}, ValueError, "Unicode"),
    ],
)
def test_what_cannot_be_written_changes_nothing(tmp_path, tensors, metadata, error, message):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error, match=message):
        files.write_tensors(path, tensors, metadata)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where, error):
    path = tmp_path / "a"
    files.write_tensors(path, {"x": np.ones(3)})
    before = path.read_bytes()

    def fail(*args):
        assert len(os.listdir(tmp_path)) == 2  # the temporary file is in the same folder
        raise error

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(error)):
        files.write_tensors(path, {"x": np.zeros(9)})
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits and links are POSIX's")
def test_permissions_and_links(tmp_path):
    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    old = os.umask(0o027)
    try:
        files.write_tensors(tmp_path / "new", {})
    finally:
        os.umask(old)
    assert mode(tmp_path / "new") == 0o640
    (tmp_path / "new").chmod(0o604)
    (tmp_path / "link").symlink_to("new")
    files.write_tensors(tmp_path / "link", {"x": np.ones(1)})
    assert (tmp_path / "link").is_symlink() and mode(tmp_path / "new") == 0o604
    assert "x" in files.read_tensors(tmp_path / "new")[0]
    with pytest.raises(ValueError, match="no ordinary file"):
        files.write_tensors(tmp_path, {})
    with pytest.raises(FileNotFoundError):
        files.write_tensors(tmp_path / "no" / "a", {})
    long = tmp_path / ("x" * 255)
    files.write_tensors(long, {})
    assert long.exists()


def test_the_data_are_synced_before_the_rename(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    files.write_tensors(tmp_path / "a", {"x": np.ones(3)})
    assert calls == ["fsync", "replace"] + ["fsync"] * (os.name == "posix")  # the last one is the folder's


# ------------------------------------------------------------------------------------------------------- malformed

BAD = {
    "empty": b"",
    "seven bytes": b"\x02\0\0\0\0\0\0",
    "no header": craft(b""),
    "huge header": craft(b"{}", length=2**63),
    "longest header": craft(b"{}", length=2**64 - 1),
    "header beyond the cap": craft(b"{}", length=100_000_001),
    "header beyond the file": craft(b"{}", length=3),
    "not JSON": craft(b"{x}"),
    "not UTF-8": craft(b'{"\xff": 1}'),
    "a list": craft(b"[]"),
    "leading space": craft(b" {}"),
    "two objects": craft(b"{}{}"),
    "trailing bytes": craft({}, b"\0"),
    "NaN": craft(b'{"x": NaN}'),
    "lone surrogate": craft(b'{"\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
    "deep lists": craft(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": craft(b'{"x":' * 50_000 + b"1" + b"}" * 50_000),
    "nested within the limit": craft(b'{"x": {"dtype":' + b"[" * 300 + b"]" * 300 + b', "shape": [], "data_offsets": [0, 4]}}'),
    "number of many digits": craft(b'{"x": {"dtype": "F32", "shape": [' + b"9" * 4000 + b'], "data_offsets": [0, 8]}}', b"0" * 8),
    "number of too many digits": craft(b'{"x": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}"),
    "name twice": craft(b'{"x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "x": {}}'),
    "key twice": craft(b'{"x": {"dtype": "U8", "dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'),
    "metadata twice": craft(b'{"__metadata__": {"a": "1", "a": "2"}}'),
    "metadata of numbers": craft({"__metadata__": {"a": 1}}),
    "metadata a list": craft({"__metadata__": ["a"]}),
    "metadata null": craft({"__metadata__": None}),
    "entry a list": craft({"x": [1]}),
    "key missing": craft({"x": {"dtype": "F32", "shape": [2]}}, b"0" * 8),
    "key unknown": craft({"x": entry(extra=1)}, b"0" * 8),
    "dtype unknown": craft({"x": entry("F8")}, b"0" * 8),
    "dtype lower case": craft({"x": entry("f32")}, b"0" * 8),
    "dtype a list": craft({"x": entry(["F32"])}, b"0" * 8),
    "shape negative": craft({"x": entry(shape=[-2])}, b"0" * 8),
    "shape of two negatives": craft({"x": entry(shape=[-1, -2])}, b"0" * 8),
    "shape float": craft({"x": entry(shape=[2.0])}, b"0" * 8),
    "shape bool": craft({"x": entry(shape=[2, True])}, b"0" * 8),
    "shape text": craft({"x": entry(shape="2")}, b"0" * 8),
    "shape null": craft({"x": entry(shape=None)}, b"0" * 8),
    "shape too small": craft({"x": entry(shape=(1,))}, b"0" * 8),
    "shape overflows to 2": craft({"x": entry(shape=[2**63 + 1, 2])}, b"0" * 8),
    "shape overflows to 0": craft({"x": entry(shape=[2**32, 2**32], offsets=(0, 0))}),
    "shape huge but empty": craft({"x": entry(shape=[0, 2**62, 2**62], offsets=(0, 0))}),
    "shape of 33 dimensions": craft({"x": entry(shape=[1] * 33, offsets=(0, 4))}, b"0" * 4),
    "shape of many dimensions": craft({"x": entry(shape=[2**62] * 100_000)}, b"0" * 8),
    "offsets one": craft({"x": entry(offsets=(0,))}, b"0" * 8),
    "offsets bool": craft({"x": entry("U8", (1,), (False, True))}, b"0"),
    "offsets float": craft({"x": entry(offsets=(0.0, 8.0))}, b"0" * 8),
    "offsets negative": craft({"x": entry(offsets=(-8, 0))}, b"0" * 8),
    "offsets reversed": craft({"x": entry(offsets=(8, 0))}, b"0" * 8),
    "offsets beyond the file": craft({"x": entry(shape=(2**40,), offsets=(0, 2**42))}, b"0" * 8),
    "hole at the start": craft({"x": entry(offsets=(4, 12))}, b"0" * 12),
    "hole between": craft({"x": entry(), "y": entry(offsets=(12, 20))}, b"0" * 20),
    "overlap": craft({"x": entry(), "y": entry(offsets=(4, 12))}, b"0" * 12),
    "the same bytes twice": craft({"x": entry(), "y": entry()}, b"0" * 8),
    "bytes left over": craft({"x": entry()}, b"0" * 9),
    "bytes missing": craft({"x": entry()}, b"0" * 7),
    "BOOL of 2": craft({"x": entry("BOOL", (2,), (0, 2))}, b"\x01\x02"),
}


@pytest.mark.parametrize("what", BAD)
def test_malformed(tmp_path, what):
    path = tmp_path / "bad.file"
    path.write_bytes(BAD[what])
    started = time.perf_counter()
    with pytest.raises(FileFormatError, match=r"bad\.file: ") as error:
        files.read_tensors(path)
    assert time.perf_counter() - started < 2
    assert len(str(error.value)) < 1000 + len(str(path))
    if what != "BOOL of 2":
        with pytest.raises(FileFormatError):
            files.inspect(path)


@pytest.mark.parametrize("value", [b"[" + b"[]," * 1_000_000 + b"[]]", b"{}", b"[1" + b",1" * 2_000_000 + b"]"])
def test_hostile_headers_take_little_memory(tmp_path, value):
    """A header of megabytes that the json module would turn into many times as much."""
    names = b",".join(b'"%d":%s' % (i, value) for i in range(200_000 if value == b"{}" else 1))
    (tmp_path / "a").write_bytes(craft(b"{" + names + b"}"))
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="tensor '0'"):
            files.inspect(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 2.5 * len(names) + 100_000
    finally:
        tracemalloc.stop()


def test_the_crafted_files_are_bad_for_their_own_reason(tmp_path):
    """What `craft` and `entry` make by default is well formed, padding and any order of the header included."""
    header = json.dumps({"y": entry(offsets=(8, 16)), "x": entry(), "e": entry(shape=(0, 3), offsets=(8, 8))})
    (tmp_path / "a").write_bytes(craft(header.encode() + b"   ", struct.pack("<4f", 1, 2, 3, 4)))
    read, _ = files.read_tensors(tmp_path / "a")
    assert list(read) == ["y", "x", "e"] and read["x"].tolist() == [1, 2] and read["y"].tolist() == [3, 4]


def test_a_missing_file_is_no_format_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_tensors(tmp_path / "no")


@pytest.mark.parametrize("how", ["cut", "flip", "splice", "digits"])
def test_damaged_files(tmp_path, how):
    """Whatever is done to a file, it is read, or FileFormatError: nothing else, and at once."""
    path = tmp_path / "a"
    files.write_tensors(path, some_tensors(), {"k": "v"})
    good = path.read_bytes()
    head = 8 + struct.unpack("<Q", good[:8])[0]
    rng = random.Random(how)
    refused, started = 0, time.perf_counter()
    for _ in range(400):
        data = bytearray(good)
        if how == "cut":
            del data[rng.randrange(len(good)) :]
        elif how == "flip":
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(head)] ^= 1 << rng.randrange(8)
        elif how == "splice":
            a, b = sorted(rng.sample(range(8, head), 2))
            data[a:b] = good[rng.randrange(8, head) :][: rng.randint(0, b - a)]
        else:
            digits = [i for i in range(8, head) if good[i] in b"0123456789"]
            data[rng.choice(digits)] = rng.choice(b'0123456789-.eE"[]{},: ')
        path.write_bytes(data)
        try:
            files.read_tensors(path)
        except FileFormatError:
            refused += 1
    assert refused > (399 if how == "cut" else 200)
    assert time.perf_counter() - started < 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "U8", "BOOL", "BF16", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["x", "y", "__metadata__"]), json_values), st.binary(max_size=16))
def test_headers_of_any_json(tmp_path_factory, header, data):
    path = tmp_path_factory.mktemp("json") / "a"
    path.write_bytes(craft(header, data))
    try:
        tensors, _ = files.read_tensors(path)
    except FileFormatError:
        return
    assert sum(a.size for a in tensors.values()) <= len(data)
