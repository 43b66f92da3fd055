/* conv_internal.h - the convolution algorithms behind conv.h. For files in autograd/cpu only.
 *
 * Everything here cannot fail, and is f32 but for AMX.
 */
#ifndef AG_CPU_CONV_INTERNAL_H
#define AG_CPU_CONV_INTERNAL_H

#include "autograd/cpu/conv.h"
#include "autograd/cpu/gemm_internal.h"

/* --- im2col (conv_im2col.c): any size, stride, dilation, padding ---------------------------- */

size_t conv_im2col_scratch(const cpu_conv *conv, cpu_conv_pass pass, int isa, int n_threads);
void conv_im2col_forward(float *y, const cpu_conv *conv, const float *x, const float *w,
                         const float *b, void *scratch, int isa, int n_threads);
void conv_im2col_backward_data(float *dx, const cpu_conv *conv, const float *dy, const float *w,
                               void *scratch, int isa, int n_threads);
void conv_im2col_backward_weights(float *dw, const cpu_conv *conv, const float *x, const float *dy,
                                  void *scratch, int isa, int n_threads);

/* --- Winograd (conv_winograd.c): 3x3, stride 1, dilation 1; forward and backward by data ---- */

/* A correlation of 3x3 taps: out [N,OH,OW,C_out] from in [N,H,W,C_in], with tap (ky,kx) of output
 * pixel (oy,ox) at input pixel (oy + ky - top, ox + kx - left). top and left may be negative. */
typedef struct winograd_shape {
    int64_t n, h, w, c_in, oh, ow, c_out, top, left;
    /* Weight (o, tap, i) of the correlation, tap = 3 ky + kx, stands at
     *   forward   w[o * o_step + tap * tap_step + i]
     *   backward  w[o + (8 - tap) * tap_step + i * i_step] */
    int64_t o_step, i_step, tap_step;
    bool backward;
} winograd_shape;

winograd_shape winograd_forward_shape(const cpu_conv *conv);
winograd_shape winograd_backward_shape(const cpu_conv *conv);

/* side: 4 for F(4x4,3x3), 2 for F(2x2,3x3) */
size_t winograd_scratch(const winograd_shape *s, int side, int isa, int n_threads);
/* plus: as out, added; or NULL */
void winograd_run(float *out, const winograd_shape *s, int side, const float *in, const float *w,
                  const float *bias, const float *plus, void *scratch, int isa, int n_threads);

/* Tiles of side x side outputs, in all images. */
typedef struct winograd_tiles {
    const winograd_shape *s;
    int side;
    int64_t down, across, count; /* in an image by axis; in all images */
} winograd_tiles;

winograd_tiles winograd_tiles_of(const winograd_shape *s, int side);
/* pixels gets where each of a tile's (side + 2)^2 inputs stands; outside of the image that is `zeros`. */
void winograd_tile_inputs(const float **pixels, const winograd_tiles *tiles, int64_t tile, const float *in,
                          const float *zeros);
/* The same for its side^2 outputs; NULL outside of the image. */
void winograd_tile_outputs(float **pixels, const winograd_tiles *tiles, int64_t tile, float *out);

/* F(4x4,3x3) with weights transformed in registers (conv_winograd_fused.c), which winograd_run chooses where it
 * takes the shape: few tiles. */
bool winograd_fused_takes(const winograd_shape *s, int side);
size_t winograd_fused_scratch(const winograd_shape *s, int isa, int n_threads);
void winograd_fused_run(float *out, const winograd_shape *s, const float *in, const float *w, const float *bias,
                        const float *plus, void *scratch, int isa, int n_threads);

/* The side that is faster for this shape, or 0 when im2col is. */
int winograd_choose(const winograd_shape *s);

enum {
    WINOGRAD_GROUP = 4,     /* tiles whose sums are in registers together */
    WINOGRAD_V_STEP = 160,  /* floats from one channel of V to the next: 36 x WINOGRAD_GROUP, a line more */
    WINOGRAD_MAX_LANES = 16 /* floats in a vector */
};

