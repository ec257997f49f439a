/* decode.c: from the words of a program (backprop.h) to the structures that run (program.h).
 *
 * Everything is checked here, once: afterwards no run can leave the memory of its spaces, whatever the words were. What an
 * instruction touches and what a space has grow with the number of rows, both evenly: they are compared at full capacity, at one row and
 * at none, and so for every number of them. The file is long because
 * no other may touch a word: what it takes to believe the executor's memory accesses stands here and nowhere else. */
#include "program.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SMALL = 1 << 20 };                /* maps, loads, operations ... of one program */
static const int64_t MAX_DIM = (int64_t)1 << 40, MAX_PRODUCT = (int64_t)1 << 46, MAX_ARENA = (int64_t)1 << 46;

typedef struct {
    bp_program *p;
    const int64_t *next, *end;               /* words of the section that is read */
    char *free, *free_end;                   /* the rest of the program's one block */
    struct use { int read; int64_t written; } *uses; /* by space: does any instruction read it; the first that writes to it */
    int64_t instr;                           /* the number of the instruction, or -1 */
    int64_t governed, block_bytes, ids;      /* instructions left of a ROW_BLOCKS; its bytes; row numbers of them so far */
    int own;                                 /* a map of ROW_UPDATE is read, which has a space of the thread's own too */
    char where[64];                          /* what is read, for messages */
    int failed;                              /* the first failure is kept, and everything after it reads as 0 */
    char *err;
    size_t err_size;
} reader;

static void fail(reader *d, const char *format, ...)
{
    if (d->failed)
        return;
    d->failed = 1;
    const int n = snprintf(d->err, d->err_size, "%s: ", d->where);
    if (n < 0 || (size_t)n >= d->err_size)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(d->err + n, d->err_size - (size_t)n, format, args);
    va_end(args);
}

static int64_t word(reader *d, const char *field, int64_t low, int64_t high)
{
    if (d->failed)
        return 0;
    if (d->next == d->end) {
        fail(d, "%s: the words end here", field);
        return 0;
    }
    const int64_t w = *d->next++;
    if (w < low || w > high) {
        fail(d, "%s: %lld is not in %lld ... %lld", field, (long long)w, (long long)low, (long long)high);
        return 0;
    }
    return w;
}

static int small(reader *d, const char *field, int64_t low, int64_t high) { return (int)word(d, field, low, high); }

static int64_t dim(reader *d, const char *field)
{
    const int64_t w = word(d, field, -MAX_DIM, MAX_DIM);
    int64_t size;
    if (w < 0 && (__builtin_mul_overflow(-w, d->p->capacity, &size) || size > MAX_DIM)) {
        fail(d, "%s: %lld times %lld rows is too large", field, (long long)-w, (long long)d->p->capacity);
        return 0;
    }
    return w;
}

static int64_t most(const reader *d, int64_t dim_word) { return bp_dim_at(dim_word, d->p->capacity); }

/* The next number of rows at which extents are checked, after the last one: capacity, 1, 0, and then -1. */
static int64_t fewer(int64_t rows) { return rows > 1 ? 1 : rows - 1; }

static int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

/* A product of sizes, which must be a possible number of elements. */
static int64_t product(reader *d, const char *field, int64_t a, int64_t b)
{
    int64_t c;
    if (!__builtin_mul_overflow(a, b, &c) && c <= MAX_PRODUCT)
        return c;
    fail(d, "%s: %lld times %lld is too large", field, (long long)a, (long long)b);
    return 0;
}

static void *take(reader *d, int64_t count, size_t bytes)
{
    const size_t total = ((size_t)count * bytes + 15) / 16 * 16;
    if (d->failed || total > (size_t)(d->free_end - d->free)) {
        fail(d, "more entries than there are words");
        return NULL;
    }
    void *block = d->free;
    d->free += total;
    return block;
}

/* The last space that an instruction may name: row blocks have one of each thread's own. Maps come before the instructions
 * that use them, and may. */
static int64_t last_space(const reader *d) { return d->p->n_spaces - (d->governed == 0 && d->instr >= 0); }
static int is_private(const reader *d, const bp_operand *o) { return o->space == d->p->n_spaces; }

/* The size of an operand's dim in a run of so many rows; the private space holds those of one block. */
static int64_t size_of(const reader *d, const bp_operand *o, int64_t dim_word, int64_t rows)
{
    return bp_dim_at(dim_word, is_private(d, o) && rows > BP_ROW_BLOCK ? BP_ROW_BLOCK : rows);
}

/* An operand of a row block moves on by so many elements a row. */
static void set_block(reader *d, const char *field, bp_operand *o, int64_t dim_word, int64_t elements)
{
    o->block = 0;
    if (d->governed == 0 || dim_word >= 0 || is_private(d, o))
        return;
    if (__builtin_mul_overflow(-dim_word * BP_ROW_BLOCK, elements, &o->block) || magnitude(o->block) > MAX_PRODUCT)
        fail(d, "%s: %lld elements a row are too many", field, (long long)elements);
}

static bp_operand operand(reader *d, const char *field)
{
    bp_operand o = {0};
    o.space = word(d, field, -1, last_space(d));
    o.offset = word(d, field, 0, MAX_PRODUCT);
    o.ld = word(d, field, 0, MAX_PRODUCT);
    return o;
}

enum { READ, WRITE, TEST }; /* TEST reads, but for CHECK alone: that does not make a space state */

/* Elements [low, high) of the operand's space are used, counted from its start. */
static void check_extent(reader *d, const char *field, const bp_operand *o, int64_t low, int64_t high, int bytes, int use, int64_t rows)
{
    if (d->failed)
        return;
    if (o->space < 0) {
        fail(d, "%s: has no space", field);
        return;
    }
    if (is_private(d, o)) {
        if (d->governed == 0 && !d->own)
            fail(d, "%s: space %lld is for row blocks", field, (long long)o->space);
        if (low < 0 || high > d->block_bytes / bytes)
            fail(d, "%s: elements %lld ... %lld of the rows of a block, which has %lld", field, (long long)low, (long long)high,
                 (long long)(d->block_bytes / bytes));
        return;
    }
    const bp_space *s = &d->p->spaces[o->space];
    int64_t elements = bp_dim_at(s->elements, rows);
    if (o->space == 0)
        elements = d->p->arena_bytes / bytes;
    else if (s->element_bytes != bytes)
        fail(d, "%s: space %lld has elements of %d bytes, not %d", field, (long long)o->space, s->element_bytes, bytes);
    if (use == WRITE && !s->writable)
        fail(d, "%s: space %lld is not writable", field, (long long)o->space);
    if (low < high && (low < 0 || high > elements)) {
        if (rows == d->p->capacity)
            fail(d, "%s: elements %lld ... %lld of space %lld, which has %lld", field, (long long)low, (long long)high,
                 (long long)o->space, (long long)elements);
        else
            fail(d, "%s: elements %lld ... %lld of space %lld, which has %lld in a run of %lld rows", field, (long long)low,
                 (long long)high, (long long)o->space, (long long)elements, (long long)rows);
    }
    struct use *u = &d->uses[o->space];
    u->read |= use == READ;
    if (use == WRITE && d->instr < u->written)
        u->written = d->instr;
}

