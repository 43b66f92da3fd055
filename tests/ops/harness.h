/* harness.h - an op against its definition. For tests/test_ops.c.
 *
 * A case is a call of an op and, in double and plain loops, what it should give. The harness checks
 *   values      f32, and bf16 (on AG_CUDA f16 too) on inputs rounded to it
 *   gradient    for random cotangents w, against central differences of <w, definition>
 *   second      the gradient of <gradient, u> for random u, by the inputs and by w, against mixed
 *               differences of the definition
 *   refusal     what c->refuse builds fails with a message and no crash
 *   meta        shapes and element types without computing, there and back
 *   scratch     what each kernel took is what its cost rule said
 * Differences are taken of the definition and not of the op, so rounding in the op never reaches
 * them. Values are kept away from kinks by the ranges of the inputs.
 */
#ifndef TESTS_OPS_HARNESS_H
#define TESTS_OPS_HARNESS_H

#include "autograd/grad.h"
#include "autograd/numbers.h"
#include "autograd/observe.h"
#include "autograd/op.h"
#include "autograd/ops.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"
#include "tests/check.h"

enum { CASE_MAX_IN = 4 };

typedef enum case_kind {
    VARIABLE, /* a gradient is asked for */
    CONSTANT, /* f32, never rounded, no gradient */
    IDS       /* i64 in [low, high) */
} case_kind;

typedef struct case_input {
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
    double low, high; /* both 0: -1 to 1 */
    case_kind kind;
    bool keep_f32; /* stays f32 in the checks of bf16 and f16 */
} case_input;

enum {
    NO_SECOND = 1, /* no second order: say why beside the case */
    NO_BF16 = 2, /* and no f16 */
    NO_GRADIENT = 4
};

typedef struct op_case op_case;
struct op_case {
    const char *name;
    case_input in[CASE_MAX_IN];
    ag_tensor *(*build)(ag_ctx *ctx, ag_tensor **in, const op_case *c);
    void (*define)(double *y, double *const *in, const op_case *c);
    ag_tensor *(*refuse)(ag_ctx *ctx, ag_tensor **in, const op_case *c);
    int i[8];    /* parameters of build and define */
    double p[4];
    unsigned flags;
    double tolerance;      /* of f32, relative to the largest value; 0: 1e-5 */
    double bf16_tolerance; /* 0: 2e-2; f16 gets a quarter of it */
};

static inline int64_t case_numel(const case_input *in)
{
    int64_t n = 1;

    for (int i = 0; i < in->n_dims; i++)
        n *= in->dims[i];
    return n;
}

/* --- which ops the cases reached -------------------------------------------------------------- */

typedef struct op_reach {
    const ag_op *op;
    bool ran, differentiated, twice;
} op_reach;
enum { REACH_MAX = 256 };
static op_reach check_reach[REACH_MAX];

/* --- watching ops run ------------------------------------------------------------------------- */

enum { LOG_MAX = 512 };

typedef struct watcher {
    ag_ctx *ctx;
    bool gradient, second; /* what is checked of the ops that run now, when something asks */
    char message[256];     /* the first complaint; an observer must not leave by a jump */
    int n_log;
    struct {
        const ag_op *op;
        size_t scratch;
    } log[LOG_MAX];
} watcher;

static op_reach *reach_of(const ag_op *op)
{
    for (int i = 0; i < REACH_MAX; i++)
        if (check_reach[i].op == op || !check_reach[i].op) {
            check_reach[i].op = op;
            return &check_reach[i];
        }
    return NULL;
}

static void watch(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    watcher *w = user;
    op_reach *reach = reach_of(call->op);
    const size_t took = ag_bytes_peak(w->ctx, AG_SCRATCH);
    bool asks = false;

    (void)seconds;
    ag_bytes_reset_peak(w->ctx);
    if (w->n_log < LOG_MAX) {
        w->log[w->n_log].op = call->op;
        w->log[w->n_log++].scratch = cost->scratch;
    }
    /* the heap may round a piece up */
    if ((took < cost->scratch || took > cost->scratch + 1024) && !w->message[0])
        snprintf(w->message, sizeof w->message, "%s took %zu bytes of scratch, its cost says %zu",
                 call->op->name, took, cost->scratch);
    for (int i = 0; i < call->op->n_in; i++)
        asks |= ag_recording(w->ctx) && call->in[i] && ag_requires_grad(call->in[i]);
    reach->ran = true;
    reach->differentiated |= asks && w->gradient;
    reach->twice |= asks && w->second;
}

