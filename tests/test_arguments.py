"""What goes into a trainer: every real array, in any form; and what is refused, by name, before anything is changed."""

import numpy as np
import pytest

import backprop as bp
from make_trajectories import hashed

N, INPUTS, CLASSES = 24, 5, 3
X = np.rint(hashed((N, INPUTS), 61) * 8)  # whole numbers: exact in every dtype
Y = (X @ hashed((INPUTS, CLASSES), 62)).argmax(1)
P = np.eye(CLASSES)[Y]
NAN, INF = np.nan, np.inf


def make(loss="cross_entropy", dtype="float32", built=True):
    layers = [bp.Dense(6, "relu"), bp.Dense(CLASSES)]
    net = bp.Sequential([bp.Input(INPUTS), *layers] if built else layers, dtype=dtype, seed=1)
    return bp.Trainer(net, loss, bp.Adam(0.01), seed=1)


def trained(x, y, w=None, dtype="float32"):
    return trained_by(make(dtype=dtype), x, y, w)


def trained_by(trainer, x, y, w=None):
    """The bits after some training and all that a trainer says of the data."""
    trainer.step(x, y, w)
    trainer.fit(x, y, epochs=2, batch_size=7, sample_weight=w, progress=False)
    loss, _ = trainer.loss_and_gradients(x, y, w)
    net = trainer.net
    return loss, net.predict(x).tobytes(), trainer.evaluate(x, y, w), net.flat_parameters.tobytes()


