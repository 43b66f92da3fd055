/* log.c - see log.h.
 *
 * step_bytes is the most that activations and the tape took at once so far; peak_bytes is all
 * tensor memory the allocator has touched, which is what the operating system sees.
 */
#include "train/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "data/file.h"
#include "train/tensorboard.h"

static const char UPDATES[] = "update,epoch,loss,lr,grad_norm,seconds,step_bytes,peak_bytes\n";
static const char VALIDATIONS[] = "update,loss\n";
static const double SMOOTHING = 0.95; /* of the loss and the time that people see */
enum { MAX_CSV_BYTES = 1 << 30, LINE = 256 };

/* A CSV file that grows; its first column is an update. */
typedef struct table {
    char *path;
    int fd; /* -1: not open */
} table;

struct train_log {
    const char *what;
    char *folder;  /* of the tables */
    int64_t first; /* updates made already when it began */
    table updates, validations;
    train_events *events; /* NULL: nobody reads them */
    int64_t total;
    int64_t n_rows;       /* since the start of this process */
    double loss, seconds; /* running means, before the correction for their first rows */
    bool has_line;
};

/* --- the terminal ----------------------------------------------------------------------------- */

/* A progress line is left with the cursor at its beginning, so whatever is printed next takes its
 * place and nobody has to know that it is there. */
static void show(const char *text)
{
    struct winsize size;
    int width = LINE;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        width = size.ws_col - 1;
    fprintf(stderr, "%.*s\x1b[K\r", width, text);
    fflush(stderr);
}

void train_note(train_log *log, const char *format, ...)
{
    va_list args;

    (void)log;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs(isatty(STDERR_FILENO) ? "\x1b[K\n" : "\n", stderr);
}

void train_log_progress(train_log *log, const char *what, int64_t done, int64_t total)
{
    char text[LINE];

    if (!isatty(STDERR_FILENO))
        return;
    snprintf(text, sizeof text, "%s %lld/%lld", what, (long long)done, (long long)total);
    show(text);
    if (log)
        log->has_line = true;
}

/* "1h02m", "2m05s", "7s". */
static const char *duration(char text[32], double seconds)
{
    const long long s = (long long)(seconds + 0.5);

    if (s >= 3600)
        snprintf(text, 32, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(text, 32, "%lldm%02llds", s / 60, s % 60);
    else
        snprintf(text, 32, "%llds", s);
    return text;
}

static double gigabytes_now(const ag_ctx *ctx)
{
    double sum = 0.0;

    for (int l = 0; l < AG_N_LIFETIMES; l++)
        sum += (double)ag_bytes_now(ctx, (ag_lifetime)l);
    return sum * 1e-9;
}

static void show_update(train_log *log, const ag_ctx *ctx, const train_log_row *row)
{
    const double correction = 1.0 - pow(SMOOTHING, (double)log->n_rows);
    const double seconds = log->seconds / correction;
    char text[LINE], left[32], scale[32] = "";

    if (!isatty(STDERR_FILENO))
        return;
    if (row->loss_scale > 0.0)
        snprintf(scale, sizeof scale, "  scale %g", row->loss_scale);
    snprintf(text, sizeof text,
             "%s %lld/%lld  loss %.4f  lr %.3g%s  %.3g s/step  %s left  %.2f GB, at most %.2f GB",
             log->what, (long long)row->update, (long long)log->total, log->loss / correction,
             row->lr, scale, seconds, duration(left, seconds * (double)(log->total - row->update)),
             gigabytes_now(ctx), (double)ag_bytes_touched(ctx) * 1e-9);
    show(text);
    log->has_line = true;
}

/* --- tables ----------------------------------------------------------------------------------- */

/* Keep the header and whole rows of updates up to `last` in text, in place; returns their bytes, 0
 * when it does not begin with the header. */
static size_t cut_rows(char *text, size_t size, const char *header, int64_t last)
{
    size_t kept = strlen(header), at = kept;

    if (size < kept || memcmp(text, header, kept) != 0)
        return 0;
    while (at < size) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n;
        if (!end) /* a row cut short by a kill */
            break;
        n = (size_t)(end - (text + at)) + 1;
        if (strtoll(text + at, NULL, 10) <= last) {
            memmove(text + kept, text + at, n);
            kept += n;
        }
        at += n;
    }
    return kept;
}

/* Begin folder/name, or go on with it after `first` updates. */
static ag_status table_open(table *t, ag_ctx *ctx, const char *folder, const char *name, const char *header,
                            int64_t first)
{
    char *text = NULL;
    size_t size = 0, kept;

    t->path = ag_printf(ctx, "%s/%s", folder, name);
    if (!t->path)
        return ag_status_of(ctx);
    if (first > 0 && data_is_file(t->path)) {
        if (data_file_read(&text, &size, ctx, t->path, MAX_CSV_BYTES) != AG_OK)
            return ag_status_of(ctx);
        kept = cut_rows(text, size, header, first);
        if (kept == 0)
            ag_fail(ctx, AG_EDATA, "%s: line 1: wanted %.*s", t->path, (int)strlen(header) - 1, header);
        else
            data_file_write(ctx, t->path, text, kept);
        ag_delete(text);
    } else {
        data_file_write(ctx, t->path, header, strlen(header));
    }
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    t->fd = open(t->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (t->fd < 0)
        return ag_fail(ctx, AG_EIO, "%s: %s", t->path, strerror(errno));
    return AG_OK;
}

static ag_status table_add(const table *t, ag_ctx *ctx, const char *row, int n)
{
    ssize_t done;

    do
        done = write(t->fd, row, (size_t)n);
    while (done < 0 && errno == EINTR);
    if (done != n)
        return ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", t->path,
                       strerror(done < 0 ? errno : ENOSPC));
    return AG_OK;
}

