# What is done again and again on arrays like those before, on short ways: predictions, steps, calls for gradients.

cdef bint same_shape(const Py_buffer *view, tuple shape, int first=0) except -1:
    """Whether a C-contiguous view has this shape from dimension `first` on."""
    cdef int i
    if view.ndim != len(shape) + first:
        return False
    for i in range(first, view.ndim):
        if view.shape[i] != <int64_t>shape[i - first]:
            return False
    return True


cdef bint finite_numbers(const floating *x, int64_t n) noexcept:
    cdef double a = 0, b = 0, c = 0, d = 0  # sums of x 0, which is NaN where x is either; four, for each waits for itself
    cdef int64_t i
    for i in range(0, n - 3, 4):
        a, b, c, d = a + x[i] * 0, b + x[i + 1] * 0, c + x[i + 2] * 0, d + x[i + 3] * 0
    for i in range(n - n % 4, n):
        a += x[i] * 0
    return a + b + c + d == 0


cdef bint all_finite(const Py_buffer *view) noexcept:
    """Whether no number of a contiguous view of floats is NaN or infinite."""
    cdef int64_t n = view.len // view.itemsize
    return finite_numbers(<const double *>view.buf, n) if view.itemsize == 8 else finite_numbers(<const float *>view.buf, n)


cdef class Feeds:
    """Arrays like those of the run before, put into their spaces without a conversion.

    A call puts one array for each space, and is False where one of them does not fit as it lies: of another type, shape or dtype, not
    contiguous, a label out of range, or a number that is not finite. The binding is then to be given all of them in another way.

    Parameters
    ----------
    binding : Binding
    array_type : type
    spaces : tuple of int
        -1: the program has no use for this array, which is checked all the same.
    shapes : tuple of tuple of int
    labels : tuple
        For each array None, or what integers of either size are copied to: a contiguous array of int32 of that shape.
    limits : tuple of int
        What labels must be below.
    finite : tuple of bool
        Whether numbers must be finite.
    """
    cdef Binding binding
    cdef object array_type
    cdef tuple spaces, shapes, labels, limits, finite
    cdef list copies  # the buffers of `labels`

    def __init__(self, Binding binding not None, array_type, tuple spaces not None, tuple shapes not None, tuple labels not None,
                 tuple limits not None, tuple finite not None):
        if not len(spaces) == len(shapes) == len(labels) == len(limits) == len(finite):
            raise ValueError("spaces, shapes, labels, limits, finite: expected equally many")
        self.copies = []
        for i in range(len(spaces)):
            copy = None if labels[i] is None else _Array(labels[i], f"labels[{i}]", b"i", True)
            if copy is not None and (not (<_Array>copy).contiguous_from(0) or not same_shape(&(<_Array>copy).view, shapes[i])):
                raise ValueError(f"labels[{i}]: expected a contiguous array of the shape {shapes[i]}")
            self.copies.append(copy)
        self.binding, self.array_type, self.spaces, self.shapes = binding, array_type, spaces, shapes
        self.labels, self.limits, self.finite = labels, limits, finite

    def __call__(self, *arrays):
        cdef int i
        if len(arrays) != len(self.spaces):
            raise ValueError(f"expected {len(self.spaces)} arrays")
        for i in range(len(self.spaces)):
            if type(arrays[i]) is not self.array_type or not self.put(i, arrays[i]):
                return False
        return True

    cdef bint put(self, int i, array) except -1:
        cdef int space = self.spaces[i]
        cdef Py_buffer view
        cdef _Array copy = self.copies[i]
        cdef char kind
        cdef bint fits
        if copy is None and space >= 0:
            try:
                place(self.binding, space, array)
            except (ValueError, TypeError):
                return False
            fits = same_shape(&self.binding.view[space], self.shapes[i])
            return fits and (not self.finite[i] or all_finite(&self.binding.view[space]))
        try:
            PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
        except (ValueError, BufferError):
            return False
        try:
            fits = same_shape(&view, self.shapes[i]) and <uintptr_t>view.buf % view.itemsize == 0
            kind = kind_of(&view)
            if fits and copy is not None:
                fits = ((kind == 113 or kind == 105)  # 'q', 'i'
                        and narrow(&view, <int32_t *>copy.view.buf, view.len // view.itemsize, self.limits[i]) < 0)
            elif fits and self.finite[i]:
                fits = (kind == 102 or kind == 100) and all_finite(&view)  # 'f', 'd'
        finally:
            PyBuffer_Release(&view)
        if fits and copy is not None and space >= 0:
            place(self.binding, space, self.labels[i])
        return fits


cdef class Step:
    """Runs of a whole program that take some numbers and give one.

    Called with (values, rows, seed, step, row0): does ``numbers[:] = values``, runs with denormals flushed, and gives the number in
    `out`, or what `Binding.run` gives where the run came to no end. `Binding.done` is 1 or 0 then.

    Parameters
    ----------
    binding : Binding
    numbers : contiguous buffer of float32 or float64, of one dimension
    out : buffer of one float32 or float64
    """
    cdef Binding binding
    cdef _Array numbers, out

    def __init__(self, Binding binding not None, numbers, out):
        self.binding, self.numbers = binding, _Array(numbers, "numbers", b"fd", True, 1)
        self.out = _Array(out, "out", b"fd", False, 0)
        if not self.numbers.contiguous_from(0):
            raise ValueError("numbers: expected a contiguous array")

    def __call__(self, list values not None, int64_t rows, uint64_t seed, uint64_t step, int64_t row0):
        cdef bp_run_args args
        cdef bp_run_result result
        cdef Binding b = self.binding
        cdef Py_ssize_t i
        if len(values) != self.numbers.extent(0):
            raise ValueError(f"values: expected {self.numbers.extent(0)} numbers, got {len(values)}")
        for i in range(len(values)):
            if self.numbers.kind == 102:  # 'f'
                (<float *>self.numbers.view.buf)[i] = <float><double>values[i]
            else:
                (<double *>self.numbers.view.buf)[i] = values[i]
        prepare(b, &args, rows, 0, -1, seed, step, row0, True, 0)
        go(b, &args, &result)
        if result.status:
            return result.status, result.instruction, result.value, result.limit
        return (<float *>self.out.view.buf)[0] if self.out.kind == 102 else (<double *>self.out.view.buf)[0]


cdef class Forward:
    """Runs of one program with one input and one output, on a short way: arrays that need no conversion, and no more than a run's rows.

    A call gives the output's rows, or None and nothing done: the array does not fit as it lies, or all bindings are at work in
    other threads.

    Parameters
    ----------
    bindings : list of Binding
        Those that are free, with all but the two spaces set; one is taken for each run and put back.
    input, output : int
        Their spaces.
    shape, result_shape : tuple of int
        Of one row.
    array_type, empty, dtype : type, callable, dtype
        The input's type; ``empty(shape, dtype)`` makes the output.
    seed : int
    """
    cdef list bindings
    cdef int input, output
    cdef tuple shape, result_shape
    cdef object array_type, empty, dtype
    cdef uint64_t seed
    cdef tuple made  # the shape of the last result

    def __init__(self, list bindings not None, int input, int output, tuple shape not None, tuple result_shape not None, array_type,
                 empty, dtype, uint64_t seed):
        self.bindings, self.input, self.output, self.shape, self.result_shape = bindings, input, output, shape, result_shape
        self.array_type, self.empty, self.dtype, self.seed = array_type, empty, dtype, seed
        self.made = (-1,)

    def __call__(self, array, /):
        cdef bp_run_args args
        cdef tuple made
        cdef bp_run_result status
        cdef Binding b
        cdef Py_buffer *view
        if type(array) is not self.array_type:
            return None
        try:
            b = self.bindings.pop()
        except IndexError:
            return None
        try:
            place(b, self.input, array)
        except (ValueError, TypeError):
            self.bindings.append(b)
            return None
        view = &b.view[self.input]
        fits = same_shape(view, self.shape, 1) and 0 < view.shape[0] <= b.program.capacity
        if fits:
            made = self.made
            if <int64_t>made[0] != view.shape[0]:
                self.made = made = (view.shape[0], *self.result_shape)
            result = self.empty(made, self.dtype)
            place(b, self.output, result)
            prepare(b, &args, view.shape[0], 0, -1, self.seed, 0, 0, False, 0)
            go(b, &args, &status)
            fits = status.status == 0
            let_go(b, self.output)
        let_go(b, self.input)
        self.bindings.append(b)
        return result if fits else None
