/* fuzz_image.c - any bytes as a picture: an error or pixels, never more. For libFuzzer (make fuzz).
 *
 * Pictures that say they are large are left alone, so that time goes into the readers and not into
 * clearing memory; their refusal is tested in test_image.c.
 */
#include <stdint.h>
#include <stdlib.h>

#include "data/image_internal.h"

enum { MAX_PIXELS = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const image_reader *const readers[] = {&image_reader_png,  &image_reader_jpeg,
                                                  &image_reader_webp, &image_reader_tiff,
                                                  &image_reader_bmp,  &image_reader_netpbm};
    const image_source src = {.bytes = bytes, .n = n, .name = "input"};
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    data_image img = {0};

    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        int64_t w = 0, h = 0;

        if (!readers[i]->knows(bytes, n))
            continue;
        if (readers[i]->size(&w, &h, ctx, &src) == AG_OK && w > 0 && h > 0 && w > MAX_PIXELS / h)
            goto out;
        break;
    }
    ag_clear(ctx);
    if (data_image_decode(&img, ctx, bytes, n, "input", 0) == AG_OK) {
        if (img.w < 1 || img.h < 1 || ag_status_of(ctx) != AG_OK)
            abort();
        for (int64_t i = 0, sum = 0; i < img.w * img.h * 3; i++) { /* every byte is there */
            sum += img.pixels[i];
            if (sum < 0)
                abort();
        }
    } else if (img.pixels || ag_status_of(ctx) == AG_OK || !ag_message(ctx)[0]) {
        abort();
    }
    data_image_free(&img);
    ag_clear(ctx);
    if (data_image_decode(&img, ctx, bytes, n, "input", DATA_ALPHA) != AG_OK && img.pixels)
        abort();
out:
    data_image_free(&img);
    ag_ctx_free(ctx);
    return 0;
}
