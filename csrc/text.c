/* text.c: files of word vectors. A table of words, a reader of decimal numbers, and a reader that takes a file's bytes in
 * chunks: GloVe and word2vec text (one word and its numbers a line), and word2vec's binary records.
 *
 * The bytes may come from anywhere. What is wrong with them is reported with its line, nothing is believed about their
 * number, and memory grows by what has arrived. */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backprop.h"

/* ------------------------------------------------------------------ a table of words
 * All words lie in one block of bytes, word i at bytes[start[i] .. start[i + 1]); a hash table with linear probing gives
 * the number of a word. Some 20 bytes a word and the word itself, where Python's strings and a dict take 150. */
struct bp_words {
    char *bytes;             /* [room_bytes] */
    int64_t *start;          /* [room], room > n */
    int32_t *slot;           /* [mask + 1], the number of a word or -1 */
    int64_t n, room, room_bytes, mask;
};

static uint64_t hash(const char *word, int64_t n)
{
    uint64_t h = (uint64_t)n;                  /* multiply and fold, 8 bytes at a time; any odd multiplier of 64 random bits */
    while (n > 0) {
        uint64_t part = 0;
        memcpy(&part, word, n < 8 ? (size_t)n : 8);
        h = (h ^ part) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
        word += 8;
        n -= 8;
    }
    return h * 0xD6E8FEB86659FD93u >> 20;
}

bp_words *bp_words_new(void)
{
    bp_words *w = calloc(1, sizeof *w);
    if (w == NULL) return NULL;
    w->mask = 15;
    w->room = 1;
    w->start = calloc(1, sizeof *w->start);
    w->slot = malloc(((size_t)w->mask + 1) * sizeof *w->slot);
    if (w->start == NULL || w->slot == NULL) {
        bp_words_free(w);
        return NULL;
    }
    memset(w->slot, 0xff, ((size_t)w->mask + 1) * sizeof *w->slot);
    return w;
}

void bp_words_free(bp_words *w)
{
    if (w == NULL) return;
    free(w->bytes);
    free(w->start);
    free(w->slot);
    free(w);
}

int64_t bp_words_count(const bp_words *w) { return w->n; }

const char *bp_words_get(const bp_words *w, int64_t i, int64_t *n)
{
    *n = w->start[i + 1] - w->start[i];
    return *n ? w->bytes + w->start[i] : "";
}

/* The slot that holds the word, or the empty one where it would stand. */
static int64_t probe(const bp_words *w, const char *word, int64_t n)
{
    int64_t at = (int64_t)hash(word, n) & w->mask;
    for (;; at = (at + 1) & w->mask) {
        int32_t i = w->slot[at];
        if (i < 0) return at;
        if (w->start[i + 1] - w->start[i] == n && memcmp(w->bytes + w->start[i], word, (size_t)n) == 0) return at;
    }
}

int64_t bp_words_find(const bp_words *w, const char *word, int64_t n)
{
    return n > 0 ? w->slot[probe(w, word, n)] : -1;
}

static int rehash(bp_words *w)
{
    int64_t mask = 2 * w->mask + 1;
    int32_t *slot = malloc(((size_t)mask + 1) * sizeof *slot);
    if (slot == NULL) return -1;
    memset(slot, 0xff, ((size_t)mask + 1) * sizeof *slot);
    free(w->slot);
    w->slot = slot;
    w->mask = mask;
    for (int64_t i = 0; i < w->n; i++) {
        int64_t n, at;
        const char *word = bp_words_get(w, i, &n);
        for (at = (int64_t)hash(word, n) & mask; slot[at] >= 0;) at = (at + 1) & mask;
        slot[at] = (int32_t)i;
    }
    return 0;
}

/* `block` with room for `need` elements of `size` bytes; NULL: out of memory, and `block` is as it was. Room that is never
 * written to takes no memory of the machine, so a growth of a half costs nothing but address space. */
