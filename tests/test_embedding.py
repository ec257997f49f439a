"""Embeddings: lookups, sparse gradients, and updates that touch only the rows that a step has seen."""

import numpy as np
import pytest

import backprop as bp
from backprop import network as network_module
from backprop import optim, sparse
from backprop import trainer as trainer_module
from backprop.graph import BATCH

V, D, WORDS, HIDDEN, CLASSES, ROWS = 23, 3, 5, 6, 4, 17
rng = np.random.default_rng(7)
IDS = rng.integers(0, V - 5, (60, WORDS)).astype("int32")  # the last 5 words never occur; 60 x 5 ids of 18 words: many twice
IDS[::7, 1:3] = 0  # padding, in some tests
Y = rng.integers(0, CLASSES, 60)

OPTIMIZERS = {
    "sgd": lambda: bp.SGD(0.1), "momentum": lambda: bp.SGD(0.05, momentum=0.9),
    "nesterov": lambda: bp.SGD(0.05, momentum=0.9, nesterov=True), "sgd_l2": lambda: bp.SGD(0.1, weight_decay=0.01),
    "adam": lambda: bp.Adam(0.01), "adamw": lambda: bp.AdamW(0.01, weight_decay=0.02), "amsgrad": lambda: optim.AMSGrad(0.01),
    "sparse_adam": lambda: optim.SparseAdam(0.01), "adagrad": lambda: bp.Adagrad(0.05), "rmsprop": lambda: bp.RMSprop(0.005),
}  # fmt: skip


def batches(steps, size=ROWS):
    for s in range(steps):
        at = np.arange(s * size, (s + 1) * size) % len(IDS)
        yield IDS[at], Y[at]


def windows(padding=None, dtype="float64", seed=3, **settings):
    table = bp.Embedding(V, D, padding=padding, **settings)
    return bp.Sequential([table, bp.Flatten(), bp.Dense(HIDDEN, "tanh"), bp.Dense(CLASSES)], dtype=dtype, seed=seed)


def kept(trainer, name="0.weight"):
    """The arrays that the optimiser keeps for a parameter, by slot."""
    size = trainer.net.flat_parameters.size
    return {slot: trainer.net._views(trainer.state[i * size:(i + 1) * size])[name].copy() for i, slot in enumerate(trainer.slots)}


# ---------------------------------------------------------------- the same in NumPy

def rule(name, p, g, s, t):
    """One update in NumPy, of any array: the new parameter; `s` holds the state by name and is changed."""
    lr = {"sgd": 0.1, "sgd_l2": 0.1, "momentum": 0.05, "nesterov": 0.05, "adagrad": 0.05, "rmsprop": 0.005}.get(name, 0.01)
    c1, c2 = 1 - 0.9**t, 1 - 0.999**t
    if name == "sgd_l2":
        g = g + 0.01 * p
    if name in ("sgd", "sgd_l2"):
        return p - lr * g
    if name in ("momentum", "nesterov"):
        s["velocity"] = 0.9 * s["velocity"] + g
        return p - lr * (g + 0.9 * s["velocity"] if name == "nesterov" else s["velocity"])
    if name == "adagrad":
        s["sum"] = s["sum"] + g * g
        return p - lr * g / (np.sqrt(s["sum"]) + 1e-10)
    if name == "rmsprop":
        s["v"] = 0.99 * s["v"] + 0.01 * g * g
        return p - lr * g / (np.sqrt(s["v"]) + 1e-8)
    if name == "adamw":
        p = p * (1 - lr * 0.02)
    s["m"], s["v"] = 0.9 * s["m"] + 0.1 * g, 0.999 * s["v"] + 0.001 * g * g
    if name == "sparse_adam":
        return p - lr * np.sqrt(c2) / c1 * s["m"] / (np.sqrt(s["v"]) + 1e-8)
    v = s["v"]
    if name == "amsgrad":
        v = s["vmax"] = np.maximum(s["vmax"], v)
    return p - lr * (s["m"] / c1) / (np.sqrt(v / c2) + 1e-8)


