/* Rounding to bfloat16, the upper half of a float32: kernels.h states it. Integer arithmetic, so that every set gives the
 * bits that the conversion instructions of AVX512-BF16 give. */
#if BP_REAL == 32
INLINE vec bf16_of(vec x)
{
    const ivec bits = v_as_int(x), upper = i_set1(0xffff0000u);
    const ivec odd = i_and(i_shr(bits, 16), i_set1(1)); /* a tie goes to the even one: it is carried only over an odd one */
    const vec near = i_as_vec(i_and(i_add(bits, i_add(i_set1(0x7fff), odd)), upper));
    const vec quiet = i_as_vec(i_and(i_or(bits, i_set1(0x00400000)), upper));
    const vec zero = i_as_vec(i_and(bits, i_set1(0x80000000u)));
    return v_select(v_isnan(x), quiet, v_select(v_lt(v_abs(x), v_set1(0x1p-126f)), zero, near));
}

static void round_bf16(int64_t n, const void *src_, void *dst_)
{
    const real *src = src_;
    real *dst = dst_;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) v_store(dst + i, bf16_of(v_load(src + i)));
    if (i < n) v_storen(dst + i, bf16_of(v_loadn(src + i, n - i)), n - i);
}
#define ROUND_BF16 round_bf16
#else
#define ROUND_BF16 NULL
#endif
