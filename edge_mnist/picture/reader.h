/* The picture path in C: from grey levels of any size to the model's input.
 *
 * Freestanding C99: no allocation, no library, no floating point, no global state. It computes what
 * `edge_mnist.picture` computes in Python, level for level.
 */
#ifndef EDGE_MNIST_READER_H
#define EDGE_MNIST_READER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_MNIST_SIDE_PX 28
#define EDGE_MNIST_MAX_PICTURE_SIDE_PX 65535

/* Why a picture does not show exactly one digit. */
enum { EDGE_MNIST_ONE_DIGIT = 0, EDGE_MNIST_BLANK = 1, EDGE_MNIST_MORE_THAN_ONE_DIGIT = 2 };

/* What is framed: one digit; all the ink; the whole picture as it is. */
enum { EDGE_MNIST_FRAME_DIGIT = 0, EDGE_MNIST_FRAME_INK = 1, EDGE_MNIST_FRAME_WHOLE = 2 };

/* Results of the functions below. */
enum {
    EDGE_MNIST_OK = 0,
    EDGE_MNIST_ERROR_SIZE = -1,    /* width or height is not 1 to 65,535 */
    EDGE_MNIST_ERROR_SCRATCH = -2, /* the scratch buffer is too small for this picture */
    EDGE_MNIST_ERROR_FRAMING = -3  /* there is no such framing */
};

typedef struct {
    uint8_t image[EDGE_MNIST_SIDE_PX * EDGE_MNIST_SIDE_PX]; /* 0 = background, 255 = full ink */
    int32_t reason; /* EDGE_MNIST_ONE_DIGIT, _BLANK or _MORE_THAN_ONE_DIGIT */
} edge_mnist_answer;

/* Return the size of a scratch buffer that suffices for every picture of a size, in bytes; 0 if
 * there is no such picture. Most pictures need a sixth of it: a smaller buffer may be handed in, and
 * gives EDGE_MNIST_ERROR_SCRATCH where it does not suffice. */
size_t edge_mnist_scratch_size(int width, int height);

/* The size of a scratch buffer for the frames of a camera, from 64 x 64 to 320 x 240: for paper with
 * writing, in shadow and with noise. Only what is dotted all over with hundreds of specks needs more,
 * and gives EDGE_MNIST_ERROR_SCRATCH. */
#define EDGE_MNIST_CAMERA_SCRATCH_BYTES(width, height) ((width) * (height) * 13 / 8 + 3584)

/* Find the ink of one digit and bring it to the form of an MNIST image.
 *
 * grey: the level of the pixel in row y and column x is grey[y * stride + x]; ink is darker than the
 *     background or lighter. A negative stride reads the rows upwards.
 * scratch: memory of any alignment that the function may write to.
 */
int edge_mnist_read(const uint8_t *grey, int width, int height, int stride,
                    edge_mnist_answer *answer, void *scratch, size_t scratch_size);

/* The same with another framing than EDGE_MNIST_FRAME_DIGIT. */
int edge_mnist_read_framed(const uint8_t *grey, int width, int height, int stride, int framing,
                           edge_mnist_answer *answer, void *scratch, size_t scratch_size);

#ifdef __cplusplus
}
#endif

#endif
