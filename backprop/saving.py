"""Networks in files: weights as safetensors, the architecture as JSON in the metadata. No code and no pickle is in a file.

    format    "backprop network"
    version   "1"
    network   {"class": "Sequential", "dtype", "seed", "input": {"shape", "dtype"}, "layers": [...], "order": [0, 1, 0, ...]}
              {"class": "Network", "dtype", "seed", "layers": [...], "nodes": [...], "inputs": [...], "outputs": [...]}
    layer     {"class", "config", "name", "trainable"}, in a Network also "input", the shape of the rows that it was built for
    node      {"op", "inputs": [numbers of earlier nodes], "attrs": {...}}

A `Sequential` is its layers, called again when it is loaded. A `Network` is its graph, node by node in topological order: the
loaded network computes the same operations in the same order, and so predicts the same bits.

Files may come from anywhere. They name classes and operations that are registered, never import anything, and whatever does
not fit together raises FileFormatError before an array is made.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from . import _core, init
from .arrays import check_array
from .errors import FileFormatError, ShapeError
from .files import read_tensors, write_tensors
from .graph import BATCH, FLOATS, OPERATIONS, REAL, Tensor, ancestors, apply, constant, contiguous, data, dim_size, scalar, source
from .layers import LAYERS, Layer, unique_names, with_inner
from .network import Network, Sequential, default_name
from .ops import NO_PADDING, row_attrs

__all__ = ["Loaded", "load", "load_weights", "save"]  # the rest is for checkpoints

FORMAT, VERSION = "backprop network", 1
_MAX_TEXT = 1 << 24  # of one description; JSON of that length takes some 300 MB at worst while it is parsed
_MAX_DIM = 1 << 31
_INITIALIZERS = {cls.__name__: cls for cls in (init.Constant, init.Uniform, init.Normal, init.Scaled)}


def save(net, path, metadata=None) -> None:
    """Write the network to a file, replacing it in one step.

    Parameters
    ----------
    net : Network
    path : path-like
    metadata : mapping of str to str, optional
        Kept in the file beside the network; `load` does not look at it.

    Raises
    ------
    ValueError
        The network has no input size yet, or holds what a file cannot: a Python function as an activation or initializer, a
        layer or operation that is not registered. Nothing is written then.
    """
    if not isinstance(net, Network):
        raise TypeError(f"net must be a bp.Network or bp.Sequential, got {type(net).__name__}")
    net._require_built()
    metadata = dict(metadata or {})
    own = {"format": FORMAT, "version": str(VERSION)}
    if metadata.keys() & {*own, "network"}:
        raise ValueError("metadata: the keys format, version and network are taken")
    record, arrays = _describe(net)
    text = dump(record)
    try:
        _rebuild(parse(text), arrays)  # what is written can be read
    except (ValueError, TypeError) as e:
        raise ValueError(f"the network cannot be saved: {e}") from e
    write_tensors(path, arrays, {**metadata, **own, "network": text})


class Loaded(NamedTuple):
    """What became of each name when weights were loaded.

    Attributes
    ----------
    loaded : list of str
        Names whose values were taken over.
    missing : list of str
        Names of the network that were not there: their values are as before (of a loaded network, freshly initialised).
    unexpected : list of str
        Names that were there and that the network does not have.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]


def load(path, strict=True) -> Network:
    """The network that `save` wrote to a file: the same parameters, names, and predictions bit for bit.

    Parameters
    ----------
    path : path-like
    strict : bool
        False takes a file from which tensors were left out, or to which others were added: parameters that are missing get their
        initial values. What was loaded stands in ``net.loaded``, see `Loaded`.

    Raises
    ------
    FileFormatError
        The file is damaged, is something else, or names a layer or operation that is not known here. A layer class of one's
        own must be defined before its file is loaded. A tensor of another shape is an error whatever `strict` is.
    """
    tensors, metadata = read_tensors(path)
    try:
        check_format(metadata, FORMAT, VERSION)
        record = parse(metadata.get("network", ""))
        kind, inputs, outputs, layers, used, dtype, seed, unexpected = _rebuild(record, tensors, strict)
        initializers = {p: p.initializer for p in used.values()}
        for name, p in used.items():  # the stored values, in place of random ones
            if name in tensors:
                p.initializer = lambda shape, dtype, rng, a=tensors[name]: a
        try:
            net = kind([*inputs, *layers], dtype, seed) if kind is Sequential else kind(inputs, outputs, dtype, seed)
        finally:
            for p, initializer in initializers.items():
                p.initializer = initializer
    except (ValueError, TypeError, IndexError, OverflowError) as e:
        raise FileFormatError(f"{os.fspath(path)}: {str(e)[:400]}") from e
    names = [*net.parameters, *net.buffers]
    net.loaded = Loaded([k for k in names if k in tensors], [k for k in names if k not in tensors], unexpected)
    return net


