/* backprop.h: the public header of the C core, and its manual.
 *
 * A program is an immutable list of instructions over buffers. It is handed over as a list of 64-bit words (format
 * below), checked once on entry, and then run: the run is a loop over instructions that takes no lock of Python's,
 * allocates nothing and knows nothing of gradients.
 *
 * Every number is `real`: float or double, one of the two for a whole program; class labels and row numbers are int32.
 *
 * Rows. Dimension 0 of many buffers is the number of rows of a run, which is an argument of the run and at most the
 * program's capacity. A *dim* word d >= 0 is a fixed size; d < 0 is (-d) times the number of rows.
 *
 * Spaces. A buffer is (space, offset in elements). Space 0 is the context's arena; the others are base pointers given
 * with each run (parameters, gradients, optimiser state, scalars, inputs, outputs).
 */
#ifndef BACKPROP_H
#define BACKPROP_H

#include <stddef.h>
#include <stdint.h>

/* ------------------------------------------------------------------ operations, from ops.def */
typedef enum {
#define BP_MAP(NAME, name, arity, algebra) BP_MAP_##NAME,
#include "ops.def"
    BP_MAP_COUNT
} bp_map_op;
typedef enum {
#define BP_REDUCE(NAME, name) BP_REDUCE_##NAME,
#include "ops.def"
    BP_REDUCE_COUNT
} bp_reduce_op;
typedef enum {
#define BP_INSTR(NAME, name) BP_INSTR_##NAME,
#include "ops.def"
    BP_INSTR_COUNT
} bp_instr_op;
typedef enum {
#define BP_CHAIN(NAME, name, vectors, numbers, results, ns, ...) BP_CHAIN_##NAME,
#include "ops.def"
    BP_CHAIN_COUNT
} bp_chain_kind;

typedef struct { const char *name; int arity; const char *algebra; } bp_op_row;
extern const bp_op_row bp_map_rows[BP_MAP_COUNT];          /* ops.c: names for Python and the tests */
extern const char *const bp_reduce_names[BP_REDUCE_COUNT];
extern const char *const bp_instr_names[BP_INSTR_COUNT];
enum { BP_CHAIN_STEPS = 10, BP_CHAIN_VECTORS = 5, BP_CHAIN_NUMBERS = 7, BP_CHAIN_RESULTS = 4 }; /* the most of a chain */
typedef struct { int op, operand[3], kept; } bp_chain_step; /* operand x: input x (numbers begin at VECTORS), or -1 - i: step i */
typedef struct {
    const char *name;
    int vectors, numbers, results;
    double ns;
    int steps;
    bp_chain_step step[BP_CHAIN_STEPS];
} bp_chain_row;
extern const bp_chain_row bp_chain_rows[BP_CHAIN_COUNT];   /* decode.c finds them in maps */

/* ------------------------------------------------------------------ processor (cpu.c) */
typedef struct bp_kernels bp_kernels;      /* one table of functions per instruction set and float type: kernels.h */
enum { BP_ISA_SCALAR, BP_ISA_AVX2, BP_ISA_AVX512, BP_ISA_NEON, BP_ISA_COUNT };
const char *bp_isa_name(int isa);
int bp_isa_compiled(int isa);              /* 1 if this build has it */
int bp_isa_supported(int isa);             /* 1 if it is compiled and this processor and its system can run it */
int bp_isa_select(const char *name, char *err, size_t err_size);  /* NULL or "": the best one; 0, or -1 and a message */
int bp_isa_current(void);
enum { BP_KIND_OTHER, BP_KIND_ZEN, BP_KIND_ZEN4, BP_KIND_COUNT }; /* of processors, which differ in what is fast */
int bp_kind_select(int kind);              /* for tests, while nothing runs; returns the old; out of range: only that */
const bp_kernels *bp_kernels_for(int isa, int real_bytes);        /* NULL where the set is not supported */
const bp_kernels *bp_kernels_current(int real_bytes);

