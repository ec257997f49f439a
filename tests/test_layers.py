"""Layers that normalise, that learn slopes, that hold layers: parity, gradients, buffers, saving, errors."""

import numpy as np
import pytest

import backprop as bp
from backprop import functions as F
from backprop.lower import lower

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(50, 5)) * 2 + 1, RNG.normal(size=(50, 2))
LAYERS = {
    "layer_norm": lambda: [bp.LayerNorm()],
    "layer_norm, bare": lambda: [bp.LayerNorm(eps=0.1, scale=False, shift=False)],
    "batch_norm": lambda: [bp.BatchNorm()],
    "batch_norm, bare": lambda: [bp.BatchNorm(momentum=0.3, eps=0.01, scale=False, shift=False)],
    "prelu": lambda: [bp.PReLU()],
    "prelu, shared": lambda: [bp.PReLU(shared=True, init=0.1)],
    "residual": lambda: [bp.Residual(bp.Dense(6, "tanh"), "relu")],
    "residual of several": lambda: [bp.Residual([bp.LayerNorm(), bp.Dense(6, "tanh"), bp.Residual([bp.PReLU(), bp.Dense(6)])])],
    "all": lambda: [bp.BatchNorm(), bp.Residual([bp.Dense(9, "relu"), bp.Dropout(0.2), bp.BatchNorm(), bp.Dense(6)], name="block"),
                    bp.LayerNorm(), bp.PReLU()],
}


def make(name, dtype="float64", seed=4):
    return bp.Sequential([bp.Input(5), bp.Dense(6, "tanh"), *LAYERS[name](), bp.Dense(2)], dtype=dtype, seed=seed)


def trainer(name, dtype="float64", **more):
    return bp.Trainer(make(name, dtype), "squared_error", bp.SGD(0.1, momentum=0.5), **more)


def state(net):
    return net.flat_parameters.tobytes(), net.flat_buffers.tobytes()