static void *reserve(void *block, int64_t *room, int64_t need, size_t size)
{
    if (need <= *room) return block;
    int64_t more = *room + *room / 2;
    if (more < need) more = need;
    if ((uint64_t)more > SIZE_MAX / size) return NULL;
    void *grown = realloc(block, (size_t)more * size);
    if (grown != NULL) *room = more;
    return grown;
}

int64_t bp_words_add(bp_words *w, const char *word, int64_t n)
{
    if (n <= 0) return -1;
    int64_t at = probe(w, word, n);
    if (w->slot[at] >= 0) return w->slot[at];
    void *start = reserve(w->start, &w->room, w->n + 2, sizeof *w->start);
    if (start == NULL) return -1;
    w->start = start;
    void *bytes = reserve(w->bytes, &w->room_bytes, w->start[w->n] + n, 1);
    if (bytes == NULL || w->n == INT32_MAX) return -1;
    w->bytes = bytes;
    if (3 * (w->n + 1) > 2 * w->mask) {        /* at most two thirds full */
        if (rehash(w) != 0) return -1;
        at = probe(w, word, n);
    }
    memcpy(w->bytes + w->start[w->n], word, (size_t)n);
    w->start[w->n + 1] = w->start[w->n] + n;
    w->slot[at] = (int32_t)w->n;
    return w->n++;
}

/* ------------------------------------------------------------------ decimal numbers */
static const double TEN[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};   /* all exact */

/* A value at `a`, good to 4 units in the last place of a double: does its neighbourhood hold a point where the rounding to
 * float32 turns (29 bits below the last that stays: a one and 28 zeros)? Below the normal floats those points lie elsewhere. */
static int near_turn(double a)
{
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    uint64_t below = (bits & 0x1FFFFFFFu) - (0x10000000u - 4);
    return below <= 8 || a < (double)FLT_MIN;
}

const char *bp_decimal(const char *p, float *out, bp_exact_fn exact, void *arg)
{
    int negative = *p == '-', digits = 0, any = 0;
    int64_t e = 0;                             /* value = w 10^e, but for digits beyond the 19th significant one */
    uint64_t w = 0;
    unsigned d;
    p += negative || *p == '+';
    const char *begin = p;
    for (; (d = (unsigned char)*p - (unsigned)'0') < 10; p++, any = 1) {
        if (digits == 19) e++;
        else w = 10 * w + d, digits += w != 0;
    }
    if (*p == '.')
        for (p++; (d = (unsigned char)*p - (unsigned)'0') < 10; p++, any = 1)
            if (digits < 19) w = 10 * w + d, digits += w != 0, e--;
    if (!any) return NULL;
    if (*p == 'e' || *p == 'E') {
        int down = p[1] == '-';
        int64_t x = 0;
        p += 1 + (down || p[1] == '+');
        if ((unsigned char)*p - (unsigned)'0' >= 10) return NULL;
        for (; (d = (unsigned char)*p - (unsigned)'0') < 10; p++)
            if (x < 1000000) x = 10 * x + d;
        e += down ? -x : x;
    }
    double a = (double)w;
    if (w != 0) {
        if (e < -22 || e > 22) a = exact(arg, begin, p);
        else {
            /* Clinger (1990): up to 2^53 both operands are exact, and one operation rounds once. Else three roundings and
             * the lost digits put `a` within 3 units of the nearest double. */
            a = e < 0 ? a / TEN[-e] : a * TEN[e];
            if (w > (uint64_t)1 << 53 && near_turn(a)) a = exact(arg, begin, p);
        }
    }
    *out = (float)(negative ? -a : a);
    return p;
}

/* ------------------------------------------------------------------ the reader */
struct bp_vectors {
    bp_vectors_args args;
    bp_words *words;
    float *matrix;           /* [room, dim] */
    float *row;              /* [dim] the row that is being read: it joins the matrix when its word is new */
    int64_t dim, room;
    int64_t seen, duplicates, line, blank;
};

