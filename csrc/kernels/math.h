/* Transcendental functions of one vector, from explicit fma steps: the same bits on every instruction set that has fma,
 * and constants that serve without it too. No table, no estimate, at most one division.
 *
 * Largest error found, in ULP, with fma | without. float32: every input with 2^-30 <= |x| < 2^7 (exp, expm1: every input;
 * log: every one in [1/2, 2) and a seventh of the others; pow: 2 10^7 pairs) and a sixtieth of the rest; float64: 6 10^6 inputs.
 *              float32        float64                      float32        float64
 *   exp        1.99 | 2.28    0.91 | 1.16      tanh        2.50 | 2.50    2.51 | 2.51
 *   expm1      1.61 | 1.73    2.10 | 2.24      logistic    3.50 | 3.60    2.28 | 2.28
 *   log        0.88 | 0.93    0.80 | 0.84      erf         2.34 | 2.37    1.62 | 1.76
 *   log1p      1.48 | 1.53    1.35 | 1.35      pow         2.14 | 2.37    1.08 | 1.33
 *
 * Denormals count as numbers: inputs are read and results are rounded once, unless the caller has them flushed.
 * Every polynomial is a minimax fit by Remez exchange, in 40 digits; its line says what was fitted where, and the
 * largest relative error of the function that is built from it, before rounding. */

#if BP_REAL == 32
#define MANTISSA 23 /* bits below the leading one */
#define BIAS 127
#define LN2_HI 0x1.62e4p-1 /* 15 bits: n LN2_HI is exact for |n| < 2^9 without fma too */
#define LN2_LO 0x1.7f7d1cp-20
#define EXP_MIN -104.0 /* e^x is 0 below it */
#define EXP_MAX 89.0   /* and infinite above it, here with 2^128 as the power of two */
#define EXPM1_MIN -20.0 /* e^x - 1 is -1 below it, rounded */
#define LINEAR 0x1p-25 /* x and e^x - 1 round to the same number below it */
#define ERF_MAX 3.95   /* erf x is 1 above it, rounded */
#define SQRT_HALF_BITS 0x3f3504f3
#define TINY 0x1p-126 /* the smallest normal number */
#define THIRD_LO -0x1.555556p-27 /* 1/3 - (float)(1/3) */
#else
#define MANTISSA 52
#define BIAS 1023
#define LN2_HI 0x1.62e42feep-1 /* 32 bits: n LN2_HI is exact for |n| < 2^21 */
#define LN2_LO 0x1.a39ef35793c76p-33
#define EXP_MIN -746.0
#define EXP_MAX 710.0
#define EXPM1_MIN -40.0
#define LINEAR 0x1p-54
#define ERF_MAX 6.0
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcd
#define TINY 0x1p-1022
#define THIRD_LO 0x1.5555555555555p-56
#endif
#define LOG2_E 0x1.71547652b82fep0
#define LN2 0x1.62e42fefa39efp-1
#define INF ((real)__builtin_inf())
/* 1.5 2^MANTISSA + x has x, rounded to the nearest integer, in its lowest bits. */
#define ROUNDER (BP_REAL == 32 ? 0x1.8p23 : 0x1.8p52)

INLINE vec v_const(double x) { return v_set1((real)x); }
INLINE vec horner(vec p, vec x, double c) { return v_fma(p, x, v_const(c)); } /* p x + c */
INLINE vec v_sign_bit(vec a) { return i_as_vec(i_and(v_as_int(a), v_as_int(v_const(-0.0)))); }
INLINE vec v_or(vec a, vec b) { return i_as_vec(i_or(v_as_int(a), v_as_int(b))); }

/* ------------------------------------------------------------------ polynomials */
#if BP_REAL == 32
/* e^r, |r| <= ln 2 / 2, first coefficient 1: degree 5, error 2^-23.4. */
INLINE vec exp_poly(vec r)
{
    vec p = v_const(0x1.0fa7e8p-7);
    p = horner(p, r, 0x1.573ad0p-5); p = horner(p, r, 0x1.555a6ep-3); p = horner(p, r, 0x1.fffdc4p-2);
    p = horner(p, r, 0x1.fffff6p-1); p = horner(p, r, 1);
    return p;
}
/* (e^(q r) - 1) / q for a constant q, a power of two, which changes no bit; e^r - 1 = r + r^2 P(r), |r| <= ln 2 / 2: degree 4,
 * error 2^-26.2. */
