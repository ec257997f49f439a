/* bfloat16.c: the matrix product C = op(A) op(B) of float32 operands rounded to bfloat16, with float32 sums.
 *
 * Arithmetic is so cheap on tiles that memory decides: each operand is rounded and packed once per product, whole, by all
 * threads; then blocks of C, independent of each other:
 *
 *     task: a block C[r0:r1, c0:c1] of mc x nc, row of blocks by row of blocks, for the rows of A then stay in L2
 *       for each chunk of k, KC steps                        the sums carry over, so KC is no part of the result
 *         sums += A[r0:r1, p0:p1] B[p0:p1, c0:c1]              32 lines of a chunk stay in L1; the sums and the chunks are in L2,
 *                                                              and the next chunk of B is on its way there
 *       epilogue(sums), or C[r0:r1, c0:c1] = sums            while they are in L2
 *
 * The sums lie in scratch, whose rows, unlike those of a C of 1024 or 2048 columns, do not all meet in the same sets of a cache.
 * Without tiles both operands are rounded to scratch, as float32 of 8 bits, and multiplied as all others are. */
#include "kernels.h"

#include <string.h>

enum {
    MC = 256, NC = 256,
    KC = BP_TILE_CHUNK * BP_TILE_STEPS,
    PAIR = 2 * BP_TILE_LINES,  /* panels come in twos */
    WHOLE_BYTES = 512 << 10,   /* of a packed B whose product hands over whole rows: _ON_TILES_BYTES of lower.py */
    APART = 16,                /* numbers between the rows of sums: rows of 1 KB would meet too */
};

/* Bytes of x lines of k numbers, packed in tiles. */
static size_t packed_bytes(int64_t x, int64_t k)
{
    return (size_t)round_up(x, PAIR) * (size_t)round_up(k, BP_TILE_STEPS) * sizeof(uint16_t);
}

/* Whether blocks of C are whole rows: where packed B leaves room in L2, of which an epilogue takes the more the wider they are. */
static int whole_rows(int64_t n, int64_t k)
{
    return n > NC && packed_bytes(n, max64(k, 1)) <= (size_t)(n <= 2 * NC ? 2 * WHOLE_BYTES : WHOLE_BYTES);
}

/* Most rows of a block. */
static int64_t block_rows(int64_t n, int64_t k)
{
    return whole_rows(n, k) ? max64(MC * NC / round_up(n, PAIR) / PAIR * PAIR, PAIR) : MC;
}

/* Numbers of the sums of a block of C, rows * (columns + APART), in a product of these sizes, and of up to these sizes. */
static int64_t block_numbers(int64_t m, int64_t n, int64_t k)
{
    const int64_t cols = whole_rows(n, k) ? n : min64(n, NC);
    return min64(round_up(m, PAIR), block_rows(n, k)) * (round_up(cols, PAIR) + APART);
}

static int64_t most_numbers(int64_t m, int64_t n)
{
    const int64_t widest = WHOLE_BYTES / (BP_TILE_STEPS * (int64_t)sizeof(uint16_t)); /* columns of whole rows, at k = 1 */
    return min64(round_up(m, PAIR) * (round_up(n, PAIR) + APART),
                 max64(MC * (NC + APART), PAIR * (min64(round_up(n, PAIR), widest) + APART)));
}

static size_t rounded_bytes(int64_t rows, int64_t cols) { return (size_t)round_up(rows * cols * (int64_t)sizeof(float), 64); }

size_t bp_gemm_bf16_scratch(const bp_kernels *t, const bp_tiles *tiles, int64_t m, int64_t n, int64_t k, int threads)
{
    if (tiles) return packed_bytes(m, k) + packed_bytes(n, k) + (size_t)(most_numbers(m, n) * max64(threads, 1)) * sizeof(float);
    return rounded_bytes(m, k) + rounded_bytes(k, n) + bp_gemm_scratch(t, m, n, k, threads);
}

typedef struct {
    const bp_kernels *kernels;
    const bp_tiles *tiles;
    const bp_gemm *g;
    int64_t parts_a, parts_b;  /* of the operands, by lines: the tasks of packing and rounding */
    int64_t mc, nc, blocks_n;
    int64_t lines_a, lines_b, steps; /* packed: multiples of PAIR, and of the steps of a tile */
    void *a, *b;               /* the operands, packed or rounded: A by rows, B by columns or by rows */
    float *blocks;             /* the sums of a block of C for each thread */
} plan;

