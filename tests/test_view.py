"""Pictures: what stands in them is right, nothing in them overlaps or is cut, and drawing changes nothing."""

import re
import sys
import xml.etree.ElementTree as ET

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import backprop as bp
from backprop import drawing
from backprop.autodiff import gradients
from backprop.drawing import FAINT, GRADIENT, INK, PAPER, SERIES, VALUE, Path, Rect, Text, text_width
from backprop.layered import Cell, Edge, layout

SVG = "{http://www.w3.org/2000/svg}"
view = bp.view


def named(**values):
    return [bp.tensor(v, name=n) for n, v in values.items()]


def texts(picture, color=None):
    """(text, x, y) of everything written in a colour, as it stands in the SVG."""
    root = ET.fromstring(picture.svg)
    return [("".join(t for t in (e.text, *(c.tail for c in e)) if t), float(e.get("x")), float(e.get("y")))
            for e in root.iter(SVG + "text") if color is None or e.get("fill") == color[0]]


def edge_labels(picture):
    """(value, gradient) of every edge, sorted: what stands above and below one point of it."""
    values = [t for t in texts(picture, VALUE) if "edge" not in t[0]]
    found = []
    for text, x, y in texts(picture, GRADIENT):
        above = [v for v, vx, vy in values if vx == x and 15 < y - vy < 22]
        if above:
            assert len(above) == 1
            found.append((above[0], text))
    return sorted(found)


def sampled(path):
    """Points on a Path."""
    p = np.array(path.points)
    if not path.curve:
        return p
    t = np.linspace(0, 1, 17)[:, None]
    return np.concatenate([(1 - t)**3 * a + 3 * (1 - t)**2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
                           for a, b, c, d in zip(p[0::3], p[1::3], p[2::3], p[3::3])])


def check_geometry(picture, edges_too=True):
    """No two texts meet, all lies in the picture, and no line runs through a text or a foreign node."""
    root = ET.fromstring(picture.svg)
    x0, y0, width, height = map(float, root.get("viewBox").split())
    boxes = np.array([i.box() for i in picture.items])
    out = (boxes < [x0, y0, x0, y0]).any(1) | (boxes > np.array([width, height] * 2) + 0.1).any(1)
    assert not out.any(), [picture.items[i] for i in np.flatnonzero(out)]
    for kind in (Text, Rect) if edges_too else (Text,):  # the points of curves may meet
        of = np.flatnonzero([isinstance(i, kind) for i in picture.items])
        left, top, right, bottom = boxes[of].T
        meet = (left[:, None] < right) & (left < right[:, None]) & (top[:, None] < bottom) & (top < bottom[:, None])
        pairs = np.argwhere(np.triu(meet, 1))
        assert not len(pairs), [(picture.items[of[i]], picture.items[of[j]]) for i, j in pairs]
    if edges_too:
        solid = [k for k, i in enumerate(picture.items) if not isinstance(i, Path)]
        shapes = boxes[solid] + [0.6, 0.6, -0.6, -0.6]
        for path in [i for i in picture.items if isinstance(i, Path) and i.curve]:
            p = sampled(path)
            end = p[-1]
            p = p[1:-1][np.abs(p[1:-1] - end).max(1) > 8]
            inside = ((p[:, None, :] > shapes[None, :, :2]) & (p[:, None, :] < shapes[None, :, 2:])).all(2)
            assert not inside.any(), (path, [picture.items[solid[k]] for k in np.flatnonzero(inside.any(0))])


# ---------------------------------------------------------------- the lecture's graphs

def test_lecture_c_graph_E1_shows_values_and_gradients_of_every_arc():
    x, y, z = named(x=1.0, y=2.0, z=0.0)
    picture = view.graph((x + y) * bp.maximum(y, z))
    assert edge_labels(picture) == sorted([("1", "2"), ("2", "2"), ("2", "3"), ("0", "0"), ("3", "2"), ("2", "3"), ("6", "1")])
    assert "\u03a3 5" in [t for t, _, _ in texts(picture, GRADIENT)]
    assert {"x", "y", "z", "+", "*", "max", "f"} <= {t for t, _, _ in texts(picture, INK)}
    at = {t: x for t, x, _ in texts(picture)}
    assert at["x"] < at["+"] < at["*"] < at["f"]
    check_geometry(picture)


