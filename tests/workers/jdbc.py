"""The Hive JDBC driver through JayDeBeApi: statements in, answers out, in JSON, a line each."""

import json
import sys
import warnings
from pathlib import Path

import jaydebeapi
import pyspark

warnings.simplefilter("ignore")  # it has no names for arrays, maps and structs, which come as text


def answer(cursor, sql):
    said = {"columns": [], "types": [], "rows": [], "error": None}
    try:
        cursor.execute(sql)
    except jaydebeapi.DatabaseError as e:
        said["error"] = str(e)
        return said
    found = cursor._meta
    if found is not None:
        places = range(1, found.getColumnCount() + 1)
        said["columns"] = [str(found.getColumnName(place)) for place in places]
        said["types"] = [str(found.getColumnTypeName(place)) for place in places]
        said["rows"] = cursor.fetchall()
    return said


jars = [str(jar) for jar in (Path(pyspark.__file__).parent / "jars").glob("*.jar")]
connection = jaydebeapi.connect("org.apache.hive.jdbc.HiveDriver", sys.argv[1], ["tester", ""], jars)
for line in sys.stdin:
    print(json.dumps(answer(connection.cursor(), json.loads(line))), flush=True)
connection.close()
