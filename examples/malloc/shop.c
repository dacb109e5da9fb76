/* Allocates memory for each line on stdin, and answers with how often each function asked for it so far, and for how much:
 *
 *     gcc -O2 -o shop shop.c
 *     while sleep 0.2; do echo; done | ./shop
 *
 * It allocates nothing for itself: what stdio needs, it gets from us. */
#include <stdio.h>
#include <stdlib.h>

#define APART __attribute__((noinline, noclone))
enum { PARSE_ORDER, OPEN_SESSION, GROW_BASKET, RENDER_PAGE, FUNCTIONS };

static const char *const names[FUNCTIONS] = {"parse_order", "open_session", "grow_basket", "render_page"};
static unsigned long calls[FUNCTIONS], bytes[FUNCTIONS];

/* Given back at once; the caller goes on afterwards, so that its call of malloc is not made a jump. */
static void *volatile kept;
static void count(int function, size_t size) {
    calls[function]++;
    bytes[function] += size;
}

APART void parse_order(size_t size) {
    kept = malloc(size);
    count(PARSE_ORDER, size);
    free(kept);
}

APART void open_session(void) {
    kept = calloc(3, 100);
    count(OPEN_SESSION, 300);
    free(kept);
}

APART void grow_basket(void) {
    kept = malloc(16);
    count(GROW_BASKET, 16);
    for (size_t size = 32; size <= 4096; size *= 2) {
        kept = realloc(kept, size);
        count(GROW_BASKET, size);
    }
    free(kept);
}

APART void render_page(void) {
    kept = malloc(20000);
    count(RENDER_PAGE, 20000);
    free(kept);
}

int main(void) {
    static char input[4096], output[4096];
    char line[64];
    setvbuf(stdin, input, _IOFBF, sizeof input);
    setvbuf(stdout, output, _IOFBF, sizeof output);
    while (fgets(line, sizeof line, stdin)) {
        for (size_t size = 0; size < 70; size++) parse_order(size);
        for (int i = 0; i < 5; i++) open_session();
        for (int i = 0; i < 3; i++) grow_basket();
        for (int i = 0; i < 10; i++) render_page();
        for (int i = 0; i < FUNCTIONS; i++) printf("%s=%lu,%lu|", names[i], calls[i], bytes[i]);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
