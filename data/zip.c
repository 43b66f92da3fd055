/* zip.c - listing a zip archive of stored members; see zip.h for what is taken. */
#include "data/zip.h"

#include <stdlib.h>
#include <string.h>

#include "data/weights_internal.h"

enum {
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    ENTRY_BYTES = 46,
    LOCAL_BYTES = 30,
    DESCRIPTOR_BYTES = 24, /* the longest: signature, sum, two sizes of eight bytes */
    FLAG_ENCRYPTED = 0x0001,
    FLAG_DESCRIPTOR = 0x0008, /* sum and sizes stand after the bytes, zeros in the local header */
    FLAG_STRONG = 0x0040,
    FLAG_MASKED = 0x2000
};

static uint64_t number(const uint8_t *p, int n_bytes)
{
    uint64_t value = 0;

    while (n_bytes-- > 0)
        value = value << 8 | p[n_bytes];
    return value;
}

static bool is_signed(const uint8_t *p, uint8_t third, uint8_t fourth)
{
    return p[0] == 'P' && p[1] == 'K' && p[2] == third && p[3] == fourth;
}

/* --- the end record --------------------------------------------------------------------------- */

typedef struct directory {
    uint64_t at, size, n_entries;
} directory;

/* Find the central directory through the record(s) at the end of the file. */
static ag_status find_directory(directory *out, ag_ctx *ctx, const data_file *file)
{
    uint8_t tail[END64_BYTES + LOCATOR_BYTES + END_BYTES], *end;
    const uint64_t n = file->size < sizeof tail ? file->size : sizeof tail;
    const uint8_t *wide = NULL;
    uint64_t end_at; /* where the directory must end */
    ag_status status;

    if (file->size < LOCAL_BYTES + END_BYTES)
        return ag_fail(ctx, AG_EDATA, "%s: an archive cut short", file->path);
    memset(tail, 0, sizeof tail);
    end = tail + sizeof tail - END_BYTES;
    status = data_file_get(ctx, file, file->size - n, (size_t)n, tail + sizeof tail - n);
    if (status != AG_OK)
        return status;
    if (!is_signed(end, 5, 6) || number(end + 20, 2) != 0)
        return ag_fail(ctx, AG_EDATA, "%s: the archive has no end record at its end (cut short, or "
                       "something was added)", file->path);
    end_at = file->size - END_BYTES;
    if (is_signed(end - LOCATOR_BYTES, 6, 7)) {
        wide = tail;
        end_at = file->size - sizeof tail;
        if (file->size < sizeof tail || !is_signed(wide, 6, 6) || number(wide + 4, 8) != 44 ||
            number(end - LOCATOR_BYTES + 8, 8) != end_at ||
            number(end - LOCATOR_BYTES + 4, 4) != 0 || number(end - LOCATOR_BYTES + 16, 4) > 1 ||
            number(wide + 16, 4) != 0 || number(wide + 20, 4) != 0 ||
            number(wide + 24, 8) != number(wide + 32, 8))
            return ag_fail(ctx, AG_EDATA, "%s: the archive's zip64 end record is damaged",
                           file->path);
        *out = (directory){number(wide + 48, 8), number(wide + 40, 8), number(wide + 32, 8)};
    } else {
        *out = (directory){number(end + 16, 4), number(end + 12, 4), number(end + 10, 2)};
    }
    /* with zip64 the old fields are equal or all ones */
    if (number(end + 4, 2) != number(end + 6, 2) ||
        (number(end + 4, 2) != 0 && !(wide && number(end + 4, 2) == 0xFFFF)) ||
        number(end + 8, 2) != number(end + 10, 2) ||
        (number(end + 10, 2) != out->n_entries && !(wide && number(end + 10, 2) == 0xFFFF)) ||
        (number(end + 12, 4) != out->size && !(wide && number(end + 12, 4) == 0xFFFFFFFF)) ||
        (number(end + 16, 4) != out->at && !(wide && number(end + 16, 4) == 0xFFFFFFFF)))
        return ag_fail(ctx, AG_EDATA, "%s: the archive's end records contradict each other",
                       file->path);
    if (out->at > end_at || out->size != end_at - out->at)
        return ag_fail(ctx, AG_EDATA,
                       "%s: the archive's directory is not where its end record says", file->path);
    if (out->size > DATA_ZIP_DIRECTORY_BYTES || out->n_entries > DATA_ZIP_MEMBERS ||
        out->n_entries > out->size / ENTRY_BYTES)
        return ag_fail(ctx, AG_EDATA, "%s: a directory of %llu members in %llu bytes is not taken",
                       file->path, (unsigned long long)out->n_entries,
                       (unsigned long long)out->size);
    return AG_OK;
}

