/* class_pictures.c - see class_pictures.h. The numbers are those of huggingface/diffusers:
 * examples/dreambooth/train_dreambooth.py.
 */
#include "train/class_pictures.h"

#include <dirent.h>

#include "data/checksum.h"
#include "data/dataset.h"
#include "data/file.h"
#include "train/precision.h"
#include "train/run.h"

enum { N_STEPS = 50 };
static const double GUIDANCE = 7.5;

/* How many pictures a folder has; 0 when it is not there. */
static int64_t count_pictures(const char *folder)
{
    DIR *stream = opendir(folder);
    const struct dirent *entry;
    int64_t n = 0;

    while (stream && (entry = readdir(stream)))
        n += entry->d_name[0] != '.' && data_is_image_name(entry->d_name);
    if (stream)
        closedir(stream);
    return n;
}

static ag_status write_picture(ag_ctx *ctx, const char *folder, int64_t k, const data_image *image)
{
    char sum[DATA_SHA1_TEXT];
    char *path = NULL;

    if (data_sha1(sum, ctx, image->pixels, (size_t)(image->w * image->h * 3)) == AG_OK)
        path = ag_printf(ctx, "%s/%lld-%s.png", folder, (long long)k, sum);
    if (path)
        data_image_write_png(ctx, image, path);
    ag_delete(path);
    return ag_status_of(ctx);
}

/* Pictures first .. first + n - 1. */
static ag_status draw_batch(ag_ctx *ctx, const train_options *o, pipe_model *model, data_image *images, int64_t first,
                            int64_t n)
{
    const ag_dtype compute = train_compute_dtype(ctx, o->prior_generation_precision);
    const train_sample_request request = {.prompt = o->class_prompt,
                                          .n = n,
                                          .first = first,
                                          .n_steps = N_STEPS,
                                          .guidance = GUIDANCE,
                                          .seed = (uint64_t)o->seed,
                                          .compute = compute,
                                          .vae_compute = train_vae_dtype(ctx, o->vae_precision, compute)};

    if (ag_status_of(ctx) == AG_OK)
        o->sample(images, ctx, model, &request);
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
        write_picture(ctx, o->class_data_dir, first + i, &images[i]);
    for (int64_t i = 0; i < n; i++)
        data_image_free(&images[i]);
    return ag_status_of(ctx);
}

static ag_status draw_all(ag_ctx *ctx, const train_options *o, int64_t n_there)
{
    const pipe_source source = {.model = o->pretrained_model_name_or_path,
                                .revision = o->revision,
                                .variant = o->variant,
                                .tokenizer_name = o->tokenizer_name};
    const int64_t batch = o->sample_batch_size > 0 ? o->sample_batch_size : 1, total = o->num_class_images;
    data_image *images = ag_new(ctx, (size_t)batch, sizeof *images, "pictures of the class");
    pipe_model *model = NULL;

    train_note(NULL, "%s has %lld of %lld pictures: drawing \"%s\"", o->class_data_dir, (long long)n_there,
               (long long)total, o->class_prompt);
    if (images && train_prepare_output(ctx, o) == AG_OK && data_folder_make(ctx, o->class_data_dir) == AG_OK &&
        pipe_open(&model, ctx, &source, PIPE_ALL) == AG_OK) {
        pipe_settle_schedule(&model->schedule);
        for (int64_t k = n_there; k < total && ag_status_of(ctx) == AG_OK; k += batch) {
            train_log_progress(NULL, "pictures of the class", k, total);
            draw_batch(ctx, o, model, images, k, total - k < batch ? total - k : batch);
        }
    }
    pipe_close(model);
    ag_delete(images);
    ag_trim(ctx);
    return ag_status_of(ctx);
}

ag_status train_class_pictures(ag_ctx *ctx, const train_options *o)
{
    const int64_t n = count_pictures(o->class_data_dir);

    if (n >= o->num_class_images)
        return AG_OK;
    if (!o->sample)
        return ag_fail(ctx, AG_EINVAL, "%s has %lld pictures, wanted %lld, and there is nobody to draw them",
                       o->class_data_dir, (long long)n, (long long)o->num_class_images);
    return draw_all(ctx, o, n);
}
