/* conv_winograd_fused.c - F(4x4,3x3) on small maps: weights are transformed in registers and multiplied at once.
 *
 * Where there are a few tiles, nearly all time goes into the weights: reading them, transforming 9 numbers into
 * 36, writing those and reading them again. Here the 36 are never written:
 *
 *   V[group of 4 tiles][k][36][4] = B^T d B       all threads, then a barrier
 *   for each unit: a block of outputs             threads take units one by one
 *     for each block of channels k, each vector of outputs
 *       taps[k][9][lanes]                         copied (backward) or transposed (forward) into the first level
 *       for each row of U, group of 4 tiles
 *         sums[6 positions][4 tiles] += (a row of G g G^T, in registers) V
 *     y = A^T M A + bias
 *
 * Each weight is read from memory once, after the products of those before have fetched it. The order in which
 * that reads memory is what the block sizes are about: pieces of a few lines come at half the speed of long ones.
 * Each element of M is a sum of blocks of channels, which the pass fixes: bits do not depend on threads or units.
 */
#include "autograd/cpu/conv_internal.h"

#include <omp.h>
#include <string.h>

enum {
    MOST_TILES = 4,
    SIZE = 6,
    N_PRODUCTS = SIZE * SIZE,
    N_OUTPUTS = 16, /* of a tile */
    N_TAPS = 9,
    LINE = 16,      /* floats in a cache line */
    V_CHANNELS = 64 /* transformed at a time */
};

/* Forward: a row of memory belongs to one output and tap, its numbers to the channels of a block; K_FETCHED of them
 * are fetched together. Backward: it belongs to one channel and tap, its numbers to the outputs of a unit. */
enum { K_FORWARD = 16, K_FETCHED = 256, K_BACKWARD = 10, O_BACKWARD = 320 };

typedef struct fused_plan {
    const winograd_shape *s;
    winograd_tiles tiles;
    const winograd_kernels *transforms;
    const winograd_fused_kernels *kernels;
    int64_t groups;
    int64_t kb, n_k;       /* channels in a block, blocks */
    int64_t ob, n_o;       /* outputs in a unit, units */
    int64_t fetched;       /* blocks that are fetched together */
    int64_t m_step;        /* floats from one of the P matrices M to the next */
    uintptr_t to_plus;     /* bytes from the result to what is added to it; 0: nothing is */
    size_t v_bytes, zero_bytes, taps_bytes, m_bytes; /* taps and m per thread */
} fused_plan;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static const winograd_fused_kernels *kernels_of(int isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX512)
        return &winograd_fused_avx512;
    if (isa >= CPU_ISA_AVX2)
        return &winograd_fused_avx2;
#endif
    (void)isa;
    return &winograd_fused_portable;
}

bool winograd_fused_takes(const winograd_shape *s, int side)
{
    return side == 4 && winograd_tiles_of(s, side).count <= MOST_TILES;
}

static fused_plan plan_of(const winograd_shape *s, int isa, int n_threads)
{
    fused_plan p = {.s = s, .tiles = winograd_tiles_of(s, 4), .transforms = winograd_kernels_of(4, isa),
                    .kernels = kernels_of(isa)};
    const int64_t lanes = p.kernels->lanes;

    p.groups = ceil_div(p.tiles.count, WINOGRAD_GROUP);
    p.kb = s->backward ? K_BACKWARD : K_FORWARD;
    p.n_k = ceil_div(s->c_in, p.kb);
    p.ob = s->backward ? least(O_BACKWARD, ceil_div(ceil_div(s->c_out, n_threads), lanes) * lanes) : lanes;
    p.n_o = ceil_div(s->c_out, p.ob);
    p.fetched = s->backward ? 1 : K_FETCHED / K_FORWARD;
    p.m_step = p.tiles.count * p.ob + LINE;
    p.v_bytes = gemm_round64((size_t)(p.groups * s->c_in * WINOGRAD_V_STEP) * sizeof(float));
    p.zero_bytes = gemm_round64((size_t)s->c_in * sizeof(float));
    p.taps_bytes = gemm_round64((size_t)(p.kb * N_TAPS * lanes) * sizeof(float));
    p.m_bytes = gemm_round64((size_t)(N_PRODUCTS * p.m_step) * sizeof(float));
    return p;
}

size_t winograd_fused_scratch(const winograd_shape *s, int isa, int n_threads)
{
    const fused_plan p = plan_of(s, isa, n_threads);
    return p.v_bytes + p.zero_bytes + (size_t)n_threads * (p.taps_bytes + p.m_bytes);
}

/* V of one group of tiles for V_CHANNELS channels. */
static void transform_input(const fused_plan *p, float *v, int64_t group, int64_t part, const float *in,
                            const float *zeros)
{
    const int64_t first = part * V_CHANNELS, tile = group * WINOGRAD_GROUP;
    const int64_t n_tiles = least(WINOGRAD_GROUP, p->tiles.count - tile);
    const float *pixels[WINOGRAD_GROUP * N_PRODUCTS];

    for (int64_t t = 0; t < n_tiles; t++)
        winograd_tile_inputs(pixels + t * N_PRODUCTS, &p->tiles, tile + t, in + first, zeros);
    p->transforms->input(v + (group * p->s->c_in + first) * WINOGRAD_V_STEP, WINOGRAD_GROUP, WINOGRAD_V_STEP, pixels,
                         n_tiles, least(V_CHANNELS, p->s->c_in - first));
}

