"""TV, telly and television: what fine-tuning word vectors on few words does to the words it does not see.

A classifier of words, things at home against press and cinema, is trained on words with *tv* and *telly* among the things at
home; *television* is not in the data. Pre-trained, it lies close to *tv*. With frozen vectors the boundary moves until *tv* is
on the right side of it, and *television* is there too. With fine-tuned vectors *tv* and *telly* move away instead, and
*television* stays behind.

    python examples/tv_telly_television.py [--data FOLDER] [--out PICTURE.svg]

FOLDER holds vectors/glove.6B.100d.subset.txt.gz; without the argument it is what BACKPROP_DATA says, else ../shared/data beside
the checkout. Where there is no such folder it runs on vectors made up here.
"""

import argparse
import os
from pathlib import Path

import numpy as np

import backprop as bp

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SEEN, UNSEEN = ["tv", "telly"], "television"
HOME = "chair table oven carpet bed mirror desk clock rug furniture kitchen bathroom blanket basket bowl".split()
PRESS = ("newspaper magazine press journalist film cinema movie theater documentary novel book radio article editor "
         "reporter").split()
SEEDS = 20


def made_up():
    """Vectors of the same words in 30 dimensions: two groups, and the three words together, nearer to the press."""
    rng = np.random.default_rng(1)
    home, press, tv = rng.normal(size=(3, 30)) * 0.5
    groups = [(HOME, home, 0.5), (PRESS, press, 0.5), ([*SEEN, UNSEEN], 0.8 * press + 0.2 * home + 0.6 * tv, 0.15)]
    matrix = [centre + spread * rng.normal(size=(len(words), 30)) for words, centre, spread in groups]
    return bp.WordVectors([w for words, _, _ in groups for w in words], np.concatenate(matrix))


def trained(vectors, trainable, seed):
    """A logistic classifier of words, trained on all but `UNSEEN`."""
    words = SEEN * 4 + HOME + PRESS  # tv and telly are common words
    labels = np.array([1.0] * (4 * len(SEEN) + len(HOME)) + [0.0] * len(PRESS))
    net = bp.Sequential([bp.Input(dtype="int32"), bp.Embedding(weights=vectors, trainable=trainable), bp.Dense(1)], seed=seed)
    trainer = bp.Trainer(net, loss="binary_cross_entropy", optimizer=bp.Adam(0.01), seed=seed)
    trainer.fit(vectors.ids(words), labels, epochs=60, batch_size=8, progress=False)
    return net


# ---------------------------------------------------------------------------------------------------- the picture

WIDTH, HEIGHT = 430, 370  # of a panel
COLOURS = {"home": "#1b7f4b", "press": "#7a5195", "television": "#d1495b"}


def places(net, vectors):
    """Where the words lie, before and after training, (words, 2) twice: across, the distance from the boundary; upwards, the
    direction in which the words differ most among those that do not matter to the classifier."""
    w, b = (net.parameters[f"1.{name}"].astype(float).reshape(-1) for name in ("weight", "bias"))
    unit = w / np.linalg.norm(w)
    flat = vectors.matrix - vectors.matrix @ unit[:, None] * unit
    up = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][0]
    up *= np.sign(up[np.abs(up).argmax()])
    return [np.stack([(m @ w + b[0]) / np.linalg.norm(w), m @ up], axis=1) for m in (vectors.matrix, net.parameters["0.weight"])]


