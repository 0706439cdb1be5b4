echo 'scale=1000; 4*a(1); scale=300; e(1); sqrt(2); s=0; for(i=1;i<4000;i++) s+=1/i; s; 7^3000%1000000007' | BC_LINE_LENGTH=0 bc -l