def torch_layers(torch, name):
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, f, after):
            super().__init__()
            self.f, self.after = f, after

        def forward(self, x):
            return self.after(x + self.f(x))

    layer = {
        "layer_norm": lambda: nn.LayerNorm(6), "layer_norm, bare": lambda: nn.LayerNorm(6, 0.1, elementwise_affine=False),
        "batch_norm": lambda: nn.BatchNorm1d(6), "batch_norm, bare": lambda: nn.BatchNorm1d(6, 0.01, 0.3, affine=False),
        "prelu": lambda: nn.PReLU(6), "prelu, shared": lambda: nn.PReLU(1, 0.1),
        "residual": lambda: Residual(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.ReLU()),
        "residual of several": lambda: Residual(nn.Sequential(
            nn.LayerNorm(6), nn.Linear(6, 6), nn.Tanh(), Residual(nn.Sequential(nn.PReLU(6), nn.Linear(6, 6)), nn.Identity())), nn.Identity()),
    }[name]()
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), layer, nn.Linear(6, 2)).double()


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "all"])
def test_parity_with_pytorch(torch, name):
    """100 steps in batches of 8 and the rest: parameters, running statistics and predictions agree to 1e-9."""
    ours, theirs = trainer(name), torch_layers(torch, name)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.5)
    pairs = list(zip(ours.net.parameters.values(), theirs.parameters()))
    assert len(pairs) == len(ours.net.parameters) == len(list(theirs.parameters()))
    with torch.no_grad():
        for a, p in pairs:
            p[...] = torch.tensor(a.T if a.ndim == 2 else a)
    for i in range(100):
        rows = slice(i % 7 * 8, i % 7 * 8 + 8)  # the last of each round has two rows
        optimizer.zero_grad()
        loss = ((theirs(torch.tensor(X[rows])) - torch.tensor(Y[rows])) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert ours.step(X[rows], Y[rows]) == pytest.approx(loss.item(), rel=1e-9)
    kept = [b for k, b in theirs.named_buffers() if "num" not in k]
    assert len(kept) == len(ours.net.buffers)
    for a, p in [*pairs, *zip(ours.net.buffers.values(), kept)]:
        p = p.detach().numpy()
        assert np.abs(a - (p.T if p.ndim == 2 else p)).max() <= 1e-9 * np.abs(p).max()
    theirs.eval()
    np.testing.assert_allclose(ours.net.predict(X), theirs(torch.tensor(X)).detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_central_differences(name):
    """Of the whole network in training form, dropout off: every parameter and the input."""
    layers = LAYERS[name]()
    for f in layers:
        for inner in [f, *f.layers]:
            if isinstance(inner, bp.Dropout):
                inner.rate = 0.0
    net = bp.Sequential([bp.Input(5), bp.Dense(6, "tanh"), *layers, bp.Dense(2)], dtype="float64", seed=4)
    t = bp.Trainer(net, "squared_error")
    _, grads = t.loss_and_gradients(X, Y)
    grads = {k: np.array(g) for k, g in grads.items()}
    before = state(net)
    for k, p in net.parameters.items():
        for at in list(np.ndindex(p.shape))[::3]:
            old, values = p[at], []
            for h in (1e-5, -1e-5):
                p[at] = old + h
                values.append(t.loss_and_gradients(X, Y)[0])
            p[at] = old
            numeric = (values[0] - values[1]) / 2e-5
            assert abs(numeric - grads[k][at]) <= 1e-6 * max(1, abs(numeric)), (k, at)
    assert state(net) == before  # and no buffer was moved by looking


def test_layer_norm_function():
    bp.gradcheck(lambda x, a, b: bp.layer_norm(x, a, b), [RNG.normal(size=(3, 2, 4)), RNG.normal(size=4), RNG.normal(size=4)])
    x = RNG.normal(size=(3, 4))
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(bp.layer_norm(x).value, want, rtol=1e-13)
    np.testing.assert_allclose(bp.layer_norm(x, shift=np.ones(4)).value, want + 1, rtol=1e-13)
    with pytest.raises(bp.ShapeError, match=r"gain has shape \(3,\), the rows have shape \(4,\)"):
        bp.layer_norm(x, np.ones(3))
    with pytest.raises(ValueError, match="eps"):
        bp.layer_norm(x, eps=-1)
    with pytest.raises(bp.ShapeError, match="expected rows"):
        bp.layer_norm(np.ones((3, 0)))


def test_gradients_of_a_batch_norm_before_its_mode_is_known():
    """By its gain, in either mode; by its input only where that is settled."""
    norm, x = bp.BatchNorm(), bp.Input(3)
    y = norm(x)
    data = np.random.default_rng(3).standard_normal((7, 3))
    (slope,) = bp.grad(bp.sum(y), [norm._affine[0].tensor])
    rows = bp.Network(x, x * 0.0 + slope, dtype="float64").predict(data)
    np.testing.assert_allclose(rows[0], data.sum(0) / np.sqrt(1 + norm.eps), rtol=1e-12)
    with pytest.raises(TypeError, match="batch_norm has no gradient by its input"):
        bp.grad(bp.sum(y), [x])
    with pytest.raises(ValueError, match="running"):
        F.batch_norm(data, data.mean(0) * bp.tensor(np.ones(3)), data.var(0))
    with pytest.raises(bp.ShapeError, match="batch_norm"):
        F.batch_norm(data, data.mean(1), data.var(1))


# ---------------------------------------------------------------- buffers

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_running_statistics_follow_their_formula(dtype):
    net = bp.Sequential([bp.Input(5), bp.BatchNorm(momentum=0.25, eps=0.0)], dtype=dtype)
    t = bp.Trainer(net, "squared_error", bp.SGD(1e-30))
    assert list(net.buffers) == ["0.running_mean", "0.running_var"] and list(net.parameters) == ["0.gain", "0.shift"]
    mean, var = np.zeros(5), np.ones(5)
    for rows in (slice(0, 20), slice(20, 27), slice(27, 28)):
        x = X[rows]
        t.step(x, np.zeros((len(x), 5))) if len(x) > 1 else net.forward(x * 1.0)
        mean = 0.75 * mean + 0.25 * x.mean(0)
        var = 0.75 * var + 0.25 * (x.var(0, ddof=1) if len(x) > 1 else 0.0)  # one row has no spread
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(net.buffers["0.running_mean"], mean, rtol=tolerance)
        np.testing.assert_allclose(net.buffers["0.running_var"], var, rtol=tolerance)
    np.testing.assert_allclose(net.predict(X), (X - mean) / np.sqrt(var), rtol=1e-4 if dtype == "float32" else 1e-12)


def test_a_batch_of_one_row_is_its_own_mean():
    net = bp.Sequential([bp.Input(5), bp.BatchNorm()])
    out = net.forward(X[:1])
    assert (out == 0).all() and np.isfinite(net.flat_buffers).all()
    assert np.isfinite(net.backward(np.ones((1, 5)))).all()


def test_calls_for_training_take_all_rows_for_one_batch_and_write_nothing():
    net = bp.Sequential([bp.Input(5), bp.BatchNorm(eps=0.0)], dtype="float64")
    x = RNG.normal(size=(700, 5))
    before = state(net)
    np.testing.assert_allclose(net(x, training=True), (x - x.mean(0)) / x.std(0), rtol=1e-9, atol=1e-12)
    assert state(net) == before
    np.testing.assert_array_equal(net(x), x)  # mean 0, variance 1 as yet
    assert net(x[:0], training=True).shape == (0, 5)
    out = net.forward(x)
    np.testing.assert_allclose(out, (x - x.mean(0)) / x.std(0), rtol=1e-9, atol=1e-12)
    assert state(net)[1] != before[1] and state(net)[0] == before[0]


def test_predictions_do_not_depend_on_the_rows_beside():
    t = trainer("all", "float32")
    t.fit(X, Y, epochs=3, batch_size=16, progress=False)
    whole = t.net.predict(X)
    assert all(t.net.predict(X[i:i + 1]).tobytes() == whole[i:i + 1].tobytes() for i in range(len(X)))


def test_a_step_that_diverges_changes_no_buffer():
    t = trainer("all", "float32")
    t.step(X, Y)
    before = state(t.net)
    bad = X.copy()
    bad[3, 2] = np.nan
    with pytest.raises(bp.NonFiniteError):
        t.step(bad, Y)
    with pytest.raises(bp.NonFiniteError):
        t.fit(bad, Y, batch_size=50, progress=False)
    assert state(t.net) == before
    text = t.describe(50)
    assert text.index("is finite") < text.index("@buffers")


def test_a_step_that_is_long_updates_last_and_gives_the_same_bits(monkeypatch):
    short, long = trainer("all"), trainer("all")
    short.step(X, Y)
    monkeypatch.setattr(bp.trainer, "_LONG_STEP", 0.0)
    long.step(X, Y)
    assert state(short.net) == state(long.net)
    (plan,) = (held[0] for held in long._plans.values())
    lines = plan.describe().splitlines()
    assert plan.mark < len(lines) and not any("@buffers" in line for line in lines[:plan.mark])
    assert any("@buffers" in line for line in lines[plan.mark:])


def test_a_layer_that_is_not_trained_keeps_its_statistics_and_uses_them():
    t = trainer("batch_norm")
    t.fit(X, Y, epochs=2, batch_size=10, progress=False)
    norm = t.net.layers[1]
    norm.trainable = False
    buffers, gain = t.net.flat_buffers.copy(), t.net.parameters["1.gain"].copy()
    assert (t.net(X, training=True) == t.net.predict(X)).all()
    t.step(X[:20], Y[:20])
    t.net.forward(X[:4])
    t.net.backward(np.ones((4, 2)))
    assert (t.net.flat_buffers == buffers).all() and (t.net.parameters["1.gain"] == gain).all()
    norm.trainable = True
    t.step(X[:20], Y[:20])
    assert (t.net.flat_buffers != buffers).any() and (t.net.parameters["1.gain"] != gain).all()


def test_buffers_are_no_parameters():
    t = bp.Trainer(make("batch_norm, bare"), "squared_error", bp.Adam(0.01), l2=10.0, clip_norm=0.1)
    net = t.net
    assert net.flat_gradients.size == net.flat_parameters.size and not set(net.buffers) & set(net.parameters)
    twin = bp.Trainer(make("batch_norm, bare"), "squared_error", bp.SGD(1e-30))
    t.step(X, Y), twin.step(X, Y)
    assert net.flat_buffers.tobytes() == twin.net.flat_buffers.tobytes()
    net.buffers["1.running_mean"][...] = 7.0  # a view
    assert (net.flat_buffers[:6] == 7).all()
    net.initialize(4)
    assert (net.buffers["1.running_mean"] == 0).all() and (net.buffers["1.running_var"] == 1).all()


@pytest.mark.parametrize("name", ["all", "batch_norm", "layer_norm"])
def test_the_same_bits_fused_or_not_and_for_any_threads(name):
    results = set()
    for threads, fuse in ((1, True), (2, True), (3, True), (1, False)):
        with bp.threads(threads):
            t = trainer(name, "float32", fuse=fuse)
            t.fit(X, Y, epochs=2, batch_size=16, progress=False)
            t.step(X, Y)
            results.add(state(t.net) + (t.net.predict(X).tobytes(),))
    assert len(results) == 1


def test_row_blocks_give_the_same_bits():
    """A statistic of the batch ends the run of row blocks; what is left of them changes nothing."""
    n = 700
    x = RNG.normal(size=(n, 5)).astype("float32")
    values = []
    for blocks in (False, True):
        net = make("all", "float32")
        outputs, assigns = net.training_graph()
        grads = bp.autodiff.gradients(outputs, [net._sources[p] for p in net.trainable()])
        plan = lower([*outputs, *grads], "float32", storage=net.storage(), assigns=assigns, capacity=n, row_blocks=blocks)
        assert ("row_blocks" in plan.describe()) == blocks
        binding = plan.binding()
        net.bind(plan, binding)
        net._bind_inputs(plan, binding, [x])
        out = [np.empty((n if t.shape[:1] == (-1,) else t.shape[0], *t.shape[1:]), "float32") for t in plan.outputs]
        for i, a in enumerate(out):
            binding.set(plan.spaces[f"output {i}"], a)
        net._set_rows(plan, binding, n)
        binding.run(n, 0, -1, 1, 0, 0, False, 0)
        values.append([a.tobytes() for a in out] + [net.flat_buffers.tobytes()])
    assert values[0] == values[1]


def test_a_shared_layer_with_buffers_is_refused():
    norm = bp.BatchNorm()
    net = bp.Sequential([bp.Input(5), norm, bp.Dense(5), norm])
    net.predict(X)
    with pytest.raises(ValueError, match="more than once"):
        bp.Trainer(net, "squared_error").step(X, X)


class Centred(bp.Layer):
    """A layer of a user's own with a buffer: it takes off a moving average that the batch has a part in."""

    def build(self, shape):
        self.average = self.buffer("average", shape[1:], bp.init.zeros)

    def forward(self, x):
        new = self.average.tensor * 0.5 + bp.mean(x, 0) * 0.5
        return x - F.running(new, self.average.tensor, new)


def test_a_users_own_layer_with_a_buffer():
    net = bp.Sequential([bp.Input(5), Centred(), bp.Dense(2)], dtype="float64")
    t = bp.Trainer(net, "squared_error", bp.SGD(0.1))
    t.step(X, Y), t.step(X[:9], Y[:9])
    average = 0.5 * (0.5 * X.mean(0)) + 0.5 * X[:9].mean(0)
    np.testing.assert_allclose(net.buffers["0.average"], average, rtol=1e-12)
    with pytest.raises(bp.NonFiniteError):
        t.step(X * np.nan, Y)
    np.testing.assert_allclose(net.buffers["0.average"], average, rtol=1e-12)
    w, b = net.parameters.values()
    np.testing.assert_allclose(net.predict(X), (X - average) @ w + b, rtol=1e-12)
    with pytest.raises(bp.ShapeError, match="running"):
        F.running(np.ones(3), net._outputs[0], np.ones(3))


# ---------------------------------------------------------------- files

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_saved_predicts_and_trains_alike(tmp_path, name, dtype):
    t = trainer(name, dtype)
    t.fit(X, Y, epochs=2, batch_size=16, progress=False)
    inner = next((f for f in t.net.layers if f.layers), None)
    if inner is not None:
        inner.layers[0].trainable = False
    path = tmp_path / "m.safetensors"
    t.net.save(path)
    net = bp.load(path)
    assert net.loaded == (list(t.net.parameters) + list(t.net.buffers), [], [])
    assert list(net.parameters) == list(t.net.parameters) and list(net.buffers) == list(t.net.buffers)
    assert state(net) == state(t.net) and net.predict(X).tobytes() == t.net.predict(X).tobytes()
    assert [p.layer.trainable for p in net._parameters] == [p.layer.trainable for p in t.net._parameters]
    twins = [bp.Trainer(n, "squared_error", bp.SGD(0.1), seed=1) for n in (net, t.net)]
    for twin in twins:
        twin.fit(X, Y, epochs=2, batch_size=16, progress=False)
    assert state(net) == state(t.net)


def test_a_network_of_nested_layers_in_a_file(tmp_path):
    a = bp.Input(5)
    block = bp.Residual([bp.Dense(5, "tanh"), bp.BatchNorm()], name="block")
    net = bp.Network(a, bp.Dense(2)(block(a)), dtype="float32", seed=3)
    assert list(net.parameters) == ["block.0.weight", "block.0.bias", "block.1.gain", "block.1.shift", "dense0.weight", "dense0.bias"]
    assert [line.split()[:2] for line in str(net.summary()).splitlines() if "block" in line] == [["block", "Residual"]]
    assert net.layers[0] is block and "block.1.running_mean" in net.buffers
    bp.Trainer(net, "squared_error").fit(X, Y, epochs=2, progress=False)
    net.save(tmp_path / "m")
    net2 = bp.load(tmp_path / "m")
    assert state(net2) == state(net) and net2.predict(X).tobytes() == net.predict(X).tobytes()
    for n in (net, net2):
        bp.Trainer(n, "squared_error", seed=2).fit(X, Y, epochs=1, progress=False)
    assert state(net2) == state(net)


def test_checkpoints_hold_buffers(tmp_path):
    straight, broken = trainer("all", seed=5), trainer("all", seed=5)
    straight.fit(X, Y, epochs=4, batch_size=16, progress=False)
    broken.fit(X, Y, epochs=2, batch_size=16, progress=False)
    broken.save_checkpoint(tmp_path / "c")
    fresh = bp.Trainer(bp.Sequential([bp.Dense(6, "tanh"), *LAYERS["all"](), bp.Dense(2)], dtype="float64", seed=9), "squared_error",
                       bp.SGD(0.1, momentum=0.5))
    fresh.load_checkpoint(tmp_path / "c")
    fresh.fit(X, Y, epochs=2, batch_size=16, progress=False)
    assert state(fresh.net) == state(straight.net)


def test_early_stopping_puts_the_buffers_back():
    t = trainer("batch_norm")
    kept = []

    class Keep(bp.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            kept.append(state(trainer.net))
            logs["score"] = 1.0 / epoch

    t.fit(X, Y, epochs=6, callbacks=[Keep(), bp.EarlyStopping("score", patience=3, mode="max")], progress=False)
    assert len(kept) == 4 and state(t.net) == kept[0] != kept[-1]


def test_part_of_a_model(tmp_path):
    small = make("batch_norm")
    big = bp.Sequential([bp.Input(5), bp.Dense(6, "tanh"), bp.BatchNorm(), bp.Dense(2), bp.Dense(3)], dtype="float64", seed=8)
    small.buffers["1.running_mean"][...] = 3.0
    small.save(tmp_path / "m")
    before = state(big)
    with pytest.raises(ValueError, match="missing 3.weight, 3.bias"):
        big.load_weights(tmp_path / "m")
    wrong = {**small.parameters, "0.weight": np.ones((4, 6)), "1.gain": np.ones(7)}
    with pytest.raises(bp.ShapeError, match=r"0.weight has shape \(4, 6\), the network's is \(5, 6\), 1.gain has shape \(7,\)"):
        big.load_weights(wrong, strict=False)
    with pytest.raises(ValueError, match="unexpected head"):
        small.load_weights({**small.parameters, **small.buffers, "head": np.ones(3)})
    assert state(big) == before
    report = big.load_weights(tmp_path / "m", strict=False)
    assert report.missing == ["3.weight", "3.bias"] and report.unexpected == [] and len(report.loaded) == 8
    assert all((big.parameters[k] == v).all() for k, v in small.parameters.items()) and (big.buffers["1.running_mean"] == 3).all()
    report = small.load_weights({"0.weight": np.zeros((5, 6), "float32"), "other": 1}, strict=False)
    assert report == (["0.weight"], [k for k in [*small.parameters, *small.buffers] if k != "0.weight"], ["other"])
    assert (small.parameters["0.weight"] == 0).all()
    with pytest.raises(ValueError, match="no input size"):
        bp.Sequential([bp.Dense(2)]).load_weights({})


def test_a_file_that_lacks_tensors(tmp_path):
    from backprop.files import read_tensors, write_tensors
    net = make("batch_norm", seed=4)
    net.parameters["0.bias"][...] = 5.0
    net.save(tmp_path / "m")
    tensors, metadata = read_tensors(tmp_path / "m")
    part = {k: np.array(v) for k, v in tensors.items() if not k.startswith("2.")} | {"extra": np.ones(2)}
    write_tensors(tmp_path / "part", part, metadata)
    with pytest.raises(bp.FileFormatError, match="2.weight"):
        bp.load(tmp_path / "part")
    net2 = bp.load(tmp_path / "part", strict=False)
    assert net2.loaded.missing == ["2.weight", "2.bias"] and net2.loaded.unexpected == ["extra"]
    assert (net2.parameters["0.bias"] == 5).all() and np.isfinite(net2.predict(X)).all() and net2.parameters["2.weight"].any()


def test_a_file_of_layers_nested_without_end(tmp_path):
    import json
    from backprop.files import read_tensors, write_tensors
    bp.Sequential([bp.Input(5), bp.Residual(bp.Dense(5))]).save(tmp_path / "m")
    tensors, metadata = read_tensors(tmp_path / "m")
    record = json.loads(metadata["network"])
    layer = record["layers"][0]
    for _ in range(200):
        layer = {"class": "Residual", "config": {"layers": [{"layer": layer}], "activation": None}, "name": None, "trainable": True}
    metadata["network"] = json.dumps({**record, "layers": [layer]})
    write_tensors(tmp_path / "m", {k: np.array(v) for k, v in tensors.items()}, metadata)
    with pytest.raises(bp.FileFormatError, match="nested too deeply"):
        bp.load(tmp_path / "m")


# ---------------------------------------------------------------- layers within layers, settings, errors

def test_names_flags_and_copies_of_layers_within_layers():
    inner = bp.Dense(6, name="wide")
    block = bp.Residual([bp.LayerNorm(), inner])
    net = bp.Sequential([bp.Input(6), block, bp.Dense(2)])
    assert list(net.parameters)[:4] == ["0.0.gain", "0.0.shift", "0.wide.weight", "0.wide.bias"]
    assert len(net.trainable()) == 6
    block.trainable = False
    assert len(net.trainable()) == 2 and not inner.trainable
    block.trainable, inner.trainable = True, False
    assert len(net.trainable()) == 4 and not inner.trainable
    twin = block.copy()
    assert [type(f) for f in twin.layers] == [bp.LayerNorm, bp.Dense] and not twin.layers[1].trainable and twin.layers[1].name == "wide"
    assert twin.layers[0] is not block.layers[0] and twin.parameters == []
    with pytest.raises(ValueError, match="part of another layer already"):
        bp.Residual(inner)
    assert "Residual" in str(net.summary())


def test_a_network_finds_its_input_size_within_nested_layers():
    net = bp.Sequential([bp.Residual([bp.Dense(4), bp.Dense(5)]), bp.BatchNorm(), bp.Dense(2)])
    t = bp.Trainer(net, "squared_error")
    with pytest.raises(bp.ShapeError, match=r"x is \(n, 3\), f\(x\) is \(n, 5\)"):
        t.step(X[:, :3], Y)
    assert not net.built and net.layers[0].layers[0].parameters == []
    t.step(X, Y)
    assert net.parameters["0.1.weight"].shape == (4, 5)


@pytest.mark.parametrize("layer", [
    bp.LayerNorm(0.1, False, True), bp.BatchNorm(0.2, 0.3, True, False), bp.PReLU(True, 0.5), bp.PReLU(init=bp.init.Normal(0.1)),
    bp.Residual([bp.Dense(3, "relu"), bp.PReLU()], "tanh"),
])  # fmt: skip
def test_config_makes_the_layer_again(layer):
    def settings(f):
        return type(f), {k: v for k, v in f.config().items() if k != "layers"}, [settings(g) for g in f.layers]
    assert settings(type(layer)(**layer.config())) == settings(layer)
    assert type(layer).__name__ in repr(layer)


@pytest.mark.parametrize("make, error, words", [
    (lambda: bp.LayerNorm(eps=-1), ValueError, "eps must be a finite number, not negative"),
    (lambda: bp.LayerNorm(eps="1"), ValueError, "eps"),
    (lambda: bp.BatchNorm(momentum=1.5), ValueError, r"momentum must be in \[0, 1\]"),
    (lambda: bp.BatchNorm(eps=np.inf), ValueError, "eps"),
    (lambda: bp.PReLU(init="what"), ValueError, "unknown initializer"),
    (lambda: bp.Residual([]), ValueError, "must not be empty"),
    (lambda: bp.Residual(3), TypeError, "a layer or a list of layers"),
    (lambda: bp.Residual([3]), TypeError, "holds layers"),
    (lambda: bp.Residual(bp.Dense(2), "what"), ValueError, "activation must be one of"),
    (lambda: bp.Residual(bp.Dense(2))(bp.Input(3)), bp.ShapeError, r"Residual.*\(n, 3\).*x is \(n, 3\), f\(x\) is \(n, 2\)"),
    (lambda: bp.BatchNorm()(bp.Input(0)), bp.ShapeError, "BatchNorm"),
    (lambda: bp.PReLU()(bp.Input()), bp.ShapeError, "PReLU"),
    (lambda: bp.Input(3, dtype="int64"), TypeError, "dtype must be"),
])  # fmt: skip
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_layer_built_for_another_width():
    norm = bp.BatchNorm()
    norm(bp.Input(3))
    with pytest.raises(bp.ShapeError, match="running mean has shape"):
        norm(bp.Input(4))


def test_more_axes_than_two():
    x = RNG.normal(size=(20, 3, 4))
    net = bp.Sequential([bp.Input(3, 4), bp.BatchNorm(eps=0.0), bp.LayerNorm(scale=False, eps=0.0)], dtype="float64")
    out = net(x, training=True)
    y = (x - x.mean((0, 1))) / x.std((0, 1))
    np.testing.assert_allclose(out, (y - y.mean(2, keepdims=True)) / y.std(2, keepdims=True), rtol=1e-9, atol=1e-12)
    net.forward(x)
    np.testing.assert_allclose(net.buffers["0.running_var"], 0.9 + 0.1 * x.reshape(-1, 4).var(0, ddof=1), rtol=1e-12)


# ---------------------------------------------------------------- dtypes, dropout, output bias

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_of_a_network_are_rounded_to_its_dtype_alone(tmp_path, dtype):
    c = np.array([0.1, 1 / 3, np.pi, 1e-3, 7.7])
    x = bp.Input(5, dtype=dtype)
    net = bp.Network(x, bp.Dense(2)(x * c + bp.tensor(np.full(5, 0.5, "float32"))), dtype=dtype, seed=1)
    w, b = net.parameters.values()
    x64 = X.astype(dtype)
    want = (x64 * c.astype(dtype) + np.asarray(0.5, dtype)) @ w + b
    np.testing.assert_allclose(net.predict(X), want, rtol=1e-13 if dtype == "float64" else 1e-4, atol=0 if dtype == "float64" else 1e-5)
    net.save(tmp_path / "m")
    assert bp.load(tmp_path / "m").predict(X).tobytes() == net.predict(X).tobytes()


def test_random_numbers_within_a_float64_network():
    x = bp.Input(5)
    net = bp.Network(x, bp.dropout(x, 0.5, training=True) * 1.0, dtype="float64")
    out = net.predict(X)
    assert set(np.unique((out / X).round(12))) == {0.0, 2.0}


def test_dropout_has_a_gradient_in_either_mode():
    x = bp.tensor(X, requires_grad=True)
    bp.sum(bp.dropout(x, 0.5) * 3.0).backward()  # outside of training nothing is dropped
    assert (x.grad == 3).all()
    bp.gradcheck(lambda t: bp.tanh(bp.dropout(t, 0.5)), [X[:4]])
    z = bp.Input(5)
    slope = bp.grad(bp.sum(bp.square(bp.dropout(z, 0.5))), [z])[0]  # chosen afterwards, the mask is the same
    net = bp.Network(z, [bp.dropout(z, 0.5) * 1.0, slope], dtype="float64")
    np.testing.assert_allclose(net.predict(X)[1], 2 * X)
    d = net(X, training=True)[1]
    assert set(np.unique((d / X).round(12))) == {0.0, 8.0}


def test_lecture_d_output_bias_at_the_mean_target():
    """D: the mean target, or its inverse sigmoid: mean 0.2 gives -1.3862944."""
    y = np.array([1.0, 0, 0, 0, 0])
    net = bp.Sequential([bp.Input(3), bp.Dense(4, "tanh"), bp.Dense(1)], dtype="float64")
    net.set_output_bias(y, "binary_cross_entropy")
    assert net.parameters["1.bias"][0] == pytest.approx(-1.3862944, abs=5e-8)
    net.set_output_bias(y)
    assert net.parameters["1.bias"][0] == pytest.approx(0.2)
    labels = np.array([0, 0, 1, 2])
    net = bp.Sequential([bp.Input(3), bp.Dense(3)], dtype="float64")
    net.set_output_bias(labels, bp.losses.CrossEntropy())
    np.testing.assert_allclose(net.parameters["0.bias"], np.log([0.5, 0.25, 0.25]))
    net.set_output_bias(np.eye(3)[labels], "cross_entropy")
    np.testing.assert_allclose(bp.init.output_bias(labels, "cross_entropy"), net.parameters["0.bias"])
    before = net.flat_parameters.copy()
    for bad, loss, words in ((labels * 0, "cross_entropy", "class 1 does not occur"), (labels, "cross", "loss"),
                             (labels + 1, "cross_entropy", "label 3 is out of range"), (y, "squared_error", "1 columns"),
                             (labels - 0.5, "cross_entropy", "whole numbers"), (y * np.nan, "squared_error", "finite")):
        with pytest.raises(ValueError, match=words):
            net.set_output_bias(bad, loss)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bp.init.output_bias(np.ones(4), "binary_cross_entropy")
    with pytest.raises(ValueError, match="not made by a Dense layer"):
        bp.Sequential([bp.Input(3), bp.Dense(1, "tanh")]).set_output_bias(y)
    assert (net.flat_parameters == before).all()
