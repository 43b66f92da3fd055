/* lora_change.c - what a LoRA's module does to a weight, in double. See lora_file.h.
 *
 * The weight is taken as rows of n = I kh kw values, one for each output. Every kind gives one row at a time, so that
 * nothing larger than the weight is ever needed; DoRA's norm of rows follows at once, that of columns in a second pass.
 */
#include <math.h>
#include <string.h>

#include "data/lora_internal.h"

/* --- factors ---------------------------------------------------------------------------------- */

/* A matrix: the product left x right, or `right` alone when there is no left. */
typedef struct product {
    float *left, *right;
    int64_t rank, n; /* right is [rank,n] */
    int64_t step_o, step_p; /* left's element [o,p] is left[o * step_o + p * step_p] */
} product;

static void free_product(product *p)
{
    ag_delete(p->left);
    ag_delete(p->right);
}

/* The values of a tensor; the caller's. NULL and a failed context when one is not finite. */
static float *read_values(ag_ctx *ctx, const data_lora *lora, const data_tensor *t)
{
    float *values = ag_new(ctx, (size_t)t->n_values, sizeof *values, t->name);
    const int64_t i = data_weights_find(lora->weights, t->name);

    if (values && data_weights_read_f32(ctx, lora->weights, i, values) == AG_OK)
        for (int64_t k = 0; k < t->n_values; k++)
            if (!isfinite(values[k])) {
                ag_fail(ctx, AG_EDATA, "%s: %s holds a value that is not finite", data_lora_path(lora), t->name);
                break;
            }
    if (ag_status_of(ctx) == AG_OK)
        return values;
    ag_delete(values);
    return NULL;
}

/* core [P,Q,k] and right [Q,I] into [P, I*k]: out[p, i*k + x] = sum_q core[p,q,x] right[q,i]. */
static float *through_core(ag_ctx *ctx, const data_lora *lora, const data_tensor *core_tensor, const float *right,
                           int64_t n_in)
{
    const int64_t p_n = core_tensor->dims[0], q_n = core_tensor->dims[1], k = core_tensor->n_values / (p_n * q_n);
    float *core = read_values(ctx, lora, core_tensor);
    float *out = NULL;

    if (core && p_n <= LORA_MAX_VALUES / k / n_in)
        out = ag_new(ctx, (size_t)(p_n * n_in * k), sizeof *out, "LoRA's middle");
    else if (core)
        ag_fail(ctx, AG_EDATA, "%s: %s is too large", data_lora_path(lora), core_tensor->name);
    for (int64_t p = 0; out && p < p_n; p++)
        for (int64_t i = 0; i < n_in; i++)
            for (int64_t x = 0; x < k; x++) {
                double sum = 0.0;

                for (int64_t q = 0; q < q_n; q++)
                    sum += (double)core[(p * q_n + q) * k + x] * right[q * n_in + i];
                out[(p * n_in + i) * k + x] = (float)sum;
            }
    ag_delete(core);
    return out;
}

/* left [O,r] (turned: [r,O]), right [r,n]; with a core the right one goes through it first. */
static ag_status read_product(product *out, ag_ctx *ctx, const data_lora *lora, const data_tensor *left,
                              const data_tensor *right, const data_tensor *core, bool turned)
{
    out->right = read_values(ctx, lora, right);
    out->rank = right->dims[0];
    out->n = right->n_values / out->rank;
    if (core && out->right) {
        float *wide = through_core(ctx, lora, core, out->right, out->n);

        ag_delete(out->right);
        out->right = wide;
        out->rank = core->dims[0];
        out->n *= core->n_values / (core->dims[0] * core->dims[1]);
    }
    if (left && ag_status_of(ctx) == AG_OK) {
        out->left = read_values(ctx, lora, left);
        out->step_o = turned ? 1 : left->n_values / left->dims[0];
        out->step_p = turned ? left->n_values / left->dims[0] : 1;
    }
    return ag_status_of(ctx);
}

/* Row o of the product. */
static void product_row(double *row, const product *p, int64_t o)
{
    if (!p->left) {
        for (int64_t j = 0; j < p->n; j++)
            row[j] = p->right[o * p->n + j];
        return;
    }
    for (int64_t j = 0; j < p->n; j++)
        row[j] = 0.0;
    for (int64_t q = 0; q < p->rank; q++) {
        const double b = p->left[o * p->step_o + q * p->step_p];
        const float *right = p->right + q * p->n;

        for (int64_t j = 0; j < p->n; j++)
            row[j] += b * right[j];
    }
}

