"""Every operation of the table: values, gradients, second gradients, shapes that are easily forgotten, errors."""

import numpy as np
import pytest
from samples import EXCEPT, SAMPLES, WITHOUT, lacks, operation_of

import backprop as bp
from backprop.eager import evaluate
from backprop.graph import OPERATIONS
from backprop.lower import lower

CASES = [(name, i) for name, (_, _, inputs) in SAMPLES.items() for i in range(len(inputs))]


def test_every_operation_has_samples():
    missing = set(OPERATIONS) - {operation_of(row) for row in SAMPLES} - WITHOUT
    assert not missing, f"add samples for {sorted(missing)} to tests/samples.py"


@pytest.mark.parametrize("name", sorted({operation_of(row) for row in SAMPLES}))
def test_samples_of_every_kind(name):
    assert not lacks(name), f"tests/samples.py: the samples of {name} lack {', '.join(lacks(name))}"


def test_samples_that_lack_something_are_found(monkeypatch):
    assert all(lacks(name) == [] for name, _ in EXCEPT)
    monkeypatch.setitem(SAMPLES, "made up", (None, None, [(np.ones(3), np.ones(3))] * 8))
    assert lacks("made up") == ["zero size", "one element", "not contiguous", "broadcast"]
    monkeypatch.setitem(SAMPLES, "made up", (None, None, SAMPLES["add"][2][:7]))
    assert "8 samples" in lacks("made up")


@pytest.mark.parametrize("name, case", CASES)
def test_value(name, case):
    function, reference, inputs = SAMPLES[name]
    if reference is None:
        pytest.skip("its value is tested through the operation that it is the gradient of")
    xs = inputs[case]
    for dtype, tolerance in (("float64", 1e-13), ("float32", 3e-6)):
        arrays = [np.asarray(x, dtype=dtype) for x in xs]
        got = function(*(bp.tensor(a) for a in arrays)).value
        want = reference(*(a.astype("float64") for a in arrays))
        assert got.shape == np.shape(want) and got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1, np.max(np.abs(want), initial=0)))


@pytest.mark.parametrize("name, case", CASES)
def test_gradient(name, case):
    function, _, inputs = SAMPLES[name]
    if sum(np.size(x) for x in inputs[case]) > 400:
        pytest.skip("a smaller sample of the same operation is checked")
    bp.gradcheck(function, inputs[case], h=1e-5 if name in ("pow", "div") else 1e-4)


@pytest.mark.parametrize("name, case", [(n, i) for n, i in CASES if i < 4])
def test_second_gradient(name, case):
    function, _, inputs = SAMPLES[name]
    if sum(np.size(x) for x in inputs[case]) > 60:
        pytest.skip("a smaller sample of the same operation is checked")

    def first(*xs):
        y = function(*xs)
        weights = np.linspace(0.5, 1.5, max(y.size, 1))[:y.size].reshape(y.shape)
        gs = bp.grad(bp.sum(y * weights), list(xs))
        total = bp.sum(gs[0] * gs[0])
        for g in gs[1:]:
            total = total + bp.sum(g * 0.7)
        return total
    bp.gradcheck(first, inputs[case], tolerance=5e-6)


@pytest.mark.parametrize("name", ["tanh", "add", "softmax", "matmul"])
def test_a_flipped_sign_is_caught(name, monkeypatch):
    operation = OPERATIONS[name]
    rule = operation.gradient
    broken = type(operation)(**{**operation.__dict__, "gradient": lambda n, g, needs: [None if r is None else -r for r in rule(n, g, needs)]})
    monkeypatch.setitem(OPERATIONS, name, broken)
    function, _, inputs = SAMPLES[name]
    with pytest.raises(AssertionError, match="FAILED"):
        bp.gradcheck(function, inputs[2])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_fused_and_unfused_give_the_same_bits(name):
    function, _, inputs = SAMPLES[name]
    for dtype in ("float32", "float64"):
        xs = [bp.tensor(np.asarray(x, dtype=dtype)) for x in inputs[min(2, len(inputs) - 1)]]
        y = function(*xs)
        outputs = [y, *bp.grad(bp.sum(y * y), xs)]
        got = []
        for fuse in (True, False):
            plan = lower(outputs, dtype, fuse=fuse)
            binding = plan.binding()
            for i, s in enumerate(plan.inputs):
                binding.set(plan.spaces[f"input {i}"], s._array)
            results = [np.empty(t.shape, t.dtype or dtype) for t in plan.outputs]
            for i, r in enumerate(results):
                binding.set(plan.spaces[f"output {i}"], r)
            binding.run(1)
            got.append(results)
        for a, b in zip(*got):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("function, reference", [(bp.lt, np.less), (bp.le, np.less_equal), (bp.gt, np.greater), (bp.ge, np.greater_equal),
                                                 (bp.eq, np.equal), (bp.ne, np.not_equal)])
