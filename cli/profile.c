/* profile.c - see profile.h. */
#include "cli/profile.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "autograd/grad.h"
#include "autograd/observe.h"
#include "autograd/ops.h"

enum { LINE_MAX_TEXT = 120, SHAPE_LINES = 60 };

/* One operation of one shape. */
typedef struct line {
    const ag_op *op;
    char shape[LINE_MAX_TEXT];
    bool is_bf16; /* its first input */
    double calls, seconds, flops, bytes;
} line;

struct cli_profile {
    ag_ctx *ctx;
    line *lines;
    int64_t n, room;
    int n_rounds;
    bool is_full; /* memory was refused: the table is not complete */
    FILE *trace;  /* NULL: none */
    const char *trace_path;
    double start; /* of the trace */
    bool has_events;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- watching ------------------------------------------------------------------------------------ */

/* "1x64x64x320 320x3x3x320 -> 1x64x64x320": inputs of more than one axis, then the first output. */
static void append_shape(char *text, size_t size, const char *before, const ag_tensor *t)
{
    size_t used = strlen(text);

    used += (size_t)snprintf(text + used, size - used, "%s", *text ? before : "");
    for (int i = 0; i < ag_ndim(t) && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? "x" : "", (long long)ag_dim(t, i));
}

static void shape_of(const ag_call *call, char *text, size_t size)
{
    text[0] = '\0';
    for (int i = 0; i < call->op->n_in; i++)
        if (call->in[i] && ag_ndim(call->in[i]) > 1)
            append_shape(text, size, " ", call->in[i]);
    if (call->n_out > 0)
        append_shape(text, size, " > ", call->out[0]);
}

static line *find_line(cli_profile *p, const ag_op *op, const char *shape)
{
    for (int64_t i = 0; i < p->n; i++)
        if (p->lines[i].op == op && strcmp(p->lines[i].shape, shape) == 0)
            return &p->lines[i];
    if (p->n == p->room) {
        const int64_t room = p->room ? 2 * p->room : 256;
        line *lines = realloc(p->lines, (size_t)room * sizeof *lines);
        if (!lines) {
            p->is_full = true;
            return NULL;
        }
        p->lines = lines;
        p->room = room;
    }
    p->lines[p->n] = (line){.op = op};
    memcpy(p->lines[p->n].shape, shape, sizeof p->lines->shape);
    return &p->lines[p->n++];
}

/* Names and shapes hold nothing that JSON would have to escape. */
static void write_event(cli_profile *p, const ag_call *call, const char *shape, double seconds)
{
    const double end = now() - p->start;

    fprintf(p->trace, "%s{\"name\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":%.3f,\"dur\":%.3f,"
                      "\"args\":{\"shape\":\"%s\"}}",
            p->has_events ? ",\n" : "", call->op->name, 1e6 * (end - seconds), 1e6 * seconds, shape);
    p->has_events = true;
}

static void watch(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    cli_profile *p = user;
    char shape[LINE_MAX_TEXT] = "";
    line *at;

    shape_of(call, shape, sizeof shape);
    if (p->trace)
        write_event(p, call, shape, seconds);
    at = find_line(p, call->op, shape);
    if (!at)
        return;
    at->is_bf16 = call->in[0] && ag_dtype_of(call->in[0]) == AG_BF16;
    at->calls += 1.0;
    at->seconds += seconds;
    at->flops += cost->flops;
    at->bytes += cost->bytes;
}

cli_profile *cli_profile_new(ag_ctx *ctx, const char *trace)
{
    cli_profile *p = ag_new(ctx, 1, sizeof *p, "profile");

    if (!p)
        return NULL;
    p->ctx = ctx;
    p->n_rounds = 1;
    p->trace_path = trace;
    p->start = now();
    if (trace) {
        p->trace = fopen(trace, "w");
        if (!p->trace) {
            ag_fail(ctx, AG_EIO, "%s: %s", trace, strerror(errno));
            ag_delete(p);
            return NULL;
        }
        fprintf(p->trace, "{\"traceEvents\":[\n");
    }
    ag_observe(ctx, watch, p);
    return p;
}

ag_status cli_profile_free(cli_profile *p)
{
    ag_ctx *ctx;

    if (!p)
        return AG_OK;
    ctx = p->ctx;
    ag_observe(ctx, NULL, NULL);
    if (p->trace) {
        fprintf(p->trace, "\n]}\n");
        const bool failed = ferror(p->trace) != 0;
        if (fclose(p->trace) != 0 || failed)
            ag_fail(ctx, AG_EIO, "%s: could not be written: %s", p->trace_path, strerror(errno));
    }
    free(p->lines);
    ag_delete(p);
    return ag_status_of(ctx);
}

void cli_profile_begin(cli_profile *p, int n_rounds)
{
    if (!p)
        return;
    p->n = 0;
    p->is_full = false;
    p->n_rounds = n_rounds;
}

/* --- what the machine can do -------------------------------------------------------------------- */

typedef struct peaks {
    double flops[2]; /* a second, in f32 and in bf16 */
    double bytes;    /* a second, read and written */
} peaks;

/* The best of a few runs, in seconds. */
static double best_of(ag_ctx *ctx, ag_tensor *(*op)(ag_ctx *, ag_tensor *), ag_tensor *x)
{
    double best = HUGE_VAL;

    for (int i = 0; i < 5 && ag_status_of(ctx) == AG_OK; i++) {
        const ag_scope scope = ag_scope_open(ctx);
        const double start = now();
        op(ctx, x);
        best = fmin(best, now() - start);
        ag_scope_close(ctx, scope, NULL);
    }
    return best;
}

static ag_tensor *square_product(ag_ctx *ctx, ag_tensor *x)
{
    return ag_linear(ctx, x, x, NULL);
}

static ag_tensor *plain_copy(ag_ctx *ctx, ag_tensor *x)
{
    return ag_scale(ctx, x, 2.0);
}

/* In a context of its own: that of the command may have failed, and its counters are not ours. */
static peaks measure_peaks(const cli_profile *p)
{
    const int64_t side = 2048, values = 1 << 25;
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = ag_ctx_device(p->ctx),
                                               .n_threads = ag_ctx_threads(p->ctx),
                                               .allow_tf32 = ag_ctx_allows_tf32(p->ctx)});
    peaks out = {{0.0, 0.0}, 0.0};

    if (!ctx)
        return out;
    ag_record(ctx, false);
    for (int type = 0; type < 2; type++) {
        ag_tensor *x = ag_full(ctx, AG_STEP, 0.25, 2, (int64_t[]){side, side});
        out.flops[type] = 2.0 * (double)(side * side * side) /
                          best_of(ctx, square_product, type ? ag_cast(ctx, x, AG_BF16) : x);
    }
    out.bytes = 8.0 * (double)values / best_of(ctx, plain_copy, ag_full(ctx, AG_STEP, 0.25, 1, &values));
    ag_ctx_free(ctx);
    return out;
}

