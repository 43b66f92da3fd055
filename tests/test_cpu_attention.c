/* test_cpu_attention.c - the attention kernels against their definition in double loops.
 *
 * Method  The reference computes probabilities row by row in double and its gradient by the chain
 *         rule; the gradient formulas themselves are checked against central differences of the
 *         reference on a small case. Cotangents are random.
 * bf16    The kernels for bf16 tensors get numbers that bf16 holds; the bounds allow for the rounding of
 *         probabilities and results to bf16, 2^-9 each.
 * Sizes   Head sizes of Stable Diffusion and odd ones, one key, 77 keys, lengths around the block
 *         sizes, packed q, k, v with a row stride.
 */
#include "autograd/cpu/attention.h"

#include "autograd/numbers.h"
#include "tests/cpu_check.h"

enum { BF16 = CPU_N_ISA }; /* in place of an instruction set: the kernels for bf16 tensors */

static void check_each(void (*test)(int isa))
{
    check_each_isa(test);
    if (cpu_attention_takes_bf16((int)cpu_isa_here()))
        test(BF16);
}

/* n numbers rounded to bf16, on the heap. */
static uint16_t *halves(const float *x, int64_t n)
{
    uint16_t *y = malloc((size_t)(n ? n : 1) * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < n; i++)
        y[i] = ag_bf16_of_f32(x[i]);
    return y;
}

static void round_to_bf16(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = ag_f32_of_bf16(ag_bf16_of_f32(x[i]));
}

/* Widen n numbers and free them. */
static void widen(float *y, uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = ag_f32_of_bf16(x[i]);
    free(x);
}

typedef struct reference {
    double *out, *lse, *dq, *dk, *dv;
} reference;

/* Row strides are those of q, k, v; out and gradients are dense. */
static void reference_row(const cpu_attention *a, const double *q, const double *k, int64_t ld,
                          int64_t query, double *p, double *lse)
{
    const int64_t seen = a->causal && query + 1 < a->tk ? query + 1 : a->tk;
    double top = -INFINITY, sum = 0.0;

    for (int64_t j = 0; j < a->tk; j++) {
        p[j] = 0.0;
        for (int64_t i = 0; i < a->d; i++)
            p[j] += q[i] * k[j * ld + i];
        p[j] *= a->scale;
        if (j < seen && p[j] > top)
            top = p[j];
    }
    for (int64_t j = 0; j < a->tk; j++) {
        p[j] = j < seen ? exp(p[j] - top) : 0.0;
        sum += p[j];
    }
    for (int64_t j = 0; j < a->tk; j++)
        p[j] /= sum;
    *lse = top + log(sum);
}

/* qkv: [N,T,ld] each. Gradients are of sum(w * out). */
static reference reference_new(const cpu_attention *a, const double *q, const double *k,
                               const double *v, int64_t ld, const double *w)
{
    const int64_t c = a->heads * a->d;
    double *p = calloc((size_t)a->tk, sizeof *p), *dp = calloc((size_t)a->tk, sizeof *dp);
    reference r = {.out = check_doubles(NULL, a->n * a->tq * c),
                   .lse = check_doubles(NULL, a->n * a->heads * a->tq),
                   .dq = check_doubles(NULL, a->n * a->tq * c),
                   .dk = check_doubles(NULL, a->n * a->tk * c),
                   .dv = check_doubles(NULL, a->n * a->tk * c)};

    for (int64_t n = 0; n < a->n; n++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->tq; i++) {
                const double *qi = q + (n * a->tq + i) * ld + h * a->d;
                const double *kh = k + n * a->tk * ld + h * a->d;
                const double *vh = v + n * a->tk * ld + h * a->d;
                const int64_t at = (n * a->tq + i) * c + h * a->d;
                double mean = 0.0;

                reference_row(a, qi, kh, ld, i, p, &r.lse[(n * a->heads + h) * a->tq + i]);
                for (int64_t j = 0; j < a->tk; j++) {
                    dp[j] = 0.0;
                    for (int64_t e = 0; e < a->d; e++) {
                        r.out[at + e] += p[j] * vh[j * ld + e];
                        dp[j] += w[at + e] * vh[j * ld + e];
                        r.dv[(n * a->tk + j) * c + h * a->d + e] += p[j] * w[at + e];
                    }
                    mean += p[j] * dp[j];
                }
                for (int64_t j = 0; j < a->tk; j++)
                    for (int64_t e = 0; e < a->d; e++) {
                        const double ds = a->scale * p[j] * (dp[j] - mean);
                        r.dq[at + e] += ds * kh[j * ld + e];
                        r.dk[(n * a->tk + j) * c + h * a->d + e] += ds * qi[e];
                    }
            }
    free(p);
    free(dp);
    return r;
}

