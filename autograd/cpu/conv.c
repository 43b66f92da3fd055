/* conv.c - convolutions: oneDNN where it has a kernel, the obvious loops where it has none. */
#include "autograd/cpu/conv.h"

#include <string.h>

#include "autograd/cpu/conv_direct.h"
#include "autograd/cpu/elementwise.h"
#include "autograd/cpu/onednn.h"

int64_t cpu_conv_out_h(const cpu_conv *conv)
{
    const int64_t span = conv->h + conv->pad_top + conv->pad_bottom;
    const int64_t free_rows = span - conv->dilation * (conv->kh - 1) - 1;
    return free_rows < 0 ? 0 : free_rows / conv->stride + 1;
}

int64_t cpu_conv_out_w(const cpu_conv *conv)
{
    const int64_t span = conv->w + conv->pad_left + conv->pad_right;
    const int64_t free_columns = span - conv->dilation * (conv->kw - 1) - 1;
    return free_columns < 0 ? 0 : free_columns / conv->stride + 1;
}

static const cpu_onednn_plan *conv_plan(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass,
                                        bool *failed)
{
    return cpu_onednn_conv(cpu_state_onednn(state), conv, pass, failed);
}

static size_t round64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static int64_t x_count(const cpu_conv *c)
{
    return c->n * c->h * c->w * c->c;
}

static int64_t w_count(const cpu_conv *c)
{
    return c->o * c->kh * c->kw * c->c;
}

static int64_t y_count(const cpu_conv *c)
{
    return c->n * cpu_conv_out_h(c) * cpu_conv_out_w(c) * c->o;
}

static size_t conv_scratch(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass)
{
    bool failed = false;
    const cpu_onednn_plan *plan = conv_plan(state, conv, pass, &failed);
    size_t bytes = 0;

    if (plan)
        return cpu_onednn_scratch(plan);
    if (conv->type != AG_F32)
        bytes += round64((size_t)x_count(conv) * 4) + round64((size_t)y_count(conv) * 4);
    if (conv->weight_type != AG_F32)
        bytes += round64((size_t)w_count(conv) * 4);
    return bytes;
}

size_t cpu_conv2d_forward_scratch(cpu_state *state, const cpu_conv *conv)
{
    return conv_scratch(state, conv, CPU_CONV_FORWARD);
}

size_t cpu_conv2d_backward_data_scratch(cpu_state *state, const cpu_conv *conv)
{
    return conv_scratch(state, conv, CPU_CONV_BACKWARD_DATA);
}

size_t cpu_conv2d_backward_weights_scratch(cpu_state *state, const cpu_conv *conv)
{
    return conv_scratch(state, conv, CPU_CONV_BACKWARD_WEIGHTS);
}

/* x as f32: itself, or converted into scratch, which then begins behind it. */
static const float *as_f32(const void *x, ag_dtype type, int64_t n, char **scratch, cpu_state *state)
{
    float *copy = (float *)*scratch;

    if (type == AG_F32)
        return x;
    *scratch += round64((size_t)n * 4);
    cpu_cast(copy, AG_F32, x, type, n, cpu_state_threads(state), (int)cpu_state_isa(state));
    return copy;
}

bool cpu_conv2d_forward(void *y, cpu_state *state, const cpu_conv *conv, const void *x,
                        const void *w, const float *b, void *scratch)
{
    bool failed = false;
    const cpu_onednn_plan *plan = conv_plan(state, conv, CPU_CONV_FORWARD, &failed);
    const int n_threads = cpu_state_threads(state);
    char *rest = scratch;
    const float *xf, *wf;
    float *yf = y;

    if (failed)
        return false;
    if (plan)
        return cpu_onednn_run(cpu_state_onednn(state), plan, y, x, w, b, scratch);
    xf = as_f32(x, conv->type, x_count(conv), &rest, state);
    wf = as_f32(w, conv->weight_type, w_count(conv), &rest, state);
    if (conv->type != AG_F32)
        yf = (float *)rest;
    cpu_conv_direct_forward(yf, conv, xf, wf, b, n_threads);
    if (conv->type != AG_F32)
        cpu_cast(y, conv->type, yf, AG_F32, y_count(conv), n_threads, (int)cpu_state_isa(state));
    return true;
}

bool cpu_conv2d_backward_data(void *dx, cpu_state *state, const cpu_conv *conv, const void *dy,
                              const void *w, void *scratch)
{
    bool failed = false;
    const cpu_onednn_plan *plan = conv_plan(state, conv, CPU_CONV_BACKWARD_DATA, &failed);
    const int n_threads = cpu_state_threads(state);
    char *rest = scratch;
    const float *dyf, *wf;
    float *dxf = dx;

    if (failed)
        return false;
    if (plan)
        return cpu_onednn_run(cpu_state_onednn(state), plan, dx, dy, w, NULL, scratch);
    dyf = as_f32(dy, conv->type, y_count(conv), &rest, state);
    wf = as_f32(w, conv->weight_type, w_count(conv), &rest, state);
    if (conv->type != AG_F32)
        dxf = (float *)rest;
    cpu_conv_direct_backward_data(dxf, conv, dyf, wf, n_threads);
    if (conv->type != AG_F32)
        cpu_cast(dx, conv->type, dxf, AG_F32, x_count(conv), n_threads, (int)cpu_state_isa(state));
    return true;
}

/* db[o] = sum of dy over pixels, in double. */
static void bias_gradient(float *db, const void *dy, ag_dtype type, int64_t rows, int64_t O,
                          int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t o = 0; o < O; o++) {
        double sum = 0.0;
        for (int64_t r = 0; r < rows; r++) {
            float value;
            if (type == AG_F32) {
                value = ((const float *)dy)[r * O + o];
            } else {
                const uint32_t bits = (uint32_t)((const uint16_t *)dy)[r * O + o] << 16;
                memcpy(&value, &bits, sizeof value);
            }
            sum += value;
        }
        db[o] = (float)sum;
    }
}

bool cpu_conv2d_backward_weights(float *dw, float *db, cpu_state *state, const cpu_conv *conv,
                                 const void *x, const void *dy, void *scratch)
{
    bool failed = false;
    const cpu_onednn_plan *plan = conv_plan(state, conv, CPU_CONV_BACKWARD_WEIGHTS, &failed);
    const int n_threads = cpu_state_threads(state);
    const float *xf, *dyf;
    char *rest = scratch;

    if (failed)
        return false;
    if (db)
        bias_gradient(db, dy, conv->type, y_count(conv) / (conv->o ? conv->o : 1), conv->o,
                      n_threads);
    if (plan)
        return cpu_onednn_run(cpu_state_onednn(state), plan, dw, x, dy, NULL, scratch);
    xf = as_f32(x, conv->type, x_count(conv), &rest, state);
    dyf = as_f32(dy, conv->type, y_count(conv), &rest, state);
    cpu_conv_direct_backward_weights(dw, NULL, conv, xf, dyf, n_threads);
    return true;
}

const char *cpu_conv_kernel_name(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass)
{
    bool failed = false;
    const cpu_onednn_plan *plan = conv_plan(state, conv, pass, &failed);
    return plan ? cpu_onednn_name(plan) : "direct";
}
