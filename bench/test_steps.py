"""The workloads under pytest-benchmark: ``pytest bench --benchmark-json=FILE``, ``--benchmark-compare``; ``-k`` chooses.

A group is a workload, a benchmark in it a peer. `limit` holds all to one thread, so the numbers are those of ``make bench``, but for
the turns: peers run one after the other here, and only ``make bench`` gives ratios of neighbouring bursts. ``-k first`` measures how
long the first step of a trainer takes, that builds its program.
"""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import limits  # noqa: E402

limits.limit(1)

import numpy as np  # noqa: E402  after the threads are limited
import workloads  # noqa: E402

import backprop as bp  # noqa: E402


@pytest.mark.parametrize(("load", "peer"), [
    pytest.param(load, peer, id=f"{load.name}-{peer}".replace(" ", "_")) for load in workloads.WORKLOADS for peer in load.peers
])  # fmt: skip
def test_step(benchmark, load, peer):
    benchmark.group = load.name
    try:
        run = load.make(peer)
    except workloads.LeftOut as e:
        pytest.skip(str(e))
    run()
    steps = getattr(run, "steps", 1)
    if steps > 1:  # the clock is on a call
        benchmark.name += f" ({steps} steps)"
    benchmark.extra_info.update(flops=load.flops * steps, steps=steps)
    benchmark(run)


BETWEEN = {"Dense": lambda: (), "Dropout": lambda: [bp.Dropout(0.2)], "LayerNorm": lambda: [bp.LayerNorm()], "BatchNorm": lambda: [bp.BatchNorm()]}


@pytest.mark.parametrize("between", BETWEEN)
def test_first_step(benchmark, between):
    """Ten Dense layers of 64, with `between` behind nine of them, and Adam. A later step takes 0.1 to 0.3 ms."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((64, 64)).astype("float32"), rng.integers(0, 10, 64)

    def setup():
        layers = [layer for _ in range(9) for layer in (bp.Dense(64, "relu"), *BETWEEN[between]())]
        return (bp.Trainer(bp.Sequential([bp.Input(64), *layers, bp.Dense(10)], seed=1)),), {}

    benchmark.group = "first step"
    benchmark.pedantic(lambda trainer: trainer.step(x, y), setup=setup, rounds=40, warmup_rounds=2)
