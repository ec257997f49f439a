/* program.h: what the files of the executor share. decode.c turns words into these structures and checks everything;
 * program.c makes contexts and runs; plan.c predicts times and gives out threads; map.c runs elementwise programs; reduce.c reductions;
 * rows.c what goes by row numbers; fit.c many steps. */
#ifndef BP_PROGRAM_H
#define BP_PROGRAM_H

#include "kernels.h"

enum { BP_MAGIC = 0x62703031, BP_MAX_DIMS = 8 };
enum { BP_FULL, BP_ROW, BP_COL, BP_SCALAR }; /* kinds of load */

static const int64_t BP_NO_PADDING = INT64_MIN; /* no row number */

#if defined(__GNUC__)
#define BP_PREFETCH(p) __builtin_prefetch(p)
#else
#define BP_PREFETCH(p) ((void)(p))
#endif

/* A dim word: a fixed size, or (-d) times the number of rows. */
static inline int64_t bp_dim_at(int64_t d, int64_t rows) { return d >= 0 ? d : -d * rows; }

/* Rows of a block of ROW_BLOCKS: a k block of matmul.c, a block of reduce_cols. */
enum { BP_ROW_BLOCK = 256 };
static inline int64_t bp_row_blocks(int64_t rows) { return rows <= BP_ROW_BLOCK ? 1 : ceil_div(rows, BP_ROW_BLOCK); }

/* space -1: none; block: elements from a row block to the next, where ROW_BLOCKS governs the instruction */
typedef struct { int64_t space, offset, ld, block; } bp_operand;
typedef struct { int element_bytes, writable; int64_t elements; } bp_space; /* elements: a dim */
/* A table of ROW_UPDATE; offset: where its rows lie in space n_spaces, in elements */
typedef struct { bp_operand at; int64_t offset; int reads, writes; } bp_row_table;
typedef struct { int64_t elements; int integer, bytes; bp_operand at; } bp_call_operand; /* of a CALL; elements: a dim */

/* ------------------------------------------------------------------ elementwise programs
 * A slot is a value of the map: its loads come first, then the results of its operations. A register is a buffer of one
 * block (BP_BLOCK_BYTES) per thread; registers are given out here, by last use, so that few are live at a time. */
enum { BP_BLOCK_BYTES = 4096, BP_REG_BYTES = BP_BLOCK_BYTES + 256 }; /* not a multiple of 4096: a load right after a store
                                                                        at the same place of another page would wait */
typedef struct { bp_operand at; int kind, reg; } bp_load; /* reg -1: a scalar, or nobody reads it */
/* A chain (ops.def) among the operations of a map. decode.c knows it by its form, so that a program's words say what is computed
 * and nothing of how. */
typedef struct {
    int kind;
    int in[BP_CHAIN_VECTORS + BP_CHAIN_NUMBERS]; /* slots */
    int out[BP_CHAIN_RESULTS];                   /* of its operations: those that make results */
} bp_chain;
typedef struct {
    int op, a, b, c;          /* slots; 0 where unused */
    int dst, reg;             /* result slot; its register (-1: a scalar) */
    int store;                /* the direct store that takes the result as it is computed, or -1 */
    uint8_t variant[2];       /* operand variants: [0] blocks of whole rows, [1] pieces of one row, where a COL is one number */
    uint32_t node;            /* RANDOM */
    const bp_chain *chain;    /* it is the first of one; or NULL */
} bp_op;
typedef struct { bp_operand at; int slot, direct; } bp_store;
typedef struct {
    int n_loads, n_ops, n_stores, n_slots, n_regs;
    int n_scalar_ops;         /* ops[0 .. n_scalar_ops) have one number as result and are computed once a run */
    int epilogue;             /* load 0 is the block that the anchor has made */
    int prologue;             /* the last store is the block that the anchor reads next */
    int flat;                 /* no ROW, COL or RANDOM: a contiguous region may be walked as one long row */
    int block_last_use;       /* the last op that reads load 0 */
    int streams, written;     /* arrays of the caller's spaces that it reads or writes element by element; those it writes */
    int updates;              /* whether it reads and writes one of them */
    int used;                 /* by instructions: 0 none, 1 some, 2 one in row blocks */
    int n_chains;
    int unbroken;             /* one chain makes it all and stores what it makes, so that no register limits a piece of a row */
    double ns;                /* predicted time per element */
    bp_load *loads;
    bp_op *ops;
    bp_store *stores;
} bp_map;

