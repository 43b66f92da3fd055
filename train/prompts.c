/* prompts.c - see prompts.h. */
#include "train/prompts.h"

#include <stdio.h>
#include <string.h>

#include "autograd/grad.h"
#include "autograd/random.h"
#include "train/log.h"

struct train_prompts {
    int max_length;
    int length; /* T, once prepared */
    int64_t width;
    char **texts;
    int64_t n, room;
    int64_t *table;  /* [n_table]: prompts by the hash of their text, at the next free place; 1 + number */
    int64_t n_table; /* a power of two, more than n */
    int64_t *ids;    /* [n, T] */
    float *contexts; /* [n, T, D]; NULL: not encoded */
    int64_t *row_ids; /* of one batch */
    float *row_contexts;
    int64_t row_room;
};

ag_status train_prompts_new(train_prompts **out, ag_ctx *ctx, int max_length)
{
    train_prompts *p = ag_new(ctx, 1, sizeof *p, "prompts");

    if (!p)
        return ag_status_of(ctx);
    p->max_length = max_length;
    *out = p;
    return AG_OK;
}

void train_prompts_free(train_prompts *p)
{
    if (!p)
        return;
    for (int64_t i = 0; i < p->n; i++)
        ag_delete(p->texts[i]);
    ag_delete(p->texts);
    ag_delete(p->table);
    ag_delete(p->ids);
    ag_delete(p->contexts);
    ag_delete(p->row_ids);
    ag_delete(p->row_contexts);
    ag_delete(p);
}

/* Where a text stands in the table, or would. */
static int64_t *place_of(const train_prompts *p, const char *text)
{
    int64_t at = ag_hash_name(text) & (uint32_t)(p->n_table - 1);

    while (p->table[at] && strcmp(p->texts[p->table[at] - 1], text) != 0)
        at = (at + 1) & (p->n_table - 1);
    return &p->table[at];
}

/* Room for one more text, in a table that is half empty. */
static ag_status grow(ag_ctx *ctx, train_prompts *p)
{
    const int64_t room = p->room ? 2 * p->room : 64;
    char **texts;

    if (p->n < p->room)
        return AG_OK;
    texts = ag_grow(ctx, p->texts, (size_t)room, sizeof *texts, "prompts");
    if (!texts)
        return ag_status_of(ctx);
    p->texts = texts;
    ag_delete(p->table);
    p->table = ag_new(ctx, (size_t)(2 * room), sizeof *p->table, "prompts");
    p->n_table = p->table ? 2 * room : 0;
    p->room = p->table ? room : 0;
    for (int64_t i = 0; p->table && i < p->n; i++)
        *place_of(p, p->texts[i]) = i + 1;
    return ag_status_of(ctx);
}

int64_t train_prompts_add(ag_ctx *ctx, train_prompts *p, const char *text)
{
    int64_t *place;

    if (grow(ctx, p) != AG_OK)
        return -1;
    place = place_of(p, text);
    if (*place)
        return *place - 1;
    p->texts[p->n] = ag_strdup(ctx, text);
    if (!p->texts[p->n])
        return -1;
    *place = ++p->n;
    return p->n - 1;
}

int64_t train_prompts_count(const train_prompts *p)
{
    return p->n;
}

const char *train_prompts_text(const train_prompts *p, int64_t i)
{
    return p->texts[i];
}

static ag_status encode_all(ag_ctx *ctx, train_prompts *p, const pipe_model *model)
{
    const size_t values = (size_t)(p->length * p->width);

    p->contexts = ag_new(ctx, (size_t)p->n * values, sizeof *p->contexts, "contexts");
    for (int64_t i = 0; p->contexts && i < p->n && ag_status_of(ctx) == AG_OK; i++) {
        const ag_scope scope = ag_scope_open(ctx);
        const bool was = ag_record(ctx, false);
        ag_tensor *context = pipe_text_forward(ctx, model, p->ids + i * p->length, 1, p->length, NULL);
        ag_read(ctx, context, p->contexts + (size_t)i * values, values * sizeof *p->contexts);
        ag_record(ctx, was);
        ag_scope_close(ctx, scope, NULL);
    }
    return ag_status_of(ctx);
}

