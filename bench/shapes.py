"""Every shape beside a peer: ``python bench/shapes.py [--peer torch] [--predict] [--isa avx2] [--threads 1] [--seconds 0.4] [--json FILE]``.

For three layers of each width, and each batch: how many times faster a training step with Adam is than the peer's (``--predict``: a
prediction than PyTorch's), in turns, the median of the ratios of neighbouring bursts. Shapes that no workload was chosen for show
here. ``--isa avx2`` holds ours, MKL, oneDNN and PyTorch's own kernels to AVX2.
"""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 4, 16, 64, 256, 1024)
MOST = 1 << 30  # of batch times width squared: larger ones take seconds


def numbers(text):
    return tuple(map(int, text.split(",")))


def predictions(step):
    """Ours and PyTorch's prediction, on the step's data."""
    import torch

    from backprop.benchmark import network, torch_network

    x, _ = step.data()
    own, theirs, given = network(step), torch_network(step), torch.from_numpy(x)

    def predict():
        with torch.inference_mode():
            return theirs(given)
    return {"backprop": lambda: own.predict(x), "torch": predict}


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
    spec = importlib.util.spec_from_file_location("bench_main", HERE / "__main__.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.limit(args.threads)
    if args.isa:
        os.environ |= {"BACKPROP_ISA": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    sys.path.insert(0, str(HERE))
    import workloads

    from backprop.benchmark import compare
    if args.peer not in workloads.STEP_PEERS:
        parser.error(f"there is no peer {args.peer!r}: {', '.join(workloads.STEP_PEERS)}")
    if args.peer.startswith("torch"):
        import torch
        torch.set_num_threads(args.threads)
        torch.set_flush_denormal(True)
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
            runs = predictions(step) if args.predict else {p: workloads.STEP_PEERS[p](step) for p in ("backprop", args.peer)}
            cells[w, b] = compare(runs, args.seconds, args.threads)[1][args.peer]
            print(f"{cells[w, b]:8.2f}", end="", flush=True)
        print()
    (w, b), least = min(cells.items(), key=lambda cell: cell[1])
    print(f"least: {least:.2f} (width {w}, batch {b}); {sum(r < 1 for r in cells.values())} of {len(cells)} shapes are faster there")
    if args.json:
        Path(args.json).write_text(json.dumps([{"width": w, "batch": b, "ratio": r} for (w, b), r in cells.items()], indent=1))
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
