// Self-attention of few tokens, forward and backward: one head of one image at a time, within the nearest caches.
//
// Compiled for one shape: TOKENS, HEAD_WIDTH (a multiple of 4) and VALUE_BITS (16: bfloat16, 32: float). Sums, softmax
// and its gradient are in float; of bfloat16 also the weights are rounded to bfloat16 before they multiply values.
//
// Lanes of a vector are queries, rows are keys: so the softmax runs down the rows, and next to nothing is summed across
// lanes. A group is 32 bits of values that a product takes together: two bfloat16, or one float. Vectors are those of
// GCC and Clang, of any processor; what one of them does better is asked for by name where its macro is defined.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if VALUE_BITS == 16
using Value = uint16_t;
constexpr int GROUP = 2;
#else
using Value = float;
constexpr int GROUP = 1;
#endif

// MOST_VECTORS: of one row at a time, so that the sums of TILE rows stay in registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_VECTORS = 6;
#elif defined(__AVX__)
constexpr int LANES = 8, MOST_VECTORS = 3;
#else
constexpr int LANES = 4, MOST_VECTORS = 6;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

constexpr int up_to(int count, int step) { return (count + step - 1) / step * step; }
constexpr int TILE = 4;
constexpr int CHUNKS = up_to(TOKENS, LANES * MOST_VECTORS) / (LANES * MOST_VECTORS);
constexpr int VECTORS = up_to(TOKENS, LANES * CHUNKS) / (LANES * CHUNKS);  // of a chunk of queries
constexpr int QUERIES = CHUNKS * VECTORS * LANES;                          // with those that only fill vectors
constexpr int KEYS = up_to(TOKENS, 8);                                     // with those that only fill tiles
constexpr int WIDTH_GROUPS = HEAD_WIDTH / GROUP;
constexpr int TOKEN_GROUPS = up_to(TOKENS, GROUP) / GROUP;
constexpr int WIDTH_VECTORS = up_to(HEAD_WIDTH, LANES) / LANES;
constexpr int WIDTH = WIDTH_VECTORS * LANES;
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(HEAD_WIDTH % TILE == 0);

using ByQuery = uint32_t[QUERIES];              // a row of groups, one for each query
using ByWidth = uint32_t[WIDTH];                // a row of groups, one for each value of a head
using Sums = Floats[TILE][VECTORS];

static inline Floats splat(float x) { return Floats{} + x; }
static inline Words splat(uint32_t x) { return Words{} + x; }

template <class Vector, class Number>
static inline Vector load(const Number* place) {
    Vector x;
    std::memcpy(&x, place, sizeof x);
    return x;
}

template <class Vector, class Number>
static inline void store(Number* place, Vector x) {
    std::memcpy(place, &x, sizeof x);
}

static inline uint32_t group_at(const Value* place) { return load<uint32_t>(place); }

// b where one of them is no number.
static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// sum + a * b, group by group.
static inline Floats dot(Floats sum, Words a, Words b) {
#if VALUE_BITS == 32
    return sum + (Floats)a * (Floats)b;
#elif defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    const uint32_t upper = 0xffff0000u;
    return sum + (Floats)(a << 16) * (Floats)(b << 16) + (Floats)(a & upper) * (Floats)(b & upper);
#endif
}

// Words whose upper half is the nearest bfloat16, of two equally near the even one.
[[maybe_unused]] static inline Words rounded(Floats x) { return (Words)x + 0x7fffu + (((Words)x >> 16) & 1u); }

// In each lane the group of two values; where a group is one value, the first.
static inline Words grouped(Floats first, [[maybe_unused]] Floats second) {
#if VALUE_BITS == 32
    return (Words)first;
#elif defined(__AVX512BF16__)
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (Words)_mm512_permutexvar_epi16(_mm512_load_si512(order), both);
#else
    return (rounded(first) >> 16) | (rounded(second) & 0xffff0000u);
#endif
}

static inline void store_values(Value* place, Floats x) {
#if VALUE_BITS == 32
    store(place, x);
#elif defined(__AVX512BF16__)
    store(place, _mm512_cvtneps_pbh((__m512)x));
#else
    Words y = rounded(x) >> 16;
    for (int lane = 0; lane < LANES; lane++) place[lane] = (Value)y[lane];
#endif
}