class Offers:
    """Another library's array."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return np.array(self.a, dtype=dtype)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype) if a.dtype.itemsize == 1 else np.frombuffer(raw, a.dtype, a.size, 1)
    view = view.reshape(a.shape)
    view[...] = a
    return view


FORMS = {
    "float64": np.float64,
    "int8": lambda a: a.astype(np.int8),
    "int64": lambda a: a.astype(np.int64),
    "float16": lambda a: a.astype(np.float16),
    "big-endian": lambda a: a.astype(">f4"),
    "longdouble": lambda a: a.astype(np.longdouble),
    "Fortran order": lambda a: np.asfortranarray(a.astype("float32")),
    "reversed": lambda a: a.astype("float32")[::-1].copy()[::-1],
    "strided": lambda a: np.repeat(a.astype("float32"), 3, axis=0)[::3],
    "read-only": lambda a: read_only(a.astype("float32")),
    "unaligned": lambda a: unaligned(a.astype("float32")),
    "subclass": lambda a: a.astype("float32").view(np.ma.MaskedArray),
    "lists": lambda a: a.tolist(),
    "tuple of rows": tuple,
    "__array__": Offers,
    "buffer": lambda a: memoryview(np.ascontiguousarray(a, dtype="float32")),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_real_array_gives_the_same_bits(form):
    w = np.arange(N) % 4 + 1.0
    f = FORMS[form]
    assert trained(f(X), f(Y), f(w)) == trained(X.astype("float32"), Y.astype("int32"), w.astype("float32"))


def test_memory_maps_labels_of_any_dtype_and_columns(tmp_path):
    expected = trained(X, Y)
    m = np.memmap(tmp_path / "x", dtype="float32", mode="w+", shape=X.shape)
    m[...] = X
    m.flush()
    assert trained(np.memmap(tmp_path / "x", dtype="float32", mode="r", shape=X.shape), Y) == expected
    for labels in (Y.astype(np.uint8), Y.astype(np.float32), Y[:, None], Y.tolist(), Y.astype(">i8"), unaligned(Y), Y[::-1].copy()[::-1]):
        assert trained(X, labels) == expected
    assert trained(X, Y, dtype="float64") != expected


def test_a_single_output_takes_a_column_or_a_vector():
    def loss(y):
        net = bp.Sequential([bp.Input(INPUTS), bp.Dense(1)], seed=1)
        return bp.Trainer(net, "binary_cross_entropy").step(X, y)

    y = Y == 1
    assert loss(y) == loss(y[:, None]) == loss(y.astype(float))


def test_the_data_is_left_alone():
    x, y, w = X.astype("float32"), P.astype("float32"), np.ones(N, "float32")
    kept = x.copy(), y.copy(), w.copy()
    trained(x, y, w)
    assert all(np.array_equal(a, b) for a, b in zip((x, y, w), kept))


# ---------------------------------------------------------------- refused


def snapshot(trainer):
    net = trainer.net
    return (net.built, net.built and net.flat_parameters.tobytes(), trainer.t, trainer.epoch, len(trainer.history),
            trainer.stop_training, net.built and trainer.state.tobytes())  # fmt: skip


def put(a, i, value):
    a = np.array(a, dtype=float)
    a[i] = value
    return a


# what is wrong, (x, y, sample_weight), exception, how the message begins: {x} and {y} are the names of the arguments
DATA = [
    ("NaN label", (X, put(Y, 3, NAN)), ValueError, r"{y}\[3\]"),
    ("infinite label", (X, put(Y, 3, INF)), ValueError, r"{y}\[3\]"),
    ("label too large", (X, put(Y, 4, CLASSES)), ValueError, r"{y}\[4\] is 3, out of range for 3 classes"),
    ("negative label", (X, put(Y, 4, -1)), ValueError, r"{y}\[4\] is -1"),
    ("huge label", (X, put(Y, 4, 2.0**32)), ValueError, r"{y}\[4\] is 4294967296"),
    ("half a label", (X, put(Y, 4, 0.5)), ValueError, r"{y}\[4\] is 0.5"),
    ("masked labels", (X, np.ma.masked_equal(Y, Y[0])), ValueError, "{y} has masked elements"),
    ("too few labels", (X, Y[:-1]), ValueError, "{x} has 24 rows, {y} has 23"),
    ("too many columns", (X, np.ones((N, 4))), ValueError, r"{y} has shape \(24, 4\)"),
    ("negative probability", (X, put(P, (2, 1), -0.5)), ValueError, "{y} holds a negative probability"),
    ("NaN probability", (X, put(P, (2, 1), NAN)), ValueError, r"{y}\[2, 1\]"),
    ("three dimensions", (X, np.ones((N, 3, 1))), ValueError, "{y} must have 1 or 2 dimensions"),
    ("object labels", (X, np.array([object()] * N)), TypeError, "{y} must hold real numbers"),
    ("text labels", (X, ["a"] * N), TypeError, "{y} must hold real numbers"),
    ("complex labels", (X, Y + 0j), TypeError, "{y} must hold real numbers"),
    ("no labels", (X, None), TypeError, "{y} is None"),
    ("empty labels", (X, []), ValueError, "{y} is empty"),
    ("no data", (None, Y), TypeError, "{x} is None"),
    ("empty data", (X[:0], Y[:0]), ValueError, "{x} is empty"),
    ("wrong width", (X[:, :4], Y), bp.ShapeError, r"{x} has shape \(24, 4\)"),
    ("one row", (X[0], Y), bp.ShapeError, r"{x} has shape \(5,\)"),
    ("a number", (1.0, Y), bp.ShapeError, r"{x} has shape \(\)"),
    ("complex data", (X + 1j, Y), TypeError, "{x} must hold real numbers"),
    ("object data", (X.astype(object), Y), TypeError, "{x} must hold real numbers"),
    ("ragged data", ([[1.0, 2.0], [1.0]], [0, 1]), ValueError, "{x} is not a rectangular array"),
    ("masked data", (np.ma.masked_equal(X, X[0, 0]), Y), ValueError, "{x} has masked elements"),
    ("dates", (X.astype("datetime64[s]"), Y), TypeError, "{x} must hold real numbers"),
    ("negative weight", (X, Y, put(np.ones(N), 5, -1)), ValueError, "sample_weight"),
    ("NaN weight", (X, Y, put(np.ones(N), 5, NAN)), ValueError, r"sample_weight\[5\]"),
    ("too few weights", (X, Y, np.ones(N - 1)), ValueError, "{x} has 24 rows, sample_weight has 23"),
    ("weights in a table", (X, Y, np.ones((N, 1))), ValueError, "sample_weight must have 1 dimension"),
]

CALLS = {
    "fit": ("X", "y", lambda t, x, y, w=None: t.fit(x, y, epochs=2, sample_weight=w, progress=False)),
    "step": ("x", "y", lambda t, *a: t.step(*a)),
    "loss_and_gradients": ("x", "y", lambda t, *a: t.loss_and_gradients(*a)),
    "evaluate": ("X", "y", lambda t, *a: t.evaluate(*a)),
    "validation": (r"validation_data\[0\]", r"validation_data\[1\]",
                   lambda t, *a: t.fit(X, Y, validation_data=a, progress=False)),
}  # fmt: skip


@pytest.mark.parametrize("built", [True, False], ids=["built", "lazy"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("args, error, message", [row[1:] for row in DATA], ids=[row[0] for row in DATA])
def test_data_that_is_refused(call, args, error, message, built):
    if not built and args[0] is not X and error is bp.ShapeError and np.ndim(args[0]) == 2 and call != "validation":
        pytest.skip("the input size comes from this data")
    x, y, run = CALLS[call]
    message = message.replace("{x}", x).replace("{y}", y)
    if call == "validation":
        message = message.replace("sample_weight", r"validation_data\[2\]")
    trainer = make(built=built)
    if built:
        for _ in range(2):  # so that the next step finds everything prepared
            trainer.step(X.astype("float32"), Y.astype("int64"))
    before = snapshot(trainer)
    with pytest.raises(error, match=message):
        run(trainer, *args)
    assert snapshot(trainer) == before
    if not built:  # and it is as good as new
        assert trained(X, Y) == trained_by(trainer, X, Y)


@pytest.mark.parametrize("loss, y, message", [
    ("squared_error", put(P, (1, 2), NAN), r"y\[1, 2\]"),
    ("squared_error", put(P, (1, 2), 1e39), r"y\[1, 2\] is 1e\+39, too large for float32"),
    ("squared_error", P[:, :2], r"y has shape \(24, 2\)"),
    ("squared_error", Y, r"y has shape \(24,\)"),
    ("binary_cross_entropy", put(P, (1, 2), 1.5), r"y must lie in \[0, 1\]"),
    ("binary_cross_entropy", put(P, (1, 2), -0.1), r"y must lie in \[0, 1\]"),
])  # fmt: skip
def test_targets_that_are_refused(loss, y, message):
    trainer = make(loss)
    before = snapshot(trainer)
    for run in (trainer.step, trainer.fit, trainer.evaluate):
        with pytest.raises(ValueError, match=message):
            run(X, y)
    assert snapshot(trainer) == before


@pytest.mark.parametrize("name, value, error", [
    ("epochs", -1, ValueError), ("epochs", 1.5, ValueError), ("epochs", "3", ValueError), ("epochs", True, ValueError),
    ("batch_size", 0, ValueError), ("batch_size", -8, ValueError), ("batch_size", 2.0, ValueError), ("batch_size", None, ValueError),
    ("validation_fraction", -0.1, ValueError), ("validation_fraction", 1.0, ValueError), ("validation_fraction", NAN, ValueError),
    ("validation_fraction", 0.001, ValueError), ("validation_data", X, ValueError), ("validation_data", (X,), ValueError),
    ("early_stopping", 0, ValueError), ("early_stopping", -1, ValueError), ("callbacks", [3], TypeError),
])  # fmt: skip
def test_settings_of_fit_that_are_refused(name, value, error):
    trainer = make()
    before = snapshot(trainer)
    with pytest.raises(error, match={"early_stopping": "patience", "callbacks": "a callback needs"}.get(name, name)):
        trainer.fit(X, Y, progress=False, **{name: value})
    assert snapshot(trainer) == before


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_size_of_an_evaluation(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        make().evaluate(X, Y, batch_size=batch_size)


def test_weights_that_are_all_zero_cannot_be_averaged():
    trainer = make()
    with pytest.raises(ValueError, match="sample_weight"):
        trainer.evaluate(X, Y, np.zeros(N))
    with pytest.raises(ValueError, match=r"validation_data\[2\]"):
        trainer.fit(X, Y, validation_data=(X, Y, np.zeros(N)), progress=False)
    with pytest.raises(ValueError, match="sample_weight"):
        trainer.fit(X, Y, sample_weight=np.zeros(N), validation_fraction=0.5, progress=False)
    assert trainer.t == 0


def test_what_changes_between_steps_of_the_same_shapes():
    """A step that looks like the one before takes a short way: with its own data, labels, layers."""
    x, y = X.astype("float32"), Y.astype("int64")
    one, two = make(), make()
    for i in range(6):
        one.step(x, y)
        two.step(x.tolist(), y.tolist())  # never short
        x, y = x[::-1].copy() + np.float32(i), (y + 1) % CLASSES
        one.net.layers[0].trainable = two.net.layers[0].trainable = i % 3 != 1
        if i == 3:
            assert one.step(x[:7], y[:7]) == two.step(x[:7].tolist(), y[:7].tolist())
        if i == 4:
            assert one.step(x, y, np.arange(N)) == two.step(x, y, np.arange(N))
    assert one.net.flat_parameters.tobytes() == two.net.flat_parameters.tobytes()
    for _ in range(2):
        assert one.step(x, unaligned(y)) == two.step(x.tolist(), y.tolist())
    assert one.step(x, y.astype("int32")) == two.step(x, y)


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 2)])
@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy"])
def test_what_changes_between_steps_with_targets_of_the_same_shape(loss, shape):
    """Numbers as targets: those of each step, and refused where they are not finite, or out of the loss's range."""
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 3), np.float32), rng.random(shape, np.float32)
    nets = [bp.Sequential([bp.Input(3), bp.Dense(shape[-1] if len(shape) > 1 else 1)], seed=0) for _ in range(2)]
    one, two = (bp.Trainer(net, loss) for net in nets)
    for _ in range(4):
        assert one.step(x, y) == two.step(x.tolist(), y.tolist())  # the second never short
        assert one.loss_and_gradients(x, y)[0] == two.loss_and_gradients(x.tolist(), y.tolist())[0]
        x, y = x[::-1].copy(), rng.random(shape, np.float32)
    for bad in (NAN, np.inf, -np.inf) + (2.0,) * (loss == "binary_cross_entropy"):
        wrong = y.copy()
        wrong.flat[7] = bad
        with pytest.raises(ValueError, match="y"):
            one.step(x, wrong)
    assert one.t == two.t and one.net.flat_parameters.tobytes() == two.net.flat_parameters.tobytes()
    assert one.step(x, y.astype("float64")) == two.step(x, y.reshape(len(y), -1))


def test_settings_of_a_trainer_that_are_refused():
    net = bp.Sequential([bp.Input(2), bp.Dense(1)])
    for kwargs, error, message in [
        ({"optimizer": "adamm"}, ValueError, "optimizer"), ({"optimizer": 0.1}, ValueError, "optimizer"),
        ({"loss": "crossentropy"}, ValueError, "loss"), ({"seed": 0.5}, TypeError, "seed"), ({"seed": True}, TypeError, "seed"),
        ({"precision": "float64"}, ValueError, "precision"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            bp.Trainer(net, **kwargs)
    with pytest.raises(TypeError, match="net"):
        bp.Trainer([bp.Dense(1)])
    for make_one, message in [
        (lambda: bp.SGD(momentum=1.0), "momentum"), (lambda: bp.SGD(nesterov=True), "nesterov"), (lambda: bp.Adam(eps=-1), "eps"),
        (lambda: bp.Adam(betas=(1.0, 0.9)), r"betas\[0\]"), (lambda: bp.AdamW(weight_decay=NAN), "weight_decay"),
        (lambda: bp.RMSprop(rho=-0.1), "rho"), (lambda: bp.SGD(-1.0), "lr"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make_one()
