"""Does cost grow faster than work? ``python bench/flat.py [--width 64] [--rounds 15] [--seconds 0.02]``

Nanoseconds of `fit`, on one thread, per sample and layer of w-w-...-w networks, as batch, depth and data grow; the cells of a line take
turns, forwards and backwards, and each is compared with the line's median of the same round. An exclamation mark: more than 15% off.
A layer is three products; the first has no use for the gradient of its inputs and counts two thirds.
"""

import argparse
import statistics

import limits

FLAT = 0.15
LINES = (  # what grows, its values, and the rest
    ("batch", (64, 128, 256, 512, 1024, 2048, 4096), {"depth": 4, "rows": 8192}),
    ("depth", (2, 4, 8, 16, 32), {"batch": 64, "rows": 2048}),
    ("depth", (2, 4, 8, 16, 32), {"batch": 1024, "rows": 4096}),
    ("rows", (1000, 3000, 10_000, 30_000, 100_000, 200_000), {"batch": 64, "depth": 4}),
)


def epoch(width, optimizer, batch, depth, rows):
    """A call that trains an epoch, and how many samples and layers those are."""
    import backprop as bp
    import numpy as np

    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((rows, width)).astype("float32") for _ in range(2))
    net = bp.Sequential([bp.Input(width), *(bp.Dense(width, "relu") for _ in range(depth - 1)), bp.Dense(width)], seed=1)
    trainer = bp.Trainer(net, "squared_error", optimizer)
    return lambda: trainer.fit(x, y, batch_size=batch, progress=False), rows * (depth - 1 / 3)


def line(cells, rounds, seconds):
    """For each cell the median of its cost, and of its ratio to the others of a round."""
    from backprop.benchmark import burst

    costs, ratios = {k: [] for k in cells}, {k: [] for k in cells}
    for run, _ in cells.values():
        run()
    for i in range(rounds):
        now = {k: burst(cells[k][0], seconds) / cells[k][1] * 1e9 for k in (list(cells) if i % 2 else reversed(cells))}
        for k, cost in now.items():
            costs[k].append(cost)
            ratios[k].append(cost / statistics.median(now.values()))
    return {k: (statistics.median(costs[k]), statistics.median(ratios[k])) for k in cells}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.02, help="for each cell in each round, at least")
    args = parser.parse_args()
    limits.limit(1)
    print("nanoseconds per sample and layer, and as a share of the line's median")
    for optimizer in ("adam", "sgd"):
        for what, values, rest in LINES:
            cells = {v: epoch(args.width, optimizer, **rest, **{what: v}) for v in values}
            found = line(cells, args.rounds, args.seconds)
            print(f"{optimizer}, {', '.join(f'{k} {v}' for k, v in rest.items())}; {what}: " + "  ".join(
                f"{v}: {cost:.0f} ({ratio:.2f}{'!' * (abs(ratio - 1) > FLAT)})" for v, (cost, ratio) in found.items()), flush=True)


if __name__ == "__main__":
    main()