// 2^x to a relative 2e-7, 2^-60 for anything smaller, and no number of none. Beside the largest weight 2^-60 is nothing,
// and what is multiplied with it does not get so small that processors are slow. The polynomial is the Taylor series'
// fit on [-0.5, 0.5].
static inline Floats exp2_of(Floats x) {
    const float ones_are_last_bits = 12582912.0f;  // 1.5 * 2^23
    x = larger(splat(-60.0f), x);
    Floats shifted = x + ones_are_last_bits;
    Floats rest = x - (shifted - ones_are_last_bits);
    Floats y = splat(1.535336188319500e-4f);
    y = y * rest + 1.339887440266574e-3f;
    y = y * rest + 9.618437357674640e-3f;
    y = y * rest + 5.550332471162809e-2f;
    y = y * rest + 2.402264791363012e-1f;
    y = y * rest + 6.931472028550421e-1f;
    y = y * rest + 1.0f;
    return (Floats)((Words)y + ((Words)shifted << 23));
}

// out[g][n] = group g of token n; the queries that only fill vectors are left as they are.
static inline void by_query(ByQuery* out, const Value* rows, int64_t stride) {
    for (int n = 0; n < TOKENS; n++)
        for (int g = 0; g < WIDTH_GROUPS; g++) out[g][n] = group_at(rows + n * stride + g * GROUP);
}

// out[g][w] = value w of the tokens of group g.
static inline void by_width(ByWidth* out, const Value* rows, int64_t stride) {
#if VALUE_BITS == 32
    for (int n = 0; n < TOKENS; n++) std::memcpy(out[n], rows + n * stride, HEAD_WIDTH * sizeof(Value));
#else
    for (int g = 0; g < TOKENS / 2; g++) {
        const Value *first = rows + 2 * g * stride, *second = first + stride;
        for (int w = 0; w < HEAD_WIDTH; w++) out[g][w] = first[w] | (uint32_t)second[w] << 16;
    }
    if (TOKENS % 2)
        for (int w = 0; w < HEAD_WIDTH; w++) out[TOKENS / 2][w] = rows[(TOKENS - 1) * stride + w];
#endif
}

// sums[r][v] = sum over g of left(r, g) times a chunk of right[g], which begins at `right`.
template <int STEPS, class Left>
static inline void product(Sums& sums, Left left, const uint32_t* right) {
    for (auto& row : sums)
        for (Floats& sum : row) sum = Floats{};
    for (int g = 0; g < STEPS; g++) {
        Words chunk[VECTORS];
        for (int v = 0; v < VECTORS; v++) chunk[v] = load<Words>(right + g * QUERIES + v * LANES);
        for (int r = 0; r < TILE; r++) {
            Words x = splat(left(r, g));
            for (int v = 0; v < VECTORS; v++) sums[r][v] = dot(sums[r][v], x, chunk[v]);
        }
    }
}

// What `product` has at its left: groups of the rows from `first` on, of the last one where there are no more.
static inline auto rows_from(const Value* rows, int64_t stride, int first) {
    return [=](int r, int g) { return group_at(rows + std::min(first + r, TOKENS - 1) * stride + g * GROUP); };
}

static inline auto columns_from(const ByWidth* groups, int first) {
    return [=](int r, int g) { return groups[g][first + r]; };
}

// rows[n][w] = values[w][n], by way of `groups`.
static inline void to_rows(Value* rows, int64_t stride, const float (*values)[QUERIES], ByQuery* groups) {
    for (int g = 0; g < WIDTH_GROUPS; g++)
        for (int n = 0; n < QUERIES; n += LANES)
            store(&groups[g][n], grouped(load<Floats>(&values[g * GROUP][n]), load<Floats>(&values[g * GROUP + GROUP - 1][n])));
    for (int n = 0; n < TOKENS; n++)
        for (int g = 0; g < WIDTH_GROUPS; g++) std::memcpy(rows + n * stride + g * GROUP, &groups[g][n], 4);
}

// rows[j][w] = factor * sum over queries of weights[j] times values' w.
static inline void over_queries(Value* rows, int64_t stride, const Value (*weights)[QUERIES], const ByWidth* values,
                                float factor) {
    constexpr int ROWS = WIDTH_VECTORS == 1 ? 8 : WIDTH_VECTORS == 2 ? 4 : 2;
    for (int j = 0; j < TOKENS; j += ROWS) {
        Floats sums[ROWS][WIDTH_VECTORS] = {};
        for (int g = 0; g < TOKEN_GROUPS; g++) {
            Words value[WIDTH_VECTORS];
            for (int v = 0; v < WIDTH_VECTORS; v++) value[v] = load<Words>(&values[g][v * LANES]);
            for (int r = 0; r < ROWS; r++) {
                Words x = splat(group_at(&weights[j + r][g * GROUP]));
                for (int v = 0; v < WIDTH_VECTORS; v++) sums[r][v] = dot(sums[r][v], x, value[v]);
            }
        }
        for (int r = 0; r < ROWS && j + r < TOKENS; r++) {
            alignas(64) Value row[WIDTH];
            for (int v = 0; v < WIDTH_VECTORS; v++) store_values(&row[v * LANES], sums[r][v] * factor);
            std::memcpy(rows + (j + r) * stride, row, HEAD_WIDTH * sizeof(Value));
        }
    }
}

