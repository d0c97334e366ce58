// Runs kernels: reads launches from standard input and writes the resulting buffers of each to
// standard output. Buffers lie between guards. A launch runs twice, with the threads of its groups
// in opposite orders. Results that differ, an overwritten guard, and threads that stop at different
// places are errors.
#ifdef METAL
#include "metal.inc"
#undef SHARED // `threadgroup` stands for `static`, which a parameter cannot be
#define SHARED
#else
#include "host.inc"
#endif
#include "elements.inc"
#include "scores.inc"
#include "layers.inc"
#include "rows.inc"
#include "attention.inc"
#include "product.inc"
#include "decode.inc"

#include <map>
#include <string>
#include <type_traits>
#undef thread
#undef kernel

const size_t GUARD = 64;

void fail(const std::string& message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
}

template <typename T>
T read_value() {
    T value;
    if (std::fread(&value, sizeof value, 1, stdin) != 1) fail("the launch ends early");
    return value;
}

std::vector<unsigned char> read_bytes(size_t length) {
    std::vector<unsigned char> bytes(length);
    if (std::fread(bytes.data(), 1, length, stdin) != length) fail("the launch ends early");
    return bytes;
}

// A buffer (or the place of an earlier one) or a scalar of four bytes.
struct Argument {
    // 0: a buffer `place` bytes after an address divisible by 64; 1: buffer `place`; 2: a scalar
    uint32_t kind;
    uint32_t place;
    std::vector<unsigned char> bytes, memory;

    unsigned char* data() {
        const size_t misaligned = (uintptr_t)memory.data() % 64;
        return memory.data() + (64 - misaligned) + GUARD + place;
    }
    void fill() {
        memory.assign(bytes.size() + 2 * GUARD + 128, 0xff);
        std::memcpy(data(), bytes.data(), bytes.size());
    }
    bool guarded() {
        const unsigned char* p = data();
        for (size_t i = 1; i <= GUARD; ++i) {
            if (p[-(long)i] != 0xff || p[bytes.size() + i - 1] != 0xff) return false;
        }
        return true;
    }
};

std::vector<Argument> arguments;

template <typename P>
P take(size_t i) {
    using Value = std::remove_cv_t<std::remove_reference_t<P>>;
    if constexpr (std::is_pointer_v<Value>) {
        if (i >= arguments.size() || arguments[i].kind > 1) {
            fail(std::to_string(i) + " is no buffer");
        }
        Argument& argument = arguments[i];
        return (Value)(argument.kind == 0 ? argument : arguments[argument.place]).data();
    } else if (i < arguments.size()) {
        if (arguments[i].kind != 2) fail(std::to_string(i) + " is no scalar");
        return *(const Value*)arguments[i].bytes.data();
    } else { // Metal's places of a thread, in the order of the prelude
        static uint32_t places[4];
        const uint32_t now[] = {fibers::rank, fibers::size, fibers::index, fibers::count};
        std::memcpy(places, now, sizeof now);
        return *(const Value*)&places[i - arguments.size()];
    }
}

template <typename... P, size_t... I>
std::function<void()> bind_places(void (*kernel)(P...), std::index_sequence<I...>) {
    return [kernel] { kernel(take<P>(I)...); };
}

template <typename... P>
std::function<void()> bind(void (*kernel)(P...)) {
    return bind_places(kernel, std::index_sequence_for<P...>());
}

std::function<void()> kernel_of(const std::string& name) {
    const std::map<std::string, std::function<void()>> kernels = {
        {"logprob_entropy", bind(NAME(logprob_entropy))},
        {"logprob_entropy_gradient", bind(NAME(logprob_entropy_gradient))},
        {"rms_norm", bind(NAME(rms_norm))},
        {"rms_norm_gradient", bind(NAME(rms_norm_gradient))},
        {"sum_columns", bind(NAME(sum_columns))},
        {"rope", bind(NAME(rope))},
        {"swiglu", bind(NAME(swiglu))},
        {"swiglu_gradient", bind(NAME(swiglu_gradient))},
        {"adamw", bind(NAME(adamw))},
        {"adamw_master", bind(NAME(adamw_master))},
        {"gather_rows", bind(NAME(gather_rows))},
        {"sum_rows", bind(NAME(sum_rows))},
        {"add_rows", bind(NAME(add_rows))},
        {"add_bias", bind(NAME(add_bias))},
        {"add_to", bind(NAME(add_to))},
        {"sum_squares", bind(NAME(sum_squares))},
        {"swap_axes", bind(NAME(swap_axes))},
        {"swap_axes_narrow", bind(NAME(swap_axes_narrow))},
        {"causal_softmax", bind(NAME(causal_softmax))},
        {"softmax_gradient", bind(NAME(softmax_gradient))},
        {"product", bind(NAME(product))},
        {"product_float", bind(NAME(product_float))},
        {"scatter_rows", bind(NAME(scatter_rows))},
        {"attend_pages", bind(NAME(attend_pages))},
        {"combine_splits", bind(NAME(combine_splits))},
        {"sample_rows", bind(NAME(sample_rows))},
    };
    if (kernels.count(name) == 0) fail("no kernel " + name);
    return kernels.at(name);
}

void run(bool descending) {
    for (auto& argument : arguments) argument.fill();
    for (uint32_t i = 0; i < fibers::count; ++i) {
        fibers::index = descending ? fibers::count - 1 - i : i;
        fibers::run_group(descending);
    }
}

// Runs the launch whose kernel's name has `length` bytes.
void launch(uint32_t length) {
    const auto name = read_bytes(length);
    fibers::body = kernel_of(std::string(name.begin(), name.end()));
    fibers::count = read_value<uint32_t>();
    fibers::size = read_value<uint32_t>();
    arguments.assign(read_value<uint32_t>(), Argument());
    for (auto& argument : arguments) {
        argument.kind = read_value<uint32_t>();
        argument.place = read_value<uint32_t>();
        argument.bytes = read_bytes(read_value<uint32_t>());
    }
    run(false);
    std::vector<std::vector<unsigned char>> first;
    for (auto& argument : arguments) {
        first.emplace_back(argument.data(), argument.data() + argument.bytes.size());
    }
    run(true);
    for (size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i].kind != 0) continue;
        if (!arguments[i].guarded()) fail("argument " + std::to_string(i) + " was left");
        if (std::memcmp(first[i].data(), arguments[i].data(), first[i].size()) != 0) {
            fail("argument " + std::to_string(i) + " depends on the order of threads");
        }
        std::fwrite(first[i].data(), 1, first[i].size(), stdout);
    }
    std::fflush(stdout);
}

int main() {
    uint32_t length;
    while (std::fread(&length, sizeof length, 1, stdin) == 1) launch(length);
    return 0;
}
