/* conv_amx.c - convolutions of bf16 images on AMX tiles, as products whose patches are never gathered.
 *
 * The image is copied once, with its padding, into s x s phases (s the stride; padded pixel (Y,X) goes to
 * phase (Y mod s, X mod s), place (Y div s, X div s)), channels filled up to a multiple of 32. The pixel
 * that a tap reads for output (oy,ox) is then place p = oy W' + ox, W' the phase's width, plus a number that
 * depends on the tap alone. So rows of A are pixels of the copy as they lie:
 *   forward   y [p, O]           = x(p + tap) [p, taps I]    w^T
 *   data      dx of one phase    = the same of dy (one phase), with the taps that reach the phase
 *   weights   dw [O, taps I]     = dy^T [O, p]  x(p + tap) [p, taps I]
 * Places beyond a row's last output are computed in vain: 2 of 66 for rows of 64.
 */
#include <string.h>

#include "autograd/cpu/amx_internal.h"
#include "autograd/cpu/conv_internal.h"
#include "autograd/cpu/gemm_amx_internal.h"

enum {
    COPY_BYTES = 32 << 20, /* of an image at a time, about */
    TURNED_PLACES = 512    /* most places of a turned product */
};

/* What a tap reads for place p: place p + (y, x) of a phase, times weight `weight` (ky kw + kx). */
typedef struct tap {
    int64_t phase, y, x, weight;
} tap;

/* A sum over taps: outputs [oh][ow] of rows oy0.. of images, from [n,h,w,c]. */
typedef struct correlation {
    const uint16_t *in;
    int64_t n, h, w, c;
    int64_t stride, top, left;   /* of the copy; top and left may be negative */
    int64_t oy0, oh, ow;
    int64_t n_taps, span_y, span_x; /* and the largest y and x of them */
    tap *taps;
    /* what follows from these */
    int64_t phase_h, phase_w, phase_pixels; /* of one phase of one image; with what is read beyond it */
    int64_t channels;                       /* c rounded up */
    int64_t rows;                           /* places of one image, rounded up to 32 */
    uint16_t *copy;                         /* [n][s * s][phase_pixels][channels] */
} correlation;

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void complete(correlation *r)
{
    r->channels = round_up(r->c, GEMM_AMX_STEP);
    r->phase_h = r->oh + r->span_y;
    r->phase_w = r->ow + r->span_x;
    r->rows = round_up((r->oh - 1) * r->phase_w + r->ow, GEMM_AMX_ROWS);
    r->phase_pixels = r->phase_h * r->phase_w + GEMM_AMX_ROWS;
}

static int64_t image_bytes(const correlation *r)
{
    return r->stride * r->stride * r->phase_pixels * r->channels * 2;
}

static int64_t copy_bytes(const correlation *r)
{
    return r->n * image_bytes(r);
}

/* Rows of outputs worked on at a time, so that the copy of the image stays small. */
static int64_t band_rows(const correlation *whole)
{
    correlation r = *whole;
    int64_t parts = 1;

    complete(&r);
    while (copy_bytes(&r) > COPY_BYTES && r.oh > 8) {
        parts++;
        r.oh = (whole->oh + parts - 1) / parts;
        complete(&r);
    }
    return r.oh;
}

/* Bytes from a place to the pixel that a tap reads for it. */
static int64_t tap_bytes(const correlation *r, const tap *t)
{
    return (t->phase * r->phase_pixels + t->y * r->phase_w + t->x) * r->channels * 2;
}

static int64_t steps_of_tap(const correlation *r)
{
    return r->channels / GEMM_AMX_STEP;
}

static bool is_output(const correlation *r, int64_t place)
{
    return place / r->phase_w < r->oh && place % r->phase_w < r->ow;
}

/* --- the copy --------------------------------------------------------------------------------------- */

