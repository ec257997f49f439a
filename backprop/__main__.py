"""The command line: ``backprop demo``, ``train``, ``predict``, ``bench``, ``info``.

A model of ``train`` is one safetensors file: the network as `backprop.load` takes it, and beside it in the metadata, under the
key ``table``, what its columns are (see `features`). Nothing else is needed to predict.
"""

import argparse
import csv
import errno
import io
import math
import os
import platform
import sys
import time

import numpy as np

from . import (Adam, Dense, Dropout, Input, Sequential, Trainer, __version__, _core, data, files, functions, metrics,
               saving, schedules)
from .errors import FileFormatError
from .features import Features, Target


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv=None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("backprop: interrupted", file=sys.stderr)
        return 130
    except OSError as e:
        print(f"backprop {args.command}: {e.filename}: {e.strerror}" if e.filename else f"backprop {args.command}: {e}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, KeyError, FloatingPointError, MemoryError) as e:
        text = e.args[0] if isinstance(e, KeyError) and e.args else str(e) or type(e).__name__
        print(f"backprop {args.command}: {' '.join(str(text).split())}", file=sys.stderr)
        return 2
    return 0


def _whole(low):
    def read(text):
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= low):
            raise argparse.ArgumentTypeError(f"a whole number of at least {low} was expected, got {text!r}")
        return int(text)
    return read


def _real(low, high, open_low=False):
    def read(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value if open_low else low <= value) or not value < high:
            raise argparse.ArgumentTypeError(f"a number {'above' if open_low else 'from'} {low:g}"
                                             f"{'' if high == math.inf else f' and below {high:g}'} was expected, got {text!r}")
        return value
    return read


def _peers(text):
    from .benchmark import PEERS

    names = [part.strip() for part in text.split(",")] if text.strip() not in ("", "none") else []
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"there is no peer {name!r}: {', '.join(PEERS)}, or none")
    return list(dict.fromkeys(names))


def _sizes(text):
    return [_whole(1)(part.strip()) for part in text.split(",")] if text.strip() not in ("", "none") else []


