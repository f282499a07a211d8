"""`python -m mi_probe` is the command mi-probe, for engines that start modules: `torchrun --nproc-per-node 2 -m mi_probe`."""

from mi_probe.cli import main

if __name__ == "__main__":
    main()
