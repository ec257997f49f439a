"""Checkpoints: all that a training consists of, in one file, so that it goes on as if it had never stopped.

N steps, save, load into a fresh trainer, N steps give the bits of 2N steps. That takes the parameters, the optimiser's arrays,
the counters t and epoch, and the seed: the order of an epoch's rows is a function of (seed, epoch), and every random number of
(seed, t, place). A schedule that looks at the loss has a state of its own. The file says what it belongs to, and a trainer whose
network, losses, optimiser, schedules or rules (penalties, clipping ...) differ refuses it.

    format    "backprop checkpoint"
    version   "1"
    trainer   JSON: network (inputs, operations, shapes of parameters), losses, optimizer, schedule, t, epoch, seeds, history;
              where there are any: groups of parameters, the schedules of groups, rules

The tensors are ``parameters/NAME``, ``buffers/NAME``, and ``SLOT/NAME`` for each array of the optimiser; ``ema/NAME`` for averages.
"""

from __future__ import annotations

import math
import os

import numpy as np

from .errors import FileFormatError
from .files import read_tensors, write_tensors
from .graph import BATCH, REAL, ancestors, format_shape, source
from .network import Sequential
from .schedules import ReduceOnPlateau, Schedule, as_schedule
from .saving import check_format, check_tensors, dump, field, graph_nodes, json_number, number_of, parse
from .trainer import Trainer

FORMAT, VERSION = "backprop checkpoint", 1
_MOST = 1 << 62
_PLATEAU = ("lr", "best", "waited", "resting")  # what changes in a ReduceOnPlateau


def save_checkpoint(trainer, path) -> None:
    """Write the whole state of the training to a file, replacing it in one step.

    Call it between epochs or between steps; a ``fit`` that goes on from there starts with a whole epoch. Gradients that
    ``net.backward`` has summed up and ``apply`` has not taken yet are not part of it.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    ValueError
        The network has no input size yet, or the history holds what a file cannot. Nothing is written then.
    """
    with trainer._guard:
        _refuse_average(trainer)
        trainer.net._require_built()
        net = trainer.net
        record = {**_identity(trainer), "t": trainer.t, "epoch": trainer.epoch, "seed": trainer.seed, "net_draw": net._draw,
                  "net_seed": None if net.seed is None else int(net.seed),
                  "group_schedules": [_schedule_config(s) for s in trainer.optimizer.schedules[1:]],
                  "history": [{str(k): _value(v, f"history: {k!r}") for k, v in row.items()} for row in trainer.history]}
        write_tensors(path, _arrays(trainer), {"format": FORMAT, "version": str(VERSION), "trainer": dump(record)})


def load_checkpoint(trainer, path) -> None:
    """Take over the state that `save_checkpoint` wrote, in place. Layers keep their arrays, and views of them stay good.

    The trainer must have been made as the saved one was: same network, losses, optimiser and schedule. A `Sequential` that has
    no input size yet gets it from the file. Seed, counters, history and the state of the schedule come from the file.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    FileFormatError
        The file is damaged or is something else.
    ValueError
        It is the checkpoint of another network, loss, optimiser or schedule; the message says what differs. In both cases
        nothing is changed.
    """
    tensors, metadata = read_tensors(path)
    try:
        check_format(metadata, FORMAT, VERSION)
        record = parse(metadata.get("trainer", ""))
        inputs = [(tuple(field(x, "shape", list)), field(x, "dtype", str)) for x in field(record, "inputs", list)]
        counters = {k: field(record, k, int) for k in ("t", "epoch", "seed", "net_draw")}
        if not all(0 <= v < _MOST for k, v in counters.items() if k != "seed"):
            raise ValueError("a counter is out of range")
        net_seed = field(record, "net_seed", int, type(None))
        history = [{k: _read_value(v) for k, v in row.items()} for row in map(dict, field(record, "history", list))]
        states = [_schedule_state(field(record, "schedule", dict))]
        states += [_schedule_state(dict(s)) for s in field({"group_schedules": [], **record}, "group_schedules", list)]
    except (ValueError, TypeError, OverflowError) as e:
        raise FileFormatError(f"{os.fspath(path)}: {str(e)[:400]}") from e
    net = trainer.net
    with trainer._guard:
        _refuse_average(trainer)
        undo = None if net.built else _build(net, inputs, tensors, path)
        try:
            _compare(_identity(trainer), record, f"{os.fspath(path)}: checkpoint of another training")
            try:
                check_tensors({name: a.shape for name, a in _arrays(trainer).items()}, tensors, net.dtype)
                if len(states) != len(trainer.optimizer.schedules):
                    raise ValueError(f"schedules of {len(states)} groups, where there are {len(trainer.optimizer.schedules)}")
            except ValueError as e:
                raise FileFormatError(f"{os.fspath(path)}: {str(e)[:400]}") from e
        except BaseException:
            if undo is not None:
                undo()
            raise
        for name, a in _arrays(trainer).items():
            a[...] = tensors[name]
        net.clear_gradients()
        trainer.t, trainer.epoch, trainer.seed = counters["t"], counters["epoch"], counters["seed"]
        net.seed, net._draw = net_seed, counters["net_draw"]
        trainer.history[:] = history
        trainer.stop_training = False
        for schedule, state in zip(trainer.optimizer.schedules, states):
            for name, value in state.items():
                setattr(schedule, name, value)


