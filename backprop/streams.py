"""Batches from outside: what `Trainer.fit` takes in the place of arrays where the data are larger than memory.

A source of batches is a function that returns a new iterator for each epoch (a generator function, say), or an object that can be
iterated over again and again (a list, a data loader). An iterator itself is good for one epoch. Each batch is ``(x, y)`` or
``(x, y, sample_weight)``, of any number of rows. One batch is drawn at a time, and only when the one before has been trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from operator import length_hint


class Batches:
    """The batches of each epoch.

    Parameters
    ----------
    source : iterable, or function that returns one
    epochs : int
        How many are going to be asked for.

    Attributes
    ----------
    steps : int or None
        Batches of the epoch that was begun last, where its source knows.

    Raises
    ------
    TypeError
        `source` is nothing to draw batches from.
    ValueError
        `source` is an iterator, which ends after one epoch, and more are wanted.
    """

    def __init__(self, source, epochs):
        if source is None or isinstance(source, (str, bytes, memoryview, Mapping)) or any(
                hasattr(source, name) for name in ("__array__", "__dlpack__", "__array_interface__")):
            raise TypeError("y is None, expected an array: only where X is an iterable of batches (x, y) is there no y beside it")
        self._made = callable(source) and not hasattr(source, "__iter__")
        if not self._made and _iterator(source, "X") is source and epochs > 1:
            raise ValueError(f"X is an iterator, which gives its batches once, and epochs is {epochs}: give a function that returns "
                             "a new iterator for each epoch, or an object that can be iterated over again")
        self.source, self.steps = source, None
        self._begun = None

    def begin(self):
        """An iterator over the batches of the next epoch: (number, x, y, sample_weight or None)."""
        begun, self._begun = self._begun, None
        return self._open() if begun is None else begun

    def first(self):
        """The first batch of the next epoch, which stays in it."""
        begun = self._open()
        first = next(begun, None)
        if first is None:
            raise self.empty(1)
        self._begun = chain([first], begun)
        return first

    def empty(self, epoch):
        """The error that an epoch had no batches."""
        return ValueError(f"X gave no batches in epoch {epoch}" + (
            ": an iterator gives them once" if not self._made and iter(self.source) is self.source else ""))

    def _open(self):
        made = self.source() if self._made else self.source
        drawn = _iterator(made, "X()" if self._made else "X")
        self.steps = length_hint(made, 0) or length_hint(drawn, 0) or None
        return _parted(drawn)


def _iterator(source, what):
    try:
        return iter(source)
    except TypeError:
        raise TypeError(f"y is None, so {what} must be an iterable of batches (x, y), got {type(source).__name__}") from None


def _parted(drawn):
    for i, batch in enumerate(drawn):
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            what = f"a {type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise TypeError(f"batch {i} must be a tuple (x, y) or (x, y, sample_weight), got {what}")
        yield i, batch[0], batch[1], batch[2] if len(batch) == 3 else None
