/* SPDX-License-Identifier: MIT */
/* Stub processes: each kind of trap, state in and out, hostile code; and the scan of code that may run in them. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu/translate/direct.h"
#include "host/stub.h"

enum { RAM = 1 << 20, PAGE = 4096, CODE = 0x400000, DATA = 0x500000, VECTOR_PF = 14, VECTOR_UD = 6, VECTOR_BP = 3 };

struct fix {
    int fd;
    uint8_t *ram;
    struct stub *s;
    struct stub_regs r;
    struct stub_trap t;
};

static int setup(void **state)
{
    static struct fix f;
    int err;

    memset(&f, 0, sizeof(f));
    f.fd = memfd_create("ram", MFD_CLOEXEC);
    assert_true(f.fd >= 0 && !ftruncate(f.fd, RAM));
    f.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
    assert_ptr_not_equal(f.ram, MAP_FAILED);
    err = stub_new(&f.s, f.fd, false);
    if (err) {
        print_message("skipped: this host gives no stub process: %s\n", strerror(-err));
        f.s = NULL;
    }
    f.r = (struct stub_regs){ .rip = CODE, .rflags = 0x202, .cs = 0x33, .ss = 0x2b };
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    stub_free(f->s);
    munmap(f->ram, RAM);
    close(f->fd);
    return 0;
}

static struct fix *with_code(void **state, const char *code, size_t len)
{
    struct fix *f = *state;

    if (!f->s)
        skip();
    memcpy(f->ram, code, len);
    stub_map(f->s, CODE, PAGE, PROT_READ | PROT_EXEC, 0);
    return f;
}
#define CODE_IS(state, text) with_code(state, text, sizeof(text) - 1)

static void run(struct fix *f, int sig)
{
    assert_int_equal(stub_run(f->s, &f->r, &f->t), 0);
    assert_int_equal(f->t.sig, sig);
}

static void test_system_call(void **state)
{
    struct fix *f = CODE_IS(state, "\x0f\x05\xcd\x80");

    f->r.gpr[0] = 60; /* exit */
    f->r.gpr[15] = 0x1234567890;
    run(f, SIGSYS);
    assert_int_equal(f->r.rip, CODE + 2);
    assert_int_equal(f->r.gpr[0], 60);
    assert_int_equal(f->r.gpr[15], 0x1234567890);
    f->r.gpr[0] = 1;
    run(f, SIGSYS); /* int 80h */
    assert_int_equal(f->r.rip, CODE + 4);
    assert_int_equal(f->r.gpr[0], 1);
    assert_int_equal(f->t.call, CODE + 4);
}

static void test_page_fault(void **state)
{
    struct fix *f = CODE_IS(state, "\x48\x89\x07\x48\x8b\x1f"); /* mov [rdi], rax; mov rbx, [rdi] */

    f->r.gpr[7] = DATA + 8;
    f->r.gpr[0] = 77;
    run(f, SIGSEGV);
    assert_int_equal(f->t.vector, VECTOR_PF);
    assert_int_equal(f->t.cr2, DATA + 8);
    assert_int_equal(f->t.error & 2, 2);
    assert_int_equal(f->r.rip, CODE);
    stub_map(f->s, DATA, PAGE, PROT_READ, PAGE);
    run(f, SIGSEGV);
    stub_map(f->s, DATA, PAGE, PROT_READ | PROT_WRITE, PAGE);
    run(f, SIGSEGV); /* behind the code: zeros, add [rax], al */
    assert_int_equal(f->r.gpr[3], 77);
    assert_memory_equal(f->ram + PAGE + 8, "\x4d\0\0\0\0\0\0\0", 8);
    stub_unmap(f->s, DATA, PAGE);
    f->r.rip = CODE + 3;
    run(f, SIGSEGV);
    assert_int_equal(f->t.cr2, DATA + 8);
    stub_unmap_all(f->s);
    run(f, SIGSEGV);
    assert_int_equal(f->t.cr2, CODE + 3);
    assert_int_equal(f->t.error & 16, 16);
}

