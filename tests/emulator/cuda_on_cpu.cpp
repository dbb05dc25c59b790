// Runs a kernel on a CPU: every lane is a fiber, suspended where it meets others, and every access to
// global memory is looked up in the launch's table of buffers.
//
// One operating-system thread runs one launch: block after block, in it warp after warp, in it lane
// after lane, each lane until it returns or waits at a collective. When no lane of a warp can go on,
// a group of lanes that all wait for one another at the same place is let go; if there is none, they
// would wait for ever, and the launch ends with a report. Which lane, warp and block goes first is
// the caller's choice: correct kernels can't tell.
//
// A launch that fails abandons its fibers where they stand, so kernels must not own anything.
#ifdef __APPLE__
#define _XOPEN_SOURCE 700  // for ucontext.h
#define _DARWIN_C_SOURCE
#endif

#include "cuda_on_cpu.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef __linux__
#include <link.h>
#endif

#include "drop_activation.h"

#ifndef MAP_STACK
#define MAP_STACK 0
#endif

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

// What the caller passes; tests/emulator/mod.rs has the same.
extern "C" {

enum da_emulator_buffer_flags {
    DA_EMULATOR_READABLE = 1,
    DA_EMULATOR_WRITABLE = 2,
    DA_EMULATOR_DEFINED = 4,    // has contents before the launch
    DA_EMULATOR_WRITE_ONCE = 8  // the launch writes each byte once, and reads none it has written
};

struct da_emulator_buffer {
    const char* name;
    uint64_t address;  // as the kernel knows it
    unsigned char* host;
    uint64_t bytes;
    uint32_t flags;
};

struct da_emulator_launch {
    const char* entry;
    void (*kernel)(da_args);
    const da_args* args;
    const da_emulator_buffer* buffers;
    uint64_t buffer_count;
    uint32_t grid, block;
    uint32_t first_block, last_block;  // half open: the blocks to run
    uint32_t order;                    // 0 forward, 1 reversed, 2 random
    uint64_t random;
    char* report;
    uint64_t report_bytes;
};

}  // extern "C"

namespace {

using cuda_on_cpu::Meeting;

constexpr int kLanes = 32;
constexpr uint32_t kMaxWarps = 32;
constexpr size_t kStackBytes = 64 * 1024;

const char* const kMeetings[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync",
                                 "__any_sync", "__all_sync", "__syncwarp", "__syncthreads"};

struct Place {
    Meeting kind;
    uint32_t mask;
    const char* file;
    int line;

