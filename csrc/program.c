/* program.c: contexts, and the loop that runs a program in one, layer by layer or in row blocks.
 *
 * decode.c has checked everything that the words alone decide; labels and row numbers are checked here, in private copies,
 * because another thread may change the caller's. */
#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* clock_gettime, madvise */
#endif
#include "program.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* ------------------------------------------------------------------ memory */

static _Atomic int64_t allocations;
int64_t bp_allocations(void) { return atomic_load(&allocations); }

static size_t round64(size_t bytes) { return (bytes + 63) / 64 * 64; }

void *bp_alloc(size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    const size_t huge = (size_t)2 << 20;
    if (bytes < 2 * huge) return aligned_alloc(64, round64(bytes ? bytes : 1));
    bytes = (bytes + huge - 1) / huge * huge;
    void *block = aligned_alloc(huge, bytes);
#ifdef MADV_HUGEPAGE
    if (block) madvise(block, bytes, MADV_HUGEPAGE); /* large products walk matrices by column of blocks: a page for each row */
#endif
    return block;
}

void bp_dealloc(void *block) { free(block); }

/* The next `count` elements of `bytes` bytes of a block; with base NULL they are only counted. */
static void *carve(char *base, size_t *used, int64_t count, size_t bytes)
{
    void *at = base ? base + *used : NULL;
    *used = round64(*used + (size_t)count * bytes);
    return at;
}

static bp_gemm_plan *cleared(bp_gemm_plan *plans, int64_t n)
{
    if (plans) memset(plans, 0, (size_t)n * sizeof *plans);
    return plans;
}

/* Gives every part of a context its place in the block at `base` and returns the bytes of all. */
static size_t lay_out(bp_context *x, char *base)
{
    const bp_program *p = x->p;
    const int64_t real = p->real_bytes, threads = x->threads;
    size_t used = round64(sizeof *x);
    x->bases = carve(base, &used, p->n_spaces + 1, sizeof *x->bases);
    x->staging = carve(base, &used, p->n_spaces, sizeof *x->staging);
    x->plan = carve(base, &used, p->n_instrs, sizeof *x->plan);
    x->slots = carve(base, &used, p->max_slots, sizeof *x->slots);
    x->stores = carve(base, &used, p->max_stores, sizeof *x->stores);
    x->scalars = carve(base, &used, p->max_scalars, sizeof *x->scalars);
    x->thread_slots = carve(base, &used, threads * p->max_slots, sizeof *x->thread_slots);
    x->regs = carve(base, &used, threads * p->max_regs, BP_REG_BYTES);
    x->reduced = carve(base, &used, p->max_reduce, (size_t)real);
    x->pieces = carve(base, &used, p->prologues ? threads : 0, bp_piece_bytes(real));
    x->parts = carve(base, &used, p->max_parts, (size_t)real);
    x->ids = carve(base, &used, p->max_ids, sizeof *x->ids);
    x->row_ints = carve(base, &used, p->max_row_ints, sizeof *x->row_ints);
    x->row_reals = carve(base, &used, p->max_row_reals, (size_t)real);
    x->call_arrays = carve(base, &used, p->max_call, sizeof *x->call_arrays);
    int fed = 0;
    for (int i = 1; i < p->n_spaces; i++)
        if (!p->spaces[i].writable && p->spaces[i].elements < 0) {
            void *buffer = carve(base, &used, bp_dim_at(p->spaces[i].elements, p->capacity), (size_t)p->spaces[i].element_bytes);
            if (base)
                x->staging[i] = buffer;
            fed = 1;
        }
    x->order = carve(base, &used, fed ? p->capacity : 0, sizeof *x->order);
    size_t gemm = 0;
    x->block_gemm = 0;
    for (int64_t i = 0; i < p->n_instrs; i++)
        if (p->instrs[i].op == BP_INSTR_MATMUL) {
            const bp_instr *in = &p->instrs[i];
            const int64_t rows = in->governed ? min64(p->capacity, BP_ROW_BLOCK) : p->capacity;
            const int64_t m = bp_dim_at(in->u.matmul.m, rows), n = bp_dim_at(in->u.matmul.n, rows), k = bp_dim_at(in->u.matmul.k, rows);
            const int most_threads = in->governed ? 1 : x->threads;
            const size_t bytes = in->u.matmul.bf16 ? bp_gemm_bf16_scratch(x->k, bp_tiles_of(x->k), m, n, k, most_threads)
                                                   : bp_gemm_scratch(x->k, m, n, k, most_threads);
            size_t *const most = in->governed ? &x->block_gemm : &gemm;
            *most = bytes > *most ? bytes : *most;
        }
    if (gemm < x->block_gemm * (size_t)threads)
        gemm = x->block_gemm * (size_t)threads;
    x->gemm = carve(base, &used, 1, gemm);
    x->gemm_plans = cleared(carve(base, &used, p->n_products, sizeof *x->gemm_plans), p->n_products);
    x->workers = carve(base, &used, p->row_blocks ? threads : 0, sizeof *x->workers);
    for (int64_t t = 0; p->row_blocks && t < threads; t++) {
        bp_context counted, *w = base ? &x->workers[t] : &counted;
        w->bases = carve(base, &used, p->n_spaces + 1, sizeof *w->bases);
        w->slots = carve(base, &used, p->max_slots, sizeof *w->slots);
        w->stores = carve(base, &used, p->max_stores, sizeof *w->stores);
        w->scalars = carve(base, &used, p->max_scalars, sizeof *w->scalars);
        w->reduced = carve(base, &used, p->max_block_reduce, (size_t)real);
        w->parts = carve(base, &used, p->max_block_parts, (size_t)real);
        w->arena = carve(base, &used, 1, (size_t)p->block_bytes);
        w->gemm_plans = cleared(carve(base, &used, p->n_products, sizeof *w->gemm_plans), p->n_products);
    }
    x->arena = carve(base, &used, 1, (size_t)p->arena_bytes);
    return used;
}

