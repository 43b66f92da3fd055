/* checksum.c - CRC-32C, CRC-32 and SHA-256.
 *
 * Both CRCs have a plain form that takes eight bytes at a time through eight tables, built on the
 * stack because they cost less than a small file does, and a form for processors that can do it
 * in an instruction: CRC-32C with SSE4.2's crc32; CRC-32 by folding 64 bytes at a time with
 * carry-less products.
 *
 * Source  Gopal et al. 2009, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 *         Instruction" (Intel), section on bit-reflected CRCs and its constants for 0x04C11DB7.
 */
#include "data/checksum.h"

#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "data/file.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SMALL = 512, HASH_PIECE = 1 << 20 };

static const uint32_t castagnoli = 0x82F63B78, ethernet = 0xEDB88320; /* bit-reflected */

/* --- any processor ---------------------------------------------------------------------------- */

/* The state after one byte, bit by bit: the definition. */
static uint32_t crc_byte(uint32_t crc, uint32_t polynomial)
{
    for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (polynomial & (0u - (crc & 1)));
    return crc;
}

static uint32_t crc_plain(uint32_t crc, const uint8_t *p, size_t n, uint32_t polynomial)
{
    uint32_t table[8][256];

    if (n < SMALL) {
        while (n-- > 0)
            crc = crc_byte(crc ^ *p++, polynomial);
        return crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        table[0][i] = crc_byte(i, polynomial);
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++)
            table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
    for (; n >= 8; n -= 8, p += 8) {
        const uint32_t a = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                                  (uint32_t)p[3] << 24);

        crc = table[7][a & 255] ^ table[6][a >> 8 & 255] ^ table[5][a >> 16 & 255] ^
              table[4][a >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    while (n-- > 0)
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    return crc;
}

/* --- x86 with the instructions for it --------------------------------------------------------- */

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p,
                                                                size_t n)
{
    uint64_t wide = crc, eight;

    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&eight, p, 8);
        wide = _mm_crc32_u64(wide, eight);
    }
    crc = (uint32_t)wide;
    while (n-- > 0)
        crc = _mm_crc32_u8(crc, *p++);
    return crc;
}

/* a times the two halves of k, carry-less, added to b: a moved forward over the message. */
__attribute__((target("pclmul,sse4.1"))) static __m128i fold(__m128i a, __m128i k, __m128i b)
{
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(a, k, 0x00),
                                       _mm_clmulepi64_si128(a, k, 0x11)),
                         b);
}

/* n >= 64 and a multiple of 16. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t crc32_folded(uint32_t crc,
                                                                       const uint8_t *p, size_t n)
{
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i to_64 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641); /* quotient, polynomial */
    const __m128i low = _mm_set_epi32(0, -1, 0, -1);
    __m128i a = _mm_loadu_si128((const __m128i *)p), b = _mm_loadu_si128((const __m128i *)p + 1);
    __m128i c = _mm_loadu_si128((const __m128i *)p + 2);
    __m128i d = _mm_loadu_si128((const __m128i *)p + 3), q;

    a = _mm_xor_si128(a, _mm_cvtsi32_si128((int)crc));
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        a = fold(a, by_64, _mm_loadu_si128((const __m128i *)p));
        b = fold(b, by_64, _mm_loadu_si128((const __m128i *)p + 1));
        c = fold(c, by_64, _mm_loadu_si128((const __m128i *)p + 2));
        d = fold(d, by_64, _mm_loadu_si128((const __m128i *)p + 3));
    }
    a = fold(fold(fold(a, by_16, b), by_16, c), by_16, d);
    for (; n >= 16; p += 16, n -= 16)
        a = fold(a, by_16, _mm_loadu_si128((const __m128i *)p));
    /* 128 bits to 64, then to 32 by Barrett's reduction */
    a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by_16, 0x10));
    a = _mm_xor_si128(_mm_srli_si128(a, 4),
                      _mm_clmulepi64_si128(_mm_and_si128(a, low), to_64, 0x00));
    q = _mm_clmulepi64_si128(_mm_and_si128(a, low), barrett, 0x10);
    q = _mm_clmulepi64_si128(_mm_and_si128(q, low), barrett, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(a, q), 1);
}
#endif

