/* matmul.c: the matrix product C = op(A) op(B) over a table's block kernel: blocking, packing, partition over threads.
 *
 *     task: a block C[r0:r1, c0:c1] of mc x nc              independent of all others, so threads share nothing
 *       for each block of k, KC steps                        KC is part of the result (kernels.h), the rest is not
 *         pack A[r0:r1, p0:p1] where that pays               L2
 *         for each strip of columns
 *           pack B[p0:p1, strip] where that pays             L2; one panel of nr columns at a time in L1
 *           C[r0:r1, strip] += A B                           the table's block kernel
 *       epilogue(C[r0:r1, c0:c1])                            while the block is in L2
 *
 * Goto and van de Geijn 2008, with the block of C outermost, for an epilogue needs finished blocks. Each thread packs B
 * for itself, which saves a barrier; where all of op(B)[:, c0:c1] fits into KEEP_BYTES it is packed whole and kept for the
 * thread's next tasks, which are the blocks below, else anew for every task: that costs 4 rows' worth of mc. A product with a narrow
 * C, or with few rows and a transposed B, is made as C^T = B^T A^T: B^T takes A's place, as it lies, and A, packed or not, B's. */
#include "kernels.h"

enum {
    KC = 256,
    /* For 512 KB of L2, the least that is about. The block of A is read once per panel of B and has to stay there; a strip
     * of B is packed and used at once; the block of C is touched once per KC steps, and its last strips are still there
     * when the epilogue comes. More C means that each packed number of B is used by more rows. */
    A_BYTES = 192 << 10,
    B_BYTES = 144 << 10,
    C_BYTES = 384 << 10,
    KEEP_BYTES = 8 << 20,  /* read once per block of C, 1 byte for some 100 operations: memory would be fast enough */
    NC = 512,              /* rows this short are kept whole, so that the epilogue sees contiguous blocks, */
    WHOLE_BYTES = 1 << 20, /* and so are all where B is so small, as of a batch of few rows, */
    UPDATE_BYTES = 4 << 20, /* or small beside the arrays of an update: _WHOLE_COLUMNS and _WHOLE_BYTES of lower.py */
    /* Where packing pays, measured. Packing costs some 4 rows or columns of the product. A is read as it is, one stream
     * for each row of a tile, unless it is stored transposed (each step of k a line of its own). B is read as it is
     * while it is small in L2, or the rows that use a packed copy are few. */
    PACK_A_COLUMNS = 128,
    PACK_A_STRIDE = 1 << 10,
    PACK_B_ROWS = 48,
    PACK_B_BYTES = 96 << 10,
    /* A tile of 3 vectors reads B at the pace of L2 in any case, and has few rows: B is read as it is up to more rows the nearer its own
     * are, no more than a page apart; on one thread, for the blocks of several are low and each of them reads B. Others pack A row by
     * row where the rows meet in the same sets of L1 and many columns use the copy. */
    PACK_NEAR_ROWS = 257,
    PACK_NEAR_STRIDE = 4 << 10,
    PACK_NEAR_BYTES = 512 << 10, /* as many as m rows of B have */
    PACK_ROWS_COLUMNS = 512,
    PACK_ROWS_STRIDE = 3 << 10,
    /* An unpacked B of so many bytes, with rows of a page or more, hardly comes from L2, and a larger one from memory. The fewest rows of A
     * go by rows of B, and up to three times as many as a register has lanes where tiles would be slow: all, where B comes from memory;
     * and those of 2 vectors, more than one of them and rows whole pages apart, for the lines of a panel then meet in the same sets, and
     * the next tile finds them gone. For more rows B is packed at once where the lines meet, else from as many on as the processor's
     * traits say. */
    FAR_BYTES = 2 << 20,
    FAR_STRIDE = 4 << 10,
    LARGE_BYTES = 8 << 20,
    MEMORY_BYTES = 32 << 20,
    FEW_ROWS = 4,
    SWAP_COLUMNS = 4,        /* of a C that is swapped though A has to be packed for it: 1.2 times as fast with so many lanes, */
    SWAP_STEPS = 32,         /* slower with half as many, or with few steps */
    SWAP_LANES = 16,
    SWAP_ROWS = 96,          /* of a C whose B is transposed, in whole registers, where A and C are half as many numbers as B or fewer: to
                              * pack one and turn the other is then less than packing B */
};

