/* conv.c - convolutions: which algorithm runs a call, and operands of every type.
 *
 * The rule, by the measurements of scripts/bench_kernels.c:
 *   bf16 with AMX                              our own tiles
 *   bf16 where the processor has AVX512_BF16  oneDNN, unless it has only its reference loops
 *   other bf16                                 converted to f32 in scratch, then as f32
 *   1x1, stride 1, no padding                  one product
 *   3x3, stride 1, forward and data            Winograd (winograd_choose says which side)
 *   everything else                            im2col
 */
#include "autograd/cpu/conv.h"

#include <string.h>

#include "autograd/cpu/conv_internal.h"
#include "autograd/cpu/elementwise.h"
#include "autograd/cpu/onednn.h"

enum {
    SUM_COLUMNS = 32,
    ENLARGED_PIXELS = 1024 /* fewer, and adding up weights takes what it saves */
};

static int64_t out_size(int64_t in, int64_t kernel, int64_t dilation, int64_t stride)
{
    const int64_t free_places = in - dilation * (kernel - 1) - 1;
    return free_places < 0 ? 0 : free_places / stride + 1;
}

int64_t cpu_conv_out_h(const cpu_conv *conv)
{
    return out_size(conv->h * (conv->enlarge ? 2 : 1) + conv->pad_top + conv->pad_bottom, conv->kh, conv->dilation,
                    conv->stride);
}

int64_t cpu_conv_out_w(const cpu_conv *conv)
{
    return out_size(conv->w * (conv->enlarge ? 2 : 1) + conv->pad_left + conv->pad_right, conv->kw, conv->dilation,
                    conv->stride);
}

static int64_t x_count(const cpu_conv *c)
{
    return c->n * c->h * c->w * c->c;
}

static int64_t w_count(const cpu_conv *c)
{
    return c->o * c->kh * c->kw * c->c;
}

static int64_t y_pixels(const cpu_conv *c)
{
    return c->n * cpu_conv_out_h(c) * cpu_conv_out_w(c);
}

/* --- what runs a pass ----------------------------------------------------------------------- */

typedef enum conv_algorithm {
    CONV_EMPTY, /* an axis of length zero: at most zeros to write */
    CONV_ONEDNN,
    CONV_AMX,
    CONV_AMX_GEMM, /* one product of bf16 */
    CONV_GEMM,
    CONV_WINOGRAD,
    CONV_IM2COL
} conv_algorithm;

typedef struct conv_choice {
    conv_algorithm algorithm;
    const cpu_onednn_plan *plan;
    winograd_shape winograd;
    int side;
    bool failed;
} conv_choice;

static bool wants_onednn(cpu_state *state, const cpu_conv *conv)
{
    return conv->type == AG_BF16 && cpu_isa_has_bf16() && cpu_state_isa(state) >= CPU_ISA_AVX512;
}

static bool is_one_product(const cpu_conv *c)
{
    return c->kh == 1 && c->kw == 1 && c->stride == 1 && c->pad_top == 0 && c->pad_bottom == 0 &&
           c->pad_left == 0 && c->pad_right == 0;
}

static conv_choice choose(cpu_state *state, const cpu_conv *c, cpu_conv_pass pass)
{
    conv_choice choice = {.algorithm = CONV_IM2COL};

    if (x_count(c) < 1 || y_pixels(c) * c->o < 1) {
        choice.algorithm = CONV_EMPTY;
        return choice;
    }
    if (c->type == AG_BF16 && cpu_state_isa(state) >= CPU_ISA_AMX) {
        choice.algorithm = is_one_product(c) ? CONV_AMX_GEMM : CONV_AMX;
        return choice;
    }
    if (wants_onednn(state, c)) {
        choice.plan = cpu_onednn_conv(cpu_state_onednn(state), c, pass, &choice.failed);
        if (choice.plan)
            choice.algorithm = CONV_ONEDNN;
        if (choice.plan || choice.failed)
            return choice;
    }
    if (is_one_product(c)) {
        choice.algorithm = CONV_GEMM;
    } else if (pass != CPU_CONV_BACKWARD_WEIGHTS && c->kh == 3 && c->kw == 3 && c->stride == 1 &&
               c->dilation == 1) {
        choice.winograd = pass == CPU_CONV_FORWARD ? winograd_forward_shape(c)
                                                   : winograd_backward_shape(c);
        choice.side = winograd_choose(&choice.winograd);
        if (choice.side)
            choice.algorithm = CONV_WINOGRAD;
    }
    return choice;
}

