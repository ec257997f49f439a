"""What all peers of a benchmark are held to alike: threads, processors, and how denormal numbers are treated."""

import os


def limit(threads):
    """Hold every library to `threads` threads: before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BACKPROP_NUM_THREADS"):
        os.environ[name] = str(threads)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # where set, they hold the peers' BLAS back
        os.environ.pop(name, None)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if hasattr(os, "sched_setaffinity"):  # one processor for all peers alike
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def limit_torch(threads):
    """The same for PyTorch, if it is installed: as many threads, and denormal numbers are flushed to zero, as ours are."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
