/* The block kernel of the matrix product and the packing of its operands; contracts in kernels.h.
 *
 * A register tile is `rows` x `vecs` vectors of accumulators. Each step of k loads `vecs` vectors of B, broadcasts one
 * number of A per row and starts rows * vecs fma. The body is written once; every shape is an instance of it with
 * constants, so that all accumulators are registers.
 *
 * An fma takes 4 cycles and two start in each, so fewer than 8 accumulators wait for their own sums. Hence the shapes:
 * MR x NRV is the main tile, which loads 2 numbers or vectors for 4 or 5 fma; fewer columns of vectors take NARROW rows; rows
 * are spread evenly over the tiles (13 rows are 5 + 4 + 4, not 6 + 6 + 1); and 2 rows or 1 (a batch of one) take 4 or 8
 * vectors. Four columns of vectors are 2 + 2, not 3 + 1.
 *
 * A B that comes from beyond L2 sets the pace for few rows, and a tile's lines of it, a few at a stride of a whole row, are no stream
 * that a processor would run ahead of. So tiles ask for the lines beside theirs, and the fewest rows go row of B by row of B. */
#include <string.h>

#define NARROW (NRV == 3 ? 14 : MR < 8 ? 2 * MR : MR)
#define LINE_REALS (64 / (int)sizeof(real))
#define AHEAD_STEP (VL / 4) /* 24 tiles of A, as a block has with 8 rows each, ask for 2 panels of B */

typedef struct {               /* what all tiles of a block have in common */
    int64_t k, rsa, csa, rsb, ldc;
    int add;                   /* C += A B, else C = A B */
    int b_padded;              /* whole vectors of B may be read past column n */
    int far;                   /* B comes from beyond L2 */
    const real *ahead;         /* where B is packed and A is PANELS or ROWS: B beyond this panel, to be asked for; else NULL */
} tile_common;

/* How A and B lie: with any strides; the same, and B from beyond L2; both packed; B packed, rows of A as they are stored, in one piece. */
enum { ANY, FAR, PANELS, ROWS };

/* C[0:rows, 0:(vecs-1)*VL + last] (+)= A B, where A(i,p) = a[i*rsa + p*csa], B(p,j) = b[p*rsb + j], 1 <= last <= VL.
 * For PANELS and ROWS strides are constants, which leaves registers to ask for B's next panels: with each step for a little, since
 * what lies beyond L2 comes slowly and all at once holds up the loads. FAR asks for the columns beside this panel's. */
INLINE void tile(const int rows, const int vecs, const int64_t last, const int b_padded, const int lies,
                 const tile_common *t, const real *a, const real *b, real *c)
{
    const int64_t rsa = lies == PANELS ? 1 : t->rsa, csa = lies == PANELS ? MR : lies == ROWS ? 1 : t->csa;
    const int packed = lies == PANELS || lies == ROWS;
    const int64_t rsb = packed ? NR : t->rsb, ldc = t->ldc;
    vec acc[14][8]; /* [rows][vecs] of it */
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vecs; v++) acc[i][v] = v_zero();
    const real *ai[5]; /* ai[q] -> A(3 q, p): one address for three rows, for there are not registers enough for 14 */
    UNROLL for (int i = 0; i < rows; i += 3) ai[i / 3] = a + i * rsa;
    if (vecs > 1) /* asked for now, C is there when the sums are; its last line holds the tile's last column */
        UNROLL for (int i = 0; i < rows; i++) {
            UNROLL for (int v = 0; v < vecs - 1; v++) __builtin_prefetch(c + i * ldc + v * VL, 1);
            __builtin_prefetch(c + i * ldc + (vecs - 1) * VL + last - 1, 1);
        }
    UNROLL_STEPS for (int64_t p = 0; p < t->k; p++, b += rsb) {
        if (packed) __builtin_prefetch(t->ahead + p * AHEAD_STEP, 0, 2);
        if (lies == FAR) UNROLL for (int v = 0; v < vecs * VL; v += LINE_REALS) __builtin_prefetch(b + vecs * VL + v, 0, 2);
        vec row[8]; /* B(p, :) */
        UNROLL for (int v = 0; v < vecs; v++)
            row[v] = v < vecs - 1 || b_padded ? v_load(b + v * VL) : v_loadn(b + v * VL, last);
        UNROLL for (int i = 0; i < rows; i++) {
            vec x = v_set1(ai[i / 3][i % 3 * rsa]); /* A(i,p) */
            UNROLL for (int v = 0; v < vecs; v++) acc[i][v] = v_fma(x, row[v], acc[i][v]);
        }
        UNROLL for (int i = 0; i < rows; i += 3) ai[i / 3] += csa;
    }
    vec cut[14]; /* the column of vectors that needs a mask goes by way of the stack: less code, and so for every shape */
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vecs; v++) {
            real *cv = c + i * ldc + v * VL;
            if (v < vecs - 1 || last == VL) v_store(cv, t->add ? v_add(v_load(cv), acc[i][v]) : acc[i][v]);
            else cut[i] = acc[i][v];
        }
    if (last != VL)
        for (int i = 0; i < rows; i++) {
            real *cv = c + i * ldc + (vecs - 1) * VL;
            v_storen(cv, t->add ? v_add(v_loadn(cv, last), cut[i]) : cut[i], last);
        }
}

