"""From a graph to a program: order, fuse, place in memory, emit.

Every node that is not elementwise opens a *group*, which becomes one instruction. An elementwise node joins the group of the
latest of its inputs where that group runs over the same region; so chains hang on the matrix product or the reduction
beside them, and an optimiser's update hangs on the product that makes its gradient; of a large product it is a map right
behind it, for three arrays stream well in whole rows, not in the pieces of rows that such a product hands over. Groups run in the
order of their position, and a node joins only where all it reads is made at or before that position: no cycle can arise.

A second pass *sinks* elementwise nodes that only one later group reads, where that saves a buffer: the derivative
``1 - y^2`` is then computed beside the product of the backward pass, and only `y` is kept.

A third makes what a reduction reads right before it, piece by piece, where that saves a buffer too: the squares of a norm, a loss
of each number, the products that a normalisation sums are then in no memory.

An assignment to stored parameters runs at or after the last group that reads them; if an instruction beside it still reads
the old value elsewhere, it becomes a map of its own. What is fused changes no rounding: fused and unfused give equal bits.

Narrow networks on tall batches do not run layer by layer but in row blocks: see ``rowblocks.py``. That, too, changes no bit.
"""

from __future__ import annotations

import copy
import heapq
import math
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .graph import Operation, Tensor, ancestors, apply, contiguous, dim_size, register
from .ops import broadcast_to
from .plan import FULL, Group, Plan, emit, operand_kind, reduced_dims, root
from .rowblocks import LEAST_ROWS, part, worth_it
from .rowupdates import beside, row_updates
from .simplify import simplify

register(Operation("copy", "map", lambda inputs, attrs: (inputs[0].shape, inputs[0].dtype), code="copy"))


@dataclass(eq=False)
class Assign:
    """`value` is written to `size` elements at `offset` of the space named `space`."""

    space: str
    offset: int
    value: Tensor
    target: Tensor | None = None  # the source that reads the same place, if any


@dataclass
class Storage:
    """A buffer outside the arena: `elements` is a dim (negative: so many for each row)."""

    elements: int
    dtype: str | None
    writable: bool


def lower(outputs, dtype: str, *, storage: dict[str, Storage] | None = None, assigns=(), checks=(), late=(),
          capacity: int = 1, fuse: bool = True, row_blocks: bool | None = None, products: str | None = None) -> Plan:
    """Lower `outputs` and `assigns` to a program.

    Parameters
    ----------
    outputs : sequence of Tensor
        Each gets a space ``"output 0"``, ``"output 1"`` ... to be written to.
    dtype : {"float32", "float64"}
        Type of every real number of the program.
    storage : dict of str to Storage
        Named spaces that parameters and states live in (``attrs["space"]``, ``attrs["offset"]`` of their sources).
    assigns : sequence of Assign
    checks : sequence of Tensor
        Numbers that must be finite before any assignment to a place that the program also reads.
    late : sequence of Tensor or str
        Sources (and scalars, by name) that are known, or wanted, only in the second half of the program; ``plan.mark`` is the
        instruction where it starts.
    capacity : int
        Most rows of a run.
    fuse : bool
        False gives every node a group of its own.
    row_blocks : bool, optional
        Whether what can runs block by block of rows rather than layer by layer: the same bits. None: where that is faster.
    products : {None, "bfloat16"}
        "bfloat16": matrix products take their operands, of float32, rounded to that; sums stay float32. There are no row
        blocks then, for they would part the sums.

    Returns
    -------
    Plan
    """
    outputs = list(outputs)
    assigns = list(assigns)
    stored = [a.target for a in assigns if a.target is not None]
    results = iter(simplify([*outputs, *checks, *(a.value for a in assigns), *stored]))
    targets = [Assign(f"output {i}", 0, next(results)) for i in range(len(outputs))]
    checks = [next(results) for _ in checks]
    targets += [Assign(a.space, a.offset, next(results), a.target) for a in assigns]
    stored = dict(zip(stored, results))
    for a in targets:
        a.target = stored.get(a.target)
    updates = row_updates([a for a in targets if a.target is not None and a.target.op.kind == "stored_rows"])
    targets = [a for a in targets if a.target is None or a.target.op.kind != "stored_rows"]
    wanted = [*checks, *(x for g in updates for x in beside(g))]

    homes: dict[Tensor, Assign] = {}  # where a node is written that has a place of its own
    for a in targets:
        if a.value.op.kind in ("source", "view") or a.value in homes or (a.target is not None and a.value.op.kind != "map"):
            a.value = _copy(a.value)
        homes[a.value] = a

    nodes, merged = _order([*homes, *wanted], homes, late, checks)
    if nodes is None:  # something reads a stored value and also the value that replaces it: replace it by a copy, last
        for t in [t for t, a in homes.items() if a.target is not None]:
            a = homes.pop(t)
            a.value = apply("copy", [t])
            homes[a.value] = a
        nodes, merged = _order([*homes, *wanted], homes, late, checks)
    nodes = _expressible(nodes)
    item = np.dtype(dtype).itemsize
    builder = _Grouping(nodes, homes, checks, set(late), merged, fuse, updates, capacity, item, products)
    blocks = None
    if not products and (row_blocks or (row_blocks is None and capacity >= LEAST_ROWS)):
        blocks = part(builder.groups, homes, checks, builder.late, builder.barrier)
        if blocks is not None and row_blocks is None and not worth_it(blocks, capacity, item):
            blocks = None
    return emit(builder.groups, homes, checks, outputs, dtype, storage or {}, capacity, builder.barrier, blocks, products)


