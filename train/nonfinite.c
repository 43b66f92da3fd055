/* nonfinite.c - see nonfinite.h. */
#include "train/nonfinite.h"

#include <math.h>
#include <stdio.h>

#include "autograd/grad.h"
#include "autograd/observe.h"
#include "nn/params.h"

typedef struct search {
    bool found;
    char *text;
    size_t size;
} search;

static bool is_finite(const ag_tensor *t)
{
    const float *v = ag_data(t);

    if (!v || ag_dtype_of(t) != AG_F32)
        return true;
    for (int64_t i = 0; i < ag_numel(t); i++)
        if (!isfinite(v[i]))
            return false;
    return true;
}

static void look(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    search *s = user;
    char shape[128];

    (void)cost;
    (void)seconds;
    for (int k = 0; k < call->n_out && !s->found; k++) {
        const char *name = "";
        if (is_finite(call->out[k]))
            continue;
        for (int i = 0; i < call->op->n_in; i++)
            if (call->in[i] && ag_name(call->in[i])[0])
                name = ag_name(call->in[i]);
        nn_shape_text(ag_ndim(call->out[k]), ag_dims(call->out[k]), shape, sizeof shape);
        snprintf(s->text, s->size, "%s%s%s %s", call->op->name, name[0] ? " with " : "", name, shape);
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
