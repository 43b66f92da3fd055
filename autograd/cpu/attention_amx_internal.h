/* attention_amx_internal.h - how attention on AMX tiles stores heads. For attention_*amx.c only.
 *
 * Keys are taken in groups of 32, two tiles of 16 columns of a score. Column c of the first tile and
 * of the second are the keys
 *   0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23      8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31
 * of the group (key_of_column). With this order the unpack instructions, which work in quarters of a
 * register, turn two rows of 32 results into rows of pairs whose columns are keys 0..15 and 16..31.
 *
 * Layouts of a head, all in whole tiles, zeros beyond the matrix:
 *   keys_across   [tile of 16 keys][step of d][1 KiB]   pairs along d: B of a product with queries
 *   keys_down     [group of 32 keys][tile of d][1 KiB]  pairs along keys: B of a product with P
 */
#ifndef AG_CPU_ATTENTION_AMX_INTERNAL_H
#define AG_CPU_ATTENTION_AMX_INTERNAL_H

#include <math.h>
#include <omp.h>

#include "autograd/cpu/amx_internal.h"
#include "autograd/cpu/attention_internal.h"

enum { KEY_GROUP = 32, STRIP = 32 /* queries that are worked on at a time */ };

static const float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

AMX_INLINE int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
AMX_INLINE int64_t round_up(int64_t a, int64_t b) { return div_up(a, b) * b; }
AMX_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
AMX_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Steps of 32 and tiles of 16 that a head's size takes. */
AMX_INLINE int64_t d_steps(const cpu_attention *a) { return div_up(a->d, AMX_DEPTH); }
AMX_INLINE int64_t d_tiles(const cpu_attention *a) { return div_up(a->d, AMX_SIDE); }

/* Bytes of a tensor's rows as tiles: 32 at a time, d in steps or in tiles. */
AMX_INLINE int64_t across_bytes(const cpu_attention *a, int64_t rows)
{
    return div_up(rows, KEY_GROUP) * 2 * d_steps(a) * AMX_TILE_BYTES;
}
AMX_INLINE int64_t down_bytes(const cpu_attention *a, int64_t rows)
{
    return div_up(rows, KEY_GROUP) * d_tiles(a) * AMX_TILE_BYTES;
}

AMX_INLINE int64_t key_of_column(int64_t column)
{
    return column / 8 * 4 + column % 4 + column / 4 % 2 * 16;
}

/* The same, of the columns of tile 0 or 1, for comparisons. */
AMX_INLINE __m512i keys_of_tile(int tile)
{
    const __m512i first =
        _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    return _mm512_add_epi32(first, _mm512_set1_epi32(8 * tile));
}

/* The 32 rows from src on, of which `rows` are there: numbers [from, from + n) of row i, n <= 32. */
AMX_INLINE __m512i load_part(const uint16_t *src, int64_t ld, int64_t i, int64_t rows, int64_t from,
                             int64_t n)
{
    return i < rows ? amx_load_row(src + i * ld + from, n) : _mm512_setzero_si512();
}

/* One group of rows as keys_across. */
AMX_INLINE void pack_across(char *dst, const uint16_t *src, int64_t ld, int64_t rows,
                            const cpu_attention *a)
{
    for (int64_t tile = 0; tile < 2; tile++)
        for (int64_t from = 0; from < a->d; from += AMX_DEPTH, dst += AMX_TILE_BYTES) {
            __m512i r[AMX_SIDE];
            for (int64_t i = 0; i < AMX_SIDE; i++)
                r[i] = load_part(src, ld, key_of_column(tile * AMX_SIDE + i), rows, from, a->d - from);
            amx_transpose(r);
            amx_store_tile(dst, r);
        }
}

/* One group of rows as keys_down. */
AMX_INLINE void pack_down(char *dst, const uint16_t *src, int64_t ld, int64_t rows,
                          const cpu_attention *a)
{
    for (int64_t from = 0; from < a->d; from += AMX_SIDE, dst += AMX_TILE_BYTES) {
        const int64_t n = least(AMX_SIDE, a->d - from);
        __m512i r[AMX_SIDE];
        for (int64_t i = 0; i < AMX_SIDE; i++) {
            const __m512i even = load_part(src, ld, key_of_column(2 * i), rows, from, n);
            const __m512i odd = load_part(src, ld, key_of_column(2 * i + 1), rows, from, n);
            r[i] = amx_pair_rows(even, odd);
        }
        amx_store_tile(dst, r);
    }
}

/* A strip of queries, or their gradients, as rows: dst [32][32 d_steps]. flip: 0x8000 turns signs. */
AMX_INLINE void pack_strip(uint16_t *dst, const uint16_t *src, int64_t ld, int64_t rows, int flip,
                           const cpu_attention *a)
{
    const __m512i sign = _mm512_set1_epi16((short)flip);

    for (int64_t i = 0; i < STRIP; i++)
        for (int64_t from = 0; from < a->d; from += AMX_DEPTH, dst += AMX_DEPTH)
            _mm512_store_si512(dst, _mm512_xor_si512(
                                        load_part(src, ld, i, rows, from, a->d - from), sign));
}

/* Heads that are packed together: about a megabyte a thread, so that they are met again in a cache. */
AMX_INLINE int64_t heads_at_once(const cpu_attention *a, int64_t head_bytes, int n_threads)
{
    return least(a->n * a->heads, n_threads * most(1, (1 << 20) / head_bytes));
}

/* The operands of products. */
AMX_INLINE amx_tiles tiles_of_strip(const uint16_t *strip, const cpu_attention *a)
{
    const int64_t row = d_steps(a) * AMX_ROW_BYTES;
    return (amx_tiles){strip, row, AMX_SIDE * row, AMX_ROW_BYTES};
}
AMX_INLINE amx_tiles tiles_across(const char *packed, int64_t key, const cpu_attention *a)
{
    const int64_t side = d_steps(a) * AMX_TILE_BYTES;
    return (amx_tiles){packed + key / AMX_SIDE * side, AMX_ROW_BYTES, side, AMX_TILE_BYTES};
}
AMX_INLINE amx_tiles tiles_down(const char *packed, int64_t key, const cpu_attention *a)
{
    const int64_t step = d_tiles(a) * AMX_TILE_BYTES;
    return (amx_tiles){packed + key / KEY_GROUP * step, AMX_ROW_BYTES, AMX_TILE_BYTES, step};
}

/* The same storage, of queries, as A: its rows along d. */
AMX_INLINE amx_tiles tiles_down_rows(const char *packed, int64_t query, const cpu_attention *a)
{
    return tiles_down(packed, query, a);
}

/* How many of `n_keys` keys from k0 on a query sees. */
AMX_INLINE int64_t seen_keys(const cpu_attention *a, int64_t query, int64_t k0, int64_t n_keys)
{
    const int64_t end = a->causal ? least(a->tk, query + 1) : a->tk;
    return most(0, least(n_keys, end - k0));
}

/* Keys of a group of 32 from `first` on that are below `seen`, by column: 16 bits for each tile. */
AMX_INLINE void seen_columns(__mmask16 mask[2], int64_t first, int64_t seen)
{
    const int64_t n = most(0, least(KEY_GROUP, seen - first));
    for (int tile = 0; tile < 2; tile++)
        mask[tile] = _mm512_cmplt_epi32_mask(keys_of_tile(tile), _mm512_set1_epi32((int)n));
}

#endif /* AG_CPU_ATTENTION_AMX_INTERNAL_H */
