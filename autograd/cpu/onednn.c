/* onednn.c - oneDNN's primitives, by shape.
 *
 * A plan is a primitive, the reorder of the weights before it (or of their gradient after it), and
 * one memory object per operand without data of its own; a call sets the pointers. Scratch is
 *   [packed weights][bias of zeros][scratchpad of the reorder or the primitive, the larger]
 * each from a 64-byte boundary.
 */
#include "autograd/cpu/onednn.h"

#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { N_BUCKETS = 256, MAX_SLOTS = 6 };

/* Where the data of an operand comes from at a call. */
typedef enum slot_kind { SLOT_OUT, SLOT_IN0, SLOT_IN1, SLOT_BIAS, SLOT_PACKED, SLOT_PAD } slot_kind;

typedef struct plan_slot {
    int arg; /* DNNL_ARG_... */
    slot_kind kind;
    dnnl_memory_t memory;
} plan_slot;

/* A primitive with its operands. */
typedef struct plan_step {
    dnnl_primitive_t primitive; /* NULL: nothing to do */
    plan_slot slots[MAX_SLOTS];
    int n_slots;
} plan_step;

typedef struct plan_key {
    int64_t number[20];
} plan_key;

struct cpu_onednn_plan {
    plan_key key;
    cpu_onednn_plan *next; /* in its bucket */
    bool is_reference;     /* oneDNN has only reference loops: remembered as "no" */
    char name[96];
    plan_step before, main, after;
    size_t packed_bytes, bias_bytes, pad_bytes;
};

struct cpu_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int n_threads;
    cpu_onednn_plan *buckets[N_BUCKETS];
};

static size_t round64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* --- the library ---------------------------------------------------------------------------- */

/* oneDNN obeys our cap when it has not been told one itself and has not yet been used. */
static void cap_library_isa(void)
{
    static const dnnl_cpu_isa_t of_level[CPU_N_ISA] = {
        dnnl_cpu_isa_sse41, dnnl_cpu_isa_avx2, dnnl_cpu_isa_avx512_core_bf16, dnnl_cpu_isa_all};

    if (getenv("AGEWRIGHT_MAX_ISA") && !getenv("DNNL_MAX_CPU_ISA"))
        (void)dnnl_set_max_cpu_isa(of_level[cpu_isa_here()]);
}

cpu_onednn *cpu_onednn_new(int n_threads)
{
    cpu_onednn *library = calloc(1, sizeof *library);

    if (!library)
        return NULL;
    cap_library_isa();
    library->n_threads = n_threads;
    if (dnnl_engine_create(&library->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&library->stream, library->engine, dnnl_stream_default_flags) !=
            dnnl_success) {
        cpu_onednn_free(library);
        return NULL;
    }
    return library;
}

static void step_free(plan_step *step)
{
    for (int i = 0; i < step->n_slots; i++)
        dnnl_memory_destroy(step->slots[i].memory);
    if (step->primitive)
        dnnl_primitive_destroy(step->primitive);
}

static void plan_free(cpu_onednn_plan *plan)
{
    step_free(&plan->before);
    step_free(&plan->main);
    step_free(&plan->after);
    free(plan);
}

void cpu_onednn_free(cpu_onednn *library)
{
    if (!library)
        return;
    for (int b = 0; b < N_BUCKETS; b++)
        while (library->buckets[b]) {
            cpu_onednn_plan *plan = library->buckets[b];
            library->buckets[b] = plan->next;
            plan_free(plan);
        }
    if (library->stream)
        dnnl_stream_destroy(library->stream);
    if (library->engine)
        dnnl_engine_destroy(library->engine);
    free(library);
}

/* --- plans by shape ------------------------------------------------------------------------- */

static cpu_onednn_plan **bucket_of(cpu_onednn *library, const plan_key *key)
{
    uint64_t hash = 1469598103934665603u; /* FNV-1a over the numbers */

    for (size_t i = 0; i < sizeof key->number / sizeof key->number[0]; i++)
        hash = (hash ^ (uint64_t)key->number[i]) * 1099511628211u;
    return &library->buckets[(hash ^ hash >> 32) % N_BUCKETS];
}

static cpu_onednn_plan *plan_find(cpu_onednn *library, const plan_key *key)
{
    for (cpu_onednn_plan *p = *bucket_of(library, key); p; p = p->next)
        if (memcmp(&p->key, key, sizeof *key) == 0)
            return p;
    return NULL;
}

