/* dnn_attention.c - attention as cuDNN's graphs; see dnn_attention.h.
 *
 * cuDNN names axes batch, head, token, feature; strides tell it how heads lie beside each other in a token. The
 * forward pass is one operation to it. The backward pass it knows by its pattern: the lines of ops/attention.c with
 * softmax's sums given,
 *
 *   e = rows of dO * O       p = exp(scale q k^T - lse)      dv = p^T dO
 *   ds = scale p (dO v^T - e)      dk = ds^T q      dq = ds k
 *
 * in which everything between the products stays inside an engine.
 */
#include "autograd/cuda/dnn.h"
#include "autograd/ops/attrs.h"

enum { Q = 1, K, V, O, LSE, SCALE, DO, DQ, DK, DV, E, ONE };

/* [n,heads,t,d] inside [n,t,beside*d] */
static dnn_tensor heads_of(int64_t uid, const dnn_key *key, int64_t tokens)
{
    const cuda_heads *s = &key->of.heads;

    return (dnn_tensor){
        .uid = uid,
        .type = dnn_type((ag_dtype)key->type),
        .dims = {s->n, s->heads, tokens, s->d},
        .strides = {tokens * s->beside * s->d, s->d, s->beside * s->d, 1},
    };
}

static dnn_part tokens(dnn_graph *g, int64_t uid, const dnn_key *key, int64_t n)
{
    const dnn_tensor t = heads_of(uid, key, n);

    return dnn_make_tensor(g, &t);
}

/* the same with the last two axes the other way round */
static dnn_part turned(dnn_graph *g, int64_t uid, const dnn_key *key, int64_t n)
{
    dnn_tensor t = heads_of(uid, key, n);

    t.dims[2] = key->of.heads.d;
    t.dims[3] = n;
    t.strides[3] = t.strides[2];
    t.strides[2] = 1;
    return dnn_make_tensor(g, &t);
}

/* [n,heads,rows,columns] without gaps, of f32 unless it goes into a product */
static dnn_part block(dnn_graph *g, int64_t uid, const dnn_key *key, ag_dtype type, int64_t rows, int64_t columns)
{
    const cuda_heads *s = &key->of.heads;
    const dnn_tensor t = {
        .uid = uid,
        .type = dnn_type(type),
        .dims = {s->n, s->heads, rows, columns},
        .strides = {s->heads * rows * columns, rows * columns, columns, 1},
        .alignment = (int)ag_dtype_size(type),
    };

    return dnn_make_tensor(g, &t);
}

static dnn_part number(dnn_graph *g, int64_t uid)
{
    const dnn_tensor t = {
        .uid = uid, .type = CUDNN_DATA_FLOAT, .dims = {1, 1, 1, 1}, .strides = {1, 1, 1, 1}, .is_by_value = true};

    return dnn_make_tensor(g, &t);
}

/* --- forward ---------------------------------------------------------------------------------- */

static void describe_forward(dnn_graph *g, const dnn_key *key)
{
    const cuda_heads *s = &key->of.heads;
    dnn_part q = tokens(g, Q, key, s->tq), k = tokens(g, K, key, s->tk), v = tokens(g, V, key, s->tk);
    dnn_part o = tokens(g, O, key, s->tq), scale = number(g, SCALE);
    const dnn_named parts[] = {
        {CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, o},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, s->with_lse ? block(g, LSE, key, AG_F32, s->tq, 1) : NULL},
    };

    dnn_add(g, dnn_make_operation(g, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR, 6, parts));
}

/* --- backward --------------------------------------------------------------------------------- */

static void add_product(dnn_graph *g, dnn_part a, dnn_part b, dnn_part c)
{
    dnn_part how = dnn_make_f32(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_ATTR_MATMUL_COMP_TYPE);
    const dnn_named parts[] = {
        {CUDNN_ATTR_OPERATION_MATMUL_DESC, how},
        {CUDNN_ATTR_OPERATION_MATMUL_ADESC, a},
        {CUDNN_ATTR_OPERATION_MATMUL_BDESC, b},
        {CUDNN_ATTR_OPERATION_MATMUL_CDESC, c},
    };

    dnn_finish(g, how);
    dnn_add(g, dnn_make_operation(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 4, parts));
}

static void add_row_sums(dnn_graph *g, dnn_part x, dnn_part y)
{
    const cudnnReduceTensorOp_t sum = CUDNN_REDUCE_TENSOR_ADD;
    dnn_part how = dnn_make_f32(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_COMP_TYPE);
    const dnn_named parts[] = {
        {CUDNN_ATTR_OPERATION_REDUCTION_DESC, how},
        {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x},
        {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y},
    };

    dnn_set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &sum);
    dnn_finish(g, how);
    dnn_add(g, dnn_make_operation(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, 3, parts));
}

static void add_reshape(dnn_graph *g, dnn_part x, dnn_part y)
{
    const dnn_named parts[] = {
        {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x},
        {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y},
    };

    dnn_add(g, dnn_make_operation(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, 2, parts));
}

