/* forecast.c - see forecast.h. */
#include "train/forecast.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "autograd/available.h"
#include "autograd/gpu.h"
#include "autograd/op.h"

const char *const train_phase_names[] = {[TRAIN_PHASE_TEXT] = "text",
                                         [TRAIN_PHASE_PICTURE] = "picture",
                                         [TRAIN_PHASE_MICRO] = "micro-step",
                                         [TRAIN_PHASE_UPDATE] = "update"};

const char *const train_stage_names[] = {[TRAIN_STAGE_TEXT] = "text",
                                         [TRAIN_STAGE_PICTURES] = "latents",
                                         [TRAIN_STAGE_TRAINING] = "training",
                                         [TRAIN_STAGE_SAVING] = "saving"};

static const double GIB = 1073741824.0;

/* --- time ------------------------------------------------------------------------------------- */

void train_forecast_times(const train_forecast *f, double times[TRAIN_WORK_PHASES])
{
    memset(times, 0, TRAIN_WORK_PHASES * sizeof *times);
    times[TRAIN_PHASE_TEXT] = 1.0;
    times[TRAIN_PHASE_PICTURE] = (double)f->n_encodings;
    times[TRAIN_PHASE_MICRO] = (double)f->n_micro;
    times[TRAIN_PHASE_UPDATE] = (double)f->n_updates;
}

ag_status train_forecast_measure(train_forecast *f, train_work *work, ag_ctx *ctx, double seconds)
{
    double times[TRAIN_WORK_PHASES];

    train_forecast_times(f, times);
    if (train_work_measure(work, ctx, times, seconds) != AG_OK)
        return ag_status_of(ctx);
    for (int p = 0; p < TRAIN_N_PHASES; p++)
        f->seconds[p] = train_work_seconds(work, p);
    return AG_OK;
}

double train_forecast_total(const train_forecast *f)
{
    double times[TRAIN_WORK_PHASES], total = 0.0;

    train_forecast_times(f, times);
    for (int p = 0; p < TRAIN_N_PHASES; p++)
        total += times[p] * f->seconds[p];
    return total;
}

/* --- what would fit --------------------------------------------------------------------------- */

