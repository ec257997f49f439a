"""Reference trajectories: small networks trained for 100 steps by PyTorch, in float64.

    python tests/make_trajectories.py        writes tests/trajectories/dense.npz and rules.npz

There is a run for every optimiser, loss and activation, and one (labels, tanh) for every entry of `RULES`: settings of optimisers,
groups of parameters, schedules, clipping, penalties and the like. Initial weights and data come from integers hashed here, so they are the
same bits everywhere and need not be stored; only the final parameters are. `test_parity.py` trains the same networks, and
makes the trajectories again where PyTorch is installed.
"""

import pathlib

import numpy as np

import backprop as bp

PATH = pathlib.Path(__file__).parent / "trajectories" / "dense.npz"
RULES_PATH = PATH.with_name("rules.npz")
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


S = bp.schedules
WEIGHTS, BIASES = ("0.weight", "1.weight"), ("0.bias", "1.bias")


def _torchs(name, **settings):
    """A scheduler of PyTorch's, to be made when there is an optimiser."""
    return lambda torch, opt: getattr(torch.optim.lr_scheduler, name)(opt, **settings)


def _rates(f):
    """The learning rate of each step, times that of the optimiser, by PyTorch's LambdaLR."""
    return lambda torch, opt: torch.optim.lr_scheduler.LambdaLR(opt, f)


