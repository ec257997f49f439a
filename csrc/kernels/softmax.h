/* softmax.h: cross-entropy from raw scores, loss and gradient in one pass over the rows.
 *
 *   m = max_j z_j,  e_j = exp(z_j - m),  s = sum_j e_j,  S = sum_j t_j  (1 for a label: t_j is 1 at the label, else 0)
 *   loss = S log s + sum_j t_j (m - z_j)          = sum_j t_j (log sum exp z - z_j), no term below 0, nothing to cancel
 *   dz_j = g (e_j S/s - t_j)                      = g (S softmax(z)_j - t_j)
 *
 * exp never overflows as z_j <= m, and 1 <= s <= classes. A score of -inf has e_j = 0; where t_j = 0 too, its term is
 * 0 inf and counts as 0. NaN or +inf anywhere makes m or z_j - m NaN, hence s, hence the whole row.
 * Sums and maxima run over the 32 logical lanes of reduce.h, so both forms below give the same bits. dz may be z. */

/* m - z, or 0 where that is infinite and multiplied by 0. */
INLINE vec softmax_distance(vec m, vec z, vec t)
{
    vec d = v_sub(m, z);
    msk nothing = m_and(v_eq(t, v_zero()), v_eq(d, v_set1((real)__builtin_inf())));
    return v_select(nothing, v_zero(), d);
}

enum { SOFTMAX_NARROW = 32 };

/* At most VL rows of at most 32 classes: a row in each lane, so that all but the transposing is work on full registers. */
INLINE void softmax_narrow(int64_t rows, int64_t classes, const real *z, int64_t ld, const int32_t *labels,
                           const real *probs, const real *g, int g_step, real *loss, real *dz, int64_t ld_dz)
{
    vec zt[SOFTMAX_NARROW], e[SOFTMAX_NARROW], t[SOFTMAX_NARROW], fold[SOFTMAX_NARROW]; /* [classes] columns */
    load_columns(zt, z, ld, rows, classes);
    for (int64_t j = 0; j < classes; j++) fold[j] = zt[j];
    vec m = fold_columns(BP_REDUCE_MAX, fold, classes);
    for (int64_t j = 0; j < classes; j++) fold[j] = e[j] = v_exp(v_sub(zt[j], m));
    vec s = fold_columns(BP_REDUCE_SUM, fold, classes), total = v_set1(1), distance;
    if (labels != NULL) {
        real number[VL] = {0};
        for (int64_t i = 0; i < VL && i < rows; i++) number[i] = (real)labels[i];
        vec label = v_load(number), picked = zt[0];
        for (int64_t j = 0; j < classes; j++) {
            msk here = v_eq(label, v_set1((real)j));
            t[j] = v_from_mask(here);
            picked = v_select(here, zt[j], picked);
        }
        distance = v_sub(m, picked);
    } else {
        load_columns(t, probs, classes, rows, classes);
        for (int64_t j = 0; j < classes; j++) fold[j] = t[j];
        total = fold_columns(BP_REDUCE_SUM, fold, classes);
        for (int64_t j = 0; j < classes; j++) fold[j] = v_mul(t[j], softmax_distance(m, zt[j], t[j]));
        distance = fold_columns(BP_REDUCE_SUM, fold, classes);
    }
    if (loss != NULL) v_storen(loss, v_fma(total, v_log(s), distance), rows);
    if (dz == NULL) return;
    vec scale = v_div(total, s), weight = v_set1(1);
    if (g != NULL) weight = g_step ? v_loadn(g, rows) : v_set1(g[0]);
    for (int64_t j = 0; j < classes; j++) e[j] = v_mul(weight, v_fma(e[j], scale, v_neg(t[j])));
    store_columns(e, dz, ld_dz, rows, classes);
}

/* n <= 32 classes of one row, continued by scores of -inf and probabilities of 0; t and e may be NULL, e may be z. */
INLINE void softmax_32(int64_t n, const real *z, const real *t, real *e, vec m, vec s[LANES32], vec total[LANES32],
                       vec distance[LANES32])
{
#pragma GCC unroll 16
    for (int v = 0; v < LANES32; v++) {
        int64_t left = n - v * VL;
        if (left <= 0) break;                             /* these lanes would add 0 */
        vec zv = load_lanes(z, v, n, (real)-__builtin_inf()), ev = v_exp(v_sub(zv, m));
        s[v] = v_add(s[v], ev);
        if (t != NULL) {
            vec tv = load_lanes(t, v, n, 0);
            total[v] = v_add(total[v], tv);
            distance[v] = v_add(distance[v], v_mul(tv, softmax_distance(m, zv, tv)));
        }
        if (e != NULL && left >= VL) v_store(e + v * VL, ev);
        else if (e != NULL) v_storen(e + v * VL, ev, left);
    }
}

