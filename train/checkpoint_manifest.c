/* checkpoint_manifest.c - see checkpoint_manifest.h. */
#include "train/checkpoint_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "data/file.h"
#include "data/json.h"

enum { MAX_BYTES = 256 << 20, MAX_FILES = 100000, MAX_TENSORS = 1000000, PIECE = 1 << 20 };

static const char FORMAT[] = "agewright-checkpoint", OWN_SUM[] = "manifest_sha256";
static const char NO_SUM[] = "0000000000000000000000000000000000000000000000000000000000000000";
enum { FORMAT_VERSION = 1, N_DIGITS = DATA_SHA256_TEXT - 1 };

/* --- sums of files ---------------------------------------------------------------------------- */

/* One file, in pieces through `piece` [PIECE]. Several threads do this at once, so no context. */
static void sum_file(train_sum *sum, const char *path, void *piece)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct stat info;
    bool ok;

    sum->error = fd < 0 ? errno : 0;
    if (!sum->error && (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)))
        sum->error = ENOENT;
    ok = hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1;
    sum->size = 0;
    while (ok && !sum->error) {
        const ssize_t n = read(fd, piece, PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            sum->error = errno;
        if (n <= 0)
            break;
        sum->size += n;
        ok = EVP_DigestUpdate(hash, piece, (size_t)n) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(hash, digest, NULL) == 1;
    for (int i = 0; ok && i < N_DIGITS / 2; i++)
        snprintf(sum->sha256 + 2 * i, 3, "%02x", digest[i]);
    if (!ok && !sum->error)
        sum->error = ENOMEM; /* the only way in which the crypto library fails here */
    EVP_MD_CTX_free(hash);
    if (fd >= 0)
        close(fd);
}

ag_status train_sum_files(ag_ctx *ctx, const char *folder, train_sum *sums, int64_t n)
{
    const int threads = (int)(n < ag_ctx_threads(ctx) ? n : ag_ctx_threads(ctx));
    char *pieces = ag_new(ctx, (size_t)(threads > 0 ? threads : 1), PIECE, "sums of files");
    char **paths = ag_new(ctx, (size_t)n + 1, sizeof *paths, "sums of files");

    for (int64_t i = 0; paths && i < n && ag_status_of(ctx) == AG_OK; i++)
        paths[i] = ag_printf(ctx, "%s/%s", folder, sums[i].name);
    if (ag_status_of(ctx) == AG_OK) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int t = 0; t < threads; t++)
            for (int64_t i = t; i < n; i += threads)
                sum_file(&sums[i], paths[i], pieces + (size_t)t * PIECE);
    }
    for (int64_t i = 0; paths && i < n; i++)
        ag_delete(paths[i]);
    ag_delete(paths);
    ag_delete(pieces);
    return ag_status_of(ctx);
}

ag_status train_manifest_check(ag_ctx *ctx, const train_manifest *m)
{
    train_sum *sums = ag_new(ctx, (size_t)m->n_files + 1, sizeof *sums, "sums of files");
    struct stat info;

    /* sizes first: they cost nothing */
    for (int64_t i = 0; sums && i < m->n_files && ag_status_of(ctx) == AG_OK; i++) {
        char *path = ag_printf(ctx, "%s/%s", m->folder, m->files[i].name);
        sums[i].name = m->files[i].name;
        if (path && stat(path, &info) != 0)
            ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
        else if (path && info.st_size != m->files[i].size)
            ag_fail(ctx, AG_EDATA, "%s: %lld bytes, its manifest says %lld", path,
                    (long long)info.st_size, (long long)m->files[i].size);
        ag_delete(path);
    }
    if (ag_status_of(ctx) == AG_OK && train_sum_files(ctx, m->folder, sums, m->n_files) == AG_OK)
        for (int64_t i = 0; i < m->n_files && ag_status_of(ctx) == AG_OK; i++) {
            if (sums[i].error)
                ag_fail(ctx, AG_EIO, "%s/%s: %s", m->folder, sums[i].name, strerror(sums[i].error));
            else if (sums[i].size != m->files[i].size ||
                     strcmp(sums[i].sha256, m->files[i].sha256) != 0)
                ag_fail(ctx, AG_EDATA, "%s/%s: damaged: its SHA-256 is not the manifest's",
                        m->folder, sums[i].name);
        }
    ag_delete(sums);
    return ag_status_of(ctx);
}

