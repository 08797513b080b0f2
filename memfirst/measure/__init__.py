"""Everything that times something: models here, this machine, a server (`probe`), advice (`verify`)."""
