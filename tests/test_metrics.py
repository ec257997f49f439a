"""Metrics by hand, and against scikit-learn where it is there."""

import numpy as np
import pytest

from backprop import metrics as m

SCORES = np.array([[3.0, 1, 2], [0, 5, 1], [1, 1, 1], [0, 1, 2], [9, 0, 0]])
LABELS = np.array([0, 1, 1, 2, 2])  # predicted: 0 1 0 2 0


def test_accuracy():
    assert m.accuracy(SCORES, LABELS) == 3 / 5
    assert m.accuracy(SCORES, LABELS, [1, 0, 3, 0, 0]) == 1 / 4
    assert m.accuracy([-1.0, 2.0, 0.0, 0.5], [0, 1, 0, 0]) == 3 / 4
    assert m.accuracy([[-1.0], [2.0]], [0, 0]) == 1 / 2
    assert m.accuracy([0.4, 0.6], [0, 0], threshold=0.5) == 1 / 2


def test_confusion_matrix():
    assert m.confusion_matrix(SCORES, LABELS).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    weighted = m.confusion_matrix(SCORES, LABELS, [1, 2, 3, 4, 0.5])
    assert weighted.tolist() == [[1, 0, 0], [3, 2, 0], [0.5, 0, 4]]
    assert m.confusion_matrix([1.0, -1.0], [1, 1]).tolist() == [[0, 0], [1, 1]]


