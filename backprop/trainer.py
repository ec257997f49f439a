"""Training: one program for forward, backward and update; an epoch is one call into C, in segments of whole steps.

Data flow of a step: inputs, targets and weights are sources; the loss of each row, their mean, its gradients and the
optimiser's update are nodes of one graph; the lowering makes one program of it, in which the loss is checked before the first
parameter changes. `fit` feeds that program with rows by a seeded permutation, in C, and comes up for air every 50 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from . import _core, losses, optim
from .autodiff import gradients
from .callbacks import Callbacks, EarlyStopping, History, Progress
from .arrays import check_array
from .errors import NonFiniteError
from .graph import BATCH, source
from .lower import Assign, Storage, lower
from .network import Network, aligned_zeros
from .schedules import Constant

_SEGMENT = 0.05  # seconds in C between looks at signals
_LONG_STEP = 0.15  # predicted seconds from which on a step updates last, so that it can be abandoned until then
_FLOPS = {"scalar": 1e10, "neon": 3e10, "avx2": 7e10, "avx512": 1.2e11}  # of one thread, for that prediction


def _check_whole(name, value, low):
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def _check_some(name, weights, weighted):
    """Weights by which something is averaged must not all be zero."""
    if weighted and not weights.any():
        raise ValueError(f"{name} must not be all zero")


class _Repeat:
    """A step like the one before: arrays of the same shapes and dtypes, which need no conversion, and labels. What is left to
    check is done on the way in, so that a small network's step is not mostly checks."""

    __slots__ = ("x", "y", "held", "trainable", "parameters", "labels", "spaces", "classes", "rows")

    @classmethod
    def of(cls, trainer, x, y):
        net = trainer.net
        if not (type(x) is np.ndarray and type(y) is np.ndarray and x.dtype == net.dtype and x.flags.c_contiguous
                and len(net._inputs) == len(net._outputs) == 1 and trainer.losses[0].name == "cross_entropy"
                and y.ndim == 1 and y.dtype in (np.int64, np.int32) and y.flags.c_contiguous):
            return None
        self = cls()
        self.x, self.y, self.rows, self.parameters = (x.shape, x.dtype), (y.shape, y.dtype), len(x), net._parameters
        self.trainable = [p.layer.trainable for p in net._parameters]
        self.held = trainer._prepare("step", len(x), (True,), False)
        self.labels, self.classes = np.empty(y.shape, dtype=np.int32), net._outputs[0].shape[1]
        self.spaces = {i: space for space, i in self.held[0].feeds}
        return self

    def takes(self, x, y):
        """Put `x` and `y` in place; False where this step is not like the last, or an array does not pass."""
        if (type(x) is not np.ndarray or type(y) is not np.ndarray or (x.shape, x.dtype) != self.x or (y.shape, y.dtype) != self.y
                or not x.flags.c_contiguous or not y.flags.c_contiguous or not x.flags.aligned or not y.flags.aligned
                or [p.layer.trainable for p in self.parameters] != self.trainable):
            return False
        if _core.narrow_labels(y, self.labels, self.classes) >= 0:
            return False
        binding = self.held[1]
        binding.set(self.spaces[0], x)
        binding.set(self.spaces[1], self.labels)
        return True


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Network
    loss : str, Loss, callable, or a list of one for each output
        ``"cross_entropy"`` (integer labels or rows of probabilities, from raw scores), ``"squared_error"``,
        ``"binary_cross_entropy"`` (from raw scores), or a function of (outputs, targets) in bp operations.
    optimizer : str or Optimizer
    seed : int
        Of shuffling and dropout, and of the initial weights of a network that has no seed and is not built yet.
    precision : {"float32", "float64"}, optional
        The network's dtype; given for its own sake, it must be that.
    fuse : bool
        False keeps every elementwise operation an instruction of its own: slower, the same bits.

    Attributes
    ----------
    t : int
        Updates made.
    epoch : int
        Epochs finished.
    history : History
        One dict for each epoch.
    """

    save_checkpoint: Callable[..., None]  # both attached by checkpoint.py
    load_checkpoint: Callable[..., None]

    def __init__(self, net, loss="cross_entropy", optimizer="adam", seed=0, precision=None, fuse=True):
        if not isinstance(net, Network):
            raise TypeError(f"net must be a bp.Network or bp.Sequential, got {type(net).__name__}")
        if precision is not None and precision != net.dtype:
            raise ValueError(f"precision={precision!r}, but the network's dtype is {net.dtype}: make the network with "
                             f"dtype=\"float32\" or \"float64\"")
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise TypeError(f"seed must be a whole number, got {seed!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in [0, 2^64), got {seed!r}")
        self.net = net
        self.losses = [losses.resolve(f) for f in (loss if isinstance(loss, (list, tuple)) else [loss])]
        self.optimizer = optim.resolve(optimizer)
        self.seed, self.fuse = int(seed), bool(fuse)
        self.t, self.epoch = 0, 0
        self.history = History()
        self.stop_training = False
        self._plans: dict = {}
        self._fast = None
        self._state = None
        self._guard = threading.RLock()
        if net.seed is None and not net.built:
            net.seed = self.seed

    # ---------------------------------------------------------------- programs

    @property
    def state(self):
        """The optimiser's arrays, slot by slot, each laid out like ``net.flat_parameters``."""
        if self._state is None:
            self._state = aligned_zeros(len(self.optimizer.slots) * self.net.flat_parameters.size, self.net.dtype)
        return self._state

    def _targets(self, outputs, labels):
        if len(self.losses) != len(outputs):
            raise ValueError(f"the network has {len(outputs)} outputs and the trainer {len(self.losses)} losses")
        return [f.target(o, k) for f, o, k in zip(self.losses, outputs, labels)]

    def _lower(self, mode, capacity, labels, weighted):
        """The program of a mode: "step", "gradients", "apply" or "evaluate"."""
        net = self.net
        inputs, outputs = net.graph(mode != "evaluate")
        if mode == "apply":
            plan = lower([], net.dtype, assigns=self._updates({
                p: source("state", p.shape, net.dtype, space="gradients", offset=net._offsets[p]) for p in net.trainable()}),
                storage=self._storage(gradients=True), fuse=self.fuse)
            plan.feeds = []
            return plan
        ys = self._targets(outputs, labels)
        rows = [f.rows(o, y) for f, o, y in zip(self.losses, outputs, ys)]
        w = source("input", (BATCH,), net.dtype, "weights") if weighted else None
        feeds = [*inputs, *ys, *([w] if weighted else [])]
        if mode == "evaluate":
            plan = lower([*rows, *outputs], net.dtype, storage=self._storage(), capacity=capacity, fuse=self.fuse)
        else:
            total = losses.weighted_mean(rows[0], w)
            for r in rows[1:]:
                total = total + losses.weighted_mean(r, w)
            trainable = net.trainable()
            grads = gradients([total], [net._sources[p] for p in trainable])
            if mode == "step":
                assigns = self._updates(dict(zip(trainable, grads)))
                isa = next(i["name"] for i in _core.isa_info() if i["current"])
                work = 6.0 * net.flat_parameters.size * capacity / _FLOPS[isa]
                late = []
                if work > _LONG_STEP:
                    late = [a.target for a in assigns if a.space == "state"] + list(self.optimizer.numbers(1, 0.0))
            else:
                assigns = [Assign("gradients", net._offsets[p], g) for p, g in zip(trainable, grads)]
                late = []
            plan = lower([total], net.dtype, storage=self._storage(gradients=mode == "gradients"), assigns=assigns,
                         checks=[total], late=late, capacity=capacity, fuse=self.fuse)
        plan.feeds = [(plan.spaces[f"input {plan.inputs.index(s)}"], i) for i, s in enumerate(feeds) if s in plan.inputs]
        return plan

    def _storage(self, gradients=False):
        more = {"state": Storage(self.state.size, self.net.dtype, True)} if self.state.size else {}
        if gradients:
            more["gradients"] = Storage(self.net.flat_gradients.size, self.net.dtype, True)
        return self.net.storage(**more)

    def _updates(self, grads):
        """The optimiser's update of every parameter, as assignments."""
        net, assigns = self.net, []
        size = net.flat_parameters.size
        for p, g in grads.items():
            at = net._offsets[p]
            places = {name: i * size + at for i, name in enumerate(self.optimizer.slots)}
            state = {name: source("state", p.shape, net.dtype, f"{net._names[p]}.{name}", space="state", offset=o)
                     for name, o in places.items()}
            value, new = self.optimizer.update(net._sources[p], g, state)
            assigns.append(Assign("parameters", at, value, net._sources[p]))
            assigns += [Assign("state", places[name], new[name], state[name]) for name in new]
        return assigns

    def _prepare(self, mode, rows, labels=(), weighted=False):
        """A plan for at least so many rows, with its binding."""
        net = self.net
        key = (mode, tuple(labels), weighted, tuple(p.layer.trainable for p in net._parameters))
        held = self._plans.get(key)
        if held is None or held[0].capacity < rows:
            plan = self._lower(mode, max(rows, 1), labels, weighted)
            binding = plan.binding()
            arrays = {"parameters": net.flat_parameters, "state": self.state if self.state.size else None}
            if "gradients" in plan.spaces:
                arrays["gradients"] = net.flat_gradients
            for name, a in arrays.items():
                if name in plan.spaces and a is not None:
                    binding.set(plan.spaces[name], a)
            numbers = np.zeros(max(len(plan.scalars), 1), dtype=net.dtype)
            if plan.scalars:
                binding.set(plan.spaces["scalars"], numbers)
            out = np.zeros((), dtype=net.dtype)  # the loss; "apply" has none
            if mode in ("step", "gradients"):
                binding.set(plan.spaces["output 0"], out)
            held = self._plans[key] = (plan, binding, numbers, out)
        return held

    def _numbers(self, t, epoch, rows):
        """Runtime scalars of update number `t` (from 1)."""
        schedule = self.optimizer.schedule
        lr = schedule.lr if type(schedule) is Constant else float(schedule.rate(t - 1, epoch))
        numbers = self.optimizer.numbers(t, lr)
        numbers["rows"] = rows
        return numbers

    def describe(self, batch_size=32) -> str:
        """The instructions of one training step, readable by a person."""
        self.net._require_built()
        labels = [isinstance(f, losses._CrossEntropy) for f in self.losses]
        return self._lower("step", batch_size, labels, False).describe()

    # ---------------------------------------------------------------- data in

    def _check(self, x, y, sample_weight, argument=("X", "y", "sample_weight")):
        """Checked arrays: inputs, targets, weights; and which targets are labels."""
        net = self.net
        if not net.built:
            with net.tentative():
                net.build(x, argument[0])
                return self._check(x, y, sample_weight, argument)
        xs = net.check_inputs(x, argument[0])
        outputs = net._outputs
        many = len(outputs) > 1
        if many and (not isinstance(y, (list, tuple)) or len(y) != len(outputs)):
            raise ValueError(f"{argument[1]} must be a list of {len(outputs)} arrays, one for each output")
        if len(self.losses) != len(outputs):
            raise ValueError(f"the network has {len(outputs)} outputs and the trainer {len(self.losses)} losses")
        n = xs[0].shape[0]
        if n == 0:
            raise ValueError(f"{argument[0]} is empty")
        ys = []
        for i, (f, o, v) in enumerate(zip(self.losses, outputs, y if many else [y])):
            name = f"{argument[1]}[{i}]" if many else argument[1]
            v = f.check(name, v, o.shape, net.dtype)
            if v.shape[0] != n:
                raise ValueError(f"{argument[0]} has {n} rows, {name} has {v.shape[0]}")
            ys.append(v)
        arrays = [*xs, *ys]
        if sample_weight is not None:
            w = check_array(argument[2], sample_weight, net.dtype, ndim=1, finite=True)
            if w.shape[0] != n:
                raise ValueError(f"{argument[0]} has {n} rows, {argument[2]} has {w.shape[0]}")
            if w.min() < 0:
                raise ValueError(f"{argument[2]} holds a negative weight ({w.min():g})")
            arrays.append(w)
        return arrays, tuple(v.dtype == np.int32 for v in ys)

    def _run(self, mode, x, y, sample_weight):
        arrays, labels = self._check(x, y, sample_weight, ("x", "y", "sample_weight"))
        n = arrays[0].shape[0]
        if mode == "gradients":
            self.net.flat_gradients[...] = 0  # those of layers that are not trained stay so
        held = self._prepare(mode, n, labels, sample_weight is not None)
        plan, binding, _, _ = held
        for space, i in plan.feeds:
            binding.set(space, arrays[i])
        return self._run_held(held, n, mode == "step")

    def _run_held(self, held, n, updates):
        """Run a plan whose arrays are in place over `n` rows; its loss. `t` grows by `updates` where the run came to its end,
        also if a signal's exception is raised then."""
        plan, binding, numbers, out = held
        if plan.scalars:
            values = self._numbers(self.t + 1, self.epoch, n)
            numbers[:] = [values[k] for k in plan.scalars]
        before, binding.done = self.t, 0
        try:
            status, _, value, limit = binding.run(n, 0, -1, self.seed, before, 0, True, 0)
            self.t = before + updates * binding.done
        except BaseException:
            self.t = before + updates * binding.done
            raise
        if status:
            self._fail(status, value, limit, before + 1)
        return float(out)

    @staticmethod
    def _fail(status, value, limit, step):
        if status == 3:
            raise ValueError(f"label or row number {value} is out of range for {limit}")
        raise NonFiniteError(f"the loss is not finite at update {step}; the parameters are those before it. "
                             "Look for NaN in the data, or lower the learning rate")

    # ---------------------------------------------------------------- steps

    def step(self, x, y, sample_weight=None) -> float:
        """One forward pass, backward pass and update.

        Parameters
        ----------
        x : array_like (n, ...), or a list of one for each input
        y : array_like (n,) or (n, k), or a list of one for each output
        sample_weight : array_like (n,), optional

        Returns
        -------
        float
            The mean loss before the update.

        Raises
        ------
        NonFiniteError
            The loss is NaN or infinite; nothing was changed.
        """
        with self._guard:
            fast = self._fast
            if fast is not None and sample_weight is None and fast.takes(x, y):
                return self._run_held(fast.held, fast.rows, 1)
            loss = self._run("step", x, y, sample_weight)
            self._fast = _Repeat.of(self, x, y) if sample_weight is None else None
            return loss

    def loss_and_gradients(self, x, y, sample_weight=None):
        """The mean loss and its gradients; nothing is updated.

        Returns
        -------
        float, mapping of str to ndarray
            The mapping's arrays are views of `flat_gradients`, which the next call overwrites.
        """
        with self._guard:
            return self._run("gradients", x, y, sample_weight), self.net.gradients

    @property
    def flat_gradients(self):
        """All gradients in one array (``net.flat_gradients``)."""
        return self.net.flat_gradients

    def apply(self) -> None:
        """Update with the gradients that ``net.backward`` has summed up, and clear them."""
        with self._guard:
            self.net._require_built()
            if not np.isfinite(self.net.flat_gradients).all():
                raise NonFiniteError("a gradient is not finite; the parameters were not changed")
            self._run_held(self._prepare("apply", 1), 1, 1)
            self.net.flat_gradients[...] = 0

    # ---------------------------------------------------------------- evaluation

    def evaluate(self, X, y, sample_weight=None, batch_size=256) -> dict[str, float]:
        """Mean loss in inference mode, and the accuracy where targets are labels.

        Returns
        -------
        dict
            ``"loss"``, and ``"accuracy"`` for a single output with a cross-entropy or binary cross-entropy.
        """
        _check_whole("batch_size", batch_size, 1)
        with self.net.tentative():
            arrays, labels = self._check(X, y, sample_weight)
            _check_some("sample_weight", arrays[-1], sample_weight is not None)
        return self._evaluate(arrays, labels, sample_weight is not None, batch_size)

    def _evaluate(self, arrays, labels, weighted, batch_size):
        n, net = arrays[0].shape[0], self.net
        weights = arrays[-1].astype("float64") if weighted else None
        plan, binding, numbers, _ = self._prepare("evaluate", min(batch_size, n), labels)
        k = len(self.losses)
        rows = [np.empty(n, dtype=net.dtype) for _ in range(k)]
        outputs = [np.empty((n, *t.shape[1:]), dtype=t.dtype) for t in net._outputs]
        for start in range(0, n, plan.capacity):
            count = min(plan.capacity, n - start)
            part = slice(start, start + count)
            for space, i in plan.feeds:
                binding.set(space, arrays[i][part])
            for i, r in enumerate([*rows, *outputs]):
                binding.set(plan.spaces[f"output {i}"], r[part])
            numbers[...] = count
            status, _, value, limit = binding.run(count, 0, -1, self.seed, 0, 0, False, 0)
            if status:
                self._fail(status, value, limit, self.t)
        total = sum(float(np.average(r.astype("float64"), weights=weights)) for r in rows)
        result = {"loss": total}
        if k == 1 and self.losses[0].name in ("cross_entropy", "binary_cross_entropy"):
            y = arrays[len(net._inputs)]
            if self.losses[0].name == "cross_entropy":
                hit = outputs[0].argmax(1) == (y if labels[0] else y.argmax(1))
            else:
                hit = ((outputs[0] > 0) == (y > 0.5)).reshape(n, -1).all(1)
            result["accuracy"] = float(np.average(hit, weights=weights))
        return result

    # ---------------------------------------------------------------- fit

    def fit(self, X, y, epochs=1, batch_size=32, sample_weight=None, validation_data=None, validation_fraction=0.0,
            shuffle=True, early_stopping=None, callbacks=(), progress=None):
        """Train for a number of epochs.

        Parameters
        ----------
        X : array_like (n, ...), or a list of one for each input
        y : array_like (n,) or (n, k), or a list of one for each output
        epochs : int
        batch_size : int
        sample_weight : array_like (n,), optional
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
        validation_fraction : float in [0, 1)
            Part of the data, drawn by the seed, to hold out where no validation data is given.
        shuffle : bool
            A new order for each epoch, a function of (seed, epoch).
        early_stopping : EarlyStopping or int, optional
            An int is its patience in epochs.
        callbacks : list of Callback
        progress : bool, optional
            A line for each epoch. None: only where the output is a terminal.

        Returns
        -------
        History
            A list of one dict for each epoch: ``epoch``, ``train_loss``, ``valid_loss``, ``valid_accuracy``, ``lr``, ``dur``.
        """
        _check_whole("epochs", epochs, 0)
        _check_whole("batch_size", batch_size, 1)
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction!r}")
        with self._guard:
            with self.net.tentative():
                arrays, labels = self._check(X, y, sample_weight)
                weighted = sample_weight is not None
                valid = None
                if validation_data is not None:
                    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
                        raise ValueError("validation_data must be a tuple (X, y) or (X, y, sample_weight)")
                    vw = validation_data[2] if len(validation_data) == 3 else None
                    names = tuple(f"validation_data[{i}]" for i in range(3))
                    valid = (*self._check(validation_data[0], validation_data[1], vw, names), vw is not None)
                    _check_some(names[2], valid[0][-1], vw is not None)
                elif validation_fraction:
                    order = _core.permutation(arrays[0].shape[0], self.seed, 2**63)  # the same rows in every fit
                    held = int(round(validation_fraction * len(order)))
                    if not 0 < held < len(order):
                        raise ValueError(f"validation_fraction={validation_fraction} of {len(order)} rows leaves one side empty")
                    valid = ([a[order[:held]] for a in arrays], labels, weighted)
                    _check_some("sample_weight of the rows held out", valid[0][-1], weighted)
                    arrays = [a[order[held:]] for a in arrays]
                if not hasattr(callbacks, "__iter__"):
                    raise TypeError(f"callbacks must be a list, got {callbacks!r}")
                callbacks = list(callbacks)
                if early_stopping is not None:
                    callbacks.append(early_stopping if isinstance(early_stopping, EarlyStopping)
                                     else EarlyStopping(patience=early_stopping))
                line = Progress.wanted(progress)
                if line is not None:
                    callbacks.append(line)
                run = Callbacks(callbacks)
            self.stop_training = False
            run("on_train_begin", self, epochs=epochs)
            try:
                for _ in range(epochs):
                    if self.stop_training:
                        break
                    self._epoch(arrays, labels, weighted, int(batch_size), shuffle, valid, run)
            finally:
                run("on_train_end", self)
            return self.history

    def _epoch(self, arrays, labels, weighted, batch, shuffle, valid, run):
        started = time.perf_counter()
        run("on_epoch_begin", self, epoch=self.epoch + 1)
        n = arrays[0].shape[0]
        batch = min(batch, n)
        steps = -(-n // batch)
        order = _core.permutation(n, self.seed, self.epoch) if shuffle else None
        t0 = self.t
        step_losses, sizes = np.zeros(steps, dtype=self.net.dtype), np.full(steps, batch, dtype="float64")
        sizes[-1] = n - (steps - 1) * batch
        done, ahead = 0, 16  # steps to prepare numbers for: about two segments' worth
        while done < steps and not self.stop_training:
            clock = time.perf_counter()
            if run.each_batch:
                run("on_batch_begin", self, epoch=self.epoch + 1, batch=done)
            # callbacks may have replaced parameters' trainability or run this trainer: look the plan up anew
            plan, binding, numbers, out = self._prepare("step", batch, labels, weighted)
            count = 1 if run.each_batch else min(steps - done, ahead)
            table = self._table(plan, count, sizes[done:])
            before, binding.done = self.t, 0
            try:
                try:
                    if plan.scalars:
                        binding.set(plan.spaces["scalars"], table)
                    binding.set(plan.spaces["output 0"], step_losses[done:])
                    status, made, _, value, limit = binding.fit(
                        [(space, arrays[i]) for space, i in plan.feeds], order, n, batch, done, count,
                        plan.spaces["scalars"] if plan.scalars else -1, len(plan.scalars), plan.spaces["output 0"],
                        _SEGMENT, self.seed, self.t, True, 0)
                finally:
                    if plan.scalars:
                        binding.set(plan.spaces["scalars"], numbers)
                    binding.set(plan.spaces["output 0"], out)
                self.t += made
            except BaseException:  # a signal's may come between any two lines: the binding's own arrays may not be back
                self.t = before + binding.done
                self._plans, self._fast = {}, None
                raise
            done += made
            ahead = min(4096, max(1, int(2 * _SEGMENT * made / max(time.perf_counter() - clock, 1e-6))))
            if status:
                self._fail(status, value, limit, self.t + 1)
            if run.each_batch:
                run("on_batch_end", self, epoch=self.epoch + 1, batch=done - 1, loss=float(step_losses[done - 1]))
            run("on_segment", self, done=done, steps=steps, loss=float(step_losses[done - 1]))
        if done < steps:
            sizes[done:] = 0
        row = {"epoch": self.epoch + 1, "train_loss": float(np.average(step_losses.astype("float64"), weights=sizes)),
               "lr": float(self.optimizer.schedule.rate(max(self.t - 1, 0), self.epoch)), "steps": self.t - t0}
        if valid is not None:
            row.update({f"valid_{k}": v for k, v in self._evaluate(*valid, 256).items()})
        row["dur"] = time.perf_counter() - started
        self.epoch += 1
        self.history.append(row)
        if hasattr(self.optimizer.schedule, "update"):
            self.optimizer.schedule.update(row.get("valid_loss", row["train_loss"]))
        run("on_epoch_end", self, epoch=self.epoch, logs=row)

    def _table(self, plan, count, sizes):
        """Runtime scalars of the next `count` updates, a row for each."""
        table = np.empty((count, max(len(plan.scalars), 1)), dtype=self.net.dtype)
        for s in range(count if plan.scalars else 0):
            values = self._numbers(self.t + 1 + s, self.epoch, sizes[s])
            table[s] = [values[k] for k in plan.scalars]
        return table
