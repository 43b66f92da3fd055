/* latents.c - see latents.h. */
#include "train/latents.h"

#include <stdio.h>
#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/file.h"

/* One way a picture can enter: which of its two orientations. */
enum { N_FLIPS = 2 };

/* "/", a sum, ".f32" and a zero. */
enum { ENTRY_ROOM = DATA_SHA256_TEXT + 5 };

typedef char entry_key[DATA_SHA256_TEXT];

struct train_latents {
    train_latents_options options;
    const data_set *set;
    const nn_vae *vae;
    int64_t channels, factor, norm_groups;
    bool has_masks;
    data_size *fits;             /* [set->n]: as large as they are before the crop; 0 x 0 where nobody needs it */
    bool *is_random;             /* [set->n]: the crop */
    entry_key (*keys)[N_FLIPS];  /* [set->n] of posteriors; "" when not kept */
    entry_key (*mask_keys)[N_FLIPS]; /* [set->n] likewise; NULL without masks */
    char *folder, *path;         /* options.folder; room for the path of an entry */
    float *values;               /* one posterior or mask of the largest box */
};

/* --- shapes ---------------------------------------------------------------------------------------- */

static data_size latent_size(const train_latents *l, int64_t i)
{
    const data_size box = l->options.boxes[i];

    return (data_size){box.w / l->factor, box.h / l->factor};
}

static size_t posterior_bytes(const train_latents *l, int64_t i)
{
    const data_size s = latent_size(l, i);

    return (size_t)(s.w * s.h * 2 * l->channels) * sizeof *l->values;
}

static size_t mask_bytes(const train_latents *l, int64_t i)
{
    const data_size s = latent_size(l, i);

    return (size_t)(s.w * s.h) * sizeof *l->values;
}

static unsigned read_flags(const train_latents *l)
{
    return l->options.ignore_exif ? DATA_IGNORE_EXIF : 0;
}

static bool is_kept(const train_latents *l, int64_t i)
{
    return l->options.folder && !l->is_random[i] && !data_jitter_changes(&l->options.jitter);
}

static bool is_mask_kept(const train_latents *l, int64_t i)
{
    return l->options.folder && !l->is_random[i];
}

static bool has_mask(const train_latents *l, int64_t i)
{
    return l->set->items[i].mask || l->options.alpha_masks;
}

/* --- what an entry depends on ------------------------------------------------------------------------ */

/* SHA-256 over the sums of the encoder's parameters: which VAE this is. */
static ag_status vae_identity(entry_key out, ag_ctx *ctx, const nn_vae *vae)
{
    nn_params *params = nn_vae_params(vae);
    const int64_t n = nn_params_count(params);
    entry_key *sums = ag_new(ctx, (size_t)n, sizeof *sums, "sums of the VAE");

    for (int64_t i = 0; sums && i < n && ag_status_of(ctx) == AG_OK; i++) {
        const nn_param *p = nn_params_at(params, i);
        const void *values = ag_look(ctx, p->value);
        if (values)
            data_sha256(sums[i], ctx, values, ag_nbytes(p->value));
        ag_look_away(p->value, values);
    }
    if (ag_status_of(ctx) == AG_OK)
        data_sha256(out, ctx, sums, (size_t)n * sizeof *sums);
    ag_delete(sums);
    return ag_status_of(ctx);
}

static ag_status make_key(entry_key out, ag_ctx *ctx, const train_latents *l, int64_t i, const char *file_sum,
                          const char *vae_sum, int flip)
{
    const data_size box = l->options.boxes[i];
    char text[512];
    const int n = snprintf(text, sizeof text,
                           "posterior 2\nfile %s\nvae %s\ngroups %lld\nbox %lldx%lld\ncrop centre\nfilter bilinear\n"
                           "flip %d\nexif %d\ncompute %s\n",
                           file_sum, vae_sum, (long long)l->norm_groups, (long long)box.w, (long long)box.h, flip,
                           !l->options.ignore_exif, ag_dtype_name(l->options.compute));

    return data_sha256(out, ctx, text, (size_t)n);
}

