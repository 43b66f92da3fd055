/* conv_winograd_fused.inc.h - the kernels of conv_winograd_fused.c, compiled once per instruction set.
 *
 * The rows of G are used without their factors: row i as (1, x, x^2) for the point x. With c = such a row times
 * the taps, by columns, a row of U is
 *
 *   c0, c0 + a^2 c2 + a c1, c0 + a^2 c2 - a c1, c0 + b^2 c2 + b c1, c0 + b^2 c2 - b c1, c2
 *
 * of one operation each and two more. Each number of U is multiplied as soon as it is there. The sums of
 * FUSED_POSITIONS positions and up to WINOGRAD_GROUP tiles fill the registers.
 */
#include "autograd/cpu/conv_internal.h"
#include "autograd/cpu/transpose.inc.h"
#include "autograd/cpu/vector.h"

#if defined(__AVX512F__)
enum { FUSED_POSITIONS = 6, FUSED_FETCH = 2 }; /* lines fetched in a step of k */
#else
enum { FUSED_POSITIONS = 3, FUSED_FETCH = 1 };
#endif
enum { FUSED_SIZE = 6, FUSED_TAPS = 9, FUSED_LINE = 16 };

#define FUSED_A 0.70710678118654752f
#define FUSED_B 1.41421356237309505f

/* Constants are read where they are used, as operands of instructions: there are no registers left for them. */
#if defined(__GNUC__)
#define FUSED_OPAQUE(pointer) __asm__("" : "+r"(pointer))
#else
#define FUSED_OPAQUE(pointer)
#endif

/* What to fetch in n steps of k: returns where the first line stands, which then moves by a line in each. */
static uintptr_t fused_next(winograd_next *next, int64_t n, const float *otherwise)
{
    const uintptr_t at = next->at + (uintptr_t)(next->line * FUSED_LINE) * sizeof(float);

    if (next->rows <= 0)
        return (uintptr_t)otherwise;
    next->line += n;
    if (next->line >= next->lines) {
        next->line = 0;
        next->rows -= FUSED_FETCH;
        next->at += FUSED_FETCH * next->step;
    }
    return at;
}

VEC_INLINE void fused_position(vec *sums, int n_tiles, const float *v, vec u)
{
#pragma GCC unroll 4
    for (int t = 0; t < n_tiles; t++)
        sums[t] = vec_fma(vec_set(v[t]), u, sums[t]);
}

/* The two positions of the points x and -x; x and x^2 stand at `point`. */
VEC_INLINE void fused_pair(vec (*sums)[WINOGRAD_GROUP], int n_tiles, const float *v, const vec *c,
                           const float *point)
{
    const vec even = vec_fma(vec_set(point[1]), c[2], c[0]);

    fused_position(sums[0], n_tiles, v, vec_fma(vec_set(point[0]), c[1], even));
    fused_position(sums[1], n_tiles, v + WINOGRAD_GROUP, vec_fnma(vec_set(point[0]), c[1], even));
}

