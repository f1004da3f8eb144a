// Products of either type, of one part, and of one unit of them.
#pragma once

#include "gathered.h"
#include "panels.h"

// A product of one part and all panels.
template <typename E, typename T>
inline void product(const Position* positions, int first, int last, const Part<E>& part, const Target<T>& target,
                    Finish finish) {
    product(positions, first, last, &part, 1, 0, part.matrix->panels(), target, finish);
}

// Unit `u` of a product.
template <typename E, typename T>
inline void product(const Units<E>& units, int u, const Position* list, const Part<E>* parts, int count,
                    const Target<T>& target, Finish finish) {
    product(list, units.first(u), units.last(u), parts, count, units.first_panel(u), units.last_panel(u), target, finish);
}

// What a thread holds while it makes products of a type: of shorter ones the registers of tiles.
template <typename E>
struct Registers {
    TileRegisters tiles;
};
template <>
struct Registers<float> {
    Registers() {}
};