static void check_watch(const op_case *c, const watcher *w)
{
    if (w->message[0])
        fail_msg("%s: %s", c->name, w->message);
    if (w->n_log == LOG_MAX)
        fail_msg("%s: more than %d ops", c->name, LOG_MAX);
}

/* A forecast runs the same ops with the same scratch; of a GPU's libraries it counts the most they may take. */
static void check_forecast(const op_case *c, const watcher *real, const watcher *meta)
{
    for (int i = 0; i < real->n_log || i < meta->n_log; i++)
        if (i >= real->n_log || i >= meta->n_log || real->log[i].op != meta->log[i].op ||
            real->log[i].scratch > meta->log[i].scratch ||
            (ag_cpu(real->ctx) && real->log[i].scratch != meta->log[i].scratch))
            fail_msg("%s: op %d is %s with %zu bytes of scratch, on meta %s with %zu", c->name, i,
                     i < real->n_log ? real->log[i].op->name : "none", real->log[i].scratch,
                     i < meta->n_log ? meta->log[i].op->name : "none", meta->log[i].scratch);
}

/* --- numbers ---------------------------------------------------------------------------------- */

typedef struct case_values {
    const op_case *c;
    int n_in;
    double *in[CASE_MAX_IN];
    double *u[CASE_MAX_IN]; /* a direction in the inputs */
    int64_t n[CASE_MAX_IN], n_out;
    double *w; /* a cotangent */
    double *y; /* room for a result */
} case_values;

static double *new_doubles(int64_t n)
{
    double *x = calloc((size_t)(n ? n : 1), sizeof *x);

    assert_non_null(x);
    return x;
}

/* x as an element type has it */
static double rounded(double x, ag_dtype type)
{
    uint16_t half;
    float f = (float)x;

    if (type == AG_F32)
        return x;
    ag_narrow(&half, type, &f, 1);
    ag_widen(&f, type, &half, 1);
    return f;
}

static void values_new(case_values *v, const op_case *c, int64_t n_out, uint64_t seed, ag_dtype type)
{
    *v = (case_values){.c = c, .n_out = n_out};
    while (v->n_in < CASE_MAX_IN && (c->in[v->n_in].n_dims || c->in[v->n_in].high != 0))
        v->n_in++;
    for (int k = 0; k < v->n_in; k++) {
        const case_input *in = &c->in[k];
        const bool any = in->low != 0 || in->high != 0;
        v->n[k] = case_numel(in);
        v->in[k] = new_doubles(v->n[k]);
        v->u[k] = new_doubles(v->n[k]);
        for (int64_t i = 0; i < v->n[k]; i++) {
            double x = check_uniform(&seed, any ? in->low : -1, any ? in->high : 1);
            if (in->kind == IDS)
                x = floor(x);
            if (in->kind == VARIABLE && !in->keep_f32)
                x = rounded(x, type);
            v->in[k][i] = x;
            v->u[k][i] = in->kind == VARIABLE ? check_uniform(&seed, -1, 1) : 0;
        }
    }
    v->w = new_doubles(n_out);
    v->y = new_doubles(n_out);
    for (int64_t i = 0; i < n_out; i++) {
        v->w[i] = rounded(check_uniform(&seed, -1, 1), type);
    }
}

static void values_free(case_values *v)
{
    for (int k = 0; k < v->n_in; k++) {
        free(v->in[k]);
        free(v->u[k]);
    }
    free(v->w);
    free(v->y);
}

/* --- the definition and its differences ------------------------------------------------------- */

