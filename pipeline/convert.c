/* convert.c - see convert.h. */
#include "pipeline/convert.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "data/file.h"
#include "data/hub.h"
#include "data/tokenizer.h"
#include "pipeline/convert_parts.h"

typedef struct job {
    ag_ctx *ctx;
    const pipe_convert_options *options;
    pipe_converted *out;
    char *input;          /* where it was found */
    data_weights *single; /* an input that is a file */
    bool is_checkpoint;   /* and a whole model in the original names */
    pipe_parts parts;
} job;

static void note(const job *j, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(const job *j, const char *format, ...)
{
    char text[1024];
    va_list args;

    if (!j->options->note)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    j->options->note(j->options->note_user, text);
}

/* The element type a tensor is written with. */
static data_dtype dtype_for(const job *j, data_dtype dtype)
{
    data_dtype wanted = dtype;

    if (!j->options->keep_dtype && data_dtype_is_float(dtype))
        data_dtype_from_ag(&wanted, j->options->dtype);
    return wanted;
}

/* --- a single file ---------------------------------------------------------------------------- */

/* The entries of a single file, in the making. */
typedef struct entries {
    pipe_entry *list;
    int64_t n;
} entries;

static pipe_entry *find_entry(const entries *e, const char *name)
{
    for (int64_t i = e->n; i-- > 0;) /* what belongs together is near */
        if (strcmp(e->list[i].name, name) == 0)
            return &e->list[i];
    return NULL;
}

/* Give a part its place under the file's name for `name`, which is the part's own or a copy's. */
static ag_status place(const job *j, entries *e, const data_single *model, const pipe_part *part,
                       const char *name)
{
    ag_ctx *ctx = j->ctx;
    data_key key;
    pipe_entry *entry;

    if (!data_single_from_folder(&key, model, part->component, name, part->n_dims))
        return ag_fail(ctx, AG_EDATA, "%s: %s has no name in a single file",
                       data_weights_file_of(part->weights, part->tensor), part->name);
    entry = key.n_parts > 1 ? find_entry(e, key.name) : NULL;
    if (!entry) {
        entry = &e->list[e->n++];
        *entry = (pipe_entry){.dtype = dtype_for(j, part->dtype),
                              .n_dims = part->n_dims + key.n_ones};
        memcpy(entry->name, key.name, sizeof entry->name);
        for (int d = 0; d < entry->n_dims; d++)
            entry->dims[d] = d < part->n_dims ? part->dims[d] : 1;
        entry->dims[0] *= key.n_parts;
    }
    if (entry->dtype != dtype_for(j, part->dtype))
        return ag_fail(
            ctx, AG_EDTYPE,
            "%s: %s is %s, its neighbours in one matrix are %s; --dtype makes them equal",
            data_weights_file_of(part->weights, part->tensor), part->name,
            data_dtype_name(part->dtype), data_dtype_name(entry->dtype));
    entry->part[key.part] = part;
    entry->n_parts++;
    return AG_OK;
}

/* Other programs expect all layers of OpenCLIP's text model and its head, although Stable Diffusion
 * 2 reads the last layer but one: they get a copy of that, and ones.
 * (kohya-ss/sd-scripts: library/model_util.py) */
static ag_status complete_open_clip(const job *j, entries *e)
{
    const nn_clip_config *text = &j->parts.model.text;
    const char *const heads[] = {"cond_stage_model.model.text_projection",
                                 "cond_stage_model.model.logit_scale"};
    const int dims[] = {2, 0};
    data_single longer = j->parts.model;
    data_dtype dtype = DATA_F32;
    char last[64];

    snprintf(last, sizeof last, "text_model.encoder.layers.%lld.",
             (long long)text->num_hidden_layers - 1);
    longer.text.num_hidden_layers++;
    for (int64_t i = 0; i < j->parts.n; i++) {
        const pipe_part *part = &j->parts.list[i];
        char name[DATA_KEY_MAX + 64];
        if (part->component != DATA_TEXT_ENCODER || strncmp(part->name, last, strlen(last)) != 0)
            continue;
        dtype = part->dtype;
        snprintf(name, sizeof name, "text_model.encoder.layers.%lld.%s",
                 (long long)text->num_hidden_layers, part->name + strlen(last));
        if (place(j, e, &longer, part, name) != AG_OK)
            return ag_status_of(j->ctx);
    }
    for (int i = 0; i < 2; i++) {
        pipe_entry *entry = &e->list[e->n++];
        *entry = (pipe_entry){.fill = 1.0,
                              .dtype = dtype_for(j, dtype),
                              .n_dims = dims[i],
                              .dims = {text->hidden_size, text->hidden_size}};
        snprintf(entry->name, sizeof entry->name, "%s", heads[i]);
    }
    return AG_OK;
}

/* Room for the tensors' entries, a copy of one layer and a head. */
enum { MORE_ENTRIES = 64 };

static ag_status list_single(const job *j, entries *e)
{
    const data_single *model = &j->parts.model;

    e->list = ag_new(j->ctx, (size_t)j->parts.n + MORE_ENTRIES, sizeof *e->list, "list of tensors");
    if (!e->list)
        return ag_status_of(j->ctx);
    for (int64_t i = 0; i < j->parts.n; i++) {
        const pipe_part *part = &j->parts.list[i];
        if (strcmp(part->name, PIPE_POSITION_IDS) == 0 && model->open_clip)
            note(j, "position_ids (0, 1, 2, ...) are left out: a single file of this family has no "
                    "place for them");
        else if (place(j, e, model, part, part->name) != AG_OK)
            return ag_status_of(j->ctx);
    }
    return model->open_clip ? complete_open_clip(j, e) : AG_OK;
}

/* The source file's tensors as they are. */
static ag_status list_as_is(const job *j, entries *e, pipe_part **parts)
{
    const data_weights *w = j->single;
    const int64_t n = data_weights_count(w);

    *parts = ag_new(j->ctx, (size_t)n, sizeof **parts, "list of tensors");
    e->list = ag_new(j->ctx, (size_t)n, sizeof *e->list, "list of tensors");
    if (!*parts || !e->list)
        return ag_status_of(j->ctx);
    for (int64_t i = 0; i < n; i++) {
        const data_tensor *t = data_weights_at(w, i);
        pipe_entry *entry = &e->list[e->n++];
        (*parts)[i] = (pipe_part){.weights = w, .tensor = i, .n = t->n_values, .dtype = t->dtype};
        snprintf((*parts)[i].name, sizeof(*parts)[i].name, "%.200s", t->name);
        *entry = (pipe_entry){.long_name = t->name,
                              .part = {&(*parts)[i]},
                              .n_parts = 1,
                              .dtype = dtype_for(j, t->dtype),
                              .n_dims = t->n_dims};
        memcpy(entry->dims, t->dims, (size_t)t->n_dims * sizeof *t->dims);
    }
    return AG_OK;
}

/* The metadata of a single file: the source's, and the configurations of the parts it holds. */
typedef struct metadata {
    data_pair *pairs;
    int64_t n;
    char *texts[DATA_SINGLE_N_TEXTS];
} metadata;

static ag_status make_metadata(metadata *m, const job *j, bool with_model)
{
    const int64_t n = j->single ? data_weights_n_metadata(j->single) : 0;

    m->pairs = ag_new(j->ctx, (size_t)n + DATA_SINGLE_N_TEXTS, sizeof *m->pairs, "metadata");
    if (!m->pairs)
        return ag_status_of(j->ctx);
    for (int64_t i = 0; i < n; i++) {
        const data_pair pair = data_weights_metadata_at(j->single, i);
        if (!with_model || strncmp(pair.key, "agewright.", strlen("agewright.")) != 0)
            m->pairs[m->n++] = pair;
    }
    for (int what = 0; with_model && what < DATA_SINGLE_N_TEXTS; what++) {
        if (what < DATA_N_COMPONENTS ? !j->parts.model.has[what] : !j->parts.has_schedule)
            continue;
        m->texts[what] = data_single_text(&m->pairs[m->n].key, j->ctx, &j->parts.model, what);
        m->pairs[m->n].value = m->texts[what];
        if (!m->texts[what])
            return ag_status_of(j->ctx);
        m->n++;
    }
    return AG_OK;
}

static ag_status to_single(job *j)
{
    const bool as_is = j->single && !j->options->use_ema && !j->options->edit;
    pipe_part *parts = NULL;
    entries e = {0};
    metadata m = {0};

    if ((as_is ? list_as_is(j, &e, &parts) : list_single(j, &e)) == AG_OK &&
        make_metadata(&m, j, !j->single || j->is_checkpoint) == AG_OK)
        pipe_write_entries(&j->out->n_bytes, j->ctx, j->options->output, e.list, e.n, m.pairs, m.n,
                           j->options->edit);
    j->out->n_tensors = e.n;
    for (int i = 0; i < DATA_SINGLE_N_TEXTS; i++)
        ag_delete(m.texts[i]);
    ag_delete(m.pairs);
    ag_delete(e.list);
    ag_delete(parts);
    return ag_status_of(j->ctx);
}

/* --- a folder --------------------------------------------------------------------------------- */

/* The component's weights and config.json into the folder. */
static ag_status write_component(job *j, const char *folder, data_component component)
{
    ag_ctx *ctx = j->ctx;
    const data_single *model = &j->parts.model;
    char *path = ag_printf(ctx, "%s/%s.safetensors", folder,
                           data_component_file_stem(component, true));
    pipe_entry *list = ag_new(ctx, (size_t)j->parts.n, sizeof *list, "list of tensors");
    data_dtype dtype = DATA_F32;
    int64_t n = 0;

    for (int64_t i = 0; list && i < j->parts.n; i++) {
        const pipe_part *part = &j->parts.list[i];
        if (part->component != component)
            continue;
        list[n] = (pipe_entry){.part = {part}, .n_parts = 1, .n_dims = part->n_dims};
        list[n].dtype = dtype_for(j, part->dtype);
        memcpy(list[n].name, part->name, sizeof list[n].name);
        memcpy(list[n].dims, part->dims, (size_t)part->n_dims * sizeof *part->dims);
        if (data_dtype_is_float(part->dtype))
            dtype = list[n].dtype;
        n++;
    }
    if (ag_status_of(ctx) == AG_OK && data_folder_make(ctx, folder) == AG_OK &&
        pipe_write_entries(&j->out->n_bytes, ctx, path, list, n, NULL, 0, j->options->edit) ==
            AG_OK) {
        j->out->n_tensors += n;
        if (component == DATA_UNET)
            data_unet_config_write(ctx, folder, &model->unet);
        else if (component == DATA_VAE)
            data_vae_config_write(ctx, folder, &model->vae);
        else
            data_text_config_write(ctx, folder, &model->text,
                                   dtype == DATA_BF16  ? "bfloat16"
                                   : dtype == DATA_F16 ? "float16"
                                                       : "float32");
    }
    ag_delete(list);
    ag_delete(path);
    return ag_status_of(ctx);
}

static bool has_tokenizer(ag_ctx *ctx, const char *folder)
{
    static const char *const files[] = {"tokenizer/vocab.json", "tokenizer/tokenizer.json"};
    bool yes = false;

    for (int i = 0; i < 2 && !yes; i++) {
        char *path = ag_printf(ctx, "%s/%s", folder, files[i]);
        yes = path && data_is_file(path);
        ag_delete(path);
    }
    return yes;
}

static ag_status write_tokenizer(const job *j, const char *folder)
{
    ag_ctx *ctx = j->ctx;
    const char *from = j->options->tokenizer ? j->options->tokenizer : j->input;
    data_tokenizer *tokenizer = NULL;
    char *to;

    if (!j->options->tokenizer && !has_tokenizer(ctx, j->input)) {
        note(j, "%s has no tokenizer, so %s has none: --tokenizer DIR puts one in", j->input,
             j->options->output);
        return AG_OK;
    }
    to = ag_printf(ctx, "%s/tokenizer", folder);
    if (to && data_tokenizer_open(&tokenizer, ctx, from) == AG_OK &&
        data_folder_make(ctx, to) == AG_OK)
        data_tokenizer_copy(tokenizer, ctx, to);
    data_tokenizer_close(tokenizer);
    ag_delete(to);
    return ag_status_of(ctx);
}

static ag_status write_pipeline(job *j, const char *folder)
{
    ag_ctx *ctx = j->ctx;
    bool is_whole = true;

    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
        const char *name = data_component_name((data_component)c);
        char *path = ag_printf(ctx, "%s/%s", folder, name);
        if (path && j->parts.model.has[c])
            write_component(j, path, (data_component)c);
        else
            note(j, "%s holds no %s", j->input, name);
        is_whole = is_whole && j->parts.model.has[c];
        ag_delete(path);
    }
    if (ag_status_of(ctx) == AG_OK &&
        (j->parts.model.has[DATA_TEXT_ENCODER] || j->options->tokenizer))
        write_tokenizer(j, folder);
    if (ag_status_of(ctx) == AG_OK && j->parts.has_schedule) {
        char *path = ag_printf(ctx, "%s/scheduler", folder);
        if (path && data_folder_make(ctx, path) == AG_OK)
            data_schedule_config_write(ctx, path, &j->parts.model.schedule);
        ag_delete(path);
    }
    if (ag_status_of(ctx) == AG_OK && is_whole)
        data_model_index_write(ctx, folder, &j->parts.model.schedule);
    return ag_status_of(ctx);
}