INLINE vec expm1_poly(vec r, const double q)
{
    const double q2 = q * q, q4 = q2 * q2;
    vec p = v_const(0x1.6bebe0p-10 * q4 * q);
    p = horner(p, r, 0x1.1227b0p-7 * q4); p = horner(p, r, 0x1.555674p-5 * q2 * q); p = horner(p, r, 0x1.5554b0p-3 * q2);
    p = horner(p, r, 0x1.fffffep-2 * q);
    return v_fma(v_mul(r, r), p, r);
}
/* erf x = x P(x^2), |x| <= 1: degree 5, error 2^-24.6. */
INLINE vec erf_poly(vec u)
{
    vec p = v_const(-0x1.273f4ep-11);
    p = horner(p, u, 0x1.4246b2p-8); p = horner(p, u, -0x1.b5a354p-6); p = horner(p, u, 0x1.ce0942p-4);
    p = horner(p, u, -0x1.812674p-2); p = horner(p, u, 0x1.20dd74p+0);
    return p;
}
/* erf x = 1 - e^P(x), 1 <= x <= 3.95: degree 5, error 2^-25.9. */
INLINE vec log_erfc_poly(vec x)
{
    vec p = v_const(-0x1.2f5af2p-10);
    p = horner(p, x, 0x1.e601d6p-7); p = horner(p, x, -0x1.6bb908p-4); p = horner(p, x, -0x1.4ef896p-1);
    p = horner(p, x, -0x1.1e1c6ap+0); p = horner(p, x, -0x1.574df4p-9);
    return p;
}
/* log(1+f) = f - f^2/2 + f^3 P(f), 1 + f from sqrt 1/2 to sqrt 2: degree 7, error 2^-27.4. */
INLINE vec log_poly(vec f)
{
    vec p = v_const(-0x1.38b534p-4);
    p = horner(p, f, 0x1.055b56p-3); p = horner(p, f, -0x1.0d854ap-3); p = horner(p, f, 0x1.22da22p-3);
    p = horner(p, f, -0x1.547244p-3); p = horner(p, f, 0x1.99a008p-3); p = horner(p, f, -0x1.000226p-2);
    p = horner(p, f, 0x1.555554p-2);
    return p;
}
/* 2 atanh s = 2 s (1 + w (1/3 + w P(w))), the same s and w: degree 2, error 2^-36.8. */
INLINE vec pow_poly(vec w)
{
    vec p = v_const(0x1.df9d5ep-4);
    p = horner(p, w, 0x1.245296p-3); p = horner(p, w, 0x1.999a00p-3);
    return p;
}
#else
/* e^r, |r| <= ln 2 / 2, first coefficient 1: degree 11, error 2^-58.0. */
INLINE vec exp_poly(vec r)
{
    vec p = v_const(0x1.ad593068d7a50p-26);
    p = horner(p, r, 0x1.28afcfbd99272p-22); p = horner(p, r, 0x1.71df495a469e5p-19);
    p = horner(p, r, 0x1.a0199720a344cp-16); p = horner(p, r, 0x1.a01a011159c66p-13);
    p = horner(p, r, 0x1.6c16c185701dcp-10); p = horner(p, r, 0x1.111111112fa44p-7);
    p = horner(p, r, 0x1.5555555550135p-5); p = horner(p, r, 0x1.55555555554b3p-3);
    p = horner(p, r, 0x1.000000000000bp-1); p = horner(p, r, 1);
    p = horner(p, r, 1);
    return p;
}
/* (e^(q r) - 1) / q, as above; e^r - 1 = r + r^2 P(r), |r| <= ln 2 / 2: degree 9, error 2^-55.6. */
INLINE vec expm1_poly(vec r, const double q)
{
    const double q2 = q * q, q4 = q2 * q2, q8 = q4 * q4;
    vec p = v_const(0x1.ae6bbe528368bp-26 * q8 * q2);
    p = horner(p, r, 0x1.28a206e130289p-22 * q8 * q); p = horner(p, r, 0x1.71de881a85a98p-19 * q8);
    p = horner(p, r, 0x1.a019a74a187c9p-16 * q4 * q2 * q); p = horner(p, r, 0x1.a01a0174ff2bbp-13 * q4 * q2);
    p = horner(p, r, 0x1.6c16c17ee74a3p-10 * q4 * q); p = horner(p, r, 0x1.1111111119007p-7 * q4);
    p = horner(p, r, 0x1.555555555228ep-5 * q2 * q); p = horner(p, r, 0x1.5555555555539p-3 * q2);
    p = horner(p, r, 0x1.0000000000005p-1 * q);
    return v_fma(v_mul(r, r), p, r);
}
/* erf x = x P(x^2), |x| <= 1: degree 12, error 2^-62.7. */
INLINE vec erf_poly(vec u)
{
    vec p = v_const(0x1.0579819528984p-34);
    p = horner(p, u, -0x1.386ab0f28d865p-30); p = horner(p, u, 0x1.f7a40cd5cc250p-27);
    p = horner(p, u, -0x1.5f1d363ce21c9p-23); p = horner(p, u, 0x1.b9def18d60002p-20);
    p = horner(p, u, -0x1.f4d1df37ecddbp-17); p = horner(p, u, 0x1.f9a321a10a593p-14);
    p = horner(p, u, -0x1.c02db3d8ec6c0p-11); p = horner(p, u, 0x1.565bcd0db029ep-8);
    p = horner(p, u, -0x1.b82ce3128499ap-6); p = horner(p, u, 0x1.ce2f21a042b20p-4);
    p = horner(p, u, -0x1.812746b0379e6p-2); p = horner(p, u, 0x1.20dd750429b6dp+0);
    return p;
}
/* erf x = 1 - e^P(x), 1 <= x <= 6.0: degree 17, error 2^-57.0. */
INLINE vec log_erfc_poly(vec x)
{
    vec p = v_const(-0x1.5ad62ad6dc686p-38);
    p = horner(p, x, 0x1.c1b60f292f42bp-33); p = horner(p, x, -0x1.0e5f0623e1630p-28);
    p = horner(p, x, 0x1.8ec8f5a4ab803p-25); p = horner(p, x, -0x1.90d890ad460a0p-22);
    p = horner(p, x, 0x1.1ea80c12181dep-19); p = horner(p, x, -0x1.22d5495cc2b91p-17);
    p = horner(p, x, 0x1.7eeab496d4f34p-16); p = horner(p, x, -0x1.54110e3c24e00p-16);
    p = horner(p, x, -0x1.1b3575401af81p-13); p = horner(p, x, 0x1.9408b85d5bc43p-11);
    p = horner(p, x, -0x1.f63fff7015182p-10); p = horner(p, x, 0x1.ae9019b467f99p-12);
    p = horner(p, x, 0x1.37229ddc12198p-6); p = horner(p, x, -0x1.a4ac5dbdf9560p-4);
    p = horner(p, x, -0x1.45f62746bea6bp-1); p = horner(p, x, -0x1.20dd1fd5641b0p+0);
    p = horner(p, x, -0x1.0df2681202f30p-21);
    return p;
}
/* 2 atanh s = s (2 + w P(w)), w = s^2, s = f/(2+f), 1 + f from sqrt 1/2 to sqrt 2: degree 6, error 2^-59.5. */
INLINE vec atanh_poly(vec w)
{
    vec p = v_const(0x1.2f063705faa27p-3);
    p = horner(p, w, 0x1.39a1a6b886695p-3); p = horner(p, w, 0x1.74663fa487d84p-3);
    p = horner(p, w, 0x1.c71c5205fd2b8p-3); p = horner(p, w, 0x1.24924941f5051p-2);
    p = horner(p, w, 0x1.999999997fd77p-2); p = horner(p, w, 0x1.5555555555592p-1);
    return p;
}
/* 2 atanh s = 2 s (1 + w (1/3 + w P(w))), the same s and w: degree 7, error 2^-73.5. */
INLINE vec pow_poly(vec w)
{
    vec p = v_const(0x1.eb11f551ae162p-5);
    p = horner(p, w, 0x1.de3356f72ec80p-5); p = horner(p, w, 0x1.1120b64559ab4p-4);
    p = horner(p, w, 0x1.3b1362b1beb78p-4); p = horner(p, w, 0x1.745d183262f47p-4);
    p = horner(p, w, 0x1.c71c71c58046bp-4); p = horner(p, w, 0x1.2492492493036p-3);
    p = horner(p, w, 0x1.9999999999996p-3);
    return p;
}
#endif