/* <w, definition> at inputs + t u */
static double reference(case_values *v, double t)
{
    double total = 0.0, *moved[CASE_MAX_IN] = {NULL};

    for (int k = 0; k < v->n_in; k++) {
        moved[k] = v->in[k];
        if (t != 0.0) {
            moved[k] = new_doubles(v->n[k]);
            for (int64_t i = 0; i < v->n[k]; i++)
                moved[k][i] = v->in[k][i] + t * v->u[k][i];
        }
    }
    v->c->define(v->y, moved, v->c);
    for (int64_t i = 0; i < v->n_out; i++)
        total += v->w[i] * v->y[i];
    for (int k = 0; k < v->n_in; k++)
        if (moved[k] != v->in[k])
            free(moved[k]);
    return total;
}

/* d<w, definition> / d in[k][i] */
static double slope(case_values *v, int k, int64_t i)
{
    const double h = 1e-5, x = v->in[k][i];
    double up, down;

    v->in[k][i] = x + h;
    up = reference(v, 0);
    v->in[k][i] = x - h;
    down = reference(v, 0);
    v->in[k][i] = x;
    return (up - down) / (2 * h);
}

/* d/d in[k][i] of the derivative of <w, definition> in direction u */
static double mixed_slope(case_values *v, int k, int64_t i)
{
    const double h = 1e-4, x = v->in[k][i];
    double d[2];

    for (int side = 0; side < 2; side++) {
        v->in[k][i] = x + (side ? -h : h);
        d[side] = (reference(v, h) - reference(v, -h)) / (2 * h);
    }
    v->in[k][i] = x;
    return (d[0] - d[1]) / (2 * h);
}

/* The derivative of the definition's element i in direction u: the gradient by w of the same. */
static void directional(case_values *v, double *out)
{
    const double h = 1e-5;

    reference(v, h);
    memcpy(out, v->y, (size_t)v->n_out * sizeof *out);
    reference(v, -h);
    for (int64_t i = 0; i < v->n_out; i++)
        out[i] = (out[i] - v->y[i]) / (2 * h);
}

static void compare(const op_case *c, const char *what, int k, const float *got, const double *want,
                    int64_t n, double tolerance)
{
    double size = 0.1; /* differences have noise where all is zero */
    char place[160];

    snprintf(place, sizeof place, "%s: %s %d", c->name, what, k);
    for (int64_t i = 0; i < n; i++)
        size = fmax(size, fabs(want[i]));
    for (int64_t i = 0; i < n; i++)
        check_close(place, i, got[i], want[i], tolerance * size, tolerance);
}

/* --- the op's side ---------------------------------------------------------------------------- */

/* A leaf with these values. */
static ag_tensor *leaf(ag_ctx *ctx, const double *values, int n_dims, const int64_t *dims,
                       ag_dtype type, bool wants)
{
    ag_tensor *t = ag_empty(ctx, AG_STEP, type, n_dims, dims);
    const int64_t n = t ? ag_numel(t) : 0;
    char *bytes;

    check_ok(ctx, "a leaf");
    bytes = malloc(ag_nbytes(t) + 1);
    assert_non_null(bytes);
    for (int64_t i = 0; i < n; i++) {
        const float f = (float)values[i];
        ag_narrow(bytes + (size_t)i * ag_dtype_size(type), type, &f, 1);
    }
    ag_write(ctx, t, bytes, ag_nbytes(t));
    free(bytes);
    ag_set_requires_grad(ctx, t, wants);
    return t;
}

static void leaves(ag_ctx *ctx, const case_values *v, ag_dtype type, ag_tensor **in)
{
    for (int k = 0; k < v->n_in; k++) {
        const case_input *s = &v->c->in[k];
        if (s->kind == IDS) {
            int64_t *ids = malloc((size_t)v->n[k] * sizeof *ids + 1);
            assert_non_null(ids);
            for (int64_t i = 0; i < v->n[k]; i++)
                ids[i] = (int64_t)v->in[k][i];
            in[k] = ag_from_i64(ctx, ids, s->n_dims, s->dims);
            free(ids);
        } else {
            in[k] = leaf(ctx, v->in[k], s->n_dims, s->dims,
                         s->kind == VARIABLE && !s->keep_f32 ? type : AG_F32, s->kind == VARIABLE);
        }
    }
    check_ok(ctx, v->c->name);
}

