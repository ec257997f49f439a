"""Reference trajectories: small networks trained for 100 steps by PyTorch, in float64.

    python tests/make_trajectories.py        writes tests/trajectories/dense.npz

There is a run for every optimiser, loss and activation. Initial weights and data come from integers hashed here, so they are the
same bits everywhere and need not be stored; only the final parameters are. `test_parity.py` trains the same networks, and
makes the trajectories again where PyTorch is installed.
"""

import pathlib

import numpy as np

import backprop as bp

PATH = pathlib.Path(__file__).parent / "trajectories" / "dense.npz"
INPUTS, HIDDEN, OUTPUTS = 5, 7, 3
ROWS, BATCH, STEPS = 39, 8, 100  # batches of 8, 8, 8, 8 and 7 rows, in order, over and over
SHAPES = {"0.weight": (INPUTS, HIDDEN), "0.bias": (HIDDEN,), "0.slope": (HIDDEN,),
          "1.weight": (HIDDEN, OUTPUTS), "1.bias": (OUTPUTS,)}  # fmt: skip

# name of the run, our loss
LOSSES = {"labels": "cross_entropy", "probabilities": "cross_entropy", "squared_error": "squared_error",
          "binary_cross_entropy": "binary_cross_entropy"}  # fmt: skip

# our activation, PyTorch's function, and where its slope jumps
ACTIVATIONS = {
    "none": (None, lambda F, z, a: z, ()),
    "relu": ("relu", lambda F, z, a: F.relu(z), (0.0,)),
    "tanh": ("tanh", lambda F, z, a: z.tanh(), ()),
    "sigmoid": ("sigmoid", lambda F, z, a: z.sigmoid(), ()),
    "hard_tanh": ("hard_tanh", lambda F, z, a: F.hardtanh(z), (-1.0, 1.0)),
    "leaky_relu": ("leaky_relu", lambda F, z, a: F.leaky_relu(z), (0.0,)),
    "elu": ("elu", lambda F, z, a: F.elu(z), ()),
    "gelu": ("gelu", lambda F, z, a: F.gelu(z), ()),
    "silu": ("silu", lambda F, z, a: F.silu(z), ()),
    "softplus": ("softplus", lambda F, z, a: F.softplus(z), ()),
    "prelu": ("prelu", lambda F, z, a: F.prelu(z, a), (0.0,)),
}

# our optimiser, and the class in torch.optim with its arguments
OPTIMIZERS = {
    "sgd": (lambda: bp.SGD(0.1), "SGD", {"lr": 0.1}),
    "momentum": (lambda: bp.SGD(0.05, momentum=0.9), "SGD", {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (lambda: bp.SGD(0.05, momentum=0.9, nesterov=True), "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": (lambda: bp.Adam(0.01), "Adam", {"lr": 0.01}),
    "adam_l2": (lambda: bp.Adam(0.01, weight_decay=0.02), "Adam", {"lr": 0.01, "weight_decay": 0.02}),
    "adamw": (lambda: bp.AdamW(0.01, weight_decay=0.02), "AdamW", {"lr": 0.01, "weight_decay": 0.02}),
    "adagrad": (lambda: bp.Adagrad(0.05), "Adagrad", {"lr": 0.05}),
    "rmsprop": (lambda: bp.RMSprop(0.005), "RMSprop", {"lr": 0.005}),
}


def hashed(shape, stream):
    """Numbers in [-1, 1), multiples of 2^-20 and so exact in float32: a hash of (stream, position)."""
    z = np.arange(int(np.prod(shape)), dtype=np.uint64) + (np.uint64(stream) << np.uint64(32))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64's finish
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return ((z >> np.uint64(43)).astype("float64") / 2.0**20 - 1.0).reshape(shape)


def initial(activation):
    """The parameters at the start, by name."""
    values = {name: 0.75 * hashed(shape, 1100 + i) for i, (name, shape) in enumerate(SHAPES.items())}
    if activation != "prelu":
        del values["0.slope"]
    return values


def data(loss):
    """Inputs (39, 5) and targets for a loss."""
    x, z = 2.0 * hashed((ROWS, INPUTS), 1001), hashed((ROWS, OUTPUTS), 1002)
    if loss == "labels":
        return x, z.argmax(1)
    if loss == "probabilities":
        shares = (z + 1.0) ** 2
        return x, shares / shares.sum(1, keepdims=True)
    return (x, (z + 1.0) / 2) if loss == "binary_cross_entropy" else (x, z)


def batches():
    """The rows of each step."""
    starts = range(0, ROWS, BATCH)
    return [slice(starts[i % len(starts)], starts[i % len(starts)] + BATCH) for i in range(STEPS)]


def pack(values):
    """Parameters by name as one row; the slopes are zero where there are none."""
    return np.concatenate([np.ravel(values.get(name, np.zeros(shape))) for name, shape in SHAPES.items()])


def unpack(row, activation):
    """The inverse of `pack`."""
    cuts = np.cumsum([int(np.prod(s)) for s in SHAPES.values()])[:-1]
    parts = dict(zip(SHAPES, np.split(row, cuts)))
    return {name: parts[name].reshape(SHAPES[name]) for name in initial(activation)}


def train_with_torch(optimizer, loss, activation, dtype="float64"):
    """Final parameters by name, and how near to a kink of the activation any hidden unit came (inf if it has none)."""
    import torch
    import torch.nn.functional as F

    kind = getattr(torch, dtype)
    p = {name: torch.tensor(v, dtype=kind, requires_grad=True) for name, v in initial(activation).items()}
    x, y = data(loss)
    x, y = torch.tensor(x, dtype=kind), torch.tensor(y) if loss == "labels" else torch.tensor(y, dtype=kind)
    _, act, kinks = ACTIVATIONS[activation]
    _, name, settings = OPTIMIZERS[optimizer]
    opt = getattr(torch.optim, name)(p.values(), **settings)
    criterion = {"squared_error": F.mse_loss, "binary_cross_entropy": F.binary_cross_entropy_with_logits}.get(
        loss, F.cross_entropy)
    nearest = float("inf")
    for rows in batches():
        opt.zero_grad()
        z = x[rows] @ p["0.weight"] + p["0.bias"]
        h = act(F, z, p.get("0.slope"))
        criterion(h @ p["1.weight"] + p["1.bias"], y[rows]).backward()
        opt.step()
        for kink in kinks:
            nearest = min(nearest, float((z.detach() - kink).abs().min()))
    return {name: v.detach().numpy().copy() for name, v in p.items()}, nearest


def main():
    stored = {}
    for optimizer in OPTIMIZERS:
        runs = np.empty((len(LOSSES), len(ACTIVATIONS), len(pack({}))))
        for i, loss in enumerate(LOSSES):
            for j, activation in enumerate(ACTIVATIONS):
                values, nearest = train_with_torch(optimizer, loss, activation)
                # float64 errors stay below 1e-12 here, and float32 runs are compared for SGD only
                need = 1e-5 if optimizer == "sgd" else 1e-8
                if nearest < need:
                    raise SystemExit(f"{optimizer}, {loss}, {activation}: a unit came within {nearest:g} of a kink; "
                                     "hash other numbers")
                runs[i, j] = pack(values)
        stored[optimizer] = runs
        print(f"{optimizer}: {runs.shape[0] * runs.shape[1]} runs")
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, **stored)
    print(f"{PATH}: {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
