/* bench_kernels.c - speed of products, convolutions and attention at the shapes of Stable Diffusion 1.5.
 *
 * usage: bench_kernels [-hot] [-bf16] gemm|forward|data|weights|attention|attention_back
 *                      [ISA [THREADS [TEXT]]]
 *
 * ISA is portable, avx2, avx512 or amx (default: the machine's), TEXT picks the rows whose name
 * contains it. Prints for every shape the best and the median of several runs: ours (the kernel that the
 * library picks), in f32 also oneDNN's, in ms and GF/s of the direct form. oneDNN is capped by
 * DNNL_MAX_CPU_ISA.
 *
 * Before each run a gigabyte is written, and then the first operand again (the gradient of the result in
 * backward passes): as in a network, only what the operation before has just made is in a cache; weights,
 * results and scratch memory come from main memory. With -hot they do not: 64x64 320->320 in f32 then takes
 * 9.3 ms instead of 14, and a kernel that is tuned so is tuned for what does not happen.
 * Build: make build/release/libagewright.a, then
 *   gcc -O2 -fopenmp -I. scripts/bench_kernels.c build/release/libagewright.a -ldnnl -lm
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "autograd/cpu/attention.h"
#include "autograd/cpu/conv.h"
#include "autograd/cpu/gemm.h"
#include "autograd/cpu/onednn.h"

enum { COLD_BYTES = 1 << 30, MOST_RUNS = 200 };

static bool hot, half; /* -hot, -bf16 */

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

/* n values of f32 or bf16 */
static void *numbers_of(int64_t n, bool is_half)
{
    char *x = memory((size_t)n * (is_half ? 2 : 4));
    uint32_t s = 12345;
    for (int64_t i = 0; i < n; i++) {
        float value;
        s = s * 1664525u + 1013904223u;
        value = (float)(s >> 8) / 8388608.0f - 1.0f;
        if (is_half)
            memcpy(x + 2 * i, (char *)&value + 2, 2);
        else
            memcpy(x + 4 * i, &value, 4);
    }
    return x;
}

static void *numbers(int64_t n)
{
    return numbers_of(n, half);
}

typedef struct run {
    cpu_state *state;
    const cpu_onednn_plan *plan;
    cpu_gemm_call gemm;
    cpu_conv conv;
    cpu_attention attention;
    enum { FORWARD = CPU_CONV_FORWARD, DATA = CPU_CONV_BACKWARD_DATA, WEIGHTS = CPU_CONV_BACKWARD_WEIGHTS,
           PRODUCT, ATTENTION, ATTENTION_BACK } what;
    void *fresh; /* what the operation before has just written */
    int64_t n_fresh;
    void *x, *w, *y, *scratch; /* x, w and y of attention: q, [k, v], [out, dout, dq, dk, dv] */
    float *b;
} run;

/* f32 or bf16 number n from p on */
static void *at(void *p, int64_t n)
{
    return (char *)p + n * (half ? 2 : 4);
}

static bool run_attention(run *r)
{
    const cpu_attention *a = &r->attention;
    const int64_t ld = a->heads * a->d, n_q = a->tq * ld, n_k = a->tk * ld;
    const int n_threads = cpu_state_threads(r->state), isa = (int)cpu_state_isa(r->state);
    void *q = r->x, *k = r->w, *v = at(k, n_k), *out = r->y, *dout = at(out, n_q), *dq = at(dout, n_q),
         *dk = at(dq, n_q), *dv = at(dk, n_k);

    if (r->what == ATTENTION && half)
        cpu_attention_forward_bf16(out, ld, r->b, a, q, ld, k, ld, v, ld, r->scratch, n_threads);
    else if (r->what == ATTENTION)
        cpu_attention_forward(out, ld, r->b, a, q, ld, k, ld, v, ld, r->scratch, n_threads, isa);
    else if (half)
        cpu_attention_backward_bf16(
            a, &(cpu_attention_grad_bf16){q, k, v, out, dout, r->b, dq, dk, dv, ld, ld, ld, ld, ld, ld, ld, ld},
            r->scratch, n_threads);
    else
        cpu_attention_backward(
            a, &(cpu_attention_grad){q, k, v, out, dout, r->b, dq, dk, dv, ld, ld, ld, ld, ld, ld, ld, ld},
            r->scratch, n_threads, isa);
    return true;
}

static bool run_ours(run *r)
{
    switch (r->what) {
    case FORWARD:
        return cpu_conv2d_forward(r->y, r->state, &r->conv, r->x, r->w, r->b, NULL, r->scratch);
    case DATA:
        return cpu_conv2d_backward_data(r->x, r->state, &r->conv, r->y, r->w, r->scratch);
    case WEIGHTS:
        return cpu_conv2d_backward_weights(r->w, r->b, r->state, &r->conv, r->x, r->y, r->scratch);
    case PRODUCT:
        return cpu_gemm(r->state, &r->gemm, r->scratch);
    case ATTENTION:
    case ATTENTION_BACK:
        return run_attention(r);
    }
    return false;
}

