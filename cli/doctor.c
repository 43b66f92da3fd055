/* doctor.c - agewright doctor: what hardware and libraries are used, and how fast they are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <dnnl.h>
#include <hdf5.h>
#include <jansson.h>
#include <jpeglib.h>
#include <openssl/crypto.h>
#include <png.h>
#include <tiffio.h>
#include <utf8proc.h>
#include <webp/decode.h>
#include <yaml.h>

#include "autograd/available.h"
#include "autograd/cpu/isa.h"
#include "autograd/gpu.h"
#include "autograd/grad.h"
#include "autograd/ops.h"
#include "autograd/version.h"
#include "cli/command.h"
#include "data/file.h"
#include "data/hub.h"
#include "data/json.h"

typedef struct options {
    bool json, quick;
    cli_device device;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag FLAGS[] = {
    {.name = "quick", .kind = CLI_SWITCH, .offset = AT(quick),
     .help = "leave out the two seconds of measuring"},
    {.name = "json", .kind = CLI_SWITCH, .offset = AT(json), .help = "print JSON"},
    {0},
};

static const cli_group GROUPS[] = {
    {"flags", FLAGS, 0}, {"the machine", cli_device_flags, AT(device)}, {0}};

static const cli_syntax SYNTAX = {
    .command = "doctor",
    .usage = "[--json]",
    .summary = "Say what hardware and libraries are used here, where models are looked for, and "
               "how fast this machine multiplies and moves memory.",
    .groups = GROUPS,
};

static void set(json_t *object, const char *key, json_t *value)
{
    (void)json_object_set_new(object, key, value);
}

/* --- the machine ------------------------------------------------------------------------------ */

/* The value of the first line of a /proc file that begins with `key`, up to the line's end. */
static char *proc_value(ag_ctx *ctx, const char *path, const char *key)
{
    FILE *file = fopen(path, "r");
    char line[512], *value = NULL;

    while (file && !value && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');

        if (!colon || strncmp(line, key, strlen(key)) != 0)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        line[strcspn(line, "\n")] = '\0';
        value = ag_strdup(ctx, colon);
    }
    if (file)
        fclose(file);
    return value;
}

static void describe_machine(ag_ctx *ctx, json_t *root)
{
    char *model = proc_value(ctx, "/proc/cpuinfo", "model name");
    char *total = proc_value(ctx, "/proc/meminfo", "MemTotal");
    const char *cap = getenv("AGEWRIGHT_MAX_ISA");
    const size_t left = ag_available_bytes();
    json_t *one = json_object();

    set(one, "cpu", json_string(model ? model : "unknown"));
    set(one, "instruction_set", json_string(cpu_isa_name(cpu_isa_here())));
    if (cap)
        set(one, "limited_by_AGEWRIGHT_MAX_ISA", json_string(cap));
    set(one, "multiplies_bf16", json_boolean(cpu_isa_has_bf16()));
    set(one, "threads", json_integer(ag_ctx_threads(ctx)));
    if (total)
        set(one, "memory_gib", json_real(strtod(total, NULL) / 1048576.0));
    if (left != SIZE_MAX)
        set(one, "memory_free_gib", json_real((double)left / 1073741824.0));
    set(root, "machine", one);
    ag_delete(model);
    ag_delete(total);
}

/* --- libraries -------------------------------------------------------------------------------- */

static json_t *version3(int major, int minor, int patch)
{
    return json_sprintf("%d.%d.%d", major, minor, patch);
}

static const char *onednn_isa(void)
{
    switch ((int)dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41:
        return "SSE4.1";
    case dnnl_cpu_isa_avx:
        return "AVX";
    case dnnl_cpu_isa_avx2:
        return "AVX2";
    case dnnl_cpu_isa_avx512_core:
        return "AVX-512";
    case dnnl_cpu_isa_avx512_core_vnni:
        return "AVX-512 with VNNI";
    case dnnl_cpu_isa_avx512_core_bf16:
        return "AVX-512 with bf16";
    case dnnl_cpu_isa_avx512_core_amx:
        return "AMX";
    default:
        return "another";
    }
}

