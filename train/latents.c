/* latents.c - see latents.h. */
#include "train/latents.h"

#include <stdio.h>
#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/file.h"
#include "data/resample.h"

/* One way a picture can enter: which of its two orientations. */
enum { N_FLIPS = 2 };

struct train_latents {
    train_latents_options options;
    const data_set *set;
    const nn_vae *vae;
    int64_t channels, side, factor;
    bool *is_random_crop;                         /* [set->n] */
    char (*keys)[N_FLIPS][DATA_SHA256_TEXT];      /* [set->n]; "" when encoded each time */
    char *folder;                                 /* options.folder */
    float *values;                                /* one posterior, [side, side, 2 channels] */
};

static size_t entry_values(const train_latents *l)
{
    return (size_t)(l->side * l->side * 2 * l->channels);
}

/* SHA-256 over the sums of the encoder's parameters: which VAE this is. */
static ag_status vae_identity(char out[DATA_SHA256_TEXT], ag_ctx *ctx, const nn_vae *vae)
{
    nn_params *params = nn_vae_params(vae);
    const int64_t n = nn_params_count(params);
    char(*sums)[DATA_SHA256_TEXT] = ag_new(ctx, (size_t)n, sizeof *sums, "sums of the VAE");

    for (int64_t i = 0; sums && i < n && ag_status_of(ctx) == AG_OK; i++) {
        const nn_param *p = nn_params_at(params, i);
        if (ag_data(p->value))
            data_sha256(sums[i], ctx, ag_data(p->value), ag_nbytes(p->value));
    }
    if (ag_status_of(ctx) == AG_OK)
        data_sha256(out, ctx, sums, (size_t)n * sizeof *sums);
    ag_delete(sums);
    return ag_status_of(ctx);
}

static ag_status make_key(char out[DATA_SHA256_TEXT], ag_ctx *ctx, const train_latents *l, const char *file_sum,
                          const char *vae_sum, int flip)
{
    char text[512];
    const int n = snprintf(text, sizeof text,
                           "posterior 1\nfile %s\nvae %s\ngroups %lld\nresolution %lld\ncrop centre\nfilter bilinear\nflip %d\n"
                           "exif %d\ncompute %s\n",
                           file_sum, vae_sum, (long long)nn_vae_config_of(l->vae)->norm_num_groups,
                           (long long)l->options.resolution, flip, !l->options.ignore_exif,
                           ag_dtype_name(l->options.compute));

    return data_sha256(out, ctx, text, (size_t)n);
}

static data_size box_of(const train_latents *l)
{
    return (data_size){l->options.resolution, l->options.resolution};
}

static unsigned read_flags(const train_latents *l)
{
    return l->options.ignore_exif ? DATA_IGNORE_EXIF : 0;
}

