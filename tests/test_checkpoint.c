/* test_checkpoint.c - checkpoints: the same bits back; any damage refused; a kill, a full disk or
 * refused memory at any place leaves them whole or not there.
 */
#include "tests/train_check.h"

#include <errno.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include <hdf5.h>

#include "train/checkpoint.h"
#include "train/checkpoint_hdf5.h"

/* --- a small run's tensors -------------------------------------------------------------------- */

enum { N = 7 };

typedef struct model {
    ag_ctx *ctx;
    ag_tensor *tensors[N];
    train_entry entries[N];
} model;

static ag_ctx *one_thread(void)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});

    assert_non_null(ctx);
    check_ok(ctx, "a new context");
    return ctx;
}

/* Bytes that are a function of (update, tensor, place), NaNs and infinities among them. */
static void fill(const model *m, int64_t update)
{
    for (int t = 0; t < N; t++) {
        uint8_t *bytes = ag_data(m->tensors[t]);
        uint64_t x = (uint64_t)(update * 31 + t + 1) * 0x9e3779b97f4a7c15u;
        for (size_t i = 0; i < ag_nbytes(m->tensors[t]); i++) {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            bytes[i] = (uint8_t)(x >> 33);
        }
    }
}

static bool holds(const model *m, int64_t update)
{
    model want = {.ctx = m->ctx};
    bool same = true;

    for (int t = 0; t < N; t++)
        want.tensors[t] = ag_empty(m->ctx, AG_MODEL, ag_dtype_of(m->tensors[t]),
                                   ag_ndim(m->tensors[t]), ag_dims(m->tensors[t]));
    fill(&want, update);
    for (int t = 0; t < N; t++) {
        same = same && memcmp(ag_data(m->tensors[t]), ag_data(want.tensors[t]),
                              ag_nbytes(want.tensors[t])) == 0;
        ag_release(want.tensors[t]);
    }
    return same;
}

static model make_model(ag_ctx *ctx, int64_t large)
{
    static const char *const names[N] = {
        "model.conv.weight", "model.conv.bias", "step", "empty",
        "odd.\xc3\xa9 name", "order",           "big",
    };
    const struct {
        ag_dtype dtype;
        int n;
        int64_t dims[5];
    } shapes[N] = {
        {AG_F32, 4, {6, 3, 3, 5}}, {AG_F32, 1, {7}},       {AG_F32, 0, {0}},
        {AG_F32, 2, {0, 4}},       {AG_F64, 3, {2, 1, 3}}, {AG_I64, 1, {11}},
        {AG_F32, 2, {large, 513}},
    };
    model m = {.ctx = ctx};

    for (int t = 0; t < N; t++) {
        m.tensors[t] = ag_empty(ctx, AG_MODEL, shapes[t].dtype, shapes[t].n, shapes[t].dims);
        m.entries[t] = (train_entry){names[t], m.tensors[t]};
    }
    check_ok(ctx, "tensors");
    fill(&m, 0);
    return m;
}

static void free_model(model *m)
{
    for (int t = 0; t < N; t++)
        ag_release(m->tensors[t]);
}

static void write_ok(const model *m, const char *folder, int64_t update, int64_t keep)
{
    json_t *config = json_pack("{s:i, s:s}", "seed", 7, "lr", "1e-4");

    fill(m, update);
    train_checkpoint_write(m->ctx, folder, update, m->entries, N, config, keep);
    check_ok(m->ctx, "write");
    json_decref(config);
}

static const char *of_update(const char *folder, int64_t update)
{
    char name[64];

    snprintf(name, sizeof name, "checkpoint-%lld", (long long)update);
    return check_join(folder, name);
}

