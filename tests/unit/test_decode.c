/* SPDX-License-Identifier: MIT */
/* x86_decode: forms, sizes, flags and refusals in all three modes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include <Zydis/Mnemonic.h>

#include "cpu/interp/interp.h"
#include "x86/insn.h"

static struct x86_insn dec(enum x86_mode mode, const char *bytes, unsigned len)
{
    struct x86_insn i;

    assert_int_equal(x86_decode((const uint8_t *)bytes, len, mode, &i), X86_DECODE_OK);
    assert_int_equal(i.len, len);
    return i;
}
#define DEC(mode, bytes) dec(mode, bytes, sizeof(bytes) - 1)

static void expect_status(enum x86_mode mode, const char *bytes, unsigned len, enum x86_decode_status st)
{
    struct x86_insn i;
    assert_int_equal(x86_decode((const uint8_t *)bytes, len, mode, &i), st);
}
#define STATUS(mode, bytes, st) expect_status(mode, bytes, sizeof(bytes) - 1, st)

static void test_forms(void **state)
{
    struct x86_insn i = DEC(X86_MODE_64, "\x48\x01\xd8"); /* add rax, rbx */

    (void)state;
    assert_int_equal(i.op, ZYDIS_MNEMONIC_ADD);
    assert_int_equal(i.form, X86_F_RR);
    assert_int_equal(i.osz, 8);
    assert_int_equal(i.r0, X86_RAX);
    assert_int_equal(i.r1, X86_RBX);
    assert_int_equal(i.flags, 0);

    i = DEC(X86_MODE_64, "\x00\xe5"); /* add ch, ah */
    assert_int_equal(i.osz, 1);
    assert_int_equal(i.r0, 9);
    assert_int_equal(i.r1, 1);
    i = DEC(X86_MODE_64, "\x40\x00\xe5"); /* add bpl, spl */
    assert_int_equal(i.r0, 8 * X86_RBP);
    assert_int_equal(i.r1, 8 * X86_RSP);
    i = DEC(X86_MODE_64, "\x45\x00\xe5"); /* add r13b, r12b */
    assert_int_equal(i.r0, 8 * X86_R13);
    assert_int_equal(i.r1, 8 * X86_R12);

    i = DEC(X86_MODE_64, "\x83\x44\x8d\x10\xff"); /* add dword [rbp+rcx*4+16], -1 */
    assert_int_equal(i.form, X86_F_MI);
    assert_int_equal(i.osz, 4);
    assert_int_equal(i.base, X86_RBP);
    assert_int_equal(i.index, X86_RCX);
    assert_int_equal(i.scale, 2);
    assert_int_equal(i.disp, 16);
    assert_int_equal(i.imm, -1);
    assert_int_equal(i.seg, X86_SEG_NONE);

    i = DEC(X86_MODE_64, "\x0f\xb6\x01"); /* movzx eax, byte [rcx] */
    assert_int_equal(i.form, X86_F_RM);
    assert_int_equal(i.osz, 4);
    assert_int_equal(i.ssz, 1);
    i = DEC(X86_MODE_64, "\x48\x0f\xa5\x01"); /* shld [rcx], rax, cl */
    assert_int_equal(i.form, X86_F_MRR);
    assert_int_equal(i.r0, X86_RAX);
    i = DEC(X86_MODE_64, "\xd1\x21"); /* shl dword [rcx], 1 */
    assert_int_equal(i.form, X86_F_MI);
    assert_int_equal(i.imm, 1);
    i = DEC(X86_MODE_64, "\xd3\xe1"); /* shl ecx, cl */
    assert_int_equal(i.form, X86_F_RR);
    i = DEC(X86_MODE_64, "\xc8\x34\x12\x05"); /* enter 0x1234, 5 */
    assert_int_equal(i.form, X86_F_II);
    assert_int_equal(i.imm, 0x1234 | 5L << 32);
    i = DEC(X86_MODE_64, "\xe6\x80"); /* out 0x80, al */
    assert_int_equal(i.form, X86_F_IR);
    assert_int_equal(i.imm, 0x80);
}

