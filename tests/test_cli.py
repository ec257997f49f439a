"""The command line, in this process: what it prints, what it writes, and how it fails."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import backprop as bp
from backprop import files
from backprop.__main__ import main

RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(capsys, *args):
    status = main(list(map(str, args)))
    out, err = capsys.readouterr()
    return status, out, err


def fails(capsys, *args):
    """The one line that a command which cannot work prints."""
    try:
        status, out, err = run(capsys, *args)
    except SystemExit as e:  # argparse
        status, (out, err) = e.code, capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and err.startswith("backprop"), (status, out, err)
    return err


def write(name, rows):
    with open(name, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)


def read(name):
    with open(name, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def fruit(n=150):
    """A class from two numbers and a text, with missing cells and a column that tells nothing."""
    rows = [["weight", "skin, colour", "id", "kind", "size"]]
    for i in range(n):
        kind = ["apple", "pear", "kiwi, green"][i % 3]
        colour = {"apple": "red", "pear": "green", "kiwi, green": ""}[kind] if i % 4 else "spotted"
        weight = "" if i % 17 == 5 else f"{[100, 140, 180][i % 3] + RNG.normal() * 8:.3f}"
        rows.append([weight, colour, f"no {i}", "" if i == 7 else kind, f"{1e4 * RNG.normal():.1f}"])
    return rows


def test_classification(capsys):
    write("fruit.csv", fruit())
    status, out, err = run(capsys, "train", "fruit.csv", "--target", "kind", "--hidden", "16", "--epochs", 60, "--out", "m")
    assert status == 0 and err == ""
    assert "classification of 'kind' into 3 classes: apple, kiwi, green, pear" in out
    assert "119 to train on, 30 held out; 1 without a target left out" in out
    assert "left out, too many values: id" in out and "6-16-3, relu" in out
    assert float(out.split("held-out part")[1].split()[1]) > 0.9

    rows = fruit()
    write("new.csv", [[row[i] for i in (3, 1, 4, 0)] for row in rows])  # other order, without a column that was left out
    status, out, err = run(capsys, "predict", "m", "new.csv", "--out", "p.csv")
    assert (status, out, err) == (0, "", "")
    predictions = read("p.csv")
    assert len(predictions) == 150
    assert np.mean([p["prediction"] == row[3] for p, row in zip(predictions, rows[1:])]) > 0.9
    for p in predictions:
        probabilities = {k.removeprefix("probability "): float(v) for k, v in p.items() if k != "prediction"}
        assert probabilities.keys() == {"apple", "pear", "kiwi, green"} and abs(sum(probabilities.values()) - 1) < 1e-5
        assert max(probabilities, key=probabilities.get) == p["prediction"]
    assert run(capsys, "predict", "m", "new.csv")[1] == Path("p.csv").read_text()
    assert bp.load("m").predict(np.zeros((1, 6))).shape == (1, 3)  # the same file, as any network


def test_unknown_and_missing_cells(capsys):
    write("fruit.csv", fruit())
    run(capsys, "train", "fruit.csv", "--target", "kind", "--epochs", 2, "--out", "m")
    write("new.csv", [["skin, colour", "weight", "size"], ["blue", "", "1"], ["", "150", ""]])
    status, out, err = run(capsys, "predict", "m", "new.csv")
    assert status == 0 and out.count("\n") == 3 and "nan" not in out
    assert "'skin, colour': 1 of 2 values did not occur in training" in err


def test_regression(capsys):
    x = RNG.normal(size=(200, 2)) * [10, 0.1]
    y = 5000 + 30 * x[:, 0] - 4000 * x[:, 1]
    write("r.csv", [["a", "b", "price"], *np.column_stack([x, y]).tolist()])
    status, out, err = run(capsys, "train", "r.csv", "--target", "price", "--hidden", "none", "--lr", "0.05", "--epochs", 40)
    assert status == 0 and "regression of 'price'" in out and "model          r.safetensors" in out
    words = out.split("held-out part")[1].split()
    assert words[0] == "RMSE" and float(words[1].strip(",")) < 30 and words[2] == "R2" and float(words[3]) > 0.99
    run(capsys, "predict", "r.safetensors", "r.csv", "--out", "p.csv")
    p = np.array([float(row["prediction"]) for row in read("p.csv")])
    assert np.abs(p - y).max() < 100  # in units of the target, whose spread is 500


@pytest.mark.parametrize("values, task", [([0, 1], "classification"), (range(20), "classification"), (range(21), "regression"),
                                          ([0.5, 1.5], "regression"), (["0", "1", "many"], "classification")])  # fmt: skip
def test_the_task_is_found(capsys, values, task):
    write("t.csv", [["x", "y"], *[[i, list(values)[i % len(values)]] for i in range(84)]])
    assert run(capsys, "train", "t.csv", "--target", "y", "--epochs", 1)[1].startswith(f"task           {task} of 'y'")
    other = "regression" if task == "classification" else "classification"
    if "many" not in list(values):
        assert f"{other} of 'y'" in run(capsys, "train", "t.csv", "--target", "y", "--epochs", 1, "--task", other)[1]
    else:
        assert "line 4, column 'y': 'many' is not a number" in fails(capsys, "train", "t.csv", "--target", "y", "--task", other)


def test_same_seed_same_file(capsys):
    write("fruit.csv", fruit(60))
    options = ["train", "fruit.csv", "--target", "kind", "--epochs", 3, "--dropout", 0.3, "--activation", "tanh", "--validation", 0]
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        assert "0 held out" in run(capsys, *options, "--seed", seed, "--out", name)[1]
    assert Path("a").read_bytes() == Path("b").read_bytes() != Path("c").read_bytes()


def test_demo(capsys):
    status, out, err = run(capsys, "demo", "--out", "digits.safetensors")
    assert status == 0 and err == ""
    lines = out.splitlines()
    epochs = [line for line in lines if line.strip()[:1].isdigit() and line.endswith("%")]
    assert len(epochs) == 30 and len({len(line) for line in epochs}) == 1
    accuracy = float(out.split("are read right: ")[1].split("%")[0])
    assert accuracy >= 97
    seconds = float(out.split("after ")[1].split()[0])
    assert seconds < 10
    assert f"{[r['name'] for r in bp._core.isa_info() if r['current']][0]} instructions, " in out and "thread" in out
    X, y = bp.data.digits()
    _, held, _, labels = bp.data.train_test_split(X, y, test_fraction=0.2, stratify=y)
    assert f"{bp.metrics.accuracy(bp.load('digits.safetensors').predict(held), labels):.2%}" == f"{accuracy:.2f}%"
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        assert "not drawn" in out and not os.path.exists("digits.png")
    else:
        assert lines[-1].endswith("digits.png") and Path("digits.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_demo_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = run(capsys, "demo", "--epochs", 1)
    assert status == 0 and "matplotlib is not installed" in out and os.listdir() == ["backprop-demo.safetensors"]


def test_info(capsys):
    status, out, err = run(capsys, "info")
    assert status == 0 and err == "" and out.startswith(f"backprop {bp.__version__}") and np.__version__ in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[3:-2]}
    for r in bp._core.isa_info():
        assert rows[r["name"]] == ["yes" if r[k] else "no" for k in ("compiled", "supported", "current")]
    assert f"threads: {bp._core.threads_get()} (" in out


def test_as_a_program():
    env = {**os.environ, "PYTHONPATH": str(Path(bp.__file__).parent.parent)}
    command = [sys.executable, "-m", "backprop"]
    done = subprocess.run([*command, "predict", "none", "none.csv"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and done.stderr == "backprop predict: none: No such file or directory\n"
    done = subprocess.run([*command, "--version"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == f"backprop {bp.__version__}\n"


@pytest.mark.parametrize("command", [[], ["demo"], ["train"], ["predict"], ["info"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as e:
        main([*command, "--help"])
    out = capsys.readouterr().out
    assert e.value.code == 0 and "usage: backprop" in out
    for option in {"train": ["--target", "--hidden", "--validation", "--task", "missing"], "demo": ["--out"]}.get("".join(command), []):
        assert option in out


def test_errors(capsys):
    write("fruit.csv", fruit(60))
    train = ["train", "fruit.csv", "--target"]
    assert "no column 'x'; there are 'weight', 'skin, colour'" in fails(capsys, *train, "x")
    assert "'id' has 60 different values in 60 rows" in fails(capsys, *train, "id")
    for rows, words in [
        ([["a", "b"], [1, 2], [3, 2]], "the same value in every row"),
        ([["a", "b"], *[[f"n{i}", i % 2] for i in range(300)]], "no column is left"),
        ([["a", "b"], [1, 2], ["inf", 3], [4, 5]], "line 3, column 'a': inf"),
        ([["a", "b"], [1, 2], [3]], "bad.csv: line 3 has 1 cells"),
        ([["a", "b"], [1, ""], [3, ""]], "column 'b' is empty"),
        ([["b"], [1], [2]], "no column besides 'b'"),
    ]:
        write("bad.csv", rows)
        assert words in fails(capsys, "train", "bad.csv", "--target", "b")
    assert "leaves one part empty" in fails(capsys, *train, "kind", "--validation", "0.001")
    assert "not finite" in fails(capsys, *train, "kind", "--lr", "1e30")
    for option, value in [("--epochs", "0"), ("--epochs", "x"), ("--lr", "0"), ("--lr", "nan"), ("--dropout", "1"), ("--hidden", "3,x"),
                          ("--validation", "1"), ("--activation", "exec"), ("--task", "other"), ("--seed", "-1")]:  # fmt: skip
        assert f"argument {option}" in fails(capsys, *train, "kind", option, value)
    assert "required" in fails(capsys)
    assert "invalid choice" in fails(capsys, "fly")
    assert "No such file" in fails(capsys, *train, "kind", "--epochs", 1, "--out", "no/such/folder")
    assert not [name for name in os.listdir() if not name.endswith(".csv")]


def test_errors_of_predict(capsys):
    write("fruit.csv", fruit(60))
    run(capsys, "train", "fruit.csv", "--target", "kind", "--epochs", 1, "--out", "m")
    write("new.csv", [["weight", "colour"], [1, "red"]])
    assert "new.csv: no column 'skin, colour', 'size'; there are 'weight', 'colour'" in fails(capsys, "predict", "m", "new.csv")
    write("new.csv", [["weight", "skin, colour", "size"], [1, "red", 2], ["heavy", "red", 2]])
    assert "new.csv: line 3, column 'weight': 'heavy' is not a number" in fails(capsys, "predict", "m", "new.csv", "--out", "p")
    assert "fruit.csv: " in fails(capsys, "predict", "fruit.csv", "fruit.csv")
    bp.Sequential([bp.Input(3), bp.Dense(2)]).save("net")
    assert "no model of `backprop train`" in fails(capsys, "predict", "net", "fruit.csv")
    assert not os.path.exists("p")


@pytest.mark.parametrize("change", [
    ('"version":1', '"version":2'), ('"mean":', '"meen":'), ('"scale":', '"scale":-'), ('"classes":[', '"classes":[1,'), ('{', '[{'),
    ('"values":["",', '"values":["","new",'), ('"columns":[', '"columns":[[],'), ('"target":', '"goal":'), ('"mean":', '"mean":1e999,"m":'),
])  # fmt: skip
def test_a_damaged_model(capsys, change):
    write("fruit.csv", fruit(60))
    run(capsys, "train", "fruit.csv", "--target", "kind", "--epochs", 1, "--out", "m")
    tensors, metadata = files.read_tensors("m")
    assert change[0] in metadata["table"]
    files.write_tensors("m", tensors, {**metadata, "table": metadata["table"].replace(*change, 1)})
    assert fails(capsys, "predict", "m", "fruit.csv").startswith("backprop predict: m: ")
