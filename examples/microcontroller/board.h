/* A board in qemu or simavr. */
#ifndef BOARD_H
#define BOARD_H

void print(const char *text);
unsigned count_stack(void); /* bytes that the program has used of its stack so far */

#endif
