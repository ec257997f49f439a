"""Penalties, clipping, max-norm, averages of the weights, weights of losses. Parity with PyTorch: `test_parity.py`."""

import numpy as np
import pytest

import backprop as bp
from backprop import schedules

RNG = np.random.default_rng(3)
X = RNG.normal(size=(64, 5))
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)

EVERYTHING = {"l2": 1e-3, "l1": 2e-3, "clip_value": 0.2, "clip_norm": 0.3, "max_norm": 1.4, "ema": 0.9}


def make(dtype="float64", optimizer=None, loss="cross_entropy", layers=None, **rules):
    layers = layers or [bp.Dense(7, "tanh", bias_init=bp.init.Uniform(0.5)), bp.Dropout(0.1), bp.Dense(3)]
    net = bp.Sequential([bp.Input(5), *layers], dtype=dtype, seed=2)
    return bp.Trainer(net, loss, optimizer or bp.SGD(0.5, momentum=0.9), seed=4, **rules)


def plain(**rules):
    """Without dropout, so that one step is like another."""
    return make(layers=[bp.Dense(7, "tanh", bias_init=bp.init.Uniform(0.5)), bp.Dense(3)], **rules)


def everything(trainer):
    return trainer.net.flat_parameters.tobytes() + trainer.state.tobytes()


# ---------------------------------------------------------------- penalties

@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("rules", [{"l2": 0.03}, {"l1": 0.02}, {"l2": 0.03, "l1": 0.02}])
def test_lecture_d_penalties_are_part_of_the_loss(rules, biases):
    """J = mean loss + lambda sum theta^2 has the gradient 2 lambda theta more."""
    base, trainer = plain(), plain(penalize_biases=biases, **rules)
    loss, gradients = base.loss_and_gradients(X, Y)
    j, penalized = trainer.loss_and_gradients(X, Y)
    covered = {n: v for n, v in trainer.net.parameters.items() if biases or v.ndim > 1}
    l2, l1 = rules.get("l2", 0.0), rules.get("l1", 0.0)
    assert j == pytest.approx(loss + sum(l2 * (v**2).sum() + l1 * np.abs(v).sum() for v in covered.values()), rel=1e-14)
    for name, v in trainer.net.parameters.items():
        more = 2 * l2 * v + l1 * np.sign(v) if name in covered else 0
        np.testing.assert_allclose(penalized[name], gradients[name] + more, rtol=1e-13, atol=1e-16)
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(loss, rel=1e-13)
    assert trainer.step(X, Y) == j


def test_lecture_d_penalties_against_central_differences():
    trainer = plain(l2=0.05, l1=0.01, penalize_biases=True)
    flat, h = trainer.net.flat_parameters, 1e-5
    gradients = trainer.loss_and_gradients(X, Y)[1]
    worst = 0.0
    for name, v in trainer.net.parameters.items():
        for i in np.ndindex(v.shape):
            kept, values = v[i], []
            for x in (kept + h, kept - h):
                v[i] = x
                values.append(trainer.net.predict(X))
            logits = [z - z.max(1, keepdims=True) for z in values]
            ce = [float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(64), Y])) for z in logits]
            rest = [0.05 * ((flat**2).sum() - (kept - h) ** 2 + x**2) + 0.01 * (np.abs(flat).sum() - abs(kept - h) + abs(x))
                    for x in (kept + h, kept - h)]  # fmt: skip
            v[i] = kept
            numeric = (ce[0] + rest[0] - ce[1] - rest[1]) / (2 * h)
            worst = max(worst, abs(numeric - gradients[name][i]))
    assert worst < 1e-8


def test_frozen_layers_are_not_penalised():
    base, trainer = (make(layers=[bp.Dense(7, trainable=False), bp.Dense(3)], l2=l2) for l2 in (0.0, 0.1))
    trained = (base.net.parameters["1.weight"] ** 2).sum()
    assert trainer.step(X, Y) == pytest.approx(base.step(X, Y) + 0.1 * trained, rel=1e-13)
    assert (trainer.net.parameters["0.weight"] == base.net.parameters["0.weight"]).all()


