"""Sparse gradients: of a table of which a step touches a few rows, such as the vectors of the words in a batch.

There is no special tensor for them. The gradient of ``take`` and ``bag`` is ``scatter_rows(rows, ids)``; where the gradient of a
table is one of these or a sum of them, it is taken apart again, and (ids, rows) is what goes on: `row_sum`. Nothing of the
table's size is made then. Where a table is also used in another way (a product with its transpose, say) its gradient is
dense, like any other.

The optimiser's own ``update(p, g, state)`` is written over *rows*, N of them where N ids stand in the batch: row i of `g` is the
sum of the gradients at the i-th id where that stands for the first time, and the same row of `p` and of `state` is the one of
that id. The program has one instruction for it, ROW_UPDATE, behind everything else in it. So every optimiser has a
"lazy" form, as SparseAdam is one of Adam: rows that no id names keep their bits, and so do their moments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .graph import BATCH, Operation, Tensor, ancestors, apply, common_dtype, constant, data, dim_size, format_shape, register
from .ops import (NO_PADDING, add, broadcast_to, concatenate, mul, ne, reshape, row_attrs, scatter_infer, stop_gradient,
                  take)


def _first_infer(inputs, attrs):
    (ids,) = inputs
    if ids.dtype != "int32":
        raise TypeError(f"first: row numbers must be int32, got {ids.dtype}")
    return ids.shape, "int32"


def _summed_infer(inputs, attrs):
    shape, dtype = scatter_infer(inputs, {**attrs, "rows": 0})
    return inputs[1].shape + shape[1:], dtype


# first: the position at which an id stands for the first time; -1 for padding
register(Operation("first", "first", _first_infer))
# coalesce(rows, first): sums of rows at those positions, 0 elsewhere
register(Operation("coalesce", "scatter", _summed_infer))
# row_update(rows, ids): the same numbers, within one ROW_UPDATE; stored_rows(row_update): the stored rows that belong to them
register(Operation("row_update", "row_update", _summed_infer))
register(Operation("stored_rows", "stored_rows", lambda inputs, attrs: (inputs[0].shape, common_dtype("stored_rows", inputs))))


@dataclass(eq=False)
class RowSum:
    """The gradient of a table of `limit` rows: ``rows`` summed at ``ids``.

    Attributes
    ----------
    rows : Tensor
        One for each id, or for each bag of ids: what `scatter_rows` takes.
    ids : Tensor, int32
    weights : tuple of Tensor
        One, or empty.
    bag, mean : bool
    padding : int
    limit : int
    """

    rows: Tensor
    ids: Tensor
    weights: tuple[Tensor, ...]
    bag: bool
    mean: bool
    padding: int
    limit: int

    @classmethod
    def of(cls, node: Tensor, rows: Tensor, limit: int) -> RowSum:
        """What a "take" or "scatter_rows" stands for, with these rows."""
        _, ids, *weights = node.inputs
        return cls(rows, ids, tuple(weights), node.attrs["bag"], node.attrs["mean"], node.attrs["padding"], limit)

    @property
    def _attrs(self):
        return {"bag": self.bag, "mean": self.mean, "padding": self.padding}

    def first(self) -> Tensor:
        """Where each id stands for the first time (-1: padding), in the shape of `ids`."""
        return apply("first", [self.ids], {"padding": self.padding})

    def coalesced(self) -> Tensor:
        """The sums, (*ids.shape, ...): each at the first position of its id, zeros elsewhere. The norm is the gradient's."""
        return apply("coalesce", [self.rows, self.first(), *self.weights], {**self._attrs, "padding": -1})

    def update(self) -> Tensor:
        """The sums as an optimiser's update reads them."""
        return apply("row_update", [self.rows, self.ids, *self.weights], {**self._attrs, "limit": self.limit})

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a run has to give for `RowGradient.picked`."""
        return self.ids, self.first(), self.coalesced()

    def touched(self, table: Tensor) -> Tensor:
        """The rows of the table at the first position of each id, zeros elsewhere: for penalties on what a step touches."""
        one = broadcast_to(constant(1.0), self.ids.shape + (1,) * (table.ndim - 1))
        count = RowSum(one, self.ids, (), False, False, self.padding, self.limit).coalesced()
        padding = None if self.padding == NO_PADDING else self.padding
        return mul(take(table, self.ids, padding), stop_gradient(ne(count, 0.0)))


def stored(update: Tensor, space: str, offset: int, name: str) -> Tensor:
    """The rows of a stored array that belong to those of ``RowSum.update``: to read, and to assign new ones to."""
    return apply("stored_rows", [update], {"space": space, "offset": offset}, name)


def scattered(rows: Tensor, ids: Tensor, limit: int) -> Tensor:
    """The gradient of a table from rows and their numbers, -1 for none."""
    return apply("scatter_rows", [rows, ids], {**row_attrs(padding=-1), "rows": limit})


# ---------------------------------------------------------------- from dense to sparse

def row_sum(gradient: Tensor) -> RowSum | None:
    """A table's gradient as (ids, rows), where it is a sum of `scatter_rows`."""
    parts, stack = [], [gradient]
    while stack:
        t = stack.pop()
        if t.op.name == "add" and t.inputs[0].shape == t.inputs[1].shape == t.shape:
            stack += t.inputs[::-1]
        elif t.op.name == "scatter_rows":
            parts.append(RowSum.of(t, t.inputs[0], t.shape[0]))
        else:
            return None
    return _joined(parts)


