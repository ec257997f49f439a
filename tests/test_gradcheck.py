"""Gradient checks: of functions, networks and trainers; what a wrong gradient looks like; kinks."""

import numpy as np
import pytest

import backprop as bp
from backprop.gradcheck import GradientError
from backprop.graph import OPERATIONS

rng = np.random.default_rng(11)


def data(n=12, dtype="float32"):
    return rng.normal(size=(n, 5)).astype(dtype), rng.integers(0, 3, n)


@pytest.fixture
def wrong_tanh(monkeypatch):
    """tanh' = 1 - y^2 with an error of one part in a thousand."""
    tanh = OPERATIONS["tanh"]
    monkeypatch.setitem(OPERATIONS, "tanh", type(tanh)(**{**tanh.__dict__, "gradient": lambda y, g, needs: [g * (1.0 - y * y) * 1.001]}))


def test_lecture_d_numeric_gradient_and_its_error_measure():
    report = bp.gradcheck(lambda x, w: bp.sum(bp.tanh(x @ w)), data()[:1] + (rng.normal(size=(5, 2)),))
    assert report.passed and report.checked == 70 and report.worst < 1e-8 and "passed" in repr(report)
    name, at, analytic, numeric, error = report.entries[0]
    assert error == abs(numeric - analytic) / max(1, abs(numeric), abs(analytic)) == report.worst
    # central differences: the error falls with h^2
    coarse, fine = (bp.gradcheck(lambda x: x**5, [np.array([1.5])], h=h, tolerance=1).worst for h in (1e-2, 1e-3))
    assert 80 < coarse / fine < 120


def test_a_wrong_gradient_fails_with_the_worst_entries(wrong_tanh):
    x = np.array([[0.0, 2.0], [0.5, -0.1]])
    with pytest.raises(GradientError) as e:
        bp.gradcheck(bp.tanh, [x], worst=3)
    lines = str(e.value).splitlines()
    assert "FAILED: 4 numbers" in lines[0] and len(lines) == 4
    assert "input 0[0, 0]: analytic 0.5005, numeric 0.5" in lines[1] or "analytic" in lines[1]
    report = bp.gradcheck(bp.tanh, [x], raise_exception=False)
    assert not report.passed and [e[4] for e in report.entries] == sorted((e[4] for e in report.entries), reverse=True)


# ---------------------------------------------------------------- networks

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lecture_d_gradcheck_of_a_network_with_its_loss(dtype):
    net = bp.Sequential([bp.Dense(7, "tanh"), bp.Dropout(0.3), bp.Dense(6, "relu"), bp.Dense(3)], dtype=dtype, seed=2)
    x, y = data(dtype=dtype)
    report = bp.gradcheck(net, (x, y))
    before = net.flat_parameters.copy()
    assert report.passed and report.checked == sum(v.size for v in net.parameters.values()) and report.worst < 1e-7
    np.testing.assert_array_equal(net.flat_parameters, before)
    assert bp.gradcheck(net, (x, np.eye(3)[y]), loss="squared_error").passed
    assert bp.gradcheck(net, (x, y, rng.uniform(0, 2, len(x)))).passed


def test_a_network_with_a_wrong_gradient_names_parameter_and_place(wrong_tanh):
    net = bp.Sequential([bp.Dense(7, "tanh"), bp.Dense(3)], seed=2)
    with pytest.raises(GradientError, match=r"0\.weight\[\d, \d\]: analytic"):
        bp.gradcheck(net, data())


def test_large_parameters_are_sampled_by_seed():
    net = bp.Sequential([bp.Dense(60, "tanh"), bp.Dense(3)])
    one, two, other = (bp.gradcheck(net, data_, max_entries=50, seed=s, worst=500) for data_ in [data(6)] for s in (1, 1, 2))
    assert one.checked == 50 + 50 + 50 + 3
    assert one.entries == two.entries and {e[:2] for e in one.entries} != {e[:2] for e in other.entries}
    assert bp.gradcheck(net, data(6), max_entries=None).checked == 5 * 60 + 60 + 180 + 3


