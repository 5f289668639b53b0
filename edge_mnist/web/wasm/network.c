/* The network of a page: the arithmetic of the exported C, compiled once for all networks. */
#include <stdint.h>

/* In place of edge_mnist.h, whose constants are those of one network. */
#define EDGE_MNIST_H
#define EDGE_MNIST_TABLES_ARE_DATA
#define EDGE_MNIST_PIXELS 784
#define EDGE_MNIST_ONE 65536
#define EDGE_MNIST_CLASSES ((int)opened->n_classes)
#define EDGE_MNIST_LAYERS opened->n_layers
typedef void (*edge_mnist_observer)(void *context, int layer, const uint8_t *row, int n_bytes);

#include "../../exporting/c/templates/edge_mnist.c"

/* Takes a network: its data must stay in place. */
void edge_mnist_open_network(const uint8_t *data)
{
    opened = (const network *)data;
    wide = (const int64_t *)(data + opened->wide);
    channels = (const channel *)(data + opened->channels);
    buffers = (const buffer *)(data + opened->buffers);
    layers = (const layer *)(data + opened->layers);
    scales = (const float *)(data + opened->scales);
    steps = (const uint8_t(*)[2])(data + opened->steps);
    weights = (const int8_t *)(data + opened->weights);
}

/* Computes the logits of an image, bit for bit those of ONNX Runtime. The scratch memory has
 * scratch_bytes: the scores, 4 bytes for each class, and then what edge_mnist_classify needs. */
void edge_mnist_compute_logits(const uint8_t *image, float *logits, int32_t *scratch)
{
    int i;
    edge_mnist_classify(image, scratch, scratch + opened->n_classes);
    for (i = 0; i < EDGE_MNIST_CLASSES; i++) {
        logits[i] = (float)scratch[i] * scales[i] / opened->divisor;
    }
}
