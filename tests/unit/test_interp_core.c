/* SPDX-License-Identifier: MIT */
/*
 * An engine's core on hand-written programs: faults that change nothing, self-modifying code, page crossings,
 * stepping, break and watch points, replayed I/O, the block cache under pressure.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine_tests.h"
#include "interp_machine.h"

static int set_up(void **state)
{
    *state = im_new(*state);
    return 0;
}
static int tear_down(void **state)
{
    im_free(*state);
    return 0;
}

/* The translator does not count what it executes. */
static void assert_insns(const struct im *t, uint64_t n)
{
    if (t->v.ops == &engine_interp)
        assert_int_equal(t->v.stats.insns, n);
}

static void test_straight(void **state)
{
    struct im *t = *state;
    /* mov eax, 40; add eax, 2; mov rbx, -1; add rbx, 1; hlt */
    assert_int_equal(IM_EXEC(t, "\xb8\x28\0\0\0\x83\xc0\x02\x48\xc7\xc3\xff\xff\xff\xff\x48\x83\xc3\x01\xf4"),
                     EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX], 42);
    assert_int_equal(t->c->gpr[X86_RBX], 0);
    assert_int_equal(t->c->rflags & X86_FL_ARITH, X86_FL_CF | X86_FL_ZF | X86_FL_PF | X86_FL_AF);
    assert_int_equal(t->c->rip, IM_CODE + 20);
    assert_insns(t, 5);
}

static void test_fault_state(void **state)
{
    struct im *t = *state;

    /* mov ecx, 5; xor edx, edx; mov eax, 7; xor ebx, ebx; div ebx (#DE) */
    assert_int_equal(IM_EXEC(t, "\xb9\x05\0\0\0\x31\xd2\xb8\x07\0\0\0\x31\xdb\xf7\xf3\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_DE);
    assert_int_equal(im_frame(t, 0), IM_CODE + 14);
    assert_int_equal(t->c->gpr[X86_RAX], 7);
    assert_insns(t, 4 + 1); /* up to the division, and the handler's HLT */
    /* #PF on the store of `add [rbx], eax` to a read-only page: flags and memory stay */
    im_put64(t, IM_PT + 8 * (IM_DATA >> 12), IM_DATA | 1);
    im_put64(t, IM_DATA, 1);
    im_edit(t)->gpr[X86_RBX] = IM_DATA;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x31\xc0\xb8\xff\xff\xff\xff\x01\x03\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_PF);
    assert_int_equal(im_frame(t, 0), X86_PF_P | X86_PF_W);
    assert_int_equal(im_frame(t, 1), IM_CODE + 7);
    assert_int_equal(t->c->cr2, IM_DATA);
    assert_true(im_frame(t, 3) & X86_FL_ZF); /* of the xor */
    assert_int_equal(im_get64(t, IM_DATA), 1);
}

/* ---- self-modifying and changed code ---- */

static void test_smc_ahead(void **state)
{
    struct im *t = *state;
    /* mov byte [rip+1], 9 changes the immediate of the next instruction of the same block: mov al, 1; hlt */
    assert_int_equal(IM_EXEC(t, "\xc6\x05\x01\0\0\0\x09\xb0\x01\xf4"), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX] & 0xff, 9);
    assert_insns(t, 3);
}

static void test_smc_loop(void **state)
{
    struct im *t = *state;
    /*
     * mov ecx, 100; xor eax, eax
     * l: add eax, 0 (imm8 at +9); inc byte [rip - 7] (that imm8); dec ecx; jnz l; hlt
     * adds 0 + 1 + ... + 99
     */
    static const char code[] = "\xb9\x64\0\0\0\x31\xc0\x83\xc0\x00\xfe\x05\xf9\xff\xff\xff\xff\xc9\x75\xf3\xf4";

    assert_int_equal(IM_EXEC(t, code), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX], 4950);
    assert_insns(t, 2 + 400 + 1);
}

static void test_code_changed_outside(void **state)
{
    struct im *t = *state;

    for (int k = 0; k < 50; k++) {
        char code[] = "\xb8\x00\0\0\0\xf4";
        code[1] = (char)k;
        assert_int_equal(IM_EXEC(t, code), EXIT_HLT);
        assert_int_equal(t->c->gpr[X86_RAX], k);
    }
}

