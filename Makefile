# SPDX-License-Identifier: MIT
# gazda: one non-recursive Makefile (other MODEs are built by calling it again).
#
#   make                 out/gazda (MODE=dbg|asan|tsan: out/MODE/gazda; asan: UBSan too)
#   make run             boot the appliance; ARGS="--cpus 2" adds options
#   make check           everything; ends with "N passed, N failed, N skipped"; check-nightly: the long versions
#   make unit|insn|fuzz|e2e|lint    one part of it, in this MODE
#   make bench           one table; install, clean, fmt as usual
MODE ?= rel
OUT := out
# As many jobs as processors, unless the caller says otherwise.
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif
BIN := $(if $(filter rel,$(MODE)),$(OUT)/gazda,$(OUT)/$(MODE)/gazda)
OBJ := $(OUT)/obj/$(MODE)
TESTDIR := $(OUT)/$(MODE)/tests
PREFIX ?= /usr/local

VERSION := $(shell cat VERSION 2>/dev/null || echo 0)
CC := gcc
# Red zones and temporaries that nothing merges make frames that are no measure of the code: only rel has the limit.
FRAME := $(if $(filter rel,$(MODE)),2048,8192)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wframe-larger-than=$(FRAME) -Werror
CFLAGS_rel := -O2 -g
CFLAGS_dbg := -O0 -g3 -DGAZDA_DEBUG
CFLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -DGAZDA_DEBUG
CFLAGS_tsan := -O1 -g -fsanitize=thread -DGAZDA_DEBUG
ifeq ($(CFLAGS_$(MODE)),)
$(error MODE is rel, dbg, asan or tsan, not "$(MODE)")
endif
CFLAGS := -std=gnu17 -D_GNU_SOURCE -DGAZDA_VERSION='"$(VERSION)"' -Isrc -isystem /usr/include/libxml2 $(WARN) $(CFLAGS_$(MODE)) \
	-fno-strict-aliasing -pthread
LDLIBS := -lZydis -luv -ljansson -lslirp -luring -lz -llzma -lzstd -llz4 -larchive -lnettle -lxml2 -lpthread

