/* tokenizer_text.c - the Unicode half of the tokenizer.
 *
 * Order as in transformers' CLIPTokenizer: NFC, each run of \s to one space, lower case code point
 * by code point. Then the words, first alternative that matches at a place wins:
 *
 *   <|startoftext|> <|endoftext|> 's 't 're 've 'm 'll 'd  letters+  one number  others+
 *
 * letters are category L, numbers category N, others neither of them nor white space.
 *
 * Categories, case and composition come from utf8proc (2.8: Unicode 15.0). The library that we
 * must equal knows Unicode 16 categories, Unicode 17 lower case, and composes by Unicode 9: marks
 * that are younger neither move nor join there. The tables below are the difference, found by
 * comparing every code point in a context of marks (scripts/golden_tokenizer.py: prompts,
 * compare).
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "data/tokenizer_internal.h"

static const utf8proc_option_t compose_options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;

typedef struct code_range {
    int32_t first, last;
} code_range;

static const code_range newer_letters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
    {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
    {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D},
};
static const code_range newer_numbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA},
};
/* Younger than Unicode 9 with a combining class or a part in a composition; and U+11A7, the code
 * before the first trailing Hangul letter, which utf8proc 2.8 takes for one and drops. */
static const code_range newer_marks[] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},
    {0x1715, 0x1715},   {0x1ABF, 0x1AFF},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x105C0, 0x105F3}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
    {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x11380, 0x113E2}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16100, 0x16139},
    {0x16D40, 0x16D79}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF},
};
static const struct {
    int32_t first, last, step, to; /* first, first + step, ... last go to to, to + step, ... */
} newer_lower[] = {
    {0x1C89, 0x1C89, 1, 0x1C8A},    {0xA7CB, 0xA7CB, 1, 0x264},     {0xA7CC, 0xA7CE, 2, 0xA7CD},
    {0xA7D2, 0xA7D4, 2, 0xA7D3},    {0xA7DA, 0xA7DA, 1, 0xA7DB},    {0xA7DC, 0xA7DC, 1, 0x19B},
    {0x10D50, 0x10D65, 1, 0x10D70}, {0x16EA0, 0x16EB8, 1, 0x16EBB},
};

static bool is_in(const code_range *ranges, size_t n, int32_t code)
{
    size_t low = 0, high = n;

    while (low < high) {
        const size_t middle = (low + high) / 2;

        if (code > ranges[middle].last)
            low = middle + 1;
        else if (code < ranges[middle].first)
            high = middle;
        else
            return true;
    }
    return false;
}

/* White_Space of Unicode. */
static bool is_space(int32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

static bool is_letter(int32_t code)
{
    const utf8proc_category_t category = utf8proc_category(code);

    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           is_in(newer_letters, sizeof newer_letters / sizeof *newer_letters, code);
}

static bool is_number(int32_t code)
{
    const utf8proc_category_t category = utf8proc_category(code);

    return (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) ||
           is_in(newer_numbers, sizeof newer_numbers / sizeof *newer_numbers, code);
}

/* \w of Unicode but for a few enclosed letters. */
static bool is_word(int32_t code)
{
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return is_letter(code) || code == 0x200C || code == 0x200D;
    }
}

static int32_t to_lower(int32_t code)
{
    for (size_t i = 0; i < sizeof newer_lower / sizeof *newer_lower; i++)
        if (code >= newer_lower[i].first && code <= newer_lower[i].last &&
            (code - newer_lower[i].first) % newer_lower[i].step == 0)
            return newer_lower[i].to + code - newer_lower[i].first;
    return utf8proc_tolower(code);
}

/* The code point at text[at] of valid UTF-8; *end is where the next one begins. */
static int32_t code_at(const char *text, size_t size, size_t at, size_t *end)
{
    utf8proc_int32_t code = 0;

    *end = at + (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                         (utf8proc_ssize_t)(size - at), &code);
    return code;
}

static size_t step_back(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

size_t tok_bad_utf8(const char *text, size_t size)
{
    size_t at = 0;

    while (at < size) {
        utf8proc_int32_t code;
        const utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                    (utf8proc_ssize_t)(size - at), &code);

        if (n <= 0)
            return at;
        at += (size_t)n;
    }
    return size;
}

/* NFC of text into codes, which has room for its decomposition. Younger marks stand alone: what
 * comes before and after them is composed by itself. Returns the number of code points, or
 * utf8proc's negative error. */