static bp_context blank(const bp_program *p, int threads)
{
    return (bp_context){.p = p, .k = bp_kernels_current(p->real_bytes), .threads = threads < 1 ? 1 : threads, .plan_rows = -1};
}

size_t bp_program_context_bytes(const bp_program *p, int threads)
{
    bp_context x = blank(p, threads);
    return lay_out(&x, NULL);
}

bp_context *bp_context_new(const bp_program *p, int threads)
{
    bp_context x = blank(p, threads);
    char *block = bp_alloc(lay_out(&x, NULL));
    if (!block)
        return NULL;
    const size_t tables = round64(sizeof x) + 2 * round64((size_t)(p->n_spaces + 1) * sizeof *x.bases);
    memset(block, 0, tables); /* pointers that nobody sets are NULL; scratch and arena need no first value */
    lay_out(&x, block);
    memcpy(block, &x, sizeof x);
    return (bp_context *)block;
}

void bp_context_free(bp_context *x) { bp_dealloc(x); }

void *bp_context_arena(bp_context *x, size_t *bytes)
{
    *bytes = (size_t)x->p->arena_bytes;
    return x->arena;
}

/* ------------------------------------------------------------------ how work is shared */

typedef struct { const bp_job *job; bp_job_fn fn; } shared_job;

static void run_part(void *arg, int64_t task, int thread)
{
    const shared_job *s = arg;
    const int64_t n = s->job->total, tasks = s->job->tasks, each = n / tasks, extra = n % tasks;
    const int64_t low = task * each + min64(task, extra);
    s->fn(s->job, thread, low, low + each + (task < extra));
}

void bp_share(bp_job *job, bp_job_fn fn, int threads, int64_t grain)
{
    job->tasks = min64(4 * (int64_t)threads, (job->total + grain - 1) / grain); /* more than threads: they may be unequal */
    if (threads <= 1 || job->tasks <= 1) {
        fn(job, 0, 0, job->total);
        return;
    }
    shared_job s = {job, fn};
    bp_parallel(threads, job->tasks, run_part, &s);
}

/* ------------------------------------------------------------------ instructions */

