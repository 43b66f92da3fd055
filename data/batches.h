/* batches.h - which pictures stand in which batch of an epoch.
 *
 * All of it is a function of (seed, epoch) and of what the set is, so a run can go on anywhere. Every
 * epoch has the same number of batches, and each bucket the same number of pictures:
 *
 *   order    the pictures of an epoch, shuffled (data_order), cut into batches. The last one may be short.
 *   repeats  a picture stands in the epoch as often as it says.
 *   buckets  a batch holds pictures of one bucket; buckets keep the shuffled order and are cut into batches
 *            each for itself (its last one may be short), and the batches are shuffled.
 *   groups   every group stands in the epoch as often as the largest one does. In a smaller group each
 *            picture is shown equally often, and what is missing then is taken in turn, epoch after epoch,
 *            from its pictures in shuffled order (shared out among buckets in proportion).
 */
#ifndef DATA_BATCHES_H
#define DATA_BATCHES_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_batches_options {
    uint64_t seed;
    int64_t batch; /* pictures of a batch, at most; > 0 */
    bool shuffle;
    /* each [n] or NULL */
    const int64_t *repeats; /* > 0; NULL: 1 */
    const int64_t *buckets; /* 0 to 32767; NULL: all in one, whose batches stay in order */
    const int64_t *groups;  /* 0 to 32767; NULL: not balanced */
} data_batches_options;

/* One place in an epoch. */
typedef struct data_pick {
    int64_t item; /* 0..n-1 */
    int64_t copy; /* which time in this epoch: 0, 1, ... */
} data_pick;

typedef struct data_batches data_batches;

/* Of n > 0 pictures. The options' arrays are copied. AG_EINVAL for an epoch of more than 2^28. */
ag_status data_batches_new(data_batches **out, ag_ctx *ctx, int64_t n, const data_batches_options *options);
void data_batches_free(data_batches *batches); /* NULL is fine */

int64_t data_batches_count(const data_batches *batches); /* batches of an epoch */
int64_t data_batches_picks(const data_batches *batches); /* pictures of an epoch, with their repetitions */

/* Batch k of an epoch: *n picks, valid until another epoch is asked for. Takes no memory. */
const data_pick *data_batches_at(data_batches *batches, int64_t epoch, int64_t k, int64_t *n);

/* The order in which epoch `epoch` visits n items: a permutation of 0..n-1 that depends on
 * nothing but seed, epoch and n (Fisher-Yates from AG_DRAW_ORDER), or 0..n-1 without shuffle. */
void data_order(int64_t *order, uint64_t seed, uint32_t epoch, int64_t n, bool shuffle);

#ifdef __cplusplus
}
#endif

#endif /* DATA_BATCHES_H */
