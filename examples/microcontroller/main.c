/* Runs the self-test, then classifies the images of images.h, and prints scores, memory and time. */
#include "board.h"
#include "edge_mnist.h"

#if defined(__AVR__)
#define FLASH __flash
#define main run
#else
#define FLASH
#endif

#include "images.h" /* static FLASH const uint8_t images[N_IMAGES][784] */

static uint8_t image[EDGE_MNIST_PIXELS], scratch[EDGE_MNIST_SCRATCH_BYTES];

#if defined(COUNT_INSTRUCTIONS)
/* With -icount shift=0 qemu takes a nanosecond for an instruction; SysTick counts 25 MHz. */
#define SYSTICK ((volatile uint32_t *)0xE000E010)
static void start_clock(void)
{
    SYSTICK[1] = 0xFFFFFFu;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
}

static uint32_t read_clock(void)
{
    return (0xFFFFFFu - SYSTICK[2]) * 40u;
}
#endif

int main(void)
{
    int32_t scores[EDGE_MNIST_CLASSES];
    int i, k;
    for (i = 0; i < N_IMAGES; i++) {
        for (k = 0; k < EDGE_MNIST_PIXELS; k++) {
            image[k] = images[i][k];
        }
#if defined(COUNT_INSTRUCTIONS)
        start_clock();
#endif
        print_hex("class ", (uint32_t)edge_mnist_classify(image, scores, scratch));
#if defined(COUNT_INSTRUCTIONS)
        print_hex("instructions ", read_clock());
#endif
        for (k = 0; k < EDGE_MNIST_CLASSES; k++) {
            print_hex("score ", (uint32_t)scores[k]);
        }
        print_hex("confidence ", (uint32_t)edge_mnist_confidence(scores));
    }
    print_hex("stack ", count_stack());
#if !defined(NO_SELFTEST)
    print_hex("selftest ", (uint32_t)(int32_t)edge_mnist_selftest());
#endif
    return 0;
}
