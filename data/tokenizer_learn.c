/* tokenizer_learn.c - a vocabulary of 1000 entries, learned from the text below.
 *
 * Count the pairs of neighbouring symbols over all words, merge the most frequent one everywhere,
 * repeat (Sennrich et al. 2016, arXiv:1508.07909, section 3.2). Of equally frequent pairs the one
 * that stands first in byte order wins, so that the result depends on nothing but the text.
 * The text is small, so pairs are counted anew for every merge.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/json.h"
#include "data/text_file.h"
#include "data/tokenizer_internal.h"

enum {
    N_BYTES = 256,
    N_MERGES = DATA_TOKENIZER_SMALL_SIZE - 2 * N_BYTES - 2,
    MAX_WORDS = 512,  /* different ones in the text */
    MAX_SYMBOLS = 24, /* of a word */
    MAX_TOKEN = MAX_SYMBOLS + 8,
    MAX_PAIRS = 4096
};

/* Words that prompts about faces and ages use, the more often the more important. */
static const char text[] =
    "a photo of a person. a photo of a man. a photo of a woman. a photo of a boy. a photo of a "
    "girl. photo of a 70 year old person. photo of a 70 year old man. photo of a 70 year old "
    "woman. photo of a 10 year old boy. photo of a 10 year old girl. photo of a young person. "
    "photo of an old person. photo of a person with glasses. portrait photo of a man with "
    "glasses. portrait photo of a woman with glasses. a portrait of a person. a portrait of an "
    "old man. a portrait of an old woman. a portrait of a young man. a portrait of a young woman. "
    "the face of a child. the face of a baby. the face of a boy. the face of a girl. the face of "
    "a man. the face of a woman. the face of an old person. the face of a young person. face of a "
    "person with grey hair. face of a person with white hair. face of a person with black hair. "
    "face of a person with brown hair. face of a person with blond hair. face of a person with "
    "red hair. face of a person with short hair. face of a person with long hair. a person with "
    "curly hair. a man with a beard. a man with a moustache. an old man with a white beard. a "
    "bald man. an old woman with grey hair. a woman with long brown hair. a child with blue eyes. "
    "a girl with green eyes. a boy with brown eyes. a baby that is one year old. a child that is "
    "five years old. a teenager that is fifteen years old. an adult that is forty years old. a "
    "person that is seventy years old. a middle aged man. a middle aged woman. a middle aged "
    "person. an elderly person. an elderly man. an elderly woman. a teenage boy. a teenage girl. "
    "a toddler. a child. children grow older. people grow older. a person of a young age. a "
    "person of an old age. the same person many years older. the same person many years younger. "
    "the same person as a child. the same person as an adult. wrinkles in the face. wrinkles "
    "around the eyes. wrinkles on the forehead. smooth skin. dark skin. light skin. pale skin. a "
    "smiling person. a smiling woman. a smiling man. a serious face. a happy face. a sad face. a "
    "neutral face. the nose, the mouth, the chin, the ears, the cheeks, the lips, the neck. the "
    "head is turned to the left. the head is turned to the right. looking at the camera. a close "
    "up photo, high quality, sharp, detailed. a blurry photo, low quality. a drawing of a face. a "
    "painting of a person. a sketch of a woman. a picture of a man. an image of a child. an "
    "actor, an actress, a father, a mother, a son, a daughter, a grandfather, a grandmother. a "
    "person wearing a hat. a woman wearing a red hat. a man in a blue shirt. black and white "
    "photo of a person. in front of a white background. in front of a plain background. outdoors "
    "in the sun. indoors by the window. male person. female person. photo of sks person. photo of "
    "sks man. photo of sks woman. a photo of sks person at 20 years old. freckles on the cheeks. "
    "deep lines beside the mouth. thin eyebrows. thick eyebrows. heavy eyelids. a round chin. a "
    "narrow chin. a wide jaw. a strong jaw. a long nose. a small nose. full lips. large ears. "
    "earrings and a necklace. a tie and a jacket. sunglasses. gentle expression, calm expression, "
    "surprised expression, angry expression, tired expression. laughing, crying, frowning, "
    "speaking. soft light, bright light, natural light, studio light. a bedroom, a kitchen, a "
    "street, a garden, a forest, a beach, a school, an office. a doctor, a teacher, a student, a "
    "soldier, a farmer, a singer, a king, a queen. morning, evening, summer, winter. twenty, "
    "thirty, fifty, sixty, eighty, ninety, hundred. realistic, colourful, professional "
    "photograph. receding hairline, ponytail, braids, bangs.";