def test_lecture_c_graph_E2():
    x, y, z = named(x=-2.0, y=5.0, z=-4.0)
    picture = view.graph((x + y) * z)
    m = "\u2212"
    assert edge_labels(picture) == sorted([(m + "2", m + "4"), ("5", m + "4"), ("3", m + "4"), (m + "4", "3"), (m + "12", "1")])


def test_lecture_c_graph_E4_from_a_function():
    def f(x, y):
        return (x + bp.sigmoid(y)) / (bp.sigmoid(x) + (x + y)**2)

    picture = view.graph(f, 3.0, -4.0, digits=10)
    below = [t for t, _, _ in texts(picture, GRADIENT)]
    assert "1.545644884" in [t for t, _, _ in texts(picture, VALUE)]
    assert "\u03a3 2.059569796" in below and "\u03a3 1.592232751" in below
    assert [t for t, _, _ in texts(picture, INK)].count("\u03c3") == 2
    check_geometry(picture)


def test_lecture_c_graph_E12_doubling():
    y = bp.tensor(1.0, name="x")
    for _ in range(8):
        y = y + y
    picture = view.graph(y)
    below = [t for t, _, _ in texts(picture, GRADIENT)]
    assert {f"\u03a3 {2**k}" for k in range(1, 9)} <= set(below)
    check_geometry(picture)


def test_lecture_c_arcs_of_a_branch_sum_to_its_gradient():
    x, y = named(x=[0.3, -1.2], y=[2.0, 0.5])
    f = (bp.tanh(x * y) + x / y - bp.exp(x) * x).sum()
    arcs = {}
    for t, g in zip((x, y), gradients([f], [x, y], arcs=arcs)):
        parts = [a.value for (node, i), a in arcs.items() if node.inputs[i] is t]
        assert len(parts) > 1
        np.testing.assert_allclose(sum(parts), g.value, rtol=1e-14)
    for node, i in arcs:
        assert arcs[node, i].shape == node.inputs[i].shape


# ---------------------------------------------------------------- graphs of tensors

def test_large_arrays_stand_as_shape_and_norm():
    rng = np.random.default_rng(0)
    W, X, b = named(W=rng.normal(size=(20, 10)), X=rng.normal(size=(64, 20)), b=np.zeros(10))
    loss = bp.mean(bp.softmax_cross_entropy(X @ W + b, rng.integers(0, 10, 64)))
    picture = view.graph(loss)
    (dW,) = bp.evaluate([bp.grad(loss, W)])
    shown = [t for t, _, _ in texts(picture)]
    assert f"(20, 10) norm {np.linalg.norm(W.value):.4g}" in shown and f"norm {np.linalg.norm(dW):.4g}" in shown
    assert "(64,) int32" in shown and "softmax cross entropy" in shown
    check_geometry(picture)


def test_gradients_only_where_they_were_asked_for():
    x, w = bp.tensor(2.0, name="x"), bp.tensor(3.0, name="w", requires_grad=True)
    assert edge_labels(view.graph(x * w)) == [("3", "2"), ("6", "1")]
    picture = view.graph(x * w, gradients=False)
    assert texts(picture, GRADIENT) == [] and "6" in [t for t, _, _ in texts(picture, VALUE)]
    assert w.grad is None
    y = bp.where(x > 1.0, x * w, w)  # the condition gets none, and that is no error
    assert ("3", "2") in edge_labels(view.graph(y))
    with pytest.raises(TypeError, match="lt has no gradient"):
        view.graph(x > 1.0)