// Of each query, what its scores (in powers of 2) are lessened by, and what the powers are multiplied with.
struct Softmax {
    float shift[TOKENS], factor[TOKENS];
};

// What a thread works with. It stays on the heap from call to call: it has up to 2.4 MB, and a thread's stack may
// have less. The queries that only fill vectors are never written to, and stay 0.
struct ForwardMemory {
    alignas(64) ByQuery queries[WIDTH_GROUPS], out_groups[WIDTH_GROUPS];
    alignas(64) ByWidth values[TOKEN_GROUPS];
    alignas(64) float scores[KEYS][VECTORS * LANES];
    alignas(64) ByQuery weights[TOKEN_GROUPS];
    alignas(64) float mean[HEAD_WIDTH][QUERIES], shift[QUERIES], factor[QUERIES];
};

struct BackwardMemory {
    alignas(64) ByQuery queries[WIDTH_GROUPS], outs[WIDTH_GROUPS], wanted[WIDTH_GROUPS], gradient_groups[WIDTH_GROUPS];
    alignas(64) ByWidth query_values[TOKEN_GROUPS], wanted_values[TOKEN_GROUPS], key_values[TOKEN_GROUPS];
    alignas(64) float shift[QUERIES], factor[QUERIES];
    alignas(64) Value weights[KEYS][QUERIES], score_gradients[KEYS][QUERIES];
    alignas(64) ByQuery grouped_gradients[KEYS / GROUP];
    alignas(64) float query_gradients[HEAD_WIDTH][QUERIES];
};

template <class Memory>
static Memory& own_memory() {
    static thread_local const std::unique_ptr<Memory> memory(new Memory());
    return *memory;
}

static void forward_head(const Value* q, const Value* k, const Value* v, int64_t stride, Value* out, int64_t out_stride,
                         Softmax* softmax, float scale, ForwardMemory& memory) {
    auto& [queries, out_groups, values, scores, weights, mean, shift, factor] = memory;
    by_query(queries, q, stride);
    by_width(values, v, stride);
    for (int chunk = 0; chunk < QUERIES; chunk += VECTORS * LANES) {
        Sums sums;
        Floats most[VECTORS], total[VECTORS];
        for (int u = 0; u < VECTORS; u++) most[u] = splat(-__builtin_inff()), total[u] = Floats{};
        for (int j = 0; j < TOKENS; j += TILE) {
            product<WIDTH_GROUPS>(sums, rows_from(k, stride, j), &queries[0][chunk]);
            for (int r = 0; r < TILE; r++)
                for (int u = 0; u < VECTORS; u++) {
                    Floats score = sums[r][u] * (scale * LOG2_E);
                    most[u] = larger(most[u], score);
                    store(&scores[j + r][u * LANES], score);
                }
        }
        for (int g = 0; g < TOKEN_GROUPS; g++)
            for (int u = 0; u < VECTORS; u++) {
                Floats first = exp2_of(load<Floats>(&scores[g * GROUP][u * LANES]) - most[u]), second{};
                total[u] += first;
                if (g * GROUP + 1 < TOKENS && GROUP == 2) {
                    second = exp2_of(load<Floats>(&scores[g * GROUP + 1][u * LANES]) - most[u]);
                    total[u] += second;
                }
                store(&weights[g][chunk + u * LANES], grouped(first, second));
            }
        for (int u = 0; u < VECTORS; u++) {
            total[u] = 1.0f / total[u];
            store(&shift[chunk + u * LANES], most[u]);
            store(&factor[chunk + u * LANES], total[u]);
        }
        for (int w = 0; w < HEAD_WIDTH; w += TILE) {
            product<TOKEN_GROUPS>(sums, columns_from(values, w), &weights[0][chunk]);
            for (int r = 0; r < TILE; r++)
                for (int u = 0; u < VECTORS; u++) store(&mean[w + r][chunk + u * LANES], sums[r][u] * total[u]);
        }
    }
    to_rows(out, out_stride, mean, out_groups);
    std::memcpy(softmax->shift, shift, sizeof softmax->shift);
    std::memcpy(softmax->factor, factor, sizeof softmax->factor);
}

struct Gradients {
    Value *q, *k, *v;
};