static dnnl_status_t step_add(plan_step *step, cpu_onednn *library, int arg, slot_kind kind,
                              const dnnl_memory_desc_t *desc)
{
    plan_slot *slot = &step->slots[step->n_slots];
    const dnnl_status_t status =
        dnnl_memory_create(&slot->memory, desc, library->engine, DNNL_MEMORY_NONE);

    if (status != dnnl_success)
        return status;
    slot->arg = arg;
    slot->kind = kind;
    step->n_slots++;
    return dnnl_success;
}

static dnnl_status_t step_add_pad(plan_step *step, cpu_onednn_plan *plan, cpu_onednn *library,
                                  const_dnnl_primitive_desc_t desc)
{
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    const size_t bytes = pad ? dnnl_memory_desc_get_size(pad) : 0;

    if (bytes == 0)
        return dnnl_success;
    if (plan->pad_bytes < bytes)
        plan->pad_bytes = bytes;
    return step_add(step, library, DNNL_ARG_SCRATCHPAD, SLOT_PAD, pad);
}

static dnnl_status_t user_scratchpad(dnnl_primitive_attr_t *attr)
{
    dnnl_status_t status = dnnl_primitive_attr_create(attr);

    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    return status;
}

/* A conversion between two layouts of the same tensor. */
static dnnl_status_t step_reorder(plan_step *step, cpu_onednn_plan *plan, cpu_onednn *library,
                                  slot_kind from_kind, const dnnl_memory_desc_t *from,
                                  slot_kind to_kind, const dnnl_memory_desc_t *to)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t status = user_scratchpad(&attr);

    if (status == dnnl_success)
        status = dnnl_reorder_primitive_desc_create(&desc, from, library->engine, to,
                                                    library->engine, attr);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&step->primitive, desc);
    if (status == dnnl_success)
        status = step_add(step, library, DNNL_ARG_FROM, from_kind, from);
    if (status == dnnl_success)
        status = step_add(step, library, DNNL_ARG_TO, to_kind, to);
    if (status == dnnl_success)
        status = step_add_pad(step, plan, library, desc);
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return status;
}

/* One operand of the main step as a plan wants it. */
typedef struct operand {
    int arg;
    slot_kind kind;
    dnnl_query_t query;             /* which layout the primitive chose */
    int index;                      /* of the query */
    const dnnl_memory_desc_t *user; /* the layout outside when the primitive chooses; or NULL */
} operand;

static dnnl_status_t plan_operand(cpu_onednn_plan *plan, cpu_onednn *library,
                                  const_dnnl_primitive_desc_t desc, const operand *o)
{
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(desc, o->query, o->index);
    dnnl_status_t status;

    if (!chosen)
        return dnnl_invalid_arguments;
    if (o->kind == SLOT_BIAS)
        plan->bias_bytes = dnnl_memory_desc_get_size(chosen);
    if (!o->user || dnnl_memory_desc_equal(o->user, chosen))
        return step_add(&plan->main, library, o->arg, o->kind, chosen);
    plan->packed_bytes = dnnl_memory_desc_get_size(chosen);
    status = step_add(&plan->main, library, o->arg, SLOT_PACKED, chosen);
    if (status != dnnl_success)
        return status;
    if (o->kind == SLOT_OUT)
        return step_reorder(&plan->after, plan, library, SLOT_PACKED, chosen, SLOT_OUT, o->user);
    return step_reorder(&plan->before, plan, library, o->kind, o->user, SLOT_PACKED, chosen);
}

static bool name_is_reference(const char *name)
{
    return strncmp(name, "ref", 3) == 0 || strstr(name, ":ref") || strstr(name, "gemm:ref");
}

