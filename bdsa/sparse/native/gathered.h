// Products of shorter types: tiles of 32 rows, gathered from where they lie unless they lie side by side, times panels.
#pragma once

#include "rows.h"

// Bytes of rows that all panels read before the next ones are gathered: more where the weights are not near.
constexpr size_t GATHERED_BYTES = 256 << 10, GATHERED_FOR_MUCH = 1 << 20, MUCH = 512 << 10;
constexpr int STEPS_AT_ONCE = 8;  // of the depth: the panel's part stays in the nearest memory while all tiles pass
constexpr int ROWS_AHEAD = 6;  // whose memory is fetched while one is copied

// A tile's rows, tap by tap: out[tap][step][32][TILE_DEPTH]; what is beyond a tap's depth becomes zeros.
// rows: [taps][32] pointers; first: where in a row the channels begin. Rows of bfloat16 become bytes where `out` is of them.
template <typename From, typename E>
inline void gather(const From* const* rows, int count, int taps, int depth, int first, Bytes as, E* out) {
    constexpr size_t DEPTH = TILE_DEPTH<E>, STEP = TILE_ROWS * DEPTH, LINE = 64 / sizeof(From);
    const int whole = depth / DEPTH, rest = depth % DEPTH;
    for (int tap = 0; tap < taps; tap++, rows += TILE_ROWS, out += (whole + (rest > 0)) * STEP)
        for (int i = 0; i < count; i++) {
            const From* from = rows[i] + first;
            E* to = out + i * DEPTH;
            if (taps == 1 && i + ROWS_AHEAD < count)
                for (int at = 0; at < depth; at += LINE) __builtin_prefetch(rows[i + ROWS_AHEAD] + first + at);
            for (int step = 0; step < whole; step++, from += DEPTH, to += STEP)
                if constexpr (std::is_same_v<From, E>) copy_line(to, from);
                else quantise(from, DEPTH, as, to);
            if (rest) {
                if constexpr (std::is_same_v<From, E>) std::memcpy((void*)to, from, rest * sizeof(E));
                else quantise(from, rest, as, to);
                std::memset((void*)(to + rest), 0, (DEPTH - rest) * sizeof(E));
            }
        }
}

// The bias, or what a sum is worth, of a panel's 32 columns, in `room` where the matrix has fewer.
template <typename E>
inline const float* of_panel(const float* values, const Matrix<E>& matrix, int panel, float* room) {
    const int first = panel * TILE_COLUMNS, columns = std::min(TILE_COLUMNS, matrix.columns - first);
    if (columns == TILE_COLUMNS) return values + first;
    for (int i = 0; i < TILE_COLUMNS; i++) room[i] = i < columns ? values[first + i] : 0;
    return room;
}

constexpr int BYTES = -1;  // an activation: none, and what is written is bytes but for the rounding

// How the sums of a panel become values that are written.
struct Finishing {
    const float *scale, *bias;  // [32], see `real`
    Bytes as;
};

// Results of a tile, [32][32] sums, finished and put where they go: float32 as it is, shorter types rounded.
// out: [32] rows, of which `offset` is where the panel's columns go.
template <int ACTIVATION, bool ADD, typename S, typename T>
inline void finish_whole(const S* sums, T* const* out, size_t offset, int rows, Finishing with) {
    for (int i = 0; i < rows; i++, sums += TILE_COLUMNS) {
        T* to = out[i] + offset;
        Vector values[TILE_COLUMNS / LANES];
        for (int v = 0; v < TILE_COLUMNS / LANES; v++) {
            values[v] = real(sums + v * LANES, with.scale + v * LANES, with.bias + v * LANES);
            if constexpr (ADD) values[v] += load(to + v * LANES);
            values[v] = activate(values[v], ACTIVATION);
        }
#if defined(__AVX512BF16__)
        if constexpr (std::is_same_v<T, Bfloat16>) {
            const __m512bh both = _mm512_cvtne2ps_pbh((__m512)values[1], (__m512)values[0]);
            std::memcpy((void*)to, &both, sizeof both);
            continue;
        }
#endif
        if constexpr (std::is_same_v<T, Int8>) {
            if constexpr (ACTIVATION != BYTES)
                for (Vector& v : values) v = v * with.as.inverse + with.as.zero;
            store_row(to, values);
        } else for (int v = 0; v < TILE_COLUMNS / LANES; v++) store(to + v * LANES, values[v]);
    }
}

// The same of values that are bytes as they are: scale and bias are those of bytes, where nothing or 0 stands below them.
template <typename S>
inline void finish_bytes(const S* sums, Int8* const* out, size_t offset, int rows, Finishing with) {
    alignas(64) float scale[TILE_COLUMNS], bias[TILE_COLUMNS];
    for (int i = 0; i < TILE_COLUMNS; i++)
        scale[i] = with.scale[i] * with.as.inverse, bias[i] = with.bias[i] * with.as.inverse + with.as.zero;
    finish_whole<BYTES, false>(sums, out, offset, rows, {scale, bias, {}});
}