static void test_addresses(void **state)
{
    struct x86_insn i = DEC(X86_MODE_64, "\x48\x8b\x05\x10\x00\x00\x00"); /* mov rax, [rip+16] */

    (void)state;
    assert_int_equal(i.base, X86_REG_IP);
    assert_int_equal(i.disp, 16 + 7);
    assert_false(i.flags & X86_I_SLOW_EA);
    i = DEC(X86_MODE_64, "\x48\x8b\x05\xfe\xff\xff\x7f"); /* past what disp holds */
    assert_true(i.flags & X86_I_SLOW_EA);
    assert_int_equal(i.disp, 0x7ffffffe);
    i = DEC(X86_MODE_64, "\x64\x8b\x00"); /* mov eax, fs:[rax] */
    assert_int_equal(i.seg, X86_FS);
    i = DEC(X86_MODE_64, "\x2e\x8b\x00"); /* cs: means nothing here */
    assert_int_equal(i.seg, X86_SEG_NONE);
    i = DEC(X86_MODE_64, "\x67\x8b\x00"); /* mov eax, [eax] */
    assert_int_equal(i.asz, 4);
    assert_true(i.flags & X86_I_SLOW_EA);
    i = DEC(X86_MODE_64, "\xa1\x11\x22\x33\x44\x55\x66\x77\x00"); /* mov eax, moffs */
    assert_int_equal(i.imm, 0x77665544332211);
    assert_int_equal(i.base, X86_REG_ZERO);
    assert_int_equal(i.form, X86_F_RM);
    i = DEC(X86_MODE_64, "\xa1\x11\x22\x33\x44\x00\x00\x00\x00");
    assert_int_equal(i.imm, 0);
    assert_int_equal(i.disp, 0x44332211);
    i = DEC(X86_MODE_16, "\x8b\x42\x10"); /* mov ax, [bp+si+16] */
    assert_int_equal(i.base, X86_RBP);
    assert_int_equal(i.index, X86_RSI);
    assert_int_equal(i.seg, X86_SS_SEG);
    assert_int_equal(i.asz, 2);
    assert_int_equal(i.osz, 2);
    i = DEC(X86_MODE_32, "\x26\x8b\x04\x24"); /* mov eax, es:[esp] */
    assert_int_equal(i.seg, X86_ES);
    assert_int_equal(i.asz, 4);
}

static void test_pseudo_ops(void **state)
{
    struct x86_insn i;

    (void)state;
    i = DEC(X86_MODE_64, "\x8e\xd8"); /* mov ds, ax */
    assert_int_equal(i.op, X86_OP_MOV_TO_SEG);
    assert_int_equal(i.r0, X86_DS);
    assert_true(i.flags & X86_I_BRANCH);
    i = DEC(X86_MODE_64, "\x8c\x18"); /* mov [rax], ds */
    assert_int_equal(i.op, X86_OP_MOV_FROM_SEG);
    assert_int_equal(i.form, X86_F_MR);
    assert_int_equal(i.osz, 2);
    i = DEC(X86_MODE_64, "\x8c\xd8"); /* mov eax, ds */
    assert_int_equal(i.osz, 4);
    i = DEC(X86_MODE_64, "\x44\x0f\x22\xc0"); /* mov cr8, rax */
    assert_int_equal(i.op, X86_OP_MOV_TO_CR);
    assert_int_equal(i.r0, 8);
    assert_int_equal(i.osz, 8);
    i = DEC(X86_MODE_64, "\x0f\x21\xf8"); /* mov rax, dr7 */
    assert_int_equal(i.op, X86_OP_MOV_FROM_DR);
    assert_int_equal(i.r1, 7);
    i = DEC(X86_MODE_64, "\x0f\xa0"); /* push fs */
    assert_int_equal(i.op, X86_OP_PUSH_SEG);
    assert_int_equal(i.r0, X86_FS);
    i = DEC(X86_MODE_32, "\x9a\x11\x22\x33\x44\x55\x66"); /* call 0x6655:0x44332211 */
    assert_int_equal(i.op, X86_OP_CALL_FAR);
    assert_int_equal(i.form, X86_F_FAR);
    assert_int_equal(i.imm, 0x665544332211);
    i = DEC(X86_MODE_64, "\xff\x28"); /* jmp far [rax] */
    assert_int_equal(i.op, X86_OP_JMP_FAR);
    assert_int_equal(i.osz, 4);
    i = DEC(X86_MODE_64, "\x48\xcb"); /* retfq */
    assert_int_equal(i.op, X86_OP_RET_FAR);
    assert_int_equal(i.osz, 8);
    i = DEC(X86_MODE_64, "\xa5"); /* movsd, the string one */
    assert_int_equal(i.op, X86_OP_MOVSD_STR);
    assert_false(i.flags & X86_I_VECTOR);
    i = DEC(X86_MODE_64, "\xf2\x0f\x10\x00"); /* movsd xmm0, [rax] */
    assert_int_equal(i.op, ZYDIS_MNEMONIC_MOVSD);
    assert_true(i.flags & X86_I_VECTOR);
    assert_int_equal(i.osz, 8);
    i = DEC(X86_MODE_64, "\x0f\x01\x10"); /* lgdt [rax] */
    assert_int_equal(i.osz, 8);
    i = DEC(X86_MODE_32, "\x0f\x01\x20"); /* smsw [eax] */
    assert_int_equal(i.osz, 2);
}

