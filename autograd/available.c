/* available.c - see available.h.
 *
 * A group's files differ between the two versions of control groups (Linux:
 * Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst). What a group uses includes
 * cached files; those that were not touched lately (inactive_file) can be taken back at once and
 * count as free. Limits hold for everything below, so all groups up to the root are asked.
 */
#include "autograd/available.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 8192 };

typedef struct version {
    const char *controller; /* what its line of /proc/self/cgroup has between the colons */
    const char *mount;      /* below /sys/fs/cgroup */
    const char *limit, *used, *cached;
} version;

static const version VERSIONS[] = {
    {"", "", "memory.max", "memory.current", "inactive_file "},
    {"memory", "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "},
};

/* The beginning of a file as text; "" when there is none. */
static const char *read_text(char text[TEXT_BYTES], const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t n = 1;

    while (fd >= 0 && n > 0 && size < TEXT_BYTES - 1) {
        n = read(fd, text + size, TEXT_BYTES - 1 - size);
        size += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    text[size] = '\0';
    return text;
}

/* The number behind `key` at the beginning of a line; `none` when there is no such line, or no
 * number in it ("max"). */
static size_t number_after(const char *text, const char *key, size_t none)
{
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, strlen(key)) == 0) {
            char *end;
            const size_t value = (size_t)strtoull(line + strlen(key), &end, 10);
            return end == line + strlen(key) ? none : value;
        }
    }
    return none;
}

static size_t number_in(const char *folder, const char *name, const char *key, size_t none)
{
    char path[PATH_MAX], text[TEXT_BYTES];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, name);

    return n < 0 || (size_t)n >= sizeof path ? none : number_after(read_text(text, path), key, none);
}

/* What one group has left; SIZE_MAX without a limit. */
static size_t left_in(const version *v, const char *folder)
{
    const size_t limit = number_in(folder, v->limit, "", SIZE_MAX);
    size_t used, cached;

    if (limit >= (size_t)1 << 60) /* version 1 says "none" by a number no machine has */
        return SIZE_MAX;
    used = number_in(folder, v->used, "", 0);
    cached = number_in(folder, "memory.stat", v->cached, 0);
    used -= cached < used ? cached : used;
    return used < limit ? limit - used : 0;
}

/* Copy the path of our group in this version's hierarchy; false when there is none. */
static bool own_group(char *path, size_t size, const char *membership, const char *controller)
{
    for (const char *line = membership; line && *line; line = strchr(line, '\n')) {
        const char *from, *to, *end;
        line += *line == '\n';
        from = strchr(line, ':');
        to = from ? strchr(from + 1, ':') : NULL;
        end = line + strcspn(line, "\n");
        if (!to || to > end)
            continue;
        if ((size_t)(to - from - 1) != strlen(controller) ||
            memcmp(from + 1, controller, strlen(controller)) != 0)
            continue;
        if ((size_t)(end - to) > size)
            return false;
        memcpy(path, to + 1, (size_t)(end - to - 1));
        path[end - to - 1] = '\0';
        return true;
    }
    return false;
}

/* The least that our group and those around it have left. Inside a container the path may be the
 * host's, of which only the root is seen: folders that are not there say nothing. */
static size_t left_in_groups(const version *v, const char *membership, const char *groups)
{
    char own[PATH_MAX / 2], folder[PATH_MAX];
    size_t least = SIZE_MAX;

    if (!own_group(own, sizeof own, membership, v->controller))
        return SIZE_MAX;
    for (;;) {
        char *slash = strrchr(own, '/');
        const int n = snprintf(folder, sizeof folder, "%s%s%s", groups, v->mount, own);
        const size_t left = n < 0 || (size_t)n >= sizeof folder ? SIZE_MAX : left_in(v, folder);
        least = left < least ? left : least;
        if (!slash)
            return least;
        *slash = '\0';
    }
}

size_t ag_available_bytes_at(const char *meminfo, const char *membership, const char *groups)
{
    char text[TEXT_BYTES];
    size_t least = number_after(read_text(text, meminfo), "MemAvailable:", SIZE_MAX >> 10);

    least = least >= SIZE_MAX >> 10 ? SIZE_MAX : least << 10;
    read_text(text, membership);
    for (size_t i = 0; i < sizeof VERSIONS / sizeof *VERSIONS; i++) {
        const size_t left = left_in_groups(&VERSIONS[i], text, groups);
        least = left < least ? left : least;
    }
    return least;
}

size_t ag_available_bytes(void)
{
    return ag_available_bytes_at("/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup");
}
