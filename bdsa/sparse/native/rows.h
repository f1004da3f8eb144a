// A product over a list of positions: where its rows come from, where results go, and how it is cut into units.
#pragma once

#include "memory.h"
#include "positions.h"
#include "product.h"

// Where the rows of a product come from: for each position and tap a pointer to `depth` floats.
struct Source {
    enum Kind { POSITIONS, IN_ORDER, WINDOWS, LINES } kind;
    const float* base;  // [images][height][width][depth]; IN_ORDER: [rows][depth]
    Grid grid = {};     // WINDOWS, LINES: of the source
    int stride = 1;     // WINDOWS, LINES: of the convolution
    int kernel = 1;     // WINDOWS: kernel x kernel taps, centred; beyond the border is a row of zeros
    const float* zeros = nullptr;  // three times the depth
    Grid outputs = {};  // WINDOWS, LINES: the list's own grid
    int channels = 0;   // WINDOWS, LINES: of the source. LINES: a tap is a row of the kernel, and there is no border
};

// One summand: the rows of a source times a matrix.
struct Part {
    Source source;
    const Matrix* matrix;
};

// Where results go.
struct Target {
    float* base;
    size_t stride;               // floats from row to row
    bool in_order;               // the i-th position's result is row i - first; else row `index`
    int first = 0;
    size_t panel_stride = PANEL; // floats from panel to panel: side by side in a row, unless told otherwise
    float* row(int index, int i, int panel) const {
        return base + (size_t)(in_order ? i - first : index) * stride + (size_t)panel * panel_stride;
    }
};

constexpr int NARROW = 64;  // channels up to which the three taps of a kernel's row are read as one

// How a part is read: taps, and floats of each. Of a 3x3 convolution of few channels a tap is a row of the kernel, whose
// three columns lie side by side in the map as in the matrix: a third of the pointers, and longer runs.
struct Reading {
    int taps, depth;
    explicit Reading(const Part& part) : taps(part.matrix->taps), depth(part.matrix->depth) {
        if (part.source.kind == Source::WINDOWS && part.source.kernel == 3 && depth <= NARROW && !part.matrix->group)
            taps = 3, depth *= 3;
    }
};

// The pointers of positions first..last: out[tap * MAX_ROWS + i - first]. spare: memory for rows of taps that reach over
// the map's left or right border, moved on by what was taken.
inline void point_at(const Part& part, const Reading& reading, const Position* positions, int first, int last, float*& spare,
                     const float** out) {
    const Source& s = part.source;
    const int depth = part.matrix->depth;
    if (s.kind == Source::IN_ORDER) {
        for (int i = first; i < last; i++) out[i - first] = s.base + (size_t)i * depth;
        return;
    }
    if (s.kind == Source::POSITIONS) {
        for (int i = first; i < last; i++) out[i - first] = s.base + (size_t)positions[i].index * depth;
        return;
    }
    const int size = s.outputs.size(), width = s.grid.width;
    const auto listed = [&](int i) {
        if (s.kind == Source::WINDOWS) return positions[i];
        return Position{i, (int16_t)(i % size / s.outputs.width), (int16_t)(i % s.outputs.width)};
    };
    const int across = s.kind == Source::LINES ? depth / s.channels : s.kernel;  // columns of a window
    const int before = s.kind == Source::LINES ? 0 : s.kernel / 2;
    int image = listed(first).index / size;
    for (int i = first; i < last;) {
        const Position p = listed(i);
        while (p.index >= (image + 1) * size) image++;
        const float* map = s.base + (size_t)image * s.grid.size() * s.channels;
        const int top = p.row * s.stride - before, left = p.column * s.stride - before;
        const auto within = [&](int column) { return column >= 0 && column + across <= width; };
        int run = 1;  // neighbours whose windows lie within the map from left to right: their pointers are a step apart
        if (within(left))
            while (i + run < last && listed(i + run).index == p.index + run && listed(i + run).column == p.column + run &&
                   within(left + run * s.stride))
                run++;
        const bool cut = !within(left);
        const int taps_a_line = s.kind == Source::WINDOWS && reading.depth == depth ? s.kernel : 1;
        const int lines = reading.taps / taps_a_line;
        for (int dy = 0; dy < lines; dy++) {
            const bool inside = (unsigned)(top + dy) < (unsigned)s.grid.height;
            const float* line = map + ((ptrdiff_t)(top + dy) * width + left) * s.channels;
            const size_t step = inside ? (size_t)s.stride * s.channels : 0;
            if (inside && cut && taps_a_line == 1) {  // a row of the kernel that reaches over the border
                const int skipped = std::max(0, -left), there = std::min(across, width - left) - skipped;
                std::memset(spare, 0, reading.depth * sizeof(float));
                const size_t start = (size_t)skipped * s.channels;
                std::memcpy(spare + start, line + start, (size_t)there * s.channels * sizeof(float));
                line = spare;
                spare += reading.depth;
            }
            for (int dx = 0; dx < taps_a_line; dx++) {
                const bool there = inside && (!cut || taps_a_line == 1 || (unsigned)(left + dx) < (unsigned)width);
                const float* pointer = there ? line + (size_t)dx * s.channels : s.zeros;
                const float** target = out + (dy * taps_a_line + dx) * MAX_ROWS + i - first;
                for (int j = 0; j < run; j++) target[j] = pointer + j * step;
            }
        }
        i += run;
    }
}