/* Positions from.. of row `row` for one group of tiles. inner: the row of a point that is neither 0 nor infinity. */
VEC_INLINE void fused_row(bool inner, int from, int n_tiles, const winograd_fused_block *b, float *m, const float *v,
                          int row, uintptr_t at, uintptr_t to_second)
{
    static const float pairs[4] = {FUSED_A, 0.5f, FUSED_B, 2.0f};
    static const float points[FUSED_SIZE] = {0.0f, FUSED_A, -FUSED_A, FUSED_B, -FUSED_B, 0.0f};
    static const float squares[FUSED_SIZE] = {0.0f, 0.5f, 0.5f, 2.0f, 2.0f, 0.0f};
    const vec x = vec_set(points[row]), square = vec_set(squares[row]);
    const float *taps = b->taps + (inner || row == 0 ? 0 : 6 * VEC_N);
    const int64_t m_step = b->m_step, m_row = b->m_row, n_k = b->n_k;
    vec sums[FUSED_POSITIONS][WINOGRAD_GROUP], c[3];

#pragma GCC unroll 6
    for (int s = 0; s < FUSED_POSITIONS; s++)
#pragma GCC unroll 4
        for (int t = 0; t < n_tiles; t++)
            sums[s][t] = vec_set(0.0f);
    for (int64_t k = 0; k < n_k; k++, v += WINOGRAD_V_STEP, taps += FUSED_TAPS * VEC_N) {
        const float *constants = pairs;
        FUSED_OPAQUE(constants);
        __builtin_prefetch((const void *)at, 0, 2);
        if (FUSED_FETCH > 1)
            __builtin_prefetch((const void *)(at + to_second), 0, 2);
        at += FUSED_LINE * sizeof *v;
#pragma GCC unroll 3
        for (int s = 0; s < 3; s++) {
            c[s] = vec_load(taps + s * VEC_N);
            if (inner) {
                c[s] = vec_fma(square, vec_load(taps + (6 + s) * VEC_N), c[s]);
                c[s] = vec_fma(x, vec_load(taps + (3 + s) * VEC_N), c[s]);
            }
        }
        if (from == 0) {
            fused_position(sums[0], n_tiles, v, c[0]);
            fused_pair(&sums[1], n_tiles, v + WINOGRAD_GROUP, c, constants);
        }
        if (from + FUSED_POSITIONS > 3) {
            fused_pair(&sums[3 - from], n_tiles, v + 3 * WINOGRAD_GROUP, c, constants + 2);
            fused_position(sums[5 - from], n_tiles, v + 5 * WINOGRAD_GROUP, c[2]);
        }
    }
#pragma GCC unroll 6
    for (int s = 0; s < FUSED_POSITIONS; s++)
#pragma GCC unroll 4
        for (int t = 0; t < n_tiles; t++) {
            float *to = m + s * m_step + t * m_row;
            vec_store(to, b->first ? sums[s][t] : vec_add(vec_load(to), sums[s][t]));
        }
}

#define FUSED_INSTANCE(inner, from, n) fused_row(inner, from, n, b, m, v, row, at, next->step)
#define FUSED_CASE(n)                         \
    case n:                                   \
        if (inner && from == 0)               \
            FUSED_INSTANCE(true, 0, n);       \
        else if (inner)                       \
            FUSED_INSTANCE(true, 3, n);       \
        else if (from == 0)                   \
            FUSED_INSTANCE(false, 0, n);      \
        else                                  \
            FUSED_INSTANCE(false, 3, n);      \
        break;

static void fused_group(int row, int from, int n_tiles, const winograd_fused_block *b, float *m, const float *v,
                        winograd_next *next)
{
    const uintptr_t at = fused_next(next, b->n_k, b->taps);
    const bool inner = row > 0 && row < FUSED_SIZE - 1;

    m += (row * FUSED_SIZE + from) * b->m_step;
    v += row * FUSED_SIZE * WINOGRAD_GROUP;
    switch (n_tiles) {
        FUSED_CASE(1) FUSED_CASE(2) FUSED_CASE(3) FUSED_CASE(4)
    }
}

static void fused_products(const winograd_fused_block *b, winograd_next *next)
{
    for (int row = 0; row < FUSED_SIZE; row++)
        for (int64_t t = 0; t < b->n_tiles; t += WINOGRAD_GROUP) {
            const int64_t n = b->n_tiles - t < WINOGRAD_GROUP ? b->n_tiles - t : WINOGRAD_GROUP;
            for (int from = 0; from < FUSED_SIZE; from += FUSED_POSITIONS)
                fused_group(row, from, (int)n, b, b->m + t * b->m_row, b->v + t / WINOGRAD_GROUP * b->v_group, next);
        }
}

static void fused_taps(float *taps, const float *w, const winograd_shape *s, int64_t n_out, int64_t n_k)
{
    n_out = n_out < VEC_N ? n_out : VEC_N;
    if (s->backward) {
        for (int64_t k = 0; k < n_k; k++)
            for (int tap = 0; tap < FUSED_TAPS; tap++, taps += VEC_N) {
                const float *from = w + k * s->i_step + (FUSED_TAPS - 1 - tap) * s->tap_step;
                vec_store(taps, n_out == VEC_N ? vec_load(from) : vec_load_n(from, n_out));
            }
        return;
    }
    for (int64_t k = 0; k < n_k; k += VEC_N)
        for (int tap = 0; tap < FUSED_TAPS; tap++)
            transpose_block(taps + (k * FUSED_TAPS + tap) * VEC_N, FUSED_TAPS * VEC_N, w + tap * s->tap_step + k,
                            s->o_step, n_out, n_k - k < VEC_N ? n_k - k : VEC_N);
}

const winograd_fused_kernels VEC_NAME(winograd_fused) = {
    .lanes = VEC_N, .taps = fused_taps, .products = fused_products};
