/* AVX-512 (F, DQ, BW, VL). Compiled twice, with -DBP_REAL=32 and -DBP_REAL=64, and with this set's flags. */
#define BP_TABLE_NAME_32 bp_kernels_avx512_f32
#define BP_TABLE_NAME_64 bp_kernels_avx512_f64
#define BP_ISA_NAME "avx512"
#define BP_MR_32 14
#define BP_MR_64 14
#define BP_NRV 2 /* 14 x 2 accumulators + 2 of B + 1 of A = 31 of 32 registers */
#include "simd/avx512.h"
#include "kernels/table.h"
