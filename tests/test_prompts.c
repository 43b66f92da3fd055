/* test_prompts.c - what a text encoder makes of words that it has not read. */
#include "pipeline/pipeline.h"
#include "tests/check.h"
#include "train/prompts.h"

static float *embeddings(ag_ctx *ctx, const pipe_model *model)
{
    const nn_param *table =
        nn_params_find(nn_clip_text_params(model->text), "text_model.embeddings.token_embedding.weight");
    float *values = malloc((size_t)table->numel * sizeof *values);

    assert_non_null(values);
    assert_int_equal(nn_param_get_published(ctx, table, values), AG_OK);
    return values;
}

/* Of the shipped model: entries in the prompts stay, to the bit; all others are their mean. */
static void test_average_unread(void **state)
{
    static const char *const texts[] = {"photo of a man", "photo of a woman with glasses", ""};
    const pipe_source source = {.model = "models/tiny-face"};
    ag_ctx *ctx = check_ctx();
    train_prompts *prompts = NULL;
    pipe_model *model = NULL;
    bool read[1000] = {false};
    int64_t ids[3 * 16], n = 0, D;
    float *before, *after;
    (void)state;

    assert_int_equal(pipe_open(&model, ctx, &source, PIPE_TEXT | PIPE_TOKENIZER), AG_OK);
    D = nn_clip_text_config_of(model->text)->hidden_size;
    assert_int_equal(nn_clip_text_config_of(model->text)->vocab_size, 1000);
    assert_int_equal(train_prompts_new(&prompts, ctx, 0), AG_OK);
    for (int i = 0; i < 3; i++)
        train_prompts_add(ctx, prompts, texts[i]);
    assert_int_equal(train_prompts_prepare(ctx, prompts, model, 0), AG_OK);
    assert_int_equal(pipe_tokenize(ctx, model, texts, 3, 16, ids, NULL), AG_OK);
    for (int i = 0; i < 3 * 16; i++) {
        n += !read[ids[i]];
        read[ids[i]] = true;
    }
    before = embeddings(ctx, model);
    assert_int_equal(train_prompts_average_unread(ctx, prompts, model), AG_OK);
    after = embeddings(ctx, model);
    for (int64_t d = 0; d < D; d++) {
        double mean = 0.0;

        for (int64_t v = 0; v < 1000; v++)
            mean += read[v] ? before[v * D + d] / (double)n : 0.0;
        for (int64_t v = 0; v < 1000; v++)
            if (read[v])
                assert_true(after[v * D + d] == before[v * D + d]);
            else
                check_close("a word not read", v, after[v * D + d], mean, 1e-7, 1e-5);
    }
    free(before);
    free(after);
    train_prompts_free(prompts);
    pipe_close(model);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_average_unread)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
