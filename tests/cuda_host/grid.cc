/* grid.cc - running a kernel: blocks on the machine's threads, the threads of a block as fibers.
 *
 * A thread runs until it waits for others (__syncthreads, a warp's collective) or returns; then another
 * one runs. In which order threads go on after they met changes from meeting to meeting: a program
 * that forgot a barrier sees its neighbours' old values, and shared memory starts as NaN.
 */
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "cuda_host.h"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim(1), gridDim(1);

namespace {

/* --- fibers ----------------------------------------------------------------------------------- */

/* LEAST_ADDRESS: below it is no memory of the program, but the address sanitizer's, where numbers look like addresses. */
#if defined(__SANITIZE_ADDRESS__)
const size_t STACK_BYTES = 256 << 10;
const uintptr_t LEAST_ADDRESS = 0x10007fff8000;
#else
const size_t STACK_BYTES = 64 << 10;
const uintptr_t LEAST_ADDRESS = (uintptr_t)1 << 40;
#endif

void fiber_main();

#if defined(__x86_64__)

typedef void *context;

extern "C" void cuda_host_switch(context *save, context load);
__asm__(".text\n"
        ".globl cuda_host_switch\n"
        ".hidden cuda_host_switch\n"
        ".type cuda_host_switch, @function\n"
        "cuda_host_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size cuda_host_switch, .-cuda_host_switch\n");

void switch_stacks(context *save, context *load) { cuda_host_switch(save, *load); }

void prepare(context *c, char *stack)
{
    void **top = reinterpret_cast<void **>(stack + STACK_BYTES) - 2;

    top[0] = reinterpret_cast<void *>(fiber_main); /* where the first switch returns to */
    top[1] = nullptr;
    *c = top - 6;
    memset(*c, 0, 6 * sizeof *top);
}

#else
#include <ucontext.h>

typedef ucontext_t context;

void switch_stacks(context *save, context *load) { swapcontext(save, load); }

void prepare(context *c, char *stack)
{
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = STACK_BYTES;
    c->uc_link = nullptr;
    makecontext(c, fiber_main, 0);
}

#endif

/* A stack and where it was left. The address sanitizer is told when another one is taken. */
struct fiber {
    context at;
    const void *bottom;
    size_t bytes;
    void *shadow; /* the sanitizer's */
};

#if defined(__SANITIZE_ADDRESS__)
void arrived(fiber *self, fiber *from)
{
    __sanitizer_finish_switch_fiber(self->shadow, from ? &from->bottom : nullptr, from ? &from->bytes : nullptr);
}

void switch_to(fiber *from, fiber *to)
{
    __sanitizer_start_switch_fiber(&from->shadow, to->bottom, to->bytes);
    switch_stacks(&from->at, &to->at);
    arrived(from, nullptr);
}
#else
void arrived(fiber *, fiber *) {}
void switch_to(fiber *from, fiber *to) { switch_stacks(&from->at, &to->at); }
#endif

/* --- the block that this thread of the machine runs ------------------------------------------- */

enum state { FRESH, READY, AT_BARRIER, IN_WARP, RETURNED };

struct cuda_thread {
    state now;
    uint3 index;
    fiber *own;
};

/* The collective that lanes of a warp are meeting in. Slots are used in turns, so that a lane that goes
 * on to the next collective leaves the values of this one alone. */
struct warp {
    unsigned mask, arrived, turn;
    const char *what;
    size_t bytes;
    unsigned char slot[2][32][16];
};

struct shared_piece {
    const void *key;
    size_t at;
};

const size_t STATIC_SHARED = 48 << 10, DYNAMIC_SHARED = 227 << 10;

struct block {
    const std::function<void()> *body;
    const void *kernel;
    std::vector<cuda_thread> threads;
    std::vector<warp> warps;
    std::vector<int> ready; /* from the back */
    std::vector<fiber *> spare;
    fiber scheduler;
    int current, n_waiting;
    unsigned meeting;
    std::vector<shared_piece> shared;
    size_t shared_used;
    alignas(64) unsigned char static_shared[STATIC_SHARED];
    alignas(64) unsigned char dynamic_shared[DYNAMIC_SHARED];
};

thread_local block *running;

block *block_of_this_thread()
{
    static thread_local block *own;

    if (!own)
        own = new block();
    return own;
}

void fiber_main()
{
    arrived(running->threads[running->current].own, &running->scheduler);
    for (;;) {
        block *b = running;
        cuda_thread *t = &b->threads[b->current];
        (*b->body)();
        t->now = RETURNED;
        b->spare.push_back(t->own);
        switch_to(t->own, &b->scheduler);
    }
}

fiber *take_fiber(block *b)
{
    fiber *f;

    if (b->spare.empty()) {
        void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED)
            cuda_host_die("no memory for the stack of a thread");
        f = new fiber();
        f->bottom = stack;
        f->bytes = STACK_BYTES;
        prepare(&f->at, static_cast<char *>(stack));
        return f;
    }
    f = b->spare.back();
    b->spare.pop_back();
    return f;
}

