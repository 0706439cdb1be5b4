/* SPDX-License-Identifier: MIT */
/* The software TLB (softtlb.c) and the jump caches (block.c): tables that translated code reads. */
#ifndef GAZDA_CPU_TRANSLATE_SOFTTLB_H
#define GAZDA_CPU_TRANSLATE_SOFTTLB_H

#include "cpu/translate/kind.h"

#define TLB_ENTRIES 65536
#define JC_ENTRIES (1U << 18)

/*
 * Direct-mapped by bits 12..27 of the linear address, split so that each part can be indexed with scale 8. A tag is
 * the negated page address: linear address + tag is the offset in the page. An empty tag belongs to a page of another
 * index, so that nothing matches it.
 */
enum { TLB_LARGE_BITS = 1024 };
struct xl_tlb {
    uint64_t rtag[TLB_ENTRIES], wtag[TLB_ENTRIES];
    uint64_t addend[TLB_ENTRIES]; /* host address = linear address + addend */
    uint8_t flags[TLB_ENTRIES];   /* TLBF_*; not looked at by code */
    uint32_t frame[TLB_ENTRIES];  /* guest frame number */
    uint16_t log[TLB_ENTRIES];    /* filled entries; the first nglobal of them were global when they were added */
    uint32_t n, nglobal;
    bool mixed;                          /* some of these are so no longer */
    uint64_t large[TLB_LARGE_BITS / 64]; /* GiB with pieces of large pages, hashed */
};
enum { TLBF_GLOBAL = 1, TLBF_LARGE = 2, TLBF_LOGGED = 4, TLBF_FIRST = 8 }; /* FIRST: of the first in the log */

/*
 * Linear address to code, by its low bits (jc_mask: 18, or 16 where PEXT is slow). The tag is the negated address; of a
 * block with DF set, that of the next byte, which has another place.
 */
enum { JC_DF = 1 };
struct xl_jc {
    struct { /* on one line of the cache */
        uint64_t neg_va;
        const uint8_t *code;
    } e[JC_ENTRIES];
    uint32_t log[JC_ENTRIES];
    uint32_t n;
    unsigned kind; /* of all its blocks, but for KIND_DF */
};

enum xl_miss { MISS_RETRY, MISS_STEP };
void xl_tlb_init(struct xlate *x);
/* After a miss at lin: RETRY if there is an entry now, STEP if the access is for the interpreter. Sets A, and D. */
enum xl_miss xl_tlb_fill(struct xlate *x, gva_t lin, unsigned size, bool write);
bool xl_tlb_writable(const struct xlate *x, gva_t lin);
void xl_tlb_flush(struct xlate *x, bool all);
/* CR3 was loaded: all but global entries; stubs are direct_map.c's. */
void xl_tlb_switch(struct xlate *x);
void xl_tlb_flush_page(struct xlate *x, gva_t lin);
void xl_tlb_protect(struct xlate *x, gpa_t gpa);
/* Physical address of code; false if it faults. */
bool xl_code_gpa(struct xlate *x, gva_t lin, gpa_t *gpa);

#endif