Trainer.save_checkpoint = save_checkpoint
Trainer.load_checkpoint = load_checkpoint


def _refuse_average(trainer):
    if trainer._swapped:
        raise RuntimeError("the weights are swapped for their average: save and load outside `with trainer.averaged()`")


def _arrays(trainer):
    """Views of all arrays of a training, by their names in the file."""
    net, size = trainer.net, trainer.net.flat_parameters.size
    spaces = {"parameters": net.flat_parameters}
    spaces |= {slot: trainer.state[i * size:(i + 1) * size] for i, slot in enumerate(trainer.slots)}
    arrays = {f"{space}/{name}": view for space, flat in spaces.items() for name, view in net._views(flat).items()}
    return arrays | {f"buffers/{name}": view for name, view in net.buffers.items()}


# ---------------------------------------------------------------- what a checkpoint belongs to

def _identity(trainer):
    """What must be equal between the trainer that saves and the one that loads: plain JSON."""
    net = trainer.net
    frozen = sorted(net._names[p] for p in net._parameters + net._buffers if not p.layer.trainable)
    return parse(dump({
        "dtype": net.dtype, "inputs": [{"shape": list(t.shape[1:]), "dtype": t.dtype} for t in net._inputs],
        "parameters": {name: list(a.shape) for name, a in net.parameters.items()}, "frozen": frozen,
        "operations": graph_nodes(net)[0], "losses": [str(f) for f in trainer.losses],
        "optimizer": {k: _value(v, f"optimizer: {k}") for k, v in trainer.optimizer.config().items()},
        "schedule": _schedule_config(trainer.optimizer.schedule),
        "groups": {pattern: {k: _setting(v, f"groups[{pattern!r}]: {k}") for k, v in settings.items()}
                   for pattern, settings in trainer.optimizer.groups.items()},
        "rules": {**trainer.rules.config(), **({"accumulate": trainer.accumulate} if trainer.accumulate > 1 else {}),
                  **({"products": trainer.products} if trainer.products else {}),
                  **({"loss_weights": trainer.loss_weights} if set(trainer.loss_weights) != {1.0} else {})}}))


def _setting(v, what):
    """A setting of a group; of a schedule, what does not change while training."""
    if isinstance(v, Schedule) or callable(v):
        state = _PLATEAU if isinstance(v, ReduceOnPlateau) else ()
        return {k: x for k, x in _schedule_config(as_schedule(v)).items() if k not in state}
    return _value(v, what)


def _schedule_config(schedule):
    try:
        config = schedule.to_config()
    except (ValueError, TypeError):  # a user's function or class: it must be given again, and then is believed
        config = {"schedule": type(schedule).__name__, "unit": schedule.unit}
    return {k: _value(v, f"schedule: {k}") for k, v in config.items()}


