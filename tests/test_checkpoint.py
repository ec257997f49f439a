"""Checkpoints: a training that stops and goes on ends with the bits of one that never stopped."""

import json
import math

import numpy as np
import pytest

import backprop as bp
from backprop.files import read_tensors, write_tensors

RNG = np.random.default_rng(5)
X = RNG.normal(size=(90, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)

OPTIMIZERS = {
    "sgd": lambda: bp.SGD(0.1),
    "nesterov": lambda: bp.SGD(bp.schedules.Cosine(0.1, total=40, warmup=3), momentum=0.9, nesterov=True),
    "adam": lambda: bp.Adam(bp.schedules.Step(0.01, every=1)),
    "adamw": lambda: bp.AdamW(0.01, weight_decay=0.1),
    "adagrad": lambda: bp.Adagrad(0.05),
    "rmsprop": lambda: bp.RMSprop(lambda t: 0.01 / (1 + t)),
    "plateau": lambda: bp.Adam(bp.schedules.ReduceOnPlateau(0.01, patience=0, threshold=0.2, cooldown=1)),
}


def make(optimizer="adam", hidden=(8, "relu"), dtype="float32", seed=3, head=(), loss="cross_entropy", frozen=False):
    layers = [*head, bp.Dense(*hidden, trainable=not frozen), bp.Dropout(0.4), bp.Dense(3)]
    return bp.Trainer(bp.Sequential(layers, dtype=dtype), loss, OPTIMIZERS[optimizer](), seed=seed)


def everything(trainer):
    """All that may change in a training, as comparable values."""
    net = trainer.net
    rows = [{k: v for k, v in row.items() if k != "dur"} for row in trainer.history]
    schedule = {k: v for k, v in vars(trainer.optimizer.schedule).items() if not callable(v)}
    return (net.flat_parameters.tobytes(), trainer.state.tobytes(), trainer.t, trainer.epoch, trainer.seed, rows, schedule,
            net.seed, net._draw)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fit_goes_on_bit_for_bit(tmp_path, optimizer, dtype):
    options = {"batch_size": 16, "validation_fraction": 0.2, "progress": False}
    straight = make(optimizer, dtype=dtype)
    straight.fit(X, Y, epochs=6, **options)
    first = make(optimizer, dtype=dtype)
    first.fit(X, Y, epochs=3, **options)
    first.save_checkpoint(tmp_path / "c")
    saved = everything(first)
    second = make(optimizer, dtype=dtype, seed=99)  # not built yet, other weights
    second.load_checkpoint(tmp_path / "c")
    assert everything(second) == saved
    second.fit(X, Y, epochs=3, **options)
    assert everything(second) == everything(straight)
    assert second.epoch == 6 and len(second.history) == 6
    if optimizer == "plateau":
        assert second.optimizer.schedule.lr < 0.01  # its state did change


def test_single_steps_go_on_bit_for_bit(tmp_path):
    def steps(trainer, first, last):
        for i in range(first, last):
            trainer.step(X[i : i + 20], Y[i : i + 20])

    straight, first, second = make(), make(), make()
    steps(straight, 0, 20)
    steps(first, 0, 10)
    first.save_checkpoint(tmp_path / "c")
    steps(second, 30, 33)  # built, and somewhere else
    view = second.net.parameters["0.weight"]
    second.load_checkpoint(tmp_path / "c")
    steps(second, 10, 20)
    assert everything(second) == everything(straight)
    assert np.shares_memory(view, second.net.flat_parameters) and (view == straight.net.parameters["0.weight"]).all()


def test_own_losses_go_on_bit_for_bit(tmp_path):
    def steps(trainer, n):
        for _ in range(n):
            scores = trainer.net.forward(X)  # draws dropout
            trainer.net.backward(scores / len(X))
            trainer.apply()

    straight, first, second = make(), make(), make()
    steps(straight, 6)
    steps(first, 3)
    first.save_checkpoint(tmp_path / "c")
    second.load_checkpoint(tmp_path / "c")
    steps(second, 3)
    assert everything(second) == everything(straight)


def test_graph_network_with_a_python_function_as_activation(tmp_path):
    def trainer():
        a, b = bp.Input(4), bp.Input(2)
        h = bp.Dense(5, lambda x: bp.tanh(x) * 0.5)(bp.concatenate([a, b], axis=1))
        return bp.Trainer(bp.Network([a, b], [bp.Dense(3)(h), h], seed=1), ["cross_entropy", "squared_error"], "adam")

    data = [X[:, :4], X[:, 4:]], [Y, np.zeros((90, 5))]
    straight, first, second = trainer(), trainer(), trainer()
    straight.fit(*data, epochs=4, progress=False)
    first.fit(*data, epochs=2, progress=False)
    first.save_checkpoint(tmp_path / "c")
    second.load_checkpoint(tmp_path / "c")
    second.fit(*data, epochs=2, progress=False)
    assert everything(second) == everything(straight)


def test_saving_in_a_callback(tmp_path):
    straight, first, second = make(), make(), make()

    def save(trainer, logs):
        logs["note"], logs["odd"] = "text", math.nan
        if trainer.epoch == 2:
            trainer.save_checkpoint(tmp_path / "c")

    first.fit(X, Y, epochs=4, callbacks=[save], progress=False)
    straight.fit(X, Y, epochs=4, progress=False)
    second.load_checkpoint(tmp_path / "c")
    assert second.history[1]["note"] == "text" and math.isnan(second.history[1]["odd"])
    second.fit(X, Y, epochs=2, progress=False)
    assert second.net.flat_parameters.tobytes() == straight.net.flat_parameters.tobytes()


@pytest.mark.parametrize(
    "other, words",
    [
        ({"optimizer": "adamw"}, "optimizer 'class' is 'AdamW' here, 'Adam' in the file"),
        ({"optimizer": "plateau"}, "schedule 'schedule' is 'ReduceOnPlateau' here, 'Step' in the file"),
        ({"hidden": (9, "relu")}, "6, 9"),
        ({"hidden": (8, "tanh")}, "operation .* tanh here, relu in the file"),
        ({"dtype": "float64"}, "dtype is 'float64' here, 'float32' in the file"),
        ({"frozen": True}, "frozen is .*0.bias.* here"),
        ({"loss": "squared_error"}, "losses is .*squared_error.* here"),
        ({"head": [bp.Flatten()]}, "parameters '1.weight'"),
        ({"head": [bp.Input(7)]}, "inputs is .*7.* here, .*6.* in the file"),
    ],
)
@pytest.mark.parametrize("built", [False, True])
def test_other_trainings_are_refused_and_nothing_is_changed(tmp_path, other, words, built):
    trainer = make()
    trainer.fit(X, Y, epochs=1, progress=False)
    trainer.save_checkpoint(tmp_path / "c")
    stranger = make(**other)
    if built and not stranger.net.built:
        stranger.net.build(X)
    built = stranger.net.built
    before = everything(stranger) if built else None
    with pytest.raises(ValueError, match=words) as error:
        stranger.load_checkpoint(tmp_path / "c")
    assert not isinstance(error.value, bp.FileFormatError) and str(tmp_path / "c") in str(error.value)
    assert stranger.net.built == built
    if built:
        assert everything(stranger) == before
    else:  # takes data of any size
        stranger.net.build(np.zeros((2, 11)))
        assert stranger.net._inputs[0].shape == (-1, 11)


def test_a_differing_setting_is_named(tmp_path):
    a = bp.Trainer(bp.Sequential([bp.Input(2), bp.Dense(2)]), optimizer=bp.Adam(1e-3, eps=1e-6))
    a.save_checkpoint(tmp_path / "c")
    b = bp.Trainer(bp.Sequential([bp.Input(2), bp.Dense(2)]), optimizer=bp.Adam(1e-3))
    with pytest.raises(ValueError, match="optimizer 'eps' is 1e-08 here, 1e-06 in the file"):
        b.load_checkpoint(tmp_path / "c")
    b = bp.Trainer(bp.Sequential([bp.Input(2), bp.Dense(2)]), optimizer=bp.Adam(1e-2, eps=1e-6))
    with pytest.raises(ValueError, match="schedule 'lr' is 0.01 here, 0.001 in the file"):
        b.load_checkpoint(tmp_path / "c")


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="no input size"):
        make().save_checkpoint(tmp_path / "c")
    trainer = make()
    trainer.fit(X, Y, epochs=1, progress=False)
    trainer.history[0]["array"] = X
    with pytest.raises(ValueError, match="history: 'array' is of type ndarray"):
        trainer.save_checkpoint(tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path):
    trainer = make("plateau")
    trainer.fit(X, Y, epochs=2, progress=False)
    trainer.save_checkpoint(tmp_path / "c")
    return tmp_path / "c"


