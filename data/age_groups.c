/* age_groups.c - see age_groups.h. */
#include "data/age_groups.h"

#include <stdio.h>
#include <string.h>

/* The first year of each group, and the age FADING's first release gave to it. */
static const struct {
    const char *name;
    int from, age;
} groups[DATA_AGE_GROUPS] = {{"0-2", 0, 1},    {"3-6", 3, 5},    {"7-9", 7, 8},    {"10-14", 10, 12},
                             {"15-19", 15, 17}, {"20-29", 20, 25}, {"30-39", 30, 35}, {"40-49", 40, 45},
                             {"50-69", 50, 60}, {"70-120", 70, 80}};

const char *data_age_group_name(int group)
{
    return groups[group].name;
}

int data_age_group(float age)
{
    int g = DATA_AGE_GROUPS - 1;

    while (g > 0 && age < (float)groups[g].from)
        g--;
    return g;
}

int data_age_of_group(const char *name)
{
    for (int g = 0; g < DATA_AGE_GROUPS; g++) {
        if (!strcmp(groups[g].name, name))
            return groups[g].age;
    }
    return -1;
}

void data_age_stats_add(data_age_stats *s, float age, char gender)
{
    s->youngest = s->n == 0 || age < s->youngest ? age : s->youngest;
    s->oldest = s->n == 0 || age > s->oldest ? age : s->oldest;
    s->n++;
    s->groups[data_age_group(age)]++;
    s->n_female += gender == 'f';
    s->n_male += gender == 'm';
    s->sum += (double)age;
}

char *data_age_stats_text(ag_ctx *ctx, const data_age_stats *s)
{
    char counts[DATA_AGE_GROUPS * 40] = "", genders[80] = "";
    size_t used = 0;

    if (s->n == 0)
        return ag_strdup(ctx, "no picture has an age");
    for (int g = 0; g < DATA_AGE_GROUPS; g++)
        used += (size_t)snprintf(counts + used, sizeof counts - used, "%s%s: %lld", g ? ", " : "", groups[g].name,
                                 (long long)s->groups[g]);
    if (s->n_female + s->n_male > 0)
        snprintf(genders, sizeof genders, ", %lld female, %lld male", (long long)s->n_female, (long long)s->n_male);
    return ag_printf(ctx, "%lld picture%s, ages %g to %g, mean %.1f (%s)%s", (long long)s->n, s->n == 1 ? "" : "s",
                     (double)s->youngest, (double)s->oldest, s->sum / (double)s->n, counts, genders);
}
