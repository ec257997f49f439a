/* random.h: Philox4x32-10 (rng.c has the plain version), many blocks at once: each lane of a register works on one block.
 *
 * A block gives the numbers of four columns. The blocks of a tile are counted row by row and taken RANDOM_BLOCKS at a time, so
 * narrow tiles fill the registers with several rows. The four words of a block lie in four registers; transposing
 * puts them side by side, and which block goes to which lane is chosen so that the result comes out in order. */
#include <string.h>

enum {
    RANDOM_SETS = 4,                                      /* registers of each word: as many chains to overlap */
    RANDOM_WIDE = VL > 4 ? VL / 4 : 1,                    /* blocks beside each other in a transposed row */
    RANDOM_BLOCKS = RANDOM_SETS * VL
};

/* u[4 q + w] = word w of the block that stands at place(q), as a number in [0, 1). */
INLINE void random_blocks(const uint_ *column, const uint_ *row, uint_ node, uint_ step, uint_ keys[10][2], real *u)
{
    ivec x[4][RANDOM_SETS];
#pragma GCC unroll 4
    for (int s = 0; s < RANDOM_SETS; s++) {
        x[0][s] = i_load(column + s * VL);
        x[1][s] = i_load(row + s * VL);
        x[2][s] = i_set1(node);
        x[3][s] = i_set1(step);
    }
    ivec m0 = i_set1(0xD2511F53u), m1 = i_set1(0xCD9E8D57u);
    for (int round = 0; round < 10; round++) {
        ivec k0 = i_set1(keys[round][0]), k1 = i_set1(keys[round][1]);
#pragma GCC unroll 4
        for (int s = 0; s < RANDOM_SETS; s++) {
            ivec y0 = i_xor(i_xor(x[1][s], k0), i_mulhi(x[2][s], m1));
            ivec y2 = i_xor(i_xor(x[3][s], k1), i_mulhi(x[0][s], m0));
            x[1][s] = i_mullo(x[2][s], m1);
            x[3][s] = i_mullo(x[0][s], m0);
            x[0][s] = y0;
            x[2][s] = y2;
        }
    }
#pragma GCC unroll 4
    for (int s = 0; s < RANDOM_SETS; s += RANDOM_WIDE) {  /* transpose VL registers, or 4 of them, VL at a time */
        real *out = u + 4 * s * VL;
        vec r[RANDOM_WIDE * 4];
#pragma GCC unroll 16
        for (int i = 0; i < RANDOM_WIDE * 4; i++)         /* the upper 24 bits of a word, or all 32: exact */
            r[i] = BP_REAL == 32 ? v_mul(i_to_vec(i_shr(x[i % 4][s + i / 4], 8)), v_set1((real)0x1p-24))
                                 : v_mul(i_to_vec(x[i % 4][s + i / 4]), v_set1((real)0x1p-32));
#pragma GCC unroll 2
        for (int i = 0; i < RANDOM_WIDE * 4; i += VL) {
            v_transpose(r + i);
#pragma GCC unroll 16
            for (int lane = 0; lane < VL; lane++) v_store(out + lane * RANDOM_WIDE * 4 + i, r[i + lane]);
        }
    }
}

/* Where block q of a batch stands, as an index into its registers' lanes. */
INLINE int random_place(int q)
{
    int group = q / (RANDOM_WIDE * VL), lane = q % (RANDOM_WIDE * VL) / RANDOM_WIDE, beside = q % RANDOM_WIDE;
    return (group * RANDOM_WIDE + beside) * VL + lane;
}

static void random_uniform(void *dst, int64_t rows, int64_t cols, uint64_t seed, uint64_t step, uint32_t node,
                           int64_t row0, int64_t col0)
{
    if (rows <= 0 || cols <= 0) return;
    uint_ keys[10][2];                                    /* Weyl sequences */
    for (uint32_t i = 0; i < 10; i++) {
        keys[i][0] = (uint32_t)seed + i * 0x9E3779B9u;
        keys[i][1] = (uint32_t)(seed >> 32) + i * 0xBB67AE85u;
    }
    int64_t first = col0 / 4, end = (col0 + cols + 3) / 4; /* blocks of a row */
    int64_t at_row = 0, at = first;                       /* the first block of the batch */
    int whole = col0 == 4 * first && cols == 4 * (end - first); /* no block is cut: rows follow each other without a gap */
    while (at_row < rows) {
        uint_ column[RANDOM_BLOCKS], row[RANDOM_BLOCKS];
        real u[4 * RANDOM_BLOCKS];                        /* [block][4] */
        int64_t i = at_row, c = at;
#pragma GCC unroll 64
        for (int q = 0; q < RANDOM_BLOCKS; q++) {
            column[random_place(q)] = (uint32_t)c;
            row[random_place(q)] = (uint32_t)(row0 + i);
            int last = ++c == end;
            c = last ? first : c;
            i += last;
        }
        int64_t left = (rows - at_row) * (end - first) - (at - first);
        if (whole && left >= RANDOM_BLOCKS) {             /* the batch is one run of the tile */
            random_blocks(column, row, node, (uint32_t)step, keys, (real *)dst + at_row * cols + 4 * (at - first));
            at_row = i;
            at = c;
            continue;
        }
        random_blocks(column, row, node, (uint32_t)step, keys, u);
        for (int64_t q = 0; q < RANDOM_BLOCKS && at_row < rows;) { /* one run of blocks for each row, cut to the tile */
            int64_t run = end - at < RANDOM_BLOCKS - q ? end - at : RANDOM_BLOCKS - q;
            int64_t from = 4 * at - col0, to = from + 4 * run, skip = from < 0 ? -from : 0;
            if (to > cols) to = cols;
            memcpy((real *)dst + at_row * cols + from + skip, u + 4 * q + skip,
                   (size_t)(to - from - skip) * sizeof(real));
            q += run;
            at += run;
            if (at == end) {
                at = first;
                at_row++;
            }
        }
    }
}