/* Will the picture be cut at random? Not when its shorter and longer side become equal. */
static ag_status find_random_crop(bool *out, ag_ctx *ctx, const train_latents *l, const char *path)
{
    data_size stored, fit;

    *out = false;
    if (l->options.center_crop)
        return AG_OK;
    if (data_image_probe(NULL, &stored.w, &stored.h, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    fit = data_cover_size(stored, box_of(l));
    *out = fit.w != fit.h;
    return AG_OK;
}

static ag_status describe_items(ag_ctx *ctx, train_latents *l)
{
    const bool hashes = l->options.folder && ag_ctx_device(ctx) != AG_META;
    char vae_sum[DATA_SHA256_TEXT], file_sum[DATA_SHA256_TEXT];

    if (hashes && vae_identity(vae_sum, ctx, l->vae) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < l->set->n && ag_status_of(ctx) == AG_OK; i++) {
        const char *path = l->set->items[i].path;
        if (find_random_crop(&l->is_random_crop[i], ctx, l, path) != AG_OK || !hashes || l->is_random_crop[i])
            continue;
        if (data_file_sha256(file_sum, ctx, path) == AG_OK)
            for (int flip = 0; flip < N_FLIPS; flip++)
                make_key(l->keys[i][flip], ctx, l, file_sum, vae_sum, flip);
    }
    return ag_status_of(ctx);
}

ag_status train_latents_new(train_latents **out, ag_ctx *ctx, const train_latents_options *options,
                            const data_set *set, const nn_vae *vae)
{
    train_latents *l = ag_new(ctx, 1, sizeof *l, "latents");

    if (!l)
        return ag_status_of(ctx);
    l->options = *options;
    l->folder = options->folder ? ag_strdup(ctx, options->folder) : NULL;
    l->options.folder = l->folder;
    l->set = set;
    l->vae = vae;
    l->channels = nn_vae_config_of(vae)->latent_channels;
    l->factor = nn_vae_factor(vae);
    l->side = options->resolution / l->factor;
    l->is_random_crop = ag_new(ctx, (size_t)set->n, sizeof *l->is_random_crop, "latents");
    l->keys = ag_new(ctx, (size_t)set->n, sizeof *l->keys, "latents");
    if (options->resolution % l->factor)
        ag_fail(ctx, AG_EINVAL, "resolution %lld: wanted a multiple of %lld, by which the VAE shrinks a picture",
                (long long)options->resolution, (long long)l->factor);
    l->values = ag_new(ctx, entry_values(l), sizeof *l->values, "latents");
    if (ag_status_of(ctx) != AG_OK ||
        (options->folder && ag_ctx_device(ctx) != AG_META && data_folder_make(ctx, options->folder) != AG_OK) ||
        describe_items(ctx, l) != AG_OK) {
        train_latents_free(l);
        return ag_status_of(ctx);
    }
    *out = l;
    return AG_OK;
}

void train_latents_free(train_latents *l)
{
    if (!l)
        return;
    ag_delete(l->is_random_crop);
    ag_delete(l->keys);
    ag_delete(l->values);
    ag_delete(l->folder);
    ag_delete(l);
}

/* --- encoding ----------------------------------------------------------------------------------- */

/* The crop of item i in this epoch, {top, left}; false: the middle. */
static bool crop_of(int64_t offset[2], ag_ctx *ctx, const train_latents *l, int64_t i, int64_t epoch)
{
    const ag_draw draw = {.seed = l->options.seed, .purpose = AG_DRAW_CROP, .step = (uint32_t)epoch, .sample = (uint32_t)i};
    data_size seen, fit;

    if (!l->is_random_crop[i] ||
        data_image_size(&seen.w, &seen.h, ctx, l->set->items[i].path, read_flags(l)) != AG_OK)
        return false;
    fit = data_cover_size(seen, box_of(l));
    offset[0] = ag_draw_integer(&draw, 0, fit.h - l->options.resolution + 1);
    offset[1] = ag_draw_integer(&draw, 1, fit.w - l->options.resolution + 1);
    return true;
}

static bool flip_of(const train_latents *l, int64_t i, int64_t epoch)
{
    const ag_draw draw = {.seed = l->options.seed, .purpose = AG_DRAW_FLIP, .step = (uint32_t)epoch, .sample = (uint32_t)i};

    return l->options.random_flip && ag_draw_integer(&draw, 0, 2) == 1;
}

/* Read, crop and flip a picture and encode it. */
static ag_tensor *encode(ag_ctx *ctx, const train_latents *l, int64_t i, const int64_t *offset, bool flip)
{
    const int64_t R = l->options.resolution;
    const nn_vae_options options = {.compute = l->options.compute};
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    data_image img = {0};
    const bool is_real = ag_ctx_device(ctx) != AG_META; /* a forecast needs no picture */
    float *pixels = ag_new(ctx, (size_t)(R * R * 3), sizeof *pixels, "picture");
    ag_tensor *moments = NULL;

    if (pixels && (!is_real || data_image_load_training(&img, ctx, l->set->items[i].path, box_of(l), offset, flip,
                                                        read_flags(l)) == AG_OK)) {
        ag_tensor *x, *both;
        if (is_real)
            data_image_to_f32(pixels, &img);
        x = ag_from_f32(ctx, pixels, 4, (int64_t[]){1, R, R, 3});
        both = nn_vae_encode(ctx, l->vae, x, &options);
        moments = ag_concat(ctx, nn_vae_mean(ctx, l->vae, both), nn_vae_logvar(ctx, l->vae, both), 3);
    }
    data_image_free(&img);
    ag_delete(pixels);
    ag_record(ctx, was);
    return ag_scope_close(ctx, scope, moments);
}

/* --- entries ------------------------------------------------------------------------------------- */

static char *entry_path(ag_ctx *ctx, const train_latents *l, const char *key)
{
    return ag_printf(ctx, "%s/%s.f32", l->options.folder, key);
}

/* Read an entry into l->values; false when it is not there or not of the right size. */
static bool read_entry(ag_ctx *ctx, train_latents *l, const char *key)
{
    const size_t bytes = entry_values(l) * sizeof *l->values;
    char *path = entry_path(ctx, l, key);
    data_file file = {.fd = -1};
    bool ok = false;

    if (path && data_is_file(path) && data_file_open(&file, ctx, path) == AG_OK)
        ok = file.size == bytes && data_file_pread(&file, 0, bytes, l->values) == 0;
    data_file_close(&file);
    ag_delete(path);
    return ok;
}

static ag_status write_entry(ag_ctx *ctx, train_latents *l, const char *key, ag_tensor *moments)
{
    const size_t bytes = entry_values(l) * sizeof *l->values;
    char *path = entry_path(ctx, l, key);

    if (path && ag_read(ctx, moments, l->values, bytes) == AG_OK)
        data_file_write(ctx, path, l->values, bytes);
    ag_delete(path);
    return ag_status_of(ctx);
}

bool train_latents_needs_vae(const train_latents *l)
{
    bool needs = !l->options.folder;

    for (int64_t i = 0; i < l->set->n; i++)
        needs |= l->is_random_crop[i];
    return needs;
}

/* One picture stands for all. */
static ag_status fill_on_meta(ag_ctx *ctx, const train_latents *l)
{
    const ag_scope scope = ag_scope_open(ctx);

    encode(ctx, l, 0, NULL, false);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

ag_status train_latents_fill(ag_ctx *ctx, train_latents *l, train_log *log, bool *needs_vae)
{
    const int flips = l->options.random_flip ? N_FLIPS : 1;

    *needs_vae = train_latents_needs_vae(l);
    if (ag_ctx_device(ctx) == AG_META)
        return fill_on_meta(ctx, l);
    for (int64_t i = 0; i < l->set->n && l->options.folder && ag_status_of(ctx) == AG_OK; i++)
        for (int flip = 0; flip < flips && !l->is_random_crop[i] && ag_status_of(ctx) == AG_OK; flip++) {
            const ag_scope scope = ag_scope_open(ctx);
            if (!read_entry(ctx, l, l->keys[i][flip]) && ag_status_of(ctx) == AG_OK) {
                train_log_progress(log, "latents", i, l->set->n);
                write_entry(ctx, l, l->keys[i][flip], encode(ctx, l, i, NULL, flip));
            }
            ag_scope_close(ctx, scope, NULL);
        }
    if (!*needs_vae)
        l->vae = NULL;
    return ag_status_of(ctx);
}

ag_tensor *train_latents_moments(ag_ctx *ctx, train_latents *l, int64_t i, int64_t epoch)
{
    const bool flip = flip_of(l, i, epoch);
    int64_t offset[2];
    bool is_cut;

    if ((l->keys[i][flip][0] && read_entry(ctx, l, l->keys[i][flip])) ||
        (ag_ctx_device(ctx) == AG_META && !train_latents_needs_vae(l)))
        return ag_from_f32(ctx, l->values, 4, (int64_t[]){1, l->side, l->side, 2 * l->channels});
    if (!l->vae) {
        ag_fail(ctx, AG_EIO, "%s/%s.f32: the posterior of %s was here and is gone", l->options.folder, l->keys[i][flip],
                l->set->items[i].name);
        return NULL;
    }
    is_cut = crop_of(offset, ctx, l, i, epoch);
    return encode(ctx, l, i, is_cut ? offset : NULL, flip);
}

int64_t train_latents_channels(const train_latents *l)
{
    return l->channels;
}

int64_t train_latents_side(const train_latents *l)
{
    return l->side;
}

ag_tensor *train_latents_sample(ag_ctx *ctx, ag_tensor *moments, ag_tensor *noise, double scale)
{
    const int64_t L = moments ? ag_dim(moments, 3) / 2 : 0;
    ag_tensor *mean = ag_slice(ctx, moments, 3, 0, L), *logvar = ag_slice(ctx, moments, 3, L, L);
    ag_tensor *deviation = ag_exp(ctx, ag_scale(ctx, logvar, 0.5));

    return ag_scale(ctx, ag_add(ctx, mean, ag_mul(ctx, deviation, noise)), scale);
}
