"""Operations of a user's own: in eager graphs, compiled, in networks; what they may do, and what happens when they fail."""

import threading
import traceback

import numpy as np
import pytest

import backprop as bp
from backprop import _core
from backprop.ops import _index_tensor

rng = np.random.default_rng(5)


@bp.operation
class cube:
    """x^3, its gradient in NumPy."""

    def forward(x):
        return x**3

    def backward(g, y, x):
        return 3 * g * x**2


@bp.operation
def cubed(x):
    return x**3


@cubed.gradient
def _(g, y, x):  # in bp operations
    return g * x * x * 3.0


@bp.operation(shape=lambda a, b, scale: (a[0], b[1]))
def product(a, b, scale):
    return (a @ b * scale).astype(a.dtype)


@product.backward
def _(g, y, a, b, scale):
    return g @ b.T * a.dtype.type(scale), a.T @ g * a.dtype.type(scale)


def arrays(*shapes):
    return [rng.normal(size=s) for s in shapes]


def blobs(n=96, dtype="float32"):
    x = rng.normal(size=(n, 6)).astype(dtype)
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


# ---------------------------------------------------------------- values and gradients

@pytest.mark.parametrize("op", [cube, cubed])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eager_compiled_and_graph_values(op, dtype):
    a = rng.normal(size=(3, 4)).astype(dtype)
    x = bp.tensor(a, requires_grad=True)
    y = op(x)
    bp.sum(y * 2.0).backward()
    assert y.value.dtype == x.grad.dtype == dtype
    np.testing.assert_allclose(y.value, a**3, rtol=1e-6)
    np.testing.assert_allclose(x.grad, 6 * a**2, rtol=1e-6)
    f = bp.compile(lambda t: (op(t), bp.grad(bp.sum(op(t)), t)))
    for _ in range(2):
        value, slope = f(a)
        np.testing.assert_allclose(value, a**3, rtol=1e-6)
        np.testing.assert_allclose(slope, 3 * a**2, rtol=1e-6)


def test_several_inputs_of_which_some_are_wanted():
    a, b = arrays((3, 4), (4, 2))
    assert bp.gradcheck(lambda a, b: product(a, b, scale=0.5), [a, b]).passed
    assert bp.gradcheck(lambda b: product(a, b, scale=0.5), [b]).passed
    ids = _index_tensor("ids", np.array([2, 0]))
    picked = bp.operation(lambda t, i: t[i], shape=lambda t, i: i + t[1:], name="picked")
    np.testing.assert_array_equal(picked(a, ids).value, a[[2, 0]])
    np.testing.assert_array_equal(bp.operation(lambda x, y: x + y)(bp.tensor([1.0, 2.0]), 3).value, [4, 5])


def test_zero_size_and_one_element():
    for shape in ((0, 3), (3, 0), (1,), ()):
        x = bp.tensor(np.ones(shape), requires_grad=True)
        bp.sum(cube(x)).backward()
        np.testing.assert_array_equal(x.grad, np.full(shape, 3.0))


def test_second_gradients_need_a_gradient_in_bp_operations():
    x = bp.tensor([1.5, -2.0])
    first = bp.grad(bp.sum(cubed(x)), x)
    second = bp.grad(bp.sum(first), x)
    np.testing.assert_allclose(second.value, 6 * x.value)
    np.testing.assert_allclose(bp.grad(bp.sum(second), x).value, 6)
    with pytest.raises(TypeError, match="cube has no second gradient: its backward is written in NumPy"):
        bp.grad(bp.sum(bp.grad(bp.sum(cube(x)), x)), x)


def test_no_gradient_is_an_error_and_not_a_zero():
    floor = bp.operation(np.floor, name="floor")
    x = bp.tensor([1.5], requires_grad=True)
    assert floor(x).value == 1
    with pytest.raises(TypeError, match="floor has no gradient"):
        bp.sum(floor(x)).backward()
    net = bp.Sequential([bp.Dense(4, floor), bp.Dense(2)])
    with pytest.raises(TypeError, match="floor has no gradient"):
        bp.Trainer(net).step(*blobs())
    bp.sum(x * bp.stop_gradient(floor(x))).backward()
    assert x.grad == 1


def test_runs_once_for_an_evaluation_and_is_never_merged():
    count = []

    @bp.operation
    def counted(x):
        count.append(x.shape)
        return x + len(count)

    x = bp.tensor([0.0, 0.0])
    y, z = counted(x), counted(x)
    np.testing.assert_array_equal((y + z + y).value, [4, 4])
    assert len(count) == 2
    assert y.value[0] == 1 and z.value[0] == 2 and len(count) == 2, "what was evaluated stays"


