set -e
head -c 3000000 text.txt | gzip -9 -n >/tmp/gzip.gz
gzip -d </tmp/gzip.gz | cksum
gzip -d </tmp/gzip.gz | gzip -1 -n | cksum
cksum </tmp/gzip.gz
rm /tmp/gzip.gz
