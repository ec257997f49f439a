"""Networks in files: what is loaded is what was saved, bit for bit; what is malformed is refused."""

import copy
import json
import random

import numpy as np
import pytest

import backprop as bp
from backprop import layers, saving
from backprop.files import read_tensors, write_tensors

RNG = np.random.default_rng(2)
X = RNG.normal(size=(37, 6))


class Scale(bp.Layer):
    """A layer of a user's own."""

    def __init__(self, factor, name=None):
        super().__init__(name)
        self.factor = factor

    def build(self, shape):
        self.shift = self.parameter("shift", shape[1:], bp.init.zeros)

    def forward(self, x):
        return x * self.factor + self.shift.tensor

    def config(self):
        return {"factor": self.factor}


def chain(dtype="float32"):
    twice = bp.Dense(6, "tanh", name="twice")
    return bp.Sequential(
        [bp.Input(2, 3), bp.Flatten(), twice, bp.Dropout(0.25), twice, bp.Activation("silu"), Scale(0.5),
         bp.Dense(5, "prelu", weight_init=bp.init.Normal(0.3), bias_init=0.5), bp.Dense(3, use_bias=False, trainable=False)],
        dtype=dtype, seed=11)  # fmt: skip


def graph(dtype="float32"):
    a, b = bp.Input(4), bp.Input(2)
    h = bp.Dense(6, "gelu", name="h")
    c = h(bp.concatenate([a, b * np.array([0.5, -2.0])], axis=1))
    d = bp.BatchNorm(name="over")(bp.layer_norm(h(c), eps=0.1))  # h is shared
    gated = bp.where(d > 0.25, bp.softmax(d), bp.clip(d, -1, 1)) + bp.mean(c, axis=1, keepdims=True)
    e = bp.dropout(gated, 0.3)[:, ::-2] + bp.leaky_relu(bp.transpose(bp.reshape(c, (-1, 2, 3)), (0, 2, 1)).sum(2), 0.2)
    slope = bp.grad(bp.sum(bp.square(bp.logsumexp(c))), [a])[0]  # a gradient is a graph like any other
    frozen = bp.Dense(2, "elu", trainable=False)
    top = bp.max(d, axis=1, keepdims=True) - bp.broadcast_to(bp.tensor(np.ones((1, 1), "f4")), (-1, 1))
    return bp.Network([a, b], [e, frozen(e), slope, top], dtype=dtype, seed=5)


def inputs(net):
    return X.reshape(37, 2, 3) if len(net._inputs) == 1 else [X[:, :4], X[:, 4:]]


def bits(results):
    return [(a.dtype, a.shape, a.tobytes()) for a in (results if isinstance(results, list) else [results])]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [chain, graph])
def test_round_trip(tmp_path, make, dtype):
    net = make(dtype)
    for a in net.parameters.values():
        a += RNG.normal(size=a.shape) * 0.1
    net.save(tmp_path / "m.safetensors")
    net2 = bp.load(tmp_path / "m.safetensors")
    assert type(net2) is type(net) and net2.dtype == dtype and net2.seed == net.seed
    assert list(net2.parameters) == list(net.parameters)
    assert all((net2.parameters[k] == v).all() and net2.parameters[k].flags.writeable for k, v in net.parameters.items())
    assert bits(net2.predict(inputs(net))) == bits(net.predict(inputs(net)))
    assert bits(net2(inputs(net), training=True)) == bits(net(inputs(net), training=True))  # dropout too
    assert [(type(f), f.name, f.trainable, f.config()) for f in net2.layers] == [
        (type(f), f.name, f.trainable, f.config()) for f in net.layers]  # fmt: skip
    assert [net.layers.index(f) for f in net.layers] == [net2.layers.index(f) for f in net2.layers]
    net2.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    net.initialize(8), net2.initialize(8)  # the initializers were kept
    assert net2.flat_parameters.tobytes() == net.flat_parameters.tobytes()