    // Distinct call sites differ in file or line; the text is compared because each translation
    // unit has its own copy of it.
    bool operator==(const Place& other) const {
        return kind == other.kind && mask == other.mask && line == other.line &&
               (file == other.file || strcmp(file, other.file) == 0);
    }
};

struct Lane {
    jmp_buf here;
    Place place;
    uint64_t value;
    uint64_t result;
    uint32_t source;
};

// The fibers of a warp. Sets of lanes are bit masks.
struct Warp {
    Warp* next;  // in the pool
    unsigned char* stacks;
    bool usable;  // every fiber is parked at its start
    uint32_t index;
    uint32_t ready, waiting, at_barrier, returned;
    Lane lanes[kLanes];
};

// Fibers are kept for the next launch of the same thread.
struct Pool {
    Warp* free = nullptr;
    ~Pool() {
        while (free != nullptr) {
            Warp* warp = free;
            free = warp->next;
            munmap(warp->stacks, kLanes * kStackBytes);
            ::free(warp);
        }
    }
};
thread_local Pool pool;

// For each byte of a buffer that needs it: whether it has contents, whether this launch wrote it.
constexpr unsigned char kDefined = 1;
constexpr unsigned char kWritten = 2;

struct Launch {
    const da_emulator_launch* spec;
    unsigned char** shadows;  // one for each buffer, or null where nothing can go wrong
    uint64_t budget;          // accesses and meetings left before the launch counts as endless
    uint64_t random;
    jmp_buf scheduler;
    Warp* warp;
    Lane* lane;  // the one that runs; null in the scheduler
    bool failed;
    const void* fault;  // where the lane touched memory on its own
    void* shared;
    size_t shared_bytes;
};
__thread Launch* launch;

[[noreturn]] void back_to_scheduler() { _longjmp(launch->scheduler, 1); }

// The first report wins: a lane that fails never runs again.
__attribute__((format(printf, 1, 2))) void report(const char* format, ...) {
    Launch& l = *launch;
    if (l.failed) return;
    l.failed = true;
    char* to = l.spec->report;
    const int room = static_cast<int>(l.spec->report_bytes);
    int used = snprintf(to, room, "%s, grid %u, block size %u: ", l.spec->entry, l.spec->grid, l.spec->block);
    if (l.lane != nullptr && used < room) {
        used += snprintf(to + used, room - used, "block %u, thread %u (warp %u, lane %u) ", blockIdx.x, threadIdx.x,
                         threadIdx.x / kLanes, threadIdx.x % kLanes);
    }
    if (used >= room) return;
    va_list rest;
    va_start(rest, format);
    vsnprintf(to + used, room - used, format, rest);
    va_end(rest);
}

inline void spend(Launch& l) {
    if (l.budget-- == 0) {
        report("runs on far longer than its buffers explain: an endless loop?");
        back_to_scheduler();
    }
}

// ---------------------------------------------------------------------------------------------------
// Fibers. ucontext makes them; _setjmp and _longjmp switch between them, which takes a tenth of the
// time of swapcontext (no system call for the signal mask).

void fiber() {
    Lane* self = launch->lane;
    for (;;) {
        if (_setjmp(self->here) == 0) back_to_scheduler();
        launch->spec->kernel(*launch->spec->args);
        launch->warp->returned |= 1u << (self - launch->warp->lanes);
    }
}

__attribute__((noinline)) void resume(Warp& warp, uint32_t lane) {
    Launch& l = *launch;
    l.warp = &warp;
    l.lane = &warp.lanes[lane];
    threadIdx.x = warp.index * kLanes + lane;
    if (_setjmp(l.scheduler) == 0) _longjmp(l.lane->here, 1);
    if (launch->fault != nullptr) {
        report("reads or writes at 0x%llX by itself: global memory is touched through __ldcs, __stcg and their kin only",
               static_cast<unsigned long long>(reinterpret_cast<uint64_t>(launch->fault)));
    }
    launch->lane = nullptr;
}

__attribute__((noinline)) void create_fiber(Warp& warp, uint32_t lane) {
    // Equal offsets in all stacks would fall into the same few sets of the cache.
    const size_t colour = lane * 320;
    ucontext_t context;
    getcontext(&context);
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    context.uc_stack.ss_sp = warp.stacks + lane * kStackBytes + guard;
    context.uc_stack.ss_size = kStackBytes - guard - colour;
    context.uc_link = nullptr;
    makecontext(&context, fiber, 0);
    launch->lane = &warp.lanes[lane];
    if (_setjmp(launch->scheduler) == 0) setcontext(&context);
    launch->lane = nullptr;
}

Warp* new_warp() {
    Warp* warp = static_cast<Warp*>(calloc(1, sizeof(Warp)));
    if (warp == nullptr) return nullptr;
    void* stacks = mmap(nullptr, kLanes * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stacks == MAP_FAILED) {
        free(warp);
        return nullptr;
    }
    warp->stacks = static_cast<unsigned char*>(stacks);
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (int lane = 0; lane < kLanes; ++lane) mprotect(warp->stacks + lane * kStackBytes, guard, PROT_NONE);
    return warp;
}

Warp* acquire(uint32_t index) {
    Warp* warp = pool.free;
    if (warp != nullptr) {
        pool.free = warp->next;
    } else if ((warp = new_warp()) == nullptr) {
        report("no memory for the stacks of a warp");
        return nullptr;
    }
    if (!warp->usable) {
        for (uint32_t lane = 0; lane < kLanes; ++lane) create_fiber(*warp, lane);
        warp->usable = true;
    }
    const uint32_t left = launch->spec->block - index * kLanes;
    warp->index = index;
    warp->ready = left >= kLanes ? 0xFFFFFFFFu : (1u << left) - 1;
    warp->waiting = warp->at_barrier = warp->returned = 0;
    return warp;
}

void give_back(Warp* warp) {
    warp->next = pool.free;
    pool.free = warp;
}

// ---------------------------------------------------------------------------------------------------
// Order

uint64_t next_random() {  // splitmix64
    uint64_t z = launch->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// The members of `set` in the launch's order; returns how many.
int in_order(uint32_t set, unsigned char (&members)[32]) {
    int count = 0;
    for (; set != 0; set &= set - 1) members[count++] = static_cast<unsigned char>(__builtin_ctz(set));
    if (launch->spec->order == 1) {
        for (int i = 0; i < count / 2; ++i) {
            const unsigned char other = members[i];
            members[i] = members[count - 1 - i];
            members[count - 1 - i] = other;
        }
    } else if (launch->spec->order == 2) {
        for (int i = count - 1; i > 0; --i) {
            const uint32_t j = static_cast<uint32_t>((next_random() >> 32) * (i + 1) >> 32);
            const unsigned char other = members[i];
            members[i] = members[j];
            members[j] = other;
        }
    }
    return count;
}

// Every block once. A random order is a stride that has no factor in common with the count.
struct BlockOrder {
    uint64_t count, start, stride;

    explicit BlockOrder(uint64_t count) : count(count), start(0), stride(1) {
        if (launch->spec->order == 1) {
            start = count - 1;
            stride = count - 1;
        } else if (launch->spec->order == 2) {
            start = next_random() % count;
            do {
                stride = 1 + next_random() % count;
            } while (gcd(stride, count) != 1);
        }
    }
    static uint64_t gcd(uint64_t a, uint64_t b) { return b == 0 ? a : gcd(b, a % b); }
    uint64_t at(uint64_t i) const { return (start + i * stride) % count; }
};

// ---------------------------------------------------------------------------------------------------
// Meetings

// Gives each lane of a complete group what its collective returns.
void complete(Warp& warp, uint32_t group) {
    const Lane& any = warp.lanes[__builtin_ctz(group)];
    uint32_t ballot = 0;
    switch (any.place.kind) {
        case Meeting::kBallot:
        case Meeting::kAny:
        case Meeting::kAll:
            for (uint32_t s = group; s != 0; s &= s - 1) {
                const int lane = __builtin_ctz(s);
                ballot |= static_cast<uint32_t>(warp.lanes[lane].value) << lane;
            }
            break;
        default: break;
    }
    for (uint32_t s = group; s != 0; s &= s - 1) {
        const int number = __builtin_ctz(s);
        Lane& lane = warp.lanes[number];
        switch (any.place.kind) {
            case Meeting::kBallot: lane.result = ballot; break;
            case Meeting::kAny: lane.result = ballot != 0; break;
            case Meeting::kAll: lane.result = ballot == group; break;
            case Meeting::kSyncWarp:
            case Meeting::kSyncThreads: break;
            default:
                if ((group >> lane.source & 1) == 0) {
                    report("block %u, warp %u: lane %d takes the value of lane %u, which takes no part in %s with mask %08X; %s:%d",
                           blockIdx.x, warp.index, number, lane.source, kMeetings[static_cast<int>(lane.place.kind)],
                           lane.place.mask, lane.place.file, lane.place.line);
                    return;
                }
                lane.result = warp.lanes[lane.source].value;
        }
    }
    warp.waiting &= ~group;
    warp.ready |= group;
}

// The lanes that `lane` waits for in vain.
uint32_t missing(const Warp& warp, uint32_t lane) {
    const Place& place = warp.lanes[lane].place;
    uint32_t absent = place.mask & ~warp.waiting;
    for (uint32_t s = place.mask & warp.waiting; s != 0; s &= s - 1) {
        const uint32_t other = static_cast<uint32_t>(__builtin_ctz(s));
        if (!(warp.lanes[other].place == place)) absent |= 1u << other;
    }
    return absent;
}

// Lets every complete group go on; false if there was none.
bool release(Warp& warp) {
    const uint32_t before = warp.ready;
    for (uint32_t unseen = warp.waiting; unseen != 0 && !launch->failed;) {
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(unseen));
        const uint32_t group = warp.lanes[lane].place.mask;
        if (missing(warp, lane) == 0) {
            complete(warp, group);
            unseen &= ~group;
        } else {
            unseen &= unseen - 1;
        }
    }
    return warp.ready != before;
}

void report_stuck(const Warp& warp) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(warp.waiting));
    const Place& place = warp.lanes[lane].place;
    const uint32_t other = static_cast<uint32_t>(__builtin_ctz(missing(warp, lane)));
    char why[256];
    if ((warp.returned >> other & 1) != 0) {
        snprintf(why, sizeof why, "has returned");
    } else if (((warp.waiting | warp.at_barrier) >> other & 1) != 0) {
        const Place& elsewhere = warp.lanes[other].place;
        snprintf(why, sizeof why, "waits at %s with mask %08X; %s:%d", kMeetings[static_cast<int>(elsewhere.kind)],
                 elsewhere.mask, elsewhere.file, elsewhere.line);
    } else {
        snprintf(why, sizeof why, "does not exist: the block has %u threads", launch->spec->block);
    }
    report("deadlock in block %u, warp %u: lane %u waits at %s with mask %08X (%s:%d) for lane %u, which %s", blockIdx.x,
           warp.index, lane, kMeetings[static_cast<int>(place.kind)], place.mask, place.file, place.line, other, why);
}

