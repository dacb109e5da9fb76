/* Takes a mutex as often as each line of its input says, and keeps count of how often it had to wait, and for how long.
 *
 *     gcc -O2 -pthread -o shop-threads shop-threads.c
 *     yes '50 2 1' | ./shop-threads
 *
 * "FREE ORDERS RETURNS": take_order takes the mutex FREE times while nobody has it; then take_order ORDERS times and
 * take_return RETURNS times while the cashier has it. The answer: all locks so far, and waits and nanoseconds of take_order
 * and of take_return.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline))

struct account {
    long waits;
    long nanoseconds;
};

static pthread_mutex_t till = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t meeting;
static long locks;
static struct account orders, returns;

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

APART void take_order(void) {
    pthread_mutex_lock(&till);
    locks++;
    pthread_mutex_unlock(&till);
}

APART void take_return(void) {
    pthread_mutex_lock(&till);
    locks++;
    pthread_mutex_unlock(&till);
}

/* Takes the mutex whenever it meets the main thread, and gives it back some time after somebody has begun to wait. */
static void *cashier(void *unused) {
    (void)unused;
    for (;;) {
        pthread_barrier_wait(&meeting);
        pthread_mutex_lock(&till);
        locks++;
        pthread_barrier_wait(&meeting);
        while (__atomic_load_n((int *)&till, __ATOMIC_RELAXED) != 2) sched_yield(); /* 2: taken, and somebody waits */
        usleep(100);
        pthread_mutex_unlock(&till);
    }
    return NULL;
}

static void wait_for(void (*take)(void), long times, struct account *account) {
    for (long i = 0; i < times; i++) {
        pthread_barrier_wait(&meeting);
        pthread_barrier_wait(&meeting); /* now the cashier has it */
        long begin = now();
        take();
        account->nanoseconds += now() - begin;
        account->waits++;
    }
}

int main(void) {
    pthread_t thread;
    long free_ones, order_waits, return_waits;
    pthread_barrier_init(&meeting, NULL, 2);
    pthread_create(&thread, NULL, cashier, NULL);
    while (scanf("%ld %ld %ld", &free_ones, &order_waits, &return_waits) == 3) {
        for (long i = 0; i < free_ones; i++) take_order();
        wait_for(take_order, order_waits, &orders);
        wait_for(take_return, return_waits, &returns);
        printf("%ld %ld %ld %ld %ld\n", locks, orders.waits, orders.nanoseconds, returns.waits, returns.nanoseconds);
        fflush(stdout);
    }
    return 0;
}
