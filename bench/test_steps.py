"""The workloads under pytest-benchmark: ``pytest bench --benchmark-json=FILE``, ``--benchmark-compare``; ``-k`` chooses.

A group is a workload, a benchmark in it a peer. `limit` holds all to one thread, so the numbers are those of ``make bench``, but for
the turns: peers run one after the other here, and only ``make bench`` gives ratios of neighbouring bursts.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
_spec = importlib.util.spec_from_file_location("bench_main", HERE / "__main__.py")
_main = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_main)
_main.limit(1)

import workloads  # noqa: E402  after the threads are limited


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
