"""`python -m agentproxy.admin`: the command line where no script is installed."""

from agentproxy.admin.cli import main

main()
