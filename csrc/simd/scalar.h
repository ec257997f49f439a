/* The vector vocabulary in portable C: GCC and clang vector extensions of 16 bytes, for any processor. avx2.h explains
 * the names. There is no fused multiply-add: v_fma rounds twice. */
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h> /* v_sqrt alone */
#endif

#define INLINE static inline __attribute__((always_inline))

#if BP_REAL == 32
typedef float real;
typedef int32_t sint;
typedef uint32_t uint_;
#define VL 4
#else
typedef double real;
typedef int64_t sint;
typedef uint64_t uint_;
#define VL 2
#endif
typedef real vec __attribute__((vector_size(16)));
typedef uint_ ivec __attribute__((vector_size(16)));
typedef sint msk __attribute__((vector_size(16))); /* 0 or -1 in each lane */

INLINE vec v_zero(void) { return (vec){0}; }
#if BP_REAL == 32
INLINE vec v_set1(real x) { return (vec){x, x, x, x}; }
INLINE ivec i_set1(uint_ x) { return (ivec){x, x, x, x}; }
#else
INLINE vec v_set1(real x) { return (vec){x, x}; }
INLINE ivec i_set1(uint_ x) { return (ivec){x, x}; }
#endif
INLINE vec v_load(const real *p)
{
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void v_store(real *p, vec x) { memcpy(p, &x, sizeof x); }
INLINE vec v_loadn(const real *p, int64_t n)
{
    vec x = {0};
    for (int64_t i = 0; i < VL; i++)
        if (i < n) x[i] = p[i];
    return x;
}
INLINE void v_storen(real *p, vec x, int64_t n)
{
    for (int64_t i = 0; i < VL; i++)
        if (i < n) p[i] = x[i];
}
INLINE ivec v_as_int(vec a) { return (ivec)a; }
INLINE vec i_as_vec(ivec a) { return (vec)a; }
INLINE vec v_add(vec a, vec b) { return a + b; }
INLINE vec v_sub(vec a, vec b) { return a - b; }
INLINE vec v_mul(vec a, vec b) { return a * b; }
INLINE vec v_div(vec a, vec b) { return a / b; }
INLINE vec v_fma(vec a, vec b, vec c) { return a * b + c; }
INLINE vec v_sqrt(vec a)
{
#if defined(__SSE2__) && BP_REAL == 32
    return (vec)_mm_sqrt_ps((__m128)a);
#elif defined(__SSE2__)
    return (vec)_mm_sqrt_pd((__m128d)a);
#else
    for (int i = 0; i < VL; i++) /* one instruction wherever the processor has one; correctly rounded by IEEE 754 */
        a[i] = BP_REAL == 32 ? (real)__builtin_sqrtf((float)a[i]) : (real)__builtin_sqrt((double)a[i]);
    return a;
#endif
}
INLINE vec v_neg(vec a) { return (vec)((ivec)a ^ (ivec)v_set1((real)-0.0)); }
INLINE vec v_abs(vec a) { return (vec)((ivec)a & ~(ivec)v_set1((real)-0.0)); }
INLINE msk v_lt(vec a, vec b) { return a < b; }
INLINE msk v_le(vec a, vec b) { return a <= b; }
INLINE msk v_eq(vec a, vec b) { return a == b; }
INLINE msk v_ne(vec a, vec b) { return a != b; }
INLINE msk v_isnan(vec a) { return a != a; }
INLINE vec v_select(msk m, vec a, vec b) { return (vec)(((ivec)m & (ivec)a) | (~(ivec)m & (ivec)b)); }
INLINE vec v_from_mask(msk m) { return (vec)((ivec)m & (ivec)v_set1((real)1)); }
INLINE msk m_and(msk a, msk b) { return a & b; }
INLINE msk m_or(msk a, msk b) { return a | b; }
INLINE vec v_max(vec a, vec b) { return v_select((a > b) | (a != a), a, b); }
INLINE vec v_min(vec a, vec b) { return v_select((a < b) | (a != a), a, b); }
INLINE vec v_at_least(vec a, vec c) { return v_select(a < c, c, a); }
INLINE vec v_at_most(vec a, vec c) { return v_select(a > c, c, a); }
/* Dekker's product: each factor is split into halves whose products are exact. */
INLINE vec v_mul_error(vec a, vec b, vec p)
{
    vec split = v_set1((real)(BP_REAL == 32 ? 0x1p12 + 1 : 0x1p27 + 1));
    vec as = a * split, ah = as - (as - a), al = a - ah;
    vec bs = b * split, bh = bs - (bs - b), bl = b - bh;
    return ((ah * bh - p) + ah * bl + al * bh) + al * bl;
}
/* Adding and subtracting 2^23 (2^52) rounds |a| below it to an integer; above it every number is one. */
INLINE vec v_rint(vec a)
{
    vec big = v_set1((real)(BP_REAL == 32 ? 0x1p23 : 0x1p52)), size = v_abs(a);
    ivec sign = (ivec)a ^ (ivec)size;
    return v_select(size < big, (vec)((ivec)((size + big) - big) | sign), a);
}
INLINE ivec i_add(ivec a, ivec b) { return a + b; }
INLINE ivec i_sub(ivec a, ivec b) { return a - b; }
INLINE ivec i_and(ivec a, ivec b) { return a & b; }
INLINE ivec i_or(ivec a, ivec b) { return a | b; }
INLINE ivec i_xor(ivec a, ivec b) { return a ^ b; }
INLINE vec v_copysign(vec a, vec b)
{
    ivec sign = v_as_int(v_set1((real)-0.0));
    return i_as_vec((v_as_int(a) & ~sign) | (v_as_int(b) & sign));
}
INLINE ivec i_shl(ivec a, int n) { return a << n; }
INLINE ivec i_shr(ivec a, int n) { return a >> n; }
INLINE ivec i_load(const uint_ *p)
{
    ivec x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void i_store(uint_ *p, ivec x) { memcpy(p, &x, sizeof x); }
#if BP_REAL == 32
INLINE vec i_to_vec(ivec a) { return __builtin_convertvector((msk)a, vec); }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    *low = a * b;
    for (int i = 0; i < VL; i++)
        a[i] = (uint32_t)((uint64_t)a[i] * b[i] >> 32);
    return a;
}
#else
/* 1.5 2^52 + a as bits, minus 1.5 2^52. */
INLINE vec i_to_vec(ivec a) { vec m = v_set1(0x1.8p52); return (vec)(a + (ivec)m) - m; }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    *low = (a & i_set1(0xffffffff)) * (b & i_set1(0xffffffff));
    return *low >> 32;
}
#endif
INLINE void v_transpose(vec r[VL])
{
    for (int i = 0; i < VL; i++)
        for (int j = 0; j < i; j++) {
            real x = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = x;
        }
}
INLINE void v_unzip(vec r[2])
{
    vec even = r[0], odd = r[1];
    for (int i = 0; i < VL; i++) {
        even[i] = r[2 * i / VL][2 * i % VL];
        odd[i] = r[2 * i / VL][2 * i % VL + 1];
    }
    r[0] = even;
    r[1] = odd;
}
INLINE void v_zip(vec r[2])
{
    vec lower = r[0], upper = r[1];
    for (int i = 0; i < VL / 2; i++) {
        lower[2 * i] = r[0][i];
        lower[2 * i + 1] = r[1][i];
        upper[2 * i] = r[0][VL / 2 + i];
        upper[2 * i + 1] = r[1][VL / 2 + i];
    }
    r[0] = lower;
    r[1] = upper;
}
