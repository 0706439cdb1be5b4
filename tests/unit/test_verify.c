/* SPDX-License-Identifier: MIT */
/*
 * Verifying the translator: right translations pass, and wrong ones, which the test makes by putting host code behind
 * one guest instruction, are found and told. What once was a difference is among the programs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <Zydis/Zydis.h>

#include "engines.h"
#include "vector_machine.h"

struct ver {
    struct im *t;
    FILE *f;
    char *report;
    size_t len;
    uint64_t compared, unsure;
};

static int smp_create(struct vcpu *v)
{
    v->tuning.cpus = 4;
    return engine_verify_create(v);
}

static void ver_up(struct ver *v, bool smp)
{
    struct engine_ops ops = *engine_verify();

    *v = (struct ver){ 0 };
    if (smp)
        ops.create = smp_create;
    v->t = vm_new(&ops);
    v->t->v.ops = engine_verify();
    v->f = open_memstream(&v->report, &v->len);
    v->t->v.tuning.report = v->f;
}

static void ver_down(struct ver *v)
{
    im_free(v->t);
    fclose(v->f);
    free(v->report);
}

static void put(void *arg, const char *name, uint64_t value)
{
    struct ver *v = arg;

    if (!strcmp(name, "verify.instructions"))
        v->compared = value;
    if (!strcmp(name, "verify.memory_changed_meanwhile"))
        v->unsure = value;
}

static uint64_t compared(struct ver *v)
{
    v->t->v.ops->stats(&v->t->v, put, v);
    return v->compared;
}

/* ---- what is right ---- */

static const struct program {
    const char *name, *code;
    size_t len;
    unsigned insns;  /* of them at least are compared */
    unsigned unsure; /* paths that walks of page tables interfere with */
} programs[] = {
#define PROGRAM(name, insns, code)                                                                                     \
    {                                                                                                                  \
        name, code "\xf4", sizeof(code), insns, 0                                                                      \
    }
    PROGRAM("mov eax, 5; add eax, 3; dec eax; jnz", 18, "\xb8\x05\0\0\0\x83\xc0\x03\xff\xc8\x75\xfc"),
    PROGRAM("push, pop, call, ret", 6, "\x50\x59\xe8\x02\0\0\0\xeb\x01\xc3\x90"),
    PROGRAM("mov [rbx], rax; add [rbx], rax; mov rcx, [rbx]; xchg; cmpxchg; bts [rbx], rdx", 6,
            "\x48\x89\x03\x48\x01\x03\x48\x8b\x0b\x87\x0b\xf0\x0f\xb1\x0b\x48\x0f\xab\x13"),
    PROGRAM("mov ecx, 100; mov rdi, rbx; rep stosb; mov rsi, rbx; mov ecx, 64; rep movsb", 6,
            "\xb9\x64\0\0\0\x48\x89\xdf\xf3\xaa\x48\x89\xde\xb9\x40\0\0\0\xf3\xa4"),
    PROGRAM("std; lea rdi, [rbx + 64]; mov ecx, 8; rep stosd; cld", 3,
            "\xfd\x48\x8d\x7b\x40\xb9\x08\0\0\0\xf3\xab\xfc"),
    PROGRAM("movdqu xmm0, [rbx]; paddd xmm0, xmm0; movdqu [rbx], xmm0; ldmxcsr", 3,
            "\xf3\x0f\x6f\x03\x66\x0f\xfe\xc0\xf3\x0f\x7f\x03"),
    PROGRAM("fld1; fld tword [rbx]; faddp; fstp qword [rbx]; fwait", 4, "\xd9\xe8\xdb\x2b\xde\xc1\xdd\x1b\x9b"),
    PROGRAM("rdtsc; rdtsc; sub; shl eax, 7; rol ecx, cl; imul; bsf", 6,
            "\x0f\x31\x0f\x31\x29\xc2\xc1\xe0\x07\xd3\xc1\x0f\xaf\xc1\x0f\xbc\xca"),
    PROGRAM("pushf; popf; cli; cld; lahf; pause", 4, "\x9c\x9d\xfa\xfc\x9f\xf3\x90"),
    PROGRAM("an access that crosses a page", 2, "\x48\x89\x83\xfc\x0f\0\0\x90\x90"),
    PROGRAM("mov rax, cr3; mov cr3, rax; invlpg [rbx]; mov [rbx], rax", 3,
            "\x0f\x20\xd8\x0f\x22\xd8\x0f\x01\x3b\x48\x89\x03"),
    { "a table entry is written, used, and read: A is set",
      "\xc7\x04\x25\xf8\x6f\0\0\x03\xf0\x1f\0\x8b\x04\x25\0\xf0\x1f\0\x8b\x04\x25\xf8\x6f\0\0\xf4", 26, 3, 1 },
    /* the shadow of STI goes with the instruction behind it, and there is none if IF was set */
    PROGRAM("sti; jmp; nop; cli", 2, "\xfb\xeb\0\x90\xfa"),
    PROGRAM("sti; sti; nop; cli", 1, "\xfb\xfb\x90\xfa"),
    PROGRAM("sti; fld1; fstp; cli", 1, "\xfb\xd9\xe8\xdd\xd8\xfa"),
    PROGRAM("a 66 prefix of a branch counts on AMD", 0, "\x66\x0f\x84\x02\0\x90\x90\x90\x90"),
};

