/* Products of bfloat16 on AMX tiles, or by the dot products of AVX512-BF16: kernels.h states the layout, which is the same for both.
 * Compiled once, for float32, with the flags of AVX-512, AVX512-BF16 and AMX.
 *
 * TDPBF16PS and VDPBF16PS read no control register: they round to nearest and take and give zero for denormals, as the conversions
 * do. Eight tile registers: 2 x 2 of C, so that two loads of A and two of B feed four products. */
#include "kernels.h"
#include "simd/avx512.h"

#include <string.h>

typedef struct { /* the configuration that LDTILECFG takes */
    uint8_t palette, start_row, zero[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_config;

static const tile_config whole = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static void begin(void) { _tile_loadconfig(&whole); }

static void end(void) { _tile_release(); }

/* ------------------------------------------------------------------ packing */

/* 32 bfloat16: x rounded in the low half, y in the high. */
INLINE vec halves(vec x, vec y) { return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(y, x)); }

/* 16 pairs of bfloat16: x[i], y[i]. */
INLINE vec pairs(vec x, vec y)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, _mm512_castps_si512(halves(x, y))));
}

/* The first n of 16 numbers, where n may be any number; the others are zeros. */
INLINE vec first(const float *p, int64_t n) { return n >= VL ? v_load(p) : n > 0 ? v_loadn(p, n) : v_zero(); }

/* One tile: r[q] is a register of 16 pairs of steps, of line q where `by_line`, else pair of steps q of all lines; A wants
 * the former and B the latter, so the other one is transposed, pair by pair. */
INLINE void store_tile(vec r[16], int turn, uint16_t *dst)
{
    if (turn) v_transpose(r);
    for (int q = 0; q < 16; q++) _mm512_storeu_ps(dst + q * BP_TILE_STEPS, r[q]);
}

/* Tile of lines [0, lines), steps [0, k), with lines <= 16 and k <= 32; src[i*line + p*step]. */
INLINE void pack_tile(int is_b, int64_t lines, int64_t k, const float *src, int64_t line, int64_t step, uint16_t *dst)
{
    vec r[16];
    if (step == 1) {
        if (lines >= 16 && k >= 32)
            for (int i = 0; i < 16; i++) r[i] = halves(v_load(src + i * line), v_load(src + i * line + VL));
        else
            for (int i = 0; i < 16; i++)
                r[i] = i < lines ? halves(first(src + i * line, k), first(src + i * line + VL, k - VL)) : v_zero();
        store_tile(r, is_b, dst);
    } else if (line == 1) {
        if (lines >= 16 && k >= 32)
            for (int q = 0; q < 16; q++) r[q] = pairs(v_load(src + 2 * q * step), v_load(src + (2 * q + 1) * step));
        else
            for (int q = 0; q < 16; q++)
                r[q] = pairs(first(src + 2 * q * step, 2 * q < k ? lines : 0), first(src + (2 * q + 1) * step, 2 * q + 1 < k ? lines : 0));
        store_tile(r, !is_b, dst);
    } else {
        float copy[BP_TILE_LINES * BP_TILE_STEPS] = {0}; /* [16][32] */
        for (int64_t i = 0; i < lines; i++)
            for (int64_t p = 0; p < k; p++) copy[i * BP_TILE_STEPS + p] = src[i * line + p * step];
        for (int i = 0; i < 16; i++) r[i] = halves(v_load(copy + i * BP_TILE_STEPS), v_load(copy + i * BP_TILE_STEPS + VL));
        store_tile(r, is_b, dst);
    }
}

/* Panels [low, high) of an operand, one after the other, each from its first step to its last, so that its lines are streams that the
 * processor runs ahead of. Lines side by side are read across all panels, a tile's steps at a time. */
