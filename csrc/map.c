/* map.c: elementwise programs over a region of a matrix, block by block.
 *
 * A block is a run of at most BP_BLOCK_BYTES of numbers that every operation of the map sees as one vector: either several
 * whole rows of the region, one after the other, or a piece of one row, which may be longer where one chain makes it all. Operands are
 * pointed to where they lie whenever that run is contiguous there; only what is strided (FULL) or repeated (ROW, COL) is first brought
 * into a register.
 * So intermediate values stay in L1, and an operation costs one indirect call for about a thousand numbers. */
#include "program.h"
#include <string.h>

/* Rows of a strided region that are at least this long are run one by one; shorter ones are packed together, because a
 * call per operation and row would cost more than copying. */
enum { LONG_ROW = 96 };

void bp_map_bind(bp_context *x, const bp_map *m)
{
    int64_t size = x->p->real_bytes;
    x->map = m;
    for (int i = 0; i < m->n_loads; i++)
        x->slots[i] = m->loads[i].at.space < 0 ? NULL : bp_at(x, &m->loads[i].at, size);
    for (int i = 0; i < m->n_stores; i++)
        x->stores[i] = m->stores[i].at.space < 0 ? NULL : bp_at(x, &m->stores[i].at, size);
    for (int i = 0; i < m->n_scalar_ops; i++) {
        const bp_op *op = &m->ops[i];
        x->slots[op->dst] = (char *)&x->scalars[i];
        x->k->map[op->op][op->variant[0]](1, x->slots[op->dst], x->slots[op->a], x->slots[op->b], x->slots[op->c]);
    }
}

/* dst[i, :] = src[i, :] for rows of `bytes` bytes */
static void copy_rows(int64_t rows, int64_t bytes, char *dst, int64_t dst_step, const char *src, int64_t src_step)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(dst + i * dst_step, src + i * src_step, (size_t)bytes);
}

/* dst = `times` copies of src[bytes], by doubling */
static void repeat(char *dst, const char *src, int64_t bytes, int64_t times)
{
    int64_t total = bytes * times;
    memcpy(dst, src, (size_t)bytes);
    for (int64_t done = bytes; done < total; done *= 2)
        memcpy(dst + done, dst, (size_t)(done < total - done ? done : total - done));
}

/* A matrix by its element (0, 0). */
typedef struct { char *at; int64_t ld; } matrix;

/* That which a store writes to; `made` is the one of a prologue's last store, each thread's own. */
static inline matrix target(const bp_context *x, matrix made, int store)
{
    char *const at = x->stores[store];
    return (matrix){at ? at : made.at, at ? x->map->stores[store].at.ld : made.ld};
}

/* Where an operation's result of a block at (row, col) goes: its register, or at once the place where it is stored. */
static inline char *destination(const bp_context *x, matrix made, const bp_op *op, char *regs, int64_t rows, int64_t width,
                                int64_t row, int64_t col)
{
    if (op->store >= 0) {
        const matrix to = target(x, made, op->store);
        if (rows == 1 || to.ld == width)
            return to.at + (row * to.ld + col) * x->p->real_bytes;
    }
    return regs + op->reg * BP_REG_BYTES;
}

/* Streams of a region's pieces of rows that come from far: where rows are a page apart the processor's own guesses end with the piece,
 * so the piece below is asked for. What is read and written is one stream, and the block lies near. */
typedef struct { const char *at; int64_t step; } stream; /* of the matrix; bytes between rows */

enum { STREAMS = 8, PAGE = 4096, LINE = 64 };

static int add_stream(stream *s, int n, const char *at, int64_t step, const char *block)
{
    int known = n == STREAMS || step < PAGE || at == block;
    for (int i = 0; i < n; i++)
        known |= s[i].at == at;
    if (!known)
        s[n] = (stream){at, step};
    return n + !known;
}

static int far_streams(const bp_context *x, const bp_map *m, int64_t r0, int64_t c0, const char *block, stream *s)
{
    const int64_t size = x->p->real_bytes;
    int n = 0;
    for (int i = m->epilogue; i < m->n_loads; i++)
        if (m->loads[i].kind == BP_FULL && m->loads[i].reg >= 0)
            n = add_stream(s, n, x->slots[i] + (r0 * m->loads[i].at.ld + c0) * size, m->loads[i].at.ld * size, block);
    for (int i = 0; i < m->n_stores - m->prologue; i++)
        n = add_stream(s, n, x->stores[i] + (r0 * m->stores[i].at.ld + c0) * size, m->stores[i].at.ld * size, block);
    return n;
}

