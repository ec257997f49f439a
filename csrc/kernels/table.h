/* The bodies, written once against the vocabulary, and the table that a set's file exports. */
#include "../kernels.h"
#if BP_REAL == 32
#define BP_TABLE BP_TABLE_NAME_32
#define MR BP_MR_32
#else
#define BP_TABLE BP_TABLE_NAME_64
#define MR BP_MR_64
#endif
#define NRV BP_NRV
#define NR (NRV * VL)
#define PAGE_REALS (BP_PAGE_BYTES / (int)sizeof(real))

#ifdef __clang__ /* loops whose body becomes constants */
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_STEPS _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_STEPS _Pragma("GCC unroll 4")
#endif

#include "math.h"        /* exp, log, tanh ... of one vector */
#include "elementwise.h" /* loops over ops.def */
#include "chains.h"      /* operations that follow one another in one pass */
#include "random.h"      /* Philox */
#include "matmul.h"      /* block kernel of the matrix product, packing */
#include "bfloat16.h"    /* rounding to bfloat16 */
#include "peak.h"        /* fma in registers */
#include "reduce.h"      /* row and column reductions */
#include "rows.h"        /* sums of chosen rows */
#include "softmax.h"     /* cross-entropy from raw scores */

const bp_kernels BP_TABLE = {
    .isa = BP_ISA_NAME,
    .real_bytes = sizeof(real),
    .lanes = VL,
    .map = {
#define BP_MAP(NAME, name, arity, algebra) [BP_MAP_##NAME] = MAP_ROW_##arity(name),
#include "../ops.def"
    },
    .spread = spread,
    .chain = {
#define BP_CHAIN(NAME, name, vectors, numbers, results, ns, ...) [BP_CHAIN_##NAME] = chain_##name,
#include "../ops.def"
    },
    .random = random_uniform,
    .mr = MR,
    .nr = NR,
    .block = gemm_block,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .transpose = transpose,
    .round_bf16 = ROUND_BF16,
    .fma_peak = fma_peak,
    .reduce_rows = reduce_rows,
    .reduce_cols = reduce_cols,
    .reduce_lanes = reduce_lanes,
    .join_lanes = join_lanes,
    .sum_rows = sum_rows,
    .softmax_ce = softmax_ce,
};