INLINE void pack_panels(const int is_b, int64_t low, int64_t high, int64_t lines, int64_t k, const float *src, int64_t line, int64_t step,
                        uint16_t *dst)
{
    const int64_t panels = 2 * ceil_div(lines, 2 * BP_TILE_LINES); /* the last may be empty: an even number */
    const int64_t tiles = ceil_div(k, BP_TILE_STEPS), together = line == 1 ? 1 : tiles;
    for (int64_t t0 = 0; t0 < tiles; t0 += together)
        for (int64_t q = low; q < high; q++)
            for (int64_t t = t0; t < t0 + together; t++) {
                const int64_t s0 = t / BP_TILE_CHUNK * BP_TILE_CHUNK, chunk = min64(tiles - s0, BP_TILE_CHUNK);
                const int64_t i = q * BP_TILE_LINES, p = t * BP_TILE_STEPS, left = lines - i;
                const float *from = left > 0 ? src + i * line + p * step : src;
                pack_tile(is_b, left > 0 ? min64(left, 16) : 0, min64(k - p, 32), from, line, step,
                          dst + (s0 * panels + q * chunk + t - s0) * BP_TILE);
            }
}

static void pack(int is_b, int64_t low, int64_t high, int64_t lines, int64_t k, const float *src, int64_t line, int64_t step,
                 uint16_t *dst)
{
    if (is_b && step == 1) pack_panels(1, low, high, lines, k, src, line, 1, dst);
    else if (is_b) pack_panels(1, low, high, lines, k, src, line, step, dst);
    else if (step == 1) pack_panels(0, low, high, lines, k, src, line, 1, dst);
    else pack_panels(0, low, high, lines, k, src, line, step, dst);
}

/* Asks for a line of what is wanted next. */
INLINE void ask(bp_stretch *next)
{
    if (next->at >= next->end) return;
    _mm_prefetch(next->at, _MM_HINT_T1);
    next->at += 64;
}

/* ------------------------------------------------------------------ the product on tiles */

/* C of 2 x 2 tiles, tiles 0-3, which it leaves there; 4, 5: A, 6, 7: B. Those of the C before go to their place, `last`, if there was
 * one, while this one begins: a load that comes after the store of a tile waits for it, and so would all of this one's. */
INLINE void four(int64_t tiles, const uint16_t *a, const uint16_t *b, const float *c, int64_t ldc, int add, float *last, bp_stretch *next)
{
    const size_t row = (size_t)ldc * sizeof *c;
    const int64_t panel = tiles * BP_TILE, down = 16 * ldc;
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, 64);
    if (last) _tile_stored(0, last, row);
    if (add) _tile_loadd(0, c, row);
    else _tile_zero(0);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + panel, 64);
    if (last) _tile_stored(1, last + 16, row);
    if (add) _tile_loadd(1, c + 16, row);
    else _tile_zero(1);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + panel, 64);
    if (last) _tile_stored(2, last + down, row);
    if (add) _tile_loadd(2, c + down, row);
    else _tile_zero(2);
    _tile_dpbf16ps(2, 5, 6);
    if (last) _tile_stored(3, last + down + 16, row);
    if (add) _tile_loadd(3, c + down + 16, row);
    else _tile_zero(3);
    _tile_dpbf16ps(3, 5, 7);
    for (int64_t s = 1; s < tiles; s++) {
        a += BP_TILE;
        b += BP_TILE;
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a, 64);
        _tile_loadd(7, b + panel, 64);
        _tile_loadd(5, a + panel, 64);
        for (int q = 0; q < 4; q++) ask(next); /* lines a step: a chunk of B while a block of 256 rows uses the one before */
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static void block(int64_t m, int64_t n, int64_t tiles, const uint16_t *a, const uint16_t *b, float *c, int64_t ldc, int add,
                  bp_stretch next_a, bp_stretch next_b)
{
    const size_t row = (size_t)ldc * sizeof *c;
    float *last = NULL;
    if (tiles == 0) /* once even without products: that writes the zeros */
        for (int64_t i = 0; i < m; i++) memset(c + i * ldc, 0, (size_t)n * sizeof *c);
    else
        for (int64_t i = 0; i < m; i += 32)
            for (int64_t j = 0; j < n; j += 32) {
                float *const cij = c + i * ldc + j;
                four(tiles, a + i * tiles * BP_TILE_STEPS, b + j * tiles * BP_TILE_STEPS, cij, ldc, add, last, &next_b);
                last = cij;
            }
    (void)next_a; /* rows of A stay in L2, 2 MB where there are tiles */
    if (last) {
        _tile_stored(0, last, row);
        _tile_stored(1, last + 16, row);
        _tile_stored(2, last + 16 * ldc, row);
        _tile_stored(3, last + 16 * ldc + 16, row);
    }
    __asm__ volatile("" : : : "memory"); /* a compiler need not know that stores of tiles write C */
}