/* A matrix [rows, cols], both dims. */
static void check_matrix(reader *d, const char *field, bp_operand *o, int64_t rows, int64_t cols, int bytes, int use)
{
    set_block(d, field, o, rows < 0 ? rows : cols, rows < 0 ? o->ld : 1);
    for (int64_t run = d->p->capacity; run >= 0; run = fewer(run)) {
        int64_t end;
        const int64_t n = size_of(d, o, rows, run), width = size_of(d, o, cols, run);
        if (n > 1 && o->ld < width)
            fail(d, "%s: ld %lld is less than %lld columns", field, (long long)o->ld, (long long)width);
        if (n == 0 || width == 0)
            end = o->offset;
        else if (__builtin_mul_overflow(n - 1, o->ld, &end) || __builtin_add_overflow(end, o->offset + width, &end))
            end = INT64_MAX;
        check_extent(d, field, o, o->offset, end, bytes, use, run);
    }
}

/* A contiguous vector of n (a dim) elements; ld means nothing. */
static void check_vector(reader *d, const char *field, bp_operand *o, int64_t n, int bytes, int use)
{
    set_block(d, field, o, n, 1);
    for (int64_t run = d->p->capacity; run >= 0; run = fewer(run))
        check_extent(d, field, o, o->offset, o->offset + size_of(d, o, n, run), bytes, use, run);
}

/* ------------------------------------------------------------------ elementwise programs */

/* Nanoseconds for one float on one core, roughly; a FULL operand costs about as much as an addition. */
static double op_ns(int op)
{
    switch (op) {
    case BP_MAP_RANDOM: case BP_MAP_EXP: case BP_MAP_EXPM1: case BP_MAP_LOG: case BP_MAP_LOG1P: case BP_MAP_TANH:
    case BP_MAP_LOGISTIC: case BP_MAP_ERF: return 1.0;
    case BP_MAP_POW: return 3.0;
    case BP_MAP_DIV: case BP_MAP_SQRT: return 0.3;
    default: return 0.1;
    }
}

/* Puts the operations whose result is one number first. What is stored must be the result of a vector operation: a stored
 * load or number gets a COPY, after all others, so that no store changes a load which another store still wants. */
static void find_scalars(bp_map *m, char *is_scalar, bp_op *sorted)
{
    for (int i = 0; i < m->n_loads; i++)
        is_scalar[i] = m->loads[i].kind == BP_SCALAR;
    for (int i = 0; i < m->n_ops; i++) {
        const bp_op *op = &m->ops[i];
        const int arity = bp_map_rows[op->op].arity;
        is_scalar[op->dst] = arity > 0 && is_scalar[op->a] && (arity < 2 || is_scalar[op->b]) && (arity < 3 || is_scalar[op->c]);
        m->n_scalar_ops += is_scalar[op->dst];
    }
    bp_op *front = sorted, *back = sorted + m->n_scalar_ops;
    for (int i = 0; i < m->n_ops; i++)
        *(is_scalar[m->ops[i].dst] ? front++ : back++) = m->ops[i];
    m->ops = sorted;
    m->n_slots = m->n_loads + m->n_ops;
    for (int i = 0; i < m->n_stores; i++) {
        const int slot = m->stores[i].slot;
        if (slot < m->n_loads || is_scalar[slot]) {
            m->stores[i].slot = m->n_slots;
            sorted[m->n_ops++] = (bp_op){.op = BP_MAP_COPY, .a = slot, .dst = m->n_slots++, .reg = -1, .store = -1};
        }
    }
}

typedef struct { int *taken, n; } registers; /* taken[r]: 1 if register r is in use; n registers were ever */

static int get_register(registers *r)
{
    int i = 0;
    while (i < r->n && r->taken[i])
        i++;
    r->n += i == r->n;
    r->taken[i] = 1;
    return i;
}

/* Variants, direct stores and registers. last[slot]: the last operation that reads it (-1: none; INT_MAX: it is stored, or
 * must stay for all blocks); reg_of[slot]. */
static void assign_registers(bp_map *m, const char *is_scalar, int *last, int *reg_of, int *taken)
{
    registers regs = {taken, 0};
    for (int s = 0; s < m->n_slots; s++)
        last[s] = reg_of[s] = -1;
    for (int i = 0; i < m->n_ops; i++) {
        bp_op *op = &m->ops[i];
        const int slot[3] = {op->a, op->b, op->c};
        for (int j = 0; j < bp_map_rows[op->op].arity; j++) {
            const int load = slot[j] < m->n_loads ? m->loads[slot[j]].kind : BP_FULL;
            last[slot[j]] = i;
            op->variant[0] |= (uint8_t)(is_scalar[slot[j]] << j);
            op->variant[1] |= (uint8_t)((is_scalar[slot[j]] || load == BP_COL) << j);
        }
        m->ns += i < m->n_scalar_ops ? 0 : op_ns(op->op);
    }
    m->block_last_use = m->epilogue ? last[0] : -1;
    for (int i = 0; i < m->n_stores; i++) {
        int times = 0;
        for (int j = 0; j < m->n_stores; j++)
            times += m->stores[j].slot == m->stores[i].slot;
        for (int j = 0; j < m->n_ops; j++)
            if (m->ops[j].dst == m->stores[i].slot && m->stores[i].direct && times == 1)
                m->ops[j].store = i;
        last[m->stores[i].slot] = INT_MAX;
    }
    m->flat = 1;
    for (int i = 0; i < m->n_loads; i++) {
        bp_load *load = &m->loads[i];
        load->reg = -1;
        m->flat &= load->kind == BP_FULL || load->kind == BP_SCALAR;
        if (load->kind == BP_SCALAR || last[i] < 0)
            continue;
        m->ns += 0.1;
        load->reg = reg_of[i] = get_register(&regs);
        if (load->kind == BP_ROW)
            last[i] = INT_MAX;
    }
    for (int i = m->n_scalar_ops; i < m->n_ops; i++) {
        bp_op *op = &m->ops[i];
        const int slot[3] = {op->a, op->b, op->c};
        for (int j = 0; j < bp_map_rows[op->op].arity; j++)
            if (last[slot[j]] == i && reg_of[slot[j]] >= 0)
                taken[reg_of[slot[j]]] = 0; /* the result may take its place: kernels allow dst == operand */
        op->reg = reg_of[op->dst] = get_register(&regs);
        if (last[op->dst] < 0)
            taken[op->reg] = 0;
        m->flat &= op->op != BP_MAP_RANDOM;
    }
    m->n_regs = regs.n;
    m->ns += 0.1 * m->n_stores;
}

/* Whether the operations of a map from `first` on are a chain of this form. What it makes on the way must be seen by nothing
 * else: last[slot] is the last operation that reads it. Inputs that are vectors must be so in blocks of every kind (no COL). */
