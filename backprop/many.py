"""Many small models at once: each is trained by one thread, so that the threads hardly ever wait for one another.

A step of a small network is over in less time than it takes to wake a second thread, so `Trainer.fit` runs it on one. Where there
are many such networks (seeds, folds, a grid of settings) a thread for each of them is the way to use all processors: a thread
takes the next model, trains it to its end with the bits of its own fit, and takes another.
"""

from __future__ import annotations

import copy
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue

import numpy as np

from . import _core, losses
from .arrays import Once
from .callbacks import Callbacks, EarlyStopping, Progress, shown
from .errors import named
from .layers import with_inner
from .lower import Programs, lower
from .network import Network
from .trainer import Trainer

_RULES = ("precision", "fuse", *Trainer.__init__.__kwdefaults__)  # what a Trainer takes beside the arguments below
_ARRAYS = ("rows", "validation_rows", "sample_weight")  # an array is the value of these, and a list of values for the others
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP}  # a thread's own


def fit_many(models, X, y, *, loss="cross_entropy", optimizer="adam", seed=0, epochs=1, batch_size=32, sample_weight=None, rows=None,
             validation_data=None, validation_rows=None, validation_fraction=0.0, shuffle=True, early_stopping=None, callbacks=(),
             progress=None, return_trainers=False, **rules):
    """Train many networks on the same data, each by a thread of its own: seeds, folds, grids of settings.

    As many networks are trained at a time as `bp.threads` allows, in the order in which they stand, each on one thread (a single
    network has all threads). Each ends with the bits that a fit of its own gives it: ``Trainer(net, loss, optimizer, seed,
    **rules).fit(X[rows], y[rows], ...)``.

    An option is one value for all models, or a **list** (or range) with a value for each. What is a list by itself, as the losses
    of several outputs, is written as a tuple where it is meant for all: ``callbacks=(Mine(),)``.

    Parameters
    ----------
    models : list of Network
        No two of them may share a layer or an array of parameters.
    X : array_like (n, ...), or a list of one for each input, or a dict by the names of inputs
    y : array_like (n,) or (n, k), or a list of one for each output
        Both are checked and converted once for all models that take them alike, and not copied for each.
    loss, optimizer, seed
        As for `Trainer`. An optimiser, with its schedules, is copied for each model.
    epochs, batch_size, validation_fraction, shuffle
        As for `Trainer.fit`.
    sample_weight : array_like (n,), optional
        For all rows of X, also where `rows` names some.
    rows : array_like of int, or of n bool; optional
        The rows to train on, all where it is None: a fold, a sample with repetitions. They are read where they lie.
    validation_data : tuple (X, y) or (X, y, sample_weight), optional
    validation_rows : array_like of int, or of n bool; optional
        The rows to validate with. They are copied when the training of their model begins, until it ends.
    early_stopping : EarlyStopping or int, optional
        Copied for each model.
    callbacks : tuple of Callback, or a list with a tuple for each model
        They are called on the thread of their model, because that holds the trainer, but never two at the same time; so one object
        may serve all models. They may use their own trainer and network, not those of others. An EarlyStopping is copied.
    progress : bool, optional
        A line for each model as it ends. None: only where the output is a terminal.
    return_trainers : bool
    **rules
        Other arguments of `Trainer`: ``precision``, ``l2``, ``clip_norm``, ``ema`` ...

    Returns
    -------
    list of History
        What `Trainer.fit` returns, for each model in order; with `return_trainers` a pair of that and of the list of trainers.

    Raises
    ------
    ValueError, TypeError
        Something is wrong with an argument, of the model that the message names: nothing has been changed.
    Exception
        What the training of a model, or one of its callbacks, was the first to raise, with a note of the model's position. The
        others end their training then, after a whole step, and keep what they have learned; those that had not begun stay as
        they were. So it is with Ctrl-C. No thread is left behind.

    Notes
    -----
    Functions of your own (losses, schedules, operations) are called on the thread of their model, those of several models at the
    same time.

    Examples
    --------
    >>> nets = [bp.Sequential([bp.Dense(width, "relu"), bp.Dense(10)]) for width in (32, 64, 128)]
    >>> histories = bp.fit_many(nets, X, y, optimizer=[bp.Adam(rate) for rate in (4e-3, 2e-3, 1e-3)], epochs=20, early_stopping=3,
    ...                         validation_fraction=0.2)
    """
    unknown = next((name for name in rules if name not in _RULES), None)
    if unknown is not None:
        raise TypeError(f"fit_many() got an unexpected keyword argument {unknown!r}")
    models = _checked(models)
    if y is None:
        raise TypeError("y is None, expected an array: batches from an iterator are not for many models")
    options = {"loss": loss, "optimizer": optimizer, "seed": seed, "epochs": epochs, "batch_size": batch_size,
               "sample_weight": sample_weight, "rows": rows, "validation_data": validation_data, "validation_rows": validation_rows,
               "validation_fraction": validation_fraction, "shuffle": shuffle, "early_stopping": early_stopping,
               "callbacks": callbacks, **rules}
    each = [dict(zip(options, values)) for values in zip(*(_each(name, value, len(models)) for name, value in options.items()))]
    crew, trainers, once, resolved = _Crew(_Lines.wanted(progress, len(models))), [], Once(), {}
    with _tentative(models):
        for i, (net, own) in enumerate(zip(models, each)):
            with named(f"model {i}"):
                trainer = Trainer(net, _resolve(own["loss"], resolved), copy.deepcopy(own["optimizer"]), own["seed"],
                                  **{name: own[name] for name in rules})
                crew.add(trainer, own, X, y, once)
                if return_trainers:  # else each may go when it is through, with its program and state
                    trainers.append(trainer)
    histories = crew.run()
    return (histories, trainers) if return_trainers else histories


