/* conv_winograd.c - 3x3 convolution with a quarter of the multiplications.
 *
 * The output is cut into tiles of side x side pixels. A tile's inputs d ((side + 2)^2 pixels) and
 * the taps g become P = (side + 2)^2 numbers each, and the sum over input channels is P matrix
 * products [tiles, C_in] x [C_in, C_out] (conv_winograd_kernel.inc.h has the transforms).
 *
 *   for each group of tiles                       about GROUP_BYTES of V
 *     V[k block][p][panel][k][tile] = B^T d B     all threads, then a barrier
 *     for each unit: o block x chunk of tiles     threads take units one by one
 *       for each k block
 *         U[p][k][o] = G g G^T
 *         M[p][tile][o] += V U                    the register tiles of gemm.c
 *       y = A^T M A + bias                        straight into [N,H,W,C]
 *
 * Transformed weights are never stored beyond a thread's block (for the U-Net they would take 8.7 GB, and
 * reading them costs more than making them). Where one block holds all channels it is kept while the thread's
 * next unit has the same outputs.
 * Each element of M is one chain over C_in cut at places that the shape fixes, so bits do not
 * depend on threads, groups or chunks.
 *
 * Up to four tiles are taken by conv_winograd_fused.c.
 */
#include "autograd/cpu/conv_internal.h"

#include <omp.h>
#include <string.h>

/* Channels and outputs in a block. Transformed weights and M share the second-level cache with V on its way
 * through. With few tiles, where outputs are the contiguous axis of w (backward), shorter runs of memory would
 * cost more than smaller blocks save. */
enum { MANY_TILES = 128, K_MANY = 128, K_FEW = 96, O_BLOCK = 32 };
enum { VERY_FEW_TILES = 32, K_LONG_RUNS = 64, O_LONG_RUNS = 64 };

enum {
    GROUP_BYTES = 16 << 20,  /* of V, but at least GROUP_TILES tiles */
    GROUP_TILES = 64,
    CHUNK_KEPT = 70,         /* tiles in a chunk: M stays in the second-level cache, U is kept */
    CHUNK = 140,             /* U is made again for every chunk, so larger ones */
    STEP_PAD = 16, /* floats between panels and between the P matrices: else all P lie at one place of a cache */
    LINE = 16,             /* floats in a cache line */
    PAST_CACHES = 4000000, /* floats of a result */
    MAX_PRODUCTS = 36,
    MAX_OUTPUTS = 16,
    MIN_CHANNELS = 16,
    SMALL_MAP = 64 * 64,    /* outputs; with fewer there is nothing to gain from few channels, */
    MIN_CHANNELS_SMALL = 48 /* and direct sums are closer */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

winograd_shape winograd_forward_shape(const cpu_conv *c)
{
    return (winograd_shape){.n = c->n, .h = c->h, .w = c->w, .c_in = c->c,
                            .oh = cpu_conv_out_h(c), .ow = cpu_conv_out_w(c), .c_out = c->o,
                            .top = c->pad_top, .left = c->pad_left,
                            .o_step = 9 * c->c, .i_step = 1, .tap_step = c->c};
}

/* dx is the correlation of dy with the taps turned around: dy at iy + top - ky. */
winograd_shape winograd_backward_shape(const cpu_conv *c)
{
    return (winograd_shape){.n = c->n, .h = cpu_conv_out_h(c), .w = cpu_conv_out_w(c), .c_in = c->o,
                            .oh = c->h, .ow = c->w, .c_out = c->c,
                            .top = 2 - c->pad_top, .left = 2 - c->pad_left,
                            .o_step = 1, .i_step = 9 * c->c, .tap_step = c->c, .backward = true};
}

typedef struct winograd_plan {
    const winograd_shape *s;
    winograd_tiles tiles;
    const winograd_kernels *transforms;
    const gemm_kernels *products;
    int n_products;
    int64_t rows, step; /* tiles in a panel of V, floats from channel to channel: a line of a cache if most
                         * of it is used */
    int64_t group, chunk;        /* tiles; multiples of rows */
    int64_t kb, n_k;             /* channels in a block, blocks */
    int64_t ob, n_o;
    uintptr_t to_plus; /* bytes from the result to what is added to it; 0: nothing is */
    bool past_caches; /* the result is so large that nobody finds it in a cache */
    size_t v_bytes, zero_bytes, u_bytes, m_bytes; /* u and m per thread */
} winograd_plan;

/* Floats from a panel of V to the next, and from one of the P matrices to the next. */
static int64_t panel_step(const winograd_plan *p)
{
    return p->step * p->kb + STEP_PAD;
}

static int64_t v_step(const winograd_plan *p, int64_t in_group)
{
    return ceil_div(in_group, p->rows) * panel_step(p) + STEP_PAD;
}

static int64_t u_step(const winograd_plan *p)
{
    return p->ob * p->kb + STEP_PAD;
}

static int64_t m_step(const winograd_plan *p, int64_t n_tiles)
{
    return n_tiles * p->ob + STEP_PAD;
}

static size_t bytes_of(const winograd_plan *p, int64_t blocks, int64_t step)
{
    return gemm_round64((size_t)(p->n_products * blocks * step) * sizeof(float));
}

const winograd_kernels *winograd_kernels_of(int side, int isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX512)
        return side == 4 ? &winograd4_avx512 : &winograd2_avx512;
    if (isa >= CPU_ISA_AVX2)
        return side == 4 ? &winograd4_avx2 : &winograd2_avx2;
#endif
    (void)isa;
    return side == 4 ? &winograd4_portable : &winograd2_portable;
}

