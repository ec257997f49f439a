"""Losses: values and gradients against their formulas and PyTorch, weights, options, accuracy, errors."""

import numpy as np
import pytest

import backprop as bp
from backprop import losses

RNG = np.random.default_rng(7)
N, K = 23, 4
Z, LABELS = RNG.normal(size=(N, K)) * 2, RNG.integers(0, K, N)
P = RNG.dirichlet(np.ones(K), N)
Y = RNG.uniform(0.0, 1.0, (N, K))
W = np.array([0.5, 2.0, 1.0, 0.0])
CASES = {
    "cross_entropy": (losses.CrossEntropy(), LABELS),
    "probabilities": (losses.CrossEntropy(), P),
    "smoothed": (losses.CrossEntropy(label_smoothing=0.1), LABELS),
    "smoothed probabilities": (losses.CrossEntropy(label_smoothing=0.25), P),
    "weighted": (losses.CrossEntropy(class_weight=W), LABELS),
    "weighted and smoothed": (losses.CrossEntropy(0.1, W), LABELS),
    "weighted probabilities": (losses.CrossEntropy(0.1, W), P),
    "binary": (losses.BinaryCrossEntropy(), Y),
    "binary, weighted": (losses.BinaryCrossEntropy(3.0), Y),
    "binary, weighted by output": (losses.BinaryCrossEntropy(W), Y),
    "squared": (losses.SquaredError(), Y),
    "absolute": (losses.AbsoluteError(), Y),
    "huber": (losses.Huber(0.7), Y),
    "hinge": (losses.Hinge(0.8), (Y > 0.5) * 1.0),
}


def linear(loss, dtype="float64", outputs=K, inputs=K):
    """A network whose output is its input, and a trainer for it."""
    net = bp.Sequential([bp.Input(inputs), bp.Dense(outputs, use_bias=False, weight_init=lambda s, d, r: np.eye(*s, dtype=d))], dtype=dtype)
    return bp.Trainer(net, loss, bp.SGD(0.1))


def in_torch(torch, name, z):
    loss, y = CASES[name]
    F = torch.nn.functional
    t = torch.tensor(y)
    w = torch.tensor(W)
    return {
        "cross_entropy": lambda: F.cross_entropy(z, t), "probabilities": lambda: F.cross_entropy(z, t),
        "smoothed": lambda: F.cross_entropy(z, t, label_smoothing=0.1),
        "smoothed probabilities": lambda: F.cross_entropy(z, t, label_smoothing=0.25),
        "weighted": lambda: F.cross_entropy(z, t, weight=w),
        "weighted and smoothed": lambda: F.cross_entropy(z, t, weight=w, label_smoothing=0.1),
        "weighted probabilities": lambda: F.cross_entropy(z, t, weight=w, label_smoothing=0.1),
        "binary": lambda: F.binary_cross_entropy_with_logits(z, t),
        "binary, weighted": lambda: F.binary_cross_entropy_with_logits(z, t, pos_weight=torch.tensor(3.0).double()),
        "binary, weighted by output": lambda: F.binary_cross_entropy_with_logits(z, t, pos_weight=w),
        "squared": lambda: F.mse_loss(z, t), "absolute": lambda: F.l1_loss(z, t),
        "huber": lambda: F.huber_loss(z, t, delta=0.7),
        "hinge": lambda: torch.clamp(0.8 - (2 * t - 1) * z, min=0).mean(),
    }[name]()


@pytest.mark.parametrize("name", CASES)
def test_parity_with_pytorch(torch, name):
    """100 steps from the same start: values and parameters agree to 1e-9."""
    loss, y = CASES[name]
    trainer = linear(loss)
    w = torch.eye(K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], 0.1)
    for _ in range(100):
        theirs = in_torch(torch, name, torch.tensor(Z) @ w)
        optimizer.zero_grad()
        theirs.backward()
        optimizer.step()
        assert trainer.step(Z, y) == pytest.approx(theirs.item(), rel=1e-9)
    ours = trainer.net.parameters["0.weight"]
    assert np.abs(ours - w.detach().numpy()).max() <= 1e-9 * np.abs(ours).max()
    assert np.abs(ours - np.eye(K)).max() > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_central_differences(name):
    loss, y = CASES[name]
    labels = y.ndim == 1
    t = bp.tensor(y, dtype="int32" if labels else "float64")
    bp.gradcheck(lambda z: loss.mean(z, t), [Z])
    if not labels:
        bp.gradcheck(lambda z: loss.mean(z, t, bp.tensor(np.arange(N) % 3 + 0.5)), [Z])


