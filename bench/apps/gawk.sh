exec gawk -f gawk.awk text.txt
