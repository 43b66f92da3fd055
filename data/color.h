/* color.h - changes of a picture's colours: how bright, how contrasted, how saturated, which hue.
 *
 * The bytes are those of torchvision's ColorJitter on a Pillow picture
 * (scripts/golden_images.py). Each of the first three blends the picture with one that lacks the
 * property:
 *   out = (1 - f) lack + f picture, cut to a byte
 *   brightness  lacking: black
 *   contrast    lacking: the mean grey of the picture everywhere
 *   saturation  lacking: the picture in grey
 * Hue turns the colours by a part of the circle. Grey is Pillow's: (19595 R + 38470 G + 7471 B) / 65536.
 */
#ifndef DATA_COLOR_H
#define DATA_COLOR_H

#include "autograd/random.h"
#include "data/image.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All in place. factor >= 0, 1 changes nothing; turn -0.5..0.5, 0 changes nothing. */
void data_image_brightness(data_image *img, double factor);
void data_image_contrast(data_image *img, double factor);
void data_image_saturation(data_image *img, double factor);
void data_image_hue(data_image *img, double turn);

/* A byte's grey value, as above. */
uint8_t data_grey_of(const uint8_t rgb[3]);

/* How far each may go: factors are drawn from [max(0, 1 - x), 1 + x], the turn from [-hue, hue];
 * 0 leaves a property alone. */
typedef struct data_jitter {
    double brightness, contrast, saturation, hue;
} data_jitter;

/* "0.1,0.1,0.05,0.02": one to four numbers, what is not said is 0; NULL or "": none at all. AG_EINVAL
 * for anything else, for a negative number and for a hue above 0.5. */
ag_status data_jitter_parse(data_jitter *jitter, ag_ctx *ctx, const char *text);
bool data_jitter_changes(const data_jitter *jitter);

/* Draw the order of the four changes and their factors, and make them: the copy-th such draw. */
void data_image_jitter(data_image *img, const data_jitter *jitter, const ag_draw *draw, int64_t copy);

#ifdef __cplusplus
}
#endif

#endif /* DATA_COLOR_H */