static size_t context_bytes(const train_prompts *p)
{
    return (size_t)(p->n * p->length * p->width) * sizeof *p->contexts;
}

int64_t train_prompts_largest_id(const train_prompts *p)
{
    int64_t largest = -1;

    for (int64_t i = 0; i < p->n * p->length; i++)
        largest = p->ids[i] > largest ? p->ids[i] : largest;
    return largest;
}

bool train_prompts_are_encoded(const train_prompts *p)
{
    return p->contexts != NULL;
}

size_t train_prompts_bytes(const train_prompts *p)
{
    return p->contexts ? context_bytes(p) : 0;
}

ag_status train_prompts_prepare(ag_ctx *ctx, train_prompts *p, const pipe_model *model, size_t most)
{
    p->length = p->max_length > 0 ? p->max_length : pipe_max_length(model);
    p->width = nn_clip_text_config_of(model->text)->hidden_size;
    p->ids = ag_new(ctx, (size_t)(p->n * p->length), sizeof *p->ids, "token ids");
    if (!p->ids || pipe_tokenize(ctx, model, (const char *const *)p->texts, p->n, p->length, p->ids, NULL) != AG_OK)
        return ag_status_of(ctx);
    if (most > 0 && context_bytes(p) > most) {
        train_note(NULL, "%lld prompts: their contexts would take %.1f GiB, so they are computed at each use",
                   (long long)p->n, (double)context_bytes(p) / 1073741824.0);
        return AG_OK;
    }
    return most > 0 ? encode_all(ctx, p, model) : AG_OK;
}

/* Room for the rows of a batch; grows once, at the largest. */
static bool make_room(ag_ctx *ctx, train_prompts *p, int64_t n)
{
    const size_t values = (size_t)(p->length * p->width);
    int64_t *ids;
    float *contexts;

    if (n <= p->row_room)
        return true;
    ids = ag_grow(ctx, p->row_ids, (size_t)(n * p->length), sizeof *ids, "rows of token ids");
    p->row_ids = ids ? ids : p->row_ids;
    contexts = ag_grow(ctx, p->row_contexts, (size_t)n * values, sizeof *contexts, "rows of contexts");
    p->row_contexts = contexts ? contexts : p->row_contexts;
    if (!ids || !contexts)
        return false;
    p->row_room = n;
    return true;
}

ag_tensor *train_prompts_given(ag_ctx *ctx, train_prompts *p, const pipe_model *model, const int64_t *rows, int64_t n)
{
    const size_t values = (size_t)(p->length * p->width);

    if (!make_room(ctx, p, n))
        return NULL;
    if (p->contexts) {
        for (int64_t r = 0; r < n; r++)
            memcpy(p->row_contexts + (size_t)r * values, p->contexts + (size_t)rows[r] * values,
                   values * sizeof *p->contexts);
        return ag_from_f32(ctx, p->row_contexts, 3, (int64_t[]){n, p->length, p->width});
    }
    for (int64_t r = 0; r < n; r++)
        memcpy(p->row_ids + r * p->length, p->ids + rows[r] * p->length, (size_t)p->length * sizeof *p->ids);
    return pipe_text_ids(ctx, model, p->row_ids, n, p->length);
}

ag_tensor *train_prompts_encode(ag_ctx *ctx, const train_prompts *p, const pipe_model *model, ag_tensor *given,
                                const nn_clip_options *options)
{
    return p->contexts ? given : pipe_text_encode(ctx, model, given, options);
}

ag_tensor *train_prompts_context(ag_ctx *ctx, train_prompts *p, const pipe_model *model, const int64_t *rows,
                                 int64_t n, const nn_clip_options *options)
{
    return train_prompts_encode(ctx, p, model, train_prompts_given(ctx, p, model, rows, n), options);
}