def test_several_inputs_outputs_and_frozen_layers():
    a, b = bp.Input(5), bp.Input(5)
    shared = bp.Dense(4, "tanh")
    frozen = bp.Dense(4, "tanh", trainable=False)
    h = shared(a) * shared(b) + frozen(a)
    net = bp.Network([a, b], [bp.Dense(3)(h), bp.Dense(1)(h)], seed=1)
    (x, y), (z, _) = data(), data()
    report = bp.gradcheck(net, ([x, z], [y, z[:, :1]]), loss=["cross_entropy", "squared_error"], worst=100)
    assert report.passed and {e[0] for e in report.entries} <= set(net.parameters) and not any("dense1." in e[0] for e in report.entries)


def test_an_embedding():
    net = bp.Sequential([bp.Embedding(30, 4), bp.Flatten(), bp.Dense(3)], seed=1)
    ids = rng.integers(0, 30, (6, 5))
    assert bp.gradcheck(net, (ids, data(6)[1])).passed


def test_batch_norm_and_layer_norm():
    net = bp.Sequential([bp.Dense(5), bp.BatchNorm(), bp.Activation("tanh"), bp.LayerNorm(), bp.Dense(3)], seed=1)
    assert bp.gradcheck(net, data()).passed


# ---------------------------------------------------------------- trainers

@pytest.mark.parametrize("rules", [{}, {"l2": 0.3}, {"l1": 0.2, "l2": 0.1}])
def test_lecture_d_gradcheck_of_a_trainer_includes_its_penalties(rules):
    net = bp.Sequential([bp.Dense(6, "tanh"), bp.Dense(3)], seed=2)
    trainer = bp.Trainer(net, optimizer=bp.Adam(0.01), **rules)
    x, y = data()
    trainer.step(x, y)
    before, state, t = net.flat_parameters.copy(), trainer.state.copy(), trainer.t
    report = trainer.gradcheck(x, y, worst=1000)
    assert report.passed and trainer.t == t
    np.testing.assert_array_equal(net.flat_parameters, before)
    np.testing.assert_array_equal(trainer.state, state)
    _, gradients = trainer.loss_and_gradients(x, y)  # what is checked is what training uses
    for name, at, analytic, _, _ in report.entries:
        assert gradients[name][at] == pytest.approx(analytic, rel=1e-4, abs=1e-5)


def test_a_loss_of_ones_own():
    trainer = bp.Trainer(bp.Sequential([bp.Dense(2)], seed=3), loss=lambda z, t: bp.sum(bp.abs(z - t) ** 3, 1))
    x, _ = data()
    assert trainer.gradcheck(x, x[:, :2]).passed


# ---------------------------------------------------------------- kinks

def test_a_kink_between_the_points_is_no_failure():
    x = np.array([3e-5, -3e-5, 0.2])  # nearer than h
    report = bp.gradcheck(bp.relu, [x])
    assert report.passed and report.kinks == 2


def test_at_a_kink_any_slope_between_those_of_its_sides_is_right():
    report = bp.gradcheck(lambda x: bp.relu(x) * 3.0, [np.array([0.0, 1.0])])
    assert report.passed and report.kinks == 1
    wrong = bp.operation(np.abs, name="wrong").backward(lambda g, y, x: g * np.where(x == 0, 2.0, np.sign(x)))
    with pytest.raises(GradientError):
        bp.gradcheck(wrong, [np.array([0.0, 1.0])])


def test_wrong_slopes_near_kinks_are_still_found():
    wrong = bp.operation(lambda x: np.maximum(x, 0), name="wrong").backward(lambda g, y, x: g * (x > 0) * 1.5)
    with pytest.raises(GradientError):
        bp.gradcheck(wrong, [np.array([3e-5])])


# ---------------------------------------------------------------- arguments

def test_wrong_arguments():
    net = bp.Sequential([bp.Dense(3)])
    x, y = data()
    with pytest.raises(ValueError, match=r"takes its data as \(X, y\)"):
        bp.gradcheck(net, x)
    with pytest.raises(TypeError, match="inputs must be a list"):
        bp.gradcheck(bp.tanh, 3.0)
    with pytest.raises(TypeError, match="returns a Tensor"):
        bp.gradcheck(lambda x: 3.0, [1.0])
    with pytest.raises(ValueError, match="h must be"):
        bp.gradcheck(bp.tanh, [x], h=0)
    with pytest.raises(TypeError, match="float64"):
        bp.gradcheck(lambda t: bp.sum(bp.tensor(x) * 1.0), [1.0])