def test_a_users_operation_has_its_name_and_its_gradient():
    @bp.operation
    def my_cube(x):
        return x**3

    @my_cube.backward
    def _(g, y, x):
        return g * 3 * x**2

    x = bp.tensor([1.0, 2.0], name="x")
    f = bp.sum(my_cube(x) * 2.0)
    picture = view.graph(f)
    assert "my_cube" in [t for t, _, _ in texts(picture)] and ("[1, 2]", "[6, 24]") in edge_labels(picture)
    shown = [t for t, _, _ in texts(view.graph(bp.sum(bp.grad(f, x)), gradients=False))]
    assert "my_cube backward" in shown and "30" in shown and "0" not in shown
    assert "f" in [t for t, _, _ in texts(view.graph(my_cube(x)), INK)]


def test_a_graph_without_values_shows_shapes():
    x = bp.Input(5)
    picture = view.graph(bp.tanh(bp.Dense(3)(x)))
    shown = [t for t, _, _ in texts(picture, VALUE)]
    assert "(n, 5)" in shown and "(n, 3)" in shown and texts(picture, GRADIENT) == []
    check_geometry(picture)


@st.composite
def graphs(draw):
    """A tensor that rests on a random graph of at most 30 nodes."""
    nodes = [bp.tensor(draw(st.sampled_from([0.5, -123456.789, [1.0, 2.0], np.ones((2, 3))])), name=draw(st.text(max_size=14)))]
    nodes += [bp.tensor(draw(st.floats(-9, 9)), name=n) for n in draw(st.lists(st.text(max_size=5), max_size=3))]
    for _ in range(draw(st.integers(1, 26))):
        pick = st.sampled_from(nodes[-8:])
        operation = draw(st.sampled_from([bp.add, bp.sub, bp.mul, bp.maximum, bp.tanh, bp.softplus, lambda x: x * 3.25]))
        try:
            nodes.append(operation(draw(pick), draw(pick)) if operation in (bp.add, bp.sub, bp.mul, bp.maximum) else
                         operation(draw(pick)))
        except bp.ShapeError:
            pass
    return nodes[-1]


@settings(max_examples=25)
@given(graphs())
def test_nothing_overlaps_in_a_random_graph(f):
    with np.errstate(all="ignore"):
        picture = view.graph(f)
    check_geometry(picture)
    assert picture.svg == view.graph(f).svg


def test_operands_whose_order_matters_arrive_from_top_to_bottom():
    a, b = named(a=1.0, b=2.0)
    c = bp.tanh(a)
    for f in (c - b, b - c, (c - b) / (b - c), bp.concatenate([b.reshape(1), a.reshape(1), b.reshape(1)])):
        picture = view.graph(f)
        check_geometry(picture)
    cells = [Cell(), Cell(), Cell(ordered=True)]
    edges = [Edge(1, 2), Edge(0, 2), Edge(1, 2)]
    layout(cells, edges)
    assert [e.port for e in edges] == sorted(e.port for e in edges) and len({e.port for e in edges}) == 3


def test_what_is_written_is_escaped():
    x = bp.tensor(1.0, name="<b>&\"'\x00\n $x_1$ ]]>")
    picture = view.graph(x + 1.0, title="a < b & \"c\"")
    assert texts(picture)[0][0] is not None and "<b>&\"'\ufffd $x_1$ ]]>" in [t for t, _, _ in texts(picture)]
    root = ET.fromstring(picture.svg)
    assert root.find(SVG + "title").text == root.get("aria-label") == "a < b & \"c\""
    assert root.get("role") == "img" and "gradient" in root.find(SVG + "desc").text
    assert "http" not in picture.svg.replace("http://www.w3.org/2000/svg", "")  # self-contained
    long = bp.tensor(1.0, name="n" * 500)
    check_geometry(view.graph(long * 2.0))