bool cpu_conv2d_takes_enlarged(cpu_state *state, const cpu_conv *c)
{
    return c->type == AG_BF16 && cpu_state_isa(state) >= CPU_ISA_AMX && c->kh == 3 && c->kw == 3 && c->stride == 1 &&
           c->dilation == 1 && c->pad_top == 1 && c->pad_left == 1 && c->pad_bottom == 1 && c->pad_right == 1 &&
           c->h * c->w >= ENLARGED_PIXELS && c->o % 16 == 0;
}

/* The product that a 1x1 convolution is, of f32 or as it is. */
static cpu_gemm_call product_of(const cpu_conv *c, cpu_conv_pass pass, bool as_is, void *out,
                                const void *in0, const void *in1, const float *bias)
{
    const int64_t pixels = y_pixels(c);
    cpu_gemm_call call = {.a = in0, .b = in1, .c = out, .alpha = 1.0f, .bias = bias};

    if (as_is) {
        call.a_type = call.c_type = c->type;
        call.b_type = c->weight_type;
        if (pass == CPU_CONV_BACKWARD_WEIGHTS) {
            call.b_type = c->type;
            call.c_type = AG_F32;
        }
    }

    if (pass == CPU_CONV_FORWARD) { /* y [P,O] = x [P,I] w^T */
        call.m = pixels, call.n = c->o, call.k = c->c, call.transpose_b = true;
    } else if (pass == CPU_CONV_BACKWARD_DATA) { /* dx [P,I] = dy [P,O] w */
        call.m = pixels, call.n = c->c, call.k = c->o;
    } else { /* dw [O,I] = dy^T x */
        call.m = c->o, call.n = c->c, call.k = pixels, call.transpose_a = true;
        call.a = in1, call.b = in0;
    }
    return call;
}

/* --- one pass in f32 ------------------------------------------------------------------------ */

static size_t scratch_f32(cpu_state *state, const cpu_conv *c, cpu_conv_pass pass,
                          const conv_choice *choice)
{
    const int isa = (int)cpu_state_isa(state), n_threads = cpu_state_threads(state);

    if (choice->algorithm == CONV_GEMM) {
        const cpu_gemm_call call = product_of(c, pass, false, NULL, NULL, NULL, NULL);
        return cpu_gemm_scratch(state, &call);
    }
    if (choice->algorithm == CONV_WINOGRAD)
        return winograd_scratch(&choice->winograd, choice->side, isa, n_threads);
    return conv_im2col_scratch(c, pass, isa, n_threads);
}

/* out, in0, in1 as in cpu_onednn_run. */
static bool run_f32(cpu_state *state, const cpu_conv *c, cpu_conv_pass pass,
                    const conv_choice *choice, float *out, const float *in0, const float *in1,
                    const float *bias, const float *plus, void *scratch)
{
    const int isa = (int)cpu_state_isa(state), n_threads = cpu_state_threads(state);

    if (choice->algorithm == CONV_GEMM) {
        cpu_gemm_call call = product_of(c, pass, false, out, in0, in1, bias);
        call.plus = plus;
        return cpu_gemm(state, &call, scratch);
    }
    if (choice->algorithm == CONV_WINOGRAD)
        winograd_run(out, &choice->winograd, choice->side, in0, in1, bias, plus, scratch, isa,
                     n_threads);
    else if (pass == CPU_CONV_FORWARD)
        conv_im2col_forward(out, c, in0, in1, bias, scratch, isa, n_threads);
    else if (pass == CPU_CONV_BACKWARD_DATA)
        conv_im2col_backward_data(out, c, in0, in1, scratch, isa, n_threads);
    else
        conv_im2col_backward_weights(out, c, in0, in1, scratch, isa, n_threads);
    return true;
}

/* --- types ---------------------------------------------------------------------------------- */

/* An operand of a pass: how many elements of which type. */
typedef struct conv_operand {
    int64_t count;
    ag_dtype type;
} conv_operand;

