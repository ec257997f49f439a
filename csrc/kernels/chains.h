/* The chains of ops.def, each in one pass over a block; contract in kernels.h.
 *
 * Operation by operation, each line passes over a block in L1 once for every sign; here loads and stores are made once, and a
 * divider, which a division and a square root keep busy for longer than all else takes, never waits for them. */
typedef struct {
    vec x[BP_CHAIN_VECTORS], s[BP_CHAIN_NUMBERS], y[BP_CHAIN_RESULTS];
    int second; /* of two that follow one another */
} chain_values;

/* A root beside a division: every second one of fma, where there is that choice, shares the work between divider and multipliers. */
INLINE vec root(const chain_values *c, vec v)
{
#ifdef v_sqrt_fma
    return c->second ? v_sqrt_fma(v) : v_sqrt(v);
#else
    (void)c;
    return v_sqrt(v);
#endif
}

/* y[0] = m' = s1 m + s0 g        y[1] = v' = s3 v + s2 g^2 */
INLINE void moments(chain_values *c)
{
    const vec *x = c->x, *s = c->s;
    c->y[0] = v_fma(x[1], s[1], v_mul(x[0], s[0]));
    c->y[1] = v_fma(x[2], s[3], v_mul(v_mul(x[0], x[0]), s[2]));
}

/* p + s5 m / (sqrt v + s4) */
INLINE vec adam_step(const chain_values *c, vec m, vec v, vec p)
{
    return v_fma(v_div(m, v_add(root(c, v), c->s[4])), c->s[5], p);
}

/* y from x and s; every line has the operations of its row in ops.def, in their order. `chain` is a constant, so one case is left. */
INLINE void chain_one(int chain, chain_values *c)
{
    const vec *x = c->x, *s = c->s;
    vec *y = c->y;
    switch (chain) {
    case BP_CHAIN_ADAM:
        moments(c);
        y[2] = adam_step(c, y[0], y[1], x[3]);
        break;
    case BP_CHAIN_ADAMW: /* s6 p for p */
        moments(c);
        y[2] = adam_step(c, y[0], y[1], v_mul(x[3], s[6]));
        break;
    case BP_CHAIN_AMSGRAD: /* w' = max(w, v') for v' */
        moments(c);
        y[2] = v_max(x[3], y[1]);
        y[3] = adam_step(c, y[0], y[2], x[4]);
        break;
    case BP_CHAIN_RMSPROP: /* v' = s1 v + s0 g^2        p' = p + s3 g / (sqrt v' + s2) */
        y[0] = v_fma(x[1], s[1], v_mul(v_mul(x[0], x[0]), s[0]));
        y[1] = v_fma(v_div(x[0], v_add(root(c, y[0]), s[2])), s[3], x[2]);
        break;
    case BP_CHAIN_ADAGRAD: /* v' = v + g^2        p' = p + s1 g / (sqrt v' + s0) */
        y[0] = v_fma(x[0], x[0], x[1]);
        y[1] = v_fma(v_div(x[0], v_add(root(c, y[0]), s[0])), s[1], x[2]);
        break;
    case BP_CHAIN_RELU: y[0] = v_max(v_add(x[0], x[1]), s[0]); break;
    case BP_CHAIN_RELU_GRADIENT: y[0] = v_select(v_lt(s[0], x[0]), x[1], s[1]); break;
    case BP_CHAIN_TANH: y[0] = v_tanh(v_add(x[0], x[1])); break;
    case BP_CHAIN_TANH_GRADIENT: y[0] = v_mul(x[1], v_sub(s[0], v_mul(x[0], x[0]))); break;
    case BP_CHAIN_LOGISTIC: y[0] = v_logistic(v_add(x[0], x[1])); break;
    case BP_CHAIN_LOGISTIC_GRADIENT: y[0] = v_mul(x[1], v_mul(x[0], v_sub(s[0], x[0]))); break;
    case BP_CHAIN_DROPOUT:
        y[0] = v_mul(op_le(s[0], x[0]), s[1]);
        y[1] = v_mul(x[1], y[0]);
        break;
    case BP_CHAIN_TANH_SLOPE: y[0] = v_sub(s[0], v_mul(x[0], x[0])); break;
    case BP_CHAIN_PRODUCT: y[0] = v_mul(v_mul(x[0], x[1]), x[2]); break;
    case BP_CHAIN_PRODUCT_WHERE: y[0] = v_select(v_ne(x[2], v_zero()), v_mul(x[0], x[1]), s[0]); break;
    }
}

/* y[i : i + VL] from x and s. Weights and moments, which often lie beyond L2, are asked for in advance. */
INLINE void chain_step(int chain, const int vectors, const int results, int64_t i, const real *const *x, real *const *y, chain_values *c)
{
    enum { AHEAD = 128 }; /* numbers; past the end a prefetch does nothing */
    if (results > 1) UNROLL for (int j = 1; j < vectors; j++) __builtin_prefetch(x[j] + i + AHEAD, 1);
    UNROLL for (int j = 0; j < vectors; j++) c->x[j] = v_load(x[j] + i);
    chain_one(chain, c);
    UNROLL for (int j = 0; j < results; j++) v_store(y[j] + i, c->y[j]);
}

INLINE void chain_loop(int chain, const int vectors, const int numbers, const int results, int64_t n, const void *const *in,
                       void *const *out)
{
    const real *x[BP_CHAIN_VECTORS];
    real *y[BP_CHAIN_RESULTS];
    chain_values c;
    UNROLL for (int j = 0; j < vectors; j++) x[j] = in[j];
    UNROLL for (int j = 0; j < numbers; j++) c.s[j] = v_set1(*(const real *)in[BP_CHAIN_VECTORS + j]);
    UNROLL for (int j = 0; j < results; j++) y[j] = out[j];
    int64_t i = 0;
    for (; results > 1 && i + 2 * VL <= n; i += 2 * VL) {
        c.second = 0;
        chain_step(chain, vectors, results, i, x, y, &c);
        c.second = 1;
        chain_step(chain, vectors, results, i + VL, x, y, &c);
    }
    c.second = 0;
    for (; i + VL <= n; i += VL) chain_step(chain, vectors, results, i, x, y, &c);
    if (i < n) {
        UNROLL for (int j = 0; j < vectors; j++) c.x[j] = v_loadn(x[j] + i, n - i);
        chain_one(chain, &c);
        UNROLL for (int j = 0; j < results; j++) v_storen(y[j] + i, c.y[j], n - i);
    }
}

#define BP_CHAIN(NAME, name, vectors, numbers, results, ns, ...)                                                       \
    static void chain_##name(int64_t n, const void *const *in, void *const *out)                                       \
    {                                                                                                                 \
        chain_loop(BP_CHAIN_##NAME, vectors, numbers, results, n, in, out);                                            \
    }
#include "../ops.def"
