/* SPDX-License-Identifier: MIT */
/*
 * All processors hammer shared counters with every kind of locked operation, take turns under three kinds of lock, and
 * send each other interrupts that both ends count. At the end each total must be what the processors have put in.
 * Command line: cpus=N seconds=N. Ends through the debug-exit port: 0x20 when all is well, 0x21 when not.
 */
#include <stdbool.h>
#include <stdint.h>

enum { CPUS = 32, PASS = 0x20, FAIL = 0x21, STALL_SECONDS = 20 };
enum { VEC_IPI = 0x40 /* + sender */, VEC_ALL = 0x80, VEC_SELF = 0x81, VEC_TICK = 0x82 };
#define CROSSING ((uint8_t *)0x40001000) /* where two pages meet whose frames are apart */

struct sums { /* what one processor has put in */
    uint64_t xadd, inc, cas, pair, locked, split;
};
struct cpu {
    struct cpu *self;
    unsigned id;
    uint32_t apic_id;
    struct sums put;
    volatile uint64_t sent[CPUS], got[CPUS];
    volatile uint64_t all_got, self_sent, self_got, nmi_sent, nmi_got, ticks, rounds, naps;
} __attribute__((aligned(64)));

static struct cpu cpus[CPUS];
static volatile uint32_t here, phase, stop, arrived, use_x2apic, x2apic, failed;
static unsigned ncpus = 4, seconds = 10;

static struct {
    volatile uint8_t x8;
    volatile uint16_t x16;
    volatile uint32_t x32;
    volatile uint64_t x64, inc64, cas64;
    volatile uint32_t inc32, cas32;
} __attribute__((aligned(64))) ctr;
static volatile union {
    __int128 whole;
    uint64_t half[2];
} both __attribute__((aligned(16)));
static struct {
    volatile uint32_t bit, word, next, serving;
    uint64_t count[3], shadow[3]; /* plain memory under the lock */
} __attribute__((aligned(64))) lock;
static volatile uint8_t line_split[128] __attribute__((aligned(64)));
static volatile uint64_t published[2] __attribute__((aligned(128))); /* first one, then the other */
static volatile uint64_t all_sent;

/* ---- ports, MSRs, text ---- */

static void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static uint8_t inb(uint16_t port)
{
    uint8_t v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static uint64_t rdmsr(uint32_t msr)
{
    uint32_t a, d;

    __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr));
    return a | (uint64_t)d << 32;
}
static void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}
static struct cpu *me(void)
{
    struct cpu *c;

    __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
    return c;
}

static void print(const char *s)
{
    for (; *s; s++) {
        while (!(inb(0x3fd) & 0x20))
            pause();
        outb(0x3f8, (uint8_t)*s);
    }
}
static void print_num(uint64_t v)
{
    char b[24], *p = b + sizeof(b) - 1;

    *p = 0;
    do
        *--p = (char)('0' + v % 10);
    while (v /= 10);
    print(p);
}
static void report(const char *what, uint64_t is, uint64_t should)
{
    print("  ");
    print(what);
    print(": ");
    print_num(is);
    if (is != should) {
        print(", should be ");
        print_num(should);
        failed = 1;
    }
    print("\n");
}
static _Noreturn void finish(int value)
{
    print(value == PASS ? "smp_hammer: ok\n" : "smp_hammer: FAILED\n");
    outb(0xf4, (uint8_t)value);
    for (;;)
        __asm__ volatile("cli; hlt");
}
static _Noreturn void die(const char *why, uint64_t num)
{
    print("smp_hammer: ");
    print(why);
    print(" ");
    print_num(num);
    print("\n");
    finish(FAIL);
}

/* ---- local APIC, both ways ---- */

#define XAPIC ((volatile uint32_t *)0xfee00000)

