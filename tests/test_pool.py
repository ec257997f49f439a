"""Threads: how many, and that sharing work among them neither hangs nor changes a result.

The pool is used through `kernel_matmul`, whose result may not depend on the number of threads.
"""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from backprop import _core

NAMES = ("BACKPROP_NUM_THREADS", "OMP_NUM_THREADS")

PRODUCT = """
import numpy as np
from backprop import _core

isa = _core.isa_runnable()[-1]
rng = np.random.default_rng(0)
a = rng.standard_normal((300, 200)).astype(np.float32)
b = rng.standard_normal((200, 250)).astype(np.float32)


def product(threads):
    out = np.full((300, 250), np.nan, np.float32)
    _core.kernel_matmul(isa, a, b, out, threads=threads)
    return out.tobytes()


alone = product(1)
"""


def run(code, **environment):
    """Runs code in a Python of its own, after PRODUCT; returns what it printed. Hanging is a failure."""
    env = {k: v for k, v in os.environ.items() if k not in NAMES} | environment
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRODUCT + textwrap.dedent(code)],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def default(monkeypatch):
    """threads_default() under these variables; os.environ is the C library's environment too."""

    def ask(**environment):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return _core.threads_default()

    return ask


def test_default_number_of_threads(default):
    plain = default()
    assert 1 <= plain[0] <= os.cpu_count() and plain[1] in ("affinity", "cgroup quota")
    assert default(BACKPROP_NUM_THREADS="3", OMP_NUM_THREADS="5") == (3, "BACKPROP_NUM_THREADS")
    assert default(OMP_NUM_THREADS="5") == (5, "OMP_NUM_THREADS")
    assert default(OMP_NUM_THREADS="4,2") == (4, "OMP_NUM_THREADS")
    for nonsense in ("", "0", "-2", "many", "3x", "2.5"):
        assert default(BACKPROP_NUM_THREADS=nonsense, OMP_NUM_THREADS="6") == (6, "OMP_NUM_THREADS")
        assert default(BACKPROP_NUM_THREADS=nonsense) == plain


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_default_obeys_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(_core.threads_default()[0])"
    assert run(code) == "1"


def test_get_and_set():
    code = "print(_core.threads_get(), _core.threads_set(2), _core.threads_get())"
    assert run(code, BACKPROP_NUM_THREADS="7") == "7 7 2"


def test_any_number_of_threads_gives_the_same_bits():
    code = """
    for _ in range(20):
        for threads in (2, 3, 4, 7, 64):
            assert product(threads) == alone, threads
    print("same")
    """
    assert run(code) == "same"


def test_many_callers_at_once():
    code = """
    import threading
    import time

    wrong = []

    def caller(number):
        for i in range(40):
            if product(2 + (number + i) % 3) != alone:
                wrong.append(i)
            if i % 10 == 0:
                time.sleep(0.001)  # workers fall asleep and are woken

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    print(len(wrong))
    """
    assert run(code) == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_the_pool_has_run():
    code = """
    import os
    import sys

    for round in range(5):
        assert product(3) == alone
        child = os.fork()
        if child == 0:
            ok = product(3) == alone
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if product(2) == alone else 1)
            ok &= os.waitpid(grandchild, 0)[1] == 0
            sys.exit(0 if ok and product(4) == alone else 1)  # through the exit handlers
        assert product(3) == alone
        assert os.waitpid(child, 0)[1] == 0
    print("fine")
    """
    assert run(code) == "fine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_another_thread_computes():
    code = """
    import os
    import threading

    stop = threading.Event()

    def work():
        while not stop.is_set():
            assert product(3) == alone

    worker = threading.Thread(target=work)
    worker.start()
    results = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            os._exit(0 if product(3) == alone else 1)
        results.append(os.waitpid(child, 0)[1])
    stop.set()
    worker.join()
    print(*results)
    """
    assert run(code) == " ".join("0" * 10)


def test_exit_while_a_daemon_thread_computes():
    code = """
    import threading
    import time

    def work():
        while True:
            product(3)

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.05)
    print("leaving")
    """
    assert run(code) == "leaving"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no list of threads here")
def test_workers_leave_signals_to_the_caller():
    code = """
    import os
    import signal
    import time

    others = set(os.listdir("/proc/self/task"))
    product(3)
    workers = set(os.listdir("/proc/self/task")) - others
    for task in workers:
        for _ in range(400):  # a thread that has not begun yet has every signal blocked
            status = open(f"/proc/self/task/{task}/status").read()
            mask = int(status.split("SigBlk:")[1].split()[0], 16)
            if not mask >> (signal.SIGSEGV - 1) & 1:
                break
            time.sleep(0.005)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1):
            assert mask >> (number - 1) & 1, (task, number)
        assert not mask >> (signal.SIGSEGV - 1) & 1
    print(len(workers))
    """
    assert run(code, OPENBLAS_NUM_THREADS="1") == "2"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task") or len(os.sched_getaffinity(0)) < 2, reason="no two processors here")
def test_a_worker_sleeps_on_another_processor_than_its_owners():
    """Where it may run when it wakes; and what others set holds."""
    code = """
    import os
    import time

    allowed = os.sched_getaffinity(0)
    others = set(os.listdir("/proc/self/task"))
    assert product(2) == alone
    worker = int((set(os.listdir("/proc/self/task")) - others).pop())

    def sleeps_on(processors):
        end = time.monotonic() + 20
        while os.sched_getaffinity(worker) != processors and time.monotonic() < end:
            assert product(2) == alone
            time.sleep(0.01)
        return os.sched_getaffinity(worker) == processors

    low, high = {min(allowed)}, {max(allowed)}
    os.sched_setaffinity(0, low)
    assert sleeps_on(allowed - low)
    os.sched_setaffinity(0, high)
    assert sleeps_on(allowed - high)
    os.sched_setaffinity(worker, low | high)
    assert sleeps_on(low)
    os.sched_setaffinity(worker, high)
    for _ in range(10):
        assert product(2) == alone
        time.sleep(0.001)
    assert os.sched_getaffinity(worker) == high
    print("good")
    """
    assert run(code, OPENBLAS_NUM_THREADS="1") == "good"


def test_numbers_below_one_are_refused():
    before = _core.threads_get()
    for n in (0, -1):
        with pytest.raises(ValueError, match="threads"):
            _core.threads_set(n)
    assert _core.threads_get() == before
    with pytest.raises(ValueError, match="threads"):
        _core.kernel_matmul(_core.isa_runnable()[0], *(np.zeros((2, 2)) for _ in range(3)), threads=0)


@pytest.mark.parametrize("isa, message", [("vax", "no such instruction set"), ("AVX2", "no such instruction set")])
def test_unknown_instruction_set(isa, message):
    env = os.environ | {"BACKPROP_ISA": isa}
    done = subprocess.run([sys.executable, "-c", "from backprop import _core"], env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"BACKPROP_ISA={isa}" in done.stderr and message in done.stderr
    assert f"supported: {', '.join(_core.isa_runnable())}" in done.stderr


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "neon"])
def test_chosen_instruction_set(isa):
    env = os.environ | {"BACKPROP_ISA": isa}
    code = "from backprop import _core; print([i['name'] for i in _core.isa_info() if i['current']])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if isa in _core.isa_runnable():
        assert done.stdout.strip() == f"['{isa}']", done.stderr
    else:
        assert done.returncode != 0 and f"BACKPROP_ISA={isa}" in done.stderr and "supported: scalar" in done.stderr