/* One device's run of a case. */
typedef struct side {
    ag_ctx *ctx;
    watcher w;
    ag_tensor *in[CASE_MAX_IN], *y, *cotangent;
    ag_tensor *x[CASE_MAX_IN + 1];               /* the variables, then the cotangent */
    ag_tensor *g[CASE_MAX_IN], *g2[CASE_MAX_IN]; /* their gradients, fused and recorded */
    int which[CASE_MAX_IN], n_x;                 /* x[a] is input which[a] */
} side;

static void side_new(side *s, ag_ctx *ctx)
{
    memset(s, 0, sizeof *s);
    s->ctx = s->w.ctx = ctx;
}

static void side_forward(side *s, const case_values *v, ag_dtype type)
{
    const op_case *c = v->c;

    leaves(s->ctx, v, type, s->in);
    ag_observe(s->ctx, watch, &s->w);
    ag_bytes_reset_peak(s->ctx);
    s->w.n_log = 0;
    s->y = c->build(s->ctx, s->in, c);
    check_ok(s->ctx, c->name);
    check_watch(c, &s->w);
    for (int k = 0; k < v->n_in; k++)
        if (c->in[k].kind == VARIABLE) {
            s->which[s->n_x] = k;
            s->x[s->n_x++] = s->in[k];
        }
}

static void side_backward(side *s, const case_values *v)
{
    const op_case *c = v->c;
    const bool second = s->w.second;

    if (!ag_requires_grad(s->y))
        fail_msg("%s: the result asks for no gradient", c->name);
    s->cotangent = leaf(s->ctx, v->w, ag_ndim(s->y), ag_dims(s->y),
                        ag_dtype_of(s->y), true);
    s->x[s->n_x] = s->cotangent;
    ag_grad(s->ctx, &s->y, &s->cotangent, 1, s->x, s->g, s->n_x, AG_RETAIN_GRAPH);
    check_ok(s->ctx, c->name);
    if (!(c->flags & NO_SECOND)) {
        /* what is recorded now is differentiated once, by check_second */
        s->w.gradient = second;
        s->w.second = false;
        ag_grad(s->ctx, &s->y, &s->cotangent, 1, s->x, s->g2, s->n_x, AG_CREATE_GRAPH);
        check_ok(s->ctx, c->name);
    }
    check_watch(c, &s->w);
}

static void same_kind(const op_case *c, const ag_tensor *a, const ag_tensor *b)
{
    if (ag_dtype_of(a) != ag_dtype_of(b) || !op_same_dims(a, b))
        fail_msg("%s: %s on the device, %s on meta", c->name, OP_SHAPE(a), OP_SHAPE(b));
}

static void check_gradients(const side *s, const side *meta, case_values *v, double tolerance)
{
    for (int a = 0; a < s->n_x; a++) {
        const int k = s->which[a];
        double *want = new_doubles(v->n[k]);
        float *got = check_values(s->ctx, s->g[a]);

        same_kind(v->c, s->g[a], s->x[a]);
        same_kind(v->c, s->g[a], meta->g[a]);
        for (int64_t i = 0; i < v->n[k]; i++)
            want[i] = slope(v, k, i);
        compare(v->c, "gradient", k, got, want, v->n[k], tolerance);
        free(got);
        if (s->g2[a]) { /* the composite form */
            got = check_values(s->ctx, s->g2[a]);
            compare(v->c, "recorded gradient", k, got, want, v->n[k], tolerance);
            free(got);
        }
        free(want);
    }
}