/* --- a module's change ------------------------------------------------------------------------ */

typedef struct change {
    data_lora_kind kind;
    product first, second;
    int64_t n;       /* values of a row */
    int64_t inner_o; /* LoKr: rows of the second factor */
    double scale;
} change;

/* The rows of a factor that is stored whole, or as left x right, or with a core and left turned. */
static int64_t n_outputs(const data_tensor *whole, const data_tensor *left, const data_tensor *core)
{
    if (whole)
        return whole->dims[0];
    return core ? left->n_values / left->dims[0] : left->dims[0];
}

static ag_status read_change(change *c, ag_ctx *ctx, const data_lora *lora, const data_lora_module *m)
{
    const data_tensor *t[DATA_LORA_N_ROLES];

    for (int role = 0; role < DATA_LORA_N_ROLES; role++)
        t[role] = lora_tensor(lora, m, (data_lora_role)role);
    c->kind = m->kind;
    c->scale = m->scale;
    switch (m->kind) {
    case DATA_LORA_PLAIN:
        return read_product(&c->first, ctx, lora, t[DATA_LORA_B], t[DATA_LORA_A], t[DATA_LORA_MID], false);
    case DATA_LORA_HADAMARD:
        if (read_product(&c->first, ctx, lora, t[DATA_LORA_W1_A], t[DATA_LORA_W1_B], t[DATA_LORA_T1],
                         t[DATA_LORA_T1] != NULL) == AG_OK)
            read_product(&c->second, ctx, lora, t[DATA_LORA_W2_A], t[DATA_LORA_W2_B], t[DATA_LORA_T2],
                         t[DATA_LORA_T2] != NULL);
        return ag_status_of(ctx);
    case DATA_LORA_KRONECKER:
        if (t[DATA_LORA_W1] ? read_product(&c->first, ctx, lora, NULL, t[DATA_LORA_W1], NULL, false)
                            : read_product(&c->first, ctx, lora, t[DATA_LORA_W1_A], t[DATA_LORA_W1_B], NULL, false))
            return ag_status_of(ctx);
        if (t[DATA_LORA_W2])
            read_product(&c->second, ctx, lora, NULL, t[DATA_LORA_W2], NULL, false);
        else
            read_product(&c->second, ctx, lora, t[DATA_LORA_W2_A], t[DATA_LORA_W2_B], t[DATA_LORA_T2],
                         t[DATA_LORA_T2] != NULL);
        c->inner_o = n_outputs(t[DATA_LORA_W2], t[DATA_LORA_W2_A], t[DATA_LORA_T2]);
        return ag_status_of(ctx);
    default:
        return read_product(&c->first, ctx, lora, NULL, t[DATA_LORA_DIFF], NULL, false);
    }
}

/* Row o, scaled; `spare` has room for two rows. */
static void change_row(double *row, const change *c, int64_t o, double *spare)
{
    switch (c->kind) {
    case DATA_LORA_HADAMARD:
        product_row(row, &c->first, o);
        product_row(spare, &c->second, o);
        for (int64_t j = 0; j < c->n; j++)
            row[j] *= spare[j];
        break;
    case DATA_LORA_KRONECKER:
        product_row(spare, &c->first, o / c->inner_o);
        product_row(spare + c->n, &c->second, o % c->inner_o);
        for (int64_t b = 0; b < c->first.n; b++)
            for (int64_t j = 0; j < c->second.n; j++)
                row[b * c->second.n + j] = spare[b] * spare[c->n + j];
        break;
    default:
        product_row(row, &c->first, o);
    }
    for (int64_t j = 0; j < c->n; j++)
        row[j] *= c->scale;
}

/* W' = m (W + D) / ||W + D|| of one row; the row becomes W' - W. */
static void decompose_row(double *row, const float *base, int64_t n, double magnitude)
{
    double sum = 0.0;

    for (int64_t j = 0; j < n; j++) {
        row[j] += base[j];
        sum += row[j] * row[j];
    }
    for (int64_t j = 0; j < n; j++)
        row[j] = (sum > 0.0 ? magnitude / sqrt(sum) * row[j] : 0.0) - base[j];
}

