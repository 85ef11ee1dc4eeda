// 3 x 3 convolution of square images in float32, zeros around them, forward and backward, by Winograd's minimal
// filtering F(4 x 4, 3 x 3) (Lavin and Gray, 2016): 36 products for the 16 outputs of a tile instead of 144.
//
// Pixels lie channels last. A tile of 6 x 6 pixels, 4 apart, is turned into 36 points; each point's matrix, tiles by
// channels, is multiplied with that point of the turned weights; and 36 points of each tile are turned into 4 x 4
// outputs. The backward pass is the same steps transposed. Some images at a time, so that their points stay in a cache.
//
// The bits depend on the processor's vectors, and not on the number of threads. Vectors are those of GCC and Clang.

#include <algorithm>
#include <cstdint>
#include <cstring>

// MOST_ROWS: of a product at a time, so that its sums stay in registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_ROWS = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, MOST_ROWS = 6;
#else
constexpr int LANES = 4, MOST_ROWS = 6;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
constexpr int PANEL = 2 * LANES;  // columns of a product at a time
constexpr int CHANNELS = 8;       // that are turned at a time; a layer's are a multiple of it
typedef float Channels __attribute__((vector_size(4 * CHANNELS)));
constexpr int TILE = 4, SEEN = 6, POINTS = SEEN * SEEN, TAPS = 9;
constexpr int APART = 16;  // floats between rows and planes, lest they fall on the same few places of a cache

template <class Vector>
static inline Vector load(const float* place) {
    Vector x;
    std::memcpy(&x, place, sizeof x);
    return x;
}

template <class Vector>
static inline void store(float* place, Vector x) {
    std::memcpy(place, &x, sizeof x);
}

