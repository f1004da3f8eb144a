// A product over a list of positions: where its rows come from, where results go, and how it is cut into units.
#pragma once

#include "memory.h"
#include "positions.h"
#include "product.h"

// Rows that one layer writes and the next one reads, in order: of float32 one after another; of shorter types in
// tiles, [rows / 32][depth / TILE_DEPTH][32][TILE_DEPTH], as they are multiplied. A panel's columns lie side by side in all.
template <typename E>
struct Rows {
    E* base;
    int depth;  // padded
    Rows(E* base, int columns) : base(base), depth(padded(columns)) {}
    static int padded(int columns) { return (columns + Shape<E>::DEPTH - 1) / Shape<E>::DEPTH * Shape<E>::DEPTH; }
    static size_t size(size_t count, int columns) {
        if constexpr (sizeof(E) == sizeof(float)) return count * columns;
        return (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * padded(columns);
    }
    E* at(int i, int column) const {
        if constexpr (sizeof(E) == sizeof(float)) return base + (size_t)i * depth + column;
        return base + (size_t)(i / TILE_ROWS) * TILE_ROWS * depth + i % TILE_ROWS * TILE_DEPTH<E> + place(column);
    }
    // Where a column is in a tile's first row.
    static size_t place(int column) {
        return (size_t)(column / TILE_DEPTH<E>) * (TILE_ROWS * TILE_DEPTH<E>) + column % TILE_DEPTH<E>;
    }
};

// Where the rows of a product come from: for each position and tap a pointer to `depth` values.
template <typename E>
struct Source {
    enum Kind { POSITIONS, ROWS, MAP, WINDOWS, LINES, ROUNDED } kind;  // ROWS: those of `Rows`; MAP: all of a map
    const E* base;      // [images][height][width][depth]
    Grid grid = {};     // WINDOWS, LINES: of the source
    int stride = 1;     // WINDOWS, LINES: of the convolution
    int kernel = 1;     // WINDOWS: kernel x kernel taps, centred; beyond the border is a row of zeros
    const E* zeros = nullptr;  // three times the depth: zeros, of int8 the byte for them
    Grid outputs = {};  // WINDOWS, LINES: the list's own grid
    int channels = 0;   // WINDOWS, LINES: of the source. LINES: a tap is a row of the kernel, and there is no border
};

// One summand: the rows of a source times a matrix.
template <typename E>
struct Part {
    Source<E> source;
    const Matrix<E>* matrix;
};
template <>
struct Part<Int8> {
    Source<Int8> source;
    const Matrix<Int8>* matrix;
    Source<Bfloat16> rounded = {};  // of the kind ROUNDED: rows that become bytes as they are copied, without a border
};

// A part whose rows are of its own type, or become bytes.
template <typename W, typename E>
inline Part<W> part_of(const Source<E>& source, const Matrix<W>* matrix) {
    if constexpr (std::is_same_v<W, E>) return {source, matrix};
    else return {{Source<W>::ROUNDED, nullptr}, matrix, source};
}

// Where results go: rows of a map or in order, or those of `Rows`.
template <typename E>
struct Target {
    E* base;
    size_t stride;               // values from row to row; ROWS: the padded depth
    enum Kind { BY_INDEX, IN_ORDER, ROWS } kind;  // the row is the position's index, or i - first
    int first = 0;
    size_t panel_stride = 0;     // values from panel to panel; 0: side by side in a row
    Bytes as = {};               // of int8
    Target(E* base, size_t stride, Kind kind, int first = 0, size_t panel_stride = 0)
        : base(base), stride(stride), kind(kind), first(first), panel_stride(panel_stride) {}
    explicit Target(const Rows<E>& rows) : Target(rows.base, rows.depth, ROWS) {}
    Target with(Bytes bytes) const {
        Target other = *this;
        other.as = bytes;
        return other;
    }
    // Values from a row's start to a panel of `width` columns.
    size_t offset(int panel, int width) const {
        if (kind == ROWS) return Rows<E>::place(panel * width);
        return panel * (panel_stride ? panel_stride : width);
    }
    E* row(int index, int i, int panel, int width) const {
        if (kind == ROWS) return Rows<E>(base, (int)stride).at(i - first, panel * width);
        return base + (size_t)(kind == IN_ORDER ? i - first : index) * stride + offset(panel, width);
    }
};

constexpr int NARROW = 64;  // channels up to which the three taps of a kernel's row are read as one

// How a part is read: taps, and values of each. Of a 3x3 convolution of few channels a tap is a row of the kernel, whose
// three columns lie side by side in the map as in the matrix: a third of the pointers, and longer runs. A matrix of
// a shorter type is packed so.
struct Reading {
    int taps, depth;
    template <typename E>
    explicit Reading(const Part<E>& part) : taps(part.matrix->taps), depth(part.matrix->depth) {
        const bool narrow = Shape<E>::DEPTH == 1 && depth <= NARROW && !part.matrix->group;
        if (part.source.kind == Source<E>::WINDOWS && taps == 9 && narrow) taps = 3, depth *= 3;
    }
};

// The pointers of positions first..last: out[tap * a tile's rows + i - first]. spare: memory for rows of taps that reach
// over the map's left or right border, moved on by what was taken.
// depth: of a tap of the matrix.
template <typename E>
inline void point_at(const Source<E>& s, int depth, const Reading& reading, const Position* positions, int first, int last,
                     E*& spare, const E** out) {
    constexpr int APART = Shape<E>::ROWS;
    if (s.kind == Source<E>::ROWS || s.kind == Source<E>::MAP) {
        for (int i = first; i < last; i++) out[i - first] = s.base + (size_t)i * depth;
        return;
    }
    if (s.kind == Source<E>::POSITIONS) {
        for (int i = first; i < last; i++) out[i - first] = s.base + (size_t)positions[i].index * depth;
        return;
    }
    const int size = s.outputs.size(), width = s.grid.width;
    const bool windows = s.kind == Source<E>::WINDOWS;
    const auto listed = [&](int i) {
        if (windows) return positions[i];
        return Position{i, (int16_t)(i % size / s.outputs.width), (int16_t)(i % s.outputs.width)};
    };
    const int across = windows ? s.kernel : depth / s.channels;  // columns of a window
    const int before = windows ? s.kernel / 2 : 0;
    int image = listed(first).index / size;
    for (int i = first; i < last;) {
        const Position p = listed(i);
        while (p.index >= (image + 1) * size) image++;
        const E* map = s.base + (size_t)image * s.grid.size() * s.channels;
        const int top = p.row * s.stride - before, left = p.column * s.stride - before;
        const auto within = [&](int column) { return column >= 0 && column + across <= width; };
        int run = 1;  // neighbours whose windows lie within the map from left to right: their pointers are a step apart
        if (within(left))
            while (i + run < last && listed(i + run).index == p.index + run && listed(i + run).column == p.column + run &&
                   within(left + run * s.stride))
                run++;
        const bool cut = !within(left);
        const int lines = windows ? s.kernel : reading.taps, taps_a_line = reading.taps / lines;
        for (int dy = 0; dy < lines; dy++) {
            const bool inside = (unsigned)(top + dy) < (unsigned)s.grid.height;
            const E* line = map + ((ptrdiff_t)(top + dy) * width + left) * s.channels;
            const size_t step = inside ? (size_t)s.stride * s.channels : 0;
            if (inside && cut && taps_a_line == 1) {  // a row of the kernel that reaches over the border
                const int skipped = std::max(0, -left), there = std::min(across, width - left) - skipped;
                std::memcpy((void*)spare, s.zeros, reading.depth * sizeof(E));
                const size_t start = (size_t)skipped * s.channels;
                std::memcpy((void*)(spare + start), line + start, (size_t)there * s.channels * sizeof(E));
                line = spare;
                spare += reading.depth;
            }
            for (int dx = 0; dx < taps_a_line; dx++) {
                const bool there = inside && (!cut || taps_a_line == 1 || (unsigned)(left + dx) < (unsigned)width);
                const E* pointer = there ? line + (size_t)dx * s.channels : s.zeros;
                const E** target = out + (dy * taps_a_line + dx) * APART + i - first;
                for (int j = 0; j < run; j++) target[j] = pointer + j * step;
            }
        }
        i += run;
    }
}

// What a thread keeps between products: pointers to rows, rows that reach over a border.
template <typename E>
struct Pointers {
    Buffer<const E*> table;
    Buffer<E> rims;
};

constexpr int MAX_TILES = 32;   // whose pointers are made at once, for all panels

// How a product is cut into units for threads that claim them: ranges of rows times ranges of panels. Every range of
// columns reads all rows, every range of rows all weights: the cut of least reading among those with enough units.
// Ranges of rows are whole tiles.
template <typename E>
struct Units {
    static constexpr int TILE = Shape<E>::DEPTH == 1 ? 1 : Shape<E>::ROWS;  // what ranges of rows begin at multiples of
    int rows = 0, columns = 1;  // numbers of ranges
    int positions = 0, panels = 0;