def load_weights(net, source, strict=True) -> Loaded:
    """Take over the values of parameters and buffers by name, from a file or from a mapping, in place.

    Parameters
    ----------
    source : path-like, or mapping of str to array_like
        A safetensors file: a network's, or any whose tensors have the names of this network's.
    strict : bool
        False allows names that only one side has: so part of a model is loaded.

    Returns
    -------
    Loaded
        The names that were loaded, those that are missing in the source, and those that the network does not have.

    Raises
    ------
    FileFormatError
        The file is damaged.
    ValueError
        Shapes differ, or, with ``strict=True``, names do: the message lists them. Nothing is changed then.
    """
    net._require_built()
    given = source if isinstance(source, Mapping) else read_tensors(source)[0]
    what = "weights" if isinstance(source, Mapping) else os.fspath(source)
    views = {**net.parameters, **net.buffers}
    report = Loaded([k for k in views if k in given], [k for k in views if k not in given], [k for k in given if k not in views])
    arrays = {k: check_array(f"{what}: {k}", given[k], net.dtype, empty=True) for k in report.loaded}
    wrong = [f"{k} has shape {a.shape}, the network's is {views[k].shape}" for k, a in arrays.items()
             if a.shape != views[k].shape]
    if wrong:
        raise ShapeError(f"{what}: " + _listed(wrong))
    if strict and (report.missing or report.unexpected):
        raise ValueError(f"{what}: " + "; ".join(f"{kind} {_listed(map(str, names))}" for kind, names in (
            ("missing", report.missing), ("unexpected", report.unexpected)) if names) + " (strict=False allows that)")
    for k, a in arrays.items():
        views[k][...] = a
    return report


def _listed(items, most=8):
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


Network.save = save
Network.load_weights = load_weights


# ---------------------------------------------------------------- JSON that may come from anywhere

def check_format(metadata, wanted, version) -> None:
    """ValueError unless the metadata is of this format, in a version that is known here."""
    found = metadata.get("format")
    if found != wanted:
        hint = {"backprop checkpoint": "; trainer.load_checkpoint() takes it", FORMAT: "; bp.load() takes it"}.get(found, "")
        raise ValueError(f"no {wanted}, its format is {found[:80]!r}{hint}" if found else f"no {wanted}")
    number = metadata.get("version", "")
    if not (number.isascii() and number.isdigit() and len(number) < 9 and 1 <= int(number)):
        raise ValueError(f"version is {number[:80]!r}, no whole number")
    if int(number) > version:
        raise ValueError(f"written in version {int(number)} of the format, this package knows up to {version}")


def dump(record) -> str:
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    if len(text) > _MAX_TEXT:
        raise ValueError(f"its description takes {len(text)} characters, more than {_MAX_TEXT}")
    return text


def parse(text):
    """The value of a JSON text; ValueError for anything that is not strictly JSON, and for what is too long or too deep."""
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    def unique(pairs):
        record = dict(pairs)
        if len(record) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return record
    if len(text) > _MAX_TEXT:
        raise ValueError(f"the description has {len(text)} characters, more than {_MAX_TEXT}")
    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("the description is nested too deeply") from None
    except ValueError as e:
        raise ValueError(f"malformed description: {e}") from None


def field(record, key, *kinds):
    """``record[key]``, of one of these types exactly (a bool is no int); ValueError for anything else."""
    if type(record) is not dict:
        raise ValueError(f"an object with {key!r} was expected")
    value = record.get(key)
    if type(value) not in kinds:
        names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise ValueError(f"{key!r} must be of type {names}" + ("" if key in record else ", it is missing"))
    return value


def _whole(value, low, high, what):
    if type(value) is not int or not low <= value < high:
        raise ValueError(f"{what} must be a whole number of at least {low} and below {high}")
    return value


def _sizes(value, what, batch=False):
    """A shape; the batch, -1, may stand first where that is allowed."""
    if type(value) is not list or len(value) > 32:
        raise ValueError(f"{what} must be a list of up to 32 sizes")
    for i, d in enumerate(value):
        _whole(d, BATCH if batch and i == 0 else 0, _MAX_DIM, what)
    if abs(dim_size(value)) >= 1 << 48:
        raise ValueError(f"{what} is too large")
    return tuple(value)


