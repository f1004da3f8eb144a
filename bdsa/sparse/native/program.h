// A program: a network's inferences at its budgets as bytes, which any host runs: operations in order on registers, with
// numbers and packed weights behind them (`bdsa/sparse/program.py` writes it). Sizes are not in it: each operation says
// what size its result has, so that batch and image may have any.
//
// Bytes: words of 64 bits, then weights. The words: a header, a row of POINT words for each budget or range of budgets,
// curves (numbers of points, fractions, offsets of thresholds), purses (see `purses.h`), then instructions, each
// an operation, the number of its words, and these: registers, places of weights in bytes from the start (0: none),
// integers, and doubles.
#pragma once

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "contents.h"
#include "product.h"

struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Code : int64_t {
    PAD, CONVOLUTION, LAYER_NORM, MEAN, SUBSAMPLE, AVERAGE_POOL, PRODUCTS, DECIDE, UNIT, RESIDUAL, CONVNEXT, ONES,
    EXACT, SUBMANIFOLD
};

struct Program {
    static constexpr int64_t MAGIC = 0x4D52504153444221, VERSION = 4;  // "!BDSAPRM"
    // DIGEST: of all that stands behind it (`contents.h`); NAME: by which a program is known from others in its place.
    enum Word { MAGIC_WORD, VERSION_WORD, BYTES, DIGEST, NAME, VALUE_BYTES, PANEL_COLUMNS, CLASSES, CHANNELS, REGISTERS,
                POINTS, CASCADE, HEADER };  // CASCADE: the first of its words, or 0
    // Of a budget or range: from which to which, its instructions' first word and number of words, the words of its curve
    // and of its purses, or 0, and the offset that its thresholds hold already.
    enum Row { FIRST, LAST, CODE, WORDS, CURVE, PURSES, OFFSET, POINT };
    static constexpr int IMAGE = 0, LOGITS = 1;  // registers

    const uint8_t* base;
    int64_t bytes;

    // Raises Refused for bytes that are no program of this version, or packed for another library.
    Program(const void* start, int64_t size) : base(static_cast<const uint8_t*>(start)), bytes(size) {
        if (bytes < HEADER * 8 || word(MAGIC_WORD) != MAGIC) throw Refused("these bytes are no program of bdsa-export");
        if (word(VERSION_WORD) != VERSION)
            throw Refused("the program has format " + std::to_string(word(VERSION_WORD)) + " and this library reads " +
                          std::to_string(VERSION) + ": export the network again");
        if (word(BYTES) != bytes)
            throw Refused("the program has " + std::to_string(bytes) + " of its " + std::to_string(word(BYTES)) + " bytes");
        const int64_t panel = word(VALUE_BYTES) == 2 ? Shape<Bfloat16>::PANEL : PANEL;
        if (word(PANEL_COLUMNS) != panel)
            throw Refused("the program's weights are packed by " + std::to_string(word(PANEL_COLUMNS)) +
                          " columns and this library's instructions take " + std::to_string(panel) +
                          ": export it on a processor of this kind, or with BDSA_KERNELS naming its instructions");
    }

    // Raises Refused where a bit is another than when it was exported. It reads all bytes, as fast as memory gives.
    const Program& checked() const {
        constexpr int64_t BEHIND = (DIGEST + 1) * 8;
        if (digest({base + BEHIND, bytes - BEHIND}) != (uint64_t)word(DIGEST))
            throw Refused("the program is damaged: it is not what was exported; export the network again");
        return *this;
    }

    int64_t word(int64_t index) const {
        if (index < 0 || index >= bytes / 8) throw Refused("the program is damaged: a word beyond its end");
        int64_t value;
        std::memcpy(&value, base + index * 8, 8);
        return value;
    }
    double number(int64_t index) const {
        const int64_t bits = word(index);
        double value;
        std::memcpy(&value, &bits, 8);
        return value;
    }

    int64_t row(int point) const { return HEADER + (int64_t)point * POINT; }

    static double rounded(double budget) { return std::round(budget * 1e6) / 1e6; }  // callers have it in float32

    // Where the network runs at a budget: a point, and how far its thresholds move.
    struct Place {
        int point;
        double budget, moved;
    };

    // Raises Refused for a budget that is not in the program.
    Place place(double budget) const {
        budget = rounded(budget);
        std::string known;
        for (int i = 0; i < word(POINTS); i++) {
            const double first = number(row(i) + FIRST), last = number(row(i) + LAST);
            const int64_t curve = word(row(i) + CURVE);
            if (first <= budget && budget <= last) return {i, budget, curve ? moved(curve, budget) : 0};
            char text[64];
            if (first == last) std::snprintf(text, sizeof text, "%g", first);
            else std::snprintf(text, sizeof text, "%g to %g", first, last);
            known += (i ? ", " : "") + std::string(text);
        }
        char text[32];
        std::snprintf(text, sizeof text, "%g", budget);
        throw Refused(std::string("budget ") + text + " is not in this program, which has " + known +
                      ": export it with that budget too");
    }

private:
    // The offset at which a curve has a fraction: the log-odds are linear between its points (`bdsa.method.curves`).
    double moved(int64_t curve, double fraction) const {
        const auto log_odds = [](double f) {
            f = std::min(std::max(f, 1e-9), 1 - 1e-9);
            return std::log(f / (1 - f));
        };
        const int64_t count = word(curve), fractions = curve + 1, offsets = fractions + count;
        int64_t after = 1;
        while (after < count - 1 && number(fractions + after) <= fraction) after++;
        const double low = log_odds(number(fractions + after - 1)), high = log_odds(number(fractions + after));
        const double before = number(offsets + after - 1), behind = number(offsets + after);
        return high > low ? before + (behind - before) * (log_odds(fraction) - low) / (high - low) : behind;
    }
};

// Reads an instruction's words one after another.
class Reader {
public:
    Reader(const Program& program, int64_t at) : program_(program), at_(at) {}
    int64_t word() { return program_.word(at_++); }
    int integer() { return (int)word(); }
    double exact() { return program_.number(at_++); }
    float number() { return (float)exact(); }
    template <typename T>
    const T* weights() {
        const int64_t place = word();
        if (place < 0 || place >= program_.bytes) throw Refused("the program is damaged: weights beyond its end");
        return place ? reinterpret_cast<const T*>(program_.base + place) : nullptr;
    }
    template <typename E>
    Matrix<E> matrix() {
        Matrix<E> read;
        read.packed = weights<E>(), read.bias = weights<float>();
        read.taps = integer(), read.depth = integer(), read.columns = integer(), read.group = integer();
        read.channels = read.columns;
        return read;
    }

private:
    const Program& program_;
    int64_t at_;
};