/* x [n,heads,tq,tk] seen as [n,heads,tk,tq], in the type of the products' factors */
static dnn_part transposed(dnn_graph *g, const dnn_key *key, dnn_part x)
{
    const cuda_heads *s = &key->of.heads;
    const dnn_tensor t = {
        .type = dnn_type((ag_dtype)key->type),
        .dims = {s->n, s->heads, s->tk, s->tq},
        .strides = {s->heads * s->tq * s->tk, s->tq * s->tk, 1, s->tk},
    };
    dnn_part y = dnn_make_tensor(g, &t);

    add_reshape(g, x, y);
    return y;
}

/* y = x and b by mode, [n,heads,tq,tk] inside the graph */
static dnn_part scores(dnn_graph *g, const dnn_key *key, cudnnPointwiseMode_t mode, dnn_part x, dnn_part b)
{
    dnn_part y = block(g, 0, key, AG_F32, key->of.heads.tq, key->of.heads.tk);

    dnn_add_pointwise(g, mode, x, b, y);
    return y;
}

static void describe_backward(dnn_graph *g, const dnn_key *key)
{
    const cuda_heads *s = &key->of.heads;
    dnn_part q = tokens(g, Q, key, s->tq), kt = turned(g, K, key, s->tk), vt = turned(g, V, key, s->tk);
    dnn_part o = tokens(g, O, key, s->tq), d = tokens(g, DO, key, s->tq), lse = block(g, LSE, key, AG_F32, s->tq, 1);
    dnn_part scale = number(g, SCALE), one = number(g, ONE), e = block(g, E, key, AG_F32, s->tq, 1);
    dnn_part od = block(g, 0, key, AG_F32, s->tq, s->d), sums = block(g, 0, key, AG_F32, s->tq, 1);
    dnn_part p = block(g, 0, key, AG_F32, s->tq, s->tk), ds = block(g, 0, key, AG_F32, s->tq, s->tk), k;

    dnn_add_pointwise(g, CUDNN_POINTWISE_MUL, d, o, od);
    add_row_sums(g, od, sums);
    dnn_add_pointwise(g, CUDNN_POINTWISE_MUL, sums, one, e);

    add_product(g, q, kt, p);
    p = scores(g, key, CUDNN_POINTWISE_MUL, p, scale);
    p = scores(g, key, CUDNN_POINTWISE_SUB, p, lse);
    p = scores(g, key, CUDNN_POINTWISE_EXP, p, NULL);
    add_product(g, transposed(g, key, p), d, tokens(g, DV, key, s->tk));

    add_product(g, d, vt, ds);
    ds = scores(g, key, CUDNN_POINTWISE_SUB, ds, e);
    ds = scores(g, key, CUDNN_POINTWISE_MUL, ds, p);
    ds = scores(g, key, CUDNN_POINTWISE_MUL, ds, scale);
    add_product(g, transposed(g, key, ds), q, tokens(g, DK, key, s->tk));
    k = tokens(g, 0, key, s->tk);
    add_reshape(g, kt, k);
    add_product(g, ds, k, tokens(g, DQ, key, s->tq));
}

/* --- what attention.cu asks for --------------------------------------------------------------- */

/* BACKWARD_SINCE: older versions err where the number of keys is no multiple of 128. ROUND_BYTES: of ds, in one round
 * of the backward pass. SLACK_BYTES: what an engine may want beside it. */
enum { MOST_FEATURES = 256, FEATURES_UNIT = 8, TILE = 64, SUMS_UNIT = 256, BACKWARD_SINCE = 91600 };
enum { ROUND_BYTES = 256 << 20, SLACK_BYTES = 1 << 20 };

/* Are the tensors of a kind that cuDNN may know attention of? */
static bool may_take(const ag_call *call)
{
    const op_attention_attr *a = call->attr;
    const ag_dtype type = ag_dtype_of(call->in[0]);
    const int64_t d = ag_dim(call->in[0], 2) / a->heads;
    bool takes = (type == AG_BF16 || type == AG_F16) && !a->causal && d <= MOST_FEATURES && d % FEATURES_UNIT == 0;

    for (int i = 0; i < call->op->n_in; i++)
        takes &= (uintptr_t)ag_data(call->in[i]) % 16 == 0 && (i == 4 || ag_dtype_of(call->in[i]) == type);
    for (int i = 0; i < call->n_out; i++)
        takes &= (uintptr_t)ag_data(call->out[i]) % 16 == 0;
    return takes;
}

static cuda_heads heads_in(const ag_call *call, bool with_lse)
{
    const op_attention_attr *a = call->attr;
    const ag_tensor *q = call->in[0];

    return (cuda_heads){
        .n = ag_dim(q, 0),
        .heads = a->heads,
        .beside = a->heads,
        .tq = ag_dim(q, 1),
        .tk = ag_dim(call->in[1], 1),
        .d = ag_dim(q, 2) / a->heads,
        .with_lse = with_lse,
    };
}