static void apic_write(unsigned reg, uint32_t v)
{
    if (x2apic)
        wrmsr(0x800 + (reg >> 4), v);
    else
        XAPIC[reg / 4] = v;
}
static uint32_t apic_read(unsigned reg)
{
    return x2apic ? (uint32_t)rdmsr(0x800 + (reg >> 4)) : XAPIC[reg / 4];
}
static void send(uint32_t dest, uint32_t low)
{
    if (x2apic) {
        wrmsr(0x830, (uint64_t)dest << 32 | low);
        return;
    }
    __asm__ volatile("pushfq; cli" : : : "memory"); /* the two halves belong together */
    while (XAPIC[0x300 / 4] & 1 << 12)
        pause();
    XAPIC[0x310 / 4] = dest << 24;
    XAPIC[0x300 / 4] = low;
    __asm__ volatile("popfq" : : : "memory", "cc");
}
static void apic_enable(void)
{
    apic_write(0xf0, 0x1ff);
    if (!x2apic) {
        apic_write(0xe0, 0xffffffff);
        apic_write(0xd0, 1U << (24 + (me()->id & 7)));
    }
    apic_write(0x80, 0);
    apic_write(0x3e0, 0xb);
    apic_write(0x320, VEC_TICK | 1 << 17);
    apic_write(0x380, 100000000);
    me()->apic_id = x2apic ? apic_read(0x20) : apic_read(0x20) >> 24;
}

void guest_interrupt(uint64_t vec, uint64_t error, uint64_t rip);
void guest_interrupt(uint64_t vec, uint64_t error, uint64_t rip)
{
    struct cpu *c = me();

    if (vec == 2) {
        c->nmi_got++;
        return;
    }
    if (vec < 32) {
        print("smp_hammer: exception ");
        print_num(vec);
        print(" error ");
        print_num(error);
        die("at", rip);
    }
    if (vec >= VEC_IPI && vec < VEC_IPI + CPUS)
        c->got[vec - VEC_IPI]++;
    else if (vec == VEC_ALL)
        c->all_got++;
    else if (vec == VEC_SELF)
        c->self_got++;
    else if (vec == VEC_TICK)
        c->ticks++;
    else
        die("unexpected vector", vec);
    apic_write(0xb0, 0);
}

/* ---- the work ---- */

static void do_xadd(struct cpu *c)
{
    uint8_t a = 1;
    uint16_t b = 1;
    uint32_t d = 1;
    uint64_t q = 1;

    __asm__ volatile("lock xaddb %0, %1" : "+q"(a), "+m"(ctr.x8) : : "cc");
    __asm__ volatile("lock xaddw %0, %1" : "+r"(b), "+m"(ctr.x16) : : "cc");
    __asm__ volatile("lock xaddl %0, %1" : "+r"(d), "+m"(ctr.x32) : : "cc");
    __asm__ volatile("lock xaddq %0, %1" : "+r"(q), "+m"(ctr.x64) : : "cc");
    c->put.xadd++;
}

static void do_inc(struct cpu *c)
{
#ifdef UNLOCKED /* for the test of this test */
    /* A wide window, in which a monitor that yields on PAUSE runs another processor: on a busy host a narrow one may
       never be hit, because the vCPUs' threads hardly overlap. */
    uint64_t q = *(volatile uint64_t *)&ctr.inc64;
    for (int i = 0; i < 64; i++)
        __asm__ volatile("pause");
    *(volatile uint64_t *)&ctr.inc64 = q + 1;
#else
    __asm__ volatile("lock incq %0" : "+m"(ctr.inc64) : : "cc");
#endif
    __asm__ volatile("lock addl $5, %0; lock subl $3, %0; lock decl %0" : "+m"(ctr.inc32) : : "cc");
    c->put.inc++;
}

static void do_cas(struct cpu *c)
{
    uint64_t old = ctr.cas64;
    uint32_t o32 = ctr.cas32;
    bool ok;

    do
        __asm__ volatile("lock cmpxchgq %3, %1" : "=@ccz"(ok), "+m"(ctr.cas64), "+a"(old) : "r"(old + 1));
    while (!ok);
    do
        __asm__ volatile("lock cmpxchgl %3, %1" : "=@ccz"(ok), "+m"(ctr.cas32), "+a"(o32) : "r"(o32 + 1));
    while (!ok);
    c->put.cas++;
}

static void do_pair(struct cpu *c)
{
    uint64_t lo = both.half[0], hi = both.half[1];
    bool ok;

    for (;;) {
        uint64_t nlo = lo + 1, nhi = hi + 3;

        __asm__ volatile("lock cmpxchg16b %1" : "=@ccz"(ok), "+m"(both.whole), "+a"(lo), "+d"(hi) : "b"(nlo), "c"(nhi));
        if (ok)
            break;
        if (hi != lo * 3)
            die("a torn cmpxchg16b: low", lo);
    }
    c->put.pair++;
}