/* --- printing ------------------------------------------------------------------------------------ */

static int by_time(const void *a, const void *b)
{
    const double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;

    return (x < y) - (x > y);
}

/* How near a line is to the machine's peak, in the way it is nearer; 0 .. 1. */
static double share_of_peak(const line *l, const peaks *peak)
{
    const double time = l->seconds > 0.0 ? l->seconds : 1e-12, flops = peak->flops[l->is_bf16];

    return fmax(flops > 0.0 ? l->flops / time / flops : 0.0, peak->bytes > 0.0 ? l->bytes / time / peak->bytes : 0.0);
}

static void print_line(FILE *to, const line *l, double total, double n, const peaks *peak)
{
    const double time = l->seconds > 0.0 ? l->seconds : 1e-12;

    fprintf(to, "%-24s %7.0f %9.1f %6.1f %8.1f %7.1f %6.0f  %s\n", l->op->name, l->calls / n, 1e3 * l->seconds / n,
            100.0 * l->seconds / total, 1e-9 * l->flops / time, 1e-9 * l->bytes / time,
            100.0 * share_of_peak(l, peak), l->shape);
}

/* The lines of each operation added up; the caller frees. NULL when memory is refused. */
static line *sum_by_operation(const cli_profile *p, int64_t *n)
{
    line *sums = calloc((size_t)p->n + 1, sizeof *sums);

    *n = 0;
    for (int64_t i = 0; sums && i < p->n; i++) {
        int64_t k = 0;
        while (k < *n && (sums[k].op != p->lines[i].op || sums[k].is_bf16 != p->lines[i].is_bf16))
            k++;
        if (k == *n)
            sums[(*n)++] = (line){.op = p->lines[i].op, .is_bf16 = p->lines[i].is_bf16};
        sums[k].calls += p->lines[i].calls;
        sums[k].seconds += p->lines[i].seconds;
        sums[k].flops += p->lines[i].flops;
        sums[k].bytes += p->lines[i].bytes;
    }
    for (int64_t k = 0; k < *n; k++)
        snprintf(sums[k].shape, sizeof sums[k].shape, "%s", sums[k].is_bf16 ? "bf16" : "");
    return sums;
}

void cli_profile_print(const cli_profile *p, FILE *to)
{
    static const char HEAD[] = "%-24s %7s %9s %6s %8s %7s %6s  %s\n";
    const peaks peak = measure_peaks(p);
    double total = 1e-12;
    int64_t n_sums;
    line *sums = sum_by_operation(p, &n_sums);

    for (int64_t i = 0; i < p->n; i++)
        total += p->lines[i].seconds;
    fprintf(to, "measured on this machine: products %.0f GF/s in f32, %.0f in bf16; copies %.1f GB/s\n",
            1e-9 * peak.flops[0], 1e-9 * peak.flops[1], 1e-9 * peak.bytes);
    fprintf(to, HEAD, "operation", "calls", "ms", "%", "GF/s", "GB/s", "% peak", "");
    if (sums) {
        qsort(sums, (size_t)n_sums, sizeof *sums, by_time);
        for (int64_t i = 0; i < n_sums; i++)
            print_line(to, &sums[i], total, p->n_rounds, &peak);
    }
    fprintf(to, "%-24s %7s %9.1f\n\n", "all", "", 1e3 * total / p->n_rounds);
    free(sums);

    fprintf(to, HEAD, "operation", "calls", "ms", "%", "GF/s", "GB/s", "% peak", "shape");
    qsort(p->lines, (size_t)p->n, sizeof *p->lines, by_time);
    for (int64_t i = 0; i < p->n && i < SHAPE_LINES; i++)
        print_line(to, &p->lines[i], total, p->n_rounds, &peak);
    if (p->is_full)
        fprintf(to, "memory was refused: the table is not complete\n");
}