/* What the host will not map: guest code does not run, whether or not the orders had to be sent before. */
static void test_refused(void **state)
{
    struct fix *f = CODE_IS(state, "\x0f\x05");

    f->r.gpr[0] = 39;
    stub_map(f->s, DATA, PAGE, PROT_READ, 1);
    assert_int_equal(stub_run(f->s, &f->r, &f->t), -ENOMEM);
    assert_int_equal(f->r.rip, CODE);
    assert_int_equal(stub_run(f->s, &f->r, &f->t), -ENOMEM);
}

static void test_exceptions(void **state)
{
    struct fix *f = CODE_IS(state, "\x0f\x0b\xcc\xf4\xf7\xf1"); /* ud2; int3; hlt; div ecx */

    run(f, SIGILL);
    assert_int_equal(f->t.vector, VECTOR_UD);
    assert_int_equal(f->r.rip, CODE);
    f->r.rip = CODE + 2;
    run(f, SIGTRAP);
    assert_int_equal(f->t.vector, VECTOR_BP);
    assert_int_equal(f->r.rip, CODE + 3);
    run(f, SIGSEGV);
    assert_int_equal(f->t.vector, 13);
    f->r.rip = CODE + 4;
    f->r.gpr[1] = 0;
    run(f, SIGFPE);
    assert_int_equal(f->r.rip, CODE + 4);
}

static void test_kick(void **state)
{
    struct fix *f = CODE_IS(state, "\xeb\xfe");

    stub_kick(f->s);
    run(f, SIGUSR1);
    assert_int_equal(f->r.rip, CODE);
}

static void test_state(void **state)
{
    /* rdfsbase rax; rdgsbase rbx; vaddps ymm1, ymm1, ymm1; fld1; stc; std; syscall */
    struct fix *f = CODE_IS(state, "\xf3\x48\x0f\xae\xc0\xf3\x48\x0f\xae\xcb\xc5\xf4\x58\xc9\xd9\xe8\xf9\xfd\x0f\x05");
    uint32_t size;
    uint8_t *x = stub_xsave(f->s, &size);
    const float two = 2;
    uint64_t bv = 7;
    uint16_t fsw;
    float got;

    memcpy(x + 512, &bv, 8);
    memcpy(x + 160 + 16, &two, 4);
    memcpy(x + 576 + 16 + 12, &two, 4);
    f->r.fs_base = 0x7f0011223000;
    f->r.gs_base = 0x7f0011224000;
    run(f, SIGSYS);
    assert_int_equal(f->r.gpr[0], 0x7f0011223000);
    assert_int_equal(f->r.gpr[3], 0x7f0011224000);
    assert_int_equal(f->r.fs_base, 0x7f0011223000);
    assert_int_equal(f->r.rflags & 0x401, 0x401);
    x = stub_xsave(f->s, &size);
    memcpy(&got, x + 160 + 16, 4);
    assert_true(got == 4);
    memcpy(&got, x + 576 + 16 + 12, 4);
    assert_true(got == 4);
    memcpy(&fsw, x + 2, 2);
    assert_int_equal(fsw >> 11 & 7, 7);
}

static struct stub *volatile kicked;

static void on_alarm(int sig)
{
    (void)sig;
    if (kicked)
        stub_kick(kicked);
}

