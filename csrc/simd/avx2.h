/* The vector vocabulary for AVX2 + FMA. Every file of this folder defines the same names; BP_REAL (32 or 64) chooses the
 * float type, so a file that includes one sees plain names: real, vec, msk, ivec, v_load, v_fma ...
 *
 *   real, vec          a number, a register of VL numbers         sint, uint_, ivec   an integer of the same width, VL of them
 *   msk                VL booleans (whatever the set likes best)
 *   v_loadn, v_storen  the first n lanes, 0 <= n <= VL; other lanes read as 0, are not written, and are not touched
 *   v_fma(a, b, c)     a b + c, rounded once (twice in scalar.h)
 *   v_max(a, b)        a > b or a is NaN ? a : b      (so NaN in either gives NaN; of two equal, b)
 *   v_select(m, a, b)  m ? a : b
 *   v_at_least(a, c)   a < c ? c : a, for a constant c that is not 0 (NaN stays NaN); v_at_most likewise
 *   v_copysign(a, b)   a with the sign of b
 *   v_mul_error(a, b, p)   a b - p, exactly, for p = v_mul(a, b)
 *   v_rint             the nearest integer, of two the even one; keeps the sign of zero
 *   v_transpose(r)     r[i] lane j <-> r[j] lane i, for VL registers r[0..VL)
 *   v_unzip(r)         of the 2 VL numbers of r[0] and r[1] those of even place to r[0], those of odd place to r[1]; v_zip(r) puts them back
 *   v_sqrt, v_div      correctly rounded, whatever they start from
 *   v_as_int, i_as_vec the same bits under the other type
 *   i_add ... i_shr    on unsigned lanes (so they wrap); i_shl and i_shr shift zeros in, by a constant
 *   i_to_vec           a signed lane as a number: exact for |a| <= 2^24, for double |a| < 2^51
 *   i_mulwide(a, b, low)   both halves of the product of 32-bit words, one word in each lane: the high one is returned, *low may
 *                      hold anything in the upper halves of its lanes, for double, and so may a and b */
