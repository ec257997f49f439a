"""The door to C: what is refused, what is held, and what a program that runs gives back."""

import gc
import signal
import threading
import weakref

import numpy as np
import pytest

from backprop import _core

MAGIC = 0x62703031
CODE = {name: code for code, name in enumerate(_core.INSTRUCTIONS)}


def program(*instructions, spaces=((4, -3, 0), (4, 2, 1)), real_bytes=4, capacity=8, arena=256):
    words = [MAGIC, real_bytes, capacity, arena, len(spaces) + 1, 0, 0, 1]
    words += [word for space in spaces for word in space]
    words += [0, len(instructions)]
    for name, *fields in instructions:
        words += [1 + len(fields), CODE[name], *fields]
    return _core.Program(np.array(words, np.int64))


FILL = ("fill", 2, 2, 0, 0, int(np.float64(1.5).view(np.int64)))  # space 2, both elements


def bound(p=None, rows=8):
    binding = _core.Binding(p or program(FILL))
    x, y = np.zeros((rows, 3), np.float32), np.zeros(2, np.float32)
    binding.set(1, x)
    binding.set(2, y)
    return binding, x, y


def test_names_come_from_ops_def():
    assert [name for name, arity, _ in _core.MAP_OPS if arity == 0] == ["random"]
    assert {arity for _, arity, _ in _core.MAP_OPS} == {0, 1, 2, 3}
    assert _core.REDUCE_OPS == ("sum", "max", "min")
    assert len(set(_core.INSTRUCTIONS)) == len(_core.INSTRUCTIONS)


def test_program_shows_its_header():
    p = program(FILL)
    assert (p.real_bytes, p.capacity, p.n_spaces, p.n_instructions) == (4, 8, 3, 1)
    assert p.spaces == [(0, 0, True), (4, -3, False), (4, 2, True)]


@pytest.mark.parametrize("words", [[], [1], [MAGIC], [MAGIC, 4, 8, 0, 1], [MAGIC, 4, 8, -1, 1, 0, 0, 1, 0, 0]])
def test_words_that_are_no_program(words):
    with pytest.raises(ValueError, match="."):
        _core.Program(np.array(words, np.int64))


def test_words_of_another_type():
    with pytest.raises(TypeError, match="words.*int64.*int32"):
        _core.Program(np.zeros(10, np.int32))
    with pytest.raises(ValueError, match="words"):
        _core.Program(np.zeros(20, np.int64)[::2])


def test_run_writes_and_reports():
    binding, _, y = bound()
    assert binding.run(8)[0] == 0
    assert y.tolist() == [1.5, 1.5]
    y[:] = 0
    assert binding.run(8, first=1)[0] == 0  # [1, 1): nothing
    assert y.tolist() == [0, 0]


@pytest.mark.parametrize(
    "array, error, message",
    [
        (np.zeros(6), TypeError, "space 1.*float32.*float64"),
        (np.zeros(6, np.int32), TypeError, "space 1.*float32.*int32"),
        (np.zeros(6, ">f4"), TypeError, "space 1"),
        (np.zeros(7, np.float32), ValueError, "space 1.*rows of 3.*7"),
        (np.zeros((4, 6), np.float32)[:, ::2], ValueError, "space 1.*contiguous"),
        (np.frombuffer(b"\0" * 13, np.uint8)[1:].view(np.float32), ValueError, "space 1.*aligned"),
        ([0.0] * 6, TypeError, "bytes-like"),
    ],
)
def test_arrays_that_do_not_fit_change_nothing(array, error, message):
    binding, _, y = bound()
    with pytest.raises(error, match=message):
        binding.set(1, array)
    assert binding.run(8)[0] == 0 and y[0] == 1.5


def test_fixed_spaces_are_checked_when_they_are_set():
    binding, _, y = bound()
    with pytest.raises(ValueError, match="space 2.*at least 2.*1"):
        binding.set(2, np.zeros(1, np.float32))
    frozen = np.zeros(2, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="space 2"):
        binding.set(2, frozen)
    for space in (-1, 0, 3):
        with pytest.raises(ValueError, match="space"):
            binding.set(space, y)


def test_rows_are_checked_by_every_run():
    binding, _, _ = bound(rows=5)
    assert binding.run(5)[0] == 0
    with pytest.raises(ValueError, match="space 1 has 5 rows.*6"):
        binding.run(6)
    for arguments in [(9,), (-1,), (1, 2), (1, 0, 2), (1, 1, 0), (1, -1)]:
        with pytest.raises(ValueError):
            binding.run(*arguments)
    with pytest.raises(ValueError, match="threads"):
        binding.run(1, threads=-1)