/* --- members ---------------------------------------------------------------------------------- */

static ag_status bad_member(ag_ctx *ctx, const data_file *file, const char *name, const char *what)
{
    char shown[WEIGHTS_SHOWN];

    return ag_fail(ctx, AG_EDATA, "%s: archive member %s: %s", file->path,
                   weights_shown(shown, name, strlen(name)), what);
}

/* Relative, and leading nowhere else. */
static bool is_plain_path(const char *name, size_t n)
{
    if (n == 0 || n > DATA_ZIP_NAME || name[0] == '/' || !weights_is_utf8(name, n))
        return false;
    for (size_t i = 0, start = 0; i <= n; i++) {
        if (i < n && (name[i] == '\\' || name[i] == ':' || (unsigned char)name[i] < ' '))
            return false;
        if (i == n || name[i] == '/') {
            if (i - start == 2 && name[start] == '.' && name[start + 1] == '.')
                return false;
            start = i + 1;
        }
    }
    return true;
}

/* Replace values of all ones by those of the zip64 extra field, in its fixed order. */
static bool widen(uint64_t *values[3], const uint8_t *extra, size_t n_extra, const bool ones[3])
{
    const uint8_t *at = NULL, *end = NULL;

    for (size_t i = 0; i + 4 <= n_extra;) {
        const size_t size = (size_t)number(extra + i + 2, 2);

        if (size > n_extra - i - 4)
            return false;
        if (number(extra + i, 2) == 1) {
            if (at)
                return false;
            at = extra + i + 4;
            end = at + size;
        }
        i += 4 + size;
    }
    for (int v = 0; v < 3; v++) {
        if (!ones[v])
            continue;
        if (!at || end - at < 8)
            return false;
        *values[v] = number(at, 8);
        at += 8;
    }
    return true;
}

/* One entry of the directory, `left` bytes of it at most. *taken is its length, *name has room. */
static ag_status read_entry(data_zip_member *out, char *name, size_t *taken, ag_ctx *ctx,
                            const data_file *file, const uint8_t *entry, size_t left)
{
    uint64_t packed, size, at;
    size_t n_name, n_extra, n_comment;
    unsigned flags;

    if (left < ENTRY_BYTES || !is_signed(entry, 1, 2))
        return ag_fail(ctx, AG_EDATA, "%s: the archive's directory is damaged", file->path);
    n_name = (size_t)number(entry + 28, 2);
    n_extra = (size_t)number(entry + 30, 2);
    n_comment = (size_t)number(entry + 32, 2);
    if (n_name + n_extra + n_comment > left - ENTRY_BYTES)
        return ag_fail(ctx, AG_EDATA, "%s: the archive's directory is damaged", file->path);
    if (!is_plain_path((const char *)entry + ENTRY_BYTES, n_name))
        return ag_fail(ctx, AG_EDATA, "%s: the archive has a member without a plain name",
                       file->path);
    memcpy(name, entry + ENTRY_BYTES, n_name);
    name[n_name] = 0;
    flags = (unsigned)number(entry + 8, 2);
    packed = number(entry + 20, 4);
    size = number(entry + 24, 4);
    at = number(entry + 42, 4);
    if (!widen((uint64_t *[3]){&size, &packed, &at}, entry + ENTRY_BYTES + n_name, n_extra,
               (const bool[3]){size == 0xFFFFFFFF, packed == 0xFFFFFFFF, at == 0xFFFFFFFF}))
        return bad_member(ctx, file, name, "its zip64 sizes are damaged");
    if (flags & (FLAG_ENCRYPTED | FLAG_STRONG | FLAG_MASKED))
        return bad_member(ctx, file, name, "is encrypted");
    if (number(entry + 10, 2) != 0)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: archive member %s: is compressed; torch stores",
                       file->path, name);
    if (packed != size || number(entry + 34, 2) != 0)
        return bad_member(ctx, file, name, "its directory entry contradicts itself");
    *out = (data_zip_member){
        .name = name, .size = size, .crc = (uint32_t)number(entry + 16, 4), .header_at = at};
    *taken = ENTRY_BYTES + n_name + n_extra + n_comment;
    return AG_OK;
}