static void table_close(table *t)
{
    if (t->fd >= 0)
        close(t->fd);
    ag_delete(t->path);
}

static ag_status add_row(const train_log *log, ag_ctx *ctx, const train_log_row *row)
{
    char text[LINE];
    const int n =
        snprintf(text, sizeof text, "%lld,%lld,%.9g,%.9g,%.9g,%.6g,%zu,%zu\n",
                 (long long)row->update, (long long)row->epoch, row->loss, row->lr, row->grad_norm,
                 row->seconds, ag_bytes_peak(ctx, AG_STEP), ag_bytes_touched(ctx));

    return table_add(&log->updates, ctx, text, n);
}

/* --- a run's log ------------------------------------------------------------------------------ */

ag_status train_log_check(ag_ctx *ctx, const char *report_to)
{
    if (strcmp(report_to, "tensorboard") != 0 && strcmp(report_to, "none") != 0)
        return ag_fail(ctx, AG_EINVAL, "--report_to %s: wanted tensorboard or none", report_to);
    return ag_status_of(ctx);
}

char *train_log_folder(ag_ctx *ctx, const char *output_dir, const char *logging_dir)
{
    return logging_dir[0] == '/' ? ag_strdup(ctx, logging_dir)
                                 : ag_printf(ctx, "%s/%s", output_dir, logging_dir);
}

static ag_status begin_events(train_log *log, ag_ctx *ctx, const char *output_dir,
                              const char *logging_dir, int64_t first)
{
    char *folder = train_log_folder(ctx, output_dir, logging_dir);

    if (folder)
        train_events_open(&log->events, ctx, folder, first);
    ag_delete(folder);
    return ag_status_of(ctx);
}

ag_status train_log_new(train_log **out, ag_ctx *ctx, const char *output_dir,
                        const char *logging_dir, const char *report_to, const char *what,
                        int64_t first, int64_t total)
{
    const bool wants_events = strcmp(report_to, "tensorboard") == 0;
    train_log *log;

    if (train_log_check(ctx, report_to) != AG_OK)
        return ag_status_of(ctx);
    log = ag_new(ctx, 1, sizeof *log, "log");
    if (!log)
        return ag_status_of(ctx);
    log->what = what;
    log->updates.fd = log->validations.fd = -1;
    log->first = first;
    log->total = total;
    log->folder = ag_strdup(ctx, output_dir);
    if (log->folder && table_open(&log->updates, ctx, output_dir, "log.csv", UPDATES, first) == AG_OK &&
        wants_events)
        begin_events(log, ctx, output_dir, logging_dir, first);
    if (ag_status_of(ctx) != AG_OK) {
        train_log_free(log);
        return ag_status_of(ctx);
    }
    *out = log;
    return AG_OK;
}

void train_log_free(train_log *log)
{
    if (!log)
        return;
    if (log->has_line)
        fputc('\n', stderr);
    table_close(&log->updates);
    table_close(&log->validations);
    train_events_close(log->events);
    ag_delete(log->folder);
    ag_delete(log);
}

ag_status train_log_add(train_log *log, ag_ctx *ctx, const train_log_row *row)
{
    log->n_rows++;
    log->loss = SMOOTHING * log->loss + (1.0 - SMOOTHING) * row->loss;
    log->seconds = SMOOTHING * log->seconds + (1.0 - SMOOTHING) * row->seconds;
    if (add_row(log, ctx, row) == AG_OK &&
        train_log_scalar(log, ctx, "loss", row->update, row->loss) == AG_OK &&
        train_log_scalar(log, ctx, "lr", row->update, row->lr) == AG_OK)
        train_log_scalar(log, ctx, "grad_norm", row->update, row->grad_norm);
    if (row->loss_scale > 0.0)
        train_log_scalar(log, ctx, "loss_scale", row->update, row->loss_scale);
    show_update(log, ctx, row);
    return ag_status_of(ctx);
}

ag_status train_log_scalar(train_log *log, ag_ctx *ctx, const char *tag, int64_t update,
                           double value)
{
    return log->events ? train_events_scalar(ctx, log->events, tag, update, value) : AG_OK;
}

ag_status train_log_validation(train_log *log, ag_ctx *ctx, int64_t update, double loss)
{
    char text[LINE];
    const int n = snprintf(text, sizeof text, "%lld,%.9g\n", (long long)update, loss);

    train_note(log, "update %lld: validation loss %.6f", (long long)update, loss);
    if (log->validations.fd < 0)
        table_open(&log->validations, ctx, log->folder, "validation.csv", VALIDATIONS, log->first);
    if (ag_status_of(ctx) == AG_OK && table_add(&log->validations, ctx, text, n) == AG_OK)
        train_log_scalar(log, ctx, "validation_loss", update, loss);
    return ag_status_of(ctx);
}

ag_status train_log_picture(train_log *log, ag_ctx *ctx, const char *tag, int64_t update, int64_t width,
                            int64_t height, const void *png, size_t size)
{
    return log->events ? train_events_picture(ctx, log->events, tag, update, width, height, png, size) : AG_OK;
}
