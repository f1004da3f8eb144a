// Digests of memory, by which a change of weights is seen that nothing announced.
#pragma once

#include "team.h"
#include "vector.h"

// A piece of memory: some of a tensor's.
struct Piece {
    const unsigned char* data;
    int64_t bytes;
};

typedef uint64_t Words __attribute__((vector_size(64), aligned(1), may_alias));

// The digest of a piece, of 64 bits: sums of the words and of products of their halves, each with a key of its place (the
// scheme of XXH3). It reads as fast as memory gives.
inline uint64_t digest(Piece piece) {
    constexpr uint64_t ODD = 0x9E3779B97F4A7C15u;
    Words key, products = {}, sums = {};
    for (int i = 0; i < 8; i++) key[i] = ODD * (i + 1);
    const auto take = [&](const unsigned char* at) {
        const Words words = *reinterpret_cast<const Words*>(at), mixed = words ^ key;
        products += (mixed & 0xFFFFFFFFu) * (mixed >> 32);
        sums += words;
        key += ODD * 8;
    };
    int64_t at = 0;
    for (; at + 64 <= piece.bytes; at += 64) {
        __builtin_prefetch(piece.data + at + 2048, 0, 0);
        take(piece.data + at);
    }
    if (at < piece.bytes) {
        unsigned char last[64] = {};
        std::memcpy(last, piece.data + at, piece.bytes - at);
        take(last);
    }
    uint64_t result = piece.bytes * ODD;
    const auto mix = [&](uint64_t word) {
        result = (result ^ word) * ODD;
        result ^= result >> 32;
    };
    for (int i = 0; i < 8; i++) mix(products[i]), mix(sums[i]);
    return result;
}

struct Contents {
    const Piece* pieces;
    uint64_t* digests;  // [count], the result
    int count;

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) {
            team.share(count, [&](int u) { digests[u] = digest(pieces[u]); });
        });
    }
};
