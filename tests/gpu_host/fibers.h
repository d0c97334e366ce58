// The threads of a group as fibers of one thread: each runs until it has to wait for the others at
// a barrier or a shuffle.
#pragma once
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <ucontext.h>
#include <vector>

namespace fibers {

constexpr size_t STACK = 64 * 1024;
constexpr uint32_t WARP = 32;
enum Stop { DONE, BARRIER_STOP, SHUFFLE_STOP };

// A thread; it outlives its group and runs the body again for the next one.
struct Fiber {
    ucontext_t context;
    jmp_buf place; // where it stopped; unlike swapcontext, a jump needs no system call
    std::vector<char> stack = std::vector<char>(STACK);
    Stop stop = DONE;
    bool started = false;
    uint32_t shuffles = 0;
};

inline std::vector<Fiber> all;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline uint32_t rank, size, index, count; // of the running fiber and its group
inline float exchanged[2][1024];

inline void stop(Stop where) {
    Fiber& fiber = all[rank];
    fiber.stop = where;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

inline float shuffle_xor(float x, uint32_t step) {
    // Alternates between two rows, since a fast fiber writes the next value before a slow one has
    // read this one.
    float* row = exchanged[all[rank].shuffles++ % 2];
    row[rank] = x;
    stop(SHUFFLE_STOP);
    return row[rank ^ step];
}

inline void enter() {
    for (;;) {
        body();
        stop(DONE);
    }
}

inline void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    fiber.started = true;
    setcontext(&fiber.context);
}

inline Stop run_fiber(uint32_t i) {
    rank = i;
    if (_setjmp(scheduler) == 0) {
        if (!all[i].started) start(all[i]);
        _longjmp(all[i].place, 1);
    }
    return all[i].stop;
}

// Runs a warp up to a stop other than a shuffle; returns true if all its threads meet there.
inline bool run_warp(uint32_t first, bool descending) {
    Stop where = DONE;
    do {
        for (uint32_t i = 0; i < WARP; ++i) {
            const Stop stop = run_fiber(first + (descending ? WARP - 1 - i : i));
            if (i == 0) where = stop;
            if (stop != where) return false;
        }
    } while (where == SHUFFLE_STOP);
    return true;
}

// Runs `body` on every thread of the current group, in ascending or descending order. Warps meet
// only at barriers, the threads of a warp also at shuffles.
inline void run_group(bool descending) {
    if (all.size() < size) all.resize(size);
    for (uint32_t i = 0; i < size; ++i) all[i].shuffles = 0;
    const uint32_t warps = size / WARP;
    Stop where = DONE;
    do {
        for (uint32_t i = 0; i < warps; ++i) {
            const uint32_t first = WARP * (descending ? warps - 1 - i : i);
            const bool met = run_warp(first, descending);
            if (i == 0) where = all[first].stop;
            if (!met || all[first].stop != where) {
                std::fprintf(stderr, "threads of group %u do not stop at one place\n", index);
                std::exit(1);
            }
        }
    } while (where != DONE);
}

} // namespace fibers
