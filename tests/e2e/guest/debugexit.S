/* SPDX-License-Identifier: MIT */
/* Writes VALUE to port 0xf4; says so before, and whether it is still there. */
#include "multiboot.inc"
start:
    mov $before, %esi
    call print
    mov $VALUE, %eax
    mov $0xf4, %edx
    out %al, %dx
    mov $after, %esi
    call print
1:  hlt
    jmp 1b
before: .asciz "debug exit\n"
after: .asciz "still here\n"