static void run_programs(bool smp)
{
    for (unsigned k = 0; k < ARRAY_LEN(programs); k++) {
        const struct program *p = &programs[k];
        struct ver v;

        ver_up(&v, smp);
        while (im_exec(v.t, p->code, p->len) == EXIT_PAUSE)
            ;
        fflush(v.f);
        if (v.t->v.exit.kind != EXIT_HLT || im_vector(v.t) >= 0 || v.len)
            fail_msg("%s: exit %d, vector %d: %s", p->name, v.t->v.exit.kind, im_vector(v.t), v.report);
        if (compared(&v) < p->insns)
            fail_msg("%s: %lu instructions were compared", p->name, v.compared);
        if (v.unsure > p->unsure)
            fail_msg("%s: memory is said to have changed meanwhile", p->name);
        ver_down(&v);
    }
}

static void test_right(void **state)
{
    (void)state;
    run_programs(false);
}

/* Then blocks have one instruction. */
static void test_right_smp(void **state)
{
    (void)state;
    run_programs(true);
}

/* STI is the last of its page, and so of its block. */
static void test_sti_at_page_end(void **state)
{
    struct ver v;

    (void)state;
    ver_up(&v, false);
    im_load(v.t, IM_CODE + 0xffe, "\x90\xfb\x90\xfa\xf4", 5);
    im_edit(v.t)->rip = IM_CODE + 0xffe;
    im_done(v.t);
    assert_int_equal(im_run(v.t), EXIT_HLT);
    assert_int_equal(compared(&v), 3); /* the NOP behind STI is left to the interpreter: the shadow was there */
    ver_down(&v);
}

/* The last byte of all addresses is no wrap: the path must not end where the translator goes on. */
static void test_last_byte(void **state)
{
    struct ver v;

    (void)state;
    ver_up(&v, false);
    im_put64(v.t, 0x1000 + 8 * 511, 0x2003); /* the last 2 MiB are the first ones */
    im_put64(v.t, 0x2000 + 8 * 511, 0x13003);
    im_put64(v.t, 0x13000 + 8 * 511, 0x83);
    im_put64(v.t, 0x1ffff8, 0x5aUL << 56);
    /* mov rsi, -1; mov edi, ebx; movsb */
    assert_int_equal(IM_EXEC(v.t, "\x48\xc7\xc6\xff\xff\xff\xff\x89\xdf\xa4\xf4"), EXIT_HLT);
    assert_int_equal(im_vector(v.t), -1);
    assert_int_equal(v.t->c->gpr[X86_RSI], 0);
    assert_int_equal(im_get64(v.t, IM_DATA), 0x5a);
    assert_int_equal(compared(&v), 3);
    ver_down(&v);
}