/* --- reading ---------------------------------------------------------------------------------- */

static bool is_sum(const char *text)
{
    return text && strlen(text) == N_DIGITS && strspn(text, "0123456789abcdef") == N_DIGITS;
}

/* Compare the file's own sum. Changes `text` for the while. */
static ag_status check_itself(ag_ctx *ctx, const char *path, char *text, size_t size,
                              const char *own)
{
    char found[DATA_SHA256_TEXT];
    char *at = is_sum(own) ? strstr(text, own) : NULL;

    if (!at)
        return ag_fail(ctx, AG_EDATA, "%s: damaged: it has no %s", path, OWN_SUM);
    memcpy(at, NO_SUM, N_DIGITS);
    if (data_sha256(found, ctx, text, size) != AG_OK)
        return ag_status_of(ctx);
    if (strcmp(found, own) != 0)
        return ag_fail(ctx, AG_EDATA, "%s: damaged: its bytes do not give its %s", path, OWN_SUM);
    return AG_OK;
}

static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/');
}

static ag_status read_files(train_manifest *m, ag_ctx *ctx, const char *path)
{
    const json_t *list = json_object_get(m->root, "files");

    m->n_files = (int64_t)json_array_size(list);
    if (!json_is_array(list) || m->n_files > MAX_FILES)
        return ag_fail(ctx, AG_EDATA, "%s: wanted a list of files", path);
    m->files = ag_new(ctx, (size_t)m->n_files + 1, sizeof *m->files, path);
    for (int64_t i = 0; m->files && i < m->n_files && ag_status_of(ctx) == AG_OK; i++) {
        const json_t *node = json_array_get(list, (size_t)i);
        train_manifest_file *f = &m->files[i];
        f->name = data_json_text(ctx, path, node, "name", "");
        f->size = data_json_int(ctx, path, node, "size", -1);
        f->sha256 = data_json_text(ctx, path, node, "sha256", NULL);
        if (ag_status_of(ctx) == AG_OK &&
            (!is_plain_name(f->name) || f->size < 0 || !is_sum(f->sha256)))
            ag_fail(ctx, AG_EDATA, "%s: file %lld: wanted name, size and sha256", path,
                    (long long)i);
    }
    return ag_status_of(ctx);
}

static bool read_dtype(ag_dtype *out, const char *name)
{
    const ag_dtype kept[] = {AG_F32, AG_F64, AG_I64, AG_U8};

    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (strcmp(name, ag_dtype_name(kept[i])) == 0) {
            *out = kept[i];
            return true;
        }
    return false;
}

/* At most 2^40 elements, so that no size computed from it runs over. */
static bool read_shape(train_manifest_tensor *t, const json_t *shape)
{
    int64_t n = 1;

    if (!json_is_array(shape) || json_array_size(shape) > AG_MAX_DIMS)
        return false;
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        t->dims[i] = json_is_integer(dim) ? json_integer_value(dim) : -1;
        if (t->dims[i] < 0 || (t->dims[i] > 0 && n > ((int64_t)1 << 40) / t->dims[i]))
            return false;
        n *= t->dims[i] > 0 ? t->dims[i] : 1;
    }
    return true;
}

static ag_status read_tensors(train_manifest *m, ag_ctx *ctx, const char *path)
{
    const json_t *list = json_object_get(m->root, "tensors");

    m->n_tensors = (int64_t)json_array_size(list);
    if (!json_is_array(list) || m->n_tensors > MAX_TENSORS)
        return ag_fail(ctx, AG_EDATA, "%s: wanted a list of tensors", path);
    m->tensors = ag_new(ctx, (size_t)m->n_tensors + 1, sizeof *m->tensors, path);
    for (int64_t i = 0; m->tensors && i < m->n_tensors && ag_status_of(ctx) == AG_OK; i++) {
        const json_t *node = json_array_get(list, (size_t)i);
        train_manifest_tensor *t = &m->tensors[i];
        const int64_t crc = data_json_int(ctx, path, node, "crc32c", -1);
        t->name = data_json_text(ctx, path, node, "name", "");
        t->file = data_json_int(ctx, path, node, "file", -1);
        t->crc32c = (uint32_t)crc;
        if (ag_status_of(ctx) == AG_OK &&
            (!t->name[0] || t->file < 0 || t->file >= m->n_files || crc < 0 || crc > UINT32_MAX ||
             !read_dtype(&t->dtype, data_json_text(ctx, path, node, "dtype", "")) ||
             !read_shape(t, json_object_get(node, "shape"))))
            ag_fail(ctx, AG_EDATA, "%s: tensor %lld: wanted name, file, dtype, shape and crc32c",
                    path, (long long)i);
    }
    return ag_status_of(ctx);
}

