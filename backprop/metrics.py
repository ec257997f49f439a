"""Measures of how good predictions are, in plain NumPy.

Every metric is ``metric(outputs, targets, sample_weight=None)``, what the network gave before what was wanted. Classifiers
give raw scores, as losses take them: shape (n, classes), the largest wins (the first of equals), or (n,) or (n, 1) for two
classes, where a score above `threshold` (0, which is a probability of one half) means class 1. Targets are integer labels.
"""

import numpy as np

from .arrays import check_array, check_weights

__all__ = [
    "accuracy", "confusion_matrix", "entities", "entity_f1", "log_loss", "mean_absolute_error", "mean_squared_error",
    "precision_recall_f1", "r2", "resolve",
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------- classification


def accuracy(scores, labels, sample_weight=None, *, threshold=0.0):
    """The (weighted) share of samples whose class is right.

    Parameters
    ----------
    scores : array_like, shape (n, classes), (n, 1) or (n,)
    labels : array_like of int, shape (n,)
    sample_weight : array_like, shape (n,), optional
    threshold : float
        For scores of two classes.

    Returns
    -------
    float
    """
    predicted, labels, _ = _classes(scores, labels, threshold)
    return _mean(predicted == labels, check_weights("sample_weight", sample_weight, len(labels)))


def confusion_matrix(scores, labels, sample_weight=None, *, threshold=0.0):
    """Counts, or sums of weights, of samples of class i (row) that were taken for class j (column).

    Returns
    -------
    int64, or float64 with weights, shape (classes, classes)
    """
    predicted, labels, classes = _classes(scores, labels, threshold)
    weights = check_weights("sample_weight", sample_weight, len(labels))
    counts = np.bincount(labels * classes + predicted, weights, classes * classes)
    return counts.reshape(classes, classes)


def precision_recall_f1(scores, labels, sample_weight=None, *, average=None, threshold=0.0):
    """Precision, recall and their harmonic mean.

    For one class: precision = right / all taken for it, recall = right / all of it, F1 = 2 right / (the sum of both
    denominators); 0 where the denominator is 0.

    Parameters
    ----------
    scores, labels, sample_weight, threshold
        As in `accuracy`.
    average : {None, "macro", "weighted", "binary"}
        None: arrays of shape (classes,). "macro": their mean. "weighted": their mean weighted by how common each class is.
        "binary": the values of class 1 of two. (Averaged over samples instead, all three equal the accuracy.)

    Returns
    -------
    precision, recall, f1 : three arrays, or three floats
    """
    if average not in (None, "macro", "weighted", "binary"):
        raise ValueError(f"average must be None, 'macro', 'weighted' or 'binary', got {average!r}")
    counts = confusion_matrix(scores, labels, sample_weight, threshold=threshold).astype(np.float64)
    right, taken, wanted = np.diagonal(counts), counts.sum(axis=0), counts.sum(axis=1)

    def ratio(a, b):
        return np.divide(a, b, out=np.zeros_like(b), where=b != 0)

    values = ratio(right, taken), ratio(right, wanted), ratio(2 * right, taken + wanted)
    if average is None:
        return values
    if average == "binary":
        if len(wanted) != 2:
            raise ValueError(f"average='binary' needs two classes, scores have {len(wanted)}")
        return tuple(float(v[1]) for v in values)
    return tuple(float(np.average(v, weights=wanted if average == "weighted" else None)) for v in values)


def log_loss(scores, labels, sample_weight=None):
    """Mean of -ln p(label), with p the softmax of scores (n, classes) or the logistic of scores (n,) or (n, 1)."""
    scores = _scores(scores).astype(np.float64)
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)  # logistic(s) = softmax([0, s])[1]
    labels = _labels(labels, *scores.shape)
    weights = check_weights("sample_weight", sample_weight, len(labels))
    shifted = scores - scores.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    return _mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels], weights)


# ----------------------------------------------------------------------------------------------------------- entities


def entities(tags):
    """The entities that the tags of one sentence spell out.

    Tags are ``O``, ``B-type`` and ``I-type`` (IOB2). As the scorer of the CoNLL 2000 and 2003 tasks does, this takes what it
    finds: an ``I-`` whose type differs from that of the word before begins an entity as ``B-`` does.

    Parameters
    ----------
    tags : iterable of str

    Returns
    -------
    list of (str, int, int)
        Type, first word, and the word after the last one.
    """
    found, kind, start = [], None, 0
    end = 0
    for i, tag in enumerate(tags):
        if not isinstance(tag, str) or not (tag == "O" or tag[:2] in ("B-", "I-")):
            raise ValueError(f"tags[{i}] is {tag!r}, expected 'O', 'B-...' or 'I-...'")
        new = None if tag == "O" else tag[2:]
        if kind is not None and (new != kind or tag[0] == "B"):
            found.append((kind, start, i))
        if new != kind or tag[0] == "B":
            kind, start = new, i
        end = i + 1
    if kind is not None:
        found.append((kind, start, end))
    return found