static int is_chain(const bp_map *m, int first, const char *is_scalar, const int *last, const bp_chain_row *form, bp_chain *chain)
{
    int known[BP_CHAIN_VECTORS + BP_CHAIN_NUMBERS] = {0}, results = 0;
    if (first + form->steps > m->n_ops)
        return 0;
    for (int i = 0; i < form->steps; i++) {
        const bp_op *op = &m->ops[first + i];
        const int slot[3] = {op->a, op->b, op->c};
        if (op->op != form->step[i].op)
            return 0;
        for (int j = 0; j < bp_map_rows[op->op].arity; j++) {
            const int x = form->step[i].operand[j], s = slot[j];
            const int column = s < m->n_loads && m->loads[s].kind == BP_COL;
            if (x < 0) {
                if (s != m->ops[first - 1 - x].dst)
                    return 0;
                continue;
            }
            if (known[x] ? chain->in[x] != s : column || is_scalar[s] != (x >= BP_CHAIN_VECTORS))
                return 0;
            known[x] = 1;
            chain->in[x] = s;
        }
        if (form->step[i].kept)
            chain->out[results++] = i;
        else if (last[op->dst] >= first + form->steps)
            return 0;
    }
    for (int x = 0; x < form->vectors; x++) /* no input is made within it */
        for (int i = 0; i < form->steps; i++)
            if (chain->in[x] == m->ops[first + i].dst)
                return 0;
    return 1;
}

static void find_chains(reader *d, bp_map *m, const char *is_scalar, const int *last)
{
    for (int first = m->n_scalar_ops; first < m->n_ops; first++)
        for (int kind = 0; kind < BP_CHAIN_COUNT; kind++) {
            const bp_chain_row *form = &bp_chain_rows[kind];
            bp_chain chain = {.kind = kind};
            if (!is_chain(m, first, is_scalar, last, form, &chain))
                continue;
            bp_chain *kept = take(d, 1, sizeof *kept);
            if (d->failed)
                return;
            *kept = chain;
            m->ops[first].chain = kept;
            for (int i = 0; i < form->steps; i++)
                m->ns -= op_ns(m->ops[first + i].op);
            m->ns += form->ns;
            m->n_chains++;
            m->unbroken = form->steps == m->n_ops - m->n_scalar_ops;
            for (int i = 0; i < form->results; i++)
                m->unbroken &= m->ops[first + kept->out[i]].store >= 0;
            first += form->steps - 1;
            break;
        }
}

/* What a map reads and writes element by element in the caller's spaces. */
static void count_streams(const reader *d, bp_map *m)
{
    for (int i = 0; i < m->n_loads; i++) {
        const bp_operand *o = &m->loads[i].at;
        m->streams += m->loads[i].kind == BP_FULL && o->space > 0 && !is_private(d, o);
    }
    for (int i = 0; i < m->n_stores; i++) {
        const bp_operand *to = &m->stores[i].at;
        if (to->space <= 0 || is_private(d, to)) continue;
        m->streams++;
        m->written++;
        for (int j = 0; j < m->n_loads; j++) {
            const bp_operand *from = &m->loads[j].at;
            m->updates |= m->loads[j].kind == BP_FULL && from->space == to->space && from->offset == to->offset;
        }
    }
}

static void read_map(reader *d, bp_map *m)
{
    m->n_loads = small(d, "number of loads", 0, MAX_SMALL);
    m->loads = take(d, m->n_loads, sizeof *m->loads);
    for (int i = 0; i < m->n_loads && !d->failed; i++) {
        m->loads[i].at = operand(d, "load");
        m->loads[i].kind = small(d, "kind of load", BP_FULL, BP_SCALAR);
        if (m->loads[i].at.space < 0) {
            if (i > 0 || m->loads[i].kind != BP_FULL)
                fail(d, "load %d: only load 0 may be the anchor's block, and its kind is FULL", i);
            m->epilogue = 1;
        }
    }
    m->n_ops = small(d, "number of operations", 0, MAX_SMALL);
    m->ops = take(d, m->n_ops, sizeof *m->ops);
    for (int i = 0; i < m->n_ops && !d->failed; i++) {
        bp_op *op = &m->ops[i];
        op->op = small(d, "operation", 0, BP_MAP_COUNT - 1);
        int *const slot[3] = {&op->a, &op->b, &op->c};
        for (int j = 0; j < 3; j++) {
            const int used = j < bp_map_rows[op->op].arity;
            const int s = small(d, "operand slot", used ? 0 : -1, used ? m->n_loads + i - 1 : INT_MAX);
            *slot[j] = used ? s : 0;
        }
        const int64_t imm = word(d, "imm", INT64_MIN, INT64_MAX);
        if (op->op == BP_MAP_RANDOM && (imm < 0 || imm > UINT32_MAX))
            fail(d, "imm: %lld is not the number of a node, 0 ... 2^32 - 1", (long long)imm);
        op->node = (uint32_t)imm;
        op->dst = m->n_loads + i;
        op->store = op->reg = -1;
    }
    m->n_stores = small(d, "number of stores", 1, MAX_SMALL);
    m->stores = take(d, m->n_stores, sizeof *m->stores);
    for (int i = 0; i < m->n_stores && !d->failed; i++) {
        m->stores[i].slot = small(d, "slot of store", 0, m->n_loads + m->n_ops - 1);
        m->stores[i].at = operand(d, "store");
        m->stores[i].direct = small(d, "direct", 0, 1);
        if (!d->failed && m->stores[i].at.space < 0) {
            if (i < m->n_stores - 1)
                fail(d, "store %d: only the last store may be the block that an anchor reads", i);
            m->prologue = 1;
        }
    }
    m->n_slots = m->n_loads + m->n_ops + m->n_stores;
    char *is_scalar = take(d, m->n_slots, 1);
    int *scratch = take(d, 3 * (int64_t)m->n_slots, sizeof *scratch);
    bp_op *sorted = take(d, m->n_ops + m->n_stores, sizeof *sorted);
    if (d->failed)
        return;
    count_streams(d, m);
    find_scalars(m, is_scalar, sorted);
    assign_registers(m, is_scalar, scratch, scratch + m->n_slots, scratch + 2 * m->n_slots);
    find_chains(d, m, is_scalar, scratch);
}

enum { ALONE, BEHIND, BEFORE, AHEAD }; /* how a map stands to an anchor; AHEAD: it makes what that reads in memory */

/* An elementwise program over the region [rows, cols]. */
static void check_map(reader *d, const bp_map *m, int64_t rows, int64_t cols, int stands)
{
    if (d->failed)
        return;
    if (m->epilogue != (stands == BEHIND)) {
        fail(d, stands == BEHIND ? "map: load 0 of an epilogue must be the anchor's block" : "map: load 0 is an anchor's block");
        return;
    }
    if (m->prologue != (stands == BEFORE)) {
        fail(d, stands == BEFORE ? "map: the last store of a prologue must be the block that the anchor reads"
                                 : "map: the last store is the block of an anchor before which it does not stand");
        return;
    }
    const int bytes = d->p->real_bytes;
    product(d, "rows times columns", most(d, rows), most(d, cols));
    for (int i = m->epilogue; i < m->n_loads; i++) {
        char field[32];
        snprintf(field, sizeof field, "load %d of its map", i);
        bp_operand *at = &m->loads[i].at;
        switch (m->loads[i].kind) {
        case BP_FULL: check_matrix(d, field, at, rows, cols, bytes, READ); break;
        case BP_ROW: check_vector(d, field, at, cols, bytes, READ); break;
        case BP_COL: check_matrix(d, field, at, rows, 1, bytes, READ); break;
        default: check_vector(d, field, at, 1, bytes, READ);
        }
    }
    for (int i = 0; i < m->n_stores - m->prologue; i++) {
        char field[32];
        snprintf(field, sizeof field, "store %d of its map", i);
        check_matrix(d, field, &m->stores[i].at, rows, cols, bytes, WRITE);
    }
}

