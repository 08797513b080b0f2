// How fast can this machine's cores read memory? N threads read a buffer far larger than any cache,
// front to back, in 2 MiB chunks claimed from one counter (a core that is interrupted holds up nobody),
// and fold what they read into a sum that is printed, so that no load can be dropped.
//
//   read_probe THREADS MEBIBYTES SECONDS
//
// prints one JSON object; a round is two passes over the buffer, timed from a barrier until the last
// thread ends. Rounds repeat until SECONDS have passed (at least 3).
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define CHUNK ((size_t)2 << 20)  // bytes: one huge page
#define PASSES 2
#define MAX_ROUNDS 1000

// 64 bytes: one AVX-512 register, two AVX2 or four NEON ones, as the compiler finds them.
typedef uint64_t lanes __attribute__((vector_size(64)));

typedef struct {
    const char *base;
    size_t chunks;          // chunks of the buffer
    atomic_size_t *next;    // claims of this round, 0 .. PASSES * chunks
    pthread_barrier_t *gate;
    const atomic_int *stop;
    lanes sum;
} worker;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lanes read_chunk(const char *p) {
    const lanes *v = (const lanes *)p;
    lanes a = {0}, b = {0}, c = {0}, d = {0};  // four chains: no load waits for the one before it
    for (size_t i = 0; i < CHUNK / sizeof(lanes); i += 4) {
        a ^= v[i];
        b += v[i + 1];
        c ^= v[i + 2];
        d += v[i + 3];
    }
    return (a ^ b) + (c ^ d);
}

static void *work(void *argument) {
    worker *w = argument;
    for (;;) {
        pthread_barrier_wait(w->gate);  // a round begins
        if (atomic_load(w->stop)) return NULL;
        size_t i;
        while ((i = atomic_fetch_add_explicit(w->next, 1, memory_order_relaxed)) < PASSES * w->chunks)
            w->sum += read_chunk(w->base + (i % w->chunks) * CHUNK);
        pthread_barrier_wait(w->gate);  // a round ends
    }
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
        *(uint64_t *)(p + i) = x;
    }
    return p;
}

static int measure(size_t bytes, double seconds, atomic_size_t *next, pthread_barrier_t *gate, double *GBps) {
    int rounds = 0;
    double begin = now();
    while (rounds < MAX_ROUNDS && (rounds < 3 || now() - begin < seconds)) {
        atomic_store(next, 0);
        double t = now();
        pthread_barrier_wait(gate);
        pthread_barrier_wait(gate);
        GBps[rounds++] = PASSES * (double)bytes / (now() - t) / 1e9;
    }
    return rounds;
}

static void print_json(int threads, size_t bytes, const double *GBps, int rounds, uint64_t check) {
    printf("{\"threads\": %d, \"bytes\": %zu, \"check\": %llu, \"rounds_GBps\": [", threads, bytes,
           (unsigned long long)(check & 0xffff));
    for (int i = 0; i < rounds; i++) printf("%s%.3f", i ? ", " : "", GBps[i]);
    printf("]}\n");
}

int main(int argc, char **argv) {
    int threads = argc > 3 ? atoi(argv[1]) : 0, mebibytes = argc > 3 ? atoi(argv[2]) : 0;
    double seconds = argc > 3 ? atof(argv[3]) : 0;
    if (threads < 1 || threads > 1024 || mebibytes < 160 || seconds <= 0) {
        fprintf(stderr, "usage: read_probe THREADS MEBIBYTES(>= 160, a cache must not hold it) SECONDS\n");
        return 2;
    }
    size_t bytes = (size_t)mebibytes << 20 & ~(CHUNK - 1);
    char *base = allocate(bytes);
    worker *w = calloc((size_t)threads, sizeof *w + sizeof(lanes));
    pthread_t *t = calloc((size_t)threads, sizeof *t);
    if (!base || !w || !t) return fprintf(stderr, "read_probe: cannot allocate %d MiB\n", mebibytes), 1;

    atomic_size_t next = 0;
    atomic_int stop = 0;
    pthread_barrier_t gate;
    pthread_barrier_init(&gate, NULL, (unsigned)threads + 1);
    w = (worker *)(((uintptr_t)w + sizeof(lanes) - 1) & ~(sizeof(lanes) - 1));
    for (int i = 0; i < threads; i++) {
        w[i] = (worker){base, bytes / CHUNK, &next, &gate, &stop, {0}};
        if (pthread_create(&t[i], NULL, work, &w[i])) return fprintf(stderr, "read_probe: no thread\n"), 1;
    }
    static double GBps[MAX_ROUNDS];
    int rounds = measure(bytes, seconds, &next, &gate, GBps);
    atomic_store(&stop, 1);
    pthread_barrier_wait(&gate);
    uint64_t check = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(t[i], NULL);
        for (int k = 0; k < 8; k++) check ^= w[i].sum[k];
    }
    print_json(threads, bytes, GBps, rounds, check);
    return 0;
}