def test_spaces_without_array_are_named():
    binding, x, _ = bound()
    binding.clear(2)
    with pytest.raises(ValueError, match="space 2 was never set"):
        binding.run(1)
    binding.clear(2)  # twice is fine
    with pytest.raises(ValueError, match="space 1 was never set"):
        _core.Binding(program(FILL)).run(1)


def test_empty_runs_and_arrays():
    binding, _, y = bound(rows=0)
    assert binding.run(0)[0] == 0
    assert y.tolist() == [1.5, 1.5]


def test_arrays_are_held_and_let_go():
    class Array(np.ndarray):  # an ndarray that can be referred to weakly
        pass

    binding = _core.Binding(program(FILL))
    array = np.zeros(2, np.float32).view(Array)
    alive = weakref.ref(array)
    binding.set(2, array)
    del array
    gc.collect()
    assert alive() is not None
    binding.set(2, np.zeros(2, np.float32))
    gc.collect()
    assert alive() is None


def test_arena_is_seen_and_keeps_the_binding():
    binding, _, _ = bound()
    arena = binding.arena()
    assert len(arena) >= 256 and not arena.readonly
    arena[0] = 7
    binding.run(8, threads=64)  # more threads must not move what is being looked at
    assert binding.arena()[0] == arena[0] == 7
    del binding
    gc.collect()
    arena[1] = 8


def test_more_threads_keep_the_arena():
    binding, _, _ = bound()
    binding.arena()[:3] = b"abc"
    binding.run(8, threads=_core.threads_get() + 5)
    assert bytes(binding.arena()[:3]) == b"abc"


def many_steps(order=None, n=20000, **more):
    """A fit whose every step multiplies matrices: long enough to be met on its way."""
    size, capacity = 256, 256
    matmul = ("matmul", -1, size, size, 0, 0, 0, 1, 0, size, 2, 0, size, 3, 0, size, -1)
    p = program(matmul, spaces=((4, -size, 0), (4, size * size, 0), (4, -size, 1)), capacity=capacity)
    binding = _core.Binding(p)
    binding.set(2, np.zeros((size, size), np.float32))
    binding.set(3, np.zeros((capacity, size), np.float32))
    x = np.zeros((n, size), np.float32)
    steps = -(-n // capacity)
    return binding, lambda: binding.fit([(1, x)], order, n, capacity, 0, steps, **more), steps


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_a_signal_handler_ends_a_fit():
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    binding, fit, steps = many_steps()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            while True:
                fit()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0 <= binding.done <= steps and not binding.running
    assert fit()[:2] == (0, steps)  # and it can go on


def test_a_binding_runs_once_at_a_time():
    binding, fit, _ = many_steps()
    go_on = threading.Event()

    def keep_running():
        while not go_on.is_set():
            try:
                fit()
            except RuntimeError:  # the main thread was first
                pass

    thread = threading.Thread(target=keep_running)
    thread.start()
    try:
        refused = False
        while not refused:
            try:
                binding.clear(1)
            except RuntimeError as e:
                refused = "running" in str(e)
    finally:
        go_on.set()
        thread.join()
    assert refused and not binding.running


def test_fit_checks_before_it_runs():
    binding, fit, steps = many_steps(n=1000)
    x = np.zeros((1000, 256), np.float32)
    good = dict(feeds=[(1, x)], order=None, n=1000, batch=256, first_step=0, n_steps=4)
    assert binding.fit(**good)[:2] == (0, 4)
    assert binding.fit(**{**good, "first_step": 3, "n_steps": 1})[:2] == (0, 1)
    assert binding.fit(**{**good, "feeds": [(1, np.zeros((1000, 2, 256), np.float32)[:, 1])]})[:2] == (0, 4)
    for change in [
        {"feeds": [(1, x[:999])]},
        {"feeds": [(1, x[:, :255])]},
        {"feeds": [(1, x.astype(np.float64))]},
        {"feeds": [(1, np.asfortranarray(x))]},
        {"feeds": [(1, x), (1, x)]},
        {"feeds": [(2, x)]},
        {"feeds": [(3, x)]},
        {"feeds": []},
        {"order": np.arange(999)},
        {"order": np.arange(1000, dtype=np.int32)},
        {"order": np.arange(2000)[::2]},
        {"batch": 0},
        {"batch": 257},
        {"n": -1},
        {"first_step": -1},
        {"first_step": 1},
        {"n_steps": 5},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"scalar_space": 2, "scalar_stride": 1},
        {"scalar_space": 2, "scalar_stride": -1},
        {"loss_space": 2},
        {"loss_space": 9},
    ]:
        with pytest.raises((ValueError, TypeError)):
            binding.fit(**{**good, **change})
    assert binding.fit(**good)[:2] == (0, 4)


