/* rows.h: sums of chosen rows of a matrix: bags of words, and the gradient of a row that occurs several times. */

/* acc + c[t] x, or acc + x: what fma(1, x, acc) is. `weighted` is a constant. */
INLINE vec row_term(int weighted, const real *c, int64_t t, vec x, vec acc)
{
    return weighted ? v_fma(v_set1(c[t]), x, acc) : v_add(acc, x);
}

/* A piece of the row stays in registers while the rows go by. */
INLINE void sum_rows_loop(int weighted, int64_t n, int64_t width, const real *src, int64_t ld, const int32_t *rows,
                          const real *c, real *dst)
{
    int64_t j = 0;
    for (; j + 4 * VL <= width; j += 4 * VL) {
        vec a0 = v_zero(), a1 = a0, a2 = a0, a3 = a0;
        for (int64_t t = 0; t < n; t++) {
            if (rows[t] < 0) continue;
            const real *x = src + rows[t] * ld + j;
            a0 = row_term(weighted, c, t, v_load(x), a0);
            a1 = row_term(weighted, c, t, v_load(x + VL), a1);
            a2 = row_term(weighted, c, t, v_load(x + 2 * VL), a2);
            a3 = row_term(weighted, c, t, v_load(x + 3 * VL), a3);
        }
        v_store(dst + j, a0);
        v_store(dst + j + VL, a1);
        v_store(dst + j + 2 * VL, a2);
        v_store(dst + j + 3 * VL, a3);
    }
    for (; j + VL <= width; j += VL) {
        vec a = v_zero();
        for (int64_t t = 0; t < n; t++)
            if (rows[t] >= 0) a = row_term(weighted, c, t, v_load(src + rows[t] * ld + j), a);
        v_store(dst + j, a);
    }
    if (j < width) {
        vec a = v_zero();
        for (int64_t t = 0; t < n; t++)
            if (rows[t] >= 0) a = row_term(weighted, c, t, v_loadn(src + rows[t] * ld + j, width - j), a);
        v_storen(dst + j, a, width - j);
    }
}

static void sum_rows(int64_t n, int64_t width, const void *src, int64_t ld, const int32_t *rows, const void *c, void *dst)
{
    if (c)
        sum_rows_loop(1, n, width, src, ld, rows, c, dst);
    else
        sum_rows_loop(0, n, width, src, ld, rows, NULL, dst);
}