def test_what_is_evaluated_for_a_gradient_is_what_is_read_later():
    bp.seed(1)
    x = bp.tensor(np.ones(64), requires_grad=True)
    y = bp.dropout(x, 0.5, training=True)
    bp.sum(y).backward()
    np.testing.assert_array_equal(y.value, x.grad)


# ---------------------------------------------------------------- in networks

@pytest.mark.parametrize("op", [cube, cubed])
def test_a_network_trains_and_predicts_as_with_built_in_operations(op):
    x, y = blobs(dtype="float64")
    nets = [bp.Sequential([bp.Dense(8, f), bp.Dropout(0.25), bp.Dense(2)], dtype="float64", seed=1) for f in (op, lambda z: z * z * z)]
    for net in nets:
        bp.Trainer(net, optimizer=bp.Adam(0.01), seed=3).fit(x, y, epochs=2, batch_size=20)
    for a, b in zip(nets[0].parameters.values(), nets[1].parameters.values()):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(nets[0].predict(x), nets[1].predict(x), rtol=1e-9)
    for net in nets:
        net.forward(x)
    np.testing.assert_allclose(*(net.backward(np.ones((96, 2))) for net in nets), rtol=1e-9)


def test_a_graph_with_two_inputs_and_rows_of_the_batch():
    a, b = bp.Input(3), bp.Input(3)
    seen = []

    @bp.operation(shape=lambda a, b: (a[0], 2 * a[1]))
    class both:
        def forward(a, b):
            seen.append(len(a))
            return np.concatenate([a, b * b], 1)

        def backward(g, y, a, b):
            return g[:, :3], 2 * g[:, 3:] * b

    h = both(bp.Dense(3)(a), bp.Dense(3)(b))
    net = bp.Network([a, b], [bp.Dense(1)(h)], seed=2)
    assert h.shape == (-1, 6)
    xs = [v.astype("float32") for v in arrays((300, 3), (300, 3))]
    net.predict(xs)
    assert seen == [256, 44], "a prediction runs in chunks"
    trainer = bp.Trainer(net, loss="squared_error", optimizer=bp.SGD(0.05))
    y = xs[0][:, :1] + xs[1][:, :1] ** 2
    first, *_, last = (trainer.step(xs, y) for _ in range(60))
    assert last < 0.5 * first


def test_tall_narrow_batches_keep_row_blocks_away_from_it():
    x, y = blobs(2000)
    nets = [bp.Sequential([bp.Dense(8, "tanh"), bp.Dense(8, f), bp.Dense(2)], seed=1) for f in (cube, lambda z: z * z * z)]
    losses = [bp.Trainer(net, optimizer=bp.SGD(0.1)).fit(x, y, epochs=2, batch_size=2000)[-1]["train_loss"] for net in nets]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ---------------------------------------------------------------- failures

class Trouble(Exception):
    pass


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_exception_changes_nothing_and_comes_out_with_its_traceback(where, optimizer):
    fails = set()

    def maybe(what):
        if what in fails:
            raise Trouble(what)

    @bp.operation
    class fragile:
        def forward(x):
            maybe("forward")
            return x * 2

        def backward(g, y, x):
            maybe("backward")
            return g * 2

    x, y = blobs()
    net = bp.Sequential([bp.Dense(5, "tanh"), bp.Dense(5, fragile), bp.Dense(2)], seed=0)
    trainer = bp.Trainer(net, optimizer=optimizer)
    trainer.step(x, y)
    before, state, t = net.flat_parameters.copy(), trainer.state.copy(), trainer.t
    fails.add(where)
    for run in (lambda: trainer.step(x, y), lambda: trainer.fit(x, y, batch_size=96), lambda: trainer.loss_and_gradients(x, y)):
        with pytest.raises(Trouble, match=where) as e:
            run()
        assert "maybe" in [frame.name for frame in traceback.extract_tb(e.value.__traceback__)]
        np.testing.assert_array_equal(net.flat_parameters, before)
        np.testing.assert_array_equal(trainer.state, state)
        assert trainer.t == t
    gradients = net.flat_gradients.copy()
    if where == "backward":
        net.forward(x)
        with pytest.raises(Trouble):
            net.backward(np.ones((96, 2)))
        np.testing.assert_array_equal(net.flat_gradients, gradients)
    fails.clear()
    trainer.step(x, y)
    assert trainer.t == t + 1 and (net.flat_parameters != before).any()


