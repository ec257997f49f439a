"""Windows against a naive loop, corrupted windows, and window classification as the lecture teaches it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import backprop as bp
from backprop.windows import Windows

SENTENCES = st.lists(st.lists(st.integers(0, 50), max_size=7), max_size=8)


def naive(sentences, size, pad):
    rows, where = [], []
    for i, sentence in enumerate(sentences):
        for j in range(len(sentence)):
            rows.append([sentence[k] if 0 <= k < len(sentence) else pad for k in range(j - size, j + size + 1)])
            where.append((i, j))
    return np.array(rows, np.int32).reshape(-1, 2 * size + 1), np.array(where, np.int32).reshape(-1, 2)


@given(SENTENCES, st.integers(0, 9), st.integers(0, 60))
@settings(max_examples=100)
def test_windows_are_those_of_a_naive_loop(sentences, size, pad):
    w = bp.windows(sentences, size, pad=pad)
    rows, where = naive(sentences, size, pad)
    np.testing.assert_array_equal(w.ids, rows)
    np.testing.assert_array_equal(np.stack([w.sentence, w.position], 1), where)
    assert {a.dtype for a in w} == {np.dtype(np.int32)} and isinstance(w, Windows)


def test_sentences_may_be_arrays_and_tokens():
    assert bp.windows([np.array([3, 4]), (5,)], 1, pad=0).ids.tolist() == [[0, 3, 4], [3, 4, 0], [0, 5, 0]]
    v = bp.WordVectors(["in", "Paris"], np.eye(2)).with_special()
    want = [[0, 2, 3], [2, 3, 1], [3, 1, 0]]
    assert bp.windows([["in", "Paris", "tonight"]], 1, vocabulary=v).ids.tolist() == want
    table = {"<pad>": 0, "<unk>": 1, "in": 2, "Paris": 3}
    for unknown in ("<unk>", 1):
        got = bp.windows([["in", "Paris", "tonight"]], 1, pad="<pad>", vocabulary=table, unknown=unknown)
        assert got.ids.tolist() == want
    assert bp.windows([["in"]], 1, pad=7, vocabulary={"in": 2}).ids.tolist() == [[7, 2, 7]]


@pytest.mark.parametrize(("sentences", "options", "error", "message"), [
    ([[1]], {}, ValueError, "pad must be the row"),
    ([[1]], {"pad": 0, "size": -1}, ValueError, "size must be"),
    ([[1]], {"pad": 0, "size": 1.0}, ValueError, "size must be"),
    ([[1.5]], {"pad": 0}, ValueError, "sentences.* is 1.5, expected whole numbers"),
    ([["a"]], {"pad": 0}, TypeError, "need a vocabulary"),
    ([[1], 2], {"pad": 0}, TypeError, r"sentences\[1\] must be a list of ids, got 2"),
    (["in Paris"], {"vocabulary": {"in": 0}, "pad": 0}, TypeError, r"sentences\[0\] must be a list of tokens"),
    ("in Paris", {"pad": 0}, TypeError, "sentences must be a list"),
    ([["a"]], {"vocabulary": {"a": 0}}, ValueError, "no padding word"),
    ([["b"]], {"vocabulary": {"a": 0}, "pad": 0}, KeyError, "b"),
    ([["b"]], {"vocabulary": bp.WordVectors(["a"], [[1.0]]), "pad": "a"}, KeyError, r"tokens\[0\] = 'b'"),
    ([[1]], {"pad": 0, "unknown": 3}, ValueError, "unknown is for tokens"),
])
def test_windows_refuse(sentences, options, error, message):
    with pytest.raises(error, match=message):
        bp.windows(sentences, **options)


@given(st.integers(2, 12), st.integers(0, 2), st.integers(0, 2**64 - 1))
@settings(max_examples=60)
def test_corrupted_windows_differ_in_the_middle_alone(n_words, size, seed):
    ids = np.random.default_rng(seed).integers(0, n_words, (40, 2 * size + 1)).astype(np.int32)
    before = ids.copy()
    out = bp.corrupt_windows(ids, n_words, seed)
    assert np.array_equal(ids, before) and out.dtype == np.int32
    np.testing.assert_array_equal(np.delete(out, size, 1), np.delete(ids, size, 1))
    assert (out[:, size] != ids[:, size]).all() and out[:, size].min() >= 0 and out[:, size].max() < n_words
    np.testing.assert_array_equal(out, bp.corrupt_windows(ids, n_words, seed))


def test_every_other_word_is_drawn_equally_often():
    ids = np.full((30_000, 1), 2, np.int32)
    counts = np.bincount(bp.corrupt_windows(ids, 5, 1)[:, 0], minlength=5)
    assert counts[2] == 0 and (abs(counts[[0, 1, 3, 4]] - 7500) < 400).all()  # 5 standard deviations are 375
    counts = np.bincount(bp.corrupt_windows(ids, [7, 3, 9, 3], 1)[:, 0], minlength=10)
    assert set(np.flatnonzero(counts)) == {3, 7, 9} and (abs(counts[[3, 7, 9]] - 10_000) < 410).all()
    assert (bp.corrupt_windows(ids, 5, 1) != bp.corrupt_windows(ids, 5, 2)).any()
    v = bp.WordVectors(["a", "b", "c"], np.eye(3)).with_special()  # padding 0, unknown 1
    assert set(bp.corrupt_windows(ids, v)[:, 0].tolist()) == {3, 4}


@pytest.mark.parametrize(("ids", "candidates", "seed", "message"), [
    ([[1, 2]], 5, 0, "odd number of columns"), ([[1]], 1, 0, "at least two"), ([[1]], [3, 3], 0, "at least two"),
    ([[1]], 5, -1, "seed"), ([1], 5, 0, "2 dimensions"), ([[0.5]], 5, 0, "whole numbers"), ([[1]], [0.5, 1], 0, "candidates")])
def test_corrupt_windows_refuses(ids, candidates, seed, message):
    with pytest.raises(ValueError, match=message):
        bp.corrupt_windows(ids, candidates, seed)


# ---------------------------------------------------------------------------------------------------------- the lecture

WORDS = ["museums", "in", "Paris", "are", "amazing", "London", "we", "like", "cake", "<pad>"]


def test_lecture_b_the_window_of_paris():
    v = bp.WordVectors(WORDS, np.random.default_rng(0).normal(size=(10, 4)), padding="<pad>")
    w = bp.windows([["museums", "in", "Paris", "are", "amazing"]], 2, vocabulary=v)
    assert [v.words[i] for i in w.ids[2]] == ["museums", "in", "Paris", "are", "amazing"]
    ids = bp.Input(5, dtype="int32")
    flat = bp.Network(ids, bp.Flatten()(bp.Embedding(weights=v)(ids)))  # 5 words x d, side by side in one vector
    np.testing.assert_array_equal(flat.predict(w.ids)[2], v[WORDS[:5]].reshape(-1))


def window_model(v, outputs, dtype="float64", trainable=True):
    """Window, vectors side by side, a hidden layer, scores: the model of the lecture."""
    layers = [bp.Embedding(weights=v, trainable=trainable), bp.Flatten(), bp.Dense(8, "tanh"), bp.Dense(outputs)]
    return bp.Sequential([bp.Input(5, dtype="int32"), *layers], dtype=dtype, seed=1)


def test_lecture_b_a_word_that_stands_twice_gets_the_sum():
    v = bp.WordVectors(WORDS, np.random.default_rng(0).normal(size=(10, 4)))
    window = v.ids(["Paris", "in", "Paris", "we", "Paris"])[None]
    net = window_model(v, 2)
    trainer = bp.Trainer(net, loss="cross_entropy", optimizer=bp.SGD(1.0))
    before = net.parameters["0.weight"].copy()
    # The gradient of the concatenated input, one part for each place, by hand.
    x = v.matrix.astype(np.float64)[window[0]].reshape(1, -1)
    w1, b1, w2, b2 = (net.parameters[k].copy() for k in ("2.weight", "2.bias", "3.weight", "3.bias"))
    h = np.tanh(x @ w1 + b1)
    z = h @ w2 + b2
    dz = np.exp(z) / np.exp(z).sum() - [[0.0, 1.0]]
    parts = ((dz @ w2.T * (1 - h * h)) @ w1.T).reshape(5, 4)
    trainer.step(window, [1])
    moved = before - net.parameters["0.weight"]
    np.testing.assert_allclose(moved[v.index("Paris")], parts[0] + parts[2] + parts[4], rtol=1e-12)
    np.testing.assert_allclose(moved[v.index("in")], parts[1], rtol=1e-12)
    untouched = [i for i in range(10) if i not in window]
    assert not moved[untouched].any()


def places():
    """Sentences in which a city follows *in*, and windows labelled with whether their middle is a city."""
    cities, things = ["Paris", "London"], ["museums", "cake", "amazing", "like", "we"]
    rng = np.random.default_rng(5)
    sentences = [["we", "like", rng.choice(things), "in", rng.choice(cities), rng.choice(things)] for _ in range(60)]
    v = bp.WordVectors(WORDS, rng.normal(size=(10, 4)), padding="<pad>")
    w = bp.windows(sentences, 2, vocabulary=v)
    return v, w, np.isin(w.ids[:, 2], v.ids(cities)).astype(np.int64)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_lecture_b_windows_with_softmax_and_logistic_loss(loss):
    v, w, y = places()
    net = window_model(v, 2 if loss == "cross_entropy" else 1, "float32")
    trainer = bp.Trainer(net, loss=loss, optimizer=bp.Adam(0.01), seed=0)
    trainer.fit(w.ids, y, epochs=15, batch_size=32)
    assert trainer.evaluate(w.ids, y)["accuracy"] == 1.0


def test_lecture_b_windows_with_max_margin_loss():
    v, w, y = places()
    true = w.ids[y == 1]
    scorer = [bp.Embedding(weights=v), bp.Flatten(), bp.Dense(8, "tanh"), bp.Dense(1)]

    def score(x):
        for layer in scorer:
            x = layer(x)
        return x

    window, corrupted = bp.Input(5, dtype="int32"), bp.Input(5, dtype="int32")
    net = bp.Network([window, corrupted], bp.concatenate([score(window), score(corrupted)], axis=1), seed=0)
    trainer = bp.Trainer(net, loss="margin", optimizer=bp.Adam(0.01), seed=0)
    others = v.ids([word for word in v.words if word not in ("Paris", "London", "<pad>")])
    nothing = np.zeros(len(true))
    first = trainer.evaluate([true, bp.corrupt_windows(true, others, 0)], nothing)["loss"]
    for epoch in range(25):  # other corrupted windows each time
        trainer.fit([true, bp.corrupt_windows(true, others, epoch)], nothing, batch_size=16)
    s = net.predict([true, bp.corrupt_windows(true, others, 99)])
    assert (s[:, 0] > s[:, 1]).all() and np.maximum(0, 1 - s[:, 0] + s[:, 1]).mean() < 0.05 < first


def test_lecture_b_slopes_of_the_max_margin_loss():
    for s, s_c, slope in [(0.2, 0.1, 1), (3.0, 0.5, 0), (2.0, 1.0, 0), (-1.0, 4.0, 1)]:  # at s - s_c = 1 exactly, zero
        a, b = bp.tensor(s, requires_grad=True), bp.tensor(s_c, requires_grad=True)
        j = bp.margin_loss(a, b)
        j.backward()
        assert (j.item(), a.grad, b.grad) == (max(0, 1 - s + s_c), -slope, slope)


@pytest.mark.parametrize("optimizer", [lambda: bp.SGD(0.1, momentum=0.9), lambda: bp.Adam(0.01)])
def test_lecture_b_tv_telly_television(optimizer):
    """Pre-trained, the three lie together. Training sees two of them with a new meaning: those move, television stays behind.
    With frozen vectors the boundary moves instead, and television is on the right side."""
    rng = np.random.default_rng(2)
    place = {"tv": [1.0, 1.0], "telly": [1.05, 0.95], "television": [0.95, 1.05]}  # on the wrong side of x + y = 0 at first
    rest = {f"w{i}": p for i, p in enumerate(np.concatenate([rng.normal(size=(20, 2)) * 0.2 + [-1, 1],
                                                             rng.normal(size=(20, 2)) * 0.2 + [1, -1]]))}
    v = bp.WordVectors([*place, *rest], [*place.values(), *rest.values()])
    ids = v.ids(["tv", "telly"] * 4 + list(rest))
    labels = np.array([1] * 8 + [0] * 40)
    television = v.ids(["television"])

    def trained(trainable):
        table = bp.Embedding(weights=v, trainable=trainable)
        net = bp.Sequential([bp.Input(dtype="int32"), table, bp.Dense(2)], dtype="float64", seed=0)
        net.parameters["1.weight"][...] = [[0.7, -0.7], [0.7, -0.7]]  # class 0 there at first
        bp.Trainer(net, optimizer=optimizer(), seed=0).fit(ids, labels, epochs=60, batch_size=8)
        return net

    frozen, tuned = trained(False), trained(True)
    assert frozen.predict(ids).argmax(1).tolist() == labels.tolist() == tuned.predict(ids).argmax(1).tolist()
    assert frozen.predict(television).argmax() == 1
    moved = np.linalg.norm(tuned.parameters["0.weight"] - v.matrix, axis=1)
    assert moved[0] > 0.3 and moved[1] > 0.3 and moved[television[0]] == 0.0
    assert np.array_equal(frozen.parameters["0.weight"], v.matrix)
    margin = [np.diff(net.predict(television))[0, 0] for net in (frozen, tuned)]
    assert margin[1] < margin[0]
