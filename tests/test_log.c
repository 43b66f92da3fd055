/* test_log.c - log.csv goes on after a resume; TensorBoard's records are read back by a reader
 * written here from the format's description.
 */
#include "tests/train_check.h"

#include "data/checksum.h"
#include "train/log.h"
#include "train/tensorboard.h"

/* --- an event file's reader ------------------------------------------------------------------- */

typedef struct bytes {
    const uint8_t *p;
    size_t n;
} bytes;

static uint64_t take_varint(bytes *b)
{
    uint64_t value = 0;

    for (int shift = 0;; shift += 7) {
        assert_true(b->n > 0 && shift < 64);
        value |= (uint64_t)(*b->p & 0x7f) << shift;
        b->n--;
        if (!(*b->p++ & 0x80))
            return value;
    }
}

/* One field of a message. */
typedef struct field {
    int number;
    uint64_t integer;
    double real;
    bytes inside;
} field;

static bool take_field(field *f, bytes *b)
{
    uint64_t key;
    float single;

    if (b->n == 0)
        return false;
    *f = (field){0};
    key = take_varint(b);
    f->number = (int)(key >> 3);
    switch (key & 7) {
    case 0:
        f->integer = take_varint(b);
        return true;
    case 1:
        assert_true(b->n >= 8);
        memcpy(&f->real, b->p, 8);
        b->p += 8;
        b->n -= 8;
        return true;
    case 2:
        f->inside.n = take_varint(b);
        f->inside.p = b->p;
        assert_true(f->inside.n <= b->n);
        b->p += f->inside.n;
        b->n -= f->inside.n;
        return true;
    case 5:
        assert_true(b->n >= 4);
        memcpy(&single, b->p, 4);
        f->real = single;
        b->p += 4;
        b->n -= 4;
        return true;
    default:
        fail_msg("wire type %d", (int)(key & 7));
    }
    return false;
}

static uint32_t unmasked(uint32_t sum)
{
    sum -= 0xa282ead8u;
    return sum >> 17 | sum << 15;
}

static bool take_record(bytes *record, bytes *file)
{
    uint64_t n;
    uint32_t sum;

    if (file->n == 0)
        return false;
    assert_true(file->n >= 16);
    memcpy(&n, file->p, 8);
    memcpy(&sum, file->p + 8, 4);
    assert_int_equal(unmasked(sum), data_crc_plain(0, file->p, 8, true));
    assert_true(n <= file->n - 16);
    *record = (bytes){file->p + 12, n};
    memcpy(&sum, file->p + 12 + n, 4);
    assert_int_equal(unmasked(sum), data_crc_plain(0, record->p, n, true));
    file->p += 16 + n;
    file->n -= 16 + n;
    return true;
}

typedef struct event {
    double time, value;
    int64_t step;
    char version[32], tag[300];
    bool restarts;
    int64_t width, height, channels;
    bytes png;
} event;

static void copy_text(char *to, size_t size, bytes from)
{
    assert_true(from.n < size);
    memcpy(to, from.p, from.n);
    to[from.n] = 0;
}

static event read_event(bytes record)
{
    event e = {0};
    field f, g, h;

    while (take_field(&f, &record)) {
        if (f.number == 1)
            e.time = f.real;
        else if (f.number == 2)
            e.step = (int64_t)f.integer;
        else if (f.number == 3)
            copy_text(e.version, sizeof e.version, f.inside);
        else if (f.number == 7)
            e.restarts = take_field(&g, &f.inside) && g.number == 1 && g.integer == 1;
        else if (f.number == 5) {
            assert_true(take_field(&g, &f.inside) && g.number == 1 && f.inside.n == 0);
            while (take_field(&h, &g.inside)) {
                if (h.number == 1)
                    copy_text(e.tag, sizeof e.tag, h.inside);
                else if (h.number == 2)
                    e.value = h.real;
                else if (h.number == 4) {
                    while (take_field(&f, &h.inside)) {
                        e.height = f.number == 1 ? (int64_t)f.integer : e.height;
                        e.width = f.number == 2 ? (int64_t)f.integer : e.width;
                        e.channels = f.number == 3 ? (int64_t)f.integer : e.channels;
                        if (f.number == 4)
                            e.png = f.inside;
                    }
                } else
                    fail_msg("field %d of a value", h.number);
            }
        } else
            fail_msg("field %d of an event", f.number);
    }
    return e;
}