/* out, in0, in1 */
static void operands_of(conv_operand o[3], const cpu_conv *c, cpu_conv_pass pass)
{
    const conv_operand x = {x_count(c), c->type}, y = {y_pixels(c) * c->o, c->type};
    const conv_operand w = {w_count(c), c->weight_type}, dw = {w_count(c), AG_F32};

    o[0] = pass == CPU_CONV_FORWARD ? y : pass == CPU_CONV_BACKWARD_DATA ? x : dw;
    o[1] = pass == CPU_CONV_BACKWARD_DATA ? y : x;
    o[2] = pass == CPU_CONV_BACKWARD_WEIGHTS ? y : w;
}

static size_t f32_bytes(const conv_operand *o)
{
    return o->type == AG_F32 ? 0 : gemm_round64((size_t)o->count * sizeof(float));
}

static size_t pass_scratch(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass)
{
    const conv_choice choice = choose(state, conv, pass);
    conv_operand o[3];

    if (choice.algorithm == CONV_EMPTY || choice.failed)
        return 0;
    if (choice.plan)
        return cpu_onednn_scratch(choice.plan);
    if (choice.algorithm == CONV_AMX)
        return conv_amx_scratch(conv, pass, cpu_state_threads(state));
    if (choice.algorithm == CONV_AMX_GEMM) {
        const cpu_gemm_call call = product_of(conv, pass, true, NULL, NULL, NULL, NULL);
        return cpu_gemm_scratch(state, &call);
    }
    operands_of(o, conv, pass);
    return f32_bytes(&o[0]) + f32_bytes(&o[1]) + f32_bytes(&o[2]) +
           scratch_f32(state, conv, pass, &choice);
}

/* The operand as f32: itself, or converted at *rest, which then moves on. */
static const float *widened(const void *data, const conv_operand *o, char **rest, cpu_state *state)
{
    float *copy = (float *)*rest;

    if (o->type == AG_F32)
        return data;
    *rest += f32_bytes(o);
    cpu_cast(copy, AG_F32, data, o->type, o->count, cpu_state_threads(state),
             (int)cpu_state_isa(state));
    return copy;
}

/* An image without pixels: y is the bias, gradients are zeros. */
static void run_empty(const cpu_conv *c, cpu_conv_pass pass, void *out)
{
    conv_operand o[3];

    operands_of(o, c, pass);
    if (pass != CPU_CONV_FORWARD)
        memset(out, 0, (size_t)o[0].count * (o[0].type == AG_F32 ? 4 : 2));
}

static bool run_pass(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass, void *out, const void *in0,
                     const void *in1, const float *bias, const void *plus, void *scratch)
{
    const conv_choice choice = choose(state, conv, pass);
    char *rest = scratch;
    const float *f32_in0, *f32_in1;
    float *f32_out = out;
    conv_operand o[3];

    if (choice.failed)
        return false;
    if (choice.algorithm == CONV_EMPTY) {
        run_empty(conv, pass, out);
        return true;
    }
    if (choice.plan)
        return cpu_onednn_run(cpu_state_onednn(state), choice.plan, out, in0, in1, bias, scratch);
    if (choice.algorithm == CONV_AMX) {
        conv_amx_run(conv, pass, out, in0, in1, bias, plus, scratch, cpu_state_threads(state));
        return true;
    }
    if (choice.algorithm == CONV_AMX_GEMM) {
        cpu_gemm_call call = product_of(conv, pass, true, out, in0, in1, bias);
        call.plus = plus;
        return cpu_gemm(state, &call, scratch);
    }
    operands_of(o, conv, pass);
    f32_in0 = widened(in0, &o[1], &rest, state);
    f32_in1 = widened(in1, &o[2], &rest, state);
    if (o[0].type != AG_F32) {
        f32_out = (float *)rest;
        rest += f32_bytes(&o[0]);
    }
    if (!run_f32(state, conv, pass, &choice, f32_out, f32_in0, f32_in1, bias, plus, rest))
        return false;
    if (o[0].type != AG_F32)
        cpu_cast(out, o[0].type, f32_out, AG_F32, o[0].count, cpu_state_threads(state),
                 (int)cpu_state_isa(state));
    return true;
}

/* --- the interface -------------------------------------------------------------------------- */

size_t cpu_conv2d_forward_scratch(cpu_state *state, const cpu_conv *conv)
{
    return pass_scratch(state, conv, CPU_CONV_FORWARD);
}

