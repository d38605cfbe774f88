"""`python -m trafficlight`: the same as the command `trafficlight`."""

from trafficlight.cli.main import main

if __name__ == "__main__":
    main()
