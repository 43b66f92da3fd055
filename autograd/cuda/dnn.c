/* dnn.c - cuDNN: the library, the choice of engines, plans; see dnn.h. */
#include "autograd/cuda/dnn.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/cuda/library.h"

#define TEXT(x) #x
#define VALUE(x) TEXT(x)
#define LIBRARY "libcudnn.so." VALUE(CUDNN_MAJOR)

/* OLDEST: the first version that knows every word that is used here. WORKSPACE_UNIT: of addresses, as cudaMalloc
 * gives them. */
enum { OLDEST = 91301, MOST_ENGINES = 24, WORKSPACE_UNIT = 256, SCRATCH_UNIT = 64 };

struct cuda_dnn {
    dnn_library lib;
    cudnnHandle_t handle; /* NULL: cuDNN is not there, or too old */
    bool is_foreseen;     /* it is there, and nothing will run: a plan is what it may take at most */
    cudaStream_t stream;  /* that the handle was told of */
    size_t version;
    cuda_plans plans;
};

/* --- the library ------------------------------------------------------------------------------ */

const char *cuda_dnn_library(void)
{
    return LIBRARY;
}

static bool load(dnn_library *lib)
{
    const cuda_function functions[] = {
        {"cudnnGetVersion", &lib->version},
        {"cudnnCreate", &lib->open},
        {"cudnnDestroy", &lib->close},
        {"cudnnSetStream", &lib->set_stream},
        {"cudnnGetLastErrorString", &lib->last_error},
        {"cudnnBackendCreateDescriptor", &lib->create},
        {"cudnnBackendDestroyDescriptor", &lib->destroy},
        {"cudnnBackendSetAttribute", &lib->set},
        {"cudnnBackendGetAttribute", &lib->get},
        {"cudnnBackendFinalize", &lib->finalize},
        {"cudnnBackendExecute", &lib->execute},
    };

    return cuda_library_load(LIBRARY, functions, sizeof functions / sizeof *functions);
}

/* The context's state, made when it is first asked for. NULL with the context failed when memory is refused; NULL
 * while a step is recorded: cuDNN takes memory of the device when it starts. */
static struct cuda_dnn *state_of(const ag_call *call)
{
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    struct cuda_dnn *dnn = cuda->dnn;

    if (dnn || cuda->is_recording)
        return dnn;
    dnn = cuda->dnn = calloc(1, sizeof *dnn);
    if (!dnn) {
        ag_fail(call->ctx, AG_ENOMEM, "no memory for cuDNN's plans");
        return NULL;
    }
    dnn->plans.key_bytes = sizeof(dnn_key);
    if (!load(&dnn->lib))
        return dnn;
    dnn->version = dnn->lib.version();
    dnn->is_foreseen = cuda->is_foreseen && dnn->version >= OLDEST;
    if (cuda->is_foreseen || dnn->version < OLDEST || dnn->lib.open(&dnn->handle) != CUDNN_STATUS_SUCCESS)
        dnn->handle = NULL;
    return dnn;
}

/* What was made of others goes first. */
static void empty(dnn_graph *g)
{
    while (g->n_parts > 0)
        g->lib->destroy(g->part[--g->n_parts]);
}

static void destroy_plan(void *user, void *plan)
{
    cuda_dnn_plan *p = plan;

    (void)user;
    empty(&p->graph);
    free(p);
}

void cuda_dnn_free(struct cuda_dnn *dnn)
{
    if (!dnn)
        return;
    cuda_plans_free(&dnn->plans, destroy_plan, NULL);
    if (dnn->handle)
        dnn->lib.close(dnn->handle);
    free(dnn);
}

/* --- choosing an engine ----------------------------------------------------------------------- */

/* Does the engine of this configuration compute as we want it to? */
static bool is_wanted(const dnn_library *lib, const dnn_key *key, dnn_part config)
{
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    dnn_part engine = NULL;
    bool wanted;
    int64_t n = 0;

    if (lib->create(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS)
        return false;
    wanted = lib->get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine) ==
                 CUDNN_STATUS_SUCCESS &&
             lib->get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                      CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, note) == CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < n && wanted; i++)
        wanted = (note[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC || key->any_order) &&
                 note[i] != CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS &&
                 note[i] != CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION &&
                 (note[i] != CUDNN_NUMERICAL_NOTE_TENSOR_CORE || key->type != AG_F32 || key->tf32);
    lib->destroy(engine);
    return wanted;
}

/* The plan of one engine's configuration. NULL: the engine does not take the graph, or wants too much workspace. */
static dnn_part try_config(const dnn_library *lib, cudnnHandle_t handle, dnn_part config, size_t most,
                           size_t *workspace)
{
    dnn_part plan = NULL;
    int64_t bytes = 0, n = 0;

    if (lib->create(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS)
        return NULL;
    if (lib->set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) == CUDNN_STATUS_SUCCESS &&
        lib->set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) ==
            CUDNN_STATUS_SUCCESS &&
        lib->finalize(plan) == CUDNN_STATUS_SUCCESS &&
        lib->get(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &bytes) ==
            CUDNN_STATUS_SUCCESS &&
        (size_t)bytes <= most) {
        *workspace = (size_t)bytes;
        return plan;
    }
    lib->destroy(plan);
    return NULL;
}