# ---------------------------------------------------------------- clipping

def steps_gradient(trainer):
    """What a step of SGD at rate 1 subtracts."""
    before = {n: v.copy() for n, v in trainer.net.parameters.items()}
    trainer.step(X, Y)
    return {n: before[n] - v for n, v in trainer.net.parameters.items()}


@pytest.mark.parametrize("limit", [0.01, 0.1, 1e3])
def test_clip_norm_scales_all_gradients_together(limit):
    gradients = {n: g.copy() for n, g in plain().loss_and_gradients(X, Y)[1].items()}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert 0.1 < norm < 10
    clipped = plain(optimizer=bp.SGD(1.0), clip_norm=limit)
    assert all((clipped.loss_and_gradients(X, Y)[1][n] == g).all() for n, g in gradients.items())  # before clipping
    for name, g in steps_gradient(clipped).items():
        np.testing.assert_allclose(g, gradients[name] * min(1.0, limit / (norm + 1e-6)), rtol=1e-9, atol=1e-15)


def test_clip_value_cuts_each_element():
    gradients = {n: g.copy() for n, g in plain().loss_and_gradients(X, Y)[1].items()}
    assert any((np.abs(g) > 0.05).any() for g in gradients.values())
    for name, g in steps_gradient(plain(optimizer=bp.SGD(1.0), clip_value=0.05)).items():
        np.testing.assert_allclose(g, np.clip(gradients[name], -0.05, 0.05), atol=1e-15)


def test_values_are_cut_before_the_norm_is_taken():
    gradients = {n: np.clip(g, -0.05, 0.05) for n, g in plain().loss_and_gradients(X, Y)[1].items()}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    for name, g in steps_gradient(plain(optimizer=bp.SGD(1.0), clip_value=0.05, clip_norm=0.02)).items():
        np.testing.assert_allclose(g, gradients[name] * 0.02 / (norm + 1e-6), rtol=1e-9, atol=1e-15)


def test_a_norm_that_overflows_is_found_before_anything_changes():
    net = bp.Sequential([bp.Input(1), bp.Dense(1, use_bias=False)])
    net.parameters["0.weight"][...] = 1e-10
    trainer = bp.Trainer(net, "squared_error", bp.SGD(1e-3), clip_norm=1.0, ema=0.9)
    before = everything(trainer)
    x, y = np.full((2, 1), 1e15, "float32"), np.zeros((2, 1), "float32")
    with pytest.raises(bp.NonFiniteError, match="norm of the gradients"):
        trainer.step(x, y)
    assert np.isfinite(trainer.loss_and_gradients(x, y)[0]) and np.isfinite(trainer.flat_gradients).all()
    with pytest.raises(bp.NonFiniteError, match="norm of the gradients"):
        trainer.apply()
    assert everything(trainer) == before and trainer.t == 0


# ---------------------------------------------------------------- max-norm

def test_max_norm_limits_the_incoming_weights_of_each_unit():
    free, held = plain(optimizer=bp.SGD(2.0)), plain(optimizer=bp.SGD(2.0), max_norm=1.1)
    for t in (free, held):
        t.step(X, Y)
    longer = 0
    for name, v in free.net.parameters.items():
        if v.ndim == 1:
            assert held.net.parameters[name].tobytes() == v.tobytes()
            continue
        norms = np.linalg.norm(v, axis=0)
        for j, norm in enumerate(norms):
            mine = held.net.parameters[name][:, j]
            if norm <= 1.1:
                assert mine.tobytes() == v[:, j].tobytes()
            else:
                longer += 1
                np.testing.assert_allclose(mine, v[:, j] * 1.1 / norm, rtol=1e-13)
    assert 0 < longer < 10
    for _ in range(20):
        held.step(X, Y)
        assert all(np.linalg.norm(v, axis=0).max() <= 1.1 * (1 + 1e-12) for v in held.net.parameters.values() if v.ndim == 2)


# ---------------------------------------------------------------- the average of the weights

