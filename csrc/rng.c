/* rng.c: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011), one block at a time,
 * and what is drawn from it outside of programs. A block is a bijection of its counter under its key, so every number is
 * a function of its name alone: no state, no order, no thread matters. */
#include "backprop.h"

void bp_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1], x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;                     /* golden ratio, sqrt(3) - 1: Weyl sequences of the key */
        k1 += 0xBB67AE85u;
    }
    out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

/* A stream of words: key = (seed low, high) hashed with (stream, purpose), counter = 0, 1, 2 ... The purpose keeps the
 * streams apart from each other and from the node numbers of programs, which count up from 0. */
enum { PURPOSE_PERMUTATION = -1, PURPOSE_UNIFORM = -2 };

typedef struct { uint32_t key[2], words[4]; uint64_t block; int left; } words;

static words words_open(uint64_t seed, uint64_t stream, int purpose)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, out[4];
    uint32_t counter[4] = {(uint32_t)stream, (uint32_t)(stream >> 32), (uint32_t)purpose, 0};
    bp_philox(key, counter, out);
    return (words){.key = {out[0], out[1]}};
}

static uint32_t word32(words *w)
{
    if (w->left == 0) {
        uint32_t counter[4] = {(uint32_t)w->block, (uint32_t)(w->block >> 32), 0, 0};
        bp_philox(w->key, counter, w->words);
        w->block++;
        w->left = 4;
    }
    return w->words[4 - w->left--];
}

static uint64_t word64(words *w)
{
    uint64_t low = word32(w);
    return low | (uint64_t)word32(w) << 32;
}

/* Uniform in [0, s), s >= 1, without bias. Lemire (2019): the high half of word * s, words whose low half falls into
 * the first 2^32 mod s are drawn again. Beyond 32 bits: as many bits as s - 1 has, drawn until they are below s. */
static uint64_t below(words *w, uint64_t s)
{
    if (s <= UINT32_MAX) {
        uint64_t m = (uint64_t)word32(w) * s;
        if ((uint32_t)m < s) {
            uint32_t reject = (uint32_t)(0u - (uint32_t)s) % (uint32_t)s;
            while ((uint32_t)m < reject) m = (uint64_t)word32(w) * s;
        }
        return m >> 32;
    }
    uint64_t mask = s - 1, x;
    for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    do x = word64(w) & mask;
    while (x >= s);
    return x;
}

void bp_permutation(int64_t n, uint64_t seed, uint64_t epoch, int64_t *out)
{
    words w = words_open(seed, epoch, PURPOSE_PERMUTATION);
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {      /* Fisher-Yates: out[i] is drawn from out[0..i] */
        int64_t j = (int64_t)below(&w, (uint64_t)i + 1), t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

void bp_uniform(int64_t n, uint64_t seed, uint64_t stream, double *out)
{
    words w = words_open(seed, stream, PURPOSE_UNIFORM);
    for (int64_t i = 0; i < n; i++) out[i] = (double)(word64(&w) >> 11) * 0x1p-53;
}
