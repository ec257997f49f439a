"""backprop: train dense and embedding networks on the CPU, fast, with NumPy alone.

>>> import backprop as bp
>>> net = bp.Sequential([bp.Dense(64, "relu"), bp.Dense(10)])
>>> trainer = bp.Trainer(net, loss="cross_entropy", optimizer=bp.Adam(1e-3), seed=0)
>>> history = trainer.fit(*bp.data.digits(), epochs=10, batch_size=32)
"""

import typing as _typing
from contextlib import contextmanager as _contextmanager
from importlib import import_module as _import_module

from . import _core, checkpoint, functions, init, losses, metrics, optim, schedules
from .callbacks import Callback, EarlyStopping, History
from .eager import compile, evaluate, grad, seed, tensor, value_and_grad
from .embedding import Embedding, EmbeddingBag
from .errors import FileFormatError, NonFiniteError, ShapeError
from .functions import (binary_cross_entropy, clip, dropout, elu, gelu, hard_tanh, huber_loss, layer_norm, leaky_relu, log_softmax,
                        logsumexp, margin_loss, mean, prelu, relu, silu, softmax, softmax_cross_entropy, softplus, square)
from .gradcheck import gradcheck
from .graph import Tensor
from .layers import Activation, BatchNorm, Dense, Dropout, Flatten, Input, Layer, LayerNorm, PReLU, Residual
from .network import Network, Sequential
from .operation import operation
from .ops import (abs, add, argmax, bag, broadcast_to, concatenate, div, eq, erf, exp, expm1, fma, ge, gt, le, log, log1p, lt,
                  matmul, max, maximum, min, minimum, mul, ne, neg, pow, reshape, sigmoid, sign, split, sqrt, stop_gradient,
                  sub, sum, take, tanh, transpose, where)
from .optim import SGD, Adagrad, Adam, AdamW, AMSGrad, RMSprop, SparseAdam
from .saving import load
from .sparse import RowGradient
from .trainer import Trainer
from .windows import corrupt_windows, windows

if _typing.TYPE_CHECKING:
    from . import data, view
    from .many import fit_many
    from .rates import rate_finder
    from .vectors import WordVectors, fine_tuning_advice, untouched_words

__version__ = "0.1.0"
_LATE = ("data", "view")  # imported when first used: they need more of the standard library than all the rest
_LATE_NAMES = {**dict.fromkeys(("WordVectors", "fine_tuning_advice", "untouched_words"), "vectors"), "rate_finder": "rates",
               "profile": "profiling", "fit_many": "many"}


@_contextmanager
def threads(n):
    """Use at most `n` threads within a ``with`` block. Results do not depend on it."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"threads: a whole number of at least 1, got {n!r}")
    before = _core.threads_set(int(n))
    try:
        yield
    finally:
        _core.threads_set(before)


def __getattr__(name):
    if name in _LATE:
        return _import_module(f".{name}", __name__)
    if name in _LATE_NAMES:
        return getattr(_import_module(f".{_LATE_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LATE, *_LATE_NAMES})


__all__ = [name for name in dir() if not name.startswith("_")] + ["__version__", *_LATE, *_LATE_NAMES]
