/* gemm.c - matrix products: which kernel runs a call, and operands of every type and order.
 *
 * bf16 operands run on our own AMX tiles, or on oneDNN where the processor multiplies bf16 without them
 * (AVX512_BF16); elsewhere they become f32 while they are packed. f32 runs on our own tiles everywhere:
 * on AVX2 they are as fast as oneDNN (80 to 110 GF/s a Zen 4 core on the shapes of
 * scripts/bench_kernels.c) or up to 1.2x faster, on AVX-512 within 8 % (100 to 109 against 105 to 110),
 * they keep no packed weights, and their bits do not depend on the number of threads.
 */
#include "autograd/cpu/gemm.h"

#include <string.h>

#include "autograd/cpu/elementwise.h"
#include "autograd/cpu/gemm_amx_internal.h"
#include "autograd/cpu/gemm_internal.h"
#include "autograd/cpu/onednn.h"

enum {
    DOTS_ROWS = 4,
    DOTS_COLUMNS = 32,
    WIDE_K = 64,
    WIDE_COLUMNS = 64, /* at least nr of every kernel */
    TURNED_ROWS = 512  /* more, and their packing costs what that of the weights would */
};

const gemm_kernels *gemm_kernels_of(int isa)
{
#if defined(__x86_64__)
    return isa >= CPU_ISA_AVX512 ? &gemm_kernels_avx512
           : isa >= CPU_ISA_AVX2 ? &gemm_kernels_avx2
                                 : &gemm_kernels_portable;
#else
    (void)isa;
    return &gemm_kernels_portable;
#endif
}

/* --- the call with its defaults filled in --------------------------------------------------- */

static cpu_gemm_call complete(const cpu_gemm_call *call)
{
    cpu_gemm_call c = *call;

    c.lda = c.lda ? c.lda : c.transpose_a ? c.m : c.k;
    c.ldb = c.ldb ? c.ldb : c.transpose_b ? c.k : c.n;
    c.ldc = c.ldc ? c.ldc : c.n;
    c.batch = c.batch ? c.batch : 1;
    return c;
}

/* A linear layer of one to four rows: reading the weights once is all the work there is. */
static bool is_dots(const cpu_gemm_call *c)
{
    return c->m <= DOTS_ROWS && c->n >= 1 && c->k >= 1 && !c->transpose_a && c->transpose_b &&
           c->batch == 1 && c->b_type == AG_F32;
}

static bool is_amx(cpu_state *state, const cpu_gemm_call *c)
{
    return cpu_state_isa(state) >= CPU_ISA_AMX && c->a_type == AG_BF16 && c->alpha == 1.0f &&
           (c->beta == 0.0f || c->beta == 1.0f) && c->m >= 1 && c->n >= 1 && c->k >= 1 && !is_dots(c);
}

static const cpu_onednn_plan *onednn_plan(cpu_state *state, const cpu_gemm_call *c, bool *failed)
{
    const bool pack = c->stride_b == 0 && c->b_type == AG_F32 && c->a_type == AG_BF16;

    if (c->a_type != AG_BF16 || !cpu_isa_has_bf16() || cpu_state_isa(state) < CPU_ISA_AVX512 ||
        is_amx(state, c) || c->m <= DOTS_ROWS) /* oneDNN 2.6.3 gets one row of 96 wrong on AMX */
        return NULL;
    if (c->alpha != 1.0f || (c->beta != 0.0f && c->beta != 1.0f) || c->m < 1 || c->n < 1 ||
        c->k < 1 || (c->b_type != AG_BF16 && !pack))
        return NULL;
    return cpu_onednn_gemm(cpu_state_onednn(state), c, pack, failed);
}

/* --- bf16 on AMX tiles ---------------------------------------------------------------------- */

static int64_t part_of_step(int64_t k, int64_t step)
{
    const int64_t rest = k - step * GEMM_AMX_STEP;
    return rest < GEMM_AMX_STEP ? rest : GEMM_AMX_STEP;
}

