/* cpu.c: which instruction sets this processor can run, which one is in use, and the floating-point control state. */
#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* syscall */
#endif
#include "kernels.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#if defined(BP_HAVE_BF16) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#define CPU_X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

/* setup.py defines BP_HAVE_<SET> for every set that it compiles besides scalar. */
static const struct { const char *name; const bp_kernels *f32, *f64; } sets[BP_ISA_COUNT] = {
    [BP_ISA_SCALAR] = {"scalar", &bp_kernels_scalar_f32, &bp_kernels_scalar_f64},
#ifdef BP_HAVE_AVX2
    [BP_ISA_AVX2] = {"avx2", &bp_kernels_avx2_f32, &bp_kernels_avx2_f64},
#else
    [BP_ISA_AVX2] = {"avx2", NULL, NULL},
#endif
#ifdef BP_HAVE_AVX512
    [BP_ISA_AVX512] = {"avx512", &bp_kernels_avx512_f32, &bp_kernels_avx512_f64},
#else
    [BP_ISA_AVX512] = {"avx512", NULL, NULL},
#endif
#ifdef BP_HAVE_NEON
    [BP_ISA_NEON] = {"neon", &bp_kernels_neon_f32, &bp_kernels_neon_f64},
#else
    [BP_ISA_NEON] = {"neon", NULL, NULL},
#endif
};

static int in_range(int isa) { return isa >= 0 && isa < BP_ISA_COUNT; }

const char *bp_isa_name(int isa) { return in_range(isa) ? sets[isa].name : "?"; }
int bp_isa_compiled(int isa) { return in_range(isa) && sets[isa].f32 != NULL; }

#ifdef CPU_X86
/* Register state that the system saves on a switch of threads: a set whose registers it does not save is not usable,
 * whatever cpuid says. */
static unsigned saved_state(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int processor_has(int isa)
{
    enum { XMM_YMM = 0x6, ZMM = 0xe6 };                       /* XCR0: SSE, AVX | opmask, upper ZMM0-15, ZMM16-31 */
    unsigned a, b, c, d, b7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    int fma = (c & bit_FMA) && (c & bit_AVX);
    if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d)) return 0;
    unsigned state = saved_state();
    int avx2 = fma && (b7 & bit_AVX2) && (state & XMM_YMM) == XMM_YMM;
    if (isa == BP_ISA_AVX2) return avx2;
    unsigned parts = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    return isa == BP_ISA_AVX512 && avx2 && (b7 & parts) == parts && (state & ZMM) == ZMM;
}
#else
/* Advanced SIMD is part of every AArch64 processor, so what is compiled there can run. */
static int processor_has(int isa) { return isa == BP_ISA_NEON; }
#endif

int bp_isa_supported(int isa)
{
    static atomic_int cache[BP_ISA_COUNT];                    /* 0 unknown, 1 no, 2 yes; cpuid is slow under a hypervisor */
    if (!bp_isa_compiled(isa)) return 0;
    if (isa == BP_ISA_SCALAR) return 1;
    int known = atomic_load_explicit(&cache[isa], memory_order_relaxed);
    if (known == 0) {
        known = 1 + processor_has(isa);
        atomic_store_explicit(&cache[isa], known, memory_order_relaxed);
    }
    return known == 2;
}

/* ------------------------------------------------------------------ kinds of processors */
/* Measured on Granite Rapids, whose caches hand out lines at a stride slowly, so that a copy of them pays soon, and on Zen 4, with AVX-512
 * and with AVX2. There an fma of 512 bits takes two turns, and a root 10 cycles. */
static const bp_traits kinds[BP_KIND_COUNT] = {
    [BP_KIND_OTHER] = {.divides_roots = 0, .asks_for_rows = 0, .large_rows = 48},
    [BP_KIND_ZEN] = {.divides_roots = 0, .asks_for_rows = 1, .large_rows = 289, .memory_rows = 289},
    [BP_KIND_ZEN4] = {.divides_roots = 1, .asks_for_rows = 1, .large_rows = 289, .memory_rows = 289},
};

const bp_traits *bp_here = &kinds[BP_KIND_OTHER];

static int find_kind(void)
{
#ifdef CPU_X86
    enum { FAMILY_19H = 10 }; /* Zen 3, which lacks AVX-512, and Zen 4: beyond the 15 of the base field */
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || d != signature_AMD_edx || c != signature_AMD_ecx) return BP_KIND_OTHER;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return BP_KIND_OTHER;
    return (a >> 20 & 0xff) == FAMILY_19H ? BP_KIND_ZEN4 : BP_KIND_ZEN;
#else
    return BP_KIND_OTHER;
#endif
}

int bp_kind_select(int new)
{
    const int old = (int)(bp_here - kinds);
    if (new >= 0 && new < BP_KIND_COUNT) bp_here = &kinds[new];
    return old;
}

