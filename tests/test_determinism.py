"""Same seed, same bits: whatever the threads, the instruction set, the fusing, the row capacity, and what memory held before."""

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import backprop as bp
from backprop import _core
from make_trajectories import hashed

WITH_FMA = ("avx2", "avx512", "neon")  # the instruction sets that must agree bit for bit
CURRENT = _core.isa_current()

# SHA-256 of the weights after `trained`, on any instruction set with fused multiply-add. It changes only where a change
# of the numbers is meant.
EXPECTED = {
    "float32": "e9b003da1374b76e854bd04e0d0bd98b5f1325f444f3770e94e42834b0041ba3",
    "float64": "3aa156bb221ba795d7a4104a6f44c41ddc3deb552fbc541fbfbf8bbc65ec0b43",
}


def digest(net):
    return hashlib.sha256(net.flat_parameters.tobytes()).hexdigest()


def blobs(n, inputs, classes, stream=1):
    """Rows and labels that a network can learn."""
    x = hashed((n, inputs), stream)
    return x, (x @ hashed((inputs, classes), stream + 1)).argmax(1)


def trained(dtype, threads=1):
    """200 steps with dropout: wide enough that threads share the work, and with a ragged last batch."""
    x, y = blobs(1000, 40, 10)
    net = bp.Sequential([bp.Dense(300, "relu"), bp.Dropout(0.3), bp.Dense(130, "tanh"), bp.Dropout(0.1), bp.Dense(10)], dtype=dtype)
    trainer = bp.Trainer(net, optimizer=bp.Adam(1e-3), seed=5)
    with bp.threads(threads):
        trainer.fit(x, y, epochs=50, batch_size=256, progress=False)
    assert trainer.t == 200
    return digest(net)


# ---------------------------------------------------------------- threads and instruction sets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_digest_for_any_number_of_threads(dtype, shared):
    digests = {n: trained(dtype, n) for n in (1, 2, 3)}
    assert len(set(digests.values())) == 1, digests
    if CURRENT in WITH_FMA:
        assert digests[1] == EXPECTED[dtype]


@pytest.mark.parametrize("name", [n for n in _core.isa_runnable() if n in WITH_FMA and n != CURRENT])
def test_one_digest_for_any_instruction_set_with_fma(name):
    code = "import test_determinism as t; print(t.CURRENT, t.trained('float32'), t.trained('float64', 2))"
    assert in_child(code, BACKPROP_ISA=name) == [name, EXPECTED["float32"], EXPECTED["float64"]]


def test_scalar_kernels_train_to_the_same_weights_within_rounding():
    code = "import test_determinism as t; print(t.CURRENT, *t.short_run())"
    name, *weights = in_child(code, BACKPROP_ISA="scalar")
    assert name == "scalar"
    np.testing.assert_allclose(np.array(weights, dtype=float), short_run(), rtol=1e-9, atol=1e-12)


def in_child(code, **environment):
    """The words that another process prints."""
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(pathlib.Path(bp.__file__).parents[1]), str(here)])
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **environment}, cwd=here,
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def short_run():
    x, y = blobs(60, 6, 3)
    net = bp.Sequential([bp.Input(6), bp.Dense(9, "tanh"), bp.Dense(3)], dtype="float64")
    net.flat_parameters[...] = hashed(net.flat_parameters.shape, 9)
    trainer = bp.Trainer(net, seed=2)
    trainer.fit(x, y, epochs=10, batch_size=20, progress=False)
    return net.flat_parameters


def test_seeds_differ_and_repeat():
    def run(seed):
        x, y = blobs(64, 6, 3)
        net = bp.Sequential([bp.Dense(16, "relu"), bp.Dropout(0.5), bp.Dense(3)], seed=0)
        trainer = bp.Trainer(net, seed=seed)
        trainer.fit(x, y, epochs=2, batch_size=16, progress=False)
        return digest(net)

    assert run(1) == run(1) != run(2)


# ---------------------------------------------------------------- fusing, capacity, memory

OPTIMIZERS = [bp.SGD(0.1), bp.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), bp.Adam(0.01), bp.AdamW(0.01), bp.Adagrad(0.05),
              bp.RMSprop(0.01, weight_decay=0.01)]  # fmt: skip