/* ------------------------------------------------------------------ exp and what is made of it */
/* x = n ln 2 + r, |r| <= ln 2 / 2. Returns r; *bits has n + offset in its low bits (as an integer that wraps), ready to
 * be shifted into the place of the exponent. */
INLINE vec reduce_ln2(vec x, int offset, ivec *bits)
{
    vec shifted = v_const(ROUNDER + offset), t = v_fma(x, v_const(LOG2_E), shifted), n = v_sub(t, shifted);
    *bits = v_as_int(t);
    return v_fma(n, v_const(-LN2_LO), v_fma(n, v_const(-LN2_HI), x));
}
INLINE vec exponent(ivec bits) { return i_as_vec(i_shl(bits, MANTISSA)); } /* 2^(bits - BIAS) */

/* p 2^n for bits = n + 2 BIAS: in two steps, so that neither factor overflows and a denormal result is rounded once. */
INLINE vec scale(vec p, ivec bits)
{
    ivec half = i_shr(bits, 1);
    return v_mul(v_mul(p, exponent(half)), exponent(i_sub(bits, half)));
}
INLINE vec v_exp(vec x)
{
    ivec bits;
    vec r = reduce_ln2(v_at_most(v_at_least(x, v_const(EXP_MIN)), v_const(EXP_MAX)), 2 * BIAS, &bits);
    return scale(exp_poly(r), bits);
}
/* With z = e^-|x| no number overflows, and of the two forms 1/(1+z) and z/(1+z) each keeps its relative accuracy. */
INLINE vec v_logistic(vec x)
{
    ivec bits;
    vec r = reduce_ln2(v_at_least(v_or(x, v_const(-0.0)), v_const(EXP_MIN)), 2 * BIAS, &bits);
    vec z = scale(exp_poly(r), bits), one = v_const(1);
    return v_div(v_select(v_lt(x, v_zero()), z, one), v_add(one, z));
}
/* e^x - 1 = 2^n p + (2^n - 1), p = e^r - 1: exact for n = 0, and never a difference of nearly equal numbers. Halved,
 * because 2^n itself may overflow; and x itself where a half would lose bits or the sign of zero. */
