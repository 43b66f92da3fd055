/* test_cpu_conv.c - convolutions against the obvious loops, which are tested against a scatter.
 *
 * Every instruction set of this machine, every algorithm: sizes around tiles and blocks, strides,
 * dilation, uneven padding, one row, one column, few channels; one, two and three threads with the
 * same bits. Full-size shapes of Stable Diffusion 1.5 are compared at sampled outputs.
 */
#include "autograd/cpu/conv.h"

#include <sys/wait.h>
#include <unistd.h>

#include "autograd/cpu/conv_direct.h"
#include "autograd/cpu/conv_internal.h"
#include "autograd/cpu/image.h"
#include "autograd/cpu/onednn.h"
#include "tests/cpu_check.h"

static int64_t count_x(const cpu_conv *c)
{
    return c->n * c->h * c->w * c->c;
}

static int64_t count_w(const cpu_conv *c)
{
    return c->o * c->kh * c->kw * c->c;
}

static int64_t count_y(const cpu_conv *c)
{
    return c->n * cpu_conv_out_h(c) * cpu_conv_out_w(c) * c->o;
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits += 0x7fff + (bits >> 16 & 1);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A bf16 copy of x, whose values are rounded with it. */
static uint16_t *narrowed(float *x, int64_t n)
{
    uint16_t *half = malloc((size_t)(n > 0 ? n : 1) * sizeof *half);

    assert_non_null(half);
    for (int64_t i = 0; i < n; i++) {
        half[i] = to_bf16(x[i]);
        x[i] = from_bf16(half[i]);
    }
    return half;
}

/* Largest difference and root mean square of it, against the root mean square of want. */
static void check_error(const char *what, const cpu_conv *c, int isa, const float *got,
                        const float *want, int64_t n, double rms_limit, double max_limit)
{
    double square = 0.0, error = 0.0, most = 0.0, size;

    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - want[i];
        square += (double)want[i] * want[i];
        error += d * d;
        most = !(fabs(d) <= most) ? fabs(d) : most;
    }
    size = sqrt(square / (double)(n ? n : 1)) + 1e-30;
    error = sqrt(error / (double)(n ? n : 1)) / size;
    if (!(error <= rms_limit && most / size <= max_limit))
        fail_msg("%s isa %d, %lldx%lldx%lldx%lld -> %lld, %lldx%lld stride %lld dilation %lld: "
                 "error %.3g rms, %.3g at most",
                 what, isa, (long long)c->n, (long long)c->h, (long long)c->w, (long long)c->c,
                 (long long)c->o, (long long)c->kh, (long long)c->kw, (long long)c->stride,
                 (long long)c->dilation, error, most / size);
}

/* --- the reference itself ------------------------------------------------------------------- */

/* The formula of conv.h as a scatter, in double: for every pair of pixels that meet. */
static void test_reference(void **unused)
{
    const cpu_conv shapes[] = {
        {.n = 2, .h = 5, .w = 4, .c = 3, .o = 2, .kh = 3, .kw = 2, .stride = 2, .dilation = 1,
         .pad_top = 1, .pad_left = 2, .pad_right = 1},
        {.n = 1, .h = 7, .w = 6, .c = 2, .o = 3, .kh = 2, .kw = 3, .stride = 1, .dilation = 2,
         .pad_bottom = 2, .pad_left = 1},
    };

    (void)unused;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const cpu_conv *c = &shapes[s];
        const int64_t oh = cpu_conv_out_h(c), ow = cpu_conv_out_w(c);
        uint64_t seed = 3;
        float *x = check_random(count_x(c), &seed, 0, 1);
        float *w = check_random(count_w(c), &seed, 0, 1);
        float *b = check_random(c->o, &seed, 0, 1), *dy = check_random(count_y(c), &seed, 0, 1);
        float *y = check_floats(count_y(c)), *dx = check_floats(count_x(c));
        float *dw = check_floats(count_w(c)), *db = check_floats(c->o);
        double *want_y = check_doubles(NULL, count_y(c));
        double *want_dx = check_doubles(NULL, count_x(c));
        double *want_dw = check_doubles(NULL, count_w(c)), *want_db = check_doubles(NULL, c->o);

        for (int64_t p = 0; p < c->n * oh * ow; p++)
            for (int64_t o = 0; o < c->o; o++) {
                want_y[p * c->o + o] += b[o];
                want_db[o] += dy[p * c->o + o];
            }
        for (int64_t xi = 0; xi < count_x(c); xi++)
            for (int64_t wi = 0; wi < count_w(c); wi++) {
                const int64_t i = xi % c->c, ix = xi / c->c % c->w, iy = xi / c->c / c->w % c->h;
                const int64_t n = xi / c->c / c->w / c->h, o = wi / c->c / c->kw / c->kh;
                const int64_t ay = iy + c->pad_top - wi / c->c / c->kw % c->kh * c->dilation;
                const int64_t ax = ix + c->pad_left - wi / c->c % c->kw * c->dilation;
                if (wi % c->c != i || ay < 0 || ax < 0 || ay % c->stride || ax % c->stride ||
                    ay / c->stride >= oh || ax / c->stride >= ow)
                    continue;
                const int64_t yi = ((n * oh + ay / c->stride) * ow + ax / c->stride) * c->o + o;
                want_y[yi] += (double)x[xi] * w[wi];
                want_dx[xi] += (double)dy[yi] * w[wi];
                want_dw[wi] += (double)dy[yi] * x[xi];
            }
        cpu_conv_direct_forward(y, c, x, w, b, 1);
        cpu_conv_direct_backward_data(dx, c, dy, w, 1);
        cpu_conv_direct_backward_weights(dw, db, c, x, dy, 1);
        check_near("y", 0, y, want_y, count_y(c), 2e-7);
        check_near("dx", 0, dx, want_dx, count_x(c), 2e-7);
        check_near("dw", 0, dw, want_dw, count_w(c), 2e-7);
        check_near("db", 0, db, want_db, c->o, 2e-7);
        free(x), free(w), free(b), free(dy), free(y), free(dx), free(dw), free(db);
        free(want_y), free(want_dx), free(want_dw), free(want_db);
    }
}

