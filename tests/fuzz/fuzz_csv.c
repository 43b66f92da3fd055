/* fuzz_csv.c - any bytes as a CSV file; what is accepted is read to its last cell. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    data_csv csv = {0};

    if (data_csv_decode(&csv, ctx, bytes, n, "input") == AG_OK) {
        size_t length = 0;

        for (int64_t i = 0; i < csv.n_rows * csv.n_cols; i++)
            length += strlen(csv.cells[i]);
        for (int64_t i = 1; i < csv.n_rows; i++) {
            if (csv.lines[i] <= csv.lines[i - 1])
                abort();
        }
        if (length > n || data_csv_column(&csv, csv.header[0]) != 0)
            abort();
    } else if (csv.text || ag_status_of(ctx) == AG_OK) {
        abort();
    }
    data_csv_free(&csv);
    ag_ctx_free(ctx);
    return 0;
}
