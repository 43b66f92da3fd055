/* schedule.c - see schedule.h. */
#include "optim/schedule.h"

#include <math.h>
#include <stdlib.h>

static const double PI = 3.14159265358979323846, POLYNOMIAL_END = 1e-7;

const char *const opt_schedule_names[] = {
    [OPT_CONSTANT] = "constant",
    [OPT_CONSTANT_WITH_WARMUP] = "constant_with_warmup",
    [OPT_LINEAR] = "linear",
    [OPT_COSINE] = "cosine",
    [OPT_COSINE_WITH_RESTARTS] = "cosine_with_restarts",
    [OPT_POLYNOMIAL] = "polynomial",
    [OPT_PIECEWISE_CONSTANT] = "piecewise_constant",
    [OPT_N_SCHEDULES] = NULL,
};

/* Walk "factor:bound,...,factor": the factor of update k, or a negative number when the text is not
 * of that form. k < 0 only checks. */
static double piecewise(const char *rules, int64_t k)
{
    double found = -1.0;
    int64_t last_bound = 0;

    for (const char *at = rules;;) {
        char *end;
        const double factor = strtod(at, &end);
        if (end == at || !(factor >= 0.0) || !isfinite(factor))
            return -1.0;
        if (*end == '\0') /* the last one has no bound */
            return found >= 0.0 ? found : factor;
        if (*end != ':')
            return -1.0;
        at = end + 1;
        const long long bound = strtoll(at, &end, 10);
        if (end == at || bound <= last_bound || *end != ',')
            return -1.0;
        if (found < 0.0 && k < bound)
            found = factor;
        last_bound = bound;
        at = end + 1;
    }
}

ag_status opt_schedule_check(ag_ctx *ctx, const opt_schedule *s)
{
    if (!(s->lr >= 0.0) || !isfinite(s->lr))
        return ag_fail(ctx, AG_EINVAL, "learning rate %g: wanted a finite number >= 0", s->lr);
    if (s->warmup < 0)
        return ag_fail(ctx, AG_EINVAL, "warm-up of %lld updates: wanted 0 or more", (long long)s->warmup);
    if (s->kind == OPT_POLYNOMIAL && s->lr <= POLYNOMIAL_END)
        return ag_fail(ctx, AG_EINVAL, "schedule polynomial ends at 1e-7: a learning rate of %g is not above it",
                       s->lr);
    if (s->kind == OPT_PIECEWISE_CONSTANT && (!s->rules || piecewise(s->rules, -1) < 0.0))
        return ag_fail(ctx, AG_EINVAL,
                       "schedule piecewise_constant: wanted rules such as \"1:10,0.1:20,0.005\", got \"%s\"",
                       s->rules ? s->rules : "");
    return AG_OK;
}

double opt_schedule_lr(const opt_schedule *s, int64_t k)
{
    const double warmup = (double)(s->warmup > 1 ? s->warmup : 1);
    const double span = (double)(s->total - s->warmup > 1 ? s->total - s->warmup : 1);
    double p = (double)(k - s->warmup) / span;

    if (s->kind == OPT_CONSTANT)
        return s->lr;
    if (s->kind == OPT_PIECEWISE_CONSTANT)
        return s->lr * piecewise(s->rules, k);
    if (k < s->warmup)
        return s->lr * (double)k / warmup;
    switch (s->kind) {
    case OPT_LINEAR:
        return s->lr * fmax(0.0, (double)(s->total - k) / span);
    case OPT_COSINE:
        return s->lr * fmax(0.0, 0.5 * (1.0 + cos(PI * fmin(p, 1.0))));
    case OPT_COSINE_WITH_RESTARTS:
        if (p >= 1.0)
            return 0.0;
        return s->lr * fmax(0.0, 0.5 * (1.0 + cos(PI * fmod(s->cycles * p, 1.0))));
    case OPT_POLYNOMIAL:
        if (k > s->total)
            return POLYNOMIAL_END;
        return (s->lr - POLYNOMIAL_END) * pow(fmax(0.0, 1.0 - p), s->power) + POLYNOMIAL_END;
    default: /* constant after its warm-up */
        return s->lr;
    }
}
