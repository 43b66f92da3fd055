/* bench_report.c - measurements of both sides put side by side; see bench.h. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "cli/bench.h"
#include "data/json.h"
#include "data/text_file.h"

enum { MAX_BYTES = 16 << 20, MAX_MEASUREMENTS = 10000, MAX_PROCESSOR = 128 };

typedef struct measurement {
    const char *side, *row, *dtype; /* borrowed from the parsed line */
    int64_t px, batch, threads;
    double seconds, gb;
} measurement;

/* --- reading ------------------------------------------------------------------------------------- */

static ag_status read_line(measurement *m, ag_ctx *ctx, const char *name, const json_t *line)
{
    *m = (measurement){.side = data_json_text(ctx, name, line, "side", NULL),
                       .row = data_json_text(ctx, name, line, "row", NULL),
                       .dtype = data_json_text(ctx, name, line, "dtype", NULL),
                       .px = data_json_int(ctx, name, line, "px", 0),
                       .batch = data_json_int(ctx, name, line, "batch", 0),
                       .threads = data_json_int(ctx, name, line, "threads", 0),
                       .seconds = data_json_real(ctx, name, line, "seconds", 0.0),
                       .gb = data_json_real(ctx, name, line, "gb", 0.0)};
    if (ag_status_of(ctx) == AG_OK && (!m->side || !m->row || !m->dtype || m->seconds <= 0.0 || m->gb <= 0.0))
        ag_fail(ctx, AG_EDATA, "%s: no measurement: wanted side, row, dtype, seconds > 0 and gb > 0", name);
    return ag_status_of(ctx);
}

/* The objects of a file of one JSON object a line, as an array; the caller's. */
static json_t *read_lines(ag_ctx *ctx, const char *path)
{
    json_t *all = json_array();
    char *text = NULL;
    size_t size;
    int64_t number = 0;

    if (data_file_read(&text, &size, ctx, path, MAX_BYTES) != AG_OK)
        goto out;
    for (char *at = text, *end; *at && ag_status_of(ctx) == AG_OK; at = end) {
        const size_t length = strcspn(at, "\n");
        char *name = ag_printf(ctx, "%s: line %lld", path, (long long)++number);
        json_t *line = NULL;

        end = at + length + (at[length] == '\n');
        if (name && length > 0 && data_json_parse(&line, ctx, name, at, length) == AG_OK)
            json_array_append_new(all, line);
        ag_delete(name);
    }
    if (ag_status_of(ctx) == AG_OK && json_array_size(all) > MAX_MEASUREMENTS)
        ag_fail(ctx, AG_EDATA, "%s: more than %d measurements", path, MAX_MEASUREMENTS);
out:
    ag_delete(text);
    return all;
}

/* --- pairing ------------------------------------------------------------------------------------- */

static bool is_ours(const measurement *m)
{
    return strcmp(m->side, "ours") == 0;
}

static bool are_alike(const measurement *a, const measurement *b)
{
    return strcmp(a->row, b->row) == 0 && a->px == b->px && a->batch == b->batch && a->threads == b->threads;
}

static json_t *row_object(const measurement *ours, const measurement *peer)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:f, s:s?, s:o, s:o}", "row", ours->row, "px",
                     (json_int_t)ours->px, "batch", (json_int_t)ours->batch, "threads", (json_int_t)ours->threads,
                     "dtype", ours->dtype, "ours_s", ours->seconds, "ours_gb", ours->gb, "peer",
                     peer ? peer->side : NULL, "peer_s", peer ? json_real(peer->seconds) : json_null(), "peer_gb",
                     peer ? json_real(peer->gb) : json_null());
}

/* threads 0: a GPU's. */
static void print_head(int64_t threads)
{
    char processor[MAX_PROCESSOR] = "a processor without a name", line[MAX_PROCESSOR];
    FILE *file = threads ? fopen("/proc/cpuinfo", "r") : NULL;

    while (file && fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value && strlen(value) > 3) {
            snprintf(processor, sizeof processor, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
            break;
        }
    }
    if (file)
        fclose(file);
    if (threads)
        printf("%s, %lld threads. Seconds are the best of several; GB (1e9 bytes) is the most memory the process held. ",
               processor, (long long)threads);
    else
        printf("On the GPU. Seconds are the best of several rounds of ours and the median of the peer's; GB (1e9 bytes) "
               "is the most memory that tensors held there. ");
    printf("A ratio is ours / peer: below 1 we are ahead.\n\n");
    printf("| row             |  px | batch | dtype |  ours s | ours GB |  peer s | peer GB | time  | memory | peer |\n");
    printf("|-----------------|-----|-------|-------|---------|---------|---------|---------|-------|--------|------|\n");
}

static void print_row(const measurement *ours, const measurement *peer)
{
    printf("| %-15s | %3lld | %5lld | %-5s | %7.3f | %7.2f |", ours->row, (long long)ours->px, (long long)ours->batch,
           ours->dtype, ours->seconds, ours->gb);
    if (peer)
        printf(" %7.3f | %7.2f | %5.2f | %6.2f | %s |\n", peer->seconds, peer->gb, ours->seconds / peer->seconds,
               ours->gb / peer->gb, peer->side);
    else
        printf(" %7s | %7s | %5s | %6s | %s |\n", "-", "-", "-", "-", "not installed");
}

/* Every row of ours with each peer that ran the same. */
static void pair(json_t *rows, const measurement *all, int64_t n)
{
    bool is_first = true;

    for (int64_t i = 0; i < n; i++) {
        bool has_peer = false;
        if (!is_ours(&all[i]))
            continue;
        if (is_first)
            print_head(all[i].threads);
        is_first = false;
        for (int64_t k = 0; k < n; k++)
            if (!is_ours(&all[k]) && are_alike(&all[i], &all[k])) {
                json_array_append_new(rows, row_object(&all[i], &all[k]));
                print_row(&all[i], &all[k]);
                has_peer = true;
            }
        if (!has_peer) {
            json_array_append_new(rows, row_object(&all[i], NULL));
            print_row(&all[i], NULL);
        }
    }
}

ag_status bench_report(ag_ctx *ctx, const char *measurements, const char *output)
{
    json_t *lines = read_lines(ctx, measurements), *rows = json_array();
    const int64_t n = (int64_t)json_array_size(lines);
    measurement *all = ag_new(ctx, (size_t)(n + 1), sizeof *all, "measurements");

    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
        read_line(&all[i], ctx, measurements, json_array_get(lines, (size_t)i));
    if (ag_status_of(ctx) == AG_OK && rows) {
        pair(rows, all, n);
        data_json_write(ctx, output, rows);
    }
    ag_delete(all);
    json_decref(rows);
    json_decref(lines);
    return ag_status_of(ctx);
}
