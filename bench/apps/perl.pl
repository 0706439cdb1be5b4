# SPDX-License-Identifier: MIT
# Regular expressions, hashes, sorting, sprintf and arithmetic.
use strict;
use warnings;

open(my $f, "<", "text.txt") or die "text.txt: $!";
read($f, my $text, 2500000);
my %count;
$count{lc $1}++ while $text =~ /(\w+)/g;
my @top = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print join(" ", map { "$_=$count{$_}" } @top[0 .. 19]), "\n";
my $n = 0;
for my $line (split /\n/, substr($text, 0, 900000)) {
    $n++ if $line =~ /\b(\w)\w*\1\b.*[.,]/;
    $line =~ s/([aeiou])(\w)/$2$1/g;
    $n += length($line) if $line =~ tr/a-m/A-M/ > 20;
}
print "$n\n";
my ($x, $sum) = (1, 0);
my @list;
for (1 .. 100000) {
    $x = ($x * 16807) % 2147483647;
    push @list, sprintf("%08x", $x) if $_ % 4 == 0;
    $sum += $x & 255;
}
print "$sum ", join("", (sort @list)[0 .. 9]), "\n";
