"""The workloads of the benchmark, and how each peer runs them: every peer at its best honest setting.

- ``torch``: eager, ``Adam(fused=True)``, ``zero_grad(set_to_none=True)``, denormals flushed; inputs are tensors already.
- ``torch-compiled``: the same with forward pass, loss and backward pass by ``torch.compile(fullgraph=True)``; needs a C++ compiler.
- ``torch-bf16``: the same as ``torch`` with the forward pass under bfloat16 autocast.
- ``jax``: one jitted step with optax's Adam, its state donated, inputs on the device already, ``block_until_ready`` at each step.
- ``jax-scan``: the same step, many to a call by ``lax.scan``; time per step.
- ``sklearn``: ``MLPClassifier.partial_fit``, alpha 0, one batch.
- ``numpy``: by hand, with buffers made once (`backprop.benchmark.ByHand`).
- ours: NumPy arrays through the public ``trainer.step``, ``loss_and_gradients``, ``predict`` or ``fit``; ``ours-bf16`` the same with
  ``precision="bfloat16"``.

All start from the same weights (but scikit-learn, which draws its own) and compute the same. fastText is in ``bench/reviews.py``.
"""

from dataclasses import dataclass

import numpy as np

from backprop.benchmark import ByHand, LeftOut, Step, Torch, network, torch_network, trainer

PEERS = ("ours-bf16", "torch", "torch-compiled", "torch-bf16", "jax", "jax-scan", "sklearn", "numpy")


# ---------------------------------------------------------------- training steps

def ours(step):
    own = trainer(step)
    x, y = step.data()
    return lambda: own.step(x, y)


def ours_bf16(step):
    if min(step.layers[:-1]) < 128:
        raise LeftOut("bfloat16 is for wide layers")
    try:
        own = trainer(step, "bfloat16")
    except ValueError as e:
        raise LeftOut(str(e)) from e
    x, y = step.data()
    return lambda: own.step(x, y)


def torch_compiled(step):
    import torch

    torch._dynamo.reset()
    run = Torch(step, compiled=True)
    try:
        run()
    except Exception as e:  # torch raises many kinds where it finds no compiler, or one that fails
        raise LeftOut(f"torch.compile does not work here: {type(e).__name__}") from e
    return run


class Jax:
    """A jitted step with optax's Adam; with `scan`, so many steps to a call."""

    def __init__(self, step, scan=None):
        import jax
        import jax.numpy as jnp
        import optax

        adam = optax.adam(1e-3)
        act = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}[step.activation]
        self.x, self.y = map(jnp.asarray, step.data())
        w = [jnp.array(a) for a in step.weights()]
        self.parameters, self.state, self.block = w, adam.init(w), jax.block_until_ready

        def loss(w, x, y):
            for W, b in zip(w[:-2:2], w[1:-2:2]):
                x = act(x @ W + b)
            return optax.softmax_cross_entropy_with_integer_labels(x @ w[-2] + w[-1], y).mean()

        def one(w, state, x, y):
            value, g = jax.value_and_grad(loss)(w, x, y)
            change, state = adam.update(g, state, w)
            return optax.apply_updates(w, change), state, value

        def many(w, state, x, y):
            def body(carry, _):
                *carry, value = one(*carry, x, y)
                return tuple(carry), value
            (w, state), values = jax.lax.scan(body, (w, state), length=scan)
            return w, state, values

        self.steps = scan or 1
        self.step = jax.jit(many if scan else one, donate_argnums=(0, 1))

    def __call__(self):
        self.parameters, self.state, loss = self.step(self.parameters, self.state, self.x, self.y)
        self.block((self.parameters, loss))
        return loss


def jax_scan(step):
    """50 steps to a call, fewer where they are long."""
    return Jax(step, max(2, min(50, int(2e11 / step.flops / 10))))


def sklearn(step):
    import warnings

    from sklearn.neural_network import MLPClassifier

    x, y = step.data()
    net = MLPClassifier(step.layers[1:-1], activation=step.activation, batch_size=step.batch, alpha=0.0)
    warnings.simplefilter("ignore")
    net.partial_fit(x, y, classes=np.arange(step.layers[-1]))
    return lambda: net.partial_fit(x, y)