/* `count` tiles of 1 <= rows <= max, one below the other; tiles of A are a_tile apart. `rows` becomes a constant; sets
 * with a small max drop the larger cases. */
INLINE void tiles_of(const int max, int64_t count, int rows, const int vecs, const int64_t last, const int b_padded,
                     const int lies, const tile_common *t, const real *a, int64_t a_tile, const real *b, real *c)
{
    tile_common u = *t; /* so that it can live in registers */
#define ROWS(r)                                                                                                        \
    case r:                                                                                                            \
        if (r <= max)                                                                                                  \
            for (; count > 0; count--, a += a_tile, c += r * u.ldc, u.ahead += u.ahead ? u.k * AHEAD_STEP : 0)         \
                tile(r, vecs, last, b_padded, lies, &u, a, b, c);                                                      \
        break;
    switch (rows) {
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
    }
#undef ROWS
}
_Static_assert(MR <= 14 && NARROW <= 14, "tiles_of has cases for 14 rows");
_Static_assert(NR == 2 * VL || NR == 3 * VL, "tiles knows tiles of 3, 2 and 1 vectors");

/* Tiles of n <= NR columns: up to MR rows each where n == NR, else NARROW rows; n <= 2 * VL where it is not NR. */
static void tiles(int64_t count, int rows, int64_t n, const tile_common *t, const real *a, int64_t a_tile,
                  const real *b, real *c)
{
    if (n == NR && t->ahead && t->csa == 1) tiles_of(MR, count, rows, NRV, VL, 1, ROWS, t, a, a_tile, b, c);
    else if (n == NR && t->ahead) tiles_of(MR, count, rows, NRV, VL, 1, PANELS, t, a, a_tile, b, c);
    else if (n == NR && t->far) tiles_of(MR, count, rows, NRV, VL, 1, FAR, t, a, a_tile, b, c);
    else if (n == NR) tiles_of(MR, count, rows, NRV, VL, 1, ANY, t, a, a_tile, b, c);
    else if (NRV > 2 && n == 2 * VL) tiles_of(NARROW, count, rows, 2, VL, 1, ANY, t, a, a_tile, b, c);
    else if (n > VL && t->b_padded) tiles_of(NARROW, count, rows, 2, n - VL, 1, ANY, t, a, a_tile, b, c);
    else if (n > VL) tiles_of(NARROW, count, rows, 2, n - VL, 0, ANY, t, a, a_tile, b, c);
    else if (t->b_padded) tiles_of(NARROW, count, rows, 1, n, 1, ANY, t, a, a_tile, b, c);
    else tiles_of(NARROW, count, rows, 1, n, 0, ANY, t, a, a_tile, b, c);
}

/* The first n lanes, or all of them, by a constant where the caller knows it. */
INLINE vec load_some(const real *p, int64_t n) { return n == VL ? v_load(p) : v_loadn(p, n); }