class Programs:
    """`lower` for many graphs: those of the same structure have one program.

    The structure is all that `lower` looks at. Sources are told apart by their places, one that holds an array is itself part of
    it; numbers that are known only when the program runs, as learning rates, are not.
    """

    def __init__(self):
        self._kept, self._lock = {}, threading.Lock()

    def __call__(self, outputs, dtype, **options) -> Plan:
        key, nodes = _structure(outputs, dtype, **options)
        with self._lock:  # who comes while another lowers the same graph waits for that
            if key not in self._kept:
                plan = lower(outputs, dtype, **options)
                self._kept[key] = plan, [nodes.index(s) for s in plan.inputs]
            plan, places = self._kept[key]
        plan = copy.copy(plan)
        plan.inputs, plan.outputs = [nodes[i] for i in places], list(outputs)
        return plan


def _structure(outputs, dtype, *, storage=None, assigns=(), checks=(), late=(), **settings):
    """The structure of a graph, a key, and its nodes in order."""
    ends = [*outputs, *checks, *(t for a in assigns for t in (a.value, a.target) if t is not None)]
    nodes = ancestors(ends)
    index, draws, key = {t: i for i, t in enumerate(nodes)}, {}, [dtype]
    for t in nodes:
        attrs = [(k, draws.setdefault(v, len(draws)) if k == "key" and t.op.name != "scalar" else
                  repr(v) if isinstance(v, (float, tuple)) else v) for k, v in sorted(t.attrs.items())]  # repr: 0.0 == -0.0
        key.append((t.op.name, t.shape, t.dtype, *(index[x] for x in t.inputs), *attrs, t if t._array is not None else None))
    key += [tuple(index[t] for t in ends), len(outputs), len(checks), *((a.space, a.offset, a.target is None) for a in assigns)]
    key += [(name, s.elements, s.dtype, s.writable) for name, s in (storage or {}).items()]
    return (*key, tuple(index.get(t, t) for t in late), *sorted(settings.items())), nodes


def _copy(t):
    """A node of the value of `t` that is written to memory. Elementwise programs know no integers."""
    return apply("copy", [t]) if t.dtype != "int32" else apply(
        "strided", [t], {"what": "slice", "shape": t.shape, "strides": tuple(contiguous(t.shape)), "offset": 0})


# ---------------------------------------------------------------- order

