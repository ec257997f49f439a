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


def test_resolve():
    assert m.resolve("accuracy") is m.accuracy and m.resolve("mse") is m.mean_squared_error
    assert m.resolve(max) is max
    with pytest.raises(ValueError, match="'acuracy'.*accuracy"):
        m.resolve("acuracy")
    with pytest.raises(TypeError, match="metric"):
        m.resolve(3)