def _checked(models):
    """The models as a list, once it is sure that none of them sees what another has."""
    if isinstance(models, Network) or not hasattr(models, "__iter__"):
        raise TypeError(f"models must be a list of networks, got {models!r}")
    models = list(models)
    owner, memory = {}, []
    for i, net in enumerate(models):
        if not isinstance(net, Network):
            raise TypeError(f"models[{i}] must be a bp.Network or bp.Sequential, got {type(net).__name__}")
        for part in (net, *with_inner(dict.fromkeys(net.layers, ""))):
            first = owner.setdefault(part, i)
            if first != i:
                what = "are the same network" if part is net else f"share a layer, {part!r}: layer.copy() makes one like it"
                raise ValueError(f"models[{first}] and models[{i}] {what}")
        for a in (net.flat_parameters, net.flat_buffers) if net.built else ():
            start = a.__array_interface__["data"][0]
            memory += [(start, start + a.nbytes, i)] if a.size else []
    highest, i = 0, 0  # the end of all arrays so far, and the model that it belongs to
    for start, end, j in sorted(memory):
        if start < highest and i != j:
            raise ValueError(f"models[{min(i, j)}] and models[{max(i, j)}] have their parameters in the same memory")
        if end > highest:
            highest, i = end, j
    return models


def _each(name, value, n):
    """What an option is for each of `n` models."""
    if isinstance(value, (list, range)) or (isinstance(value, np.ndarray) and value.ndim == 1 and name not in _ARRAYS):
        if len(value) != n:
            raise ValueError(f"{name} is a list of {len(value)} for {n} models: a list has a value for each of them, and what is for "
                             f"all is {'an array' if name in _ARRAYS else 'a tuple or a single value'}")
        return list(value)
    return [value] * n


def _resolve(loss, known):
    """Losses as Trainer takes them; for one function always the same object, so that targets are checked for it once."""
    if isinstance(loss, (list, tuple)):
        return [_resolve(f, known) for f in loss]
    if id(loss) not in known:
        known[id(loss)] = losses.resolve(loss)
    return known[id(loss)]


@contextmanager
def _tentative(models):
    """Where the block raises, networks that it built or gave a seed are again as they were."""
    seeds = [net.seed for net in models]
    with ExitStack() as stack:
        for net in models:
            stack.enter_context(net.tentative())
        try:
            yield
        except BaseException:
            for net, seed in zip(models, seeds):
                net.seed = seed
            raise


@contextmanager
def _alone(look):
    """Within the block this thread has the core run on it alone, and has `look` called wherever the core looks at signals."""
    limit, poll = _core.threads_limit(1), _core.poll_with(look)
    try:
        yield
    finally:
        _core.threads_limit(limit)
        _core.poll_with(poll)


