#!/bin/sh
# Compile the picture path to WebAssembly, with clang and lld 14: sh build_wasm.sh OUTPUT
set -eu
exec clang-14 --target=wasm32 -std=c99 -O3 -fno-unroll-loops -ffreestanding -nostdlib -mbulk-memory \
    -Wl,--no-entry -Wl,--strip-all -Wl,--export=__heap_base \
    -Wl,--export=edge_mnist_scratch_size -Wl,--export=edge_mnist_read_framed \
    "$(dirname "$0")/reader.c" -o "$1"