/* --- the same bits ---------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 1500); /* 3 MB: several chunks */
    char folder[256], *passed = NULL;
    train_manifest found;
    json_t *config = NULL;

    (void)state;
    check_folder(folder);
    assert_int_equal(train_checkpoint_newest(ctx, folder), -1);
    assert_int_equal(train_checkpoint_newest(ctx, check_join(folder, "nowhere")), -1);
    train_checkpoint_find(&found, &passed, ctx, folder, "latest");
    check_ok(ctx, "find none");
    assert_null(found.folder);
    write_ok(&m, folder, 120, 0);
    assert_int_equal(check_count(folder, ""), 1);
    assert_int_equal(train_checkpoint_newest(ctx, folder), 120);

    fill(&m, 3);
    train_checkpoint_find(&found, &passed, ctx, folder, "latest");
    check_ok(ctx, "find");
    assert_int_equal(found.update, 120);
    assert_null(passed);
    assert_string_equal(found.folder, of_update(folder, 120));
    train_checkpoint_take(ctx, &found, m.entries, N, &config);
    check_ok(ctx, "read");
    assert_true(holds(&m, 120));
    assert_int_equal(json_integer_value(json_object_get(config, "seed")), 7);
    json_decref(config);
    train_manifest_close(&found);

    train_checkpoint_find(&found, &passed, ctx, folder, "checkpoint-120");
    check_ok(ctx, "find by name");
    train_manifest_close(&found);
    train_checkpoint_find(&found, &passed, ctx, "/", of_update(folder, 120));
    check_ok(ctx, "find by path");
    train_manifest_close(&found);
    train_checkpoint_find(&found, &passed, ctx, folder, "checkpoint-121");
    check_failed_with(ctx, AG_EIO, "checkpoint-121");
    assert_null(found.folder);

    /* the same values give the same files */
    {
        size_t n_a, n_b;
        char *a = check_file(&n_a, check_join(of_update(folder, 120), "tensors-000.h5")), *b;
        fill(&m, 120);
        train_checkpoint_write(ctx, folder, 121, m.entries, N, NULL, 0);
        check_ok(ctx, "write");
        b = check_file(&n_b, check_join(of_update(folder, 121), "tensors-000.h5"));
        assert_int_equal(n_a, n_b);
        assert_memory_equal(a, b, n_a);
        assert_memory_equal(a, "\211HDF\r\n\032\n", 8);
        free(a);
        free(b);
    }
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_strict_names(void **state)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 2);
    train_entry wrong[N + 1];
    char folder[256];

    (void)state;
    check_folder(folder);
    write_ok(&m, folder, 1, 0);
    train_checkpoint_read(ctx, of_update(folder, 1), m.entries, N - 1, NULL);
    check_failed_with(ctx, AG_EDATA, "1 extra (big)");
    memcpy(wrong, m.entries, sizeof m.entries);
    wrong[N] = (train_entry){"another", m.tensors[0]};
    train_checkpoint_read(ctx, of_update(folder, 1), wrong, N + 1, NULL);
    check_failed_with(ctx, AG_EDATA, "1 tensors missing (another)");
    wrong[1].tensor = m.tensors[0];
    train_checkpoint_read(ctx, of_update(folder, 1), wrong, N, NULL);
    check_failed_with(ctx, AG_EDATA, "another shape (model.conv.bias)");
    wrong[1].tensor = m.tensors[4]; /* f64 */
    train_checkpoint_read(ctx, of_update(folder, 1), wrong, N, NULL);
    check_failed_with(ctx, AG_EDATA, "another shape (model.conv.bias)");
    assert_true(holds(&m, 1)); /* nothing was read */

    wrong[1] = m.entries[0];
    train_checkpoint_write(ctx, folder, 2, wrong, N, NULL, 0);
    check_failed_with(ctx, AG_EINVAL, "are called model.conv.weight");
    wrong[1].name = "a/b";
    train_checkpoint_write(ctx, folder, 2, wrong, N, NULL, 0);
    check_failed_with(ctx, AG_EINVAL, "a/b");
    train_checkpoint_write(ctx, check_join(folder, "nowhere"), 2, m.entries, N, NULL, 0);
    check_failed_with(ctx, AG_EIO, "nowhere");
    assert_int_equal(check_count(folder, ""), 1);
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- damage ----------------------------------------------------------------------------------- */

