/* weights_values.c - dtypes, strided values and names of weight files. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/numbers.h"
#include "data/weights_internal.h"

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

/* The partner of a floating dtype. */
static ag_dtype partner_of(data_dtype dtype)
{
    ag_dtype partner = AG_F32;

    data_dtype_to_ag(&partner, dtype);
    return partner;
}

void data_to_f32(float *to, data_dtype dtype, const void *from, int64_t n)
{
    ag_widen(to, partner_of(dtype), from, n);
}

void data_from_f32(void *to, data_dtype dtype, const float *from, int64_t n)
{
    ag_narrow(to, partner_of(dtype), from, n);
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