/* --- words that no prompt holds ----------------------------------------------------------------------- */

/* table [V,D]; read[v]: entry v stands in a prompt */
static void average_unread(float *table, const bool *read, float *mean, int64_t V, int64_t D)
{
    int64_t n = 0;

    for (int64_t v = 0; v < V; v++)
        n += read[v];
    for (int64_t v = 0; v < V; v++)
        for (int64_t d = 0; read[v] && d < D; d++)
            mean[d] += table[v * D + d] / (float)n;
    for (int64_t v = 0; v < V; v++)
        if (!read[v])
            memcpy(table + v * D, mean, (size_t)D * sizeof *mean);
}

ag_status train_prompts_average_unread(ag_ctx *ctx, const train_prompts *p, const pipe_model *model)
{
    const nn_clip_config *config = nn_clip_text_config_of(model->text);
    const int64_t V = config->vocab_size, D = config->hidden_size;
    nn_param *embedding =
        nn_params_find(nn_clip_text_params(model->text), "text_model.embeddings.token_embedding.weight");
    float *table = ag_new(ctx, (size_t)(V * D), sizeof *table, "embeddings");
    float *mean = ag_new(ctx, (size_t)D, sizeof *mean, "an embedding");
    bool *read = ag_new(ctx, (size_t)V, sizeof *read, "vocabulary");

    if (table && mean && read && nn_param_get_published(ctx, embedding, table) == AG_OK) {
        for (int64_t i = 0; i < p->n * p->length; i++)
            if (p->ids[i] < V)
                read[p->ids[i]] = true;
        average_unread(table, read, mean, V, D);
        nn_param_set_published(ctx, embedding, table, 2, embedding->dims);
    }
    ag_delete(read);
    ag_delete(mean);
    ag_delete(table);
    return ag_status_of(ctx);
}

/* --- ages in prompts --------------------------------------------------------------------------------- */

static const char AGE[] = "{age}";

bool train_prompt_has_age(const char *prompt)
{
    return strstr(prompt, AGE) != NULL;
}

char *train_prompt_with_age(ag_ctx *ctx, const char *prompt, int64_t age)
{
    char number[32];
    const size_t n_number = (size_t)snprintf(number, sizeof number, "%lld", (long long)age);
    size_t count = 0, at = 0;
    char *out;

    for (const char *p = prompt; (p = strstr(p, AGE)); p += sizeof AGE - 1)
        count++;
    out = ag_new(ctx, strlen(prompt) + count * n_number + 1, 1, "prompt");
    while (out && *prompt) {
        if (strncmp(prompt, AGE, sizeof AGE - 1) == 0) {
            memcpy(out + at, number, n_number);
            at += n_number;
            prompt += sizeof AGE - 1;
        } else {
            out[at++] = *prompt++;
        }
    }
    return out;
}

/* What follows an age and goes with it. */
static size_t years_length(const char *text)
{
    static const char *const years[] = {"-year-old", "-years-old", " year old", " years old"};

    for (size_t i = 0; i < sizeof years / sizeof *years; i++)
        if (strncmp(text, years[i], strlen(years[i])) == 0)
            return strlen(years[i]);
    return 0;
}

char *train_prompt_without_age(ag_ctx *ctx, const char *prompt)
{
    char *out = ag_new(ctx, strlen(prompt) + 1, 1, "prompt");
    size_t at = 0;

    while (out && *prompt) {
        if (strncmp(prompt, AGE, sizeof AGE - 1) != 0) {
            out[at++] = *prompt++;
            continue;
        }
        prompt += sizeof AGE - 1;
        prompt += years_length(prompt);
        if (*prompt == ' ')
            prompt++;
        else if (at > 0 && out[at - 1] == ' ') /* at the end, or before a comma */
            out[--at] = '\0';
        if (*prompt == ',' && at > 0 && out[at - 1] == ',')
            prompt++;
    }
    return out;
}
