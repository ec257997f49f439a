"""The lowering: what is fused, what is kept, where an update may run."""

import re

import numpy as np
import pytest

import backprop as bp
from backprop.graph import source
from backprop.lower import Assign, Storage, lower
from backprop.ops import random_like


def instructions(text):
    """(name, what stands behind the bar) of each line of a description."""
    lines = [line.split(None, 2) for line in text.strip().splitlines()]
    return [(name, rest.split(" | ")[1].split(" -> ")[0].split(", ") if " | " in rest else []) for _, name, rest in lines]


def trainer(layers, **kwargs):
    return bp.Trainer(bp.Sequential([bp.Input(layers[0][0]), *layers[1]]), **kwargs)


def test_a_step_is_the_designs_few_instructions():
    t = trainer(((784,), [bp.Dense(256, "relu"), bp.Dense(10)]), optimizer="adam")
    steps = instructions(t.describe(128))
    assert [name for name, _ in steps] == ["map", "matmul", "matmul", "softmax_ce", "reduce", "check", "reduce", "matmul", "matmul",
                                           "reduce", "matmul"]
    assert steps[1][1] == ["add", "maximum"], "bias and activation hang on the forward product"
    assert steps[7][1] == ["lt", "where"], "the activation's derivative hangs on delta W^T"
    for i in (6, 8, 9, 10):
        assert "sqrt" in steps[i][1], "the update hangs on the product that makes its gradient"
    text = t.describe(128)
    assert "gradients" not in text and re.search(r"\[784,256\]@parameters", text)


@pytest.mark.parametrize("optimizer", [bp.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-3), bp.AdamW(1e-3), bp.Adagrad(), bp.RMSprop()])
@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "cross_entropy"])
def test_nothing_elementwise_stands_alone(optimizer, loss):
    t = trainer(((9,), [bp.Dense(8, "tanh"), bp.Dropout(0.3), bp.Dense(8, "sigmoid"), bp.Dense(3)]), optimizer=optimizer, loss=loss)
    alone = [line for line in t.describe(64).splitlines() if " map " in line and "[1,1]" not in line]
    assert not alone, "\n".join(alone)


def test_gradients_that_are_asked_for_are_not_updated_with():
    t = trainer(((9,), [bp.Dense(8, "tanh"), bp.Dense(3)]))
    text = t._lower("gradients", 16, (True,), False).describe()
    assert "sqrt" not in text and "@parameters" not in text and text.count("@gradients") == 4


def test_a_long_step_updates_last():
    layers = ((1024,), [bp.Dense(1024, "relu"), bp.Dense(10)])
    t = trainer(layers, optimizer="adam")
    plan = t._lower("step", 1 << 14, (True,), False)
    first = next(i for i, line in enumerate(plan.describe().splitlines()) if "@parameters" in line)
    assert first >= plan.mark and all("matmul" not in line for line in plan.describe().splitlines()[plan.mark:])
    small = bp.Trainer(t.net, optimizer="adam")._lower("step", 8, (True,), False)
    assert any("matmul" in line and "@parameters" in line for line in small.describe().splitlines())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_updates_of_a_large_product_run_right_behind_it(optimizer, monkeypatch):
    """Up to 512 columns, or with an operand of at most 4 MB (512 KB of whole tiles), rows are handed over whole, else in pieces."""
    monkeypatch.setattr(bp.trainer, "_LONG_STEP", float("inf"))  # where a step is long, all updates run last
    for width, rows, behind, precision in ((512, 2100, False, None), (513, 2044, False, None), (513, 2045, True, None),
                                           (544, 480, False, "bfloat16"), (513, 481, True, "bfloat16")):
        layers = [bp.Dense(width, "relu"), bp.Dense(width, "tanh"), bp.Dense(3)]
        text = trainer(((20,), layers), optimizer=optimizer, precision=precision).describe(rows).splitlines()
        for inputs in (20, width):
            update = next(i for i, line in enumerate(text) if f"[{inputs},{width}]@parameters" in line)
            assert ((" map " in text[update] and f"[{inputs},{width}]" in text[update - 1] and " matmul " in text[update - 1])
                    if behind else " matmul " in text[update])
        assert behind == any(" map " in line and "[1,1]" not in line for line in text)
    x, y = np.random.default_rng(0).standard_normal((2100, 20)), np.arange(2100) % 3
    for rows in (8, 2044, 2100):
        ends = []
        for fuse in (True, False):
            t = bp.Trainer(bp.Sequential([bp.Input(20), *layers], seed=0), optimizer=optimizer, fuse=fuse)
            t.step(x[:rows], y[:rows])
            ends.append(t.net.flat_parameters.tobytes())
        assert ends[0] == ends[1]


