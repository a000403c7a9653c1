"""The isolated process: secret keys and the audit log's pen."""