def test_random_doors():
    order = _core.permutation(1000, 1, 2)
    assert order.dtype == np.int64 and sorted(order) == list(range(1000))
    assert (order == _core.permutation(1000, 1, 2)).all() and (order != _core.permutation(1000, 1, 3)).any()
    u = _core.uniform(1000, 1, 2)
    assert u.dtype == np.float64 and 0 <= u.min() and u.max() < 1
    assert _core.permutation(0, 0, 0).shape == _core.uniform(0, 0, 0).shape == (0,)
    for function in (_core.permutation, _core.uniform):
        with pytest.raises(ValueError, match="n:"):
            function(-1, 0, 0)


def test_thread_doors():
    before = _core.threads_get()
    assert _core.threads_set(3) == before and _core.threads_get() == 3
    assert _core.threads_set(before) == 3
    with pytest.raises(ValueError, match="threads"):
        _core.threads_set(0)
    n, why = _core.threads_default()
    assert n >= 1 and why


def test_kernel_doors_check_extents(isa):
    f = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    for call in [
        lambda: _core.kernel_map("none", "add", f(3), f(3), f(3)),
        lambda: _core.kernel_map(isa, "nothing", f(3), f(3)),
        lambda: _core.kernel_map(isa, "add", f(3), f(3)),
        lambda: _core.kernel_map(isa, "neg", f(3), f(3), f(3)),
        lambda: _core.kernel_map(isa, "add", f(3), f(3), f(2)),
        lambda: _core.kernel_map(isa, "add", f(3), f(3), f(3), variant=2),
        lambda: _core.kernel_map(isa, "neg", f(3), f(1), variant=2),
        lambda: _core.kernel_map(isa, "neg", f(3), np.ones(3)),
        lambda: _core.kernel_matmul(isa, f(2, 3), f(4, 5), f(2, 5)),
        lambda: _core.kernel_matmul(isa, f(2, 3), f(3, 5), f(5, 2)),
        lambda: _core.kernel_matmul(isa, f(2, 3), f(3, 5), f(5, 2).T),
        lambda: _core.kernel_reduce_rows(isa, "sum", f(2, 3), f(3)),
        lambda: _core.kernel_reduce_cols(isa, "sum", f(2, 3), f(2)),
        lambda: _core.kernel_reduce_rows(isa, "mean", f(2, 3), f(2)),
        lambda: _core.kernel_softmax_ce(isa, f(2, 3)),
        lambda: _core.kernel_softmax_ce(isa, f(2, 3), np.array([0, 3], np.int32)),
        lambda: _core.kernel_softmax_ce(isa, f(2, 3), probs=f(2, 2)),
        lambda: _core.kernel_random(isa, f(3), 0, 0, 0),
        lambda: _core.kernel_tile(isa, 2),
    ]:
        with pytest.raises((ValueError, TypeError)):
            call()


def test_kernel_matmul_takes_all_strides(isa):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 5, (14, 18)).astype(np.float64), rng.integers(-4, 5, (9, 22)).astype(np.float64)
    x, y = a[::2, ::-2], b[:, ::2]  # (7, 9), (9, 11): exact in any order of summation
    out = np.full((7, 20), -1.0)
    for ta in (False, True):
        for tb in (False, True):
            _core.kernel_matmul(isa, x.T if ta else x, y.T if tb else y, out[:, :11], ta, tb)
            assert (out[:, :11] == x @ y).all() and (out[:, 11:] == -1).all()


# ---------------------------------------------------------------- the short way of what is done again and again


def feeds(labels=None, space=1, limit=5, finite=False):
    binding, x, _ = bound()
    return binding, _core.Feeds(binding, np.ndarray, (space,), (x.shape,), (labels,), (limit,), (finite,))