static void reference_free(reference *r)
{
    free(r->out);
    free(r->lse);
    free(r->dq);
    free(r->dk);
    free(r->dv);
}

/* The kernels' results, dense. */
typedef struct result {
    float *out, *lse, *dq, *dk, *dv;
} result;

/* The length of q, k, v with a row stride: the last row ends with its last number. */
static int64_t rows_length(const cpu_attention *a, int64_t rows, int64_t ld)
{
    return (rows - 1) * ld + a->heads * a->d;
}

static void run_bf16(result *r, const cpu_attention *a, const float *q, const float *k, const float *v,
                     int64_t ld, const float *w, int n_threads)
{
    const int64_t c = a->heads * a->d, nq = a->n * a->tq, nk = a->n * a->tk;
    uint16_t *in[4] = {halves(q, rows_length(a, nq, ld)), halves(k, rows_length(a, nk, ld)),
                       halves(v, rows_length(a, nk, ld)), halves(w, nq * c)};
    uint16_t *out = halves(r->out, nq * c), *dq = halves(r->dq, nq * c);
    uint16_t *dk = halves(r->dk, nk * c), *dv = halves(r->dv, nk * c);
    const cpu_attention_grad_bf16 g = {.q = in[0], .k = in[1], .v = in[2], .out = out, .dout = in[3],
                                       .lse = r->lse, .dq = dq, .dk = dk, .dv = dv, .ld_q = ld,
                                       .ld_k = ld, .ld_v = ld, .ld_out = c, .ld_dout = c, .ld_dq = c,
                                       .ld_dk = c, .ld_dv = c};
    void *scratch = check_scratch(cpu_attention_forward_bf16_scratch(a, n_threads));

    cpu_attention_forward_bf16(out, c, r->lse, a, in[0], ld, in[1], ld, in[2], ld, scratch, n_threads);
    free(scratch);
    scratch = check_scratch(cpu_attention_backward_bf16_scratch(a, n_threads));
    cpu_attention_backward_bf16(a, &g, scratch, n_threads);
    free(scratch);
    widen(r->out, out, nq * c);
    widen(r->dq, dq, nq * c);
    widen(r->dk, dk, nk * c);
    widen(r->dv, dv, nk * c);
    for (int i = 0; i < 4; i++)
        free(in[i]);
}

static void run_f32(result *r, const cpu_attention *a, const float *q, const float *k, const float *v,
                    int64_t ld, const float *w, int n_threads, int isa)
{
    const int64_t c = a->heads * a->d;
    const cpu_attention_grad g = {.q = q, .k = k, .v = v, .out = r->out, .dout = w, .lse = r->lse,
                                  .dq = r->dq, .dk = r->dk, .dv = r->dv, .ld_q = ld, .ld_k = ld,
                                  .ld_v = ld, .ld_out = c, .ld_dout = c, .ld_dq = c, .ld_dk = c,
                                  .ld_dv = c};
    void *scratch = check_scratch(cpu_attention_forward_scratch(a, n_threads, isa));

    cpu_attention_forward(r->out, c, r->lse, a, q, ld, k, ld, v, ld, scratch, n_threads, isa);
    free(scratch);
    scratch = check_scratch(cpu_attention_backward_scratch(a, n_threads, isa));
    cpu_attention_backward(a, &g, scratch, n_threads, isa);
    free(scratch);
}