static void run_matmul(bp_context *x, const bp_instr *in, int threads)
{
    const int64_t size = x->p->real_bytes;
    const bp_operand *a = &in->u.matmul.a, *b = &in->u.matmul.b, *c = &in->u.matmul.c;
    const bp_tiles *tiles = in->u.matmul.bf16 ? bp_tiles_of(x->k) : NULL;
    if (c->space < 0 && in->u.matmul.c_store >= 0 && !tiles) /* which have a place of their own for the sums */
        c = &in->map->stores[in->u.matmul.c_store].at;
    bp_gemm g = {.m = bp_dim_now(x, in->u.matmul.m), .n = bp_dim_now(x, in->u.matmul.n), .k = bp_dim_now(x, in->u.matmul.k),
                 .a = bp_at(x, a, size), .b = bp_at(x, b, size),
                 .rsa = in->u.matmul.trans_a ? 1 : a->ld, .csa = in->u.matmul.trans_a ? a->ld : 1,
                 .rsb = in->u.matmul.trans_b ? 1 : b->ld, .csb = in->u.matmul.trans_b ? b->ld : 1,
                 .c = c->space < 0 ? NULL : bp_at(x, c, size), .ldc = c->ld};
    if (in->map) {
        bp_map_bind(x, in->map);
        g.epilogue = bp_map_region;
        g.epilogue_arg = x;
        g.updates = in->map->updates;
    }
    if (in->u.matmul.bf16) bp_gemm_bf16_run(x->k, tiles, &g, threads, x->gemm);
    else bp_gemm_run(x->k, &g, &x->gemm_plans[in->u.matmul.number], threads, x->gemm);
}

static void map_rows(const bp_job *j, int thread, int64_t low, int64_t high)
{
    bp_map_region(j->x, thread, low, high, 0, bp_dim_now(j->x, j->in->u.map.cols), NULL, 0);
}

static void map_cols(const bp_job *j, int thread, int64_t low, int64_t high)
{
    bp_map_region(j->x, thread, 0, bp_dim_now(j->x, j->in->u.map.rows), low, high, NULL, 0);
}

static void run_map(bp_context *x, const bp_instr *in, int threads)
{
    const int64_t rows = bp_dim_now(x, in->u.map.rows), cols = bp_dim_now(x, in->u.map.cols);
    bp_job j = {.x = x, .in = in, .total = rows};
    bp_map_bind(x, in->map);
    if (threads > 1 && rows < 4 * threads && cols > rows) {
        j.total = cols;
        bp_share(&j, map_cols, threads, 256);
    } else
        bp_share(&j, map_rows, threads, 1);
}

/* The private copy to[n] = ids[n], with -1 for padding; 0 and the first that is not in [0, limit) where there is one. */
static int copy_ids(bp_context *x, const bp_operand *ids, int64_t n, int64_t limit, int64_t padding, int32_t *to,
                    bp_run_result *result)
{
    memcpy(to, bp_at(x, ids, 4), (size_t)n * 4);
    int bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad |= (to[i] < 0 || to[i] >= limit) && to[i] != padding;
    for (int64_t i = 0; bad && i < n; i++)
        if ((to[i] < 0 || to[i] >= limit) && to[i] != padding) {
            *result = (bp_run_result){BP_OUT_OF_RANGE, result->instruction, to[i], limit};
            break;
        }
    for (int64_t i = 0; padding != BP_NO_PADDING && i < n; i++)
        to[i] = to[i] == padding ? -1 : to[i];
    return !bad;
}

/* The private copies of an instruction's labels or row numbers, if it has any. */
static int prepare_ids(bp_context *x, const bp_instr *in, bp_run_result *result)
{
    switch (in->op) {
    case BP_INSTR_SOFTMAX_CE:
        return in->u.softmax.targets_kind != 0 || copy_ids(x, &in->u.softmax.targets, bp_dim_now(x, in->u.softmax.n),
                                                           in->u.softmax.classes, BP_NO_PADDING, x->ids + in->ids, result);
    case BP_INSTR_GATHER:
    case BP_INSTR_SCATTER_ADD:
    case BP_INSTR_ROW_UPDATE:
        return copy_ids(x, &in->u.lookup.ids, bp_dim_now(x, in->u.lookup.n), bp_dim_now(x, in->u.lookup.limit), in->u.lookup.padding,
                        x->ids + in->ids, result);
    default: return 1;
    }
}

