// Programs kept ready to run: found again by where they lie, bound to the sizes of images that came, for any number of
// callers at once.
#pragma once

#include <cmath>
#include <limits>
#include <mutex>
#include <list>

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cascade.h"
#include "instructions.h"

// What one caller at a time has: memory for maps, and the programs bound to it.
struct Session {
    static constexpr size_t SIZES = 12;  // of images, batches and budgets that take turns
    std::vector<Register> registers;
    std::list<std::unique_ptr<Bound>> bound;  // the last used in front

    explicit Session(int64_t count) : registers(count) {}

    Bound& of(const Program& program, int point, bool exact, const Images& images, int threads) {
        for (auto one = bound.begin(); one != bound.end(); ++one) {
            const Bound& b = **one;
            if (b.point == point && b.exact == exact && b.images == images.images && b.height == images.height &&
                b.width == images.width && b.threads == threads) {
                bound.splice(bound.begin(), bound, one);
                return *bound.front();
            }
        }
        bool moved = false;
        const auto bind = program.word(Program::VALUE_BYTES) == 2 ? &Bound::bind<Bfloat16> : &Bound::bind<float>;
        auto made = bind(program, point, exact, images, threads, registers, moved);
        if (moved) bound.clear();
        bound.push_front(std::move(made));
        if (bound.size() > SIZES) bound.pop_back();
        return *bound.front();
    }
};

class Network {
    Buffer<uint8_t> memory_;
    const uint8_t* given_;

    // A copy in large pages: hosts keep weights in small ones, and a large network's inference reads thousands of them.
    const void* copied(const void* start, int64_t bytes) {
        if (bytes < (int64_t)LARGE) return start;
        return std::memcpy(memory_.at_least(bytes), start, bytes);
    }

public:
    const Program program;

    Network(const void* start, int64_t bytes)
        : given_(static_cast<const uint8_t*>(start)), program((Program(start, bytes).checked(), copied(start, bytes)), bytes) {}

    bool is(const void* start, int64_t bytes) const {
        if (start != given_ || bytes != program.bytes) return false;
        return !std::memcmp(given_, header_.data(), header_.size());
    }
    bool lies_at(const void* start) const { return start == given_; }

    // logits: [images][classes]. An image that holds what is infinite or not a number gets logits that are none.
    // per_image: the budget is what no image may exceed, not a mean over them.
    void run(const Images& images, double budget, bool per_image, float* logits, int threads) {
        const Cascade cascade(program);
        if (!cascade || Program::rounded(budget) == 1) return once(images, budget, per_image, logits, threads);
        if (per_image) throw Refused("a cascade meets its budget as a mean over images: per_image must be false");
        const float threshold = cascade.threshold(Program::rounded(budget));
        once(images, cascade.budget(0), false, logits, threads);
        const int64_t classes = program.word(Program::CLASSES);
        std::vector<int> rows;
        for (int image = 0; image < images.images; image++)
            if (Cascade::confidence(logits + image * classes, classes) < threshold) rows.push_back(image);
        if (rows.empty()) return;
        const std::vector<float> taken = taken_of(images, rows);
        const int64_t plane = (int64_t)images.height * images.width, size = plane * images.channels;
        std::vector<float> answers(rows.size() * classes);
        for (size_t from = 0, few; from < rows.size(); from += few) {  // powers of two: of few sizes, which stay bound
            for (few = 1; 2 * few <= rows.size() - from;) few *= 2;
            once({&taken[from * size], (int)few, images.height, images.width, images.channels, {size, images.width, 1, plane}},
                 cascade.budget(1), false, &answers[from * classes], threads);
        }
        for (size_t row = 0; row < rows.size(); row++)
            std::copy_n(&answers[row * classes], classes, logits + rows[row] * classes);
    }

private:
    // One look at every image; see `run`.
    void once(const Images& images, double budget, bool per_image, float* logits, int threads) {
        const int64_t classes = program.word(Program::CLASSES);
        if (images.channels != program.word(Program::CHANNELS))
            throw Refused("images of " + std::to_string(images.channels) + " channels, and the network reads " +
                          std::to_string(program.word(Program::CHANNELS)));
        if (images.height < 1 || images.width < 1) throw Refused("the images have no positions");
        if (std::max(images.height, images.width) > std::numeric_limits<int16_t>::max())  // of a Position
            throw Refused("the images have a side above 32767 pixels");
        const Program::Place place = program.place(budget);
        if (images.images < 1) return;
        std::unique_ptr<Session> session = take();
        const bool exact = per_image && program.word(program.row(place.point) + Program::PURSES);  // dense: no masks
        session->of(program, place.point, exact, images, threads).run(images, place, logits);
        give(std::move(session));
        for (int image = 0; image < images.images; image++)
            if (!std::isfinite(sum_of(images, image)))
                std::fill_n(logits + image * classes, classes, std::numeric_limits<float>::quiet_NaN());
    }