static result result_new(const cpu_attention *a, const float *q, const float *k, const float *v,
                         int64_t ld, const float *w, int n_threads, int isa)
{
    const int64_t c = a->heads * a->d;
    result r = {.out = check_floats(a->n * a->tq * c),
                .lse = check_floats(a->n * a->heads * a->tq),
                .dq = check_floats(a->n * a->tq * c),
                .dk = check_floats(a->n * a->tk * c),
                .dv = check_floats(a->n * a->tk * c)};

    if (isa == BF16)
        run_bf16(&r, a, q, k, v, ld, w, n_threads);
    else
        run_f32(&r, a, q, k, v, ld, w, n_threads, isa);
    return r;
}

static void result_free(result *r)
{
    free(r->out);
    free(r->lse);
    free(r->dq);
    free(r->dk);
    free(r->dv);
}

/* Of the largest number of a result. */
static const double BF16_TOLERANCE = 8e-3;

/* tolerance is for f32 */
static void compare(const cpu_attention *a, int64_t pad, double width, double tolerance, int isa)
{
    const int64_t c = a->heads * a->d, ld = c + pad;
    uint64_t seed = (uint64_t)(a->d * 1000 + a->tk + 7);
    float *q = check_random(a->n * a->tq * ld, &seed, 0, width);
    float *k = check_random(a->n * a->tk * ld, &seed, 0, width);
    float *v = check_random(a->n * a->tk * ld, &seed, 0.3, 1);
    float *w = check_random(a->n * a->tq * c, &seed, 0, 1);
    if (isa == BF16) {
        round_to_bf16(q, a->n * a->tq * ld);
        round_to_bf16(k, a->n * a->tk * ld);
        round_to_bf16(v, a->n * a->tk * ld);
        round_to_bf16(w, a->n * a->tq * c);
        tolerance = BF16_TOLERANCE;
    }
    double *qd = check_doubles(q, a->n * a->tq * ld), *kd = check_doubles(k, a->n * a->tk * ld);
    double *vd = check_doubles(v, a->n * a->tk * ld), *wd = check_doubles(w, a->n * a->tq * c);
    reference want = reference_new(a, qd, kd, vd, ld, wd);
    result got = result_new(a, q, k, v, ld, w, 1, isa), other;

    check_near("out", isa, got.out, want.out, a->n * a->tq * c, tolerance);
    check_near("lse", isa, got.lse, want.lse, a->n * a->heads * a->tq, tolerance);
    check_near("dq", isa, got.dq, want.dq, a->n * a->tq * c, tolerance);
    check_near("dk", isa, got.dk, want.dk, a->n * a->tk * c, tolerance);
    check_near("dv", isa, got.dv, want.dv, a->n * a->tk * c, tolerance);

    for (int n_threads = 2; n_threads <= (a->d == 5 || isa == BF16 ? 3 : 1); n_threads++) { /* the same bits */
        other = result_new(a, q, k, v, ld, w, n_threads, isa);
        check_same("out", isa, got.out, other.out, a->n * a->tq * c);
        check_same("dq", isa, got.dq, other.dq, a->n * a->tq * c);
        check_same("dk", isa, got.dk, other.dk, a->n * a->tk * c);
        check_same("dv", isa, got.dv, other.dv, a->n * a->tk * c);
        result_free(&other);
    }
    reference_free(&want);
    result_free(&got);
    free(q);
    free(k);
    free(v);
    free(w);
    free(qd);
    free(kd);
    free(vd);
    free(wd);
}

static void shapes_of(int isa)
{
    static const int64_t d[] = {1, 5, 37, 40, 64, 80, 160, 512};
    static const int64_t t[][2] = {{1, 1}, {5, 77}, {77, 77}, {64, 1}, {33, 130}, {131, 19}};

    for (size_t i = 0; i < sizeof d / sizeof *d; i++)
        for (size_t j = 0; j < sizeof t / sizeof *t; j++)
            for (int causal = 0; causal < 2; causal++) {
                if (d[i] == 512 && j % 2)
                    continue;
                const cpu_attention a = {.n = d[i] > 100 ? 1 : 2, .heads = d[i] > 40 ? 1 : 2,
                                         .d = d[i], .tq = t[j][0], .tk = t[j][1],
                                         .scale = 1.0f / sqrtf((float)d[i]), .causal = causal};
                compare(&a, j % 2 ? 5 : 0, 1.0, 4e-6, isa);
            }
}
static void test_shapes(void **state)
{
    (void)state;
    check_each(shapes_of);
}