/* Another linear address of the same page sees the store too. */
static void test_smc_alias(void **state)
{
    struct im *t = *state;

    im_put64(t, IM_PT + 8 * (IM_DATA >> 12), IM_CODE | 3);
    im_edit(t)->gpr[X86_RBX] = IM_DATA;
    im_done(t);
    /* mov byte [rbx+4], 7; mov al, 1; hlt */
    assert_int_equal(IM_EXEC(t, "\xc6\x43\x05\x07\xb0\x01\xf4"), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX] & 0xff, 7);
}

static void test_cross_page_insn(void **state)
{
    struct im *t = *state;
    uint64_t at = IM_CODE + 0xffd;

    /* mov eax, imm32 with its last two bytes on the next page; hlt */
    im_load(t, at, "\xb8\x11\x22\x33\x44\xf4", 6);
    for (int k = 0; k < 3; k++) {
        im_edit(t)->rip = at;
        im_done(t);
        assert_int_equal(im_run(t), EXIT_HLT);
        assert_int_equal(t->c->gpr[X86_RAX], k == 0 ? 0x44332211 : k == 1 ? 0x44552211 : 0x44552266);
        im_load(t, at + 3, "\x55", 1);
        if (k == 1)
            im_load(t, at + 1, "\x66", 1);
    }
    /* the second page mapped elsewhere, where other bytes lie */
    im_load(t, IM_DATA, "\x77\x88\xf4", 3);
    im_put64(t, IM_PT + 8 * ((IM_CODE >> 12) + 1), IM_DATA | 3);
    im_edit(t)->rip = at;
    im_done(t);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX], 0x88772266);
    /* and not mapped: the fault's address is the second page, RIP the instruction */
    im_put64(t, IM_PT + 8 * ((IM_CODE >> 12) + 1), 0);
    im_edit(t)->rip = at;
    im_done(t);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_PF);
    assert_int_equal(t->c->cr2, IM_CODE + 0x1000);
    assert_int_equal(im_frame(t, 1), at);
}

static void test_invlpg_code(void **state)
{
    struct im *t = *state;
    gva_t f = 0x150000;

    /* call rbx; change the PTE at [rdi] to rsi; invlpg [rbx]; call rbx; hlt */
    im_load(t, f, "\xb8\x01\0\0\0\xc3", 6);
    im_load(t, 0x151000, "\x83\xc0\x10\xc3", 4);
    im_edit(t)->gpr[X86_RBX] = f;
    t->c->gpr[X86_RDI] = IM_PT + 8 * (f >> 12);
    t->c->gpr[X86_RSI] = 0x151003;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xff\xd3\x48\x89\x37\x0f\x01\x3b\xff\xd3\xf4"), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX], 0x11);
}

static void test_undefined(void **state)
{
    struct im *t = *state;

    assert_int_equal(IM_EXEC(t, "\x90\x0f\x0b"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_UD);
    assert_int_equal(im_frame(t, 0), IM_CODE + 1);
    assert_int_equal(IM_EXEC(t, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_GP);
}

/* ---- data across pages ---- */

static void test_cross_page_data(void **state)
{
    struct im *t = *state;
    gva_t end = IM_DATA + 0x1000;

    im_put64(t, IM_PT + 8 * (end >> 12), 0x160000 | 3); /* the pages are not neighbours */
    im_edit(t)->gpr[X86_RBX] = end - 3;
    t->c->gpr[X86_RAX] = 0x1122334455667788;
    im_done(t);
    /* mov [rbx], rax; mov rcx, [rbx]; lock add [rbx], rax; mov rdx, [rbx]; hlt */
    assert_int_equal(IM_EXEC(t, "\x48\x89\x03\x48\x8b\x0b\xf0\x48\x01\x03\x48\x8b\x13\xf4"), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RCX], 0x1122334455667788);
    assert_int_equal(t->c->gpr[X86_RDX], 2 * 0x1122334455667788);
    assert_int_equal(im_get64(t, 0x160000) & 0xffffffffff, 2 * 0x1122334455667788 >> 24);
    /* the second page read-only: nothing of the first is written */
    im_put64(t, IM_PT + 8 * (end >> 12), 0x160000 | 1);
    im_put64(t, end - 8, 0);
    im_edit(t);
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x48\x89\x03\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_PF);
    assert_int_equal(t->c->cr2, end);
    assert_int_equal(im_get64(t, end - 8), 0);
}