constexpr int MAX_TILES = 32;   // whose pointers are made at once, for all panels
constexpr int LINES_AHEAD = 8;  // cache lines of the next tile's rows that are fetched early; the hardware goes on

inline void fetch_early(const float* row, int depth) {
    for (int line = 0; line < std::min(LINES_AHEAD, depth / 16); line++) __builtin_prefetch(row + line * 16, 0, 2);
}

// target[i] = finish(sum over parts of source[i] * matrix) for positions first..last and panels first_panel..last_panel.
// count: one or two parts, of matrices with as many columns; the first one's bias counts. Without positions, sources
// and target are IN_ORDER or LINES.
inline void product(const Position* positions, int first, int last, const Part* parts, int count, int first_panel,
                    int last_panel, const Target& target, Finish finish) {
    static thread_local Buffer<const float*> pointers;
    static thread_local Buffer<float> rims;
    if (first >= last) return;
    const Reading readings[2] = {Reading(parts[0]), Reading(parts[count - 1])};
    const int taps = readings[0].taps + (count == 2 ? readings[1].taps : 0);
    const size_t bytes = parts[0].matrix->bytes() + (count == 2 ? parts[1].matrix->bytes() : 0);
    const int tiles = (last - first + MAX_ROWS - 1) / MAX_ROWS;               // of nearly equal height
    const int a_chunk = std::min(MAX_TILES, 4 + (int)(bytes >> 16));          // large matrices: more rows at once
    const float** table = pointers.at_least((size_t)a_chunk * taps * MAX_ROWS);
    const bool rim = readings[0].depth != parts[0].matrix->depth;
    float* spares = rim ? rims.at_least((size_t)a_chunk * MAX_ROWS * 3 * readings[0].depth) : nullptr;
    int edges[MAX_TILES + 1];
    for (int tile = 0; tile < tiles; tile += a_chunk) {
        const int here = std::min(a_chunk, tiles - tile);
        for (int t = 0; t <= here; t++) edges[t] = first + (int)((int64_t)(last - first) * (tile + t) / tiles);
        float* spare = spares;
        for (int t = 0; t < here; t++) {
            const float** rows = table + (size_t)t * taps * MAX_ROWS;
            for (int part = 0; part < count; rows += readings[part++].taps * MAX_ROWS)
                point_at(parts[part], readings[part], positions, edges[t], edges[t + 1], spare, rows);
        }
        for (int panel = first_panel; panel < last_panel; panel++) {
            const Matrix& main = *parts[0].matrix;
            const int column = panel * PANEL, columns = std::min(PANEL, main.columns - column);
            Summand summands[2];
            for (int part = 0; part < count; part++)
                summands[part] = {parts[part].matrix->panel(panel), readings[part].taps, readings[part].depth,
                                   parts[part].matrix->first_channel(panel)};
            for (int t = 0; t < here; t++) {
                float* out[MAX_ROWS];
                const int rows = edges[t + 1] - edges[t];
                for (int i = 0; i < rows; i++)
                    out[i] = target.row(positions ? positions[edges[t] + i].index : 0, edges[t] + i, panel);
                if (taps == 1 && panel == first_panel && t + 1 < here)
                    for (int i = 0; i < edges[t + 2] - edges[t + 1]; i++)
                        fetch_early(table[(size_t)(t + 1) * MAX_ROWS + i], main.depth);
                if (finish.add || panel == first_panel)
                    for (int i = 0; i < rows; i++) {
                        __builtin_prefetch(out[i], 1, 3);
                        __builtin_prefetch(out[i] + LANES, 1, 3);
                    }
                const Multiply multiply = columns > LANES ? multiply_of<2>(rows) : multiply_of<1>(rows);
                const bool ahead = !finish.add && panel + 1 < last_panel && target.panel_stride == PANEL;
                multiply(table + (size_t)t * taps * MAX_ROWS, summands, count, main.bias + column, out, columns,
                         Finish{finish.activation, finish.add, ahead});
            }
        }
    }
}

