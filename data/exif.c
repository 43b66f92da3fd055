/* exif.c - a reader of one tag, and the eight ways to turn a picture.
 *
 * EXIF is a TIFF file in small (TIFF 6.0, section 2): byte order mark, 42, the place of the first
 * directory; there a count and entries of 12 bytes: tag, type, count, value. Every place is
 * checked against the block before it is read, and only the first directory is looked at.
 */
#include "data/exif.h"

#include <string.h>

#include "data/image_internal.h"

enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, TYPE_LONG = 4 };

int data_exif_orientation(const uint8_t *bytes, size_t n_bytes)
{
    bool big;
    size_t at, n_entries;

    if (n_bytes >= 6 && !memcmp(bytes, "Exif\0\0", 6)) {
        bytes += 6;
        n_bytes -= 6;
    }
    if (n_bytes < 10 || (memcmp(bytes, "II*\0", 4) && memcmp(bytes, "MM\0*", 4)))
        return 1;
    big = bytes[0] == 'M';
    at = big ? image_be32(bytes + 4) : image_le32(bytes + 4);
    if (at > n_bytes - 2)
        return 1;
    n_entries = big ? image_be16(bytes + at) : image_le16(bytes + at);
    at += 2;
    for (size_t i = 0; i < n_entries && n_bytes - at >= 12; i++, at += 12) {
        const uint8_t *entry = bytes + at;
        const uint32_t tag = big ? image_be16(entry) : image_le16(entry);
        const uint32_t type = big ? image_be16(entry + 2) : image_le16(entry + 2);
        uint32_t value = 0;

        if (tag != TAG_ORIENTATION)
            continue;
        if (type == TYPE_SHORT)
            value = big ? image_be16(entry + 8) : image_le16(entry + 8);
        else if (type == TYPE_LONG)
            value = big ? image_be32(entry + 8) : image_le32(entry + 8);
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* The pixel (x, y) of the upright picture comes from (sx, sy) of the stored one:
 *   2 (w-1-x, y)   3 (w-1-x, h-1-y)   4 (x, h-1-y)       with w, h stored
 *   5 (y, x)       6 (y, h-1-x)       7 (w-1-y, h-1-x)   8 (w-1-y, x)
 * Each is a start and two steps through the stored pixels. */
ag_status data_image_orient(data_image *img, ag_ctx *ctx, int orientation)
{
    const int64_t w = img->w, h = img->h;
    const bool turned = orientation >= 5;
    const bool from_right =
        orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool from_below =
        orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    const int64_t along_w = from_right ? -1 : 1, along_h = from_below ? -w : w;
    const int64_t step_x = turned ? along_h : along_w, step_y = turned ? along_w : along_h;
    const int64_t start = (from_right ? w - 1 : 0) + (from_below ? (h - 1) * w : 0);
    data_image made = {0};
    ag_status status;

    if (orientation < 2 || orientation > 8)
        return AG_OK;
    status = data_image_new(&made, ctx, turned ? h : w, turned ? w : h);
    if (status != AG_OK)
        return status;
    for (int64_t y = 0; y < made.h; y++) {
        int64_t from = start + y * step_y;
        uint8_t *to = made.pixels + 3 * y * made.w;

        for (int64_t x = 0; x < made.w; x++, from += step_x, to += 3)
            memcpy(to, img->pixels + 3 * from, 3);
    }
    made.had_alpha = img->had_alpha;
    data_image_free(img);
    *img = made;
    return AG_OK;
}
