/* pool.c: threads. bp_parallel hands numbered tasks to a few threads; it knows nothing of what they compute.
 *
 * One job at a time. A caller takes the flag `busy` or, where it finds it taken, runs its tasks alone: nobody ever waits
 * for another caller, so callers cannot deadlock, and a task that calls bp_parallel again finds the flag taken too.
 *
 * The gate is one 64-bit word that workers look at:   generation (32 bits) | limit (16) | active (16)
 *   open    the owner of `busy` writes the job, then stores a new generation with limit = threads of the job, active = 0
 *   join    worker w, w < limit, that has not yet been in this generation adds 1 to active by compare-and-swap
 *   leave   a worker subtracts 1 from active
 *   close   the owner, when it finds no task left, sets limit to 0, then waits until active is 0
 * Nobody can join a closed gate, and a joined worker is counted, so when the owner has seen active == 0 after closing,
 * no worker reads the job or runs a task until the next opening. The owner never waits for a worker that has not joined:
 * one that sleeps or has lost its processor costs nothing, its tasks have been taken by others.
 *
 * Tasks. Thread t owns a range of them, the same one in every job of the same shape (caches stay warm), takes from it
 * through an atomic counter, and then helps out in the ranges of the others. Every task is claimed by one fetch_add
 * and so runs once; the owner leaves its loop only when every counter is past its range, so each task is either done or is
 * in the hands of a thread that is counted in active.
 *
 * Sleep. Waiting threads spin for a bounded time, then sleep on a condition variable. Two places, one argument:
 *   sleeper:  lock; flag = 1; if (not ready) wait; ...      waker:  make ready; if (flag) { lock; flag = 0; signal; unlock }
 * All four accesses are sequentially consistent. In their single order either the sleeper's look comes after the waker's
 * "make ready", and it does not sleep; or it comes before, then so does its flag = 1, which the waker sees; the
 * waker gets the lock only once the sleeper has released it by waiting, so that its signal arrives. For workers, "ready" is an
 * open gate that they may join; for the owner, active == 0.
 *
 * Crowds. Where another process wants the processors too, sharing small jobs makes them slower: a worker that has a task but not its
 * processor keeps the owner waiting for a slice of the scheduler's, milliseconds for a job of microseconds; one that is put on the
 * owner's processor takes that. The latter need not mean a crowd: Linux wakes a thread on the waker's processor where its own does not
 * seem idle, and a virtual one that sleeps does not; the thread then waits for the next tick, milliseconds. So a worker keeps off the
 * owner's processor by its affinity while it sleeps, and as it finds itself there. If it cannot, or is there again at once,
 * it sleeps, job or no job. This and a late worker are remembered: bp_threads_crowded() says yes for a while, which doubles each time
 * that it is so again soon after. */
#define _GNU_SOURCE
#include "backprop.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 256, SPIN_NANOSECONDS = 60000, MOST_SPIN = 2000000, LINE = 128 };   /* 128: two lines, they are fetched in pairs */
enum { LATE_NANOSECONDS = 100000, LEAST_REST = 10000000, MOST_REST = 160000000 }; /* rest: how long a crowd is remembered */
enum { SETTLED = 100000 };           /* ns that a worker is to stay off the owner's processor: an owner moves */

typedef struct {                     /* where one thread sleeps */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int asleep;
} bed;

typedef struct {
    _Alignas(LINE) bed bed;
    pthread_t handle;
    int index;                       /* 1 .. MAX_THREADS-1; thread 0 is the caller */
    uint32_t generation;             /* the last job it was in */
} worker;

typedef struct {                     /* tasks [next, end) of one thread */
    _Alignas(LINE) atomic_llong next;
    int64_t end;
} range;

static struct {
    _Alignas(LINE) atomic_ullong gate;
    _Alignas(LINE) atomic_int busy;
    bed owner;
    atomic_llong rest, rest_until;   /* the last one in ns, its end on the clock (0: there was none) */
    atomic_int owner_cpu;            /* where the last caller ran, + 1 */
    /* the job: written by the owner of `busy` while the gate is closed */
    bp_task_fn fn;                   /* NULL: leave for good */
    void *arg;
    int threads;
    uint64_t fp_state;
    /* only written by the owner of `busy` */
    atomic_int started;              /* workers 1 .. started exist */
    int most;                        /* no more workers can be had: the system has refused */
    range ranges[MAX_THREADS];
    worker workers[MAX_THREADS];
} pool;

