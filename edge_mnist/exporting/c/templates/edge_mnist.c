/* The network of edge_mnist_model.h, computed row by row.
 *
 * Each layer keeps only the rows of its output that later layers still need, in a ring. The order
 * in which rows are computed is fixed and stands in the table steps. Values are 8 bits wide,
 * channels last: the channels of a pixel lie beside each other.
 *
 * The arithmetic is that of ONNX Runtime, on integers: an accumulator of 32 bits is converted to
 * float32 and multiplied by a float32, and the product is rounded to an integer. A float32 has 24
 * significant bits, so each of these steps is a rounding, half to even, of an exact integer. */
#include "edge_mnist.h"

/* AVR reads constants with an instruction of its own, unless they are copied to RAM. */
#if defined(__AVR__) && !defined(__cplusplus)
#define FLASH __flash
#else
#define FLASH
#endif

/* The innermost loops have all registers to themselves. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

enum { CONV, DEPTHWISE, MAXPOOL, AVERAGEPOOL, GLOBALAVERAGEPOOL, ADD, LOOKUP };

typedef struct {
    uint8_t kind;
    uint8_t input, output; /* indexes into buffers */
    uint8_t other;         /* ADD: the second input; DEPTHWISE: outputs of each input channel */
    uint8_t kernel_h, kernel_w, stride_y, stride_x, pad_y, pad_x;
    uint8_t padding_counted; /* AVERAGEPOOL divides by the whole kernel at the border too */
    int16_t channel;         /* index of its first entry in channels */
    uint32_t weight;         /* index of its first entry in weights */
} layer;

typedef struct {
    uint8_t height, width;
    uint8_t rows; /* of the ring: row y lies in place y % rows */
    uint8_t zero_point;
    int16_t channels;
    uint32_t offset; /* of the ring in the scratch memory */
} buffer;

typedef struct {
    int32_t bias;
    uint32_t multiplier; /* a float32: mantissa of 24 bits * 2^-(the upper 8 bits) */
} channel;

#include "edge_mnist_model.h"

#define IMAGE 0
#define MANTISSA 0xFFFFFFu

/* What one call works on. */
typedef struct {
    const uint8_t *image;
    uint8_t *scratch;
    int32_t *scores;
} job;

/* The rows of the input under a kernel, without those in the padding. */
typedef struct {
    const uint8_t *begin, *end; /* the ring */
    const uint8_t *row;         /* the first row */
    int first, last;            /* rows of the kernel: first <= ky < last */
    int n_bytes;                /* of a row */
} window;

static int row_bytes(FLASH const buffer *b)
{
    return b->width * b->channels;
}

static uint8_t *find_row(const job *j, FLASH const buffer *b, int y)
{
    while (y >= b->rows) {
        y -= b->rows;
    }
    return j->scratch + b->offset + y * row_bytes(b);
}

static window open_window(const job *j, FLASH const layer *l, int index, int y)
{
    FLASH const buffer *b = &buffers[index];
    window w;
    int top = y * l->stride_y - l->pad_y;
    w.first = top < 0 ? -top : 0;
    w.last = b->height - top < l->kernel_h ? b->height - top : l->kernel_h;
    w.n_bytes = row_bytes(b);
    w.begin = index == IMAGE ? j->image : j->scratch + b->offset;
    w.end = w.begin + b->rows * w.n_bytes;
    w.row = index == IMAGE ? j->image + (top + w.first) * w.n_bytes
                           : find_row(j, b, top + w.first);
    return w;
}

static const uint8_t *next_row(const window *w, const uint8_t *row)
{
    row += w->n_bytes;
    return row == w->end ? w->begin : row;
}

/* Rounding */

/* value + rest / (2 * half), rounded half to even */
static uint32_t round_even(uint32_t value, uint32_t rest, uint32_t half)
{
    return value + (rest > half || (rest == half && (value & 1u) != 0u));
}

/* Rounds high * 2^24 + low to 24 significant bits: returns m, the result is m * 2^n. */
static uint32_t round_to_float(uint32_t high, uint32_t low, int *n)
{
    int bits = 0;
    while ((high >> bits) != 0u) {
        bits++;
    }
    *n = bits;
    if (bits == 0) {
        return low;
    }
    return round_even((high << (24 - bits)) | (low >> bits),
                      low & ((UINT32_C(1) << bits) - 1u),
                      UINT32_C(1) << (bits - 1));
}

