/* ops.c: the names of the operations, for Python and the tests. */
#include "backprop.h"

const bp_op_row bp_map_rows[BP_MAP_COUNT] = {
#define BP_MAP(NAME, name, arity, algebra) {#name, arity, algebra},
#include "ops.def"
};

enum { X0, X1, X2, X3, X4, S0 = BP_CHAIN_VECTORS, S1, S2, S3, S4, S5, S6, HIDDEN = 0, KEPT = 1 };
#define R(i) (-1 - (i))
const bp_chain_row bp_chain_rows[BP_CHAIN_COUNT] = {
#define BP_CHAIN(NAME, name, vectors, numbers, results, ns, ...)                                                       \
    {#name, vectors, numbers, results, ns, sizeof((bp_chain_step[]){__VA_ARGS__}) / sizeof(bp_chain_step), {__VA_ARGS__}},
#include "ops.def"
};

const char *const bp_reduce_names[BP_REDUCE_COUNT] = {
#define BP_REDUCE(NAME, name) #name,
#include "ops.def"
};

const char *const bp_instr_names[BP_INSTR_COUNT] = {
#define BP_INSTR(NAME, name) #name,
#include "ops.def"
};