static void under_lock(unsigned k)
{
    if (lock.count[k] != lock.shadow[k])
        die("two processors inside lock", k);
    lock.count[k]++;
    pause();
    lock.shadow[k]++;
}

static void do_locks(struct cpu *c)
{
    bool was;
    uint32_t one, ticket = 1;

    do {
        __asm__ volatile("lock btsl $7, %1" : "=@ccc"(was), "+m"(lock.bit) : : "memory");
        if (was)
            pause();
    } while (was);
    under_lock(0);
    __asm__ volatile("lock btrl $7, %0" : "+m"(lock.bit) : : "cc", "memory");

    for (;;) {
        one = 1;
        __asm__ volatile("xchgl %0, %1" : "+r"(one), "+m"(lock.word) : : "memory");
        if (!one)
            break;
        while (lock.word)
            pause();
    }
    under_lock(1);
    __asm__ volatile("movl $0, %0" : "+m"(lock.word) : : "memory");

    __asm__ volatile("lock xaddl %0, %1" : "+r"(ticket), "+m"(lock.next) : : "memory", "cc");
    while (lock.serving != ticket)
        pause();
    under_lock(2);
    __asm__ volatile("incl %0" : "+m"(lock.serving) : : "memory", "cc");
    c->put.locked++;
}

/* Locked operations across cache lines and across pages. */
static void do_split(struct cpu *c)
{
    uint64_t q = 1, old, new;
    uint32_t d = 1;
    volatile uint64_t *line = (volatile uint64_t *)(uintptr_t)(line_split + 61);
    volatile uint32_t *page = (volatile uint32_t *)(CROSSING - 3);
    volatile uint64_t *cas = (volatile uint64_t *)(uintptr_t)(line_split + 32 - 3);
    bool ok;

    __asm__ volatile("lock xaddq %0, %1" : "+r"(q), "+m"(*line) : : "cc");
    __asm__ volatile("lock xaddl %0, %1" : "+r"(d), "+m"(*page) : : "cc");
    old = *cas;
    do {
        new = old + 1;
        __asm__ volatile("lock cmpxchgq %3, %1" : "=@ccz"(ok), "+m"(*cas), "+a"(old) : "r"(new));
    } while (!ok);
    c->put.split++;
}

/* One processor publishes; the others must never see the second word run ahead of the first. */
static void do_order(struct cpu *c)
{
    if (!c->id) {
        published[0]++;
        __asm__ volatile("" : : : "memory");
        published[1]++;
        return;
    }
    uint64_t b = published[1], a;

    __asm__ volatile("" : : : "memory");
    a = published[0];
    if (a < b)
        die("stores seen out of order", b - a);
}

/* Sends to the next processors whatever they have confirmed; never two of a kind at once, so none may merge. */
static void do_ipi(struct cpu *c)
{
    for (unsigned i = 1; i < ncpus; i++) {
        unsigned to = (c->id + i) % ncpus;

        if (cpus[to].got[c->id] != c->sent[to])
            continue;
        c->sent[to]++;
        if (c->rounds & 1 && !x2apic && ncpus <= 8)
            send(1U << to, (VEC_IPI + c->id) | 1 << 11 | 1 << 14); /* logical, flat */
        else if (c->rounds & 1 && x2apic)
            send((cpus[to].apic_id >> 4) << 16 | 1U << (cpus[to].apic_id & 15), (VEC_IPI + c->id) | 1 << 11 | 1 << 14);
        else
            send(cpus[to].apic_id, (VEC_IPI + c->id) | 1 << 14);
    }
    if (c->self_got == c->self_sent) {
        c->self_sent++;
        if (x2apic && c->rounds & 2)
            wrmsr(0x83f, VEC_SELF);
        else
            send(0, VEC_SELF | 1 << 18 | 1 << 14);
    }
    struct cpu *next = &cpus[(c->id + 1) % ncpus];

    if (c->rounds % 16 == 3 && next->nmi_got == c->nmi_sent) {
        c->nmi_sent++;
        send(next->apic_id, 4 << 8 | 1 << 14);
    }
    if (!c->id) { /* to all but self, once all have had the last one */
        for (unsigned i = 1; i < ncpus; i++)
            if (cpus[i].all_got != all_sent)
                return;
        all_sent++;
        send(0, VEC_ALL | 3 << 18 | 1 << 14);
    }
}

