/* SPDX-License-Identifier: MIT */
/*
 * Code that changes all the time, tens of thousands of times a test: each round changes code and checks that the next
 * execution is of the new one. It is hot, so whatever an engine does to jump from one piece of code straight to the
 * next is in place when the code changes.
 *
 * Who changes it: the code itself (the next instruction, the target of a branch, a function on another page, by every
 * kind of store, through an alias of the page), another processor, a device (DMA), and the page tables. What the SDM
 * wants before changed code is executed is there: nothing on the same processor, even with another linear address; a
 * serializing instruction after another processor's change; INVLPG or MOV CR3 after a change of page tables.
 *
 * All of it (but the page tables) once at CPL 0 and once at CPL 3, for an engine may reach their memory in other ways.
 * There the HLT at the end of the code is a #GP.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "engine_tests.h"
#include "user_machine.h"

#ifdef GAZDA_DEBUG
enum { ROUNDS = 3000, HANDOVERS_PART = 3 };
#else
enum { ROUNDS = 12000, HANDOVERS_PART = 10 };
#endif
static unsigned changes = ROUNDS; /* of code; TEST_ROUNDS, a multiple of 12 */
enum { PAGE2 = 0x1000, ALIAS = IM_DATA, ALIAS2 = IM_DATA + 0x1000, SHARED = IM_STACK + 0x8000, CPUS = 3 };
enum { USER = UM_USER };

struct guest_code {
    const uint8_t *begin, *end;
};

