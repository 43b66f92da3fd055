/* optimizer.c - one step of an optimizer over one tensor.
 *
 * Like the ops of inplace.c these change their inputs and have no gradient. What changes from
 * update to update comes in a tensor of scalars, f64 or f32. The rules, and the places of their
 * scalars, stand in autograd/cpu/optimizer.h, adamw8bit.h and adafactor.h.
 */
#include "autograd/cpu/adafactor.h"
#include "autograd/cpu/adamw8bit.h"
#include "autograd/cpu/optimizer_factors.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

enum { MAX_SCALARS = 16 };

/* --- what the rules share --------------------------------------------------------------------- */

/* Inputs [from, to) that are there are f32 of the shape of input `like`. */
static ag_status check_alike(ag_call *call, int from, int to, int like)
{
    const ag_tensor *p = call->in[like];

    for (int i = from; i < to; i++) {
        if (op_check_dims(call, i, ag_ndim(p), ag_dims(p)) != AG_OK)
            return ag_status_of(call->ctx);
        if (call->in[i] && ag_dtype_of(call->in[i]) != AG_F32)
            return ag_fail(call->ctx, AG_EDTYPE, "%s: want f32, got %s for input %d", call->op->name,
                           OP_SHAPE(call->in[i]), i);
    }
    return AG_OK;
}

/* Input i is [n] of one of two types. */
static ag_status check_list(ag_call *call, int i, int64_t n, ag_dtype a, ag_dtype b)
{
    const ag_tensor *t = call->in[i];

    if (ag_ndim(t) != 1 || ag_dim(t, 0) != n || (ag_dtype_of(t) != a && ag_dtype_of(t) != b))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want [%lld] %s for input %d, got %s",
                       call->op->name, (long long)n, ag_dtype_name(a), i, OP_SHAPE(t));
    return AG_OK;
}

/* p first, then states and gradient alike, then n scalars. */
static ag_status check_step(ag_call *call, int n_scalars)
{
    const int last = call->op->n_in - 1;

    if (op_check_target(call) != AG_OK || check_alike(call, 1, last, 0) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, last, n_scalars, AG_F64, AG_F32);
}

static void read_scalars(double out[MAX_SCALARS], const ag_tensor *t)
{
    for (int64_t i = 0; i < ag_numel(t); i++)
        out[i] = ag_dtype_of(t) == AG_F64 ? ((const double *)ag_data(t))[i]
                                          : ((const float *)ag_data(t))[i];
}

/* Values of an input that may be absent. */
static void *values(const ag_call *call, int i)
{
    return call->in[i] ? ag_data(call->in[i]) : NULL;
}

/* Every tensor but the gradient (and the scalars) is read and written. */
static void step_cost(const ag_call *call, ag_cost *cost)
{
    const int last = call->op->n_in - 1;

    cost->bytes = -(double)ag_nbytes(call->in[last - 1]);
    for (int i = 0; i < last; i++)
        cost->bytes += call->in[i] ? 2.0 * (double)ag_nbytes(call->in[i]) : 0.0;
    cost->flops = 15.0 * (double)ag_numel(call->in[0]);
}

/* --- adamw_: p, m, v, g ----------------------------------------------------------------------- */

static ag_status adamw_shape(ag_call *call)
{
    return check_step(call, CPU_ADAMW_N);
}

static ag_status adamw_cpu(ag_call *call)
{
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[4]);
    cpu_adamw(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
              ag_data(call->in[3]), ag_numel(call->in[0]), scalars, op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_adamw_ = {
    .name = "adamw_",
    .n_in = 5,
    .shape = adamw_shape,
    .run = {[AG_CPU] = adamw_cpu},
    .cost = step_cost,
};

ag_tensor *ag_adamw_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *g,
                     ag_tensor *scalars)
{
    return ag_apply(ctx, &ag_op_adamw_, (ag_tensor *[]){p, m, v, g, scalars}, NULL);
}

/* --- adamw8bit_: p, m, m_max, v, v_max, g ----------------------------------------------------- */

