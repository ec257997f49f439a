"""A training step of a given shape, measured beside NumPy by hand and PyTorch: ``backprop bench``, and what ``bench/`` shares with it.

All take turns in one process, a short burst each, and a ratio is the median of the ratios of neighbouring bursts: so a slow
moment of the machine strikes all alike. Only ratios mean something; absolute times differ from machine to machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from . import _core
from .errors import NonFiniteError
from .layers import Dense, Input
from .network import Sequential
from .optim import Adam
from .profiling import profile
from .trainer import Trainer

ACTIVATIONS = ("relu", "tanh", "sigmoid")
PEERS = ("numpy", "torch")
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BACKPROP_NUM_THREADS")
_SETTLE = 0.25  # seconds


class LeftOut(Exception):
    """A peer cannot run here; the text says why."""


@dataclass(frozen=True)
class Step:
    """A training step with Adam and cross-entropy on fixed data: layer sizes, batch, activation of the hidden layers."""

    layers: tuple[int, ...]
    batch: int
    activation: str = "relu"

    @property
    def name(self):
        tanh = "" if self.activation == "relu" else f" {self.activation}"
        return f"{'-'.join(map(str, self.layers))}{tanh} batch {self.batch}"

    @property
    def flops(self):
        """Multiplications and additions of the products: forward, weight gradients, and input gradients but for the first."""
        weights = [a * b for a, b in zip(self.layers, self.layers[1:])]
        return 2 * self.batch * (2 * sum(weights) + sum(weights[1:]))

    def data(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.batch, self.layers[0])).astype("float32")
        return x, rng.integers(0, self.layers[-1], self.batch).astype("int64")

    def weights(self):
        """The same initial weights for all: a matrix (inputs, outputs) and a bias for each layer, in turn."""
        rng = np.random.default_rng(1)
        return [a for n, m in zip(self.layers, self.layers[1:])
                for a in (rng.normal(size=(n, m), scale=n**-0.5).astype("float32"), np.zeros(m, "float32"))]


# ---------------------------------------------------------------- who runs it

def network(step, dtype="float32") -> Sequential:
    """The step's network with its initial weights."""
    layers = [Input(step.layers[0]), *(Dense(n, step.activation) for n in step.layers[1:-1]), Dense(step.layers[-1])]
    net = Sequential(layers, dtype=dtype, seed=0)
    for own, given in zip(net.parameters.values(), step.weights(), strict=True):
        own[...] = given
    return net


def trainer(step, precision=None) -> Trainer:
    """Ours."""
    return Trainer(network(step), "cross_entropy", Adam(1e-3), seed=0, precision=precision)


class ByHand:
    """NumPy at its best: every product and function writes into a buffer that is made once, and Adam goes over all parameters
    at once, in place.

    Attributes
    ----------
    parameters : list of ndarray
        As in `Step.weights`.
    """

    def __init__(self, step):
        self.x, self.y = step.data()
        weights = step.weights()
        size = sum(w.size for w in weights)
        self.flat, self.gradient, self.m, self.v, self.spare = np.zeros((5, size), "float32")
        self.parameters, self.gradients, at = [], [], 0
        for w in weights:
            self.parameters.append(self.flat[at:at + w.size].reshape(w.shape))
            self.gradients.append(self.gradient[at:at + w.size].reshape(w.shape))
            self.parameters[-1][...] = w
            at += w.size
        self.outputs = [np.empty((step.batch, n), "float32") for n in step.layers[1:]]
        self.deltas = [np.empty_like(a) for a in self.outputs]
        self.rows, self.t, self.activation = np.arange(step.batch), 0, step.activation

    def __call__(self):
        W, b = self.parameters[::2], self.parameters[1::2]
        inputs = [self.x, *self.outputs[:-1]]
        for i, (h, z) in enumerate(zip(inputs, self.outputs)):
            np.matmul(h, W[i], out=z)
            z += b[i]
            if i == len(W) - 1:
                break
            if self.activation == "relu":
                np.maximum(z, 0, out=z)
            elif self.activation == "tanh":
                np.tanh(z, out=z)
            else:
                np.negative(z, out=z)
                np.exp(z, out=z)
                z += 1
                np.reciprocal(z, out=z)
        z -= z.max(axis=1, keepdims=True)
        picked = z[self.rows, self.y]
        np.exp(z, out=z)
        total = z.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - picked).mean())
        z /= total
        z[self.rows, self.y] -= 1
        z /= len(z)
        delta = z
        for i in range(len(W) - 1, -1, -1):
            np.matmul(inputs[i].T, delta, out=self.gradients[2 * i])
            delta.sum(axis=0, out=self.gradients[2 * i + 1])
            if not i:
                break
            h, below = inputs[i], self.deltas[i - 1]
            np.matmul(delta, W[i].T, out=below)
            if self.activation == "relu":
                below *= h > 0
            elif self.activation == "tanh":
                np.multiply(h, h, out=h)
                np.subtract(1, h, out=h)
                below *= h
            else:
                below *= h
                np.subtract(1, h, out=h)
                below *= h
            delta = below
        self.t += 1
        g, spare = self.gradient, self.spare
        self.m *= 0.9
        np.multiply(g, 0.1, out=spare)
        self.m += spare
        self.v *= 0.999
        np.multiply(g, g, out=g)
        g *= 0.001
        self.v += g
        np.multiply(self.v, 1 / (1 - 0.999**self.t), out=spare)
        np.sqrt(spare, out=spare)
        spare += 1e-8
        np.divide(self.m, spare, out=spare)
        spare *= 1e-3 / (1 - 0.9**self.t)
        self.flat -= spare
        return loss