def panel(title, net, vectors, left):
    """One classifier as SVG: a dot for each word, coloured by its class, a line from where its vector was."""
    before, after = places(net, vectors)
    both = np.concatenate([before, after])
    low, high = both.min(axis=0), both.max(axis=0)
    high[0] = np.abs(both[:, 0]).max()
    low[0] = -high[0]  # the boundary is in the middle
    top, bottom, middle, half = 62, HEIGHT - 16, left + WIDTH / 2, WIDTH / 2 - 14

    def at(point):
        x, y = (point - low) / (high - low)
        return middle + (2 * x - 1) * (half - 30), bottom - 18 - y * (bottom - top - 68)

    def text(x, y, words, anchor, colour, style=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {style}>{words}</text>'

    out = [text(middle, 24, title, "middle", "black", 'font-size="16" font-weight="bold"')]
    sides = [(middle - half, "#f4eff7", "press and cinema", "press"), (middle, "#eaf5ee", "at home", "home")]
    for x, fill, words, colour in sides:
        out.append(f'<rect x="{x:.1f}" y="{top}" width="{half:.1f}" height="{bottom - top}" fill="{fill}"/>')
        out.append(text(x + half / 2, top - 10, f"taken for: {words}", "middle", COLOURS[colour]))
    out.append(f'<line x1="{middle}" y1="{top + 28}" x2="{middle}" y2="{bottom}" stroke="#444" stroke-dasharray="5 4"/>')
    named = []
    for i, word in enumerate(vectors.words):
        colour = COLOURS["television" if word == UNSEEN else "press" if word in PRESS else "home"]
        marked = word in (*SEEN, UNSEEN)
        (x0, y0), (x, y) = at(before[i]), at(after[i])
        if np.hypot(x - x0, y - y0) > 1:
            out.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x:.1f}" y2="{y:.1f}" stroke="{colour}" '
                       f'stroke-width="{2 if marked else 1}" opacity="{0.9 if marked else 0.3}"/>')
            out.append(f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="{3 if marked else 2}" fill="white" stroke="{colour}"/>')
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if marked else 3.5}" fill="{colour}"/>')
        if marked:
            named.append((x, y, word, colour))
    # The names stand side by side in a band above all dots, in the order of their dots, a thin line down to each.
    named.sort()
    width = [9 * len(word) + 8 for *_, word, _ in named]
    start = middle - half
    for k, (x, y, word, colour) in enumerate(named):
        w = width[k]
        start = max(start, min(x - w / 2, middle + half - sum(width[k:])))
        out.append(text(start + w / 2, top + 19, word, "middle", colour, 'font-weight="bold"'))
        out.append(f'<line x1="{start + w / 2:.1f}" y1="{top + 25}" x2="{x:.1f}" y2="{y:.1f}" stroke="{colour}" '
                   'stroke-width="0.8"/>')
        start += w
    return out


def picture(nets, vectors):
    """Both classifiers side by side, as SVG."""
    panels = [line for i, (name, net) in enumerate(nets.items()) for line in panel(f"{name} vectors", net, vectors, i * WIDTH)]
    note = "filled: the vector after training; ring and line: where it was; across: the distance from the classifier's boundary"
    width, height = 2 * WIDTH, HEIGHT + 14
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>', *panels,
        f'<text x="{WIDTH}" y="{HEIGHT + 4}" text-anchor="middle" font-size="12" fill="#444">{note}</text>', "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("BACKPROP_DATA", BESIDE), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default="backprop-tv-telly-television.svg", metavar="PICTURE.svg")
    options = parser.parse_args()
    file = Path(options.data) / "vectors" / "glove.6B.100d.subset.txt.gz"
    words = [*SEEN, UNSEEN, *HOME, *PRESS]
    vectors = bp.WordVectors.load(file, vocabulary=words) if file.is_file() else made_up()
    print(f"Data: {f'the vectors in {file}' if file.is_file() else f'made-up vectors (there is no {file})'}")
    vectors = vectors.subset(words)
    print("Nearest to television:", ", ".join(f"{word} {cosine:.2f}" for word, cosine in vectors.nearest(UNSEEN, 4)))
    print(bp.untouched_words(vectors, vectors.ids([*SEEN, *HOME, *PRESS])), end="\n\n")

    print(f"{SEEDS} trainings each        probability of \"at home\"          how far the vector moved     television right")
    print("                     tv     telly  television        tv     telly  television")
    shown, ids = {}, vectors.ids([*SEEN, UNSEEN])
    for name in ("frozen", "fine-tuned"):
        nets = [trained(vectors, name == "fine-tuned", seed) for seed in range(SEEDS)]
        p = np.array([1 / (1 + np.exp(-net.predict(ids)[:, 0])) for net in nets])
        moved = np.mean([np.linalg.norm(net.parameters["0.weight"] - vectors.matrix, axis=1)[ids] for net in nets], axis=0)
        cells = "  ".join(f"{value:7.3f}" for value in p.mean(axis=0)), "  ".join(f"{value:7.2f}" for value in moved)
        print(f"{name:14s}  {cells[0]}       {cells[1]}        {(p[:, 2] > 0.5).sum():8d} of {SEEDS}")
        shown[name] = nets[0]
    options.out.write_text(picture(shown, vectors), encoding="utf-8")
    print(f"\nThe first of each: {options.out}")


if __name__ == "__main__":
    main()
