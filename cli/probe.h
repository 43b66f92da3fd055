/* probe.h - what the parts of `agewright probe` share: tensors in, tensors out. For cli/probe*.c.
 *
 * Files speak the published layout (NCHW, published names); here is where it is turned into ours.
 */
#ifndef CLI_PROBE_H
#define CLI_PROBE_H

#include "cli/command.h"
#include "data/weights.h"
#include "nn/params.h"
#include "pipeline/pipeline.h"

/* --- inputs ------------------------------------------------------------------------------------- */

typedef struct probe_in {
    data_weights *file;
    bool *used; /* per tensor */
} probe_in;

ag_status probe_in_open(probe_in *in, ag_ctx *ctx, const char *path); /* NULL path: no inputs */
void probe_in_close(probe_in *in);
/* The shape of an input of n_dims axes; AG_EDATA when it is missing or has another number of axes. */
ag_status probe_in_shape(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, int64_t *dims);
/* Values of an input of exactly this shape: floating as f32, integers as i64. The caller's (ag_delete). */
float *probe_in_floats(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims);
int64_t *probe_in_integers(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims);
/* As a tensor: [N,C,H,W] becomes [N,H,W,C]; other shapes stay. dims is the file's. */
ag_tensor *probe_in_tensor(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims);
/* Fail, naming it, when an input was not used. */
ag_status probe_in_finish(const probe_in *in, ag_ctx *ctx);

/* --- outputs ------------------------------------------------------------------------------------ */

typedef struct probe_value {
    char *name;
    data_dtype dtype;
    int n_dims;
    int64_t dims[DATA_TENSOR_DIMS];
    void *values;
} probe_value;

typedef struct probe_out {
    probe_value *list;
    int64_t n;
} probe_out;

/* Add values, copied; dtype F32 or I64. */
ag_status probe_out_add(probe_out *out, ag_ctx *ctx, const char *name, data_dtype dtype, int n_dims,
                        const int64_t *dims, const void *values);
/* Add a tensor of ours: [N,H,W,C] is written [N,C,H,W]; others as they are. */
ag_status probe_out_tensor(probe_out *out, ag_ctx *ctx, const char *name, ag_tensor *t);
/* Add a tensor of a parameter's internal shape in its published one, as prefix + name. */
ag_status probe_out_param(probe_out *out, ag_ctx *ctx, const char *prefix, const char *name, const nn_param *param,
                          const ag_tensor *inner);
ag_status probe_out_write(const probe_out *out, ag_ctx *ctx, const char *path);
void probe_out_free(probe_out *out);

/* --- gradients ---------------------------------------------------------------------------------- */

typedef struct probe_wanted {
    const char *name; /* of the input */
    ag_tensor *t;
} probe_wanted;

/* With y = sum(output * cotangent): grad.<name> for every parameter, grad_in.<name> for the inputs. */
ag_status probe_gradients(probe_out *out, ag_ctx *ctx, nn_params *params, const probe_wanted *inputs, int n_inputs,
                          ag_tensor *output, ag_tensor *cotangent);

/* --- the parts ----------------------------------------------------------------------------------- */

/* What every part is told. */
typedef struct probe_common {
    const char *model, *in, *out;
    cli_texts loras;
    bool grad, gradient_checkpointing;
    int mixed_precision; /* a train_precision */
    cli_device device;
} probe_common;

extern const cli_flag probe_file_flags[];      /* model, in, out */
extern const cli_flag probe_precision_flags[]; /* grad, gradient_checkpointing, mixed_precision */

int probe_networks(int argc, char *const *argv);
int probe_data(int argc, char *const *argv);
int probe_train(int argc, char *const *argv);
int probe_sample(int argc, char *const *argv);

#endif /* CLI_PROBE_H */