def _order(outputs, homes, late, checks):
    """Nodes in the order in which they are placed: by number, but what rests on `late` sources comes after all that does
    not; a cross-entropy waits for the gradient that its backward half multiplies by, so that both halves are one instruction;
    and what replaces a stored value waits for all that read it, for the checks and for the user's operations. None where that
    is impossible."""
    nodes = ancestors(outputs)
    after = set()  # of the mark
    for t in nodes:
        if t in late or (t.op.name == "scalar" and t.attrs["key"] in late) or not after.isdisjoint(t.inputs):
            after.add(t)
    forward = {(t.inputs[0], t.inputs[1]): t for t in nodes if t.op.name == "softmax_cross_entropy"}
    merged = {}
    for t in nodes:
        if t.op.name == "softmax_cross_entropy_gradient":
            f = forward.get(t.inputs[:2])
            if (f is not None and f not in merged and (f in after or t.inputs[2] not in after)
                    and f not in set(ancestors([t.inputs[2]]))):
                merged[f] = t
    waits = {t: list(t.inputs) for t in nodes}
    for f, b in merged.items():
        waits[f].append(b.inputs[2])
        waits[b] = [f]
    writer = {a.target: t for t, a in homes.items() if a.target is not None}
    first = [t for t in nodes if t.op.kind == "call"] + [root(t) for t in checks]
    for t in writer.values():
        waits[t] += [x for x in first if x is not t]  # they may fail: then nothing has changed
    for t in nodes:
        for x in {root(x) for x in t.inputs} if writer and t.op.kind != "view" else ():
            if x in writer and t is not writer[x]:
                waits[writer[x]].append(t)
    users: dict[Tensor, list] = {t: [] for t in nodes}
    missing = {}
    for t in nodes:
        missing[t] = len(waits[t])
        for i in waits[t]:
            users[i].append(t)
    ready = [(t in after, t.number, t) for t in nodes if not waits[t]]
    back = {b: f for f, b in merged.items()}
    heapq.heapify(ready)
    out = []
    while ready:
        *_, t = heapq.heappop(ready)
        out.append(t)
        for u in users[t]:
            missing[u] -= 1
            if not missing[u]:
                if not after.isdisjoint(waits[u]):
                    after.add(u)
                heapq.heappush(ready, (u in after, back[u].number if u in back else u.number, u))
    return (out, merged) if len(out) == len(nodes) else (None, None)


# ---------------------------------------------------------------- regions

def _fits(t, rows, cols):
    """Whether elementwise node `t` can run over the region [rows, cols]."""
    if t.op.code == "random" and t.shape and rows != t.shape[0]:
        return False  # a random number is a function of its row and column
    return _fit(t.shape, tuple([x.shape for x in t.inputs]), rows, cols)


@lru_cache(4096)
def _fit(shape, operands, rows, cols):
    return dim_size(shape) == rows * cols and all(operand_kind(x, shape, rows, cols) is not None for x in operands)


def _region(t):
    """[rows, cols] of a node that runs alone, or None where an operand has to be repeated in memory first."""
    return _region_of(t.shape, tuple([x.shape for x in t.inputs]), t.op.code == "random")


@lru_cache(4096)
def _region_of(shape, operands, random):
    n = len(shape)
    for p in ([1] if random and n else [n - 1, *range(n - 2, -1, -1), n] if n else [0]):
        rows, cols = dim_size(shape[:p]), dim_size(shape[p:])
        if p >= 0 and _fit(shape, operands, rows, cols):
            return rows, cols
    return None


def _expressible(nodes):
    """Give every elementwise node a region: repeat the operands that lie under it in no simple way."""
    new: dict[Tensor, Tensor] = {}
    out = []
    for t in nodes:
        if t.op.kind == "map" and _region(t) is None:
            inputs = []
            for x in t.inputs:
                if dim_size(x.shape) not in (1, dim_size(t.shape)):
                    x = new.setdefault((x, t.shape), broadcast_to(x, t.shape))
                    if x not in out:
                        out.append(x)
                inputs.append(x)
            t.inputs = tuple(inputs)
        out.append(t)
    return out


# ---------------------------------------------------------------- groups

# A product hands whole rows to what hangs on it up to so many columns, or where its second operand is so small (NC and UPDATE_BYTES
# of csrc/matmul.c), else pieces of them. On tiles the operand is rounded up to whole tiles, and rows of up to 512 columns count as
# whole, for updates hang well on their halves too.
_WHOLE_COLUMNS, _WHOLE_BYTES = 512, 4 << 20
_ON_TILES_BYTES, _TILE_LINES = 512 << 10, 32  # WHOLE_BYTES and PAIR of csrc/bfloat16.c
_NEAR = 32  # nodes that float, or sink, together: keeps long chains from being walked again for each of their nodes


