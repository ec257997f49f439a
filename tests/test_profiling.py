"""The profile of a step: it names every instruction, and leaves training alone. How long anything takes is no test's business."""

import numpy as np
import pytest

import backprop as bp

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)


def trainer(**more):
    layers = [bp.Dense(8, "relu"), bp.BatchNorm(), bp.Dropout(0.2), bp.Dense(3)]
    return bp.Trainer(bp.Sequential(layers, seed=1), optimizer=bp.Adam(1e-2), seed=2, **more)


@pytest.mark.parametrize("more", [{}, {"clip_norm": 1.0, "ema": 0.9}, {"fuse": False}])
def test_training_goes_on_as_if_there_had_been_no_profile(more):
    alone, watched = trainer(**more), trainer(**more)
    for _ in range(3):
        alone.step(X, Y)
        bp.profile(watched, X, Y, repeats=2)
        watched.step(X, Y)
    for a, b in ((alone.net.flat_parameters, watched.net.flat_parameters), (alone.net.flat_buffers, watched.net.flat_buffers),
                 (alone.state, watched.state)):
        assert a.tobytes() == b.tobytes()
    assert alone.t == watched.t == 3


def test_every_instruction_has_its_row_and_phase():
    t = bp.Trainer(bp.Sequential([bp.Dense(8, "relu"), bp.Dense(3)], seed=1), optimizer=bp.Adam())
    t.step(X, Y)
    profile = bp.profile(t, X, Y, repeats=3)
    assert [r.text for r in profile.rows] == [line.strip() for line in t.describe(40).splitlines()]
    check = next(i for i, r in enumerate(profile.rows) if " check " in r.text)
    phases = [r.phase for r in profile.rows]
    assert set(phases[:check + 1]) == {"forward"} and set(phases[check + 1:]) == {"backward", "update"}
    assert all((r.phase == "update") == ("@parameters" in r.text or "@state" in r.text) for r in profile.rows)
    assert phases.count("update") == 4 and all(r.seconds >= 0 for r in profile.rows)
    assert sum(profile.phases().values()) == pytest.approx(profile.seconds)
    lines = str(profile).splitlines()
    assert len(lines) == len(profile.rows) + 2 and "forward" in lines[-1] and "in one go" in lines[-1]


def test_blocks_of_rows_are_one_row_with_all_that_they_run():
    t = bp.Trainer(bp.Sequential([bp.Dense(32, "tanh"), bp.Dense(16, "tanh"), bp.Dense(4)], seed=0), loss="squared_error")
    x, y = rng.normal(size=(10_000, 4)), rng.normal(size=(10_000, 4))
    t.step(x, y)
    profile = bp.profile(t, x, y, repeats=1)
    assert sum(" row_blocks " in f" {r.text} " for r in profile.rows) == 1
    assert len(profile.rows) < len(t.describe(10_000).splitlines())


def test_wrong_arguments_and_a_loss_that_is_not_finite():
    with pytest.raises(TypeError, match=r"trainer must be a bp.Trainer, got Sequential"):
        bp.profile(bp.Sequential([bp.Dense(3)]), X, Y)
    for repeats in (0, 1.5, True):
        with pytest.raises(ValueError, match="repeats"):
            bp.profile(trainer(), X, Y, repeats=repeats)
    t = trainer()
    t.step(X, Y)
    t.net.flat_parameters[...] = np.inf
    with pytest.raises(bp.NonFiniteError):
        bp.profile(t, X, Y)
