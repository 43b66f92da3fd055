/* test_inversion.c - words with embeddings of their own: as if the text encoder's table had their rows; and their
 * files.
 */
#include "tests/malloc_check.h"
#include "tests/train_check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/file.h"
#include "data/safetensors.h"
#include "data/tokenizer.h"
#include "pipeline/words.h"

enum { V = DATA_TOKENIZER_SMALL_SIZE, D = 8, T = 12, TABLE = 0 };

static const char TABLE_NAME[] = "text_model.embeddings.token_embedding.weight";
static char root[256];
static ag_ctx *ctx;

static nn_clip_config config_of(int64_t vocabulary)
{
    return (nn_clip_config){.vocab_size = vocabulary,
                            .hidden_size = D,
                            .intermediate_size = 16,
                            .num_hidden_layers = 2,
                            .num_attention_heads = 2,
                            .max_position_embeddings = 77,
                            .layer_norm_eps = 1e-5,
                            .hidden_act = NN_QUICK_GELU};
}

static pipe_model *make_model(void)
{
    const nn_clip_config text = config_of(V);
    data_schedule_config schedule;
    pipe_model *m = NULL;

    data_schedule_config_default(&schedule);
    pipe_new(&m, ctx, NULL, NULL, &text, &schedule, 7);
    data_tokenizer_open(&m->tokenizer, ctx, root);
    check_ok(ctx, "a model");
    return m;
}

static int set_up(void **state)
{
    (void)state;
    check_folder(root);
    ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    assert_non_null(ctx);
    data_tokenizer_write_small(ctx, root);
    check_ok(ctx, "a tokenizer");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ag_ctx_free(ctx);
    check_remove(root);
    return 0;
}

static float *rows_of(const pipe_model *m, int64_t i)
{
    return ag_data(nn_params_at(pipe_words_params(m), i)->value);
}

static const float *table_of(const pipe_model *m)
{
    return ag_data(nn_params_find(nn_clip_text_params(m->text), TABLE_NAME)->value);
}

/* The same network with the words' rows behind its table. */
static nn_clip_text *enlarged(const pipe_model *m, int64_t n_more)
{
    const nn_clip_config config = config_of(V + n_more);
    nn_clip_text *net = NULL;
    nn_params *from = nn_clip_text_params(m->text), *to;

    nn_clip_text_new(&net, ctx, &config);
    to = nn_clip_text_params(net);
    nn_params_alloc(ctx, to, AG_F32);
    check_ok(ctx, "a larger network");
    for (int64_t i = 0; i < nn_params_count(from); i++) {
        const nn_param *p = nn_params_at(from, i);
        memcpy(ag_data(nn_params_at(to, i)->value), ag_data(p->value), ag_nbytes(p->value));
    }
    memcpy((float *)ag_data(nn_params_at(to, TABLE)->value) + V * D, rows_of(m, 0), sizeof(float) * 2 * D);
    memcpy((float *)ag_data(nn_params_at(to, TABLE)->value) + (V + 2) * D, rows_of(m, 1), sizeof(float) * D);
    assert_string_equal(nn_params_at(to, TABLE)->name, TABLE_NAME);
    return net;
}

/* sum(y c) for a fixed c. */
static ag_tensor *weighed(ag_tensor *y)
{
    uint64_t seed = 3;

    return ag_sum(ctx, ag_mul(ctx, y, check_random(ctx, &seed, 3, ag_dims(y))), AG_ALL_AXES, false);
}