winograd_tiles winograd_tiles_of(const winograd_shape *s, int side)
{
    const int64_t down = ceil_div(s->oh, side), across = ceil_div(s->ow, side);

    return (winograd_tiles){s, side, down, across, s->n * down * across};
}

/* The first pixel of a tile. */
typedef struct tile_place {
    int64_t image, y, x;
} tile_place;

static tile_place place_of(const winograd_tiles *t, int64_t tile)
{
    return (tile_place){.image = tile / (t->down * t->across),
                        .y = tile / t->across % t->down * t->side,
                        .x = tile % t->across * t->side};
}

void winograd_tile_inputs(const float **pixels, const winograd_tiles *tiles, int64_t tile, const float *in,
                          const float *zeros)
{
    const winograd_shape *s = tiles->s;
    const tile_place place = place_of(tiles, tile);
    const int size = tiles->side + 2;

    for (int i = 0; i < size * size; i++) {
        const int64_t y = place.y - s->top + i / size, x = place.x - s->left + i % size;
        const bool inside = y >= 0 && y < s->h && x >= 0 && x < s->w;
        pixels[i] = inside ? in + ((place.image * s->h + y) * s->w + x) * s->c_in : zeros;
    }
}

void winograd_tile_outputs(float **pixels, const winograd_tiles *tiles, int64_t tile, float *out)
{
    const winograd_shape *s = tiles->s;
    const tile_place place = place_of(tiles, tile);

    for (int i = 0; i < tiles->side * tiles->side; i++) {
        const int64_t y = place.y + i / tiles->side, x = place.x + i % tiles->side;
        pixels[i] = y < s->oh && x < s->ow ? out + ((place.image * s->oh + y) * s->ow + x) * s->c_out : NULL;
    }
}

static winograd_plan plan_of(const winograd_shape *s, int side, int isa, int n_threads)
{
    winograd_plan p = {.s = s, .tiles = winograd_tiles_of(s, side), .n_products = (side + 2) * (side + 2),
                       .products = gemm_kernels_of(isa), .transforms = winograd_kernels_of(side, isa)};
    const int64_t tiles = p.tiles.count;
    int64_t panels, group, groups, chunks, kb, ob;
    bool long_runs;

    p.past_caches = s->n * s->oh * s->ow * s->c_out > PAST_CACHES && s->c_out % LINE == 0;
    long_runs = s->backward && tiles < VERY_FEW_TILES;
    kb = long_runs ? K_LONG_RUNS : tiles >= MANY_TILES ? K_MANY : K_FEW;
    ob = long_runs ? O_LONG_RUNS : O_BLOCK;
    p.kb = ceil_div(ceil_div(s->c_in, ceil_div(s->c_in, kb)), 8) * 8;
    p.n_k = ceil_div(s->c_in, p.kb);
    p.ob = least(ob, ceil_div(s->c_out, p.products->nr) * p.products->nr);
    p.n_o = ceil_div(s->c_out, p.ob);

    p.rows = ceil_div(tiles, ceil_div(tiles, p.products->mr));
    p.step = p.rows > LINE / 2 ? LINE : p.rows;
    panels = ceil_div(tiles, p.rows);
    group = GROUP_BYTES / (int64_t)sizeof(float) / (p.n_products * p.kb * p.n_k);
    group = group < GROUP_TILES ? GROUP_TILES : group;
    groups = ceil_div(tiles, group);
    p.group = ceil_div(panels, groups);
    chunks = ceil_div(p.group * p.rows, p.n_k == 1 ? CHUNK_KEPT : CHUNK);
    while (p.n_o * chunks < 4 * n_threads && p.group * p.rows / chunks > 32)
        chunks++;
    p.chunk = ceil_div(p.group, chunks) * p.rows;
    p.group *= p.rows;
    p.v_bytes = bytes_of(&p, p.n_k, v_step(&p, p.group));
    p.u_bytes = bytes_of(&p, 1, u_step(&p));
    p.m_bytes = bytes_of(&p, 1, m_step(&p, p.chunk));
    p.zero_bytes = gemm_round64((size_t)s->c_in * sizeof(float));
    return p;
}