def test_wrong_calls_of_graph_are_refused_by_name():
    x = bp.tensor(1.0)
    y = x
    for _ in range(300):
        y = bp.tanh(y)
    with pytest.raises(ValueError, match=r"301 nodes are more than max_nodes=200.*bp.view.graph\(net\).*raise max_nodes"):
        view.graph(y)
    assert len(edge_labels(view.graph(y, max_nodes=301))) == 301
    for call, error, words in [
        (lambda: view.graph(3.0), TypeError, "a Tensor, a Network or a function, got float"),
        (lambda: view.graph(x, 1.0), TypeError, "f is a Tensor"),
        (lambda: view.graph(lambda a: a, 1.0, 2.0), TypeError, "cannot take these arguments"),
        (lambda: view.graph(lambda a: 3.0, 1.0), TypeError, "must return a Tensor, got float"),
        (lambda: view.graph(x, digits=0), ValueError, "digits must be"),
        (lambda: view.graph(x, max_nodes=True), ValueError, "max_nodes must be"),
        (lambda: view.graph(bp.Sequential([bp.Dense(2)]), 1), TypeError, "no further arguments"),
        (lambda: view.graph(bp.Sequential([])), ValueError, "no layers"),
    ]:
        with pytest.raises(error, match=words):
            call()


# ---------------------------------------------------------------- networks

def two_inputs():
    a, b = bp.Input(32), bp.Input(32)
    shared = bp.Dense(16, "relu", name="encoder")
    joined = bp.dropout(bp.concatenate([shared(a), shared(b)], 1), 0.1)
    d = bp.Dense(8, "tanh")(joined)
    return bp.Network([a, b], [bp.Dense(3, name="classes")(d), bp.Dense(1, name="score", trainable=False)(d + bp.Dense(8)(a))])


def test_a_network_is_drawn_as_boxes(tmp_path):
    net = two_inputs()
    picture = view.graph(net)
    shown = [t for t, _, _ in texts(picture)]
    assert shown.count("encoder") == 2 and shown.count("shared: the same parameters") == 1
    assert {"x0", "x1", "concatenate", "dropout", "+", "classes", "output 0", "output 1", "528 parameters",
            "9 parameters, frozen", "(n, 3)", "Dense, tanh"} <= set(shown)
    assert "matmul" not in shown and "@" not in shown  # each lies within its layer
    assert sum(isinstance(i, Rect) and i.dash for i in picture.items) == 1
    check_geometry(picture)
    net.save(tmp_path / "net.safetensors")
    loaded = bp.load(tmp_path / "net.safetensors")
    assert view.graph(loaded).svg == picture.svg and loaded.summary() == net.summary()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sequential_is_drawn_layer_by_layer(dtype):
    layers = [bp.Dense(256, "relu"), bp.Dropout(0.2), bp.Flatten(), bp.Dense(10, name="a <long> name " * 9)]
    net = bp.Sequential(layers, dtype=dtype)
    picture = view.graph(net)
    assert [t for t, _, _ in texts(picture)].count("shape not known yet") == 4
    check_geometry(picture)
    net(np.zeros((2, 784)))
    picture = view.graph(net)
    shown = [t for t, _, _ in texts(picture)]
    assert {"(n, 784)", "200,960 parameters", "Dropout 0.2", "Dense, relu", "2,570 parameters"} <= set(shown)
    check_geometry(picture)


def layers_of_every_kind():
    return [bp.Embedding(50, 4, name="words"), bp.Flatten(), bp.Dense(6, "prelu"), bp.BatchNorm(),
            bp.Residual([bp.Dense(6, "relu"), bp.LayerNorm()], "tanh", name="around"), bp.Dense(3)]


