"""Layered drawings of acyclic graphs, after Sugiyama, Tagawa and Toda (1981).

Nodes stand in columns by their longest path; a column of labels lies between any two columns of nodes. An edge passes every
column between its ends through a cell of its own, so an edge meets a label or a node nowhere: curves run only in the gaps
between columns. Directions are *along* the edges and *across* them; the caller chooses which of them is x.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

_SWEEPS = 12


@dataclass
class Cell:
    """What stands in a column: a node, the label of an edge, or an edge that passes.

    Attributes
    ----------
    length : float
        Extent along the edges.
    before, after : float
        Extent across them, to either side of `across`.
    ordered : bool
        The edges into a node arrive in the order in which they are given.
    along, across : float
        The centre, set by `layout`.
    start, end : float
        The column's, along the edges, set by `layout`.
    """

    length: float = 0.0
    before: float = 6.0
    after: float = 6.0
    ordered: bool = False
    ports: float = 10.0  # how far apart edges arrive
    flush: bool = False  # at the end of the column, not in its middle
    along: float = 0.0
    across: float = 0.0
    start: float = 0.0
    end: float = 0.0


@dataclass
class Edge:
    """From node to node (by number), through `cells`; arrives at ``target.across + port``. The first cell is its label's."""

    source: int
    target: int
    label: Cell = field(default_factory=Cell)
    cells: list = field(default_factory=list)
    port: float = 0.0
    pull: float = 1.0


def layout(nodes, edges, gap=26.0, space=12.0):
    """Give every node, and every cell of every edge, its place.

    Parameters
    ----------
    nodes : list of Cell
        In topological order.
    edges : list of Edge
        Those into one node in the order in which it takes them.
    gap, space : float
        Least distance along and across.

    Returns
    -------
    float, float
        The extent along and across; everything lies between 0 and these.
    """
    ranks = _ranks(len(nodes), edges)
    columns = [[] for _ in range(max(ranks, default=0) + 1)]
    for node, rank in zip(nodes, ranks):
        columns[rank].append(node)
    into = {id(node): [] for node in nodes}  # cell -> [(cell to the left, edge or None)], and to the right
    out = {id(node): [] for node in nodes}
    fed = {e.target for e in edges}
    for e in edges:
        e.pull = 1.0 if e.source in fed else 0.1  # a chain of operations stays straight where a source joins it
        e.cells = [e.label] + [Cell() for _ in range(ranks[e.target] - ranks[e.source] - 2)]
        for rank, cell in enumerate(e.cells, ranks[e.source] + 1):
            columns[rank].append(cell)
            into[id(cell)], out[id(cell)] = [], []
        chain = [nodes[e.source], *e.cells, nodes[e.target]]
        for k, (a, b) in enumerate(zip(chain, chain[1:])):
            last = k == len(chain) - 2
            out[id(a)].append((b, e if last else None))
            into[id(b)].append((a, e if last else None))
    arrivals = {}
    for e in edges:
        arrivals.setdefault(e.target, []).append(e)
    _order(columns, into, out, {id(e): i / len(es) for es in arrivals.values() for i, e in enumerate(es)})
    position = {id(c): i for column in columns for i, c in enumerate(column)}
    for target, es in arrivals.items():
        node = nodes[target]
        if not node.ordered:
            es = sorted(es, key=lambda e: position[id(e.cells[-1])])
        step = min(node.ports, 1.5 * node.ports / max(len(es) - 1, 1))
        for i, e in enumerate(es):
            e.port = (i - (len(es) - 1) / 2) * step
    _across(columns, into, out, space)
    low = min(c.across - c.before for column in columns for c in column)
    high = max(c.across + c.after for column in columns for c in column)
    for column in columns:
        for c in column:
            c.across -= low
    at = 0.0
    for k, column in enumerate(columns):
        length = max((c.length for c in column), default=0.0)
        if k:
            steep = max((abs(c.across - a.across) for c in column for a, _ in into[id(c)]), default=0.0)
            at += min(gap + 0.3 * steep, 4 * gap)
        for c in column:
            c.start, c.end = at, at + length
            c.along = c.end - c.length / 2 if c.flush else at + length / 2
        at += length
    return at, high - low


def _ranks(n, edges):
    """Column of each node, an even number: its longest path from a source, then to the right where that shortens edges."""
    rank, inputs, outputs = [0] * n, [[] for _ in range(n)], [[] for _ in range(n)]
    for e in edges:
        inputs[e.target].append(e.source)
        outputs[e.source].append(e.target)
    for t in range(n):
        rank[t] = max((rank[s] + 2 for s in inputs[t]), default=0)
    for t in reversed(range(n)):
        free = all(not inputs[s] and len(outputs[s]) == 1 for s in inputs[t])  # what feeds it can come along
        if outputs[t] and (len(outputs[t]) > len(inputs[t]) or free):
            rank[t] = max(rank[t], min(rank[s] for s in outputs[t]) - 2)
    return rank