static void amx_pack_a(const gemm_amx_job *job, void *dst, int64_t row)
{
    const cpu_gemm_call *c = job->user;
    const gemm_amx_source a = {c->a, c->lda, c->a_type};
    char *to = dst;

    for (int64_t step = 0; step < job->n_steps; step++)
        for (int64_t r = row; r < row + GEMM_AMX_ROWS; r += GEMM_AMX_ROWS / 2, to += GEMM_AMX_TILE_BYTES) {
            const int64_t k0 = step * GEMM_AMX_STEP, k = part_of_step(c->k, step);
            if (c->transpose_a)
                gemm_amx_rows_down(to, &a, k0, r, k, c->m - r);
            else
                gemm_amx_rows_across(to, &a, r, k0, c->m - r, k);
        }
}

static void amx_pack_b(const gemm_amx_job *job, void *dst, int64_t step, int64_t n_steps, int64_t col,
                       int64_t n_cols)
{
    const cpu_gemm_call *c = job->user;
    const gemm_amx_source b = {c->b, c->ldb, c->b_type};
    char *to = dst;

    for (int64_t j = col; c->transpose_b && j < col + n_cols; j += GEMM_AMX_ROWS / 2)
        for (int64_t i = step; i < step + n_steps; i++, to += GEMM_AMX_TILE_BYTES)
            gemm_amx_tile_across(to, &b, j, i * GEMM_AMX_STEP, c->n - j, part_of_step(c->k, i));
    for (int64_t i = step; !c->transpose_b && i < step + n_steps; i++, to += GEMM_AMX_TILE_BYTES)
        gemm_amx_band_down(to, n_steps * GEMM_AMX_TILE_BYTES, &b, i * GEMM_AMX_STEP, col,
                           part_of_step(c->k, i), n_cols);
}

/* Few rows times weights that can be read as they lie: the product is turned, see gemm_amx_internal.h. */
static bool is_turned(const cpu_gemm_call *c, int n_threads)
{
    return c->b_type == AG_BF16 && c->transpose_b && c->k % GEMM_AMX_STEP == 0 && c->ldb % GEMM_AMX_STEP == 0 &&
           c->m <= TURNED_ROWS && c->m * n_threads <= c->n;
}

/* C^T = B^T A^T, but for C's own fields. */
static cpu_gemm_call turned_call(const cpu_gemm_call *c)
{
    cpu_gemm_call t = *c;

    t.m = c->n, t.n = c->m;
    t.a = c->b, t.lda = c->ldb, t.stride_a = c->stride_b, t.a_type = c->b_type, t.transpose_a = !c->transpose_b;
    t.b = c->a, t.ldb = c->lda, t.stride_b = c->stride_a, t.b_type = c->a_type, t.transpose_b = !c->transpose_a;
    return t;
}

/* Product `i` of the batch, which becomes *one. */
static gemm_amx_job amx_job_of(const cpu_gemm_call *call, int64_t i, int n_threads, cpu_gemm_call *one)
{
    const bool turned = is_turned(call, n_threads);
    const cpu_gemm_call as_is = turned ? turned_call(call) : *call, *c = &as_is;
    const int64_t width = c->c_type == AG_F32 ? 4 : 2;
    const char *plus = c->beta != 0.0f ? c->c : c->plus;
    const bool direct = !c->transpose_a && c->k % GEMM_AMX_STEP == 0 && c->lda % GEMM_AMX_STEP == 0;

    *one = *c;
    one->a = (const uint16_t *)c->a + i * c->stride_a;
    one->b = (const char *)c->b + i * c->stride_b * (c->b_type == AG_F32 ? 4 : 2);
    return (gemm_amx_job){
        .m = c->m,
        .n = c->n,
        .n_steps = (c->k + GEMM_AMX_STEP - 1) / GEMM_AMX_STEP,
        .a = one->a,
        .a_row = 2 * c->lda,
        .direct_rows = direct ? c->m / GEMM_AMX_ROWS * GEMM_AMX_ROWS : 0,
        .pack_a = amx_pack_a,
        .pack_b = amx_pack_b,
        .b_along_n = !c->transpose_b,
        .c = (char *)c->c + i * c->stride_c * width,
        .c_row = c->ldc * width,
        .c_type = c->c_type,
        .plus = plus ? plus + i * c->stride_c * width : NULL,
        .bias = c->bias,
        .turned = turned,
        .user = one,
    };
}

