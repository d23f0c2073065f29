"""The throttle: what the database and the operator say against more work, read by one and looked at by all. Floor 1."""
