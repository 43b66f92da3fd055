/* test_available.c - free memory as the machine and control groups tell it, from files made here;
 * and a heap that was refused much still gives little. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "autograd/available.h"
#include "autograd/tensor.h"

static char root[64];

static const char *at(const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static void put(const char *name, const char *text)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static size_t available(void)
{
    char meminfo[256], membership[256];

    snprintf(meminfo, sizeof meminfo, "%s", at("meminfo"));
    snprintf(membership, sizeof membership, "%s", at("membership"));
    return ag_available_bytes_at(meminfo, membership, root);
}

static void test_nobody_says(void **state)
{
    (void)state;
    put("meminfo", "MemTotal: 100 kB\n");
    put("membership", "");
    assert_true(available() == SIZE_MAX);
}

static void test_machine(void **state)
{
    (void)state;
    put("meminfo", "MemTotal:       24000 kB\nMemFree:   10 kB\nMemAvailable:   5000 kB\n");
    put("membership", "0::/\n");
    assert_int_equal(available(), 5000 * 1024);
}

static void test_version_2(void **state)
{
    (void)state;
    put("meminfo", "MemAvailable: 5000 kB\n");
    put("membership", "0::/job/step\n");
    put("job/step/memory.max", "max\n");
    put("job/step/memory.current", "1000000\n");
    put("job/memory.max", "3000000\n");
    put("job/memory.current", "2500000\n");
    put("job/memory.stat", "anon 1\nfile 700000\ninactive_file 600000\nactive_file 100000\n");
    assert_int_equal(available(), 3000000 - 1900000); /* the group around ours has the limit */
    put("job/step/memory.max", "900000\n");
    assert_int_equal(available(), 0); /* lowered below what is used */
}

static void test_version_1_inside_a_container(void **state)
{
    (void)state;
    put("meminfo", "MemAvailable: 5000 kB\n");
    /* the path is the host's: only the root of the hierarchy is seen from inside */
    put("membership", "5:cpu,cpuacct:/box/1\n4:memory:/box/1\n0::/\n");
    put("memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/memory.usage_in_bytes", "50\n");
    assert_int_equal(available(), 5000 * 1024); /* no limit */
    put("memory/memory.limit_in_bytes", "2000000\n");
    put("memory/memory.usage_in_bytes", "1000000\n");
    put("memory/memory.stat", "inactive_file 7\ntotal_inactive_file 300000\n");
    assert_int_equal(available(), 1300000);
}

static void test_this_machine(void **state)
{
    (void)state;
    assert_true(ag_available_bytes() > 0);
}

static void test_little_after_much(void **state)
{
    ag_ctx *ctx = ag_ctx_new(NULL);

    (void)state;
    /* more than any machine has: asks, and is refused */
    assert_null(ag_empty(ctx, AG_MODEL, AG_F32, 1, (int64_t[]){(int64_t)1 << 37}));
    assert_int_equal(ag_status_of(ctx), AG_ENOMEM);
    ag_clear(ctx);
    for (int i = 0; i < 3; i++) {
        ag_tensor *t = ag_empty(ctx, AG_MODEL, AG_F32, 1, (int64_t[]){1000});
        assert_non_null(t);
        ag_release(t);
    }
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_says),
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_version_1_inside_a_container),
        cmocka_unit_test(test_this_machine),
        cmocka_unit_test(test_little_after_much),
    };
    char command[128];
    int failed;

    strcpy(root, "/tmp/test-available-XXXXXX");
    if (!mkdtemp(root))
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) != 0 || failed;
}
