/* check.c - what the tests share; see check.h. */
#include "tests/check.h"

#include "autograd/numbers.h"
#include "autograd/ops.h"

ag_device check_device(void)
{
    const char *name = getenv("AG_TEST_DEVICE");

    return name && strcmp(name, "cuda") == 0 ? AG_CUDA : AG_CPU;
}

static ag_ctx *new_ctx(ag_device device, int n_threads)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = device, .stands_for = check_device(), .n_threads = n_threads});

    assert_non_null(ctx);
    check_ok(ctx, "a new context");
    return ctx;
}

ag_ctx *check_ctx_on(ag_device device)
{
    return new_ctx(device, 2);
}

ag_ctx *check_small_ctx(ag_device device)
{
    return new_ctx(device, 1);
}

ag_ctx *check_ctx(void)
{
    return check_ctx_on(check_device());
}

void check_ok(const ag_ctx *ctx, const char *what)
{
    if (ag_status_of(ctx) != AG_OK)
        fail_msg("%s: %s: %s", what, ag_status_name(ag_status_of(ctx)), ag_message(ctx));
}

void check_failed(ag_ctx *ctx, ag_status want, const char *what)
{
    if (ag_status_of(ctx) != want)
        fail_msg("%s: want \"%s\", got \"%s\" (%s)", what, ag_status_name(want),
                 ag_status_name(ag_status_of(ctx)), ag_message(ctx));
    if (!*ag_message(ctx) || strchr(ag_message(ctx), '\n'))
        fail_msg("%s: want a message of one line, got \"%s\"", what, ag_message(ctx));
    ag_clear(ctx);
}

double check_uniform(uint64_t *seed, double low, double high)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return (float)(low + (high - low) * ((double)((*seed * 2685821657736338717u) >> 11) /
                                         9007199254740992.0));
}

void check_close(const char *what, int64_t index, double got, double want, double atol,
                 double rtol)
{
    if (!(fabs(got - want) <= atol + rtol * fabs(want)))
        fail_msg("%s[%lld]: got %.9g, want %.9g (difference %.3g, allowed %.3g)", what,
                 (long long)index, got, want, got - want, atol + rtol * fabs(want));
}

float *check_values(ag_ctx *ctx, const ag_tensor *t)
{
    const int64_t n = ag_numel(t);
    float *values = malloc((size_t)(n ? n : 1) * sizeof *values);

    assert_non_null(values);
    if (ag_dtype_of(t) == AG_F32) {
        ag_read(ctx, t, values, ag_nbytes(t));
    } else {
        uint16_t *half = malloc((size_t)(n ? n : 1) * sizeof *half);
        assert_non_null(half);
        assert_true(ag_dtype_of(t) == AG_BF16 || ag_dtype_of(t) == AG_F16);
        ag_read(ctx, t, half, ag_nbytes(t));
        ag_widen(values, ag_dtype_of(t), half, n);
        free(half);
    }
    check_ok(ctx, "reading values");
    return values;
}

ag_tensor *check_random(ag_ctx *ctx, uint64_t *seed, int n_dims, const int64_t *dims)
{
    ag_tensor *t = ag_empty(ctx, AG_STEP, AG_F32, n_dims, dims);
    float *values;

    check_ok(ctx, "a random tensor");
    values = malloc(ag_nbytes(t) + 1);
    assert_non_null(values);
    for (int64_t i = 0; i < ag_numel(t); i++)
        values[i] = (float)check_uniform(seed, -1, 1);
    ag_write(ctx, t, values, ag_nbytes(t));
    free(values);
    return t;
}
