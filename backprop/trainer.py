"""Training: one program for forward, backward and update; an epoch is one call into C, in segments of whole steps.

Data flow of a step: inputs, targets and weights are sources; the loss of each row, their mean, its gradients and the
optimiser's update are nodes of one graph; the lowering makes one program of it, in which the loss is checked before the first
parameter changes. `fit` feeds that program with rows by a seeded permutation, in C, and comes up for air every 50 ms; batches
that an iterator yields come one by one, through Python.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from operator import call

import numpy as np

from . import _core, accumulation, losses, optim, sparse, updates
from .autodiff import gradients
from .callbacks import Callbacks, EarlyStopping, History, Progress
from .arrays import check_array, check_rows
from .errors import NonFiniteError, named
from .graph import BATCH, source
from .lower import Assign, Storage, lower
from .layers import Layer
from .network import Network, aligned_zeros
from .schedules import Settings
from .sparse import RowGradient
from .streams import Batches

_SEGMENT = 0.05  # seconds in C between looks at signals
_LONG_STEP = 0.15  # predicted seconds from which on a step updates last, so that it can be abandoned until then
_AHEAD = 256  # updates at most whose numbers are made at once
_FLOPS = {"scalar": 1e10, "neon": 3e10, "avx2": 7e10, "avx512": 1.2e11}  # of one thread, for that prediction


def _check_whole(name, value, low):
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def _check_some(name, weights, weighted):
    """Weights by which something is averaged must not all be zero."""
    if weighted and not weights.any():
        raise ValueError(f"{name} must not be all zero")


class _Repeat:
    """A step, or a call for gradients, like the one before: arrays of the same shapes and dtypes, inputs that need no conversion. What
    is left to check is done on the way in, so that a small network's step is not mostly checks."""

    __slots__ = ("held", "rows", "switched", "check", "put", "updates", "ahead")

    @classmethod
    def of(cls, trainer, mode, x, y):
        net = trainer.net
        if mode == "step" and trainer.accumulate > 1 or len(net._inputs) + len(net._outputs) != 2:
            return None
        inputs, loss, output = net._inputs[0], trainer.losses[0], net._outputs[0]
        low, limit, _ = net._id_ranges.get(inputs, (-1, 0, None))
        words = inputs.dtype == "int32"
        if not (type(x) is np.ndarray and type(y) is np.ndarray and x.flags.c_contiguous
                and (x.dtype in (np.int64, np.int32) and low == 0 if words else x.dtype == net.dtype)):
            return None
        self = cls()
        if type(loss) is losses.CrossEntropy and y.ndim == 1 and y.dtype in (np.int64, np.int32) and y.flags.c_contiguous:
            self.check, targets, labels = None, y, np.empty(y.shape, dtype=np.int32)
        else:
            self.check, labels = partial(loss.check, "y", output_shape=output.shape, dtype=net.dtype), None
            targets = self.check(y)
            if type(loss).check is losses.Loss.check and (targets is y or targets.base is y):
                self.check, targets = None, y  # what is left of it is whether all numbers are finite
        self.held = trainer._prepare(mode, len(x), (labels is not None or targets.dtype == np.int32,), False)
        plan, binding = self.held[:2]
        if mode == "gradients" and not plan.whole:
            return None
        spaces = {i: space for space, i in plan.feeds}
        self.put = _core.Feeds(binding, np.ndarray, (spaces.get(0, -1), spaces.get(1, -1)), (x.shape, targets.shape),
                               (np.empty(x.shape, np.int32) if words else None, labels), (limit, output.shape[-1]),
                               (False, self.check is None and labels is None))
        self.rows, self.switched, self.updates = len(x), Layer._switched, int(mode == "step")
        # The settings' mark, the epoch (None: no numbers ahead), the first update and the numbers: one tuple, for a signal may come.
        self.ahead = None, 0, 0, []
        return self

    def takes(self, x, y):
        """Put `x` and `y` in place; False where this step is not like the last, or an array does not pass."""
        if Layer._switched != self.switched:
            return False
        if self.check is not None:
            try:
                y = self.check(y)
            except (ValueError, TypeError):
                return False
        return self.put(x, y)

    def numbers(self, trainer):
        """Runtime scalars of the update that comes. Where its number, the epoch and settings alone decide them they are made ahead, from
        the second step on that finds all settings as they were, for twice as many updates each time."""
        mark = Settings.mark[0]  # before what it stands for
        known, epoch, first, values = self.ahead
        at = trainer.t - first
        if known is mark and 0 <= at < len(values) and epoch == trainer.epoch:
            return values[at]
        if known is not mark:
            self.ahead = mark, 0, 0, []
        elif epoch is not None:
            if values or not self.updates or all(o.steady for o in trainer._optimizers):
                count = min(max(2 * at, 2), _AHEAD) if at == len(values) else 2
                values = trainer._table(self.held[0], count, np.full(count, self.rows)).tolist()
                self.ahead = mark, trainer.epoch, trainer.t, values
                return values[0]
            self.ahead = mark, None, 0, []
        return trainer._values(self.held[0], self.rows, self.updates)


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Network
    loss : str, Loss, callable, or a list of one for each output
        ``"cross_entropy"`` (integer labels or rows of probabilities, from raw scores), ``"binary_cross_entropy"`` (from raw scores),
        ``"squared_error"``, ``"absolute_error"``, ``"huber"``, ``"hinge"``, ``"margin"``; one with options, as
        ``losses.CrossEntropy(label_smoothing=0.1)``; or a function of (outputs, targets) in bp operations.
    optimizer : str or Optimizer
    seed : int
        Of shuffling and dropout, and of the initial weights of a network that has no seed and is not built yet.
    precision : {"float32", "float64", "bfloat16"}, optional
        The network's dtype; given for its own sake, it must be that. ``"bfloat16"``, for a network of float32: the matrix products
        of `step`, `fit` and `loss_and_gradients` take operands rounded to bfloat16 (8 significant bits) and sum in float32;
        weights, optimiser and everything else stay float32, and so do `predict` and `evaluate`. Much faster for large layers
        where the processor has AVX512-BF16 (1.8 times) or AMX; the bits then depend on the processor, but on nothing else.
    fuse : bool
        False keeps every elementwise operation an instruction of its own: slower, the same bits.
    l2, l1 : float
        Penalties: what is minimised is ``J = mean loss + l2 sum theta^2 + l1 sum |theta|``, so the gradient has ``2 l2 theta`` and
        ``l1 sign(theta)`` more; of a table whose gradient is sparse both cover the rows that the step touches. `step`,
        `loss_and_gradients` and ``train_loss`` report J. `evaluate` and ``valid_loss`` leave the penalties out, and so does `apply`,
        whose gradients are those of a loss of your own. An optimiser's ``weight_decay`` is another thing: it changes the update
        and is in no loss.
    penalize_biases : bool
        False leaves parameters of one dimension (biases, learned slopes) out of the penalties.
    max_norm : float, optional
        After an update each column of a weight matrix, the incoming weights of a unit, is scaled to at most this norm (Srivastava
        et al. 2014). Tables whose gradient is sparse are left alone.
    clip_value : float, optional
        Each element of the gradient of J is cut to [-clip_value, clip_value] before it is updated with.
    clip_norm : float, optional
        All gradients together (after `clip_value`) are scaled by ``min(1, clip_norm / (norm + 1e-6))``, as
        ``torch.nn.utils.clip_grad_norm_`` does.
    ema : float in (0, 1), optional
        Keep an average of the weights, ``ema = d ema + (1 - d) theta`` after each update, starting from the weights after the
        first (Polyak and Juditsky 1992, in exponential form): see `ema_parameters` and `averaged`. 0.999 is usual.
    loss_weights : list of float, optional
        A factor for the loss of each output.
    accumulate : int
        Run a batch (of `step`, `fit`, an iterator) as up to so many micro-batches of ceil(rows / accumulate) rows, and update
        once with the sum of their gradients: the memory of a step is that of a micro-batch, and the result that of the whole
        batch within rounding, dropout, sample and class weights, penalties and clipping included. What makes rows depend on each
        other is the exception: `BatchNorm` takes the statistics of each micro-batch, and so does a ``bp.mean`` over the batch.
        Sparse gradients of tables are kept until the update: they need as much memory as those of the whole batch.
        `loss_and_gradients` and `evaluate` are not concerned.

    Attributes
    ----------
    t : int
        Updates made.
    epoch : int
        Epochs finished.
    history : History
        One dict for each epoch.
    feed : tuple or None
        For callbacks of batches: all arrays of the fit (inputs, targets, weights) and the rows of the step that comes.
    """

    gradcheck: Callable[..., object]  # attached by gradcheck.py
    save_checkpoint: Callable[..., None]  # both attached by checkpoint.py
    load_checkpoint: Callable[..., None]

    def __init__(self, net, loss="cross_entropy", optimizer="adam", seed=0, precision=None, fuse=True, *, l2=0.0, l1=0.0,
                 penalize_biases=False, max_norm=None, clip_value=None, clip_norm=None, ema=None, loss_weights=None, accumulate=1):
        if not isinstance(net, Network):
            raise TypeError(f"net must be a bp.Network or bp.Sequential, got {type(net).__name__}")
        if precision == "bfloat16" and net.dtype != "float32":
            raise ValueError(f"precision='bfloat16' keeps weights in float32, but the network's dtype is {net.dtype}: make the "
                             "network with dtype=\"float32\"")
        if precision not in (None, "bfloat16", net.dtype):
            raise ValueError(f"precision={precision!r}, but the network's dtype is {net.dtype}: make the network with "
                             f"dtype=\"float32\" or \"float64\"")
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise TypeError(f"seed must be a whole number, got {seed!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in [0, 2^64), got {seed!r}")
        self.net = net
        self.losses = [losses.resolve(f) for f in (loss if isinstance(loss, (list, tuple)) else [loss])]
        self.loss_weights = losses.check_weights(loss_weights, len(self.losses))
        self.optimizer = optim.resolve(optimizer)
        self.rules = updates.Rules(l2, l1, penalize_biases, max_norm, clip_value, clip_norm, ema)
        self.seed, self.fuse = int(seed), bool(fuse)
        self.accumulate = accumulation.check(accumulate, self.losses)
        self._kept_sums = None
        self.products = "bfloat16" if precision == "bfloat16" else None
        self.t, self.epoch = 0, 0
        self.history = History()
        self.stop_training, self.feed = False, None
        self._plans: dict = {}
        self._make: Callable = lower  # or `lower.Programs`, where many trainers have the same graph
        self._fast: dict = {}
        self._state = None
        self._assigned: dict = {}  # the optimiser of each parameter, by name, and the different ones of them
        self._optimizers: list = []
        self._swapped = False
        self._guard = threading.RLock()
        if net.seed is None and not net.built:
            net.seed = self.seed
        if net.built:
            self._assign()

    # ---------------------------------------------------------------- programs

    def _assign(self):
        """Find the optimiser of each parameter; ValueError for a group that has no parameter."""
        names = list(self.net.parameters)
        if list(self._assigned) != names:
            self._assigned = self.optimizer.assigned(names)
            self._optimizers = list({id(o): o for o in self._assigned.values()}.values())

    @property
    def slots(self):
        """Names of the arrays of `state`: those of the optimisers, and ``"ema"``."""
        self._assign()
        return (*dict.fromkeys(slot for o in [self.optimizer, *self._optimizers] for slot in o.slots),
                *(["ema"] if self.rules.ema is not None else []))

    @property
    def state(self):
        """The arrays that training keeps for the parameters, slot by slot, each laid out like ``net.flat_parameters``."""
        if self._state is None:
            flat = self.net.flat_parameters
            self._state = aligned_zeros(len(self.slots) * flat.size, self.net.dtype)
            if self.rules.ema is not None:
                self._state[-flat.size:] = flat  # what is not trained is its own average
        return self._state

    @property
    def _sums(self):
        """Where micro-batches sum up their gradients."""
        if self._kept_sums is None:
            self._kept_sums = accumulation.Sums(self.net)
        return self._kept_sums

    def _targets(self, outputs, labels):
        if len(self.losses) != len(outputs):
            raise ValueError(f"the network has {len(outputs)} outputs and the trainer {len(self.losses)} losses")
        return [f.target(o, k) for f, o, k in zip(self.losses, outputs, labels)]

    def _lower(self, mode, capacity, labels, weighted):
        """The program of a mode: "step", "gradients", "apply", "evaluate"; of accumulation: "micro", "update", "counts"."""
        net = self.net
        self._assign()
        if mode in ("apply", "update"):
            given = {p: (source("input", (BATCH, *p.shape[1:]), net.dtype, f"d{net._names[p]}"),
                         source("input", (BATCH,), "int32", "ids")) for p in net.trainable() if p in net._tables}
            taken = {p: (sparse.scattered(*pair, p.shape[0]), pair[1]) for p, pair in given.items()}
            if mode == "apply":
                total, more, storage = None, [], net.gradient_storage()
                grads = {p: taken[p][0] if p in taken else source("state", p.shape, net.dtype, space="gradients",
                                                                  offset=net._gradient_offsets[p]) for p in net.trainable()}
            else:
                grads, more, total = accumulation.update(net, self.rules, taken)
                storage = self._sums.storage()
            outputs = [] if total is None else [total]
            assigns, checks = self._updates(grads)
            plan = self._make(outputs, net.dtype, assigns=assigns + more, checks=outputs + checks, storage=self._storage(**storage),
                              capacity=capacity, fuse=self.fuse)
            plan.feeds = []
            plan.given = {p: [plan.spaces[f"input {plan.inputs.index(s)}"] for s in pair] for p, pair in given.items()}
            return plan
        inputs = net._inputs
        outputs, buffers = net.training_graph() if mode not in ("evaluate", "counts") else (net.graph(False)[1], [])
        if mode == "counts":
            ys = self._targets(outputs, labels)
            plan, feeds = accumulation.counts(self.losses, outputs, ys, net.dtype, capacity), [*inputs, *ys]
        elif mode == "evaluate":
            ys = self._targets(outputs, labels)
            feeds = [*inputs, *ys]
            rows = [f.rows(o, y) for f, o, y in zip(self.losses, outputs, ys)]
            counts = [f.weights(o, y) for f, o, y in zip(self.losses, outputs, ys)]
            plan = self._make([*rows, *outputs, *(c for c in counts if c is not None)], net.dtype, storage=self._storage(),
                              capacity=capacity, fuse=self.fuse)
            plan.counted = [i for i, c in enumerate(counts) if c is not None]  # the losses whose rows do not count 1 each
        else:
            total, feeds = self._objective(outputs, labels, weighted, mode == "micro")
            trainable, checks = net.trainable(), []
            grads = gradients([total], [net._sources[p] for p in trainable])
            sums: dict = {}
            storage: dict = {}
            late: list = []
            long = 6.0 * net._gradient_size * capacity / _FLOPS[_core.isa_current()] > _LONG_STEP
            if mode == "step":
                assigns, checks = self._updates(dict(zip(trainable, grads)))
                assigns += buffers
                if long:
                    late = [a.target for a in assigns if a.space in ("state", "buffers")]
                    late += [k for k in self._numbers(1, 0, 1) if k != "rows"]
            else:
                dense, sums = net._split(dict(zip(trainable, grads)))
                if mode == "micro":
                    assigns, storage = accumulation.added(net, dense) + buffers, self._sums.storage()
                    late = [a.target for a in assigns] if long else []
                else:
                    assigns = [Assign("gradients", net._gradient_offsets[p], g) for p, g in dense.items()]
                    storage = net.gradient_storage()
            plan = self._make([total, *(t for s in sums.values() for t in s.parts())], net.dtype, assigns=assigns,
                              storage=self._storage(**storage), checks=[total, *checks], late=late,
                              capacity=capacity, fuse=self.fuse, products=self.products)
            plan.tables, plan.whole = list(sums), not net._tables and len(trainable) == len(net._parameters)
        plan.feeds = [(plan.spaces[f"input {plan.inputs.index(s)}"], i) for i, s in enumerate(feeds) if s in plan.inputs]
        return plan

    def _objective(self, outputs, labels, weighted, micro=False):
        """What training minimises: the mean loss on `outputs`, and the penalties; and the sources that it is fed by, in order.
        Of a micro-batch its part of the mean alone."""
        net = self.net
        ys = self._targets(outputs, labels)
        w = source("input", (BATCH,), net.dtype, "weights") if weighted else None
        feeds = [*net._inputs, *ys, *([w] if weighted else [])]
        if micro:
            return accumulation.objective(self.losses, outputs, ys, w, self.loss_weights), feeds
        total = losses.weighted_sum([f.mean(o, y, w) for f, o, y in zip(self.losses, outputs, ys)], self.loss_weights)
        penalty = self.rules.penalty(total, net, net.trainable())
        return total if penalty is None else total + penalty, feeds

    def _storage(self, **more):
        state = {"state": Storage(self.state.size, self.net.dtype, True)} if self.state.size else {}
        return self.net.storage(**state, **more)

    def _updates(self, grads):
        """The update of every parameter, as assignments, and what must be finite before them."""
        return updates.assignments(self.net, grads, self._assigned, self.slots, self.rules)

    def _prepare(self, mode, rows, labels=(), weighted=False):
        """A plan for at least so many rows, with its binding."""
        net = self.net
        key = (mode, tuple(labels), weighted, tuple(p.layer.trainable for p in net._parameters + net._buffers))
        if self.rules.ema is not None and mode in ("step", "apply", "update"):
            if self._swapped:
                raise RuntimeError("the weights are swapped for their average: train outside `with trainer.averaged()`")
            if not self.t:
                self._average()  # the weights may have been set since the array was made
        held = self._plans.get(key)
        if held is None or held[0].capacity < rows:
            plan = self._lower(mode, max(rows, 1), labels, weighted)
            binding = plan.binding()
            net.bind(plan, binding)
            if "state" in plan.spaces:
                binding.set(plan.spaces["state"], self.state)
            if mode in ("micro", "update"):
                self._sums.bind(plan, binding, mode == "micro")
            numbers = np.zeros(len(plan.scalars), dtype=net.dtype)
            if plan.scalars:
                binding.set(plan.spaces["scalars"], numbers)
            out = np.zeros((), dtype=net.dtype)  # the loss; "apply" has none, nor has "update" without penalties
            if mode in ("step", "gradients", "micro", "update") and plan.outputs:
                binding.set(plan.spaces["output 0"], out)
            plan.run = _core.Step(binding, numbers, out)
            held = self._plans[key] = (plan, binding, numbers, out)
        return held

    def _numbers(self, t, epoch, rows):
        """Runtime scalars of update number `t` (from 1)."""
        numbers = {"rows": rows, "ema": self.rules.ema if t > 1 else 0.0}
        for optimizer in self._optimizers:
            numbers |= optimizer.scalars(t, epoch)
        return numbers

    def describe(self, batch_size=32) -> str:
        """The instructions of one training step, readable by a person; of its micro-batches and of the update, where there are
        such."""
        self.net._require_built()
        labels = [isinstance(f, losses.CrossEntropy) for f in self.losses]
        if self.accumulate > 1:
            micro = self._lower("micro", -(-batch_size // self.accumulate), labels, False)
            return micro.describe() + self._lower("update", batch_size, labels, False).describe()
        return self._lower("step", batch_size, labels, False).describe()

    # ---------------------------------------------------------------- data in

    def _check(self, x, y, sample_weight, argument=("X", "y", "sample_weight"), once=call):
        """Checked arrays: inputs, targets, weights; and which targets are labels. `once` may be an `arrays.Once`."""
        net = self.net
        if not net.built:
            with net.tentative():
                net.build(x, argument[0], once)
                return self._check(x, y, sample_weight, argument, once)
        self._assign()
        xs = net.check_inputs(x, argument[0], once)
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
            v = once(f.check, name, v, o.shape, net.dtype)
            if v.shape[0] != n:
                raise ValueError(f"{argument[0]} has {n} rows, {name} has {v.shape[0]}")
            ys.append(v)
        arrays = [*xs, *ys]
        if sample_weight is not None:
            w = once(check_array, argument[2], sample_weight, net.dtype, ndim=1, finite=True)
            if w.shape[0] != n:
                raise ValueError(f"{argument[0]} has {n} rows, {argument[2]} has {w.shape[0]}")
            if w.min() < 0:
                raise ValueError(f"{argument[2]} holds a negative weight ({w.min():g})")
            arrays.append(w)
        return arrays, tuple(v.dtype == np.int32 for v in ys)

    def _run(self, mode, x, y, sample_weight):
        """The loss of a step, or of a call for gradients."""
        fast = self._fast.get(mode)
        if fast is not None and sample_weight is None and fast.takes(x, y):
            return self._run_held(fast.held, fast.numbers(self), fast.rows, fast.updates)
        arrays, labels = self._check(x, y, sample_weight, ("x", "y", "sample_weight"))
        run = self._step if mode == "step" else self._gradients
        loss = run(arrays, slice(None), arrays[0].shape[0], labels, sample_weight is not None)
        self._fast[mode] = _Repeat.of(self, mode, x, y) if sample_weight is None else None
        return loss

    def _gradients(self, arrays, rows, n, labels, weighted):
        """The loss on `n` rows of checked arrays, whose gradients are left in the network."""
        net = self.net
        held = self._prepare("gradients", n, labels, weighted)
        plan, binding, _, _ = held
        for space, i in plan.feeds:
            binding.set(space, arrays[i][rows])
        if not plan.whole:
            net.clear_gradients()  # those of layers that are not trained stay so
        parts = [np.empty([n if d == BATCH else d for d in t.shape], t.dtype) for t in plan.outputs[1:]]
        for i, a in enumerate(parts, 1):
            binding.set(plan.spaces[f"output {i}"], a)
        loss = self._run_held(held, self._values(plan, n, 0), n, 0)
        net._row_gradients = {p: RowGradient.picked(*parts[3 * i:3 * i + 3], p.shape) for i, p in enumerate(plan.tables)}
        return loss

    def _step(self, arrays, rows, n, labels, weighted):
        """A step on `n` rows of checked arrays."""
        if self.accumulate > 1:
            return accumulation.step(self, arrays, rows, n, labels, weighted)
        held = self._prepare("step", n, labels, weighted)
        plan, binding, _, _ = held
        for space, i in plan.feeds:
            binding.set(space, arrays[i][rows])
        return self._run_held(held, self._values(plan, n, 1), n, 1)

    def _values(self, plan, n, updates, more=()):
        """Runtime scalars of a run over `n` rows, which makes the update that comes or none; `more` are others, by name."""
        numbers = self._numbers(self.t + 1, self.epoch, n) if updates else {"rows": n}
        numbers.update(more)
        return [numbers[k] for k in plan.scalars]

    def _run_held(self, held, values, n, updates, row0=0):
        """Run a plan whose arrays are in place, with its scalars, over `n` rows; its loss. `t` grows by `updates` where the run came to
        its end, also if a signal's exception is raised then. `row0` is the row of the batch that the first of them is."""
        plan, binding, _, _ = held
        before, binding.done = self.t, 0
        try:
            loss = plan.run(values, n, self.seed, before, row0)
            self.t = before + updates * binding.done
        except BaseException:  # not `finally`: a signal's may come within it, before the line that counts
            self.t = before + updates * binding.done
            raise
        if type(loss) is tuple:
            status, _, value, limit = loss
            self._fail(status, value, limit, before + 1)
        return loss

    def _check_loss(self, loss):
        """NonFiniteError where the loss of the update that comes is not finite."""
        if not np.isfinite(loss):
            self._fail(1, 0, 0, self.t + 1)

    def _fail(self, status, value, limit, step):
        if status == 3:
            raise ValueError(f"label or row number {value} is out of range for {limit}")
        what = "" if self.rules.clip_norm is None else " (or the norm of the gradients)"
        raise NonFiniteError(f"the loss{what} is not finite at update {step}; the parameters are those before it. "
                             "Look for NaN in the data, or lower the learning rate")

    # ---------------------------------------------------------------- steps

    def step(self, x, y, sample_weight=None) -> float:
        """One forward pass, backward pass and update.

        Parameters
        ----------
        x : array_like (n, ...), or a list of one for each input, or a dict by the names of inputs
        y : array_like (n,) or (n, k), or a list of one for each output
        sample_weight : array_like (n,), optional

        Returns
        -------
        float
            The mean loss before the update, with the penalties.

        Raises
        ------
        NonFiniteError
            The loss is NaN or infinite; nothing was changed.
        """
        with self._guard:
            return self._run("step", x, y, sample_weight)

    def loss_and_gradients(self, x, y, sample_weight=None):
        """The mean loss and its gradients, with the penalties and before any clipping; nothing is updated.

        Returns
        -------
        float, mapping of str to ndarray
            The mapping's arrays are views of `flat_gradients`, which the next call overwrites. Tables of embeddings have a
            `RowGradient` in it: the rows that are not zero, and their numbers.
        """
        with self._guard:
            return self._run("gradients", x, y, sample_weight), self.net.gradients

    @property
    def flat_gradients(self):
        """All gradients in one array but those of tables of embeddings (``net.flat_gradients``)."""
        return self.net.flat_gradients

    def apply(self) -> None:
        """Update with the gradients that ``net.backward`` has summed up, and clear them.

        Clipping, max-norm and the average of the weights work as in `step`. Penalties do not: they are part of a loss, which here
        is your own (`loss_and_gradients` has them, and then `apply` makes the same update as `step`).
        """
        with self._guard:
            self.net._require_built()
            net = self.net
            kept = net._row_gradients
            if not all(np.isfinite(a).all() for a in (net.flat_gradients, *(g.rows for g in kept.values()))):
                raise NonFiniteError("a gradient is not finite; the parameters were not changed")
            self._update("apply", kept)
            net.clear_gradients()

    def _update(self, mode, kept, more=(), loss=0.0):
        """Run a program that updates with summed gradients, of tables those in `kept`; its loss, or `loss` where it has none."""
        n = max([1, *(len(g.ids) for g in kept.values())])
        held = self._prepare(mode, n)
        plan, binding, _, _ = held
        for p, spaces in plan.given.items():  # as many rows for each: those that are left have no id
            rows, ids = np.zeros((n, *p.shape[1:]), self.net.dtype), np.full(n, -1, "int32")
            if p in kept:
                count = len(kept[p].ids)
                rows[:count], ids[:count] = kept[p].rows, kept[p].ids
            binding.set(spaces[0], rows)
            binding.set(spaces[1], ids)
        total = self._run_held(held, self._values(plan, n, 1, more), n, 1)
        return total if plan.outputs else loss

    # ---------------------------------------------------------------- the average of the weights

    def _average(self):
        """The array behind `ema_parameters`, up to date for what training has not moved."""
        if self.rules.ema is None:
            raise ValueError("there is no average of the weights: make the trainer with ema=0.999, say")
        self.net._require_built()
        flat = self.net.flat_parameters
        average = self.state[-flat.size:]
        if not self._swapped:
            trained = set(self.net.trainable()) if self.t else ()
            for p, at in self.net._offsets.items():
                if p not in trained:
                    part = slice(at, at + int(np.prod(p.shape)))
                    average[part] = flat[part]
        return average

    @property
    def ema_parameters(self):
        """The average of the weights, a mapping of views like ``net.parameters``.

        Before the first update, and for layers that are not trained, it is the weights themselves.
        """
        with self._guard:
            return self.net._views(self._average())

    @contextmanager
    def averaged(self):
        """Within a ``with`` block the network has the average of its weights, to `evaluate`, predict or save with.

        The weights are back afterwards, bit for bit; training in the block is a RuntimeError. Buffers, such as the running statistics
        of `BatchNorm`, are not averaged: they stay as they are.
        """
        with self._guard:
            if self._swapped:
                raise RuntimeError("averaged() is not to be nested")
            flat, average = self.net.flat_parameters, self._average()
            kept = flat.copy()
            self._fast, self._swapped = {}, True
            try:
                flat[...] = average
                yield self
            finally:
                flat[...] = kept
                self._swapped = False

    # ---------------------------------------------------------------- evaluation

    def evaluate(self, X, y, sample_weight=None, batch_size=256) -> dict[str, float]:
        """Mean loss in inference mode, without penalties, and the accuracy where targets are labels.

        Returns
        -------
        dict
            ``"loss"``, and ``"accuracy"`` for a single output whose loss knows right from wrong: cross-entropy, binary
            cross-entropy, hinge, margin. It counts each row by its sample weight, whatever the class weights.
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
        counts = {i: np.empty(n, dtype=net.dtype) for i in plan.counted}
        outputs = [np.empty((n, *t.shape[1:]), dtype=t.dtype) for t in net._outputs]
        for start in range(0, n, plan.capacity):
            count = min(plan.capacity, n - start)
            part = slice(start, start + count)
            for space, i in plan.feeds:
                binding.set(space, arrays[i][part])
            for i, r in enumerate([*rows, *outputs, *counts.values()]):
                binding.set(plan.spaces[f"output {i}"], r[part])
            numbers[...] = count
            status, _, value, limit = binding.run(count, 0, -1, self.seed, 0, 0, False, 0)
            if status:
                self._fail(status, value, limit, self.t)
        total = 0.0
        for i, (factor, r) in enumerate(zip(self.loss_weights, rows)):
            r, w = r.astype("float64"), np.ones(n) if weights is None else weights
            divisor = (w * counts[i]).sum() if i in counts else w.sum()
            total += factor * float((w * r).sum() / divisor) if divisor else 0.0
        result = {"loss": total}
        hits = self.losses[0].hits(outputs[0], arrays[len(net._inputs)]) if k == 1 else None
        if hits is not None:
            result["accuracy"] = float(np.average(hits, weights=weights))
        return result

    # ---------------------------------------------------------------- fit

    def fit(self, X, y=None, epochs=1, batch_size=32, sample_weight=None, validation_data=None, validation_fraction=0.0,
            shuffle=True, early_stopping=None, callbacks=(), progress=None):
        """Train for a number of epochs.

        Parameters
        ----------
        X : array_like (n, ...), or a list of one for each input, or a dict by the names of inputs; or batches
            Rows of the network's dtype that lie one after another are read where they lie, and never copied as a whole: a
            ``numpy.memmap`` may be larger than memory, and be read-only. Others are converted first.

            Without `y`, batches ``(x, y)`` or ``(x, y, sample_weight)``, of any numbers of rows, each a step: a function
            that returns a new iterator for each epoch, or an object that can be iterated over again. An iterator itself is
            good for one epoch. Batches are drawn one at a time, and come in the order in which they are drawn.
        y : array_like (n,) or (n, k), or a list of one for each output
        epochs : int
        batch_size : int
            Of arrays; batches have a size already.
        sample_weight : array_like (n,), optional
            Of arrays.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
        validation_fraction : float in [0, 1)
            Part of the data, drawn by the seed, to hold out where no validation data is given; of arrays alone.
        shuffle : bool
            A new order for each epoch, a function of (seed, epoch); of arrays alone.
        early_stopping : EarlyStopping or int, optional
            An int is its patience in epochs.
        callbacks : list of Callback
        progress : bool, optional
            A line for each epoch. None: only where the output is a terminal.

        Returns
        -------
        History
            A list of one dict for each epoch: ``epoch``, ``train_loss``, ``valid_loss``, ``valid_accuracy``, ``lr``, ``dur``.

        Raises
        ------
        ValueError, TypeError
            Something is wrong with an argument: nothing has been changed. Something is wrong with a batch, which the message
            names by its number in the epoch, from 0: the parameters are those after the batch before it.
        NonFiniteError
            The loss of a step is NaN or infinite: the parameters are those after the step before it.
        """
        with self._guard:
            with self.net.tentative():
                data = self._ready(X, y, epochs, batch_size, sample_weight, validation_data, validation_fraction, shuffle)
                run = Callbacks(self._together(callbacks, early_stopping, Progress.wanted(progress)))
            return self._train(epochs, *data, run)

    @staticmethod
    def _together(callbacks, early_stopping, line):
        """One list of all that is to be called."""
        if not hasattr(callbacks, "__iter__"):
            raise TypeError(f"callbacks must be a list, got {callbacks!r}")
        callbacks = list(callbacks)
        if early_stopping is not None:
            callbacks.append(early_stopping if isinstance(early_stopping, EarlyStopping) else EarlyStopping(patience=early_stopping))
        return callbacks if line is None else [*callbacks, line]

    def _ready(self, X, y, epochs, batch_size, sample_weight, validation_data, validation_fraction, shuffle, rows=None,
               validation_rows=None, once=call):
        """The first half of a fit, in which arguments are checked: what `_train` takes beside the epochs and the callbacks. Of
        arrays `rows` alone may be trained on, and `validation_rows` validated with."""
        _check_whole("epochs", epochs, 0)
        drawn = Batches(X, epochs) if y is None else None
        if drawn is None:
            _check_whole("batch_size", batch_size, 1)
        elif sample_weight is not None:
            raise ValueError("sample_weight goes with arrays: where X is an iterable, yield (x, y, sample_weight)")
        elif validation_fraction:
            raise ValueError("validation_fraction goes with arrays: where X is an iterable, give validation_data")
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction!r}")
        weighted, valid = sample_weight is not None, None
        if drawn is None:
            arrays, labels = self._check(X, y, sample_weight, once=once)
            n = arrays[0].shape[0]
            chosen = None if rows is None else once(check_rows, "rows", rows, n)
        elif not self.net.built and epochs:
            self._check_batch(*drawn.first())  # callbacks find a network that is built
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
                raise ValueError("validation_data must be a tuple (X, y) or (X, y, sample_weight)")
            vw = validation_data[2] if len(validation_data) == 3 else None
            names = tuple(f"validation_data[{i}]" for i in range(3))
            valid = (*self._check(validation_data[0], validation_data[1], vw, names, once), vw is not None, None)
            _check_some(names[2], valid[0][-1], vw is not None)
        elif validation_rows is not None:
            valid = arrays, labels, weighted, once(check_rows, "validation_rows", validation_rows, n)
            _check_some("sample_weight of validation_rows", arrays[-1][valid[3]], weighted)
        elif validation_fraction:
            order = _core.permutation(n if chosen is None else len(chosen), self.seed, 2**63)  # the same rows in every fit
            held = int(round(validation_fraction * len(order)))
            if not 0 < held < len(order):
                raise ValueError(f"validation_fraction={validation_fraction} of {len(order)} rows leaves one side empty")
            order = order if chosen is None else chosen[order]
            valid = arrays, labels, weighted, order[:held]
            _check_some("sample_weight of the rows held out", arrays[-1][order[:held]], weighted)
            chosen = order[held:]  # they stay where they are, in a file perhaps
        if drawn is not None:
            return partial(self._batch_steps, drawn), valid
        return partial(self._array_steps, arrays, labels, weighted, chosen, int(batch_size), shuffle), valid

    def _train(self, epochs, steps, valid, run):
        """The second half of a fit."""
        with self._guard:
            if valid is not None:
                arrays, labels, weighted, rows = valid
                valid = arrays if rows is None else [a[rows] for a in arrays], labels, weighted
            self.stop_training = False
            run("on_train_begin", self, epochs=epochs)
            try:
                for _ in range(epochs):
                    if self.stop_training:
                        break
                    self._epoch(steps, valid, run)
            finally:
                self.feed = None
                run("on_train_end", self)
            return self.history

    def _epoch(self, steps, valid, run):
        """`steps` makes those of the epoch: it gives the loss of each, and how many rows each had."""
        started = time.perf_counter()
        run("on_epoch_begin", self, epoch=self.epoch + 1)
        t0 = self.t
        step_losses, sizes = steps(run)
        weights = np.asarray(sizes, dtype="float64")
        total = weights.sum()
        row = {"epoch": self.epoch + 1, "train_loss": float((np.asarray(step_losses) * weights).sum() / total) if total else np.nan,
               "lr": float(self.optimizer.schedule.rate(max(self.t - 1, 0), self.epoch)), "steps": self.t - t0}
        if valid is not None:
            row.update({f"valid_{k}": v for k, v in self._evaluate(*valid, 256).items()})
        row["dur"] = time.perf_counter() - started
        self.epoch += 1
        self.history.append(row)
        for schedule in self.optimizer.schedules:
            if hasattr(schedule, "update"):
                schedule.update(row.get("valid_loss", row["train_loss"]))
        run("on_epoch_end", self, epoch=self.epoch, logs=row)

    def _array_steps(self, arrays, labels, weighted, chosen, batch, shuffle, run):
        """Steps on the rows of arrays, or on those `chosen`, in segments of many."""
        rows = arrays[0].shape[0]
        n = rows if chosen is None else len(chosen)
        batch = min(batch, n)
        steps = -(-n // batch)
        order = _core.permutation(n, self.seed, self.epoch) if shuffle else None
        if chosen is not None:
            order = chosen if order is None else chosen[order]
        if self.accumulate > 1:  # a micro-batch at a time: what is gathered has its size too
            cuts = [slice(start, min(start + batch, n)) for start in range(0, n, batch)]
            return self._single_steps(((arrays, part if order is None else order[part], part.stop - part.start, labels, weighted)
                                       for part in cuts), steps, run)
        step_losses, sizes = np.zeros(steps, dtype=self.net.dtype), np.full(steps, batch, dtype="float64")
        sizes[-1] = n - (steps - 1) * batch
        done, ahead = 0, 16  # steps to prepare numbers for: about two segments' worth
        while done < steps and not self.stop_training:
            clock = time.perf_counter()
            if run.each_batch:
                part = slice(done * batch, (done + 1) * batch)
                self.feed = (arrays, part if order is None else order[part])
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
                        _SEGMENT, self.seed, self.t, True, 0, rows)
                finally:
                    if plan.scalars:
                        binding.set(plan.spaces["scalars"], numbers)
                    binding.set(plan.spaces["output 0"], out)
                self.t += made
            except BaseException:  # a signal's may come between any two lines: the binding's own arrays may not be back
                self.t = before + binding.done
                self._plans, self._fast = {}, {}
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
        return step_losses.astype("float64"), sizes

    def _check_batch(self, i, x, y, sample_weight):
        """Checked arrays of a batch, and which targets are labels; its number stands in the message where something is wrong."""
        with named(f"batch {i}"):
            return self._check(x, y, sample_weight, ("x", "y", "sample_weight"))

    def _batch_steps(self, batches, run):
        """Steps on batches as they are drawn."""
        drawn = self._drawn(batches.begin(), run)
        step_losses, sizes = self._single_steps(drawn, batches.steps, run)
        if not sizes and not self.stop_training:
            raise batches.empty(self.epoch + 1)
        return step_losses, sizes

    def _drawn(self, batches, run):
        """What `_single_steps` takes, from batches; no arrays where they are in place already."""
        for i, x, y, w in batches:
            fast = self._fast.get("step")
            if fast is not None and w is None and not run.each_batch and fast.takes(x, y):
                yield None, None, fast.rows, None, None
                continue
            arrays, labels = self._check_batch(i, x, y, w)
            yield arrays, slice(None), arrays[0].shape[0], labels, w is not None
            self._fast["step"] = _Repeat.of(self, "step", x, y) if w is None else None

    def _single_steps(self, drawn, steps, run):
        """Steps that come back to Python, each of (arrays, rows of them, how many, which targets are labels, weighted or not)."""
        step_losses, sizes, loss = [], [], 0.0
        told, clock = 0, time.perf_counter()
        while not self.stop_training:
            arrays, rows, n, labels, weighted = next(drawn, (None, None, None, None, None))
            if n is None:
                break
            if run.each_batch:
                self.feed = (arrays, rows)
                run("on_batch_begin", self, epoch=self.epoch + 1, batch=len(sizes))
            fast = self._fast.get("step")
            loss = (self._run_held(fast.held, fast.numbers(self), n, 1) if arrays is None else
                    self._step(arrays, rows, n, labels, weighted))
            step_losses.append(loss)
            sizes.append(n)
            if run.each_batch:
                run("on_batch_end", self, epoch=self.epoch + 1, batch=len(sizes) - 1, loss=loss)
            if run.each_batch or time.perf_counter() - clock > _SEGMENT:
                told, clock = len(sizes), time.perf_counter()
                run("on_segment", self, done=told, steps=steps if steps is None or steps >= told else None, loss=loss)
        if told < len(sizes):
            run("on_segment", self, done=len(sizes), steps=len(sizes), loss=loss)
        return step_losses, sizes

    def _table(self, plan, count, sizes):
        """Runtime scalars of the next `count` updates, a row for each."""
        if count < 8:  # a few are sooner made one by one
            rows = [self._numbers(self.t + 1 + s, self.epoch, n) for s, n in enumerate(sizes[:count].tolist())]
            return np.array([[values[k] for k in plan.scalars] for values in rows], dtype=self.net.dtype)
        columns = {"rows": sizes[:count], "ema": [0.0 if self.t == 0 else self.rules.ema, *[self.rules.ema] * (count - 1)]}
        for optimizer in self._optimizers:
            columns |= optimizer.series(self.t + 1, self.epoch, count)
        table = np.empty((count, len(plan.scalars)), dtype=self.net.dtype)
        for column, k in enumerate(plan.scalars):
            table[:, column] = columns[k]
        return table