def reference(name, parameters, steps, padding):
    """The window network trained in NumPy; the table's rule runs over the rows that a batch has, all others lie still."""
    p = {k: v.copy() for k, v in parameters.items()}
    state = {k: {slot: np.zeros_like(v) for slot in OPTIMIZERS[name]().slots} for k, v in p.items()}
    for t, (ids, y) in enumerate(batches(steps), 1):
        n = len(ids)
        e = p["0.weight"][ids]
        if padding is not None:
            e = np.where((ids == padding)[..., None], 0, e)
        x = e.reshape(n, -1)
        h = np.tanh(x @ p["2.weight"] + p["2.bias"])
        z = h @ p["3.weight"] + p["3.bias"]
        d = np.exp(z - z.max(1, keepdims=True))
        d /= d.sum(1, keepdims=True)
        d[np.arange(n), y] -= 1
        d /= n
        dh = (d @ p["3.weight"].T) * (1 - h * h)
        table = np.zeros((V, D))
        np.add.at(table, ids, (dh @ p["2.weight"].T).reshape(n, WORDS, D))
        touched = np.setdiff1d(ids, [] if padding is None else [padding])
        grads = {"2.weight": x.T @ dh, "2.bias": dh.sum(0), "3.weight": h.T @ d, "3.bias": d.sum(0)}
        for k, g in grads.items():
            p[k] = rule(name, p[k], g, state[k], t)
        rows = {slot: a[touched] for slot, a in state["0.weight"].items()}
        p["0.weight"][touched] = rule(name, p["0.weight"][touched], table[touched], rows, t)
        for slot, a in rows.items():
            state["0.weight"][slot][touched] = a
    return p, state["0.weight"]


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hundred_steps_as_in_numpy(name, padding):
    net = windows(padding)
    net.build(IDS)
    parameters, state = reference(name, net.parameters, 100, padding)
    trainer = bp.Trainer(net, optimizer=OPTIMIZERS[name]())
    for x, y in batches(100):
        trainer.step(x, y)
    for k, want in parameters.items():
        np.testing.assert_allclose(net.parameters[k], want, rtol=1e-9, atol=1e-12)
    for slot, got in kept(trainer).items():
        np.testing.assert_allclose(got, state[slot], rtol=1e-9, atol=1e-14)
    assert "row_update" in trainer.describe(ROWS) and "scatter_add" not in trainer.describe(ROWS)
    if padding is not None:
        assert not net.parameters["0.weight"][padding].any()


TORCH = {"sparse_adam": (lambda: optim.SparseAdam(0.01), "SparseAdam", {"lr": 0.01}),
         "sgd": (lambda: bp.SGD(0.1), "SGD", {"lr": 0.1}),
         "adagrad": (lambda: bp.Adagrad(0.05, lr_decay=0.01), "Adagrad", {"lr": 0.05, "lr_decay": 0.01})}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize("bag", [None, "mean", "sum"])
