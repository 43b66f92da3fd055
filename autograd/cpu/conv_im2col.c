/* conv_im2col.c - convolutions as one matrix product, the patches gathered while they are packed.
 *
 * The matrix of patches [N OH OW, kh kw I] is never stored: the product asks for blocks of it.
 *   forward   y [pixels, O]     = patches(x) [pixels, kh kw I]  w^T
 *   weights   dw [O, kh kw I]   = dy^T [O, pixels]  patches(x)
 *   data      dx [pixels of a phase, I] = patches(dy) [.., taps O]  w [taps O, I]
 * With stride s an input pixel is read by the taps of its phase only: rows with (iy + top) mod s
 * equal and columns alike form one product, and there are s^2 of them; no multiplication is wasted.
 */
#include "autograd/cpu/conv_internal.h"

#include <string.h>

/* Taps of one axis that reach a phase of input places. */
typedef struct phase_axis {
    int64_t first, count;        /* input places first, first + s, ... */
    int64_t tap, tap_step, taps; /* taps tap, tap + tap_step, ... */
} phase_axis;

typedef struct conv_job {
    const cpu_conv *conv;
    int64_t oh, ow;
    const float *x, *w;
    float *y;
    phase_axis down, across;
} conv_job;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- forward -------------------------------------------------------------------------------- */

/* Row r of dst: the patch of an output pixel, from element k0 on. */
static void forward_fill_a(const gemm_job *job, int64_t batch, float *dst, int64_t ld, int64_t row,
                           int64_t n_rows, int64_t k0, int64_t n_k)
{
    const conv_job *j = job->user;
    const cpu_conv *c = j->conv;

    (void)batch;
    for (int64_t r = 0; r < n_rows; r++, dst += ld) {
        const int64_t pixel = row + r, ox = pixel % j->ow, oy = pixel / j->ow % j->oh;
        const float *image = j->x + pixel / j->ow / j->oh * c->h * c->w * c->c;
        int64_t tap = k0 / c->c, i = k0 % c->c;

        for (int64_t done = 0; done < n_k; tap++, i = 0) {
            const int64_t n = least(c->c - i, n_k - done);
            const int64_t iy = oy * c->stride + tap / c->kw * c->dilation - c->pad_top;
            const int64_t ix = ox * c->stride + tap % c->kw * c->dilation - c->pad_left;
            if (iy >= 0 && iy < c->h && ix >= 0 && ix < c->w)
                memcpy(dst + done, image + (iy * c->w + ix) * c->c + i, (size_t)n * sizeof *dst);
            else
                memset(dst + done, 0, (size_t)n * sizeof *dst);
            done += n;
        }
    }
}

static void forward_fill_b(const gemm_job *job, int64_t batch, float *dst, int64_t k0, int64_t n_k,
                           int64_t col, int64_t n_cols)
{
    const conv_job *j = job->user;

    (void)batch;
    job->kernels->pack_b(dst, j->w + col * job->k + k0, job->k, true, n_k, n_cols);
}

static float *dense_row_c(const gemm_job *job, int64_t batch, int64_t row)
{
    const conv_job *j = job->user;

    (void)batch;
    return j->y + row * job->n;
}

static gemm_job forward_job(const conv_job *j, const float *b, int isa)
{
    const cpu_conv *c = j->conv;

    return (gemm_job){
        .m = c->n * j->oh * j->ow, .n = c->o, .k = c->kh * c->kw * c->c, .batch = 1,
        .alpha = 1.0f, .bias = b, .fill_a = forward_fill_a, .fill_b = forward_fill_b,
        .same_b = true, .row_c = dense_row_c, .kernels = gemm_kernels_of(isa), .user = j};
}

/* --- backward by weights -------------------------------------------------------------------- */

static void weights_fill_a(const gemm_job *job, int64_t batch, float *dst, int64_t ld, int64_t row,
                           int64_t n_rows, int64_t k0, int64_t n_k)
{
    const conv_job *j = job->user; /* here w is dy [pixels, O] */

    (void)batch, (void)ld;
    job->kernels->pack_a(dst, j->w + k0 * job->m + row, job->m, n_rows, n_k);
}

/* Columns of one tap, i.. of its channels (n of them, at column `at` of the panel), for output
 * pixels ox.. of one output row (count of them). */
static void weights_fill_run(const gemm_job *job, float *dst, const float *image_row, int64_t ox,
                             int64_t count, int64_t shift, int64_t i, int64_t n, int64_t at)
{
    const conv_job *j = job->user;
    const cpu_conv *c = j->conv;
    const int nr = job->kernels->nr;

    while (count > 0) {
        const int64_t ix = ox * c->stride + shift;
        int64_t run = 1;
        if (!image_row || ix < 0 || ix >= c->w) {
            memset(dst + at, 0, (size_t)n * sizeof *dst);
        } else {
            const float *from = image_row + ix * c->c + i;
            run = least(count, (c->w - 1 - ix) / c->stride + 1);
            if (n == nr)
                job->kernels->pack_b(dst, from, c->stride * c->c, false, run, n);
            else
                for (int64_t l = 0; l < run; l++)
                    memcpy(dst + l * nr + at, from + l * c->stride * c->c, (size_t)n * sizeof *dst);
        }
        ox += run;
        count -= run;
        dst += run * nr;
    }
}