@pytest.mark.parametrize("functional", [False, True])
def test_every_kind_of_layer_has_its_box(functional, tmp_path):
    layers, x = layers_of_every_kind(), bp.Input(5, dtype="int32")
    net = bp.Sequential([x, *layers])
    if functional:
        y = x
        for layer in layers_of_every_kind():
            y = layer(y)
        net = bp.Network([x], [y])
    net.save(tmp_path / "n.safetensors")
    for n in (net, bp.load(tmp_path / "n.safetensors")):
        table, picture = n.summary(), view.graph(n)
        shown = [t for t, _, _ in texts(picture)]
        counts = {line.split()[1]: line.split(")")[1].split()[0] for line in table.splitlines()[4:-2] if line.split()[1] in (
            "Embedding", "BatchNorm", "Residual")}
        assert counts == {"Embedding": "200", "BatchNorm": "12", "Residual": str(6 * 6 + 6 + 12)}
        total = 200 + 20 * 6 + 6 + 6 + 12 + 54 + 21
        assert f"{total} parameters, {total} trainable" in table and {"words", "around", "54 parameters"} <= set(shown)
        assert not {"@", "relu", "+", "running"} & set(shown)
        check_geometry(picture)
    ids, labels = np.arange(200).reshape(40, 5) % 50, np.arange(40) % 3
    ends = []
    for callbacks in ([], [view.Gradients(every=2)]):
        n = bp.load(tmp_path / "n.safetensors")
        bp.Trainer(n, optimizer="adam").fit(ids, labels, epochs=2, batch_size=8, callbacks=callbacks)
        ends.append(np.concatenate([n.flat_parameters, n.flat_buffers]))
    np.testing.assert_array_equal(*ends)
    assert callbacks[0].norms["words.weight"][0] > 0


def test_parameters_in_a_network_are_counted_once():
    a = bp.Input(4)
    layer = bp.Dense(4, "tanh")
    y = layer(layer(layer(a)))
    tied = bp.matmul(y, layer.weight.tensor, transpose_b=True) * 2.0
    net = bp.Network([a], [tied])
    table = net.summary()
    assert "20 parameters, 20 trainable" in table and table.count("shared") == 2
    counts = re.findall(r"^\S+ +\S+ +\(\S.*?\) +(\d+)\b", table, re.MULTILINE)
    assert [int(c) for c in counts] == [20]
    check_geometry(view.graph(net))


def test_summary_is_a_table():
    net = bp.Sequential([bp.Input(784), bp.Dense(256, "relu"), bp.Dropout(0.2), bp.Dense(10, trainable=False, name="out")])
    table = net.summary()
    assert isinstance(table, str) and repr(table) == str(table)
    lines = table.splitlines()
    assert lines[1].split() == ["name", "type", "output", "parameters", "trainable"]
    assert [line.split() for line in lines[3:7]] == [
        ["x", "input", "(n,", "784)"], ["0", "Dense", "(n,", "256)", "200,960", "yes"], ["1", "Dropout", "(n,", "256)", "0"],
        ["out", "Dense", "(n,", "10)", "2,570", "no"]]
    ends = {line.index(n) + len(n) for line, n in zip(lines[4:7], ("200,960", " 0", "2,570"))}
    assert ends == {lines[1].index("parameters") + len("parameters")}  # aligned to the right
    assert lines[-1] == "203,530 parameters, 200,960 trainable, 2,570 not; float32, 814,120 bytes"
    unbuilt = bp.Sequential([bp.Dense(3), bp.Dense(4, trainable=False)]).summary()
    assert "not known yet" in unbuilt and unbuilt.count("?") == 5
    assert "from" in two_inputs().summary().splitlines()[1]


# ---------------------------------------------------------------- curves

def rows(n, **columns):
    return [{"epoch": i + 1, **{k: v(i) for k, v in columns.items()}} for i in range(n)]


@pytest.mark.parametrize("history", [
    rows(1, train_loss=lambda i: 2.0, lr=lambda i: 0.1),
    rows(200, train_loss=lambda i: 1 / (i + 1), valid_loss=lambda i: 1 / (i + 2), valid_accuracy=lambda i: 1 - 1 / (i + 2),
         lr=lambda i: 0.9**i),
    rows(5, train_loss=lambda i: 0.0), rows(4, train_loss=lambda i: [1.0, float("nan"), 2.0, float("inf")][i]),
    rows(3, train_loss=lambda i: float("nan")), rows(3, train_loss=lambda i: -1e9 * (i + 1), valid_loss=lambda i: 1e-12),
    rows(2, train_loss=lambda i: 1.0 + 1e-13 * i)])
def test_curves_of_any_history(history):
    picture = view.curves(history)
    check_geometry(picture, edges_too=False)
    shown = [t for t, _, _ in texts(picture)]
    assert ("valid loss" in shown) == ("valid_loss" in history[0]) and ("lr" in shown) == ("lr" in history[0])
    assert "epoch" in shown and ("Accuracy" in shown) == ("valid_accuracy" in history[0])