SRC := $(wildcard src/*/*.c src/*/*/*.c)
ASM := $(wildcard src/*/*.S)
LIBSRC := $(filter-out src/cli/main.c,$(SRC))
LIBOBJ := $(LIBSRC:%.c=$(OBJ)/%.o) $(ASM:%.S=$(OBJ)/%.o)
LIB := $(OBJ)/libgazda.a
UNITSRC := $(wildcard tests/unit/test_*.c)
UNIT := $(UNITSRC:tests/unit/%.c=$(TESTDIR)/%)
# tests/unit/*.c not called test_* is shared by all unit tests.
UNITOBJ := $(patsubst %.c,$(OBJ)/%.o,$(filter-out $(UNITSRC),$(wildcard tests/unit/*.c)))
# One program: every file of tests/insn.
INSNSRC := $(wildcard tests/insn/*.c)
INSNOBJ := $(INSNSRC:%.c=$(OBJ)/%.o) $(patsubst %.S,$(OBJ)/%.o,$(wildcard tests/insn/*.S))
INSN := $(if $(INSNSRC),$(TESTDIR)/insn)
FUZZSRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ := $(FUZZSRC:tests/fuzz/%.c=$(TESTDIR)/%)
# tests/fuzz/*.c not called fuzz_* is shared by all fuzzers.
FUZZOBJ := $(patsubst %.c,$(OBJ)/%.o,$(filter-out $(FUZZSRC),$(wildcard tests/fuzz/*.c)) tests/insn/value.c)

.PHONY: all run unit insn fuzz e2e lint check check-nightly bench fmt install clean tests deps guests
all: $(BIN)

# --- the packages, and what the objects depend on besides their headers

DEPS := $(OUT)/.deps
deps: $(DEPS)
$(DEPS): tools/deps tools/deps.txt
	@tools/deps
	@mkdir -p $(@D) && touch $@

# Changes when the compiler or the flags do.
FLAGS := $(OBJ)/flags
# What may run while the host's vector registers are the guest's: no vector registers, and no calls of memcpy and its like.
NOVEC := $(filter-out cpu/translate/x87,$(patsubst src/%.c,%,$(wildcard src/cpu/translate/*.c))) cpu/phys x86/paging x86/segment mem/mem mem/code base/lock
NOVECFLAGS := -mgeneral-regs-only -minline-all-stringops -mstringop-strategy=rep_8byte \
	-fno-tree-loop-distribute-patterns
NOW := $(CC) $(CFLAGS) $(LDLIBS) $(NOVEC) $(NOVECFLAGS)
ifneq ($(shell cat $(FLAGS) 2>/dev/null),$(subst ",,$(subst ',,$(NOW))))
.PHONY: $(FLAGS)
endif
$(FLAGS):
	@mkdir -p $(@D)
	@echo '$(subst ",,$(subst ',,$(NOW)))' >$@

# --- programs

$(BIN): $(OBJ)/src/cli/main.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(LIBOBJ)
	@rm -f $@
	ar rcs $@ $^

$(OBJ)/%.o: %.c $(FLAGS) | $(DEPS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
$(NOVEC:%=$(OBJ)/src/%.o): CFLAGS += $(NOVECFLAGS)

$(OBJ)/%.o: %.S $(FLAGS) | $(DEPS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

$(UNIT): $(TESTDIR)/%: $(OBJ)/tests/unit/%.o $(UNITOBJ) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ -lcmocka $(LDLIBS)
$(FUZZ): $(TESTDIR)/%: $(OBJ)/tests/fuzz/%.o $(FUZZOBJ) $(UNITOBJ) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)
$(TESTDIR)/insn: $(INSNOBJ) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

# The guest that tests the system side of the ISA becomes part of its unit test.
SYSGUEST := $(OUT)/guests/sys.bin
$(SYSGUEST): $(wildcard tests/guests/*.asm tests/guests/*.inc) | $(DEPS)
	@mkdir -p $(@D)
	nasm -f bin -w-number-overflow -I tests/guests/ -o $@ tests/guests/sys.asm
$(OBJ)/tests/unit/test_sysguest.o: $(SYSGUEST)
$(OBJ)/tests/unit/test_sysguest.o: CFLAGS += -DSYS_GUEST='"$(SYSGUEST)"'

run: $(BIN)
	@$(BIN) run $(ARGS)

# --- tests: `make unit` and its like build and run one suite in this MODE

TESTRUN := tools/testrun --out $(OUT)/check
tests: $(BIN) $(UNIT) $(INSN) $(FUZZ)
unit: $(UNIT)
	@$(TESTRUN) unit:$(MODE)
insn: $(INSN)
	@$(TESTRUN) insn:$(MODE)
fuzz: $(BIN) $(FUZZ)
	@$(TESTRUN) fuzz:$(MODE)
e2e: $(BIN) guests
	@$(TESTRUN) e2e:$(MODE)
lint: $(DEPS)
	@$(TESTRUN) lint

# The guests that the tests boot. Without a network the tests that need one are skipped and say so.
guests: $(DEPS)
	@tools/fetch-kernels || true
	@guest/debian/build >/dev/null || true

MODES := rel asan
check check-nightly: $(DEPS) guests
	@for m in $(MODES); do $(MAKE) --no-print-directory MODE=$$m tests || exit 1; done
	@$(TESTRUN) $(if $(filter %-nightly,$@),--nightly) lint $(MODES:%=unit:%) $(MODES:%=fuzz:%) insn:rel \
		e2e:rel e2e:asan

bench: $(BIN)
	@tools/deps bench || true
	@bench/run $(ARGS)

# --- the rest

FMTSRC := $(wildcard src/*/*.[ch] src/*/*/*.[ch] tests/*/*.[ch] bench/*.[ch] bench/*/*.[ch])
fmt:
	clang-format-14 -i $(FMTSRC)

SHARE := $(DESTDIR)$(PREFIX)/share
install: $(BIN)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/gazda
	install -D -m 644 docs/gazda.1 $(SHARE)/man/man1/gazda.1
	install -D -m 644 tools/gazda.bash $(SHARE)/bash-completion/completions/gazda
	for f in build init pack; do install -D -m 755 guest/appliance/$$f $(SHARE)/gazda/guest/appliance/$$f; done
	install -D -m 644 guest/appliance/modules.txt $(SHARE)/gazda/guest/appliance/modules.txt
	for f in debget kmods mkcpio extract-vmlinux; do install -D -m 755 tools/$$f $(SHARE)/gazda/tools/$$f; done

clean:
	rm -rf $(filter-out $(OUT)/cache,$(wildcard $(OUT)/* $(OUT)/.deps))

.SECONDARY:
-include $(SRC:%.c=$(OBJ)/%.d) $(patsubst %.c,$(OBJ)/%.d,$(wildcard tests/unit/*.c tests/insn/*.c tests/fuzz/*.c))