/* ------------------------------------------------------------------ threads (pool.c) */
typedef void (*bp_task_fn)(void *arg, int64_t task, int thread);
int bp_threads_default(const char **why);  /* from BACKPROP_NUM_THREADS, OMP_NUM_THREADS, affinity, cgroup quota */
int bp_threads_get(void);                  /* what a run of the calling thread may use: the setting, or that thread's limit */
int bp_threads_set(int n);                 /* for all threads; returns the old setting; n >= 1 */
int bp_threads_limit(int n);               /* for the calling thread alone; returns the old limit; 0: none */
int bp_threads_awake(int threads);         /* of so many how many would come at once, the caller included */
int bp_threads_crowded(void);              /* whether other processes have lately had the processors that jobs were to run on */
void bp_threads_rouse(int threads);        /* work for so many is about to come: sleepers wake up, and wait for it */
/* Runs fn(arg, task, thread) for every task in [0, tasks), on at most `threads` threads (the caller is thread 0), and
 * returns when all are done. The pool knows no mathematics: which thread takes a task must not change a result.
 * A caller that finds the pool busy, or is itself inside a task, runs all tasks alone. Workers run with the caller's
 * floating-point control state. Safe after fork and from many threads at once. */
void bp_parallel(int threads, int64_t tasks, bp_task_fn fn, void *arg);

/* Floating-point control: bp_fp_enter returns the caller's state after setting round-to-nearest, exceptions masked, and
 * flush-to-zero + denormals-are-zero on or off; bp_fp_leave restores it. */
uint64_t bp_fp_enter(int flush);
void bp_fp_leave(uint64_t saved);
uint64_t bp_fp_state(void);                /* the state as it is */

/* ------------------------------------------------------------------ random numbers outside of programs (rng.c) */
/* One block of Philox4x32-10. bp_permutation: out[n] is a shuffle of 0 .. n-1, a function of (n, seed, epoch) alone;
 * bp_uniform: out[n] in [0, 1) with 53 bits, a function of (seed, stream); a longer one starts with the shorter. */
void bp_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);
void bp_permutation(int64_t n, uint64_t seed, uint64_t epoch, int64_t *out);
void bp_uniform(int64_t n, uint64_t seed, uint64_t stream, double *out);

/* ------------------------------------------------------------------ words and their vectors (text.c) */
typedef struct bp_words bp_words;          /* words by number and numbers by word; a word is at least one byte of any kind */
bp_words *bp_words_new(void);              /* NULL: out of memory */
void bp_words_free(bp_words *);
int64_t bp_words_count(const bp_words *);
const char *bp_words_get(const bp_words *, int64_t i, int64_t *n);            /* n bytes, not terminated */
int64_t bp_words_find(const bp_words *, const char *word, int64_t n);         /* its number, or -1 */
int64_t bp_words_add(bp_words *, const char *word, int64_t n);                /* its number, old or new; -1: out of memory */

/* A decimal number at p, [+-] digits [. digits] [e [+-] digits], which ends at a byte that belongs to none: the float64
 * nearest to it, rounded to float32 (as np.float32(float(text)) is; infinite where it is too large). Returns its end, or
 * NULL where there is no number. `exact` gives the nearest float64 of the few that
 * take more than one rounding; they have no sign. */
typedef double (*bp_exact_fn)(void *arg, const char *begin, const char *end);
const char *bp_decimal(const char *p, float *out, bp_exact_fn exact, void *arg);

/* Reads word vectors out of a file's bytes, given chunk by chunk.
 * Text: a line each, the word and `dim` numbers, separated by blanks. Binary: the word, a blank, `dim` little-endian floats. */