/* The number of a map that is used over [rows, cols], or -1. */
static const bp_map *map_of(reader *d, int64_t rows, int64_t cols, int stands)
{
    const int64_t i = word(d, stands == BEFORE || stands == AHEAD ? "map before" : "map", stands == ALONE ? 0 : -1, d->p->n_maps - 1);
    if (d->failed || i < 0)
        return NULL;
    bp_map *m = &d->p->maps[i];
    if ((m->used && d->governed) || m->used == 2)
        fail(d, "map: %lld is another instruction's too", (long long)i); /* its operands would move on for both */
    m->used = d->governed ? 2 : 1;
    for (int j = 0; d->governed && rows != -1 && j < m->n_ops; j++)
        if (m->ops[j].op == BP_MAP_RANDOM)
            fail(d, "map: random numbers of a row block go by its rows");
    check_map(d, m, rows, cols, stands);
    return m;
}

/* ------------------------------------------------------------------ instructions */

/* The product's raw result may be made where the epilogue's result will stand, if that is in the arena, is written as it
 * is computed, after the last use of the raw result, and nothing else in the map reads there. The store, or -1. */
static int store_for_c(const reader *d, const bp_map *m, int64_t rows, int64_t cols)
{
    for (int i = 0; i < m->n_ops; i++) {
        const int store = m->ops[i].store;
        if (store < 0 || m->block_last_use > i || (m->stores[store].at.space != 0 && !is_private(d, &m->stores[store].at)))
            continue;
        const bp_operand *to = &m->stores[store].at;
        const int64_t n = size_of(d, to, rows, d->p->capacity), width = size_of(d, to, cols, d->p->capacity);
        int clash = 0;
        for (int j = 1; j < m->n_loads; j++) {
            const bp_operand *from = &m->loads[j].at;
            const int kind = m->loads[j].kind;
            const int64_t tall = kind == BP_FULL || kind == BP_COL ? n : 1, wide = kind == BP_FULL || kind == BP_ROW ? width : 1;
            clash |= from->space == to->space && from->offset < to->offset + (n - 1) * to->ld + width &&
                     to->offset < from->offset + (tall - 1) * from->ld + wide;
        }
        if (!clash)
            return store;
    }
    return -1;
}

static void read_matmul(reader *d, bp_instr *in)
{
    const int64_t m = in->u.matmul.m = dim(d, "m"), n = in->u.matmul.n = dim(d, "n"), k = in->u.matmul.k = dim(d, "k");
    const int bytes = d->p->real_bytes;
    const int ta = in->u.matmul.trans_a = small(d, "trans_a", 0, 1), tb = in->u.matmul.trans_b = small(d, "trans_b", 0, 1);
    in->u.matmul.bf16 = small(d, "products", 0, bytes == 4);
    in->u.matmul.number = d->p->n_products++;
    in->u.matmul.a = operand(d, "A");
    in->u.matmul.b = operand(d, "B");
    in->u.matmul.c = operand(d, "C");
    in->map = map_of(d, m, n, BEHIND);
    product(d, "m times n", most(d, m), most(d, n));
    product(d, "m times k", most(d, m), most(d, k));
    product(d, "n times k", most(d, n), most(d, k));
    check_matrix(d, "A", &in->u.matmul.a, ta ? k : m, ta ? m : k, bytes, READ);
    check_matrix(d, "B", &in->u.matmul.b, tb ? n : k, tb ? k : n, bytes, READ);
    in->u.matmul.c_store = -1;
    if (in->u.matmul.c.space >= 0)
        check_matrix(d, "C", &in->u.matmul.c, m, n, bytes, WRITE);
    else if (in->map)
        in->u.matmul.c_store = d->failed ? -1 : store_for_c(d, in->map, m, n);
    else
        fail(d, "C: the result is neither kept nor used");
}

/* [outer, r, inner] of reals, contiguous. */
static void check_array(reader *d, const char *field, bp_operand *o, int64_t outer, int64_t r, int64_t inner, int use)
{
    const int64_t by_rows = outer < 0 ? outer : r < 0 ? r : inner;
    for (int64_t run = d->p->capacity; run >= 0; run = fewer(run)) {
        const int64_t results = product(d, field, size_of(d, o, outer, run), size_of(d, o, inner, run));
        check_extent(d, field, o, o->offset, o->offset + product(d, field, results, size_of(d, o, r, run)), d->p->real_bytes, use, run);
    }
    o->block = 0;
    if (d->governed)
        set_block(d, field, o, by_rows, outer < 0 ? product(d, field, r, inner) : r < 0 ? inner : 1);
}

/* The most rows of an instruction. */
static int64_t most_rows(const reader *d)
{
    return d->governed && d->p->capacity > BP_ROW_BLOCK ? BP_ROW_BLOCK : d->p->capacity;
}

/* Room for outer times inner reals: for each thread in row blocks, else once. */
static void need_reals(reader *d, int64_t outer, int64_t inner, int64_t *once, int64_t *in_block)
{
    const int64_t rows = most_rows(d);
    const int64_t reals = product(d, "outer times inner", bp_dim_at(outer, rows), bp_dim_at(inner, rows));
    int64_t *const room = d->governed ? in_block : once;
    if (reals > *room)
        *room = reals;
}

/* The map that makes what a reduction reads, in memory or not; a matrix's rows or its columns are reduced. */
static const bp_map *map_before(reader *d, int64_t outer, int64_t r, int64_t inner, int stands)
{
    const bp_map *m = inner == 1 ? map_of(d, outer, r, stands) : map_of(d, r, inner, stands);
    if (!m)
        return NULL;
    if (inner != 1 && outer != 1)
        fail(d, "map before: neither the rows nor the columns of a matrix are reduced");
    d->p->prologues = 1;
    const int64_t each = inner == 1 ? BP_ROW_CHUNK : BP_ROW_BLOCK, parts = ceil_div(bp_dim_at(r, most_rows(d)), each);
    if (parts > 1)
        need_reals(d, parts, inner == 1 ? outer : inner, &d->p->max_parts, &d->p->max_block_parts);
    return m;
}

static void read_reduce(reader *d, bp_instr *in)
{
    in->u.reduce.kind = small(d, "kind", 0, BP_REDUCE_COUNT - 1);
    const int64_t outer = in->u.reduce.outer = dim(d, "outer"), r = in->u.reduce.r = dim(d, "r");
    const int64_t inner = in->u.reduce.inner = dim(d, "inner");
    in->u.reduce.src = operand(d, "src");
    in->before = map_before(d, outer, r, inner, in->u.reduce.src.space < 0 ? BEFORE : AHEAD);
    in->u.reduce.dst = operand(d, "dst");
    in->map = map_of(d, inner == 1 ? 1 : outer, inner == 1 ? outer : inner, BEHIND);
    product(d, "outer times r times inner", product(d, "outer times inner", most(d, outer), most(d, inner)), most(d, r));
    if (in->u.reduce.src.space >= 0 || !in->before)
        check_array(d, "src", &in->u.reduce.src, outer, r, inner, READ);
    if (in->u.reduce.dst.space >= 0)
        check_array(d, "dst", &in->u.reduce.dst, outer, 1, inner, WRITE);
    else if (!in->map)
        fail(d, "dst: the result is neither kept nor used");
    else
        need_reals(d, outer, inner, &d->p->max_reduce, &d->p->max_block_reduce);
}