/* M, multiplied by the factors of G's rows, becomes outputs o.. */
static void transform_output(const fused_plan *p, float *out, float *m, const float *bias, int64_t o, int64_t n_o)
{
    static const float factors[SIZE] = {1.0f, -2.0f / 3.0f, -2.0f / 3.0f, 1.0f / 6.0f, 1.0f / 6.0f, 1.0f};
    float *pixels[N_OUTPUTS];

    for (int i = 0; i < N_PRODUCTS; i++)
        for (int64_t j = 0; j < p->tiles.count * p->ob; j++)
            m[i * p->m_step + j] *= factors[i / SIZE] * factors[i % SIZE];
    for (int64_t t = 0; t < p->tiles.count; t++) {
        winograd_tile_outputs(pixels, &p->tiles, t, out + o);
        p->transforms->output(pixels, p->to_plus, m + t * p->ob, p->m_step, bias ? bias + o : NULL, n_o, false);
    }
}

/* Where the weights of unit `unit` for the channels from block `k` on begin. */
static const float *weights_at(const fused_plan *p, const float *w, int64_t unit, int64_t k)
{
    return w + unit * p->ob * p->s->o_step + k * p->kb * p->s->i_step;
}

/* The blocks of weights from block `k` on that are fetched together. */
static winograd_next next_of(const fused_plan *p, const float *w, int64_t unit, int64_t k)
{
    const int64_t n_k = least(p->fetched * p->kb, p->s->c_in - k * p->kb);
    const int64_t n_o = least(p->ob, p->s->c_out - unit * p->ob);

    return (winograd_next){.at = (uintptr_t)weights_at(p, w, unit, k),
                           .step = (uintptr_t)p->s->tap_step * sizeof *w,
                           .rows = N_TAPS * (p->s->backward ? n_k : n_o),
                           .lines = ceil_div(p->s->backward ? n_o : n_k, LINE)};
}

static int64_t take(int64_t *taken)
{
    int64_t unit;

#pragma omp atomic capture
    unit = (*taken)++;
    return unit;
}

/* All outputs of a unit. Returns the thread's next unit, whose first weights were fetched meanwhile. */
static int64_t run_unit(const fused_plan *p, float *out, float *m, float *taps, const float *v, const float *w,
                        const float *bias, int64_t unit, int64_t *taken)
{
    const winograd_shape *s = p->s;
    const int64_t lanes = p->kernels->lanes, o = unit * p->ob, n_o = least(p->ob, s->c_out - o);
    winograd_next next = {0};
    int64_t after = -1;

    for (int64_t k = 0; k < p->n_k; k++) {
        if (k % p->fetched == 0 && k + p->fetched < p->n_k) {
            next = next_of(p, w, unit, k + p->fetched);
        } else if (k % p->fetched == 0) {
            after = take(taken);
            next = after < p->n_o ? next_of(p, w, after, 0) : (winograd_next){0};
        }
        for (int64_t l = 0; l < n_o; l += lanes) {
            const winograd_fused_block block = {
                .m = m + l, .m_step = p->m_step, .m_row = p->ob, .v = v + k * p->kb * WINOGRAD_V_STEP,
                .v_group = s->c_in * WINOGRAD_V_STEP, .taps = taps, .n_tiles = p->tiles.count,
                .n_k = least(p->kb, s->c_in - k * p->kb), .first = k == 0};
            p->kernels->taps(taps, weights_at(p, w, unit, k) + l * s->o_step, s, n_o - l, block.n_k);
            p->kernels->products(&block, &next);
        }
    }
    transform_output(p, out, m, bias, o, n_o);
    return after;
}

void winograd_fused_run(float *out, const winograd_shape *s, const float *in, const float *w, const float *bias,
                        const float *plus, void *scratch, int isa, int n_threads)
{
    fused_plan p = plan_of(s, isa, n_threads);
    const int64_t parts = ceil_div(s->c_in, V_CHANNELS);
    float *v = scratch, *zeros = (float *)((char *)scratch + p.v_bytes);
    char *rest = (char *)zeros + p.zero_bytes;
    int64_t taken = 0;

    p.to_plus = plus ? (uintptr_t)plus - (uintptr_t)out : 0;
    memset(zeros, 0, p.zero_bytes);
#pragma omp parallel num_threads(n_threads)
    {
        char *own = rest + (size_t)omp_get_thread_num() * (p.taps_bytes + p.m_bytes);
        float *taps = (float *)own, *m = (float *)(own + p.taps_bytes);

#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < p.groups * parts; i++)
            transform_input(&p, v, i / parts, i % parts, in, zeros);
        for (int64_t unit = take(&taken); unit < p.n_o;)
            unit = run_unit(&p, out, m, taps, v, w, bias, unit, &taken);
    }
}