# name: (our optimiser, the other arguments of our Trainer, and what PyTorch is to do: "optimizer" a class and its settings,
# "groups" settings by name, "scheduler", and the rules that `train_rules_with_torch` spells out)
RULES = {
    "amsgrad": (lambda: bp.AMSGrad(0.02, betas=(0.8, 0.9)), {},
                {"optimizer": ("Adam", {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True})}),
    "amsgrad_l2": (lambda: bp.AMSGrad(0.02, betas=(0.8, 0.9), weight_decay=0.02), {},
                   {"optimizer": ("Adam", {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True, "weight_decay": 0.02})}),
    "sparse_adam": (lambda: bp.SparseAdam(0.01), {}, {"optimizer": ("SparseAdam", {"lr": 0.01})}),
    "adagrad_decay": (lambda: bp.Adagrad(0.1, lr_decay=0.05, initial_accumulator_value=0.1, weight_decay=0.01), {},
                      {"optimizer": ("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "initial_accumulator_value": 0.1,
                                                 "weight_decay": 0.01})}),
    "rmsprop_momentum": (lambda: bp.RMSprop(0.002, momentum=0.8), {}, {"optimizer": ("RMSprop", {"lr": 0.002, "momentum": 0.8})}),
    "rmsprop_centered": (lambda: bp.RMSprop(0.002, rho=0.9, centered=True, weight_decay=0.01), {},
                         {"optimizer": ("RMSprop", {"lr": 0.002, "alpha": 0.9, "centered": True, "weight_decay": 0.01})}),
    "rmsprop_both": (lambda: bp.RMSprop(0.002, momentum=0.5, centered=True), {},
                     {"optimizer": ("RMSprop", {"lr": 0.002, "momentum": 0.5, "centered": True})}),
    "sgd_l2": (lambda: bp.SGD(0.1, weight_decay=0.02), {}, {"optimizer": ("SGD", {"lr": 0.1, "weight_decay": 0.02})}),
    "nesterov_l2": (lambda: bp.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.02), {},
                    {"optimizer": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02})}),
    "sgd_decoupled": (lambda: bp.SGD(0.05, momentum=0.9, weight_decay=0.1, decoupled=True), {},
                      {"optimizer": ("SGD", {"lr": 0.05, "momentum": 0.9}), "shrink": 1 - 0.05 * 0.1}),
    "adam_decoupled": (lambda: bp.Adam(0.01, weight_decay=0.1, decoupled=True), {},
                       {"optimizer": ("AdamW", {"lr": 0.01, "weight_decay": 0.1})}),
    "rmsprop_decoupled": (lambda: bp.RMSprop(0.005, weight_decay=0.1, decoupled=True), {},
                          {"optimizer": ("RMSprop", {"lr": 0.005}), "shrink": 1 - 0.005 * 0.1}),
    # ---- clipping, penalties, norms, averages
    "clip_norm": (lambda: bp.Adam(0.02), {"clip_norm": 0.05}, {"optimizer": ("Adam", {"lr": 0.02}), "clip_norm": 0.05}),
    "clip_norm_at_times": (lambda: bp.SGD(0.5), {"clip_norm": 0.5}, {"optimizer": ("SGD", {"lr": 0.5}), "clip_norm": 0.5}),
    "clip_value": (lambda: bp.SGD(0.3, momentum=0.5), {"clip_value": 0.05},
                   {"optimizer": ("SGD", {"lr": 0.3, "momentum": 0.5}), "clip_value": 0.05}),
    "clip_both": (lambda: bp.AdamW(0.02), {"clip_value": 0.1, "clip_norm": 0.2},
                  {"optimizer": ("AdamW", {"lr": 0.02, "weight_decay": 0.01}), "clip_value": 0.1, "clip_norm": 0.2}),
    "l2": (lambda: bp.SGD(0.1, momentum=0.9), {"l2": 0.01}, {"optimizer": ("SGD", {"lr": 0.1, "momentum": 0.9}), "l2": 0.01}),
    "l2_biases": (lambda: bp.Adam(0.02), {"l2": 0.01, "penalize_biases": True},
                  {"optimizer": ("Adam", {"lr": 0.02}), "l2": 0.01, "penalize_biases": True}),
    "l1": (lambda: bp.SGD(0.05), {"l1": 0.003}, {"optimizer": ("SGD", {"lr": 0.05}), "l1": 0.003}),
    "l1_and_l2_clipped": (lambda: bp.Adam(0.01), {"l1": 0.003, "l2": 0.01, "clip_norm": 0.1},
                          {"optimizer": ("Adam", {"lr": 0.01}), "l1": 0.003, "l2": 0.01, "clip_norm": 0.1}),
    "max_norm": (lambda: bp.SGD(0.5), {"max_norm": 1.1}, {"optimizer": ("SGD", {"lr": 0.5}), "max_norm": 1.1}),
    "ema": (lambda: bp.Adam(0.02), {"ema": 0.95}, {"optimizer": ("Adam", {"lr": 0.02}), "ema": 0.95}),
    "everything": (lambda: bp.SGD(S.Exponential(0.3, 0.01, "step"), momentum=0.9, groups={"*.bias": {"momentum": 0.5}}),
                   {"l2": 1e-3, "l1": 1e-3, "clip_value": 0.3, "clip_norm": 0.5, "max_norm": 1.5, "ema": 0.9},
                   {"optimizer": ("SGD", {"lr": 0.3, "momentum": 0.9}), "groups": {n: {"momentum": 0.5} for n in BIASES},
                    "l2": 1e-3, "l1": 1e-3, "clip_value": 0.3, "clip_norm": 0.5, "max_norm": 1.5, "ema": 0.9,
                    "scheduler": _torchs("ExponentialLR", gamma=np.exp(-0.01))}),
    # ---- groups of parameters
    "groups_decay": (lambda: bp.AdamW(0.02, weight_decay=0.3, groups={"*.bias": {"weight_decay": 0.0}}), {},
                     {"optimizer": ("AdamW", {"lr": 0.02, "weight_decay": 0.3}), "groups": {n: {"weight_decay": 0.0} for n in BIASES}}),
    "groups_rates": (lambda: bp.Adam(0.02, groups={"0.*": {"lr": 0.003}, "*.bias": {"betas": (0.5, 0.9)}}), {},
                     {"optimizer": ("Adam", {"lr": 0.02}), "groups": {
                         "0.weight": {"lr": 0.003}, "0.bias": {"lr": 0.003, "betas": (0.5, 0.9)}, "1.bias": {"betas": (0.5, 0.9)}}}),
    "groups_last_wins": (lambda: bp.SGD(0.1, groups={
        "*": {"lr": 0.3}, "0.*": {"lr": 0.01, "momentum": 0.9}, "0.bias": {"lr": 0.2}}), {},
                         {"optimizer": ("SGD", {"lr": 0.3}), "groups": {"0.weight": {"lr": 0.01, "momentum": 0.9},
                                                                        "0.bias": {"lr": 0.2, "momentum": 0.9}}}),
    "groups_schedules": (lambda: bp.Adam(0.01, groups={"0.weight": {"lr": S.Exponential(0.05, 0.03, "step")}}), {},
                         {"optimizer": ("Adam", {"lr": 0.01}), "groups": {"0.weight": {"lr": 0.05}},
                          "scheduler": lambda torch, opt: torch.optim.lr_scheduler.LambdaLR(opt, [
                              (lambda t: np.exp(-0.03 * t)) if group["lr"] == 0.05 else (lambda t: 1.0)
                              for group in opt.param_groups])}),
    # ---- schedules
    "constant": (lambda: bp.SGD(S.Constant(0.2)), {}, {"optimizer": ("SGD", {"lr": 0.2}), "scheduler": _torchs("ConstantLR", factor=1.0)}),
    "step": (lambda: bp.SGD(S.Step(0.4, 30, unit="step"), momentum=0.5), {},
             {"optimizer": ("SGD", {"lr": 0.4, "momentum": 0.5}), "scheduler": _torchs("StepLR", step_size=30, gamma=0.5)}),
    "exponential": (lambda: bp.Adam(S.Exponential(0.05, 0.03, "step")), {},
                    {"optimizer": ("Adam", {"lr": 0.05}), "scheduler": _torchs("ExponentialLR", gamma=np.exp(-0.03))}),
    "inverse_time": (lambda: bp.SGD(S.InverseTime(0.5, 0.05, "step")), {},
                     {"optimizer": ("SGD", {"lr": 0.5}), "scheduler": _rates(lambda t: 1 / (1 + 0.05 * t))}),
    "cosine": (lambda: bp.SGD(S.Cosine(0.4, 90, final=0.01), momentum=0.5), {},
               {"optimizer": ("SGD", {"lr": 0.4, "momentum": 0.5}), "scheduler": _rates(
                   lambda t: (0.01 + 0.39 * (1 + np.cos(np.pi * min(t / 90, 1))) / 2) / 0.4)}),
    "cosine_warm_up": (lambda: bp.AdamW(S.Cosine(0.05, 100, warmup=10)), {},
                       {"optimizer": ("AdamW", {"lr": 0.05, "weight_decay": 0.01}), "scheduler": lambda torch, opt: (
                           torch.optim.lr_scheduler.SequentialLR(opt, [
                               torch.optim.lr_scheduler.LinearLR(opt, 0.1, 1.0, 9),
                               torch.optim.lr_scheduler.CosineAnnealingLR(opt, 90)], [10]))}),
    "cyclic": (lambda: bp.SGD(S.Cyclic(0.01, 0.4, 15)), {}, {"optimizer": ("SGD", {"lr": 0.01}), "scheduler": _torchs(
        "CyclicLR", base_lr=0.01, max_lr=0.4, step_size_up=15, cycle_momentum=False)}),
    "one_cycle": (lambda: bp.Adam(S.OneCycle(0.05, 110)), {}, {"optimizer": ("Adam", {"lr": 0.05}), "scheduler": _torchs(
        "OneCycleLR", max_lr=0.05, total_steps=110, cycle_momentum=False)}),
    "plateau": (lambda: bp.SGD(S.ReduceOnPlateau(0.4, 0.5, patience=2, cooldown=1)), {},
                {"optimizer": ("SGD", {"lr": 0.4}), "scheduler": _torchs("ReduceLROnPlateau", factor=0.5, patience=2, cooldown=1)}),
}  # fmt: skip