/* Leave the running thread until it is made ready again. */
void wait_here(state why)
{
    block *b = running;
    cuda_thread *t = &b->threads[b->current];
    const int self = b->current;

    t->now = why;
    switch_to(t->own, &b->scheduler);
    b->current = self;
    threadIdx = t->index;
}

/* Threads [from, to) of `which` go on; forwards, backwards, or from the middle, by turns. */
void release(block *b, const std::vector<int> &which)
{
    const int n = (int)which.size();
    const unsigned way = b->meeting++ % 3;

    for (int i = 0; i < n; i++) {
        const int k = way == 0 ? n - 1 - i : way == 1 ? i : (i + n / 2) % n;
        b->threads[which[k]].now = READY;
        b->ready.push_back(which[k]);
    }
}

void say_who_waits(const block *b)
{
    int at_barrier = 0, in_warp = 0, returned = 0;
    const char *what = "";

    for (const cuda_thread &t : b->threads) {
        at_barrier += t.now == AT_BARRIER;
        in_warp += t.now == IN_WARP;
        returned += t.now == RETURNED;
    }
    for (const warp &w : b->warps)
        if (w.arrived)
            what = w.what;
    cuda_host_die("kernel %p, block %u,%u,%u: threads wait for each other for ever: %d at __syncthreads, %d in "
                  "%s, %d have returned",
                  b->kernel, blockIdx.x, blockIdx.y, blockIdx.z, at_barrier, in_warp, what, returned);
}

void run_block(block *b)
{
    const int n = (int)b->threads.size();
    int left = n;

    b->ready.clear();
    b->shared.clear();
    b->shared_used = 0;
    b->n_waiting = 0;
    for (warp &w : b->warps)
        w.arrived = 0;
    for (int i = 0; i < n; i++) {
        b->threads[i].now = FRESH;
        b->ready.push_back(b->meeting % 2 ? i : n - 1 - i);
    }
    b->meeting++;
    while (left) {
        if (b->ready.empty())
            say_who_waits(b);
        b->current = b->ready.back();
        b->ready.pop_back();
        cuda_thread *t = &b->threads[b->current];
        if (t->now == FRESH)
            t->own = take_fiber(b);
        t->now = READY;
        threadIdx = t->index;
        switch_to(&b->scheduler, t->own);
        left -= t->now == RETURNED;
    }
}

void start_block(block *b, dim3 threads, const std::function<void()> *body, const void *kernel)
{
    const unsigned n = threads.x * threads.y * threads.z;

    b->threads.resize(n);
    b->warps.resize((n + 31) / 32);
    for (unsigned i = 0; i < n; i++)
        b->threads[i].index = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
    b->body = body;
    b->kernel = kernel;
    blockDim = threads;
    running = b;
}

void run_grid(dim3 blocks, dim3 threads, size_t dynamic_bytes, const std::function<void()> &body,
              const void *kernel)
{
    const long n = (long)blocks.x * blocks.y * blocks.z;
    const long work = n * threads.x * threads.y * threads.z;

#pragma omp parallel if (n > 1 && work > 8192)
    {
        block *b = block_of_this_thread();
        start_block(b, threads, &body, kernel);
        gridDim = blocks;
#pragma omp for schedule(dynamic)
        for (long i = 0; i < n; i++) {
            const long k = n - 1 - i; /* nothing may lean on the order of blocks */
            blockIdx = {(unsigned)(k % blocks.x), (unsigned)(k / blocks.x % blocks.y),
                        (unsigned)(k / blocks.x / blocks.y)};
            memset(b->dynamic_shared, 0xff, dynamic_bytes);
            run_block(b);
        }
        running = nullptr;
    }
}

