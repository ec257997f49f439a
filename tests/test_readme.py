"""The README keeps what it promises: its quick start runs, and the names in it exist."""

import re
from pathlib import Path

import pytest

import backprop as bp

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def readme():
    return README.read_text(encoding="utf-8")


def test_quick_start_runs(readme, tmp_path, monkeypatch, capsys):
    code, _ = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["trainer"].evaluate(names["X_test"], names["y_test"])["accuracy"] > 0.95
    assert bp.metrics.accuracy(names["net"].predict(names["X_test"]), names["y_test"]) > 0.95
    assert "accuracy" in capsys.readouterr().out


def test_many_models_at_once_runs(readme, capsys):
    _, code = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {}
    exec(code, names)
    assert max(max(history["valid_accuracy"]) for history in names["histories"]) > 0.95
    assert capsys.readouterr().out.startswith("{16: 0.")


def test_names_exist(readme):
    spoken = set(re.findall(r"\bbp\.(\w+(?:\.\w+)?)", readme))
    assert len(spoken) > 8
    for name in spoken:
        owner = bp
        for part in name.split("."):
            owner = getattr(owner, part)
    table = readme.split("## What there is")[1].split("## Numbers")[0]
    for row, home in (("Layers", bp), ("Optimisers", bp), ("Learning rates", bp.schedules)):
        (cells,) = re.findall(rf"^\| {row} \| (.*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`([A-Z]\w+)`", cells):
            assert hasattr(home, name), name
    (cells,) = re.findall(r"^\| Activations \| (.*?), or a function", table, re.MULTILINE)
    known = {*bp.functions.ACTIVATIONS, "prelu"}
    assert {name.split()[0] for name in cells.split(", ")} == known - {"identity", "linear", "logistic", "swish"}


def test_files_that_are_named_exist(readme):
    layout = readme.split("## How the house is laid out")[1]
    root = README.parent
    for name in set(re.findall(r"\b\w+\.(?:py|pyx|c|h|def)\b", layout)):
        assert any((root / folder / name).exists() for folder in ("csrc", "backprop", "tests")), name