static void describe_libraries(json_t *root)
{
    static const char *const absent[] = {"NCCL", "MPI", "FFmpeg"};
    const dnnl_version_t *dnnl = dnnl_version();
    const int webp = WebPGetDecoderVersion();
    const char *tiff = strstr(TIFFGetVersion(), "ersion ");
    json_t *one = json_object();
    unsigned h5[3] = {0};
    int yaml[3];

    (void)H5get_libversion(&h5[0], &h5[1], &h5[2]);
    yaml_get_version(&yaml[0], &yaml[1], &yaml[2]);
    set(one, "oneDNN",
        json_sprintf("%d.%d.%d, uses %s", dnnl->major, dnnl->minor, dnnl->patch, onednn_isa()));
    set(one, "HDF5", version3((int)h5[0], (int)h5[1], (int)h5[2]));
    set(one, "libpng", json_string(png_get_libpng_ver(NULL)));
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    set(one, "libjpeg-turbo",
        version3(LIBJPEG_TURBO_VERSION_NUMBER / 1000000, LIBJPEG_TURBO_VERSION_NUMBER / 1000 % 1000,
                 LIBJPEG_TURBO_VERSION_NUMBER % 1000));
#else
    set(one, "libjpeg", version3(JPEG_LIB_VERSION / 10, JPEG_LIB_VERSION % 10, 0));
#endif
    set(one, "libwebp", version3(webp >> 16, webp >> 8 & 255, webp & 255));
    set(one, "libtiff",
        json_sprintf("%.*s", tiff ? (int)strcspn(tiff + 7, "\n") : 1, tiff ? tiff + 7 : "?"));
    set(one, "jansson", json_string(jansson_version_str()));
    set(one, "libyaml", version3(yaml[0], yaml[1], yaml[2]));
    set(one, "utf8proc", json_string(utf8proc_version()));
    set(one, "OpenSSL", json_string(OpenSSL_version(OPENSSL_VERSION_STRING)));
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        set(one, absent[i], json_string("not built in"));
    set(root, "libraries", one);
}

static const char *or_missing(const char *version)
{
    return version[0] ? version : "not found";
}

static void describe_gpus(json_t *root)
{
    json_t *one = json_object();
    ag_gpus gpus;

    ag_gpus_find(&gpus);
    if (gpus.n == 0)
        set(one, "none", json_string(gpus.why));
    for (int i = 0; i < gpus.n; i++) {
        const ag_gpu *g = &gpus.list[i];
        char key[32];
        snprintf(key, sizeof key, "device_%d", i);
        set(one, key, json_sprintf("%s, compute capability %d.%d, %d multiprocessors, %.1f GiB", g->name, g->major,
                                   g->minor, g->processors, (double)g->bytes / 1073741824.0));
    }
    set(one, "driver_for_CUDA", json_string(or_missing(gpus.driver)));
    set(one, "CUDA_runtime", json_string(or_missing(gpus.runtime)));
    set(one, "cuBLASLt", json_string(or_missing(gpus.cublaslt)));
    set(one, "cuDNN", json_string(or_missing(gpus.cudnn)));
    set(root, "gpu", one);
}

static void describe_models(ag_ctx *ctx, json_t *root)
{
    const char *own = getenv("AGEWRIGHT_MODELS");
    char *cache = data_hub_cache(ctx);
    json_t *one = json_object();

    set(one, "AGEWRIGHT_MODELS", json_string(own ? own : "not set"));
    if (cache)
        set(one, "hub_cache",
            json_sprintf("%s%s", cache, data_is_folder(cache) ? "" : " (not there)"));
    set(root, "models", one);
    ag_delete(cache);
}

/* --- speed ------------------------------------------------------------------------------------ */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What is measured: one call, and how much it does. */
typedef enum task { PRODUCT, CONVOLUTION, ATTENTION, MEMORY, N_TASKS } task;