STEP_PEERS = {
    "backprop": ours, "ours-bf16": ours_bf16, "torch": Torch, "torch-compiled": torch_compiled,
    "torch-bf16": lambda step: Torch(step, autocast=True), "jax": Jax, "jax-scan": jax_scan, "sklearn": sklearn, "numpy": ByHand,
}


# ---------------------------------------------------------------- other work on a network

def gradients_ours(step):
    import backprop as bp

    # dropout after the hidden layer, squared error: the published setting of small float64 networks
    net = bp.Sequential([bp.Input(24), bp.Dense(8, "tanh"), bp.Dropout(0.2), bp.Dense(2)], dtype="float64", seed=0)
    own = bp.Trainer(net, "squared_error", seed=0)
    x, y = wide(step)
    return lambda: own.loss_and_gradients(x, y)


def gradients_torch(step):
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(24, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2)).double()
    x, y = map(torch.from_numpy, wide(step))

    def run():
        net.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        return loss.item()
    return run


def wide(step):
    rng = np.random.default_rng(0)
    return rng.normal(size=(step.batch, step.layers[0])), rng.normal(size=(step.batch, step.layers[-1]))


def predict_ours(step):
    net = network(step)
    x, _ = step.data()
    return lambda: net.predict(x)


def predict_torch(step):
    import torch

    net = torch_network(step).eval()
    x = torch.from_numpy(step.data()[0])

    def run():
        with torch.inference_mode():
            return net(x)
    return run


def predict_numpy(step):
    W, b = step.weights()[::2], step.weights()[1::2]
    x, _ = step.data()
    out = [np.empty((step.batch, n), "float32") for n in step.layers[1:]]

    def run():
        h = x
        for i, z in enumerate(out):
            np.matmul(h, W[i], out=z)
            z += b[i]
            if i < len(out) - 1:
                np.tanh(z, out=z)
            h = z
        return h
    return run


EPOCH_ROWS = 12_800


def rows(step):
    """Rows as sparse as MNIST's: four fifths of the pixels are 0."""
    rng = np.random.default_rng(0)
    x = rng.random((EPOCH_ROWS, step.layers[0]), dtype="float32") * (rng.random((EPOCH_ROWS, step.layers[0])) < 0.2)
    return x.astype("float32"), rng.integers(0, step.layers[-1], EPOCH_ROWS).astype("int64")


def epoch_ours(step):
    own = trainer(step)
    x, y = rows(step)
    return lambda: own.fit(x, y, epochs=1, batch_size=step.batch, progress=False)


def epoch_torch(step):
    import torch

    net = torch_network(step)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    x, y = map(torch.from_numpy, rows(step))

    def run():
        for batch in torch.randperm(len(x)).split(step.batch):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return run


# ---------------------------------------------------------------- the list

@dataclass(frozen=True)
class Workload:
    """What is measured: a name, floating-point operations of a run, and what makes each peer's run from `step`."""

    name: str
    step: Step
    flops: float
    peers: dict
    bits: int = 32

    def make(self, peer):
        """A callable that runs it once; LeftOut where `peer` cannot."""
        try:
            return self.peers[peer](self.step)
        except ImportError as e:
            raise LeftOut(f"{e.name} is not installed") from e


STEPS = [
    Step((4, 64, 64, 2), 64),
    Step((64, 128, 10), 32),
    Step((784, 256, 128, 10), 128),
    Step((784, 512, 512, 10), 256),
    Step((1024, 1024, 1024, 1024, 10), 512),
    Step((2048, 2048, 2048, 1000), 1024),
    Step((4, 32, 16, 4), 10_000, "tanh"),
]
_small, _one, _digits = Step((24, 8, 2), 200, "tanh"), Step((4, 64, 64, 2), 1, "tanh"), STEPS[2]
WORKLOADS = [
    *(Workload(s.name, s, s.flops, STEP_PEERS) for s in STEPS),
    Workload("gradients float64 24-8-2 tanh dropout batch 200", _small, _small.flops,
             {"backprop": gradients_ours, "torch": gradients_torch}, 64),
    Workload("predict 4-64-64-2 tanh batch 1", _one, 2 * (4 * 64 + 64 * 64 + 64 * 2),
             {"backprop": predict_ours, "torch": predict_torch, "numpy": predict_numpy}),
    Workload(f"epoch of {EPOCH_ROWS} rows {_digits.name}", _digits, _digits.flops * EPOCH_ROWS / _digits.batch,
             {"backprop": epoch_ours, "torch": epoch_torch}),
]