/* Of the engines that cuDNN names in one mode, the first that will do. */
static void choose(cuda_dnn_plan *p, cudnnHandle_t handle, dnn_part graph, cudnnBackendHeurMode_t mode, size_t most)
{
    dnn_graph *g = &p->graph;
    dnn_part ask = dnn_make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), config[MOST_ENGINES];
    int64_t n = 0;
    int made = 0;

    dnn_set_part(g, ask, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    dnn_set(g, ask, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    dnn_finish(g, ask);
    while (!g->failed && made < MOST_ENGINES)
        if (g->lib->create(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[made]) == CUDNN_STATUS_SUCCESS)
            made++;
        else
            g->failed = true;
    if (!g->failed && g->lib->get(ask, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, made, &n,
                                  config) == CUDNN_STATUS_SUCCESS)
        for (int i = 0; i < made && i < n && !p->plan; i++)
            if (is_wanted(g->lib, &p->key, config[i]) &&
                (p->plan = try_config(g->lib, handle, config[i], most, &p->workspace))) {
                dnn_keep(g, config[i]);
                dnn_keep(g, p->plan);
                config[i] = NULL;
            }
    while (made > 0)
        if (config[--made])
            g->lib->destroy(config[made]);
}

/* --- plans ------------------------------------------------------------------------------------ */

static void make_plan(struct cuda_dnn *dnn, cuda_dnn_plan *p, dnn_describe describe, size_t most)
{
    dnn_graph *g = &p->graph;
    dnn_part graph;

    describe(g, &p->key);
    graph = dnn_make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    dnn_set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn->handle);
    dnn_set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_operations, g->operation);
    dnn_finish(g, graph);
    choose(p, dnn->handle, graph, CUDNN_HEUR_MODE_A, most);
    if (!p->plan)
        choose(p, dnn->handle, graph, CUDNN_HEUR_MODE_FALLBACK, most);
    if (!p->plan)
        empty(g);
}

bool dnn_start_key(const ag_call *call, dnn_key *key, dnn_kind what, ag_dtype type)
{
    const struct cuda_dnn *dnn = state_of(call);

    if (!dnn || !(dnn->handle || dnn->is_foreseen))
        return false;
    memset(key, 0, sizeof *key);
    key->what = (int32_t)what;
    key->version = (int32_t)dnn->version;
    key->type = (int32_t)type;
    key->tf32 = type == AG_F32 && ag_ctx_allows_tf32(call->ctx);
    key->any_order = ag_ctx_allows_any_order(call->ctx);
    return true;
}

static const cuda_dnn_plan *usable(const struct cuda_dnn *dnn, const cuda_dnn_plan *p)
{
    return p && (p->plan || dnn->is_foreseen) ? p : NULL;
}

const cuda_dnn_plan *dnn_plan_of(const ag_call *call, const dnn_key *key, dnn_describe describe, size_t most)
{
    struct cuda_dnn *dnn = state_of(call);
    cuda_dnn_plan *p = cuda_plans_find(&dnn->plans, key);

    if (p || ag_cuda_of(call->ctx)->is_recording) /* an engine's kernels cannot be loaded then */
        return usable(dnn, p);
    p = calloc(1, sizeof *p);
    if (p)
        p->key = *key;
    if (!p || !cuda_plans_add(&dnn->plans, p)) {
        free(p);
        ag_fail(call->ctx, AG_ENOMEM, "%s: no memory for cuDNN's plan", call->op->name);
        return NULL;
    }
    p->graph.lib = &dnn->lib;
    if (dnn->is_foreseen)
        p->workspace = most;
    else
        make_plan(dnn, p, describe, most);
    return usable(dnn, p);
}

/* --- running ---------------------------------------------------------------------------------- */

size_t dnn_scratch(size_t workspace)
{
    return workspace ? workspace + WORKSPACE_UNIT - SCRATCH_UNIT : 0;
}

/* Tell the addresses and queue it. */
static cudnnStatus_t queue(struct cuda_dnn *dnn, const cuda_dnn_plan *plan, int n, const int64_t *uids,
                           const void *const *addresses, void *workspace)
{
    const dnn_library *lib = &dnn->lib;
    dnn_part pack = NULL;
    cudnnStatus_t status = lib->create(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);

    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    status = lib->set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uids);
    if (status == CUDNN_STATUS_SUCCESS)
        status = lib->set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, addresses);
    if (status == CUDNN_STATUS_SUCCESS)
        status = lib->set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (status == CUDNN_STATUS_SUCCESS)
        status = lib->finalize(pack);
    if (status == CUDNN_STATUS_SUCCESS)
        status = lib->execute(dnn->handle, plan->plan, pack);
    lib->destroy(pack);
    return status;
}

ag_status dnn_run(const ag_call *call, const cuda_dnn_plan *plan, int n, const int64_t *uids,
                  const void *const *addresses, void *scratch)
{
    const uintptr_t at = ((uintptr_t)scratch + WORKSPACE_UNIT - 1) / WORKSPACE_UNIT * WORKSPACE_UNIT;
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    struct cuda_dnn *dnn = cuda->dnn;
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    char why[256] = "";

    cuda->last_queued = call->op->name;
    if (dnn->stream != cuda->stream)
        status = dnn->lib.set_stream(dnn->handle, cuda->stream);
    if (status == CUDNN_STATUS_SUCCESS) {
        dnn->stream = cuda->stream;
        status = queue(dnn, plan, n, uids, addresses, plan->workspace ? (void *)at : NULL);
    }
    if (status == CUDNN_STATUS_SUCCESS)
        return AG_OK;
    dnn->lib.last_error(why, sizeof why);
    return ag_fail(call->ctx, AG_EDEVICE, "%s: cuDNN's status %d: %s", call->op->name, (int)status, why);
}