static ag_status adamw8bit_shape(ag_call *call)
{
    const op_adamw8bit_attr *a = call->attr;
    const int64_t n = ag_numel(call->in[0]);
    const int64_t blocks = (n + CPU_ADAMW8BIT_BLOCK - 1) / CPU_ADAMW8BIT_BLOCK;

    if (a->taps < 1 || a->taps > CPU_ADAMW8BIT_TAPS ||
        (a->taps > 1 && (a->channels < 1 || n % (a->channels * a->taps) != 0)))
        return ag_fail(call->ctx, AG_ESHAPE, "adamw8bit_: %s is not cut by %lld channels of %lld taps",
                       OP_SHAPE(call->in[0]), (long long)a->channels, (long long)a->taps);
    if (op_check_target(call) != AG_OK || check_alike(call, 5, 6, 0) != AG_OK)
        return ag_status_of(call->ctx);
    for (int i = 1; i < 5; i += 2)
        if (check_list(call, i, n, AG_U8, AG_U8) != AG_OK ||
            check_list(call, i + 1, blocks, AG_F32, AG_F32) != AG_OK)
            return ag_status_of(call->ctx);
    return check_list(call, 6, CPU_ADAMW_N, AG_F64, AG_F32);
}

static ag_status adamw8bit_cpu(ag_call *call)
{
    const op_adamw8bit_attr *a = call->attr;
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[6]);
    cpu_adamw8bit(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
                  ag_data(call->in[3]), ag_data(call->in[4]), ag_data(call->in[5]),
                  ag_numel(call->in[0]), a->channels, a->taps, scalars, op_threads(call),
                  op_isa(call));
    return AG_OK;
}

const ag_op ag_op_adamw8bit_ = {
    .name = "adamw8bit_",
    .n_in = 7,
    .attr_size = sizeof(op_adamw8bit_attr),
    .shape = adamw8bit_shape,
    .run = {[AG_CPU] = adamw8bit_cpu},
    .cost = step_cost,
};

ag_tensor *ag_adamw8bit_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *m_max, ag_tensor *v,
                         ag_tensor *v_max, ag_tensor *g, ag_tensor *scalars, int64_t channels,
                         int64_t taps)
{
    return ag_apply(ctx, &ag_op_adamw8bit_, (ag_tensor *[]){p, m, m_max, v, v_max, g, scalars},
                    &(op_adamw8bit_attr){channels, taps});
}

/* --- sgd_: p, buffer or nothing, g ------------------------------------------------------------ */

static ag_status sgd_shape(ag_call *call)
{
    return check_step(call, CPU_SGD_N);
}

static ag_status sgd_cpu(ag_call *call)
{
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[3]);
    cpu_sgd(ag_data(call->in[0]), values(call, 1), ag_data(call->in[2]), ag_numel(call->in[0]),
            scalars, op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_sgd_ = {
    .name = "sgd_",
    .n_in = 4,
    .optional = 1u << 1,
    .shape = sgd_shape,
    .run = {[AG_CPU] = sgd_cpu},
    .cost = step_cost,
};

ag_tensor *ag_sgd_(ag_ctx *ctx, ag_tensor *p, ag_tensor *buffer, ag_tensor *g, ag_tensor *scalars)
{
    return ag_apply(ctx, &ag_op_sgd_, (ag_tensor *[]){p, buffer, g, scalars}, NULL);
}

/* --- lion_: p, m, g --------------------------------------------------------------------------- */

static ag_status lion_shape(ag_call *call)
{
    return check_step(call, CPU_LION_N);
}

static ag_status lion_cpu(ag_call *call)
{
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[3]);
    cpu_lion(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
             ag_numel(call->in[0]), scalars, op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_lion_ = {
    .name = "lion_",
    .n_in = 4,
    .shape = lion_shape,
    .run = {[AG_CPU] = lion_cpu},
    .cost = step_cost,
};

ag_tensor *ag_lion_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *g, ag_tensor *scalars)
{
    return ag_apply(ctx, &ag_op_lion_, (ag_tensor *[]){p, m, g, scalars}, NULL);
}

/* --- ranger_: p, m, v, slow, g ---------------------------------------------------------------- */

static ag_status ranger_shape(ag_call *call)
{
    const op_ranger_attr *a = call->attr;

    if (a->n_rows < 0 || (a->n_rows > 0 && ag_numel(call->in[0]) % a->n_rows != 0))
        return ag_fail(call->ctx, AG_ESHAPE, "ranger_: %s is not cut by %lld rows",
                       OP_SHAPE(call->in[0]), (long long)a->n_rows);
    return check_step(call, CPU_RANGER_N);
}

static ag_status ranger_cpu(ag_call *call)
{
    const op_ranger_attr *a = call->attr;
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[5]);
    cpu_ranger(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
               ag_data(call->in[3]), ag_data(call->in[4]), ag_numel(call->in[0]), a->n_rows,
               scalars, op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_ranger_ = {
    .name = "ranger_",
    .n_in = 6,
    .attr_size = sizeof(op_ranger_attr),
    .shape = ranger_shape,
    .run = {[AG_CPU] = ranger_cpu},
    .cost = step_cost,
};

ag_tensor *ag_ranger_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *slow,
                      ag_tensor *g, ag_tensor *scalars, int64_t n_rows)
{
    return ag_apply(ctx, &ag_op_ranger_, (ag_tensor *[]){p, m, v, slow, g, scalars},
                    &(op_ranger_attr){n_rows});
}

/* --- prodigy_d_: what is known of d ----------------------------------------------------------- */

static ag_status prodigy_d_shape(ag_call *call)
{
    if (op_check_in_place(call) != AG_OK ||
        check_list(call, 0, CPU_PRODIGY_STATES, AG_F64, AG_F64) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, 1, CPU_PRODIGY_N, AG_F64, AG_F32);
}

static ag_status prodigy_d_cpu(ag_call *call)
{
    const op_prodigy_d_attr *a = call->attr;
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[1]);
    if (a->is_end)
        cpu_prodigy_end(ag_data(call->in[0]), scalars);
    else
        cpu_prodigy_begin(ag_data(call->in[0]), scalars);
    return AG_OK;
}

