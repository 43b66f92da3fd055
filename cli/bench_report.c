/* bench_report.c - measurements of both sides put side by side; see bench.h. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "cli/bench.h"
#include "data/json.h"
#include "data/text_file.h"

enum { MAX_BYTES = 16 << 20, MAX_MEASUREMENTS = 10000, MAX_PROCESSOR = 128, MAX_LABEL = 96, MAX_BARS = 200 };

typedef struct measurement {
    const char *side, *row, *dtype; /* borrowed from the parsed line */
    int64_t px, batch, threads;
    double seconds, worst, gb; /* worst: the slowest round; at least seconds */
} measurement;

/* A pair to draw. */
typedef struct bar {
    char label[MAX_LABEL];
    double ratio;
} bar;

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
                       .worst = data_json_real(ctx, name, line, "worst_s", 0.0),
                       .gb = data_json_real(ctx, name, line, "gb", 0.0)};
    if (ag_status_of(ctx) == AG_OK && (!m->side || !m->row || !m->dtype || m->seconds <= 0.0 || m->gb <= 0.0))
        ag_fail(ctx, AG_EDATA, "%s: no measurement: wanted side, row, dtype, seconds > 0 and gb > 0", name);
    m->worst = m->worst > m->seconds ? m->worst : m->seconds;
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

/* Peer fields are null without one. ratio is that of the best rounds; low and high, what the rounds of both sides
 * allow. */
static json_t *row_object(const measurement *ours, const measurement *peer)
{
    json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:f, s:s?}", "row", ours->row, "px", (json_int_t)ours->px,
                            "batch", (json_int_t)ours->batch, "threads", (json_int_t)ours->threads, "dtype",
                            ours->dtype, "ours_s", ours->seconds, "ours_gb", ours->gb, "peer",
                            peer ? peer->side : NULL);
    const struct {
        const char *name;
        double value;
    } fields[] = {
        {"peer_s", peer ? peer->seconds : 0.0},
        {"peer_gb", peer ? peer->gb : 0.0},
        {"ratio", peer ? ours->seconds / peer->seconds : 0.0},
        {"ratio_low", peer ? ours->seconds / peer->worst : 0.0},
        {"ratio_high", peer ? ours->worst / peer->seconds : 0.0},
    };

    for (size_t i = 0; row && i < sizeof fields / sizeof *fields; i++)
        json_object_set_new(row, fields[i].name, peer ? json_real(fields[i].value) : json_null());
    return row;
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
    printf("A ratio is ours / peer: below 1 we are ahead; in brackets what the slowest rounds would make of it.\n\n");
    printf("| row             |  px | batch | threads | dtype |  ours s | ours GB |  peer s | peer GB "
           "| time               | memory | peer |\n");
    printf("|-----------------|-----|-------|---------|-------|---------|---------|---------|---------"
           "|--------------------|--------|------|\n");
}

static void print_row(const measurement *ours, const measurement *peer)
{
    printf("| %-15s | %3lld | %5lld | %7lld | %-5s | %7.3f | %7.2f |", ours->row, (long long)ours->px,
           (long long)ours->batch, (long long)ours->threads, ours->dtype, ours->seconds, ours->gb);
    if (peer)
        printf(" %7.3f | %7.2f | %4.2f (%4.2f-%4.2f)   | %6.2f | %s |\n", peer->seconds, peer->gb,
               ours->seconds / peer->seconds, ours->seconds / peer->worst, ours->worst / peer->seconds,
               ours->gb / peer->gb, peer->side);
    else
        printf(" %7s | %7s | %18s | %6s | %s |\n", "-", "-", "-", "-", "not installed");
}

static bar bar_of(const measurement *ours, const measurement *peer)
{
    bar b = {.ratio = ours->seconds / peer->seconds};

    snprintf(b.label, sizeof b.label, "%.24s %lld px, batch %lld, %lld threads / %.16s", ours->row,
             (long long)ours->px, (long long)ours->batch, (long long)ours->threads, peer->side);
    for (char *at = b.label; *at; at++)
        if (strchr("<>&", *at))
            *at = '?';
    return b;
}

