"""Every shape beside a peer: ``python bench/shapes.py [--peer torch] [--predict] [--isa avx2] [--threads 1] [--seconds 0.4] [--json FILE]``.

For three layers of each width, and each batch: how many times faster a training step with Adam is than the peer's (``--predict``: a
prediction than PyTorch's), in turns, the median of the ratios of neighbouring bursts. Shapes that no workload was chosen for show
here. ``--isa avx2`` holds ours, MKL, oneDNN and PyTorch's own kernels to AVX2.
"""

import argparse
import json
import os
from pathlib import Path

import limits

WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 4, 16, 64, 256, 1024)
MOST = 1 << 30  # of batch times width squared: larger ones take seconds


def numbers(text):
    return tuple(map(int, text.split(",")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", default="torch")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--isa", choices=("avx2",))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each shape; large ones take longer")
    parser.add_argument("--widths", type=numbers, default=WIDTHS)
    parser.add_argument("--batches", type=numbers, default=BATCHES)
    parser.add_argument("--json", help="write the ratios to this file")
    args = parser.parse_args()
    if args.predict and args.peer != "torch":
        parser.error("predictions are compared with PyTorch's")
    limits.limit(args.threads)
    if args.isa:
        os.environ |= {"BACKPROP_ISA": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    import workloads

    from backprop.benchmark import compare
    if args.peer not in workloads.STEP_PEERS:
        parser.error(f"there is no peer {args.peer!r}: {', '.join(workloads.STEP_PEERS)}")
    makers = {"backprop": workloads.predict_ours, "torch": workloads.predict_torch} if args.predict else workloads.STEP_PEERS
    if args.peer.startswith("torch"):
        limits.limit_torch(args.threads)
    cells = {}
    print(f"{'predictions' if args.predict else 'steps'} of w-w-w-w, {args.threads} thread(s): {args.peer}'s time over ours")
    print("width \\ batch" + "".join(f"{b:>8}" for b in args.batches), flush=True)
    for w in args.widths:
        print(f"{w:13}", end="", flush=True)
        for b in args.batches:
            if b * w * w > MOST:
                print(f"{'-':>8}", end="")
                continue
            step = workloads.Step((w,) * 4, b)
            cells[w, b] = compare({p: makers[p](step) for p in ("backprop", args.peer)}, args.seconds, args.threads)[1][args.peer]
            print(f"{cells[w, b]:8.2f}", end="", flush=True)
        print()
    (w, b), least = min(cells.items(), key=lambda cell: cell[1])
    print(f"least: {least:.2f} (width {w}, batch {b}); {sum(r < 1 for r in cells.values())} of {len(cells)} shapes are faster there")
    if args.json:
        Path(args.json).write_text(json.dumps([{"width": w, "batch": b, "ratio": r} for (w, b), r in cells.items()], indent=1))
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