/* One row of one phase. */
static void copy_row(const correlation *r, int64_t image, int64_t phase, int64_t row)
{
    const int64_t y = (r->oy0 + row) * r->stride + phase / r->stride - r->top;
    uint16_t *to = r->copy + (image * r->stride * r->stride + phase) * r->phase_pixels * r->channels +
                   row * r->phase_w * r->channels;
    const uint16_t *from = r->in + (image * r->h + y) * r->w * r->c;

    for (int64_t q = 0; q < r->phase_w; q++, to += r->channels) {
        const int64_t x = q * r->stride + phase % r->stride - r->left;
        const int64_t n = y >= 0 && y < r->h && x >= 0 && x < r->w ? r->c : 0;
        if (n)
            memcpy(to, from + x * r->c, (size_t)n * sizeof *to);
        memset(to + n, 0, (size_t)(r->channels - n) * sizeof *to);
    }
    if (row == r->phase_h - 1)
        memset(to, 0, (size_t)(GEMM_AMX_ROWS * r->channels) * sizeof *to);
}

static void copy_image(const correlation *r, int n_threads)
{
    const int64_t phases = r->stride * r->stride;

#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < r->n * phases * r->phase_h; i++)
        copy_row(r, i / r->phase_h / phases, i / r->phase_h % phases, i % r->phase_h);
}

/* --- correlations of the three passes --------------------------------------------------------------- */

static correlation forward_of(const cpu_conv *conv, tap *taps)
{
    const int64_t s = conv->stride, d = conv->dilation;
    correlation r = {.n = conv->n, .h = conv->h, .w = conv->w, .c = conv->c, .stride = s,
                     .top = conv->pad_top, .left = conv->pad_left, .oh = cpu_conv_out_h(conv),
                     .ow = cpu_conv_out_w(conv), .n_taps = conv->kh * conv->kw,
                     .span_y = (conv->kh - 1) * d / s, .span_x = (conv->kw - 1) * d / s, .taps = taps};

    for (int64_t i = 0; taps && i < r.n_taps; i++) {
        const int64_t y = i / conv->kw * d, x = i % conv->kw * d;
        taps[i] = (tap){y % s * s + x % s, y / s, x / s, i};
    }
    return r;
}

/* One axis of dx: outputs first, first + s, ... and the taps k with (place + pad - k d) a multiple of s,
 * which read dy at j + shift for the j-th of them. */
typedef struct axis {
    int64_t first, count, n_taps;
    int64_t tap_first, tap_step;
    int64_t low, span; /* smallest shift, and largest minus smallest */
} axis;

static axis axis_of(int64_t phase, int64_t size, int64_t kernel, int64_t pad, int64_t s, int64_t d)
{
    axis a = {.first = ((phase - pad) % s + s) % s, .tap_step = 1};

    a.count = a.first < size ? (size - 1 - a.first) / s + 1 : 0;
    for (int64_t k = 0, last = -1; k < kernel; k++)
        if (k * d % s == phase) {
            if (a.n_taps++ == 0)
                a.tap_first = k;
            else
                a.tap_step = k - last;
            last = k;
        }
    if (a.n_taps) {
        const int64_t k_last = a.tap_first + (a.n_taps - 1) * a.tap_step;
        a.low = (a.first + pad - k_last * d) / s; /* exact */
        a.span = (k_last - a.tap_first) * d / s;
    }
    return a;
}

static correlation backward_of(const cpu_conv *conv, const axis *down, const axis *across, tap *taps)
{
    correlation r = {.n = conv->n, .h = cpu_conv_out_h(conv), .w = cpu_conv_out_w(conv), .c = conv->o,
                     .stride = 1, .top = -down->low, .left = -across->low, .oh = down->count,
                     .ow = across->count, .n_taps = down->n_taps * across->n_taps,
                     .span_y = down->span, .span_x = across->span, .taps = taps};

    for (int64_t i = 0; taps && i < r.n_taps; i++) {
        const int64_t ky = down->tap_first + i / across->n_taps * down->tap_step;
        const int64_t kx = across->tap_first + i % across->n_taps * across->tap_step;
        taps[i] = (tap){0, (down->first + conv->pad_top - ky * conv->dilation) / conv->stride - down->low,
                        (across->first + conv->pad_left - kx * conv->dilation) / conv->stride - across->low,
                        ky * conv->kw + kx};
    }
    return r;
}

/* --- forward, and backward by data ------------------------------------------------------------------ */