static size_t amx_scratch(cpu_state *state, const cpu_gemm_call *c)
{
    cpu_gemm_call one;
    const gemm_amx_job job = amx_job_of(c, 0, cpu_state_threads(state), &one);

    return gemm_amx_scratch(&job, cpu_state_threads(state));
}

static void run_amx(cpu_state *state, const cpu_gemm_call *c, void *scratch)
{
    for (int64_t i = 0; i < c->batch; i++) {
        cpu_gemm_call one;
        const gemm_amx_job job = amx_job_of(c, i, cpu_state_threads(state), &one);
        gemm_amx_run(&job, scratch, cpu_state_threads(state));
    }
}

/* --- operands ------------------------------------------------------------------------------- */

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* rows x cols of a bf16 matrix as f32, dense rows */
static void widen(float *dst, const uint16_t *src, int64_t ld, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++)
            dst[r * cols + i] = from_bf16(src[r * ld + i]);
}

static const float *call_rows_a(const gemm_job *job, int64_t batch)
{
    const cpu_gemm_call *c = job->user;
    return (const float *)c->a + batch * c->stride_a;
}

/* A whose rows are a multiple of 2 KiB apart: 14 of them would share 8 or 16 places of the
 * first-level cache, so they are copied. */
static void call_copy_a(const gemm_job *job, int64_t batch, float *dst, int64_t ld, int64_t row,
                        int64_t n_rows, int64_t k0, int64_t n_k)
{
    const cpu_gemm_call *c = job->user;
    const float *a = (const float *)c->a + batch * c->stride_a;

    for (int64_t r = 0; r < n_rows; r++)
        memcpy(dst + r * ld, a + (row + r) * c->lda + k0, (size_t)n_k * sizeof *dst);
}

/* A^T in f32: panels from rows that lie along k. */
static void call_fill_a(const gemm_job *job, int64_t batch, float *dst, int64_t ld, int64_t row,
                        int64_t n_rows, int64_t k0, int64_t n_k)
{
    const cpu_gemm_call *c = job->user;
    const float *a = (const float *)c->a + batch * c->stride_a;

    (void)ld;
    job->kernels->pack_a(dst, a + k0 * c->lda + row, c->lda, n_rows, n_k);
}

static void call_fill_a_bf16(const gemm_job *job, int64_t batch, float *dst, int64_t ld,
                             int64_t row, int64_t n_rows, int64_t k0, int64_t n_k)
{
    const cpu_gemm_call *c = job->user;
    const uint16_t *a = (const uint16_t *)c->a + batch * c->stride_a;

    for (int64_t r = 0; r < n_rows; r++)
        if (c->transpose_a)
            for (int64_t l = 0; l < n_k; l++)
                dst[r * ld + l] = from_bf16(a[(k0 + l) * c->lda + row + r]);
        else
            widen(dst + r * ld, a + (row + r) * c->lda + k0, 0, 1, n_k);
}

static void call_fill_b(const gemm_job *job, int64_t batch, float *dst, int64_t k0, int64_t n_k,
                        int64_t col, int64_t n_cols)
{
    const cpu_gemm_call *c = job->user;
    const float *b = (const float *)c->b + batch * c->stride_b;

    b += c->transpose_b ? col * c->ldb + k0 : k0 * c->ldb + col;
    job->kernels->pack_b(dst, b, c->ldb, c->transpose_b, n_k, n_cols);
}