static void test_canonical(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RBX] = 0x800000000000;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x8b\x03\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_GP);
    im_edit(t)->gpr[X86_RBP] = 0x800000000000;
    t->c->gpr[X86_RSP] = IM_STACK;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x8b\x45\x00\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_SS);
    /* jmp rbx: the fault is the jump's */
    assert_int_equal(IM_EXEC(t, "\x90\xff\xe3"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_GP);
    assert_int_equal(im_frame(t, 1), IM_CODE + 1);
}

/* ---- I/O ---- */

static void test_mmio(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RBX] = IM_MMIO;
    im_done(t);
    /* inc eax; add [rbx+4], eax; inc eax; hlt */
    assert_int_equal(IM_EXEC(t, "\xff\xc0\x01\x43\x04\xff\xc0\xf4"), EXIT_MMIO);
    assert_int_equal(t->v.exit.io.addr, IM_MMIO + 4);
    assert_int_equal(t->v.exit.io.len, 4);
    assert_false(t->v.exit.io.write);
    assert_int_equal(t->c->rip, IM_CODE + 2);
    assert_insns(t, 1);
    t->v.exit.io.data = 0x100;
    assert_int_equal(im_run(t), EXIT_MMIO);
    assert_true(t->v.exit.io.write);
    assert_int_equal(t->v.exit.io.data, 0x101);
    assert_int_equal(t->c->rip, IM_CODE + 2);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RAX], 2);
    assert_insns(t, 4);
}

static void test_mmio_rep(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RSI] = IM_MMIO;
    t->c->gpr[X86_RDI] = IM_DATA;
    t->c->gpr[X86_RCX] = 40;
    im_done(t);
    im_load(t, IM_CODE, "\xf3\xa5\xf4", 3); /* rep movsd */
    for (unsigned k = 0; k < 40; k++) {
        assert_int_equal(im_run(t), EXIT_MMIO);
        assert_int_equal(t->v.exit.io.addr, IM_MMIO + 4 * k);
        assert_int_equal(t->c->gpr[X86_RCX], 40 - k);
        t->v.exit.io.data = k;
    }
    assert_int_equal(im_run(t), EXIT_HLT);
    for (unsigned k = 0; k < 40; k++)
        assert_int_equal((uint32_t)im_get64(t, IM_DATA + 4 * k), k);
    assert_insns(t, 2);
}

/* An interrupt that is injected with the answer comes behind the instruction. */
static void test_io_then_interrupt(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RBX] = IM_MMIO;
    t->c->rflags |= X86_FL_IF;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x8b\x03\xf4"), EXIT_MMIO);
    t->v.exit.io.data = 77;
    t->v.inject.kind = INJECT_INTR;
    t->v.inject.vector = 30;
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(im_vector(t), 30);
    assert_int_equal(t->c->gpr[X86_RAX], 77);
    assert_int_equal(im_frame(t, 0), IM_CODE + 2);
    assert_int_equal(t->v.inject.kind, INJECT_NONE);
}

/* ---- stepping and break points ---- */

static void test_step(void **state)
{
    struct im *t = *state;
    static const uint8_t ends[] = { 2, 4, 6, 2, 4, 6, 7 };

    t->v.debug.step = true;
    t->v.ops->debug_changed(&t->v);
    im_edit(t)->gpr[X86_RCX] = 2;
    im_done(t);
    /* l: inc eax; dec ecx; jnz l; hlt */
    im_load(t, IM_CODE, "\xff\xc0\xff\xc9\x75\xfa\xf4", 7);
    for (unsigned k = 0; k < 6; k++) {
        assert_int_equal(im_run(t), EXIT_DEBUG);
        assert_int_equal(t->v.exit.debug.reason, DEBUG_STEP);
        assert_int_equal(t->c->rip, IM_CODE + (k == 2 ? 0 : ends[k]));
    }
    t->v.debug.step = false;
    t->v.ops->debug_changed(&t->v);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_insns(t, 7);
}