const ag_op ag_op_prodigy_d_ = {
    .name = "prodigy_d_",
    .n_in = 2,
    .attr_size = sizeof(op_prodigy_d_attr),
    .shape = prodigy_d_shape,
    .run = {[AG_CPU] = prodigy_d_cpu},
};

ag_tensor *ag_prodigy_d_(ag_ctx *ctx, ag_tensor *d, ag_tensor *scalars, bool is_end)
{
    return ag_apply(ctx, &ag_op_prodigy_d_, (ag_tensor *[]){d, scalars}, &(op_prodigy_d_attr){is_end});
}

/* --- prodigy_moments_: d, s, m, v, p, p0, g --------------------------------------------------- */

static ag_status prodigy_moments_shape(ag_call *call)
{
    if (op_check_in_place(call) != AG_OK || check_alike(call, 1, 7, 1) != AG_OK ||
        check_list(call, 0, CPU_PRODIGY_STATES, AG_F64, AG_F64) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, 7, CPU_PRODIGY_N, AG_F64, AG_F32);
}

static size_t prodigy_workspace(const ag_call *call)
{
    return op_round_scratch(cpu_prodigy_scratch(ag_numel(call->in[1])));
}

static ag_status prodigy_moments_cpu(ag_call *call)
{
    const size_t bytes = prodigy_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;
    double scalars[MAX_SCALARS];

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    read_scalars(scalars, call->in[7]);
    cpu_prodigy_moments(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
                        ag_data(call->in[3]), ag_data(call->in[4]), ag_data(call->in[5]),
                        ag_data(call->in[6]), ag_numel(call->in[1]), scalars, scratch,
                        op_threads(call), op_isa(call));
    return AG_OK;
}

static void prodigy_moments_cost(const ag_call *call, ag_cost *cost)
{
    cost->bytes = 9.0 * (double)ag_nbytes(call->in[1]); /* s, m, v twice; p, p0, g once */
    cost->flops = 15.0 * (double)ag_numel(call->in[1]);
    cost->scratch = prodigy_workspace(call);
}

const ag_op ag_op_prodigy_moments_ = {
    .name = "prodigy_moments_",
    .n_in = 8,
    .shape = prodigy_moments_shape,
    .run = {[AG_CPU] = prodigy_moments_cpu},
    .cost = prodigy_moments_cost,
};

ag_tensor *ag_prodigy_moments_(ag_ctx *ctx, ag_tensor *d, ag_tensor *s, ag_tensor *m, ag_tensor *v,
                               ag_tensor *p, ag_tensor *p0, ag_tensor *g, ag_tensor *scalars)
{
    return ag_apply(ctx, &ag_op_prodigy_moments_,
                    (ag_tensor *[]){d, s, m, v, p, p0, g, scalars}, NULL);
}

/* --- prodigy_step_: p, m, v, d ---------------------------------------------------------------- */

