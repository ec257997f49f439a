"""The lecture that this project comes from, item by item. `pytest -k lecture` runs every test that belongs to an item; each has the
item in its name. Most stand beside what they test:

    item                                                    tests
    A   matrix gradients, shapes, no Jacobian, shared work  here
    B   windows, their losses, sparse rows, the pitfall     test_windows.py, test_losses.py, test_embedding.py, test_vectors.py
    C   graphs: sums, routes, switches, own operations      here; pictures: test_view.py
    D   gradient check                                      test_gradcheck.py
        L2, initialisation, optimisers, rates               test_optimisers.py, test_init.py, test_schedules.py
        vectorising, nonlinearities                         here
    E1, E2, E4, E9, E12                                     here
    E3, E5, E6, E11                                         networks, here
    E7                                                      test_embedding.py
    E8, E10                                                 test_optimisers.py
"""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import backprop as bp
from backprop import autodiff
from backprop.graph import OPERATIONS, ancestors

rng = np.random.default_rng(4)
ITEMS = ["a", "b", "c", "d", *(f"e{i}" for i in range(1, 13))]


def test_lecture_every_item_has_a_test():
    names = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    missing = [item for item in ITEMS if f"def test_lecture_{item}_" not in names]
    assert not missing, f"no test is named test_lecture_<item>_... for {missing}"


def numbers(*values):
    return [bp.tensor(v, requires_grad=True) for v in values]


def check(f, tensors, value, gradients, tolerance=1e-10):
    """Value and gradients of f, in one step and by `backward`."""
    y = f(*tensors)
    assert y.item() == pytest.approx(value, rel=tolerance)
    y.backward()
    assert [t.grad.item() for t in tensors] == pytest.approx(gradients, rel=tolerance, abs=1e-15)
    assert bp.gradcheck(f, [t.value for t in tensors]).passed


# ---------------------------------------------------------------- A

def layer(x, w, b):
    return bp.matmul(x, w) + b


def test_lecture_a_gradients_of_a_layer_have_the_shapes_of_its_parameters():
    x, w, b = (bp.tensor(rng.normal(size=s), requires_grad=True) for s in ((6, 4), (4, 3), (3,)))
    delta = rng.normal(size=(6, 3))
    layer(x, w, b).backward(delta)
    np.testing.assert_allclose(w.grad, x.value.T @ delta, rtol=1e-12)
    np.testing.assert_allclose(b.grad, delta.sum(0), rtol=1e-12)
    np.testing.assert_allclose(x.grad, delta @ w.value.T, rtol=1e-12)
    assert (x.grad.shape, w.grad.shape, b.grad.shape) == (x.shape, w.shape, b.shape)