enum class Outcome {
    kReturned,
    kAtBarrier,
    kFailed
};

Outcome run_warp(Warp& warp) {
    for (;;) {
        unsigned char lanes[32];
        const int count = in_order(warp.ready, lanes);
        warp.ready = 0;
        for (int i = 0; i < count; ++i) {
            resume(warp, lanes[i]);
            if (launch->failed) return Outcome::kFailed;
        }
        if (warp.waiting == 0) {
            return warp.at_barrier != 0 ? Outcome::kAtBarrier : Outcome::kReturned;
        }
        const bool released = release(warp);
        if (!released && !launch->failed) report_stuck(warp);
        if (launch->failed) return Outcome::kFailed;
    }
}

// All warps have come as far as they can: the block's barrier opens if every thread waits at it.
bool open_barrier(Warp* const (&warps)[kMaxWarps], uint32_t count) {
    const Place* place = nullptr;
    uint32_t first = 0;
    for (uint32_t w = 0; w < count; ++w) {
        if (warps[w] == nullptr) continue;
        for (uint32_t s = warps[w]->at_barrier; s != 0; s &= s - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(s));
            const Place& here = warps[w]->lanes[lane].place;
            if (place == nullptr) {
                place = &here;
                first = w * kLanes + lane;
            } else if (!(here == *place)) {
                report("deadlock in block %u: thread %u waits at __syncthreads (%s:%d), but thread %u at another (%s:%d)",
                       blockIdx.x, first, place->file, place->line, w * kLanes + lane, here.file, here.line);
                return false;
            }
        }
    }
    for (uint32_t w = 0; w < count; ++w) {
        // A warp that is gone has returned as a whole.
        const uint32_t returned = warps[w] == nullptr ? 1u : warps[w]->returned;
        if (returned != 0) {
            report("deadlock in block %u: thread %u waits at __syncthreads (%s:%d), which thread %u, having returned, never reaches",
                   blockIdx.x, first, place->file, place->line, w * kLanes + __builtin_ctz(returned));
            return false;
        }
    }
    for (uint32_t w = 0; w < count; ++w) {
        warps[w]->ready = warps[w]->at_barrier;
        warps[w]->at_barrier = 0;
    }
    return true;
}

