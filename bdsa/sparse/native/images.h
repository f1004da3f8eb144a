// A recorded inference, played: operation after operation, or, where that is better, image after image.
//
// Of several images, a thread takes one through all of the early layers before the next: its maps stay in the core's own
// memory, where those of the whole batch would not, and no thread waits for another between layers. Layers with many
// weights and small maps take the batch together.
#pragma once

#include <type_traits>
#include <utility>

#include "group.h"
#include "team.h"

// One operation. by_image: runs it on one image; of image -1, says how many there are, or 0 where it should not.
struct Call {
    void (*function)(const void* operation, int threads);
    const void* operation;
    int threads;
    int (*by_image)(const void* operation, int image, int slot, unsigned within);
    int images;       // that are taken one by one, or 0
    unsigned within;  // see `OneImage`
};

template <typename T>
auto images_of(const T& operation, int) -> decltype(operation.images) { return operation.images; }
template <typename T>
int images_of(const T& operation, long) { return operation.count(); }

template <typename T, typename = void>
struct Counts : std::false_type {};
template <typename T>
struct Counts<T, std::void_t<decltype(std::declval<T>().rows[0] = 0)>> : std::is_pointer<decltype(T::rows)> {};

template <typename T>
int run_image(const T& operation, OneImage at) {
    if (at.image >= 0) {
        operation.run_image(at);
        return 0;
    }
    if constexpr (Counts<T>::value) operation.rows[0] = operation.rows[1] = 0;  // images add to it
    return operation.weights() <= NEAR_BYTES ? images_of(operation, 0) : 0;
}

inline void play(const Call* calls, int count) {
    for (int i = 0, last; i < count; i = last) {
        const int images = calls[i].images, threads = calls[i].threads;
        last = i + 1;
        if (!images) {
            calls[i].function(calls[i].operation, threads);
            continue;
        }
        while (last < count && calls[last].images == images) last++;
        for (int c = i; c < last; c++) calls[c].by_image(calls[c].operation, -1, 0, 0);
        std::atomic<int> next{0};
        const auto work = [&](int thread) {
            for (int image; (image = next.fetch_add(1, std::memory_order_relaxed)) < images;)
                for (int c = i; c < last; c++) calls[c].by_image(calls[c].operation, image, thread, calls[c].within);
        };
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num());
#else
        work(0);
#endif
    }
}
