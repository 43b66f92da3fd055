/* test_cpu_layout.c - sums over axes, permutations, copies, look-up and the image kernels, against
 * plain index loops; every adjoint through <w, A x> = <A^T w, x> with random x and w.
 */
#include "autograd/cpu/image.h"
#include "autograd/cpu/layout.h"

#include "tests/cpu_check.h"

static int64_t product_of(int n_dims, const int64_t *dims)
{
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= dims[i];
    return n;
}

/* --- sums ------------------------------------------------------------------------------------- */

static void sum_case(int n_dims, const int64_t *dims, unsigned axes, int isa)
{
    const int64_t n = product_of(n_dims, dims);
    int64_t kept = 1;
    uint64_t seed = axes + 5;
    float *x = check_random(n, &seed, 0.5, 1), *y, *y1;
    double *want;
    void *scratch = check_scratch(cpu_sum_scratch(n_dims, dims, axes));

    for (int i = 0; i < n_dims; i++)
        kept *= axes >> i & 1 ? 1 : dims[i];
    y = check_floats(kept);
    y1 = check_floats(kept);
    want = check_doubles(NULL, kept);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, at = 0, step = 1;
        for (int k = n_dims - 1; k >= 0; k--) {
            if (!(axes >> k & 1)) {
                at += rest % dims[k] * step;
                step *= dims[k];
            }
            rest /= dims[k];
        }
        want[at] += 0.25 * x[i];
    }
    cpu_sum(y, x, n_dims, dims, axes, 0.25, scratch, 2, isa);
    check_near("sum", isa, y, want, kept, 1e-7);
    cpu_sum(y1, x, n_dims, dims, axes, 0.25, scratch, 1, isa);
    check_same("sum", isa, y, y1, kept);
    free(x);
    free(y);
    free(y1);
    free(want);
    free(scratch);
}

static void sum_of(int isa)
{
    const int64_t five[] = {3, 4, 1, 5, 7}, tall[] = {3001, 19}, wide[] = {2, 70001};
    const int64_t deep[] = {130, 9, 5}, empty[] = {3, 0};

    for (unsigned axes = 0; axes < 32; axes++)
        sum_case(5, five, axes, isa);
    for (unsigned axes = 0; axes < 4; axes++) {
        sum_case(2, tall, axes, isa);
        sum_case(2, wide, axes, isa);
        sum_case(2, empty, axes, isa);
    }
    for (unsigned axes = 0; axes < 8; axes++)
        sum_case(3, deep, axes, isa);
    sum_case(0, NULL, 0xffffffffu, isa);
}
static void test_sum(void **state)
{
    (void)state;
    check_each_isa(sum_of);
}

/* --- moving elements -------------------------------------------------------------------------- */

static void permute_case(int n_dims, const int64_t *dims, const int *axes)
{
    const int64_t n = product_of(n_dims, dims);
    uint64_t seed = 8;
    float *x = check_random(n, &seed, 0, 1), *y = check_floats(n);
    int64_t y_dims[8] = {0};

    for (int j = 0; j < n_dims; j++)
        y_dims[j] = dims[axes[j]];
    cpu_permute(y, x, n_dims, dims, axes, 2);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, index[8] = {0}, at = 0;
        for (int j = n_dims - 1; j >= 0; j--) {
            index[axes[j]] = rest % y_dims[j];
            rest /= y_dims[j];
        }
        for (int k = 0; k < n_dims; k++)
            at = at * dims[k] + index[k];
        assert_true(y[i] == x[at]);
    }
    free(x);
    free(y);
}

static void test_permute(void **state)
{
    const int64_t dims[] = {2, 35, 1, 67}, square[] = {70, 70}, six[] = {2, 3, 1, 2, 4, 3};

    (void)state;
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++)
            for (int c = 0; c < 4; c++)
                if (a != b && b != c && a != c)
                    permute_case(4, dims, (int[]){a, b, c, 6 - a - b - c});
    permute_case(2, square, (int[]){1, 0});
    permute_case(6, six, (int[]){5, 0, 3, 2, 4, 1});
    permute_case(6, six, (int[]){3, 4, 5, 0, 1, 2});
    permute_case(0, NULL, NULL);
}