/* Bytes of each thread's own: space n_spaces of a ROW_BLOCKS or a ROW_UPDATE. */
static void need_private(reader *d, int64_t bytes)
{
    d->block_bytes = bytes;
    d->p->row_blocks = 1;
    if (bytes > d->p->block_bytes)
        d->p->block_bytes = bytes;
}

/* Private room for n row numbers at `ids`: in row blocks, those of all instructions are there at once. */
static void need_ids(reader *d, bp_instr *in, const bp_operand *ids, int64_t n)
{
    if (is_private(d, ids))
        fail(d, "row numbers are made in the block that reads them");
    in->ids = d->governed ? d->ids : 0;
    d->ids = product(d, "row numbers", 1, in->ids + most(d, n));
    if (d->ids > d->p->max_ids)
        d->p->max_ids = d->ids;
}

static void read_softmax_ce(reader *d, bp_instr *in)
{
    const int64_t n = in->u.softmax.n = dim(d, "n");
    const int64_t classes = in->u.softmax.classes = word(d, "classes", 0, INT32_MAX);
    const int bytes = d->p->real_bytes, kind = in->u.softmax.targets_kind = small(d, "targets_kind", 0, 1);
    in->u.softmax.z = operand(d, "z");
    in->u.softmax.targets = operand(d, "targets");
    in->u.softmax.g = operand(d, "g");
    in->u.softmax.g_kind = small(d, "kind of g", BP_COL, BP_SCALAR);
    in->u.softmax.loss = operand(d, "loss");
    in->u.softmax.dz = operand(d, "dz");
    product(d, "n times classes", most(d, n), classes);
    check_matrix(d, "z", &in->u.softmax.z, n, classes, bytes, READ);
    if (kind == 0) {
        need_ids(d, in, &in->u.softmax.targets, n);
        check_vector(d, "targets", &in->u.softmax.targets, n, 4, READ);
    } else if (in->u.softmax.targets.ld != classes && n != 1)
        fail(d, "targets: ld %lld is not %lld classes", (long long)in->u.softmax.targets.ld, (long long)classes);
    else
        check_matrix(d, "targets", &in->u.softmax.targets, n, classes, bytes, READ);
    if (in->u.softmax.g.space >= 0)
        check_vector(d, "g", &in->u.softmax.g, in->u.softmax.g_kind == BP_COL ? n : 1, bytes, READ);
    if (in->u.softmax.loss.space >= 0)
        check_vector(d, "loss", &in->u.softmax.loss, n, bytes, WRITE);
    if (in->u.softmax.dz.space >= 0)
        check_matrix(d, "dz", &in->u.softmax.dz, n, classes, bytes, WRITE);
}

/* The fields that the instructions of rows.c begin with, n to padding. */
static void read_lookup_sizes(reader *d, bp_instr *in)
{
    in->u.lookup.n = dim(d, "n");
    in->u.lookup.width = word(d, "width", 0, MAX_DIM);
    in->u.lookup.limit = dim(d, "limit");
    in->u.lookup.per = word(d, "per", 1, MAX_DIM);
    in->u.lookup.mean = small(d, "mean", 0, 1);
    in->u.lookup.padding = word(d, "padding", -2, INT32_MAX);
    if (in->u.lookup.padding == -2)
        in->u.lookup.padding = BP_NO_PADDING;
    if (!d->failed && in->u.lookup.n % in->u.lookup.per)
        fail(d, "n: %lld is not a multiple of per %lld", (long long)in->u.lookup.n, (long long)in->u.lookup.per);
}

/* Operands of theirs: row numbers and weights [n], and the matrix [n / per, width] beside them. */
static void check_lookup(reader *d, bp_instr *in, const char *rows, int use)
{
    const int64_t n = in->u.lookup.n, width = in->u.lookup.width;
    if (d->failed)
        return;
    need_ids(d, in, &in->u.lookup.ids, n);
    product(d, "limit times width", most(d, in->u.lookup.limit), width);
    product(d, "n times width", most(d, n), width);
    check_vector(d, "ids", &in->u.lookup.ids, n, 4, READ);
    if (in->u.lookup.weights.space >= 0)
        check_vector(d, "weights", &in->u.lookup.weights, n, d->p->real_bytes, READ);
    check_matrix(d, rows, &in->u.lookup.rows, n / in->u.lookup.per, width, d->p->real_bytes, use);
}

static void read_lookup(reader *d, bp_instr *in)
{
    const int gather = in->op == BP_INSTR_GATHER;
    read_lookup_sizes(d, in);
    bp_operand first = operand(d, gather ? "table" : "src");
    in->u.lookup.ids = operand(d, "ids");
    in->u.lookup.weights = operand(d, "weights");
    bp_operand last = operand(d, "dst");
    in->u.lookup.table = gather ? first : last;
    in->u.lookup.rows = gather ? last : first;
    check_lookup(d, in, gather ? "dst" : "src", gather ? WRITE : READ);
    check_matrix(d, gather ? "table" : "dst", &in->u.lookup.table, in->u.lookup.limit, in->u.lookup.width, d->p->real_bytes,
                 gather ? READ : WRITE);
}

/* Scratch for n (a dim) row numbers, which positions count in int32. */
static void need_row_scratch(reader *d, int64_t n, int coefficients)
{
    const int64_t count = most(d, n);
    if (count > INT32_MAX / 4) {
        fail(d, "n: %lld are too many", (long long)count);
        return;
    }
    if (bp_row_ints(count) > d->p->max_row_ints)
        d->p->max_row_ints = bp_row_ints(count);
    if (coefficients && count > d->p->max_row_reals)
        d->p->max_row_reals = count;
}

static void read_first(reader *d, bp_instr *in)
{
    const int64_t n = in->u.lookup.n = dim(d, "n");
    in->u.lookup.padding = word(d, "padding", INT32_MIN, INT32_MAX);
    if (in->u.lookup.padding == -2)
        in->u.lookup.padding = BP_NO_PADDING;
    in->u.lookup.ids = operand(d, "ids");
    in->u.lookup.rows = operand(d, "dst");
    check_vector(d, "ids", &in->u.lookup.ids, n, 4, READ);
    check_vector(d, "dst", &in->u.lookup.rows, n, 4, WRITE);
    need_row_scratch(d, n, 0);
}

/* Whether [rows, cols] of a and [rows_b, cols_b] of b, dims, share memory or lie in each other's gaps. */
static int overlap(const reader *d, const bp_operand *a, int64_t rows, int64_t cols, const bp_operand *b, int64_t rows_b,
                   int64_t cols_b)
{
    const int64_t m = most(d, rows), n = most(d, rows_b);
    return a->space == b->space && m > 0 && n > 0 && cols > 0 && cols_b > 0 && a->offset < b->offset + (n - 1) * b->ld + cols_b &&
           b->offset < a->offset + (m - 1) * a->ld + cols;
}

