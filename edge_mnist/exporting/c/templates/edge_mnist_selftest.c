/* The self-test: proves on the device that it computes what the model file says. */
#include "edge_mnist.h"

#if defined(__AVR__)
#define FLASH __flash
#else
#define FLASH
#endif

#include "edge_mnist_golden.h"

/* What the observer of one image remembers. */
typedef struct {
    uint32_t crcs[EDGE_MNIST_LAYERS];
} sums;

static void observe(void *context, int layer, const uint8_t *row, int n_bytes)
{
    uint32_t *crc = &((sums *)context)->crcs[layer - 1];
    int i;
    for (i = 0; i < n_bytes; i++) {
        *crc = edge_mnist_crc(*crc, row[i]);
    }
}

static uint32_t crc_of_scores(const int32_t *scores)
{
    uint32_t crc = 0xFFFFFFFFu;
    int i, k;
    for (i = 0; i < EDGE_MNIST_CLASSES; i++) {
        uint32_t score = (uint32_t)scores[i]; /* its lowest byte first, on any machine */
        for (k = 0; k < 4; k++) {
            crc = edge_mnist_crc(crc, (uint8_t)(score & 0xFFu));
            score >>= 8;
        }
    }
    return crc;
}

/* Computes golden image i; returns the first layer that differs, or 0. */
static int test_image(int i, uint8_t *image, void *scratch)
{
    int32_t scores[EDGE_MNIST_CLASSES];
    sums found;
    int k;
    for (k = 0; k < EDGE_MNIST_PIXELS; k++) {
        image[k] = golden_images[i][k];
    }
    for (k = 0; k < EDGE_MNIST_LAYERS; k++) {
        found.crcs[k] = 0xFFFFFFFFu;
    }
    (void)edge_mnist_observe(image, scores, scratch, observe, &found);
    found.crcs[EDGE_MNIST_LAYERS - 1] = crc_of_scores(scores);
    for (k = 0; k < EDGE_MNIST_LAYERS; k++) {
        if (~found.crcs[k] != golden_crcs[i][k]) {
            return k + 1;
        }
    }
    return 0;
}

int edge_mnist_selftest(void)
{
    static uint8_t image[EDGE_MNIST_PIXELS], scratch[EDGE_MNIST_SCRATCH_BYTES];
    int i, layer;
    for (layer = 1; layer <= EDGE_MNIST_LAYERS; layer++) {
        if (edge_mnist_constants_crc(layer) != golden_constants[layer - 1]) {
            return layer;
        }
    }
    for (i = 0; i < GOLDEN_SUMS; i++) {
        FLASH const int32_t *sum = golden_sums[i];
        if (edge_mnist_requantize((int)sum[0], (int)sum[1], sum[2]) != sum[3]) {
            return (int)sum[0];
        }
    }
    for (i = 0; i < GOLDEN_IMAGES; i++) {
        layer = test_image(i, image, scratch);
        if (layer != 0) {
            return 100 * (i + 1) + layer;
        }
    }
    return 0;
}
