set -e
openssl enc -aes-256-cbc -pbkdf2 -iter 400000 -S 0102030405060708 -pass pass:gazda -in text.txt | openssl dgst -sha512 -r
openssl enc -chacha20 -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 00112233445566778899aabbccddeeff \
    -in text.txt | openssl dgst -sha3-256 -r
openssl prime 2074722246773485207821695222107608587480996474721117292752992589912196684750549658310084416732550077
openssl dgst -blake2b512 -r text.txt
