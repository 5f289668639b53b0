/* Reads the grey frames of frames.h, which lie in flash as those of a camera would lie in its buffer,
 * and prints what it finds. */
#include "board.h"
#include "edge_mnist_predict.h"
#include "frames.h" /* static const uint8_t frames[N_FRAMES][FRAME_HEIGHT * FRAME_WIDTH] */

static uint8_t scratch[EDGE_MNIST_PREDICT_CAMERA_SCRATCH_BYTES(FRAME_WIDTH, FRAME_HEIGHT)];

int main(void)
{
    edge_mnist_prediction found = {0, 0, 0};
    int i;
    for (i = 0; i < N_FRAMES; i++) {
        int error = edge_mnist_predict(frames[i], FRAME_WIDTH, FRAME_HEIGHT, FRAME_WIDTH, &found,
                                       scratch, sizeof scratch);
        print_hex("error ", (uint32_t)error);
        print_hex("class ", (uint32_t)found.label);
        print_hex("confidence ", (uint32_t)found.confidence);
        print_hex("reason ", (uint32_t)found.reason);
    }
    print_hex("stack ", count_stack());
    return 0;
}