static ag_status make_mask_key(entry_key out, ag_ctx *ctx, const train_latents *l, int64_t i, const char *file_sum,
                               int flip)
{
    const data_size box = l->options.boxes[i], fit = l->fits[i];
    char text[512];
    const int n = snprintf(text, sizeof text,
                           "mask 1\nfile %s\nalpha %d\nfit %lldx%lld\nbox %lldx%lld\nfactor %lld\nflip %d\nexif %d\n",
                           file_sum, !l->set->items[i].mask, (long long)fit.w, (long long)fit.h, (long long)box.w,
                           (long long)box.h, (long long)l->factor, flip, !l->options.ignore_exif);

    return data_sha256(out, ctx, text, (size_t)n);
}

static const char *mask_file(const train_latents *l, int64_t i)
{
    const data_item *item = &l->set->items[i];

    return item->mask ? item->mask : item->path;
}

/* How large the picture is before its crop, and whether that is drawn: not when nothing is cut off. */
static ag_status measure(ag_ctx *ctx, train_latents *l, int64_t i)
{
    const data_size box = l->options.boxes[i];
    data_size seen;

    if (l->options.center_crop && (!has_mask(l, i) || ag_ctx_device(ctx) == AG_META))
        return AG_OK;
    if (data_image_size(&seen.w, &seen.h, ctx, l->set->items[i].path, read_flags(l)) != AG_OK)
        return ag_status_of(ctx);
    l->fits[i] = data_cover_size(seen, box);
    l->is_random[i] = !l->options.center_crop && (l->fits[i].w != box.w || l->fits[i].h != box.h);
    return AG_OK;
}

static ag_status describe_item(ag_ctx *ctx, train_latents *l, int64_t i, const char *vae_sum)
{
    entry_key sum;

    if (is_kept(l, i) && data_file_sha256(sum, ctx, l->set->items[i].path) == AG_OK)
        for (int flip = 0; flip < N_FLIPS; flip++)
            make_key(l->keys[i][flip], ctx, l, i, sum, vae_sum, flip);
    if (is_mask_kept(l, i) && has_mask(l, i) && data_file_sha256(sum, ctx, mask_file(l, i)) == AG_OK)
        for (int flip = 0; flip < N_FLIPS; flip++)
            make_mask_key(l->mask_keys[i][flip], ctx, l, i, sum, flip);
    return ag_status_of(ctx);
}

static ag_status describe_items(ag_ctx *ctx, train_latents *l)
{
    const bool hashes = l->options.folder && ag_ctx_device(ctx) != AG_META;
    entry_key vae_sum;

    if (hashes && vae_identity(vae_sum, ctx, l->vae) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < l->set->n && ag_status_of(ctx) == AG_OK; i++)
        if (measure(ctx, l, i) == AG_OK && hashes)
            describe_item(ctx, l, i, vae_sum);
    return ag_status_of(ctx);
}

/* --- setting up -------------------------------------------------------------------------------------- */

static ag_status check_boxes(ag_ctx *ctx, const train_latents *l)
{
    for (int64_t i = 0; i < l->set->n; i++) {
        const data_size box = l->options.boxes[i];
        if (box.w % l->factor || box.h % l->factor || box.w < l->factor || box.h < l->factor)
            return ag_fail(ctx, AG_EINVAL,
                           "a resolution of %lld x %lld: wanted multiples of %lld, by which the VAE shrinks a picture",
                           (long long)box.w, (long long)box.h, (long long)l->factor);
    }
    return AG_OK;
}

static ag_status make_room(ag_ctx *ctx, train_latents *l)
{
    const size_t n = (size_t)l->set->n;
    size_t largest = 0;

    for (int64_t i = 0; i < l->set->n; i++) {
        const size_t bytes = posterior_bytes(l, i);
        largest = bytes > largest ? bytes : largest;
        l->has_masks |= has_mask(l, i);
    }
    l->folder = l->options.folder ? ag_strdup(ctx, l->options.folder) : NULL;
    l->options.folder = l->folder;
    l->path = l->folder ? ag_printf(ctx, "%s%*s", l->folder, ENTRY_ROOM, "") : NULL;
    l->fits = ag_new(ctx, n, sizeof *l->fits, "latents");
    l->is_random = ag_new(ctx, n, sizeof *l->is_random, "latents");
    l->keys = ag_new(ctx, n, sizeof *l->keys, "latents");
    l->mask_keys = l->has_masks ? ag_new(ctx, n, sizeof *l->mask_keys, "latents") : NULL;
    l->values = ag_new(ctx, largest, 1, "latents");
    return ag_status_of(ctx);
}