/* Weights that come next: rows of `lines` cache lines, `step` bytes apart. They are fetched into the second-level
 * cache from (at, line) on, by the products of those before. */
typedef struct winograd_next {
    uintptr_t at, step;
    int64_t rows, lines, line;
} winograd_next;

/* M += U V for a vector of outputs and a block of n_k channels. */
typedef struct winograd_fused_block {
    float *m;             /* m[p * m_step + t * m_row + lane], t < n_tiles */
    int64_t m_step, m_row;
    const float *v;       /* v[g * v_group + k * WINOGRAD_V_STEP + p * WINOGRAD_GROUP + t] for tile 4 g + t */
    int64_t v_group;
    const float *taps;    /* taps[(k * 9 + tap) * lanes + lane] */
    int64_t n_tiles, n_k;
    bool first;           /* M is not read */
} winograd_fused_block;

typedef struct winograd_fused_kernels {
    int lanes;
    /* taps of up to `lanes` outputs for n_k channels from w on, in the order of the correlation; zeros beyond
     * n_out */
    void (*taps)(float *taps, const float *w, const winograd_shape *s, int64_t n_out, int64_t n_k);
    /* Row i of U is row i of Vandermonde's matrix of the points, without the factor that it has in G:
     * winograd_fused_run applies it. */
    void (*products)(const winograd_fused_block *block, winograd_next *next);
} winograd_fused_kernels;

extern const winograd_fused_kernels winograd_fused_portable, winograd_fused_avx2, winograd_fused_avx512;

/* The transforms for one side, by instruction set. Vectors lie along channels. Sizes: a tile is
 * (side + 2)^2 inputs and side^2 outputs; P = (side + 2)^2 products. */
typedef struct winograd_kernels {
    /* v[p * v_step + c * rows + t] for c < n, t < n_tiles, from the pixels in[t * P + 0..P) of tile t (each
     * n channels); rows is at most a vector. Up to a vector after the last number is overwritten. */
    void (*input)(float *v, int64_t v_step, int64_t rows, const float *const *in, int64_t n_tiles, int64_t n);
    /* u[p * u_step + (panel * n_k + k) * nr + o % nr] for o < n_out, k < n_k, panel = o / nr; the
     * last panel is filled up with zeros. */
    void (*weights)(float *u, int64_t u_step, const float *w, const winograd_shape *s,
                    int64_t n_out, int64_t n_k);
    /* out[side * r + c][0..n) = sums of m[p * m_step + ..] + bias + what lies to_plus bytes after out (0:
     * nothing); NULL where a pixel is outside.
     * past_caches: stored past the caches; then pixels begin at 64-byte boundaries and n is whole lines.
     * m is read in whole lines. */
    void (*output)(float *const *out, uintptr_t to_plus, const float *m, int64_t m_step, const float *bias,
                   int64_t n, bool past_caches);
} winograd_kernels;

extern const winograd_kernels winograd4_portable, winograd4_avx2, winograd4_avx512;
extern const winograd_kernels winograd2_portable, winograd2_avx2, winograd2_avx512;

const winograd_kernels *winograd_kernels_of(int side, int isa);

/* --- bf16 on AMX tiles (conv_amx.c) --------------------------------------------------------- */

/* Any size, stride, dilation, padding, with at least one output and one input; weights of any type. */
size_t conv_amx_scratch(const cpu_conv *conv, cpu_conv_pass pass, int n_threads);
/* out, in0, in1 as in cpu_onednn_run. */
void conv_amx_run(const cpu_conv *conv, cpu_conv_pass pass, void *out, const void *in0, const void *in1,
                  const float *bias, const void *plus, void *scratch, int n_threads);

#endif /* AG_CPU_CONV_INTERNAL_H */