def test_the_average_by_its_formula():
    trainer, average = make("float64", ema=0.75), None
    for i in range(6):
        trainer.step(X, Y)
        now = trainer.net.flat_parameters.copy()
        average = now if average is None else 0.75 * average + 0.25 * now
        mine = np.concatenate([v.ravel() for v in trainer.ema_parameters.values()])
        views = trainer.net._views(average)
        np.testing.assert_allclose(mine, np.concatenate([v.ravel() for v in views.values()]), rtol=1e-12, atol=1e-15)
    assert trainer.slots == ("velocity", "ema")


def test_averaged_lends_the_average_to_the_network():
    trainer = make(ema=0.9)
    trainer.fit(X, Y, epochs=3, progress=False)
    own, plain_loss = everything(trainer), trainer.evaluate(X, Y)
    other = bp.Sequential([bp.Input(5), bp.Dense(7, "tanh"), bp.Dropout(0.1), bp.Dense(3)], dtype="float64")
    for name, v in trainer.ema_parameters.items():
        other.parameters[name][...] = v
    with trainer.averaged() as same:
        assert same is trainer
        assert trainer.evaluate(X, Y)["loss"] != plain_loss["loss"]
        assert (trainer.net.predict(X) == other.predict(X)).all()
        assert trainer.ema_parameters["0.weight"].tobytes() == trainer.net.parameters["0.weight"].tobytes()
    assert everything(trainer) == own and trainer.evaluate(X, Y) == plain_loss


def test_nothing_trains_with_the_average(tmp_path):
    trainer = make(ema=0.9)
    trainer.step(X, Y)
    trainer.save_checkpoint(tmp_path / "c")
    own = everything(trainer)
    with pytest.raises(KeyError):
        with trainer.averaged():
            for train in (lambda: trainer.step(X, Y), lambda: trainer.fit(X, Y, progress=False), trainer.apply,
                          lambda: trainer.save_checkpoint(tmp_path / "c"), lambda: trainer.load_checkpoint(tmp_path / "c")):
                with pytest.raises(RuntimeError, match="average"):
                    train()
            with pytest.raises(RuntimeError, match="nested"):
                trainer.averaged().__enter__()
            raise KeyError
    assert everything(trainer) == own and trainer.t == 1
    trainer.step(X, Y)
    with pytest.raises(ValueError, match="ema=0.999"):
        with make().averaged():
            pass
    with pytest.raises(ValueError, match="ema=0.999"):
        make().ema_parameters  # noqa: B018


def test_what_does_not_train_is_its_own_average():
    trainer = make(layers=[bp.Dense(7, trainable=False), bp.Dense(3)], ema=0.9)
    trainer.state  # noqa: B018
    trainer.net.flat_parameters[...] += 0.5  # weights from elsewhere
    assert all((v == trainer.net.parameters[n]).all() for n, v in trainer.ema_parameters.items())
    for _ in range(3):
        trainer.step(X, Y)
    same = {n: (v == trainer.net.parameters[n]).all() for n, v in trainer.ema_parameters.items()}
    assert same == {"0.weight": True, "0.bias": True, "1.weight": False, "1.bias": False}


def test_a_callback_evaluates_the_average():
    seen = []

    def look(trainer, logs):
        with trainer.averaged():
            seen.append(trainer.evaluate(X, Y)["loss"])

    watched, alone = make(ema=0.9), make(ema=0.9)
    watched.fit(X, Y, epochs=3, callbacks=[look], progress=False)
    alone.fit(X, Y, epochs=3, progress=False)
    assert everything(watched) == everything(alone) and len(set(seen)) == 3


# ---------------------------------------------------------------- all of it

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [bp.SGD(0.5, 0.9), bp.AdamW(0.05, groups={"*.bias": {"weight_decay": 0.0, "lr": 0.01}})], ids=repr)
@pytest.mark.parametrize("rules", [EVERYTHING, *({k: v} for k, v in EVERYTHING.items())], ids=lambda r: "+".join(r))
def test_fused_and_unfused_give_the_same_bits(dtype, optimizer, rules):
    runs = []
    for fuse in (True, False):
        trainer = make(dtype, optimizer, fuse=fuse, **rules)
        losses = [trainer.step(X[i : i + 20], Y[i : i + 20]) for i in (0, 15, 30, 44)]
        scores = trainer.net.forward(X)
        trainer.net.backward(scores / 64)
        trainer.apply()
        trainer.loss_and_gradients(X, Y)
        runs.append((losses, everything(trainer), trainer.flat_gradients.tobytes()))
    assert runs[0] == runs[1]


