/* SPDX-License-Identifier: MIT */
/* Which family has the handlers of an operation. What is not listed is asked of the system families (sys.h). */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/core.h"

#define Z(name) ZYDIS_MNEMONIC_##name

static const interp_pick_fn table[X86_OP_LAST] = {
    [Z(ADD)] = alu_pick,           [Z(OR)] = alu_pick,           [Z(ADC)] = alu_pick,
    [Z(SBB)] = alu_pick,           [Z(AND)] = alu_pick,          [Z(SUB)] = alu_pick,
    [Z(XOR)] = alu_pick,           [Z(CMP)] = alu_pick,          [Z(TEST)] = alu_pick,
    [Z(INC)] = alu_pick,           [Z(DEC)] = alu_pick,          [Z(NEG)] = alu_pick,
    [Z(NOT)] = alu_pick,

    [Z(SHL)] = shift_pick,         [Z(SHR)] = shift_pick,        [Z(SAR)] = shift_pick,
    [Z(ROL)] = shift_pick,         [Z(ROR)] = shift_pick,        [Z(RCL)] = shift_pick,
    [Z(RCR)] = shift_pick,         [Z(SHLD)] = shift_pick,       [Z(SHRD)] = shift_pick,

    [Z(MUL)] = muldiv_pick,        [Z(IMUL)] = muldiv_pick,      [Z(DIV)] = muldiv_pick,
    [Z(IDIV)] = muldiv_pick,

    [Z(BT)] = bits_pick,           [Z(BTS)] = bits_pick,         [Z(BTR)] = bits_pick,
    [Z(BTC)] = bits_pick,          [Z(BSF)] = bits_pick,         [Z(BSR)] = bits_pick,
    [Z(LZCNT)] = bits_pick,        [Z(TZCNT)] = bits_pick,       [Z(POPCNT)] = bits_pick,
    [Z(CRC32)] = bits_pick,        [Z(ADCX)] = bmi_pick,         [Z(ADOX)] = bmi_pick,
    [Z(ANDN)] = bmi_pick,          [Z(BEXTR)] = bmi_pick,        [Z(BLSI)] = bmi_pick,
    [Z(BLSR)] = bmi_pick,          [Z(BLSMSK)] = bmi_pick,       [Z(BZHI)] = bmi_pick,
    [Z(SARX)] = bmi_pick,          [Z(SHLX)] = bmi_pick,         [Z(SHRX)] = bmi_pick,
    [Z(PDEP)] = bmi_pick,          [Z(PEXT)] = bmi_pick,         [Z(RORX)] = bmi_pick,
    [Z(MULX)] = bmi_pick,

    [Z(MOV)] = move_pick,          [Z(MOVZX)] = move_pick,       [Z(MOVSX)] = move_pick,
    [Z(MOVSXD)] = move_pick,       [Z(MOVBE)] = move_pick,       [Z(MOVNTI)] = move_pick,
    [Z(MOVDIRI)] = move_pick,      [Z(MOVDIR64B)] = move_pick,   [Z(BSWAP)] = move_pick,
    [Z(XCHG)] = move_pick,         [Z(LEA)] = move_pick,         [Z(XLAT)] = move_pick,
    [Z(CBW)] = move_pick,          [Z(CWDE)] = move_pick,        [Z(CDQE)] = move_pick,
    [Z(CWD)] = move_pick,          [Z(CDQ)] = move_pick,         [Z(CQO)] = move_pick,
    [Z(CMOVO)] = move_pick,        [Z(CMOVNO)] = move_pick,      [Z(CMOVB)] = move_pick,
    [Z(CMOVNB)] = move_pick,       [Z(CMOVZ)] = move_pick,       [Z(CMOVNZ)] = move_pick,
    [Z(CMOVBE)] = move_pick,       [Z(CMOVNBE)] = move_pick,     [Z(CMOVS)] = move_pick,
    [Z(CMOVNS)] = move_pick,       [Z(CMOVP)] = move_pick,       [Z(CMOVNP)] = move_pick,
    [Z(CMOVL)] = move_pick,        [Z(CMOVNL)] = move_pick,      [Z(CMOVLE)] = move_pick,
    [Z(CMOVNLE)] = move_pick,      [Z(SETO)] = move_pick,        [Z(SETNO)] = move_pick,
    [Z(SETB)] = move_pick,         [Z(SETNB)] = move_pick,       [Z(SETZ)] = move_pick,
    [Z(SETNZ)] = move_pick,        [Z(SETBE)] = move_pick,       [Z(SETNBE)] = move_pick,
    [Z(SETS)] = move_pick,         [Z(SETNS)] = move_pick,       [Z(SETP)] = move_pick,
    [Z(SETNP)] = move_pick,        [Z(SETL)] = move_pick,        [Z(SETNL)] = move_pick,
    [Z(SETLE)] = move_pick,        [Z(SETNLE)] = move_pick,

    [Z(PUSH)] = stack_pick,        [Z(POP)] = stack_pick,        [Z(PUSHA)] = stack_pick,
    [Z(PUSHAD)] = stack_pick,      [Z(POPA)] = stack_pick,       [Z(POPAD)] = stack_pick,
    [Z(ENTER)] = stack_pick,       [Z(LEAVE)] = stack_pick,      [Z(CALL)] = stack_pick,
    [Z(RET)] = stack_pick,

    [Z(JMP)] = branch_pick,        [Z(JO)] = branch_pick,        [Z(JNO)] = branch_pick,
    [Z(JB)] = branch_pick,         [Z(JNB)] = branch_pick,       [Z(JZ)] = branch_pick,
    [Z(JNZ)] = branch_pick,        [Z(JBE)] = branch_pick,       [Z(JNBE)] = branch_pick,
    [Z(JS)] = branch_pick,         [Z(JNS)] = branch_pick,       [Z(JP)] = branch_pick,
    [Z(JNP)] = branch_pick,        [Z(JL)] = branch_pick,        [Z(JNL)] = branch_pick,
    [Z(JLE)] = branch_pick,        [Z(JNLE)] = branch_pick,      [Z(JCXZ)] = branch_pick,
    [Z(JECXZ)] = branch_pick,      [Z(JRCXZ)] = branch_pick,     [Z(LOOP)] = branch_pick,
    [Z(LOOPE)] = branch_pick,      [Z(LOOPNE)] = branch_pick,

    [Z(MOVSB)] = string_pick,      [Z(MOVSW)] = string_pick,     [X86_OP_MOVSD_STR] = string_pick,
    [Z(MOVSQ)] = string_pick,      [Z(STOSB)] = string_pick,     [Z(STOSW)] = string_pick,
    [Z(STOSD)] = string_pick,      [Z(STOSQ)] = string_pick,     [Z(LODSB)] = string_pick,
    [Z(LODSW)] = string_pick,      [Z(LODSD)] = string_pick,     [Z(LODSQ)] = string_pick,
    [Z(CMPSB)] = string_pick,      [Z(CMPSW)] = string_pick,     [X86_OP_CMPSD_STR] = string_pick,
    [Z(CMPSQ)] = string_pick,      [Z(SCASB)] = string_pick,     [Z(SCASW)] = string_pick,
    [Z(SCASD)] = string_pick,      [Z(SCASQ)] = string_pick,

    [Z(CMPXCHG)] = atomic_pick,    [Z(XADD)] = atomic_pick,      [Z(CMPXCHG8B)] = atomic_pick,
    [Z(CMPXCHG16B)] = atomic_pick,

    [Z(NOP)] = misc_pick,          [Z(PAUSE)] = misc_pick,       [Z(LFENCE)] = misc_pick,
    [Z(MFENCE)] = misc_pick,       [Z(SFENCE)] = misc_pick,      [Z(CLFLUSH)] = misc_pick,
    [Z(CLFLUSHOPT)] = misc_pick,   [Z(CLWB)] = misc_pick,        [Z(CLZERO)] = misc_pick,
    [Z(PREFETCH)] = misc_pick,     [Z(PREFETCHNTA)] = misc_pick, [Z(PREFETCHT0)] = misc_pick,
    [Z(PREFETCHT1)] = misc_pick,   [Z(PREFETCHT2)] = misc_pick,  [Z(PREFETCHW)] = misc_pick,
    [Z(PREFETCHWT1)] = misc_pick,  [Z(CLC)] = misc_pick,         [Z(STC)] = misc_pick,
    [Z(CMC)] = misc_pick,          [Z(CLD)] = misc_pick,         [Z(STD)] = misc_pick,
    [Z(LAHF)] = misc_pick,         [Z(SAHF)] = misc_pick,        [Z(SALC)] = misc_pick,
    [Z(AAA)] = misc_pick,          [Z(AAS)] = misc_pick,         [Z(AAM)] = misc_pick,
    [Z(AAD)] = misc_pick,          [Z(DAA)] = misc_pick,         [Z(DAS)] = misc_pick,
    [Z(BOUND)] = misc_pick,
};

uop_fn interp_pick(const struct x86_insn *i)
{
    return table[i->op] ? table[i->op](i) : sys_pick(i);
}

void op_ud(struct interp *m, const struct uop *u)
{
    interp_ud(m, u);
}

void op_gp0(struct interp *m, const struct uop *u)
{
    interp_gp(m, u, 0);
}

void op_block_end(struct interp *m, const struct uop *u)
{
    struct block_end *e = (struct block_end *)(uintptr_t)u;

    interp_fall_through(m, e, (m->c.gpr[X86_REG_IP] + e->self->bytes) & m->ip_mask);
}
