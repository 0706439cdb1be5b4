set -e
head -c 600000 text.txt | xz -T1 -6 >/tmp/xz.xz
for i in 1 2 3; do xz -T1 -d </tmp/xz.xz | cksum; done
cksum </tmp/xz.xz
rm /tmp/xz.xz
