"""Second half of the lowering: places in memory, the words of the program, and its text.

`emit` gives every value that leaves its group a buffer in one arena, by its lifetime, writes the words that ``csrc/backprop.h``
describes, and keeps a description that a person can read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from . import _core
from .graph import Tensor, contiguous, dim_size

FULL, ROW, COL, SCALAR = range(4)
_MAGIC = 0x62703031
_MAP = {name: code for code, (name, _, _) in enumerate(_core.MAP_OPS)}
_INSTRUCTION = {name: code for code, name in enumerate(_core.INSTRUCTIONS)}
_REDUCTION = {name: code for code, name in enumerate(_core.REDUCE_OPS)}
_ALIGN = 64
ROWS = 256  # of a row block: BP_ROW_BLOCK
_BLOCK_ROWS = 256  # of a block of an update of rows, at most, and the bytes of its arrays: half of the smallest L1
_BLOCK_BYTES = 16 << 10


@dataclass(eq=False)
class Group:
    """What becomes one instruction: an anchor (or none), and elementwise nodes over its region."""

    position: int
    anchor: Tensor | None = None
    members: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)  # elementwise nodes that make what a reduction reads
    rows: int | None = None  # the region, as dims; None: no elementwise node may hang here
    cols: int | None = None
    partners: list[Tensor] = field(default_factory=list)  # what else the anchor makes: the backward half of a cross-entropy, the
    # gradients of one backward of a user's operation
    tables: list[Tensor] = field(default_factory=list)  # of an update of rows: the stored rows that it reads or writes,
    writes: dict[Tensor, Tensor] = field(default_factory=dict)  # what is written there,
    bytes: int = 0  # and those of the arrays of one block

    def made(self) -> list[Tensor]:
        """All that the instruction makes, in order."""
        return [*self.before, *([] if self.anchor is None else [self.anchor]), *self.partners, *self.members]

    def reads(self) -> list[tuple[Tensor, Tensor]]:
        """What it reads from memory: pairs of a node that it makes and one whose buffer that reads."""
        made = self.made()
        own = {*made, *self.tables}
        return [(t, x) for t in made for x in map(root, t.inputs)
                if x not in own or (t is self.anchor and x not in self.before) or t in self.partners]

    def sums(self, t: Tensor) -> bool:
        """Whether `t` is its reduction or product, or what that reads: of a sum over rows the half that row blocks make in parts."""
        return t is self.anchor or t in self.before


def root(t: Tensor) -> Tensor:
    """The node whose buffer `t` is a view of."""
    while t.op.kind == "view":
        t = t.inputs[0]
    return t


def reduced_dims(t: Tensor) -> tuple[int, int, int]:
    """The dims [outer, r, inner] of a reduction: what lies before the axes that it reduces, those, and what lies behind."""
    shape, a = t.inputs[0].shape, t.attrs
    return dim_size(shape[:a["start"]]), dim_size(shape[a["start"]:a["stop"]]), dim_size(shape[a["stop"]:])


@lru_cache(4096)
def operand_kind(operand, shape, rows, cols):
    """How an operand of shape `operand` lies under an elementwise node of `shape` over the region [rows, cols], or None."""
    if dim_size(operand) == dim_size(shape):
        return FULL
    if dim_size(operand) == 1:
        return SCALAR
    padded = (1,) * (len(shape) - len(operand)) + tuple(operand)
    for p in range(len(shape) + 1):
        if dim_size(shape[:p]) == rows and dim_size(shape[p:]) == cols:
            if padded[p:] == shape[p:] and all(d == 1 for d in padded[:p]):
                return ROW
            if padded[:p] == shape[:p] and all(d == 1 for d in padded[p:]):
                return COL
    return None


class Plan:
    """A lowered program and all that is needed to run it.

    Attributes
    ----------
    program : _core.Program
    spaces : dict of str to int
        Space numbers by name: storage names, input names, ``"output i"``, ``"constants"``, ``"scalars"``.
    scalars : list of str
        Names of the numbers that each run has to give, in the order of the space ``"scalars"``.
    constants : ndarray
    inputs : list of Tensor
        Sources that each run has to give, in order of first use.
    mark : int
        The instruction where the second half starts (all of them, where there is no second half).
    capacity : int
        Most rows of a run.
    """

    def __init__(self, words, calls, spaces, scalars, constants, inputs, outputs, mark, capacity, text):
        self.words = np.array(words, dtype=np.int64)
        self.program = _core.Program(self.words, calls)
        self.spaces, self.scalars, self.constants = spaces, scalars, constants
        self.inputs, self.outputs, self.mark, self.capacity = inputs, outputs, mark, capacity
        self._text = text

    def describe(self) -> str:
        """The instructions: result, shapes, fused operations behind a bar, and places in memory."""
        return self._text

    def binding(self):
        """A context to run in, with the constants set."""
        binding = _core.Binding(self.program)
        for i, s in enumerate(self.inputs):
            if s._array is not None:
                binding.set(self.spaces[f"input {i}"], s._array)
        if "constants" in self.spaces:
            binding.set(self.spaces["constants"], self.constants)
        return binding


def emit(groups, homes, checks, outputs, dtype, storage, capacity, barrier, blocks=None, products=None) -> Plan:
    """`blocks`: the groups parted for row blocks (``rowblocks.RowBlocks``), or None to run layer by layer; `products`:
    "bfloat16", or None."""
    return _Emitter(groups, homes, checks, outputs, dtype, storage, capacity, barrier, blocks, products).plan()


def _pack(buffers):
    """Places for (bytes, first use, last use, node, key): largest first, each at the lowest offset where no buffer that lives
    at the same time lies. Returns ({key: offset}, bytes of all)."""
    offsets, total = {}, 0
    placed = np.empty((4, len(buffers)), dtype=np.int64)  # offset, end, first use, last use; by offset
    for n, (size, start, end, _, key) in enumerate(sorted(buffers, key=lambda b: (-b[0], b[1], b[3].number))):
        low, high, first, last = placed[:, :n]
        alive = (first <= end) & (start <= last)
        below = np.maximum.accumulate(np.append(0, high[alive]))  # the end of all that lies below each
        gaps = np.flatnonzero(low[alive] - below[:-1] >= size)
        offsets[key] = offset = int(below[gaps[0] if gaps.size else -1])
        at = int(np.searchsorted(low, offset))
        placed[:, at + 1:n + 1] = placed[:, at:n].copy()
        placed[:, at] = offset, offset + size, start, end
        total = max(total, offset + size)
    return offsets, total


class _Emitter:
    def __init__(self, groups, homes, checks, outputs, dtype, storage, capacity, barrier, blocks, products):
        self.products = products
        self.groups, self.homes, self.dtype, self.capacity, self.blocks = groups, homes, dtype, capacity, blocks
        self.item = np.dtype(dtype).itemsize
        self.outputs, self.barrier = outputs, barrier
        self.checks = list(checks)
        self.spaces: dict[str, int] = {"arena": 0}
        self.extents: list[tuple[int, int, int]] = []  # element bytes, elements, writable
        for name, s in storage.items():
            self._space(name, s.dtype or dtype, s.elements, s.writable)
        for i, t in enumerate(outputs):
            self._space(f"output {i}", t.dtype or dtype, dim_size(t.shape), True)
        self.inputs: list[Tensor] = []
        self.scalars: dict[str, int] = {}
        self.constants: list[float] = []
        self.maps: list[list[int]] = []
        self.calls: list = []
        self.instructions: list[list[int]] = []
        self.lines: list[str] = []
        self.names: dict[Tensor, str] = {}
        self.unnamed = 0  # values that have had to be given a name
        self.randoms: dict[object, int] = {}
        self.place: dict[Tensor, tuple[str, int]] = {}
        self.part: dict[Group, int] = {}  # where the parts of a sum over row blocks lie

    def _space(self, name, dtype, elements, writable):
        self.spaces[name] = len(self.spaces)
        self.extents.append((np.dtype(dtype).itemsize, elements, int(writable)))

    # ---------------------------------------------------------------- memory

    def _layout(self):
        """Which values need a buffer, and where it lies."""
        group = {}
        for g in self.groups:
            for t in [*g.made(), *g.tables]:
                group[t] = g
        index = {g: i for i, g in enumerate(self.groups)}
        blocks, now = self.blocks, -1
        if blocks:  # row blocks are one point of time; sums over the rows read then, and make their results where they come again
            now = len(blocks.before)
            index = {g: i for i, g in enumerate(blocks.before)} | dict.fromkeys(blocks.inside, now)
            index |= {g: now + 1 + i for i, g in enumerate(blocks.after)}
        sums = blocks.sums if blocks else ()
        last: dict[Tensor, int] = {}
        for g in self.groups:
            for t, x in g.reads():
                if x.op.kind == "source":
                    self._source(x)
                elif t.op.kind != "part":  # of an anchor that has no value itself
                    last[x] = max(last.get(x, 0), now if g in sums and g.sums(t) else index[g])
        for t in self.checks:
            t = root(t)
            if t.op.kind != "source":
                last[t] = max(last.get(t, 0), index[group[t]])
            else:
                self._source(t)
        for t, home in self.homes.items():
            self.place[t] = (home.space, home.offset)
        private = {t: life for t, life in blocks.private.items() if t not in self.place} if blocks else {}
        buffers = [(self._bytes(t, self.capacity), now if group[t] in sums and t in group[t].before else index[group[t]], end, t, t)
                   for t, end in last.items() if t not in self.place and t not in private]
        if blocks:
            count = max(1, -(-self.capacity // ROWS))
            buffers += [(self._round(count * dim_size(g.anchor.shape) * self.item), now, index[g], g.anchor, g) for g in blocks.sums]
        offsets, self.arena = _pack(buffers)
        for key, offset in offsets.items():
            if isinstance(key, Group):
                self.part[key] = offset // self.item
            else:
                self.place[key] = ("arena", offset // (4 if key.dtype == "int32" else self.item))
        offsets, self.block_bytes = _pack([(self._bytes(t, min(self.capacity, ROWS)), *life, t, t) for t, life in private.items()])
        self.place |= {t: ("rows", offset // self.item) for t, offset in offsets.items()}
        for g in self.groups:
            if g.tables:
                self._block(g)
        self.stored = set(self.place)

    def _block(self, g):
        """Where the arrays of an update of rows lie in a block: the gradient, then a block of each table."""
        width = dim_size(g.anchor.shape[g.anchor.inputs[1].ndim:])
        g.rows, g.cols = min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // max(1, (1 + len(g.tables)) * width * self.item))), width
        size = self._round(g.rows * width * self.item) // self.item
        for i, t in enumerate((g.anchor, *g.tables)):
            self.place[t] = ("rows", i * size)
            if t in g.writes:
                self.place[g.writes[t]] = ("rows", i * size)
        g.bytes = (1 + len(g.tables)) * size * self.item

    @staticmethod
    def _round(size):
        return -(-max(size, 1) // _ALIGN) * _ALIGN

    def _bytes(self, t, rows):
        d = dim_size(t.shape)
        return self._round((d if d >= 0 else -d * rows) * (4 if t.dtype == "int32" else self.item))

    def _source(self, t):
        if t in self.place:
            return
        name = t.op.name
        if name == "constant":
            value = t.attrs["value"]
            self.constants.append(value)
            self.place[t] = ("constants", len(self.constants) - 1)
        elif name == "scalar":
            self.place[t] = ("scalars", self.scalars.setdefault(t.attrs["key"], len(self.scalars)))
        elif "space" in t.attrs:
            self.place[t] = (t.attrs["space"], t.attrs["offset"])
        else:
            self.inputs.append(t)
            space = f"input {len(self.inputs) - 1}"
            self._space(space, t.dtype or self.dtype, dim_size(t.shape), False)
            self.place[t] = (space, 0)
        self.names.setdefault(t, t.name or (f"{t.attrs['value']:g}" if name == "constant" else f"in{len(self.inputs) - 1}"))

    def _operand(self, t, ld):
        space, offset = self.place[root(t)]
        return [self.spaces[space], offset, ld if ld > 0 else 0]

    # ---------------------------------------------------------------- instructions

    def plan(self) -> Plan:
        self._layout()
        draws = sorted([t for g in self.groups for t in g.made() if t.op.code == "random"], key=lambda t: t.number)
        self.randoms = {key: i for i, key in enumerate(dict.fromkeys(t.attrs["key"] for t in draws))}  # whatever runs first
        if self.constants:
            self._space("constants", self.dtype, len(self.constants), False)
        if self.scalars:
            self._space("scalars", self.dtype, len(self.scalars), False)
        mark = None
        checks = {}
        for t in self.checks:
            checks.setdefault(self._group_of(t), []).append(t)
        groups, blocks = self.groups, self.blocks
        if blocks:
            groups = [*blocks.before, None, *blocks.after]
        for g in groups:
            if g is None:
                self._emit_blocks()
                continue
            if g is self.barrier:
                mark = len(self.instructions)
                continue
            if blocks and g in blocks.sums:
                self._emit_sum_blocks(g)
            else:
                self._emit_group(g)
            for t in checks.get(g, ()):
                self._add("check", self._operand(t, 1), f"{self._name(t)} is finite")
        words = [_MAGIC, self.item, self.capacity, self.arena, len(self.spaces), 0, 0, 1]
        for e in self.extents:
            words += e
        for block in (self.maps, self.instructions):
            words.append(len(block))
            for b in block:
                words += b
        return Plan(words, self.calls, self.spaces, list(self.scalars), np.array(self.constants, dtype=self.dtype), self.inputs,
                    self.outputs, len(self.instructions) if mark is None else mark, self.capacity, "\n".join(self.lines) + "\n")

    def _group_of(self, t):
        t = root(t)
        return next((g for g in self.groups if t in g.made()), None)

    def _add(self, name, words, text):
        words = [_INSTRUCTION[name], *words]
        self.lines.append(f"{len(self.instructions):4d} {name:<11} {text}")
        self.instructions.append([len(words), *words])

    def _emit_group(self, g):
        a = g.anchor
        if a is None:
            index, text = self._map(g)
            self._add("map", [g.rows, g.cols, index], text)
        else:
            getattr(self, "_emit_" + a.op.kind)(g, a)

    def _emit_blocks(self):
        """The groups that run block by block, behind the instruction that runs them."""
        at = len(self.instructions)
        self._add("row_blocks", [0, self.block_bytes], "")
        self.spaces["rows"] = len(self.spaces)  # of one block, each thread's own
        for g in self.blocks.inside:
            self._emit_group(g)
        del self.spaces["rows"]
        count = len(self.instructions) - at - 1
        self.instructions[at][2] = count
        self.lines[at] += f"the next {count}, for {ROWS} rows at a time"

    def _emit_sum_blocks(self, g):
        """What `_emit_group` leaves of a sum over the rows: the parts of all blocks, summed, and what hangs on the sum."""
        index, text = self._map(g)
        self._add("sum_blocks", [g.rows, g.cols, 0, self.part[g], 0, *self._destination(g.anchor), index],
                  f"{self._result(g.anchor)} = over blocks of @arena+{self.part[g]}{text}")

    def _sum(self, g, t):
        """Destination, map and text of an instruction that sums over rows; in row blocks, of one that makes a part."""
        if self.blocks and g in self.blocks.sums:
            return [0, self.part[g], g.cols], -1, f"part of {self._name(t)}[{','.join(_dim(d) for d in t.shape)}]@arena+{self.part[g]}", ""
        index, text = self._map(g)
        return self._destination(t), index, self._result(t), text

    def _destination(self, t):
        """Where an anchor's own result goes; space -1 where only the epilogue sees it."""
        return self._operand(t, t.shape[-1] if t.shape else 1) if t in self.stored else [-1, 0, 0]

    def _emit_matmul(self, g, t):
        a, b = t.inputs
        ta, tb = t.attrs["ta"], t.attrs["tb"]
        k = a.shape[0] if ta else a.shape[1]
        bf16 = self.products == "bfloat16"
        to, index, result, text = self._sum(g, t)
        self._add("matmul", [t.shape[0], t.shape[1], k, int(ta), int(tb), int(bf16), *self._operand(a, a.shape[1]),
                             *self._operand(b, b.shape[1]), *to, index],
                  f"{result} = {self._name(a)}{'^T' if ta else ''} {self._name(b)}{'^T' if tb else ''}{' in bfloat16' if bf16 else ''}{text}")

    def _emit_reduce(self, g, t):
        (x,), start, stop = t.inputs, t.attrs["start"], t.attrs["stop"]
        dims = reduced_dims(t)
        before, making = self._map_before(g, x, dims)
        to, index, result, text = self._sum(g, t)
        axis = f"axis {start}" if stop == start + 1 else f"axes {start}-{stop - 1}"
        src = [-1, 0, 0] if g.before and root(x) not in self.stored else self._operand(x, dims[2])
        self._add("reduce", [_REDUCTION[t.attrs["kind"]], *dims, *src, before, *to, index],
                  f"{result} = {t.attrs['kind']} over {axis} of {self._name(x)}{making}{text}")

    def _map_before(self, g, x, dims):
        """The map that makes what a reduction of [outer, r, inner] reads: its number (-1: none) and its text."""
        if not g.before:
            return -1, ""
        index, text = self._map(Group(g.position, members=g.before, rows=dims[0] if dims[2] == 1 else dims[1],
                                      cols=dims[1] if dims[2] == 1 else dims[2]), None if root(x) in self.stored else root(x))
        return index, f" ({text})"

    def _emit_softmax_ce(self, g, t):
        forward, backward = (t, g.partners[0] if g.partners else None) if t.op.name == "softmax_cross_entropy" else (None, t)
        z, y = t.inputs[:2]
        if backward is None:
            gradient = [-1, 0, 0, SCALAR]
            scale = ""
        else:
            s = backward.inputs[2]
            gradient = [*self._operand(s, 1), SCALAR if dim_size(s.shape) == 1 else COL]
            scale = f" | times {self._name(s)}"
        classes = z.shape[1]
        self._add("softmax_ce", [z.shape[0], classes, int(y.dtype != "int32"), *self._operand(z, classes),
                                 *self._operand(y, classes), *gradient,
                                 *(self._destination(forward) if forward is not None else [-1, 0, 0]),
                                 *(self._destination(backward) if backward is not None else [-1, 0, 0])],
                  ", ".join(self._result(r) for r in (forward, backward) if r is not None)
                  + f" = {self._name(z)}, {self._name(y)}{scale}")

    def _emit_gather(self, g, t):
        table = t.inputs[0]
        width = dim_size(table.shape[1:])
        words, text = self._lookup(t, width, table.shape[0])
        if dim_size(t.inputs[1].shape) == 0:  # bags of nothing
            self._add("fill", [dim_size(t.shape), *self._operand(t, 1), 0], f"{self._result(t)} = 0")
        self._add("gather", [*words, *self._operand(t, width)], f"{self._result(t)} = {text}")

    def _lookup(self, t, width, limit):
        """The words that gather, scatter_add and row_update have in common, and their text."""
        x, ids, *weights = t.inputs
        attrs, n = t.attrs, dim_size(ids.shape)
        per = ids.shape[-1] if attrs["bag"] else 1
        text = f"{'means' if attrs['mean'] else 'sums'} of {per} rows" if attrs["bag"] else "rows"
        text = (f"{text} {self._name(ids)} of {self._name(x)}" if t.op.name == "take" else
                f"sums of {self._name(x)} at {text} {self._name(ids)}") + (f" times {self._name(weights[0])}" if weights else "")
        return [n, width, limit, max(per, 1), int(attrs["mean"]), attrs["padding"], *self._operand(x, width),
                *self._operand(ids, 1), *(self._operand(weights[0], 1) if weights else [-1, 0, 0])], text

    def _emit_scatter(self, g, t):
        width = dim_size(t.shape[t.inputs[1].ndim if t.op.name == "coalesce" else 1:])
        limit = dim_size(t.inputs[1].shape) if t.op.name == "coalesce" else t.shape[0]
        words, text = self._lookup(t, width, limit)
        self._add("scatter_add", [*words, *self._operand(t, width)], f"{self._result(t)} = {text}")

    def _emit_first(self, g, t):
        (ids,) = t.inputs
        self._add("first", [dim_size(ids.shape), t.attrs["padding"], *self._operand(ids, 1), *self._operand(t, 1)],
                  f"{self._result(t)} = first places of {self._name(ids)}")

    def _emit_row_update(self, g, t):
        words, text = self._lookup(t, g.cols, t.attrs["limit"])
        self.spaces["rows"] = len(self.spaces)  # of one block, each thread's own
        read = {root(x) for m in g.members for x in m.inputs}
        tables = []
        for x in g.tables:
            self.names[x] = self.names[g.writes.get(x, x)] = x.name
            tables += [self.spaces[x.attrs["space"]], x.attrs["offset"], g.cols, self.place[x][1], int(x in read),
                       int(x in g.writes)]
        index, members = self._map(g)
        del self.spaces["rows"]
        self._add("row_update", [*words, g.rows, g.bytes, 0, len(g.tables), *tables, index],
                  f"rows of {', '.join(x.name for x in g.tables)} = {text}, {g.rows} at a time{members}")

    def _emit_argmax(self, g, t):
        (x,) = t.inputs
        self._add("argmax", [dim_size(t.shape), x.shape[-1], *self._operand(x, x.shape[-1]), *self._operand(t, 1)],
                  f"{self._result(t)} = argmax of {self._name(x)}")

    def _emit_call(self, g, t):
        """A user's operation (``operation.py``), or its backward, whose gradients are the partners."""
        parts = sorted(g.partners, key=lambda p: p.attrs["input"])
        results = parts if t.op.name == "call_backward" else [t]
        arrays = []
        for x in [*t.inputs, *results]:
            arrays += [dim_size(x.shape), int(x.dtype == "int32"), *self._operand(x, 1)]
        self._add("call", [len(self.calls), len(t.inputs), len(results), *arrays],
                  f"{', '.join(self._result(r) for r in results)} = {t.name} of {', '.join(self._name(x) for x in t.inputs)}")
        self.calls.append(t.attrs["call"].call(t, [p.attrs["input"] for p in parts], self.dtype))

    def _copy(self, shape, src, src_strides, src_offset, dst, dst_strides, dst_offset, text):
        if dim_size(shape) == 0:
            return  # nothing to copy, and perhaps no memory behind it
        (ss, so, _), (ds, do, _) = self._operand(src, 1), self._operand(dst, 1)
        self._add("copy_int" if dst.dtype == "int32" else "copy",
                  [len(shape), *shape, ss, so + src_offset, *src_strides, ds, do + dst_offset, *dst_strides], text)

    def _emit_strided(self, g, t):
        self._copy(t.shape, t.inputs[0], t.attrs["strides"], t.attrs["offset"], t, contiguous(t.shape), 0,
                   f"{self._result(t)} = {t.attrs['what']} {self._name(t.inputs[0])}")

    def _emit_pad(self, g, t):
        (x,) = t.inputs
        self._add("fill", [dim_size(t.shape), *self._operand(t, 1), 0], f"{self._result(t)} = 0")
        self._copy(x.shape, x, contiguous(x.shape), 0, t, t.attrs["strides"], t.attrs["offset"],
                   f"{self._name(t)} slice = {self._name(x)}")

    def _emit_concatenate(self, g, t):
        axis, strides, offset = t.attrs["axis"], contiguous(t.shape), 0
        for x in t.inputs:
            self._copy(x.shape, x, contiguous(x.shape), 0, t, strides, offset, f"{self._result(t)} part = {self._name(x)}")
            offset += x.shape[axis] * strides[axis]

    # ---------------------------------------------------------------- elementwise programs

    def _map(self, g, reduced=None):
        """The words of a group's elementwise program: its number (-1: none) and its text; `reduced`: the node that goes to the
        reduction before which it stands."""
        if not g.members:
            return -1, ""
        loads, slots, sources = [], {}, []
        if g.anchor is not None and not g.tables:
            loads.append([-1, 0, max(g.cols, 0), FULL])
            slots[g.anchor, FULL] = 0
            sources.append(g.anchor)
        members, operands = set(g.members), []  # of each: what it is made of, (node, kind) of a load or (node, None) of a member
        for t in g.members:
            parts = []
            for x in t.inputs:
                r = root(x)
                if r in members:
                    parts.append((r, None))
                    continue
                kind = self._kind(g, t, x)
                parts.append((r, kind))
                if (r, kind) not in slots:
                    slots[r, kind] = len(loads)
                    loads.append([*self._operand(r, g.cols if kind == FULL else 1 if kind == COL else 0), kind])
                    sources.append(r)
            operands.append(parts)
        made = {t: len(loads) + i for i, t in enumerate(g.members)}
        slots |= {(t, None): slot for t, slot in made.items()}
        ops, text, reads = [], [], {}
        for i, t in enumerate(g.members):
            read = [slots[part] for part in operands[i]]
            reads |= dict.fromkeys(read, i)
            node = self.randoms[t.attrs["key"]] if t.op.code == "random" else 0
            ops += [_MAP[t.op.code], *read, *[-1] * (3 - len(read)), node]
            text.append(t.op.name)
        stores = []
        for t in g.members:
            if t in self.stored:
                place = self.place[t]
                clash = any(r in self.place and self.place[r] == place and reads.get(s, -1) > made[t] - len(loads)
                            for s, r in enumerate(sources))
                stores.append([made[t], *self._operand(t, g.cols), int(not clash)])
        if reduced is not None:
            stores.append([made[reduced], -1, 0, 0, 1])
        self.maps.append([len(loads), *sum(loads, []), len(g.members), *ops, len(stores), *sum(stores, [])])
        kept = [f"{self._result(t)}" for t in g.members if t in self.stored]
        listing = ", ".join(text) + (f" -> {', '.join(kept)}" if kept else "")
        if g.anchor is None:
            return len(self.maps) - 1, f"[{_dim(g.rows)},{_dim(g.cols)}] {listing}"
        return len(self.maps) - 1, f" | {listing}"

    @staticmethod
    def _kind(g, t, x):
        """How operand `x` of member `t` lies under the region of a group."""
        if not g.tables:
            return operand_kind(x.shape, t.shape, g.rows, g.cols)
        own = root(x) is g.anchor or root(x) in g.tables or root(x) in g.members
        return FULL if own else SCALAR if dim_size(x.shape) == 1 else ROW

    # ---------------------------------------------------------------- text

    def _name(self, t):
        t = root(t)
        if t not in self.names:
            self.names[t] = f"t{self.unnamed}"
            self.unnamed += 1
        return self.names[t]

    def _result(self, t):
        name = f"{self._name(t)}[{','.join(_dim(d) for d in t.shape)}]"
        if t in self.stored:
            space, offset = self.place[t]
            name += f"@{space}+{offset}"
        return name


def _dim(d):
    return str(d) if d >= 0 else "n" if d == -1 else f"{-d}n"

