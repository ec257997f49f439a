"""Layers that look up rows of a table: `Embedding`, one for each id, and `EmbeddingBag`, one for all the words of a text.

Their gradients are sparse and their updates touch only the rows that a step has seen, whatever the optimiser: see ``sparse.py``.
"""

from __future__ import annotations

import math

import numpy as np

from . import init as initializers
from .arrays import check_array
from .errors import ShapeError
from .graph import format_shape
from .layers import Layer
from .ops import bag, check_padding, take

_DRAWN = 1 << 22  # random numbers drawn at a time


class _Table(Layer):
    """A layer with a table of rows, (num_embeddings, dim)."""

    input_dtype = "int32"

    def __init__(self, num_embeddings, dim, weights, trainable, padding, init, name):
        super().__init__(name, trainable)
        if padding is None:
            padding = getattr(weights, "padding", None)
        weights = getattr(weights, "matrix", weights)  # of a WordVectors
        if weights is not None:
            weights = np.asarray(weights)
            if weights.ndim != 2 or weights.dtype.kind not in "iuf" or not weights.size:
                raise ShapeError(f"weights must be an array of numbers (num_embeddings, dim), got shape {weights.shape} of "
                                 f"{weights.dtype}")
            check_array("weights", weights, weights.dtype if weights.dtype.kind == "f" else "float64", finite=True)
            for what, given, own in (("num_embeddings", num_embeddings, weights.shape[0]), ("dim", dim, weights.shape[1])):
                if given is not None and given != own:
                    raise ShapeError(f"{what} is {given}, the weights have shape {weights.shape}")
            num_embeddings, dim = weights.shape
        for what, value in (("num_embeddings", num_embeddings), ("dim", dim)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or not 1 <= value < 1 << 31:
                raise ValueError(f"{what} must be a whole number of at least 1, got {value!r}" + (
                    "; without weights both num_embeddings and dim are needed" if value is None else ""))
        self.num_embeddings, self.dim = int(num_embeddings), int(dim)
        check_padding(type(self).__name__, padding, self.num_embeddings)
        self.padding, self.init, self._weights = None if padding is None else int(padding), init, weights
        self._init = initializers.Normal(1 / math.sqrt(self.dim)) if init is None else initializers.resolve(init)

    def build(self, shape):
        self.weight = self.parameter("weight", (self.num_embeddings, self.dim), self._initial)

    def _initial(self, shape, dtype, rng):
        table = self._drawn(shape, dtype, rng) if self._weights is None else self._weights
        if self.padding is not None and self.padding >= 0 and table[self.padding].any():
            table = np.array(table)
            table[self.padding] = 0
        return table

    def _drawn(self, shape, dtype, rng):
        """Random rows; where each number is drawn by itself, some rows at a time, as drawing takes several times their memory."""
        count = max(1, _DRAWN // self.dim)
        if not isinstance(self._init, (initializers.Normal, initializers.Uniform)) or count >= shape[0]:
            return self._init(shape, dtype, rng)
        table = np.empty(shape, dtype)
        for i in range(0, shape[0], count):
            part = table[i:i + count]
            part[...] = self._init(part.shape, dtype, rng)
        return table

    def copy(self):
        layer = super().copy()
        layer._weights = self._weights
        return layer

    def _check(self, x):
        if x.dtype != "int32":
            raise TypeError(f"{self!r} takes row numbers, bp.Input(..., dtype=\"int32\"), got {x.dtype} of shape "
                            f"{format_shape(x.shape)}")

    def config(self):
        return {"num_embeddings": self.num_embeddings, "dim": self.dim, "padding": self.padding, "init": self.init}


class Embedding(_Table):
    """Rows of a table by their numbers: ids (n,) give (n, dim), windows (n, words) give (n, words, dim).

    Parameters
    ----------
    num_embeddings, dim : int
        Shape of the table; both may be left out where `weights` are given.
    weights : array_like (num_embeddings, dim) or WordVectors, optional
        What the table starts from, as pre-trained vectors. Finite numbers. It is read when the network is built.
    trainable : bool
        False freezes the vectors: no gradient is computed for them, and they keep their bits.
    padding : int, optional
        Row number of what fills up short windows: its vector is zero and stays zero. -1 is a padding that is no row: ids of -1
        give zeros. None: that of the `WordVectors`, where they have one.
    init : str or callable, optional
        How random vectors are drawn. None: normal of variance 1 / dim, so that vectors have a length of about 1.
    name : str, optional

    Notes
    -----
    The gradient is sparse: a step costs what its ids cost, whatever the size of the table, and rows that it did not see keep
    their bits, as their moments do (the "lazy" form of each optimiser). It is dense where the table is used in another way too,
    as the output weights of a language model, or by lookups with different paddings.
    """

    def __init__(self, num_embeddings=None, dim=None, weights=None, trainable=True, padding=None, init=None, name=None):
        super().__init__(num_embeddings, dim, weights, trainable, padding, init, name)

    def forward(self, x):
        self._check(x)
        return take(self.weight.tensor, x, self.padding)


class EmbeddingBag(_Table):
    """Sum or mean of rows of a table, as of the words of a text: ids (n, words) give (n, dim).

    Parameters
    ----------
    num_embeddings, dim : int
        Shape of the table; both may be left out where `weights` are given.
    mode : {"mean", "sum"}
        The mean is over the words that are no padding; a text without any gives zeros.
    weights, trainable, padding, init, name
        As for `Embedding`.
    """

    def __init__(self, num_embeddings=None, dim=None, mode="mean", weights=None, trainable=True, padding=None, init=None,
                 name=None):
        super().__init__(num_embeddings, dim, weights, trainable, padding, init, name)
        if mode not in ("mean", "sum"):
            raise ValueError(f"mode must be \"mean\" or \"sum\", got {mode!r}")
        self.mode = mode

    def forward(self, x):
        self._check(x)
        if x.ndim < 2:
            raise ShapeError(f"expected texts as rows of word numbers (n, words), got shape {format_shape(x.shape)}")
        return bag(self.weight.tensor, x, mean=self.mode == "mean", padding=self.padding)

    def config(self):
        return {**super().config(), "mode": self.mode}
