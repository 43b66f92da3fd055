/* random.h - random numbers that are a function of where they are used.
 *
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the
 * seed, counting over (purpose, step, sample, element). No state: a resumed run, a run on more
 * ranks and a recomputed block all see the same numbers.
 *
 * Key schedule. key = seed (low word, high word). The counter of the b-th block of four words:
 *   c[0] = b (low 32 bits), c[1] = purpose << 16 | b >> 32 (16 bits each), c[2] = step, c[3] = sample
 * Element e of a draw uses word e % 4 of block e / 4 (uniforms), and for normals the pair of words
 * (0,1) or (2,3) of block e / 4: elements 4b, 4b+1 are cosine and sine of the first pair.
 */
#ifndef AG_RANDOM_H
#define AG_RANDOM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a draw is for. Values are part of the meaning of a seed: add, never renumber. */
typedef enum ag_purpose {
    AG_DRAW_INIT = 1,      /* first values of parameters; sample = FNV-1a of the name */
    AG_DRAW_ORDER = 2,     /* order of a data set; step = epoch */
    AG_DRAW_CROP = 3,      /* random crop offsets */
    AG_DRAW_FLIP = 4,      /* horizontal flip */
    AG_DRAW_POSTERIOR = 5, /* VAE posterior noise; sample = row of the global batch */
    AG_DRAW_NOISE = 6,     /* diffusion noise */
    AG_DRAW_OFFSET = 7,    /* noise offset, one number per channel */
    AG_DRAW_TIMESTEP = 8,
    AG_DRAW_LATENT = 9,    /* first latents of sampling; sample = index of the picture */
    AG_DRAW_SAMPLER = 10,  /* noise inside an ancestral sampler */
    AG_DRAW_DROPOUT = 11,
    AG_DRAW_CAPTION = 12,  /* caption dropout */
    AG_DRAW_FACE = 13,     /* the face painter */
    AG_DRAW_TEST = 14,
    AG_DRAW_COLOR = 15,    /* colour jitter */
    AG_DRAW_VALIDATION = 16 /* noise of held-out pictures */
} ag_purpose;

typedef struct ag_draw {
    uint64_t seed;
    uint32_t purpose; /* an ag_purpose */
    uint32_t step;
    uint32_t sample;
} ag_draw;

/* The bare generator: ten rounds. */
void ag_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

uint32_t ag_draw_u32(const ag_draw *draw, uint64_t element);
double ag_draw_uniform(const ag_draw *draw, uint64_t element); /* [0,1), 53 bits of two words of a block */
int64_t ag_draw_integer(const ag_draw *draw, uint64_t element, int64_t n); /* [0,n), unbiased to 2^-32 */
void ag_draw_normals(const ag_draw *draw, float *out, int64_t n);  /* N(0,1), elements 0..n-1 */
void ag_draw_uniforms(const ag_draw *draw, float *out, int64_t n); /* [0,1) f32, 24 bits */
uint32_t ag_hash_name(const char *name); /* FNV-1a, 32 bits */

/* PyTorch's CPU generator, for comparisons draw for draw (MT19937; the algorithms of
 * pytorch/pytorch: aten/src/ATen/native/cpu/DistributionTemplates.h). */
typedef struct ag_torch_rng {
    uint32_t state[624];
    int next;
    int has_cached;
    double cached;
} ag_torch_rng;
void ag_torch_seed(ag_torch_rng *rng, uint64_t seed);
uint32_t ag_torch_u32(ag_torch_rng *rng);
void ag_torch_randn(ag_torch_rng *rng, float *out, int64_t n);
void ag_torch_rand(ag_torch_rng *rng, float *out, int64_t n);
void ag_torch_randint(ag_torch_rng *rng, int64_t *out, int64_t n, int64_t low, int64_t high);

#ifdef __cplusplus
}
#endif

#endif /* AG_RANDOM_H */
