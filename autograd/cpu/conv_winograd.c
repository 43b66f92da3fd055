/* conv_winograd.c - 3x3 convolution with a quarter of the multiplications.
 *
 * The output is cut into tiles of side x side pixels. A tile's inputs d ((side + 2)^2 pixels) and
 * the taps g become P = (side + 2)^2 numbers each, and the sum over input channels is P matrix
 * products [tiles, C_in] x [C_in, C_out] (conv_winograd_kernel.inc.h has the transforms).
 *
 *   for each group of tiles                       V fits GROUP_BYTES
 *     V[k block][p][tile][k] = B^T d B            all threads, then a barrier
 *     for each unit: o block x chunk of tiles     threads take units one by one
 *       for each k block
 *         U[p][k][o] = G g G^T                    in the second-level cache, used at once
 *         M[p][tile][o] += V U                    the register tiles of gemm.c
 *       y = A^T M A + bias                        straight into [N,H,W,C]
 *
 * Transformed weights are never stored beyond a unit (for the U-Net they would take 8.7 GB, and
 * reading them costs more than making them). When all of C_in's transformed weights of an o block
 * are small (U_KEPT) and a thread's next unit has the same o block, it keeps them.
 * Each element of M is one chain over C_in cut at fixed places, so bits do not depend on threads,
 * groups or chunks.
 */
#include "autograd/cpu/conv_internal.h"

#include <omp.h>
#include <string.h>

enum {
    GROUP_BYTES = 12 << 20, /* of V */
    U_KEPT_BYTES = 2600 << 10,
    K_BLOCK = 128,
    O_BLOCK = 32,
    CHUNK_TILES = 128,
    MAX_PRODUCTS = 36,
    MAX_OUTPUTS = 16,
    MIN_CHANNELS = 16
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
                            .o_step = 9 * c->c, .i_step = 1, .tap_step = c->c, .flipped = false};
}

/* dx is the correlation of dy with the taps turned around: dy at iy + top - ky. */
winograd_shape winograd_backward_shape(const cpu_conv *c)
{
    return (winograd_shape){.n = c->n, .h = cpu_conv_out_h(c), .w = cpu_conv_out_w(c), .c_in = c->o,
                            .oh = c->h, .ow = c->w, .c_out = c->c,
                            .top = 2 - c->pad_top, .left = 2 - c->pad_left,
                            .o_step = 1, .i_step = 9 * c->c, .tap_step = c->c, .flipped = true};
}

typedef struct winograd_plan {
    const winograd_shape *s;
    const winograd_kernels *transforms;
    const gemm_kernels *products;
    int side, size, n_products;
    int64_t down, across, tiles; /* tiles in an image by axis; in all images */
    int64_t group, chunk;        /* tiles */
    int64_t kb, n_k;             /* channels in a block, blocks */
    int64_t ob, n_o;
    bool keep_u;
    size_t v_bytes, zero_bytes, u_bytes, m_bytes; /* u and m per thread */
} winograd_plan;