static void softmax_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const bp_context *x = j->x;
    const bp_instr *in = j->in;
    const int64_t size = x->p->real_bytes, classes = in->u.softmax.classes;
    const bp_operand *z = &in->u.softmax.z, *g = &in->u.softmax.g, *loss = &in->u.softmax.loss, *dz = &in->u.softmax.dz;
    const int labels = in->u.softmax.targets_kind == 0, g_step = g->space >= 0 && in->u.softmax.g_kind == BP_COL;
    x->k->softmax_ce(high - low, classes, at(bp_at(x, z, size), low * z->ld, size), z->ld,
                     labels ? bp_ids_now(x, in, &in->u.softmax.targets) + low : NULL,
                     labels ? NULL : at(bp_at(x, &in->u.softmax.targets, size), low * classes, size),
                     g->space < 0 ? NULL : at(bp_at(x, g, size), low * g_step, size), g_step,
                     loss->space < 0 ? NULL : (char *)bp_at(x, loss, size) + low * size,
                     dz->space < 0 ? NULL : (char *)bp_at(x, dz, size) + low * dz->ld * size, dz->ld);
}

/* dst[sum of i_d ds[d]] = src[sum of i_d ss[d]]; the dimensions as decode.c arranges them */
#define COPY_STRIDED(name, real)                                                                                     \
    static void name(int nd, const int64_t *dims, const real *src, const int64_t *ss, real *dst, const int64_t *ds) \
    {                                                                                                                \
        enum { TILE = 16 };                                                                                          \
        const int64_t n = dims[0], m = nd > 1 ? dims[1] : 0;                                                         \
        if (nd == 1 && ss[0] == 1 && ds[0] == 1)                                                                     \
            memcpy(dst, src, (size_t)n * sizeof *dst);                                                               \
        else if (nd == 1)                                                                                            \
            for (int64_t i = 0; i < n; i++)                                                                          \
                dst[i * ds[0]] = src[i * ss[0]];                                                                     \
        else if (nd == 2 && ss[0] == 1 && ds[1] == 1) /* dst[n, m] = src[m, n]^T */                                  \
            for (int64_t i0 = 0; i0 < n; i0 += TILE)                                                                 \
                for (int64_t j0 = 0; j0 < m; j0 += TILE)                                                             \
                    for (int64_t i = i0; i < min64(i0 + TILE, n); i++)                                               \
                        for (int64_t j = j0; j < min64(j0 + TILE, m); j++)                                           \
                            dst[i * ds[0] + j] = src[i + j * ss[1]];                                                 \
        else                                                                                                         \
            for (int64_t i = 0; i < n; i++)                                                                          \
                name(nd - 1, dims + 1, src + i * ss[0], ss + 1, dst + i * ds[0], ds + 1);                            \
    }
COPY_STRIDED(copy_4, uint32_t) /* bits: float, int32 */
COPY_STRIDED(copy_8, uint64_t)

static void copy_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const bp_context *x = j->x;
    const int nd = j->in->u.copy.nd;
    const int64_t *ss = j->in->u.copy.ss, *ds = j->in->u.copy.ds, size = j->in->op == BP_INSTR_COPY_INT ? 4 : x->p->real_bytes;
    int64_t dims[BP_MAX_DIMS];
    for (int i = 0; i < nd; i++)
        dims[i] = bp_dim_now(x, j->in->u.copy.dims[i]);
    dims[0] = high - low;
    const char *src = at(bp_at(x, &j->in->u.copy.src, size), low * ss[0], size);
    char *dst = (char *)bp_at(x, &j->in->u.copy.dst, size) + low * ds[0] * size;
    if (size == 4)
        copy_4(nd, dims, (const uint32_t *)src, ss, (uint32_t *)dst, ds);
    else
        copy_8(nd, dims, (const uint64_t *)src, ss, (uint64_t *)dst, ds);
}

