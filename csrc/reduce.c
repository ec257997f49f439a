/* reduce.c: reductions, of what lies in memory or of what a map before them makes.
 *
 * Such a map makes a piece of the source and that piece is reduced while it is in L1, where it stays if nothing else reads it. Pieces
 * are chunks of rows or whole rows, or some rows of a page of columns: what kernels.h lets be reduced apart, so the bits are those of
 * a reduction of the whole. A context has one map bound at a time: the one over the results runs when all of them are there. */
#include "program.h"

#include <math.h>
#include <string.h>

/* A reduction now: src[outer, r, inner] by its rows (inner is 1), its columns (else, where outer is 1), or for each of outer. */
typedef struct { int64_t outer, r, inner; int rows, cols; char *dst; } reduction;

static inline reduction reduction_of(const bp_context *x, const bp_instr *in)
{
    reduction d = {bp_dim_now(x, in->u.reduce.outer), bp_dim_now(x, in->u.reduce.r), bp_dim_now(x, in->u.reduce.inner), 0, 0, NULL};
    d.rows = in->u.reduce.inner == 1;
    d.cols = !d.rows && in->u.reduce.outer == 1;
    d.dst = in->u.reduce.dst.space < 0 ? x->reduced : bp_at(x, &in->u.reduce.dst, x->p->real_bytes);
    return d;
}

static void set_neutral(const bp_context *x, int kind, int64_t n, char *dst)
{
    const double d = kind == BP_REDUCE_SUM ? 0 : kind == BP_REDUCE_MAX ? -(double)INFINITY : (double)INFINITY;
    const float f = (float)d;
    x->k->map[BP_MAP_COPY][1](n, dst, x->p->real_bytes == 4 ? (const void *)&f : &d, NULL, NULL);
}

/* Results [low, high) of outer, or of inner where columns are reduced: the map over them. */
static inline void map_results(bp_context *x, reduction d, int thread, int64_t low, int64_t high)
{
    const int64_t size = x->p->real_bytes;
    if (d.rows || d.cols)
        bp_map_region(x, thread, 0, 1, low, high, d.dst + low * size, high - low);
    else
        bp_map_region(x, thread, low, high, 0, d.inner, d.dst + low * d.inner * size, d.inner);
}

static void map_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    map_results(j->x, reduction_of(j->x, j->in), thread, low, high);
}

/* The same results, of what lies in memory, and the map over them. */
static void reduce_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    bp_context *const x = j->x;
    const reduction d = reduction_of(x, j->in);
    const int64_t size = x->p->real_bytes, r = d.r, inner = d.inner, step = d.rows || d.cols ? 1 : inner;
    const char *src = bp_at(x, &j->in->u.reduce.src, size);
    const int kind = j->in->u.reduce.kind;
    char *const dst = d.dst + low * step * size;
    if (r == 0)
        set_neutral(x, kind, (high - low) * step, dst);
    else if (d.rows)
        x->k->reduce_rows(kind, high - low, r, at(src, low * r, size), r, dst);
    else if (d.cols)
        x->k->reduce_cols(kind, r, high - low, at(src, low, size), inner, dst);
    else
        for (int64_t o = low; o < high; o++)
            x->k->reduce_cols(kind, r, inner, at(src, o * r * inner, size), inner, dst + (o - low) * inner * size);
    if (j->in->map)
        map_results(x, d, thread, low, high);
}

/* ------------------------------------------------------------------ of what a map makes */

enum { LANES = 4 };

/* A piece of BP_ROW_CHUNK reals, and the lanes of a page. */
size_t bp_piece_bytes(int64_t real_bytes) { return (size_t)(BP_ROW_CHUNK * real_bytes + LANES * BP_PAGE_BYTES); }

static char *scratch_of(const bp_context *x, int thread) { return x->pieces + (size_t)thread * bp_piece_bytes(x->p->real_bytes); }

/* The piece [i, i + rows) x [c, c + cols) of the source, a matrix that is `width` wide: made now, in memory or in scratch. */
typedef struct { const char *at; int64_t ld; } piece;

static piece make(bp_context *x, const bp_instr *in, int thread, int64_t width, int64_t i, int64_t rows, int64_t c, int64_t cols)
{
    char *const scratch = scratch_of(x, thread);
    const int64_t size = x->p->real_bytes;
    bp_map_region(x, thread, i, i + rows, c, c + cols, scratch, cols);
    if (in->before->prologue) return (piece){scratch, cols};
    return (piece){at(bp_at(x, &in->u.reduce.src, size), i * width + c, size), width};
}

/* Rows [low, high), as many at a time as a piece holds. */
static void rows_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    bp_context *const x = j->x;
    const reduction d = reduction_of(x, j->in);
    const int64_t most = BP_ROW_CHUNK / d.r;
    for (int64_t i = low; i < high; i += most) {
        const int64_t n = min64(most, high - i);
        const piece p = make(x, j->in, thread, d.r, i, n, 0, d.r);
        x->k->reduce_rows(j->in->u.reduce.kind, n, d.r, p.at, p.ld, d.dst + i * x->p->real_bytes);
    }
}

/* Chunks [low, high) of rows that are longer than one, row after row. */
static void chunks_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    bp_context *const x = j->x;
    const int64_t r = bp_dim_now(x, j->in->u.reduce.r), chunks = ceil_div(r, BP_ROW_CHUNK);
    for (int64_t q = low; q < high; q++) {
        const int64_t c = q % chunks * BP_ROW_CHUNK, n = min64(BP_ROW_CHUNK, r - c);
        const piece p = make(x, j->in, thread, r, q / chunks, 1, c, n);
        x->k->reduce_rows(j->in->u.reduce.kind, 1, n, p.at, p.ld, x->parts + q * x->p->real_bytes);
    }
}