#define GATE_ACTIVE(g) ((unsigned)((g) & 0xffff))
#define GATE_LIMIT(g) ((int)((g) >> 16 & 0xffff))
#define GATE_GENERATION(g) ((uint32_t)((g) >> 32))

/* ------------------------------------------------------------------ waiting */
static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");         /* yield is a no-op on most cores; isb takes some ten nanoseconds */
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int this_cpu(void)            /* + 1; 0: not known */
{
#if defined(__linux__)
    return sched_getcpu() + 1;
#else
    return 0;
#endif
}

static void remember_crowd(int64_t now)
{
    const int64_t rest = atomic_load_explicit(&pool.rest, memory_order_relaxed);
    const int64_t since = now - atomic_load_explicit(&pool.rest_until, memory_order_relaxed);
    if (since < 0) return;           /* it is known */
    const int64_t next = since > 2 * rest ? LEAST_REST : rest < MOST_REST ? 2 * rest : MOST_REST;
    atomic_store_explicit(&pool.rest, next, memory_order_relaxed);
    atomic_store_explicit(&pool.rest_until, now + next, memory_order_relaxed);
}

int bp_threads_crowded(void)
{
    const int64_t until = atomic_load_explicit(&pool.rest_until, memory_order_relaxed);
    return until != 0 && nanoseconds() < until;
}

/* Spins until ready(arg), at most SPIN_NANOSECONDS and `longer`; returns whether it is ready. */
static int spin(int (*ready)(void *), void *arg, int64_t longer)
{
    if (ready(arg)) return 1;
    int64_t end = nanoseconds() + SPIN_NANOSECONDS + longer;
    do {
        for (int i = 0; i < 32; i++) {
            if (ready(arg)) return 1;
            pause_briefly();
        }
    } while (nanoseconds() < end);
    return 0;
}

/* Sleeps until woken, unless ready; may return early. */
static void sleep_unless(int (*ready)(void *), void *arg, bed *b)
{
    pthread_mutex_lock(&b->lock);
    atomic_store(&b->asleep, 1);
    if (!ready(arg)) pthread_cond_wait(&b->wake, &b->lock);
    atomic_store(&b->asleep, 0);
    pthread_mutex_unlock(&b->lock);
}