def test_comparisons_give_0_or_1_and_have_no_gradient(function, reference):
    a, b = np.array([1.0, 2, 3, np.nan, np.inf, -0.0]), np.array([2.0, 2, 2, 1, np.inf, 0.0])
    np.testing.assert_array_equal(function(a, b).value, reference(a, b).astype(float))
    x = bp.tensor(a, requires_grad=True)
    with pytest.raises(TypeError, match="no gradient"):
        bp.sum(function(x, b)).backward()


def test_argmax():
    x = np.array([[1.0, 3, 3], [np.nan, 1, np.nan], [-1, -2, -3]])
    got = bp.argmax(x).value
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, np.argmax(x, -1))
    with pytest.raises(TypeError, match="argmax has no gradient"):
        t = bp.tensor(x, requires_grad=True)
        bp.grad(bp.argmax(t), t)


def test_dropout():
    bp.seed(3)
    x = bp.tensor(np.ones((400, 50)), requires_grad=True)
    y = bp.dropout(x, 0.25, training=True)
    bp.sum(y * 3.0).backward()
    kept = y.value != 0
    assert abs(kept.mean() - 0.75) < 0.02
    np.testing.assert_array_equal(y.value, np.where(kept, 1 / 0.75, 0))
    assert bp.dropout(x, 0.25, training=False) is x
    again = bp.dropout(x, 0.25, training=True).value
    assert (again != y.value).any(), "each dropout draws anew"


def test_gradients_sum_where_a_value_is_used_twice_and_rows_stand_twice():
    t = bp.tensor(np.zeros((4, 2)), requires_grad=True)
    bp.sum(bp.take(t, [1, 1, 3])).backward()
    np.testing.assert_array_equal(t.grad, [[0, 0], [2, 2], [0, 0], [1, 1]])


@pytest.mark.parametrize("make, message", [
    (lambda: bp.matmul(np.ones((2, 3)), np.ones((2, 3))), r"matmul: inner sizes differ: \(2, 3\) and \(2, 3\)"),
    (lambda: bp.tensor(np.ones((2, 3))) + np.ones((4, 3)), r"add: shapes \(2, 3\) and \(4, 3\) do not broadcast"),
    (lambda: bp.reshape(np.ones((2, 3)), (4, 2)), r"reshape: \(2, 3\) has not the elements of \(4, 2\)"),
    (lambda: bp.max(np.ones((0, 3)), 0), r"max: an axis of \(0, 3\) is empty"),
    (lambda: bp.sum(np.ones((2, 3)), 2), "sum: axis 2 is out of range"),
    (lambda: bp.concatenate([np.ones((2, 3)), np.ones((3, 3))], 1), "concatenate: shapes"),
    (lambda: bp.softmax_cross_entropy(np.ones((2, 3)), np.ones((3, 3)) / 3), "softmax_cross_entropy"),
])
def test_shape_errors_name_the_operation_and_the_shapes(make, message):
    with pytest.raises(bp.ShapeError, match=message):
        make()


