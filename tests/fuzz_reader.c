/* Fuzzing of reader.c with libFuzzer: any size from 0 to 4096, stride, framing and scratch size.
 *
 *     clang-14 -g -O2 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
 *         tests/fuzz_reader.c edge_mnist/picture/reader.c -o fuzz_reader
 *     ./fuzz_reader -runs=1000000 -max_len=4096 -timeout=30
 *
 * The picture lies in a buffer of its exact extent, so that AddressSanitizer sees every read outside
 * it; where the input ends, its levels are repeated.
 */
#include <stdlib.h>

#include "../edge_mnist/picture/reader.h"

enum { HEADER_BYTES = 8 };

/* Most pictures are small, so that many are read in a second, and few have more pixels than 128 x 128.
 * The sum of the input decides, which the fuzzer cannot learn to choose. */
static int choose_size(const uint8_t *data, uint32_t sum, int *width, int *height) {
    int limit = sum % 64 == 1 ? 4097 : sum % 16 == 2 ? 128 : 40;
    int most = sum % 4096 == 1 ? 4096 * 4096 : 128 * 128;
    *width = (data[1] | data[2] << 8) % limit;
    *height = (data[3] | data[4] << 8) % limit;
    if (*width && *height > most / *width) *height = most / *width;
    return *width && *height;
}

/* Rows that lie apart, rows that overlap, and one row for all. */
static int choose_stride(const uint8_t *data, int width) {
    switch (data[7] >> 2 & 3) {
    case 0: return data[5] * 17;
    case 1: return 0;
    default: return width + data[5] % 9;
    }
}

/* Fill the picture with the rest of the input, over and over. */
static void fill_levels(const uint8_t *data, size_t size, uint8_t *grey, size_t n) {
    for (size_t i = 0, at = 0; i < n; i++) {
        grey[i] = size ? data[at] : 0;
        if (++at >= size) at = 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    uint8_t data[HEADER_BYTES] = {0};
    edge_mnist_answer answer;
    int width, height;
    size_t n_header = size < HEADER_BYTES ? size : HEADER_BYTES;
    for (size_t i = 0; i < n_header; i++) data[i] = input[i];
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++) sum = (sum ^ input[i]) * 16777619u;
    sum ^= sum >> 15;
    int has_pixels = choose_size(data, sum, &width, &height), stride = choose_stride(data, width);
    int framing = data[6] % 4, is_upward = data[7] & 1, is_cut = data[7] & 2;
    size_t scratch_size = edge_mnist_scratch_size(width, height);
    if (is_cut) scratch_size = scratch_size * data[5] / 255;
    size_t last_row = has_pixels ? (size_t)(height - 1) * (size_t)stride : 0;
    size_t n = has_pixels ? last_row + (size_t)width : 0;
    uint8_t *grey = malloc(n ? n : 1), *scratch = malloc(scratch_size ? scratch_size : 1);
    fill_levels(input + n_header, size - n_header, grey, n);
    int error = edge_mnist_read_framed(is_upward ? grey + last_row : grey, width, height,
                                       is_upward ? -stride : stride, framing, &answer, scratch,
                                       scratch_size);
    if (!error && (answer.reason < 0 || answer.reason > 2)) abort();
    if (error == EDGE_MNIST_ERROR_SCRATCH && !is_cut) abort(); /* the stated size suffices */
    free(grey);
    free(scratch);
    return 0;
}
