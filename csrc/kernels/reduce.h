/* reduce.h: sums, maxima and minima over rows and over columns.
 *
 * The order in which numbers meet is part of the contract (kernels.h), the same for every width of register. A row is
 * dealt to 32 logical lanes, lane j % 32, where it is combined in ascending order; the row is thought of as continued to a
 * multiple of 32 by the operation's neutral number. Then lane l takes lane l + 16, l + 8, l + 4, l + 2, l + 1. */
enum { LANES32 = 32 / VL, COL_BLOCK = 256, REDUCE_NARROW = 16 };
/* Sums over the rows of a matrix that hardly lies in L2: a page of columns at a time, 4 DEEP rows together. */
enum { PAGES_BYTES = 2 << 20, PAGES_COLS = 256, DEEP = 4 };

INLINE real reduce_neutral(int kind)
{
    return kind == BP_REDUCE_SUM ? (real)0 : kind == BP_REDUCE_MAX ? (real)-__builtin_inf() : (real)__builtin_inf();
}
INLINE vec reduce_op(int kind, vec a, vec b)
{
    return kind == BP_REDUCE_SUM ? v_add(a, b) : kind == BP_REDUCE_MAX ? v_max(a, b) : v_min(a, b);
}
INLINE real reduce_op1(int kind, real a, real b)          /* the same for single numbers */
{
    if (kind == BP_REDUCE_SUM) return a + b;
    return (kind == BP_REDUCE_MAX ? a > b : a < b) || a != a ? a : b;
}

/* The 32 lanes, in LANES32 registers, folded by halves. */
INLINE real fold_lanes(int kind, vec acc[LANES32])
{
#pragma GCC unroll 8
    for (int h = LANES32 / 2; h > 0; h /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < h; i++) acc[i] = reduce_op(kind, acc[i], acc[i + h]);
    real t[VL];
    v_store(t, acc[0]);
#pragma GCC unroll 8
    for (int h = VL / 2; h > 0; h /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < h; i++) t[i] = reduce_op1(kind, t[i], t[i + h]);
    return t[0];
}

/* Lanes v VL ... of x[n], n <= 32, continued by `fill`. */
INLINE vec load_lanes(const real *x, int v, int64_t n, real fill)
{
    static const real number[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int64_t left = n - v * VL;
    if (left >= VL) return v_load(x + v * VL);
    if (left <= 0) return v_set1(fill);
    return v_select(v_lt(v_load(number), v_set1((real)left)), v_loadn(x + v * VL, left), v_set1(fill));
}

INLINE void accumulate32(int kind, vec acc[LANES32], const real *x, int64_t n)
{
#pragma GCC unroll 16
    for (int v = 0; v < LANES32; v++) acc[v] = reduce_op(kind, acc[v], load_lanes(x, v, n, reduce_neutral(kind)));
}

/* Over x[n]. */
INLINE real reduce_chunk(int kind, const real *x, int64_t n)
{
    vec acc[LANES32];
#pragma GCC unroll 16
    for (int v = 0; v < LANES32; v++) acc[v] = v_set1(reduce_neutral(kind));
    int64_t j = 0;
    for (; j + 32 <= n; j += 32) accumulate32(kind, acc, x + j, 32);
    if (j < n) accumulate32(kind, acc, x + j, n - j);
    return fold_lanes(kind, acc);
}

/* Chunks meet pairwise: S(q chunks) = S(first p) + S(the rest), p the largest power of 2 below q. Read from left to right
 * this is a binary counter: two sums of equal size meet as soon as both are there. */
INLINE real reduce_row(int kind, const real *x, int64_t n)
{
    if (n <= BP_ROW_CHUNK) return reduce_chunk(kind, x, n);
    real sums[64];
    int depth = 0;
    for (int64_t j = 0, count = 1; j < n; j += BP_ROW_CHUNK, count++) {
        sums[depth++] = reduce_chunk(kind, x + j, n - j < BP_ROW_CHUNK ? n - j : BP_ROW_CHUNK);
        for (int64_t c = count; c % 2 == 0; c /= 2, depth--)
            sums[depth - 2] = reduce_op1(kind, sums[depth - 2], sums[depth - 1]);
    }
    for (; depth > 1; depth--) sums[depth - 2] = reduce_op1(kind, sums[depth - 2], sums[depth - 1]);
    return sums[0];
}

/* Narrow rows, VL at a time: t[j] holds column j, a row in each lane. t has room for cols rounded up to VL; lanes
 * of rows that are not there hold 0. */
INLINE void load_columns(vec *t, const real *src, int64_t ld, int64_t rows, int64_t cols)
{
    if (cols == 2 && ld == 2 && rows >= VL) {             /* pairs, as of two classes */
        t[0] = v_load(src);
        t[1] = v_load(src + VL);
        v_unzip(t);
        return;
    }
    for (int64_t j = 0; j < cols; j += VL) {
        int64_t n = cols - j;
        vec r[VL];
        if (rows >= VL && n >= VL)
#pragma GCC unroll 16
            for (int i = 0; i < VL; i++) r[i] = v_load(src + i * ld + j);
        else
#pragma GCC unroll 16
            for (int i = 0; i < VL; i++) r[i] = i < rows ? v_loadn(src + i * ld + j, n < VL ? n : VL) : v_zero();
        v_transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) t[j + i] = r[i];
    }
}
INLINE void store_columns(const vec *t, real *dst, int64_t ld, int64_t rows, int64_t cols)
{
    if (cols == 2 && ld == 2 && rows >= VL) {
        vec pairs[2] = {t[0], t[1]};
        v_zip(pairs);
        v_store(dst, pairs[0]);
        v_store(dst + VL, pairs[1]);
        return;
    }
    for (int64_t j = 0; j < cols; j += VL) {
        int64_t n = cols - j;
        vec r[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) r[i] = i < n ? t[j + i] : v_zero();
        v_transpose(r);
        if (rows >= VL && n >= VL)
#pragma GCC unroll 16
            for (int i = 0; i < VL; i++) v_store(dst + i * ld + j, r[i]);
        else
            for (int64_t i = 0; i < VL && i < rows; i++) v_storen(dst + i * ld + j, r[i], n < VL ? n : VL);
    }
}