def _parser():
    parser = _Parser(prog="backprop", description="Train networks of dense layers on the CPU.")
    parser.add_argument("--version", action="version", version=f"backprop {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("demo", help="learn to read handwritten digits in a second",
                            description="Train on the 1,797 digits of 8x8 pixels that come with the package. A fifth of them is held "
                                        "out and shows what was learned. Writes the network, and a picture of the learning curve "
                                        "where matplotlib is installed.")
    p.add_argument("--out", metavar="MODEL", default="backprop-demo.safetensors", help="file to write (default: ./%(default)s); "
                   "the picture gets the same name with .png")
    p.add_argument("--epochs", type=_whole(1), default=30, metavar="N", help="passes over the data (default: %(default)s)")
    p.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="of weights and order (default: %(default)s)")
    p.set_defaults(run=_demo)

    p = commands.add_parser("train", help="train on a CSV file and save a model", description=(
        "Train on a table. Columns of numbers are standardised, and a missing number counts as the column's mean. Columns of text "
        "become a 0/1 input for each value (a missing text is a value of its own); those with more than 100 values, or than half the rows, are left out. "
        "Rows without a target are left out. The model is one file with all that `predict` needs."))
    p.add_argument("file", metavar="FILE.csv", help="table with commas, semicolons or tabs; names in the first line")
    p.add_argument("--target", required=True, metavar="COL", help="column to predict")
    p.add_argument("--out", metavar="MODEL", help="file to write (default: FILE.safetensors in this folder)")
    p.add_argument("--task", choices=("auto", "classification", "regression"), default="auto",
                   help="auto: classification for text, and for up to 20 different whole numbers (default: %(default)s)")
    p.add_argument("--hidden", type=_sizes, default=[64, 64], metavar="N,N...", help="units of the hidden layers, none for a linear "
                   "model (default: 64,64)")
    p.add_argument("--activation", choices=sorted({*functions.ACTIVATIONS, "prelu"}), default="relu", metavar="NAME",
                   help="of the hidden layers: %(choices)s (default: %(default)s)")
    p.add_argument("--dropout", type=_real(0, 1), default=0.0, metavar="RATE", help="after each hidden layer (default: %(default)s)")
    p.add_argument("--epochs", type=_whole(1), default=50, metavar="N", help="passes over the data (default: %(default)s)")
    p.add_argument("--batch-size", type=_whole(1), default=32, metavar="N", help="rows of a step (default: %(default)s)")
    p.add_argument("--lr", type=_real(0, math.inf, True), default=1e-3, metavar="RATE", help="learning rate of Adam (default: %(default)s)")
    p.add_argument("--validation", type=_real(0, 1), default=0.2, metavar="PART", help="part of the rows to hold out, stratified by "
                   "class; 0 for none (default: %(default)s)")
    p.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="of weights, order and held-out rows (default: %(default)s)")
    p.set_defaults(run=_train)

    p = commands.add_parser("predict", help="predict with a saved model",
                            description="Write a CSV with a line for each row of FILE.csv: the prediction, and for classes their "
                                        "probabilities. Columns are found by name; others, the target among them, are ignored.")
    p.add_argument("model", metavar="MODEL", help="file that `backprop train` wrote")
    p.add_argument("file", metavar="FILE.csv", help="table with the columns that the model was trained on")
    p.add_argument("--out", metavar="FILE", help="file to write (default: standard output)")
    p.set_defaults(run=_predict)

    p = commands.add_parser("bench", help="how fast a network of your shape trains here", description=(
        "Time a training step (dense layers, Adam, cross-entropy, float32, made-up data) in turns with peers, and show where its "
        "time goes by phase and instruction, and its share of what the processor can do. Only ratios mean something."))
    p.add_argument("--layers", type=_sizes, default=[784, 256, 10], metavar="N,N...", help="widths from input to output (default: 784,256,10)")
    p.add_argument("--batch", type=_whole(1), default=128, metavar="N", help="rows of a step (default: %(default)s)")
    p.add_argument("--activation", choices=("relu", "tanh", "sigmoid"), default="relu", metavar="NAME",
                   help="of the hidden layers: %(choices)s (default: %(default)s)")
    p.add_argument("--peers", type=_peers, default=["numpy", "torch"], metavar="NAME,NAME", help="numpy (by hand, with buffers), torch "
                   "(where installed), none (default: numpy,torch)")
    p.add_argument("--threads", type=_whole(1), default=1, metavar="N", help="for all alike (default: %(default)s)")
    p.add_argument("--seconds", type=_real(0, 3600, True), default=2.0, metavar="S", help="to measure for (default: %(default)s)")
    p.set_defaults(run=_bench)

    p = commands.add_parser("info", help="version, instruction sets, threads",
                            description="Show the version, which instruction sets are compiled in, present and used, and how many "
                                        "threads and why.")
    p.set_defaults(run=_info)
    return parser


# ---------------------------------------------------------------- demo

def _machine():
    n, used = _core.threads_get(), _core.isa_current()
    return f"{used} instructions, {n} thread{'s' * (n != 1)}"


