exec perl perl.pl