static void test_rows(void **state)
{
    const int64_t dims[] = {2, 3, 4}, x_dims[] = {2, 1, 4}, column[] = {2, 3, 1};
    float x[8], y[24], z[6] = {0, 1, 2, 3, 4, 5};
    float wide[12], part[4] = {1, 2, 3, 4};
    const int64_t ids[] = {2, 0, 2};
    float table[] = {1, 2, 3, 4, 5, 6}, rows[6], grad[8];

    (void)state;
    for (int i = 0; i < 8; i++)
        x[i] = (float)i;
    cpu_broadcast(y, x, 3, dims, x_dims, 2);
    for (int i = 0; i < 24; i++)
        assert_true(y[i] == (float)(i / 12 * 4 + i % 4));
    cpu_broadcast(y, z, 3, dims, column, 2);
    for (int i = 0; i < 24; i++)
        assert_true(y[i] == (float)(i / 4));

    for (int i = 0; i < 12; i++)
        wide[i] = 9;
    cpu_copy_rows(wide + 1, 6, part, 2, 2, 2, sizeof *part, 2);
    cpu_add_rows(wide + 3, 6, part, 2, 2, 2, 1);
    const float want[] = {9, 1, 2, 10, 11, 9, 9, 3, 4, 12, 13, 9};
    assert_memory_equal(wide, want, sizeof want);

    cpu_embedding(rows, table, ids, 3, 2, 2);
    const float want_rows[] = {5, 6, 1, 2, 5, 6};
    assert_memory_equal(rows, want_rows, sizeof want_rows);
    cpu_embedding_grad(grad, table, ids, 3, 2, 4, 2);
    const float want_grad[] = {3, 4, 0, 0, 6, 8, 0, 0};
    assert_memory_equal(grad, want_grad, sizeof want_grad);
}

/* --- images ----------------------------------------------------------------------------------- */

/* <w, A x> and <A^T w, x> */
static void adjoint(const char *what, const float *x, const float *dx, int64_t n, const float *y,
                    const float *w, int64_t m)
{
    double left = 0.0, right = 0.0, size = 0.0;

    for (int64_t i = 0; i < m; i++) {
        left += (double)w[i] * y[i];
        size += fabs((double)w[i] * y[i]);
    }
    for (int64_t i = 0; i < n; i++)
        right += (double)dx[i] * x[i];
    if (!(fabs(left - right) <= 3e-7 * size))
        fail_msg("%s: <w,Ax> %.9g, <A'w,x> %.9g", what, left, right);
}

static void test_upsample_and_pool(void **state)
{
    static const int64_t out[][2] = {{10, 14}, {5, 7}, {13, 9}, {3, 2}, {1, 1}, {64, 50}};
    const cpu_picture in = {2, 5, 7, 3};
    const int64_t n = in.n * in.h * in.w * in.c;
    uint64_t seed = 4;
    float *x = check_random(n, &seed, 0, 1), *dx = check_floats(n);

    (void)state;
    for (size_t t = 0; t < sizeof out / sizeof *out; t++) {
        const int64_t oh = out[t][0], ow = out[t][1], m = in.n * oh * ow * in.c;
        float *w = check_random(m, &seed, 0, 1), *y = check_floats(m);

        cpu_upsample_nearest(y, x, sizeof *x, in, oh, ow, 2);
        cpu_upsample_nearest_adjoint(dx, w, in, oh, ow, 2);
        for (int64_t i = 0; i < m; i++) {
            const int64_t c = i % 3, j = i / 3 % ow, r = i / 3 / ow % oh, s = i / 3 / ow / oh;
            assert_true(y[i] == x[((s * 5 + r * 5 / oh) * 7 + j * 7 / ow) * 3 + c]);
        }
        adjoint("upsample", x, dx, n, y, w, m);
        free(w);
        free(y);
    }
    for (int64_t k = 1; k <= 4; k++) {
        const int64_t oh = 5 / k, ow = 7 / k, m = in.n * oh * ow * in.c;
        float *w = check_random(m, &seed, 0, 1), *y = check_floats(m);

        cpu_avg_pool(y, x, in, k, 2);
        cpu_avg_pool_adjoint(dx, w, in, k, 2);
        for (int64_t i = 0; i < m; i++) {
            const int64_t c = i % 3, j = i / 3 % ow, r = i / 3 / ow % oh, s = i / 3 / ow / oh;
            double mean = 0.0;
            for (int64_t a = 0; a < k * k; a++)
                mean += x[((s * 5 + r * k + a / k) * 7 + j * k + a % k) * 3 + c] / (double)(k * k);
            assert_true(fabs(y[i] - mean) < 2e-7);
        }
        adjoint("pool", x, dx, n, y, w, m);
        free(w);
        free(y);
    }
    free(x);
    free(dx);
}

static int64_t pad_index(ag_pad_mode mode, int64_t i, int64_t size)
{
    if (mode == AG_PAD_ZERO)
        return i < 0 || i >= size ? -1 : i;
    if (mode == AG_PAD_REPLICATE)
        return i < 0 ? 0 : i >= size ? size - 1 : i;
    return llabs(i) < size ? llabs(i) : 2 * size - 2 - i;
}