/* Does the descriptor after the bytes repeat sum and sizes? Its signature and its width vary. */
static bool is_descriptor(const uint8_t *p, size_t n, const data_zip_member *m, size_t *taken)
{
    const size_t skip = n >= 4 && is_signed(p, 7, 8) ? 4 : 0;

    for (int width = 4; width <= 8; width += 4) {
        const uint8_t *sizes = p + skip + 4;

        if (n >= skip + 4 + 2 * (size_t)width && number(p + skip, 4) == m->crc &&
            number(sizes, width) == m->size && number(sizes + width, width) == m->size) {
            *taken = skip + 4 + 2 * (size_t)width;
            return true;
        }
    }
    return false;
}

/* Compare the local header with the entry and learn where the bytes are. *end is where the member
 * is over; limit is where the directory begins. */
static ag_status read_local(data_zip_member *m, uint64_t *end, ag_ctx *ctx, const data_file *file,
                            uint64_t limit, const uint8_t *entry)
{
    const size_t n_name = strlen(m->name);
    uint8_t local[LOCAL_BYTES + DATA_ZIP_NAME];
    unsigned flags;
    size_t n_extra, n_descriptor = 0;
    ag_status status;

    if (m->header_at > limit || limit - m->header_at < LOCAL_BYTES + n_name)
        return bad_member(ctx, file, m->name, "lies outside the archive");
    status = data_file_get(ctx, file, m->header_at, LOCAL_BYTES + n_name, local);
    if (status != AG_OK)
        return status;
    flags = (unsigned)number(local + 6, 2);
    n_extra = (size_t)number(local + 28, 2);
    if (!is_signed(local, 3, 4) || number(local + 26, 2) != n_name ||
        memcmp(local + LOCAL_BYTES, m->name, n_name) != 0 || flags != number(entry + 8, 2) ||
        number(local + 8, 2) != 0)
        return bad_member(ctx, file, m->name, "its two headers differ");
    m->at = m->header_at + LOCAL_BYTES + n_name + n_extra;
    if (m->at > limit || m->size > limit - m->at)
        return bad_member(ctx, file, m->name, "lies outside the archive");
    if (flags & FLAG_DESCRIPTOR) {
        uint8_t descriptor[DESCRIPTOR_BYTES];
        const uint64_t left = limit - m->at - m->size;
        const size_t n = left < sizeof descriptor ? (size_t)left : sizeof descriptor;

        status = data_file_get(ctx, file, m->at + m->size, n, descriptor);
        if (status != AG_OK)
            return status;
        if (!is_descriptor(descriptor, n, m, &n_descriptor))
            return bad_member(ctx, file, m->name, "its two headers differ");
    } else {
        uint8_t extra[256];
        uint64_t size = number(local + 22, 4), packed = number(local + 18, 4), none = 0;
        const bool wide = size == 0xFFFFFFFF || packed == 0xFFFFFFFF;

        if (wide && n_extra > sizeof extra)
            return bad_member(ctx, file, m->name, "its zip64 sizes are damaged");
        if (wide) {
            status = data_file_get(ctx, file, m->at - n_extra, n_extra, extra);
            if (status != AG_OK)
                return status;
        }
        if ((wide && !widen((uint64_t *[3]){&size, &packed, &none}, extra, n_extra,
                            (const bool[3]){size == 0xFFFFFFFF, packed == 0xFFFFFFFF, false})) ||
            size != m->size || packed != m->size || number(local + 14, 4) != m->crc)
            return bad_member(ctx, file, m->name, "its two headers differ");
    }
    *end = m->at + m->size + n_descriptor;
    return AG_OK;
}

typedef struct stretch {
    uint64_t begin, end;
    int64_t member;
} stretch;

static int compare_stretches(const void *a, const void *b)
{
    const stretch *s = a, *t = b;

    return (s->begin > t->begin) - (s->begin < t->begin);
}

static int compare_members(const void *a, const void *b)
{
    return strcmp(((const data_zip_member *)a)->name, ((const data_zip_member *)b)->name);
}

