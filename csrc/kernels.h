/* kernels.h: the table of functions that each instruction set fills in, once for float and once for double.
 *
 * `real` is float or double by the table's real_bytes; pointers are void here because one struct serves both.
 * Contracts that hold for every function of every table:
 * - no alignment is asked of any pointer beyond that of its element; nothing outside the stated extents is touched;
 * - n == 0 is a legal call that touches nothing;
 * - the tail of a loop gives the same bits as its body, whatever the pointer's offset;
 * - all tables whose instruction set has fused multiply-add (all but scalar) give the same bits. */
#ifndef BP_KERNELS_H
#define BP_KERNELS_H

#include "backprop.h"

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }        /* of a >= 0 and b > 0 */
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* dst[i] = op(a[i], b[i], c[i]), 0 <= i < n. Variant bit 0, 1, 2: a, b, c is one number, not an array (a[0] for every i).
 * dst may be the same array as a, b or c (equal pointers), never a shifted overlap. */
typedef void (*bp_map_fn)(int64_t n, void *dst, const void *a, const void *b, const void *c);

/* The block kernel: one block of C from k steps, cut inside into register tiles of at most mr x nr.
 *   acc[i,j] = sum over p ascending of  A(i,p) B(p,j)        a chain of fma that starts from 0 (fma(a0, b0, 0))
 *   C[i,j]   = ADD ? C[i,j] + acc[i,j] : acc[i,j]            C(i,j) = c[i*ldc + j],  0 <= i < m,  0 <= j < n
 * A(i,p) = a[i*rsa + p*csa] (any strides), or a is what pack_a made of that m x k block (rsa, csa unused);
 * B(p,j) = b[p*rsb + j], or b is what pack_b made of that k x n block (rsb unused), or B_TRANSPOSED: b[p + j*rsb], for
 * one row (m <= 1), which is not worth a packed copy. Where a B by rows that is not packed comes from beyond L2: B_FAR, so that tiles
 * ask for it in advance; or B_ROWS, for m <= BP_MOST_ROWS and an A that is not packed: by rows of B, each read once, and with B_LARGE
 * in longer pieces. */
enum {
    BP_BLOCK_ADD = 1, BP_BLOCK_A_PACKED = 2, BP_BLOCK_B_PACKED = 4, BP_BLOCK_B_TRANSPOSED = 8, BP_BLOCK_B_FAR = 16, BP_BLOCK_B_ROWS = 32,
    BP_BLOCK_B_LARGE = 64, BP_MOST_ROWS = 48
};
typedef void (*bp_block_fn)(int64_t m, int64_t n, int64_t k, const void *a, int64_t rsa, int64_t csa,
                            const void *b, int64_t rsb, void *c, int64_t ldc, int flags);

enum { BP_ROW_CHUNK = 4096, BP_PAGE_BYTES = 4096 };

typedef void (*bp_chain_fn)(int64_t n, const void *const *in, void *const *out);

struct bp_kernels {
    const char *isa;
    int real_bytes;
    int lanes;                                  /* reals in a vector register */

    bp_map_fn map[BP_MAP_COUNT][8];             /* [op][variant bits]; RANDOM has none */

    /* dst[i*cols + j] = src[i*step]: numbers of rows, repeated along them. Up to a register more of dst is written. */
    void (*spread)(int64_t rows, int64_t cols, const void *src, int64_t step, void *dst);

    /* The chains of ops.def in one pass: out[j][n], the results, from in[0 ..], vectors [n], and in[BP_CHAIN_VECTORS ..], numbers.
     * Every rounding is that of the map's own operations, so the bits are theirs. An output may be any of the inputs or a
     * later output's place (equal pointers), never a shifted overlap. */
    bp_chain_fn chain[BP_CHAIN_COUNT];

    /* dst[i*cols + j] = uniform [0,1) for row row0+i, column col0+j. Philox4x32-10 (Salmon et al. 2011, Random123):
     * key = (seed low, seed high), counter = (column / 4, row, node, step) as 32-bit words, result word column % 4.
     * float: (word >> 8) * 2^-24; double: word * 2^-32. */
    void (*random)(void *dst, int64_t rows, int64_t cols, uint64_t seed, uint64_t step, uint32_t node,
                   int64_t row0, int64_t col0);

