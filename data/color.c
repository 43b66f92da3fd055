/* color.c - see color.h. The arithmetic is in single precision where Pillow's is.
 *
 * Source  pytorch/vision: torchvision/transforms/_functional_pil.py, transforms.py (ColorJitter);
 *         python-pillow/Pillow: src/libImaging/Blend.c, Convert.c, by behaviour
 *         (scripts/golden_images.py).
 */
#include "data/color.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint8_t data_grey_of(const uint8_t rgb[3])
{
    return (uint8_t)((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16);
}

/* --- blending --------------------------------------------------------------------------------- */

static uint8_t blend(int lack, int full, float factor)
{
    const float v = (float)lack + factor * (float)(full - lack);

    return (uint8_t)(v <= 0.0f ? 0.0f : v >= 255.0f ? 255.0f : v);
}

static void blend_all(data_image *img, int lack, double factor)
{
    uint8_t table[256];

    for (int v = 0; v < 256; v++)
        table[v] = blend(lack, v, (float)factor);
    for (int64_t i = 0; i < img->w * img->h * 3; i++)
        img->pixels[i] = table[img->pixels[i]];
}

void data_image_brightness(data_image *img, double factor)
{
    blend_all(img, 0, factor);
}

void data_image_contrast(data_image *img, double factor)
{
    const int64_t n = img->w * img->h;
    int64_t sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += data_grey_of(img->pixels + 3 * i);
    blend_all(img, (int)((double)sum / (double)n + 0.5), factor);
}

void data_image_saturation(data_image *img, double factor)
{
    for (int64_t i = 0; i < img->w * img->h; i++) {
        uint8_t *p = img->pixels + 3 * i;
        const int grey = data_grey_of(p);

        for (int c = 0; c < 3; c++)
            p[c] = blend(grey, p[c], (float)factor);
    }
}

/* --- hue -------------------------------------------------------------------------------------- */

/* Hue, saturation and value, each of 0..255. */
static void to_hsv(uint8_t hsv[3], const uint8_t rgb[3])
{
    const int r = rgb[0], g = rgb[1], b = rgb[2];
    const int most = r > g ? (r > b ? r : b) : (g > b ? g : b);
    const int least = r < g ? (r < b ? r : b) : (g < b ? g : b);
    const float span = (float)(most - least);
    float h, red, green, blue;

    hsv[0] = hsv[1] = 0;
    hsv[2] = (uint8_t)most;
    if (most == least)
        return;
    red = (float)(most - r) / span;
    green = (float)(most - g) / span;
    blue = (float)(most - b) / span;
    if (r == most)
        h = blue - green;
    else if (g == most)
        h = (float)(2.0 + (double)red - (double)blue);
    else
        h = (float)(4.0 + (double)green - (double)red);
    h = (float)fmod((double)h / 6.0 + 1.0, 1.0);
    hsv[0] = (uint8_t)(int)((double)h * 255.0);
    hsv[1] = (uint8_t)(int)((double)(span / (float)most) * 255.0);
}

static uint8_t rounded(double v)
{
    const int i = (int)round(v);

    return (uint8_t)(i < 0 ? 0 : i > 255 ? 255 : i);
}

static void to_rgb(uint8_t rgb[3], const uint8_t hsv[3])
{
    const double v = hsv[2];
    const int sector = (int)floor((double)hsv[0] * 6.0 / 255.0); /* 0..6 */
    const float f = (float)((double)hsv[0] * 6.0 / 255.0 - (double)(float)sector);
    const float s = (float)((double)hsv[1] / 255.0);
    const uint8_t p = rounded(v * (1.0 - (double)s));
    const uint8_t q = rounded(v * (1.0 - (double)(s * f)));
    const uint8_t t = rounded(v * (1.0 - (double)s * (1.0 - (double)f)));
    const uint8_t full = hsv[2];
    const uint8_t sectors[6][3] = {{full, t, p}, {q, full, p}, {p, full, t},
                                   {p, q, full}, {t, p, full}, {full, p, q}};

    memcpy(rgb, sectors[sector % 6], 3);
}

void data_image_hue(data_image *img, double turn)
{
    const uint8_t shift = (uint8_t)(int)(turn * 255.0); /* around the circle, also backwards */

    for (int64_t i = 0; i < img->w * img->h; i++) {
        uint8_t hsv[3];

        to_hsv(hsv, img->pixels + 3 * i);
        hsv[0] = (uint8_t)(hsv[0] + shift);
        to_rgb(img->pixels + 3 * i, hsv);
    }
}

/* --- drawn ------------------------------------------------------------------------------------ */

ag_status data_jitter_parse(data_jitter *jitter, ag_ctx *ctx, const char *text)
{
    double values[4] = {0};
    const char *at = text;
    char *end;
    int n = 0;

    while (at && *at && n < 4) {
        values[n] = strtod(at, &end);
        if (end == at || !(values[n] >= 0.0 && values[n] <= 100.0) || (*end && *end != ','))
            break;
        n++;
        at = *end ? end + 1 : end;
    }
    if (at && (*at || (n > 0 && at[-1] == ',')))
        return ag_fail(ctx, AG_EINVAL,
                       "colour jitter \"%s\": wanted one to four numbers from 0 on with commas between, for "
                       "brightness, contrast, saturation and hue",
                       text);
    if (values[3] > 0.5)
        return ag_fail(ctx, AG_EINVAL, "colour jitter \"%s\": hue turns by 0.5 of the circle at most", text);
    *jitter = (data_jitter){values[0], values[1], values[2], values[3]};
    return AG_OK;
}

bool data_jitter_changes(const data_jitter *j)
{
    return j->brightness > 0.0 || j->contrast > 0.0 || j->saturation > 0.0 || j->hue > 0.0;
}

/* Four blocks of the draw belong to a copy: the order from the first, factors from the last two. */
void data_image_jitter(data_image *img, const data_jitter *jitter, const ag_draw *draw, int64_t copy)
{
    const uint64_t integers = 16 * (uint64_t)copy, uniforms = 8 * (uint64_t)copy + 4;
    static void (*const changes[4])(data_image *, double) = {data_image_brightness, data_image_contrast,
                                                             data_image_saturation, data_image_hue};
    const double reach[4] = {jitter->brightness, jitter->contrast, jitter->saturation, jitter->hue};
    int order[4] = {0, 1, 2, 3};

    for (int i = 3; i > 0; i--) {
        const int j = (int)ag_draw_integer(draw, integers + (uint64_t)i, i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (int i = 0; i < 4; i++) {
        const int k = order[i];
        const double low = k == 3 ? -reach[k] : reach[k] < 1.0 ? 1.0 - reach[k] : 0.0;
        const double high = k == 3 ? reach[k] : 1.0 + reach[k];

        if (reach[k] > 0.0)
            changes[k](img, low + (high - low) * ag_draw_uniform(draw, uniforms + (uint64_t)k));
    }
}