class Torch:
    """PyTorch: eager with the fused Adam, ``zero_grad(set_to_none=True)``, on inputs that are tensors already. Steps on one
    batch lead to denormal numbers, which slow it down tenfold: who compares them flushes them, as ours are.

    Parameters
    ----------
    step : Step
    compiled : bool
        The forward pass with its loss, and the backward pass with it, by ``torch.compile``.
    autocast : bool
        The forward pass under bfloat16 autocast.
    """

    def __init__(self, step, compiled=False, autocast=False):
        import torch

        self.net = torch_network(step)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True)
        self.x, self.y = (torch.from_numpy(a) for a in step.data())

        def loss(x, y):
            return torch.nn.functional.cross_entropy(self.net(x), y)

        def narrow(x, y):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return loss(x, y)

        self.loss = narrow if autocast else loss
        if compiled:
            self.loss = torch.compile(self.loss, fullgraph=True, dynamic=False)

    @property
    def parameters(self):
        return [p.detach().numpy().T for p in self.net.parameters()]

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.x, self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def torch_network(step, dtype="float32"):
    """The step's network in PyTorch with its initial weights."""
    import torch

    kind = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}[step.activation]
    modules = []
    for n, m in zip(step.layers, step.layers[1:]):
        modules += [torch.nn.Linear(n, m), kind()]
    net = torch.nn.Sequential(*modules[:-1])
    with torch.no_grad():
        for p, w in zip(net.parameters(), step.weights(), strict=True):
            p.copy_(torch.from_numpy(w.T.copy()))
    return net.to(getattr(torch, dtype))


# ---------------------------------------------------------------- the clock

def burst(run, seconds, least=1):
    """Seconds per step over a burst of about `seconds`; a call of ``run`` makes ``run.steps`` steps where it says so."""
    n, spent = 0, 0.0
    start = time.perf_counter()
    while spent < seconds or n < least:
        run()
        n += 1
        spent = time.perf_counter() - start
    return spent / (n * getattr(run, "steps", 1))


def compare(runs, seconds, threads=1):
    """Measure what `runs` holds, in turns.

    Parameters
    ----------
    runs : dict of callables
        The first is ours.
    seconds : float
        For all of them together; five rounds at least, and two where those would take ten times as long.
    threads : int
        Where they are several, each burst comes after a rest of 0.25 s and a run of its own: the threads of some libraries (OpenMP's)
        spin 0.2 s after their work, on the processors that the next one is to have.

    Returns
    -------
    dict, dict, int
        Median seconds per step; medians of the ratios to the first, burst by burst; rounds.
    """
    for run in runs.values():
        for _ in range(2):
            run()
    slice_seconds = max(seconds / 20 / len(runs), 0.01)
    times = {name: [] for name in runs}
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or (rounds := len(next(iter(times.values())))) < 2 or (
            rounds < 5 and spent < 10 * seconds):
        for name, run in runs.items():
            if threads > 1:
                time.sleep(_SETTLE)
                run()
            times[name].append(burst(run, slice_seconds))
    own = next(iter(times.values()))
    ratios = {name: statistics.median(b / a for a, b in zip(own, t)) for name, t in times.items()}
    return {name: statistics.median(t) for name, t in times.items()}, ratios, len(own)


