"""Charts of training: learning curves, and gradient norms by layer, so that vanishing gradients and dead units are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .callbacks import Callback
from .drawing import FAINT, GRID, INK, PAPER, SERIES, Path, Picture, Rect, Text, clean, text_width
from .errors import NonFiniteError
from .graph import BATCH, ancestors
from .network import Network
from .trainer import Trainer

__all__ = ["Gradients", "curves", "gradients"]

_DASHES = ["", "7 4", "2 3", "9 3 2 3"]
_WIDTH = 460.0


# ---------------------------------------------------------------- axes

@dataclass
class _Series:
    name: str
    x: list
    y: list
    color: tuple = INK
    dash: str = ""


@dataclass
class _Axes:
    """A panel: lines over a common x axis, linear or logarithmic in y, the names of the lines at its right."""

    title: str
    series: list
    height: float = 170.0
    log: bool = False
    xlabel: str = ""
    low: float | None = None
    high: float | None = None
    items: list = field(default_factory=list)


def _ticks(low, high, count=5):
    """Round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low, high):
    """Powers of ten that span [low, high], at most some seven of them."""
    a, b = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    b = max(b, a + 1)
    step = max(1, -(-(b - a) // 6))
    return a, b, list(range(a, b + 1, step))


def _tick_text(v):
    return f"{v:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\u2212") if v else "0"


def _good(v, log):
    return v is not None and math.isfinite(v) and (v > 0 or not log)


def _spread(wanted, distance, low, high):
    """Positions near `wanted` (ascending), `distance` apart, between `low` and `high` where they fit."""
    out = []
    for y in wanted:
        out.append(max(y, low if not out else out[-1] + distance))
    over = out[-1] - high if out else 0
    for i in reversed(range(len(out))):
        if over > 0:
            out[i] = min(out[i], high - distance * (len(out) - 1 - i))
    return out


def _panel(axes, left, top, width, right):
    """Draw an axes object; returns its lower end. `right` is where the names of the lines stand."""
    items, size = [Text(left, top + 12, axes.title, INK, 12, "start", True)], 11
    top += 24
    bottom = top + axes.height
    ys = [v for s in axes.series for v in s.y if _good(v, axes.log)]
    xs = [v for s in axes.series for v in s.x]
    x0, x1 = (min(xs), max(xs)) if xs else (0, 1)
    if x0 == x1:
        x0, x1 = x0 - 0.5, x1 + 0.5
    if not ys:
        items.append(Text(left + width / 2, top + axes.height / 2, "no finite values", FAINT, size))
        y0, y1, ticks = 0.0, 1.0, []
    elif axes.log:
        a, b, powers = _decades(min(ys), max(ys))
        y0, y1, ticks = float(a), float(b), [(float(p), f"1e{p}".replace("-", "\u2212")) for p in powers]
    else:
        y0 = min(ys) if axes.low is None else axes.low
        y1 = max(ys) if axes.high is None else axes.high
        if y1 - y0 <= 1e-9 * max(abs(y0), abs(y1)):
            y0, y1 = (y0 - abs(y0) / 2, y1 + abs(y1) / 2) if y0 else (0.0, 1.0)
        elif axes.low is None:
            y0 = 0.0 if 0 <= y0 < 0.3 * y1 else y0 - 0.05 * (y1 - y0)
            y1 += 0.05 * (y1 - y0)
        ticks = [(v, _tick_text(v)) for v in _ticks(y0, y1, max(2, int(axes.height / 32)))]

    def px(v):
        return left + (v - x0) / (x1 - x0) * width

    def py(v):
        v = math.log10(v) if axes.log else v
        return bottom - (v - y0) / (y1 - y0) * axes.height
    for v, text in ticks:
        y = bottom - (v - y0) / (y1 - y0) * axes.height
        items.append(Path([(left, y), (left + width, y)], GRID, width=1))
        items.append(Text(left - 6, y + 4, text, FAINT, size, "end"))
    items.append(Path([(left, bottom), (left + width, bottom)], FAINT, width=1))
    whole = all(float(v).is_integer() for v in xs)
    for v in _ticks(x0, x1, 6):
        if not whole or float(v).is_integer():
            items.append(Path([(px(v), bottom), (px(v), bottom + 4)], FAINT, width=1))
            items.append(Text(px(v), bottom + 16, _tick_text(v), FAINT, size))
    ends = []
    for s in axes.series:
        runs: list = [[]]
        for x, y in zip(s.x, s.y):
            if _good(y, axes.log):
                runs[-1].append((px(x), min(max(py(y), top), bottom)))
            elif runs[-1]:
                runs.append([])
        for run in runs:
            if len(run) > 1:
                items.append(Path(run, s.color, width=1.8, dash=s.dash))
        points = [p for run in runs for p in run]
        if len(points) <= 12 or any(len(run) == 1 for run in runs):
            items += [Rect(x - 2.5, y - 2.5, 5, 5, 2.5, fill=s.color, stroke=None) for x, y in points]
        ends.append((points[-1][1] if points else top, s))
    ends.sort(key=lambda e: e[0])
    for (y, s), at in zip(ends, _spread([y for y, _ in ends], 15, top, bottom)):
        items.append(Path([(right, at), (right + 18, at)], s.color, width=1.8, dash=s.dash))
        items.append(Text(right + 23, at + 4, s.name, s.color, size, "start"))
    bottom += 22
    if axes.xlabel:
        items.append(Text(left + width / 2, bottom + 10, axes.xlabel, FAINT, size))
        bottom += 16
    axes.items = items
    return bottom


def _chart(panels, title, description):
    """Panels below each other, as one picture."""
    left, top = 62.0, 10.0
    names = max((text_width(s.name, 11) for p in panels for s in p.series), default=0)
    right = left + _WIDTH + 12
    items = []
    for p in panels:
        p.height = max(p.height, 15.0 * len(p.series))
        top = _panel(p, left, top, _WIDTH, right) + 14
        items += p.items
    return Picture(items, right + 23 + names + 12, top, title, description)


def _finish(picture, path):
    if path is not None:
        picture.save(path)
    return picture


# ---------------------------------------------------------------- learning curves

def curves(history, path=None) -> Picture:
    """Learning curves: losses, accuracies and the learning rate over the epochs.

    Parameters
    ----------
    history : History
        Of `Trainer.fit`, or any list of one dict for each epoch. Columns with "loss" in their name share a panel, those with
        "accuracy" another.
    path : str or PathLike, optional
        Where to save it as well: .svg, .png or .pdf.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        There is no epoch, or no column to draw.
    """
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise TypeError(f"history must be a History (a list of dicts), got {type(history).__name__}")
    if not history:
        raise ValueError("history holds no epoch yet: call fit first")
    epochs = [row.get("epoch", i) for i, row in enumerate(history, 1)]
    columns = list(dict.fromkeys(k for row in history for k in row))

    def series(keep):
        found = [k for k in columns if keep(k)]
        found.sort(key=lambda k: (not k.startswith("train"), columns.index(k)))
        return [_Series(k.replace("_", " "), [e for e, row in zip(epochs, history) if k in row],
                        [row[k] for row in history if k in row], SERIES[i % len(SERIES)], _DASHES[i % len(_DASHES)])
                for i, k in enumerate(found)]
    panels = [_Axes("Loss", series(lambda k: "loss" in k)), _Axes("Accuracy", series(lambda k: "accuracy" in k), height=120),
              _Axes("Learning rate", series(lambda k: k == "lr"), height=56)]
    panels = [p for p in panels if p.series]
    if not panels:
        raise ValueError(f"history has no column with a loss, an accuracy or lr; it has {', '.join(columns) or 'none'}")
    panels[-1].xlabel = "epoch"
    last = ", ".join(f"{s.name} {s.y[-1]:.4g}" for p in panels for s in p.series)
    return _finish(_chart(panels, f"learning curves, {len(history)} epoch{'s' * (len(history) > 1)}",
                          f"after epoch {epochs[-1]}: {last}"), path)


# ---------------------------------------------------------------- gradients

def _norms(grads):
    """Euclidean norm of every gradient, by parameter."""
    return {name: float(np.linalg.norm(np.asarray(getattr(g, "rows", g), dtype="float64"))) for name, g in grads.items()}


def _layer(name):
    return name.rpartition(".")[0] or name


def _by_layer(norms):
    """Norms of all of a layer's gradients together."""
    squares: dict = {}
    for name, v in norms.items():
        squares[_layer(name)] = squares.get(_layer(name), 0.0) + v * v
    return {layer: math.sqrt(s) for layer, s in squares.items()}


def _rectifiers(net):
    """{name: node} of everything that a ReLU puts out: named by the layer whose parameters are the last before it."""
    nodes, found, layer = ancestors(net._outputs), {}, {}
    names = {s: _layer(net._names[p]) for p, s in net._sources.items()}
    for t in nodes:
        own = [names[x] for x in t.inputs if x in names] + [layer[x] for x in t.inputs if layer.get(x)]
        layer[t] = own[0] if own else ""
        if t.op.name == "relu" and t.shape[:1] == (BATCH,):
            base = name = layer[t] or "relu"
            while name in found:
                name = f"{base}:{sum(n.partition(':')[0] == base for n in found)}"
            found[name] = t
    return found


def _dead(net, arrays):
    """Share of the units of every ReLU that are 0 for each of the rows given."""
    found = _rectifiers(net)
    if not found:
        return {}
    values = net._run(arrays, False, 256, list(found.values()))
    values = [values] if len(found) == 1 else values
    return {name: float((v.max(axis=0) <= 0).mean()) if v.size else 0.0 for name, v in zip(found, values)}


def _gradients_now(trainer, x, y, weights=None):
    """Norms by parameter at one batch; those that the network held before are put back."""
    net = trainer.net
    kept = net.flat_gradients.copy(), net._row_gradients
    try:
        return _norms(trainer.loss_and_gradients(x, y, weights)[1])
    except NonFiniteError:
        return {name: math.nan for name in trainer.net.parameters}
    finally:
        net.flat_gradients[...], net._row_gradients = kept


class Gradients(Callback):
    """Records the norm of every parameter's gradient while a network is trained, and the share of dead ReLU units.

    Training does not notice: parameters, losses and random numbers are the same bits as without it. It costs one more forward
    and backward pass, and a prediction of at most 256 rows, in every step that it records; and as a callback for batches it
    has every step, recorded or not, go through Python.

    Parameters
    ----------
    every : int
        Record the first and then every so many updates.

    Attributes
    ----------
    steps : list of int
        Updates made before each record.
    norms : dict of str to list of float
        By parameter: the norm of its gradient for the batch that comes, before any clipping; NaN where the loss is not finite.
    dead : dict of str to list of float
        By layer: the share of its ReLU units that are 0 for each of the first 256 training rows, so that nothing reaches them.

    Examples
    --------
    >>> recorder = bp.view.Gradients(every=10)
    >>> trainer.fit(X, y, callbacks=[recorder])
    >>> bp.view.gradients(recorder)
    """

    def __init__(self, every=10):
        if isinstance(every, bool) or not hasattr(every, "__index__") or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
        self.every = int(every)
        self.steps: list = []
        self.norms: dict = {}
        self.dead: dict = {}

    def on_train_begin(self, trainer, epochs):
        self._left = 0

    def on_batch_begin(self, trainer, epoch, batch):
        self._left -= 1
        if self._left > 0:
            return
        self._left = self.every
        arrays, rows = trainer.feed
        k, m = len(trainer.net._inputs), len(trainer.net._outputs)
        part = [a[rows] for a in arrays]
        x, y, w = part[:k], part[k:k + m], part[k + m] if len(part) > k + m else None
        norms = _gradients_now(trainer, x if k > 1 else x[0], y if m > 1 else y[0], w)
        dead = _dead(trainer.net, [a[:256] for a in arrays[:k]])
        for kept, now in ((self.norms, norms), (self.dead, dead)):
            for name, v in now.items():  # one that was not there before was not recorded until now
                kept.setdefault(name, [math.nan] * len(self.steps)).append(v)
        self.steps.append(trainer.t)


def _ramp(i, n):
    """From vermilion (first layer) over purple to blue (last)."""
    stops = [((178, 59, 0), (255, 154, 87)), ((138, 63, 143), (216, 160, 220)), ((11, 95, 165), (108, 182, 255))]
    at = 2 * i / max(n - 1, 1)
    k = min(int(at), 1)
    mix = [[round(a + (b - a) * (at - k)) for a, b in zip(stops[k][j], stops[k + 1][j])] for j in (0, 1)]
    return tuple("#" + "".join(f"{v:02x}" for v in c) for c in mix)


def gradients(of, x=None, y=None, loss="cross_entropy", path=None) -> Picture:
    """Gradient norms by layer, on a logarithmic axis, and the share of dead ReLU units.

    Parameters
    ----------
    of : Gradients, Trainer or Network
        A recorder gives lines over the steps. A trainer or a network gives bars for one batch; nothing is updated.
    x, y : array_like
        The batch, for a trainer or a network.
    loss : str, Loss or callable
        For a network, as in `Trainer`; a trainer has its own.
    path : str or PathLike, optional
        Where to save it as well: .svg, .png or .pdf.

    Returns
    -------
    Picture
        A layer's norm is that of all its parameters' gradients together. A unit is dead where it is 0 for each of the rows.

    Raises
    ------
    ValueError
        The recorder holds nothing yet, the network's input size is not known yet, or the batch does not fit.
    """
    if isinstance(of, Gradients):
        if x is not None or y is not None:
            raise TypeError("x and y are for a trainer or a network; a recorder has its own")
        return _finish(_recorded(of), path)
    if not isinstance(of, (Network, Trainer)):
        raise TypeError(f"gradients() takes a recorder (bp.view.Gradients), a Trainer or a Network, got {type(of).__name__}")
    net = of if isinstance(of, Network) else of.net
    net._require_built()
    if x is None or y is None:
        raise TypeError("gradients() of a trainer or a network needs a batch: x and y")
    trainer = of if isinstance(of, Trainer) else Trainer(net, loss=loss, optimizer="sgd")
    norms = _by_layer(_gradients_now(trainer, x, y))
    dead = _dead(net, net.check_inputs(x, "x"))
    return _finish(_bars(norms, dead), path)


def _recorded(recorder):
    if not recorder.steps:
        raise ValueError("the recorder holds nothing yet: give it to fit(callbacks=[...])")
    layers = list(dict.fromkeys(map(_layer, recorder.norms)))
    lines = {layer: [] for layer in layers}
    for i in range(len(recorder.steps)):
        now = _by_layer({name: v[i] for name, v in recorder.norms.items() if i < len(v)})
        for layer in layers:
            lines[layer].append(now.get(layer, math.nan))
    color = {layer: _ramp(i, len(layers)) for i, layer in enumerate(layers)}
    panels = [_Axes("Norm of the gradient, by layer", [
        _Series(clean(layer, 40), recorder.steps, ys, color[layer], _DASHES[i % 4])
        for i, (layer, ys) in enumerate(lines.items())],
        height=220, log=True)]
    if recorder.dead:
        panels.append(_Axes("Share of dead ReLU units", [
            _Series(clean(name, 40), recorder.steps[:len(ys)], ys, color.get(name.partition(":")[0], SERIES[0]), _DASHES[i % 4])
            for i, (name, ys) in enumerate(recorder.dead.items())], height=90, low=0.0, high=1.0))
    panels[-1].xlabel = "update"
    last = ", ".join(f"{layer} {ys[-1]:.3g}" for layer, ys in lines.items())
    return _chart(panels, f"gradient norms over {len(recorder.steps)} records", f"at update {recorder.steps[-1]}: {last}")


def _bars(norms, dead):
    """A bar for each layer, from the left end of a logarithmic axis, with its number; the dead units beside."""
    size, row = 11, 24.0
    names = list(norms)
    wide = max(text_width(clean(n, 40), size) for n in names) if names else 0
    left, top, width = wide + 22, 44.0, 300.0
    numbers = left + width + 12
    shares = numbers + 78
    items = [Text(left, 18, "Norm of the gradient, by layer", INK, 12, "start", True)]
    positive = [v for v in norms.values() if _good(v, True)]
    a, b, powers = _decades(min(positive), max(positive)) if positive else (0, 1, [])
    bottom = top + row * len(names)
    for p in powers:
        x = left + (p - a) / (b - a) * width
        items.append(Path([(x, top), (x, bottom)], GRID, width=1))
        items.append(Text(x, bottom + 16, f"1e{p}".replace("-", "\u2212"), FAINT, size))
    if dead:
        items.append(Text(shares, 18, "Dead ReLU units", INK, 12, "start", True))
    for i, name in enumerate(names):
        y, v = top + row * i, norms[name]
        items.append(Text(left - 8, y + row / 2 + 4, clean(name, 40), INK, size, "end"))
        if _good(v, True):
            length = max((math.log10(v) - a) / (b - a) * width, 2.0)
            items.append(Rect(left, y + 4, length, row - 8, 2, fill=_ramp(i, len(names)), stroke=None))
        items.append(Text(numbers, y + row / 2 + 4, f"{v:.3g}".replace("-", "\u2212"), INK, size, "start"))
        share = [d for n, d in dead.items() if n.partition(":")[0] == name]
        if share:
            text = ", ".join(f"{d:.0%}" for d in share)
            items.append(Rect(shares, y + 6, 60, row - 12, 2, fill=PAPER, stroke=FAINT))
            if max(share) > 0:
                items.append(Rect(shares, y + 6, 60 * max(share), row - 12, 2, fill=FAINT, stroke=None))
            items.append(Text(shares + 66, y + row / 2 + 4, text, INK, size, "start"))
    items.append(Path([(left, bottom), (left + width, bottom)], FAINT, width=1))
    end = max(item.box()[2] for item in items)
    described = ", ".join(f"{n} {v:.3g}" for n, v in norms.items())
    return Picture(items, end + 12, bottom + 30, "gradient norms by layer", described)
