/* optimizer.h - an optimizer over a list of tensors.
 *
 * An optimizer never knows a model: it is given f32 tensors, their names, and at each update the
 * gradients and the rate. Its state is a list of named tensors, so that a checkpoint can keep any
 * optimizer's state without knowing which it is.
 *
 * Numbers that change from update to update (rate, bias corrections, gradient scale) travel in a
 * small tensor, not in arguments, so that an update can be captured and replayed.
 */
#ifndef OPT_OPTIMIZER_H
#define OPT_OPTIMIZER_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum opt_kind { OPT_ADAMW, OPT_N_KINDS } opt_kind;
extern const char *const opt_kind_names[]; /* "adamw", NULL */

typedef struct opt_config {
    opt_kind kind;
    double beta1, beta2, eps, weight_decay;
} opt_config;

typedef struct opt_optimizer opt_optimizer;

/* params and names are borrowed and must outlive the optimizer; states begin at zero. */
ag_status opt_new(opt_optimizer **out, ag_ctx *ctx, const opt_config *config, ag_tensor *const *params,
                  const char *const *names, int64_t n);
void opt_free(opt_optimizer *opt); /* NULL is fine */

/* Update number `update` (from 1) with rate lr. grads[i] belongs to params[i]; each is multiplied by
 * grad_scale first (clipping).
 *
 * AdamW (Loshchilov & Hutter 2019, in PyTorch's form), t = update:
 *   p <- p (1 - lr wd);  m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2
 *   p <- p - lr/(1-b1^t) m / (sqrt(v)/sqrt(1-b2^t) + eps) */
ag_status opt_update(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, int64_t update, double lr,
                     double grad_scale);

/* The state, for checkpoints: tensor i, its name ("exp_avg.<parameter>") in text of `size`
 * bytes. */
int64_t opt_state_count(const opt_optimizer *opt);
ag_tensor *opt_state_at(const opt_optimizer *opt, int64_t i, char *text, size_t size);

/* --- the joint size of gradients ----------------------------------------------------------------- */

/* norm = sqrt(sum_i |grads[i]|^2), summed in double in a fixed order.
 * AG_ENUMERIC, naming the first tensor at fault, when it is not finite. */
ag_status opt_grad_norm(double *norm, ag_ctx *ctx, ag_tensor *const *grads, const char *const *names, int64_t n);

/* min(1, max_norm / (norm + 1e-6)), the factor of PyTorch's clip_grad_norm_ (Pascanu et al. 2013);
 * 1 when max_norm <= 0. */
double opt_clip_factor(double norm, double max_norm);

/* --- exponential moving average -------------------------------------------------------------------- */

typedef struct opt_ema opt_ema;

/* A shadow copy of params, equal to them now; borrowed as above. */
ag_status opt_ema_new(opt_ema **out, ag_ctx *ctx, ag_tensor *const *params, int64_t n, double decay);
void opt_ema_free(opt_ema *ema);
/* shadow += (1 - d)(param - shadow) after update n = 1, 2, ...; d = min(decay, n/(9+n)), and 0 for n = 1, as
 * huggingface/diffusers: src/diffusers/training_utils.py (EMAModel: (1+j)/(10+j), j = n - 1). */
ag_status opt_ema_update(ag_ctx *ctx, opt_ema *ema, int64_t update);
double opt_ema_decay(double decay, int64_t update);
ag_tensor *opt_ema_at(const opt_ema *ema, int64_t i);

#ifdef __cplusplus
}
#endif

#endif /* OPT_OPTIMIZER_H */