def test_a_network_file_is_no_checkpoint_and_the_other_way_round(tmp_path, saved):
    trainer = make()
    trainer.net.build(X)
    trainer.net.save(tmp_path / "net")
    with pytest.raises(bp.FileFormatError, match="no backprop checkpoint.*bp.load"):
        trainer.load_checkpoint(tmp_path / "net")
    with pytest.raises(bp.FileFormatError, match="no backprop network.*load_checkpoint"):
        bp.load(saved)


def mutations():
    yield "history", [1]
    yield "history", {"a": 1}
    yield "history", [{"a": {"number": "x"}}]
    yield "t", -1
    yield "t", 1 << 70
    yield "t", 1.5
    yield "epoch", True
    yield "seed", None
    yield "net_seed", "1"
    yield "inputs", [{"shape": 3, "dtype": "float32"}]
    yield "schedule", {"schedule": "ReduceOnPlateau", "lr": "x"}
    yield "schedule", [[[[]]]]


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("key, value", list(mutations()))
def test_malformed_records(saved, key, value, built):
    tensors, metadata = read_tensors(saved)
    record = json.loads(metadata["trainer"])
    record[key] = value
    write_tensors(saved, tensors, {**metadata, "trainer": json.dumps(record)})
    trainer = make("plateau")
    if built:
        trainer.net.build(X)
    with pytest.raises(bp.FileFormatError, match=str(saved)):
        trainer.load_checkpoint(saved)
    assert trainer.net.built == built and trainer.t == 0


