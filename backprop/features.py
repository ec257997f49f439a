"""Tables to matrices: what the columns of a CSV file become in front of a network, and how that is written down.

A column of numbers becomes one feature, standardised; a missing number counts as the column's mean. A column of text becomes a
feature for each of its values, 1 where the row has that value; a missing text is a value like any other, a value that was not
seen in training is 0 throughout. A column of text with more than `MAX_VALUES` values, or with more values than half the rows
(names, remarks), is left out.
"""

import math

import numpy as np

from .data import Standardizer, one_hot

__all__ = ["Features", "Target"]

MAX_VALUES = 100
MAX_CLASSES = 1000
_GUESS = 20  # a target of whole numbers with at most so many values is taken for classes


class Features:
    """The columns that a model reads.

    Attributes
    ----------
    columns : list of dict
        ``{"name", "mean", "scale"}`` for numbers, ``{"name", "values"}`` for text.
    left_out : list of str
        Columns of text that have too many values.
    """

    def __init__(self, columns, left_out=()):
        self.columns, self.left_out = list(columns), list(left_out)
        if not self.columns:
            raise ValueError("no column is left that can be learned from")

    @classmethod
    def fit(cls, table, rows):
        """The features of a table, measured on some of its rows."""
        columns, left_out = [], []
        for name in table.names:
            if table.is_numeric(name):
                column = _finite(table, name)[rows]
                known = column[~np.isnan(column)]
                s = Standardizer.fit((known if known.size else np.zeros(1)).reshape(-1, 1))
                columns.append({"name": name, "mean": float(s.mean[0]), "scale": float(s.scale[0])})
            else:
                cells = table[name]
                values = sorted({cells[i] for i in rows})
                if len(values) > min(MAX_VALUES, max(2, len(rows) // 2)):
                    left_out.append(name)
                else:
                    columns.append({"name": name, "values": values})
        return cls(columns, left_out)

    @property
    def width(self):
        return sum(len(c["values"]) if "values" in c else 1 for c in self.columns)

    def transform(self, table):
        """The matrix of a table, float64 (rows, width), and how many texts were not known, by column."""
        missing = [c["name"] for c in self.columns if c["name"] not in table.names]
        if missing:
            raise ValueError(f"no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, table.names))}")
        parts, unknown = [], {}
        for c in self.columns:
            if "values" in c:
                number = {v: i for i, v in enumerate(c["values"])}
                ids = np.array([number.get(cell, len(number)) for cell in _texts(table, c["name"], number)])
                if (n := int((ids == len(number)).sum())):
                    unknown[c["name"]] = n
                parts.append(one_hot(ids, len(number) + 1, np.float64)[:, :-1])
            else:
                column = _finite(table, c["name"])
                parts.append((np.where(np.isnan(column), c["mean"], column).reshape(-1, 1) - c["mean"]) / c["scale"])
        return np.concatenate(parts, axis=1), unknown

    @classmethod
    def from_config(cls, config):
        """What ``columns`` was; ValueError where it cannot have been."""
        if type(config) is not list:
            raise ValueError("its columns are no list")
        for c in config:
            texts = type(c) is dict and c.keys() == {"name", "values"} and type(c["values"]) is list and all(
                type(v) is str for v in c["values"])
            numbers = type(c) is dict and c.keys() == {"name", "mean", "scale"} and _is_float(c["mean"]) and _is_float(
                c["scale"]) and c["scale"] > 0
            if not (texts or numbers) or type(c["name"]) is not str:
                raise ValueError("a column of it is neither of numbers nor of text")
        return cls(config)


class Target:
    """What a model predicts: one of some classes, or a number.

    Attributes
    ----------
    name : str
    classes : list of str, or None
    mean, scale : float
        Of a number; the network predicts ``(number - mean) / scale``.
    """

    def __init__(self, name, classes=None, mean=0.0, scale=1.0):
        self.name, self.classes, self.mean, self.scale = name, classes, mean, scale

    @classmethod
    def find(cls, table, name, task="auto"):
        """The target in a column, and its values: class numbers (int64), or numbers. Every row must have one."""
        if table.is_numeric(name):
            column = _finite(table, name)
            values = np.unique(column)
            if task == "auto":
                whole = (values == np.rint(values)).all() and len(values) <= min(_GUESS, max(2, len(column) // 2))
                task = "classification" if whole else "regression"
            if task == "regression":
                return cls(name), column
            texts, ids = [f"{v:.17g}" for v in values], np.searchsorted(values, column)
        else:
            if task == "regression":
                line, cell = next((n, c) for n, c in zip(table.lines, table[name]) if not _is_number(c))
                raise ValueError(f"line {line}, column {name!r}: {cell!r} is not a number, as regression needs")
            texts = sorted(set(table[name]))
            number = {v: i for i, v in enumerate(texts)}
            ids = np.array([number[cell] for cell in table[name]])
        if len(texts) < 2:
            raise ValueError(f"column {name!r} has the same value in every row: nothing can be learned")
        if len(texts) > min(MAX_CLASSES, len(ids) - 1):
            raise ValueError(f"column {name!r} has {len(texts)} different values in {len(ids)} rows: too many for classes")
        return cls(name, texts), ids

    def to_config(self):
        return {"name": self.name, "classes": self.classes, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_config(cls, config):
        if type(config) is not dict or config.keys() != {"name", "classes", "mean", "scale"}:
            raise ValueError("its target is not described")
        classes = config["classes"]
        if type(config["name"]) is not str or not (_is_float(config["mean"]) and _is_float(config["scale"]) and config["scale"] > 0):
            raise ValueError("the description of its target is malformed")
        if classes is not None and (type(classes) is not list or len(classes) < 2 or not all(type(v) is str for v in classes)):
            raise ValueError("its classes are no list of texts")
        return cls(**config)


def _is_float(v):
    return type(v) in (int, float) and math.isfinite(v)


def _is_number(cell):
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _finite(table, name):
    """A column of numbers, some of which may be missing (NaN), none infinite."""
    column = table.matrix([name])[:, 0]
    if np.isinf(column).any():
        i = int(np.isinf(column).argmax())
        raise ValueError(f"line {table.lines[i]}, column {name!r}: {column[i]:g} is not a finite number")
    return column


def _texts(table, name, known):
    """The cells of a column of text; where all of them happen to be numbers here, the known text of equal value."""
    if not table.is_numeric(name):
        return table[name]
    by_value = {float(v): v for v in known if _is_number(v)}
    return ["" if math.isnan(v) else by_value.get(v, f"{v:g}") for v in table[name].tolist()]
