/* runtime.cc - the CUDA runtime without a GPU: memory, streams, events, graphs.
 *
 * Work is queued and runs when somebody waits for it, as late as the program allows: a stream that
 * did not wait for another one's event runs before it, and a host that did not wait sees old
 * values. Device memory is closed to the host (PROT_NONE) while no queue is being worked off.
 */
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "cuda_host.h"

/* --- saying what is wrong, failing on demand -------------------------------------------------- */

void cuda_host_die(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("cuda_host: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

static long fail_in = -1;
static bool fail_forever;
static cudaError_t last_error = cudaSuccess;

void cuda_host_fail_in(long n, bool forever)
{
    fail_in = n;
    fail_forever = forever;
}

bool cuda_host_fails(void)
{
    static bool asked;

    if (!asked) {
        const char *n = getenv("CUDA_HOST_FAIL");
        asked = true;
        if (n)
            cuda_host_fail_in(atol(n), true);
    }
    if (fail_in < 0)
        return false;
    if (fail_in > 0) {
        fail_in--;
        return false;
    }
    if (!fail_forever)
        fail_in = -1;
    return true;
}

cudaError_t cuda_host_error(cudaError_t error)
{
    last_error = error;
    return error;
}

static long counts[CUDA_HOST_N_EVENTS];

long cuda_host_count(cuda_host_event event)
{
    return counts[event];
}

void cuda_host_happened(cuda_host_event event)
{
    counts[event]++;
}

#define MAY_FAIL(error)                                                                            \
    do {                                                                                           \
        if (cuda_host_fails())                                                                     \
            return cuda_host_error(error);                                                         \
    } while (0)
#define WANT(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return cuda_host_error(cudaErrorInvalidValue);                                         \
    } while (0)

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;

    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorUnknown: return "unknown error";
    }
    return "unrecognized error code";
}

/* --- device memory ---------------------------------------------------------------------------- */

/* What was taken, by address: pieces side by side count as one when a range is looked for. */
static std::map<uintptr_t, size_t> &pieces()
{
    static std::map<uintptr_t, size_t> map;

    return map;
}

/* Which taking of memory a piece is from, by its address. */
static std::map<uintptr_t, uint64_t> takings;

static uint64_t taking_of(const void *address)
{
    auto piece = pieces().upper_bound(reinterpret_cast<uintptr_t>(address));

    if (piece == pieces().begin() || !cuda_host_is_device(address, 1))
        return 0;
    return takings[(--piece)->first];
}

static int n_open;                     /* queues being worked off */
static uint64_t n_takings;
static size_t device_bytes, limit_bytes = (size_t)8 << 30;
static std::map<void *, size_t> pinned; /* host memory for copies in the background */

static int protection()
{
    return n_open ? PROT_READ | PROT_WRITE : PROT_NONE;
}

static void protect_all()
{
    uintptr_t from = 0, to = 0;

    for (const auto &piece : pieces()) { /* neighbours in one call */
        if (piece.first != to) {
            if (to > from)
                mprotect(reinterpret_cast<void *>(from), to - from, protection());
            from = piece.first;
        }
        to = piece.first + piece.second;
    }
    if (to > from)
        mprotect(reinterpret_cast<void *>(from), to - from, protection());
}

static void open_device()
{
    if (n_open++ == 0)
        protect_all();
}

static void close_device()
{
    if (--n_open == 0)
        protect_all();
}

bool cuda_host_is_device(const void *address, size_t bytes)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const uintptr_t end = at + bytes;

    while (at < end || bytes == 0) {
        auto piece = pieces().upper_bound(at);
        if (piece == pieces().begin())
            return false;
        --piece;
        if (at >= piece->first + piece->second)
            return false;
        if (bytes == 0)
            return true;
        at = piece->first + piece->second;
    }
    return true;
}

bool cuda_host_is_pinned(const void *address, size_t bytes)
{
    const char *at = static_cast<const char *>(address);

    for (const auto &piece : pinned)
        if (at >= static_cast<char *>(piece.first) && at + bytes <= static_cast<char *>(piece.first) + piece.second)
            return true;
    return false;
}

static void on_fault(int signal, siginfo_t *info, void *)
{
    char line[160];
    const int n = snprintf(line, sizeof line, "cuda_host: %s touched %p, which is %s\n",
                           n_open ? "a kernel or copy" : "the host", info->si_addr,
                           cuda_host_is_device(info->si_addr, 1) ? "device memory" : "not device memory");

    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(70);
    std::signal(signal, SIG_DFL);
}

