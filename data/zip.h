/* zip.h - where the stored members of a zip archive lie.
 *
 * A library that unpacks does not tell where a member's bytes are, and reads on where an archive
 * contradicts itself. Torch stores its tensors uncompressed, so all that is needed is their place,
 * and to be sure of it. An archive is taken only when it is what torch writes and nothing else:
 * one disk, no comment, nothing before the first member, no encryption, no compression, the
 * central directory right before its end record, each local header equal to its directory entry,
 * members that do not overlap, plain relative names, none twice. Zip64 is read.
 *
 * Source  PKWARE, APPNOTE.TXT 6.3.10: sections 4.3.7 to 4.3.16, 4.5.3.
 *
 * Ownership  A data_zip owns its list; the file stays the caller's.
 */
#ifndef DATA_ZIP_H
#define DATA_ZIP_H

#include "data/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_ZIP_DIRECTORY_BYTES = 64 << 20, DATA_ZIP_MEMBERS = 1000000, DATA_ZIP_NAME = 1024 };

typedef struct data_zip_member {
    const char *name;
    uint64_t at, size; /* its bytes in the file */
    uint32_t crc;      /* data_crc32 of them */
    uint64_t header_at;
} data_zip_member;

typedef struct data_zip {
    data_zip_member *members; /* sorted by name */
    int64_t n_members;
    char *names; /* one block */
} data_zip;

/* AG_EDATA or AG_EUNSUPPORTED naming file and member. */
ag_status data_zip_list(data_zip *out, ag_ctx *ctx, const data_file *file);
void data_zip_free(data_zip *zip); /* zeros are fine */

int64_t data_zip_find(const data_zip *zip, const char *name); /* -1: there is none */
/* A whole member of at most max_bytes, its checksum verified; *out is for ag_delete. */
ag_status data_zip_read(uint8_t **out, ag_ctx *ctx, const data_file *file,
                        const data_zip_member *member, uint64_t max_bytes);

#ifdef __cplusplus
}
#endif

#endif /* DATA_ZIP_H */
