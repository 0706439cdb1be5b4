/* SPDX-License-Identifier: MIT */
/* Instructions that are events themselves: software interrupts, undefined opcodes, HLT, hypercalls. */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

static void software(struct interp *m, const struct uop *u, enum event_kind kind, unsigned vector)
{
    uint64_t next = interp_next_ip(m, u);

    /* Should delivery fault, the fault is that of this instruction. */
    m->c.rip = interp_ip(m, u);
    interp_deliver(m, kind, (struct x86_fault){ .vector = (uint8_t)vector }, next);
}

static void fn_int(struct interp *m, const struct uop *u)
{
    if (sys_vm86(m) && sys_iopl(m) < 3)
        interp_gp(m, u, 0);
    software(m, u, EVENT_SOFTWARE, (uint8_t)u->i.imm);
}

static void fn_int3(struct interp *m, const struct uop *u)
{
    if (m->v->debug.sw_break) {
        m->v->exit.debug.reason = DEBUG_SW_BREAK;
        m->v->exit.debug.addr = m->c.seg[X86_CS].base + interp_ip(m, u);
        interp_exit(m, u, EXIT_DEBUG, false);
    }
    software(m, u, EVENT_SOFTWARE, X86_BP);
}

static void fn_int1(struct interp *m, const struct uop *u)
{
    software(m, u, EVENT_INT1, X86_DB);
}

static void fn_into(struct interp *m, const struct uop *u)
{
    if (interp_rflags(m) & X86_FL_OF)
        software(m, u, EVENT_SOFTWARE, X86_OF);
    else
        interp_retire(m, u);
}

static void fn_ud(struct interp *m, const struct uop *u)
{
    interp_ud(m, u);
}

static void fn_hlt(struct interp *m, const struct uop *u)
{
    sys_need_cpl0(m, u);
    interp_exit(m, u, EXIT_HLT, true);
}

/* KVM's hypercalls, by either vendor's instruction; they are ring 0's. */
static void fn_hypercall(struct interp *m, const struct uop *u)
{
    if (!m->v->model->kvm_pv)
        interp_ud(m, u);
    if (m->c.cpl != 0)
        m->c.gpr[X86_RAX] = (uint64_t)-1; /* KVM_EPERM */
    else
        set_reg(m, X86_RAX, m->mode == X86_MODE_64 ? 8 : 4, interp_io(m, u, EXIT_HYPERCALL, 0, 8, false, 0));
    sys_done(m, u);
}

uop_fn int_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_INT:
        return fn_int;
    case ZYDIS_MNEMONIC_INT3:
        return fn_int3;
    case ZYDIS_MNEMONIC_INT1:
        return fn_int1;
    case ZYDIS_MNEMONIC_INTO:
        return fn_into;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return fn_ud;
    case ZYDIS_MNEMONIC_HLT:
        return fn_hlt;
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
        return fn_hypercall;
    default:
        return NULL;
    }
}

uop_fn sys_pick(const struct x86_insn *i)
{
    static const interp_pick_fn families[] = { sysseg_pick, far_pick,    iret_pick, sysflags_pick, syscall_pick,
                                               syscr_pick,  sysmsr_pick, io_pick,   int_pick };

    for (unsigned k = 0; k < ARRAY_LEN(families); k++) {
        uop_fn fn = families[k](i);

        if (fn)
            return fn;
    }
    return NULL;
}