def metric(t):
    """What a schedule that looks at a metric sees after step t (0, 1, 2 ...); None: nothing."""
    return None if t % 3 else 1.0 + float(hashed((1,), 2000 + t)[0])


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


def train_rules_with_torch(name):
    """Final parameters by name, and the average of the weights where the run has one (``"ema/..."``)."""
    import torch
    import torch.nn.functional as F

    do = RULES[name][2]
    p = {n: torch.tensor(v, requires_grad=True) for n, v in initial("tanh").items()}
    x, y = (torch.tensor(a) for a in data("labels"))
    kind, settings = do["optimizer"]
    groups = [{"params": [v], **do.get("groups", {}).get(n, {})} for n, v in p.items()]
    opt = getattr(torch.optim, kind)(groups, **settings)
    scheduler = do["scheduler"](torch, opt) if "scheduler" in do else None
    penalized = [v for n, v in p.items() if n in WEIGHTS or do.get("penalize_biases")]
    ema = None
    for t, rows in enumerate(batches()):
        opt.zero_grad()
        loss = F.cross_entropy((x[rows] @ p["0.weight"] + p["0.bias"]).tanh() @ p["1.weight"] + p["1.bias"], y[rows])
        if "l2" in do:
            loss = loss + do["l2"] * sum((w**2).sum() for w in penalized)
        if "l1" in do:
            loss = loss + do["l1"] * sum(w.abs().sum() for w in penalized)
        loss.backward()
        if "clip_value" in do:
            torch.nn.utils.clip_grad_value_(p.values(), do["clip_value"])
        if "clip_norm" in do:
            torch.nn.utils.clip_grad_norm_(p.values(), do["clip_norm"])
        with torch.no_grad():
            for v in p.values():
                v *= do.get("shrink", 1.0)
                if kind == "SparseAdam":
                    v.grad = v.grad.to_sparse()
        opt.step()
        if scheduler is not None and not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step()
        elif scheduler is not None and metric(t) is not None:
            scheduler.step(metric(t))
        with torch.no_grad():
            if "max_norm" in do:
                for n in WEIGHTS:
                    p[n] *= torch.clamp(do["max_norm"] / p[n].norm(dim=0), max=1.0)
            if "ema" in do:
                now = [v.detach().clone() for v in p.values()]
                if ema is None:
                    ema = now
                else:
                    torch.optim.swa_utils.get_ema_multi_avg_fn(do["ema"])(ema, now, t)
    values = {n: v.detach().numpy().copy() for n, v in p.items()}
    return values | ({} if ema is None else {f"ema/{n}": v.numpy() for n, v in zip(p, ema)})


def pack_rules(values):
    """Parameters by name, and their averages where there are any, as one row."""
    return np.concatenate([np.ravel(v) for v in values.values()])


def unpack_rules(row):
    """The inverse of `pack_rules`."""
    out, at, names = {}, 0, list(initial("tanh"))
    for name in [*names, *(f"ema/{n}" for n in names)]:
        shape = SHAPES[name.removeprefix("ema/")]
        if at < len(row):
            out[name] = row[at : at + int(np.prod(shape))].reshape(shape)
        at += int(np.prod(shape))
    return out


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
    np.savez_compressed(RULES_PATH, **{name: pack_rules(train_rules_with_torch(name)) for name in RULES})
    print(f"{RULES_PATH}: {len(RULES)} runs, {RULES_PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
