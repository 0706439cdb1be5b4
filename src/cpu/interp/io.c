/* SPDX-License-Identifier: MIT */
/*
 * Port I/O. An access leaves run() and the instruction is restarted with the answer, so every check, and for INS the
 * check of the destination, comes before interp_io. REP does one iteration at a time and restarts itself, which
 * gives interrupts and single steps their place between iterations.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

enum { TSS_IOMAP = 0x66 };

/* SDM Vol. 1, "I/O Permission Bit Map". */
static void check_bitmap(struct interp *m, const struct uop *u, unsigned port, unsigned len)
{
    const struct x86_seg *tr = &m->c.tr;
    unsigned mask = ((1U << len) - 1) << (port & 7), at;
    uint16_t base, bits;

    if ((tr->attr & X86_SEG_UNUSABLE) || !(tr->attr & 8) || tr->limit < TSS_IOMAP + 1)
        interp_gp(m, u, 0);
    interp_read(m, u, interp_sys_ctx(m), tr->base + TSS_IOMAP, &base, 2);
    at = base + port / 8;
    if (at + 1 > tr->limit)
        interp_gp(m, u, 0);
    interp_read(m, u, interp_sys_ctx(m), tr->base + at, &bits, 2);
    if (bits & mask)
        interp_gp(m, u, 0);
}

static void check_io(struct interp *m, const struct uop *u, unsigned port, unsigned len)
{
    if (!x86_real_mode(&m->c) && (sys_vm86(m) || m->c.cpl > sys_iopl(m)))
        check_bitmap(m, u, port, len);
}

static unsigned port_dx(const struct interp *m)
{
    return m->c.gpr[X86_RDX] & 0xffff;
}

static void fn_in(struct interp *m, const struct uop *u)
{
    unsigned port = u->i.form == X86_F_RI ? (unsigned)u->i.imm & 0xff : port_dx(m);
    uint64_t val;

    check_io(m, u, port, u->i.osz);
    val = interp_io(m, u, EXIT_PIO, port, u->i.osz, false, 0);
    if (u->i.osz == 1)
        *reg8(m, 0) = (uint8_t)val;
    else
        set_reg(m, X86_RAX, u->i.osz, val);
    sys_done(m, u);
}

static void fn_out(struct interp *m, const struct uop *u)
{
    unsigned port = u->i.form == X86_F_IR ? (unsigned)u->i.imm & 0xff : port_dx(m);

    check_io(m, u, port, u->i.osz);
    interp_io(m, u, EXIT_PIO, port, u->i.osz, true, sys_cut(m->c.gpr[X86_RAX], u->i.osz));
    sys_done(m, u);
}

/* True when a REP has nothing (more) to do. */
static bool rep_empty(const struct interp *m, const struct uop *u)
{
    return (u->i.flags & (X86_I_REP | X86_I_REPNE)) && !sys_cut(m->c.gpr[X86_RCX], u->i.asz);
}

/* Ends one iteration: moves index register reg and counts. */
static void string_step(struct interp *m, const struct uop *u, unsigned reg)
{
    uint64_t step = m->c.rflags & X86_FL_DF ? -(uint64_t)u->i.osz : u->i.osz;

    interp_io_commit(m);
    set_reg(m, reg, u->i.asz, sys_cut(m->c.gpr[reg] + step, u->i.asz));
    if (u->i.flags & (X86_I_REP | X86_I_REPNE)) {
        set_reg(m, X86_RCX, u->i.asz, sys_cut(m->c.gpr[X86_RCX] - 1, u->i.asz));
        if (!rep_empty(m, u)) {
            interp_leave_before(m, u);
            return;
        }
    }
    sys_done(m, u);
}

static void fn_ins(struct interp *m, const struct uop *u)
{
    unsigned size = u->i.osz, port = port_dx(m);
    uint64_t val;
    gva_t lin;

    check_io(m, u, port, size); /* even for no iteration at all */
    if (rep_empty(m, u)) {
        sys_done(m, u);
        return;
    }
    lin = interp_seg_lin(m, u, X86_ES, sys_cut(m->c.gpr[X86_RDI], u->i.asz), size, true);
    interp_probe_write(m, u, m->ctx, lin, size);
    val = interp_io(m, u, EXIT_PIO, port, size, false, 0);
    interp_write(m, u, m->ctx, lin, &val, size);
    string_step(m, u, X86_RDI);
}

static void fn_outs(struct interp *m, const struct uop *u)
{
    unsigned size = u->i.osz, port = port_dx(m);
    uint64_t val = 0;
    gva_t lin;

    check_io(m, u, port, size); /* even for no iteration at all */
    if (rep_empty(m, u)) {
        sys_done(m, u);
        return;
    }
    lin = interp_seg_lin(m, u, u->i.seg, sys_cut(m->c.gpr[X86_RSI], u->i.asz), size, false);
    interp_read(m, u, m->ctx, lin, &val, size);
    interp_io(m, u, EXIT_PIO, port, size, true, val);
    string_step(m, u, X86_RSI);
}

uop_fn io_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_IN:
        return fn_in;
    case ZYDIS_MNEMONIC_OUT:
        return fn_out;
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
        return fn_ins;
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
        return fn_outs;
    default:
        return NULL;
    }
}
