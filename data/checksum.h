/* checksum.h - sums that tell whether bytes are still the ones that were written. */
#ifndef DATA_CHECKSUM_H
#define DATA_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_SHA256_TEXT = 65, DATA_SHA1_TEXT = 41 }; /* 64 and 40 hexadecimal digits and a zero */

/* CRC-32C (Castagnoli) of n bytes; `crc` is 0, or the sum of what came before. */
uint32_t data_crc32c(uint32_t crc, const void *bytes, size_t n);
/* CRC-32 of zip archives and PNG, in the same way. */
uint32_t data_crc32(uint32_t crc, const void *bytes, size_t n);
/* Either of them in plain C, whatever the processor can do: what the two above are tested with. */
uint32_t data_crc_plain(uint32_t crc, const void *bytes, size_t n, bool is_castagnoli);

/* SHA-256 in lower-case hexadecimal. AG_EIO when the file cannot be read. */
ag_status data_sha256(char out[DATA_SHA256_TEXT], ag_ctx *ctx, const void *bytes, size_t n);
/* SHA-1 likewise: for names that other programs give, not to trust anything by. */
ag_status data_sha1(char out[DATA_SHA1_TEXT], ag_ctx *ctx, const void *bytes, size_t n);
ag_status data_file_sha256(char out[DATA_SHA256_TEXT], ag_ctx *ctx, const char *path);

#ifdef __cplusplus
}
#endif

#endif /* DATA_CHECKSUM_H */