static int remove_one(const char *path, const struct stat *info, int kind,
                      struct FTW *place_in_tree)
{
    (void)info;
    (void)kind;
    (void)place_in_tree;
    return remove(path);
}

/* Flush the folder that holds path, so that the new name itself is on disk. */
static void flush_parent(ag_ctx *ctx, const char *path)
{
    char *parent = ag_printf(ctx, "%s/..", path);
    const int fd = parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        (void)fsync(fd); /* some file systems cannot; the rename has happened all the same */
        close(fd);
    }
    ag_delete(parent);
}

/* Write beside, then rename: the folder appears whole. */
static ag_status to_folder(job *j)
{
    ag_ctx *ctx = j->ctx;
    const char *output = j->options->output;
    int n = (int)strlen(output);
    char *beside;

    while (n > 1 && output[n - 1] == '/')
        n--;
    beside = ag_printf(ctx, "%.*s.tmp-%ld", n, output, (long)getpid());
    if (!beside || data_folder_make(ctx, beside) != AG_OK)
        goto out;
    if (!j->parts.is_component) {
        write_pipeline(j, beside);
    } else {
        for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++)
            if (j->parts.model.has[c])
                write_component(j, beside, (data_component)c);
    }
    if (ag_status_of(ctx) == AG_OK && rename(beside, output) != 0)
        ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", output, strerror(errno));
    if (ag_status_of(ctx) == AG_OK)
        flush_parent(ctx, output);
    else
        (void)nftw(beside, remove_one, 8, FTW_DEPTH | FTW_PHYS);
