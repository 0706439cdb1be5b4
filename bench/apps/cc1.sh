exec /usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -nostdinc -O2 -o - cc1.c
