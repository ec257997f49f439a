"""Reading word vectors side by side with gensim: ``python bench/vectors.py [--words 341000] [--dim 100] [--no-gensim]``.

Writes a GloVe text file of random numbers with five significant digits, and reads it with each library in a process of its own:
seconds, and by how much the peak of the process's memory grew, as a multiple of the matrix. gensim must be installed, or
``--python`` names an interpreter that has it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

READERS = {
    "backprop": "from backprop import WordVectors; load = WordVectors.load; matrix = lambda v: v.matrix",
    "gensim": "from gensim.models import KeyedVectors; matrix = lambda v: v.vectors\n"
    "load = lambda path: KeyedVectors.load_word2vec_format(path, no_header=True)",
}
MEASURE = """
import resource, sys, time
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, start, cpu = peak(), time.perf_counter(), time.process_time()
v = load(sys.argv[1])
print(time.perf_counter() - start, time.process_time() - cpu, (peak() - before) / matrix(v).nbytes, *matrix(v).shape)
"""


def write(path, words, dim):
    import numpy as np

    rng = np.random.default_rng(0)
    row = " %.5g" * dim + "\n"
    with open(path, "w", encoding="utf-8") as f:
        for i in range(words):
            f.write(f"word{i}" + row % tuple(rng.normal(size=dim) * 0.4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=int, default=341_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-gensim", action="store_true")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs gensim")
    args = parser.parse_args()
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.txt")
        write(path, args.words, args.dim)
        print(f"{args.words:,} x {args.dim}, {path.stat().st_size / 2**20:.0f} MiB of text")
        for name in [*READERS][: 1 if args.no_gensim else 2]:
            python = args.python if name == "gensim" else sys.executable
            for _ in range(args.repeats):
                code = READERS[name] + MEASURE
                run = subprocess.run([python, "-c", code, str(path)], check=True, stdout=subprocess.PIPE, text=True)
                seconds, cpu, memory, *shape = map(float, run.stdout.split())
                assert shape == [args.words, args.dim], shape
                best[name] = min(best.get(name, (cpu, seconds, memory)), (cpu, seconds, memory))
            print(f"{name:9} {best[name][1]:7.2f} s ({best[name][0]:.2f} s of a processor), memory {best[name][2]:.2f} x the matrix")
    if len(best) == 2:
        print(f"ratio of processor time {best['gensim'][0] / best['backprop'][0]:.1f}x (best of {args.repeats})")


if __name__ == "__main__":
    main()