/* Memory at `at` (NULL: anywhere), full of 0xff: as f32 and bf16 it reads as NaN. */
static void *take_piece(void *at, size_t bytes)
{
    void *memory = mmap(at, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

    if (memory == MAP_FAILED)
        return nullptr;
    memset(memory, 0xff, bytes);
    mprotect(memory, bytes, protection());
    pieces()[reinterpret_cast<uintptr_t>(memory)] = bytes;
    takings[reinterpret_cast<uintptr_t>(memory)] = ++n_takings;
    device_bytes += bytes;
    cuda_host_happened(CUDA_HOST_TAKES);
    return memory;
}

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* --- streams ---------------------------------------------------------------------------------- */

typedef std::function<void()> job;

/* Device memory that recorded work knows: address and taking. */
typedef std::map<const void *, uint64_t> known_memory;

struct CUgraph_st {
    std::vector<job> jobs;
    known_memory known;
};
struct CUgraphExec_st {
    std::vector<job> jobs;
    known_memory known;
};
struct CUevent_st {
    cudaStream_t stream; /* where it was last recorded */
    uint64_t after;      /* done when the stream did this many jobs */
    bool is_captured;    /* while that recorded a graph */
};
struct CUstream_st {
    std::deque<job> jobs;
    uint64_t queued, done;
    CUgraph_st *recording; /* what is captured; NULL: nothing */
    bool spoiled;          /* by a call that may not be captured */
};

static std::vector<cudaStream_t> streams;
static int n_recording, n_events, n_graphs;
static cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

static void work_off(cudaStream_t s, uint64_t until)
{
    open_device();
    while (s->done < until && !s->jobs.empty()) {
        const job next = std::move(s->jobs.front());
        s->jobs.pop_front();
        s->done++;
        next();
    }
    close_device();
}

static void work_off_all()
{
    for (cudaStream_t s : streams)
        work_off(s, s->queued);
}

static bool is_stream(cudaStream_t s)
{
    for (cudaStream_t known : streams)
        if (known == s)
            return true;
    return false;
}

cudaError_t cuda_host_queue(cudaStream_t s, job work)
{
    if (!is_stream(s))
        return cuda_host_error(cudaErrorInvalidResourceHandle); /* the default stream is not used here */
    if (s->recording) {
        s->recording->jobs.push_back(std::move(work));
        return cudaSuccess;
    }
    s->jobs.push_back(std::move(work));
    s->queued++;
    if (getenv("CUDA_HOST_EAGER"))
        work_off(s, s->queued);
    return cudaSuccess;
}

void cuda_host_knows(cudaStream_t s, const void *address)
{
    const uint64_t taking = is_stream(s) && s->recording ? taking_of(address) : 0;

    if (taking)
        s->recording->known[address] = taking;
}

static cudaError_t spoil(cudaError_t error)
{
    for (cudaStream_t s : streams)
        s->spoiled |= s->recording != nullptr;
    return cuda_host_error(error);
}

/* A call that may not be made while a stream records: it spoils the recording. */
static cudaError_t not_while_recording()
{
    return n_recording ? spoil(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

/* The same for one that takes memory, unless the thread said that it is no part of the recording. */
static bool may_take()
{
    if (!n_recording || mode_of_thread == cudaStreamCaptureModeRelaxed)
        return true;
    spoil(cudaErrorStreamCaptureUnsupported);
    return false;
}

#define NOT_WHILE_RECORDING()                                                                      \
    do {                                                                                           \
        const cudaError_t not_now = not_while_recording();                                         \
        if (not_now != cudaSuccess)                                                                \
            return not_now;                                                                        \
    } while (0)

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    MAY_FAIL(cudaErrorMemoryAllocation);
    WANT(stream && flags == cudaStreamNonBlocking);
    *stream = new CUstream_st();
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!is_stream(stream) || stream->recording)
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    work_off(stream, stream->queued);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream)
            streams.erase(streams.begin() + (long)i);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    MAY_FAIL(cudaErrorUnknown);
    if (!is_stream(stream))
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    NOT_WHILE_RECORDING();
    cuda_host_happened(CUDA_HOST_WAITS);
    work_off(stream, stream->queued);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    MAY_FAIL(cudaErrorMemoryAllocation);
    WANT(event && flags == cudaEventDisableTiming);
    *event = new CUevent_st();
    n_events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    WANT(event);
    delete event;
    n_events--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    MAY_FAIL(cudaErrorUnknown);
    if (!is_stream(stream))
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    WANT(event);
    event->stream = stream;
    event->after = stream->queued;
    event->is_captured = stream->recording != nullptr;
    return cudaSuccess;
}

