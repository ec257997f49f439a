"""Networks: any acyclic graph of layers, its parameters in one array, and programs to run it.

All parameters lie in one flat array, all gradients in another of the same layout; `parameters` and `gradients` are views. A
program is lowered once for each use (prediction, forward and backward, a training step) and number of rows; the number of
rows of a run is an argument of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager

import numpy as np

from . import init
from .arrays import check_array
from .autodiff import gradients
from .errors import ShapeError
from .graph import BATCH, FLOATS, Tensor, ancestors, format_shape, rebuild, source
from .layers import Layer, unique_names
from .lower import Assign, Storage, lower
from .ops import add

_CHUNK = 256  # rows of one prediction run
_NO_SIZE = "the network has no input size yet: put bp.Input(size) first, or give it data"
_PENDING = 256  # forwards that may wait for their backward


def aligned_zeros(n, dtype):
    """Zeros that start at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    raw = np.empty(n * dtype.itemsize + 64, dtype=np.uint8)  # where it is large, NumPy asks for huge pages
    raw[...] = 0
    start = -raw.ctypes.data % 64
    return raw[start:start + n * dtype.itemsize].view(dtype)


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
        The one array behind all parameters, and behind all gradients.
    """

    save: Callable[..., None]  # attached by saving.py

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
                layers.setdefault(parameters[-1].layer)
        self.layers: list[Layer] = list(layers) if names is None else list(names)
        names = dict(zip(self.layers, unique_names(self.layers))) if names is None else names
        order = {layer: i for i, layer in enumerate(self.layers)}
        parameters.sort(key=lambda p: (order[p.layer], p.layer.parameters.index(p)))
        self._parameters, self._offsets, at = parameters, {}, 0
        for p in parameters:
            self._offsets[p] = at
            at += -(-int(np.prod(p.shape)) // 16) * 16  # each starts on a cache line
        self._names = {p: f"{names[p.layer]}.{p.name}" for p in parameters}
        if len(set(self._names.values())) < len(parameters):
            raise ValueError(f"layers must have different names, got {', '.join(names.values())}")
        # The graph with sources that know their place in the flat array.
        replace = {t: source("input", t.shape, self.dtype if t.dtype in FLOATS else t.dtype, f"x{i}" if len(inputs) > 1 else "x")
                   for i, t in enumerate(inputs)}
        self._sources = {p: source("parameter", p.shape, self.dtype, self._names[p], space="parameters", offset=self._offsets[p])
                         for p in parameters}
        replace.update({p.tensor: s for p, s in self._sources.items()})
        self._outputs, _ = rebuild(outputs, replace, dtype=self.dtype)
        self._inputs = [replace[t] for t in inputs]
        self.flat_parameters = aligned_zeros(at, self.dtype)
        self.parameters = self._views(self.flat_parameters)
        self._gradients = None
        self._initialize()

    def _views(self, flat):
        return Views({self._names[p]: flat[self._offsets[p]:self._offsets[p] + int(np.prod(p.shape))].reshape(p.shape)
                      for p in self._parameters})

    def _initialize(self):
        stream = init.Stream(self.seed or 0)
        for p, view in zip(self._parameters, self.parameters.values()):
            view[...] = p.initializer(p.shape, view.dtype, stream)

    def initialize(self, seed) -> None:
        """Draw all weights anew."""
        self._require_built()
        self.seed = int(seed)
        self._initialize()

    @property
    def built(self) -> bool:
        return self._inputs is not None

    def _require_built(self):
        if not self.built:
            raise ValueError(_NO_SIZE)

    def __getattr__(self, name):
        if name in ("parameters", "gradients", "flat_parameters", "flat_gradients") and self.__dict__.get("_inputs") is None:
            raise AttributeError(f"{name}: {_NO_SIZE}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def build(self, x, argument="X") -> None:
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
            self._gradients = aligned_zeros(self.flat_parameters.size, self.dtype)
        return self._gradients

    @property
    def gradients(self):
        """The gradients of the last backward passes, a mapping of views."""
        return self._views(self.flat_gradients)

    def trainable(self):
        """Parameters that training may change, in order."""
        return [p for p in self._parameters if p.layer.trainable]

    def __repr__(self):
        if not self.built:
            return f"<{type(self).__name__}, input size not known yet>"
        shapes = (", ".join(format_shape(t.shape) for t in ts) for ts in (self._inputs, self._outputs))
        return f"<{type(self).__name__} {' -> '.join(shapes)}, {sum(v.size for v in self.parameters.values()):,} parameters, {self.dtype}>"

    # ---------------------------------------------------------------- arrays in

    def check_inputs(self, x, argument="X"):
        """`x` as a list of arrays, one for each input, all with the same number of rows."""
        if not self.built:
            self.build(x, argument)
        many = len(self._inputs) > 1
        if many and isinstance(x, Mapping):
            x = list(x.values())
        if many and (not isinstance(x, (list, tuple)) or len(x) != len(self._inputs)):
            raise ValueError(f"{argument} must be a list of {len(self._inputs)} arrays, one for each input")
        arrays = []
        for i, (t, a) in enumerate(zip(self._inputs, x if many else [x])):
            name = f"{argument}[{i}]" if many else argument
            a = check_array(name, a, t.dtype, empty=True)
            if a.ndim == 0 or a.shape[1:] != t.shape[1:]:
                raise ShapeError(f"{name} has shape {a.shape}; the network's input has shape {format_shape(t.shape)}")
            if arrays and a.shape[0] != arrays[0].shape[0]:
                raise ValueError(f"{argument}[0] has {arrays[0].shape[0]} rows, {name} has {a.shape[0]}")
            arrays.append(a)
        return arrays

    # ---------------------------------------------------------------- programs

    def graph(self, training):
        """Inputs and outputs of the graph for training or inference."""
        return self._inputs, rebuild(self._outputs, training=training)[0]

    def storage(self, **more):
        size = self.flat_parameters.size
        return {"parameters": Storage(size, self.dtype, True), **more}

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
        binding.set(plan.spaces["parameters"], self.flat_parameters)
        if "gradients" in plan.spaces:
            binding.set(plan.spaces["gradients"], self.flat_gradients)
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
        X : array_like (n, ...), or a list of one for each input
        batch_size : int, optional
            Rows of one run; changes memory, never the result.

        Returns
        -------
        ndarray (n, ...), or a list of one for each output
        """
        if batch_size is not None and (not hasattr(batch_size, "__index__") or batch_size < 1):
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        arrays = self.check_inputs(X)
        return self._run(arrays, False, _CHUNK if batch_size is None else int(batch_size))

    def __call__(self, X, training=False):
        """Outputs for `X`; ``training=True`` draws dropout anew."""
        return self._run(self.check_inputs(X), bool(training), _CHUNK)

    def _run(self, arrays, training, chunk):
        n = arrays[0].shape[0]
        key = ("predict", training, chunk)
        plan, binding = self._plan(key, lambda: lower(self.graph(training)[1], self.dtype, storage=self.storage(), capacity=chunk))
        results = [np.empty((n, *t.shape[1:]), dtype=t.dtype) for t in self._outputs]
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
        return results[0] if len(results) == 1 else results

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
        inputs, outputs = self.graph(True)
        up = [source("input", t.shape, t.dtype, f"d{t.name or 'output'}") for t in outputs]
        trainable = self.trainable()
        floats = [t for t in inputs if t.dtype in FLOATS]
        grads = gradients(outputs, [self._sources[p] for p in trainable] + floats, up)
        assigns = []
        for p, g in zip(trainable, grads):
            old = source("state", p.shape, self.dtype, f"d{self._names[p]}", space="gradients", offset=self._offsets[p])
            assigns.append(Assign("gradients", self._offsets[p], add(old, g), old))
        plan = lower([*outputs, *grads[len(trainable):]], self.dtype, assigns=assigns, late=up, capacity=capacity,
                     storage=self.storage(gradients=Storage(self.flat_gradients.size, self.dtype, True)))
        plan.upstream = up
        return plan

    def forward(self, X):
        """Outputs in training mode, with all that `backward` needs kept until then.

        Several forwards may wait; the last is the first whose backward is taken.

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
        key = ("backward", capacity, tuple(p.layer.trainable for p in self._parameters))
        plan, binding = self._plan(key, lambda: self._make_backward(capacity))
        arrays = [np.array(a) for a in arrays]  # the caller may change theirs before backward
        self._bind_inputs(plan, binding, arrays)
        results = [np.empty((n, *t.shape[1:]), dtype=t.dtype) for t in self._outputs]
        for i, r in enumerate(results):
            binding.set(plan.spaces[f"output {i}"], r)
        dx = [np.empty((n, *t.shape[1:]), dtype=self.dtype) for t in plan.outputs[len(results):]]
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

        They are added to `flat_gradients` (`Trainer.apply` takes and clears them).

        Parameters
        ----------
        dout : array_like, of the shape of the output, or a list of one for each output

        Returns
        -------
        ndarray, of the shape of the input, or a list of one for each input
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
        return dx[0] if len(dx) == 1 else dx

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

    def build(self, x, argument="X"):
        if not self.built:
            a = check_array(argument, x, self.dtype, empty=True)
            if a.ndim < 2:
                raise ShapeError(f"{argument} has shape {a.shape}; a network takes rows, (n, ...)")
            self._fresh = [layer for layer in self.layers if layer._built_for is None]
            with self.tentative():
                self._connect(source("input", (BATCH, *a.shape[1:]), "float32", "x"))

    def _unbuild(self):
        for layer in self._fresh:
            layer.parameters, layer._built_for = [], None
        self._inputs = None