def test_lecture_a_elementwise_and_matrix_reasoning_agree():
    """W[i, j] touches output j alone: ds/dW[i, j] = x_i delta_j."""
    x, w, b = rng.normal(size=(1, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
    for j in range(3):
        t = bp.tensor(w, requires_grad=True)
        bp.tanh(layer(x, t, b))[0, j].backward()
        delta = 1 - np.tanh(x @ w + b)[0, j] ** 2
        np.testing.assert_allclose(t.grad[:, j], x[0] * delta, rtol=1e-12)
        assert not np.delete(t.grad, j, 1).any()


def test_lecture_a_backward_of_a_4096_wide_layer_needs_no_jacobian():
    """One would take 256 GB; what is needed is the layer's own arrays and a few copies."""
    x = bp.tensor(np.ones((64, 4096), "float32"))
    w = bp.tensor(np.full((4096, 4096), 1e-3, "float32"))
    tracemalloc.start()
    dw, dx = bp.evaluate(bp.grad(bp.sum(bp.matmul(x, w) * 2.0), [w, x]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * (w.value.nbytes + x.value.nbytes)
    assert dw[5, 7] == 128 and dx[3, 2] == pytest.approx(8.192)


def test_lecture_a_backward_is_of_the_order_of_forward():
    """Deltas are computed once and reused: the backward pass of a deep network adds nodes in proportion to the forward's."""
    def nodes(depth):
        x = bp.tensor(np.ones((2, 3)))
        y, ws = x, [bp.tensor(np.eye(3)) for _ in range(depth)]
        for w in ws:
            y = bp.tanh(y @ w)
        y = bp.sum(y)
        forward = len(ancestors([y]))
        return forward, len(ancestors([y, *bp.grad(y, ws)])) - forward
    (f10, b10), (f20, b20) = nodes(10), nodes(20)
    assert b20 - b10 <= 4 * (f20 - f10) and b20 <= 2 * b10 + 10


# ---------------------------------------------------------------- C

def test_lecture_c_plus_distributes_max_routes_times_switches():
    x, y = numbers(3.0, 5.0)
    for f, want in ((lambda a, b: a + b, (7, 7)), (bp.maximum, (0, 7)), (lambda a, b: a * b, (35, 21))):
        assert [g.item() for g in bp.grad(f(x, y) * 7.0, [x, y])] == list(want)


def test_lecture_c_downstream_is_upstream_times_local():
    z = numbers(0.3)[0]
    h = bp.tanh(z)
    np.testing.assert_allclose(bp.grad(h * 4.0, z).value, 4 * (1 - np.tanh(0.3) ** 2), rtol=1e-14)


def test_lecture_c_a_tie_of_max_is_decided():
    """maximum gives a tie to its second argument; max over an axis shares it."""
    x, y = numbers(2.0, 2.0)
    assert [g.item() for g in bp.grad(bp.maximum(x, y), [x, y])] == [0, 1]
    t = bp.tensor([1.0, 5.0, 5.0])
    assert bp.grad(bp.max(t), t).value.tolist() == [0, 0.5, 0.5]
    assert bp.grad(bp.relu(bp.tensor(0.0) * 1.0), x).item() == 0
    z = bp.tensor(0.0)
    assert bp.grad(bp.relu(z), z).item() == 0


def test_lecture_c_gradients_sum_at_branches_and_stop_where_nothing_leads():
    x, y = numbers(2.0, 3.0)
    assert bp.grad(x * x + x * 3.0 + bp.exp(x), x).item() == pytest.approx(7 + np.exp(2.0))
    assert bp.grad(x * 2.0, y).item() == 0
    assert bp.grad(x * bp.stop_gradient(x), x).item() == 2


def test_lecture_c_users_add_operations_of_their_own():
    @bp.operation
    class softsign:
        def forward(x):
            return x / (1 + np.abs(x))

        def backward(g, y, x):
            return g / (1 + np.abs(x)) ** 2

    assert bp.gradcheck(softsign, [rng.normal(size=(3, 4))]).passed


@pytest.mark.parametrize("f, derivatives", [
    (bp.tanh, lambda x, t: (1 - t**2, -2 * t * (1 - t**2), (1 - t**2) * (6 * t**2 - 2))),
    (bp.exp, lambda x, y: (y, y, y)),
    (lambda x: x**5, lambda x, y: (5 * x**4, 20 * x**3, 60 * x**2)),
    (lambda x: x**2.5, lambda x, y: (2.5 * x**1.5, 3.75 * x**0.5, 1.875 * x**-0.5)),
    (bp.sigmoid, lambda x, s: (s * (1 - s), s * (1 - s) * (1 - 2 * s), s * (1 - s) * (1 - 6 * s + 6 * s**2))),
    (bp.softplus, lambda x, y: (1 / (1 + np.exp(-x)), *(lambda s: (s * (1 - s), s * (1 - s) * (1 - 2 * s)))(1 / (1 + np.exp(-x))))),
    (bp.log, lambda x, y: (1 / x, -1 / x**2, 2 / x**3)),
    (bp.sqrt, lambda x, y: (0.5 / y, -0.25 / y**3, 0.375 / y**5)),
    (lambda x: 1.0 / x, lambda x, y: (-(y**2), 2 * y**3, -6 * y**4)),
])
def test_lecture_c_gradients_of_gradients_to_third_order(f, derivatives):
    x = np.array([0.3, 0.7, 1.9])
    t = bp.tensor(x)
    y = f(t)
    for want in derivatives(x, y.value):
        y = bp.grad(bp.sum(y), t)
        np.testing.assert_allclose(y.value, want, rtol=1e-11)


def test_lecture_c_gradients_of_gradients_of_matrices():
    a, x = rng.normal(size=(4, 4)), rng.normal(size=4)
    t = bp.tensor(x)
    form = bp.sum((t @ a) * t)  # x^T A x: gradient (A + A^T) x, second A + A^T
    first = bp.grad(form, t)
    np.testing.assert_allclose(first.value, (a + a.T) @ x, rtol=1e-12)
    rows = np.stack([bp.grad(first[i], t).value for i in range(4)])
    np.testing.assert_allclose(rows, a + a.T, rtol=1e-12)
    w = bp.tensor(a)
    cube = bp.sum(w @ w @ w)  # d/dW 1^T W^3 1 = sum_k (W^k)^T 1 1^T (W^(2-k))^T
    one, power = np.ones((4, 4)), np.linalg.matrix_power
    first = bp.grad(cube, w)
    np.testing.assert_allclose(first.value, sum(power(a.T, k) @ one @ power(a.T, 2 - k) for k in range(3)), rtol=1e-12)
    second = bp.grad(bp.sum(first), w)  # the same rule for J W^2, W J W and W^2 J, J = 1 1^T
    want = sum(c for k in range(3) for c in _product_rule([a] * k, one, [a] * (2 - k), one))
    np.testing.assert_allclose(second.value, want, rtol=1e-12)
    third = bp.grad(bp.sum(second), w)
    up = bp.gradcheck(lambda w: bp.grad(bp.sum(bp.grad(bp.sum(w @ w @ w), w)), w), [a])
    assert up.passed and third.shape == (4, 4)


def _product_rule(left, one, right, unit):
    """d/dW sum(prod(left^T) one prod(right^T)) for factors that are all W: a term for each of them."""
    factors = [*(f.T for f in left), one, *(f.T for f in right)]
    for i in range(len(factors)):
        if i != len(left):
            before = np.linalg.multi_dot([np.eye(4), *factors[:i]]) if i else np.eye(4)
            after = np.linalg.multi_dot([*factors[i + 1:], np.eye(4)]) if i + 1 < len(factors) else np.eye(4)
            yield (before.T @ unit @ after.T).T  # the factor is W^T


# ---------------------------------------------------------------- D

def test_lecture_d_one_product_says_what_a_loop_over_words_says():
    w, words = rng.normal(size=(5, 300)), rng.normal(size=(500, 300))
    together = bp.compile(lambda x: x @ w.T)(words)
    np.testing.assert_allclose(together, np.stack([w @ x for x in words]), rtol=1e-11, atol=1e-11)
    one = bp.compile(lambda x: x @ w.T)
    for i in (0, 7, 499):
        np.testing.assert_array_equal(one(words[i:i + 1])[0], together[i])


def test_lecture_d_nonlinearities():
    z = np.array([-1.5, -1.0, -0.25, 0.0, 0.25, 1.0, 1.5])
    t = bp.tensor(z)
    np.testing.assert_allclose(bp.tanh(t).value, (2.0 * bp.sigmoid(2.0 * t) - 1.0).value, atol=1e-15)
    np.testing.assert_array_equal(bp.hard_tanh(t).value, np.clip(z, -1, 1))
    np.testing.assert_array_equal(bp.grad(bp.sum(bp.hard_tanh(t)), t).value, [0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(bp.relu(t).value, np.maximum(z, 0))
    np.testing.assert_array_equal(bp.grad(bp.sum(bp.relu(t)), t).value, z > 0)
    np.testing.assert_array_equal(bp.leaky_relu(t, 0.1).value, np.where(z > 0, z, 0.1 * z))


def test_lecture_d_prelu_learns_its_slope():
    z, a, up = rng.normal(size=(4, 3)), np.array(0.25), rng.normal(size=(4, 3))
    t, s = bp.tensor(z, requires_grad=True), bp.tensor(a, requires_grad=True)
    bp.prelu(t, s).backward(up)
    assert s.grad == pytest.approx((up * z)[z <= 0].sum())
    np.testing.assert_allclose(t.grad, up * np.where(z > 0, 1, 0.25))


# ---------------------------------------------------------------- E

def test_lecture_e1_sum_times_max():
    def f(x, y, z):
        return (x + y) * bp.maximum(y, z)
    check(f, numbers(1.0, 2.0, 0.0), 6, [2, 5, 0])
    for at, value in (((1.1, 2, 0), 6.2), ((1, 2.1, 0), 6.51), ((1, 2, 0.1), 6.0)):
        assert f(*numbers(*map(float, at))).item() == pytest.approx(value, rel=1e-12)


def test_lecture_e2_sum_times_z():
    check(lambda x, y, z: (x + y) * z, numbers(-2.0, 5.0, -4.0), -12, [-4, -4, 3])


def test_lecture_e4_quotient_of_logistics():
    s = bp.sigmoid
    check(lambda x, y: (x + s(y)) / (s(x) + (x + y) ** 2), numbers(3.0, -4.0), 1.5456448841, [2.0595697956, 1.5922327515], 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lecture_e9_slope_of_the_logistic(dtype):
    z = np.linspace(-5, 5, 1001).astype(dtype)
    t = bp.tensor(z)
    slope = bp.grad(bp.sum(bp.sigmoid(t)), t).value
    assert slope.max() == 0.25 and z[slope.argmax()] == 0
    far = bp.tensor(np.array([-400.0, 400.0], dtype=dtype))
    assert bp.sigmoid(far).value.tolist() == pytest.approx([0, 1], abs=1e-100)
    for f in (bp.sigmoid, bp.tanh, lambda x: bp.binary_cross_entropy(x, np.array([0.0, 1.0])), bp.softplus):
        assert np.isfinite(f(far).value).all() and np.isfinite(bp.grad(bp.sum(f(far)), far).value).all()
    np.testing.assert_allclose(bp.grad(bp.sum(bp.sigmoid(far)), far).value, 0, atol=1e-100)


def test_lecture_e12_fifty_doublings_visit_each_node_once(monkeypatch):
    visits = []
    rule = OPERATIONS["add"]
    monkeypatch.setitem(OPERATIONS, "add", type(rule)(**{**rule.__dict__, "gradient": lambda n, g, needs: (visits.append(n), rule.gradient(n, g, needs))[1]}))
    x = bp.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(50):
        y = y + y
    (g,) = autodiff.gradients([y], [x])
    assert len(visits) == len(set(visits)) == 50
    assert g.item() == 2**50 == 1125899906842624
    y.backward()
    assert y.item() == x.grad.item() == 2.0**50


# ---------------------------------------------------------------- networks

def _net(layers, **parameters):
    """A float64 network with given parameters, by name with "_" for "."."""
    net = bp.Sequential(layers, dtype="float64")
    for name, value in parameters.items():
        net.parameters[name[1:].replace("_", ".")][...] = value
    return net


def test_lecture_e3_sigmoid_neuron():
    net = _net([bp.Input(2), bp.Dense(1, "sigmoid")], _0_weight=[[2.0], [-3.0]], _0_bias=[-3.0])
    assert net.forward(np.array([[-1.0, -2.0]]))[0, 0] == pytest.approx(0.7310585786, abs=1e-10)
    dx = net.backward(np.ones((1, 1)))
    np.testing.assert_allclose(net.gradients["0.weight"][:, 0], [-0.1966119, -0.3932239], atol=5e-8)
    np.testing.assert_allclose(net.gradients["0.bias"], [0.1966119], atol=5e-8)
    np.testing.assert_allclose(dx, [[0.3932239, -0.5898358]], atol=5e-8)


def test_lecture_e5_gradient_of_one_weight_of_a_4_2_1_net():
    """ds/dW1[i,j] = a_i f'(z_j) W2[j]."""
    rng = np.random.default_rng(5)
    net = bp.Sequential([bp.Input(4), bp.Dense(2, "sigmoid"), bp.Dense(1, use_bias=False)], dtype="float64", seed=2)
    a = rng.normal(size=(1, 4))
    net.forward(a)
    net.backward(np.ones((1, 1)))
    w1, b1, w2 = net.parameters.values()
    f = 1 / (1 + np.exp(-(a @ w1 + b1)))
    want = [[a[0, i] * f[0, j] * (1 - f[0, j]) * w2[j, 0] for j in range(2)] for i in range(4)]
    np.testing.assert_allclose(net.gradients["0.weight"], want, rtol=1e-12)


def test_lecture_e5_176_parameters():
    net = bp.Sequential([bp.Input(20), bp.Dense(8, "tanh"), bp.Dense(1, use_bias=False)])
    assert [v.size for v in net.parameters.values()] == [160, 8, 8] and sum(v.size for v in net.parameters.values()) == 176
    assert "176" in str(net.summary())


def test_lecture_e6_deltas_of_a_relu_layer_and_softmax():
    """delta1 = p - y, delta2 = (delta1 U^T) * 1[h > 0]."""
    rng = np.random.default_rng(6)
    x, labels = rng.normal(size=(9, 5)), rng.integers(0, 3, 9)
    net = bp.Sequential([bp.Input(5), bp.Dense(7, "relu"), bp.Dense(3)], dtype="float64", seed=1)
    _, grads = bp.Trainer(net, "cross_entropy").loss_and_gradients(x, labels)
    w, b, u, c = net.parameters.values()
    h = np.maximum(x @ w + b, 0)
    e = np.exp(h @ u + c)
    delta1 = (e / e.sum(1, keepdims=True) - np.eye(3)[labels]) / 9  # of the mean
    delta2 = (delta1 @ u.T) * (h > 0)
    for name, want in (("1.weight", h.T @ delta1), ("1.bias", delta1.sum(0)), ("0.weight", x.T @ delta2), ("0.bias", delta2.sum(0))):
        np.testing.assert_allclose(grads[name], want, rtol=1e-11, atol=1e-15)


def test_lecture_e11_mirror_symmetry_net():
    """Rumelhart, Hinton and Williams 1986, fig. 1: 0.8813, 0.1563, 0.3464."""
    w = np.array([[14.2, -3.6, 7.2, -7.2, 3.6, -14.2], [-14.2, 3.6, -7.1, 7.1, -3.6, 14.2]]).T
    net = _net([bp.Input(6), bp.Dense(2, "logistic"), bp.Dense(1, "logistic")],
               _0_weight=w, _0_bias=-1.1, _1_weight=-8.8, _1_bias=6.4)
    x = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    symmetric = (x == x[:, ::-1]).all(1)
    out = net.predict(x)[:, 0]
    assert symmetric.sum() == 8
    assert out[symmetric].min() == pytest.approx(0.8813, abs=5e-5) and out[~symmetric].max() == pytest.approx(0.1563, abs=5e-5)
    loss = bp.Trainer(net, "squared_error").evaluate(x, symmetric * 1.0)["loss"]
    assert loss * 64 / 2 == pytest.approx(0.3464, abs=5e-5)


def test_lecture_d_slope_of_a_prelu_layer_is_learned():
    """z > 0 ? z : a z, dJ/da = sum over z <= 0 of upstream * z."""
    z, up = np.array([[-2.0, 3.0], [0.0, -1.0], [4.0, -5.0]]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    for shared, want in ((False, [-2.0, -34.0]), (True, [-36.0])):
        net = bp.Sequential([bp.Input(2), bp.PReLU(shared)], dtype="float64")
        np.testing.assert_array_equal(net.forward(z), np.where(z > 0, z, 0.25 * z))
        np.testing.assert_array_equal(net.backward(up), np.where(z > 0, up, 0.25 * up))
        np.testing.assert_array_equal(net.gradients["0.slope"], want)
    t = bp.Trainer(net, "squared_error", bp.SGD(0.05))
    t.fit(z, np.where(z > 0, z, 0.7 * z), epochs=200, batch_size=3, progress=False)
    assert net.parameters["0.slope"][0] == pytest.approx(0.7, abs=1e-6)


def test_lecture_d_xavier_initialisation():
    """20 to 8: var 0.0714286, uniform within 0.46291005; biases 0."""
    net = bp.Sequential([bp.Input(20), bp.Dense(8, "tanh")], dtype="float64", seed=3)
    w, b = net.parameters.values()
    assert bp.init.xavier_uniform.variance((20, 8)) == pytest.approx(0.0714286, abs=5e-8)
    assert 0.9 * 0.46291005 < np.abs(w).max() <= 0.46291005 and not b.any()
    draws = np.concatenate([bp.init.xavier_uniform((20, 8), "float64", bp.init.Stream(s)).ravel() for s in range(60)])
    assert draws.var() == pytest.approx(0.0714286, rel=0.05)


def test_lecture_d_all_zero_weights_keep_hidden_units_identical():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    nets = [bp.Sequential([bp.Input(3), bp.Dense(5, "sigmoid", weight_init=w), bp.Dense(1, weight_init=w)], dtype="float64", seed=1)
            for w in ("zeros", "xavier")]  # fmt: skip
    for net in nets:
        bp.Trainer(net, "squared_error", bp.SGD(0.3)).fit(x, y, epochs=30, batch_size=8, progress=False)
    zero, small = (net.parameters["0.weight"] for net in nets)
    assert zero.any() and (zero == zero[:, :1]).all()  # they moved, together
    assert all(np.abs(small[:, i] - small[:, j]).max() > 0.01 for i in range(5) for j in range(i))
