"""The store as one SQLite file a group and host, shared by the group's processes there."""
