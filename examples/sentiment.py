"""Is a film review kind or unkind? The mean of its words' vectors, and a hidden layer.

Trains on the one-line movie reviews of Pang and Lee (2005) with a tenth held out, five times over, once with the pre-trained
vectors frozen and once fine-tuned.

    python examples/sentiment.py [--data FOLDER]

FOLDER holds movie_reviews/rt-polarity.pos, .neg and vectors/glove.6B.100d.subset.txt.gz; without the argument it is what
BACKPROP_DATA says, else ../shared/data beside the checkout. Where there is no such folder it runs on a few reviews made up here.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import backprop as bp

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SPLITS = 5
SETTINGS = {"frozen": {"epochs": 16, "dropout": 0.0}, "fine-tuned": {"epochs": 10, "dropout": 0.3}}


def real(folder):
    """-> (reviews as lists of words, 1 where they are kind, vectors)."""
    reviews, kind = [], []
    for label, name in enumerate(["neg", "pos"]):
        lines = (folder / "movie_reviews" / f"rt-polarity.{name}").read_text("utf-8").splitlines()
        reviews += [line.split() for line in lines]
        kind += [label] * len(lines)
    return reviews, np.array(kind), bp.WordVectors.load(folder / "vectors" / "glove.6B.100d.subset.txt.gz")


def made_up():
    """The same of 400 reviews: four words of a mood, two of its opposite, and others."""
    rng = np.random.default_rng(0)
    moods = [[f"{mood}{i}" for i in range(60)] for mood in ("dull", "fine")]
    others = [f"word{i}" for i in range(200)]
    kind = rng.integers(0, 2, 400)
    reviews = [[*rng.choice(moods[k], 4), *rng.choice(moods[1 - k], 2), *rng.choice(others, 8)] for k in kind]
    words = [*moods[0], *moods[1], *others]
    leaning = np.repeat([-0.3, 0.3, 0.0], [60, 60, 200])  # words of a mood lie a little to its side
    return reviews, kind, bp.WordVectors(words, rng.normal(size=(320, 20)) * 0.5 + leaning[:, None])


def padded(reviews, vectors):
    """Rows of word numbers, int32 (n, longest)."""
    ids = np.full((len(reviews), max(map(len, reviews))), vectors.padding, np.int32)
    for row, review in zip(ids, reviews, strict=True):
        row[: len(review)] = vectors.ids(review)
    return ids


def network(vectors, width, trainable, dropout, seed):
    return bp.Sequential(
        [
            bp.Input(width, dtype="int32"),
            bp.EmbeddingBag(weights=vectors, mode="mean", padding=vectors.padding, trainable=trainable),
            bp.Dropout(dropout),
            bp.Dense(64, "relu"),
            bp.Dropout(0.5),
            bp.Dense(2),
        ],
        seed=seed,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("BACKPROP_DATA", BESIDE), metavar="FOLDER")
    folder = Path(parser.parse_args().data)
    found = (folder / "movie_reviews").is_dir() and (folder / "vectors").is_dir()
    reviews, kind, vectors = real(folder) if found else made_up()
    where = f"the movie reviews in {folder}" if found else f"400 made-up reviews (no movie_reviews/ and vectors/ in {folder})"
    vectors = vectors.with_special()
    ids = padded(reviews, vectors)
    print(f"Data: {where}\n{len(reviews):,} reviews, vectors {len(vectors):,} x {vectors.dim}, "
          f"{(ids == vectors.unknown).sum() / (ids != vectors.padding).sum():.1%} of the words have none\n")

    accuracy = {"frozen": [], "fine-tuned": []}
    started = time.perf_counter()
    for split in range(SPLITS):
        train, test, kind_train, kind_test = bp.data.train_test_split(ids, kind, test_fraction=0.1, stratify=kind, seed=split)
        for name, results in accuracy.items():
            net = network(vectors, ids.shape[1], name == "fine-tuned", SETTINGS[name]["dropout"], split)
            trainer = bp.Trainer(net, optimizer=bp.Adam(1e-3), seed=split)
            trainer.fit(train, kind_train, epochs=SETTINGS[name]["epochs"], batch_size=32, progress=False)
            results.append(trainer.evaluate(test, kind_test)["accuracy"])

    print(f"accuracy on the held-out tenth   {'  '.join(f'split {i + 1}' for i in range(SPLITS))}     mean")
    for name, results in accuracy.items():
        epochs = f"{name}, {SETTINGS[name]['epochs']} epochs"
        print(f"{epochs:31s}  {'  '.join(f'{a:7.2%}' for a in results)}  {np.mean(results):7.2%}")
    print(f"\n{2 * SPLITS} trainings in {time.perf_counter() - started:.1f} s. The last split's words:")
    print(bp.untouched_words(vectors, train, test))
    better = max(accuracy, key=lambda name: np.mean(accuracy[name]))
    print(f"That is the rule of thumb; on these data the better one is: {better}.")


if __name__ == "__main__":
    main()