bp_vectors *bp_vectors_new(const bp_vectors_args *args)
{
    bp_vectors *v = calloc(1, sizeof *v);
    if (v == NULL) return NULL;
    v->args = *args;
    v->dim = args->dim;
    v->line = args->line;
    v->words = bp_words_new();
    if (v->words == NULL) {
        free(v);
        return NULL;
    }
    return v;
}

void bp_vectors_free(bp_vectors *v)
{
    if (v == NULL) return;
    bp_words_free(v->words);
    free(v->matrix);
    free(v->row);
    free(v);
}

bp_vectors_counts bp_vectors_count(const bp_vectors *v)
{
    return (bp_vectors_counts){.words = v->words->n, .dim = v->dim, .seen = v->seen, .duplicates = v->duplicates};
}

void bp_vectors_take(bp_vectors *v, bp_words **words, float **matrix)
{
    size_t size = (size_t)v->words->n * (size_t)v->dim * sizeof(float);
    float *fitted = size ? realloc(v->matrix, size) : NULL;
    *matrix = fitted != NULL ? fitted : v->matrix;
    *words = v->words;
    v->matrix = NULL;
    v->words = NULL;
}

enum { SHOWN = 40 };         /* bytes of a word or number in a message */

/* Writes "line 3: 'word': ", then the message with up to two numbers; returns -1. The bytes are another's: control
 * characters become question marks. */
static int bad(const bp_vectors *v, char *err, size_t size, const char *word, int64_t n, const char *format, int64_t a, int64_t b)
{
    char shown[SHOWN + 1] = "", place[32];
    for (int64_t i = 0; i < n && i < SHOWN; i++) {
        shown[i] = (unsigned char)word[i] < 32 || word[i] == 127 ? '?' : word[i];
        shown[i + 1] = 0;
    }
    if (v->args.binary) snprintf(place, sizeof place, "vector %lld", (long long)v->seen + 1);
    else snprintf(place, sizeof place, "line %lld", (long long)v->line);
    int used = n > 0 ? snprintf(err, size, "%s: '%s'%s", place, shown, n > SHOWN ? "... " : " ")
                     : snprintf(err, size, "%s: ", place);
    if (used > 0 && (size_t)used < size) snprintf(err + used, size - (size_t)used, format, (long long)a, (long long)b);
    return -1;
}

/* Well-formed UTF-8 (RFC 3629): shortest form, no surrogates, at most U+10FFFF. */
static int is_utf8(const char *text, int64_t n)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n;
    while (p < end) {
        unsigned c = *p++;
        if (c < 0x80) continue;
        int more = c >= 0xC2 && c <= 0xDF ? 1 : (c & 0xF0) == 0xE0 ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
        if (more == 0 || end - p < more) return 0;
        if ((c == 0xE0 && *p < 0xA0) || (c == 0xED && *p > 0x9F)) return 0;
        if ((c == 0xF0 && *p < 0x90) || (c == 0xF4 && *p > 0x8F)) return 0;
        for (; more > 0; more--)
            if ((*p++ & 0xC0) != 0x80) return 0;
    }
    return 1;
}

/* The row that has been read joins, unless its word stands already. */
static int take_row(bp_vectors *v, const char *word, int64_t n, char *err, size_t size)
{
    if (v->args.utf8 && !is_utf8(word, n)) return bad(v, err, size, word, n, "is not valid UTF-8", 0, 0);
    int64_t before = v->words->n;
    float *matrix = reserve(v->matrix, &v->room, before + 1, (size_t)v->dim * sizeof(float));
    if (matrix != NULL) v->matrix = matrix;
    int64_t at = matrix != NULL ? bp_words_add(v->words, word, n) : -1;
    if (at < 0) return bad(v, err, size, word, n, "does not fit into memory any more", 0, 0);
    if (at == before) memcpy(v->matrix + before * v->dim, v->row, (size_t)v->dim * sizeof(float));
    else v->duplicates++;
    return 0;
}

static int is_blank(char c) { return c == ' ' || c == '\t'; }

