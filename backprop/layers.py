"""Layers: they declare parameters and, called on a tensor, add their operations to the graph.

A layer may be called several times; its parameters are then shared, and their gradients sum. Every layer works on batches of
rows: dimension 0 is the batch.
"""

from __future__ import annotations

import itertools

from . import functions as F
from . import init
from . import ops
from .errors import ShapeError
from .graph import BATCH, Tensor, dim_size, format_shape, source

LAYERS: dict[str, type] = {}


class Parameter:
    """An array that training may change.

    Attributes
    ----------
    name : str
        ``"weight"``, ``"bias"`` ... ; the network puts the layer's name in front.
    shape : tuple of int
    initializer : callable
    layer : Layer
    tensor : Tensor
        The source that stands for it in graphs.
    """

    def __init__(self, name, shape, initializer, layer):
        self.name, self.shape, self.initializer, self.layer = name, tuple(shape), initializer, layer
        self.tensor = source("parameter", shape, "float32", name, parameter=self)


class Layer:
    """Base class. A layer defines ``build(shape)``, which declares parameters for inputs of that shape, and
    ``forward(x)``, which maps a tensor to a tensor; ``config()`` gives the arguments to make it again.

    Attributes
    ----------
    name : str or None
    trainable : bool
        False: training leaves the parameters alone and computes no gradient for them.
    parameters : list of Parameter
    """

    def __init__(self, name=None, trainable=True):
        self.name, self.trainable = name, bool(trainable)
        self.parameters: list[Parameter] = []
        self._built_for = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        LAYERS[cls.__name__] = cls

    def __call__(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"{self!r} is called on a Tensor (bp.Input(...) makes one), got {type(x).__name__}")
        if self._built_for is None:
            self.build(x.shape)
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

    def build(self, shape) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def config(self) -> dict:
        return {}

    def __repr__(self):
        args = ", ".join(f"{v!r}" if k in ("units", "rate") else f"{k}={v!r}" for k, v in self.config().items() if v is not None)
        return f"{type(self).__name__}({args})" + (f" named {self.name!r}" if self.name else "")


def Input(*shape, dtype="float32") -> Tensor:
    """An input of a network: ``Input(784)`` takes rows of 784 numbers, ``Input(28, 28)`` rows of 28 x 28.

    Returns
    -------
    Tensor (n, *shape)
    """
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if any(not isinstance(d, int) or d < 0 for d in shape):
        raise ShapeError(f"Input takes sizes that are whole numbers, without the batch; got {shape}")
    return source("input", (BATCH, *shape), dtype, "x")


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
        if not (activation is None or callable(activation) or activation == "prelu" or activation in F.ACTIVATIONS):
            raise ValueError(f"activation must be one of {', '.join(sorted(F.ACTIVATIONS))}, prelu, a function or None; "
                             f"got {activation!r}")
        self.units, self.activation, self.use_bias = int(units), activation, bool(use_bias)
        if weight_init is None:
            weight_init = "he" if activation in self._RELU else "xavier"
        self.weight_init, self.bias_init = weight_init, bias_init
        self._weight_init, self._bias_init = init.resolve(weight_init), init.resolve(bias_init)

    def build(self, shape):
        if len(shape) < 2:
            raise ShapeError(f"{self!r} expects rows of numbers (n, in), got shape {format_shape(shape)}")
        self.weight = self.parameter("weight", (shape[-1], self.units), self._weight_init)
        self.bias = self.parameter("bias", (self.units,), self._bias_init) if self.use_bias else None
        self.slope = self.parameter("slope", (self.units,), init.resolve(init.constant(0.25))) if self.activation == "prelu" else None

    def forward(self, x):
        if x.shape[-1] != self.weight.shape[0]:
            raise ShapeError(f"the input has {x.shape[-1]} columns, the weight has shape {self.weight.shape}")
        z = ops.matmul(x, self.weight.tensor)
        if self.bias is not None:
            z = z + self.bias.tensor
        if self.slope is not None:
            return F.prelu(z, self.slope.tensor)
        if self.activation is None:
            return z
        return (F.ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation)(z)

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
        if not callable(activation) and activation not in F.ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(sorted(F.ACTIVATIONS))} or a function, got {activation!r}")
        self.activation = activation

    def forward(self, x):
        return (F.ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation)(x)

    def config(self):
        return {"activation": self.activation}


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
