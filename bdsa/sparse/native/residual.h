// Residual blocks of ResNets.
#pragma once

#include "board.h"

// A basic block (3x3 with the stride at D(m), 3x3 at m) or, with a third matrix, a bottleneck (1x1 at D(m) of the
// input, 3x3 with the stride and 1x1 at m); the sum is activated by a relu. In a submanifold block the first layer is
// computed at m too, where the second one, of stride 1, reads zeros elsewhere.
//
// Without a projection, `out` holds the identity. With one, it is computed here, at m as part of the last layer, whose
// bias then includes its own, and elsewhere alone.
//
// E: of maps; W: of weights, and of the rows between layers.
template <typename E, typename W = E>
struct Residual {
    E* out;           // [images][out_height][out_width][channels]
    const E* x;       // [images][height][width][channels]
    const uint8_t* mask;  // [images][out_height][out_width]
    int images, height, width, out_height, out_width, stride;
    const Matrix<W> *first, *second, *third;
    const E* projected;  // [images][projected_height][projected_width][projection.depth]
    int projected_height, projected_width, projected_stride;
    const Matrix<W>* projection;
    int everywhere;      // whether the identity is not x: all of the board's products are new
    int submanifold;
    const Board<E>* board;  // of the mask units that will look at the output, or null
    int64_t* rows;       // how many rows were computed at D(m), none of a submanifold block, and at m

    void run(int threads) const;
    size_t weights() const {
        return first->bytes() + second->bytes() + (third ? third->bytes() : 0) + (projection ? projection->bytes() : 0);
    }
    void run_image(OneImage at) const {
        Residual one = *this;
        int64_t counted[2];
        const int64_t from = height * width, to = out_height * out_width;
        one.images = 1, one.rows = counted;
        one.x += at.of(OneImage::X) * from * channels(), one.mask += at.of(OneImage::MASK) * to;
        one.out += at.of(OneImage::OUT) * to * (third ? *third : *second).columns;
        if (projection) one.projected += at.of(OneImage::PROJECTED) * projected_height * projected_width * projection->depth;
        const Board<E> own = board ? board->after(at.of(OneImage::PRODUCTS) * to) : Board<E>{};
        if (board) one.board = &own;
        one.run(1);
        for (int i = 0; i < 2; i++) __atomic_fetch_add(rows + i, counted[i], __ATOMIC_RELAXED);
    }
    int channels() const { return third ? first->depth : first->taps * first->depth / 9; }  // a tap may be a kernel's row
    Part<W> part_of_projection(int start, Grid grid, Grid to) const;
};

