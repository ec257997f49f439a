"""The workloads of the benchmark, and how each peer runs them.

A workload is a training step with Adam on fixed data. Every peer starts from its own weights and gets its best honest
setting: PyTorch runs eagerly with the fused Adam (``torch.optim.Adam(fused=True)``), ``zero_grad(set_to_none=True)``, and inputs that
are tensors already; ours gets NumPy arrays through the public ``trainer.step``.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """A training step: layer sizes, batch, activation."""

    layers: tuple[int, ...]
    batch: int
    activation: str = "relu"

    @property
    def name(self):
        return f"{'-'.join(map(str, self.layers))} batch {self.batch}"

    @property
    def flops(self):
        """Multiplications and additions of the products: forward, weight gradients, and input gradients but for the first."""
        pairs = list(zip(self.layers, self.layers[1:]))
        weights = [a * b for a, b in pairs]
        return 2 * self.batch * (2 * sum(weights) + sum(weights[1:]))

    def data(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.batch, self.layers[0])).astype("float32")
        return x, rng.integers(0, self.layers[-1], self.batch).astype("int64")


STEPS = [
    Step((4, 64, 64, 2), 64),
    Step((64, 128, 10), 32),
    Step((784, 256, 128, 10), 128),
    Step((784, 512, 512, 10), 256),
    Step((1024, 1024, 1024, 1024, 10), 512),
]


def backprop(step: Step):
    import backprop as bp
    layers = [bp.Input(step.layers[0])]
    layers += [bp.Dense(n, step.activation) for n in step.layers[1:-1]] + [bp.Dense(step.layers[-1])]
    trainer = bp.Trainer(bp.Sequential(layers), loss="cross_entropy", optimizer=bp.Adam(1e-3), seed=0)
    x, y = step.data()
    return lambda: trainer.step(x, y)


def pytorch(step: Step):
    import torch
    torch.manual_seed(0)
    kinds = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
    modules = []
    for a, b in zip(step.layers, step.layers[1:]):
        modules += [torch.nn.Linear(a, b), kinds[step.activation]()]
    net = torch.nn.Sequential(*modules[:-1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    loss_fn = torch.nn.functional.cross_entropy
    x, y = (torch.from_numpy(a) for a in step.data())

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()
    return run


def sklearn(step: Step):
    import warnings

    from sklearn.neural_network import MLPClassifier
    x, y = step.data()
    y[:step.layers[-1]] = np.arange(step.layers[-1])[:len(y)]
    net = MLPClassifier(step.layers[1:-1], activation=step.activation, batch_size=step.batch, alpha=0.0)
    warnings.simplefilter("ignore")
    net.partial_fit(x, y, classes=np.arange(step.layers[-1]))
    return lambda: net.partial_fit(x, y)


PEERS = {"backprop": backprop, "torch": pytorch, "sklearn": sklearn}
