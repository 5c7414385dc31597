"""Charts (altair): functions from frames to charts. No file is read here."""
