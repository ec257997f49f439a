/* Whether the scratch that is asked for holds what products use: random sizes, strides, threads and tables, against the plans of
 * matmul.c and bfloat16.c, which are included so that their insides can be seen. Prints what does not fit; exits with 1 if anything. */
#define KC M_KC
#define NC M_NC
#define WHOLE_BYTES M_WHOLE_BYTES
#define block_rows m_block_rows
#define run_block m_run_block
#include "matmul.c"
#undef KC
#undef NC
#undef WHOLE_BYTES
#undef block_rows
#undef run_block
#include "bfloat16.c"
#include <stdio.h>

const bp_traits *bp_here;
void bp_parallel(int threads, int64_t n, bp_task_fn fn, void *arg) { (void)threads, (void)n, (void)fn, (void)arg; }

static uint64_t state = 1;
static int64_t below(int64_t n) /* uniform in 0 ... n - 1, by SplitMix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (int64_t)((z ^ z >> 31) % (uint64_t)n);
}
static int64_t size_of_kind(void) { return below(2) ? below(60) : below(4) ? below(3000) : below(30000); }

static int failures;
static void check(int fits, const char *what, int64_t m, int64_t n, int64_t k)
{
    if (!fits && failures++ < 20) printf("%s: m %lld, n %lld, k %lld\n", what, (long long)m, (long long)n, (long long)k);
}

static void check_product(int64_t most_m, int64_t most_n, int64_t most_k, int most_threads, int64_t m, int64_t n, int64_t k)
{
    static const int tables[][4] = {{8, 16, 48, 4}, {8, 8, 24, 8}, {6, 8, 16, 4}, {6, 4, 8, 8}, {8, 4, 8, 4}, {4, 1, 2, 4}};
    const int *const f = tables[below(6)]; /* rows of a tile, lanes, columns of a tile, bytes */
    const bp_kernels t = {.mr = f[0], .lanes = f[1], .nr = f[2], .real_bytes = f[3]};
    static const bp_traits kinds[] = {{.large_rows = 48}, {.large_rows = 289, .memory_rows = 289}};
    bp_here = &kinds[below(2)];
    const int threads = 1 + (int)below(most_threads), trans_a = (int)below(2), trans_b = (int)below(2);
    const bp_gemm g = {.m = m, .n = n, .k = k, .rsa = trans_a ? 1 : k, .csa = trans_a ? m : 1, .rsb = trans_b ? 1 : n,
                       .csb = trans_b ? k : 1, .ldc = n, .updates = (int)below(2)};
    const bp_gemm_plan p = make_plan(&t, &g, threads);
    const int64_t real = t.real_bytes, kc = min64(k, M_KC), mc = min64(p.mc, m), nc = min64(p.nc, n), a = (int64_t)p.a_bytes, b = (int64_t)p.b_bytes;
    check((64 + p.a_bytes + p.b_bytes + p.c_bytes) * (size_t)threads <= bp_gemm_scratch(&t, most_m, most_n, most_k, most_threads), "all", m, n, k);
    check(mc * nc * real <= (int64_t)p.c_bytes, "a block of C", m, n, k);
    check(!p.pack_a || round_up(mc, t.mr) * kc * real <= a, "packed A", m, n, k);
    check(!p.swapped || round_up(mc, t.nr) * kc * real <= a, "packed A of a swapped product", m, n, k);
    check(!p.swapped || mc * nc * real <= b, "C^T of a swapped product", m, n, k);
    check(!p.keep_b || round_up(nc, t.nr) * k * real <= b, "kept B", m, n, k);
    check(!p.pack_b || p.keep_b || round_up(min64(p.ns, nc), t.nr) * kc * real <= b, "packed B", m, n, k);
}

int main(void)
{
    for (int i = 0; i < 400000; i++) {
        const int64_t most_m = 1 + size_of_kind(), most_n = 1 + size_of_kind(), most_k = size_of_kind();
        const int64_t m = below(2) ? most_m : 1 + below(most_m), n = below(2) ? most_n : 1 + below(most_n);
        const int64_t k = below(2) ? most_k : below(most_k + 1);
        check_product(most_m, most_n, most_k, 1 + (int)below(4), m, n, k);
        check(block_numbers(m, n, k) <= most_numbers(most_m, most_n), "sums on tiles", m, n, k);
    }
    return failures > 0;
}