static ag_status prodigy_step_shape(ag_call *call)
{
    if (op_check_target(call) != AG_OK || check_alike(call, 1, 3, 0) != AG_OK ||
        check_list(call, 3, CPU_PRODIGY_STATES, AG_F64, AG_F64) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, 4, CPU_PRODIGY_N, AG_F64, AG_F32);
}

static ag_status prodigy_step_cpu(ag_call *call)
{
    double scalars[MAX_SCALARS];

    read_scalars(scalars, call->in[4]);
    cpu_prodigy_step(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
                     ag_numel(call->in[0]), ag_data(call->in[3]), scalars, op_threads(call),
                     op_isa(call));
    return AG_OK;
}

static void prodigy_step_cost(const ag_call *call, ag_cost *cost)
{
    cost->bytes = 4.0 * (double)ag_nbytes(call->in[0]); /* p twice; m, v once */
    cost->flops = 6.0 * (double)ag_numel(call->in[0]);
}

const ag_op ag_op_prodigy_step_ = {
    .name = "prodigy_step_",
    .n_in = 5,
    .shape = prodigy_step_shape,
    .run = {[AG_CPU] = prodigy_step_cpu},
    .cost = prodigy_step_cost,
};

ag_tensor *ag_prodigy_step_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *d,
                            ag_tensor *scalars)
{
    return ag_apply(ctx, &ag_op_prodigy_step_, (ag_tensor *[]){p, m, v, d, scalars}, NULL);
}

/* --- adafactor -------------------------------------------------------------------------------- */

/* The attribute of the three ops is the shape as matrices. `tensor` and the two states are inputs. */
static ag_status check_matrices(ag_call *call, int tensor, int row, int col)
{
    const ag_adafactor_shape *s = call->attr;
    const ag_tensor *t = call->in[tensor], *r = call->in[row];
    const bool is_factored = s->rows > 1 || s->cols > 1;

    if (s->batches < 1 || s->rows < 1 || s->cols < 1 || s->lanes < 1 ||
        s->batches * s->rows * s->cols * s->lanes != ag_numel(t))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: %s is not %lld matrices [%lld,%lld] of %lld lanes",
                       call->op->name, OP_SHAPE(t), (long long)s->batches, (long long)s->rows,
                       (long long)s->cols, (long long)s->lanes);
    if (s->lanes > 1 && (s->rows > CPU_ADAFACTOR_SIDE || s->cols > CPU_ADAFACTOR_SIDE))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: matrices [%lld,%lld] with lanes: at most %d a side",
                       call->op->name, (long long)s->rows, (long long)s->cols, CPU_ADAFACTOR_SIDE);
    if (is_factored != (r != NULL))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: a 1x1 matrix has no sums of rows, others have",
                       call->op->name);
    if (r && check_list(call, row, s->batches * s->rows * s->lanes, AG_F32, AG_F32) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, col, s->batches * s->cols * s->lanes, AG_F32, AG_F32);
}

static cpu_adafactor_shape shape_of(const ag_call *call)
{
    const ag_adafactor_shape *s = call->attr;

    return (cpu_adafactor_shape){s->batches, s->rows, s->cols, s->lanes};
}

static size_t adafactor_workspace(const ag_call *call)
{
    return op_round_scratch(cpu_adafactor_scratch(shape_of(call)));
}

static void adafactor_cost(const ag_call *call, ag_cost *cost)
{
    const ag_adafactor_shape *s = call->attr;

    cost->flops = 8.0 * (double)(s->batches * s->rows * s->cols * s->lanes);
    cost->scratch = adafactor_workspace(call);
}

/* adafactor_moments_: col, row or nothing, g */

static ag_status adafactor_moments_shape(ag_call *call)
{
    if (op_check_target(call) != AG_OK || check_alike(call, 2, 3, 2) != AG_OK ||
        check_matrices(call, 2, 1, 0) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, 3, CPU_ADAFACTOR_N, AG_F64, AG_F32);
}

