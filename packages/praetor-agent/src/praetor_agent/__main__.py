"""`python -m praetor_agent`."""

from praetor_agent.cli import main

if __name__ == "__main__":
    main()