    int mr, nr;                                 /* the block kernel's register tile */
    bp_block_fn block;
    /* Panels for the block kernel, padded with zeros. pack_b: b[p*rsb + j*csb], k x n -> panels of nr columns, each [k][nr], the
     * last ones [k][fewer] where the kernel likes that better. pack_a: a[i*rsa + p*csa], m x k -> ceil(m / mr) panels, each
     * [k][mr], with the m rows spread over them as evenly as they go. */
    void (*pack_a)(int64_t m, int64_t k, const void *a, int64_t rsa, int64_t csa, void *dst);
    void (*pack_b)(int64_t k, int64_t n, const void *b, int64_t rsb, int64_t csb, void *dst);
    /* dst[j*ldd + i] = src[i*lds + j], 0 <= i < rows, 0 <= j < cols */
    void (*transpose)(int64_t rows, int64_t cols, const void *src, int64_t lds, void *dst, int64_t ldd);
    /* dst[i] = src[i] rounded to bfloat16, to nearest, ties to even, as a float: an 8-bit significand. Denormals become zeros
     * of their sign, a NaN a quiet NaN. NULL in the tables for double. */
    void (*round_bf16)(int64_t n, const void *src, void *dst);
    /* `rounds` rounds of independent fma in registers: the set's peak. Returns the floating-point operations done. */
    double (*fma_peak)(int64_t rounds, double *sink);

    /* dst[i] = over j of src[i*ld + j]: logical lanes j % 32 within chunks of BP_ROW_CHUNK, folded by halves; chunks pairwise, as
     * S(q chunks) = S(the first p) + S(the rest), p the largest power of 2 below q. */
    void (*reduce_rows)(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *dst);
    /* dst[j] = over i of src[i*ld + j]: per block of 256 rows 4 lanes i % 4, (l0 + l1) + (l2 + l3); blocks in order. */
    void (*reduce_cols)(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *dst);
    /* The same piece by piece, for a page of columns or fewer. Lanes, BP_PAGE_BYTES apart, over the rows of a piece of a block, which
     * are a multiple of 4 but for the block's last piece; `first`: it is the block's first. Then dst of the block. */
    void (*reduce_lanes)(int kind, int64_t rows, int64_t cols, const void *src, int64_t ld, void *lanes, int first);
    void (*join_lanes)(int kind, int64_t cols, const void *lanes, void *dst);

    /* dst[0 .. width) = over t < n, ascending, of c[t] src[rows[t]*ld + 0 .. width): a chain of fma from 0. c may be NULL: 1;
     * a row number that is negative is skipped. dst overlaps none of the others. */
    void (*sum_rows)(int64_t n, int64_t width, const void *src, int64_t ld, const int32_t *rows, const void *c, void *dst);

    /* SOFTMAX_CE of backprop.h over rows [0, rows); z and dz have leading dimension ld; labels are already in range.
     * labels or probs is NULL; g_step is 0 (one number) or 1; loss, dz, g may be NULL. */
    void (*softmax_ce)(int64_t rows, int64_t classes, const void *z, int64_t ld, const int32_t *labels, const void *probs,
                       const void *g, int g_step, void *loss, void *dz, int64_t ld_dz);
};

/* Products of bfloat16 on tiles, which some processors have besides a set: AMX, or as registers of AVX512-BF16. A panel is 16 lines,
 * the rows of op(A) or the columns of op(B); a tile is 32 steps of k of a panel, 512 numbers; what exceeds an operand is zeros,
 * and so is a last panel that makes their number even. The tiles of BP_TILE_CHUNK * 32 steps lie together, panel by panel, so that
 * what a block of C wants next is one stretch of memory: of w panels, tile s of panel q begins at (s0*w + q*c + s - s0) * 512, where
 * s0 = s / CHUNK * CHUNK is the chunk's first tile and c = min(CHUNK, ceil(k/32) - s0) are its tiles. In a tile step p of line i
 * lies at i*32 + p for A, at p/2*32 + i*2 + p%2 for B. */
enum { BP_TILE_LINES = 16, BP_TILE_STEPS = 32, BP_TILE = BP_TILE_LINES * BP_TILE_STEPS, BP_TILE_CHUNK = 8 };
typedef struct { const char *at, *end; } bp_stretch; /* of memory */
typedef struct {
    void (*begin)(void);                        /* before `block`, on the thread that runs it, and after it: the processor's */
    void (*end)(void);                          /* tiles are then free again, as at every call */
    /* Panels [low, high) of an operand src[i*line + p*step], 0 <= i < lines, 0 <= p < k, rounded as by round_bf16, to their
     * places in dst, where the operand begins. */
    void (*pack)(int is_b, int64_t low, int64_t high, int64_t lines, int64_t k, const float *src, int64_t line, int64_t step,
                 uint16_t *dst);
    /* C[i,j] = (add ? C[i,j] : 0) + the products of `tiles` <= CHUNK tiles, pair of steps by pair of steps ascending: steps 2p, 2p+1
     * as the processor adds them. a and b are the first tiles of a chunk's panels; m and n are multiples of two panels' lines. What
     * next_a and next_b are will be wanted soon. */
    void (*block)(int64_t m, int64_t n, int64_t tiles, const uint16_t *a, const uint16_t *b, float *c, int64_t ldc, int add,
                  bp_stretch next_a, bp_stretch next_b);
    double (*peak)(int64_t rounds, double *sink); /* as fma_peak */
    double ns;                                  /* of a multiplication with its addition, on one core, roughly */
} bp_tiles;

