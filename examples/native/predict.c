/* Reads PGM files: predict FILE...
 *
 *     cc predict.c -ledge_mnist -o predict
 *
 * Prints for each its class, or "rejected: " and the reason, and the confidence. */
#include <edge_mnist_predict.h>

#include <stdio.h>
#include <stdlib.h>

/* Return the levels, to be freed; NULL if the file is no such picture. */
static unsigned char *read_pgm(const char *path, int *width, int *height)
{
    unsigned char *levels = NULL;
    int most = 0;
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    if (fscanf(file, "P5 %d %d %d", width, height, &most) == 3 && most == 255 && *width > 0 &&
        *height > 0 && *width < 65536 && *height < 65536 && fgetc(file) != EOF) {
        size_t size = (size_t)*width * (size_t)*height;
        levels = (unsigned char *)malloc(size);
        if (levels && fread(levels, 1, size, file) != size) {
            free(levels);
            levels = NULL;
        }
    }
    fclose(file);
    return levels;
}

static int report(const char *path)
{
    edge_mnist_prediction found;
    int width, height, error = EDGE_MNIST_ERROR_SIZE;
    unsigned char *levels = read_pgm(path, &width, &height);
    if (levels) {
        size_t size = edge_mnist_predict_scratch_size(width, height);
        void *scratch = malloc(size);
        error = scratch ? edge_mnist_predict(levels, width, height, width, &found, scratch, size)
                        : EDGE_MNIST_ERROR_SCRATCH;
        free(scratch);
        free(levels);
    }
    if (error) {
        fprintf(stderr, "%s: error %d\n", path, error);
        return 1;
    }
    if (found.label < 0) printf("rejected: %s", edge_mnist_reason_name(found.reason));
    else printf("%s", edge_mnist_class_name(found.label));
    printf(" %.4f\n", (double)found.confidence / EDGE_MNIST_ONE);
    return 0;
}

int main(int argc, char **argv)
{
    int failed = 0, i;
    for (i = 1; i < argc; i++) failed |= report(argv[i]);
    return failed;
}
