/* params_load.c - filling a network from a weight file, strictly and fast.
 *
 * First every name and shape is compared, and nothing is read when they differ. Then the tensors
 * are cut into pieces of whole rows of about a megabyte, and the threads take piece after piece:
 * read, convert, reorder, store. A piece in the file's own order and format is read straight into
 * the parameter. So the memory needed beside the parameters is a few pieces, and a real U-Net (3.4
 * GB) loads at the disk's pace.
 */
#include "nn/params.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "autograd/numbers.h"
#include "nn/layout.h"

enum { PIECE_BYTES = 1 << 20, MAX_LISTED = 6, MAX_LINE = 900 };

typedef struct piece {
    int64_t tensor; /* in the reader */
    nn_param *param;
    ag_dtype dtype; /* as stored */
    int64_t row, n_rows;
} piece;

/* What differs, said in one line. */
typedef struct difference {
    char line[MAX_LINE];
    size_t used;
    int64_t n_missing, n_extra, n_shapes;
} difference;

static void add_text(difference *d, const char *text)
{
    if (d->used < sizeof d->line)
        d->used += (size_t)snprintf(d->line + d->used, sizeof d->line - d->used, "%s", text);
}

/* Append "kind name", the first few of each kind. */
static void add_name(difference *d, int64_t *count, const char *kind, const char *name)
{
    char text[NN_MAX_NAME + 160];

    if ((*count)++ < MAX_LISTED) {
        snprintf(text, sizeof text, "%s%s %s", d->used ? ", " : "", kind, name);
        add_text(d, text);
    }
}

static void add_count(difference *d, int64_t count, const char *kind)
{
    char text[64];

    if (count > MAX_LISTED) {
        snprintf(text, sizeof text, ", and %lld more %s", (long long)(count - MAX_LISTED), kind);
        add_text(d, text);
    }
}

static void add_shape(difference *d, const nn_param *param, const nn_stored *stored)
{
    char want[96], got[96], text[NN_MAX_NAME + 128];

    if (ag_is_float(stored->dtype))
        snprintf(text, sizeof text, "%.200s (want %s, got %s)", param->name,
                 nn_shape_text(param->n_dims, param->dims, want, sizeof want),
                 nn_shape_text(stored->n_dims, stored->dims, got, sizeof got));
    else
        snprintf(text, sizeof text, "%.200s (want floating values, got %s)", param->name,
                 ag_dtype_name(stored->dtype));
    add_name(d, &d->n_shapes, "misshapen", text);
}

/* Match the reader's tensors with the parameters: from[i] is the tensor of parameter i.
 * AG_EDATA with the list of what differs. */
static ag_status match(ag_ctx *ctx, const nn_params *params, const nn_reader *reader, int64_t *from)
{
    const int64_t n = nn_params_count(params);
    difference d = {0};
    nn_stored stored;

    for (int64_t i = 0; i < n; i++)
        from[i] = -1;
    for (int64_t k = 0; k < reader->n_tensors; k++) {
        const nn_param *param;

        memset(&stored, 0, sizeof stored);
        reader->describe(reader->user, k, &stored);
        param = nn_params_find(params, stored.name);
        if (!param || from[param->index] >= 0)
            add_name(&d, &d.n_extra, param ? "twice" : "extra", stored.name);
        else
            from[param->index] = k;
    }
    for (int64_t i = 0; i < n; i++) {
        if (from[i] < 0)
            add_name(&d, &d.n_missing, "missing", nn_params_at(params, i)->name);
    }
    for (int64_t i = 0; i < n; i++) {
        const nn_param *param = nn_params_at(params, i);

        if (from[i] < 0)
            continue;
        reader->describe(reader->user, from[i], &stored);
        if (!nn_param_takes_shape(param, stored.n_dims, stored.dims) || !ag_is_float(stored.dtype))
            add_shape(&d, param, &stored);
    }
    if (!d.used)
        return AG_OK;
    add_count(&d, d.n_missing, "missing");
    add_count(&d, d.n_extra, "extra");
    add_count(&d, d.n_shapes, "misshapen");
    return ag_fail(ctx, AG_EDATA, "%s: its tensors are not this network's: %s", reader->path,
                   d.line);
}

/* Rows of a piece: whole rows, about PIECE_BYTES as f32. */
static int64_t rows_per_piece(const nn_param *param)
{
    const int64_t n = PIECE_BYTES / ((int64_t)sizeof(float) * nn_row_values(param));

    return n < 1 ? 1 : n;
}

/* Cut everything into pieces; returns how many, and the largest number of values in one. */
static int64_t cut(const nn_params *params, const nn_reader *reader, const int64_t *from,
                   piece *pieces, int64_t *most_values)
{
    int64_t n = 0;

    *most_values = 0;
    for (int64_t i = 0; i < nn_params_count(params); i++) {
        nn_param *param = nn_params_at(params, i);
        const int64_t step = rows_per_piece(param), n_rows = nn_rows(param);
        nn_stored stored = {0};

        if (pieces)
            reader->describe(reader->user, from[i], &stored);
        for (int64_t row = 0; row < n_rows; row += step, n++) {
            const int64_t here = n_rows - row < step ? n_rows - row : step;

            if (here * nn_row_values(param) > *most_values)
                *most_values = here * nn_row_values(param);
            if (pieces)
                pieces[n] = (piece){from[i], param, stored.dtype, row, here};
        }
    }
    return n;
}

/* Read one piece into `data`, the parameter's storage. stage has room for 16 bytes a value (8 as
 * stored, 4 as f32, 4 reordered). Returns 0 or an errno value. */