typedef struct product {
    correlation r;
    gemm_amx_source w; /* [O][taps I] */
    int64_t c_out;
    bool backward;
    bool turned; /* places are the columns; see gemm_amx_internal.h */
    /* output (oy,ox) of the correlation stands at pixel (first_y + oy step, first_x + ox step) */
    int64_t first_y, first_x, step, out_h, out_w;
    int64_t *a_step, *c_place;
    const void *plus; /* laid out as the output; or NULL */
} product;

static void pack_weights(const gemm_amx_job *job, void *dst, int64_t step, int64_t n_steps, int64_t col,
                         int64_t n_cols)
{
    const product *p = job->user;
    const int64_t each = steps_of_tap(&p->r), n_tiles = (n_cols + 15) / 16;

    for (int64_t i = 0; i < n_steps; i++) {
        const int64_t weight = p->r.taps[(step + i) / each].weight;
        const int64_t from = (step + i) % each * GEMM_AMX_STEP, k = least(p->r.c - from, GEMM_AMX_STEP);
        char *to = (char *)dst + i * GEMM_AMX_TILE_BYTES;

        if (p->backward)
            gemm_amx_band_down(to, n_steps * GEMM_AMX_TILE_BYTES, &p->w, from, weight * p->c_out + col, k,
                               n_cols);
        else
            for (int64_t t = 0; t < n_tiles; t++, to += n_steps * GEMM_AMX_TILE_BYTES)
                gemm_amx_tile_across(to, &p->w, col + t * 16, weight * p->r.c + from,
                                     p->c_out - col - t * 16, k);
    }
}

/* Places as the columns of a turned product. */
static void pack_places(const gemm_amx_job *job, void *dst, int64_t step, int64_t n_steps, int64_t col,
                        int64_t n_cols)
{
    const product *p = job->user;
    const correlation *r = &p->r;
    const int64_t each = steps_of_tap(r);
    char *to = dst;

    for (int64_t j = col; j < col + n_cols; j += 16) {
        const char *image = (const char *)r->copy + j / r->rows * image_bytes(r);
        for (int64_t i = step; i < step + n_steps; i++, to += GEMM_AMX_TILE_BYTES) {
            const gemm_amx_source x = {image + tap_bytes(r, &r->taps[i / each]), r->channels, AG_BF16};
            gemm_amx_tile_across(to, &x, j % r->rows, i % each * GEMM_AMX_STEP, 16, GEMM_AMX_STEP);
        }
    }
}

static gemm_amx_job turned_job_of(const product *p, void *out, const float *bias)
{
    const correlation *r = &p->r;

    return (gemm_amx_job){
        .m = p->c_out,
        .n = r->n * r->rows,
        .n_steps = r->n_taps * steps_of_tap(r),
        .a = p->w.data,
        .a_row = p->w.ld * 2,
        .direct_rows = p->c_out,
        .a_step = p->a_step,
        .pack_b = pack_places,
        .c = out,
        .c_place = p->c_place,
        .c_type = AG_BF16,
        .bias = bias,
        .plus = p->plus,
        .turned = true,
        .user = p,
    };
}

static gemm_amx_job job_of(const product *p, void *out, const float *bias)
{
    const correlation *r = &p->r;

    if (p->turned)
        return turned_job_of(p, out, bias);

    return (gemm_amx_job){
        .m = r->n * r->rows,
        .n = p->c_out,
        .n_steps = r->n_taps * steps_of_tap(r),
        .a = (const char *)r->copy,
        .a_row = r->channels * 2,
        .direct_rows = r->n * r->rows,
        .a_step = p->a_step,
        .new_step = (r->n_taps - 1) * steps_of_tap(r),
        .image_rows = r->rows,
        .image_bytes = image_bytes(r),
        .pack_b = pack_weights,
        .b_along_n = p->backward,
        .c = out,
        .c_place = p->c_place,
        .c_type = AG_BF16,
        .bias = bias,
        .plus = p->plus,
        .user = p,
    };
}