/* Outputs and gradients are those of the larger table, whose other rows nothing reaches. */
static void test_as_if_in_the_table(void **state)
{
    static const char *const prompts[] = {"photo of <me> person", "a <you> and <me> man", "photo of a person"};
    pipe_model *m = make_model();
    nn_clip_text *large;
    int64_t ids[3 * T];
    ag_tensor *values[2], *grads[2] = {NULL}, *table, *d_table = NULL, *a, *b, *loss;
    const float *got, *want;
    ag_scope scope;

    (void)state;
    pipe_words_add(ctx, m, "<me>", 2, "person");
    pipe_words_add(ctx, m, "<you>", 1, "man");
    check_ok(ctx, "words");
    for (int64_t k = 0; k < 2 * D; k++)
        rows_of(m, 0)[k] += 0.01f * (float)k;
    large = enlarged(m, 3);
    pipe_tokenize(ctx, m, prompts, 3, T, ids, NULL);
    check_ok(ctx, "ids");
    assert_true(ids[3] == V && ids[4] == V + 1 && ids[T + 2] == V + 2);

    scope = ag_scope_open(ctx);
    a = pipe_text_forward(ctx, m, ids, 3, T, NULL);
    b = nn_clip_text_forward(ctx, large, ag_from_i64(ctx, ids, 2, (int64_t[]){3, T}), NULL);
    check_ok(ctx, "contexts");
    assert_memory_equal(ag_data(a), ag_data(b), ag_nbytes(a));

    assert_int_equal(nn_params_train(ctx, pipe_words_params(m), NULL, true), 2);
    for (int i = 0; i < 2; i++)
        values[i] = nn_params_at(pipe_words_params(m), i)->value;
    loss = weighed(pipe_text_forward(ctx, m, ids, 3, T, NULL));
    ag_grad(ctx, &loss, NULL, 1, values, grads, 2, 0);
    nn_params_train(ctx, nn_clip_text_params(large), TABLE_NAME, true);
    table = nn_params_at(nn_clip_text_params(large), TABLE)->value;
    loss = weighed(nn_clip_text_forward(ctx, large, ag_from_i64(ctx, ids, 2, (int64_t[]){3, T}), NULL));
    ag_grad(ctx, &loss, NULL, 1, &table, &d_table, 1, 0);
    check_ok(ctx, "gradients");
    want = ag_data(d_table);
    for (int i = 0; i < 2; i++) {
        got = ag_data(grads[i]);
        for (int64_t k = 0; k < ag_numel(grads[i]); k++)
            check_close("gradient of a row", k, got[k], want[(V + 2 * i) * D + k], 1e-7, 1e-5);
    }
    ag_scope_close(ctx, scope, NULL);
    nn_clip_text_free(large);
    pipe_close(m);
}

/* A word begins as the tokens it is like, round and round. */
static void test_first_rows(void **state)
{
    pipe_model *m = make_model();
    int64_t *ids = NULL, n = 0;

    (void)state;
    data_tokenizer_split(&ids, NULL, &n, m->tokenizer, ctx, "old man", 7);
    check_ok(ctx, "ids");
    assert_int_equal(n, 2);
    pipe_words_add(ctx, m, "<me>", 3, "old man");
    check_ok(ctx, "a word");
    for (int64_t r = 0; r < 3; r++)
        assert_memory_equal(rows_of(m, 0) + r * D, table_of(m) + ids[r % 2] * D, sizeof(float) * D);
    assert_string_equal(pipe_words_token(m, 0), "<me>");
    pipe_words_add(ctx, m, "<me>", 1, "man");
    check_failed_with(ctx, AG_EINVAL, "is a token already");
    pipe_words_add(ctx, m, "<you>", 1, "");
    check_failed_with(ctx, AG_EINVAL, "wanted a word that it begins as");
    pipe_words_add(ctx, m, "<you>", 0, "man");
    check_failed_with(ctx, AG_EINVAL, "of 0 vectors");
    ag_delete(ids);
    pipe_close(m);
}

