"""Layers: they declare parameters and, called on a tensor, add their operations to the graph.

A layer may be called several times; its parameters are then shared, and their gradients sum. Every layer works on batches of
rows: dimension 0 is the batch.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from . import functions as F
from . import init as initializers
from . import ops
from .errors import ShapeError
from .graph import BATCH, FLOATS, REAL, Tensor, dim_size, format_shape, source

LAYERS: dict[str, type] = {}


class Parameter:
    """An array of a layer: one that gradients move, or a buffer.

    Attributes
    ----------
    name : str
        ``"weight"``, ``"bias"`` ... ; the network puts the layer's name in front.
    shape : tuple of int
    initializer : callable
    layer : Layer
    buffer : bool
        True: no gradient moves it, but training writes it where `functions.running` says so.
    tensor : Tensor
        The source that stands for it in graphs, of dtype ``"real"``: a network has its own.
    """

    def __init__(self, name, shape, initializer, layer, buffer=False):
        self.name, self.shape, self.initializer, self.layer, self.buffer = name, tuple(shape), initializer, layer, buffer
        self.tensor = source("parameter", shape, REAL, name, parameter=self)


class Layer:
    """Base class. A layer defines ``build(shape)``, which declares parameters for inputs of that shape, and
    ``forward(x)``, which maps a tensor to a tensor; ``config()`` gives the arguments to make it again.

    A layer may keep *buffers*, arrays that no gradient moves: ``build`` declares one with ``self.buffer``, and ``forward`` reads
    it by ``functions.running(now, buffer, new)``, which is `now` in training and what the buffer holds in inference. A step of
    training, and ``net.forward``, write `new` to it. Buffers are saved with the network and stand in ``net.buffers``; optimisers,
    penalties and gradients know nothing of them. Where the layer is not trainable its buffers stay, and are read in training too.

    A layer may hold layers: it hands them to ``self.hold``, builds them in its ``build`` by calling them, and calls them in its
    ``forward``. Their parameters are named after their places: ``"3.0.weight"``.

    Attributes
    ----------
    name : str or None
    trainable : bool
        False: training leaves the parameters alone, those of the layers within too, and computes no gradient for them.
    parameters : list of Parameter
        Its own, buffers included.
    layers : list of Layer
        Those that it holds.
    """

    input_dtype = REAL  # "int32" for layers that take row numbers
    _switched = 0  # of all layers: how often `trainable`, or what it follows from, was set

    def __init__(self, name=None, trainable=True):
        self.name, self._trainable = name, bool(trainable)
        self.parameters: list[Parameter] = []
        self.layers: list[Layer] = []
        self._holder = None
        self._built_for = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        LAYERS[cls.__name__] = cls

    def __call__(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"{self!r} is called on a Tensor (bp.Input(...) makes one), got {type(x).__name__}")
        if self._built_for is None:
            try:
                self.build(x.shape)
            except BaseException:
                self.unbuild()
                raise
            self._built_for = x.shape[1:]
        try:
            return self.forward(x)
        except ShapeError as e:
            raise ShapeError(f"{self!r} called on shape {format_shape(x.shape)}: {e}") from None

    def parameter(self, name, shape, initializer) -> Parameter:
        """Declare a parameter."""
        p = Parameter(name, shape, initializer, self)
        self.parameters.append(p)
        return p

    def buffer(self, name, shape, initializer) -> Parameter:
        """Declare an array that no gradient moves."""
        p = Parameter(name, shape, initializer, self, buffer=True)
        self.parameters.append(p)
        return p

    def hold(self, layers) -> list[Layer]:
        """Take layers in, in order; their names and their `trainable` follow from this layer's. ValueError for one held already."""
        layers = list(layers)
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"{type(self).__name__} holds layers, got {layer!r}")
            if layer._holder is not None:
                raise ValueError(f"{layer!r} is part of another layer already; layer.copy() makes one like it")
        for layer in layers:
            layer._holder = self
        Layer._switched += 1
        self.layers += layers
        return layers

    @property
    def trainable(self):
        return self._trainable and (self._holder is None or self._holder.trainable)

    @trainable.setter
    def trainable(self, value):
        self._trainable = bool(value)
        Layer._switched += 1

    def copy(self) -> Layer:
        """A layer of the same settings, not built yet."""
        layer = type(self)(**self.config())
        layer.name, layer._trainable = self.name, self._trainable
        return layer

    def unbuild(self) -> None:
        """Forget the input size, and the parameters with it."""
        self.parameters, self._built_for = [], None
        for layer in self.layers:
            layer.unbuild()

    def build(self, shape) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def config(self) -> dict:
        return {}

    def __repr__(self):
        args = ", ".join(f"{v!r}" if k in ("units", "rate") else f"{k}={v!r}" for k, v in self.config().items() if v is not None)
        return f"{type(self).__name__}({args})" + (f" named {self.name!r}" if self.name else "")