static void backward_head(const Value* q, const Value* k, const Value* v, int64_t stride, const Value* out,
                          const Value* out_gradient, int64_t out_stride, const Softmax* softmax, Gradients gradients,
                          float scale, BackwardMemory& memory) {
    auto& [queries, outs, wanted, gradient_groups, query_values, wanted_values, key_values, shift, factor, weights,
           score_gradients, grouped_gradients, query_gradients] = memory;
    std::memcpy(shift, softmax->shift, sizeof softmax->shift);
    std::memcpy(factor, softmax->factor, sizeof softmax->factor);
    by_query(queries, q, stride);
    by_query(outs, out, out_stride);
    by_query(wanted, out_gradient, out_stride);
    by_width(query_values, q, stride);
    by_width(wanted_values, out_gradient, out_stride);
    by_width(key_values, k, stride);
    for (int chunk = 0; chunk < QUERIES; chunk += VECTORS * LANES) {
        Sums sums, weight;
        Floats mean_gradient[VECTORS];  // of a query's weights: sum of its outputs times their gradients
        for (int u = 0; u < VECTORS; u++) {
            mean_gradient[u] = Floats{};
            for (int g = 0; g < WIDTH_GROUPS; g++) {
                const int at = chunk + u * LANES;
                mean_gradient[u] = dot(mean_gradient[u], load<Words>(&outs[g][at]), load<Words>(&wanted[g][at]));
            }
        }
        for (int j = 0; j < TOKENS; j += TILE) {
            product<WIDTH_GROUPS>(sums, rows_from(k, stride, j), &queries[0][chunk]);
            for (int r = 0; r < TILE; r++)
                for (int u = 0; u < VECTORS; u++) {
                    const int at = chunk + u * LANES;
                    Floats score = sums[r][u] * (scale * LOG2_E);
                    weight[r][u] = exp2_of(score - load<Floats>(&shift[at])) * load<Floats>(&factor[at]);
                    store_values(&weights[j + r][at], weight[r][u]);
                }
            product<WIDTH_GROUPS>(sums, rows_from(v, stride, j), &wanted[0][chunk]);
            for (int r = 0; r < TILE; r++)
                for (int u = 0; u < VECTORS; u++) {
                    const bool is_key = j + r < TOKENS;
                    sums[r][u] = is_key ? weight[r][u] * (sums[r][u] - mean_gradient[u]) : Floats{};
                    store_values(&score_gradients[j + r][chunk + u * LANES], sums[r][u]);
                }
            for (int r = 0; r < TILE; r += GROUP)
                for (int u = 0; u < VECTORS; u++)
                    store(&grouped_gradients[(j + r) / GROUP][chunk + u * LANES],
                          grouped(sums[r][u], sums[r + GROUP - 1][u]));
        }
        for (int w = 0; w < HEAD_WIDTH; w += TILE) {
            product<TOKEN_GROUPS>(sums, columns_from(key_values, w), &grouped_gradients[0][chunk]);
            for (int r = 0; r < TILE; r++)
                for (int u = 0; u < VECTORS; u++)
                    store(&query_gradients[w + r][chunk + u * LANES], sums[r][u] * scale);
        }
    }
    to_rows(gradients.q, stride, query_gradients, gradient_groups);
    over_queries(gradients.v, stride, weights, wanted_values, 1.0f);
    over_queries(gradients.k, stride, score_gradients, query_values, scale);
}

// qkv [images, TOKENS, 3, heads, HEAD_WIDTH], out [images, TOKENS, heads, HEAD_WIDTH], softmax [images, heads].
extern "C" void forward(const Value* qkv, Value* out, Softmax* softmax, int64_t images, int64_t heads, float scale,
                        int32_t threads) {
    const int64_t width = heads * HEAD_WIDTH;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < images; b++)
        for (int64_t h = 0; h < heads; h++) {
            const Value* q = qkv + b * TOKENS * 3 * width + h * HEAD_WIDTH;
            const int64_t place = b * TOKENS * width + h * HEAD_WIDTH;
            forward_head(q, q + width, q + 2 * width, 3 * width, out + place, width, softmax + b * heads + h, scale,
                         own_memory<ForwardMemory>());
        }
}

// The gradients lie as qkv does.
extern "C" void backward(const Value* qkv, const Value* out, const Value* out_gradient, const Softmax* softmax,
                         Value* gradients, int64_t images, int64_t heads, float scale, int32_t threads) {
    const int64_t width = heads * HEAD_WIDTH;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < images; b++)
        for (int64_t h = 0; h < heads; h++) {
            const int64_t head = b * TOKENS * 3 * width + h * HEAD_WIDTH, place = b * TOKENS * width + h * HEAD_WIDTH;
            const Value* q = qkv + head;
            Value* g = gradients + head;
            backward_head(q, q + width, q + 2 * width, 3 * width, out + place, out_gradient + place, width,
                          softmax + b * heads + h, {g, g + width, g + 2 * width}, scale, own_memory<BackwardMemory>());
        }
}
