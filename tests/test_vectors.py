"""Word vectors: their files, good and bad, decimal numbers bit for bit, looking up and searching, the report."""

import gzip
import importlib.util
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import backprop as bp
from backprop import _core, vectorfiles

WORDS = ["the", "naïve", "東京", "5", "a-b", "don't", "\u00a0", "e5"]
MATRIX = np.random.default_rng(1).normal(size=(len(WORDS), 3)).astype(np.float32)
FORMATS = ("glove", "word2vec", "binary")


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def load(tmp_path, data, **options):
    return bp.WordVectors.load(written(tmp_path / "v.txt", data), **options)


def refused(tmp_path, data, message, **options):
    with pytest.raises(bp.FileFormatError, match=message) as e:
        load(tmp_path, data, **options)
    assert str(e.value).startswith(str(tmp_path / "v.txt"))


def equal(a, b):
    return list(a.words) == list(b.words) and np.array_equal(a.matrix.view(np.int32), b.matrix.view(np.int32))


# ---------------------------------------------------------------------------------------------------------- numbers

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda x: f"{x:.9g}"),
    st.from_regex(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)


def float32(texts):
    with np.errstate(over="ignore"):
        return np.array([float(t) for t in texts]).astype(np.float32)


def same_bits(texts):
    found = _core.decimals("\n".join(texts).encode())
    np.testing.assert_array_equal(found.view(np.int32), float32(texts).view(np.int32))


@given(st.lists(NUMBERS, min_size=1, max_size=20))
@settings(max_examples=25)
def test_numbers_are_those_of_python(texts):
    same_bits(texts)


def test_numbers_where_the_rounding_to_float32_turns():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 0x7F7FFFFF, 3000).astype(np.uint32)
    middle = (low.view(np.float32).astype(float) + (low + np.uint32(1)).view(np.float32).astype(float)) / 2  # exact in float64
    texts = [f"{x:.{digits}e}" for x in middle for digits in (8, 15, 16, 17, 18, 19, 25, 60)]
    same_bits(texts + [f"{np.nextafter(x, s):.{d}e}" for x in middle for s in (0, np.inf) for d in (16, 18)])


def test_numbers_as_files_have_them():
    x = np.random.default_rng(2).normal(size=20000) * 0.4
    for form in ("%.5g", "%.6f", "%.9g", "%.17g", "%.25f", "%+.3e"):
        same_bits([form % v for v in x])
    same_bits(["0", "-0", "-0.0e99", "-1e-400", "1e-45", "7.1e-46", "3.4028235e38", "3.4028235677973366e38", "1e400",
               "-1e99999999", "9007199254740993", "18446744073709551616", "." + "3" * 3000, "5.", ".5", "0" * 60 + "7",
               "0." + "0" * 400 + "1"])


@pytest.mark.parametrize("text", ["", ".", "-", "+-1", "1e", "1e+", "0x10", "1_0", "nan", "inf", "1,5", "１", "1 "])
def test_what_is_no_number(text):
    with pytest.raises(ValueError):
        assert not _core.decimals((text or "\n").encode()).size


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz"])
@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(tmp_path, format, name):
    words = [w for w in WORDS if w.strip()]
    scales = np.float32([1, 1e-30, 1e30])
    v = bp.WordVectors(words, MATRIX[: len(words)] * scales)
    v.save(tmp_path / name, format)
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    for given in (None, format):
        assert equal(bp.WordVectors.load(tmp_path / name, format=given), v)
    first = (tmp_path / name).read_bytes()
    v.save(tmp_path / name, format)
    assert (tmp_path / name).read_bytes() == first  # no time, no name in it
    assert [p.name for p in tmp_path.iterdir()] == [name]


@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8), min_size=1, unique=True),
    dim=st.integers(1, 4), seed=st.integers(0, 9), format=st.sampled_from(FORMATS))
@settings(max_examples=60)
def test_any_words_round_trip(tmp_path_factory, words, dim, seed, format):
    words = [w for w in words if w.split() == [w]] or ["w"]
    v = bp.WordVectors(words, np.random.default_rng(seed).normal(size=(len(words), dim)))
    path = tmp_path_factory.getbasetemp() / "any.txt"
    v.save(path, format)
    assert equal(bp.WordVectors.load(path, format=format), v)


