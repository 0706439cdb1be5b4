# SPDX-License-Identifier: MIT
# Arithmetic, functions, case, parameter expansion and subshells of the shell itself.
collatz() {
    n=$1 steps=0
    while [ "$n" -ne 1 ]; do
        if [ $((n & 1)) -eq 0 ]; then n=$((n / 2)); else n=$((3 * n + 1)); fi
        steps=$((steps + 1))
    done
}
i=1 total=0
while [ $i -le 700 ]; do
    collatz $i
    total=$((total + steps))
    i=$((i + 1))
done
echo $total
path=/usr/lib/x86_64-linux-gnu/gcc/12.2.0/include/stddef.h count=0
i=0
while [ $i -lt 6000 ]; do
    p=$path
    while [ -n "$p" ]; do
        case ${p##*/} in
        *.h) count=$((count + 3)) ;;
        lib | usr) count=$((count + 1)) ;;
        [0-9]*) count=$((count + 5)) ;;
        esac
        p=${p%/*}
    done
    i=$((i + 1))
done
echo $count
i=0
while [ $i -lt 60 ]; do
    x=$(echo $((i * i)) $i)
    set -- $x
    count=$((count + $1 - $2))
    i=$((i + 1))
done
echo $count