@pytest.mark.parametrize("make", [chain, graph])
def test_a_loaded_network_trains_alike(tmp_path, make):
    nets = [make()]
    nets[0].save(tmp_path / "m")
    nets.append(bp.load(tmp_path / "m"))
    targets = nets[0].predict(inputs(nets[0]))
    targets = [t + 1 for t in targets] if isinstance(targets, list) else targets + 1
    many = len(targets) if isinstance(targets, list) else 1
    for net in nets:
        bp.Trainer(net, ["squared_error"] * many, "adam", seed=3).fit(inputs(net), targets, epochs=2, progress=False)
    assert nets[0].flat_parameters.tobytes() == nets[1].flat_parameters.tobytes()
    assert nets[0].flat_parameters.tobytes() != make().flat_parameters.tobytes()


def test_metadata_of_a_callers_own(tmp_path):
    net = chain()
    saving.save(net, tmp_path / "m", {"note": "ü"})
    assert read_tensors(tmp_path / "m")[1]["note"] == "ü" and bp.load(tmp_path / "m").built
    with pytest.raises(ValueError, match="are taken"):
        saving.save(net, tmp_path / "m", {"format": "x"})


def sequential(*layers):
    return bp.Sequential([bp.Input(4), *layers])


def unregistered():
    name = Scale.__name__
    cls = type(name, (bp.Layer,), {"forward": lambda self, x: x})
    layers.LAYERS[name] = Scale
    return cls()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: bp.Sequential([bp.Dense(3)]), "no input size"),
        (lambda: sequential(bp.Dense(3, lambda x: x * 2.0)), "activation is a Python function"),
        (lambda: sequential(bp.Activation(bp.relu)), "activation is a Python function"),
        (lambda: sequential(bp.Dense(3, weight_init=lambda s, d, r: np.ones(s, d))), "weight_init is a Python function"),
        (lambda: sequential(unregistered()), "another layer class is known as Scale"),
        (lambda: sequential(Scale({1: 2})), "factor is of type dict"),
    ],
)
def test_what_cannot_be_saved(tmp_path, make, words):
    path = tmp_path / "m"
    chain().save(path)
    before = path.read_bytes()
    try:
        net = make()
    except TypeError:  # a factor that is a dict computes nothing: the layer is changed after the network is made
        net = sequential(Scale(1.0))
        net.layers[0].factor = {1: 2}
    with pytest.raises(ValueError, match=words):
        net.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError, match="net must be"):
        saving.save("net", path)


def test_layers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="different names"):
        sequential(bp.Dense(3, name="a"), bp.Dense(4, name="a"))


# ---------------------------------------------------------------------------------------------------- malformed files


def rewrite(path, change):
    """The file with its description, tensors or metadata changed by ``change(record, tensors, metadata)``."""
    tensors, metadata = read_tensors(path)
    record = json.loads(metadata["network"])
    before = dict(metadata)
    change(record, tensors, metadata)
    if metadata == before:
        metadata["network"] = json.dumps(record)
    write_tensors(path, tensors, metadata)


def setting(*where, to):
    def change(record, tensors, metadata):
        for key in where[:-1]:
            record = record[key]
        record[where[-1]] = to
    return change


def text(f):
    return lambda record, tensors, metadata: metadata.update(network=f(metadata["network"]))


