/* conv2d.c - the CUDA twin of ops/conv2d.c: convolutions by cuDNN (dnn_conv.h), else as matrix products.
 *
 *   forward           y = patches(x) w^T, by rows of y that fit into a bounded scratch
 *   backward data     for each tap, D w[:,ky,kx,:] added to its place in dx, by pictures
 *   backward weights  dw = D^T patches(x), summed over rows in their order
 *
 * A 1x1 convolution that moves nothing is always a product. w is brought to the element type of x once.
 */
#include "autograd/cuda/conv.h"
#include "autograd/cuda/dnn_conv.h"
#include "autograd/cuda/gemm.h"
#include "autograd/cuda/internal.h"
#include "autograd/cuda/kernels.h"
#include "autograd/ops/attrs.h"

static const int64_t PATCH_BYTES = (int64_t)256 << 20;
enum { UNIT = 64 };

static size_t up(int64_t bytes)
{
    return ((size_t)bytes + UNIT - 1) / UNIT * UNIT;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many of n pieces of `bytes` each go into the bounded scratch; at least one. */
static int64_t piece_of(int64_t n, int64_t bytes)
{
    const int64_t fit = bytes ? PATCH_BYTES / bytes : n;

    return least(n, fit < 1 ? 1 : fit);
}

/* x [N,H,W,I], w [O,kh,kw,I], y [N,OH,OW,O] by their sizes */
static cuda_conv sizes(const op_conv_attr *a, const int64_t *x, const int64_t *w, const int64_t *y)
{
    return (cuda_conv){
        .n = x[0],
        .h = x[1],
        .w = x[2],
        .c = x[3],
        .oh = y[1],
        .ow = y[2],
        .o = y[3],
        .kh = w[1],
        .kw = w[2],
        .stride = a->opts.stride ? a->opts.stride : 1,
        .dilation = a->opts.dilation ? a->opts.dilation : 1,
        .top = a->opts.pad_top,
        .left = a->opts.pad_left,
        .bottom = a->opts.pad_bottom,
        .right = a->opts.pad_right,
    };
}

/* In the place of scratch while its size is asked for: what counts is how it is aligned. */
static void *const IN_SCRATCH = (void *)UNIT;

/* One product does it: every place of y is one place of x. */
static bool is_plain(const cuda_conv *s)
{
    return s->kh == 1 && s->kw == 1 && s->stride == 1 && s->top == 0 && s->left == 0 && s->h == s->oh && s->w == s->ow;
}

static int64_t rows_of(const cuda_conv *s)
{
    return s->n * s->oh * s->ow;
}

static int64_t patch_of(const cuda_conv *s)
{
    return s->kh * s->kw * s->c;
}

/* t (or nothing) in another element type in scratch, where it is needed. */
static size_t cast_scratch(const ag_tensor *t, ag_dtype type)
{
    return !t || ag_dtype_of(t) == type ? 0 : up(ag_numel(t) * (int64_t)ag_dtype_size(type));
}

/* Where it will be; while scratch is not there yet, where it would be. */
static const void *place_of(const ag_tensor *t, ag_dtype type, const void *scratch)
{
    return !t ? NULL : ag_dtype_of(t) == type ? ag_data(t) : scratch;
}

static const void *cast_to(const ag_call *call, const ag_tensor *t, ag_dtype type, void *scratch, ag_status *status)
{
    if (cast_scratch(t, type) && *status == AG_OK)
        *status = cuda_cast_values(call, scratch, type, ag_data(t), ag_dtype_of(t), ag_numel(t));
    return place_of(t, type, scratch);
}

/* --- forward ---------------------------------------------------------------------------------- */

typedef struct forward_work {
    cuda_conv s;
    ag_dtype type;
    const cuda_dnn_plan *plan; /* NULL: products */
    int64_t rows;              /* of one product */
    size_t w_bytes, patch_bytes, bias_bytes, work_bytes;
} forward_work;

static cuda_dnn_conv forward_conv(const ag_call *call, const forward_work *work, const void *w, const void *bias)
{
    return (cuda_dnn_conv){.form = CUDA_CONV_FORWARD,
                           .sizes = work->s,
                           .type = work->type,
                           .x = ag_data(call->in[0]),
                           .w = w,
                           .y = ag_data(call->out[0]),
                           .bias = bias};
}

static cuda_product forward_product(const ag_call *call, const forward_work *work, const void *col, const void *w,
                                    int64_t from, int64_t rows)
{
    const ag_tensor *b = call->in[2];

    return (cuda_product){
        .m = rows,
        .n = work->s.o,
        .k = patch_of(&work->s),
        .a = col,
        .b = w,
        .c = (char *)ag_data(call->out[0]) + (size_t)(from * work->s.o) * ag_dtype_size(work->type),
        .transpose_b = true,
        .a_type = work->type,
        .b_type = work->type,
        .c_type = work->type,
        .bias = b ? ag_data(b) : NULL,
        .bias_type = b ? ag_dtype_of(b) : AG_F32,
    };
}

static forward_work forward_of(const ag_call *call)
{
    const ag_tensor *x = call->in[0], *w = call->in[1], *b = call->in[2], *y = call->out[0];
    forward_work f = {.s = sizes(call->attr, ag_dims(x), ag_dims(w), ag_dims(y)), .type = ag_dtype_of(x)};
    const int64_t row = patch_of(&f.s) * (int64_t)ag_dtype_size(f.type), all = rows_of(&f.s);

    f.w_bytes = cast_scratch(w, f.type);
    if (!is_plain(&f.s)) {
        const cuda_dnn_conv c =
            forward_conv(call, &f, place_of(w, f.type, IN_SCRATCH), place_of(b, f.type, IN_SCRATCH));
        f.plan = cuda_dnn_conv_plan(call, &c);
    }
    if (f.plan) {
        f.bias_bytes = cast_scratch(b, f.type);
        f.work_bytes = cuda_dnn_conv_scratch(f.plan);
        return f;
    }
    f.rows = is_plain(&f.s) ? all : piece_of(all, row);
    f.patch_bytes = is_plain(&f.s) ? 0 : up(f.rows * row);
    for (int64_t from = 0; from < all; from += f.rows) {
        const cuda_product p = forward_product(call, &f, f.patch_bytes ? IN_SCRATCH : ag_data(x),
                                               place_of(w, f.type, IN_SCRATCH), from, least(f.rows, all - from));
        f.work_bytes = larger(f.work_bytes, cuda_gemm_scratch(call, &p));
    }
    return f;
}

size_t cuda_conv2d_scratch(const ag_call *call)
{
    forward_work f;

    if (ag_numel(call->out[0]) == 0)
        return 0;
    f = forward_of(call);
    return f.w_bytes + f.patch_bytes + f.bias_bytes + f.work_bytes;
}

/* Part of the scratch, if there is one. */
static void *inside(char *scratch, size_t bytes)
{
    return scratch ? scratch + bytes : NULL;
}

ag_status cuda_conv2d(ag_call *call)
{
    const size_t bytes = cuda_conv2d_scratch(call);
    char *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;
    ag_status status = ag_status_of(call->ctx);
    forward_work f;
    const void *w;

    if (status != AG_OK || ag_numel(call->out[0]) == 0)
        return status;
    f = forward_of(call);
    w = cast_to(call, call->in[1], f.type, scratch, &status);
    if (f.plan) {
        const void *b = cast_to(call, call->in[2], f.type, inside(scratch, f.w_bytes), &status);
        const cuda_dnn_conv c = forward_conv(call, &f, w, b);
        if (status == AG_OK)
            status = cuda_dnn_conv_run(call, f.plan, &c, inside(scratch, f.w_bytes + f.bias_bytes));
        return status;
    }
    for (int64_t from = 0; from < rows_of(&f.s) && status == AG_OK; from += f.rows) {
        const int64_t rows = least(f.rows, rows_of(&f.s) - from);
        const void *col = f.patch_bytes ? scratch + f.w_bytes : ag_data(call->in[0]);
        const cuda_product p = forward_product(call, &f, col, w, from, rows);
        if (f.patch_bytes)
            status = cuda_conv_patches(call, scratch + f.w_bytes, ag_data(call->in[0]), f.type, &f.s, from, rows);
        if (status == AG_OK)
            status = cuda_gemm(call, &p, inside(scratch, f.w_bytes + f.patch_bytes));
    }
    return status;
}

/* --- backward data: D, w -> dx ---------------------------------------------------------------- */

typedef struct data_work {
    cuda_conv s;
    ag_dtype type;
    const cuda_dnn_plan *plan; /* NULL: products */
    int64_t pictures;          /* of one round */
    size_t w_bytes, part_bytes, sum_bytes, work_bytes;
} data_work;

static cuda_dnn_conv data_conv(const ag_call *call, const data_work *work, const void *w)
{
    return (cuda_dnn_conv){.form = CUDA_CONV_DATA,
                           .sizes = work->s,
                           .type = work->type,
                           .x = ag_data(call->out[0]),
                           .w = w,
                           .y = ag_data(call->in[0])};
}

/* One tap of `pictures` pictures from `first`; all of it at once when the convolution is plain. */
static cuda_product data_product(const ag_call *call, const data_work *work, void *part, const void *w, int64_t tap,
                                 int64_t first, int64_t pictures)
{
    const cuda_conv *s = &work->s;
    const size_t size = ag_dtype_size(work->type);

    return (cuda_product){
        .m = pictures * s->oh * s->ow,
        .n = s->c,
        .k = s->o,
        .a = (const char *)ag_data(call->in[0]) + (size_t)(first * s->oh * s->ow * s->o) * size,
        .b = (const char *)w + (size_t)(tap * s->c) * size,
        .c = part,
        .ld_b = patch_of(s),
        .a_type = work->type,
        .b_type = work->type,
        .c_type = is_plain(s) ? work->type : AG_F32,
    };
}

static data_work data_of(const ag_call *call)
{
    const ag_tensor *d = call->in[0], *w = call->in[1], *dx = call->out[0];
    data_work f = {.s = sizes(call->attr, ag_dims(dx), ag_dims(w), ag_dims(d)), .type = ag_dtype_of(d)};
    const int64_t part = f.s.oh * f.s.ow * f.s.c * (int64_t)sizeof(float);
    const bool plain = is_plain(&f.s);

    f.w_bytes = cast_scratch(w, f.type);
    if (!plain) {
        const cuda_dnn_conv c = data_conv(call, &f, place_of(w, f.type, IN_SCRATCH));
        f.plan = cuda_dnn_conv_plan(call, &c);
    }
    if (f.plan) {
        f.work_bytes = cuda_dnn_conv_scratch(f.plan);
        return f;
    }
    f.pictures = plain ? f.s.n : piece_of(f.s.n, part);
    f.part_bytes = plain ? 0 : up(f.pictures * part);
    f.sum_bytes = plain || f.type == AG_F32 ? 0 : up(f.pictures * f.s.h * f.s.w * f.s.c * (int64_t)sizeof(float));
    for (int64_t tap = 0; tap < f.s.kh * f.s.kw; tap++) /* they differ in how w is aligned */
        for (int64_t first = 0; first < f.s.n; first += f.pictures) {
            const cuda_product p = data_product(call, &f, plain ? ag_data(dx) : IN_SCRATCH,
                                                place_of(w, f.type, IN_SCRATCH), tap, first,
                                                least(f.pictures, f.s.n - first));
            f.work_bytes = larger(f.work_bytes, cuda_gemm_scratch(call, &p));
        }
    return f;
}

size_t cuda_conv2d_backward_data_scratch(const ag_call *call)
{
    data_work f;

    if (ag_numel(call->out[0]) == 0)
        return 0;
    f = data_of(call);
    return f.w_bytes + f.part_bytes + f.sum_bytes + f.work_bytes;
}

/* All taps of some pictures into dx. */
static ag_status data_round(const ag_call *call, const data_work *f, const void *w, char *scratch, int64_t first,
                            int64_t pictures)
{
    const int64_t n = pictures * f->s.h * f->s.w * f->s.c, at = first * f->s.h * f->s.w * f->s.c;
    char *dx = (char *)ag_data(call->out[0]) + (size_t)at * ag_dtype_size(f->type);
    char *part = f->part_bytes ? scratch : dx;
    char *sum = f->sum_bytes ? scratch + f->part_bytes : dx;
    void *rest = inside(scratch, f->part_bytes + f->sum_bytes);
    ag_status status = AG_OK;

    for (int64_t tap = 0; tap < f->s.kh * f->s.kw && status == AG_OK; tap++) {
        const cuda_product p = data_product(call, f, part, w, tap, first, pictures);
        status = cuda_gemm(call, &p, rest);
        if (status == AG_OK && f->part_bytes)
            status = cuda_conv_add_tap(call, (float *)(void *)sum, (const float *)(const void *)part, &f->s, pictures,
                                       tap / f->s.kw, tap % f->s.kw, tap == 0);
    }
    return status == AG_OK && f->sum_bytes ? cuda_cast_values(call, dx, f->type, sum, AG_F32, n) : status;
}

ag_status cuda_conv2d_backward_data(ag_call *call)
{
    const size_t bytes = cuda_conv2d_backward_data_scratch(call);
    char *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;
    ag_status status = ag_status_of(call->ctx);
    data_work f;
    const void *w;

    if (status != AG_OK || ag_numel(call->out[0]) == 0)
        return status;
    f = data_of(call);
    w = cast_to(call, call->in[1], f.type, scratch, &status);
    if (f.plan) {
        const cuda_dnn_conv c = data_conv(call, &f, w);
        return status == AG_OK ? cuda_dnn_conv_run(call, f.plan, &c, inside(scratch, f.w_bytes)) : status;
    }
    for (int64_t first = 0; first < f.s.n && status == AG_OK; first += f.pictures)
        status = data_round(call, &f, w, inside(scratch, f.w_bytes), first, least(f.pictures, f.s.n - first));
    return status;
}

/* --- backward weights: D, x -> dw ------------------------------------------------------------- */

typedef struct weights_work {
    cuda_conv s;
    ag_dtype type;
    const cuda_dnn_plan *plan; /* NULL: products */
    int64_t rows;
    size_t patch_bytes, work_bytes;
} weights_work;

static cuda_dnn_conv weights_conv(const ag_call *call, const weights_work *work)
{
    return (cuda_dnn_conv){.form = CUDA_CONV_WEIGHTS,
                           .sizes = work->s,
                           .type = work->type,
                           .x = ag_data(call->in[1]),
                           .w = ag_data(call->out[0]),
                           .y = ag_data(call->in[0])};
}

static cuda_product weights_product(const ag_call *call, const weights_work *work, const void *col, int64_t from,
                                    int64_t rows)
{
    return (cuda_product){
        .m = work->s.o,
        .n = patch_of(&work->s),
        .k = rows,
        .a = (const char *)ag_data(call->in[0]) + (size_t)(from * work->s.o) * ag_dtype_size(work->type),
        .b = col,
        .c = ag_data(call->out[0]),
        .transpose_a = true,
        .accumulate = from > 0,
        .a_type = work->type,
        .b_type = work->type,
        .c_type = AG_F32,
    };
}

static weights_work weights_of(const ag_call *call)
{
    const ag_tensor *d = call->in[0], *x = call->in[1], *dw = call->out[0];
    weights_work f = {.s = sizes(call->attr, ag_dims(x), ag_dims(dw), ag_dims(d)), .type = ag_dtype_of(x)};
    const int64_t row = patch_of(&f.s) * (int64_t)ag_dtype_size(f.type), all = rows_of(&f.s);

    if (!is_plain(&f.s) && all > 0) {
        const cuda_dnn_conv c = weights_conv(call, &f);
        f.plan = cuda_dnn_conv_plan(call, &c);
    }
    if (f.plan) {
        f.work_bytes = cuda_dnn_conv_scratch(f.plan);
        return f;
    }
    f.rows = is_plain(&f.s) ? all : piece_of(all, row);
    f.patch_bytes = is_plain(&f.s) ? 0 : up(f.rows * row);
    for (int64_t from = 0; from < all; from += f.rows) {
        const cuda_product p = weights_product(call, &f, f.patch_bytes ? IN_SCRATCH : ag_data(x), from,
                                               least(f.rows, all - from));
        f.work_bytes = larger(f.work_bytes, cuda_gemm_scratch(call, &p));
    }
    return f;
}

size_t cuda_conv2d_backward_weights_scratch(const ag_call *call)
{
    weights_work f;

    if (ag_numel(call->out[0]) == 0)
        return 0;
    f = weights_of(call);
    return f.patch_bytes + f.work_bytes;
}

ag_status cuda_conv2d_backward_weights(ag_call *call)
{
    const size_t bytes = cuda_conv2d_backward_weights_scratch(call);
    char *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;
    ag_status status = ag_status_of(call->ctx);
    weights_work f;

    if (status != AG_OK || ag_numel(call->out[0]) == 0)
        return status;
    f = weights_of(call);
    if (f.plan) {
        const cuda_dnn_conv c = weights_conv(call, &f);
        return cuda_dnn_conv_run(call, f.plan, &c, scratch);
    }
    if (rows_of(&f.s) == 0) { /* no pictures: a product of nothing */
        const cuda_product p = weights_product(call, &f, NULL, 0, 0);
        return cuda_gemm(call, &p, NULL);
    }
    for (int64_t from = 0; from < rows_of(&f.s) && status == AG_OK; from += f.rows) {
        const int64_t rows = least(f.rows, rows_of(&f.s) - from);
        const void *col = f.patch_bytes ? scratch : ag_data(call->in[1]);
        const cuda_product p = weights_product(call, &f, col, from, rows);
        if (f.patch_bytes)
            status = cuda_conv_patches(call, scratch, ag_data(call->in[1]), f.type, &f.s, from, rows);
        if (status == AG_OK)
            status = cuda_gemm(call, &p, inside(scratch, f.patch_bytes));
    }
    return status;
}