// The shared memory of all kernels: the thread-local memory of this library. Unknown where the system
// doesn't tell; then a block may see what the one before has left.
void find_shared() {
#ifdef __linux__
    const auto look = [](dl_phdr_info* library, size_t, void*) {
        bool ours = false;
        for (int i = 0; i < library->dlpi_phnum; ++i) {
            const auto& part = library->dlpi_phdr[i];
            const uintptr_t start = library->dlpi_addr + part.p_vaddr;
            const uintptr_t here = reinterpret_cast<uintptr_t>(&kMeetings);
            if (part.p_type == PT_LOAD && here - start < part.p_memsz) ours = true;
            if (part.p_type == PT_TLS) launch->shared_bytes = part.p_memsz;
        }
        if (ours) launch->shared = library->dlpi_tls_data;
        return ours ? 1 : 0;
    };
    dl_iterate_phdr(look, nullptr);
#endif
}

// Fills it with rubbish, so that a block can't take what the block before has left for what its own
// threads have written. The scheduler's own variables are in the same place.
void scramble_shared() {
    if (launch->shared == nullptr) return;
    struct {
        void* at;
        size_t bytes;
        unsigned char copy[sizeof(uint3)];
    } kept[] = {
        {&launch, sizeof launch, {}},
        {&pool.free, sizeof pool.free, {}},
        {&threadIdx, sizeof threadIdx, {}},
        {&blockIdx, sizeof blockIdx, {}},
        {&blockDim, sizeof blockDim, {}},
        {&gridDim, sizeof gridDim, {}},
    };
    for (auto& k : kept) memcpy(k.copy, k.at, k.bytes);
    void* const start = launch->shared;
    const size_t bytes = launch->shared_bytes;
    // The compiler must not know better than that this changes all of `kept`.
    __asm__ volatile("" : : "r"(kept) : "memory");
    memset(start, 0xA5, bytes);
    __asm__ volatile("" : : "r"(kept) : "memory");
    for (auto& k : kept) memcpy(k.at, k.copy, k.bytes);
    __asm__ volatile("" : : "r"(kept) : "memory");
}