def test_fit_keeps_the_whole_steps_before_an_exception():
    left = [7]

    @bp.operation
    class tired:
        def forward(x):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return x

        def backward(g, y, x):
            return g

    x, y = blobs()
    net = bp.Sequential([bp.Dense(5, tired), bp.Dense(2)], seed=0)
    trainer = bp.Trainer(net)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=1, batch_size=8)
    assert trainer.t == 7


def gives(result=None, backward=None, shape=None):
    return bp.operation(lambda x: x * 1 if result is None else result(x), shape=shape, name="gives").backward(
        lambda g, y, x: g if backward is None else backward(g, x))


@pytest.mark.parametrize("op, error, message", [
    (gives(lambda x: x[:1]), bp.ShapeError, r"gives: its result has shape \(1, 3\), expected \(4, 3\), that of its inputs"),
    (gives(lambda x: x, shape=lambda s: (s[0],)), bp.ShapeError, r"has shape \(4, 3\), expected \(4,\), which its shape function"),
    (gives(lambda x: x.astype("float32")), TypeError, "gives: its result has dtype float32, the inputs float64"),
    (gives(lambda x: None), TypeError, "gives: its result is None, expected an array"),
    (gives(lambda x: bp.tensor(x)), TypeError, "gives: its result is a Tensor"),
    (gives(backward=lambda g, x: g.T), bp.ShapeError, r"gives: its gradient for input 0 has shape \(3, 4\), the input \(4, 3\)"),
    (gives(backward=lambda g, x: g.astype(int)), TypeError, "gives: its gradient for input 0 has dtype int"),
    (gives(backward=lambda g, x: None), TypeError, r"gradient for input 0 is None, expected .* \(zeros where it is zero\)"),
    (gives(backward=lambda g, x: (g, g)), TypeError, "one for each of 1 inputs, got 2"),
    (gives(shape=lambda s: 3), bp.ShapeError, "gives: its shape function must return a tuple of sizes"),
    (gives(shape=lambda s: (3, -1)), bp.ShapeError, "puts the batch"),
    (bp.operation(lambda x: x, name="gives").gradient(lambda g, y, x: bp.sum(g)), bp.ShapeError, r"input 0 has shape \(\), the input \(4, 3\)"),
    (bp.operation(lambda x: x, name="gives").gradient(lambda g, y, x: np.ones((4, 3))), TypeError, "must be a Tensor"),
])
def test_wrong_results_are_named(op, error, message):
    x = bp.tensor(np.ones((4, 3)), requires_grad=True)
    with pytest.raises(error, match=message):
        bp.sum(op(x)).backward()


def test_wrong_declarations():
    with pytest.raises(TypeError, match="no forward"):
        bp.operation(type("empty", (), {}))
    with pytest.raises(TypeError, match="backward must be a function"):
        bp.operation(type("bad", (), {"forward": np.sin, "backward": 3}))
    with pytest.raises(TypeError, match="not both"):
        bp.operation(np.sin).backward(np.cos).gradient(bp.exp)
    with pytest.raises(TypeError, match="decorates a class or a function"):
        bp.operation(3)
    with pytest.raises(TypeError, match="keyword arguments are numbers"):
        product(np.ones((2, 2)), np.ones((2, 2)), scale=np.ones(2))
    with pytest.raises(TypeError, match="at least one input"):
        cube()
    with pytest.raises(TypeError, match="do not mix"):
        product(bp.tensor(np.ones((2, 2))), bp.tensor(np.ones((2, 2), "float32")), scale=1.0)