static void test_exception(void **state)
{
    struct ver v;

    (void)state;
    ver_up(&v, false);
    assert_int_equal(IM_EXEC(v.t, "\xb8\x01\0\0\0\x31\xc9\x31\xd2\xf7\xf1\xf4"), EXIT_HLT); /* div ecx */
    assert_int_equal(im_vector(v.t), X86_DE);
    assert_int_equal(im_frame(v.t, 0), IM_CODE + 9);
    ver_down(&v);
}

/* ---- what is wrong ---- */

static const struct wrong {
    const char *name;
    uint16_t mnemonic;
    const char *host; /* put behind it */
    uint8_t n;
    const char *code;
    size_t len;
    const char *tells[4];
} wrongs[] = {
#define WRONG(name, mnemonic, host, code, ...)                                                                         \
    {                                                                                                                  \
        name, ZYDIS_MNEMONIC_##mnemonic, host, sizeof(host) - 1, code "\xf4", sizeof(code),                            \
        {                                                                                                              \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }
    WRONG("lea rbx, [rbx + 1]", ADD, "\x48\x8d\x5b\x01", "\x01\xc8", "01 c8", "add eax, ecx",
          "rbx                              0x140001              0x140000"),
    WRONG("cmc", ADD, "\xf5", "\x01\xc8", "add eax, ecx", "rflags               0x47 (ZF PF CF)  0x46 (ZF PF)"),
    WRONG("pcmpeqd xmm3, xmm3", PADDD, "\x66\x0f\x76\xdb", "\x66\x0f\xfe\xc0", "paddd xmm0, xmm0", "ymm3 "),
    WRONG("fchs", FLD1, "\xd9\xe0", "\xd9\xe8", "fld1", "st0                  bfff 8000000000000000\n"),
    WRONG("not byte [r11 + r10]", MOV, "\x43\xf6\x14\x13", "\x89\x03", "mov [rbx], eax",
          "[0000000000140000] 4 bytes\n      translator         ff000000\n      interpreter        00000000"),
    WRONG("not byte [r11 + r10 + 8]", MOV, "\x43\xf6\x54\x13\x08", "\x89\x03", "mov [rbx], eax",
          "[0000000000140008] changed by the translator only: ff, was 00"),
    WRONG("in the middle", ADD, "\x48\x8d\x5b\x01", "\x90\xff\xc1\x01\xc8\xff\xc2\xeb\0", "verify: at 0x100003",
          "  0000000000100003  01 c8", "\n  The translator left"),
    WRONG("before the interpreter's turn", ADD, "\x48\x8d\x5b\x01", "\x01\xc8\x0f\xa2", "01 c8", "rbx "),
};

static void test_wrong(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(wrongs); k++) {
        const struct wrong *w = &wrongs[k];
        struct ver v;

        ver_up(&v, false);
        v.t->v.tuning.spoil.mnemonic = w->mnemonic;
        v.t->v.tuning.spoil.n = w->n;
        memcpy(v.t->v.tuning.spoil.code, w->host, w->n);
        assert_int_equal(im_exec(v.t, w->code, w->len), EXIT_FATAL);
        assert_non_null(strstr(v.t->v.exit.text, "verify: at 0x10000"));
        fflush(v.f);
        for (unsigned j = 0; j < ARRAY_LEN(w->tells) && w->tells[j]; j++)
            if (!strstr(v.report, w->tells[j]))
                fail_msg("%s: no \"%s\" in: %s", w->name, w->tells[j], v.report);
        ver_down(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),     cmocka_unit_test(test_right_smp), cmocka_unit_test(test_sti_at_page_end),
        cmocka_unit_test(test_last_byte), cmocka_unit_test(test_exception), cmocka_unit_test(test_wrong),
    };
    return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