/* ------------------------------------------------------------------ without tiles */

/* Lines [low, high) of x[lines][width], or of its transposition: to[i*width + j] = x(i,j), rounded. */
static void round_lines(const bp_kernels *t, int64_t low, int64_t high, int64_t width, const float *x, int64_t line, int64_t step,
                        float *to)
{
    for (int64_t i = low; i < high; i++) {
        float *const row = to + i * width; /* x(i, :) */
        if (step != 1)
            for (int64_t j = 0; j < width; j++) row[j] = x[i * line + j * step];
        t->round_bf16(width, step == 1 ? x + i * line : row, row);
    }
}

/* An operand whose columns are contiguous is kept as columns. */
static int by_columns(int64_t rs, int64_t cs) { return rs == 1 && cs != 1; }

static void round_part(void *arg, int64_t task, int thread)
{
    const plan *s = arg;
    const bp_gemm *g = s->g;
    const int is_b = task >= s->parts_a;
    const int64_t part = is_b ? task - s->parts_a : task, parts = is_b ? s->parts_b : s->parts_a;
    const int64_t rows = is_b ? g->k : g->m, cols = is_b ? g->n : g->k, rs = is_b ? g->rsb : g->rsa, cs = is_b ? g->csb : g->csa;
    const int turned = by_columns(rs, cs);
    const int64_t lines = turned ? cols : rows;
    round_lines(s->kernels, lines * part / parts, lines * (part + 1) / parts, turned ? rows : cols, is_b ? g->b : g->a,
                turned ? cs : rs, turned ? rs : cs, is_b ? s->b : s->a);
    (void)thread;
}

/* ------------------------------------------------------------------ on tiles */

static void pack_part(void *arg, int64_t task, int thread)
{
    const plan *s = arg;
    const bp_gemm *g = s->g;
    const int is_b = task >= s->parts_a;
    const int64_t part = is_b ? task - s->parts_a : task, parts = is_b ? s->parts_b : s->parts_a;
    const int64_t pairs = (is_b ? s->lines_b : s->lines_a) / PAIR;
    s->tiles->pack(is_b, 2 * (pairs * part / parts), 2 * (pairs * (part + 1) / parts), is_b ? g->n : g->m, g->k, is_b ? g->b : g->a,
                   is_b ? g->csb : g->rsa, is_b ? g->rsb : g->csa, is_b ? s->b : s->a);
    (void)thread;
}

/* Lines from `low` on of the chunk of a packed operand of so many lines that begins with step p0. */
static const uint16_t *chunk_of(const plan *s, const void *packed, int64_t lines, int64_t low, int64_t p0)
{
    return (const uint16_t *)packed + p0 * lines + low * min64(KC, s->steps - p0);
}

/* Where `count` lines of it lie, or those of them that there are. */
static bp_stretch stretch_of(const plan *s, const void *packed, int64_t lines, int64_t low, int64_t count, int64_t p0)
{
    if (low >= lines) return (bp_stretch){NULL, NULL};
    const uint16_t *const at = chunk_of(s, packed, lines, low, p0);
    return (bp_stretch){(const char *)at, (const char *)(at + min64(count, lines - low) * min64(KC, s->steps - p0))};
}