/* --- the three passes as the library runs them ---------------------------------------------- */

typedef struct passes {
    float *y, *dx, *dw, *db;
} passes;

static passes passes_new(const cpu_conv *c)
{
    return (passes){check_floats(count_y(c)), check_floats(count_x(c)), check_floats(count_w(c)),
                    check_floats(c->o)};
}

static void passes_free(passes *p)
{
    free(p->y), free(p->dx), free(p->dw), free(p->db);
}

/* Types are those of c; y and dx come back as f32. */
static passes run_passes(const cpu_conv *c, const void *x, const void *w, const float *b,
                         const void *dy, int n_threads, int isa)
{
    cpu_state *state = cpu_state_new(n_threads);
    passes p = passes_new(c);
    void *y = c->type == AG_F32 ? (void *)p.y : malloc((size_t)count_y(c) * 2 + 1);
    void *dx = c->type == AG_F32 ? (void *)p.dx : malloc((size_t)count_x(c) * 2 + 1);
    void *scratch;

    assert_true(state && y && dx);
    cpu_state_cap_isa(state, (cpu_isa)isa);
    scratch = check_scratch(cpu_conv2d_forward_scratch(state, c));
    assert_true(cpu_conv2d_forward(y, state, c, x, w, b, NULL, scratch));
    free(scratch);
    scratch = check_scratch(cpu_conv2d_backward_data_scratch(state, c));
    assert_true(cpu_conv2d_backward_data(dx, state, c, dy, w, scratch));
    free(scratch);
    scratch = check_scratch(cpu_conv2d_backward_weights_scratch(state, c));
    assert_true(cpu_conv2d_backward_weights(p.dw, p.db, state, c, x, dy, scratch));
    free(scratch);
    if (c->type != AG_F32) {
        for (int64_t i = 0; i < count_y(c); i++)
            p.y[i] = from_bf16(((uint16_t *)y)[i]);
        for (int64_t i = 0; i < count_x(c); i++)
            p.dx[i] = from_bf16(((uint16_t *)dx)[i]);
        free(y), free(dx);
    }
    cpu_state_free(state);
    return p;
}

