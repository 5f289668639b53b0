/* A board in qemu or simavr. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void print(const char *text);
unsigned count_stack(void); /* bytes that the program has used of its stack so far */

static inline void print_hex(const char *name, uint32_t value)
{
    char text[10];
    int i;
    for (i = 7; i >= 0; i--) {
        text[i] = "0123456789abcdef"[value & 15u];
        value >>= 4;
    }
    text[8] = '\n';
    text[9] = 0;
    print(name);
    print(text);
}

#endif
