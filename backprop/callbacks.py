"""What happens beside training: history, early stopping, the progress line, callbacks of a user's own.

A callback has any of these methods; all are called on the thread that called ``fit`` (by `fit_many` on the thread of the model, one
at a time), with the trainer first and the rest as keywords (skorch's names): ``on_train_begin(trainer, epochs)``,
``on_train_end(trainer)``, ``on_epoch_begin(trainer, epoch)``, ``on_epoch_end(trainer, epoch, logs)``,
``on_batch_begin(trainer, epoch, batch)``, ``on_batch_end(trainer, epoch, batch, loss)``. Those for batches cost a call into Python
for every step; leave them out where they are not needed. ``trainer.stop_training = True`` ends the training after the step.

``on_segment(trainer, done, steps, loss)`` is for displays: some 20 times a second, `steps` None where an epoch's end is not known.
"""

from __future__ import annotations

import sys
import time


class History(list):
    """One dict for each epoch; ``history["train_loss"]`` is the column of that name."""

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self if key in row]
        return super().__getitem__(key)


class Callback:
    """Base class for those who like one; any object with some of the methods will do."""


class Callbacks:
    """Calls the methods that callbacks have."""

    def __init__(self, callbacks):
        known = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end", "on_segment")
        for c in callbacks:
            if isinstance(c, type):
                raise TypeError(f"a callback is an object, got the class {c.__name__}: write {c.__name__}()")
            if not callable(c) and not any(callable(getattr(c, name, None)) for name in known):
                raise TypeError(f"a callback needs one of {', '.join(known[:-1])}, or is a function of (trainer, logs); got {c!r}")
        self._methods = {name: [getattr(c, name) for c in callbacks if callable(getattr(c, name, None))] for name in known}
        plain = [c for c in callbacks if callable(c) and not any(hasattr(c, name) for name in known)]
        self._methods["on_epoch_end"] += [lambda trainer, epoch, logs, c=c: c(trainer, logs) for c in plain]
        self.each_batch = bool(self._methods["on_batch_begin"] or self._methods["on_batch_end"])

    def __call__(self, name, trainer, **kwargs):
        for method in self._methods[name]:
            method(trainer, **kwargs)


class EarlyStopping(Callback):
    """Stop when a column of the history has not got better for some epochs.

    Parameters
    ----------
    monitor : str
        ``"valid_loss"`` where there is validation data, else ``"train_loss"``, unless given.
    patience : int
        Epochs without an improvement after which training stops.
    min_delta : float
        What counts as an improvement.
    mode : {"min", "max"}, optional
        By name: accuracies grow, everything else falls.
    restore_best : bool
        Put the best epoch's parameters and buffers back at the end.
    """

    def __init__(self, monitor=None, patience=10, min_delta=0.0, mode=None, restore_best=True):
        if isinstance(patience, bool) or not hasattr(patience, "__index__") or patience < 1:
            raise ValueError(f"patience must be a whole number of at least 1, got {patience!r}")
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode must be min or max, got {mode!r}")
        self.monitor, self.patience, self.min_delta, self.mode = monitor, int(patience), float(min_delta), mode
        self.restore_best = bool(restore_best)

    def on_train_begin(self, trainer, epochs):
        self.best, self.best_epoch, self.stopped_epoch, self._parameters, self._waited = None, None, None, None, 0

    def on_epoch_end(self, trainer, epoch, logs):
        name = self.monitor or ("valid_loss" if "valid_loss" in logs else "train_loss")
        if name not in logs:
            raise ValueError(f"early stopping watches {name!r}; the history has {', '.join(logs)}")
        value = logs[name]
        larger = self.mode == "max" or (self.mode is None and "accuracy" in name)
        better = self.best is None or (value > self.best + self.min_delta if larger else value < self.best - self.min_delta)
        if better:
            self.best, self.best_epoch, self._waited = value, epoch, 0
            if self.restore_best:
                self._parameters = (trainer.net.flat_parameters.copy(), trainer.net.flat_buffers.copy())
        else:
            self._waited += 1
            if self._waited >= self.patience:
                self.stopped_epoch = epoch
                trainer.stop_training = True

    def on_train_end(self, trainer):
        if self.restore_best and self._parameters is not None and self.stopped_epoch is not None:
            trainer.net.flat_parameters[...], trainer.net.flat_buffers[...] = self._parameters


def shown(logs):
    """The losses and accuracies of an epoch, as a line of progress has them."""
    return "  ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in logs.items() if "loss" in k or "accuracy" in k)


class Progress(Callback):
    """A line on the terminal that grows with the epoch, and stays when it ends."""

    def __init__(self, stream=None):
        self.stream = sys.stdout if stream is None else stream
        self.epochs = 0
        self._drawn = 0.0

    @classmethod
    def wanted(cls, progress):
        """The callback for fit's argument `progress`, or None."""
        if progress is None:
            progress = bool(getattr(sys.stdout, "isatty", lambda: False)())
        return cls() if progress is True else progress or None

    def on_train_begin(self, trainer, epochs):
        self.epochs = trainer.epoch + epochs

    def on_epoch_begin(self, trainer, epoch):
        self._started = self._drawn = time.perf_counter()

    def on_segment(self, trainer, done, steps, loss):
        now = time.perf_counter()
        if now - self._drawn > 0.2 and done != steps and self.stream.isatty():
            self._drawn = now
            if steps is None:
                how_far, left = f"{done} batches", f"{now - self._started:.0f} s"
            else:
                filled = 24 * done // steps
                how_far = f"[{'=' * filled}{' ' * (24 - filled)}] {done}/{steps}"
                left = f"{(now - self._started) / done * (steps - done):.0f} s left"
            self.stream.write(f"\repoch {trainer.epoch + 1}/{self.epochs} {how_far} loss {loss:.4f}, {left} ")
            self.stream.flush()

    def on_epoch_end(self, trainer, epoch, logs):
        clear = "\r\x1b[K" if self.stream.isatty() else ""
        self.stream.write(f"{clear}epoch {epoch}/{self.epochs}  {shown(logs)}  {logs['dur']:.2f} s\n")
        self.stream.flush()