/* q, k, v, their gradients and the output as slices of packed tensors, and no lse: the same bits as
 * dense ones. */
static void packed_of(int isa)
{
    const cpu_attention a = {.n = 2, .heads = 3, .d = 10, .tq = 37, .tk = 37, .scale = 0.3f};
    const int64_t c = a.heads * a.d, rows = a.n * a.tq;
    uint64_t seed = 41;
    float *qkv = check_random(rows * 3 * c, &seed, 0, 1), *w = check_random(rows * c, &seed, 0, 1);
    float *dqkv = check_floats(rows * 3 * c), *wide = check_floats(rows * 2 * c);
    float *dense[3];
    void *scratch;
    result r;

    for (int part = 0; part < 3; part++) {
        dense[part] = check_floats(rows * c);
        for (int64_t i = 0; i < rows * c; i++)
            dense[part][i] = qkv[i / c * 3 * c + part * c + i % c];
    }
    r = result_new(&a, dense[0], dense[1], dense[2], c, w, 1, isa);
    const cpu_attention_grad g = {.q = qkv, .k = qkv + c, .v = qkv + 2 * c, .out = wide,
                                  .dout = w, .lse = r.lse, .dq = dqkv, .dk = dqkv + c,
                                  .dv = dqkv + 2 * c, .ld_q = 3 * c, .ld_k = 3 * c,
                                  .ld_v = 3 * c, .ld_out = 2 * c, .ld_dout = c, .ld_dq = 3 * c,
                                  .ld_dk = 3 * c, .ld_dv = 3 * c};
    scratch = check_scratch(cpu_attention_forward_scratch(&a, 1, isa) +
                            cpu_attention_backward_scratch(&a, 1, isa));
    cpu_attention_forward(wide, 2 * c, NULL, &a, qkv, 3 * c, qkv + c, 3 * c, qkv + 2 * c, 3 * c,
                          scratch, 1, isa);
    cpu_attention_backward(&a, &g, scratch, 1, isa);
    for (int64_t row = 0; row < rows; row++) {
        const float *parts[3] = {r.dq, r.dk, r.dv};
        check_same("packed out", isa, wide + row * 2 * c, r.out + row * c, c);
        assert_true(isnan(wide[row * 2 * c + c])); /* and nothing beside it was written */
        for (int part = 0; part < 3; part++)
            check_same("packed gradient", isa, dqkv + row * 3 * c + part * c,
                       parts[part] + row * c, c);
    }
    for (int part = 0; part < 3; part++)
        free(dense[part]);
    free(qkv);
    free(w);
    free(dqkv);
    free(wide);
    free(scratch);
    result_free(&r);
}
/* The same of bf16 tensors. */
static void packed_bf16(void)
{
    const cpu_attention a = {.n = 2, .heads = 3, .d = 10, .tq = 37, .tk = 37, .scale = -0.3f};
    const int64_t c = a.heads * a.d, rows = a.n * a.tq;
    uint64_t seed = 41;
    float *random = check_random(rows * 4 * c, &seed, 0, 1), *lse = check_floats(a.n * a.heads * a.tq);
    uint16_t *qkv = halves(random, rows * 3 * c), *w = halves(random + rows * 3 * c, rows * c);
    uint16_t *grads = malloc((size_t)(rows * 3 * c) * 2), *wide = malloc((size_t)(rows * 2 * c) * 2);
    float *dense[4];
    void *scratch = check_scratch(cpu_attention_forward_bf16_scratch(&a, 2) +
                                  cpu_attention_backward_bf16_scratch(&a, 2));
    const cpu_attention_grad_bf16 g = {.q = qkv, .k = qkv + c, .v = qkv + 2 * c, .out = wide, .dout = w,
                                       .lse = lse, .dq = grads, .dk = grads + c, .dv = grads + 2 * c,
                                       .ld_q = 3 * c, .ld_k = 3 * c, .ld_v = 3 * c, .ld_out = 2 * c,
                                       .ld_dout = c, .ld_dq = 3 * c, .ld_dk = 3 * c, .ld_dv = 3 * c};
    result r;

    memset(wide, 0xff, (size_t)(rows * 2 * c) * 2);
    cpu_attention_forward_bf16(wide, 2 * c, NULL, &a, qkv, 3 * c, qkv + c, 3 * c, qkv + 2 * c, 3 * c,
                               scratch, 2);
    cpu_attention_forward_bf16(wide, 2 * c, lse, &a, qkv, 3 * c, qkv + c, 3 * c, qkv + 2 * c, 3 * c,
                               scratch, 1);
    cpu_attention_backward_bf16(&a, &g, scratch, 2);
    for (int part = 0; part < 4; part++) {
        dense[part] = check_floats(rows * c);
        for (int64_t i = 0; i < rows * c; i++)
            dense[part][i] = part < 3 ? random[i / c * 3 * c + part * c + i % c] : random[rows * 3 * c + i];
    }
    r = result_new(&a, dense[0], dense[1], dense[2], c, dense[3], 1, BF16);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < c; i++) {
            const float *parts[3] = {r.dq, r.dk, r.dv};
            assert_int_equal(wide[row * 2 * c + i], ag_bf16_of_f32(r.out[row * c + i]));
            assert_int_equal(wide[row * 2 * c + c + i], 0xffff); /* nothing beside it was written */
            for (int part = 0; part < 3; part++)
                assert_int_equal(grads[row * 3 * c + part * c + i],
                                 ag_bf16_of_f32(parts[part][row * c + i]));
        }
    for (int part = 0; part < 4; part++)
        free(dense[part]);
    free(random);
    free(lse);
    free(qkv);
    free(w);
    free(grads);
    free(wide);
    free(scratch);
    result_free(&r);
}