static void test_strings(void **state)
{
    struct x86_insn i = DEC(X86_MODE_64, "\xf3\x65\x48\xa5"); /* rep movsq with gs: */

    (void)state;
    assert_int_equal(i.op, ZYDIS_MNEMONIC_MOVSQ);
    assert_int_equal(i.seg, X86_GS);
    assert_int_equal(i.osz, 8);
    assert_true(i.flags & X86_I_REP);
    i = DEC(X86_MODE_32, "\xf2\xae"); /* repne scasb */
    assert_true(i.flags & X86_I_REPNE);
    assert_int_equal(i.osz, 1);
    i = DEC(X86_MODE_64, "\xf2\xa4"); /* F2 repeats MOVS too */
    assert_true(i.flags & (X86_I_REP | X86_I_REPNE));
    i = DEC(X86_MODE_16, "\x67\x66\xab"); /* stosd [edi] */
    assert_int_equal(i.asz, 4);
    assert_int_equal(i.osz, 4);
    i = DEC(X86_MODE_64, "\xf3\x6d"); /* rep insd */
    assert_true(i.flags & X86_I_BRANCH);
}

static void test_flags(void **state)
{
    struct x86_insn i;

    (void)state;
    assert_true(DEC(X86_MODE_64, "\xf0\x01\x08").flags & X86_I_LOCK);
    assert_true(DEC(X86_MODE_64, "\x87\x08").flags & X86_I_LOCK);
    assert_false(DEC(X86_MODE_64, "\x87\xc8").flags & X86_I_LOCK);
    static const char *const enders[] = { "\x75\x00", "\xc3",     "\xf4",     "\xfa",         "\xfb",         "\x9d",
                                          "\xcf",     "\x0f\xa2", "\x0f\x05", "\x0f\x30",     "\x0f\x01\xca", "\xec",
                                          "\xcc",     "\x0f\x0b", "\xff\xe0", "\x0f\x01\x38", "\x0f\x06" };
    static const uint8_t lens[] = { 2, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 1, 1, 2, 2, 3, 2 };
    for (unsigned k = 0; k < ARRAY_LEN(enders); k++)
        assert_true(dec(X86_MODE_64, enders[k], lens[k]).flags & X86_I_BRANCH);
    assert_false(DEC(X86_MODE_64, "\x0f\x31").flags & X86_I_BRANCH); /* rdtsc */
    assert_false(DEC(X86_MODE_64, "\x9c").flags & X86_I_BRANCH);     /* pushf */
    assert_true(DEC(X86_MODE_64, "\x55").flags & X86_I_STACK);
    i = DEC(X86_MODE_64, "\xf3\x0f\x1e\xfa"); /* endbr64 is a NOP without CET */
    assert_int_equal(i.op, ZYDIS_MNEMONIC_NOP);
    i = DEC(X86_MODE_64, "\xdb\x28"); /* fld tword [rax] */
    assert_true(i.flags & X86_I_VECTOR);
    assert_int_equal(i.osz, 10);
    i = DEC(X86_MODE_64, "\x0f\xae\x00"); /* fxsave: an image */
    assert_true(i.flags & X86_I_VECTOR);
    assert_int_equal(i.osz, 0);
    i = DEC(X86_MODE_64, "\xc4\xe2\x6d\x90\x04\x88"); /* vpgatherdd ymm0, [rax+ymm1*4], ymm2 */
    assert_int_equal(i.index, X86_REG_ZERO);
    assert_int_equal(i.r2, X86_VSIB | 1);
    assert_int_equal(i.base, X86_RAX);
    i = DEC(X86_MODE_64, "\x66\x0f\xf7\xc1"); /* maskmovdqu: hidden [rdi] */
    assert_int_equal(i.base, X86_RDI);
    assert_int_equal(i.osz, 16);
    assert_false(DEC(X86_MODE_64, "\x0f\xae\xf0").flags & X86_I_VECTOR); /* mfence */
    assert_false(DEC(X86_MODE_64, "\x0f\xc3\x08").flags & X86_I_VECTOR); /* movnti */
}