static ag_status adafactor_moments_cpu(ag_call *call)
{
    void *scratch = ag_scratch(call->ctx, adafactor_workspace(call));
    double scalars[MAX_SCALARS];

    if (!scratch)
        return ag_status_of(call->ctx);
    read_scalars(scalars, call->in[3]);
    cpu_adafactor_moments(values(call, 1), ag_data(call->in[0]), ag_data(call->in[2]),
                          shape_of(call), scalars, scratch, op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_adafactor_moments_ = {
    .name = "adafactor_moments_",
    .n_in = 4,
    .optional = 1u << 1,
    .attr_size = sizeof(ag_adafactor_shape),
    .shape = adafactor_moments_shape,
    .run = {[AG_CPU] = adafactor_moments_cpu},
    .cost = adafactor_cost,
};

ag_tensor *ag_adafactor_moments_(ag_ctx *ctx, ag_tensor *col, ag_tensor *row, ag_tensor *g,
                                 ag_tensor *scalars, ag_adafactor_shape shape)
{
    return ag_apply(ctx, &ag_op_adafactor_moments_, (ag_tensor *[]){col, row, g, scalars}, &shape);
}

/* adafactor_sums_: sums, p, col, row or nothing, g */

static ag_status adafactor_sums_shape(ag_call *call)
{
    if (op_check_in_place(call) != AG_OK || check_list(call, 0, 2, AG_F64, AG_F64) != AG_OK ||
        check_alike(call, 1, 2, 1) != AG_OK || check_alike(call, 4, 5, 1) != AG_OK ||
        check_matrices(call, 1, 3, 2) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, 5, CPU_ADAFACTOR_N, AG_F64, AG_F32);
}

static ag_status adafactor_sums_cpu(ag_call *call)
{
    void *scratch = ag_scratch(call->ctx, adafactor_workspace(call));
    double scalars[MAX_SCALARS];

    if (!scratch)
        return ag_status_of(call->ctx);
    read_scalars(scalars, call->in[5]);
    cpu_adafactor_sums(ag_data(call->in[0]), ag_data(call->in[1]), values(call, 3),
                       ag_data(call->in[2]), ag_data(call->in[4]), shape_of(call), scalars, scratch,
                       op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_adafactor_sums_ = {
    .name = "adafactor_sums_",
    .n_in = 6,
    .optional = 1u << 3,
    .attr_size = sizeof(ag_adafactor_shape),
    .shape = adafactor_sums_shape,
    .run = {[AG_CPU] = adafactor_sums_cpu},
    .cost = adafactor_cost,
};

ag_tensor *ag_adafactor_sums_(ag_ctx *ctx, ag_tensor *sums, ag_tensor *p, ag_tensor *col,
                              ag_tensor *row, ag_tensor *g, ag_tensor *scalars,
                              ag_adafactor_shape shape)
{
    return ag_apply(ctx, &ag_op_adafactor_sums_, (ag_tensor *[]){sums, p, col, row, g, scalars},
                    &shape);
}

/* adafactor_step_: p, m or nothing, col, row or nothing, g, sums */

static ag_status adafactor_step_shape(ag_call *call)
{
    if (op_check_target(call) != AG_OK || check_alike(call, 1, 2, 0) != AG_OK ||
        check_alike(call, 4, 5, 0) != AG_OK || check_list(call, 5, 2, AG_F64, AG_F64) != AG_OK ||
        check_matrices(call, 0, 3, 2) != AG_OK)
        return ag_status_of(call->ctx);
    return check_list(call, 6, CPU_ADAFACTOR_N, AG_F64, AG_F32);
}

static ag_status adafactor_step_cpu(ag_call *call)
{
    void *scratch = ag_scratch(call->ctx, adafactor_workspace(call));
    double scalars[MAX_SCALARS];

    if (!scratch)
        return ag_status_of(call->ctx);
    read_scalars(scalars, call->in[6]);
    cpu_adafactor_step(ag_data(call->in[0]), values(call, 1), values(call, 3),
                       ag_data(call->in[2]), ag_data(call->in[4]), ag_data(call->in[5]),
                       shape_of(call), scalars, scratch, op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_adafactor_step_ = {
    .name = "adafactor_step_",
    .n_in = 7,
    .optional = 1u << 1 | 1u << 3,
    .attr_size = sizeof(ag_adafactor_shape),
    .shape = adafactor_step_shape,
    .run = {[AG_CPU] = adafactor_step_cpu},
    .cost = adafactor_cost,
};

ag_tensor *ag_adafactor_step_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *col,
                              ag_tensor *row, ag_tensor *g, ag_tensor *sums, ag_tensor *scalars,
                              ag_adafactor_shape shape)
{
    return ag_apply(ctx, &ag_op_adafactor_step_,
                    (ag_tensor *[]){p, m, col, row, g, sums, scalars}, &shape);
}
