"""One process for one program on one target: loads, attaches, reads its maps, writes its metric files."""