INLINE vec v_expm1(vec x)
{
    ivec bits;
    vec r = reduce_ln2(v_at_most(v_at_least(x, v_const(EXPM1_MIN)), v_const(EXP_MAX)), BIAS - 1, &bits);
    vec s = exponent(bits), half = v_fma(s, expm1_poly(r, 1), v_sub(s, v_const(0.5)));
    return v_select(v_lt(v_abs(x), v_const(LINEAR)), x, v_add(half, half));
}
/* tanh |x| = -E / (E + 1), E = (e^(-2|x|) - 1) / 2 = (2^n e^(2r) - 1) / 2 for -|x| = n ln 2 / 2 + r. Here r may carry the rounding
 * error of ln 2: for n < 0 it counts against E < -0.14 and weighs 2^n. */
INLINE vec v_tanh(vec x)
{
    vec y = v_at_least(v_or(x, v_const(-0.0)), v_const(EXPM1_MIN / 2));
    vec shifted = v_const(ROUNDER + BIAS), t = v_fma(y, v_const(2 * LOG2_E), shifted), n = v_sub(t, shifted);
    vec r = v_fma(n, v_const(-LN2 / 2), y), s = exponent(v_as_int(t));
    vec e = v_fma(s, expm1_poly(r, 2), v_fma(s, v_const(0.5), v_const(-0.5)));
    return v_copysign(v_div(e, v_add(e, v_const(1))), x);
}
/* |x| < 1: x P(x^2). Else 1 - e^L(|x|), L = log erfc: an error of erfc counts for a fifth of itself, or less. */
INLINE vec v_erf(vec x)
{
    vec size = v_abs(x), one = v_const(1);
    ivec bits;
    vec r = reduce_ln2(log_erfc_poly(v_at_most(size, v_const(ERF_MAX))), BIAS, &bits);
    vec large = v_sub(one, v_mul(exp_poly(r), exponent(bits)));
    vec small = v_mul(size, erf_poly(v_mul(x, x)));
    return v_copysign(v_select(v_lt(size, one), small, large), x);
}