def test_other_errors():
    with pytest.raises(IndexError, match="row 4 is out of range for 3 rows"):
        bp.take(np.ones((3, 2)), [0, 4])
    with pytest.raises(TypeError, match="float32 and float64"):
        bp.tensor(np.ones(2, "float32")) + bp.tensor(np.ones(2))
    with pytest.raises(TypeError, match="real numbers"):
        bp.tensor(np.array([1j]))
    with pytest.raises(ValueError, match="needs a gradient"):
        bp.tensor([1.0, 2.0], requires_grad=True).backward()
    with pytest.raises(TypeError, match="truth value"):
        bool(bp.tensor(1.0) < 2.0)


def test_a_deep_graph_does_not_overflow_the_stack():
    x = bp.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y * 1.0001
    y.backward()
    assert abs(float(x.grad) / 1.0001**10_000 - 1) < 1e-9


def test_programs_are_kept_and_arguments_are_not_part_of_the_key():
    from backprop import eager
    before = len(eager._PROGRAMS)
    for k in range(5):
        bp.sum(bp.tensor(np.ones((2, 2)) * k) * (k + 3.25)).value
    assert len(eager._PROGRAMS) - before <= 1


def test_tensor_copies_and_value_is_read_only():
    a = np.ones(3)
    t = bp.tensor(a)
    a[0] = 7
    assert t.value[0] == 1
    with pytest.raises(ValueError):
        t.value[0] = 5


def test_value_and_grad_over_a_nest_and_compile():
    parameters = {"w": np.ones((3, 2)), "b": [np.zeros(2)]}
    x = np.arange(6.0).reshape(2, 3)
    value, grads = bp.value_and_grad(lambda p, x: bp.sum(bp.square(bp.matmul(x, p["w"]) + p["b"][0])))(parameters, x)
    z = x @ parameters["w"]
    assert value == (z * z).sum()
    np.testing.assert_allclose(grads["w"], x.T @ (2 * z))
    np.testing.assert_allclose(grads["b"][0], (2 * z).sum(0))
    fast = bp.compile(lambda a, b: {"sum": a + b, "product": bp.matmul(a, b)})
    a, b = np.arange(4.0).reshape(2, 2), np.eye(2)
    out = fast(a, b)
    np.testing.assert_array_equal(out["product"], a)
    np.testing.assert_array_equal(fast(a * 2, b)["sum"], a * 2 + b)
    assert fast(np.ones((3, 3)), np.ones((3, 3)))["sum"].shape == (3, 3)


def test_evaluate_reads_several_in_one_run():
    x = bp.tensor([1.0, 2.0])
    a, b = evaluate([x * 2.0, x + 1.0])
    np.testing.assert_array_equal(a, [2, 4])
    np.testing.assert_array_equal(b, [2, 3])


def test_a_floating_node_waits_for_what_became_of_its_inputs():
    """Nodes made of sources alone go where they are used; one of them may have got a group through another user meanwhile."""
    rng = np.random.default_rng(0)
    x, w = bp.tensor(rng.normal(size=(3, 4))), bp.tensor(rng.normal(size=4))
    g = bp.reshape(bp.tensor(np.linspace(0.5, 1.5, 3)) * 1.0, (3, 1))
    dx, dw = g * 2.0 * x * w, bp.sum(g * x**2, 0)
    outputs = bp.grad(bp.sum(dx * dx) + bp.sum(dw * 0.7), [x, w])
    together, alone = evaluate(outputs), [bp.grad(bp.sum(dx * dx) + bp.sum(dw * 0.7), v).value for v in (x, w)]
    want = 8 * g.value**2 * x.value * w.value**2 + 1.4 * g.value * x.value
    np.testing.assert_allclose(together[0], want, rtol=1e-12)
    for a, b in zip(together, alone):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("seed", [*range(30), 51, 126])