/* Of the host. */
static size_t host_room(void)
{
    const size_t left = ag_available_bytes();
    FILE *file = fopen("/proc/self/statm", "r");
    long long pages = 0, resident = 0;

    if (file) {
        if (fscanf(file, "%lld %lld", &pages, &resident) != 2)
            resident = 0;
        fclose(file);
    }
    return left == SIZE_MAX ? left : left + (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

size_t train_room(const ag_ctx *ctx)
{
    const size_t room = ag_gpu_room(ctx);

    if (ag_ctx_device(ctx) != AG_CUDA)
        return host_room();
    return room ? room : SIZE_MAX;
}

size_t train_planned_room(const ag_ctx *ctx, size_t given)
{
    ag_gpus gpus;

    if (ag_ctx_target(ctx) != AG_CUDA)
        return host_room();
    if (!given) {
        ag_gpus_find(&gpus);
        given = gpus.n ? gpus.list[0].bytes : 0;
    }
    if (!given)
        return SIZE_MAX;
    return given > TRAIN_GPU_BASE_BYTES ? given - TRAIN_GPU_BASE_BYTES : 1;
}

/* One change towards less memory, the least harmful first. False when it changes nothing. The text
 * is what the user would type. */
typedef bool (*change)(train_options *o, ag_device device, char *text, size_t size);

static bool recompute(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = !o->gradient_checkpointing;

    (void)device;
    o->gradient_checkpointing = true;
    snprintf(text, size, "--gradient_checkpointing");
    return helps;
}

static bool offload(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = device == AG_CUDA && !o->offload_optimizer;

    o->offload_optimizer |= helps;
    snprintf(text, size, "--offload_optimizer");
    return helps;
}

static bool halves(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = device == AG_CUDA && o->mixed_precision == TRAIN_PRECISION_NO;

    if (helps)
        o->mixed_precision = TRAIN_PRECISION_BF16;
    snprintf(text, size, "--mixed_precision bf16");
    return helps;
}

static bool smaller_batch(train_options *o, ag_device device, char *text, size_t size)
{
    const int64_t batch = o->train_batch_size;

    (void)device;
    o->train_batch_size = 1;
    o->gradient_accumulation_steps *= batch;
    snprintf(text, size, "--train_batch_size 1 --gradient_accumulation_steps %lld",
             (long long)o->gradient_accumulation_steps);
    return batch > 1;
}

static bool no_average(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = o->ema_decay > 0.0;

    (void)device;
    o->ema_decay = 0.0;
    snprintf(text, size, "--ema_decay 0");
    return helps;
}

static bool moments_in_bytes(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = o->optimizer == OPT_ADAMW;

    (void)device;
    if (helps)
        o->optimizer = OPT_ADAMW8BIT;
    snprintf(text, size, "--optimizer adamw8bit");
    return helps;
}

static bool frozen_text(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = o->train_text_encoder;

    (void)device;
    o->train_text_encoder = false;
    snprintf(text, size, "--train_text_encoder=false");
    return helps;
}

static bool smaller_pictures(train_options *o, ag_device device, char *text, size_t size)
{
    const bool helps = o->resolution > 256 && o->resolution / 2 % 64 == 0;

    (void)device;
    if (helps)
        o->resolution /= 2;
    snprintf(text, size, "--resolution %lld", (long long)o->resolution);
    return helps;
}

static const change changes[] = {recompute,  offload,          smaller_batch, halves,
                                 no_average, moments_in_bytes, frozen_text,   smaller_pictures};
enum { N_CHANGES = sizeof changes / sizeof *changes };

ag_status train_forecast_advise(char *text, size_t size, size_t *peak, ag_ctx *ctx,
                                const train_options *options, int64_t n_pictures, size_t room,
                                train_foresee foresee)
{
    train_options o = *options;
    size_t used = 0;

    *peak = 0;
    text[0] = '\0';
    for (int i = 0; i < N_CHANGES && used < size; i++) {
        char flag[128];
        train_forecast f;

        if (!changes[i](&o, ag_ctx_target(ctx), flag, sizeof flag))
            continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? " " : "", flag);
        if (foresee(&f, ctx, &o, n_pictures, NULL) != AG_OK)
            return ag_status_of(ctx);
        if (f.peak <= room) {
            *peak = f.peak;
            return AG_OK;
        }
    }
    text[0] = '\0';
    return AG_OK;
}

/* "12.3 GiB", "480 MiB" */
static const char *text_of(char text[24], size_t bytes)
{
    if ((double)bytes < GIB)
        snprintf(text, 24, "%.0f MiB", (double)bytes / 1048576.0);
    else
        snprintf(text, 24, "%.1f GiB", (double)bytes / GIB);
    return text;
}

/* --- after the fact --------------------------------------------------------------------------- */

void train_forecast_explain(ag_ctx *ctx, const train_options *options, train_foresee foresee)
{
    char message[600], advice[256] = "", end[64] = "no flag makes it fit", size[4][24];
    const size_t touched = ag_bytes_touched(ctx) + ag_gpu_staging(ctx);
    train_forecast f;
    ag_ctx *meta;
    size_t room, peak = 0;
    bool foreseen = false;

    if (ag_status_of(ctx) != AG_ENOMEM)
        return;
    ag_trim(ctx);
    room = train_room(ctx);
    snprintf(message, sizeof message, "%s", ag_message(ctx));
    meta = ag_ctx_new(&(ag_ctx_options){
        .device = AG_META, .stands_for = ag_ctx_target(ctx), .n_threads = ag_ctx_threads(ctx)});
    if (meta && foresee(&f, meta, options, 1, NULL) == AG_OK) {
        foreseen = true;
        if (f.peak > room)
            train_forecast_advise(advice, sizeof advice, &peak, meta, options, 1, room, foresee);
        else
            snprintf(end, sizeof end, "which would fit now");
    }
    ag_ctx_free(meta);
    if (!foreseen)
        return;
    if (peak)
        snprintf(end, sizeof end, " takes %s", text_of(size[3], peak));
    ag_clear(ctx);
    ag_fail(
        ctx, AG_ENOMEM,
        "%s; forecast of this run%s: %s, in use at most: %s, there is room for %s; %s%s", message,
        f.device == AG_CUDA ? " on the GPU" : "", text_of(size[0], f.peak), text_of(size[1], touched),
        room == SIZE_MAX ? "an unknown size" : text_of(size[2], room), advice, end);
}