/* ------------------------------------------------------------------ log and what is made of it */
/* x = 2^e (1 + f), 1 + f in [sqrt 1/2, sqrt 2), for 0 < x < infinity. Returns 1 + f; *e as a number. */
INLINE vec split_exponent(vec x, vec *e)
{
    msk denormal = v_lt(x, v_const(TINY));
    x = v_select(denormal, v_mul(x, v_const(BP_REAL == 32 ? 0x1p23 : 0x1p52)), x);
    /* With the bits of sqrt 1/2 taken away, and a bias put back so that no number is negative, the exponent counts from there. */
    const uint_ low = SQRT_HALF_BITS, one = (uint_)BIAS << MANTISSA;
    ivec u = i_add(v_as_int(x), i_set1(one - low));
    vec bias = v_select(denormal, v_const(BIAS + MANTISSA), v_const(BIAS));
    *e = v_sub(i_to_vec(i_shr(u, MANTISSA)), bias);
    return i_as_vec(i_add(i_and(u, i_set1(((uint_)1 << MANTISSA) - 1)), i_set1(low)));
}
/* y where 0 < x < infinity; else -infinity, NaN or x itself: what a logarithm is at x. */
INLINE vec log_special(vec x, vec y)
{
    vec nan = v_const(__builtin_nan("")), zero = v_zero();
    vec outside = v_select(v_lt(x, zero), nan, v_select(v_eq(x, zero), v_const(-INF), x));
    return v_select(m_and(v_lt(zero, x), v_lt(x, v_const(INF))), y, outside);
}
/* e ln 2 + log(1 + f) */
#if BP_REAL == 32
INLINE vec log_sum(vec e, vec f)
{
    vec square = v_mul(f, f), tail = v_fma(log_poly(f), f, v_const(-0.5)); /* log(1+f) = f + f^2 (f P(f) - 1/2) */
    return v_fma(e, v_const(LN2_HI), v_add(f, v_fma(square, tail, v_mul(e, v_const(LN2_LO)))));
}
#else
/* With s = f/(2+f): log(1+f) = 2 atanh s = f - (f^2/2 - s (f^2/2 + s^2 P(s^2))), as in FreeBSD's e_log.c (Sun, 1993). */
INLINE vec log_sum(vec e, vec f)
{
    vec s = v_div(f, v_add(f, v_const(2))), w = v_mul(s, s), half = v_mul(v_mul(f, f), v_const(0.5));
    vec tail = v_fma(s, v_fma(w, atanh_poly(w), half), v_mul(e, v_const(LN2_LO)));
    return v_fma(e, v_const(LN2_HI), v_sub(f, v_sub(half, tail)));
}
#endif
INLINE vec v_log(vec x)
{
    vec e, m = split_exponent(x, &e);
    return log_special(x, log_sum(e, v_sub(m, v_const(1))));
}
/* u = 1 + x rounded, with the rounding error c = x - (u - 1): log(1 + x) = e ln 2 + log(1 + f + c/2^e). */
INLINE vec v_log1p(vec x)
{
    vec u = v_add(x, v_const(1)), c = v_sub(x, v_sub(u, v_const(1)));
    vec e, f = v_sub(split_exponent(u, &e), v_const(1));
    /* 2^-e: the bits of 1 - e + BIAS. Beyond 2^60 c counts for nothing, and 2^-e might be no number. */
    vec power = exponent(v_as_int(v_sub(v_const(ROUNDER + BIAS), e)));
    f = v_select(v_lt(u, v_const(0x1p60)), v_fma(c, power, f), f);
    return v_or(log_special(u, log_sum(e, f)), v_sign_bit(x));
}