static void fill_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const bp_context *x = j->x;
    const int64_t size = x->p->real_bytes;
    const double d = j->in->u.fill.value;
    const float f = (float)d;
    char *dst = (char *)bp_at(x, &j->in->u.fill.dst, size) + low * size;
    x->k->map[BP_MAP_COPY][1](high - low, dst, size == 4 ? (const void *)&f : &d, NULL, NULL);
}

/* The first of the largest; NaN is larger than any number. */
#define ARGMAX_ROW(name, real)                                                \
    static int32_t name(const real *a, int64_t n)                             \
    {                                                                         \
        int64_t best = 0;                                                     \
        for (int64_t i = 1; i < n && a[best] == a[best]; i++)                 \
            if (a[i] > a[best] || a[i] != a[i])                               \
                best = i;                                                     \
        return (int32_t)best;                                                 \
    }
ARGMAX_ROW(argmax_f32, float)
ARGMAX_ROW(argmax_f64, double)

static void argmax_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const bp_context *x = j->x;
    const int64_t size = x->p->real_bytes, cols = bp_dim_now(x, j->in->u.argmax.cols), step = j->in->u.argmax.src.ld * size;
    const char *src = bp_at(x, &j->in->u.argmax.src, size);
    int32_t *dst = bp_at(x, &j->in->u.argmax.dst, 4);
    for (int64_t i = low; i < high; i++) {
        const void *row = src + i * step;
        dst[i] = size == 4 ? argmax_f32(row, cols) : argmax_f64(row, cols);
    }
}

static int is_finite(const bp_context *x, const bp_operand *o)
{
    const void *value = bp_at(x, o, x->p->real_bytes);
    return isfinite(x->p->real_bytes == 4 ? *(const float *)value : *(const double *)value) != 0;
}

/* Hands the arrays of a CALL over; 0 where the operation failed. It is code of the user's, and may run programs itself. */
static int run_call(bp_context *x, const bp_instr *in)
{
    const int n = in->u.call.inputs + in->u.call.outputs;
    for (int i = 0; i < n; i++) {
        const bp_call_operand *o = &in->u.call.operands[i];
        x->call_arrays[i] = (bp_call_array){bp_at(x, &o->at, o->bytes), bp_dim_now(x, o->elements) * o->bytes};
    }
    if (!x->args.call)
        return 0;
    bp_fp_leave(x->fp_saved);
    const int failed = x->args.call(x->args.call_arg, in->u.call.number, in->u.call.inputs, in->u.call.outputs, x->call_arrays,
                                    x->args.rows);
    x->fp_saved = bp_fp_enter(x->args.flush);
    x->unclocked_ns += 1e6; /* it took nobody knows how long: look at the clock */
    return !failed;
}

/* Rows (or, of a single row, columns) [low, high) of dst[m, n] = part[0] + part[1] + ..., and the map over them. */
static void sum_blocks_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    enum { PIECE = 512 };
    bp_context *const x = j->x;
    const bp_operand *to = &j->in->u.sum_blocks.dst;
    const int64_t size = x->p->real_bytes, m = j->in->u.sum_blocks.m, n = j->in->u.sum_blocks.n, one = m == 1;
    const int64_t blocks = bp_row_blocks(x->args.rows), begin = low * (one ? 1 : n), end = high * (one ? 1 : n);
    char *const dst = to->space < 0 ? x->reduced : bp_at(x, to, size);
    const char *src = bp_at(x, &j->in->u.sum_blocks.src, size);
    for (int64_t i = begin; i < end; i += PIECE) {
        const int64_t count = min64(PIECE, end - i);
        x->k->map[BP_MAP_COPY][0](count, dst + i * size, at(src, i, size), NULL, NULL);
        for (int64_t b = 1; b < blocks; b++)
            x->k->map[BP_MAP_ADD][0](count, dst + i * size, dst + i * size, at(src, b * m * n + i, size), NULL);
    }
    if (j->in->map && one)
        bp_map_region(x, thread, 0, 1, low, high, dst + begin * size, high - low);
    else if (j->in->map)
        bp_map_region(x, thread, low, high, 0, n, dst + begin * size, n);
}

