"""What alembic runs; `agentproxy.oracle.schema.upgrade` passes the connection, inside its own transaction."""

from alembic import context

from agentproxy.oracle.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