void run_block(uint32_t block) {
    scramble_shared();
    blockIdx = uint3{block, 0, 0};
    const uint32_t count = (launch->spec->block + kLanes - 1) / kLanes;
    uint32_t pending = count == 32 ? 0xFFFFFFFFu : (1u << count) - 1;
    Warp* warps[kMaxWarps] = {};
    while (pending != 0 && !launch->failed) {
        unsigned char numbers[32];
        const int running = in_order(pending, numbers);
        for (int i = 0; i < running && !launch->failed; ++i) {
            Warp*& warp = warps[numbers[i]];
            if (warp == nullptr && (warp = acquire(numbers[i])) == nullptr) break;
            if (run_warp(*warp) == Outcome::kReturned) {
                give_back(warp);
                warp = nullptr;
                pending &= ~(1u << numbers[i]);
            }
        }
        if (launch->failed || pending == 0 || !open_barrier(warps, count)) break;
    }
    for (Warp* warp : warps) {
        if (warp == nullptr) continue;
        warp->usable = false;
        give_back(warp);
    }
}

// ---------------------------------------------------------------------------------------------------
// Memory

// Buffers have addresses at which nothing is, so an access that goes round the checks comes here.
struct sigaction handler_before;

void on_fault(int signal, siginfo_t* info, void* context) {
    if (launch != nullptr && launch->lane != nullptr) {
        launch->fault = info->si_addr != nullptr ? info->si_addr : reinterpret_cast<void*>(1);
        back_to_scheduler();
    }
    if ((handler_before.sa_flags & SA_SIGINFO) != 0) {
        handler_before.sa_sigaction(signal, info, context);
    } else {
        sigaction(signal, &handler_before, nullptr);  // which the same access then meets
    }
}