def number_of(value, what):
    """A float. JSON has no infinities and NaN: those are written as text."""
    if value in ("inf", "-inf", "nan") and type(value) is str:
        return float(value)
    if type(value) not in (int, float):
        raise ValueError(f"{what} must be a number")
    value = float(value)  # OverflowError for a whole number beyond float64
    if not math.isfinite(value):
        raise ValueError(f"{what} is too large")
    return value


def json_number(value):
    return value if math.isfinite(value) else str(value)


# ---------------------------------------------------------------- writing

def _describe(net):
    """The record of a network, and its arrays by name."""
    record = {"class": "Network", "dtype": net.dtype, "seed": None if net.seed is None else int(net.seed)}
    if isinstance(net, Sequential):
        distinct = list(dict.fromkeys(net.layers))
        (x,) = net._inputs
        record.update({"class": "Sequential", "input": {"shape": list(x.shape[1:]), "dtype": x.dtype, **_own_name(net, x)},
                       "layers": [_layer_record(layer) for layer in distinct], "order": [distinct.index(f) for f in net.layers]})
        return record, {**net.parameters, **net.buffers}
    nodes, constants = graph_nodes(net)
    number = {t: i for i, t in enumerate(_all_nodes(net))}
    record.update({"layers": [{**_layer_record(f), "input": list(f._built_for)} for f in net.layers], "nodes": nodes,
                   "inputs": [number[t] for t in net._inputs], "outputs": [number[t] for t in net._outputs]})
    arrays = {**net.parameters, **net.buffers}
    if constants.keys() & arrays.keys():
        raise ValueError(f"no layer may be named so that a parameter is {min(constants.keys() & arrays.keys())!r}")
    return record, {**arrays, **constants}


def _layer_record(layer):
    cls = type(layer)
    if LAYERS.get(cls.__name__) is not cls:
        raise ValueError(f"{layer!r} cannot be saved: another layer class is known as {cls.__name__}")
    config = {k: _plain(v, f"{layer!r} cannot be saved: its {k}") for k, v in layer.config().items()}
    return {"class": cls.__name__, "config": config, "name": layer.name, "trainable": layer._trainable}


def _plain(value, what):
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v, what) for v in value]
    if isinstance(value, Layer):
        return {"layer": _layer_record(value)}
    if _INITIALIZERS.get(type(value).__name__) is type(value):
        return {"initializer": type(value).__name__, **dataclasses.asdict(value)}
    kind = "a Python function" if callable(value) else f"of type {type(value).__name__}"
    raise ValueError(f"{what} is {kind}, which a file cannot hold; give it by name")


def _all_nodes(net):
    return ancestors([*net._inputs, *net._outputs])


def graph_nodes(net):
    """The graph of a network as a list of records, and the constant arrays in it by name."""
    number, nodes, constants, keys = {}, [], {}, {}
    names = {s: net._names[p] for p, s in net._sources.items()}
    for t in _all_nodes(net):
        number[t] = len(nodes)
        if t.op.name == "input":
            attrs = {"shape": list(t.shape), "dtype": t.dtype, **_own_name(net, t)}
        elif t.op.name == "parameter":
            attrs = {"name": names[t]}
        elif t.op.name == "constant":
            attrs = {"value": json_number(t.attrs["value"])}
        elif t.op.kind in ("call", "part"):
            raise ValueError(f"the network cannot be saved: the operation {t.name} is written in Python, which a file cannot hold; "
                             "in a Sequential, a layer class of one's own may use it")
        elif t._array is not None:
            attrs = {"tensor": f"constant:{len(constants)}"}
            constants[attrs["tensor"]] = t._array
        else:
            attrs = {k: keys.setdefault(v, len(keys)) if k == "key" and t.op.kind != "source" else _attribute(v)
                     for k, v in t.attrs.items() if v != _ADDED.get(t.op.name, {}).get(k, ...)}
        node = {"op": "data" if t._array is not None else t.op.name}
        if t.inputs and t._array is None:
            node["inputs"] = [number[x] for x in t.inputs]
        if attrs:
            node["attrs"] = attrs
        nodes.append(node)
    return nodes, constants


