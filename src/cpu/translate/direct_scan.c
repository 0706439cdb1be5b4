/* SPDX-License-Identifier: MIT */
/*
 * Looks for instructions that work in user mode and do not fault there, but are not the guest processor's: that tell
 * of the host, or call its hypervisor. Their bytes are frequent in displacements and constants, so they count where an
 * instruction begins if one decodes from a little before. Whoever jumps into the middle of another instruction to run
 * CPUID gets the host's; only calls of the hypervisor count at every byte.
 *
 * Those that the translator has met are certain, as are other CPUIDs on such a page. They are replaced by UD2 in a copy
 * of the page, which runs instead, so that they trap; a page with others is translated. (Code that reads itself then
 * sees the copy.)
 *
 * Not on the list: what faults in user mode on every host (its fault is the guest's), and what does the same on both:
 * RDTSC (faults unless the clocks agree), RDRAND, RDFSBASE (both have it on, or nothing runs directly).
 */
#include <string.h>

#include <Zydis/Zydis.h>

#include "cpu/translate/direct.h"

enum { BEFORE = 80, STARTS = 6, X86_MAX_INSN = 15, WINDOW = BEFORE + X86_MAX_INSN };
enum verdict { HARMLESS, IF_DECODED, FOREIGN };

/* 0F 01. SDM Vol. 2D, table A-6, group 7. */
static enum verdict group7(unsigned modrm)
{
    unsigned reg = modrm >> 3 & 7;

    if (modrm < 0xc0)
        return reg == 0 || reg == 1 || reg == 4 ? IF_DECODED : HARMLESS; /* SGDT, SIDT, SMSW */
    switch (modrm) {
    case 0xc1: /* VMCALL */
    case 0xd4: /* VMFUNC */
    case 0xd9: /* VMMCALL */
        return FOREIGN;
    case 0xd0: /* XGETBV */
    case 0xf9: /* RDTSCP */
    case 0xfd: /* RDPRU */
        return IF_DECODED;
    case 0xee: /* RDPKRU, WRPKRU */
    case 0xef:
        return __builtin_cpu_supports("pku") ? IF_DECODED : HARMLESS;
    default:
        return reg == 4 ? IF_DECODED : HARMLESS; /* SMSW to a register */
    }
}

/* 0F op modrm; rep: F3 is among the three bytes before. */
static enum verdict judge(unsigned op, unsigned modrm, bool rep, bool xsave)
{
    unsigned reg = modrm >> 3 & 7;

    switch (op) {
    case 0x00: /* SLDT, STR, VERR, VERW */
        return reg == 0 || reg == 1 || reg == 4 || reg == 5 ? IF_DECODED : HARMLESS;
    case 0x01:
        return group7(modrm);
    case 0x02: /* LAR, LSL */
    case 0x03:
        return IF_DECODED;
    case 0xa2: /* CPUID */
        return IF_DECODED;
    case 0xae: /* XSAVE, XRSTOR, XSAVEOPT: their layout is the host's */
        return !xsave && modrm < 0xc0 && reg >= 4 && reg <= 6 ? IF_DECODED : HARMLESS;
    case 0xc7: /* RDPID, XSAVEC */
        if (modrm >= 0xf8)
            return rep ? IF_DECODED : HARMLESS;
        return !xsave && modrm < 0xc0 && reg == 4 ? IF_DECODED : HARMLESS;
    default:
        return HARMLESS;
    }
}

/* From how many of the places before it decoding finds the 0F behind n bytes to be an opcode: none, some, all. */
enum found { NONE, SOME, ALL };
static enum found decodes_behind(const uint8_t b[static WINDOW], unsigned n)
{
    ZydisDecoder d;
    ZydisDecodedInstruction i;
    unsigned hits = 0, tries = 0;

    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE);
    for (unsigned k = 0; k <= n && k < STARTS; k++) {
        bool hit = false;
        for (unsigned p = k; p <= n && !hit; p += i.length) {
            if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&d, NULL, b + p, WINDOW - p, &i)))
                i.length = 1;
            else if (p + i.raw.prefix_count == n && i.opcode_map == ZYDIS_OPCODE_MAP_0F)
                hit = true;
        }
        hits += hit;
        tries++;
    }
    return !hits ? NONE : hits == tries ? ALL : SOME;
}

static enum found decodes(const struct xl_code_page *c, unsigned at)
{
    uint8_t b[WINDOW];
    unsigned n = at > BEFORE || !c->before ? (at > BEFORE ? BEFORE : at) : BEFORE; /* bytes before it */

    for (unsigned k = 0; k < sizeof(b); k++) {
        int off = (int)(at + k) - (int)n;
        b[k] = off < 0 ? c->before[(int)PAGE_SIZE + off] : off < (int)PAGE_SIZE ? c->page[off] : 0x90;
    }
    return decodes_behind(b, n);
}

bool xl_direct_foreign(unsigned mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return true;
    default:
        return false;
    }
}

static bool known(const struct xl_code_page *c, unsigned at)
{
    for (unsigned k = 0; k < c->nknown; k++)
        if (c->known[k] == at)
            return true;
    return false;
}

bool xl_direct_scan(struct xl_code_page *c)
{
    const uint8_t *page = c->page, *p = page, *end = page + PAGE_SIZE - 2;

    c->npatch = 0;
    while (p < end && (p = memchr(p, 0x0f, (size_t)(end - p)))) {
        unsigned at = (unsigned)(p - page), from = at < 3 ? 0 : at - 3;
        enum verdict v = judge(p[1], p[2], memchr(page + from, 0xf3, at - from), c->xsave);

        enum found f = v == HARMLESS || known(c, at) ? ALL : decodes(c, at);
        if (v != HARMLESS && f == ALL && (known(c, at) || (c->nknown && p[1] == 0xa2))) {
            if (c->npatch == XL_PATCHES)
                return false;
            c->patch[c->npatch++] = (uint16_t)(at + 1);
        } else if (v == FOREIGN || (v == IF_DECODED && f != NONE)) {
            return false;
        }
        p++;
    }
    return true;
}

bool xl_direct_seam(const uint8_t *left, const uint8_t *right, bool xsave)
{
    for (unsigned back = 1; back <= 2; back++) { /* the last bytes of left that a 0F can be */
        const uint8_t *at = left + PAGE_SIZE - back;
        uint8_t b[WINDOW];

        if (*at != 0x0f)
            continue;
        memcpy(b, at - BEFORE, BEFORE + back);
        memcpy(b + BEFORE + back, right, X86_MAX_INSN - back);
        enum verdict v = judge(b[BEFORE + 1], b[BEFORE + 2], memchr(b + BEFORE - 3, 0xf3, 3), xsave);
        if (v == FOREIGN || (v == IF_DECODED && decodes_behind(b, BEFORE) != NONE))
            return false;
    }
    return true;
}