static void refuse(ag_ctx *ctx, const char *folder, const model *m, const char *what, size_t at)
{
    int64_t update;

    if (train_checkpoint_check(&update, ctx, folder) == AG_OK)
        fail_msg("%s: damage at byte %zu was not seen", what, at);
    check_failed(ctx, ag_status_of(ctx), what);
    if (at % 16 == 0) {
        assert_int_not_equal(train_checkpoint_read(ctx, folder, m->entries, N, NULL), AG_OK);
        check_failed(ctx, ag_status_of(ctx), what);
    }
}

static void test_damage(void **state)
{
    static const char *const names[] = {"manifest.json", "tensors-000.h5"};
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 3);
    char folder[256], path[512];
    uint64_t seed = 5;
    int64_t update;

    (void)state;
    check_folder(folder);
    write_ok(&m, folder, 9, 0);
    for (int f = 0; f < 2; f++) {
        size_t size;
        char *bytes;
        int fd;
        snprintf(path, sizeof path, "%s", check_join(of_update(folder, 9), names[f]));
        bytes = check_file(&size, path);
        fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        for (size_t at = 0; at < size; at += f == 0 ? 1 : 7) { /* one bit of a byte */
            const char bit = (char)(1 << (int)check_uniform(&seed, 0.0, 8.0));
            const char spoilt = (char)(bytes[at] ^ bit);
            assert_int_equal(pwrite(fd, &spoilt, 1, (off_t)at), 1);
            refuse(ctx, of_update(folder, 9), &m, names[f], at);
            assert_int_equal(pwrite(fd, bytes + at, 1, (off_t)at), 1);
        }
        for (size_t length = 0; length < size; length += 1 + size / 97) { /* cut short */
            assert_int_equal(ftruncate(fd, (off_t)length), 0);
            refuse(ctx, of_update(folder, 9), &m, names[f], length);
            assert_int_equal(pwrite(fd, bytes, size, 0), size);
        }
        assert_int_equal(pwrite(fd, "x", 1, (off_t)size), 1); /* something behind it */
        refuse(ctx, of_update(folder, 9), &m, names[f], size);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        close(fd);
        free(bytes);
        train_checkpoint_check(&update, ctx, of_update(folder, 9));
        check_ok(ctx, "mended");
        assert_int_equal(rename(path, check_join(folder, "away")), 0);
        refuse(ctx, of_update(folder, 9), &m, names[f], 0);
        assert_int_equal(rename(check_join(folder, "away"), path), 0);
    }
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* Spoil a checkpoint's tensors. */
static void spoil(const char *folder, int64_t update)
{
    const int fd = open(check_join(of_update(folder, update), "tensors-000.h5"), O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "spoilt", 6, 3000), 6);
    close(fd);
}

static void test_latest_walks_back(void **state)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 2);
    char folder[256], *passed = NULL;
    train_manifest found;

    (void)state;
    check_folder(folder);
    for (int64_t u = 8; u <= 11; u++)
        write_ok(&m, folder, u, 0);
    spoil(folder, 11);
    assert_int_equal(unlink(check_join(of_update(folder, 10), "manifest.json")), 0);
    assert_int_equal(mkdir(check_join(folder, "checkpoint-007"), 0777), 0); /* not our names */
    assert_int_equal(mkdir(check_join(folder, "checkpoint-x"), 0777), 0);
    assert_int_equal(train_checkpoint_newest(ctx, folder), 11);
    train_checkpoint_find(&found, &passed, ctx, folder, "latest");
    check_ok(ctx, "find");
    assert_int_equal(found.update, 9);
    assert_non_null(strstr(passed, "checkpoint-11/tensors-000.h5"));
    assert_non_null(strstr(passed, "checkpoint-10/manifest.json"));
    assert_null(strchr(passed, '\n'));
    train_checkpoint_take(ctx, &found, m.entries, N, NULL);
    check_ok(ctx, "read");
    assert_true(holds(&m, 9));
    train_manifest_close(&found);
    ag_delete(passed);

    spoil(folder, 9);
    spoil(folder, 8);
    train_checkpoint_find(&found, &passed, ctx, folder, "latest");
    check_ok(ctx, "find none");
    assert_null(found.folder);
    assert_non_null(strstr(passed, "checkpoint-8/"));
    ag_delete(passed);
    train_checkpoint_find(&found, &passed, ctx, folder, "checkpoint-9");
    check_failed_with(ctx, AG_EDATA, "SHA-256");
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- which stay ------------------------------------------------------------------------------- */