/* Lay out a band of rows from oy0 on in scratch; returns where what is left begins. */
static char *lay_out(product *p, char *scratch, int64_t oy0, int64_t oh)
{
    p->r.oy0 = oy0;
    p->r.oh = oh;
    complete(&p->r);
    p->r.copy = (uint16_t *)scratch;
    scratch += gemm_round64((size_t)copy_bytes(&p->r));
    p->a_step = (int64_t *)scratch;
    scratch += gemm_round64((size_t)(p->r.n_taps * steps_of_tap(&p->r)) * sizeof *p->a_step);
    p->c_place = (int64_t *)scratch;
    return scratch + gemm_round64((size_t)(p->r.n * p->r.rows) * sizeof *p->c_place);
}

static void fill_tables(const product *p, int n_threads)
{
    const correlation *r = &p->r;

    for (int64_t t = 0, i = 0; t < r->n_taps; t++)
        for (int64_t s = 0; s < steps_of_tap(r); s++)
            p->a_step[i++] = (p->turned ? r->taps[t].weight * r->c * 2 : tap_bytes(r, &r->taps[t])) +
                             s * GEMM_AMX_STEP * 2;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < r->n * r->rows; i++) {
        const int64_t place = i % r->rows, y = p->first_y + (r->oy0 + place / r->phase_w) * p->step;
        const int64_t x = p->first_x + place % r->phase_w * p->step;
        p->c_place[i] =
            is_output(r, place) ? ((i / r->rows * p->out_h + y) * p->out_w + x) * p->c_out * 2 : -1;
    }
}

static size_t product_scratch(product *p, int n_threads)
{
    const char *base = (char *)64, *end = lay_out(p, (char *)64, 0, band_rows(&p->r));
    const gemm_amx_job job = job_of(p, NULL, NULL);

    return (size_t)(end - base) + gemm_amx_scratch(&job, n_threads);
}

static void run_product(product *p, void *out, const float *bias, char *scratch, int n_threads)
{
    const int64_t all = p->r.oh, band = band_rows(&p->r);

    for (int64_t oy0 = 0; oy0 < all; oy0 += band) {
        char *rest = lay_out(p, scratch, oy0, least(band, all - oy0));
        const gemm_amx_job job = job_of(p, out, bias);

        fill_tables(p, n_threads);
        copy_image(&p->r, n_threads);
        gemm_amx_run(&job, rest, n_threads);
    }
}

/* Whether weights can be read as they lie, and places are few enough for columns. */
static bool is_turned(const cpu_conv *conv, const correlation *r, int n_threads)
{
    return conv->weight_type == AG_BF16 && conv->c % GEMM_AMX_STEP == 0 && conv->o % GEMM_AMX_ROWS == 0 &&
           r->n * r->rows <= TURNED_PLACES && r->n * r->rows * n_threads <= conv->o && band_rows(r) == r->oh;
}

static product forward_product(const cpu_conv *conv, tap *taps, int n_threads)
{
    product p = {.r = forward_of(conv, taps), .c_out = conv->o, .step = 1,
                 .w = {NULL, conv->kh * conv->kw * conv->c, conv->weight_type},
                 .out_h = cpu_conv_out_h(conv), .out_w = cpu_conv_out_w(conv)};

    complete(&p.r);
    p.turned = is_turned(conv, &p.r, n_threads);
    return p;
}

static product backward_product(const cpu_conv *conv, int64_t phase, tap *taps)
{
    const int64_t s = conv->stride, d = conv->dilation;
    const axis down = axis_of(phase / s, conv->h, conv->kh, conv->pad_top, s, d);
    const axis across = axis_of(phase % s, conv->w, conv->kw, conv->pad_left, s, d);

    return (product){.r = backward_of(conv, &down, &across, taps), .c_out = conv->c, .backward = true,
                     .w = {NULL, conv->kh * conv->kw * conv->c, conv->weight_type},
                     .first_y = down.first, .first_x = across.first, .step = s, .out_h = conv->h,
                     .out_w = conv->w};
}

static size_t taps_bytes(const cpu_conv *conv)
{
    return gemm_round64((size_t)(conv->kh * conv->kw) * sizeof(tap));
}