def _order(columns, into, out, fraction):
    """Permute the columns so that few edges cross: barycentres from the left, then from the right, keeping the best."""
    def place(cells):
        return {id(c): float(i) for i, c in enumerate(cells)}

    def joints(k):
        """Position in column k, position in column k + 1 of every joint between them."""
        left, right = place(columns[k]), place(columns[k + 1])
        return sorted((left[id(a)], right[id(b)] + (fraction[id(e)] if e is not None and b.ordered else 0.0))
                      for a in columns[k] for b, e in out[id(a)])

    def crossings():
        total = 0
        for k in range(len(columns) - 1):
            seen: list = []
            for _, b in joints(k):
                total += len(seen) - bisect_left(seen, b + 1e-9)
                insort(seen, b)
        return total

    def swap():
        """Exchange neighbours in a column where that takes crossings away."""
        for k, column in enumerate(columns):
            left, right = (place(columns[j]) if 0 <= j < len(columns) else {} for j in (k - 1, k + 1))
            sides = {id(c): ([left[id(a)] for a, _ in into[id(c)]], [
                right[id(b)] + (fraction[id(e)] if e is not None and b.ordered else 0.0) for b, e in out[id(c)]]) for c in column}

            def gain(a, b):
                return sum((p > q) - (p < q) for ps, qs in zip(sides[id(a)], sides[id(b)]) for p in ps for q in qs)
            for i in range(len(column) - 1):
                if gain(column[i], column[i + 1]) > 0:
                    column[i:i + 2] = column[i + 1], column[i]

    best, kept = crossings(), [list(c) for c in columns]
    for sweep in range(2 * _SWEEPS):
        if best == 0:
            break
        if sweep == _SWEEPS:  # once more, from the other side
            columns[:] = [c[::-1] for c in kept]
        rightwards = sweep % 2 == 0
        for k in range(1, len(columns)) if rightwards else range(len(columns) - 2, -1, -1):
            fixed = place(columns[k - 1] if rightwards else columns[k + 1])
            own = place(columns[k])

            def centre(c):
                if rightwards:
                    at = [fixed[id(a)] for a, _ in into[id(c)]]
                else:
                    at = [fixed[id(b)] + (0.9 * fraction[id(e)] if e is not None and b.ordered else 0.0) for b, e in out[id(c)]]
                return (sum(at) / len(at) if at else own[id(c)], own[id(c)])
            columns[k].sort(key=centre)
        swap()
        count = crossings()
        if count < best:
            best, kept = count, [list(c) for c in columns]
    columns[:] = kept


def _across(columns, into, out, space):
    """Coordinates across: every cell near the mean of its neighbours, none nearer to the next than they may be."""
    for column in columns:
        _apart(column, [i * 40.0 - len(column) * 20.0 for i in range(len(column))], [1.0] * len(column), space)
    for sweep in range(2 * _SWEEPS + 1):  # from the left, each cell by those before it; from the right, by those behind it
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted, weights = [], []
            for c in column:
                if sweep % 2 == 0:
                    pulls = [(1.0, a.across) if e is None else (e.pull, a.across - e.port) for a, e in into[id(c)]]
                else:
                    pulls = [(1.0, b.across if e is None else b.across + e.port) for b, e in out[id(c)]]
                weight = sum(w for w, _ in pulls)
                wanted.append(sum(w * y for w, y in pulls) / weight if pulls else c.across)
                weights.append(weight or 1.0)
            _apart(column, wanted, weights, space)


def _apart(column, wanted, weights, space):
    """The least squares solution of ``across[i] = wanted[i]`` under ``across[i + 1] >= across[i] + distance``: isotonic
    regression by pooling adjacent violators, after the distances are taken off."""
    offsets = [0.0]
    for a, b in zip(column, column[1:]):
        offsets.append(offsets[-1] + a.after + space + b.before)
    blocks: list = []  # [mean, weight, count]
    for y, w, o in zip(wanted, weights, offsets):
        blocks.append([y - o, w, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, weight, count = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * weight) / (last[1] + weight)
            last[1] += weight
            last[2] += count
    i = 0
    for mean, _, count in blocks:
        for _ in range(count):
            column[i].across = mean + offsets[i]
            i += 1
