/* test_tape.c - recording, recompute and memory over whole steps of a small transformer block.
 *
 * checkpoint     gradients have the same bits with and without, also where blocks share a tensor; a
 *                recorded backward pass through it agrees
 * buffers        a gradient given at entry is added to
 * steady state   after a few steps, a step calls no malloc and touches no new tensor memory
 * no memory      refused at the n-th place, for every n: the failure stays, nothing is leaked, and
 *                the next step is as if nothing had happened
 */
#include "tests/check.h"
#include "tests/malloc_check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"

/* --- the network: two blocks over x [N,T,C] that both look at a context [N,S,C] --------------- */

enum { N = 2, T = 5, S = 3, C = 8, HEADS = 2, N_BLOCKS = 2, PER_BLOCK = 9 };
enum { N_PARAMS = N_BLOCKS * PER_BLOCK };

typedef struct net {
    ag_tensor *params[N_PARAMS], *grads[N_PARAMS], *m[N_PARAMS], *v[N_PARAMS];
    ag_tensor *x, *context, *target, *scalars;
} net;

static const struct {
    int n_dims;
    int64_t dims[2];
} SHAPES[PER_BLOCK] = {
    {1, {C}}, {1, {C}},         /* norm */
    {2, {C, C}}, {2, {C, C}}, {2, {C, C}}, {2, {C, C}}, /* q, k, v, out */
    {2, {4 * C, C}}, {1, {4 * C}}, {2, {C, 2 * C}},     /* gated feed-forward */
};

static ag_tensor *model_tensor(ag_ctx *ctx, uint64_t *seed, int n_dims, const int64_t *dims)
{
    ag_tensor *t = ag_empty(ctx, AG_MODEL, AG_F32, n_dims, dims);
    float values[4 * C * C];

    if (!t)
        return NULL;
    for (int64_t i = 0; i < ag_numel(t); i++)
        values[i] = (float)check_uniform(seed, -0.5, 0.5);
    ag_write(ctx, t, values, ag_nbytes(t));
    return t;
}

static void net_new(net *n, ag_ctx *ctx)
{
    const int64_t x_dims[3] = {N, T, C}, context_dims[3] = {N, S, C};
    uint64_t seed = 11;

    memset(n, 0, sizeof *n);
    for (int i = 0; i < N_PARAMS; i++) {
        const int n_dims = SHAPES[i % PER_BLOCK].n_dims;
        const int64_t *dims = SHAPES[i % PER_BLOCK].dims;
        n->params[i] = model_tensor(ctx, &seed, n_dims, dims);
        n->grads[i] = ag_full(ctx, AG_MODEL, 0, n_dims, dims);
        n->m[i] = ag_full(ctx, AG_MODEL, 0, n_dims, dims);
        n->v[i] = ag_full(ctx, AG_MODEL, 0, n_dims, dims);
        ag_set_requires_grad(ctx, n->params[i], true);
    }
    n->x = model_tensor(ctx, &seed, 3, x_dims);
    n->target = model_tensor(ctx, &seed, 3, x_dims);
    n->context = model_tensor(ctx, &seed, 3, context_dims);
    n->scalars = ag_full(ctx, AG_MODEL, 0, 1, (int64_t[]){8});
    ag_set_requires_grad(ctx, n->context, true);
}

static void net_free(net *n)
{
    for (int i = 0; i < N_PARAMS; i++) {
        ag_release(n->params[i]);
        ag_release(n->grads[i]);
        ag_release(n->m[i]);
        ag_release(n->v[i]);
    }
    ag_release(n->x);
    ag_release(n->context);
    ag_release(n->target);
    ag_release(n->scalars);
}

typedef struct block_arg {
    ag_tensor *const *params;
    ag_tensor *x, *context;
} block_arg;

