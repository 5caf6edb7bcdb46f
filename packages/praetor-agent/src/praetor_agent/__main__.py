# SPDX-License-Identifier: Apache-2.0
"""`python -m praetor_agent`."""

from praetor_agent.cli import main

if __name__ == "__main__":
    main()
