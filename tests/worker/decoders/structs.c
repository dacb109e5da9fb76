/* Prints structs: for each a line "struct NAME BYTES", for its members "field NAME OFFSET SIZE DECODERS TEXT", where
   TEXT is what this program, or libc, says that the member holds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <resolv.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <unistd.h>

/* What the compiler leaves between members is noise in a key that a probe copied from a stack. */
#define NOISE 0xa5
#define NEW(type, variable) type variable; memset(&variable, NOISE, sizeof variable)

#define STRUCT(name, variable) print_struct(name, &(variable), sizeof (variable))
#define FIELD(type, member, decoders, ...) \
    (printf("field\t%s\t%zu\t%zu\t%s\t", #member, offsetof(type, member), sizeof(((type *)0)->member), decoders), \
     printf(__VA_ARGS__), printf("\n"))

static void print_struct(const char *name, const void *begin, size_t size) {
    printf("struct\t%s\t", name);
    for (size_t i = 0; i < size; i++) printf("%02x", ((const unsigned char *)begin)[i]);
    printf("\n");
}

/* One of each integer, so that there is padding of every length; and the same without any. */
#define MEMBERS \
    char c; int i; signed char d; long l; unsigned char u; short s; unsigned char v; unsigned long w; \
    unsigned short x; unsigned y; char tail;
struct loose { MEMBERS };
struct __attribute__((packed)) tight { MEMBERS };

#define INTEGERS(type, name) \
    do { \
        NEW(type, n); \
        n.c = -1; n.i = -2147483647 - 1; n.d = 127; n.l = -9223372036854775807L - 1; n.u = 255; n.s = -32768; \
        n.v = 1; n.w = 18446744073709551615UL; n.x = 65535; n.y = 4294967295U; n.tail = 'A'; \
        STRUCT(name, n); \
        FIELD(type, c, "int", "%d", n.c); \
        FIELD(type, i, "int", "%d", n.i); \
        FIELD(type, d, "int", "%d", n.d); \
        FIELD(type, l, "int", "%ld", n.l); \
        FIELD(type, u, "uint", "%u", n.u); \
        FIELD(type, s, "int", "%d", n.s); \
        FIELD(type, v, "uint static_map", "one"); \
        FIELD(type, w, "uint", "%lu", n.w); \
        FIELD(type, x, "uint", "%u", n.x); \
        FIELD(type, y, "uint", "%u", n.y); \
        FIELD(type, tail, "string", "%c", n.tail); \
    } while (0)

static void sockets(void) {
    char text[INET6_ADDRSTRLEN];

    NEW(struct sockaddr_in, v4);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(8080);
    inet_pton(AF_INET, "192.0.2.33", &v4.sin_addr);
    STRUCT("sockaddr_in", v4);
    FIELD(struct sockaddr_in, sin_family, "uint", "%d", AF_INET);
    FIELD(struct sockaddr_in, sin_port, "hex", "%04x", 8080);
    FIELD(struct sockaddr_in, sin_addr, "inet_ip", "%s", inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text));

    NEW(struct sockaddr_in6, v6);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(53);
    v6.sin6_flowinfo = htonl(0xbeef);
    inet_pton(AF_INET6, "2001:db8:0:0:1::7", &v6.sin6_addr);
    v6.sin6_scope_id = if_nametoindex("lo");
    STRUCT("sockaddr_in6", v6);
    FIELD(struct sockaddr_in6, sin6_family, "uint", "%d", AF_INET6);
    FIELD(struct sockaddr_in6, sin6_port, "hex", "%04x", 53);
    FIELD(struct sockaddr_in6, sin6_flowinfo, "hex", "%08x", 0xbeef);
    FIELD(struct sockaddr_in6, sin6_addr, "inet_ip", "%s", inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text));
    FIELD(struct sockaddr_in6, sin6_scope_id, "ifname", "%s", if_indextoname(v6.sin6_scope_id, text));
}

static void times(void) {
    NEW(struct timeval, before_1970);
    before_1970.tv_sec = -3;
    before_1970.tv_usec = 999999;
    STRUCT("timeval", before_1970);
    FIELD(struct timeval, tv_sec, "int", "%ld", (long)before_1970.tv_sec);
    FIELD(struct timeval, tv_usec, "int", "%ld", (long)before_1970.tv_usec);
}

static void files(const char *path, const char *name, const char *cgroup) {
    struct stat status, device;
    if (stat(path, &status) || stat("/dev/null", &device)) exit(1);
    status.st_rdev = device.st_rdev;
    STRUCT(name, status);
    FIELD(struct stat, st_dev, "majorminor", "%u:%u", major(status.st_dev), minor(status.st_dev));
    if (cgroup) FIELD(struct stat, st_ino, "cgroup", "%s", cgroup);
    else FIELD(struct stat, st_ino, "uint", "%lu", (unsigned long)status.st_ino);
    FIELD(struct stat, st_mode, "uint", "%u", status.st_mode);
    FIELD(struct stat, st_rdev, "majorminor", "1:3");

    struct opened { unsigned char flag; uint32_t kernels_dev; char path[24]; };
    NEW(struct opened, opened);
    opened.flag = 1;
    opened.kernels_dev = major(status.st_dev) << 20 | minor(status.st_dev);
    snprintf(opened.path, sizeof opened.path, "/srv/shop/x.html");
    STRUCT("opened", opened);
    FIELD(struct opened, flag, "uint", "1");
    FIELD(struct opened, kernels_dev, "majorminor", "%u:%u", major(status.st_dev), minor(status.st_dev));
    FIELD(struct opened, path, "string regexp", "shop");
}

