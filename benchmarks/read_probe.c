// How fast can this machine's cores read memory? N threads read a buffer far larger than any cache in several
// patterns (streams of a thread, prefetch, own regions or chunks claimed from one counter) and fold what they read
// into a sum that is printed, so that no load can be dropped.
//
//   read_probe THREADS MEBIBYTES SECONDS
//
// prints one JSON object. Every pattern reads the whole buffer SCREENED times, in turns; the FINALISTS fastest then go
// on in turns for SECONDS (at least ROUNDS times). The best is the one with the highest median of those rounds.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define CHUNK ((size_t)2 << 20)  // bytes: one huge page
#define LINE 64                  // bytes that one prefetch asks for
#define SCREENED 2
#define FINALISTS 3
#define ROUNDS 5
#define MAX_ROUNDS 1000
#define SPINS (1 << 14)  // looks at a counter before the processor is offered to others: about 0.5 ms

// One register of this processor. A wider vector type would be split by the compiler, and gcc splits it through the stack.
#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX2__)
#define WIDTH 32
#else
#define WIDTH 16  // SSE2, NEON
#endif
typedef uint64_t lanes __attribute__((vector_size(WIDTH)));

// Reads `streams` equal parts side by side, `turn` bytes of each at a time, prefetching `ahead` bytes before they are
// needed (0: left to the hardware). All three are constants where it is called. Past the end a prefetch asks in vain.
static inline __attribute__((always_inline)) lanes read_streams(const char *p, size_t bytes, const size_t streams,
                                                                const size_t turn, const size_t ahead) {
    lanes a = {0}, b = {0}, c = {0}, d = {0};  // four chains: no load waits for the one before it
    const size_t part = bytes / streams;
    for (size_t i = 0; i < part; i += turn) {
#pragma GCC unroll 4
        for (size_t s = 0; s < streams; s++) {
            const char *q = p + s * part + i;
            if (ahead) {
#pragma GCC unroll 32
                for (size_t k = 0; k < turn; k += LINE) __builtin_prefetch(q + ahead + k, 0, 0);
            }
#pragma GCC unroll 32
            for (size_t k = 0; k < turn; k += 4 * WIDTH) {
                const lanes *v = (const lanes *)(q + k);
                a ^= v[0];
                b ^= v[1];
                c ^= v[2];
                d ^= v[3];
            }
        }
    }
    return (a ^ b) ^ (c ^ d);
}

#define LOOP(name, streams, turn, ahead)                                              \
    static __attribute__((noinline)) lanes name(const char *p, size_t bytes) {        \
        return read_streams(p, bytes, streams, turn, ahead);                          \
    }
// Which of them is fastest differs between processors, and with the number of threads.
LOOP(read_plain, 1, 1024, 0)
LOOP(read_two, 2, 2048, 0)
LOOP(read_four, 4, 1024, 0)
LOOP(read_ahead_4k, 1, 512, 4096)
LOOP(read_ahead_6k, 1, 256, 6144)
LOOP(read_two_ahead, 2, 256, 2048)

typedef struct {
    const char *name;
    lanes (*read)(const char *, size_t);
    int claims;  // chunks are claimed from one counter: a core that is interrupted holds up nobody
} pattern;

#define BOTH(name, read) {name ", own regions", read, 0}, {name ", claimed chunks", read, 1}
static const pattern patterns[] = {
    BOTH("1 stream", read_plain),
    BOTH("2 streams", read_two),
    BOTH("4 streams", read_four),
    BOTH("1 stream, prefetch 4 KiB ahead", read_ahead_4k),
    BOTH("1 stream, prefetch 6 KiB ahead", read_ahead_6k),
    BOTH("2 streams, prefetch 2 KiB ahead", read_two_ahead),
};
#define PATTERNS (int)(sizeof patterns / sizeof *patterns)

typedef struct {
    char *base;
    size_t bytes;
    int threads;
    const pattern *now;
    atomic_size_t next;  // claims of this round, in chunks
    atomic_int round;    // begins when this is raised: threads spin, as the system would wake them on one core
    atomic_int reading;  // workers that have not ended the round
    atomic_int stop;
} team;

typedef struct {
    team *team;
    int id;
    uint64_t check;
} worker;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_until_not(atomic_int *word, int value) {
    for (int i = 0; atomic_load(word) == value; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (i >= SPINS) sched_yield();
    }
}

static void fold(worker *w, lanes sum) {
    for (size_t k = 0; k < WIDTH / sizeof(uint64_t); k++) w->check = 31 * w->check + sum[k];  // a sum of xors alone is 0 after every second pass
}

static void do_part(worker *w) {
    team *t = w->team;
    if (t->now->claims) {
        size_t i;
        while ((i = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed)) < t->bytes / CHUNK)
            fold(w, t->now->read(t->base + i * CHUNK, CHUNK));
    } else {
        size_t part = t->bytes / (size_t)t->threads;
        fold(w, t->now->read(t->base + (size_t)w->id * part, part));
    }
}

