/* SPDX-License-Identifier: MIT */
/*
 * What windows do about faults: sites that fault again and again are adapted, and the page of a fault that the guest
 * was told of is there when it returns. The results must be those of the interpreter, which has no windows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>

#include "engine_tests.h"
#include "host/uffd.h"
#include "user_machine.h"

enum { ROUNDS = 200, DEVICE = 256, SITES = 9, PAGES = 32, PF_HANDLER = 0xa800, FRESH = 0x1c0000 };
/* A large page, its entry, a function in it, and the frames that it gets later. */
enum { LARGE = 0x400000, LARGE_PDE = 0x10010, LARGE_CODE = LARGE + 0x5800, LARGE_NEXT = 0x600000, LARGE_PAGES = 64 };

#define GUEST(name, text)                                                                                              \
    __asm__(".pushsection .rodata\n.intel_syntax noprefix\nwin_" #name ":\n" text "\nwin_" #name                       \
            "_end:\n.att_syntax\n.popsection\n");                                                                      \
    extern const uint8_t win_##name[], win_##name##_end[]

/* Each kind of access goes to the device (RSI) and, in the same block, by the same code or beside it, to RAM (R8). */
GUEST(device, ".Ldev: mov rax, [rsi]\n"
              "add rbx, rax\n"
              "mov [rsi + 8], rbx\n"
              "add [rsi + 16], ecx\n"
              "add [r8 + 16], ecx\n"
              "push qword ptr [rsi + 24]\n"
              "pop rdx\n"
              "lea r9, [rdx + rax]\n"
              "movzx r10d, byte ptr [rsi + rcx + 32]\n"
              "add [r8 + 24], r10\n"
              "movdqu xmm0, [rsi + 16]\n"
              "paddd xmm0, xmm1\n"
              "movdqu [r8 + 32], xmm0\n"
              "lea rdi, [rsi + 40]\n"
              "stosd\n"
              "fild dword ptr [rsi + 16]\n"
              "fistp dword ptr [r8 + 48]\n"
              "mov r11, rsp\n"
              "lea rsp, [rsi + 64]\n"
              "push rbx\n"
              "mov rsp, r11\n"
              "dec ecx\n"
              "jnz .Ldev\n"
              "hlt\n");

/* Writes to pages that are not there; the handler of page faults, at CPL 0, makes each present. */
GUEST(touch, ".Ltouch: add [rdi], rcx\n"
             "mov rax, [rdi]\n"
             "add rbx, rax\n"
             "add rdi, 0x1000\n"
             "dec ecx\n"
             "jnz .Ltouch\n"
             "hlt\n");
GUEST(handler, "push rax\n"
               "mov rax, cr2\n"
               "shr rax, 12\n"
               "or byte ptr [rax * 8 + 0x6000], 0x61\n" /* IM_PT: P, A, D */
               "pop rax\n"
               "add rsp, 8\n"
               "iretq\n");
/*
 * All over a large page: reads, writes, calls of a function in it, which is then modified; and, when the page's frames
 * were changed by the handler of a page fault, reads again.
 */
GUEST(large, "mov r15d, 2\n"
             ".Lagain: mov rsi, rdi\n"
             "mov ecx, 64\n"
             ".Llarge: add rbx, [rsi]\n"
             "call r13\n"
             "add [rsi], rcx\n"
             "add rsi, 0x1000\n"
             "dec ecx\n"
             "jnz .Llarge\n"
             "add byte ptr [r13 + 3], 1\n"
             "dec r15d\n"
             "jnz .Lagain\n"
             "mov rax, [r14]\n"
             "mov ecx, 64\n"
             ".Lnext: add rdx, [rdi]\n"
             "add rdi, 0x1000\n"
             "dec ecx\n"
             "jnz .Lnext\n"
             "hlt\n");
GUEST(function, "add r12, 1\n"
                "ret\n");
GUEST(remap, "push rax\n"
             "mov rax, cr2\n"
             "shr rax, 12\n"
             "or byte ptr [rax * 8 + 0x6000], 0x61\n"
             "mov qword ptr [0x10010], 0x6000e7\n" /* LARGE_PDE: LARGE_NEXT */
             "invlpg [0x403000]\n"                 /* any address in it does */
             "pop rax\n"
             "add rsp, 8\n"
             "iretq\n");
/* Reads from 32 pieces of 512 GiB each, again and again. */
GUEST(slots, ".Lslots: mov rsi, rdi\n"
             "mov ecx, 32\n"
             ".Lslot: add rbx, [rsi]\n"
             "add rsi, r8\n"
             "dec ecx\n"
             "jnz .Lslot\n"
             "dec edx\n"
             "jnz .Lslots\n"
             "hlt\n");

static int set_up(void **state)
{
    struct im *t = vm_new_smp(*state, 1);

    um_open(t);
    *state = t;
    return 0;
}
static int tear_down(void **state)
{
    im_free(*state);
    return 0;
}