/* Differentiate the recorded gradients; in two bytes only that this works. */
static void check_second(side *s, case_values *v, ag_dtype type, double tolerance)
{
    const op_case *c = v->c;
    ag_tensor *u[CASE_MAX_IN], *gg[CASE_MAX_IN + 1] = {NULL};
    double *want;
    float *got;

    for (int a = 0; a < s->n_x; a++) {
        const int k = s->which[a];
        u[a] = leaf(s->ctx, v->u[k], c->in[k].n_dims, c->in[k].dims, AG_F32, false);
        u[a] = ag_cast(s->ctx, u[a], ag_dtype_of(s->g2[a]));
    }
    s->w.gradient = false;
    ag_grad(s->ctx, s->g2, u, s->n_x, s->x, gg, s->n_x + 1, 0);
    check_ok(s->ctx, c->name);
    check_watch(c, &s->w);
    for (int a = 0; a < s->n_x && type == AG_F32; a++) {
        const int k = s->which[a];
        want = new_doubles(v->n[k]);
        got = check_values(s->ctx, gg[a]);
        for (int64_t i = 0; i < v->n[k]; i++)
            want[i] = mixed_slope(v, k, i);
        compare(c, "second order", k, got, want, v->n[k], tolerance);
        free(want);
        free(got);
    }
    if (type == AG_F32) {
        want = new_doubles(v->n_out);
        got = check_values(s->ctx, gg[s->n_x]);
        directional(v, want);
        compare(c, "second order by the cotangent", 0, got, want, v->n_out, tolerance);
        free(want);
        free(got);
    }
}

/* Values, gradient and second order in one element type. */
static void check_numbers(const op_case *c, ag_dtype type)
{
    static side real, meta; /* logs are large */
    const bool gradient = !(c->flags & NO_GRADIENT), second = gradient && !(c->flags & NO_SECOND);
    const double f32_tolerance = c->tolerance != 0 ? c->tolerance : 1e-5;
    const double half_tolerance = c->bf16_tolerance != 0 ? c->bf16_tolerance : 2e-2;
    const double tolerance = type == AG_F32 ? f32_tolerance : type == AG_BF16 ? half_tolerance : half_tolerance / 4;
    case_values shape, v;
    char place[32];
    float *got;

    side_new(&meta, check_ctx_on(AG_META));
    values_new(&shape, c, 0, 1, type);
    side_forward(&meta, &shape, type);
    values_new(&v, c, ag_numel(meta.y), 12345, type);

    side_new(&real, check_ctx());
    real.w.gradient = gradient && type == AG_F32;
    real.w.second = second && type == AG_F32;
    side_forward(&real, &v, type);
    same_kind(c, real.y, meta.y);
    reference(&v, 0);
    got = check_values(real.ctx, real.y);
    snprintf(place, sizeof place, "%s value", ag_dtype_name(type));
    compare(c, place, 0, got, v.y, v.n_out, tolerance);
    free(got);
    if (gradient) {
        side_backward(&real, &v);
        side_backward(&meta, &v);
    }
    check_forecast(c, &real.w, &meta.w);
    if (gradient)
        check_gradients(&real, &meta, &v, tolerance);
    if (second)
        check_second(&real, &v, type, 10 * tolerance);
    values_free(&v);
    values_free(&shape);
    ag_ctx_free(real.ctx);
    ag_ctx_free(meta.ctx);
}

static void check_refusal(const op_case *c)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *in[CASE_MAX_IN] = {NULL};
    case_values v;

    values_new(&v, c, 0, 1, AG_F32);
    leaves(ctx, &v, AG_F32, in);
    if (c->refuse(ctx, in, c) && ag_cpu(ctx))
        fail_msg("%s: what should be refused gave a result", c->name);
    if (ag_wait(ctx) == AG_OK) /* a kernel behind the program tells it here */
        fail_msg("%s: what should be refused was not", c->name);
    check_failed(ctx, ag_status_of(ctx), c->name);
    values_free(&v);
    ag_ctx_free(ctx);
}

/* Run all checks of a case; fails the running cmocka test at the first difference. */
static void check_op_case(const op_case *c)
{
    check_numbers(c, AG_F32);
    if (!(c->flags & NO_BF16))
        check_numbers(c, AG_BF16);
    if (!(c->flags & NO_BF16) && check_device() == AG_CUDA) /* the CPU's kernels have no f16 */
        check_numbers(c, AG_F16);
    if (c->refuse)
        check_refusal(c);
}

#endif /* TESTS_OPS_HARNESS_H */