/* to[i] = to[i] op from[i] */
static void join(const bp_context *x, int kind, int64_t n, char *to, const char *from)
{
    static const int op[] = {[BP_REDUCE_SUM] = BP_MAP_ADD, [BP_REDUCE_MAX] = BP_MAP_MAX, [BP_REDUCE_MIN] = BP_MAP_MIN};
    x->k->map[op[kind]][0](n, to, to, from, NULL);
}

/* The chunks of each row meet pairwise, neighbours first. */
static void join_chunks(const bp_context *x, const bp_instr *in)
{
    const reduction d = reduction_of(x, in);
    const int64_t size = x->p->real_bytes, chunks = ceil_div(d.r, BP_ROW_CHUNK);
    for (int64_t row = 0; row < d.outer; row++) {
        char *const parts = x->parts + row * chunks * size;
        for (int64_t apart = 1; apart < chunks; apart *= 2)
            for (int64_t i = 0; i + apart < chunks; i += 2 * apart)
                join(x, in->u.reduce.kind, 1, parts + i * size, parts + (i + apart) * size);
        memcpy(d.dst + row * size, parts, (size_t)size);
    }
}

/* dst = over the rows of a block of columns [low, high), a page at a time: some rows make a piece, and their sums go to lanes. */
static void reduce_block(const bp_job *j, int thread, int64_t block, int64_t low, int64_t high, char *dst)
{
    bp_context *const x = j->x;
    const reduction d = reduction_of(x, j->in);
    const int64_t size = x->p->real_bytes, page = BP_PAGE_BYTES / size;
    const int64_t first = block * BP_ROW_BLOCK, end = min64(first + BP_ROW_BLOCK, d.r);
    const int kind = j->in->u.reduce.kind;
    char *const lanes = scratch_of(x, thread) + BP_ROW_CHUNK * size;
    for (int64_t c = low; c < high; c += page) {
        const int64_t n = min64(page, high - c), most = BP_ROW_CHUNK / n / LANES * LANES;
        char *const to = dst + (c - low) * size;
        for (int64_t i = first; i < end; i += most) {
            const int64_t rows = min64(most, end - i);
            const piece p = make(x, j->in, thread, d.inner, i, rows, c, n);
            if (rows == end - first) /* all in one piece: lanes may be registers */
                x->k->reduce_cols(kind, rows, n, p.at, p.ld, to);
            else
                x->k->reduce_lanes(kind, rows, n, p.at, p.ld, lanes, i == first);
        }
        if (end - first > most)
            x->k->join_lanes(kind, n, lanes, to);
    }
}

/* Columns [low, high) of the only block. */
static void cols_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    reduce_block(j, thread, 0, low, high, reduction_of(j->x, j->in).dst + low * j->x->p->real_bytes);
}

/* Blocks [low, high): threads part other maps by rows too, so each finds here what it has made. */
static void blocks_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    const int64_t inner = bp_dim_now(j->x, j->in->u.reduce.inner);
    for (int64_t b = low; b < high; b++)
        reduce_block(j, thread, b, 0, inner, j->x->parts + b * inner * j->x->p->real_bytes);
}

/* The blocks meet in order. */
static void join_blocks(const bp_context *x, const bp_instr *in)
{
    const reduction d = reduction_of(x, in);
    const int64_t bytes = d.inner * x->p->real_bytes;
    memcpy(d.dst, x->parts, (size_t)bytes);
    for (int64_t b = 1; b < ceil_div(d.r, BP_ROW_BLOCK); b++)
        join(x, in->u.reduce.kind, d.inner, d.dst, x->parts + b * bytes);
}

static void reduce_made(bp_context *x, const bp_instr *in, int threads)
{
    const reduction d = reduction_of(x, in);
    bp_job j = {.x = x, .in = in, .total = d.rows ? d.outer : d.inner};
    if (d.r == 0) {
        set_neutral(x, in->u.reduce.kind, j.total, d.dst);
        return;
    }
    bp_map_bind(x, in->before);
    if (d.rows && d.r <= BP_ROW_CHUNK)
        bp_share(&j, rows_part, threads, 1);
    else if (d.rows) {
        j.total = d.outer * ceil_div(d.r, BP_ROW_CHUNK);
        bp_share(&j, chunks_part, threads, 1);
        join_chunks(x, in);
    } else if (d.r <= BP_ROW_BLOCK)
        bp_share(&j, cols_part, threads, 64);
    else {
        j.total = ceil_div(d.r, BP_ROW_BLOCK);
        bp_share(&j, blocks_part, threads, 1);
        join_blocks(x, in);
    }
}

void bp_run_reduce(bp_context *x, const bp_instr *in, int threads)
{
    const int cols = in->u.reduce.inner != 1 && in->u.reduce.outer == 1;
    bp_job j = {.x = x, .in = in, .total = bp_dim_now(x, cols ? in->u.reduce.inner : in->u.reduce.outer)};
    if (in->before)
        reduce_made(x, in, threads);
    if (in->map)
        bp_map_bind(x, in->map);
    if (!in->before)
        bp_share(&j, reduce_part, threads, cols ? 64 : 1);
    else if (in->map)
        bp_share(&j, map_part, threads, cols ? 64 : 1);
}
