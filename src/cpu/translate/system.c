/* SPDX-License-Identifier: MIT */
/*
 * System instructions that kernels use all the time, in line; only 64-bit mode, and but for RDFSBASE and its like only
 * at ring 0 (where IOPL does not matter). What is too long for that goes through fast.c.
 */
#include "cpu/translate/trans.h"
#include "x86/isa.h"

#define CPU(f) ((int32_t)offsetof(struct cpu_state, f))

static bool fast(struct trans *t)
{
    struct xrec *r = tr_rec(t, X_FAST, t->off);

    r->op = (uint16_t)t->i->mnemonic;
    r->target = t->next;
    r->size = (t->i->attributes & ZYDIS_ATTRIB_HAS_REX) && t->i->raw.rex.W;
    tr_exit(t, r);
    t->ended = true;
    return true;
}

/* RFLAGS into RCX; uses R10. The arithmetic flags come as LAHF and SETO give them. */
static void flags_image(struct emit *e)
{
    em_mov(e, R10, RAX);
    em_bytes(e, "\x9f\x0f\x90\xc0\x0f\xb6\xcc\x0f\xb6\xc0", 10); /* lahf; seto al; movzx ecx, ah; movzx eax, al */
    em_rorx(e, RAX, RAX, 32 - 11, false);
    em_lea(e, RCX, HMEM_X(RCX, RAX, 0, 0));
    em_load(e, RAX, X(rfl));
    em_lea(e, RCX, HMEM_X(RCX, RAX, 0, 0));
    em_load(e, RAX, X(if_bit));
    em_lea(e, RCX, HMEM_X(RCX, RAX, 0, 0));
    em_mov(e, RAX, R10);
}

static bool pushfq(struct trans *t)
{
    push_lookup(t, 8);
    em_lea(&t->e, R11, HMEM_X(R11, R10, 0, 0));
    flags_image(&t->e);
    em_store(&t->e, RCX, HMEM(R11, 0));
    em_lea(&t->e, RSP, HMEM(RSP, -8));
    tr_commit(t);
    return true;
}

/* Only the arithmetic flags and IF may change; and IF not from 0 to 1 while an interrupt waits. */
static bool popfq(struct trans *t)
{
    struct emit *e = &t->e;

    if (t->ctx == CTX_USER || t->x->no_pext)
        return false;
    em_mov(e, R11, RSP);
    op_lookup(t, 8, false);
    em_load(e, R11, HMEM_X(R11, R10, 0, 0));
    em_vex_rm(e, EM_VEX(2, 2, 1, 0xf5), RCX, R11, X(mask_popf)); /* pext rcx, r11, [mask] */
    em_load(e, R10, X(rfl));
    em_vex_rm(e, EM_VEX(2, 2, 1, 0xf5), R10, R10, X(mask_popf));
    em_rr(e, 0xf7 | EM_W, 2, RCX); /* not */
    em_lea(e, RCX, HMEM_X(RCX, R10, 0, 1));
    tr_step_unless_zero(t);
    em_vex_rm(e, EM_VEX(2, 2, 1, 0xf5), RCX, R11, X(win_mask));
    tr_step_unless_zero(t);
    tr_commit(t);
    em_mov32(e, RCX, R11);
    em_bytes(e, "\x81\xe1\x00\x02\x00\x00", 6); /* and ecx, IF */
    em_store(e, RCX, X(if_bit));
    em_mov(e, R10, RAX);
    em_mov32(e, RAX, R11);
    em_mov32(e, RCX, R11);
    em_bytes(e, "\xc1\xe8\x0b\x83\xe0\x01\x88\xcc\x04\x7f\x9e", 11); /* shr eax, 11; and eax, 1; mov ah, cl; add al,
                                                                         0x7f; sahf */
    em_mov(e, RAX, R10);
    em_lea(e, RSP, HMEM(RSP, 8));
    return true;
}

static bool cli(struct trans *t)
{
    if (t->ctx == CTX_USER)
        return false;
    em_rm(&t->e, 0xc7 | EM_W, 0, X(if_bit));
    em32(&t->e, 0);
    return true;
}