/* The context is read three times: its gradient is a sum within a block and between them. */
static ag_tensor *block(ag_ctx *ctx, const void *arg)
{
    const block_arg *b = arg;
    ag_tensor *const *p = b->params;
    ag_tensor *h = ag_layer_norm(ctx, b->x, p[0], p[1], 1e-5), *x = b->x, *k, *v;

    k = ag_linear(ctx, b->context, p[3], NULL);
    v = ag_linear(ctx, b->context, p[4], NULL);
    h = ag_attention(ctx, ag_linear(ctx, h, p[2], NULL), k, v, HEADS, 0, false);
    x = ag_add(ctx, x, ag_linear(ctx, h, p[5], NULL));
    x = ag_add(ctx, x, ag_mean(ctx, b->context, 2, true));
    h = ag_geglu(ctx, ag_linear(ctx, x, p[6], p[7]));
    return ag_add(ctx, x, ag_linear(ctx, ag_silu(ctx, h), p[8], NULL));
}

static ag_tensor *forward(ag_ctx *ctx, const net *n, bool recompute)
{
    ag_tensor *x = n->x;

    for (int i = 0; i < N_BLOCKS; i++) {
        const block_arg arg = {n->params + i * PER_BLOCK, x, n->context};
        x = recompute ? ag_checkpoint(ctx, block, &arg, sizeof arg) : block(ctx, &arg);
    }
    return ag_mean(ctx, ag_row_loss(ctx, AG_LOSS_L2, x, n->target, 0), AG_ALL_AXES, false);
}

/* --- checkpoint ------------------------------------------------------------------------------- */

static void same_bits(ag_ctx *ctx, const char *what, int index, const ag_tensor *a,
                      const ag_tensor *b)
{
    float *va = check_values(ctx, a), *vb = check_values(ctx, b);

    assert_int_equal(ag_numel(a), ag_numel(b));
    for (int64_t i = 0; i < ag_numel(a); i++)
        if (memcmp(va + i, vb + i, sizeof *va) != 0)
            fail_msg("%s %d [%lld]: %.9g without recompute, %.9g with", what, index, (long long)i,
                     (double)va[i], (double)vb[i]);
    free(va);
    free(vb);
}

static void test_checkpoint_same_bits(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *grads[2][N_PARAMS + 1] = {{NULL}}, *inputs[N_PARAMS + 1], *loss[2];
    net n;

    (void)state;
    net_new(&n, ctx);
    memcpy(inputs, n.params, sizeof n.params);
    inputs[N_PARAMS] = n.context;
    for (int recompute = 0; recompute < 2; recompute++) {
        loss[recompute] = forward(ctx, &n, recompute);
        ag_grad(ctx, &loss[recompute], NULL, 1, inputs, grads[recompute], N_PARAMS + 1, 0);
        check_ok(ctx, "a step");
    }
    same_bits(ctx, "loss", 0, loss[0], loss[1]);
    for (int i = 0; i <= N_PARAMS; i++)
        same_bits(ctx, "gradient", i, grads[0][i], grads[1][i]);
    net_free(&n);
    ag_ctx_free(ctx);
}

/* A recorded backward pass through recomputed blocks: the gradient of |d loss / d context|^2. The
 * sums of the second pass run in another order, so here the bits may differ. */
static void test_checkpoint_second_order(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *grads[2][N_PARAMS] = {{NULL}};
    net n;

    (void)state;
    net_new(&n, ctx);
    for (int recompute = 0; recompute < 2; recompute++) {
        ag_tensor *loss = forward(ctx, &n, recompute), *g = NULL, *penalty;
        ag_grad(ctx, &loss, NULL, 1, &n.context, &g, 1, AG_CREATE_GRAPH);
        penalty = ag_sum(ctx, ag_square(ctx, g), AG_ALL_AXES, false);
        ag_grad(ctx, &penalty, NULL, 1, n.params, grads[recompute], N_PARAMS, 0);
        check_ok(ctx, "second order");
    }
    for (int i = 0; i < N_PARAMS; i++) {
        float *a = check_values(ctx, grads[0][i]), *b = check_values(ctx, grads[1][i]);
        for (int64_t k = 0; k < ag_numel(grads[0][i]); k++)
            check_close("second order", k, b[k], a[k], 1e-8, 1e-4);
        free(a);
        free(b);
    }
    net_free(&n);
    ag_ctx_free(ctx);
}

