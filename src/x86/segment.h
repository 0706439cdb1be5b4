/* SPDX-License-Identifier: MIT */
/*
 * Segment descriptors and the rules for loading them: SDM Vol. 3A, "Protection". Pure: the caller has read the
 * descriptor, and sets its accessed bit after the check. A check returns false with the fault in *f; its error code
 * is the selector without RPL (the caller ORs in EXT during event delivery).
 */
#ifndef GAZDA_X86_SEGMENT_H
#define GAZDA_X86_SEGMENT_H

#include "x86/cpu_state.h"
#include "x86/fault.h"

/* Types of system descriptors (S = 0). In IA-32e mode only LDT, the 32-bit (there 64-bit) TSS and gates exist. */
enum x86_sys_type {
    X86_T_TSS16 = 1,
    X86_T_LDT = 2,
    X86_T_TSS16_BUSY = 3,
    X86_T_CALL16 = 4,
    X86_T_TASK = 5,
    X86_T_INT16 = 6,
    X86_T_TRAP16 = 7,
    X86_T_TSS = 9,
    X86_T_TSS_BUSY = 11,
    X86_T_CALL = 12,
    X86_T_INT = 14,
    X86_T_TRAP = 15,
};
/* Type bits of code and data descriptors (S = 1). */
enum {
    X86_T_ACCESSED = 1,
    X86_T_RW = 2 /* writable data, readable code */,
    X86_T_CE = 4 /* conforming, expand-down */,
    X86_T_CODE = 8
};

enum { X86_SEL_RPL = 3, X86_SEL_TI = 4, X86_SEL_INDEX = 0xfffc /* index and TI: also the error code */ };

static inline bool x86_sel_null(uint16_t sel)
{
    return !(sel & X86_SEL_INDEX);
}

/* Attributes of a raw descriptor, in the layout of struct x86_seg. */
static inline uint32_t x86_desc_attr(uint64_t raw)
{
    return (uint32_t)(raw >> 40) & 0xf0ff;
}
static inline unsigned x86_desc_type(uint64_t raw)
{
    return (raw >> 40) & 0xf;
}
static inline bool x86_desc_is_s(uint64_t raw)
{
    return (raw >> 44) & 1;
}
static inline unsigned x86_desc_dpl(uint64_t raw)
{
    return (raw >> 45) & 3;
}
static inline bool x86_desc_present(uint64_t raw)
{
    return (raw >> 47) & 1;
}
static inline bool x86_desc_is_code(uint64_t raw)
{
    return x86_desc_is_s(raw) && (x86_desc_type(raw) & X86_T_CODE);
}
static inline bool x86_desc_is_conforming(uint64_t raw)
{
    return x86_desc_is_code(raw) && (x86_desc_type(raw) & X86_T_CE);
}
static inline bool x86_attr_writable(uint32_t attr)
{
    return (attr & (X86_SEG_S | X86_T_CODE | X86_T_RW)) == (X86_SEG_S | X86_T_RW);
}
static inline bool x86_attr_readable(uint32_t attr)
{
    return (attr & X86_SEG_S) && (attr & (X86_T_CODE | X86_T_RW)) != X86_T_CODE;
}

/* The hidden part that loading `raw` through sel gives. high is the upper half of a 16-byte descriptor, else 0. */
struct x86_seg x86_seg_parse(uint16_t sel, uint64_t raw, uint64_t high);
/* The hidden part after loading sel in real-address (keeps limit and attributes) or virtual-8086 mode. */
void x86_seg_load_real(struct x86_seg *s, uint16_t sel);
void x86_seg_load_vm86(struct x86_seg *s, uint16_t sel);
/* A null selector: unusable, base kept as real processors of Intel do not promise anything else. */
struct x86_seg x86_seg_null(uint16_t sel, uint64_t base);

/* Linear address of the descriptor of sel in GDT or LDT; false if [0, size) of it is not inside the table. */
bool x86_desc_locate(const struct cpu_state *c, uint16_t sel, unsigned size, gva_t *addr);

/* Whether [off, off+len) lies inside the segment; len >= 1. Knows expand-down. */
bool x86_seg_in_limit(const struct x86_seg *s, uint64_t off, unsigned len);

/* Loading DS, ES, FS, GS with a selector that is not null. */
bool x86_check_data(uint16_t sel, uint64_t raw, unsigned cpl, struct x86_fault *f);
/* Loading SS so that the CPL afterwards is cpl. vector: X86_GP for MOV and returns, X86_TS for stack switches. */
bool x86_check_stack(uint16_t sel, uint64_t raw, unsigned cpl, unsigned vector, struct x86_fault *f);
/* Target of a far JMP or CALL without a gate. long_mode: L and D together are then forbidden. */
bool x86_check_code_jump(uint16_t sel, uint64_t raw, unsigned cpl, bool long_mode, struct x86_fault *f);
/* Target of a far RET or IRET to privilege RPL(sel) >= cpl. */
bool x86_check_code_return(uint16_t sel, uint64_t raw, unsigned cpl, bool long_mode, struct x86_fault *f);
/* Target of a call, interrupt or trap gate; sel is what the gate holds. only64: from 64-bit gates. */
bool x86_check_code_gate(uint16_t sel, uint64_t raw, unsigned cpl, bool only64, struct x86_fault *f);
/* Whether a data segment register must be nulled on a return to the outer privilege cpl. */
bool x86_seg_drop_on_return(const struct x86_seg *s, unsigned cpl);

#endif