#define CALL(name) SYS_##name, #name
static void calls(void) {
    struct call { short thread; long number; int error; int again; long result; };
    const struct { long number; const char *name; } numbers[] = {{CALL(openat)}, {CALL(execve)}, {CALL(bpf)}};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        NEW(struct call, call);
        call.thread = i;
        call.number = numbers[i].number;
        open("/nonexistent/file", O_RDONLY);
        call.error = errno;
        call.again = call.number;
        call.result = -EWOULDBLOCK;
        STRUCT(numbers[i].name, call);
        FIELD(struct call, thread, "int", "%d", call.thread);
        FIELD(struct call, number, "syscall", "%s", numbers[i].name);
        FIELD(struct call, error, "errno", "%s", strerrorname_np(call.error));
        FIELD(struct call, again, "syscall", "%s", numbers[i].name);
        FIELD(struct call, result, "errno", "%s", strerrorname_np(EAGAIN));
    }

    struct failure { int error; long returned; };
    for (int number = 1; number < 134; number++) {
        const char *name = strerrorname_np(number);
        if (!name) continue;
        NEW(struct failure, failure);
        failure.error = number;
        failure.returned = -number;
        STRUCT(name, failure);
        FIELD(struct failure, error, "errno", "%s", name);
        FIELD(struct failure, returned, "errno", "%s", name);
    }
}

static void names(const char *name) {
    struct question { unsigned short id; unsigned char flags; unsigned char name[64]; unsigned short type; };
    char text[256];
    NEW(struct question, question);
    question.id = htons(0x1234);
    question.flags = 1;
    if (dn_comp(name, question.name, sizeof question.name, NULL, NULL) < 0) exit(1);
    if (dn_expand(question.name, question.name + 64, question.name, text, sizeof text) < 0) exit(1);
    question.type = htons(28);
    STRUCT("question", question);
    FIELD(struct question, id, "hex", "1234");
    FIELD(struct question, flags, "hex", "01");
    FIELD(struct question, name, "dname", "%s", *text ? text : ".");
    FIELD(struct question, type, "hex", "001c");
}

static void signals(int number, const char *name) {
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, number);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    kill(getpid(), number);
    NEW(siginfo_t, received);
    if (sigwaitinfo(&wanted, &received) != number) exit(1);
    STRUCT(name, received);
    FIELD(siginfo_t, si_signo, "signal", "%s", name);
    FIELD(siginfo_t, si_errno, "errno", "%d", received.si_errno);
    FIELD(siginfo_t, si_code, "int", "%d", SI_USER);
    FIELD(siginfo_t, si_pid, "uint", "%d", getpid());

    struct sent { int to; unsigned char number; long as_long; };
    NEW(struct sent, sent);
    sent.to = 0;
    sent.number = sent.as_long = number;
    STRUCT(name, sent);
    FIELD(struct sent, to, "signal", "0");
    FIELD(struct sent, number, "signal", "%s", name);
    FIELD(struct sent, as_long, "signal", "%s", name);
}

static void code(void) {
    struct allocation { char kind; void *caller; int stack; char tail; };
    NEW(struct allocation, allocation);
    allocation.kind = 'm';
    allocation.caller = (void *)signals;
    allocation.stack = 7;
    allocation.tail = 0;
    STRUCT("allocation", allocation);
    FIELD(struct allocation, kind, "string", "m");
    FIELD(struct allocation, caller, "usym", "at %p", allocation.caller);
    FIELD(struct allocation, stack, "ustack", "at 0x1007");
    FIELD(struct allocation, tail, "uint", "0");
}

int main(int count, char **arguments) {
    INTEGERS(struct loose, "loose");
    INTEGERS(struct tight, "tight");
    sockets();
    times();
    files("/", "stat", NULL);
    if (count == 3) files(arguments[1], "stat of a cgroup", arguments[2]);
    calls();
    names("www.example.org");
    names("a-label-of-its-own.x--y.test");
    names("");
    for (int number = 1; number < 32; number++) {
        char name[16];
        snprintf(name, sizeof name, "SIG%s", number == SIGIO ? "IO" : sigabbrev_np(number)); /* glibc: SIGPOLL */
        if (number != SIGKILL && number != SIGSTOP) signals(number, name);
    }
    signals(SIGRTMIN, "SIGRTMIN");
    signals(SIGRTMIN + 3, "SIGRTMIN+3");
    code();
    return 0;
}