extern const bp_tiles bp_tiles_amx, bp_tiles_dot;
const bp_tiles *bp_tiles_of(const bp_kernels *); /* those that go with a table, or NULL where there are none (cpu.c) */

/* What differs between processors of one set. It changes speed, never a bit. */
typedef struct {
    int divides_roots;  /* a square root by the divider takes no longer than one made of fma (simd/avx512.h) */
    int asks_for_rows;  /* rows of a large B have to be asked for ahead of their use (B_LARGE) */
    int large_rows;     /* of A, fewer than which leave a large B unpacked, */
    int memory_rows;    /* and one from memory */
} bp_traits;
extern const bp_traits *bp_here; /* this processor's, set as the library is loaded (cpu.c) */

extern const bp_kernels bp_kernels_scalar_f32, bp_kernels_scalar_f64;
extern const bp_kernels bp_kernels_avx2_f32, bp_kernels_avx2_f64;
extern const bp_kernels bp_kernels_avx512_f32, bp_kernels_avx512_f64;
extern const bp_kernels bp_kernels_neon_f32, bp_kernels_neon_f64;

/* ------------------------------------------------------------------ matrix product over a table's kernels (matmul.c) */
/* Called with each finished block C[r0:r1, c0:c1] while it is in cache; c points to its first element. */
typedef void (*bp_epilogue_fn)(void *arg, int thread, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                               void *c, int64_t ldc);
typedef struct {
    int64_t m, n, k;
    const void *a; int64_t rsa, csa;            /* op(A)[i,p] = a[i*rsa + p*csa] */
    const void *b; int64_t rsb, csb;            /* op(B)[p,j] = b[p*rsb + j*csb] */
    void *c; int64_t ldc;                       /* NULL: blocks live in scratch, seen by the epilogue alone */
    bp_epilogue_fn epilogue; void *epilogue_arg;  /* may be NULL */
    int updates;                                /* whether the epilogue reads and writes arrays of the size of C: they want whole rows */
} bp_gemm;
/* How a product is cut into blocks (matmul.c), for who repeats it with the same table, strides and `updates`: another size or number
 * of threads makes another plan. Zeros: none yet. */
typedef struct {
    int64_t m, n, k; int threads;               /* of the product that it is for */
    int64_t mc, nc, ns;                         /* rows and columns of a block, columns of a strip */
    int64_t blocks_m, blocks_n;
    int pack_a, pack_b;
    int keep_b;                                 /* packed B stays for the next task of the same columns */
    int b_transposed;                           /* one row by a transposed B, which is then turned in registers */
    int b_flags;                                /* what the block kernel is told of B: BP_BLOCK_B_... */
    int swapped;                                /* C^T = B^T A^T: lanes run along m, for a narrow C or a transposed B; A is packed where
                                                   it is not transposed */
    size_t a_bytes, b_bytes, c_bytes;           /* a thread's scratch: c0 of the kept B in 64 bytes, packed A, packed B, block of C */
} bp_gemm_plan;
/* Scratch that any product with sizes up to (m, n, k) needs on so many threads, in bytes (a multiple of 64). */
size_t bp_gemm_scratch(const bp_kernels *, int64_t m, int64_t n, int64_t k, int threads);
/* C[i,j] = (b0 + b1) + b2 ...: bq is the fma chain over k in [256 q, 256 (q+1)), ascending, from 0. The same bits for
 * every path, block size, thread count and instruction set with fma. k == 0 gives zeros. */
void bp_gemm_run(const bp_kernels *, const bp_gemm *, bp_gemm_plan *kept, int threads, void *scratch); /* kept may be NULL */

/* The same of float32 operands rounded to bfloat16, with float32 sums (bfloat16.c): on tiles, where each element is one chain
 * over k, or, where `tiles` is NULL, as bp_gemm_run has it. For either the bits are the same for any number of threads. */
size_t bp_gemm_bf16_scratch(const bp_kernels *, const bp_tiles *, int64_t m, int64_t n, int64_t k, int threads);
void bp_gemm_bf16_run(const bp_kernels *, const bp_tiles *, const bp_gemm *, int threads, void *scratch);

#endif