// The same of one part and all panels.
inline void product(const Position* positions, int first, int last, const Part& part, const Target& target, Finish finish) {
    product(positions, first, last, &part, 1, 0, part.matrix->panels(), target, finish);
}

// How a product is cut into units for threads that claim them: ranges of rows times ranges of panels. Every range of
// columns reads all rows, every range of rows all weights: the cut of least reading among those with enough units.
struct Units {
    int rows = 0, columns = 1;  // numbers of ranges
    int positions = 0, panels = 0;

    Units() = default;
    Units(int positions, const Part* parts, int count, int threads, bool whole_rows = false)
        : positions(positions), panels(parts[0].matrix->panels()) {
        if (!positions) return;
        double weights = 0, inputs = 0, macs = 0;
        for (int part = 0; part < count; part++) {
            const Matrix& m = *parts[part].matrix;
            weights += m.bytes(), inputs += (double)positions * m.depth * sizeof(float);
            macs += (double)positions * m.taps * m.depth * m.columns;
        }
        const int tiles = (positions + MAX_ROWS - 1) / MAX_ROWS;
        const int wanted = threads == 1 ? 1 : std::max(threads, std::min(UNITS_A_THREAD * threads, (int)(macs / LEAST_MACS)));
        double best = -1;
        for (int c = 1; c <= (whole_rows ? 1 : std::min(panels, wanted)); c++) {
            const int r = std::min(tiles, std::max((wanted + c - 1) / c, (tiles + MAX_TILES - 1) / MAX_TILES));
            const double reading = r * weights + c * inputs + (r * c < wanted ? 1e12 * (wanted - r * c) : 0);
            if (best < 0 || reading < best) best = reading, rows = r, columns = c;
        }
    }

    int count() const { return rows * columns; }
    // What unit `u` is; units that follow each other read the same weights.
    int first(int u) const { return (int)((int64_t)positions * (u % rows) / rows); }
    int last(int u) const { return (int)((int64_t)positions * (u % rows + 1) / rows); }
    int first_panel(int u) const { return panels * (u / rows) / columns; }
    int last_panel(int u) const { return panels * (u / rows + 1) / columns; }

    void run(int u, const Position* list, const Part* parts, int count, const Target& target, Finish finish) const {
        product(list, first(u), last(u), parts, count, first_panel(u), last_panel(u), target, finish);
    }

    static constexpr int UNITS_A_THREAD = 6;
    static constexpr double LEAST_MACS = 3e5;  // of a unit: a few microseconds
};
