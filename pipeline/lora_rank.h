/* lora_rank.h - a matrix as the product of two thin ones: the best of a given rank. For files in pipeline/ only.
 *
 *   D [rows,cols] ~ B A,  B [rows,r], A [r,cols];  D = U S V^T, B = U sqrt(S), A = sqrt(S) V^T  (Eckart, Young)
 *
 * U comes from the eigenvectors of D D^T (of D^T D where that is smaller), A from U^T D: with all of the rank B A is D
 * to the rounding of f32, whatever the smaller singular values are. Eigenvectors: LAPACK's dsyevr.
 */
#ifndef PIPE_LORA_RANK_H
#define PIPE_LORA_RANK_H

#include <stdint.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pipe_rank_choice {
    int64_t rank;  /* at most this; > 0 */
    double energy; /* 0, or: no more than keep this share of the sum of squares */
} pipe_rank_choice;

typedef struct pipe_thin {
    int64_t rank;   /* at least 1, at most the shorter side */
    float *b, *a;   /* [rows,rank], [rank,cols]; end with pipe_thin_free() */
    double total, kept; /* sums of squares: D's, B A's */
} pipe_thin;

/* Of the values of D. */
ag_status pipe_thin_of(pipe_thin *out, ag_ctx *ctx, const float *d, int64_t rows, int64_t cols,
                       pipe_rank_choice choice);
/* Of D = scale * left [rows,inner] right [inner,cols], without making D: inner is smaller than rows and cols. */
ag_status pipe_thin_of_product(pipe_thin *out, ag_ctx *ctx, const float *left, const float *right, int64_t rows,
                               int64_t inner, int64_t cols, double scale, pipe_rank_choice choice);
void pipe_thin_free(pipe_thin *thin);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_LORA_RANK_H */
