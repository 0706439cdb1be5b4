; SPDX-License-Identifier: MIT
; A flat guest that tests the system side of the ISA: every mode and the ways between them. tests/unit/test_sysguest.c
; loads it at 0x1000, starts it in real mode and reads the results from memory; any other machine that starts
; 0:0x1000 in real mode can run it too.
;
; A check that fails sets a bit in failmap: number of the file (FILE_ID) * 1000 + line. Nothing else is touched, so
; checks work in every mode and privilege. All data is below 64 KiB and segments are flat, so that [name] means the
; same everywhere. The macros are .nolist so that __LINE__ in them is the line of their use.
        org 0x1000


; ---- what the harness understands: ports, and the block at 0x0f00 ----
PORT_END        equ 0xf4        ; finished
PORT_IRQ        equ 0xf5        ; interrupt request, vector in al
PORT_NMI        equ 0xf6
PORT_ECHO       equ 0xf8        ; reads back what was written
CHECKS          equ 0x0f00      ; dword: checks made
WHAT            equ 0x0f04      ; byte from the harness: 0 all, 1 all and a triple fault, 2 without interrupts
VENDOR_AMD      equ 0x0f05      ; byte from the harness
FAILMAP         equ 0x0800      ; 0x700 bytes: 14336 lines

%define FILE_ID 0
%macro FAILED 0.nolist
        or byte [FAILMAP + (FILE_ID * 1000 + __LINE__) / 8], 1 << ((FILE_ID * 1000 + __LINE__) % 8)
%endmacro
; CHECK dword [x], 5: compares, any two operands of CMP.
%macro CHECK 2.nolist
        inc dword [CHECKS]
        cmp %1, %2
        je %%ok
        FAILED
%%ok:
%endmacro
; CHECKF nz: the flags hold this condition.
%macro CHECKF 1.nolist
        j%+1 %%ok
        FAILED
%%ok:
        inc dword [CHECKS]
%endmacro
; No control flow may get here.
%macro NOTREACHED 0.nolist
        FAILED
%endmacro

NONE            equ 0xffffffff  ; no exception, no error code

        bits 16
start:
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, STACK0
        jmp 0:.flat
.flat:
%include "real.inc"
%include "prot.inc"
%include "page32.inc"
%include "long.inc"
%include "user64.inc"

        bits 16
finish:
        cmp byte [WHAT], 1
        je triple
        mov al, 0
        out PORT_END, al
        hlt
triple:
        lidt [.nothing]
        ud2
        mov al, 1
        out PORT_END, al
.nothing: dw 0
        dd 0

%include "tables.inc"

image_end:
%if image_end - $$ > 0xb000
%error "the image runs into the stacks"
%endif