static inline int64_t up_to(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// One dimension of what turns FROM values into TO, from `x` at every `s`-th place to `y` at every `t`-th. Lavin and
// Gray's matrices, for the points 0, 1, -1, 2, -2 and infinity; each is followed by its transpose.
struct Input {
    static constexpr int FROM = 6, TO = 6;
    static inline void turn(const Channels* x, int s, Channels* y, int t) {
        const Channels even = x[4 * s] - 4.0f * x[2 * s], odd = x[3 * s] - 4.0f * x[s];
        const Channels outer = x[4 * s] - x[2 * s], twice = 2.0f * (x[3 * s] - x[s]);
        y[0] = 4.0f * x[0] - 5.0f * x[2 * s] + x[4 * s];
        y[t] = even + odd, y[2 * t] = even - odd;
        y[3 * t] = outer + twice, y[4 * t] = outer - twice;
        y[5 * t] = 4.0f * x[s] - 5.0f * x[3 * s] + x[5 * s];
    }
};

struct InputGradient {
    static constexpr int FROM = 6, TO = 6;
    static inline void turn(const Channels* x, int s, Channels* y, int t) {
        const Channels sum1 = x[s] + x[2 * s], less1 = x[s] - x[2 * s];
        const Channels sum2 = x[3 * s] + x[4 * s], less2 = x[3 * s] - x[4 * s];
        y[0] = 4.0f * x[0];
        y[t] = 4.0f * (x[5 * s] - less1) - 2.0f * less2;
        y[2 * t] = -5.0f * x[0] - 4.0f * sum1 - sum2;
        y[3 * t] = less1 + 2.0f * less2 - 5.0f * x[5 * s];
        y[4 * t] = x[0] + sum1 + sum2;
        y[5 * t] = x[5 * s];
    }
};

struct Output {
    static constexpr int FROM = 6, TO = 4;
    static inline void turn(const Channels* x, int s, Channels* y, int t) {
        const Channels sum1 = x[s] + x[2 * s], less1 = x[s] - x[2 * s];
        const Channels sum2 = x[3 * s] + x[4 * s], less2 = x[3 * s] - x[4 * s];
        y[0] = x[0] + sum1 + sum2;
        y[t] = less1 + 2.0f * less2;
        y[2 * t] = sum1 + 4.0f * sum2;
        y[3 * t] = less1 + 8.0f * less2 + x[5 * s];
    }
};

struct OutputGradient {
    static constexpr int FROM = 4, TO = 6;
    static inline void turn(const Channels* x, int s, Channels* y, int t) {
        const Channels even1 = x[0] + x[2 * s], odd1 = x[s] + x[3 * s];
        const Channels even2 = x[0] + 4.0f * x[2 * s], odd2 = 2.0f * x[s] + 8.0f * x[3 * s];
        y[0] = x[0];
        y[t] = even1 + odd1, y[2 * t] = even1 - odd1;
        y[3 * t] = even2 + odd2, y[4 * t] = even2 - odd2;
        y[5 * t] = x[3 * s];
    }
};

struct Weight {
    static constexpr int FROM = 3, TO = 6;
    static inline void turn(const Channels* x, int s, Channels* y, int t) {
        const Channels even1 = (x[0] + x[2 * s]) * (-1.0f / 6), odd1 = x[s] * (1.0f / 6);
        const Channels even2 = x[0] * (1.0f / 24) + x[2 * s] * (1.0f / 6), odd2 = x[s] * (1.0f / 12);
        y[0] = 0.25f * x[0];
        y[t] = even1 - odd1, y[2 * t] = even1 + odd1;
        y[3 * t] = even2 + odd2, y[4 * t] = even2 - odd2;
        y[5 * t] = x[2 * s];
    }
};

struct WeightGradient {
    static constexpr int FROM = 6, TO = 3;
    static inline void turn(const Channels* x, int s, Channels* y, int t) {
        const Channels sum1 = (x[s] + x[2 * s]) * (-1.0f / 6), less1 = (x[2 * s] - x[s]) * (1.0f / 6);
        const Channels sum2 = x[3 * s] + x[4 * s], less2 = x[3 * s] - x[4 * s];
        y[0] = 0.25f * x[0] + sum1 + sum2 * (1.0f / 24);
        y[t] = less1 + less2 * (1.0f / 12);
        y[2 * t] = sum1 + sum2 * (1.0f / 6) + x[5 * s];
    }
};

// Both dimensions: FROM x FROM values at `x` to TO x TO at `y`.
template <class Dimension>
static inline void turn(const Channels* x, Channels* y) {
    constexpr int FROM = Dimension::FROM, TO = Dimension::TO;
    Channels half[TO * FROM];
    for (int column = 0; column < FROM; column++) Dimension::turn(x + column, FROM, half + column, FROM);
    for (int row = 0; row < TO; row++) Dimension::turn(half + row * FROM, 1, y + row * TO, 1);
}

// A matrix, its element of row i and column k at place[i * row + k * column].
struct Left {
    const float* place;
    int64_t row, column;
};

// out[i][n] = sum over k < depth of left[i][k] * right[k][n], added to what is there if `add`: ROWS rows, PANEL columns.
template <int ROWS>
static inline void product(Left left, const float* right, int64_t right_row, float* out, int64_t out_row, int64_t depth,
                           bool add) {
    Floats sums[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int n = 0; n < 2; n++) sums[i][n] = add ? load<Floats>(out + i * out_row + n * LANES) : Floats{};
    for (int64_t k = 0; k < depth; k++) {
        const Floats right0 = load<Floats>(right + k * right_row), right1 = load<Floats>(right + k * right_row + LANES);
        for (int i = 0; i < ROWS; i++) {
            const float x = left.place[i * left.row + k * left.column];
            sums[i][0] += x * right0;
            sums[i][1] += x * right1;
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int n = 0; n < 2; n++) store(out + i * out_row + n * LANES, sums[i][n]);
}

template <int ROWS>
static inline void rows_left(int64_t rows, Left left, const float* right, int64_t right_row, float* out,
                             int64_t out_row, int64_t depth, bool add) {
    if (rows == ROWS)
        product<ROWS>(left, right, right_row, out, out_row, depth, add);
    else if constexpr (ROWS > 1)
        rows_left<ROWS - 1>(rows, left, right, right_row, out, out_row, depth, add);
}

static void product_of(int64_t rows, Left left, const float* right, int64_t right_row, float* out, int64_t out_row,
                       int64_t depth, bool add) {
    for (int64_t i = 0; i < rows; i += MOST_ROWS) {
        const Left below = {left.place + i * left.row, left.row, left.column};
        rows_left<MOST_ROWS>(std::min<int64_t>(rows - i, MOST_ROWS), below, right, right_row, out + i * out_row,
                             out_row, depth, add);
    }
}

// S size of an image, G tiles a side, C channels that come in, E that go out; `chunk` images at a time.
struct Layer {
    int64_t images, S, C, E, chunk;
    int64_t G, in_panels, out_panels;
    int64_t in_row, out_row, in_plane, out_plane;  // floats from tile to tile, and from point to point
    int64_t weights;                               // floats of the turned weights

    Layer(int64_t images, int64_t S, int64_t C, int64_t E, int64_t chunk)
        : images(images), S(S), C(C), E(E), chunk(chunk), G(up_to(S, TILE) / TILE) {
        in_panels = up_to(C, PANEL) / PANEL, out_panels = up_to(E, PANEL) / PANEL;
        in_row = in_panels * PANEL + APART, out_row = out_panels * PANEL + APART;
        in_plane = chunk * G * G * in_row + APART, out_plane = chunk * G * G * out_row + APART;
        weights = POINTS * std::max(in_panels * PANEL * E, out_panels * PANEL * C);
    }

    int64_t tiles(int64_t first) const { return std::min(chunk, images - first) * G * G; }
};

// Of a layer forward, and backward.
extern "C" int64_t forward_floats(int64_t S, int64_t C, int64_t E, int64_t chunk) {
    const Layer l(0, S, C, E, chunk);
    return POINTS * (l.in_plane + l.out_plane) + l.weights;
}

extern "C" int64_t backward_floats(int64_t S, int64_t C, int64_t E, int64_t chunk) {
    const Layer l(0, S, C, E, chunk);
    return POINTS * (2 * l.in_plane + l.out_plane + C * l.out_panels * PANEL) + l.weights;
}

// Calls `visit` with the index within SIDE x SIDE of each pixel of a tile that is in the image, and with the pixel's
// place; the tile begins `before` pixels before its place in the grid.
template <int SIDE, class Visit>
static inline void pixels(const Layer& l, int64_t tile, int before, Visit visit) {
    const int64_t top = tile / l.G % l.G * TILE - before, left = tile % l.G * TILE - before;
    for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++) {
            const int64_t y = top + row, x = left + column;
            if (y >= 0 && y < l.S && x >= 0 && x < l.S) visit(row * SIDE + column, y * l.S + x);
        }
}

// The points of a chunk's tiles, from its images of `channels`.
template <class Dimension, int BEFORE>
static void to_points(const Layer& l, const float* images, int64_t channels, int64_t tiles, float* points,
                      int64_t tile_row, int64_t plane) {
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        const float* image = images + tile / (l.G * l.G) * l.S * l.S * channels;
        for (int64_t c = 0; c < channels; c += CHANNELS) {
            Channels seen[Dimension::FROM * Dimension::FROM] = {}, turned[POINTS];
            pixels<Dimension::FROM>(l, tile, BEFORE,
                                    [&](int i, int64_t pixel) { seen[i] = load<Channels>(image + pixel * channels + c); });
            turn<Dimension>(seen, turned);
            for (int p = 0; p < POINTS; p++) store(points + p * plane + tile * tile_row + c, turned[p]);
        }
    }
}