static bool sti(struct trans *t)
{
    if (t->ctx == CTX_USER)
        return false;
    em_load(&t->e, RCX, X(win_mask));
    em_load(&t->e, R10, X(if_bit)); /* if it is set already there is no shadow */
    em_lea(&t->e, RCX, HMEM_X(RCX, R10, 0, 0));
    tr_step_unless_zero(t);
    em_rm(&t->e, 0xc7 | EM_W, 0, X(if_bit));
    em32(&t->e, X86_FL_IF);
    t->shadow = true;
    return true;
}

static bool swapgs(struct trans *t)
{
    struct emit *e = &t->e;
    struct hmem base = HGS(offsetof(struct xlate, seg_base) + 8 * X86_GS);

    if (t->ctx == CTX_USER)
        return false;
    em_load(e, R10, X(cpu));
    em_load(e, RCX, base);
    em_load(e, R11, HMEM(R10, CPU(msr.kernel_gs_base)));
    em_store(e, RCX, HMEM(R10, CPU(msr.kernel_gs_base)));
    tr_commit(t);
    em_store(e, R11, base);
    em_store(e, R11, HMEM(R10, CPU(seg[X86_GS].base)));
    return true;
}

/* With SMAP on, AC is what the context says, and the next block is one of the other context. */
static bool set_ac(struct trans *t, bool on)
{
    struct emit *e = &t->e;
    unsigned to = on ? CTX_KERNEL_AC : CTX_KERNEL;

    if (t->ctx == CTX_USER || !(t->kind & KIND_SMAP))
        return false;
    if ((t->ctx == CTX_KERNEL_AC) == on)
        return true;
    em_load(e, RCX, X(rfl));
    em_lea(e, RCX, HMEM(RCX, on ? X86_FL_AC : -X86_FL_AC));
    em_store(e, RCX, X(rfl));
    tr_commit(t);
    em_rm(e, 0xc7, 0, X(kind));
    em32(e, (t->kind & ~(unsigned)(KIND_CTX | KIND_SPLIT)) | to << 2);
    flow_fall_through(t);
    return true;
}

static bool load_cr3(struct trans *t)
{
    bool high;

    if (t->ctx == CTX_USER)
        return false;
    op_get(t, R10, op_gpr(t->op[1].reg.value, &high));
    return fast(t);
}

static bool invlpg(struct trans *t)
{
    if (t->ctx == CTX_USER || !op_address(t, &t->op[0]))
        return false;
    em_mov(&t->e, R10, R11);
    return fast(t);
}

/* Control and segment registers, reading. */
static bool mov_from(struct trans *t)
{
    static const struct {
        ZydisRegister reg;
        int32_t off;
    } from[] = { { ZYDIS_REGISTER_CR2, CPU(cr2) },
                 { ZYDIS_REGISTER_CR3, CPU(cr3) },
                 { ZYDIS_REGISTER_CR4, CPU(cr4) },
                 { ZYDIS_REGISTER_CR0, CPU(cr0) },
                 { ZYDIS_REGISTER_ES, CPU(seg[X86_ES].sel) },
                 { ZYDIS_REGISTER_CS, CPU(seg[X86_CS].sel) },
                 { ZYDIS_REGISTER_SS, CPU(seg[X86_SS_SEG].sel) },
                 { ZYDIS_REGISTER_DS, CPU(seg[X86_DS].sel) },
                 { ZYDIS_REGISTER_FS, CPU(seg[X86_FS].sel) },
                 { ZYDIS_REGISTER_GS, CPU(seg[X86_GS].sel) } };
    const ZydisDecodedOperand *o = t->op;
    bool high, seg;
    unsigned g;
    int h;

    if (o[1].type != ZYDIS_OPERAND_TYPE_REGISTER || !op_is_gpr(&o[0]))
        return o[0].type == ZYDIS_OPERAND_TYPE_REGISTER && o[0].reg.value == ZYDIS_REGISTER_CR3 && load_cr3(t);
    for (unsigned k = 0; k < ARRAY_LEN(from); k++) {
        if (from[k].reg != o[1].reg.value)
            continue;
        seg = k >= 4;
        if (!seg && t->ctx == CTX_USER)
            return false;
        em_load(&t->e, R10, X(cpu));
        if (seg)
            em_rm(&t->e, EM_0F | 0xb7, RCX, HMEM(R10, from[k].off)); /* movzx */
        else
            em_load(&t->e, RCX, HMEM(R10, from[k].off));
        g = op_gpr(o[0].reg.value, &high);
        h = host_reg(g);
        if (o[0].size != 16)
            op_put(t, g, RCX);
        else if (h < 0)
            em_rm(&t->e, 0x89 | EM_66, RCX, HOME(g));
        else
            em_rr(&t->e, 0x89 | EM_66, RCX, (unsigned)h);
        return true;
    }
    return false;
}