def test_content_tells_the_format(tmp_path):
    rows = "a 1 2 3\nb 4 5 6\n"
    want = bp.WordVectors(["a", "b"], [[1, 2, 3], [4, 5, 6]])
    for data in (rows, "2 3\n" + rows, rows.rstrip(), rows.replace("\n", "\r\n"), rows.replace("\n", " \n"),
                 rows.replace(" ", "\t"), "\ufeff" + rows, "\ufeff2 3\n" + rows, rows + "\n\n", gzip.compress(rows.encode()),
                 gzip.compress(rows[:8].encode()) + gzip.compress(rows[8:].encode())):
        assert equal(load(tmp_path, data), want), data
    for numbers in ([[0.0, 0.0, 0.0], [1, 1, 1]], [[0.5, -2, 1e-3], [0.1, 0.2, 0.3]], [[1e9, 7, 8], [0, 0, 1]]):
        v = bp.WordVectors(["a", "b"], numbers)
        v.save(tmp_path / "v.bin", "binary")
        assert equal(bp.WordVectors.load(tmp_path / "v.bin"), v)
    (tmp_path / "v.bin").write_bytes((tmp_path / "v.bin").read_bytes().replace(b"\nb ", b"b "))  # as other writers end a vector
    assert equal(bp.WordVectors.load(tmp_path / "v.bin"), v)


def test_words_with_blanks_and_words_that_are_numbers(tmp_path):
    v = load(tmp_path, "the 1 2\n. . . 3 4\nat name@domain.com 5 6\n5 7 8\n-1.5 9 10\n\u00a0 0 1\n1 1/2 3 3\n")
    assert list(v.words) == ["the", ". . .", "at name@domain.com", "5", "-1.5", "\u00a0", "1 1/2"]
    assert v.matrix.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [0, 1], [3, 3]]
    assert v.words[1:3] == [". . .", "at name@domain.com"] and v.words[-1] == "1 1/2" and ". . ." in v
    assert list(load(tmp_path, ". . . 3 4\nthe 1 2\n").words) == [". . .", "the"]  # the first line tells how many numbers
    with pytest.raises(ValueError, match="'. . .' holds white space"):
        v.save(tmp_path / "x", "glove")


def test_duplicates_are_counted_and_the_first_wins(tmp_path):
    v = load(tmp_path, "4 1\na 1\nb 2\na 3\na 4\n")
    assert (list(v.words), v.matrix.tolist(), v.duplicates) == (["a", "b"], [[1], [2]], 2)


def test_vocabulary(tmp_path):
    for data in ("a 1 2\n. . . 3 4\nb 5 6\nc 7 8\n", "4 2\na 1 2\n. . . 3 4\nb 5 6\nc 7 8\n"):
        v = load(tmp_path, data, vocabulary=["c", ". . .", "zebra", "c"])
        assert (list(v.words), v.matrix.tolist()) == ([". . .", "c"], [[3, 4], [7, 8]])
        assert len(load(tmp_path, data, vocabulary=[])) == 0
        assert load(tmp_path, data, vocabulary={"b": 1}).matrix.shape == (1, 2)
    bp.WordVectors(list("abc"), np.eye(3)).save(tmp_path / "v.bin", "binary")
    v = bp.WordVectors.load(tmp_path / "v.bin", vocabulary=["b"])
    assert (list(v.words), v.matrix.tolist()) == (["b"], [[0, 1, 0]])
    refused(tmp_path, "a 1 2\nb 5\n", "line 2: 'b' has 1 numbers, expected 2", vocabulary=["a"])


