"""Types of the door to C: backprop/_core.pyx has the manual."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

_Buffer = Any  # anything with the buffer protocol: collections.abc.Buffer, from Python 3.12 on

class _Isa(TypedDict):
    name: str
    compiled: bool
    supported: bool
    current: bool

MAP_OPS: tuple[tuple[str, int, str], ...]
REDUCE_OPS: tuple[str, ...]
INSTRUCTIONS: tuple[str, ...]
KIND_COUNT: int
CHAINS: tuple[tuple[str, int, int, tuple[tuple[str, tuple[int, ...], bool], ...]], ...]

def isa_info() -> list[_Isa]: ...
def isa_current() -> str: ...
def isa_runnable() -> list[str]: ...
def kind_select(kind: int) -> int: ...
def threads_get() -> int: ...
def threads_set(n: int) -> int: ...
def share_always(on: bool) -> bool: ...
def threads_limit(n: int) -> int: ...
def threads_default() -> tuple[int, str]: ...
def allocations() -> int: ...
def poll_with(look: Callable[[], object] | None) -> Callable[[], object] | None: ...
def narrow_labels(labels: _Buffer, out: _Buffer, classes: int) -> int: ...
def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]: ...
def uniform(n: int, seed: int, stream: int) -> NDArray[np.float64]: ...

class Program:
    real_bytes: int
    n_spaces: int
    capacity: int
    n_instructions: int
    calls: tuple[Callable[[list[memoryview], list[memoryview], int], None], ...]
    def __init__(self, words: _Buffer, calls: Iterable[Callable[[list[memoryview], list[memoryview], int], None]] = ()) -> None: ...
    @property
    def spaces(self) -> list[tuple[int, int, bool]]: ...
    @property
    def chains(self) -> int: ...

class Binding:
    program: Program
    running: bool
    done: int
    def __init__(self, program: Program) -> None: ...
    def set(self, space: int, array: _Buffer, /) -> None: ...
    def clear(self, space: int, /) -> None: ...
    def run(
        self,
        rows: int,
        first: int = 0,
        last: int = -1,
        seed: int = 0,
        step: int = 0,
        row0: int = 0,
        flush: bool = False,
        threads: int = 0,
    ) -> tuple[int, int, int, int]: ...
    def fit(
        self,
        feeds: Iterable[tuple[int, _Buffer]],
        order: _Buffer | None,
        n: int,
        batch: int,
        first_step: int,
        n_steps: int,
        scalar_space: int = -1,
        scalar_stride: int = 0,
        loss_space: int = -1,
        seconds: float = 0,
        seed: int = 0,
        step: int = 0,
        flush: bool = False,
        threads: int = 0,
        data_rows: int = -1,
    ) -> tuple[int, int, int, int, int]: ...
    def arena(self) -> memoryview: ...

def kernel_tile(isa: str, real_bytes: int) -> tuple[int, int, int]: ...
def kernel_tiles(isa: str) -> bool: ...
def kernel_round_bf16(isa: str, src: _Buffer, dst: _Buffer) -> None: ...
def kernel_chain(isa: str, chain: str, vectors: Sequence[_Buffer], numbers: _Buffer, out: Sequence[_Buffer]) -> None: ...
def kernel_map(
    isa: str,
    op: str,
    dst: _Buffer,
    a: _Buffer | None = None,
    b: _Buffer | None = None,
    c: _Buffer | None = None,
    variant: int = 0,
) -> None: ...
def kernel_random(
    isa: str, dst: _Buffer, seed: int, step: int, node: int, row0: int = 0, col0: int = 0
) -> None: ...
def kernel_fma_peak(isa: str, bits: int, rounds: int) -> float: ...
def kernel_matmul(
    isa: str,
    a: _Buffer,
    b: _Buffer,
    out: _Buffer,
    trans_a: bool = False,
    trans_b: bool = False,
    threads: int = 1,
    bfloat16: bool = False,
    tiles: bool = False,
    in_scratch: bool = False,
    updates: bool = False,
) -> None: ...
def kernel_reduce_rows(isa: str, kind: str, src: _Buffer, dst: _Buffer) -> None: ...
def kernel_reduce_cols(isa: str, kind: str, src: _Buffer, dst: _Buffer) -> None: ...
def kernel_reduce_pieces(isa: str, kind: str, src: _Buffer, dst: _Buffer, rows: int) -> None: ...
def kernel_spread(isa: str, src: _Buffer, dst: _Buffer) -> None: ...
def kernel_softmax_ce(
    isa: str,
    z: _Buffer,
    labels: _Buffer | None = None,
    probs: _Buffer | None = None,
    g: _Buffer | None = None,
    loss: _Buffer | None = None,
    dz: _Buffer | None = None,
) -> None: ...

class Step:
    def __init__(self, binding: Binding, numbers: _Buffer, out: _Buffer) -> None: ...
    def __call__(self, values: list[float], rows: int, seed: int, step: int, row0: int) -> float | tuple[int, int, int, int]: ...

class Feeds:
    def __init__(
        self,
        binding: Binding,
        array_type: type,
        spaces: tuple[int, ...],
        shapes: tuple[tuple[int, ...], ...],
        labels: tuple[Any, ...],
        limits: tuple[int, ...],
        finite: tuple[bool, ...],
    ) -> None: ...
    def __call__(self, *arrays: Any) -> bool: ...

class Forward:
    def __init__(
        self,
        bindings: list[Binding],
        input: int,
        output: int,
        shape: tuple[int, ...],
        result_shape: tuple[int, ...],
        array_type: type,
        empty: Callable[..., Any],
        dtype: Any,
        seed: int,
    ) -> None: ...
    def __call__(self, array: Any, /) -> Any: ...

class Words:
    def __init__(self, words: Iterable[str] = ()) -> None: ...
    def add(self, word: str) -> int: ...
    def find(self, word: str) -> int: ...
    def get(self, i: int) -> bytes: ...
    def ids(self, tokens: Iterable[str], unknown: int) -> NDArray[np.int32]: ...
    def __len__(self) -> int: ...

class VectorReader:
    def __init__(
        self, binary: bool, dim: int, announced: int = -1, line: int = 0, wanted: Words | None = None, utf8: bool = True
    ) -> None: ...
    def feed(self, data: _Buffer) -> int: ...
    @property
    def counts(self) -> tuple[int, int, int, int]: ...
    def take(self) -> tuple[Words, NDArray[np.float32]]: ...

def decimals(text: bytes) -> NDArray[np.float32]: ...
