/* Portable C. Compiled twice, with -DBP_REAL=32 and -DBP_REAL=64, and with no flags of its own. */
#define BP_TABLE_NAME_32 bp_kernels_scalar_f32
#define BP_TABLE_NAME_64 bp_kernels_scalar_f64
#define BP_ISA_NAME "scalar"
#define BP_MR_32 4
#define BP_MR_64 4
#define BP_NRV 2 /* 4 x 2 accumulators + 2 of B + 1 of A = 11 of 16 registers, and one to multiply into */
#include "simd/scalar.h"
#include "kernels/table.h"