/* `rounds` rounds of products of tiles that lie in registers and wait for nothing but their own sums. */
static double peak(int64_t rounds, double *sink)
{
    static const uint16_t one[BP_TILE] = {0x3f80};
    float c[16 * 16];
    begin();
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_loadd(4, one, 64); _tile_loadd(5, one, 64); _tile_loadd(6, one, 64); _tile_loadd(7, one, 64);
    for (int64_t r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 64);
    end();
    *sink = c[0];
    return 2.0 * 4 * 16 * 16 * BP_TILE_STEPS * (double)rounds;
}

const bp_tiles bp_tiles_amx = {.begin = begin, .end = end, .pack = pack, .block = block, .peak = peak, .ns = 0.002};

/* ------------------------------------------------------------------ the product by dot products of pairs */

enum { ROWS = 8 }; /* of C in registers, beside two panels of columns: 16 chains, for a dot product takes 6 cycles */

/* C[0:ROWS, 0:32] (+)= A B for ROWS lines of A and two panels of B. */
INLINE void dots(int64_t tiles, const uint16_t *a, const uint16_t *b, float *c, int64_t ldc, int add, bp_stretch *next_a, bp_stretch *next_b)
{
    const int64_t panel = tiles * BP_TILE;
    __m512 acc[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
        acc[i][0] = add ? v_load(c + i * ldc) : v_zero();
        acc[i][1] = add ? v_load(c + i * ldc + VL) : v_zero();
    }
    for (int64_t s = 0; s < tiles; s++, a += BP_TILE, b += BP_TILE) {
        ask(next_a); /* a line a step: both chunks while a block of 256 rows and columns uses the ones before */
        ask(next_b);
#pragma GCC unroll 4
        for (int p = 0; p < BP_TILE_STEPS; p += 2) { /* B(p:p+2, :) lies at p * 16, A(i, p:p+2) at i * 32 + p */
            const uint16_t *bp = b + p * BP_TILE_LINES;
            const __m512bh b0 = (__m512bh)_mm512_loadu_ps(bp), b1 = (__m512bh)_mm512_loadu_ps(bp + panel);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                int pair;
                memcpy(&pair, a + i * BP_TILE_STEPS + p, sizeof pair);
                const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
                acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
        v_store(c + i * ldc, acc[i][0]);
        v_store(c + i * ldc + VL, acc[i][1]);
    }
}

static void dot_block(int64_t m, int64_t n, int64_t tiles, const uint16_t *a, const uint16_t *b, float *c, int64_t ldc, int add,
                      bp_stretch next_a, bp_stretch next_b)
{
    for (int64_t j = 0; j < n; j += 2 * BP_TILE_LINES) /* two panels of B, 16 KB of a chunk, stay in L1 */
        for (int64_t i = 0; i < m; i += ROWS) {
            const uint16_t *ai = a + i / BP_TILE_LINES * tiles * BP_TILE + i % BP_TILE_LINES * BP_TILE_STEPS;
            dots(tiles, ai, b + j * tiles * BP_TILE_STEPS, c + i * ldc + j, ldc, add, &next_a, &next_b);
        }
}

static void nothing(void) {}

static double dot_peak(int64_t rounds, double *sink)
{
    enum { CHAINS = 16 };
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80); /* ones */
    __m512 acc[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) acc[i] = v_set1((float)i); /* different: equal chains would be made once */
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_dpbf16_ps(acc[i], x, x);
#pragma GCC unroll 16
    for (int i = 1; i < CHAINS; i++) acc[0] = v_add(acc[0], acc[i]);
    float lanes[VL];
    v_store(lanes, acc[0]);
    *sink = lanes[0];
    return 4.0 * VL * CHAINS * (double)rounds;
}

const bp_tiles bp_tiles_dot = {.begin = nothing, .end = nothing, .pack = pack, .block = dot_block, .peak = dot_peak, .ns = 0.006};
