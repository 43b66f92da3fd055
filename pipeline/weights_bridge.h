/* weights_bridge.h - between weight files and a network's parameters. For files in pipeline/ only. */
#ifndef PIPE_WEIGHTS_BRIDGE_H
#define PIPE_WEIGHTS_BRIDGE_H

#include "data/single_file.h"
#include "data/weights.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fill params from a component's own file (published names, old spellings included). */
ag_status pipe_load_component(ag_ctx *ctx, nn_params *params, data_weights *weights, data_component component);
/* Fill params from a single-file checkpoint. */
ag_status pipe_load_single(ag_ctx *ctx, nn_params *params, data_weights *weights, const data_single *single,
                           data_component component);
/* Recognise an open single file: its table of contents, its metadata and its global_step. */
ag_status pipe_recognise(data_single *single, ag_ctx *ctx, data_weights *weights);
/* Write every parameter, published names and shapes, to a safetensors file. */
ag_status pipe_write_params(ag_ctx *ctx, nn_params *params, const char *path, ag_dtype dtype);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_WEIGHTS_BRIDGE_H */