/* What is held between the forward and the backward pass is less with recompute. */
static void test_checkpoint_keeps_less(void **state)
{
    size_t held[2];

    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        ag_ctx *ctx = check_ctx();
        net n;
        ag_scope scope;
        net_new(&n, ctx);
        scope = ag_scope_open(ctx);
        ag_scope_close(ctx, scope, forward(ctx, &n, recompute));
        check_ok(ctx, "forward");
        held[recompute] = ag_bytes_now(ctx, AG_STEP);
        net_free(&n);
        ag_ctx_free(ctx);
    }
    if (!(held[1] < held[0] / 2))
        fail_msg("%zu bytes are held without recompute, %zu with", held[0], held[1]);
}

static void test_gradient_buffers(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *fresh[N_PARAMS] = {NULL}, *loss;
    net n;

    (void)state;
    net_new(&n, ctx);
    loss = forward(ctx, &n, false);
    ag_grad(ctx, &loss, NULL, 1, n.params, fresh, N_PARAMS, 0);
    for (int pass = 0; pass < 2; pass++) {
        loss = forward(ctx, &n, pass);
        ag_grad(ctx, &loss, NULL, 1, n.params, n.grads, N_PARAMS, 0);
    }
    check_ok(ctx, "gradients into buffers");
    for (int i = 0; i < N_PARAMS; i++) {
        float *a = check_values(ctx, fresh[i]), *b = check_values(ctx, n.grads[i]);
        for (int64_t k = 0; k < ag_numel(fresh[i]); k++)
            check_close("twice the gradient", k, b[k], 2.0 * a[k], 1e-7, 1e-6);
        free(a);
        free(b);
    }
    net_free(&n);
    ag_ctx_free(ctx);
}

/* A call that is refused leaves no mark: the next one adds into its own buffers. */
static void test_refused_call(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *loss, *missing[N_PARAMS], *other[N_PARAMS];
    net n;

    (void)state;
    net_new(&n, ctx);
    for (int i = 0; i < N_PARAMS; i++) {
        missing[i] = i == N_PARAMS - 1 ? NULL : n.params[i];
        other[i] = ag_full(ctx, AG_STEP, 0.0, ag_ndim(n.params[i]), ag_dims(n.params[i]));
    }
    loss = forward(ctx, &n, false);
    assert_int_equal(ag_grad(ctx, &loss, NULL, 1, missing, other, N_PARAMS, 0), AG_EINVAL);
    ag_clear(ctx);
    ag_grad(ctx, &loss, NULL, 1, n.params, n.grads, N_PARAMS, 0);
    check_ok(ctx, "gradients after a refusal");
    for (int i = 0; i < N_PARAMS; i++) {
        float *a = check_values(ctx, other[i]), *b = check_values(ctx, n.grads[i]);
        double sum = 0.0;
        for (int64_t k = 0; k < ag_numel(other[i]); k++) {
            assert_true(a[k] == 0.0f);
            sum += fabs(b[k]);
        }
        assert_true(sum > 0.0);
        free(a);
        free(b);
    }
    net_free(&n);
    ag_ctx_free(ctx);
}

/* --- whole steps ------------------------------------------------------------------------------ */