    Units() = default;
    Units(int positions, const Part<E>* parts, int count, int threads, bool whole_rows = false)
        : positions(positions), panels(parts[0].matrix->panels()) {
        if (!positions) return;
        double weights = 0, inputs = 0, macs = 0;
        for (int part = 0; part < count; part++) {
            const Matrix<E>& m = *parts[part].matrix;
            const bool copied = COPIES && parts[part].source.kind != Source<E>::ROWS;  // tap by tap
            weights += m.bytes(), inputs += (double)positions * m.depth * sizeof(E) * (copied ? 2 * m.taps : 1);
            macs += (double)positions * m.taps * m.depth * m.columns;
        }
        const int tiles = (positions + Shape<E>::ROWS - 1) / Shape<E>::ROWS;
        int wanted = threads == 1 ? 1 : std::max(threads, std::min(UNITS_A_THREAD * threads, (int)(macs / LEAST_MACS)));
        if (COPIES) wanted = wanted / threads * threads;  // few units must be as many for each thread
        double best = -1;
        for (int c = 1; c <= (whole_rows ? 1 : std::min(panels, wanted)); c++) {
            const int r = std::min(tiles, std::max((wanted + c - 1) / c, (tiles + MAX_TILES - 1) / MAX_TILES));
            const double reading = r * weights + c * inputs + (r * c < wanted ? 1e12 * (wanted - r * c) : 0);
            if (best < 0 || reading < best) best = reading, rows = r, columns = c;
        }
    }

    int count() const { return rows * columns; }
    // What unit `u` is; units that follow each other read the same weights.
    int first(int u) const { return edge(u % rows); }
    int last(int u) const { return edge(u % rows + 1); }
    int first_panel(int u) const { return panels * (u / rows) / columns; }
    int last_panel(int u) const { return panels * (u / rows + 1) / columns; }


    static constexpr bool COPIES = Shape<E>::DEPTH > 1;            // rows are copied before they are multiplied
    static constexpr int UNITS_A_THREAD = COPIES ? 2 : 6;
    static constexpr double LEAST_MACS = COPIES ? 2e7 : 3e5;       // of a unit

private:
    int edge(int range) const {
        const int64_t tiles = (positions + TILE - 1) / TILE;
        return std::min(positions, (int)(tiles * range / rows) * TILE);
    }
};