def test_encodings(tmp_path):
    data = "naïve 1\nzażółć 2\n"
    assert list(load(tmp_path, data.encode("iso8859-2", "replace"), encoding="iso8859-2").words) == ["na?ve", "zażółć"]
    assert list(load(tmp_path, data.encode("latin-1", "replace"), encoding="latin-1", vocabulary=["naïve"]).words) == ["naïve"]
    refused(tmp_path, b"a 1\nna\xefve 2\n", "line 2: 'na.ve' is not valid UTF-8")
    assert list(load(tmp_path, b"a 1\nna\xefve 2\n\xef 3\na\xef 4\n", errors="ignore").words) == ["a", "nave"]
    assert list(load(tmp_path, b"a 1\nna\xefve 2\n", errors="replace").words) == ["a", "na\ufffdve"]
    refused(tmp_path, b"a 1\n\x81 2\n", "word 2: .*ascii", encoding="ascii")
    for bad in (b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\x9d", b"\x80", b"\xf8\x88\x80\x80\x80"):
        refused(tmp_path, b"a 1\n" + bad + b" 2\n", "line 2: .* is not valid UTF-8")
    with pytest.raises(LookupError):
        load(tmp_path, "a 1\n", encoding="klingon")


MALFORMED = {
    "a 1 2\nb 1\n": "line 2: 'b' has 1 numbers, expected 2",
    "a 1 2\nb 1 2 3\n": "line 2: 'b' has 3 numbers, expected 2",
    "a 1 2\nb\n": "line 2: 'b' has 0 numbers, expected 2",
    "a 1 2\nb 1 x\n": "line 2: 'x' is not a number",
    "a 1 2\nb 1 2x\n": "line 2: '2x' is not a number",
    "a 1 2\nb 1,5 2\n": "line 2: '1,5' is not a number",
    "a 1 2\nb 1_0 2\n": "line 2: '1_0' is not a number",
    "a 1 2\nb nan 2\n": "line 2: 'nan' is not a finite float32",
    "a 1 -Infinity\nb 1 2\n": "line 1: '-Infinity' is not a finite float32",
    "a 1 2\nb 1e39 2\n": "line 2: '1e39' is not a finite float32",
    "a 1 2\n 1 2\n": "line 2: no word stands before the numbers",
    "a 1 2\n\nb 1 2\n": "line 2: the line is empty",
    "a 1 2\nb 1 2 c 3 4\n": "line 2: 'c' is not a number",
    "a 1 x 2\nb 1 x 2\n": "line 1: 'x' is not a number",
    "a 1 2\nb 1 \0\x1b2\n": r"line 2: '\?\?2' is not a number",
    "a\nb 1\n": "line 1: 'a' has no numbers behind it",
    "one two\n": "line 1: 'two' is not a number",
    "": "holds no vectors",
    "\n": "holds no vectors",
    "2 2\na 1 2\n": "line 1 announces 2 vectors, the file holds 1",
    "1 2\na 1 2\nb 1 2\n": "line 3: one more than the 1 vectors that line 1 announces",
    "2 2\na 1 2\nb 1 2 3\n": "line 3: 'b' has 3 numbers, expected 2",
    "2 2\na 1 2\nb 1 x\n": "line 3: 'x' is not a number",
    "0 5\n": "line 1 announces 0 vectors of 5 numbers",
    "5 0\n": "line 1 announces 5 vectors of 0 numbers",
    "1000000 300\na 1 2\n": "line 1 announces 1000000 vectors of 300 numbers, more than the file can hold",
    "1 999999999999999999\na 1\n": "line 1 announces 1 vectors of 999999999999999999 numbers",
}


@pytest.mark.parametrize("data", MALFORMED)
def test_malformed_text_is_refused_by_line(tmp_path, data):
    refused(tmp_path, data, MALFORMED[data])
    if "can hold" not in MALFORMED[data]:  # a compressed file can hold much more than its size
        refused(tmp_path, gzip.compress(data.encode()), MALFORMED[data])


def test_a_malformed_line_far_down_is_named(tmp_path):
    row = "word%d" + " 0.25" * 50 + "\n"
    rows = [row % i for i in range(20000)]  # more than one chunk
    assert len(load(tmp_path, "".join(rows))) == 20000
    rows[18765] = rows[18765].replace("0.25", "O.25", 1)
    refused(tmp_path, "".join(rows), "line 18766: 'O.25' is not a number")


def test_binary_cut_at_every_byte(tmp_path):
    bp.WordVectors(["a", "bb", "東"], MATRIX[:3]).save(tmp_path / "v.bin", "binary")
    data = (tmp_path / "v.bin").read_bytes()
    for n in range(len(data) - 1):  # the last newline may be left out
        refused(tmp_path, data[:n], "line 1|holds no vectors|the file holds", format="binary")
        with pytest.raises(bp.FileFormatError):
            load(tmp_path, data[:n])
    assert len(load(tmp_path, data[:-1])) == 3
    refused(tmp_path, data + b"x", "vector 4: more bytes follow the 3 vectors of the header")
    refused(tmp_path, data[:-3], "line 1 announces 3 vectors, the file holds 2, and .* bytes of one that is cut short")
    packed = gzip.compress(data)
    for n in range(2, len(packed)):
        with pytest.raises(bp.FileFormatError):
            load(tmp_path, packed[:n])


def test_malformed_binary(tmp_path):
    def record(word, *numbers):
        return word + b" " + np.array(numbers, "<f4").tobytes() + b"\n"

    good = record(b"a", 1, 2)
    refused(tmp_path, b"2 2\n" + good + record(b"b", 1, np.nan), r"vector 2: 'b' holds NaN or infinity \(number 2\)")
    refused(tmp_path, b"2 2\n" + good + record(b"b", -np.inf, 1), r"vector 2: 'b' holds NaN or infinity \(number 1\)")
    refused(tmp_path, b"2 2\n" + good + record(b"", 1, 1), "vector 2: it has no word")
    refused(tmp_path, b"2 2\n" + good + record(b"\xff", 1, 1), "vector 2: .* is not valid UTF-8")
    refused(tmp_path, b"2 2\n" + good + b"x" * 70000, "vector 2: its word has no end")
    refused(tmp_path, good, "line 1 must be the number of vectors", format="binary")
    refused(tmp_path, "a 1 2\n", "line 1 must be the number of vectors", format="word2vec")
    assert load(tmp_path, "5 1\n6 2\n", format="glove").matrix.tolist() == [[1], [2]]


def test_damaged_and_overlong_gzip(tmp_path):
    packed = bytearray(gzip.compress(b"a 1 2\nb 3 4\n"))
    packed[-6] ^= 1  # the checksum
    refused(tmp_path, bytes(packed), "damaged gzip data")
    refused(tmp_path, b"\x1f\x8b nonsense", "damaged gzip data")
    refused(tmp_path, gzip.compress(b"a 1 2\n" * 1000), r"more than 5000 bytes when it is unpacked \(max_bytes\)", max_bytes=5000)


def test_nothing_is_taken_on_trust(tmp_path):
    files = {
        b"99999 40\nabc " + b"x" * 500: "more than the file can hold",
        b"x" * (18 << 20): "no end of a line",
        gzip.compress(b"x" * (40 << 20)): "no end of a line",
        gzip.compress(b"4194304 1000000\n" + b"\0" * (1 << 20)): "more than the file can hold",
    }
    for data, message in files.items():
        path = written(tmp_path / "v.txt", data)
        tracemalloc.start()
        with pytest.raises(bp.FileFormatError, match=message):
            bp.WordVectors.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150 << 20, message


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        bp.WordVectors.load(tmp_path / "none")


@pytest.mark.skipif(not importlib.util.find_spec("gensim"), reason="gensim is not installed")
@pytest.mark.parametrize("format", FORMATS)
def test_against_gensim(tmp_path, format):
    from gensim.models import KeyedVectors

    v = bp.WordVectors([w for w in WORDS if w.strip()], MATRIX[[0, 1, 2, 3, 4, 5, 7]])
    v.save(tmp_path / "v", format)
    theirs = KeyedVectors.load_word2vec_format(tmp_path / "v", binary=format == "binary", no_header=format == "glove")
    assert theirs.index_to_key == list(v.words) and np.array_equal(theirs.vectors, v.matrix)
    theirs.save_word2vec_format(tmp_path / "w", binary=format == "binary")
    assert equal(bp.WordVectors.load(tmp_path / "w"), v)


# ---------------------------------------------------------------------------------------------------------- use


@pytest.fixture
def animals():
    return bp.WordVectors(["cat", "dog", "car", "none", "lorry"], [[1, 0.1], [1, 0.2], [-0.1, 2], [0, 0], [0, 1]])


def test_looking_up(animals):
    assert len(animals) == 5 and "cat" in animals and "cow" not in animals and 3 not in animals
    assert animals.dim == 2 and animals.index("car") == 2
    assert np.shares_memory(animals["dog"], animals.matrix)
    assert animals[["dog", "cat"]].tolist() == animals.matrix[[1, 0]].tolist()
    ids = animals.ids(["car", "cow", "cat", "\ud800"], unknown="none")
    assert ids.tolist() == [2, 3, 0, 3] and ids.dtype == np.int32
    assert animals.ids([]).shape == (0,) and animals.ids(iter(["cow"]), unknown=4).tolist() == [4]
    for call, error, message in [
        (lambda: animals["cow"], KeyError, "'cow' is not among the 5 words"),
        (lambda: animals.ids(["cat", "cow"]), KeyError, r"tokens\[1\] = 'cow'"),
        (lambda: animals.ids(["cat", 3]), TypeError, r"tokens\[1\] must be text, got int"),
        (lambda: animals.ids("cat"), TypeError, "list of words"),
        (lambda: animals.ids(["cow"], unknown=5), ValueError, "unknown must be a word or a row, 0 to 4, got 5"),
        (lambda: animals.ids(["cow"], unknown="cow"), KeyError, "cow"),
        (lambda: animals.words[5], IndexError, "5 is out of range"),
        (lambda: bp.WordVectors(["a", "a"], np.eye(2)), ValueError, "'a' stands twice"),
        (lambda: bp.WordVectors(["a", ""], np.eye(2)), ValueError, "empty"),
        (lambda: bp.WordVectors(["a"], np.eye(2)), ValueError, r"\(2, 2\), there are 1 words"),
        (lambda: bp.WordVectors(["a"], [[np.nan]]), ValueError, r"matrix\[0, 0\] is nan"),
        (lambda: bp.WordVectors("a", [1.0]), (TypeError, ValueError), "words must be a list|dimension"),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_many_words():
    words = [f"w{i}" for i in range(30_000)]
    v = bp.WordVectors(words, np.zeros((30_000, 1), np.float32))
    order = np.random.default_rng(0).permutation(30_000)
    np.testing.assert_array_equal(v.ids([words[i] for i in order]), order)
    assert not any(f"w{i}" in v for i in range(30_000, 31_000))


def test_nearest_and_analogy(animals):
    found = animals.nearest("cat", 2)
    assert [w for w, _ in found] == ["dog", "lorry"]
    assert found[0][1] == pytest.approx((1 + 0.02) / np.sqrt(1.01 * 1.04), rel=1e-6)
    assert [w for w, _ in animals.nearest([0, 3.0], 9)] == ["lorry", "car", "dog", "cat", "none"]
    assert animals.nearest("none", 1)[0][1] == 0.0
    assert [w for w, _ in animals.with_special().nearest("cat", 9)] == [w for w, _ in animals.nearest("cat", 9)]
    rng = np.random.default_rng(3)
    v = bp.WordVectors([str(i) for i in range(400)], rng.normal(size=(400, 20)))
    unit = v.matrix / np.linalg.norm(v.matrix, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[7]))[1:11]
    assert [w for w, _ in v.nearest("7")] == [str(i) for i in order]
    target = unit[2] - unit[1] + unit[3]
    want = [str(i) for i in np.argsort(-(unit @ target)) if i not in (1, 2, 3)][:4]
    assert [w for w, _ in v.analogy("1", "2", "3", 4)] == want
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="n must be"):
            v.nearest("7", bad)
    with pytest.raises(ValueError, match=r"shape \(3,\), those of the words \(20,\)"):
        v.nearest([1, 2, 3])