def test_curves_lie_where_the_numbers_are():
    picture = view.curves(rows(20, train_loss=lambda i: float(i)))
    (line,) = [i for i in picture.items if isinstance(i, Path) and i.stroke == SERIES[0] and len(i.points) == 20]
    x, y = np.array(line.points).T
    ticks = {t: ty - 4 for t, tx, ty in texts(picture, FAINT) if tx < x[0]}
    np.testing.assert_allclose(y, ticks["0"] + np.arange(20) * (ticks["5"] - ticks["0"]) / 5, atol=0.2)
    np.testing.assert_allclose(np.diff(x), x[1] - x[0], atol=1e-6)


def test_curves_refuse_what_they_cannot_draw(tmp_path):
    for history, error, words in [([], ValueError, "no epoch yet"), ({"train_loss": 1}, TypeError, "got dict"),
                                  ([{"epoch": 1}], ValueError, "no column with a loss")]:
        with pytest.raises(error, match=words):
            view.curves(history)
    view.curves(rows(2, train_loss=float), tmp_path / "c.svg")
    assert ET.parse(tmp_path / "c.svg").getroot().tag == SVG + "svg"


# ---------------------------------------------------------------- gradients over training

def data(n=96, d=6):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)).astype("float32"), rng.integers(0, 3, n)


def deep(*layers):
    return bp.Sequential([bp.Input(6), *layers, bp.Dense(3)], seed=1)


@pytest.mark.parametrize("weights", [False, True])
def test_recording_gradients_changes_no_bit(weights):
    X, y = data()
    w = np.linspace(0.5, 2, len(X)) if weights else None
    ends = []
    for callbacks in ([], [view.Gradients(every=3)]):
        net = deep(bp.Dense(8, "relu"), bp.Dropout(0.3), bp.Dense(8, "relu"))
        trainer = bp.Trainer(net, optimizer=bp.Adam(1e-2), seed=3)
        trainer.fit(X, y, epochs=3, batch_size=20, sample_weight=w, callbacks=callbacks, validation_fraction=0.1)
        ends.append((net.flat_parameters.copy(), [row["train_loss"] for row in trainer.history]))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    (recorder,) = callbacks
    assert recorder.steps == list(range(0, 15, 3)) and trainer.feed is None
    assert {len(v) for v in [*recorder.norms.values(), *recorder.dead.values()]} == {5}
    check_geometry(view.gradients(recorder), edges_too=False)


def test_a_record_holds_the_norms_of_the_batch_that_comes():
    X, y = data()
    net = deep(bp.Dense(8, "tanh"))
    trainer = bp.Trainer(net, optimizer=bp.SGD(0.1), seed=3)
    net.flat_gradients[...] = 7.0
    expected = {k: float(np.linalg.norm(g)) for k, g in trainer.loss_and_gradients(X[:32], y[:32])[1].items()}
    net.flat_gradients[...] = 7.0
    recorder = view.Gradients(every=100)
    trainer.fit(X, y, batch_size=32, shuffle=False, callbacks=[recorder])
    assert {k: v[0] for k, v in recorder.norms.items()} == pytest.approx(expected, rel=1e-6)
    assert recorder.dead == {} and (net.flat_gradients == 7.0).all()


def test_vanishing_gradients_and_dead_units_are_seen():
    X, y = data()
    net = deep(*[bp.Dense(8, "sigmoid") for _ in range(12)])
    picture = view.gradients(net, X, y)
    bars = [i.width for i in picture.items if isinstance(i, Rect)]
    assert len(bars) == 13 and bars == sorted(bars) and bars[-1] > 4 * bars[0]
    check_geometry(picture, edges_too=False)
    dead = deep(bp.Dense(8, "relu", name="dead", bias_init=bp.init.constant(-1e3)),
                bp.Dense(4, "relu", bias_init=bp.init.constant(1e3)))
    recorder = view.Gradients(every=1)
    trainer = bp.Trainer(dead)
    shown = [t for t, _, _ in texts(view.gradients(trainer, X, y))]
    assert shown.count("100%") == 1 and shown.count("0%") == 1
    trainer.fit(X, y, callbacks=[recorder])
    assert set(recorder.dead["dead"]) == {1.0} and recorder.dead["1"][0] == 0.0 and recorder.norms["dead.weight"][0] == 0.0
    picture = view.gradients(recorder)
    check_geometry(picture, edges_too=False)
    assert "Share of dead ReLU units" in [t for t, _, _ in texts(picture)]