static bool run_onednn(run *r)
{
    cpu_onednn *library = cpu_state_onednn(r->state);
    switch (r->what) {
    case FORWARD:
        return cpu_onednn_run(library, r->plan, r->y, r->x, r->w, r->b, r->scratch);
    case DATA:
        return cpu_onednn_run(library, r->plan, r->x, r->y, r->w, NULL, r->scratch);
    case WEIGHTS:
        return cpu_onednn_run(library, r->plan, r->w, r->x, r->y, NULL, r->scratch);
    default:
        break;
    }
    return cpu_onednn_run(library, r->plan, r->gemm.c, r->gemm.a, r->gemm.b, NULL, r->scratch);
}

/* Writes one byte of every cache line. */
static void write_lines(char *p, int64_t bytes)
{
#pragma omp parallel for
    for (int64_t i = 0; i < bytes; i += 64)
        *(volatile char *)(p + i) = p[i];
}

static void as_in_a_network(const run *r)
{
    static char *much;

    if (hot)
        return;
    if (!much)
        much = memory(COLD_BYTES);
    write_lines(much, COLD_BYTES);
    write_lines(r->fresh, (char *)at(r->fresh, r->n_fresh) - (char *)r->fresh);
}

typedef struct times {
    double best, median; /* seconds */
} times;

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* At least five runs and a third of a second of them. */
static times time_of(bool (*f)(run *), run *r)
{
    const int n_threads = cpu_state_threads(r->state);
    double took[MOST_RUNS], spent = 0;
    int n = 0;

    for (; n < 5 || (spent < 0.35 && n < MOST_RUNS); spent += took[n++]) {
        double start;
        as_in_a_network(r);
        start = now(n_threads);
        if (!f(r))
            exit(1);
        took[n] = now(n_threads) - start;
    }
    qsort(took, (size_t)n, sizeof took[0], by_size);
    return (times){took[0], took[n / 2]};
}

static void report(const char *name, run *r, double gflop, const char *kernel, size_t scratch)
{
    const size_t theirs = r->plan ? cpu_onednn_scratch(r->plan) : 0;
    times t;

    r->scratch = memory(scratch > theirs ? scratch : theirs);
    t = time_of(run_ours, r);
    printf("%-30s %8.2f ms, median %8.2f %6.0f GF/s  %-22s", name, t.best * 1e3, t.median * 1e3,
           gflop / t.median, kernel);
    if (r->plan) {
        t = time_of(run_onednn, r);
        printf(" | %8.2f ms, median %8.2f %6.0f  %s", t.best * 1e3, t.median * 1e3, gflop / t.median,
               cpu_onednn_name(r->plan));
    }
    printf("\n");
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

    const ag_dtype type = half ? AG_BF16 : AG_F32;

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t m = shapes[i].m, n = shapes[i].n, k = shapes[i].k, batch = shapes[i].batch;
        run r = {.state = state, .what = PRODUCT};
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
                                 .stride_c = m * n, .alpha = 1, .a_type = type, .b_type = type,
                                 .c_type = type};
        r.fresh = (void *)r.gemm.a, r.n_fresh = m * k * batch;
        if (!half)
            r.plan = cpu_onednn_gemm(cpu_state_onednn(state), &r.gemm, false, &failed);
        report(name, &r, 2e-9 * (double)(m * n) * (double)(k * batch),
               cpu_gemm_kernel_name(state, &r.gemm), cpu_gemm_scratch(state, &r.gemm));
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
        run r = {.state = state, .what = (int)pass};
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
                            .pad_bottom = k / 2, .pad_left = k / 2, .pad_right = k / 2,
                            .type = half ? AG_BF16 : AG_F32, .weight_type = half ? AG_BF16 : AG_F32};
        oh = cpu_conv_out_h(&r.conv), ow = cpu_conv_out_w(&r.conv);
        r.x = numbers(s * s * c), r.y = numbers(oh * ow * o);
        r.w = numbers_of(o * k * k * c, half && pass != CPU_CONV_BACKWARD_WEIGHTS);
        r.b = numbers_of(o, false);
        r.fresh = pass == CPU_CONV_FORWARD ? r.x : r.y, r.n_fresh = pass == CPU_CONV_FORWARD ? s * s * c : oh * ow * o;
        if (!half)
            r.plan = cpu_onednn_conv(cpu_state_onednn(state), &r.conv, pass, &failed);
        if (pass == CPU_CONV_FORWARD)
            scratch = cpu_conv2d_forward_scratch(state, &r.conv);
        else if (pass == CPU_CONV_BACKWARD_DATA)
            scratch = cpu_conv2d_backward_data_scratch(state, &r.conv);
        else
            scratch = cpu_conv2d_backward_weights_scratch(state, &r.conv);
        report(name, &r, 2e-9 * (double)(oh * ow * o) * (double)(k * k * c),
               cpu_conv_kernel_name(state, &r.conv, pass), scratch);
        free(r.x), free(r.w), free(r.y), free(r.b);
    }
}