static void *work(void *argument) {
    worker *w = argument;
    for (int round = 0;; round++) {
        wait_until_not(&w->team->round, round);
        if (atomic_load(&w->team->stop)) return NULL;
        do_part(w);
        atomic_fetch_sub(&w->team->reading, 1);
    }
}

// One pass over the buffer by all threads, the caller among them: GB/s.
static double read_once(team *t, worker *me, const pattern *p) {
    t->now = p;
    atomic_store(&t->next, 0);
    atomic_store(&t->reading, t->threads - 1);
    double begin = now();
    atomic_fetch_add(&t->round, 1);
    do_part(me);
    for (int left; (left = atomic_load(&t->reading));) wait_until_not(&t->reading, left);
    return (double)t->bytes / (now() - begin) / 1e9;
}

static char *allocate(size_t bytes) {
    char *p = aligned_alloc(CHUNK, bytes);
    if (!p) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    uint64_t x = 88172645463325252u;  // xorshift: distinct pages, so that none can be merged
    for (size_t i = 0; i < bytes; i += sizeof x) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(p + i, &x, sizeof x);
    }
    return p;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int n) {
    double sorted[MAX_ROUNDS];
    memcpy(sorted, values, (size_t)n * sizeof *values);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

static int highest(const double *values, const int *skip) {
    int best = -1;
    for (int p = 0; p < PATTERNS; p++)
        if (!skip[p] && (best < 0 || values[p] > values[best])) best = p;
    return best;
}

// Screens all patterns, then times the finalists; returns the best and fills its rounds.
static int measure(team *t, worker *me, double seconds, double screened[PATTERNS], double *GBps, int *rounds) {
    static double found[FINALISTS][MAX_ROUNDS];
    int chosen[PATTERNS] = {0}, final[FINALISTS], best = 0;
    for (int p = 0; p < PATTERNS; p++) screened[p] = 0;
    for (int i = 0; i < SCREENED; i++)
        for (int p = 0; p < PATTERNS; p++) {
            double rate = read_once(t, me, &patterns[p]);
            if (rate > screened[p]) screened[p] = rate;
        }
    for (int f = 0; f < FINALISTS; f++) {
        final[f] = highest(screened, chosen);
        chosen[final[f]] = 1;
    }
    double begin = now();
    int n = 0;
    for (; n < MAX_ROUNDS && (n < ROUNDS || now() - begin < seconds); n++)
        for (int f = 0; f < FINALISTS; f++) found[f][n] = read_once(t, me, &patterns[final[f]]);
    for (int f = 1; f < FINALISTS; f++)
        if (median(found[f], n) > median(found[best], n)) best = f;
    memcpy(GBps, found[best], (size_t)n * sizeof *GBps);
    *rounds = n;
    return final[best];
}

static void print_json(const team *t, int best, const double *screened, const double *GBps, int rounds, uint64_t check) {
    printf("{\"threads\": %d, \"bytes\": %zu, \"register_bits\": %d, \"check\": %llu, \"pattern\": \"%s\", \"rounds_GBps\": [",
           t->threads, t->bytes, 8 * WIDTH, (unsigned long long)(check & 0xffff), patterns[best].name);
    for (int i = 0; i < rounds; i++) printf("%s%.3f", i ? ", " : "", GBps[i]);
    printf("], \"screened_GBps\": {");
    for (int p = 0; p < PATTERNS; p++) printf("%s\"%s\": %.3f", p ? ", " : "", patterns[p].name, screened[p]);
    printf("}}\n");
}

int main(int argc, char **argv) {
    int threads = argc > 3 ? atoi(argv[1]) : 0, mebibytes = argc > 3 ? atoi(argv[2]) : 0;
    double seconds = argc > 3 ? atof(argv[3]) : 0;
    if (threads < 1 || threads > 1024 || mebibytes < 160 || seconds <= 0) {
        fprintf(stderr, "usage: read_probe THREADS MEBIBYTES(>= 160, a cache must not hold it) SECONDS\n");
        return 2;
    }
    size_t whole = CHUNK * (size_t)threads, bytes = (((size_t)mebibytes << 20) + whole - 1) / whole * whole;
    static team t;
    t.base = allocate(bytes), t.bytes = bytes, t.threads = threads;
    worker *w = calloc((size_t)threads, sizeof *w);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    if (!t.base || !w || !ids) return fprintf(stderr, "read_probe: cannot allocate %d MiB\n", mebibytes), 1;
    for (int i = 0; i < threads; i++) {
        w[i] = (worker){&t, i, 0};
        if (i && pthread_create(&ids[i], NULL, work, &w[i])) return fprintf(stderr, "read_probe: no thread\n"), 1;
    }
    static double GBps[MAX_ROUNDS];
    double screened[PATTERNS];
    int rounds, best = measure(&t, w, seconds, screened, GBps, &rounds);
    atomic_store(&t.stop, 1);
    atomic_fetch_add(&t.round, 1);
    uint64_t check = w[0].check;
    for (int i = 1; i < threads; i++) {
        pthread_join(ids[i], NULL);
        check ^= w[i].check;
    }
    print_json(&t, best, screened, GBps, rounds, check);
    return 0;
}
