"""The benchmark's table: ``python bench [--threads 1] [--seconds 4] [--peers torch,sklearn] [--only 784] [--json FILE]``.

Every workload runs in one process: the peers take turns, a short burst each, and the medians over the bursts are compared, so
that a slow moment of the machine strikes all alike. A figure is only as good as its ratio; absolute times differ from machine
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
    """Median seconds per call of each of `runs`, which take turns."""
    for run in runs.values():
        for _ in range(3):
            run()
    slice_seconds = max(seconds / 20 / len(runs), 0.02)
    times = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            times[name].append(burst(run, slice_seconds))
    return {name: statistics.median(t) for name, t in times.items()}, times


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
    isa = next(i["name"] for i in _core.isa_info() if i["current"])
    print(f"{platform.machine()}, {isa}, {args.threads} thread(s); " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    print(f"{'training step (Adam), microseconds':44}" + "".join(f"{p:>12}" for p in peers)
          + "".join(f"{'vs ' + p:>12}" for p in peers[1:]) + f"{'GFLOP/s':>10}")
    results = []
    for step in workloads.STEPS:
        if args.only not in step.name:
            continue
        medians, times = compare({p: workloads.PEERS[p](step) for p in peers}, args.seconds)
        own = medians["backprop"]
        print(f"{step.name:44}" + "".join(f"{medians[p] * 1e6:12.1f}" for p in peers)
              + "".join(f"{medians[p] / own:11.2f}x" for p in peers[1:]) + f"{step.flops / own / 1e9:10.1f}", flush=True)
        results.append({"workload": step.name, "microseconds": {p: m * 1e6 for p, m in medians.items()},
                        "ratio": {p: medians[p] / own for p in peers[1:]}, "gflops": step.flops / own / 1e9,
                        "bursts": {p: len(t) for p, t in times.items()}})
    if args.json:
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
        with open(args.json, "w") as f:
            json.dump({"isa": isa, "threads": args.threads, "versions": versions, "results": results}, f, indent=1)
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