def _own_name(net, x):
    """The name of an input, where it was given one."""
    return {} if x.name == default_name(net._inputs.index(x), len(net._inputs)) else {"name": x.name}


def _attribute(value):
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, (tuple, list)):
        return [_attribute(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, str)) else type(value).__name__


# ---------------------------------------------------------------- reading

def _rebuild(record, tensors, strict=True):
    """(class, inputs, outputs, layers in order, parameters by name, dtype, seed, names of tensors that are none of them). No
    array is made here."""
    kind = field(record, "class", str)
    dtype, seed = field(record, "dtype", str), field(record, "seed", int, type(None))
    if dtype not in FLOATS:
        raise ValueError("'dtype' must be float32 or float64")
    if seed is not None:
        _whole(seed, 0, 1 << 64, "'seed'")
    layers = [_layer(r, i) for i, r in enumerate(field(record, "layers", list))]
    if kind == "Sequential":
        order = [layers[_whole(i, 0, len(layers), "'order'")] for i in field(record, "order", list)]
        x = field(record, "input", dict)
        inputs = [_input((BATCH, *_sizes(field(x, "shape", list), "'shape' of the input")), field(x, "dtype", str),
                         field(x, "name", str, type(None)))]
        outputs, names = inputs, {}
        for i, layer in enumerate(order):
            outputs = [layer(outputs[0])]
            names.setdefault(layer, layer.name or str(i))
        names = with_inner(names)
        result = (Sequential, inputs, outputs, order)
    elif kind == "Network":
        names = with_inner(dict(zip(layers, unique_names(layers))))
        for layer, r in zip(layers, record["layers"]):
            layer._built_for = _sizes(field(r, "input", list), "'input' of a layer")
            layer.build((BATCH, *layer._built_for))
        inputs, outputs = _graph(record, names, tensors, dtype)
        result = (Network, inputs, outputs, layers)
    else:
        raise ValueError(f"no kind of network is called {kind[:80]!r}")
    used = [t.attrs["parameter"] for t in ancestors(outputs) if t.op.name == "parameter"]
    used = {f"{names[p.layer]}.{p.name}": p for p in used}
    constants = {t.name for t in ancestors(outputs) if t.op.name == "data"}
    others = sorted(tensors.keys() - used.keys() - constants)
    check_tensors({name: p.shape for name, p in used.items() if strict or name in tensors}, tensors, dtype,
                  constants if strict else constants.union(others))
    return (*result, used, dtype, seed, others)


