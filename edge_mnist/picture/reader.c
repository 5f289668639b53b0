/* The picture path in C; see reader.h. The functions bear the names of those of digit.py and
 * frame.py, whose documentation holds here too. */
#include "reader.h"

#include <limits.h>

#if INT_MAX < 0x7FFFFFFF || SIZE_MAX < 0xFFFFFFFF
#ifndef ARDUINO /* which compiles every .c of a library, for AVR too */
#error "the picture path needs int and size_t of at least 32 bits"
#endif
typedef int edge_mnist_no_reader; /* C99 has no empty file */
#else

/* The constants of digit.py and frame.py; tests compare them. */
#define WORK_SIDE_PX 256u
#define MAX_STRIP_PX 2048u
#define PHOTO_SIDE_PX 100u
#define FLAT_SIDE_PX 40u
#define MIN_SIDE_PX 3u
#define MIN_DIGIT_PX 5u
#define MIN_CONTRAST 10u
#define MIN_RULED_SIDE_PX 60u
#define FLAT_LEVELS 8u
#define PAPER_LEVEL 200u
#define MIN_PAPER_LEVEL 40u
#define MIN_STROKE_PERCENT 190u
#define BOX_PX 20u
#define N_CANDIDATES 6u
#define MIN_GAIN_LEVEL 40u
#define SIDE_PX ((uint32_t)EDGE_MNIST_SIDE_PX)

/* Marks the functions that take most of the time, for a build that has several versions of them. */
#ifndef EDGE_MNIST_HOT
#define EDGE_MNIST_HOT
#endif

#define RESIZE_BITS 22u /* of the fixed-point weights of Pillow's resizing */
#define BLUR_BITS 24u   /* of the fixed-point weights of Pillow's box blur */
#define N_DETAILS 511u  /* differences of two levels */

typedef struct {
    uint8_t *next;
    size_t left;
} arena;

typedef struct {
    const uint8_t *data;
    ptrdiff_t stride;
    uint32_t width, height;
} view;

typedef struct {
    uint8_t *data;
    uint32_t width, height;
} plane;

/* A bit for each pixel, the lowest of a word first; those behind the end of a row are 0. */
typedef struct {
    uint32_t *words;
    uint32_t width, height, n_words; /* of a row */
} bitmap;

/* Horizontal runs of pixels, in the order of rows; label is the component that each belongs to.
 * They are numbered in 16 bits: of the 67,000 pixels that downscaled_size leaves at most, hardly
 * more than half can begin one. */
typedef struct {
    uint16_t *row, *start, *end, *label;
    uint32_t n;
    uint16_t *first_of_row;
} run_list;

/* A connected component: its bounding box (bottom and right lie outside), ink, and sum of the
 * gradient along it. */