def test_threads_do_not_matter():
    data = RNG.normal(size=(1500, 40)), RNG.integers(0, 5, 1500)
    runs = []
    for n in (1, 2, 3):
        with bp.threads(n):
            net = bp.Sequential([bp.Input(40), bp.Dense(300, "relu"), bp.Dense(5)], seed=1)
            trainer = bp.Trainer(net, optimizer=bp.AdamW(0.01, groups={"0.*": {"lr": 0.1}}), **EVERYTHING)
            trainer.fit(*data, epochs=2, batch_size=500, progress=False)
            runs.append(everything(trainer))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_and_apply_are_a_step(dtype):
    one, two = make(dtype, **EVERYTHING), make(dtype, **EVERYTHING)
    for _ in range(4):
        loss = one.step(X, Y)
        assert two.loss_and_gradients(X, Y)[0] == loss
        two.apply()
    assert everything(one) == everything(two) and one.t == two.t == 4


def test_apply_leaves_penalties_to_the_loss_of_ones_own():
    runs = []
    for rules in ({}, {"l2": 0.1, "l1": 0.1}):
        trainer = plain(**rules)
        trainer.net.backward(trainer.net.forward(X) / 64)
        trainer.apply()
        runs.append(everything(trainer))
    assert runs[0] == runs[1]


def test_fit_equals_its_steps_by_hand():
    one, two = make(**EVERYTHING), make(**EVERYTHING)
    history = one.fit(X, Y, epochs=2, batch_size=20, shuffle=False, progress=False)
    losses = [[two.step(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40, 60)] for _ in range(2)]
    assert everything(one) == everything(two)
    assert history["train_loss"] == pytest.approx([np.average(e, weights=[20, 20, 20, 4]) for e in losses], rel=1e-12)


def test_penalties_and_cut_values_hang_on_the_product():
    """Nothing elementwise over a weight matrix stands alone but the update behind a norm of all gradients; squares that are summed are
    made where they are."""
    for rules, alone in (({"clip_value": 0.1, "ema": 0.9}, 0), ({"l2": 0.1}, 0), ({"clip_norm": 0.1}, 4)):
        lines = [s for s in plain(**rules).describe(32).splitlines() if " map " in s and "[1,1]" not in s]
        assert len(lines) == alone, "\n".join(lines)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_checkpoint_holds_all_of_it(tmp_path, dtype):
    def trainer(seed=4):
        groups = {"*.bias": {"weight_decay": 0.0}, "0.*": {"lr": schedules.ReduceOnPlateau(0.05, patience=0, threshold=10.0)},
                  "2.weight": {"lr": schedules.Exponential(0.1, 0.1, "step"), "betas": (0.8, 0.9)}}
        optimizer = bp.AMSGrad(schedules.Cosine(0.05, 80, 5), weight_decay=0.01, decoupled=True, groups=groups)
        layers = [bp.Dense(7, "tanh"), bp.Dropout(0.1), bp.Dense(3)]
        return bp.Trainer(bp.Sequential(layers, dtype=dtype), optimizer=optimizer, seed=seed, **EVERYTHING)

    def state(t):
        return everything(t), t.t, t.epoch, [vars(s) for s in t.optimizer.schedules if hasattr(s, "best")], {
            n: v.tobytes() for n, v in t.ema_parameters.items()}

    straight, first, second = trainer(), trainer(), trainer(9)
    straight.fit(X, Y, epochs=6, batch_size=20, progress=False)
    first.fit(X, Y, epochs=3, batch_size=20, progress=False)
    first.save_checkpoint(tmp_path / "c")
    second.load_checkpoint(tmp_path / "c")
    assert state(second) == state(first)
    second.fit(X, Y, epochs=3, batch_size=20, progress=False)
    assert state(second) == state(straight)
    assert second.optimizer.groups["0.*"]["lr"].lr < 1e-5 and first.optimizer.groups["0.*"]["lr"].lr > 1e-5


