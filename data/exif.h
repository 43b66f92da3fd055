/* exif.h - the one thing we want of EXIF: which way up a picture is.
 *
 * Values are those of tag 0x0112 (EXIF 2.32, 4.6.4 A): 1 as stored, 2 mirrored, 3 turned by 180
 * degrees, 4 flipped, 5 transposed, 6 to be turned right by 90 degrees, 7 transversed, 8 to be
 * turned left by 90 degrees.
 */
#ifndef DATA_EXIF_H
#define DATA_EXIF_H

#include "data/image.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Find the orientation in a block of EXIF data (a small TIFF file; a leading "Exif\0\0" is
 * skipped). Anything damaged or out of range gives 1: EXIF is a hint, never a reason to fail. */
int data_exif_orientation(const uint8_t *bytes, size_t n_bytes);

/* Bring img from orientation 1..8 to upright; w and h change places for 5..8. */
ag_status data_image_orient(data_image *img, ag_ctx *ctx, int orientation);

#ifdef __cplusplus
}
#endif

#endif /* DATA_EXIF_H */