def run(plan, arrays, **spaces):
    binding = plan.binding()
    for i, s in enumerate(plan.inputs):
        binding.set(plan.spaces[f"input {i}"], arrays[s])
    outputs = [np.empty(t.shape) for t in plan.outputs]
    for i, r in enumerate(outputs):
        binding.set(plan.spaces[f"output {i}"], r)
    for name, a in spaces.items():
        binding.set(plan.spaces[name], a)
    assert binding.run(1)[0] == 0
    return outputs


def stored(shape):
    """A parameter of 64 elements at most, in a space of its own."""
    p = source("parameter", shape, "float64", "p", space="p", offset=0)
    return p, {"p": Storage(64, "float64", True)}


@pytest.mark.parametrize("fuse", [True, False])
def test_an_update_waits_for_all_that_read_the_old_value(fuse):
    p, storage = stored((4, 4))
    x = source("input", (4, 4), "float64", "x")
    g = bp.matmul(x, x)
    new = p - g * 0.5
    reader = bp.matmul(p, x)            # a product of the old value
    row = bp.sum(p, 0) * 2.0            # a sum of the old value
    both = new + p * 100.0              # elementwise beside the new one
    plan = lower([reader, row, both], "float64", storage=storage, assigns=[Assign("p", 0, new, p)], fuse=fuse)
    rng = np.random.default_rng(1)
    xs, old = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    memory = np.zeros(64)
    memory[:16] = old.ravel()
    got = run(plan, {x: xs}, p=memory)
    want = old - xs @ xs * 0.5
    np.testing.assert_allclose(memory[:16].reshape(4, 4), want, rtol=1e-13)
    for a, b in zip(got, (old @ xs, old.sum(0) * 2, want + old * 100)):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_product_may_replace_its_own_operand(fuse):
    p, storage = stored((5, 5))
    plan = lower([], "float64", storage=storage, assigns=[Assign("p", 0, bp.matmul(p, p), p)], fuse=fuse)
    a = np.random.default_rng(2).normal(size=(5, 5))
    memory = np.zeros(64)
    memory[:25] = a.ravel()
    run(plan, {}, p=memory)
    np.testing.assert_allclose(memory[:25].reshape(5, 5), a @ a, rtol=1e-12)


def test_a_parameter_may_become_its_own_transpose():
    p, storage = stored((6, 6))
    plan = lower([], "float64", storage=storage, assigns=[Assign("p", 0, bp.transpose(p), p)])
    a = np.arange(36.0).reshape(6, 6)
    memory = np.zeros(64)
    memory[:36] = a.ravel()
    run(plan, {}, p=memory)
    np.testing.assert_array_equal(memory[:36].reshape(6, 6), a.T)


def test_one_value_may_have_several_places():
    p, storage = stored((3,))
    x = source("input", (3,), "float64", "x")
    y = x * 2.0
    plan = lower([y, y, x], "float64", storage=storage, assigns=[Assign("p", 0, y, p)])
    memory = np.zeros(64)
    a, b, c = run(plan, {x: np.arange(3.0)}, p=memory)
    np.testing.assert_array_equal([a, b, c, memory[:3]], [[0, 2, 4], [0, 2, 4], [0, 1, 2], [0, 2, 4]])


def test_buffers_share_the_arena_by_lifetime():
    x = source("input", (64, 64), "float64", "x")
    y = x
    for _ in range(20):
        y = bp.matmul(y, x)
    plan = lower([y], "float64")
    assert plan.words[3] <= 2 * 64 * 64 * 8, "a chain needs two buffers, however long it is"


def test_equal_nodes_are_one_and_dead_nodes_are_none():
    x = source("input", (8, 8), "float64", "x")
    bp.exp(x)  # nobody reads it
    y = bp.matmul(x, x) + bp.matmul(x, x)
    text = lower([y], "float64").describe()
    assert text.count("matmul") == 1 and "exp" not in text


# ---------------------------------------------------------------- what a reduction reads, made right before it

