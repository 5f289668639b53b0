/* The same for an AVR in simavr: it prints what the program sends to the serial port, and ends when
 * the processor sleeps with interrupts off. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#include "board.h"

int run(void);

void print(const char *text)
{
    UCSR0B = 1 << TXEN0;
    for (; *text; text++) {
        while (!(UCSR0A & (1 << UDRE0))) {
        }
        UDR0 = *text;
    }
}

unsigned count_stack(void)
{
    return 0;
}

int main(void)
{
    run();
    cli();
    sleep_mode();
    return 0;
}