static void bench_attention(cpu_state *state, bool back, const char *text)
{
    static const struct {
        int64_t heads, d, tq, tk;
    } shapes[] = {
        {8, 40, 4096, 4096}, {8, 80, 1024, 1024}, {8, 160, 256, 256}, {8, 160, 64, 64},
        {8, 40, 4096, 77},   {8, 80, 1024, 77},   {8, 160, 256, 77},  {1, 512, 4096, 4096},
        {12, 64, 77, 77},
    };
    const int n_threads = cpu_state_threads(state), isa = (int)cpu_state_isa(state);

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t heads = shapes[i].heads, d = shapes[i].d, tq = shapes[i].tq, tk = shapes[i].tk;
        run r = {.state = state, .what = back ? ATTENTION_BACK : ATTENTION};
        const cpu_attention *a = &r.attention;
        char name[64];
        size_t scratch;

        snprintf(name, sizeof name, "%lldx%lldx%lld d%lld", (long long)heads, (long long)tq, (long long)tk,
                 (long long)d);
        if (text && !strstr(name, text))
            continue;
        r.attention = (cpu_attention){.n = 1, .heads = heads, .d = d, .tq = tq, .tk = tk,
                                      .scale = 1.0f / sqrtf((float)d)};
        if (half)
            scratch = back ? cpu_attention_backward_bf16_scratch(a, n_threads)
                           : cpu_attention_forward_bf16_scratch(a, n_threads);
        else
            scratch = back ? cpu_attention_backward_scratch(a, n_threads, isa)
                           : cpu_attention_forward_scratch(a, n_threads, isa);
        r.x = numbers(tq * heads * d), r.w = numbers(2 * tk * heads * d);
        r.fresh = r.x, r.n_fresh = tq * heads * d;
        r.y = numbers((3 * tq + 2 * tk) * heads * d), r.b = numbers_of(heads * tq, false);
        report(name, &r, (back ? 10e-9 : 4e-9) * (double)(heads * tq) * (double)(tk * d), "own", scratch);
        free(r.x), free(r.w), free(r.y), free(r.b);
    }
}

int main(int argc, char **argv)
{
    const char *what, *text;
    cpu_isa isa = cpu_isa_here();
    cpu_state *state;

    for (; argc > 1 && argv[1][0] == '-'; argv++, argc--) {
        bool *option = strcmp(argv[1], "-hot") == 0 ? &hot : strcmp(argv[1], "-bf16") == 0 ? &half : NULL;
        if (!option) {
            fprintf(stderr, "bench_kernels: %s: no such option\n", argv[1]);
            return 2;
        }
        *option = true;
    }
    what = argc > 1 ? argv[1] : "", text = argc > 4 ? argv[4] : NULL;
    if (argc > 2 && !cpu_isa_parse(&isa, argv[2])) {
        fprintf(stderr, "bench_kernels: %s: no such instruction set\n", argv[2]);
        return 2;
    }
    state = cpu_state_new(argc > 3 ? atoi(argv[3]) : 0);
    if (!state)
        return 1;
    cpu_state_cap_isa(state, isa);
    if (half && !cpu_attention_takes_bf16((int)isa)) {
        fprintf(stderr, "bench_kernels: -bf16 is for AMX\n");
        return 2;
    }
    if (strcmp(what, "gemm") == 0)
        bench_gemm(state, text);
    else if (strcmp(what, "forward") == 0)
        bench_conv(state, CPU_CONV_FORWARD, text);
    else if (strcmp(what, "data") == 0)
        bench_conv(state, CPU_CONV_BACKWARD_DATA, text);
    else if (strcmp(what, "weights") == 0)
        bench_conv(state, CPU_CONV_BACKWARD_WEIGHTS, text);
    else if (strcmp(what, "attention") == 0 || strcmp(what, "attention_back") == 0)
        bench_attention(state, strcmp(what, "attention_back") == 0, text);
    else
        fprintf(stderr, "usage: bench_kernels [-hot] [-bf16] gemm|forward|data|weights|attention|attention_back"
                        " [ISA [THREADS [TEXT]]]\n");
    cpu_state_free(state);
    return 0;
}