/* The caller has just made ready what the sleeper waits for. */
static void wake(bed *b)
{
    if (!atomic_load(&b->asleep)) return;
    pthread_mutex_lock(&b->lock);
    atomic_store(&b->asleep, 0);
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

static void make_bed(bed *b)
{
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    atomic_init(&b->asleep, 0);
}

/* ------------------------------------------------------------------ workers */
static int joinable(void *arg)
{
    const worker *w = arg;
    unsigned long long g = atomic_load(&pool.gate);
    return w->index < GATE_LIMIT(g) && w->generation != GATE_GENERATION(g);
}

static int join(worker *w)
{
    unsigned long long g = atomic_load(&pool.gate);
    while (w->index < GATE_LIMIT(g) && w->generation != GATE_GENERATION(g))
        if (atomic_compare_exchange_weak(&pool.gate, &g, g + 1)) {
            w->generation = GATE_GENERATION(g);
            return 1;
        }
    return 0;
}

static int nobody_active(void *arg)
{
    (void)arg;
    return GATE_ACTIVE(atomic_load(&pool.gate)) == 0;
}

static void run_tasks(int thread)
{
    for (int i = 0; i < pool.threads; i++) {                       /* its own range, then the others */
        range *r = &pool.ranges[(thread + i) % pool.threads];
        int64_t task;
        while (atomic_load_explicit(&r->next, memory_order_relaxed) < r->end
               && (task = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->end)
            pool.fn(pool.arg, task, thread);
    }
}

static int in_the_way(void)
{
    const int cpu = atomic_load_explicit(&pool.owner_cpu, memory_order_relaxed);
    return cpu != 0 && cpu == this_cpu();
}

typedef struct {                     /* the calling worker's affinity */
    int off;                         /* whether it is without the owner's processor */
#if defined(__linux__)
    cpu_set_t whole, others;         /* as it was, and as it is */
#endif
} affinity;

/* Lets the calling worker run on the other processors only, at once, where there are any. */
static affinity keep_off(void)
{
    affinity f = {0};
#if defined(__linux__)
    const int owner = atomic_load_explicit(&pool.owner_cpu, memory_order_relaxed) - 1;
    if (owner < 0 || owner >= CPU_SETSIZE || sched_getaffinity(0, sizeof f.whole, &f.whole) != 0) return f;
    f.others = f.whole;
    CPU_CLR(owner, &f.others);
    f.off = CPU_COUNT(&f.others) > 0 && sched_setaffinity(0, sizeof f.others, &f.others) == 0;
#endif
    return f;
}

/* And on all of them again: while it works the scheduler may choose. */
static void let_on(const affinity *f)
{
#if defined(__linux__)
    cpu_set_t now;
    if (f->off && sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &f->others)) /* else somebody has set it since */
        sched_setaffinity(0, sizeof f->whole, &f->whole);
#else
    (void)f;
#endif
}

/* Off to another processor, unless it has just been there; `moved` is when that was. */
static int step_aside(int64_t *moved)
{
    const int64_t now = nanoseconds();
    if (now - *moved < SETTLED) return 0;
    *moved = now;
    const affinity f = keep_off();
    let_on(&f);
    return f.off;
}

static int joinable_or_in_the_way(void *arg) { return joinable(arg) || in_the_way(); }

static void *worker_main(void *arg)
{
    worker *w = arg;
    int64_t moved = nanoseconds() - SETTLED;
    for (;;) {
        while (!spin(joinable_or_in_the_way, w, 0)) {
            const affinity f = keep_off();
            sleep_unless(joinable, w, &w->bed);
            let_on(&f);
        }
        /* In this order: who sees the gate that finish() opens also sees that nobody is in its way. */
        const uint32_t generation = GATE_GENERATION(atomic_load(&pool.gate));
        if (in_the_way() && !step_aside(&moved)) {
            remember_crowd(nanoseconds());
            w->generation = generation;                             /* not this one, but the next */
            sleep_unless(joinable, w, &w->bed);
            continue;
        }
        if (!join(w)) continue;                                     /* closed meanwhile */
        if (pool.fn == NULL) return NULL;
        bp_fp_leave(pool.fp_state);
        run_tasks(w->index);
        unsigned long long before = atomic_fetch_sub(&pool.gate, 1);
        if (GATE_ACTIVE(before) == 1) wake(&pool.owner);
    }
}

/* A forked child has the caller's thread alone. Whatever the parent's pool was doing, the child starts with none. */
static void reset(void)
{
    atomic_store(&pool.gate, 0);
    make_bed(&pool.owner);
    pool.started = 0;
    pool.most = MAX_THREADS - 1;
    atomic_store(&pool.busy, 0);
}

static void prepare(void)
{
    reset();
    pthread_atfork(NULL, NULL, reset);
}

static void start_workers(int wanted)
{
    sigset_t all, old;
    sigfillset(&all);                                               /* signals are the caller's affair, */
    sigdelset(&all, SIGSEGV), sigdelset(&all, SIGBUS), sigdelset(&all, SIGILL); /* except a thread's own faults */
    sigdelset(&all, SIGFPE), sigdelset(&all, SIGABRT), sigdelset(&all, SIGTRAP);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (pool.started < wanted && pool.started < pool.most) {
        worker *w = &pool.workers[pool.started + 1];
        make_bed(&w->bed);
        w->index = pool.started + 1;
        w->generation = GATE_GENERATION(atomic_load(&pool.gate));   /* this one is closed: the next is the first to join */
        if (pthread_create(&w->handle, NULL, worker_main, w) == 0) pool.started++;
        else pool.most = pool.started;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void open_gate(int threads, int cpu)
{
    atomic_store_explicit(&pool.owner_cpu, cpu, memory_order_relaxed);
    unsigned long long generation = GATE_GENERATION(atomic_load(&pool.gate)) + 1u;
    atomic_store(&pool.gate, (generation & 0xffffffff) << 32 | (unsigned long long)threads << 16);
    for (int w = 1; w < threads; w++) wake(&pool.workers[w].bed);
}

void bp_parallel(int threads, int64_t tasks, bp_task_fn fn, void *arg)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (threads > tasks) threads = (int)tasks;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1) {
        pthread_once(&once, prepare);
        if (atomic_exchange(&pool.busy, 1)) threads = 1;
        else {
            if (pool.started < threads - 1) start_workers(threads - 1);
            if (threads > pool.started + 1) threads = pool.started + 1;
            if (threads == 1) atomic_store(&pool.busy, 0);
        }
    }
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; task++) fn(arg, task, 0);
        return;
    }
    pool.fn = fn, pool.arg = arg, pool.threads = threads, pool.fp_state = bp_fp_state();
    int64_t begin = 0;
    for (int t = 0; t < threads; t++) {
        range *r = &pool.ranges[t];
        atomic_store_explicit(&r->next, begin, memory_order_relaxed);
        begin += tasks / threads + (t < tasks % threads);
        r->end = begin;
    }
    const int64_t began = nanoseconds();
    open_gate(threads, this_cpu());
    run_tasks(0);
    const int64_t ended = nanoseconds();
    atomic_fetch_and(&pool.gate, ~(0xffffull << 16));
    const int64_t own = ended - began;                              /* a worker may still have a task of such length */
    while (!spin(nobody_active, NULL, own < MOST_SPIN ? own : MOST_SPIN)) sleep_unless(nobody_active, NULL, &pool.owner);
    const int64_t now = nanoseconds();
    if (now - ended > own + LATE_NANOSECONDS) remember_crowd(now);
    atomic_store(&pool.busy, 0);
}

