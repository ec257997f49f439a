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
INLINE void random_blocks(const ivec *column, const ivec *row, uint_ node, uint_ step, uint_ keys[10][2], real *u)
{
    ivec x[4][RANDOM_SETS];
#pragma GCC unroll 4
    for (int s = 0; s < RANDOM_SETS; s++) {
        x[0][s] = column[s];
        x[1][s] = row[s];
        x[2][s] = i_set1(node);
        x[3][s] = i_set1(step);
    }
    ivec m0 = i_set1(0xD2511F53u), m1 = i_set1(0xCD9E8D57u);
    for (int round = 0; round < 10; round++) {
        ivec k0 = i_set1(keys[round][0]), k1 = i_set1(keys[round][1]);
#pragma GCC unroll 4
        for (int s = 0; s < RANDOM_SETS; s++) {
            ivec low0, low1, high0 = i_mulwide(x[0][s], m0, &low0), high1 = i_mulwide(x[2][s], m1, &low1);
            x[0][s] = i_xor(i_xor(x[1][s], k0), high1);
            x[2][s] = i_xor(i_xor(x[3][s], k1), high0);
            x[1][s] = low1;
            x[3][s] = low0;
        }
    }
#pragma GCC unroll 4
    for (int s = 0; s < RANDOM_SETS; s += RANDOM_WIDE) {  /* transpose VL registers, or 4 of them, VL at a time */
        real *out = u + 4 * s * VL;
        vec r[RANDOM_WIDE * 4];
#pragma GCC unroll 16
        for (int i = 0; i < RANDOM_WIDE * 4; i++) {       /* the upper 24 bits of a word, or all 32: exact */
            const ivec word = i_and(x[i % 4][s + i / 4], i_set1(0xffffffffu));
            r[i] = BP_REAL == 32 ? v_mul(i_to_vec(i_shr(word, 8)), v_set1((real)0x1p-24))
                                 : v_mul(i_to_vec(word), v_set1((real)0x1p-32));
        }
#pragma GCC unroll 2
        for (int i = 0; i < RANDOM_WIDE * 4; i += VL) {
            v_transpose(r + i);
#pragma GCC unroll 16
            for (int lane = 0; lane < VL; lane++) v_store(out + lane * RANDOM_WIDE * 4 + i, r[i + lane]);
        }
    }
}

/* The blocks of the next batch: `more` columns and `more_rows` rows on, and from a row's end on to the next row. */
INLINE void random_advance(ivec *column, ivec *row, int64_t more, int64_t more_rows, int64_t last, int64_t per)
{
#pragma GCC unroll 4
    for (int s = 0; s < RANDOM_SETS; s++) {
        column[s] = i_add(column[s], i_set1((uint32_t)more));
        const ivec over = i_shr(i_sub(i_set1((uint32_t)last), column[s]), BP_REAL - 1); /* 1 where it is beyond the last one */
        column[s] = i_sub(column[s], i_and(i_set1((uint32_t)per), i_sub(i_set1(0), over)));
        row[s] = i_add(row[s], i_add(i_set1((uint32_t)more_rows), over));
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
    int64_t first = col0 / 4, end = (col0 + cols + 3) / 4, per = end - first; /* blocks of a row */
    int64_t at_row = 0, at = first;                       /* the first block of the batch */
    int whole = col0 == 4 * first && cols == 4 * per;     /* no block is cut: rows follow each other without a gap */
    ivec column[RANDOM_SETS], row[RANDOM_SETS];           /* of the batch's blocks */
    {
        uint_ c[RANDOM_BLOCKS], r[RANDOM_BLOCKS];
        int64_t i = row0, j = first;
#pragma GCC unroll 64
        for (int q = 0; q < RANDOM_BLOCKS; q++) {
            c[random_place(q)] = (uint32_t)j;
            r[random_place(q)] = (uint32_t)i;
            const int last = ++j == end;
            j = last ? first : j;
            i += last;
        }
        for (int s = 0; s < RANDOM_SETS; s++) {
            column[s] = i_load(c + s * VL);
            row[s] = i_load(r + s * VL);
        }
    }
    const int64_t more_rows = RANDOM_BLOCKS / per, more = RANDOM_BLOCKS % per; /* from a batch to the next */
    for (; at_row < rows; random_advance(column, row, more, more_rows, end - 1, per)) {
        real u[4 * RANDOM_BLOCKS];                        /* [block][4] */
        int64_t left = (rows - at_row) * per - (at - first);
        if (whole && left >= RANDOM_BLOCKS) {             /* the batch is one run of the tile */
            random_blocks(column, row, node, (uint32_t)step, keys, (real *)dst + at_row * cols + 4 * (at - first));
            at += more;
            at_row += more_rows + (at >= end);
            at -= at >= end ? per : 0;
            continue;
        }
        random_blocks(column, row, node, (uint32_t)step, keys, u);
        if (whole) { /* and so is the last */
            memcpy((real *)dst + at_row * cols + 4 * (at - first), u, (size_t)(4 * left) * sizeof(real));
            break;
        }
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