static int read_piece(const nn_reader *reader, const piece *p, char *data, ag_dtype dtype,
                      char *stage, int64_t most_values)
{
    const int64_t row = nn_row_values(p->param), n = p->n_rows * row, first = p->row * row;
    const size_t stored_size = ag_dtype_size(p->dtype), size = ag_dtype_size(dtype);
    char *to = data + (size_t)first * size, *raw = stage;
    float *plain = (float *)(stage + 8 * (size_t)most_values), *ordered = plain + most_values;
    const bool in_order = p->param->layout != NN_OIHW;
    int error;

    if (in_order && p->dtype == dtype)
        return reader->read(reader->user, p->tensor, (size_t)first * stored_size,
                            (size_t)n * stored_size, to);
    error = reader->read(reader->user, p->tensor, (size_t)first * stored_size,
                         (size_t)n * stored_size, raw);
    if (error)
        return error;
    if (dtype == AG_F32 && in_order) {
        ag_widen((float *)to, p->dtype, raw, n);
        return 0;
    }
    ag_widen(plain, p->dtype, raw, n);
    if (dtype == AG_F32) {
        nn_rows_to_inner(p->param, p->n_rows, plain, (float *)to);
        return 0;
    }
    nn_rows_to_inner(p->param, p->n_rows, plain, ordered);
    ag_narrow(to, dtype, ordered, n);
    return 0;
}

/* Read every piece with all threads, in host memory. */
static ag_status read_pieces(ag_ctx *ctx, const nn_reader *reader, const piece *pieces,
                             int64_t n_pieces, int64_t most_values)
{
    const int n_threads = ag_ctx_threads(ctx);
    const size_t stage_bytes = 16 * (size_t)most_values;
    char *stages = ag_new(ctx, (size_t)n_threads, stage_bytes, "reading weights");
    const char *failed = NULL;
    int error = 0;

    if (!stages)
        return ag_status_of(ctx);
#pragma omp parallel num_threads(n_threads)
    {
        char *stage = stages + (size_t)omp_get_thread_num() * stage_bytes;

#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_pieces; i++) {
            ag_tensor *value = pieces[i].param->value;
            int stopped, bad;

#pragma omp atomic read
            stopped = error;
            if (stopped)
                continue;
            bad = read_piece(reader, &pieces[i], ag_data(value), ag_dtype_of(value), stage,
                             most_values);
            if (bad) {
#pragma omp critical(nn_load_error)
                {
                    failed = pieces[i].param->name;
#pragma omp atomic write
                    error = bad;
                }
            }
        }
    }
    ag_delete(stages);
    if (error)
        return ag_fail(ctx, AG_EIO, "%s: reading %s: %s", reader->path, failed, strerror(error));
    return AG_OK;
}

/* The same for memory that only ag_write() reaches: whole parameters, one after the other. */
static ag_status read_staged(ag_ctx *ctx, nn_params *params, const nn_reader *reader,
                             const int64_t *from)
{
    ag_status status = AG_OK;

    for (int64_t i = 0; i < nn_params_count(params) && status == AG_OK; i++) {
        nn_param *param = nn_params_at(params, i);
        const size_t n = (size_t)param->numel;
        nn_stored stored = {0};
        char *raw;
        float *plain;
        int error = 0;

        reader->describe(reader->user, from[i], &stored);
        raw = ag_new(ctx, n, ag_dtype_size(stored.dtype), param->name);
        plain = ag_new(ctx, n, sizeof *plain, param->name);
        if (!raw || !plain) {
            status = ag_status_of(ctx);
        } else if ((error = reader->read(reader->user, from[i], 0, n * ag_dtype_size(stored.dtype),
                                         raw))) {
            status = ag_fail(ctx, AG_EIO, "%s: reading %s: %s", reader->path, param->name,
                             strerror(error));
        } else {
            ag_widen(plain, stored.dtype, raw, param->numel);
            status = nn_param_unpublish(ctx, param, param->value, plain);
        }
        ag_delete(plain);
        ag_delete(raw);
    }
    return status;
}

ag_status nn_params_load(ag_ctx *ctx, nn_params *params, const nn_reader *reader)
{
    ag_status status = ag_status_of(ctx);
    int64_t *from = NULL, n_pieces, most_values;
    piece *pieces = NULL;

    if (status != AG_OK)
        return status;
    for (int64_t i = 0; i < nn_params_count(params); i++) {
        if (!nn_params_at(params, i)->value)
            return ag_fail(ctx, AG_EINVAL, "%s: it has no memory to load into",
                           nn_params_at(params, i)->name);
    }
    from = ag_new(ctx, (size_t)nn_params_count(params), sizeof *from, "matching weights");
    status = from ? match(ctx, params, reader, from) : ag_status_of(ctx);
    if (status != AG_OK || ag_ctx_device(ctx) == AG_META)
        goto out;
    if (ag_ctx_device(ctx) != AG_CPU) {
        status = read_staged(ctx, params, reader, from);
        goto out;
    }
    n_pieces = cut(params, reader, from, NULL, &most_values);
    pieces = ag_new(ctx, (size_t)n_pieces, sizeof *pieces, "reading weights");
    if (!pieces) {
        status = ag_status_of(ctx);
        goto out;
    }
    cut(params, reader, from, pieces, &most_values);
    status = read_pieces(ctx, reader, pieces, n_pieces, most_values);
out:
    ag_delete(pieces);
    ag_delete(from);
    return status;
}
