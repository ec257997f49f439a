# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, cdivision=True
"""The one door to C: arrays are checked here, then everything runs without the GIL.

Nothing behind this module looks at a Python object. Whatever the C core asks of its arguments (backprop.h, kernels.h) is
made sure of here, with an exception that says which argument it was; what passes runs with the GIL released. Arrays come
in through the buffer protocol, so there is no tie to NumPy's ABI, and one build serves every Python from 3.11 on.
"""
import os
import sys
import threading

import numpy

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cython cimport floating
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    int PyObject_GetBuffer(object, Py_buffer *, int) except -1
    void PyBuffer_Release(Py_buffer *)
    int PyBuffer_FillInfo(Py_buffer *, object, void *, Py_ssize_t, int, int) except -1
    int PyBUF_FORMAT, PyBUF_C_CONTIGUOUS, PyBUF_STRIDES, PyBUF_WRITABLE
    object PyMemoryView_FromMemory(char *, Py_ssize_t, int)
    int PyBUF_READ, PyBUF_WRITE

cdef extern from "program.h" nogil:
    """
    /* The space of int32 (labels, row numbers) that an instruction reads or writes, or -1. */
    static int64_t integer_space(const bp_program *p, int64_t i)
    {
        const bp_instr *x = &p->instrs[i];
        switch (x->op) {
        case BP_INSTR_SOFTMAX_CE: return x->u.softmax.targets_kind == 0 ? x->u.softmax.targets.space : -1;
        case BP_INSTR_GATHER:
        case BP_INSTR_SCATTER_ADD:
        case BP_INSTR_FIRST:
        case BP_INSTR_ROW_UPDATE: return x->u.lookup.ids.space;
        case BP_INSTR_ARGMAX: return x->u.argmax.dst.space;
        case BP_INSTR_COPY_INT: return x->u.copy.src.space;
        default: return -1;
        }
    }
    /* The same for the destinations of COPY_INT and FIRST and the arrays of a CALL, one after another; -2 behind the last. */
    static int64_t more_integer_space(const bp_program *p, int64_t i, int j)
    {
        const bp_instr *x = &p->instrs[i];
        if (x->op == BP_INSTR_COPY_INT)
            return j == 0 ? x->u.copy.dst.space : -2;
        if (x->op == BP_INSTR_FIRST)
            return j == 0 ? x->u.lookup.rows.space : -2;
        if (x->op != BP_INSTR_CALL || j >= x->u.call.inputs + x->u.call.outputs)
            return -2;
        return x->u.call.operands[j].integer ? x->u.call.operands[j].at.space : -1;
    }
    """
    ctypedef struct bp_space:
        int element_bytes, writable
        int64_t elements
    ctypedef struct bp_map:
        int n_chains
    ctypedef struct bp_program:
        int real_bytes, n_spaces, n_maps
        int64_t capacity, n_calls
        bp_space *spaces
        bp_map *maps
    int64_t integer_space(const bp_program *, int64_t instruction)
    int64_t more_integer_space(const bp_program *, int64_t instruction, int j)

cdef extern from "backprop.h" nogil:
    ctypedef struct bp_op_row:
        const char *name
        int arity
        const char *algebra
    ctypedef struct bp_chain_step:
        int op, kept
        int operand[3]
    ctypedef struct bp_chain_row:
        const char *name
        int vectors, numbers, results, steps
        bp_chain_step step[9]
    enum:
        BP_MAP_COUNT, BP_REDUCE_COUNT, BP_INSTR_COUNT, BP_ISA_COUNT, BP_CHAIN_COUNT, BP_CHAIN_VECTORS, BP_CHAIN_NUMBERS, BP_CHAIN_RESULTS
    const bp_chain_row bp_chain_rows[]
    const bp_op_row bp_map_rows[]
    const char *const bp_reduce_names[]
    const char *const bp_instr_names[]

    const char *bp_isa_name(int isa)
    bint bp_isa_compiled(int isa)
    bint bp_isa_supported(int isa)
    int bp_isa_select(const char *name, char *err, size_t err_size)
    int bp_isa_current()

    int bp_threads_default(const char **why)
    int bp_threads_get()
    int bp_threads_set(int n)
    int bp_share_always(int on)
    enum: BP_KIND_COUNT
    int bp_kind_select(int kind)
    int bp_threads_limit(int n)

    ctypedef struct bp_context
    ctypedef struct bp_call_array:
        void *data
        int64_t bytes
    ctypedef struct bp_run_args:
        int64_t rows
        void **bases
        int64_t first, last
        uint64_t seed, step
        int64_t row0
        int flush
        int threads
        int (*poll)(void *) noexcept
        void *poll_arg
        int (*call)(void *, int64_t, int, int, const bp_call_array *, int64_t) noexcept
        void *call_arg
    ctypedef struct bp_run_result:
        int status
        int64_t instruction, value, limit
    bp_program *bp_program_new(const int64_t *words, int64_t n_words, char *err, size_t err_size)
    void bp_program_free(bp_program *)
    int64_t bp_program_instructions(const bp_program *)
    bp_context *bp_context_new(const bp_program *, int threads)
    void bp_context_free(bp_context *)
    void *bp_context_arena(bp_context *, size_t *nbytes)
    bp_run_result bp_run(const bp_program *, bp_context *, const bp_run_args *)

    ctypedef struct bp_feed:
        int space
        const void *data
        int64_t row_bytes, stride
    ctypedef struct bp_fit_args:
        const bp_feed *feeds
        int n_feeds
        const int64_t *order
        int64_t n, batch, rows
        int64_t first_step, n_steps
        int scalar_space
        int64_t scalar_stride
        int loss_space
        double seconds
    bp_run_result bp_fit(const bp_program *, bp_context *, const bp_run_args *, const bp_fit_args *, int64_t *done)