/* An instruction whose row numbers are prepared; in a row block, its part of it. */
static void run_instr(bp_context *x, const bp_instr *in, int threads)
{
    bp_job j = {.x = x, .in = in};
    switch (in->op) {
    case BP_INSTR_MATMUL: run_matmul(x, in, threads); break;
    case BP_INSTR_MAP: run_map(x, in, threads); break;
    case BP_INSTR_REDUCE: bp_run_reduce(x, in, threads); break;
    case BP_INSTR_SOFTMAX_CE:
        j.total = bp_dim_now(x, in->u.softmax.n);
        bp_share(&j, softmax_part, threads, 1);
        break;
    case BP_INSTR_GATHER:
    case BP_INSTR_SCATTER_ADD:
    case BP_INSTR_FIRST:
    case BP_INSTR_ROW_UPDATE: bp_run_rows(x, in, threads); break;
    case BP_INSTR_COPY:
    case BP_INSTR_COPY_INT:
        j.total = bp_dim_now(x, in->u.copy.dims[0]);
        bp_share(&j, copy_part, threads, 1);
        break;
    case BP_INSTR_FILL:
        j.total = bp_dim_now(x, in->u.fill.count);
        bp_share(&j, fill_part, threads, 4096);
        break;
    case BP_INSTR_ARGMAX:
        j.total = bp_dim_now(x, in->u.argmax.rows);
        bp_share(&j, argmax_part, threads, 1);
        break;
    case BP_INSTR_SUM_BLOCKS:
        j.total = in->u.sum_blocks.m == 1 ? in->u.sum_blocks.n : in->u.sum_blocks.m;
        if (in->map)
            bp_map_bind(x, in->map);
        bp_share(&j, sum_blocks_part, threads, in->u.sum_blocks.m == 1 ? 64 : 1);
        break;
    }
}

/* ------------------------------------------------------------------ runs */

int64_t bp_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether poll() says stop. The clock is looked at after a millisecond of predicted work, so that small programs, whose
 * steps take microseconds, hardly ever do. */
static int stopped(bp_context *x)
{
    if (x->unclocked_ns < 1e6)
        return 0;
    x->unclocked_ns = 0;
    const int64_t now = bp_clock_ns();
    if (now - x->polled < 50000000)
        return 0;
    x->polled = now;
    bp_fp_leave(x->fp_saved); /* it may run code of the user's */
    const int stop = x->args.poll(x->args.poll_arg);
    x->fp_saved = bp_fp_enter(x->args.flush);
    return stop;
}

/* ------------------------------------------------------------------ row blocks
 * A thread runs a block in a context of its own: the same program and bases, but the rows of one block, and operands that
 * go by rows move on with it (bp_at). So the instructions need not know of blocks. */

typedef struct { bp_context *x; const bp_instr *first; int64_t count, block; } block_run;

void bp_start_worker(bp_context *x, int thread)
{
    const bp_program *p = x->p;
    bp_context *w = &x->workers[thread];
    w->p = p;
    w->k = x->k;
    w->args = x->args;
    memcpy(w->bases, x->bases, (size_t)p->n_spaces * sizeof *w->bases);
    w->bases[p->n_spaces] = w->arena;
    w->thread_slots = x->thread_slots + (int64_t)thread * p->max_slots;
    w->regs = x->regs + (int64_t)thread * p->max_regs * BP_REG_BYTES;
    w->pieces = x->pieces + (size_t)thread * bp_piece_bytes(p->real_bytes);
    w->gemm = x->gemm + (size_t)thread * x->block_gemm;
    w->ids = x->ids;
    w->block = 0;
}

