/* status.h - what a call says when it fails, and where the message is kept.
 *
 * Functions that can fail return ag_status; zero is success. The first failure writes one line
 * into the context (what was wanted, what came, where) and stays there until ag_clear(): later
 * failures do not overwrite it, because the first one knew best.
 *
 * Ops return a tensor, or NULL after a failure, and do nothing once the context has failed; the
 * caller asks once, at the end of a pass, with ag_status_of().
 */
#ifndef AG_STATUS_H
#define AG_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ag_ctx ag_ctx;

typedef enum ag_status {
    AG_OK = 0,
    AG_EINVAL,       /* a wrong argument, flag or configuration value */
    AG_ESHAPE,       /* shapes that do not fit together */
    AG_EDTYPE,       /* an element type the operation does not take */
    AG_ENOMEM,       /* host or device memory refused */
    AG_EIO,          /* a file that cannot be opened, read or written */
    AG_EDATA,        /* a file that was read and is not what it should be */
    AG_EDEVICE,      /* an accelerator, or its library, failed */
    AG_ENUMERIC,     /* a number that is not finite where it must be */
    AG_EUNSUPPORTED, /* valid, and not something this program does */
    AG_ESTOPPED      /* a signal asked for the end; what was asked to be saved is saved */
} ag_status;

/* Record `status` with a one-line message, unless a failure is already recorded.
 * Returns `status`, so that a caller can write `return ag_fail(...)`. */
ag_status ag_fail(ag_ctx *ctx, ag_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

ag_status ag_status_of(const ag_ctx *ctx);    /* AG_OK, or the first failure */
const char *ag_message(const ag_ctx *ctx);    /* its line; "" when there is none */
void ag_clear(ag_ctx *ctx);                   /* forget it */
const char *ag_status_name(ag_status status); /* "out of memory", ... */

#ifdef __cplusplus
}
#endif

#endif /* AG_STATUS_H */