static void load(struct im *t, gpa_t at, const uint8_t *code, const uint8_t *end)
{
    im_load(t, at, code, (size_t)(end - code));
}

static struct cpu_state *start(struct im *t, uint64_t rounds)
{
    struct cpu_state *c = im_edit(t);

    memset(c->gpr, 0, 16 * sizeof(c->gpr[0]));
    um_set_cpl(t, 3);
    c->rip = IM_CODE;
    c->rflags = X86_FL_1;
    c->gpr[X86_RSP] = IM_STACK;
    c->gpr[X86_RCX] = rounds;
    return c;
}

/* ---- counters ---- */

struct counter {
    const char *name;
    uint64_t value;
};

static void find(void *arg, const char *name, uint64_t value)
{
    struct counter *c = arg;

    if (!strcmp(name, c->name))
        c->value = value;
}

static uint64_t counter(const struct im *t, const char *name)
{
    struct counter c = { .name = name };

    t->v.ops->stats(&t->v, find, &c);
    return c.value;
}

/* ---- sites ---- */

struct result {
    uint64_t gpr[16], accesses;
    uint8_t device[DEVICE], ram[64];
};

/* Runs the code against a device that is plain memory but for its first bytes, which count. */
static void run_device(struct im *t, struct result *r)
{
    struct vcpu_exit *e = &t->v.exit;
    struct cpu_state *c = start(t, ROUNDS);

    memset(r, 0, sizeof(*r));
    c->gpr[X86_RSI] = IM_MMIO;
    c->gpr[X86_R8] = IM_DATA;
    for (unsigned k = 24; k < DEVICE; k++)
        r->device[k] = (uint8_t)(k * 7);
    im_done(t);
    load(t, IM_CODE, win_device, win_device_end);
    while (im_run(t) == EXIT_MMIO) {
        uint64_t off = e->io.addr - IM_MMIO;

        assert_in_range(off, 0, DEVICE - e->io.len);
        if (!off && !e->io.write)
            r->device[0]++;
        if (e->io.write)
            memcpy(r->device + off, &e->io.data, e->io.len);
        else
            memcpy(&e->io.data, r->device + off, e->io.len);
        r->accesses++;
    }
    assert_true(um_at_end(t));
    memcpy(r->gpr, t->c->gpr, sizeof(r->gpr));
    mem_read(t->v.mem, IM_DATA, r->ram, sizeof(r->ram));
}

static void test_device(void **state)
{
    struct im *t = *state, *by;
    struct result got, want;
    void *p = (void *)&engine_interp;

    set_up(&p);
    by = p;
    run_device(by, &want);
    im_free(by);
    run_device(t, &got);
    assert_memory_equal(&got, &want, sizeof(got));
    if (t->v.ops != &engine_translate_window)
        return;
    assert_int_equal(counter(t, "adapted_sites"), SITES);
    assert_in_range(counter(t, "windows.misses"), 16 * SITES, 20 * SITES);
}

/* The page of the code is written: its sites are innocent again, for they are other instructions now. */
static void test_innocent_again(void **state)
{
    struct im *t = *state;
    struct result first, second;

    run_device(t, &first);
    mem_write(t->v.mem, IM_DATA, (uint8_t[64]){ 0 }, 64);
    run_device(t, &second);
    assert_memory_equal(first.device, second.device, sizeof(first.device));
    assert_int_equal(counter(t, "adapted_sites"), 2 * SITES);
}

/* ---- page faults ---- */

static void test_return(void **state)
{
    struct im *t = *state;
    uint64_t gate = PF_HANDLER | 8UL << 16 | 0x8eUL << 40, sum = 0;

    load(t, PF_HANDLER, win_handler, win_handler_end);
    load(t, IM_CODE, win_touch, win_touch_end);
    im_put64(t, IM_IDT + 16 * X86_PF, gate);
    for (unsigned k = 0; k < PAGES; k++) {
        im_put64(t, FRESH + k * PAGE_SIZE, k);
        im_put64(t, IM_PT + 8 * ((FRESH >> 12) + k), (FRESH + k * PAGE_SIZE) | 6);
        sum += k + PAGES - k;
    }
    im_put64(t, IM_GDT + 24, 0x00affb000000ffffUL); /* what IRET goes back to */
    im_put64(t, IM_GDT + 32, 0x00cff3000000ffffUL);
    struct cpu_state *c = start(t, PAGES);
    c->gpr[X86_RDI] = FRESH;
    c->seg[X86_CS].sel = 24 | 3;
    c->seg[X86_SS_SEG].sel = 32 | 3;
    im_done(t);
    im_run(t);
    assert_true(um_at_end(t));
    assert_int_equal(t->c->gpr[X86_RBX], sum);
    for (unsigned k = 0; k < PAGES; k++)
        assert_int_equal(im_get64(t, FRESH + k * PAGE_SIZE), PAGES);
    if (t->v.ops != &engine_translate_window)
        return;
    assert_int_equal(counter(t, "windows.filled_on_return"), PAGES);
    assert_int_equal(counter(t, "adapted_sites"), 0);
    assert_in_range(counter(t, "windows.misses"), PAGES, PAGES + 4); /* the stack, and what is told of */
}

