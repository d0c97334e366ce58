// The threads of a group as fibers of one thread: each runs until it meets the others at a barrier or a shuffle.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <ucontext.h>
#include <vector>

namespace fibers {

constexpr size_t STACK = 64 * 1024;
enum Stop { DONE, BARRIER_STOP, SHUFFLE_STOP };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    Stop stop = DONE;
    uint32_t shuffles = 0;
};

inline std::vector<Fiber> all;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline uint32_t rank, size, index, count; // of the running fiber and its group
inline float exchanged[2][1024];

inline void stop(Stop where) {
    Fiber& fiber = all[rank];
    fiber.stop = where;
    swapcontext(&fiber.context, &scheduler);
}

inline float shuffle_xor(float x, uint32_t step) {
    // Two rows by turns: a fast fiber writes the next value before a slow one has read this one.
    float* row = exchanged[all[rank].shuffles++ % 2];
    row[rank] = x;
    stop(SHUFFLE_STOP);
    return row[rank ^ step];
}

inline void enter() {
    body();
    stop(DONE);
}

inline void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.shuffles = 0;
    makecontext(&fiber.context, enter, 0);
}

// Runs `body` on every thread of the current group, from the first or from the last on.
inline void run_group(bool descending) {
    if (all.size() < size) all.resize(size);
    for (uint32_t i = 0; i < size; ++i) start(all[i]);
    Stop where = DONE;
    do {
        for (uint32_t i = 0; i < size; ++i) {
            rank = descending ? size - 1 - i : i;
            swapcontext(&scheduler, &all[rank].context);
            if (i == 0) where = all[rank].stop;
            if (all[rank].stop != where) {
                std::fprintf(stderr, "thread %u of group %u does not stop where the others do\n", rank, index);
                std::exit(1);
            }
        }
    } while (where != DONE);
}

} // namespace fibers