def check_tensors(shapes, tensors, dtype, others=frozenset()):
    """The tensors are those of these shapes, no fewer and no more."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"the tensor {name!r} is missing")
        a = tensors[name]
        if a.shape != shape or a.dtype != dtype:
            raise ValueError(f"the tensor {name!r} has shape {a.shape} and dtype {a.dtype}, the network's is {_short(shape)} {dtype}")
    for name in tensors:
        if name not in shapes and name not in others:
            raise ValueError(f"the tensor {name[:80]!r} is no parameter of the network")


def _short(shape):
    return str(shape) if all(d < 1 << 63 for d in shape) else "beyond all measure"


def _layer(record, i, depth=0) -> Layer:
    if depth > 32:
        raise ValueError(f"layer {i} is nested too deeply")
    name = field(record, "class", str)
    if name not in LAYERS:
        raise ValueError(f"layer {i} is of the class {name[:80]!r}, which is not known here")
    config = {k: _argument(v, f"{k[:80]!r} of layer {i}", (i, depth)) for k, v in field(record, "config", dict).items()}
    try:
        layer = LAYERS[name](**config)
    except Exception as e:  # a class of a user's own may raise anything
        raise ValueError(f"layer {i}, {name}, cannot be made: {str(e)[:200]}") from e
    layer.name, layer.trainable = field(record, "name", str, type(None)), field(record, "trainable", bool)
    return layer


def _argument(value, what, place=(0, 0)):
    if type(value) is list:
        if any(type(v) is list or (type(v) is dict and v.keys() != {"layer"}) for v in value):
            raise ValueError(f"{what} is nested")
        return [_argument(v, what, place) for v in value]
    if type(value) is float:
        return number_of(value, what)
    if type(value) is not dict:
        return value
    if value.keys() == {"layer"}:
        return _layer(value["layer"], place[0], place[1] + 1)
    cls = _INITIALIZERS.get(value.get("initializer")) if type(value.get("initializer")) is str else None
    fields = {f.name: f.type for f in dataclasses.fields(cls)} if cls else {}
    if cls is None or value.keys() != {"initializer", *fields}:
        raise ValueError(f"{what} is no initializer")
    return cls(**{k: field(value, k, str) if kind is str else number_of(value[k], what) for k, kind in fields.items()})


def _input(shape, kind, name):
    if kind not in (*FLOATS, "int32"):
        raise ValueError("the dtype of an input must be float32, float64 or int32")
    return source("input", shape, REAL if kind in FLOATS else kind, name)


# Attributes of the operations that have some, and how each is read; all others take none.
def _flag(value, what):
    if type(value) is not bool:
        raise ValueError(f"{what} must be true or false")
    return value


def _choice(*options):
    def read(value, what):
        if value not in options:
            raise ValueError(f"{what} must be one of {', '.join(options)}")
        return value
    return read


def _integers(value, what):
    if type(value) is not list or len(value) > 32:
        raise ValueError(f"{what} must be a list of up to 32 whole numbers")
    return tuple(_whole(v, -(1 << 48), 1 << 48, what) for v in value)


def _natural(value, what):
    return _whole(value, 0, 1 << 48, what)


def _padding(value, what):
    return _whole(value, NO_PADDING, _MAX_DIM, what)


def _batched(value, what):
    return _sizes(value, what, batch=True)


# Attributes that came later: left out of files at these values, so that files stay as they were.
_ADDED = {"take": row_attrs(), "scatter_rows": row_attrs()}

_ATTRIBUTES = {
    "random": {"shape": _batched, "dtype": _choice(*FLOATS), "key": _natural},
    "dropout": {"rate": number_of, "key": _natural},
    "reduce": {"kind": _choice("sum", "max", "min"), "start": _natural, "stop": _natural},
    "matmul": {"ta": _flag, "tb": _flag},
    "reshape": {"shape": _batched},
    "strided": {"what": _choice("transpose", "broadcast_to", "slice"), "shape": _batched, "strides": _integers, "offset": _natural},
    "pad": {"shape": _batched, "strides": _integers, "offset": _natural},
    "concatenate": {"axis": _natural},
    "take": {"bag": _flag, "mean": _flag, "padding": _padding},
    "scatter_rows": {"rows": _natural, "bag": _flag, "mean": _flag, "padding": _padding},
    "leaky_relu": {"slope": number_of}, "elu": {"alpha": number_of}, "clip": {"low": number_of, "high": number_of},
    "softmax": {"axis": _natural}, "log_softmax": {"axis": _natural}, "logsumexp": {"axis": _natural},
    "standardize": {"axes": _integers, "eps": number_of}, "variance": {"axes": _integers}, "batch_norm": {"eps": number_of},
}
_ARITY = {code: arity for code, arity, _ in _core.MAP_OPS}
_ARITY_OF_OTHERS = {"matmul": 2, "take": 2, "scatter_rows": 2, "prelu": 2, "binary_cross_entropy": 2, "softmax_cross_entropy": 2,
                    "running": 3, "batch_norm": 3,
                    "softmax_cross_entropy_gradient": 3}


def _graph(record, names, tensors, dtype):
    """Inputs and outputs of the graph that the nodes describe."""
    parameters = {f"{name}.{p.name}": p.tensor for layer, name in names.items() for p in layer.parameters}
    nodes, keys = [], {}
    for i, r in enumerate(field(record, "nodes", list)):
        op, attrs = field(r, "op", str), field(r, "attrs", dict) if type(r) is dict and "attrs" in r else {}
        numbers = field(r, "inputs", list) if "inputs" in r else []
        inputs = [nodes[_whole(k, 0, i, f"an input of node {i}")] for k in numbers]
        where = f"node {i}, {op[:80]!r}"
        if op not in OPERATIONS:
            raise ValueError(f"{where}: no such operation is known here")
        try:
            if OPERATIONS[op].kind == "source":
                nodes.append(_source(op, attrs, parameters, tensors, dtype))
            else:
                nodes.append(_node(op, inputs, attrs, keys))
        except (ValueError, TypeError, IndexError, OverflowError) as e:
            raise ValueError(f"{where}: {e}") from e
    ends = [[nodes[_whole(k, 0, len(nodes), f"'{key}'")] for k in field(record, key, list)] for key in ("inputs", "outputs")]
    if not all(ends) or len(set(ends[0])) != len(ends[0]):
        raise ValueError("a network has inputs, all different, and outputs")
    return ends


def _source(op, attrs, parameters, tensors, dtype):
    if op == "input":
        return _input(_sizes(field(attrs, "shape", list), "'shape'", batch=True), field(attrs, "dtype", str),
                      field(attrs, "name", str, type(None)))
    if op == "parameter":
        name = field(attrs, "name", str)
        if name not in parameters:
            raise ValueError(f"no layer has the parameter {name[:80]!r}")
        return parameters[name]
    if op == "constant":
        return constant(number_of(attrs.get("value"), "'value'"))
    if op == "scalar" and attrs.get("key") == "rows":
        return scalar("rows")
    if op == "data":
        name = field(attrs, "tensor", str)
        if name not in tensors or tensors[name].dtype.name not in (dtype, "int32"):
            raise ValueError(f"the file has no tensor {name[:80]!r} of {dtype} or int32")
        a = tensors[name]
        return data(a, name=name)
    raise ValueError("it cannot stand in a file")


def _node(op, inputs, attrs, keys) -> Tensor:
    operation, readers = OPERATIONS[op], dict(_ATTRIBUTES.get(op, {}))
    if op == "strided" and attrs.get("what") == "transpose":
        readers["axes"] = _integers
    attrs = {**_ADDED.get(op, {}), **attrs}
    if op == "standardize" and "axis" in attrs:  # of older files
        attrs["axes"] = [attrs.pop("axis")]
    if attrs.keys() != readers.keys():
        raise ValueError(f"its attributes must be {', '.join(readers) or 'none'}")
    attrs = {k: readers[k](v, f"{k!r}") for k, v in attrs.items()}
    arity = _ARITY[operation.code] if operation.kind == "map" else _ARITY_OF_OTHERS.get(op, 1)
    if (attrs.get("bag") and len(inputs) == 3) or (op in ("standardize", "batch_norm") and len(inputs) == arity + 1):
        arity += 1  # with weights, or a gain
    if len(inputs) != arity if op != "concatenate" else not inputs:
        raise ValueError(f"it takes {arity} inputs, not {len(inputs)}")
    axes = (attrs.get("axis", 0), attrs.get("start", 0), attrs.get("stop", 1) - 1)
    if ("axis" in attrs or op == "reduce") and (max(axes) >= inputs[0].ndim or axes[1] > axes[2]):
        raise ValueError("it names an axis that its input does not have")
    if op in ("take", "scatter_rows") and attrs["padding"] >= (attrs["rows"] if op == "scatter_rows" else (*inputs[0].shape, 0)[0]):
        raise ValueError("'padding' is no row")
    if op == "variance" and not all(0 <= a < inputs[0].ndim for a in attrs["axes"]):
        raise ValueError("'axes' names an axis that its input does not have")
    if op == "dropout" and not 0 <= attrs["rate"] < 1:
        raise ValueError("'rate' must be in [0, 1)")
    if op == "strided":
        _check_strides(inputs[0].shape, attrs["shape"], attrs)
        if attrs["what"] == "transpose" and (sorted(attrs["axes"]) != list(range(inputs[0].ndim)) or attrs["strides"] != tuple(
                contiguous(inputs[0].shape)[a] for a in attrs["axes"])):
            raise ValueError("'axes' and 'strides' disagree")
    if op == "pad":
        _check_strides(attrs["shape"], inputs[0].shape, attrs)
    if "key" in attrs:
        attrs["key"] = keys.setdefault(attrs["key"], object())
    return apply(op, inputs, attrs)


def _check_strides(outer, inner, attrs):
    """A window of shape `inner` lies within an array of shape `outer`, and their batches are the same."""
    strides, offset = attrs["strides"], attrs["offset"]
    if len(strides) != len(inner):
        raise ValueError("'shape' and 'strides' have different lengths")
    if inner[:1] == (BATCH,):  # row i of one is row i of the other, or the one row of the outer repeated
        if strides[0] != (-dim_size(outer) if outer[:1] == (BATCH,) else 0):
            raise ValueError("'strides' does not keep the batch")
        inner, strides = inner[1:], strides[1:]
    elif outer[:1] == (BATCH,):
        raise ValueError("'shape' loses the batch")
    size = abs(dim_size(outer))
    low = offset + sum((d - 1) * s for d, s in zip(inner, strides) if s < 0)
    high = offset + sum((d - 1) * s for d, s in zip(inner, strides) if s > 0)
    if 0 not in inner and not 0 <= low <= high < size:
        raise ValueError("'strides' and 'offset' leave the array")
