/* ops.c: the names of the operations, for Python and the tests. */
#include "backprop.h"

const bp_op_row bp_map_rows[BP_MAP_COUNT] = {
#define BP_MAP(NAME, name, arity, algebra) {#name, arity, algebra},
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