/* Every row of ours with each peer that ran the same; bars gets those that have one. Returns how many. */
static int64_t pair(json_t *rows, bar *bars, const measurement *all, int64_t n)
{
    bool is_first = true;
    int64_t n_bars = 0;

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
                if (n_bars < MAX_BARS)
                    bars[n_bars++] = bar_of(&all[i], &all[k]);
                has_peer = true;
            }
        if (!has_peer) {
            json_array_append_new(rows, row_object(&all[i], NULL));
            print_row(&all[i], NULL);
        }
    }
    return n_bars;
}

/* --- the picture ----------------------------------------------------------------------------------- */

/* Bars of our time where a peer's is 1, as SVG. */
static ag_status draw(ag_ctx *ctx, const char *path, const bar *bars, int64_t n)
{
    enum { LEFT = 430, UNIT = 400, LINE = 24, TOP = 30 };
    const int64_t height = TOP + LINE * n + 10;
    char *text = ag_printf(ctx, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%lld\" "
                                "font-family=\"sans-serif\" font-size=\"13\">\n"
                                "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
                                "<text x=\"%d\" y=\"20\">our time, the peer's is 1</text>\n"
                                "<path d=\"M%d %dV%lld\" stroke=\"black\"/>\n",
                           LEFT + UNIT + 120, (long long)height, LEFT, LEFT + UNIT, TOP, (long long)height);

    for (int64_t i = 0; i < n && text; i++) {
        const double shown = bars[i].ratio < 1.2 ? bars[i].ratio : 1.2;
        const int64_t y = TOP + LINE * i;
        char *more = ag_printf(ctx, "%s<text x=\"%d\" y=\"%lld\" text-anchor=\"end\">%s</text>\n"
                                    "<rect x=\"%d\" y=\"%lld\" width=\"%.1f\" height=\"16\" fill=\"%s\"/>\n"
                                    "<text x=\"%.1f\" y=\"%lld\">%.2f</text>\n",
                               text, LEFT - 8, (long long)y + 13, bars[i].label, LEFT, (long long)y, UNIT * shown,
                               bars[i].ratio <= 1.0 ? "#3b7dd8" : "#d8653b", LEFT + UNIT * shown + 5,
                               (long long)y + 13, bars[i].ratio);
        ag_delete(text);
        text = more;
    }
    if (text) {
        char *whole = ag_printf(ctx, "%s</svg>\n", text);
        if (whole)
            data_file_write(ctx, path, whole, strlen(whole));
        ag_delete(whole);
    }
    ag_delete(text);
    return ag_status_of(ctx);
}

/* Beside `output`, its name with .svg; and the line of Markdown that shows it. */
static ag_status draw_beside(ag_ctx *ctx, const char *output, const bar *bars, int64_t n)
{
    const size_t length = strlen(output), stem = length > 5 && strcmp(output + length - 5, ".json") == 0 ? length - 5
                                                                                                         : length;
    char *path = ag_printf(ctx, "%.*s.svg", (int)stem, output);
    const char *slash = path ? strrchr(path, '/') : NULL;

    if (path && draw(ctx, path, bars, n) == AG_OK)
        printf("\n![our time against the peers'](%s)\n", slash ? slash + 1 : path);
    ag_delete(path);
    return ag_status_of(ctx);
}

ag_status bench_report(ag_ctx *ctx, const char *measurements, const char *output)
{
    json_t *lines = read_lines(ctx, measurements), *rows = json_array();
    const int64_t n = (int64_t)json_array_size(lines);
    measurement *all = ag_new(ctx, (size_t)(n + 1), sizeof *all, "measurements");
    bar *bars = ag_new(ctx, MAX_BARS, sizeof *bars, "bars");

    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
        read_line(&all[i], ctx, measurements, json_array_get(lines, (size_t)i));
    if (ag_status_of(ctx) == AG_OK && rows) {
        const int64_t n_bars = pair(rows, bars, all, n);
        if (data_json_write(ctx, output, rows) == AG_OK && n_bars > 0)
            draw_beside(ctx, output, bars, n_bars);
    }
    ag_delete(bars);
    ag_delete(all);
    json_decref(rows);
    json_decref(lines);
    return ag_status_of(ctx);
}
