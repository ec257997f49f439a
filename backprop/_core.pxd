# What other Cython modules may cimport: `from backprop._core cimport Binding, Program`. No C header is needed for that.
from libc.stdint cimport int64_t

cdef struct Space:
    int element_bytes   # 0 for the arena
    int64_t dim         # elements; where negative, -dim for each row of the run
    bint writable
    char kind           # 'f', 'd' or 'i': float32, float64, int32

cdef class Program:
    cdef void *handle   # bp_program of backprop.h
    cdef Space *space   # [n_spaces]
    cdef readonly int real_bytes
    cdef readonly int n_spaces
    cdef readonly int64_t capacity
    cdef readonly int64_t n_instructions
    cdef int n_chains
    cdef readonly tuple calls  # the operations of its CALLs, by number

cdef class Binding:
    cdef readonly Program program
    cdef void *context  # bp_context of backprop.h, with scratch for context_threads
    cdef int context_threads
    cdef Py_buffer *view  # [n_spaces]; .format is NULL where nothing is set
    cdef void **base      # [n_spaces] the same buffers' first bytes
    cdef readonly bint running
    cdef public int64_t done
    cdef Py_ssize_t arena_views
    cdef object pending  # what a signal handler or an operation raised while C was running
