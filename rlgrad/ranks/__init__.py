"""One run over several processes, which torchrun starts: see docs/distributed.md."""
