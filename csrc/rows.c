/* rows.c: the instructions that go by row numbers: GATHER, SCATTER_ADD, FIRST and ROW_UPDATE.
 *
 * They read the private copies of the row numbers that program.c has made and checked, where a padding is -1. */
#include "program.h"

#include <string.h>

enum { AHEAD = 8, LINE = 64, MOST = 512 }; /* rows asked for in advance; bytes of a line; bytes of a row that are asked for */

static void prefetch_row(const char *row, int64_t bytes)
{
    for (int64_t b = 0; b < bytes && b < MOST; b += LINE)
        BP_PREFETCH(row + b);
}

/* How many of ids[n] are no padding. */
static int64_t counted(const int32_t *ids, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += ids[i] >= 0;
    return count;
}

/* to[0] = w[0] / count, where w may be NULL: 1 */
static void set_coefficient(void *to, const void *w, int64_t count, int64_t size)
{
    if (size == 4)
        *(float *)to = (w ? *(const float *)w : 1) / (float)count;
    else
        *(double *)to = (w ? *(const double *)w : 1) / (double)count;
}

/* ------------------------------------------------------------------ gather, scatter_add */

/* rows[i, :] = over j of weights[i, j] table[ids[i, j], :] */
static void gather_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const bp_context *x = j->x;
    const bp_operand *rows = &j->in->u.lookup.rows, *table = &j->in->u.lookup.table, *weights = &j->in->u.lookup.weights;
    const int64_t size = x->p->real_bytes, per = j->in->u.lookup.per, width = j->in->u.lookup.width;
    const int64_t table_step = table->ld * size, bytes = width * size;
    const int64_t ahead = per < AHEAD ? AHEAD : per; /* ids, of this row and of later ones */
    const int32_t *const ids = bp_ids_now(x, j->in, &j->in->u.lookup.ids);
    const char *const from = bp_at(x, table, size), *w = weights->space < 0 ? NULL : bp_at(x, weights, size);
    char *to = (char *)bp_at(x, rows, size) + low * rows->ld * size;
    const int copy = per == 1 && !w && j->in->u.lookup.padding == BP_NO_PADDING;
    for (int64_t i = low; i < high; i++, to += rows->ld * size) {
        const int32_t *const row = ids + i * per;
        for (int64_t k = i * per + ahead; k < (i + 1) * per + ahead && k < high * per; k++)
            if (ids[k] >= 0)
                prefetch_row(from + ids[k] * table_step, bytes);
        if (copy) {
            memcpy(to, from + *row * table_step, (size_t)bytes);
            continue;
        }
        x->k->sum_rows(per, width, from, table->ld, row, w ? w + i * per * size : NULL, to);
        const int64_t count = j->in->u.lookup.mean ? counted(row, per) : 0;
        if (count > 1) {
            const double d = (double)count;
            const float f = (float)count;
            x->k->map[BP_MAP_DIV][2](width, to, to, size == 4 ? (const void *)&f : &d, NULL);
        }
    }
}

