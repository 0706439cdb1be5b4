# SPDX-License-Identifier: MIT
# Fields, associative arrays, string functions and regular expressions over the first lines of the text.
NR > 45000 { exit }
{
    for (i = 1; i <= NF; i++)
        count[$i]++
    if ($0 ~ /(an|er)[a-z]* .*[.,]$/)
        matched++
    if (match($0, /[aeiou][a-z]+[aeiou]/))
        long += RLENGTH
    total += length($0)
    gsub(/[aeiou]/, "")
    short += length($0)
}
END {
    n = asorti(count, names)
    for (i = 1; i <= n; i += 200)
        printf("%s=%d ", names[i], count[names[i]])
    printf("\n%d %d %d %d %.4f\n", matched, long, total, short, sin(total) * exp(1) + sqrt(short))
}