/* Guest code that calls into the stub's own code: whatever comes of it, the monitor gets a trap or hears of the end. */
static void test_hostile(void **state)
{
    struct fix *f = CODE_IS(state, "\xff\xe0"); /* jmp rax */
    const struct itimerval each = { .it_interval.tv_usec = 500, .it_value.tv_usec = 500 }, stop = { 0 };
    unsigned lost = 0;

    kicked = f->s;
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &each, NULL);
    for (uint64_t at = stub_begin; at < stub_begin + 0x500; at++) {
        f->r.rip = CODE;
        f->r.gpr[0] = at;
        f->r.gpr[4] = stub_end - 0x1000; /* a stack in what it may write */
        if (stub_run(f->s, &f->r, &f->t)) {
            lost++;
            kicked = NULL;
            stub_free(f->s);
            assert_int_equal(stub_new(&f->s, f->fd, false), 0);
            kicked = f->s;
            stub_map(f->s, CODE, PAGE, PROT_READ | PROT_EXEC, 0);
            f->r = (struct stub_regs){ .rflags = 0x202, .cs = 0x33, .ss = 0x2b };
        }
    }
    setitimer(ITIMER_REAL, &stop, NULL);
    kicked = NULL;
    f->r = (struct stub_regs){ .rip = CODE, .rflags = 0x202, .cs = 0x33, .ss = 0x2b };
    f->r.gpr[0] = 1; /* and it still does what it should, perhaps after the last kick */
    do
        assert_int_equal(stub_run(f->s, &f->r, &f->t), 0);
    while (f->t.sig == SIGUSR1 && f->r.rip == CODE);
    assert_int_equal(f->t.sig, SIGSEGV);
    assert_int_equal(f->t.cr2, 1);
    assert_true(lost < 64);
    print_message("%u of %u ended the stub\n", lost, 0x500);
}

static bool fits(const char *code, size_t len, unsigned at, const uint16_t *known, unsigned nknown)
{
    static uint8_t page[PAGE];
    struct xl_code_page c = { .page = page, .xsave = true, .known = known, .nknown = nknown };

    memset(page, 0x90, sizeof(page));
    memcpy(page + at, code, len);
    return xl_direct_scan(&c);
}
#define FITS(code) fits(code, sizeof(code) - 1, 1000, NULL, 0)

static void test_scan(void **state)
{
    const uint16_t at = 1000;

    (void)state;
    assert_true(FITS("\x90"));
    assert_false(FITS("\x0f\xa2"));             /* CPUID */
    assert_false(FITS("\x0f\x01\xf9"));         /* RDTSCP */
    assert_false(FITS("\x0f\x01\xd9"));         /* VMMCALL */
    assert_false(FITS("\xb8\x0f\x01\xd9\x00")); /* also inside of another instruction */
    assert_false(FITS("\x0f\x01\xd0"));         /* XGETBV */
    assert_false(FITS("\xf3\x0f\xc7\xf8"));     /* RDPID */
    assert_true(FITS("\x0f\xc7\xf8"));          /* RDSEED */
    assert_false(FITS("\x66\x0f\x00\xc8"));     /* STR */
    assert_false(FITS("\x48\x0f\x03\xc1"));     /* LSL with a prefix */
    assert_true(FITS("\xe8\x00\x0f\x00\x00"));  /* a displacement */
    assert_true(FITS("\x48\xc7\xc0\x0f\xa2\x00\x00"));
    assert_false(fits("\x0f\xa2", 2, 0, NULL, 0));
    assert_true(fits("\x0f\xa2", 2, 1000, &at, 1)); /* it can be patched */
}

/* What begins on one page and ends on the next. */
static void test_seam(void **state)
{
    static uint8_t left[PAGE], right[PAGE];

    (void)state;
    memset(left, 0x90, sizeof(left));
    left[PAGE - 1] = 0x0f;
    right[0] = 0xa2; /* CPUID */
    assert_false(xl_direct_seam(left, right, true));
    right[0] = 0xaf;
    assert_true(xl_direct_seam(left, right, true));
    right[0] = 0xa2;
    left[PAGE - 2] = 0xe8; /* a displacement */
    assert_true(xl_direct_seam(left, right, true));
    memcpy(left + PAGE - 2, "\x0f\x01", 2);
    right[0] = 0xf9; /* RDTSCP */
    assert_false(xl_direct_seam(left, right, true));
    right[0] = 0xd9; /* VMMCALL, which counts anywhere */
    left[PAGE - 3] = 0xe8;
    assert_false(xl_direct_seam(left, right, true));
    right[0] = 0xf9;
    assert_true(xl_direct_seam(left, right, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_system_call, setup, teardown),
        cmocka_unit_test_setup_teardown(test_page_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exceptions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kick, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test(test_scan),
        cmocka_unit_test(test_seam),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
