/* staging.c - values between host and device without either waiting for the other.
 *
 * To the device: the host copies values into pinned memory, a stream of its own brings them to a landing place of
 * the same size on the device, an event lets the main stream know, and the main stream moves them to their
 * place. So they travel while earlier work computes, and the place itself is written in the main stream's order: who
 * takes memory that was given back need not care. Both memories are rings of pieces; a piece is used again when the
 * main stream has emptied it, and only then may the host have to wait: when it is a whole ring ahead.
 *
 * To the host: mail, a copy into pinned memory in the main stream's order and an event behind it.
 */
#include <stdlib.h>
#include <string.h>

#include "autograd/cuda/internal.h"

enum { N_PIECES = 16, UNIT = 256 };
static const size_t PIECE_BYTES = AG_GPU_STAGING_BYTES / N_PIECES;

typedef struct piece {
    char *here, *there;  /* pinned; on the device. NULL before the first use */
    cudaEvent_t emptied; /* by the main stream */
    bool is_used;
} piece;

struct cuda_staging {
    cudaStream_t stream; /* what brings values to the device */
    cudaEvent_t landed;
    piece pieces[N_PIECES];
    int now;     /* the piece that is filled */
    size_t used; /* bytes of it */
};

static bool ok(ag_cuda *cuda, const char *what, cudaError_t error)
{
    if (error != cudaSuccess)
        cuda_failed(cuda, what, error);
    return error == cudaSuccess;
}

/* --- to the device ---------------------------------------------------------------------------- */

bool cuda_staging_open(ag_cuda *cuda)
{
    struct cuda_staging *s = calloc(1, sizeof *s);

    if (!s) {
        ag_fail(cuda->ctx, AG_ENOMEM, "no memory for copies to the device");
        return false;
    }
    cuda->staging = s;
    return ok(cuda, "a stream", cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking)) &&
           ok(cuda, "an event", cudaEventCreateWithFlags(&s->landed, cudaEventDisableTiming));
}

void cuda_staging_close(ag_cuda *cuda)
{
    struct cuda_staging *s = cuda->staging;

    if (!s)
        return;
    if (s->stream) {
        cudaStreamSynchronize(s->stream);
        cudaStreamDestroy(s->stream);
    }
    if (s->landed)
        cudaEventDestroy(s->landed);
    for (int i = 0; i < N_PIECES; i++) {
        if (s->pieces[i].emptied)
            cudaEventDestroy(s->pieces[i].emptied);
        cudaFreeHost(s->pieces[i].here);
        cudaFree(s->pieces[i].there);
    }
    free(s);
}

size_t cuda_staged(const ag_cuda *cuda)
{
    size_t bytes = 0;

    for (int i = 0; i < N_PIECES; i++)
        bytes += cuda->staging->pieces[i].there ? PIECE_BYTES : 0;
    return bytes;
}

static bool make_piece(ag_cuda *cuda, piece *p)
{
    return ok(cuda, "an event", cudaEventCreateWithFlags(&p->emptied, cudaEventDisableTiming)) &&
           ok(cuda, "pinned memory", cudaHostAlloc((void **)&p->here, PIECE_BYTES, cudaHostAllocDefault)) &&
           ok(cuda, "memory", cudaMalloc((void **)&p->there, PIECE_BYTES));
}

/* Begin the next piece, when the main stream has emptied it. */
static bool next_piece(ag_cuda *cuda)
{
    struct cuda_staging *s = cuda->staging;
    piece *p = &s->pieces[s->now];
    cudaError_t error = cudaEventRecord(p->emptied, cuda->stream);

    p->is_used = true;
    s->now = (s->now + 1) % N_PIECES;
    s->used = 0;
    p = &s->pieces[s->now];
    if (error == cudaSuccess && p->is_used) {
        error = cudaEventQuery(p->emptied);
        if (error == cudaErrorNotReady) {
            (void)cudaGetLastError(); /* an answer, no failure */
            error = cudaEventSynchronize(p->emptied);
        }
    }
    return ok(cuda, "waiting for copies", error);
}

/* Room for `bytes` in a piece; the bytes there are. */
static size_t make_room(ag_cuda *cuda, size_t bytes)
{
    struct cuda_staging *s = cuda->staging;

    if (PIECE_BYTES - s->used < (bytes < PIECE_BYTES ? bytes : PIECE_BYTES) && !next_piece(cuda))
        return 0;
    if (!s->pieces[s->now].there && !make_piece(cuda, &s->pieces[s->now]))
        return 0;
    return bytes < PIECE_BYTES - s->used ? bytes : PIECE_BYTES - s->used;
}

