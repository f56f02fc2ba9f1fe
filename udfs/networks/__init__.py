"""Torch modules, one family a file. Each is built from its spec alone, so that every worker builds the same one."""