static utf8proc_ssize_t compose(utf8proc_int32_t *codes, utf8proc_ssize_t room, const char *text,
                                size_t size)
{
    utf8proc_ssize_t used = 0;
    size_t begin = 0, at = 0;

    while (begin < size) {
        utf8proc_ssize_t n;
        int32_t code = 0;
        size_t end = begin;

        for (at = begin; at < size; at = end) {
            code = code_at(text, size, at, &end);
            if (is_in(newer_marks, sizeof newer_marks / sizeof *newer_marks, code))
                break;
        }
        n = utf8proc_decompose((const utf8proc_uint8_t *)text + begin,
                               (utf8proc_ssize_t)(at - begin), codes + used, room - used,
                               compose_options);
        if (n > 0)
            n = utf8proc_normalize_utf32(codes + used, n, compose_options);
        if (n < 0)
            return n;
        used += n;
        if (at < size)
            codes[used++] = code;
        begin = end;
    }
    return used;
}

ag_status tok_normalize(char **out, size_t *out_size, ag_ctx *ctx, const char *text, size_t size)
{
    utf8proc_int32_t *codes = NULL;
    utf8proc_ssize_t n;
    utf8proc_uint8_t *bytes = NULL;
    bool was_space = false;
    size_t used = 0;
    ag_status status = AG_OK;

    n = utf8proc_decompose((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, NULL, 0,
                           compose_options);
    if (n < 0)
        return ag_fail(ctx, AG_EDATA, "text: %s", utf8proc_errmsg(n));
    codes = ag_new(ctx, (size_t)n + 1, sizeof *codes, "code points of a text");
    if (!codes)
        return AG_ENOMEM;
    n = compose(codes, n, text, size);
    if (n < 0) {
        status = ag_fail(ctx, AG_EDATA, "text: %s", utf8proc_errmsg(n));
        goto out;
    }
    bytes = ag_new(ctx, 4 * (size_t)n + 1, 1, "normalized text");
    if (!bytes) {
        status = AG_ENOMEM;
        goto out;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        if (is_space(codes[i])) {
            if (!was_space)
                bytes[used++] = ' ';
            was_space = true;
            continue;
        }
        was_space = false;
        if (codes[i] == 0x130) { /* the one letter whose lower case is two code points */
            bytes[used++] = 'i';
            used += (size_t)utf8proc_encode_char(0x307, bytes + used);
        } else {
            used += (size_t)utf8proc_encode_char(to_lower(codes[i]), bytes + used);
        }
    }
    bytes[used] = 0;
    *out = (char *)bytes;
    *out_size = used;
    bytes = NULL;
out:
    ag_delete(codes);
    ag_delete(bytes);
    return status;
}

/* The length of the fixed text that matches at `at`, 0 for none. */
static size_t fixed_match(const char *text, size_t size, size_t at, bool names)
{
    static const char *const fixed[] = {"<|startoftext|>", "<|endoftext|>", "'s",  "'t", "'re",
                                        "'ve",             "'m",            "'ll", "'d"};

    for (size_t i = names ? 0 : 2; i < sizeof fixed / sizeof *fixed; i++) {
        const size_t length = strlen(fixed[i]);

        if (length <= size - at && memcmp(text + at, fixed[i], length) == 0)
            return length;
    }
    return 0;
}

typedef enum code_class { CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER, CLASS_OTHER } code_class;

static code_class class_of(int32_t code)
{
    if (is_space(code))
        return CLASS_SPACE;
    if (is_letter(code))
        return CLASS_LETTER;
    return is_number(code) ? CLASS_NUMBER : CLASS_OTHER;
}

size_t tok_next_word(size_t *begin, const char *text, size_t size, bool names)
{
    size_t at = *begin;

    while (at < size) {
        size_t end;
        const size_t fixed = fixed_match(text, size, at, names);
        const code_class class = class_of(code_at(text, size, at, &end));

        if (class == CLASS_SPACE) {
            at = end;
            continue;
        }
        *begin = at;
        if (fixed)
            return at + fixed;
        while (class != CLASS_NUMBER && end < size) {
            size_t next;

            if (class_of(code_at(text, size, end, &next)) != class)
                break;
            end = next;
        }
        return end;
    }
    return 0;
}

bool tok_is_space_before(const char *text, size_t at, size_t *from)
{
    size_t end;

    if (at == 0)
        return false;
    *from = step_back(text, at);
    return is_space(code_at(text, at, *from, &end));
}

bool tok_is_space_after(const char *text, size_t size, size_t at, size_t *to)
{
    return at < size && is_space(code_at(text, size, at, to));
}

bool tok_is_word_before(const char *text, size_t at)
{
    size_t end;

    return at > 0 && is_word(code_at(text, at, step_back(text, at), &end));
}

bool tok_is_word_after(const char *text, size_t size, size_t at)
{
    size_t end;

    return at < size && is_word(code_at(text, size, at, &end));
}
