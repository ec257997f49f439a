"""Two threads against one: ``python bench/sweep.py [--threads 2] [--seconds 0.1] [--picture FILE] [--json FILE]``.

For every width of a w-w-w-10 network and every batch: how many times faster a training step is on all threads than on one, the
median of the ratios of neighbouring bursts in one process. Cells slower by more than 3% are measured again, five times as long, and
flagged if they are still slow. The last column is the scaling of a pure loop of multiply-adds meanwhile; a row is measured up to
three times until that shows that the processors were free. Then, for the two large workloads, the scaling beside that of the pure loop of fused
multiply-adds, all taking turns: ``--large`` measures only that, ``--no-large`` leaves it out.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SLOW = 0.97
BUSY = 0.8  # where the pure loop scales by less than this share of the threads, others have a processor


def ratio(run, threads, seconds, least=5):
    """Seconds on one thread over seconds on `threads`, burst by burst."""
    import backprop as bp
    from backprop.benchmark import burst

    for n in (1, threads):
        with bp.threads(n):
            run()
            run()
    found, end, slices = [], time.perf_counter() + seconds, seconds / (4 * least)
    while len(found) < least or time.perf_counter() < end:
        times = {}
        for n in (1, threads) if len(found) % 2 else (threads, 1):  # neither is always first
            with bp.threads(n):
                times[n] = burst(run, slices)
        found.append(times[1] / times[threads])
    return statistics.median(found)


def grid(threads, seconds):
    from workloads import Step, ours

    cells = {}
    print("width \\ batch" + "".join(f"{b:>8}" for b in BATCHES) + "  pure loop")
    for w in WIDTHS:
        for _ in range(3):
            loops = [threads * loop(1) / loop(threads)]
            for b in BATCHES:
                run = ours(Step((w, w, w, 10), b))
                cells[w, b] = ratio(run, threads, seconds)
                if cells[w, b] < SLOW:
                    cells[w, b] = ratio(run, threads, 5 * seconds, 15)
                loops.append(threads * loop(1) / loop(threads))
            share = statistics.median(loops)
            if share > BUSY * threads:
                break
        print(f"{w:13}" + "".join(f"{cells[w, b]:7.2f}{'!' if cells[w, b] < SLOW else ' '}" for b in BATCHES) + f"{share:11.2f}"
              + (" (busy)" if share <= BUSY * threads else ""), flush=True)
    slow = [(w, b) for (w, b), v in cells.items() if v < SLOW]
    print(f"{len(slow)} of {len(cells)} cells slower by more than 3%" + "".join(f"; width {w} batch {b}" for w, b in slow))
    return cells, slow


def loop(threads, rounds=2_000_000):
    """Seconds of the loop of multiply-adds, the same work in each of `threads` threads, each on a processor of its own: new threads
    may share one for some milliseconds, until the system spreads them."""
    from backprop import _core

    places = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    ready, times = threading.Barrier(threads), []

    def work(i):
        if len(places) >= threads > 1:
            os.sched_setaffinity(0, {places[i]})  # of this thread alone
        ready.wait()
        start = time.perf_counter()
        _core.kernel_fma_peak(_core.isa_current(), 32, rounds)
        times.append((start, time.perf_counter()))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in times) - min(start for start, _ in times)


def large(threads, rounds=7):
    """Scaling of the two large workloads and of the pure loop, in turns."""
    import backprop as bp
    from backprop.benchmark import burst
    from workloads import STEPS, ours

    found = []
    for step in STEPS[4:6]:
        run = ours(step)
        run()
        steps, loops = [], []
        for i in range(rounds):
            times = {}
            for n in (1, threads) if i % 2 else (threads, 1):
                with bp.threads(n):
                    times[n] = burst(run, 0.1)
            steps.append(times[1] / times[threads])
            loops.append(threads * loop(1) / loop(threads))
        a, b = statistics.median(steps), statistics.median(loops)
        print(f"{step.name}: {a:.2f} times faster on {threads} threads; the pure loop {b:.2f}; {a / b:.0%} of it", flush=True)
        found.append({"workload": step.name, "step": a, "loop": b, "steps": steps, "loops": loops})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each cell")
    parser.add_argument("--picture", help="write the cells to this file, as SVG")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--large", action="store_true", help="only the two large workloads")
    parser.add_argument("--no-large", action="store_true", help="without them")
    args = parser.parse_args()
    os.environ["BACKPROP_NUM_THREADS"] = str(args.threads)
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import picture

    out = {"threads": args.threads}
    if not args.large:
        cells, slow = grid(args.threads, args.seconds)
        out |= {"cells": [[w, b, v] for (w, b), v in cells.items()], "slow": slow}
        if args.picture:
            title = f"w-w-w-10: times faster on {args.threads} threads than on one"
            picture.heat(cells, WIDTHS, BATCHES, title).save(args.picture)
            print(f"written to {args.picture}")
    if not args.no_large:
        out["large"] = large(args.threads)
    if args.json:
        Path(args.json).resolve().parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(out, indent=1))
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