int thread_number()
{
    return (int)(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

/* All lanes of mask bring `bytes`; returns the slots of all lanes. */
const unsigned char (*meet(const char *what, unsigned mask, const void *mine, size_t bytes))[16]
{
    block *b = running;
    const int self = thread_number(), lane = self % 32;
    warp *w = &b->warps[self / 32];
    const unsigned turn = w->turn;

    if (bytes > sizeof w->slot[0][0])
        cuda_host_die("%s of %zu bytes", what, bytes);
    if (!(mask >> lane & 1))
        cuda_host_die("%s: lane %d is not in its own mask %08x", what, lane, mask);
    if (!w->arrived) {
        w->mask = mask;
        w->what = what;
        w->bytes = bytes;
    } else if (w->mask != mask || strcmp(w->what, what) != 0 || w->bytes != bytes) {
        cuda_host_die("kernel %p: lanes of a warp meet in different calls: %s of mask %08x and %s of %08x", b->kernel,
                      w->what, w->mask, what, mask);
    }
    memcpy(w->slot[turn % 2][lane], mine, bytes);
    w->arrived |= 1u << lane;
    if (w->arrived != mask) {
        wait_here(IN_WARP);
    } else {
        std::vector<int> others;
        for (int l = 0; l < 32; l++)
            if (mask >> l & 1 && l != lane)
                others.push_back(self / 32 * 32 + l);
        w->arrived = 0;
        w->turn++;
        release(b, others);
    }
    return b->warps[self / 32].slot[turn % 2];
}

} // namespace

/* --- what kernels call ------------------------------------------------------------------------ */

void __syncthreads(void)
{
    block *b = running;

    if (++b->n_waiting < (int)b->threads.size()) {
        wait_here(AT_BARRIER);
        return;
    }
    b->n_waiting = 0;
    std::vector<int> others;
    for (int i = 0; i < (int)b->threads.size(); i++)
        if (i != b->current)
            others.push_back(i);
    release(b, others);
}

void __syncwarp(unsigned mask)
{
    meet("__syncwarp", mask, "", 0);
}

void cuda_host_exchange(const char *what, unsigned mask, void *mine, size_t bytes, unsigned from)
{
    const unsigned char(*slots)[16] = meet(what, mask, mine, bytes);

    if (from > 31 || !(mask >> from & 1))
        cuda_host_die("%s: reads lane %u, which is not in mask %08x", what, from, mask);
    memcpy(mine, slots[from], bytes);
}

unsigned __ballot_sync(unsigned mask, int predicate)
{
    const unsigned char yes = predicate != 0;
    const unsigned char(*slots)[16] = meet("__ballot_sync", mask, &yes, 1);
    unsigned result = 0;

    for (int l = 0; l < 32; l++)
        if (mask >> l & 1)
            result |= (unsigned)slots[l][0] << l;
    return result;
}

unsigned cuda_host_lane(void)
{
    return (unsigned)thread_number() % 32;
}

void *cuda_host_shared(const void *key, size_t bytes)
{
    block *b = running;

    for (const shared_piece &piece : b->shared)
        if (piece.key == key)
            return b->static_shared + piece.at;
    if (b->shared_used + bytes > STATIC_SHARED)
        cuda_host_die("kernel %p: more than %zu bytes of shared memory", b->kernel, STATIC_SHARED);
    b->shared.push_back({key, b->shared_used});
    memset(b->static_shared + b->shared_used, 0xff, bytes);
    b->shared_used += (bytes + 15) / 16 * 16;
    return b->static_shared + b->shared.back().at;
}

void *cuda_host_dynamic_shared(void)
{
    return running->dynamic_shared;
}

/* --- launching -------------------------------------------------------------------------------- */

static std::map<const void *, int> &dynamic_limits()
{
    static std::map<const void *, int> limits;

    return limits;
}

cudaError_t cuda_host_func_set_attribute(const void *kernel, cudaFuncAttribute attr, int value)
{
    if (cuda_host_fails())
        return cuda_host_error(cudaErrorUnknown);
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > DYNAMIC_SHARED)
        return cuda_host_error(cudaErrorInvalidValue);
    dynamic_limits()[kernel] = value;
    return cudaSuccess;
}

void cuda_host_check_argument(cudaStream_t stream, const void *argument, size_t size)
{
    for (size_t at = 0; at + 8 <= size; at += 8) {
        uintptr_t word, page;
        memcpy(&word, static_cast<const char *>(argument) + at, sizeof word);
        page = word & ~(uintptr_t)4095;
        cuda_host_knows(stream, reinterpret_cast<void *>(word));
        /* A number may look like an address; one that is in use here and not on the device is no accident. */
        if (word >= LEAST_ADDRESS && word < (uintptr_t)1 << 47 &&
            !cuda_host_is_device(reinterpret_cast<void *>(word), 1) &&
            !cuda_host_is_pinned(reinterpret_cast<void *>(word), 1) &&
            msync(reinterpret_cast<void *>(page), 4096, MS_ASYNC) == 0)
            cuda_host_die("a kernel is given %p, an address of host memory", reinterpret_cast<void *>(word));
    }
}

cudaError_t cuda_host_launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> body)
{
    const dim3 blocks = config->gridDim, threads = config->blockDim;
    const size_t dynamic_bytes = config->dynamicSmemBytes;
    const auto limit = dynamic_limits().find(kernel);

    cuda_host_happened(CUDA_HOST_KERNELS);
    if (cuda_host_fails())
        return cuda_host_error(cudaErrorLaunchFailure);
    if (blocks.x < 1 || blocks.x > 0x7fffffffu || blocks.y < 1 || blocks.y > 65535 || blocks.z < 1 ||
        blocks.z > 65535 || threads.x < 1 || threads.y < 1 || threads.z < 1 || threads.z > 64 ||
        (size_t)threads.x * threads.y * threads.z > 1024)
        return cuda_host_error(cudaErrorInvalidConfiguration);
    if (dynamic_bytes > (limit == dynamic_limits().end() ? STATIC_SHARED : (size_t)limit->second))
        return cuda_host_error(cudaErrorInvalidValue);
    return cuda_host_queue(config->stream, [=]() { run_grid(blocks, threads, dynamic_bytes, body, kernel); });
}
