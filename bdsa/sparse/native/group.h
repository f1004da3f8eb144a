// Residual blocks at the positions that a mask selects. Maps are [images][height][width][channels] of float32 or bfloat16.
//
// A block goes through its images in groups, so that what one layer writes is still near when the next one reads
// it; within a group all threads share every layer. Positions that are not selected keep the block's identity.
#pragma once

#include "positions.h"

constexpr int GROUP_POSITIONS = 2048;         // positions of a group of images, at least, if there are as many
constexpr size_t NEAR_BYTES = 1 << 20;        // of weights that a core can keep near while it goes through a group

inline int group_size(int images, Grid grid) {
    return std::max(1, std::min(images, (GROUP_POSITIONS + grid.size() - 1) / grid.size()));
}

// Which image of its maps an operation takes when a thread goes through the layers image by image. A map that begins and
// ends within these layers needs no place for every image: it lies in the thread's own slot of its memory, which stays near.
struct OneImage {
    enum Map : unsigned { X = 1, OUT = 2, MASK = 4, PROJECTED = 8, PRODUCTS = 16, LOGITS = 32 };
    int image, slot;
    unsigned within;  // maps of the thread's own
    int64_t of(Map map) const { return within & map ? slot : image; }
};

// What a calling thread keeps between calls.
template <typename E>
struct Workspace {
    Buffer<Position> active, passive, dilated;
    Buffer<E> first, second, whole;  // rows between layers; maps in another type
    Buffer<E> zeros, more_zeros;
    Buffer<float> sizes;
    Buffer<int> starts;
    Buffer<uint8_t> map, scratch;
    // byte: what each is of.
    const E* row_of(Buffer<E>& room, int count, int byte) {
        E* row = room.at_least(count);
        std::memset((void*)row, byte, count * sizeof(E));
        return row;
    }
};