class Peak:
    """A stretch of fused multiply-adds in registers on one core, as a run of `compare`; its steps are floating-point operations, so a
    share of the peak is ``flops * ratio``, of the clock that the other runs had.

    Attributes
    ----------
    bits : int
        16 for bfloat16; `steps` is 0 where the processor has no instructions for it.
    """

    def __init__(self, bits=32, rounds=300_000):
        self.isa, self.bits, self.rounds = _core.isa_current(), bits, rounds
        self.steps = self() if bits != 16 or _core.kernel_tiles(self.isa) else 0.0

    def __call__(self):
        return _core.kernel_fma_peak(self.isa, self.bits, self.rounds)


def environment(threads):
    """Environment variables that hold every library to `threads` threads; they are read when a library is loaded."""
    return dict.fromkeys(_LIBRARIES, str(threads))


@contextmanager
def pinned(threads):
    """One thread means one processor, the same for all: far less noise."""
    if threads != 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---------------------------------------------------------------- backprop bench

def _check(step):
    if len(step.layers) < 2:
        raise ValueError("--layers: at least an input and an output width are needed, as in 784,256,10")


def command(layers, batch, activation="relu", peers=("numpy",), threads=1, seconds=2.0):
    """``backprop bench``: measure in a process whose libraries are all held to `threads` threads, this one if it is."""
    step = Step(tuple(layers), batch, activation)
    _check(step)
    wanted = environment(threads)
    if all(os.environ.get(k) == v for k, v in wanted.items()):
        print(report(step, peers, threads, seconds))
        return
    arguments = ["--layers", ",".join(map(str, layers)), "--batch", str(batch), "--activation", activation, "--peers",
                 ",".join(peers) or "none", "--threads", str(threads), "--seconds", str(seconds)]
    done = subprocess.run([sys.executable, "-m", "backprop", "bench", *arguments], env={**os.environ, **wanted},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        text = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ValueError(text.removeprefix("backprop bench: "))
    print(done.stdout, end="")


def report(step, peers=("numpy",), threads=1, seconds=2.0) -> str:
    """What ``backprop bench`` prints about a step."""
    before = _core.threads_set(threads)
    try:
        with pinned(threads):
            return _report(step, peers, threads, seconds)
    finally:
        _core.threads_set(before)


def _report(step, peers, threads, seconds):
    own = trainer(step)
    x, y = step.data()
    runs, notes = {"backprop": lambda: own.step(x, y)}, []
    for name in peers:
        try:
            if name == "torch":
                import torch
                torch.set_num_threads(threads)
            runs[name] = ByHand(step) if name == "numpy" else Torch(step)
        except ImportError:
            notes.append(f"{name} is not installed: left out")
    runs["peak"] = Peak()
    try:
        if "torch" in runs:
            torch.set_flush_denormal(True)
        medians, ratios, rounds = compare(runs, seconds, threads)
        parts = profile(own, x, y)
    except NonFiniteError as e:
        raise ValueError(f"the loss did not stay finite: {e}") from e
    finally:
        if "torch" in runs:
            torch.set_flush_denormal(False)
    speed, top = step.flops / medians["backprop"], threads / medians.pop("peak")
    lines = [f"{step.name}, Adam, float32; {_core.isa_current()} instructions, {threads} thread{'s' * (threads != 1)}; "
             f"medians of {rounds} bursts in turns", "",
             f"{'':12}{'microseconds':>14}{'ours is faster':>17}"]
    lines += [f"{name:12}{s * 1e6:14.1f}" + ("" if name == "backprop" else f"{ratios[name]:16.2f}x") for name, s in medians.items()]
    lines += notes
    lines += ["", f"{speed / 1e9:.1f} GFLOP/s in matrix products, {speed / top:.0%} of the {top / 1e9:.1f} that fused multiply-adds in "
              "registers reach in turns with them", "phases: " + ", ".join(
                  f"{k} {s * 1e6:.1f}" for k, s in parts.phases().items()) + " microseconds", "", str(parts)]
    return "\n".join(lines)
