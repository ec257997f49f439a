"""The benchmark's table: ``python bench [--threads 1] [--seconds 4] [--peers torch,jax] [--only 784] [--json FILE] [--picture FILE]``.

Every workload runs in one process: the peers take turns, a short burst each, and a ratio is the median of the ratios of neighbouring
bursts, so that a slow moment of the machine strikes all alike. The peak, of fused multiply-adds in registers, takes its turns with
them: processors lower their clock under such work. One thread means one processor, the same for all. A figure is only
as good as its ratio; absolute times differ from machine to machine. `workloads` says how each peer is set.
"""

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path

import limits

PACKAGES = ("numpy", "torch", "jax", "optax", "scikit-learn")


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each workload; the large ones take at most ten times as long")
    parser.add_argument("--peers", help="all, if it is not given")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--picture", help="write the ratios to this file, as SVG")
    args = parser.parse_args(argv)
    limits.limit(args.threads)
    import workloads

    import backprop as bp
    from backprop import _core, benchmark
    names = workloads.PEERS if args.peers is None else tuple(filter(None, args.peers.split(",")))
    for name in names:
        if name not in workloads.PEERS:
            parser.error(f"there is no peer {name!r}: {', '.join(workloads.PEERS)}")
    limits.limit_torch(args.threads)
    isa = _core.isa_current()
    found = {"backprop": bp.__version__, **versions()}
    print(f"{platform.machine()}, {isa}, {args.threads} thread(s); " + ", ".join(f"{k} {v}" for k, v in found.items()))
    peaks = {bits: benchmark.Peak(bits) for bits in (16, 32, 64)}
    print("microseconds, and how many times faster ours is; GFLOP/s are ours, and their share of what fused multiply-adds in registers "
          "reach in turns with the steps\n")
    print(f"{'training step with Adam, unless said':48}{'backprop':>10}{'GFLOP/s':>9}{'of peak':>8}" + "".join(f"{p:>18}" for p in names))
    results, notes = [], {}
    for load in workloads.WORKLOADS:
        if args.only not in load.name:
            continue
        runs = {"backprop": load.make("backprop")}
        for peer in names:
            if peer in load.peers:
                try:
                    runs[peer] = load.make(peer)
                except workloads.LeftOut as e:
                    notes.setdefault((peer, str(e)), []).append(load.name)
        bf16 = "ours-bf16" in runs and peaks[16].steps > 0
        runs |= {"peak": peaks[load.bits]} | ({"peak-bf16": peaks[16]} if bf16 else {})
        medians, ratios, rounds = benchmark.compare(runs, args.seconds, args.threads)
        peak, peak_bf16 = (args.threads / medians.pop(p) if p in medians else 0.0 for p in ("peak", "peak-bf16"))
        own = medians["backprop"]
        speed = load.flops / own
        cells = [f"{medians[p] * 1e6:.1f} ({ratios[p]:.2f}x)" if p in medians else "-" for p in names]
        print(f"{load.name:48}{own * 1e6:10.1f}{speed / 1e9:9.1f}{speed / peak:8.0%}" + "".join(f"{c:>18}" for c in cells), flush=True)
        results.append({"workload": load.name, "microseconds": {p: m * 1e6 for p, m in medians.items()},
                        "ratio": {p: ratios[p] for p in medians if p != "backprop"}, "gflops": speed / 1e9, "peak": peak / 1e9,
                        "bursts": rounds})
        if "ours-bf16" in medians:
            speed = load.flops / medians["ours-bf16"]
            results[-1] |= {"gflops_bf16": speed / 1e9, "peak_bf16": peak_bf16 / 1e9}
            print(f"{'  in bfloat16':48}{medians['ours-bf16'] * 1e6:10.1f}{speed / 1e9:9.1f}" + (f"{speed / peak_bf16:8.0%}" if bf16 else ""))
        runs.clear()
    for (peer, why), where in notes.items():
        print(f"left out: {peer} of {len(where)} workload{'s' * (len(where) != 1)}: {why}")
    if args.json:
        Path(args.json).resolve().parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps({"isa": isa, "threads": args.threads, "versions": found, "results": results}, indent=1))
        print(f"written to {args.json}")
    if args.picture:
        import picture
        picture.ratios(results, args.threads, found).save(args.picture)
        print(f"written to {args.picture}")


if __name__ == "__main__":
    main()