def tables(outputs, sources) -> dict[Tensor, RowSum]:
    """Those of some sources that `outputs` use by `take` and `bag` alone, and so that their gradient can be sparse; `rows` are
    what was taken."""
    users: dict[Tensor, list] = {s: [] for s in sources}
    for t in ancestors(outputs):
        for i, x in enumerate(t.inputs):
            if x in users:
                users[x].append(t if t.op.name == "take" and i == 0 else None)
    found = {s: _joined([RowSum.of(t, t, s.shape[0]) for t in nodes]) for s, nodes in users.items()
             if nodes and None not in nodes}
    return {s: r for s, r in found.items() if r is not None}


def _joined(parts) -> RowSum | None:
    """One for all of them; None where there is none: one with the batch and one without, different paddings, sums and means."""
    merged: dict[tuple, RowSum] = {}
    for p in parts:
        key = (p.ids, p.weights, p.bag, p.mean, p.padding)
        merged[key] = replace(p, rows=add(merged[key].rows, p.rows)) if key in merged else p
    parts = [p for p in merged.values() if dim_size(p.ids.shape)] or list(merged.values())[:1]
    if len(parts) == 1:
        return parts[0]
    leads = {p.ids.shape[:1] == (BATCH,) for p in parts}
    paddings = {p.padding for p in parts}
    means = {p.mean for p in parts if p.bag}
    weighted = any(p.weights for p in parts)
    if len(leads) > 1 or len(paddings) > 1 or len(means) > 1 or (weighted and means == {True}):
        return None
    lead, padding = BATCH if leads == {True} else 1, paddings.pop()
    words = max(p.ids.shape[-1] if p.bag else 1 for p in parts)
    if padding == NO_PADDING and any((p.ids.shape[-1] if p.bag else 1) < words for p in parts):
        padding = -1
    ids, rows, weights = [], [], []
    for p in parts:  # as (lead, count, words), the shorter ones filled with padding
        own = p.ids.shape[-1] if p.bag else 1
        count = dim_size(p.ids.shape) // (lead * own)
        width = p.rows.shape[p.ids.ndim - p.bag:]
        rows.append(reshape(p.rows, (lead, count, *width)))
        fill = (lead, count, words - own)
        ids.append(_filled(reshape(p.ids, (lead, count, own)), data(np.full((1, 1, 1), padding, "int32")), fill))
        if weighted:
            w = reshape(p.weights[0], (lead, count, own)) if p.weights else broadcast_to(constant(1.0), (lead, count, own))
            weights.append(_filled(w, constant(0.0), fill))
    all_ids, all_rows = concatenate(ids, 1), concatenate(rows, 1)
    if words == 1 and not weighted:
        return RowSum(all_rows, reshape(all_ids, all_ids.shape[:2]), (), False, False, padding, parts[0].limit)
    all_weights = (concatenate(weights, 1),) if weighted else ()
    return RowSum(all_rows, all_ids, all_weights, True, means == {True}, padding, parts[0].limit)


def _filled(x, value, shape):
    return concatenate([x, broadcast_to(value, shape)], 2) if shape[2] else x


# ---------------------------------------------------------------- in the caller's hands

class RowGradient:
    """The gradient of a table of which a few rows are not zero.

    Attributes
    ----------
    ids : ndarray (k,) of int32
        Ascending, each once.
    rows : ndarray (k, ...)
        The gradient at each of them.
    shape : tuple of int
        Of the table. ``np.asarray(gradient)`` and `dense` give an array of it.
    """

    def __init__(self, ids, rows, shape):
        self.ids, self.rows, self.shape = ids, rows, tuple(shape)

    @classmethod
    def summed(cls, ids, rows, shape) -> RowGradient:
        """From ids of which some may stand several times; their rows are summed in order. Ids below 0 are left out."""
        keep = ids >= 0
        unique, place = np.unique(ids[keep], return_inverse=True)
        total = np.zeros((len(unique), *shape[1:]), rows.dtype)
        np.add.at(total, place.reshape(-1), rows[keep])
        return cls(unique.astype("int32"), total, shape)

    @classmethod
    def picked(cls, ids, first, rows, shape) -> RowGradient:
        """From the values of ``RowSum.parts``."""
        ids, first, rows = ids.reshape(-1), first.reshape(-1), rows.reshape(-1, *shape[1:])
        keep = np.flatnonzero(first == np.arange(len(first)))
        keep = keep[np.argsort(ids[keep])]
        return cls(ids[keep], rows[keep], shape)

    @property
    def dtype(self):
        return self.rows.dtype

    def __add__(self, other):
        if not isinstance(other, RowGradient) or other.shape != self.shape:
            return NotImplemented
        return RowGradient.summed(np.concatenate([self.ids, other.ids]), np.concatenate([self.rows, other.rows]), self.shape)

    def dense(self) -> np.ndarray:
        """The gradient as an array of the table's shape."""
        a = np.zeros(self.shape, self.dtype)
        a[self.ids] = self.rows
        return a

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("a RowGradient has no array of the table's shape to share: copy=False cannot be met")
        return self.dense().astype(self.dtype if dtype is None else dtype, copy=False)

    def __repr__(self):
        return f"<RowGradient of {format_shape(self.shape)} {self.dtype}, {len(self.ids)} rows>"