BEFORE = {
    "the squares of a norm": (lambda x, v: bp.sum(x * x), 1),
    "a loss": (lambda x, v: bp.mean(bp.abs(x - v)), 0),  # v lies under rows, not under all as one
    "along rows": (lambda x, v: bp.max(x * v, 1), 1),
    "over rows": (lambda x, v: bp.min(x * v - 1.0, 0), 1),
    "what is read again": (lambda x, v: (lambda d: bp.sum(d * d, 0) * d)(x - v), 1),
    "itself read again": (lambda x, v: (lambda d: bp.sum(d, 1, keepdims=True) * d)(bp.exp(x)), 1),
    "what others read, over rows": (lambda x, v: (lambda y: bp.sum(y * v, 0) + bp.sum(y * x, 0))(bp.matmul(x, bp.transpose(x) * 0.1)[:, :1] + x),0),
    "softmax": (lambda x, v: bp.softmax(x), 1),
    "two of one map": (lambda x, v: (lambda y, u: bp.sum(y * u, 1) + bp.sum(bp.tanh(y) * 2.0 + y, 1))(bp.transpose(x), bp.sum(x[:, :1], 0)), 1),
    "in the middle": (lambda x, v: bp.sum(bp.reshape(x * v, (6, 20, 50)), 1), 0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BEFORE)
def test_what_a_reduction_reads_is_made_before_it(name, dtype, shared, sound):
    """In pieces, the same bits as apart, on any number of threads."""
    function, made = BEFORE[name]
    x, v = source("input", (120, 50), dtype, "x"), source("input", (50,), dtype, "v")
    rng = np.random.default_rng(5)
    arrays, ends = {x: rng.normal(size=(120, 50)).astype(dtype), v: rng.normal(size=50).astype(dtype)}, []
    for fuse in (True, False):
        plan = lower([function(x, v)], dtype, fuse=fuse)
        assert sum(" (" in line for line in plan.describe().splitlines() if " reduce " in line) == (made if fuse else 0), plan.describe()
        for threads in (1, 3):
            with bp.threads(threads):
                binding = plan.binding()
                for i, s in enumerate(plan.inputs):
                    binding.set(plan.spaces[f"input {i}"], arrays[s])
                result = np.empty(plan.outputs[0].shape, dtype)
                binding.set(plan.spaces["output 0"], result)
                assert binding.run(1)[0] == 0
                ends.append(result.tobytes())
    assert len(set(ends)) == 1


@pytest.mark.parametrize("fuse", [True, False])
def test_a_reduction_makes_what_it_reads_of_the_old_value(fuse):
    """Squares of a parameter that is replaced beside them."""
    p, storage = stored((8, 8))
    x = source("input", (8, 8), "float64", "x")
    total = bp.sum(p * p)
    plan = lower([total], "float64", storage=storage, assigns=[Assign("p", 0, p - bp.matmul(x, x) * total, p)], fuse=fuse)
    rng = np.random.default_rng(6)
    xs, old = rng.normal(size=(8, 8)), rng.normal(size=(8, 8))
    memory = old.ravel().copy()
    (got,) = run(plan, {x: xs}, p=memory)
    np.testing.assert_allclose(got, (old * old).sum(), rtol=1e-13)
    np.testing.assert_allclose(memory.reshape(8, 8), old - xs @ xs * got, rtol=1e-12)


def test_a_map_by_rows_stays_in_its_row_block():
    """It is not made before a sum over everything, which runs behind the blocks, where others read it too."""
    x, t, w = source("input", (-1, 8), "float32", "x"), source("input", (-1, 8), "float32", "t"), source("input", (8, 8), "float32", "w")
    h = bp.tanh(bp.matmul(x, w))
    d = bp.concatenate([h[:, 4:], h[:, :4]], 1) - t
    loss = bp.sum(d * d)
    text = lower([loss, *bp.grad(loss, [w])], "float32", capacity=4000, row_blocks=True).describe()
    assert "the next 14," in text and "part of" in text


@pytest.mark.parametrize("fuse", [True, False])
def test_draws_are_numbered_by_the_graph(fuse):
    """Not by what runs first: two draws of one program, of which fusing would exchange the order."""
    x = source("input", (6, 50), "float64", "x")
    y, z = (bp.transpose(bp.reshape(v, (50, 6))) for v in (x, x * 2.0))
    first, second = random_like(y, "first"), random_like(z, "second")
    plan = lower([bp.sum(y * first, 1), bp.concatenate([z * second, z], 1)], "float64", fuse=fuse)
    one, two = run(plan, {x: np.ones((6, 50))})
    alone = [run(lower([r], "float64", fuse=False), {x: np.ones((6, 50))})[0] for r in (first, first)]
    np.testing.assert_allclose(one, alone[0].sum(1), rtol=1e-12)
    assert not np.array_equal(two[:, :50], 2.0 * alone[0])
