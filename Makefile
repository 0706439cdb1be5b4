# gazda: one non-recursive Makefile.  make | make run | make check | make bench | make MODE=rel|dbg|asan|ubsan|tsan
MODE ?= rel
OUT := out
BIN := $(if $(filter rel,$(MODE)),$(OUT)/gazda,$(OUT)/$(MODE)/gazda)
OBJ := $(OUT)/obj/$(MODE)

CC := gcc
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wframe-larger-than=2048 -Werror
CFLAGS_rel := -O2 -g
CFLAGS_dbg := -O0 -g3 -DGAZDA_DEBUG
CFLAGS_asan := -O1 -g -fsanitize=address -fno-omit-frame-pointer -DGAZDA_DEBUG
CFLAGS_ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined -DGAZDA_DEBUG
CFLAGS_tsan := -O1 -g -fsanitize=thread -DGAZDA_DEBUG
CFLAGS := -std=gnu17 -D_GNU_SOURCE -Isrc $(WARN) $(CFLAGS_$(MODE)) -fno-strict-aliasing -pthread
LDLIBS := -lZydis -luv -ljansson -lz -llzma -lzstd -llz4 -lpthread

SRC := $(wildcard src/*/*.c src/*/*/*.c)
LIBSRC := $(filter-out src/cli/main.c,$(SRC))
LIBOBJ := $(LIBSRC:%.c=$(OBJ)/%.o)
LIB := $(OBJ)/libgazda.a
UNIT := $(patsubst tests/unit/%.c,$(OUT)/$(MODE)/tests/%,$(wildcard tests/unit/test_*.c))

.PHONY: all clean unit
all: $(BIN)

$(BIN): $(OBJ)/src/cli/main.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(LIBOBJ)
	@rm -f $@
	ar rcs $@ $^

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

unit: $(UNIT)
$(OUT)/$(MODE)/tests/%: $(OBJ)/tests/unit/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

clean:
	rm -rf $(OUT)

.SECONDARY:
-include $(SRC:%.c=$(OBJ)/%.d)