bool cpu_conv2d_forward(void *y, cpu_state *state, const cpu_conv *conv, const void *x,
                        const void *w, const float *b, const void *plus, void *scratch)
{
    const conv_choice choice = choose(state, conv, CPU_CONV_FORWARD);
    const bool taken = choice.algorithm == CONV_AMX || choice.algorithm == CONV_AMX_GEMM ||
                       (conv->type == AG_F32 &&
                        (choice.algorithm == CONV_GEMM || choice.algorithm == CONV_WINOGRAD));
    const int64_t n = y_pixels(conv) * conv->o;

    if (!run_pass(state, conv, CPU_CONV_FORWARD, y, x, w, b, taken ? plus : NULL, scratch))
        return false;
    if (plus && !taken && conv->type == AG_F32)
        cpu_add_into(y, plus, n, cpu_state_threads(state), (int)cpu_state_isa(state));
    else if (plus && !taken)
        cpu_binary_bf16(y, CPU_ADD, y, plus, n, cpu_state_threads(state), (int)cpu_state_isa(state));
    return true;
}

size_t cpu_conv2d_backward_data_scratch(cpu_state *state, const cpu_conv *conv)
{
    return pass_scratch(state, conv, CPU_CONV_BACKWARD_DATA);
}

bool cpu_conv2d_backward_data(void *dx, cpu_state *state, const cpu_conv *conv, const void *dy,
                              const void *w, void *scratch)
{
    return run_pass(state, conv, CPU_CONV_BACKWARD_DATA, dx, dy, w, NULL, NULL, scratch);
}

/* db[o] = sum of dy [rows,O] over rows, in double, a few columns at a time. */
static void bias_gradient(float *db, const void *dy, ag_dtype type, int64_t rows, int64_t n_out,
                          int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t first = 0; first < n_out; first += SUM_COLUMNS) {
        const int64_t n = n_out - first < SUM_COLUMNS ? n_out - first : SUM_COLUMNS;
        double sums[SUM_COLUMNS] = {0.0};
        for (int64_t r = 0; r < rows; r++) {
            if (type == AG_F32) {
                const float *row = (const float *)dy + r * n_out + first;
                for (int64_t o = 0; o < n; o++)
                    sums[o] += row[o];
            } else {
                const uint16_t *row = (const uint16_t *)dy + r * n_out + first;
                for (int64_t o = 0; o < n; o++) {
                    const uint32_t bits = (uint32_t)row[o] << 16;
                    float value;
                    memcpy(&value, &bits, sizeof value);
                    sums[o] += value;
                }
            }
        }
        for (int64_t o = 0; o < n; o++)
            db[first + o] = (float)sums[o];
    }
}

size_t cpu_conv2d_backward_weights_scratch(cpu_state *state, const cpu_conv *conv)
{
    return pass_scratch(state, conv, CPU_CONV_BACKWARD_WEIGHTS);
}

bool cpu_conv2d_backward_weights(float *dw, float *db, cpu_state *state, const cpu_conv *conv,
                                 const void *x, const void *dy, void *scratch)
{
    if (db)
        bias_gradient(db, dy, conv->type, y_pixels(conv), conv->o, cpu_state_threads(state));
    return run_pass(state, conv, CPU_CONV_BACKWARD_WEIGHTS, dw, x, dy, NULL, NULL, scratch);
}

const char *cpu_conv_kernel_name(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass)
{
    static const char *const names[3][CPU_ISA_AMX + 1] = {
        {"im2col portable", "im2col avx2", "im2col avx512", "im2col avx512"},
        {"winograd 2x2 portable", "winograd 2x2 avx2", "winograd 2x2 avx512",
         "winograd 2x2 avx512"},
        {"winograd 4x4 portable", "winograd 4x4 avx2", "winograd 4x4 avx512",
         "winograd 4x4 avx512"},
    };
    const conv_choice choice = choose(state, conv, pass);
    const int isa = (int)cpu_state_isa(state);

    switch (choice.algorithm) {
    case CONV_EMPTY: return "nothing";
    case CONV_ONEDNN: return cpu_onednn_name(choice.plan);
    case CONV_AMX:
    case CONV_AMX_GEMM: return "own amx";
    case CONV_GEMM: return gemm_kernels_of(isa)->name;
    case CONV_WINOGRAD: return names[choice.side / 2][isa];
    case CONV_IM2COL: break;
    }
    return names[0][isa];
}
