# Doors to the kernels of a named instruction set, for the tests: each compiled set that this processor can run is called
# by itself, with extents checked as everywhere. Included by _core.pyx.

cdef extern from "kernels.h" nogil:
    ctypedef void (*bp_map_fn)(int64_t n, void *dst, const void *a, const void *b, const void *c) noexcept nogil
    ctypedef void (*bp_chain_fn)(int64_t n, const void **source, void **target) noexcept nogil
    ctypedef struct bp_kernels:
        int lanes, mr, nr
        bp_map_fn map[BP_MAP_COUNT][8]
        void (*spread)(int64_t rows, int64_t cols, const void *src, int64_t step, void *dst) noexcept nogil
        bp_chain_fn chain[BP_CHAIN_COUNT]
        void (*random)(void *dst, int64_t rows, int64_t cols, uint64_t seed, uint64_t step, uint32_t node,
                       int64_t row0, int64_t col0) noexcept nogil
        void (*round_bf16)(int64_t n, const void *src, void *dst) noexcept nogil
        double (*fma_peak)(int64_t rounds, double *sink) noexcept nogil
        void (*reduce_rows)(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *dst) noexcept nogil
        void (*reduce_cols)(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *dst) noexcept nogil
        void (*reduce_lanes)(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *lanes, int first) noexcept nogil
        void (*join_lanes)(int kind, int64_t cols, const void *lanes, void *dst) noexcept nogil
        void (*softmax_ce)(int64_t rows, int64_t classes, const void *z, int64_t ld, const int32_t *labels,
                           const void *probs, const void *g, int g_step, void *loss, void *dz, int64_t ld_dz) noexcept nogil
    enum: BP_PAGE_BYTES
    const bp_kernels *bp_kernels_for(int isa, int real_bytes)

    ctypedef void (*bp_epilogue_fn)(void *, int, int64_t, int64_t, int64_t, int64_t, void *, int64_t) noexcept nogil
    ctypedef struct bp_gemm:
        int64_t m, n, k
        const void *a
        int64_t rsa, csa
        const void *b
        int64_t rsb, csb
        void *c
        int64_t ldc
        bp_epilogue_fn epilogue
        void *epilogue_arg
        int updates
    size_t bp_gemm_scratch(const bp_kernels *, int64_t m, int64_t n, int64_t k, int threads)
    ctypedef struct bp_gemm_plan:
        pass
    void bp_gemm_run(const bp_kernels *, const bp_gemm *, bp_gemm_plan *kept, int threads, void *scratch)
    ctypedef struct bp_tiles:
        double (*peak)(int64_t rounds, double *sink) noexcept nogil
    const bp_tiles *bp_tiles_of(const bp_kernels *)
    size_t bp_gemm_bf16_scratch(const bp_kernels *, const bp_tiles *, int64_t m, int64_t n, int64_t k, int threads)
    void bp_gemm_bf16_run(const bp_kernels *, const bp_tiles *, const bp_gemm *, int threads, void *scratch)


cdef const bp_kernels *kernels_of(isa, int real_bytes) except NULL:
    cdef const bp_kernels *k = NULL
    cdef int i
    for i in range(BP_ISA_COUNT):
        if bp_isa_name(i).decode() == isa:
            k = bp_kernels_for(i, real_bytes)
    if k == NULL:
        raise ValueError(f"isa: one of {isa_runnable()} with float32 or float64, got {isa!r} with {8 * real_bytes} bits")
    return k


cdef int code_of(str what, tuple names, value) except -1:
    if value not in names:
        raise ValueError(f"{what}: one of {', '.join(names)}, got {value!r}")
    return names.index(value)


cdef int check_shape(_Array a, tuple shape) except -1:
    got = tuple([a.view.shape[i] for i in range(a.ndim)])
    if got != shape:
        raise ValueError(f"{a.name}: expected shape {shape}, got {got}")
    return 0


cdef _Array matrix(array, str name, bytes kinds, bint writable=False):
    """Rows of contiguous elements; the rows may lie apart."""
    cdef _Array a = _Array(array, name, kinds, writable, 2)
    if not a.contiguous_from(1) or (a.extent(0) > 1 and a.stride(0) < a.extent(1)):
        raise ValueError(f"{name}: rows are not contiguous or overlap")
    return a