static void run_block(void *arg, int64_t task, int thread)
{
    const plan *s = arg;
    const bp_gemm *g = s->g;
    const int64_t r0 = task / s->blocks_n * s->mc, r1 = min64(r0 + s->mc, g->m);
    const int64_t c0 = task % s->blocks_n * s->nc, c1 = min64(c0 + s->nc, g->n);
    const int64_t rows = round_up(r1 - r0, PAIR), cols = round_up(c1 - c0, PAIR), ld = cols + APART;
    float *const sums = s->blocks + thread * block_numbers(g->m, g->n, g->k); /* [rows][ld] */
    s->tiles->begin();
    int64_t p0 = 0;
    do { /* once even if k == 0: that writes the zeros */
        const int64_t kc = min64(KC, s->steps - p0), next = p0 + kc;
        const int last = next >= s->steps; /* then the next block's first chunks come next */
        const int64_t p = last ? 0 : next, i = last ? (task + 1) / s->blocks_n * s->mc : r0, j = last ? (task + 1) % s->blocks_n * s->nc : c0;
        s->tiles->block(rows, cols, kc / BP_TILE_STEPS, chunk_of(s, s->a, s->lines_a, r0, p0), chunk_of(s, s->b, s->lines_b, c0, p0),
                        sums, ld, p0 > 0, stretch_of(s, s->a, s->lines_a, i, s->mc, p), stretch_of(s, s->b, s->lines_b, j, s->nc, p));
        p0 = next;
    } while (p0 < s->steps);
    s->tiles->end();
    for (int64_t i = 0; g->c && i < r1 - r0; i++) {
        float *const row = (float *)g->c + (r0 + i) * g->ldc + c0; /* the row below comes from far, as in map.c, and is written */
        for (int64_t j = 0; j < c1 - c0 && i + 1 < r1 - r0; j += 16) __builtin_prefetch(row + g->ldc + j, 1);
        memcpy(row, sums + i * ld, (size_t)(c1 - c0) * sizeof(float));
    }
    if (g->epilogue) g->epilogue(g->epilogue_arg, thread, r0, r1, c0, c1, sums, ld);
}

static void run(int threads, int64_t tasks, void (*fn)(void *, int64_t, int), plan *s)
{
    if (threads > 1 && tasks > 1) bp_parallel(threads, tasks, fn, s);
    else
        for (int64_t i = 0; i < tasks; i++) fn(s, i, 0);
}

/* Parts of `lines` lines for so many threads: a few for each, of whole units. */
static int64_t parts_of(int64_t lines, int64_t unit, int threads)
{
    return threads > 1 ? max64(min64(2 * threads, ceil_div(lines, unit)), 1) : 1;
}

void bp_gemm_bf16_run(const bp_kernels *t, const bp_tiles *tiles, const bp_gemm *g, int threads, void *scratch)
{
    const int64_t m = g->m, n = g->n, k = g->k;
    if (m == 0 || n == 0) return;
    plan s = {.kernels = t, .tiles = tiles, .g = g, .a = scratch};
    if (!tiles) {
        s.b = (char *)scratch + rounded_bytes(m, k);
        s.parts_a = parts_of(by_columns(g->rsa, g->csa) ? k : m, 16, threads);
        s.parts_b = parts_of(by_columns(g->rsb, g->csb) ? n : k, 16, threads);
        run(threads, s.parts_a + s.parts_b, round_part, &s);
        bp_gemm r = *g; /* the same product of the rounded operands */
        r.a = s.a;
        r.b = s.b;
        r.rsa = by_columns(g->rsa, g->csa) ? 1 : k;
        r.csa = by_columns(g->rsa, g->csa) ? m : 1;
        r.rsb = by_columns(g->rsb, g->csb) ? 1 : n;
        r.csb = by_columns(g->rsb, g->csb) ? k : 1;
        bp_gemm_run(t, &r, NULL, threads, (char *)s.b + rounded_bytes(k, n));
        return;
    }
    s.b = (char *)scratch + packed_bytes(m, k);
    s.blocks = (float *)(void *)((char *)s.b + packed_bytes(n, k));
    s.lines_a = round_up(m, PAIR);
    s.lines_b = round_up(n, PAIR);
    s.steps = round_up(k, BP_TILE_STEPS);
    s.parts_a = parts_of(m, PAIR, threads);
    s.parts_b = parts_of(n, PAIR, threads);
    run(threads, s.parts_a + s.parts_b, pack_part, &s);
    int64_t blocks_m = ceil_div(m, block_rows(n, k));
    s.blocks_n = whole_rows(n, k) ? 1 : ceil_div(n, NC);
    if (threads > 1 && blocks_m * s.blocks_n < 4 * threads) /* few blocks: the same number of them for each thread */
        blocks_m = max64(min64(round_up(blocks_m, threads), ceil_div(m, 2 * PAIR)), blocks_m);
    s.mc = round_up(ceil_div(m, blocks_m), PAIR);
    s.nc = round_up(ceil_div(n, s.blocks_n), PAIR);
    s.blocks_n = ceil_div(n, s.nc);
    run(threads, ceil_div(m, s.mc) * s.blocks_n, run_block, &s);
}
