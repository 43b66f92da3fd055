/* available.h - how much memory this process may still take. For files in autograd/ only.
 *
 * The kernel would rather kill than refuse, so whoever is about to grow asks first. The machine's
 * free memory is not the whole answer: inside a container or a batch job the control group's limit
 * is reached long before.
 */
#ifndef AG_AVAILABLE_H
#define AG_AVAILABLE_H

#include <stddef.h>

/* Bytes: the least of what the machine and every enclosing control group have left. SIZE_MAX when
 * nobody says. Takes no memory. */
size_t ag_available_bytes(void);

/* The same from other places than /proc/meminfo, /proc/self/cgroup and /sys/fs/cgroup, for
 * tests. */
size_t ag_available_bytes_at(const char *meminfo, const char *membership, const char *groups);

#endif /* AG_AVAILABLE_H */