/* Compile op_desc and remember the plan under `key`. Takes over nothing. */
static const cpu_onednn_plan *plan_new(cpu_onednn *library, const plan_key *key,
                                       const_dnnl_op_desc_t op_desc, const_dnnl_op_desc_t hint_desc,
                                       dnnl_post_ops_t post_ops, const operand *operands,
                                       int n_operands, bool *failed)
{
    cpu_onednn_plan *plan = calloc(1, sizeof *plan), **bucket = bucket_of(library, key);
    dnnl_primitive_desc_t desc = NULL, hint = NULL;
    dnnl_primitive_attr_t attr = NULL;
    const char *name = "reference";
    const int threads_before = omp_get_max_threads();
    dnnl_status_t status = dnnl_out_of_memory;

    if (!plan)
        goto out;
    omp_set_num_threads(library->n_threads); /* primitives are compiled for a number of threads */
    status = user_scratchpad(&attr);
    if (status == dnnl_success && post_ops)
        status = dnnl_primitive_attr_set_post_ops(attr, post_ops);
    if (status == dnnl_success && hint_desc)
        status = dnnl_primitive_desc_create(&hint, hint_desc, NULL, library->engine, NULL);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(&desc, op_desc, attr, library->engine, hint);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name);
    if (status == dnnl_unimplemented || (status == dnnl_success && name_is_reference(name))) {
        plan->is_reference = true;
        status = dnnl_success;
        goto out;
    }
    if (status == dnnl_success)
        status = dnnl_primitive_create(&plan->main.primitive, desc);
    for (int i = 0; status == dnnl_success && i < n_operands; i++)
        status = plan_operand(plan, library, desc, &operands[i]);
    if (status == dnnl_success)
        status = step_add_pad(&plan->main, plan, library, desc);
out:
    omp_set_num_threads(threads_before);
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    if (hint)
        dnnl_primitive_desc_destroy(hint);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (status != dnnl_success) {
        if (plan)
            plan_free(plan);
        *failed = true;
        return NULL;
    }
    plan->key = *key;
    strcpy(plan->name, "onednn ");
    strncat(plan->name, name, sizeof plan->name - 8);
    plan->next = *bucket;
    *bucket = plan;
    return plan->is_reference ? NULL : plan;
}

static dnnl_data_type_t data_type(ag_dtype type)
{
    return type == AG_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* --- convolution ---------------------------------------------------------------------------- */

const cpu_onednn_plan *cpu_onednn_conv(cpu_onednn *library, const cpu_conv *conv,
                                       cpu_conv_pass pass, bool *failed)
{
    const int64_t oh = cpu_conv_out_h(conv), ow = cpu_conv_out_w(conv);
    const plan_key key = {{1, pass, conv->n, conv->h, conv->w, conv->c, conv->o, conv->kh, conv->kw,
                           conv->stride, conv->dilation, conv->pad_top, conv->pad_bottom,
                           conv->pad_left, conv->pad_right, conv->type, conv->weight_type}};
    const dnnl_dims_t x_dims = {conv->n, conv->c, conv->h, conv->w};
    const dnnl_dims_t w_dims = {conv->o, conv->c, conv->kh, conv->kw};
    const dnnl_dims_t y_dims = {conv->n, conv->o, oh, ow}, b_dims = {conv->o};
    const dnnl_dims_t strides = {conv->stride, conv->stride};
    const dnnl_dims_t dilates = {conv->dilation - 1, conv->dilation - 1}; /* oneDNN counts gaps */
    const dnnl_dims_t low = {conv->pad_top, conv->pad_left};
    const dnnl_dims_t high = {conv->pad_bottom, conv->pad_right};
    const dnnl_data_type_t type = data_type(conv->type);
    const bool by_weights = pass == CPU_CONV_BACKWARD_WEIGHTS;
    dnnl_memory_desc_t x, w, y, b, w_any;
    dnnl_convolution_desc_t forward, backward;
    operand operands[4];
    const cpu_onednn_plan *plan = plan_find(library, &key);
    dnnl_status_t status;

    if (plan)
        return plan->is_reference ? NULL : plan;
    status = dnnl_memory_desc_init_by_tag(&x, 4, x_dims, type, dnnl_nhwc);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&y, 4, y_dims, type, dnnl_nhwc);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&b, 1, b_dims, dnnl_f32, dnnl_a);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(
            &w, 4, w_dims, by_weights ? dnnl_f32 : data_type(conv->weight_type), dnnl_ohwi);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&w_any, 4, w_dims, by_weights ? dnnl_f32 : type,
                                              dnnl_format_tag_any);
    if (status != dnnl_success) {
        *failed = true;
        return NULL;
    }
    if (by_weights) { /* the hint's weights may have another type than the gradient's */
        dnnl_memory_desc_t hint_any;
        status = dnnl_memory_desc_init_by_tag(&hint_any, 4, w_dims, type, dnnl_format_tag_any);
        if (status == dnnl_success)
            status = dnnl_dilated_convolution_forward_desc_init(
                &forward, dnnl_forward_training, dnnl_convolution_direct, &x, &hint_any, NULL, &y,
                strides, dilates, low, high);
        if (status == dnnl_success)
            status = dnnl_dilated_convolution_backward_weights_desc_init(
                &backward, dnnl_convolution_direct, &x, &w_any, NULL, &y, strides, dilates, low,
                high);
        operands[0] = (operand){DNNL_ARG_SRC, SLOT_IN0, dnnl_query_src_md, 0, NULL};
        operands[1] = (operand){DNNL_ARG_DIFF_DST, SLOT_IN1, dnnl_query_diff_dst_md, 0, NULL};
        operands[2] = (operand){DNNL_ARG_DIFF_WEIGHTS, SLOT_OUT, dnnl_query_diff_weights_md, 0, &w};
        if (status == dnnl_success)
            return plan_new(library, &key, &backward, &forward, NULL, operands, 3, failed);
    } else if (pass == CPU_CONV_BACKWARD_DATA) {
        status = dnnl_dilated_convolution_forward_desc_init(
            &forward, dnnl_forward_training, dnnl_convolution_direct, &x, &w_any, NULL, &y, strides,
            dilates, low, high);
        if (status == dnnl_success)
            status = dnnl_dilated_convolution_backward_data_desc_init(
                &backward, dnnl_convolution_direct, &x, &w_any, &y, strides, dilates, low, high);
        operands[0] = (operand){DNNL_ARG_DIFF_DST, SLOT_IN0, dnnl_query_diff_dst_md, 0, NULL};
        operands[1] = (operand){DNNL_ARG_WEIGHTS, SLOT_IN1, dnnl_query_weights_md, 0, &w};
        operands[2] = (operand){DNNL_ARG_DIFF_SRC, SLOT_OUT, dnnl_query_diff_src_md, 0, NULL};
        if (status == dnnl_success)
            return plan_new(library, &key, &backward, &forward, NULL, operands, 3, failed);
    } else {
        status = dnnl_dilated_convolution_forward_desc_init(
            &forward, dnnl_forward_training, dnnl_convolution_direct, &x, &w_any, &b, &y, strides,
            dilates, low, high);
        operands[0] = (operand){DNNL_ARG_SRC, SLOT_IN0, dnnl_query_src_md, 0, NULL};
        operands[1] = (operand){DNNL_ARG_WEIGHTS, SLOT_IN1, dnnl_query_weights_md, 0, &w};
        operands[2] = (operand){DNNL_ARG_BIAS, SLOT_BIAS, dnnl_query_weights_md, 1, NULL};
        operands[3] = (operand){DNNL_ARG_DST, SLOT_OUT, dnnl_query_dst_md, 0, NULL};
        if (status == dnnl_success)
            return plan_new(library, &key, &forward, NULL, NULL, operands, 4, failed);
    }
    *failed = true;
    return NULL;
}

