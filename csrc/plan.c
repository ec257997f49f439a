/* plan.c: how long the instructions of a program take, roughly, and how many threads each is worth. */
#include "program.h"

#include <stdatomic.h>

/* Whether the weights that a program reads, or the arrays that it updates, are more than the caches of two cores hold: then each run
 * fetches them from beyond, at some 30 GB/s and core, and no core has any of them to lose to another. Tables that are read by row
 * numbers do not count. */
int bp_is_far(const bp_program *p)
{
    double read = 0, updated = 0; /* numbers */
    for (int64_t i = 0; i < p->n_instrs; i++) {
        const bp_instr *in = &p->instrs[i];
        const double written = in->map ? in->map->written : 0;
        if (in->op == BP_INSTR_MATMUL) {
            const int64_t m = in->u.matmul.m, n = in->u.matmul.n, k = in->u.matmul.k;
            if (k > 0 && n > 0 && in->u.matmul.b.space > 0 && !in->u.matmul.trans_b) read += (double)k * (double)n;
            if (m > 0 && n > 0) updated += written * (double)m * (double)n;
        } else if (in->op == BP_INSTR_MAP && in->u.map.rows > 0 && in->u.map.cols > 0)
            updated += written * (double)in->u.map.rows * (double)in->u.map.cols;
    }
    return (read > updated ? read : updated) * p->real_bytes >= 4 << 20;
}

#define FAR_NS 0.03 /* a byte */

/* Nanoseconds on one core, to a factor of two: enough to say whether a thread is worth waking. The constants are those of 8 lanes. */
static double predict(const bp_context *x, const bp_instr *in)
{
    const double map = in->map ? in->map->ns : 0, streams = in->map ? in->map->streams : 0;
    double ns = 0, bytes = 0; /* that come from afar where the program is far: a core waits for them whatever its lanes are */
    switch (in->op) {
    case BP_INSTR_MATMUL: {
        const double m = (double)bp_dim_now(x, in->u.matmul.m), n = (double)bp_dim_now(x, in->u.matmul.n), k = (double)bp_dim_now(x, in->u.matmul.k);
        const bp_tiles *tiles = in->u.matmul.bf16 ? bp_tiles_of(x->k) : NULL;
        ns = m * n * ((tiles ? tiles->ns * x->k->lanes / 8 : 0.03) * k + 0.2 + map);
        bytes = (k * n + m * n * streams) * x->p->real_bytes;
        break;
    }
    case BP_INSTR_MAP: {
        const double elements = (double)bp_dim_now(x, in->u.map.rows) * (double)bp_dim_now(x, in->u.map.cols);
        ns = elements * map;
        bytes = elements * streams * x->p->real_bytes;
        break;
    }
    case BP_INSTR_REDUCE: {
        const double results = (double)bp_dim_now(x, in->u.reduce.outer) * (double)bp_dim_now(x, in->u.reduce.inner);
        const double elements = results * (double)bp_dim_now(x, in->u.reduce.r);
        ns = elements * (0.15 + (in->before ? in->before->ns : 0)) + results * map;
        bytes = in->before ? elements * in->before->streams * x->p->real_bytes : 0;
        break;
    }
    case BP_INSTR_SOFTMAX_CE: ns = (double)bp_dim_now(x, in->u.softmax.n) * (20 + 2.5 * (double)in->u.softmax.classes); break;
    case BP_INSTR_GATHER: ns = (double)bp_dim_now(x, in->u.lookup.n) * (5 + 0.2 * (double)in->u.lookup.width); break;
    case BP_INSTR_SCATTER_ADD:
        ns = (double)bp_dim_now(x, in->u.lookup.n) * (5 + 0.2 * (double)in->u.lookup.width) +
             0.1 * (double)bp_dim_now(x, in->u.lookup.limit) * (double)in->u.lookup.width;
        break;
    case BP_INSTR_FIRST: ns = 5 * (double)bp_dim_now(x, in->u.lookup.n); break;
    case BP_INSTR_ROW_UPDATE: /* most row numbers are different */
        ns = (double)bp_dim_now(x, in->u.lookup.n) *
             (20 + (double)in->u.lookup.width * (0.2 + 0.2 * (double)in->u.lookup.n_tables + map));
        break;
    case BP_INSTR_COPY:
    case BP_INSTR_COPY_INT:
        ns = 0.4;
        for (int i = 0; i < in->u.copy.nd; i++)
            ns *= (double)bp_dim_now(x, in->u.copy.dims[i]);
        break;
    case BP_INSTR_FILL: ns = 0.1 * (double)bp_dim_now(x, in->u.fill.count); break;
    case BP_INSTR_ARGMAX: ns = (double)bp_dim_now(x, in->u.argmax.rows) * (double)bp_dim_now(x, in->u.argmax.cols); break;
    case BP_INSTR_SUM_BLOCKS:
        ns = (double)(in->u.sum_blocks.m * in->u.sum_blocks.n) * (0.1 * (double)bp_row_blocks(x->args.rows) + map);
        break;
    }
    ns *= 8.0 / x->k->lanes;
    return x->p->far && ns < FAR_NS * bytes ? FAR_NS * bytes : ns;
}

