// Residual blocks at the positions that a mask selects. Maps are [images][height][width][channels] of float32.
//
// A block goes through its images in groups, so that what one layer writes is still near when the next one reads
// it; within a group all threads share every layer. Positions that are not selected keep the block's identity.
#pragma once

#include "board.h"
#include "depthwise.h"

constexpr int GROUP_POSITIONS = 2048;         // positions of a group of images, at least, if there are as many
constexpr size_t NEAR_BYTES = 1 << 20;        // of weights that a core can keep near while it goes through a group

inline int group_size(int images, Grid grid) {
    return std::min(images, std::max(1, (GROUP_POSITIONS + grid.size() - 1) / grid.size()));
}

// What a calling thread keeps between calls.
struct Workspace {
    Buffer<Position> active, passive, dilated;
    Buffer<float> first, second, zeros, sizes;
    Buffer<int> starts;
    Buffer<uint8_t> map, scratch;
    const float* zero_row(int count) {
        float* row = zeros.at_least(count);
        std::memset(row, 0, count * sizeof(float));
        return row;
    }
};

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
};

inline void Residual::run(int threads) const {
    static thread_local Workspace own;
    const Grid from{height, width}, to{out_height, out_width}, inner = third ? from : to;
    const Grid projected_from{projected_height, projected_width};
    const int group = group_size(images, to), middle = first->columns;
    const Matrix& last = third ? *third : *second;
    Position* active = own.active.at_least((size_t)group * to.size());
    Position* passive = projection ? own.passive.at_least((size_t)group * to.size()) : nullptr;
    Position* dilated = own.dilated.at_least((size_t)group * inner.size());
    float* hidden = own.first.at_least((size_t)group * inner.size() * middle);
    float* narrow = third ? own.second.at_least((size_t)group * to.size() * second->columns) : nullptr;
    uint8_t* map = own.map.at_least((size_t)group * inner.size());
    uint8_t* scratch = own.scratch.at_least((size_t)out_height * (inner.width + 2 + stride));
    const float* zeros = own.zero_row(3 * std::max(first->depth, middle));
    int actives = 0, passives = 0, dilations = 0;
    rows[0] = rows[1] = 0;
    in_parallel(threads, 4 * ((images + group - 1) / group), [&](Team team) {
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            const uint8_t* part = mask + (size_t)start * to.size();
            const float* input = x + (size_t)start * from.size() * first->depth;
            float* result = out + (size_t)start * to.size() * last.columns;
            const int64_t at = (int64_t)start * to.size();
            if (team.thread == 0) {
                dilate(part, count, to, inner, third ? stride : 1, scratch, map);
                rows[0] += dilations = list_active(map, count, inner, dilated);
            }
            if (team.thread == team.threads - 1) {
                rows[1] += actives = list_active(part, count, to, active);
                if (projection) passives = list_active(part, count, to, passive, true);
            }
            team.wait();

            const Part opening{third ? Source{Source::POSITIONS, input}
                                     : Source{Source::WINDOWS, input, 0, from, stride, 3, zeros, to, first->depth}, first};
            const Units opened(dilations, &opening, 1, team.threads);
            team.share(opened.count(), [&](int u) {
                product(dilated, opened.first(u), opened.last(u), &opening, 1, opened.first_panel(u), opened.last_panel(u),
                        Target{hidden, (size_t)middle, false}, Finish{RELU, false});
            });
            team.wait();

            const Part spatial{{Source::WINDOWS, hidden, 0, inner, third ? stride : 1, 3, zeros, to, middle}, second};
            const Part shortcut{{Source::WINDOWS, projected + (projection ? (size_t)start * projected_from.size() * projection->depth : 0),
                                 0, projected_from, projected_stride, 1, zeros, to, projection ? projection->depth : 0}, projection};
            Part closing[2] = {spatial, shortcut};
            if (third) closing[0] = {{Source::IN_ORDER, narrow}, third};
            const int parts = projection ? 2 : 1;
            const size_t weights = second->bytes() + (third ? third->bytes() : 0) + (projection ? projection->bytes() : 0);
            const bool at_once = third && weights <= NEAR_BYTES;  // 3x3 and 1x1 of some rows, while they are near
            if (third && !at_once) {
                const Units middles(actives, &spatial, 1, team.threads);
                team.share(middles.count(), [&](int u) {
                    product(active, middles.first(u), middles.last(u), &spatial, 1, middles.first_panel(u), middles.last_panel(u),
                            Target{narrow, (size_t)second->columns, true}, Finish{RELU, false});
                });
                team.wait();
            }
            const Part work[2] = {closing[0], spatial};
            const Units ends = at_once ? Units(actives, work, 2, team.threads, true) : Units(actives, closing, parts, team.threads);
            const Units others = projection ? Units(passives, &shortcut, 1, team.threads) : Units();
            const bool near = board && (projection || !everywhere) && ends.columns == 1 && others.columns == 1;
            const Target target{result, (size_t)last.columns, false};  // near: units have whole rows and look at them at once
            team.share(ends.count() + others.count(), [&](int u) {
                if (u < ends.count()) {
                    const int a = ends.first(u), z = ends.last(u);
                    if (at_once) product(active, a, z, &spatial, 1, 0, second->panels(), Target{narrow, (size_t)second->columns, true}, Finish{RELU, false});
                    product(active, a, z, closing, parts, ends.first_panel(u), ends.last_panel(u), target, Finish{RELU, !projection});
                    if (near) board->update(result, active, a, z, at);
                } else {
                    const int v = u - ends.count(), a = others.first(v), z = others.last(v);
                    product(passive, a, z, &shortcut, 1, others.first_panel(v), others.last_panel(v), target, Finish{RELU, false});
                    if (near) board->update(result, passive, a, z, at);
                }
            });
            team.wait();
            if (board && !near) {
                const bool all = everywhere;
                const Units again = board->units(all ? count * to.size() : actives, team.threads);
                team.share(again.count(), [&](int u) {
                    board->update(result, all ? nullptr : active, again.first(u), again.last(u), at);
                });
                team.wait();
            }
        }
    });
}

