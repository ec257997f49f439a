/* AArch64 NEON. Compiled twice, with -DBP_REAL=32 and -DBP_REAL=64, and with no flags of its own. */
#define BP_TABLE_NAME_32 bp_kernels_neon_f32
#define BP_TABLE_NAME_64 bp_kernels_neon_f64
#define BP_ISA_NAME "neon"
#define BP_MR_32 12
#define BP_MR_64 12
#define BP_NRV 2 /* 12 x 2 accumulators + 2 of B + up to 6 of A = 32 of 32 registers */
#include "simd/neon.h"
#include "kernels/table.h"
