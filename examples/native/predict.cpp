// Reads PGM files: predict FILE...
//
//     c++ -std=c++17 predict.cpp -ledge_mnist -o predict
//
// Prints for each its class, or "rejected: " and the reason, and the confidence.
#include <edge_mnist_predict.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    int width = 0, height = 0;
    std::vector<std::uint8_t> levels;
};

static Picture read_pgm(const char *path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int most = 0;
    Picture picture;
    file >> kind >> picture.width >> picture.height >> most;
    if (!file || kind != "P5" || most != 255) throw std::runtime_error("no PGM file of 8 bits");
    file.get();
    picture.levels.assign(std::istreambuf_iterator<char>(file), {});
    if (picture.levels.size() != std::size_t(picture.width) * std::size_t(picture.height))
        throw std::runtime_error("the file is cut");
    return picture;
}

static edge_mnist_prediction predict(const Picture &picture) {
    std::vector<std::uint8_t> scratch(
        edge_mnist_predict_scratch_size(picture.width, picture.height));
    edge_mnist_prediction found;
    int error = edge_mnist_predict(picture.levels.data(), picture.width, picture.height, picture.width,
                                   &found, scratch.data(), scratch.size());
    if (error) throw std::runtime_error("error " + std::to_string(error));
    return found;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        try {
            const edge_mnist_prediction found = predict(read_pgm(argv[i]));
            const std::string name = found.label < 0
                                         ? std::string("rejected: ") + edge_mnist_reason_name(found.reason)
                                         : edge_mnist_class_name(found.label);
            std::printf("%s %.4f\n", name.c_str(), double(found.confidence) / EDGE_MNIST_ONE);
        } catch (const std::exception &error) {
            std::fprintf(stderr, "%s: %s\n", argv[i], error.what());
            failed = 1;
        }
    }
    return failed;
}
