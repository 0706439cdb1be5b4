exec python3.11 -I -S python.py
