/* The tables of a network that is handed in as data; the exported C has constants in their place.
 * Included by edge_mnist.c alone. */
#define EDGE_MNIST_LANES 4
#define EDGE_MNIST_STEPS ((int)opened->n_steps)
#define EDGE_MNIST_SCORES opened->n_tensors
#define EDGE_MNIST_USES_DEPTHWISE 1
#define EDGE_MNIST_USES_MAXPOOL 1
#define EDGE_MNIST_USES_AVERAGEPOOL 1
#define EDGE_MNIST_USES_GLOBALAVERAGEPOOL 1
#define EDGE_MNIST_USES_ADD 1
#define EDGE_MNIST_USES_LOOKUP 1

/* The head of the data, which edge_mnist/exporting/c/data.py writes: little-endian, as are the
 * tables behind it. Places are in bytes from the head, multiples of 8. */
typedef struct {
    uint32_t n_classes, scratch_bytes, n_tensors, n_layers, n_steps;
    float divisor; /* of the logits */
    uint32_t wide, channels, buffers, layers, scales, steps, weights; /* places */
    uint32_t unused;
} network;

static const network *opened;
static const int64_t *wide;
static const channel *channels;
static const buffer *buffers;
static const layer *layers;
static const float *scales; /* of the scores */
static const uint8_t (*steps)[2];
static const int8_t *weights;