static void test_points(void **state)
{
    struct im *t = *state;

    t->v.debug.n = 2;
    t->v.debug.point[0].kind = POINT_EXEC;
    t->v.debug.point[0].addr = IM_CODE + 3;
    t->v.debug.point[1].kind = POINT_WRITE;
    t->v.debug.point[1].addr = IM_DATA + 4;
    t->v.debug.point[1].len = 4;
    t->v.ops->debug_changed(&t->v);
    im_edit(t)->gpr[X86_RBX] = IM_DATA;
    im_done(t);
    /* nop x3; mov [rbx], eax; mov ecx, [rbx+4]; mov [rbx+7], al; hlt */
    assert_int_equal(IM_EXEC(t, "\x90\x90\x90\x89\x03\x8b\x4b\x04\x88\x43\x07\xf4"), EXIT_DEBUG);
    assert_int_equal(t->v.exit.debug.reason, DEBUG_HW_BREAK);
    assert_int_equal(t->c->rip, IM_CODE + 3);
    t->v.debug.point[0].addr = 0;
    t->v.ops->debug_changed(&t->v);
    assert_int_equal(im_run(t), EXIT_DEBUG);
    assert_int_equal(t->v.exit.debug.reason, DEBUG_WATCH);
    assert_int_equal(t->v.exit.debug.addr, IM_DATA + 4);
    assert_int_equal(t->c->rip, IM_CODE + 11);
    assert_int_equal(im_run(t), EXIT_HLT);
}

/* The guest's own: TF, an instruction break point, a data break point. */
static void test_guest_debug(void **state)
{
    struct im *t = *state;

    im_edit(t)->rflags |= X86_FL_TF;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x90\x90\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_DB);
    assert_int_equal(im_frame(t, 0), IM_CODE + 1);
    assert_true(t->c->dr[6] & 1UL << 14);
    assert_true(im_frame(t, 2) & X86_FL_TF);

    im_edit(t)->dr[0] = IM_CODE + 2;
    t->c->dr[1] = IM_DATA;
    t->c->dr[7] = 2 | 8 | 0xdUL << 20; /* 0: execute; 1: four bytes written */
    t->c->dr[6] = 0;
    t->c->gpr[X86_RBX] = IM_DATA;
    t->c->gpr[X86_RSP] = IM_STACK;
    t->c->rflags = X86_FL_1;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x90\x90\x90\x89\x03\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_DB);
    assert_int_equal(t->c->dr[6] & 15, 1);
    assert_int_equal(im_frame(t, 0), IM_CODE + 2);
    im_edit(t)->rflags |= X86_FL_RF; /* past it, as IRET would */
    t->c->rip = IM_CODE + 2;
    t->c->dr[6] = 0;
    im_done(t);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_DB);
    assert_int_equal(t->c->dr[6] & 15, 2);
    assert_int_equal(im_frame(t, 0), IM_CODE + 5);
}

/* HLT is over at once when a trap or a debugger's step is due behind it. */
static void test_step_hlt(void **state)
{
    struct im *t = *state;

    im_edit(t)->rflags |= X86_FL_TF;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xf4\x90\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_DB);
    assert_int_equal(im_frame(t, 0), IM_CODE + 1);
    t->v.debug.step = true;
    t->v.ops->debug_changed(&t->v);
    im_edit(t)->rflags = X86_FL_1;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xf4\x90\xf4"), EXIT_DEBUG);
    assert_int_equal(t->c->rip, IM_CODE + 1);
}

/* ---- the loop ---- */

static void *kicker(void *arg)
{
    struct im *t = arg;

    usleep(20000);
    t->v.ops->kick(&t->v);
    return NULL;
}