def mixed_net(dtype="float32", units=37):
    """Every kind of layer, activations of several kinds, and a skip connection."""
    x = bp.Input(11)
    h = bp.Dense(units, "relu")(x)
    h = bp.Dropout(0.25)(h)
    h = bp.concatenate([bp.Dense(units, "tanh")(h) + h, bp.Dense(5, "gelu")(x)], 1)
    h = bp.Dense(9, "prelu")(h)
    return bp.Network([x], [bp.Dense(4)(bp.Dense(6, "sigmoid", use_bias=False)(h))], dtype=dtype, seed=3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_and_unfused_give_the_same_bits(optimizer, dtype):
    x, y = blobs(50, 11, 4)
    runs = []
    for fuse in (True, False):
        net = mixed_net(dtype)
        trainer = bp.Trainer(net, optimizer=optimizer, seed=1, fuse=fuse)
        losses = [trainer.step(x[i % 3:], y[i % 3:], None if i % 2 else np.arange(50.0)[i % 3:]) for i in range(12)]
        instructions = trainer.describe().count("\n")
        runs.append((losses, digest(net), trainer.state.tobytes(), instructions))
    assert runs[0][:3] == runs[1][:3]
    assert runs[0][3] < runs[1][3]  # that one is fused and the other not


@pytest.mark.parametrize("rows", [1, 7, 33])
def test_row_capacity_does_not_matter(rows):
    x, y = blobs(300, 11, 4)
    digests = set()
    for first in (rows, 64, 300):
        net = mixed_net()
        trainer = bp.Trainer(net, optimizer=bp.SGD(0.1), seed=1)
        start = net.flat_parameters.copy()
        trainer.step(x[:first], y[:first])  # lowers the program for that many rows
        assert not np.array_equal(start, net.flat_parameters)
        net.flat_parameters[...], trainer.t = start, 0
        for _ in range(5):
            trainer.step(x[:rows], y[:rows])
        digests.add(digest(net))
    assert len(digests) == 1


NETS = {
    "narrow": (3, [4, "tanh"], 1),
    "one input": (1, [5, "softplus"], 2),
    "odd": (33, [17, "gelu", 65, "silu"], 7),
    "deep sums": (600, [300, "relu"], 10),
    "wide": (20, [257, "elu", 129, "sigmoid"], 100),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_a_row_is_predicted_alike_in_any_company(name, dtype):
    inputs, hidden, outputs = NETS[name]
    layers = [bp.Dense(u, a) for u, a in zip(hidden[::2], hidden[1::2])]
    net = bp.Sequential([bp.Input(inputs), *layers, bp.Dense(outputs)], dtype=dtype, seed=4)
    x = hashed((261, inputs), 7).astype(dtype)
    expected = net.predict(x)
    assert len(np.unique(expected)) > 200
    for i in (0, 1, 2, 5, 6, 13, 14, 100, 255, 256, 260):
        assert net.predict(x[i:i + 1]).tobytes() == expected[i].tobytes()
    for batch_size in (1, 3, 64, 256, 1000):
        assert net.predict(x, batch_size=batch_size).tobytes() == expected.tobytes()
    assert net.predict(x[::-1])[::-1].tobytes() == expected.tobytes()
    with bp.threads(2):
        assert net.predict(x).tobytes() == expected.tobytes()


def bindings_of(trainer):
    return [held[1] for held in trainer._plans.values()]


@pytest.mark.parametrize("fuse", [True, False])
def test_what_the_arena_held_before_does_not_matter(fuse):
    x, y = blobs(40, 11, 4)
    seen = set()
    for fill in (0x00, 0xFF, 0x55):
        net = mixed_net()
        trainer = bp.Trainer(net, seed=1, fuse=fuse)
        losses = []
        for rows in (40, 40, 23):
            for binding in bindings_of(trainer):
                arena = np.frombuffer(binding.arena(), dtype=np.uint8)
                assert arena.size
                arena[:] = fill
                del arena
            losses.append(trainer.step(x[:rows], y[:rows]))
            losses.append(trainer.loss_and_gradients(x[:rows], y[:rows])[0])
            losses.append(trainer.evaluate(x[:rows], y[:rows])["loss"])
        assert len(bindings_of(trainer)) == 3
        seen.add((tuple(losses), digest(net), net.flat_gradients.tobytes()))
    assert len(seen) == 1


# ---------------------------------------------------------------- allocations, floating point state


def test_a_step_allocates_nothing():
    x, y = blobs(64, 11, 4)
    net = mixed_net()
    trainer = bp.Trainer(net, seed=1)

    def everything():
        trainer.step(x, y)
        trainer.step(x[:17], y[:17])
        trainer.loss_and_gradients(x, y)
        trainer.evaluate(x, y)
        trainer.fit(x, y, epochs=2, batch_size=20, progress=False)
        net.predict(x)
        z = net.forward(x.astype("float32"))
        net.backward(z)
        trainer.apply()

    before = _core.allocations()
    everything()
    once = _core.allocations()
    assert once > before  # it counts
    for _ in range(5):
        everything()
    assert _core.allocations() == once


def denormals_live():
    return np.float32(1e-40) * np.float32(1) != 0 and np.float64(1e-310) * np.float64(1) != 0


def test_the_processors_state_is_left_as_it_was():
    x, y = blobs(64, 11, 4)
    assert denormals_live()
    within = []

    class Look:
        def on_batch_end(self, trainer, epoch, batch, loss):
            within.append(denormals_live())

    trainer = bp.Trainer(mixed_net(), seed=1)
    trainer.step(x, y)
    assert denormals_live()
    trainer.fit(x, y, epochs=1, batch_size=20, callbacks=[Look()], progress=False)
    assert denormals_live() and within == [True] * 4
    with bp.threads(2):
        trainer.fit(x, y, epochs=1, batch_size=20, progress=False)
    assert denormals_live()
    with pytest.raises(bp.NonFiniteError):
        trainer.step(np.full_like(x, np.nan), y)
    assert denormals_live()
    trainer.net.backward(trainer.net.forward(x))
    trainer.apply()
    assert denormals_live()


def test_training_flushes_denormals_and_prediction_keeps_them():
    tiny = np.float32(1e-40)
    net = bp.Sequential([bp.Input(1), bp.Dense(1, use_bias=False)])
    net.flat_parameters[...] = 0
    net.parameters["0.weight"][...] = 1
    assert net.predict([[tiny]]).item() == tiny
    trainer = bp.Trainer(net, lambda z, y: z + y * 0.0, bp.SGD(1.0))
    assert trainer.step([[tiny]], [[0.0]]) == 0.0


# ---------------------------------------------------------------- fit is its steps


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_equals_its_steps_by_hand(shuffle):
    x, y = blobs(53, 11, 4)
    w = hashed(53, 8) + 1.0
    by_fit, by_hand = mixed_net(), mixed_net()
    one, two = bp.Trainer(by_fit, seed=9), bp.Trainer(by_hand, seed=9)
    history = one.fit(x, y, epochs=3, batch_size=10, sample_weight=w, shuffle=shuffle, progress=False)
    for epoch in range(3):
        order = _core.permutation(53, 9, epoch) if shuffle else np.arange(53)
        parts = [order[i:i + 10] for i in range(0, 53, 10)]
        losses = [two.step(x[p], y[p], w[p]) for p in parts]
        mean = np.average(losses, weights=[len(p) for p in parts])
        assert history[epoch]["train_loss"] == pytest.approx(mean, rel=1e-12)
    assert one.t == two.t == 18
    assert digest(by_fit) == digest(by_hand)


def test_shuffling_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        """The order in which an epoch visits 30 rows, seen through the loss of batches of one."""
        net = bp.Sequential([bp.Input(1), bp.Dense(1, use_bias=False, weight_init="zeros")], dtype="float64")
        trainer = bp.Trainer(net, lambda z, y: y + z * 0.0, bp.SGD(0.1), seed=seed)
        trainer.epoch = epoch
        seen = []

        class Look:
            def on_batch_end(self, trainer, epoch, batch, loss):
                seen.append(int(loss))

        trainer.fit(np.zeros((30, 1)), np.arange(30.0), batch_size=1, callbacks=[Look()], progress=False)
        return seen

    first = order(1, 0)
    assert sorted(first) == list(range(30)) != first
    assert first == order(1, 0) == list(_core.permutation(30, 1, 0))
    assert len({tuple(o) for o in (first, order(1, 1), order(2, 0), order(2, 1))}) == 4


def test_epochs_in_one_fit_or_several_are_the_same():
    x, y = blobs(53, 11, 4)
    a, b = (bp.Trainer(mixed_net(), seed=9) for _ in range(2))
    a.fit(x, y, epochs=4, batch_size=10, progress=False)
    for epochs in (1, 2, 1):
        b.fit(x, y, epochs=epochs, batch_size=10, progress=False)
    assert digest(a.net) == digest(b.net) and a.epoch == b.epoch == 4