/* A panel is at most nr columns of patches, of one tap or of a few. */
static void weights_fill_b(const gemm_job *job, int64_t batch, float *dst, int64_t k0, int64_t n_k,
                           int64_t col, int64_t n_cols)
{
    const conv_job *j = job->user;
    const cpu_conv *c = j->conv;
    const int nr = job->kernels->nr;

    (void)batch;
    for (int64_t p = 0; p < n_cols; p += nr, dst += n_k * nr) {
        const int64_t width = least(nr, n_cols - p);
        int64_t n;
        if (width < nr)
            memset(dst, 0, (size_t)(n_k * nr) * sizeof *dst);
        for (int64_t at = 0; at < width; at += n) {
            const int64_t column = col + p + at, tap = column / c->c, i = column % c->c;
            const int64_t shift = tap % c->kw * c->dilation - c->pad_left;
            int64_t count;
            n = least(c->c - i, width - at);
            for (int64_t l = 0; l < n_k; l += count) {
                const int64_t pixel = k0 + l, ox = pixel % j->ow, oy = pixel / j->ow % j->oh;
                const int64_t iy = oy * c->stride + tap / c->kw * c->dilation - c->pad_top;
                const float *image = j->x + pixel / j->ow / j->oh * c->h * c->w * c->c;
                count = least(j->ow - ox, n_k - l);
                weights_fill_run(job, dst + l * nr,
                                 iy >= 0 && iy < c->h ? image + iy * c->w * c->c : NULL, ox, count,
                                 shift, i, n, at);
            }
        }
    }
}

static gemm_job weights_job(const conv_job *j, int isa)
{
    const cpu_conv *c = j->conv;

    return (gemm_job){
        .m = c->o, .n = c->kh * c->kw * c->c, .k = c->n * j->oh * j->ow, .batch = 1, .alpha = 1.0f,
        .a_is_panels = true, .fill_a = weights_fill_a, .fill_b = weights_fill_b, .same_b = true,
        .row_c = dense_row_c, .kernels = gemm_kernels_of(isa), .user = j};
}

/* --- backward by data ----------------------------------------------------------------------- */

/* Input places p >= 0 with (p + pad) mod s == phase, and the taps t with t d mod s == phase. */
static phase_axis phase_of(int64_t phase, int64_t size, int64_t kernel, int64_t pad, int64_t stride,
                           int64_t dilation)
{
    phase_axis a = {.first = ((phase - pad) % stride + stride) % stride, .tap_step = 1};

    a.count = a.first < size ? (size - 1 - a.first) / stride + 1 : 0;
    for (int64_t t = kernel - 1, last = -1; t >= 0; t--)
        if (t * dilation % stride == phase) {
            a.taps++;
            a.tap = t;
            if (last >= 0)
                a.tap_step = last - t;
            last = t;
        }
    return a;
}

/* Row: an input pixel of the phase; k: taps of the phase times O. */
static void data_fill_a(const gemm_job *job, int64_t batch, float *dst, int64_t ld, int64_t row,
                        int64_t n_rows, int64_t k0, int64_t n_k)
{
    const conv_job *j = job->user; /* here x is dy [N,OH,OW,O] */
    const cpu_conv *c = j->conv;

    (void)batch;
    for (int64_t r = 0; r < n_rows; r++, dst += ld) {
        const int64_t at = row + r, across = j->across.count, down = j->down.count;
        const int64_t ix = j->across.first + at % across * c->stride;
        const int64_t iy = j->down.first + at / across % down * c->stride;
        const float *image = j->x + at / across / down * j->oh * j->ow * c->o;
        int64_t tap = k0 / c->o, o = k0 % c->o;

        for (int64_t done = 0; done < n_k; tap++, o = 0) {
            const int64_t n = least(c->o - o, n_k - done);
            const int64_t ky = j->down.tap + tap / j->across.taps * j->down.tap_step;
            const int64_t kx = j->across.tap + tap % j->across.taps * j->across.tap_step;
            const int64_t oy_s = iy + c->pad_top - ky * c->dilation; /* times the stride */
            const int64_t ox_s = ix + c->pad_left - kx * c->dilation;
            const int64_t oy = oy_s / c->stride, ox = ox_s / c->stride;
            if (oy_s >= 0 && oy < j->oh && ox_s >= 0 && ox < j->ow)
                memcpy(dst + done, image + (oy * j->ow + ox) * c->o + o, (size_t)n * sizeof *dst);
            else
                memset(dst + done, 0, (size_t)n * sizeof *dst);
            done += n;
        }
    }
}

