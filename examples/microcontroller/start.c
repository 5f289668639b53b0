/* What a program needs on a bare Cortex-M or RISC-V in qemu: a stack, cleared memory, and a way to
 * print and to end (semihosting). */
#include "board.h"

extern char bss_begin[], bss_end[], stack_begin[], stack_end[];
int main(void);

#define PAINT 0xA5

static long call_host(long operation, const void *argument)
{
#if defined(__arm__)
    register long r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#else
    register long a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(".option push\n.option norvc\n.balign 16\n"
                     "slli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
#endif
}

void print(const char *text)
{
    (void)call_host(0x04, text); /* SYS_WRITE0 */
}

unsigned count_stack(void)
{
    const volatile char *place = stack_begin;
    while (*place == (char)PAINT) {
        place++;
    }
    return (unsigned)(stack_end - (const char *)place);
}

/* Ends the program with exit status 1, after whatever fault of the processor. */
#if defined(__arm__)
static void fail(void)
{
    print("fault\n");
    (void)call_host(0x18, (const void *)0x20023); /* SYS_EXIT, ADP_Stopped_RunTimeErrorUnknown */
    for (;;) {
    }
}
#endif

void start(void)
{
    volatile char *place;
    char here;
    for (place = bss_begin; place < bss_end; place++) {
        *place = 0;
    }
    for (place = stack_begin; place < &here - 64; place++) {
        *place = (char)PAINT;
    }
    main();
    (void)call_host(0x18, (const void *)0x20026); /* SYS_EXIT, ADP_Stopped_ApplicationExit */
    for (;;) {
    }
}

#if defined(__arm__)
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    stack_end, (const void *)start, (const void *)fail, (const void *)fail}; /* NMI, HardFault */
#else
__attribute__((section(".vectors"), naked, used)) void entry(void)
{
    __asm__ volatile("la sp, stack_end\nj start");
}
#endif
