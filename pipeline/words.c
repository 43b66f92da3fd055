/* words.c - see words.h. */
#include "pipeline/words.h"

#include <stdio.h>
#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/safetensors.h"
#include "data/weights.h"

enum { MAX_WORDS = 256, MAX_VECTORS = 1024 };

struct pipe_words {
    int64_t first_id; /* ids from here on are rows, in order */
    nn_params *params;
    char *tokens[MAX_WORDS];
    int64_t n;
    int64_t *ids; /* [N_KINDS, room], of one batch; grow to the largest */
    int64_t room;
};

/* The parts of what pipe_text_ids() makes. */
enum { OF_TABLE, OF_WORDS, IS_WORD, N_KINDS };

void pipe_words_free(pipe_words *w)
{
    if (!w)
        return;
    nn_params_free(w->params);
    for (int64_t i = 0; i < w->n; i++)
        ag_delete(w->tokens[i]);
    ag_delete(w->ids);
    ag_delete(w);
}

nn_params *pipe_words_params(const pipe_model *m)
{
    return m->words ? m->words->params : NULL;
}

const char *pipe_words_token(const pipe_model *m, int64_t i)
{
    return m->words->tokens[i];
}

static ag_status begin(ag_ctx *ctx, pipe_model *m)
{
    pipe_words *w;

    if (m->words)
        return AG_OK;
    w = ag_new(ctx, 1, sizeof *w, "new tokens");
    if (!w || nn_params_new(&w->params, ctx) != AG_OK) {
        ag_delete(w);
        return ag_status_of(ctx);
    }
    w->first_id = data_tokenizer_size(m->tokenizer);
    m->words = w;
    return AG_OK;
}

/* A word of n rows; values [n,D] in f32. */
static ag_status add(ag_ctx *ctx, pipe_model *m, const char *token, int64_t n, const float *values)
{
    const int64_t dims[] = {n, nn_clip_text_config_of(m->text)->hidden_size};
    char name[24];
    nn_param *rows;
    int64_t first;

    if (begin(ctx, m) != AG_OK)
        return ag_status_of(ctx);
    if (m->words->n == MAX_WORDS || n > MAX_VECTORS)
        return ag_fail(ctx, AG_EINVAL, "new tokens: wanted at most %d of %d vectors each", MAX_WORDS, MAX_VECTORS);
    if (data_tokenizer_add(m->tokenizer, ctx, token, n, &first) != AG_OK)
        return ag_status_of(ctx);
    snprintf(name, sizeof name, "%lld", (long long)m->words->n);
    rows = nn_declare(m->words->params, name, NN_AS_IS, (nn_first){NN_DRAW_NORMAL, 0.02}, 2, dims);
    m->words->tokens[m->words->n] = ag_strdup(ctx, token);
    if (rows && m->words->tokens[m->words->n] && nn_param_alloc(ctx, rows, AG_F32) == AG_OK) {
        m->words->n++;
        if (ag_ctx_device(ctx) != AG_META)
            nn_param_set_published(ctx, rows, values, 2, dims);
    }
    return ag_status_of(ctx);
}

/* --- from other tokens --------------------------------------------------------------------------------- */

/* n rows of the text encoder's table, those of k ids round and round, into values. */
static ag_status read_rows(ag_ctx *ctx, const pipe_model *m, int64_t *ids, int64_t k, int64_t n, float *values)
{
    const int64_t D = nn_clip_text_config_of(m->text)->hidden_size;
    const nn_param *table =
        nn_params_find(nn_clip_text_params(m->text), "text_model.embeddings.token_embedding.weight");
    const bool was = ag_record(ctx, false);
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *rows = ag_cast(ctx, ag_embedding(ctx, table->value, ag_from_i64(ctx, ids, 1, &k)), AG_F32);

    ag_read(ctx, rows, values, (size_t)(k * D) * sizeof *values);
    ag_scope_close(ctx, scope, NULL);
    ag_record(ctx, was);
    for (int64_t i = k; i < n; i++)
        memcpy(values + i * D, values + (i - k) * D, (size_t)D * sizeof *values);
    return ag_status_of(ctx);
}