/* Sleeps until the processor before has sent once more: its interrupt must end the HLT. */
static void do_nap(struct cpu *c)
{
    unsigned from = (c->id + ncpus - 1) % ncpus;
    uint64_t seen = c->got[from];

    if (c->rounds % 64 != c->id)
        return;
    __asm__ volatile("cli");
    if (c->got[from] == seen && cpus[from].sent[c->id] != seen && !stop)
        __asm__ volatile("sti; hlt" : : : "memory"); /* sent, not yet taken: HLT ends at once or when it comes */
    __asm__ volatile("sti" : : : "memory");
    c->naps++;
}

static void work(struct cpu *c)
{
    for (unsigned k = 0; k < 16; k++) {
        do_xadd(c);
        do_inc(c);
        do_cas(c);
        do_pair(c);
        do_split(c);
        do_order(c);
    }
    do_locks(c);
    do_ipi(c);
    do_nap(c);
    c->rounds++;
}

/* ---- time: the seconds of the clock chip, so that no frequency need be known ---- */

static uint8_t rtc_second(void)
{
    outb(0x70, 0);
    uint8_t bcd = inb(0x71);
    return (uint8_t)((bcd >> 4) * 10 + (bcd & 15));
}

static void barrier(unsigned number)
{
    __asm__ volatile("lock incl %0" : "+m"(arrived) : : "memory", "cc");
    while (arrived < number * ncpus)
        pause();
}

/* Everything sent must arrive. */
static void drain(struct cpu *c)
{
    uint8_t now = rtc_second();

    for (unsigned waited = 0; waited < STALL_SECONDS;) {
        bool all = c->self_got == c->self_sent && cpus[(c->id + 1) % ncpus].nmi_got == c->nmi_sent;

        for (unsigned i = 0; i < ncpus; i++)
            if (i != c->id)
                all &= cpus[i].got[c->id] == c->sent[i] && (c->id || cpus[i].all_got == all_sent);
        if (all)
            return;
        pause();
        if (!c->id && rtc_second() != now) {
            now = rtc_second();
            waited++;
        }
    }
    die("interrupts did not arrive; sent by", c->id);
}

static void half(struct cpu *c, unsigned length)
{
    if (!c->id) {
        uint8_t now = rtc_second();
        unsigned passed = 0;

        while (passed < length) {
            for (unsigned k = 0; k < 8; k++)
                work(c);
            uint8_t then = now;
            now = rtc_second();
            passed += (now + 60U - then) % 60; /* on a busy host a round may take seconds */
        }
        stop = 1;
    } else {
        while (!stop)
            work(c);
    }
    drain(c);
}

static void run(struct cpu *c)
{
    apic_enable();
    __asm__ volatile("sti");
    barrier(1);
    half(c, seconds / 2);
    barrier(2);
    if (!c->id) {
        stop = 0;
        uint32_t a = 1, b, cx, d;

        __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(cx), "=d"(d));
        if (cx >> 21 & 1)
            use_x2apic = 1;
        else
            print("  this machine has no x2APIC: the second half uses the xAPIC again\n");
    }
    barrier(3);
    __asm__ volatile("cli"); /* nobody touches an APIC while the processors change over */
    barrier(4);
    if (!c->id)
        x2apic = use_x2apic;
    barrier(5);
    if (x2apic) {
        wrmsr(0x1b, rdmsr(0x1b) | 1 << 10);
        apic_enable();
    }
    barrier(6);
    __asm__ volatile("sti");
    half(c, seconds - seconds / 2);
    barrier(7);
}

/* ---- start and end ---- */

struct gate {
    uint16_t lo, sel, attr, mid;
    uint32_t hi, zero;
};
static struct gate idt[256] __attribute__((aligned(16)));
extern char vector_table[], ap_start[], ap_end[];

static void cpu_init(unsigned id)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) ptr = { sizeof(idt) - 1, (uint64_t)idt };

    __asm__ volatile("lidt %0" : : "m"(ptr));
    cpus[id].self = &cpus[id];
    cpus[id].id = id;
    wrmsr(0xc0000101, (uint64_t)&cpus[id]);
}

void guest_ap(unsigned id);
void guest_ap(unsigned id)
{
    if (id >= ncpus)
        die("one processor too many:", id);
    cpu_init(id);
    __asm__ volatile("lock incl %0" : "+m"(here) : : "cc");
    while (!phase)
        pause();
    run(&cpus[id]);
    for (;;)
        __asm__ volatile("hlt");
}

