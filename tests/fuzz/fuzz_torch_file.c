/* fuzz_torch_file.c - any bytes as a torch file.
 *
 * An input that begins like an archive is one. Any other is a pickle, and is put into an archive
 * with right sizes and checksums beside two storages, so that the fuzzer need not find those.
 */
#include "tests/fuzz/weights_fuzz.h"

#include "data/checksum.h"

enum { STORAGE_BYTES = 64, N_MEMBERS = 3, ROOM = 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static uint8_t *put(uint8_t *to, const void *from, size_t n)
{
    if (n > 0)
        memcpy(to, from, n);
    return to + n;
}

static uint8_t *put_number(uint8_t *to, uint64_t number, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++)
        *to++ = i < 8 ? (uint8_t)(number >> 8 * i) : 0;
    return to;
}

/* What a local header and a directory entry have in common. */
static uint8_t *put_header(uint8_t *to, const char *name, uint32_t crc, size_t n, int central)
{
    to = put_number(to, 20, 2);
    to = put_number(to, 0, 8);
    to = put_number(to, crc, 4);
    to = put_number(to, n, 4);
    to = put_number(to, n, 4);
    to = put_number(to, strlen(name), 2);
    return put_number(to, 0, central ? 2 + 10 : 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const names[N_MEMBERS] = {"r/data.pkl", "r/data/0", "r/data/1"};
    uint8_t storage[STORAGE_BYTES], *file, *at, *directory;
    size_t places[N_MEMBERS];

    if (n >= 2 && memcmp(bytes, "PK", 2) == 0) {
        fuzz_weights(bytes, n);
        return 0;
    }
    file = at = malloc(n + ROOM);
    if (!file)
        return 0;
    for (int i = 0; i < STORAGE_BYTES; i++)
        storage[i] = (uint8_t)i;
    for (int m = 0; m < N_MEMBERS; m++) {
        const void *from = m ? storage : bytes;
        const size_t size = m ? STORAGE_BYTES : n;

        places[m] = (size_t)(at - file);
        at = put(at, "PK\3\4", 4);
        at = put_header(at, names[m], data_crc32(0, from, size), size, 0);
        at = put(at, names[m], strlen(names[m]));
        at = put(at, from, size);
    }
    directory = at;
    for (int m = 0; m < N_MEMBERS; m++) {
        const void *from = m ? storage : bytes;
        const size_t size = m ? STORAGE_BYTES : n;

        at = put(at, "PK\1\2\24\0", 6);
        at = put_header(at, names[m], data_crc32(0, from, size), size, 1);
        at = put_number(at, places[m], 4);
        at = put(at, names[m], strlen(names[m]));
    }
    places[0] = (size_t)(at - directory);
    at = put(at, "PK\5\6\0\0\0", 8);
    at = put_number(at, N_MEMBERS, 2);
    at = put_number(at, N_MEMBERS, 2);
    at = put_number(at, places[0], 4);
    at = put_number(at, (uint64_t)(directory - file), 4);
    at = put_number(at, 0, 2);
    fuzz_weights(file, (size_t)(at - file));
    free(file);
    return 0;
}
