"""Reverse-mode differentiation: backward nodes are added to the same graph.

The nodes are visited once each, in reverse topological order, starting from an output gradient of 1; where a value is used
more than once its gradients sum. A node that does not lie between the outputs and `wrt` is never visited.
"""

from __future__ import annotations

from .errors import ShapeError
from .graph import Tensor, ancestors, constant, format_shape
from .ops import add, broadcast_to


def gradients(outputs, wrt, output_gradients=None, arcs=None) -> list[Tensor]:
    """Gradients of the sum of `outputs` with respect to each of `wrt`.

    Parameters
    ----------
    outputs : sequence of Tensor
    wrt : sequence of Tensor
    output_gradients : sequence of Tensor, optional
        Upstream gradient of each output, of its shape. Ones where not given.
    arcs : dict, optional
        Takes what each arc carries back: ``arcs[node, i]`` is the gradient that `node` hands to its input i.

    Returns
    -------
    list of Tensor
        One for each of `wrt`, of its shape; zeros where no path leads to it.

    Raises
    ------
    TypeError
        If a path leads through an operation that has no gradient.
    """
    wrt = list(wrt)
    nodes = ancestors(outputs)
    active = set(wrt)  # nodes on the way from `wrt`
    for t in nodes:
        if any(i in active for i in t.inputs):
            active.add(t)

    one = constant(1.0)
    grads: dict[Tensor, Tensor] = {}

    def accumulate(t, g):
        grads[t] = add(grads[t], g) if t in grads else g

    for i, y in enumerate(outputs):
        if output_gradients is None:
            g = one if y.shape == () else broadcast_to(one, y.shape)
        else:
            g = output_gradients[i]
            if g.shape != y.shape:
                raise ShapeError(f"the gradient of an output has shape {format_shape(g.shape)}, "
                                 f"the output {format_shape(y.shape)}")
        accumulate(y, g)

    for t in reversed(nodes):
        if t not in grads or t not in active or t.op.kind == "source":
            continue
        needs = [i in active for i in t.inputs]
        if not any(needs):
            continue
        if t.op.gradient is None:
            raise TypeError(f"{t.op.name} has no gradient, and the gradient of {format_shape(t.shape)} was asked for "
                            "through it (bp.stop_gradient says that none is wanted)")
        for i, (x, g, need) in enumerate(zip(t.inputs, t.op.gradient(t, grads[t], needs), needs)):
            if need and g is not None:
                if g.shape != x.shape:
                    raise ShapeError(f"{t.op.name}: the gradient has shape {format_shape(g.shape)}, "
                                     f"the input {format_shape(x.shape)}")
                accumulate(x, g)
                if arcs is not None:
                    arcs[t, i] = g
    return [grads[t] if t in grads else broadcast_to(constant(0.0), t.shape) for t in wrt]