#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#if BP_REAL == 32
typedef float real;
typedef int32_t sint;
typedef uint32_t uint_;
typedef __m256 vec;
typedef __m256i ivec;
typedef __m256 msk;
#define VL 8
INLINE __m256i v_lanes_below(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec v_zero(void) { return _mm256_setzero_ps(); }
INLINE vec v_set1(real x) { return _mm256_set1_ps(x); }
INLINE vec v_load(const real *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(real *p, vec x) { _mm256_storeu_ps(p, x); }
INLINE vec v_loadn(const real *p, int64_t n) { return _mm256_maskload_ps(p, v_lanes_below(n)); }
/* In halves: a masked store takes 12 cycles on Zen, these one or two each (and masked loads are cheap everywhere). */
INLINE void v_storen(real *p, vec x, int64_t n)
{
    __m128 half = _mm256_castps256_ps128(x);
    if (n & 8) {
        _mm256_storeu_ps(p, x);
        return;
    }
    if (n & 4) {
        _mm_storeu_ps(p, half);
        half = _mm256_extractf128_ps(x, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, half);
        half = _mm_movehl_ps(half, half);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, half);
}
INLINE vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
INLINE vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
INLINE vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
INLINE vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }
INLINE vec v_sqrt(vec a) { return _mm256_sqrt_ps(a); }
INLINE vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec v_neg(vec a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
INLINE vec v_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE msk v_lt(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE msk v_le(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
INLINE msk v_eq(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
INLINE msk v_ne(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
INLINE msk v_isnan(vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
INLINE vec v_select(msk m, vec a, vec b) { return _mm256_blendv_ps(b, a, m); }
INLINE vec v_from_mask(msk m) { return _mm256_and_ps(m, _mm256_set1_ps(1.0f)); }
INLINE msk m_and(msk a, msk b) { return _mm256_and_ps(a, b); }
INLINE msk m_or(msk a, msk b) { return _mm256_or_ps(a, b); }
/* maxps(a, b) is a > b ? a : b, also where either is NaN; NaN in a is put back. */
INLINE vec v_max(vec a, vec b) { return v_select(v_isnan(a), a, _mm256_max_ps(a, b)); }
INLINE vec v_min(vec a, vec b) { return v_select(v_isnan(a), a, _mm256_min_ps(a, b)); }
INLINE vec v_at_least(vec a, vec c) { return _mm256_max_ps(c, a); }
INLINE vec v_at_most(vec a, vec c) { return _mm256_min_ps(c, a); }
INLINE vec v_mul_error(vec a, vec b, vec p) { return _mm256_fmsub_ps(a, b, p); }
INLINE vec v_rint(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE ivec v_as_int(vec a) { return _mm256_castps_si256(a); }
INLINE vec i_as_vec(ivec a) { return _mm256_castsi256_ps(a); }
INLINE ivec i_set1(uint_ x) { return _mm256_set1_epi32((int)x); }
INLINE ivec i_add(ivec a, ivec b) { return _mm256_add_epi32(a, b); }
INLINE ivec i_sub(ivec a, ivec b) { return _mm256_sub_epi32(a, b); }
INLINE ivec i_shl(ivec a, int n) { return _mm256_slli_epi32(a, n); }
INLINE ivec i_shr(ivec a, int n) { return _mm256_srli_epi32(a, n); }
INLINE vec i_to_vec(ivec a) { return _mm256_cvtepi32_ps(a); }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    ivec even = _mm256_mul_epu32(a, b);
    ivec odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    *low = _mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, 0xa0), 0xaa);
    return _mm256_blend_epi32(_mm256_shuffle_epi32(even, 0xf5), odd, 0xaa);
}
/* out[0..4) = the 4 x 4 transpositions of both 128-bit halves of a, b, c, d. */
INLINE void v_transpose_halves(vec out[4], vec a, vec b, vec c, vec d)
{
    vec ab_lo = _mm256_unpacklo_ps(a, b), ab_hi = _mm256_unpackhi_ps(a, b);
    vec cd_lo = _mm256_unpacklo_ps(c, d), cd_hi = _mm256_unpackhi_ps(c, d);
    out[0] = _mm256_shuffle_ps(ab_lo, cd_lo, 0x44);
    out[1] = _mm256_shuffle_ps(ab_lo, cd_lo, 0xee);
    out[2] = _mm256_shuffle_ps(ab_hi, cd_hi, 0x44);
    out[3] = _mm256_shuffle_ps(ab_hi, cd_hi, 0xee);
}
INLINE void v_transpose(vec r[8])
{
    vec a = _mm256_permute2f128_ps(r[0], r[4], 0x20), e = _mm256_permute2f128_ps(r[0], r[4], 0x31);
    vec b = _mm256_permute2f128_ps(r[1], r[5], 0x20), f = _mm256_permute2f128_ps(r[1], r[5], 0x31);
    vec c = _mm256_permute2f128_ps(r[2], r[6], 0x20), g = _mm256_permute2f128_ps(r[2], r[6], 0x31);
    vec d = _mm256_permute2f128_ps(r[3], r[7], 0x20), h = _mm256_permute2f128_ps(r[3], r[7], 0x31);
    v_transpose_halves(r, a, b, c, d);
    v_transpose_halves(r + 4, e, f, g, h);
}
INLINE vec v_middle_swapped(vec a) /* of four quarters */
{
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xd8));
}
INLINE void v_unzip(vec r[2])
{
    vec odd = _mm256_shuffle_ps(r[0], r[1], 0xdd);
    r[0] = v_middle_swapped(_mm256_shuffle_ps(r[0], r[1], 0x88));
    r[1] = v_middle_swapped(odd);
}
INLINE void v_zip(vec r[2])
{
    vec lo = _mm256_unpacklo_ps(r[0], r[1]), hi = _mm256_unpackhi_ps(r[0], r[1]);
    r[0] = _mm256_permute2f128_ps(lo, hi, 0x20);
    r[1] = _mm256_permute2f128_ps(lo, hi, 0x31);
}
#else
typedef double real;
typedef int64_t sint;
typedef uint64_t uint_;
typedef __m256d vec;
typedef __m256i ivec;
typedef __m256d msk;
#define VL 4
INLINE __m256i v_lanes_below(int64_t n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
INLINE vec v_zero(void) { return _mm256_setzero_pd(); }
INLINE vec v_set1(real x) { return _mm256_set1_pd(x); }
INLINE vec v_load(const real *p) { return _mm256_loadu_pd(p); }
INLINE void v_store(real *p, vec x) { _mm256_storeu_pd(p, x); }
INLINE vec v_loadn(const real *p, int64_t n) { return _mm256_maskload_pd(p, v_lanes_below(n)); }
INLINE void v_storen(real *p, vec x, int64_t n)
{
    __m128d half = _mm256_castpd256_pd128(x);
    if (n & 4) {
        _mm256_storeu_pd(p, x);
        return;
    }
    if (n & 2) {
        _mm_storeu_pd(p, half);
        half = _mm256_extractf128_pd(x, 1);
        p += 2;
    }
    if (n & 1) _mm_store_sd(p, half);
}
INLINE vec v_add(vec a, vec b) { return _mm256_add_pd(a, b); }
INLINE vec v_sub(vec a, vec b) { return _mm256_sub_pd(a, b); }
INLINE vec v_mul(vec a, vec b) { return _mm256_mul_pd(a, b); }
INLINE vec v_div(vec a, vec b) { return _mm256_div_pd(a, b); }
INLINE vec v_sqrt(vec a) { return _mm256_sqrt_pd(a); }
INLINE vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_pd(a, b, c); }
INLINE vec v_neg(vec a) { return _mm256_xor_pd(a, _mm256_set1_pd(-0.0)); }
INLINE vec v_abs(vec a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
INLINE msk v_lt(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
INLINE msk v_le(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
INLINE msk v_eq(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
INLINE msk v_ne(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_NEQ_UQ); }
INLINE msk v_isnan(vec a) { return _mm256_cmp_pd(a, a, _CMP_UNORD_Q); }
INLINE vec v_select(msk m, vec a, vec b) { return _mm256_blendv_pd(b, a, m); }
INLINE vec v_from_mask(msk m) { return _mm256_and_pd(m, _mm256_set1_pd(1.0)); }
INLINE msk m_and(msk a, msk b) { return _mm256_and_pd(a, b); }
INLINE msk m_or(msk a, msk b) { return _mm256_or_pd(a, b); }
INLINE vec v_max(vec a, vec b) { return v_select(v_isnan(a), a, _mm256_max_pd(a, b)); }
INLINE vec v_min(vec a, vec b) { return v_select(v_isnan(a), a, _mm256_min_pd(a, b)); }
INLINE vec v_at_least(vec a, vec c) { return _mm256_max_pd(c, a); }
INLINE vec v_at_most(vec a, vec c) { return _mm256_min_pd(c, a); }
INLINE vec v_mul_error(vec a, vec b, vec p) { return _mm256_fmsub_pd(a, b, p); }
INLINE vec v_rint(vec a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE ivec v_as_int(vec a) { return _mm256_castpd_si256(a); }
INLINE vec i_as_vec(ivec a) { return _mm256_castsi256_pd(a); }
INLINE ivec i_set1(uint_ x) { return _mm256_set1_epi64x((long long)x); }
INLINE ivec i_add(ivec a, ivec b) { return _mm256_add_epi64(a, b); }
INLINE ivec i_sub(ivec a, ivec b) { return _mm256_sub_epi64(a, b); }
INLINE ivec i_shl(ivec a, int n) { return _mm256_slli_epi64(a, n); }
INLINE ivec i_shr(ivec a, int n) { return _mm256_srli_epi64(a, n); }
/* There is no conversion of 64-bit lanes: the bits of 1.5 2^52, plus a, are the number 1.5 2^52 + a. */
INLINE vec i_to_vec(ivec a)
{
    vec magic = _mm256_set1_pd(0x1.8p52);
    return _mm256_sub_pd(i_as_vec(i_add(a, v_as_int(magic))), magic);
}
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    *low = _mm256_mul_epu32(a, b);
    return _mm256_srli_epi64(*low, 32);
}
INLINE void v_transpose(vec r[4])
{
    __m256d a0 = _mm256_permute2f128_pd(r[0], r[2], 0x20), b0 = _mm256_permute2f128_pd(r[0], r[2], 0x31);
    __m256d a1 = _mm256_permute2f128_pd(r[1], r[3], 0x20), b1 = _mm256_permute2f128_pd(r[1], r[3], 0x31);
    r[0] = _mm256_unpacklo_pd(a0, a1);
    r[1] = _mm256_unpackhi_pd(a0, a1);
    r[2] = _mm256_unpacklo_pd(b0, b1);
    r[3] = _mm256_unpackhi_pd(b0, b1);
}
INLINE void v_unzip(vec r[2])
{
    vec odd = _mm256_unpackhi_pd(r[0], r[1]);
    r[0] = _mm256_permute4x64_pd(_mm256_unpacklo_pd(r[0], r[1]), 0xd8);
    r[1] = _mm256_permute4x64_pd(odd, 0xd8);
}
INLINE void v_zip(vec r[2])
{
    vec lo = _mm256_unpacklo_pd(r[0], r[1]), hi = _mm256_unpackhi_pd(r[0], r[1]);
    r[0] = _mm256_permute2f128_pd(lo, hi, 0x20);
    r[1] = _mm256_permute2f128_pd(lo, hi, 0x31);
}
#endif
INLINE ivec i_load(const uint_ *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void i_store(uint_ *p, ivec x) { _mm256_storeu_si256((__m256i *)p, x); }
INLINE ivec i_and(ivec a, ivec b) { return _mm256_and_si256(a, b); }
INLINE ivec i_or(ivec a, ivec b) { return _mm256_or_si256(a, b); }
INLINE ivec i_xor(ivec a, ivec b) { return _mm256_xor_si256(a, b); }
INLINE vec v_copysign(vec a, vec b)
{
    ivec sign = v_as_int(v_set1((real)-0.0));
    return i_as_vec(i_or(_mm256_andnot_si256(sign, v_as_int(a)), i_and(sign, v_as_int(b))));
}
