"""``backprop bench``: its peers compute what we do, and what the command prints. No test looks at the clock."""

import numpy as np
import pytest
from test_cli import fails, run

from backprop import benchmark


@pytest.mark.parametrize("activation", benchmark.ACTIVATIONS)
@pytest.mark.parametrize("peer", [benchmark.ByHand, benchmark.Torch])
def test_a_peer_takes_the_same_steps(peer, activation):
    if peer is benchmark.Torch:
        pytest.importorskip("torch")
    step = benchmark.Step((6, 9, 7, 4), 12, activation)
    other, own = peer(step), benchmark.trainer(step)
    x, y = step.data()
    for _ in range(3):
        assert abs(own.step(x, y) - other()) < 1e-5
    for a, b in zip(own.net.parameters.values(), other.parameters, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


def test_flops_count_the_products():
    assert benchmark.Step((3, 5, 2), 7).flops == 2 * 7 * (2 * (15 + 10) + 10)


def test_ratios_are_by_burst():
    calls = []
    medians, ratios, rounds = benchmark.compare({"a": lambda: calls.append(1), "b": lambda: calls.append(2)}, 0.001)
    assert medians.keys() == ratios.keys() == {"a", "b"} and ratios["a"] == 1 and rounds >= 2 and 1 in calls and 2 in calls


def test_the_command(capsys, monkeypatch):
    arguments = ["bench", "--layers", "5,8,3", "--batch", 4, "--activation", "tanh", "--peers", "numpy", "--seconds", "0.01"]
    status, out, err = run(capsys, *arguments)  # in a process of its own
    assert status == 0 and err == "" and out.startswith("5-8-3 tanh batch 4, Adam") and "GFLOP/s" in out
    for name, value in benchmark.environment(1).items():
        monkeypatch.setenv(name, value)
    status, out, err = run(capsys, *arguments)
    assert status == 0 and err == "" and "\nnumpy " in out and "forward" in out and "update" in out and "matmul" in out


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert "torch is not installed: left out" in benchmark.report(benchmark.Step((2, 3, 2), 4), ["torch"], 1, 0.01)


def test_wrong_inputs(capsys):
    for option, value in [("--layers", "5"), ("--layers", "5,x"), ("--batch", "0"), ("--activation", "gelu"), ("--peers", "jax"),
                          ("--threads", "0"), ("--seconds", "0"), ("--seconds", "nan")]:  # fmt: skip
        assert option in fails(capsys, "bench", option, value)