static void test_packed(void **state)
{
    (void)state;
    check_each_isa(packed_of);
    if (cpu_attention_takes_bf16((int)cpu_isa_here()))
        packed_bf16();
}

/* Few heads: the keys of the backward pass, or its queries when there are few keys, are cut into
 * chunks. */
static void chunks_of(int isa)
{
    compare(&(cpu_attention){.n = 1, .heads = 1, .d = 5, .tq = 1001, .tk = 50, .scale = 0.5f}, 0,
            1.0, 4e-6, isa);
    compare(&(cpu_attention){.n = 1, .heads = 1, .d = 5, .tq = 50, .tk = 2100, .scale = 0.5f}, 0,
            1.0, 4e-6, isa);
    compare(&(cpu_attention){.n = 1, .heads = 1, .d = 5, .tq = 300, .tk = 2100, .scale = 0.5f,
                             .causal = true}, 0, 1.0, 4e-6, isa);
    compare(&(cpu_attention){.n = 1, .heads = 1, .d = 130, .tq = 70, .tk = 530, .scale = 0.1f}, 0, 1.0,
            4e-6, isa);
}
static void test_chunks(void **state)
{
    (void)state;
    check_each(chunks_of);
}

/* Scores of several hundred: only one key counts, and nothing overflows. */
static void large_scores_of(int isa)
{
    compare(&(cpu_attention){.n = 1, .heads = 2, .d = 40, .tq = 70, .tk = 300, .scale = 1.0f}, 0,
            6.0, 1e-4, isa);
}
static void test_large_scores(void **state)
{
    (void)state;
    check_each(large_scores_of);
}

/* A NaN in one query spoils its row and no other; one in a key spoils every row that sees it. */
static void nan_of_keys(int isa, int64_t tk, bool causal)
{
    const cpu_attention a = {.n = 1, .heads = 1, .d = 8, .tq = 40, .tk = tk, .scale = 0.3f,
                             .causal = causal};
    const int64_t bad_key = tk / 3;
    uint64_t seed = 3;
    float *q = check_random(a.tq * a.d, &seed, 0, 1), *k = check_random(a.tk * a.d, &seed, 0, 1);
    float *v = check_random(a.tk * a.d, &seed, 0, 1), *w = check_random(a.tq * a.d, &seed, 0, 1);
    result r;

    q[7 * a.d + 2] = NAN;
    r = result_new(&a, q, k, v, a.d, w, 1, isa);
    for (int64_t i = 0; i < a.tq; i++)
        for (int64_t e = 0; e < a.d; e++)
            assert_int_equal(isnan(r.out[i * a.d + e]) != 0, i == 7);
    result_free(&r);
    q[7 * a.d + 2] = 0;
    k[bad_key * a.d] = NAN;
    r = result_new(&a, q, k, v, a.d, w, 1, isa);
    for (int64_t i = 0; i < a.tq; i++)
        assert_int_equal(isnan(r.out[i * a.d]) != 0, !causal || i >= bad_key);
    result_free(&r);
    free(q);
    free(k);
    free(v);
    free(w);
}
static void nan_of(int isa)
{
    nan_of_keys(isa, 60, true);
    nan_of_keys(isa, 600, false);
}
static void test_nan(void **state)
{
    (void)state;
    check_each(nan_of);
}

