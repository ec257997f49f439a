/* The vector vocabulary for AVX-512 (F, DQ, BW, VL): avx2.h explains the names. Masks are mask registers. */
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
INLINE vec v_sqrt(vec a) { return _mm512_sqrt_ps(a); }
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
INLINE ivec i_mullo(ivec a, ivec b) { return _mm512_mullo_epi32(a, b); }
INLINE ivec i_mulhi(ivec a, ivec b)
{
    ivec even = _mm512_mul_epu32(a, b);
    ivec odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    return _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
/* Pairs, then fours, within 128-bit quarters; then a 4 x 4 transposition of quarters. */
INLINE void v_transpose(vec r[16])
{
    __m512 t[16];
    __m512d u[16]; /* u[4 q + c], quarter l: rows 4 q .. 4 q + 3 of column 4 l + c */
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int c = 0; c < 4; c += 2) {
            __m512d x = _mm512_castps_pd(t[i + c / 2]), y = _mm512_castps_pd(t[i + 2 + c / 2]);
            u[i + c] = _mm512_unpacklo_pd(x, y);
            u[i + c + 1] = _mm512_unpackhi_pd(x, y);
        }
    for (int c = 0; c < 4; c++) {
        __m512d even0 = _mm512_shuffle_f64x2(u[c], u[4 + c], 0x88), odd0 = _mm512_shuffle_f64x2(u[c], u[4 + c], 0xdd);
        __m512d even1 = _mm512_shuffle_f64x2(u[8 + c], u[12 + c], 0x88), odd1 = _mm512_shuffle_f64x2(u[8 + c], u[12 + c], 0xdd);
        r[c] = _mm512_castpd_ps(_mm512_shuffle_f64x2(even0, even1, 0x88));
        r[4 + c] = _mm512_castpd_ps(_mm512_shuffle_f64x2(odd0, odd1, 0x88));
        r[8 + c] = _mm512_castpd_ps(_mm512_shuffle_f64x2(even0, even1, 0xdd));
        r[12 + c] = _mm512_castpd_ps(_mm512_shuffle_f64x2(odd0, odd1, 0xdd));
    }
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
INLINE ivec i_mullo(ivec a, ivec b)
{
    return _mm512_and_si512(_mm512_mul_epu32(a, b), _mm512_set1_epi64(0xffffffff));
}
INLINE ivec i_mulhi(ivec a, ivec b) { return _mm512_srli_epi64(_mm512_mul_epu32(a, b), 32); }
INLINE void v_transpose(vec r[8])
{
    __m512d u[8]; /* u[2 q + c], quarter l: rows 2 q, 2 q + 1 of column 2 l + c */
    for (int i = 0; i < 8; i += 2) {
        u[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
        u[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    }
    for (int c = 0; c < 2; c++) {
        __m512d even0 = _mm512_shuffle_f64x2(u[c], u[2 + c], 0x88), odd0 = _mm512_shuffle_f64x2(u[c], u[2 + c], 0xdd);
        __m512d even1 = _mm512_shuffle_f64x2(u[4 + c], u[6 + c], 0x88), odd1 = _mm512_shuffle_f64x2(u[4 + c], u[6 + c], 0xdd);
        r[c] = _mm512_shuffle_f64x2(even0, even1, 0x88);
        r[2 + c] = _mm512_shuffle_f64x2(odd0, odd1, 0x88);
        r[4 + c] = _mm512_shuffle_f64x2(even0, even1, 0xdd);
        r[6 + c] = _mm512_shuffle_f64x2(odd0, odd1, 0xdd);
    }
}
#endif
INLINE ivec i_load(const uint_ *p) { return _mm512_loadu_si512(p); }
INLINE void i_store(uint_ *p, ivec x) { _mm512_storeu_si512(p, x); }
INLINE ivec i_and(ivec a, ivec b) { return _mm512_and_si512(a, b); }
INLINE ivec i_or(ivec a, ivec b) { return _mm512_or_si512(a, b); }
INLINE ivec i_xor(ivec a, ivec b) { return _mm512_xor_si512(a, b); }
