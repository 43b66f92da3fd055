/* test_cpu_gemm.c - matrix products against their definition in double.
 *
 * Every instruction set of this machine; sizes around the register tiles and blocks; both
 * transposes; row strides with a margin that must stay untouched; batches; bf16 within its
 * rounding; one, two and three threads with the same bits.
 */
#include "autograd/cpu/gemm.h"

#include "tests/cpu_check.h"

enum { MARGIN = 3 };

typedef struct product {
    int64_t m, n, k, batch;
    bool transpose_a, transpose_b, shared_b, with_bias;
    bool with_plus; /* what C held is added from elsewhere; beta is 0 */
    ag_dtype a_type, b_type, c_type;
    float alpha, beta;
    int64_t margin; /* row strides are this much larger than a row */
} product;

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits += 0x7fff + (bits >> 16 & 1);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* n random numbers of a type, such that bf16 holds them when `rounded`; *values gets what they are
 * exactly. */
static void *operand_new(ag_dtype type, bool rounded, int64_t n, uint64_t *seed, double **values)
{
    float *x = check_random(n, seed, 0.0, 1.0);
    uint16_t *half = malloc((size_t)(n > 0 ? n : 1) * sizeof *half);

    assert_non_null(half);
    for (int64_t i = 0; (rounded || type == AG_BF16) && i < n; i++) {
        half[i] = to_bf16(x[i]);
        x[i] = from_bf16(half[i]);
    }
    *values = check_doubles(x, n > 0 ? n : 0);
    free(type == AG_BF16 ? (void *)x : half);
    return type == AG_BF16 ? (void *)half : x;
}

static void compare(const product *p, int isa)
{
    const int64_t a_rows = p->transpose_a ? p->k : p->m, a_cols = p->transpose_a ? p->m : p->k;
    const int64_t b_rows = p->transpose_b ? p->n : p->k, b_cols = p->transpose_b ? p->k : p->n;
    const int64_t lda = a_cols + p->margin, ldb = b_cols + p->margin, ldc = p->n + p->margin;
    const int64_t size_a = a_rows * lda, size_b = b_rows * ldb, size_c = p->m * ldc;
    const int64_t n_b = p->shared_b ? 1 : p->batch;
    uint64_t seed = 7;
    double *a, *b, *c0, *want = check_doubles(NULL, size_c * p->batch);
    void *a_data = operand_new(p->a_type, false, size_a * p->batch, &seed, &a);
    void *b_data = operand_new(p->b_type, p->a_type == AG_BF16, size_b * n_b, &seed, &b);
    void *c_data = operand_new(p->c_type, false, size_c * p->batch, &seed, &c0);
    const size_t c_bytes = (size_t)(size_c * p->batch) * (p->c_type == AG_F32 ? 4 : 2);
    void *got = malloc(c_bytes ? c_bytes : 1), *first = malloc(c_bytes ? c_bytes : 1);
    float *bias = p->with_bias ? check_random(p->n, &seed, 0.5, 1.0) : NULL;
    const int64_t width = p->c_type == AG_F32 ? 4 : 2;
    const double rounding = p->c_type == AG_F32 ? 0 : 1.0 / 256;

    assert_true(got && first);
    for (int64_t s = 0; s < p->batch; s++)
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->n; j++) {
                double sum = 0.0;
                for (int64_t l = 0; l < p->k; l++)
                    sum += a[s * size_a + (p->transpose_a ? l * lda + i : i * lda + l)] *
                           b[(p->shared_b ? 0 : s) * size_b +
                             (p->transpose_b ? j * ldb + l : l * ldb + j)];
                sum = p->alpha * sum + (bias ? bias[j] : 0.0);
                if (p->beta != 0 || p->with_plus)
                    sum += (p->with_plus ? 1.0 : (double)p->beta) * c0[s * size_c + i * ldc + j];
                want[s * size_c + i * ldc + j] = sum;
            }
    for (int n_threads = 1; n_threads <= (p->batch > 1 ? 3 : 2); n_threads++) {
        cpu_state *state = cpu_state_new(n_threads);
        cpu_gemm_call call = {
            .m = p->m, .n = p->n, .k = p->k, .a = a_data, .b = b_data, .c = got,
            .transpose_a = p->transpose_a, .transpose_b = p->transpose_b,
            .lda = p->margin ? lda : 0, .ldb = p->margin ? ldb : 0, .ldc = p->margin ? ldc : 0,
            .a_type = p->a_type, .b_type = p->b_type, .c_type = p->c_type,
            .batch = p->batch, .stride_a = size_a, .stride_b = p->shared_b ? 0 : size_b,
            .stride_c = size_c, .alpha = p->alpha, .beta = p->beta, .bias = bias,
            .plus = p->with_plus ? c_data : NULL,
        };
        void *scratch;

        assert_non_null(state);
        cpu_state_cap_isa(state, (cpu_isa)isa);
        memcpy(got, c_data, c_bytes);
        for (int64_t at = 0; p->with_plus && at < size_c * p->batch; at++)
            if (at % ldc < p->n) /* a NaN of either type */
                memset((char *)got + at * width, 0xff, (size_t)width);
        scratch = check_scratch(cpu_gemm_scratch(state, &call));
        assert_true(cpu_gemm(state, &call, scratch));
        if (n_threads == 1)
            memcpy(first, got, c_bytes);
        else if (strncmp(cpu_gemm_kernel_name(state, &call), "own", 3) == 0)
            assert_memory_equal(got, first, c_bytes);
        for (int64_t at = 0; at < size_c * p->batch; at++) {
            const double value =
                p->c_type == AG_F32 ? ((float *)got)[at] : from_bf16(((uint16_t *)got)[at]);
            const double tolerance = 1.5e-7 * sqrt((double)p->k + 1) * (5 + fabs(want[at])) +
                                     rounding * fabs(want[at]);
            if (at % ldc >= p->n) {
                if (value != c0[at])
                    fail_msg("isa %d: margin of C at %lld was written", isa, (long long)at);
            } else if (!(fabs(value - want[at]) <= tolerance)) {
                fail_msg("isa %d %s: %lldx%lldx%lld batch %lld %d%d: C[%lld] is %.9g, want %.9g",
                         isa, cpu_gemm_kernel_name(state, &call), (long long)p->m, (long long)p->n,
                         (long long)p->k, (long long)p->batch, p->transpose_a, p->transpose_b,
                         (long long)at, value, want[at]);
            }
        }
        free(scratch);
        cpu_state_free(state);
    }
    free(a), free(b), free(c0), free(want), free(a_data), free(b_data), free(c_data), free(got);
    free(first), free(bias);
}