ag_status cuda_write(ag_cuda *cuda, void *to, const void *from, size_t bytes)
{
    struct cuda_staging *s = cuda->staging;

    for (size_t at = 0; at < bytes;) {
        const size_t n = make_room(cuda, bytes - at);
        const piece *p = &s->pieces[s->now];
        if (n == 0)
            return ag_status_of(cuda->ctx);
        memcpy(p->here + s->used, (const char *)from + at, n);
        if (!ok(cuda, "a copy to the device",
                cudaMemcpyAsync(p->there + s->used, p->here + s->used, n, cudaMemcpyHostToDevice, s->stream)) ||
            !ok(cuda, "a copy to the device", cudaEventRecord(s->landed, s->stream)) ||
            !ok(cuda, "a copy to the device", cudaStreamWaitEvent(cuda->stream, s->landed, 0)) ||
            cuda_copy_bytes(cuda, (char *)to + at, p->there + s->used, n) != AG_OK)
            return ag_status_of(cuda->ctx);
        s->used += (n + UNIT - 1) / UNIT * UNIT;
        at += n;
    }
    return AG_OK;
}

ag_status cuda_copy_bytes(ag_cuda *cuda, void *to, const void *from, size_t bytes)
{
    return ok(cuda, "a copy on the device",
              cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream))
               ? AG_OK
               : ag_status_of(cuda->ctx);
}

/* --- to the host ------------------------------------------------------------------------------ */

struct ag_cuda_mail {
    ag_cuda *cuda;
    char *here;            /* pinned */
    cuda_trouble *trouble; /* pinned: what kernels complained of before the sending */
    cudaEvent_t sent;
};

ag_cuda_mail *cuda_mail_new(ag_cuda *cuda, size_t bytes)
{
    ag_cuda_mail *mail = calloc(1, sizeof *mail);

    if (!mail) {
        ag_fail(cuda->ctx, AG_ENOMEM, "no memory for values from the device");
        return NULL;
    }
    mail->cuda = cuda;
    if (ok(cuda, "pinned memory", cudaHostAlloc((void **)&mail->here, bytes ? bytes : 1, cudaHostAllocDefault)) &&
        ok(cuda, "pinned memory",
           cudaHostAlloc((void **)&mail->trouble, sizeof *mail->trouble, cudaHostAllocDefault)) &&
        ok(cuda, "an event", cudaEventCreateWithFlags(&mail->sent, cudaEventDisableTiming)))
        return mail;
    cuda_mail_free(mail);
    return NULL;
}

void cuda_mail_free(ag_cuda_mail *mail)
{
    if (!mail)
        return;
    if (mail->sent) {
        cudaEventSynchronize(mail->sent);
        cudaEventDestroy(mail->sent);
    }
    cudaFreeHost(mail->here);
    cudaFreeHost(mail->trouble);
    (void)cudaGetLastError(); /* nobody is left to tell */
    free(mail);
}

ag_status cuda_mail_post(ag_cuda_mail *mail, size_t at, const void *from, size_t bytes)
{
    if (bytes)
        ok(mail->cuda, "a copy from the device",
           cudaMemcpyAsync(mail->here + at, from, bytes, cudaMemcpyDeviceToHost, mail->cuda->stream));
    return ag_status_of(mail->cuda->ctx);
}

ag_status cuda_mail_send(ag_cuda_mail *mail)
{
    ag_cuda *cuda = mail->cuda;

    if (ok(cuda, "a copy from the device", cudaMemcpyAsync(mail->trouble, cuda->trouble, sizeof *mail->trouble,
                                                           cudaMemcpyDeviceToHost, cuda->stream)))
        ok(cuda, "a copy from the device", cudaEventRecord(mail->sent, cuda->stream));
    return ag_status_of(cuda->ctx);
}

bool cuda_mail_is_here(ag_cuda_mail *mail)
{
    const bool is_here = cudaEventQuery(mail->sent) != cudaErrorNotReady;

    (void)cudaGetLastError(); /* a failure is told when it is opened */
    return is_here;
}

const void *cuda_mail_open(ag_cuda_mail *mail)
{
    const cudaError_t error = cudaEventSynchronize(mail->sent);

    return cuda_check_done(mail->cuda, error, mail->trouble) == AG_OK ? mail->here : NULL;
}