static float step(ag_ctx *ctx, net *n, bool recompute, bool update)
{
    const ag_scope scope = ag_scope_open(ctx);
    static const float scalars[8] = {1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 0.5f, 0.5f, 1.0f};
    ag_tensor *loss = forward(ctx, n, recompute);
    float value = NAN;
    bool was;

    ag_grad(ctx, &loss, NULL, 1, n->params, n->grads, N_PARAMS, 0);
    was = ag_record(ctx, false);
    ag_write(ctx, n->scalars, scalars, sizeof scalars);
    for (int i = 0; i < N_PARAMS; i++) {
        if (update)
            ag_adamw_(ctx, n->params[i], n->m[i], n->v[i], n->grads[i], n->scalars);
        ag_fill_(ctx, n->grads[i], 0);
    }
    ag_record(ctx, was);
    if (loss)
        ag_read(ctx, loss, &value, sizeof value);
    ag_scope_close(ctx, scope, NULL);
    return value;
}

static void test_steady_state(void **state)
{
    ag_ctx *ctx = check_ctx();
    net n;

    (void)state;
    net_new(&n, ctx);
    for (int recompute = 0; recompute < 2; recompute++) {
        float first = step(ctx, &n, recompute, true), last = first;
        size_t touched, in_use;
        step(ctx, &n, recompute, true);
        touched = ag_bytes_touched(ctx);
        in_use = ag_bytes_now(ctx, AG_STEP);
        check_malloc_begin();
        for (int i = 0; i < 5; i++)
            last = step(ctx, &n, recompute, true);
        check_malloc_end("five steady steps");
        check_ok(ctx, "steps");
        if (!(last < first))
            fail_msg("the loss went from %g to %g", (double)first, (double)last);
        assert_int_equal(ag_bytes_touched(ctx), touched);
        assert_int_equal(ag_bytes_now(ctx, AG_STEP), in_use);
        assert_int_equal(ag_bytes_now(ctx, AG_SCRATCH), 0);
    }
    net_free(&n);
    ag_ctx_free(ctx);
}

/* Refuse the k-th allocation of a context's life. Returns whether any was refused. */
static bool refuse_one(int64_t k, bool forever, float want)
{
    ag_ctx *ctx = check_ctx();
    bool refused;
    float got;
    net n;

    ag_refuse_allocation(ctx, k, forever);
    net_new(&n, ctx);
    step(ctx, &n, k % 2, false);
    refused = ag_status_of(ctx) != AG_OK;
    if (refused) {
        const ag_scope scope = ag_scope_open(ctx);
        assert_null(ag_scalar(ctx, 1)); /* sticky */
        ag_scope_close(ctx, scope, NULL);
        check_failed(ctx, AG_ENOMEM, "refused memory");
        ag_refuse_allocation(ctx, -1, false);
        /* a model that was made whole goes on as if nothing had been */
        if (n.scalars) {
            const bool was = ag_record(ctx, false);
            for (int i = 0; i < N_PARAMS; i++)
                ag_fill_(ctx, n.grads[i], 0);
            ag_record(ctx, was);
            got = step(ctx, &n, k % 2, false);
            check_ok(ctx, "a step after refused memory");
            check_close("loss after refused memory", k, got, want, 0, 0);
        }
    } else {
        ag_refuse_allocation(ctx, -1, false);
        got = step(ctx, &n, false, false);
        check_close("loss", 0, got, want, 0, 0);
    }
    net_free(&n);
    ag_ctx_free(ctx);
    return refused;
}

static void test_memory_refused(void **state)
{
    ag_ctx *ctx = check_ctx();
    int64_t n_refused = 0;
    float want;
    net n;

    (void)state;
    net_new(&n, ctx);
    want = step(ctx, &n, false, false);
    net_free(&n);
    ag_ctx_free(ctx);
    while (refuse_one(n_refused, n_refused % 3 == 0, want))
        n_refused++;
    assert_true(n_refused > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoint_same_bits),
        cmocka_unit_test(test_checkpoint_second_order),
        cmocka_unit_test(test_checkpoint_keeps_less),
        cmocka_unit_test(test_gradient_buffers),
        cmocka_unit_test(test_refused_call),
        cmocka_unit_test(test_steady_state),
        cmocka_unit_test(test_memory_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