typedef struct { /* a product that runs */
    const bp_kernels *kernels;
    bp_gemm g;
    const bp_gemm_plan *plan;
    char *scratch;
} product;

static int64_t strip_columns(const bp_kernels *t) { return B_BYTES / (KC * t->real_bytes) / t->nr * t->nr; }

/* Rows of a block that is nc columns wide: a multiple of mr. */
static int64_t block_rows(const bp_kernels *t, int64_t nc)
{
    const int64_t rows = min64(A_BYTES / (KC * t->real_bytes), C_BYTES / (max64(nc, 1) * t->real_bytes));
    return max64(rows / t->mr, 1) * t->mr;
}

/* Columns of a block, of which there are `blocks` side by side. */
static int64_t block_columns(const bp_kernels *t, int64_t n, int64_t blocks)
{
    return blocks == 1 ? n : round_up(ceil_div(n, blocks), t->nr);
}

/* Bytes of each region of a thread's scratch, for products up to m, n, k in blocks of at most mc rows. */
static void scratch_bytes(const bp_kernels *t, int64_t mc, int64_t m, int64_t n, int64_t k,
                          size_t *a, size_t *b, size_t *c)
{
    const int64_t kc = min64(k, KC), rows = min64(round_up(m, t->mr), mc), cols = round_up(n, t->nr);
    const int64_t whole = UPDATE_BYTES + UPDATE_BYTES / 8; /* NC or more columns, rounded up */
    const int64_t kept = max64(min64(cols, round_up(NC, t->nr)) * k * t->real_bytes, min64(cols * k * t->real_bytes, whole));
    *a = (size_t)round_up(round_up(rows, t->nr) * max64(kc, t->nr) * t->real_bytes, 64); /* or A^T of a swapped block */
    const int64_t turned = min64(m * n * t->real_bytes, C_BYTES); /* C^T of a swapped block */
    *b = (size_t)round_up(max64(max64(min64(cols, strip_columns(t)) * kc * t->real_bytes, turned), min64(kept, KEEP_BYTES)), 64);
    *c = (size_t)round_up(min64(m * n * t->real_bytes, C_BYTES), 64);
}

size_t bp_gemm_scratch(const bp_kernels *t, int64_t m, int64_t n, int64_t k, int threads)
{
    size_t a, b, c;
    scratch_bytes(t, block_rows(t, 1), m, n, k, &a, &b, &c);
    return (64 + a + b + c) * (size_t)max64(threads, 1);
}