def test_special_words_and_subset(animals):
    v = animals.with_special()
    assert list(v.words)[:3] == ["<pad>", "<unk>", "cat"] and (v.padding, v.unknown) == (0, 1)
    assert not v["<pad>"].any() and np.allclose(v["<unk>"], animals.matrix.mean(axis=0))
    assert v.ids(["dog", "cow"]).tolist() == [3, 1]
    assert animals.padding is None and animals.with_special(padding=None, unknown="none").unknown == 3
    assert list(animals.with_special("none", None).words) == list(animals.words)
    part = v.subset(["lorry", "cow", "cat", "lorry"])
    assert list(part.words) == ["<pad>", "<unk>", "lorry", "cat"] and (part.padding, part.unknown) == (0, 1)
    assert np.array_equal(part["cat"], animals["cat"]) and not np.shares_memory(part.matrix, v.matrix)
    with pytest.raises(ValueError, match="both"):
        animals.with_special("x", "x")


def test_saving_what_cannot_be_saved(tmp_path, animals):
    animals.matrix[1, 1] = np.inf
    for v, message in [(animals, r"matrix\[1, 1\] is inf"), (bp.WordVectors(["a\nb"], [[1.0]]), "white space"),
                       (bp.WordVectors([], np.empty((0, 2))), r"shape \(0, 2\)")]:
        with pytest.raises(ValueError, match=message):
            v.save(tmp_path / "x")
    with pytest.raises(ValueError, match="format must be one of"):
        animals.save(tmp_path / "x", "pickle")
    assert not list(tmp_path.iterdir())