ag_status train_latents_new(train_latents **out, ag_ctx *ctx, const train_latents_options *options,
                            const data_set *set, const nn_vae *vae)
{
    train_latents *l = ag_new(ctx, 1, sizeof *l, "latents");

    if (!l)
        return ag_status_of(ctx);
    l->options = *options;
    l->set = set;
    l->vae = vae;
    l->channels = nn_vae_config_of(vae)->latent_channels;
    l->norm_groups = nn_vae_config_of(vae)->norm_num_groups;
    l->factor = nn_vae_factor(vae);
    if (check_boxes(ctx, l) != AG_OK || make_room(ctx, l) != AG_OK ||
        (l->folder && ag_ctx_device(ctx) != AG_META && data_folder_make(ctx, l->folder) != AG_OK) ||
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
    ag_delete(l->fits);
    ag_delete(l->is_random);
    ag_delete(l->keys);
    ag_delete(l->mask_keys);
    ag_delete(l->values);
    ag_delete(l->path);
    ag_delete(l->folder);
    ag_delete(l);
}

/* --- how a picture enters an epoch --------------------------------------------------------------------- */

typedef struct view {
    data_pick pick;
    int64_t epoch;
    const int64_t *offset; /* {top, left} of the crop; NULL: the middle */
    bool flip;
} view;

static ag_draw draw_of(const train_latents *l, ag_purpose purpose, data_pick pick, int64_t epoch)
{
    return (ag_draw){
        .seed = l->options.seed, .purpose = purpose, .step = (uint32_t)epoch, .sample = (uint32_t)pick.item};
}

/* offset: room for the crop. */
static view view_of(const train_latents *l, data_pick pick, int64_t epoch, int64_t offset[2])
{
    const ag_draw crop = draw_of(l, AG_DRAW_CROP, pick, epoch), flip = draw_of(l, AG_DRAW_FLIP, pick, epoch);
    const data_size box = l->options.boxes[pick.item], fit = l->fits[pick.item];
    view v = {.pick = pick, .epoch = epoch};

    v.flip = l->options.random_flip && ag_draw_integer(&flip, (uint64_t)pick.copy, 2) == 1;
    if (l->is_random[pick.item]) {
        offset[0] = ag_draw_integer(&crop, 2 * (uint64_t)pick.copy, fit.h - box.h + 1);
        offset[1] = ag_draw_integer(&crop, 2 * (uint64_t)pick.copy + 1, fit.w - box.w + 1);
        v.offset = offset;
    }
    return v;
}

static ag_status load_picture(data_image *img, ag_ctx *ctx, const train_latents *l, const view *v)
{
    const ag_draw draw = draw_of(l, AG_DRAW_COLOR, v->pick, v->epoch);

    if (data_image_load_training(img, ctx, l->set->items[v->pick.item].path, l->options.boxes[v->pick.item], v->offset,
                                 v->flip, read_flags(l)) == AG_OK &&
        data_jitter_changes(&l->options.jitter))
        data_image_jitter(img, &l->options.jitter, &draw, v->pick.copy);
    return ag_status_of(ctx);
}

/* Read, crop, flip, colour a picture and encode it. */
static ag_tensor *encode(ag_ctx *ctx, const train_latents *l, const view *v)
{
    const data_size box = l->options.boxes[v->pick.item];
    const nn_vae_options options = {.compute = l->options.compute};
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    const bool is_real = ag_ctx_device(ctx) != AG_META; /* a forecast needs no picture */
    data_image img = {0};
    float *pixels = ag_new(ctx, (size_t)(box.w * box.h * 3), sizeof *pixels, "picture");
    ag_tensor *moments = NULL;

    if (pixels && (!is_real || load_picture(&img, ctx, l, v) == AG_OK)) {
        ag_tensor *x, *both;
        if (is_real)
            data_image_to_f32(pixels, &img);
        x = ag_from_f32(ctx, pixels, 4, (int64_t[]){1, box.h, box.w, 3});
        both = nn_vae_encode(ctx, l->vae, x, &options);
        moments = ag_concat(ctx, nn_vae_mean(ctx, l->vae, both), nn_vae_logvar(ctx, l->vae, both), 3);
    }
    data_image_free(&img);
    ag_delete(pixels);
    ag_record(ctx, was);
    return ag_scope_close(ctx, scope, moments);
}

/* The mean of every factor x factor pixels of a mask, 0 to 1, into l->values. */
static void average_mask(train_latents *l, const data_image *mask)
{
    const int64_t f = l->factor, w = mask->w / f, h = mask->h / f;

    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            int64_t sum = 0;
            for (int64_t k = 0; k < f * f; k++)
                sum += data_grey_of(mask->pixels + 3 * ((y * f + k / f) * mask->w + x * f + k % f));
            l->values[y * w + x] = (float)sum / (255.0f * (float)(f * f));
        }
}

