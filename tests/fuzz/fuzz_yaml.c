/* fuzz_yaml.c - any bytes as YAML: an error, or a tree whose every node can be asked everything.
 * For libFuzzer (make fuzz). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static ag_ctx *ctx;

static void walk(const data_yaml_node *node, int depth)
{
    int64_t whole;
    double number;
    bool flag;

    if (depth > 33 || data_yaml_line(node) < 1)
        abort();
    (void)data_yaml_get_int(&whole, ctx, node);
    ag_clear(ctx);
    (void)data_yaml_get_real(&number, ctx, node);
    ag_clear(ctx);
    (void)data_yaml_get_bool(&flag, ctx, node);
    ag_clear(ctx);
    if (data_yaml_kind_of(node) == DATA_YAML_SCALAR) {
        if (!data_yaml_text(node) || data_yaml_size(node) != 0)
            abort();
        (void)data_yaml_is_null(node);
    }
    for (int64_t i = 0; i < data_yaml_size(node); i++) {
        if (data_yaml_kind_of(node) == DATA_YAML_MAP &&
            strchr(data_yaml_key_at(node, i), '.') == NULL && data_yaml_key_at(node, i)[0] &&
            data_yaml_find(node, data_yaml_key_at(node, i)) != data_yaml_at(node, i))
            abort();
        walk(data_yaml_at(node, i), depth + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    data_yaml *yaml = NULL;

    ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    if (data_yaml_parse(&yaml, ctx, "input", (const char *)bytes, n) == AG_OK)
        walk(data_yaml_root(yaml), 0);
    else if (yaml || ag_status_of(ctx) == AG_OK || !ag_message(ctx)[0])
        abort();
    data_yaml_free(yaml);
    ag_ctx_free(ctx);
    return 0;
}