@contextmanager
def _signals_held():
    """Signals come when the block has ended: what a handler raises must not strike a thread being started, for it may leave the
    thread's locks taken (as CPython 3.11 does). Gives the signals that are blocked outside."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(BaseException):
    """Ends the training of a model because that of another has failed; no callback takes it for an error of its own."""


class _Crew:
    """The threads, and what they have in common."""

    def __init__(self, lines):
        self.lines, self.fits, self.histories = lines, [], []
        self.turn = threading.Lock()  # callbacks and lines come one at a time
        self.stopping, self.failures = False, []
        self._starting, self._through, self._token = threading.Lock(), [], SimpleQueue()
        self._programs = Programs()

    def add(self, trainer, own, X, y, once):
        """Check the data of a model, and put its training on the list."""
        if own["validation_rows"] is not None and (own["validation_data"] is not None or own["validation_fraction"]):
            raise ValueError("validation_rows goes with neither validation_data nor validation_fraction")
        data = trainer._ready(X, y, *(own[name] for name in ("epochs", "batch_size", "sample_weight", "validation_data",
                                                             "validation_fraction", "shuffle", "rows", "validation_rows")), once)
        called = trainer._together(own["callbacks"], own["early_stopping"], self.lines)
        run = _Turns([copy.copy(c) if isinstance(c, EarlyStopping) else c for c in called], self)
        self.fits.append(partial(self._fit, trainer, own["epochs"], *data, run))
        self.histories.append(trainer.history)

    def _fit(self, trainer, *how):
        trainer._make = self._programs  # models of a kind have one program: lowering it takes as long as some epochs
        try:
            trainer._train(*how)
        finally:
            trainer._make = lower

    def look(self):
        if self.stopping:
            raise _Stopped

    def run(self):
        """Train all models; their histories."""
        count = min(_core.threads_get(), len(self.fits))
        self._left = iter(range(len(self.fits)))
        others = []
        try:
            with _signals_held() as usual, self._starting:
                for i in range(1, count):
                    t = threading.Thread(target=copy_context().run, args=(self._work, usual), name=f"fit_many {i}")
                    try:
                        t.start()
                    except RuntimeError:  # the system has no more threads: those that there are will do
                        break
                    others.append(t)
            with _alone(self.look) if count > 1 else nullcontext():
                self._train()
            self._wait(len(others))
        finally:  # what a signal handler raised may have come from any line
            self.stopping = True
            self._wait(len(others))
            for t in others:
                t.join()
        if self.failures:  # an interruption is one too, and before all others
            error = next((e for e in self.failures if not isinstance(e, Exception)), self.failures[0])
            self.failures = []
            try:
                raise error
            finally:
                del error  # it holds this frame, and all arrays with it
        return self.histories

    def _wait(self, count):
        """Wait until so many threads are through: by `join` not before, because one that a signal interrupts takes its thread for
        ended (CPython up to 3.12)."""
        while len(self._through) < count:
            self._token.get()

    def _work(self, signals):
        """What the other threads do."""
        try:
            with self._starting:
                pass
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)  # what a callback starts has them of this thread
            with _alone(self.look):
                self._train()
        finally:
            self._through.append(True)
            self._token.put(True)

    def _train(self):
        """Train a model, and another, as long as there are some left."""
        for i in self._left:  # one for all threads: each number comes to one of them
            if self.stopping:
                break
            try:
                self.fits[i]()
                self.fits[i] = None
                if self.lines is not None:
                    with self.turn:
                        self.lines.end(i, self.histories[i])
            except _Stopped:
                break
            except BaseException as e:
                if isinstance(e, Exception):
                    e.add_note(f"raised in the training of models[{i}] by fit_many")
                self.failures.append(e)
                self.stopping = True
                break


class _Turns(Callbacks):
    """The callbacks of a model among others: one at a time, and none when all are to stop."""

    def __init__(self, callbacks, crew):
        super().__init__(callbacks)
        self._crew = crew

    def __call__(self, name, trainer, **kwargs):
        ending = name == "on_train_end"  # it may have something to put back
        if not ending:
            self._crew.look()
        if self._methods[name]:
            with self._crew.turn:
                if not ending:
                    self._crew.look()  # another's may have raised meanwhile
                super().__call__(name, trainer, **kwargs)


class _Lines:
    """A line for each model that has ended, and on a terminal one that moves meanwhile."""

    def __init__(self, count, stream):
        self.stream, self.count, self.ended = stream, count, 0
        self._drawn = time.perf_counter()

    @classmethod
    def wanted(cls, progress, count):
        line = Progress.wanted(progress)
        return None if line is None else cls(count, getattr(line, "stream", sys.stdout))

    def on_epoch_end(self, trainer, epoch, logs):
        now = time.perf_counter()
        if now - self._drawn > 0.2 and self.stream.isatty():
            self._drawn = now
            self.stream.write(f"\r\x1b[K{self.ended} of {self.count} models have ended; one has made {epoch} epochs, {shown(logs)} ")
            self.stream.flush()

    def end(self, i, history):
        self.ended += 1
        clear = "\r\x1b[K" if self.stream.isatty() else ""
        last = f"  {shown(history[-1])}" if history else ""
        seconds = sum(history["dur"])
        self.stream.write(f"{clear}model {i} ({self.ended}/{self.count})  {len(history)} epochs{last}  {seconds:.2f} s\n")
        self.stream.flush()
