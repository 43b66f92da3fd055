/* csv.c - RFC 4180 in two passes over one copy of the text: count the fields, then cut them apart
 * in place (a field never grows: quotes go, doubled quotes become one).
 */
#include "data/csv.h"

#include <string.h>

#include "data/text_file.h"

/* One walk over the text. With `cells` NULL it only counts and checks. */
typedef struct csv_walk {
    ag_ctx *ctx;
    const char *name;
    char *text;
    size_t n, at;
    int64_t line;
} csv_walk;

/* Cut the next field out of the text. *last tells that its row ends with it. */
static ag_status csv_field(const char **field, bool *last, csv_walk *w, bool cut)
{
    char *to = w->text + w->at, *start = to;
    const int64_t line = w->line;
    bool quoted = false;

    if (w->at < w->n && w->text[w->at] == '"') {
        quoted = true;
        w->at++;
        for (;;) {
            if (w->at >= w->n)
                return ag_fail(w->ctx, AG_EDATA, "%s: line %lld: a quoted field without its end",
                               w->name, (long long)line);
            if (w->text[w->at] == '"' && (w->at + 1 >= w->n || w->text[w->at + 1] != '"'))
                break;
            if (w->text[w->at] == '"')
                w->at++;
            w->line += w->text[w->at] == '\n';
            if (cut)
                *to = w->text[w->at];
            to++;
            w->at++;
        }
        w->at++;
    } else {
        while (w->at < w->n && w->text[w->at] != ',' && w->text[w->at] != '\n' &&
               w->text[w->at] != '\r' && w->text[w->at] != '"')
            w->at++;
        to = w->text + w->at;
    }
    *field = start;
    *last = true;
    if (w->at >= w->n) {
        if (cut)
            *to = 0; /* the text has one more byte */
        return AG_OK;
    }
    if (w->text[w->at] == ',')
        *last = false;
    else if (w->text[w->at] == '\r' && (w->at + 1 == w->n || w->text[w->at + 1] == '\n'))
        w->at += w->at + 1 < w->n;
    else if (w->text[w->at] != '\n')
        return ag_fail(w->ctx, AG_EDATA, "%s: line %lld: a %s %s", w->name, (long long)w->line,
                       w->text[w->at] == '"'    ? "quote"
                       : w->text[w->at] == '\r' ? "carriage return"
                                                : "character",
                       quoted ? "after the end of a quoted field"
                              : "inside a field that is not quoted");
    w->line += *last;
    w->at++;
    if (cut)
        *to = 0;
    return AG_OK;
}

/* Skip lines of nothing (or blanks); true when a row follows. */
static bool csv_find_row(csv_walk *w)
{
    for (;;) {
        size_t at = w->at;

        while (at < w->n && (w->text[at] == ' ' || w->text[at] == '\t' || w->text[at] == '\r'))
            at++;
        if (at >= w->n)
            return false;
        if (w->text[at] != '\n')
            return true;
        w->at = at + 1;
        w->line++;
    }
}

/* Walk all rows; the first pass finds *n_rows (with the header) and *n_cols, the second fills. */
static ag_status csv_rows(csv_walk *w, int *n_cols, int64_t *n_rows, const char **cells,
                          int64_t *lines)
{
    int64_t row = 0;

    for (; csv_find_row(w); row++) {
        const int64_t line = w->line;
        int col = 0;
        bool last = false;

        if (lines)
            lines[row] = line;
        for (; !last; col++) {
            const char *field = "";
            const ag_status status = csv_field(&field, &last, w, cells != NULL);

            if (status != AG_OK)
                return status;
            if (col >= DATA_CSV_MAX_COLUMNS)
                return ag_fail(w->ctx, AG_EDATA, "%s: line %lld: more than %d fields", w->name,
                               (long long)line, DATA_CSV_MAX_COLUMNS);
            if (cells)
                cells[row * *n_cols + col] = field;
        }
        if (row == 0)
            *n_cols = col;
        if (col != *n_cols)
            return ag_fail(w->ctx, AG_EDATA, "%s: line %lld: %d fields, want %d as in the header",
                           w->name, (long long)line, col, *n_cols);
    }
    *n_rows = row;
    return AG_OK;
}

ag_status data_csv_decode(data_csv *csv, ag_ctx *ctx, const void *bytes, size_t n_bytes,
                          const char *name)
{
    const size_t mark = n_bytes >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3) ? 3 : 0;
    csv_walk w = {.ctx = ctx, .name = name, .n = n_bytes - mark, .line = 1};
    data_csv made = {0};
    int64_t *lines = NULL;
    int64_t n_rows = 0;
    ag_status status;

    if (n_bytes > DATA_CSV_MAX_BYTES)
        return ag_fail(ctx, AG_EDATA, "%s: %zu bytes of CSV, at most %d are read", name, n_bytes,
                       DATA_CSV_MAX_BYTES);
    if (n_bytes && memchr(bytes, 0, n_bytes))
        return ag_fail(ctx, AG_EDATA, "%s: a zero byte, want CSV text", name);
    made.text = ag_new(ctx, w.n + 1, 1, "a CSV file");
    if (!made.text)
        return AG_ENOMEM;
    memcpy(made.text, (const char *)bytes + mark, w.n);
    w.text = made.text;
    status = csv_rows(&w, &made.n_cols, &n_rows, NULL, NULL);
    if (status == AG_OK && n_rows == 0)
        status = ag_fail(ctx, AG_EDATA, "%s: an empty CSV file, want a header line", name);
    if (status != AG_OK)
        goto out;

    made.header =
        ag_new(ctx, (size_t)(n_rows * made.n_cols), sizeof *made.header, "the cells of a CSV");
    lines = ag_new(ctx, (size_t)n_rows, sizeof *lines, "the lines of a CSV");
    made.lines = ag_new(ctx, (size_t)n_rows, sizeof *made.lines, "the lines of a CSV");
    if (!made.header || !lines || !made.lines) {
        status = AG_ENOMEM;
        goto out;
    }
    w.at = 0;
    w.line = 1;
    status = csv_rows(&w, &made.n_cols, &n_rows, made.header, lines);
    if (status != AG_OK)
        goto out;
    made.n_rows = n_rows - 1;
    made.cells = made.header + made.n_cols;
    memcpy(made.lines, lines + 1, (size_t)made.n_rows * sizeof *lines);
    *csv = made;
    made = (data_csv){0};
out:
    ag_delete(lines);
    data_csv_free(&made);
    return status;
}

ag_status data_csv_read(data_csv *csv, ag_ctx *ctx, const char *path)
{
    char *bytes = NULL;
    size_t n = 0;
    ag_status status = data_file_read(&bytes, &n, ctx, path, DATA_CSV_MAX_BYTES);

    if (status == AG_OK)
        status = data_csv_decode(csv, ctx, bytes, n, path);
    ag_delete(bytes);
    return status;
}

void data_csv_free(data_csv *csv)
{
    if (!csv)
        return;
    ag_delete(csv->header); /* cells are in the same block */
    ag_delete(csv->lines);
    ag_delete(csv->text);
    *csv = (data_csv){0};
}

int data_csv_column(const data_csv *csv, const char *name)
{
    for (int i = 0; i < csv->n_cols; i++) {
        if (!strcmp(csv->header[i], name))
            return i;
    }
    return -1;
}
