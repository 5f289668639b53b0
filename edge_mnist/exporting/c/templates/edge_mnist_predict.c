/* See edge_mnist_predict.h. */
#include "edge_mnist_predict.h"

size_t edge_mnist_predict_scratch_size(int width, int height)
{
    size_t size = edge_mnist_scratch_size(width, height);
    return size == 0 || size > EDGE_MNIST_SCRATCH_BYTES ? size : EDGE_MNIST_SCRATCH_BYTES;
}

int edge_mnist_predict(const uint8_t *grey, int width, int height, int stride,
                       edge_mnist_prediction *prediction, void *scratch, size_t scratch_size)
{
    edge_mnist_answer answer;
    int32_t scores[EDGE_MNIST_CLASSES];
    int error, label;

    error = edge_mnist_read_framed(grey, width, height, stride, EDGE_MNIST_FRAMING, &answer, scratch,
                                   scratch_size);
    if (error != EDGE_MNIST_OK) {
        return error;
    }
    if (scratch_size < EDGE_MNIST_SCRATCH_BYTES) {
        return EDGE_MNIST_ERROR_SCRATCH;
    }
    label = edge_mnist_classify(answer.image, scores, scratch);
    prediction->confidence = edge_mnist_confidence(scores);
    prediction->reason = answer.reason;
    if (answer.reason == EDGE_MNIST_ONE_DIGIT &&
        prediction->confidence < EDGE_MNIST_REJECTION_THRESHOLD) {
        prediction->reason = EDGE_MNIST_NOT_A_DIGIT;
    }
    prediction->label = prediction->reason == EDGE_MNIST_ONE_DIGIT ? label : -1;
    return EDGE_MNIST_OK;
}

const char *edge_mnist_class_name(int label)
{
    static const char *const names[EDGE_MNIST_CLASSES] = EDGE_MNIST_CLASS_NAMES;
    return label >= 0 && label < EDGE_MNIST_CLASSES ? names[label] : NULL;
}

const char *edge_mnist_reason_name(int reason)
{
    static const char *const names[] = {"one digit", "blank", "more than one digit",
                                        "@rejected_reason@"};
    return reason >= 0 && reason <= EDGE_MNIST_NOT_A_DIGIT ? names[reason] : NULL;
}