static void test_kick(void **state)
{
    struct im *t = *state;
    pthread_t th;

    t->v.ops->kick(&t->v);
    assert_int_equal(IM_EXEC(t, "\xeb\xfe"), EXIT_KICKED); /* not lost when it comes early */
    pthread_create(&th, NULL, kicker, t);
    assert_int_equal(im_run(t), EXIT_KICKED);
    assert_int_equal(t->c->rip, IM_CODE);
    pthread_join(th, NULL);
    /* in the middle of a long REP, which resumes */
    im_edit(t)->gpr[X86_RCX] = 1UL << 40;
    t->c->gpr[X86_RDI] = IM_DATA;
    im_done(t);
    im_load(t, IM_CODE, "\xf3\xac\xf4", 3); /* rep lodsb */
    pthread_create(&th, NULL, kicker, t);
    t->c->gpr[X86_RSI] = IM_DATA;
    enum vcpu_exit_kind k = IM_EXEC(t, "\x48\x89\xfe\xac\x48\xff\xc9\x75\xf7\xf4");
    pthread_join(th, NULL);
    assert_int_equal(k, EXIT_KICKED);
}

/* From a signal handler on the vCPU's own thread. The handler has no argument. */
static struct im *in_handler;

static void on_tick(int sig)
{
    (void)sig;
    in_handler->v.ops->kick(&in_handler->v);
}

static void test_kick_in_handler(void **state)
{
    struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART | SA_ONSTACK };
    struct itimerval once = { .it_value = { .tv_usec = 5000 } };
    struct im *t = *state;

    in_handler = t;
    sigaction(SIGVTALRM, &sa, NULL);
    for (unsigned k = 0; k < 5; k++) {
        setitimer(ITIMER_VIRTUAL, &once, NULL);
        /* mov ecx, -1; l: dec ecx; jnz l; hlt: ends by itself in some seconds if the kick is lost */
        assert_int_equal(IM_EXEC(t, "\xb9\xff\xff\xff\xff\xff\xc9\x75\xfc\xf4"), EXIT_KICKED);
        assert_in_range(t->c->rip, IM_CODE + 5, IM_CODE + 7);
    }
}

static void test_irq_window(void **state)
{
    struct im *t = *state;

    t->v.irq_window = true;
    /* sti; nop; nop; hlt: the window opens behind the first nop */
    assert_int_equal(IM_EXEC(t, "\xfb\x90\xeb\x00\x90\xf4"), EXIT_IRQ_WINDOW);
    assert_true(t->c->rip > IM_CODE + 1);
    assert_true(t->v.ops->can_intr(&t->v));
    t->v.irq_window = false;
    assert_int_equal(im_run(t), EXIT_HLT);
    /* sti; hlt: awake for interrupts */
    assert_int_equal(IM_EXEC(t, "\xfa\xfb\xf4"), EXIT_HLT);
    assert_true(t->v.ops->can_intr(&t->v));
}

/* An NMI does not ask for IF, but waits behind MOV SS as well. */
static void test_nmi_window(void **state)
{
    struct im *t = *state;

    t->v.nmi_window = true;
    /* cli; mov eax, ss; mov ss, eax; nop; hlt */
    assert_int_equal(IM_EXEC(t, "\xfa\x8c\xd0\x8e\xd0\x90\xf4"), EXIT_IRQ_WINDOW);
    t->v.nmi_window = false;
    assert_int_equal(im_run(t), EXIT_HLT);
    t->c->int_shadow = true; /* as MOV SS leaves it */
    t->v.nmi_window = true;
    assert_int_equal(IM_EXEC(t, "\x90\x90\xf4"), EXIT_IRQ_WINDOW);
    assert_int_equal(t->c->rip, IM_CODE + 1);
    t->v.nmi_window = false;
    assert_int_equal(im_run(t), EXIT_HLT);
}

/* More blocks than the cache holds, twice over; every one runs right. */
static void test_cache_pressure(void **state)
{
    struct im *t = *state;
    const gpa_t base = 0x800000;
    const unsigned n = 300000; /* blocks of inc eax; jmp +3 (and three bytes of filler) */
    static const uint8_t code[8] = { 0xff, 0xc0, 0xeb, 0x04, 0xcc, 0xcc, 0xcc, 0xcc };

    for (unsigned k = 0; k < n; k++)
        im_load(t, base + 8 * k, code, 8);
    im_load(t, base + 8 * n, "\xf4", 1);
    for (int round = 0; round < 2; round++) {
        im_edit(t)->rip = base;
        t->c->gpr[X86_RAX] = 0;
        im_done(t);
        assert_int_equal(im_run(t), EXIT_HLT);
        assert_int_equal(t->c->gpr[X86_RAX], n);
    }
    if (t->v.ops == &engine_interp) /* another's cache may be larger */
        assert_true(t->v.stats.cache_flushes > 2);
}

