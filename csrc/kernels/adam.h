/* Adam's step in one pass; contract in kernels.h.
 *
 *   m' = s1 m + s0 g        v' = s3 v + s2 g^2        p' = p + s6 m' / (s4 sqrt v' + s5)
 *
 * Operation by operation each of these lines passes over a block in L1 once for each sign; here the loads and stores are made
 * once, and the divider, which a division and a square root keep busy for longer than all else takes, never waits for them. */
INLINE void adam_step(vec g, const vec s[7], vec *m, vec *v, vec *p)
{
    *m = v_fma(*m, s[1], v_mul(g, s[0]));
    *v = v_fma(*v, s[3], v_mul(v_mul(g, g), s[2]));
    *p = v_fma(v_div(*m, v_fma(v_sqrt(*v), s[4], s[5])), s[6], *p);
}

static void adam(int64_t n, const void *g_, const void *m_, const void *v_, const void *p_, const void *const *s_, void *m_new_,
                 void *v_new_, void *p_new_)
{
    enum { AHEAD = 128 }; /* numbers that are asked for in advance: moments and weights often lie beyond L2 */
    const real *g = g_, *m = m_, *v = v_, *p = p_;
    real *m_new = m_new_, *v_new = v_new_, *p_new = p_new_;
    vec s[7];
    for (int i = 0; i < 7; i++) s[i] = v_set1(*(const real *)s_[i]);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        __builtin_prefetch(m + i + AHEAD, 1); /* past the end it does nothing */
        __builtin_prefetch(v + i + AHEAD, 1);
        __builtin_prefetch(p + i + AHEAD, 1);
        vec x = v_load(m + i), y = v_load(v + i), z = v_load(p + i);
        adam_step(v_load(g + i), s, &x, &y, &z);
        v_store(m_new + i, x);
        v_store(v_new + i, y);
        v_store(p_new + i, z);
    }
    if (i < n) {
        vec x = v_loadn(m + i, n - i), y = v_loadn(v + i, n - i), z = v_loadn(p + i, n - i);
        adam_step(v_loadn(g + i, n - i), s, &x, &y, &z);
        v_storen(m_new + i, x, n - i);
        v_storen(v_new + i, y, n - i);
        v_storen(p_new + i, z, n - i);
    }
}
