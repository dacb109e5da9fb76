/* A shop that takes orders, ITEM CENTS on each line of its input, and says how many there were and what they came to.
 *
 *     gcc -O2 -o shop shop.c
 *     yes 'tea 250' | ./shop
 */
#include <stdio.h>
#include <sys/sdt.h>

int main(void) {
    char item[32];
    int cents;
    long orders = 0, total = 0;
    while (scanf("%31s %d", item, &cents) == 2) {
        DTRACE_PROBE2(shop, order, item, cents);
        orders++;
        total += cents;
        printf("%ld %ld\n", orders, total);
        fflush(stdout);
    }
    return 0;
}