static void test_string_runs(void **state)
{
    struct im *t = *state;
    uint8_t *buf = malloc(0x3000);

    /* stosb over three pages, then an overlapping movsb that repeats a pattern of three */
    im_edit(t)->gpr[X86_RDI] = IM_DATA + 5;
    t->c->gpr[X86_RAX] = 0xaa;
    t->c->gpr[X86_RCX] = 0x2800;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xf3\xaa\xf4"), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RDI], IM_DATA + 5 + 0x2800);
    assert_int_equal(t->c->gpr[X86_RCX], 0);
    mem_read(t->v.mem, IM_DATA, buf, 0x3000);
    assert_int_equal(buf[4], 0);
    assert_int_equal(buf[5], 0xaa);
    assert_int_equal(buf[0x2804], 0xaa);
    assert_int_equal(buf[0x2805], 0);
    im_load(t, IM_DATA, "abc", 3);
    im_edit(t)->gpr[X86_RSI] = IM_DATA;
    t->c->gpr[X86_RDI] = IM_DATA + 3;
    t->c->gpr[X86_RCX] = 0x2000;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xf3\xa4\xf4"), EXIT_HLT);
    mem_read(t->v.mem, IM_DATA, buf, 0x3000);
    for (unsigned k = 0; k < 0x2003; k++)
        assert_int_equal(buf[k], "abc"[k % 3]);
    /* repne scasb downwards finds the last 'a' */
    im_edit(t)->gpr[X86_RDI] = IM_DATA + 0x2002;
    t->c->gpr[X86_RAX] = 'a';
    t->c->gpr[X86_RCX] = 10;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xfd\xf2\xae\xfc\xf4"), EXIT_HLT);
    assert_int_equal(t->c->gpr[X86_RDI], IM_DATA + 0x2002 - 3 + (0x2002 % 3 == 2 ? 0 : 1));
    assert_true(t->c->rflags & X86_FL_ZF);
    free(buf);
}

/* A fault in the middle of REP leaves the iterations before it done. */
static void test_string_fault(void **state)
{
    struct im *t = *state;

    im_put64(t, IM_PT + 8 * ((IM_DATA >> 12) + 1), 0);
    im_edit(t)->gpr[X86_RDI] = IM_DATA + 0xff0;
    t->c->gpr[X86_RAX] = 1;
    t->c->gpr[X86_RCX] = 10;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xf3\xab\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_PF);
    assert_int_equal(t->c->gpr[X86_RCX], 6);
    assert_int_equal(t->c->gpr[X86_RDI], IM_DATA + 0x1000);
    assert_int_equal(im_frame(t, 1), IM_CODE);
    assert_true(im_frame(t, 3) & X86_FL_RF);
}

static void test_legacy_modes(void **state)
{
    struct im *t = *state;
    struct cpu_state *c = im_edit(t);

    /* real mode: ip wraps are limit faults; 16-bit arithmetic keeps upper halves */
    c->cr0 = X86_CR0_ET;
    c->msr.efer = 0;
    for (unsigned s = 0; s < X86_SEG_NONE; s++)
        c->seg[s] =
            (struct x86_seg){ .base = 0x10000, .limit = 0xffff, .sel = 0x1000, .attr = 3 | X86_SEG_S | X86_SEG_P };
    c->seg[X86_CS].attr = 0xb | X86_SEG_S | X86_SEG_P;
    c->gpr[X86_RAX] = 0xffff1234;
    c->gpr[X86_RBX] = 0x10;
    c->gpr[X86_RSI] = 0xfff8;
    c->gpr[X86_RSP] = 0x8000;
    c->rip = 0x100;
    im_done(t);
    /* mov [bx+si], ax (wraps to offset 8); push ax; pop cx; loop over cx = 3; hlt */
    im_load(t, 0x10100, "\x89\x00\x50\x59\xb9\x03\x00\x40\xe2\xfd\xf4", 11);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(im_get64(t, 0x10008) & 0xffff, 0x1234);
    assert_int_equal(t->c->gpr[X86_RAX], 0xffff1237);
    assert_int_equal(t->c->rip, 0x10b);
    assert_int_equal(t->c->gpr[X86_RSP], 0x8000);
    /* an instruction that runs past the limit of CS: #GP through the real-mode vector table */
    im_put64(t, 13 * 4, 0x1000UL << 16 | 0x200);
    im_load(t, 0x10200, "\xf4", 1);
    im_load(t, 0x1fffe, "\xb8\x11\x22", 3);
    im_edit(t)->rip = 0xfffe;
    t->c->idtr = (struct x86_dtable){ .base = 0, .limit = 0x3ff };
    im_done(t);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(t->c->rip, 0x201);
}

