/* context.c - the part of a context that readers of files use, for the fuzz targets: errors and host
 * memory. No device, no heap of address space, so that a run of millions stays fast.
 */
#include "autograd/context.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ag_ctx {
    ag_status status;
    char message[1024];
};

ag_ctx *ag_ctx_new(const ag_ctx_options *options)
{
    (void)options;
    return calloc(1, sizeof(ag_ctx));
}

void ag_ctx_free(ag_ctx *ctx)
{
    free(ctx);
}

ag_status ag_fail(ag_ctx *ctx, ag_status status, const char *format, ...)
{
    va_list args;

    if (ctx->status != AG_OK)
        return status;
    ctx->status = status;
    va_start(args, format);
    vsnprintf(ctx->message, sizeof ctx->message, format, args);
    va_end(args);
    return status;
}

ag_status ag_status_of(const ag_ctx *ctx)
{
    return ctx->status;
}

const char *ag_message(const ag_ctx *ctx)
{
    return ctx->message;
}

void ag_clear(ag_ctx *ctx)
{
    ctx->status = AG_OK;
    ctx->message[0] = '\0';
}

int ag_ctx_threads(const ag_ctx *ctx)
{
    (void)ctx;
    return 1;
}

void *ag_grow(ag_ctx *ctx, void *old, size_t count, size_t size, const char *what)
{
    size_t bytes;
    void *memory = NULL;

    if (!__builtin_mul_overflow(count, size, &bytes))
        memory = realloc(old, bytes ? bytes : 1);
    if (!memory)
        ag_fail(ctx, AG_ENOMEM, "%s: no memory", what);
    return memory;
}

void *ag_new(ag_ctx *ctx, size_t count, size_t size, const char *what)
{
    void *memory = ag_grow(ctx, NULL, count, size, what);

    if (memory)
        memset(memory, 0, count * size);
    return memory;
}

char *ag_strdup(ag_ctx *ctx, const char *text)
{
    char *copy = ag_new(ctx, strlen(text) + 1, 1, "text");

    return copy ? strcpy(copy, text) : NULL;
}

char *ag_printf(ag_ctx *ctx, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        ag_fail(ctx, AG_ENOMEM, "no memory for text");
        return NULL;
    }
    return text;
}

void ag_delete(void *memory)
{
    free(memory);
}
