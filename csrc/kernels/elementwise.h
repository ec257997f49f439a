/* The loops over ops.def: dst[i] = op(a[i], b[i], c[i]), 0 <= i < n, where any operand may be one number instead.
 *
 * One template, map_loop, is inlined into a function for each operation and each choice of operands; the operation, its
 * arity and the choice are constants there. Every step loads before it stores, so dst may be a, b or c. */

/* ------------------------------------------------------------------ the operations that are not words of the vocabulary */
INLINE vec op_copy(vec a) { return a; }
INLINE vec op_sign(vec a)
{
    vec zero_or_nan = v_select(v_isnan(a), a, v_zero());
    return v_select(v_lt(v_zero(), a), v_const(1), v_select(v_lt(a, v_zero()), v_const(-1), zero_or_nan));
}
INLINE vec op_lt(vec a, vec b) { return v_from_mask(v_lt(a, b)); }
INLINE vec op_le(vec a, vec b) { return v_from_mask(v_le(a, b)); }
INLINE vec op_eq(vec a, vec b) { return v_from_mask(v_eq(a, b)); }
INLINE vec op_ne(vec a, vec b) { return v_from_mask(v_ne(a, b)); }

/* op is a constant wherever this is called, so one case is left of it. */
INLINE vec map_one(int op, vec a, vec b, vec c)
{
    switch (op) {
    case BP_MAP_COPY: return op_copy(a);
    case BP_MAP_NEG: return v_neg(a);
    case BP_MAP_ABS: return v_abs(a);
    case BP_MAP_SIGN: return op_sign(a);
    case BP_MAP_SQRT: return v_sqrt(a);
    case BP_MAP_EXP: return v_exp(a);
    case BP_MAP_EXPM1: return v_expm1(a);
    case BP_MAP_LOG: return v_log(a);
    case BP_MAP_LOG1P: return v_log1p(a);
    case BP_MAP_TANH: return v_tanh(a);
    case BP_MAP_LOGISTIC: return v_logistic(a);
    case BP_MAP_ERF: return v_erf(a);
    case BP_MAP_ADD: return v_add(a, b);
    case BP_MAP_SUB: return v_sub(a, b);
    case BP_MAP_MUL: return v_mul(a, b);
    case BP_MAP_DIV: return v_div(a, b);
    case BP_MAP_POW: return v_pow(a, b);
    case BP_MAP_MAX: return v_max(a, b);
    case BP_MAP_MIN: return v_min(a, b);
    case BP_MAP_LT: return op_lt(a, b);
    case BP_MAP_LE: return op_le(a, b);
    case BP_MAP_EQ: return op_eq(a, b);
    case BP_MAP_NE: return op_ne(a, b);
    case BP_MAP_FMA: return v_fma(a, b, c);
    case BP_MAP_SELECT: return v_select(v_ne(a, v_zero()), b, c);
    default: return v_zero();
    }
}

/* ------------------------------------------------------------------ the loop */
/* Operations of one or two instructions need several in flight to saturate L1; the long ones overlap by themselves. */
INLINE int is_short(int op)
{
    return !(op == BP_MAP_POW || op == BP_MAP_DIV || op == BP_MAP_SIGN || (op >= BP_MAP_SQRT && op <= BP_MAP_ERF));
}

/* An operand: an array, or the one number that stands in every lane of `all`. `used` and `one` are constants. */
typedef struct { const real *p; vec all; int used, one; } operand;

INLINE operand operand_at(const void *p, int used, int one)
{
    return (operand){p, used && one ? v_set1(*(const real *)p) : v_zero(), used, one};
}
INLINE vec lanes(operand x, int64_t i) { return x.used && !x.one ? v_load(x.p + i) : x.all; }
INLINE vec lanes_n(operand x, int64_t i, int64_t n) { return x.used && !x.one ? v_loadn(x.p + i, n) : x.all; }