/* ---- large pages ---- */

static void run_large(struct im *t)
{
    load(t, PF_HANDLER, win_remap, win_remap_end);
    load(t, IM_CODE, win_large, win_large_end);
    load(t, LARGE_CODE, win_function, win_function_end);
    im_put64(t, IM_IDT + 16 * X86_PF, PF_HANDLER | 8UL << 16 | 0x8eUL << 40);
    im_put64(t, LARGE_PDE, LARGE | 0x87);
    im_put64(t, IM_PT + 8 * (FRESH >> 12), FRESH | 6);
    for (unsigned k = 0; k < LARGE_PAGES; k++) {
        im_put64(t, LARGE + k * PAGE_SIZE, 3 * k);
        im_put64(t, LARGE_NEXT + k * PAGE_SIZE, 5 * k);
    }
    im_put64(t, IM_GDT + 24, 0x00affb000000ffffUL);
    im_put64(t, IM_GDT + 32, 0x00cff3000000ffffUL);
    struct cpu_state *c = start(t, 0);
    c->gpr[X86_RDI] = LARGE;
    c->gpr[X86_R13] = LARGE_CODE;
    c->gpr[X86_R14] = FRESH;
    c->seg[X86_CS].sel = 24 | 3;
    c->seg[X86_SS_SEG].sel = 32 | 3;
    im_done(t);
    im_run(t);
    assert_true(um_at_end(t));
    assert_int_equal(t->c->gpr[X86_R12], LARGE_PAGES * 3);
    assert_int_equal(t->c->gpr[X86_RBX],
                     2 * 3 * (LARGE_PAGES * (LARGE_PAGES - 1) / 2) + LARGE_PAGES * (LARGE_PAGES + 1) / 2);
    assert_int_equal(t->c->gpr[X86_RDX], 5 * (LARGE_PAGES * (LARGE_PAGES - 1) / 2));
    for (unsigned k = 0; k < LARGE_PAGES; k++) {
        assert_int_equal(im_get64(t, LARGE + k * PAGE_SIZE), 3 * k + 2 * (LARGE_PAGES - k));
        assert_int_equal(im_get64(t, LARGE_NEXT + k * PAGE_SIZE), 5 * k);
    }
    assert_true(im_get64(t, LARGE_PDE) == (LARGE_NEXT | 0xe7));
}

static void test_large(void **state)
{
    struct im *t = *state;
    int uffd = uffd_open();

    run_large(t);
    if (t->v.ops == &engine_translate_window) {
        assert_in_range(counter(t, "windows.large_pages_mapped"), 2, 3);
        assert_in_range(counter(t, "windows.pages_protected_by_userfaultfd"), uffd >= 0, uffd >= 0 ? 8 : 0);
        assert_in_range(counter(t, "windows.misses"), 1, 16);
    }
    if (uffd >= 0)
        close(uffd);
    else
        print_message("userfaultfd: not here, so only mprotect was tested\n");
}

static void test_large_mprotect(void **state)
{
    struct im *t = *state;

    t->v.tuning.no_uffd = true;
    run_large(t);
    if (t->v.ops == &engine_translate_window) {
        assert_in_range(counter(t, "windows.large_pages_mapped"), 2, 3);
        assert_int_equal(counter(t, "windows.pages_protected_by_userfaultfd"), 0);
    }
}

/* ---- more address space than windows ---- */

static void test_slots(void **state)
{
    struct im *t = *state;
    enum { TIMES = 2000, USED = 32 };

    for (unsigned k = 1; k < USED; k++)
        im_put64(t, 0x1000 + 8 * k, im_get64(t, 0x1000));
    im_put64(t, IM_DATA, 3);
    load(t, IM_CODE, win_slots, win_slots_end);
    struct cpu_state *c = start(t, 0);
    c->gpr[X86_RDI] = IM_DATA;
    c->gpr[X86_RDX] = TIMES;
    c->gpr[X86_R8] = 1UL << 39;
    im_done(t);
    im_run(t);
    assert_true(um_at_end(t));
    assert_int_equal(t->c->gpr[X86_RBX], 3 * USED * TIMES);
    if (t->v.ops == &engine_translate_window) /* not one for each access */
        assert_in_range(counter(t, "host_faults"), 0, 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_device, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_return, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_slots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large_mprotect, set_up, tear_down),
        { .name = "test_innocent_again",
          .test_func = test_innocent_again,
          .setup_func = set_up,
          .teardown_func = tear_down,
          .initial_state = (void *)&engine_translate_window },
    };
    return ENGINE_TESTS_RUN("test_window", tests);
}
