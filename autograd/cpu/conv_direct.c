/* conv_direct.c - convolution by the obvious loops. */
#include "autograd/cpu/conv_direct.h"

/* Input place of output place `out` and tap `tap` along one axis. */
static int64_t place(int64_t out, int64_t tap, int64_t stride, int64_t dilation, int64_t pad)
{
    return out * stride + tap * dilation - pad;
}

void cpu_conv_direct_forward(float *y, const cpu_conv *conv, const float *x, const float *w,
                             const float *b, int n_threads)
{
    const int64_t oh = cpu_conv_out_h(conv), ow = cpu_conv_out_w(conv), I = conv->c, O = conv->o;

#pragma omp parallel for num_threads(n_threads) collapse(2) schedule(static)
    for (int64_t row = 0; row < conv->n * oh; row++)
        for (int64_t ox = 0; ox < ow; ox++) {
            const int64_t n = row / oh, oy = row % oh;
            for (int64_t o = 0; o < O; o++) {
                double sum = b ? b[o] : 0.0;
                for (int64_t ky = 0; ky < conv->kh; ky++)
                    for (int64_t kx = 0; kx < conv->kw; kx++) {
                        const int64_t iy =
                            place(oy, ky, conv->stride, conv->dilation, conv->pad_top);
                        const int64_t ix =
                            place(ox, kx, conv->stride, conv->dilation, conv->pad_left);
                        if (iy < 0 || iy >= conv->h || ix < 0 || ix >= conv->w)
                            continue;
                        const float *pixel = x + ((n * conv->h + iy) * conv->w + ix) * I;
                        const float *tap = w + ((o * conv->kh + ky) * conv->kw + kx) * I;
                        for (int64_t i = 0; i < I; i++)
                            sum += (double)pixel[i] * tap[i];
                    }
                y[(row * ow + ox) * O + o] = (float)sum;
            }
        }
}

/* Every input element collects from the outputs that read it. */
void cpu_conv_direct_backward_data(float *dx, const cpu_conv *conv, const float *dy, const float *w,
                                   int n_threads)
{
    const int64_t oh = cpu_conv_out_h(conv), ow = cpu_conv_out_w(conv), I = conv->c, O = conv->o;

#pragma omp parallel for num_threads(n_threads) collapse(2) schedule(static)
    for (int64_t row = 0; row < conv->n * conv->h; row++)
        for (int64_t ix = 0; ix < conv->w; ix++) {
            const int64_t n = row / conv->h, iy = row % conv->h;
            for (int64_t i = 0; i < I; i++) {
                double sum = 0.0;
                for (int64_t ky = 0; ky < conv->kh; ky++)
                    for (int64_t kx = 0; kx < conv->kw; kx++) {
                        const int64_t y_s = iy + conv->pad_top - ky * conv->dilation;
                        const int64_t x_s = ix + conv->pad_left - kx * conv->dilation;
                        const int64_t oy = y_s / conv->stride, ox = x_s / conv->stride;
                        if (y_s < 0 || x_s < 0 || y_s % conv->stride || x_s % conv->stride ||
                            oy >= oh || ox >= ow)
                            continue;
                        const float *pixel = dy + ((n * oh + oy) * ow + ox) * O;
                        for (int64_t o = 0; o < O; o++)
                            sum += (double)pixel[o] *
                                   w[((o * conv->kh + ky) * conv->kw + kx) * I + i];
                    }
                dx[(row * conv->w + ix) * I + i] = (float)sum;
            }
        }
}

void cpu_conv_direct_backward_weights(float *dw, float *db, const cpu_conv *conv, const float *x,
                                      const float *dy, int n_threads)
{
    const int64_t oh = cpu_conv_out_h(conv), ow = cpu_conv_out_w(conv), I = conv->c, O = conv->o;

#pragma omp parallel for num_threads(n_threads) collapse(2) schedule(static)
    for (int64_t o = 0; o < O; o++)
        for (int64_t tap = 0; tap < conv->kh * conv->kw; tap++) {
            const int64_t ky = tap / conv->kw, kx = tap % conv->kw;
            for (int64_t i = 0; i < I; i++) {
                double sum = 0.0;
                for (int64_t row = 0; row < conv->n * oh; row++)
                    for (int64_t ox = 0; ox < ow; ox++) {
                        const int64_t n = row / oh;
                        const int64_t iy =
                            place(row % oh, ky, conv->stride, conv->dilation, conv->pad_top);
                        const int64_t ix =
                            place(ox, kx, conv->stride, conv->dilation, conv->pad_left);
                        if (iy < 0 || iy >= conv->h || ix < 0 || ix >= conv->w)
                            continue;
                        sum += (double)x[((n * conv->h + iy) * conv->w + ix) * I + i] *
                               dy[(row * ow + ox) * O + o];
                    }
                dw[(o * conv->kh * conv->kw + tap) * I + i] = (float)sum;
            }
        }
    for (int64_t o = 0; db && o < O; o++) {
        double sum = 0.0;
        for (int64_t row = 0; row < conv->n * oh * ow; row++)
            sum += dy[row * O + o];
        db[o] = (float)sum;
    }
}