static const char *skip(const char *p)
{
    while (is_blank(*p)) p++;
    return p;
}

/* The field that ends at `end`, after `begin`: where it starts. */
static const char *field_before(const char *begin, const char *end)
{
    while (end > begin && !is_blank(end[-1])) end--;
    return end;
}

static const char *trimmed(const char *begin, const char *end)
{
    while (end > begin && (is_blank(end[-1]) || end[-1] == '\r')) end--;
    return end;
}

/* Whether a field is meant as a number: a finite one, or a spelling of NaN or infinity. */
static int is_numeric(const bp_vectors *v, const char *begin, const char *end)
{
    float x;
    if (bp_decimal(begin, &x, v->args.exact, v->args.arg) == end) return 1;
    if (begin < end && (*begin == '-' || *begin == '+')) begin++;
    int64_t n = end - begin;
    static const char *const names[] = {"nan", "inf", "infinity"};
    for (int i = 0; i < 3; i++) {
        int64_t k = 0;
        while (k < n && names[i][k] != 0 && (begin[k] | 32) == names[i][k]) k++;
        if (k == n && names[i][k] == 0) return 1;
    }
    return 0;
}

/* The end of the word of a line: what stands before its last `dim` fields. With dim 0 (the first line of a file without a
 * header), before as many fields as are numbers. NULL: there are no such fields. */
static const char *word_end(bp_vectors *v, const char *begin, const char *end)
{
    const char *p = end, *field;
    int64_t found = 0;
    while (v->dim == 0 || found < v->dim) {
        field = field_before(begin, p);
        if (field == begin) break;
        if (v->dim == 0 && !is_numeric(v, field, p)) break;
        p = trimmed(begin, field);
        found++;
    }
    if (found == 0 || p == begin || (v->dim != 0 && found < v->dim)) return NULL;
    if (v->dim == 0) v->dim = found;
    return p;
}

/* What is wrong with a line that has been refused. */
static int explain(const bp_vectors *v, const char *begin, const char *end, char *err, size_t size)
{
    const char *first = begin;
    while (first < end && !is_blank(*first)) first++;
    if (first == begin) return bad(v, err, size, "", 0, "no word stands before the numbers", 0, 0);
    int64_t fields = 0;
    for (const char *p = end, *field; p > first; p = trimmed(first, field), fields++) {
        field = field_before(first, p);
        if (!is_numeric(v, field, p)) return bad(v, err, size, field, p - field, "is not a number", 0, 0);
        float x;
        if (bp_decimal(field, &x, v->args.exact, v->args.arg) != p || !(x - x == 0))
            return bad(v, err, size, field, p - field, "is not a finite float32", 0, 0);
    }
    if (v->dim == 0) return bad(v, err, size, begin, first - begin, "has no numbers behind it", 0, 0);
    return bad(v, err, size, begin, first - begin, "has %lld numbers, expected %lld", fields, v->dim);
}

/* The `dim` numbers of a line, from the end of its word on. */
static int read_row(const bp_vectors *v, const char *p, const char *end)
{
    for (int64_t i = 0; i < v->dim; i++) {
        const char *q = skip(p);
        if (q == p) return -1;
        p = bp_decimal(q, &v->row[i], v->args.exact, v->args.arg);
        if (p == NULL || !(v->row[i] - v->row[i] == 0)) return -1;
    }
    return p == end ? 0 : -1;
}