/* A guess: a thread may wake up or fall asleep meanwhile, and no job depends on it. Threads that are not started yet begin awake. */
int bp_threads_awake(int threads)
{
    if (pool.started < threads - 1) return threads;
    int awake = 1;
    for (int w = 1; w < threads; w++) awake += !atomic_load_explicit(&pool.workers[w].bed.asleep, memory_order_relaxed);
    return awake;
}

void bp_threads_rouse(int threads)
{
    atomic_store_explicit(&pool.owner_cpu, this_cpu(), memory_order_relaxed);
    for (int w = 1; w < threads && w <= pool.started; w++) wake(&pool.workers[w].bed);
}

/* At exit, or when the library is unloaded, idle workers leave and are joined. Where a job is under way (a daemon thread
 * still computes), the process ends around it. `busy` stays taken: whoever calls later runs alone. */
__attribute__((destructor)) static void finish(void)
{
    if (atomic_exchange(&pool.busy, 1) || pool.started == 0) return;
    pool.fn = NULL;
    open_gate(pool.started + 1, 0);                                 /* nobody is in the way of this */
    for (int w = 1; w <= pool.started; w++) pthread_join(pool.workers[w].handle, NULL);
}

/* ------------------------------------------------------------------ how many */
/* The first number of a list, 0 where there is none in [1, MAX_THREADS] (larger ones are cut). */
static int leading_number(const char *text)
{
    if (text == NULL) return 0;
    char *end;
    long n = strtol(text, &end, 10);
    end += strspn(end, " \t\n");
    if (end == text || (*end != '\0' && *end != ',') || n < 1) return 0;
    return n < MAX_THREADS ? (int)n : MAX_THREADS;
}

