/* adamw8bit.c - codes, and blocks of them cut into threads; see adamw8bit.h.
 *
 * Where blocks do not follow the order that p and g are kept in, pieces of them are put into the
 * blocks' order, updated there, and put back: a piece of 256 taps values begins with a channel.
 */
#include "autograd/cpu/adamw8bit.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "autograd/cpu/optimizer_internal.h"

/* --- codes ------------------------------------------------------------------------------------ */

/* Codes are constants that are cheaper to compute than to write down. */
static cpu_code_books books;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The rising magnitudes: 0, the middles of 2^i or 2^(i+1) parts of each decade, 1. */
static int magnitudes(float *out, bool with_sign)
{
    double decade = 1e-6;
    int n = 0;

    out[n++] = 0.0f;
    for (int i = 0; i < 7; i++, decade *= 10.0) {
        const int parts = with_sign ? 1 << i : 2 << i;
        for (int k = 0; k < parts; k++)
            out[n++] = (float)(decade * (0.1 + 0.9 * (k + 0.5) / parts));
    }
    out[n++] = 1.0f;
    return n;
}

static void make_book(cpu_code_book *book, bool with_sign)
{
    const int zero = with_sign ? CPU_CODE_ZERO : 0;
    float magnitude[256];
    const int n = magnitudes(magnitude, with_sign);

    for (int i = 0; i < n; i++) {
        if (with_sign && i < n - 1)
            book->value[zero - i] = -magnitude[i];
        book->value[zero + i] = magnitude[i];
        book->above[i] = i + 1 < n ? 0.5f * (magnitude[i] + magnitude[i + 1]) : INFINITY;
    }
    book->value[zero] = 0.0f; /* and not -0 */
    for (int cell = 0, code = 0; cell < CPU_CODE_CELLS; cell++) {
        const uint32_t bits = (uint32_t)(cell + CPU_CODE_BASE) << 16;
        float least;
        memcpy(&least, &bits, sizeof least);
        while (cell > 0 && least > book->above[code])
            code++;
        book->code[cell] = (uint8_t)code;
    }
}

static void make_books(void)
{
    make_book(&books.m, true);
    make_book(&books.v, false);
}

const float *cpu_adamw8bit_codes(bool with_sign)
{
    pthread_once(&once, make_books);
    return with_sign ? books.m.value : books.v.value;
}

/* --- steps ------------------------------------------------------------------------------------ */

typedef struct step_call {
    const cpu_optimizer_kernels *k;
    const cpu_adamw_factors *f;
    uint8_t *m, *v;
    float *m_max, *v_max;
} step_call;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Blocks of elements [from, from + n), whose parameters and gradients are p and g. */
static void step_blocks(const step_call *c, float *p, const float *g, int64_t from, int64_t n)
{
    for (int64_t i = 0; i < n; i += CPU_ADAMW8BIT_BLOCK) {
        const int64_t block = (from + i) / CPU_ADAMW8BIT_BLOCK;
        c->k->adamw8bit(p + i, c->m + from + i, c->m_max + block, c->v + from + i, c->v_max + block,
                        g + i, least(CPU_ADAMW8BIT_BLOCK, n - i), c->f, &books);
    }
}

/* Where a channel of all rows is kept, and how many of its row, `most` at most, begin with it. */
typedef struct place {
    int64_t first, run;
} place;

static place place_of(int64_t channel, int64_t most, int64_t channels, int64_t taps)
{
    const int64_t row = channel / channels, at = channel % channels;

    return (place){row * taps * channels + at, least(most, channels - at)};
}

/* n channels from `channel` on, kept as [tap, channel] in every row, into [channel, tap]. */
static void gather(float *to, const float *kept, int64_t channel, int64_t n, int64_t channels,
                   int64_t taps)
{
    for (int64_t done = 0; done < n;) {
        const place from = place_of(channel + done, n - done, channels, taps);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t c = 0; c < from.run; c++)
                to[(done + c) * taps + t] = kept[from.first + t * channels + c];
        done += from.run;
    }
}

/* The way back. */
static void scatter(float *kept, const float *from, int64_t channel, int64_t n, int64_t channels,
                    int64_t taps)
{
    for (int64_t done = 0; done < n;) {
        const place to = place_of(channel + done, n - done, channels, taps);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t c = 0; c < to.run; c++)
                kept[to.first + t * channels + c] = from[(done + c) * taps + t];
        done += to.run;
    }
}

static void step_reordered(const step_call *c, float *p, const float *g, int64_t from, int64_t n,
                           int64_t channels, int64_t taps)
{
    float near_p[CPU_ADAMW8BIT_BLOCK * CPU_ADAMW8BIT_TAPS];
    float near_g[CPU_ADAMW8BIT_BLOCK * CPU_ADAMW8BIT_TAPS];

    gather(near_p, p, from / taps, n / taps, channels, taps);
    gather(near_g, g, from / taps, n / taps, channels, taps);
    step_blocks(c, near_p, near_g, from, n);
    scatter(p, near_p, from / taps, n / taps, channels, taps);
}

bool cpu_adamw8bit(float *p, uint8_t *m, float *m_max, uint8_t *v, float *v_max, const float *g,
                   int64_t n, int64_t channels, int64_t taps, const double scalars[CPU_ADAMW_N],
                   int n_threads, int isa)
{
    const cpu_adamw_factors f = cpu_adamw8bit_factors_of(scalars);
    const step_call c = {cpu_optimizer_of(isa), &f, m, v, m_max, v_max};
    const int64_t piece = taps > 1 ? taps * CPU_ADAMW8BIT_BLOCK : CPU_PIECE;

    pthread_once(&once, make_books);
    if (isnan(scalars[CPU_ADAMW_GRAD_SCALE]))
        return false;
#pragma omp parallel for num_threads(cpu_team(n, n_threads)) schedule(static)
    for (int64_t i = 0; i < n; i += piece)
        if (taps > 1)
            step_reordered(&c, p, g, i, least(piece, n - i), channels, taps);
        else
            step_blocks(&c, p + i, g + i, i, least(piece, n - i));
    return true;
}
