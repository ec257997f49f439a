"""What all tests share: where they run, and how hypothesis behaves on a busy machine."""

import gc
import signal

import hypothesis
import pytest

import backprop as bp
from backprop import _core

# A shell that starts something in the background has it ignore Ctrl-C, and so do all programs that it starts in turn.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline measures the machine, not the code.
hypothesis.settings.register_profile("backprop", deadline=None)
hypothesis.settings.load_profile("backprop")


def pytest_report_header():
    sets = ", ".join(row["name"] + " (current)" * row["current"] for row in _core.isa_info() if row["supported"])
    n, why = _core.threads_default()
    return f"backprop: {_core.__file__}; instruction sets: {sets}; threads: {n} ({why})"


@pytest.fixture(params=_core.isa_runnable())
def isa(request):
    """Each instruction set that this build and this processor can run."""
    return request.param


@pytest.fixture(params=range(_core.KIND_COUNT))
def kind(request):
    """Each kind of processors that differ in what is fast: this one is taken for it."""
    old = _core.kind_select(request.param)
    yield
    _core.kind_select(old)


@pytest.fixture
def shared():
    """Threads share every instruction, though it is not worth it and others may want the processors."""
    old = _core.share_always(True)
    yield
    _core.share_always(old)


@pytest.fixture
def sound(monkeypatch):
    """Every program that is lowered makes each value once, and every buffer is made before it is read."""
    emit, pack = bp.lower.emit, bp.plan._pack

    def checked(groups, *args):
        made = [t for g in groups for t in g.made()]
        assert len(made) == len(set(made))
        return emit(groups, *args)

    def checked_pack(buffers):
        assert all(first <= last for _, first, last, *_ in buffers)
        return pack(buffers)

    monkeypatch.setattr(bp.lower, "emit", checked)
    monkeypatch.setattr(bp.plan, "_pack", checked_pack)


@pytest.fixture
def interrupted():
    """``interrupted(call, delay)`` calls `call`, which the exception of a signal's handler strikes after `delay` seconds, and again every
    `again` seconds until it has ended: one may be swallowed where it strikes."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs an interval timer")

    class Alarm(BaseException):
        pass

    def ring(*_):
        if armed:
            raise Alarm

    def interrupted(call, delay, again=0.2):
        nonlocal armed
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, delay, again)
            call()
        except Alarm:
            armed = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    armed, before = False, signal.signal(signal.SIGALRM, ring)
    callbacks, gc.callbacks[:] = gc.callbacks[:], []  # a test tool's would swallow the exception, with a warning
    try:
        yield interrupted
    finally:
        gc.callbacks[:] = callbacks
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def torch():
    """PyTorch on one thread; the test is left out where there is none."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)