/* The map of ROW_UPDATE: whole rows in the thread's own space, the rest elsewhere, nothing that goes by the number of a row. */
static void read_update_map(reader *d, bp_instr *in)
{
    d->own = 1;
    in->map = map_of(d, in->u.lookup.block_rows, in->u.lookup.width, ALONE);
    d->own = 0;
    if (d->failed)
        return;
    if (!in->map)
        fail(d, "map: there is none");
    for (int i = 0; !d->failed && i < in->map->n_loads; i++)
        if (in->map->loads[i].kind == BP_COL || (in->map->loads[i].kind == BP_FULL) != is_private(d, &in->map->loads[i].at))
            fail(d, "load %d of its map: FULL ones lie in space %d, ROW and SCALAR elsewhere, no COL", i, d->p->n_spaces);
    for (int i = 0; !d->failed && i < in->map->n_ops; i++)
        if (in->map->ops[i].op == BP_MAP_RANDOM)
            fail(d, "map: random numbers go by rows of the run");
    for (int i = 0; !d->failed && i < in->map->n_stores; i++)
        if (!is_private(d, &in->map->stores[i].at))
            fail(d, "store %d of its map: not in space %d", i, d->p->n_spaces);
}

static void read_row_update(reader *d, bp_instr *in)
{
    const int bytes = d->p->real_bytes;
    read_lookup_sizes(d, in);
    in->u.lookup.rows = operand(d, "src");
    in->u.lookup.ids = operand(d, "ids");
    in->u.lookup.weights = operand(d, "weights");
    const int64_t width = in->u.lookup.width, limit = in->u.lookup.limit, per = in->u.lookup.per;
    check_lookup(d, in, "src", READ);
    need_row_scratch(d, in->u.lookup.n, in->u.lookup.mean || in->u.lookup.weights.space >= 0);
    in->u.lookup.block_rows = word(d, "block_rows", 1, MAX_DIM);
    need_private(d, word(d, "bytes", 0, MAX_ARENA));
    const int64_t size = product(d, "block_rows times width", in->u.lookup.block_rows, width), room = d->block_bytes / bytes;
    in->u.lookup.gradient = word(d, "gradient", 0, room);
    if (size > room - in->u.lookup.gradient)
        fail(d, "gradient: elements %lld ... %lld of %lld", (long long)in->u.lookup.gradient,
             (long long)(in->u.lookup.gradient + size), (long long)room);
    const int n = in->u.lookup.n_tables = small(d, "number of tables", 1, MAX_SMALL);
    bp_row_table *tables = in->u.lookup.tables = take(d, n, sizeof *tables);
    for (int i = 0; i < n && !d->failed; i++) {
        bp_row_table *t = &tables[i];
        t->at = operand(d, "table");
        t->offset = word(d, "offset of table", 0, room);
        t->reads = small(d, "reads", 0, 1);
        t->writes = small(d, "writes", 0, 1);
        check_matrix(d, "table", &t->at, limit, width, bytes, READ); /* rows that are not among the ids stay: it is state */
        if (t->writes)
            check_matrix(d, "table", &t->at, limit, width, bytes, WRITE);
        if (size > room - t->offset)
            fail(d, "offset of table: elements %lld ... %lld of %lld", (long long)t->offset, (long long)(t->offset + size),
                 (long long)room);
        if (size > 0 && magnitude(t->offset - in->u.lookup.gradient) < size)
            fail(d, "offset of table: overlaps the gradient");
        for (int j = 0; j < i && !d->failed; j++) {
            if (size > 0 && magnitude(t->offset - tables[j].offset) < size)
                fail(d, "offset of table: overlaps that of table %d", j);
            if ((t->writes || tables[j].writes) && overlap(d, &t->at, limit, width, &tables[j].at, limit, width))
                fail(d, "table: overlaps table %d", j);
        }
        if (t->writes && (overlap(d, &t->at, limit, width, &in->u.lookup.rows, in->u.lookup.n / per, width) ||
                          overlap(d, &t->at, limit, width, &in->u.lookup.weights, 1, most(d, in->u.lookup.n))))
            fail(d, "table: overlaps src or weights");
    }
    read_update_map(d, in);
}

/* Elements from the first to the last of a strided array, about its offset. */
static void check_strides(reader *d, const char *field, bp_operand *o, int nd, const int64_t *dims, const int64_t *strides,
                          int bytes, int use)
{
    for (int i = 0; i < nd; i++)
        if (dims[i] < 0)
            set_block(d, field, o, dims[i], strides[i]);
    for (int64_t run = d->p->capacity; run >= 0; run = fewer(run)) {
        int64_t low = o->offset, high = o->offset;
        int empty = 0;
        for (int i = 0; i < nd; i++) {
            int64_t reach, *side = strides[i] < 0 ? &low : &high;
            const int64_t n = size_of(d, o, dims[i], run);
            empty |= n == 0;
            if (n > 0 && (__builtin_mul_overflow(n - 1, strides[i], &reach) || __builtin_add_overflow(*side, reach, side)))
                fail(d, "%s: stride %lld is too large", field, (long long)strides[i]);
        }
        if (empty)
            low = high = o->offset;
        check_extent(d, field, o, low, empty || high == INT64_MAX ? high : high + 1, bytes, use, run);
    }
}

static void swap(int64_t *a, int64_t *b)
{
    const int64_t t = *a;
    *a = *b, *b = t;
}

/* Dimensions in the order of dst's strides, largest first; those that are one in memory are joined, those of size 1 go. */
static void normalise_copy(bp_instr *in)
{
    int64_t *dims = in->u.copy.dims, *ss = in->u.copy.ss, *ds = in->u.copy.ds;
    int nd = 0;
    for (int i = 0; i < in->u.copy.nd; i++) {
        const int64_t n = dims[i], s = ss[i], t = ds[i];
        if (n == 1)
            continue;
        int j = nd++;
        for (; j > 0 && magnitude(ds[j - 1]) < magnitude(t); j--)
            dims[j] = dims[j - 1], ss[j] = ss[j - 1], ds[j] = ds[j - 1];
        dims[j] = n, ss[j] = s, ds[j] = t;
    }
    for (int i = nd - 2; i >= 0; i--)
        if (dims[i + 1] > 0 && ss[i] == dims[i + 1] * ss[i + 1] && ds[i] == dims[i + 1] * ds[i + 1]) {
            dims[i] *= dims[i + 1], ss[i] = ss[i + 1], ds[i] = ds[i + 1];
            nd--;
            for (int j = i + 1; j < nd; j++)
                dims[j] = dims[j + 1], ss[j] = ss[j + 1], ds[j] = ds[j + 1];
        }
    if (nd == 0)
        dims[0] = ss[0] = ds[0] = nd = 1;
    in->u.copy.nd = nd;
}