/* ------------------------------------------------------------------ instructions, as in backprop.h; sizes are dims */
typedef struct {
    int op, governed;         /* governed: ROW_BLOCKS runs it */
    const bp_map *map, *before; /* or NULL: over the results; over what is reduced, which it makes */
    int64_t ids;              /* where its private row numbers start in the context's */
    union {
        struct { int64_t m, n, k; int trans_a, trans_b, bf16, c_store, number; bp_operand a, b, c; } matmul;
        struct { int64_t rows, cols; } map;
        struct { int kind; int64_t outer, r, inner; bp_operand src, dst; } reduce;
        struct { int64_t n, classes; int targets_kind, g_kind; bp_operand z, targets, g, loss, dz; } softmax;
        struct {              /* GATHER, SCATTER_ADD; FIRST has n, padding, ids, and rows for dst; ROW_UPDATE has no `table` */
            int64_t n, width, limit, per, padding;
            bp_operand table, ids, weights, rows; /* rows[n / per, width] */
            int64_t block_rows, gradient;         /* ROW_UPDATE */
            int mean, n_tables;
            bp_row_table *tables;
        } lookup;
        struct { int nd; int64_t dims[BP_MAX_DIMS]; bp_operand src, dst; int64_t ss[BP_MAX_DIMS], ds[BP_MAX_DIMS]; } copy;
        struct { int64_t count; bp_operand dst; double value; } fill;
        struct { int64_t rows, cols; bp_operand src, dst; } argmax;
        struct { bp_operand at; } check;
        struct { int64_t number; int inputs, outputs; bp_call_operand *operands; } call;
        struct { int64_t count; } row_blocks;
        struct { int64_t m, n; bp_operand src, dst; } sum_blocks;
    } u;
} bp_instr;

struct bp_program {
    int real_bytes, n_spaces, n_maps;
    int64_t capacity, arena_bytes, n_instrs;
    int64_t first_write;      /* the first instruction that writes to state: a space that the program also reads */
    int max_slots, max_scalars, max_stores, max_regs;
    int64_t max_reduce, max_ids; /* reals of a reduction that is not kept; labels or row numbers of one instruction */
    int prologues;            /* there are maps before reductions, */
    int64_t max_parts, max_block_parts; /* of so many parts, of long rows or of blocks of rows, in one; in a row block */
    int far;                  /* bp_is_far() */
    int n_products;           /* MATMUL instructions, which are numbered */
    int64_t n_calls;          /* one more than the largest number of a CALL */
    int max_call;             /* arrays of one CALL */
    int64_t max_row_ints, max_row_reals; /* scratch of rows.c */
    int row_blocks;           /* it has ROW_BLOCKS or ROW_UPDATE instructions; then, for each thread: */
    int64_t block_bytes, max_block_reduce; /* space n_spaces; reals of a block's reduction that is not kept */
    bp_space *spaces;
    bp_map *maps;
    bp_instr *instrs;
};

/* ------------------------------------------------------------------ contexts: one allocation, everything a run touches */
typedef struct { double ns; int threads; } bp_plan; /* predicted time of an instruction; threads it is given */