def _schedule_state(config):
    """The part of a schedule's config that changes while training."""
    if config.get("schedule") != "ReduceOnPlateau":
        return {}
    state = {k: _read_value(config.get(k)) for k in _PLATEAU}
    for k, v in state.items():
        if not (v is None and k == "best") and (isinstance(v, bool) or not isinstance(v, (int, float))
                                                or (k != "best" and not 0 <= v < math.inf)):
            raise ValueError(f"the schedule's {k!r} is no number that it can be")
    return state


def _compare(mine, theirs, what):
    """ValueError that names the first difference."""
    def differ(name, here, there):
        raise ValueError(f"{what}: {name} is {_short(here)} here, {_short(there)} in the file")
    for key in ("losses", "optimizer", "schedule", "groups", "rules", "dtype", "inputs", "parameters", "frozen", "operations"):
        here, there = mine[key], theirs.get(key, {} if key in ("groups", "rules") else None)  # older files have neither
        if type(there) is not type(here):
            differ(key, here, there)
        if isinstance(here, dict):
            state = _PLATEAU if key == "schedule" and here.get("schedule") == "ReduceOnPlateau" else ()
            if key == "optimizer":
                state = ("slots",)  # older files have it, and the settings decide it
            for name in [*here, *there]:
                if name not in state and (here.get(name) != there.get(name) or (name in here) != (name in there)):
                    differ(f"{key} {name!r}", here.get(name, "absent"), there.get(name, "absent"))
        elif key == "operations" and len(here) == len(there):
            for i, (a, b) in enumerate(zip(here, there)):
                if a != b:
                    differ(f"operation {i} of the network", a, b)
        elif here != there:
            differ(key if key != "operations" else "the number of operations of the network",
                   here if key != "operations" else len(here), there if key != "operations" else len(there))


def _short(value):
    try:
        text = value["op"] + str(value.get("attrs", "")) if type(value) is dict and type(value.get("op")) is str else repr(value)
    except RecursionError:
        text = "something nested"
    return text if len(text) <= 120 else text[:117] + "..."


def _build(net, inputs, tensors, path):
    """Give a `Sequential` the input size of the file; returns what undoes it. Checked before any array is made."""
    if not isinstance(net, Sequential) or len(inputs) != 1:
        raise ValueError(f"{os.fspath(path)}: checkpoint of a network with {len(inputs)} inputs")
    fresh, layers = [f for f in dict.fromkeys(net.layers) if f._built_for is None], net.layers

    def undo():
        for f in fresh:
            f.unbuild()
        net._inputs, net.layers = None, layers
    try:
        shape = inputs[0][0]
        if not all(type(d) is int and 0 <= d < 1 << 31 for d in shape) or len(shape) > 32:
            raise ValueError("the shape of the input is no shape")
        x = y = source("input", (BATCH, *shape), "int32" if inputs[0][1] == "int32" else REAL, "x")
        for f in net.layers:
            y = f(y)
        here = sorted(t.shape for t in ancestors([y]) if t.op.name == "parameter" and not t.attrs["parameter"].buffer)
        there = sorted(a.shape for name, a in tensors.items() if name.startswith("parameters/"))
        if here != there:
            a, b = next(((a, b) for a, b in zip(here, there) if a != b), (len(here), len(there)))
            what = "a parameter's shape" if isinstance(a, tuple) else "the number of parameters"
            raise ValueError(f"checkpoint of another training: {what} is {_short(a)} here, {_short(b)} in the file")
        net._connect(x)
    except (ValueError, TypeError) as e:
        undo()
        raise ValueError(f"{os.fspath(path)}: {e}; the file is for inputs of shape {format_shape((BATCH, *inputs[0][0][:8]))}") from e
    return undo


# ---------------------------------------------------------------- single values

def _value(v, what):
    """`v` as JSON; numbers that JSON lacks as {"number": "nan"}."""
    if isinstance(v, np.generic):
        v = v.item()
    if isinstance(v, float):
        return v if math.isfinite(v) else {"number": json_number(v)}
    if isinstance(v, (tuple, list)):
        return [_value(x, what) for x in v]
    if v is None or isinstance(v, (bool, int, str)):
        return v
    raise ValueError(f"{what} is of type {type(v).__name__}, which a checkpoint cannot hold")


def _read_value(v):
    if type(v) is dict:
        return number_of(v.get("number"), "a number")
    if type(v) is list:
        return [_read_value(x) for x in v]
    return v