static void read_copy(reader *d, bp_instr *in)
{
    int64_t *dims = in->u.copy.dims, *ds = in->u.copy.ds, total = 1, reach = 0;
    const int nd = in->u.copy.nd = small(d, "ndim", 0, BP_MAX_DIMS), bytes = in->op == BP_INSTR_COPY_INT ? 4 : d->p->real_bytes;
    for (int i = 0; i < nd; i++) {
        dims[i] = dim(d, "dims");
        total = product(d, "dims", total, most(d, dims[i]));
    }
    in->u.copy.src.space = word(d, "src", 0, last_space(d));
    in->u.copy.src.offset = word(d, "offset of src", 0, MAX_PRODUCT);
    for (int i = 0; i < nd; i++)
        in->u.copy.ss[i] = word(d, "strides of src", -MAX_PRODUCT, MAX_PRODUCT);
    in->u.copy.dst.space = word(d, "dst", 0, last_space(d));
    in->u.copy.dst.offset = word(d, "offset of dst", 0, MAX_PRODUCT);
    for (int i = 0; i < nd; i++)
        ds[i] = word(d, "strides of dst", -MAX_PRODUCT, MAX_PRODUCT);
    check_strides(d, "src", &in->u.copy.src, nd, dims, in->u.copy.ss, bytes, READ);
    check_strides(d, "dst", &in->u.copy.dst, nd, dims, ds, bytes, WRITE);
    if (d->failed)
        return;
    if (total == 0) {
        in->u.copy.nd = 1;
        dims[0] = 0;
        return;
    }
    normalise_copy(in);
    /* No element is written twice, or threads would race: each dimension steps over all that is inside it. */
    for (int i = in->u.copy.nd - 1; i >= 0; i--)
        if (most(d, dims[i]) > 1) {
            if (magnitude(ds[i]) <= reach)
                fail(d, "strides of dst: elements overlap");
            reach += (most(d, dims[i]) - 1) * magnitude(ds[i]);
        }
    /* A transpose is fastest where the two dimensions that are dense in src and in dst are innermost. */
    const int last = in->u.copy.nd - 1;
    for (int i = 0; i < last - 1; i++)
        if (in->u.copy.ss[i] == 1 && ds[last] == 1 && in->u.copy.ss[last] != 1) {
            swap(&dims[i], &dims[last - 1]);
            swap(&in->u.copy.ss[i], &in->u.copy.ss[last - 1]);
            swap(&ds[i], &ds[last - 1]);
            break;
        }
}

static void read_call(reader *d, bp_instr *in)
{
    in->u.call.number = word(d, "number", 0, MAX_SMALL);
    const int inputs = in->u.call.inputs = small(d, "n_inputs", 0, MAX_SMALL);
    const int outputs = in->u.call.outputs = small(d, "n_outputs", 0, MAX_SMALL), n = inputs + outputs;
    in->u.call.operands = take(d, n, sizeof *in->u.call.operands);
    for (int i = 0; i < n && !d->failed; i++) {
        bp_call_operand *o = &in->u.call.operands[i];
        char field[32];
        snprintf(field, sizeof field, "%s %d", i < inputs ? "input" : "output", i < inputs ? i : i - inputs);
        o->elements = dim(d, field);
        o->integer = small(d, "int32", 0, 1);
        o->bytes = o->integer ? 4 : d->p->real_bytes;
        o->at = operand(d, field);
        check_vector(d, field, &o->at, o->elements, o->bytes, i < inputs ? READ : WRITE);
    }
    if (n > d->p->max_call)
        d->p->max_call = n;
    if (in->u.call.number >= d->p->n_calls)
        d->p->n_calls = in->u.call.number + 1;
}

/* ------------------------------------------------------------------ row blocks */

static void read_row_blocks(reader *d, bp_instr *in)
{
    const int64_t count = in->u.row_blocks.count = word(d, "count", 1, d->p->n_instrs - 1 - d->instr);
    need_private(d, word(d, "bytes", 0, MAX_ARENA));
    d->ids = 0;
    d->governed = d->failed ? 0 : count;
}

/* Results of each block, `size` of them in a row, side by side for SUM_BLOCKS. */
static void check_parts(reader *d, const char *field, bp_operand *o, int64_t size, int use)
{
    if (is_private(d, o))
        fail(d, "%s: the parts of a sum must outlive the block", field);
    for (int64_t run = d->p->capacity; run >= 0; run = fewer(run)) {
        const int64_t all = product(d, "parts of all blocks", size, bp_row_blocks(run));
        check_extent(d, field, o, o->offset, o->offset + all, d->p->real_bytes, use, run);
    }
    o->block = size;
}

/* Whether an instruction that has been read may run block by block; sums over the rows get a place for each block. */
static void check_governed(reader *d, bp_instr *in)
{
    int ok = 0, by_rows = 0;
    switch (in->op) {
    case BP_INSTR_MATMUL: {
        const int64_t m = in->u.matmul.m, n = in->u.matmul.n, k = in->u.matmul.k;
        ok = m < 0 && n >= 0 && k >= 0 && !in->u.matmul.trans_a;
        if (m >= 0 && n >= 0 && k == -1 && in->u.matmul.trans_a && !in->u.matmul.trans_b && !in->map) {
            ok = in->u.matmul.c.ld == n || m == 1;
            check_parts(d, "C", &in->u.matmul.c, m * n, WRITE);
        }
        ok = ok && !in->u.matmul.bf16; /* the sums of tiles do not part at blocks of rows */
        break;
    }
    case BP_INSTR_MAP: ok = in->u.map.cols >= 0 ? in->u.map.rows < 0 : in->u.map.rows == 1; break;
    case BP_INSTR_REDUCE: {
        const int64_t outer = in->u.reduce.outer, r = in->u.reduce.r, inner = in->u.reduce.inner;
        ok = outer < 0 && r >= 0 && inner >= 0;
        if (in->u.reduce.kind == BP_REDUCE_SUM && outer == 1 && r == -1 && inner >= 0 && inner != 1 && !in->map) {
            ok = 1;
            check_parts(d, "dst", &in->u.reduce.dst, inner, WRITE);
        }
        break;
    }
    case BP_INSTR_SOFTMAX_CE: ok = in->u.softmax.n < 0; break;
    case BP_INSTR_GATHER: ok = in->u.lookup.n < 0 && in->u.lookup.limit >= 0; break;
    case BP_INSTR_FILL: ok = in->u.fill.count < 0; break;
    case BP_INSTR_COPY:
    case BP_INSTR_COPY_INT:
        for (int i = 0; i < in->u.copy.nd; i++)
            by_rows += in->u.copy.dims[i] < 0;
        ok = by_rows == 1;
        break;
    }
    if (!ok)
        fail(d, "not row by row, nor a sum over the rows: it cannot run in row blocks");
    in->governed = 1;
}

static void read_sum_blocks(reader *d, bp_instr *in)
{
    const int64_t m = in->u.sum_blocks.m = word(d, "m", 0, MAX_DIM), n = in->u.sum_blocks.n = word(d, "n", 0, MAX_DIM);
    const int64_t size = product(d, "m times n", m, n);
    in->u.sum_blocks.src = operand(d, "src");
    in->u.sum_blocks.dst = operand(d, "dst");
    in->map = map_of(d, m, n, BEHIND);
    check_parts(d, "src", &in->u.sum_blocks.src, size, READ);
    in->u.sum_blocks.src.block = 0; /* it reads all of them */
    if (in->u.sum_blocks.dst.space >= 0)
        check_vector(d, "dst", &in->u.sum_blocks.dst, size, d->p->real_bytes, WRITE);
    else if (!in->map)
        fail(d, "dst: the result is neither kept nor used");
    else if (size > d->p->max_reduce)
        d->p->max_reduce = size;
}