@pytest.mark.parametrize("shape", [[10**12], [-1], [2.5], [1 << 30, 1 << 30], [[]], ["6"], [0]])
def test_an_impossible_input_shape_makes_no_array(saved, shape):
    tensors, metadata = read_tensors(saved)
    record = json.loads(metadata["trainer"])
    record["inputs"][0]["shape"] = shape
    write_tensors(saved, tensors, {**metadata, "trainer": json.dumps(record)})
    trainer = make("plateau")
    with pytest.raises(ValueError, match=str(saved)):
        trainer.load_checkpoint(saved)
    assert not trainer.net.built


@pytest.mark.parametrize("change", ["missing", "more", "shape", "dtype", "text", "deep", "nan", "version", "cut"])
def test_malformed_files(saved, change):
    tensors, metadata = read_tensors(saved)
    name = "m/0.weight"
    if change == "missing":
        del tensors[name]
    elif change == "more":
        tensors["m/9.weight"] = np.zeros(2, "f4")
    elif change == "shape":
        tensors[name] = tensors[name].T.copy()
    elif change == "dtype":
        tensors[name] = tensors[name].astype("f8")
    elif change == "text":
        metadata["trainer"] = metadata["trainer"][:-5]
    elif change == "deep":
        metadata["trainer"] = "[" * 100_000
    elif change == "nan":
        metadata["trainer"] = metadata["trainer"].replace('"t":', '"t":NaN,"u":')
    elif change == "version":
        metadata["version"] = "2"
    write_tensors(saved, tensors, metadata)
    if change == "cut":
        saved.write_bytes(saved.read_bytes()[:-3])
    trainer = make("plateau")
    trainer.net.build(X)
    before = everything(trainer)
    with pytest.raises(bp.FileFormatError, match=str(saved)):
        trainer.load_checkpoint(saved)
    assert everything(trainer) == before