    // Some of the images, [rows][channels][height][width].
    static std::vector<float> taken_of(const Images& images, const std::vector<int>& rows) {
        std::vector<float> taken;
        taken.reserve(rows.size() * images.channels * images.height * images.width);
        for (int row : rows)
            for (int c = 0; c < images.channels; c++)
                for (int y = 0; y < images.height; y++) {
                    const float* line = images.data + row * images.strides[0] + y * images.strides[1] + c * images.strides[3];
                    for (int x = 0; x < images.width; x++) taken.push_back(line[x * images.strides[2]]);
                }
        return taken;
    }

    const std::vector<uint8_t> header_{program.base, program.base + Program::HEADER * 8};
    std::mutex mutex_;
    std::vector<std::unique_ptr<Session>> idle_;

    std::unique_ptr<Session> take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.empty()) return std::make_unique<Session>(program.word(Program::REGISTERS));
        auto one = std::move(idle_.back());
        idle_.pop_back();
        return one;
    }

    void give(std::unique_ptr<Session> one) {
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(std::move(one));
    }

    static float sum_of(const Images& images, int image) {
        float total = 0;
        for (int c = 0; c < images.channels; c++)
            for (int y = 0; y < images.height; y++) {
                const float* line = images.data + image * images.strides[0] + y * images.strides[1] + c * images.strides[3];
                float sum = 0;
                if (images.strides[2] == 1) {
                    Vector sums = {};
                    int x = 0;
                    for (; x + LANES <= images.width; x += LANES) sums += load(line + x);
                    for (; x < images.width; x++) sum += line[x];
                    sum += ::sum_of(sums);
                } else for (int x = 0; x < images.width; x++) sum += line[x * images.strides[2]];
                total += sum;
            }
        return total;
    }
};

// The network of a program that lies there. Of programs that are gone the oldest are forgotten.
inline std::shared_ptr<Network> network_of(const void* start, int64_t bytes) {
    constexpr size_t MOST = 16;
    static std::mutex mutex;
    static std::list<std::shared_ptr<Network>> known;
    const std::lock_guard<std::mutex> lock(mutex);
    for (auto one = known.begin(); one != known.end(); ++one)
        if ((*one)->lies_at(start)) {
            if ((*one)->is(start, bytes)) {
                known.splice(known.begin(), known, one);
                return known.front();
            }
            known.erase(one);
            break;
        }
    known.push_front(std::make_shared<Network>(start, bytes));
    if (known.size() > MOST) known.pop_back();
    return known.front();
}

// Linux lets a program use the tiles of AMX once it has asked.
inline void ask_for_tiles() {
#if defined(__AMX_BF16__) && defined(__linux__)
    static const bool allowed = syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    if (!allowed) throw Refused("the system does not let programs use the tiles of AMX: build with BDSA_KERNELS=avx512");
#endif
}

// Do what may fail; returns 0, or 1 with a message of at most `room` bytes.
template <typename Work>
inline int attempt(char* message, int room, const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(message, room, "%s", error.what());
        return 1;
    }
}

#pragma GCC visibility push(default)
extern "C" {

// How many logits an image gets.
int bdsa_classes(const void* program, int64_t bytes, int64_t* classes, char* message, int room) {
    return attempt(message, room, [&] { *classes = network_of(program, bytes)->program.word(Program::CLASSES); });
}

// Run a program. sizes: images, channels, height, width; strides: of the same. per_image: whether no image may exceed the
// budget. threads: 0 for as many as OpenMP would take.
int bdsa_network(const void* program, int64_t bytes, const float* images, const int64_t* sizes, const int64_t* strides,
                 double budget, int per_image, float* logits, int threads, char* message, int room) {
    return attempt(message, room, [&] {
        for (int i = 0; i < 4; i++)
            if (sizes[i] < 0 || sizes[i] > std::numeric_limits<int>::max() / 4096) throw Refused("the images are too large");
        ask_for_tiles();
#if defined(_OPENMP)
        if (threads < 1) threads = omp_get_max_threads();
#else
        threads = 1;
#endif
        const Images given{images, (int)sizes[0], (int)sizes[2], (int)sizes[3], (int)sizes[1],
                           {strides[0], strides[2], strides[3], strides[1]}};
        network_of(program, bytes)->run(given, budget, per_image, logits, threads);
    });
}

}  // extern "C"
#pragma GCC visibility pop
