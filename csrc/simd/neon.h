/* The vector vocabulary for AArch64 NEON: avx2.h explains the names. Integer lanes use the vector operators of GCC and
 * clang, which need no constant for a shift. */
#include <arm_neon.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#if BP_REAL == 32
typedef float real;
typedef int32_t sint;
typedef uint32_t uint_;
typedef float32x4_t vec;
typedef uint32x4_t ivec;
typedef uint32x4_t msk;
#define VL 4
INLINE vec v_zero(void) { return vdupq_n_f32(0); }
INLINE vec v_set1(real x) { return vdupq_n_f32(x); }
INLINE vec v_load(const real *p) { return vld1q_f32(p); }
INLINE void v_store(real *p, vec x) { vst1q_f32(p, x); }
INLINE vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
INLINE vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
INLINE vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
INLINE vec v_div(vec a, vec b) { return vdivq_f32(a, b); }
INLINE vec v_sqrt(vec a) { return vsqrtq_f32(a); }
INLINE vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
INLINE vec v_neg(vec a) { return vnegq_f32(a); }
INLINE vec v_abs(vec a) { return vabsq_f32(a); }
INLINE msk v_lt(vec a, vec b) { return vcltq_f32(a, b); }
INLINE msk v_le(vec a, vec b) { return vcleq_f32(a, b); }
INLINE msk v_eq(vec a, vec b) { return vceqq_f32(a, b); }
INLINE msk v_ne(vec a, vec b) { return ~vceqq_f32(a, b); }
INLINE msk v_isnan(vec a) { return ~vceqq_f32(a, a); }
INLINE vec v_select(msk m, vec a, vec b) { return vbslq_f32(m, a, b); }
INLINE vec v_at_least(vec a, vec c) { return vmaxq_f32(a, c); }
INLINE vec v_at_most(vec a, vec c) { return vminq_f32(a, c); }
INLINE vec v_rint(vec a) { return vrndnq_f32(a); }
INLINE ivec v_as_int(vec a) { return vreinterpretq_u32_f32(a); }
INLINE vec i_as_vec(ivec a) { return vreinterpretq_f32_u32(a); }
INLINE ivec i_set1(uint_ x) { return vdupq_n_u32(x); }
INLINE ivec i_load(const uint_ *p) { return vld1q_u32(p); }
INLINE void i_store(uint_ *p, ivec x) { vst1q_u32(p, x); }
INLINE vec i_to_vec(ivec a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(b)));
    uint32x4_t second = vreinterpretq_u32_u64(vmull_high_u32(a, b));
    *low = vuzp1q_u32(first, second);
    return vuzp2q_u32(first, second);
}
INLINE void v_transpose(vec r[4])
{
    float32x4x2_t x = vzipq_f32(r[0], r[2]), y = vzipq_f32(r[1], r[3]); /* columns 0, 1 and 2, 3; rows 0, 2 and 1, 3 */
    r[0] = vzip1q_f32(x.val[0], y.val[0]);
    r[1] = vzip2q_f32(x.val[0], y.val[0]);
    r[2] = vzip1q_f32(x.val[1], y.val[1]);
    r[3] = vzip2q_f32(x.val[1], y.val[1]);
}
INLINE void v_unzip(vec r[2])
{
    vec odd = vuzp2q_f32(r[0], r[1]);
    r[0] = vuzp1q_f32(r[0], r[1]);
    r[1] = odd;
}
INLINE void v_zip(vec r[2])
{
    vec upper = vzip2q_f32(r[0], r[1]);
    r[0] = vzip1q_f32(r[0], r[1]);
    r[1] = upper;
}
#else
typedef double real;
typedef int64_t sint;
typedef uint64_t uint_;
typedef float64x2_t vec;
typedef uint64x2_t ivec;
typedef uint64x2_t msk;
#define VL 2
INLINE vec v_zero(void) { return vdupq_n_f64(0); }
INLINE vec v_set1(real x) { return vdupq_n_f64(x); }
INLINE vec v_load(const real *p) { return vld1q_f64(p); }
INLINE void v_store(real *p, vec x) { vst1q_f64(p, x); }
INLINE vec v_add(vec a, vec b) { return vaddq_f64(a, b); }
INLINE vec v_sub(vec a, vec b) { return vsubq_f64(a, b); }
INLINE vec v_mul(vec a, vec b) { return vmulq_f64(a, b); }
INLINE vec v_div(vec a, vec b) { return vdivq_f64(a, b); }
INLINE vec v_sqrt(vec a) { return vsqrtq_f64(a); }
INLINE vec v_fma(vec a, vec b, vec c) { return vfmaq_f64(c, a, b); }
INLINE vec v_neg(vec a) { return vnegq_f64(a); }
INLINE vec v_abs(vec a) { return vabsq_f64(a); }
INLINE msk v_lt(vec a, vec b) { return vcltq_f64(a, b); }
INLINE msk v_le(vec a, vec b) { return vcleq_f64(a, b); }
INLINE msk v_eq(vec a, vec b) { return vceqq_f64(a, b); }
INLINE msk v_ne(vec a, vec b) { return ~vceqq_f64(a, b); }
INLINE msk v_isnan(vec a) { return ~vceqq_f64(a, a); }
INLINE vec v_select(msk m, vec a, vec b) { return vbslq_f64(m, a, b); }
INLINE vec v_at_least(vec a, vec c) { return vmaxq_f64(a, c); }
INLINE vec v_at_most(vec a, vec c) { return vminq_f64(a, c); }
INLINE vec v_rint(vec a) { return vrndnq_f64(a); }
INLINE ivec v_as_int(vec a) { return vreinterpretq_u64_f64(a); }
INLINE vec i_as_vec(ivec a) { return vreinterpretq_f64_u64(a); }
INLINE ivec i_set1(uint_ x) { return vdupq_n_u64(x); }
INLINE ivec i_load(const uint_ *p) { return vld1q_u64(p); }
INLINE void i_store(uint_ *p, ivec x) { vst1q_u64(p, x); }
INLINE vec i_to_vec(ivec a) { return vcvtq_f64_s64(vreinterpretq_s64_u64(a)); }
INLINE ivec i_mulwide(ivec a, ivec b, ivec *low)
{
    *low = vmull_u32(vmovn_u64(a), vmovn_u64(b));
    return *low >> 32;
}
INLINE void v_transpose(vec r[2])
{
    vec x = vzip1q_f64(r[0], r[1]);
    r[1] = vzip2q_f64(r[0], r[1]);
    r[0] = x;
}
INLINE void v_unzip(vec r[2]) { v_transpose(r); }
INLINE void v_zip(vec r[2]) { v_transpose(r); }
#endif
INLINE vec v_loadn(const real *p, int64_t n)
{
    real x[VL] = {0};
    for (int64_t i = 0; i < VL; i++)
        if (i < n) x[i] = p[i];
    return v_load(x);
}
INLINE void v_storen(real *p, vec a, int64_t n)
{
    real x[VL];
    v_store(x, a);
    for (int64_t i = 0; i < VL; i++)
        if (i < n) p[i] = x[i];
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
INLINE ivec i_shl(ivec a, int n) { return a << (uint_)n; }
INLINE ivec i_shr(ivec a, int n) { return a >> (uint_)n; }
INLINE msk m_and(msk a, msk b) { return a & b; }
INLINE msk m_or(msk a, msk b) { return a | b; }
INLINE vec v_from_mask(msk m) { return i_as_vec(m & v_as_int(v_set1(1))); }
/* Not fmax: of +0 and -0 that picks one by sign, the contract picks b. */
INLINE vec v_max(vec a, vec b) { return v_select(v_lt(b, a) | v_isnan(a), a, b); }
INLINE vec v_min(vec a, vec b) { return v_select(v_lt(a, b) | v_isnan(a), a, b); }
INLINE vec v_mul_error(vec a, vec b, vec p) { return v_fma(a, b, v_neg(p)); }