def test_lecture_b_untouched_words_and_advice():
    v = bp.WordVectors(["tv", "telly", "television", "boat"], np.eye(4)).with_special()
    report = bp.untouched_words(v, v.ids(["tv", "telly", "tv"]), v.ids(["television", "tv", "boat", "television"]))
    assert report.words == ["<unk>", "television", "boat"] and report.ids.tolist() == [1, 4, 5]
    assert (report.n_words, report.n_training, report.evaluation_share) == (5, 3, 0.75)
    text = str(report)
    assert "3 of 5 words: <unk>, television, boat" in text and "75.0%" in text and "freeze" in text
    padded = bp.windows([v.ids(["tv"])], 2, pad=v.padding).ids
    assert bp.untouched_words(v, padded).n_training == 1  # padding is no word
    assert bp.untouched_words(["a", "b"], []).words == ["a", "b"]
    assert "freeze" in bp.fine_tuning_advice(300_000) and "try both" in bp.fine_tuning_advice(800_000)
    assert "fine-tune the" in bp.fine_tuning_advice(1_500_000)
    with pytest.raises(ValueError, match="training_ids must lie in 0 to 5, got 0 to 6"):
        bp.untouched_words(v, [0, 6])
    with pytest.raises(TypeError, match="words"):
        bp.untouched_words(3, [0])
    with pytest.raises(ValueError, match="n_training_words"):
        bp.fine_tuning_advice(-1)


def test_reading_runs_in_chunks_of_any_size(tmp_path, monkeypatch):
    v = bp.WordVectors(["a", "bb", "東京", "ccc"], MATRIX[:4])
    for format in FORMATS:
        v.save(tmp_path / "v", format)
        for chunk in (64, 67, 100):
            monkeypatch.setattr(vectorfiles, "_CHUNK", chunk)
            assert equal(bp.WordVectors.load(tmp_path / "v"), v)


def test_the_reader_is_used_up(tmp_path):
    reader = _core.VectorReader(False, 0)
    assert reader.feed(b"a 1\nb 2\nc") == 8
    assert reader.counts == (2, 1, 2, 0)
    words, matrix = reader.take()
    assert len(words) == 2 and matrix.tolist() == [[1], [2]] and matrix.flags.writeable
    for call in (lambda: reader.feed(b""), reader.take, lambda: reader.counts):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(ValueError):
        _core.VectorReader(True, 0)
    shown = repr(bp.WordVectors(WORDS[:4], MATRIX[:4]))
    assert shown == "<WordVectors (4, 3), <4 words: 'the', 'naïve', '東京', ...>>"