def Input(*shape, dtype=None, name=None) -> Tensor:
    """An input of a network: ``Input(784)`` takes rows of 784 numbers, ``Input(28, 28)`` rows of 28 x 28.

    Parameters
    ----------
    *shape : int
        Sizes without the batch.
    dtype : {None, "int32", "float32", "float64"}
        ``"int32"`` for row numbers. Real numbers are of the network's dtype whatever is said here.
    name : str, optional
        By which a dict of arrays gives this input its own. Without it, an only input is ``"x"``, several are ``"x0"``, ``"x1"`` ...

    Returns
    -------
    Tensor (n, *shape)
    """
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if any(not isinstance(d, int) or d < 0 for d in shape):
        raise ShapeError(f"Input takes sizes that are whole numbers, without the batch; got {shape}")
    if dtype is not None and np.dtype(dtype).name not in (*FLOATS, "int32"):
        raise TypeError(f"dtype must be float32, float64 or int32, got {dtype!r}")
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError(f"name must be a text, got {name!r}")
    return source("input", (BATCH, *shape), "int32" if dtype is not None and np.dtype(dtype) == np.int32 else REAL, name)


class Dense(Layer):
    """``activation(x W + b)`` with ``W (in, units)`` and ``b (units,)``.

    Parameters
    ----------
    units : int
    activation : str, callable or None
        A name of `backprop.functions.ACTIVATIONS`, ``"prelu"`` (one learned slope for each unit), or a function of a Tensor.
    use_bias : bool
    weight_init : str, callable or None
        None chooses by activation: He for the ReLU family, LeCun for none, else Xavier (all normal or uniform as in `init`).
    bias_init : str or callable
    trainable : bool
    name : str, optional
    """

    _RELU = ("relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "swish", "softplus")

    def __init__(self, units, activation=None, use_bias=True, weight_init=None, bias_init="zeros", trainable=True, name=None):
        super().__init__(name, trainable)
        if isinstance(units, bool) or not hasattr(units, "__index__") or units < 1:
            raise ValueError(f"units must be a whole number of at least 1, got {units!r}")
        self._activation = _activation(activation, "prelu")
        self.units, self.activation, self.use_bias = int(units), activation, bool(use_bias)
        if weight_init is None:
            weight_init = "he" if activation in self._RELU else "xavier"
        self.weight_init, self.bias_init = weight_init, bias_init
        self._weight_init, self._bias_init = initializers.resolve(weight_init), initializers.resolve(bias_init)

    def build(self, shape):
        if len(shape) < 2:
            raise ShapeError(f"{self!r} expects rows of numbers (n, in), got shape {format_shape(shape)}")
        self.weight = self.parameter("weight", (shape[-1], self.units), self._weight_init)
        self.bias = self.parameter("bias", (self.units,), self._bias_init) if self.use_bias else None
        self.slope = self.parameter("slope", (self.units,), initializers.constant(0.25)) if self.activation == "prelu" else None

    def forward(self, x):
        if x.shape[-1] != self.weight.shape[0]:
            raise ShapeError(f"the input has {x.shape[-1]} columns, the weight has shape {self.weight.shape}")
        z = ops.matmul(x, self.weight.tensor)
        if self.bias is not None:
            z = z + self.bias.tensor
        return self._activation(z) if self.slope is None else F.prelu(z, self.slope.tensor)

    def config(self):
        return {"units": self.units, "activation": self.activation, "use_bias": self.use_bias, "weight_init": self.weight_init,
                "bias_init": self.bias_init}


class Dropout(Layer):
    """In training each element is 0 with probability `rate`, else x / (1 - rate); in inference x (Srivastava et al. 2014)."""

    def __init__(self, rate, name=None):
        super().__init__(name)
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate!r}")
        self.rate = float(rate)

    def forward(self, x):
        return F.dropout(x, self.rate)

    def config(self):
        return {"rate": self.rate}


