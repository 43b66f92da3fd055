/* fuzz_json_config.c - any bytes as a configuration file. The first byte chooses whose. What is
 * accepted is written, read again and written again to the same text. For libFuzzer (make fuzz). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/json.h"
#include "data/model_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static ag_ctx *ctx;

/* Parse the text as configuration `which` and give what is written of it; NULL when refused. */
static char *rewrite(int which, const char *text, size_t n)
{
    nn_unet_config unet;
    nn_vae_config vae;
    nn_clip_config clip;
    data_schedule_config schedule;

    switch (which) {
    case 0:
        return data_unet_config_parse(&unet, ctx, "input", text, n) == AG_OK
                   ? data_unet_config_text(ctx, &unet)
                   : NULL;
    case 1:
        return data_vae_config_parse(&vae, ctx, "input", text, n) == AG_OK
                   ? data_vae_config_text(ctx, &vae)
                   : NULL;
    case 2:
        return data_text_config_parse(&clip, ctx, "input", text, n) == AG_OK
                   ? data_text_config_text(ctx, &clip, "float32")
                   : NULL;
    default:
        return data_schedule_config_parse(&schedule, ctx, "input", text, n) == AG_OK
                   ? data_schedule_config_text(ctx, &schedule)
                   : NULL;
    }
}

/* Any JSON: what is written reads back to the same value. */
static void read_and_write(const char *text, size_t n)
{
    json_t *value = NULL, *again = NULL;
    char *written;

    if (data_json_parse(&value, ctx, "input", text, n) != AG_OK)
        return;
    written = data_json_dump(ctx, value, 2);
    if (!written || data_json_parse(&again, ctx, "written", written, strlen(written)) != AG_OK ||
        !json_equal(value, again))
        abort();
    ag_delete(written);
    json_decref(value);
    json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    char *text, *first, *second;
    int which;

    if (n == 0)
        return 0;
    ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    which = bytes[0] % 5;
    text = malloc(n); /* of exactly this size, so that a step beyond it is seen */
    memcpy(text, bytes + 1, n - 1);
    if (which == 4) {
        read_and_write(text, n - 1);
    } else if ((first = rewrite(which, text, n - 1))) {
        second = rewrite(which, first, strlen(first));
        if (!second || strcmp(first, second) != 0)
            abort();
        ag_delete(first);
        ag_delete(second);
    } else if (ag_status_of(ctx) == AG_OK || !ag_message(ctx)[0]) {
        abort();
    }
    free(text);
    ag_ctx_free(ctx);
    return 0;
}