static void read_instr(reader *d, bp_instr *in)
{
    const int bytes = d->p->real_bytes;
    int64_t bits;
    switch (in->op) {
    case BP_INSTR_MATMUL: read_matmul(d, in); break;
    case BP_INSTR_MAP:
        in->u.map.rows = dim(d, "rows");
        in->u.map.cols = dim(d, "cols");
        in->map = map_of(d, in->u.map.rows, in->u.map.cols, ALONE);
        break;
    case BP_INSTR_REDUCE: read_reduce(d, in); break;
    case BP_INSTR_SOFTMAX_CE: read_softmax_ce(d, in); break;
    case BP_INSTR_GATHER:
    case BP_INSTR_SCATTER_ADD: read_lookup(d, in); break;
    case BP_INSTR_FIRST: read_first(d, in); break;
    case BP_INSTR_ROW_UPDATE: read_row_update(d, in); break;
    case BP_INSTR_COPY:
    case BP_INSTR_COPY_INT: read_copy(d, in); break;
    case BP_INSTR_CALL: read_call(d, in); break;
    case BP_INSTR_FILL:
        in->u.fill.count = dim(d, "count");
        in->u.fill.dst = operand(d, "dst");
        bits = word(d, "value", INT64_MIN, INT64_MAX);
        memcpy(&in->u.fill.value, &bits, sizeof bits);
        check_vector(d, "dst", &in->u.fill.dst, in->u.fill.count, bytes, WRITE);
        break;
    case BP_INSTR_ARGMAX:
        in->u.argmax.rows = dim(d, "rows");
        in->u.argmax.cols = dim(d, "cols");
        in->u.argmax.src = operand(d, "src");
        in->u.argmax.dst = operand(d, "dst");
        if (!d->failed && (in->u.argmax.cols == 0 || most(d, in->u.argmax.cols) > INT32_MAX))
            fail(d, "cols: %lld is not in 1 ... 2^31 - 1", (long long)in->u.argmax.cols);
        check_matrix(d, "src", &in->u.argmax.src, in->u.argmax.rows, in->u.argmax.cols, bytes, READ);
        check_vector(d, "dst", &in->u.argmax.dst, in->u.argmax.rows, 4, WRITE);
        break;
    case BP_INSTR_ROW_BLOCKS: read_row_blocks(d, in); break;
    case BP_INSTR_SUM_BLOCKS: read_sum_blocks(d, in); break;
    default: /* CHECK */
        in->u.check.at = operand(d, "operand");
        check_vector(d, "operand", &in->u.check.at, 1, bytes, TEST);
    }
}

/* ------------------------------------------------------------------ the program */

static void read_header(reader *d)
{
    bp_program *p = d->p;
    word(d, "magic", BP_MAGIC, BP_MAGIC);
    p->real_bytes = small(d, "real_bytes", 4, 8);
    if (!d->failed && p->real_bytes != 4 && p->real_bytes != 8)
        fail(d, "real_bytes: %d is neither 4 nor 8", p->real_bytes);
    p->capacity = word(d, "capacity", 0, MAX_DIM);
    p->arena_bytes = word(d, "bytes of the arena", 0, MAX_ARENA);
    p->n_spaces = small(d, "number of spaces", 1, MAX_SMALL);
    p->spaces = take(d, p->n_spaces, sizeof *p->spaces);
    d->uses = take(d, p->n_spaces, sizeof *d->uses);
    for (int i = 0; i < p->n_spaces && !d->failed; i++) {
        snprintf(d->where, sizeof d->where, "space %d", i);
        bp_space *s = &p->spaces[i];
        s->element_bytes = small(d, "element_bytes", 0, 8);
        if (!d->failed && (i == 0 ? s->element_bytes != 0 : s->element_bytes != 4 && s->element_bytes != 8))
            fail(d, "element_bytes: %d", s->element_bytes);
        s->elements = dim(d, "elements");
        product(d, "elements", most(d, s->elements), 8);
        s->writable = small(d, "writable", 0, 1) || i == 0;
        d->uses[i].written = INT64_MAX;
    }
}

static void read_program(reader *d)
{
    bp_program *p = d->p;
    const int64_t *const end = d->end;
    snprintf(d->where, sizeof d->where, "header");
    read_header(d);
    snprintf(d->where, sizeof d->where, "header");
    p->n_maps = small(d, "number of maps", 0, MAX_SMALL);
    p->maps = take(d, p->n_maps, sizeof *p->maps);
    for (int i = 0; i < p->n_maps && !d->failed; i++) {
        bp_map *m = &p->maps[i];
        snprintf(d->where, sizeof d->where, "map %d", i);
        read_map(d, m);
        p->max_slots = m->n_slots > p->max_slots ? m->n_slots : p->max_slots;
        p->max_scalars = m->n_scalar_ops > p->max_scalars ? m->n_scalar_ops : p->max_scalars;
        p->max_stores = m->n_stores > p->max_stores ? m->n_stores : p->max_stores;
        p->max_regs = m->n_regs > p->max_regs ? m->n_regs : p->max_regs;
    }
    snprintf(d->where, sizeof d->where, "header");
    p->n_instrs = word(d, "number of instructions", 0, MAX_SMALL);
    p->instrs = take(d, p->n_instrs, sizeof *p->instrs);
    for (int64_t i = 0; i < p->n_instrs && !d->failed; i++) {
        d->instr = i;
        snprintf(d->where, sizeof d->where, "instruction %lld", (long long)i);
        const int64_t length = word(d, "number of words", 1, end - d->next - 1);
        d->end = d->failed ? d->next : d->next + length;
        p->instrs[i].op = small(d, "operation", 0, BP_INSTR_COUNT - 1);
        if (!d->failed)
            snprintf(d->where, sizeof d->where, "instruction %lld (%s)", (long long)i, bp_instr_names[p->instrs[i].op]);
        const int64_t governed = d->governed;
        read_instr(d, &p->instrs[i]);
        if (governed) {
            check_governed(d, &p->instrs[i]);
            d->governed = governed - 1;
        }
        if (d->next != d->end)
            fail(d, "number of words: %lld more than the operation has", (long long)(d->end - d->next));
        d->end = end;
    }
    snprintf(d->where, sizeof d->where, "end");
    if (d->next != d->end)
        fail(d, "%lld words after the last instruction", (long long)(d->end - d->next));
    p->first_write = p->n_instrs;
    for (int i = 1; i < p->n_spaces && !d->failed; i++)
        if (d->uses[i].read && d->uses[i].written < p->first_write)
            p->first_write = d->uses[i].written;
}

bp_program *bp_program_new(const int64_t *words, int64_t n_words, char *err, size_t err_size)
{
    /* No word needs more than 64 bytes (a CHECK makes a bp_instr of 5 words); take() sees to it that this is so. */
    if (n_words < 0 || n_words > MAX_PRODUCT / 64) {
        snprintf(err, err_size, "header: %lld words", (long long)n_words);
        return NULL;
    }
    const size_t room = sizeof(bp_program) + 4096 + (size_t)n_words * 64;
    bp_program *p = bp_alloc(room);
    if (!p) {
        snprintf(err, err_size, "out of memory");
        return NULL;
    }
    memset(p, 0, room);
    reader d = {.p = p, .next = words, .end = words + n_words, .err = err, .err_size = err_size, .instr = -1};
    d.free = (char *)p + (sizeof(bp_program) + 15) / 16 * 16;
    d.free_end = (char *)p + room;
    read_program(&d);
    if (!d.failed) {
        p->far = bp_is_far(p);
        return p;
    }
    bp_dealloc(p);
    return NULL;
}

void bp_program_free(bp_program *p) { bp_dealloc(p); }
int64_t bp_program_instructions(const bp_program *p) { return p->n_instrs; }
