/* run_check.h - whole runs of a method on a tiny model and painted faces, as they happen in life: in
 * processes of their own, which begin with nothing but their files.
 */
#ifndef TESTS_RUN_CHECK_H
#define TESTS_RUN_CHECK_H

#include <sys/wait.h>
#include <time.h>

#include "data/faces.h"
#include "data/file.h"
#include "data/resample.h"
#include "data/tokenizer.h"
#include "pipeline/pipeline.h"
#include "tests/train_check.h"
#include "train/run.h"

static char root[256]; /* holds model/, faces/ and a folder for every run */

/* A method of train/. */
typedef ag_status (*trainer)(ag_ctx *ctx, const train_options *options, json_t *config);

/* --- the ground every run stands on ----------------------------------------------------------- */

/* Of the parent of all runs. A device that was opened before a fork is of no use after it, so the runs alone, in
 * their children, are on the device under test. */
static inline ag_ctx *one_thread(void)
{
    return check_small_ctx(AG_CPU);
}

static inline void make_model(ag_ctx *ctx)
{
    const nn_unet_config unet = {.sample_size = 8,
                                 .in_channels = 4,
                                 .out_channels = 4,
                                 .n_levels = 2,
                                 .block_out_channels = {8, 16},
                                 .down_attention = {false, true},
                                 .up_attention = {true, false},
                                 .n_heads = {2, 2},
                                 .layers_per_block = 1,
                                 .transformer_layers_per_block = 1,
                                 .cross_attention_dim = 8,
                                 .norm_num_groups = 4,
                                 .norm_eps = 1e-5,
                                 .flip_sin_to_cos = true,
                                 .mid_block_scale_factor = 1.0};
    const nn_vae_config vae = {.sample_size = 16,
                               .in_channels = 3,
                               .out_channels = 3,
                               .latent_channels = 4,
                               .n_levels = 2,
                               .block_out_channels = {8, 8},
                               .layers_per_block = 1,
                               .norm_num_groups = 4,
                               .scaling_factor = 0.18215};
    const nn_clip_config text = {.vocab_size = DATA_TOKENIZER_SMALL_SIZE,
                                 .hidden_size = 8,
                                 .intermediate_size = 16,
                                 .num_hidden_layers = 1,
                                 .num_attention_heads = 2,
                                 .max_position_embeddings = 77,
                                 .layer_norm_eps = 1e-5,
                                 .hidden_act = NN_QUICK_GELU};
    data_schedule_config schedule;
    pipe_model *model = NULL;

    data_schedule_config_default(&schedule);
    pipe_new(&model, ctx, &unet, &vae, &text, &schedule, 7);
    check_ok(ctx, "model");
    pipe_save(ctx, model, check_join(root, "model"), AG_F32);
    data_folder_make(ctx, check_join(root, "model/tokenizer"));
    data_tokenizer_write_small(ctx, check_join(root, "model/tokenizer"));
    check_ok(ctx, "model's folder");
    pipe_close(model);
}

/* The same faces in other shapes, in folders that repeat them, some with captions or masks. */
static inline void make_odd(ag_ctx *ctx)
{
    static const data_size sizes[] = {{32, 16}, {16, 24}, {20, 20}, {34, 17}, {16, 16}};
    static const char caption[] = "a drawing of a {age} year old face";

    data_folder_make(ctx, check_join(root, "odd/2_often"));
    data_folder_make(ctx, check_join(root, "odd/1_once"));
    data_folder_make(ctx, check_join(root, "masks"));
    for (int i = 0; i < 5; i++) {
        char name[64];
        data_image img = {0};

        snprintf(name, sizeof name, "faces/images/%05d.png", i);
        data_image_read(&img, ctx, check_join(root, name), 0);
        data_image_resize(&img, ctx, &img, sizes[i].w, sizes[i].h, DATA_BILINEAR);
        snprintf(name, sizeof name, "odd/%s/%05d.png", i % 2 ? "1_once" : "2_often", i);
        data_image_write_png(ctx, &img, check_join(root, name));
        check_ok(ctx, "odd pictures");
        if (i != 3) {
            memset(img.pixels, 255, (size_t)(3 * img.w * (img.h / 2)));
            snprintf(name, sizeof name, "masks/%05d.png", i);
            data_image_write_png(ctx, &img, check_join(root, name));
        }
        data_image_free(&img);
    }
    check_file_write(check_join(root, "odd/2_often/00002.txt"), caption, sizeof caption - 1);
    check_file_write(check_join(root, "odd/1_once/00001.txt"), caption, sizeof caption - 1);
}

static inline int set_up(void **state)
{
    ag_ctx *ctx = one_thread();
    data_faces_options faces = data_faces_defaults();

    (void)state;
    check_folder(root);
    make_model(ctx);
    faces.count = 5;
    faces.resolution = 16;
    data_faces_write(ctx, check_join(root, "faces"), &faces, NULL, NULL);
    check_ok(ctx, "faces");
    make_odd(ctx);
    ag_ctx_free(ctx);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    check_remove(root);
    return 0;
}