// Once for the process' life: the library must not be unloaded.
void catch_faults() {
    static const bool caught = [] {
        struct sigaction ours = {};
        ours.sa_sigaction = on_fault;
        // Not blocked while it is handled, since on_fault does not return.
        ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        return sigaction(SIGSEGV, &ours, &handler_before) == 0;
    }();
    (void)caught;
}

// The buffer that holds all of the access, which is also aligned; reports otherwise.
const da_emulator_buffer* find(const Launch& l, const void* at, uint32_t bytes, const char* verb, const char* file, int line) {
    const uint64_t address = reinterpret_cast<uint64_t>(at);
    const da_emulator_launch& spec = *l.spec;
    const da_emulator_buffer* nearest = nullptr;
    uint64_t distance = UINT64_MAX;
    for (uint64_t i = 0; i < spec.buffer_count; ++i) {
        const da_emulator_buffer& b = spec.buffers[i];
        const uint64_t offset = address - b.address;
        if (offset < b.bytes && bytes <= b.bytes - offset) {
            if (address % bytes == 0) return &b;
            report("%s %u bytes of %s at offset %llu, address 0x%llX, which is no multiple of %u; %s:%d", verb, bytes, b.name,
                   static_cast<unsigned long long>(offset), static_cast<unsigned long long>(address), bytes, file, line);
            back_to_scheduler();
        }
        const uint64_t away = address < b.address ? b.address - address : address - (b.address + b.bytes) + 1;
        const uint64_t apart = offset < b.bytes ? 0 : away;
        if (apart < distance) {
            distance = apart;
            nearest = &b;
        }
    }
    if (nearest == nullptr) {
        report("%s %u bytes at 0x%llX, but the launch has no buffers; %s:%d", verb, bytes,
               static_cast<unsigned long long>(address), file, line);
    } else {
        report("%s %u bytes outside every buffer, at offset %lld of %s (%llu bytes); %s:%d", verb, bytes,
               static_cast<long long>(address - nearest->address), nearest->name,
               static_cast<unsigned long long>(nearest->bytes), file, line);
    }
    back_to_scheduler();
}

// Whether one of `bytes` flags (a power of two up to 16) has a bit of `bits`, `all`: every one has.
template <uint32_t kBytes>
bool any_has(const unsigned char* flags, unsigned char bits) {
    unsigned char joined = 0;
    for (uint32_t i = 0; i < kBytes; ++i) joined |= flags[i];
    return (joined & bits) != 0;
}
template <uint32_t kBytes>
bool all_have(const unsigned char* flags, unsigned char bits) {
    unsigned char common = bits;
    for (uint32_t i = 0; i < kBytes; ++i) common &= flags[i];
    return common == bits;
}

void read_checked(const da_emulator_buffer& b, uint64_t offset, uint32_t bytes, bool has_contents, bool rewritten,
                  const char* file, int line) {
    const unsigned long long at = offset;
    if (!has_contents) {
        report("reads %u bytes of %s at offset %llu, which nobody has written; %s:%d", bytes, b.name, at, file, line);
        back_to_scheduler();
    }
    if (rewritten && (b.flags & DA_EMULATOR_WRITE_ONCE) != 0) {
        report("reads %u bytes of %s at offset %llu after this launch has written there; %s:%d", bytes, b.name, at, file, line);
        back_to_scheduler();
    }
}