enum {
    STEPS = 8, /* rows of B whose registers are kept, */
    GROUP = 4, /* and rows of A to which they go at a time: 4 chains of 8 fma for 8 + 4 + 32 loads, in 13 registers */
    SUMS = 16 * PAGE_REALS /* numbers of a piece of C, near all the while: a page of each of 16 rows, less of more */
};

/* sums[0:rows, 0:VL] += A x, where A(i,p) = a[i*STEPS + p] */
INLINE void few_sums(const int rows, const int steps, const real *a, const vec *x, real *sums, int64_t ld)
{
    vec acc[GROUP];
    UNROLL for (int i = 0; i < rows; i++) acc[i] = v_load(sums + i * ld);
    UNROLL for (int p = 0; p < steps; p++)
        UNROLL for (int i = 0; i < rows; i++) acc[i] = v_fma(v_set1(a[i * STEPS + p]), x[p], acc[i]);
    UNROLL for (int i = 0; i < rows; i++) v_store(sums + i * ld, acc[i]);
}

/* sums[0:m, 0:VL] += A x */
INLINE void few_groups(int64_t m, const int steps, const real *a, const vec *x, real *sums, int64_t ld)
{
    for (; m >= GROUP; m -= GROUP, a += GROUP * STEPS, sums += GROUP * ld) few_sums(GROUP, steps, a, x, sums, ld);
    switch (m) {
    case 3: few_sums(3, steps, a, x, sums, ld); break;
    case 2: few_sums(2, steps, a, x, sums, ld); break;
    case 1: few_sums(1, steps, a, x, sums, ld); break;
    }
}

/* sums[0:m, 0:n] += A B for one row of B */
static void few_ends(int64_t m, int64_t n, const real *a, const real *b, real *sums, int64_t ld)
{
    for (int64_t j = 0; j < n; j += VL) {
        const vec x = v_loadn(b + j, n - j < VL ? n - j : VL);
        few_groups(m, 1, a, &x, sums + j, ld);
    }
}

/* The same for STEPS rows of B; those `ahead` of them are asked for. */
INLINE void few_steps(int64_t m, int64_t n, const real *a, const real *b, int64_t rsb, int64_t ahead, real *sums, int64_t ld)
{
    int64_t j = 0;
    for (; j + VL <= n; j += VL) {
        vec x[STEPS];
        if (ahead) UNROLL for (int p = 0; p < STEPS; p++) __builtin_prefetch(b + j + (p + ahead) * rsb, 0, 2);
        UNROLL for (int p = 0; p < STEPS; p++) x[p] = v_load(b + j + p * rsb);
        if (m > 2) __asm__ volatile("" : : : "memory"); /* else all of A is spread before the loop, and spilled */
        few_groups(m, STEPS, a, x, sums + j, ld);
    }
    for (int p = 0; j < n && p < STEPS; p++) few_ends(m, n - j, a + p, b + j + p * rsb, sums + j, ld);
}

/* C[0:m, 0:n] (+)= A B for m <= BP_MOST_ROWS, by rows of B: a page of STEPS of them after another, or half a page, which leaves
 * L1 to the sums, streams that a processor knows and runs ahead of. Each is read once, for all rows of A. */
