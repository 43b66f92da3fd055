/* plans.c - see plans.h. */
#include "autograd/cuda/plans.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static size_t hash(const void *key, size_t n)
{
    const unsigned char *bytes = key;
    uint64_t h = 14695981039346656037u;

    for (size_t i = 0; i < n; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 32);
}

void *cuda_plans_find(const cuda_plans *plans, const void *key)
{
    if (!plans->room)
        return NULL;
    for (size_t i = hash(key, plans->key_bytes);; i++) {
        void *plan = plans->at[i & (plans->room - 1)];
        if (!plan || memcmp(plan, key, plans->key_bytes) == 0)
            return plan;
    }
}

static void place(cuda_plans *plans, void *plan)
{
    size_t i = hash(plan, plans->key_bytes);

    while (plans->at[i & (plans->room - 1)])
        i++;
    plans->at[i & (plans->room - 1)] = plan;
}

/* At most half full, so that a search ends. */
static bool make_room(cuda_plans *plans)
{
    const cuda_plans old = *plans;
    void **at;

    if (2 * plans->n < plans->room)
        return true;
    at = calloc(old.room ? 2 * old.room : 64, sizeof *at);
    if (!at)
        return false;
    plans->at = at;
    plans->room = old.room ? 2 * old.room : 64;
    for (size_t i = 0; i < old.room; i++)
        if (old.at[i])
            place(plans, old.at[i]);
    free(old.at);
    return true;
}

bool cuda_plans_add(cuda_plans *plans, void *plan)
{
    if (!make_room(plans))
        return false;
    place(plans, plan);
    plans->n++;
    return true;
}

void cuda_plans_free(cuda_plans *plans, void (*destroy)(void *user, void *plan), void *user)
{
    for (size_t i = 0; i < plans->room; i++)
        if (plans->at[i])
            destroy(user, plans->at[i]);
    free(plans->at);
    plans->at = NULL;
    plans->n = plans->room = 0;
}
