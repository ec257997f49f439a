/* AVX2 + FMA. Compiled twice, with -DBP_REAL=32 and -DBP_REAL=64, and with this set's flags. */
#define BP_TABLE_NAME_32 bp_kernels_avx2_f32
#define BP_TABLE_NAME_64 bp_kernels_avx2_f64
#define BP_ISA_NAME "avx2"
#define BP_MR_32 6
#define BP_MR_64 6
#define BP_NRV 2 /* vectors in a row of the micro-kernel's block: 6 x 2 accumulators + 2 of B + 1 of A = 15 of 16 registers */
#include "simd/avx2.h"
#include "kernels/table.h"