/* A line [begin, end) without its newline. */
static int text_line(bp_vectors *v, const char *begin, const char *end, char *err, size_t size)
{
    v->line++;
    end = trimmed(begin, end);
    if (begin == end) {
        if (v->blank == 0) v->blank = v->line; /* forgiven at the end of the file */
        return 0;
    }
    if (v->blank != 0) {
        v->line = v->blank;
        return bad(v, err, size, "", 0, "the line is empty", 0, 0);
    }
    if (v->args.announced >= 0 && v->seen == v->args.announced)
        return bad(v, err, size, "", 0, "one more than the %lld vectors that line 1 announces", v->args.announced, 0);

    /* Nearly always the word ends at the first blank. Words that hold blanks themselves (GloVe 840B has some) end where
     * `dim` numbers begin, which is told from the right; their later parts are no numbers, else there is one too many. */
    const char *word = begin;
    while (word < end && !is_blank(*word)) word++;
    if (v->row == NULL || v->args.wanted != NULL) {
        word = word_end(v, begin, end);
        if (word == NULL) return explain(v, begin, end, err, size);
    }
    if (v->row == NULL && (v->row = malloc((size_t)v->dim * sizeof(float))) == NULL)
        return bad(v, err, size, "", 0, "no memory for %lld numbers", v->dim, 0);
    int skipped = v->args.wanted != NULL && bp_words_find(v->args.wanted, begin, word - begin) < 0;
    if (!skipped && read_row(v, word, end) != 0) {
        word = word_end(v, begin, end);
        if (word == NULL || read_row(v, word, end) != 0) return explain(v, begin, end, err, size);
    }
    for (const char *p = word, *field; (field = field_before(begin, p)) > begin; p = trimmed(begin, field))
        if (is_numeric(v, field, p)) return explain(v, begin, end, err, size);
    if (word == begin || is_blank(*begin)) return explain(v, begin, end, err, size);
    v->seen++;
    return skipped ? 0 : take_row(v, begin, word - begin, err, size);
}

static int64_t feed_text(bp_vectors *v, const char *data, int64_t n, char *err, size_t size)
{
    const char *p = data, *end = data + n, *stop;
    while (p < end && (stop = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        if (text_line(v, p, stop, err, size) != 0) return -1;
        p = stop + 1;
    }
    return p - data;
}

enum { LONGEST_WORD = 1 << 16 };               /* bytes of a word in a binary file */

static int64_t feed_binary(bp_vectors *v, const char *data, int64_t n, char *err, size_t size)
{
    const char *p = data, *end = data + n;
    for (;;) {
        const char *begin = p, *space;
        while (begin < end && *begin == '\n') begin++;     /* word2vec ends each vector with one, others do not */
        if (v->seen == v->args.announced) {
            if (begin < end) return bad(v, err, size, "", 0, "more bytes follow the %lld vectors of the header", v->seen, 0);
            return begin - data;
        }
        int64_t left = end - begin;
        space = left > 0 ? memchr(begin, ' ', left < LONGEST_WORD ? (size_t)left : LONGEST_WORD) : NULL;
        if (space == NULL && left >= LONGEST_WORD) return bad(v, err, size, "", 0, "its word has no end", 0, 0);
        if (space == begin) return bad(v, err, size, "", 0, "it has no word", 0, 0);
        if (space == NULL || (end - space - 1) / 4 < v->dim) return p - data;
        if (v->row == NULL && (v->row = malloc((size_t)v->dim * sizeof(float))) == NULL)
            return bad(v, err, size, "", 0, "no memory for %lld numbers", v->dim, 0);
        if (v->args.wanted == NULL || bp_words_find(v->args.wanted, begin, space - begin) >= 0) {
            const unsigned char *b = (const unsigned char *)space + 1;
            for (int64_t i = 0; i < v->dim; i++, b += 4) {
                uint32_t bits = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
                memcpy(&v->row[i], &bits, 4);
                if ((bits & 0x7F800000u) == 0x7F800000u)
                    return bad(v, err, size, begin, space - begin, "holds NaN or infinity (number %lld)", i + 1, 0);
            }
            if (take_row(v, begin, space - begin, err, size) != 0) return -1;
        }
        v->seen++;
        p = space + 1 + 4 * v->dim;
    }
}

int64_t bp_vectors_feed(bp_vectors *v, const char *data, int64_t n, char *err, size_t size)
{
    return v->args.binary ? feed_binary(v, data, n, err, size) : feed_text(v, data, n, err, size);
}