def _check_place(path):
    """Says before the work is done that a file cannot be written there."""
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _demo(args):
    _check_place(args.out)
    X, y = data.digits()
    X, X_held, y, y_held = data.train_test_split(X, y, test_fraction=0.2, stratify=y)
    net = Sequential([Input(64), Dense(128, "relu"), Dropout(0.2), Dense(64, "relu"), Dropout(0.2), Dense(10)], seed=args.seed)
    steps = args.epochs * -(-len(X) // 32)
    trainer = Trainer(net, loss="cross_entropy", optimizer=Adam(schedules.Cosine(4e-3, total=steps)), seed=args.seed)
    print(f"{len(X):,} digits of 8x8 pixels to learn from, {len(X_held)} held out")
    print(f"network 64-128-64-10, {sum(a.size for a in net.parameters.values()):,} parameters; {_machine()}\n")
    print("epoch  training loss  held-out loss  held-out accuracy")

    def show(trainer, logs):
        print(f"{logs['epoch']:5}  {logs['train_loss']:13.4f}  {logs['valid_loss']:13.4f}  {logs['valid_accuracy']:17.2%}", flush=True)

    started = time.perf_counter()
    history = trainer.fit(X, y, epochs=args.epochs, batch_size=32, validation_data=(X_held, y_held), callbacks=[show], progress=False)
    seconds = time.perf_counter() - started
    right = round(history[-1]["valid_accuracy"] * len(y_held))
    print(f"\n{right} of {len(y_held)} held-out digits are read right: {right / len(y_held):.2%}, after {seconds:.2f} s")
    net.save(args.out)
    print(f"network         {args.out}")
    picture = os.path.splitext(args.out)[0] + ".png"
    print(f"learning curve  {picture}" if _picture(history, picture) else "learning curve  not drawn: matplotlib is not installed")


def _picture(history, path):
    """Draws the learning curve; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = history["epoch"]
    loss.plot(epochs, history["train_loss"], label="training")
    loss.plot(epochs, history["valid_loss"], label="held out")
    loss.set(xlabel="epoch", ylabel="mean cross-entropy", yscale="log", title="loss")
    loss.legend()
    accuracy.plot(epochs, [100 * a for a in history["valid_accuracy"]], color="C1")
    accuracy.set(xlabel="epoch", ylabel="digits read right, %", title="held-out accuracy", ylim=(None, 100))
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    with files.atomic_write(path) as f:
        f.write(picture.getbuffer())
    return True


# ---------------------------------------------------------------- tables

def _train(args):
    table = data.load_csv(args.file)
    if args.target not in table.names:
        raise ValueError(f"{args.file}: no column {args.target!r}; there are {', '.join(map(repr, table.names))}")
    if len(table.names) == 1:
        raise ValueError(f"{args.file}: no column besides {args.target!r}")
    out = args.out or os.path.splitext(os.path.basename(args.file))[0] + ".safetensors"
    _check_place(out)
    try:
        table, without = _with_target(table, args.target)
        target, y = Target.find(table, args.target, args.task)
        rows = np.arange(len(table))
        held = rows[:0]
        if args.validation:
            rows, held = data.train_test_split(rows, test_fraction=args.validation, seed=args.seed,
                                               stratify=None if target.classes is None else y)
        features = Features.fit(table.without(args.target), rows)
        X, _ = features.transform(table)
    except ValueError as e:
        raise ValueError(f"{args.file}: {e}") from e
    X = X.astype("float32")
    if target.classes is None:
        scaling = data.Standardizer.fit(y[rows].reshape(-1, 1))
        target.mean, target.scale = float(scaling.mean[0]), float(scaling.scale[0])
        loss, outputs, wanted = "squared_error", 1, ((y - target.mean) / target.scale).astype("float32")
    else:
        loss, outputs, wanted = "cross_entropy", len(target.classes), y
    layers = [Input(features.width)]
    for units in args.hidden:
        layers += [Dense(units, args.activation), *([Dropout(args.dropout)] if args.dropout else [])]
    net = Sequential([*layers, Dense(outputs)], seed=args.seed)
    trainer = Trainer(net, loss, Adam(args.lr), seed=args.seed)
    started = time.perf_counter()
    trainer.fit(X[rows], wanted[rows], epochs=args.epochs, batch_size=args.batch_size, progress=None,
                validation_data=(X[held], wanted[held]) if len(held) else None)
    seconds = time.perf_counter() - started
    record = {"version": 1, "columns": features.columns, "target": target.to_config()}
    saving.save(net, out, {"table": saving.dump(record)})

    texts = sum("values" in c for c in features.columns)
    kinds = " and ".join(f"{n} of {kind}" for n, kind in ((len(features.columns) - texts, "numbers"), (texts, "text")) if n)
    lines = [("task", f"regression of {target.name!r}" if target.classes is None else
              f"classification of {target.name!r} into {len(target.classes)} classes: {_listing(target.classes)}"),
             ("rows", f"{len(rows):,} to train on, {len(held):,} held out" + (f"; {without:,} without a target left out" if without else "")),
             ("columns", f"{kinds}, {features.width} inputs"
              + (f"; left out, too many values: {_listing(features.left_out)}" if features.left_out else "")),
             ("network", f"{'-'.join(map(str, [features.width, *args.hidden, outputs]))}, {args.activation}, "
              f"{sum(a.size for a in net.parameters.values()):,} parameters"),
             ("training", f"{args.epochs} epochs, {trainer.t:,} steps, {seconds:.2f} s; {_machine()}")]
    for name, part in (("training part", rows), ("held-out part", held)):
        if len(part):
            lines.append((name, _quality(net.predict(X[part]), y[part], target)))
    lines.append(("model", out))
    for name, text in lines:
        print(f"{name:15}{text}")


def _with_target(table, name):
    """The rows that have a target, and how many have none."""
    column = table[name]
    keep = [i for i, v in enumerate(column) if (v == v and v != "")]
    if not keep:
        raise ValueError(f"column {name!r} is empty")
    if len(keep) < len(table):
        columns = tuple(c[keep] if isinstance(c, np.ndarray) else [c[i] for i in keep] for c in table.columns)
        table = data.Table(table.names, columns, tuple(table.lines[i] for i in keep))
    return table, len(column) - len(keep)


def _listing(texts):
    shown = [repr(t) if t == "" or len(t) > 30 else t for t in texts[:8]]
    return ", ".join(shown) + (f", ... ({len(texts) - 8} more)" if len(texts) > 8 else "")


def _quality(outputs, y, target):
    if target.classes is not None:
        return f"accuracy {metrics.accuracy(outputs, y):.4f}"
    values = outputs[:, 0].astype("float64") * target.scale + target.mean
    return f"RMSE {math.sqrt(metrics.mean_squared_error(values, y)):.6g}, R2 {metrics.r2(values, y):.4f}"


def _predict(args):
    net = saving.load(args.model)
    record = files.inspect(args.model)[1].get("table")
    if record is None:
        raise ValueError(f"{args.model}: a network, but no model of `backprop train`: its columns are not known")
    try:
        record = saving.parse(record)
        if saving.field(record, "version", int) != 1:
            raise ValueError("written by a newer version of this package")
        features, target = Features.from_config(record.get("columns")), Target.from_config(record.get("target"))
        outputs = 1 if target.classes is None else len(target.classes)
        if not isinstance(net, Sequential) or net._inputs[0].shape != (-1, features.width) or net._outputs[0].shape != (-1, outputs):
            raise ValueError("its network does not fit its columns")
    except ValueError as e:
        raise FileFormatError(f"{args.model}: {e}") from e
    table = data.load_csv(args.file)
    try:
        X, unknown = features.transform(table)
    except ValueError as e:
        raise ValueError(f"{args.file}: {e}") from e
    for name, n in unknown.items():
        print(f"backprop predict: column {name!r}: {n} of {len(table)} values did not occur in training", file=sys.stderr)
    scores = net.predict(X.astype("float32")).astype("float64")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if target.classes is None:
        writer.writerow(["prediction"])
        writer.writerows([f"{v:.9g}"] for v in scores[:, 0] * target.scale + target.mean)
    else:
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        writer.writerow(["prediction", *(f"probability {c}" for c in target.classes)])
        writer.writerows([target.classes[i], *(f"{v:.6f}" for v in row)] for i, row in zip(scores.argmax(axis=1), p))
    if args.out is None:
        sys.stdout.write(text.getvalue())
    else:
        with files.atomic_write(args.out) as f:
            f.write(text.getvalue().encode())


# ---------------------------------------------------------------- bench

def _bench(args):
    from .benchmark import command  # imports what the other commands do not need

    command(args.layers, args.batch, args.activation, args.peers, args.threads, args.seconds)


# ---------------------------------------------------------------- info

def _info(args):
    print(f"backprop {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {platform.system()} {platform.machine()}\n")
    print("instruction set  compiled  present  used")
    for row in _core.isa_info():
        print(f"{row['name']:15}  " + "  ".join(f"{'yes' if row[k] else 'no':{w}}" for k, w in (
            ("compiled", 8), ("supported", 7), ("current", 4))).rstrip())
    n, why = _core.threads_default()
    print(f"\nthreads: {_core.threads_get()}" + (f" ({why})" if n == _core.threads_get() else f" (by default {n}: {why})"))


if __name__ == "__main__":
    sys.exit(main())
