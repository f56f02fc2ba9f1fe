"""What runs on executors, inside Spark's Python workers: light to import, and knowing nothing of dlsql, pyspark or sqlglot."""

MARKER = "dlsql.udfs"  # `attach` looks for this, since a user's own udfs.py on the path would shadow the package
