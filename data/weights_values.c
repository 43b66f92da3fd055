/* weights_values.c - dtypes, number formats, strided values and names of weight files. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "data/weights_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* --- dtypes ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int bits;
} dtypes[DATA_N_DTYPES] = {
    [DATA_F64] = {"F64", 64},   [DATA_F32] = {"F32", 32}, [DATA_F16] = {"F16", 16},
    [DATA_BF16] = {"BF16", 16}, [DATA_I64] = {"I64", 64}, [DATA_I32] = {"I32", 32},
    [DATA_I16] = {"I16", 16},   [DATA_I8] = {"I8", 8},    [DATA_U8] = {"U8", 8},
    [DATA_BOOL] = {"BOOL", 8},  [DATA_OTHER_DTYPE] = {"other", 0},
};

/* Known to the format and not read here; their size is checked all the same.
 * Source: safetensors/safetensors: safetensors/src/tensor.rs, enum Dtype. */
static const struct {
    const char *name;
    int bits;
} other_dtypes[] = {
    {"F4", 4},       {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8},  {"U16", 16},    {"U32", 32},    {"U64", 64},    {"C64", 64},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
};

size_t data_dtype_size(data_dtype dtype)
{
    return (size_t)dtypes[dtype].bits / 8;
}

const char *data_dtype_name(data_dtype dtype)
{
    return dtypes[dtype].name;
}

bool data_dtype_is_float(data_dtype dtype)
{
    return dtype <= DATA_BF16;
}

bool data_dtype_to_ag(ag_dtype *out, data_dtype dtype)
{
    switch (dtype) {
    case DATA_F64: *out = AG_F64; return true;
    case DATA_F32: *out = AG_F32; return true;
    case DATA_F16: *out = AG_F16; return true;
    case DATA_BF16: *out = AG_BF16; return true;
    case DATA_I64: *out = AG_I64; return true;
    case DATA_I32: *out = AG_I32; return true;
    case DATA_U8: *out = AG_U8; return true;
    default: return false;
    }
}

bool data_dtype_from_ag(data_dtype *out, ag_dtype dtype)
{
    for (int d = 0; d < DATA_N_DTYPES; d++) {
        ag_dtype partner;

        if (data_dtype_to_ag(&partner, d) && partner == dtype) {
            *out = d;
            return true;
        }
    }
    return false;
}

data_dtype weights_dtype_of(const char *name, size_t n_bytes, int *bits)
{
    for (int d = 0; d < DATA_OTHER_DTYPE; d++) {
        if (strlen(dtypes[d].name) == n_bytes && memcmp(dtypes[d].name, name, n_bytes) == 0) {
            *bits = dtypes[d].bits;
            return d;
        }
    }
    *bits = 0;
    for (size_t i = 0; i < sizeof other_dtypes / sizeof *other_dtypes; i++)
        if (strlen(other_dtypes[i].name) == n_bytes &&
            memcmp(other_dtypes[i].name, name, n_bytes) == 0)
            *bits = other_dtypes[i].bits;
    return DATA_OTHER_DTYPE;
}

/* --- number formats --------------------------------------------------------------------------- */

static float f32_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_f32(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* f16: sign, 5 bits of exponent (bias 15), 10 of fraction. */
static float f32_of_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7FFF;

    if (rest >= 0x7C00) /* infinite, or not a number */
        return f32_of_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    if (rest >= 0x0400)
        return f32_of_bits(sign | ((rest << 13) + ((127 - 15) << 23)));
    /* below 2^-14: fraction * 2^-24, exact in f32 */
    return f32_of_bits(sign | bits_of_f32((float)rest * 0x1p-24f));
}

static uint16_t f16_of_f32(float value)
{
    const uint32_t bits = bits_of_f32(value), sign = bits >> 16 & 0x8000;
    const uint32_t rest = bits & 0x7FFFFFFF;

    if (rest > 0x7F800000)
        return (uint16_t)(sign | 0x7E00 | (rest >> 13 & 0x1FF)); /* stays not a number */
    if (rest >= 0x477FF000)
        return (uint16_t)(sign | 0x7C00); /* rounds to 65536 or beyond */
    if (rest >= 0x38800000) {
        const uint32_t odd = rest >> 13 & 1;

        return (uint16_t)(sign | ((rest - ((127 - 15) << 23) + 0xFFF + odd) >> 13));
    }
    /* below 2^-14: adding 0.5 puts 2^-24 into the last place, and the sum rounds to nearest even */
    return (uint16_t)(sign | (bits_of_f32(f32_of_bits(rest) + 0.5f) - bits_of_f32(0.5f)));
}

static uint16_t bf16_of_f32(float value)
{
    const uint32_t bits = bits_of_f32(value);

    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40); /* stays not a number */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#if defined(__x86_64__)
/* Every processor with AVX2 has these, and not every compiler can ask for F16C by name. */
__attribute__((target("avx,f16c"))) static int64_t f16_wide(float *to, const uint16_t *from,
                                                             int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    return i;
}

__attribute__((target("avx,f16c"))) static int64_t f16_narrow(uint16_t *to, const float *from,
                                                               int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return i;
}
#endif