static void compare(const cpu_conv *conv, bool with_bias, int isa)
{
    cpu_conv f32 = *conv;
    uint64_t seed = 11;
    float *x = check_random(count_x(conv), &seed, 0.1, 1);
    float *w = check_random(count_w(conv), &seed, 0, 1);
    float *dy = check_random(count_y(conv), &seed, 0.1, 1);
    float *b = with_bias ? check_random(conv->o, &seed, 0, 1) : NULL;
    uint16_t *x_half = NULL, *w_half = NULL, *dy_half = NULL;
    passes want, first = {0};
    double rms = 3e-6, most = 3e-5, weight_rms = 1e-6;

    if (conv->type == AG_BF16) {
        x_half = narrowed(x, count_x(conv)), dy_half = narrowed(dy, count_y(conv));
        rms = 4e-3, most = 3e-2;
    }
    if (conv->weight_type == AG_BF16 || conv->type == AG_BF16)
        w_half = narrowed(w, count_w(conv)); /* so that rounding w changes nothing */
    f32.type = f32.weight_type = AG_F32;
    want = passes_new(conv);
    cpu_conv_direct_forward(want.y, &f32, x, w, b, 1);
    cpu_conv_direct_backward_data(want.dx, &f32, dy, w, 1);
    cpu_conv_direct_backward_weights(want.dw, want.db, &f32, x, dy, 1);
    for (int n_threads = 1; n_threads <= (count_w(conv) < 5000 ? 3 : 2); n_threads++) {
        passes got = run_passes(conv, x_half ? (void *)x_half : x,
                                conv->weight_type == AG_BF16 ? (void *)w_half : w, b,
                                dy_half ? (void *)dy_half : dy, n_threads, isa);
        check_error("y", conv, isa, got.y, want.y, count_y(conv), rms, most);
        check_error("dx", conv, isa, got.dx, want.dx, count_x(conv), rms, most);
        check_error("dw", conv, isa, got.dw, want.dw, count_w(conv), weight_rms, 1e-5);
        check_error("db", conv, isa, got.db, want.db, conv->o, 2e-7, 1e-6);
        if (n_threads > 1 && (conv->type == AG_F32 || isa >= CPU_ISA_AMX)) {
            check_same("y", isa, got.y, first.y, count_y(conv));
            check_same("dx", isa, got.dx, first.dx, count_x(conv));
            check_same("dw", isa, got.dw, first.dw, count_w(conv));
        }
        passes_free(&first);
        first = got;
    }
    passes_free(&first);
    passes_free(&want);
    free(x), free(w), free(dy), free(b), free(x_half), free(w_half), free(dy_half);
}

