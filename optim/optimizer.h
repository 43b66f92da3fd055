/* optimizer.h - an optimizer over a list of tensors.
 *
 * An optimizer never knows a model: it is given f32 tensors, their names, and at each update the
 * gradients and the rate. Its state is a list of named tensors, so that a checkpoint can keep any
 * optimizer's state without knowing which it is.
 *
 * Numbers that change from update to update (rate, bias corrections, gradient scale) travel in a
 * small tensor, not in arguments, so that an update can be captured and replayed; so does the factor of clipping, which
 * nobody waits for.
 */
#ifndef OPT_OPTIMIZER_H
#define OPT_OPTIMIZER_H

#include "autograd/mail.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum opt_kind {
    OPT_ADAMW,
    OPT_ADAMW8BIT,
    OPT_RANGER,
    OPT_LION,
    OPT_ADAFACTOR,
    OPT_PRODIGY,
    OPT_SGD,
    OPT_N_KINDS
} opt_kind;
extern const char *const opt_kind_names[]; /* "adamw", ..., NULL */

/* Each rule and its source stand at the top of optim/<name>.c, the arithmetic in
 * autograd/cpu/optimizer.h, adamw8bit.h and adafactor.h. */
typedef struct opt_config {
    opt_kind kind;
    double beta1, beta2, eps, weight_decay; /* Adafactor: beta1 NAN is no first moment, eps is eps[0] */
    bool offload; /* the states of tensors are AG_OFFLOADED: the same bits, less of a GPU's memory */
    struct {
        double momentum, dampening;
        bool nesterov;
    } sgd;
    struct {
        double alpha; /* of the slow weights' step, every k updates */
        int64_t k;
        bool use_gc, gc_conv_only;
    } ranger;
    struct {
        double clip_threshold, decay_rate, eps2;
        bool relative_step; /* the rate follows from the update number; the one given is not used */
        bool scale_parameter, warmup_init;
    } adafactor;
    struct {
        double d0, d_coef, growth_rate, beta3; /* beta3 NAN: sqrt(beta2) */
        bool use_bias_correction, safeguard_warmup, decouple;
    } prodigy;
} opt_config;

/* The published defaults of an optimizer; those of all others are in it too. */
opt_config opt_defaults(opt_kind kind);

/* Which of the numbers that several optimizers have this one uses, all have weight_decay. */
enum { OPT_USES_BETA1 = 1, OPT_USES_BETA2 = 2, OPT_USES_EPS = 4 };
unsigned opt_uses(opt_kind kind);

/* --- what is optimised ---------------------------------------------------------------------------- */

/* What the rate and the decay are multiplied by for one tensor. */
typedef struct opt_group {
    double lr_factor, decay_factor; /* >= 0; Prodigy takes lr_factor 0 and 1 */
} opt_group;

/* The shape in which a tensor is published: rules that treat matrices and vectors differently, or
 * rows as one, go by it. */
typedef struct opt_layout {
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
    bool channels_last; /* kept as [.., kh, kw, I], published as [.., I, kh, kw] */
} opt_layout;

/* The arrays have n entries. */
typedef struct opt_params {
    int64_t n;
    ag_tensor *const *tensors; /* f32 */
    const char *const *names;
    const opt_group *groups;   /* NULL: factors of 1 */
    const opt_layout *layouts; /* NULL: published as they are kept */
} opt_params;

typedef struct opt_optimizer opt_optimizer;

/* tensors and names are borrowed and must outlive the optimizer, the rest is copied. Takes the memory of
 * all states. AG_EINVAL for numbers that cannot work, AG_ESHAPE for a shape that a rule has no form
 * for, naming the tensor. */
ag_status opt_new(opt_optimizer **out, ag_ctx *ctx, const opt_config *config, const opt_params *params);
void opt_free(opt_optimizer *opt); /* NULL is fine */

/* Update number `update` (from 1) with rate lr; queued, nothing is waited for. grads[i] belongs to tensor i; each is
 * multiplied by grad_scale first, and then by the factor that brings their joint norm down to max_norm (PyTorch's
 * clip_grad_norm_: min(1, max_norm / (norm + 1e-6)); max_norm <= 0: none). With a gradient that is not finite the
 * tensors and their states stay as they are, which opt_look() tells. What a rule remembers of the first values
 * (Ranger, Prodigy) is taken at update 1. */
ag_status opt_update(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, int64_t update, double lr,
                     double grad_scale, double max_norm);

/* The two parts of that, for who repeats the second without running it anew: what changes from update to update; and
 * ops alone, the same every time. */
ag_status opt_prepare(ag_ctx *ctx, opt_optimizer *opt, int64_t update, double lr, double grad_scale);
ag_status opt_step(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, double max_norm);

/* What the last update saw. */
typedef struct opt_sight {
    double grad_norm;      /* sqrt(sum_i |grad_scale grads[i]|^2), in double in a fixed order; before clipping */
    double d;              /* Prodigy's, after it; NAN with the other rules */
    const char *nonfinite; /* the first tensor whose gradient was not finite; NULL: none, there was an update */
} opt_sight;
ag_status opt_look(opt_sight *out, ag_ctx *ctx, const opt_optimizer *opt); /* reads once; waits */

/* The same without waiting: put what it reads into mail, at byte `at` (a multiple of 8); and look at that when it has
 * come, before the next update. Waits only to tell which gradient was not finite. */
enum { OPT_SIGHT_BYTES = 72 };
ag_status opt_post(ag_mail *mail, size_t at, const opt_optimizer *opt);
ag_status opt_look_at(opt_sight *out, ag_ctx *ctx, const opt_optimizer *opt, const double *posted);

/* The norm that opt_step() saw, on the device: f64, the first number. */
ag_tensor *opt_norm(const opt_optimizer *opt);

/* The rate that this update uses when it is given lr. */
double opt_rate(const opt_optimizer *opt, int64_t update, double lr);

/* The state, for checkpoints: tensor i (f32, f64 or u8), its name ("exp_avg.<parameter>") in text of
 * `size` bytes. */
int64_t opt_state_count(const opt_optimizer *opt);
ag_tensor *opt_state_at(const opt_optimizer *opt, int64_t i, char *text, size_t size);

/* --- exponential moving average -------------------------------------------------------------------- */

typedef struct opt_ema opt_ema;

/* A shadow copy of params, equal to them now; borrowed as above. offload: it is AG_OFFLOADED, as states of an
 * optimizer can be. */
ag_status opt_ema_new(opt_ema **out, ag_ctx *ctx, ag_tensor *const *params, int64_t n, double decay, bool offload);
void opt_ema_free(opt_ema *ema);
/* shadow += (1 - d)(param - shadow) after update n = 1, 2, ...; d = min(decay, n/(9+n)), and 0 for n = 1, as
 * huggingface/diffusers: src/diffusers/training_utils.py (EMAModel: (1+j)/(10+j), j = n - 1). */
ag_status opt_ema_update(ag_ctx *ctx, opt_ema *ema, int64_t update);
/* In two parts, as opt_prepare() and opt_step(). */
ag_status opt_ema_prepare(ag_ctx *ctx, opt_ema *ema, int64_t update);
ag_status opt_ema_step(ag_ctx *ctx, opt_ema *ema);
double opt_ema_decay(double decay, int64_t update);
ag_tensor *opt_ema_at(const opt_ema *ema, int64_t i);

#ifdef __cplusplus
}
#endif

#endif /* OPT_OPTIMIZER_H */