def test_random_graphs_give_the_same_bits_fused_or_not(seed, sound):
    rng = np.random.default_rng(seed)
    sources = [bp.tensor(rng.normal(size=s)) for s in ((3, 4), (4,), (3, 1), (), (4, 4), (1, 4))]
    nodes = list(sources)

    def pick():
        return nodes[int(rng.integers(max(0, len(nodes) - 9), len(nodes))) if rng.random() < 0.6 else int(rng.integers(len(nodes)))]
    while len(nodes) < 34:
        kind, a, b = int(rng.integers(8)), pick(), pick()
        if kind < 4:
            try:
                y = (a + b, a * b, bp.maximum(a, b), a - b)[kind]
            except bp.ShapeError:
                continue
        elif kind == 4:
            y = bp.tanh(a)
        elif kind == 5 and a.ndim:
            y = bp.sum(a, int(rng.integers(a.ndim)), keepdims=bool(rng.integers(2)))
        elif kind == 6 and a.shape[-1:] == (4,):
            y = bp.tanh(a @ sources[4])
        elif kind == 7 and a.ndim == 2:
            y = bp.reshape(a, a.shape[::-1]) if rng.random() < 0.3 else bp.transpose(a)
        else:
            continue
        nodes.append(y)
    loss = bp.sum(bp.tanh(nodes[-1])) + bp.sum(bp.tanh(nodes[-2]))
    outputs = [*nodes[-3:], *bp.grad(loss, sources)]
    got = []
    for fuse in (True, False):
        plan = lower(outputs, "float64", fuse=fuse)
        binding, results = plan.binding(), [np.empty(t.shape) for t in plan.outputs]
        for i, r in enumerate(results):
            binding.set(plan.spaces[f"output {i}"], r)
        assert binding.run(1)[0] == 0
        got.append(results)
    for a, b in zip(*got):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_compiled_functions_give_the_bits_of_eager_ones(name):
    function, _, inputs = SAMPLES[name]
    for xs in inputs[:3]:
        arrays = [np.asarray(x, dtype="float64") for x in xs]
        compiled = bp.compile(lambda *ts, f=function: f(*ts))
        assert compiled(*arrays).tobytes() == function(*(bp.tensor(a) for a in arrays)).value.tobytes()


# ---------------------------------------------------------------- indexing

