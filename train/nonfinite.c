/* nonfinite.c - see nonfinite.h. */
#include "train/nonfinite.h"

#include <math.h>
#include <stdio.h>

#include "autograd/grad.h"
#include "autograd/numbers.h"
#include "autograd/observe.h"
#include "nn/params.h"

enum { LOOK = 256 }; /* numbers at a time */

typedef struct search {
    bool found;
    char *text;
    size_t size;
} search;

static bool is_finite(ag_ctx *ctx, const ag_tensor *t)
{
    const ag_dtype dtype = ag_dtype_of(t);
    const char *data = ag_is_float(dtype) ? ag_look(ctx, t) : NULL;
    float v[LOOK];
    bool all = true;

    for (int64_t i = 0; data && all && i < ag_numel(t); i += LOOK) {
        const int64_t n = ag_numel(t) - i < LOOK ? ag_numel(t) - i : LOOK;
        ag_widen(v, dtype, data + (size_t)i * ag_dtype_size(dtype), n);
        for (int64_t k = 0; all && k < n; k++)
            all = isfinite(v[k]);
    }
    ag_look_away(t, data);
    return all;
}

/* The named input to tell of: the first that is itself not finite, else the first; NULL: none. */
static const ag_tensor *suspect(const ag_call *call)
{
    const ag_tensor *first = NULL;

    for (int i = 0; i < call->op->n_in; i++) {
        const ag_tensor *t = call->in[i];
        if (!t || !ag_name(t)[0])
            continue;
        if (!is_finite(call->ctx, t))
            return t;
        first = first ? first : t;
    }
    return first;
}

static void look(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    search *s = user;
    char shape[128];

    (void)cost;
    (void)seconds;
    for (int k = 0; k < call->n_out && !s->found; k++) {
        const ag_tensor *named;
        if (is_finite(call->ctx, call->out[k]))
            continue;
        named = suspect(call);
        nn_shape_text(ag_ndim(call->out[k]), ag_dims(call->out[k]), shape, sizeof shape);
        snprintf(s->text, s->size, "%s%s%s%s %s", call->op->name, named ? " with " : "",
                 named ? ag_name(named) : "", named && !is_finite(call->ctx, named) ? " (which is not finite itself)" : "",
                 shape);
        s->found = true;
    }
}

void train_find_nonfinite(ag_ctx *ctx, ag_tensor *(*fn)(ag_ctx *ctx, void *user), void *user, char *text,
                          size_t size)
{
    search s = {.text = text, .size = size};
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);

    snprintf(text, size, "the loss");
    ag_observe(ctx, look, &s);
    fn(ctx, user);
    ag_observe(ctx, NULL, NULL);
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
}
