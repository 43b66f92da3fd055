/* test_ops.c - every op against its definition, and a walk over the list of ops.
 *
 *     test_ops            everything
 *     test_ops conv       the cases whose name begins so
 *
 * The cases are in tests/ops/, by family; tests/ops/harness.h says what is checked of each.
 */
#include "tests/ops/blocks.h"
#include "tests/ops/elementwise.h"
#include "tests/ops/harness.h"
#include "tests/ops/layout.h"
#include "tests/ops/pictures.h"
#include "tests/ops/products.h"

#include "autograd/cuda.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static const struct {
    const op_case *cases;
    int n;
} FAMILIES[] = {
    {elementwise_cases, COUNT(elementwise_cases)},
    {layout_cases, COUNT(layout_cases)},
    {product_cases, COUNT(product_cases)},
    {block_cases, COUNT(block_cases)},
    {picture_cases, COUNT(picture_cases)},
};

static void test_case(void **state)
{
    check_op_case(*state);
}

/* Ops without a gradient, and why that is right. */
static const struct {
    const ag_op *op;
    const char *why;
} NO_GRADIENT_OF_ITS_OWN[] = {
    {&ag_op_step, "constant between ties, and only ever given detached inputs"},
    {&ag_op_softmax_backward, "fused; a recorded backward pass uses primitive ops"},
    {&ag_op_layer_norm_backward, "fused; a recorded backward pass uses primitive ops"},
    {&ag_op_group_norm_backward, "fused; a recorded backward pass uses primitive ops"},
    {&ag_op_attention_backward, "fused; a recorded backward pass uses primitive ops"},
    {&ag_op_geglu_backward, "fused; a recorded backward pass uses primitive ops"},
    {&ag_op_row_loss_backward, "fused; a recorded backward pass uses primitive ops"},
    {&ag_op_timestep_embedding, "its input is a step number"},
    {&ag_op_normal, "its input is a key"},
    {&ag_op_copy_, "changes a tensor in place"},
    {&ag_op_add_, "changes a tensor in place"},
    {&ag_op_scale_, "changes a tensor in place"},
    {&ag_op_fill_, "changes a tensor in place"},
    {&ag_op_lerp_, "changes a tensor in place"},
    {&ag_op_sumsq_, "changes a tensor in place"},
    {&ag_op_clip_, "changes a tensor in place"},
    {&ag_op_loss_scale_, "changes a tensor in place"},
    {&ag_op_adamw_, "changes a tensor in place"},
    {&ag_op_adamw8bit_, "changes a tensor in place"},
    {&ag_op_sgd_, "changes a tensor in place"},
    {&ag_op_lion_, "changes a tensor in place"},
    {&ag_op_ranger_, "changes a tensor in place"},
    {&ag_op_prodigy_d_, "changes a tensor in place"},
    {&ag_op_prodigy_moments_, "changes a tensor in place"},
    {&ag_op_prodigy_step_, "changes a tensor in place"},
    {&ag_op_adafactor_moments_, "changes a tensor in place"},
    {&ag_op_adafactor_sums_, "changes a tensor in place"},
    {&ag_op_adafactor_step_, "changes a tensor in place"},
};

/* Views run nothing, so nobody sees them run. */
static bool is_view(const ag_op *op)
{
    return op == &ag_op_reshape;
}

/* Ops whose values are checked in tests/test_ops_state.c. */
static bool is_checked_elsewhere(const ag_op *op)
{
    return !op->grad && op != &ag_op_step && !strstr(op->name, "_backward");
}

static void test_list(void **state)
{
    const ag_cuda_api *cuda = ag_cuda_built(); /* its table needs no device */
    int n_bad = 0;

    (void)state;
    for (int i = 0; ag_op_list[i]; i++) {
        const ag_op *op = ag_op_list[i];
        const char *excused = NULL;
        op_reach reach = {0};
        for (int k = 0; k < REACH_MAX && check_reach[k].op; k++)
            if (check_reach[k].op == op)
                reach = check_reach[k];
        for (int k = 0; k < COUNT(NO_GRADIENT_OF_ITS_OWN); k++)
            if (NO_GRADIENT_OF_ITS_OWN[k].op == op)
                excused = NO_GRADIENT_OF_ITS_OWN[k].why;
        for (int k = 0; k < i; k++)
            if (strcmp(ag_op_list[k]->name, op->name) == 0) {
                print_error("%s: two ops have this name\n", op->name);
                n_bad++;
            }
#define WANT(condition, text)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            print_error("%s: %s\n", op->name, text);                                              \
            n_bad++;                                                                              \
        }                                                                                         \
    } while (0)
        WANT(op->shape, "no shape rule");
        WANT(op->run[AG_CPU] || is_view(op), "no CPU kernel");
        WANT(!cuda || cuda->kernel(op) || is_view(op), "no CUDA kernel");
        WANT(reach.ran || is_view(op) || is_checked_elsewhere(op), "no check of its values");
        WANT(!op->grad == !!excused, excused ? "excused, and has a gradient" : "no gradient");
        if (excused || is_view(op))
            continue;
        WANT(reach.differentiated, "no gradient check");
        WANT(reach.twice, "no second-order check");
    }
    if (n_bad)
        fail_msg("%d gaps in the list of ops", n_bad);
}

int main(int argc, char **argv)
{
    static struct CMUnitTest tests[1024];
    int n = 0;

    for (int f = 0; f < COUNT(FAMILIES); f++)
        for (int i = 0; i < FAMILIES[f].n; i++) {
            const op_case *c = &FAMILIES[f].cases[i];
            if (argc > 1 && strncmp(c->name, argv[1], strlen(argv[1])) != 0)
                continue;
            tests[n++] = (struct CMUnitTest){
                .name = c->name, .test_func = test_case, .initial_state = (void *)(uintptr_t)c};
        }
    if (argc == 1)
        tests[n++] = (struct CMUnitTest){.name = "the list of ops", .test_func = test_list};
    return _cmocka_run_group_tests("ops", tests, (size_t)n, NULL, NULL) ? 1 : 0;
}