/* ------------------------------------------------------------------ the set in use */
static atomic_int current = -1;                               /* -1: not chosen yet */

static int best(void)
{
    int isa = BP_ISA_SCALAR;
    for (int i = 0; i < BP_ISA_COUNT; i++)
        if (bp_isa_supported(i)) isa = i;                     /* the enum ascends in speed within an architecture */
    return isa;
}

int bp_isa_select(const char *name, char *err, size_t err_size)
{
    bp_kind_select(find_kind());
    if (name == NULL || name[0] == '\0') {
        atomic_store(&current, best());
        return 0;
    }
    int isa = 0;
    while (isa < BP_ISA_COUNT && strcmp(name, sets[isa].name) != 0) isa++;
    if (bp_isa_supported(isa)) {
        atomic_store(&current, isa);
        return 0;
    }
    if (err_size > 0) {
        char there[64] = "";
        for (int i = 0; i < BP_ISA_COUNT; i++)
            if (bp_isa_supported(i)) {
                if (there[0]) strcat(there, ", ");
                strcat(there, sets[i].name);
            }
        snprintf(err, err_size, "BACKPROP_ISA=%.32s: %s (supported: %s)", name,
                 isa == BP_ISA_COUNT      ? "there is no such instruction set"
                 : !bp_isa_compiled(isa)  ? "this build does not contain it"
                                          : "this processor does not have it", there);
    }
    return -1;
}

int bp_isa_current(void)
{
    int isa = atomic_load(&current);
    return isa >= 0 ? isa : best();
}

const bp_kernels *bp_kernels_for(int isa, int real_bytes)
{
    if (!bp_isa_supported(isa)) return NULL;
    return real_bytes == 4 ? sets[isa].f32 : real_bytes == 8 ? sets[isa].f64 : NULL;
}

const bp_kernels *bp_kernels_current(int real_bytes) { return bp_kernels_for(bp_isa_current(), real_bytes); }

/* ------------------------------------------------------------------ tiles */
#if defined(BP_HAVE_BF16)
#if defined(__linux__)
/* The system saves a thread's tiles only for a process that has asked for it: once, before the first is touched. */
static int may_use_amx(void)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, TILES = 3 << 17 }; /* leaf 7, edx; XCR0: configuration, data */
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if ((saved_state() & TILES) != TILES || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & BF16) || !(d & TILE)) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#else
static int may_use_amx(void) { return 0; }
#endif

static const bp_tiles *find_tiles(void)
{
    unsigned a, b, c, d;
    if (!bp_isa_supported(BP_ISA_AVX512) || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1 << 5)) return NULL; /* AVX512-BF16 */
    return may_use_amx() ? &bp_tiles_amx : &bp_tiles_dot;
}

const bp_tiles *bp_tiles_of(const bp_kernels *t)
{
    static const bp_tiles unknown;
    static _Atomic(const bp_tiles *) cache = &unknown;
    if (t != &bp_kernels_avx512_f32) return NULL;
    const bp_tiles *found = atomic_load_explicit(&cache, memory_order_relaxed);
    if (found == &unknown) {
        found = find_tiles();
        atomic_store_explicit(&cache, found, memory_order_relaxed);
    }
    return found;
}
#else
const bp_tiles *bp_tiles_of(const bp_kernels *t) { (void)t; return NULL; }
#endif

/* ------------------------------------------------------------------ floating-point control */
#if defined(CPU_X86)
/* MXCSR: bits 7-12 mask the six exceptions, 13-14 round (0: to nearest), 6 and 15 take and give zero for denormals. */
uint64_t bp_fp_state(void) { return _mm_getcsr(); }
void bp_fp_leave(uint64_t saved) { _mm_setcsr((unsigned)saved); }
uint64_t bp_fp_enter(int flush)
{
    uint64_t saved = bp_fp_state();
    _mm_setcsr(0x1f80u | (flush ? 0x8040u : 0u));
    return saved;
}
#elif defined(__aarch64__)
/* FPCR (low half): all zero is round to nearest, no traps, NaNs propagate; bit 24 flushes. FPSR (high half): the sticky
 * flags, which MXCSR holds as well. */
uint64_t bp_fp_state(void)
{
    uint64_t control, status;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status));
    return status << 32 | (control & 0xffffffffu);
}
void bp_fp_leave(uint64_t saved)
{
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(saved & 0xffffffffu), "r"(saved >> 32));
}
uint64_t bp_fp_enter(int flush)
{
    uint64_t saved = bp_fp_state();
    bp_fp_leave(flush ? (uint64_t)1 << 24 : 0);
    return saved;
}
#else
/* No known control register: the C default holds, and denormals stay. */
uint64_t bp_fp_state(void) { return 0; }
void bp_fp_leave(uint64_t saved) { (void)saved; }
uint64_t bp_fp_enter(int flush) { (void)flush; return 0; }
#endif
