/* test_cuda_capture.c - that the stand-ins of tests/cuda_host/ are strict: what a stream that is captured refuses, a
 * wait that was forgotten, and a graph that outlives memory it knows.
 */
#include "tests/check.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/include/cuda_runtime_api.h"

#pragma weak cuda_host_count
#pragma weak cudaGetDeviceCount
#pragma weak cudaGetLastError
#pragma weak cudaMalloc
#pragma weak cudaFree
#pragma weak cudaHostAlloc
#pragma weak cudaFreeHost
#pragma weak cudaMemcpyAsync
#pragma weak cudaMemsetAsync
#pragma weak cudaStreamCreateWithFlags
#pragma weak cudaStreamDestroy
#pragma weak cudaStreamSynchronize
#pragma weak cudaStreamWaitEvent
#pragma weak cudaEventCreateWithFlags
#pragma weak cudaEventDestroy
#pragma weak cudaEventRecord
#pragma weak cudaEventSynchronize
#pragma weak cudaEventQuery
#pragma weak cudaStreamBeginCapture
#pragma weak cudaStreamEndCapture
#pragma weak cudaGraphInstantiate
#pragma weak cudaGraphLaunch
#pragma weak cudaGraphDestroy
#pragma weak cudaGraphExecDestroy

enum { N = 64 };

typedef struct device {
    cudaStream_t stream, other;
    cudaEvent_t event;
    float *memory, *pinned;
} device;

#define OK(call) assert_int_equal(call, cudaSuccess)

static bool open_device(device *d)
{
    int n = 0;

    if (!cuda_host_count) {
        print_message("SKIP the stand-ins: the program is not linked with them\n");
        return false;
    }
    OK(cudaGetDeviceCount(&n));
    OK(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&d->other, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&d->event, cudaEventDisableTiming));
    OK(cudaMalloc((void **)&d->memory, N * sizeof(float)));
    OK(cudaHostAlloc((void **)&d->pinned, N * sizeof(float), cudaHostAllocDefault));
    return true;
}

static void close_device(device *d)
{
    OK(cudaStreamDestroy(d->stream));
    OK(cudaStreamDestroy(d->other));
    OK(cudaEventDestroy(d->event));
    OK(cudaFree(d->memory));
    OK(cudaFreeHost(d->pinned));
}

/* --- what spoils a recording -------------------------------------------------------------------- */

typedef cudaError_t (*mistake)(device *d);

static cudaError_t takes_memory(device *d)
{
    void *memory;

    (void)d;
    return cudaMalloc(&memory, 64);
}

static cudaError_t takes_pinned_memory(device *d)
{
    void *memory;

    (void)d;
    return cudaHostAlloc(&memory, 64, cudaHostAllocDefault);
}

static cudaError_t waits_for_the_stream(device *d)
{
    return cudaStreamSynchronize(d->stream);
}

static cudaError_t waits_for_an_event(device *d)
{
    return cudaEventSynchronize(d->event);
}

static cudaError_t asks_an_event(device *d)
{
    return cudaEventQuery(d->event);
}

static cudaError_t copies_pageable_memory(device *d)
{
    float value = 1.0f;

    return cudaMemcpyAsync(d->memory, &value, sizeof value, cudaMemcpyHostToDevice, d->stream);
}

static cudaError_t joins_what_is_outside(device *d)
{
    return cudaStreamWaitEvent(d->stream, d->event, 0);
}

static cudaError_t lets_another_join(device *d)
{
    OK(cudaEventRecord(d->event, d->stream));
    return cudaStreamWaitEvent(d->other, d->event, 0);
}