static size_t backward_scratch(const cpu_conv *conv, int n_threads)
{
    size_t most = 0;

    for (int64_t phase = 0; phase < conv->stride * conv->stride; phase++) {
        product p = backward_product(conv, phase, NULL);
        if (p.r.n_taps > 0 && p.r.oh > 0 && p.r.ow > 0) {
            const size_t bytes = product_scratch(&p, n_threads);
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}

static void run_backward(void *dx, const cpu_conv *conv, const void *dy, const void *w, tap *taps,
                         char *scratch, int n_threads)
{
    const int64_t phases = conv->stride * conv->stride;

    for (int64_t phase = 0; phase < phases; phase++) {
        product p = backward_product(conv, phase, taps);

        p.r.in = dy;
        p.w.data = w;
        if (p.r.n_taps > 0 && p.r.oh > 0 && p.r.ow > 0)
            run_product(&p, dx, NULL, scratch, n_threads);
        else
            for (int64_t i = 0; i < conv->n * p.r.oh * p.r.ow; i++) { /* no output reads this phase */
                const int64_t y = p.first_y + i / p.r.ow % p.r.oh * p.step;
                const int64_t x = p.first_x + i % p.r.ow * p.step;
                memset((uint16_t *)dx + ((i / p.r.ow / p.r.oh * conv->h + y) * conv->w + x) * conv->c, 0,
                       (size_t)conv->c * sizeof(uint16_t));
            }
    }
}

/* --- forward, of an enlarged image ---------------------------------------------------------------------- */

/* Outputs (2i + a, 2j + b) see the rows i - 1 + a and i + a of the image as it is, with weights added up where
 * two taps fall on one row, and so the columns: four convolutions of 2x2 taps, 4/9 of the multiplications.
 * Row t of phase a sums the rows first_tap[a][t].. of the weights, n_taps_of[a][t] of them. */
static const int first_tap[2][2] = {{0, 1}, {0, 2}}, n_taps_of[2][2] = {{1, 2}, {2, 1}};

static int64_t merged_bytes(const cpu_conv *conv)
{
    return gemm_round64((size_t)(16 * conv->o * conv->c) * sizeof(uint16_t));
}

static __m512 load_weights(const cpu_conv *conv, const void *w, int64_t at, int64_t n)
{
    const __mmask16 first = n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);

    return conv->weight_type == AG_F32 ? _mm512_maskz_loadu_ps(first, (const float *)w + at)
                                       : amx_widen(_mm256_maskz_loadu_epi16(first, (const uint16_t *)w + at));
}

/* merged [phase 2a + b][O][tap 2t + u][I] from w [O][3][3][I]; sums in f32, rounded once. */
static void merge_taps(uint16_t *merged, const cpu_conv *conv, const void *w, int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < 16 * conv->o; i++) {
        const int64_t t = i % 4, o = i / 4 % conv->o, phase = i / 4 / conv->o;
        const int y0 = first_tap[phase / 2][t / 2], n_y = n_taps_of[phase / 2][t / 2];
        const int x0 = first_tap[phase % 2][t % 2], n_x = n_taps_of[phase % 2][t % 2];

        for (int64_t c = 0; c < conv->c; c += 16) {
            __m512 sum = _mm512_setzero_ps();
            for (int y = y0; y < y0 + n_y; y++)
                for (int x = x0; x < x0 + n_x; x++)
                    sum = _mm512_add_ps(sum, load_weights(conv, w, (o * 9 + y * 3 + x) * conv->c + c, conv->c - c));
            amx_store_rounded(merged + i * conv->c + c, sum, conv->c - c);
        }
    }
}

static product enlarged_product(const cpu_conv *conv, int phase, const uint16_t *merged, tap *taps)
{
    product p = {.c_out = conv->o, .first_y = phase / 2, .first_x = phase % 2, .step = 2, .out_h = 2 * conv->h,
                 .out_w = 2 * conv->w, .w = {merged + phase * 4 * conv->o * conv->c, 4 * conv->c, AG_BF16},
                 .r = {.n = conv->n, .h = conv->h, .w = conv->w, .c = conv->c, .stride = 1, .top = 1, .left = 1,
                       .oh = conv->h, .ow = conv->w, .n_taps = 4, .span_y = 2, .span_x = 2, .taps = taps}};

    for (int i = 0; taps && i < 4; i++)
        taps[i] = (tap){0, phase / 2 + i / 2, phase % 2 + i % 2, i};
    return p;
}