@pytest.mark.parametrize("change, words", [
    ({"l2": 0.5}, "rules 'l2' is 0.5 here, 0.001 in the file"), ({"ema": None}, "rules 'ema' is 'absent' here, 0.9 in the file"),
    ({"clip_norm": None}, "rules 'clip_norm'"), ({"max_norm": 2.0}, "rules 'max_norm'"), ({"penalize_biases": True}, "rules 'penalize_biases'"),
    ({"optimizer": bp.SGD(0.5, 0.9)}, r"groups '\*.bias' is 'absent' here"),
    ({"optimizer": bp.SGD(0.5, 0.9, groups={"*.bias": {"lr": 0.2}})}, r"groups '\*.bias' is \{'lr': 0.2\} here, \{'lr': 0.1\} in the file"),
])  # fmt: skip
def test_a_checkpoint_of_other_rules_is_refused(tmp_path, change, words):
    optimizer = bp.SGD(0.5, 0.9, groups={"*.bias": {"lr": 0.1}})
    saved = make(**{"optimizer": optimizer, **EVERYTHING})
    saved.step(X, Y)
    saved.save_checkpoint(tmp_path / "c")
    other = make(**{"optimizer": optimizer, **EVERYTHING, **change})
    before = everything(other)
    with pytest.raises(ValueError, match=words):
        other.load_checkpoint(tmp_path / "c")
    assert everything(other) == before


def test_a_checkpoint_from_before_there_were_rules(tmp_path):
    """Version 0.1 wrote neither groups nor rules, and the slots among the settings."""
    import json

    from backprop.files import read_tensors, write_tensors

    trainer = make()
    trainer.step(X, Y)
    trainer.save_checkpoint(tmp_path / "c")
    tensors, metadata = read_tensors(tmp_path / "c")
    record = json.loads(metadata["trainer"])
    for key in ("groups", "rules", "group_schedules"):
        del record[key]
    record["optimizer"] = {"class": "SGD", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "slots": ["velocity"]}
    write_tensors(tmp_path / "c", tensors, {**metadata, "trainer": json.dumps(record)})
    other = make()
    other.load_checkpoint(tmp_path / "c")
    assert everything(other) == everything(trainer) and other.t == 1
    record["group_schedules"] = [{"schedule": "Constant", "lr": 1.0}]
    write_tensors(tmp_path / "c", tensors, {**metadata, "trainer": json.dumps(record)})
    with pytest.raises(bp.FileFormatError, match="schedules"):
        other.load_checkpoint(tmp_path / "c")


# ---------------------------------------------------------------- tables of embeddings

IDS = RNG.integers(0, 30, (64, 3)).astype("int32")  # of 40: ten rows are never seen, many are seen several times
IDS[::5, 2] = 0  # padding
TABLES = {
    "lookup": lambda: [bp.Embedding(40, 4), bp.Flatten()], "padded": lambda: [bp.Embedding(40, 4, padding=0), bp.Flatten()],
    "bag": lambda: [bp.EmbeddingBag(40, 4, mode="sum")], "padded mean": lambda: [bp.EmbeddingBag(40, 4, mode="mean", padding=0)],
}  # fmt: skip


def words(kind, optimizer=None, dtype="float64", **rules):
    net = bp.Sequential([*TABLES[kind](), bp.Dense(3)], dtype=dtype, seed=5)
    net.build(IDS)
    return bp.Trainer(net, optimizer=optimizer or bp.SGD(1.0), **rules)