/* --- matrix product ------------------------------------------------------------------------- */

/* rows x cols with a row stride, or its transpose's storage. A row stride of 1-wide matrices is
 * free: oneDNN wants it large enough. */
static dnnl_status_t matrix_desc(dnnl_memory_desc_t *desc, int64_t batch, int64_t batch_stride,
                                 int64_t rows, int64_t cols, int64_t ld, bool transposed,
                                 ag_dtype type)
{
    const dnnl_dims_t dims = {batch, rows, cols};
    const dnnl_dims_t strides = {batch_stride ? batch_stride : rows * cols, transposed ? 1 : ld,
                                 transposed ? ld : 1};
    return dnnl_memory_desc_init_by_strides(desc, 3, dims, data_type(type), strides);
}

const cpu_onednn_plan *cpu_onednn_gemm(cpu_onednn *library, const cpu_gemm_call *c, bool pack,
                                       bool *failed)
{
    const int64_t batch = c->batch ? c->batch : 1;
    const int64_t lda = c->lda ? c->lda : c->transpose_a ? c->m : c->k;
    const int64_t ldb = c->ldb ? c->ldb : c->transpose_b ? c->k : c->n;
    const int64_t ldc = c->ldc ? c->ldc : c->n;
    const bool shared_b = batch > 1 && c->stride_b == 0;
    const plan_key key = {{2, pack, c->m, c->n, c->k, lda, ldb, ldc, c->transpose_a, c->transpose_b,
                           c->a_type, c->b_type, c->c_type, batch, c->stride_a, c->stride_b,
                           c->stride_c, c->beta != 0}};
    const dnnl_dims_t bias_dims = {1, 1, c->n}, b_dims = {shared_b ? 1 : batch, c->k, c->n};
    dnnl_memory_desc_t a, b, b_any, bias, out;
    dnnl_matmul_desc_t matmul;
    dnnl_post_ops_t post_ops = NULL;
    const cpu_onednn_plan *plan = plan_find(library, &key);
    dnnl_status_t status;

    if (plan)
        return plan->is_reference ? NULL : plan;
    if (batch > 1 && c->stride_a == 0)
        return NULL;
    status = matrix_desc(&a, batch, c->stride_a, c->m, c->k, lda, c->transpose_a, c->a_type);
    if (status == dnnl_success)
        status = matrix_desc(&b, shared_b ? 1 : batch, c->stride_b, c->k, c->n, ldb, c->transpose_b,
                             c->b_type);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&b_any, 3, b_dims, data_type(c->a_type),
                                              dnnl_format_tag_any);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&bias, 3, bias_dims, dnnl_f32, dnnl_abc);
    if (status == dnnl_success)
        status = matrix_desc(&out, batch, c->stride_c, c->m, c->n, ldc, false, c->c_type);
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(&matmul, &a, pack ? &b_any : &b, &bias, &out);
    if (status == dnnl_success && c->beta != 0) {
        status = dnnl_post_ops_create(&post_ops);
        if (status == dnnl_success)
            status = dnnl_post_ops_append_sum(post_ops, 1.0f);
    }
    if (status == dnnl_success) {
        const operand operands[] = {
            {DNNL_ARG_SRC, SLOT_IN0, dnnl_query_src_md, 0, NULL},
            {DNNL_ARG_WEIGHTS, SLOT_IN1, dnnl_query_weights_md, 0, pack ? &b : NULL},
            {DNNL_ARG_BIAS, SLOT_BIAS, dnnl_query_weights_md, 1, NULL},
            {DNNL_ARG_DST, SLOT_OUT, dnnl_query_dst_md, 0, NULL},
        };
        plan = plan_new(library, &key, &matmul, NULL, post_ops, operands, 4, failed);
    } else {
        *failed = true;
    }
    if (post_ops)
        dnnl_post_ops_destroy(post_ops);
    return plan;
}