static winograd_plan plan_of(const winograd_shape *s, int side, int isa, int n_threads)
{
    winograd_plan p = {.s = s, .side = side, .size = side + 2,
                       .n_products = (side + 2) * (side + 2), .products = gemm_kernels_of(isa)};
    int64_t group_chunks;
    size_t u_all;

#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX512)
        p.transforms = side == 4 ? &winograd4_avx512 : &winograd2_avx512;
    else if (isa >= CPU_ISA_AVX2)
        p.transforms = side == 4 ? &winograd4_avx2 : &winograd2_avx2;
    else
#endif
        p.transforms = side == 4 ? &winograd4_portable : &winograd2_portable;
    p.down = ceil_div(s->oh, side);
    p.across = ceil_div(s->ow, side);
    p.tiles = s->n * p.down * p.across;
    p.n_k = ceil_div(s->c_in, K_BLOCK);
    p.kb = ceil_div(ceil_div(s->c_in, p.n_k), 8) * 8;
    p.n_k = ceil_div(s->c_in, p.kb);
    p.ob = least(O_BLOCK, ceil_div(s->c_out, p.products->nr) * p.products->nr);
    p.n_o = ceil_div(s->c_out, p.ob);
    u_all = (size_t)(p.n_products * p.kb * p.n_k * p.ob) * sizeof(float);
    p.keep_u = u_all <= U_KEPT_BYTES;
    p.u_bytes = gemm_round64(p.keep_u ? u_all : u_all / (size_t)p.n_k);

    p.group = GROUP_BYTES / (int64_t)sizeof(float) / (p.n_products * p.kb * p.n_k);
    p.group = p.group < CHUNK_TILES ? CHUNK_TILES : p.group / CHUNK_TILES * CHUNK_TILES;
    p.group = least(p.group, p.tiles);
    group_chunks = ceil_div(p.group, CHUNK_TILES);
    while (p.n_o * group_chunks < 4 * n_threads && p.group / group_chunks > 32)
        group_chunks++;
    p.chunk = ceil_div(p.group, group_chunks);
    p.v_bytes = gemm_round64((size_t)(p.n_products * p.kb * p.n_k * p.group) * sizeof(float));
    p.zero_bytes = gemm_round64((size_t)s->c_in * sizeof(float));
    p.m_bytes = gemm_round64((size_t)(p.n_products * p.chunk * p.ob) * sizeof(float));
    return p;
}

size_t winograd_scratch(const winograd_shape *s, int side, int isa, int n_threads)
{
    const winograd_plan p = plan_of(s, side, isa, n_threads);
    return p.v_bytes + p.zero_bytes + (size_t)n_threads * (p.u_bytes + p.m_bytes);
}

/* The first pixel of a tile. */
typedef struct tile_place {
    int64_t image, y, x;
} tile_place;

static tile_place place_of(const winograd_plan *p, int64_t tile)
{
    return (tile_place){.image = tile / (p->down * p->across),
                        .y = tile / p->across % p->down * p->side,
                        .x = tile % p->across * p->side};
}

/* V of one tile; `at` is its index in the group. Pixels outside are read from a row of zeros. */
static void transform_input(const winograd_plan *p, float *v, int64_t at, int64_t tile,
                            const float *in, const float *zeros, int64_t in_group)
{
    const winograd_shape *s = p->s;
    const tile_place place = place_of(p, tile);
    const int64_t y0 = place.y - s->top, x0 = place.x - s->left;
    const float *pixels[MAX_PRODUCTS];

    for (int64_t k = 0; k < p->n_k; k++) {
        const int64_t first = k * p->kb, n = least(p->kb, s->c_in - first);
        for (int i = 0; i < p->n_products; i++) {
            const int64_t y = y0 + i / p->size, x = x0 + i % p->size;
            const bool inside = y >= 0 && y < s->h && x >= 0 && x < s->w;
            pixels[i] =
                inside ? in + ((place.image * s->h + y) * s->w + x) * s->c_in + first : zeros;
        }
        p->transforms->input(v + (k * p->n_products * in_group + at) * p->kb, in_group * p->kb,
                             pixels, n);
    }
}

static void transform_output(const winograd_plan *p, float *out, const float *m, int64_t tile,
                             int64_t m_step, const float *bias, int64_t o, int64_t n_o)
{
    const winograd_shape *s = p->s;
    const tile_place place = place_of(p, tile);
    float *pixels[MAX_OUTPUTS];

    for (int i = 0; i < p->side * p->side; i++) {
        const int64_t y = place.y + i / p->side, x = place.x + i % p->side;
        pixels[i] = y < s->oh && x < s->ow
                        ? out + ((place.image * s->oh + y) * s->ow + x) * s->c_out + o
                        : NULL;
    }
    p->transforms->output(pixels, m, m_step, bias ? bias + o : NULL, n_o);
}