/* The same along columns, over the whole weight of n_o rows of n_i inputs of k values. */
static ag_status decompose_columns(ag_ctx *ctx, float *out, const float *base, const float *magnitude, int64_t n_o,
                                   int64_t n_i, int64_t k)
{
    double *sums = ag_new(ctx, (size_t)n_i, sizeof *sums, "norms");

    if (!sums)
        return ag_status_of(ctx);
    for (int64_t o = 0; o < n_o; o++)
        for (int64_t j = 0; j < n_i * k; j++) {
            const double v = (double)out[o * n_i * k + j] + base[o * n_i * k + j];
            sums[j / k] += v * v;
        }
    for (int64_t o = 0; o < n_o; o++)
        for (int64_t j = 0; j < n_i * k; j++) {
            const int64_t at = o * n_i * k + j;
            const double v = (double)out[at] + base[at], norm = sqrt(sums[j / k]);
            out[at] = (float)((norm > 0.0 ? magnitude[j / k] / norm * v : 0.0) - base[at]);
        }
    ag_delete(sums);
    return AG_OK;
}

bool data_lora_changes_weight(const data_lora_module *m)
{
    return m->kind != DATA_LORA_BIAS_ONLY && (m->kind != DATA_LORA_WHOLE || m->tensor[DATA_LORA_DIFF] >= 0);
}

bool data_lora_changes_bias(const data_lora_module *m)
{
    return m->tensor[DATA_LORA_B_BIAS] >= 0 || m->tensor[DATA_LORA_DIFF_BIAS] >= 0;
}

ag_status data_lora_change(ag_ctx *ctx, const data_lora *lora, int64_t i, const data_named_shape *weight,
                           const float *base, float *out)
{
    const data_lora_module *m = data_lora_at(lora, i);
    const data_tensor *magnitude_tensor = base ? lora_tensor(lora, m, DATA_LORA_MAGNITUDE) : NULL;
    const int64_t n_o = weight->n_dims > 0 ? weight->dims[0] : 1, n_i = weight->n_dims > 1 ? weight->dims[1] : 1;
    const int threads = ag_ctx_threads(ctx);
    float *magnitude = NULL;
    double *rows = NULL;
    change c = {0};
    int64_t k = 1;

    for (int d = 2; d < weight->n_dims; d++)
        k *= weight->dims[d];
    c.n = n_i * k;
    if (lora_check_shape(ctx, lora, m, weight) != AG_OK || read_change(&c, ctx, lora, m) != AG_OK)
        goto out;
    magnitude = magnitude_tensor ? read_values(ctx, lora, magnitude_tensor) : NULL;
    rows = ag_new(ctx, 3 * (size_t)c.n * (size_t)threads, sizeof *rows, "rows of a weight");
    if (ag_status_of(ctx) != AG_OK)
        goto out;
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) {
        double *row = rows + 3 * c.n * t;

        for (int64_t o = n_o * t / threads; o < n_o * (t + 1) / threads; o++) {
            change_row(row, &c, o, row + c.n);
            if (magnitude && !m->norm_along_rows)
                decompose_row(row, base + o * c.n, c.n, magnitude[o]);
            for (int64_t j = 0; j < c.n; j++)
                out[o * c.n + j] = (float)row[j];
        }
    }
    if (magnitude && m->norm_along_rows)
        decompose_columns(ctx, out, base, magnitude, n_o, n_i, k);
out:
    ag_delete(rows);
    ag_delete(magnitude);
    free_product(&c.first);
    free_product(&c.second);
    return ag_status_of(ctx);
}

ag_status data_lora_bias_change(ag_ctx *ctx, const data_lora *lora, int64_t i, int64_t n, float *out)
{
    const data_lora_module *m = data_lora_at(lora, i);
    const data_lora_role roles[] = {DATA_LORA_B_BIAS, DATA_LORA_DIFF_BIAS};

    memset(out, 0, (size_t)n * sizeof *out);
    for (int r = 0; r < 2 && ag_status_of(ctx) == AG_OK; r++) {
        const data_tensor *t = lora_tensor(lora, m, roles[r]);
        const double scale = roles[r] == DATA_LORA_B_BIAS ? m->scale : 1.0;
        float *values = t ? read_values(ctx, lora, t) : NULL;

        for (int64_t k = 0; values && k < n; k++)
            out[k] += (float)(scale * values[k]);
        ag_delete(values);
    }
    return ag_status_of(ctx);
}
