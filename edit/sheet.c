/* sheet.c - see sheet.h. */
#include "edit/sheet.h"

#include <string.h>

/* Copy an enlarged picture so that its corner is at (left, top). */
static void place(data_image *out, const data_image *img, int64_t left, int64_t top, int64_t zoom)
{
    for (int64_t y = 0; y < img->h * zoom; y++) {
        uint8_t *to = out->pixels + ((top + y) * out->w + left) * 3;
        const uint8_t *from = img->pixels + y / zoom * img->w * 3;
        for (int64_t x = 0; x < img->w * zoom; x++)
            memcpy(to + x * 3, from + x / zoom * 3, 3);
    }
}

ag_status edit_sheet(data_image *out, ag_ctx *ctx, const data_image *images, int64_t n, int64_t columns, int64_t gap,
                     int64_t zoom)
{
    const data_image *first = NULL;
    int64_t rows, cell_w, cell_h;

    for (int64_t i = 0; i < n; i++)
        if (!first && images[i].pixels)
            first = &images[i];
    if (!first || zoom < 1 || gap < 0)
        return ag_fail(ctx, AG_EINVAL, "a sheet of %lld pictures, enlarged %lld times", (long long)n, (long long)zoom);
    if (columns <= 0)
        for (columns = 1; columns * columns < n; columns++)
            ;
    columns = columns < n ? columns : n;
    rows = (n + columns - 1) / columns;
    for (int64_t i = 0; i < n; i++)
        if (images[i].pixels && (images[i].w != first->w || images[i].h != first->h))
            return ag_fail(ctx, AG_ESHAPE, "a sheet of pictures of different sizes: %lld x %lld and %lld x %lld",
                           (long long)first->w, (long long)first->h, (long long)images[i].w, (long long)images[i].h);
    cell_w = first->w * zoom + gap;
    cell_h = first->h * zoom + gap;
    if (data_image_new(out, ctx, columns * cell_w + gap, rows * cell_h + gap) != AG_OK)
        return ag_status_of(ctx);
    memset(out->pixels, 255, (size_t)(out->w * out->h * 3));
    for (int64_t i = 0; i < n; i++)
        if (images[i].pixels)
            place(out, &images[i], gap + i % columns * cell_w, gap + i / columns * cell_h, zoom);
    return AG_OK;
}