static void call_fill_b_bf16(const gemm_job *job, int64_t batch, float *dst, int64_t k0,
                             int64_t n_k, int64_t col, int64_t n_cols)
{
    const cpu_gemm_call *c = job->user;
    const uint16_t *b = (const uint16_t *)c->b + batch * c->stride_b;
    const int nr = job->kernels->nr;
    float wide[WIDE_K * WIDE_COLUMNS]; /* a piece of one panel */

    for (int64_t j = 0; j < n_cols; j += nr, dst += n_k * nr)
        for (int64_t l = 0; l < n_k; l += WIDE_K) {
            const int64_t width = n_cols - j < nr ? n_cols - j : nr;
            const int64_t here = n_k - l < WIDE_K ? n_k - l : WIDE_K;
            const uint16_t *at = b + (c->transpose_b ? (col + j) * c->ldb + k0 + l
                                                     : (k0 + l) * c->ldb + col + j);

            widen(wide, at, c->ldb, c->transpose_b ? width : here, c->transpose_b ? here : width);
            job->kernels->pack_b(dst + l * nr, wide, c->transpose_b ? here : width, c->transpose_b,
                                 here, width);
        }
}

/* `rows` x `cols` numbers from (i, j) on, of a matrix whose rows are ld apart. */
static gemm_place place_of(const void *x, ag_dtype type, int64_t ld, int64_t i, int64_t j, int64_t rows,
                           int64_t cols)
{
    const int64_t width = type == AG_F32 ? 4 : 2;
    return (gemm_place){(uintptr_t)x + (uintptr_t)((i * ld + j) * width), rows, cols * width, ld * width};
}

static gemm_place call_place_a(const gemm_job *job, int64_t batch, int64_t row, int64_t n_rows, int64_t k0,
                               int64_t n_k)
{
    const cpu_gemm_call *c = job->user;
    const int64_t i = c->transpose_a ? k0 : row, j = c->transpose_a ? row : k0;

    return place_of(c->a, c->a_type, c->lda, i, j + batch * c->stride_a, c->transpose_a ? n_k : n_rows,
                    c->transpose_a ? n_rows : n_k);
}

static gemm_place call_place_b(const gemm_job *job, int64_t batch, int64_t k0, int64_t n_k, int64_t col,
                               int64_t n_cols)
{
    const cpu_gemm_call *c = job->user;
    const int64_t i = c->transpose_b ? col : k0, j = c->transpose_b ? k0 : col;

    return place_of(c->b, c->b_type, c->ldb, i, j + batch * c->stride_b, c->transpose_b ? n_cols : n_k,
                    c->transpose_b ? n_k : n_cols);
}

static float *call_row_c(const gemm_job *job, int64_t batch, int64_t row)
{
    const cpu_gemm_call *c = job->user;
    return (float *)c->c + batch * c->stride_c + row * c->ldc;
}

/* f32 A or A^T, bf16 anything: see fill functions. C is f32 here. */
static gemm_job job_of(cpu_state *state, const cpu_gemm_call *c)
{
    gemm_job job = {
        .m = c->m, .n = c->n, .k = c->k, .batch = c->batch,
        .alpha = c->alpha, .beta = c->plus ? 1.0f : c->beta, .bias = c->bias,
        .to_old = c->plus ? (uintptr_t)c->plus - (uintptr_t)c->c : 0,
        .lda = c->lda,
        .place_a = call_place_a,
        .fill_b = c->b_type == AG_F32 ? call_fill_b : call_fill_b_bf16,
        .place_b = call_place_b,
        .same_b = c->stride_b == 0,
        .row_c = call_row_c,
        .kernels = gemm_kernels_of((int)cpu_state_isa(state)),
        .user = c,
    };

    if (c->a_type != AG_F32) {
        job.fill_a = call_fill_a_bf16;
    } else if (c->transpose_a) {
        job.fill_a = call_fill_a;
        job.a_is_panels = true;
        job.place_a = NULL;
        job.place_b = NULL;
    } else if (c->lda % 512 == 0 && c->n > job.kernels->nr) {
        job.fill_a = call_copy_a;
    } else {
        job.rows_a = call_rows_a;
    }
    return job;
}

