/* bench_kernels.c - speed of products and convolutions at the shapes of Stable Diffusion 1.5.
 *
 * usage: bench_kernels gemm|forward|data|weights [ISA [THREADS [TEXT]]]
 *
 * ISA is portable, avx2, avx512 or amx (default: the machine's), TEXT picks the rows whose name
 * contains it. Prints for every shape the best of several runs: ours (the kernel that the library
 * picks) and oneDNN's in ms and GF/s of the direct form. oneDNN is capped by DNNL_MAX_CPU_ISA.
 * Build: make build/release/libagewright.a, then
 *   gcc -O2 -fopenmp -I. scripts/bench_kernels.c build/release/libagewright.a -ldnnl -lm
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "autograd/cpu/conv.h"
#include "autograd/cpu/gemm.h"
#include "autograd/cpu/onednn.h"

/* One thread is timed by the processor time it got, so that other programs disturb less. */
static double now(int n_threads)
{
    struct timespec t;
    clock_gettime(n_threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* In huge pages, as the heap of a context has its tensors. */
static void *memory(size_t bytes)
{
    const size_t page = 2 << 20, rounded = (bytes + page) / page * page;
    void *p = aligned_alloc(page, rounded);
    if (!p)
        exit(1);
    (void)madvise(p, rounded, MADV_HUGEPAGE);
    memset(p, 0, rounded);
    return p;
}

static float *numbers(int64_t n)
{
    float *x = memory((size_t)n * 4);
    uint32_t s = 12345;
    for (int64_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = (float)(s >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

typedef struct run {
    cpu_state *state;
    const cpu_onednn_plan *plan;
    cpu_gemm_call gemm;
    cpu_conv conv;
    int pass; /* -1: a product */
    void *x, *w, *y, *scratch;
    float *b;
} run;

static bool run_ours(run *r)
{
    switch (r->pass) {
    case CPU_CONV_FORWARD:
        return cpu_conv2d_forward(r->y, r->state, &r->conv, r->x, r->w, r->b, NULL, r->scratch);
    case CPU_CONV_BACKWARD_DATA:
        return cpu_conv2d_backward_data(r->x, r->state, &r->conv, r->y, r->w, r->scratch);
    case CPU_CONV_BACKWARD_WEIGHTS:
        return cpu_conv2d_backward_weights(r->w, r->b, r->state, &r->conv, r->x, r->y, r->scratch);
    }
    return cpu_gemm(r->state, &r->gemm, r->scratch);
}

static bool run_onednn(run *r)
{
    cpu_onednn *library = cpu_state_onednn(r->state);
    switch (r->pass) {
    case CPU_CONV_FORWARD:
        return cpu_onednn_run(library, r->plan, r->y, r->x, r->w, r->b, r->scratch);
    case CPU_CONV_BACKWARD_DATA:
        return cpu_onednn_run(library, r->plan, r->x, r->y, r->w, NULL, r->scratch);
    case CPU_CONV_BACKWARD_WEIGHTS:
        return cpu_onednn_run(library, r->plan, r->w, r->x, r->y, NULL, r->scratch);
    }
    return cpu_onednn_run(library, r->plan, r->gemm.c, r->gemm.a, r->gemm.b, NULL, r->scratch);
}

/* Best time of at least three runs and a third of a second. */
static double best_of(bool (*f)(run *), run *r)
{
    const int n = cpu_state_threads(r->state);
    double best = 1e9, spent = 0;
    for (int i = 0; i < 3 || (spent < 0.35 && i < 200); i++) {
        const double t = now(n);
        double took;
        if (!f(r))
            return 1e9;
        took = now(n) - t;
        spent += took;
        best = took < best ? took : best;
    }
    return best;
}

static void report(const char *name, run *r, double gflop, const char *kernel, size_t scratch,
                   size_t onednn_scratch)
{
    double ours, theirs = 0;

    r->scratch = memory(scratch > onednn_scratch ? scratch : onednn_scratch);
    ours = best_of(run_ours, r);
    if (r->plan)
        theirs = best_of(run_onednn, r);
    printf("%-30s %8.2f ms %6.0f GF/s  %-22s | %8.2f ms %6.0f  %s\n", name, ours * 1e3,
           gflop / ours, kernel, theirs * 1e3, theirs > 0 ? gflop / theirs : 0,
           r->plan ? cpu_onednn_name(r->plan) : "-");
    fflush(stdout);
    free(r->scratch);
}

static void bench_gemm(cpu_state *state, const char *text)
{
    static const struct {
        int64_t m, n, k, batch;
        bool ta, tb;
    } shapes[] = {
        {4096, 320, 320, 1, 0, 1},   {4096, 2560, 320, 1, 0, 1},  {4096, 320, 1280, 1, 0, 1},
        {1024, 640, 640, 1, 0, 1},   {1024, 5120, 640, 1, 0, 1},  {1024, 640, 2560, 1, 0, 1},
        {256, 1280, 1280, 1, 0, 1},  {256, 10240, 1280, 1, 0, 1}, {256, 1280, 5120, 1, 0, 1},
        {64, 1280, 1280, 1, 0, 1},   {64, 10240, 1280, 1, 0, 1},  {77, 320, 768, 1, 0, 1},
        {77, 1280, 768, 1, 0, 1},    {77, 3072, 768, 1, 0, 1},    {1, 1280, 1280, 1, 0, 1},
        {4, 1280, 1280, 1, 0, 1},    {4096, 320, 320, 1, 0, 0},   {256, 1280, 10240, 1, 0, 0},
        {320, 320, 4096, 1, 1, 0},   {2560, 320, 4096, 1, 1, 0},  {10240, 1280, 256, 1, 1, 0},
        {4096, 16, 320, 1, 0, 1},    {4096, 320, 16, 1, 0, 1},    {16, 320, 4096, 1, 1, 0},
        {4096, 4096, 512, 1, 0, 1},  {4096, 512, 4096, 1, 0, 0},  {256, 256, 160, 8, 0, 1},
        {77, 77, 64, 12, 0, 1},      {2048, 2048, 2048, 1, 0, 0},
    };

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t m = shapes[i].m, n = shapes[i].n, k = shapes[i].k, batch = shapes[i].batch;
        run r = {.state = state, .pass = -1};
        char name[64];
        bool failed = false;

        snprintf(name, sizeof name, "%lldx%lldx%lld %c%c x%lld", (long long)m, (long long)n,
                 (long long)k, shapes[i].ta ? 'T' : 'N', shapes[i].tb ? 'T' : 'N',
                 (long long)batch);
        if (text && !strstr(name, text))
            continue;
        r.gemm = (cpu_gemm_call){.m = m, .n = n, .k = k, .a = numbers(m * k * batch),
                                 .b = numbers(n * k * batch), .c = numbers(m * n * batch),
                                 .transpose_a = shapes[i].ta, .transpose_b = shapes[i].tb,
                                 .batch = batch, .stride_a = m * k, .stride_b = n * k,
                                 .stride_c = m * n, .alpha = 1};
        r.plan = cpu_onednn_gemm(cpu_state_onednn(state), &r.gemm, false, &failed);
        report(name, &r, 2e-9 * (double)(m * n) * (double)(k * batch),
               cpu_gemm_kernel_name(state, &r.gemm), cpu_gemm_scratch(state, &r.gemm),
               r.plan ? cpu_onednn_scratch(r.plan) : 0);
        free((void *)r.gemm.a), free((void *)r.gemm.b), free(r.gemm.c);
    }
}

static void bench_conv(cpu_state *state, cpu_conv_pass pass, const char *text)
{
    static const struct {
        int64_t size, c, o, k, stride;
    } shapes[] = {
        {64, 320, 320, 3, 1},    {32, 640, 640, 3, 1},    {16, 1280, 1280, 3, 1},
        {8, 1280, 1280, 3, 1},   {64, 960, 320, 3, 1},    {64, 640, 320, 3, 1},
        {32, 320, 640, 3, 1},    {32, 1920, 640, 3, 1},   {16, 2560, 1280, 3, 1},
        {8, 2560, 1280, 3, 1},   {64, 320, 320, 3, 2},    {32, 640, 640, 3, 2},
        {16, 1280, 1280, 3, 2},  {64, 4, 320, 3, 1},      {64, 320, 4, 3, 1},
        {64, 320, 320, 1, 1},    {64, 960, 320, 1, 1},    {16, 2560, 1280, 1, 1},
        {64, 512, 512, 3, 1},    {128, 512, 512, 3, 1},   {256, 256, 256, 3, 1},
        {256, 512, 256, 3, 1},   {512, 128, 128, 3, 1},   {512, 256, 128, 3, 1},
        {512, 3, 128, 3, 1},     {512, 128, 3, 3, 1},     {512, 128, 128, 3, 2},
        {64, 512, 8, 3, 1},
    };

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t s = shapes[i].size, c = shapes[i].c, o = shapes[i].o, k = shapes[i].k;
        run r = {.state = state, .pass = (int)pass};
        int64_t oh, ow;
        char name[64];
        bool failed = false;
        size_t scratch;

        snprintf(name, sizeof name, "%lldx%lld %lld->%lld k%lld s%lld", (long long)s, (long long)s,
                 (long long)c, (long long)o, (long long)k, (long long)shapes[i].stride);
        if (text && !strstr(name, text))
            continue;
        r.conv = (cpu_conv){.n = 1, .h = s, .w = s, .c = c, .o = o, .kh = k, .kw = k,
                            .stride = shapes[i].stride, .dilation = 1, .pad_top = k / 2,
                            .pad_bottom = k / 2, .pad_left = k / 2, .pad_right = k / 2};
        oh = cpu_conv_out_h(&r.conv), ow = cpu_conv_out_w(&r.conv);
        r.x = numbers(s * s * c), r.w = numbers(o * k * k * c), r.y = numbers(oh * ow * o);
        r.b = numbers(o);
        r.plan = cpu_onednn_conv(cpu_state_onednn(state), &r.conv, pass, &failed);
        if (pass == CPU_CONV_FORWARD)
            scratch = cpu_conv2d_forward_scratch(state, &r.conv);
        else if (pass == CPU_CONV_BACKWARD_DATA)
            scratch = cpu_conv2d_backward_data_scratch(state, &r.conv);
        else
            scratch = cpu_conv2d_backward_weights_scratch(state, &r.conv);
        report(name, &r, 2e-9 * (double)(oh * ow * o) * (double)(k * k * c),
               cpu_conv_kernel_name(state, &r.conv, pass), scratch,
               r.plan ? cpu_onednn_scratch(r.plan) : 0);
        free(r.x), free(r.w), free(r.y), free(r.b);
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "", *text = argc > 4 ? argv[4] : NULL;
    cpu_isa isa = cpu_isa_here();
    cpu_state *state;

    if (argc > 2 && !cpu_isa_parse(&isa, argv[2])) {
        fprintf(stderr, "bench_kernels: %s: no such instruction set\n", argv[2]);
        return 2;
    }
    state = cpu_state_new(argc > 3 ? atoi(argv[3]) : 0);
    if (!state)
        return 1;
    cpu_state_cap_isa(state, isa);
    if (strcmp(what, "gemm") == 0)
        bench_gemm(state, text);
    else if (strcmp(what, "forward") == 0)
        bench_conv(state, CPU_CONV_FORWARD, text);
    else if (strcmp(what, "data") == 0)
        bench_conv(state, CPU_CONV_BACKWARD_DATA, text);
    else if (strcmp(what, "weights") == 0)
        bench_conv(state, CPU_CONV_BACKWARD_WEIGHTS, text);
    else
        fprintf(stderr, "usage: bench_kernels gemm|forward|data|weights [ISA [THREADS [TEXT]]]\n");
    cpu_state_free(state);
    return 0;
}