/* The next event of a file. */
static event next_event(bytes *file)
{
    bytes record;

    assert_true(take_record(&record, file));
    return read_event(record);
}

/* --- event files ------------------------------------------------------------------------------ */

static void test_events(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_events *events = NULL;
    char folder[256], tag[400];
    uint8_t png[3000];
    size_t size;
    char *text;
    bytes file;
    event e;

    (void)state;
    check_folder(folder);
    for (size_t i = 0; i < sizeof png; i++)
        png[i] = (uint8_t)(i * 7);
    train_events_open(&events, ctx, check_join(folder, "logs/here"), 0);
    check_ok(ctx, "open");
    train_events_scalar(ctx, events, "loss", 1, 0.25);
    train_events_scalar(ctx, events, "lr", 1000000007, -1.5e-7);
    train_events_picture(ctx, events, "faces/70", 3, 640, 480, png, sizeof png);
    memset(tag, 'x', sizeof tag);
    tag[TRAIN_TAG_MAX] = 0;
    train_events_scalar(ctx, events, tag, 0, 7.0);
    check_ok(ctx, "add");
    tag[TRAIN_TAG_MAX] = 'x';
    tag[TRAIN_TAG_MAX + 1] = 0;
    train_events_scalar(ctx, events, tag, 0, 7.0);
    check_failed_with(ctx, AG_EINVAL, "longer than");

    text = check_file(&size, train_events_path(events));
    file = (bytes){(const uint8_t *)text, size};
    e = next_event(&file);
    assert_string_equal(e.version, "brain.Event:2");
    assert_true(e.time > 1.6e9);
    e = next_event(&file);
    assert_string_equal(e.tag, "loss");
    assert_true(e.step == 1 && e.value == 0.25);
    e = next_event(&file);
    assert_true(e.step == 1000000007 && e.value == (float)-1.5e-7);
    e = next_event(&file);
    assert_string_equal(e.tag, "faces/70");
    assert_true(e.width == 640 && e.height == 480 && e.channels == 3 && e.png.n == sizeof png);
    assert_memory_equal(e.png.p, png, sizeof png);
    e = next_event(&file);
    assert_int_equal(strlen(e.tag), TRAIN_TAG_MAX);
    assert_int_equal(file.n, 0);
    free(text);
    train_events_close(events);

    /* a run that goes on: another file, and what comes after update 12 is made again */
    train_events_open(&events, ctx, check_join(folder, "logs/here"), 12);
    check_ok(ctx, "open again");
    assert_int_equal(check_count(check_join(folder, "logs/here"), "events.out.tfevents."), 2);
    text = check_file(&size, train_events_path(events));
    file = (bytes){(const uint8_t *)text, size};
    next_event(&file);
    e = next_event(&file);
    assert_true(e.restarts && e.step == 13);
    free(text);
    train_events_close(events);
    train_events_open(&events, ctx, "/proc/nowhere", 0);
    check_failed_with(ctx, AG_EIO, "/proc/nowhere");
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- log.csv ---------------------------------------------------------------------------------- */

static train_log_row row_of(int64_t update)
{
    return (train_log_row){.update = update,
                           .epoch = update / 3,
                           .loss = 1.0 / (double)update,
                           .lr = 5e-6,
                           .grad_norm = 2.0,
                           .seconds = 0.5};
}

static void run(ag_ctx *ctx, const char *folder, const char *report_to, int64_t first, int64_t last)
{
    train_log *log = NULL;

    train_log_new(&log, ctx, folder, "logs", report_to, "test", first, 10);
    check_ok(ctx, "log");
    train_log_progress(log, "latents", 1, 2); /* no terminal here: silent */
    for (int64_t u = first + 1; u <= last; u++) {
        const train_log_row row = row_of(u);
        train_log_add(log, ctx, &row);
        train_log_scalar(log, ctx, "more", u, 1.0);
    }
    check_ok(ctx, "add");
    train_log_free(log);
}

/* log.csv holds the rows of updates 1..n. */
static void has_rows(const char *folder, int n)
{
    size_t size;
    char *text = check_file(&size, check_join(folder, "log.csv")), *line = text;

    assert_int_equal(
        strncmp(line, "update,epoch,loss,lr,grad_norm,seconds,step_bytes,peak_bytes\n", 61), 0);
    for (int u = 1; u <= n; u++) {
        double loss, lr, norm, seconds;
        long long update, epoch, step_bytes, peak;
        line = strchr(line, '\n') + 1;
        assert_int_equal(sscanf(line, "%lld,%lld,%lf,%lf,%lf,%lf,%lld,%lld\n", &update, &epoch,
                                &loss, &lr, &norm, &seconds, &step_bytes, &peak),
                         8);
        assert_int_equal(update, u);
        assert_int_equal(epoch, u / 3);
        check_close("loss", u, loss, 1.0 / u, 0.0, 1e-8);
        check_close("lr", u, lr, 5e-6, 0.0, 1e-8);
    }
    assert_int_equal(line + strlen(line) - text, size);
    assert_int_equal(*(strchr(line, '\n') + 1), 0);
    free(text);
}

static void test_csv(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_log *log = NULL;
    char folder[256];
    size_t size;
    char *text;

    (void)state;
    check_folder(folder);
    run(ctx, folder, "none", 0, 6);
    has_rows(folder, 6);
    assert_false(check_exists(check_join(folder, "logs")));
    run(ctx, folder, "none", 4, 5); /* resumed: updates 5 and 6 are made again */
    has_rows(folder, 5);

    text = check_file(&size, check_join(folder, "log.csv"));
    check_file_write(check_join(folder, "log.csv"), text, size - 5); /* killed within a row */
    free(text);
    run(ctx, folder, "tensorboard", 4, 10);
    has_rows(folder, 10);
    assert_int_equal(check_count(check_join(folder, "logs"), "events.out.tfevents."), 1);
    run(ctx, folder, "none", 0, 2); /* a new run */
    has_rows(folder, 2);
    unlink(check_join(folder, "log.csv"));
    run(ctx, folder, "none", 3, 3);
    has_rows(folder, 0);

    check_file_write(check_join(folder, "log.csv"), "my own notes\n", 13);
    train_log_new(&log, ctx, folder, "logs", "none", "test", 1, 10);
    check_failed_with(ctx, AG_EDATA, "log.csv: line 1");
    train_log_new(&log, ctx, folder, "logs", "wandb", "test", 0, 10);
    check_failed_with(ctx, AG_EINVAL, "--report_to wandb");
    train_log_new(&log, ctx, check_join(folder, "no"), "logs", "none", "test", 0, 10);
    check_failed_with(ctx, AG_EIO, "/no/log.csv");
    for (int64_t n = 0;; n++) {
        ag_refuse_allocation(ctx, n, true);
        train_log_new(&log, ctx, folder, "logs", "tensorboard", "test", 0, 10);
        ag_refuse_allocation(ctx, -1, false);
        if (ag_status_of(ctx) == AG_OK)
            break;
        check_failed(ctx, AG_ENOMEM, "log");
    }
    train_log_free(log);
    train_log_free(NULL);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_full_disk(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_log *log = NULL;
    const train_log_row row = row_of(1);
    char folder[256];
    int n = 0;

    (void)state;
    if (access("/dev/full", W_OK) != 0) {
        printf("SKIP a full disk: there is no /dev/full\n");
        ag_ctx_free(ctx);
        return;
    }
    check_folder(folder);
    train_log_new(&log, ctx, folder, "logs", "none", "test", 0, 10);
    check_ok(ctx, "log");
    for (int fd = 3; fd < 256; fd++) { /* put /dev/full in place of log.csv */
        char link[64], target[1024] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, target, sizeof target - 1) > 0 && strstr(target, "log.csv")) {
            const int full = open("/dev/full", O_WRONLY);
            assert_int_equal(dup2(full, fd), fd);
            close(full);
            n++;
        }
    }
    assert_int_equal(n, 1);
    train_log_add(log, ctx, &row);
    check_failed_with(ctx, AG_EIO, "No space left");
    train_log_free(log);
    check_remove(folder);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_full_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
