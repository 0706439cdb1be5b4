/* SPDX-License-Identifier: MIT */
/* Something for a debugger: a counting loop with symbols, a variable to watch, a way to end. */
#include "multiboot.inc"
    .globl start, loop, store, done, counter, stop
start:
    xor %ecx, %ecx
    mov $0x1234, %ebx
loop:
    inc %ecx
    cmp $1000, %ecx
    jne 1f
store:
    movl $0x5a5a, watched
1:  add %ecx, counter
    cmpl $0, stop
    je loop
done:
    mov watched, %eax
    mov $7, %eax
    mov $0xf4, %edx
    out %al, %dx
    hlt
    .globl watched
    .data
    .align 4
counter: .long 0
watched: .long 0
stop: .long 0