/* |x|^y = e^(y log |x|) with the logarithm and the product as sums of two numbers: y log |x| may be 88 (709), and its error
 * is the relative error of the result. Then the special cases of IEEE 754. */
INLINE vec v_pow(vec x, vec y)
{
    const vec zero = v_zero(), one = v_const(1), inf = v_const(INF);
    vec size = v_abs(x), e, m = split_exponent(size, &e);
    /* s + s_lo = f/(2+f), with 2 + f = d + d_lo */
    vec f = v_sub(m, one), d = v_add(m, one), d_lo = v_sub(m, v_sub(d, one));
    vec inverse = v_div(one, d), s = v_mul(f, inverse), sd = v_mul(s, d);
    vec rest = v_sub(v_sub(v_sub(f, sd), v_mul_error(s, d, sd)), v_mul(s, d_lo));
    vec s_lo = v_mul(rest, inverse);
    /* log(1+f) = 2 s (1 + w (1/3 + w Q(w))), w = s^2; b = 1/3 + w Q(w); g = s w b */
    vec w = v_mul(s, s), w_lo = v_add(v_mul_error(s, s, w), v_mul(v_add(s, s), s_lo));
    const vec third = v_const(1.0 / 3);
    vec q = v_mul(w, pow_poly(w)), b = v_add(third, q);
    vec b_lo = v_add(v_add(v_sub(third, b), q), v_const(THIRD_LO));
    vec wb = v_mul(w, b), wb_lo = v_add(v_mul_error(w, b, wb), v_fma(w, b_lo, v_mul(w_lo, b)));
    vec g = v_mul(s, wb), g_lo = v_add(v_mul_error(s, wb, g), v_fma(s, wb_lo, v_mul(s_lo, wb)));
    vec h = v_add(s, g), h_lo = v_add(v_add(v_sub(s, h), g), v_add(s_lo, g_lo));
    /* e ln 2 + 2 (h + h_lo): e LN2_HI is exact, and 0 or the larger one */
    vec a = v_mul(e, v_const(LN2_HI)), h2 = v_add(h, h), log_hi = v_add(a, h2);
    vec log_lo = v_add(v_add(v_sub(a, log_hi), h2), v_fma(e, v_const(LN2_LO), v_add(h_lo, h_lo)));
    /* y log |x|. Where |y| is beyond `big`, all powers but that of 1 over- or underflow. */
    const double big = BP_REAL == 32 ? 0x1p32 : 0x1p64;
    vec k = v_at_most(v_at_least(y, v_const(-big)), v_const(big));
    vec t = v_mul(k, log_hi), t_lo = v_fma(k, log_lo, v_mul_error(k, log_hi, t));
    vec inside = v_at_most(v_at_least(t, v_const(EXP_MIN)), v_const(EXP_MAX));
    ivec bits;
    vec r = reduce_ln2(inside, 2 * BIAS, &bits);
    vec result = scale(exp_poly(v_add(r, v_select(v_eq(inside, t), t_lo, zero))), bits);

    msk below = v_lt(y, zero), above = v_lt(zero, y), is_zero = v_eq(size, zero), is_inf = v_eq(size, inf);
    vec limit = v_select(m_or(m_and(is_zero, below), m_and(is_inf, above)), inf, zero);
    result = v_select(m_or(is_zero, is_inf), limit, result);
    msk fraction = v_ne(y, v_rint(y)); /* NaN counts as one */
    vec half = v_mul(y, v_const(0.5));
    vec sign = v_select(fraction, zero, v_select(v_ne(half, v_rint(half)), v_sign_bit(x), zero)); /* odd y alone */
    result = v_or(result, sign);
    result = v_select(m_and(m_and(v_lt(x, zero), fraction), v_lt(size, inf)), v_const(__builtin_nan("")), result);
    result = v_select(m_or(v_isnan(x), v_isnan(y)), v_add(x, y), result);
    result = v_select(v_eq(y, v_const(2)), v_mul(x, x), result); /* exact where it can be */
    return v_select(m_or(v_eq(y, zero), v_eq(x, one)), one, result);
}
