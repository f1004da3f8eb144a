// Residual blocks of ResNets.
#pragma once

#include "board.h"
#include "group.h"

// A basic block (3x3 with the stride at D(m), 3x3 at m) or, with a third matrix, a bottleneck (1x1 at D(m) of the
// input, 3x3 with the stride and 1x1 at m); the sum is activated by a relu.
//
// Without a projection, `out` holds the identity. With one, it is computed here, at m as part of the last layer, whose
// bias then includes its own, and elsewhere alone.
struct Residual {
    float* out;           // [images][out_height][out_width][channels]
    const float* x;       // [images][height][width][first.depth]
    const uint8_t* mask;  // [images][out_height][out_width]
    int images, height, width, out_height, out_width, stride;
    const Matrix *first, *second, *third;
    const float* projected;  // [images][projected_height][projected_width][projection.depth]
    int projected_height, projected_width, projected_stride;
    const Matrix* projection;
    int everywhere;      // whether the identity is not x: all of the board's products are new
    const Board* board;  // of the mask units that will look at the output, or null
    int64_t* rows;       // how many rows were computed at D(m) and at m

    void run(int threads) const;
    Part part_of_projection(int start, Grid grid, Grid to, const float* zeros) const;
};

inline void Residual::run(int threads) const {
    static thread_local Workspace own;
    const Grid from{height, width}, to{out_height, out_width}, inner = third ? from : to;
    const Grid projected_from{projected_height, projected_width};
    const int group = group_size(images, to), middle = first->columns, step = third ? stride : 1;
    const Matrix& last = third ? *third : *second;
    Position* active = own.active.at_least((size_t)group * to.size());
    Position* passive = projection ? own.passive.at_least((size_t)group * to.size()) : nullptr;
    Position* dilated = own.dilated.at_least((size_t)group * inner.size());
    float* hidden = own.first.at_least((size_t)group * inner.size() * middle);
    float* narrow = third ? own.second.at_least((size_t)group * to.size() * second->columns) : nullptr;
    uint8_t* map = own.map.at_least((size_t)group * inner.size());
    uint8_t* scratch = own.scratch.at_least((size_t)out_height * (inner.width + 2 + stride));
    const float* zeros = own.zero_row(3 * std::max(first->depth, middle));
    const Finish relu{RELU, false}, close{RELU, !projection};
    const Target to_hidden{hidden, (size_t)middle, false}, to_narrow{narrow, (size_t)second->columns, true};
    const size_t weights = second->bytes() + (third ? third->bytes() : 0) + (projection ? projection->bytes() : 0);
    const bool at_once = third && weights <= NEAR_BYTES;  // 3x3 and 1x1 of some rows, while they are near
    int actives = 0, passives = 0, dilations = 0;
    rows[0] = rows[1] = 0;
    in_parallel(threads, 4 * ((images + group - 1) / group), [&](Team team) {
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            const int64_t at = (int64_t)start * to.size();
            const float* input = x + (size_t)start * from.size() * first->depth;
            float* result = out + (size_t)at * last.columns;
            if (team.thread == 0) {
                dilate(mask + at, count, to, inner, step, scratch, map);
                rows[0] += dilations = list_active(map, count, inner, dilated);
            }
            if (team.thread == team.threads - 1) {
                rows[1] += actives = list_active(mask + at, count, to, active);
                if (projection) passives = list_active(mask + at, count, to, passive, true);
            }
            team.wait();

            Part opening{{Source::POSITIONS, input}, first};
            if (!third) opening.source = {Source::WINDOWS, input, from, stride, 3, zeros, to, first->depth};
            const Units opened(dilations, &opening, 1, team.threads);
            team.share(opened.count(), [&](int u) { opened.run(u, dilated, &opening, 1, to_hidden, relu); });
            team.wait();

            const Part spatial{{Source::WINDOWS, hidden, inner, step, 3, zeros, to, middle}, second};
            if (third && !at_once) {
                const Units middles(actives, &spatial, 1, team.threads);
                team.share(middles.count(), [&](int u) { middles.run(u, active, &spatial, 1, to_narrow, relu); });
                team.wait();
            }
            const Part shortcut = part_of_projection(start, projected_from, to, zeros);
            const Part closing[2] = {third ? Part{{Source::IN_ORDER, narrow}, third} : spatial, shortcut};
            const Part both[2] = {closing[0], spatial};
            const Units ends = at_once ? Units(actives, both, 2, team.threads, true)
                                       : Units(actives, closing, projection ? 2 : 1, team.threads);
            const Units others = projection ? Units(passives, &shortcut, 1, team.threads) : Units();
            const bool near = board && (projection || !everywhere) && ends.columns == 1 && others.columns == 1;
            const Target target{result, (size_t)last.columns, false};
            team.share(ends.count() + others.count(), [&](int u) {
                const bool at_m = u < ends.count();
                const Units& units = at_m ? ends : others;
                const Position* list = at_m ? active : passive;
                const int v = at_m ? u : u - ends.count();
                if (at_m && at_once) product(list, units.first(v), units.last(v), spatial, to_narrow, relu);
                if (at_m) units.run(v, list, closing, projection ? 2 : 1, target, close);
                else units.run(v, list, &shortcut, 1, target, relu);
                if (near) board->update(result, list, units.first(v), units.last(v), at);  // rows are whole
            });
            team.wait();
            if (!board || near) continue;
            if (everywhere) board->update(result, nullptr, count * to.size(), at, team);
            else board->update(result, active, actives, at, team);
        }
    });
}

inline Part Residual::part_of_projection(int start, Grid grid, Grid to, const float* zeros) const {
    if (!projection) return {};
    const float* maps = projected + (size_t)start * grid.size() * projection->depth;
    return {{Source::WINDOWS, maps, grid, projected_stride, 1, zeros, to, projection->depth}, projection};
}