static bp_gemm_plan make_plan(const bp_kernels *t, const bp_gemm *g, int threads)
{
    const int64_t m = g->m, n = g->n, k = g->k, kc = min64(k, KC);
    bp_gemm_plan s = {.m = m, .n = n, .k = k, .threads = threads, .ns = strip_columns(t)};

    const int wide = t->nr == 3 * t->lanes;
    const int64_t step = g->rsb * t->real_bytes;
    const int far = g->csb == 1 && k * step >= FAR_BYTES && step >= FAR_STRIDE;
    const int meets = far && !wide && step % FAR_STRIDE == 0, memory = far && k * step >= MEMORY_BYTES;
    const int large = far && k * step >= LARGE_BYTES;
    const int by_rows = far && (m <= FEW_ROWS || (m <= min64(3 * t->lanes, BP_MOST_ROWS) && (memory || (meets && m > t->mr))));
    const int whole = n * k * t->real_bytes <= (g->updates ? UPDATE_BYTES : WHOLE_BYTES) && n * t->mr * t->real_bytes <= C_BYTES;
    const int64_t columns = by_rows ? C_BYTES / (round_up(m, t->mr) * t->real_bytes) / t->nr * t->nr : NC; /* B_ROWS: and all rows */
    s.blocks_n = whole && !by_rows ? 1 : ceil_div(n, columns);
    const int64_t most_rows = block_rows(t, block_columns(t, n, s.blocks_n));
    s.blocks_m = ceil_div(m, most_rows);
    if (threads > 1 && s.blocks_m * s.blocks_n < 4 * threads) { /* few blocks: the same number of them for each thread */
        const int64_t most_m = m / (2 * t->mr), most_n = n / (4 * t->nr);
        const int few = s.blocks_m == 1 && 2 * m < n; /* rows: each thread reads its columns of B, not all of it */
        if (few)
            s.blocks_n = max64(min64(round_up(s.blocks_n, threads), most_n), s.blocks_n);
        if (!few || s.blocks_n < threads)
            s.blocks_m = max64(min64(round_up(s.blocks_m, threads), most_m), s.blocks_m);
        if (s.blocks_m * s.blocks_n < threads)
            s.blocks_n = max64(min64(ceil_div(threads, s.blocks_m), most_n), s.blocks_n);
    }
    s.mc = round_up(ceil_div(m, s.blocks_m), t->mr);
    s.nc = block_columns(t, n, s.blocks_n);
    s.blocks_m = ceil_div(m, s.mc);
    s.blocks_n = ceil_div(n, s.nc);

    const int turned = g->csa == 1 && n <= SWAP_COLUMNS && k >= SWAP_STEPS && t->lanes >= SWAP_LANES;
    const int narrow = (g->rsa == 1 || turned) && 2 * n <= t->lanes && m >= t->lanes; /* else most lanes would idle */
    const int low = g->csb != 1 && m > 1 && m % t->lanes == 0 && m <= SWAP_ROWS && 2 * m * (k + n) <= n * k;
    s.swapped = narrow || low;
    s.b_transposed = m == 1 && g->rsb == 1 && g->csb != 1;
    s.pack_a = by_rows ? 0 : g->rsa == 1 ? m > 1 && n >= PACK_A_COLUMNS && g->csa * t->real_bytes >= PACK_A_STRIDE
                            : !wide && m >= PACK_B_ROWS && n >= PACK_ROWS_COLUMNS && g->rsa * t->real_bytes >= PACK_ROWS_STRIDE;
    const int near = wide && threads == 1 && !s.pack_a /* a packed A likes a packed B */ && step <= PACK_NEAR_STRIDE
                     && m * step <= PACK_NEAR_BYTES;
    const int64_t rows = large ? bp_here->large_rows : PACK_B_ROWS; /* of A, fewer than which leave B as it is, unless */
    const int64_t packed = meets ? t->mr + 1 : memory ? bp_here->memory_rows : near ? PACK_NEAR_ROWS : rows;
    if (s.swapped || s.b_transposed || by_rows) s.pack_b = 0;
    else s.pack_b = g->csb != 1 || (m >= packed && kc * step > PACK_B_BYTES);
    if (s.pack_b) s.b_flags = BP_BLOCK_B_PACKED;
    else if (s.b_transposed) s.b_flags = BP_BLOCK_B_TRANSPOSED;
    else if (by_rows) s.b_flags = BP_BLOCK_B_ROWS | (large ? BP_BLOCK_B_LARGE : 0);
    else if (far && m < rows) s.b_flags = BP_BLOCK_B_FAR;
    s.keep_b = s.pack_b && s.blocks_m >= 2 * threads && round_up(s.nc, t->nr) * k * t->real_bytes <= KEEP_BYTES;
    scratch_bytes(t, most_rows, m, n, k, &s.a_bytes, &s.b_bytes, &s.c_bytes);
    return s;
}

