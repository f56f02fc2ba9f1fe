"""Programs that use dlsql on real data."""