typedef struct word {
    int64_t count;
    int n;
    int symbols[MAX_SYMBOLS]; /* numbers of the vocabulary */
} word;

typedef struct pair {
    int left, right;
    int64_t count;
} pair;

/* All the learner holds; one block. */
typedef struct learner {
    char tokens[DATA_TOKENIZER_SMALL_SIZE][MAX_TOKEN];
    word words[MAX_WORDS];
    pair pairs[MAX_PAIRS];
    pair merges[N_MERGES];
    int n_words, n_pairs;
} learner;

/* The order of ids: the bytes that stand for themselves, then the others. */
static int byte_of_id(int id)
{
    int n = 0;

    for (int pass = 0; pass < 2; pass++) {
        for (int byte = 0; byte < N_BYTES; byte++) {
            const bool itself =
                (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);

            if (itself == (pass == 0) && n++ == id)
                return byte;
        }
    }
    return 0;
}

/* A token is at most MAX_SYMBOLS letters and </w>, which fits. */
static void join_tokens(char *out, const char *left, const char *right)
{
    const size_t n = strlen(left);

    memcpy(out, left, n);
    memcpy(out + n, right, strlen(right) + 1);
}

static void start_vocabulary(learner *l)
{
    for (int id = 0; id < N_BYTES; id++) {
        tok_byte_symbol(l->tokens[id], byte_of_id(id));
        join_tokens(l->tokens[N_BYTES + id], l->tokens[id], "</w>");
    }
}

/* The text consists of printable ASCII, whose ids are the code less 0x21. */
static void add_word(learner *l, const char *begin, size_t n)
{
    word new = {.count = 1, .n = (int)n};

    for (size_t i = 0; i < n; i++)
        new.symbols[i] = begin[i] - 0x21 + (i + 1 == n ? N_BYTES : 0);
    for (int i = 0; i < l->n_words; i++) {
        word *old = &l->words[i];

        if (old->n == new.n && memcmp(old->symbols, new.symbols, n * sizeof *new.symbols) == 0) {
            old->count++;
            return;
        }
    }
    l->words[l->n_words++] = new;
}

static void count_pairs(learner *l)
{
    l->n_pairs = 0;
    for (int w = 0; w < l->n_words; w++) {
        for (int i = 0; i + 1 < l->words[w].n; i++) {
            const int left = l->words[w].symbols[i], right = l->words[w].symbols[i + 1];
            int at = 0;

            while (at < l->n_pairs && (l->pairs[at].left != left || l->pairs[at].right != right))
                at++;
            if (at == l->n_pairs)
                l->pairs[l->n_pairs++] = (pair){left, right, 0};
            l->pairs[at].count += l->words[w].count;
        }
    }
}

static bool is_better(const learner *l, const pair *a, const pair *b)
{
    int order;

    if (a->count != b->count)
        return a->count > b->count;
    order = strcmp(l->tokens[a->left], l->tokens[b->left]);
    return order ? order < 0 : strcmp(l->tokens[a->right], l->tokens[b->right]) < 0;
}

static void merge_everywhere(learner *l, const pair *merge, int id)
{
    for (int w = 0; w < l->n_words; w++) {
        word *at = &l->words[w];
        int n = 0;

        for (int i = 0; i < at->n; i++) {
            const bool is = i + 1 < at->n && at->symbols[i] == merge->left &&
                            at->symbols[i + 1] == merge->right;

            at->symbols[n++] = is ? id : at->symbols[i];
            i += is;
        }
        at->n = n;
    }
}

static ag_status learn(learner *l, ag_ctx *ctx)
{
    size_t begin = 0, end;

    start_vocabulary(l);
    while ((end = tok_next_word(&begin, text, sizeof text - 1, false)) > 0) {
        if (end - begin > MAX_SYMBOLS || l->n_words == MAX_WORDS)
            return ag_fail(ctx, AG_EINVAL, "tokenizer: the text is too large to learn from");
        add_word(l, text + begin, end - begin);
        begin = end;
    }
    for (int i = 0; i < N_MERGES; i++) {
        const int id = 2 * N_BYTES + i;
        const pair *best = l->pairs;

        count_pairs(l);
        if (l->n_pairs == 0)
            return ag_fail(ctx, AG_EINVAL, "tokenizer: the text gives %d merges, wanted %d", i,
                           N_MERGES);
        for (int p = 1; p < l->n_pairs; p++)
            if (is_better(l, &l->pairs[p], best))
                best = &l->pairs[p];
        l->merges[i] = *best;
        join_tokens(l->tokens[id], l->tokens[best->left], l->tokens[best->right]);
        merge_everywhere(l, &l->merges[i], id);
    }
    strcpy(l->tokens[DATA_TOKENIZER_SMALL_SIZE - 2], "<|startoftext|>");
    strcpy(l->tokens[DATA_TOKENIZER_SMALL_SIZE - 1], "<|endoftext|>");
    return AG_OK;
}