class _Grouping:
    def __init__(self, nodes, homes, checks, late, merged, fuse, updates, capacity, item, products):
        self.homes, self.late, self.fuse = homes, late, fuse
        self.capacity, self.item, self.products = capacity, item, products
        self.group: dict[Tensor, Group] = {}
        self.groups: list[Group] = []
        self.readers: dict[Group, dict[Group, None]] = {}  # maps that read what is made in a group
        self.barrier = None
        self.reads: dict[Tensor, tuple[Tensor, ...]] = {}  # whose buffers a node reads, and who reads the buffer of a node
        self.users: dict[Tensor, list[Tensor]] = {}
        for t in [*nodes, *(t for g in updates for t in (g.anchor, *g.members))]:
            if t.op.kind != "view":
                self.reads[t] = tuple([root(x) for x in t.inputs])
                for x in self.reads[t]:
                    self.users.setdefault(x, []).append(t)
        self.mutable = {a.target for a in homes.values() if a.target is not None}
        self.checks = [root(t) for t in checks]
        self.calls = [t for t in nodes if t.op.kind == "call"]
        self.late |= {t for t in nodes if t.op.name == "scalar" and t.attrs["key"] in late}
        self.prologue = Group(0, rows=1, cols=1)  # numbers made of numbers come first
        self.groups.append(self.prologue)
        backward = {b: f for f, b in merged.items()}
        for t in nodes:
            if t.op.kind in ("source", "view"):
                continue
            self._bar_if_late(t)
            if t.op.kind == "map":
                self._place(t)
            elif t.op.kind == "part":
                self.group[t] = self.group[t.inputs[0]]
                self.group[t].partners.append(t)
            elif t in backward:
                self._settle(t.inputs[2:])
                self.group[t] = self.group[backward[t]]
                self.group[t].partners.append(t)
            else:
                self._settle([*t.inputs, *([merged[t].inputs[2]] if t in merged else [])])
                self._open(t)
        for g in updates:
            self._close(g)
        if fuse:
            self._sink()
            for g in self.groups:
                if g.anchor is not None and g.anchor.op.kind == "reduce":
                    self._make_before(g)
        self.groups = [g for g in self.groups if g.anchor is not None or g.members or g is self.barrier]

    def _close(self, g):
        """Put an update of rows behind all groups: everything that reads a table has run then."""
        for t in (g.anchor, *g.members):
            self._bar_if_late(t)
        self._settle(beside(g))
        g.position = len(self.groups)
        self.groups.append(g)
        self.group |= dict.fromkeys((g.anchor, *g.tables, *g.members), g)

    # A source of `late` is made, so to say, by an empty group.
    def _bar_if_late(self, t):
        if self.barrier is None and not self.late.isdisjoint(self.reads[t]):
            self.barrier = Group(len(self.groups))
            self.groups.append(self.barrier)

    def _position(self, t):
        t = root(t)
        if t.op.kind == "source":
            return self.barrier.position if t in self.late and self.barrier else -1
        return self.group[t].position

    def _open(self, t):
        g = Group(len(self.groups), anchor=t)
        if t.op.kind == "matmul":
            g.rows, g.cols = t.shape
        elif t.op.kind == "reduce":
            outer, _, inner = reduced_dims(t)
            g.rows, g.cols = (1, outer) if inner == 1 else (outer, inner)
        self.groups.append(g)
        self.group[t] = g
        if self.fuse and self._hands_over_pieces(g):  # its updates go here: a map that reads what it makes, empty until then
            behind = Group(len(self.groups), rows=g.rows, cols=g.cols)
            self.groups.append(behind)
            self.readers[g] = {behind: None}
        return g

    def _hands_over_pieces(self, g):
        if g.anchor.op.kind != "matmul" or g.cols <= _WHOLE_COLUMNS:
            return False
        sizes = [d if d >= 0 else -d * self.capacity for d in g.anchor.inputs[1].shape]
        if self.products:
            return math.prod(-(-d // _TILE_LINES) * _TILE_LINES for d in sizes) * 2 > _ON_TILES_BYTES
        return math.prod(sizes) * self.item > _WHOLE_BYTES

    def _floats(self, tensors):
        """Elementwise nodes behind `tensors` that have no group yet: made of sources alone, they go where they are used."""
        found, stack = set(), [root(x) for x in tensors]
        while stack:
            x = stack.pop()
            if x.op.kind == "map" and x not in self.group and x not in found:
                found.add(x)
                stack.extend(self.reads[x])
        return sorted(found, key=lambda x: x.number)

    def _settle(self, tensors):
        """Give the floating nodes behind `tensors` groups of their own."""
        for x in self._floats(tensors):
            self._alone(x)

    def _alone(self, t):
        rows, cols = _region(t)
        g = Group(len(self.groups), rows=rows, cols=cols)
        self.groups.append(g)
        self._add(t, g)

    def _add(self, t, g):
        g.members.append(t)
        self.group[t] = g
        for x in self.reads[t]:
            made = self.group.get(x)
            if made is not None and made is not g:
                self.readers.setdefault(made, {})[g] = None

    def _place(self, t):
        home = self.homes.get(t)
        target = home.target if home else None
        floats = self._floats(t.inputs) if self.fuse else []
        if target is not None:
            own = {t, *floats}
            self._settle([u for u in self.users.get(target, []) if u not in own and u.op.kind == "map"])
            floats = [x for x in floats if x not in self.group]
        # The floats' inputs count too: those have got a group where another node settled them.
        made = [x for x in dict.fromkeys([x for n in (*floats, t) for x in self.reads[n]]) if x not in floats]
        need = max((self._position(x) for x in made), default=-1)
        if need < 0 and self.fuse and t not in self.homes and t not in self.checks:
            if dim_size(t.shape) == 1:
                need = 0
            elif len(floats) < _NEAR:
                return  # floats
        if target is not None:
            need = max([need] + [self.group[u].position for u in self.users.get(target, []) if u not in own])
            need = max([need] + [self.group[c].position + 1 for c in self.checks if c in self.group])
            need = max([need] + [self.group[c].position for c in self.calls])
        g = next((g for g in self._candidates(need, made) if all(self._joins(x, g) for x in [*floats, t])
                  and (target is None or self._may_store(t, target, g, floats))), None)
        if g is None:
            rows, cols = _region(t)
            for x in floats:  # floating operands that do not fit here get groups of their own, before
                if not _fits(x, rows, cols):
                    self._settle([x])
            g = Group(len(self.groups), rows=rows, cols=cols)
            self.groups.append(g)
        for x in floats:
            if x not in self.group:
                self._add(x, g)
        self._add(t, g)

    def _candidates(self, need, made):
        """Groups that could take a node: the first that has all its inputs before it, and later maps that read what is made
        beside those inputs, as the two moments of one gradient do."""
        if not self.fuse or need < 0 or need >= len(self.groups):
            return
        if self.groups[need].rows is not None:
            yield self.groups[need]
        beside = {g for x in made if x in self.group for g in self.readers.get(self.group[x], ())}
        yield from sorted((g for g in beside if g.position > need and g.anchor is None), key=lambda g: g.position)

    def _joins(self, t, g):
        if not _fits(t, g.rows, g.cols):
            return False
        # what is made in the group is seen element by element only
        return all([self.group.get(x) is not g or dim_size(x.shape) == dim_size(t.shape) for x in self.reads[t]])

    def _may_store(self, t, target, g, floats):
        """Nothing in the group reads `target` but elementwise, at the element that is written; and where a product hands over pieces
        an update, which streams several arrays, goes behind it."""
        if g.anchor is not None and (self._hands_over_pieces(g) or target in self.reads[g.anchor]):
            return False
        return all(dim_size(target.shape) == dim_size(m.shape) for m in [*g.members, *floats, t] if target in self.reads[m])

    # ---- sinking

    def _outside(self, t):
        """Whether `t` is read, or has a place, outside its group: it must be in memory."""
        g = self.group[t]
        return t in self.homes or t in self.checks or any(self.group[u] is not g for u in self.users.get(t, []))

    def _sink(self):
        for g in reversed(self.groups):
            for h in {self.group[u]: None for t in g.members for u in self.users.get(t, []) if self.group[u] is not g}:
                all_for_h = self._only_for(h, g.members, g)
                self._try_sink(all_for_h, g, h)
                for t in sorted(all_for_h, key=lambda t: -t.number):  # or some of it
                    if self.group[t] is g and any(self.group[u] is h for u in self.users[t]):
                        self._try_sink(self._only_for(h, self._behind(g, t), g), g, h)

    def _only_for(self, h, members, g):
        """Those of some members of `g` that nothing reads but `h` and one another."""
        chosen = set()
        for t in sorted(members, key=lambda t: -t.number):
            if t not in self.homes and t not in self.checks and all(
                    u in chosen or self.group[u] is h for u in self.users.get(t, [])):
                chosen.add(t)
        return chosen

    def _behind(self, g, t):
        """`t` and the members of `g` behind it; none where they are many."""
        found, stack = {t}, [t]
        while stack:
            if len(found) > _NEAR:
                return ()
            for x in self.reads[stack.pop()]:
                if x not in found and x.op.kind == "map" and self.group.get(x) is g:
                    found.add(x)
                    stack.append(x)
        return found

    def _try_sink(self, moved, g, h):
        if h.rows is None or not moved:
            return
        for m in moved:
            users = self.users.get(m, [])
            if not _fits(m, h.rows, h.cols) or any(
                    u.op.kind != "map" or dim_size(m.shape) != dim_size(u.shape) for u in users):
                return
            if not self._as_before(m, h):
                return
        freed = sum(any(self.group[u] is h for u in self.users[m]) for m in moved)
        added = self._added(moved, g)
        if added < freed or (added == freed and g.anchor is None and len(moved) == len(g.members)):
            g.members = [m for m in g.members if m not in moved]
            h.members = sorted([*h.members, *moved], key=lambda m: m.number)
            for m in moved:
                self.group[m] = h

    def _added(self, moved, g):
        """How many values of `g` have to be in memory where `moved` leave it, that need not be now."""
        kept = {x for m in moved for x in self.reads[m]} - moved
        return sum(self.group.get(x) is g and not self._outside(x) for x in kept)

    def _as_before(self, m, h):
        """Whether the stored parameters that `m` reads are in `h` what they are in its group, where none is read but in place."""
        for x in self.reads[m]:
            if x in self.mutable:
                writer = self.group[next(a.value for a in self.homes.values() if a.target is x)]
                if writer.position < h.position or (writer is h and dim_size(x.shape) != dim_size(m.shape)):
                    return False
        return True

    # ---- before reductions

    def _make_before(self, h):
        """Let the reduction `h` make what it reads: the whole map that does, or what only `h` reads. What others read too is made in
        rows, by threads and in row blocks: so it is before a reduction of rows, but not before one over the rows, or over all."""
        t, x = h.anchor, root(h.anchor.inputs[0])
        outer, r, inner = reduced_dims(t)
        g = self.group.get(x)
        if x.op.kind != "map" or g is h or g is self.prologue or g.tables or x in g.before or (outer != 1 and inner != 1):
            return
        region = (outer, r) if inner == 1 else (r, inner)
        if inner == 1 and outer != 1 and g.anchor is None and all(self._goes_before(m, h, region, late=True) for m in g.members):
            moved = set(g.members)
        else:
            moved = self._only_before(x, g, h, region)
            if not moved or not self._saves(moved, g, region):
                return
        g.members = [m for m in g.members if m not in moved]
        h.before = sorted(moved, key=lambda m: m.number)
        self.group |= dict.fromkeys(moved, h)

    def _goes_before(self, m, h, region, late=False):
        """Whether `m` may be made before `h`: with `late`, groups behind that one may read it too."""
        return (m not in self.homes and m not in self.checks and _fits(m, *region) and self._as_before(m, h)
                and (not late or all(u is h.anchor or self.group[u] is self.group[m] or self.group[u].position > h.position
                                     for u in self.users.get(m, []))))

    def _only_before(self, x, g, h, region):
        """`x` and the members of `g` that only it and `h` read; none where `x` itself is read elsewhere."""
        chosen = set()
        for m in sorted(self._behind(g, x), key=lambda m: -m.number):
            users = self.users.get(m, [])
            if all(u is h.anchor or u in chosen for u in users) and self._goes_before(m, h, region):
                chosen.add(m)
        return chosen if x in chosen else set()

    def _saves(self, moved, g, region):
        """Whether it is less to read what `moved` reads than to write and read its result: nothing more has to be in memory, and of the
        arrays at most two are not read less in `g`."""
        if self._added(moved, g):
            return False
        full = {r for m in moved for x, r in zip(m.inputs, self.reads[m])
                if r not in moved and operand_kind(x.shape, m.shape, *region) == FULL}
        still = {x for m in g.members if m not in moved for x in self.reads[m]}
        return sum(x in still or self.group.get(x) is g for x in full) <= 2