/* Guest code, which runs at IM_CODE; labels are .Lname_something. RCX counts the rounds down. */
#define GUEST(name, text)                                                                                              \
    __asm__(".pushsection .rodata\n.balign 64\n.intel_syntax noprefix\nsmc_" #name ":\n" text "\nsmc_" #name           \
            "_end:\n.att_syntax\n.popsection\n");                                                                      \
    extern const uint8_t smc_##name[], smc_##name##_end[];                                                             \
    static const struct guest_code name = { smc_##name, smc_##name##_end };

/* The code's pages once more. */
static int set_up_as(void **state, uint64_t user, unsigned cpus)
{
    struct im *t = vm_new_smp(*state, cpus);

    im_put64(t, IM_PT + 8 * (ALIAS >> 12), IM_CODE | 3);
    im_put64(t, IM_PT + 8 * (ALIAS2 >> 12), (IM_CODE + PAGE2) | 3);
    if (user)
        um_open(t);
    *state = t;
    return 0;
}
static int set_up(void **state)
{
    return set_up_as(state, 0, 1);
}
static int set_up_user(void **state)
{
    return set_up_as(state, USER, 1);
}
static int tear_down(void **state)
{
    im_free(*state);
    return 0;
}

static void load(struct im *t, const struct guest_code *g)
{
    im_load(t, IM_CODE, g->begin, (size_t)(g->end - g->begin));
}

static void start(struct im *t, gva_t at, uint64_t rounds)
{
    struct cpu_state *c = im_edit(t);

    memset(c->gpr, 0, 16 * sizeof(c->gpr[0]));
    um_set_cpl(t, um_is_user(t) ? 3 : 0);
    c->rip = at;
    c->rflags = X86_FL_1;
    c->gpr[X86_RSP] = IM_STACK + 0x1000 * t->v.id;
    c->gpr[X86_RCX] = c->gpr[X86_RBP] = rounds;
    c->gpr[X86_RDI] = ALIAS - IM_CODE;
    im_done(t);
}

static void go(struct im *t, const struct guest_code *g, uint64_t rounds)
{
    load(t, g);
    start(t, IM_CODE, rounds);
    while (im_run(t) == EXIT_PAUSE)
        ;
    assert_true(um_at_end(t));
    assert_int_equal(t->c->gpr[X86_RCX], 0);
}

static uint64_t sum_to(uint64_t n)
{
    return n * (n + 1) / 2;
}

/* ---- the code itself: the instruction behind the store ---- */

#define NEXT_IMM(name, store)                                                                                          \
    GUEST(name, ".L" #name ": " store "\n"                                                                             \
                ".L" #name "_next: mov eax, 0x11111111\n"                                                              \
                "add rbx, rax\n"                                                                                       \
                "dec ecx\n"                                                                                            \
                "jnz .L" #name "\n"                                                                                    \
                "hlt\n")
NEXT_IMM(imm_mov, "mov [rip + .Limm_mov_next + 1], ecx")
NEXT_IMM(imm_alias, "lea rax, [rip + .Limm_alias_next + 1]\nmov [rax + rdi], ecx")
NEXT_IMM(imm_xchg, "mov eax, ecx\nxchg [rip + .Limm_xchg_next + 1], eax")
NEXT_IMM(imm_cmpxchg, "mov eax, [rip + .Limm_cmpxchg_next + 1]\nlock cmpxchg [rip + .Limm_cmpxchg_next + 1], ecx")
NEXT_IMM(imm_bytes, "mov [rip + .Limm_bytes_next + 1], cl\nmov edx, ecx\nshr edx, 8\n"
                    "mov [rip + .Limm_bytes_next + 2], dl\nmov dword ptr [rip + .Limm_bytes_next + 3], 0xb8000000\n"
                    "mov byte ptr [rip + .Limm_bytes_next + 4], 0\nmov byte ptr [rip + .Limm_bytes_next + 5], 0x48\n"
                    "mov byte ptr [rip + .Limm_bytes_next + 6], 1")
NEXT_IMM(imm_push, "mov rdx, rsp\nlea rsp, [rip + .Limm_push_next + 9]\nmov rax, [rip + .Limm_push_next + 1]\n"
                   "shr rax, 32\nshl rax, 32\nor rax, rcx\npush rax\nmov rsp, rdx")
NEXT_IMM(imm_stos, "lea rdi, [rip + .Limm_stos_next + 1]\nmov eax, ecx\nstosd")
NEXT_IMM(imm_rep, "mov r8, rcx\nmov [rsp - 8], ecx\nlea rdi, [rip + .Limm_rep_next + 1]\nlea rsi, [rsp - 8]\n"
                  "mov ecx, 4\nrep movsb\nmov rcx, r8")
NEXT_IMM(imm_sse, "movups xmm0, [rip + .Limm_sse_next]\nmovd xmm1, ecx\npslldq xmm1, 1\nmovups xmm2, xmm0\n"
                  "psrldq xmm2, 5\npslldq xmm2, 5\npslldq xmm0, 15\npsrldq xmm0, 15\npor xmm0, xmm1\npor xmm0, xmm2\n"
                  "movups [rip + .Limm_sse_next], xmm0")
NEXT_IMM(imm_fist, "mov [rsp - 8], ecx\nfild dword ptr [rsp - 8]\nfistp dword ptr [rip + .Limm_fist_next + 1]")

static void test_next_insn(void **state)
{
    static const struct guest_code *const all[] = { &imm_mov,  &imm_alias, &imm_xchg, &imm_cmpxchg, &imm_bytes,
                                                    &imm_push, &imm_stos,  &imm_rep,  &imm_sse,     &imm_fist };

    for (unsigned k = 0; k < ARRAY_LEN(all); k++) {
        go(*state, all[k], changes);
        assert_int_equal(((struct im *)*state)->c->gpr[X86_RBX], sum_to(changes));
    }
}

/* An opcode: add eax, ecx and sub eax, ecx in turn. */
GUEST(opcode, ".Lopcode: xor byte ptr [rip + .Lopcode_op], 0x28\n"
              ".Lopcode_op: add eax, ecx\n"
              "dec ecx\n"
              "jnz .Lopcode\n"
              "hlt\n")
/* Where instructions begin: NOP, CLC and MOV AL, 0xf8 in turn, in the same two bytes. */
GUEST(length, ".Llength: xor byte ptr [rip + .Llength_op], 0x90 ^ 0xb0\n"
              "stc\n"
              ".Llength_op: nop\n"
              "clc\n"
              "adc rbx, 1\n"
              "add r8, rax\n"
              "xor eax, eax\n"
              "dec ecx\n"
              "jnz .Llength\n"
              "hlt\n")

static void test_opcode(void **state)
{
    struct im *t = *state;

    go(t, &opcode, changes); /* the first round subtracts */
    assert_int_equal((int32_t)t->c->gpr[X86_RAX], -(int32_t)(changes / 2));
    go(t, &length, changes);
    assert_int_equal(t->c->gpr[X86_RBX], changes / 2 * 3);
    assert_int_equal(t->c->gpr[X86_R8], changes / 2 * 0xf8);
}

/* Data in the line of the code changes; the code does not. */
GUEST(line, ".Lline: inc dword ptr [rip + .Lline_data]\n"
            "add rbx, rcx\n"
            "dec ecx\n"
            "jnz .Lline\n"
            "mov eax, [rip + .Lline_data]\n"
            "hlt\n"
            ".Lline_data: .long 0\n")

static void test_same_line(void **state)
{
    struct im *t = *state;

    go(t, &line, changes);
    assert_int_equal(t->c->gpr[X86_RBX], sum_to(changes));
    assert_int_equal(t->c->gpr[X86_RAX], changes);
}

/* ---- the code itself: branches ---- */

#define COUNT_AND(n, where) "inc r" #n "\njmp " where "\n.balign 8\n"

/* The displacement of a jump, among four targets on the same page. */
GUEST(jump, ".balign 8\n"
            ".Ljump: mov eax, ecx\n"
            "and eax, 3\n"
            "shl eax, 3\n"
            "add al, offset .Ljump_to - .Ljump_from\n"
            "mov [rip + .Ljump_from - 1], al\n"
            "jmp short .Ljump_to\n"
            ".Ljump_from: .balign 8\n"
            ".Ljump_to:" COUNT_AND(8, ".Ljump_end") COUNT_AND(9, ".Ljump_end") COUNT_AND(10, ".Ljump_end")
                COUNT_AND(11, ".Ljump_end") ".Ljump_end: dec ecx\n"
                                            "jnz .Ljump\n"
                                            "hlt\n")
/* A condition: jc and jnc in turn. */
GUEST(condition, ".Lcond: xor byte ptr [rip + .Lcond_op], 1\n"
                 "stc\n"
                 ".Lcond_op: jc .Lcond_taken\n"
                 "inc r8\n"
                 "jmp .Lcond_end\n"
                 ".Lcond_taken: inc r9\n"
                 ".Lcond_end: dec ecx\n"
                 "jnz .Lcond\n"
                 "hlt\n")
/* The displacement of a call, among four functions on another page. */
GUEST(call, ".Lcall: mov eax, ecx\n"
            "and eax, 3\n"
            "shl eax, 3\n"
            "add eax, offset .Lcall_f - .Lcall_from\n"
            "mov [rip + .Lcall_from - 4], eax\n"
            ".byte 0xe8\n.long 0\n"
            ".Lcall_from: dec ecx\n"
            "jnz .Lcall\n"
            "hlt\n"
            ".org smc_call + 0x1000\n"
            ".Lcall_f: inc r8\nret\n.balign 8\ninc r9\nret\n.balign 8\ninc r10\nret\n.balign 8\ninc r11\nret\n")
/* A jump over the page boundary, which it lies across itself. */
GUEST(crossing, "jmp .Lcross\n"
                ".Lcross_end: dec ecx\n"
                "jnz .Lcross\n"
                "hlt\n"
                ".org smc_crossing + 0x1000 - 32\n"
                ".Lcross: mov eax, ecx\n"
                "and eax, 3\n"
                "shl eax, 4\n"
                "add eax, offset .Lcross_to - .Lcross_from\n"
                "mov [rip + .Lcross_from - 4], eax\n"
                ".org smc_crossing + 0x1000 - 3, 0x90\n"
                ".byte 0xe9\n.long 0\n"
                ".Lcross_from: .balign 16\n"
                ".Lcross_to: inc r8\njmp .Lcross_end\n.balign 16\ninc r9\njmp .Lcross_end\n.balign 16\n"
                "inc r10\njmp .Lcross_end\n.balign 16\ninc r11\njmp .Lcross_end\n")

static void quarters(struct im *t)
{
    for (unsigned r = X86_R8; r <= X86_R11; r++)
        assert_int_equal(t->c->gpr[r], changes / 4);
}

static void test_branch(void **state)
{
    struct im *t = *state;

    go(t, &jump, changes);
    quarters(t);
    go(t, &condition, changes);
    assert_int_equal(t->c->gpr[X86_R8], changes / 2);
    assert_int_equal(t->c->gpr[X86_R9], changes / 2);
    go(t, &call, changes);
    quarters(t);
    go(t, &crossing, changes);
    quarters(t);
}

/* ---- the code itself: another page ---- */

#define FUNCTION(name, store)                                                                                          \
    GUEST(name, "lea rsi, [rip + .L" #name "_f + 1]\n"                                                                 \
                ".L" #name ": " store "\n"                                                                             \
                "call .L" #name "_f\n"                                                                                 \
                "add rbx, rax\n"                                                                                       \
                "call .L" #name "_f\n"                                                                                 \
                "sub rbx, rax\n"                                                                                       \
                "add rbx, rax\n"                                                                                       \
                "dec ecx\n"                                                                                            \
                "jnz .L" #name "\n"                                                                                    \
                "hlt\n"                                                                                                \
                ".org smc_" #name " + 0x1800\n"                                                                        \
                ".L" #name "_f: mov eax, 0x11111111\n"                                                                 \
                "jmp .L" #name "_g\n"                                                                                  \
                ".balign 64\n"                                                                                         \
                ".L" #name "_g: ret\n")
FUNCTION(fn_mov, "mov [rsi], ecx")
FUNCTION(fn_alias, "mov [rsi + rdi], ecx")
FUNCTION(fn_lock, "mov eax, [rsi]\nmov edx, ecx\nsub edx, eax\nlock xadd [rsi], edx")

static void test_function(void **state)
{
    static const struct guest_code *const all[] = { &fn_mov, &fn_alias, &fn_lock };

    for (unsigned k = 0; k < ARRAY_LEN(all); k++) {
        go(*state, all[k], changes);
        assert_int_equal(((struct im *)*state)->c->gpr[X86_RBX], sum_to(changes));
    }
}

/* The caller runs through one mapping and writes to the other, then the two change roles: both must see it. */
GUEST(two_views, "lea rsi, [rip + .Lviews_f + 1]\n"
                 "lea r8, [rip + .Lviews_f]\n"
                 ".Lviews: mov [rsi], ecx\n"
                 "lea rdx, [r8 + rdi]\n"
                 "call rdx\n" /* through the alias */
                 "add rbx, rax\n"
                 "lea eax, [ecx + 1000]\n"
                 "mov [rsi + rdi], eax\n"
                 "call .Lviews_f\n"
                 "lea rbx, [rbx + rax - 1000]\n"
                 "dec ecx\n"
                 "jnz .Lviews\n"
                 "hlt\n"
                 ".org smc_two_views + 0x1800\n"
                 ".Lviews_f: mov eax, 0x11111111\n"
                 "ret\n")

static void test_two_views(void **state)
{
    struct im *t = *state;

    go(t, &two_views, changes);
    assert_int_equal(t->c->gpr[X86_RBX], 2 * sum_to(changes));
}

/* ---- page tables: the function's page is now one frame, now another ---- */

#define FN_PAGE (IM_CODE + 0x8000UL)
#define FRAMES 0x400000UL

#define REMAP(name, flush)                                                                                             \
    GUEST(name, ".L" #name ": mov eax, ecx\n"                                                                          \
                "and eax, 3\n"                                                                                         \
                "shl eax, 12\n"                                                                                        \
                "add rax, rsi\n"                                                                                       \
                "mov [rdx], rax\n" flush "\n"                                                                          \
                "call smc_" #name " + 0x8000\n"                                                                        \
                "dec ecx\n"                                                                                            \
                "jnz .L" #name "\n"                                                                                    \
                "hlt\n")
REMAP(remap_invlpg, "invlpg [r12]")
REMAP(remap_cr3, "mov rax, cr3\nmov cr3, rax")

static void test_remap(void **state)
{
    static const struct guest_code *const all[] = { &remap_invlpg, &remap_cr3 };
    struct im *t = *state;

    for (uint64_t k = 0; k < 4; k++) { /* inc r8 + k; ret */
        const uint8_t f[] = { 0x49, 0xff, (uint8_t)(0xc0 + k), 0xc3 };

        im_load(t, FRAMES + k * PAGE_SIZE, f, sizeof(f));
    }
    for (unsigned k = 0; k < ARRAY_LEN(all); k++) {
        load(t, all[k]);
        start(t, IM_CODE, changes);
        im_edit(t)->gpr[X86_RSI] = FRAMES | 3;
        t->c->gpr[X86_RDX] = IM_PT + 8 * (FN_PAGE >> 12);
        t->c->gpr[X86_R12] = FN_PAGE;
        im_done(t);
        im_run(t);
        assert_true(um_at_end(t));
        quarters(t);
    }
}

/* ---- devices ---- */

GUEST(dma_stopped, ".Ldma: call .Ldma_f\n"
                   "mov edx, [rbx]\n" /* a device, so that run ends */
                   "jmp .Ldma\n"
                   ".org smc_dma_stopped + 0x1000\n"
                   ".Ldma_f: mov eax, 0x11111111\n"
                   "ret\n")

static void dma(struct im *t, gpa_t at, uint32_t v, bool pinned)
{
    if (pinned) {
        void *p = mem_pin(t->v.mem, at, 4);

        memcpy(p, &v, 4);
        mem_unpin(t->v.mem, at, 4, true);
    } else {
        mem_write(t->v.mem, at, &v, 4);
    }
}

/* Between two runs; cpu_state is not touched, so the engine is told of nothing. */
static void test_dma_between_runs(void **state)
{
    struct im *t = *state;

    load(t, &dma_stopped);
    start(t, IM_CODE, 0);
    im_edit(t)->gpr[X86_RBX] = IM_MMIO;
    im_done(t);
    for (uint32_t k = 1; k <= changes; k++) {
        dma(t, IM_CODE + PAGE2 + 1, k, k % 2);
        assert_int_equal(im_run(t), EXIT_MMIO);
        if (t->c->gpr[X86_RAX] != k)
            assert_int_equal(t->c->gpr[X86_RAX], k);
    }
}

/* rbx: address of { uint64_t calls, result } */
GUEST(dma_running, ".Lrun: call .Lrun_f\n"
                   "mov [rbx + 8], rax\n"
                   "inc qword ptr [rbx]\n"
                   "cmp qword ptr [rbx + 16], 0\n"
                   "je .Lrun\n"
                   "hlt\n"
                   ".org smc_dma_running + 0x1000\n"
                   ".Lrun_f: mov eax, 0\n"
                   "jmp .Lrun_g\n"
                   ".balign 64\n"
                   ".Lrun_g: ret\n")

struct runner {
    struct im *t;
    _Atomic unsigned kicked;
    _Atomic bool wrong;
};

static void *run_kicked(void *arg)
{
    struct runner *r = arg;

    for (;;)
        switch (im_run(r->t)) {
        case EXIT_KICKED:
            r->kicked++;
            break;
        case EXIT_PAUSE:
            break;
        case EXIT_HLT:
            return NULL;
        default:
            r->wrong = true;
            return NULL;
        }
}

/* While it runs. The kick must have been taken, and a whole call made since, when the new result is asked for. */
static void test_dma_running(void **state)
{
    struct im *t = *state;
    struct runner r = { .t = t };
    pthread_t th;

    load(t, &dma_running);
    start(t, IM_CODE, 0);
    im_edit(t)->gpr[X86_RBX] = SHARED;
    im_done(t);
    pthread_create(&th, NULL, run_kicked, &r);
    for (uint32_t k = 1; k <= changes / HANDOVERS_PART && !r.wrong; k++) {
        unsigned seen = r.kicked;

        dma(t, IM_CODE + PAGE2 + 1, k, k % 2);
        t->v.ops->kick(&t->v);
        while (r.kicked == seen && !r.wrong)
            sched_yield();
        uint64_t calls = im_get64(t, SHARED);

        while (im_get64(t, SHARED) < calls + 2 && !r.wrong)
            sched_yield();
        if (im_get64(t, SHARED + 8) != k)
            assert_int_equal(im_get64(t, SHARED + 8), k);
    }
    im_put64(t, SHARED + 16, 1);
    pthread_join(th, NULL);
    assert_false(r.wrong);
    assert_true(um_at_end(t));
}

/* ---- other processors ---- */

struct smp {
    struct im *cpu[CPUS];
};

static int smp_up_as(void **state, uint64_t user)
{
    struct smp *s = calloc(1, sizeof(*s));
    const struct engine_ops *ops = *state;

    set_up_as(state, user, CPUS);
    s->cpu[0] = *state;
    for (unsigned k = 1; k < CPUS; k++) {
        s->cpu[k] = im_new_smp(ops, s->cpu[0]->v.mem, CPUS);
        s->cpu[k]->v.id = k;
    }
    *state = s;
    return 0;
}
static int smp_up(void **state)
{
    return smp_up_as(state, 0);
}
static int smp_up_user(void **state)
{
    return smp_up_as(state, USER);
}
static int smp_down(void **state)
{
    struct smp *s = *state;

    for (unsigned k = 1; k < CPUS; k++)
        im_free_on(s->cpu[k]);
    im_free(s->cpu[0]);
    free(s);
    return 0;
}

static void *run_one(void *arg)
{
    while (im_run(arg) == EXIT_PAUSE)
        sched_yield();
    return NULL;
}

/* Processor 0 from the beginning of the code, the others from its second page. */
static void go_smp(struct smp *s, const struct guest_code *g, uint64_t rounds)
{
    pthread_t th[CPUS];

    load(s->cpu[0], g);
    for (unsigned k = 0; k < CPUS; k++) {
        start(s->cpu[k], IM_CODE + (k ? PAGE2 : 0), rounds);
        im_edit(s->cpu[k])->gpr[X86_RSI] = SHARED;
        s->cpu[k]->c->gpr[X86_R12] = SHARED;
        s->cpu[k]->c->gpr[X86_R8] = 8 * k;
        im_done(s->cpu[k]);
    }
    for (unsigned k = 0; k < CPUS; k++)
        pthread_create(&th[k], NULL, run_one, s->cpu[k]);
    for (unsigned k = 0; k < CPUS; k++)
        pthread_join(th[k], NULL);
    for (unsigned k = 0; k < CPUS; k++) {
        assert_true(um_at_end(s->cpu[k]));
        assert_int_equal(s->cpu[k]->c->gpr[X86_RBP], 0);
        assert_int_equal(s->cpu[k]->c->gpr[X86_R13], 0);
    }
}

/*
 * Rounds in step: the writer changes the function, publishes the round at [rsi], and waits until the readers have
 * written it to [rsi + 8 * id]. A reader serializes once it sees the round, then calls the function twice. R13B: wrong
 * results (an exception would leave the others waiting).
 */
#define CROSS_WHILE(name, wait, store)                                                                                 \
    GUEST(name, "lea r9, [rip + .L" #name "_f]\n"                                                                      \
                ".L" #name ": " store "\n"                                                                             \
                "mov [rsi], ebp\n"                                                                                     \
                ".L" #name "_w: pause\n"                                                                               \
                "cmp [rsi + 8], ebp\n"                                                                                 \
                "jne .L" #name "_w\n"                                                                                  \
                "cmp [rsi + 16], ebp\n"                                                                                \
                "jne .L" #name "_w\n"                                                                                  \
                "dec ebp\n"                                                                                            \
                "jnz .L" #name "\n"                                                                                    \
                "hlt\n"                                                                                                \
                ".org smc_" #name " + 0x1000\n"                                                                        \
                ".L" #name "_r: " wait "\n"                                                                            \
                "cmp [rsi], ebp\n"                                                                                     \
                "jne .L" #name "_r\n"                                                                                  \
                "xor eax, eax\n"                                                                                       \
                "cpuid\n"                                                                                              \
                "call .L" #name "_f\n"                                                                                 \
                "cmp eax, ebp\n"                                                                                       \
                "setne al\n"                                                                                           \
                "add r13b, al\n"                                                                                       \
                "call .L" #name "_f\n"                                                                                 \
                "cmp eax, ebp\n"                                                                                       \
                "setne al\n"                                                                                           \
                "add r13b, al\n"                                                                                       \
                "mov [rsi + r8], ebp\n"                                                                                \
                "dec ebp\n"                                                                                            \
                "jnz .L" #name "_r\n"                                                                                  \
                "hlt\n"                                                                                                \
                ".org smc_" #name " + 0x1800\n"                                                                        \
                ".L" #name "_f: mov eax, 0x11111111\n"                                                                 \
                "ret\n")
#define CROSS(name, store) CROSS_WHILE(name, "pause", store)
CROSS(cross_mov, "mov [r9 + 1], ebp")
CROSS(cross_alias, "mov [r9 + rdi + 1], ebp")
CROSS(cross_lock, "mov eax, ebp\nlock xchg [r9 + 1], eax")
/*
 * The same with readers that call the function while they wait, and so begin to run its code again when the first of
 * the writer's stores has thrown it out. Some stores later, the engine may take the page for one without code.
 */
#define CROSS_BUSY(name, store)                                                                                        \
    CROSS_WHILE(name, "pause\ncall .L" #name "_f",                                                                     \
                "mov edi, 8\nlea edx, [rbp + 1]\n.L" #name "_s: mov [r9 + 1], edx\n"                                   \
                "dec edi\njnz .L" #name "_s\n" store)
CROSS_BUSY(busy_mov, "mov [r9 + 1], ebp")
CROSS_BUSY(busy_stos, "lea rdi, [r9 + 1]\nmov eax, ebp\nstosd")
CROSS_BUSY(busy_rep, "lea rdi, [r9 + 1]\nmov eax, ebp\nmov ecx, 1\nrep stosd")
CROSS_BUSY(busy_movs, "lea rdi, [r9 + 1]\nlea rsi, [rsp - 8]\nmov [rsi], ebp\nmovsd\nmov rsi, r12")

static void test_cross(void **state)
{
    static const struct guest_code *const all[] = { &cross_mov, &cross_alias, &cross_lock, &busy_mov,
                                                    &busy_stos, &busy_rep,    &busy_movs };

    for (unsigned k = 0; k < ARRAY_LEN(all); k++)
        go_smp(*state, all[k],
               k < 3 ? changes / HANDOVERS_PART : changes / HANDOVERS_PART / 4); /* the busy ones take long */
}

/*
 * Out of step: processor 0 toggles one byte of a function that the others call all the time; they may see the old or
 * the new one, but nothing else. Once it has published that it is done, they serialize and must see the last one.
 */
#define TOGGLE(name, store)                                                                                            \
    GUEST(name, "lea r9, [rip + .L" #name "_f]\n"                                                                      \
                ".L" #name ": mov eax, ebp\n"                                                                          \
                "and al, 1\n" store "\n"                                                                               \
                "dec ebp\n"                                                                                            \
                "jnz .L" #name "\n"                                                                                    \
                "mov al, 3\n" store "\n"                                                                               \
                "mov dword ptr [rsi], 1\n"                                                                             \
                "hlt\n"                                                                                                \
                ".org smc_" #name " + 0x1000\n"                                                                        \
                ".L" #name "_r: call .L" #name "_f\n"                                                                  \
                "cmp eax, 1\n"                                                                                         \
                "jbe .L" #name "_go\n"                                                                                 \
                "cmp eax, 3\n" /* written, but perhaps not published */                                                \
                "jne .L" #name "_bad\n"                                                                                \
                ".L" #name "_go: cmp dword ptr [rsi], 1\n"                                                             \
                "jne .L" #name "_r\n"                                                                                  \
                "xor eax, eax\n"                                                                                       \
                "cpuid\n"                                                                                              \
                "call .L" #name "_f\n"                                                                                 \
                "cmp eax, 3\n"                                                                                         \
                "jne .L" #name "_bad\n"                                                                                \
                "xor ebp, ebp\n"                                                                                       \
                "hlt\n"                                                                                                \
                ".L" #name "_bad: ud2\n"                                                                               \
                ".org smc_" #name " + 0x1800\n"                                                                        \
                ".L" #name "_f: mov eax, 1\n"                                                                          \
                "ret\n")
TOGGLE(toggle, "mov [r9 + 1], al")
TOGGLE(toggle_stos, "lea rdi, [r9 + 1]\nstosb")
TOGGLE(toggle_rep, "lea rdi, [r9 + 1]\nmov ecx, 1\nrep stosb")

static void test_toggle(void **state)
{
    static const struct guest_code *const all[] = { &toggle, &toggle_stos, &toggle_rep };
    struct smp *s = *state;

    for (unsigned k = 0; k < 8 * ARRAY_LEN(all); k++) {
        im_put64(s->cpu[0], SHARED, 0);
        go_smp(s, all[k % ARRAY_LEN(all)], changes / 2);
    }
}

/*
 * All processors at once, each on code of its own that shares a page with that of the others: a function that it
 * changes and calls, or the instruction behind the store. No processor touches the code of another.
 */
GUEST(neighbours, ".Lnb: lea r9, [rip + .Lnb_f]\n"
                  "lea r9, [r9 + r8 * 4]\n" /* 32 bytes each: two in one line */
                  ".Lnb_l: mov [r9 + 1], ebp\n"
                  "call r9\n"
                  "add rbx, rax\n"
                  "dec ebp\n"
                  "jnz .Lnb_l\n"
                  "hlt\n"
                  ".org smc_neighbours + 0x1000\n"
                  "jmp .Lnb\n"
                  ".org smc_neighbours + 0x1800\n"
                  ".Lnb_f: mov eax, 0\nret\n.balign 32\nmov eax, 0\nret\n.balign 32\nmov eax, 0\nret\n")
#define NEIGHBOUR(n)                                                                                                   \
    ".balign 32\n.Lnn" n ": mov [rip + .Lnn_next" n " + 1], ebp\n.Lnn_next" n ": mov eax, 0x11111111\nadd rbx, rax\n"  \
    "dec ebp\njnz .Lnn" n "\nhlt\n"
GUEST(neighbours_next, NEIGHBOUR("0") NEIGHBOUR("1") NEIGHBOUR("2") ".org smc_neighbours_next + 0x1000\n"
                                                                    "lea r9, [rip + .Lnn0]\n"
                                                                    "lea r9, [r9 + r8 * 4]\n"
                                                                    "jmp r9\n")

static void test_neighbours(void **state)
{
    static const struct guest_code *const all[] = { &neighbours, &neighbours_next };
    struct smp *s = *state;

    for (unsigned j = 0; j < ARRAY_LEN(all); j++) {
        go_smp(s, all[j], changes);
        for (unsigned k = 0; k < CPUS; k++)
            assert_int_equal(s->cpu[k]->c->gpr[X86_RBX], sum_to(changes));
    }
}

#define TEST(f)                                                                                                        \
    cmocka_unit_test_setup_teardown(f, set_up, tear_down),                                                             \
    {                                                                                                                  \
#f ", user", f, set_up_user, tear_down, NULL                                                                   \
    }
#define SMP_TEST(f)                                                                                                    \
    cmocka_unit_test_setup_teardown(f, smp_up, smp_down),                                                              \
    {                                                                                                                  \
#f ", user", f, smp_up_user, smp_down, NULL                                                                    \
    }

int main(void)
{
    const char *longer = getenv("TEST_ROUNDS");
    if (longer)
        changes = (unsigned)strtoul(longer, NULL, 10) / 12 * 12;
    const struct CMUnitTest tests[] = {
        TEST(test_next_insn),
        TEST(test_opcode),
        TEST(test_same_line),
        TEST(test_branch),
        TEST(test_function),
        TEST(test_two_views),
        cmocka_unit_test_setup_teardown(test_remap, set_up, tear_down),
        TEST(test_dma_between_runs),
        TEST(test_dma_running),
        SMP_TEST(test_cross),
        SMP_TEST(test_toggle),
        SMP_TEST(test_neighbours),
    };

    alarm(550); /* a hang must not pass for work */
    return ENGINE_TESTS_RUN("smc", tests);
}
