/* graph.c - work that is recorded once and queued again and again as one piece. */
#include <stdlib.h>

#include "autograd/cuda/internal.h"

struct ag_cuda_graph {
    ag_cuda *cuda;
    cudaGraphExec_t work;
};

/* Other threads of the program do as they like meanwhile. */
ag_status cuda_record(ag_cuda *cuda)
{
    const cudaError_t error = cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal);

    if (error != cudaSuccess)
        return cuda_failed(cuda, "recording a step", error);
    cuda->is_recording = true;
    return AG_OK;
}

ag_cuda_graph *cuda_recorded(ag_cuda *cuda, bool keep)
{
    ag_cuda_graph *graph = NULL;
    cudaGraph_t recorded = NULL;
    cudaError_t error = cudaStreamEndCapture(cuda->stream, &recorded);

    cuda->is_recording = false;
    if (keep && error == cudaSuccess)
        graph = calloc(1, sizeof *graph);
    if (graph) {
        graph->cuda = cuda;
        error = cudaGraphInstantiate(&graph->work, recorded, 0);
    }
    if (recorded)
        cudaGraphDestroy(recorded);
    if (error == cudaSuccess && (graph || !keep))
        return graph;
    free(graph);
    if (error == cudaSuccess)
        ag_fail(cuda->ctx, AG_ENOMEM, "no memory for a recorded step");
    else if (keep)
        cuda_failed(cuda, "recording a step", error);
    (void)cudaGetLastError(); /* of a recording that had failed before */
    return NULL;
}

ag_status cuda_launch_graph(ag_cuda_graph *graph)
{
    cudaError_t error;

    graph->cuda->last_queued = "a repeated step";
    error = cudaGraphLaunch(graph->work, graph->cuda->stream);
    return error == cudaSuccess ? AG_OK : cuda_failed(graph->cuda, "repeating a step", error);
}

void cuda_graph_free(ag_cuda_graph *graph)
{
    cudaStreamSynchronize(graph->cuda->stream); /* it may still run */
    cudaGraphExecDestroy(graph->work);
    (void)cudaGetLastError();
    free(graph);
}