typedef struct {
    uint32_t mass, slope;
    uint16_t top, bottom, left, right;
    uint8_t n_borders, is_clutter, is_edge, is_kept;
} component;

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }
static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static uint32_t isqrt(uint64_t value) {
    uint64_t root = 0, bit = (uint64_t)1 << 62;
    while (bit > value) bit >>= 2;
    for (; bit; bit >>= 2) {
        if (value >= root + bit) {
            value -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return (uint32_t)root;
}

/* Return memory from the scratch buffer, aligned to 8 bytes, or NULL. */
static void *take(arena *memory, size_t size) {
    size_t padding = (size_t)(-(uintptr_t)memory->next & 7u);
    if (padding > memory->left || size > memory->left - padding) return NULL;
    void *taken = memory->next + padding;
    memory->next += padding + size;
    memory->left -= padding + size;
    return taken;
}

static void fill(void *target, uint8_t value, size_t n) {
    uint8_t *bytes = target;
    for (size_t i = 0; i < n; i++) bytes[i] = value;
}

/* Load eight bytes, so that they are compared at once; compilers make one access of this form. */
static uint64_t load_8(const uint8_t *bytes) {
    return bytes[0] | (uint64_t)bytes[1] << 8 | (uint64_t)bytes[2] << 16 |
           (uint64_t)bytes[3] << 24 | (uint64_t)bytes[4] << 32 | (uint64_t)bytes[5] << 40 |
           (uint64_t)bytes[6] << 48 | (uint64_t)bytes[7] << 56;
}

/* ---- bitmaps ---- */

static uint32_t count_bits(uint32_t word) {
    word -= word >> 1 & 0x55555555u;
    word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
    return ((word + (word >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24;
}

static uint32_t count_row_words(uint32_t width) { return (width + 31) / 32; }

static int take_bitmap(uint32_t width, uint32_t height, bitmap *mask, arena *memory) {
    uint32_t n_words = count_row_words(width);
    bitmap taken = {take(memory, (size_t)4 * n_words * height), width, height, n_words};
    *mask = taken;
    return taken.words ? EDGE_MNIST_OK : EDGE_MNIST_ERROR_SCRATCH;
}

static uint32_t *row_of(bitmap mask, uint32_t y) { return mask.words + (size_t)y * mask.n_words; }

/* Shift a row by a pixel: bit x is that of the pixel to the left, or right, of pixel x. */
static uint32_t from_left(const uint32_t *row, uint32_t at) {
    return row[at] << 1 | (at ? row[at - 1] >> 31 : 0);
}

static uint32_t from_right(const uint32_t *row, uint32_t at, uint32_t n_words) {
    return row[at] >> 1 | (at + 1 < n_words ? row[at + 1] << 31 : 0);
}

static void clear_bits(bitmap mask) { fill(mask.words, 0, (size_t)4 * mask.n_words * mask.height); }

static void set_bits(uint32_t *row, uint32_t start, uint32_t end) {
    for (uint32_t at = start / 32; 32 * at < end; at++) {
        uint32_t bits = UINT32_MAX;
        if (32 * at < start) bits <<= start % 32;
        if (end - 32 * at < 32) bits &= (1u << end % 32) - 1;
        row[at] |= bits;
    }
}

/* Return the first pixel from `start` on that is set, or with `flip` UINT32_MAX not set; `end` if
 * there is none before it. */
static uint32_t find_bit(const uint32_t *row, uint32_t start, uint32_t end, uint32_t flip) {
    uint32_t at = start / 32;
    if (start >= end) return end;
    uint32_t word = (row[at] ^ flip) & UINT32_MAX << start % 32;
    while (!word) {
        if (32 * ++at >= end) return end;
        word = row[at] ^ flip;
    }
    return min_u32(32 * at + count_bits((word & (0u - word)) - 1), end);
}

/* Find the next run of set pixels from `*end` on; returns whether there is one before `stop`. */
static int find_run(const uint32_t *row, uint32_t stop, uint32_t *start, uint32_t *end) {
    *start = find_bit(row, *end, stop, 0);
    *end = find_bit(row, *start, stop, UINT32_MAX);
    return *start < stop;
}

static void set_where_above(plane levels, uint32_t threshold, bitmap mask) {
    const uint8_t *pixels = levels.data;
    for (uint32_t y = 0; y < mask.height; y++) {
        uint32_t *row = row_of(mask, y);
        for (uint32_t at = 0; at < mask.n_words; at++) {
            uint32_t n = min_u32(32, mask.width - 32 * at), word = 0;
            uint8_t most = 0;
            for (uint32_t i = 0; i < n; i++) most = most > pixels[i] ? most : pixels[i];
            for (uint32_t i = 0; most > threshold && i < n; i++) {
                word |= (uint32_t)(pixels[i] > threshold) << i;
            }
            row[at] = word;
            pixels += n;
        }
    }
}

/* ---- order statistics ---- */

/* Neighbours are often equal, and an entry cannot be counted up twice at once: hence eight at a
 * time where all are equal, and two parts. */
static void count_levels(const uint8_t *levels, size_t n, uint32_t histogram[256]) {
    uint32_t odd[256];
    size_t i = 0;
    fill(histogram, 0, 256 * sizeof *histogram);
    fill(odd, 0, sizeof odd);
    for (; i + 8 <= n; i += 8) {
        if (load_8(levels + i) == levels[i] * UINT64_C(0x0101010101010101)) {
            histogram[levels[i]] += 8;
            continue;
        }
        for (size_t j = i; j < i + 8; j += 2) {
            histogram[levels[j]]++;
            odd[levels[j + 1]]++;
        }
    }
    for (; i < n; i++) histogram[levels[i]]++;
    for (uint32_t level = 0; level < 256; level++) histogram[level] += odd[level];
}

/* Return the value at an index of the sorted values. */
static uint32_t select_level(const uint32_t *histogram, uint32_t index) {
    uint32_t level = 0;
    while (index >= histogram[level]) index -= histogram[level++];
    return level;
}

static uint32_t border_median(view levels) {
    uint32_t histogram[256];
    const uint8_t *first = levels.data;
    const uint8_t *last = first + (ptrdiff_t)(levels.height - 1) * levels.stride;
    fill(histogram, 0, sizeof histogram);
    for (uint32_t x = 0; x < levels.width; x++) {
        histogram[first[x]]++;
        histogram[last[x]]++;
    }
    for (uint32_t y = 0; y < levels.height; y++) {
        const uint8_t *row = first + (ptrdiff_t)y * levels.stride;
        histogram[row[0]]++;
        histogram[row[levels.width - 1]]++;
    }
    return select_level(histogram, levels.width + levels.height);
}

/* ---- resizing ---- */

/* Return the first pixel of a new one: that whose centre lies behind its edge; enlarged, the
 * nearest. */
static uint32_t box_start(uint32_t place, uint32_t side, uint32_t new_side) {
    if (new_side > side) return (uint32_t)((uint64_t)(2 * place + 1) * side / (2 * new_side));
    return (uint32_t)(((uint64_t)2 * place * side + new_side) / (2 * new_side));
}

static uint32_t box_weight(uint32_t n) { return ((2u << RESIZE_BITS) + n) / (2 * n); }

static uint32_t scale_weighted(uint32_t sum, uint32_t weight) {
    return (sum * weight + (1u << (RESIZE_BITS - 1))) >> RESIZE_BITS;
}

/* Average over boxes: first along the rows, rounded to levels, then along the columns. */
static int resize_box(view source, plane target, arena memory) {
    uint32_t width = target.width, height = target.height;
    uint32_t *restrict cumulated = take(&memory, (source.width + 1) * sizeof *cumulated);
    uint8_t *restrict averages = (uint8_t *)cumulated; /* of one pixel, and of it and the next */
    uint32_t *restrict sums = take(&memory, width * sizeof *sums);
    uint32_t *restrict weights = take(&memory, width * sizeof *weights);
    uint32_t *restrict boxes = take(&memory, width * sizeof *boxes);
    uint16_t *starts = take(&memory, width * sizeof *starts);
    uint16_t *ends = take(&memory, width * sizeof *ends);
    uint16_t *restrict picks = take(&memory, width * sizeof *picks);
    int is_taken = cumulated && sums && weights && boxes && starts && ends && picks;
    if (!is_taken) return EDGE_MNIST_ERROR_SCRATCH;
    for (uint32_t x = 0; x < width; x++) {
        uint32_t start = box_start(x, source.width, width);
        uint32_t end = width > source.width ? start + 1 : box_start(x + 1, source.width, width);
        starts[x] = (uint16_t)start;
        ends[x] = (uint16_t)end;
        picks[x] = (uint16_t)(start + end - 1);
        weights[x] = box_weight(end - start);
    }
    for (uint32_t y = 0; y < height; y++) {
        uint32_t start = box_start(y, source.height, height);
        uint32_t end = height > source.height ? start + 1 : box_start(y + 1, source.height, height);
        uint32_t weight = box_weight(end - start);
        for (uint32_t x = 0; x < width; x++) sums[x] = 0;
        for (uint32_t from = start; from < end; from++) {
            const uint8_t *restrict row = source.data + (ptrdiff_t)from * source.stride;
            uint32_t sum = 0;
            if (source.width <= width) { /* nothing is averaged */
                for (uint32_t x = 0; x < width; x++) sums[x] += row[starts[x]];
                continue;
            }
            if (source.width <= 2 * width) { /* at most two pixels */
                for (size_t x = 0; x + 1 < source.width; x++) {
                    averages[2 * x] = row[x];
                    averages[2 * x + 1] = (uint8_t)((row[x] + row[x + 1] + 1) >> 1);
                }
                averages[2 * source.width - 2] = row[source.width - 1];
                for (uint32_t x = 0; x < width; x++) sums[x] += averages[picks[x]];
                continue;
            }
            cumulated[0] = 0;
            for (uint32_t x = 0; x < source.width; x++) cumulated[x + 1] = sum += row[x];
            for (uint32_t x = 0; x < width; x++) boxes[x] = cumulated[ends[x]] - cumulated[starts[x]];
            for (uint32_t x = 0; x < width; x++) sums[x] += scale_weighted(boxes[x], weights[x]);
        }
        uint8_t *row = target.data + (size_t)y * width;
        for (uint32_t x = 0; x < width; x++) row[x] = (uint8_t)scale_weighted(sums[x], weight);
    }
    return EDGE_MNIST_OK;
}

/* Compute the weights with which the pixels from `*first` on make up a new one, cubic convolution
 * with a = -1/2; returns how many. `side` is at most `new_side`. */
static uint32_t weigh_cubic(uint32_t place, uint32_t side, uint32_t new_side, uint32_t *first,
                            int32_t weights[5]) {
    int32_t unit = 2 * (int32_t)new_side; /* all distances are in 1 / unit of a pixel */
    int32_t center = (int32_t)((2 * place + 1) * side), numerators[5], sum = 0;
    int32_t from = (center - 3 * (int32_t)new_side) / unit;
    int32_t to = (center + 5 * (int32_t)new_side) / unit;
    uint32_t n = 0;
    if (from < 0) from = 0;
    if (to > (int32_t)side) to = (int32_t)side;
    for (int32_t x = from; x < to; x++) {
        int32_t t = (2 * x + 1) * (int32_t)new_side - center; /* the distance, at most 2 * unit */
        if (t < 0) t = -t;
        if (t < unit) {
            numerators[n] = 3 * t * t * t - 5 * t * t * unit + 2 * unit * unit * unit;
        } else {
            numerators[n] = -(t * t * t - 5 * t * t * unit + 8 * t * unit * unit - 4 * unit * unit * unit);
        }
        sum += numerators[n++];
    }
    for (uint32_t i = 0; i < n; i++) {
        int64_t scaled = (int64_t)numerators[i] * (2 << RESIZE_BITS);
        weights[i] = (int32_t)((scaled + (scaled < 0 ? -sum : sum)) / (2 * sum));
    }
    *first = (uint32_t)from;
    return n;
}

static uint8_t clip_weighted(int32_t sum) {
    sum += 1 << (RESIZE_BITS - 1);
    if (sum < 0) return 0;
    return (uint8_t)min_u32((uint32_t)sum >> RESIZE_BITS, 255);
}

/* Enlarge to at most BOX_PX a side. */
static void resize_cubic(view source, plane target) {
    uint8_t rows[BOX_PX * BOX_PX]; /* of the source, as wide as the target */
    int32_t weights[5];
    uint32_t first;
    for (uint32_t x = 0; x < target.width; x++) {
        uint32_t n = weigh_cubic(x, source.width, target.width, &first, weights);
        for (uint32_t y = 0; y < source.height; y++) {
            const uint8_t *row = source.data + (ptrdiff_t)y * source.stride + first;
            int32_t sum = 0;
            for (uint32_t i = 0; i < n; i++) sum += row[i] * weights[i];
            rows[y * target.width + x] = clip_weighted(sum);
        }
    }
    for (uint32_t y = 0; y < target.height; y++) {
        uint32_t n = weigh_cubic(y, source.height, target.height, &first, weights);
        for (uint32_t x = 0; x < target.width; x++) {
            int32_t sum = 0;
            for (uint32_t i = 0; i < n; i++) sum += rows[(first + i) * target.width + x] * weights[i];
            target.data[y * target.width + x] = clip_weighted(sum);
        }
    }
}

static void fit(uint32_t width, uint32_t height, uint32_t side_px, plane *target) {
    uint32_t longer = max_u32(1, max_u32(width, height));
    target->width = max_u32(1, (2 * side_px * width + longer) / (2 * longer));
    target->height = max_u32(1, (2 * side_px * height + longer) / (2 * longer));
}

/* ---- frame.py ---- */

static void place(plane small, uint32_t top, uint32_t left, uint8_t *image) {
    fill(image, 0, SIDE_PX * SIDE_PX);
    for (uint32_t y = 0; y < small.height; y++) {
        for (uint32_t x = 0; x < small.width; x++) {
            image[(top + y) * SIDE_PX + left + x] = small.data[y * small.width + x];
        }
    }
}

static uint32_t center_offset(uint32_t mass, uint32_t moment, uint32_t side) {
    uint32_t twice = (SIDE_PX + 1) * mass;
    uint32_t offset = twice > 2 * moment ? (twice - 2 * moment) / (2 * mass) : 0;
    return min_u32(offset, SIDE_PX - side);
}

static void center_mass(plane small, uint8_t *image) {
    uint32_t mass = 0, moment_x = 0, moment_y = 0;
    for (uint32_t y = 0; y < small.height; y++) {
        for (uint32_t x = 0; x < small.width; x++) {
            uint32_t level = small.data[y * small.width + x];
            mass += level;
            moment_x += x * level;
            moment_y += y * level;
        }
    }
    place(small, center_offset(mass, moment_y, small.height),
          center_offset(mass, moment_x, small.width), image);
}

/* Crop to the pixels that are not 0; there is one. */
static view crop_to_ink(plane ink) {
    uint32_t top = ink.height, bottom = 0, left = ink.width, right = 0;
    for (uint32_t y = 0; y < ink.height; y++) {
        const uint8_t *row = ink.data + (size_t)y * ink.width;
        uint32_t start = 0, end = ink.width;
        while (start < end && !row[start]) start++;
        if (start == end) continue;
        while (!row[end - 1]) end--;
        top = min_u32(top, y);
        bottom = y + 1;
        left = min_u32(left, start);
        right = max_u32(right, end);
    }
    view cropped = {ink.data + (size_t)top * ink.width + left, (ptrdiff_t)ink.width, right - left,
                    bottom - top};
    return cropped;
}

static int frame_ink(plane ink, uint8_t *image, arena memory) {
    uint8_t levels[BOX_PX * BOX_PX];
    uint32_t histogram[256];
    view cropped = crop_to_ink(ink);
    plane small = {levels, 0, 0};
    fit(cropped.width, cropped.height, BOX_PX, &small);
    if (max_u32(cropped.width, cropped.height) > BOX_PX) {
        int error = resize_box(cropped, small, memory);
        if (error) return error;
    } else {
        resize_cubic(cropped, small);
    }
    uint32_t n = small.width * small.height;
    count_levels(levels, n, histogram);
    uint32_t full = max_u32(select_level(histogram, n - max_u32(3, n / 25)), MIN_GAIN_LEVEL);
    for (uint32_t i = 0; i < n; i++) {
        levels[i] = (uint8_t)min_u32((510u * levels[i] + full) / (2 * full), 255);
    }
    center_mass(small, image);
    return EDGE_MNIST_OK;
}

static int frame_whole(view grey, uint8_t *image, arena memory) {
    uint8_t levels[EDGE_MNIST_SIDE_PX * EDGE_MNIST_SIDE_PX];
    plane small = {levels, 0, 0};
    fit(grey.width, grey.height, SIDE_PX, &small);
    int error = resize_box(grey, small, memory);
    if (error) return error;
    if (border_median(grey) > 127) {
        for (uint32_t i = 0; i < small.width * small.height; i++) levels[i] ^= 255;
    }
    place(small, (SIDE_PX - small.height) / 2, (SIDE_PX - small.width) / 2, image);
    return EDGE_MNIST_OK;
}

/* ---- morphology ---- */

static void raise_to(uint8_t *restrict target, const uint8_t *restrict other, size_t n) {
    for (size_t i = 0; i < n; i++) target[i] = target[i] > other[i] ? target[i] : other[i];
}

/* A dilation by squares of 2 * radius + 1 that yields its rows from the top; beyond the border there
 * is nothing. `ring` holds a block of as many rows, each dilated along itself: those of the current
 * block as they are, the later ones of the block before as the maximum of their own and the rest of
 * that block. `prefix` is the maximum of the current block's, `line` working memory. */
typedef struct {
    uint8_t *ring, *prefix, *line;
    uint32_t width, radius, n_read;
} dilation;

static int open_dilation(uint32_t width, uint32_t radius, dilation *state, arena *memory) {
    size_t n_ring = (size_t)(2 * radius + 1) * width;
    size_t n_line = 2 * (width + 2 * (size_t)radius);
    dilation opened = {take(memory, n_ring), take(memory, width), take(memory, n_line), width, radius, 0};
    *state = opened;
    if (!opened.ring || !opened.prefix || !opened.line) return EDGE_MNIST_ERROR_SCRATCH;
    fill(opened.ring, 0, n_ring);
    return EDGE_MNIST_OK;
}

static void max_ahead(const uint8_t *row, size_t step, uint8_t *restrict target, size_t n) {
    for (size_t x = 0; x < n; x++) target[x] = row[x] > row[x + step] ? row[x] : row[x + step];
}

/* Dilate a row along itself: the maximum from each pixel on, over a window that is doubled until it
 * is 2 * radius + 1 wide. `line` holds two rows with the radius at both ends. */
static void dilate_row(const uint8_t *row, uint32_t width, uint32_t radius, uint8_t *line,
                       uint8_t *restrict target) {
    size_t n = width + 2 * (size_t)radius, wide = 2 * (size_t)radius + 1;
    uint8_t *from = line, *to = line + n;
    fill(from, 0, radius);
    for (size_t x = 0; x < width; x++) from[radius + x] = row[x];
    fill(from + radius + width, 0, radius);
    for (size_t size = 1, step; size < wide; size += step) {
        step = min_size(size, wide - size);
        n -= step;
        max_ahead(from, step, to, n);
        uint8_t *next = from;
        from = to;
        to = next;
    }
    for (size_t x = 0; x < width; x++) target[x] = from[x];
}

/* Add the next row; NULL stands for one below the last. */
static void dilation_add(dilation *state, const uint8_t *row) {
    uint32_t width = state->width, n_block = 2 * state->radius + 1, place = state->n_read++ % n_block;
    uint8_t *target = state->ring + (size_t)place * width;
    if (row) dilate_row(row, width, state->radius, state->line, target);
    else fill(target, 0, width);
    if (place == 0) fill(state->prefix, 0, width);
    raise_to(state->prefix, target, width);
    if (place + 1 < n_block) return;
    for (uint32_t i = n_block - 1; i--; target -= width) raise_to(target - width, target, width);
}

/* Write the row that lies `radius` above the last one that was added. */
static void dilation_write(const dilation *state, uint8_t *restrict target) {
    uint32_t width = state->width, place = state->n_read % (2 * state->radius + 1);
    for (uint32_t x = 0; x < width; x++) target[x] = state->prefix[x];
    if (place) raise_to(target, state->ring + (size_t)place * width, width);
}

static int dilate(plane levels, uint32_t radius, arena memory) {
    dilation state;
    int error = open_dilation(levels.width, radius, &state, &memory);
    if (error) return error;
    for (uint32_t y = 0; y < levels.height; y++) {
        while (state.n_read <= y + radius) {
            size_t next = (size_t)state.n_read * levels.width;
            dilation_add(&state, state.n_read < levels.height ? levels.data + next : NULL);
        }
        dilation_write(&state, levels.data + (size_t)y * levels.width);
    }
    return EDGE_MNIST_OK;
}

static void invert_levels(uint8_t *levels, size_t n) {
    for (size_t i = 0; i < n; i++) levels[i] ^= 255;
}

/* A grey closing that yields its rows from the top: the dilation of the inverted dilation. */
typedef struct {
    plane source;
    dilation first, second;
} closing;

/* Write the next row; `line` is working memory. Rows of the source that it has read may change. */
static void closing_next_row(closing *state, uint32_t y, uint8_t *line, uint8_t *target) {
    dilation *first = &state->first, *second = &state->second;
    uint32_t width = state->source.width, height = state->source.height;
    while (second->n_read <= y + second->radius) {
        if (second->n_read >= height) {
            dilation_add(second, NULL);
            continue;
        }
        while (first->n_read <= second->n_read + first->radius) {
            const uint8_t *row = state->source.data + (size_t)first->n_read * width;
            dilation_add(first, first->n_read < height ? row : NULL);
        }
        dilation_write(first, line);
        invert_levels(line, width);
        dilation_add(second, line);
    }
    dilation_write(second, target);
    invert_levels(target, width);
}

/* ---- the background ---- */

/* A box blur that yields its rows from the top. `ring` holds rows that are blurred along x, as many
 * as a window needs or as the picture has, and `sums` the sum over the window of each column, then
 * a row of working memory. */
typedef struct {
    uint8_t *ring;
    uint32_t *sums;
    uint32_t width, height, radius, n_ring, n_read;
} blur;

static uint32_t blur_ring_rows(uint32_t radius, uint32_t height) {
    return min_u32(2 * radius + 3, height);
}

static uint8_t blur_weigh(uint32_t sum, uint32_t far, uint32_t radius) {
    uint32_t side = 2 * radius + 1, weight = (1u << BLUR_BITS) / side;
    uint32_t far_weight = ((1u << BLUR_BITS) - side * weight) / 2;
    return (uint8_t)((sum * weight + far * far_weight + (1u << (BLUR_BITS - 1))) >> BLUR_BITS);
}

static int open_blur(uint32_t width, uint32_t height, uint32_t radius, uint32_t *sums, blur *state,
                     arena *memory) {
    uint32_t n_ring = blur_ring_rows(radius, height);
    blur opened = {take(memory, (size_t)n_ring * width), sums, width, height, radius, n_ring, 0};
    *state = opened;
    return opened.ring ? EDGE_MNIST_OK : EDGE_MNIST_ERROR_SCRATCH;
}

/* Return whether rows are to be added before row `y` can be written. */
static int blur_needs_row(const blur *state, uint32_t y) {
    return state->n_read < min_u32(y + state->radius + 2, state->height);
}

/* Add the next row: blur it along x into the ring. */
EDGE_MNIST_HOT static void blur_add_row(blur *state, const uint8_t *row) {
    uint32_t radius = state->radius, sum = row[0] * (radius + 1);
    uint32_t *restrict sums = state->sums + state->width;
    size_t width = state->width, last = width - 1, reach = radius + 1, x;
    size_t start = min_size(width, reach); /* of the windows that no border cuts */
    size_t end = max_size(start, width > reach ? width - reach : 0);
    uint8_t *restrict target = state->ring + (size_t)(state->n_read++ % state->n_ring) * width;
    for (x = 0; x < radius; x++) sum += row[min_size(x, last)];
    for (x = 0; x < start; x++) {
        sum += (uint32_t)row[min_size(x + radius, last)] - row[0];
        target[x] = blur_weigh(sum, (uint32_t)row[0] + row[min_size(x + reach, last)], radius);
    }
    for (x = start; x < end; x++) sums[x] = sum += (uint32_t)row[x + radius] - row[x - reach];
    for (x = start; x < end; x++) { /* apart, so that it is vectorized */
        target[x] = blur_weigh(sums[x], (uint32_t)row[x - reach] + row[x + reach], radius);
    }
    for (; x < width; x++) {
        sum += (uint32_t)row[last] - row[x - reach];
        target[x] = blur_weigh(sum, (uint32_t)row[x - reach] + row[last], radius);
    }
}

static const uint8_t *blur_ring_row(const blur *state, uint32_t y) {
    uint32_t row = min_u32(y, state->height - 1) % state->n_ring;
    return state->ring + (size_t)row * state->width;
}

/* Write row `y` of the blurred picture; rows are asked for in their order. */
EDGE_MNIST_HOT static void blur_next_row(const blur *state, uint32_t y, uint8_t *restrict target) {
    uint32_t width = state->width, radius = state->radius;
    uint32_t *restrict sums = state->sums;
    if (y == 0) {
        const uint8_t *first = blur_ring_row(state, 0);
        for (uint32_t x = 0; x < width; x++) sums[x] = first[x] * (radius + 1);
        for (uint32_t near = 0; near < radius; near++) {
            const uint8_t *row = blur_ring_row(state, near);
            for (uint32_t x = 0; x < width; x++) sums[x] += row[x];
        }
    }
    const uint8_t *before = blur_ring_row(state, y > radius ? y - radius - 1 : 0);
    const uint8_t *entering = blur_ring_row(state, y + radius);
    const uint8_t *behind = blur_ring_row(state, y + radius + 1);
    for (uint32_t x = 0; x < width; x++) {
        sums[x] += (uint32_t)entering[x] - before[x];
        target[x] = blur_weigh(sums[x], (uint32_t)before[x] + behind[x], radius);
    }
}

static void binomial_filter(plane levels, uint8_t *restrict before, uint16_t *restrict columns) {
    uint32_t width = levels.width, last = width - 1;
    for (uint32_t x = 0; x < width; x++) before[x] = levels.data[x];
    for (uint32_t y = 0; y < levels.height; y++) {
        uint8_t *restrict row = levels.data + (size_t)y * width;
        const uint8_t *restrict behind = y + 1 < levels.height ? row + width : row;
        for (uint32_t x = 0; x < width; x++) {
            columns[x] = (uint16_t)(before[x] + 2 * row[x] + behind[x]);
        }
        for (uint32_t x = 0; x < width; x++) before[x] = row[x];
        row[0] = (uint8_t)((3 * columns[0] + columns[min_u32(1, last)] + 8) >> 4);
        for (uint32_t x = 1; x < last; x++) {
            row[x] = (uint8_t)((columns[x - 1] + 2 * columns[x] + columns[x + 1] + 8) >> 4);
        }
        row[last] = (uint8_t)((columns[last ? last - 1 : 0] + 3 * columns[last] + 8) >> 4);
    }
}

/* Count the differences of two rows up, in two parts; see count_levels. */
static void count_details(const uint8_t *row, const uint8_t *blurred, uint32_t n,
                          uint32_t details[2 * N_DETAILS]) {
    uint32_t x = 0;
    for (; x + 8 <= n; x += 8) {
        if (load_8(row + x) == load_8(blurred + x)) {
            details[255] += 8;
            continue;
        }
        for (uint32_t i = x; i < x + 8; i += 2) {
            details[255u + row[i] - blurred[i]]++;
            details[N_DETAILS + 255u + row[i + 1] - blurred[i + 1]]++;
        }
    }
    for (; x < n; x++) details[255u + row[x] - blurred[x]]++;
}

/* Sum the `n` values next to one end of a histogram of -255 .. 255. */
static int32_t sum_extreme(const uint32_t *histogram, uint32_t n, int step) {
    int32_t sum = 0;
    for (int value = step > 0 ? -255 : 255; n; value += step) {
        uint32_t taken = min_u32(n, histogram[value + 255]);
        sum += (int32_t)taken * value;
        n -= taken;
    }
    return sum;
}

/* Return whether the ink is darker than the background, or an error. */
static int is_ink_dark(plane levels, const uint32_t histogram[256], uint32_t *sums, uint8_t *line,
                       arena memory) {
    uint32_t n = levels.width * levels.height;
    uint32_t radius = max_u32(2, max_u32(levels.width, levels.height) / 10);
    blur state;
    int error = open_blur(levels.width, levels.height, radius, sums, &state, &memory);
    uint32_t *details = take(&memory, 2 * N_DETAILS * sizeof *details);
    if (error || !details) return EDGE_MNIST_ERROR_SCRATCH;
    fill(details, 0, 2 * N_DETAILS * sizeof *details);
    for (uint32_t y = 0; y < levels.height; y++) {
        const uint8_t *row = levels.data + (size_t)y * levels.width;
        while (blur_needs_row(&state, y)) {
            blur_add_row(&state, levels.data + (size_t)state.n_read * levels.width);
        }
        blur_next_row(&state, y, line);
        count_details(row, line, levels.width, details);
    }
    for (uint32_t i = 0; i < N_DETAILS; i++) details[i] += details[N_DETAILS + i];
    uint32_t n_extreme = min_u32(max_u32(6, 3 * n / 1000), n), percentile = (n - 1) / 100;
    int32_t darkest = -sum_extreme(details, n_extreme, 1);
    int32_t lightest = sum_extreme(details, n_extreme, -1);
    int32_t low = (int32_t)(select_level(histogram, 0) + select_level(histogram, percentile));
    int32_t high = (int32_t)(select_level(histogram, n - 1) +
                             select_level(histogram, n - 1 - percentile));
    view whole = {levels.data, (ptrdiff_t)levels.width, levels.width, levels.height};
    int32_t by_border = 4 * (int32_t)border_median(whole) - low - high;
    int32_t contrast = darkest + lightest > 1 ? darkest + lightest : 1;
    int32_t range = high - low > 2 ? high - low : 2;
    return 3 * by_border * contrast + 10 * (darkest - lightest) * range > 0;
}

/* Subtract the background of a picture whose background is not flat. */
static int subtract_background(plane levels, uint32_t *sums, uint8_t *line, arena memory) {
    uint32_t width = levels.width, height = levels.height, side = isqrt(width * height), gains[256];
    uint32_t close_radius = max_u32(3, 14 * side / 100) / 2, radius = max_u32(1, side / 40);
    uint32_t n_ring = radius + 2; /* closed rows that the blur has read and that are not used yet */
    closing state;
    blur smoothing;
    state.source = levels;
    int error = open_blur(width, height, radius, sums, &smoothing, &memory);
    if (!error) error = open_dilation(width, close_radius, &state.first, &memory);
    if (!error) error = open_dilation(width, close_radius, &state.second, &memory);
    uint8_t *ring = take(&memory, (size_t)n_ring * width);
    if (error || !ring) return EDGE_MNIST_ERROR_SCRATCH;
    for (uint32_t level = 0; level < 256; level++) {
        gains[level] = PAPER_LEVEL * 256 / max_u32(level, MIN_PAPER_LEVEL);
    }
    for (uint32_t y = 0; y < height; y++) {
        while (blur_needs_row(&smoothing, y)) {
            uint8_t *closed = ring + (size_t)(smoothing.n_read % n_ring) * width;
            closing_next_row(&state, smoothing.n_read, line, closed);
            blur_add_row(&smoothing, closed);
        }
        blur_next_row(&smoothing, y, line);
        uint8_t *row = levels.data + (size_t)y * width;
        const uint8_t *closed = ring + (size_t)(y % n_ring) * width;
        for (uint32_t x = 0; x < width; x++) {
            uint32_t paper = min_u32(closed[x], line[x]);
            uint32_t contrast = paper > row[x] ? paper - row[x] : 0;
            row[x] = (uint8_t)((contrast * gains[paper] + 128) >> 8);
        }
    }
    return EDGE_MNIST_OK;
}

/* Turn levels into ink. */
static int measure_ink(plane levels, arena memory) {
    uint32_t width = levels.width, height = levels.height, n = width * height;
    uint32_t *sums = take(&memory, 2 * width * sizeof *sums);
    uint8_t *line = take(&memory, width);
    uint32_t histogram[256];
    if (!sums || !line) return EDGE_MNIST_ERROR_SCRATCH;
    if (n > PHOTO_SIDE_PX * PHOTO_SIDE_PX) binomial_filter(levels, line, (uint16_t *)sums);
    count_levels(levels.data, n, histogram);
    int is_dark = is_ink_dark(levels, histogram, sums, line, memory);
    if (is_dark < 0) return is_dark;
    if (!is_dark) {
        invert_levels(levels.data, n);
        count_levels(levels.data, n, histogram);
    }
    view whole = {levels.data, (ptrdiff_t)width, width, height};
    uint32_t flat = border_median(whole), n_flat = 0;
    for (uint32_t level = 0; level < 256; level++) {
        if (level + FLAT_LEVELS >= flat && level <= flat + FLAT_LEVELS) n_flat += histogram[level];
    }
    if (2 * n_flat <= n && n > FLAT_SIDE_PX * FLAT_SIDE_PX) {
        return subtract_background(levels, sums, line, memory);
    }
    for (uint32_t i = 0; i < n; i++) {
        levels.data[i] = (uint8_t)(flat > levels.data[i] ? flat - levels.data[i] : 0);
    }
    return EDGE_MNIST_OK;
}

/* ---- the mask ---- */

/* Return the contrast above which a pixel is ink; 255 if nothing exceeds the noise. */
static uint32_t choose_threshold(plane ink) {
    uint32_t histogram[256], folded[256], n = ink.width * ink.height;
    count_levels(ink.data, n, histogram);
    uint32_t n_strong = min_u32(max_u32(12, n / 500), n);
    uint32_t strongest = select_level(histogram, n - n_strong + n_strong / 2);
    uint32_t median = select_level(histogram, n / 2);
    for (uint32_t away = 0; away < 256; away++) {
        folded[away] = median + away < 256 ? histogram[median + away] : 0;
        if (away && away <= median) folded[away] += histogram[median - away];
    }
    uint32_t noise = 100 * median + 148 * select_level(folded, n / 2);
    if (strongest < MIN_CONTRAST || 100 * strongest < 4 * noise) return 255;
    return max_u32((noise < 2 * strongest ? 25 : 42) * strongest, 3 * noise) / 100;
}

/* Set the runs that are at least `window` pixels (made odd) long along one axis; a run that reaches
 * the border continues beyond it. */
static void open_along_rows(bitmap mask, uint32_t window, bitmap opened) {
    uint32_t radius = window / 2;
    clear_bits(opened);
    for (uint32_t y = 0; y < mask.height; y++) {
        for (uint32_t start, end = 0; find_run(row_of(mask, y), mask.width, &start, &end);) {
            uint32_t n_borders = (start == 0 ? 1u : 0u) + (end == mask.width ? 1u : 0u);
            if (end - start + n_borders * radius < 2 * radius + 1) continue;
            set_bits(row_of(opened, y), start, end);
        }
    }
}

static void open_along_columns(bitmap mask, uint32_t window, bitmap opened) {
    uint32_t radius = window / 2, n_words = mask.n_words;
    clear_bits(opened);
    for (uint32_t x = 0; x < mask.width; x++) {
        const uint32_t *column = mask.words + x / 32;
        uint32_t bit = 1u << x % 32;
        for (uint32_t start = 0, end; start < mask.height; start = end + 1) {
            end = start;
            while (end < mask.height && column[(size_t)end * n_words] & bit) end++;
            uint32_t n_borders = (start == 0 ? 1u : 0u) + (end == mask.height ? 1u : 0u);
            if (end == start || end - start + n_borders * radius < 2 * radius + 1) continue;
            for (uint32_t y = start; y < end; y++) row_of(opened, y)[x / 32] |= bit;
        }
    }
}

/* Tell whether pixels are set in more than 90 % of the columns, or rows. */
static int is_crossed(bitmap mask, int along_rows) {
    uint32_t n_crossed = 0;
    for (uint32_t at = 0; at < mask.n_words && along_rows; at++) {
        uint32_t any = 0;
        for (uint32_t y = 0; y < mask.height; y++) any |= row_of(mask, y)[at];
        n_crossed += count_bits(any);
    }
    for (uint32_t y = 0; y < mask.height && !along_rows; y++) {
        n_crossed += find_bit(row_of(mask, y), 0, mask.width, 0) < mask.width;
    }
    return 10 * n_crossed > 9 * (along_rows ? mask.width : mask.height);
}

static int remove_ruled_lines(bitmap mask, arena memory) {
    uint32_t thick = max_u32(5, 3 * isqrt(mask.width * mask.height) / 100);
    size_t n_words = (size_t)mask.n_words * mask.height;
    bitmap lines, other;
    if (min_u32(mask.width, mask.height) < MIN_RULED_SIDE_PX) return EDGE_MNIST_OK;
    for (int along_rows = 1; along_rows >= 0; along_rows--) {
        arena here = memory;
        /* Most pictures do not have ink in so many rows or columns. */
        if (!is_crossed(mask, along_rows)) continue;
        if (take_bitmap(mask.width, mask.height, &lines, &here) ||
            take_bitmap(mask.width, mask.height, &other, &here)) {
            return EDGE_MNIST_ERROR_SCRATCH;
        }
        uint32_t window = max_u32(9, (along_rows ? mask.width : mask.height) / 8);
        open_along_rows(mask, along_rows ? window : thick, along_rows ? lines : other);
        open_along_columns(mask, along_rows ? thick : window, along_rows ? other : lines);
        for (size_t i = 0; i < n_words; i++) lines.words[i] &= ~other.words[i];
        if (!is_crossed(lines, along_rows)) continue;
        for (size_t i = 0; i < n_words; i++) mask.words[i] &= ~lines.words[i];
    }
    return EDGE_MNIST_OK;
}

/* Measure the strokes of a mask; their width is 2 * area / outline. */
static void measure_strokes(bitmap mask, uint32_t *area, uint32_t *outline) {
    uint32_t n = 0, n_inner = 0, n_wide = 0, n_words = mask.n_words;
    for (uint32_t y = 0; y < mask.height; y++) {
        const uint32_t *row = row_of(mask, y);
        const uint32_t *above = y ? row - n_words : NULL;
        const uint32_t *below = y + 1 < mask.height ? row + n_words : NULL;
        for (uint32_t at = 0; at < n_words; at++) {
            uint32_t word = row[at], left = from_left(row, at), right = from_right(row, at, n_words);
            uint32_t inner = word, wide = 0;
            if (!word) continue;
            if (above) {
                inner &= above[at];
                wide |= above[at] & ((left & from_left(above, at)) |
                                     (right & from_right(above, at, n_words)));
            }
            if (below) {
                inner &= below[at];
                wide |= below[at] & ((left & from_left(below, at)) |
                                     (right & from_right(below, at, n_words)));
            }
            if (at == 0) left |= 1; /* what lies beyond the border is no outline */
            if (at == (mask.width - 1) / 32) right |= 1u << (mask.width - 1) % 32;
            n += count_bits(word);
            n_inner += count_bits(inner & left & right);
            n_wide += count_bits(word & wide);
        }
    }
    uint32_t n_thin = n - n_wide;
    *area = n;
    *outline = max_u32(1, n - n_inner + (2 * n_thin > n ? n_thin : 0));
}

/* ---- components ---- */

static uint32_t find_root(uint16_t *parents, uint32_t one) {
    while (parents[one] != one) {
        parents[one] = parents[parents[one]];
        one = parents[one];
    }
    return one;
}

static void join(uint16_t *parents, uint32_t one, uint32_t other) {
    uint32_t first = find_root(parents, one), second = find_root(parents, other);
    if (first < second) parents[second] = (uint16_t)first;
    else parents[first] = (uint16_t)second;
}

/* Replace each parent by the number of its set, in the order of their first members. */
static uint32_t number_sets(uint16_t *parents, uint32_t n) {
    uint32_t n_sets = 0;
    for (uint32_t one = 0; one < n; one++) parents[one] = (uint16_t)find_root(parents, one);
    for (uint32_t one = 0; one < n; one++) {
        parents[one] = parents[one] == one ? (uint16_t)n_sets++ : parents[parents[one]];
    }
    return n_sets;
}

static int find_runs(bitmap mask, run_list *runs, arena *memory) {
    uint32_t n = 0;
    for (uint32_t y = 0; y < mask.height; y++) {
        const uint32_t *row = row_of(mask, y);
        for (uint32_t at = 0; at < mask.n_words; at++) n += count_bits(row[at] & ~from_left(row, at));
    }
    runs->row = take(memory, n * sizeof(uint16_t));
    runs->start = take(memory, n * sizeof(uint16_t));
    runs->end = take(memory, n * sizeof(uint16_t));
    runs->label = take(memory, n * sizeof(uint16_t));
    runs->first_of_row = take(memory, (mask.height + 1) * sizeof(uint16_t));
    if (!runs->row || !runs->start || !runs->end || !runs->label || !runs->first_of_row) {
        return EDGE_MNIST_ERROR_SCRATCH;
    }
    runs->n = 0;
    for (uint32_t y = 0; y < mask.height; y++) {
        runs->first_of_row[y] = (uint16_t)runs->n;
        for (uint32_t start, end = 0; find_run(row_of(mask, y), mask.width, &start, &end);) {
            runs->row[runs->n] = (uint16_t)y;
            runs->start[runs->n] = (uint16_t)start;
            runs->end[runs->n] = (uint16_t)end;
            runs->label[runs->n] = (uint16_t)runs->n;
            runs->n++;
        }
    }
    runs->first_of_row[mask.height] = (uint16_t)runs->n;
    return EDGE_MNIST_OK;
}

/* Label the 8-connected components of the runs; returns their number. */
static uint32_t find_components(run_list *runs, uint32_t height) {
    for (uint32_t y = 1; y < height; y++) {
        uint32_t upper = runs->first_of_row[y - 1], lower = runs->first_of_row[y];
        uint32_t stop_upper = lower, stop = runs->first_of_row[y + 1];
        while (upper < stop_upper && lower < stop) {
            if (runs->end[upper] >= runs->start[lower] && runs->end[lower] >= runs->start[upper]) {
                join(runs->label, upper, lower);
            }
            if (runs->end[upper] < runs->end[lower]) upper++;
            else lower++;
        }
    }
    return number_sets(runs->label, runs->n);
}

static void count_borders(component *one, plane ink) {
    one->n_borders = (uint8_t)((one->top == 0) + (one->bottom == ink.height) + (one->left == 0) +
                               (one->right == ink.width));
}

static void describe_components(component *components, uint32_t n, const run_list *runs, plane ink) {
    for (uint32_t one = 0; one < n; one++) {
        component empty = {0, 0, UINT16_MAX, 0, UINT16_MAX, 0, 0, 0, 0, 0};
        components[one] = empty;
    }
    for (uint32_t run = 0; run < runs->n; run++) {
        component *one = &components[runs->label[run]];
        const uint8_t *row = ink.data + (size_t)runs->row[run] * ink.width;
        one->top = (uint16_t)min_u32(one->top, runs->row[run]);
        one->bottom = (uint16_t)(runs->row[run] + 1);
        one->left = (uint16_t)min_u32(one->left, runs->start[run]);
        one->right = (uint16_t)max_u32(one->right, runs->end[run]);
        for (uint32_t x = runs->start[run]; x < runs->end[run]; x++) one->mass += row[x];
    }
    for (uint32_t one = 0; one < n; one++) count_borders(&components[one], ink);
}

static uint32_t height_of(const component *one) { return (uint32_t)one->bottom - one->top; }
static uint32_t width_of(const component *one) { return (uint32_t)one->right - one->left; }
static uint32_t size_of(const component *one) { return max_u32(height_of(one), width_of(one)); }

static int is_hollow(const component *box, uint32_t label, const run_list *runs) {
    uint32_t rim_y = (3 * height_of(box) + 12) / 25, rim_x = (3 * width_of(box) + 12) / 25;
    uint32_t left = box->left + rim_x, right = box->right - rim_x, n = 0, n_in_rim = 0;
    for (uint32_t run = 0; run < runs->n; run++) {
        if (runs->label[run] != label) continue;
        uint32_t row = runs->row[run], start = runs->start[run], end = runs->end[run];
        n += end - start;
        if (row < box->top + rim_y || row >= box->bottom - rim_y) {
            n_in_rim += end - start;
        } else {
            if (min_u32(end, left) > start) n_in_rim += min_u32(end, left) - start;
            if (end > max_u32(start, right)) n_in_rim += end - max_u32(start, right);
        }
    }
    return 5 * n_in_rim > 4 * n;
}

/* Score a component as a candidate: for a frame by its size, for the digit by its sharp edge too. */
static uint64_t score_candidate(const component *one, int as_digit) {
    if (!as_digit) return size_of(one);
    return (uint64_t)one->slope * size_of(one) * (one->n_borders ? 7 : 20);
}

/* List the components with the highest scores, the highest first; returns how many. */
static uint32_t list_candidates(const component *components, uint32_t n, int as_digit,
                                uint32_t candidates[N_CANDIDATES]) {
    uint32_t n_listed = 0;
    for (uint32_t one = 0; one < n; one++) {
        uint64_t score = score_candidate(&components[one], as_digit);
        uint32_t at = n_listed;
        while (at && score > score_candidate(&components[candidates[at - 1]], as_digit)) at--;
        if (at == N_CANDIDATES) continue;
        if (n_listed < N_CANDIDATES) n_listed++;
        for (uint32_t i = n_listed - 1; i > at; i--) candidates[i] = candidates[i - 1];
        candidates[at] = one;
    }
    return n_listed;
}

static void find_frames(component *components, uint32_t n, const run_list *runs) {
    uint32_t candidates[N_CANDIDATES], n_listed = list_candidates(components, n, 0, candidates);
    for (uint32_t i = 0; i < n_listed; i++) {
        component *frame = &components[candidates[i]];
        uint32_t most = 0;
        int has_inside = 0;
        if (size_of(frame) < 12) continue;
        for (uint32_t one = 0; one < n; one++) {
            const component *other = &components[one];
            if (other->top > frame->top && other->bottom < frame->bottom &&
                other->left > frame->left && other->right < frame->right &&
                4 * size_of(other) > size_of(frame)) {
                has_inside = 1;
                most = max_u32(most, other->mass);
            }
        }
        if (has_inside && (20 * most > 9 * frame->mass ||
                           (10 * most > frame->mass && is_hollow(frame, candidates[i], runs)))) {
            frame->is_clutter = 1;
        }
    }
}

static void find_clutter(component *components, uint32_t n, const run_list *runs, plane ink,
                         int with_frames) {
    uint32_t width = ink.width, height = ink.height, n_pixels = width * height;
    int is_photo = n_pixels > PHOTO_SIDE_PX * PHOTO_SIDE_PX, has_more = 0;
    for (uint32_t i = 0; i < n; i++) {
        component *one = &components[i];
        uint32_t tall = height_of(one), wide = width_of(one);
        int is_line = (4 * wide > 3 * width && 10 * tall < height) ||
                      (4 * tall > 3 * height && 25 * wide < width && is_photo);
        int in_corner = (one->left == 0 || one->right == width) &&
                        (one->top == 0 || one->bottom == height);
        one->is_edge = one->n_borders && ((2 * wide > width && 25 * tall < 4 * height) ||
                                          (2 * tall > height && 25 * wide < 4 * width));
        one->is_clutter = is_line || (one->is_edge && in_corner && is_photo);
    }
    if (with_frames) find_frames(components, n, runs);
    for (uint32_t i = 0; i < n; i++) {
        const component *one = &components[i];
        has_more |= !one->is_clutter && !one->is_edge &&
                    625u * size_of(one) * size_of(one) > n_pixels;
    }
    for (uint32_t i = 0; has_more && i < n; i++) components[i].is_clutter |= components[i].is_edge;
}

/* Set the mask of the kept components. */
static void render_mask(const component *components, const run_list *runs, bitmap mask) {
    clear_bits(mask);
    for (uint32_t run = 0; run < runs->n; run++) {
        if (!components[runs->label[run]].is_kept) continue;
        set_bits(row_of(mask, runs->row[run]), runs->start[run], runs->end[run]);
    }
}

/* Join the components of kept runs whose pixels are no further apart than `reach`, across and down. */
static void join_near(const component *components, const run_list *runs, uint32_t height,
                      uint32_t reach, uint16_t *parents) {
    for (uint32_t run = 0; run < runs->n; run++) {
        uint32_t label = runs->label[run], row = runs->row[run];
        if (!components[label].is_kept) continue;
        uint32_t start = runs->start[run], end = runs->end[run] - 1u + reach;
        uint32_t stop = runs->first_of_row[min_u32(row + reach + 1, height)];
        for (uint32_t other = run + 1; other < stop; other++) {
            if (runs->start[other] > end) { /* neither does any other one of its row reach it */
                other = runs->first_of_row[runs->row[other] + 1] - 1u;
            } else if (runs->end[other] - 1u + reach >= start && runs->label[other] != label &&
                       components[runs->label[other]].is_kept) {
                join(parents, label, runs->label[other]);
            }
        }
    }
}

/* Merge the fragments of an interrupted stroke; returns the number of components left. */
static uint32_t join_fragments(component *components, uint32_t n, run_list *runs, plane ink,
                               bitmap mask, uint16_t *numbers) {
    uint32_t most = 0, n_fragments = 0, area, outline;
    find_clutter(components, n, runs, ink, 1);
    for (uint32_t i = 0; i < n; i++) {
        if (!components[i].is_clutter) most = max_u32(most, components[i].mass);
    }
    for (uint32_t i = 0; i < n; i++) {
        components[i].is_kept = !components[i].is_clutter && 25 * components[i].mass >= most;
        n_fragments += components[i].is_kept;
        numbers[i] = (uint16_t)i;
    }
    if (n_fragments < 2) return n;
    render_mask(components, runs, mask);
    measure_strokes(mask, &area, &outline);
    /* Each would be dilated by half a stroke, and touch the other's. */
    join_near(components, runs, ink.height, max_u32(2, 2 * area / outline) | 1u, numbers);
    uint32_t n_joined = number_sets(numbers, n);
    for (uint32_t run = 0; run < runs->n; run++) runs->label[run] = numbers[runs->label[run]];
    for (uint32_t i = 0, n_merged = 0; i < n; i++) {
        component *one = &components[numbers[i]];
        if (numbers[i] == n_merged) {
            *one = components[i];
            n_merged++;
        } else {
            one->mass += components[i].mass;
            one->top = (uint16_t)min_u32(one->top, components[i].top);
            one->bottom = (uint16_t)max_u32(one->bottom, components[i].bottom);
            one->left = (uint16_t)min_u32(one->left, components[i].left);
            one->right = (uint16_t)max_u32(one->right, components[i].right);
        }
    }
    for (uint32_t i = 0; i < n_joined; i++) count_borders(&components[i], ink);
    return n_joined;
}

/* Return twice the length of the gradient at a pixel. */
static uint32_t double_gradient(plane ink, uint32_t y, uint32_t x) {
    const uint8_t *row = ink.data + (size_t)y * ink.width;
    const uint8_t *above = y ? row - ink.width : row;
    const uint8_t *below = y + 1 < ink.height ? row + ink.width : row;
    int32_t across = row[min_u32(x + 1, ink.width - 1)] - row[x ? x - 1 : 0];
    int32_t down = below[x] - above[x];
    uint32_t a = (uint32_t)(across < 0 ? -across : across), b = (uint32_t)(down < 0 ? -down : down);
    return max_u32(a, b) + (3 * min_u32(a, b) >> 3);
}

static int is_sharp(uint32_t label, const run_list *runs, plane ink) {
    uint32_t steepest = 0, strongest = 0;
    for (uint32_t run = 0; run < runs->n; run++) {
        if (runs->label[run] != label) continue;
        uint32_t y = runs->row[run];
        for (uint32_t x = runs->start[run]; x < runs->end[run]; x++) {
            steepest = max_u32(steepest, double_gradient(ink, y, x));
            strongest = max_u32(strongest, ink.data[(size_t)y * ink.width + x]);
        }
    }
    return 10 * steepest > 3 * strongest;
}

/* Return the component that most likely is the digit; NULL if there is none. */
static const component *find_main(component *components, uint32_t n, const run_list *runs,
                                  plane ink) {
    uint32_t candidates[N_CANDIDATES];
    for (uint32_t i = 0; i < n; i++) components[i].slope = 0;
    for (uint32_t run = 0; run < runs->n; run++) {
        component *one = &components[runs->label[run]];
        for (uint32_t x = runs->start[run]; x < runs->end[run] && !one->is_clutter; x++) {
            one->slope += double_gradient(ink, runs->row[run], x);
        }
    }
    uint32_t n_listed = list_candidates(components, n, 1, candidates);
    for (uint32_t i = 0; i < n_listed; i++) {
        component *one = &components[candidates[i]];
        if (!one->n_borders || is_sharp(candidates[i], runs, ink)) break;
        one->slope = 0;
    }
    n_listed = list_candidates(components, n, 1, candidates);
    return n_listed && components[candidates[0]].slope ? &components[candidates[0]] : NULL;
}

static uint32_t gap_between(uint32_t start, uint32_t end, uint32_t other_start, uint32_t other_end) {
    if (other_start > end) return other_start - end;
    return start > other_end ? start - other_end : 0;
}

/* Select the components of one digit, as `is_kept`. Returns the reason, EDGE_MNIST_BLANK if there is
 * none. */
static int select_components(component *components, uint32_t n, const run_list *runs, plane ink,
                             int keep_all) {
    int has_more = 0;
    find_clutter(components, n, runs, ink, !keep_all);
    const component *main = find_main(components, n, runs, ink);
    if (!main) return EDGE_MNIST_BLANK;
    uint64_t size = size_of(main);
    for (uint32_t i = 0; i < n; i++) {
        component *one = &components[i];
        uint64_t gap_x = gap_between(one->left, one->right, main->left, main->right);
        uint64_t gap_y = gap_between(one->top, one->bottom, main->top, main->bottom);
        uint64_t gap = gap_x * gap_x + gap_y * gap_y;
        int is_inside = one->n_borders <= main->n_borders;
        int is_near = 50 * one->mass >= main->mass && 625 * gap <= 9 * size * size;
        int is_further =
            25 * one->mass >= 2 * main->mass && 100 * gap <= 9 * size * size && is_inside;
        int is_large = keep_all && 25 * one->mass >= main->mass && is_inside;
        int is_similar = !keep_all && !one->is_clutter &&
                         5 * height_of(one) >= 3 * height_of(main) &&
                         20 * one->mass >= 7 * main->mass && one->n_borders == 0;
        uint32_t top = max_u32(one->top, main->top), bottom = min_u32(one->bottom, main->bottom);
        uint32_t overlap = bottom > top ? bottom - top : 0;
        int is_beside = is_similar && 25 * gap_x > 2 * size &&
                        5 * overlap > 3 * min_u32(height_of(one), height_of(main));
        one->is_kept = !one->is_clutter && !is_beside && (is_near || is_further || is_large);
        one->is_kept |= !keep_all && one == main;
        has_more |= is_similar && !one->is_kept;
    }
    return has_more ? EDGE_MNIST_MORE_THAN_ONE_DIGIT : EDGE_MNIST_ONE_DIGIT;
}

/* ---- the ink of the digit ---- */

static void find_bounds(const component *components, uint32_t n, component *box) {
    for (uint32_t i = 0; i < n; i++) {
        const component *one = &components[i];
        if (!one->is_kept) continue;
        box->top = (uint16_t)min_u32(box->top, one->top);
        box->bottom = (uint16_t)max_u32(box->bottom, one->bottom);
        box->left = (uint16_t)min_u32(box->left, one->left);
        box->right = (uint16_t)max_u32(box->right, one->right);
    }
}

/* Dilate by squares of 3; pixels behind the end of a row may be set, too. */
static void dilate_mask(bitmap mask, uint32_t *before) {
    uint32_t n_words = mask.n_words;
    for (uint32_t y = 0; y < mask.height; y++) {
        uint32_t *row = row_of(mask, y), carried = 0;
        for (uint32_t at = 0; at < n_words; at++) {
            uint32_t word = row[at];
            row[at] |= word << 1 | carried | from_right(row, at, n_words);
            carried = word >> 31;
        }
    }
    for (uint32_t at = 0; at < n_words; at++) before[at] = 0;
    for (uint32_t y = 0; y < mask.height; y++) {
        uint32_t *row = row_of(mask, y);
        for (uint32_t at = 0; at < n_words; at++) {
            uint32_t word = row[at];
            row[at] |= before[at] | (y + 1 < mask.height ? row[at + n_words] : 0);
            before[at] = word;
        }
    }
}

/* Scale the ink of a box, 0 where the mask is not set, and move it to the front of the plane. */
static void crop_ink(plane ink, bitmap mask, const component *box, const uint32_t scaled[256]) {
    uint8_t *target = ink.data;
    for (uint32_t y = box->top; y < box->bottom; y++) {
        const uint8_t *levels = ink.data + (size_t)y * ink.width;
        uint32_t end = box->left;
        while (end < box->right) {
            uint32_t behind = end, start;
            find_run(row_of(mask, y), box->right, &start, &end);
            for (; behind < start; behind++) *target++ = 0;
            for (; behind < end; behind++) *target++ = (uint8_t)scaled[levels[behind]];
        }
    }
}

/* Double each pixel if asked, and add a margin, in place: from the end, as nothing moves to the front. */
static void spread(plane digit, uint32_t width, uint32_t height, int is_doubled, uint32_t margin) {
    const uint8_t *source = digit.data + (size_t)width * height;
    for (uint32_t y = digit.height; y--;) {
        uint8_t *row = digit.data + (size_t)y * digit.width;
        if (y < margin || y >= digit.height - margin) {
            fill(row, 0, digit.width);
            continue;
        }
        uint8_t *target = row + digit.width - margin;
        fill(target, 0, margin);
        for (const uint8_t *pixel = source; pixel > source - width;) {
            *--target = *--pixel;
            if (is_doubled) *--target = *pixel;
        }
        fill(row, 0, margin);
        if (!is_doubled || (y - margin) % 2 == 0) source -= width;
    }
}

/* Crop the ink to the mask, and dilate strokes that would be too thin. Both are used up: the digit
 * takes the memory that begins with the ink's. */
static int crop_and_thicken(plane ink, bitmap mask, const component *box, plane *digit,
                            arena from_ink, arena *memory) {
    uint32_t width = width_of(box), height = height_of(box), side = max_u32(width, height);
    uint32_t area, outline, repeat = 1, missing = 0, histogram[256];
    measure_strokes(mask, &area, &outline);
    uint64_t stroke = (uint64_t)200 * BOX_PX * area, unit = (uint64_t)100 * BOX_PX * outline;
    uint64_t least = (uint64_t)MIN_STROKE_PERCENT * side * outline;
    if (side < BOX_PX && stroke < least) {
        repeat = 2;
        stroke *= 2;
        least *= 2;
    }
    if (least > stroke) missing = (uint32_t)((2 * (least - stroke) + unit) / (2 * unit));
    uint32_t margin = (missing + 1) / 2;

    fill(histogram, 0, sizeof histogram);
    for (uint32_t y = box->top; y < box->bottom; y++) {
        const uint8_t *levels = ink.data + (size_t)y * ink.width;
        for (uint32_t start, end = 0; find_run(row_of(mask, y), mask.width, &start, &end);) {
            for (uint32_t x = start; x < end; x++) histogram[levels[x]]++;
        }
    }
    uint32_t full = select_level(histogram, 7 * (area - 1) / 10);
    for (uint32_t level = 0; level < 256; level++) {
        histogram[level] = 25 * level < 3 * full ? 0 : min_u32((510 * level + full) / (2 * full), 255);
    }
    uint32_t *line = take(memory, mask.n_words * sizeof *line);
    if (!line) return EDGE_MNIST_ERROR_SCRATCH;
    dilate_mask(mask, line);
    if (ink.width * ink.height > PHOTO_SIDE_PX * PHOTO_SIDE_PX) dilate_mask(mask, line);
    crop_ink(ink, mask, box, histogram);

    *memory = from_ink;
    digit->width = repeat * width + 2 * margin;
    digit->height = repeat * height + 2 * margin;
    digit->data = take(memory, (size_t)digit->width * digit->height);
    if (!digit->data) return EDGE_MNIST_ERROR_SCRATCH;
    if (repeat == 2 || margin) spread(*digit, width, height, repeat == 2, margin);
    return margin ? dilate(*digit, margin, *memory) : EDGE_MNIST_OK;
}

/* ---- the whole path ---- */

static void downscaled_size(uint32_t width, uint32_t height, uint32_t *new_width,
                            uint32_t *new_height) {
    uint32_t longer = max_u32(width, height), shorter = min_u32(width, height);
    uint64_t square = (uint64_t)WORK_SIDE_PX * WORK_SIDE_PX;
    *new_width = width;
    *new_height = height;
    if (square * longer >= (uint64_t)MAX_STRIP_PX * MAX_STRIP_PX * shorter) {
        if (longer <= MAX_STRIP_PX) return;
        *new_width = max_u32(1, (2 * MAX_STRIP_PX * width + longer) / (2 * longer));
        *new_height = max_u32(1, (2 * MAX_STRIP_PX * height + longer) / (2 * longer));
    } else if ((uint64_t)width * height > square) {
        *new_width = (isqrt(4 * square * width / height) + 1) / 2;
        *new_height = (isqrt(4 * square * height / width) + 1) / 2;
    }
}

static int is_mnist_image(const uint8_t *levels) {
    uint32_t n = SIDE_PX * SIDE_PX, n_inked = 0, n_full = 0, strongest = 0;
    uint32_t mass = 0, moment_x = 0, moment_y = 0, area, outline;
    uint32_t mask[EDGE_MNIST_SIDE_PX];
    if (levels[0]) return 0;
    for (uint32_t i = 0; i < n; i++) {
        n_inked += levels[i] > 0;
        strongest = max_u32(strongest, levels[i]);
    }
    if (strongest < 254 || 2 * n_inked > n) return 0;
    uint32_t top = SIDE_PX, bottom = 0, left = SIDE_PX, right = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t y = i / SIDE_PX, x = i % SIDE_PX, level = levels[i];
        if (!level) continue;
        n_full += level == strongest;
        mass += level;
        moment_x += x * level;
        moment_y += y * level;
        top = min_u32(top, y);
        bottom = y + 1;
        left = min_u32(left, x);
        right = max_u32(right, x + 1);
    }
    if (n_full == n_inked) {
        bitmap whole = {mask, SIDE_PX, SIDE_PX, 1};
        for (uint32_t y = 0; y < SIDE_PX; y++) {
            mask[y] = 0;
            for (uint32_t x = 0; x < SIDE_PX; x++) {
                mask[y] |= (uint32_t)(levels[y * SIDE_PX + x] > 0) << x;
            }
        }
        measure_strokes(whole, &area, &outline);
        if (4 * area < 3 * outline) return 0;
    }
    uint32_t span = max_u32(bottom - top, right - left);
    return (span == BOX_PX || span == BOX_PX - 1) && 134 * mass < 10 * moment_x &&
           10 * moment_x < 146 * mass && 134 * mass < 10 * moment_y && 10 * moment_y < 146 * mass;
}

/* Copy a picture that has the form of an MNIST image already; returns whether it has. */
static int find_mnist_image(view grey, uint8_t *image) {
    if (grey.width != SIDE_PX || grey.height != SIDE_PX) return 0;
    for (uint8_t inversion = 0;; inversion = 255) {
        for (uint32_t i = 0; i < SIDE_PX * SIDE_PX; i++) {
            ptrdiff_t row = (ptrdiff_t)(i / SIDE_PX) * grey.stride;
            image[i] = grey.data[row + (ptrdiff_t)(i % SIDE_PX)] ^ inversion;
        }
        if (is_mnist_image(image)) return 1;
        if (inversion) return 0;
    }
}

/* Find the ink of one digit; `reason` is EDGE_MNIST_BLANK if there is none. */
static int find_ink(view grey, int keep_all, plane *digit, int32_t *reason, arena *memory) {
    plane ink;
    bitmap mask;
    arena from_ink = *memory;
    downscaled_size(grey.width, grey.height, &ink.width, &ink.height);
    ink.data = take(memory, (size_t)ink.width * ink.height);
    if (!ink.data) return EDGE_MNIST_ERROR_SCRATCH;

    *reason = EDGE_MNIST_BLANK;
    if (min_u32(ink.width, ink.height) < MIN_SIDE_PX) return EDGE_MNIST_OK;
    int error = resize_box(grey, ink, *memory);
    if (!error) error = measure_ink(ink, *memory);
    if (error) return error;
    uint32_t threshold = choose_threshold(ink);
    if (threshold == 255) return EDGE_MNIST_OK;
    error = take_bitmap(ink.width, ink.height, &mask, memory);
    if (error) return error;
    set_where_above(ink, threshold, mask);
    arena from_runs = *memory;
    error = remove_ruled_lines(mask, *memory);
    if (error) return error;

    run_list runs;
    error = find_runs(mask, &runs, memory);
    if (error) return error;
    uint32_t n_components = find_components(&runs, ink.height);
    component *components = take(memory, n_components * sizeof *components);
    uint16_t *numbers = take(memory, n_components * sizeof *numbers);
    if (!components || !numbers) return EDGE_MNIST_ERROR_SCRATCH;
    describe_components(components, n_components, &runs, ink);
    n_components = join_fragments(components, n_components, &runs, ink, mask, numbers);
    int found = select_components(components, n_components, &runs, ink, keep_all);
    component box = {0, 0, UINT16_MAX, 0, UINT16_MAX, 0, 0, 0, 0, 0};
    if (found == EDGE_MNIST_BLANK) return EDGE_MNIST_OK;
    find_bounds(components, n_components, &box);
    if (size_of(&box) < MIN_DIGIT_PX) return EDGE_MNIST_OK;
    *reason = found;
    render_mask(components, &runs, mask);
    *memory = from_runs; /* runs and components are done with */
    return crop_and_thicken(ink, mask, &box, digit, from_ink, memory);
}

size_t edge_mnist_scratch_size(int width, int height) {
    uint32_t w, h;
    if (width < 1 || height < 1 || width > EDGE_MNIST_MAX_PICTURE_SIDE_PX ||
        height > EDGE_MNIST_MAX_PICTURE_SIDE_PX) {
        return 0;
    }
    downscaled_size((uint32_t)width, (uint32_t)height, &w, &h);
    size_t longer = max_u32(w, h), side = isqrt(w * h), margin = 19 * longer / 400 + 2;
    size_t bits = 4 * (size_t)count_row_words(w) * h, digit_width = w + 2 * margin;
    size_t n_runs = (size_t)h * ((w + 1) / 2), n_components = n_runs;
    size_t for_resizing = 4 * ((size_t)width + 1) + 18 * (size_t)max_u32(w, SIDE_PX);
    size_t for_polarity = 8 * N_DETAILS + w * (9 + longer / 5 + 7);
    size_t window = 14 * side / 100 + 3; /* of the closing */
    size_t for_background = w * (9 + 3 * (side / 40 + 1) + 5 + 2 * (window + 4)) + 4 * window;
    size_t for_components =
        bits + 8 * n_runs + 2 * ((size_t)h + 1) + (sizeof(component) + 2) * n_components;
    size_t for_lines = 3 * bits;
    size_t for_digit = digit_width * (h + 2 * margin) - (size_t)w * h +
                       max_size(digit_width * (2 * margin + 4) + 4 * margin,
                                4 * (digit_width + 1) + 18 * SIDE_PX);
    size_t most = max_size(for_resizing, max_size(for_polarity, for_background));
    most = max_size(most, max_size(for_components, max_size(for_lines, for_digit)));
    return (size_t)w * h + most + 16 * 8; /* the last for alignment */
}

int edge_mnist_read_framed(const uint8_t *grey, int width, int height, int stride, int framing,
                           edge_mnist_answer *answer, void *scratch, size_t scratch_size) {
    if (!edge_mnist_scratch_size(width, height)) return EDGE_MNIST_ERROR_SIZE;
    if (framing < EDGE_MNIST_FRAME_DIGIT || framing > EDGE_MNIST_FRAME_WHOLE) {
        return EDGE_MNIST_ERROR_FRAMING;
    }
    view picture = {grey, stride, (uint32_t)width, (uint32_t)height};
    arena memory = {scratch, scratch_size};
    plane digit;
    answer->reason = EDGE_MNIST_ONE_DIGIT;
    if (framing == EDGE_MNIST_FRAME_WHOLE) return frame_whole(picture, answer->image, memory);
    if (find_mnist_image(picture, answer->image)) return EDGE_MNIST_OK;
    fill(answer->image, 0, sizeof answer->image);
    int error =
        find_ink(picture, framing == EDGE_MNIST_FRAME_INK, &digit, &answer->reason, &memory);
    if (error || answer->reason == EDGE_MNIST_BLANK) return error;
    return frame_ink(digit, answer->image, memory);
}

int edge_mnist_read(const uint8_t *grey, int width, int height, int stride,
                    edge_mnist_answer *answer, void *scratch, size_t scratch_size) {
    return edge_mnist_read_framed(grey, width, height, stride, EDGE_MNIST_FRAME_DIGIT, answer,
                                  scratch, scratch_size);
}

#endif