cdef _Array vector(array, str name, bytes kinds, bint writable=False):
    cdef _Array a = _Array(array, name, kinds, writable, 1)
    if not a.contiguous_from(0):
        raise ValueError(f"{name}: not contiguous")
    return a


def kernel_tile(isa, int real_bytes):
    """The sizes (mr, nr, lanes) of a set's table: the micro-kernel's block, and reals in a register."""
    cdef const bp_kernels *k = kernels_of(isa, real_bytes)
    return k.mr, k.nr, k.lanes


def kernel_tiles(isa):
    """Whether a set has tiles for products of bfloat16, and this processor and its system let them be used."""
    return bp_tiles_of(kernels_of(isa, 4)) != NULL


def kernel_round_bf16(isa, src, dst):
    """dst[i] = src[i] rounded to bfloat16, as float32; both are contiguous (n,)."""
    cdef _Array x = vector(src, "src", b"f")
    cdef _Array y = vector(dst, "dst", b"f", True)
    cdef const bp_kernels *k = kernels_of(isa, 4)
    check_shape(y, (x.extent(0),))
    with nogil:
        k.round_bf16(x.view.shape[0], x.view.buf, y.view.buf)


def kernel_map(isa, op, dst, a=None, b=None, c=None, int variant=0):
    """dst[i] = op(a[i], b[i], c[i]) by one set's table.

    Parameters
    ----------
    isa, op : str
    dst, a, b, c : contiguous float32 or float64 (n,), all of one type
        As many operands as the operation takes; bits 0, 1, 2 of `variant` say that a, b, c is one number, shape (1,).
    """
    cdef _Array out = vector(dst, "dst", b"fd", True)
    cdef const bp_kernels *k = kernels_of(isa, out.view.itemsize)
    cdef int code = code_of("op", tuple([row[0] for row in MAP_OPS]), op)
    cdef int arity = MAP_OPS[code][1]
    cdef const void *p[3]
    cdef int i
    cdef _Array x
    cdef list held = []
    if variant < 0 or variant >= 1 << arity:
        raise ValueError(f"variant: 0 ... {(1 << arity) - 1}, got {variant}")
    for i, array in enumerate((a, b, c)):
        p[i] = NULL
        if (array is None) != (i >= arity):
            raise ValueError(f"{op} takes {arity} operands")
        if array is not None:
            x = vector(array, "abc"[i], bytes([out.kind]))
            check_shape(x, (1 if variant >> i & 1 else out.extent(0),))
            p[i] = x.view.buf
            held.append(x)
    cdef bp_map_fn fn = k.map[code][variant]
    if fn == NULL:
        raise ValueError(f"{op}: the table has no such function")
    cdef int64_t n = out.extent(0)
    with nogil:
        fn(n, out.view.buf, p[0], p[1], p[2])


def kernel_chain(isa, chain, vectors, numbers, out):
    """A chain of operations in one pass, by one set's table: `out` from `vectors`, contiguous (n,) of one type, and `numbers` (k,)."""
    cdef int kind = [row[0] for row in CHAINS].index(chain)
    _, n_vectors, n_numbers, steps = CHAINS[kind]
    results = sum([step[2] for step in steps])
    if len(vectors) != n_vectors or len(out) != results:
        raise ValueError(f"{chain}: {n_vectors} vectors and {results} results, not {len(vectors)} and {len(out)}")
    cdef _Array first = vector(vectors[0], "vectors", b"fd"), x
    cdef bytes kinds = bytes([first.kind])
    cdef const void *source[BP_CHAIN_VECTORS + BP_CHAIN_NUMBERS]
    cdef void *target[BP_CHAIN_RESULTS]
    cdef int i
    kept = []
    for i in range(n_vectors):
        x = vector(vectors[i], "vectors", kinds)
        check_shape(x, (first.extent(0),))
        source[i] = x.view.buf
        kept.append(x)
    for i in range(results):
        x = vector(out[i], "out", kinds, True)
        check_shape(x, (first.extent(0),))
        target[i] = x.view.buf
        kept.append(x)
    x = vector(numbers, "numbers", kinds)
    check_shape(x, (n_numbers,))
    for i in range(n_numbers):
        source[BP_CHAIN_VECTORS + i] = <char *>x.view.buf + i * x.view.itemsize
    cdef const bp_kernels *k = kernels_of(isa, first.view.itemsize)
    cdef int64_t n = first.extent(0)
    with nogil:
        k.chain[kind](n, source, target)