static ag_status read_all(train_manifest *m, ag_ctx *ctx, const char *path, char *text, size_t size)
{
    const char *format;
    int64_t version;

    if (data_json_parse(&m->root, ctx, path, text, size) != AG_OK ||
        check_itself(ctx, path, text, size, data_json_text(ctx, path, m->root, OWN_SUM, NULL)) !=
            AG_OK)
        return ag_status_of(ctx);
    format = data_json_text(ctx, path, m->root, "format", "");
    version = data_json_int(ctx, path, m->root, "format_version", -1);
    if (ag_status_of(ctx) == AG_OK && strcmp(format, FORMAT) != 0)
        return ag_fail(ctx, AG_EDATA, "%s: not the manifest of a checkpoint", path);
    if (ag_status_of(ctx) == AG_OK && version != FORMAT_VERSION)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: format version %lld: this program reads %d", path,
                       (long long)version, FORMAT_VERSION);
    m->update = data_json_int(ctx, path, m->root, "update", -1);
    if (ag_status_of(ctx) == AG_OK && m->update < 0)
        return ag_fail(ctx, AG_EDATA, "%s: wanted the number of its update", path);
    if (ag_status_of(ctx) == AG_OK && read_files(m, ctx, path) == AG_OK)
        read_tensors(m, ctx, path);
    return ag_status_of(ctx);
}

ag_status train_manifest_open(train_manifest *out, ag_ctx *ctx, const char *folder)
{
    char *path = ag_printf(ctx, "%s/%s", folder, TRAIN_MANIFEST_NAME), *text = NULL;
    train_manifest m = {0};
    size_t size;

    m.folder = ag_strdup(ctx, folder);
    if (path && m.folder && data_file_read(&text, &size, ctx, path, MAX_BYTES) == AG_OK)
        read_all(&m, ctx, path, text, size);
    ag_delete(text);
    ag_delete(path);
    if (ag_status_of(ctx) != AG_OK) {
        train_manifest_close(&m);
        return ag_status_of(ctx);
    }
    *out = m;
    return AG_OK;
}

void train_manifest_close(train_manifest *m)
{
    json_decref(m->root);
    ag_delete(m->folder);
    ag_delete(m->files);
    ag_delete(m->tensors);
    *m = (train_manifest){0};
}

bool train_manifest_has(const train_manifest *m, const char *name)
{
    for (int64_t i = 0; i < m->n_tensors; i++)
        if (strcmp(m->tensors[i].name, name) == 0)
            return true;
    return false;
}

/* --- writing ---------------------------------------------------------------------------------- */

ag_status train_manifest_write(ag_ctx *ctx, const char *folder, json_t *root)
{
    char *path = ag_printf(ctx, "%s/%s", folder, TRAIN_MANIFEST_NAME), *text = NULL, *at, *whole;
    char sum[DATA_SHA256_TEXT];

    if (!path)
        return ag_status_of(ctx);
    if (json_object_set_new(root, "format", json_string(FORMAT)) != 0 ||
        json_object_set_new(root, "format_version", json_integer(FORMAT_VERSION)) != 0 ||
        json_object_set_new(root, OWN_SUM, json_string(NO_SUM)) != 0)
        ag_fail(ctx, AG_ENOMEM, "%s: no memory for the manifest", path);
    else
        text = data_json_dump(ctx, root, 2);
    whole = text ? ag_printf(ctx, "%s\n", text) : NULL;
    if (whole && data_sha256(sum, ctx, whole, strlen(whole)) == AG_OK) {
        at = strstr(whole, NO_SUM);
        if (!at || strstr(at + 1, NO_SUM))
            ag_fail(ctx, AG_EINVAL, "%s: 64 zeros stand elsewhere in the configuration", path);
        else {
            memcpy(at, sum, N_DIGITS);
            data_file_write(ctx, path, whole, strlen(whole));
        }
    }
    ag_delete(whole);
    ag_delete(text);
    ag_delete(path);
    return ag_status_of(ctx);
}
