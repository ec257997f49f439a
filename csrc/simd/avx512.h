/* The vector vocabulary for AVX-512 (F, DQ, BW, VL): avx2.h explains the names. Masks are mask registers. */
#include "../kernels.h"

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#if BP_REAL == 32
typedef float real;
typedef int32_t sint;
typedef uint32_t uint_;
typedef __m512 vec;
typedef __m512i ivec;
typedef __mmask16 msk;
#define VL 16
INLINE msk v_lanes_below(int64_t n) { return (msk)((1u << n) - 1); }
INLINE vec v_zero(void) { return _mm512_setzero_ps(); }
INLINE vec v_set1(real x) { return _mm512_set1_ps(x); }
INLINE vec v_load(const real *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(real *p, vec x) { _mm512_storeu_ps(p, x); }
INLINE vec v_loadn(const real *p, int64_t n) { return _mm512_maskz_loadu_ps(v_lanes_below(n), p); }
INLINE void v_storen(real *p, vec x, int64_t n) { _mm512_mask_storeu_ps(p, v_lanes_below(n), x); }
INLINE vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
/* A division keeps Intel's dividers busy for 16 cycles a register, a root for 20 and more, one after the other where a step needs
 * both; so roots are made of fma (Markstein 1990), beside the divisions (Zen 4 has 6 and 10 cycles, but half as many fma, so there
 * every second root beside a division is):
 *   g = sqrt a (1 + e), h = 1/(2 sqrt a), one step, d = a - g^2 (exact), g + d h rounded once
 * It is the divider's root for every float32 (all were compared, flushed and not, and for estimates off by their full 2^-14).
 * d must not fall among the denormals: registers with a lane that is neither 0 nor in [2^-76, 2^100) go to the divider. */
INLINE vec v_sqrt_fma(vec a)
{
    enum { LOW = (127 - 76) << 23, RANGE = (100 + 76) << 23 };
    const msk usual = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(LOW)),
                                              _mm512_set1_epi32(RANGE));
    const msk zero = _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_EQ_OQ);
    if (__builtin_expect((msk)(usual | zero) != 0xffff, 0)) return _mm512_sqrt_ps(a);
    const vec half = _mm512_set1_ps(0.5f), y = _mm512_maskz_rsqrt14_ps(usual, a);
    vec g = _mm512_mul_ps(a, y), h = _mm512_mul_ps(y, half); /* of 0: 0, with its sign, and so all that follows */
    const vec r = _mm512_fnmadd_ps(g, h, half);
    g = _mm512_fmadd_ps(g, r, g);
    h = _mm512_fmadd_ps(h, r, h);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(g, g, a), h, g);
}
INLINE vec v_sqrt(vec a) { return bp_here->divides_roots ? _mm512_sqrt_ps(a) : v_sqrt_fma(a); }
#define v_sqrt_fma v_sqrt_fma /* this set has one: chains.h */
INLINE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec v_neg(vec a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
INLINE vec v_abs(vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
INLINE msk v_lt(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE msk v_le(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
INLINE msk v_eq(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE msk v_ne(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
INLINE msk v_isnan(vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
INLINE vec v_select(msk m, vec a, vec b) { return _mm512_mask_blend_ps(m, b, a); }
INLINE vec v_from_mask(msk m) { return _mm512_maskz_mov_ps(m, _mm512_set1_ps(1.0f)); }
INLINE msk m_and(msk a, msk b) { return (msk)(a & b); }
INLINE msk m_or(msk a, msk b) { return (msk)(a | b); }
/* maxps(a, b) is a > b ? a : b, also where either is NaN; NaN in a is put back. */
INLINE vec v_max(vec a, vec b) { return v_select(v_isnan(a), a, _mm512_max_ps(a, b)); }
INLINE vec v_min(vec a, vec b) { return v_select(v_isnan(a), a, _mm512_min_ps(a, b)); }
INLINE vec v_at_least(vec a, vec c) { return _mm512_max_ps(c, a); }
INLINE vec v_at_most(vec a, vec c) { return _mm512_min_ps(c, a); }
INLINE vec v_mul_error(vec a, vec b, vec p) { return _mm512_fmsub_ps(a, b, p); }
INLINE vec v_rint(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE ivec v_as_int(vec a) { return _mm512_castps_si512(a); }
INLINE vec i_as_vec(ivec a) { return _mm512_castsi512_ps(a); }
INLINE ivec i_set1(uint_ x) { return _mm512_set1_epi32((int)x); }
INLINE ivec i_add(ivec a, ivec b) { return _mm512_add_epi32(a, b); }
INLINE ivec i_sub(ivec a, ivec b) { return _mm512_sub_epi32(a, b); }
INLINE ivec i_shl(ivec a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
INLINE ivec i_shr(ivec a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
INLINE vec i_to_vec(ivec a) { return _mm512_cvtepi32_ps(a); }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low) /* shuffles, for shifts would wait for the multiplier's port */
{
    ivec even = _mm512_mul_epu32(a, b);
    ivec odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    *low = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, 0xa0);
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, 0xf5);
}
/* r[0..4) of 4 x 4 quarters: quarter q of r[i] <-> quarter i of r[q]. */
INLINE void v_transpose_quarters(vec *r0, vec *r1, vec *r2, vec *r3)
{
    vec even01 = _mm512_shuffle_f32x4(*r0, *r1, 0x88), odd01 = _mm512_shuffle_f32x4(*r0, *r1, 0xdd);
    vec even23 = _mm512_shuffle_f32x4(*r2, *r3, 0x88), odd23 = _mm512_shuffle_f32x4(*r2, *r3, 0xdd);
    *r0 = _mm512_shuffle_f32x4(even01, even23, 0x88);
    *r1 = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    *r2 = _mm512_shuffle_f32x4(even01, even23, 0xdd);
    *r3 = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
}
/* r[0..4): the 4 x 4 transposition within each quarter. */
INLINE void v_transpose_within(vec *r)
{
    vec lo01 = _mm512_unpacklo_ps(r[0], r[1]), hi01 = _mm512_unpackhi_ps(r[0], r[1]);
    vec lo23 = _mm512_unpacklo_ps(r[2], r[3]), hi23 = _mm512_unpackhi_ps(r[2], r[3]);
    r[0] = _mm512_shuffle_ps(lo01, lo23, 0x44);
    r[1] = _mm512_shuffle_ps(lo01, lo23, 0xee);
    r[2] = _mm512_shuffle_ps(hi01, hi23, 0x44);
    r[3] = _mm512_shuffle_ps(hi01, hi23, 0xee);
}
INLINE void v_transpose(vec r[16])
{
    v_transpose_within(r);
    v_transpose_within(r + 4);
    v_transpose_within(r + 8);
    v_transpose_within(r + 12);
    v_transpose_quarters(r, r + 4, r + 8, r + 12);
    v_transpose_quarters(r + 1, r + 5, r + 9, r + 13);
    v_transpose_quarters(r + 2, r + 6, r + 10, r + 14);
    v_transpose_quarters(r + 3, r + 7, r + 11, r + 15);
}
INLINE void v_unzip(vec r[2])
{
    const ivec even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    vec odd = _mm512_permutex2var_ps(r[0], _mm512_add_epi32(even, _mm512_set1_epi32(1)), r[1]);
    r[0] = _mm512_permutex2var_ps(r[0], even, r[1]);
    r[1] = odd;
}
INLINE void v_zip(vec r[2])
{
    const ivec lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    vec upper = _mm512_permutex2var_ps(r[0], _mm512_add_epi32(lower, _mm512_set1_epi32(8)), r[1]);
    r[0] = _mm512_permutex2var_ps(r[0], lower, r[1]);
    r[1] = upper;
}
#else
typedef double real;
typedef int64_t sint;
typedef uint64_t uint_;
typedef __m512d vec;
typedef __m512i ivec;
typedef __mmask8 msk;
#define VL 8
INLINE msk v_lanes_below(int64_t n) { return (msk)((1u << n) - 1); }
INLINE vec v_zero(void) { return _mm512_setzero_pd(); }
INLINE vec v_set1(real x) { return _mm512_set1_pd(x); }
INLINE vec v_load(const real *p) { return _mm512_loadu_pd(p); }
INLINE void v_store(real *p, vec x) { _mm512_storeu_pd(p, x); }
INLINE vec v_loadn(const real *p, int64_t n) { return _mm512_maskz_loadu_pd(v_lanes_below(n), p); }
INLINE void v_storen(real *p, vec x, int64_t n) { _mm512_mask_storeu_pd(p, v_lanes_below(n), x); }
INLINE vec v_add(vec a, vec b) { return _mm512_add_pd(a, b); }
INLINE vec v_sub(vec a, vec b) { return _mm512_sub_pd(a, b); }
INLINE vec v_mul(vec a, vec b) { return _mm512_mul_pd(a, b); }
INLINE vec v_div(vec a, vec b) { return _mm512_div_pd(a, b); }
INLINE vec v_sqrt(vec a) { return _mm512_sqrt_pd(a); }
INLINE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_pd(a, b, c); }
INLINE vec v_neg(vec a) { return _mm512_xor_pd(a, _mm512_set1_pd(-0.0)); }
INLINE vec v_abs(vec a) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), a); }
INLINE msk v_lt(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
INLINE msk v_le(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
INLINE msk v_eq(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
INLINE msk v_ne(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }
INLINE msk v_isnan(vec a) { return _mm512_cmp_pd_mask(a, a, _CMP_UNORD_Q); }
INLINE vec v_select(msk m, vec a, vec b) { return _mm512_mask_blend_pd(m, b, a); }
INLINE vec v_from_mask(msk m) { return _mm512_maskz_mov_pd(m, _mm512_set1_pd(1.0)); }
INLINE msk m_and(msk a, msk b) { return (msk)(a & b); }
INLINE msk m_or(msk a, msk b) { return (msk)(a | b); }
INLINE vec v_max(vec a, vec b) { return v_select(v_isnan(a), a, _mm512_max_pd(a, b)); }
INLINE vec v_min(vec a, vec b) { return v_select(v_isnan(a), a, _mm512_min_pd(a, b)); }
INLINE vec v_at_least(vec a, vec c) { return _mm512_max_pd(c, a); }
INLINE vec v_at_most(vec a, vec c) { return _mm512_min_pd(c, a); }
INLINE vec v_mul_error(vec a, vec b, vec p) { return _mm512_fmsub_pd(a, b, p); }
INLINE vec v_rint(vec a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE ivec v_as_int(vec a) { return _mm512_castpd_si512(a); }
INLINE vec i_as_vec(ivec a) { return _mm512_castsi512_pd(a); }
INLINE ivec i_set1(uint_ x) { return _mm512_set1_epi64((long long)x); }
INLINE ivec i_add(ivec a, ivec b) { return _mm512_add_epi64(a, b); }
INLINE ivec i_sub(ivec a, ivec b) { return _mm512_sub_epi64(a, b); }
INLINE ivec i_shl(ivec a, int n) { return _mm512_slli_epi64(a, (unsigned)n); }
INLINE ivec i_shr(ivec a, int n) { return _mm512_srli_epi64(a, (unsigned)n); }
INLINE vec i_to_vec(ivec a) { return _mm512_cvtepi64_pd(a); }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    *low = _mm512_mul_epu32(a, b);
    return _mm512_srli_epi64(*low, 32);
}
INLINE void v_transpose_quarters(vec *r0, vec *r1, vec *r2, vec *r3)
{
    vec even01 = _mm512_shuffle_f64x2(*r0, *r1, 0x88), odd01 = _mm512_shuffle_f64x2(*r0, *r1, 0xdd);
    vec even23 = _mm512_shuffle_f64x2(*r2, *r3, 0x88), odd23 = _mm512_shuffle_f64x2(*r2, *r3, 0xdd);
    *r0 = _mm512_shuffle_f64x2(even01, even23, 0x88);
    *r1 = _mm512_shuffle_f64x2(odd01, odd23, 0x88);
    *r2 = _mm512_shuffle_f64x2(even01, even23, 0xdd);
    *r3 = _mm512_shuffle_f64x2(odd01, odd23, 0xdd);
}
INLINE void v_transpose_within(vec *r)
{
    vec lo = _mm512_unpacklo_pd(r[0], r[1]);
    r[1] = _mm512_unpackhi_pd(r[0], r[1]);
    r[0] = lo;
}
INLINE void v_transpose(vec r[8])
{
    v_transpose_within(r);
    v_transpose_within(r + 2);
    v_transpose_within(r + 4);
    v_transpose_within(r + 6);
    v_transpose_quarters(r, r + 2, r + 4, r + 6);
    v_transpose_quarters(r + 1, r + 3, r + 5, r + 7);
}
INLINE void v_unzip(vec r[2])
{
    const ivec even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    vec odd = _mm512_permutex2var_pd(r[0], _mm512_add_epi64(even, _mm512_set1_epi64(1)), r[1]);
    r[0] = _mm512_permutex2var_pd(r[0], even, r[1]);
    r[1] = odd;
}
INLINE void v_zip(vec r[2])
{
    const ivec lower = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    vec upper = _mm512_permutex2var_pd(r[0], _mm512_add_epi64(lower, _mm512_set1_epi64(4)), r[1]);
    r[0] = _mm512_permutex2var_pd(r[0], lower, r[1]);
    r[1] = upper;
}
#endif
INLINE ivec i_load(const uint_ *p) { return _mm512_loadu_si512(p); }
INLINE void i_store(uint_ *p, ivec x) { _mm512_storeu_si512(p, x); }
INLINE ivec i_and(ivec a, ivec b) { return _mm512_and_si512(a, b); }
INLINE ivec i_or(ivec a, ivec b) { return _mm512_or_si512(a, b); }
INLINE ivec i_xor(ivec a, ivec b) { return _mm512_xor_si512(a, b); }
INLINE vec v_copysign(vec a, vec b) /* sign ? b : a, bit by bit */
{
    return i_as_vec(_mm512_ternarylogic_epi32(v_as_int(a), v_as_int(b), v_as_int(v_set1((real)-0.0)), 0xd8));
}