def test_wrong_calls_of_gradients_are_refused_by_name():
    X, y = data()
    for call, error, words in [
        (lambda: view.Gradients(every=0), ValueError, "every must be"),
        (lambda: view.gradients(view.Gradients()), ValueError, r"fit\(callbacks="),
        (lambda: view.gradients(view.Gradients(), X, y), TypeError, "recorder"),
        (lambda: view.gradients(3), TypeError, "got int"),
        (lambda: view.gradients(deep()), TypeError, "x and y"),
        (lambda: view.gradients(bp.Sequential([bp.Dense(3)]), X, y), ValueError, "no input size yet"),
        (lambda: view.gradients(deep(), X[:, :4], y), bp.ShapeError, "x has shape"),
    ]:
        with pytest.raises(error, match=words):
            call()


# ---------------------------------------------------------------- drawings

def test_pictures_are_shown_and_saved(tmp_path):
    picture = view.graph(bp.tensor(1.0) + 1.0)
    assert picture._repr_svg_() == picture.svg and "save(path)" in repr(picture)
    picture.save(tmp_path / "f.SVG")
    assert (tmp_path / "f.SVG").read_text(encoding="utf-8") == picture.svg
    for path, scale, words in [("f.jpg", 2, "must end with"), ("f", 2, "must end with"), ("f.svg", 0, "scale")]:
        with pytest.raises(ValueError, match=words):
            picture.save(tmp_path / path, scale)


def test_png_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install backprop\[view\]; or save as .svg"):
        view.graph(bp.tensor(1.0) + 1.0).save(tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()


def test_png_and_pdf(tmp_path):
    pytest.importorskip("matplotlib")
    x, y = named(x=1.0, y=2.0)
    picture = view.graph(x + y, title="$ a")
    picture.save(tmp_path / "f.png", scale=1)
    head = (tmp_path / "f.png").read_bytes()[:24]
    assert head[:4] == b"\x89PNG"
    size = [int.from_bytes(head[i:i + 4], "big") for i in (16, 20)]
    np.testing.assert_allclose(size, [picture.width, picture.height], atol=1)
    picture.save(tmp_path / "f.pdf")
    assert (tmp_path / "f.pdf").read_bytes()[:5] == b"%PDF-"


def test_widths_are_those_of_the_font():
    pytest.importorskip("matplotlib")
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font
    for bold, weight in ((False, "normal"), (True, "bold")):
        font = FT2Font(findfont(FontProperties(family="DejaVu Sans", weight=weight)))
        font.set_size(100, 72)
        for text in ("x + y", "(64, 10) norm 108.6", "softmax cross entropy", "200,960 parameters", "MMMWWW", "iiiiil",
                     "\u03a3 \u22121.5e\u22127", "\u03c3\u221a\u2264\u2026"):
            real = sum(font.load_char(ord(c)).linearHoriAdvance for c in text) / 65536 / 100 * 12
            assert real <= text_width(text, 12, bold) + 0.5 and text_width(text, 12, bold) <= 1.6 * real + 3, text


def test_colours_can_be_read():
    def luminance(color):
        c = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        c = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055)**2.4 for v in c]
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]

    for color in (INK, FAINT, VALUE, GRADIENT, *SERIES):
        for ink, paper in zip(color, PAPER):
            low, high = sorted((luminance(ink), luminance(paper)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (color, "WCAG AA")
    assert drawing.VALUE[0] != drawing.GRADIENT[0]