class Flatten(Layer):
    """Rows of any shape as rows of numbers: (n, a, b ...) to (n, a b ...)."""

    def forward(self, x):
        return ops.reshape(x, (BATCH, dim_size(x.shape[1:]))) if x.shape[0] == BATCH else ops.reshape(
            x, (x.shape[0], dim_size(x.shape[1:])))


class Activation(Layer):
    """An activation as a layer of its own, by name or as a function of a Tensor."""

    def __init__(self, activation, name=None):
        super().__init__(name)
        self._activation, self.activation = _activation(activation), activation

    def forward(self, x):
        return self._activation(x)

    def config(self):
        return {"activation": self.activation}


class PReLU(Layer):
    """x where x > 0, else a x, with a slope `a` that is learned (He et al. 2015, the paper of the initialisation).

    Parameters
    ----------
    shared : bool
        One slope ``(1,)`` for the layer, or one for each unit, ``(units,)``: the last axis.
    init : float, str or callable
        Of the slopes.
    trainable : bool
    name : str, optional
    """

    def __init__(self, shared=False, init=0.25, trainable=True, name=None):
        super().__init__(name, trainable)
        self.shared, self.init = bool(shared), init
        self._init = initializers.resolve(init)

    def build(self, shape):
        self.slope = self.parameter("slope", (1,) if self.shared else (_units(self, shape),), self._init)

    def forward(self, x):
        return F.prelu(x, self.slope.tensor)

    def config(self):
        return {"shared": self.shared, "init": self.init}


class LayerNorm(Layer):
    """Each row of the last axis at mean 0 and variance 1, then times a learned gain plus a learned shift, a number for each unit.

    Parameters
    ----------
    eps : float
        Added to the variance.
    scale, shift : bool
        Whether there is a gain (ones at first), a shift (zeros at first).
    trainable : bool
    name : str, optional

    References
    ----------
    Ba, Kiros and Hinton 2016, "Layer normalization"; the same numbers as ``torch.nn.LayerNorm`` over the last axis.
    """

    def __init__(self, eps=1e-5, scale=True, shift=True, trainable=True, name=None):
        super().__init__(name, trainable)
        self.eps, self.scale, self.shift = _number("eps", eps, 0, math.inf), bool(scale), bool(shift)

    def build(self, shape):
        self._affine = _affine(self, shape)

    def forward(self, x):
        return F.layer_norm(x, *(p and p.tensor for p in self._affine), self.eps)

    def config(self):
        return {"eps": self.eps, "scale": self.scale, "shift": self.shift}


class BatchNorm(Layer):
    """Each unit (of the last axis) at mean 0 and variance 1 over the batch, then times a learned gain plus a learned shift.

    Training normalises by the mean and the variance (divided by n) of the batch, and moves the buffers ``running_mean`` and
    ``running_var`` (divided by n - 1; by 1 where n is 1) by `momentum` of the way towards them. Inference normalises by the
    buffers, so a row's prediction does not depend on the rows beside it. With ``trainable=False`` the buffers stay as they are,
    and training normalises by them too.

    Parameters
    ----------
    momentum : float in [0, 1]
    eps : float
        Added to the variance.
    scale, shift : bool
        Whether there is a gain (ones at first), a shift (zeros at first).
    trainable : bool
    name : str, optional

    References
    ----------
    Ioffe and Szegedy 2015, "Batch normalization"; the same numbers as ``torch.nn.BatchNorm1d``.
    """

    def __init__(self, momentum=0.1, eps=1e-5, scale=True, shift=True, trainable=True, name=None):
        super().__init__(name, trainable)
        self.momentum, self.eps = _number("momentum", momentum, 0, 1), _number("eps", eps, 0, math.inf)
        self.scale, self.shift = bool(scale), bool(shift)

    def build(self, shape):
        self._affine = _affine(self, shape)
        units = (shape[-1],)
        self.running_mean = self.buffer("running_mean", units, initializers.zeros)
        self.running_var = self.buffer("running_var", units, initializers.ones)

    def forward(self, x):
        if x.shape[-1] != self.running_mean.shape[0]:
            raise ShapeError(f"the input has {x.shape[-1]} columns, the running mean has shape {self.running_mean.shape}")
        axes = tuple(range(x.ndim - 1))
        mean, var = F.mean(x, axes), ops.reshape(F.variance(x, axes), x.shape[-1:])
        count = F.mean_count(x, axes)
        unbiased = var * (count / ops.maximum(count - 1.0, 1.0))
        mean = F.running(mean, self.running_mean.tensor, self._moved(self.running_mean, mean))
        var = F.running(var, self.running_var.tensor, self._moved(self.running_var, unbiased))
        gain, shift = self._affine
        y = F.batch_norm(x, mean, var, gain and gain.tensor, self.eps)
        return y if shift is None else y + shift.tensor

    def _moved(self, buffer, now):
        return buffer.tensor * (1.0 - self.momentum) + now * self.momentum

    def config(self):
        return {"momentum": self.momentum, "eps": self.eps, "scale": self.scale, "shift": self.shift}