static void test_refusals(void **state)
{
    (void)state;
    STATUS(X86_MODE_64, "\xf0\x01\xc8", X86_DECODE_UD);       /* lock add eax, ecx */
    STATUS(X86_MODE_64, "\xf0\x8b\x00", X86_DECODE_UD);       /* lock mov */
    STATUS(X86_MODE_64, "\x8e\xc8", X86_DECODE_UD);           /* mov cs, ax */
    STATUS(X86_MODE_64, "\x06", X86_DECODE_UD);               /* push es */
    STATUS(X86_MODE_64, "\x0f\x20\xc8", X86_DECODE_UD);       /* mov rax, cr1 */
    STATUS(X86_MODE_64, "\xd4\x0a", X86_DECODE_UD);           /* aam */
    STATUS(X86_MODE_64, "\x48\xb8\x00\x00", X86_DECODE_MORE); /* half a mov */
    STATUS(X86_MODE_64, "\x66", X86_DECODE_MORE);
    STATUS(X86_MODE_64, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", X86_DECODE_LONG);
    STATUS(X86_MODE_64, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", X86_DECODE_OK);
    STATUS(X86_MODE_32, "\x06", X86_DECODE_OK);
    STATUS(X86_MODE_32, "\xd4\x0a", X86_DECODE_OK);
    STATUS(X86_MODE_16, "\xf0\x0f\xb1\x0f", X86_DECODE_OK); /* lock cmpxchg */
}

static void test_branches(void **state)
{
    struct x86_insn i = DEC(X86_MODE_64, "\xe8\x10\x00\x00\x00");

    (void)state;
    assert_int_equal(i.form, X86_F_I);
    assert_int_equal(i.imm, 16);
    assert_int_equal(i.osz, 8);
    i = DEC(X86_MODE_16, "\xe9\xfd\xff");
    assert_int_equal(i.imm, -3);
    assert_int_equal(i.osz, 2);
    i = DEC(X86_MODE_32, "\x75\xfe");
    assert_int_equal(i.osz, 4);
    assert_int_equal(i.imm, -2);
    i = DEC(X86_MODE_64, "\x67\xe3\x00"); /* jecxz */
    assert_int_equal(i.asz, 4);
}

/* Whatever the bytes: fields in range, and the choice of a handler reads no table past its end (MODE=asan). */
static void test_any_bytes(void **state)
{
    static const uint8_t prefixes[] = { 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x48, 0x4f, 0x0f, 0x0f, 0x0f };
    uint64_t x = 88172645463325252UL;
    unsigned good = 0;

    (void)state;
    for (unsigned k = 0; k < 300000; k++) {
        uint8_t b[16];
        struct x86_insn i;

        for (unsigned j = 0; j < sizeof(b); j++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            b[j] = (uint8_t)(j < 3 && x >> 62 ? prefixes[(x >> 8) % ARRAY_LEN(prefixes)] : x >> 16);
        }
        if (x86_decode(b, 15, (enum x86_mode)(k % 3), &i) != X86_DECODE_OK)
            continue;
        good++;
        assert_in_range(i.len, 1, 15);
        assert_true(i.form < X86_F_COUNT && i.scale < 4 && i.seg < X86_SREGS);
        assert_true(i.base < X86_GPR_SLOTS && i.index < X86_GPR_SLOTS);
        assert_true(i.asz == 2 || i.asz == 4 || i.asz == 8);
        if (i.flags & X86_I_VECTOR)
            continue;
        assert_true(i.osz <= 64 && (i.osz & (i.osz - 1)) == 0);
        interp_pick(&i);
    }
    assert_true(good > 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),    cmocka_unit_test(test_addresses), cmocka_unit_test(test_pseudo_ops),
        cmocka_unit_test(test_strings),  cmocka_unit_test(test_flags),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_branches), cmocka_unit_test(test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