cdef extern from *:
    """
    void bp_permutation(int64_t n, uint64_t seed, uint64_t epoch, int64_t *out);   /* rng.c */
    void bp_uniform(int64_t n, uint64_t seed, uint64_t stream, double *out);
    int64_t bp_allocations(void);                                                  /* program.c */

    /* What threadpoolctl calls: the only names besides the module's own that this library shows. */
    __attribute__((visibility("default"))) int backprop_get_num_threads(void);
    __attribute__((visibility("default"))) void backprop_set_num_threads(int n);
    int backprop_get_num_threads(void) { return bp_threads_get(); }
    void backprop_set_num_threads(int n) { bp_threads_set(n < 1 ? 1 : n); }
    """
    void bp_permutation(int64_t n, uint64_t seed, uint64_t epoch, int64_t *out) nogil
    void bp_uniform(int64_t n, uint64_t seed, uint64_t stream, double *out) nogil
    int64_t bp_allocations() nogil

# ------------------------------------------------------------------ names, from ops.def
MAP_OPS = tuple([(bp_map_rows[i].name.decode(), bp_map_rows[i].arity, bp_map_rows[i].algebra.decode())
                 for i in range(BP_MAP_COUNT)])
REDUCE_OPS = tuple([bp_reduce_names[i].decode() for i in range(BP_REDUCE_COUNT)])
INSTRUCTIONS = tuple([bp_instr_names[i].decode() for i in range(BP_INSTR_COUNT)])


cdef tuple chain_row(const bp_chain_row *row):
    cdef list steps = []
    cdef int i, j, x
    for i in range(row.steps):
        name, arity, _ = MAP_OPS[row.step[i].op]
        operands = []
        for j in range(arity):
            x = row.step[i].operand[j]
            operands.append(x if x < BP_CHAIN_VECTORS else x - BP_CHAIN_VECTORS + row.vectors)
        steps.append((name, tuple(operands), bool(row.step[i].kept)))
    return row.name.decode(), row.vectors, row.numbers, tuple(steps)


# (name, vectors, numbers, steps); a step is (operation, operands, whether its result is one of the chain's), an operand an
# input, the vectors first, or -1 - i: the result of step i.
CHAINS = tuple([chain_row(&bp_chain_rows[i]) for i in range(BP_CHAIN_COUNT)])

# ------------------------------------------------------------------ processor


def isa_info():
    """The instruction sets that the library knows, best last.

    Returns
    -------
    list of dict
        Keys ``name``, ``compiled`` (this build has it), ``supported`` (this processor runs it), ``current`` (it is used).
    """
    return [
        {
            "name": bp_isa_name(i).decode(),
            "compiled": bp_isa_compiled(i),
            "supported": bp_isa_supported(i),
            "current": i == bp_isa_current(),
        }
        for i in range(BP_ISA_COUNT)
    ]


def isa_current():
    """Name of the instruction set that is used."""
    return bp_isa_name(bp_isa_current()).decode()


def isa_runnable():
    """Names of the instruction sets that this build and this processor can run."""
    return [bp_isa_name(i).decode() for i in range(BP_ISA_COUNT) if bp_isa_supported(i)]