ag_status pipe_words_add(ag_ctx *ctx, pipe_model *m, const char *token, int64_t n, const char *like)
{
    const int64_t D = nn_clip_text_config_of(m->text)->hidden_size;
    int64_t *ids = NULL, k = 0;
    float *values = NULL;

    if (n < 1 || n > MAX_VECTORS)
        return ag_fail(ctx, AG_EINVAL, "a new token of %lld vectors: wanted 1 to %d", (long long)n, MAX_VECTORS);
    if (data_tokenizer_split(&ids, NULL, &k, m->tokenizer, ctx, like, strlen(like)) != AG_OK)
        return ag_status_of(ctx);
    if (k == 0)
        ag_fail(ctx, AG_EINVAL, "a new token \"%s\" like \"%s\": wanted a word that it begins as", token, like);
    values = k > 0 ? ag_new(ctx, (size_t)((n > k ? n : k) * D), sizeof *values, "embeddings") : NULL;
    if (values && read_rows(ctx, m, ids, k, n, values) == AG_OK)
        add(ctx, m, token, n, values);
    ag_delete(values);
    ag_delete(ids);
    return ag_status_of(ctx);
}

/* --- files --------------------------------------------------------------------------------------------- */

/* The word of a file whose tensor does not name it: what stands between the last slash and the last dot. */
static char *name_of_file(ag_ctx *ctx, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');

    return ag_printf(ctx, "%.*s", (int)(dot && dot > name ? (size_t)(dot - name) : strlen(name)), name);
}

static bool says_no_token(const char *name)
{
    return strcmp(name, "emb_params") == 0 || strncmp(name, "string_to_param", 15) == 0;
}

/* The tensor that is an embedding: the only one of one or two axes of floats. */
static const data_tensor *find_embedding(ag_ctx *ctx, const data_weights *w, const char *path, int64_t width,
                                         int64_t *which)
{
    const data_tensor *found = NULL;

    for (int64_t i = 0; i < data_weights_count(w); i++) {
        const data_tensor *t = data_weights_at(w, i);
        if (!data_dtype_is_float(t->dtype))
            continue;
        if (found || t->n_dims < 1 || t->n_dims > 2) {
            ag_fail(ctx, AG_EDATA, "%s: %s: wanted one embedding [vectors, width] and no other tensor", path, t->name);
            return NULL;
        }
        found = t;
        *which = i;
    }
    if (!found)
        ag_fail(ctx, AG_EDATA, "%s: no embedding in this file", path);
    else if (found->dims[found->n_dims - 1] != width || found->n_values < 1 || found->n_values > MAX_VECTORS * width)
        ag_fail(ctx, AG_EDATA,
                "%s: an embedding %s of width %lld and %lld values: the text encoder's is %lld, in 1 to %d rows", path,
                found->name, (long long)found->dims[found->n_dims - 1], (long long)found->n_values,
                (long long)width, MAX_VECTORS);
    return ag_status_of(ctx) == AG_OK ? found : NULL;
}