INLINE void some_rows(int64_t m, int64_t n, int large, const tile_common *t, const real *a, const real *b, real *c)
{
    enum { APART = LINE_REALS }; /* between rows of sums, whose lines would meet in one set of L1 if they were a page from each other */
    real sums[SUMS + BP_MOST_ROWS * APART], own[BP_MOST_ROWS * STEPS]; /* [m][ld]; [m][STEPS] of A */
    const int64_t page = large ? PAGE_REALS : PAGE_REALS / 2, most = m * page <= SUMS ? page : SUMS / m / VL * VL, ld = most + APART;
    const int64_t ahead = large && bp_here->asks_for_rows ? STEPS : 0;
    for (int64_t j = 0; j < n; j += most) {
        const int64_t nj = n - j < most ? n - j : most;
        for (int64_t i = 0; i < m; i++) memset(sums + i * ld, 0, (size_t)((nj + VL - 1) / VL * VL) * sizeof(real));
        for (int64_t p = 0, steps; p < t->k; p += steps) {
            steps = t->k - p < STEPS ? t->k - p : STEPS;
            for (int64_t i = 0; i < m; i++)
                for (int64_t q = 0; q < steps; q++) own[i * STEPS + q] = a[i * t->rsa + (p + q) * t->csa];
            const real *const bp = b + p * t->rsb + j; /* B(p, j) */
            if (steps == STEPS) few_steps(m, nj, own, bp, t->rsb, ahead, sums, ld);
            else for (int q = 0; q < steps; q++) few_ends(m, nj, own + q, bp + q * t->rsb, sums, ld);
        }
        for (int64_t i = 0; i < m; i++)
            for (int64_t q = 0; q < nj; q += VL) {
                const int64_t nq = nj - q < VL ? nj - q : VL;
                real *const to = c + i * t->ldc + j + q;
                const vec sum = v_load(sums + i * ld + q);
                v_storen(to, t->add ? v_add(v_loadn(to, nq), sum) : sum, nq);
            }
    }
}

/* Apart, for the sums take a stack that no other product should pay for. */
__attribute__((noinline)) static void few_rows(int64_t m, int64_t n, int large, const tile_common *t, const real *a, const real *b, real *c)
{
    switch (m) { /* the fewest are constants, so that nothing is between their vectors */
    case 1: some_rows(1, n, large, t, a, b, c); break;
    case 2: some_rows(2, n, large, t, a, b, c); break;
    case 3: some_rows(3, n, large, t, a, b, c); break;
    case 4: some_rows(4, n, large, t, a, b, c); break;
    default: some_rows(m, n, large, t, a, b, c); break;
    }
}

/* C[0, 0:n] (+)= A B for n <= 2 VL where B is stored transposed, B(p,j) = b[p + j*ldb]: VL x VL numbers of B are turned in
 * registers and used once. Two blocks side by side, so that each one's chain of VL fma hides behind the other's turning. */
INLINE void row_transposed(const int64_t n, const tile_common *t, const real *a, const real *b, int64_t ldb, real *c)
{
    vec acc[2] = {v_zero(), v_zero()};
    int64_t p = 0;
    for (; n == 2 * VL && p + VL <= t->k; p += VL)
        UNROLL for (int v = 0; v < 2; v++) {
            vec r[VL]; /* lines j, then steps p + q */
            UNROLL for (int i = 0; i < VL; i++) r[i] = v_load(b + (v * VL + i) * ldb + p);
            v_transpose(r);
            UNROLL for (int q = 0; q < VL; q++) acc[v] = v_fma(v_set1(a[(p + q) * t->csa]), r[q], acc[v]);
        }
    for (; p < t->k; p += VL)
        for (int v = 0; v < 2; v++) {
            const int64_t steps = t->k - p < VL ? t->k - p : VL;
            vec r[VL];
            for (int i = 0; i < VL; i++) r[i] = v * VL + i < n ? load_some(b + (v * VL + i) * ldb + p, steps) : v_zero();
            v_transpose(r);
            for (int q = 0; q < steps; q++) acc[v] = v_fma(v_set1(a[(p + q) * t->csa]), r[q], acc[v]);
        }
    for (int v = 0; v * VL < n; v++) {
        const int64_t nv = n - v * VL < VL ? n - v * VL : VL;
        v_storen(c + v * VL, t->add ? v_add(v_loadn(c + v * VL, nv), acc[v]) : acc[v], nv);
    }
}

/* Columns of the panel of B that begins where `left` columns are left: NR, or 2 VL where that leaves no tile of one vector
 * or holds all that is left. */
static int64_t panel_columns(int64_t left)
{
    return left > 4 * VL || (left > 2 * VL && left <= NR) ? NR : 2 * VL;
}

