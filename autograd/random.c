/* random.c - Philox4x32-10 and PyTorch's Mersenne twister; see random.h for the key schedule. */
#include "autograd/random.h"

#include <math.h>
#include <string.h>

#include "autograd/philox.h"

/* --- Philox ------------------------------------------------------------------------------------ */

void ag_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c[4];

    memcpy(c, counter, sizeof c);
    philox_rounds(c, key[0], key[1]);
    memcpy(out, c, sizeof c);
}

uint32_t ag_draw_u32(const ag_draw *draw, uint64_t element)
{
    uint32_t words[4];

    philox_block(draw, element / 4, words);
    return words[element % 4];
}

double ag_draw_uniform(const ag_draw *draw, uint64_t element)
{
    uint32_t words[4];
    uint64_t bits;

    philox_block(draw, element / 2, words);
    bits = (uint64_t)words[2 * (element % 2)] << 32 | words[2 * (element % 2) + 1];
    return (double)(bits >> 11) * 0x1p-53;
}

int64_t ag_draw_integer(const ag_draw *draw, uint64_t element, int64_t n)
{
    return (int64_t)(((uint64_t)ag_draw_u32(draw, element) * (uint64_t)n) >> 32);
}

void ag_draw_uniforms(const ag_draw *draw, float *out, int64_t n)
{
    for (int64_t at = 0; at < n; at += 4) {
        uint32_t words[4];
        philox_block(draw, (uint64_t)at / 4, words);
        for (int i = 0; i < 4 && at + i < n; i++)
            out[at + i] = (float)(words[i] >> 8) * 0x1p-24f;
    }
}

/* Box and Muller: u1 in (0,1], so the logarithm is finite. */
void ag_draw_normals(const ag_draw *draw, float *out, int64_t n)
{
    const double turn = 6.283185307179586476925 * 0x1p-32;

    for (int64_t at = 0; at < n; at += 4) {
        uint32_t words[4];
        philox_block(draw, (uint64_t)at / 4, words);
        for (int pair = 0; pair < 2 && at + 2 * pair < n; pair++) {
            const double u1 = ((double)words[2 * pair] + 1.0) * 0x1p-32;
            const double radius = sqrt(-2.0 * log(u1)), angle = turn * (double)words[2 * pair + 1];
            out[at + 2 * pair] = (float)(radius * cos(angle));
            if (at + 2 * pair + 1 < n)
                out[at + 2 * pair + 1] = (float)(radius * sin(angle));
        }
    }
}

uint32_t ag_hash_name(const char *name)
{
    uint32_t hash = 2166136261u;

    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        hash = (hash ^ *c) * 16777619u;
    return hash;
}

/* --- PyTorch's CPU generator --------------------------------------------------------------------- */

enum { MT_N = 624, MT_M = 397 };

void ag_torch_seed(ag_torch_rng *rng, uint64_t seed)
{
    rng->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < MT_N; i++)
        rng->state[i] = 1812433253u * (rng->state[i - 1] ^ rng->state[i - 1] >> 30) + i;
    rng->next = MT_N;
    rng->has_cached = 0;
    rng->cached = 0.0;
}

static void twist(ag_torch_rng *rng)
{
    uint32_t *s = rng->state;

    for (int i = 0; i < MT_N; i++) {
        const uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % MT_N] & 0x7fffffffu);
        s[i] = s[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    rng->next = 0;
}

uint32_t ag_torch_u32(ag_torch_rng *rng)
{
    uint32_t y;

    if (rng->next == MT_N)
        twist(rng);
    y = rng->state[rng->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static double torch_double(ag_torch_rng *rng)
{
    const uint64_t high = ag_torch_u32(rng);
    const uint64_t bits = high << 32 | ag_torch_u32(rng);

    return (double)(bits & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

void ag_torch_rand(ag_torch_rng *rng, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(ag_torch_u32(rng) & 0xffffff) * 0x1p-24f;
}

/* Sixteen uniforms become eight pairs of normals, in place. */
static void torch_block(float d[16])
{
    for (int k = 0; k < 8; k++) {
        const float u1 = 1.0f - d[k], u2 = d[k + 8];
        const float radius = sqrtf(-2.0f * logf(u1));
        const float theta = 2.0f * 3.14159265358979323846f * u2;
        d[k] = radius * cosf(theta);
        d[k + 8] = radius * sinf(theta);
    }
}

void ag_torch_randn(ag_torch_rng *rng, float *out, int64_t n)
{
    if (n >= 16) {
        ag_torch_rand(rng, out, n);
        for (int64_t at = 0; at + 16 <= n; at += 16)
            torch_block(out + at);
        if (n % 16) {
            ag_torch_rand(rng, out + n - 16, 16);
            torch_block(out + n - 16);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (rng->has_cached) {
            out[i] = (float)rng->cached;
            rng->has_cached = 0;
        } else {
            const double u1 = torch_double(rng), u2 = torch_double(rng);
            const double radius = sqrt(-2.0 * log1p(-u2)), theta = 2.0 * 3.14159265358979323846 * u1;
            out[i] = (float)(radius * cos(theta));
            rng->cached = radius * sin(theta);
            rng->has_cached = 1;
        }
    }
}

void ag_torch_randint(ag_torch_rng *rng, int64_t *out, int64_t n, int64_t low, int64_t high)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = low + (int64_t)(ag_torch_u32(rng) % (uint64_t)(high - low));
}
