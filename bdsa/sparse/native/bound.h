// A program's operations bound to one size of images: pointers and sizes filled in, as `images.h` plays them.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "images.h"
#include "purses.h"

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
    bool exact;

    // Bind a program's point for images. E: of its maps. exact: decide by purses. `registers` grow where they must, and
    // what was bound to smaller ones must not run again: `moved` says so.
    template <typename E>
    static std::unique_ptr<Bound> bind(const Program& program, int point, bool exact, const Images& of, int threads,
                                       std::vector<Register>& registers, bool& moved) {
        Bound measure;
        measure.go<E>(program, point, exact, of, threads, registers);
        for (Register& r : registers) {
            const uint8_t* before = r.bytes ? r.memory.at_least(0) : nullptr;
            moved |= r.bytes && r.memory.at_least(r.bytes) != before;
        }
        auto made = std::make_unique<Bound>();
        made->go<E>(program, point, exact, of, threads, registers);
        made->order();
        return made;
    }

    // Logits [images][classes] of images of the size that this was bound for, at a budget of this point.
    void run(const Images& of, const Program::Place& place, float* logits) {
        for (const Threshold& one : thresholds_) *one.at = (float)(one.own + place.moved);
        purses_.fill(place.budget, place.moved);
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
    Purses purses_;  // of no blocks, unless this is exact
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
    void go(const Program& program, int at, bool by_purses, const Images& of, int parallel,
            std::vector<Register>& registers);
};

// The registers of one point.
template <typename E>
class Binder {
public:
    Binder(const Program& program, const Images& of, std::vector<Register>& registers)
        : program_(program), registers_(registers) {
        Register& image = registers[Program::IMAGE];
        image.images = of.images, image.height = of.height, image.width = of.width, image.channels = of.channels;
    }

    Register& at(int64_t index) {
        if (index < 0 || index >= (int64_t)registers_.size()) throw Refused("the program is damaged: no such register");
        return registers_[index];
    }

    // A register that takes a map of values of some bytes.
    Register& takes(int64_t index, int images, Grid grid, int channels, size_t value) {
        if (grid.height < 1 || grid.width < 1) throw Refused("the image is too small for this network");
        Register& r = at(index);
        r.images = images, r.height = grid.height, r.width = grid.width, r.channels = channels;
        r.bytes = std::max(r.bytes, (size_t)r.positions() * channels * value);
        return r;
    }

    template <typename T>
    static T* data(Register& r) { return reinterpret_cast<T*>(r.memory.at_least(0)); }

    static Grid strided(const Register& x, int stride) {
        return {(x.height - 1) / stride + 1, (x.width - 1) / stride + 1};
    }

private:
    const Program& program_;
    std::vector<Register>& registers_;
};