/* --- running -------------------------------------------------------------------------------- */

size_t cpu_onednn_scratch(const cpu_onednn_plan *plan)
{
    return round64(plan->packed_bytes) + round64(plan->bias_bytes) + round64(plan->pad_bytes);
}

const char *cpu_onednn_name(const cpu_onednn_plan *plan)
{
    return plan->name;
}

static bool step_run(const plan_step *step, cpu_onednn *library, void *const address[])
{
    dnnl_exec_arg_t args[MAX_SLOTS];

    if (!step->primitive)
        return true;
    for (int i = 0; i < step->n_slots; i++) {
        const plan_slot *slot = &step->slots[i];
        if (dnnl_memory_set_data_handle(slot->memory, address[slot->kind]) != dnnl_success)
            return false;
        args[i] = (dnnl_exec_arg_t){slot->arg, slot->memory};
    }
    return dnnl_primitive_execute(step->primitive, library->stream, step->n_slots, args) ==
               dnnl_success &&
           dnnl_stream_wait(library->stream) == dnnl_success;
}

bool cpu_onednn_run(cpu_onednn *library, const cpu_onednn_plan *plan, void *out, const void *in0,
                    const void *in1, const float *bias, void *scratch)
{
    char *packed = scratch, *zeros = packed + round64(plan->packed_bytes);
    char *pad = zeros + round64(plan->bias_bytes);
    void *const address[] = {
        [SLOT_OUT] = out,
        [SLOT_IN0] = (void *)in0, /* oneDNN's memory objects do not know const */
        [SLOT_IN1] = (void *)in1,
        [SLOT_BIAS] = bias ? (void *)bias : zeros,
        [SLOT_PACKED] = packed,
        [SLOT_PAD] = pad,
    };
    const int threads_before = omp_get_max_threads();
    bool ok;

    if (!bias && plan->bias_bytes)
        memset(zeros, 0, plan->bias_bytes);
    omp_set_num_threads(library->n_threads);
    ok = step_run(&plan->before, library, address) && step_run(&plan->main, library, address) &&
         step_run(&plan->after, library, address);
    omp_set_num_threads(threads_before);
    return ok;
}
