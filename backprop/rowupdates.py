"""Updates of rows of tables, as groups of the lowering: each becomes one ROW_UPDATE behind everything else in the program.

Its anchor is the "row_update" node of ``sparse.py``, the sums of the gradients of equal ids; its members are the elementwise
nodes that rest on it or on the stored rows. Both lie in blocks that stay in L1 and are never in the arena. What the members read
beside (the learning rate, the factor of a clipped norm) is the same for every row, and is there before.
"""

from __future__ import annotations

from .graph import Tensor, ancestors, apply, dim_size, format_shape
from .plan import Group, root


def row_updates(assigns) -> list[Group]:
    """A group for each sum of gradients, in order, of assignments to stored rows.

    Raises
    ------
    ValueError
        An update is not elementwise.
    """
    groups: dict[Tensor, Group] = {}
    written: set[Tensor] = set()
    for a in assigns:
        value = a.value
        if value.op.kind != "map" or value in written:
            value = apply("copy", [value])
        if value.shape != a.target.shape:
            raise ValueError(f"the new rows of {a.target.name} have shape {format_shape(value.shape)}, the rows "
                             f"{format_shape(a.target.shape)}")
        written.add(value)
        g = groups.setdefault(a.target.inputs[0], Group(0, anchor=a.target.inputs[0]))
        g.writes[a.target] = value
    for g in groups.values():
        inside = {g.anchor, *g.writes, *g.writes.values()}
        for t in ancestors([*g.writes, *g.writes.values()]):
            if t in inside or any(x in inside for x in t.inputs):
                inside.add(t)
                if t.op.kind == "stored_rows":
                    g.tables.append(t)
                elif t.op.kind == "map":
                    g.members.append(t)
                elif t is not g.anchor:
                    raise ValueError(f"the update of a table's rows must be elementwise, it has {t!r}; an optimiser that looks "
                                     "at a whole parameter cannot train an embedding")
        for t in g.members:
            for x in t.inputs:
                if root(x) not in inside and not _same_for_each(g, x):
                    raise ValueError(f"the update of rows {format_shape(g.anchor.shape)} reads {x!r}: beside the rows it may "
                                     "read what is the same for each of them")
    return list(groups.values())


def beside(g) -> list[Tensor]:
    """What a group reads that is not its own: made in groups before it."""
    inside = {g.anchor, *g.tables, *g.members}
    return [*g.anchor.inputs, *(x for t in g.members for x in t.inputs if root(x) not in inside)]


def _same_for_each(g, x):
    """Whether an operand that is not the group's own is a number, or a row."""
    width = g.anchor.shape[g.anchor.inputs[1].ndim:]
    padded = (1,) * (len(g.anchor.shape) - x.ndim) + tuple(x.shape)
    return dim_size(x.shape) == 1 or (padded[len(padded) - len(width):] == width and dim_size(padded) == dim_size(width))