static const cuda_dnn_plan *forward_plan(const ag_call *call)
{
    dnn_key key;

    if (!may_take(call) || !dnn_start_key(call, &key, DNN_ATTENTION, ag_dtype_of(call->in[0])))
        return NULL;
    key.of.heads = heads_in(call, call->n_out > 1);
    return dnn_plan_of(call, &key, describe_forward, SLACK_BYTES);
}

bool cuda_dnn_attention_takes(const ag_call *call, size_t *scratch)
{
    const cuda_dnn_plan *plan = forward_plan(call);

    *scratch = plan ? dnn_scratch(plan->workspace) : 0;
    return plan != NULL;
}

ag_status cuda_dnn_attention(const ag_call *call)
{
    const float scale = (float)((const op_attention_attr *)call->attr)->scale;
    const int64_t uids[] = {Q, K, V, O, SCALE, LSE};
    const bool with_lse = call->n_out > 1;
    const void *const addresses[] = {ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
                                     ag_data(call->out[0]), &scale, with_lse ? ag_data(call->out[1]) : NULL};
    const cuda_dnn_plan *plan = forward_plan(call);
    const size_t bytes = dnn_scratch(plan->workspace);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    return bytes && !scratch ? ag_status_of(call->ctx)
                             : dnn_run(call, plan, with_lse ? 6 : 5, uids, addresses, scratch);
}

static int64_t up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* The backward pass that gives the same bits every time keeps ds in its workspace, by tiles, two bytes each. */
static size_t ds_bytes(const cuda_heads *s)
{
    return (size_t)(2 * s->n * s->heads * up(s->tq, TILE) * up(s->tk, TILE));
}

/* e of one round, before the workspace */
static size_t sums_bytes(const cuda_heads *s)
{
    return (size_t)up(s->n * s->heads * s->tq * (int64_t)sizeof(float), SUMS_UNIT);
}

/* The sizes of a round: as many samples as the bound allows, or as many heads of one; every round has the same number. No
 * heads when there is no room for one. */
static cuda_heads round_of(const ag_call *call)
{
    cuda_heads s = heads_in(call, true);
    const int64_t samples = s.n;

    while (s.n > 1 && (samples % s.n != 0 || ds_bytes(&s) > ROUND_BYTES))
        s.n--;
    while (s.heads > 0 && (s.beside % s.heads != 0 || ds_bytes(&s) > ROUND_BYTES))
        s.heads--;
    return s;
}

static const cuda_dnn_plan *backward_plan(const ag_call *call)
{
    dnn_key key;

    if (!may_take(call) || !dnn_start_key(call, &key, DNN_ATTENTION_BACKWARD, ag_dtype_of(call->in[0])) ||
        key.version < BACKWARD_SINCE)
        return NULL;
    key.of.heads = round_of(call);
    return key.of.heads.heads ? dnn_plan_of(call, &key, describe_backward, ds_bytes(&key.of.heads) + SLACK_BYTES) : NULL;
}

bool cuda_dnn_attention_backward_takes(const ag_call *call, size_t *scratch)
{
    const cuda_dnn_plan *plan = backward_plan(call);

    *scratch = plan ? sums_bytes(&plan->key.of.heads) + dnn_scratch(plan->workspace) : 0;
    return plan != NULL;
}

/* t from this sample and head on: [n,t,beside*d], or lse [n,beside,tq] */
static const void *part_of(const ag_tensor *t, const cuda_heads *s, int64_t sample, int64_t head)
{
    const int64_t one = ag_numel(t) / ag_dim(t, 0), step = ag_dtype_of(t) == AG_F32 ? s->tq : s->d;

    return (const char *)ag_data(t) + (size_t)(sample * one + head * step) * ag_dtype_size(ag_dtype_of(t));
}

ag_status cuda_dnn_attention_backward(const ag_call *call)
{
    static const int64_t UIDS[] = {Q, K, V, O, LSE, DO, DQ, DK, DV, SCALE, ONE, E};
    const float scale = (float)((const op_attention_attr *)call->attr)->scale, one = 1.0f;
    const cuda_dnn_plan *plan = backward_plan(call);
    const cuda_heads *s = &plan->key.of.heads;
    char *scratch = ag_scratch(call->ctx, sums_bytes(s) + dnn_scratch(plan->workspace));
    ag_status status = scratch ? AG_OK : ag_status_of(call->ctx);

    for (int64_t i = 0; i < ag_dim(call->in[0], 0) * s->beside && status == AG_OK; i += s->n * s->heads) {
        const int64_t sample = i / s->beside, head = i % s->beside;
        const void *addresses[12] = {[9] = &scale, [10] = &one, [11] = scratch};
        for (int k = 0; k < 6; k++)
            addresses[k] = part_of(call->in[k], s, sample, head);
        for (int k = 0; k < 3; k++)
            addresses[6 + k] = part_of(call->out[k], s, sample, head);
        status = dnn_run(call, plan, 12, UIDS, addresses, scratch + sums_bytes(s));
    }
    return status;
}