static bool read_base(struct trans *t, unsigned seg)
{
    bool high;

    if (!(t->kind & KIND_FSGS))
        return false;
    if (t->op[0].size == 64)
        em_load(&t->e, RCX, HGS(offsetof(struct xlate, seg_base) + 8 * seg));
    else
        em_load32(&t->e, RCX, HGS(offsetof(struct xlate, seg_base) + 8 * seg));
    op_put(t, op_gpr(t->op[0].reg.value, &high), RCX);
    return true;
}

static bool write_base(struct trans *t, unsigned seg)
{
    struct emit *e = &t->e;
    bool high;

    if (!(t->kind & KIND_FSGS))
        return false;
    op_get(t, R11, op_gpr(t->op[0].reg.value, &high));
    if (t->op[0].size == 64) {
        tr_canonical(t, R11);
    } else {
        em_mov32(e, R11, R11);
    }
    em_load(e, R10, X(cpu));
    em_store(e, R11, HMEM(R10, CPU(seg) + (int32_t)(seg * sizeof(struct x86_seg) + offsetof(struct x86_seg, base))));
    em_store(e, R11, HGS(offsetof(struct xlate, seg_base) + 8 * seg));
    return true;
}

/* In C, and on behind it. */
static bool xsave(struct trans *t)
{
    struct xrec *r;

    if (!x86_isa_offered(t->x->v->model, (unsigned)t->i->meta.isa_set, (unsigned)t->i->mnemonic) ||
        !op_address(t, &t->op[0]))
        return false;
    em_mov(&t->e, R10, R11);
    r = tr_rec(t, X_FAST, t->off);
    r->op = (uint16_t)t->i->mnemonic;
    r->target = t->next;
    r->size = (t->i->attributes & ZYDIS_ATTRIB_HAS_REX) && t->i->raw.rex.W;
    tr_stub(t, em_jmp(&t->e), r, STUB_PLAIN);
    r->stub = t->base + t->e.n;
    return true;
}

static bool ring0_fast(struct trans *t)
{
    return t->ctx != CTX_USER && fast(t);
}

bool emit_system(struct trans *t)
{
    if (t->i->meta.category == ZYDIS_CATEGORY_STRINGOP)
        return emit_string(t);
    if (!t->m64 || (t->i->attributes & ZYDIS_ATTRIB_HAS_LOCK))
        return false;
    switch (t->i->mnemonic) {
    case ZYDIS_MNEMONIC_PUSHFQ:
        return pushfq(t);
    case ZYDIS_MNEMONIC_POPFQ:
        return popfq(t);
    case ZYDIS_MNEMONIC_CLI:
        return cli(t);
    case ZYDIS_MNEMONIC_STI:
        return sti(t);
    case ZYDIS_MNEMONIC_SWAPGS:
        return swapgs(t);
    case ZYDIS_MNEMONIC_STAC:
        return set_ac(t, true);
    case ZYDIS_MNEMONIC_CLAC:
        return set_ac(t, false);
    case ZYDIS_MNEMONIC_MOV:
        return mov_from(t);
    case ZYDIS_MNEMONIC_RDFSBASE:
        return read_base(t, X86_FS);
    case ZYDIS_MNEMONIC_RDGSBASE:
        return read_base(t, X86_GS);
    case ZYDIS_MNEMONIC_WRFSBASE:
        return write_base(t, X86_FS);
    case ZYDIS_MNEMONIC_WRGSBASE:
        return write_base(t, X86_GS);
    case ZYDIS_MNEMONIC_INVLPG:
        return invlpg(t);
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return xsave(t);
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_WRMSR:
        return ring0_fast(t);
    case ZYDIS_MNEMONIC_SYSCALL:
        return t->ctx == CTX_USER && fast(t);
    default:
        return false;
    }
}
