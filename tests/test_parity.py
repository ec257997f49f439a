"""Parity with PyTorch: the same initial weights and batches give the same parameters after 100 steps.

Every optimiser, loss and activation is compared with a stored trajectory of PyTorch's. Where PyTorch is installed the same is made
again, which shows that the stored ones are its own and that float32 agrees with its float32.
"""

import numpy as np
import pytest

import backprop as bp
import make_trajectories as reference

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
RUNS = [(loss, activation) for loss in reference.LOSSES for activation in reference.ACTIVATIONS]


@pytest.fixture(scope="module")
def stored():
    with np.load(reference.PATH) as f:
        return {name: f[name] for name in f.files}


def stored_run(stored, optimizer, loss, activation):
    i, j = list(reference.LOSSES).index(loss), list(reference.ACTIVATIONS).index(activation)
    return reference.unpack(stored[optimizer][i, j], activation)


def trainer(optimizer, loss, activation, dtype, fuse=True):
    """A trainer at the start of a run."""
    net = bp.Sequential([bp.Input(reference.INPUTS), bp.Dense(reference.HIDDEN, reference.ACTIVATIONS[activation][0]),
                         bp.Dense(reference.OUTPUTS)], dtype=dtype)  # fmt: skip
    start = reference.initial(activation)
    assert set(net.parameters) == set(start)
    for name, value in start.items():
        net.parameters[name][...] = value
    return bp.Trainer(net, reference.LOSSES[loss], reference.OPTIMIZERS[optimizer][0](), fuse=fuse)


def train(optimizer, loss, activation, dtype="float64"):
    """Final parameters by name, after 100 steps."""
    t = trainer(optimizer, loss, activation, dtype)
    x, y = reference.data(loss)
    for rows in reference.batches():
        t.step(x[rows], y[rows])
    assert t.t == reference.STEPS
    return t.net.parameters


def disagreement(ours, theirs):
    """The largest error of a tensor, relative to that tensor's largest element."""
    assert set(ours) == set(theirs)
    return max(float(np.abs(ours[k] - theirs[k]).max() / np.abs(theirs[k]).max()) for k in theirs)


def assert_close(runs, tolerance):
    """`runs` maps a label to (ours, theirs); all that disagree are listed."""
    errors = {label: disagreement(*pair) for label, pair in runs.items()}
    bad = {label: e for label, e in errors.items() if not e <= tolerance}
    assert not bad, "\n".join(f"{label}: {e:.2e}" for label, e in bad.items())


@pytest.mark.parametrize("loss", reference.LOSSES)
@pytest.mark.parametrize("optimizer", reference.OPTIMIZERS)
def test_float64_follows_the_stored_trajectory(stored, optimizer, loss):
    assert_close({a: (train(optimizer, loss, a), stored_run(stored, optimizer, loss, a)) for a in reference.ACTIVATIONS},
                 TOLERANCE["float64"])  # fmt: skip


@pytest.mark.parametrize("loss", reference.LOSSES)
def test_float32_follows_the_stored_trajectory(stored, loss):
    assert_close({a: (train("sgd", loss, a, "float32"), stored_run(stored, "sgd", loss, a)) for a in reference.ACTIVATIONS},
                 TOLERANCE["float32"])  # fmt: skip


