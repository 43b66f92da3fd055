/* rules.h - what an optimizer is, for the files in optim/ that hold one.
 *
 * A rule names its states (slots, one tensor of each kind per parameter at most), makes them, computes
 * the scalars of an update on the host, and steps one tensor with ops. What is global to all tensors
 * (Prodigy's d) is the common tensor.
 */
#ifndef OPT_RULES_H
#define OPT_RULES_H

#include "optim/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { OPT_MAX_SLOTS = 4, OPT_MAX_STEPS = 3, OPT_MAX_COMMON = 8 }; /* OPT_SIGHT_BYTES holds one value more */

/* When an update is, with what. */
typedef struct opt_moment {
    double t; /* the update's number, from 1 */
    double lr, grad_scale;
} opt_moment;

typedef struct opt_rule {
    double beta1, beta2, eps, weight_decay; /* published defaults */
    unsigned uses;                          /* OPT_USES_... */
    const char *slots[OPT_MAX_SLOTS];       /* names of states; a checkpoint has "exp_avg.<parameter>" */
    const char *common_name;                /* of the common tensor, when it is a state */
    int n_scalars, grad_scale;              /* how many; where among them the gradients' factor stands */
    int n_common;                           /* values of the common tensor, f64; 0: there is none */
    int n_own;                              /* f64 of each parameter that its steps leave to each other */
    /* Every function but make, scalars and the first step may be NULL. */
    ag_status (*check)(ag_ctx *ctx, const opt_config *config);
    void (*begin_common)(ag_ctx *ctx, opt_optimizer *opt); /* write what it begins with */
    void (*make)(ag_ctx *ctx, opt_optimizer *opt, int64_t i); /* the states of parameter i */
    double (*rate)(const opt_config *config, double t, double lr);
    /* weight_decay and lr are those of the group. */
    void (*scalars)(double *out, const opt_config *config, const opt_moment *now);
    void (*first)(ag_ctx *ctx, opt_optimizer *opt, int64_t i); /* before the first update */
    /* A pass over all parameters before any steps, with `between` before and after it. Within a pass
     * no parameter's ops depend on another's. */
    void (*collect)(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad);
    void (*between)(ag_ctx *ctx, opt_optimizer *opt, bool is_after);
    /* One after the other, the last ones NULL: what a step reads of the one before belongs to its parameter. */
    void (*steps[OPT_MAX_STEPS])(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad);
} opt_rule;

extern const opt_rule opt_adamw, opt_adamw8bit, opt_ranger, opt_lion, opt_adafactor, opt_prodigy, opt_sgd;

struct opt_optimizer {
    opt_config config;
    const opt_rule *rule;
    int64_t n;
    ag_tensor *const *params;
    const char *const *names;
    opt_layout *layouts; /* [n] */
    opt_group *groups;   /* distinct ones; the first has factors of 1 */
    int n_groups;
    int *group_of;       /* [n] */
    ag_tensor *all_scalars; /* f64 [n_groups, rule->n_scalars] */
    double *host_scalars;   /* the same on the host */
    ag_tensor **scalars;    /* [n_groups], its rows */
    ag_tensor **slots;      /* [OPT_MAX_SLOTS, n]; NULL where a parameter has none */
    ag_tensor *sums;        /* f64 [n]: of the squares of each gradient of the last update */
    ag_tensor *seen;        /* f64 [1 + rule->n_common]: their joint norm, and common */
    ag_tensor *common;      /* f64 [rule->n_common] */
    ag_tensor *all_own;     /* f64 [n * rule->n_own] */
    ag_tensor **own;        /* [n], its parts of rule->n_own; NULL: there are none */
};

/* Make a state of zeros: like parameter i, or a list of n values. */
void opt_make_like(ag_ctx *ctx, opt_optimizer *opt, int slot, int64_t i);
void opt_make_list(ag_ctx *ctx, opt_optimizer *opt, int slot, int64_t i, ag_dtype dtype, int64_t n);

ag_tensor *opt_slot(const opt_optimizer *opt, int slot, int64_t i);
ag_tensor *opt_scalars_of(const opt_optimizer *opt, int64_t i);

/* Ranger's N_t and r of update t; returns whether that update is rectified (optim/ranger.c). */
bool opt_ranger_ratio(double *length, double *ratio, double t, double beta1, double beta2);

#ifdef __cplusplus
}
#endif

#endif /* OPT_RULES_H */