static void gemm_block(int64_t m, int64_t n, int64_t k, const void *a_, int64_t rsa, int64_t csa, const void *b_, int64_t rsb,
                       void *c_, int64_t ldc, int flags)
{
    const real *a = a_, *b = b_;
    real *c = c_;
    const int a_packed = flags & BP_BLOCK_A_PACKED, b_packed = flags & BP_BLOCK_B_PACKED;
    tile_common t = {.k = k, .ldc = ldc, .add = flags & BP_BLOCK_ADD, .b_padded = b_packed != 0, .far = flags & BP_BLOCK_B_FAR,
                           .rsa = a_packed ? 1 : rsa, .csa = a_packed ? MR : csa, .rsb = b_packed ? NR : rsb};
    if (m <= 0) return;
    int64_t j = 0;
    if (flags & BP_BLOCK_B_TRANSPOSED) {
        for (; n - j >= 2 * VL; j += 2 * VL) row_transposed(2 * VL, &t, a, b + j * rsb, rsb, c + j);
        if (j < n) row_transposed(n - j, &t, a, b + j * rsb, rsb, c + j);
        return;
    }
    if (flags & BP_BLOCK_B_ROWS) {
        few_rows(m, n, flags & BP_BLOCK_B_LARGE, &t, a, b, c);
        return;
    }
    if (m <= 2 && !b_packed) {
        for (; m == 1 && n - j >= 8 * VL; j += 8 * VL) tile(1, 8, VL, 1, ANY, &t, a, b + j, c + j);
        for (; n - j >= 4 * VL; j += 4 * VL) tiles_of(2, 1, (int)m, 4, VL, 1, ANY, &t, a, 0, b + j, c + j);
    }
    for (int64_t nj, panel = 0, done = 0; j < n; j += nj, done += nj) { /* `done` of the panel's columns */
        if (done == panel) panel = panel_columns(n - j), done = 0;
        nj = n - j < panel ? n - j : panel;
        if (nj < NR && nj > 2 * VL) nj = 2 * VL; /* what is left of the panel has its own tiles */
        if (b_packed) t.rsb = panel;
        const real *bj = b_packed ? b + (j - done) * k + done : b + j; /* B(:, j:j+nj) */
        t.ahead = b_packed && (a_packed || csa == 1) ? bj + NR * k : NULL;
        /* The first `longer` of the tiles have even + 1 rows, the others even. */
        const int64_t max = nj < NR && !a_packed ? NARROW : MR, count = (m + max - 1) / max;
        const int64_t even = m / count, longer = m % count, a_tile = a_packed ? k * MR : even * rsa;
        tiles(longer, (int)even + 1, nj, &t, a, a_packed ? k * MR : (even + 1) * rsa, bj, c + j);
        if (t.ahead) t.ahead += longer * k * AHEAD_STEP;
        tiles(count - longer, (int)even, nj, &t, a + longer * (a_packed ? k * MR : (even + 1) * rsa), a_tile, bj,
              c + longer * (even + 1) * ldc + j);
    }
}

/* Steps [0, k) of one panel: dst[p*width + i] = src[i*line + p*step] for i < lines <= width; lines [lines, width) are zeros.
 * Whole vectors are stored; what they spill beyond a step is overwritten by the next, so only the very last is `cut`. */
INLINE void pack_panel(const int width, int64_t lines, int64_t k, int cut, const real *src, int64_t line, int64_t step,
                       real *dst)
{
    const int last = (width - 1) / VL * VL; /* first line of the last vector */
    if (line == 1)
        for (int64_t p = 0; p < k; p++, src += step, dst += width) {
            __builtin_prefetch(src + 8 * step); /* the next steps that pack() will ask for; past the end it does nothing */
            if (lines == width) {
                memcpy(dst, src, (size_t)width * sizeof(real));
                continue;
            }
            UNROLL for (int v = 0; v < width; v += VL) {
                const int64_t n = lines - v < 0 ? 0 : lines - v < VL ? lines - v : VL;
                const vec x = load_some(src + v, n);
                if (v == last && width % VL && cut && p == k - 1) v_storen(dst + v, x, width - v);
                else v_store(dst + v, x);
            }
        }
    else if (step == 1) /* the last vector's lines first, for they spill */
        for (int v = last; v >= 0; v -= VL) {
            const real *from = src + v * line; /* r: from[i*line + p + q] is lane q of line i, then lane i of step q */
            int64_t p = 0;
            for (; lines - v >= VL && p + VL < k; p += VL) {
                vec r[VL];
                UNROLL for (int i = 0; i < VL; i++) r[i] = v_load(from + i * line + p);
                v_transpose(r);
                UNROLL for (int q = 0; q < VL; q++) v_store(dst + (p + q) * width + v, r[q]);
            }
            for (; p < k; p += VL) {
                const int64_t steps = k - p < VL ? k - p : VL;
                vec r[VL];
                for (int i = 0; i < VL; i++) r[i] = v + i < lines ? load_some(from + i * line + p, steps) : v_zero();
                v_transpose(r);
                for (int q = 0; q < steps; q++) {
                    real *to = dst + (p + q) * width + v;
                    if (v == last && width % VL && cut && p + q == k - 1) v_storen(to, r[q], width - v);
                    else v_store(to, r[q]);
                }
            }
        }
    else
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < width; i++) dst[p * width + i] = i < lines ? src[i * line + p * step] : 0;
}

