// Threads that share work. Units are claimed one by one, so that a core that is slower, or busy, gets fewer of them.
#pragma once

#include <atomic>

#include "memory.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

class Team {
public:
    const int thread, threads;

    Team(int thread, int threads, std::atomic<int>* counters) : thread(thread), threads(threads), next_(counters) {}

    // Run work(unit) for every unit 0..units once, on whichever thread is free. All threads must come here in step.
    template <typename Work>
    void share(int units, const Work& work) {
        std::atomic<int>& next = *next_++;
        for (int unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) work(unit);
    }

    void wait() const {
#if defined(_OPENMP)
        if (threads > 1) {
#pragma omp barrier
        }
#endif
    }

private:
    std::atomic<int>* next_;  // a counter for each call of `share` to come
};

// Run work(team) on every thread; `shares`: how often it calls `share`, at most.
template <typename Work>
void in_parallel(int threads, int shares, const Work& work) {
    static thread_local Buffer<std::atomic<int>> kept;
    std::atomic<int>* counters = kept.at_least(shares);
    for (int i = 0; i < shares; i++) counters[i].store(0, std::memory_order_relaxed);
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            Team team(omp_get_thread_num(), omp_get_num_threads(), counters);
            work(team);
        }
        return;
    }
#endif
    Team team(0, 1, counters);
    work(team);
}

// Run work(image, first, last) for all rows of all images: an image is a unit, or, of few images, a part of its rows.
template <typename Work>
void in_bands(int threads, int images, int rows, const Work& work) {
    const int bands = images >= threads ? 1 : threads;
    in_parallel(threads, 1, [&](Team team) {
        team.share(images * bands, [&](int u) { work(u / bands, rows * (u % bands) / bands, rows * (u % bands + 1) / bands); });
    });
}