static size_t enlarged_scratch(const cpu_conv *conv, int n_threads)
{
    product p = enlarged_product(conv, 0, NULL, NULL);
    return (size_t)merged_bytes(conv) + product_scratch(&p, n_threads);
}

static void run_enlarged(void *y, const cpu_conv *conv, const void *x, const void *w, const float *bias,
                         const void *plus, tap *taps, char *scratch, int n_threads)
{
    uint16_t *merged = (uint16_t *)scratch;
    char *rest = scratch + merged_bytes(conv);

    merge_taps(merged, conv, w, n_threads);
    for (int phase = 0; phase < 4; phase++) {
        product p = enlarged_product(conv, phase, merged, taps);
        p.r.in = x;
        p.plus = plus;
        run_product(&p, y, bias, rest, n_threads);
    }
}

/* --- backward by weights ------------------------------------------------------------------------------ */

/* Columns of dw are (tap, channel), channels filled up to a multiple of 16. */
typedef struct weights_product {
    correlation r;
    int64_t c_out, c_in;
    uint16_t *dy; /* [n][rows][O], by places: zeros where there is no output */
    float *wide;  /* [O][taps][c_in], when that is not dw itself */
} weights_product;

static weights_product weights_of(const cpu_conv *conv, tap *taps)
{
    return (weights_product){.c_out = conv->o, .c_in = round_up(conv->c, 16), .r = forward_of(conv, taps)};
}

/* dy^T: 32 channels, all places. */
static void pack_dy(const gemm_amx_job *job, void *dst, int64_t row)
{
    const weights_product *p = job->user;
    const gemm_amx_source dy = {p->dy, p->c_out, AG_BF16};
    char *to = dst;

    for (int64_t step = 0; step < job->n_steps; step++)
        for (int64_t r = row; r < row + GEMM_AMX_ROWS; r += 16, to += GEMM_AMX_TILE_BYTES)
            gemm_amx_rows_down(to, &dy, step * GEMM_AMX_STEP, r, GEMM_AMX_STEP, p->c_out - r);
}

static void pack_patches(const gemm_amx_job *job, void *dst, int64_t step, int64_t n_steps, int64_t col,
                         int64_t n_cols)
{
    const weights_product *p = job->user;
    const correlation *r = &p->r;
    const int64_t steps_of_image = r->rows / GEMM_AMX_STEP, side = n_steps * GEMM_AMX_TILE_BYTES;

    for (int64_t i = 0; i < n_steps; i++) {
        const int64_t image = (step + i) / steps_of_image, place = (step + i) % steps_of_image * GEMM_AMX_STEP;
        char *to = (char *)dst + i * GEMM_AMX_TILE_BYTES;

        for (int64_t j = 0; j < n_cols;) {
            const int64_t from = (col + j) % p->c_in, n = least(p->c_in - from, n_cols - j);
            const gemm_amx_source x = {(const char *)r->copy + image * image_bytes(r) +
                                           tap_bytes(r, &r->taps[(col + j) / p->c_in]),
                                       r->channels, AG_BF16};
            gemm_amx_band_down(to, side, &x, place, from, GEMM_AMX_STEP, n);
            to += n / 16 * side;
            j += n;
        }
    }
}

static gemm_amx_job weights_job(const weights_product *p, float *dw)
{
    const correlation *r = &p->r;

    return (gemm_amx_job){
        .m = p->c_out,
        .n = r->n_taps * p->c_in,
        .n_steps = r->n * r->rows / GEMM_AMX_STEP,
        .pack_a = pack_dy,
        .pack_b = pack_patches,
        .c = (char *)dw,
        .c_row = r->n_taps * p->c_in * 4,
        .c_type = AG_F32,
        .plus = r->oy0 > 0 ? (const char *)dw : NULL,
        .user = p,
    };
}