@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_and_evaluate_is_the_loss_of_a_step(name):
    loss, y = CASES[name]
    s = RNG.uniform(0.1, 2, N)
    for weight in (None, s):
        wide, narrow = linear(loss), linear(loss, "float32")
        value = wide.evaluate(Z, y, weight, batch_size=5)["loss"]
        assert wide.step(Z, y, weight) == pytest.approx(value, rel=1e-12)
        assert narrow.evaluate(Z, y, weight)["loss"] == pytest.approx(value, rel=1e-5)
        assert narrow.step(Z.astype("float32"), y, weight) == pytest.approx(value, rel=1e-5)


def test_a_mean_by_class_weights_divides_by_the_weights_of_the_labels():
    s = RNG.uniform(0.1, 2, N)
    log_p = Z - np.log(np.exp(Z).sum(1, keepdims=True))
    per_row, w = -log_p[np.arange(N), LABELS], W[LABELS]
    got = linear(losses.CrossEntropy(class_weight=W)).evaluate(Z, LABELS, s)
    assert got["loss"] == pytest.approx((s * w * per_row).sum() / (s * w).sum(), rel=1e-12)
    assert got["accuracy"] == pytest.approx(np.average(Z.argmax(1) == LABELS, weights=s))
    by_dict = losses.CrossEntropy(class_weight={0: 0.5, 1: 2, 3: 0.0})
    assert linear(by_dict).evaluate(Z, LABELS, s) == got
    none = linear(losses.CrossEntropy(class_weight=[1, 1, 1, 0]))
    assert none.evaluate(Z, np.full(N, 3))["loss"] == 0.0  # nothing counts
    before = none.net.flat_parameters.copy()
    assert none.step(Z, np.full(N, 3)) == 0.0 and (none.net.flat_parameters == before).all()


def test_repeated_steps_take_the_same_way_with_weights():
    """The second of two equal steps is checked less, and does the same as `fit`."""
    x, y = Z.astype("float32"), LABELS.astype("int64")
    one, two = (linear(losses.CrossEntropy(0.1, W), "float32") for _ in range(2))
    for _ in range(6):
        one.step(x, y)
    assert one._fast is not None
    two.fit(x, y, epochs=6, batch_size=N, shuffle=False, progress=False)
    assert one.net.flat_parameters.tobytes() == two.net.flat_parameters.tobytes()
    with pytest.raises(ValueError, match="out of range for 4 classes"):
        one.step(x, np.full(N, 4))


def test_accuracy_of_each_loss_that_has_one():
    binary = (RNG.uniform(size=N) > 0.5) * 1.0
    z = Z[:, :1]
    for loss in ("binary_cross_entropy", losses.BinaryCrossEntropy(2.0), "hinge"):
        assert linear(loss, outputs=1, inputs=1).evaluate(z, binary)["accuracy"] == pytest.approx(((z[:, 0] > 0) == binary).mean())
    scores = linear("margin", outputs=2, inputs=2)
    assert scores.evaluate(Z[:, :2], np.zeros(N))["accuracy"] == pytest.approx((Z[:, 0] > Z[:, 1]).mean())
    assert scores.evaluate(Z[:, :2], np.zeros(N))["loss"] == pytest.approx(np.maximum(0, 1 - Z[:, 0] + Z[:, 1]).mean())
    assert "accuracy" not in linear("huber").evaluate(Z, Y)


def test_lecture_b_margin_loss_of_two_scores():
    """B: J = max(0, 1 - s + s_c): -1 and +1 where J > 0, nothing where J = 0, at s - s_c = 1 exactly too."""
    s = bp.tensor([0.5, 3.0, 1.5, 0.0], requires_grad=True)
    c = bp.tensor([0.25, 0.5, 0.5, 2.0], requires_grad=True)
    j = bp.margin_loss(s, c)
    np.testing.assert_array_equal(j.value, [0.75, 0.0, 0.0, 3.0])
    bp.sum(j).backward()
    np.testing.assert_array_equal(s.grad, [-1, 0, 0, -1])
    np.testing.assert_array_equal(c.grad, [1, 0, 0, 1])
    assert bp.margin_loss(2.0, 1.0, margin=3.0).item() == 2.0


def test_lecture_b_logistic_loss_on_a_score():
    """B: -log sigmoid(s) for a true window, -log(1 - sigmoid(s)) for a corrupted one; slopes p - y."""
    s = bp.tensor([1.5, -2.0, 400.0], requires_grad=True)
    y = np.array([1.0, 0.0, 0.0])
    j = bp.binary_cross_entropy(s, y)
    np.testing.assert_allclose(j.value, [np.log1p(np.exp(-1.5)), np.log1p(np.exp(-2.0)), 400.0], rtol=1e-14)
    bp.sum(j).backward()
    np.testing.assert_allclose(s.grad, 1 / (1 + np.exp(-s.value)) - y, rtol=1e-14)


