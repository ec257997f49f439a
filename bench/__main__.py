"""The benchmark's table: ``python bench [--threads 1] [--seconds 4] [--peers torch,sklearn] [--only 784] [--json FILE]``.

Every workload runs in one process: the peers take turns, a short burst each, and a ratio is the median of the ratios of neighbouring
bursts, so that a slow moment of the machine strikes all alike. One thread means one processor, the same for all. A figure is only as good as its ratio; absolute times differ from machine
to machine.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time


def burst(run, seconds):
    """Seconds per call over a burst of about `seconds`."""
    n, spent = 0, 0.0
    start = time.perf_counter()
    while spent < seconds or n < 3:
        run()
        n += 1
        spent = time.perf_counter() - start
    return spent / n


def compare(runs, seconds):
    """Median seconds per call of each of `runs`, which take turns; the median of the ratios to the first, burst by burst; and
    how many bursts there were."""
    for run in runs.values():
        for _ in range(3):
            run()
    slice_seconds = max(seconds / 20 / len(runs), 0.02)
    times = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            times[name].append(burst(run, slice_seconds))
    own = next(iter(times.values()))
    ratios = {name: statistics.median(b / a for a, b in zip(own, t)) for name, t in times.items()}
    return {name: statistics.median(t) for name, t in times.items()}, ratios, len(own)


def _peak(isa):
    """Floating-point operations a second of one core, in registers."""
    from backprop import _core
    start = time.perf_counter()
    flops = _core.kernel_fma_peak(isa, 32, 300_000)
    return flops / (time.perf_counter() - start)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each workload")
    parser.add_argument("--peers", default="torch,sklearn")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args(argv)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BACKPROP_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # where set, they hold the peers' BLAS back
        os.environ.pop(name, None)
    if args.threads == 1 and hasattr(os, "sched_setaffinity"):  # one processor for all peers alike: far less noise
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import workloads

    import backprop as bp
    from backprop import _core
    peers = ["backprop"]
    versions = {"backprop": bp.__version__}
    for name in filter(None, args.peers.split(",")):
        try:
            module = __import__(name)
        except ImportError:
            print(f"({name} is not installed: left out)")
            continue
        if name == "torch":
            module.set_num_threads(args.threads)
        peers.append(name)
        versions[name] = module.__version__
    isa = _core.isa_current()
    print(f"{platform.machine()}, {isa}, {args.threads} thread(s); " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    peak = args.threads * max(_peak(isa) for _ in range(20))
    print(f"peak of fused multiply-adds in registers, measured now: {peak / 1e9:.1f} GFLOP/s in float32")
    print(f"{'training step (Adam), microseconds':44}" + "".join(f"{p:>12}" for p in peers)
          + "".join(f"{'vs ' + p:>12}" for p in peers[1:]) + f"{'GFLOP/s':>10}{'of peak':>9}")
    results = []
    for step in workloads.STEPS:
        if args.only not in step.name:
            continue
        medians, ratios, bursts = compare({p: workloads.PEERS[p](step) for p in peers}, args.seconds)
        own = medians["backprop"]
        print(f"{step.name:44}" + "".join(f"{medians[p] * 1e6:12.1f}" for p in peers)
              + "".join(f"{ratios[p]:11.2f}x" for p in peers[1:]) + f"{step.flops / own / 1e9:10.1f}{step.flops / own / peak:9.0%}", flush=True)
        results.append({"workload": step.name, "microseconds": {p: m * 1e6 for p, m in medians.items()},
                        "ratio": {p: ratios[p] for p in peers[1:]}, "gflops": step.flops / own / 1e9,
                        "peak": peak / 1e9, "bursts": bursts})
    if args.json:
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
        with open(args.json, "w") as f:
            json.dump({"isa": isa, "threads": args.threads, "versions": versions, "results": results}, f, indent=1)
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
