/* image.c - resampling and padding of channels-last pictures.
 *
 * A task is one row of the output, so an adjoint gathers what its forward pass scattered, always in
 * the same order. The inner loop runs over channels.
 */
#include "autograd/cpu/image.h"

#include <string.h>

#include "autograd/cpu/elementwise_internal.h"

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void add_scaled(float *y, float a, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

/* --- nearest neighbour ------------------------------------------------------------------------ */

void cpu_upsample_nearest(void *y, const void *x, size_t size, cpu_picture in, int64_t oh, int64_t ow,
                          int n_threads)
{
    const size_t pixel = (size_t)in.c * size;

#pragma omp parallel for num_threads(cpu_team(in.n * oh * ow * in.c, n_threads)) schedule(static)
    for (int64_t r = 0; r < in.n * oh; r++) {
        const char *row = (const char *)x + (size_t)((r / oh * in.h + r % oh * in.h / oh) * in.w) * pixel;
        char *to = (char *)y + (size_t)(r * ow) * pixel;
        for (int64_t j = 0; j < ow; j++)
            memcpy(to + (size_t)j * pixel, row + (size_t)(j * in.w / ow) * pixel, pixel);
    }
}

void cpu_upsample_nearest_adjoint(float *dx, const float *dy, cpu_picture in, int64_t oh,
                                  int64_t ow, int n_threads)
{
    const int64_t row = in.w * in.c;

#pragma omp parallel for num_threads(cpu_team(in.n * oh * ow * in.c, n_threads)) schedule(static)
    for (int64_t r = 0; r < in.n * in.h; r++) {
        const int64_t n = r / in.h, i = r % in.h;

        memset(dx + r * row, 0, (size_t)row * sizeof *dx);
        /* the outputs o with floor(o * h / oh) = i */
        for (int64_t o = (i * oh + in.h - 1) / in.h; o < oh && o * in.h / oh == i; o++)
            for (int64_t j = 0; j < ow; j++)
                add(dx + r * row + j * in.w / ow * in.c, dy + ((n * oh + o) * ow + j) * in.c, in.c);
    }
}

/* --- average pooling -------------------------------------------------------------------------- */

void cpu_avg_pool(float *y, const float *x, cpu_picture in, int64_t k, int n_threads)
{
    const int64_t oh = in.h / k, ow = in.w / k;
    const float share = 1.0f / (float)(k * k);

#pragma omp parallel for num_threads(cpu_team(in.n * in.h * in.w * in.c, n_threads)) \
    schedule(static)
    for (int64_t r = 0; r < in.n * oh; r++)
        for (int64_t j = 0; j < ow; j++) {
            float *to = y + (r * ow + j) * in.c;
            memset(to, 0, (size_t)in.c * sizeof *to);
            for (int64_t a = 0; a < k * k; a++)
                add(to, x + ((r / oh * in.h + r % oh * k + a / k) * in.w + j * k + a % k) * in.c,
                    in.c);
            for (int64_t c = 0; c < in.c; c++)
                to[c] *= share;
        }
}

void cpu_avg_pool_adjoint(float *dx, const float *dy, cpu_picture in, int64_t k, int n_threads)
{
    const int64_t oh = in.h / k, ow = in.w / k;
    const float share = 1.0f / (float)(k * k);

#pragma omp parallel for num_threads(cpu_team(in.n * in.h * in.w * in.c, n_threads)) \
    schedule(static)
    for (int64_t r = 0; r < in.n * in.h; r++) {
        const int64_t n = r / in.h, i = r % in.h / k;
        for (int64_t j = 0; j < in.w; j++) {
            float *to = dx + (r * in.w + j) * in.c;
            const float *from = dy + ((n * oh + i) * ow + j / k) * in.c;
            for (int64_t c = 0; c < in.c; c++)
                to[c] = i < oh && j / k < ow ? share * from[c] : 0.0f;
        }
    }
}

/* --- padding ---------------------------------------------------------------------------------- */

/* The index of a padded axis in its source, or -1 where zeros stand. */
static int64_t pad_source(ag_pad_mode mode, int64_t i, int64_t size)
{
    if (i >= 0 && i < size)
        return i;
    switch (mode) {
    case AG_PAD_REFLECT: return i < 0 ? -i : 2 * (size - 1) - i;
    case AG_PAD_REPLICATE: return i < 0 ? 0 : size - 1;
    case AG_PAD_ZERO: break;
    }
    return -1;
}

void cpu_pad(float *y, const float *x, cpu_picture in, ag_pad_mode mode, int64_t top,
             int64_t bottom, int64_t left, int64_t right, int n_threads)
{
    const int64_t oh = top + in.h + bottom, ow = left + in.w + right;

#pragma omp parallel for num_threads(cpu_team(in.n * oh * ow * in.c, n_threads)) schedule(static)
    for (int64_t r = 0; r < in.n * oh; r++) {
        const int64_t i = pad_source(mode, r % oh - top, in.h);
        for (int64_t c = 0; c < ow; c++) {
            const int64_t j = pad_source(mode, c - left, in.w);
            float *to = y + (r * ow + c) * in.c;
            if (i < 0 || j < 0)
                memset(to, 0, (size_t)in.c * sizeof *to);
            else
                memcpy(to, x + ((r / oh * in.h + i) * in.w + j) * in.c, (size_t)in.c * sizeof *to);
        }
    }
}

void cpu_pad_adjoint(float *dx, const float *dy, cpu_picture in, ag_pad_mode mode, int64_t top,
                     int64_t bottom, int64_t left, int64_t right, int n_threads)
{
    const int64_t oh = top + in.h + bottom, ow = left + in.w + right, row = in.w * in.c;

#pragma omp parallel for num_threads(cpu_team(in.n * oh * ow * in.c, n_threads)) schedule(static)
    for (int64_t r = 0; r < in.n * in.h; r++) {
        const int64_t n = r / in.h;

        memset(dx + r * row, 0, (size_t)row * sizeof *dx);
        for (int64_t o = 0; o < oh; o++) {
            if (pad_source(mode, o - top, in.h) != r % in.h)
                continue;
            for (int64_t c = 0; c < ow; c++) {
                const int64_t j = pad_source(mode, c - left, in.w);
                if (j >= 0)
                    add(dx + r * row + j * in.c, dy + ((n * oh + o) * ow + c) * in.c, in.c);
            }
        }
    }
}

/* --- up, filter, down ------------------------------------------------------------------------- */

int64_t cpu_upfirdn_size(int64_t in, int64_t up, int64_t down, int64_t filter, int64_t before,
                         int64_t after)
{
    return (in * up + before + after - filter) / down + 1;
}

void cpu_upfirdn2d(float *y, const float *x, const float *filter, cpu_picture in, cpu_upfirdn s,
                   int n_threads)
{
    const int64_t oh = cpu_upfirdn_size(in.h, s.up, s.down, s.fh, s.top, s.bottom);
    const int64_t ow = cpu_upfirdn_size(in.w, s.up, s.down, s.fw, s.left, s.right);

#pragma omp parallel for num_threads(cpu_team(in.n * oh * ow * in.c, n_threads)) schedule(static)
    for (int64_t r = 0; r < in.n * oh; r++)
        for (int64_t j = 0; j < ow; j++) {
            float *to = y + (r * ow + j) * in.c;

            memset(to, 0, (size_t)in.c * sizeof *to);
            for (int64_t f = 0; f < s.fh * s.fw; f++) {
                const int64_t v = r % oh * s.down + f / s.fw - s.top; /* row of the stretched x */
                const int64_t u = j * s.down + f % s.fw - s.left;
                if (v >= 0 && u >= 0 && v % s.up == 0 && u % s.up == 0 && v / s.up < in.h &&
                    u / s.up < in.w)
                    add_scaled(to, filter[f],
                               x + ((r / oh * in.h + v / s.up) * in.w + u / s.up) * in.c, in.c);
            }
        }
}

void cpu_upfirdn2d_adjoint(float *dx, const float *dy, const float *filter, cpu_picture in,
                           cpu_upfirdn s, int n_threads)
{
    const int64_t oh = cpu_upfirdn_size(in.h, s.up, s.down, s.fh, s.top, s.bottom);
    const int64_t ow = cpu_upfirdn_size(in.w, s.up, s.down, s.fw, s.left, s.right);

#pragma omp parallel for num_threads(cpu_team(in.n * oh * ow * in.c, n_threads)) schedule(static)
    for (int64_t r = 0; r < in.n * in.h; r++)
        for (int64_t j = 0; j < in.w; j++) {
            float *to = dx + (r * in.w + j) * in.c;

            memset(to, 0, (size_t)in.c * sizeof *to);
            for (int64_t f = 0; f < s.fh * s.fw; f++) {
                const int64_t v = r % in.h * s.up + s.top - f / s.fw; /* down times a row of y */
                const int64_t u = j * s.up + s.left - f % s.fw;
                if (v >= 0 && u >= 0 && v % s.down == 0 && u % s.down == 0 && v / s.down < oh &&
                    u / s.down < ow)
                    add_scaled(to, filter[f],
                               dy + ((r / in.h * oh + v / s.down) * ow + u / s.down) * in.c, in.c);
            }
        }
}