static void work_off_event(cudaStream_t stream, uint64_t after)
{
    if (is_stream(stream))
        work_off(stream, after);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(event && flags == 0);
    if (!is_stream(stream))
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    if (!event->stream)
        return cudaSuccess; /* never recorded: nothing to wait for */
    cudaStream_t other = event->stream;
    if (stream->recording && !event->is_captured)
        return spoil(cudaErrorStreamCaptureIsolation);
    if (event->is_captured && stream == other && stream->recording)
        return cudaSuccess; /* in order anyway */
    if (event->is_captured && is_stream(other) && other->recording)
        return spoil(cudaErrorStreamCaptureUnjoined); /* a second stream would join the recording: none of ours does */
    if (event->is_captured)
        return cuda_host_error(cudaErrorCapturedEvent);
    const uint64_t after = event->after;
    return cuda_host_queue(stream, [other, after]() { work_off_event(other, after); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(event);
    NOT_WHILE_RECORDING();
    if (event->is_captured)
        return cuda_host_error(cudaErrorCapturedEvent);
    cuda_host_happened(CUDA_HOST_EVENT_WAITS);
    if (event->stream)
        work_off_event(event->stream, event->after);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(event);
    NOT_WHILE_RECORDING();
    if (event->is_captured)
        return cuda_host_error(cudaErrorCapturedEvent);
    if (event->stream && is_stream(event->stream) && event->stream->done < event->after)
        return cuda_host_error(cudaErrorNotReady);
    return cudaSuccess;
}

/* --- graphs ----------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    MAY_FAIL(cudaErrorUnknown);
    if (!is_stream(stream) || stream->recording)
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    WANT(mode == cudaStreamCaptureModeThreadLocal || mode == cudaStreamCaptureModeGlobal);
    stream->recording = new CUgraph_st();
    stream->spoiled = false;
    n_recording++;
    n_graphs++;
    return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(mode);
    std::swap(*mode, mode_of_thread);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    WANT(graph);
    *graph = nullptr;
    if (!is_stream(stream) || !stream->recording)
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    CUgraph_st *recorded = stream->recording;
    stream->recording = nullptr;
    n_recording--;
    if (stream->spoiled || cuda_host_fails()) {
        delete recorded;
        n_graphs--;
        return cuda_host_error(cudaErrorStreamCaptureInvalidated);
    }
    *graph = recorded;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    MAY_FAIL(cudaErrorMemoryAllocation);
    WANT(exec && graph && flags == 0);
    *exec = new CUgraphExec_st{graph->jobs, graph->known};
    n_graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    MAY_FAIL(cudaErrorLaunchFailure);
    WANT(exec);
    NOT_WHILE_RECORDING();
    for (const auto &known : exec->known)
        if (taking_of(known.first) != known.second)
            cuda_host_die("a graph is launched that knows %p, and the memory there was given back since", known.first);
    cuda_host_happened(CUDA_HOST_GRAPHS);
    for (const job &j : exec->jobs) {
        const cudaError_t error = cuda_host_queue(stream, j);
        if (error != cudaSuccess)
            return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    WANT(graph);
    delete graph;
    n_graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    WANT(exec);
    delete exec;
    n_graphs--;
    return cudaSuccess;
}

/* --- taking, giving, copying ------------------------------------------------------------------ */

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    MAY_FAIL(cudaErrorMemoryAllocation);
    WANT(memory && bytes);
    NOT_WHILE_RECORDING();
    if (device_bytes + bytes > limit_bytes)
        return cuda_host_error(cudaErrorMemoryAllocation);
    *memory = take_piece(nullptr, round_up(bytes, 4096));
    return *memory ? cudaSuccess : cuda_host_error(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *memory)
{
    const auto piece = pieces().find(reinterpret_cast<uintptr_t>(memory));

    if (!memory)
        return cudaSuccess;
    WANT(piece != pieces().end());
    NOT_WHILE_RECORDING();
    work_off_all(); /* cudaFree waits for the device */
    munmap(memory, piece->second);
    device_bytes -= piece->second;
    pieces().erase(piece);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    MAY_FAIL(cudaErrorMemoryAllocation);
    WANT(memory && bytes && flags == cudaHostAllocDefault);
    NOT_WHILE_RECORDING();
    *memory = malloc(bytes);
    cuda_host_happened(CUDA_HOST_TAKES);
    if (!*memory)
        return cuda_host_error(cudaErrorMemoryAllocation);
    memset(*memory, 0xff, bytes);
    pinned[*memory] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    if (!memory)
        return cudaSuccess;
    WANT(pinned.count(memory) == 1);
    NOT_WHILE_RECORDING();
    work_off_all();
    pinned.erase(memory);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const void *host = to_device ? from : to;

    MAY_FAIL(cudaErrorUnknown);
    if (kind == cudaMemcpyDefault) {
        WANT(cuda_host_is_device(to, bytes) || cuda_host_is_pinned(to, bytes));
        WANT(cuda_host_is_device(from, bytes) || cuda_host_is_pinned(from, bytes));
        return cuda_host_queue(stream, [=]() { memmove(to, from, bytes); });
    }
    WANT(kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
    WANT(cuda_host_is_device(to, to_device ? bytes : 1) == to_device);
    WANT(cuda_host_is_device(from, from_device ? bytes : 1) == from_device);
    if (!is_stream(stream))
        return cuda_host_error(cudaErrorInvalidResourceHandle);
    cuda_host_knows(stream, to);
    cuda_host_knows(stream, from);
    if ((to_device && from_device) || cuda_host_is_pinned(host, bytes))
        return cuda_host_queue(stream, [=]() { memmove(to, from, bytes); });
    NOT_WHILE_RECORDING();
    cuda_host_happened(CUDA_HOST_WAITS); /* it may */
    if (to_device) { /* the driver takes a copy before it returns */
        auto copy = std::make_shared<std::string>(static_cast<const char *>(from), bytes);
        return cuda_host_queue(stream, [=]() { memcpy(to, copy->data(), bytes); });
    }
    work_off(stream, stream->queued); /* into pageable memory: it waits */
    open_device();
    memcpy(to, from, bytes);
    close_device();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(cuda_host_is_device(to, bytes));
    cuda_host_knows(stream, to);
    return cuda_host_queue(stream, [=]() { memset(to, value, bytes); });
}

/* --- what there is ---------------------------------------------------------------------------- */

/* At the end of a program nothing may be left that was taken. */
static void check_the_end()
{
    if (!pieces().empty() || !streams.empty() || !pinned.empty() || n_events || n_graphs) {
        fprintf(stderr,
                "cuda_host: left at the end: %zu pieces of device memory, %zu streams, %zu of pinned memory, %d "
                "events, %d graphs\n",
                pieces().size(), streams.size(), pinned.size(), n_events, n_graphs);
        _exit(70);
    }
}

cudaError_t cudaGetDeviceCount(int *count)
{
    static bool ready;
    const char *n = getenv("CUDA_HOST_DEVICES");
    struct sigaction action = {};

    MAY_FAIL(cudaErrorInsufficientDriver);
    WANT(count);
    *count = n ? atoi(n) : 1;
    if (*count < 1)
        return cuda_host_error(cudaErrorNoDevice);
    if (!ready) {
        const char *mib = getenv("CUDA_HOST_MIB");
        ready = true;
        if (mib)
            limit_bytes = (size_t)atol(mib) << 20;
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &action, nullptr);
        sigaction(SIGBUS, &action, nullptr);
        atexit(check_the_end);
    }
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    MAY_FAIL(cudaErrorUnknown);
    return device == 0 ? cudaSuccess : cuda_host_error(cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(value && device == 0);
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = 2; return cudaSuccess; /* few, so that grids stride */
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; return cudaSuccess;
    }
    return cuda_host_error(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(prop && device == 0);
    *prop = {};
    snprintf(prop->name, sizeof prop->name, "stand-in on the host");
    prop->totalGlobalMem = limit_bytes;
    prop->multiProcessorCount = 2;
    prop->major = 9;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    MAY_FAIL(cudaErrorUnknown);
    WANT(free && total);
    *total = limit_bytes;
    *free = limit_bytes - device_bytes;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* --- the driver's address ranges -------------------------------------------------------------- */

static const size_t GRANULARITY = 64 << 10; /* the real one is 2 MiB; a small one is passed more often */

static std::map<CUdeviceptr, size_t> &ranges()
{
    static std::map<CUdeviceptr, size_t> map;

    return map;
}

static std::map<CUmemGenericAllocationHandle, size_t> handles; /* memory behind nothing yet, or behind a piece */
static std::map<CUmemGenericAllocationHandle, int> handle_uses;
static std::map<CUdeviceptr, CUmemGenericAllocationHandle> maps;
static CUmemGenericAllocationHandle next_handle = 1;

#define DRIVER_WANT(condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return CUDA_ERROR_INVALID_VALUE;                                                       \
    } while (0)

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option)
{
    DRIVER_WANT(!cuda_host_fails());
    DRIVER_WANT(granularity && prop && prop->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
                prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE && prop->location.id == 0);
    DRIVER_WANT(option == CU_MEM_ALLOC_GRANULARITY_MINIMUM || option == CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    *granularity = GRANULARITY;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                             unsigned long long flags)
{
    void *range;

    if (cuda_host_fails())
        return CUDA_ERROR_OUT_OF_MEMORY;
    DRIVER_WANT(ptr && size && size % GRANULARITY == 0 && alignment == 0 && addr == 0 && flags == 0);
    range = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *ptr = reinterpret_cast<CUdeviceptr>(range);
    ranges()[*ptr] = size;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    const auto range = ranges().find(ptr);
    const auto next = maps.lower_bound(ptr);

    DRIVER_WANT(range != ranges().end() && range->second == size);
    DRIVER_WANT(next == maps.end() || next->first >= ptr + size); /* all unmapped */
    munmap(reinterpret_cast<void *>(ptr), size);
    ranges().erase(range);
    return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    size_t promised = device_bytes;

    DRIVER_WANT(handle && prop && size && size % GRANULARITY == 0 && flags == 0);
    for (const auto &known : handles)
        if (!handle_uses[known.first])
            promised += known.second; /* not yet behind an address */
    if (cuda_host_fails() || promised + size > limit_bytes || !may_take())
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = next_handle++;
    handles[*handle] = size;
    handle_uses[*handle] = 0;
    return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    DRIVER_WANT(handles.count(handle) && handle_uses[handle] == 0); /* we always unmap first */
    handles.erase(handle);
    handle_uses.erase(handle);
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    auto range = ranges().upper_bound(ptr);

    if (cuda_host_fails())
        return CUDA_ERROR_OUT_OF_MEMORY;
    DRIVER_WANT(ptr % GRANULARITY == 0 && offset == 0 && flags == 0 && handles.count(handle) &&
                handles[handle] == size && handle_uses[handle] == 0 && range != ranges().begin());
    --range;
    DRIVER_WANT(ptr + size <= range->first + range->second);
    const auto after = maps.lower_bound(ptr);
    DRIVER_WANT(after == maps.end() || after->first >= ptr + size);
    DRIVER_WANT(!cuda_host_is_device(reinterpret_cast<void *>(ptr), 1));
    maps[ptr] = handle;
    handle_uses[handle] = 1;
    return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    const auto map = maps.find(ptr);

    DRIVER_WANT(map != maps.end() && handles[map->second] == size && may_take());
    handle_uses[map->second] = 0;
    maps.erase(map);
    if (pieces().erase(ptr))
        device_bytes -= size;
    /* the addresses stay reserved; queued work that still uses them will fault */
    mmap(reinterpret_cast<void *>(ptr), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    DRIVER_WANT(!cuda_host_fails());
    DRIVER_WANT(maps.count(ptr) && handles[maps[ptr]] == size && count == 1 &&
                desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE && !pieces().count(ptr));
    return take_piece(reinterpret_cast<void *>(ptr), size) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult *result)
{
    static const struct {
        const char *name;
        void *function;
    } KNOWN[] = {
        {"cuMemGetAllocationGranularity", reinterpret_cast<void *>(cuMemGetAllocationGranularity)},
        {"cuMemAddressReserve", reinterpret_cast<void *>(cuMemAddressReserve)},
        {"cuMemAddressFree", reinterpret_cast<void *>(cuMemAddressFree)},
        {"cuMemCreate", reinterpret_cast<void *>(cuMemCreate)},
        {"cuMemRelease", reinterpret_cast<void *>(cuMemRelease)},
        {"cuMemMap", reinterpret_cast<void *>(cuMemMap)},
        {"cuMemUnmap", reinterpret_cast<void *>(cuMemUnmap)},
        {"cuMemSetAccess", reinterpret_cast<void *>(cuMemSetAccess)},
    };

    MAY_FAIL(cudaErrorUnknown);
    WANT(symbol && function && result && flags == cudaEnableDefault && version <= CUDART_VERSION);
    *result = cudaDriverEntryPointSymbolNotFound;
    for (const auto &known : KNOWN)
        if (strcmp(known.name, symbol) == 0) {
            *function = known.function;
            *result = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}
