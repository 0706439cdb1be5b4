/* SPDX-License-Identifier: MIT */
/*
 * Start-up of a 64-bit guest in C: a multiboot 1 header, long mode with the low 4 GiB mapped one to one by 2 MiB
 * pages, 4 KiB pages at 1 GiB whose two neighbours are two frames apart, a 256-entry IDT that leads to
 * guest_interrupt, and the real-mode code where application processors start (vector 0x08).
 */
    .text
    .code32
    .align 4
    .long 0x1badb002, 2, -(0x1badb002 + 2)
    .globl _start
_start:
    cli
    cld
    mov $boot_stack_top, %esp
    mov %ebx, %ebp
    mov $pml4, %edi
    mov $(0x7000 / 4), %ecx
    xor %eax, %eax
    rep stosl
    movl $(pdpt + 7), pml4
    movl $(pd + 7), pdpt
    movl $(pd + 0x1007), pdpt + 8
    movl $(pd + 0x2007), pdpt + 16
    movl $(pd + 0x3007), pdpt + 24
    mov $pd, %edi
    mov $0x87, %eax
1:  mov %eax, (%edi)
    add $8, %edi
    add $0x200000, %eax
    jnc 1b
    movl $(pt + 7), pd + 0x1000          /* 1 GiB: two virtual neighbours that are not physical ones */
    movl $(frames + 7), pt
    movl $(frames + 0x2007), pt + 8
    mov %ebp, %ebx
    call enter_long
    .code64
    xor %edi, %edi
    mov %ebx, %edi
    call guest_main
2:  cli
    hlt
    jmp 2b

    .code32
/* Returns in 64-bit mode. */
enter_long:
    lgdt gdt_ptr
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0x620, %eax                     /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x900, %eax
    wrmsr
    mov $0x80010033, %eax                /* PG, WP, NE, ET, MP, PE */
    mov %eax, %cr0
    ljmp $0x10, $1f
    .code64
1:  mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov (%rsp), %eax                     /* the return address that 32-bit code pushed */
    add $4, %rsp
    jmp *%rax

    .align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
gdt_ptr:
    .word 31
    .long gdt

/* Copied to 0x8000. From real mode straight into long mode: PE and PG at once. */
    .code16
    .globl ap_start, ap_end
ap_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl 0x8000 + ap_gdt_ptr - ap_start
    mov $0x620, %eax
    mov %eax, %cr4
    mov 0x8000 + ap_cr3 - ap_start, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x900, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    ljmpl $0x10, $ap64
ap_gdt_ptr:
    .word 31
    .long gdt
ap_cr3:
    .long pml4
ap_end:

    .code64
ap64:
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %eax
    lock xadd %eax, ap_ticket
    cmp $32, %eax
    jae 3f
    mov %eax, %edi
    inc %edi                             /* the boot processor is 0 */
    mov %edi, %eax
    shl $13, %eax
    lea ap_stacks(%rax), %rsp
    call guest_ap
3:  cli
    hlt
    jmp 3b

/* ---- interrupts ---- */

    .globl vector_table
    .align 16
vector_table:
    .set v, 0
    .rept 256
    .align 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21)
    push $0
    .endif
    push $v
    jmp common
    .set v, v + 1
    .endr
common:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    mov 72(%rsp), %rdi                   /* vector */
    mov 80(%rsp), %rsi                   /* error code */
    mov 88(%rsp), %rdx                   /* RIP */
    cld
    call guest_interrupt
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    .bss
    .align 4096
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4 * 4096
pt: .skip 4096
    .globl frames
frames: .skip 3 * 4096
    .skip 8192
ap_stacks:                               /* the stack of processor n ends at ap_stacks + n * 8 KiB */
    .skip 33 * 8192
    .skip 16384
boot_stack_top:
ap_ticket: .long 0