static void test_mistakes_spoil_a_recording(void **state)
{
    static const struct {
        mistake make;
        cudaError_t says;
    } MISTAKES[] = {
        {takes_memory, cudaErrorStreamCaptureUnsupported},
        {takes_pinned_memory, cudaErrorStreamCaptureUnsupported},
        {waits_for_the_stream, cudaErrorStreamCaptureUnsupported},
        {waits_for_an_event, cudaErrorStreamCaptureUnsupported},
        {asks_an_event, cudaErrorStreamCaptureUnsupported},
        {copies_pageable_memory, cudaErrorStreamCaptureUnsupported},
        {joins_what_is_outside, cudaErrorStreamCaptureIsolation},
        {lets_another_join, cudaErrorStreamCaptureUnjoined},
    };
    device d;

    (void)state;
    if (!open_device(&d))
        return;
    for (size_t i = 0; i < sizeof MISTAKES / sizeof *MISTAKES; i++) {
        cudaGraph_t graph = NULL;
        OK(cudaEventRecord(d.event, d.other));
        OK(cudaStreamBeginCapture(d.stream, cudaStreamCaptureModeThreadLocal));
        OK(cudaMemsetAsync(d.memory, 0, sizeof(float), d.stream));
        assert_int_equal(MISTAKES[i].make(&d), MISTAKES[i].says);
        assert_int_equal(cudaStreamEndCapture(d.stream, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
        (void)cudaGetLastError();
    }
    close_device(&d);
}

/* --- graphs --------------------------------------------------------------------------------------- */

/* memory = 0 on every launch */
static cudaGraphExec_t record_zero(device *d, float *memory)
{
    cudaGraph_t graph;
    cudaGraphExec_t work;

    OK(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaMemsetAsync(memory, 0, N * sizeof(float), d->stream));
    OK(cudaStreamEndCapture(d->stream, &graph));
    OK(cudaGraphInstantiate(&work, graph, 0));
    OK(cudaGraphDestroy(graph));
    return work;
}

static void test_what_is_recorded_runs_when_it_is_launched(void **state)
{
    cudaGraphExec_t work;
    device d;

    (void)state;
    if (!open_device(&d))
        return;
    d.pinned[0] = 3.0f;
    OK(cudaMemcpyAsync(d.memory, d.pinned, sizeof(float), cudaMemcpyHostToDevice, d.stream));
    work = record_zero(&d, d.memory);
    OK(cudaMemcpyAsync(d.pinned + 1, d.memory, sizeof(float), cudaMemcpyDeviceToHost, d.stream));
    OK(cudaGraphLaunch(work, d.stream));
    OK(cudaMemcpyAsync(d.pinned + 2, d.memory, sizeof(float), cudaMemcpyDeviceToHost, d.stream));
    OK(cudaStreamSynchronize(d.stream));
    assert_true(d.pinned[1] == 3.0f && d.pinned[2] == 0.0f);
    OK(cudaGraphExecDestroy(work));
    close_device(&d);
}

static void test_graph_outlives_its_memory(void **state)
{
    int status;
    pid_t child;

    (void)state;
    if (!cuda_host_count)
        return;
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        device d;
        cudaGraphExec_t work;
        float *memory;
        open_device(&d);
        OK(cudaMalloc((void **)&memory, N * sizeof(float)));
        work = record_zero(&d, memory);
        OK(cudaFree(memory));
        cudaGraphLaunch(work, d.stream);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* --- order ------------------------------------------------------------------------------------- */

/* What the main stream sees of a copy by another: old values when it does not wait, the new ones when it does. */
static void test_forgotten_wait_shows(void **state)
{
    device d;

    (void)state;
    if (!open_device(&d))
        return;
    for (int waits = 0; waits < 2; waits++) {
        OK(cudaMemsetAsync(d.memory, 0, sizeof(float), d.stream));
        OK(cudaStreamSynchronize(d.stream));
        d.pinned[0] = 5.0f;
        OK(cudaMemcpyAsync(d.memory, d.pinned, sizeof(float), cudaMemcpyHostToDevice, d.other));
        OK(cudaEventRecord(d.event, d.other));
        if (waits)
            OK(cudaStreamWaitEvent(d.stream, d.event, 0));
        OK(cudaMemcpyAsync(d.pinned + 1, d.memory, sizeof(float), cudaMemcpyDeviceToHost, d.stream));
        OK(cudaStreamSynchronize(d.stream));
        assert_true(d.pinned[1] == (waits ? 5.0f : 0.0f));
        OK(cudaStreamSynchronize(d.other));
    }
    close_device(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes_spoil_a_recording),
        cmocka_unit_test(test_what_is_recorded_runs_when_it_is_launched),
        cmocka_unit_test(test_graph_outlives_its_memory),
        cmocka_unit_test(test_forgotten_wait_shows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