/* --- few rows ------------------------------------------------------------------------------- */

/* C is f32; a bf16 A is widened in scratch first. */
static void run_dots(cpu_state *state, const cpu_gemm_call *c, float *scratch)
{
    const gemm_kernels *kernels = gemm_kernels_of((int)cpu_state_isa(state));
    const int n_threads = cpu_state_threads(state);
    const float *a = c->a;
    int64_t lda = c->lda;

    if (c->a_type != AG_F32) {
        widen(scratch, c->a, c->lda, c->m, c->k);
        a = scratch;
        lda = c->k;
    }
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 1)
    for (int64_t j = 0; j < c->n; j += DOTS_COLUMNS) {
        float *rows[DOTS_ROWS];
        for (int64_t i = 0; i < c->m; i++)
            rows[i] = (float *)c->c + i * c->ldc + j;
        kernels->dots((int)c->m, c->n - j < DOTS_COLUMNS ? c->n - j : DOTS_COLUMNS, c->k, a, lda,
                      (const float *)c->b + j * c->ldb, c->ldb, rows, c->alpha, c->beta,
                      c->bias ? c->bias + j : NULL);
    }
}

/* beta C + bias: what is left of a product without k. C is f32. */
static void run_empty(const cpu_gemm_call *c)
{
    for (int64_t s = 0; s < c->batch; s++)
        for (int64_t i = 0; i < c->m; i++)
            for (int64_t j = 0; j < c->n; j++) {
                float *at = (float *)c->c + s * c->stride_c + i * c->ldc + j;
                *at = (c->beta != 0.0f ? c->beta * *at : 0.0f) + (c->bias ? c->bias[j] : 0.0f);
            }
}

/* --- the call ------------------------------------------------------------------------------- */

/* The product into f32. */
static size_t scratch_f32(cpu_state *state, const cpu_gemm_call *c)
{
    const gemm_job job = job_of(state, c);

    if (is_dots(c))
        return c->a_type == AG_F32 ? 0 : gemm_round64((size_t)(c->m * c->k) * sizeof(float));
    return c->k < 1 ? 0 : gemm_job_scratch(&job, cpu_state_threads(state));
}

static void run_f32(cpu_state *state, const cpu_gemm_call *c, void *scratch)
{
    const gemm_job job = job_of(state, c);

    if (c->k < 1)
        run_empty(c);
    else if (is_dots(c))
        run_dots(state, c, scratch);
    else
        gemm_job_run(&job, scratch, cpu_state_threads(state));
}

/* The same call with a dense f32 C of its own, and without `plus`. */
static cpu_gemm_call with_f32_c(const cpu_gemm_call *c, float *f32_c)
{
    cpu_gemm_call wide = *c;

    wide.plus = NULL;
    wide.c = f32_c;
    wide.c_type = AG_F32;
    wide.ldc = c->n;
    wide.stride_c = c->m * c->n;
    return wide;
}

size_t cpu_gemm_scratch(cpu_state *state, const cpu_gemm_call *call)
{
    const cpu_gemm_call c = complete(call);
    bool failed = false;
    const cpu_onednn_plan *plan = onednn_plan(state, &c, &failed);

    if (c.m < 1 || c.n < 1)
        return 0;
    if (is_amx(state, &c))
        return amx_scratch(state, &c);
    if (plan)
        return cpu_onednn_scratch(plan);
    if (c.c_type != AG_F32) {
        const cpu_gemm_call wide = with_f32_c(&c, NULL);
        return gemm_round64((size_t)(c.batch * c.m * c.n) * sizeof(float)) +
               scratch_f32(state, &wide);
    }
    return scratch_f32(state, &c);
}

