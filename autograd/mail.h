/* mail.h - values of tensors that the host gets later, so that it need not wait for the device now.
 *
 *     ag_mail_post(mail, 0, loss);      // queued; may be said several times, each for a place of its own
 *     ag_mail_send(mail);
 *     ... more work is queued ...
 *     values = ag_mail_open(mail);      // waits for what was queued before the sending, and for no more
 *
 * On other devices than AG_CUDA values are there at once.
 */
#ifndef AG_MAIL_H
#define AG_MAIL_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ag_mail ag_mail;

/* Room for so many bytes (in pinned memory on AG_CUDA). Must be freed before the context. */
ag_status ag_mail_new(ag_mail **out, ag_ctx *ctx, size_t bytes);
void ag_mail_free(ag_mail *mail); /* NULL is fine */

/* Queue a copy of t's values to byte `at`; AG_ESHAPE where they do not fit. Not before what was sent is opened. */
ag_status ag_mail_post(ag_mail *mail, size_t at, const ag_tensor *t);
ag_status ag_mail_send(ag_mail *mail);

/* Has what was sent arrived? */
bool ag_mail_is_here(const ag_mail *mail);
/* Wait for it. The values stay until the next post; NULL with the context failed, by what failed on the device before
 * the sending too. */
const void *ag_mail_open(ag_mail *mail);

#ifdef __cplusplus
}
#endif

#endif /* AG_MAIL_H */