/* Alignment checking at CPL 3: locked instructions still work on the shared page. */
static void test_alignment_check(void **state)
{
    struct im *t = *state;
    struct cpu_state *c;

    im_put64(t, 0x1000, 0x2007);
    im_put64(t, 0x2000, 0x10007);
    im_put64(t, 0x10000, IM_PT | 7);
    for (uint64_t k = IM_CODE >> 12; k < 512; k++)
        im_put64(t, IM_PT + k * 8, k << 12 | 7);
    im_put64(t, 0xc000 + 4, IM_STACK); /* RSP0 */
    c = im_edit(t);
    c->tr = (struct x86_seg){ .base = 0xc000, .limit = 0x67, .sel = 40, .attr = 11 | X86_SEG_P };
    c->cpl = 3;
    for (unsigned s = 0; s < X86_SEG_NONE; s++) {
        c->seg[s].attr |= X86_SEG_DPL;
        c->seg[s].sel |= 3;
    }
    c->cr0 |= X86_CR0_AM;
    c->rflags |= X86_FL_AC;
    c->gpr[X86_RBX] = IM_DATA;
    im_done(t);
    /* lock inc qword [rbx]; mov rax, [rbx]; xchg [rbx], rax; lock inc qword [rbx+1] */
    assert_int_equal(IM_EXEC(t, "\xf0\x48\xff\x03\x48\x8b\x03\x48\x87\x03\xf0\x48\xff\x43\x01"), EXIT_HLT);
    assert_int_equal(im_vector(t), X86_AC);
    assert_int_equal(im_frame(t, 0), 0);
    assert_int_equal(im_frame(t, 1), IM_CODE + 10);
    assert_int_equal(t->c->gpr[X86_RAX], 1);
    assert_int_equal(im_get64(t, IM_DATA), 1);
}

static void test_bit_strings(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RBX] = IM_DATA + 0x100;
    t->c->gpr[X86_RAX] = (uint64_t)-9;
    t->c->gpr[X86_RCX] = 1000;
    im_done(t);
    /* bts [rbx], rax; lock bts [rbx], rcx; bt [rbx], rax; hlt */
    assert_int_equal(IM_EXEC(t, "\x48\x0f\xab\x03\xf0\x48\x0f\xab\x0b\x48\x0f\xa3\x03\xf4"), EXIT_HLT);
    assert_int_equal(im_get64(t, IM_DATA + 0xf8), 1UL << 55);
    assert_int_equal(im_get64(t, IM_DATA + 0x100 + 120), 1UL << 40);
    assert_true(t->c->rflags & X86_FL_CF);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_straight),
        TEST(test_fault_state),
        TEST(test_smc_ahead),
        TEST(test_smc_loop),
        TEST(test_code_changed_outside),
        TEST(test_smc_alias),
        TEST(test_undefined),
        TEST(test_cross_page_insn),
        TEST(test_invlpg_code),
        TEST(test_canonical),
        TEST(test_cross_page_data),
        TEST(test_mmio),
        TEST(test_mmio_rep),
        TEST(test_io_then_interrupt),
        TEST(test_step),
        TEST(test_points),
        TEST(test_guest_debug),
        TEST(test_kick),
        TEST(test_kick_in_handler),
        TEST(test_irq_window),
        TEST(test_nmi_window),
        TEST(test_cache_pressure),
        TEST(test_string_runs),
        TEST(test_string_fault),
        TEST(test_legacy_modes),
        TEST(test_step_hlt),
        TEST(test_alignment_check),
        TEST(test_bit_strings),
    };
    return ENGINE_TESTS_RUN("interp_core", tests);
}
