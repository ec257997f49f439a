"""Training that ends early: Ctrl-C, losses that are not finite, exceptions from callbacks; and the progress line."""

import hashlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import backprop as bp
from backprop.callbacks import Progress
from make_trajectories import hashed

N, INPUTS, CLASSES = 60, 5, 3
X = hashed((N, INPUTS), 71)
Y = (X @ hashed((INPUTS, CLASSES), 72)).argmax(1)


def make(optimizer=None, **kwargs):
    net = bp.Sequential([bp.Input(INPUTS), bp.Dense(8, "tanh"), bp.Dropout(0.1), bp.Dense(CLASSES)], seed=0)
    return bp.Trainer(net, optimizer=optimizer or bp.Adam(0.01), **kwargs)


# ---------------------------------------------------------------- Ctrl-C

LONG = """
import sys
import numpy as np
import backprop as bp
import test_interruption as t

trainer, x, y, batch = getattr(t, sys.argv[1])()
class Ready:
    def on_epoch_begin(self, trainer, epoch):
        if epoch == 1:
            print("ready", flush=True)
try:
    trainer.fit(x, y, epochs=10**6, batch_size=batch, callbacks=[Ready()], progress=False)
except KeyboardInterrupt:
    print("interrupted", flush=True)
again = getattr(t, sys.argv[1])()[0]
steps = -(-len(x) // batch)
again.fit(x, y, epochs=trainer.t // steps, batch_size=batch, progress=False)
order = bp._core.permutation(len(x), again.seed, again.epoch)
for s in range(trainer.t % steps):
    rows = order[s * batch:(s + 1) * batch]
    again.step(x[rows], y[rows])
print(trainer.epoch, again.epoch, trainer.t, again.t, t.digest(trainer), t.digest(again))
"""


def digest(trainer):
    return hashlib.sha256(trainer.net.flat_parameters.tobytes() + trainer.state.tobytes()).hexdigest()


def many_short_steps():
    x = hashed((2000, 64), 1)
    net = bp.Sequential([bp.Input(64), bp.Dense(64, "relu"), bp.Dropout(0.2), bp.Dense(10)], seed=1)
    return bp.Trainer(net, optimizer=bp.Adam(1e-3), seed=1), x, (np.arange(2000) % 10), 32


