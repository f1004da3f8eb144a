// Threads that share work. Units are claimed one by one, so that a core that is slower, or busy, gets fewer of them: by
// one half of the threads from the front, by the other from the back, because units that follow each other read the same.
#pragma once

#include <atomic>

#include "memory.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

class Team {
public:
    const int thread, threads;

    // What is claimed of one sharing: in all, from the front, from the back.
    struct Claims {
        std::atomic<int> all, ends[2];
        void clear() { all = 0, ends[0] = 0, ends[1] = 0; }
    };

    Team(int thread, int threads, Claims* claims) : thread(thread), threads(threads), next_(claims) {}

    // Run work(unit) for every unit 0..units once, on whichever thread is free. All threads must come here in step.
    template <typename Work>
    void share(int units, const Work& work) {
        Claims& claims = *next_++;
        while (claims.all.fetch_add(1, std::memory_order_relaxed) < units) {
            const int nth = claims.ends[thread % 2].fetch_add(1, std::memory_order_relaxed);
            work(thread % 2 ? units - 1 - nth : nth);
        }
    }

    void wait() const {
#if defined(_OPENMP)
        if (threads > 1) {
#pragma omp barrier
        }
#endif
    }

private:
    Claims* next_;  // for each call of `share` to come
};

// Run work(team) on every thread; `shares`: how often it calls `share`, at most.
template <typename Work>
void in_parallel(int threads, int shares, const Work& work) {
    static thread_local Buffer<Team::Claims> kept;
    Team::Claims* claims = kept.at_least(shares);
    for (int i = 0; i < shares; i++) claims[i].clear();
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            Team team(omp_get_thread_num(), omp_get_num_threads(), claims);
            work(team);
        }
        return;
    }
#endif
    Team team(0, 1, claims);
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