static void test_keep_limit(void **state)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 2);
    char folder[256];

    (void)state;
    check_folder(folder);
    for (int64_t u = 2; u <= 6; u += 2)
        write_ok(&m, folder, u, 2);
    assert_int_equal(check_count(folder, ""), 2);
    assert_true(check_exists(of_update(folder, 4)) && check_exists(of_update(folder, 6)));
    write_ok(&m, folder, 10, 0); /* no limit */
    assert_int_equal(check_count(folder, ""), 3);
    write_ok(&m, folder, 2, 1); /* the one just written stays */
    assert_int_equal(check_count(folder, ""), 1);
    assert_true(check_exists(of_update(folder, 2)));

    /* what a killed run left behind goes with the next write */
    assert_int_equal(mkdir(check_join(folder, "checkpoint-3.tmp-1"), 0777), 0);
    check_file_write(check_join(folder, "checkpoint-3.tmp-1/tensors-000.h5"), "half", 4);
    check_file_write(check_join(folder, "checkpoint.txt"), "mine", 4);
    write_ok(&m, folder, 3, 0);
    assert_int_equal(check_count(folder, "checkpoint"), 3);
    assert_false(check_exists(check_join(folder, "checkpoint-3.tmp-1")));

    train_checkpoint_clear(ctx, folder);
    check_ok(ctx, "clear");
    assert_int_equal(check_count(folder, ""), 1);
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_replacing(void **state)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 2);
    char folder[256];
    json_t *other =
        json_pack("{s:i, s:s, s:s}", "seed", 8, "lr", "1e-4", "resume_from_checkpoint", "x");
    int64_t update;
    int lock;

    (void)state;
    check_folder(folder);
    write_ok(&m, folder, 4, 0);
    write_ok(&m, folder, 4, 0); /* the same run */
    fill(&m, 5);
    train_checkpoint_write(ctx, folder, 4, m.entries, N, other, 0);
    check_failed_with(ctx, AG_EINVAL, "another run (its seed differs)");
    train_checkpoint_read(ctx, of_update(folder, 4), m.entries, N, NULL);
    check_ok(ctx, "the old one");
    assert_true(holds(&m, 4));

    json_object_set_new(other, "seed", json_integer(7)); /* resuming is no difference */
    train_checkpoint_write(ctx, folder, 4, m.entries, N, other, 0);
    check_ok(ctx, "the same run, resumed");

    json_object_set_new(other, "seed", json_integer(9));
    spoil(folder, 4);
    train_checkpoint_write(ctx, folder, 4, m.entries, N, other, 0);
    check_ok(ctx, "in place of a damaged one");
    train_checkpoint_check(&update, ctx, of_update(folder, 4));
    check_ok(ctx, "whole again");

    json_object_set_new(other, "seed", json_integer(10));
    json_object_set_new(other, "overwrite_output_dir", json_true());
    train_checkpoint_write(ctx, folder, 4, m.entries, N, other, 0);
    check_ok(ctx, "told to overwrite");
    assert_int_equal(check_count(folder, ""), 1);

    lock = open(folder, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    train_checkpoint_write(ctx, folder, 5, m.entries, N, other, 0);
    check_failed_with(ctx, AG_EIO, "another process");
    close(lock);
    json_decref(other);
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- bad luck --------------------------------------------------------------------------------- */

/* A child writes checkpoints one after the other until it is killed. */
static void write_for_ever(const char *folder)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 100);

    for (int64_t u = 1;; u = u % 5 + 1) {
        fill(&m, u);
        if (train_checkpoint_write(ctx, folder, u, m.entries, N, NULL, 2) != AG_OK)
            _exit(1);
    }
}