def test_weighted_binary_cross_entropy_of_extreme_scores():
    y = bp.tensor([1.0, 0.0, 1.0, 0.0])
    z = bp.tensor([50.0, -50.0, -800.0, 800.0])
    got = losses.BinaryCrossEntropy(2.0).points(z, y).value
    np.testing.assert_allclose(got, [2 * np.exp(-50), np.exp(-50), 1600, 800], rtol=1e-14)


def test_names_and_options():
    for name in ("cross_entropy", "squared_error", "binary_cross_entropy", "absolute_error", "huber", "hinge", "margin", "mse", "mae", "bce"):
        assert isinstance(losses.resolve(name), bp.losses.Loss)
    assert isinstance(losses.resolve(losses.Huber), losses.Huber)
    assert str(losses.CrossEntropy()) == "cross_entropy" == losses.CrossEntropy().name
    assert str(losses.CrossEntropy(0.1, [1, 2])) == "cross_entropy(label_smoothing=0.1, class_weight=[1.0, 2.0])"
    assert str(losses.Huber(2.0)) == "huber(delta=2.0)" and str(losses.Hinge()) == "hinge"


@pytest.mark.parametrize("make, words", [
    (lambda: losses.CrossEntropy(label_smoothing=1.0), "label_smoothing must be a number at least 0 and below 1"),
    (lambda: losses.CrossEntropy(class_weight=[1.0, -1.0]), "class_weight must be finite numbers, none negative"),
    (lambda: losses.CrossEntropy(class_weight=[1.0, np.nan]), "class_weight"),
    (lambda: losses.CrossEntropy(class_weight={"a": 1.0}), "labels are whole numbers"),
    (lambda: losses.BinaryCrossEntropy(-1.0), "pos_weight must not be negative"),
    (lambda: losses.Huber(0), "delta must be a number above 0"),
    (lambda: losses.Hinge(-1), "margin must be a number"),
    (lambda: bp.margin_loss(1.0, 2.0, margin=-1.0), "margin must be a finite number"),
    (lambda: linear(losses.CrossEntropy(class_weight=[1.0, 2.0])).step(Z, LABELS), "class_weight has 2 numbers, the network has 4 classes"),
    (lambda: linear(losses.CrossEntropy(class_weight={4: 2.0})).step(Z, LABELS), "names the label 4"),
    (lambda: linear(losses.BinaryCrossEntropy([1.0, 2.0])).step(Z, Y), r"pos_weight has shape \(2,\)"),
    (lambda: linear("hinge").step(Z, Y * 2), "must lie in .0, 1. for hinge"),
    (lambda: linear("margin").step(Z, np.zeros(N)), r"margin expects an output \(n, 2\)"),
])  # fmt: skip
def test_wrong_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_checkpoints_tell_losses_apart(tmp_path):
    one = linear(losses.CrossEntropy(0.1))
    one.step(Z, LABELS)
    one.save_checkpoint(tmp_path / "c")
    linear(losses.CrossEntropy(0.1)).load_checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match="losses"):
        linear("cross_entropy").load_checkpoint(tmp_path / "c")


def test_two_inputs_and_two_outputs_with_a_loss_each():
    a, b = bp.Input(4), bp.Input(3)
    h = bp.Dense(8, "tanh")(bp.concatenate([a, b], axis=1))
    net = bp.Network([a, b], [bp.Dense(K)(h), bp.Dense(1)(h)], dtype="float64", seed=1)
    x = [Z, RNG.normal(size=(N, 3))]
    y = [LABELS, x[1].sum(1)]
    trainer = bp.Trainer(net, [losses.CrossEntropy(class_weight=W), "huber"], bp.Adam(0.02), loss_weights=[1.0, 0.5], seed=2)
    before = trainer.evaluate(x, y)["loss"]
    history = trainer.fit(x, y, epochs=30, batch_size=8, validation_data=(x, y), progress=False)
    after = trainer.evaluate(x, y)["loss"]
    assert after < before / 2 and history[-1]["valid_loss"] == after
    scores, values = net.predict(x)
    assert scores.shape == (N, K) and values.shape == (N, 1)
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    d = np.abs(values[:, 0] - y[1])
    first = -(W[LABELS] * log_p[np.arange(N), LABELS]).sum() / W[LABELS].sum()
    assert after == pytest.approx(first + 0.5 * np.where(d <= 1, d * d / 2, d - 0.5).mean(), rel=1e-12)