template <typename E, typename W>
void Residual<E, W>::run(int threads) const {
    static thread_local Workspace<W> own;
    constexpr bool ROUNDED = !std::is_same_v<E, W>;
    const Grid from{height, width}, to{out_height, out_width}, inner = third ? from : to;
    const Grid projected_from{projected_height, projected_width};
    const int group = group_size(images, to), middle = first->columns, step = third ? stride : 1;
    const int channels = this->channels();
    const Matrix<W>& last = third ? *third : *second;
    Position* active = own.active.at_least((size_t)group * to.size());
    Position* passive = projection ? own.passive.at_least((size_t)group * to.size()) : nullptr;
    Position* dilated = submanifold ? active : own.dilated.at_least((size_t)group * inner.size());
    W* hidden = own.first.at_least((size_t)group * inner.size() * middle);
    const Rows<W> narrow(third ? own.second.at_least(Rows<W>::size((size_t)group * to.size(), second->columns)) : nullptr,
                         second->columns);
    uint8_t* map = own.map.at_least((size_t)group * inner.size());
    uint8_t* scratch = own.scratch.at_least((size_t)out_height * (inner.width + 2 + stride));
    W* whole = ROUNDED && !third ? own.whole.at_least((size_t)group * from.size() * channels) : nullptr;  // x as bytes
    const W* zeros = own.row_of(own.zeros, 3 * middle, (int)second->rows.zero);
    const W* zeros_of_x = third ? nullptr : own.row_of(own.more_zeros, 3 * channels, (int)first->rows.zero);
    const Finish relu{RELU, false}, close{RELU, !projection};
    const Target<W> to_hidden = Target<W>(hidden, (size_t)middle, Target<W>::BY_INDEX).with(second->rows);
    const Target<W> to_narrow = Target<W>(narrow).with(last.rows);
    const size_t weights = second->bytes() + (third ? third->bytes() : 0) + (projection ? projection->bytes() : 0);
    const bool at_once = third && weights <= NEAR_BYTES;  // 3x3 and 1x1 of some rows, while they are near
    int actives = 0, passives = 0, dilations = 0;
    rows[0] = rows[1] = 0;
    in_parallel(threads, (ROUNDED ? 6 : 5) * ((images + group - 1) / group), [&](Team team) {
        const Registers<W> registers;
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            const int64_t at = (int64_t)start * to.size();
            const E* input = x + (size_t)start * from.size() * channels;
            E* result = out + (size_t)at * last.columns;
            if (team.thread == 0 && !submanifold) {
                dilate(mask + at, count, to, inner, step, scratch, map);
                rows[0] += dilations = list_active(map, count, inner, dilated);
            }
            if (team.thread == team.threads - 1) {
                rows[1] += actives = list_active(mask + at, count, to, active);
                if (submanifold) dilations = actives;
                if (projection) passives = list_active(mask + at, count, to, passive, true);
            }
            if constexpr (ROUNDED)
                if (!third) {
                    const int lines = count * height, line = width * channels;
                    team.share(lines, [&](int y) { quantise(input + (size_t)y * line, line, first->rows, whole + (size_t)y * line); });
                }
            if (submanifold)
                team.share(count * to.height, [&](int y) {
                    clear_inactive(mask + at + (size_t)y * to.width, to.width, middle * sizeof(W), (int)second->rows.zero,
                                   hidden + (size_t)y * to.width * middle);
                });
            team.wait();

            Part<W> opening = part_of(Source<E>{Source<E>::POSITIONS, input}, first);
            if (!third) {
                const W* windows;
                if constexpr (ROUNDED) windows = whole;
                else windows = input;
                opening = {{Source<W>::WINDOWS, windows, from, stride, 3, zeros_of_x, to, channels}, first};
            }
            const Units<W> opened(dilations, &opening, 1, team.threads);
            team.share(opened.count(), [&](int u) { product(opened, u, dilated, &opening, 1, to_hidden, relu); });
            team.wait();

            const Part<W> spatial{{Source<W>::WINDOWS, hidden, inner, step, 3, zeros, to, middle}, second};
            if (third && !at_once) {
                const Units<W> middles(actives, &spatial, 1, team.threads);
                team.share(middles.count(), [&](int u) { product(middles, u, active, &spatial, 1, to_narrow, relu); });
                team.wait();
            }
            const Part<W> shortcut = part_of_projection(start, projected_from, to);
            const Part<W> closing[2] = {third ? Part<W>{{Source<W>::ROWS, narrow.base}, third} : spatial, shortcut};
            const Part<W> both[2] = {closing[0], spatial};
            const Units<W> ends = at_once ? Units<W>(actives, both, 2, team.threads, true)
                                       : Units<W>(actives, closing, projection ? 2 : 1, team.threads);
            const Units<W> others = projection ? Units<W>(passives, &shortcut, 1, team.threads) : Units<W>();
            const bool again = sizeof(E) == sizeof(float) || !projection;  // bfloat16 reads a whole map without gathering it
            const bool near = board && again && (projection || !everywhere) && ends.columns == 1 && others.columns == 1;
            const Target<E> target(result, (size_t)last.columns, Target<E>::BY_INDEX);
            team.share(ends.count() + others.count(), [&](int u) {
                const bool at_m = u < ends.count();
                const Units<W>& units = at_m ? ends : others;
                const Position* list = at_m ? active : passive;
                const int v = at_m ? u : u - ends.count();
                if (at_m && at_once) product(list, units.first(v), units.last(v), spatial, to_narrow, relu);
                if (at_m) product(units, v, list, closing, projection ? 2 : 1, target, close);
                else product(units, v, list, &shortcut, 1, target, relu);
                if (near) board->update(result, list, units.first(v), units.last(v), at);  // rows are whole
            });
            team.wait();
            if (!board || near) continue;
            if (everywhere) board->update(result, nullptr, count * to.size(), at, team);
            else board->update(result, active, actives, at, team);
        }
    });
}

template <typename E, typename W>
Part<W> Residual<E, W>::part_of_projection(int start, Grid grid, Grid to) const {
    if (!projection) return {};
    const E* maps = projected + (size_t)start * grid.size() * projection->depth;
    const E* none = nullptr;  // a kernel of 1 has no border
    return part_of(Source<E>{Source<E>::WINDOWS, maps, grid, projected_stride, 1, none, to, projection->depth}, projection);
}
