"""The second schedule: narrow networks on tall batches run block by block of rows, through all layers and back.

Layer by layer, each instruction passes over all rows before the next starts, and the activations of a tall batch are read from
memory each time. Where the layers are narrow it is better to take 256 rows through all of them while they are in cache; and threads
meet once a step, not once an instruction. The groups of a program part in three:

- *before*: what rests on no row block and is not row by row itself, such as the sum of the sample weights;
- *inside*: groups that treat rows independently, and the sums over the rows (X^T delta, columns of delta), of which
  each block makes a part;
- *after*: everything else, in its order. There the parts are summed, in the order of the blocks, and what hangs on a sum
  (the optimiser's update) runs: behind the check of the loss, as in the other schedule.

A row block is a k block of the matrix product and a block of the column sums: both schedules give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .graph import BATCH, Tensor, dim_size
from .plan import ROWS, Group, root

# Chosen where it was measured to pay (1.1 to 1.2 times on one thread at 10,000 rows, nothing at 1,000, more with threads): there are
# blocks to share, the weights stay in half of the smallest L2 while the rows pass by, and the rows do not.
LEAST_ROWS = 3 * ROWS + 1
_WEIGHT_BYTES = 128 << 10
_ROW_BYTES = 256 << 10


@dataclass(eq=False)
class RowBlocks:
    """The groups of a program, parted; `sums` are those of `inside` that sum over the rows, and come again in `after`.

    `private` are the values that live within a block only: the first and last group of `inside` that use them."""

    before: list[Group] = field(default_factory=list)
    inside: list[Group] = field(default_factory=list)
    after: list[Group] = field(default_factory=list)
    sums: set[Group] = field(default_factory=set)
    private: dict[Tensor, tuple[int, int]] = field(default_factory=dict)


def part(groups, homes, checks, late, barrier) -> RowBlocks | None:
    """Part the groups of a program; None where there is nothing to run block by block.

    Parameters
    ----------
    groups : list of Group
    homes : dict of Tensor to Assign
    checks : list of Tensor
    late : set of Tensor
        Sources that are known only behind `barrier`.
    barrier : Group or None
    """
    parts = RowBlocks()
    where: dict[Tensor, list[Group]] = {}  # the list that the group of a tensor has gone to
    behind = False
    for g in groups:
        behind |= g is barrier
        inputs = {x for _, x in g.reads()}
        early = {x for t, x in g.reads() if g.sums(t)} if _is_sum(g) else inputs
        ready = not behind and not any(x in late or where.get(x) is parts.after for x in early)
        writes = bool(g.tables) or any(t in homes and homes[t].target is not None for t in g.members)
        if ready and _is_sum(g):
            parts.inside.append(g)
            parts.sums.add(g)
            to = parts.after
        elif ready and not writes and _by_rows(g):
            to = parts.inside
        elif ready and not writes and not any(where.get(x) is parts.inside for x in inputs):
            to = parts.before
        else:
            to = parts.after
        to.append(g)
        where |= dict.fromkeys(g.made(), to)
        if g in parts.sums:
            where |= dict.fromkeys(g.before, parts.inside)
    if all(g in parts.sums for g in parts.inside):
        return None
    _find_private(parts, where, homes, checks)
    return parts


def worth_it(parts: RowBlocks, capacity: int, item: int) -> bool:
    """Whether row blocks are the faster schedule, from sizes alone."""
    weights = sum(dim_size(x.shape) for g in parts.inside if g not in parts.sums and g.anchor is not None
                  and g.anchor.op.kind == "matmul" for x in g.anchor.inputs[1:])
    sums = sum(dim_size(g.anchor.shape) for g in parts.sums)
    width = -sum(dim_size(t.shape) for t in parts.private)  # numbers a row
    return (capacity >= LEAST_ROWS and max(weights, sums) * item <= _WEIGHT_BYTES
            and width * item * capacity >= _ROW_BYTES and sums <= ROWS * width)  # the parts take no more room than was saved


def _by_rows(g):
    """Whether row i of what `g` makes is made of row i of what it reads."""
    if any(t.op.code == "random" for t in g.members) and g.rows != BATCH:
        return False
    a = g.anchor
    if a is None or a.op.kind == "reduce":
        if g.rows is None or not ((g.rows < 0 <= g.cols) or (g.rows == 1 and g.cols < 0)):
            return False
        return a is None or (dim_size(a.inputs[0].shape[:a.attrs["start"]]) < 0)
    if a.op.kind == "matmul":
        return a.shape[0] < 0 and not a.attrs["ta"]
    if a.op.kind == "gather":  # row numbers are looked at before the first block: they must be there
        return dim_size(a.inputs[1].shape) < 0 <= a.inputs[0].shape[0] and root(a.inputs[1]).op.kind == "source"
    if a.op.kind == "softmax_ce":
        return a.inputs[0].shape[0] < 0 and (a.inputs[1].dtype != "int32" or root(a.inputs[1]).op.kind == "source")
    if a.op.kind in ("strided", "pad", "concatenate"):
        return dim_size(a.shape) < 0 and a.shape[0] < 0 and (a.op.kind == "strided" or all(x.shape[0] == a.shape[0] for x in a.inputs))
    return False


def _is_sum(g):
    """Whether `g` is a sum over all rows that row blocks can make in parts."""
    a = g.anchor
    if a is None or any(d < 0 for d in a.shape):
        return False
    if a.op.kind == "matmul":
        return a.attrs["ta"] and not a.attrs["tb"] and a.inputs[0].shape[0] == BATCH
    return (a.op.kind == "reduce" and a.attrs["kind"] == "sum" and a.attrs["start"] == 0
            and dim_size(a.inputs[0].shape[:a.attrs["stop"]]) == BATCH and dim_size(a.shape) > 1)


def _find_private(parts, where, homes, checks):
    order = {g: i for i, g in enumerate(parts.inside)}
    made = {t: order[g] for g in parts.inside for t in (g.before if g in parts.sums else g.made())}
    last: dict[Tensor, int] = {}
    outside = {root(t) for t in checks} | set(homes)
    for g in parts.before + parts.after + parts.inside:
        within = g in order
        for t, x in g.reads():
            if not within or (g in parts.sums and not g.sums(t)):
                outside.add(x)
            elif x in made:
                last[x] = max(last.get(x, 0), order[g])
    parts.private = {t: (made[t], end) for t, end in last.items() if t not in outside and t.dtype != "int32"}