/* A run's options; its texts point into `texts`, its output is root/name. */
typedef struct texts {
    char model[400], images[400], ages[400], output[400];
} texts;

static inline train_options options_of(texts *t, const char *name)
{
    snprintf(t->model, sizeof t->model, "%s/model", root);
    snprintf(t->images, sizeof t->images, "%s/faces/images", root);
    snprintf(t->ages, sizeof t->ages, "%s/faces/training_ages.npy", root);
    snprintf(t->output, sizeof t->output, "%s/%s", root, name);
    return (train_options){.pretrained_model_name_or_path = t->model,
                           .instance_data_dir = t->images,
                           .instance_age_path = t->ages,
                           .instance_prompt = "photo of a person",
                           .resolution = 16,
                           .output_dir = t->output,
                           .logging_dir = "logs",
                           .report_to = "none",
                           .seed = 3,
                           .train_batch_size = 1,
                           .gradient_accumulation_steps = 1,
                           .num_train_epochs = 1,
                           .max_train_steps = 6,
                           .mixed_precision = TRAIN_PRECISION_NO,
                           .huber_c = 0.1,
                           .learning_rate = 1e-3,
                           .lr_num_cycles = 1,
                           .lr_power = 1,
                           .adam_beta1 = 0.9,
                           .adam_beta2 = 0.999,
                           .adam_weight_decay = 1e-2,
                           .adam_epsilon = 1e-8,
                           .max_grad_norm = 1.0};
}

static inline const char *odd_folder(void)
{
    static char path[300];

    snprintf(path, sizeof path, "%s/odd", root);
    return path;
}

/* All that the data can be told, at once. */
static inline void change_data(train_options *o)
{
    static char masks[320];

    snprintf(masks, sizeof masks, "%s/masks", root);
    o->instance_data_dir = odd_folder();
    o->train_batch_size = 2;
    o->gradient_accumulation_steps = 3;
    o->random_flip = true;
    o->aspect_ratio_buckets = true;
    o->bucket_step = 4;
    o->repeats = 2;
    o->balance_ages = true;
    o->caption_extension = "txt";
    o->caption_dropout = 0.3;
    o->mask_dir = masks;
    o->mask_min = 0.1;
    o->color_jitter = "0.2,0.2,0.2,0.05";
}

/* --- runs in a child process ------------------------------------------------------------------ */

static inline pid_t start_with(trainer train, const train_options *options)
{
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        ag_ctx *ctx = check_small_ctx(check_device());
        json_t *config = json_pack("{s:I}", "seed", (json_int_t)options->seed);
        const ag_status status = train(ctx, options, config);
        if (status != AG_OK)
            fprintf(stderr, "%s\n", ag_message(ctx));
        json_decref(config);
        ag_ctx_free(ctx);
        _exit((int)status);
    }
    return child;
}

/* The status a run ended with; -1 when it was killed. */
static inline int end(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void same_file(const char *a, const char *b, const char *name)
{
    size_t n_a, n_b;
    char *bytes_a = check_file(&n_a, check_join(a, name));
    char *bytes_b = check_file(&n_b, check_join(b, name));

    if (n_a != n_b || memcmp(bytes_a, bytes_b, n_a) != 0)
        fail_msg("%s and %s differ in %s", a, b, name);
    free(bytes_a);
    free(bytes_b);
}

static inline void same_model(const char *a, const char *b)
{
    same_file(a, b, "unet/diffusion_pytorch_model.safetensors");
    same_file(a, b, "text_encoder/model.safetensors");
    same_file(a, b, "vae/diffusion_pytorch_model.safetensors");
}

/* Both logs have the same updates, losses and norms. */
static inline void same_log(const char *a, const char *b)
{
    size_t n;
    char *text_a = check_file(&n, check_join(a, "log.csv"));
    char *text_b = check_file(&n, check_join(b, "log.csv"));
    char *rest_a = text_a, *rest_b = text_b, *line_a, *line_b;

    while ((line_a = strsep(&rest_a, "\n")) && (line_b = strsep(&rest_b, "\n"))) {
        for (int comma = 0; comma < 5; comma++) { /* seconds and bytes may differ */
            const char *x = strsep(&line_a, ","), *y = strsep(&line_b, ",");
            if (!x || !y)
                break;
            assert_string_equal(x, y);
        }
    }
    assert_true(!rest_a && !rest_b);
    free(text_a);
    free(text_b);
}

static inline int rows_logged(const char *output)
{
    char text[4096] = "";
    FILE *file = fopen(check_join(output, "log.csv"), "r");
    int n = 0;

    if (file) {
        const size_t got = fread(text, 1, sizeof text - 1, file);
        for (size_t i = 0; i < got; i++)
            n += text[i] == '\n';
        fclose(file);
    }
    return n > 0 ? n - 1 : 0;
}

#endif /* TESTS_RUN_CHECK_H */
