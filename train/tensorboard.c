/* tensorboard.c - see tensorboard.h. */
#include "train/tensorboard.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "data/checksum.h"
#include "data/text_file.h"

struct train_events {
    char *path;
    int fd;
};

/* --- protocol buffers ------------------------------------------------------------------------- */

/* A message under construction. Tags are bounded, so every message fits its room. */
typedef struct message {
    uint8_t *bytes;
    size_t room, n;
} message;

enum { SMALL_MESSAGE = 2 * TRAIN_TAG_MAX };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void put_bytes(message *m, const void *bytes, size_t n)
{
    assert(m->n + n <= m->room);
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

static void put_varint(message *m, uint64_t value)
{
    uint8_t bytes[10];
    size_t n = 0;

    do {
        bytes[n++] = (uint8_t)(value & 0x7f) | (value > 0x7f ? 0x80 : 0);
        value >>= 7;
    } while (value);
    put_bytes(m, bytes, n);
}

static void put_key(message *m, int field, int wire)
{
    put_varint(m, (uint64_t)(field << 3 | wire));
}

static void put_int(message *m, int field, int64_t value)
{
    put_key(m, field, WIRE_VARINT);
    put_varint(m, (uint64_t)value);
}

static void put_double(message *m, int field, double value)
{
    put_key(m, field, WIRE_64);
    put_bytes(m, &value, sizeof value); /* little-endian, as this machine is */
}

static void put_float(message *m, int field, float value)
{
    put_key(m, field, WIRE_32);
    put_bytes(m, &value, sizeof value);
}

/* The head of a text, or of a message inside, whose n bytes follow. */
static void put_head(message *m, int field, size_t n)
{
    put_key(m, field, WIRE_BYTES);
    put_varint(m, n);
}

static void put_text(message *m, int field, const char *text)
{
    put_head(m, field, strlen(text));
    put_bytes(m, text, strlen(text));
}

/* --- records ---------------------------------------------------------------------------------- */

/* A sum of sums is weak, and records hold sums: they are turned and moved first. */
static uint32_t masked(uint32_t crc)
{
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* Write all parts, retrying what is left of a short write; returns 0 or an errno value. */
static int write_parts(int fd, struct iovec *parts, int n)
{
    while (n > 0) {
        ssize_t done = writev(fd, parts, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno;
        while (n > 0 && (size_t)done >= parts->iov_len) {
            done -= (ssize_t)parts->iov_len;
            parts++;
            n--;
        }
        if (n > 0) {
            parts->iov_base = (char *)parts->iov_base + done;
            parts->iov_len -= (size_t)done;
        }
    }
    return 0;
}

/* Append one event: `head`, then `tail_size` bytes that are the end of its innermost message. */
static ag_status put_record(ag_ctx *ctx, train_events *e, const message *head, const void *tail,
                            size_t tail_size)
{
    const uint64_t n = head->n + tail_size;
    struct {
        uint64_t n;
        uint32_t sum;
    } __attribute__((packed)) first = {n, masked(data_crc32c(0, &n, sizeof n))};
    const uint32_t last =
        masked(data_crc32c(data_crc32c(0, head->bytes, head->n), tail, tail_size));
    struct iovec parts[] = {{&first, sizeof first},
                            {head->bytes, head->n},
                            {(void *)tail, tail_size},
                            {(void *)&last, sizeof last}};
    int error;

    error = write_parts(e->fd, parts, sizeof parts / sizeof *parts);
    if (error)
        return ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", e->path, strerror(error));
    return AG_OK;
}

static double wall_time(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- events ----------------------------------------------------------------------------------- */

static ag_status put_version(ag_ctx *ctx, train_events *e)
{
    uint8_t room[64];
    message m = {room, sizeof room, 0};

    put_double(&m, 1, wall_time());
    put_text(&m, 3, "brain.Event:2");
    return put_record(ctx, e, &m, NULL, 0);
}

static ag_status put_restart(ag_ctx *ctx, train_events *e, int64_t step)
{
    uint8_t room[64], inside[16];
    message m = {room, sizeof room, 0}, log = {inside, sizeof inside, 0};

    put_int(&log, 1, 1);
    put_double(&m, 1, wall_time());
    put_int(&m, 2, step);
    put_head(&m, 7, log.n);
    put_bytes(&m, log.bytes, log.n);
    return put_record(ctx, e, &m, NULL, 0);
}

ag_status train_events_open(train_events **out, ag_ctx *ctx, const char *folder, int64_t first)
{
    train_events *e = ag_new(ctx, 1, sizeof *e, folder);
    char host[64] = "";

    if (!e)
        return ag_status_of(ctx);
    e->fd = -1;
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < 1000 && e->fd < 0 && data_folder_make(ctx, folder) == AG_OK; i++) {
        ag_delete(e->path);
        e->path = ag_printf(ctx, "%s/events.out.tfevents.%010lld.%s.%ld.%d", folder,
                            (long long)time(NULL), host, (long)getpid(), i);
        if (!e->path)
            break;
        e->fd = open(e->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (e->fd < 0 && errno != EEXIST)
            ag_fail(ctx, AG_EIO, "%s: %s", e->path, strerror(errno));
    }
    if (ag_status_of(ctx) == AG_OK && put_version(ctx, e) == AG_OK && first > 0)
        put_restart(ctx, e, first + 1);
    if (ag_status_of(ctx) != AG_OK) {
        train_events_close(e);
        return ag_status_of(ctx);
    }
    *out = e;
    return AG_OK;
}

void train_events_close(train_events *e)
{
    if (!e)
        return;
    if (e->fd >= 0)
        close(e->fd);
    ag_delete(e->path);
    ag_delete(e);
}

const char *train_events_path(const train_events *e)
{
    return e->path;
}

/* Event{wall_time, step, Summary{Value{...}}}, the value's `value->n + tail` bytes at its end. */
static void put_value(message *m, int64_t step, const message *value, size_t tail)
{
    uint8_t room[16];
    message head = {room, sizeof room, 0};

    put_head(&head, 1, value->n + tail); /* of the value in its summary */
    put_double(m, 1, wall_time());
    put_int(m, 2, step);
    put_head(m, 5, head.n + value->n + tail);
    put_bytes(m, head.bytes, head.n);
    put_bytes(m, value->bytes, value->n);
}

ag_status train_events_scalar(ag_ctx *ctx, train_events *e, const char *tag, int64_t step,
                              double value)
{
    uint8_t room[SMALL_MESSAGE], inside[TRAIN_TAG_MAX + 64];
    message m = {room, sizeof room, 0}, v = {inside, sizeof inside, 0};

    if (strlen(tag) > TRAIN_TAG_MAX)
        return ag_fail(ctx, AG_EINVAL, "%s: a tag longer than %d bytes", e->path, TRAIN_TAG_MAX);
    put_text(&v, 1, tag);
    put_float(&v, 2, (float)value);
    put_value(&m, step, &v, 0);
    return put_record(ctx, e, &m, NULL, 0);
}

ag_status train_events_picture(ag_ctx *ctx, train_events *e, const char *tag, int64_t step,
                               int64_t width, int64_t height, const void *png, size_t size)
{
    uint8_t room[SMALL_MESSAGE], inside[TRAIN_TAG_MAX + 64], deepest[64];
    message m = {room, sizeof room, 0}, v = {inside, sizeof inside, 0},
            image = {deepest, sizeof deepest, 0};

    if (strlen(tag) > TRAIN_TAG_MAX)
        return ag_fail(ctx, AG_EINVAL, "%s: a tag longer than %d bytes", e->path, TRAIN_TAG_MAX);
    put_int(&image, 1, height);
    put_int(&image, 2, width);
    put_int(&image, 3, 3);
    put_head(&image, 4, size);
    put_text(&v, 1, tag);
    put_head(&v, 4, image.n + size);
    put_bytes(&v, image.bytes, image.n);
    put_value(&m, step, &v, size);
    return put_record(ctx, e, &m, png, size);
}