/* The reference's own gradient, against differences of its output. */
static void test_reference(void **state)
{
    const cpu_attention a = {.n = 1, .heads = 2, .d = 3, .tq = 4, .tk = 5, .scale = 0.7f,
                             .causal = true};
    const int64_t c = a.heads * a.d, size[3] = {a.tq * c, a.tk * c, a.tk * c};
    const double h = 1e-5;
    uint64_t seed = 11;
    float *f[4] = {check_random(a.tq * c, &seed, 0, 1), check_random(a.tk * c, &seed, 0, 1),
                   check_random(a.tk * c, &seed, 0, 1), check_random(a.tq * c, &seed, 0, 1)};
    double *x[4];
    reference r;

    (void)state;
    for (int i = 0; i < 4; i++)
        x[i] = check_doubles(f[i], i == 0 || i == 3 ? a.tq * c : a.tk * c);
    r = reference_new(&a, x[0], x[1], x[2], c, x[3]);
    for (int which = 0; which < 3; which++)
        for (int64_t i = 0; i < size[which]; i++) {
            const double *grad[3] = {r.dq, r.dk, r.dv};
            double loss[2];
            for (int side = 0; side < 2; side++) {
                reference moved;
                x[which][i] += side ? -2 * h : h;
                moved = reference_new(&a, x[0], x[1], x[2], c, x[3]);
                loss[side] = 0.0;
                for (int64_t j = 0; j < a.tq * c; j++)
                    loss[side] += x[3][j] * moved.out[j];
                reference_free(&moved);
            }
            x[which][i] += h;
            assert_true(fabs((loss[0] - loss[1]) / (2 * h) - grad[which][i]) < 1e-8);
        }
    reference_free(&r);
    for (int i = 0; i < 4; i++) {
        free(x[i]);
        free(f[i]);
    }
}

static void probs_of(int isa)
{
    const cpu_attention a = {.n = 2, .heads = 3, .d = 7, .tq = 9, .tk = 11, .scale = 0.4f,
                             .causal = true};
    const int64_t c = a.heads * a.d;
    uint64_t seed = 5;
    float *q = check_random(a.n * a.tq * c, &seed, 0, 1);
    float *k = check_random(a.n * a.tk * c, &seed, 0, 1);
    float *p = check_floats(a.n * a.heads * a.tq * a.tk);
    double *qd = check_doubles(q, a.n * a.tq * c), *kd = check_doubles(k, a.n * a.tk * c);
    double *want = check_doubles(NULL, a.n * a.heads * a.tq * a.tk), lse;

    for (int64_t i = 0; i < a.n * a.heads * a.tq; i++) {
        const int64_t n = i / a.tq / a.heads, h = i / a.tq % a.heads;
        reference_row(&a, qd + (n * a.tq + i % a.tq) * c + h * a.d, kd + n * a.tk * c + h * a.d, c,
                      i % a.tq, want + i * a.tk, &lse);
    }
    cpu_attention_probs(p, &a, q, c, k, c, 2, isa);
    check_near("probs", isa, p, want, a.n * a.heads * a.tq * a.tk, 5e-7);
    free(q);
    free(k);
    free(p);
    free(qd);
    free(kd);
    free(want);
}
static void test_probs(void **state)
{
    (void)state;
    check_each_isa(probs_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_packed),    cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_nan),       cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_probs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
