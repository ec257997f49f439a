/* fit.c: many steps of a program in one call. Each step brings the rows of its inputs together, runs the program, and
 * moves on; nothing is allocated. */
#include "program.h"

#include <string.h>

enum { AHEAD = 8 }; /* rows that a gather asks for in advance: main memory takes about as long as so many short rows */

typedef struct { const bp_feed *feed; char *to; } gathering;

/* to[i, :] = data[order[i], :] */
static void gather_rows(const bp_job *j, int thread, int64_t low, int64_t high)
{
    (void)thread;
    const gathering *g = j->more;
    const int64_t *order = j->x->order, bytes = g->feed->row_bytes, stride = g->feed->stride;
    const char *from = g->feed->data;
    char *to = g->to + low * bytes;
    for (int64_t i = low; i < high; i++, to += bytes) {
        if (i + AHEAD < high)
            BP_PREFETCH(from + order[i + AHEAD] * stride);
        const char *row = from + order[i] * stride;
        if (bytes == 4) /* labels: a copy of known size is one instruction */
            memcpy(to, row, 4);
        else
            memcpy(to, row, (size_t)bytes);
    }
}

/* Points the spaces of the feeds to rows [start, start + rows) of the order; 0 where a row number is not a row. */
static int feed_step(bp_context *x, const bp_fit_args *fit, int64_t start, int64_t rows, bp_run_result *result)
{
    int copied = 0;
    for (int i = 0; i < fit->n_feeds; i++) {
        const bp_feed *f = &fit->feeds[i];
        if (!fit->order && f->stride == f->row_bytes)
            x->bases[f->space] = (char *)f->data + start * f->stride;
        else
            copied = 1;
    }
    if (!copied)
        return 1;
    for (int64_t i = 0; i < rows; i++) { /* a private copy, as with labels */
        const int64_t row = x->order[i] = fit->order ? fit->order[start + i] : start + i;
        if (row < 0 || row >= fit->rows) {
            *result = (bp_run_result){BP_OUT_OF_RANGE, x->args.first, row, fit->rows};
            return 0;
        }
    }
    for (int i = 0; i < fit->n_feeds; i++) {
        const bp_feed *f = &fit->feeds[i];
        if (!fit->order && f->stride == f->row_bytes)
            continue;
        gathering g = {f, x->staging[f->space]};
        bp_job j = {.x = x, .more = &g, .total = rows};
        const double ns = (double)rows * (5 + 0.1 * (double)f->row_bytes);
        x->bases[f->space] = g.to;
        x->unclocked_ns += ns;
        bp_share(&j, gather_rows, bp_threads_between(x, ns), 8);
    }
    return 1;
}

bp_run_result bp_fit(const bp_program *p, bp_context *x, const bp_run_args *args, const bp_fit_args *fit, int64_t *done)
{
    bp_run_result result = {BP_OK, args->last, 0, 0};
    const int64_t begin = bp_clock_ns(), last = fit->first_step + fit->n_steps;
    *done = 0;
    bp_context_begin(x, args);
    x->polled = begin;
    for (int64_t step = fit->first_step; step < last && step * fit->batch < fit->n; step++) {
        const int64_t start = step * fit->batch, left = fit->n - start;
        x->args.rows = left < fit->batch ? left : fit->batch;
        if (!feed_step(x, fit, start, x->args.rows, &result))
            break;
        result = bp_context_run(x);
        if (result.status != BP_OK)
            break;
        ++*done;
        x->args.step++;
        if (fit->scalar_space >= 0)
            x->bases[fit->scalar_space] += fit->scalar_stride * p->spaces[fit->scalar_space].element_bytes;
        if (fit->loss_space >= 0)
            x->bases[fit->loss_space] += p->spaces[fit->loss_space].element_bytes;
        if (fit->seconds > 0 && (double)(bp_clock_ns() - begin) > fit->seconds * 1e9)
            break;
    }
    bp_context_end(x);
    return result;
}