static void data_fill_b(const gemm_job *job, int64_t batch, float *dst, int64_t k0, int64_t n_k,
                        int64_t col, int64_t n_cols)
{
    const conv_job *j = job->user;
    const cpu_conv *c = j->conv;
    const int nr = job->kernels->nr;
    const int64_t o_step = c->kh * c->kw * c->c;

    (void)batch;
    for (int64_t p = 0; p < n_cols; p += nr, dst += n_k * nr) {
        int64_t tap = k0 / c->o, o = k0 % c->o;
        for (int64_t done = 0; done < n_k; tap++, o = 0) {
            const int64_t n = least(c->o - o, n_k - done);
            const int64_t ky = j->down.tap + tap / j->across.taps * j->down.tap_step;
            const int64_t kx = j->across.tap + tap % j->across.taps * j->across.tap_step;
            job->kernels->pack_b(dst + done * nr,
                                 j->w + o * o_step + (ky * c->kw + kx) * c->c + col + p, o_step,
                                 false, n, least(nr, n_cols - p));
            done += n;
        }
    }
}

static float *data_row_c(const gemm_job *job, int64_t batch, int64_t row)
{
    const conv_job *j = job->user;
    const cpu_conv *c = j->conv;
    const int64_t across = j->across.count, down = j->down.count;
    const int64_t ix = j->across.first + row % across * c->stride;
    const int64_t iy = j->down.first + row / across % down * c->stride;

    (void)batch;
    return j->y + ((row / across / down * c->h + iy) * c->w + ix) * c->c;
}

static gemm_job data_job(conv_job *j, int64_t phase_y, int64_t phase_x, int isa)
{
    const cpu_conv *c = j->conv;

    j->down = phase_of(phase_y, c->h, c->kh, c->pad_top, c->stride, c->dilation);
    j->across = phase_of(phase_x, c->w, c->kw, c->pad_left, c->stride, c->dilation);
    return (gemm_job){
        .m = c->n * j->down.count * j->across.count, .n = c->c,
        .k = j->down.taps * j->across.taps * c->o, .batch = 1, .alpha = 1.0f,
        .fill_a = data_fill_a, .fill_b = data_fill_b, .same_b = true, .row_c = data_row_c,
        .kernels = gemm_kernels_of(isa), .user = j};
}

/* --- the interface -------------------------------------------------------------------------- */

static conv_job job_of(const cpu_conv *conv, const float *x, const float *w, float *y)
{
    return (conv_job){.conv = conv, .oh = cpu_conv_out_h(conv), .ow = cpu_conv_out_w(conv),
                      .x = x, .w = w, .y = y};
}

static bool is_empty(const gemm_job *job)
{
    return job->m < 1 || job->n < 1 || job->k < 1;
}

size_t conv_im2col_scratch(const cpu_conv *conv, cpu_conv_pass pass, int isa, int n_threads)
{
    conv_job j = job_of(conv, NULL, NULL, NULL);
    gemm_job job;
    size_t most = 0;

    if (pass != CPU_CONV_BACKWARD_DATA) {
        job = pass == CPU_CONV_FORWARD ? forward_job(&j, NULL, isa) : weights_job(&j, isa);
        return is_empty(&job) ? 0 : gemm_job_scratch(&job, n_threads);
    }
    for (int64_t phase = 0; phase < conv->stride * conv->stride; phase++) {
        job = data_job(&j, phase / conv->stride, phase % conv->stride, isa);
        if (!is_empty(&job)) {
            const size_t bytes = gemm_job_scratch(&job, n_threads);
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}

void conv_im2col_forward(float *y, const cpu_conv *conv, const float *x, const float *w,
                         const float *b, void *scratch, int isa, int n_threads)
{
    const conv_job j = job_of(conv, x, w, y);
    const gemm_job job = forward_job(&j, b, isa);

    if (!is_empty(&job))
        gemm_job_run(&job, scratch, n_threads);
}

void conv_im2col_backward_weights(float *dw, const cpu_conv *conv, const float *x, const float *dy,
                                  void *scratch, int isa, int n_threads)
{
    const conv_job j = job_of(conv, x, dy, dw);
    const gemm_job job = weights_job(&j, isa);

    if (job.k < 1)
        memset(dw, 0, (size_t)(job.m * job.n) * sizeof *dw);
    else if (!is_empty(&job))
        gemm_job_run(&job, scratch, n_threads);
}

void conv_im2col_backward_data(float *dx, const cpu_conv *conv, const float *dy, const float *w,
                               void *scratch, int isa, int n_threads)
{
    conv_job j = job_of(conv, dy, w, dx);

    for (int64_t phase = 0; phase < conv->stride * conv->stride; phase++) {
        const gemm_job job = data_job(&j, phase / conv->stride, phase % conv->stride, isa);
        if (job.k < 1 || j.oh < 1 || j.ow < 1)
            for (int64_t row = 0; row < job.m; row++) /* no output reads this phase */
                memset(data_row_c(&job, 0, row), 0, (size_t)job.n * sizeof *dx);
        else if (!is_empty(&job))
            gemm_job_run(&job, scratch, n_threads);
    }
}