def test_a_network_with_one_cannot_be_saved_and_says_so(tmp_path):
    x = bp.Input(3)
    net = bp.Network([x], [cube(bp.Dense(2)(x))])
    with pytest.raises(ValueError, match="cube"):
        net.save(tmp_path / "net")
    with pytest.raises(ValueError, match="activation"):
        bp.Sequential([bp.Input(3), bp.Dense(2, cube)]).save(tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what it may do

def test_arrays_are_its_own():
    kept = []

    @bp.operation
    class keeps:
        def forward(x):
            kept.append(x)
            x += 1
            return x

        def backward(g, y, x):
            kept.append(x)
            return g

    a = np.zeros((2, 2))
    x = bp.tensor(a, requires_grad=True)
    bp.sum(keeps(x)).backward()
    np.testing.assert_array_equal(x.value, 0)
    np.testing.assert_array_equal(kept[0], 1)
    np.testing.assert_array_equal(kept[1], 0)


def test_reentry():
    inner = bp.Sequential([bp.Input(6), bp.Dense(6, "tanh")], seed=4)
    depth = [0]

    @bp.operation
    class reenters:
        def forward(x):
            depth[0] += 1
            try:
                own = net.predict(np.ones((2, 6), "float32")) if depth[0] == 1 else None  # runs this very operation again
                assert own is None or own.shape == (2, 2)
                return inner.predict(x) + (bp.tensor(x) * 2.0).value
            finally:
                depth[0] -= 1

        def backward(g, y, x):
            t = bp.tensor(x)
            w, b = (bp.tensor(p) for p in inner.parameters.values())
            up = bp.tensor(g)
            return bp.grad(bp.sum((bp.tanh(t @ w + b) + t * 2.0) * up), t).value

    x, y = blobs()
    net = bp.Sequential([bp.Input(6), bp.Dense(6, reenters), bp.Dense(2)], seed=1)
    trainer = bp.Trainer(net, optimizer=bp.SGD(0.1))
    losses = [trainer.step(x, y) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_the_trainer_that_runs_it_refuses_to_be_entered_again():
    @bp.operation
    class again:
        def forward(x):
            trainer.step(*data)
            return x

        def backward(g, y, x):
            return g

    data = blobs()
    trainer = bp.Trainer(bp.Sequential([bp.Dense(4, again), bp.Dense(2)]))
    with pytest.raises(RuntimeError, match="running"):
        trainer.step(*data)
    assert trainer.t == 0


def test_it_runs_on_the_calling_thread_and_others_go_on():
    names = set()

    @bp.operation
    def where_am_i(x):
        names.add(threading.current_thread().name)
        return x

    net = bp.Sequential([bp.Input(6), bp.Dense(64, "tanh"), bp.Activation(where_am_i)], seed=0)
    x = blobs(2000)[0]
    want = net.predict(x)
    names.clear()
    got = {}

    def work(i):
        got[i] = net.predict(x)
    threads = [threading.Thread(target=work, args=(i,), name=f"user {i}") for i in range(3)]
    with bp.threads(2):
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert names == {f"user {i}" for i in range(3)}
    assert all((g == want).all() for g in got.values())


def test_floating_point_state_is_the_callers():
    tiny = np.float32(1e-40)

    @bp.operation
    class half:
        def forward(x):
            seen.append(float(np.float32(tiny) * np.float32(0.5)))
            return x

        def backward(g, y, x):
            return g

    seen = []
    x, y = blobs()
    bp.Trainer(bp.Sequential([bp.Dense(4, half), bp.Dense(2)])).step(x, y)
    assert seen == [float(tiny * np.float32(0.5))] and seen[0] > 0


# ---------------------------------------------------------------- the instruction

def call_words(*fields, elements=8):
    code = _core.INSTRUCTIONS.index("call")
    return np.array([0x62703031, 4, 4, 256, 2, 0, 0, 1, 4, elements, 1, 0, 1, len(fields) + 1, code, *fields], dtype=np.int64)


@pytest.mark.parametrize("fields, message", [
    ((0, 1, 1, 8, 0, 1, 0, 0), "the words end here"),
    ((0, 1, 0, 9, 0, 1, 0, 0), r"input 0: elements 0 ... 9"),
    ((0, 0, 1, -3, 0, 1, 0, 0), r"output 0: elements 0 ... 12"),
    ((0, 1, 0, 8, 2, 1, 0, 0), r"int32: 2"),
    ((0, 1, 0, 8, 0, 2, 0, 0), r"input 0: 2"),
    ((-1, 0, 0), "number: -1"),
    ((0, 2**40, 0), "n_inputs"),
    ((1, 1, 0, 8, 0, 1, 0, 0), "calls operation 1, and 1 are given"),
])
def test_malformed_calls_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        _core.Program(call_words(*fields), [lambda inputs, outputs, rows: None])


def test_views_end_with_the_call():
    held = []
    program = _core.Program(call_words(0, 1, 1, -1, 0, 1, 0, 0, -1, 0, 0, 0, 0), [lambda i, o, rows: held.extend([*i, *o, rows])])
    binding = _core.Binding(program)
    binding.set(1, np.ones(8, "float32"))
    assert binding.run(3)[0] == 0
    assert held[2] == 3
    for view in held[:2]:
        with pytest.raises(ValueError, match="released"):
            view[0]