def entity_f1(true, predicted):
    """Precision, recall and F1 of whole entities: one counts as found where its type, first and last word are right.

    (Unlike the metrics above this one takes the truth first, as `seqeval` and scikit-learn do.)

    Parameters
    ----------
    true, predicted : list of lists of str
        The tags of each sentence.

    Returns
    -------
    dict
        ``"precision"``, ``"recall"``, ``"f1"`` over all entities, ``"types"``: the same with ``"support"``, the number of true
        entities, for each type. 0 where a denominator is 0.
    """
    true, predicted = list(true), list(predicted)
    if len(true) != len(predicted):
        raise ValueError(f"true has {len(true)} sentences, predicted {len(predicted)}")
    counts = {}  # type -> [in both, predicted, true]
    for i, (t, p) in enumerate(zip(true, predicted)):
        if isinstance(t, str) or isinstance(p, str):
            raise TypeError(f"true and predicted must be lists of lists of tags; sentence {i} is text")
        if len(t) != len(p):
            raise ValueError(f"sentence {i} has {len(t)} true tags and {len(p)} predicted ones")
        t, p = set(entities(t)), set(entities(p))
        for place, group in enumerate((t & p, p, t)):
            for kind, _, _ in group:
                counts.setdefault(kind, [0, 0, 0])[place] += 1

    def scores(right, taken, wanted):
        return {"precision": right / taken if taken else 0.0, "recall": right / wanted if wanted else 0.0,
                "f1": 2 * right / (taken + wanted) if taken + wanted else 0.0}

    total = [sum(column) for column in zip(*counts.values())] or [0, 0, 0]
    types = {kind: {**scores(*counts[kind]), "support": counts[kind][2]} for kind in sorted(counts)}
    return {**scores(*total), "types": types}


# --------------------------------------------------------------------------------------------------------- regression


def mean_squared_error(outputs, targets, sample_weight=None):
    """Mean over samples and outputs of (output - target)^2. Both have shape (n,) or (n, outputs)."""
    outputs, targets, weights = _regression(outputs, targets, sample_weight)
    return _mean(np.square(outputs - targets).mean(axis=1), weights)


def mean_absolute_error(outputs, targets, sample_weight=None):
    """Mean over samples and outputs of |output - target|. Both have shape (n,) or (n, outputs)."""
    outputs, targets, weights = _regression(outputs, targets, sample_weight)
    return _mean(np.abs(outputs - targets).mean(axis=1), weights)


def r2(outputs, targets, sample_weight=None):
    """Coefficient of determination, 1 - (sum of squared errors) / (sum of squared deviations from the mean target).

    The mean over outputs. Where the targets of an output do not vary, it is 1 if the predictions are exact, else 0.
    """
    outputs, targets, weights = _regression(outputs, targets, sample_weight)
    w = np.ones(len(targets)) if weights is None else weights
    mean = np.where((targets == targets[0]).all(axis=0), targets[0], w @ targets / w.sum())
    error, spread = w @ np.square(outputs - targets), w @ np.square(targets - mean)
    varies = spread > 0
    share = np.divide(error, spread, out=(error > 0).astype(np.float64), where=varies)
    return float((1.0 - share).mean())


_METRICS = {f.__name__: f for f in (accuracy, log_loss, mean_squared_error, mean_absolute_error, r2)}
_METRICS |= {"mse": mean_squared_error, "mae": mean_absolute_error}


def resolve(metric):
    """The metric of a name, or the callable itself. Only metrics that give one number have names."""
    if isinstance(metric, str):
        if metric not in _METRICS:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(_METRICS)}")
        return _METRICS[metric]
    if not callable(metric):
        raise TypeError(f"metric must be a name or a callable, got {metric!r}")
    return metric


# ------------------------------------------------------------------------------------------------------------- checks


def _mean(values, weights):
    return float(values.mean(dtype=np.float64) if weights is None else values @ weights / weights.sum())


def _float_dtype(a):
    return np.float32 if getattr(a, "dtype", None) == np.float32 else np.float64


def _scores(scores):
    """-> (n, classes), or (n, 1) for two classes."""
    scores = check_array("scores", scores, _float_dtype(scores), ndim=(1, 2), finite=True)
    return scores.reshape(len(scores), -1)


def _labels(labels, n, classes):
    labels = check_array("labels", labels, np.int64, ndim=1)
    if len(labels) != n:
        raise ValueError(f"labels must have one label a row of scores: expected {n}, got {len(labels)}")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"labels[{i}] is {labels[i]}, expected 0 to {classes - 1}")
    return labels


def _classes(scores, labels, threshold):
    """-> (predicted (n,), labels (n,), number of classes)."""
    scores = _scores(scores)
    if scores.shape[1] == 1:
        predicted, classes = (scores[:, 0] > threshold).astype(np.int64), 2
    else:
        predicted, classes = scores.argmax(axis=1), scores.shape[1]
    return predicted, _labels(labels, len(scores), classes), classes


def _regression(outputs, targets, sample_weight):
    """-> (n, outputs) float64 twice, and the weights."""
    outputs = check_array("outputs", outputs, np.float64, ndim=(1, 2), finite=True)
    targets = check_array("targets", targets, np.float64, ndim=(1, 2), finite=True)
    outputs, targets = (a.reshape(len(a), -1) for a in (outputs, targets))
    if outputs.shape != targets.shape:  # (n, 1) and (n,) are the same; anything else would broadcast silently
        raise ValueError(f"outputs have shape {outputs.shape}, targets have shape {targets.shape}")
    return outputs, targets, check_weights("sample_weight", sample_weight, len(targets))