def test_precision_recall_f1():
    p, r, f = m.precision_recall_f1(SCORES, LABELS)
    np.testing.assert_allclose(p, [1 / 3, 1, 1])
    np.testing.assert_allclose(r, [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(f, [1 / 2, 2 / 3, 2 / 3])
    never = m.precision_recall_f1([[1.0, 0, 0], [1, 0, 0]], [0, 1])
    assert [v.tolist() for v in never] == [[0.5, 0, 0], [1, 0, 0], [2 / 3, 0, 0]]
    assert m.precision_recall_f1([1.0, 1, -1], [1, 0, 1], average="binary") == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="two classes"):
        m.precision_recall_f1(SCORES, LABELS, average="binary")
    with pytest.raises(ValueError, match="average"):
        m.precision_recall_f1(SCORES, LABELS, average="samples")


def test_log_loss():
    assert m.log_loss(np.zeros((4, 5)), [0, 1, 2, 3]) == pytest.approx(np.log(5))
    assert m.log_loss([0.0, np.log(3)], [0, 1]) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert m.log_loss([[1000.0, 0.0]], [1]) == 1000.0
    assert m.log_loss([1000.0], [1]) == 0.0
    assert m.log_loss([0.0, 5.0], [1, 1], [1, 0]) == pytest.approx(np.log(2))


def test_regression():
    out, want = [1.0, 2.0, 4.0], [1.0, 4.0, 3.0]
    assert m.mean_squared_error(out, want) == 5 / 3
    assert m.mean_absolute_error(out, want) == 1.0
    assert m.mean_squared_error(out, want, [0, 1, 3]) == 7 / 4
    assert m.r2(out, want) == pytest.approx(1 - 5 / (14 / 3))
    assert m.mean_squared_error(np.array(out)[:, None], want) == 5 / 3
    two = np.array([[1.0, 10], [2, 20]])
    assert m.mean_absolute_error(two, two + [[1, 3], [1, 3]]) == 2.0
    assert m.r2([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]) == 1.0
    assert m.r2([0.1, 0.1, 0.2], [0.1, 0.1, 0.1]) == 0.0
    assert m.r2([2.0, 2.0], [1.0, 3.0]) == 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_against_scikit_learn(weighted):
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(7)
    scores, labels = rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    labels[:90] = scores[:90].argmax(axis=1)
    w = rng.random(200) if weighted else None
    predicted, probabilities = scores.argmax(axis=1), np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert m.accuracy(scores, labels, w) == pytest.approx(sk.accuracy_score(labels, predicted, sample_weight=w))
    theirs = sk.confusion_matrix(labels, predicted, sample_weight=w)
    np.testing.assert_allclose(m.confusion_matrix(scores, labels, w), theirs)
    assert m.log_loss(scores, labels, w) == pytest.approx(sk.log_loss(labels, probabilities, sample_weight=w))
    for average in (None, "macro", "weighted"):
        theirs = sk.precision_recall_fscore_support(labels, predicted, average=average, sample_weight=w)[:3]
        for a, b in zip(m.precision_recall_f1(scores, labels, w, average=average), theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    y = scores @ rng.normal(size=(4, 2))
    out = y + rng.normal(size=y.shape)
    assert m.r2(out, y, w) == pytest.approx(sk.r2_score(y, out, sample_weight=w))
    assert m.mean_squared_error(out, y, w) == pytest.approx(sk.mean_squared_error(y, out, sample_weight=w))
    assert m.mean_absolute_error(out, y, w) == pytest.approx(sk.mean_absolute_error(y, out, sample_weight=w))


@pytest.mark.parametrize("metric", [m.accuracy, m.log_loss, m.confusion_matrix, m.precision_recall_f1])
@pytest.mark.parametrize(
    ("scores", "labels", "weights", "message"),
    [
        (SCORES, LABELS[:3], None, "labels must have one label.*expected 5, got 3"),
        (SCORES, [0, 1, 2, 3, 0], None, r"labels\[3\] is 3, expected 0 to 2"),
        (SCORES, [0, -1, 2, 2, 0], None, r"labels\[1\] is -1"),
        ([0.5, 1.0], [0, 2], None, r"labels\[1\] is 2, expected 0 to 1"),
        (SCORES, [0, np.nan, 2, 2, 0], None, r"labels\[1\] is nan"),
        (SCORES, LABELS[:, None], None, "labels must have 1 dimension, got"),
        (SCORES[None], LABELS, None, "scores must have 1 or 2 dimensions"),
        ([[1.0, np.nan]], [0], None, r"scores\[0, 1\] is nan"),
        (SCORES, LABELS, [1, 1], "sample_weight must have one weight.*expected 5, got 2"),
        (SCORES, LABELS, [1, 1, -1, 1, 1], r"sample_weight\[2\] is negative"),
        (SCORES, LABELS, [0] * 5, "sample_weight are all zero"),
        (SCORES, LABELS, [1, np.inf, 1, 1, 1], r"sample_weight\[1\] is inf"),
        ([], [], None, "scores is empty"),
    ],
)
def test_classification_arguments(metric, scores, labels, weights, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, labels, weights)


@pytest.mark.parametrize("metric", [m.mean_squared_error, m.mean_absolute_error, m.r2])
def test_regression_arguments(metric):
    with pytest.raises(ValueError, match=r"\(3, 2\), targets have shape \(3, 1\)"):
        metric(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ValueError, match=r"outputs\[1\] is inf"):
        metric([1.0, np.inf], [1.0, 2.0])
    with pytest.raises(TypeError, match="targets must hold real numbers"):
        metric([1.0], ["a"])


# ---------------------------------------------------------------------------------------------------------- entities


@pytest.mark.parametrize(("tags", "found"), [
    ("O B-a I-a O B-b", [("a", 1, 3), ("b", 4, 5)]),
    ("B-a B-a I-b I-b B-b", [("a", 0, 1), ("a", 1, 2), ("b", 2, 4), ("b", 4, 5)]),
    ("I-a I-a O I-a", [("a", 0, 2), ("a", 3, 4)]),  # no beginning: forgiven
    ("B-a O I-a", [("a", 0, 1), ("a", 2, 3)]),
    ("O", []),
    ("", []),
    ("B-creative-work I-creative-work", [("creative-work", 0, 2)]),
])
def test_entities(tags, found):
    assert m.entities(tags.split()) == found
    assert m.entities(iter(tags.split())) == found


def test_entity_f1():
    true = ["O B-a I-a O B-b".split(), "B-b O".split(), []]
    predicted = ["O B-a I-a B-b O".split(), "B-b B-c".split(), []]
    r = m.entity_f1(true, predicted)
    assert (r["precision"], r["recall"], r["f1"]) == (2 / 4, 2 / 3, 4 / 7)
    assert r["types"] == {"a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1},
                          "b": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
                          "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}}
    assert m.entity_f1([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "types": {}}
    # A part of an entity is not the entity, nor is one of another type.
    assert m.entity_f1(["B-a I-a".split()], ["B-a O".split()])["f1"] == 0.0
    assert m.entity_f1(["B-a I-a".split()], ["B-b I-b".split()])["f1"] == 0.0


def test_entity_f1_against_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(3)
    tags = ["O", "B-a", "I-a", "B-b", "I-b", "B-c-d", "I-c-d"]
    for _ in range(60):
        lengths = rng.integers(1, 12, 15)
        true = [[str(t) for t in rng.choice(tags, n)] for n in lengths]
        predicted = [[t if rng.random() < 0.7 else str(rng.choice(tags)) for t in sentence] for sentence in true]
        ours = m.entity_f1(true, predicted)
        assert ours["precision"] == pytest.approx(seqeval.precision_score(true, predicted), abs=1e-12)
        assert ours["recall"] == pytest.approx(seqeval.recall_score(true, predicted), abs=1e-12)
        assert ours["f1"] == pytest.approx(seqeval.f1_score(true, predicted), abs=1e-12)
        theirs = seqeval.classification_report(true, predicted, output_dict=True, zero_division=0)
        for kind, scores in ours["types"].items():
            assert scores == pytest.approx({"precision": theirs[kind]["precision"], "recall": theirs[kind]["recall"],
                                            "f1": theirs[kind]["f1-score"], "support": theirs[kind]["support"]})


@pytest.mark.parametrize(("true", "predicted", "error", "message"), [
    ([["O"]], [], ValueError, "true has 1 sentences, predicted 0"),
    ([["O"]], [["O", "O"]], ValueError, "sentence 0 has 1 true tags and 2 predicted"),
    ([["O"]], [["S-a"]], ValueError, r"tags\[0\] is 'S-a'"),
    ([["O"]], [[3]], ValueError, r"tags\[0\] is 3"),
    (["O"], ["O"], TypeError, "sentence 0 is text"),
])
def test_entity_f1_refuses(true, predicted, error, message):
    with pytest.raises(error, match=message):
        m.entity_f1(true, predicted)


def test_resolve():
    assert m.resolve("accuracy") is m.accuracy and m.resolve("mse") is m.mean_squared_error
    assert m.resolve(max) is max
    with pytest.raises(ValueError, match="'acuracy'.*accuracy"):
        m.resolve("acuracy")
    with pytest.raises(TypeError, match="metric"):
        m.resolve(3)