/* Nanoseconds that sharing an instruction costs beside waiting: numbers that another core wrote, or keeps, have to come over, as many
 * of an array as its cache holds. A product's rows of A and C belong to the same thread in every instruction, B does not; in a product of
 * A^T, a sum over the rows, nothing does. */
static double moved(const bp_context *x, double rows, double cols)
{
    const double bytes = rows * cols * x->p->real_bytes;
    return 0.08 * (bytes < 1 << 20 ? bytes : 1 << 20);
}

static double sharing(const bp_context *x, const bp_instr *in)
{
    if (in->op != BP_INSTR_MATMUL)
        return 0;
    const double m = (double)bp_dim_now(x, in->u.matmul.m), n = (double)bp_dim_now(x, in->u.matmul.n), k = (double)bp_dim_now(x, in->u.matmul.k);
    const int sums = in->u.matmul.trans_a;
    const double weights = x->p->far ? 0 : moved(x, k, n) + (sums ? moved(x, m, n) : 0);
    return weights + (sums ? moved(x, m, k) : 0);
}

/* What a thread costs, measured with bench/sweep.py: a job for one that is awake some microseconds; waking one as much again, and it
 * comes tens of microseconds later. So an instruction has a thread for each THREAD_NS, if all such instructions of a run together
 * save TOGETHER_NS beyond what sharing costs: they hand numbers to each other, and one alone would have to fetch them. Threads are
 * woken as the run begins, and an instruction of less than LATE_NS takes only those that are awake when it comes. */
#define THREAD_NS 25e3
#define TOGETHER_NS 150e3
#define LATE_NS 60e3
#define CROWDED_NS 5e6        /* where other processes are about, what is over in a slice or two of theirs is not shared */

static atomic_int always;

int bp_share_always(int on) { return atomic_exchange(&always, on); }

static int threads_for(double ns, int most)
{
    if (atomic_load_explicit(&always, memory_order_relaxed)) return most;
    const double worth = 1 + ns / THREAD_NS;
    return worth < most ? (int)worth : most;
}

int bp_threads_now(double ns, int threads)
{
    if (threads <= 1 || atomic_load_explicit(&always, memory_order_relaxed)) return threads;
    if (ns < CROWDED_NS && bp_threads_crowded()) return 1;
    return ns < LATE_NS ? bp_threads_awake(threads) : threads;
}

int bp_threads_between(const bp_context *x, double ns)
{
    return x->together || ns >= TOGETHER_NS ? bp_threads_now(ns, threads_for(ns, x->args.threads)) : 1;
}

void bp_make_plan(bp_context *x)
{
    const int forced = atomic_load_explicit(&always, memory_order_relaxed);
    if (x->plan_rows == x->args.rows && x->plan_threads == x->args.threads && x->plan_forced == forced)
        return;
    bp_plan *blocks = NULL;
    double saved = 0;
    x->plan_ns = 0;
    for (int64_t i = 0; i < x->p->n_instrs; i++) {
        const bp_instr *in = &x->p->instrs[i];
        const double ns = predict(x, in);
        x->plan_ns += ns;
        x->plan[i].ns = ns;
        if (in->op == BP_INSTR_ROW_BLOCKS)
            blocks = &x->plan[i];
        else if (in->governed) { /* their time is that of the instruction that runs them */
            blocks->ns += ns;
            x->plan[i].ns = 0;
        }
    }
    for (int64_t i = 0; i < x->p->n_instrs; i++) {
        x->plan[i].threads = threads_for(x->plan[i].ns, x->args.threads);
        saved += x->plan[i].threads > 1 ? x->plan[i].ns - 2 * sharing(x, &x->p->instrs[i]) : 0;
    }
    x->together = forced || saved >= TOGETHER_NS;
    for (int64_t i = 0; i < x->p->n_instrs && !x->together; i++)
        x->plan[i].threads = 1;
    x->plan_rows = x->args.rows;
    x->plan_threads = x->args.threads;
    x->plan_forced = forced;
}