// x += fc2(response(gelu(fc1(normalise(depthwise(x)))))) at m, in place.
struct ConvNext {
    float* x;             // [images][height][width][channels]
    const uint8_t* mask;  // [images][height][width]
    int images, height, width;
    const Depthwise* depthwise;
    float eps;
    const Matrix *first, *second;
    const float* response;  // [first.columns], the weight of a global response norm, or null
    float response_eps;
    const Board* board;
    int64_t* rows;

    void run(int threads) const;
};

// ConvNeXt v2's global response norm over an image's active rows, its bias left out: h * (1 + weight * size / mean size),
// where the size of a channel is the root of the sum of its squares. rows: [starts[images]][width].
struct Response {
    const float* weight;
    float eps;
    int width;
    float* rows;
    const int* starts;  // [images + 1], an image's first row
    float* sizes;       // [images][width]

    static constexpr int CHANNELS = 256;  // of a unit
    int parts() const { return (width + CHANNELS - 1) / CHANNELS; }

    void measure(int image, int part) const {
        const int first = part * CHANNELS, last = std::min(width, first + CHANNELS);
        float* size = sizes + (size_t)image * width;
        std::fill(size + first, size + last, 0.0f);
        for (int i = starts[image]; i < starts[image + 1]; i++)
            for (int c = first; c < last; c++) size[c] += rows[(size_t)i * width + c] * rows[(size_t)i * width + c];
        for (int c = first; c < last; c++) size[c] = std::sqrt(size[c]);
    }

    // The band-th of some bands of an image's rows.
    void apply(int image, int band, int bands) const {
        const float* size = sizes + (size_t)image * width;
        double total = 0;
        for (int c = 0; c < width; c++) total += size[c];
        const float scale = 1.0f / ((float)(total / width) + eps);
        const int count = starts[image + 1] - starts[image];
        for (int i = starts[image] + count * band / bands; i < starts[image] + count * (band + 1) / bands; i++)
            for (int c = 0; c < width; c++) rows[(size_t)i * width + c] *= 1.0f + weight[c] * size[c] * scale;
    }
};

inline void ConvNext::run(int threads) const {
    static thread_local Workspace own;
    const Grid grid{height, width};
    const int group = group_size(images, grid), channels = depthwise->channels;
    Position* active = own.active.at_least((size_t)group * grid.size());
    float* narrow = own.first.at_least((size_t)group * grid.size() * channels);
    float* hidden = own.second.at_least((size_t)group * grid.size() * first->columns);
    int* starts = own.starts.at_least(group + 1);
    float* sizes = response ? own.sizes.at_least((size_t)group * first->columns) : nullptr;
    const Response respond{response, response_eps, first->columns, hidden, starts, sizes};
    int total = 0;
    rows[0] = rows[1] = 0;
    in_parallel(threads, 6 * ((images + group - 1) / group), [&](Team team) {
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            float* maps = x + (size_t)start * grid.size() * channels;
            const int64_t at = (int64_t)start * grid.size();
            if (team.thread == 0) {
                rows[1] += total = list_active(mask + at, count, grid, active);
                for (int image = 0, i = 0; image <= count; starts[image++] = i)
                    while (i < total && active[i].index < image * grid.size()) i++;
            }
            team.wait();

            const int runs = std::min((total + MAX_ROWS - 1) / MAX_ROWS, team.threads == 1 ? 1 : 8 * team.threads);
            team.share(runs, [&](int u) {
                convolve_runs<7>(maps, grid, *depthwise, eps, active, (int)((int64_t)total * u / runs),
                                 (int)((int64_t)total * (u + 1) / runs), narrow);
            });
            team.wait();

            const Part opening{{Source::IN_ORDER, narrow}, first}, closing{{Source::IN_ORDER, hidden}, second};
            const Part work[2] = {closing, opening};
            const bool at_once = !response && first->bytes() + second->bytes() <= NEAR_BYTES;
            if (!at_once) {
                const Units opened(total, &opening, 1, team.threads);
                team.share(opened.count(), [&](int u) {
                    product(active, opened.first(u), opened.last(u), &opening, 1, opened.first_panel(u), opened.last_panel(u),
                            Target{hidden, (size_t)first->columns, true}, Finish{GELU, false});
                });
                team.wait();
            }
            if (response) {
                team.share(count * respond.parts(), [&](int u) { respond.measure(u / respond.parts(), u % respond.parts()); });
                team.wait();
                team.share(count * team.threads, [&](int u) { respond.apply(u / team.threads, u % team.threads, team.threads); });
                team.wait();
            }
            const Units ends = at_once ? Units(total, work, 2, team.threads, true) : Units(total, &closing, 1, team.threads);
            const bool near = board && ends.columns == 1;
            team.share(ends.count(), [&](int u) {
                const int a = ends.first(u), z = ends.last(u);
                if (at_once) product(active, a, z, &opening, 1, 0, first->panels(), Target{hidden, (size_t)first->columns, true}, Finish{GELU, false});
                product(active, a, z, &closing, 1, ends.first_panel(u), ends.last_panel(u), Target{maps, (size_t)channels, false}, Finish{NONE, true});
                if (near) board->update(maps, active, a, z, at);
            });
            team.wait();
            if (board && !near) {
                const Units again = board->units(total, team.threads);
                team.share(again.count(), [&](int u) { board->update(maps, active, again.first(u), again.last(u), at); });
                team.wait();
            }
        }
    });
}