struct bp_context {
    const bp_program *p;
    const bp_kernels *k;      /* chosen when the context is made */
    int threads;
    bp_run_args args;         /* of the current run or step */
    uint64_t fp_saved;        /* the caller's floating-point control state */
    double unclocked_ns;      /* predicted work since the clock was last looked at */
    int64_t polled;           /* when poll was last called, in ns */
    int64_t plan_rows;        /* the plan below is for so many rows (-1: none) and threads */
    int plan_threads, plan_forced;
    double plan_ns;           /* sum of the plan */
    int together;             /* its work for several threads is worth waking them */
    char **bases;             /* [n_spaces + 1] */
    bp_plan *plan;            /* [n_instrs] */
    const bp_map *map;        /* the map that runs now: see bp_map_bind */
    char **slots, **stores;   /* its loads and scalars, its destinations */
    double *scalars;          /* results of its scalar operations */
    char **thread_slots;      /* [threads][max_slots] */
    char *regs;               /* [threads][max_regs][BP_REG_BYTES] */
    char *reduced;            /* [max_reduce] reals */
    char *pieces;             /* [threads][bp_piece_bytes()] of what prologues make */
    char *parts;              /* [max_parts] reals */
    int32_t *ids;             /* [max_ids] private, range-checked copies; a padding is -1 */
    int32_t *row_ints;        /* [max_row_ints] */
    char *row_reals;          /* [max_row_reals] reals */
    bp_call_array *call_arrays; /* [max_call] */
    int64_t *order;           /* [capacity] row numbers of a step of bp_fit */
    char *gemm;               /* scratch of matmul.c */
    bp_gemm_plan *gemm_plans; /* [n_products] */
    size_t block_gemm;        /* its bytes for one thread in a row block */
    struct bp_context *workers; /* [threads] contexts that row blocks and ROW_UPDATE run in; there, arena is space n_spaces, */
    int64_t block;            /* and this is the number of the block (0 elsewhere) */
    char **staging;           /* [n_spaces] buffers for fed inputs, or NULL */
    char *arena;
};

/* Pointer to the first element of an operand whose elements have so many bytes. */
static inline void *bp_at(const bp_context *x, const bp_operand *o, int64_t bytes)
{
    return x->bases[o->space] + (o->offset + x->block * o->block) * bytes;
}

static inline const char *at(const void *base, int64_t elements, int64_t bytes) { return (const char *)base + elements * bytes; }

void *bp_alloc(size_t bytes); /* 64-byte aligned, counted by bp_allocations(); the only allocation of programs and contexts */
void bp_dealloc(void *);

static inline int64_t bp_dim_now(const bp_context *x, int64_t dim) { return bp_dim_at(dim, x->args.rows); }

/* plan.c */
int bp_is_far(const bp_program *);                      /* whether what it keeps between runs is beyond the caches in each */
void bp_make_plan(bp_context *);                        /* for its rows and threads, where it is not there yet */
int bp_threads_now(double ns, int threads);             /* of so many that an instruction is given, those for now */
int bp_threads_between(const bp_context *x, double ns); /* threads for so much predicted work outside the plan */

/* map.c */
void bp_map_bind(bp_context *, const bp_map *); /* looks up its pointers and computes its scalars */
/* Runs the bound map over rows [r0, r1) and columns [c0, c1); `context` is a bp_context. A bp_epilogue_fn: `block` is the
 * result at (r0, c0) of the anchor behind which the map stands, or the place of what it makes there for the anchor before which it
 * stands, or NULL where the map has no anchor. */
void bp_map_region(void *context, int thread, int64_t r0, int64_t r1, int64_t c0, int64_t c1, void *block, int64_t ld);

/* program.c */
typedef struct { bp_context *x; const bp_instr *in; void *more; int64_t total, tasks; } bp_job;
typedef void (*bp_job_fn)(const bp_job *, int thread, int64_t low, int64_t high);
/* Calls fn over parts [low, high) of [0, total), `grain` or more at a time, on at most so many threads. */
void bp_share(bp_job *, bp_job_fn, int threads, int64_t grain);
/* The copy of ids[0 ...] of the rows that run. */
static inline const int32_t *bp_ids_now(const bp_context *x, const bp_instr *in, const bp_operand *ids)
{
    return x->ids + in->ids + x->block * ids->block;
}
void bp_start_worker(bp_context *, int thread); /* makes workers[thread] a context of this run */
int64_t bp_clock_ns(void);
void bp_context_begin(bp_context *, const bp_run_args *);  /* takes the arguments and bases, enters floating-point control */
bp_run_result bp_context_run(bp_context *);                /* instructions [args.first, args.last) with args.rows rows */
void bp_context_end(bp_context *);

/* reduce.c */
size_t bp_piece_bytes(int64_t real_bytes);
void bp_run_reduce(bp_context *, const bp_instr *, int threads);

/* rows.c */
int64_t bp_row_ints(int64_t n); /* scratch for n row numbers */
void bp_run_rows(bp_context *, const bp_instr *, int threads);

#endif
