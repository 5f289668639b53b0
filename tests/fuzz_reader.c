/* Fuzzing of reader.c with libFuzzer: any size up to 4096, stride, framing and scratch size.
 *
 *     clang-14 -g -O2 -fsanitize=fuzzer,address,undefined tests/fuzz_reader.c \
 *         edge_mnist/picture/reader.c -o fuzz_reader
 *     ./fuzz_reader -runs=1000000 -max_len=4096
 *
 * The picture lies in a buffer of its exact extent, so that AddressSanitizer sees every read outside
 * it; where the input ends, its levels are repeated.
 */
#include <stdlib.h>

#include "../edge_mnist/picture/reader.h"

enum { HEADER_BYTES = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    edge_mnist_answer answer;
    if (size <= HEADER_BYTES) return -1;
    /* Most are small, and none has more pixels than 512 x 512, so that many are read in a second. */
    int limit = data[0] == 255 ? 4097 : data[0] % 16 == 0 ? 256 : 48;
    int width = (data[1] | data[2] << 8) % limit, height = (data[3] | data[4] << 8) % limit;
    if (width && height > (512 * 512) / width) height = (512 * 512) / width;
    int stride = width + data[5] % 9, framing = data[6] % 4, is_upward = data[7] & 1;
    size_t scratch_size = edge_mnist_scratch_size(width, height);
    if (data[7] & 2) scratch_size = scratch_size * data[5] / 255;
    size_t n = width && height ? (size_t)(height - 1) * (size_t)stride + (size_t)width : 0;
    uint8_t *grey = malloc(n ? n : 1), *scratch = malloc(scratch_size ? scratch_size : 1);
    for (size_t i = 0; i < n; i++) grey[i] = data[HEADER_BYTES + i % (size - HEADER_BYTES)];
    const uint8_t *first = is_upward && n ? grey + (size_t)(height - 1) * (size_t)stride : grey;
    int error = edge_mnist_read_framed(first, width, height, is_upward ? -stride : stride, framing,
                                       &answer, scratch, scratch_size);
    if (!error && (answer.reason < 0 || answer.reason > 2)) abort();
    if (error == EDGE_MNIST_ERROR_SCRATCH && !(data[7] & 2)) abort(); /* the stated size suffices */
    free(grey);
    free(scratch);
    return 0;
}