static void run_block(void *arg, int64_t task, int thread)
{
    const product *x = arg;
    const bp_gemm_plan *s = x->plan;
    const bp_gemm *g = &x->g;
    const bp_kernels *t = x->kernels;
    const int64_t size = t->real_bytes;
    const int64_t r0 = task % s->blocks_m * s->mc, r1 = min64(r0 + s->mc, g->m); /* tasks go down the columns */
    const int64_t c0 = task / s->blocks_m * s->nc, c1 = min64(c0 + s->nc, g->n);
    char *own = x->scratch + (size_t)thread * (64 + s->a_bytes + s->b_bytes + s->c_bytes);
    char *a_pack = own + 64, *b_pack = a_pack + s->a_bytes;
    char *c = g->c ? (char *)g->c + (r0 * g->ldc + c0) * size : b_pack + s->b_bytes; /* C[r0, c0] */
    int64_t *kept = (int64_t *)(void *)own;
    const int is_kept = s->keep_b && *kept == c0;
    const int64_t ldc = g->c ? g->ldc : c1 - c0;

    int64_t p0 = 0;
    do { /* once even if k == 0: that writes the zeros */
        const int64_t kc = min64(KC, g->k - p0);
        const char *a = (const char *)g->a + (r0 * g->rsa + p0 * g->csa) * size; /* A[r0, p0] */
        int flags = p0 ? BP_BLOCK_ADD : 0;
        if (s->swapped) {
            const char *b = (const char *)g->b + (p0 * g->rsb + c0 * g->csb) * size; /* B[p0, c0] */
            if (g->rsa != 1) {
                t->pack_b(kc, r1 - r0, a, g->csa, g->rsa, a_pack);
                a = a_pack;
                flags |= BP_BLOCK_B_PACKED;
            }
            t->block(c1 - c0, r1 - r0, kc, b, g->csb, g->rsb, a, g->csa, b_pack, r1 - r0, flags);
            p0 += KC;
            continue;
        }
        if (s->pack_a) {
            t->pack_a(r1 - r0, kc, a, g->rsa, g->csa, a_pack);
            a = a_pack;
            flags |= BP_BLOCK_A_PACKED;
        }
        flags |= s->b_flags;
        const int64_t width = s->pack_b && !s->keep_b ? s->ns : c1 - c0;
        for (int64_t j = c0; j < c1; j += width) {
            const int64_t nj = min64(width, c1 - j);
            const char *b = (const char *)g->b + (p0 * g->rsb + j * g->csb) * size; /* B[p0, j] */
            if (s->pack_b) {
                char *const to = s->keep_b ? b_pack + p0 * round_up(nj, t->nr) * size : b_pack;
                if (!is_kept) t->pack_b(kc, nj, b, g->rsb, g->csb, to);
                b = to;
            }
            const int64_t ldb = s->b_transposed ? g->csb : g->rsb;
            t->block(r1 - r0, nj, kc, a, g->rsa, g->csa, b, ldb, c + (j - c0) * size, ldc, flags);
        }
        p0 += KC;
    } while (p0 < g->k);
    *kept = c0;
    if (s->swapped) t->transpose(c1 - c0, r1 - r0, b_pack, r1 - r0, c, ldc);
    if (g->epilogue) g->epilogue(g->epilogue_arg, thread, r0, r1, c0, c1, c, ldc);
}

void bp_gemm_run(const bp_kernels *t, const bp_gemm *g, bp_gemm_plan *kept, int threads, void *scratch)
{
    if (g->m == 0 || g->n == 0) return;
    bp_gemm_plan own = {0}, *const s = kept ? kept : &own;
    product x = {t, *g, s, scratch};
    if (g->n == 1) x.g.csb = 1; /* strides of an axis of length 1 mean nothing */
    if (s->m != g->m || s->n != g->n || s->k != g->k || s->threads != threads) *s = make_plan(t, &x.g, threads);
    const int64_t tasks = s->blocks_m * s->blocks_n;
    if (s->keep_b)
        for (int i = 0; i < threads; i++)
            *(int64_t *)(void *)(x.scratch + (size_t)i * (64 + s->a_bytes + s->b_bytes + s->c_bytes)) = -1;
    if (threads > 1 && tasks > 1) bp_parallel(threads, tasks, run_block, &x);
    else
        for (int64_t i = 0; i < tasks; i++) run_block(&x, i, 0);
}