static const cpu_conv small_shapes[] = {
    {.n = 1, .h = 1, .w = 1, .c = 1, .o = 1, .kh = 1, .kw = 1, .stride = 1, .dilation = 1},
    {.n = 2, .h = 5, .w = 7, .c = 3, .o = 4, .kh = 3, .kw = 3, .stride = 1, .dilation = 1,
     .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
    {.n = 1, .h = 9, .w = 6, .c = 4, .o = 33, .kh = 3, .kw = 3, .stride = 2, .dilation = 1,
     .pad_bottom = 1, .pad_right = 1},
    {.n = 2, .h = 8, .w = 11, .c = 37, .o = 5, .kh = 3, .kw = 3, .stride = 2, .dilation = 1,
     .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
    {.n = 1, .h = 10, .w = 9, .c = 17, .o = 18, .kh = 5, .kw = 2, .stride = 3, .dilation = 1,
     .pad_top = 2, .pad_bottom = 1, .pad_left = 0, .pad_right = 3},
    {.n = 1, .h = 12, .w = 13, .c = 20, .o = 9, .kh = 3, .kw = 3, .stride = 1, .dilation = 2,
     .pad_top = 2, .pad_bottom = 2, .pad_left = 1, .pad_right = 3},
    {.n = 1, .h = 11, .w = 12, .c = 6, .o = 7, .kh = 3, .kw = 4, .stride = 2, .dilation = 3,
     .pad_top = 3, .pad_bottom = 2, .pad_left = 4, .pad_right = 4},
    {.n = 1, .h = 7, .w = 6, .c = 5, .o = 6, .kh = 1, .kw = 1, .stride = 2, .dilation = 1},
    {.n = 1, .h = 6, .w = 5, .c = 40, .o = 70, .kh = 1, .kw = 1, .stride = 1, .dilation = 1},
    {.n = 1, .h = 4, .w = 4, .c = 8, .o = 8, .kh = 1, .kw = 1, .stride = 1, .dilation = 1,
     .pad_top = 1, .pad_left = 2},
    {.n = 1, .h = 6, .w = 6, .c = 12, .o = 10, .kh = 4, .kw = 4, .stride = 2, .dilation = 1,
     .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
    {.n = 1, .h = 4, .w = 4, .c = 3, .o = 2, .kh = 2, .kw = 2, .stride = 4, .dilation = 1},
};

static void shapes_of(int isa)
{
    for (size_t i = 0; i < sizeof small_shapes / sizeof small_shapes[0]; i++)
        compare(&small_shapes[i], i % 2, isa);
}

/* 3x3, stride 1: sizes around tiles, chunks of tiles, blocks of channels */
static void winograd_of(int isa)
{
    static const int64_t sizes[][5] = { /* n, h, w, c, o */
        {1, 1, 1, 32, 32},  {1, 1, 40, 20, 5},  {1, 33, 1, 16, 3},   {1, 4, 4, 48, 40},
        {2, 9, 7, 40, 50},  {1, 20, 18, 65, 70}, {1, 6, 6, 200, 33}, {3, 13, 10, 17, 100},
        {1, 40, 44, 32, 8}, {1, 8, 8, 300, 31},  {1, 50, 60, 20, 20},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        cpu_conv c = {.n = sizes[i][0], .h = sizes[i][1], .w = sizes[i][2], .c = sizes[i][3],
                      .o = sizes[i][4], .kh = 3, .kw = 3, .stride = 1, .dilation = 1, .pad_top = 1,
                      .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
        compare(&c, i % 2, isa);
        c.pad_top = i % 4, c.pad_bottom = 2, c.pad_left = (i + 2) % 4, c.pad_right = 2;
        compare(&c, !(i % 2), isa);
    }
}

static void both_sides(const cpu_conv *conv, int isa)
{
    const cpu_conv c = *conv;
    const winograd_shape forward = winograd_forward_shape(&c), back = winograd_backward_shape(&c);
    uint64_t seed = 19;
    float *x = check_random(count_x(&c), &seed, 0, 1), *w = check_random(count_w(&c), &seed, 0, 1);
    float *dy = check_random(count_y(&c), &seed, 0, 1), *b = check_random(c.o, &seed, 0, 1);
    passes want = passes_new(&c), got = passes_new(&c);

    cpu_conv_direct_forward(want.y, &c, x, w, b, 1);
    cpu_conv_direct_backward_data(want.dx, &c, dy, w, 1);
    for (int side = 2; side <= 4; side += 2) {
        const double limit = side == 2 ? 1e-6 : 3e-6;
        void *scratch = check_scratch(winograd_scratch(&forward, side, isa, 2));
        winograd_run(got.y, &forward, side, x, w, b, NULL, scratch, isa, 2);
        free(scratch);
        scratch = check_scratch(winograd_scratch(&back, side, isa, 2));
        winograd_run(got.dx, &back, side, dy, w, NULL, NULL, scratch, isa, 2);
        free(scratch);
        check_error("y", &c, isa, got.y, want.y, count_y(&c), limit, 10 * limit);
        check_error("dx", &c, isa, got.dx, want.dx, count_x(&c), limit, 10 * limit);
    }
    passes_free(&want), passes_free(&got);
    free(x), free(w), free(dy), free(b);
}

/* Both sides on the same shape, whatever the rule would choose: many tiles; one to four, around vectors, blocks of
 * channels and units of outputs. */
static void both_sides_of(int isa)
{
    static const int64_t sizes[][5] = { /* n, h, w, c, o */
        {2, 11, 14, 50, 39}, {1, 8, 8, 700, 20}, {1, 3, 4, 17, 350},
        {1, 7, 2, 5, 3},     {3, 4, 4, 33, 48}, {2, 5, 3, 260, 16},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const cpu_conv c = {.n = sizes[i][0], .h = sizes[i][1], .w = sizes[i][2], .c = sizes[i][3], .o = sizes[i][4],
                            .kh = 3, .kw = 3, .stride = 1, .dilation = 1, .pad_top = 1, .pad_bottom = 1,
                            .pad_left = 1, .pad_right = 1};
        both_sides(&c, isa);
    }
}

static void bf16_of(int isa)
{
    const cpu_conv some[] = { /* whole tiles; two images; strides whose phases have no tap; pads left out */
        {.n = 1, .h = 10, .w = 10, .c = 32, .o = 48, .kh = 3, .kw = 3, .stride = 1, .dilation = 1,
         .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
        {.n = 3, .h = 9, .w = 7, .c = 48, .o = 40, .kh = 3, .kw = 3, .stride = 1, .dilation = 1,
         .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
        {.n = 2, .h = 12, .w = 10, .c = 16, .o = 33, .kh = 3, .kw = 3, .stride = 2, .dilation = 1,
         .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
        {.n = 2, .h = 9, .w = 9, .c = 20, .o = 12, .kh = 2, .kw = 2, .stride = 3, .dilation = 1,
         .pad_top = 1, .pad_left = 2},
        {.n = 1, .h = 7, .w = 6, .c = 5, .o = 6, .kh = 1, .kw = 1, .stride = 2, .dilation = 1},
        {.n = 1, .h = 6, .w = 6, .c = 34, .o = 20, .kh = 3, .kw = 3, .stride = 1, .dilation = 1,
         .pad_top = 4, .pad_left = 5},
        {.n = 1, .h = 10, .w = 9, .c = 6, .o = 8, .kh = 3, .kw = 3, .stride = 3, .dilation = 2,
         .pad_top = 2, .pad_bottom = 2, .pad_left = 1, .pad_right = 3},
        {.n = 2, .h = 6, .w = 5, .c = 40, .o = 70, .kh = 1, .kw = 1, .stride = 1, .dilation = 1},
        {.n = 2, .h = 6, .w = 5, .c = 64, .o = 256, .kh = 3, .kw = 3, .stride = 1, .dilation = 1,
         .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1},
        {.n = 1, .h = 9, .w = 8, .c = 32, .o = 192, .kh = 3, .kw = 3, .stride = 2, .dilation = 1,
         .pad_bottom = 1, .pad_right = 1},
    };

    for (int variant = 0; variant < 3; variant++)
        for (size_t i = 1; i < sizeof small_shapes / sizeof small_shapes[0]; i += 2) {
            cpu_conv c = small_shapes[i];
            c.type = variant < 2 ? AG_BF16 : AG_F32;
            c.weight_type = variant > 0 ? AG_BF16 : AG_F32;
            compare(&c, true, isa);
            compare(&c, true, isa);
        }
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        cpu_conv c = some[i];
        c.type = AG_BF16;
        compare(&c, false, isa);
        c.weight_type = AG_BF16;
        compare(&c, false, isa);
    }
}

/* Enlarged images, whose weights are added up before they are rounded: the direct form of the larger image. */
static void enlarged_of(int isa)
{
    const cpu_conv small = {.n = 2, .h = 34, .w = 32, .c = 40, .o = 48, .kh = 3, .kw = 3, .stride = 1, .dilation = 1,
                            .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1, .type = AG_BF16,
                            .enlarge = true};
    const int64_t n_large = 4 * count_x(&small);
    uint64_t seed = 12;
    float *x = check_random(count_x(&small), &seed, 0, 1), *w = check_random(count_w(&small), &seed, 0, 1);
    float *b = check_random(small.o, &seed, 0, 1), *large = check_floats(n_large);
    float *want = check_floats(count_y(&small)), *got = check_floats(count_y(&small));
    uint16_t *half_x = narrowed(x, count_x(&small)), *half_w = narrowed(w, count_w(&small));
    cpu_conv whole = small;

    whole.h *= 2, whole.w *= 2, whole.enlarge = false, whole.type = AG_F32;
    cpu_upsample_nearest(large, x, sizeof *x, (cpu_picture){small.n, small.h, small.w, small.c}, whole.h, whole.w, 1);
    cpu_conv_direct_forward(want, &whole, large, w, b, 2);
    for (int variant = 0; variant < 4; variant++) {
        cpu_state *state = cpu_state_new(1 + variant / 2);
        uint16_t *y = malloc((size_t)count_y(&small) * sizeof *y);
        cpu_conv c = small;
        void *scratch;

        assert_true(state && y);
        cpu_state_cap_isa(state, (cpu_isa)isa);
        c.weight_type = variant % 2 ? AG_BF16 : AG_F32;
        assert_true(cpu_conv2d_takes_enlarged(state, &c) == (isa >= CPU_ISA_AMX));
        if (isa >= CPU_ISA_AMX) {
            scratch = check_scratch(cpu_conv2d_forward_scratch(state, &c));
            assert_true(cpu_conv2d_forward(y, state, &c, half_x, c.weight_type == AG_F32 ? (void *)w : half_w, b,
                                           NULL, scratch));
            free(scratch);
            for (int64_t i = 0; i < count_y(&c); i++)
                got[i] = from_bf16(y[i]);
            check_error("enlarged", &c, isa, got, want, count_y(&c), 3e-3, 3e-2);
        }
        free(y);
        cpu_state_free(state);
    }
    free(x), free(w), free(b), free(large), free(want), free(got), free(half_x), free(half_w);
}

static void test_enlarged(void **unused)
{
    (void)unused;
    check_each_isa(enlarged_of);
}

/* What is added as a result is written: the same as after, but rounded once. */
static void plus_of(int isa)
{
    const cpu_conv some[] = { /* tiles, turned, one product, few channels, an enlarged picture */
        {.n = 2, .h = 9, .w = 7, .c = 48, .o = 40, .kh = 3, .kw = 3, .stride = 1, .pad_top = 1, .pad_left = 1},
        {.n = 1, .h = 5, .w = 6, .c = 64, .o = 128, .kh = 3, .kw = 3, .stride = 1, .pad_top = 1, .pad_bottom = 1},
        {.n = 2, .h = 6, .w = 5, .c = 40, .o = 70, .kh = 1, .kw = 1, .stride = 1},
        {.n = 1, .h = 8, .w = 8, .c = 3, .o = 5, .kh = 3, .kw = 3, .stride = 2, .pad_top = 1, .pad_left = 1},
        {.n = 1, .h = 32, .w = 32, .c = 8, .o = 16, .kh = 3, .kw = 3, .stride = 1, .pad_top = 1, .pad_left = 1,
         .pad_bottom = 1, .pad_right = 1, .enlarge = true},
    };
    cpu_state *state = cpu_state_new(2);

    assert_non_null(state);
    cpu_state_cap_isa(state, (cpu_isa)isa);
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        cpu_conv c = some[i];
        uint64_t seed = 31;
        float *x = check_random(count_x(&c), &seed, 0, 1), *w = check_random(count_w(&c), &seed, 0, 1);
        float *r = check_random(count_y(&c), &seed, 0, 4);
        uint16_t *half_x = narrowed(x, count_x(&c)), *half_w = narrowed(w, count_w(&c));
        uint16_t *half_r = narrowed(r, count_y(&c)), *y = malloc((size_t)count_y(&c) * 4), *sum = y + count_y(&c);
        void *scratch;

        c.dilation = 1;
        if (!c.enlarge) {
            float *f32_y = check_floats(count_y(&c)), *f32_sum = check_floats(count_y(&c));
            scratch = check_scratch(cpu_conv2d_forward_scratch(state, &c));
            assert_true(cpu_conv2d_forward(f32_y, state, &c, x, w, NULL, NULL, scratch));
            assert_true(cpu_conv2d_forward(f32_sum, state, &c, x, w, NULL, r, scratch));
            for (int64_t k = 0; k < count_y(&c); k++)
                assert_true(fabsf(f32_sum[k] - (f32_y[k] + r[k])) <= 2e-7f * (fabsf(f32_y[k]) + fabsf(r[k])));
            free(scratch), free(f32_y), free(f32_sum);
        }
        c.type = c.weight_type = AG_BF16;
        if (!c.enlarge || isa >= CPU_ISA_AMX) {
            scratch = check_scratch(cpu_conv2d_forward_scratch(state, &c));
            assert_true(cpu_conv2d_forward(y, state, &c, half_x, half_w, NULL, NULL, scratch));
            assert_true(cpu_conv2d_forward(sum, state, &c, half_x, half_w, NULL, half_r, scratch));
            for (int64_t k = 0; k < count_y(&c); k++) {
                const float want = from_bf16(y[k]) + r[k];
                assert_true(fabsf(from_bf16(sum[k]) - want) <= (fabsf(from_bf16(y[k])) + fabsf(want)) / 256);
            }
            free(scratch);
        }
        free(x), free(w), free(r), free(half_x), free(half_w), free(half_r), free(y);
    }
    cpu_state_free(state);
}

static void test_plus(void **unused)
{
    (void)unused;
    check_each_isa(plus_of);
}

static void test_shapes(void **unused)
{
    (void)unused;
    check_each_isa(shapes_of);
}

static void test_winograd(void **unused)
{
    (void)unused;
    check_each_isa(winograd_of);
}

static void test_both_sides(void **unused)
{
    (void)unused;
    check_each_isa(both_sides_of);
}

static void test_bf16(void **unused)
{
    (void)unused;
    check_each_isa(bf16_of);
}

/* A NaN in x reaches exactly the outputs whose tiles see it, and no others become NaN. */
static void nan_of(int isa)
{
    const cpu_conv c = {.n = 1, .h = 24, .w = 24, .c = 32, .o = 32, .kh = 3, .kw = 3, .stride = 1,
                        .dilation = 1, .pad_top = 1, .pad_bottom = 1, .pad_left = 1,
                        .pad_right = 1};
    uint64_t seed = 5;
    float *x = check_random(count_x(&c), &seed, 0, 1), *w = check_random(count_w(&c), &seed, 0, 1);
    float *dy = check_random(count_y(&c), &seed, 0, 1);
    passes got;

    x[(10 * 24 + 10) * 32 + 3] = NAN;
    got = run_passes(&c, x, w, NULL, dy, 1, isa);
    assert_true(isnan(got.y[(10 * 24 + 10) * 32]) && isnan(got.y[(9 * 24 + 11) * 32 + 31]));
    assert_false(isnan(got.y[0]) || isnan(got.y[(20 * 24 + 20) * 32]));
    passes_free(&got);
    free(x), free(w), free(dy);
}

static void test_nan(void **unused)
{
    (void)unused;
    check_each_isa(nan_of);
}

/* --- the shapes of Stable Diffusion 1.5 ----------------------------------------------------- */

/* size, channels in and out, kernel, stride: U-Net at 64x64 latents, VAE at 512 pixels */
static const int64_t sd_shapes[][5] = {
    {64, 4, 320, 3, 1},     {64, 320, 320, 3, 1},   {64, 320, 320, 3, 2},   {32, 320, 640, 3, 1},
    {32, 640, 640, 3, 1},   {32, 640, 640, 3, 2},   {16, 640, 1280, 3, 1},  {16, 1280, 1280, 3, 1},
    {16, 1280, 1280, 3, 2}, {8, 1280, 1280, 3, 1},  {8, 2560, 1280, 3, 1},  {16, 2560, 1280, 3, 1},
    {16, 1920, 1280, 3, 1}, {32, 1280, 1280, 3, 1}, {32, 1920, 640, 3, 1},  {32, 1280, 640, 3, 1},
    {32, 960, 640, 3, 1},   {64, 640, 640, 3, 1},   {64, 960, 320, 3, 1},   {64, 640, 320, 3, 1},
    {64, 320, 4, 3, 1},     {64, 320, 320, 1, 1},   {32, 640, 640, 1, 1},   {16, 1280, 1280, 1, 1},
    {8, 2560, 1280, 1, 1},  {32, 320, 640, 1, 1},   {64, 960, 320, 1, 1},   {512, 3, 128, 3, 1},
    {512, 128, 128, 3, 1},  {512, 128, 128, 3, 2},  {256, 128, 256, 3, 1},  {256, 256, 256, 3, 2},
    {128, 256, 512, 3, 1},  {128, 512, 512, 3, 2},  {64, 512, 512, 3, 1},   {64, 512, 8, 3, 1},
    {64, 8, 8, 1, 1},       {64, 4, 4, 1, 1},       {64, 4, 512, 3, 1},     {256, 512, 512, 3, 1},
    {256, 512, 256, 3, 1},  {512, 256, 256, 3, 1},  {512, 256, 128, 3, 1},  {512, 128, 3, 3, 1},
};

static cpu_conv sd_conv(const int64_t s[5])
{
    cpu_conv c = {.n = 1, .h = s[0], .w = s[0], .c = s[1], .o = s[2], .kh = s[3], .kw = s[3],
                  .stride = s[4], .dilation = 1};

    if (s[3] == 3) {
        c.pad_bottom = c.pad_right = 1;
        c.pad_top = c.pad_left = s[4] == 2 && s[0] > 64 ? 0 : 1; /* the VAE pads one side */
    }
    return c;
}

/* Sampled outputs of the full-size layers, in double. */
static void full_size_of(ag_dtype type, const int *picks, size_t n_picks)
{
    for (size_t k = 0; k < n_picks; k++) {
        cpu_conv c = sd_conv(sd_shapes[picks[k]]);
        const int64_t oh = cpu_conv_out_h(&c), ow = cpu_conv_out_w(&c);
        uint64_t seed = 23;
        float *x = check_random(count_x(&c), &seed, 0, 1);
        float *w = check_random(count_w(&c), &seed, 0, 1);
        float *b = check_random(c.o, &seed, 0, 1), *y = check_floats(count_y(&c));
        cpu_state *state = cpu_state_new(2);
        const double size = sqrt((double)(c.c * c.kh * c.kw)) / 3.0; /* typical output */
        const double limit = type == AG_F32 ? 1.5e-5 : 3e-2;
        uint16_t *half = NULL;
        void *scratch;

        c.type = type;
        if (type == AG_BF16) {
            free(narrowed(w, count_w(&c)));
            half = narrowed(x, count_x(&c));
        }
        scratch = check_scratch(cpu_conv2d_forward_scratch(state, &c));
        assert_true(cpu_conv2d_forward(y, state, &c, half ? (void *)half : x, w, b, NULL, scratch));
        for (int sample = 0; sample < 300; sample++) {
            const int64_t at = (int64_t)((check_number(&seed) + 1) / 2 * (double)count_y(&c));
            const int64_t o = at % c.o, ox = at / c.o % ow, oy = at / c.o / ow % oh;
            double sum = b[o];
            for (int64_t ky = 0; ky < c.kh; ky++)
                for (int64_t kx = 0; kx < c.kw; kx++) {
                    const int64_t iy = oy * c.stride + ky - c.pad_top;
                    const int64_t ix = ox * c.stride + kx - c.pad_left;
                    for (int64_t i = 0; iy >= 0 && iy < c.h && ix >= 0 && ix < c.w && i < c.c; i++)
                        sum += (double)x[(iy * c.w + ix) * c.c + i] *
                               w[((o * c.kh + ky) * c.kw + kx) * c.c + i];
                }
            const double got = half ? from_bf16(((uint16_t *)y)[at]) : y[at];
            if (!(fabs(got - sum) <= limit * size))
                fail_msg("%s: [%lld] is %.9g, want %.9g", cpu_conv_kernel_name(state, &c, 0),
                         (long long)at, got, sum);
        }
        free(scratch);
        cpu_state_free(state);
        free(x), free(w), free(b), free(y), free(half);
    }
}

static void test_full_size(void **unused)
{
    static const int picks[] = {1, 2, 4, 9, 18, 20, 25, 34};
    static const int bands[] = {1, 9, 20, 28, 31}; /* images that are copied in several parts, too */

    (void)unused;
    full_size_of(AG_F32, picks, sizeof picks / sizeof picks[0]);
    if (cpu_isa_here() >= CPU_ISA_AMX)
        full_size_of(AG_BF16, bands, sizeof bands / sizeof bands[0]);
}

/* oneDNN has a real kernel for every shape of SD 1.5 in f32, and in bf16 where we would use it; and
 * what the library itself picks is never its reference loops. Also for U-Net and text products. */
static int count_references(void)
{
    cpu_state *state = cpu_state_new(2);
    int n_bad = 0;

    for (size_t i = 0; i < sizeof sd_shapes / sizeof sd_shapes[0]; i++)
        for (int pass = 0; pass < 3; pass++)
            for (int half = 0; half < (cpu_isa_has_bf16() ? 2 : 1); half++) {
                cpu_conv c = sd_conv(sd_shapes[i]);
                bool failed = false;
                c.type = half ? AG_BF16 : AG_F32;
                if (!cpu_onednn_conv(cpu_state_onednn(state), &c, (cpu_conv_pass)pass, &failed)) {
                    n_bad++;
                    print_error("oneDNN: reference loops for shape %d, pass %d, %s\n", (int)i, pass,
                                half ? "bf16" : "f32");
                }
                n_bad += failed ||
                         strstr(cpu_conv_kernel_name(state, &c, (cpu_conv_pass)pass), "ref");
            }
    cpu_state_free(state);
    return n_bad;
}

static void test_no_reference(void **unused)
{
    (void)unused;
    if (cpu_isa_here() < CPU_ISA_AVX2) {
        print_message("SKIP oneDNN's kernels: below AVX2 it has reference loops, we do not use it\n");
        return;
    }
    assert_int_equal(count_references(), 0);
}

/* The same in a process whose oneDNN knows AVX2 only: its cap is read once per process. */
static void test_no_reference_on_avx2(void **unused)
{
    pid_t child;
    int status = 0;

    (void)unused;
    if (cpu_isa_here() < CPU_ISA_AVX2)
        return;
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("AGEWRIGHT_MAX_ISA", "avx2", 1);
        setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
        execl("/proc/self/exe", "test_cpu_conv", "references", (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),    cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_winograd),     cmocka_unit_test(test_both_sides),
        cmocka_unit_test(test_bf16),         cmocka_unit_test(test_enlarged),
        cmocka_unit_test(test_nan),          cmocka_unit_test(test_plus),
        cmocka_unit_test(test_no_reference), cmocka_unit_test(test_no_reference_on_avx2),
        cmocka_unit_test(test_full_size),
    };

    if (argc > 1 && strcmp(argv[1], "references") == 0)
        return count_references() != 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
