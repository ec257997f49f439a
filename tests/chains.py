"""The chains of ops.def by their steps: what the kernel of a chain, and the executor that finds one, must give bit for bit."""

import numpy as np

from backprop import _core

NUMBERS = [0.1, 0.9, 0.001, 0.999, 1e-8, -0.01, 0.99]  # for Adam, and as good as any for the others


def step_by_step(isa, steps, vectors, numbers):
    """The result of each step, operation by operation."""
    inputs, results = [*vectors, *(numbers[i:i + 1] for i in range(numbers.size))], []
    for op, operands, _ in steps:
        given = [inputs[i] if i >= 0 else results[-1 - i] for i in operands]
        results.append(np.empty_like(vectors[0]))
        variant = sum((i >= len(vectors)) << j for j, i in enumerate(operands))
        _core.kernel_map(isa, op, results[-1], *given, variant=variant)
    return results