static void to_outputs(const Layer& l, const float* points, int64_t tiles, const float* bias, float* images) {
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        float* image = images + tile / (l.G * l.G) * l.S * l.S * l.E;
        for (int64_t e = 0; e < l.E; e += CHANNELS) {
            Channels seen[POINTS], turned[TILE * TILE];
            const Channels added = load<Channels>(bias + e);
            for (int p = 0; p < POINTS; p++) seen[p] = load<Channels>(points + p * l.out_plane + tile * l.out_row + e);
            turn<Output>(seen, turned);
            pixels<TILE>(l, tile, 0, [&](int i, int64_t pixel) { store(image + pixel * l.E + e, turned[i] + added); });
        }
    }
}

// Tiles overlap, so the sums of one image's channels are one thread's.
static void to_input_gradients(const Layer& l, const float* points, int64_t tiles, float* images) {
    const int64_t grid = l.G * l.G;
#pragma omp for collapse(2) schedule(static)
    for (int64_t first = 0; first < tiles; first += grid)
        for (int64_t c = 0; c < l.C; c += CHANNELS) {
            float* image = images + first / grid * l.S * l.S * l.C + c;
            for (int64_t pixel = 0; pixel < l.S * l.S; pixel++) store(image + pixel * l.C, Channels{});
            for (int64_t tile = first; tile < first + grid; tile++) {
                Channels seen[POINTS], turned[POINTS];
                for (int p = 0; p < POINTS; p++) seen[p] = load<Channels>(points + p * l.in_plane + tile * l.in_row + c);
                turn<InputGradient>(seen, turned);
                pixels<SEEN>(l, tile, 1, [&](int i, int64_t pixel) {
                    float* place = image + pixel * l.C;
                    store(place, load<Channels>(place) + turned[i]);
                });
            }
        }
}