@pytest.mark.parametrize("name", TORCH)
def test_a_hundred_steps_as_in_pytorch(name, bag):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    make, cls, arguments = TORCH[name]
    if bag is None:
        layers = [bp.Embedding(V, D, padding=0), bp.Flatten(), bp.Dense(CLASSES, trainable=False)]
        net = bp.Sequential(layers, dtype="float64", seed=1)
        net.build(IDS)
        vectors = torch.tensor(net.parameters["0.weight"])
        table = torch.nn.Embedding.from_pretrained(vectors, freeze=False, padding_idx=0, sparse=True)
        w, b = (torch.tensor(net.parameters[f"2.{k}"]) for k in ("weight", "bias"))
        scores = lambda ids: table(ids).flatten(1) @ w + b  # noqa: E731
    else:
        net = bp.Sequential([bp.EmbeddingBag(V, CLASSES, bag, padding=0)], dtype="float64", seed=1)
        net.build(IDS)
        scores = table = torch.nn.EmbeddingBag.from_pretrained(torch.tensor(net.parameters["0.weight"]), freeze=False, mode=bag,
                                                               padding_idx=0, sparse=True)
    optimizer = getattr(torch.optim, cls)([table.weight], **arguments)
    trainer = bp.Trainer(net, optimizer=make())
    for x, y in batches(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores(torch.tensor(x.astype("int64"))), torch.tensor(y))
        loss.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-9)
    np.testing.assert_allclose(net.parameters["0.weight"], table.weight.detach().numpy(), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- what is touched

@pytest.mark.parametrize("rules", [{}, {"l2": 0.01, "l1": 0.001, "clip_norm": 0.1, "clip_value": 0.05, "ema": 0.9,
                                        "max_norm": 0.5}])
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_lecture_b_untouched_rows_and_their_moments_keep_their_bits(name, rules):
    trainer = bp.Trainer(windows(dtype="float32"), optimizer=name, **rules)
    for x, y in batches(8):
        trainer.step(x, y)
    table, state = trainer.net.parameters["0.weight"], kept(trainer)
    before = table.copy()
    some = IDS[np.isin(IDS, [2, 3, 5, 8, 11]).all(1) | (np.arange(len(IDS)) == 4)][:1]
    trainer.step(some, Y[:1])
    others = np.setdiff1d(np.arange(V), some)
    assert table[others].tobytes() == before[others].tobytes()
    assert (table[np.unique(some)] != before[np.unique(some)]).any(1).all()
    for slot, a in kept(trainer).items():
        assert a[others].tobytes() == state[slot][others].tobytes(), slot


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_the_padding_row_stays_zero(name):
    net = windows(padding=0, dtype="float32")
    trainer = bp.Trainer(net, optimizer=name, l2=0.01)
    for x, y in batches(10):
        trainer.step(x, y)
    assert net.parameters["0.weight"][0].tobytes() == bytes(4 * D)
    assert not any(a[0].any() for a in kept(trainer).values())


def test_a_frozen_table_has_no_gradient_and_takes_no_memory():
    net = windows(trainable=False)
    trainer = bp.Trainer(net, optimizer="adam")
    x, y = next(batches(1))
    loss, grads = trainer.loss_and_gradients(x, y)
    before = net.parameters["0.weight"].copy()
    trainer.step(x, y)
    assert net.parameters["0.weight"].tobytes() == before.tobytes()
    assert len(grads["0.weight"].ids) == 0 and not any(a.any() for a in kept(trainer).values())
    assert "row_update" not in trainer.describe(ROWS) and "scatter" not in trainer.describe(ROWS)
    net.layers[0].trainable = True
    trainer.step(x, y)
    assert (net.parameters["0.weight"] != before).any()


def test_a_large_table_costs_what_is_touched():
    net = bp.Sequential([bp.Embedding(300_000, 32, init="zeros"), bp.Flatten(), bp.Dense(2)], seed=0)
    net.build(IDS)
    assert net.flat_gradients.size < 1000
    trainer = bp.Trainer(net, optimizer="adam")
    text = trainer.describe(len(IDS))
    assert "row_update" in text and "[300000,32]" not in text
    trainer.step(IDS, Y % 2)
    bp.Trainer(net, optimizer="adam").loss_and_gradients(IDS, Y % 2)


# ---------------------------------------------------------------- gradients

def dense_gradient(trainer, x, y, name="0.weight"):
    """The table's gradient by central differences of the mean loss."""
    table, out = trainer.net.parameters[name], {}
    for at in np.ndindex(table.shape):
        old = table[at]
        values = []
        for h in (1e-5, -1e-5):
            table[at] = old + h
            values.append(trainer.evaluate(x, y)["loss"])
        table[at] = old
        out[at] = (values[0] - values[1]) / 2e-5
    return np.array(list(out.values())).reshape(table.shape)


def shared_network(dtype="float64"):
    """One table, looked up four times: windows, single words, a sum and a sum again of the same words."""
    words, word, text = bp.Input(WORDS, dtype="int32"), bp.Input(dtype="int32"), bp.Input(7, dtype="int32")
    table = bp.Embedding(V, D)
    table(words)
    w = table.weight.tensor
    parts = [bp.reshape(table(words), (BATCH, WORDS * D)), bp.tanh(table(word)), bp.bag(w, text), bp.bag(w, text) * 2.0]
    return bp.Network([words, word, text], [bp.Dense(CLASSES)(bp.concatenate(parts, 1))], dtype=dtype, seed=2)


def shared_data(n=11):
    r = np.random.default_rng(1)
    return [r.integers(0, V - 5, (n, k)) if k else r.integers(0, V - 5, n) for k in (WORDS, 0, 7)], r.integers(0, CLASSES, n)


def bags(mode, padding):
    return bp.Sequential([bp.EmbeddingBag(V, CLASSES, mode, padding=padding)], dtype="float64", seed=1)


def two_texts():
    """A question and an answer through one mean of vectors with padding: texts of different lengths, a table of rows shared."""
    a, b = bp.Input(4, dtype="int32"), bp.Input(6, dtype="int32")
    layer = bp.EmbeddingBag(V, D, padding=0)
    return bp.Network([a, b], [bp.Dense(CLASSES)(bp.tanh(layer(a)) * layer(b))], dtype="float64", seed=2)


def weighted_texts():
    ids, weights = bp.Input(4, dtype="int32"), bp.Input(4)
    layer = bp.Embedding(V, D)
    layer(ids)
    return bp.Network([ids, weights], [bp.Dense(CLASSES)(bp.concatenate([
        bp.bag(layer.weight.tensor, ids, weights), layer(ids)[:, 0]], 1))], dtype="float64", seed=2)


CASES = {
    "windows": lambda: (windows(), IDS[:9], Y[:9]), "padding": lambda: (windows(0), IDS[:9], Y[:9]),
    "mean": lambda: (bags("mean", 0), IDS[:9], Y[:9]), "sum": lambda: (bags("sum", None), IDS[:9], Y[:9]),
    "shared": lambda: (shared_network(), *shared_data()),
    "two texts": lambda: (two_texts(), [IDS[:9, :4], np.concatenate([IDS[9:18], IDS[:9, :1]], 1)], Y[:9]),
    "weighted": lambda: (weighted_texts(), [IDS[:9, :4], np.linspace(-1, 1, 36).reshape(9, 4)], Y[:9]),
}  # fmt: skip


def table_name(net):
    return next(k for k, p in net.parameters.items() if p.shape[0] == V)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_a_table(case):
    net, x, y = CASES[case]()
    trainer = bp.Trainer(net, optimizer=bp.SGD(0.1))
    _, grads = trainer.loss_and_gradients(x, y)
    name = table_name(net)
    g = grads[name]
    assert isinstance(g, bp.RowGradient) and g.shape == (V, net.parameters[name].shape[1])
    assert (np.diff(g.ids) > 0).all() and g.ids.dtype == np.int32 and g.rows.shape == (len(g.ids), g.shape[1])
    np.testing.assert_allclose(g.dense(), dense_gradient(trainer, x, y, name), atol=1e-8)
    np.testing.assert_array_equal(np.asarray(g, "float32"), g.dense().astype("float32"))
    before = net.parameters[name].copy()
    trainer.step(x, y)
    np.testing.assert_allclose(net.parameters[name], before - 0.1 * g.dense(), rtol=0, atol=1e-14)


def test_lecture_b_a_word_that_stands_twice_in_a_window_gets_the_sum():
    # "museums in Paris are in", d = 3: dJ/dx splits into one gradient for each word, and "in" gets two of them
    net = bp.Sequential([bp.Embedding(V, D), bp.Flatten(), bp.Dense(HIDDEN, "sigmoid"), bp.Dense(1)], dtype="float64", seed=4)
    window = np.array([[4, 9, 2, 7, 9]])
    trainer = bp.Trainer(net, loss="binary_cross_entropy", optimizer=bp.SGD(0.1))
    _, grads = trainer.loss_and_gradients(window, [1.0])
    x = bp.tensor(net.parameters["0.weight"][window[0]].reshape(1, -1), requires_grad=True)
    p = {k: bp.tensor(v) for k, v in net.parameters.items() if k[0] != "0"}
    score = bp.sigmoid(x @ p["2.weight"] + p["2.bias"]) @ p["3.weight"] + p["3.bias"]
    bp.sum(bp.binary_cross_entropy(score, np.ones((1, 1)))).backward()
    words = x.grad.reshape(WORDS, D)
    g = grads["0.weight"]
    np.testing.assert_array_equal(g.ids, [2, 4, 7, 9])
    np.testing.assert_allclose(g.rows, [words[2], words[0], words[3], words[1] + words[4]], rtol=1e-12)


def test_lecture_e7_skip_gram_numbers():
    np.random.seed(9265)
    vectors = np.random.randn(10, 3)
    vectors /= np.sqrt((vectors**2).sum(1, keepdims=True))
    centre, outside = bp.tensor(vectors[:5], requires_grad=True), bp.tensor(vectors[5:], requires_grad=True)
    context = [0, 1, 4, 3, 1, 2]  # a, b, e, d, b, c around c
    scores = bp.take(centre, [2] * len(context)) @ outside.T
    loss = bp.sum(bp.softmax_cross_entropy(scores, context))
    assert loss.item() == pytest.approx(11.16610900153398, rel=1e-14)
    loss.backward()
    want = np.zeros((5, 3))
    want[2] = [-1.26947339, -1.36873189, 2.45158957]
    np.testing.assert_allclose(centre.grad, want, atol=1e-8)
    np.testing.assert_allclose(outside.grad, [
        [-0.41045956, 0.18834851, 1.43272264], [0.38202831, -0.17530219, -1.33348241], [0.07009355, -0.03216399, -0.24466386],
        [0.09472154, -0.04346509, -0.33062865], [-0.13638384, 0.06258276, 0.47605228]], atol=1e-8)


def test_lecture_b_skip_gram_as_a_network_trains_both_tables():
    centre, outside = bp.Input(dtype="int32"), bp.Input(6, dtype="int32")
    inner, outer = bp.Embedding(50, 3, name="centre"), bp.Embedding(50, 3, name="outside")
    score = bp.sum(bp.reshape(inner(centre), (BATCH, 1, 3)) * outer(outside), 2)
    net = bp.Network([centre, outside], [score], dtype="float64", seed=5)
    trainer = bp.Trainer(net, loss="binary_cross_entropy", optimizer=bp.Adagrad(0.1))
    before = {k: v.copy() for k, v in net.parameters.items()}
    x = [np.array([2, 2, 7]), np.array([[1, 4, 3, 1, 2, 9]] * 3)]
    targets = np.array([[1, 1, 1, 1, 1, 0.0]] * 3)
    losses = [trainer.step(x, targets) for _ in range(50)]
    assert losses[-1] < 0.5 * losses[0]
    changed = {k: np.flatnonzero((before[k] != v).any(1)).tolist() for k, v in net.parameters.items()}
    assert changed == {"centre.weight": [2, 7], "outside.weight": [1, 2, 3, 4, 9]}


def test_a_table_that_is_used_in_another_way_too_has_a_dense_gradient():
    ids = bp.Input(dtype="int32")
    layer = bp.Embedding(V, D)
    h = bp.tanh(layer(ids))
    net = bp.Network([ids], [bp.matmul(h, layer.weight.tensor, transpose_b=True)], dtype="float64", seed=1)  # tied weights
    trainer = bp.Trainer(net, optimizer=bp.SGD(0.1))
    x, y = IDS[:9, 0], IDS[:9, 1]
    _, grads = trainer.loss_and_gradients(x, y)
    (name,) = net.parameters
    assert type(grads[name]) is np.ndarray
    np.testing.assert_allclose(grads[name], dense_gradient(trainer, x, y, name), atol=1e-8)
    assert "scatter_add" in trainer.describe(9) and "row_update" not in trainer.describe(9)
    before, g = net.parameters[name].copy(), grads[name].copy()
    trainer.step(x, y)
    np.testing.assert_allclose(net.parameters[name], before - 0.1 * g, rtol=0, atol=1e-14)


def test_lookups_that_do_not_go_together_have_a_dense_gradient():
    ids = bp.Input(4, dtype="int32")
    layer = bp.Embedding(V, D, padding=0)
    first = layer(ids)
    net = bp.Network([ids], [bp.sum(first, 1) + bp.bag(layer.weight.tensor, ids)], dtype="float64", seed=1)  # two paddings
    assert not net._tables
    trainer = bp.Trainer(net, loss="squared_error", optimizer=bp.SGD(0.1))
    y = np.ones((9, D))
    g = trainer.loss_and_gradients(IDS[:9, :4], y)[1]["embedding0.weight"]
    np.testing.assert_allclose(g, dense_gradient(trainer, IDS[:9, :4], y, "embedding0.weight"), atol=1e-8)


@pytest.mark.parametrize("attrs", [{}, {"padding": 1}, {"bag": True}, {"bag": True, "mean": True, "padding": 1}])
def test_coalesced_rows_are_the_gradient(attrs):
    ids = np.array([[3, 1, 3], [0, 3, 1]], "int32")
    lead = ids.shape[:1] if attrs.get("bag") else ids.shape
    rows = np.arange(1.0, 1 + 2 * np.prod(lead)).reshape(*lead, 2)
    attributes = {**bp.ops.row_attrs(**attrs), "rows": 5}
    node = bp.ops.apply("scatter_rows", [bp.tensor(rows), bp.tensor(ids, dtype="int32")], attributes)
    total = sparse.row_sum(node)
    got = sparse.RowGradient.picked(*(np.asarray(t.value) for t in total.parts()), (5, 2))
    np.testing.assert_allclose(got.dense(), node.value, rtol=1e-15)
    first = total.first().value.reshape(-1).tolist()
    assert first == ([0, 1, 0, 3, 0, 1] if "padding" not in attrs else [0, -1, 0, 3, 0, -1])
    assert float(bp.sum(bp.square(total.coalesced()))) == pytest.approx((node.value**2).sum())


def test_row_gradients_add_up():
    a = bp.RowGradient.summed(np.array([3, 1, 3, -1]), np.array([[1.0], [2], [4], [9]]), (5, 1))
    b = bp.RowGradient.summed(np.array([0, 3]), np.array([[1.0], [1]]), (5, 1))
    np.testing.assert_array_equal((a + b).dense(), [[1], [2], [0], [6], [0]])
    assert a.ids.tolist() == [1, 3] and "2 rows" in repr(a)
    with pytest.raises(ValueError, match="copy=False"):
        np.array(a, copy=False)


class Rows(bp.Layer):
    """A table with rows of any shape."""

    def __init__(self, rows, shape):
        super().__init__()
        self.shape = (rows, *shape)

    def build(self, shape):
        self.weight = self.parameter("weight", self.shape, bp.init.Normal(1.0))

    def forward(self, x):
        return bp.take(self.weight.tensor, x)


def random_network(seed):
    """A network that looks up one table in up to three ways, and data for it."""
    r = np.random.default_rng(seed)
    rows, width, n = int(r.integers(3, 40)), tuple(map(int, r.integers(1, 5, r.integers(0, 3)))), int(r.integers(1, 300))
    padding, mean = [None, 0, -1][r.integers(3)], bool(r.integers(2))
    layer = Rows(rows, width)
    layer(bp.Input(1, dtype="int32"))
    table, x = layer.weight.tensor, bp.Input(1)
    inputs, data, y = [x], [r.normal(size=(n, 1))], x * 1.0
    for _ in range(r.integers(1, 4)):
        words = int(r.integers(0, 6))
        if r.random() < 0.2:
            y = y + bp.sum(bp.take(table, r.integers(0, rows, 4), padding)) * 0.1  # the same rows in every batch
            continue
        ids = bp.Input(words, dtype="int32")
        inputs.append(ids)
        data.append(r.integers(-1 if padding == -1 else 0, rows, (n, words)))
        if r.random() < 0.5:
            found = bp.take(table, ids, padding)
        elif mean or r.random() < 0.5:
            found = bp.bag(table, ids, mean=mean, padding=padding)
        else:
            inputs.append(bp.Input(words))
            data.append(r.normal(size=(n, words)))
            found = bp.bag(table, ids, inputs[-1], padding=padding)
        found = bp.reshape(found, (BATCH, int(np.prod(found.shape[1:]))))
        y = y + bp.tanh(bp.sum(found, 1, keepdims=True)) * 0.1
    net = bp.Network(inputs, [bp.Dense(1)(y)], dtype="float64", seed=seed)
    return net, data, [a[:1] for a in data], r.normal(size=(n, 1))


@pytest.mark.parametrize("seed", range(40))
def test_sparse_equals_dense(seed, monkeypatch):
    got, found = [], network_module.tables
    for tables in (found, lambda outputs, sources: {}):  # SGD and Adagrad change nothing where a gradient is zero, lazy or not
        monkeypatch.setattr(network_module, "tables", tables)
        net, *xs, y = random_network(seed)
        x, one = xs if len(xs[0]) > 1 else (xs[0][0], xs[1][0])
        trainer = bp.Trainer(net, loss="squared_error", optimizer=[bp.SGD(0.05), bp.Adagrad(0.05)][seed % 2],
                             **[{}, {"clip_norm": 0.01}, {"clip_value": 1e-3}][seed % 3])
        losses = [trainer.step(x, y), trainer.step(one, y[:1])]
        _, grads = trainer.loss_and_gradients(x, y)
        assert ("row_update" in trainer.describe(len(y))) == bool(net._tables)
        grads = [np.array(g) for g in grads.values()]
        net.forward(x)
        net.backward(np.ones((len(y), 1)))
        trainer.apply()
        got.append([*losses, net.flat_parameters, *grads])
    for a, b in zip(*got):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- forward, backward and apply by hand

def test_backward_and_apply_make_the_update_of_a_step():
    x, y = IDS[:12], np.eye(CLASSES)[Y[:12]]
    one, two = windows(), windows()
    step, hand = (bp.Trainer(net, loss="squared_error", optimizer=bp.Adam(0.01)) for net in (one, two))
    for k in range(3):
        step.step(x, y)
        for part in (slice(0, 5), slice(5, 12)):  # gradients of two backwards sum
            out = two.forward(x[part])
            assert two.backward(2 * (out - y[part]) / (12 * CLASSES)) is None
        hand.apply()
        assert len(two.gradients["0.weight"].ids) == 0 and not two.flat_gradients.any()
    np.testing.assert_allclose(two.flat_parameters, one.flat_parameters, rtol=1e-12)
    assert hand.t == 3
    hand.loss_and_gradients(x, y)
    step.step(x, y)
    hand.apply()
    np.testing.assert_allclose(two.flat_parameters, one.flat_parameters, rtol=1e-11)


def test_apply_refuses_a_gradient_that_is_not_finite():
    net = windows()
    trainer = bp.Trainer(net)
    trainer.loss_and_gradients(IDS[:3], Y[:3])
    net.gradients["0.weight"].rows[1, 1] = np.nan
    before = net.flat_parameters.tobytes()
    with pytest.raises(bp.NonFiniteError):
        trainer.apply()
    assert net.flat_parameters.tobytes() == before and trainer.t == 0


def test_a_loss_that_is_not_finite_changes_no_row():
    net = windows(dtype="float32")
    trainer = bp.Trainer(net)
    trainer.step(IDS, Y)
    net.parameters["3.weight"][...] = np.inf
    before = net.flat_parameters.tobytes(), trainer.state.tobytes()
    with pytest.raises(bp.NonFiniteError):
        trainer.step(IDS, Y)
    assert (net.flat_parameters.tobytes(), trainer.state.tobytes(), trainer.t) == (*before, 1)


# ---------------------------------------------------------------- the same bits

def result(trainer, epochs=2, **fit):
    trainer.fit(IDS, Y, epochs=epochs, batch_size=ROWS, **fit)
    return trainer.net.flat_parameters.tobytes(), trainer.state.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rules", [{}, {"clip_norm": 0.1, "l2": 0.01}])
def test_threads_fusing_and_late_updates_change_no_bit(dtype, rules, monkeypatch):
    seen = set()
    for threads in (1, 2, 3):
        with bp.threads(threads):
            seen.add(result(bp.Trainer(windows(0, dtype), optimizer=bp.Adam(0.01), **rules)))
    seen.add(result(bp.Trainer(windows(0, dtype), optimizer=bp.Adam(0.01), fuse=False, **rules)))
    monkeypatch.setattr(trainer_module, "_LONG_STEP", 0.0)  # as if the step were long: it updates last
    seen.add(result(bp.Trainer(windows(0, dtype), optimizer=bp.Adam(0.01), **rules)))
    assert len(seen) == 1


def test_fit_is_repeated_steps_bit_for_bit():
    fit = bp.Trainer(windows(dtype="float32"), optimizer="adam")
    fit.fit(IDS, Y, batch_size=ROWS, shuffle=False)
    steps = bp.Trainer(windows(dtype="float32"), optimizer="adam")
    for i in range(0, len(IDS), ROWS):
        steps.step(IDS[i:i + ROWS].astype("int64"), Y[i:i + ROWS])
    assert fit.net.flat_parameters.tobytes() == steps.net.flat_parameters.tobytes()
    assert fit.state.tobytes() == steps.state.tobytes()


@pytest.mark.parametrize("make", [lambda: windows(0, "float32"),
                                  lambda: bp.Sequential([bp.EmbeddingBag(V, CLASSES, padding=0)], seed=1)])
def test_row_blocks_change_no_bit(make, monkeypatch):
    r = np.random.default_rng(0)
    x, y = r.integers(0, V, (1500, WORDS)), r.integers(0, CLASSES, 1500)
    lower, got = trainer_module.lower, {}
    for blocks in (False, True):
        monkeypatch.setattr(trainer_module, "lower", lambda *args, blocks=blocks, **kw: lower(*args, **kw, row_blocks=blocks))
        trainer = bp.Trainer(make(), optimizer="adam")
        trainer.step(x, y)
        trainer.step(x[:700], y[:700])
        assert ("row_blocks" in trainer.describe(1500)) == blocks
        got[blocks] = trainer.net.flat_parameters.tobytes() + trainer.state.tobytes()
    assert got[False] == got[True]


def test_sample_weights_and_dropout():
    def make():
        return bp.Sequential([bp.Embedding(V, D), bp.Dropout(0.5), bp.Flatten(), bp.Dense(CLASSES)], dtype="float64", seed=1)
    once, twice = bp.Trainer(windows(), optimizer=bp.SGD(0.1)), bp.Trainer(windows(), optimizer=bp.SGD(0.1))
    once.step(IDS[:6], Y[:6], sample_weight=[2, 1, 1, 1, 1, 0])
    twice.step(IDS[[0, 0, 1, 2, 3, 4]], Y[[0, 0, 1, 2, 3, 4]])
    np.testing.assert_allclose(once.net.flat_parameters, twice.net.flat_parameters, rtol=1e-13)
    a, b = (bp.Trainer(make(), optimizer=bp.Adam(0.02), seed=1) for _ in range(2))
    first = [a.step(x, y) for x, y in batches(40)]
    assert first == [b.step(x, y) for x, y in batches(40)]
    assert np.mean(first[-10:]) < 0.9 * np.mean(first[:10])


# ---------------------------------------------------------------- layers, files, errors

def test_vectors_are_taken_over_and_the_padding_row_is_zero():
    vectors = rng.normal(size=(V, D)).astype("float32")
    kept_as = vectors.copy()
    layer = bp.Embedding(weights=vectors, padding=4)
    net = bp.Sequential([bp.Input(2, dtype="int32"), layer])
    np.testing.assert_array_equal(vectors, kept_as)
    kept_as[4] = 0
    np.testing.assert_array_equal(net.parameters["0.weight"], kept_as)
    assert (layer.num_embeddings, layer.dim) == (V, D)
    np.testing.assert_array_equal(net.predict([[1, 4]]), kept_as[None, [1, 4]])
    net.initialize(9)
    np.testing.assert_array_equal(net.parameters["0.weight"], kept_as)
    assert bp.Sequential([bp.Embedding(2000, 50)], seed=1).predict([[0]]).shape == (1, 1, 50)
    drawn = bp.Sequential([bp.Input(1, dtype="int32"), bp.Embedding(2000, 50)], seed=1).parameters["0.weight"]
    assert abs((drawn**2).sum(1).mean() - 1) < 0.02


def test_the_padding_of_word_vectors_is_taken_over():
    vectors = bp.WordVectors(["a", "b"], np.ones((2, D))).with_special()
    for layer in (bp.Embedding(weights=vectors), bp.EmbeddingBag(weights=vectors)):
        assert layer.padding == vectors.padding is not None
    assert bp.Embedding(weights=vectors, padding=0).padding == 0
    assert bp.Embedding(weights=vectors.matrix).padding is None


@pytest.mark.parametrize("ids", [IDS, IDS.astype("int64"), IDS.astype("uint8"), IDS.astype("uint64"), IDS.tolist(),
                                 np.asfortranarray(IDS)])
def test_integers_of_all_kinds(ids):
    np.testing.assert_array_equal(windows().predict(ids), windows().predict(IDS))


@pytest.mark.parametrize("shape, out", [((4,), (4, D)), ((4, 3), (4, 3, D)), ((4, 2, 3), (4, 2, 3, D)), ((0, 3), (0, 3, D)),
                                        ((4, 0), (4, 0, D))])
def test_shapes(shape, out):
    assert bp.Sequential([bp.Embedding(V, D)], seed=0).predict(np.ones(shape, "int32")).shape == out
    if len(shape) > 1:
        assert bp.Sequential([bp.EmbeddingBag(V, D)], seed=0).predict(np.ones(shape, "int32")).shape == (*out[:-2], D)


def test_bags_of_nothing_are_zero_and_train():
    for mode in ("sum", "mean"):
        net = bags(mode, 0)
        np.testing.assert_array_equal(net.predict(np.zeros((2, 3), "int32")), np.zeros((2, CLASSES)))
        before = net.flat_parameters.copy()
        bp.Trainer(net).step(np.zeros((2, 3), "int32"), [0, 1])
        np.testing.assert_array_equal(net.flat_parameters, before)
    net = bags("sum", None)
    bp.Trainer(net).step(np.zeros((2, 0), "int32"), [0, 1])
    np.testing.assert_array_equal(net.predict(np.zeros((2, 0), "int32")), np.zeros((2, CLASSES)))


def test_ids_of_minus_one_are_padding_where_that_is_said():
    net = bp.Sequential([bp.Input(3, dtype="int32"), bp.EmbeddingBag(V, D, padding=-1)], seed=0)
    table = net.parameters["0.weight"]
    np.testing.assert_allclose(net.predict([[1, 2, -1], [-1, -1, -1]]), [(table[1] + table[2]) / 2, np.zeros(D)], rtol=1e-6)
    with pytest.raises(ValueError, match="X"):
        net.predict([[-2, 0, 0]])


def test_words_out_of_range_are_found_before_anything_changes():
    bad = IDS.copy()
    bad[3, 1] = V
    net = windows()
    trainer = bp.Trainer(net)
    with pytest.raises(ValueError, match=rf"X\[3, 1\] is {V}, out of range for Embedding\(.*{V}.*\) \(0 \.\. {V - 1}\)"):
        trainer.fit(bad, Y)
    assert not net.built
    trainer.step(IDS, Y)
    before = net.flat_parameters.tobytes(), trainer.state.tobytes(), trainer.t
    for call in (lambda: trainer.step(bad, Y), lambda: trainer.fit(bad, Y), lambda: trainer.loss_and_gradients(-1 - IDS, Y),
                 lambda: trainer.evaluate(bad, Y), lambda: net.predict(bad), lambda: net.forward(bad)):  # fmt: skip
        with pytest.raises(ValueError, match="out of range for Embedding"):
            call()
    assert (net.flat_parameters.tobytes(), trainer.state.tobytes(), trainer.t) == before


def test_repeated_steps_take_integers_as_they_come():
    for first, second in ((IDS[:9], IDS[9:18].astype("int64")), (IDS[:9].astype("float32"),) * 2, (IDS[:9].astype("int64"),) * 2):
        one, two = bp.Trainer(windows(dtype="float32")), bp.Trainer(windows(dtype="float32"))
        for x in (first, second, second):
            assert one.step(x, Y[:9]) == two._run("step", x.tolist(), Y[:9], None)
        assert one.net.flat_parameters.tobytes() == two.net.flat_parameters.tobytes()
    before = one.net.flat_parameters.tobytes()
    with pytest.raises(ValueError, match=r"x\[0, 0\] is -1, out of range for Embedding"):
        one.step(second - second[0, 0] - 1, Y[:9])
    assert one.net.flat_parameters.tobytes() == before


@pytest.mark.parametrize("make, error, message", [
    (lambda: bp.Embedding(5), ValueError, "dim must be a whole number of at least 1, got None"),
    (lambda: bp.Embedding(0, 3), ValueError, "num_embeddings must be"),
    (lambda: bp.Embedding(5, 3, padding=5), ValueError, "padding must be a row number below 5"),
    (lambda: bp.Embedding(5, 3, weights=np.ones((5, 4))), bp.ShapeError, r"dim is 3, the weights have shape \(5, 4\)"),
    (lambda: bp.Embedding(weights=np.ones(5)), bp.ShapeError, "weights must be"),
    (lambda: bp.Embedding(weights=np.full((2, 2), np.nan)), ValueError, "weights"),
    (lambda: bp.EmbeddingBag(5, 3, "max"), ValueError, "mode must be"),
    (lambda: bp.Embedding(5, 3)(bp.Input(4)), TypeError, r"Embedding.*dtype=\"int32\""),
    (lambda: bp.EmbeddingBag(5, 3)(bp.Input(dtype="int32")), bp.ShapeError, "texts"),
    (lambda: bp.bag(np.ones((3, 2)), [[0, 1]], [[0.5, 0.5]], mean=True), ValueError, "weights are for sums"),
    (lambda: bp.bag(np.ones((3, 2)), [[0, 1]], [[0.5]]), bp.ShapeError, "weights"),
    (lambda: bp.take(np.ones((3, 2)), [0, 3]), IndexError, "row 3 is out of range for 3 rows"),
    (lambda: bp.take(np.ones((3, 2)), [0], padding=3), ValueError, "padding"),
    (lambda: windows().predict(IDS + 0.5), ValueError, "X"),
])
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("case", CASES)
def test_files_and_checkpoints(case, tmp_path):
    net, x, y = CASES[case]()
    trainer = bp.Trainer(net, optimizer="adam")
    for _ in range(2):
        trainer.step(x, y)
    net.save(tmp_path / "net")
    loaded = bp.load(tmp_path / "net")
    assert loaded.predict(x).tobytes() == net.predict(x).tobytes()
    assert loaded._tables and {loaded._names[p] for p in loaded._tables} == {net._names[p] for p in net._tables}
    trainer.save_checkpoint(tmp_path / "training")
    trainer.step(x, y)
    again = bp.Trainer(CASES[case]()[0], optimizer="adam")
    again.load_checkpoint(tmp_path / "training")
    again.step(x, y)
    assert again.net.flat_parameters.tobytes() == net.flat_parameters.tobytes()


def test_a_frozen_table_is_saved_too(tmp_path):
    net = windows(trainable=False, padding=0)
    trainer = bp.Trainer(net)
    trainer.step(IDS, Y)
    net.save(tmp_path / "net")
    loaded = bp.load(tmp_path / "net")
    assert not loaded.layers[0].trainable and loaded.layers[0].padding == 0
    assert loaded.predict(IDS).tobytes() == net.predict(IDS).tobytes()
    trainer.save_checkpoint(tmp_path / "training")
    again = bp.Trainer(windows(trainable=False, padding=0))
    again.load_checkpoint(tmp_path / "training")
    assert again.step(IDS, Y) == trainer.step(IDS, Y)


def test_an_update_that_is_not_elementwise_is_refused():
    class Normalised(optim.Optimizer):
        def update(self, p, g, state):
            return p - g / bp.sqrt(bp.sum(g * g)), {}
    trainer = bp.Trainer(windows(), optimizer=Normalised(0.1))
    with pytest.raises(ValueError, match="must be elementwise"):
        trainer.step(IDS, Y)


def test_ids_of_a_program_are_checked_as_it_runs():
    ids = bp.Input(2, dtype="int32")
    layer = bp.Embedding(V, D)
    net = bp.Network([ids], [layer(ids[:, :1])], seed=0)  # only the first column is of this table
    trainer = bp.Trainer(net, loss="squared_error")
    assert net.predict([[1, 10 * V]]).shape == (1, 1, D)
    before = net.flat_parameters.tobytes()
    with pytest.raises(ValueError, match=f"{V} is out of range for {V}"):
        trainer.step([[V, 0]], np.zeros((1, 1, D)))
    assert net.flat_parameters.tobytes() == before