cdef int select_isa() except -1:
    cdef char err[256]
    cdef bytes name = os.environb.get(b"BACKPROP_ISA", b"")
    err[0] = 0
    if bp_isa_select(name, err, sizeof(err)) != 0:
        raise ImportError(err.decode(errors="replace"))
    return 0


select_isa()


KIND_COUNT = BP_KIND_COUNT


def kind_select(int kind):
    """Takes the processor to be of another kind of those that differ in what is fast (for the tests); returns the old one. -1 only asks."""
    return bp_kind_select(kind)

# ------------------------------------------------------------------ threads


def threads_get():
    """The number of threads that a call from this thread may use, at most."""
    return bp_threads_get()


def threads_set(int n):
    """Sets the number of threads, n >= 1, for calls from any thread, and returns the old one."""
    if n < 1:
        raise ValueError(f"threads: at least 1, got {n}")
    return bp_threads_set(n)


def share_always(bint on):
    """Has every instruction shared among the threads, whatever that is worth (for the tests), or not; returns the old setting."""
    return bool(bp_share_always(on))


def threads_limit(int n):
    """Limits the calling thread's own calls to `n` threads, whatever is set for all (0: no limit); returns the old limit."""
    if n < 0:
        raise ValueError(f"threads: at least 0, got {n}")
    return bp_threads_limit(n)


def threads_default():
    """The number of threads to start with, and a few words on where it comes from: (n, why)."""
    cdef const char *why = NULL
    cdef int n = bp_threads_default(&why)
    return n, why.decode() if why != NULL else ""


def allocations():
    """How many blocks of memory the C core has asked for so far; a training step adds none."""
    return bp_allocations()

# ------------------------------------------------------------------ buffers

cdef bint LITTLE_ENDIAN = sys.byteorder == "little"
cdef dict KIND_NAMES = {ord("f"): "float32", ord("d"): "float64", ord("i"): "int32", ord("q"): "int64"}


cdef char kind_of(const Py_buffer *view) noexcept:
    """'f', 'd', 'i', 'q' for float32, float64, int32, int64 in native byte order; 0 for anything else."""
    cdef const char *code = view.format
    if code == NULL:
        return 0
    if code[0] == b"@" or code[0] == b"=" or (code[0] == b"<" and LITTLE_ENDIAN):
        code += 1
    if code[0] == 0 or code[1] != 0:
        return 0
    if code[0] == b"f" and view.itemsize == 4:
        return b"f"
    if code[0] == b"d" and view.itemsize == 8:
        return b"d"
    if (code[0] == b"i" or code[0] == b"l") and view.itemsize == 4:
        return b"i"
    if (code[0] == b"q" or code[0] == b"l") and view.itemsize == 8:
        return b"q"
    return 0


cdef str format_of(const Py_buffer *view):
    return KIND_NAMES.get(kind_of(view)) or repr(view.format.decode() if view.format != NULL else "B")