// The points of CHANNELS weights of one output, from `c` on, of weight [E, TAPS, C]; zeros beyond it.
static inline void weight_points(const Layer& l, const float* weight, int64_t e, int64_t c, Channels* points) {
    Channels taps[TAPS] = {};
    if (e < l.E && c < l.C)
        for (int k = 0; k < TAPS; k++) taps[k] = load<Channels>(weight + (e * TAPS + k) * l.C + c);
    turn<Weight>(taps, points);
}

// weight [E, TAPS, C] to turned [POINTS, out_panels, C, PANEL]: panels of E, zeros beyond it.
static void turn_weights(const Layer& l, const float* weight, float* turned) {
#pragma omp for schedule(static)
    for (int64_t e = 0; e < l.out_panels * PANEL; e++)
        for (int64_t c = 0; c < l.C; c += CHANNELS) {
            Channels points[POINTS];
            weight_points(l, weight, e, c, points);
            for (int p = 0; p < POINTS; p++)
                for (int i = 0; i < CHANNELS; i++)
                    turned[((p * l.out_panels + e / PANEL) * l.C + c + i) * PANEL + e % PANEL] = points[p][i];
        }
}

// weight [E, TAPS, C] to turned [POINTS, in_panels, E, PANEL]: panels of C, zeros beyond it.
static void turn_weights_for_gradients(const Layer& l, const float* weight, float* turned) {
#pragma omp for schedule(static)
    for (int64_t e = 0; e < l.E; e++)
        for (int64_t c = 0; c < l.in_panels * PANEL; c += CHANNELS) {
            Channels points[POINTS];
            weight_points(l, weight, e, c, points);
            for (int p = 0; p < POINTS; p++)
                store(turned + ((p * l.in_panels + c / PANEL) * l.E + e) * PANEL + c % PANEL, points[p]);
        }
}

// points [POINTS, C, panels of E] to weight gradients [E, TAPS, C].
static void to_weight_gradients(const Layer& l, const float* points, float* weight_gradients) {
#pragma omp for schedule(static)
    for (int64_t e = 0; e < l.E; e += CHANNELS)
        for (int64_t c = 0; c < l.C; c++) {
            Channels seen[POINTS], taps[TAPS];
            for (int p = 0; p < POINTS; p++) seen[p] = load<Channels>(points + (p * l.C + c) * l.out_panels * PANEL + e);
            turn<WeightGradient>(seen, taps);
            for (int k = 0; k < TAPS; k++)
                for (int i = 0; i < CHANNELS; i++) weight_gradients[((e + i) * TAPS + k) * l.C + c] = taps[k][i];
        }
}