typedef struct bp_vectors bp_vectors;
typedef struct {
    int binary, utf8;        /* utf8: words must be valid UTF-8 */
    int64_t dim;             /* 0: the first line tells (text) */
    int64_t announced;       /* vectors that a header speaks of; -1: there is none (text) */
    int64_t line;            /* lines before the first chunk */
    const bp_words *wanted;  /* only these words; NULL: all. Of other lines of text only the number of fields is looked at */
    bp_exact_fn exact;
    void *arg;
} bp_vectors_args;
typedef struct { int64_t words, dim, seen, duplicates; } bp_vectors_counts;   /* seen: in the file; the first of equals stays */
bp_vectors *bp_vectors_new(const bp_vectors_args *);                          /* NULL: out of memory */
void bp_vectors_free(bp_vectors *);
/* Takes whole lines, or whole records: how many bytes were taken (the rest comes again, with more), or -1 and a message. */
int64_t bp_vectors_feed(bp_vectors *, const char *data, int64_t n, char *err, size_t err_size);
bp_vectors_counts bp_vectors_count(const bp_vectors *);
void bp_vectors_take(bp_vectors *, bp_words **words, float **matrix);         /* the caller frees both, the matrix with free() */

/* ------------------------------------------------------------------ programs (program.c) */
typedef struct bp_program bp_program;      /* immutable, shared between threads */
typedef struct bp_context bp_context;      /* arena and scratch of one run at a time */
int64_t bp_allocations(void);              /* blocks of memory asked for so far by programs and contexts: a run adds none */

typedef enum {
    BP_OK = 0,
    BP_NOT_FINITE = 1,      /* a CHECK instruction found NaN or infinity; nothing after it has run */
    BP_INTERRUPTED = 2,     /* poll() said stop before the first instruction that writes to parameters */
    BP_OUT_OF_RANGE = 3,    /* a label or a row number is not in range; nothing after it has run */
    BP_CALL_FAILED = 4      /* call() said that its operation failed; nothing after it has run */
} bp_status;

typedef struct { void *data; int64_t bytes; } bp_call_array; /* contiguous */
typedef struct {
    int64_t rows;            /* rows of this run, 0 <= rows <= capacity */
    void *const *bases;      /* [n_spaces]; bases[0] is ignored (the arena) */
    int64_t first, last;     /* run instructions [first, last) */
    uint64_t seed, step;     /* of the random numbers */
    int64_t row0;            /* row of the effective batch at which this micro-batch starts */
    int flush;               /* 1: denormals are flushed to zero while this runs */
    int threads;             /* at most so many threads */
    int (*poll)(void *);     /* called between instructions when 50 ms have passed; non-zero: stop; may be NULL */
    void *poll_arg;
    /* Runs operation `number` of a CALL: reads arrays [0, inputs), writes all of arrays [inputs, inputs + outputs). On the
     * thread that runs the program, with its floating-point control state; non-zero: it failed. NULL: every CALL fails. */
    int (*call)(void *, int64_t number, int inputs, int outputs, const bp_call_array *arrays, int64_t rows);
    void *call_arg;
} bp_run_args;

typedef struct {
    bp_status status;
    int64_t instruction;     /* where it stopped */
    int64_t value, limit;    /* BP_OUT_OF_RANGE: the offending number, and the exclusive upper limit */
} bp_run_result;

bp_program *bp_program_new(const int64_t *words, int64_t n_words, char *err, size_t err_size);
void bp_program_free(bp_program *);
int64_t bp_program_instructions(const bp_program *);
size_t bp_program_context_bytes(const bp_program *, int threads);
bp_context *bp_context_new(const bp_program *, int threads);   /* one allocation, 64-byte aligned; NULL: out of memory */
void bp_context_free(bp_context *);
void *bp_context_arena(bp_context *, size_t *bytes);           /* for tests and for reading kept activations */
int bp_share_always(int on);               /* for tests: share every instruction, whatever it is worth; returns the old */
bp_run_result bp_run(const bp_program *, bp_context *, const bp_run_args *);

