/* SPDX-License-Identifier: MIT */
/*
 * A small AML writer: ACPI 6.5, chapter 20 "ACPI Machine Language (AML) Specification". Blocks are opened and closed;
 * lengths are patched in. Running out of room sets `full` and is looked at once, at the end.
 */
#ifndef GAZDA_VM_BOOT_AML_H
#define GAZDA_VM_BOOT_AML_H

#include "base/types.h"

struct aml {
    uint8_t *p;
    size_t len, cap;
    bool full;
};

void aml_byte(struct aml *a, uint8_t v);
void aml_bytes(struct aml *a, const void *p, size_t n);
/* Integer constant in the shortest form. */
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* A compressed EISA id, "PNP0501" (3 letters, 4 hex digits). */
void aml_eisaid(struct aml *a, const char *id);
/* Name (seg, ...): the object follows. seg is up to 4 characters, padded with '_'; a leading '\\' is kept. */
void aml_name(struct aml *a, const char *seg);

/* Each returns a mark for aml_end. */
size_t aml_scope(struct aml *a, const char *seg);
size_t aml_device(struct aml *a, const char *seg);
/* n elements follow. */
size_t aml_package(struct aml *a, unsigned n);
/* Name (_CRS, ResourceTemplate ()): resources follow; close with aml_crs_end. */
size_t aml_crs(struct aml *a);
void aml_end(struct aml *a, size_t mark);
void aml_crs_end(struct aml *a, size_t mark);

/* Resource descriptors, ACPI 6.5 section 6.4. */
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
void aml_res_irq(struct aml *a, unsigned irq);                  /* IRQNoFlags: ISA, edge, active high */
void aml_res_interrupt(struct aml *a, uint32_t gsi);            /* edge, active high, exclusive */
void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len); /* read-write */

#endif
