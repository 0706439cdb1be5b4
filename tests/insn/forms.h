/* SPDX-License-Identifier: MIT */
/*
 * The forms of all instructions, found by decoding every opcode in every map with every prefix that selects another
 * instruction. A form is a mnemonic with the types and sizes of its operands.
 */
#ifndef GAZDA_TESTS_INSN_FORMS_H
#define GAZDA_TESTS_INSN_FORMS_H

#include <Zydis/Zydis.h>

#include "base/types.h"

enum form_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX, ENC_XOP };

/* One encoding of a form; the rest of it (registers, address, immediate) is filled in at random. */
struct form_tpl {
    uint8_t enc, map, opcode, modrm;
    uint8_t pp;   /* legacy: bit 0 = 66, bit 1 = F3, bit 2 = F2; otherwise the pp field */
    uint8_t w, l; /* l: vector length, EVEX: bit 2 = b, bit 3 = mask register 1 */
    bool mem;
};

enum { FORM_TPLS = 12 };

struct form {
    uint64_t key;
    uint16_t mnemonic, isa_set;
    uint8_t ntpl;
    uint32_t seen; /* templates found, for the sampling */
    struct form_tpl tpl[FORM_TPLS];
    uint64_t hits;
};

struct forms {
    ZydisDecoder dec;
    bool mode32;
    unsigned n;
    struct form *form;
    unsigned *by_mnemonic; /* form numbers sorted by mnemonic */
    unsigned mnemonics;    /* distinct ones */
    unsigned *first;       /* of each distinct mnemonic, in by_mnemonic; mnemonics + 1 entries */
};

struct forms *forms_new(bool mode32, bool evex);
void forms_free(struct forms *f);
/* Keeps the forms for which keep() says so, and builds the index by mnemonic. */
void forms_filter(struct forms *f,
                  bool (*keep)(void *arg, const struct form *fm, const ZydisDecodedInstruction *z,
                               const ZydisDecodedOperand *ops),
                  void *arg);
uint64_t form_key(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
/* The plain encoding of a template; returns its length, operand bytes zero. buf has 32 bytes. */
unsigned form_plain(const struct form_tpl *t, bool mode32, uint8_t *buf);
void form_name(const struct forms *f, const struct form *fm, char *buf, size_t len);

#endif