static void test_pad(void **state)
{
    static const int64_t pads[][4] = {{0, 0, 0, 0}, {1, 2, 3, 0}, {4, 4, 2, 6}, {0, 3, 5, 5}};
    const cpu_picture in = {2, 5, 7, 3};
    const int64_t n = in.n * in.h * in.w * in.c;
    uint64_t seed = 12;
    float *x = check_random(n, &seed, 0, 1), *dx = check_floats(n);

    (void)state;
    for (int mode = AG_PAD_ZERO; mode <= AG_PAD_REPLICATE; mode++)
        for (int t = 0; t < 4; t++) {
            const int64_t *p = pads[t], oh = 5 + p[0] + p[1], ow = 7 + p[2] + p[3];
            const int64_t m = in.n * oh * ow * in.c;
            float *w = check_random(m, &seed, 0, 1), *y = check_floats(m);

            cpu_pad(y, x, in, mode, p[0], p[1], p[2], p[3], 2);
            cpu_pad_adjoint(dx, w, in, mode, p[0], p[1], p[2], p[3], 2);
            for (int64_t i = 0; i < m; i++) {
                const int64_t c = i % 3, s = i / 3 / ow / oh;
                const int64_t j = pad_index(mode, i / 3 % ow - p[2], 7);
                const int64_t r = pad_index(mode, i / 3 / ow % oh - p[0], 5);
                assert_true(y[i] == (j < 0 || r < 0 ? 0.0f : x[((s * 5 + r) * 7 + j) * 3 + c]));
            }
            adjoint("pad", x, dx, n, y, w, m);
            free(w);
            free(y);
        }
    free(x);
    free(dx);
}

/* By the definition in three steps on one axis pair: stretch, pad, correlate and thin. */
static double upfirdn_at(const float *x, const float *filter, cpu_picture in, cpu_upfirdn s,
                         int64_t n, int64_t row, int64_t col, int64_t c)
{
    double sum = 0.0;

    for (int64_t fy = 0; fy < s.fh; fy++)
        for (int64_t fx = 0; fx < s.fw; fx++)
            for (int64_t i = 0; i < in.h; i++)
                for (int64_t j = 0; j < in.w; j++)
                    if (i * s.up == row * s.down + fy - s.top &&
                        j * s.up == col * s.down + fx - s.left)
                        sum += (double)filter[fy * s.fw + fx] *
                               x[((n * in.h + i) * in.w + j) * in.c + c];
    return sum;
}

static void test_upfirdn(void **state)
{
    static const cpu_upfirdn cases[] = {
        {1, 1, 1, 1, 0, 0, 0, 0}, {2, 1, 4, 4, 2, 1, 2, 1}, {1, 2, 4, 4, 1, 1, 1, 1},
        {2, 3, 3, 2, 0, 2, 4, 1}, {1, 1, 3, 3, -1, 1, 1, -2}, {3, 2, 5, 1, 2, 2, 0, 0},
    };
    const cpu_picture in = {2, 5, 6, 3};
    const int64_t n = in.n * in.h * in.w * in.c;
    uint64_t seed = 31;
    float *x = check_random(n, &seed, 0, 1), *dx = check_floats(n);

    (void)state;
    for (size_t t = 0; t < sizeof cases / sizeof *cases; t++) {
        const cpu_upfirdn s = cases[t];
        const int64_t oh = cpu_upfirdn_size(in.h, s.up, s.down, s.fh, s.top, s.bottom);
        const int64_t ow = cpu_upfirdn_size(in.w, s.up, s.down, s.fw, s.left, s.right);
        const int64_t m = in.n * oh * ow * in.c;
        float *filter = check_random(s.fh * s.fw, &seed, 0, 1);
        float *w = check_random(m, &seed, 0, 1), *y = check_floats(m);

        cpu_upfirdn2d(y, x, filter, in, s, 2);
        cpu_upfirdn2d_adjoint(dx, w, filter, in, s, 2);
        for (int64_t i = 0; i < m; i++)
            assert_true(fabs(y[i] - upfirdn_at(x, filter, in, s, i / in.c / ow / oh,
                                               i / in.c / ow % oh, i / in.c % ow, i % in.c)) <
                        1e-6);
        adjoint("upfirdn", x, dx, n, y, w, m);
        free(filter);
        free(w);
        free(y);
    }
    free(x);
    free(dx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_permute),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_upsample_and_pool),
        cmocka_unit_test(test_pad),
        cmocka_unit_test(test_upfirdn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
