"""Networks: any acyclic graph of layers, its parameters in one array, and programs to run it.

All parameters lie in one flat array, all gradients in another; `parameters` and `gradients` are views. Only the gradients of tables
of embeddings are sparse and lie elsewhere: `gradients` has a `RowGradient` for each. A program is lowered once for each use
(prediction, forward and backward, a training step) and number of rows; the number of rows of a run is an argument of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from operator import call

import numpy as np

from . import _core, init
from .arrays import check_array
from .autodiff import gradients
from .errors import ShapeError
from .graph import BATCH, FLOATS, REAL, Tensor, ancestors, format_shape, rebuild, source
from .layers import Layer, outermost, unique_names, with_inner
from .lower import Assign, Storage, lower
from .ops import add
from .sparse import RowGradient, row_sum, tables
from .structure import summary

_CHUNK = 256  # rows of one prediction run
_NO_SIZE = "the network has no input size yet: put bp.Input(size) first, or give it data"
_PENDING = 256  # forwards that may wait for their backward


def aligned_zeros(n, dtype):
    """Zeros that start at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    raw = np.zeros(n * dtype.itemsize + 64, dtype=np.uint8)  # where it is large: huge pages, and none before it is written
    start = -raw.ctypes.data % 64
    return raw[start:start + n * dtype.itemsize].view(dtype)


def default_name(i, count):
    """The name of input `i` of so many, where it has none of its own."""
    return f"x{i}" if count > 1 else "x"


