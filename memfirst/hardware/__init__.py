"""What a machine has: this host, and the catalogue of machines. Imports errors and formats."""
