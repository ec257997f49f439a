"""Networks: how they are built, what they say of themselves, what goes in and out, and their gradients."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import backprop as bp
from make_trajectories import hashed


def check_gradients(trainer, x, y, sample_weight=None, tolerance=1e-6):
    """Gradients of a float64 network against central differences, every parameter."""
    net = trainer.net
    assert net.dtype == "float64"
    _, mapping = trainer.loss_and_gradients(x, y, sample_weight)
    exact = {name: g.copy() for name, g in mapping.items()}
    step = 1e-5
    for name, p in net.parameters.items():
        numeric = np.empty(p.shape)
        for i in np.ndindex(p.shape):
            value = p[i]
            ends = []
            for p[i] in (value + step, value - step):
                ends.append(trainer.loss_and_gradients(x, y, sample_weight)[0])
            p[i] = value
            numeric[i] = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(numeric).max() > 1e-3, f"{name}: nothing to compare"
        np.testing.assert_allclose(exact[name], numeric, rtol=0, atol=tolerance * np.abs(numeric).max(), err_msg=name)


def two_inputs(dtype="float32"):
    """Two inputs, a shared layer, a skip connection, two outputs."""
    a, b = bp.Input(4), bp.Input(4)
    shared = bp.Dense(5, "tanh", name="shared")
    ha, hb = shared(a), shared(b)
    h = bp.concatenate([ha, hb, a], 1)
    h = bp.Dense(14, "sigmoid", name="middle")(h) + h
    return bp.Network([a, b], [bp.Dense(3, name="classes")(h), bp.Dense(1, name="value")(h)], dtype=dtype, seed=1)


# ---------------------------------------------------------------- building


def test_names_and_shapes_of_parameters():
    net = bp.Sequential([bp.Input(6), bp.Dense(4, "prelu"), bp.Dropout(0.5), bp.Dense(3, use_bias=False), bp.Dense(2, name="top")])
    assert {k: v.shape for k, v in net.parameters.items()} == {
        "0.weight": (6, 4), "0.bias": (4,), "0.slope": (4,), "2.weight": (4, 3), "top.weight": (3, 2), "top.bias": (2,)}  # fmt: skip
    assert list(net.parameters) == ["0.weight", "0.bias", "0.slope", "2.weight", "top.weight", "top.bias"]
    assert list(two_inputs().parameters) == ["shared.weight", "shared.bias", "middle.weight", "middle.bias", "classes.weight",
                                             "classes.bias", "value.weight", "value.bias"]  # fmt: skip
    x = bp.Input(2)
    assert list(bp.Network(x, bp.Dense(1)(bp.Dense(3)(x))).parameters) == ["dense0.weight", "dense0.bias", "dense1.weight",
                                                                          "dense1.bias"]  # fmt: skip


def test_input_size_comes_from_the_data_or_from_input_first():
    lazy = bp.Sequential([bp.Dense(3, "relu"), bp.Dense(2)], seed=7)
    assert not lazy.built
    with pytest.raises(ValueError, match="input size"):
        lazy.initialize(0)
    assert "not known" in repr(lazy)
    x = hashed((5, 4), 1)
    y = lazy.predict(x)
    assert lazy.built and y.shape == (5, 2) and y.dtype == np.float32
    eager = bp.Sequential([bp.Input(4), bp.Dense(3, "relu"), bp.Dense(2)], seed=7)
    assert eager.built and eager.predict(x).tobytes() == y.tobytes()
    with pytest.raises(bp.ShapeError, match=r"X has shape \(5, 3\)"):
        lazy.predict(x[:, :3])
    assert bp.Sequential([bp.Dense(2)]).predict(np.zeros((0, 3))).shape == (0, 2)


def test_a_trainers_seed_decides_where_the_network_has_none():
    def weights(seed, trainer_seed):
        net = bp.Sequential([bp.Dense(3)], seed=seed)
        bp.Trainer(net, "squared_error", bp.SGD(0.0), seed=trainer_seed).step(np.ones((2, 4)), np.ones((2, 3)))
        return net.flat_parameters.tobytes()

    assert weights(None, 5) == weights(5, 1) == weights(5, 2) != weights(None, 6)


def test_initialize_draws_anew():
    net = bp.Sequential([bp.Input(3), bp.Dense(4)], seed=1)
    first = net.flat_parameters.copy()
    net.initialize(2)
    assert not np.array_equal(first, net.flat_parameters)
    net.initialize(1)
    assert np.array_equal(first, net.flat_parameters)


def test_parameters_are_views_that_the_next_prediction_sees():
    net = bp.Sequential([bp.Input(2), bp.Dense(1)], dtype="float64")
    net.parameters["0.weight"][...] = [[2.0], [3.0]]
    net.parameters["0.bias"][...] = 1.0
    assert net.predict([[1.0, 10.0]]).item() == 33.0
    net.flat_parameters[...] *= 2
    assert net.predict([[1.0, 10.0]]).item() == 66.0
    assert np.shares_memory(net.parameters["0.bias"], net.flat_parameters)
    with pytest.raises(TypeError):
        net.parameters["0.bias"] = np.zeros(1)


def test_what_cannot_be_built_says_why():
    x = bp.Input(3)
    with pytest.raises(TypeError, match="Sequential takes layers"):
        bp.Sequential([bp.Dense(2), "relu"])
    with pytest.raises(TypeError, match="bp.Input"):
        bp.Network([bp.Dense(2)(x)], [bp.Dense(2)(x)])
    with pytest.raises(ValueError, match="not among the inputs"):
        bp.Network([bp.Input(3)], [bp.Dense(2)(x)])
    with pytest.raises(ValueError, match="dtype"):
        bp.Sequential([bp.Dense(2)], dtype="float16")
    with pytest.raises(TypeError, match="seed"):
        bp.Sequential([bp.Dense(2)], seed=1.5)
    with pytest.raises(ValueError, match="different names"):
        bp.Network(x, bp.Dense(2, name="a")(bp.Dense(3, name="a")(x)))
    with pytest.raises(ValueError, match="units"):
        bp.Dense(0)
    with pytest.raises(ValueError, match="activation"):
        bp.Dense(1, "rleu")
    with pytest.raises(ValueError, match="rate"):
        bp.Dropout(1.0)
    dense = bp.Dense(2)
    dense(x)
    with pytest.raises(bp.ShapeError, match="4 columns"):
        dense(bp.Input(4))


# ---------------------------------------------------------------- prediction


def test_several_inputs_and_outputs():
    net = two_inputs("float64")
    a, b = hashed((6, 4), 1), hashed((6, 4), 2)
    p = net.parameters
    ha, hb = (np.tanh(v @ p["shared.weight"] + p["shared.bias"]) for v in (a, b))
    h = np.concatenate([ha, hb, a], 1)
    h = 1 / (1 + np.exp(-(h @ p["middle.weight"] + p["middle.bias"]))) + h
    classes, value = net.predict([a, b])
    np.testing.assert_allclose(classes, h @ p["classes.weight"] + p["classes.bias"], rtol=1e-12)
    np.testing.assert_allclose(value, h @ p["value.weight"] + p["value.bias"], rtol=1e-12)
    for bad in (a, [a], [a, b, a]):
        with pytest.raises(ValueError, match="X must be a list of 2"):
            net.predict(bad)
    with pytest.raises(ValueError, match=r"X\[0\] has 6 rows, X\[1\] has 5"):
        net.predict([a, b[:5]])
    with pytest.raises(bp.ShapeError, match=r"X\[1\]"):
        net.predict([a, b[:, :3]])


def test_images_are_flattened():
    x = hashed((5, 4, 3), 1)
    net = bp.Sequential([bp.Flatten(), bp.Dense(3, "relu"), bp.Flatten(), bp.Dense(2)], seed=1)
    flat = bp.Sequential([bp.Dense(3, "relu"), bp.Dense(2)], seed=1)
    assert net.predict(x).tobytes() == flat.predict(x.reshape(5, 12)).tobytes()
    with pytest.raises(bp.ShapeError, match=r"\(5, 12\)"):
        net.predict(x.reshape(5, 12))


def test_dropout_acts_in_training_mode_alone():
    net = bp.Sequential([bp.Input(1), bp.Dense(1, use_bias=False, weight_init="ones"), bp.Dropout(0.25)])
    x = np.ones((4000, 1))
    assert (net.predict(x) == 1).all() and (net(x) == 1).all()
    first, second = net(x, training=True), net(x, training=True)
    for draw in (first, second):
        assert set(np.unique(draw)) == {np.float32(0), np.float32(1 / 0.75)}
        assert abs((draw == 0).mean() - 0.25) < 0.04
    assert (first != second).any()
    kept = net.forward(x)
    assert (net.backward(np.ones_like(kept)) == kept).all()  # the mask of that forward


def test_the_callers_arrays_are_not_kept():
    net = bp.Sequential([bp.Dense(2, "relu")], seed=0)
    x = hashed((3, 2), 1).astype("float32")
    out = net.predict(x)
    before = out.copy()
    net.predict(x * 5)
    assert np.array_equal(out, before)
    assert not np.shares_memory(out, net.predict(x))


def slowly(net, x):
    """Outputs by the way that every array takes."""
    return net._run(net.check_inputs(x), False, 1024)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_repeated_predictions_take_every_array(dtype):
    net = bp.Sequential([bp.Dense(6, "tanh"), bp.Dropout(0.5), bp.BatchNorm(), bp.Dense(3)], seed=1, dtype=dtype)
    x = hashed((40, 5), 1).astype(dtype)
    net(x[:1])
    assert net._again is not None
    unaligned = np.zeros(x.nbytes + 1, "uint8")[1:].view(dtype).reshape(x.shape)
    unaligned[:] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    wide = np.resize(x, (3000, 5))
    for a in (x, x[:1], x[::2], x[:0], x.T.copy().T, unaligned, fixed, x.astype("float16"), x.astype(int), x.astype(">f4"), x.tolist(), wide,
              np.ma.array(x)):
        want = slowly(net, a)
        for out in (net(a), net.predict(a), net.predict(a, batch_size=7)):
            assert out.dtype == dtype and out.tobytes() == want.tobytes() and out.shape == want.shape
            assert out.flags.owndata and out.flags.writeable
    assert net(x, training=True).tobytes() != net(x).tobytes()
    for a, error in ((x[:, :4], bp.ShapeError), (x[0], bp.ShapeError), (x[None], bp.ShapeError), (x.astype(complex), TypeError),
                     (x.astype(str), (TypeError, ValueError))):
        with pytest.raises(error):
            net(a)
    net.parameters["0.weight"][:] *= 2
    assert net(x).tobytes() == slowly(net, x).tobytes()
    assert sys.getrefcount(x) == sys.getrefcount(fixed) == 2


@pytest.mark.parametrize("make, x", [
    (two_inputs, [np.ones((3, 4), "float32")] * 2),
    (lambda: bp.Sequential([bp.Input(dtype="int32"), bp.Embedding(5, 3), bp.Dense(2)], seed=1), np.array([0, 4, 2], "int32")),
])  # fmt: skip
def test_repeated_predictions_of_networks_with_no_short_way(make, x):
    net = make()
    first, second = net(x), net(x)
    assert np.all([np.array_equal(a, b) for a, b in zip(first, second)]) and net._again is None
    with pytest.raises(ValueError):
        net(x + 5 if isinstance(x, np.ndarray) else x[:1])


def test_repeated_predictions_from_many_threads():
    net = bp.Sequential([bp.Dense(64, "tanh"), bp.Dense(3)], seed=1)
    x = hashed((200, 5), 1).astype("float32")
    want = [net(row) for row in x[:, None]]
    with ThreadPoolExecutor(8) as pool:
        for got, row in zip(pool.map(net, [row for row in x[:, None]] * 5), want * 5):
            assert got.tobytes() == row.tobytes()


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8"])
def test_batch_size_of_a_prediction(batch_size):
    net = bp.Sequential([bp.Input(2), bp.Dense(1)])
    with pytest.raises(ValueError, match="batch_size"):
        net.predict(np.zeros((3, 2)), batch_size=batch_size)


# ---------------------------------------------------------------- gradients of whole networks

GRADIENTS = {
    "relu": lambda: bp.Sequential([bp.Input(4), bp.Dense(6, "relu"), bp.Dense(3)], dtype="float64", seed=1),
    "prelu": lambda: bp.Sequential([bp.Input(4), bp.Dense(6, "prelu"), bp.Dense(3, "tanh"), bp.Dense(3)], dtype="float64", seed=2),
    "dropout": lambda: bp.Sequential([bp.Input(4), bp.Dense(8, "gelu"), bp.Dropout(0.4), bp.Dense(7, "elu"), bp.Dropout(0.2), bp.Dense(3)],
                                     dtype="float64", seed=3),
    "own activation": lambda: bp.Sequential([bp.Input(4), bp.Dense(5, lambda z: bp.exp(-z * z)), bp.Activation("softplus"), bp.Dense(3)],
                                            dtype="float64", seed=4),
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error", "binary_cross_entropy"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_against_central_differences(name, loss, weighted):
    x = hashed((7, 4), 11)
    y = np.arange(7) % 3 if loss == "cross_entropy" else (hashed((7, 3), 12) + 1) / 2
    trainer = bp.Trainer(GRADIENTS[name](), loss, seed=6)
    check_gradients(trainer, x, y, hashed(7, 13) + 1 if weighted else None)


def test_gradients_of_shared_layers_skips_and_several_outputs():
    trainer = bp.Trainer(two_inputs("float64"), ["cross_entropy", "squared_error"])
    x = [hashed((5, 4), 1), hashed((5, 4), 2)]
    check_gradients(trainer, x, [np.arange(5) % 3, hashed(5, 3)])


def test_gradients_of_a_layer_applied_to_its_own_output():
    x = bp.Input(4)
    again = bp.Dense(4, "tanh", name="again")
    net = bp.Network(x, again(again(again(x))) + x, dtype="float64", seed=1)
    assert list(net.parameters) == ["again.weight", "again.bias"]
    check_gradients(bp.Trainer(net, "squared_error"), hashed((6, 4), 1), hashed((6, 4), 2))


def test_a_wrong_gradient_would_be_seen():
    """The same check fails for a loss whose gradient has the wrong sign in one place."""
    def loss(z, y):
        d = z - y
        return bp.stop_gradient(d * 2.0) * d - d * d * 0.5 + bp.stop_gradient(d * d) * 0.5  # 2 d^2, with a gradient of d

    net = bp.Sequential([bp.Input(3), bp.Dense(2)], dtype="float64", seed=1)
    with pytest.raises(AssertionError):
        check_gradients(bp.Trainer(net, loss), hashed((4, 3), 1), hashed((4, 2), 2))


# ---------------------------------------------------------------- layers that are not trained


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_layer_that_is_not_trainable_keeps_its_bits(which):
    layers = [bp.Dense(6, "relu", trainable=which != 0), bp.Dense(5, "tanh", trainable=which != 1), bp.Dense(3, trainable=which != 2)]
    net = bp.Sequential([bp.Input(4), *layers], seed=1)
    before = {k: v.copy() for k, v in net.parameters.items()}
    trainer = bp.Trainer(net)
    x, y = hashed((12, 4), 1), np.arange(12) % 3
    trainer.step(x, y)
    trainer.fit(x, y, epochs=2, batch_size=5, progress=False)
    net.backward(net.forward(x))
    trainer.apply()
    for name, v in net.parameters.items():
        assert np.array_equal(v, before[name]) == name.startswith(f"{which}."), name
    _, gradients = trainer.loss_and_gradients(x, y)
    for name, g in gradients.items():
        assert g.any() != name.startswith(f"{which}."), name


def test_no_instruction_makes_a_gradient_that_nobody_wants():
    def products(frozen):
        layers = [bp.Dense(6, "relu", trainable=i not in frozen) for i in range(3)]
        net = bp.Sequential([bp.Input(4), *layers], seed=1)
        text = bp.Trainer(net, "squared_error", bp.SGD(0.1)).describe()
        return sum(line.split()[1] == "matmul" for line in text.splitlines())

    # three forward; a weight gradient for each trained layer; and a delta below each layer that has a trained one below it
    assert products([]) == 3 + 3 + 2
    assert products([0]) == 3 + 2 + 1
    assert products([0, 1]) == 3 + 1
    assert products([2]) == 3 + 2 + 2
    assert products([1]) == 3 + 2 + 2


def test_trainable_may_change_between_steps():
    net = bp.Sequential([bp.Input(4), bp.Dense(6, "relu"), bp.Dense(3)], seed=1)
    trainer = bp.Trainer(net)
    x, y = hashed((12, 4), 1), np.arange(12) % 3
    for frozen in (True, False, True):
        net.layers[0].trainable = not frozen
        before = net.parameters["0.weight"].copy(), net.parameters["1.weight"].copy()
        trainer.step(x, y)
        assert np.array_equal(before[0], net.parameters["0.weight"]) == frozen
        assert not np.array_equal(before[1], net.parameters["1.weight"])


@pytest.mark.parametrize("spoil", [lambda a: a[:, ::-1][:, ::-1], lambda a: a[::-1].copy()[::-1], np.asfortranarray,
                                   lambda a: np.repeat(a, 2, axis=0)[::2]])  # fmt: skip
def test_repeated_steps_take_rows_that_lie_anyhow(spoil):
    x, y = hashed((12, 4), 1).astype("float32"), np.arange(12) % 3
    results = []
    for way in (lambda a: a, spoil):
        trainer = bp.Trainer(bp.Sequential([bp.Dense(6, "relu"), bp.Dense(3)], seed=1))
        results.append([trainer.step(x, y), trainer.step(way(x), y), trainer.step(x, np.repeat(y, 2)[::2]), trainer.step(x, y)])
        results[-1].append(trainer.net.flat_parameters.tobytes())
    assert results[0] == results[1]