void bp_map_region(void *context, int thread, int64_t r0, int64_t r1, int64_t c0, int64_t c1, void *block, int64_t ld_block)
{
    bp_context *const x = context;
    const bp_map *const m = x->map;
    const bp_kernels *const k = x->k;
    const int64_t size = x->p->real_bytes, most = BP_BLOCK_BYTES / size;
    char **const slots = x->thread_slots + (int64_t)thread * x->p->max_slots;
    char *const regs = x->regs + (int64_t)thread * x->p->max_regs * BP_REG_BYTES;
    int64_t width = c1 - c0, height = r1 - r0;
    if (width <= 0 || height <= 0)
        return;

    const matrix made = {m->prologue ? (char *)block - (r0 * ld_block + c0) * size : NULL, ld_block};

    /* Is [height, width] one run of memory in every FULL operand? */
    int contiguous = !(m->epilogue || m->prologue) || ld_block == width;
    for (int i = m->epilogue; contiguous && i < m->n_loads; i++)
        contiguous = m->loads[i].kind != BP_FULL || m->loads[i].at.ld == width;
    for (int i = 0; contiguous && i < m->n_stores - m->prologue; i++)
        contiguous = m->stores[i].at.ld == width;
    if (contiguous && m->flat) {
        width *= height;
        height = 1;
    }
    int64_t tall = 1; /* rows in a block */
    if (height > 1 && width <= most && (contiguous || width < LONG_ROW)) {
        tall = most / width;
        tall = tall < height ? tall : height;
    }
    const int piece = tall == 1;             /* blocks are pieces of one row: which operand variants apply */
    stream far[STREAMS];
    const int n_far = piece && height > 1 ? far_streams(x, m, r0, c0, block, far) : 0;
    const int64_t wide = piece && (n_far || !m->unbroken) ? most : width;

    memcpy(slots, x->slots, (size_t)m->n_slots * sizeof *slots);
    if (!piece)
        for (int i = 0; i < m->n_loads; i++)
            if (m->loads[i].kind == BP_ROW && m->loads[i].reg >= 0) {
                slots[i] = regs + m->loads[i].reg * BP_REG_BYTES;
                repeat(slots[i], x->slots[i] + c0 * size, width * size, tall);
            }

    for (int64_t r = 0; r < height; r += tall) {
        const int64_t rows = tall < height - r ? tall : height - r;
        for (int64_t c = 0; c < width; c += wide) {
            const int64_t cols = wide < width - c ? wide : width - c, n = rows * cols;
            const int64_t row = r0 + r, col = c0 + c; /* of the block's first element, in the region's matrix */

            for (int i = 0; i < n_far && r + 1 < height; i++)
                for (int64_t at = c * size; at < (c + cols) * size; at += LINE)
                    __builtin_prefetch(far[i].at + (r + 1) * far[i].step + at);

            for (int i = 0; i < m->n_loads; i++) {
                const bp_load *load = &m->loads[i];
                if (load->reg < 0)
                    continue;
                char *const reg = regs + load->reg * BP_REG_BYTES;
                if (load->kind == BP_FULL) {
                    const int is_block = i == 0 && m->epilogue;
                    const int64_t ld = is_block ? ld_block : load->at.ld;
                    char *from = is_block ? (char *)block + (r * ld + c) * size : x->slots[i] + (row * ld + col) * size;
                    slots[i] = from;
                    if (rows > 1 && ld != width) {
                        copy_rows(rows, cols * size, reg, cols * size, from, ld * size);
                        slots[i] = reg;
                    }
                } else if (load->kind == BP_COL) {
                    char *from = x->slots[i] + row * load->at.ld * size;
                    slots[i] = piece ? from : reg;
                    if (!piece)
                        k->spread(rows, cols, from, load->at.ld, reg);
                } else if (piece) { /* ROW */
                    slots[i] = x->slots[i] + col * size;
                }
            }

            for (const bp_op *op = m->ops + m->n_scalar_ops, *end = m->ops + m->n_ops; op < end; op++) {
                if (op->chain) {
                    const bp_chain *chain = op->chain;
                    const bp_chain_row *const form = &bp_chain_rows[chain->kind];
                    const void *in[BP_CHAIN_VECTORS + BP_CHAIN_NUMBERS];
                    void *out[BP_CHAIN_RESULTS];
                    for (int i = 0; i < form->vectors; i++)
                        in[i] = slots[chain->in[i]];
                    for (int i = BP_CHAIN_VECTORS; i < BP_CHAIN_VECTORS + form->numbers; i++)
                        in[i] = slots[chain->in[i]];
                    for (int i = 0; i < form->results; i++) {
                        const bp_op *o = op + chain->out[i];
                        out[i] = slots[o->dst] = destination(x, made, o, regs, rows, width, row, col);
                    }
                    k->chain[chain->kind](n, in, out);
                    op += form->steps - 1;
                    continue;
                }
                char *dst = slots[op->dst] = destination(x, made, op, regs, rows, width, row, col);
                if (op->op == BP_MAP_RANDOM)
                    k->random(dst, rows, cols, x->args.seed, x->args.step, op->node, x->args.row0 + row, col);
                else
                    k->map[op->op][op->variant[piece]](n, dst, slots[op->a], slots[op->b], slots[op->c]);
            }

            for (int i = 0; i < m->n_stores; i++) {
                const matrix all = target(x, made, i);
                char *const from = slots[m->stores[i].slot], *const to = all.at + (row * all.ld + col) * size;
                if (from != to) /* equal: the operation has written there itself */
                    copy_rows(rows, cols * size, to, all.ld * size, from, cols * size);
            }
        }
    }
}