def one_long_step():
    """Some 300 GFLOP a step: it is abandoned in the middle."""
    x = np.tile(hashed((64, 2048), 1).astype("float32"), (64, 1))
    net = bp.Sequential([bp.Input(2048), *(bp.Dense(2048, "relu", weight_init=1e-3) for _ in range(3)), bp.Dense(10)], seed=1)
    return bp.Trainer(net, optimizer=bp.SGD(1e-3, momentum=0.9), seed=1), x, np.arange(4096) % 10, 4096


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("work", ["many_short_steps", "one_long_step"])
def test_ctrl_c_leaves_the_weights_of_a_whole_step(work):
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(pathlib.Path(bp.__file__).parents[1]), str(here)])
    child = subprocess.Popen([sys.executable, "-c", LONG, work], env={**os.environ, "PYTHONPATH": path}, cwd=here, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n", child.communicate()
        time.sleep(0.4)
        sent = time.perf_counter()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n", child.communicate()
        took = time.perf_counter() - sent
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, err
    epoch, epoch_again, t, t_again, bits, bits_again = out.split()
    assert (t, bits) == (t_again, bits_again)
    assert int(epoch_again) - int(epoch) in (0, 1)  # 1: between the last step of an epoch and the end of it
    assert int(t) > 0 or work == "one_long_step"
    assert took < 2.0  # 0.25 s is promised; the rest is for a machine with other things to do


@pytest.mark.parametrize("each_batch", [True, False])
def test_a_signal_at_any_moment_leaves_a_whole_step(interrupted, each_batch):
    class Nothing:
        def on_batch_end(self, trainer, epoch, batch, loss):
            pass

    trainer, plain = make(), make()
    trainer.step(X, Y), plain.step(X, Y)
    made = 0
    for delay in 1e-4 + 3e-3 * (hashed(60, 73) + 1) / 2:
        epoch, t = trainer.epoch, trainer.t
        interrupted(lambda: trainer.fit(X, Y, epochs=10**6, batch_size=20, callbacks=[Nothing()] * each_batch, progress=False), delay)
        for s in range(trainer.t - t):
            order = bp._core.permutation(N, 0, epoch + s // 3)[s % 3 * 20:s % 3 * 20 + 20]
            plain.step(X[order], Y[order])
        assert digest(trainer) == digest(plain) and trainer.t == plain.t
        assert trainer.step(X[:20], Y[:20]) == plain.step(X[:20], Y[:20])
        made += trainer.t - t
    assert made > 500


# ---------------------------------------------------------------- not finite


def test_a_loss_that_is_not_finite_is_found_at_its_step():
    x = X.astype("float32").copy()
    x[37, 2] = np.nan
    good, bad = make(), make()
    with pytest.raises(bp.NonFiniteError, match="update 4"):
        bad.fit(x, Y, epochs=3, batch_size=10, shuffle=False, progress=False)
    for i in range(3):
        good.step(x[i * 10:i * 10 + 10], Y[i * 10:i * 10 + 10])
    assert bad.t == 3 and bad.epoch == 0 and not bad.history
    assert digest(good) == digest(bad)
    with pytest.raises(bp.NonFiniteError, match="update 4"):
        bad.step(x[30:40], Y[30:40])
    assert digest(good) == digest(bad) and bad.t == 3
    good.step(x[40:], Y[40:])
    bad.step(x[40:], Y[40:])
    assert digest(good) == digest(bad)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error", "binary_cross_entropy"])
def test_divergence_is_found_with_everything_finite_still(loss, fuse):
    net = bp.Sequential([bp.Input(INPUTS), bp.Dense(8), bp.Dense(8), bp.Dense(CLASSES)], seed=0)
    trainer = bp.Trainer(net, loss, bp.SGD(1e4), fuse=fuse)
    with pytest.raises(bp.NonFiniteError, match="loss is not finite") as caught:
        trainer.fit(X * 10, np.eye(CLASSES)[Y], epochs=200, batch_size=20, progress=False)
    assert isinstance(caught.value, FloatingPointError)
    with pytest.raises(bp.NonFiniteError):
        trainer.fit(X * 10, np.eye(CLASSES)[Y], batch_size=20, shuffle=False, progress=False)


def test_infinite_inputs_and_weights_do_not_pass():
    linear = bp.Trainer(bp.Sequential([bp.Input(INPUTS), bp.Dense(CLASSES)], seed=0))
    kept = digest(linear)
    for value in (np.inf, -np.inf, 1e300):  # the last is infinite in float32
        x = X.copy()
        x[0, 0] = value
        with pytest.raises(bp.NonFiniteError):
            linear.step(x, Y)
        assert digest(linear) == kept and linear.t == 0
    trainer = make()
    before = digest(trainer)
    trainer.net.parameters["0.weight"][0, 0] = np.nan
    with pytest.raises(bp.NonFiniteError):
        trainer.step(X, Y)
    trainer.net.initialize(0)
    assert digest(trainer) == before


# ---------------------------------------------------------------- exceptions from callbacks


@pytest.mark.parametrize("method", ["on_train_begin", "on_epoch_begin", "on_batch_begin", "on_batch_end", "on_epoch_end"])
def test_an_exception_of_a_callback_passes_and_training_can_go_on(method):
    class Fails:
        pass

    def fail(trainer, **kwargs):
        if kwargs.get("batch", 1) == 1:
            raise KeyError("mine")

    setattr(Fails, method, staticmethod(fail))
    trainer, plain = make(), make()
    with pytest.raises(KeyError, match="mine"):
        trainer.fit(X, Y, epochs=2, batch_size=20, callbacks=[Fails()], progress=False)
    steps = {"on_batch_begin": 1, "on_batch_end": 2, "on_epoch_end": 3}.get(method, 0)
    assert trainer.t == steps
    order = bp._core.permutation(N, 0, 0)
    for i in range(steps):
        plain.step(X[order[20 * i:20 * i + 20]], Y[order[20 * i:20 * i + 20]])
    assert digest(trainer) == digest(plain)
    assert trainer.step(X, Y) == plain.step(X, Y)
    trainer.epoch = plain.epoch = 7
    trainer.fit(X, Y, batch_size=20, progress=False)
    plain.fit(X, Y, batch_size=20, progress=False)
    assert digest(trainer) == digest(plain)


# ---------------------------------------------------------------- the progress line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_stream_that_is_no_terminal():
    stream = io.StringIO()
    make().fit(X, Y, epochs=2, batch_size=20, validation_data=(X, Y), progress=Progress(stream))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    for i, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {i}/2 ")
        assert all(word in line for word in ("train loss", "valid loss", "valid accuracy", " s"))


def test_progress_on_a_terminal():
    stream = Terminal()
    progress = Progress(stream)
    trainer = make()

    class Slow:
        def on_batch_end(self, trainer, epoch, batch, loss):
            progress._drawn -= 1.0  # as if a second had passed

    trainer.fit(X, Y, epochs=2, batch_size=10, callbacks=[Slow()], progress=progress)
    text = stream.getvalue()
    assert "\repoch 1/2 [" in text and " 3/6 loss " in text and "6/6" not in text
    assert text.count("\n") == 2 and text.endswith(" s\n")
    trainer.fit(X, Y, epochs=1, batch_size=10, progress=progress)
    assert "epoch 3/3 " in stream.getvalue()


def test_progress_is_off_where_nobody_looks(capsys, monkeypatch):
    make().fit(X, Y)
    make().fit(X, Y, progress=False)
    assert capsys.readouterr().out == ""
    make().fit(X, Y, progress=True)
    assert capsys.readouterr().out.startswith("epoch 1/1 ")
    monkeypatch.setattr(sys, "stdout", Terminal())
    make().fit(X, Y)
    assert "epoch 1/1 " in sys.stdout.getvalue()
    monkeypatch.setattr(sys, "stdout", None)  # pythonw
    make().fit(X, Y)