static bool run_gemm(cpu_state *state, const cpu_gemm_call *call, void *scratch)
{
    const cpu_gemm_call c = complete(call);
    const int n_threads = cpu_state_threads(state), isa = (int)cpu_state_isa(state);
    bool failed = false;
    const cpu_onednn_plan *plan = onednn_plan(state, &c, &failed);

    if (failed)
        return false;
    if (c.m < 1 || c.n < 1)
        return true;
    if (is_amx(state, &c)) {
        run_amx(state, &c, scratch);
        return true;
    }
    if (plan)
        return cpu_onednn_run(cpu_state_onednn(state), plan, c.c, c.a, c.b, c.bias, scratch);
    if (c.c_type != AG_F32) {
        const cpu_gemm_call wide = with_f32_c(&c, scratch);
        float *wide_c = wide.c;
        uint16_t *narrow = c.c;
        char *rest = (char *)scratch + gemm_round64((size_t)(c.batch * c.m * c.n) * sizeof(float));

        for (int64_t r = 0; c.beta != 0.0f && r < c.batch * c.m; r++)
            widen(wide_c + r * c.n, narrow + r / c.m * c.stride_c + r % c.m * c.ldc, 0, 1, c.n);
        run_f32(state, &wide, rest);
        for (int64_t r = 0; r < c.batch * c.m; r++)
            cpu_cast(narrow + r / c.m * c.stride_c + r % c.m * c.ldc, c.c_type, wide_c + r * c.n,
                     AG_F32, c.n, c.n > 1 << 16 ? n_threads : 1, isa);
        return true;
    }
    run_f32(state, &c, scratch);
    return true;
}

/* C += plus */
static void add_plus(cpu_state *state, const cpu_gemm_call *c)
{
    const int n_threads = cpu_state_threads(state), isa = (int)cpu_state_isa(state);
    const bool dense = c->ldc == c->n && (c->batch == 1 || c->stride_c == c->m * c->n);
    const int64_t run = dense ? c->batch * c->m * c->n : c->n, n_runs = dense ? 1 : c->batch * c->m;

    for (int64_t r = 0; r < n_runs; r++) {
        const int64_t at = r / c->m * c->stride_c + r % c->m * c->ldc;
        if (c->c_type == AG_F32)
            cpu_add_into((float *)c->c + at, (const float *)c->plus + at, run, n_threads, isa);
        else
            cpu_binary_bf16((uint16_t *)c->c + at, CPU_ADD, (const uint16_t *)c->c + at,
                            (const uint16_t *)c->plus + at, run, n_threads, isa);
    }
}

/* Whether the kernel that runs the call adds `plus` as it writes C. */
static bool takes_plus(cpu_state *state, const cpu_gemm_call *c)
{
    return is_amx(state, c) || (c->a_type == AG_F32 && c->c_type == AG_F32 && c->k >= 1 && !is_dots(c));
}

bool cpu_gemm(cpu_state *state, const cpu_gemm_call *call, void *scratch)
{
    const cpu_gemm_call c = complete(call);
    cpu_gemm_call without = c;

    if (!c.plus || c.m < 1 || takes_plus(state, &c))
        return run_gemm(state, call, scratch);
    without.plus = NULL;
    if (!run_gemm(state, &without, scratch))
        return false;
    add_plus(state, &c);
    return true;
}
const char *cpu_gemm_kernel_name(cpu_state *state, const cpu_gemm_call *call)
{
    const cpu_gemm_call c = complete(call);
    bool failed = false;
    const cpu_onednn_plan *plan = onednn_plan(state, &c, &failed);

    if (is_amx(state, &c))
        return "own amx";
    return plan ? cpu_onednn_name(plan) : gemm_kernels_of((int)cpu_state_isa(state))->name;
}
