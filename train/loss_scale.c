/* loss_scale.c - see loss_scale.h. */
#include "train/loss_scale.h"

#include <math.h>

#include "autograd/ops.h"

static const double FIRST = 65536.0, GROWTH = 2.0, BACKOFF = 0.5, LEAST = 1.0;
enum { INTERVAL = 2000, SCALE = 0, GOOD, SKIPPED, N_NUMBERS };

ag_status train_loss_scale_new(train_loss_scale **out, ag_ctx *ctx)
{
    const double numbers[N_NUMBERS] = {[SCALE] = FIRST};
    train_loss_scale *s = ag_new(ctx, 1, sizeof *s, "loss scale");

    if (!s)
        return ag_status_of(ctx);
    s->scale = FIRST;
    s->now = ag_empty(ctx, AG_MODEL, AG_F64, 1, (int64_t[]){N_NUMBERS});
    if (!s->now || ag_write(ctx, s->now, numbers, sizeof numbers) != AG_OK) {
        train_loss_scale_free(s);
        return ag_status_of(ctx);
    }
    *out = s;
    return AG_OK;
}

void train_loss_scale_free(train_loss_scale *s)
{
    if (s)
        ag_release(s->now);
    ag_delete(s);
}

ag_tensor *train_loss_scale_factor(ag_ctx *ctx, const train_loss_scale *s)
{
    return ag_reshape(ctx, ag_cast(ctx, ag_slice(ctx, s->now, 0, SCALE, 1), AG_F32), 0, NULL);
}

ag_status train_loss_scale_step(ag_ctx *ctx, train_loss_scale *s, ag_tensor *norm)
{
    ag_loss_scale_(ctx, s->now, norm, GROWTH, BACKOFF, INTERVAL);
    return ag_status_of(ctx);
}

bool train_loss_scale_learn(train_loss_scale *s, bool is_finite)
{
    const bool is_used_up = !is_finite && s->scale <= LEAST;

    if (!is_finite) {
        s->scale *= BACKOFF;
        s->good = 0;
        s->skipped++;
    } else if (++s->good == INTERVAL) {
        s->scale = isfinite((float)(s->scale * GROWTH)) ? s->scale * GROWTH : s->scale;
        s->good = 0;
    }
    return !is_used_up;
}

ag_status train_loss_scale_read(ag_ctx *ctx, train_loss_scale *s)
{
    double numbers[N_NUMBERS] = {0};

    if (ag_read(ctx, s->now, numbers, sizeof numbers) != AG_OK)
        return ag_status_of(ctx);
    if (!(numbers[SCALE] > 0.0 && isfinite(numbers[SCALE]) && numbers[GOOD] >= 0.0 && numbers[GOOD] < INTERVAL &&
          numbers[SKIPPED] >= 0.0 && numbers[SKIPPED] < 9e15))
        return ag_fail(ctx, AG_EDATA, "loss_scale: %g, %g, %g: wanted a scale, a row of good updates under %d, skipped ones",
                       numbers[SCALE], numbers[GOOD], numbers[SKIPPED], INTERVAL);
    s->scale = numbers[SCALE];
    s->good = (int64_t)numbers[GOOD];
    s->skipped = (int64_t)numbers[SKIPPED];
    return AG_OK;
}