static void sizes_of(int isa)
{
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {1, 7, 5}, {5, 1, 9}, {6, 16, 8}, {7, 17, 9}, {13, 31, 3}, {14, 32, 64},
        {15, 33, 65}, {29, 70, 130}, {64, 48, 17}, {3, 200, 40}, {130, 5, 300}, {1, 513, 700},
        {97, 101, 771},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int t = 0; t < 4; t++) {
            product p = {.m = sizes[i][0], .n = sizes[i][1], .k = sizes[i][2], .batch = 1,
                         .transpose_a = t & 1, .transpose_b = t & 2, .alpha = 1};
            compare(&p, isa);
            p.margin = MARGIN, p.with_bias = true, p.alpha = 0.75f, p.beta = i % 2 ? 1 : -0.5f;
            compare(&p, isa);
            p.beta = 0, p.with_plus = true;
            compare(&p, isa);
        }
}

static void batches_of(int isa)
{
    for (int t = 0; t < 8; t++) {
        product p = {.m = 9, .n = 21, .k = 34, .batch = 5, .transpose_a = t & 1,
                     .transpose_b = t & 2, .shared_b = t & 4, .alpha = 1, .with_bias = t == 3};
        compare(&p, isa);
        p.m = 77, p.n = 130, p.k = 40, p.batch = 2, p.margin = MARGIN, p.with_plus = t & 1;
        compare(&p, isa);
    }
}

static void bf16_of(int isa)
{
    static const int64_t sizes[][3] = {{1, 1, 1},     {9, 21, 34},    {37, 64, 300},  {64, 33, 600},
                                       {3, 40, 70},   {40, 50, 4800}, {33, 130, 160}, {100, 77, 64},
                                       {1, 50, 96},   {21, 200, 64},  {70, 170, 4800}};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int t = 0; t < 64; t++) {
            const bool rounds_once = isa >= CPU_ISA_AMX && sizes[i][0] > 4;
            const product p = {.m = sizes[i][0], .n = sizes[i][1], .k = sizes[i][2],
                               .batch = t & 4 ? 2 : 1, .shared_b = true,
                               .transpose_a = t & 1, .transpose_b = t & 2, .alpha = 1,
                               .with_bias = t & 1, .a_type = AG_BF16,
                               .b_type = t & 8 ? AG_BF16 : AG_F32,
                               .c_type = t & 16 ? AG_BF16 : AG_F32,
                               .beta = t & 32 ? 1 : 0,
                               .with_plus = !(t & 32) && t & 2 && (rounds_once || !(t & 16)),
                               .margin = t & 32 ? 32 : 0};
            if (p.k < 1000 || t == 2 || t == 26 || t == 33)
                compare(&p, isa);
        }
}

static void empty_of(int isa)
{
    const product nothing_summed = {.m = 5, .n = 6, .k = 0, .batch = 1, .alpha = 1, .beta = 2,
                                    .with_bias = true};
    const product nothing_but_plus = {.m = 5, .n = 6, .k = 0, .batch = 1, .alpha = 1, .with_plus = true};
    const product no_rows = {.m = 0, .n = 6, .k = 4, .batch = 1, .alpha = 1};
    const product no_columns = {.m = 3, .n = 0, .k = 4, .batch = 1, .alpha = 1};

    compare(&nothing_summed, isa);
    compare(&nothing_but_plus, isa);
    compare(&no_rows, isa);
    compare(&no_columns, isa);
}

static void nan_of(int isa)
{
    float a[4] = {1, NAN, 2, 3}, b[4] = {1, 0, 0, 1}, c[4] = {NAN, NAN, NAN, NAN};
    cpu_state *state = cpu_state_new(1);
    const cpu_gemm_call call = {.m = 2, .n = 2, .k = 2, .a = a, .b = b, .c = c, .alpha = 1};
    void *scratch;

    cpu_state_cap_isa(state, (cpu_isa)isa);
    scratch = check_scratch(cpu_gemm_scratch(state, &call));
    assert_true(cpu_gemm(state, &call, scratch));
    assert_true(c[0] != c[0] && c[1] != c[1]); /* 0 times NaN is NaN, as in the definition */
    assert_true(c[2] == 2 && c[3] == 3);       /* beta 0: what C held is not looked at */
    free(scratch);
    cpu_state_free(state);
}

static void test_sizes(void **unused)
{
    (void)unused;
    check_each_isa(sizes_of);
}

static void test_batches(void **unused)
{
    (void)unused;
    check_each_isa(batches_of);
}

static void test_bf16(void **unused)
{
    (void)unused;
    check_each_isa(bf16_of);
}

static void test_empty(void **unused)
{
    (void)unused;
    check_each_isa(empty_of);
}

static void test_nan(void **unused)
{
    (void)unused;
    check_each_isa(nan_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_batches), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_empty), cmocka_unit_test(test_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