/* A mask through the steps its picture goes through, whatever its own size, into l->values. */
static ag_status load_mask(ag_ctx *ctx, train_latents *l, const view *v)
{
    const data_size box = l->options.boxes[v->pick.item], fit = l->fits[v->pick.item];
    const unsigned alpha = l->set->items[v->pick.item].mask ? 0 : DATA_ALPHA;
    data_image mask = {0};

    if (data_image_read(&mask, ctx, mask_file(l, v->pick.item), read_flags(l) | alpha) == AG_OK &&
        data_image_resize(&mask, ctx, &mask, fit.w, fit.h, DATA_BILINEAR) == AG_OK &&
        data_image_cover(&mask, ctx, &mask, box, DATA_BILINEAR, v->offset) == AG_OK) {
        if (v->flip)
            data_image_flip(&mask);
        average_mask(l, &mask);
    }
    data_image_free(&mask);
    return ag_status_of(ctx);
}

/* --- entries ------------------------------------------------------------------------------------- */

static const char *entry_path(train_latents *l, const char *key)
{
    snprintf(l->path + strlen(l->folder), ENTRY_ROOM, "/%s.f32", key);
    return l->path;
}

/* Read an entry into l->values; false when it is not there or not of the right size. */
static bool read_entry(train_latents *l, const char *key, size_t bytes)
{
    return key[0] && data_file_fetch(entry_path(l, key), bytes, l->values);
}

static ag_status write_entry(ag_ctx *ctx, train_latents *l, const char *key, size_t bytes)
{
    return data_file_write(ctx, entry_path(l, key), l->values, bytes);
}

bool train_latents_needs_vae(const train_latents *l)
{
    bool needs = false;

    for (int64_t i = 0; i < l->set->n; i++)
        needs |= !is_kept(l, i);
    return needs;
}

int64_t train_latents_kept(const train_latents *l)
{
    int64_t n = 0;

    for (int64_t i = 0; i < l->set->n; i++)
        n += is_kept(l, i) ? (l->options.random_flip ? N_FLIPS : 1) : 0;
    return n;
}