/* Many steps in one call: step s runs rows order[start + s*batch ...] of the data. */
typedef struct {
    int space;               /* the input space that is fed */
    const void *data;        /* rows of `row_bytes` bytes, `stride` bytes apart */
    int64_t row_bytes, stride;
} bp_feed;
typedef struct {
    const bp_feed *feeds; int n_feeds;
    const int64_t *order;    /* [n] row numbers, or NULL for 0, 1, 2 ... (then nothing is copied) */
    int64_t n, batch;        /* rows of the epoch; rows a step (the last step of the epoch may have fewer) */
    int64_t rows;            /* rows in the data, n where there is no order: an order may leave some out */
    int64_t first_step, n_steps;   /* steps of this epoch to run: step s takes rows [s*batch, min(n, (s+1)*batch)) */
    int scalar_space;        /* base advances by scalar_stride elements a step (learning rates, bias corrections); -1: none */
    int64_t scalar_stride;
    int loss_space;          /* base advances by one element a step: where the step's loss is written; -1: none */
    double seconds;          /* stop after the first whole step that ends later than this (0: no limit) */
} bp_fit_args;
/* Runs steps; result.instruction is where the last one stopped, *done the number of whole steps. */
bp_run_result bp_fit(const bp_program *, bp_context *, const bp_run_args *, const bp_fit_args *, int64_t *done);