/* vocab.json: one line, in the order of ids. */
static char *vocabulary_text(ag_ctx *ctx, const learner *l)
{
    char *all = ag_new(ctx, DATA_TOKENIZER_SMALL_SIZE, 128, "vocabulary");
    size_t used = 0;

    for (int id = 0; all && id < DATA_TOKENIZER_SMALL_SIZE; id++) {
        json_t *token = json_string(l->tokens[id]);
        char *quoted = data_json_dump(ctx, token, 0);

        json_decref(token);
        if (!quoted) {
            ag_delete(all);
            return NULL;
        }
        used += (size_t)sprintf(all + used, "%s%s: %d", id ? ", " : "{", quoted, id);
        ag_delete(quoted);
    }
    if (all)
        strcpy(all + used, "}\n");
    return all;
}

static char *merges_text(ag_ctx *ctx, const learner *l)
{
    static const char head[] = "#version: 0.2\n";
    char *all = ag_new(ctx, N_MERGES + 1, 128, "merges");
    size_t used = sizeof head - 1;

    if (!all)
        return NULL;
    memcpy(all, head, used);
    for (int i = 0; i < N_MERGES; i++)
        used += (size_t)sprintf(all + used, "%s %s\n", l->tokens[l->merges[i].left],
                                l->tokens[l->merges[i].right]);
    return all;
}

static ag_status write_file(ag_ctx *ctx, const char *folder, const char *name, const char *content)
{
    char *path = ag_printf(ctx, "%s/%s", folder, name);
    ag_status status =
        path ? data_file_write(ctx, path, content, strlen(content)) : ag_status_of(ctx);

    ag_delete(path);
    return status;
}

ag_status data_tokenizer_write_small(ag_ctx *ctx, const char *to)
{
    static const char config[] = "{\n"
                                 "  \"add_prefix_space\": false,\n"
                                 "  \"bos_token\": \"<|startoftext|>\",\n"
                                 "  \"do_lower_case\": true,\n"
                                 "  \"eos_token\": \"<|endoftext|>\",\n"
                                 "  \"errors\": \"replace\",\n"
                                 "  \"model_max_length\": 77,\n"
                                 "  \"pad_token\": \"<|endoftext|>\",\n"
                                 "  \"tokenizer_class\": \"CLIPTokenizer\",\n"
                                 "  \"unk_token\": \"<|endoftext|>\"\n"
                                 "}\n";
    static const char special[] = "{\n"
                                  "  \"bos_token\": \"<|startoftext|>\",\n"
                                  "  \"eos_token\": \"<|endoftext|>\",\n"
                                  "  \"pad_token\": \"<|endoftext|>\",\n"
                                  "  \"unk_token\": \"<|endoftext|>\"\n"
                                  "}\n";
    learner *l = ag_new(ctx, 1, sizeof *l, "learner of a vocabulary");
    char *vocabulary = NULL, *merges = NULL;
    ag_status status = l ? learn(l, ctx) : AG_ENOMEM;

    if (status == AG_OK) {
        vocabulary = vocabulary_text(ctx, l);
        merges = merges_text(ctx, l);
        status = vocabulary && merges ? AG_OK : ag_status_of(ctx);
    }
    if (status == AG_OK)
        status = write_file(ctx, to, "vocab.json", vocabulary);
    if (status == AG_OK)
        status = write_file(ctx, to, "merges.txt", merges);
    if (status == AG_OK)
        status = write_file(ctx, to, "tokenizer_config.json", config);
    if (status == AG_OK)
        status = write_file(ctx, to, "special_tokens_map.json", special);
    ag_delete(vocabulary);
    ag_delete(merges);
    ag_delete(l);
    return status;
}