/* One picture stands for all. */
static ag_status fill_on_meta(ag_ctx *ctx, const train_latents *l)
{
    const ag_scope scope = ag_scope_open(ctx);
    view v = {0};

    for (int64_t i = 0; i < l->set->n; i++)
        if (posterior_bytes(l, i) > posterior_bytes(l, v.pick.item))
            v.pick.item = i;
    encode(ctx, l, &v);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

static ag_status fill_one(ag_ctx *ctx, train_latents *l, const view *v, train_log *log)
{
    const int64_t i = v->pick.item;
    const size_t bytes = posterior_bytes(l, i);
    const char *key = l->keys[i][v->flip], *mask_key = l->has_masks ? l->mask_keys[i][v->flip] : "";
    const ag_scope scope = ag_scope_open(ctx);

    if (key[0] && !read_entry(l, key, bytes)) {
        train_log_progress(log, "latents", i, l->set->n);
        if (ag_read(ctx, encode(ctx, l, v), l->values, bytes) == AG_OK)
            write_entry(ctx, l, key, bytes);
    }
    ag_scope_close(ctx, scope, NULL);
    if (ag_status_of(ctx) == AG_OK && mask_key[0] && !read_entry(l, mask_key, mask_bytes(l, i)) &&
        load_mask(ctx, l, v) == AG_OK)
        write_entry(ctx, l, mask_key, mask_bytes(l, i));
    return ag_status_of(ctx);
}

ag_status train_latents_fill(ag_ctx *ctx, train_latents *l, train_log *log, bool *needs_vae)
{
    const int flips = l->options.random_flip ? N_FLIPS : 1;

    *needs_vae = train_latents_needs_vae(l);
    if (ag_ctx_device(ctx) == AG_META)
        return fill_on_meta(ctx, l);
    for (int64_t i = 0; i < l->set->n && ag_status_of(ctx) == AG_OK; i++)
        for (int flip = 0; flip < flips && ag_status_of(ctx) == AG_OK; flip++)
            fill_one(ctx, l, &(view){.pick = {i, 0}, .flip = flip}, log);
    if (!*needs_vae)
        l->vae = NULL;
    return ag_status_of(ctx);
}

/* --- use ------------------------------------------------------------------------------------------- */

static ag_tensor *one_posterior(ag_ctx *ctx, train_latents *l, const view *v)
{
    const int64_t i = v->pick.item;
    const data_size s = latent_size(l, i);
    const char *key = l->keys[i][v->flip];

    if (read_entry(l, key, posterior_bytes(l, i)) || (ag_ctx_device(ctx) == AG_META && is_kept(l, i)))
        return ag_from_f32(ctx, l->values, 4, (int64_t[]){1, s.h, s.w, 2 * l->channels});
    if (!l->vae) {
        ag_fail(ctx, AG_EIO, "%s/%s.f32: the posterior of %s was here and is gone", l->options.folder, key,
                l->set->items[i].name);
        return NULL;
    }
    return encode(ctx, l, v);
}

static ag_tensor *one_mask(ag_ctx *ctx, train_latents *l, const view *v)
{
    const int64_t i = v->pick.item;
    const data_size s = latent_size(l, i);

    if (!has_mask(l, i) || ag_ctx_device(ctx) == AG_META)
        return ag_full(ctx, AG_STEP, 1.0, 4, (int64_t[]){1, s.h, s.w, 1});
    if (!read_entry(l, l->mask_keys[i][v->flip], mask_bytes(l, i)) && load_mask(ctx, l, v) != AG_OK)
        return NULL;
    for (int64_t k = 0; k < s.w * s.h; k++)
        if (l->values[k] < (float)l->options.mask_min)
            l->values[k] = (float)l->options.mask_min;
    return ag_from_f32(ctx, l->values, 4, (int64_t[]){1, s.h, s.w, 1});
}

static ag_tensor *batch_of(ag_ctx *ctx, train_latents *l, const data_pick *picks, int64_t n, int64_t epoch,
                           ag_tensor *(*one)(ag_ctx *ctx, train_latents *l, const view *v))
{
    ag_tensor *all = NULL;

    for (int64_t b = 0; b < n && ag_status_of(ctx) == AG_OK; b++) {
        int64_t offset[2];
        const view v = view_of(l, picks[b], epoch, offset);
        ag_tensor *t = one(ctx, l, &v);
        all = b ? ag_concat(ctx, all, t, 0) : t;
    }
    return all;
}

ag_tensor *train_latents_moments(ag_ctx *ctx, train_latents *l, const data_pick *picks, int64_t n, int64_t epoch)
{
    return batch_of(ctx, l, picks, n, epoch, one_posterior);
}

ag_tensor *train_latents_masks(ag_ctx *ctx, train_latents *l, const data_pick *picks, int64_t n, int64_t epoch)
{
    return l->has_masks ? batch_of(ctx, l, picks, n, epoch, one_mask) : NULL;
}

bool train_latents_has_masks(const train_latents *l)
{
    return l->has_masks;
}

int64_t train_latents_channels(const train_latents *l)
{
    return l->channels;
}

int64_t train_latents_factor(const train_latents *l)
{
    return l->factor;
}

ag_tensor *train_latents_sample(ag_ctx *ctx, ag_tensor *moments, ag_tensor *noise, double scale)
{
    const int64_t L = moments ? ag_dim(moments, 3) / 2 : 0;
    ag_tensor *mean = ag_slice(ctx, moments, 3, 0, L), *logvar = ag_slice(ctx, moments, 3, L, L);
    ag_tensor *deviation = ag_exp(ctx, ag_scale(ctx, logvar, 0.5));

    return ag_scale(ctx, ag_add(ctx, mean, ag_mul(ctx, deviation, noise)), scale);
}
