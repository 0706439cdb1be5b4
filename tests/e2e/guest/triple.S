/* SPDX-License-Identifier: MIT */
/* A triple fault: an exception with an empty IDT. */
#include "multiboot.inc"
start:
    mov $before, %esi
    call print
    lidt none
    ud2
before: .asciz "before\n"
none: .word 0
    .long 0