size_t winograd_scratch(const winograd_shape *s, int side, int isa, int n_threads)
{
    const winograd_plan p = plan_of(s, side, isa, n_threads);

    if (winograd_fused_takes(s, side))
        return winograd_fused_scratch(s, isa, n_threads);
    return p.v_bytes + p.zero_bytes + (size_t)n_threads * (p.u_bytes + p.m_bytes);
}

/* V of the tiles of one panel, for one block of channels. Pixels outside are read from a row of zeros. */
static void transform_input(const winograd_plan *p, float *v, int64_t panel, int64_t k, int64_t group,
                            int64_t in_group, const float *in, const float *zeros)
{
    const winograd_shape *s = p->s;
    const int64_t first = k * p->kb, n = least(p->kb, s->c_in - first);
    const int64_t n_tiles = least(p->rows, in_group - panel * p->rows);
    const float *pixels[GEMM_MAX_MR * MAX_PRODUCTS];

    for (int64_t t = 0; t < n_tiles; t++)
        winograd_tile_inputs(pixels + t * p->n_products, &p->tiles, group + panel * p->rows + t, in + first,
                             zeros);
    p->transforms->input(v + k * p->n_products * v_step(p, in_group) + panel * panel_step(p),
                         v_step(p, in_group), p->step, pixels, n_tiles, n);
}

static void transform_output(const winograd_plan *p, float *out, const float *m, int64_t tile,
                             int64_t step, const float *bias, int64_t o, int64_t n_o)
{
    float *pixels[MAX_OUTPUTS];

    winograd_tile_outputs(pixels, &p->tiles, tile, out + o);
    p->transforms->output(pixels, p->to_plus, m, step, bias ? bias + o : NULL, n_o, p->past_caches);
}

/* Weights of the next block of channels, fetched into the second-level cache during the products of this
 * one: nothing else could follow so many short rows, and transforming them would wait for memory. */
typedef struct winograd_ahead {
    const float *w;
    int64_t row, n_rows, floats; /* row r is tap r % 9 of an output (forward) or an input (backward) */
    int64_t at_a_time;
} winograd_ahead;

static void fetch_ahead(const winograd_shape *s, winograd_ahead *a)
{
    const int64_t end = least(a->n_rows, a->row + a->at_a_time);

    for (; a->row < end; a->row++) {
        const float *row = a->w + a->row / 9 * (s->backward ? s->i_step : s->o_step) + a->row % 9 * s->tap_step;
        for (int64_t i = 0; i < a->floats; i += LINE)
            __builtin_prefetch(row + i, 0, 2);
    }
}

/* M += V U of one product and one block of k. V of the next product lies to_next floats on; every panel of it
 * is fetched during the tiles of this one's. */
static void multiply(const winograd_plan *p, float *m, const float *v, int64_t to_next, const float *u,
                     int64_t n_tiles, int64_t n_o, int64_t n_k, bool first, winograd_ahead *ahead)
{
    const int nr = p->products->nr;
    const int64_t line = p->step * nr * (int64_t)sizeof *v / (ceil_div(n_o, nr) * nr); /* bytes for a step of k */
    float *c[GEMM_MAX_MR];

    for (int64_t t = 0; t < n_tiles; t += p->rows, v += panel_step(p)) {
        const int here = (int)least(p->rows, n_tiles - t);
        gemm_ahead next = {(uintptr_t)v + (uintptr_t)to_next * sizeof *v, line};
        for (int64_t o = 0; o < n_o; o += nr, next.at += (uintptr_t)(n_k * line)) {
            for (int r = 0; r < here; r++)
                c[r] = m + (t + r) * p->ob + o;
            fetch_ahead(p->s, ahead);
            p->products->tile_panels(here, least(nr, n_o - o), n_k, v, p->step, u + o * n_k, c, 0, 1.0f,
                                     first ? 0.0f : 1.0f, NULL, next);
        }
    }
}

typedef struct winograd_worker {
    float *u, *m;
    int64_t kept_o; /* the o block that u holds, when it holds all channels of it; -1: none */
} winograd_worker;

/* Weights of block k of channels for the outputs from o on. */
static const float *weights_at(const winograd_plan *p, const float *w, int64_t o, int64_t k)
{
    return w + o * p->s->o_step + k * p->kb * p->s->i_step;
}

