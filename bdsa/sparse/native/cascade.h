// A cascade: every image is looked at cheaply, and those whose answer is unsure once more (`bdsa/method/cascade.py`).
#pragma once

#include <algorithm>
#include <limits>

#include "program.h"

// How sure a program's first answers are, and what its two looks cost, as a mean over images.
class Cascade {
    enum Word { BUDGETS, FRACTIONS = 2, COUNT = 4, LEVELS };  // each look has a budget and a fraction
    const Program& program_;
    const int64_t at_;

public:
    explicit Cascade(const Program& program) : program_(program), at_(program.word(Program::CASCADE)) {}

    explicit operator bool() const { return at_ != 0; }
    double budget(int look) const { return program_.number(at_ + BUDGETS + look); }
    double fraction(int look) const { return program_.number(at_ + FRACTIONS + look); }

    // The confidence below which an image is looked at again, so that a budget is met as a mean. Raises Refused for one
    // that cannot be met.
    float threshold(double budget) const {
        const double most = std::min(std::floor((fraction(0) + fraction(1)) * 1e6) / 1e6, 1.0);
        const double share = (budget - fraction(0)) / fraction(1);
        if (!(budget >= this->budget(0) && budget <= most)) {  // also for NaN
            char text[160];
            std::snprintf(text, sizeof text, "budget %g is none of this cascade, which has any from %g to %.3g as a mean over "
                          "images, and 1", budget, this->budget(0), most);
            throw Refused(text);
        }
        if (share <= 0) return -std::numeric_limits<float>::infinity();
        if (share >= 1) return std::numeric_limits<float>::infinity();
        const int64_t last = program_.word(at_ + COUNT) - 1;
        const double place = share * (double)last;
        const int64_t low = std::min((int64_t)place, last - 1);
        const double below = level(low);
        return (float)(below + (place - (double)low) * (level(low + 1) - below));
    }

    // How sure an answer is: the log-odds of the likeliest class.
    static float confidence(const float* logits, int64_t classes) {
        const int64_t best = std::max_element(logits, logits + classes) - logits;
        double next = -std::numeric_limits<double>::infinity(), sum = 0;
        for (int64_t c = 0; c < classes; c++)
            if (c != best) next = std::max(next, (double)logits[c]);
        for (int64_t c = 0; c < classes; c++)
            if (c != best) sum += std::exp(logits[c] - next);
        return (float)(logits[best] - next - std::log(sum));
    }

private:
    double level(int64_t index) const { return program_.number(at_ + LEVELS + index); }
};