static ag_tensor *filled(ag_ctx *ctx, int n_dims, const int64_t *dims)
{
    ag_tensor *t = ag_empty(ctx, AG_STEP, AG_F32, n_dims, dims);

    return ag_fill_(ctx, t, 0.01);
}

/* Seconds of the best call of a task within half a second or so. */
static double measure(ag_ctx *ctx, task which)
{
    const int64_t square[] = {2048, 2048}, image[] = {1, 64, 64, 320}, kernel[] = {320, 3, 3, 320};
    const int64_t tokens[] = {1, 4096, 320}, values[] = {32 << 20};
    const int64_t *dims[] = {square, image, tokens, values};
    const int n_dims[] = {2, 4, 3, 1};
    const ag_conv_opts pads = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    const double end = now() + 0.45;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *a = filled(ctx, n_dims[which], dims[which]);
    ag_tensor *b = which == CONVOLUTION ? filled(ctx, 4, kernel)
                                        : filled(ctx, n_dims[which], dims[which]);
    double best = HUGE_VAL;

    do {
        const ag_scope round = ag_scope_open(ctx);
        double start;

        ag_wait(ctx);
        start = now();
        if (which == PRODUCT)
            ag_matmul(ctx, a, b, false, true);
        else if (which == CONVOLUTION)
            ag_conv2d(ctx, a, b, NULL, pads);
        else if (which == ATTENTION)
            ag_attention(ctx, a, a, b, 8, 0.158, false);
        else
            ag_add_(ctx, a, b);
        ag_wait(ctx);
        best = fmin(best, now() - start);
        ag_scope_close(ctx, round, NULL);
    } while (now() < end && ag_status_of(ctx) == AG_OK);
    ag_scope_close(ctx, scope, NULL);
    return best;
}

static void describe_speed(ag_ctx *ctx, json_t *root)
{
    static const char *const names[] = {"matrix_product_gflops", "convolution_3x3_gflops",
                                        "attention_gflops", "memory_gb_per_s"};
    const double work[] = {2.0 * 2048 * 2048 * 2048, 2.0 * 64 * 64 * 320 * 320 * 9,
                           4.0 * 4096 * 4096 * 320, 3.0 * 4 * (32 << 20)};
    const bool was = ag_record(ctx, false);
    json_t *one = json_object();

    for (int t = 0; t < N_TASKS && ag_status_of(ctx) == AG_OK; t++) {
        const double seconds = measure(ctx, (task)t);

        set(one, names[t], json_real(round(1e-8 * work[t] / seconds) / 10.0));
    }
    ag_record(ctx, was);
    set(root, "speed_f32", one);
}

/* --- the command ------------------------------------------------------------------------------ */

static void print(const json_t *root)
{
    const char *group, *key;
    json_t *members, *value;

    printf("agewright %s\n", AG_VERSION);
    json_object_foreach((json_t *)root, group, members)
    {
        if (!json_is_object(members))
            continue;
        printf("\n%s\n", group);
        json_object_foreach(members, key, value)
        {
            printf("  %-30s ", key);
            if (json_is_string(value))
                printf("%s\n", json_string_value(value));
            else if (json_is_boolean(value))
                printf("%s\n", json_is_true(value) ? "yes" : "no");
            else
                printf("%.*f\n", json_is_real(value) ? 1 : 0, json_number_value(value));
        }
    }
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    json_t *root = json_object();

    (void)parsed;
    set(root, "version", json_string(AG_VERSION));
    describe_machine(ctx, root);
    describe_gpus(root);
    describe_libraries(root);
    describe_models(ctx, root);
    if (!o->quick)
        describe_speed(ctx, root);
    if (ag_status_of(ctx) == AG_OK && o->json) {
        char *text = data_json_dump(ctx, root, 2);

        if (text)
            puts(text);
        ag_delete(text);
    } else if (ag_status_of(ctx) == AG_OK) {
        print(root);
    }
    json_decref(root);
    return ag_status_of(ctx);
}

int cli_doctor(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), AT(device), argc, argv, body);
}
