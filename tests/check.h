/* check.h - what the tests share: contexts, seeded numbers, comparison. A thin layer over cmocka.
 *
 * AG_TEST_DEVICE=cpu (default) or cuda chooses the device that check_ctx() makes contexts on.
 */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/tensor.h"

/* The device that tests run on. */
ag_device check_device(void);
/* A working context; the test fails when there is none; AG_META stands for the device above. Free it with
 * ag_ctx_free(). */
ag_ctx *check_ctx(void);
ag_ctx *check_ctx_on(ag_device device);
/* One of one thread: of small models more would do nothing but wait for each other. */
ag_ctx *check_small_ctx(ag_device device);

/* The context has not failed; else the test fails with its message. */
void check_ok(const ag_ctx *ctx, const char *what);
/* The context failed with this status and a message of one line; the failure is cleared. */
void check_failed(ag_ctx *ctx, ag_status want, const char *what);

/* xorshift64*: uniform in [low, high), rounded to f32. The seed must not be 0. */
double check_uniform(uint64_t *seed, double low, double high);

/* |got - want| <= atol + rtol |want|; a NaN never fits. `what` and the index name the place. */
void check_close(const char *what, int64_t index, double got, double want, double atol,
                 double rtol);

/* The values of a tensor of f32, bf16 or f16 as floats, for free(). */
float *check_values(ag_ctx *ctx, const ag_tensor *t);
/* A step tensor of n_dims dims with uniform values. */
ag_tensor *check_random(ag_ctx *ctx, uint64_t *seed, int n_dims, const int64_t *dims);

#endif /* TESTS_CHECK_H */