void data_to_f32(float *to, data_dtype dtype, const void *from, int64_t n)
{
    const uint16_t *half = from;
    const double *wide = from;
    int64_t i = 0;

    switch (dtype) {
    case DATA_F64:
        for (; i < n; i++)
            to[i] = (float)wide[i];
        break;
    case DATA_F16:
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2"))
            i = f16_wide(to, half, n);
#endif
        for (; i < n; i++)
            to[i] = f32_of_f16(half[i]);
        break;
    case DATA_BF16:
        for (; i < n; i++)
            to[i] = f32_of_bits((uint32_t)half[i] << 16);
        break;
    default: /* F32 */
        if (n > 0)
            memcpy(to, from, (size_t)n * sizeof *to);
    }
}

void data_from_f32(void *to, data_dtype dtype, const float *from, int64_t n)
{
    uint16_t *half = to;
    double *wide = to;
    int64_t i = 0;

    switch (dtype) {
    case DATA_F64:
        for (; i < n; i++)
            wide[i] = from[i];
        break;
    case DATA_F16:
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2"))
            i = f16_narrow(half, from, n);
#endif
        for (; i < n; i++)
            half[i] = f16_of_f32(from[i]);
        break;
    case DATA_BF16:
        for (; i < n; i++)
            half[i] = bf16_of_f32(from[i]);
        break;
    default: /* F32 */
        if (n > 0)
            memcpy(to, from, (size_t)n * sizeof(float));
    }
}

/* --- values that do not lie row-major --------------------------------------------------------- */

/* Copy one run of n elements that lie `stride` elements apart. */
static void copy_run(char *to, const char *from, int64_t n, int64_t stride, size_t size)
{
    for (int64_t i = 0; i < n; i++) {
        switch (size) { /* a constant size makes memcpy one instruction */
        case 1: to[i] = from[i * stride]; break;
        case 2: memcpy(to + 2 * i, from + 2 * i * stride, 2); break;
        case 4: memcpy(to + 4 * i, from + 4 * i * stride, 4); break;
        default: memcpy(to + 8 * i, from + 8 * i * stride, 8); break;
        }
    }
}

int weights_gather(const data_file *file, const weight_record *record, int64_t first, int64_t n,
                   void *to)
{
    const data_tensor *t = &record->told;
    const size_t size = data_dtype_size(t->dtype);
    const int64_t *dims = t->dims, *strides = record->strides;
    int64_t index[DATA_TENSOR_DIMS], end[DATA_TENSOR_DIMS], low = 0, high = 0;
    const int last = t->n_dims - 1;
    bool same = true; /* so far, the first and the last element have the same index */
    char *span, *out = to;
    int error;

    /* Where the first and the last of them stand, and the stretch of storage between. */
    for (int64_t d = last, a = first, b = first + n - 1; d >= 0; d--) {
        index[d] = a % dims[d];
        end[d] = b % dims[d];
        a /= dims[d];
        b /= dims[d];
    }
    for (int d = 0; d <= last; d++) {
        low += same ? index[d] * strides[d] : 0;
        high += same ? end[d] * strides[d] : (dims[d] - 1) * strides[d];
        same = same && index[d] == end[d];
    }
    /* a context belongs to one thread and this runs in any: the one allocation outside the seam */
    span = malloc((size_t)(high - low + 1) * size);
    if (!span)
        return ENOMEM;
    error = data_file_pread(file, record->at + (uint64_t)low * size,
                            (size_t)(high - low + 1) * size, span);
    while (!error && n > 0) {
        const int64_t left = dims[last] - index[last], run = n < left ? n : left;
        int64_t from = -low;

        for (int d = 0; d <= last; d++)
            from += index[d] * strides[d];
        copy_run(out, span + from * (int64_t)size, run, strides[last], size);
        out += run * (int64_t)size;
        n -= run;
        index[last] += run;
        for (int d = last; d > 0 && index[d] == dims[d]; d--) {
            index[d] = 0;
            index[d - 1]++;
        }
    }
    free(span);
    return error;
}

/* --- names ------------------------------------------------------------------------------------ */

const char *weights_shown(char shown[WEIGHTS_SHOWN], const char *name, size_t n_bytes)
{
    const size_t most = WEIGHTS_SHOWN - 4, n = n_bytes < most ? n_bytes : most;

    for (size_t i = 0; i < n; i++)
        shown[i] = name[i] > ' ' && name[i] < 0x7F ? name[i] : '?';
    memcpy(shown + n, n < n_bytes ? "..." : "", n < n_bytes ? 4 : 1);
    return shown;
}

bool weights_is_utf8(const char *text, size_t n_bytes)
{
    const unsigned char *s = (const unsigned char *)text, *end = s + n_bytes;

    while (s < end) {
        const int more = *s < 0x80 ? 0 : *s < 0xC2 ? -1 : *s < 0xE0 ? 1 : *s < 0xF0 ? 2
                       : *s < 0xF5 ? 3 : -1;
        uint32_t code = more > 0 ? *s & (0x3F >> more) : *s;

        if (*s == 0 || more < 0 || end - s <= more)
            return false;
        for (int i = 1; i <= more; i++) {
            if ((s[i] & 0xC0) != 0x80)
                return false;
            code = code << 6 | (s[i] & 0x3F);
        }
        if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10FFFF)) ||
            (code >= 0xD800 && code < 0xE000))
            return false;
        s += more + 1;
    }
    return true;
}