ag_status pipe_words_load(ag_ctx *ctx, pipe_model *m, const char *path)
{
    const int64_t D = nn_clip_text_config_of(m->text)->hidden_size;
    data_weights *w = NULL;
    const data_tensor *t;
    float *values = NULL;
    char *token = NULL;
    int64_t which = 0;

    if (data_weights_open(&w, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    t = find_embedding(ctx, w, path, D, &which);
    if (t) {
        token = says_no_token(t->name) ? name_of_file(ctx, path) : ag_strdup(ctx, t->name);
        values = ag_new(ctx, (size_t)t->n_values, sizeof *values, "embeddings");
        if (token && values && data_weights_read_f32(ctx, w, which, values) == AG_OK)
            add(ctx, m, token, t->n_values / D, values);
    }
    ag_delete(values);
    ag_delete(token);
    data_weights_close(w);
    return ag_status_of(ctx);
}

ag_status pipe_words_save(ag_ctx *ctx, const pipe_model *m, const char *path)
{
    const nn_param *rows = nn_params_at(m->words->params, 0);
    float *values = ag_new(ctx, (size_t)rows->numel, sizeof *values, "embeddings");
    const data_source source = {
        .name = m->words->tokens[0], .dtype = DATA_F32, .n_dims = 2, .dims = rows->dims, .values = values};

    if (values && nn_param_get_published(ctx, rows, values) == AG_OK)
        data_safetensors_write(ctx, path, &source, 1, NULL, 0);
    ag_delete(values);
    return ag_status_of(ctx);
}

/* --- use ----------------------------------------------------------------------------------------------- */

/* Room for what pipe_text_ids() makes of n ids. */
static bool make_room(ag_ctx *ctx, pipe_words *w, int64_t n)
{
    int64_t *ids;

    if (n <= w->room)
        return true;
    ids = ag_grow(ctx, w->ids, (size_t)(N_KINDS * n), sizeof *ids, "token ids");
    if (!ids)
        return false;
    w->ids = ids;
    w->room = n;
    return true;
}

/* The rows of all words, [m,D]. */
static ag_tensor *all_rows(ag_ctx *ctx, const pipe_words *w)
{
    ag_tensor *rows = nn_params_at(w->params, 0)->value;

    for (int64_t i = 1; i < w->n; i++)
        rows = ag_concat(ctx, rows, nn_params_at(w->params, i)->value, 0);
    return rows;
}

static bool has_words(const pipe_model *m)
{
    return m->words && m->words->n > 0;
}

ag_tensor *pipe_text_ids(ag_ctx *ctx, const pipe_model *m, const int64_t *ids, int64_t n, int64_t length)
{
    pipe_words *w = m->words;
    const int64_t count = n * length;

    if (!has_words(m))
        return ag_from_i64(ctx, ids, 2, (int64_t[]){n, length});
    if (!make_room(ctx, w, count))
        return NULL;
    for (int64_t i = 0; i < count; i++) {
        const bool is_new = ids[i] >= w->first_id;
        w->ids[OF_TABLE * count + i] = is_new ? 0 : ids[i];
        w->ids[OF_WORDS * count + i] = is_new ? ids[i] - w->first_id : 0;
        w->ids[IS_WORD * count + i] = is_new;
    }
    return ag_from_i64(ctx, w->ids, 3, (int64_t[]){N_KINDS, n, length});
}

/* One kind of what pipe_text_ids() made, [n,T] or with another axis [n,T,1]. */
static ag_tensor *kind_of(ag_ctx *ctx, ag_tensor *ids, int kind, int n_dims)
{
    return ag_reshape(ctx, ag_slice(ctx, ids, 0, kind, 1), n_dims, (int64_t[]){ag_dim(ids, 1), ag_dim(ids, 2), 1});
}

ag_tensor *pipe_text_encode(ag_ctx *ctx, const pipe_model *m, ag_tensor *ids, const nn_clip_options *options)
{
    nn_clip_options o = options ? *options : (nn_clip_options){0};
    nn_clip_words words;
    ag_scope scope;

    if (!ids || !has_words(m))
        return nn_clip_text_forward(ctx, m->text, ids, options);
    scope = ag_scope_open(ctx);
    words = (nn_clip_words){.rows = all_rows(ctx, m->words),
                            .ids = kind_of(ctx, ids, OF_WORDS, 2),
                            .mask = ag_cast(ctx, kind_of(ctx, ids, IS_WORD, 3), AG_F32)};
    o.words = &words;
    return ag_scope_close(ctx, scope, nn_clip_text_forward(ctx, m->text, kind_of(ctx, ids, OF_TABLE, 2), &o));
}

ag_tensor *pipe_text_forward(ag_ctx *ctx, const pipe_model *m, const int64_t *ids, int64_t n, int64_t length,
                             const nn_clip_options *options)
{
    const ag_scope scope = ag_scope_open(ctx);

    return ag_scope_close(ctx, scope, pipe_text_encode(ctx, m, pipe_text_ids(ctx, m, ids, n, length), options));
}