out:
    ag_delete(beside);
    return ag_status_of(ctx);
}

/* --- the whole -------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);

    return n >= m && strcasecmp(text + n - m, end) == 0;
}

static bool is_empty(const char *folder)
{
    DIR *stream = opendir(folder);
    const struct dirent *entry;
    bool yes = stream != NULL;

    while (yes && (entry = readdir(stream)))
        yes = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (stream)
        closedir(stream);
    return yes;
}

/* Can a file be made there? Found before the work, not after it. */
static ag_status check_parent(ag_ctx *ctx, const char *path)
{
    const char *slash = strrchr(path, '/');
    const int n = slash == path ? 1 : (int)(slash ? slash - path : 0);
    char *parent = slash ? ag_printf(ctx, "%.*s", n, path) : ag_strdup(ctx, ".");

    if (parent && access(parent, W_OK | X_OK) != 0)
        ag_fail(ctx, AG_EIO, "%s: cannot be written: %s: %s", path, parent, strerror(errno));
    ag_delete(parent);
    return ag_status_of(ctx);
}

static ag_status check_output(job *j)
{
    static const char *const torch[] = {".ckpt", ".bin", ".pt", ".pth"};
    const char *output = j->options->output;

    j->out->is_single = j->options->form == PIPE_FORM_SINGLE ||
                        (j->options->form == PIPE_FORM_AUTO && ends_with(output, ".safetensors"));
    for (int i = 0; i < 4; i++)
        if (j->options->form != PIPE_FORM_FOLDER && ends_with(output, torch[i]))
            return ag_fail(j->ctx, AG_EINVAL,
                           "%s: torch files are read, not written; name it .safetensors", output);
    if (data_is_file(output))
        return ag_fail(j->ctx, AG_EIO, "%s: is there already", output);
    if (data_is_folder(output) && j->out->is_single)
        return ag_fail(j->ctx, AG_EIO, "%s: is a folder, wanted the name of a file to write",
                       output);
    if (data_is_folder(output) && !is_empty(output))
        return ag_fail(j->ctx, AG_EIO, "%s: is there already, and not empty", output);
    return j->out->is_single ? check_parent(j->ctx, output) : AG_OK;
}