/* What is written is read again; other programs' files are too; a batch is looked up without taking memory. */
static void test_files(void **state)
{
    pipe_model *m = make_model(), *other = make_model(), *third = make_model();
    float one[D] = {1, 2, 3};
    const int64_t dims[] = {D};
    const data_source vector = {.name = "<one>", .dtype = DATA_F32, .n_dims = 1, .dims = dims, .values = one};
    const data_source kohya = {.name = "emb_params", .dtype = DATA_F32, .n_dims = 1, .dims = dims, .values = one};
    int64_t ids[T];
    long calls = 0;

    (void)state;
    pipe_words_add(ctx, m, "<me>", 2, "old man");
    pipe_words_save(ctx, m, check_join(root, "me.safetensors"));
    pipe_words_load(ctx, other, check_join(root, "me.safetensors"));
    check_ok(ctx, "there and back");
    assert_string_equal(pipe_words_token(other, 0), "<me>");
    assert_memory_equal(rows_of(other, 0), rows_of(m, 0), sizeof(float) * 2 * D);

    data_safetensors_write(ctx, check_join(root, "one.safetensors"), &vector, 1, NULL, 0);
    data_safetensors_write(ctx, check_join(root, "my face.v2.safetensors"), &kohya, 1, NULL, 0);
    pipe_words_load(ctx, third, check_join(root, "one.safetensors"));
    pipe_words_load(ctx, third, check_join(root, "my face.v2.safetensors"));
    check_ok(ctx, "other files");
    assert_string_equal(pipe_words_token(third, 0), "<one>");
    assert_string_equal(pipe_words_token(third, 1), "my face.v2");
    assert_memory_equal(rows_of(third, 1), one, sizeof one);
    pipe_tokenize(ctx, third, (const char *const[]){"photo of My face.v2, <one>"}, 1, T, ids, NULL);
    assert_true(ids[3] == V + 1 && ids[5] == V);
    for (int k = 0; k < 4; k++) {
        const ag_scope scope = ag_scope_open(ctx);
        n_calls = 0;
        counting = true;
        pipe_text_forward(ctx, third, ids, 1, T, NULL);
        counting = false;
        calls = n_calls;
        ag_scope_close(ctx, scope, NULL);
    }
    check_ok(ctx, "contexts");
    assert_int_equal(calls, 0);
    pipe_close(m);
    pipe_close(other);
    pipe_close(third);
}

static void refuses(pipe_model *m, const char *name, const data_source *tensors, int64_t n, const char *words)
{
    data_safetensors_write(ctx, check_join(root, name), tensors, n, NULL, 0);
    check_ok(ctx, "a file");
    pipe_words_load(ctx, m, check_join(root, name));
    check_failed_with(ctx, AG_EDATA, words);
}

static void test_bad_files(void **state)
{
    static const float values[64];
    static const int64_t ids[4];
    pipe_model *m = make_model();
    const data_source two[] = {
        {.name = "clip_g", .dtype = DATA_F32, .n_dims = 2, .dims = (int64_t[]){1, D}, .values = values},
        {.name = "clip_l", .dtype = DATA_F32, .n_dims = 2, .dims = (int64_t[]){1, D}, .values = values}};
    const data_source wide = {
        .name = "<x>", .dtype = DATA_F32, .n_dims = 2, .dims = (int64_t[]){1, 16}, .values = values};
    const data_source cube = {
        .name = "<x>", .dtype = DATA_F32, .n_dims = 3, .dims = (int64_t[]){1, 1, D}, .values = values};
    const data_source whole = {.name = "<x>", .dtype = DATA_I64, .n_dims = 1, .dims = (int64_t[]){4}, .values = ids};

    (void)state;
    refuses(m, "two.safetensors", two, 2, "wanted one embedding");
    refuses(m, "wide.safetensors", &wide, 1, "of width 16 and 16 values: the text encoder's is 8");
    refuses(m, "cube.safetensors", &cube, 1, "wanted one embedding [vectors, width]");
    refuses(m, "whole.safetensors", &whole, 1, "no embedding in this file");
    pipe_words_load(ctx, m, check_join(root, "nowhere.safetensors"));
    check_failed_with(ctx, AG_EIO, "nowhere.safetensors");
    pipe_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_if_in_the_table),
        cmocka_unit_test(test_first_rows),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_bad_files),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