/* M += V U for one block of k, all P products; tiles of the chunk in about equal panels. */
static void multiply(const winograd_plan *p, float *m, const float *v, const float *u,
                     int64_t n_tiles, int64_t in_group, int64_t n_o, int64_t n_k, bool first)
{
    const int nr = p->products->nr;
    const int64_t panels = ceil_div(n_tiles, p->products->mr), rows = ceil_div(n_tiles, panels);
    float *c[GEMM_MAX_MR];

    for (int i = 0; i < p->n_products; i++) {
        const float *a = v + i * in_group * p->kb, *b = u + i * p->ob * p->kb;
        float *to = m + i * n_tiles * p->ob;
        for (int64_t o = 0; o < n_o; o += nr)
            for (int64_t t = 0; t < n_tiles; t += rows) {
                const int here = (int)least(rows, n_tiles - t);
                for (int r = 0; r < here; r++)
                    c[r] = to + (t + r) * p->ob + o;
                p->products->tile_rows(here, least(nr, n_o - o), n_k, a + t * p->kb, p->kb,
                                       b + o * n_k, c, 1.0f, first ? 0.0f : 1.0f, NULL);
            }
    }
}

typedef struct winograd_worker {
    float *u, *m;
    int64_t kept_o; /* the o block that u holds; -1: none */
} winograd_worker;

/* Tiles first.. of the group (which begins at tile `group`) times one o block. */
static void run_unit(const winograd_plan *p, winograd_worker *worker, float *out, const float *v,
                     const float *w, const float *bias, int64_t group, int64_t in_group,
                     int64_t first, int64_t o_block)
{
    const winograd_shape *s = p->s;
    const int64_t n_tiles = least(p->chunk, in_group - first), o = o_block * p->ob;
    const int64_t n_o = least(p->ob, s->c_out - o), u_block = p->n_products * p->kb * p->ob;
    const bool have_u = p->keep_u && worker->kept_o == o_block;

    for (int64_t k = 0; k < p->n_k; k++) {
        const int64_t k0 = k * p->kb, n_k = least(p->kb, s->c_in - k0);
        float *u = worker->u + (p->keep_u ? k * u_block : 0);
        if (!have_u)
            p->transforms->weights(u, p->ob * p->kb, w + o * s->o_step + k0 * s->i_step, s, n_o, n_k);
        multiply(p, worker->m, v + (k * p->n_products * in_group + first) * p->kb, u, n_tiles,
                 in_group, n_o, n_k, k == 0);
    }
    worker->kept_o = o_block;
    for (int64_t t = 0; t < n_tiles; t++)
        transform_output(p, out, worker->m + t * p->ob, group + first + t, n_tiles * p->ob, bias, o,
                         n_o);
}

void winograd_run(float *out, const winograd_shape *s, int side, const float *in, const float *w,
                  const float *bias, void *scratch, int isa, int n_threads)
{
    const winograd_plan p = plan_of(s, side, isa, n_threads);
    float *v = scratch, *zeros = (float *)((char *)scratch + p.v_bytes);
    char *rest = (char *)zeros + p.zero_bytes;

    memset(zeros, 0, p.zero_bytes);
#pragma omp parallel num_threads(n_threads)
    {
        char *own = rest + (size_t)omp_get_thread_num() * (p.u_bytes + p.m_bytes);
        winograd_worker worker = {(float *)own, (float *)(own + p.u_bytes), -1};

        for (int64_t group = 0; group < p.tiles; group += p.group) {
            const int64_t in_group = least(p.group, p.tiles - group);
            const int64_t chunks = ceil_div(in_group, p.chunk);
#pragma omp for schedule(dynamic, 4)
            for (int64_t t = 0; t < in_group; t++)
                transform_input(&p, v, t, group + t, in, zeros, in_group);
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < p.n_o * chunks; unit++)
                run_unit(&p, &worker, out, v, w, bias, group, in_group, unit % chunks * p.chunk,
                         unit / chunks);
        }
    }
}

int winograd_choose(const winograd_shape *s, int isa)
{
    (void)isa;
    if (s->c_in < MIN_CHANNELS)
        return 0;
    return s->oh * s->ow * s->n <= 64 ? 2 : 4;
}