CHANGES = {
    "unknown layer": setting("layers", 0, "class", to="os.system"),
    "layer class no text": setting("layers", 0, "class", to=[]),
    "base class": setting("layers", 0, "class", to="Layer"),
    "argument": setting("layers", 1, "config", to={"units": 6, "wrong": 1}),
    "units": setting("layers", 1, "config", "units", to=7),
    "units huge": setting("layers", 1, "config", "units", to=10**300),
    "units negative": setting("layers", 1, "config", "units", to=-1),
    "activation": setting("layers", 1, "config", "activation", to="exec"),
    "activation nested": setting("layers", 1, "config", "activation", to=[[1]]),
    "initializer": setting("layers", 1, "config", "weight_init", to={"initializer": "Uniform", "r": "x"}),
    "initializer unknown": setting("layers", 1, "config", "weight_init", to={"initializer": "Stream", "seed": 1}),
    "name": setting("layers", 1, "name", to=7),
    "name twice": setting("layers", 5, "name", to="twice"),
    "trainable": setting("layers", 1, "trainable", to=1),
    "dtype": setting("dtype", to="float16"),
    "other dtype": setting("dtype", to="float64"),
    "class": setting("class", to="Trainer"),
    "seed": setting("seed", to=-1),
    "order": setting("order", to=[0, 1, 99]),
    "order text": setting("order", to="01"),
    "shorter": setting("order", to=[0, 1]),
    "input": setting("input", "shape", to=[3, 3]),
    "input huge": setting("input", "shape", to=[2**31 - 1, 2**31 - 1]),
    "input bool": setting("input", "shape", to=[True, 6]),
    "layers": setting("layers", to={"a": 1}),
    "missing tensor": lambda r, t, m: t.pop("twice.weight"),
    "extra tensor": lambda r, t, m: t.update(more=np.zeros(3, "f4")),
    "shape": lambda r, t, m: t.update({"7.weight": t["7.weight"].T.copy()}),
    "tensor dtype": lambda r, t, m: t.update({"7.weight": t["7.weight"].astype("f8")}),
    "no text": lambda r, t, m: m.pop("network"),
    "cut": text(lambda s: s[:-2]),
    "deep": text(lambda s: "[" * 200_000),
    "nan": text(lambda s: s.replace('"seed":11', '"seed":NaN')),
    "digits": text(lambda s: s.replace('"seed":11', '"seed":' + "9" * 10_000)),
    "infinite": text(lambda s: s.replace('"std":0.3', '"std":1e999')),
    "key twice": text(lambda s: s.replace('"seed":11', '"seed":11,"seed":12')),
    "list": text(lambda s: f"[{s}]"),
    "format": lambda r, t, m: m.update(format="pt"),
    "no format": lambda r, t, m: m.pop("format"),
    "version": lambda r, t, m: m.update(version="2"),
    "version text": lambda r, t, m: m.update(version="one"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_malformed_sequential(tmp_path, name):
    path = tmp_path / "m"
    chain().save(path)
    before = path.read_bytes()
    rewrite(path, CHANGES[name])
    assert path.read_bytes() != before
    with pytest.raises(bp.FileFormatError) as error:
        bp.load(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 600


def test_a_description_that_is_too_long(tmp_path):
    path = tmp_path / "m"
    chain().save(path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, {**metadata, "network": "[" + "[]," * (6 << 20) + "[]]"})
    with pytest.raises(bp.FileFormatError, match="characters"):
        bp.load(path)


def node(op):
    """Position of the first node of an operation in a record."""
    return lambda record: next(i for i, n in enumerate(record["nodes"]) if n["op"] == op)


def at(op, *where, to):
    def change(record, tensors, metadata):
        target = record["nodes"][node(op)(record)]
        for key in where[:-1]:
            target = target[key]
        target[where[-1]] = to
    return change


GRAPH_CHANGES = {
    "unknown operation": at("gelu", "op", to="eval"),
    "forbidden source": at("gelu", "op", to="state"),
    "arity": at("add", "inputs", to=[0]),
    "arity of a map": at("mul", "inputs", to=[0, 0, 0]),
    "later node": at("gelu", "inputs", to=[10_000]),
    "negative node": at("gelu", "inputs", to=[-1]),
    "bool node": at("gelu", "inputs", to=[True]),
    "attribute missing": at("matmul", "attrs", "ta", to=None),
    "attribute more": at("matmul", "attrs", "tc", to=True),
    "slope": at("leaky_relu", "attrs", "slope", to="steep"),
    "rate": at("dropout", "attrs", "rate", to=1.0),
    "key": at("dropout", "attrs", "key", to="k"),
    "axis": at("softmax", "attrs", "axis", to=2),
    "axes": at("standardize", "attrs", "axes", to=[2]),
    "axes twice": at("standardize", "attrs", "axes", to=[1, 1]),
    "mean of a norm": lambda r, t, m: r["nodes"][node("batch_norm")(r)]["inputs"].__setitem__(1, 0),
    "gain of a batch norm": lambda r, t, m: r["nodes"][node("batch_norm")(r)]["inputs"].__setitem__(3, 0),
    "inputs of a norm": at("batch_norm", "inputs", to=[0, 0, 0, 0, 0]),
    "gain of a norm": at("standardize", "inputs", to=[0, 0]),
    "stop": at("reduce", "attrs", "stop", to=9),
    "kind": at("reduce", "attrs", "kind", to="prod"),
    "offset": at("strided", "attrs", "offset", to=10**9),
    "strides": at("strided", "attrs", "strides", to=[6, 10**9]),
    "strides negative": at("strided", "attrs", "strides", to=[6, -4]),
    "strides short": at("strided", "attrs", "strides", to=[6]),
    "strides batch": at("strided", "attrs", "strides", to=[5, 1]),
    "shape": at("reshape", "attrs", "shape", to=[-1, -1]),
    "shape huge": at("reshape", "attrs", "shape", to=[2**40]),
    "parameter": at("parameter", "attrs", "name", to="h.gone"),
    "scalar": lambda r, t, m: r["nodes"].insert(0, {"op": "scalar", "attrs": {"key": "lr"}}),
    "constant": at("constant", "attrs", "value", to="zero"),
    "constant huge": at("constant", "attrs", "value", to=10**400),
    "data": at("data", "attrs", "tensor", to="h.none"),
    "data missing": lambda r, t, m: t.pop("constant:0"),
    "no outputs": setting("outputs", to=[]),
    "output": setting("outputs", to=[99_999]),
    "input twice": lambda r, t, m: r.update(inputs=[r["inputs"][0]] * 2),
    "input missing": lambda r, t, m: r.update(inputs=r["inputs"][:1]),
    "input is none": lambda r, t, m: r.update(inputs=r["outputs"][:2]),
    "built for": setting("layers", 0, "input", to=[5]),
    "built for huge": setting("layers", 0, "input", to=[2**31 - 1]),
    "built for nothing": setting("layers", 0, "input", to=[]),
    "nodes": setting("nodes", to=[[]]),
}


def test_a_norm_of_an_older_file(tmp_path):
    """It has one axis, and its gain apart."""
    x = bp.Input(4)
    bp.Network(x, bp.layer_norm(x) * np.arange(4)).save(tmp_path / "m")
    tensors, metadata = read_tensors(tmp_path / "m")
    assert '"axes":[1]' in metadata["network"]
    write_tensors(tmp_path / "old", tensors, {**metadata, "network": metadata["network"].replace('"axes":[1]', '"axis":1')})
    assert bits(bp.load(tmp_path / "old").predict(X[:, :4])) == bits(bp.load(tmp_path / "m").predict(X[:, :4]))


@pytest.mark.parametrize("name", GRAPH_CHANGES)
def test_malformed_graph(tmp_path, name):
    path = tmp_path / "m"
    graph().save(path)
    rewrite(path, GRAPH_CHANGES[name])
    with pytest.raises(bp.FileFormatError) as error:
        bp.load(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 600


@pytest.mark.parametrize("make", [chain, graph])
def test_random_damage_never_crashes(tmp_path, make):
    """Any value in the description replaced by any other: FileFormatError, or a network that predicts or says why not."""
    path = tmp_path / "m"
    make().save(path)
    tensors, metadata = read_tensors(path)
    record = json.loads(metadata["network"])
    rng = random.Random(7)
    junk = [None, True, -1, 0, 1, 2, 7, 2**31 - 1, 2**62, -(2**63), 1e300, "", "relu", "x", [], [1, 2], [-1, 3], [[[]]], {}, {"op": "add"}]
    loaded = 0
    for _ in range(400):
        changed = copy.deepcopy(record)
        place = changed
        while True:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.85:
                place = place[key]
            else:
                break
        place[key] = rng.choice(junk)
        try:
            result = saving._rebuild(saving.parse(json.dumps(changed)), tensors)
        except (ValueError, TypeError, IndexError, OverflowError):  # what load turns into FileFormatError
            continue
        assert {k: v.shape for k, v in result[4].items()} == {k: tensors[k].shape for k in result[4]}
        write_tensors(path, tensors, {**metadata, "network": json.dumps(changed)})
        try:
            net = bp.load(path)
        except bp.FileFormatError:
            continue
        loaded += 1
        try:
            net.predict(inputs(net))
        except (ValueError, TypeError, MemoryError):
            pass
    assert 0 < loaded < 200
