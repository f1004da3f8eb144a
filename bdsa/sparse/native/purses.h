// The purses of a program's images: what each block's threshold may spend and must leave (`bdsa.method.exact.Expected`).
// Blocks cost by the size of their maps, so that this is reckoned where a program is bound to a size of images.
#pragma once

#include <vector>

#include "exact.h"
#include "program.h"

class Purses {
public:
    // A further block, in the network's order, that lives as long as this.
    void add(Exact* block) { blocks_.push_back(block); }

    // Reckon what the blocks behind each are expected to spend. Words of a point: numbers of offsets and of blocks, offsets
    // of thresholds, and block by block the fraction that runs at each offset; of one offset none was measured, and a
    // block is expected to spend the budget's share.
    void reckon(const Program& program, int point, int images) {
        const int64_t words = program.word(program.row(point) + Program::PURSES);
        const int points = (int)program.word(words);
        if (points < 1 || program.word(words + 1) != (int64_t)blocks_.size())
            throw Refused("the program is damaged: its purses are not of its blocks");
        held_ = program.number(program.row(point) + Program::OFFSET), known_ = points > 1, total_ = 0;
        left_.resize(images), offsets_.resize(points), ahead_.resize(points * blocks_.size());
        for (int i = 0; i < points; i++) offsets_[i] = program.number(words + 2 + i);
        std::vector<double> sums(points);
        for (size_t b = blocks_.size(); b-- > 0;) {
            Exact& block = *blocks_[b];
            block.left = left_.data(), block.offsets = offsets_.data(), block.points = points;
            block.ahead = &ahead_[b * points];
            total_ += block.all();
            for (int i = 0; i < points; i++) {
                // volatile: rounded before it is added, as Python's is; compilers would add the exact product
                const volatile double cost = program.number(words + 2 + (b + 1) * points + i) * block.all();
                sums[i] += cost;
                ahead_[b * points + i] = sums[i] - cost;
            }
        }
    }

    // All that the next pass may spend. moved: how far its thresholds move.
    void fill(double budget, double moved) {
        for (size_t b = 0; b < blocks_.size(); b++) {
            Exact& block = *blocks_[b];
            block.start = b ? -1 : budget * (double)total_;
            block.scale = known_ ? 1 : budget, block.moved = held_ + moved;
        }
    }

private:
    std::vector<Exact*> blocks_;
    std::vector<double> left_, offsets_, ahead_;
    int64_t total_ = 0;
    double held_ = 0;
    bool known_ = false;
};