static char *lay_out_weights(weights_product *p, char *scratch, int64_t oy0, int64_t oh)
{
    correlation *r = &p->r;

    p->wide = (float *)scratch;
    if (p->c_in != r->c)
        scratch += gemm_round64((size_t)(p->c_out * r->n_taps * p->c_in) * sizeof *p->wide);
    r->oy0 = oy0;
    r->oh = oh;
    complete(r);
    r->copy = (uint16_t *)scratch;
    scratch += gemm_round64((size_t)copy_bytes(r));
    p->dy = (uint16_t *)scratch;
    return scratch + gemm_round64((size_t)(r->n * r->rows * p->c_out) * sizeof *p->dy);
}

static void copy_dy(const weights_product *p, const uint16_t *dy, int64_t all_rows, int n_threads)
{
    const correlation *r = &p->r;
    const size_t pixel = (size_t)p->c_out * sizeof *dy;

#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < r->n * r->rows; i++) {
        const int64_t place = i % r->rows, y = r->oy0 + place / r->phase_w, x = place % r->phase_w;
        if (is_output(r, place))
            memcpy(p->dy + i * p->c_out, dy + ((i / r->rows * all_rows + y) * r->ow + x) * p->c_out, pixel);
        else
            memset(p->dy + i * p->c_out, 0, pixel);
    }
}

static size_t weights_scratch(const cpu_conv *conv, int n_threads)
{
    weights_product p = weights_of(conv, NULL);
    const char *base = (char *)64, *end = lay_out_weights(&p, (char *)64, 0, band_rows(&p.r));
    const gemm_amx_job job = weights_job(&p, NULL);

    return (size_t)(end - base) + gemm_amx_scratch(&job, n_threads);
}

static void run_weights(float *dw, const cpu_conv *conv, const void *x, const void *dy, tap *taps,
                        char *scratch, int n_threads)
{
    weights_product p = weights_of(conv, taps);
    const int64_t all = p.r.oh, band = band_rows(&p.r);

    p.r.in = x;
    for (int64_t oy0 = 0; oy0 < all; oy0 += band) {
        char *rest = lay_out_weights(&p, scratch, oy0, least(band, all - oy0));
        const gemm_amx_job job = weights_job(&p, p.c_in == p.r.c ? dw : p.wide);

        copy_image(&p.r, n_threads);
        copy_dy(&p, dy, all, n_threads);
        gemm_amx_run(&job, rest, n_threads);
    }
    for (int64_t i = 0; p.c_in != p.r.c && i < p.c_out * p.r.n_taps; i++)
        memcpy(dw + i * p.r.c, p.wide + i * p.c_in, (size_t)p.r.c * sizeof *dw);
}

/* --- the interface ------------------------------------------------------------------------------------ */

size_t conv_amx_scratch(const cpu_conv *conv, cpu_conv_pass pass, int n_threads)
{
    product p;

    if (pass == CPU_CONV_BACKWARD_WEIGHTS)
        return taps_bytes(conv) + weights_scratch(conv, n_threads);
    if (pass == CPU_CONV_BACKWARD_DATA)
        return taps_bytes(conv) + backward_scratch(conv, n_threads);
    if (conv->enlarge)
        return taps_bytes(conv) + enlarged_scratch(conv, n_threads);
    p = forward_product(conv, NULL, n_threads);
    return taps_bytes(conv) + product_scratch(&p, n_threads);
}

void conv_amx_run(const cpu_conv *conv, cpu_conv_pass pass, void *out, const void *in0, const void *in1,
                  const float *bias, const void *plus, void *scratch, int n_threads)
{
    tap *taps = scratch;
    char *rest = (char *)scratch + taps_bytes(conv);

    if (pass == CPU_CONV_BACKWARD_WEIGHTS) {
        run_weights(out, conv, in0, in1, taps, rest, n_threads);
    } else if (pass == CPU_CONV_BACKWARD_DATA) {
        run_backward(out, conv, in0, in1, taps, rest, n_threads);
    } else if (conv->enlarge) {
        run_enlarged(out, conv, in0, in1, bias, plus, taps, rest, n_threads);
    } else {
        product p = forward_product(conv, taps, n_threads);
        p.r.in = in0;
        p.w.data = in1;
        p.plus = plus;
        run_product(&p, out, bias, rest, n_threads);
    }
}