uint32_t data_crc32c(uint32_t crc, const void *bytes, size_t n)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc32c_sse42(~crc, bytes, n);
#endif
    return ~crc_plain(~crc, bytes, n, castagnoli);
}

uint32_t data_crc32(uint32_t crc, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    crc = ~crc;
#if defined(__x86_64__)
    if (n >= 64 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
        crc = crc32_folded(crc, p, n & ~(size_t)15);
        p += n & ~(size_t)15;
        n &= 15;
    }
#endif
    return ~crc_plain(crc, p, n, ethernet);
}

uint32_t data_crc_plain(uint32_t crc, const void *bytes, size_t n, bool is_castagnoli)
{
    return ~crc_plain(~crc, bytes, n, is_castagnoli ? castagnoli : ethernet);
}

/* --- SHA-256 ---------------------------------------------------------------------------------- */

static ag_status finish(char out[DATA_SHA256_TEXT], ag_ctx *ctx, EVP_MD_CTX *hash)
{
    unsigned char sum[32];

    if (EVP_DigestFinal_ex(hash, sum, NULL) != 1)
        return ag_fail(ctx, AG_EUNSUPPORTED, "SHA-256: the crypto library failed");
    for (int i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", sum[i]);
    return AG_OK;
}

static EVP_MD_CTX *begin(ag_ctx *ctx)
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();

    if (hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1)
        return hash;
    EVP_MD_CTX_free(hash);
    ag_fail(ctx, AG_EUNSUPPORTED, "SHA-256: the crypto library has none");
    return NULL;
}

ag_status data_sha256(char out[DATA_SHA256_TEXT], ag_ctx *ctx, const void *bytes, size_t n)
{
    EVP_MD_CTX *hash = begin(ctx);
    ag_status status;

    if (!hash)
        return AG_EUNSUPPORTED;
    if (EVP_DigestUpdate(hash, bytes, n) == 1)
        status = finish(out, ctx, hash);
    else
        status = ag_fail(ctx, AG_EUNSUPPORTED, "SHA-256: the crypto library failed");
    EVP_MD_CTX_free(hash);
    return status;
}

ag_status data_sha1(char out[DATA_SHA1_TEXT], ag_ctx *ctx, const void *bytes, size_t n)
{
    unsigned char sum[20];

    if (EVP_Digest(bytes, n, sum, NULL, EVP_sha1(), NULL) != 1)
        return ag_fail(ctx, AG_EUNSUPPORTED, "SHA-1: the crypto library failed");
    for (size_t i = 0; i < sizeof sum; i++)
        snprintf(out + 2 * i, 3, "%02x", sum[i]);
    return AG_OK;
}

ag_status data_file_sha256(char out[DATA_SHA256_TEXT], ag_ctx *ctx, const char *path)
{
    EVP_MD_CTX *hash = NULL;
    data_file file = {.fd = -1};
    void *piece = NULL;
    ag_status status = data_file_open(&file, ctx, path);

    if (status != AG_OK)
        return status;
    hash = begin(ctx);
    piece = ag_new(ctx, HASH_PIECE, 1, path);
    status = hash && piece ? AG_OK : ag_status_of(ctx);
    for (uint64_t at = 0; at < file.size && status == AG_OK;) {
        const size_t n = file.size - at < HASH_PIECE ? (size_t)(file.size - at) : HASH_PIECE;

        status = data_file_get(ctx, &file, at, n, piece);
        if (status == AG_OK && EVP_DigestUpdate(hash, piece, n) != 1)
            status = ag_fail(ctx, AG_EUNSUPPORTED, "SHA-256: the crypto library failed");
        at += n;
    }
    if (status == AG_OK)
        status = finish(out, ctx, hash);
    ag_delete(piece);
    EVP_MD_CTX_free(hash);
    data_file_close(&file);
    return status;
}
