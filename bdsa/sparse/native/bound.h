// A program's operations bound to one size of images: pointers and sizes filled in, as `images.h` plays them.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "images.h"
#include "program.h"

// What images are and where they lie: strides of image, row, column, channel, in values.
struct Images {
    const float* data;
    int images, height, width, channels;
    int64_t strides[4];
};

// Memory by register; `images` and so on: what lies in it while a program is bound.
struct Register {
    Buffer<uint8_t> memory;
    size_t bytes = 0;
    int images = 0, height = 0, width = 0, channels = 0;
    Grid grid() const { return {height, width}; }
    int64_t positions() const { return (int64_t)images * height * width; }
};

class Bound {
public:
    int images, height, width, threads, point;

    // Bind a program's point for images. E: of its maps. `registers` grow where they must, and what was bound to smaller
    // ones must not run again: `moved` says so.
    template <typename E>
    static std::unique_ptr<Bound> bind(const Program& program, int point, const Images& of, int threads,
                                       std::vector<Register>& registers, bool& moved) {
        Bound measure;
        measure.go<E>(program, point, of, threads, registers);
        for (Register& r : registers) {
            const uint8_t* before = r.bytes ? r.memory.at_least(0) : nullptr;
            moved |= r.bytes && r.memory.at_least(r.bytes) != before;
        }
        auto made = std::make_unique<Bound>();
        made->go<E>(program, point, of, threads, registers);
        made->order();
        return made;
    }

    // Logits of images of the size that this was bound for, [images][classes], with all thresholds moved.
    void run(const Images& of, double moved, float* logits) {
        for (const Threshold& one : thresholds_) *one.at = (float)(one.own + moved);
        take_(of);
        give_(logits);
        play(calls_.data(), (int)calls_.size());
    }

private:
    struct Used {
        unsigned bit;
        const void* at;
    };
    struct Threshold {
        float* at;
        double own;
    };
    std::vector<Threshold> thresholds_;
    std::vector<std::shared_ptr<void>> kept_;
    std::vector<Call> calls_;
    std::vector<std::vector<Used>> used_;
    std::function<void(const Images&)> take_;
    std::function<void(float*)> give_;
    const void* end_ = nullptr;
    int64_t rows_[2];

    template <typename T>
    T* keep(const T& value) {
        auto made = std::make_shared<T>(value);
        kept_.push_back(made);
        return made.get();
    }

    template <typename T>
    T* call(const T& operation, std::vector<Used> used, bool by_image = true) {
        T* own = keep(operation);
        Call one{[](const void* o, int threads) { static_cast<const T*>(o)->run(threads); }, own, threads, nullptr, 0, 0};
        if constexpr (!Alone<T>::value)
            if (by_image)
                one.by_image = [](const void* o, int image, int slot, unsigned within) {
                    return run_image(*static_cast<const T*>(o), {image, slot, within});
                };
        calls_.push_back(one);
        used_.push_back(std::move(used));
        return own;
    }

    // Operations that take the batch together.
    template <typename T, typename = void>
    struct Alone : std::true_type {};
    template <typename T>
    struct Alone<T, std::void_t<decltype(&T::run_image)>> : std::false_type {};

    // Which calls go image by image, and which maps are then a thread's own (as `bdsa/sparse/recording.py`).
    void order() {
        std::vector<int> segments;
        for (size_t i = 0; i < calls_.size(); i++) {
            Call& one = calls_[i];
            const int count = one.by_image ? one.by_image(one.operation, -1, 0, 0) : 0;
            const bool as_many_each = count % threads == 0 || count >= 4 * threads;
            one.images = count > 1 && as_many_each ? count : 0;
            const bool next = !i || calls_[i - 1].images != one.images || !one.images;
            segments.push_back(i ? segments.back() + next : 0);
        }
        for (size_t i = 0; i < calls_.size(); i++)
            for (const Used& map : used_[i]) {
                bool within = map.at != end_;
                for (size_t j = 0; j < calls_.size() && within; j++)
                    for (const Used& other : used_[j]) within &= other.at != map.at || segments[i] == segments[j];
                if (within) calls_[i].within |= map.bit;
            }
    }

    template <typename E>
    void go(const Program& program, int at, const Images& of, int parallel, std::vector<Register>& registers);
};