/* ------------------------------------------------------------------ the words of a program
 * header:   magic 0x62703031, real_bytes (4|8), capacity, arena_elements_bytes (bytes of space 0), n_spaces,
 *           then for each space: element_bytes (4|8; 0 for the arena), elements (a dim; -capacity-scaled where dim < 0),
 *           writable (0|1)
 *           n_maps, then each map; n_instructions, then for each the number of words that follow, its operation, its fields
 * operand:  space, offset (elements), ld (elements between rows; at least the columns where there are several rows). A
 *           vector [n], ROW or SCALAR is contiguous and its ld means nothing; element i of a COL lies at i*ld.
 *           In space 0 elements are as wide as what is stored there: reals, or int32.
 * map:      n_loads, each: operand, kind (0 FULL [r,c], 1 ROW [c], 2 COL [r], 3 SCALAR)
 *           n_ops, each: op, a, b, c, imm      (op i's result is slot n_loads + i; a, b, c are slots, -1 where unused;
 *                                               imm: RANDOM's node number)
 *           n_stores, each: slot, operand, direct (1: the result may be written there as it is computed)
 *           kind FULL for every store. An epilogue's load 0 is the block that the anchor has just computed; its operand
 *           is then space -1. So is that of a prologue's last store, the block that the anchor reads next. Loads and stores of one
 *           map are over the same region [rows, cols] of a matrix.
 * MATMUL:   m, n, k (dims), trans_a, trans_b, products (0; 1: of operands rounded to bfloat16, of float32), A operand,
 *           B operand, C operand (space -1: raw result is not kept), map (-1: none)
 *           C[m,n] = op(A)[m,k] op(B)[k,n]; A is stored [m,k] (or [k,m] where trans_a), B [k,n] (or [n,k] where trans_b)
 * MAP:      rows, cols (dims), map
 * REDUCE:   kind, outer, r, inner (dims), src operand, map before (-1: none), dst operand (space -1: not kept), map (-1: none)
 *           dst[outer, inner] = over r of src[outer, r, inner], both contiguous; the map runs over [outer, inner]
 *           (over [1, outer] where the word of inner is 1). Over nothing: 0, or -inf for max, inf for min. The map before is over
 *           [outer, r] (the word of inner is 1) or [r, inner] (that of outer) and makes src, a piece before each that is reduced: it
 *           stores to it, or is a prologue, and src has space -1. That it stores there, and in place, is the caller's to see to
 * SOFTMAX_CE: n (dim), classes, targets_kind (0 int32 labels [n], 1 rows of probabilities [n,classes], contiguous), z operand,
 *           targets operand, g operand (space -1: 1) with its kind (2 COL [n] or 3 SCALAR), loss operand [n] (space -1: none),
 *           dz operand (space -1: none)
 *           loss_i = log sum_j exp z_ij - z_i,y   (or  sum_j t_ij (logsumexp - z_ij));  dz_ij = g_i (softmax(z)_ij sum_j t_ij - t_ij)
 * GATHER:   n (dim), width, limit (dim), per, mean (0|1), padding, table operand, ids operand (int32 [n]), weights operand ([n];
 *           space -1: 1), dst operand ([n/per, width])
 *           dst[i,:] = over j < per of weights[i,j] table[ids[i,j],:], a chain of fma from 0 in the order of j; with mean divided
 *           by how many ids of row i count (0 where none does). An id that is `padding` (a row number or -1; -2: none) counts
 *           nowhere. per divides n. per 1 without padding and weights copies rows
 * SCATTER_ADD: n (dim), width, limit (dim), per, mean, padding, src operand ([n/per, width]), ids operand, weights operand,
 *           dst operand ([limit, width]):  dst = 0; dst[ids[i,j],:] += c[i,j] src[i,:], one fma each, i and j ascending;
 *           c[i,j] is weights[i,j], with mean divided by how many ids of row i count. The gradient of GATHER
 * FIRST:    n (dim), padding, ids operand (any int32), dst operand (int32 [n]):  dst[i] = the smallest j with ids[j] == ids[i];
 *           -1 where ids[i] is `padding` (-2: none)
 * ROW_UPDATE: n (dim), width, limit (dim), per, mean, padding, src operand, ids operand, weights operand (as SCATTER_ADD),
 *           block_rows (at least 1), bytes, gradient (elements), n_tables, for each: table operand ([limit, width]), offset
 *           (elements), reads (0|1), writes (0|1); map
 *           An optimiser's step for those rows of the tables that are among the ids; the others are neither read nor written,
 *           and neither time nor memory grow with `limit`. Space n_spaces is `bytes` bytes of each thread's own here. For the
 *           different ids, in the order in which they first occur, in blocks of r <= block_rows: at `gradient` lie their rows of
 *           what SCATTER_ADD gives, [r, width], bit for bit; at a table's offset, where it is read, its rows [r, width]; the map
 *           runs over [r, width]; tables that are written get their rows back from there. The map's FULL operands lie in space
 *           n_spaces, its others elsewhere, none is COL or RANDOM, and its rows are block_rows when bounds are checked.
 *           No two tables may overlap where one is written, nor src or weights with one that is
 * COPY:     ndim, dims[ndim], src (space, offset, strides[ndim]), dst (space, offset, strides[ndim]); strides in elements,
 *           of either sign; a src stride of 0 broadcasts; dst's dimensions nest: no element is written twice
 * COPY_INT: the fields of COPY; the elements are int32
 * FILL:     count (dim), dst operand, value as the bits of a double
 * ARGMAX:   rows, cols (dims), src operand, dst operand (int32 [rows]); first of equals; NaN counts as largest
 * CHECK:    operand of one real: BP_NOT_FINITE unless it is finite
 * CALL:     number (0 ...), n_inputs, n_outputs, each: elements (dim), int32 (0|1), operand (contiguous)
 *           The operation `number` of the run's call(); the program knows no more of it. Never in row blocks
 * ROW_BLOCKS: count (at least 1), bytes. The next `count` instructions run block by block: all of them over rows 0 ... 255 of
 *           the run, then over 256 ... 511, and so on, in no fixed order of blocks. Each must be one of
 *           - row by row: row i of the results is made of row i of what other such instructions make and of what was there
 *             before. MATMUL with m by rows and A not transposed; MAP with rows by rows, or 1 and cols by rows (RANDOM: rows -1);
 *             REDUCE with outer by rows; SOFTMAX_CE, GATHER, FILL by rows; COPY with one dimension by rows;
 *           - a sum over the rows: MATMUL with k = -1, trans_a = 1, trans_b = 0, or REDUCE sum with outer 1, r = -1 and a fixed
 *             inner that is not 1; no map behind. Block q's part goes to its C (dst) + q m n (q inner), for SUM_BLOCKS.
 *           No MATMUL of bfloat16 is among them. They may use space n_spaces: `bytes` bytes of each thread's own, which hold the rows of one block. Row numbers
 *           and labels are copied, and checked, before the first block.
 * SUM_BLOCKS: m, n (fixed), src operand ([blocks, m, n], contiguous), dst operand (space -1: not kept), map over [m, n] (-1: none)
 *           dst[m, n] = src[0] + src[1] + ..., in order: what a MATMUL or REDUCE over all rows gives, bit for bit
 */

#endif
