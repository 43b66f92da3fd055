/* tape.c - the life of a node.
 *
 * A tensor owns a reference to the node that made it, a node owns its inputs: what nobody can
 * reach any more frees itself, however long the chain, without recursion.
 */
#include <string.h>

#include "autograd/internal.h"

ag_gnode *ag_gnode_new(ag_ctx *ctx)
{
    ag_gnode *node = ag_host_take(ctx, sizeof *node);

    if (!node)
        return NULL;
    memset(node, 0, sizeof *node);
    node->ctx = ctx;
    node->refs = 1;
    node->id = ctx->next_node++;
    return node;
}

void ag_gnode_spend(ag_gnode *node)
{
    ag_ctx *ctx = node->ctx;

    node->spent = true;
    for (int i = 0; i < AG_MAX_IN; i++) {
        ag_release(node->call.in[i]);
        node->call.in[i] = NULL;
    }
    for (int i = 0; i < AG_MAX_OUT; i++) {
        ag_release(node->call.out[i]);
        node->call.out[i] = NULL;
    }
    for (int i = 0; i < node->n_captured; i++)
        ag_release(node->captured[i]);
    ag_host_give(ctx, node->captured, (size_t)node->captured_room * sizeof *node->captured);
    ag_host_give(ctx, node->arg, node->arg_size);
    node->captured = NULL;
    node->n_captured = node->captured_room = 0;
    node->arg = NULL;
}

void ag_gnode_release(ag_gnode *node)
{
    ag_ctx *ctx;

    if (!node || --node->refs > 0)
        return;
    ctx = node->ctx;
    node->next_dead = ctx->dead;
    ctx->dead = node;
    if (ctx->burying)
        return;
    ctx->burying = true;
    while (ctx->dead) {
        ag_gnode *dead = ctx->dead;
        ctx->dead = dead->next_dead;
        ag_gnode_spend(dead);
        for (int i = 0; i < AG_MAX_OUT; i++)
            if (dead->acc[i])
                ag_release(dead->acc[i]);
        ag_host_give(ctx, dead, sizeof *dead);
    }
    ctx->burying = false;
}