/* table[:, low:high] = 0; table[ids[i, j], low:high] += c[i, j] rows[i, low:high] */
static void scatter_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const bp_context *x = j->x;
    const bp_operand *rows = &j->in->u.lookup.rows, *table = &j->in->u.lookup.table, *weights = &j->in->u.lookup.weights;
    const int64_t size = x->p->real_bytes, step = table->ld * size, per = j->in->u.lookup.per, width = high - low;
    const int64_t n = bp_dim_at(j->in->u.lookup.n, x->args.rows), limit = bp_dim_at(j->in->u.lookup.limit, x->args.rows);
    char *const to = (char *)bp_at(x, table, size) + low * size;
    const char *const from = (const char *)bp_at(x, rows, size) + low * size;
    const char *const w = weights->space < 0 ? NULL : bp_at(x, weights, size);
    const int32_t *const ids = bp_ids_now(x, j->in, &j->in->u.lookup.ids);
    const int plain = !w && !j->in->u.lookup.mean;
    if (table->ld == width)
        memset(to, 0, (size_t)(limit * step));
    else
        for (int64_t i = 0; i < limit; i++)
            memset(to + i * step, 0, (size_t)(width * size));
    for (int64_t i = 0, k = 0; k < n; i++) {
        const char *const src = from + i * rows->ld * size;
        const int64_t count = j->in->u.lookup.mean ? counted(ids + k, per) : 1;
        for (const int64_t last = k + per; k < last; k++) {
            if (k + AHEAD < n && ids[k + AHEAD] >= 0)
                prefetch_row(to + ids[k + AHEAD] * step, width * size);
            if (ids[k] < 0)
                continue;
            char *const dst = to + ids[k] * step;
            double c;
            if (plain)
                x->k->map[BP_MAP_ADD][0](width, dst, dst, src, NULL);
            else {
                set_coefficient(&c, w ? w + k * size : NULL, count, size);
                x->k->map[BP_MAP_FMA][1](width, dst, &c, src, dst);
            }
        }
    }
}

/* ------------------------------------------------------------------ equal row numbers */

/* Twice as many places as numbers, or more: at most half are taken, so a search is short whatever the numbers are. */
static int hash_bits(int64_t n)
{
    int bits = 1;
    while ((int64_t)1 << bits < 2 * n)
        bits++;
    return bits;
}

/* first[i] = the smallest j with ids[j] == ids[i], or -1 where ids[i] is `padding`. `table` has 2^hash_bits(n) places. */
static void find_first(const int32_t *ids, int64_t n, int64_t padding, int32_t *table, int32_t *first)
{
    const int bits = hash_bits(n);
    const size_t mask = ((size_t)1 << bits) - 1;
    memset(table, 0xff, (mask + 1) * sizeof *table); /* -1: free */
    for (int64_t i = 0; i < n; i++) {
        const int32_t id = ids[i];
        if (id == padding) {
            first[i] = -1;
            continue;
        }
        /* Fibonacci hashing (Knuth, TAOCP 3, 6.4): numbers in any arithmetic progression spread evenly. */
        size_t h = (uint32_t)id * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits);
        while (table[h] >= 0 && ids[table[h]] != id)
            h = (h + 1) & mask;
        if (table[h] < 0)
            table[h] = (int32_t)i;
        first[i] = table[h];
    }
}

/* ------------------------------------------------------------------ row_update */

/* The d-th of the different row numbers is ids[d]; it occurs with src rows rows[start[d] ... start[d + 1]), each times c. */
typedef struct { int64_t n; int32_t *ids, *start, *rows; void *c; } occurrences;

int64_t bp_row_ints(int64_t n) { return ((int64_t)1 << hash_bits(n)) + 4 * n + 2; }

static occurrences find_occurrences(bp_context *x, const bp_instr *in)
{
    const int64_t n = bp_dim_at(in->u.lookup.n, x->args.rows), per = in->u.lookup.per, size = x->p->real_bytes;
    const bp_operand *weights = &in->u.lookup.weights;
    const char *const w = weights->space < 0 ? NULL : bp_at(x, weights, size);
    const int32_t *const ids = bp_ids_now(x, in, &in->u.lookup.ids);
    int32_t *const table = x->row_ints, *const number = table + ((int64_t)1 << hash_bits(n)); /* which of the different ones */
    int32_t *const start = number + 2 * n;
    occurrences o = {0, number + n, start, start + n + 2, w || in->u.lookup.mean ? x->row_reals : NULL};
    find_first(ids, n, -1, table, number);
    memset(start, 0, (size_t)(n + 2) * sizeof *start);
    for (int64_t k = 0; k < n; k++) { /* first[k] <= k: what is behind k has become a number */
        if (number[k] < 0)
            continue;
        number[k] = number[k] == k ? (int32_t)o.n++ : number[number[k]];
        o.ids[number[k]] = ids[k];
        start[number[k] + 2]++;
    }
    for (int64_t d = 2; d < o.n + 2; d++) /* start[d + 1]: where the next occurrence of the d-th goes */
        start[d] += start[d - 1];
    for (int64_t i = 0, k = 0; k < n; i++) {
        const int64_t count = in->u.lookup.mean ? counted(ids + k, per) : 1;
        for (const int64_t last = k + per; k < last; k++) {
            if (number[k] < 0)
                continue;
            const int32_t at = start[number[k] + 1]++;
            o.rows[at] = (int32_t)i;
            if (o.c)
                set_coefficient((char *)o.c + at * size, w ? w + k * size : NULL, count, size);
        }
    }
    return o;
}

