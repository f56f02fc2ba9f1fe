"""`dlsql sql --remote URL -e`, once for each statement: statements in, answers out, in JSON, a line each."""

import contextlib
import io
import json
import sys

from dlsql.cli import main

for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["sql", "--remote", sys.argv[1], "--format", "json", "-e", json.loads(line)])
    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    said = {"columns": list(rows[0]) if rows else [], "types": [], "rows": [list(row.values()) for row in rows]}
    print(json.dumps({**said, "error": err.getvalue() if code else None}), flush=True)