/* Over the columns t[cols], 1 <= cols <= 32, each row in the order of fold_lanes; overwrites t. What is folded with a lane
 * that no column fills is left alone for max and min, and for sums made +0 where it is -0, as adding 0 does. */
INLINE vec fold_columns(int kind, vec *t, int64_t cols)
{
    if (kind == BP_REDUCE_SUM)
        for (int64_t j = 0; j < cols; j++) t[j] = v_add(v_zero(), t[j]);
    for (int64_t h = 16; h > 0; h /= 2) {
        if (cols <= h) continue;
        for (int64_t j = 0; j < cols - h; j++) t[j] = reduce_op(kind, t[j], t[j + h]);
        if (kind == BP_REDUCE_SUM)
            for (int64_t j = cols - h; j < h; j++) t[j] = v_add(t[j], v_zero());
        cols = h;
    }
    return t[0];
}

INLINE void reduce_rows_of(int kind, int64_t rows, int64_t cols, const real *src, int64_t ld, real *dst)
{
    if (cols > REDUCE_NARROW || cols < 1 || rows == 1)
        for (int64_t i = 0; i < rows; i++) dst[i] = reduce_row(kind, src + i * ld, cols);
    else
        for (int64_t i = 0; i < rows; i += VL) {
            int64_t n = rows - i < VL ? rows - i : VL;
            vec t[REDUCE_NARROW];
            load_columns(t, src + i * ld, ld, n, cols);
            v_storen(dst + i, fold_columns(kind, t, cols), n);
        }
}

static void reduce_rows(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *dst)
{
    if (kind == BP_REDUCE_SUM) reduce_rows_of(BP_REDUCE_SUM, rows, cols, src, ld, dst);
    else if (kind == BP_REDUCE_MAX) reduce_rows_of(BP_REDUCE_MAX, rows, cols, src, ld, dst);
    else reduce_rows_of(BP_REDUCE_MIN, rows, cols, src, ld, dst);
}

/* l[v] = l[v] op src[v*VL ...] for a strip of columns, `vecs` registers of which the last may be partly filled. */
INLINE void accumulate_strip(int kind, vec *l, const real *src, int vecs, int64_t last)
{
#pragma GCC unroll 4
    for (int v = 0; v < vecs; v++)
        l[v] = reduce_op(kind, l[v], v + 1 < vecs || last == VL ? v_load(src + v * VL) : v_loadn(src + v * VL, last));
}

/* dst[n] over all rows, n in ((vecs - 1) VL, vecs VL]; vecs is 1, 2 or 4. The four lanes of rows hide the latency of
 * adding; wide strips use whole cache lines of rows that lie far apart. */
INLINE void reduce_strip(int kind, int vecs, int64_t n, int64_t rows, const real *src, int64_t ld, real *dst)
{
    vec neutral = v_set1(reduce_neutral(kind)), total[4] = {neutral, neutral, neutral, neutral};
    int64_t last = n - (vecs - 1) * VL;
    for (int64_t i0 = 0; i0 < rows; i0 += COL_BLOCK) {
        int64_t end = rows - i0 < COL_BLOCK ? rows : i0 + COL_BLOCK, i = i0;
        vec l[4][4];
        for (int k = 0; k < 4; k++)
            for (int v = 0; v < vecs; v++) l[k][v] = neutral;
        for (; i + 4 <= end; i += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) accumulate_strip(kind, l[k], src + (i + k) * ld, vecs, last);
#pragma GCC unroll 3
        for (int k = 0; k < 3; k++)
            if (i + k < end) accumulate_strip(kind, l[k], src + (i + k) * ld, vecs, last);
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) {
            vec block = reduce_op(kind, reduce_op(kind, l[0][v], l[1][v]), reduce_op(kind, l[2][v], l[3][v]));
            total[v] = i0 == 0 ? block : reduce_op(kind, total[v], block);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vecs; v++) v_storen(dst + v * VL, total[v], v + 1 < vecs ? VL : last);
}