/* Local headers, one after the other: they begin the file and do not overlap. */
static ag_status check_places(ag_ctx *ctx, const data_file *file, data_zip *zip,
                              const uint8_t *entries, const size_t *entry_at, uint64_t limit)
{
    const int64_t n = zip->n_members;
    stretch *s = ag_new(ctx, (size_t)n, sizeof *s, file->path);
    ag_status status = s ? AG_OK : AG_ENOMEM;

    for (int64_t i = 0; i < n && status == AG_OK; i++) {
        s[i] = (stretch){.begin = zip->members[i].header_at, .member = i};
        status = read_local(&zip->members[i], &s[i].end, ctx, file, limit, entries + entry_at[i]);
    }
    if (status == AG_OK && n > 1)
        qsort(s, (size_t)n, sizeof *s, compare_stretches);
    if (status == AG_OK && n > 0 && s[0].begin != 0)
        status = ag_fail(ctx, AG_EDATA, "%s: bytes stand before the archive's first member",
                         file->path);
    for (int64_t i = 1; i < n && status == AG_OK; i++)
        if (s[i].begin < s[i - 1].end)
            status = bad_member(ctx, file, zip->members[s[i].member].name, "overlaps another one");
    ag_delete(s);
    return status;
}

ag_status data_zip_list(data_zip *out, ag_ctx *ctx, const data_file *file)
{
    data_zip zip = {0};
    uint8_t *entries = NULL;
    size_t *entry_at = NULL, at = 0, n_names = 0;
    directory where = {0};
    ag_status status = find_directory(&where, ctx, file);

    if (status != AG_OK)
        return status;
    entries = ag_grow(ctx, NULL, (size_t)where.size, 1, file->path);
    entry_at = ag_new(ctx, (size_t)where.n_entries, sizeof *entry_at, file->path);
    zip.members = ag_new(ctx, (size_t)where.n_entries, sizeof *zip.members, file->path);
    /* a name is shorter than its entry */
    zip.names = ag_grow(ctx, NULL, (size_t)where.size, 1, file->path);
    status = entries && entry_at && zip.members && zip.names
                 ? data_file_get(ctx, file, where.at, (size_t)where.size, entries)
                 : AG_ENOMEM;
    while (status == AG_OK && (uint64_t)zip.n_members < where.n_entries) {
        data_zip_member *m = &zip.members[zip.n_members];
        size_t taken = 0;

        entry_at[zip.n_members] = at;
        status = read_entry(m, zip.names + n_names, &taken, ctx, file, entries + at,
                            (size_t)where.size - at);
        if (status == AG_OK) {
            n_names += strlen(m->name) + 1;
            at += taken;
            zip.n_members++;
        }
    }
    if (status == AG_OK && at != where.size)
        status = ag_fail(ctx, AG_EDATA, "%s: the archive's directory is damaged", file->path);
    if (status == AG_OK)
        status = check_places(ctx, file, &zip, entries, entry_at, where.at);
    if (status == AG_OK && zip.n_members > 1)
        qsort(zip.members, (size_t)zip.n_members, sizeof *zip.members, compare_members);
    for (int64_t i = 1; i < zip.n_members && status == AG_OK; i++)
        if (strcmp(zip.members[i - 1].name, zip.members[i].name) == 0)
            status = bad_member(ctx, file, zip.members[i].name, "stands twice");
    if (status == AG_OK) {
        *out = zip;
        zip = (data_zip){0};
    }
    data_zip_free(&zip);
    ag_delete(entry_at);
    ag_delete(entries);
    return status;
}

void data_zip_free(data_zip *zip)
{
    ag_delete(zip->members);
    ag_delete(zip->names);
    *zip = (data_zip){0};
}

int64_t data_zip_find(const data_zip *zip, const char *name)
{
    int64_t low = 0, high = zip->n_members;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const int order = strcmp(zip->members[middle].name, name);

        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

ag_status data_zip_read(uint8_t **out, ag_ctx *ctx, const data_file *file,
                        const data_zip_member *member, uint64_t max_bytes)
{
    uint8_t *bytes;
    ag_status status;

    if (member->size > max_bytes)
        return bad_member(ctx, file, member->name, "is too large");
    bytes = ag_grow(ctx, NULL, (size_t)member->size, 1, file->path);
    if (!bytes)
        return AG_ENOMEM;
    status = data_file_get(ctx, file, member->at, (size_t)member->size, bytes);
    if (status == AG_OK && data_crc32(0, bytes, (size_t)member->size) != member->crc)
        status = bad_member(ctx, file, member->name, "is damaged: its checksum differs");
    if (status != AG_OK) {
        ag_delete(bytes);
        return status;
    }
    *out = bytes;
    return AG_OK;
}
