/* prompts.c - see prompts.h. */
#include "train/prompts.h"

#include <string.h>

#include "autograd/grad.h"

struct train_prompts {
    int max_length;
    int length; /* T, once prepared */
    int64_t width;
    char **texts;
    int64_t n;
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
    ag_delete(p->ids);
    ag_delete(p->contexts);
    ag_delete(p->row_ids);
    ag_delete(p->row_contexts);
    ag_delete(p);
}

int64_t train_prompts_add(ag_ctx *ctx, train_prompts *p, const char *text)
{
    char **texts;

    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->texts[i], text) == 0)
            return i;
    texts = ag_grow(ctx, p->texts, (size_t)p->n + 1, sizeof *texts, "prompts");
    if (!texts)
        return -1;
    p->texts = texts;
    p->texts[p->n] = ag_strdup(ctx, text);
    return p->texts[p->n] ? p->n++ : -1;
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
        ag_tensor *ids = ag_from_i64(ctx, p->ids + i * p->length, 2, (int64_t[]){1, p->length});
        ag_tensor *context = nn_clip_text_forward(ctx, model->text, ids, NULL);
        ag_read(ctx, context, p->contexts + (size_t)i * values, values * sizeof *p->contexts);
        ag_record(ctx, was);
        ag_scope_close(ctx, scope, NULL);
    }
    return ag_status_of(ctx);
}

ag_status train_prompts_prepare(ag_ctx *ctx, train_prompts *p, const pipe_model *model, bool encode)
{
    p->length = p->max_length > 0 ? p->max_length : pipe_max_length(model);
    p->width = nn_clip_text_config_of(model->text)->hidden_size;
    p->ids = ag_new(ctx, (size_t)(p->n * p->length), sizeof *p->ids, "token ids");
    if (!p->ids || pipe_tokenize(ctx, model, (const char *const *)p->texts, p->n, p->length, p->ids, NULL) != AG_OK)
        return ag_status_of(ctx);
    return encode ? encode_all(ctx, p, model) : AG_OK;
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

ag_tensor *train_prompts_context(ag_ctx *ctx, train_prompts *p, const pipe_model *model, const int64_t *rows,
                                 int64_t n, const nn_clip_options *options)
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
    return nn_clip_text_forward(ctx, model->text, ag_from_i64(ctx, p->row_ids, 2, (int64_t[]){n, p->length}),
                                options);
}