def test_feeds_take_what_fits_as_it_lies():
    binding, put = feeds()
    x = np.ones((8, 3), np.float32)
    assert put(x)
    held = weakref.ref(x)
    del x
    gc.collect()
    assert held() is not None  # by the binding
    wrong = np.zeros(8 * 3 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(8, 3)
    for other in (wrong, np.ones((8, 3)), np.ones((3, 8), np.float32), np.ones((4, 6), np.float32), np.ones((7, 3), np.float32), np.ones(24, np.float32),
                  np.ones((8, 6), np.float32)[:, ::2], np.ones((8, 3), np.float32).tolist(), memoryview(np.ones((8, 3), np.float32)), None):
        assert not put(other)
    binding.run(8)
    with pytest.raises(ValueError, match="expected 1 arrays"):
        put(wrong, wrong)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_feeds_copy_labels_that_are_in_range(dtype):
    labels = np.empty((8, 3), np.int32)
    _, put = feeds(labels, space=-1)
    good = np.arange(24).reshape(8, 3).astype(dtype) % 5
    assert put(good) and np.array_equal(labels, good)
    for other in (good - 1, good + 1, good.astype("float32"), good.astype("uint8"), good[:7], good.T, good.reshape(3, 8), good.astype(">i8"), good[::-1]):
        assert not put(other)
    assert put(good) and np.array_equal(labels, good)


@pytest.mark.parametrize("space", [1, -1])
@pytest.mark.parametrize("finite", [True, False])
def test_feeds_take_finite_numbers(space, finite):
    _, put = feeds(space=space, finite=finite)
    x = np.full((8, 3), np.finfo(np.float32).max, np.float32)
    assert put(x)
    for place in range(x.size):
        for bad in (np.nan, np.inf, -np.inf):
            y = x.copy()
            y.flat[place] = bad
            assert put(y) is not finite
    assert put(x) and not put(x.tolist())
    assert put(np.ones((8, 3), int)) is (space < 0 and not finite)


def test_feeds_that_cannot_be():
    binding, x, _ = bound()
    for labels, error in ((np.empty((8, 3), np.int64), TypeError), (np.empty((3, 8), np.int32), ValueError), (np.empty((3, 8), np.int32).T, ValueError)):
        with pytest.raises(error, match=r"labels\[0\]"):
            _core.Feeds(binding, np.ndarray, (1,), (x.shape,), (labels,), (5,), (False,))
    with pytest.raises(ValueError, match="equally many"):
        _core.Feeds(binding, np.ndarray, (1, 2), (x.shape,), (None,), (0,), (False,))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_takes_numbers_and_gives_one(dtype):
    numbers, out = np.zeros(2, dtype), np.array(0.1, dtype)
    binding, _, filled = bound()
    step = _core.Step(binding, numbers, out)
    assert step([2, 0.1], 8, 0, 0, 0) == float(out) and binding.done == 1
    assert numbers.tolist() == [2, np.dtype(dtype).type(0.1)] and filled.tolist() == [1.5, 1.5]
    for values, rows, error in (([1.0], 8, ValueError), ([1.0] * 3, 8, ValueError), (["x", 1], 8, TypeError), ([1, 1], 9, ValueError)):
        with pytest.raises(error):
            step(values, rows, 0, 0, 0)
    for bad, error in ((np.zeros(4, dtype)[::2], ValueError), (np.zeros(2, int), TypeError)):
        with pytest.raises(error, match="numbers"):
            _core.Step(binding, bad, out)
    with pytest.raises(ValueError, match="out"):
        _core.Step(binding, numbers, numbers)
    assert _core.Step(binding, np.zeros(0, dtype), out)([], 8, 0, 0, 0) == float(out)


def test_a_short_way_forward():
    binding, _, _ = bound()
    free = [binding]
    forward = _core.Forward(free, 1, 2, (3,), (2,), np.ndarray, lambda shape, dtype: np.zeros(2, dtype), np.dtype("float32"), 0)
    x = np.ones((4, 3), np.float32)
    assert forward(x).tolist() == [1.5, 1.5] and free == [binding]
    held = weakref.ref(x)
    del x
    gc.collect()
    assert held() is None
    for other in (np.ones((9, 3), np.float32), np.ones((0, 3), np.float32), np.ones((4, 3)), np.ones((2, 6), np.float32), np.float32(1), [[1, 2, 3]]):
        assert forward(other) is None and free == [binding]
    free.clear()
    assert forward(np.ones((4, 3), np.float32)) is None
