/* peak.h: the most that fused multiply-adds can do, to measure a benchmark's share of it. */

/* `rounds` rounds of PEAK_CHAINS fma that wait for nothing but their own predecessors: x = x a + b in registers, where
 * x stays near b / (1 - a). Returns the floating-point operations done; *sink keeps the work from being left out. */
enum { PEAK_CHAINS = 12 };
static double fma_peak(int64_t rounds, double *sink)
{
    const vec a = v_set1((real)0.5), b = v_set1((real)0.75);
    vec x[PEAK_CHAINS];
    UNROLL for (int i = 0; i < PEAK_CHAINS; i++) x[i] = v_set1((real)i);
    for (int64_t r = 0; r < rounds; r++)
        UNROLL for (int i = 0; i < PEAK_CHAINS; i++) x[i] = v_fma(x[i], a, b);
    UNROLL for (int i = 1; i < PEAK_CHAINS; i++) x[0] = v_add(x[0], x[i]);
    real lanes[VL];
    v_store(lanes, x[0]);
    *sink = (double)lanes[0];
    return 2.0 * VL * PEAK_CHAINS * (double)rounds;
}