@pytest.mark.parametrize("kind", TABLES)
def test_rules_for_tables_cover_the_rows_that_a_step_touches(kind):
    rows, y = IDS[:9], Y[:9]
    seen = np.unique(rows)
    loss, gradients = words(kind).loss_and_gradients(rows, y)
    dense = {n: np.array(g) for n, g in gradients.items()}
    trainer = words(kind, l2=0.03, l1=0.01, clip_norm=0.2, max_norm=0.5)
    before = {n: v.copy() for n, v in trainer.net.parameters.items()}
    for name, v in before.items():
        if v.ndim == 2:
            covered = v[seen] if name == "0.weight" else v
            loss += 0.03 * (covered**2).sum() + 0.01 * np.abs(covered).sum()
            more = 0.06 * v + 0.01 * np.sign(v)
            if name == "0.weight":
                more[np.setdiff1d(np.arange(40), seen)] = 0
            dense[name] += more
    j, penalized = trainer.loss_and_gradients(rows, y)
    assert j == pytest.approx(loss, rel=1e-13)
    for name, g in penalized.items():
        np.testing.assert_allclose(np.array(g), dense[name], rtol=1e-12, atol=1e-15)
    factor = min(1.0, 0.2 / (np.sqrt(sum((g**2).sum() for g in dense.values())) + 1e-6))
    assert factor < 1 and trainer.step(rows, y) == j
    for name, v in trainer.net.parameters.items():
        want = before[name] - factor * dense[name]
        if v.ndim == 2 and name != "0.weight":
            want *= np.minimum(1.0, 0.5 / np.linalg.norm(want, axis=0))
        np.testing.assert_allclose(v, want, rtol=1e-9, atol=1e-15)
    unseen = np.setdiff1d(np.arange(40), seen)
    assert (trainer.net.parameters["0.weight"][unseen] == before["0.weight"][unseen]).all()