def kernel_random(isa, dst, uint64_t seed, uint64_t step, uint32_t node, int64_t row0=0, int64_t col0=0):
    """dst[i, j] = the uniform number of (seed, step, node, row0 + i, col0 + j); dst is contiguous (rows, cols)."""
    cdef _Array out = _Array(dst, "dst", b"fd", True, 2)
    cdef const bp_kernels *k = kernels_of(isa, out.view.itemsize)
    if not out.contiguous_from(0):
        raise ValueError("dst: not contiguous")
    if row0 < 0 or col0 < 0:
        raise ValueError(f"row0, col0: at least 0, got {row0}, {col0}")
    with nogil:
        k.random(out.view.buf, out.view.shape[0], out.view.shape[1], seed, step, node, row0, col0)


def kernel_fma_peak(isa, int bits, int64_t rounds):
    """Run `rounds` rounds of independent fused multiply-adds in registers; the number of floating-point operations done.

    Their rate is the most that a kernel of this set can reach.

    Parameters
    ----------
    isa : str
    bits : {16, 32, 64}
        16: products of bfloat16 on tiles, where kernel_tiles(isa).
    rounds : int
        At least 1.
    """
    cdef const bp_kernels *kernels = kernels_of(isa, 4 if bits == 16 else bits // 8)
    cdef const bp_tiles *on = bp_tiles_of(kernels) if bits == 16 else NULL
    cdef double sink = 0, flops
    if bits == 16 and on == NULL:
        raise ValueError(f"bits: {isa} has no tiles for products of bfloat16")
    if rounds < 1:
        raise ValueError(f"rounds: at least 1, got {rounds}")
    with nogil:
        flops = on.peak(rounds, &sink) if on != NULL else kernels.fma_peak(rounds, &sink)
    return flops


cdef struct copied:
    char *to
    int64_t row
    int64_t size


cdef void copy_block(void *arg, int thread, int64_t r0, int64_t r1, int64_t c0, int64_t c1, void *c, int64_t ldc) noexcept nogil:
    """The epilogue of a product that is not kept: its block goes to an array."""
    cdef copied *x = <copied *>arg
    cdef int64_t i
    for i in range(r1 - r0):
        memcpy(x.to + (r0 + i) * x.row + c0 * x.size, <char *>c + i * ldc * x.size, <size_t>((c1 - c0) * x.size))


def kernel_matmul(isa, a, b, out, bint trans_a=False, bint trans_b=False, int threads=1, bint bfloat16=False,
                  bint tiles=False, bint in_scratch=False, bint updates=False):
    """out = op(a) op(b) by one set's table; a and b may have any strides, out has contiguous rows.

    Parameters
    ----------
    isa : str
    a : (m, k), or (k, m) with trans_a
    b : (k, n), or (n, k) with trans_b
    out : (m, n)
    threads : int
        At least 1.
    bfloat16 : bool
        Of float32 operands rounded to bfloat16.
    tiles : bool
        With bfloat16: on the tiles of `kernel_tiles` rather than without.
    in_scratch : bool
        Blocks of the result live in scratch, as where an epilogue alone sees them, and are copied to `out` by one.
    updates : bool
        Blocks are those of a product with an update.

    Raises
    ------
    RuntimeError
        If anything was written right behind all of the scratch; what one region writes into the next shows in the result, or not.
    """
    cdef _Array z = matrix(out, "out", b"fd", True)
    cdef _Array x = _Array(a, "a", bytes([z.kind]), False, 2)
    cdef _Array y = _Array(b, "b", bytes([z.kind]), False, 2)
    cdef const bp_kernels *kernels = kernels_of(isa, z.view.itemsize)
    cdef bp_gemm g
    if threads < 1:
        raise ValueError(f"threads: at least 1, got {threads}")
    cdef const bp_tiles *on = bp_tiles_of(kernels) if tiles else NULL
    if (bfloat16 and z.kind != b"f"[0]) or (tiles and (on == NULL or not bfloat16)):
        raise ValueError("bfloat16 is of float32, and tiles of bfloat16, where the set has them")
    g.m = z.extent(0)
    g.n = z.extent(1)
    g.k = x.extent(0 if trans_a else 1)
    check_shape(x, (g.k, g.m) if trans_a else (g.m, g.k))
    check_shape(y, (g.n, g.k) if trans_b else (g.k, g.n))
    g.a = x.view.buf
    g.rsa, g.csa = (x.stride(1), x.stride(0)) if trans_a else (x.stride(0), x.stride(1))
    g.b = y.view.buf
    g.rsb, g.csb = (y.stride(1), y.stride(0)) if trans_b else (y.stride(0), y.stride(1))
    g.c = z.view.buf
    g.ldc = z.stride(0) if g.m > 1 else g.n
    g.epilogue = NULL
    g.epilogue_arg = NULL
    g.updates = updates
    cdef copied copy = copied(<char *>g.c, g.ldc * z.view.itemsize, z.view.itemsize)
    if in_scratch:
        g.c = NULL
        g.epilogue = copy_block
        g.epilogue_arg = &copy
    # 64 bytes more, for the alignment that scratch has, and a guard.
    cdef size_t size, guard = 1 << 12
    if bfloat16:
        size = bp_gemm_bf16_scratch(kernels, on, g.m, g.n, g.k, threads)
    else:
        size = bp_gemm_scratch(kernels, g.m, g.n, g.k, threads)
    cdef void *block = PyMem_Malloc(size + 64 + guard)
    if block == NULL:
        raise MemoryError
    cdef void *scratch = <void *>((<uintptr_t>block + 63) & ~<uintptr_t>63)
    cdef unsigned char *behind = <unsigned char *>scratch + size
    cdef int intact = 1
    cdef size_t at
    with nogil:
        memset(behind, 0xa5, guard)
        if bfloat16:
            bp_gemm_bf16_run(kernels, on, &g, threads, scratch)
        else:
            bp_gemm_run(kernels, &g, NULL, threads, scratch)
        for at in range(guard):
            intact &= behind[at] == 0xa5
    PyMem_Free(block)
    if not intact:
        raise RuntimeError(f"kernel_matmul: a product of {g.m} x {g.n} x {g.k} writes behind its scratch")


def kernel_reduce_rows(isa, kind, src, dst):
    """dst[i] = over j of src[i, j]; kind is one of REDUCE_OPS, src has contiguous rows, dst is contiguous (rows,)."""
    cdef _Array x = matrix(src, "src", b"fd")
    cdef _Array y = vector(dst, "dst", bytes([x.kind]), True)
    cdef const bp_kernels *k = kernels_of(isa, x.view.itemsize)
    cdef int code = code_of("kind", REDUCE_OPS, kind)
    check_shape(y, (x.extent(0),))
    with nogil:
        k.reduce_rows(code, x.view.shape[0], x.view.shape[1], x.view.buf, x.stride(0), y.view.buf)


def kernel_reduce_cols(isa, kind, src, dst):
    """dst[j] = over i of src[i, j]; kind is one of REDUCE_OPS, src has contiguous rows, dst is contiguous (cols,)."""
    cdef _Array x = matrix(src, "src", b"fd")
    cdef _Array y = vector(dst, "dst", bytes([x.kind]), True)
    cdef const bp_kernels *k = kernels_of(isa, x.view.itemsize)
    cdef int code = code_of("kind", REDUCE_OPS, kind)
    check_shape(y, (x.extent(1),))
    with nogil:
        k.reduce_cols(code, x.view.shape[0], x.view.shape[1], x.view.buf, x.stride(0), y.view.buf)


def kernel_reduce_pieces(isa, kind, src, dst, rows):
    """The same of a block of at most 256 rows and a page of columns, `rows` rows (a multiple of 4) at a time."""
    cdef _Array x = matrix(src, "src", b"fd")
    cdef _Array y = vector(dst, "dst", bytes([x.kind]), True)
    cdef const bp_kernels *k = kernels_of(isa, x.view.itemsize)
    cdef int code = code_of("kind", REDUCE_OPS, kind)
    cdef int64_t each = rows, i = 0, ld = x.stride(0), size = x.view.itemsize
    check_shape(y, (x.extent(1),))
    if x.view.shape[0] > 256 or x.view.shape[1] * size > BP_PAGE_BYTES or each < 4 or each % 4:
        raise ValueError(f"kernel_reduce_pieces: a matrix {x.extent(0)} x {x.extent(1)}, {rows} rows at a time")
    cdef void *lanes = PyMem_Malloc(4 * BP_PAGE_BYTES)
    if lanes == NULL:
        raise MemoryError
    with nogil:
        while i < x.view.shape[0]:
            k.reduce_lanes(code, min(each, x.view.shape[0] - i), x.view.shape[1], <char *>x.view.buf + i * ld * size, ld, lanes, i == 0)
            i += each
        k.join_lanes(code, x.view.shape[1], lanes, y.view.buf)
    PyMem_Free(lanes)


def kernel_spread(isa, src, dst):
    """dst[i, j] = src[i]; dst is contiguous, but for a last row, which may be overwritten."""
    cdef _Array y = matrix(dst, "dst", b"fd", True)
    cdef _Array x = vector(src, "src", bytes([y.kind]))
    cdef const bp_kernels *k = kernels_of(isa, y.view.itemsize)
    if y.stride(0) != y.view.shape[1] or y.view.shape[0] != x.view.shape[0] + 1 or y.view.shape[1] < k.lanes:
        raise ValueError(f"kernel_spread: {y.extent(0)} rows of {y.extent(1)} for {x.extent(0)} numbers")
    with nogil:
        k.spread(x.view.shape[0], y.view.shape[1], x.view.buf, 1, y.view.buf)


def kernel_softmax_ce(isa, z, labels=None, probs=None, g=None, loss=None, dz=None):
    """Softmax and cross-entropy of raw scores (SOFTMAX_CE of backprop.h) by one set's table.

    Parameters
    ----------
    isa : str
    z : (n, classes)
        Rows contiguous; float32 or float64, and the other arrays alike.
    labels, probs : int32 (n,) or real (n, classes)
        One of the two; contiguous.
    g : (n,) or (1,), optional
    loss : (n,), optional
    dz : (n, classes), optional
    """
    cdef _Array x = matrix(z, "z", b"fd"), held_y, held_g, held_loss, held_dz
    cdef const bp_kernels *k = kernels_of(isa, x.view.itemsize)
    cdef bytes kind = bytes([x.kind])
    cdef int64_t n = x.extent(0), classes = x.extent(1), ld_dz = classes, i
    cdef const int32_t *y = NULL
    cdef const void *p = NULL
    cdef const void *scale = NULL
    cdef void *out = NULL
    cdef void *grad = NULL
    cdef int g_step = 0
    if (labels is None) == (probs is None):
        raise ValueError("labels, probs: give one of the two")
    if labels is not None:
        held_y = vector(labels, "labels", b"i")
        check_shape(held_y, (n,))
        y = <const int32_t *>held_y.view.buf
        for i in range(n):
            if y[i] < 0 or y[i] >= classes:
                raise ValueError(f"labels: 0 ... {classes - 1}, got {y[i]}")
    else:
        held_y = _Array(probs, "probs", kind, False, 2)
        check_shape(held_y, (n, classes))
        if not held_y.contiguous_from(0):
            raise ValueError("probs: not contiguous")
        p = held_y.view.buf
    if g is not None:
        held_g = vector(g, "g", kind)
        g_step = held_g.extent(0) != 1
        check_shape(held_g, (n if g_step else 1,))
        scale = held_g.view.buf
    if loss is not None:
        held_loss = vector(loss, "loss", kind, True)
        check_shape(held_loss, (n,))
        out = held_loss.view.buf
    if dz is not None:
        held_dz = matrix(dz, "dz", kind, True)
        check_shape(held_dz, (n, classes))
        grad = held_dz.view.buf
        ld_dz = held_dz.stride(0)
    with nogil:
        k.softmax_ce(n, classes, x.view.buf, x.stride(0), y, p, scale, g_step, out, grad, ld_dz)