@pytest.mark.parametrize("optimizer", reference.OPTIMIZERS)
def test_an_epoch_in_one_call_follows_it_too(stored, optimizer):
    x, y = reference.data("labels")
    t = trainer(optimizer, "labels", "tanh", "float64")
    t.fit(x, y, epochs=reference.STEPS // 5, batch_size=reference.BATCH, shuffle=False, progress=False)
    assert t.t == reference.STEPS
    assert_close({"fit": (t.net.parameters, stored_run(stored, optimizer, "labels", "tanh"))}, TOLERANCE["float64"])


def test_stored_trajectories_tell_runs_apart(stored):
    """The comparison can fail: no two runs of the same data are within the tolerance, and every parameter has moved."""
    assert set(stored) == set(reference.OPTIMIZERS)
    for loss in reference.LOSSES:
        for activation in reference.ACTIVATIONS:
            runs = [stored_run(stored, o, loss, activation) for o in reference.OPTIMIZERS]
            for i, a in enumerate(runs):
                for name, start in reference.initial(activation).items():
                    assert (a[name] != start).all()
                for b in runs[:i]:
                    assert disagreement(a, b) > 1e-4
    for optimizer in reference.OPTIMIZERS:
        runs = stored[optimizer].reshape(-1, stored[optimizer].shape[-1])
        assert len(np.unique(runs.round(6), axis=0)) == len(runs)


# ---------------------------------------------------------------- settings, groups, schedules, clipping, penalties, averages

@pytest.fixture(scope="module")
def stored_rules():
    with np.load(reference.RULES_PATH) as f:
        return {name: reference.unpack_rules(f[name]) for name in f.files}


def train_rules(name, **kwargs):
    """Final parameters by name, and their averages, after 100 steps."""
    optimizer, rules, _ = reference.RULES[name]
    net = bp.Sequential([bp.Input(reference.INPUTS), bp.Dense(reference.HIDDEN, "tanh"), bp.Dense(reference.OUTPUTS)], dtype="float64")
    for n, value in reference.initial("tanh").items():
        net.parameters[n][...] = value
    t = bp.Trainer(net, "cross_entropy", optimizer(), **rules, **kwargs)
    x, y = reference.data("labels")
    for i, rows in enumerate(reference.batches()):
        t.step(x[rows], y[rows])
        if hasattr(t.optimizer.schedule, "update") and reference.metric(i) is not None:
            t.optimizer.schedule.update(reference.metric(i))
    assert t.t == reference.STEPS
    return dict(net.parameters) | ({f"ema/{n}": v for n, v in t.ema_parameters.items()} if "ema" in rules else {})


@pytest.mark.parametrize("name", reference.RULES)
def test_rules_follow_the_stored_trajectory(stored_rules, name):
    assert_close({name: (train_rules(name), stored_rules[name])}, TOLERANCE["float64"])


def test_stored_rules_tell_runs_apart(stored_rules):
    assert set(stored_rules) == set(reference.RULES)
    runs = [{n: v for n, v in run.items() if not n.startswith("ema/")} for run in stored_rules.values()]
    same = [(a, b) for i, a in enumerate(runs) for b in runs[:i] if disagreement(a, b) < 1e-6]
    assert not same
    assert disagreement({n: stored_rules["ema"][f"ema/{n}"] for n in reference.WEIGHTS},
                        {n: stored_rules["ema"][n] for n in reference.WEIGHTS}) > 1e-3  # fmt: skip


# ---------------------------------------------------------------- with PyTorch

@pytest.mark.parametrize("name", reference.RULES)
def test_stored_rules_are_pytorchs(stored_rules, name):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs = reference.train_rules_with_torch(name)
        assert_close({"stored": (stored_rules[name], theirs), "ours": (train_rules(name), theirs)}, TOLERANCE["float64"])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("optimizer", reference.OPTIMIZERS)
def test_stored_trajectories_are_pytorchs(stored, optimizer):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # every activation once and every loss several times; another pairing for each optimiser
        shift = list(reference.OPTIMIZERS).index(optimizer)
        losses = list(reference.LOSSES)
        runs = {}
        for i, activation in enumerate(reference.ACTIVATIONS):
            loss = losses[(i + shift) % len(losses)]
            theirs, _ = reference.train_with_torch(optimizer, loss, activation)
            runs[f"stored, {loss}, {activation}"] = stored_run(stored, optimizer, loss, activation), theirs
            runs[f"ours, {loss}, {activation}"] = train(optimizer, loss, activation), theirs
        assert_close(runs, TOLERANCE["float64"])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("loss", reference.LOSSES)
def test_float32_follows_pytorchs_float32(loss):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = {a: (train("sgd", loss, a, "float32"), reference.train_with_torch("sgd", loss, a, "float32")[0])
                for a in reference.ACTIVATIONS}  # fmt: skip
        assert_close(runs, TOLERANCE["float32"])
    finally:
        torch.set_num_threads(threads)