cdef class _Array:
    """A buffer that is held for as long as this lives: `kinds` are the letters of kind_of() that it may have."""
    cdef Py_buffer view
    cdef str name
    cdef int ndim
    cdef char kind

    def __cinit__(self, array, str name, bytes kinds, bint writable=False, int ndim=-1):
        self.name = name
        try:
            PyObject_GetBuffer(array, &self.view, PyBUF_FORMAT | PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
        except (ValueError, BufferError) as e:
            raise ValueError(f"{name}: {e}") from None
        self.kind = kind_of(&self.view)
        self.ndim = self.view.ndim
        if self.kind == 0 or self.kind not in kinds:
            wanted = " or ".join([KIND_NAMES[k] for k in kinds])
            raise TypeError(f"{name}: expected {wanted}, got {format_of(&self.view)}")
        if ndim >= 0 and self.ndim != ndim:
            raise ValueError(f"{name}: expected {ndim} dimensions, got {self.ndim}")
        if <uintptr_t>self.view.buf % self.view.itemsize:
            raise ValueError(f"{name}: not aligned to its element")
        for i in range(self.ndim):
            if self.view.strides[i] % self.view.itemsize:
                raise ValueError(f"{name}: strides are not whole elements")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    cdef int64_t extent(self, int axis) noexcept nogil:
        return self.view.shape[axis]

    cdef int64_t stride(self, int axis) noexcept nogil:
        """Elements, not bytes, from one index of the axis to the next."""
        return self.view.strides[axis] // self.view.itemsize

    cdef bint contiguous_from(self, int axis) noexcept:
        """Whether the block behind one index of the axes before `axis` is C-contiguous."""
        cdef int64_t expected = self.view.itemsize
        cdef int i
        for i in range(self.ndim - 1, axis - 1, -1):
            if self.view.shape[i] > 1 and self.view.strides[i] != expected:
                return False
            expected *= self.view.shape[i]
        return True

    cdef int64_t count_from(self, int axis) noexcept:
        cdef int64_t n = 1
        cdef int i
        for i in range(axis, self.ndim):
            n *= self.view.shape[i]
        return n

# ------------------------------------------------------------------ labels


def narrow_labels(labels, out, int64_t classes):
    """Copies int64 or int32 labels to an int32 array, and checks them on the way.

    Parameters
    ----------
    labels : contiguous buffer of int64 or int32 (n,)
    out : contiguous buffer of int32 (n,)
    classes : int

    Returns
    -------
    int
        Where the first label below 0 or not below `classes` stands (`out` is then of no use), or -1.
    """
    cdef _Array a = _Array(labels, "labels", b"qi", False, 1), b = _Array(out, "out", b"i", True, 1)
    if b.extent(0) != a.extent(0) or not a.contiguous_from(0) or not b.contiguous_from(0):
        raise ValueError("labels, out: expected contiguous arrays of one length")
    return narrow(&a.view, <int32_t *>b.view.buf, a.extent(0), classes)


cdef int64_t narrow(const Py_buffer *labels, int32_t *out, int64_t n, int64_t classes) noexcept:
    cdef bint wide = kind_of(labels) == 113  # 'q'
    cdef const int64_t *q = <const int64_t *>labels.buf
    cdef const int32_t *d = <const int32_t *>labels.buf
    cdef int64_t i, v
    for i in range(n):
        v = q[i] if wide else d[i]
        if v < 0 or v >= classes:
            return i
        out[i] = <int32_t>v
    return -1


# ------------------------------------------------------------------ random numbers


def permutation(int64_t n, uint64_t seed, uint64_t epoch):
    """The order of the rows in an epoch.

    Returns
    -------
    numpy.ndarray
        int64 (n,): 0 ... n-1, a function of the three arguments alone.
    """
    if n < 0:
        raise ValueError(f"n: at least 0, got {n}")
    out = numpy.empty(n, numpy.int64)
    cdef _Array a = _Array(out, "out", b"q", True, 1)
    with nogil:
        bp_permutation(n, seed, epoch, <int64_t *>a.view.buf)
    return out


def uniform(int64_t n, uint64_t seed, uint64_t stream):
    """Uniform random numbers in [0, 1).

    Returns
    -------
    numpy.ndarray
        float64 (n,), a function of the three arguments alone.
    """
    if n < 0:
        raise ValueError(f"n: at least 0, got {n}")
    out = numpy.empty(n, numpy.float64)
    cdef _Array a = _Array(out, "out", b"d", True, 1)
    with nogil:
        bp_uniform(n, seed, stream, <double *>a.view.buf)
    return out

# ------------------------------------------------------------------ programs


cdef class Program:
    """An immutable list of instructions over buffers; backprop.h describes its words.

    Parameters
    ----------
    words : contiguous buffer of int64
        Copied and checked.
    calls : sequence of callable
        What CALL instructions run, by number: ``f(inputs, outputs, rows)`` with the bytes of the arrays as memoryviews,
        which are read-only for the inputs and end with the call.

    Raises
    ------
    ValueError
        The words are not a program; the message says where and why.
    """

    def __cinit__(self, words, calls=()):
        cdef char err[256]
        cdef _Array given = _Array(words, "words", b"q")
        if not given.contiguous_from(0):
            raise ValueError("words: not contiguous")
        # A copy, so that nobody changes the words between C's checks and its use of them.
        cdef bytes copy = PyBytes_FromStringAndSize(<char *>given.view.buf, given.view.len)
        err[0] = 0
        cdef bp_program *p = bp_program_new(<const int64_t *>PyBytes_AsString(copy), given.view.len // 8, err, sizeof(err))
        if p == NULL:
            raise ValueError(err.decode(errors="replace") or "words: out of memory")
        self.handle = p
        self.n_instructions = bp_program_instructions(p)
        self.real_bytes = p.real_bytes
        self.capacity = p.capacity
        self.n_spaces = p.n_spaces
        self.space = <Space *>PyMem_Calloc(self.n_spaces, sizeof(Space))
        if self.space == NULL:
            raise MemoryError
        cdef int64_t i
        cdef int j
        for j in range(p.n_maps):
            self.n_chains += p.maps[j].n_chains
        for i in range(self.n_spaces):
            self.space[i].element_bytes = p.spaces[i].element_bytes
            self.space[i].dim = p.spaces[i].elements
            self.space[i].writable = p.spaces[i].writable
            self.space[i].kind = b"d" if p.spaces[i].element_bytes == 8 else b"f" if p.real_bytes == 4 else b"i"
        for i in range(self.n_instructions):
            if integer_space(p, i) >= 0:
                self.space[integer_space(p, i)].kind = b"i"
            j = 0
            while more_integer_space(p, i, j) != -2:
                if more_integer_space(p, i, j) >= 0:
                    self.space[more_integer_space(p, i, j)].kind = b"i"
                j += 1
        self.calls = tuple(calls)
        if p.n_calls > len(self.calls):
            raise ValueError(f"calls: the program calls operation {p.n_calls - 1}, and {len(self.calls)} are given")

    def __dealloc__(self):
        if self.handle != NULL:
            bp_program_free(<bp_program *>self.handle)
        PyMem_Free(self.space)

    @property
    def spaces(self):
        """list of (element_bytes, elements, writable); elements < 0 means -elements for each row of a run."""
        return [(self.space[i].element_bytes, self.space[i].dim, bool(self.space[i].writable))
                for i in range(self.n_spaces)]


    @property
    def chains(self):
        """Chains of operations that a kernel of their own makes in one pass."""
        return self.n_chains


cdef object here = threading.local()  # `poll`: what poll_with was given


def poll_with(look):
    """Has runs of the calling thread call ``look()`` wherever they look at signals (Python shows those to the main thread
    alone); what it raises ends the run as an exception of a signal handler does. None: no longer. Returns the old one."""
    old = getattr(here, "poll", None)
    here.poll = look
    return old


cdef int poll_signals(void *binding) noexcept with gil:
    """Runs Python's signal handlers; what one raises is kept for the caller of the run, and the run stops."""
    try:
        PyErr_CheckSignals()
        look = getattr(here, "poll", None)
        if look is not None:
            look()
    except BaseException as e:
        (<Binding>binding).pending = e
        return 1
    return 0


cdef int call_python(void *binding, int64_t number, int inputs, int outputs, const bp_call_array *arrays,
                     int64_t rows) noexcept with gil:
    """Runs an operation written in Python; what it raises is kept for the caller of the run, and the run stops."""
    cdef int i
    cdef list views = []
    try:
        for i in range(inputs + outputs):
            views.append(PyMemoryView_FromMemory(<char *>arrays[i].data, arrays[i].bytes,
                                                 PyBUF_READ if i < inputs else PyBUF_WRITE))
        try:
            (<Binding>binding).program.calls[number](views[:inputs], views[inputs:], rows)
        finally:
            for view in views:
                view.release()
    except BaseException as e:
        (<Binding>binding).pending = e
        return 1
    return 0


cdef class _Arena:
    """The buffer behind Binding.arena(): the binding keeps its context for as long as this is seen."""
    cdef Binding binding

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef size_t size = 0
        cdef void *start = bp_context_arena(<bp_context *>self.binding.context, &size)
        PyBuffer_FillInfo(view, self, start, size, 0, flags)
        self.binding.arena_views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.binding.arena_views -= 1


cdef class Binding:
    """A program with a context to run in and an array for each of its spaces.

    One run at a time: to run a program in several threads at once, make as many bindings.

    Parameters
    ----------
    program : Program

    Attributes
    ----------
    program : Program
    running : bool
    done : int
        Whole steps that the last `fit` has made; valid after an exception too.
    """

    def __cinit__(self, Program program not None):
        self.program = program
        self.view = <Py_buffer *>PyMem_Calloc(program.n_spaces, sizeof(Py_buffer))
        self.base = <void **>PyMem_Calloc(program.n_spaces, sizeof(void *))
        if self.view == NULL or self.base == NULL:
            raise MemoryError
        provide_threads(self, bp_threads_get())

    def __dealloc__(self):
        cdef int i
        if self.view != NULL:
            for i in range(self.program.n_spaces):
                PyBuffer_Release(&self.view[i])
        PyMem_Free(self.view)
        PyMem_Free(self.base)
        if self.context != NULL:
            bp_context_free(<bp_context *>self.context)

    def set(self, int space, array, /):
        """Gives a space its array, which is held until another takes its place.

        Parameters
        ----------
        space : int
            1 ... n_spaces - 1.
        array : C-contiguous buffer of the space's type
            At least as many elements as the space has; whole rows, as many as any run has, where the space goes by rows.
            Writable where the space is.

        Raises
        ------
        ValueError, TypeError
            The array does not fit; nothing has changed.
        RuntimeError
            The binding is running.
        """
        place(self, space, array)

    def clear(self, int space, /):
        """Lets go of a space's array."""
        let_go(self, space)

    def run(self, int64_t rows, int64_t first=0, int64_t last=-1, uint64_t seed=0, uint64_t step=0, int64_t row0=0,
            bint flush=False, int threads=0):
        """Runs the instructions [first, last) over so many rows; backprop.h says what the arguments mean.

        Parameters
        ----------
        rows : int
            0 ... capacity.
        first, last : int
            -1: to the last one.
        threads : int
            At most so many; 0: the current setting.

        Returns
        -------
        (status, instruction, value, limit) : tuple of int
            bp_status, the instruction where it stopped, and for status 3 the offending number and its exclusive limit.

        Raises
        ------
        ValueError
            A space was never set or has too few rows, or an argument is out of range. Nothing has run.
        RuntimeError
            The binding is running already.
        BaseException
            Whatever a signal handler raised (KeyboardInterrupt for one): the run has then stopped before the first
            instruction that writes to parameters, or else has come to its end.
        """
        cdef bp_run_args args
        cdef bp_run_result result
        prepare(self, &args, rows, first, last, seed, step, row0, flush, threads)
        go(self, &args, &result)
        return result.status, result.instruction, result.value, result.limit

    def fit(self, feeds, order, int64_t n, int64_t batch, int64_t first_step, int64_t n_steps, int scalar_space=-1,
            int64_t scalar_stride=0, int loss_space=-1, double seconds=0, uint64_t seed=0, uint64_t step=0,
            bint flush=False, int threads=0, int64_t data_rows=-1):
        """Runs many steps of the whole program: step s of the epoch takes rows [s*batch, min(n, (s+1)*batch)) of `order`.

        Parameters
        ----------
        feeds : list of (int, buffer)
            A space that goes by rows, and its rows of the data, n or `data_rows`: axis 0 may have any stride, what lies behind it is C-contiguous.
        order : contiguous buffer of int64 (n,), or None
            Row numbers; None: 0, 1, 2 ...
        n, batch : int
            Rows of the epoch; rows of a step, 1 ... capacity.
        first_step, n_steps : int
            Which steps of the epoch to run.
        scalar_space, scalar_stride, loss_space : int
            Spaces whose base advances with each step of this call, by scalar_stride elements and by one; -1: none.
        seconds : float
            Stop after the first whole step that ends later than this; 0: no limit.
        seed, step, flush, threads
            As for `run`; `step` is the number of the first step.
        data_rows : int
            Rows of the data, where `order` does not have all of them; -1: n.

        Returns
        -------
        (status, done, instruction, value, limit) : tuple of int
            `done` whole steps were made; the others as in `run`.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `run` and `set`. Nothing has run.
        BaseException
            Whatever a signal handler raised: the parameters are those after `done` whole steps (the attribute).
        """
        cdef bp_run_args args
        cdef bp_fit_args fit
        cdef bp_run_result result
        cdef _Array a
        cdef int i, space
        cdef list held = []  # keeps the buffers
        cdef int64_t done = 0
        if n < 0:
            raise ValueError(f"n: at least 0, got {n}")
        if data_rows == -1:
            data_rows = n
        if data_rows < 0 or (data_rows != n and order is None):
            raise ValueError(f"data_rows: {n} without an order, at least 0 with one, got {data_rows}")
        if batch < 1 or batch > self.program.capacity:
            raise ValueError(f"batch: 1 ... {self.program.capacity}, got {batch}")
        cdef int64_t steps = n // batch + (n % batch != 0)
        if first_step < 0 or n_steps < 0 or n_steps > steps - first_step:
            raise ValueError(f"first_step, n_steps: within {steps} steps, got {first_step}, {n_steps}")
        if not 0 <= seconds:
            raise ValueError(f"seconds: at least 0, got {seconds}")

        fit.order = NULL
        if order is not None:
            a = _Array(order, "order", b"q", False, 1)
            if a.extent(0) != n or not a.contiguous_from(0):
                raise ValueError(f"order: expected {n} contiguous numbers, got {a.extent(0)}")
            fit.order = <const int64_t *>a.view.buf
            held.append(a)

        feeds = tuple(feeds)
        cdef bp_feed *feed = <bp_feed *>PyMem_Calloc(len(feeds) + 1, sizeof(bp_feed))
        cdef char *fed = <char *>PyMem_Calloc(self.program.n_spaces, 1)
        try:
            if feed == NULL or fed == NULL:
                raise MemoryError
            for i, (space, array) in enumerate(feeds):
                a = feed_of(self, space, array, data_rows)
                if fed[space]:
                    raise ValueError(f"feeds: space {space} twice")
                held.append(a)
                fed[space] = 1
                feed[i].space = space
                feed[i].data = a.view.buf
                feed[i].row_bytes = -self.program.space[space].dim * self.program.space[space].element_bytes
                feed[i].stride = a.view.strides[0]
            fit.feeds = feed
            fit.n_feeds = len(feeds)
            fit.n = n
            fit.rows = data_rows
            fit.batch = batch
            fit.first_step = first_step
            fit.n_steps = n_steps
            fit.scalar_space = scalar_space
            fit.scalar_stride = scalar_stride
            fit.loss_space = loss_space
            fit.seconds = seconds
            prepare(self, &args, min(batch, n), 0, -1, seed, step, 0, flush, threads)
            check_bound(self, args.rows, fed)
            check_series(self, "scalar_space", scalar_space, scalar_stride, n_steps)
            check_series(self, "loss_space", loss_space, 1, n_steps)
            self.done = 0
            self.running = True
            with nogil:
                result = bp_fit(<bp_program *>self.program.handle, <bp_context *>self.context, &args, &fit, &done)
            self.done = done
            finish(self)
        finally:
            PyMem_Free(feed)
            PyMem_Free(fed)
        return result.status, done, result.instruction, result.value, result.limit

    def arena(self):
        """A writable memoryview of the bytes of the arena (for the tests)."""
        cdef _Arena arena = _Arena.__new__(_Arena)
        arena.binding = self
        return memoryview(arena)


cdef int place(Binding self, int space, array) except -1:
    cdef Py_buffer new, old
    cdef Space *s
    check_space(self, space)
    s = &self.program.space[space]
    try:
        PyObject_GetBuffer(array, &new, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if s.writable else 0))
    except (ValueError, BufferError) as e:
        raise ValueError(f"space {space}: {e}") from None
    if (kind_of(&new) != s.kind or <uintptr_t>new.buf % s.element_bytes or self.running
            or not holds(s, new.len // s.element_bytes)):
        try:
            check_idle(self)
            refuse(space, s, &new)
        finally:
            PyBuffer_Release(&new)
    old = self.view[space]
    self.view[space] = new
    self.base[space] = new.buf
    PyBuffer_Release(&old)  # last: it may run other code
    return 0


cdef int let_go(Binding self, int space) except -1:
    cdef Py_buffer old
    check_space(self, space)
    check_idle(self)
    old = self.view[space]
    memset(&self.view[space], 0, sizeof(Py_buffer))
    self.base[space] = NULL
    PyBuffer_Release(&old)
    return 0


cdef int provide_threads(Binding self, int threads) except -1:
    """Makes the context one for so many threads; what is in the arena stays.

    Where somebody looks at the arena it cannot move: then the run makes do with the threads there are."""
    cdef bp_context *new
    cdef size_t size = 0
    cdef void *arena
    if threads <= self.context_threads or self.arena_views:
        return 0
    new = bp_context_new(<bp_program *>self.program.handle, threads)
    if new == NULL:
        raise MemoryError(f"no memory for the context of a program, for {threads} threads")
    if self.context != NULL:
        arena = bp_context_arena(<bp_context *>self.context, &size)
        memcpy(bp_context_arena(new, &size), arena, size)
        bp_context_free(<bp_context *>self.context)
    self.context = new
    self.context_threads = threads
    return 0


cdef int check_idle(Binding self) except -1:
    if self.running:
        raise RuntimeError("this binding is running, in another thread or further up this one; make another")
    return 0


cdef int check_space(Binding self, int space) except -1:
    if space < 1 or space >= self.program.n_spaces:
        raise ValueError(f"space: 1 ... {self.program.n_spaces - 1}, got {space}")
    return 0


cdef int check_bound(Binding self, int64_t rows, const char *fed=NULL) except -1:
    """Every space that is not fed has an array, and those that go by rows have enough of them."""
    cdef int i
    cdef int64_t held
    cdef Space *s
    for i in range(1, self.program.n_spaces):
        if fed != NULL and fed[i]:
            continue
        s = &self.program.space[i]
        if self.view[i].format == NULL:
            raise ValueError(f"space {i} was never set")
        if s.dim < 0:
            held = self.view[i].len // s.element_bytes // -s.dim
            if held < rows:
                raise ValueError(f"space {i} has {held} rows, and the run {rows}")
    return 0


cdef int check_series(Binding self, str what, int space, int64_t stride, int64_t steps) except -1:
    """A space whose base advances by `stride` elements a step holds that many steps."""
    if space == -1:
        return 0
    check_space(self, space)
    cdef Space *s = &self.program.space[space]
    if s.dim < 0 or self.view[space].format == NULL or stride < 0:
        raise ValueError(f"{what}: space {space} wants a fixed size, an array and a stride of at least 0")
    cdef int64_t held = self.view[space].len // s.element_bytes
    # Division, because stride * steps may overflow.
    if steps > 1 and stride > 0 and (held - s.dim) // stride < steps - 1:
        raise ValueError(f"{what}: space {space} has {held} elements, too few for {steps} steps of {stride}")
    return 0


cdef int prepare(Binding self, bp_run_args *args, int64_t rows, int64_t first, int64_t last, uint64_t seed, uint64_t step,
                 int64_t row0, bint flush, int threads) except -1:
    check_idle(self)
    if last == -1:
        last = self.program.n_instructions
    if rows < 0 or rows > self.program.capacity:
        raise ValueError(f"rows: 0 ... {self.program.capacity}, got {rows}")
    if first < 0 or last < first or last > self.program.n_instructions:
        raise ValueError(f"first, last: within 0 ... {self.program.n_instructions}, got {first}, {last}")
    if row0 < 0 or threads < 0:
        raise ValueError(f"row0, threads: at least 0, got {row0}, {threads}")
    if threads == 0:
        threads = bp_threads_get()
    provide_threads(self, threads)
    args.rows = rows
    args.bases = self.base
    args.first = first
    args.last = last
    args.seed = seed
    args.step = step
    args.row0 = row0
    args.flush = flush
    args.threads = min(threads, self.context_threads)
    args.poll = poll_signals
    args.poll_arg = <void *>self
    args.call = call_python
    args.call_arg = <void *>self
    return 0


cdef int go(Binding self, bp_run_args *args, bp_run_result *result) except -1:
    """A prepared run, from the check of what is bound to what a signal handler or an operation has raised meanwhile."""
    check_bound(self, args.rows)
    self.running = True
    with nogil:
        result[0] = bp_run(<bp_program *>self.program.handle, <bp_context *>self.context, args)
    self.done = result.status == 0  # known also where an exception is raised now
    return finish(self)


cdef int finish(Binding self) except -1:
    """Raises what a signal handler or an operation has raised meanwhile."""
    self.running = False
    if self.pending is not None:
        e, self.pending = self.pending, None
        raise e
    return 0


cdef _Array feed_of(Binding self, int space, array, int64_t n):
    """The array of a feed, checked."""
    check_space(self, space)
    cdef Space *s = &self.program.space[space]
    cdef _Array a = _Array(array, f"feeds: space {space}", bytes([s.kind]))
    if s.dim >= 0 or s.writable:
        raise ValueError(f"feeds: space {space} does not go by rows, or is written to")
    if a.ndim < 1 or a.extent(0) != n:
        raise ValueError(f"feeds: space {space}: expected {n} rows, got {a.extent(0) if a.ndim else 'a number'}")
    if a.count_from(1) != -s.dim or not a.contiguous_from(1):
        raise ValueError(f"feeds: space {space}: expected rows of {-s.dim} contiguous elements, got {a.count_from(1)}")
    return a


cdef bint holds(const Space *s, int64_t elements) noexcept:
    """Whether a buffer of so many elements serves: enough of them, or whole rows."""
    return elements >= s.dim if s.dim >= 0 else elements % -s.dim == 0


cdef int refuse(int space, const Space *s, const Py_buffer *view) except -1:
    """Raises what is wrong with a space's new array."""
    if kind_of(view) != s.kind:
        raise TypeError(f"space {space}: expected {KIND_NAMES[s.kind]}, got {format_of(view)}")
    if <uintptr_t>view.buf % s.element_bytes:
        raise ValueError(f"space {space}: not aligned to its element")
    elements = view.len // s.element_bytes
    if s.dim < 0:
        raise ValueError(f"space {space}: expected whole rows of {-s.dim} elements, got {elements} elements")
    raise ValueError(f"space {space}: expected at least {s.dim} elements, got {elements}")


include "_kernels.pxi"
include "_repeated.pxi"
include "_text.pxi"
