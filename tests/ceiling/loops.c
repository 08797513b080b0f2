// Six ways to read memory, written without a look at the probe's: none may be faster than the ceiling that it states.
//
//   loops THREADS MEBIBYTES PASSES      prints a line for each loop: its name, bytes per second
//
// Every thread reads its part of one buffer PASSES times; time runs from when all have begun until the last has ended.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef uint64_t (*loop)(const char *, size_t);

static uint64_t sum_of_words(const char *p, size_t n) {  // as the compiler vectorizes it
    const uint64_t *w = (const uint64_t *)p;
    uint64_t s = 0;
    for (size_t i = 0; i < n / 8; i++) s += w[i];
    return s;
}

static uint64_t a_word_of_each_line(const char *p, size_t n) {  // memory moves whole lines
    const uint64_t *w = (const uint64_t *)p;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < n / 8; i += 32) a ^= w[i], b ^= w[i + 8], c ^= w[i + 16], d ^= w[i + 24];
    return a ^ b ^ c ^ d;
}

static uint64_t backwards(const char *p, size_t n) {
    const uint32_t *w = (const uint32_t *)p;
    uint32_t most = 0;
    for (size_t i = n / 4; i-- > 0;) most = w[i] > most ? w[i] : most;
    return most;
}

static uint64_t compared(const char *p, size_t n) {  // the C library's own; both halves are equal
    return (uint64_t)(memcmp(p, p + n / 2, n / 2) != 0);
}

static uint64_t eight_pages_abreast(const char *p, size_t n) {
    uint64_t s = 0;
    for (size_t at = 0; at + 8 * 4096 <= n; at += 8 * 4096)
        for (size_t line = 0; line < 4096; line += 64)
            for (int page = 0; page < 8; page++) {
                const uint64_t *w = (const uint64_t *)(p + at + 4096 * page + line);
                for (int k = 0; k < 8; k++) s += w[k];
            }
    return s;
}

static uint64_t asked_far_ahead(const char *p, size_t n) {
    const uint64_t *w = (const uint64_t *)p;
    uint64_t s[8] = {0}, all = 0;
    for (size_t i = 0; i < n / 8; i += 8) {
        __builtin_prefetch(w + i + 2048, 0, 3);  // 16 KiB
        for (int k = 0; k < 8; k++) s[k] ^= w[i + k];
    }
    for (int k = 0; k < 8; k++) all += s[k];
    return all;
}

#define NAMED(name) {#name, name}
static const struct {
    const char *name;
    loop read;
} loops[] = {NAMED(sum_of_words), NAMED(a_word_of_each_line), NAMED(backwards),
             NAMED(compared),     NAMED(eight_pages_abreast), NAMED(asked_far_ahead)};
#define LOOPS (int)(sizeof loops / sizeof *loops)

static struct {
    char *base;
    size_t part;
    int threads, passes;
    const loop *now;
    atomic_int round, begun, ended;
    atomic_ullong sink;
} t;

static double now(void) {
    struct timespec s;
    clock_gettime(CLOCK_MONOTONIC, &s);
    return (double)s.tv_sec + 1e-9 * (double)s.tv_nsec;
}

static double part(int id) {
    atomic_fetch_add(&t.begun, 1);
    while (atomic_load(&t.begun) < t.threads) {}
    double begin = now();
    for (int i = 0; i < t.passes; i++) atomic_fetch_add(&t.sink, (*t.now)(t.base + t.part * (size_t)id, t.part));
    atomic_fetch_add(&t.ended, 1);
    return begin;
}

static void *work(void *id) {
    for (int round = 0; round < LOOPS; round++) {
        while (atomic_load(&t.round) == round) {}
        part((int)(intptr_t)id);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    t.threads = atoi(argv[1]), t.passes = atoi(argv[3]);
    size_t bytes = (size_t)atoi(argv[2]) << 20;
    t.part = bytes / (size_t)t.threads / 65536 * 65536;
    t.base = aligned_alloc(2 << 20, bytes);
    if (!t.base) return 1;
#ifdef MADV_HUGEPAGE
    madvise(t.base, bytes, MADV_HUGEPAGE);
#endif
    for (int id = 0; id < t.threads; id++) {
        char *p = t.base + t.part * (size_t)id;
        uint64_t x = 0x9e3779b97f4a7c15u + (uint64_t)id;
        for (size_t i = 0; i < t.part / 2; i += 8) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            memcpy(p + i, &x, 8);
        }
        memcpy(p + t.part / 2, p, t.part / 2);
    }
    pthread_t made;
    for (int id = 1; id < t.threads; id++)
        if (pthread_create(&made, NULL, work, (void *)(intptr_t)id)) return 1;
    for (int i = 0; i < LOOPS; i++) {
        t.now = &loops[i].read;
        atomic_store(&t.begun, 0), atomic_store(&t.ended, 0);
        atomic_fetch_add(&t.round, 1);
        double begin = part(0);
        while (atomic_load(&t.ended) < t.threads) {}
        double seconds = now() - begin;
        printf("%s %.0f\n", loops[i].name, (double)t.part * t.threads * t.passes / seconds);
    }
    fprintf(stderr, "%llu\n", (unsigned long long)atomic_load(&t.sink));  // so that no loop can be dropped
    return 0;
}