/* All `total` lines of op(A) or op(B): panel q has `even` lines, or even + 1 where q < longer, and goes to dst + q*k*width.
 * Lines that lie side by side are read 8 steps at a time across all panels, so that each page is visited once. */
INLINE void pack(const int width, int64_t total, int64_t even, int64_t longer, int64_t k, const real *src, int64_t line,
                 int64_t step, real *dst)
{
    const int64_t chunk = line == 1 ? 8 : k;
    for (int64_t p = 0; p < k; p += chunk) {
        const int64_t steps = k - p < chunk ? k - p : chunk;
        for (int64_t i = 0, q = 0; i < total; q++) {
            const int64_t most = even + (q < longer), lines = total - i < most ? total - i : most;
            pack_panel(width, lines, steps, p + steps == k, src + i * line + p * step, line, step, dst + (q * k + p) * width);
            i += lines;
        }
    }
}

static void pack_a(int64_t m, int64_t k, const void *a, int64_t rsa, int64_t csa, void *dst)
{
    const int64_t panels = (m + MR - 1) / MR;
    if (m > 0) pack(MR, m, m / panels, m % panels, k, a, rsa, csa, dst);
}

static void pack_b(int64_t k, int64_t n, const void *b, int64_t rsb, int64_t csb, void *dst)
{
    int64_t wide = 0; /* columns in panels of NR */
    while (wide < n && panel_columns(n - wide) == NR) wide += NR;
    if (wide > n) wide = n;
    pack(NR, wide, NR, 0, k, b, csb, rsb, dst);
    pack(2 * VL, n - wide, 2 * VL, 0, k, (const real *)b + wide * csb, csb, rsb, (real *)dst + wide * k);
}

/* dst[j*ldd + i] = src[i*lds + j], 0 <= i < rows, 0 <= j < cols */
static void transpose(int64_t rows, int64_t cols, const void *src_, int64_t lds, void *dst_, int64_t ldd)
{
    const real *src = src_;
    real *dst = dst_;
    int64_t j = 0;
    for (; rows == 2 && ldd == 2 && j + VL <= cols; j += VL) {
        vec r[2] = {v_load(src + j), v_load(src + lds + j)};
        v_zip(r);
        v_store(dst + 2 * j, r[0]);
        v_store(dst + 2 * j + VL, r[1]);
    }
    for (; j < cols; j += VL)
        for (int64_t i = 0; i < rows; i += VL) {
            const int64_t ni = rows - i, nj = cols - j;
            vec r[VL];
            if (ni >= VL && nj >= VL) {
                UNROLL for (int q = 0; q < VL; q++) r[q] = v_load(src + (i + q) * lds + j);
                v_transpose(r);
                UNROLL for (int q = 0; q < VL; q++) v_store(dst + (j + q) * ldd + i, r[q]);
                continue;
            }
            for (int q = 0; q < VL; q++) r[q] = q < ni ? v_loadn(src + (i + q) * lds + j, nj < VL ? nj : VL) : v_zero();
            v_transpose(r);
            for (int q = 0; q < VL && q < nj; q++) v_storen(dst + (j + q) * ldd + i, r[q], ni < VL ? ni : VL);
        }
}