template <uint32_t kBytes>
void read_bytes(const Launch& l, void* to, const void* from, bool unchanging, const char* file, int line) {
    const da_emulator_buffer& b = *find(l, from, kBytes, "reads", file, line);
    const uint64_t offset = reinterpret_cast<uint64_t>(from) - b.address;
    if ((b.flags & DA_EMULATOR_READABLE) == 0) {
        report("reads %u bytes of %s at offset %llu, which is not to be read; %s:%d", kBytes, b.name,
               static_cast<unsigned long long>(offset), file, line);
        back_to_scheduler();
    }
    if (unchanging && (b.flags & DA_EMULATOR_WRITABLE) != 0) {
        report("reads %u bytes of %s at offset %llu by the read-only path, but the launch may write there; %s:%d", kBytes,
               b.name, static_cast<unsigned long long>(offset), file, line);
        back_to_scheduler();
    }
    const unsigned char* shadow = l.shadows[&b - l.spec->buffers];
    if (shadow != nullptr) {
        read_checked(b, offset, kBytes, all_have<kBytes>(shadow + offset, kDefined), any_has<kBytes>(shadow + offset, kWritten),
                     file, line);
    }
    memcpy(to, b.host + offset, kBytes);
}

template <uint32_t kBytes>
void write_bytes(const Launch& l, void* to, const void* from, const char* file, int line) {
    const da_emulator_buffer& b = *find(l, to, kBytes, "writes", file, line);
    const uint64_t offset = reinterpret_cast<uint64_t>(to) - b.address;
    if ((b.flags & DA_EMULATOR_WRITABLE) == 0) {
        report("writes %u bytes of %s at offset %llu, which is not to be written; %s:%d", kBytes, b.name,
               static_cast<unsigned long long>(offset), file, line);
        back_to_scheduler();
    }
    unsigned char* shadow = l.shadows[&b - l.spec->buffers] + offset;
    if ((b.flags & DA_EMULATOR_WRITE_ONCE) != 0 && any_has<kBytes>(shadow, kWritten)) {
        report("writes %u bytes of %s at offset %llu, some of them for the second time; %s:%d", kBytes, b.name,
               static_cast<unsigned long long>(offset), file, line);
        back_to_scheduler();
    }
    memset(shadow, kDefined | kWritten, kBytes);
    memcpy(b.host + offset, from, kBytes);
}

bool prepare_memory() {
    const da_emulator_launch& spec = *launch->spec;
    for (uint64_t i = 0; i < spec.buffer_count; ++i) {
        const da_emulator_buffer& b = spec.buffers[i];
        for (uint64_t j = 0; j < i; ++j) {
            const da_emulator_buffer& other = spec.buffers[j];
            if (b.bytes != 0 && other.bytes != 0 && b.address < other.address + other.bytes &&
                other.address < b.address + b.bytes) {
                report("buffers %s and %s overlap: pass what is worked on in place once", other.name, b.name);
                return false;
            }
        }
        launch->budget += 64 * b.bytes;
        const bool defined = (b.flags & DA_EMULATOR_DEFINED) != 0;
        if (defined && (b.flags & DA_EMULATOR_WRITABLE) == 0) continue;
        launch->shadows[i] = static_cast<unsigned char*>(calloc(b.bytes + 1, 1));
        if (launch->shadows[i] == nullptr) {
            report("no memory to watch over %s", b.name);
            return false;
        }
        if (defined) memset(launch->shadows[i], kDefined, b.bytes);
    }
    return true;
}

void report_unwritten() {
    const da_emulator_launch& spec = *launch->spec;
    for (uint64_t i = 0; i < spec.buffer_count; ++i) {
        const da_emulator_buffer& b = spec.buffers[i];
        if ((b.flags & DA_EMULATOR_WRITE_ONCE) == 0) continue;
        uint64_t first = 0, count = 0;
        for (uint64_t at = 0; at < b.bytes; ++at) {
            if ((launch->shadows[i][at] & kWritten) != 0) continue;
            if (count++ == 0) first = at;
        }
        if (count != 0) {
            report("%llu of the %llu bytes of %s are never written, the first at offset %llu", static_cast<unsigned long long>(count),
                   static_cast<unsigned long long>(b.bytes), b.name, static_cast<unsigned long long>(first));
        }
    }
}

}  // namespace

