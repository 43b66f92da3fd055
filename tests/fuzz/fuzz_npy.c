/* fuzz_npy.c - any bytes as an .npy file; what is accepted is read to its last element. */
#include <stdint.h>
#include <stdlib.h>

#include "data/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    data_npy npy = {0};

    if (data_npy_decode(&npy, ctx, bytes, n, "input") == AG_OK) {
        double sum = 0;

        for (int64_t i = 0; i < npy.n_items && i < 4096; i++) {
            const bool text = npy.kind == 'U' || npy.kind == 'S';

            if (data_npy_offset(&npy, i) < 0 ||
                data_npy_offset(&npy, i) > (npy.n_items - 1) * npy.item_size)
                abort();
            if (text)
                ag_delete(data_npy_text(ctx, &npy, i, "input"));
            else
                sum += data_npy_number(&npy, i);
            ag_clear(ctx);
        }
        (void)sum;
    } else if (npy.items || ag_status_of(ctx) == AG_OK) {
        abort();
    }
    data_npy_free(&npy);
    ag_ctx_free(ctx);
    return 0;
}