A = np.random.default_rng(6).normal(size=(4, 5, 6))
I, J = np.array([0, -1, 2]), np.array([1, 1, -5])
INDICES = [0, -1, (1, -2), (slice(None, None, -1), slice(4, None, -2)), (slice(3, 1),), (1, slice(None), -1), (..., 2), (..., None, 0),
           (None, slice(1, 3)), I, [2, 0], [], (I, J), (I[:, None], J[None]), np.array([[0, 1], [2, 3]]), (slice(None), I),
           (slice(None), [0, 2], slice(1, 5, 2)), (I, slice(None), J), (-1, I), (None, I), (..., I), A > 0, (A[:, 0, 0] > 0,),
           (slice(1, 3), A[0, :, 0] > 0), (np.int64(2), np.array(1))]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_numpys(index):
    want = A[index]
    t = bp.tensor(A, requires_grad=True)
    got = t[index]
    assert got.shape == want.shape and got.value.tobytes() == want.tobytes()
    up = np.random.default_rng(7).normal(size=want.shape)
    got.backward(up)
    sums = np.zeros_like(A)
    np.add.at(sums, index, up)  # elements that are taken twice get the sum
    np.testing.assert_allclose(t.grad, sums, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("index, error, message", [
    ((0, 0, 0, 0), IndexError, "too many indices"), (4, IndexError, "index 4 is out of range for axis 0"),
    (np.array([4]), IndexError, "row 4 is out of range for 4 rows"), (np.array([-5]), IndexError, "row -5"),
    ((0, np.array([7])), IndexError, "out of bounds"), (np.array([1.5]), IndexError, "integer"), (A[:3] > 0, IndexError, "boolean"),
    (True, TypeError, "not by bool"), (1.5, TypeError, "not by float"), ("a", TypeError, "not by str"),
    ((bp.tensor([1.0]),), TypeError, "indexes the first axis alone"), (bp.tensor([1.0]), TypeError, "expected integers"),
])
def test_wrong_indices(index, error, message):
    with pytest.raises(error, match=message):
        bp.tensor(A)[index]


def test_indexing_rows_of_the_batch():
    x = bp.Input(5, 6)
    for index in [(slice(None), I), (slice(None), 2), (..., I), (slice(None), I, slice(1, None, 2)), (slice(None), A[0] > 0), (slice(None), [])]:
        y = x[index]
        net = bp.Network([x], [y * 1.0], dtype="float64")
        np.testing.assert_array_equal(net.predict(A), A[index])
    for index in (0, slice(1, 3), I, (I, I), (slice(None, None, -1), I)):
        with pytest.raises((bp.ShapeError), match="batch|take"):
            x[index]


def test_integer_tensors_change_their_shapes_and_pick_rows():
    a = np.arange(12, dtype="int32").reshape(3, 4)
    t = bp.tensor(a, dtype="int32")
    for got, want in ((t.reshape(4, 3), a.reshape(4, 3)), (t.T, a.T), (t[1:, ::-2], a[1:, ::-2]), (t[0], a[0]),
                      (bp.concatenate([t, t[:1]]), np.r_[a, a[:1]]), (bp.broadcast_to(t[:, :1], (3, 5)), np.broadcast_to(a[:, :1], (3, 5))),
                      (bp.split(t, 2, 1)[1], a[:, 2:])):
        assert got.value.dtype == np.int32
        np.testing.assert_array_equal(got.value, want)
    table = np.random.default_rng(0).normal(size=(12, 3))
    np.testing.assert_array_equal(bp.take(table, t[:, 1:3]).value, table[a[:, 1:3]])
    ids = bp.Input(4, dtype="int32")
    for dtype in ("float32", "float64"):
        net = bp.Network([ids], [bp.reshape(bp.take(table.astype(dtype), bp.concatenate([ids[:, 1:3], ids[:, :1]], 1)), (-1, 9))], dtype=dtype)
        np.testing.assert_array_equal(net.predict(a), table.astype(dtype)[a[:, [1, 2, 0]]].reshape(3, 9))
    with pytest.raises(TypeError, match="add: expected floating-point tensors, got int32"):
        t + 1


def test_stacks_of_the_batch_are_refused():
    with pytest.raises(bp.ShapeError, match="for each row of the batch"):
        bp.matmul(bp.Input(2, 3), bp.Input(3, 4))
    with pytest.raises(bp.ShapeError, match="inner sizes differ"):
        bp.matmul(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
    with pytest.raises(bp.ShapeError, match="leading axes"):
        bp.matmul(np.ones((2, 3, 4)), np.ones((3, 4, 4)))


def test_powers_at_zero():
    x = bp.tensor([0.0, 2.0])
    for p, want in ((0, [0, 0]), (1, [1, 1]), (2, [0, 4]), (3.0, [0, 12]), (9, [0, 9 * 2**8]), (1.5, [0, 1.5 * 2**0.5])):
        np.testing.assert_allclose(bp.grad(bp.sum(x**p), x).value, want, rtol=1e-14)
    np.testing.assert_allclose(bp.grad(bp.sum(2.0**x), x).value, np.log(2) * 2.0 ** x.value, rtol=1e-14)


def test_methods_and_axes():
    t = bp.tensor(A)
    np.testing.assert_allclose(t.mean(1, keepdims=True).value, A.mean(1, keepdims=True))
    np.testing.assert_allclose(t.sum((0, -1)).value, A.sum((0, 2)))
    assert t.T.shape == (6, 5, 4) and t.reshape(-1, 6).shape == (20, 6) and len(list(iter(t))) == 4
    for f in (bp.softmax, bp.log_softmax, bp.logsumexp):
        with pytest.raises(TypeError, match="axis must be one axis"):
            f(t, None)


def test_every_public_name_is_documented():
    bare = [name for name in bp.__all__ if name != "__version__" and not (getattr(bp, name).__doc__ or "").strip()]
    assert not bare


def test_the_number_of_operands_is_checked():
    with pytest.raises(TypeError, match="add.. missing 1 required positional argument"):
        bp.add(1.0)
    with pytest.raises(TypeError, match="exp.. takes 1 positional argument"):
        bp.exp(1.0, 2.0)