namespace cuda_on_cpu {

uint64_t meet(Meeting kind, uint32_t mask, uint64_t value, uint32_t source, const char* file, int line) {
    Launch& l = *launch;
    spend(l);
    Warp& warp = *l.warp;
    Lane& lane = *l.lane;
    const uint32_t self = 1u << (&lane - warp.lanes);
    lane.place = Place{kind, mask, file, line};
    lane.value = value;
    lane.source = source;
    if (kind == Meeting::kSyncThreads) {
        warp.at_barrier |= self;
    } else if ((mask & self) == 0) {
        report("calls %s with mask %08X, which does not name it; %s:%d", kMeetings[static_cast<int>(kind)], mask, file, line);
    } else {
        warp.waiting |= self;
    }
    if (_setjmp(lane.here) == 0) back_to_scheduler();
    return lane.result;
}

void refuse(const char* what, const char* file, int line) {
    report("asks for what CUDA does not define: %s; %s:%d", what, file, line);
    back_to_scheduler();
}

void read(void* to, const void* from, uint32_t bytes, bool unchanging, const char* file, int line) {
    Launch& l = *launch;
    spend(l);
    switch (bytes) {
        case 1: return read_bytes<1>(l, to, from, unchanging, file, line);
        case 2: return read_bytes<2>(l, to, from, unchanging, file, line);
        case 4: return read_bytes<4>(l, to, from, unchanging, file, line);
        case 8: return read_bytes<8>(l, to, from, unchanging, file, line);
        default: return read_bytes<16>(l, to, from, unchanging, file, line);
    }
}

void write(void* to, const void* from, uint32_t bytes, const char* file, int line) {
    Launch& l = *launch;
    spend(l);
    switch (bytes) {
        case 1: return write_bytes<1>(l, to, from, file, line);
        case 2: return write_bytes<2>(l, to, from, file, line);
        case 4: return write_bytes<4>(l, to, from, file, line);
        case 8: return write_bytes<8>(l, to, from, file, line);
        default: return write_bytes<16>(l, to, from, file, line);
    }
}

}  // namespace cuda_on_cpu

extern "C" __attribute__((visibility("default"))) uint64_t da_emulator_args_bytes() { return sizeof(da_args); }

// 0, or 1 with the reason in spec->report.
extern "C" __attribute__((visibility("default"))) int da_emulator_run(const da_emulator_launch* spec) {
    catch_faults();
    Launch now = {};
    now.spec = spec;
    now.random = spec->random;
    now.budget = (1u << 20) + uint64_t{64} * spec->block * (spec->last_block - spec->first_block);
    now.shadows = static_cast<unsigned char**>(calloc(spec->buffer_count + 1, sizeof(unsigned char*)));
    launch = &now;
    gridDim = dim3{spec->grid, 1, 1};
    blockDim = dim3{spec->block, 1, 1};
    threadIdx = uint3{0, 0, 0};
    if (now.shadows == nullptr) {
        report("no memory");
    } else if (spec->block == 0 || spec->block > kMaxWarps * kLanes || spec->grid == 0 || spec->grid > 0x7FFFFFFFu ||
               spec->first_block >= spec->last_block || spec->last_block > spec->grid) {
        report("no such launch: 1 to 2147483647 blocks of 1 to 1024 threads");
    } else if (prepare_memory()) {
        find_shared();
        const uint64_t count = spec->last_block - spec->first_block;
        const BlockOrder order(count);
        for (uint64_t i = 0; i < count && !now.failed; ++i) {
            run_block(spec->first_block + static_cast<uint32_t>(order.at(i)));
        }
        if (!now.failed) report_unwritten();
    }
    for (uint64_t i = 0; now.shadows != nullptr && i < spec->buffer_count; ++i) free(now.shadows[i]);
    free(now.shadows);
    launch = nullptr;
    return now.failed ? 1 : 0;
}