@pytest.mark.parametrize("kind", TABLES)
def test_the_average_of_a_table_moves_where_it_does(kind):
    trainer = words(kind, bp.Adam(0.1), ema=0.5)
    trainer.evaluate(IDS, Y)  # the arrays are made
    trainer.net.parameters["0.weight"][1:] += 1.0  # and other vectors put in place
    average = None
    for i in range(0, 60, 12):
        before = None if average is None else average.copy()
        trainer.step(IDS[i : i + 12], Y[i : i + 12])
        now = trainer.net.parameters["0.weight"]
        if before is None:
            average = now.copy()
        else:
            seen = np.unique(IDS[i : i + 12])
            average[seen] = 0.5 * before[seen] + 0.5 * now[seen]
        np.testing.assert_allclose(trainer.ema_parameters["0.weight"], average, rtol=1e-12, atol=1e-14)
    assert (trainer.ema_parameters["0.weight"][30:] == now[30:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", TABLES)
def test_rules_for_tables_give_the_same_bits_fused_and_not(kind, dtype):
    runs = []
    for fuse in (True, False):
        trainer = words(kind, bp.AMSGrad(0.05, weight_decay=0.1, groups={"0.*": {"lr": 0.01, "weight_decay": 0.0}}), dtype, fuse=fuse,
                        **EVERYTHING)
        losses = [trainer.step(IDS[i : i + 20], Y[i : i + 20]) for i in (0, 15, 30, 44)]
        runs.append((losses, everything(trainer)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("rules, words", [
    ({"l2": -1e-3}, "l2 must be a finite number of at least 0"), ({"l1": float("nan")}, "l1"), ({"l2": True}, "l2"),
    ({"max_norm": 0.0}, "max_norm must be a finite number above 0"), ({"clip_value": -1}, "clip_value"),
    ({"clip_norm": float("inf")}, "clip_norm"), ({"clip_norm": "1"}, "clip_norm"), ({"ema": 1.0}, "ema must be below 1"),
    ({"ema": 0.0}, "ema"), ({"loss_weights": [1.0, 2.0]}, "a number for each of the 1 losses, got 2"),
    ({"loss_weights": -1.0}, "loss_weights must be finite numbers"), ({"loss_weights": [None]}, "loss_weights"),
])  # fmt: skip
def test_arguments_are_named(rules, words):
    with pytest.raises(ValueError, match=words):
        make(**rules)


# ---------------------------------------------------------------- several outputs and inputs

def two_headed(names=(None, None), **kwargs):
    a, b = (bp.Input(k, name=n) for k, n in zip((3, 2), names))
    h = bp.Dense(6, "tanh", name="hidden")(bp.concatenate([a, b], axis=1))
    net = bp.Network([a, b], [bp.Dense(3, name="class")(h), bp.Dense(2, name="value")(h)], dtype="float64", seed=1)
    return bp.Trainer(net, ["cross_entropy", "squared_error"], bp.SGD(0.1), **kwargs)


PARTS, TARGETS = [X[:, :3], X[:, 3:]], [Y, X[:, :2] * 0.5]


def test_weights_of_losses():
    trainer = two_headed(loss_weights=[0.5, 2.0])
    gradients = {}
    for k, weights in enumerate(([1.0, 0.0], [0.0, 1.0])):
        alone = two_headed(loss_weights=weights)
        loss, g = alone.loss_and_gradients(PARTS, TARGETS)
        gradients[k] = loss, {n: v.copy() for n, v in g.items()}
        assert alone.evaluate(PARTS, TARGETS)["loss"] == pytest.approx(loss, rel=1e-13)
    loss, g = trainer.loss_and_gradients(PARTS, TARGETS)
    assert loss == pytest.approx(0.5 * gradients[0][0] + 2 * gradients[1][0], rel=1e-13)
    for name, v in g.items():
        np.testing.assert_allclose(v, 0.5 * gradients[0][1][name] + 2 * gradients[1][1][name], rtol=1e-12, atol=1e-16)
    assert trainer.evaluate(PARTS, TARGETS)["loss"] == pytest.approx(loss, rel=1e-13)
    assert not gradients[0][1]["value.weight"].any() and gradients[1][1]["value.weight"].all()
    even, ones = two_headed(), two_headed(loss_weights=[1, 1])
    even.step(PARTS, TARGETS), ones.step(PARTS, TARGETS)
    assert even.net.flat_parameters.tobytes() == ones.net.flat_parameters.tobytes()


def test_several_inputs_by_list_and_by_name(tmp_path):
    runs = []
    for names, x in [((None, None), PARTS), ((None, None), {"x1": PARTS[1], "x0": PARTS[0]}),
                     (("left", "right"), {"right": PARTS[1], "left": PARTS[0]}), (("left", None), {"x1": PARTS[1], "left": PARTS[0]})]:
        trainer = two_headed(names)
        trainer.fit(x, TARGETS, epochs=2, batch_size=20, validation_data=(x, TARGETS), progress=False)
        runs.append((trainer.net.flat_parameters.tobytes(), trainer.net.predict(x)[0].tobytes()))
    assert len(set(runs)) == 1
    trainer = two_headed(("left", "right"))
    trainer.net.save(tmp_path / "net")
    again = bp.load(tmp_path / "net")
    x = {"right": PARTS[1], "left": PARTS[0]}
    assert (again.predict(x)[1] == trainer.net.predict(PARTS)[1]).all()


@pytest.mark.parametrize("x, words", [
    ({"left": PARTS[0]}, "X has the keys 'left'; the inputs are named 'left', 'right'"), ({}, r"\(none\)"),
    ({"left": PARTS[0], "right": PARTS[1], "up": PARTS[0]}, "'up'"), ({"x0": PARTS[0], "x1": PARTS[1]}, "'x0', 'x1'"),
    ({"left": PARTS[1], "right": PARTS[0]}, r"X\['left'\] has shape"), (PARTS[0], "a list of 2 arrays"),
])  # fmt: skip
def test_inputs_that_are_refused(x, words):
    trainer = two_headed(("left", "right"))
    before = trainer.net.flat_parameters.tobytes()
    with pytest.raises(ValueError, match=words):
        trainer.fit(x, TARGETS, progress=False)
    assert trainer.net.flat_parameters.tobytes() == before


def test_names_of_inputs():
    with pytest.raises(ValueError, match="inputs must have different names, got left, left"):
        two_headed(("left", "left"))
    with pytest.raises(TypeError, match="name must be a text"):
        bp.Input(3, name=4)
    net = bp.Sequential([bp.Input(5, name="rows"), bp.Dense(2)])
    assert (net.predict({"rows": X}) == net.predict(X)).all()