// The same of a panel with fewer columns; fill: whether zeros go in the place of the others.
template <typename S, typename T>
inline void finish_some(const S* sums, T* const* out, size_t offset, int rows, int columns, bool fill, Finish finish,
                        Finishing with) {
    for (int v = 0; v < TILE_COLUMNS; v += LANES) {
        const int some = std::min(LANES, columns - v);
        if (some <= 0) {
            for (int i = 0; fill && i < rows; i++) put(out[i] + offset + v, Vector{}, {});
            continue;
        }
        for (int i = 0; i < rows; i++) {
            T* to = out[i] + offset + v;
            Vector value = real(sums + i * TILE_COLUMNS + v, with.scale + v, with.bias + v);
            if constexpr (!std::is_same_v<T, Int8>)
                if (finish.add) value += load_some(to, some);
            put_some(to, activate(value, finish.activation), fill ? LANES : some, with.as);
        }
    }
}

template <typename S, typename T>
inline void finish_tile(const S* sums, T* const* out, size_t offset, int rows, int columns, bool fill, Finish finish,
                        Finishing with) {
    if (columns < TILE_COLUMNS) return finish_some(sums, out, offset, rows, columns, fill, finish, with);
    if constexpr (std::is_same_v<T, Int8>) {  // which are never added to
        if (finish.activation == NONE || (finish.activation == RELU && with.as.zero == 0))
            return finish_bytes(sums, out, offset, rows, with);
    } else if (finish.add) {
        if (finish.activation == RELU) return finish_whole<RELU, true>(sums, out, offset, rows, with);
        return finish_whole<NONE, true>(sums, out, offset, rows, with);
    }
    if (finish.activation == RELU) return finish_whole<RELU, false>(sums, out, offset, rows, with);
    if (finish.activation == GELU) return finish_whole<GELU, false>(sums, out, offset, rows, with);
    finish_whole<NONE, false>(sums, out, offset, rows, with);
}

// A tile's rows of bfloat16 as bytes; false for a part of another kind.
template <typename E>
inline bool gather_rounded(const Part<E>& part, const Position* positions, int first, int last, E* out) {
    if constexpr (std::is_same_v<E, Int8>)
        if (part.source.kind == Source<E>::ROUNDED) {
            const Bfloat16* rows[TILE_ROWS];
            Bfloat16* none = nullptr;
            point_at(part.rounded, part.matrix->depth, Reading(part), positions, first, last, none, rows);
            gather(rows, last - first, 1, part.matrix->depth, 0, part.matrix->rows, out);
            return true;
        }
    return false;
}