/* What block k can fetch for the block after it. */
static winograd_ahead ahead_of(const winograd_plan *p, const float *w, int64_t o, int64_t n_o, int64_t n_tiles,
                               int64_t k)
{
    const int64_t n_k = least(p->kb, p->s->c_in - (k + 1) * p->kb);
    const int64_t calls = p->n_products * ceil_div(n_tiles, p->rows) * ceil_div(n_o, p->products->nr);
    winograd_ahead a = {0};

    if (k + 1 < p->n_k)
        a = (winograd_ahead){.w = weights_at(p, w, o, k + 1), .n_rows = 9 * (p->s->backward ? n_k : n_o),
                             .floats = p->s->backward ? n_o : n_k};
    a.at_a_time = ceil_div(a.n_rows, calls);
    return a;
}

/* Tiles first.. of the group (which begins at tile `group`) times one o block. */
static void run_unit(const winograd_plan *p, winograd_worker *worker, float *out, const float *v,
                     const float *w, const float *bias, int64_t group, int64_t in_group,
                     int64_t first, int64_t o_block)
{
    const winograd_shape *s = p->s;
    const int64_t n_tiles = least(p->chunk, in_group - first), o = o_block * p->ob;
    const int64_t n_o = least(p->ob, s->c_out - o), n = p->n_products;

    for (int64_t k = 0; k < p->n_k; k++) {
        const int64_t n_k = least(p->kb, s->c_in - k * p->kb);
        winograd_ahead ahead = ahead_of(p, w, o, n_o, n_tiles, k);
        if (p->n_k > 1 || worker->kept_o != o_block)
            p->transforms->weights(worker->u, u_step(p), weights_at(p, w, o, k), s, n_o, n_k);
        for (int64_t i = 0; i < n; i++)
            multiply(p, worker->m + i * m_step(p, n_tiles),
                     v + (k * n + i) * v_step(p, in_group) + first / p->rows * panel_step(p), v_step(p, in_group),
                     worker->u + i * u_step(p), n_tiles, n_o, n_k, k == 0, &ahead);
    }
    worker->kept_o = o_block;
    for (int64_t t = 0; t < n_tiles; t++)
        transform_output(p, out, worker->m + t * p->ob, group + first + t, m_step(p, n_tiles), bias,
                         o, n_o);
}

void winograd_run(float *out, const winograd_shape *s, int side, const float *in, const float *w,
                  const float *bias, const float *plus, void *scratch, int isa, int n_threads)
{
    winograd_plan p = plan_of(s, side, isa, n_threads);
    float *v = scratch, *zeros = (float *)((char *)scratch + p.v_bytes);
    char *rest = (char *)zeros + p.zero_bytes;

    if (winograd_fused_takes(s, side)) {
        winograd_fused_run(out, s, in, w, bias, plus, scratch, isa, n_threads);
        return;
    }
    p.to_plus = plus ? (uintptr_t)plus - (uintptr_t)out : 0;
    p.past_caches = p.past_caches && (uintptr_t)out % (LINE * sizeof *out) == 0;
    memset(zeros, 0, p.zero_bytes);
#pragma omp parallel num_threads(n_threads)
    {
        char *own = rest + (size_t)omp_get_thread_num() * (p.u_bytes + p.m_bytes);
        winograd_worker worker = {(float *)own, (float *)(own + p.u_bytes), -1};

        for (int64_t group = 0; group < p.tiles.count; group += p.group) {
            const int64_t in_group = least(p.group, p.tiles.count - group);
            const int64_t chunks = ceil_div(in_group, p.chunk);
            const int64_t panels = ceil_div(in_group, p.rows);
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < panels * p.n_k; unit++)
                transform_input(&p, v, unit % panels, unit / panels, group, in_group, in, zeros);
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < p.n_o * chunks; unit++)
                run_unit(&p, &worker, out, v, w, bias, group, in_group, unit % chunks * p.chunk,
                         unit / chunks);
        }
    }
}

/* Multiply-adds per pair of channels, with what the transforms of a weight take, in the time of as
 * many multiply-adds (measured on layers whose weights come from memory). */
int winograd_choose(const winograd_shape *s)
{
    const double cost4 = 36.0 * (double)winograd_tiles_of(s, 4).count + (winograd_fused_takes(s, 4) ? 260.0 : 290.0);
    const double cost2 = 16.0 * (double)winograd_tiles_of(s, 2).count + 250.0;
    const double patches = 9.9 * (double)(s->n * s->oh * s->ow) + 150.0;
    const int64_t channels = s->n * s->oh * s->ow < SMALL_MAP ? MIN_CHANNELS_SMALL : MIN_CHANNELS;

    if (s->c_in < channels || (patches <= cost4 && patches <= cost2))
        return 0;
    return cost4 <= cost2 ? 4 : 2;
}