/* l[k][0:n] = l[k] op rows k, k + 4 ... of src[4 deep][n], k < `lanes`, VL columns at a time */
INLINE void accumulate_rows(int kind, const int lanes, const int deep, int64_t n, const real *src, int64_t ld, real (*l)[PAGE_REALS])
{
    for (int64_t j = 0; j < n; j += VL) {
        const int64_t nj = n - j < VL ? n - j : VL;
#pragma GCC unroll 4
        for (int k = 0; k < lanes; k++) {
            vec x = v_load(l[k] + j);
#pragma GCC unroll 4
            for (int i = 0; i < deep; i++) x = reduce_op(kind, x, load_some(src + (4 * i + k) * ld + j, nj));
            v_store(l[k] + j, x);
        }
    }
}

/* 4 DEEP rows of a page at a time: streams that a processor runs ahead of. */
INLINE void reduce_lanes_of(int kind, int64_t rows, int64_t n, const real *src, int64_t ld, real (*l)[PAGE_REALS], int first)
{
    const vec neutral = v_set1(reduce_neutral(kind));
    int64_t i = 0;
    for (int64_t j = 0; first && j < n; j += VL)
        for (int k = 0; k < 4; k++) v_store(l[k] + j, neutral);
    for (; i + 4 * DEEP <= rows; i += 4 * DEEP) accumulate_rows(kind, 4, DEEP, n, src + i * ld, ld, l);
    for (; i + 4 <= rows; i += 4) accumulate_rows(kind, 4, 1, n, src + i * ld, ld, l);
    if (i < rows) accumulate_rows(kind, (int)(rows - i), 1, n, src + i * ld, ld, l);
}

INLINE void join_lanes_of(int kind, int64_t n, const real (*l)[PAGE_REALS], real *dst, int later)
{
    for (int64_t j = 0; j < n; j += VL) {
        const int64_t nj = n - j < VL ? n - j : VL;
        const vec block = reduce_op(kind, reduce_op(kind, v_load(l[0] + j), v_load(l[1] + j)), reduce_op(kind, v_load(l[2] + j), v_load(l[3] + j)));
        v_storen(dst + j, later ? reduce_op(kind, v_loadn(dst + j, nj), block) : block, nj);
    }
}

/* dst[n] over all rows, n <= PAGE_REALS */
INLINE void reduce_pages(int kind, int64_t n, int64_t rows, const real *src, int64_t ld, real *dst)
{
    real l[4][PAGE_REALS];
    for (int64_t i = 0; i < rows; i += COL_BLOCK) {
        reduce_lanes_of(kind, rows - i < COL_BLOCK ? rows - i : COL_BLOCK, n, src + i * ld, ld, l, 1);
        join_lanes_of(kind, n, l, dst, i > 0);
    }
}

INLINE void reduce_cols_of(int kind, int64_t rows, int64_t cols, const real *src, int64_t ld, real *dst)
{
    int64_t j = 0;
    if (cols >= PAGES_COLS && rows * cols * (int64_t)sizeof(real) >= PAGES_BYTES)
        for (; j < cols; j += PAGE_REALS) reduce_pages(kind, cols - j < PAGE_REALS ? cols - j : PAGE_REALS, rows, src + j, ld, dst + j);
    for (; j + 4 * VL <= cols; j += 4 * VL) reduce_strip(kind, 4, 4 * VL, rows, src + j, ld, dst + j);
    for (; j + 2 * VL <= cols; j += 2 * VL) reduce_strip(kind, 2, 2 * VL, rows, src + j, ld, dst + j);
    if (j + VL < cols) reduce_strip(kind, 2, cols - j, rows, src + j, ld, dst + j);
    else if (j < cols) reduce_strip(kind, 1, cols - j, rows, src + j, ld, dst + j);
}

static void reduce_cols(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *dst)
{
    if (kind == BP_REDUCE_SUM) reduce_cols_of(BP_REDUCE_SUM, rows, cols, src, ld, dst);
    else if (kind == BP_REDUCE_MAX) reduce_cols_of(BP_REDUCE_MAX, rows, cols, src, ld, dst);
    else reduce_cols_of(BP_REDUCE_MIN, rows, cols, src, ld, dst);
}

static void reduce_lanes(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *lanes, int first)
{
    if (kind == BP_REDUCE_SUM) reduce_lanes_of(BP_REDUCE_SUM, rows, cols, src, ld, lanes, first);
    else if (kind == BP_REDUCE_MAX) reduce_lanes_of(BP_REDUCE_MAX, rows, cols, src, ld, lanes, first);
    else reduce_lanes_of(BP_REDUCE_MIN, rows, cols, src, ld, lanes, first);
}

static void join_lanes(int kind, int64_t cols, const void *lanes, void *dst)
{
    if (kind == BP_REDUCE_SUM) join_lanes_of(BP_REDUCE_SUM, cols, lanes, dst, 0);
    else if (kind == BP_REDUCE_MAX) join_lanes_of(BP_REDUCE_MAX, cols, lanes, dst, 0);
    else join_lanes_of(BP_REDUCE_MIN, cols, lanes, dst, 0);
}