// See `product` of float32. E: Bfloat16 or Int8; T: of results.
template <typename E, typename T>
inline void product(const Position* positions, int first, int last, const Part<E>* parts, int count, int first_panel,
                    int last_panel, const Target<T>& target, Finish finish) {
    static thread_local Pointers<E> kept;
    static thread_local Buffer<E> gathered;
    static thread_local Buffer<Sum<E>> kept_sums;
    constexpr bool WHOLE_NUMBERS = std::is_same_v<E, Int8>;
    static const Sum<E> nothing[TILE_COLUMNS] = {};
    if (first >= last) return;
    const Matrix<E>& main = *parts[0].matrix;
    size_t depth = 0, pointers = 0, rim = 0, weights = 0;  // depth: of a row of all parts that are gathered
    for (int part = 0; part < count; part++) {
        const Matrix<E>& m = *parts[part].matrix;
        weights += m.bytes();
        if (parts[part].source.kind == Source<E>::ROWS) continue;
        depth += (size_t)m.taps * m.padded(), pointers = std::max(pointers, (size_t)m.taps * TILE_ROWS);
        rim = std::max(rim, (size_t)m.taps * m.depth);
    }
    const size_t most = weights > MUCH ? GATHERED_FOR_MUCH : GATHERED_BYTES;
    const int a_chunk = std::min<size_t>(MAX_TILES, std::max<size_t>(1, most / (depth * TILE_ROWS * sizeof(E) + 1)));
    const bool anew = main.group;  // every panel reads other channels
    const E** table = kept.table.at_least(pointers * (anew ? a_chunk : 1));
    E* spares = kept.rims.at_least(rim * TILE_ROWS * (anew ? a_chunk : 1));
    E* memory = gathered.at_least(depth * TILE_ROWS * a_chunk);
    constexpr size_t TILE = TILE_ROWS * TILE_COLUMNS;
    Sum<E>* sums = kept_sums.at_least(TILE * a_chunk);
    alignas(64) float padding[2][TILE_COLUMNS];
    alignas(64) T* out[MAX_TILES][TILE_ROWS];
    Operand<E> operands[MAX_TILES][2];
    for (int start = first; start < last; start += a_chunk * TILE_ROWS) {
        const int here = (std::min(last, start + a_chunk * TILE_ROWS) - start + TILE_ROWS - 1) / TILE_ROWS;
        E* room = memory;
        for (int t = 0; t < here; t++) {
            const int from = start + t * TILE_ROWS, to = std::min(last, from + TILE_ROWS);
            for (int i = from; i < to; i++) {
                out[t][i - from] = target.row(positions ? positions[i].index : 0, i, 0, TILE_COLUMNS);
                if (finish.add) __builtin_prefetch(out[t][i - from] + target.offset(first_panel, TILE_COLUMNS), 1, 3);
            }
            for (int part = 0; part < count; part++) {
                const Part<E>& p = parts[part];
                const Matrix<E>& m = *p.matrix;
                const Tap tap = m.tap();
                Operand<E>& operand = operands[t][part];
                operand = {room, (size_t)TILE_DEPTH<E>, TILE_ROWS * TILE_DEPTH<E>, nullptr, m.taps * tap.steps, tap};
                if (p.source.kind == Source<E>::ROWS) {
                    operand.a = p.source.base + (size_t)from * m.padded();
                    continue;
                }
                if (p.source.kind == Source<E>::MAP && m.depth == m.padded() && to - from == TILE_ROWS) {
                    operand.a = p.source.base + (size_t)from * m.depth;  // rows side by side
                    operand.row = m.depth, operand.step = TILE_DEPTH<E>;
                    continue;
                }
                const E** rows = table + (anew ? t * pointers : 0);
                E* spare = spares + (anew ? t * rim * TILE_ROWS : 0);
                if (!gather_rounded(p, positions, from, to, room)) {
                    point_at(p.source, m.depth, Reading(p), positions, from, to, spare, rows);
                    if (!anew) gather(rows, to - from, m.taps, m.depth, 0, {}, room);
                }
                room += (size_t)TILE_ROWS * m.taps * m.padded();
            }
        }
        const bool few = operands[0][0].steps + (count == 2 ? operands[0][1].steps : 0) <= STEPS_AT_ONCE;
        for (int panel = first_panel; panel < last_panel; panel++) {
            const int column = panel * TILE_COLUMNS, columns = std::min(TILE_COLUMNS, main.columns - column);
            const float* bias = of_panel(main.bias, main, panel, padding[0]);
            const Finishing with{WHOLE_NUMBERS ? of_panel(main.scale, main, panel, padding[1]) : bias, bias, target.as};
            const size_t offset = target.offset(panel, TILE_COLUMNS), next_offset = target.offset(panel + 1, TILE_COLUMNS);
            const Sum<E>* begin;
            if constexpr (WHOLE_NUMBERS) begin = nothing;
            else begin = bias;
            const size_t values = (size_t)operands[0][0].steps * PANEL_STEP<E>;  // of the first part's panel
            for (int t = 0; anew && t < here; t++)
                gather(table + t * pointers, std::min(last - start - t * TILE_ROWS, TILE_ROWS), main.taps, main.depth,
                       main.first_channel(panel), {}, const_cast<E*>(operands[t][0].a));
            bool begun = false;
            for (int part = 0; part < count; part++) {
                const int steps = operands[0][part].steps;
                const int cuts = here == 1 || few ? 1 : (steps + STEPS_AT_ONCE - 1) / STEPS_AT_ONCE;
                for (int cut = 0; cut < cuts; cut++) {
                    const int k = steps * cut / cuts, some = steps * (cut + 1) / cuts - k;
                    const bool whole = few || (part + 1 == count && cut + 1 == cuts);
                    for (int t = 0; t < here; t++) {
                        const int rows = std::min(last - start - t * TILE_ROWS, TILE_ROWS);
                        Operand<E> used[2] = {operands[t][part], operands[t][1]};
                        used[0].a += k * used[0].step, used[0].steps = some, used[0].begun = k % used[0].tap.steps;
                        used[0].b = parts[part].matrix->panel(panel) + k * PANEL_STEP<E>;
                        if (few && count == 2) used[1].b = parts[1].matrix->panel(panel);
                        Fetch ahead;
                        if (part == 0 && panel + 1 < last_panel) {
                            const E* next = main.panel(panel + 1) + values * (cut * here + t) / (cuts * here);
                            ahead = Fetch(next, values / (cuts * here) * sizeof(E), some);
                        }
                        if (whole && finish.add && panel + 1 < last_panel)
                            for (int i = 0; i < rows; i++) __builtin_prefetch(out[t][i] + next_offset, 1, 3);
                        Sum<E>* own = sums + t * TILE;
                        const Start<Sum<E>> start = begun ? Start<Sum<E>>{own, TILE_COLUMNS} : Start<Sum<E>>{begin};
                        multiply_tile(used, few ? count : 1, rows, columns, start, own, ahead);
                        if (whole) finish_tile(own, out[t], offset, rows, columns, target.kind == Target<T>::ROWS, finish, with);
                    }
                    begun = true;
                }
                if (few) break;
            }
        }
    }
}
