"""The examples run without any data, on what they make up, and say so; with real data their readers find what they should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import backprop as bp

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DATA = Path(os.environ.get("BACKPROP_DATA", ROOT.parent / "shared" / "data"))


def run(name, folder, *arguments):
    """The output of an example that finds no data, run in `folder`."""
    path = os.pathsep.join(filter(None, [str(Path(bp.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "BACKPROP_DATA": str(folder / "nothing"), "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run([sys.executable, EXAMPLES / name, *arguments], cwd=folder, env=env, capture_output=True, text=True,
                         encoding="utf-8", timeout=120)
    assert run.returncode == 0, run.stderr
    assert "Data: " in run.stdout and "made-up" in run.stdout and str(folder / "nothing") in run.stdout
    return run.stdout


def test_ner_windows(tmp_path):
    out = run("ner_windows.py", tmp_path)
    for name in ("frozen", "fine-tuned"):
        (line,) = re.findall(rf"^{name} .*%.*$", out, re.MULTILINE)
        assert all(float(x) > 90 for x in re.findall(r"([\d.]+)%", line)), line
    assert "location" in out and "untouched" not in out and "training never touches" in out
    assert not list(tmp_path.iterdir())


def test_sentiment(tmp_path):
    out = run("sentiment.py", tmp_path)
    for name in ("frozen", "fine-tuned"):
        (line,) = re.findall(rf"^{name},.*$", out, re.MULTILINE)
        *splits, mean = [float(x) for x in re.findall(r"([\d.]+)%", line)]
        assert len(splits) == 5 and mean == pytest.approx(np.mean(splits), abs=0.01) and mean > 75
    assert not list(tmp_path.iterdir())


def test_tv_telly_television(tmp_path):
    out = run("tv_telly_television.py", tmp_path, "--out", "picture.svg")
    right = dict(re.findall(r"^(frozen|fine-tuned) .* (\d+) of 20$", out, re.MULTILINE))
    assert int(right["frozen"]) == 20 and int(right["fine-tuned"]) < 10
    svg = (tmp_path / "picture.svg").read_text("utf-8")
    assert svg.count(">television</text>") == svg.count(">tv</text>") == svg.count(">telly</text>") == 2
    # No name meets another: they stand on one line, as wide as the widest font of the list makes them.
    for panel in re.split(r"fine-tuned vectors", svg):
        names = re.findall(r'<text x="([\d.]+)" [^>]* font-weight="bold">(tv|telly|television)</text>', panel)
        spans = sorted((float(x) - 4.3 * len(word), float(x) + 4.3 * len(word)) for x, word in names)
        assert len(spans) == 3 and all(a[1] < b[0] for a, b in zip(spans, spans[1:], strict=False))


@pytest.mark.skipif(not (DATA / "vectors").is_dir(), reason="no word vectors in BACKPROP_DATA or ../shared/data")
def test_the_real_vectors():
    v = bp.WordVectors.load(DATA / "vectors" / "glove.6B.100d.subset.txt.gz")
    assert v.matrix.shape == (16_444, 100) and v.duplicates == 0
    assert v.nearest("television", 1)[0][0] == "tv" and "telly" in v
    assert v.analogy("man", "king", "woman", 1)[0][0] == "queen"
    again = bp.WordVectors.load(DATA / "vectors" / "glove.6B.100d.subset.txt.gz", vocabulary=["tv", "telly", "television"])
    assert list(again.words) == ["television", "tv", "telly"] and np.array_equal(again["tv"], v["tv"])
