"""Every operation of the table: values, gradients, second gradients, shapes that are easily forgotten, errors."""

import numpy as np
import pytest
from samples import SAMPLES, WITHOUT

import backprop as bp
from backprop.eager import evaluate
from backprop.graph import OPERATIONS
from backprop.lower import lower

CASES = [(name, i) for name, (_, _, inputs) in SAMPLES.items() for i in range(len(inputs))]


def test_every_operation_has_samples():
    missing = set(OPERATIONS) - set(SAMPLES) - WITHOUT
    assert not missing, f"add samples for {sorted(missing)} to tests/samples.py"


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