def _places(parameters):
    """Where each parameter starts in one flat array, and the size of that: each on a cache line."""
    places, at = {}, 0
    for p in parameters:
        places[p] = at
        at += -(-int(np.prod(p.shape)) // 16) * 16
    return places, at


class Views(Mapping):
    """An ordered mapping from parameter name to a writable view of a flat array."""

    def __init__(self, views):
        self._views = dict(views)

    def __getitem__(self, name):
        return self._views[name]

    def __iter__(self):
        return iter(self._views)

    def __len__(self):
        return len(self._views)

    def __repr__(self):
        return "{" + ", ".join(f"{k!r}: {format_shape(v.shape)} {v.dtype}" for k, v in self._views.items()) + "}"


class Network:
    """A network from inputs to outputs.

    Parameters
    ----------
    inputs : list of Tensor
        Made by `backprop.Input`.
    outputs : list of Tensor
        Made by calling layers and operations on the inputs.
    dtype : {"float32", "float64"}
    seed : int, optional
        Of the initial weights. Where it is not given a trainer's seed decides, else 0.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        Writable views, ``"0.weight" (in, out)``, ``"0.bias" (out,)`` ...
    flat_parameters, flat_gradients : ndarray
        The one array behind all parameters, and behind all gradients but those of tables that only `Embedding` and the like use:
        these are sparse (`RowGradient`), and part of `gradients` alone.
    buffers : mapping of str to ndarray
        Writable views of what layers keep beside their parameters, as the running statistics of `BatchNorm`: training writes
        them, no gradient moves them.
    flat_buffers : ndarray
        The one array behind all buffers.
    """

    save: Callable[..., None]  # both attached by saving.py
    load_weights: Callable
    loaded = None  # what `bp.load` found in the file
    _sequential = False  # the layers stand in a row in `layers`, those without parameters too

    def __init__(self, inputs, outputs, dtype="float32", seed=None):
        self._configure(dtype, seed)
        self._assemble(inputs, outputs)

    def _configure(self, dtype, seed):
        self.dtype = np.dtype(dtype).name
        if self.dtype not in FLOATS:
            raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
        if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__")):
            raise TypeError(f"seed must be a whole number, got {seed!r}")
        self.seed = seed
        self._inputs = None
        self._plans, self._free, self._lock = {}, {}, threading.Lock()
        self._again = None
        self._pending: list = []
        self._draw = 0

    # ---------------------------------------------------------------- structure

    def _assemble(self, inputs, outputs, names=None):
        for name, tensors in (("inputs", inputs), ("outputs", outputs)):
            if not hasattr(tensors, "__iter__") and not isinstance(tensors, Tensor):
                raise TypeError(f"{name} must be a Tensor or a list of them, got {tensors!r}")
        inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        for t in inputs:
            if not isinstance(t, Tensor) or t.op.name != "input":
                raise TypeError(f"inputs must be made by bp.Input(), got {t!r}")
        for t in outputs:
            if not isinstance(t, Tensor) or not t.shape or t.shape[0] != BATCH:
                raise ShapeError(f"an output must have the batch as its dimension 0, got {t!r}")
        layers, parameters = {}, []
        for t in ancestors(outputs):
            if t.op.name == "input" and t not in inputs:
                raise ValueError(f"an output rests on {t!r}, which is not among the inputs")
            if t.op.name == "parameter":
                parameters.append(t.attrs["parameter"])
                layers.setdefault(outermost(parameters[-1].layer))
        self.layers: list[Layer] = list(layers) if names is None else list(names)
        names = with_inner(dict(zip(self.layers, unique_names(self.layers))) if names is None else names)
        order = {layer: i for i, layer in enumerate(names)}
        parameters.sort(key=lambda p: (order[p.layer], p.layer.parameters.index(p)))
        self._parameters = [p for p in parameters if not p.buffer]
        self._buffers = [p for p in parameters if p.buffer]
        self._offsets, at = _places(self._parameters)
        self._buffer_offsets, buffers = _places(self._buffers)
        self._names = {p: f"{names[p.layer]}.{p.name}" for p in parameters}
        if len(set(self._names.values())) < len(parameters):
            raise ValueError(f"layers must have different names, got {', '.join(names.values())}")
        # The graph with sources that know their place in the flat array.
        replace = {t: source("input", t.shape, "int32" if t.dtype == "int32" else self.dtype, t.name or default_name(i, len(inputs)))
                   for i, t in enumerate(inputs)}
        if len({t.name for t in replace.values()}) < len(replace):
            raise ValueError(f"inputs must have different names, got {', '.join(t.name for t in replace.values())}")
        self._sources = {p: source("parameter", p.shape, self.dtype, self._names[p], space=space, offset=offset)
                         for space, places in (("parameters", self._offsets), ("buffers", self._buffer_offsets))
                         for p, offset in places.items()}
        replace.update({p.tensor: s for p, s in self._sources.items()})
        self._outputs, _ = rebuild(outputs, replace, dtype=self.dtype)
        self._inputs = [replace[t] for t in inputs]
        self.flat_parameters = aligned_zeros(at, self.dtype)
        self.parameters = self._views(self.flat_parameters)
        self.flat_buffers = aligned_zeros(buffers, self.dtype)
        self.buffers = self._views(self.flat_buffers, self._buffer_offsets)
        taken = tables(self._outputs, [self._sources[p] for p in self._parameters])
        self._tables = {p for p in self._parameters if self._sources[p] in taken}  # their gradients are sparse
        self._gradient_offsets, self._gradient_size = _places([p for p in self._parameters if p not in self._tables])
        self._gradients, self._gradient_views, self._row_gradients = None, None, {}
        self._id_ranges = self._find_id_ranges()
        self._initialize()

    def _find_id_ranges(self):
        """For inputs that are row numbers of tables: the lowest and how many are allowed by all of them, and by which layer."""
        owner, ranges = {s: p.layer for p, s in self._sources.items()}, {}
        for t in ancestors(self._outputs):
            if t.op.name == "take":
                ids = t.inputs[1]
                while ids.op.kind == "view":
                    ids = ids.inputs[0]
                if ids in self._inputs:
                    low, rows = -1 if t.attrs["padding"] == -1 else 0, t.inputs[0].shape[0]
                    old = ranges.get(ids, (low, rows + 1, None))
                    ranges[ids] = (max(low, old[0]), *((rows, owner.get(t.inputs[0], "a table")) if rows < old[1] else old[1:]))
        return ranges

    def _views(self, flat, places=None):
        places = self._offsets if places is None else places
        return Views({self._names[p]: flat[at:at + int(np.prod(p.shape))].reshape(p.shape) for p, at in places.items()})

    def _initialize(self):
        stream = init.Stream(self.seed or 0)
        for p, view in zip(self._parameters + self._buffers, [*self.parameters.values(), *self.buffers.values()]):
            view[...] = p.initializer(p.shape, view.dtype, stream)

    def initialize(self, seed) -> None:
        """Draw all weights anew, and set the buffers back."""
        self._require_built()
        self.seed = int(seed)
        self._initialize()

    def set_output_bias(self, y, loss="squared_error", output=0) -> None:
        """Set the bias of the output layer so that the untrained network predicts about the mean target: training then need not
        find it first.

        Parameters
        ----------
        y : array_like (n,) or (n, k)
            Targets of the training.
        loss : str or Loss
            ``"squared_error"``: the mean; ``"binary_cross_entropy"``: its inverse sigmoid (0.2 gives -1.386);
            ``"cross_entropy"``: the logarithm of each class's frequency.
        output : int
            Which output, where there are several.

        Raises
        ------
        ValueError
            The output is not made by a `Dense` layer with a bias and no activation, or the targets do not fit. Nothing is changed.
        """
        self._require_built()
        if not 0 <= output < len(self._outputs):
            raise ValueError(f"output must be in [0, {len(self._outputs)}), got {output!r}")
        y_ = self._outputs[output]
        by_source = {s: p for p, s in self._sources.items()}
        p = by_source.get(y_.inputs[1]) if y_.op.name == "add" else None
        if p is None or p.shape != y_.shape[1:]:
            raise ValueError(f"output {output} is not made by a Dense layer with a bias and no activation")
        bias = init.output_bias(y, getattr(loss, "name", loss), p.shape[0])
        if bias.shape != p.shape:
            raise ShapeError(f"the targets have {bias.size} columns, the output has {p.shape[0]}")
        self.parameters[self._names[p]][...] = bias

    @property
    def built(self) -> bool:
        return self._inputs is not None

    def _require_built(self):
        if not self.built:
            raise ValueError(_NO_SIZE)

    def __getattr__(self, name):
        if self.__dict__.get("_inputs") is None and name in ("parameters", "gradients", "buffers", "flat_parameters",
                                                             "flat_gradients", "flat_buffers"):
            raise AttributeError(f"{name}: {_NO_SIZE}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def build(self, x, argument="X", once=call) -> None:
        """Fix the input size by data, where it is not known yet."""

    def _unbuild(self):
        """Forget the input size that `build` found."""

    @contextmanager
    def tentative(self):
        """A network that gets its input size within the block loses it again where the block raises: data that is refused
        changes nothing."""
        built = self.built
        try:
            yield
        except BaseException:
            if not built:
                self._unbuild()
            raise

    @property
    def flat_gradients(self):
        if self._gradients is None:
            self._require_built()
            self._gradients = aligned_zeros(self._gradient_size, self.dtype)
        return self._gradients

    @property
    def gradients(self):
        """The gradients of the last backward passes: views of `flat_gradients`, and a `RowGradient` for each table."""
        if self._gradient_views is None:
            self._gradient_views = self._views(self.flat_gradients, self._gradient_offsets)
        views = self._gradient_views
        if not self._tables:
            return views
        return Views({name: views[name] if name in views else self._row_gradient(p)
                      for p, name in self._names.items() if p not in self._buffer_offsets})

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        if self._gradients is not None:
            self._gradients[...] = 0
        self._row_gradients = {}

    def _row_gradient(self, p):
        none = np.empty(0, "int32"), np.empty((0, *p.shape[1:]), self.dtype), p.shape
        return self._row_gradients[p] if p in self._row_gradients else RowGradient(*none)

    def _split(self, grads):
        """Gradients by parameter, parted in dense ones {p: Tensor} and sparse ones {p: RowSum}. Tables without any are in neither."""
        sums = {p: row_sum(g) for p, g in grads.items() if p in self._tables}
        return {p: g for p, g in grads.items() if p not in sums}, {p: s for p, s in sums.items() if s is not None}

    def trainable(self):
        """Parameters that training may change, in order."""
        return [p for p in self._parameters if p.layer.trainable]

    def __repr__(self):
        if not self.built:
            return f"<{type(self).__name__}, input size not known yet>"
        shapes = (", ".join(format_shape(t.shape) for t in ts) for ts in (self._inputs, self._outputs))
        return f"<{type(self).__name__} {' -> '.join(shapes)}, {sum(v.size for v in self.parameters.values()):,} parameters, {self.dtype}>"

    def summary(self):
        """A table of the layers: name, type, shape of the output, parameters, and whether training may change them.

        Returns
        -------
        str
            Shown as it is where it ends a line of an interactive session. Before the input size is known it says so. Layers
            without parameters are listed as the operations that they are made of, but for a Sequential.
        """
        return summary(self)

    # ---------------------------------------------------------------- arrays in

    def check_inputs(self, x, argument="X", once=call):
        """`x` (one array, a list of one for each input, or a dict by the names of inputs) as a list of arrays, all with the same
        number of rows; `once` may be an `arrays.Once`."""
        if not self.built:
            self.build(x, argument, once)
        many = len(self._inputs) > 1
        called = [f"{argument}[{i}]" for i in range(len(self._inputs))] if many else [argument]
        if isinstance(x, Mapping):
            names = [t.name for t in self._inputs]
            called = [f"{argument}[{name!r}]" for name in names]
            if set(x) != set(names):
                raise ValueError(f"{argument} has the keys {', '.join(map(repr, x)) or '(none)'}; the inputs are named "
                                 f"{', '.join(map(repr, names))}")
            x = [x[name] for name in names] if many else x[names[0]]
        if many and (not isinstance(x, (list, tuple)) or len(x) != len(self._inputs)):
            raise ValueError(f"{argument} must be a list of {len(self._inputs)} arrays, one for each input")
        arrays = []
        for name, t, a in zip(called, self._inputs, x if many else [x]):
            a = once(check_array, name, a, t.dtype, empty=True)
            if a.ndim == 0 or a.shape[1:] != t.shape[1:]:
                raise ShapeError(f"{name} has shape {a.shape}; the network's input has shape {format_shape(t.shape)}")
            if t in self._id_ranges and a.size:
                low, limit, whose = self._id_ranges[t]
                if a.min() < low or a.max() >= limit:
                    at = np.unravel_index(int(((a < low) | (a >= limit)).argmax()), a.shape)
                    raise ValueError(f"{name}[{', '.join(map(str, at))}] is {a[at]}, out of range for {whose!r} "
                                     f"({low} .. {limit - 1})")
            if arrays and a.shape[0] != arrays[0].shape[0]:
                raise ValueError(f"{called[0]} has {arrays[0].shape[0]} rows, {name} has {a.shape[0]}")
            arrays.append(a)
        return arrays

    # ---------------------------------------------------------------- programs

    def graph(self, training, nodes=None):
        """Inputs of the graph, and its outputs (or other nodes) in their form for training or inference."""
        if training:
            return self._inputs, self.training_graph(nodes)[0]
        return self._inputs, rebuild(self._outputs if nodes is None else nodes, training=False)[0]

    def training_graph(self, nodes=None):
        """Outputs of the graph for training (or other nodes), and what training writes to the buffers: a list of Assign.

        Where a layer is not trainable, its buffers stand for themselves.
        """
        nodes = self._outputs if nodes is None else nodes
        owner = {s: p for p, s in self._sources.items()}
        running = [t for t in ancestors(nodes) if t.op.name == "running"]
        frozen = {t: t.inputs[1] for t in running if t.inputs[1] in owner and not owner[t.inputs[1]].layer.trainable}
        outputs, new = rebuild(nodes, frozen, training=True)
        assigns = {}
        for t in running:
            if t in frozen:
                continue
            p = owner.get(t.inputs[1])
            if p is None or not p.buffer:
                raise TypeError(f"running: {t.inputs[1]!r} is no buffer of a layer")
            if p in assigns:
                raise ValueError(f"{p.layer!r} stands in the network more than once: its {p.name} would be written more than once")
            assigns[p] = Assign("buffers", self._buffer_offsets[p], new[t.inputs[2]], self._sources[p])
        return outputs, list(assigns.values())

    def storage(self, **more):
        buffers = {"buffers": Storage(self.flat_buffers.size, self.dtype, True)} if self.flat_buffers.size else {}
        return {"parameters": Storage(self.flat_parameters.size, self.dtype, True), **buffers, **more}

    def gradient_storage(self):
        return {"gradients": Storage(self._gradient_size, self.dtype, True)} if self._gradient_size else {}

    def bind(self, plan, binding) -> None:
        """Put the network's arrays in the places of a program that reads or writes them."""
        for name in ("parameters", "buffers", "gradients"):
            if name in plan.spaces:
                binding.set(plan.spaces[name], getattr(self, f"flat_{name}"))

    def _plan(self, key, make):
        with self._lock:
            if key not in self._plans:
                self._plans[key] = make()
                self._free[key] = []
            try:
                return self._plans[key], self._free[key].pop()
            except IndexError:
                pass
        plan = self._plans[key]
        binding = plan.binding()
        self.bind(plan, binding)
        return plan, binding

    def _bind_inputs(self, plan, binding, arrays):
        for i, s in enumerate(plan.inputs):
            if s in self._inputs:
                binding.set(plan.spaces[f"input {i}"], arrays[self._inputs.index(s)])

    def _set_rows(self, plan, binding, rows):
        if plan.scalars:
            binding.set(plan.spaces["scalars"], np.full(len(plan.scalars), rows, dtype=self.dtype))

    def predict(self, X, batch_size=None):
        """Outputs for `X` in inference mode.

        Parameters
        ----------
        X : array_like (n, ...), or a list of one for each input, or a dict by the names of inputs
        batch_size : int, optional
            Rows of one run; changes memory, never the result.

        Returns
        -------
        ndarray (n, ...), or a list of one for each output
        """
        if batch_size is None:
            if self._again is not None:
                result = self._again(X)
                if result is not None:
                    return result
            return self._run(self.check_inputs(X), False, _CHUNK)
        if not hasattr(batch_size, "__index__") or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        return self._run(self.check_inputs(X), False, int(batch_size))

    def __call__(self, X, training=False):
        """Outputs for `X`; with ``training=True`` those that training would see: dropout is drawn anew, and layers that normalise
        over the batch take all rows of `X` for one batch. Nothing is written: buffers stay as they are."""
        if not training:
            return self.predict(X)
        arrays = self.check_inputs(X)
        return self._run(arrays, True, 1 << max(arrays[0].shape[0] - 1, 0).bit_length() if self._buffers else _CHUNK)

    def _run(self, arrays, training, chunk, nodes=None):
        """Values of the outputs, or of other `nodes` of the graph."""
        n = arrays[0].shape[0]
        nodes = self._outputs if nodes is None else nodes
        key = ("predict", training and tuple(p.layer.trainable for p in self._buffers), chunk, *nodes)
        plan, binding = self._plan(key, lambda: lower(self.graph(training, nodes)[1], self.dtype, storage=self.storage(),
                                                      capacity=chunk))
        results = [np.empty((n, *t.shape[1:]), dtype=t.dtype) for t in nodes]
        if training:
            self._draw += 1
        for start in range(0, n, chunk):
            rows = min(chunk, n - start)
            part = slice(start, start + rows)
            self._bind_inputs(plan, binding, arrays if rows == n else [a[part] for a in arrays])
            for i, r in enumerate(results):
                binding.set(plan.spaces[f"output {i}"], r if rows == n else r[part])
            self._set_rows(plan, binding, rows)
            self._status(binding.run(rows, 0, -1, self.seed or 0, self._draw, start, False, 0))
        self._release(key, plan, binding)
        if self._again is None and not training and chunk == _CHUNK and nodes is self._outputs:
            self._again = self._short(key, plan)
        return results[0] if len(results) == 1 else results

    def _short(self, key, plan):
        """The short way for predictions of rows that need no conversion, or None for networks that have none. A control loop asks for
        one row at a time, and the checks of arrays of every kind would take longer than a small network."""
        if len(self._inputs) + len(self._outputs) != 2 or self._id_ranges or plan.scalars or self._inputs[0] not in plan.inputs:
            return None
        x, = self._inputs
        return _core.Forward(self._free[key], plan.spaces[f"input {plan.inputs.index(x)}"], plan.spaces["output 0"], x.shape[1:],
                             self._outputs[0].shape[1:], np.ndarray, np.empty, np.dtype(self._outputs[0].dtype), self.seed or 0)

    def _release(self, key, plan, binding):
        for i, s in enumerate(plan.inputs):
            if s._array is None:
                binding.clear(plan.spaces[f"input {i}"])
        for i in range(len(plan.outputs)):
            binding.clear(plan.spaces[f"output {i}"])
        with self._lock:
            self._free[key].append(binding)

    @staticmethod
    def _status(result):
        status, _, value, limit = result
        if status == 3:
            raise IndexError(f"row {value} is out of range for {limit} rows")

    # ---------------------------------------------------------------- forward and backward by hand

    def _make_backward(self, capacity):
        inputs, (outputs, assigns) = self._inputs, self.training_graph()
        up = [source("input", t.shape, t.dtype, f"d{t.name or 'output'}") for t in outputs]
        trainable = self.trainable()
        floats = [t for t in inputs if t.dtype in FLOATS]
        grads = gradients(outputs, [self._sources[p] for p in trainable] + floats, up)
        dense, sums = self._split(dict(zip(trainable, grads)))
        for p, g in dense.items():
            at = self._gradient_offsets[p]
            old = source("state", p.shape, self.dtype, f"d{self._names[p]}", space="gradients", offset=at)
            assigns.append(Assign("gradients", at, add(old, g), old))
        parts = [t for s in sums.values() for t in s.parts()]
        plan = lower([*outputs, *grads[len(trainable):], *parts], self.dtype, assigns=assigns, late=up, capacity=capacity, storage=self.storage(**self.gradient_storage()))
        plan.upstream, plan.tables = up, list(sums)
        return plan

    def forward(self, X):
        """Outputs in training mode, with all that `backward` needs kept until then.

        Several forwards may wait; the last is the first whose backward is taken. The buffers of layers are written here, as by a
        step, but that there is no loss to check first.

        Returns
        -------
        ndarray (n, ...), or a list of one for each output
        """
        arrays = self.check_inputs(X)
        n = arrays[0].shape[0]
        if len(self._pending) >= _PENDING:
            raise RuntimeError(f"{_PENDING} forward passes wait for their backward; use predict() where none is wanted, "
                               "or release() to drop them")
        capacity = 1 << max(n - 1, 0).bit_length()
        key = ("backward", capacity, tuple(p.layer.trainable for p in self._parameters + self._buffers))
        plan, binding = self._plan(key, lambda: self._make_backward(capacity))
        arrays = [np.array(a) for a in arrays]  # the caller may change theirs before backward
        self._bind_inputs(plan, binding, arrays)
        results = [np.empty((n, *t.shape[1:]), dtype=t.dtype) for t in self._outputs]
        for i, r in enumerate(results):
            binding.set(plan.spaces[f"output {i}"], r)
        dx = [np.empty([n if d == BATCH else d for d in t.shape], t.dtype) for t in plan.outputs[len(results):]]
        for i, d in enumerate(dx, len(results)):
            binding.set(plan.spaces[f"output {i}"], d)
        for i, s in enumerate(plan.inputs):
            if s in plan.upstream:  # not read before backward, which sets it
                binding.set(plan.spaces[f"input {i}"], results[plan.upstream.index(s)])
        self._set_rows(plan, binding, n)
        self._draw += 1
        self._status(binding.run(n, 0, plan.mark, self.seed or 0, self._draw, 0, False, 0))
        copies = [r.copy() for r in results]  # backward reads the outputs it was given, not what a caller made of them
        self._pending.append((key, plan, binding, n, results, dx, self._draw))
        return copies[0] if len(copies) == 1 else copies

    def backward(self, dout):
        """Gradients of the last forward that waits, from the gradient of its output.

        They are added to `flat_gradients`, and to the sparse ones in `gradients` (`Trainer.apply` takes and clears them).

        Parameters
        ----------
        dout : array_like, of the shape of the output, or a list of one for each output

        Returns
        -------
        ndarray, of the shape of the input, or a list of one for each input of real numbers; None where there is none
        """
        if not self._pending:
            raise RuntimeError("backward() needs a forward() before it")
        key, plan, binding, n, results, dx, draw = self._pending[-1]
        douts = [dout] if len(results) == 1 else list(dout)
        if len(douts) != len(results):
            raise ValueError(f"dout must be a list of {len(results)} arrays, one for each output")
        checked = []
        for i, (d, r) in enumerate(zip(douts, results)):
            d = check_array("dout", d, self.dtype, empty=True)
            if d.shape != r.shape:
                raise ShapeError(f"dout has shape {d.shape}, the output {r.shape}")
            checked.append(d)
        self._pending.pop()
        for i, s in enumerate(plan.inputs):
            if s in plan.upstream:
                binding.set(plan.spaces[f"input {i}"], checked[plan.upstream.index(s)])
        self._status(binding.run(n, plan.mark, -1, self.seed or 0, draw, 0, False, 0))
        self._release(key, plan, binding)
        parts = len(dx) - 3 * len(plan.tables)
        for i, p in enumerate(plan.tables):
            new = RowGradient.picked(*dx[parts + 3 * i:parts + 3 * i + 3], p.shape)
            self._row_gradients[p] = self._row_gradients[p] + new if p in self._row_gradients else new
        return dx[0] if parts == 1 else dx[:parts] or None

    def release(self) -> None:
        """Drop all forwards that wait for a backward."""
        while self._pending:
            key, plan, binding, *_ = self._pending.pop()
            self._release(key, plan, binding)


class Sequential(Network):
    """Layers one after another.

    Parameters
    ----------
    layers : list of Layer
        `backprop.Input` may stand first; without it the input size comes from the first data.
    dtype : {"float32", "float64"}
    seed : int, optional
    """

    _sequential = True

    def __init__(self, layers, dtype="float32", seed=None):
        if not hasattr(layers, "__iter__"):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        layers = list(layers)
        self._configure(dtype, seed)
        self._first = layers.pop(0) if layers and isinstance(layers[0], Tensor) else None
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential takes layers, got {layer!r}")
        self.layers = layers
        self._fresh = []  # the layers that `build` was the first to build
        if self._first is not None:
            self._connect(self._first)

    def _connect(self, x):
        y = x
        for layer in self.layers:
            y = layer(y)
        names = {}
        for i, layer in enumerate(self.layers):
            names.setdefault(layer, layer.name or str(i))
        layers = self.layers
        self._assemble([x], [y], names)
        self.layers = layers  # in order, and twice where one stands twice

    def build(self, x, argument="X", once=call):
        if not self.built:
            dtype = self.layers[0].input_dtype if self.layers else REAL
            a = once(check_array, argument, x, self.dtype if dtype is REAL else dtype, empty=True)
            if a.ndim < (2 if dtype is REAL else 1):
                raise ShapeError(f"{argument} has shape {a.shape}; a network takes rows, (n, ...)")
            self._fresh = [layer for layer in self.layers if layer._built_for is None]
            with self.tentative():
                self._connect(source("input", (BATCH, *a.shape[1:]), dtype, "x"))

    def _unbuild(self):
        for layer in self._fresh:
            layer.unbuild()
        self._inputs = None