static void parse(const char *s)
{
    for (; *s; s++) {
        unsigned *to = s[0] == 'c' && s[1] == 'p' && s[2] == 'u' && s[3] == 's' && s[4] == '=' ? &ncpus : 0;

        if (s[0] == 's' && s[1] == 'e' && s[2] == 'c' && s[7] == '=')
            to = &seconds;
        if (!to)
            continue;
        while (*s != '=')
            s++;
        for (*to = 0; s[1] >= '0' && s[1] <= '9'; s++)
            *to = *to * 10 + (unsigned)(s[1] - '0');
    }
}

static void start_others(void)
{
    uint8_t now = rtc_second();

    for (char *p = ap_start, *q = (char *)0x8000; p < ap_end;)
        *q++ = *p++;
    apic_write(0xf0, 0x1ff);
    send(0, 0xc4500); /* INIT, then SIPI twice, to all but self */
    for (unsigned k = 0; k < 2; k++) {
        for (volatile unsigned w = 0; w < 100000; w++)
            pause();
        send(0, 0xc4608);
    }
    for (unsigned waited = 0; here != ncpus - 1;) {
        pause();
        if (rtc_second() != now) {
            now = rtc_second();
            if (++waited > STALL_SECONDS)
                die("other processors that came:", here);
        }
    }
}

static void check(void)
{
    struct sums t = { 0, 0, 0, 0, 0, 0 };
    uint64_t ipis = 0, got = 0, rounds = 0, naps = 0;

    for (unsigned i = 0; i < ncpus; i++) {
        t.xadd += cpus[i].put.xadd;
        t.inc += cpus[i].put.inc;
        t.cas += cpus[i].put.cas;
        t.pair += cpus[i].put.pair;
        t.locked += cpus[i].put.locked;
        t.split += cpus[i].put.split;
        rounds += cpus[i].rounds;
        naps += cpus[i].naps;
        for (unsigned k = 0; k < ncpus; k++) {
            ipis += cpus[i].sent[k];
            got += cpus[i].got[k];
        }
    }
    report("xadd 64", ctr.x64, t.xadd);
    report("xadd 32", ctr.x32, (uint32_t)t.xadd);
    report("xadd 16", ctr.x16, (uint16_t)t.xadd);
    report("xadd 8", ctr.x8, (uint8_t)t.xadd);
    report("inc 64", ctr.inc64, t.inc);
    report("add, sub, dec 32", ctr.inc32, (uint32_t)t.inc);
    report("cmpxchg 64", ctr.cas64, t.cas);
    report("cmpxchg 32", ctr.cas32, (uint32_t)t.cas);
    report("cmpxchg16b low", both.half[0], t.pair);
    report("cmpxchg16b high", both.half[1], 3 * t.pair);
    report("bit lock", lock.count[0], t.locked);
    report("xchg lock", lock.count[1], t.locked);
    report("ticket lock", lock.count[2], t.locked);
    report("across lines", *(volatile uint64_t *)(uintptr_t)(line_split + 61), t.split);
    report("misaligned", *(volatile uint64_t *)(uintptr_t)(line_split + 29), t.split);
    report("across pages", *(volatile uint32_t *)(CROSSING - 3), (uint32_t)t.split);
    report("interrupts between processors", got, ipis);
    print("  rounds ");
    print_num(rounds);
    print(", naps ");
    print_num(naps);
    print(", broadcasts ");
    print_num(all_sent);
    print("\n");
}

void guest_main(const uint32_t *info);
void guest_main(const uint32_t *info)
{
    if (info[0] & 4)
        parse((const char *)(uintptr_t)info[4]);
    if (ncpus < 1 || ncpus > CPUS || seconds < 2)
        die("cpus= or seconds= is out of range; cpus", ncpus);
    for (unsigned i = 0; i < 256; i++) {
        uint64_t a = (uint64_t)vector_table + 16 * i;

        idt[i] = (struct gate){ (uint16_t)a, 0x10, 0x8e00, (uint16_t)(a >> 16), (uint32_t)(a >> 32), 0 };
    }
    outb(0x21, 0xff); /* nothing from the PICs */
    outb(0xa1, 0xff);
    cpu_init(0);
    print("smp_hammer: processors ");
    print_num(ncpus);
    print(", seconds ");
    print_num(seconds);
    print("\n");
    start_others();
    phase = 1;
    run(&cpus[0]);
    check();
    finish(failed ? FAIL : PASS);
}
