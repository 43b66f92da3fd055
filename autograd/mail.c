/* mail.c - see mail.h. */
#include "autograd/mail.h"

#include <string.h>

#include "autograd/internal.h"

struct ag_mail {
    ag_ctx *ctx;
    size_t bytes;
    char *values;       /* on other devices */
    ag_cuda_mail *cuda; /* on AG_CUDA */
};

ag_status ag_mail_new(ag_mail **out, ag_ctx *ctx, size_t bytes)
{
    ag_mail *mail = ag_new(ctx, 1, sizeof *mail, "values from the device");

    if (!mail)
        return ag_status_of(ctx);
    mail->ctx = ctx;
    mail->bytes = bytes;
    if (ctx->cuda)
        mail->cuda = ctx->cuda_api->mail_new(ctx->cuda, bytes);
    else
        mail->values = ag_new(ctx, bytes, 1, "values from the device");
    if (ctx->status != AG_OK) {
        ag_mail_free(mail);
        return ctx->status;
    }
    *out = mail;
    return AG_OK;
}

void ag_mail_free(ag_mail *mail)
{
    if (!mail)
        return;
    if (mail->cuda)
        mail->ctx->cuda_api->mail_free(mail->cuda);
    ag_delete(mail->values);
    ag_delete(mail);
}

ag_status ag_mail_post(ag_mail *mail, size_t at, const ag_tensor *t)
{
    ag_ctx *ctx = mail->ctx;

    if (ag_bundle_run(ctx) != AG_OK || ag_check_recorded(ctx, "sends values to the host") != AG_OK)
        return ctx->status;
    if (!t || at > mail->bytes || ag_nbytes(t) > mail->bytes - at)
        return ag_fail(ctx, AG_ESHAPE, "%zu bytes for the host at %zu: there is room for %zu", t ? ag_nbytes(t) : 0, at,
                       mail->bytes);
    if (mail->cuda)
        return ctx->cuda_api->mail_post(mail->cuda, at, ag_data(t), ag_nbytes(t));
    return ag_read(ctx, t, mail->values + at, ag_nbytes(t));
}

ag_status ag_mail_send(ag_mail *mail)
{
    if (mail->ctx->status == AG_OK && mail->cuda)
        return mail->ctx->cuda_api->mail_send(mail->cuda);
    return mail->ctx->status;
}

bool ag_mail_is_here(const ag_mail *mail)
{
    return !mail->cuda || mail->ctx->cuda_api->mail_is_here(mail->cuda);
}

const void *ag_mail_open(ag_mail *mail)
{
    if (mail->ctx->status != AG_OK)
        return NULL;
    return mail->cuda ? mail->ctx->cuda_api->mail_open(mail->cuda) : mail->values;
}
