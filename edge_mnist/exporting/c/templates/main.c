/* For a computer: reads images of 784 bytes from stdin, writes for each its class, whether the
 * confidence is sufficient, the confidence, and all logits; with the argument selftest runs the self-test. */
#ifndef ARDUINO /* which compiles every .c of a library */
#include <stdio.h>
#include <string.h>

#include "edge_mnist.h"

static int report_selftest(void)
{
    int found = edge_mnist_selftest();
    if (found == 0) {
        puts("self-test passed");
        return 0;
    }
    printf("self-test failed: image %d, layer %s\n", found / 100, edge_mnist_layer_name(found % 100));
    return 1;
}

int main(int argc, char **argv)
{
    static const float scales[EDGE_MNIST_CLASSES] = EDGE_MNIST_LOGIT_SCALES;
    static const char *const names[EDGE_MNIST_CLASSES] = EDGE_MNIST_CLASS_NAMES;
    static uint8_t image[EDGE_MNIST_PIXELS], scratch[EDGE_MNIST_SCRATCH_BYTES];
    int32_t scores[EDGE_MNIST_CLASSES];
    int i;

    if (argc > 1 && strcmp(argv[1], "selftest") == 0) {
        return report_selftest();
    }
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        int answer = edge_mnist_classify(image, scores, scratch);
        int32_t confidence = edge_mnist_confidence(scores);
        printf("%s %s %.5f", names[answer],
               confidence < EDGE_MNIST_REJECTION_THRESHOLD ? "rejected" : "accepted",
               (double)confidence / EDGE_MNIST_ONE);
        for (i = 0; i < EDGE_MNIST_CLASSES; i++) {
            float logit = (float)scores[i] * scales[i];
            logit = logit / EDGE_MNIST_LOGIT_DIVISOR;
            printf(" %.9g", (double)logit);
        }
        putchar('\n');
    }
    return 0;
}
#else
typedef int edge_mnist_no_program; /* C99 has no empty file */
#endif
