"""Named entities from windows: is the word in the middle part of a person's name, a place, a product ...?

Each word with two neighbours on each side: their vectors side by side, what their spelling shows beside them (capitals are lost
where vectors are of lower-cased words), a hidden layer, and a softmax over the tags. Trains on the tweets and posts of WNUT 2017
(Derczynski et al.), once with the pre-trained vectors frozen and once fine-tuned, and reports precision, recall and F1 of whole
entities. The epoch that does best on the development part is kept. The task is hard: its test part has hardly an entity of the
training part.

    python examples/ner_windows.py [--data FOLDER]

FOLDER holds wnut17/train.conll, dev.conll, test.conll and vectors/glove.6B.100d.subset.txt.gz; without the argument it is what
BACKPROP_DATA says, else ../shared/data beside the checkout. Where there is no such folder it runs on sentences made up here.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import backprop as bp

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = 2  # neighbours on each side
EPOCHS = {"frozen": 9, "fine-tuned": 6}


def read_conll(path):
    """-> (sentences as lists of tokens, their tags)."""
    sentences, tags = [[]], [[]]
    for line in path.read_text("utf-8").splitlines():
        token, _, tag = line.partition("\t")
        if token.strip():
            sentences[-1].append(token)
            tags[-1].append(tag)
        elif sentences[-1]:
            sentences.append([])
            tags.append([])
    return [s for s in sentences if s], [t for t in tags if t]


def real(folder):
    """-> ({part: (sentences, tags)}, vectors)."""
    parts = {part: read_conll(folder / "wnut17" / f"{part}.conll") for part in ("train", "dev", "test")}
    return parts, bp.WordVectors.load(folder / "vectors" / "glove.6B.100d.subset.txt.gz")


def made_up():
    """The same: people go to places, half of them unseen in training, and vectors that lie together by kind."""
    rng = np.random.default_rng(0)
    kinds = {"person": [f"name{i}" for i in range(40)], "location": [f"town{i}" for i in range(40)],
             "verb": ["sees", "likes", "leaves", "visits"], "other": ["we", "think", "that", "often", ".", "and", "today"]}
    words = [w for group in kinds.values() for w in group]
    centre = np.repeat(rng.normal(size=(4, 20)), [len(group) for group in kinds.values()], axis=0)
    vectors = bp.WordVectors(words, centre + 0.7 * rng.normal(size=(len(words), 20)))

    def sentence(known):
        person, town = (rng.choice(kinds[k][:20] if known else kinds[k]).capitalize() for k in ("person", "location"))
        start = [["we", "think", "that"], ["often"], ["today"]][rng.integers(3)]
        tokens = [*start, person, "Smith", str(rng.choice(kinds["verb"])), town, "."]
        return tokens, ["O"] * len(start) + ["B-person", "I-person", "O", "B-location", "O"]

    sizes = {"train": 300, "dev": 60, "test": 60}
    return {part: tuple(zip(*(sentence(part == "train") for _ in range(n)), strict=True)) for part, n in sizes.items()}, vectors


def spelling(word):
    """What a word's letters show, as numbers."""
    rest = word[1:]
    return [word[:1].isupper(), word.isupper() and len(word) > 1, any(map(str.isupper, rest)) and not word.isupper(),
            word.islower(), any(map(str.isdigit, word)), not any(map(str.isalnum, word)), len(word) <= 2,
            word.startswith("@"), word.startswith("#"), word.startswith("http")]


def prepared(sentences, vectors):
    """Windows of word numbers (n, 5), and of spellings (n, 5 x 10)."""
    ids = bp.windows([[word.lower() for word in sentence] for sentence in sentences], SIZE, vocabulary=vectors).ids
    table = np.array([[0] * 10, *(spelling(word) for sentence in sentences for word in sentence)], np.float32)
    ends = np.cumsum([len(sentence) for sentence in sentences])
    rows = [range(end - len(sentence) + 1, end + 1) for sentence, end in zip(sentences, ends, strict=True)]  # 0 is padding
    return [ids, table[bp.windows(rows, SIZE, pad=0).ids].reshape(len(ids), -1)]


def network(vectors, n_tags, trainable):
    words, letters = bp.Input(2 * SIZE + 1, dtype="int32"), bp.Input((2 * SIZE + 1) * 10)
    vectors = bp.Flatten()(bp.Embedding(weights=vectors, padding=vectors.padding, trainable=trainable)(words))
    x = bp.Dropout(0.25)(bp.concatenate([vectors, letters], axis=1))
    x = bp.Dropout(0.5)(bp.Dense(128, "relu")(x))
    return bp.Network([words, letters], bp.Dense(n_tags)(x), seed=0)


def predicted_tags(net, x, tags, names):
    """The tags of each sentence as the network sees them; `tags` gives the lengths."""
    best = iter(net.predict(x).argmax(axis=1))
    return [[names[next(best)] for _ in sentence] for sentence in tags]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("BACKPROP_DATA", BESIDE), metavar="FOLDER")
    folder = Path(parser.parse_args().data)
    found = (folder / "wnut17").is_dir() and (folder / "vectors").is_dir()
    parts, vectors = real(folder) if found else made_up()
    print(f"Data: {f'WNUT 2017 in {folder}' if found else f'made-up sentences (no wnut17/ and vectors/ in {folder})'}")
    vectors = vectors.with_special()
    names = sorted({tag for sentence in parts["train"][1] for tag in sentence}, key=lambda tag: (tag != "O", tag))
    x = {part: prepared(sentences, vectors) for part, (sentences, _) in parts.items()}
    y = np.array([names.index(tag) for sentence in parts["train"][1] for tag in sentence])
    for part, (sentences, tags) in parts.items():
        entities = sum(len(bp.metrics.entities(sentence)) for sentence in tags)
        print(f"  {part:5s} {len(sentences):6,} sentences {len(x[part][0]):7,} words {entities:6,} entities")
    loss = bp.losses.CrossEntropy(class_weight=[1.0] + [4.0] * (len(names) - 1))  # entities are rare

    print("\nentities           dev: precision   recall       F1    test: precision   recall       F1")
    best = {}
    for name, epochs in EPOCHS.items():
        started = time.perf_counter()
        net = network(vectors, len(names), name == "fine-tuned")
        trainer = bp.Trainer(net, loss=loss, optimizer=bp.Adam(1e-3), seed=0)
        kept = None
        for epoch in range(1, epochs + 1):
            trainer.fit(x["train"], y, batch_size=64, progress=False)
            dev = bp.metrics.entity_f1(parts["dev"][1], predicted_tags(net, x["dev"], parts["dev"][1], names))
            if kept is None or dev["f1"] > kept[1]["f1"]:
                test = bp.metrics.entity_f1(parts["test"][1], predicted_tags(net, x["test"], parts["test"][1], names))
                kept = epoch, dev, test
        epoch, *scores = best[name] = kept
        numbers = "".join(f"{s['precision']:>{width}.1%} {s['recall']:8.1%} {s['f1']:8.1%}"
                          for s, width in zip(scores, (16, 18), strict=True))
        print(f"{name:14s}{numbers}    epoch {epoch} of {epochs}, {time.perf_counter() - started:.0f} s")

    better = max(best, key=lambda name: best[name][1]["f1"])
    print(f"\n{better}, on the test part by type:")
    for kind, s in best[better][2]["types"].items():
        print(f"  {kind:14s} F1 {s['f1']:6.1%} of {s['support']:4,}")
    print()
    print(bp.untouched_words(vectors, x["train"][0][:, SIZE], x["test"][0][:, SIZE]))


if __name__ == "__main__":
    main()