static void test_kill(void **state)
{
    enum { KILLS = 50 };
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 100);
    uint64_t seed = 77;
    int n_found = 0, n_leftover = 0;
    double most = 2e7; /* nanoseconds to live; grows where a machine is too busy to finish one in it */
    char folder[256];

    (void)state;
    check_folder(folder);
    for (int k = 0; k < KILLS; k++) {
        train_manifest found;
        char *passed;
        int64_t newest;
        int status;
        pid_t child = fork();

        if (child == 0)
            write_for_ever(folder);
        nanosleep(&(struct timespec){.tv_nsec = (long)check_uniform(&seed, 0.0, most)}, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));

        newest = train_checkpoint_newest(ctx, folder);
        train_checkpoint_find(&found, &passed, ctx, folder, "latest");
        check_ok(ctx, "find");
        if (passed)
            fail_msg("kill %d: not whole: %s", k, passed);
        n_leftover += check_count(folder, "");
        for (int64_t u = 1; u <= 5; u++)
            n_leftover -= check_exists(of_update(folder, u));
        if (found.folder) {
            assert_int_equal(found.update, newest);
            train_checkpoint_take(ctx, &found, m.entries, N, NULL);
            check_ok(ctx, "read");
            assert_true(holds(&m, found.update));
            n_found++;
        }
        most = found.folder ? fmax(0.8 * most, 2e7) : fmin(1.25 * most, 5e8);
        train_manifest_close(&found);
    }
    printf("%d kills: %d times a checkpoint, %d times leftovers\n", KILLS, n_found, n_leftover);
    assert_true(n_found > 0 && n_leftover > 0);
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_full_disk(void **state)
{
    struct rlimit was, now;
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 400);
    char folder[256];
    const int open_before = check_descriptors();
    int n_refused = 0;
    json_t *config = json_pack("{s:s++}", "prompt", "a long text", "", "");

    (void)state;
    check_folder(folder);
    write_ok(&m, folder, 1, 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    for (rlim_t limit = 0; limit < 2000000; limit += limit < 4000 ? 500 : 37777) {
        ag_status status;
        now = was;
        now.rlim_cur = limit;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
        status = train_checkpoint_write(ctx, folder, 2, m.entries, N, config, 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        if (status == AG_OK)
            break;
        check_failed(ctx, AG_EIO, "a full disk");
        n_refused++;
        assert_int_equal(check_count(folder, ""), 1);
        assert_int_equal(check_descriptors(), open_before);
    }
    assert_true(n_refused > 10);
    assert_true(check_exists(of_update(folder, 2)));
    json_decref(config);
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* The disk fills while libhdf5 writes: it must close cleanly, and the file must be refused. */
static void test_hdf5_write_errors(void **state)
{
    ag_ctx *ctx = one_thread();
    char folder[256];
    const char *path;
    const int64_t dims[] = {300, 700};
    float *values = calloc(300 * 700, sizeof *values);
    int64_t limit = 0;
    int n_refused = 0;

    (void)state;
    check_folder(folder);
    path = check_join(folder, "a.h5");
    for (;; limit += limit < 4000 ? 200 : 300000) {
        train_h5_writer *w = NULL;
        train_h5_create(&w, ctx, path, 0);
        check_ok(ctx, "create");
        train_h5_set_limit(w, limit);
        for (int t = 0; t < 4 && ag_status_of(ctx) == AG_OK; t++) {
            const char name[] = {(char)('a' + t), 0};
            train_h5_put(w, name, AG_F32, 2, dims, values, 1);
        }
        unlink(path);
        if (train_h5_finish(w) == AG_OK)
            break;
        check_failed_with(ctx, AG_EIO, "No space left");
        n_refused++;
    }
    assert_true(n_refused > 10 && limit > 3000000);
    assert_true(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
    free(values);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* A file that leads elsewhere is refused, whatever its sums say. */
static void test_hdf5_leads_elsewhere(void **state)
{
    ag_ctx *ctx = one_thread();
    char folder[256];
    const char *path;
    const hsize_t n = 4;
    float values[4];
    const char *const names[] = {"soft", "external_file", "deflated", "other_type", "plain"};
    hid_t file, space, how;
    train_h5_reader *reader = NULL;

    (void)state;
    check_folder(folder);
    path = check_join(folder, "a.h5");
    file = H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
    space = H5Screate_simple(1, &n, NULL);
    how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(how, 1, &n);
    H5Dclose(H5Dcreate2(file, "plain", H5T_IEEE_F32LE, space, H5P_DEFAULT, how, H5P_DEFAULT));
    H5Dclose(H5Dcreate2(file, "other_type", H5T_IEEE_F32BE, space, H5P_DEFAULT, how, H5P_DEFAULT));
    H5Pset_shuffle(how);
    H5Dclose(H5Dcreate2(file, "deflated", H5T_IEEE_F32LE, space, H5P_DEFAULT, how, H5P_DEFAULT));
    H5Pclose(how);
    how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(how, "/etc/passwd", 0, 16);
    H5Dclose(
        H5Dcreate2(file, "external_file", H5T_IEEE_F32LE, space, H5P_DEFAULT, how, H5P_DEFAULT));
    H5Pclose(how);
    H5Lcreate_soft("/plain", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Sclose(space);
    H5Fclose(file);

    train_h5_open(&reader, ctx, path);
    check_ok(ctx, "open");
    for (int i = 0; i < 4; i++) {
        train_h5_get(reader, names[i], AG_F32, 1, (int64_t[]){4}, values);
        check_failed_with(ctx, AG_EDATA, names[i]);
    }
    train_h5_get(reader, "plain", AG_F32, 1, (int64_t[]){4}, values);
    check_ok(ctx, "plain");
    train_h5_get(reader, "absent", AG_F32, 1, (int64_t[]){4}, values);
    check_failed_with(ctx, AG_EDATA, "no tensor absent");
    train_h5_close(reader);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_refused_memory(void **state)
{
    ag_ctx *ctx = one_thread();
    model m = make_model(ctx, 2);
    char folder[256];
    const int open_before = check_descriptors();
    int n_refused = 0;

    (void)state;
    check_folder(folder);
    write_ok(&m, folder, 1, 0);
    for (int forever = 0; forever < 2; forever++) {
        for (int64_t n = 0;; n++) {
            ag_status status;
            ag_refuse_allocation(ctx, n, forever);
            status = train_checkpoint_write(ctx, folder, 2, m.entries, N, NULL, 1);
            ag_refuse_allocation(ctx, -1, false);
            if (status == AG_OK)
                break;
            check_failed(ctx, AG_ENOMEM, "write");
            n_refused++;
            assert_int_equal(check_count(folder, "checkpoint-1"), 1);
            assert_int_equal(check_descriptors(), open_before);
            assert_int_equal(check_count(folder, "checkpoint-2.tmp"), 0);
            if (check_exists(of_update(folder, 2))) { /* refused while old ones were deleted */
                int64_t update;
                train_checkpoint_check(&update, ctx, of_update(folder, 2));
                check_ok(ctx, "whole");
                check_remove(of_update(folder, 2));
            }
        }
        write_ok(&m, folder, 1, 0);
        check_remove(of_update(folder, 2));
        for (int64_t n = 0;; n++) {
            train_manifest found = {0};
            char *passed = NULL;
            ag_refuse_allocation(ctx, n, forever);
            if (train_checkpoint_find(&found, &passed, ctx, folder, "latest") == AG_OK)
                train_checkpoint_take(ctx, &found, m.entries, N, NULL);
            ag_refuse_allocation(ctx, -1, false);
            train_manifest_close(&found);
            ag_delete(passed);
            if (ag_status_of(ctx) == AG_OK)
                break;
            check_failed(ctx, AG_ENOMEM, "find and read");
            n_refused++;
            assert_int_equal(check_descriptors(), open_before);
        }
    }
    assert_true(n_refused > 60);
    free_model(&m);
    check_remove(folder);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill), /* forks: before any thread is made */
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_strict_names),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_latest_walks_back),
        cmocka_unit_test(test_keep_limit),
        cmocka_unit_test(test_replacing),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_hdf5_write_errors),
        cmocka_unit_test(test_hdf5_leads_elsewhere),
        cmocka_unit_test(test_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