static void run_block(void *arg, int64_t task, int thread)
{
    const block_run *r = arg;
    bp_context *w = &r->x->workers[thread];
    w->block = r->block + task;
    const int64_t row = w->block * BP_ROW_BLOCK;
    w->args.rows = min64(r->x->args.rows - row, BP_ROW_BLOCK);
    w->args.row0 = r->x->args.row0 + row;
    for (int64_t i = 0; i < r->count; i++)
        run_instr(w, &r->first[i], 1);
}

/* The instructions after `in`, block by block; 0 where a row number is out of range, or poll() says stop. */
static int run_row_blocks(bp_context *x, const bp_instr *in, const bp_plan *plan, bp_run_result *result)
{
    block_run r = {x, in + 1, in->u.row_blocks.count, 0};
    const int64_t blocks = bp_row_blocks(x->args.rows), number = result->instruction;
    for (int64_t i = 0; i < r.count; i++) {
        result->instruction = number + 1 + i;
        if (!prepare_ids(x, &r.first[i], result))
            return 0;
    }
    result->instruction = number;
    for (int t = 0; t < plan->threads; t++)
        bp_start_worker(x, t);
    const double ns = plan->ns / (double)blocks;
    const double turn = 1 + 1e7 * plan->threads / (ns + 1); /* blocks between looks at the clock: some 10 ms */
    for (int64_t left = blocks; left > 0; left = blocks - r.block) {
        const int64_t tasks = turn < (double)left ? (int64_t)turn : left;
        bp_parallel(plan->threads, tasks, run_block, &r);
        r.block += tasks;
        x->unclocked_ns += ns * (double)tasks;
        if (r.block < blocks && x->args.poll && number <= x->p->first_write && stopped(x)) {
            result->status = BP_INTERRUPTED;
            return 0;
        }
    }
    return 1;
}

void bp_context_begin(bp_context *x, const bp_run_args *args)
{
    x->args = *args;
    x->args.threads = args->threads < 1 ? 1 : args->threads < x->threads ? args->threads : x->threads;
    for (int i = 1; i < x->p->n_spaces; i++)
        x->bases[i] = args->bases[i];
    x->bases[0] = x->arena;
    x->block = 0;
    x->unclocked_ns = 0;
    x->polled = 0;
    x->fp_saved = bp_fp_enter(args->flush);
}

void bp_context_end(bp_context *x) { bp_fp_leave(x->fp_saved); }

bp_run_result bp_context_run(bp_context *x)
{
    const bp_program *p = x->p;
    bp_run_result result = {BP_OK, x->args.last, 0, 0};
    bp_make_plan(x);
    if (x->together && !bp_threads_crowded())
        bp_threads_rouse(x->args.threads);
    if (x->args.poll && x->polled == 0 && x->plan_ns >= 1e6)
        x->polled = bp_clock_ns();
    for (int64_t i = x->args.first; i < x->args.last; i++) {
        result.instruction = i;
        if (x->args.poll && i <= p->first_write && stopped(x)) {
            result.status = BP_INTERRUPTED;
            return result;
        }
        const bp_instr *in = &p->instrs[i];
        if (in->governed)
            continue;
        if (in->op == BP_INSTR_ROW_BLOCKS) {
            if (!run_row_blocks(x, in, &x->plan[i], &result))
                return result;
            continue;
        }
        if (in->op == BP_INSTR_CHECK && !is_finite(x, &in->u.check.at)) {
            result.status = BP_NOT_FINITE;
            return result;
        }
        if (in->op == BP_INSTR_CALL && !run_call(x, in)) {
            result.status = BP_CALL_FAILED;
            return result;
        }
        if (!prepare_ids(x, in, &result))
            return result;
        run_instr(x, in, bp_threads_now(x->plan[i].ns, x->plan[i].threads));
        x->unclocked_ns += x->plan[i].ns;
    }
    result.instruction = x->args.last;
    return result;
}

bp_run_result bp_run(const bp_program *p, bp_context *x, const bp_run_args *args)
{
    (void)p; /* the context knows its program */
    bp_context_begin(x, args);
    const bp_run_result result = bp_context_run(x);
    bp_context_end(x);
    return result;
}
