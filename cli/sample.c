/* sample.c - agewright sample: pictures from prompts. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/lora.h"
#include "data/text_file.h"
#include "edit/generate.h"
#include "edit/sheet.h"
#include "pipeline/words.h"
#include "train/precision.h"

typedef struct options {
    const char *model, *revision, *variant, *tokenizer_name, *negative_prompt, *output, *pictures;
    cli_texts prompts, loras, embeddings;
    int64_t num_images, height, width, seed, steps, batch, columns, zoom;
    double guidance;
    int sampler, precision, vae_precision;
    bool torch_rng, same_latents;
    cli_device device;
} options;

#define AT(field) offsetof(options, field)

static const char *const PRECISIONS[] = {"auto", "no", "bf16", "fp16", NULL};
static const char *const VAE_PRECISIONS[] = {"auto", "no", "bf16", NULL};

static const cli_flag FLAGS[] = {
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "MODEL", .required = true,
     .help = "a diffusers folder, a single-file checkpoint, or a hub id that lies in the local cache"},
    {.name = "prompt", .kind = CLI_TEXTS, .offset = AT(prompts), .value = "TEXT", .required = true,
     .help = "one or several; several make a grid"},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "FILE.png", .required = true,
     .help = "where the picture goes; of several, the grid"},
    {.name = "lora", .kind = CLI_TEXTS, .offset = AT(loras), .value = "FILE[:WEIGHT]", .help = CLI_LORA_HELP},
    {.name = "embedding", .kind = CLI_TEXTS, .offset = AT(embeddings), .value = "FILE",
     .help = "textual inversion: a file with the embedding of a new word for prompts (learned_embeds.safetensors)"},
    {.name = "pictures_dir", .kind = CLI_TEXT, .offset = AT(pictures), .value = "DIR",
     .help = "write every picture alone, too: DIR/00000.png and on, prompt by prompt"},
    {.name = "negative_prompt", .kind = CLI_TEXT, .offset = AT(negative_prompt), .value = "TEXT", .fallback = "",
     .help = "what to steer away from"},
    {.name = "num_images", .kind = CLI_INT, .offset = AT(num_images), .value = "N", .fallback = "1", .low = 1,
     .high = 1000, .help = "pictures of each prompt"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(seed), .value = "N", .fallback = "0", .low = 0, .high = 9e18,
     .help = "of the first latents"},
    {.name = "same_latents", .kind = CLI_SWITCH, .offset = AT(same_latents),
     .help = "begin every prompt from the same latents, to compare prompts"},
    {.name = "torch_rng", .kind = CLI_SWITCH, .offset = AT(torch_rng),
     .help = "draw latents as PyTorch's CPU generator does"},
    {.name = "num_inference_steps", .kind = CLI_INT, .offset = AT(steps), .value = "N", .fallback = "50", .low = 1,
     .high = 1000, .help = "denoising steps"},
    {.name = "guidance_scale", .kind = CLI_REAL, .offset = AT(guidance), .value = "G", .fallback = "7.5", .low = 0,
     .high = 1000, .help = "how strongly to follow the prompt; up to 1: no guidance"},
    {.name = "scheduler", .kind = CLI_CHOICE, .offset = AT(sampler), .choices = edit_sampler_names,
     .fallback = "ddim", .help = "the sampler"},
    {.name = "height", .kind = CLI_INT, .offset = AT(height), .value = "PX", .fallback = "0", .low = 0, .high = 8192,
     .help = "of a picture; 0: the model's own"},
    {.name = "width", .kind = CLI_INT, .offset = AT(width), .value = "PX", .fallback = "0", .low = 0, .high = 8192,
     .help = "of a picture; 0: the model's own"},
    {.name = "batch", .kind = CLI_INT, .offset = AT(batch), .value = "N", .fallback = "1", .low = 1, .high = 256,
     .help = "pictures computed at a time"},
    {.name = "columns", .kind = CLI_INT, .offset = AT(columns), .value = "N", .fallback = "0", .low = 0,
     .high = 1000, .help = "of the grid; 0: one row per prompt where there are several pictures of each, else square"},
    {.name = "zoom", .kind = CLI_INT, .offset = AT(zoom), .value = "N", .fallback = "1", .low = 1, .high = 16,
     .help = "enlarge the pictures of a grid"},
    {.name = "mixed_precision", .kind = CLI_CHOICE, .offset = AT(precision), .choices = PRECISIONS,
     .fallback = "auto", .help = "auto is bf16 on a GPU and where the CPU has AMX, else f32; fp16 is for --device cuda"},
    {.name = "vae_precision", .kind = CLI_CHOICE, .offset = AT(vae_precision), .choices = VAE_PRECISIONS,
     .fallback = "auto", .help = "of the decoder; auto: as --mixed_precision, but f32 (no) beside fp16"},
    {.name = "revision", .kind = CLI_TEXT, .offset = AT(revision), .value = "REV", .help = "of a hub id"},
    {.name = "variant", .kind = CLI_TEXT, .offset = AT(variant), .value = "NAME", .help = "of the weight files"},
    {.name = "tokenizer_name", .kind = CLI_TEXT, .offset = AT(tokenizer_name), .value = "DIR",
     .help = "another tokenizer's folder"},
    {0},
};

static const cli_group GROUPS[] = {
    {"what to make", FLAGS, 0}, {"the machine", cli_device_flags, offsetof(options, device)}, {0}};

static const cli_syntax SYNTAX = {
    .command = "sample",
    .usage = "--model MODEL --prompt TEXT [TEXT ...] --output FILE.png",
    .summary = "Make pictures from prompts with Stable Diffusion: DDIM with classifier-free guidance.",
    .groups = GROUPS,
};

static void show_step(void *user, int64_t step, int64_t n_steps, ag_tensor *x)
{
    (void)user;
    (void)x;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\rstep %lld/%lld ", (long long)step, (long long)n_steps);
    if (isatty(STDERR_FILENO) && step == n_steps)
        fprintf(stderr, "\r                        \r");
}

static ag_status write_pictures(ag_ctx *ctx, const char *folder, const data_image *images, int64_t n)
{
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        char *path = ag_printf(ctx, "%s/%05lld.png", folder, (long long)i);

        if (path)
            data_image_write_png(ctx, &images[i], path);
        ag_delete(path);
    }
    return ag_status_of(ctx);
}

static ag_status write_result(ag_ctx *ctx, const options *o, const data_image *images, int64_t n)
{
    const int64_t columns = o->columns ? o->columns : o->num_images > 1 && o->prompts.n > 1 ? o->num_images : 0;
    data_image sheet = {0};

    if (n == 1 && o->zoom == 1)
        return data_image_write_png(ctx, images, o->output);
    if (edit_sheet(&sheet, ctx, images, n, columns, 2, o->zoom) == AG_OK)
        data_image_write_png(ctx, &sheet, o->output);
    data_image_free(&sheet);
    return ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    pipe_source source = {.model = o->model, .revision = o->revision, .variant = o->variant,
                          .tokenizer_name = o->tokenizer_name};
    const int64_t n = o->prompts.n * o->num_images;
    const ag_dtype compute = train_compute_dtype(ctx, o->precision);
    const edit_generate_options generate = {.prompts = o->prompts.items, .n_prompts = o->prompts.n,
                                            .negative_prompt = o->negative_prompt, .per_prompt = o->num_images,
                                            .height = o->height, .width = o->width, .seed = (uint64_t)o->seed,
                                            .torch_rng = o->torch_rng, .same_latents = o->same_latents,
                                            .sampler = (edit_sampler_kind)o->sampler, .n_steps = o->steps,
                                            .guidance = o->guidance, .batch = o->batch,
                                            .compute = compute, .vae_compute = train_vae_dtype(ctx, o->vae_precision, compute),
                                            .on_step = show_step};
    pipe_model *model = NULL;
    data_image *images;

    (void)parsed;
    if (o->loras.n == 0 && compute != AG_F32) { /* adapters are merged into f32; what stays is rounded once for all */
        source.half_parts = PIPE_UNET | (generate.vae_compute == compute ? PIPE_VAE : 0);
        source.half_dtype = compute;
    }
    if (ag_status_of(ctx) != AG_OK || cli_check_output(ctx, o->output) != AG_OK ||
        (o->pictures && data_folder_make(ctx, o->pictures) != AG_OK) ||
        pipe_open(&model, ctx, &source, PIPE_ALL) != AG_OK)
        return ag_status_of(ctx);
    if (pipe_settle_schedule(&model->schedule))
        fprintf(stderr, "%s: the scheduler's steps_offset is taken as 1 and clip_sample as false\n", o->model);
    if (!model->prediction_known)
        fprintf(stderr, "%s does not say what its U-Net predicts; taken: %s\n", o->model,
                model->schedule.prediction_type == DATA_V_PREDICTION ? "v_prediction" : "epsilon");
    images = ag_new(ctx, (size_t)n, sizeof *images, "pictures");
    for (int64_t i = 0; i < o->embeddings.n && ag_status_of(ctx) == AG_OK; i++)
        pipe_words_load(ctx, model, o->embeddings.items[i]);
    if (images && ag_status_of(ctx) == AG_OK && cli_lora_merge(ctx, model, &o->loras) == AG_OK &&
        edit_generate(images, ctx, model, &generate) == AG_OK && write_result(ctx, o, images, n) == AG_OK &&
        o->pictures)
        write_pictures(ctx, o->pictures, images, n);
    for (int64_t i = 0; images && i < n; i++)
        data_image_free(&images[i]);
    ag_delete(images);
    pipe_close(model);
    return ag_status_of(ctx);
}

int cli_sample(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), offsetof(options, device), argc, argv, body);
}
