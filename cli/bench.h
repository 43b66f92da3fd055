/* bench.h - the two halves of `agewright bench`: measuring a row, and the report over many. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "autograd/context.h"

/* Read measurements (one JSON object a line: side, row, px, batch, threads, dtype, seconds, gb), put ours
 * and the peers' of equal row, px, batch and threads together, write them to the file `output` as a JSON
 * array and print a table in Markdown. Where there are peers, a picture (SVG) stands beside `output`, under its
 * name with .svg, and the table ends with a line that shows it. side "ours" is ours, any other is a peer's name; a row that
 * several peers ran gives one object a peer, a row that none ran one with null peer fields.
 * AG_EDATA for a line that is not such an object. */
ag_status bench_report(ag_ctx *ctx, const char *measurements, const char *output);

#endif /* CLI_BENCH_H */
