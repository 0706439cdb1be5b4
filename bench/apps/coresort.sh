set -e
tr ' ' '\n' <text.txt | sort | uniq -c | sort -k1,1nr -k2 | head -n 40
head -n 20000 numbers.txt | sort -n | cksum
sort -u -t, -k2 numbers.txt | tail -n 3