/* The map over the different rows [low, high), a block at a time, in the thread's own context. */
static void update_part(const bp_job *j, int thread, int64_t low, int64_t high)
{
    const occurrences *const o = j->more;
    const bp_instr *const in = j->in;
    bp_context *const x = &j->x->workers[thread];
    const bp_operand *const src = &in->u.lookup.rows;
    const int64_t size = x->p->real_bytes, width = in->u.lookup.width, bytes = width * size, most = in->u.lookup.block_rows;
    const char *const from = bp_at(x, src, size);
    char *const gradient = x->arena + in->u.lookup.gradient * size; /* [block_rows, width] */
    bp_map_bind(x, in->map);
    for (int64_t first = low; first < high; first += most) {
        const int64_t rows = high - first < most ? high - first : most;
        const int32_t *const ids = o->ids + first;
        for (int64_t r = 0; r < rows; r++) {
            const int64_t begin = o->start[first + r], n = o->start[first + r + 1] - begin;
            x->k->sum_rows(n, width, from, src->ld, o->rows + begin, o->c ? (const char *)o->c + begin * size : NULL,
                           gradient + r * bytes);
        }
        for (int t = 0; t < in->u.lookup.n_tables; t++) {
            const bp_row_table *const table = &in->u.lookup.tables[t];
            const char *const whole = bp_at(x, &table->at, size);
            char *const own = x->arena + table->offset * size;
            for (int64_t r = 0; table->reads && r < rows; r++) {
                if (r + AHEAD < rows)
                    prefetch_row(whole + ids[r + AHEAD] * table->at.ld * size, bytes);
                memcpy(own + r * bytes, whole + ids[r] * table->at.ld * size, (size_t)bytes);
            }
        }
        bp_map_region(x, 0, 0, rows, 0, width, NULL, 0);
        for (int t = 0; t < in->u.lookup.n_tables; t++) {
            const bp_row_table *const table = &in->u.lookup.tables[t];
            char *const whole = bp_at(x, &table->at, size);
            for (int64_t r = 0; table->writes && r < rows; r++)
                memcpy(whole + ids[r] * table->at.ld * size, x->arena + table->offset * size + r * bytes, (size_t)bytes);
        }
    }
}

void bp_run_rows(bp_context *x, const bp_instr *in, int threads)
{
    const int64_t n = bp_dim_at(in->u.lookup.n, x->args.rows);
    bp_job j = {.x = x, .in = in};
    switch (in->op) {
    case BP_INSTR_GATHER:
        j.total = n / in->u.lookup.per;
        bp_share(&j, gather_part, threads, 1);
        break;
    case BP_INSTR_SCATTER_ADD:
        j.total = in->u.lookup.width; /* columns: rows of the table may be touched twice */
        bp_share(&j, scatter_part, threads, 16);
        break;
    case BP_INSTR_FIRST:
        find_first(bp_at(x, &in->u.lookup.ids, 4), n, in->u.lookup.padding, x->row_ints, bp_at(x, &in->u.lookup.rows, 4));
        break;
    default: { /* ROW_UPDATE */
        occurrences o = find_occurrences(x, in);
        for (int t = 0; t < threads; t++)
            bp_start_worker(x, t);
        j.more = &o;
        j.total = o.n; /* a row belongs to one part */
        bp_share(&j, update_part, threads, 1);
    }
    }
}