/* Is an open weight file a checkpoint in the original names? */
static ag_status ask_what(bool *out, ag_ctx *ctx, const data_weights *w)
{
    const int64_t n = data_weights_count(w);
    data_named_shape *list = ag_new(ctx, (size_t)n, sizeof *list, "list of tensors");

    for (int64_t i = 0; list && i < n; i++) {
        const data_tensor *t = data_weights_at(w, i);
        list[i] = (data_named_shape){.name = t->name, .n_dims = t->n_dims, .dims = t->dims};
    }
    if (list)
        *out = data_single_is(list, n);
    ag_delete(list);
    return ag_status_of(ctx);
}

static ag_status open_input(job *j)
{
    ag_ctx *ctx = j->ctx;
    const pipe_convert_options *o = j->options;

    if (data_resolve_model(&j->input, ctx, o->input, o->revision) != AG_OK)
        return ag_status_of(ctx);
    if (data_is_folder(j->input)) {
        if (o->use_ema)
            return ag_fail(ctx, AG_EINVAL,
                           "%s: a folder holds one copy of the U-Net; --ema is for single files",
                           j->input);
        return pipe_parts_from_folder(&j->parts, ctx, j->input, o->variant);
    }
    if (data_weights_open(&j->single, ctx, j->input) != AG_OK ||
        data_weights_check(ctx, j->single) != AG_OK ||
        ask_what(&j->is_checkpoint, ctx, j->single) != AG_OK)
        return ag_status_of(ctx);
    if (j->is_checkpoint)
        return pipe_parts_from_single(&j->parts, ctx, j->single, o->use_ema);
    if (!j->out->is_single || o->use_ema || o->edit)
        return ag_fail(ctx, AG_EDATA,
                       "%s: no checkpoint of a whole model, by the names of its tensors; it can "
                       "only be rewritten as a "
                       "file (--output NAME.safetensors)",
                       j->input);
    return AG_OK;
}

static ag_status settle_prediction(job *j)
{
    data_single *model = &j->parts.model;

    if (j->options->prediction != PIPE_PREDICTION_OF_MODEL) {
        model->schedule.prediction_type = j->options->prediction == PIPE_PREDICTION_V
                                              ? DATA_V_PREDICTION
                                              : DATA_EPSILON;
        j->parts.has_schedule = true;
    } else if (j->is_checkpoint && model->has[DATA_UNET] && !model->prediction_known) {
        note(j,
             "%s does not say what it predicts; v_prediction is assumed (--prediction_type says "
             "otherwise)",
             j->input);
    }
    return AG_OK;
}

ag_status pipe_convert(pipe_converted *out, ag_ctx *ctx, const pipe_convert_options *options)
{
    job j = {.ctx = ctx, .options = options, .out = out};

    *out = (pipe_converted){0};
    if (check_output(&j) == AG_OK && open_input(&j) == AG_OK && settle_prediction(&j) == AG_OK) {
        if (out->is_single)
            to_single(&j);
        else
            to_folder(&j);
    }
    pipe_parts_free(&j.parts);
    data_weights_close(j.single);
    ag_delete(j.input);
    return ag_status_of(ctx);
}