/* The float32 product of a conversion to float32 and a multiplier: m * 2^-shift. */
static uint32_t multiply(uint32_t size, uint32_t multiplier, int *shift)
{
    int exact, dropped;
    uint32_t a = round_to_float(size >> 24, size & MANTISSA, &exact);
    uint32_t m = multiplier & MANTISSA;
    /* 24 x 24 bits in halves of 12, so that 32 bits hold every part */
    uint32_t a0 = a & 0xFFFu, a1 = a >> 12, m0 = m & 0xFFFu, m1 = m >> 12;
    uint32_t middle = a1 * m0 + a0 * m1;
    uint32_t low = a0 * m0 + ((middle & 0xFFFu) << 12);
    uint32_t high = a1 * m1 + (middle >> 12) + (low >> 24);
    uint32_t product = round_to_float(high, low & MANTISSA, &dropped);
    *shift = (int)(multiplier >> 24) - exact - dropped;
    return product;
}

static uint8_t clamp(int32_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static uint8_t requantize(int32_t sum, uint32_t multiplier, int zero_point)
{
    uint32_t size = sum < 0 ? 0u - (uint32_t)sum : (uint32_t)sum;
    uint32_t product;
    int32_t value;
    int shift;
    if (sum <= 0 && zero_point == 0) {
        return 0;
    }
    product = multiply(size, multiplier, &shift);
    if (shift <= 0) {
        value = product == 0u ? 0 : 256;
    } else if (shift > 25) {
        value = 0;
    } else {
        value = (int32_t)round_even(product >> shift,
                                    product & ((UINT32_C(1) << shift) - 1u),
                                    UINT32_C(1) << (shift - 1));
    }
    return clamp(zero_point + (sum < 0 ? -value : value));
}

/* Layers: each function computes row y of the output. */

#if EDGE_MNIST_LANES == 4
/* Adds the products of n pixels and the weights of four output channels, which are interleaved. */
static NOINLINE void
multiply_add_4(const uint8_t *x, FLASH const int8_t *w, int n, int zero, int32_t *sums)
{
    const uint8_t *end = x + n;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    while (x != end) {
        int pixel = *x++ - zero;
        s0 += pixel * w[0];
        s1 += pixel * w[1];
        s2 += pixel * w[2];
        s3 += pixel * w[3];
        w += 4;
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}
#endif

/* Returns the sum of the products of n pixels and weights. */
static NOINLINE int32_t multiply_add(const uint8_t *x, FLASH const int8_t *w, int n, int zero)
{
    const uint8_t *end = x + n;
    int32_t sum = 0;
    while (x != end) {
        sum += (*x++ - zero) * *w++;
    }
    return sum;
}

static void convolve(const job *j, FLASH const layer *l, int y)
{
    FLASH const buffer *in = &buffers[l->input], *out = &buffers[l->output];
    FLASH const channel *c = &channels[l->channel];
    const window win = open_window(j, l, l->input, y);
    const int n_in = in->channels, n_out = out->channels;
    const int taps = l->kernel_w * n_in; /* of one row of the kernel */
    uint8_t *result = l->output == EDGE_MNIST_SCORES ? 0 : find_row(j, out, y);
    int x, lane, lanes, o, ky;

    for (x = 0; x < out->width; x++) {
        const int left = x * l->stride_x - l->pad_x;
        const int first = left < 0 ? -left : 0;
        const int last = in->width - left < l->kernel_w ? in->width - left : l->kernel_w;
        const int n = (last - first) * n_in;
        FLASH const int8_t *weight = weights + l->weight;
        for (o = 0; o < n_out; o += lanes) {
            int32_t sums[EDGE_MNIST_LANES];
            const uint8_t *row = win.row;
            FLASH const int8_t *w;
            lanes = n_out - o < EDGE_MNIST_LANES ? 1 : EDGE_MNIST_LANES;
            for (lane = 0; lane < lanes; lane++) {
                sums[lane] = c[o + lane].bias;
            }
            w = weight + lanes * (win.first * taps + first * n_in);
            for (ky = win.first; ky < win.last; ky++) {
                const uint8_t *pixels = row + (left + first) * n_in;
#if EDGE_MNIST_LANES == 4
                if (lanes == 4) {
                    multiply_add_4(pixels, w, n, in->zero_point, sums);
                } else
#endif
                {
                    sums[0] += multiply_add(pixels, w, n, in->zero_point);
                }
                row = next_row(&win, row);
                w += lanes * taps;
            }
            for (lane = 0; lane < lanes; lane++) {
                if (result == 0) {
                    j->scores[o + lane] = sums[lane];
                } else {
                    *result++ = requantize(sums[lane], c[o + lane].multiplier, out->zero_point);
                }
            }
            weight += lanes * l->kernel_h * taps;
        }
    }
}

#if EDGE_MNIST_USES_DEPTHWISE
/* Weights lie as (kernel row, kernel column, output channel). */
static void convolve_depthwise(const job *j, FLASH const layer *l, int y)
{
    FLASH const buffer *in = &buffers[l->input], *out = &buffers[l->output];
    const window win = open_window(j, l, l->input, y);
    uint8_t *result = find_row(j, out, y);
    int x, o, ky, kx;

    for (x = 0; x < out->width; x++) {
        const int left = x * l->stride_x - l->pad_x;
        const int first = left < 0 ? -left : 0;
        const int last = in->width - left < l->kernel_w ? in->width - left : l->kernel_w;
        int i = 0, used = 0; /* input channel, and how many outputs it has had */
        for (o = 0; o < out->channels; o++) {
            FLASH const channel *c = &channels[l->channel + o];
            const uint8_t *row = win.row;
            int32_t sum = c->bias;
            for (ky = win.first; ky < win.last; ky++) {
                for (kx = first; kx < last; kx++) {
                    sum += (row[(left + kx) * in->channels + i] - in->zero_point) *
                           weights[l->weight +
                                   (uint32_t)((ky * l->kernel_w + kx) * out->channels + o)];
                }
                row = next_row(&win, row);
            }
            *result++ = requantize(sum, c->multiplier, out->zero_point);
            if (++used == l->other) {
                used = 0;
                i++;
            }
        }
    }
}
#endif

#if EDGE_MNIST_USES_MAXPOOL
static void pool_max(const job *j, FLASH const layer *l, int y)
{
    FLASH const buffer *in = &buffers[l->input], *out = &buffers[l->output];
    const window win = open_window(j, l, l->input, y);
    uint8_t *result = find_row(j, out, y);
    int x, o, ky, kx;

    for (x = 0; x < out->width; x++) {
        const int left = x * l->stride_x - l->pad_x;
        const int first = left < 0 ? -left : 0;
        const int last = in->width - left < l->kernel_w ? in->width - left : l->kernel_w;
        for (o = 0; o < out->channels; o++) {
            const uint8_t *row = win.row;
            uint8_t largest = 0;
            ky = win.first;
            do { /* no window is empty; of a loop that may be, clang makes a call of memset */
                kx = first;
                do {
                    uint8_t value = row[(left + kx) * in->channels + o];
                    largest = value > largest ? value : largest;
                } while (++kx < last);
                row = next_row(&win, row);
            } while (++ky < win.last);
            *result++ = largest;
        }
    }
}
#endif

#if EDGE_MNIST_USES_GLOBALAVERAGEPOOL
static void pool_whole(const job *j, FLASH const layer *l, int y)
{
    FLASH const buffer *in = &buffers[l->input], *out = &buffers[l->output];
    const window win = open_window(j, l, l->input, y);
    uint8_t *result = find_row(j, out, y);
    int x, o;

    for (o = 0; o < out->channels; o++) {
        const uint8_t *row = win.row;
        int32_t sum = 0;
        int ky = win.first;
        do { /* no window is empty; see pool_max */
            x = 0;
            do {
                sum += row[x * in->channels + o] - in->zero_point;
            } while (++x < in->width);
            row = next_row(&win, row);
        } while (++ky < win.last);
        *result++ = requantize(sum, channels[l->channel].multiplier, out->zero_point);
    }
}
#endif

#if EDGE_MNIST_USES_ADD || EDGE_MNIST_USES_AVERAGEPOOL
/* ONNX Runtime computes these two layers in float32. A sum or product of two float32 is an integer
 * on a grid that is fine enough, rounded to 24 significant bits. */

static uint64_t size_of(int64_t value)
{
    return value < 0 ? 0u - (uint64_t)value : (uint64_t)value;
}

/* value / 2^n, rounded half to even */
static int64_t shift_even(int64_t value, int n)
{
    uint64_t size = size_of(value), half, rest, result;
    if (n == 0) {
        return value;
    }
    half = UINT64_C(1) << (n - 1);
    rest = size & (2u * half - 1u);
    result = size >> n;
    result += rest > half || (rest == half && (result & 1u) != 0u);
    return value < 0 ? -(int64_t)result : (int64_t)result;
}

static int count_dropped(int64_t value)
{
    uint64_t size = size_of(value) >> 24;
    int n = 0;
    while (size != 0u) {
        size >>= 1;
        n++;
    }
    return n;
}

static int64_t round_float(int64_t value)
{
    int n = count_dropped(value);
    return shift_even(value, n) * (INT64_C(1) << n);
}

static uint8_t clamp_wide(int64_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}
#endif

#if EDGE_MNIST_USES_ADD
/* fma(first, ratio, fma(second, ratio, constant)) */
static void add(const job *j, FLASH const layer *l, int y)
{
    FLASH const buffer *out = &buffers[l->output];
    FLASH const int64_t *p = &wide[l->weight]; /* first ratio, second ratio, constant, shift */
    const window one = open_window(j, l, l->input, y), other = open_window(j, l, l->other, y);
    uint8_t *result = find_row(j, out, y);
    int i;

    for (i = 0; i < one.n_bytes; i++) {
        int64_t sum = round_float(other.row[i] * p[1] + p[2]);
        sum = round_float(one.row[i] * p[0] + sum);
        result[i] = clamp_wide(shift_even(sum, (int)p[3]));
    }
}
#endif

#if EDGE_MNIST_USES_AVERAGEPOOL
/* a / b; the last bit of the result is 1 if there is a rest, so that rounding it is right */
static int64_t divide(int64_t a, int32_t b)
{
    uint64_t size = size_of(a), rest = 0, quotient = 0;
    int i;
    for (i = 63; i >= 0; i--) {
        rest = rest * 2u + ((size >> i) & 1u);
        quotient *= 2u;
        if (rest >= (uint64_t)b) {
            rest -= (uint64_t)b;
            quotient++;
        }
    }
    quotient |= rest != 0u;
    return a < 0 ? -(int64_t)quotient : (int64_t)quotient;
}

/* sum / count / scale + zero point; sum is on the grid 2^-from, scale is m * 2^-to */
static uint8_t average(int64_t sum, int32_t count, int from, int32_t m, int to, int zero_point)
{
    int64_t value = round_float(divide(sum * 65536, count));
    int n = count_dropped(value);
    int shift = from + 16 - n + 28 - to;
    value = shift_even(value, n); /* exact: only 24 bits are significant */
    value = round_float(divide(value * (INT64_C(1) << 28), m));
    if (value == 0 || shift > 50) {
        return (uint8_t)zero_point;
    }
    if (shift < 1) {
        return value < 0 ? 0 : 255;
    }
    value = round_float(value + zero_point * (INT64_C(1) << shift));
    return clamp_wide(shift_even(value, shift));
}

static void pool_average(const job *j, FLASH const layer *l, int y)
{
    FLASH const buffer *in = &buffers[l->input], *out = &buffers[l->output];
    FLASH const channel *c = &channels[l->channel]; /* scale of the input, scale of the output */
    const window win = open_window(j, l, l->input, y);
    const int32_t from = (int32_t)(c[0].multiplier & MANTISSA);
    const int32_t to = (int32_t)(c[1].multiplier & MANTISSA);
    uint8_t *result = find_row(j, out, y);
    int x, o, ky, kx;

    for (x = 0; x < out->width; x++) {
        const int left = x * l->stride_x - l->pad_x;
        const int first = left < 0 ? -left : 0;
        const int last = in->width - left < l->kernel_w ? in->width - left : l->kernel_w;
        const int count = l->padding_counted ? l->kernel_h * l->kernel_w
                                             : (win.last - win.first) * (last - first);
        for (o = 0; o < out->channels; o++) {
            const uint8_t *row = win.row;
            int64_t sum = 0;
            for (ky = win.first; ky < win.last; ky++) {
                for (kx = first; kx < last; kx++) {
                    int64_t pixel = row[(left + kx) * in->channels + o] - in->zero_point;
                    sum = round_float(sum + round_float(pixel * from));
                }
                row = next_row(&win, row);
            }
            *result++ = average(sum, count, (int)(c[0].multiplier >> 24), to,
                                (int)(c[1].multiplier >> 24), out->zero_point);
        }
    }
}
#endif

#if EDGE_MNIST_USES_LOOKUP
static void look_up(const job *j, FLASH const layer *l, int y)
{
    const window win = open_window(j, l, l->input, y);
    uint8_t *result = find_row(j, &buffers[l->output], y);
    int i;

    for (i = 0; i < win.n_bytes; i++) {
        result[i] = (uint8_t)weights[l->weight + win.row[i]];
    }
}
#endif

static void compute_row(const job *j, FLASH const layer *l, int y)
{
    switch (l->kind) {
#if EDGE_MNIST_USES_DEPTHWISE
    case DEPTHWISE:
        convolve_depthwise(j, l, y);
        break;
#endif
#if EDGE_MNIST_USES_MAXPOOL
    case MAXPOOL:
        pool_max(j, l, y);
        break;
#endif
#if EDGE_MNIST_USES_AVERAGEPOOL
    case AVERAGEPOOL:
        pool_average(j, l, y);
        break;
#endif
#if EDGE_MNIST_USES_GLOBALAVERAGEPOOL
    case GLOBALAVERAGEPOOL:
        pool_whole(j, l, y);
        break;
#endif
#if EDGE_MNIST_USES_ADD
    case ADD:
        add(j, l, y);
        break;
#endif
#if EDGE_MNIST_USES_LOOKUP
    case LOOKUP:
        look_up(j, l, y);
        break;
#endif
    default:
        convolve(j, l, y);
    }
}

/* Answers */

/* The logit of a score as the bits of a float32, negative ones negated: they compare as integers. */
static int32_t order_logit(int i, int32_t score)
{
    uint32_t size = score < 0 ? 0u - (uint32_t)score : (uint32_t)score;
    FLASH const channel *c = &channels[layers[EDGE_MNIST_LAYERS - 1].channel];
    int shift;
    uint32_t m = multiply(size, c[i].multiplier, &shift);
    int32_t bits;
    if (m == 0u) {
        return 0;
    }
    while (m <= MANTISSA >> 1) {
        m *= 2u;
        shift++;
    }
    bits = (149 - shift) * (INT32_C(1) << 23) + (int32_t)m; /* m has the hidden bit */
    return score < 0 ? -bits : bits;
}

static int find_largest(const int32_t *scores)
{
    int i, best = 0;
    int32_t largest = order_logit(0, scores[0]);
    for (i = 1; i < EDGE_MNIST_CLASSES; i++) {
        int32_t value = order_logit(i, scores[i]);
        if (value > largest) {
            largest = value;
            best = i;
        }
    }
    return best;
}

/* A logit in units of 1 / 4096, at most 2^19 of them. */
static int32_t fix_logit(int i, int32_t score)
{
    uint32_t size = score < 0 ? 0u - (uint32_t)score : (uint32_t)score;
    FLASH const channel *c = &channels[layers[EDGE_MNIST_LAYERS - 1].channel];
    int shift;
    uint32_t m = multiply(size, c[i].multiplier, &shift);
    int32_t value;
    shift -= 12;
    if (shift >= 32) {
        m = 0;
    } else if (shift >= 5) {
        m >>= shift;
    } else if (m != 0u) {
        m = UINT32_C(1) << 19;
    }
    value = (int32_t)m;
    return score < 0 ? -value : value;
}

int32_t edge_mnist_confidence(const int32_t scores[EDGE_MNIST_CLASSES])
{
    int i, best = find_largest(scores);
    int32_t largest = fix_logit(best, scores[best]);
    uint32_t sum = 0, rest = EDGE_MNIST_ONE, share = 0;
    for (i = 0; i < EDGE_MNIST_CLASSES; i++) {
        int32_t below = largest - fix_logit(i, scores[i]);
        if (below < INT32_C(12) * 4096) { /* e^-12 is less than half a unit */
            /* e^-x = 2^-(whole + part): 5909 / 4096 is log2(e), part in units of 2^-15 */
            uint32_t power = (uint32_t)(below < 0 ? 0 : below) * 5909u;
            uint32_t whole = power >> 24, part = (power >> 9) & 0x7FFFu;
            /* 2^-part = 1 - 0.6917 part + 0.2310 part^2 - 0.0394 part^3, within 0.0002 */
            uint32_t value = 7570u - ((1290u * part) >> 15);
            value = 22664u - ((value * part) >> 15);
            value = 32768u - ((value * part) >> 15);
            sum += (2u * value) >> whole;
        }
    }
    for (i = 0; i < 17; i++) { /* share = 2^32 / sum, bit by bit */
        share *= 2u;
        if (rest >= sum) {
            rest -= sum;
            share++;
        }
        rest *= 2u;
    }
    return (int32_t)share;
}

int edge_mnist_observe(const uint8_t image[EDGE_MNIST_PIXELS],
                       int32_t scores[EDGE_MNIST_CLASSES],
                       void *scratch,
                       edge_mnist_observer observer,
                       void *context)
{
    job j;
    int i;
    j.image = image;
    j.scratch = scratch;
    j.scores = scores;
    for (i = 0; i < EDGE_MNIST_STEPS; i++) {
        const int number = steps[i][0], y = steps[i][1];
        FLASH const layer *l = &layers[number];
        compute_row(&j, l, y);
        if (observer != 0 && l->output != EDGE_MNIST_SCORES) {
            FLASH const buffer *b = &buffers[l->output];
            observer(context, number + 1, find_row(&j, b, y), row_bytes(b));
        }
    }
    return find_largest(scores);
}

int edge_mnist_classify(const uint8_t image[EDGE_MNIST_PIXELS],
                        int32_t scores[EDGE_MNIST_CLASSES],
                        void *scratch)
{
    return edge_mnist_observe(image, scores, scratch, 0, 0);
}

#ifndef EDGE_MNIST_TABLES_ARE_DATA /* as in the network of the page */
/* For the self-test */

const char *edge_mnist_layer_name(int number)
{
    return number < 1 || number > EDGE_MNIST_LAYERS ? "?" : layer_names[number - 1];
}

uint8_t edge_mnist_requantize(int number, int i, int32_t sum)
{
    FLASH const layer *l = &layers[number - 1];
    return requantize(sum, channels[l->channel + i].multiplier, buffers[l->output].zero_point);
}

uint32_t edge_mnist_crc(uint32_t crc, uint8_t value)
{
    int i;
    crc ^= value;
    for (i = 0; i < 8; i++) {
        crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return crc;
}

static uint32_t crc_of_word(uint32_t crc, uint32_t word)
{
    int i;
    for (i = 0; i < 4; i++) {
        crc = edge_mnist_crc(crc, (uint8_t)(word & 0xFFu));
        word >>= 8;
    }
    return crc;
}

/* The CRC of the weights, biases and multipliers of a layer, counted from 1. */
uint32_t edge_mnist_constants_crc(int number)
{
    FLASH const layer *l = &layers[number - 1];
    uint32_t crc = 0xFFFFFFFFu, i;
    int k;
    for (i = 0; i < sizes[number - 1][0]; i++) {
        crc = edge_mnist_crc(crc, (uint8_t)weights[l->weight + i]);
    }
    for (k = 0; k < (int)sizes[number - 1][1]; k++) {
        FLASH const channel *c = &channels[l->channel + k];
        crc = crc_of_word(crc, (uint32_t)c->bias);
        crc = crc_of_word(crc, c->multiplier);
    }
#if EDGE_MNIST_USES_ADD
    for (i = 0; i < sizes[number - 1][2]; i++) {
        uint64_t value = (uint64_t)wide[l->weight + i];
        crc = crc_of_word(crc, (uint32_t)(value & 0xFFFFFFFFu));
        crc = crc_of_word(crc, (uint32_t)(value >> 32));
    }
#endif
    return ~crc;
}
#endif
