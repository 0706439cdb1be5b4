/* SPDX-License-Identifier: MIT */
/*
 * What the system-instruction files share: descriptors in guest memory, stacks of any privilege, task switches.
 * u is the instruction, or NULL while an event is delivered (interp.h). None of these changes registers unless it
 * says so, so that a caller may do all its checks and memory accesses before it commits.
 */
#ifndef GAZDA_CPU_INTERP_SYS_H
#define GAZDA_CPU_INTERP_SYS_H

#include "cpu/interp/interp.h"
#include "x86/segment.h"

/* The handler for a system instruction, NULL if it is not one; and the families behind it. */
uop_fn sys_pick(const struct x86_insn *i);
uop_fn sysseg_pick(const struct x86_insn *i);
uop_fn far_pick(const struct x86_insn *i);
uop_fn iret_pick(const struct x86_insn *i);
uop_fn sysflags_pick(const struct x86_insn *i);
uop_fn syscall_pick(const struct x86_insn *i);
uop_fn syscr_pick(const struct x86_insn *i);
uop_fn sysmsr_pick(const struct x86_insn *i);
uop_fn io_pick(const struct x86_insn *i);
uop_fn int_pick(const struct x86_insn *i);

/* The end of a handler whose instruction may or may not end its block. */
static inline void sys_done(struct interp *m, const struct uop *u)
{
    if (u->i.flags & X86_I_BRANCH) {
        interp_retire(m, u);
        return;
    }
    NEXT_ST(m, u);
}

static inline bool sys_vm86(const struct interp *m)
{
    return m->c.rflags & X86_FL_VM;
}
static inline unsigned sys_iopl(const struct interp *m)
{
    return (m->c.rflags & X86_FL_IOPL) >> 12;
}
/* #GP(0) outside ring 0 (which virtual-8086 mode always is). */
static inline void sys_need_cpl0(struct interp *m, const struct uop *u)
{
    if (m->c.cpl != 0)
        interp_gp(m, u, 0);
}
/* #UD where selectors mean nothing. */
static inline void sys_need_protected(struct interp *m, const struct uop *u)
{
    if (x86_real_mode(&m->c) || sys_vm86(m))
        interp_ud(m, u);
}
static inline uint64_t sys_cut(uint64_t v, unsigned size)
{
    return size == 8 ? v : v & ((1UL << (size * 8)) - 1);
}

/* ORs ext into the error code of a check's fault and raises it. */
_Noreturn void sys_raise(struct interp *m, const struct uop *u, struct x86_fault f, uint32_t ext);

/* The descriptor of a selector that is not null; vector(sel | ext) if it lies outside its table. */
uint64_t sys_desc(struct interp *m, const struct uop *u, uint16_t sel, unsigned vector, uint32_t ext);
/* A system descriptor: 16 bytes in IA-32e mode (*high is the upper dword's base, else 0). */
uint64_t sys_desc_sys(struct interp *m, const struct uop *u, uint16_t sel, uint64_t *high);
/* Sets the accessed bit of a code or data descriptor in memory (and in *raw). */
void sys_desc_accessed(struct interp *m, const struct uop *u, uint16_t sel, uint64_t *raw);
/* Writes the type byte of a system descriptor (busy TSS). */
void sys_desc_set_type(struct interp *m, const struct uop *u, uint16_t sel, unsigned type);

/* Rights of explicit accesses at a CPL, with the current AC. */
enum tlb_ctx sys_ctx(const struct interp *m, unsigned cpl);

/* A stack, and a position in it, that is not or not yet SS:RSP. */
struct sys_stack {
    struct x86_seg ss;
    uint64_t sp, mask;
    enum tlb_ctx ctx;
    bool is64;
    uint32_t error; /* of #SS */
};
struct sys_stack sys_stack_current(const struct interp *m);
/* The stack that SS with these attributes gives at a CPL outside 64-bit mode. */
struct sys_stack sys_stack_legacy(const struct interp *m, struct x86_seg ss, uint64_t sp, unsigned cpl);
struct sys_stack sys_stack_long(const struct interp *m, uint64_t sp, unsigned cpl);
void sys_push(struct interp *m, const struct uop *u, struct sys_stack *s, unsigned size, uint64_t val);
uint64_t sys_pop(struct interp *m, const struct uop *u, struct sys_stack *s, unsigned size);
/* The far pointer that the memory operand is: an offset of size bytes, which it returns, then the selector. */
uint64_t sys_read_far(struct interp *m, const struct uop *u, unsigned size, uint16_t *sel);
/* Commits: RSP := s->sp under its mask. */
void sys_stack_commit_sp(struct interp *m, const struct sys_stack *s);

/* SS:(E)SP of an inner privilege out of the TSS, checked: #TS, #SS. Legacy modes. */
struct sys_stack sys_tss_stack(struct interp *m, const struct uop *u, unsigned cpl, uint32_t ext);
/* Eight bytes of a 64-bit TSS: RSPn or ISTn. #TS past the limit. */
uint64_t sys_tss_rsp(struct interp *m, const struct uop *u, unsigned off, uint32_t ext);

/* Commits CS := sel (with RPL cpl) and CPL; the caller calls interp_mode_changed when it is done. */
void sys_commit_cs(struct interp *m, uint16_t sel, uint64_t raw, unsigned cpl);
/* Whether code in this descriptor runs in 64-bit mode. */
static inline bool sys_code64(const struct interp *m, uint64_t raw)
{
    return x86_long_mode(&m->c) && (x86_desc_attr(raw) & X86_SEG_L);
}
/* #GP(error) unless ip may be executed in the code segment raw. */
void sys_check_ip(struct interp *m, const struct uop *u, uint64_t raw, uint64_t ip, uint32_t error);

/*
 * Parts of RET and IRET to a code segment. sys_return_cs returns the checked descriptor of cs; sys_return_ss the
 * stack segment for privilege RPL(cs); sys_return_drop nulls the data segments that the outer privilege may not have.
 */
uint64_t sys_return_cs(struct interp *m, const struct uop *u, uint16_t cs, uint64_t ip);
struct x86_seg sys_return_ss(struct interp *m, const struct uop *u, uint16_t ss, uint16_t cs, uint64_t cs_raw);
void sys_return_drop(struct interp *m, unsigned cpl);
/* RSP after a return to CS = cs_raw and stack ss: a 16-bit stack changes SP only. */
void sys_return_sp(struct interp *m, uint64_t sp, const struct x86_seg *ss, uint64_t cs_raw);

/* MOV and POP to a segment register, all modes and checks; commits the register. Not CS. sysseg.c */
void sys_load_sreg(struct interp *m, const struct uop *u, unsigned sreg, uint16_t sel);

/* Hardware task switch: SDM Vol. 3A, "Task Switching". Commits everything; RIP is the new task's. task.c */
enum sys_task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
struct sys_task {
    enum sys_task_reason reason;
    uint16_t sel;     /* of the TSS descriptor */
    uint64_t next_ip; /* EIP that the old task resumes at */
    uint32_t ext;
    uint64_t rflags; /* TASK_EVENT: the image to save */
    bool has_error;  /* an error code is pushed on the new stack */
    uint32_t error;
};
void sys_task_switch(struct interp *m, const struct uop *u, const struct sys_task *t);

#endif