INLINE void map_loop(int op, int arity, int variant, int64_t n, real *dst, const void *pa, const void *pb, const void *pc)
{
    if (n == 0) return;
    const operand a = operand_at(pa, 1, variant & 1);
    const operand b = operand_at(pb, arity > 1, variant & 2), c = operand_at(pc, arity > 2, variant & 4);
    int64_t i = 0;
    if (is_short(op))
        for (; i + 4 * VL <= n; i += 4 * VL) {
            vec x0 = map_one(op, lanes(a, i), lanes(b, i), lanes(c, i));
            vec x1 = map_one(op, lanes(a, i + VL), lanes(b, i + VL), lanes(c, i + VL));
            vec x2 = map_one(op, lanes(a, i + 2 * VL), lanes(b, i + 2 * VL), lanes(c, i + 2 * VL));
            vec x3 = map_one(op, lanes(a, i + 3 * VL), lanes(b, i + 3 * VL), lanes(c, i + 3 * VL));
            v_store(dst + i, x0);
            v_store(dst + i + VL, x1);
            v_store(dst + i + 2 * VL, x2);
            v_store(dst + i + 3 * VL, x3);
        }
    for (; i + VL <= n; i += VL)
        v_store(dst + i, map_one(op, lanes(a, i), lanes(b, i), lanes(c, i)));
    if (i < n)
        v_storen(dst + i, map_one(op, lanes_n(a, i, n - i), lanes_n(b, i, n - i), lanes_n(c, i, n - i)), n - i);
}

/* Whole registers: what exceeds a row is overwritten by the next one. */
static void spread(int64_t rows, int64_t cols, const void *src_, int64_t step, void *dst_)
{
    const real *src = src_;
    real *dst = dst_;
    for (int64_t i = 0; i < rows; i++, src += step, dst += cols) {
        const vec x = v_set1(*src);
        for (int64_t j = 0; j < cols; j += VL) v_store(dst + j, x);
    }
}

/* ------------------------------------------------------------------ a function for each operation and variant */
#define MAP_FN(NAME, name, arity, variant)                                                                            \
    static void map_##name##_##variant(int64_t n, void *dst, const void *a, const void *b, const void *c)             \
    {                                                                                                                 \
        map_loop(BP_MAP_##NAME, arity, variant, n, dst, a, b, c);                                                     \
    }
/* All operands are one number: so is the result. */
#define MAP_FILL(name, variant)                                                                                       \
    static void map_##name##_##variant(int64_t n, void *dst, const void *a, const void *b, const void *c)             \
    {                                                                                                                 \
        if (n == 0) return;                                                                                           \
        real x;                                                                                                       \
        map_##name##_0(1, &x, a, b, c);                                                                               \
        map_fill(n, dst, x);                                                                                          \
    }
static void map_fill(int64_t n, real *dst, real x) { map_loop(BP_MAP_COPY, 1, 1, n, dst, &x, 0, 0); }

#define MAP_FNS_0(NAME, name)
#define MAP_FNS_1(NAME, name) MAP_FN(NAME, name, 1, 0) MAP_FILL(name, 1)
#define MAP_FNS_2(NAME, name)                                                                                         \
    MAP_FN(NAME, name, 2, 0) MAP_FN(NAME, name, 2, 1) MAP_FN(NAME, name, 2, 2) MAP_FILL(name, 3)
#define MAP_FNS_3(NAME, name)                                                                                         \
    MAP_FN(NAME, name, 3, 0) MAP_FN(NAME, name, 3, 1) MAP_FN(NAME, name, 3, 2) MAP_FN(NAME, name, 3, 3)               \
    MAP_FN(NAME, name, 3, 4) MAP_FN(NAME, name, 3, 5) MAP_FN(NAME, name, 3, 6) MAP_FILL(name, 7)
#define BP_MAP(NAME, name, arity, algebra) MAP_FNS_##arity(NAME, name)
#include "../ops.def"

/* The rows of a table, by arity. Bits of a variant that name operands which the operation lacks mean nothing. */
#define MAP_ROW_0(name) {0}
#define MAP_ROW_1(name)                                                                                               \
    {map_##name##_0, map_##name##_1, map_##name##_0, map_##name##_1,                                                  \
     map_##name##_0, map_##name##_1, map_##name##_0, map_##name##_1}
#define MAP_ROW_2(name)                                                                                               \
    {map_##name##_0, map_##name##_1, map_##name##_2, map_##name##_3,                                                  \
     map_##name##_0, map_##name##_1, map_##name##_2, map_##name##_3}
#define MAP_ROW_3(name)                                                                                               \
    {map_##name##_0, map_##name##_1, map_##name##_2, map_##name##_3,                                                  \
     map_##name##_4, map_##name##_5, map_##name##_6, map_##name##_7}