static int allowed_processors(void)
{
#if defined(__linux__)
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {             /* the kernel refuses sets smaller than its own */
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (set == NULL) break;
        int failed = sched_getaffinity(0, CPU_ALLOC_SIZE(cpus), set);
        int n = failed ? 0 : CPU_COUNT_S(CPU_ALLOC_SIZE(cpus), set);
        CPU_FREE(set);
        if (n > 0) return n;
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 1 ? (int)n : 1;
}

#if defined(__linux__)
/* Two numbers "quota period" in one file (v2: cpu.max), or one in each of two (v1); processors rounded up, 0: no limit. */
static int quota_in(const char *folder, const char *file1, const char *file2)
{
    long long number[2] = {0, 0};
    int got = 0;
    const char *files[2] = {file1, file2};
    for (int i = 0; i < 2 && files[i] != NULL; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        FILE *f = fopen(path, "re");
        if (f == NULL) return 0;
        while (got < 2 && fscanf(f, "%lld", &number[got]) == 1) got++;   /* "max" and -1 mean no limit */
        fclose(f);
    }
    if (got < 2 || number[0] <= 0 || number[1] <= 0) return 0;
    long long n = (number[0] + number[1] - 1) / number[1];
    return n < MAX_THREADS ? (int)n : MAX_THREADS;
}

/* The tightest quota from this process's control group up to the root; 0: none. Inside a container the path that /proc
 * names may not exist in the mounted tree: missing folders are passed over, the root stands for the container. */
static int quota_processors(const char *proc_file, const char *root)
{
    int tightest = 0;
    char line[4096];
    FILE *f = fopen(proc_file, "re");
    if (f == NULL) return 0;
    while (fgets(line, sizeof line, f) != NULL) {                   /* "id:controllers:path"; v2 has id 0, no controllers */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) continue;
        *controllers++ = *path++ = '\0';
        int v2 = controllers[0] == '\0', v1 = 0;
        for (const char *c = controllers; c != NULL; c = strchr(c, ',') ? strchr(c, ',') + 1 : NULL)
            v1 |= strncmp(c, "cpu", 3) == 0 && (c[3] == ',' || c[3] == '\0');
        if (!v1 && !v2) continue;
        for (size_t length = strlen(path);; ) {
            while (length > 0 && path[length - 1] == '/') length--;
            path[length] = '\0';
            char folder[4150];
            snprintf(folder, sizeof folder, "%s%s%s", root, v1 ? "/cpu" : "", path);
            int n = v1 ? quota_in(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us") : quota_in(folder, "cpu.max", NULL);
            if (n > 0 && (tightest == 0 || n < tightest)) tightest = n;
            if (length == 0) break;
            while (length > 0 && path[length - 1] != '/') length--;
        }
    }
    fclose(f);
    return tightest;
}
#endif

int bp_threads_default(const char **why)
{
    const char *reason;
    int n;
    if ((n = leading_number(getenv("BACKPROP_NUM_THREADS"))) > 0) reason = "BACKPROP_NUM_THREADS";
    else if ((n = leading_number(getenv("OMP_NUM_THREADS"))) > 0) reason = "OMP_NUM_THREADS";
    else {
        n = allowed_processors();
        reason = "affinity";
#if defined(__linux__)
        int quota = quota_processors("/proc/self/cgroup", "/sys/fs/cgroup");
        if (quota > 0 && quota < n) n = quota, reason = "cgroup quota";
#endif
        if (n > MAX_THREADS) n = MAX_THREADS;
    }
    if (why != NULL) *why = reason;
    return n;
}

static atomic_int setting;                                          /* 0: the default, not looked up yet */
static _Thread_local int limit;                                     /* of one thread; 0: none */

static int for_all(void)
{
    int n = atomic_load(&setting);
    if (n == 0) {
        int unset = 0;
        n = bp_threads_default(NULL);
        if (!atomic_compare_exchange_strong(&setting, &unset, n)) n = unset;   /* somebody has set it meanwhile */
    }
    return n;
}

int bp_threads_get(void)
{
    int n = for_all();
    return limit > 0 && limit < n ? limit : n;
}

int bp_threads_limit(int n)
{
    int old = limit;
    limit = n > 0 ? n : 0;
    return old;
}

int bp_threads_set(int n)
{
    int old = for_all();
    atomic_store(&setting, n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n);
    return old;
}
