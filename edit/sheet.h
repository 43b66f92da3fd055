/* sheet.h - contact sheets: pictures in a grid. */
#ifndef EDIT_SHEET_H
#define EDIT_SHEET_H

#include "data/image.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Put n pictures of one size (one without pixels leaves its place empty) into a grid of `columns` columns
 * (0: as square as possible), row by row, `gap` pixels of white between and around them, each enlarged `zoom` times
 * (1: as it is). */
ag_status edit_sheet(data_image *out, ag_ctx *ctx, const data_image *images, int64_t n, int64_t columns, int64_t gap,
                     int64_t zoom);

#ifdef __cplusplus
}
#endif

#endif /* EDIT_SHEET_H */