// in [images, S, S, C], weight [E, TAPS, C], bias [E], out [images, S, S, E].
extern "C" void forward(const float* in, const float* weight, const float* bias, float* out, float* memory,
                        int64_t images, int64_t S, int64_t C, int64_t E, int64_t chunk, int32_t threads) {
    const Layer l(images, S, C, E, chunk);
    float *in_points = memory, *out_points = in_points + POINTS * l.in_plane, *turned = out_points + POINTS * l.out_plane;
#pragma omp parallel num_threads(threads)
    {
        turn_weights(l, weight, turned);
        for (int64_t first = 0; first < images; first += chunk) {
            const int64_t tiles = l.tiles(first);
            to_points<Input, 1>(l, in + first * S * S * C, C, tiles, in_points, l.in_row, l.in_plane);
#pragma omp for collapse(2) schedule(static)
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t n = 0; n < l.out_panels; n++)
                    product_of(tiles, {in_points + p * l.in_plane, l.in_row, 1},
                               turned + (p * l.out_panels + n) * C * PANEL, PANEL,
                               out_points + p * l.out_plane + n * PANEL, l.out_row, C, false);
            to_outputs(l, out_points, tiles, bias, out + first * S * S * E);
        }
    }
}

// The gradients of `in` and `weight` lie as these do.
extern "C" void backward(const float* in, const float* weight, const float* out_gradient, float* in_gradient,
                         float* weight_gradient, float* memory, int64_t images, int64_t S, int64_t C, int64_t E,
                         int64_t chunk, int32_t threads) {
    const Layer l(images, S, C, E, chunk);
    const int64_t width = l.out_panels * PANEL;
    float *in_points = memory, *in_gradients = in_points + POINTS * l.in_plane;
    float *out_gradients = in_gradients + POINTS * l.in_plane, *weight_gradients = out_gradients + POINTS * l.out_plane;
    float* turned = weight_gradients + POINTS * C * width;
#pragma omp parallel num_threads(threads)
    {
        turn_weights_for_gradients(l, weight, turned);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < POINTS; p++) {
            std::memset(weight_gradients + p * C * width, 0, C * width * sizeof(float));
            std::memset(out_gradients + p * l.out_plane, 0, l.out_plane * sizeof(float));  // its columns beyond E are read
        }
        for (int64_t first = 0; first < images; first += chunk) {
            const int64_t tiles = l.tiles(first);
            to_points<Input, 1>(l, in + first * S * S * C, C, tiles, in_points, l.in_row, l.in_plane);
            to_points<OutputGradient, 0>(l, out_gradient + first * S * S * E, E, tiles, out_gradients, l.out_row,
                                         l.out_plane);
#pragma omp for collapse(2) schedule(static) nowait
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t n = 0; n < l.out_panels; n++)
                    product_of(C, {in_points + p * l.in_plane, 1, l.in_row},
                               out_gradients + p * l.out_plane + n * PANEL, l.out_row,
                               weight_gradients + p * C * width + n * PANEL, width, tiles, true);
#pragma omp for collapse(2) schedule(static)
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t n = 0; n < l.in_panels; n++)
                    product_of(tiles, {out_gradients + p * l.out_plane, l.out_row, 1},
                               turned + (p * l.in_panels + n) * E * PANEL, PANEL,
                               in_gradients + p * l.in_plane + n * PANEL, l.in_row, E, false);
            to_input_gradients(l, in_gradients, tiles, in_gradient + first * S * S * C);
        }
        to_weight_gradients(l, weight_gradients, weight_gradient);
    }
}
