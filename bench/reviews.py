"""Film reviews side by side with fastText: ``python bench/reviews.py FOLDER [--epochs 5] [--dim 100] [--rounds 5]``.

FOLDER holds rt-polarity.neg and rt-polarity.pos, a review to a line. The mean of the words' vectors (100 numbers each) and a
linear layer to 2 classes, SGD with a rate that falls to 0, one thread, every tenth review held out. fastText is
``train_supervised`` with the same dimension, epochs and words (``minCount=1``, no n-grams, softmax), which updates after each review;
ours takes batches of 4 at four times its rate, about the largest with the same accuracy (``--batch 1 --rate 0.5`` is fastText's own
rule). Prints tokens a second and the accuracy of both on the held-out reviews. The two take turns; "with reading" is all of it, with
the file read, its words counted and numbered and the table drawn; the other figure is training alone: ours is `fit`, fastText's what
as many epochs more take.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path


def read(path):
    """Labels and words of each line of a fastText file."""
    lines = [line.split() for line in Path(path).read_text("utf-8").splitlines()]
    return [int(w[0].removeprefix("__label__")) for w in lines], [w[1:] for w in lines]


def numbered(reviews, words, width):
    """Rows of word numbers; 0 pads, and stands for words that are not known."""
    import numpy as np

    ids = np.zeros((len(reviews), width), "int32")
    for row, review in zip(ids, reviews, strict=True):
        known = [words[w] for w in review[:width] if w in words]
        row[:len(known)] = known
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2.0, help="ours, of a mean over the batch")
    parser.add_argument("--fasttext-rate", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for name in ("neg", "pos"):
        if not (args.folder / f"rt-polarity.{name}").exists():
            parser.error(f"{args.folder}: there is no rt-polarity.{name} in it")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BACKPROP_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import numpy as np

    import backprop as bp
    try:
        import fasttext
    except ImportError:
        fasttext = None
        print("(fasttext is not installed: left out)")

    labelled = [(label, line) for label, name in enumerate(["neg", "pos"])
                for line in (args.folder / f"rt-polarity.{name}").read_text("utf-8").splitlines()]
    order = np.random.default_rng(0).permutation(len(labelled))
    held = [labelled[i] for i in order[::10]]
    kept = [labelled[i] for k, i in enumerate(order) if k % 10]
    speeds, accuracies = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.txt")
        path.write_text("".join(f"__label__{label} {line}\n" for label, line in kept), "utf-8")

        def ours(seed):
            started = time.perf_counter()
            labels, reviews = read(path)
            words = {w: i for i, w in enumerate(dict.fromkeys(w for r in reviews for w in r), 1)}
            width = max(map(len, reviews))
            X, y = numbered(reviews, words, width), np.array(labels)
            net = bp.Sequential([bp.Input(width, dtype="int32"), bp.EmbeddingBag(len(words) + 1, args.dim, padding=0,
                                 init=bp.init.Uniform(1 / args.dim)), bp.Dense(2)], seed=seed)
            steps = args.epochs * -(-len(X) // args.batch)
            trainer = bp.Trainer(net, "cross_entropy", bp.SGD(lambda t: args.rate * (1 - t / steps)), seed=seed)
            ready = time.perf_counter()
            trainer.fit(X, y, epochs=args.epochs, batch_size=args.batch, progress=False)
            end = time.perf_counter()
            held_X = numbered([line.split() for _, line in held], words, width)
            right = np.mean(net.predict(held_X).argmax(axis=1) == [label for label, _ in held])
            return {"backprop": end - ready, "backprop with reading": end - started}, {"backprop": right}

        def train(seed, epochs):
            return fasttext.train_supervised(str(path), dim=args.dim, epoch=epochs, lr=args.fasttext_rate, minCount=1, wordNgrams=1,
                                             loss="softmax", thread=1, seed=seed, verbose=0)

        def theirs(seed):
            started = time.perf_counter()
            model = train(seed, args.epochs)
            end = time.perf_counter()
            train(seed, 2 * args.epochs)
            training = (time.perf_counter() - end) - (end - started)
            # the wheel's predict() does not take NumPy 2; the pairs below it do
            right = np.mean([model.f.predict(line + "\n", 1, 0.0, "strict")[0][1] == f"__label__{label}" for label, line in held])
            return {"fasttext": training, "fasttext with reading": end - started}, {"fasttext": right}

        tokens = args.epochs * sum(len(line.split()) for _, line in kept)
        for seed in range(args.rounds):
            for run in [ours] + [theirs] * (fasttext is not None):
                seconds, right = run(seed)
                for name, s in seconds.items():
                    speeds.setdefault(name, []).append(tokens / s)
                for name, a in right.items():
                    accuracies.setdefault(name, []).append(float(a))
    print(f"{len(kept):,} reviews, {tokens // args.epochs:,} tokens, {args.epochs} epochs, dimension {args.dim}, one thread")
    for name, values in speeds.items():
        known = accuracies.get(name)
        print(f"{name:22}{statistics.median(values) / 1e6:8.2f} million tokens/s"
              + (f", held-out accuracy {statistics.mean(known):.4f} (mean of {len(known)})" if known else ""))
    if fasttext is not None:
        for part in ("", " with reading"):
            pairs = zip(speeds["backprop" + part], speeds["fasttext" + part])
            print(f"backprop / fasttext{part}: {statistics.median(a / b for a, b in pairs):.2f}x")


if __name__ == "__main__":
    main()
