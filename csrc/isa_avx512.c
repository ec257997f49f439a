/* AVX-512 (F, DQ, BW, VL). Compiled twice, with -DBP_REAL=32 and -DBP_REAL=64, and with this set's flags. */
#define BP_TABLE_NAME_32 bp_kernels_avx512_f32
#define BP_TABLE_NAME_64 bp_kernels_avx512_f64
#define BP_ISA_NAME "avx512"
#define BP_MR_32 8
#define BP_MR_64 8
#define BP_NRV 3 /* 8 x 3 accumulators + 3 of B + 1 of A = 28 of 32 registers, 11 loads for 24 fma */
#include "simd/avx512.h"
#include "kernels/table.h"