/* One row of any width. Writes dz (if not NULL) and gives s, S and sum_j t_j (m - z_j) for the loss. */
INLINE void softmax_wide(int64_t classes, const real *z, int64_t label, const real *t, real g, real *dz, real *s_out,
                         real *total_out, real *distance_out)
{
    vec s[LANES32], total[LANES32], distance[LANES32];
    for (int v = 0; v < LANES32; v++) s[v] = total[v] = distance[v] = v_zero();
    real top = reduce_row(BP_REDUCE_MAX, z, classes), z_label = t == NULL ? z[label] : 0;
    vec m = v_set1(top);
    int64_t j = 0;
    for (; j + 32 <= classes; j += 32)
        softmax_32(32, z + j, t != NULL ? t + j : NULL, dz != NULL ? dz + j : NULL, m, s, total, distance);
    if (j < classes)
        softmax_32(classes - j, z + j, t != NULL ? t + j : NULL, dz != NULL ? dz + j : NULL, m, s, total, distance);
    *s_out = fold_lanes(BP_REDUCE_SUM, s);
    *total_out = t != NULL ? fold_lanes(BP_REDUCE_SUM, total) : 1;
    *distance_out = t != NULL ? fold_lanes(BP_REDUCE_SUM, distance) : top - z_label;
    if (dz == NULL) return;
    vec scale = v_set1(*total_out / *s_out), weight = v_set1(g);
    vec e_label = v_set1(t == NULL ? dz[label] : 0);
    for (j = 0; j < classes; j += VL) {
        int64_t n = classes - j < VL ? classes - j : VL;
        vec e = n == VL ? v_load(dz + j) : v_loadn(dz + j, n), target = v_zero();
        if (t != NULL) target = n == VL ? v_load(t + j) : v_loadn(t + j, n);
        e = v_mul(weight, v_fma(e, scale, v_neg(target)));
        if (n == VL) v_store(dz + j, e);
        else v_storen(dz + j, e, n);
    }
    if (t == NULL) v_storen(dz + label, v_mul(weight, v_fma(e_label, scale, v_set1(-1))), 1);
}

static void softmax_ce(int64_t rows, int64_t classes, const void *z_, int64_t ld, const int32_t *labels,
                       const void *probs_, const void *g_, int g_step, void *loss_, void *dz_, int64_t ld_dz)
{
    const real *z = z_, *probs = probs_, *g = g_;         /* [rows, ld], [rows, classes], [rows] or [1] */
    real *loss = loss_, *dz = dz_;                        /* [rows], [rows, ld_dz] */
    for (int64_t i = 0; i < rows; i += VL) {
        int64_t n = rows - i < VL ? rows - i : VL;
        const int32_t *y = labels != NULL ? labels + i : NULL;
        const real *t = labels == NULL ? probs + i * classes : NULL, *gi = g != NULL ? g + i * g_step : NULL;
        real *li = loss != NULL ? loss + i : NULL, *di = dz != NULL ? dz + i * ld_dz : NULL;
        if (classes <= SOFTMAX_NARROW) {
#define CLASSES(c) case c: softmax_narrow(VL, c, z + i * ld, ld, y, t, gi, g_step, li, di, ld_dz); break;
            switch (n == VL ? classes : 0) {
                CLASSES(2) CLASSES(3) CLASSES(4) /* few columns stay in registers */
                default: softmax_narrow(n, classes, z + i * ld, ld, y, t, gi, g_step, li, di, ld_dz);
            }
#undef CLASSES
            continue;
        }
        real s[VL] = {0}, total[VL] = {0}, distance[VL] = {0};
        for (int64_t k = 0; k < n; k++)
            softmax_wide(classes, z + (i + k) * ld, y != NULL ? y[k] : -1, t != NULL ? t + k * classes : NULL,
                         gi != NULL ? gi[k * g_step] : 1, di != NULL ? di + k * ld_dz : NULL, s + k, total + k,
                         distance + k);
        if (li != NULL) v_storen(li, v_fma(v_load(total), v_log(v_load(s)), v_load(distance)), n);
    }
}
