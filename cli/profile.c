/* profile.c - see profile.h. */
#include "cli/profile.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/observe.h"

enum { LINE_MAX_TEXT = 120 };

/* One operation of one shape. */
typedef struct line {
    const ag_op *op;
    char shape[LINE_MAX_TEXT];
    double calls, seconds, flops, bytes;
} line;

struct cli_profile {
    ag_ctx *ctx;
    line *lines;
    int64_t n, room;
    bool is_full; /* memory was refused: the table is not complete */
};

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

static void watch(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    char shape[LINE_MAX_TEXT] = "";
    line *at;

    shape_of(call, shape, sizeof shape);
    at = find_line(user, call->op, shape);
    if (!at)
        return;
    at->calls += 1.0;
    at->seconds += seconds;
    at->flops += cost->flops;
    at->bytes += cost->bytes;
}

cli_profile *cli_profile_new(ag_ctx *ctx)
{
    cli_profile *p = ag_new(ctx, 1, sizeof *p, "profile");

    if (p) {
        p->ctx = ctx;
        ag_observe(ctx, watch, p);
    }
    return p;
}

void cli_profile_free(cli_profile *p)
{
    if (!p)
        return;
    ag_observe(p->ctx, NULL, NULL);
    free(p->lines);
    ag_delete(p);
}

void cli_profile_reset(cli_profile *p)
{
    p->n = 0;
    p->is_full = false;
}

/* --- printing ------------------------------------------------------------------------------------ */

static int by_time(const void *a, const void *b)
{
    const double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;

    return (x < y) - (x > y);
}

static void print_line(FILE *to, const line *l, double total, double n)
{
    const double time = l->seconds > 0.0 ? l->seconds : 1e-12;

    fprintf(to, "%-24s %7.0f %9.1f %6.1f %8.1f %7.1f  %s\n", l->op->name, l->calls / n, 1e3 * l->seconds / n,
            100.0 * l->seconds / total, 1e-9 * l->flops / time, 1e-9 * l->bytes / time, l->shape);
}

/* The lines of each operation added up; the caller frees. NULL when memory is refused. */
static line *sum_by_operation(const cli_profile *p, int64_t *n)
{
    line *sums = calloc((size_t)p->n + 1, sizeof *sums);

    *n = 0;
    for (int64_t i = 0; sums && i < p->n; i++) {
        int64_t k = 0;
        while (k < *n && sums[k].op != p->lines[i].op)
            k++;
        if (k == *n)
            sums[(*n)++].op = p->lines[i].op;
        sums[k].calls += p->lines[i].calls;
        sums[k].seconds += p->lines[i].seconds;
        sums[k].flops += p->lines[i].flops;
        sums[k].bytes += p->lines[i].bytes;
    }
    return sums;
}

void cli_profile_print(cli_profile *p, FILE *to, int n_rounds, int n_lines)
{
    static const char HEAD[] = "%-24s %7s %9s %6s %8s %7s  %s\n";
    const double rounds = n_rounds > 0 ? n_rounds : 1;
    double total = 1e-12;
    int64_t n_sums;
    line *sums = sum_by_operation(p, &n_sums);

    for (int64_t i = 0; i < p->n; i++)
        total += p->lines[i].seconds;
    fprintf(to, HEAD, "operation", "calls", "ms", "%", "GF/s", "GB/s", "");
    if (sums) {
        qsort(sums, (size_t)n_sums, sizeof *sums, by_time);
        for (int64_t i = 0; i < n_sums; i++)
            print_line(to, &sums[i], total, rounds);
    }
    fprintf(to, "%-24s %7s %9.1f\n\n", "all", "", 1e3 * total / rounds);
    free(sums);

    fprintf(to, HEAD, "operation", "calls", "ms", "%", "GF/s", "GB/s", "shape");
    qsort(p->lines, (size_t)p->n, sizeof *p->lines, by_time);
    for (int64_t i = 0; i < p->n && i < n_lines; i++)
        print_line(to, &p->lines[i], total, rounds);
    if (p->is_full)
        fprintf(to, "memory was refused: the table is not complete\n");
}
