// 3 x 3 convolution of square images in float32, zeros around them, forward and backward, by Winograd's minimal
// filtering F(4 x 4, 3 x 3) (Lavin and Gray, 2016): 36 products for the 16 outputs of a tile instead of 144.
//
// Pixels lie channels last. A tile of 6 x 6 pixels, 4 apart, is turned into 36 points; each point's matrix, tiles by
// channels, is multiplied with that point of the turned weights; and 36 points of each tile are turned into 4 x 4
// outputs, of which a halved layer keeps the maxima of 2 x 2. The backward pass is the same steps transposed. Some
// images at a time, so that their points stay in a cache; what the next step needs of memory is asked for early.
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
typedef int32_t Which __attribute__((vector_size(4 * CHANNELS)));
typedef uint8_t Bytes __attribute__((vector_size(CHANNELS)));
constexpr int TILE = 4, SEEN = 6, POINTS = SEEN * SEEN, TAPS = 9;
constexpr int LINE = 16;  // floats of a cache's line; planes are one apart, lest they fall on the same few places

template <class Vector, class Element>
static inline Vector load(const Element* place) {
    Vector x;
    std::memcpy(&x, place, sizeof x);
    return x;
}

template <class Vector, class Element>
static inline void store(Element* place, Vector x) {
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

// A matrix whose element of row i and column k < PANEL lies at place[i * ROW + k * COLUMN]; the next PANEL columns lie
// `next` floats further.
template <int ROW, int COLUMN>
struct Left {
    const float* place;
    int64_t next;
};

// out[i][n] = sum over k < depth of left[i][k] * right[k][n], added to what is there if `add`, for ROWS rows and PANEL
// columns.
template <int ROWS, int ROW, int COLUMN>
static inline void product(Left<ROW, COLUMN> left, const float* right, float* out, int64_t depth, bool add) {
    Floats sums[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int n = 0; n < 2; n++) sums[i][n] = add ? load<Floats>(out + i * PANEL + n * LANES) : Floats{};
    for (; depth > 0; depth -= PANEL, left.place += left.next) {
        const int64_t here = std::min<int64_t>(PANEL, depth);
#pragma GCC unroll 4
        for (int64_t k = 0; k < here; k++, right += PANEL) {
            const Floats right0 = load<Floats>(right), right1 = load<Floats>(right + LANES);
            for (int i = 0; i < ROWS; i++) {
                const float x = left.place[i * ROW + k * COLUMN];
                sums[i][0] += x * right0;
                sums[i][1] += x * right1;
            }
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int n = 0; n < 2; n++) store(out + i * PANEL + n * LANES, sums[i][n]);
}

template <int ROWS, int ROW, int COLUMN>
static inline void rows_left(int64_t rows, Left<ROW, COLUMN> left, const float* right, float* out, int64_t depth,
                             bool add) {
    if (rows == ROWS)
        product<ROWS>(left, right, out, depth, add);
    else if constexpr (ROWS > 1)
        rows_left<ROWS - 1>(rows, left, right, out, depth, add);
}

template <int ROW, int COLUMN>
static void product_of(int64_t rows, Left<ROW, COLUMN> left, const float* right, float* out, int64_t depth, bool add) {
    for (int64_t i = 0; i < rows; i += MOST_ROWS, left.place += MOST_ROWS * ROW)
        rows_left<MOST_ROWS>(std::min<int64_t>(rows - i, MOST_ROWS), left, right, out + i * PANEL, depth, add);
}

// S size of an image, G tiles a side, C channels that come in, E that go out; `chunk` images at a time.
struct Layer {
    int64_t images, S, C, E, chunk;
    int64_t G, in_panels, out_panels;
    int64_t panel, in_plane, out_plane;  // floats from panel to panel, and from point to point
    int64_t weights;                     // floats of the turned weights

    Layer(int64_t images, int64_t S, int64_t C, int64_t E, int64_t chunk)
        : images(images), S(S), C(C), E(E), chunk(chunk), G(up_to(S, TILE) / TILE) {
        in_panels = up_to(C, PANEL) / PANEL, out_panels = up_to(E, PANEL) / PANEL;
        panel = chunk * G * G * PANEL;
        in_plane = in_panels * panel + LINE, out_plane = out_panels * panel + LINE;
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

// The points of a chunk's tiles, [POINTS, panels, tiles, PANEL], of so many channels.
struct Points {
    float* place;
    int64_t plane, panel, channels;

    float* at(int64_t p, int64_t tile, int64_t c) const {
        return place + p * plane + c / PANEL * panel + tile * PANEL + c % PANEL;
    }

    void expect(int64_t tile, int64_t c) const {
        for (int p = 0; p < POINTS; p++)
            for (int i = 0; i < PANEL; i += LINE) __builtin_prefetch(at(p, tile, c) + i, 1);
    }

    // Calls `visit` with each tile and every CHANNELS-th of its channels.
    template <class Visit>
    void each(int64_t tiles, Visit visit) const {
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; tile++)
            for (int64_t c = 0; c < channels; c += CHANNELS) {
                if (c % PANEL == 0) c + PANEL < channels ? expect(tile, c + PANEL) : expect(tile + 1, 0);
                visit(tile, c);
            }
    }
};

// Calls `visit` with the index within SIDE x SIDE of each pixel of a tile that is in its image of `size` x `size`, and
// with the pixel's place; the tiles are `apart` pixels apart and begin `before` pixels before their place in the grid.
template <int SIDE, class Visit>
static inline void pixels(const Layer& l, int64_t tile, int64_t size, int apart, int before, Visit visit) {
    const int64_t top = tile / l.G % l.G * apart - before, left = tile % l.G * apart - before;
    for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++) {
            const int64_t y = top + row, x = left + column;
            if (y >= 0 && y < size && x >= 0 && x < size) visit(row * SIDE + column, y * size + x);
        }
}

static void to_points(const Layer& l, const float* images, int64_t tiles, Points points) {
    points.each(tiles, [&](int64_t tile, int64_t c) {
        const float* image = images + tile / (l.G * l.G) * l.S * l.S * l.C;
        Channels seen[POINTS] = {}, turned[POINTS];
        pixels<SEEN>(l, tile, l.S, TILE, 1,
                     [&](int i, int64_t pixel) { seen[i] = load<Channels>(image + pixel * l.C + c); });
        turn<Input>(seen, turned);
        for (int p = 0; p < POINTS; p++) store(points.at(p, tile, c), turned[p]);
    });
}

// A halved layer's outputs are the maxima of 2 x 2 pixels; `where` has which pixel each of them is.
static inline int pixel_of(int window, int k) { return (window / 2 * 2 + k / 2) * TILE + window % 2 * 2 + k % 2; }

template <bool HALVED>
static void to_outputs(const Layer& l, Points points, int64_t tiles, const float* bias, float* images, uint8_t* where) {
    const int64_t size = HALVED ? l.S / 2 : l.S;
    points.each(tiles, [&](int64_t tile, int64_t e) {
        const int64_t image = tile / (l.G * l.G) * size * size;
        Channels seen[POINTS], turned[TILE * TILE];
        const Channels added = load<Channels>(bias + e);
        for (int p = 0; p < POINTS; p++) seen[p] = load<Channels>(points.at(p, tile, e));
        turn<Output>(seen, turned);
        for (int i = 0; i < TILE * TILE; i++) turned[i] += added;
        if constexpr (HALVED)
            pixels<TILE / 2>(l, tile, size, TILE / 2, 0, [&](int window, int64_t pixel) {
                Channels most = turned[pixel_of(window, 0)];
                Which which = {};
                for (int k = 1; k < 4; k++) {
                    const Channels other = turned[pixel_of(window, k)];
                    const Which greater = (other > most) | (other != other);  // as torch has it, what is no number wins
                    most = greater ? other : most;
                    which = greater ? Which{} + k : which;
                }
                store(images + (image + pixel) * l.E + e, most);
                store(where + (image + pixel) * l.E + e, __builtin_convertvector(which, Bytes));
            });
        else
            pixels<TILE>(l, tile, size, TILE, 0,
                         [&](int i, int64_t pixel) { store(images + (image + pixel) * l.E + e, turned[i]); });
    });
}

template <bool HALVED>
static void to_gradient_points(const Layer& l, const float* images, const uint8_t* where, int64_t tiles,
                               Points points) {
    const int64_t size = HALVED ? l.S / 2 : l.S;
    points.each(tiles, [&](int64_t tile, int64_t e) {
        const int64_t image = tile / (l.G * l.G) * size * size;
        Channels seen[TILE * TILE] = {}, turned[POINTS];
        if constexpr (HALVED)
            pixels<TILE / 2>(l, tile, size, TILE / 2, 0, [&](int window, int64_t pixel) {
                const Channels gradient = load<Channels>(images + (image + pixel) * l.E + e);
                const Which which = __builtin_convertvector(load<Bytes>(where + (image + pixel) * l.E + e), Which);
                for (int k = 0; k < 4; k++) seen[pixel_of(window, k)] = which == k ? gradient : Channels{};
            });
        else
            pixels<TILE>(l, tile, size, TILE, 0,
                         [&](int i, int64_t pixel) { seen[i] = load<Channels>(images + (image + pixel) * l.E + e); });
        turn<OutputGradient>(seen, turned);
        for (int p = 0; p < POINTS; p++) store(points.at(p, tile, e), turned[p]);
    });
}

// Tiles overlap, so the sums of one image's channels are one thread's.
static void to_input_gradients(const Layer& l, Points points, int64_t tiles, float* images) {
    const int64_t grid = l.G * l.G;
#pragma omp for collapse(2) schedule(static)
    for (int64_t first = 0; first < tiles; first += grid)
        for (int64_t c = 0; c < l.C; c += CHANNELS) {
            float* image = images + first / grid * l.S * l.S * l.C + c;
            for (int64_t pixel = 0; pixel < l.S * l.S; pixel++) store(image + pixel * l.C, Channels{});
            for (int64_t tile = first; tile < first + grid; tile++) {
                Channels seen[POINTS], turned[POINTS];
                for (int p = 0; p < POINTS; p++) seen[p] = load<Channels>(points.at(p, tile, c));
                turn<InputGradient>(seen, turned);
                pixels<SEEN>(l, tile, l.S, TILE, 1, [&](int i, int64_t pixel) {
                    float* place = image + pixel * l.C;
                    store(place, load<Channels>(place) + turned[i]);
                });
            }
        }
}

static inline void transpose(Channels* x) {
    for (int i = 0; i < CHANNELS; i++)
        for (int j = 0; j < i; j++) {
            const float kept = x[i][j];
            x[i][j] = x[j][i], x[j][i] = kept;
        }
}

// weight [E, TAPS, C] to turned [POINTS, out_panels, C, PANEL]: panels of E, zeros beyond it.
static void turn_weights(const Layer& l, const float* weight, float* turned) {
#pragma omp for schedule(static)
    for (int64_t e = 0; e < l.out_panels * PANEL; e += CHANNELS)
        for (int64_t c = 0; c < l.C; c += CHANNELS) {
            Channels taps[TAPS][CHANNELS] = {}, seen[TAPS], points[POINTS];
            for (int k = 0; k < TAPS && e < l.E; k++) {
                for (int i = 0; i < CHANNELS; i++) taps[k][i] = load<Channels>(weight + ((e + i) * TAPS + k) * l.C + c);
                transpose(taps[k]);
            }
            for (int i = 0; i < CHANNELS; i++) {
                for (int k = 0; k < TAPS; k++) seen[k] = taps[k][i];
                turn<Weight>(seen, points);
                for (int p = 0; p < POINTS; p++)
                    store(turned + ((p * l.out_panels + e / PANEL) * l.C + c + i) * PANEL + e % PANEL, points[p]);
            }
        }
}

// weight [E, TAPS, C] to turned [POINTS, in_panels, E, PANEL]: panels of C, zeros beyond it.
static void turn_weights_for_gradients(const Layer& l, const float* weight, float* turned) {
#pragma omp for schedule(static)
    for (int64_t e = 0; e < l.E; e++)
        for (int64_t c = 0; c < l.in_panels * PANEL; c += CHANNELS) {
            Channels taps[TAPS] = {}, points[POINTS];
            for (int k = 0; k < TAPS && c < l.C; k++) taps[k] = load<Channels>(weight + (e * TAPS + k) * l.C + c);
            turn<Weight>(taps, points);
            for (int p = 0; p < POINTS; p++)
                store(turned + ((p * l.in_panels + c / PANEL) * l.E + e) * PANEL + c % PANEL, points[p]);
        }
}

// points [POINTS, out_panels, C, PANEL] to weight gradients [E, TAPS, C].
static void to_weight_gradients(const Layer& l, const float* points, float* weight_gradients) {
#pragma omp for schedule(static)
    for (int64_t e = 0; e < l.E; e += CHANNELS)
        for (int64_t c = 0; c < l.C; c += CHANNELS) {
            Channels seen[POINTS], turned[TAPS], taps[TAPS][CHANNELS];
            for (int i = 0; i < CHANNELS; i++) {
                const float* const place = points + (e / PANEL * l.C + c + i) * PANEL + e % PANEL;
                for (int p = 0; p < POINTS; p++) seen[p] = load<Channels>(place + p * l.out_panels * l.C * PANEL);
                turn<WeightGradient>(seen, turned);
                for (int k = 0; k < TAPS; k++) taps[k][i] = turned[k];
            }
            for (int k = 0; k < TAPS; k++) {
                transpose(taps[k]);
                for (int i = 0; i < CHANNELS; i++) store(weight_gradients + ((e + i) * TAPS + k) * l.C + c, taps[k][i]);
            }
        }
}

// in [images, S, S, C], weight [E, TAPS, C], bias [E], out [images, S, S, E]; of a halved layer S / 2 for the S of out,
// and `where` alike, which is null for others.
extern "C" void forward(const float* in, const float* weight, const float* bias, float* out, uint8_t* where,
                        float* memory, int64_t images, int64_t S, int64_t C, int64_t E, int64_t chunk,
                        int32_t threads) {
    const Layer l(images, S, C, E, chunk);
    const Points in_points = {memory, l.in_plane, l.panel, C};
    const Points out_points = {in_points.place + POINTS * l.in_plane, l.out_plane, l.panel, E};
    float* turned = out_points.place + POINTS * l.out_plane;
#pragma omp parallel num_threads(threads)
    {
        turn_weights(l, weight, turned);
        for (int64_t first = 0; first < images; first += chunk) {
            const int64_t tiles = l.tiles(first);
            to_points(l, in + first * S * S * C, tiles, in_points);
#pragma omp for collapse(2) schedule(static)
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t n = 0; n < l.out_panels; n++)
                    product_of(tiles, Left<PANEL, 1>{in_points.at(p, 0, 0), l.panel},
                               turned + (p * l.out_panels + n) * C * PANEL, out_points.at(p, 0, n * PANEL), C, false);
            const int64_t done = first * S * S * E;
            if (where)
                to_outputs<true>(l, out_points, tiles, bias, out + done / 4, where + done / 4);
            else
                to_outputs<false>(l, out_points, tiles, bias, out + done, nullptr);
        }
    }
}

// The gradients of `in`, `weight` and `out` lie as these do.
extern "C" void backward(const float* in, const float* weight, const float* out_gradient, const uint8_t* where,
                         float* in_gradient, float* weight_gradient, float* memory, int64_t images, int64_t S,
                         int64_t C, int64_t E, int64_t chunk, int32_t threads) {
    const Layer l(images, S, C, E, chunk);
    const Points in_points = {memory, l.in_plane, l.panel, C};
    const Points in_gradients = {in_points.place + POINTS * l.in_plane, l.in_plane, l.panel, C};
    const Points out_gradients = {in_gradients.place + POINTS * l.in_plane, l.out_plane, l.panel, E};
    float* weight_gradients = out_gradients.place + POINTS * l.out_plane;
    float* turned = weight_gradients + POINTS * l.out_panels * C * PANEL;
    if (images == 0) std::memset(weight_gradients, 0, (turned - weight_gradients) * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        turn_weights_for_gradients(l, weight, turned);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < POINTS; p++)  // what lies beyond E is read
            std::memset(out_gradients.at(p, 0, 0), 0, l.out_plane * sizeof(float));
        for (int64_t first = 0; first < images; first += chunk) {
            const int64_t tiles = l.tiles(first);
            to_points(l, in + first * S * S * C, tiles, in_points);
            const int64_t done = first * S * S * E;
            if (where)
                to_gradient_points<true>(l, out_gradient + done / 4, where + done / 4, tiles, out_gradients);
            else
                to_gradient_points<false>(l, out_gradient + done, nullptr, tiles, out_gradients);
#pragma omp for collapse(2) schedule(static) nowait
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t n = 0; n < l.out_panels; n++)
                    for (int64_t c = 0; c < C; c += PANEL)
                        product_of(std::min<int64_t>(C - c, PANEL),
                                   Left<1, PANEL>{in_points.at(p, 0, c), PANEL * PANEL},
                                   out_gradients.at(p, 0, n * PANEL),
                                   weight_gradients + ((p * l.out_panels + n) * C + c) * PANEL, tiles, first > 0);
#pragma omp for collapse(2) schedule(static)
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t n = 0; n < l.in_panels; n++)
                    product_of(tiles, Left<PANEL, 1>{out_gradients.at(p, 0, 0), l.panel},
                               turned + (p * l.in_panels + n) * E * PANEL, in_gradients.at(p, 0, n * PANEL), E, false);
            to_input_gradients(l, in_gradients, tiles, in_gradient + first * S * S * C);
        }
        to_weight_gradients(l, weight_gradients, weight_gradient);
    }
}
