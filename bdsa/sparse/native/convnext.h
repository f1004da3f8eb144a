// Blocks of ConvNeXt v1 and v2.
#pragma once

#include "board.h"
#include "depthwise.h"

// x += fc2(response(gelu(fc1(normalise(depthwise(x)))))) at m, in place. E: of the map; W: of weights and of rows between
// layers, where bytes have no response.
template <typename E, typename W = E>
struct ConvNext {
    E* x;             // [images][height][width][channels]
    const uint8_t* mask;  // [images][height][width]
    int images, height, width;
    const Depthwise* depthwise;
    float eps;
    const Matrix<W> *first, *second;
    const float* response;  // [first.columns], the weight of a global response norm, or null
    float response_eps;
    const Board<E>* board;
    int64_t* rows;

    void run(int threads) const;
    size_t weights() const { return first->bytes() + second->bytes(); }
    void run_image(OneImage at) const {
        ConvNext one = *this;
        int64_t counted[2];
        const int64_t size = height * width;
        one.images = 1, one.rows = counted;
        one.x += at.of(OneImage::X) * size * depthwise->channels, one.mask += at.of(OneImage::MASK) * size;
        const Board<E> own = board ? board->after(at.of(OneImage::PRODUCTS) * size) : Board<E>{};
        if (board) one.board = &own;
        one.run(1);
        for (int i = 0; i < 2; i++) __atomic_fetch_add(rows + i, counted[i], __ATOMIC_RELAXED);
    }
};

// ConvNeXt v2's global response norm over an image's active rows, its bias left out: h * (1 + weight * size / mean size),
// where the size of a channel is the root of the sum of its squares. rows: of all images.
template <typename E>
struct Response {
    const float* weight;
    float eps;
    int width;
    Rows<E> rows;
    const int* starts;  // [images + 1], an image's first row
    float* sizes;       // [images][width]

    static constexpr int CHANNELS = 256;  // of a unit
    int parts() const { return (width + CHANNELS - 1) / CHANNELS; }

    void measure(int image, int part) const {
        const int first = part * CHANNELS, last = std::min(width, first + CHANNELS);
        float* size = sizes + (size_t)image * width;
        std::fill(size + first, size + last, 0.0f);
        for (int i = starts[image]; i < starts[image + 1]; i++)
            in_pieces(first, last, [&](int from, int to) {
                const E* row = rows.at(i, from);
                for (int c = from; c < to; c++) size[c] += widen(row[c - from]) * widen(row[c - from]);
            });
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
            in_pieces(0, width, [&](int from, int to) {
                E* row = rows.at(i, from);
                for (int c = from; c < to; c++)
                    row[c - from] = rounded<E>(widen(row[c - from]) * (1.0f + weight[c] * size[c] * scale));
            });
    }

    // Columns that lie side by side in `Rows`.
    template <typename Work>
    static void in_pieces(int first, int last, const Work& work) {
        constexpr int PIECE = Shape<E>::DEPTH == 1 ? CHANNELS : Shape<E>::DEPTH;
        for (int c = first; c < last; c += PIECE) work(c, std::min(last, c + PIECE));
    }
};

template <typename E, typename W>
void ConvNext<E, W>::run(int threads) const {
    static thread_local Workspace<W> own;
    const Grid grid{height, width};
    const int group = group_size(images, grid), channels = depthwise->channels;
    Position* active = own.active.at_least((size_t)group * grid.size());
    const size_t most = (size_t)group * grid.size();
    const Rows<W> narrow(own.first.at_least(Rows<W>::size(most, channels)), channels);
    const Rows<W> hidden(own.second.at_least(Rows<W>::size(most, first->columns)), first->columns);
    int* starts = own.starts.at_least(group + 1);
    float* sizes = response ? own.sizes.at_least((size_t)group * first->columns) : nullptr;
    const Response<W> respond{response, response_eps, first->columns, hidden, starts, sizes};
    const bool at_once = !response && first->bytes() + second->bytes() <= NEAR_BYTES;  // both 1x1 of some rows
    const Part<W> opening{{Source<W>::ROWS, narrow.base}, first}, closing{{Source<W>::ROWS, hidden.base}, second};
    const Part<W> both[2] = {closing, opening};
    const Target<W> to_hidden = Target<W>(hidden).with(second->rows);
    const Finish gelu{GELU, false}, add{NONE, true};
    int total = 0;
    rows[0] = rows[1] = 0;
    in_parallel(threads, 6 * ((images + group - 1) / group), [&](Team team) {
        const Registers<W> registers;
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            const int64_t at = (int64_t)start * grid.size();
            E* maps = x + (size_t)at * channels;
            if (team.thread == 0) {
                rows[1] += total = list_active(mask + at, count, grid, active);
                for (int image = 0, i = 0; image <= count; starts[image++] = i)
                    while (i < total && active[i].index < image * grid.size()) i++;
            }
            team.wait();

            const int runs = std::min((total + MAX_ROWS - 1) / MAX_ROWS, team.threads == 1 ? 1 : 8 * team.threads);
            team.share(runs, [&](int u) {
                convolve_runs<7>(maps, grid, *depthwise, eps, active, (int)((int64_t)total * u / runs),
                                 (int)((int64_t)total * (u + 1) / runs), narrow, first->rows);
            });
            team.wait();

            if (!at_once) {
                const Units<W> opened(total, &opening, 1, team.threads);
                team.share(opened.count(), [&](int u) { product(opened, u, active, &opening, 1, to_hidden, gelu); });
                team.wait();
            }
            if constexpr (std::is_same_v<E, W>) if (response) {
                const int parts = respond.parts(), bands = team.threads;
                team.share(count * parts, [&](int u) { respond.measure(u / parts, u % parts); });
                team.wait();
                team.share(count * bands, [&](int u) { respond.apply(u / bands, u % bands, bands); });
                team.wait();
            }
            const Units<W> ends = at_once ? Units<W>(total, both, 2, team.threads, true) : Units<W>(total, &closing, 1, team.threads);
            const bool near = board && ends.columns == 1;
            team.share(ends.count(), [&](int u) {
                if (at_once) product(active, ends.first(u), ends.last(u), opening, to_hidden, gelu);
                product(ends, u, active, &closing, 1, Target<E>(maps, (size_t)channels, Target<E>::BY_INDEX), add);
                if (near) board->update(maps, active, ends.first(u), ends.last(u), at);  // rows are whole
            });
            team.wait();
            if (board && !near) board->update(maps, active, total, at, team);
        }
    });
}
