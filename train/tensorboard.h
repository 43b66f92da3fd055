/* tensorboard.h - TensorBoard event files: scalars and pictures over updates.
 *
 * A file is a sequence of records (length, its sum, bytes, their sum; sums are CRC-32C, masked)
 * whose bytes are Event messages in protocol-buffer form:
 *   Event          1 wall_time double, 2 step int64, 3 file_version text, 5 summary, 7 session_log
 *   Summary        1 value, repeated;  Value 1 tag, 2 simple_value float, 4 image
 *   Image          1 height, 2 width, 3 colour channels, 4 the PNG file's bytes
 *   SessionLog     1 status; START (1) says that events from this step on are made again
 * Sources  tensorflow/tensorflow: tensorflow/core/lib/io/record_writer.cc (records, mask),
 *          core/util/event.proto, core/framework/summary.proto.
 *
 * One record is one write, so a killed run leaves at most a last record cut short, which readers
 * pass over. Adding a scalar takes no memory.
 */
#ifndef TRAIN_TENSORBOARD_H
#define TRAIN_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_events train_events;

enum { TRAIN_TAG_MAX = 256 }; /* bytes of a tag */

/* Begin a new file in `folder`, which is made. first > 0: updates made before, of which the viewer
 * forgets those after `first`. AG_EIO naming the file. */
ag_status train_events_open(train_events **out, ag_ctx *ctx, const char *folder, int64_t first);
void train_events_close(train_events *events); /* NULL is fine */
const char *train_events_path(const train_events *events);

ag_status train_events_scalar(ag_ctx *ctx, train_events *events, const char *tag, int64_t step,
                              double value);
/* png: a whole PNG file of `size` bytes, of an RGB picture. */
ag_status train_events_picture(ag_ctx *ctx, train_events *events, const char *tag, int64_t step,
                               int64_t width, int64_t height, const void *png, size_t size);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_TENSORBOARD_H */