class Residual(Layer):
    """``activation(x + f(x))``, f one layer or several in a row: they need to learn the difference only (He et al. 2016).

    Parameters
    ----------
    layers : Layer or list of Layer
        Together they must keep the shape.
    activation : str, callable or None
    trainable : bool
    name : str, optional

    Raises
    ------
    ShapeError
        When called on an input whose shape f changes.
    """

    def __init__(self, layers, activation=None, trainable=True, name=None):
        super().__init__(name, trainable)
        self._activation, self.activation = _activation(activation), activation
        if not isinstance(layers, Layer) and not hasattr(layers, "__iter__"):
            raise TypeError(f"layers must be a layer or a list of layers, got {layers!r}")
        if not self.hold([layers] if isinstance(layers, Layer) else layers):
            raise ValueError("layers must not be empty")

    def build(self, shape):
        self._inner(source("input", shape, REAL, "x"))

    def _inner(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x):
        y = self._inner(x)
        if y.shape != x.shape:
            raise ShapeError(f"x + f(x) needs one shape: x is {format_shape(x.shape)}, f(x) is {format_shape(y.shape)}")
        return self._activation(x + y)

    def config(self):
        return {"layers": [layer.copy() for layer in self.layers], "activation": self.activation}


def _activation(activation, *others):
    """The function of an activation's name, None or a function; the identity for what the layer does itself."""
    if callable(activation):
        return activation
    names = [*sorted(F.ACTIVATIONS), *others]
    if activation is not None and activation not in names:
        raise ValueError(f"activation must be one of {', '.join(names)}, a function or None; got {activation!r}")
    return F.ACTIVATIONS.get(activation, F.identity)


def _number(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value == math.inf:
        wanted = f"in [{low}, {high}]" if high < math.inf else "a finite number, not negative"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return float(value)


def _units(layer, shape):
    """Size of the last axis of the rows that a layer is built for."""
    if len(shape) < 2 or shape[-1] == 0:
        raise ShapeError(f"{layer!r} expects rows of numbers (n, ..., units), got shape {format_shape(shape)}")
    return shape[-1]


def _affine(layer, shape):
    """The learned gain and shift of a layer that normalises, or None for each."""
    units = (_units(layer, shape),)
    return (layer.parameter("gain", units, initializers.ones) if layer.scale else None,
            layer.parameter("shift", units, initializers.zeros) if layer.shift else None)


def with_inner(names: dict[Layer, str]) -> dict[Layer, str]:
    """Names of layers and of those that they hold, each after its place: in order, `names` being those of the outer ones."""
    out: dict[Layer, str] = {}
    stack = list(names.items())[::-1]
    while stack:
        layer, name = stack.pop()
        if layer not in out:
            out[layer] = name
            stack += [(inner, f"{name}.{inner.name or i}") for i, inner in enumerate(layer.layers)][::-1]
    return out


def outermost(layer: Layer) -> Layer:
    """The layer that is held by none, in which `layer` lies."""
    while layer._holder is not None:
        layer = layer._holder
    return layer


def unique_names(layers) -> list[str]:
    """A name for each layer: its own, or its class with a number."""
    counts: dict[str, itertools.count] = {}
    names = []
    for layer in layers:
        base = type(layer).__name__.lower()
        names.append(layer.name or f"{base}{next(counts.setdefault(base, itertools.count()))}")
    if len(set(names)) != len(names):
        raise ValueError(f"layers must have different names, got {names}")
    return names
